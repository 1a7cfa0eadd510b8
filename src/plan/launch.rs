//! What it takes to start one unit, and how two such descriptions differ.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::Sha256;

use crate::base::ports::places_overlap;
use crate::manifest::Files;
use crate::manifest::fields::{FieldClass, changed_fields, of_process};
use crate::manifest::resolve::EnvVar;
use crate::manifest::spec::ServiceSpec;
use crate::manifest::spec::probe::Probe;
use crate::manifest::spec::service::Port;
use crate::unit::ProbeKind;

use super::Drift;

/// Everything that a start needs, as resolved values. Opaque to the decisions but for [`Launch::drift_to`].
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// The process, with every default filled in; of a Job or External too.
    pub service: Arc<ServiceSpec>,
    /// Canonical JSON of the spec as written (overlays and `System.defaults` merged, built-in defaults not).
    pub written: Arc<str>,
    /// Relative paths count from here.
    pub base_dir: PathBuf,
    pub argv: Vec<String>,
    /// Shared where units have the same value from the same place: most of an environment is inherited.
    pub env: Vec<Arc<EnvVar>>,
    /// Keyed digests of the declared variables and of argv: what is compared, without the values.
    pub marks: Vec<ValueMark>,
    /// Its readiness or startup is told by a line in its log.
    pub awaits_log: bool,
    /// It is what a process was started with, read again after that, and not all of its values are known any more: what runs
    /// goes on, and nothing is started from it.
    pub lost: bool,
}

/// A port that two versions, or two units, cannot have at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clash {
    pub port: u16,
    /// Both are handed it (`listen: true`), at addresses that overlap.
    pub held: bool,
}

impl std::fmt::Display for Clash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "port {}", self.port)
    }
}

/// Name and keyed digest of a resolved value (architecture §8: digests of secrets are keyed, never bare).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValueMark {
    pub name: String,
    pub digest: u64,
}

/// The name under which argv is marked.
const ARGV: &str = "command";
/// What the marks of file contents begin with; no variable's name has a colon.
const RELOAD_ON: &str = "reloadOn:";
const RESTART_ON: &str = "restartOn:";

/// Marks of the files whose content is part of a spec. One that cannot be read has none: it changes nothing until it can.
pub fn file_marks(
    service: &ServiceSpec,
    base_dir: &Path,
    files: &dyn Files,
) -> (Vec<ValueMark>, Vec<PathBuf>) {
    let mut marks = Vec::new();
    let mut paths = Vec::new();
    for (prefix, path) in watched(service) {
        let full = base_dir.join(path);
        if let Ok(digest) = files.digest(&full) {
            marks.push(ValueMark { name: format!("{prefix}{path}"), digest });
        }
        paths.push(full);
    }
    (marks, paths)
}

/// The files whose content is part of a spec, with what their marks begin with.
fn watched(service: &ServiceSpec) -> impl Iterator<Item = (&'static str, &String)> {
    let reload = service.reload_on.iter().map(|path| (RELOAD_ON, path));
    reload.chain(service.restart_on.iter().map(|path| (RESTART_ON, path)))
}

/// Marks of what was declared; what is merely inherited from unisys' own environment is no part of a spec.
pub fn marks(env: &[EnvVar], argv: &[String], key: &[u8]) -> Vec<ValueMark> {
    let declared = env.iter().filter(|var| var.origin.layer != "inheritEnv");
    let values = declared.map(|var| (var.name.clone(), var.value.clone()));
    values
        .chain([(ARGV.to_owned(), argv.join("\0"))])
        .map(|(name, value)| {
            let digest = keyed_digest(key, &name, &value);
            ValueMark { name, digest }
        })
        .collect()
}

/// The marks of declared variables that these are not the values of, or that have none here.
pub fn unmatched<'a>(
    marks: &'a [ValueMark],
    env: &'a [Arc<EnvVar>],
    key: &'a [u8],
) -> impl Iterator<Item = &'a ValueMark> {
    let is_variable = |mark: &&ValueMark| mark.name != ARGV && !mark.name.contains(':');
    let matches = move |mark: &ValueMark| {
        let value = env.iter().find(|var| var.name == mark.name).map(|var| &var.value);
        value.is_some_and(|value| keyed_digest(key, &mark.name, value) == mark.digest)
    };
    marks.iter().filter(is_variable).filter(move |mark| !matches(mark))
}

/// HMAC-SHA-256 (RFC 2104), its first 64 bits.
fn keyed_digest(key: &[u8], name: &str, value: &str) -> u64 {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return 0 };
    mac.update(name.as_bytes());
    mac.update(b"=");
    mac.update(value.as_bytes());
    let bytes = mac.finalize().into_bytes();
    bytes.iter().take(8).fold(0, |sum, byte| (sum << 8) | u64::from(*byte))
}

fn hashed<'a>(text: &[u8], marks: impl Iterator<Item = &'a ValueMark>) -> String {
    use sha2::Digest;
    let mut hasher = Sha256::new();
    hasher.update(text);
    for mark in marks {
        hasher.update(mark.name.as_bytes());
        hasher.update(mark.digest.to_le_bytes());
    }
    let mut first = [0; 16];
    first.copy_from_slice(&hasher.finalize()[..16]);
    format!("{:032x}", u128::from_be_bytes(first))
}

impl Launch {
    /// A launch of nothing but argv, for simulations and tests.
    pub fn of_argv(argv: &[&str]) -> Self {
        let service: ServiceSpec =
            serde_json::from_value(serde_json::json!({"command": argv})).expect("a command is a whole spec");
        let argv: Vec<String> = argv.iter().map(|&word| word.to_owned()).collect();
        Self {
            service: Arc::new(service),
            written: serde_json::json!({"command": argv}).to_string().into(),
            base_dir: PathBuf::from("/"),
            marks: marks(&[], &argv, b"test"),
            argv,
            env: Vec::new(),
            awaits_log: false,
            lost: false,
        }
    }

    /// Identity of what was written and resolved, for checkpoints.
    pub fn digest(&self) -> String {
        hashed(self.written.as_bytes(), self.marks.iter())
    }

    /// Identity of the program alone: of what was written and resolved, as far as it takes a new process to change it.
    pub fn program(&self) -> String {
        let marks: Vec<&ValueMark> =
            self.marks.iter().filter(|mark| !mark.name.starts_with("reloadOn:")).collect();
        hashed(of_process(&parse(&self.written)).to_string().as_bytes(), marks.into_iter())
    }

    /// The probe of a kind, if there is one.
    pub fn probe(&self, kind: ProbeKind) -> Option<&Probe> {
        match kind {
            ProbeKind::Startup => self.service.probes.startup.as_deref(),
            ProbeKind::Readiness => self.service.probes.readiness.as_deref(),
            ProbeKind::Liveness => self.service.probes.liveness.as_deref(),
        }
    }

    /// The same file in the same place, as both see it, after the same hooks.
    pub fn executes_the_same(&self, other: &Self) -> bool {
        let path =
            |launch: &Self| launch.env.iter().find(|var| var.name == "PATH").map(|var| var.value.clone());
        self.argv.first() == other.argv.first()
            && self.base_dir == other.base_dir
            && self.service.working_dir == other.service.working_dir
            && self.service.security == other.service.security
            && self.service.hooks.pre_start == other.service.hooks.pre_start
            && path(self) == path(other)
    }

    /// Of variables that tell a program whom it runs as, those that the manifest does not set itself. They are no part of the spec:
    /// what is merely inherited gives way to them when a process is started, and is no difference.
    pub fn of_user(&self, variables: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
        let declared = |name: &str| self.marks.iter().any(|mark| mark.name == name);
        let given = variables.iter().filter(|(name, _)| !declared(name));
        given.map(|(name, value)| (*name, (*value).to_owned())).collect()
    }

    /// The environment of its processes, as a user of whom these are told.
    pub fn environment(&self, variables: &[(&'static str, &str)]) -> Vec<(String, String)> {
        let of_user = self.of_user(variables);
        let own = self.env.iter().filter(|var| !of_user.iter().any(|(name, _)| *name == var.name));
        let own = own.map(|var| (var.name.clone(), var.value.clone()));
        own.chain(of_user.iter().map(|(name, value)| ((*name).to_owned(), value.clone()))).collect()
    }

    /// The variables whose values nobody may read.
    pub fn secrets(&self) -> impl Iterator<Item = &EnvVar> {
        self.env.iter().map(Arc::as_ref).filter(|var| var.secret)
    }

    /// The fields that differ, by what it takes to make them equal.
    pub fn drift_to(&self, desired: &Self) -> Drift {
        let same_values = self.marks == desired.marks;
        if self.written == desired.written && same_values {
            return Drift::None;
        }
        let mut in_place = Vec::new();
        let mut reload = Vec::new();
        let mut replace = Vec::new();
        if self.written != desired.written {
            let old = (parse(&self.written), effective(&self.service));
            let new = (parse(&desired.written), effective(&desired.service));
            for change in changed_fields((&old.0, &old.1), (&new.0, &new.1)) {
                match change.class {
                    FieldClass::Replace => replace.push(change.path),
                    FieldClass::InPlace => in_place.push(change.path),
                    FieldClass::Reload => reload.push(change.path),
                }
            }
        }
        if !same_values {
            let gentle = desired.service.reload.is_some();
            for path in self.changed_values(desired, &replace) {
                let reloads = gentle && path.starts_with("spec.reloadOn");
                if reloads { reload.push(path) } else { replace.push(path) }
            }
        }
        match (replace.is_empty(), reload.is_empty(), in_place.is_empty()) {
            (false, ..) => Drift::Replace(replace),
            (true, false, _) => {
                reload.append(&mut in_place);
                Drift::Reload(reload)
            }
            (true, true, false) => Drift::InPlace(in_place),
            (true, true, true) => Drift::None,
        }
    }

    /// Marks of files that are gone for the moment, of a version that is the same otherwise: what comes back as it was is no change.
    pub fn lost_marks(&self, former: &Self) -> Vec<ValueMark> {
        let names = watched(&self.service).map(|(prefix, path)| format!("{prefix}{path}"));
        let names: Vec<String> = names.collect();
        if names.is_empty() {
            return Vec::new();
        }
        let lost = |mark: &&ValueMark| {
            names.contains(&mark.name) && self.marks.iter().all(|known| known.name != mark.name)
        };
        former.marks.iter().filter(lost).cloned().collect()
    }

    /// What this and another version would both claim, so that they cannot run beside each other: a port that the program
    /// binds itself, or one that is held at another address.
    pub fn clash_with(&self, other: &Self) -> Option<Clash> {
        if other.service.update.overlap {
            return None;
        }
        let clash = |own: &Port, their: &Port| {
            let places = own.place().zip(their.place());
            // A listener that stays as it is serves both.
            let handed = own.listen && their.listen && own.address == their.address;
            own.protocol == their.protocol && !handed && places.is_some_and(|(a, b)| places_overlap(&a, &b))
        };
        self.service.ports.iter().find_map(|own| {
            let their = other.service.ports.iter().find(|their| clash(own, their))?;
            let (_, port) = own.place()?;
            Some(Clash { port, held: own.listen && their.listen })
        })
    }

    /// What this version had of values and of contents of files, and has not where it is built anew: they are kept with no revision.
    pub fn lost(&self, anew: &Self) -> Lost {
        let lost = self.changed_values(anew, &[]);
        let (files, values) = lost.into_iter().partition(|path| is_of_file(path));
        Lost { files, values }
    }

    /// It differs from another version by nothing but contents of files.
    pub fn differs_by_files(&self, other: &Self) -> bool {
        match self.drift_to(other) {
            Drift::Replace(fields) | Drift::Reload(fields) => fields.iter().all(|path| is_of_file(path)),
            Drift::None | Drift::InPlace(_) => false,
        }
    }

    /// Values that differ though their field may be as it was written before: a changed `.env`.
    fn changed_values(&self, desired: &Self, named: &[String]) -> Vec<String> {
        let find = |marks: &[ValueMark], name: &str| {
            marks.iter().find(|mark| mark.name == name).map(|mark| mark.digest)
        };
        let mut names: Vec<&str> =
            self.marks.iter().chain(&desired.marks).map(|mark| mark.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        // A file that is gone is no reason to do anything: it may be in the middle of being replaced.
        let gone = |name: &str| name.contains(':') && find(&desired.marks, name).is_none();
        let changed = names
            .into_iter()
            .filter(|name| find(&self.marks, name) != find(&desired.marks, name) && !gone(name));
        let path = |name: &str| match name.split_once(':') {
            Some((list, file)) => format!("spec.{list} ({file})"),
            None if name == ARGV => "spec.command".to_owned(),
            None => format!("spec.env.{name}"),
        };
        changed.map(path).filter(|path| !named.iter().any(|known| known == path)).collect()
    }
}

/// Fields whose values differ from what they were.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// `spec.restartOn (program)`.
    pub files: Vec<String>,
    /// `spec.env.NAME`.
    pub values: Vec<String>,
}

impl Lost {
    /// The files alone, as the manifest names them.
    pub fn file_names(&self) -> Vec<&str> {
        self.files.iter().filter_map(|path| path.split_once(" (")?.1.strip_suffix(')')).collect()
    }
}

/// As [`Launch::changed_values`] writes it.
fn is_of_file(path: &str) -> bool {
    ["spec.reloadOn (", "spec.restartOn ("].iter().any(|field| path.starts_with(field))
}

fn parse(written: &str) -> Value {
    serde_json::from_str(written).unwrap_or(Value::Null)
}

/// The spec with every default filled in, as a value.
pub fn effective(spec: &ServiceSpec) -> Value {
    serde_json::to_value(spec).unwrap_or(Value::Null)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::resolve::Origin;

    #[test]
    fn whom_a_program_runs_as_takes_the_place_of_what_is_inherited_and_of_nothing_else() {
        let var = |name: &str, layer: &str| {
            let origin = Origin { layer: layer.into(), ..Origin::default() };
            EnvVar { name: name.into(), value: layer.into(), secret: false, origin, shadowed: Vec::new() }
        };
        let env = [var("HOME", "inheritEnv"), var("PATH", "inheritEnv"), var("USER", "env")];
        let launch = Launch::of_argv(&["x"]);
        let marks = marks(&env, &launch.argv, b"key");
        let launch = Launch { marks, env: env.into_iter().map(Arc::new).collect(), ..launch };
        let digest = launch.digest();
        let told = launch.environment(&[("HOME", "/home/www"), ("USER", "www"), ("LOGNAME", "www")]);
        let told: Vec<(&str, &str)> = told.iter().map(|(name, value)| (&**name, &**value)).collect();
        let expected = [("PATH", "inheritEnv"), ("USER", "env"), ("HOME", "/home/www"), ("LOGNAME", "www")];
        assert_eq!(told, expected);
        assert_eq!(launch.digest(), digest);
        assert_eq!(launch.environment(&[]).len(), 3, "as unisys itself: as it was");
    }
}

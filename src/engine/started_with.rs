//! What an instance was started with, as the keeper holds it for the next daemon: enough to compare it with what is wanted,
//! field by field, and to stop it properly. No values: only their keyed digests.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::base::ports::Place;
use crate::base::{InstanceId, Name, ObjectKind, ObjectRef};
use crate::manifest::Objects;
use crate::manifest::resolve::{EnvVar, Origin};
use crate::manifest::spec::service::Port;
use crate::manifest::spec::{JobSpec, ServiceSpec};
use crate::plan::UnitSpec;
use crate::plan::build::{job_policy, service_policy};
use crate::plan::launch::{Launch, ValueMark, unmatched};

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StartedWith {
    kind: ObjectKind,
    set: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
    base_dir: PathBuf,
    /// The spec as written.
    written: String,
    marks: Vec<ValueMark>,
    /// The variables that hold secrets. Those before it did not say: any that were declared may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secrets: Option<Vec<String>>,
    /// The command with everything in it replaced but the numbers of `auto` ports, where that is not as it is written; no secret
    /// may be in it (E1506).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    argv: Vec<String>,
    /// Variables with the number of an `auto` port in them, as they are before it is known.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    numbered: BTreeMap<String, String>,
}

impl StartedWith {
    pub fn encode(spec: &UnitSpec) -> String {
        let started = Self {
            kind: spec.object.kind,
            set: spec.set.to_string(),
            labels: spec.labels.clone(),
            base_dir: spec.launch.base_dir.clone(),
            written: spec.launch.written.to_string(),
            marks: spec.launch.marks.clone(),
            secrets: Some(spec.launch.secrets().map(|var| var.name.clone()).collect()),
            argv: match spec.launch.argv == spec.launch.service.command {
                true => Vec::new(),
                false => spec.launch.argv.clone(),
            },
            numbered: spec
                .launch
                .env
                .iter()
                .filter(|var| !var.secret && var.value.contains('\0'))
                .map(|var| (var.name.clone(), var.value.clone()))
                .collect(),
        };
        serde_json::to_string(&started).unwrap_or_default()
    }

    /// Secrets that it was started with are not in `spec`, as it was decoded: nobody knows their values any more.
    pub fn lost_secrets(text: &str, spec: &UnitSpec) -> bool {
        let started = serde_json::from_str::<Self>(text).ok();
        let names = started.and_then(|started| started.secrets).unwrap_or_default();
        names.iter().any(|name| !spec.launch.env.iter().any(|var| var.name == *name))
    }

    /// Where it listens at fixed ports, by its spec as written.
    pub fn places(text: &str) -> Vec<Place> {
        // Most declare none, and need not be read for that.
        let started = Some(text).filter(|text| text.contains("ports"));
        let started = started.and_then(|text| serde_json::from_str::<Self>(text).ok());
        let service = started.and_then(|started| serde_json::from_str::<ServiceSpec>(&started.written).ok());
        let ports = service.map(|service| service.ports).unwrap_or_default();
        ports.iter().filter_map(Port::place).collect()
    }

    /// The spec again: one of those that are `known`, which are shared, or else what can be read of the process (`environ`). That
    /// may be nothing, where the process has ended, or has written over its environment: such a spec is [`Launch::lost`].
    pub fn decode<'a>(
        text: &str,
        name: &Name,
        mut known: impl Iterator<Item = &'a Arc<UnitSpec>>,
        objects: &Objects,
        environ: impl Fn() -> Vec<(String, String)>,
        key: &[u8],
    ) -> Option<Arc<UnitSpec>> {
        let started: Self = serde_json::from_str(text).ok()?;
        let is_this = |spec: &&Arc<UnitSpec>| {
            *spec.launch.written == *started.written
                && spec.launch.marks == started.marks
                && spec.object.kind == started.kind
        };
        if let Some(same) = known.find(is_this) {
            return Some(same.clone());
        }
        let (service, policy) = match started.kind {
            ObjectKind::Job => {
                let job: JobSpec = serde_json::from_str(&started.written).ok()?;
                let service = job.process();
                let policy = job_policy(&job, &service, objects);
                (service, policy)
            }
            _ => {
                let service: ServiceSpec = serde_json::from_str(&started.written).ok()?;
                let policy = service_policy(&service, objects);
                (service, policy)
            }
        };
        let is_secret = |name: &String| match &started.secrets {
            Some(secrets) => secrets.contains(name),
            None => started.marks.iter().any(|mark| mark.name == *name),
        };
        // The next instance has numbers of its own.
        let is_number = |name: &str| {
            (name == "PORT" || name.starts_with("PORT_"))
                && !started.marks.iter().any(|mark| mark.name == name)
                && !service.inherit_env.iter().any(|inherited| inherited == name)
        };
        let environ = environ();
        // What is inherited has no mark: the one that every process of ours is given stands for it.
        let readable = environ.iter().any(|(name, _)| name == InstanceId::MARKER);
        let own: Vec<_> = environ.into_iter().filter(|(name, _)| !is_number(name)).collect();
        let env = own.into_iter().map(|(name, value)| EnvVar {
            secret: is_secret(&name),
            value: started.numbered.get(&name).cloned().unwrap_or(value),
            name,
            origin: Origin::default(),
            shadowed: Vec::new(),
        });
        let env: Vec<_> = env.map(Arc::new).collect();
        let lost = !readable || unmatched(&started.marks, &env, key).next().is_some();
        let launch = Launch {
            argv: if started.argv.is_empty() { service.command.clone() } else { started.argv.clone() },
            service: Arc::new(service),
            written: started.written.into(),
            base_dir: started.base_dir,
            env,
            marks: started.marks,
            awaits_log: false,
            lost,
        };
        Some(Arc::new(UnitSpec {
            object: ObjectRef { kind: started.kind, name: name.clone() },
            set: started.set.into(),
            labels: started.labels,
            policy: policy.into(),
            launch: Arc::new(launch),
            machine: lost.then(|| LOST.to_owned()),
            unenforced: None,
            switched_off: None,
        }))
    }
}

/// Why nothing is started from a spec that is [`Launch::lost`].
const LOST: &str = "not all of the environment that it had is known any more; `unisys apply` its manifest";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::launch::marks;

    fn var(name: &str, layer: &str, secret: bool) -> EnvVar {
        let origin = Origin { layer: layer.into(), ..Origin::default() };
        EnvVar { name: name.into(), value: format!("value-of-{name}"), secret, origin, shadowed: Vec::new() }
    }

    fn unit(env: &[EnvVar]) -> UnitSpec {
        let launch = Launch::of_argv(&["program"]);
        let launch = Launch {
            marks: marks(env, &launch.argv, b"key"),
            env: env.iter().cloned().map(Arc::new).collect(),
            ..launch
        };
        UnitSpec {
            object: ObjectRef { kind: ObjectKind::Service, name: "a".parse().unwrap() },
            set: "test".into(),
            labels: BTreeMap::new(),
            policy: service_policy(&launch.service, &Objects::default()).into(),
            launch: Arc::new(launch),
            machine: None,
            unenforced: None,
            switched_off: None,
        }
    }

    fn marker() -> (String, String) {
        (InstanceId::MARKER.into(), "me/a.0.1".into())
    }

    fn environ(env: &[EnvVar]) -> Vec<(String, String)> {
        env.iter().map(|var| (var.name.clone(), var.value.clone())).chain([marker()]).collect()
    }

    /// With nothing known but the process.
    fn read(text: &str, environ: &[(String, String)]) -> Arc<UnitSpec> {
        let (name, known) = ("a".parse().unwrap(), std::iter::empty());
        StartedWith::decode(text, &name, known, &Objects::default(), || environ.to_vec(), b"key").unwrap()
    }

    #[test]
    fn nothing_is_started_from_what_is_not_known_to_be_all_of_it() {
        let env = [var("PATH", "inheritEnv", false), var("LEVEL", "env", false)];
        let spec = Arc::new(unit(&env));
        let text = StartedWith::encode(&spec);
        let whole = read(&text, &environ(&env));
        assert!(!whole.launch.lost && whole.machine.is_none());
        let other = [EnvVar { value: "another".into(), ..env[1].clone() }];
        for (what, environ) in [
            ("it has ended", Vec::new()),
            ("a program that writes its title there", vec![("nginx: master".into(), String::new())]),
            ("one variable is left", environ(&env[..1])),
            ("one is another", environ(&other)),
        ] {
            let found = read(&text, &environ);
            assert!(found.launch.lost && found.machine.is_some(), "{what}");
            let (name, objects) = ("a".parse().unwrap(), Objects::default());
            let known =
                StartedWith::decode(&text, &name, [&spec].into_iter(), &objects, || environ.clone(), b"");
            assert!(Arc::ptr_eq(&known.unwrap(), &spec), "{what}, and it is known what it was");
        }
    }

    #[test]
    fn what_is_not_wanted_any_more_starts_again_as_it_first_did() {
        let port = crate::base::ports::stand_in("PORT");
        let url = EnvVar { value: format!("http://x:{port}"), ..var("URL", "env", false) };
        let mut unit = unit(std::slice::from_ref(&url));
        let launch = Arc::make_mut(&mut unit.launch);
        launch.argv = vec!["serve".into(), "hello".into(), format!("--port={port}")];
        let argv = launch.argv.clone();
        let text = StartedWith::encode(&unit);
        // As /proc has it.
        let pairs = [("URL", "http://x:1234"), ("PORT", "1234"), ("PORT_HTTP", "1234"), ("PATH", "/bin")];
        let environ = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter();
        let found = read(&text, &environ.chain([marker()]).collect::<Vec<_>>());
        let env: Vec<(&str, &str)> =
            found.launch.env.iter().map(|var| (var.name.as_str(), var.value.as_str())).collect();
        assert_eq!(env, [("URL", url.value.as_str()), ("PATH", "/bin"), (InstanceId::MARKER, "me/a.0.1")]);
        assert_eq!(found.launch.argv, argv);
    }

    #[test]
    fn which_variables_are_secret_is_known_of_what_is_not_wanted_any_more() {
        let env =
            [var("PATH", "inheritEnv", false), var("LEVEL", "env", false), var("TOKEN", "data.token", true)];
        let text = StartedWith::encode(&unit(&env));
        assert!(!text.contains("value-of"), "no value is in it: {text}");
        let secrets = |text: &str| -> Vec<String> {
            let found = read(text, &environ(&env));
            found.launch.secrets().map(|var| var.name.clone()).collect()
        };
        assert_eq!(secrets(&text), ["TOKEN"]);
        assert!(!StartedWith::lost_secrets(&text, &unit(&env)));
        assert!(StartedWith::lost_secrets(&text, &unit(&env[..2])), "the environment of one that is gone");
        // Written before that was said: whatever was declared may be one.
        let mut old: serde_json::Value = serde_json::from_str(&text).unwrap();
        old.as_object_mut().unwrap().remove("secrets");
        assert_eq!(secrets(&old.to_string()), ["LEVEL", "TOKEN"]);
    }
}

//! The sets of manifests: read as snapshots, joined, accepted or kept waiting.

mod looking;
mod proposing;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::base::ports::Place;
use crate::base::{Name, ObjectKind, ObjectRef, Revision, limits};
use crate::manifest::diagnostic::nearest;
use crate::manifest::resolve::{self, Context, Origin};
use crate::manifest::spec::ServiceSpec;
use crate::manifest::{Diagnostic, LoadInput, Object, Objects};
use crate::os::files::Disk;
use crate::os::snapshot::{Known, snapshot_knowing};
use crate::os::watch::Interest;
use crate::plan::Desired;
use crate::plan::notifier::NotifierPlan;
use crate::store::{Restored, StoredSet};

use super::Options;
use super::owning::{self, Moved};
use super::set::{Candidate, Set, input_of, set_name_among};

pub use super::set::set_name;
pub use proposing::{Proposal, Removal};

pub struct Sets {
    pub(super) sets: Vec<Set>,
    pub(super) objects: Objects,
    notifiers: Vec<NotifierPlan>,
    /// Files that values came from, each with when it had last been written then.
    referenced: Vec<(PathBuf, Option<SystemTime>)>,
    /// The same of what was rejected, if that is what is on the disk: they may be what is mended.
    awaited: Vec<PathBuf>,
    environment: BTreeMap<String, String>,
    options: Options,
    key: Vec<u8>,
    state_id: String,
    /// It holds listeners for services; `None` where none is there.
    keeper: Option<u32>,
    revision: Revision,
    desired: Arc<Desired>,
    /// Objects whose owner is another since it was last asked.
    moved: Vec<Moved>,
    /// What the files held when they were last read.
    known: Known,
}

/// What instances of ours have of this machine.
#[derive(Default)]
pub struct Busy {
    /// Where those that run listen, by what they were started with.
    pub places: BTreeSet<Place>,
    /// Their processes.
    pub processes: BTreeSet<u32>,
}

/// What a first look at the sets gave.
pub struct Begun {
    pub desired: Option<Arc<Desired>>,
    pub rejected: bool,
    pub diagnostics: Vec<Diagnostic>,
}

/// Set, whether it is a warning, and the message.
pub type Note = (String, bool, String);

/// What another look gave.
#[derive(Default)]
pub struct Reloaded {
    pub desired: Option<Arc<Desired>>,
    /// What changed, as a sentence's end.
    pub what: String,
    /// The files that changed.
    pub files: Vec<String>,
    pub notes: Vec<Note>,
    pub newly_rejected: bool,
}

impl Sets {
    pub fn new(options: &Options, restored: &Restored, state_id: &str, keeper: Option<u32>) -> Self {
        let set_of = |path: &PathBuf| {
            let name = options.set.clone().unwrap_or_else(|| set_name_among(path, &options.paths));
            Set {
                overlays: options.overlays.clone(),
                ..Set::new(name, Some(path.clone()), restored.revision)
            }
        };
        Self {
            sets: options.paths.iter().map(set_of).collect(),
            objects: Objects::default(),
            notifiers: Vec::new(),
            referenced: Vec::new(),
            awaited: Vec::new(),
            environment: std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
                .collect(),
            options: options.clone(),
            key: restored.key.clone(),
            state_id: state_id.to_owned(),
            keeper,
            revision: restored.revision,
            desired: Arc::default(),
            moved: Vec::new(),
            known: Known::default(),
        }
    }

    /// The first look: what is on the disk, beside what was given to `apply`; where the disk is not well, what was accepted last.
    /// `busy`: what the keeper holds, none of which is adopted yet.
    pub fn begin(&mut self, stored: &[StoredSet], busy: &Busy) -> Begun {
        for set in &mut self.sets {
            if let Some(kept) = stored.iter().find(|kept| kept.name == set.name) {
                set.ceded.clone_from(&kept.ceded);
            }
        }
        for kept in stored.iter().filter(|kept| kept.path.is_none() || kept.applied) {
            if self.sets.iter().any(|set| set.name == kept.name) {
                continue;
            }
            self.sets.push(Set {
                applied: true,
                input: input_of(kept),
                ceded: kept.ceded.clone(),
                ..Set::new(kept.name.clone(), kept.path.clone(), self.revision)
            });
        }
        let mut candidates = Vec::new();
        for set in &mut self.sets {
            let accepted = stored.iter().find(|kept| kept.name == set.name).map(input_of);
            match set.read(&accepted.unwrap_or_default(), &mut self.known) {
                Ok(candidate) => {
                    // Watched whether it is accepted or not.
                    set.dirs.clone_from(&candidate.dirs);
                    set.links.clone_from(&candidate.links);
                    candidates.push(candidate);
                }
                Err(why) => {
                    set.unreadable = Some(why);
                    // Watched all the same: what is saved there is what was missing.
                    let there =
                        set.path.as_deref().and_then(|path| snapshot_knowing(path, &mut self.known).ok());
                    set.dirs = there.map(|found| found.dirs).unwrap_or_default();
                    let kept = stored.iter().find(|kept| kept.name == set.name);
                    candidates.extend(kept.map(|kept| set.as_stored(kept)));
                }
            }
        }
        self.known.forget_others();
        let mut proposal = self.propose_all(candidates, None, busy, false);
        if !proposal.rejected {
            let diagnostics = proposal.diagnostics.clone();
            let known = |candidate: &Candidate| {
                stored.iter().any(|kept| kept.name == candidate.name && input_of(kept) == candidate.input)
            };
            if stored.len() == proposal.candidates.len() && proposal.candidates.iter().all(known) {
                // Nothing was changed while nobody looked.
                proposal.built.desired.revision = self.revision;
            }
            return Begun { desired: Some(self.accept(proposal)), rejected: false, diagnostics };
        }
        self.await_files(&proposal);
        let diagnostics = proposal.diagnostics;
        self.blame(&diagnostics);
        let candidates: Vec<Candidate> = self
            .sets
            .iter()
            .filter_map(|set| Some(set.as_stored(stored.iter().find(|kept| kept.name == set.name)?)))
            .collect();
        if candidates.is_empty() {
            return Begun { desired: None, rejected: true, diagnostics };
        }
        // A broken env file stops who reads it, not everybody: what runs goes on.
        let mut fallback = self.propose_all(candidates, None, busy, true);
        fallback.built.desired.revision = self.revision;
        let desired = (!fallback.rejected).then(|| self.beside_pending(|sets| sets.accept(fallback)));
        Begun { desired, rejected: true, diagnostics }
    }

    /// Of the units named to `up`, those that nothing declares.
    pub fn unknown_units(&self) -> Vec<String> {
        self.named_units(&self.desired).filter_map(Result::err).collect()
    }

    /// The units that `up` was given, as NAME, KIND/NAME or KIND NAME …; a word that names none is given back.
    fn named_units(&self, desired: &Desired) -> impl Iterator<Item = Result<Name, String>> {
        let unit = |name: &str| desired.units.get(&name.parse::<Name>().ok()?);
        let words = ObjectKind::joined(&self.options.units, |word| unit(word).is_some());
        let named = words.into_iter().map(|word| {
            let (kind, name) =
                word.rsplit_once('/').map_or((None, &*word), |(kind, name)| (Some(kind), name));
            let object = unit(name).map(|unit| unit.object.clone());
            let meant =
                |object: &ObjectRef| kind.is_none_or(|kind| ObjectKind::from_word(kind) == Some(object.kind));
            object.filter(meant).map(|object| object.name).ok_or(word)
        });
        named.collect::<Vec<_>>().into_iter()
    }

    /// A profile was asked for that no Config has; and those that there are, in words.
    pub fn unknown_profile(&self) -> Option<(String, String)> {
        let wanted = self.options.profile.as_deref()?;
        let profiles = self.objects.configs.values().flat_map(|object| object.spec.profiles.keys());
        let known: BTreeSet<&str> = profiles.map(String::as_str).collect();
        if known.contains(wanted) {
            return None;
        }
        let meant = nearest(wanted, known.iter().copied()).map(|near| format!("did you mean `{near}`? "));
        let list = known.into_iter().collect::<Vec<_>>().join(", ");
        let words = match list.is_empty() {
            true => "no Config has any `profiles`".to_owned(),
            false => format!("{}profiles: {list}", meant.unwrap_or_default()),
        };
        Some((wanted.to_owned(), words))
    }

    /// `up UNIT…`: only these and what they need are to run.
    fn leave_out(&self, desired: &mut Desired) {
        if self.options.units.is_empty() {
            return;
        }
        let named: Vec<Name> = self.named_units(desired).filter_map(Result::ok).collect();
        let wanted: BTreeSet<_> = desired.graph.closure(&named).into_iter().collect();
        desired.left_out = desired.units.keys().filter(|name| !wanted.contains(name)).cloned().collect();
    }

    /// A proposal becomes the accepted state.
    pub fn accept(&mut self, mut proposal: Proposal) -> Arc<Desired> {
        share_equal(&self.desired, &mut proposal.built.desired);
        let changed: Vec<String> = proposal
            .candidates
            .iter()
            .filter(|candidate| {
                self.sets
                    .iter()
                    .find(|set| set.name == candidate.name)
                    .is_none_or(|set| set.input != candidate.input)
            })
            .map(|candidate| candidate.name.clone())
            .collect();
        self.revision = proposal.built.desired.revision;
        self.adopt(proposal);
        for set in self.sets.iter_mut().filter(|set| changed.contains(&set.name)) {
            set.revision = self.revision;
        }
        self.desired.clone()
    }

    fn adopt(&mut self, proposal: Proposal) {
        let several = self.sets.len() > 1;
        self.sets.retain(|set| !proposal.dropped.contains(&set.name));
        for candidate in proposal.candidates {
            let at = self.sets.iter().position(|set| set.name == candidate.name);
            let at = at.unwrap_or_else(|| {
                self.sets.push(Set {
                    applied: true,
                    ..Set::new(candidate.name.clone(), candidate.path.clone(), self.revision)
                });
                self.sets.len() - 1
            });
            let set = &mut self.sets[at];
            set.input = candidate.input;
            set.dirs = candidate.dirs;
            set.links = candidate.links;
            set.ceded = candidate.ceded;
            set.pending.clear();
        }
        if several || self.sets.len() > 1 {
            self.moved.extend(owning::moved(&self.objects, &proposal.objects));
        }
        self.objects = proposal.objects;
        self.referenced =
            proposal.built.files.into_iter().map(|path| (path.clone(), written(&path))).collect();
        self.awaited.clear();
        self.notifiers = proposal.built.notifiers;
        self.desired = Arc::new(proposal.built.desired);
    }

    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// Whether a set declares something that belongs to another one.
    pub fn cedes(&self, set: &str) -> bool {
        self.sets.iter().any(|known| known.name == set && !known.ceded.is_empty())
    }

    /// Objects whose owner is another since this was last asked.
    pub fn take_moved(&mut self) -> Vec<Moved> {
        std::mem::take(&mut self.moved)
    }

    /// Notifiers in force.
    pub fn notifiers(&self) -> &[NotifierPlan] {
        &self.notifiers
    }

    pub fn iter(&self) -> impl Iterator<Item = &Set> {
        self.sets.iter()
    }

    pub fn get(&self, name: &str) -> Option<&Set> {
        self.sets.iter().find(|set| set.name == name)
    }

    /// Files that values come from, or would.
    fn looked_into(&self) -> impl Iterator<Item = &PathBuf> {
        self.referenced.iter().map(|(path, _)| path).chain(&self.awaited)
    }

    fn await_files(&mut self, rejected: &Proposal) {
        let files = rejected.built.files.iter();
        let known: BTreeSet<&PathBuf> = self.referenced.iter().map(|(path, _)| path).collect();
        self.awaited = files.filter(|path| !known.contains(path)).cloned().collect();
    }

    /// A referenced file is still being written: it is looked at once it has been quiet.
    pub fn is_being_written(&self) -> bool {
        let fresh = |path: &PathBuf| written(path)?.elapsed().ok().filter(|age| *age < limits::WATCH_QUIET);
        self.looked_into().any(|path| fresh(path).is_some())
    }

    /// Everything that is wrong with what is on the disk.
    pub fn pending(&self) -> Vec<Diagnostic> {
        self.sets.iter().flat_map(|set| set.pending.iter().cloned()).collect()
    }

    /// The content of a set as it was accepted.
    pub fn input_of(&self, name: &str) -> LoadInput {
        self.get(name).map(|set| set.input.clone()).unwrap_or_default()
    }

    /// Of the digests of values.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// What a Config gives as its files are now: see [`resolve::config_values`].
    pub fn config_values(&self, name: &Name) -> Vec<(String, String, Origin)> {
        let context = Context {
            objects: &self.objects,
            files: &Disk,
            environment: &self.environment,
            profile: self.options.profile.as_deref(),
            machine: true,
            lenient: true,
        };
        self.objects
            .configs
            .get(name)
            .map(|config| resolve::config_values(config, &context))
            .unwrap_or_default()
    }

    /// What the sets are read from.
    pub fn interest(&self) -> Interest {
        let read = || self.sets.iter().filter(|set| set.path.is_some());
        let roots = read().flat_map(|set| set.path.iter().chain(&set.overlays));
        // The directory that a root of one file lies in is nobody's: only that file is of interest.
        let listed = |set: &Set, dir: &Path| {
            let mut roots = set.path.iter().chain(&set.overlays);
            roots.any(|root| dir.starts_with(root) && root.is_dir())
        };
        let dirs: HashSet<&OsStr> = read()
            .flat_map(|set| set.dirs.iter().filter(|dir| listed(set, dir)))
            .map(|dir| dir.as_os_str())
            .collect();
        // A plain file of a directory that is watched is watched.
        let plain = |set: &Set, path: &PathBuf| {
            path.parent().is_some_and(|dir| dirs.contains(dir.as_os_str())) && !set.links.contains(path)
        };
        let inputs = read().flat_map(|set| {
            let files = set.input.files.iter().chain(set.input.overlays.iter().flatten());
            files.map(|file| &file.path).filter(|path| !plain(set, path))
        });
        let files = roots.chain(inputs).chain(self.looked_into());
        let sockets: Vec<PathBuf> = self.objects.services.values().flat_map(socket_files).collect();
        let files = files.map(PathBuf::as_path).chain(sockets.iter().map(PathBuf::as_path));
        Interest::new(dirs.iter().map(Path::new), files)
    }

    /// All sets with their manifests as written, for the store.
    pub fn stored(&self) -> Vec<StoredSet> {
        self.sets.iter().map(Set::stored).collect()
    }
}

/// Files of the sockets that unisys binds for a service.
fn socket_files(service: &Object<ServiceSpec>) -> impl Iterator<Item = PathBuf> {
    let held = service.spec.ports.iter().filter(|port| port.listen && port.protocol.is_unix());
    held.map(|port| service.source.base_dir.join(&port.address))
}

fn written(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|meta| meta.modified()).ok()
}

/// Equal specs share memory with what is there, and are seen to be equal at once.
fn share_equal(old: &Desired, new: &mut Desired) {
    for (name, spec) in &mut new.units {
        if let Some(known) = old.units.get(name).filter(|known| **known == *spec) {
            *spec = known.clone();
        }
    }
}

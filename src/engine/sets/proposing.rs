//! What the sets would be: with other content, without some of it, or as an earlier revision had them. Nothing is changed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use crate::base::ports::{Place, Places};
use crate::manifest::diagnostic::keep_told;
use crate::manifest::load::ParseCache;
use crate::manifest::resolve::Context;
use crate::manifest::{Diagnostic, LoadInput, Objects, load};
use crate::os::files::{Disk, ThisMachine};
use crate::os::listeners;
use crate::plan::build::{Built, build};
use crate::plan::machine::fixed_places;
use crate::plan::{Desired, edits};
use crate::store::StoredSet;

use super::{Busy, Sets};
use crate::engine::owning::{self, Claim};
use crate::engine::set::{Candidate, Set, input_of};

/// Inputs of all sets that were found well, ready to be accepted.
pub struct Proposal {
    pub(in crate::engine) candidates: Vec<Candidate>,
    /// Sets that end.
    pub(super) dropped: BTreeSet<String>,
    pub(in crate::engine) objects: Objects,
    pub(super) built: Built,
    pub diagnostics: Vec<Diagnostic>,
    pub rejected: bool,
}

/// What is taken away at once.
#[derive(Default)]
pub struct Removal {
    pub sets: BTreeSet<String>,
    /// Files of other sets.
    pub files: BTreeMap<String, BTreeSet<PathBuf>>,
}

impl Sets {
    /// What it would be if a set had this content; nothing is changed. `path`: where the set is read from, if it is a directory.
    /// `claim`: what somebody hands in of it.
    pub fn propose(
        &mut self,
        set: &str,
        path: Option<PathBuf>,
        input: LoadInput,
        claim: Option<&Claim>,
        busy: &Busy,
    ) -> Proposal {
        let mut candidates: Vec<Candidate> =
            self.sets.iter().filter(|known| known.name != set).map(Set::current).collect();
        let known = self.sets.iter().find(|known| known.name == set);
        candidates.push(Candidate {
            name: set.to_owned(),
            path: path.or_else(|| known.and_then(|known| known.path.clone())),
            dirs: known.map(|known| known.dirs.clone()).unwrap_or_default(),
            links: known.map(|known| known.links.clone()).unwrap_or_default(),
            ceded: known.map(|known| known.ceded.clone()).unwrap_or_default(),
            input,
        });
        self.propose_all(candidates, claim, busy, false)
    }

    /// Everything as earlier manifests had it, with the files that they refer to as they are now.
    ///
    /// # Errors
    /// They are not valid any more.
    pub fn desired_from(&mut self, stored: &[StoredSet], busy: &Busy) -> Result<Desired, String> {
        let candidates = stored.iter().map(|kept| Candidate {
            name: kept.name.clone(),
            path: kept.path.clone(),
            input: input_of(kept),
            dirs: Vec::new(),
            links: BTreeSet::new(),
            ceded: kept.ceded.clone(),
        });
        let proposal = self.propose_all(candidates.collect(), None, busy, true);
        if let Some(first) = proposal.diagnostics.iter().find(|diagnostic| diagnostic.rejects()) {
            return Err(format!(
                "its manifests are not valid any more: {}: {}",
                first.place(),
                first.message
            ));
        }
        Ok(proposal.built.desired)
    }

    /// What it would be without these.
    pub fn propose_without(&mut self, removal: &Removal, busy: &Busy) -> Proposal {
        let left = self.sets.iter().filter(|known| !removal.sets.contains(&known.name));
        let candidates = left.map(|set| {
            let mut candidate = set.current();
            if let Some(files) = removal.files.get(&set.name) {
                candidate.input.files.retain(|file| !files.contains(&file.path));
            }
            candidate
        });
        let candidates = candidates.collect();
        let mut proposal = self.propose_all(candidates, None, busy, false);
        proposal.dropped.clone_from(&removal.sets);
        proposal
    }

    /// `lenient`: [`Context::lenient`].
    pub(super) fn propose_all(
        &mut self,
        mut candidates: Vec<Candidate>,
        claim: Option<&Claim>,
        busy: &Busy,
        lenient: bool,
    ) -> Proposal {
        let mut diagnostics = Vec::new();
        let mut declared = Vec::new();
        let mut cache = ParseCache::default();
        for candidate in &candidates {
            // With other overlays nothing is as it was.
            let accepted = self.sets.iter().find(|set| set.name == candidate.name);
            // Nor are objects known that counted for nothing.
            let comparable = accepted.is_some_and(|set| {
                set.input.overlays == candidate.input.overlays && candidate.ceded.is_empty()
            });
            cache.known = if comparable { self.objects.clone() } else { Objects::default() };
            let (objects, found) = load(&candidate.input, &mut cache);
            diagnostics.extend(found);
            declared.push(objects);
        }
        let parts = owning::settle(&mut candidates, declared, claim, &mut diagnostics);
        let objects = Objects::join(parts, &mut diagnostics);
        let context = Context {
            objects: &objects,
            files: &Disk,
            environment: &self.environment,
            profile: self.options.profile.as_deref(),
            machine: true,
            lenient,
        };
        let machine = ThisMachine::new(self.holders(fixed_places(&objects), busy));
        let mut built = build(&context, self.revision.next(), &self.key, Some(&machine));
        diagnostics.append(&mut built.diagnostics);
        built.desired.edited = edits(&self.objects, &objects);
        self.leave_out(&mut built.desired);
        let rejected = diagnostics.iter().any(Diagnostic::rejects);
        keep_told(&mut diagnostics);
        Proposal { candidates, dropped: BTreeSet::new(), objects, built, diagnostics, rejected }
    }

    /// Foreign processes on ports that are wanted and that nothing of ours holds.
    pub(in crate::engine) fn holders(
        &self,
        mut wanted: BTreeSet<Place>,
        busy: &Busy,
    ) -> BTreeMap<Place, String> {
        let places: Places = busy.places.iter().collect();
        wanted.retain(|place| places.overlapping(place).is_none());
        if wanted.is_empty() {
            return BTreeMap::new();
        }
        let own = busy.processes.iter().copied().chain(self.keeper).collect();
        listeners::foreign_holders(&wanted, &self.state_id, &own)
    }
}

impl Proposal {
    /// What it would be.
    pub fn desired(&self) -> Arc<Desired> {
        Arc::new(self.built.desired.clone())
    }

    pub fn objects(&self) -> &Objects {
        &self.objects
    }
}

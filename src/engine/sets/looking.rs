//! Another look: at the disk, at this machine. What is well is accepted, what is not waits and is told.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::manifest::Diagnostic;
use crate::plan::Desired;

use super::{Busy, Proposal, Reloaded, Sets, share_equal, written};
use crate::engine::set::{Candidate, Set, changed_paths, file_name};

impl Sets {
    /// Another look at everything that is read from the disk.
    pub fn reload(&mut self, busy: &Busy) -> Reloaded {
        let mut outcome = Reloaded::default();
        let mut candidates = Vec::new();
        let mut changes: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let were_held: BTreeSet<String> =
            self.sets.iter().filter(|set| is_held(set)).map(|set| set.name.clone()).collect();
        for set in &mut self.sets {
            match set.read(&set.input, &mut self.known) {
                Ok(candidate) => {
                    if set.unreadable.take().is_some() {
                        outcome.notes.push((
                            set.name.clone(),
                            false,
                            "its manifests can be read again".into(),
                        ));
                    }
                    set.dirs.clone_from(&candidate.dirs);
                    set.links.clone_from(&candidate.links);
                    let changed = changed_paths(&set.input, &candidate.input);
                    if !changed.is_empty() {
                        changes
                            .insert(set.name.clone(), changed.iter().map(|path| file_name(path)).collect());
                    }
                    candidates.push(candidate);
                }
                Err(why) => {
                    if set.unreadable.as_deref() != Some(&why) {
                        let message = format!("{why}; nothing is changed and nothing is pruned");
                        outcome.notes.push((set.name.clone(), true, message));
                        outcome.newly_rejected = true;
                    }
                    set.unreadable = Some(why);
                    candidates.push(set.current());
                }
            }
        }
        self.known.forget_others();
        // Of two that declare the same, the one that did so before has it.
        candidates.sort_by_key(|candidate| changes.contains_key(&candidate.name));
        let mut proposal = self.propose_all(candidates, None, busy, false);
        let mut held = Vec::new();
        if proposal.rejected {
            self.await_files(&proposal);
            outcome.newly_rejected |= self.blame(&proposal.diagnostics);
            let errors = proposal.diagnostics.iter().filter(|d| d.rejects()).count();
            if let Some(first) =
                proposal.diagnostics.iter().find(|d| d.rejects()).filter(|_| outcome.newly_rejected)
            {
                let several = self.sets.iter().any(|set| !is_held(set));
                let what = if several { "the set".into() } else { format!("revision {}", self.revision) };
                let message = format!(
                    "{what} stays{}: {errors} error{} in the manifests, first {}: {} [{}]",
                    if several { " as it is" } else { "" },
                    if errors == 1 { "" } else { "s" },
                    first.place(),
                    first.message,
                    first.code
                );
                let set = self.sets.iter().find(|set| !set.pending.is_empty()).map_or("?", |set| &set.name);
                outcome.notes.push((set.to_owned(), true, message));
            }
            let Some(rest) = self.propose_the_rest(&proposal, busy) else {
                for set in self.sets.iter_mut().filter(|set| changes.contains_key(&set.name)) {
                    if set.pending.is_empty() {
                        set.pending.clone_from(&proposal.diagnostics);
                    }
                }
                return outcome;
            };
            held = self.sets.iter().filter(|set| is_held(set)).map(|set| set.name.clone()).collect();
            proposal = rest;
        }
        if !self.may_prune(&proposal, &mut outcome.notes) {
            return outcome;
        }
        for set in self.sets.iter_mut().filter(|set| !held.contains(&set.name)) {
            set.pending.clear();
            // One that cannot be read is not well for that: what was accepted of it stands in for it.
            if set.unreadable.is_none() && were_held.contains(&set.name) {
                outcome.notes.push((set.name.clone(), false, "its manifests are valid again".into()));
            }
        }
        share_equal(&self.desired, &mut proposal.built.desired);
        if same(&self.desired, &proposal.built.desired) && proposal.objects.same_as(&self.objects) {
            // The text may differ (a comment): the spans are those of the new one.
            proposal.built.desired.revision = self.revision;
            self.beside_pending(|sets| sets.adopt(proposal));
            return outcome;
        }
        let other = |(path, then): &&(PathBuf, _)| written(path) != *then;
        let referenced = self.referenced.iter().filter(other).map(|(path, _)| file_name(path));
        let taken_in = changes.into_iter().filter(|(set, _)| !held.contains(set));
        let changed: BTreeSet<String> = taken_in.flat_map(|(_, files)| files).chain(referenced).collect();
        let changed: Vec<String> = changed.into_iter().collect();
        outcome.files.clone_from(&changed);
        outcome.what = match changed.len() {
            0 => "this machine changed".into(),
            1..=3 => format!("{} changed", changed.join(", ")),
            count => format!("{count} files changed"),
        };
        outcome.desired = Some(self.beside_pending(|sets| sets.accept(proposal)));
        outcome
    }

    /// What was rejected, without the sets that it was rejected for: they stay as they were accepted.
    fn propose_the_rest(&mut self, rejected: &Proposal, busy: &Busy) -> Option<Proposal> {
        if self.sets.iter().all(is_held) {
            return None;
        }
        let as_accepted = |candidate: &Candidate| {
            let held = self.sets.iter().find(|set| set.name == candidate.name).filter(|set| is_held(set));
            held.map_or_else(|| candidate.clone(), Set::current)
        };
        let candidates = rejected.candidates.iter().map(as_accepted).collect();
        Some(self.propose_all(candidates, None, busy, false)).filter(|rest| !rest.rejected)
    }

    /// What is accepted, on this machine as it is now; nothing if that makes no difference. Manifests are not read again; with
    /// `--no-watch`, other files count only for those units that this machine lacks more or less for than before.
    pub fn look_at_machine(&mut self, busy: &Busy) -> Option<Arc<Desired>> {
        let candidates = self.sets.iter().map(Set::current).collect();
        let mut proposal = self.propose_all(candidates, None, busy, true);
        if !self.options.watch {
            keep_but_for_machine(&self.desired, &mut proposal.built.desired);
        }
        share_equal(&self.desired, &mut proposal.built.desired);
        if proposal.rejected || same(&self.desired, &proposal.built.desired) {
            return None;
        }
        Some(self.beside_pending(|sets| sets.accept(proposal)))
    }

    /// Takes in what is not all of what is on the disk: that stays as invalid as it is.
    pub(super) fn beside_pending<T>(&mut self, take_in: impl FnOnce(&mut Self) -> T) -> T {
        let pending: Vec<Vec<Diagnostic>> = self.sets.iter().map(|set| set.pending.clone()).collect();
        let awaited = std::mem::take(&mut self.awaited);
        let taken = take_in(self);
        let invalid = pending.iter().any(|pending| !pending.is_empty());
        self.awaited = if invalid { awaited } else { Vec::new() };
        for (set, pending) in self.sets.iter_mut().zip(pending) {
            set.pending = pending;
        }
        taken
    }

    /// Sets whose objects the findings are in take them as pending; true if any of it is new.
    pub(super) fn blame(&mut self, diagnostics: &[Diagnostic]) -> bool {
        let within = |set: &Set, diagnostic: &Diagnostic| {
            let roots = set.path.iter().chain(&set.overlays);
            roots.into_iter().any(|root| Path::new(&diagnostic.file).starts_with(root))
        };
        let mut of_sets: Vec<Vec<Diagnostic>> = vec![Vec::new(); self.sets.len()];
        for diagnostic in diagnostics {
            let mut claimed = false;
            for (set, of_set) in self.sets.iter().zip(&mut of_sets) {
                if within(set, diagnostic) {
                    of_set.push(diagnostic.clone());
                    claimed = true;
                }
            }
            // A referenced file may lie anywhere: whatever is read from the disk has to do with it.
            for (set, of_set) in self.sets.iter().zip(&mut of_sets).filter(|_| !claimed) {
                if set.path.is_some() {
                    of_set.push(diagnostic.clone());
                }
            }
        }
        let mut new = false;
        for (set, of_set) in self.sets.iter_mut().zip(of_sets) {
            new |= set.pending != of_set;
            set.pending = of_set;
        }
        new
    }
}

/// What is on the disk of it is not taken in.
fn is_held(set: &Set) -> bool {
    set.pending.iter().any(Diagnostic::rejects)
}

/// Who lacks what it lacked stays as it was accepted, whatever the files hold by now that its values came from.
fn keep_but_for_machine(old: &Desired, new: &mut Desired) {
    for (name, spec) in &mut new.units {
        if let Some(known) = old.units.get(name).filter(|known| known.machine == spec.machine) {
            *spec = known.clone();
        }
    }
    new.externals.clone_from(&old.externals);
}

fn same(old: &Desired, new: &Desired) -> bool {
    old.units == new.units
        && old.externals == new.externals
        && old.max_concurrent_starts == new.max_concurrent_starts
}

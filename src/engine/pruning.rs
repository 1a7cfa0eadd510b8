//! When what left a set's manifests may go: only when the same was found a second before, no git checkout is under way, and nobody
//! is still writing the files that it was in.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::base::{Instant, ObjectRef, limits};
use crate::manifest::{LoadInput, Objects, SourceFile};
use crate::os::{clock, process};

use super::set::{Candidate, Set, changed_paths};
use super::sets::{Note, Proposal, Sets};

/// Objects would go: the same must be found again then.
pub(super) struct Prune {
    at: Instant,
    files: Vec<SourceFile>,
    /// It was said that somebody is still writing.
    told: bool,
}

impl Sets {
    /// Whether a proposal may be taken in, as far as objects go with it; what keeps it waiting is told once.
    pub(super) fn may_prune(&mut self, proposal: &Proposal, notes: &mut Vec<Note>) -> bool {
        let kept = refs(&proposal.objects);
        let lost = refs(&self.objects).difference(&kept).next().is_some();
        let now = clock::mono();
        let mut may = true;
        for set in &mut self.sets {
            let candidate = proposal.candidates.iter().find(|candidate| candidate.name == set.name);
            let Some(candidate) = candidate else { continue };
            if lost && let Some(path) = set.path.clone() {
                may &= confirmed(set, &path, candidate, now, notes);
            } else {
                set.prune = None;
            }
        }
        may
    }

    /// When a prune is to be confirmed.
    pub fn prune_due(&self) -> Option<Instant> {
        self.sets.iter().filter_map(|set| set.prune.as_ref().map(|prune| prune.at)).min()
    }
}

fn confirmed(set: &mut Set, path: &Path, candidate: &Candidate, now: Instant, notes: &mut Vec<Note>) -> bool {
    let found = set.prune.take().filter(|prune| prune.files == candidate.input.files);
    let waits =
        |told| Some(Prune { at: now + limits::PRUNE_CONFIRM, files: candidate.input.files.clone(), told });
    match found {
        None => set.prune = waits(false),
        Some(prune) if prune.at > now => set.prune = Some(prune),
        Some(prune) => {
            let changed = changed_paths(&set.input, &candidate.input);
            if path.ancestors().any(|dir| dir.join(".git/index.lock").exists()) {
                set.prune = waits(prune.told);
            } else if let Some(file) = process::being_written(&changed) {
                if !prune.told {
                    let message = format!(
                        "{} is still being written; what is not in it any more goes when that is over",
                        file.display()
                    );
                    notes.push((set.name.clone(), false, message));
                }
                set.prune = waits(true);
            } else if !are_as_read(&changed, &candidate.input) {
                // Whoever wrote it has closed it since it was read: what was read may be a half.
                set.prune = waits(prune.told);
            }
        }
    }
    set.prune.is_none()
}

/// The files still are what the candidate was made of.
fn are_as_read(changed: &[PathBuf], input: &LoadInput) -> bool {
    let read = input.files.iter().chain(input.overlays.iter().flatten());
    let known: BTreeMap<&Path, _> = read.map(|file| (file.path.as_path(), file.content.as_ref())).collect();
    changed.iter().all(|path| match (known.get(path.as_path()), std::fs::read(path)) {
        (Some(Ok(content)), Ok(now)) => ***content == *now,
        (Some(Err(_)) | None, Err(_)) => true,
        (Some(Err(_)) | None, Ok(_)) | (Some(Ok(_)), Err(_)) => false,
    })
}

fn refs(objects: &Objects) -> BTreeSet<ObjectRef> {
    objects.sources().into_iter().map(|source| source.object.clone()).collect()
}

//! What an earlier daemon knew of units that were deleted while nobody looked, or whose end it could not write down any more: a later
//! one of the same name begins without their orders.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::base::Name;
use crate::plan::Desired;
use crate::store::StoredSet;
use crate::world::Checkpoint;

use super::Engine;

/// A set, as far as it can be told from another of its name.
type Place = (String, Option<PathBuf>);

/// What was declared in `was` and is not any more has been deleted if its set is read here. Of one that is not nothing is known: it
/// may be read by the next `up`. What was given to `apply` is always there.
fn is_deleted(was: &StoredSet, here: &BTreeSet<Place>) -> bool {
    was.applied || was.path.is_none() || here.contains(&(was.name.clone(), was.path.clone()))
}

impl Engine {
    /// Takes away what is known of deleted units. `held`: those of which the keeper has instances, which end in order.
    pub(super) fn forget_deleted(
        &mut self,
        units: &mut Vec<(Name, Checkpoint)>,
        declared: &Desired,
        held: &BTreeSet<Name>,
    ) {
        let mut left: BTreeSet<Name> = units.iter().map(|(name, _)| name.clone()).collect();
        left.retain(|name| !declared.units.contains_key(name) && !held.contains(name));
        if left.is_empty() {
            return;
        }
        // What vanished as a whole deletes nothing.
        let read = self.sets.iter().filter(|set| set.unreadable.is_none());
        let here: BTreeSet<Place> = read.map(|set| (set.name.clone(), set.path.clone())).collect();
        let mut deleted = BTreeSet::new();
        for revision in self.store.kept_revisions().into_iter().rev() {
            let Some(stored) = self.store.revision(revision).filter(|stored| names_any(stored, &left)) else {
                continue;
            };
            let busy = self.busy();
            let Ok(desired) = self.sets.desired_from(&stored, &busy) else { continue };
            // The last set that declared it.
            for name in left.clone() {
                let Some(unit) = desired.units.get(&name) else { continue };
                left.remove(&name);
                if stored.iter().any(|set| *set.name == *unit.set && is_deleted(set, &here)) {
                    deleted.insert(name);
                }
            }
            if left.is_empty() {
                break;
            }
        }
        units.retain(|(name, _)| !deleted.contains(name));
        deleted.into_iter().for_each(|name| self.store.drop_unit(name));
    }
}

/// Reading a revision takes longer than looking whether it is worth it.
fn names_any(stored: &[StoredSet], names: &BTreeSet<Name>) -> bool {
    let mut files = stored.iter().flat_map(|set| set.files.iter().chain(set.overlay_files.iter().flatten()));
    files.any(|file| names.iter().any(|name| file.text.contains(name.as_str())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_left_a_set_that_is_read_here_was_deleted() {
        let set = |path: Option<&str>, applied| StoredSet {
            name: "manifests".into(),
            path: path.map(PathBuf::from),
            applied,
            overlays: Vec::new(),
            files: Vec::new(),
            overlay_files: Vec::new(),
            ceded: Default::default(),
        };
        let here = BTreeSet::from([("manifests".to_owned(), Some(PathBuf::from("/a/manifests")))]);
        for (was, expected) in [
            (set(Some("/a/manifests"), false), true),
            (set(Some("/b/manifests"), false), false),
            (set(Some("/b/manifests"), true), true),
            (set(None, false), true),
        ] {
            assert_eq!(is_deleted(&was, &here), expected, "{was:?}");
        }
    }
}

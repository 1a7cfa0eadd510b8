//! What is to be written: of each thing only how it is now. A disk that is slow, full or broken costs no more memory than what
//! would be on it, and nothing is forgotten while it is.

use std::collections::BTreeMap;

use crate::base::{Name, Revision, Shelves, Stamp, limits};
use crate::world::{Checkpoint, RolloutRecord};

use super::{StoredChange, StoredSet};

/// A revision as it was accepted.
pub struct Accepted {
    pub cause: String,
    pub at: Stamp,
    pub sets: Vec<StoredSet>,
}

/// Changes: the latest of each unit, as they are kept on the disk.
pub struct Changes {
    rows: BTreeMap<u64, Box<StoredChange>>,
    shelves: Shelves<(bool, String)>,
}

impl Default for Changes {
    fn default() -> Self {
        Self { rows: BTreeMap::new(), shelves: Shelves::new(limits::CHANGES_KEPT) }
    }
}

impl Changes {
    fn put(&mut self, change: Box<StoredChange>) {
        let gone = self.shelves.put(change.id, change.shelf());
        self.rows.insert(change.id, change);
        if let Some(gone) = gone {
            self.rows.remove(&gone);
        }
    }

    /// By their ids.
    pub fn rows(&self) -> &BTreeMap<u64, Box<StoredChange>> {
        &self.rows
    }
}

/// See the module. `None`: it is to be removed.
#[derive(Default)]
pub struct Pending {
    pub meta: BTreeMap<&'static str, u64>,
    pub units: BTreeMap<Name, Option<Box<Checkpoint>>>,
    pub changes: Changes,
    pub revisions: BTreeMap<Revision, Accepted>,
    pub rollouts: BTreeMap<(Name, i64), Box<RolloutRecord>>,
    pub errors: BTreeMap<u64, Option<String>>,
}

impl Pending {
    pub fn is_empty(&self) -> bool {
        self.meta.is_empty()
            && self.units.is_empty()
            && self.changes.rows.is_empty()
            && self.revisions.is_empty()
            && self.rollouts.is_empty()
            && self.errors.is_empty()
    }

    pub fn change(&mut self, change: Box<StoredChange>) {
        self.changes.put(change);
    }

    pub fn accept(&mut self, revision: Revision, accepted: Accepted) {
        self.revisions.insert(revision, accepted);
        // More than are kept: which of the older ones a unit needs is decided when they are written.
        keep_latest(&mut self.revisions, 10 * limits::REVISIONS_KEPT);
    }

    pub fn rollout(&mut self, key: (Name, i64), rollout: Box<RolloutRecord>) {
        let of_unit = (key.0.clone(), i64::MIN)..=(key.0.clone(), i64::MAX);
        self.rollouts.insert(key, rollout);
        if self.rollouts.range(of_unit.clone()).count() > limits::ROLLOUTS_KEPT
            && let Some(oldest) = self.rollouts.range(of_unit).next().map(|(key, _)| key.clone())
        {
            self.rollouts.remove(&oldest);
        }
    }

    pub fn error(&mut self, id: u64, body: Option<String>) {
        self.errors.insert(id, body);
        // As many to be removed as there are at most.
        keep_latest(&mut self.errors, 2 * limits::ERRORS_KEPT);
    }

    /// Puts back what could not be written; what is newer stands.
    pub fn put_back(&mut self, older: Self) {
        let newer = std::mem::replace(self, older);
        self.meta.extend(newer.meta);
        self.units.extend(newer.units);
        newer.changes.rows.into_values().for_each(|change| self.change(change));
        newer.revisions.into_iter().for_each(|(revision, accepted)| self.accept(revision, accepted));
        newer.rollouts.into_iter().for_each(|(key, rollout)| self.rollout(key, rollout));
        newer.errors.into_iter().for_each(|(id, body)| self.error(id, body));
    }
}

fn keep_latest<K: Ord, V>(map: &mut BTreeMap<K, V>, limit: usize) {
    while map.len() > limit {
        map.pop_first();
    }
}

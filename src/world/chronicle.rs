//! The causal log: what happened, because of what, and the changes that actions are grouped in.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::base::{Name, Now, ObjectKind, ObjectRef, Ordinal, Revision, Shelves, Stamp, limits};
use crate::plan::Verb;

use super::event::Cause;

/// Identity of a [`Record`]; ascending.
pub type RecordId = u64;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    pub id: RecordId,
    pub at: Stamp,
    pub warning: bool,
    /// CamelCase.
    pub reason: Cow<'static, str>,
    /// `service/api`, `set/manifests`, `system`.
    pub object: String,
    /// A sentence.
    pub message: String,
    pub change: Option<u64>,
    /// The record that this one is a consequence of.
    pub cause: Option<RecordId>,
}

/// A recorded group of actions with a cause.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub id: u64,
    pub at: Stamp,
    pub cause: Cause,
    pub revision: Revision,
    pub actions: Vec<ChangeAction>,
    pub outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ChangeAction {
    pub verb: Verb,
    pub unit: ObjectRef,
    pub reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its actions are not all done.
    Active,
    Complete,
    /// A newer change took over before it was complete.
    Superseded,
    /// Units of it went back to what was before it.
    RolledBack,
}

impl Outcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "Active",
            Self::Complete => "Complete",
            Self::Superseded => "Superseded",
            Self::RolledBack => "RolledBack",
        }
    }
}

/// The reason of a record that a circuit has opened.
pub const CIRCUIT_OPEN: &str = "CircuitOpen";
/// That of one that an instance was taken over from an earlier daemon.
pub const ADOPTED: &str = "Adopted";
/// That of one that names the fields that a revision changed.
pub const CHANGED: &str = "Changed";

/// That of one that tells what this machine does not enforce of a unit; of the condition `Enforced` as well.
pub const UNENFORCED: &str = "NotOnThisMachine";

/// That of one that tells what somebody ordered.
pub const ORDERED: &str = "Ordered";

/// Reasons of records that tell what people and rollouts did to an object. They are kept apart from what happens to it by itself:
/// a program that ends every second must not push out which change it was that broke it.
const DONE_TO_IT: [&str; 14] = [
    CHANGED,
    ORDERED,
    UNENFORCED,
    "Revised",
    "Kept",
    "Updated",
    "Deleted",
    "OwnerChanged",
    "ManifestInvalid",
    "ManifestValid",
    "RolledBack",
    "RollbackComplete",
    "RolloutFailed",
    "RolloutComplete",
];

impl Record {
    /// Whom it is about, and whether it tells what was done to it: what makes room for what.
    pub fn shelf(&self) -> (String, bool) {
        (self.object.clone(), DONE_TO_IT.contains(&&*self.reason))
    }
}

/// The kind of the cause of a change that goes back.
pub const ROLLBACK: &str = "Rollback";

/// The latest records of each object, bounded: whoever has most makes room.
#[derive(Clone, Debug)]
pub struct Chronicle {
    records: BTreeMap<RecordId, Arc<Record>>,
    shelves: Shelves<(String, bool)>,
    /// The first id of this daemon: what is below was told by earlier ones.
    first: RecordId,
    next: RecordId,
}

impl Chronicle {
    /// Ids go on after those of earlier daemons when `first` is above them.
    pub fn new(first: RecordId) -> Self {
        let shelves = Shelves::new(limits::EVENTS_KEPT);
        Self { records: BTreeMap::new(), shelves, first: first.max(1), next: first.max(1) }
    }

    fn keep(&mut self, record: Arc<Record>) {
        let gone = self.shelves.put(record.id, record.shelf());
        self.records.insert(record.id, record);
        if let Some(gone) = gone {
            self.records.remove(&gone);
        }
    }

    /// What earlier daemons told, before anything else is written. What is not in the order of its ids is left out.
    pub fn recall(&mut self, history: Vec<Record>) {
        for record in history {
            let last = self.records.last_key_value().map_or(0, |(id, _)| *id);
            if record.id > last && record.id < self.first {
                self.keep(Arc::new(record));
            }
        }
    }

    /// The latest record of an earlier daemon about an ordinal of a unit.
    pub fn recalled(&self, object: &str, ordinal: Ordinal) -> Option<&Arc<Record>> {
        let own = format!("instance {ordinal}");
        let is_own = |record: &Record| {
            let after = record.message.split_once(&own).map(|(_, after)| after);
            record.object == object
                && after.is_some_and(|after| !after.starts_with(|c: char| c.is_ascii_digit()))
        };
        self.earlier().rev().find(|record| is_own(record))
    }

    fn earlier(&self) -> impl DoubleEndedIterator<Item = &Arc<Record>> {
        self.records.range(..self.first).map(|(_, record)| record)
    }

    /// A record of what happened under an earlier daemon: the one that is still known, or one that is written for it.
    pub fn again(&mut self, at: Stamp, entry: Entry<'_>) -> Arc<Record> {
        let object = entry.object.to_string();
        let known = self.earlier().rev().find(|it| it.object == object && it.message == entry.message);
        match known.cloned() {
            Some(record) => record,
            None => self.write_of(at, entry),
        }
    }

    pub fn write(&mut self, now: Now, entry: Entry<'_>) -> Arc<Record> {
        self.write_of(now.wall, entry)
    }

    fn write_of(&mut self, at: Stamp, entry: Entry<'_>) -> Arc<Record> {
        let record = Arc::new(Record {
            id: self.next,
            at,
            warning: entry.warning,
            reason: entry.reason.into(),
            object: entry.object.to_string(),
            message: entry.message,
            change: entry.change,
            cause: entry.cause,
        });
        self.next += 1;
        self.keep(record.clone());
        record
    }

    pub fn get(&self, id: RecordId) -> Option<&Arc<Record>> {
        self.records.get(&id)
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Arc<Record>> {
        self.records.values()
    }

    /// Those that came after one.
    pub fn after(&self, id: RecordId) -> impl DoubleEndedIterator<Item = &Arc<Record>> {
        self.records.range(id.saturating_add(1)..).map(|(_, record)| record)
    }

    /// The latest record about an object.
    pub fn latest_of(&self, object: &str) -> Option<&Arc<Record>> {
        let last = |done| self.shelves.of(&(object.to_owned(), done)).next_back();
        self.get(last(false).max(last(true))?)
    }

    /// The latest record about what was called by this name, whatever it was.
    pub fn latest_of_unit(&self, name: &Name) -> Option<RecordId> {
        let kinds = [ObjectKind::Service, ObjectKind::Job, ObjectKind::External];
        let objects = kinds.map(|kind| ObjectRef { kind, name: name.clone() }.to_string());
        objects.iter().filter_map(|object| self.latest_of(object)).map(|record| record.id).max()
    }

    /// What was wrong with an object when it went its way, and what that came of: it had not got well before that record.
    pub fn unwell_before(&self, end: &Record, limit: usize) -> Vec<Arc<Record>> {
        let of_it = self.records.range(..end.id).rev().map(|(_, record)| record);
        let of_it = of_it.filter(|record| record.object == end.object);
        let told = of_it.take_while(|record| !["Ready", "Completed", "Recovered"].contains(&&*record.reason));
        let wrong = told.into_iter().find(|record| record.warning);
        wrong.map(|record| self.chain(record.id, limit)).unwrap_or_default()
    }

    /// `id` and what it came of, back to the root, at most `limit` long.
    pub fn chain(&self, id: RecordId, limit: usize) -> Vec<Arc<Record>> {
        let mut chain = Vec::new();
        let mut next = self.get(id);
        while let Some(record) = next.filter(|_| chain.len() < limit) {
            chain.push(record.clone());
            next = record.cause.and_then(|cause| self.get(cause));
        }
        chain
    }
}

/// What is to be written.
pub struct Entry<'a> {
    pub warning: bool,
    pub reason: &'static str,
    pub object: &'a dyn std::fmt::Display,
    pub message: String,
    pub change: Option<u64>,
    pub cause: Option<RecordId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(chronicle: &mut Chronicle, object: &str, reason: &'static str) -> RecordId {
        let message = "m".to_owned();
        let entry = Entry { warning: false, reason, object: &object, message, change: None, cause: None };
        chronicle.write_of(Stamp(0), entry).id
    }

    #[test]
    fn what_was_wrong_with_one_that_is_gone_is_known_unless_it_got_well() {
        let mut chronicle = Chronicle::new(1);
        let mut write = |object: &str, reason, warning| {
            let message = "m".to_owned();
            let entry = Entry { warning, reason, object: &object, message, change: None, cause: None };
            chronicle.write_of(Stamp(0), entry)
        };
        write("service/well", "Failed", true);
        write("service/well", "Ready", false);
        let failed = write("service/bad", "Failed", true);
        let ends = ["service/well", "service/bad"].map(|object| write(object, "Deleted", false));
        let before = ends.map(|end| chronicle.unwell_before(&end, 9));
        assert_eq!(before, [vec![], vec![failed]]);
    }

    #[test]
    fn a_noisy_object_pushes_out_its_own_past_and_neither_that_of_others_nor_what_was_done_to_it() {
        let mut chronicle = Chronicle::new(1);
        let changed = write(&mut chronicle, "service/noisy", CHANGED);
        let quiet = write(&mut chronicle, "service/quiet", "Ready");
        for _ in 0..limits::EVENTS_KEPT * 2 {
            write(&mut chronicle, "service/noisy", "Failed");
        }
        assert_eq!(chronicle.latest_of("service/quiet").map(|record| record.id), Some(quiet));
        assert!(chronicle.get(changed).is_some());
        assert_eq!(chronicle.iter().count(), limits::EVENTS_KEPT);
        let last = chronicle.latest_of("service/noisy").unwrap().id;
        assert_eq!(last, 2 + 2 * limits::EVENTS_KEPT as u64);
        assert_eq!(chronicle.after(last - 3).count(), 3);
    }
}

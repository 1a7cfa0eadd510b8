//! The causal log: what happened, because of what, and the changes that actions are grouped in.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::base::{Now, ObjectRef, Revision, Stamp, limits};
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
    pub reason: &'static str,
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
}

impl Outcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "Active",
            Self::Complete => "Complete",
            Self::Superseded => "Superseded",
        }
    }
}

/// The reason of a record that a circuit has opened.
pub const CIRCUIT_OPEN: &str = "CircuitOpen";
/// That of one that names the fields that a revision changed.
pub const CHANGED: &str = "Changed";

/// The latest records, bounded.
#[derive(Clone, Debug)]
pub struct Chronicle {
    records: VecDeque<Arc<Record>>,
    next: RecordId,
}

impl Chronicle {
    /// Ids go on after those of earlier daemons when `first` is above them.
    pub fn new(first: RecordId) -> Self {
        Self { records: VecDeque::new(), next: first.max(1) }
    }

    pub fn write(&mut self, now: Now, entry: Entry<'_>) -> Arc<Record> {
        self.write_of(now.wall, entry)
    }

    /// A record of what happened at another time, under an earlier daemon.
    pub fn write_of(&mut self, at: Stamp, entry: Entry<'_>) -> Arc<Record> {
        let record = Arc::new(Record {
            id: self.next,
            at,
            warning: entry.warning,
            reason: entry.reason,
            object: entry.object.to_string(),
            message: entry.message,
            change: entry.change,
            cause: entry.cause,
        });
        self.next += 1;
        self.records.push_back(record.clone());
        if self.records.len() > limits::EVENTS_KEPT {
            self.records.pop_front();
        }
        record
    }

    pub fn get(&self, id: RecordId) -> Option<&Arc<Record>> {
        let first = self.records.front()?.id;
        self.records.get(usize::try_from(id.checked_sub(first)?).ok()?)
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Arc<Record>> {
        self.records.iter()
    }

    /// The latest record about an object.
    pub fn latest_of(&self, object: &str) -> Option<&Arc<Record>> {
        self.records.iter().rev().find(|record| record.object == object)
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

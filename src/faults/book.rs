//! The error records: one a fingerprint, counted, bounded.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::base::{Category, Severity, Stamp, limits};

use super::context::Context;

/// A failure, and how often it has happened (rules.md, `errors ls`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ErrorRecord {
    pub id: u64,
    pub fingerprint: String,
    pub category: Category,
    pub severity: Severity,
    /// `service/api`, `set/manifests`, `system`.
    pub unit: String,
    pub incarnation: Option<u64>,
    pub revision: u64,
    pub message: String,
    pub count: u64,
    pub first_seen: Stamp,
    pub last_seen: Stamp,
    /// The event that it is known by; `why` goes on from there.
    pub cause: Option<u64>,
    /// Of the latest one, for machines: how it ended, at which step or probe, after how long.
    #[serde(default, skip_serializing_if = "Context::is_empty")]
    pub context: Context,
    /// It follows from failures that are records of their own, and is not counted again among them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub follows: bool,
}

/// One failure, on its way into the book.
#[derive(Clone, Debug, PartialEq)]
pub struct Sighting {
    pub fingerprint: String,
    pub category: Category,
    pub severity: Severity,
    pub unit: String,
    pub incarnation: Option<u64>,
    pub revision: u64,
    pub message: String,
    pub at: Stamp,
    pub cause: Option<u64>,
    pub context: Context,
    pub follows: bool,
}

/// `errors stats`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ErrorStats {
    /// Failures of all records, but for those that only follow from others (a circuit that opens).
    pub total: u64,
    /// Different ones.
    pub distinct: u64,
    pub by_category: BTreeMap<String, u64>,
    pub by_severity: BTreeMap<String, u64>,
    pub by_unit: BTreeMap<String, u64>,
}

/// What a counter counts.
pub type CounterKey = (Category, Severity, String);

/// All records, by fingerprint.
#[derive(Clone, Debug, Default)]
pub struct Book {
    records: BTreeMap<String, ErrorRecord>,
    /// By when they were last seen: the first makes room.
    seen: BTreeSet<(Stamp, u64, String)>,
    /// The same of each unit.
    of_unit: BTreeMap<String, BTreeSet<(Stamp, u64, String)>>,
    next: u64,
    /// To be written.
    dirty: BTreeSet<String>,
    /// To be forgotten.
    dropped: Vec<u64>,
    counters: BTreeMap<CounterKey, u64>,
}

impl Book {
    /// With what an earlier daemon recorded.
    pub fn restore(records: Vec<ErrorRecord>) -> Self {
        let mut book = Self { next: 1, ..Self::default() };
        for record in records {
            book.next = book.next.max(record.id + 1);
            book.index(&record);
            book.records.insert(record.fingerprint.clone(), record);
        }
        book
    }

    /// Writes one down; the record as it is now.
    pub fn record(&mut self, sighting: Sighting) -> &ErrorRecord {
        if !sighting.follows {
            self.count(&sighting);
        }
        let fingerprint = sighting.fingerprint;
        self.dirty.insert(fingerprint.clone());
        let known = self.records.remove(&fingerprint);
        match &known {
            Some(known) => self.unindex(known),
            None => self.make_room(),
        }
        let mut record = known.unwrap_or_else(|| {
            let id = self.next.max(1);
            self.next = id + 1;
            ErrorRecord {
                id,
                fingerprint: fingerprint.clone(),
                category: sighting.category,
                severity: sighting.severity,
                unit: sighting.unit,
                incarnation: None,
                revision: 0,
                message: String::new(),
                count: 0,
                first_seen: sighting.at,
                last_seen: sighting.at,
                cause: None,
                context: Context::new(),
                follows: false,
            }
        });
        record.count += 1;
        record.category = sighting.category;
        record.severity = sighting.severity;
        record.incarnation = sighting.incarnation;
        record.revision = sighting.revision;
        record.message = sighting.message;
        record.cause = sighting.cause;
        record.context = sighting.context;
        record.follows = sighting.follows;
        // A clock that was set back does not make it older.
        record.last_seen = record.last_seen.max(sighting.at);
        self.index(&record);
        self.records.entry(fingerprint).or_insert(record)
    }

    /// A failure of this instance of the unit has been recorded, or a later one.
    pub fn knows(&self, unit: &str, incarnation: u64) -> bool {
        let of_unit = self.of_unit.get(unit).into_iter().flatten();
        let mut known = of_unit.filter_map(|(_, _, fingerprint)| self.records.get(fingerprint)?.incarnation);
        known.any(|known| known >= incarnation)
    }

    fn index(&mut self, record: &ErrorRecord) {
        let key = (record.last_seen, record.id, record.fingerprint.clone());
        self.of_unit.entry(record.unit.clone()).or_default().insert(key.clone());
        self.seen.insert(key);
    }

    fn unindex(&mut self, record: &ErrorRecord) {
        let key = (record.last_seen, record.id, record.fingerprint.clone());
        self.seen.remove(&key);
        if let Some(of_unit) = self.of_unit.get_mut(&record.unit) {
            of_unit.remove(&key);
            if of_unit.is_empty() {
                self.of_unit.remove(&record.unit);
            }
        }
    }

    fn count(&mut self, sighting: &Sighting) {
        let mut key = (sighting.category, sighting.severity, sighting.unit.clone());
        if self.counters.len() >= limits::ERROR_COUNTERS && !self.counters.contains_key(&key) {
            key.2 = String::new();
        }
        *self.counters.entry(key).or_default() += 1;
    }

    fn make_room(&mut self) {
        while self.records.len() >= limits::ERRORS_KEPT {
            let Some((_, id, fingerprint)) = self.seen.pop_first() else { return };
            if let Some(oldest) = self.records.remove(&fingerprint) {
                self.unindex(&oldest);
            }
            self.dirty.remove(&fingerprint);
            self.dropped.push(id);
        }
    }

    /// Latest first.
    pub fn iter(&self) -> impl Iterator<Item = &ErrorRecord> {
        self.seen.iter().rev().filter_map(|(_, _, fingerprint)| self.records.get(fingerprint))
    }

    /// The latest of a unit.
    pub fn latest_of(&self, unit: &str) -> Option<&ErrorRecord> {
        let (_, _, fingerprint) = self.of_unit.get(unit)?.last()?;
        self.records.get(fingerprint)
    }

    /// What changed since the last call: records to write, ids to forget.
    pub fn take_changes(&mut self) -> (Vec<ErrorRecord>, Vec<u64>) {
        let dirty = std::mem::take(&mut self.dirty);
        let records = dirty.iter().filter_map(|fingerprint| self.records.get(fingerprint).cloned());
        (records.collect(), std::mem::take(&mut self.dropped))
    }

    pub fn has_changes(&self) -> bool {
        !self.dirty.is_empty() || !self.dropped.is_empty()
    }

    pub fn stats(&self) -> ErrorStats {
        let mut stats = ErrorStats { distinct: self.records.len() as u64, ..ErrorStats::default() };
        // That of a record which only follows from others has been counted with them.
        for record in self.records.values().filter(|record| !record.follows) {
            stats.total += record.count;
            *stats.by_category.entry(record.category.to_string()).or_default() += record.count;
            *stats.by_severity.entry(record.severity.to_string()).or_default() += record.count;
            *stats.by_unit.entry(record.unit.clone()).or_default() += record.count;
        }
        stats
    }

    /// Failures seen by this daemon.
    pub fn counters(&self) -> &BTreeMap<CounterKey, u64> {
        &self.counters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sighting(fingerprint: &str, at: i64) -> Sighting {
        Sighting {
            fingerprint: fingerprint.into(),
            category: Category::Crash,
            severity: Severity::Recoverable,
            unit: "service/a".into(),
            incarnation: Some(at as u64),
            revision: 1,
            message: format!("{fingerprint} at {at}"),
            at: Stamp(at),
            cause: Some(7),
            context: Context::from([("reason".into(), "ExitCode".into())]),
            follows: false,
        }
    }

    #[test]
    fn repeats_are_counted_and_the_latest_is_told() {
        let mut book = Book::default();
        book.record(sighting("x", 1));
        book.record(sighting("y", 2));
        let record = book.record(sighting("x", 3)).clone();
        assert_eq!((record.id, record.count), (1, 2));
        assert_eq!((record.first_seen, record.last_seen), (Stamp(1), Stamp(3)));
        assert_eq!((record.incarnation, record.message.as_str()), (Some(3), "x at 3"));
        assert_eq!(book.iter().map(|record| record.id).collect::<Vec<_>>(), [1, 2]);
        assert_eq!((book.stats().total, book.stats().distinct), (3, 2));
        let key = (Category::Crash, Severity::Recoverable, "service/a".to_owned());
        assert_eq!(book.counters()[&key], 3);
    }

    #[test]
    fn what_only_follows_from_other_failures_is_a_record_and_counted_nowhere() {
        let mut book = Book::default();
        book.record(sighting("x", 1));
        let follows = Sighting { follows: true, severity: Severity::Fatal, ..sighting("circuit", 2) };
        assert_eq!(book.record(follows).count, 1);
        assert_eq!(book.iter().count(), 2);
        let stats = book.stats();
        assert_eq!((stats.total, stats.by_unit["service/a"], stats.by_severity.get("fatal")), (1, 1, None));
        assert_eq!(book.counters().values().sum::<u64>(), 1);
    }

    #[test]
    fn what_changed_is_given_once_and_the_oldest_makes_room() {
        let mut book = Book::default();
        for n in 0..=limits::ERRORS_KEPT {
            book.record(sighting(&n.to_string(), n as i64));
        }
        assert_eq!(book.iter().count(), limits::ERRORS_KEPT);
        let (records, dropped) = book.take_changes();
        assert_eq!((records.len(), dropped), (limits::ERRORS_KEPT, vec![1]));
        assert!(!book.has_changes());
    }

    #[test]
    fn the_latest_of_a_unit_is_known_without_looking_at_others() {
        let mut book = Book::default();
        book.record(sighting("x", 1));
        book.record(sighting("y", 2));
        book.record(Sighting { unit: "service/b".into(), ..sighting("z", 3) });
        let latest = |book: &Book, unit: &str| book.latest_of(unit).map(|record| record.fingerprint.clone());
        assert_eq!(latest(&book, "service/a").as_deref(), Some("y"));
        assert!(book.knows("service/a", 2) && !book.knows("service/a", 3) && !book.knows("service/c", 1));
        book.record(sighting("x", 4));
        assert_eq!(latest(&book, "service/a").as_deref(), Some("x"));
        let mut book = Book::restore(book.take_changes().0);
        assert_eq!(latest(&book, "service/b").as_deref(), Some("z"));
        for n in 0..limits::ERRORS_KEPT {
            book.record(sighting(&n.to_string(), 5));
        }
        assert_eq!(latest(&book, "service/b"), None, "what makes room is not found any more");
    }

    #[test]
    fn ids_go_on_after_a_restart() {
        let mut book = Book::default();
        book.record(sighting("x", 1));
        let mut again = Book::restore(book.take_changes().0);
        assert_eq!(again.record(sighting("x", 2)).count, 2);
        assert_eq!(again.record(sighting("y", 2)).id, 2);
    }
}

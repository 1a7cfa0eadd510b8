//! How much of what happened a notifier has told, kept for the next daemon: what it had not when it died is told by that one.
//! A message that was under way is told twice rather than never. No clock, no file.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::Stamp;

use super::super::book::ErrorRecord;

const VERSION: u32 = 1;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Told {
    version: u32,
    /// What it is to tell, as it was written. For another filter all begins anew.
    on: String,
    /// What happened before is history.
    since: Stamp,
    /// How often each failure had happened when it was told last, by fingerprint.
    counts: BTreeMap<String, u64>,
    /// For so long what comes next has been tried in vain, as daemons measured it: no clock that somebody sets counts.
    #[serde(default)]
    tried_ms: u64,
}

impl Told {
    /// Nothing is owed.
    pub fn new(on: String, now: Stamp) -> Self {
        Self { version: VERSION, on, since: now, counts: BTreeMap::new(), tried_ms: 0 }
    }

    /// For another filter all begins anew, but for what waits, each with how often it happened.
    pub fn of_waiting<'a>(
        on: String,
        now: Stamp,
        waiting: impl Iterator<Item = (&'a ErrorRecord, u64)>,
    ) -> Self {
        let mut told = Self::new(on, now);
        for (record, times) in waiting {
            let before = record.count.saturating_sub(times);
            let known = told.counts.entry(record.fingerprint.clone()).or_insert(before);
            *known = before.min(*known);
        }
        told
    }

    /// What an earlier daemon kept of a notifier of this name; `None`: it cannot be used.
    pub fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok().filter(|told: &Self| told.version == VERSION)
    }

    /// What it was to tell, as it was written.
    pub fn on(&self) -> &str {
        &self.on
    }

    /// How often it has happened without being told.
    pub fn owed(&self, record: &ErrorRecord) -> u64 {
        match self.counts.get(&record.fingerprint) {
            Some(told) => record.count.saturating_sub(*told),
            None if record.first_seen >= self.since => record.count,
            // How much of it is history is not known.
            None => u64::from(record.last_seen >= self.since),
        }
    }

    pub fn tried(&self) -> Duration {
        Duration::from_millis(self.tried_ms)
    }

    /// It has been tried in vain for so long.
    pub fn try_again(&mut self, tried: Duration) {
        self.tried_ms = u64::try_from(tried.as_millis()).unwrap_or(u64::MAX);
    }

    /// It was told, or given up.
    pub fn tell(&mut self, record: &ErrorRecord) {
        let count = self.counts.entry(record.fingerprint.clone()).or_default();
        *count = record.count.max(*count);
    }

    /// Of what nobody remembers any more nothing is owed.
    pub fn keep<'a>(&mut self, known: impl Iterator<Item = &'a ErrorRecord>) {
        let known: std::collections::BTreeSet<&str> =
            known.map(|record| record.fingerprint.as_str()).collect();
        self.counts.retain(|fingerprint, _| known.contains(fingerprint.as_str()));
    }
}

#[cfg(test)]
mod tests {
    use super::super::desk::tests::record;
    use super::*;

    fn seen(fingerprint: &str, count: u64, first: i64, last: i64) -> ErrorRecord {
        ErrorRecord { count, first_seen: Stamp(first), last_seen: Stamp(last), ..record(fingerprint) }
    }

    #[test]
    fn what_happened_since_and_was_not_told_is_owed() {
        let mut told = Told::new("{}".into(), Stamp(100));
        told.tell(&seen("told", 3, 110, 120));
        for (record, owed) in [
            (seen("history", 9, 10, 20), 0),
            (seen("told", 3, 110, 120), 0),
            (seen("told", 5, 110, 140), 2),
            (seen("new", 4, 130, 140), 4),
            (seen("history again", 9, 10, 130), 1),
        ] {
            assert_eq!(told.owed(&record), owed, "{}", record.fingerprint);
        }
        told.tell(&seen("told", 2, 110, 115));
        assert_eq!(told.owed(&seen("told", 5, 110, 140)), 2, "a letter may be overtaken by a later one");
        told.keep([&seen("other", 1, 1, 1)].into_iter());
        assert!(told.counts.is_empty());
    }

    #[test]
    fn for_another_filter_only_what_waits_is_owed() {
        let (waits, told) = (seen("waits", 5, 10, 20), seen("told", 3, 10, 20));
        let waiting = [(&waits, 1), (&seen("waits", 4, 10, 15), 2)];
        let told_then = Told::of_waiting("{}".into(), Stamp(100), waiting.into_iter());
        assert_eq!((told_then.owed(&waits), told_then.owed(&told)), (3, 0));
    }

    #[test]
    fn it_is_kept_for_the_same_version() {
        let mut told = Told::new("{}".into(), Stamp(100));
        told.tell(&record("x"));
        told.try_again(Duration::from_secs(90));
        let text = serde_json::to_string(&told).unwrap();
        assert_eq!(Told::read(&text), Some(told.clone()));
        assert_eq!(told.tried(), Duration::from_secs(90));
        let before = text.replace(",\"triedMs\":90000", "");
        assert!(
            Told::read(&before).is_some_and(|told| told.tried().is_zero()),
            "as earlier versions wrote it"
        );
        assert_eq!(Told::read(&text.replace("\"version\":1", "\"version\":2")), None);
        assert_eq!(Told::read("torn"), None);
    }
}

//! What a notifier sends and when: filter, rate, grouping, retries, dead letters. No clock, no socket: the time is handed in.
//!
//! ```text
//! offer ──filter──▶ may be sent now? ──yes──▶ a letter of its own ─▶ waiting ─▶ in flight ──▶ delivered
//!                        └──no──▶ the group, one letter when its turn comes          └─failed─▶ again after 1 s × 2 … 5 min,
//!                                                                                              for an hour; then a dead letter
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::base::{BackoffCurve, Category, Instant, Rng, Severity, limits};

use super::super::book::ErrorRecord;

/// What one notifier is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Empty lists let everything pass.
    pub severity: Vec<Severity>,
    pub categories: Vec<Category>,
    /// Names without their kind.
    pub services: Vec<String>,
}

impl Filter {
    pub fn passes(&self, record: &ErrorRecord) -> bool {
        let name = record.unit.rsplit('/').next().unwrap_or_default();
        (self.severity.is_empty() || self.severity.contains(&record.severity))
            && (self.categories.is_empty() || self.categories.contains(&record.category))
            && (self.services.is_empty() || self.services.iter().any(|service| service == name))
            // A notifier's own failure, told by itself, would go round for ever.
            && !record.unit.starts_with("notifier/")
    }
}

/// One message.
#[derive(Clone, Debug, PartialEq)]
pub struct Letter {
    /// What happened, each with how often since the last message.
    pub errors: Vec<(ErrorRecord, u64)>,
    /// Failures that there was no room for.
    pub omitted: u64,
    first_try: Option<Instant>,
    /// So long by an earlier daemon.
    tried_before: Duration,
    tries: u32,
}

impl Letter {
    fn tried(&self, now: Instant) -> Duration {
        self.tried_before + self.first_try.map_or(Duration::ZERO, |first| now.since(first))
    }

    /// Whom it is about, in few words.
    pub fn subject(&self) -> String {
        let mut units: Vec<&str> = Vec::new();
        for (record, _) in &self.errors {
            if !units.contains(&record.unit.as_str()) {
                units.push(&record.unit);
            }
        }
        match units[..] {
            [] => format!("{} failures", self.omitted),
            [one] => one.to_owned(),
            [one, other] => format!("{one} and {other}"),
            [one, ref more @ ..] => format!("{one} and {} more", more.len()),
        }
    }
}

/// What is to be done now.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    Send(Letter),
    /// Nothing before then, or before something is offered or answered.
    Wait(Option<Instant>),
}

/// What came of a failed attempt.
#[derive(Clone, Debug, PartialEq)]
pub enum Failed {
    Again,
    Dead(Letter),
}

const WINDOW: Duration = Duration::from_secs(60);
const RETRY: BackoffCurve =
    BackoffCurve { initial: Duration::from_secs(1), factor: 2.0, max: Duration::from_secs(300), jitter: 0.1 };

#[derive(Clone, Debug)]
pub struct Desk {
    filter: Filter,
    /// Messages a minute.
    rate: usize,
    rng: Rng,
    /// When the messages of the last minute were begun.
    begun: VecDeque<Instant>,
    waiting: VecDeque<Letter>,
    /// By fingerprint, with a place in the order of their coming.
    group: BTreeMap<String, (u64, ErrorRecord, u64)>,
    order: u64,
    omitted: u64,
    in_flight: bool,
    /// The first letter is tried again then.
    again_at: Option<Instant>,
    /// For so long an earlier daemon tried what comes first.
    tried: Duration,
    /// It was another one when what is in flight was sent.
    edited_since: bool,
}

impl Desk {
    pub fn new(filter: Filter, rate: u32, seed: u64) -> Self {
        Self {
            filter,
            rate: rate.max(1) as usize,
            rng: Rng::new(seed),
            begun: VecDeque::new(),
            waiting: VecDeque::new(),
            group: BTreeMap::new(),
            order: 0,
            omitted: 0,
            in_flight: false,
            again_at: None,
            tried: Duration::ZERO,
            edited_since: false,
        }
    }

    /// From now on it is this one: what waits is tried at once, and has waited since when it did.
    pub fn edited(&mut self, filter: Filter, rate: u32) {
        (self.filter, self.rate) = (filter, rate.max(1) as usize);
        (self.again_at, self.edited_since) = (None, self.in_flight);
        if let Some(letter) = self.waiting.front_mut() {
            letter.tries = 0;
        }
    }

    /// What is not delivered, each with how often it happened.
    pub fn waiting(&self) -> impl Iterator<Item = (&ErrorRecord, u64)> {
        let letters = self.waiting.iter().flat_map(|letter| &letter.errors);
        let group = self.group.values().map(|(_, record, count)| (record, *count));
        letters.map(|(record, count)| (record, *count)).chain(group)
    }

    /// An earlier daemon tried for so long to tell what is owed: that counts.
    pub fn has_tried(&mut self, so_long: Duration) {
        self.tried = so_long;
    }

    /// How long the first letter has been tried in vain.
    pub fn tried(&self, now: Instant) -> Duration {
        self.waiting.front().map_or(Duration::ZERO, |letter| letter.tried(now))
    }

    /// Something happened. A letter of its own while the rate allows and none is being tried again; else it joins the group.
    pub fn offer(&mut self, now: Instant, record: ErrorRecord) {
        if !self.filter.passes(&record) {
            return;
        }
        self.forget_old(now);
        let quiet = self.group.is_empty() && self.again_at.is_none() && self.omitted == 0;
        if quiet && self.begun.len() < self.rate && self.waiting.len() < limits::NOTICES_WAITING {
            self.begin(now, vec![(record, 1)], 0);
            return;
        }
        if let Some((_, known, count)) = self.group.get_mut(&record.fingerprint) {
            (*known, *count) = (record, *count + 1);
        } else if self.group.len() < limits::NOTICES_GROUPED {
            self.order += 1;
            self.group.insert(record.fingerprint.clone(), (self.order, record, 1));
        } else {
            self.omitted += 1;
        }
    }

    /// So often it happened before there was this desk, and passed the filter of then: one letter with all such is what comes first.
    pub fn owe(&mut self, record: ErrorRecord, times: u64) {
        if times == 0 {
            return;
        }
        if self.group.len() < limits::NOTICES_GROUPED {
            self.order += 1;
            self.group.insert(record.fingerprint.clone(), (self.order, record, times));
        } else {
            self.omitted += times;
        }
    }

    /// So many did not even reach the desk.
    pub fn lost(&mut self, count: u64) {
        self.omitted += count;
    }

    fn begin(&mut self, now: Instant, errors: Vec<(ErrorRecord, u64)>, omitted: u64) {
        self.begun.push_back(now);
        self.waiting.push_back(Letter {
            errors,
            omitted,
            first_try: None,
            tried_before: Duration::ZERO,
            tries: 0,
        });
    }

    fn forget_old(&mut self, now: Instant) {
        while self.begun.front().is_some_and(|at| *at + WINDOW <= now) {
            self.begun.pop_front();
        }
    }

    /// One letter at a time, in order.
    pub fn next(&mut self, now: Instant) -> Next {
        if self.in_flight {
            return Next::Wait(None);
        }
        if let Some(at) = self.again_at.filter(|at| *at > now) {
            return Next::Wait(Some(at));
        }
        self.forget_old(now);
        if self.waiting.is_empty() && (!self.group.is_empty() || self.omitted > 0) {
            if self.begun.len() >= self.rate {
                return Next::Wait(self.begun.front().map(|at| *at + WINDOW));
            }
            self.close_group(now);
        }
        let Some(letter) = self.waiting.front_mut() else { return Next::Wait(None) };
        if letter.first_try.is_none() {
            (letter.first_try, letter.tried_before) = (Some(now), std::mem::take(&mut self.tried));
        }
        letter.tries += 1;
        self.in_flight = true;
        self.again_at = None;
        Next::Send(letter.clone())
    }

    fn close_group(&mut self, now: Instant) {
        let mut errors: Vec<_> = std::mem::take(&mut self.group).into_values().collect();
        errors.sort_by_key(|(order, ..)| *order);
        let errors = errors.into_iter().map(|(_, record, count)| (record, count)).collect();
        let omitted = std::mem::take(&mut self.omitted);
        self.begin(now, errors, omitted);
    }

    /// The letter that was.
    pub fn delivered(&mut self) -> Option<Letter> {
        (self.in_flight, self.edited_since) = (false, false);
        self.waiting.pop_front()
    }

    /// The attempt failed: again later, or never once an hour has passed.
    pub fn failed(&mut self, now: Instant) -> Failed {
        self.in_flight = false;
        if std::mem::take(&mut self.edited_since) {
            return Failed::Again;
        }
        let Some(letter) = self.waiting.front() else { return Failed::Again };
        let at = now + RETRY.delay(letter.tries.saturating_sub(1), &mut self.rng);
        if letter.tried(at) > limits::NOTIFIER_PATIENCE
            && let Some(dead) = self.waiting.pop_front()
        {
            return Failed::Dead(dead);
        }
        self.again_at = Some(at);
        Failed::Again
    }

    /// Everything that was not delivered: the notifier ends.
    pub fn close(mut self, now: Instant) -> Vec<Letter> {
        if !self.group.is_empty() || self.omitted > 0 {
            self.close_group(now);
        }
        self.waiting.into()
    }
}

#[cfg(test)]
#[path = "desk_tests.rs"]
pub(super) mod tests;

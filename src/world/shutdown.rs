//! The way down: everything stops in reverse order, and by when it has to have.
//!
//! Until it would be too late for whoever has the longest grace, at the earliest half-way, the order is kept. Then what still
//! runs is stopped together; what is left at the end is killed, and named.

use std::time::Duration;

use crate::base::{Instant, Name, Now, Seat, format_duration};
use crate::plan::Verb;
use crate::unit::{Fact, whole};

use super::World;
use super::checkpoint::rested;
use super::chronicle::Entry;
use super::effect::Effect;
use super::event::Cause;
use super::orders::row;

/// An init has to end: whoever waits for it kills everything at some time. What systemd gives each unit (DefaultTimeoutStopSec).
const AS_INIT: Duration = Duration::from_secs(90);
/// What is still there then is killed again.
const AGAIN: Duration = Duration::from_secs(2);
/// Names in one message.
const NAMED: usize = 8;

/// How long everything may take to stop: as was asked for now, as System says, else without end but for an init.
pub fn time_to_stop(asked: Option<Duration>, declared: Option<Duration>, is_init: bool) -> Option<Duration> {
    asked.or(declared).or(is_init.then_some(AS_INIT))
}

/// By when everything has to have stopped.
#[derive(Clone, Copy, Debug)]
pub(super) struct StopBy {
    at: Instant,
    /// From then on the order counts no more.
    together_at: Instant,
    pace: Pace,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    InOrder,
    Together,
    Killed,
}

impl StopBy {
    fn new(now: Instant, at: Instant, longest_grace: Duration) -> Self {
        let left = at.since(now);
        Self { at, together_at: now + (left - longest_grace.min(left / 2)), pace: Pace::InOrder }
    }

    fn due(&self) -> Option<Instant> {
        match self.pace {
            Pace::InOrder => Some(self.together_at),
            Pace::Together => Some(self.at),
            // A postStop hook may have begun since.
            Pace::Killed => Some(self.at + AGAIN),
        }
    }
}

impl World {
    pub(super) fn shut_down(&mut self, now: Now, by: &str, at_once: bool) {
        if self.down.is_none() {
            let entry = Entry {
                warning: false,
                reason: "ShuttingDown",
                object: &"system",
                message: format!("everything is stopped: {by}"),
                change: None,
                cause: None,
            };
            let record = self.announce(now, entry);
            self.down = Some(by.to_owned());
            self.going_down_by();
            self.begun = true;
            let names: Vec<Name> = self.units.keys().cloned().collect();
            let rows = names
                .iter()
                .filter(|name| self.units.get(*name).is_some_and(|unit| !unit.is_gone()))
                .map(|name| (name.clone(), row(&self.object(name), Verb::Stop, by)))
                .collect();
            let rows: Vec<_> = rows;
            if !rows.is_empty() {
                self.open_change(now, Cause::new("ShutDown", by), rows);
            }
            for name in names {
                let Some(unit) = self.units.get_mut(&name) else { continue };
                unit.cause = Some(record);
                let rests = unit.serving().any(|slot| rested(slot, unit).is_some());
                // Started though it is disabled: that is over with everything else.
                let started = unit.overrides.started.take().is_some();
                // What has failed is tried again as often as at first.
                let tried = unit.slots.values().any(|slot| slot.restart.attempt > 0);
                if rests || started || tried {
                    self.save_unit(now, &name);
                }
                self.dirty.insert(name);
            }
        }
        if at_once {
            self.kill_everything(now);
        }
    }

    fn kill_everything(&mut self, now: Now) {
        let all: Vec<_> = self
            .units
            .iter()
            .flat_map(|(name, unit)| unit.slots.keys().map(|seat| (name.clone(), *seat)))
            .collect();
        for (name, seat) in all {
            self.apply(now, &name, seat, Fact::KillNow);
        }
    }

    /// Once everything is stopped, it has to have by then. The sooner one counts.
    pub(super) fn stop_by(&mut self, now: Now, at: Instant) {
        if self.stop_by.is_some_and(|known| known.at <= at) {
            return;
        }
        let slots = self.units.values().flat_map(|unit| unit.slots.values());
        let running = slots.filter_map(|slot| slot.instance.as_ref());
        let grace = running.map(|instance| instance.spec.policy.stop.grace).max().unwrap_or_default();
        // Who has been told to stop together stays so.
        let pace = self.stop_by.map_or(Pace::InOrder, |known| known.pace);
        self.stop_by = Some(StopBy { pace, ..StopBy::new(now.mono, at, grace) });
        if self.down.is_some() {
            self.going_down_by();
        }
    }

    /// The keeper knows it, whoever dies.
    fn going_down_by(&mut self) {
        let Some(by) = self.down.clone() else { return };
        self.effects.push_back(Effect::GoingDown { by, until: self.stop_by.map(|stop_by| stop_by.at) });
    }

    pub fn is_going_down(&self) -> bool {
        self.down.is_some()
    }

    /// Nobody waits for its dependents any more.
    pub(super) fn stops_together(&self) -> bool {
        self.down.is_some() && self.stop_by.is_some_and(|stop_by| stop_by.pace != Pace::InOrder)
    }

    pub(super) fn stop_due(&self) -> Option<Instant> {
        self.stop_by.filter(|_| self.down.is_some() && !self.finished)?.due()
    }

    /// What is due of [`StopBy`].
    pub(super) fn hurry(&mut self, now: Now) {
        while let (Some(due), Some(mut stop_by)) = (self.stop_due(), self.stop_by) {
            if due > now.mono {
                return;
            }
            match stop_by.pace {
                Pace::InOrder => stop_by.pace = Pace::Together,
                Pace::Together => stop_by.pace = Pace::Killed,
                Pace::Killed => stop_by.at = now.mono,
            }
            self.stop_by = Some(stop_by);
            match stop_by.pace {
                Pace::InOrder | Pace::Together => self.stop_together(now, stop_by.at),
                Pace::Killed => self.kill_late(now),
            }
        }
    }

    fn stop_together(&mut self, now: Now, at: Instant) {
        let waits = self.units.iter().filter(|(_, unit)| unit.waiting.is_some() && !unit.is_gone());
        let waits: Vec<Name> = waits.map(|(name, _)| name.clone()).collect();
        self.dirty.extend(self.units.keys().cloned());
        if waits.is_empty() {
            return;
        }
        let message = format!(
            "everything has to have stopped in {}: what still waits is stopped together ({})",
            format_duration(whole(at.since(now.mono))),
            self.listed(&waits)
        );
        self.tell_of_system(now, "StopsTogether", message);
    }

    /// The time is over.
    fn kill_late(&mut self, now: Now) {
        let slots =
            self.units.iter().flat_map(|(name, unit)| unit.slots.values().map(move |slot| (name, slot)));
        let late: Vec<(Name, Seat)> = slots
            .filter(|(_, slot)| slot.state.process().is_some())
            .map(|(name, slot)| (name.clone(), slot.seat))
            .collect();
        let mut names: Vec<Name> = late.iter().map(|(name, _)| name.clone()).collect();
        names.dedup();
        if !names.is_empty() {
            let message =
                format!("the time to stop is over: what had not stopped is killed ({})", self.listed(&names));
            self.tell_of_system(now, STOP_DEADLINE, message);
        }
        for (name, seat) in late {
            let cause = self.slot_cause(&name, seat);
            self.tell(
                now,
                &name,
                seat,
                true,
                STOP_DEADLINE,
                "is killed: the time for everything to stop is over",
                cause,
            );
        }
        self.kill_everything(now);
    }

    fn listed(&self, names: &[Name]) -> String {
        let objects = names.iter().take(NAMED).map(|name| self.object(name).to_string());
        let words = objects.collect::<Vec<_>>().join(", ");
        match names.len().saturating_sub(NAMED) {
            0 => words,
            more => format!("{words} and {more} more"),
        }
    }

    fn tell_of_system(&mut self, now: Now, reason: &'static str, message: String) {
        let entry = Entry { warning: true, reason, object: &"system", message, change: None, cause: None };
        self.announce(now, entry);
    }
}

/// The reason of what tells that something was killed because the time to stop was over.
pub const STOP_DEADLINE: &str = "StopDeadline";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_kept_until_the_longest_grace_is_left_and_half_of_the_time_at_least() {
        let secs = Duration::from_secs;
        let start = Instant(1_000_000_000);
        for (within, grace, together) in [(30, 10, 20), (30, 0, 30), (30, 25, 15), (0, 10, 0)] {
            let stop_by = StopBy::new(start, start + secs(within), secs(grace));
            assert_eq!(stop_by.due(), Some(start + secs(together)), "{within} {grace}");
        }
    }

    #[test]
    fn what_is_asked_for_counts_before_what_is_declared_and_an_init_has_an_end() {
        let secs = |count| Some(Duration::from_secs(count));
        assert_eq!(time_to_stop(secs(1), secs(2), true), secs(1));
        assert_eq!(time_to_stop(None, secs(2), true), secs(2));
        assert_eq!(time_to_stop(None, None, true), Some(AS_INIT));
        assert_eq!(time_to_stop(None, None, false), None);
    }
}

//! What follows the end of an instance: how it is told, where its seat goes, what it means for breaker and rollout.

use std::time::Duration;

use crate::base::{Exit, Generation, InstanceId, Name, Now, Part, Role, Seat};
use crate::plan::Drift;
use crate::unit::lifecycle::Rest;
use crate::unit::{AfterEnd, Circuit, End, EndReason, Fact, Lifecycle, ProbeBoard, StopPhase};

use super::World;
use super::chronicle::{CIRCUIT_OPEN, Entry};
use super::effect::{Effect, Failure};
use super::state::{Completed, LastEnd, Slot};
use super::words::{end_reason, end_words, overrun_words};

/// What is said besides of a main program that has left the others to themselves.
const FORKED: &str = ", while processes of it ran on: it goes into the background, and is watched only in the foreground (as nginx with -g 'daemon off;')";

/// What becomes of one whose program, or the directory that it runs in, was not as it has to be.
pub(super) const TRIED_AGAIN: &str = "; it is tried again once that is another file";

impl World {
    /// Nothing is left of the instance: where does the seat go?
    pub(super) fn ended(&mut self, now: Now, name: &Name, seat: Seat, end: End) {
        self.stop_watching(name, seat);
        let Some(id) = self.instance_id(name, seat) else { return };
        self.effects.push_back(Effect::Forget { id: id.clone() });
        let mut words = end_words(&end);
        let instance = self.instance_mut(name, seat);
        if let Some(instance) = instance {
            words.extend(overrun_words(&end, &instance.spec.policy));
            if end.reason == EndReason::Exited && instance.forked {
                words.push_str(FORKED);
            }
        }
        let mut sooner = None;
        let failure = self.units.get(name).is_some_and(|unit| {
            let instance = unit.slots.get(&seat).and_then(|slot| slot.instance.as_ref());
            let policy = &instance.map_or(&unit.spec, |instance| &instance.spec).policy;
            let through =
                instance.and_then(|instance| instance.board.as_ref()).is_some_and(ProbeBoard::is_through);
            // What readiness it had is over with it.
            let available =
                (through || !policy.is_seen_to_start()) && end.ran_for(now.mono) >= policy.update.min_ready;
            let failure = end.is_failure(policy, available);
            let by_itself = matches!(end.exit, Some(Exit::Code(_)));
            sooner = (failure && by_itself && end.is_success(policy)).then_some(policy.update.min_ready);
            failure
        });
        if let Some(min_ready) = sooner {
            let min_ready = crate::base::format_duration(min_ready);
            words.push_str(&format!(
                ", before it was Ready for {min_ready} (minReady): with policy Always a failed start"
            ));
        }
        self.announce_end(now, name, seat, &end, failure, &words);
        let wanted = self
            .units
            .get(name)
            .is_some_and(|unit| matches!(self.wish(name, unit), crate::plan::Wish::Up { .. }));
        let Some(unit) = self.units.get_mut(name) else { return };
        let generation = unit.generation;
        let Some(slot) = unit.slots.get_mut(&seat) else { return };
        let record = slot.cause;
        let (spec, started_with, frozen) = match slot.instance.take() {
            Some(instance) => {
                let through = instance.board.as_ref().is_some_and(ProbeBoard::is_through);
                slot.restart.answered = through && instance.spec.policy.is_seen_to_start();
                (instance.spec, instance.generation, instance.frozen)
            }
            None => (unit.spec.clone(), generation, None),
        };
        let policy = &spec.policy;
        unit.completed_once |= policy.job && end.is_success(policy);
        let after = slot.restart.after_end(policy, &end, failure, now.mono, &mut self.rng);
        // A circuit is the serving ones', and keeps dependents waiting: an incoming one that fails as often only waits as long itself,
        // where its rollout has not gone back.
        let after = match (after, &policy.breaker) {
            (AfterEnd::RestartAt(until), Some(breaker))
                if failure
                    && seat.role == Role::Incoming
                    && slot.restart.attempt >= breaker.failures.max(crate::rollout::CRASHES)
                    && !end.is_want_of_resources() =>
            {
                AfterEnd::RestartAt(until.max(now.mono + breaker.open_for))
            }
            (after, _) => after,
        };
        if end.ran_for(now.mono) >= policy.restart.reset_after
            && unit.changed.is_some_and(|(_, generation)| generation == started_with)
        {
            unit.changed = None;
        }
        let failed = failure.then(|| {
            Box::new(Failure {
                id: id.clone(),
                spec: spec.clone(),
                generation: started_with,
                ran_for: end.ran_for(now.mono),
                end: end.clone(),
                words: words.clone(),
                frozen,
                at: now.wall,
                restarts: slot.restart.restarts,
                permanent: matches!(after, AfterEnd::Failed(_)),
                record,
                again: false,
            })
        });
        let last = LastEnd { end: end.clone(), at: now.wall, incarnation: id.incarnation, words };
        slot.last_end = Some(Box::new(last));
        // What became of it without a new process, it rests for: an edit may have come while its last hook ran.
        slot.rested_at = if matches!(slot.drift, Drift::Replace(_)) { started_with } else { generation };
        (slot.ready_since, slot.available) = (None, false);
        (slot.reloading, slot.unread) = (None, None);
        let ran =
            super::Version { spec: spec.clone(), generation: started_with, revision: unit.rollout.revision };
        let former = Self::former_version(unit, &ran, seat, &end);
        if let Some(slot) = unit.slots.get_mut(&seat) {
            slot.former = former;
        }
        self.loosen(name, &spec);
        self.dirty.extend(std::mem::take(&mut self.waiting_for_port));
        let Some(slot) = self.units.get_mut(name).and_then(|unit| unit.slots.get_mut(&seat)) else { return };
        let outcome = after.clone();
        let completed = match &after {
            AfterEnd::Done(exit) if policy.job => {
                Some(Completed { program: spec.launch.program(), exit: *exit })
            }
            _ => None,
        };
        let (rest, warning) = match after {
            // What has run need not run again, though nobody wanted it just as it ended.
            AfterEnd::Done(exit) if policy.job => (Rest::Done(exit), None),
            _ if !wanted => (Rest::Idle, None),
            AfterEnd::Idle => (Rest::Idle, None),
            AfterEnd::RestartAt(until) if until <= now.mono => (Rest::Idle, None),
            AfterEnd::RestartAt(until) => {
                let wait = crate::base::format_duration(std::time::Duration::from_millis(
                    (until - now.mono).as_millis() as u64,
                ));
                (Rest::Backoff { until }, Some(("BackOff", format!("is started again in {wait}"))))
            }
            AfterEnd::Done(exit) => (Rest::Done(exit), None),
            AfterEnd::Failed(reason) => {
                let last = slot.last_end.as_ref().map(|last| last.words.clone()).unwrap_or_default();
                let why = match slot.restart.misconfigured {
                    Some(_) => ", for its configuration, as the time before",
                    None if reason.is_of_program() => TRIED_AGAIN,
                    None => "",
                };
                // What a Job lacked is mostly elsewhere: nothing tells that it is there now.
                let again =
                    if policy.job { format!("; `unisys start {name}` runs it again") } else { String::new() };
                (
                    Rest::Failed(reason),
                    Some(("Failed", format!("is not started again: it {last}{why}{again}"))),
                )
            }
        };
        if let Some(unit) = self.units.get_mut(name) {
            unit.completed = completed;
        }
        self.effects.extend(failed.map(Effect::Failed));
        // The serving ones are well: what an incoming one does is its rollout's business. And a circuit is there for what a
        // program does again and again, not for what the machine lacks.
        if failure && seat.role == Role::Serving && !end.is_want_of_resources() {
            self.breaker_failed(now, name, seat);
        }
        self.apply(now, name, seat, Fact::Rest(rest));
        // An open circuit has said when it is started again.
        let open =
            self.units.get(name).is_some_and(|unit| matches!(unit.breaker.circuit(), Circuit::Open { .. }));
        if let Some((reason, message)) = warning.filter(|(reason, _)| !(open && *reason == "BackOff")) {
            self.warn(now, name, seat, reason, &message);
        }
        let given_up = failure && self.count_crash(now, &id, started_with, seat, &end, &outcome);
        if matches!(&outcome, AfterEnd::Failed(reason) if wanted && reason.is_of_program()) && !given_up {
            self.effects.push_back(Effect::WatchProgram { name: name.clone(), spec, since: now.wall });
        }
        self.save_unit(now, name);
    }

    /// Nothing hangs on it but what it was to clean up: the way out goes on.
    pub(super) fn stop_hook_failed(&mut self, now: Now, name: &Name, seat: Seat, part: Part, words: &str) {
        let slot = self.units.get(name).and_then(|unit| unit.slots.get(&seat));
        let phase = match slot.map(|slot| &slot.state) {
            Some(Lifecycle::Stopping(stopping)) => &stopping.phase,
            _ => return,
        };
        let what = match (part, phase) {
            (Part::StopCommand, StopPhase::Command { .. }) => "stop.command".to_owned(),
            (Part::PostStop(hook), StopPhase::PostStop { hook: of, .. }) if hook == *of => {
                format!("postStop hook {}", hook + 1)
            }
            _ => return,
        };
        self.warn(now, name, seat, "StopHookFailed", &format!("has a {what} that {words}"));
    }

    /// What its seats failed for may be mended: they are tried again, once.
    pub(super) fn program_changed(&mut self, now: Now, name: &Name) {
        let lost = |slot: &Slot| matches!(&slot.state, Lifecycle::Failed(reason) if reason.is_of_program());
        let Some(unit) = self.units.get_mut(name) else { return };
        let seats: Vec<Seat> = unit.slots.values().filter(|slot| lost(slot)).map(|slot| slot.seat).collect();
        for seat in seats {
            self.apply(now, name, seat, Fact::Rest(Rest::Idle));
            let object = self.object(name);
            let entry = Entry {
                warning: false,
                reason: "ProgramChanged",
                object: &object,
                message: format!("{seat} is tried again: what it executes is another file now"),
                change: None,
                cause: self.slot_cause(name, seat),
            };
            let record = self.announce(now, entry);
            self.set_cause(name, seat, record);
            self.touch(name);
        }
    }

    /// An instance failed at its start for an error of its configuration. A rollout that can go back counts crashes by itself.
    pub(super) fn misconfigured(
        &mut self,
        now: Now,
        id: &InstanceId,
        generation: Generation,
        exit: Exit,
        ran_for: Duration,
    ) {
        let Some(unit) = self.units.get_mut(&id.unit).filter(|unit| unit.generation == generation) else {
            return;
        };
        if ran_for >= unit.spec.policy.start_failure() {
            return;
        }
        if unit.before.is_some() && unit.rollout.on_trial(now.mono) {
            return;
        }
        // Of those with its number, the seat in which it ended.
        let ended = |slot: &Slot| {
            slot.seat.ordinal == id.ordinal
                && slot.last_end.as_ref().is_some_and(|last| last.incarnation >= id.incarnation)
        };
        if let Some(slot) = unit.slots.values_mut().find(|slot| ended(slot)) {
            slot.restart.is_misconfigured(exit);
        }
    }

    fn breaker_failed(&mut self, now: Now, name: &Name, seat: Seat) {
        let Some(unit) = self.units.get_mut(name) else { return };
        let Some(policy) = unit.spec.policy.breaker.clone() else { return };
        let trial = !matches!(unit.breaker.circuit(), Circuit::Closed);
        if !unit.breaker.failed(&policy, now.mono) {
            return;
        }
        let times = match policy.failures {
            1 => "once".to_owned(),
            failures => format!("{failures} times"),
        };
        let often = format!("{times} within {}", crate::base::format_duration(policy.window));
        let times = match trial {
            true => format!("its trial failed too, after {often}"),
            false => often,
        };
        let wait = match unit.breaker.circuit() {
            Circuit::Open { until } => crate::base::format_duration(until - now.mono),
            _ => String::new(),
        };
        self.warn(
            now,
            name,
            seat,
            CIRCUIT_OPEN,
            &format!("failed too often ({times}): its circuit is open for {wait}"),
        );
        let cause = self.slot_cause(name, seat);
        if let Some(unit) = self.units.get_mut(name) {
            unit.cause = cause;
        }
    }

    fn announce_end(&mut self, now: Now, name: &Name, seat: Seat, end: &End, failure: bool, words: &str) {
        let object = self.object(name);
        // An exit that nobody asked for is a root, but for a change of its version: nothing else that unisys knows of came before.
        let cause = match end.reason {
            EndReason::Exited => {
                self.run_ordered(name, seat).or_else(|| self.blame(name, seat, end.ran_for(now.mono)))
            }
            _ => self.slot_cause(name, seat),
        };
        let change = self.units.get(name).and_then(|unit| unit.change);
        let mut message = format!("{seat} {words}");
        if end.survivors > 0 {
            message.push_str(&format!("; {} of its processes could not be killed", end.survivors));
        }
        let reason = end_reason(end);
        let reason = if reason == "ExitCode" || reason == "Signal" { "Exited" } else { reason };
        let entry = Entry { warning: failure, reason, object: &object, message, change, cause };
        let record = self.announce(now, entry);
        self.set_cause(name, seat, record);
    }
}

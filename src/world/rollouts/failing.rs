//! When has a rollout failed, and who goes back with it?

use std::borrow::Cow;

use crate::base::{Generation, InstanceId, Name, Now, ObjectRef, Ordinal, Revision, Role, Seat, Stamp};
use crate::plan::{Launch, Verb};
use crate::rollout::{Failure, Phase};
use crate::unit::{AfterEnd, End, ProbeKind};

use crate::world::World;
use crate::world::chronicle::{ChangeAction, Entry, ROLLBACK};
use crate::world::effect::Effect;
use crate::world::event::Cause;
use crate::world::overrides::Rejection;
use crate::world::state::Slot;
use crate::world::words::end_words;

use super::history::outcome;

/// The reason of a failure that is another unit's.
pub const SIBLING: &str = "Sibling";

impl World {
    /// An instance ended and counts as a failure: is that the end of its rollout? True when it is that of a restart, which is given
    /// up and not taken up again by itself.
    pub(in crate::world) fn count_crash(
        &mut self,
        now: Now,
        id: &InstanceId,
        of: Generation,
        seat: Seat,
        end: &End,
        after: &AfterEnd,
    ) -> bool {
        let Some(unit) = self.units.get_mut(&id.unit) else { return false };
        let permanent = matches!(after, AfterEnd::Failed(_));
        let words = end_words(end);
        // A rollout that is complete has nobody on the way in: who is was asked for by a restart. Nor has a first deployment, beside
        // the same version.
        let serving = unit.slots.get(&Seat::serving(seat.ordinal)).and_then(|slot| slot.instance.as_ref());
        let beside_itself = serving.is_some_and(|serving| serving.generation == of);
        let restarted = seat.role == Role::Incoming
            && (unit.rollout.is_complete() || (unit.good.is_none() && beside_itself));
        // What is known to be good follows its restart policy.
        if of == unit.generation && unit.rollout.proved && unit.rollout.is_active() {
            return false;
        }
        if restarted || of != unit.generation || !unit.rollout.on_trial(now.mono) {
            return self.count_restart_crash(now, &id.unit, seat, permanent, &words);
        }
        // What the version before could not execute either, now, is not the edit's fault: it is tried again once it is there.
        if permanent
            && end.is_want_of_program()
            && unit
                .before
                .as_ref()
                .is_some_and(|before| before.spec.launch.executes_the_same(&unit.spec.launch))
        {
            return false;
        }
        let third = unit.rollout.crashed();
        if !permanent && !third {
            return false;
        }
        let (reason, message) = match permanent {
            true => ("PermanentFailure", format!("{seat} {words}")),
            false => ("CrashLoop", format!("{seat} {words}, the {} time", nth(unit.rollout.crashes))),
        };
        self.rollout_failed(now, &id.unit, failure(reason, message, Some(id.clone()), now.wall));
        false
    }

    /// A probe has failed as often as it may. One that was edited under a program that is well, and has never found it so, is
    /// what is wrong: the edit has failed. True when it goes back, and nothing else is to be done about it. The probe that was good
    /// before, edited away and back again, is not what is wrong.
    pub(in crate::world) fn edited_probe_failed(
        &mut self,
        now: Now,
        name: &Name,
        seat: Seat,
        kind: ProbeKind,
        words: &str,
    ) -> bool {
        let Some(unit) = self.units.get(name) else { return false };
        let Some(good) = &unit.before else { return false };
        let same_question = !unit.spec.asks_anew(&good.spec)[kind.index()];
        if same_question && unit.spec.policy.probe(kind) == good.spec.policy.probe(kind) {
            return false;
        }
        let edited = unit.slots.get(&seat).and_then(|slot| slot.instance.as_ref()).is_some_and(|instance| {
            let unproved = instance.board.as_ref().is_some_and(|board| board.is_unproved_edit(kind));
            unproved && instance.generation == unit.generation
        });
        if !edited || unit.rollout.proved || !matches!(unit.rollout.phase, Phase::Progressing) {
            return false;
        }
        let id = self.instance_id(name, seat);
        self.rollout_failed(now, name, failure("ProbeFailed", format!("{seat} {words}"), id, now.wall));
        self.units.get(name).is_some_and(|unit| matches!(unit.rollout.phase, Phase::RollingBack(_)))
    }

    /// A restart that somebody asked for brings up the same version: when it does not get well, the old instance stays. True when
    /// it is given up.
    fn count_restart_crash(
        &mut self,
        now: Now,
        name: &Name,
        seat: Seat,
        permanent: bool,
        words: &str,
    ) -> bool {
        let incoming = seat.role == Role::Incoming;
        let Some(unit) = self.units.get_mut(name).filter(|_| incoming) else { return false };
        unit.restart_crashes += 1;
        if !permanent && unit.restart_crashes < 3 {
            return false;
        }
        unit.restart_crashes = 0;
        unit.restart_given_up = Some(format!("{seat} {words}").into());
        for slot in unit.slots.values_mut() {
            slot.restart_asked = None;
        }
        let message = format!("the restart is given up, the former instance stays: {seat} {words}");
        self.tell_rollout(now, name, true, "RestartFailed", message);
        self.save_unit(now, name);
        true
    }

    /// Why the rollout of a unit has failed, if it has. So has a first deployment that failed for good: there is nothing to go back
    /// to, the unit follows its restart policy, and whether an instance was Ready for a moment before its end says nothing.
    pub fn rollout_failure(&self, now: Now, name: &Name) -> Option<Cow<'_, Failure>> {
        let unit = self.units.get(name)?;
        if let Some(failure) = unit.rollout.failure() {
            return Some(Cow::Borrowed(failure));
        }
        let tried = unit.before.is_none() && unit.rollout.on_trial(now.mono);
        if !tried || !self.has_failed_for_good(name) {
            return None;
        }
        let ready = self.conditions(name).into_iter().find(|condition| condition.kind == "Ready")?;
        Some(Cow::Owned(failure(ready.reason, ready.message, None, ready.since)))
    }

    /// A rollout has failed: everything that the same revision changed goes back to what was good.
    pub(in crate::world) fn rollout_failed(&mut self, now: Now, name: &Name, mut failure: Failure) {
        let Some(unit) = self.units.get_mut(name) else { return };
        let revision = unit.rollout.revision;
        let Some(before) = unit.before.clone() else {
            return self.first_failed(now, name, failure);
        };
        let automatic = unit.spec.policy.update.auto_rollback;
        let stuck = self.lacks(&before.spec).filter(|_| automatic);
        if let Some(why) = &stuck {
            failure.message.push_str(&format!("; it cannot go back: {why}"));
        }
        if stuck.is_some() || !automatic {
            let why = if automatic { "" } else { " (autoRollback: false)" };
            return self.rollout_stays(now, name, failure, why);
        }
        let Some(unit) = self.units.get_mut(name) else { return };
        let object = unit.spec.object.clone();
        let together: Vec<Name> = match self.desired.rollback_scope_unit {
            true => vec![name.clone()],
            false => self
                .units
                .iter()
                .filter(|(_, unit)| unit.rollout.revision == revision && unit.before.is_some())
                .filter(|(other, unit)| !unit.rollout.proved || *other == name)
                .filter(|(_, unit)| matches!(unit.rollout.phase, Phase::Progressing | Phase::Complete { .. }))
                .filter(|(_, unit)| unit.before.as_ref().is_some_and(|back| self.lacks(&back.spec).is_none()))
                .map(|(name, _)| name.clone())
                .collect(),
        };
        let cause = Cause::new(ROLLBACK, format!("{object} of revision {revision}: {}", failure.message));
        let rows = together
            .iter()
            .map(|name| {
                let reason =
                    if *name == object.name { failure.message.clone() } else { sibling(&object, &failure) };
                (name.clone(), ChangeAction { verb: Verb::Rollback, unit: self.object(name), reason })
            })
            .collect();
        let change = self.open_change(now, cause, rows);
        // The one that failed first: it is the cause of what follows for the others.
        let mut record = None;
        let order: Vec<Name> =
            std::iter::once(name.clone()).chain(together.into_iter().filter(|other| other != name)).collect();
        for one in &order {
            let own = match one == name {
                true => failure.clone(),
                false => Failure {
                    reason: SIBLING.into(),
                    message: sibling(&object, &failure),
                    instance: None,
                    ..failure.clone()
                },
            };
            let id = self.go_back(now, one, own, change, record);
            record = record.or(id);
        }
        self.save_units(now, &order);
    }

    /// A first deployment has failed: there is nothing to go back to, and the unit follows its restart policy.
    fn first_failed(&mut self, now: Now, name: &Name, failure: Failure) {
        let Some(unit) = self.units.get_mut(name) else { return };
        if unit.spec.policy.job || unit.rollout.unwell.is_some() {
            return;
        }
        let message = format!(
            "the rollout of revision {} has failed, and there is nothing to go back to: {}",
            unit.rollout.revision, failure.message
        );
        // Ends are failures of their own: this one only follows from them.
        let late = failure.reason == "ProgressDeadlineExceeded";
        let reason = if late { "RolloutFailed" } else { "FailedAtFirst" };
        (unit.rollout.unwell, unit.rollout.deadline) = (Some(failure.into()), None);
        // What its instances do explains it better.
        let (object, change, cause) = (unit.spec.object.clone(), unit.change, self.telling_record(name));
        let entry = Entry { warning: true, reason, object: &object, message, change, cause };
        self.announce(now, entry);
        self.save_rollout(now, name, "Failed");
        self.save_unit(now, name);
    }

    /// One that has got well after all is a rollout like any other.
    pub(super) fn look_at_first(&mut self, now: Now, name: &Name, replicas: u32) {
        let Some(unit) = self.units.get_mut(name).filter(|unit| unit.rollout.unwell.is_some()) else {
            return;
        };
        let (generation, serving) = (unit.generation, |ordinal| Seat::serving(Ordinal(ordinal)));
        let well = |slot: &Slot| slot.is_done(generation) || (slot.available && slot.is_proved());
        if !(0..replicas).all(|ordinal| unit.slots.get(&serving(ordinal)).is_some_and(|slot| well(slot))) {
            return;
        }
        unit.rollout.unwell = None;
        if unit.rollout.is_complete() {
            self.rollout_complete(now, name);
        }
    }

    /// A rollout has failed, and nothing goes back.
    pub(in crate::world) fn rollout_stays(&mut self, now: Now, name: &Name, failure: Failure, why: &str) {
        let Some(unit) = self.units.get_mut(name) else { return };
        let revision = unit.rollout.revision;
        unit.rollout.phase = Phase::Failed(failure.clone().into());
        unit.rollout.deadline = None;
        let message = format!(
            "the rollout of revision {revision} has failed and stays as it is{why}: {}",
            failure.message
        );
        self.tell_rollout(now, name, true, "RolloutFailed", message);
        if let Some(id) = failure.instance {
            self.effects.push_back(Effect::TailLog { id, revision });
        }
        self.save_rollout(now, name, "Failed");
    }

    /// One unit goes back to the version that was good.
    fn go_back(
        &mut self,
        now: Now,
        name: &Name,
        mut failure: Failure,
        change: u64,
        cause: Option<u64>,
    ) -> Option<u64> {
        let object = self.object(name);
        let unit = self.units.get_mut(name)?;
        let back = unit.before.clone()?;
        failure.message.push_str(&not_taken_back(&back.spec.launch, &unit.spec.launch));
        let revision = unit.rollout.revision;
        let own_cause = unit.slots.values().filter_map(|slot| slot.cause).max().or(unit.cause);
        if unit.overrides.pinned.take().is_none() {
            unit.overrides.rejected = Some(Box::new(Rejection {
                digest: unit.written.spec.launch.digest(),
                revision,
                runs: back.revision,
                failure: failure.clone(),
            }));
        }
        let replicas = unit.spec.policy.replicas;
        if replicas != back.spec.policy.replicas {
            unit.scaled_from = Some(replicas);
        }
        (unit.spec, unit.generation) = (back.spec.clone(), back.generation);
        unit.good = Some(back);
        unit.rollout.phase = Phase::RollingBack(failure.clone().into());
        (unit.rollout.deadline, unit.rollout.ended) = (None, None);
        unit.rollout.promoted = true;
        unit.breaker.reset();
        for slot in unit.slots.values_mut() {
            slot.former = None;
            slot.restart.attempt = 0;
        }
        self.spec_turned(name);
        self.refresh_drift(name);
        let message = format!(
            "revision {revision} is given up, what was good before it takes its place: {}",
            failure.message
        );
        let entry = Entry {
            warning: true,
            reason: "RolledBack",
            object: &object,
            message,
            change: Some(change),
            cause: cause.or(own_cause),
        };
        let record = self.announce(now, entry);
        if let Some(unit) = self.units.get_mut(name) {
            unit.cause = Some(record);
            // What is started in their place is so for this.
            let rests = |slot: &&mut Box<Slot>| slot.state.process().is_none();
            unit.slots.values_mut().filter(rests).for_each(|slot| slot.cause = Some(record));
        }
        if let Some(id) = failure.instance {
            self.effects.push_back(Effect::TailLog { id, revision });
        }
        self.save_rollout(now, name, "RolledBack");
        self.touch(name);
        self.touch_followers(name);
        Some(record)
    }

    /// The last lines of the instance that ended a rollout.
    pub(in crate::world) fn failing_lines(
        &mut self,
        now: Now,
        name: &Name,
        revision: Revision,
        lines: Vec<String>,
    ) {
        let Some(unit) = self.units.get_mut(name) else { return };
        if unit.rollout.revision != revision || lines.is_empty() {
            return;
        }
        match &mut unit.rollout.phase {
            Phase::RollingBack(failure) | Phase::RolledBack(failure) | Phase::Failed(failure) => {
                failure.lines.clone_from(&lines);
            }
            Phase::Progressing | Phase::Complete { .. } => return,
        }
        if let Some(rejected) = &mut unit.overrides.rejected {
            rejected.failure.lines = lines;
        }
        let outcome = outcome(&unit.rollout);
        self.save_unit(now, name);
        self.save_rollout(now, name, outcome);
        self.touched.insert(name.clone());
    }
}

pub(in crate::world) fn failure(
    reason: &str,
    message: String,
    instance: Option<InstanceId>,
    at: Stamp,
) -> Failure {
    Failure { reason: reason.into(), message, instance, lines: Vec::new(), at }
}

/// Which files stay as they are, of what changed from the version that comes back to the one that is given up.
fn not_taken_back(back: &Launch, given_up: &Launch) -> String {
    let lost = back.lost(given_up);
    let files = lost.file_names();
    match files.is_empty() {
        true => String::new(),
        false => format!(
            "; what {} held before is not kept and cannot come back with it: the next start reads what is there now",
            files.join(", ")
        ),
    }
}

fn sibling(object: &ObjectRef, failure: &Failure) -> String {
    format!("{object}, changed by the same revision, failed: {}", failure.message)
}

fn nth(count: u32) -> String {
    match count {
        1 => "first".into(),
        2 => "second".into(),
        3 => "third".into(),
        count => format!("{count}th"),
    }
}

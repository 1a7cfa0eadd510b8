//! Rollouts of the units: one begins, is looked at, goes on, is complete. Each other question has a file of its own.

mod failing;
mod history;
mod resume;
mod take_over;

use std::sync::Arc;

use crate::base::{InstanceId, Name, Now, Ordinal, Revision, Role, Seat};
use crate::plan::{Drift, Wish};
use crate::rollout::{Counts, Phase, Rollout, Turn};
use crate::unit::ProbeKind;

use super::World;
use super::chronicle::Entry;
use super::event::{Cause, Known};
use super::state::{Slot, Unit, Version};

pub use history::RolloutRecord;

pub(super) use failing::{SIBLING, failure};
use history::outcome;

impl World {
    /// Another version of a unit is wanted: its rollout begins, and one that is under way is superseded.
    pub(super) fn begin_rollout(&mut self, now: Now, name: &Name, revision: Revision, cause: &Arc<Cause>) {
        let Some(unit) = self.units.get(name) else { return };
        match unit.rollout.phase {
            _ if unit.good.is_none() => {}
            Phase::Progressing => self.save_rollout(now, name, "Superseded"),
            // A first deployment is not told before there is another one: most never have one.
            _ if !unit.rollout.recorded => self.save_rollout(now, name, outcome(&unit.rollout)),
            _ => {}
        }
        let Some(unit) = self.units.get_mut(name) else { return };
        if unit.spec.policy.job {
            // A job is run or it is not: there is nothing that it could roll out or go back to.
            (unit.good, unit.before) = (None, None);
        }
        let proved = is_known_good(unit, now);
        unit.before.clone_from(&unit.good);
        let from = unit.good.as_ref().map(|good| good.generation);
        let update = &unit.spec.policy.update;
        unit.rollout = Rollout::begin(revision, from, unit.generation, update, now.wall);
        if proved {
            // No canary tells more of it than is known.
            (unit.rollout.proved, unit.rollout.promoted) = (true, true);
        }
        unit.rolled_by = Some(cause.clone());
        unit.restart_crashes = 0;
        for slot in unit.slots.values_mut() {
            slot.former = None;
        }
        self.set_timer(name);
    }

    /// Looks how far a unit has come: who is available, whether its rollout goes on, is over or has failed.
    pub(super) fn look_at_rollout(&mut self, now: Now, name: &Name) {
        self.look_at_reloads(now, name);
        let Some(unit) = self.units.get(name) else { return };
        let wish = self.wish(name, unit);
        let running = matches!(wish, Wish::Up { .. }) && unit.overrides.paused.is_none();
        let Some(unit) = self.units.get_mut(name) else { return };
        let (job, min_ready) = (unit.spec.policy.job, unit.spec.policy.update.min_ready);
        let limit = unit.spec.policy.update.progress_deadline;
        for slot in unit.slots.values_mut() {
            slot.overdue = !job && slot.overdue_at(limit).is_some_and(|at| at <= now.mono);
            slot.available = slot.ready_since.is_some_and(|since| now.mono.since(since) >= min_ready);
        }
        if let Wish::Up { replicas: replicas @ 1.. } = wish {
            self.look_at_first(now, name, replicas);
        }
        let Some(unit) = self.units.get_mut(name) else { return };
        if !unit.rollout.is_active() || unit.spec.policy.job {
            return;
        }
        // Of a version of which nothing runs nothing is proved.
        let Wish::Up { replicas: replicas @ 1.. } = wish else {
            unit.rollout.suspend();
            return;
        };
        let counts = counts(unit, replicas, running);
        let machine = unit.spec.machine.clone().filter(|_| unit.good.is_some());
        let update = unit.spec.policy.update.clone();
        let before = unit.rollout.progress();
        let turn = unit.rollout.look(&update, counts, now.mono);
        // The next daemon goes on from here.
        if unit.good.is_some() && unit.rollout.progress() != before {
            self.save_unit(now, name);
        }
        self.rollout_turned(now, name, turn, machine);
    }

    fn rollout_turned(&mut self, now: Now, name: &Name, turn: Turn, machine: Option<String>) {
        let Some(unit) = self.units.get(name) else { return };
        let (generation, limit) = (unit.generation, unit.spec.policy.update.progress_deadline);
        match (turn, machine) {
            (Turn::Nothing, Some(message)) if matches!(unit.rollout.phase, Phase::Progressing) => {
                let failure = failure("CannotStart", message, None, now.wall);
                self.rollout_failed(now, name, failure);
            }
            (Turn::Nothing, _) => {}
            (Turn::Holds, _) => self.tell_rollout(
                now,
                name,
                false,
                "CanaryReady",
                "its canaries are available and hold".into(),
            ),
            (Turn::Promoted, _) => {
                self.tell_rollout(now, name, false, "Promoted", "its canaries held: the rest follows".into())
            }
            (Turn::Completed, _) => self.rollout_complete(now, name),
            (Turn::WentBack, _) => {
                let message = format!("what was good runs again: generation {generation}");
                self.tell_rollout(now, name, false, "RollbackComplete", message);
                self.save_rollout(now, name, "RolledBack");
                self.save_unit(now, name);
            }
            (Turn::DeadlineExceeded, _) => {
                let limit = crate::base::format_duration(limit);
                let (why, instance) = self.why_stuck(name);
                let message = format!("it got no further for {limit}{why}");
                self.rollout_failed(
                    now,
                    name,
                    failure("ProgressDeadlineExceeded", message, instance, now.wall),
                );
            }
        }
    }

    fn rollout_complete(&mut self, now: Now, name: &Name) {
        let Some(unit) = self.units.get_mut(name) else { return };
        let first = unit.good.is_none();
        unit.good = Some(unit.wanted());
        unit.rollout.ended = Some(now.wall);
        let tried = unit.overrides.rejected.take().is_some();
        if first && !tried && !unit.rollout.recorded {
            // The first deployment is told by its instances. What is good outlives the daemon: an edit that comes while none is
            // there must have something to go back to.
            return self.save_unit(now, name);
        }
        let mut message =
            format!("generation {} is available, nothing of the former one is left", unit.generation);
        if let Some(back) = unit.goes_back_on_trial(now) {
            let limit = crate::base::format_duration(unit.spec.policy.update.progress_deadline);
            message
                .push_str(&format!("; for {limit} it is on trial: revision {} may come back", back.revision));
        }
        self.tell_rollout(now, name, false, "RolloutComplete", message);
        self.save_rollout(now, name, "Complete");
        self.save_unit(now, name);
    }

    /// The unwell new instance that a rollout waits for, and what is wrong with it.
    fn why_stuck(&self, name: &Name) -> (String, Option<InstanceId>) {
        let Some(unit) = self.units.get(name) else { return (String::new(), None) };
        let new = |slot: &&Slot| {
            slot.seat.role != Role::Draining
                && slot.former.is_none()
                && !matches!(slot.drift, Drift::Replace(_))
                && !(slot.available && slot.is_proved())
        };
        let Some(slot) = unit.slots.values().map(Box::as_ref).find(new) else { return (String::new(), None) };
        let answer = slot.instance.as_ref().and_then(|instance| {
            let board = instance.board.as_ref()?;
            ProbeKind::ALL.into_iter().find_map(|kind| {
                let answer = board.last(kind).filter(|answer| !answer.ok)?;
                Some(format!("its {} probe: {}", kind.as_str(), answer.message))
            })
        });
        let lacks_line = slot.instance.as_ref().is_some_and(|instance| {
            instance.board.as_ref().is_some_and(|board| board.lacks_line(&instance.spec.policy))
        });
        let line = lacks_line.then(|| "the line that its probe awaits is not in its log".to_owned());
        let words =
            answer.or(line).or_else(|| slot.last_end.as_ref().map(|last| format!("it {}", last.words)));
        let words = words.map_or_else(
            || format!(": {} is {}", slot.seat, slot.state.word()),
            |words| format!(": {} is {}, {words}", slot.seat, slot.state.word()),
        );
        let id = slot.id(name).or_else(|| {
            let incarnation = slot.last_end.as_ref()?.incarnation;
            Some(InstanceId { unit: name.clone(), ordinal: slot.seat.ordinal, incarnation })
        });
        (words, id)
    }

    pub(super) fn tell_rollout(
        &mut self,
        now: Now,
        name: &Name,
        warning: bool,
        reason: &'static str,
        message: String,
    ) {
        let object = self.object(name);
        let Some(unit) = self.units.get(name) else { return };
        let (change, cause) = (unit.change, unit.cause);
        let record = self.announce(now, Entry { warning, reason, object: &object, message, change, cause });
        if let (true, Some(unit)) = (warning, self.units.get_mut(name)) {
            unit.cause = Some(record);
        }
    }
}

fn counts(unit: &Unit, replicas: u32, running: bool) -> Counts {
    let new = |slot: &Slot| {
        slot.state.is_occupied()
            && slot.instance.as_ref().is_some_and(|instance| instance.generation == unit.generation)
            && !matches!(slot.drift, Drift::Replace(_) | Drift::Reload(_))
    };
    // The first deployment is over when its instances are Ready: nothing old waits to be replaced. That a program was executed
    // says nothing: without a probe it has to stay up.
    let seen = unit.spec.policy.is_seen_to_start();
    let first = seen && unit.good.is_none() && unit.rollout.unwell.is_none();
    // What came to its end as it should is as available as it will be.
    let well = |slot: &Slot| {
        slot.is_done(unit.generation)
            || (new(slot) && slot.is_proved() && (slot.available || (first && slot.is_ready())))
    };
    let at = |ordinal: u32, role: Role| unit.slots.get(&Seat { ordinal: Ordinal(ordinal), role });
    let available = (0..replicas).filter(|ordinal| {
        [Role::Serving, Role::Incoming]
            .into_iter()
            .any(|role| at(*ordinal, role).is_some_and(|slot| well(slot)))
    });
    let in_place = (0..replicas).all(|ordinal| at(ordinal, Role::Serving).is_some_and(|slot| well(slot)));
    // It takes as long as its own time limit says.
    let reloading = unit.slots.values().any(|slot| slot.reloading.is_some());
    let leftovers = unit.slots.values().any(|slot| {
        slot.state.is_occupied() && (slot.seat.role != Role::Serving || slot.seat.ordinal.0 >= replicas)
    });
    Counts {
        replicas,
        available: available.count() as u32,
        settled: in_place && !leftovers && !reloading,
        started: unit
            .slots
            .values()
            .any(|slot| new(slot) || (slot.rested_at == unit.generation && slot.last_end.is_some())),
        running: running && !reloading,
    }
}

/// What is wanted from now on is what was good last, or what was good before something that was still on trial took its place:
/// whoever takes an edit back knows what they get.
fn is_known_good(unit: &Unit, now: Now) -> bool {
    let tried = unit.rollout.is_complete() && unit.rollout.on_trial(now.mono);
    let known = unit.good.iter().chain(unit.before.as_ref().filter(|_| tried));
    let mut known = known.filter(|known| Drift::between(&known.spec, &unit.spec) == Drift::None);
    known.next().is_some()
}

impl Unit {
    /// What comes back if it fails too often now that its rollout is complete.
    pub fn goes_back_on_trial(&self, now: Now) -> Option<&Version> {
        let tried = self.rollout.is_complete() && self.rollout.on_trial(now.mono);
        self.before.as_ref().filter(|_| tried && self.spec.policy.update.auto_rollback)
    }
}

impl Version {
    /// What the store remembers of it.
    pub fn known(&self) -> Known {
        Known { generation: self.generation, revision: self.revision, digest: self.spec.launch.digest() }
    }
}

//! A turn's end: plan what is dirty, take the steps that can be taken, until nothing is left to do.

use crate::base::{InstanceId, Name, Now, Seat, limits};
use crate::plan::{Action, Plan, Step, UnitPlan, Waiting, plan_unit};
use crate::unit::{Circuit, EndReason, Lifecycle};

use super::chronicle::{ChangeAction, Entry};
use super::effect::Effect;
use super::event::Mark;
use super::neighbours::Around;
use super::overrides::Signature;
use super::state::{Slot, Unit};
use super::{Outcome, World};

impl World {
    /// Plans every dirty unit and takes the steps that can be taken. Terminates: a step makes its own condition false.
    pub fn settle(&mut self, now: Now) {
        while self.settle_some(now) {}
    }

    /// The same for a few units; true if some are left. What is asked for by then can be carried out before going on: the
    /// first of a thousand programs is started or stopped while the others are still planned.
    pub fn settle_some(&mut self, now: Now) -> bool {
        if !self.begun {
            return false;
        }
        for _ in 0..limits::SETTLE_BATCH {
            let Some(name) = self.dirty.pop_first() else { break };
            self.settle_unit(now, &name);
        }
        if self.dirty.is_empty() {
            self.use_start_slots();
        }
        if !self.dirty.is_empty() {
            return true;
        }
        self.finish(now);
        // A change that grew in this turn is saved once, however many of its units did something.
        for id in std::mem::take(&mut self.unsaved) {
            if let Some(open) = self.changes.get(&id) {
                self.effects.push_back(Effect::SaveChange(open.change.clone().into()));
            }
        }
        false
    }

    /// Planning begins: what the first plan does belongs to one change.
    pub(super) fn begin(&mut self, now: Now) {
        self.begun = true;
        self.adopt_half_started(now);
        self.units.values_mut().for_each(|unit| unit.ended.clear());
        for (name, incarnation) in std::mem::take(&mut self.told_before) {
            if let Some(unit) = self.units.get_mut(&name) {
                unit.ended.push(incarnation);
            }
        }
        self.keep_running(now);
        self.tell_all_unenforced(now);
        self.starting = self.count_starting();
        self.index_dependents();
        self.resume_rollouts(now);
        self.dirty.extend(self.units.keys().cloned());
        let rows: Vec<(Name, ChangeAction)> = self
            .units
            .iter()
            .filter_map(|(name, unit)| {
                let action = self.plan_of(name).actions.into_iter().find(is_visible)?;
                let unit = unit.spec.object.clone();
                Some((name.clone(), ChangeAction { verb: action.verb, unit, reason: action.reason }))
            })
            .collect();
        if let (Some(cause), false) = (self.first_cause.take(), rows.is_empty()) {
            self.open_change(now, cause, rows);
        }
    }

    /// Who ran before goes on, though `up` was given others this time: nobody asked for its end.
    fn keep_running(&mut self, now: Now) {
        let runs = |unit: &Unit| {
            let over = &unit.overrides;
            let ordered = over.started.is_some() || over.stopped.is_some() || over.disabled.is_some();
            unit.left_out && !unit.is_gone() && !ordered
        };
        let names: Vec<Name> =
            self.units.iter().filter(|(_, unit)| runs(unit)).map(|(name, _)| name.clone()).collect();
        for name in &names {
            if let Some(unit) = self.units.get_mut(name) {
                unit.overrides.started = Some(Signature { by: "an earlier unisys up".into(), at: now.wall });
            }
            self.save_unit(now, name);
        }
        if !names.is_empty() {
            self.wishes_turned();
        }
    }

    fn count_starting(&self) -> u32 {
        let slots = self.units.values().flat_map(|unit| unit.slots.values());
        slots.filter(|slot| matches!(slot.state, Lifecycle::Starting(_))).count() as u32
    }

    /// What is still to be done, of every unit: for `plan` without a path.
    pub fn pending(&self) -> Plan {
        let units = self.units.iter().map(|(name, unit)| (unit.spec.object.clone(), self.plan_of(name)));
        Plan::assemble(units.collect(), &self.desired.graph)
    }

    fn plan_of(&self, name: &Name) -> UnitPlan {
        let Some(unit) = self.units.get(name) else { return UnitPlan::default() };
        plan_unit(&self.observe(name, unit), &Around { world: self, name, unit })
    }

    fn settle_unit(&mut self, now: Now, name: &Name) {
        self.tell_kept(now, name);
        self.breaker_tick(now, name);
        self.look_at_rollout(now, name);
        self.inherit_restarts(now, name);
        loop {
            let plan = self.plan_of(name);
            if plan.forget {
                self.forget_unit(now, name);
                return self.note_rolling(name);
            }
            self.note_waiting(name, &plan);
            self.note_change(now, name, &plan);
            // One step, then a look at what it changed: a second start of the same unit may no longer be allowed.
            let Some((action, step)) =
                plan.actions.into_iter().find_map(|action| action.step.map(|step| (action, step)))
            else {
                break;
            };
            self.take(now, name, &action, step);
            self.look_at_rollout(now, name);
        }
        self.look_at_rollout(now, name);
        // After the steps: one that is stopped is not Ready any more.
        self.save_trial(now, name);
        self.close_change(name);
        self.refresh(now, name);
        self.note_rolling(name);
    }

    /// A rollout that is over, or waits for somebody, lets another one begin (`maxConcurrentRollouts`).
    fn note_rolling(&mut self, name: &Name) {
        let rolls = self.units.get(name).is_some_and(|unit| rolls(unit));
        if rolls {
            self.rolling.insert(name.clone());
        } else if self.rolling.remove(name) {
            self.dirty.extend(std::mem::take(&mut self.waiting_for_roll));
            self.dirty.extend(self.waiting_for_port.iter().cloned());
        }
    }

    /// Conditions, deadlines and neighbours follow the state.
    pub(super) fn refresh(&mut self, now: Now, name: &Name) {
        self.update_conditions(now, name);
        self.set_timer(name);
        self.tell_neighbours(name);
    }

    fn note_waiting(&mut self, name: &Name, plan: &UnitPlan) {
        let waiting = plan.actions.iter().find_map(|action| action.waiting.as_ref());
        let waits_for = |wanted: fn(&Waiting) -> bool| {
            plan.actions.iter().filter_map(|action| action.waiting.as_ref()).any(wanted)
        };
        let slots_short = waits_for(|waiting| matches!(waiting, Waiting::StartSlots));
        if waits_for(|waiting| matches!(waiting, Waiting::RolloutSlots)) {
            self.waiting_for_roll.insert(name.clone());
        }
        if waits_for(|waiting| matches!(waiting, Waiting::Port { .. })) {
            self.waiting_for_port.insert(name.clone());
        }
        let words = waiting.map(ToString::to_string);
        let dependency = waiting.and_then(|waiting| match waiting {
            Waiting::Dependency { on, .. } => Some(on.name.clone()),
            _ => None,
        });
        if let (Some(on), Some(unit)) = (dependency, self.units.get_mut(name)) {
            unit.waited_for = Some(on);
        }
        if slots_short {
            self.waiting_for_start.insert(name.clone());
        } else {
            self.waiting_for_start.remove(name);
        }
        if let Some(unit) = self.units.get_mut(name)
            && unit.waiting != words
        {
            unit.waiting = words;
            self.touched.insert(name.clone());
        }
    }

    pub(super) fn set_cause(&mut self, name: &Name, seat: Seat, record: u64) {
        if let Some(slot) = self.units.get_mut(name).and_then(|unit| unit.slots.get_mut(&seat)) {
            slot.cause = Some(record);
        }
    }

    /// The keeper learns what the next daemon will need.
    pub(super) fn remember(&mut self, name: &Name, seat: Seat) {
        let Some(slot) = self.units.get(name).and_then(|unit| unit.slots.get(&seat)) else { return };
        let (Some(id), Some(instance)) = (slot.id(name), slot.instance.as_ref()) else { return };
        let board = instance.board.as_ref();
        // An exit that nobody asked for passes through Stopping as well.
        let stop = match &slot.state {
            Lifecycle::Stopping(stopping) => match stopping.reason {
                EndReason::Stopped(reason) => Some(reason),
                _ => None,
            },
            _ => None,
        };
        let mark = Mark {
            role: seat.role,
            through: board.is_some_and(crate::unit::ProbeBoard::is_through),
            ready: board.is_some_and(crate::unit::ProbeBoard::is_ready),
            stopping: stop.is_some(),
            stop,
            left_out: instance.left_out.clone(),
            started: board.is_some_and(crate::unit::ProbeBoard::has_started),
            edited: board.is_some_and(crate::unit::ProbeBoard::has_unproved_edit),
            unproved: board.map(crate::unit::ProbeBoard::unproved_edits).unwrap_or_default(),
            heartbeat: instance.heartbeat,
            unheard: instance.unheard,
            extended: instance.extended,
            unread: slot.unread.clone(),
        };
        let (spec, generation) = (instance.spec.clone(), instance.generation);
        self.effects.push_back(Effect::Remember { id, spec, generation, mark });
    }

    fn breaker_tick(&mut self, now: Now, name: &Name) {
        let Some(unit) = self.units.get_mut(name) else { return };
        let Some(policy) = unit.spec.policy.breaker.clone() else { return };
        let before = unit.breaker.circuit();
        // One that was Ready before, or under an earlier daemon, is the trial; one that is being stopped is not.
        let ready = unit.serving().any(Slot::is_ready);
        unit.breaker.trial_ready(ready, now.mono);
        let closed = unit.breaker.tick(&policy, now.mono);
        unit.breaker.trial_ready(ready, now.mono);
        let after = unit.breaker.circuit();
        if std::mem::discriminant(&before) == std::mem::discriminant(&after) {
            return;
        }
        let (reason, message) = match (closed, after) {
            (true, _) => ("CircuitClosed", "the trial instance held: the circuit is closed".to_owned()),
            (_, Circuit::HalfOpen { .. }) => ("CircuitHalfOpen", "one trial instance is started".to_owned()),
            _ => return,
        };
        let (object, cause) = (unit.spec.object.clone(), unit.cause);
        let id = self
            .announce(now, Entry { warning: false, reason, object: &object, message, change: None, cause });
        if let Some(unit) = self.units.get_mut(name) {
            unit.cause = Some(id);
            unit.breaker.take_moved();
        }
        self.save_unit(now, name);
    }

    /// The next daemon does not count a trial's time from the beginning.
    fn save_trial(&mut self, now: Now, name: &Name) {
        let Some(unit) = self.units.get_mut(name) else { return };
        let ready = unit.serving().any(Slot::is_ready);
        unit.breaker.trial_ready(ready, now.mono);
        if unit.breaker.take_moved() {
            self.save_unit(now, name);
        }
    }

    /// `restart: true` edges: a dependency that was replaced since this instance was started, and is Ready again.
    fn inherit_restarts(&mut self, now: Now, name: &Name) {
        let Some(unit) = self.units.get(name) else { return };
        let mut asks = Vec::new();
        for slot in unit.slots.values().filter(|slot| slot.restart_asked.is_none()) {
            let Some(instance) = slot.instance.as_ref().filter(|_| slot.state.process().is_some()) else {
                continue;
            };
            let replaced = unit.spec.policy.depends_on.iter().find(|dependency| {
                dependency.restart
                    && self.units.get(&dependency.name).is_some_and(|on| {
                        on.replacements
                            > instance.seen.get(&dependency.name).copied().unwrap_or(on.replacements)
                    })
            });
            if let Some(dependency) = replaced {
                let why = format!("{} was replaced (restart: true)", self.object(&dependency.name));
                asks.push((slot.seat, why, self.telling_record(&dependency.name)));
            }
        }
        if asks.is_empty() {
            return;
        }
        if let Some(unit) = self.units.get_mut(name) {
            for (seat, why, cause) in asks {
                unit.cause = cause.or(unit.cause);
                if let Some(slot) = unit.slots.get_mut(&seat) {
                    slot.restart_asked = Some(why);
                }
            }
        }
        self.save_unit(now, name);
    }

    pub(super) fn replacements_of(&self, name: &Name) -> std::collections::BTreeMap<Name, u64> {
        let depends_on = self.units.get(name).into_iter().flat_map(|unit| &unit.spec.policy.depends_on);
        depends_on
            .filter(|dependency| dependency.restart)
            .filter_map(|dependency| {
                Some((dependency.name.clone(), self.units.get(&dependency.name)?.replacements))
            })
            .collect()
    }

    fn forget_unit(&mut self, now: Now, name: &Name) {
        let object = self.object(name);
        if let Some(unit) = self.units.remove(name) {
            self.undeclared.remove(name);
            self.brought.remove(name);
            self.outdated.remove(name);
            self.wishes_turned();
            let entry = Entry {
                warning: false,
                reason: "Deleted",
                object: &object,
                message: "nothing of it is left".into(),
                change: unit.change,
                cause: unit.cause,
            };
            self.announce(now, entry);
            for dependency in &unit.spec.policy.depends_on {
                if let Some(dependents) = self.dependents.get_mut(&dependency.name) {
                    dependents.remove(name);
                }
            }
            if let Some(change) = unit.change {
                self.leave_change(change, name, Outcome::Complete);
            }
            let dependencies = unit.spec.policy.depends_on.iter().map(|dependency| dependency.name.clone());
            self.dirty.extend(dependencies.filter(|dependency| self.units.contains_key(dependency)));
        }
        self.set_timer(name);
        // Another one of its name counts its replacements from the beginning.
        for dependent in self.dependents.get(name).into_iter().flatten() {
            let slots = self.units.get_mut(dependent).into_iter().flat_map(|unit| unit.slots.values_mut());
            for instance in slots.filter_map(|slot| slot.instance.as_mut()) {
                if let Some(seen) = instance.seen.get_mut(name) {
                    *seen = 0;
                }
            }
        }
        // What an earlier daemon knew of it ends with it.
        self.restored.remove(name);
        self.waiting_for_start.remove(name);
        self.touched.insert(name.clone());
        if self.down.is_none() {
            self.effects.push_back(Effect::DropUnit { name: name.clone() });
        }
        self.tell_neighbours(name);
    }

    fn finish(&mut self, now: Now) {
        if self.down.is_some() && self.units.is_empty() && !self.finished {
            self.finished = true;
            let entry = Entry {
                warning: false,
                reason: "Stopped",
                object: &"system",
                message: "everything has stopped".into(),
                change: None,
                cause: None,
            };
            self.announce(now, entry);
            self.effects.push_back(Effect::Finished { survivors: 0 });
        }
    }

    /// Why a unit may not roll now though nothing of its own is in the way.
    pub(super) fn may_roll(&self, name: &Name) -> bool {
        let Some(limit) = self.desired.max_concurrent_rollouts else { return true };
        let needs_it = |unit: &Unit| unit.spec.policy.depends_on.iter().any(|on| on.name == *name);
        // Who depends on this one waits for it: waiting in turn would never end.
        let others =
            self.units.iter().filter(|(other, unit)| *other != name && rolls(unit) && !needs_it(unit));
        self.units.get(name).is_some_and(|unit| rolls(unit)) || (others.count() as u32) < limit
    }

    /// A slot left Starting: another unit may start.
    pub(super) fn start_slot_freed(&mut self) {
        self.starting = self.starting.saturating_sub(1);
    }

    /// As many that wait for a slot as there are: one that cannot use its slot any more leaves it to the next.
    fn use_start_slots(&mut self) {
        let free = self.desired.max_concurrent_starts.map_or(0, |limit| limit.saturating_sub(self.starting));
        for _ in 0..free {
            self.dirty.extend(self.waiting_for_start.pop_first());
        }
    }

    pub(super) fn instance_id(&self, name: &Name, seat: Seat) -> Option<InstanceId> {
        self.units.get(name)?.slots.get(&seat)?.id(name)
    }
}

fn rolls(unit: &Unit) -> bool {
    unit.rollout.is_active() && unit.rollout.from.is_some() && unit.rollout.deadline.is_some()
}

/// Housekeeping that nobody needs to read of.
pub(super) fn is_visible(action: &Action) -> bool {
    !matches!(action.step, Some(Step::Drop { .. } | Step::Rest { .. } | Step::Hold { .. }))
}

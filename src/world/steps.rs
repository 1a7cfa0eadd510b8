//! The steps of a plan, one function each.

use crate::base::{Name, Now, Seat};
use crate::plan::{Action, Drift, Pick, Step, Waiting};
use crate::unit::lifecycle::{EndReason, Rest};
use crate::unit::{Fact, StopReason};

use super::World;
use super::chronicle::Entry;
use super::effect::Effect;
use super::state::{Instance, Slot, Version};

impl World {
    pub(super) fn take(&mut self, now: Now, name: &Name, action: &Action, step: Step) {
        match step {
            Step::Start { seat, version } => self.start(now, name, seat, version, action),
            Step::Stop { seat, reason } => self.stop(now, name, seat, reason, action),
            Step::TakeOver { ordinal } => self.take_over(now, name, ordinal, action),
            Step::Reload { seat } => self.reload(now, name, seat, action),
            Step::Hold { seat } => self.hold(now, name, seat, action),
            Step::Rest { seat } => self.apply(now, name, seat, Fact::Rest(Rest::Idle)),
            Step::UpdateInPlace { seat } => self.update_in_place(now, name, seat, action),
            Step::Drop { seat } => {
                if let Some(unit) = self.units.get_mut(name) {
                    unit.slots.remove(&seat);
                    self.touched.insert(name.clone());
                }
            }
        }
    }

    fn start(&mut self, now: Now, name: &Name, seat: Seat, version: Pick, action: &Action) {
        let incarnation = self.incarnation;
        self.incarnation = incarnation.next();
        let seen = self.replacements_of(name);
        let waited_for = self.units.get_mut(name).and_then(|unit| unit.waited_for.take());
        let freed_by = waited_for.and_then(|on| self.telling_record(&on));
        let Some(unit) = self.units.get_mut(name) else { return };
        let (wanted, good) = (unit.wanted(), unit.good.clone());
        let (cause, change) = (unit.cause, unit.change);
        let slot = unit.slots.entry(seat).or_insert_with(|| Box::new(Slot::new(seat)));
        let former = slot.former.take().or(good).filter(|_| version == Pick::Former);
        let Version { spec, generation, .. } = former.unwrap_or_else(|| wanted.clone());
        // Nobody asked for it, and nothing was changed: what ran before runs again.
        let automatic = std::mem::take(&mut slot.restart.again)
            && (version == Pick::Former || !matches!(slot.drift, Drift::Replace(_)));
        if slot.last_end.as_ref().is_some_and(|last| last.end.reason.is_of_program()) {
            self.effects.push_back(Effect::UnwatchProgram { name: name.clone() });
        }
        // What never ran (its port was held, the machine had no process left) is not what is started again.
        let ran = |slot: &Slot| {
            let last = slot.last_end.as_ref();
            last.is_none_or(|last| !matches!(last.end.reason, EndReason::SpawnFailed { .. }))
        };
        if automatic && slot.restart_asked.is_none() && ran(slot) {
            slot.restart.restarts += 1;
        }
        slot.restart_asked = None;
        slot.drift = Drift::between(&spec, &wanted.spec);
        let cause = freed_by.or(slot.cause).or(cause);
        unit.completed = None;
        slot.recalled_end = None;
        slot.instance = Some(Instance {
            incarnation,
            spec,
            generation,
            started_wall: now.wall,
            board: None,
            vigil: None,
            frozen: None,
            status_text: None,
            port_watched: false,
            log_watched: false,
            seen,
            ports: Default::default(),
            left_out: Vec::new(),
            heartbeat: None,
            forked: false,
            unheard: false,
            startup_told: false,
            extended: None,
        });
        let object = self.object(name);
        let message = format!("starting {seat}: {}", action.reason);
        let record = self.announce(
            now,
            Entry { warning: false, reason: "Starting", object: &object, message, change, cause },
        );
        self.set_cause(name, seat, record);
        self.starting += 1;
        self.apply(now, name, seat, Fact::Start);
        self.save_unit(now, name);
    }

    fn stop(&mut self, now: Now, name: &Name, seat: Seat, reason: StopReason, action: &Action) {
        let object = self.object(name);
        // Taken along by a dependency that is stopped: what happened to that one is why.
        let taken = action.reason.strip_prefix("it depends on ").and_then(|rest| rest.split(':').next());
        let along = self.units.values().filter(|_| taken.is_some());
        let along = along.filter(|unit| taken == Some(unit.spec.object.to_string().as_str()));
        let along = along.filter_map(|unit| unit.cause).next();
        let Some(unit) = self.units.get_mut(name) else { return };
        if reason == StopReason::Replaced {
            unit.replacements += 1;
        }
        let (change, cause) = (unit.change, along.or(unit.cause));
        let message = format!("stopping {seat}: {}", action.reason);
        let record = self.announce(
            now,
            Entry { warning: false, reason: "Stopping", object: &object, message, change, cause },
        );
        self.set_cause(name, seat, record);
        self.apply(now, name, seat, Fact::Stop { reason });
    }

    fn hold(&mut self, now: Now, name: &Name, seat: Seat, action: &Action) {
        let object = self.object(name);
        let why = action.waiting.as_ref().map(ToString::to_string).unwrap_or_default();
        let cause = match &action.waiting {
            Some(Waiting::DependencyCircuit { on }) => self.units.get(&on.name).and_then(|unit| unit.cause),
            _ => self.units.get(name).and_then(|unit| unit.cause),
        };
        let entry = Entry {
            warning: true,
            reason: "Held",
            object: &object,
            message: format!("{seat} is held, waiting for {why}"),
            change: None,
            cause,
        };
        let record = self.announce(now, entry);
        if let Some(unit) = self.units.get_mut(name) {
            unit.slots.entry(seat).or_insert_with(|| Box::new(Slot::new(seat)));
        }
        self.set_cause(name, seat, record);
        self.apply(now, name, seat, Fact::Rest(Rest::Held));
    }

    fn update_in_place(&mut self, now: Now, name: &Name, seat: Seat, action: &Action) {
        let object = self.object(name);
        let seen = self.replacements_of(name);
        let Some(unit) = self.units.get_mut(name) else { return };
        let (spec, generation, change, cause) = (unit.spec.clone(), unit.generation, unit.change, unit.cause);
        let back = unit.rollout.goes_back();
        let Some(slot) = unit.slots.get_mut(&seat) else { return };
        slot.drift = Drift::None;
        let executed_at = slot.state.process().map(|process| process.executed_at);
        let Some(instance) = slot.instance.as_mut() else { return };
        let probes_changed = !instance.spec.is_probed_like(&spec);
        let limits = spec.launch.service.resources.cgroup();
        let limits_changed = instance.spec.launch.service.resources.cgroup() != limits;
        let former = std::mem::replace(&mut instance.spec, spec);
        let anew = if back { [false; 3] } else { instance.spec.asks_anew(&former) };
        instance.sees(seen);
        instance.generation = generation;
        if let (Some(board), Some(at), true) = (instance.board.as_mut(), executed_at, probes_changed) {
            board.replace_policy(&instance.spec.policy, at, now.mono, anew);
        }
        self.loosen(name, &former);
        let message = format!("{seat} updated in place: {}", action.reason);
        self.announce(
            now,
            Entry { warning: false, reason: "Updated", object: &object, message, change, cause },
        );
        let id = limits_changed.then(|| self.units.get(name)?.slots.get(&seat)?.id(name)).flatten();
        self.effects.extend(id.map(|id| Effect::Limit { id, limits }));
        self.remember(name, seat);
        self.look_for_line(name, seat);
        self.settle_board(now, name, seat);
        self.watch(now, name, seat);
        self.touched.insert(name.clone());
    }
}

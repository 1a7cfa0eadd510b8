//! People and accidents: what is done to a system, and how it has to end.

use std::sync::Arc;

use unisys::base::{InstanceId, Name, Part};
use unisys::plan::Desired;
use unisys::unit::Circuit;
use unisys::world::{Cause, Event, InstanceFact, OUT_OF_ITS_CGROUP, Order};

use super::super::machine::Held;
use super::system;
use super::{PATIENCE, Sim, Write};

impl Sim {
    pub(super) fn trouble(&mut self) -> Result<(), String> {
        if self.rng.chance(self.faults.daemon_dies) {
            self.somebody_dies()?;
        }
        if self.rng.chance(0.01) {
            let mut units = self.units.clone();
            system::change(&mut self.rng, &mut units);
            let torn = self.rng.chance(0.2).then(|| self.rng.unit());
            let revision = self.desired.revision.next();
            if let Some(desired) = system::desired(&units, revision, torn, &mut self.cache) {
                if torn.is_none() {
                    self.units = units;
                }
                self.accept(desired);
            }
        }
        if self.rng.chance(0.01) {
            self.order();
        }
        if self.rng.chance(0.005) {
            self.somebody_moves_one_out();
        }
        Ok(())
    }

    /// While no daemon is there to see it.
    pub(super) fn somebody_edits_unseen(&mut self) {
        let mut units = self.units.clone();
        system::change(&mut self.rng, &mut units);
        if let Some(desired) = system::desired(&units, self.desired.revision, None, &mut self.cache) {
            self.say(|| "the files are edited unseen".into());
            (self.units, self.desired) = (units, Arc::new(desired));
        }
    }

    /// Of its cgroup.
    fn somebody_moves_one_out(&mut self) {
        let running = |held: &Held| {
            held.moved_out.is_none()
                && held.parts.get(&Part::Main).is_some_and(|main| main.exit.is_none() && !main.spawning)
        };
        let ids: Vec<InstanceId> =
            self.keeper.held.iter().filter(|(_, held)| running(held)).map(|(id, _)| id.clone()).collect();
        if ids.is_empty() {
            return;
        }
        let id = &ids[self.rng.below(ids.len() as u64) as usize];
        if let Some(held) = self.keeper.held.get_mut(id) {
            held.moved_out = Some(self.now);
            held.mark.left_out.push(OUT_OF_ITS_CGROUP.to_owned());
        }
        self.fact(1, id, InstanceFact::Uncontained);
    }

    pub(super) fn accept(&mut self, desired: Desired) {
        self.say(|| format!("revision {}", desired.revision));
        self.desired = Arc::new(desired);
        let cause = Cause::new("Apply", "sim");
        self.world.handle(self.clock(), Event::Desired { desired: self.desired.clone(), cause });
        self.put(Write::Revision(self.desired.clone()));
    }

    fn order(&mut self) {
        let names: Vec<Name> = self.world.units().keys().cloned().collect();
        if names.is_empty() {
            return;
        }
        let name = names[self.rng.below(names.len() as u64) as usize].clone();
        self.asked.entry(name.clone()).or_default().insert(self.world.next_incarnation());
        let order = match self.rng.below(7) {
            0 => Order::Stop(vec![name]),
            1 => Order::Start(vec![name]),
            2 => Order::Restart(vec![name]),
            3 => Order::Disable(vec![name]),
            4 => Order::Enable(vec![name]),
            5 => Order::ResetCircuit(vec![name]),
            _ => Order::Scale(vec![(name, self.rng.below(4) as u32)]),
        };
        self.say(|| format!("{order:?}"));
        self.world.handle(self.clock(), Event::Order { order, by: "sim".into() });
    }

    /// Faults have stopped: what people switched off is switched on, what failed for good gets a new version.
    pub(super) fn all_wanted(&mut self) -> Result<(), String> {
        for unit in self.units.values_mut() {
            // Above every version that a torn file may have made known already.
            unit.version += 1000;
        }
        for held in self.keeper.held.values_mut() {
            for process in held.parts.values_mut() {
                process.ignores_stop = false;
                process.ready_at.get_or_insert(self.now);
            }
        }
        let revision = self.desired.revision.next();
        let desired = system::desired(&self.units, revision, None, &mut self.cache).ok_or("rejected")?;
        self.accept(desired);
        let names: Vec<Name> = self.world.units().keys().cloned().collect();
        let scale = names
            .iter()
            .filter_map(|name| Some((name.clone(), self.desired.units.get(name)?.policy.replicas)))
            .collect();
        let next = self.world.next_incarnation();
        for name in &names {
            self.asked.entry(name.clone()).or_default().insert(next);
        }
        for order in [Order::Start(names), Order::Scale(scale)] {
            self.world.handle(self.clock(), Event::Order { order, by: "sim".into() });
        }
        self.turn()
    }

    /// What is not as it should be.
    pub(super) fn unwell(&self) -> Option<String> {
        for name in self.desired.units.keys() {
            let condition =
                self.world.conditions(name).into_iter().find(|condition| condition.kind == "Ready");
            let wanted = self.world.wanted_replicas(name);
            // A service with `policy: OnFailure` that ends well stays as it is, and what needs it waits.
            let ended = |name: &Name| self.has_ended(name);
            let needs_ended = self.desired.graph.closure([name]).into_iter().any(ended);
            match condition {
                Some(condition) if condition.status == "True" || wanted == 0 || needs_ended => {}
                other => return Some(format!("{name} ({}): {other:?}", self.world.status_word(name))),
            }
        }
        if let Some((name, _)) =
            self.world.units().iter().find(|(_, unit)| unit.rollout.is_active() && unit.good.is_some())
        {
            return Some(format!("{name} is rolling"));
        }
        let rests =
            |name: &Name| self.desired.graph.closure([name]).into_iter().any(|name| self.has_ended(name));
        let open = self.world.units().iter().find(|(name, unit)| {
            unit.breaker.circuit() != Circuit::Closed && self.world.wanted_replicas(name) > 0 && !rests(name)
        });
        if let Some((name, unit)) = open {
            return Some(format!("{name} is well, its circuit {:?}", unit.breaker.circuit()));
        }
        let plan = self.world.pending();
        (!plan.actions.is_empty() && !self.desired.units.keys().any(|name| self.has_ended(name)))
            .then(|| format!("{plan:?}"))
    }

    pub(super) fn has_ended(&self, name: &Name) -> bool {
        let unit = self.world.units().get(name).filter(|unit| !unit.spec.policy.job);
        unit.is_some_and(|unit| unit.slots.values().any(|slot| slot.state.word() == "Done"))
    }

    pub(super) fn go_down(&mut self) -> Result<u64, String> {
        self.faults.daemon_dies = self.fate;
        self.keeper.down = Some("sim".into());
        self.world.handle(self.clock(), Event::ShutDown { by: "sim".into(), now: false });
        self.turn()?;
        let until = self.now + PATIENCE;
        while !self.finished {
            if self.now >= until {
                return Err("it does not go down".into());
            }
            self.step(until)?;
        }
        match self.keeper.held.iter().find(|(_, held)| held.is_alive() || held.main_alive()) {
            Some((id, _)) => Err(format!("{id} is alive after the end")),
            None => Ok(self.turns),
        }
    }
}

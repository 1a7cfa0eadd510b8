//! People, accidents and rollouts: what is done to a system, and how it has to end.

use std::sync::Arc;
use std::time::Duration;

use unisys::base::Name;
use unisys::plan::Desired;
use unisys::world::{Cause, Event, Order};

use super::super::machine::Faults;
use super::system;
use super::{PATIENCE, Sim};

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
        Ok(())
    }

    pub(super) fn accept(&mut self, desired: Desired) {
        self.say(|| format!("revision {}", desired.revision));
        self.desired = Arc::new(desired);
        self.history.insert(self.desired.revision, self.desired.clone());
        let cause = Cause::new("Apply", "sim");
        self.world.handle(self.clock(), Event::Desired { desired: self.desired.clone(), cause });
    }

    fn order(&mut self) {
        let names: Vec<Name> = self.world.units().keys().cloned().collect();
        if names.is_empty() {
            return;
        }
        let name = names[self.rng.below(names.len() as u64) as usize].clone();
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
        for order in [Order::Start(names), Order::Scale(scale)] {
            self.world.handle(self.clock(), Event::Order { order, by: "sim".into() });
        }
        self.turn()
    }

    /// Without faults: a bad revision always goes back and touches nobody, a good one always arrives, and neither takes more
    /// instances away than it may.
    pub(super) fn rollouts(&mut self) -> Result<(), String> {
        let faults = Faults { daemon_dies: if self.rng.chance(0.3) { 0.01 } else { 0.0 }, ..Faults::NONE };
        let mut name = String::new();
        for fate in [Some("crashes"), None, Some("hangs"), None] {
            // What was bad is mended in the next revision: one unit changes at a time.
            let mends = self.units.get(&name).is_some_and(|unit| unit.bad.is_some());
            if !mends {
                let services = self.units.iter().filter(|(_, unit)| !unit.job);
                let names: Vec<&String> = services.map(|(name, _)| name).collect();
                if names.is_empty() {
                    return Ok(());
                }
                name.clone_from(system::pick(&mut self.rng, &names));
            }
            let key: Name = name.parse().map_err(|_| "a name")?;
            let Some(unit) = self.units.get_mut(&name) else { continue };
            // Without a probe, a program that only hangs is Ready.
            let noticed = fate != Some("hangs") || unit.probe != "none";
            // A well one of `policy: OnFailure` may have ended.
            if !mends && (!noticed || self.has_ended(&key) || self.wanted_gone(&key)) {
                continue;
            }
            let Some(unit) = self.units.get_mut(&name) else { continue };
            (unit.bad, unit.version) = (fate, unit.version + 1);
            let before = self.serving(&key);
            let revision = self.desired.revision.next();
            let desired = system::desired(&self.units, revision, None, &mut self.cache).ok_or("rejected")?;
            self.accept(desired);
            self.faults = faults;
            self.turn()?;
            self.roll(&key, fate.is_some())?;
            self.faults = Faults::NONE;
            let update = &self.desired.units.get(&key).ok_or("gone")?.policy.update;
            let apart = match update.strategy {
                unisys::unit::Strategy::Recreate => false,
                unisys::unit::Strategy::Rolling => update.max_surge > 0 && update.max_unavailable == 0,
                _ => update.max_unavailable == 0,
            };
            // What only dies after it was available has taken its place before.
            let unnoticed =
                fate == Some("crashes") && self.units.get(&name).is_some_and(|unit| unit.probe == "none");
            if fate.is_some() && apart && !unnoticed && self.serving(&key) != before {
                return Err(format!(
                    "the bad revision of {name} touched what was good: {before:?} {:?}",
                    self.serving(&key)
                ));
            }
        }
        Ok(())
    }

    fn wanted_gone(&self, name: &Name) -> bool {
        self.world.wanted_replicas(name) == 0
            || self.world.units().get(name).is_none_or(|unit| unit.good.is_none())
    }

    fn serving(&self, name: &Name) -> Vec<u32> {
        let unit = self.world.units().get(name);
        unit.into_iter()
            .flat_map(|unit| unit.serving())
            .filter_map(|slot| Some(slot.state.process()?.pid))
            .collect()
    }

    /// Until the rollout of a unit is over, as it should be.
    fn roll(&mut self, name: &Name, bad: bool) -> Result<(), String> {
        let until = self.now + Duration::from_secs(600);
        loop {
            let unit = self.world.units().get(name).ok_or("it is gone")?;
            let word = unit.rollout.word(false);
            let update = &unit.spec.policy.update;
            let ready = unisys::world::conditions::ready_count(unit);
            let needed = match update.strategy {
                unisys::unit::Strategy::Recreate => 0,
                _ if update.max_surge == 0 => unit.replicas().saturating_sub(update.max_unavailable.max(1)),
                _ => unit.replicas().saturating_sub(update.max_unavailable),
            };
            // A restart of the daemon learns again who is Ready.
            if ready < needed && self.faults.daemon_dies == 0.0 {
                return Err(format!("{name}: {ready} Ready, {needed} needed, its rollout is {word}"));
            }
            match (word, bad) {
                ("RolledBack", true) | ("Complete", false) if !unit.rollout.is_active() => return Ok(()),
                _ if self.now >= until => {
                    return Err(format!(
                        "the rollout of {name} (bad: {bad}) is {word}: {:?}",
                        self.world.pending()
                    ));
                }
                _ => {}
            }
            self.step(until)?;
        }
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

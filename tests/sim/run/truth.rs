//! What a plan says before an edit is what then happens: no more, no less, and in the manner that it names.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use unisys::base::{InstanceId, Name};
use unisys::plan::{PlanAction, Verb};
use unisys::world::{Cause, Event};

use super::{Sim, system};

/// What was done to an instance, as the keeper saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Done {
    Started,
    ToldToStop,
    ToldToReload,
}

/// Edits that are planned, made and watched in one run.
const EDITS: usize = 4;

impl Sim {
    /// Plans random edits of a system that is well, makes them, and compares.
    pub(super) fn plan_tells_the_truth(&mut self) -> Result<(), String> {
        // One that ended by itself is well as it is, and is not what is looked at here.
        if self.desired.units.keys().any(|name| self.has_ended(name)) {
            return Ok(());
        }
        self.come_to_rest()?;
        for number in 0..EDITS {
            let mut edited = self.units.clone();
            system::edit(&mut self.rng, &mut edited, number as u64);
            let revision = self.desired.revision.next();
            let desired =
                system::desired(&edited, revision, None, &mut self.cache).ok_or("the edit is rejected")?;
            let said = self.planned(&desired);
            let before = self.mains();
            let jobs = self.desired.units.values().filter(|spec| spec.policy.job);
            let jobs: BTreeSet<Name> = jobs.map(|spec| spec.object.name.clone()).collect();
            self.units = edited;
            self.accept(desired);
            self.done.clear();
            self.turn()?;
            self.come_to_rest().map_err(|fault| format!("{fault}; planned: {said:?}"))?;
            self.compare(&said, &before, &jobs)?;
        }
        Ok(())
    }

    /// Nothing is on its way any more.
    fn come_to_rest(&mut self) -> Result<(), String> {
        let until = self.now + Duration::from_secs(1200);
        while let Some(unwell) = self.unsettled() {
            if self.now >= until {
                return Err(format!("an edit does not come to its end: {unwell}"));
            }
            self.step(until)?;
        }
        Ok(())
    }

    fn planned(&self, desired: &unisys::plan::Desired) -> BTreeMap<Name, Vec<PlanAction>> {
        let mut asked = self.world.clone();
        let cause = Cause::new("Plan", "plan");
        asked.handle(self.clock(), Event::Desired { desired: std::sync::Arc::new(desired.clone()), cause });
        let mut said: BTreeMap<Name, Vec<PlanAction>> = BTreeMap::new();
        for action in asked.pending().actions {
            said.entry(action.unit.name.clone()).or_default().push(action);
        }
        said
    }

    /// The living main processes.
    pub(super) fn mains(&self) -> BTreeSet<InstanceId> {
        let held = self.keeper.held.iter().filter(|(_, held)| held.main_alive() && !held.spec.policy.job);
        held.map(|(id, _)| id.clone()).collect()
    }

    fn unsettled(&self) -> Option<String> {
        let mains = self.mains();
        let services = self.desired.units.values().filter(|spec| !spec.policy.job);
        let mut names = services.map(|spec| &spec.object.name).chain(mains.iter().map(|id| &id.unit));
        let other_than_wanted = || {
            names.find_map(|name| {
                let wanted = self.world.wanted_replicas(name) as usize;
                let alive = mains.iter().filter(|id| id.unit == *name).count();
                (alive != wanted).then(|| format!("{alive} of {name} alive, {wanted} wanted"))
            })
        };
        self.unwell().or_else(other_than_wanted)
    }

    fn compare(
        &self,
        said: &BTreeMap<Name, Vec<PlanAction>>,
        before: &BTreeSet<InstanceId>,
        jobs: &BTreeSet<Name>,
    ) -> Result<(), String> {
        let after = self.mains();
        let names: BTreeSet<&Name> =
            before.iter().chain(&after).map(|id| &id.unit).chain(said.keys()).collect();
        for name in names.into_iter().filter(|name| !jobs.contains(*name)) {
            let actions = said.get(name).map(Vec::as_slice).unwrap_or_default();
            let of = |set: &BTreeSet<InstanceId>| -> BTreeSet<InstanceId> {
                set.iter().filter(|id| id.unit == *name).cloned().collect()
            };
            self.compare_unit(name, actions, &of(before), &of(&after)).map_err(|fault| {
                let done: Vec<_> = self.done.iter().filter(|(id, _)| id.unit == *name).collect();
                format!("{name}: {fault}; planned: {actions:?}; done: {done:?}")
            })?;
        }
        Ok(())
    }

    fn compare_unit(
        &self,
        name: &Name,
        actions: &[PlanAction],
        before: &BTreeSet<InstanceId>,
        after: &BTreeSet<InstanceId>,
    ) -> Result<(), String> {
        let has = |verb: Verb| actions.iter().any(|action| action.verb == verb);
        let did = |what: Done| self.done.iter().any(|(id, done)| id.unit == *name && *done == what);
        let stay = before.intersection(after).count();
        let replaced = actions.iter().find(|action| matches!(action.verb, Verb::Replace | Verb::Restart));
        match replaced {
            Some(_) if stay > 0 => return Err(format!("{stay} instances were not replaced")),
            Some(action) => self.compare_manner(name, &action.reason, before)?,
            // What is there stays, but for those that are too many, and what is new is only what was missing.
            None if stay < before.len().min(after.len()) => return Err("it was replaced".into()),
            None => {}
        }
        let told = |verb: Verb, done: bool| match has(verb) == done {
            true => Ok(()),
            false => Err(format!("{} is {}", verb.as_str(), if done { "not said" } else { "not done" })),
        };
        told(Verb::Reload, did(Done::ToldToReload))?;
        if replaced.is_none() {
            let grew = after.len() > before.len();
            let shrank = after.len() < before.len();
            if (grew || shrank)
                && !has(Verb::Scale)
                && !has(Verb::Start)
                && !has(Verb::Stop)
                && !has(Verb::Delete)
            {
                return Err(format!("{} became {}", before.len(), after.len()));
            }
            if (has(Verb::Start) && !grew) || ((has(Verb::Stop) || has(Verb::Delete)) && !shrank) {
                return Err(format!("{} stayed {}", before.len(), after.len()));
            }
        }
        if actions.is_empty() && (did(Done::Started) || did(Done::ToldToStop)) {
            return Err("something was done".into());
        }
        Ok(())
    }

    /// New instances first, or the old ones: as it was said, and with the cure where it is not seamless.
    fn compare_manner(&self, name: &Name, reason: &str, before: &BTreeSet<InstanceId>) -> Result<(), String> {
        let own = || self.done.iter().filter(|(id, _)| id.unit == *name);
        let first = own().find(|(_, done)| *done != Done::ToldToReload).map(|(_, done)| *done);
        let expected = match reason {
            // Either may come first; how many may be missing is looked at below.
            _ if reason.contains("maxUnavailable is") => first.unwrap_or(Done::Started),
            _ if reason.contains("(stop first)") => Done::ToldToStop,
            _ if reason.contains(" first)") => Done::Started,
            _ => return Err("the manner is not said".into()),
        };
        if first != Some(expected) {
            return Err(format!("it began with {first:?}"));
        }
        let cures = ["strategy is Recreate", "maxSurge is 0", "`listen: true` or `port: auto`"];
        if reason.contains("(stop first)") {
            return match cures.iter().any(|cure| reason.contains(cure)) {
                true => Ok(()),
                false => Err("why it is not seamless is not said".into()),
            };
        }
        // Every old one was told to go only after as many new ones had been started, but for those that may be missing.
        let update = self.desired.units.get(name).map(|spec| spec.policy.update.max_unavailable);
        let (mut started, mut stopped) = (update.unwrap_or(0) as usize, BTreeSet::new());
        for (id, done) in own() {
            match done {
                Done::Started => started += 1,
                Done::ToldToStop if before.contains(id) => drop(stopped.insert(id)),
                Done::ToldToStop | Done::ToldToReload => {}
            }
            if stopped.len() > started {
                return Err(format!("{} were stopped when {started} may be gone", stopped.len()));
            }
        }
        Ok(())
    }
}

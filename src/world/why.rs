//! From a symptom back to its root: the causal chain of a unit.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::base::{Name, Now, Seat, Stamp};
use crate::plan::Wish;
use crate::unit::Lifecycle;

use super::chronicle::{CHANGED, ORDERED, Record, RecordId};
use super::state::Slot;
use super::{Unit, World};

/// The longest chain that is told.
pub const LINKS: usize = 32;
const WAITING: &str = "Waiting";
const CANNOT_START: &str = "CannotStart";
const NOT_WANTED: &str = "NotWanted";

impl World {
    /// Why a unit is as it is: the record that explains its state and what that came of, symptom first, root last. A unit
    /// that waits for another goes on with that one's chain.
    pub fn why(&self, name: &Name) -> Vec<Arc<Record>> {
        let mut chain: Vec<Arc<Record>> = Vec::new();
        let mut seen: BTreeSet<RecordId> = BTreeSet::new();
        let mut visited: BTreeSet<Name> = BTreeSet::new();
        let mut next = Some(name.clone());
        while let Some(name) = next.take().filter(|name| visited.insert(name.clone())) {
            let on = self.blamed_dependency(&name);
            let own = self.telling_record(&name);
            // That it waits is nothing that happened; what it waits for is why.
            let waits = on.is_some().then(|| self.waiting_record(&name, own)).flatten();
            let unwanted = || self.unwanted_record(&name, own);
            let records = match waits.or_else(unwanted).or_else(|| self.faulty_record(&name, own)) {
                Some(record) => vec![record],
                None => own.map(|id| self.chronicle.chain(id, LINKS)).unwrap_or_default(),
            };
            for record in records {
                let stands = [WAITING, CANNOT_START, NOT_WANTED].contains(&&*record.reason);
                if chain.len() < LINKS && (stands || seen.insert(record.id)) {
                    chain.push(record);
                }
            }
            // A chain that has come to the dependency already has told its part.
            let told = |on: &Name| {
                let object = self.object(on).to_string();
                chain.iter().any(|record| record.object == object)
            };
            next = on.filter(|on| !told(on));
        }
        chain
    }

    /// A wait for a dependency as if it had happened; none for what is held, which did, while it is held by what it was told then.
    fn waiting_record(&self, name: &Name, own: Option<RecordId>) -> Option<Arc<Record>> {
        let unit = self.units.get(name)?;
        let held = unit.slots.values().any(|slot| matches!(slot.state, Lifecycle::Held));
        let told = |waiting: &String| {
            let record = own.and_then(|id| self.chronicle.get(id));
            record.is_some_and(|record| record.message.ends_with(waiting.as_str()))
        };
        let waiting = unit.waiting.as_ref().filter(|waiting| !(held && told(waiting)))?;
        Some(self.standing_record(unit, own, WAITING, format!("waits for {waiting}")))
    }

    /// That it is not to run, of one that has not run yet: nothing happened that would tell it.
    fn unwanted_record(&self, name: &Name, own: Option<RecordId>) -> Option<Arc<Record>> {
        let unit = self.units.get(name)?;
        let has_run = |slot: &Slot| slot.instance.is_some() || slot.last_end.is_some();
        match self.wish(name, unit) {
            Wish::Down { why } if !unit.slots.values().any(|slot| has_run(slot)) => {
                Some(self.standing_record(unit, own, NOT_WANTED, format!("does not run: {why}")))
            }
            _ => None,
        }
    }

    /// What the machine lacks for a unit of which nothing runs, where something else (an order) was told of it since.
    fn faulty_record(&self, name: &Name, own: Option<RecordId>) -> Option<Arc<Record>> {
        let unit = self.units.get(name)?;
        let fault = unit.spec.machine.as_ref().filter(|_| unit.is_gone())?;
        let told = own.and_then(|id| self.chronicle.get(id)).is_some_and(|record| record.message == *fault);
        let wanted = matches!(self.wish(name, unit), Wish::Up { .. });
        (wanted && !told).then(|| self.standing_record(unit, own, CANNOT_START, fault.clone()))
    }

    /// A state as if it had happened.
    fn standing_record(
        &self,
        unit: &Unit,
        own: Option<RecordId>,
        reason: &'static str,
        message: String,
    ) -> Arc<Record> {
        let since = own.and_then(|id| self.chronicle.get(id)).map_or(Stamp(0), |record| record.at);
        Arc::new(Record {
            id: own.unwrap_or_default(),
            at: unit.conditions.get("Progressing").map_or(since, |settled| settled.since),
            warning: false,
            reason: reason.into(),
            object: unit.spec.object.to_string(),
            message,
            change: unit.change,
            cause: own,
        })
    }

    /// What explains that a unit is not well, or is not what its manifest says: whatever is ordered of it now comes after that.
    pub(super) fn unwell_record(&self, name: &Name) -> Option<RecordId> {
        // A Job that is run again and again would be told of all that it ever did.
        let unit = self.units.get(name).filter(|unit| !unit.spec.policy.job)?;
        let record = self.telling_record(name).and_then(|id| self.chronicle.get(id))?;
        let unwell = record.warning
            || unit.slots.values().any(|slot| is_in_trouble(slot))
            || unit.overrides.rejected.is_some()
            || unit.rollout.failure().is_some();
        unwell.then_some(record.id)
    }

    /// The latest record that explains the state of a unit or external, or how one that is gone came to its end.
    pub(super) fn telling_record(&self, name: &Name) -> Option<RecordId> {
        if let Some(external) = self.externals.get(name) {
            return external.cause;
        }
        let Some(unit) = self.units.get(name) else { return self.chronicle.latest_of_unit(name) };
        // What does not run though it is wanted does not for its own reason, whatever was ordered of others of the unit.
        let troubled =
            unit.slots.values().filter(|slot| is_in_trouble(slot)).filter_map(|slot| slot.cause).max();
        let troubled = troubled.filter(|_| matches!(self.wish(name, unit), Wish::Up { .. }));
        let slots = unit.slots.values().filter_map(|slot| slot.cause).max();
        let own = troubled.or_else(|| slots.max(unit.cause));
        own.or_else(|| self.chronicle.latest_of(&unit.spec.object.to_string()).map(|record| record.id))
    }

    /// The dependency that a unit waits for, if it waits.
    pub(super) fn blamed_dependency(&self, name: &Name) -> Option<Name> {
        let unit = self.units.get(name)?;
        let waiting = unit.waiting.as_ref()?;
        let named = |on: &&Name| {
            let object = self.object(on).to_string();
            // A word of its own: `service/api` is not meant by `service/api-v2 Ready`.
            waiting.split_whitespace().any(|word| word == object)
        };
        let direct = unit.spec.policy.depends_on.iter().map(|dependency| &dependency.name).find(named);
        let grounds = || self.grounds(unit).into_iter().map(|ground| &ground.edge.name).find(named);
        // It may be held by the circuit of one that it depends on by others.
        let root = || self.dependency_with_circuit(unit).filter(|root| named(&root));
        direct.or_else(grounds).cloned().or_else(root)
    }

    /// The change that a failure of an instance follows: the one that brought its version, until one of that version has run as
    /// long as it takes for earlier failures to be forgotten. A program that ran well for days does not fail "since" its last
    /// change.
    pub(super) fn blame(&self, name: &Name, seat: Seat, ran: Duration) -> Option<RecordId> {
        let unit = self.units.get(name)?;
        let (record, generation) = unit.changed?;
        let slot = unit.slots.get(&seat)?;
        let instance = slot.instance.as_ref().filter(|instance| instance.generation == generation)?;
        (ran < instance.spec.policy.restart.reset_after).then_some(record)
    }

    /// The order that made a Job run, unless its manifest was changed since.
    pub(super) fn run_ordered(&self, name: &Name, seat: Seat) -> Option<RecordId> {
        let unit = self.units.get(name).filter(|unit| unit.spec.policy.job)?;
        let chain = self.chronicle.chain(unit.slots.get(&seat)?.cause?, LINKS);
        let own = unit.spec.object.to_string();
        let root = chain
            .into_iter()
            .find(|record| record.object == own && (record.reason == CHANGED || record.reason == ORDERED))?;
        (root.reason == ORDERED).then_some(root.id)
    }

    /// What a finding about a running instance follows: the change of its version, something that was found wrong or ordered since
    /// it was ready; that it was started and ready before is not why.
    pub(super) fn blame_finding(&self, now: Now, name: &Name, seat: Seat) -> Option<RecordId> {
        let told = self.slot_cause(name, seat).and_then(|id| self.chronicle.get(id));
        let told = told.filter(|record| record.warning || record.reason == ORDERED);
        told.map(|record| record.id).or_else(|| self.blame_running(now, name, seat))
    }

    /// The same of one that still runs.
    pub(super) fn blame_running(&self, now: Now, name: &Name, seat: Seat) -> Option<RecordId> {
        let process = self.units.get(name)?.slots.get(&seat)?.state.process()?;
        self.blame(name, seat, now.mono.since(process.executed_at))
    }
}

/// It does not run, and not because nobody wants it to.
pub(super) fn is_in_trouble(slot: &Slot) -> bool {
    matches!(slot.state, Lifecycle::Failed(_) | Lifecycle::Backoff { .. } | Lifecycle::Held)
}

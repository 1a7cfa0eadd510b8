//! From a symptom back to its root: the causal chain of a unit.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::base::Name;

use super::World;
use super::chronicle::{Record, RecordId};

/// The longest chain that is told.
const LINKS: usize = 32;

impl World {
    /// Why a unit is as it is: the record that explains its state and what that came of, symptom first, root last. A unit
    /// that waits for another goes on with that one's chain.
    pub fn why(&self, name: &Name) -> Vec<Arc<Record>> {
        let mut chain: Vec<Arc<Record>> = Vec::new();
        let mut seen: BTreeSet<RecordId> = BTreeSet::new();
        let mut visited: BTreeSet<Name> = BTreeSet::new();
        let mut next = Some(name.clone());
        while let Some(name) = next.take().filter(|name| visited.insert(name.clone())) {
            for record in
                self.telling_record(&name).map(|id| self.chronicle.chain(id, LINKS)).unwrap_or_default()
            {
                if chain.len() < LINKS && seen.insert(record.id) {
                    chain.push(record);
                }
            }
            next = self.blamed_dependency(&name);
        }
        chain
    }

    /// The latest record that explains the state of a unit or external.
    pub(super) fn telling_record(&self, name: &Name) -> Option<RecordId> {
        if let Some(external) = self.externals.get(name) {
            return external.cause;
        }
        let unit = self.units.get(name)?;
        let slots = unit.slots.values().filter_map(|slot| slot.cause).max();
        let own = slots.max(unit.cause);
        own.or_else(|| self.chronicle.latest_of(&unit.spec.object.to_string()).map(|record| record.id))
    }

    /// The dependency that a unit waits for, if it waits.
    fn blamed_dependency(&self, name: &Name) -> Option<Name> {
        let unit = self.units.get(name)?;
        let waiting = unit.waiting.as_ref()?;
        unit.spec
            .policy
            .depends_on
            .iter()
            .map(|dependency| &dependency.name)
            .find(|on| waiting.contains(&self.object(on).to_string()))
            .cloned()
    }
}

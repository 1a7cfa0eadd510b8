//! Whose output is masked by which secrets: an instance's by what it was started with, and by what its unit's other instances
//! know and the next ones will: a program may read again what it was once given.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::base::{InstanceId, Name, Redactor};
use crate::plan::UnitSpec;

use super::Engine;

impl Engine {
    /// What is masked in the output of an instance. `started`: what it was started with, where the world does not know it yet.
    pub(super) fn secrets_of(&self, unit: &Name, started: Option<&UnitSpec>) -> Option<Arc<Redactor>> {
        let wanted = self.world.desired().units.get(unit);
        let slots = self.world.units().get(unit).into_iter().flat_map(|unit| unit.slots.values());
        let running = slots.filter_map(|slot| Some(&slot.instance.as_ref()?.spec));
        let specs = wanted.into_iter().chain(running).map(Arc::as_ref).chain(started);
        let values: BTreeSet<&str> =
            specs.flat_map(|spec| spec.launch.secrets()).map(|var| var.value.as_str()).collect();
        if values.is_empty() {
            return None;
        }
        Some(Redactor::new(values)).filter(|redactor| !redactor.is_empty()).map(Arc::new)
    }

    /// The accepted state changed. Whose secrets did is told to the thread before anything is started with them.
    pub(super) fn secrets_revised(&mut self) {
        let running: Vec<InstanceId> = self.attached.keys().cloned().collect();
        let mut latest: Option<(Name, Option<Arc<Redactor>>)> = None;
        for id in running {
            // Those of one unit follow each other.
            let secrets = match &latest {
                Some((unit, secrets)) if *unit == id.unit => secrets.clone(),
                _ => self.secrets_of(&id.unit, None),
            };
            latest = Some((id.unit.clone(), secrets.clone()));
            let Some(attached) = self.attached.get_mut(&id) else { continue };
            let unknown = attached.secrets.as_ref().is_some_and(|known| known.is_of_unknown());
            if attached.secrets != secrets && !unknown {
                attached.secrets.clone_from(&secrets);
                self.collector.mask(id, secrets);
            }
        }
    }
}

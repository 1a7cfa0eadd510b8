//! Units that this machine lacks something for.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::base::Name;
use crate::os::clock;

use super::Engine;

/// A machine fault (a missing program, a held port) is looked at again this often, while there is one.
const MACHINE_AGAIN: Duration = Duration::from_secs(5);

impl Engine {
    pub(super) fn wait_for_machine(&mut self, touched: &BTreeSet<Name>) {
        if self.machine_due.is_some() || touched.is_empty() {
            return;
        }
        // Looked at once a desired state, not once a turn: a turn costs what it is about.
        let desired = self.world.desired();
        if !Arc::ptr_eq(&self.looked_at.0, desired) {
            let faulty = desired.units.values().any(|unit| unit.machine.is_some());
            self.looked_at = (desired.clone(), faulty);
        }
        if self.looked_at.1 {
            self.machine_due = Some(clock::mono() + MACHINE_AGAIN);
        }
    }

    pub(super) fn look_at_machine_again(&mut self) {
        let faulty = |engine: &Self| {
            let units = engine.world.desired().units.values();
            units.filter(|unit| unit.machine.is_some()).count()
        };
        if faulty(self) == 0 || self.ending {
            return;
        }
        self.machine_due = Some(clock::mono() + MACHINE_AGAIN);
        self.reload("MachineChanged");
    }
}

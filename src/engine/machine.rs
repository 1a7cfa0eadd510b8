//! Units that this machine lacks something for.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::base::Name;
use crate::manifest::spec::service::{Port, Protocol};
use crate::os::files::ThisMachine;
use crate::os::{clock, sockets};
use crate::plan::UnitSpec;
use crate::plan::machine::port_held;
use crate::world::{Cause, Event};

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

    /// Somebody else listens where this program is to: a probe would take the one for the other, so it is not started. In the
    /// words in which what this machine lacks is told.
    pub(super) fn port_clash(&self, spec: &UnitSpec) -> Option<String> {
        let own = |port: &&Port| !port.listen && port.protocol == Protocol::Tcp;
        let ports = spec.launch.service.ports.iter().filter(own);
        // By far the most are free, which is known at once; who holds one takes a look at every process.
        let taken = |port: &&Port| port.place().is_some_and(|place| sockets::is_taken(&place));
        let taken: Vec<&Port> = ports.filter(taken).collect();
        if taken.is_empty() {
            return None;
        }
        // Another instance of ours may share it (`update.overlap`): who holds one beside it is not asked for.
        let places = taken.iter().filter_map(|port| port.place()).collect();
        let machine = ThisMachine::new(self.sets.holders(places, &self.busy()));
        taken.into_iter().find_map(|port| port_held(spec, port, &machine))
    }

    /// What is accepted, on this machine as it is now.
    pub(super) fn look_at_machine_as_accepted(&mut self) {
        let busy = self.busy();
        let Some(desired) = self.sets.look_at_machine(&busy) else { return };
        let cause = Cause::new("MachineChanged", "this machine changed");
        let detail = cause.detail.clone();
        self.world.handle(clock::now(), Event::Desired { desired, cause });
        self.remember_revision(&detail);
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
        if self.options.watch {
            self.reload("MachineChanged");
        }
        if !self.options.watch || !self.sets.pending().is_empty() {
            // What is on the disk is not well, or nobody has applied it: what is accepted is not to wait for that.
            self.look_at_machine_as_accepted();
        }
    }
}

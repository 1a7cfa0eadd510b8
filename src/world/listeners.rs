//! What the keeper is to hold for a unit beside its processes.

use crate::base::{Listen, Name};
use crate::manifest::spec::NotifyWay;
use crate::plan::{Wish, ports};

use super::World;

/// What outlives the instances of one unit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holdings {
    pub listeners: Vec<Listen>,
    /// Its program may keep descriptors (`FDSTORE=1`): it has a notify socket.
    pub stores: bool,
}

impl World {
    /// A unit that is wanted up keeps its listeners through crashes, backoff and an open circuit. One that is stopped,
    /// disabled, switched off, scaled to nothing or on its way out has none: whoever connects is told at once.
    pub fn holdings(&self, name: &Name) -> Holdings {
        let Some(unit) = self.units.get(name) else { return Holdings::default() };
        if !matches!(self.wish(name, unit), Wish::Up { replicas } if replicas > 0) {
            return Holdings::default();
        }
        let service = &unit.spec.launch.service;
        let ways = [&service.probes.startup, &service.probes.readiness];
        let mut ways = ways.into_iter().filter_map(|probe| probe.as_deref()?.notify);
        Holdings {
            listeners: ports::shared_listeners(name, &unit.spec.launch),
            stores: ways.any(|way| way == NotifyWay::Systemd),
        }
    }
}

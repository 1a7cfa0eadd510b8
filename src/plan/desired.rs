//! What is wanted: the accepted revision, resolved as far as it can be without starting anything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::base::{Name, ObjectRef, Revision};
use crate::graph::Graph;
use crate::manifest::spec::probe::ProbeAction;
use crate::unit::{Policy, ProbeKind, ProbePolicy};

use super::launch::Launch;
use super::{Drift, Edit};

/// The accepted state of all sets.
#[derive(Clone, Debug, Default)]
pub struct Desired {
    pub revision: Revision,
    pub units: BTreeMap<Name, Arc<UnitSpec>>,
    /// Of these, who is neither named to `up` nor needed by who is: they rest until somebody starts them.
    pub left_out: BTreeSet<Name>,
    pub externals: BTreeMap<Name, Arc<ExternalSpec>>,
    /// Units and externals.
    pub graph: Graph,
    pub max_concurrent_starts: Option<u32>,
    /// Units that may roll at once.
    pub max_concurrent_rollouts: Option<u32>,
    /// How long everything may take to stop.
    pub stop_deadline: Option<Duration>,
    /// A failed rollout takes only its own unit back, not everything that the revision changed.
    pub rollback_scope_unit: bool,
    /// What the revision edited beside the specs of units.
    pub edited: Vec<Edit>,
}

/// One unit as it should be.
#[derive(Clone, Debug, PartialEq)]
pub struct UnitSpec {
    pub object: ObjectRef,
    /// The set that owns it.
    pub set: Arc<str>,
    pub labels: BTreeMap<String, String>,
    /// Shared where units have the same: most of it is defaults.
    pub policy: Arc<Policy>,
    /// What an executor needs to start it; the plan only compares it.
    pub launch: Arc<Launch>,
    /// Why it cannot run on this machine (E2xxx), if so.
    pub machine: Option<String>,
    /// What this machine does not enforce of it, though it runs (E2013).
    pub unenforced: Option<String>,
    /// Why its switch (`enabledWhen`) keeps it off, if so.
    pub switched_off: Option<String>,
}

/// Something that others depend on and unisys does not run.
#[derive(Clone, Debug, PartialEq)]
pub struct ExternalSpec {
    pub object: ObjectRef,
    pub set: Arc<str>,
    pub labels: BTreeMap<String, String>,
    pub readiness: Option<ProbePolicy>,
    pub launch: Arc<Launch>,
}

impl UnitSpec {
    /// See [`Drift::between`]. What is not part of the launch (switches, sets, machine) is never drift.
    pub fn drift_to(&self, desired: &Self) -> Drift {
        if self.policy.job != desired.policy.job {
            return Drift::Replace(vec!["kind".into()]);
        }
        self.launch.drift_to(&desired.launch)
    }

    /// The same, with what is known of files that are gone for the moment ([`Launch::lost_marks`]).
    pub fn remembering(self: Arc<Self>, former: &Self) -> Arc<Self> {
        let lost = self.launch.lost_marks(&former.launch);
        if lost.is_empty() {
            return self;
        }
        let mut launch = self.launch.as_ref().clone();
        launch.marks.extend(lost);
        Arc::new(Self { launch: Arc::new(launch), ..self.as_ref().clone() })
    }

    /// Which of its probes ask other questions than those of `former`, or await other lines; how often is no question.
    pub fn asks_anew(&self, former: &Self) -> [bool; 3] {
        ProbeKind::ALL
            .map(|kind| self.question(kind).is_some() && self.question(kind) != former.question(kind))
    }

    fn question(&self, kind: ProbeKind) -> Option<ProbeAction<'_>> {
        let probes = &self.launch.service.probes;
        let probe = match kind {
            ProbeKind::Startup => &probes.startup,
            ProbeKind::Readiness => &probes.readiness,
            ProbeKind::Liveness => &probes.liveness,
        };
        probe.as_deref()?.action()
    }

    /// It is asked the same questions: how often, and about what.
    pub fn is_probed_like(&self, other: &Self) -> bool {
        self.policy.probes == other.policy.probes && self.launch.service.probes == other.launch.service.probes
    }
}

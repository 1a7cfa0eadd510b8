//! `plan(desired, observed) → actions`: what is to be done, why, and what it waits for. A function: the same inputs give
//! the same plan, and planning again after it was carried out gives none.
//!
//! One file a concern: [`desired`] and [`observed`] are the inputs, [`drift`] compares two specs of a unit, [`gate`] says
//! what a start or stop waits for, [`unit`] decides for one unit, [`whole`] puts a whole plan into words and order.

pub mod build;
pub mod desired;
pub mod drift;
pub mod edits;
pub mod gate;
pub mod launch;
pub mod machine;
pub mod notifier;
pub mod observed;
pub mod ports;
pub mod replace;
pub mod unit;
pub mod whole;

use serde::{Deserialize, Serialize};

use crate::base::{ObjectRef, Ordinal, Seat};
use crate::unit::StopReason;

pub use desired::{Desired, ExternalSpec, UnitSpec};
pub use drift::Drift;
pub use edits::{Edit, edits};
pub use launch::Launch;
pub use observed::{Facets, ObservedSlot, ObservedUnit, Wish};
pub use unit::plan_unit;
pub use whole::{Plan, PlanAction};

/// What a plan does to a unit, as `plan` prints it (cli.md).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
pub enum Verb {
    Start,
    Stop,
    Replace,
    Restart,
    Reload,
    Update,
    Scale,
    Run,
    Delete,
    Rollback,
}

impl Verb {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Start => "Start",
            Self::Stop => "Stop",
            Self::Replace => "Replace",
            Self::Restart => "Restart",
            Self::Reload => "Reload",
            Self::Update => "Update",
            Self::Scale => "Scale",
            Self::Run => "Run",
            Self::Delete => "Delete",
            Self::Rollback => "Rollback",
        }
    }
}

/// One thing to do to one unit, with the field or fact that forces it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    pub verb: Verb,
    pub reason: String,
    /// The step that can be taken now; `None` while it waits.
    pub step: Option<Step>,
    /// What it waits for.
    pub waiting: Option<Waiting>,
}

/// A step carries every value that its execution needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// `version` is what it is started with.
    Start {
        seat: Seat,
        version: Pick,
    },
    Stop {
        seat: Seat,
        reason: StopReason,
    },
    /// The incoming instance becomes the serving one; the serving one drains.
    TakeOver {
        ordinal: Ordinal,
    },
    /// A start that a circuit forbids.
    Hold {
        seat: Seat,
    },
    /// The running instance takes the new spec as it is.
    UpdateInPlace {
        seat: Seat,
    },
    /// The running instance reads its files again.
    Reload {
        seat: Seat,
    },
    /// A seat that is no longer wanted and has nothing left.
    Drop {
        seat: Seat,
    },
    /// A seat that stays, without a process.
    Rest {
        seat: Seat,
    },
}

/// Which version of a unit is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick {
    /// The one that is wanted.
    Wanted,
    /// The one that it ran before: the wanted one has not proved itself yet.
    Former,
}

/// What holds an action up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// A dependency's condition: `service/api Ready`.
    Dependency { on: ObjectRef, condition: &'static str, why: String },
    /// A dependent that has to be gone first.
    Dependent { on: ObjectRef },
    /// Its own circuit is open.
    Circuit,
    /// A dependency's circuit is open.
    DependencyCircuit { on: ObjectRef },
    /// A port that another unit is about to let go of.
    Port { on: ObjectRef, port: String },
    /// `maxConcurrentStarts`.
    StartSlots,
    /// An instance of its own: until it is available, or gone.
    Sibling { seat: Seat, until: &'static str },
    /// Other rollouts (`maxConcurrentRollouts`).
    RolloutSlots,
    /// Somebody's word: `rollout resume`, `rollout promote`.
    Word { what: &'static str },
    /// This machine lacks something (E2xxx).
    Machine { message: String },
}

impl std::fmt::Display for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Dependency { on, condition, why } if why.is_empty() => write!(f, "{on} {condition}"),
            Self::Dependency { on, condition, why } => write!(f, "{on} {condition} ({why})"),
            Self::Dependent { on } => write!(f, "{on} gone"),
            Self::Circuit => f.write_str("its circuit to close"),
            Self::DependencyCircuit { on } => write!(f, "the circuit of {on} to close"),
            Self::Port { on, port } => write!(f, "{on} to let go of {port}"),
            Self::StartSlots => f.write_str("other starts (maxConcurrentStarts)"),
            Self::Sibling { seat, until } => write!(f, "{seat} {until}"),
            Self::RolloutSlots => f.write_str("other rollouts (maxConcurrentRollouts)"),
            Self::Word { what } => f.write_str(what),
            Self::Machine { message } => write!(f, "this machine: {}", lacking(message)),
        }
    }
}

/// What a fault of this machine says beside which unit cannot start for it.
fn lacking(message: &str) -> &str {
    let without = message.strip_prefix("cannot start ").and_then(|rest| rest.split_once(": "));
    without.map_or(message, |(_, why)| why)
}

/// What is to be done with one unit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnitPlan {
    pub actions: Vec<Action>,
    /// Nothing of it is left and it is in no manifest: it can be forgotten.
    pub forget: bool,
}

//! One instance's lifecycle and one unit's policy. Pure: facts and the time go in, requests come out.

pub mod accepts;
pub mod adopted;
pub mod breaker;
mod habits;
pub mod lifecycle;
pub mod look;
pub mod policy;
pub mod probes;
pub mod restart;
pub mod watchdog;

pub use accepts::AcceptWatch;
pub use adopted::{HeldParts, PartState};
pub use breaker::{Breaker, Circuit};
pub use habits::whole;
pub use lifecycle::{End, EndReason, Fact, Illegal, Lifecycle, Process, Request, StopPhase, StopReason};
pub use policy::{
    BreakerPolicy, CanaryPolicy, CanaryShare, Condition, Dependency, Policy, ProbeKind, ProbePolicy,
    ProbeWay, RestartPolicy, RestartWhen, StopPolicy, Strategy, UpdatePolicy,
};
pub use probes::{ProbeBoard, Verdict};
pub use restart::{AfterEnd, RestartState};
pub use watchdog::{Finding, Vigil, WatchdogPolicy};

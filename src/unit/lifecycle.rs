//! The life of one ordinal of a unit, as one total state machine.
//!
//! ```text
//! Idle ──Start──▶ Starting ──Through──▶ Up
//!   ▲               │  │                │
//!   │               │  └──Exited, Stop, Due, Fault──▶ Stopping ──Gone, hooks done──▶ Idle + Ended
//!   │               └─SpawnFailed─────────▲   ▲
//!   │                                     └───┘ Exited, Stop, Fault of Up
//!   └──Rest── Backoff | Held | Failed | Done  ◀──Rest── Idle
//! ```
//!
//! `Stopping` covers every way out: an exit that nobody asked for passes through it too, because what is left of the
//! instance (its descendants) is killed before anything takes its place. [`Request::Ended`] says that nothing of the
//! instance is left; the unit's policy then decides where the ordinal rests.

mod stopping;

use std::time::Duration;

use smallvec::{SmallVec, smallvec};

use crate::base::{Exit, Instant, Part, Signal, SpawnStage};

use super::policy::Policy;

pub use stopping::{StopPhase, Stopping};

/// See the module's diagram. Each variant owns its data.
#[derive(Clone, Debug, PartialEq)]
pub enum Lifecycle {
    /// Nothing runs, nothing is decided yet.
    Idle,
    Starting(Starting),
    Up(Process),
    Stopping(Stopping),
    /// Failed; starts again at `until`.
    Backoff {
        until: Instant,
    },
    /// Kept from starting by a circuit: its own or a dependency's.
    Held,
    /// Will not be started again until something changes.
    Failed(EndReason),
    /// Ended well and is not to be started again.
    Done(Exit),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Starting {
    pub since: Instant,
    pub phase: StartPhase,
}

#[derive(Clone, Debug, PartialEq)]
pub enum StartPhase {
    PreStart {
        hook: u8,
        deadline: Instant,
    },
    Spawning,
    /// Executed; its probes have not all let it through.
    Probing(Process),
}

/// A program that has been executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    pub pid: u32,
    pub executed_at: Instant,
}

/// Why unisys stops an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum StopReason {
    /// A new one takes its place.
    Replaced,
    StartupFailed,
    LivenessFailed,
    /// A Job ran longer than its `activeDeadline`.
    DeadlineExceeded,
    /// Its heartbeat was missed, or it was found frozen.
    Watchdog,
    /// No longer wanted: stopped, deleted, scaled down, going down. So is read what a newer unisys calls otherwise.
    #[serde(other)]
    Unwanted,
}

impl StopReason {
    /// What the main process is sent. Who is frozen gets SIGABRT, so that there is a core to look at (rules.md;
    /// systemd.service(5), `WatchdogSignal`).
    pub fn signal(self, policy: &Policy) -> Signal {
        if self == Self::Watchdog { Signal::ABRT } else { policy.stop.signal }
    }
}

/// Why an instance ended, or is about to.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum EndReason {
    Stopped(StopReason),
    /// It exited without being asked.
    Exited,
    SpawnFailed {
        stage: SpawnStage,
        errno: i32,
        detail: String,
    },
    HookFailed {
        hook: u8,
        exit: Option<Exit>,
    },
    /// The machine was restarted under it.
    Rebooted,
}

impl EndReason {
    /// What was to be executed, or where, was not as it has to be: no start mends that before it is another file.
    pub fn is_of_program(&self) -> bool {
        matches!(self, Self::SpawnFailed { stage: SpawnStage::Exec | SpawnStage::WorkingDir, .. })
    }
}

/// An instance of which nothing is left.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct End {
    pub reason: EndReason,
    pub exit: Option<Exit>,
    /// When its program was executed, if it was.
    pub executed_at: Option<Instant>,
    /// Processes of it that even SIGKILL did not end in time.
    pub survivors: u32,
    /// It did not end within the grace of its stop and was killed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub overran: bool,
}

/// What can happen to one ordinal. Facts that carry an incarnation are checked against it before they get here.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    Start,
    HookExited {
        part: Part,
        exit: Exit,
    },
    Spawned {
        pid: u32,
        at: Instant,
    },
    SpawnFailed {
        stage: SpawnStage,
        errno: i32,
        detail: String,
    },
    /// Startup and the first readiness are through.
    Through,
    Exited {
        exit: Exit,
        remains: bool,
    },
    Stop {
        reason: StopReason,
    },
    /// Stop without grace.
    KillNow,
    /// A deadline of this state passed.
    Due,
    /// Nothing of the instance is alive, but for so many survivors that cannot be killed.
    Gone {
        survivors: u32,
    },
    /// The program asks for more time (`EXTEND_TIMEOUT_USEC`).
    Extend {
        until: Instant,
    },
    /// It named another main process (`MAINPID`).
    MainPid {
        pid: u32,
    },
    /// The unit's policy has decided where an ended ordinal rests.
    Rest(Rest),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Rest {
    Idle,
    Backoff { until: Instant },
    Held,
    Failed(EndReason),
    Done(Exit),
}

/// What one step asks for, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    Spawn(Part),
    Signal(Signal),
    /// SIGKILL to whatever belongs to the instance; answered by [`Fact::Gone`].
    Kill,
    /// The program has been executed.
    Executed,
    /// The stop has begun: probes end, routes leave.
    StopBegan,
    /// Nothing is left of it; the policy decides.
    Ended(End),
}

/// A fact that cannot happen in a state. Counted, never acted upon.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct Illegal(Box<str>);

pub type Requests = SmallVec<[Request; 2]>;
type Step = Result<(Lifecycle, Requests), (Lifecycle, Illegal)>;

impl Lifecycle {
    /// All that [`Self::word`] gives.
    pub const WORDS: [&'static str; 8] =
        ["Idle", "Starting", "Up", "Stopping", "Backoff", "Held", "Failed", "Done"];

    /// The word that `get` shows.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Idle => "Idle",
            Self::Starting(_) => "Starting",
            Self::Up(_) => "Up",
            Self::Stopping(_) => "Stopping",
            Self::Backoff { .. } => "Backoff",
            Self::Held => "Held",
            Self::Failed(_) => "Failed",
            Self::Done(_) => "Done",
        }
    }

    /// The executed program, while there is one.
    pub fn process(&self) -> Option<&Process> {
        match self {
            Self::Up(process) | Self::Starting(Starting { phase: StartPhase::Probing(process), .. }) => {
                Some(process)
            }
            Self::Stopping(Stopping { process, exit: None, .. }) => process.as_ref(),
            _ => None,
        }
    }

    /// Something of it may exist: a process, a spawn under way, descendants, a hook.
    pub fn is_occupied(&self) -> bool {
        matches!(self, Self::Starting(_) | Self::Up(_) | Self::Stopping(_))
    }

    /// When [`Fact::Due`] is wanted.
    pub fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Starting(Starting { phase: StartPhase::PreStart { deadline, .. }, .. }) => Some(*deadline),
            Self::Stopping(stopping) => match stopping.phase {
                StopPhase::Command { kill_at } => Some(kill_at),
                StopPhase::Signalled { kill_at, wake_at } => Some(wake_at.min(kill_at)),
                StopPhase::PostStop { deadline, .. } => Some(deadline),
                StopPhase::Sweeping => None,
            },
            Self::Backoff { until } => Some(*until),
            _ => None,
        }
    }

    /// One step. Total: every pair of state and fact has a result; impossible pairs give back the state and an [`Illegal`].
    pub fn step(self, fact: Fact, policy: &Policy, now: Instant) -> Step {
        match self {
            Self::Idle => resting(self, fact, policy, now),
            Self::Backoff { .. } | Self::Held | Self::Failed(_) | Self::Done(_) => {
                resting(self, fact, policy, now)
            }
            Self::Starting(starting) => starting.step(fact, policy, now),
            Self::Up(process) => up(process, fact, policy, now),
            Self::Stopping(stopping) => stopping.step(fact, policy, now),
        }
    }
}

fn resting(state: Lifecycle, fact: Fact, policy: &Policy, now: Instant) -> Step {
    match fact {
        Fact::Start => Ok(begin(policy, now)),
        Fact::Rest(rest) => Ok((rest.into(), smallvec![])),
        // A backoff that is over waits for the plan, which starts it when its dependencies hold.
        Fact::Due | Fact::Stop { .. } | Fact::KillNow => Ok((Lifecycle::Idle, smallvec![])),
        fact => Err(illegal(state, &fact)),
    }
}

fn begin(policy: &Policy, now: Instant) -> (Lifecycle, Requests) {
    let (phase, request) = match policy.pre_start.first() {
        Some(timeout) => {
            (StartPhase::PreStart { hook: 0, deadline: now + *timeout }, Request::Spawn(Part::PreStart(0)))
        }
        None => (StartPhase::Spawning, Request::Spawn(Part::Main)),
    };
    (Lifecycle::Starting(Starting { since: now, phase }), smallvec![request])
}

impl Starting {
    fn step(mut self, fact: Fact, policy: &Policy, now: Instant) -> Step {
        match (self.phase, fact) {
            (StartPhase::PreStart { hook, .. }, Fact::HookExited { part: Part::PreStart(of), exit })
                if hook == of =>
            {
                if exit != Exit::Code(0) {
                    return Ok(sweep(None, EndReason::HookFailed { hook, exit: Some(exit) }, None));
                }
                let next = hook + 1;
                let (phase, part) = match policy.pre_start.get(usize::from(next)) {
                    Some(timeout) => {
                        (StartPhase::PreStart { hook: next, deadline: now + *timeout }, Part::PreStart(next))
                    }
                    None => (StartPhase::Spawning, Part::Main),
                };
                Ok((Lifecycle::Starting(Self { since: self.since, phase }), smallvec![Request::Spawn(part)]))
            }
            (StartPhase::PreStart { hook, .. }, Fact::Due) => {
                Ok(sweep(None, EndReason::HookFailed { hook, exit: None }, None))
            }
            (
                StartPhase::PreStart { .. } | StartPhase::Spawning,
                Fact::SpawnFailed { stage, errno, detail },
            ) => Ok(sweep(None, EndReason::SpawnFailed { stage, errno, detail }, None)),
            (StartPhase::PreStart { .. } | StartPhase::Spawning, Fact::Stop { reason }) => {
                Ok(sweep(None, EndReason::Stopped(reason), None))
            }
            (StartPhase::PreStart { .. } | StartPhase::Spawning, Fact::KillNow) => {
                Ok(sweep(None, EndReason::Stopped(StopReason::Unwanted), None))
            }
            (StartPhase::PreStart { hook, deadline }, Fact::Extend { until }) => {
                let phase = StartPhase::PreStart { hook, deadline: deadline.max(until) };
                Ok((Lifecycle::Starting(Self { since: self.since, phase }), smallvec![]))
            }
            (StartPhase::Spawning, Fact::Spawned { pid, at }) => {
                self.phase = StartPhase::Probing(Process { pid, executed_at: at });
                Ok((Lifecycle::Starting(self), smallvec![Request::Executed]))
            }
            (StartPhase::Probing(process), Fact::Through) => Ok((Lifecycle::Up(process), smallvec![])),
            (
                StartPhase::Probing(process),
                fact @ (Fact::Exited { .. } | Fact::Stop { .. } | Fact::KillNow),
            ) => leave(process, fact, policy, now),
            (StartPhase::Probing(process), Fact::MainPid { pid }) => {
                self.phase = StartPhase::Probing(Process { pid, ..process });
                Ok((Lifecycle::Starting(self), smallvec![]))
            }
            (phase @ StartPhase::Probing(_), Fact::Extend { .. }) => {
                // The startup budget is the probe board's; nothing here has a deadline.
                Ok((Lifecycle::Starting(Self { since: self.since, phase }), smallvec![]))
            }
            (phase, fact) => Err(illegal(Lifecycle::Starting(Self { since: self.since, phase }), &fact)),
        }
    }
}

fn up(process: Process, fact: Fact, policy: &Policy, now: Instant) -> Step {
    match fact {
        Fact::Exited { .. } | Fact::Stop { .. } | Fact::KillNow => leave(process, fact, policy, now),
        Fact::MainPid { pid } => Ok((Lifecycle::Up(Process { pid, ..process }), smallvec![])),
        Fact::Extend { .. } => Ok((Lifecycle::Up(process), smallvec![])),
        fact => Err(illegal(Lifecycle::Up(process), &fact)),
    }
}

/// A running program exits or is made to.
fn leave(process: Process, fact: Fact, policy: &Policy, now: Instant) -> Step {
    match fact {
        Fact::Exited { exit, remains } => {
            let (state, mut requests) =
                after_exit(Some(process), EndReason::Exited, exit, remains, policy, now);
            requests.insert(0, Request::StopBegan);
            Ok((state, requests))
        }
        Fact::Stop { reason } => {
            let kill_at = now + policy.stop.grace;
            // A frozen program is not asked to end well.
            let (phase, request) = if policy.stop.command && reason != StopReason::Watchdog {
                (StopPhase::Command { kill_at }, Request::Spawn(Part::StopCommand))
            } else {
                (StopPhase::signalled(kill_at, now), Request::Signal(reason.signal(policy)))
            };
            let stopping = Stopping {
                process: Some(process),
                reason: EndReason::Stopped(reason),
                phase,
                exit: None,
                overran: false,
            };
            Ok((Lifecycle::Stopping(stopping), smallvec![Request::StopBegan, request]))
        }
        Fact::KillNow => {
            let (state, mut requests) = sweep(Some(process), EndReason::Stopped(StopReason::Unwanted), None);
            requests.insert(0, Request::StopBegan);
            Ok((state, requests))
        }
        fact => Err(illegal(Lifecycle::Up(process), &fact)),
    }
}

/// SIGKILL to whatever is there, then wait for [`Fact::Gone`].
fn sweep(process: Option<Process>, reason: EndReason, exit: Option<Exit>) -> (Lifecycle, Requests) {
    let stopping = Stopping { process, reason, phase: StopPhase::Sweeping, exit, overran: false };
    (Lifecycle::Stopping(stopping), smallvec![Request::Kill])
}

/// The main process is gone: kill what it left behind, or go on if nothing is.
fn after_exit(
    process: Option<Process>,
    reason: EndReason,
    exit: Exit,
    remains: bool,
    policy: &Policy,
    now: Instant,
) -> (Lifecycle, Requests) {
    if remains {
        return sweep(process, reason, Some(exit));
    }
    let stopping = Stopping { process, reason, phase: StopPhase::Sweeping, exit: Some(exit), overran: false };
    stopping.after_gone(0, policy, now)
}

impl From<Rest> for Lifecycle {
    fn from(rest: Rest) -> Self {
        match rest {
            Rest::Idle => Self::Idle,
            Rest::Backoff { until } => Self::Backoff { until },
            Rest::Held => Self::Held,
            Rest::Failed(reason) => Self::Failed(reason),
            Rest::Done(exit) => Self::Done(exit),
        }
    }
}

fn illegal(state: Lifecycle, fact: &Fact) -> (Lifecycle, Illegal) {
    let illegal = format!("{fact:?} in state {}", state.word());
    (state, Illegal(illegal.into()))
}

/// How long an ended program ran, if it was executed.
impl End {
    pub fn ran_for(&self, now: Instant) -> Duration {
        self.executed_at.map_or(Duration::ZERO, |at| now.since(at))
    }
}

#[cfg(test)]
#[path = "lifecycle_tests.rs"]
mod tests;

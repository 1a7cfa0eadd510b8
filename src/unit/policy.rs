//! What the decisions about a unit need of its spec: plain data, no defaults of its own.

use std::time::Duration;

use smallvec::SmallVec;

use crate::base::{BackoffCurve, Name, Signal, limits};

use super::watchdog::WatchdogPolicy;

/// What a dependent waits for (manifest.md, `dependsOn`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Every wanted instance has been executed.
    Started,
    /// The unit's Ready condition is true.
    Ready,
    /// A Job ended well.
    Completed,
}

impl Condition {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Started => "Started",
            Self::Ready => "Ready",
            Self::Completed => "Completed",
        }
    }
}

/// One edge of the dependency graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dependency {
    pub name: Name,
    pub condition: Condition,
    /// Waited for only while it may still get there; its absence or failure holds nothing up.
    pub optional: bool,
    /// Replaced when that one was replaced by a rollout or an explicit restart, never after a crash.
    pub restart: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub enum ProbeKind {
    Startup,
    Readiness,
    Liveness,
}

impl ProbeKind {
    pub const ALL: [Self; 3] = [Self::Startup, Self::Readiness, Self::Liveness];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Startup => "startup",
            Self::Readiness => "readiness",
            Self::Liveness => "liveness",
        }
    }

    pub fn index(self) -> usize {
        self as usize
    }
}

/// How the answer of a probe comes about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeWay {
    /// Somebody asks: http, tcp, grpc, exec, file.
    Asked,
    /// Asked as well, and the kernel tells when the port is open, so the first question need not wait.
    AskedOnPort(u16),
    /// The same on the number that this instance got for its `auto` port of this name.
    AskedOnOwnPort(Name),
    /// The program tells: `sd_notify`, the s6 newline, a line in its log. Nobody asks.
    Told,
}

/// Kubernetes' probe fields, as durations (semantics.md).
#[derive(Clone, Debug, PartialEq)]
pub struct ProbePolicy {
    pub way: ProbeWay,
    pub initial_delay: Duration,
    pub period: Duration,
    pub timeout: Duration,
    pub success_threshold: u32,
    pub failure_threshold: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartWhen {
    Always,
    OnFailure,
    Never,
}

#[derive(Clone, Debug, PartialEq)]
pub struct RestartPolicy {
    pub when: RestartWhen,
    pub backoff: BackoffCurve,
    /// Running this long forgets earlier failures.
    pub reset_after: Duration,
    pub success_exit_codes: SmallVec<[u8; 8]>,
    pub permanent_exit_codes: SmallVec<[u8; 8]>,
    /// Failures in a row after which it is given up (a Job's `backoffLimit`); `None`: never.
    pub give_up_after: Option<u32>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct BreakerPolicy {
    pub failures: u32,
    pub window: Duration,
    pub open_for: Duration,
    pub success_after: Duration,
    pub max_open: Duration,
    pub hold_dependents: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StopPolicy {
    pub signal: Signal,
    pub grace: Duration,
    /// `stop.command` is run first; it shares the grace.
    pub command: bool,
}

/// How a new version takes the place of an old one (manifest.md, `update`).
#[derive(Clone, Debug, PartialEq)]
pub struct UpdatePolicy {
    pub strategy: Strategy,
    /// Instances beyond `replicas` during a rollout.
    pub max_surge: u32,
    /// Instances that may be missing during a rollout.
    pub max_unavailable: u32,
    /// Ready this long counts as available.
    pub min_ready: Duration,
    /// A rollout that gets no further for this long has failed.
    pub progress_deadline: Duration,
    /// A rollout that failed goes back by itself.
    pub auto_rollback: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// One after the other, as far as surge and unavailability allow.
    Rolling,
    /// All new ones beside the old ones; they take over together.
    BlueGreen,
    /// A few new ones beside the old ones first; the rest follows once they are promoted.
    Canary(CanaryPolicy),
    /// All old ones stop, then the new ones start.
    Recreate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CanaryPolicy {
    pub share: CanaryShare,
    /// Available this long, they may be promoted.
    pub hold: Duration,
    pub auto_promote: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CanaryShare {
    Replicas(u32),
    Percent(u32),
}

impl CanaryPolicy {
    /// Instances that go first: at least one, at most all.
    pub fn count(self, replicas: u32) -> u32 {
        let wanted = match self.share {
            CanaryShare::Replicas(count) => count,
            CanaryShare::Percent(percent) => (u64::from(replicas) * u64::from(percent)).div_ceil(100) as u32,
        };
        wanted.clamp(1, replicas.max(1))
    }
}

/// Everything that the decisions about one unit depend on.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// A Job ends; a Service does not.
    pub job: bool,
    pub replicas: u32,
    pub depends_on: Vec<Dependency>,
    /// By [`ProbeKind::index`].
    pub probes: [Option<ProbePolicy>; 3],
    pub restart: RestartPolicy,
    pub breaker: Option<BreakerPolicy>,
    pub stop: StopPolicy,
    /// Timeouts of `hooks.preStart`, in order.
    pub pre_start: SmallVec<[Duration; 1]>,
    /// Timeouts of `hooks.postStop`, in order.
    pub post_stop: SmallVec<[Duration; 1]>,
    /// A Job is stopped after this long.
    pub active_deadline: Option<Duration>,
    pub update: UpdatePolicy,
    /// Boxed: few units have one.
    pub watchdog: Option<Box<WatchdogPolicy>>,
}

impl Policy {
    pub fn probe(&self, kind: ProbeKind) -> Option<&ProbePolicy> {
        self.probes[kind.index()].as_ref()
    }

    /// What it cannot be without.
    pub fn hard_dependencies(&self) -> impl Iterator<Item = &Name> {
        self.depends_on.iter().filter(|dependency| !dependency.optional).map(|dependency| &dependency.name)
    }

    /// A program that ends sooner has failed at its start. One that has a probe for its start is watched while it begins; of
    /// another it is only guessed.
    pub fn start_failure(&self) -> Duration {
        match self.is_seen_to_start() {
            true => limits::START_FAILURE,
            false => limits::START_FAILURE_UNSEEN,
        }
    }

    /// A startup or readiness probe tells when it has begun.
    pub fn is_seen_to_start(&self) -> bool {
        [ProbeKind::Startup, ProbeKind::Readiness].iter().any(|kind| self.probe(*kind).is_some())
    }

    /// Something wakes for it while it runs: its watchdog, or a probe that is asked.
    pub fn is_looked_at(&self) -> bool {
        let asked = |probe: &ProbePolicy| probe.way != ProbeWay::Told;
        self.watchdog.is_some() || self.probes.iter().flatten().any(asked)
    }

    /// A unit without probes, hooks or dependencies, with the documented defaults; tests start from it.
    pub fn plain() -> Self {
        Self {
            job: false,
            replicas: 1,
            depends_on: Vec::new(),
            probes: [None, None, None],
            restart: RestartPolicy {
                when: RestartWhen::Always,
                backoff: BackoffCurve {
                    initial: Duration::from_millis(100),
                    factor: 2.0,
                    max: Duration::from_secs(300),
                    jitter: 0.2,
                },
                reset_after: Duration::from_secs(600),
                success_exit_codes: SmallVec::from_slice(&[0]),
                permanent_exit_codes: SmallVec::from_slice(&[78, 125, 126, 127]),
                give_up_after: None,
            },
            breaker: None,
            stop: StopPolicy { signal: Signal::TERM, grace: Duration::from_secs(10), command: false },
            pre_start: SmallVec::new(),
            post_stop: SmallVec::new(),
            active_deadline: None,
            update: UpdatePolicy {
                strategy: Strategy::Rolling,
                max_surge: 1,
                max_unavailable: 0,
                min_ready: Duration::from_secs(1),
                progress_deadline: Duration::from_secs(60),
                auto_rollback: true,
            },
            watchdog: None,
        }
    }
}

//! What can happen to the world: a closed list.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::{
    Category, Epoch, Exit, Generation, Incarnation, InstanceId, Instant, Name, Now, Ordinal, Part,
    PortNumbers, Revision, Role, Signal, SpawnStage, Stamp,
};
use crate::plan::{Desired, UnitSpec};
use crate::rollout::{Failure, Progress, Span};
use crate::unit::watchdog::Look;
use crate::unit::{HeldParts, PartState, Policy, ProbeKind, StopReason};

use super::chronicle::ROLLBACK;
use super::overrides::Overrides;
use super::state::{Completed, LastEnd};

/// One fact or wish. Facts about instances carry their incarnation; old ones change nothing but a counter.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // one at a time, handed over and gone
pub enum Event {
    /// A new accepted revision.
    Desired {
        desired: Arc<Desired>,
        cause: Cause,
    },
    /// What an earlier daemon knew of a unit; before the first `Desired`.
    Restore {
        unit: Name,
        checkpoint: Checkpoint,
        /// The version that it ran in place of the declared one, built again from its revision.
        kept: Option<Arc<UnitSpec>>,
    },
    /// An instance that the keeper holds; after the first `Desired`, before [`Event::Begin`].
    Adopt(Box<Adopted>),
    /// Everything known has been told: planning begins.
    Begin,
    Instance {
        id: InstanceId,
        fact: InstanceFact,
    },
    /// The answer of an External's readiness probe.
    External {
        name: Name,
        seq: u64,
        ok: bool,
        message: String,
    },
    /// A person's wish about what there is.
    Order {
        order: Order,
        by: String,
    },
    /// Before [`Event::ShutDown`], or after it: everything has to have stopped by then.
    StopBy {
        at: Instant,
    },
    /// Everything is to stop, in order; `now`: without grace.
    ShutDown {
        by: String,
        now: bool,
    },
    /// The last lines that a failing instance wrote, as [`super::Effect::TailLog`] asked.
    Lines {
        unit: Name,
        revision: Revision,
        lines: Vec<String>,
    },
    /// A failure ([`super::Effect::Failed`]) was looked at closely.
    Classified {
        id: InstanceId,
        generation: Generation,
        exit: Exit,
        ran_for: Duration,
        category: Category,
    },
    /// Something outside the world that belongs in its record of events (a rejected revision, a keeper that died).
    Note {
        warning: bool,
        reason: &'static str,
        object: String,
        message: String,
    },
    /// What could not be executed is another file now ([`super::Effect::WatchProgram`]).
    ProgramChanged {
        name: Name,
    },
    /// A deadline given out by [`super::World::poll_deadline`] has passed.
    Tick,
}

/// A fact about one instance.
#[derive(Clone, Debug, PartialEq)]
pub enum InstanceFact {
    Spawned {
        part: Part,
        pid: u32,
        at: Instant,
        /// Numbers of its `auto` ports.
        ports: PortNumbers,
        /// What it runs without: security settings (`bestEffort`), or its cgroup.
        left_out: Vec<String>,
    },
    SpawnFailed {
        part: Part,
        stage: SpawnStage,
        errno: i32,
        detail: String,
    },
    /// A port that its program is to listen at is held by somebody else: it was not started.
    PortHeld {
        detail: String,
    },
    Exited {
        part: Part,
        exit: Exit,
        remains: bool,
    },
    /// It was moved out of its cgroup by somebody else.
    Uncontained,
    Gone {
        survivors: u32,
    },
    Probe {
        kind: ProbeKind,
        seq: u64,
        ok: bool,
        /// There was no answer in time.
        late: bool,
        message: String,
    },
    PortOpen,
    /// `READY=1`, the s6 newline, or the awaited log line.
    ToldReady {
        how: &'static str,
    },
    /// `STOPPING=1`.
    ToldStopping,
    /// `STATUS=`.
    ToldStatus(String),
    /// `MAINPID=`, checked to be within the instance.
    MainPid(u32),
    /// `RELOADING=1`, and when by the program's `MONOTONIC_USEC=` it began.
    ToldReloading {
        since: Option<Instant>,
    },
    /// What came of a reload command.
    Reloaded {
        ok: bool,
        message: String,
    },
    /// `EXTEND_TIMEOUT_USEC=`, as the time until which it extends.
    Extend {
        until: Instant,
    },
    /// `WATCHDOG=1`.
    Heartbeat,
    /// `WATCHDOG=trigger`.
    ToldFrozen,
    /// `WATCHDOG_USEC=`: heartbeats come within this time from now on.
    HeartbeatWithin(Duration),
    /// What [`super::Effect::LookAt`] showed; nothing, when its processes could not be seen.
    Seen {
        look: Option<Look>,
        closely: bool,
    },
}

/// Why a revision came about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// `Up`, `FilesChanged`, `Apply`, `Delete`, `Order`, `Exit`, `ShutDown` …
    pub kind: String,
    /// A sentence's end: which files, who.
    pub detail: String,
    /// Files that changed, by their names.
    #[serde(default)]
    pub files: Vec<String>,
}

impl Cause {
    pub fn new(kind: &str, detail: impl Into<String>) -> Self {
        Self { kind: kind.to_owned(), detail: detail.into(), files: Vec::new() }
    }

    /// A change with a cause of this kind is what a unit does by itself.
    pub fn is_of_unit(kind: &str) -> bool {
        matches!(kind, "Exit" | "DependencyReady" | "Plan")
    }

    /// It is one of a new revision.
    pub fn brings_versions(&self) -> bool {
        !Self::is_of_unit(&self.kind) && !matches!(self.kind.as_str(), "Order" | "ShutDown" | ROLLBACK)
    }
}

/// An instance as the keeper tells of it to a new daemon.
#[derive(Clone, Debug)]
pub struct Adopted {
    pub id: InstanceId,
    /// The spec it was started with; `None` when it cannot be read.
    pub spec: Option<Arc<UnitSpec>>,
    pub generation: Generation,
    pub started_wall: Stamp,
    /// Its programs, running, ended or just being spawned.
    pub parts: Vec<(Part, PartState)>,
    /// The last signal that its main program was sent.
    pub signalled: Option<Signal>,
    pub mark: Mark,
    /// Numbers of its `auto` ports.
    pub ports: Arc<PortNumbers>,
    /// It ran when the machine was restarted.
    pub rebooted: bool,
}

impl Adopted {
    /// What its lifecycle follows from, under the policy that it was started with.
    pub fn held_parts(&self, policy: &Policy) -> HeldParts {
        let old = self.mark.stopping.then_some(StopReason::Unwanted);
        let stop = self.mark.stop.or(old);
        HeldParts {
            parts: self.parts.clone(),
            stop,
            signalled: self.signalled == Some(stop.unwrap_or(StopReason::Unwanted).signal(policy)),
            through: self.mark.through,
            rebooted: self.rebooted,
        }
    }
}

/// What the keeper remembers of an instance for the next daemon, beside its spec.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pub through: bool,
    pub ready: bool,
    /// It was being stopped on purpose. Daemons that do not know `stop` look here.
    pub stopping: bool,
    /// Why.
    #[serde(default)]
    pub stop: Option<StopReason>,
    #[serde(default)]
    pub role: Role,
    /// What it runs without ([`super::Instance::left_out`]).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
    /// Its startup probe has passed.
    #[serde(default)]
    pub started: bool,
    /// Its probes were edited while it ran, and have not answered well since.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub edited: bool,
    /// Which of them: what an earlier daemon was about to find out is found out by the next one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unproved: Vec<ProbeKind>,
    /// The interval of its heartbeat, if it has asked for one (`WATCHDOG_USEC=`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<std::time::Duration>,
    /// Its notify socket was made anew by a keeper that followed a dead one, and nothing has been heard over it: a program that
    /// stays connected to the former one (connect(2)) speaks to nobody.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unheard: bool,
    /// Until when its startup may take, if it has asked for more time (`EXTEND_TIMEOUT_USEC=`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extended: Option<Instant>,
    /// The last time that it was told to read its files again came to nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unread: Option<Box<Failure>>,
}

impl Mark {
    /// Another word of the daemon. What the keeper has found since that the instance runs without stays.
    pub fn follow(&mut self, next: Self) {
        let found = std::mem::replace(self, next).left_out;
        let new: Vec<String> = found.into_iter().filter(|what| !self.left_out.contains(what)).collect();
        self.left_out.extend(new);
    }
}

/// What the store remembers of a unit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    pub generation: Generation,
    /// The written spec that the generation belongs to, as a digest.
    pub digest: String,
    pub restarts: Vec<u32>,
    pub attempt: u32,
    /// Ordinals that are still to be started again: which instance of each, if there was one, and why.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub restart_asked: BTreeMap<Ordinal, (Option<Incarnation>, String)>,
    /// Ordinals that have failed for this generation and rest, or, of a Service, have ended well.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rests: BTreeMap<Ordinal, Rested>,
    /// How the one before each ordinal's present instance ended.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub last_ends: BTreeMap<Ordinal, LastEnd>,
    /// Instances whose end is part of this: the keeper may still hold them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ended: Vec<Incarnation>,
    /// A Job has ended for this generation: how.
    pub done: Option<Exit>,
    /// Of a Job: what its last run was of, if that ended well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed: Option<Completed>,
    /// Of a Job: a version of it has completed, be it an earlier one.
    #[serde(default)]
    pub completed_once: bool,
    /// The breaker: open for so many milliseconds more when this was saved, and how long it was open last.
    pub open_left_ms: Option<u64>,
    pub open_for_ms: u64,
    pub overrides: Overrides,
    /// The generation of what the manifest says, where another one is wanted.
    #[serde(default)]
    pub written_generation: Option<Generation>,
    /// The revision that brought what the manifest says.
    #[serde(default)]
    pub written_revision: Option<Revision>,
    /// And its digest.
    #[serde(default)]
    pub written_digest: Option<String>,
    /// The last version that was found well.
    #[serde(default)]
    pub good: Option<Known>,
    /// Why its first deployment has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unwell: Option<Box<Failure>>,
    /// The one before it, which comes back if it turns out bad after all; its own instances end that until this time, those of
    /// other units that the same revision changed for as long as they roll.
    #[serde(default)]
    pub before: Option<(Known, Instant)>,
    /// That time on the wall clock: another boot has no other to count on.
    #[serde(default)]
    pub trial_until: Option<Stamp>,
    /// How far its rollout has got.
    #[serde(default)]
    pub progress: Option<Progress>,
    /// When that rollout was, and what brought it about.
    #[serde(default)]
    pub rollout: Option<Span>,
    #[serde(default)]
    pub rolled_by: Option<Cause>,
    /// The breaker: open until then, on the clock of this boot; and the failures that count while it is closed.
    #[serde(default)]
    pub open_until: Option<Instant>,
    #[serde(default)]
    pub failures: Vec<Instant>,
    /// Half open: since when its trial has been Ready, on the same clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial_ready: Option<Instant>,
    /// What failures of its present generation follow: which fields were changed, and when.
    #[serde(default)]
    pub changed: Option<(String, Stamp)>,
    /// While its circuit is not closed: what opened it and what that came of, symptom first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub opened: Vec<(String, Stamp)>,
}

impl Checkpoint {
    /// The machine was started again since: what failed before is tried again, what is disabled is not started, and no point on
    /// the clock of the former boot means anything. A trial ends when it would have, a rollout begins its time anew.
    pub fn after_another_boot(&mut self, now: Now) {
        self.rests.clear();
        self.attempt = 0;
        self.overrides.started = None;
        self.failures.clear();
        (self.open_until, self.trial_ready) = (None, None);
        if let Some((_, until)) = &mut self.before {
            let left = self.trial_until.map_or(0, |until| until.0.saturating_sub(now.wall.0).max(0));
            *until = now.mono + Duration::from_millis(left as u64);
        }
        if let Some(progress) = &mut self.progress {
            (progress.deadline, progress.holding_since) = (None, None);
        }
    }

    /// The revision whose version of the unit is needed beside the declared one: what was good, while something else is wanted
    /// or tried; or what was good before it, while it may still come back. `rolling`: revisions that some unit is on its way to.
    pub fn kept_revision(&self, rolling: &BTreeSet<Revision>, now: Instant) -> Option<Revision> {
        let good = self.good.as_ref()?;
        if let Some((pinned, _)) = self.overrides.pinned.as_ref().filter(|_| self.is_on_way_to_pinned()) {
            return Some(*pinned);
        }
        if self.written_generation.is_some() || good.digest != self.digest {
            return Some(good.revision);
        }
        let (before, trial) = self.before.as_ref()?;
        (now < *trial || rolling.contains(&good.revision)).then_some(before.revision)
    }

    /// The revision of what was good, where the manifests have been edited since this was saved: what the edit may go back to.
    pub fn before_edit(&self, declared: Option<&Arc<UnitSpec>>) -> Option<Revision> {
        let good = self.good.as_ref()?;
        declared.is_some_and(|spec| spec.launch.digest() != self.digest).then_some(good.revision)
    }

    /// Somebody has asked for an earlier version, and what was good is still another one.
    pub(super) fn is_on_way_to_pinned(&self) -> bool {
        let elsewhere = self.good.as_ref().is_some_and(|good| good.generation != self.generation);
        elsewhere && self.overrides.pinned.is_some() && self.overrides.rejected.is_none()
    }

    /// The revision that the unit is on its way to.
    pub fn rolling(&self) -> Option<Revision> {
        self.progress.as_ref().and(self.written_revision)
    }
}

/// An ordinal that failed or ended. The next daemon of this boot leaves it where it is; after an ordered end everything is tried again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rested {
    pub last_end: LastEnd,
    /// When it is started again, on the clock of this boot; absent: not before something changes.
    pub until: Option<Instant>,
}

/// A version by its identity: its spec is with the instances that run it, or in the revision's manifests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Known {
    pub generation: Generation,
    pub revision: Revision,
    pub digest: String,
}

/// What a person can ask for.
#[derive(Clone, Debug, PartialEq)]
pub enum Order {
    Start(Vec<Name>),
    Stop(Vec<Name>),
    Restart(Vec<Name>),
    Enable(Vec<Name>),
    Disable(Vec<Name>),
    Scale(Vec<(Name, u32)>),
    ResetCircuit(Vec<Name>),
    Run(Name),
    Reload(Vec<Name>),
    Pause(Vec<Name>),
    Resume(Vec<Name>),
    Promote(Vec<Name>),
    /// Try what was found bad again.
    Retry(Vec<Name>),
    /// Go back to this version of a unit; without one, to the one before.
    Undo(Name, Option<(Revision, Arc<UnitSpec>)>),
}

/// The identities under which a world begins.
#[derive(Clone, Copy, Debug)]
pub struct Beginning {
    pub epoch: Epoch,
    pub seed: u64,
    /// The first incarnation that no earlier daemon can have used.
    pub incarnation: Incarnation,
}

//! What the world asks for. An effect carries every value that its execution needs: the executor chooses nothing (invariant 3).

use std::sync::Arc;
use std::time::Duration;

use crate::base::{
    CgroupLimits, Generation, InstanceId, Instant, Name, Part, PortNumbers, Revision, Role, Signal, Stamp,
};
use crate::plan::{ExternalSpec, UnitSpec};
use crate::unit::{End, Finding, ProbeKind};

use super::chronicle::{Change, Record, RecordId};
use super::event::{Checkpoint, Mark};
use super::rollouts::RolloutRecord;

#[derive(Clone, Debug)]
pub enum Effect {
    Spawn {
        id: InstanceId,
        part: Part,
        /// Which descriptors that programs gave to keep are its own (`FDSTORE=1`).
        role: Role,
        spec: Arc<UnitSpec>,
        generation: Generation,
        /// So often in a row it was started again already.
        attempt: u32,
    },
    /// To the main process.
    Signal {
        id: InstanceId,
        signal: Signal,
    },
    /// This process of the instance is its main program from now on.
    Follow {
        id: InstanceId,
        pid: u32,
    },
    /// SIGKILL to everything that belongs to it; answered by `Gone`.
    Kill {
        id: InstanceId,
    },
    /// Nothing of it is left and its end is known: its logs end, and the keeper may forget it once what is saved
    /// in this turn is on the disk.
    Forget {
        id: InstanceId,
    },
    /// The running instance now has this spec (in place) or this mark.
    Remember {
        id: InstanceId,
        spec: Arc<UnitSpec>,
        generation: Generation,
        mark: Mark,
    },
    /// The limits of its cgroup are these now (in place).
    Limit {
        id: InstanceId,
        limits: CgroupLimits,
    },
    Probe {
        id: InstanceId,
        kind: ProbeKind,
        seq: u64,
        timeout: Duration,
        spec: Arc<UnitSpec>,
        /// Numbers of the instance's `auto` ports.
        ports: Arc<PortNumbers>,
    },
    /// What its processes do is wanted, answered by `Seen`: of which process on, whether with what waits for it, and whether each
    /// thread is kept for a person to read.
    LookAt {
        id: InstanceId,
        pid: u32,
        work: bool,
        closely: bool,
    },
    ProbeExternal {
        name: Name,
        seq: u64,
        timeout: Duration,
        spec: Arc<ExternalSpec>,
    },
    /// Tell when the port is open; until [`Effect::UnwatchPort`].
    WatchPort {
        id: InstanceId,
        port: u16,
    },
    UnwatchPort {
        id: InstanceId,
    },
    /// Tell when the awaited line appears in its log.
    WatchLog {
        id: InstanceId,
        spec: Arc<UnitSpec>,
    },
    UnwatchLog {
        id: InstanceId,
    },
    /// Its program, or the directory that it runs in, was not as it has to be: tell when that is another one, with
    /// [`super::Event::ProgramChanged`]; until [`Effect::UnwatchProgram`] or [`Effect::DropUnit`].
    WatchProgram {
        name: Name,
        spec: Arc<UnitSpec>,
        /// When it was found so: what has changed since is another one.
        since: Stamp,
    },
    UnwatchProgram {
        name: Name,
    },
    /// What this machine lacks may be something else now: build the accepted manifests again, answered by
    /// [`super::Event::Desired`] if that makes a difference.
    LookAtMachine,
    /// The program is to read its files again, by a command of its own.
    RunReload {
        id: InstanceId,
        command: Vec<String>,
        timeout: Duration,
        spec: Arc<UnitSpec>,
        ports: Arc<PortNumbers>,
    },
    /// Tell the last lines that an instance wrote, with [`super::Event::Lines`].
    TailLog {
        id: InstanceId,
        revision: Revision,
    },
    /// A rollout began, went on or is over.
    SaveRollout {
        name: Name,
        rollout: Box<RolloutRecord>,
    },
    Announce(Arc<Record>),
    /// An instance failed. Its [`Effect::Forget`] came before, so that its last output is on its way to the log.
    Failed(Box<Failure>),
    /// A change began, went on or ended.
    SaveChange(Arc<Change>),
    SaveUnit {
        name: Name,
        checkpoint: Box<Checkpoint>,
    },
    /// The same of several, in one transaction.
    SaveUnits {
        units: Vec<(Name, Box<Checkpoint>)>,
    },
    DropUnit {
        name: Name,
    },
    /// Everything is being stopped: the keeper learns it, so that the next daemon goes on with it.
    GoingDown {
        by: String,
        /// By when it has to be over.
        until: Option<Instant>,
    },
    /// Everything has stopped.
    Finished {
        survivors: u32,
    },
}

impl Effect {
    /// It is only told or written: carried out at the end of the turn, so that no program waits for it.
    pub fn comes_last(&self) -> bool {
        matches!(
            self,
            Self::Announce(_)
                | Self::Failed(_)
                | Self::SaveChange(_)
                | Self::SaveRollout { .. }
                | Self::SaveUnit { .. }
                | Self::SaveUnits { .. }
                | Self::DropUnit { .. }
                | Self::Finished { .. }
        )
    }
}

/// How an instance failed, and what followed.
#[derive(Clone, Debug)]
pub struct Failure {
    pub id: InstanceId,
    pub spec: Arc<UnitSpec>,
    pub generation: Generation,
    pub end: End,
    /// The end in words: "ended: exit code 1".
    pub words: String,
    /// What its watchdog ended it for.
    pub frozen: Option<Box<Finding>>,
    pub at: Stamp,
    pub ran_for: Duration,
    pub restarts: u32,
    /// It is not started again until something changes.
    pub permanent: bool,
    /// The record of its end.
    pub record: Option<RecordId>,
    /// An earlier daemon has counted it, and may have been killed before it had recorded the failure.
    pub again: bool,
}

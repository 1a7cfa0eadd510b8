//! What daemon and keeper say to each other: JSON in packets, versioned. Fields are only ever added, so that an old keeper
//! serves a newer daemon.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::base::ports::MainPort;
use crate::base::{
    CgroupLimits, Epoch, Exit, Generation, Incarnation, InstanceId, Instant, Listen, Name, Part, PortNeed,
    PortNumbers, Role, Sandbox, SpawnStage, Spent, Stamp,
};
use crate::world::Mark;

/// Version of this protocol.
pub const VERSION: u32 = 1;
/// The oldest version of the other side that is still understood.
pub const OLDEST: u32 = 1;

/// How a refused [`Request::Upgrade`] begins.
pub const CANNOT_BECOME: &str = "cannot become ";

/// Exit code of a daemon that cannot start because the manifests are not valid; nothing runs, so the keeper ends too.
pub const EXIT_INVALID: u8 = 81;
/// The same because a unit that is to be started is in no manifest.
pub const EXIT_NOT_FOUND: u8 = 83;
/// The same because two sets own the same object.
pub const EXIT_CONFLICT: u8 = 85;
/// The same because of what was said on the command line.
pub const EXIT_USAGE: u8 = 84;
/// The same for any other reason that another try will not mend.
pub const EXIT_CANNOT: u8 = 82;

/// Who wanted the end, where a signal says it.
pub fn signal_words(signal: i32) -> &'static str {
    if signal == libc::SIGINT { "Ctrl-C (SIGINT)" } else { "SIGTERM" }
}

/// Daemon → keeper. Everything but `Hello` carries the daemon's epoch; an older one than the keeper has seen is refused.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "camelCase")]
pub enum Request {
    /// The first word of a daemon. `epoch` is the last one it knows of; answered by `Welcome` and the inventory.
    Hello {
        version: u32,
        epoch: Epoch,
        /// It understands packets that hold several messages.
        #[serde(default)]
        several: bool,
    },
    /// From here on the daemon speaks with this epoch.
    Begin {
        epoch: Epoch,
    },
    Spawn(Box<Spawn>),
    /// To the main process, or to the one that it named (`MAINPID`).
    Signal {
        epoch: Epoch,
        id: InstanceId,
        signal: i32,
        pid: Option<u32>,
    },
    /// This process of the instance is its main program from now on.
    Follow {
        epoch: Epoch,
        id: InstanceId,
        pid: u32,
    },
    /// SIGKILL to whatever belongs to the instance; answered by `Gone`.
    Kill {
        epoch: Epoch,
        id: InstanceId,
    },
    /// Its end is known: nothing need be kept of it.
    Forget {
        epoch: Epoch,
        id: InstanceId,
    },
    /// What the next daemon should know of it.
    Remember {
        epoch: Epoch,
        id: InstanceId,
        mark: Mark,
        generation: Generation,
        spec: Option<String>,
    },
    /// The limits of an instance that runs are these now.
    Limit {
        epoch: Epoch,
        id: InstanceId,
        limits: CgroupLimits,
    },
    /// All listeners that the accepted revision wants, and the units whose stored descriptors are kept. Others are closed
    /// once no instance has them.
    Listeners {
        epoch: Epoch,
        wanted: Vec<Listen>,
        storing: Vec<Name>,
    },
    /// Keep the descriptor that comes along for the next instance of the ordinal (`FDSTORE=1`).
    Store {
        epoch: Epoch,
        id: InstanceId,
        name: String,
    },
    /// Descriptors of this name are kept no longer (`FDSTOREREMOVE=1`).
    Unstore {
        epoch: Epoch,
        id: InstanceId,
        name: String,
    },
    /// Everything is being stopped: the next daemon, and the next keeper that one starts, go on with it.
    Down {
        epoch: Epoch,
        by: String,
        /// By when it has to be over.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<Instant>,
    },
    /// Everything has stopped, or nothing can be started: the keeper ends with this code.
    Exit {
        epoch: Epoch,
        code: u8,
    },
    /// Become the binary on disk (execve(2)); services are not touched.
    Upgrade {
        epoch: Epoch,
    },
}

/// Everything that a start needs.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spawn {
    pub epoch: Epoch,
    pub id: InstanceId,
    pub part: Part,
    /// The seat of its ordinal that it is started for.
    #[serde(default)]
    pub role: Role,
    pub path: String,
    pub argv: Vec<String>,
    pub env: Vec<(String, String)>,
    pub dir: String,
    #[serde(default)]
    pub user: Option<(u32, u32, Vec<u32>)>,
    #[serde(default)]
    pub umask: Option<u32>,
    #[serde(default)]
    pub nofile: Option<u64>,
    #[serde(default)]
    pub nice: Option<i32>,
    #[serde(default)]
    pub oom_score_adjust: Option<i32>,
    #[serde(default)]
    pub no_new_privileges: bool,
    /// Where the keeper has cgroups.
    #[serde(default)]
    pub cgroup_limits: CgroupLimits,
    #[serde(default)]
    pub sandbox: Option<Box<Sandbox>>,
    #[serde(default)]
    pub notify: Notify,
    /// Its heartbeat is expected: `WATCHDOG_PID` says that it is meant (sd_watchdog_enabled(3)).
    #[serde(default)]
    pub watchdog: bool,
    /// Sockets and numbers that the main program is given, in the order in which they were written.
    #[serde(default)]
    pub ports: Vec<PortNeed>,
    /// The port that PORT is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub main_port: Option<MainPort>,
    /// So often in a row it was started again already: of several that wait, who failed least comes first.
    #[serde(default)]
    pub attempt: u32,
    pub generation: Generation,
    pub wall: Stamp,
    /// Opaque to the keeper: the spec that it is started with.
    pub spec: String,
    /// The variables in `env` that hold secrets: the next daemon is told their values, from memory.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
}

impl Spawn {
    /// Of a command in an instance's environment: the tag of that ([`InstanceId::tag`]).
    pub fn tag(&self) -> Option<u64> {
        let marker = self.env.iter().find(|(name, _)| name == InstanceId::MARKER);
        marker.and_then(|(_, value)| value.split_once('/')).map(|(state_id, _)| self.id.tag(state_id))
    }

    /// A command with no environment, started as unisys is, of nobody's generation: what is to be otherwise is set.
    pub fn command(id: InstanceId, path: &Path, argv: &[String], dir: &Path) -> Self {
        Self {
            epoch: Epoch::default(),
            id,
            part: Part::Main,
            role: Role::default(),
            path: path.display().to_string(),
            argv: argv.to_vec(),
            env: Vec::new(),
            dir: dir.display().to_string(),
            user: None,
            umask: None,
            nofile: None,
            nice: None,
            oom_score_adjust: None,
            no_new_privileges: false,
            cgroup_limits: CgroupLimits::default(),
            sandbox: None,
            notify: Notify::default(),
            watchdog: false,
            ports: Vec::new(),
            main_port: None,
            attempt: 0,
            generation: Generation::default(),
            wall: Stamp::default(),
            spec: String::new(),
            secrets: Vec::new(),
        }
    }
}

/// How the program tells that it is ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Notify {
    #[default]
    No,
    /// `NOTIFY_SOCKET` (sd_notify(3)).
    Socket,
    /// A newline on this descriptor (s6).
    Descriptor(i32),
}

/// Keeper → daemon.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "camelCase")]
pub enum Report {
    /// `epoch` and `incarnation` are the highest that the keeper has seen.
    Welcome {
        version: u32,
        keeper: u32,
        release: String,
        epoch: Epoch,
        incarnation: Incarnation,
        state_id: String,
        /// Everything is being stopped.
        #[serde(default)]
        down: Option<Down>,
        /// The oldest version of a daemon that this keeper understands.
        #[serde(default)]
        oldest: u32,
        /// It understands packets that hold several messages.
        #[serde(default)]
        several: bool,
        /// In whose place this daemon, or the keeper itself, has come.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        died: Option<Died>,
    },
    /// One instance that it holds; with descriptors stdout, stderr, and notify if there is one, unless all of it is being
    /// spawned.
    Instance(Box<Held>),
    InventoryEnd,
    /// With descriptors stdout, stderr, notify if there is one.
    Spawned {
        id: InstanceId,
        part: Part,
        pid: u32,
        at: Instant,
        /// Numbers of its `auto` ports.
        #[serde(default)]
        ports: PortNumbers,
        /// What it runs without: security settings (`bestEffort`), or its cgroup.
        #[serde(default)]
        left_out: Vec<String>,
    },
    SpawnFailed {
        id: InstanceId,
        part: Part,
        stage: SpawnStage,
        errno: i32,
        detail: String,
    },
    /// `remains`: something of the instance is still alive.
    Exited {
        id: InstanceId,
        part: Part,
        exit: Exit,
        remains: bool,
        /// Not known of who was no child of this keeper.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        spent: Option<Spent>,
    },
    /// Its main program was moved out of its cgroup: no limit holds there.
    Uncontained {
        id: InstanceId,
    },
    /// Nothing of it is alive but for these.
    Gone {
        id: InstanceId,
        survivors: Vec<u32>,
    },
    /// It came of a service, has left all that would tell of which, and is alive.
    Unattributed {
        pid: u32,
        /// The first word of its command line: others may be secret.
        program: String,
    },
    /// A request that was not carried out: it is of an older epoch, or speaks of what is not there.
    Refused {
        id: Option<InstanceId>,
        why: String,
    },
    /// Somebody wants everything to end: SIGTERM, SIGINT; `immediate`: a second time.
    Terminate {
        immediate: bool,
        signal: i32,
    },
    /// What the keeper keeps for its successor cannot be written: why; or it is whole again.
    Journal {
        blocked: Option<String>,
    },
    /// SIGHUP: read the manifests again.
    Reload,
    /// SIGUSR2 reached the keeper: the daemon decides, then asks with `Upgrade`.
    UpgradeAsked,
}

/// One that ended, and was not meant to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Died {
    Daemon { pid: u32, exit: Exit },
    Keeper { pid: u32 },
}

/// Everything is being stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Down {
    /// Who wanted it, in words.
    pub by: String,
    /// Without grace.
    pub immediate: bool,
    /// By when everything has to have stopped, in this boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Instant>,
}

/// An instance as the keeper holds it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Held {
    pub id: InstanceId,
    pub spec: String,
    pub generation: Generation,
    pub wall: Stamp,
    pub mark: Mark,
    pub parts: Vec<HeldPart>,
    pub notify: Notify,
    /// Numbers of its `auto` ports.
    #[serde(default)]
    pub ports: PortNumbers,
    /// Listeners that it was given.
    #[serde(default)]
    pub listens: Vec<Listen>,
    /// Parts that a spawn thread has: what becomes of them is told as of any other.
    #[serde(default)]
    pub spawning: Vec<Part>,
    /// The last signal that its main program was sent on request.
    #[serde(default)]
    pub signalled: Option<i32>,
    /// The number of its pair of FIFOs; none: they are named after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fifos: Option<u64>,
    /// The secrets that it was given: only on the way to a daemon, never in the journal.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<(String, String)>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeldPart {
    pub part: Part,
    pub pid: u32,
    /// Ticks since boot at which it started: with the pid, its identity.
    pub start: u64,
    pub at: Instant,
    pub exit: Option<Exit>,
    pub remains: bool,
    /// What it used, once it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spent: Option<Spent>,
    /// It ran when the machine was restarted, or stopped: that is how it ended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rebooted: bool,
}

//! What can be said of a process without having one: how it ended, where its start failed, which signal.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Which process of an instance: its program, or a command that unisys runs on its behalf.
/// The keeper spawns each at most once per (instance, part).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Part {
    Main,
    /// `hooks.preStart[n]`, before `Main`.
    PreStart(u8),
    /// `stop.command`, while `Main` runs.
    StopCommand,
    /// `hooks.postStop[n]`, after `Main` is gone.
    PostStop(u8),
}

/// How a process ended, as `waitid(2)` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    Code(i32),
    Signal {
        signal: i32,
        core: bool,
    },
    /// SIGKILL from the kernel: its cgroup was over its memory limit, or the machine had none left (`memory.events`).
    OomKilled,
    /// It is gone and nobody saw how: keeper and daemon were both dead when it ended.
    Unknown,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal { signal, core } => {
                write!(f, "{}{}", Signal(*signal), if *core { " (core dumped)" } else { "" })
            }
            Self::OomKilled => f.write_str("SIGKILL, out of memory"),
            Self::Unknown => f.write_str("unknown exit"),
        }
    }
}

/// What all processes of an instance use at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// Resident; what processes share is counted for each.
    pub memory_bytes: u64,
    /// Of the processes that there are, since they started.
    pub cpu_ms: u64,
    pub processes: u32,
    pub threads: u32,
    /// `None` where this user may not see them.
    pub open_files: Option<u32>,
}

/// What a process used in its life, with those of its children that it waited for, as wait4(2) tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spent {
    pub user_cpu_ms: u64,
    pub system_cpu_ms: u64,
    /// Of the largest of them. A program's begins at what the keeper had when it was started: they share memory until execve(2).
    pub peak_memory_bytes: Option<u64>,
}

/// Limits of one instance's cgroup; `None` is none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CgroupLimits {
    /// Bytes (`memory.max`).
    pub memory_max: Option<u64>,
    /// Bytes (`memory.high`).
    pub memory_high: Option<u64>,
    /// Processors (`cpu.max`).
    pub cpu_max: Option<f64>,
    /// Processes and threads (`pids.max`).
    pub pids_max: Option<u64>,
}

/// What a program is kept from (`security`), resolved: absolute paths, capabilities as bits (capabilities(7)).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sandbox {
    /// The capabilities that it may ever have; `None`: those that unisys has.
    pub bounding: Option<u64>,
    /// Those that it has from the start, whoever it runs as.
    pub ambient: u64,
    /// From the outermost to the innermost.
    pub paths: Vec<(String, PathAccess)>,
    pub private_tmp: bool,
    pub restrict_network: bool,
    /// What cannot be set up is left out, and told.
    pub best_effort: bool,
}

impl Sandbox {
    /// It sees mounts of its own.
    pub fn has_namespace(&self) -> bool {
        !self.paths.is_empty() || self.private_tmp
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PathAccess {
    ReadOnly,
    ReadWrite,
    None,
}

/// The step of a start that failed, in the order in which the child takes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum SpawnStage {
    /// Creating FIFOs or the notify socket.
    Pipes,
    /// Binding the sockets that it is handed.
    Listeners,
    /// `clone(2)` itself: no free pid, no memory.
    Clone,
    Session,
    Cgroup,
    Rlimits,
    Scheduling,
    Groups,
    User,
    WorkingDir,
    Descriptors,
    Security,
    Exec,
}

impl SpawnStage {
    pub const ALL: [Self; 13] = [
        Self::Pipes,
        Self::Listeners,
        Self::Clone,
        Self::Session,
        Self::Cgroup,
        Self::Rlimits,
        Self::Scheduling,
        Self::Groups,
        Self::User,
        Self::WorkingDir,
        Self::Descriptors,
        Self::Security,
        Self::Exec,
    ];
}

impl fmt::Display for SpawnStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pipes => "create its pipes",
            Self::Listeners => "bind its listeners",
            Self::Clone => "create a process",
            Self::Session => "create a session",
            Self::Cgroup => "enter its cgroup",
            Self::Rlimits => "set its resource limits",
            Self::Scheduling => "set its priority",
            Self::Groups => "set its groups",
            Self::User => "become its user",
            Self::WorkingDir => "enter its working directory",
            Self::Descriptors => "arrange its descriptors",
            Self::Security => "apply its security settings",
            Self::Exec => "execute its program",
        })
    }
}

/// A signal by number, written and read as `SIGTERM`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signal(pub i32);

/// Linux numbers on x86, arm and riscv (signal(7)).
const SIGNALS: [(&str, i32); 31] = [
    ("SIGHUP", 1),
    ("SIGINT", 2),
    ("SIGQUIT", 3),
    ("SIGILL", 4),
    ("SIGTRAP", 5),
    ("SIGABRT", 6),
    ("SIGBUS", 7),
    ("SIGFPE", 8),
    ("SIGKILL", 9),
    ("SIGUSR1", 10),
    ("SIGSEGV", 11),
    ("SIGUSR2", 12),
    ("SIGPIPE", 13),
    ("SIGALRM", 14),
    ("SIGTERM", 15),
    ("SIGSTKFLT", 16),
    ("SIGCHLD", 17),
    ("SIGCONT", 18),
    ("SIGSTOP", 19),
    ("SIGTSTP", 20),
    ("SIGTTIN", 21),
    ("SIGTTOU", 22),
    ("SIGURG", 23),
    ("SIGXCPU", 24),
    ("SIGXFSZ", 25),
    ("SIGVTALRM", 26),
    ("SIGPROF", 27),
    ("SIGWINCH", 28),
    ("SIGIO", 29),
    ("SIGPWR", 30),
    ("SIGSYS", 31),
];

impl Signal {
    pub const HUP: Self = Self(1);
    pub const INT: Self = Self(2);
    pub const ABRT: Self = Self(6);
    pub const KILL: Self = Self(9);
    pub const TERM: Self = Self(15);
    pub const CONT: Self = Self(18);

    /// All names, for the schema and for hints.
    pub fn names() -> impl Iterator<Item = &'static str> {
        SIGNALS.iter().map(|(name, _)| *name)
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match SIGNALS.iter().find(|(_, number)| *number == self.0) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "signal {}", self.0),
        }
    }
}

impl std::str::FromStr for Signal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        SIGNALS
            .iter()
            .find(|(name, _)| *name == text)
            .map(|(_, number)| Self(*number))
            .ok_or_else(|| format!("`{text}` is not a signal; write its name, such as `SIGTERM`"))
    }
}

impl Serialize for Signal {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Signal {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl schemars::JsonSchema for Signal {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Signal".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "A signal's name (signal(7)).",
            "enum": Self::names().collect::<Vec<_>>()
        })
    }
}

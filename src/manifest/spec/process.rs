//! What Services and Jobs share: environment, stop, hooks, limits, sandbox, logging.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::base::{ByteSize, CgroupLimits, Name, Signal};

use super::{HumanDuration, is_default};

/// The value of one environment variable: text, or a reference.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum EnvValue {
    Text(String),
    Config(ConfigKey),
    Secret(SecretKey),
}

/// A key of a Config.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConfigKey {
    /// Its name.
    pub config: Name,
    /// The key whose value it is.
    pub key: String,
}

/// A key of a Secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretKey {
    /// Its name.
    pub secret: Name,
    /// The key whose value it is.
    pub key: String,
}

/// A source of many variables: exactly one of `file`, `config` and `secret`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("oneOf" = super::one_of(&["file", "config", "secret"])))]
pub struct EnvSource {
    /// A `.env` file, relative to the manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// All keys of a Config.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Name>,
    /// All keys of a Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Name>,
    /// A file that does not exist is nothing, instead of an error.
    #[serde(default, skip_serializing_if = "is_default")]
    pub optional: bool,
}

/// How an instance is asked to end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Stop {
    /// Sent to the main process.
    #[serde(default = "sigterm")]
    pub signal: Signal,
    /// Time from there to SIGKILL for everything that is left.
    #[serde(default = "ten_seconds")]
    pub grace: HumanDuration,
    /// Run before the signal is sent; shares the grace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
}

impl Default for Stop {
    fn default() -> Self {
        Self { signal: Signal::TERM, grace: ten_seconds(), command: Vec::new() }
    }
}

/// Commands around an instance's life, as its user and in its environment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Hooks {
    /// Before each start, in order; one that fails is a failed start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub pre_start: Vec<Hook>,
    /// After each end, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub post_stop: Vec<Hook>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Hook {
    /// Program and arguments.
    #[schemars(length(min = 1))]
    pub command: Vec<String>,
    /// Time after which it is killed and counts as failed.
    #[serde(default = "one_minute")]
    pub timeout: HumanDuration,
}

/// Limits of one instance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Resources {
    #[serde(default, skip_serializing_if = "is_default")]
    pub memory: MemoryLimits,
    #[serde(default, skip_serializing_if = "is_default")]
    pub cpu: CpuLimits,
    #[serde(default, skip_serializing_if = "is_default")]
    pub pids: PidLimits,
    /// Soft and hard limit of open files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub nofile: Option<u64>,
    /// -1000 (never) to 1000 (first); below 0 needs root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -1000, max = 1000))]
    pub oom_score_adjust: Option<i32>,
    /// -20 to 19; below 0 needs root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -20, max = 19))]
    pub nice: Option<i32>,
}

impl Resources {
    /// What a cgroup limits.
    pub fn cgroup(&self) -> CgroupLimits {
        CgroupLimits {
            memory_max: self.memory.max.map(|size| size.0),
            memory_high: self.memory.high.map(|size| size.0),
            cpu_max: self.cpu.max,
            pids_max: self.pids.max,
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MemoryLimits {
    /// Above this the instance is killed (cgroup `memory.max`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<ByteSize>,
    /// Above this it is slowed down (cgroup `memory.high`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high: Option<ByteSize>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CpuLimits {
    /// Processors: 1.5 is one and a half (cgroup `cpu.max`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.001))]
    pub max: Option<f64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PidLimits {
    /// Processes and threads (cgroup `pids.max`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max: Option<u64>,
}

/// What an instance may do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Security {
    /// It can never gain privileges by executing a file (prctl(2), PR_SET_NO_NEW_PRIVS).
    #[serde(default = "yes")]
    pub no_new_privileges: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub capabilities: Capabilities,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub read_only_paths: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub read_write_paths: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inaccessible_paths: Vec<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub private_tmp: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub restrict_network: bool,
    /// Drop what this machine cannot enforce, instead of failing the unit.
    #[serde(default, skip_serializing_if = "is_default")]
    pub best_effort: bool,
}

impl Default for Security {
    fn default() -> Self {
        Self {
            no_new_privileges: true,
            capabilities: Capabilities::default(),
            read_only_paths: Vec::new(),
            read_write_paths: Vec::new(),
            inaccessible_paths: Vec::new(),
            private_tmp: false,
            restrict_network: false,
            best_effort: false,
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Capabilities {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drop: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<String>,
}

/// What becomes of its output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Logging {
    #[serde(default)]
    pub format: LogFormat,
    /// A log file larger than this is rotated.
    #[serde(default = "ten_megabytes")]
    pub max_size: ByteSize,
    /// Files kept, the active one included.
    #[serde(default = "five")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_files: u32,
    #[serde(default)]
    pub overflow: Overflow,
    /// Regular expressions; what they match is replaced by `***`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub redact: Vec<String>,
}

impl Default for Logging {
    fn default() -> Self {
        Self {
            format: LogFormat::default(),
            max_size: ten_megabytes(),
            max_files: 5,
            overflow: Overflow::default(),
            redact: Vec::new(),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum LogFormat {
    /// JSON where a line is JSON, text elsewhere.
    #[default]
    Auto,
    Json,
    Text,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Overflow {
    /// A program that writes faster than the disk waits; nothing is lost.
    #[default]
    Block,
    /// A program never waits; what the disk cannot take is dropped and counted.
    Drop,
}

/// `enabledWhen`: a switch in a Config.
pub type Switch = ConfigKey;

/// Environment by name, in order of name.
pub type Env = BTreeMap<String, EnvValue>;

fn sigterm() -> Signal {
    Signal::TERM
}

fn ten_seconds() -> HumanDuration {
    HumanDuration::secs(10)
}

fn one_minute() -> HumanDuration {
    HumanDuration::secs(60)
}

fn ten_megabytes() -> ByteSize {
    ByteSize(10_000_000)
}

fn five() -> u32 {
    5
}

fn yes() -> bool {
    true
}

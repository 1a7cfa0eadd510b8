//! Words for what goes wrong: of which kind, and how bad.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What kind of failure it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Category {
    // The program ended by itself, and nothing says why.
    Crash,
    // It was killed for its memory, or could not get any.
    Oom,
    Timeout,
    // Something that it depends on failed.
    Dependency,
    Network,
    Database,
    // A service that it called answered with an error.
    Api,
    // Files and disks.
    Filesystem,
    Config,
    Permission,
    // Processes, descriptors, ports: something that the machine ran out of or somebody else holds.
    Resource,
    // unisys itself.
    Internal,
}

impl Category {
    pub const ALL: [Self; 12] = [
        Self::Crash,
        Self::Oom,
        Self::Timeout,
        Self::Dependency,
        Self::Network,
        Self::Database,
        Self::Api,
        Self::Filesystem,
        Self::Config,
        Self::Permission,
        Self::Resource,
        Self::Internal,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::Oom => "oom",
            Self::Timeout => "timeout",
            Self::Dependency => "dependency",
            Self::Network => "network",
            Self::Database => "database",
            Self::Api => "api",
            Self::Filesystem => "filesystem",
            Self::Config => "config",
            Self::Permission => "permission",
            Self::Resource => "resource",
            Self::Internal => "internal",
        }
    }
}

/// How bad a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    // Nothing was lost yet.
    Warning,
    // Something failed and is tried again.
    Recoverable,
    // It is not tried again until something changes or time has passed.
    Fatal,
}

impl Severity {
    pub const ALL: [Self; 3] = [Self::Warning, Self::Recoverable, Self::Fatal];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Recoverable => "recoverable",
            Self::Fatal => "fatal",
        }
    }
}

impl std::fmt::Display for Category {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

impl std::fmt::Display for Severity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

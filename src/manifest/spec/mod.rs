//! The typed objects. Every field of the manifest exists here, with its documented default; the schema and `explain` are
//! generated from these types.

pub mod config;
pub mod dependency;
pub mod job;
pub mod probe;
pub mod process;
pub mod service;
pub mod system;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::base::{ByteSize, Name, format_duration, parse_duration};

pub use config::{ConfigSpec, ConfigType, ConfigTypeName, Deliver, SecretSource, SecretSpec};
pub use job::JobSpec;
pub use probe::{HttpProbe, NotifyWay, PortRef, Probe, ProbeAction, Probes, StatusRanges};
pub use process::{EnvSource, EnvValue, Hook, Hooks, Logging, Resources, Security, Stop};
pub use service::{ServiceSpec, Update, UpdateStrategy};
pub use system::{ExternalSpec, NotifierFilter, NotifierSpec, SystemSpec};

/// Names and labels of an object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    /// Name of the object, unique within its kind; Services and Jobs share one name space.
    pub name: Name,
    /// Labels to select by (`get -l tier=backend`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Notes for people and tools; unisys does not read them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The directory that relative paths in it count from. Default: that of its file; `get` prints it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_dir: Option<PathBuf>,
}

/// A duration as written: `250ms`, `10s`, `1h30m`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct HumanDuration(pub Duration);

impl HumanDuration {
    pub const fn millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    pub const fn secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }
}

impl Serialize for HumanDuration {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format_duration(self.0))
    }
}

impl<'de> Deserialize<'de> for HumanDuration {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        parse_duration(&text).map(Self).map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for HumanDuration {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "A number with a unit, or several: `250ms`, `10s`, `5m`, `1h30m`. Never a bare number.",
            "pattern": "^([0-9]+(\\.[0-9]+)?(us|ms|s|m|h|d))+$",
            "examples": ["250ms", "10s", "1h30m"]
        })
    }
}

impl JsonSchema for ByteSize {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "A number of bytes with a unit: `512Mi`, `1Gi`, `10MB`. Never a bare number.",
            "pattern": "^[0-9]+(\\.[0-9]+)?(B|kB|KB|MB|GB|TB|Ki|Mi|Gi|Ti|KiB|MiB|GiB|TiB)$",
            "examples": ["512Mi", "10MB"]
        })
    }
}

/// True for a value equal to its type's default: such values are left out of what is written and never raise E1900.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The schema's word for "exactly one of these keys".
fn one_of(keys: &[&str]) -> serde_json::Value {
    keys.iter().map(|key| serde_json::json!({"required": [key]})).collect()
}

//! `kind: System`, `kind: External`, `kind: Notifier`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::base::{ByteSize, Category, Name, Severity};

use super::process::{ConfigKey, EnvValue, LogFormat};
use super::{HumanDuration, Probe};

/// Settings of the whole system; at most one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SystemSpec {
    /// The profile of every Config, unless the command line names one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Instances that may be Starting at once; absent: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_concurrent_starts: Option<u32>,
    /// Units that may roll to a new version at once; absent: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_concurrent_rollouts: Option<u32>,
    /// Everything has to have stopped so long after `unisys down`, SIGTERM or Ctrl-C: what still runs when only the longest grace
    /// is left (half of the time at most) is stopped together, and what is left then is killed and named. Absent: it takes as
    /// long as it takes, or 90s where unisys is PID 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_deadline: Option<HumanDuration>,
    /// What goes back together when a rollout fails.
    pub rollback_scope: RollbackScope,
    /// Merged under the spec of every Service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub defaults: Option<serde_json::Map<String, serde_json::Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logging: Option<SystemLogging>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<SystemMetrics>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api: Option<ApiSettings>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notifications: Option<Notifications>,
    /// What error texts mean, beside what unisys knows by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errors: Option<ErrorSettings>,
    /// Switches of Services by name, as `enabledWhen` in each.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub enabled: BTreeMap<Name, ConfigKey>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RollbackScope {
    /// Every unit that the same revision changed.
    #[default]
    Set,
    Unit,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SystemLogging {
    pub level: Option<String>,
    pub max_size: Option<ByteSize>,
    pub max_files: Option<u32>,
    pub otlp: Option<String>,
    pub format: LogFormat,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SystemMetrics {
    /// Address and port, such as `127.0.0.1:9464`.
    pub listen: Option<String>,
    pub retention: Option<HumanDuration>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ApiSettings {
    /// Address and port of a TCP listener; needs `tls` and `tokens`.
    pub listen: Option<String>,
    pub tls: Option<Tls>,
    pub tokens: Vec<Token>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tls {
    pub certificate: String,
    pub key: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Token {
    pub secret: Name,
    pub key: String,
    pub role: Role,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Role {
    View,
    Operate,
    Admin,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Notifications {
    /// The Notifiers in force; without `notifications`: all of them.
    pub notifiers: Vec<Name>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ErrorSettings {
    /// Tried in order on the last lines of stderr of an instance that failed, before what unisys knows by itself.
    pub patterns: Vec<ErrorPattern>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ErrorPattern {
    /// A regular expression that a line matches.
    pub pattern: String,
    pub category: Category,
    /// Absent: what follows from whether the service is started again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub severity: Option<Severity>,
}

/// Something that unisys does not run but others depend on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ExternalSpec {
    pub probes: ExternalProbes,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ExternalProbes {
    /// http, tcp, grpc or exec, with `host`; absent: always Ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub readiness: Option<Probe>,
}

/// Tells somebody.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct NotifierSpec {
    pub on: NotifierFilter,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook: Option<Webhook>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exec: Option<NotifierExec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<NotifierFile>,
    /// Messages a minute; more are grouped. Absent: 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub rate_limit: Option<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct NotifierFilter {
    /// Empty: every severity.
    pub severity: Vec<Severity>,
    /// Empty: every category.
    pub categories: Vec<Category>,
    /// Services and Jobs; empty: everything, unisys itself included.
    pub services: Vec<Name>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Webhook {
    /// Text, `{config, key}` or `{secret, key}`.
    pub url: EnvValue,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, EnvValue>,
    /// The body, with `{{text}}`, `{{severity}}`, `{{category}}`, `{{unit}}`, `{{message}}`, `{{count}}` … replaced; absent:
    /// a JSON object with `text` and `errors`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NotifierExec {
    /// argv; there is no shell. The message is JSON on its standard input.
    pub command: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NotifierFile {
    /// Relative to the manifest; a line of JSON is appended for each message.
    pub path: String,
}

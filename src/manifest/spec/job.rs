//! `kind: Job`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::dependency::Dependency;
use super::process::{Env, EnvSource, Hooks, Logging, Resources, Security, Stop, Switch};
use super::service::{Backoff, Restart, RestartPolicy, ServiceSpec, dot, inherited_names};
use super::{HumanDuration, is_default};

/// A program that ends. Without a schedule it runs once for each generation of its spec.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JobSpec {
    /// Program and arguments. There is no shell. `${NAME}` is replaced from the resolved environment, `$$` is a dollar.
    /// Its standard input is `/dev/null` and there is no terminal: a program that asks for something reads the end of it.
    #[schemars(length(min = 1))]
    pub command: Vec<String>,
    /// Relative to the manifest's file.
    #[serde(default = "dot")]
    pub working_dir: String,
    /// Run as this user; needs root. HOME, USER, LOGNAME and SHELL are the user's, unless `env` or `envFrom` says otherwise; `${HOME}`
    /// in the manifest is that of unisys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Run with this group; absent: the user's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Further groups; needs root.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub supplementary_groups: Vec<String>,
    /// File mode creation mask, octal: `"0027"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^0?[0-7]{3}$"))]
    pub umask: Option<String>,
    /// Variables by name; they win over `envFrom`.
    #[serde(default, skip_serializing_if = "Env::is_empty")]
    pub env: Env,
    /// Sources of variables, in order; later wins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env_from: Vec<EnvSource>,
    /// Names taken over from the environment of unisys; nothing else of it is.
    #[serde(default = "inherited_names")]
    pub inherit_env: Vec<String>,
    /// What has to be there first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<Dependency>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub stop: Stop,
    #[serde(default, skip_serializing_if = "is_default")]
    pub hooks: Hooks,
    #[serde(default, skip_serializing_if = "is_default")]
    pub resources: Box<Resources>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub security: Box<Security>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub logging: Box<Logging>,
    /// Runs only while this key of a Config is true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled_when: Option<Switch>,
    /// Failures after which it is given up.
    #[serde(default = "three")]
    pub backoff_limit: u32,
    /// It is stopped, and has failed, after this long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_deadline: Option<HumanDuration>,
    /// Five cron fields: minute, hour, day of month, month, day of week.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// An IANA name such as `Europe/Berlin`; absent: UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// What a run does that is due while the last one still runs.
    #[serde(default, skip_serializing_if = "is_default")]
    pub concurrency_policy: ConcurrencyPolicy,
    /// A run that could not start this long after it was due is missed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starting_deadline: Option<HumanDuration>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub history: History,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ConcurrencyPolicy {
    #[default]
    Forbid,
    Allow,
    Replace,
}

/// Runs that are remembered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct History {
    pub successful: u32,
    pub failed: u32,
}

impl Default for History {
    fn default() -> Self {
        Self { successful: 3, failed: 3 }
    }
}

impl JobSpec {
    /// The process that a Job runs, in the words of a Service.
    pub fn process(&self) -> ServiceSpec {
        ServiceSpec {
            command: self.command.clone(),
            working_dir: self.working_dir.clone(),
            user: self.user.clone(),
            group: self.group.clone(),
            supplementary_groups: self.supplementary_groups.clone(),
            umask: self.umask.clone(),
            replicas: 1,
            env: self.env.clone(),
            env_from: self.env_from.clone(),
            inherit_env: self.inherit_env.clone(),
            ports: Vec::new(),
            depends_on: self.depends_on.clone(),
            probes: Default::default(),
            restart: Restart {
                policy: RestartPolicy::OnFailure,
                backoff: Backoff { initial: HumanDuration::secs(1), ..Backoff::default() },
                ..Restart::default()
            },
            circuit_breaker: None,
            watchdog: None,
            stop: self.stop.clone(),
            reload: None,
            reload_on: Vec::new(),
            restart_on: Vec::new(),
            update: Default::default(),
            hooks: self.hooks.clone(),
            resources: self.resources.clone(),
            security: self.security.clone(),
            logging: self.logging.clone(),
            metrics: None,
            enabled_when: self.enabled_when.clone(),
        }
    }
}

fn three() -> u32 {
    3
}

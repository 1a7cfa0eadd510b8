//! Shapes of requests and answers (cli.md). Fields are only ever added.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::base::{Sandbox, Stamp};
use crate::manifest::Diagnostic;
use crate::store::StoredFile;
use crate::world::RolloutRecord;

/// An object with its status.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Object {
    pub api_version: String,
    pub kind: String,
    pub metadata: Metadata,
    /// As written, overlays merged. A Secret's values are never here.
    pub spec: Value,
    pub status: Value,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Of a Service or Job: what else is declared is not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    pub revision: u64,
    pub set: String,
    /// The directory that relative paths in its spec count from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_dir: Option<PathBuf>,
}

/// `status` of a Service or Job.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UnitStatus {
    /// The word of the STATUS column.
    pub summary: String,
    pub observed_generation: u64,
    pub overrides: Vec<Override>,
    pub replicas: u32,
    pub ready_replicas: u32,
    pub updated_replicas: u32,
    pub conditions: Vec<Condition>,
    pub instances: Vec<Instance>,
    pub circuit: Circuit,
    pub rollout: Rollout,
    /// What it waits for.
    pub waiting: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Override {
    pub unit: String,
    pub field: String,
    pub value: Value,
    /// What the manifest says of it.
    #[serde(default)]
    pub manifest: Value,
    pub by: String,
    pub at: Stamp,
    /// What ends it.
    #[serde(default)]
    pub ends_with: String,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    #[serde(rename = "type")]
    pub kind: String,
    pub status: String,
    pub reason: String,
    pub message: String,
    pub last_transition_time: Stamp,
    pub observed_generation: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Instance {
    pub ordinal: u32,
    pub incarnation: Option<u64>,
    pub role: String,
    pub lifecycle: String,
    pub pid: Option<u32>,
    pub started_at: Option<Stamp>,
    pub ready: bool,
    pub generation: Option<u64>,
    pub restarts: u32,
    pub last_exit: Option<LastExit>,
    pub cpu_seconds: Option<f64>,
    pub memory_bytes: Option<u64>,
    /// `STATUS=` of sd_notify.
    pub status_text: Option<String>,
    /// Numbers of its `auto` ports, by the port's name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ports: BTreeMap<String, u16>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastExit {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub reason: String,
    pub at: Stamp,
    pub incarnation: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Circuit {
    pub state: String,
    pub failures: u32,
    pub open_until: Option<Stamp>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rollout {
    /// `Progressing`, `Paused`, `Holding`, `Complete`, `RollingBack`, `RolledBack`, `Failed`; `Held`: it waits for a unit that has
    /// failed for good or is not to run; `None` of a Job, which rolls nothing out.
    pub state: String,
    /// The revision that it brings, or brought.
    pub revision: u64,
    pub from_generation: u64,
    pub to_generation: u64,
    pub last_good_generation: Option<u64>,
    /// The revision whose version of the unit is wanted to run.
    pub running_revision: u64,
    /// It is complete, and on trial until then: if it fails too often in that time, what was good before comes back.
    #[serde(default)]
    pub on_trial_until: Option<Stamp>,
    /// The revision that would come back.
    #[serde(default)]
    pub back_to_revision: Option<u64>,
    /// Why it failed, if it did.
    pub reason: Option<String>,
    pub message: Option<String>,
    /// The last lines of the instance that failed.
    pub lines: Vec<String>,
}

/// `rollout status`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutStatus {
    #[serde(flatten)]
    pub rollout: Rollout,
    /// Instances that are wanted.
    #[serde(default)]
    pub replicas: u32,
    pub steps: Vec<RolloutStep>,
    pub waiting: Option<String>,
}

/// One seat of a unit during a rollout.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutStep {
    pub instance: u32,
    pub role: String,
    pub generation: Option<u64>,
    pub lifecycle: String,
    pub ready: bool,
    pub available: bool,
}

/// One of `rollout history`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PastRollout {
    #[serde(flatten)]
    pub record: RolloutRecord,
    /// The manifests of its revision are there: `rollout undo --to-revision` can go to it.
    #[serde(default)]
    pub kept: bool,
}

/// A person's word about a rollout.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutCall {
    /// `pause`, `resume`, `promote`, `undo`, `retry`.
    pub verb: String,
    #[serde(default)]
    pub to_revision: Option<u64>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectList {
    pub api_version: String,
    pub kind: String,
    pub items: Vec<Object>,
}

/// Manifests sent to `apply`, `plan` and `diff`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Submission {
    /// The set; absent: `default`, or that of the directory.
    #[serde(default)]
    pub set: Option<String>,
    /// The directory that the files are the whole of; absent: they are added to the set.
    #[serde(default)]
    pub path: Option<PathBuf>,
    #[schemars(with = "Vec<Value>")]
    pub files: Vec<StoredFile>,
    /// Patches over the files, in order; none: those that the set is read with.
    #[serde(default)]
    pub overlays: Vec<Overlay>,
    #[serde(default)]
    pub prune: bool,
    #[serde(default)]
    pub dry_run: bool,
    /// Try again what was found bad and rolled back.
    #[serde(default)]
    pub force: bool,
    /// Take over objects that belong to other sets.
    #[serde(default)]
    pub force_conflicts: bool,
    /// Refuse unless the accepted revision is this one.
    #[serde(default)]
    pub if_revision: Option<u64>,
}

/// What lies over manifests.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Overlay {
    pub path: PathBuf,
    #[schemars(with = "Vec<Value>")]
    pub files: Vec<StoredFile>,
}

/// `plan -o json`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    pub revision: u64,
    pub actions: Vec<PlanAction>,
    pub waiting: Vec<PlanWaiting>,
    pub diagnostics: Vec<Diagnostic>,
    /// Units of other sets of which something is done, or waited for, anyway: `unisys plan` lists it.
    #[serde(default)]
    pub others: Vec<String>,
    /// What is in force though no manifest says it.
    #[serde(default)]
    pub overrides: Vec<Override>,
    /// What it was compared with, if that is not what lies in the place of the files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlanAction {
    pub id: u32,
    pub verb: String,
    pub unit: String,
    pub reason: String,
    pub after: Vec<u32>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlanWaiting {
    pub unit: String,
    pub on: String,
}

/// `diff -o json`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Diff {
    pub objects: Vec<ObjectDiff>,
    pub diagnostics: Vec<Diagnostic>,
    /// What runs and is not what is accepted, and why.
    #[serde(default)]
    pub notes: Vec<String>,
    /// What is in force though no manifest says it.
    #[serde(default)]
    pub overrides: Vec<Override>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectDiff {
    pub object: String,
    /// `Added`, `Removed`, `Changed`.
    pub change: String,
    pub fields: Vec<FieldDiff>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FieldDiff {
    pub path: String,
    pub old: Value,
    pub new: Value,
}

/// `events -o json`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    pub id: u64,
    pub ts: Stamp,
    #[serde(rename = "type")]
    pub kind: String,
    pub reason: String,
    pub object: String,
    pub message: String,
    pub change: Option<u64>,
    pub cause: Option<u64>,
}

/// What `down` asks for.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DownCall {
    /// Everything has to have stopped within this time: what is left shortly before goes together, and is killed then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// `why -o json`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Why {
    pub subject: String,
    pub chain: Vec<WhyLink>,
    /// Of what is gone: what was wrong with it before, symptom first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<WhyLink>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WhyLink {
    pub id: u64,
    pub at: Stamp,
    pub object: String,
    pub what: String,
    /// The last lines that the program wrote, of a version that was given up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lines: Vec<String>,
    pub because: Option<u64>,
}

/// Something that a person asks for.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Order {
    /// `start`, `stop`, `restart`, `enable`, `disable`, `scale`, `run`, `reload`, `resetCircuit`.
    pub verb: String,
    pub names: Vec<String>,
    /// For `scale`, one a name.
    #[serde(default)]
    pub replicas: Vec<u32>,
}

/// What came of a wish.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Done {
    pub revision: u64,
    pub message: String,
    /// What keeps the order from having an effect, or from being recorded, a sentence each.
    #[serde(default)]
    pub notes: Vec<String>,
    #[serde(default)]
    pub plan: Plan,
}

/// Why a call was refused, for a person.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    pub error: String,
    pub hint: String,
    #[serde(default)]
    pub diagnostics: Vec<Diagnostic>,
}

/// `config NAME -o json`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UnitConfig {
    /// The unit.
    pub service: String,
    /// In order of their names.
    pub env: Vec<ConfigVar>,
    /// What runs is not as its manifest says, and why.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// A variable of a unit's environment.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigVar {
    pub name: String,
    pub value: String,
    /// It is secret: the value is not shown.
    pub masked: bool,
    pub origin: ConfigOrigin,
    /// Where the values come from that this one hides, nearest first.
    pub shadowed: Vec<ConfigOrigin>,
}

/// Where a value comes from.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigOrigin {
    /// `service/api`, `config/app`, `environment`.
    pub object: String,
    /// `env`, `data`, `files`, `profiles.production`, `user`, …
    pub layer: String,
    pub file: Option<String>,
    pub line: Option<u32>,
}

/// What `exec` needs: it runs beside the service, on the terminal of the one who asked.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExecContext {
    pub env: Vec<(String, String)>,
    pub dir: String,
    pub user: Option<(u32, u32, Vec<u32>)>,
    #[serde(default)]
    pub umask: Option<u32>,
    #[serde(default)]
    pub no_new_privileges: bool,
    /// What it is kept from, as its program is.
    #[serde(default)]
    #[schemars(with = "Option<serde_json::Value>")]
    pub sandbox: Option<Sandbox>,
    /// Where sandboxes have their private directories, and whose it shares.
    #[serde(default)]
    pub run: String,
    #[serde(default)]
    pub instance: String,
}

/// `wait`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WaitFor {
    pub names: Vec<String>,
    /// `condition=Ready`, `delete`, `lifecycle=Done`, `stopped`, `started` and `reloaded` (as an order asked for), `rollout=REVISION` (what that
    /// revision wrote, and the named units), `read` (files as they were saved by now, of no unit).
    #[serde(rename = "for")]
    pub what: String,
    pub timeout_ms: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Waited {
    pub met: bool,
    /// Those that did not get there, each with why.
    pub unmet: Vec<String>,
    /// Units whose rollout was given up, each with why.
    #[serde(default)]
    pub rolled_back: Vec<String>,
    /// Those that did not get there stay so until somebody does something: they have failed for good or cannot start, or wait for
    /// such a unit.
    #[serde(default)]
    pub stuck: bool,
    /// Of those that are as wanted, why that says little.
    #[serde(default)]
    pub notes: Vec<String>,
}

impl Waited {
    /// Waiting longer gives no other answer.
    pub fn is_over(&self) -> bool {
        self.met || !self.rolled_back.is_empty()
    }
}

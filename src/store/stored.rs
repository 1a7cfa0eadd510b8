//! What is stored, as it is stored.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::base::{ObjectRef, Stamp};
use crate::world::{Cause, Change};

/// A set as it was last accepted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredSet {
    pub name: String,
    /// The directory or file that it is read from; none for what was given to `apply`.
    pub path: Option<PathBuf>,
    #[serde(default)]
    pub applied: bool,
    pub overlays: Vec<PathBuf>,
    pub files: Vec<StoredFile>,
    pub overlay_files: Vec<Vec<StoredFile>>,
    /// Objects that it declares and that another set took over: `service/api` → its name.
    #[serde(default)]
    pub ceded: BTreeMap<ObjectRef, String>,
}

/// A manifest as written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredFile {
    pub path: PathBuf,
    pub text: String,
}

/// A change as `changes` shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StoredChange {
    pub id: u64,
    pub at: Stamp,
    pub cause: StoredCause,
    pub revision: u64,
    pub actions: Vec<StoredAction>,
    /// `Active`, `Complete`, `Superseded`, `RolledBack`; `Interrupted`: the daemon ended before all of it was done, and the next one went on.
    pub outcome: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StoredCause {
    pub kind: String,
    pub detail: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StoredAction {
    pub verb: String,
    pub unit: String,
    pub reason: String,
}

impl StoredChange {
    /// What makes room for what: what was asked for is kept apart from what units do by themselves, each of the unit that it began
    /// with.
    pub(super) fn shelf(&self) -> (bool, String) {
        (
            !Cause::is_of_unit(&self.cause.kind),
            self.actions.first().map(|action| action.unit.clone()).unwrap_or_default(),
        )
    }

    /// The daemon that was about it has ended.
    pub(super) fn interrupt(&mut self) {
        self.outcome = "Interrupted".into();
    }
}

impl From<&Change> for StoredChange {
    fn from(change: &Change) -> Self {
        let action = |action: &crate::world::chronicle::ChangeAction| StoredAction {
            verb: action.verb.as_str().into(),
            unit: action.unit.to_string(),
            reason: action.reason.clone(),
        };
        Self {
            id: change.id,
            at: change.at,
            cause: StoredCause { kind: change.cause.kind.clone(), detail: change.cause.detail.clone() },
            revision: change.revision.0,
            actions: change.actions.iter().map(action).collect(),
            outcome: change.outcome.as_str().into(),
        }
    }
}

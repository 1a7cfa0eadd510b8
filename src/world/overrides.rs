//! Standing exceptions to the manifest, by whom and since when.

use serde::{Deserialize, Serialize};

use crate::base::{Revision, Stamp};
use crate::rollout::Failure;

/// A person's standing exceptions to the manifest (architecture §5).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overrides {
    /// `unisys stop`.
    pub stopped: Option<Signature>,
    /// `unisys disable`.
    pub disabled: Option<Signature>,
    /// `unisys start` of a disabled unit: it runs all the same, until everything is stopped or the machine is started again.
    #[serde(default)]
    pub started: Option<Signature>,
    /// `unisys scale`.
    pub replicas: Option<(u32, Signature)>,
    /// `unisys rollout pause`.
    #[serde(default)]
    pub paused: Option<Signature>,
    /// `unisys rollout undo`: the revision whose version of the unit is wanted.
    #[serde(default)]
    pub pinned: Option<(Revision, Signature)>,
    /// What the manifest says was found bad and is not tried again as it is.
    #[serde(default)]
    pub rejected: Option<Box<Rejection>>,
}

impl Overrides {
    /// Who disabled it, unless it was started all the same.
    pub fn keeps_down(&self) -> Option<&Signature> {
        self.disabled.as_ref().filter(|_| self.started.is_none())
    }
}

/// An automatic rollback.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejection {
    /// Of the version that was found bad.
    pub digest: String,
    pub revision: Revision,
    /// What runs in its place.
    pub runs: Revision,
    pub failure: Failure,
}

/// Who, when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    pub by: String,
    pub at: Stamp,
}

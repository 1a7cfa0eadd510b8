//! What is told of a rollout once it is over: `rollout history`.

use serde::{Deserialize, Serialize};

use crate::base::{Name, Now, Stamp};
use crate::rollout::{Phase, Rollout};

use crate::world::World;
use crate::world::effect::Effect;

/// One rollout of one unit, as its history keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutRecord {
    pub revision: u64,
    pub at: Stamp,
    pub cause: String,
    pub files: Vec<String>,
    pub duration_ms: Option<u64>,
    /// `Active`, `Complete`, `RolledBack`, `Superseded`, `Failed`.
    pub outcome: String,
    /// Why it failed, if it did.
    #[serde(default)]
    pub message: Option<String>,
    /// The last lines of the instance that failed.
    #[serde(default)]
    pub lines: Vec<String>,
    pub from_generation: Option<u64>,
    pub to_generation: u64,
}

impl RolloutRecord {
    /// It came to a good end: its version is one to go back to.
    pub fn is_good(&self) -> bool {
        self.outcome == "Complete"
    }
}

impl World {
    pub(super) fn save_rollout(&mut self, now: Now, name: &Name, outcome: &str) {
        let Some(unit) = self.units.get_mut(name) else { return };
        // One that goes back is told already; it is over when what was good runs again.
        if !unit.rollout.is_active() {
            unit.rollout.ended.get_or_insert(now.wall);
        }
        unit.rollout.recorded = true;
        let Some(mut record) = self.rollout_record(name) else { return };
        record.outcome = outcome.to_owned();
        record.duration_ms.get_or_insert(milliseconds(record.at, now.wall));
        self.effects.push_back(Effect::SaveRollout { name: name.clone(), rollout: Box::new(record) });
    }

    /// The present rollout of a unit, as its history shows it.
    pub fn rollout_record(&self, name: &Name) -> Option<RolloutRecord> {
        let unit = self.units.get(name)?;
        let rollout = &unit.rollout;
        let cause = unit.rolled_by.as_ref();
        Some(RolloutRecord {
            revision: rollout.revision.0,
            at: rollout.began,
            cause: cause.map_or_else(|| "up".into(), |cause| cause.detail.clone()),
            files: cause.map(|cause| cause.files.clone()).unwrap_or_default(),
            duration_ms: rollout.ended.map(|ended| milliseconds(rollout.began, ended)),
            outcome: outcome(rollout).into(),
            message: rollout.failure().map(|failure| failure.message.clone()),
            lines: rollout.failure().map(|failure| failure.lines.clone()).unwrap_or_default(),
            from_generation: rollout.from.map(|from| from.0),
            to_generation: rollout.to.0,
        })
    }
}

pub(super) fn outcome(rollout: &Rollout) -> &'static str {
    match rollout.phase {
        _ if rollout.word(false) == "Failed" => "Failed",
        Phase::Progressing => "Active",
        Phase::Complete { .. } => "Complete",
        Phase::RollingBack(_) | Phase::RolledBack(_) => "RolledBack",
        Phase::Failed(_) => "Failed",
    }
}

fn milliseconds(began: Stamp, ended: Stamp) -> u64 {
    crate::rollout::state::duration(began, ended).as_millis() as u64
}

//! Where an earlier daemon left the rollouts.

use crate::base::{Name, Now};
use crate::plan::UnitSpec;
use crate::rollout::{Phase, Rollout};

use crate::world::World;
use crate::world::state::{Unit, Version};

impl World {
    /// What was restored of versions that are not the declared one, once everything that runs is known.
    pub(in crate::world) fn resume_rollouts(&mut self, now: Now) {
        let names: Vec<Name> = self
            .units
            .iter()
            .filter(|(_, unit)| unit.known_good.is_some())
            .map(|(name, _)| name.clone())
            .collect();
        for name in names {
            self.resume_rollout(now, &name);
        }
    }

    pub(in crate::world) fn resume_rollout(&mut self, now: Now, name: &Name) {
        let Some(unit) = self.units.get_mut(name) else { return };
        let Some((known, kept)) = unit.known_good.take() else { return };
        let running = unit.slots.values().filter_map(|slot| slot.instance.as_ref());
        let spec = running
            .filter(|instance| instance.generation == known.generation && !instance.spec.launch.lost)
            .map(|instance| instance.spec.clone())
            .next()
            // What it had of files is what they hold now: where that is what was rejected, there is nothing else.
            .or(kept.filter(|kept| !is_rejected(unit, kept)));
        let asked_for = unit.asked_for.take();
        if let Some(version) = &asked_for {
            let from = spec.as_ref().map(|_| known.generation);
            let update = &version.spec.policy.update;
            unit.rollout = Rollout::begin(version.revision, from, version.generation, update, now.wall);
            (unit.spec, unit.generation) = (version.spec.clone(), version.generation);
        }
        let Some(spec) = spec else {
            if asked_for.is_some() {
                self.spec_turned(name);
                self.refresh_drift(name);
                return;
            }
            // What was good is nowhere any more: the declared version is all there is.
            if unit.overrides.rejected.take().is_some() || unit.overrides.pinned.take().is_some() {
                let message = "the version that ran in place of the declared one is not kept any more; the declared one is tried".to_owned();
                self.tell_rollout(now, name, true, "VersionLost", message);
                self.save_unit(now, name);
            }
            return;
        };
        let version = Version { spec, generation: known.generation, revision: known.revision };
        let standing = unit.overrides.rejected.is_some() || unit.overrides.pinned.is_some();
        if standing && asked_for.is_none() {
            (unit.spec, unit.generation) = (version.spec.clone(), version.generation);
            unit.rollout = Rollout::complete(version.revision, version.generation, now.wall);
            if let Some(rejected) = &unit.overrides.rejected {
                unit.rollout.revision = rejected.revision;
                unit.rollout.to = unit.written.generation;
                unit.rollout.phase = Phase::RolledBack(rejected.failure.clone().into());
            }
        } else {
            unit.before = Some(version.clone());
            unit.rollout.from = Some(version.generation);
            if let Some(progress) = unit.progress.take() {
                unit.rollout.resume(&progress, &unit.spec.policy.update, now.mono);
            }
        }
        unit.good = Some(version);
        unit.recall_rollout();
        if let (Phase::RolledBack(failure), None) = (&unit.rollout.phase, unit.rollout.ended) {
            // It was still on its way back.
            unit.rollout.phase = Phase::RollingBack(failure.clone());
        }
        self.spec_turned(name);
        self.refresh_drift(name);
        self.save_unit(now, name);
    }
}

/// It would be what was rejected once more.
fn is_rejected(unit: &Unit, kept: &UnitSpec) -> bool {
    unit.overrides.rejected.as_ref().is_some_and(|rejected| rejected.digest == kept.launch.digest())
}

impl Unit {
    /// Its rollout is the one that the earlier daemon told of, if it leads to the same version.
    pub(in crate::world) fn recall_rollout(&mut self) {
        if let Some((span, cause)) = self.span.take()
            && self.rollout.recall(&span)
        {
            self.rolled_by = cause;
        }
    }
}

//! What the store remembers of a unit: written by one daemon, taken up by the next.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::base::{Exit, Incarnation, Instant, Name, Now, Ordinal, Revision, Seat, Stamp, limits};
use crate::plan::UnitSpec;
use crate::rollout::{Phase, Rollout};
use crate::unit::{Breaker, Circuit, Lifecycle};

use super::World;
use super::chronicle::{CHANGED, CIRCUIT_OPEN, Entry, RecordId};
use super::effect::Effect;
use super::event::{Checkpoint, Rested};
use super::state::{Slot, Unit, Version};
use super::words::end_reason;

impl World {
    /// The store learns what the next daemon will need of a unit.
    pub(super) fn save_unit(&mut self, now: Now, name: &Name) {
        if let Some(checkpoint) = self.checkpoint(now, name) {
            self.effects.push_back(Effect::SaveUnit { name: name.clone(), checkpoint });
        }
    }

    /// The same of several, all of them or none: what happens to them happens together.
    pub(super) fn save_units(&mut self, now: Now, names: &[Name]) {
        let units =
            names.iter().filter_map(|name| Some((name.clone(), self.checkpoint(now, name)?))).collect();
        self.effects.push_back(Effect::SaveUnits { units });
    }

    /// The records that explain why a unit's circuit is open, but for the change that they follow.
    fn what_opened(&self, unit: &Unit) -> Vec<(String, Stamp)> {
        let object = unit.spec.object.to_string();
        let chain = self.chronicle.chain(unit.cause.unwrap_or_default(), limits::OPENED_BY);
        let from_there = chain.iter().skip_while(|record| record.reason != CIRCUIT_OPEN);
        let own = from_there.take_while(|record| record.object == object && record.reason != CHANGED);
        own.map(|record| (record.message.clone(), record.at)).collect()
    }

    fn checkpoint(&self, now: Now, name: &Name) -> Option<Box<Checkpoint>> {
        let unit = self.units.get(name)?;
        let open_left = match unit.breaker.circuit() {
            Circuit::Open { until } => Some((until - now.mono).as_millis() as u64),
            Circuit::HalfOpen { .. } => Some(0),
            Circuit::Closed => None,
        };
        let standing = unit.generation != unit.written.generation;
        let done = unit.slots.values().filter(|_| unit.spec.policy.job).find_map(|slot| match slot.state {
            Lifecycle::Done(exit) if slot.rested_at == unit.generation => Some(exit),
            _ => None,
        });
        let checkpoint = Checkpoint {
            generation: unit.generation,
            digest: unit.spec.launch.digest(),
            restarts: unit.serving().map(|slot| slot.restart.restarts).collect(),
            restart_asked: unit
                .serving()
                .filter_map(|slot| {
                    let of = slot.instance.as_ref().map(|instance| instance.incarnation).or(slot.asked_of);
                    Some((slot.seat.ordinal, (of, slot.restart_asked.clone()?)))
                })
                .collect(),
            rests: match self.down {
                Some(_) => BTreeMap::new(),
                None => unit.serving().filter_map(|slot| rested(slot, unit)).collect(),
            },
            last_ends: unit
                .serving()
                .filter_map(|slot| {
                    let known = slot.last_end.as_deref().filter(|_| slot.instance.is_some());
                    // Of one that is not adopted yet.
                    Some((slot.seat.ordinal, known.or(slot.recalled_end.as_deref())?.clone()))
                })
                .collect(),
            attempt: match self.down {
                Some(_) => 0,
                None => unit.slots.values().map(|slot| slot.restart.attempt).max().unwrap_or(0),
            },
            ended: unit.told_ends(),
            done,
            completed: unit.completed.clone(),
            completed_once: unit.completed_once,
            open_left_ms: open_left,
            open_for_ms: unit.breaker.open_for().as_millis() as u64,
            overrides: unit.overrides.clone(),
            written_revision: Some(unit.written.revision),
            written_generation: standing.then_some(unit.written.generation),
            written_digest: standing.then(|| unit.written.spec.launch.digest()),
            good: match (&unit.good, &unit.known_good) {
                (Some(good), _) => Some(good.known()),
                (None, Some((known, _))) => Some(known.clone()),
                (None, None) => None,
            },
            unwell: unit.rollout.unwell.clone(),
            before: unit.before.as_ref().map(Version::known).zip(unit.rollout.probation()),
            trial_until: unit
                .before
                .as_ref()
                .and_then(|_| unit.rollout.probation())
                .map(|until| now.wall_at(until)),
            // What an earlier daemon left stands until everything that runs is known.
            progress: match unit.known_good {
                Some(_) => unit.progress.clone(),
                None => unit.rollout.progress().filter(|_| unit.good.is_some()),
            },
            rollout: Some(unit.span.as_ref().map_or_else(|| unit.rollout.span(), |(span, _)| *span)),
            rolled_by: unit.span.as_ref().map_or(&unit.rolled_by, |(_, cause)| cause).as_deref().cloned(),
            open_until: match unit.breaker.circuit() {
                Circuit::Open { until } => Some(until),
                _ => None,
            },
            failures: unit.breaker.failing().collect(),
            trial_ready: unit.breaker.trial(),
            changed: unit
                .changed
                .filter(|(_, generation)| *generation == unit.generation)
                .and_then(|(record, _)| self.chronicle.get(record))
                .map(|record| (record.message.clone(), record.at)),
            opened: match unit.breaker.circuit() {
                Circuit::Closed => Vec::new(),
                _ => self.what_opened(unit),
            },
        };
        Some(Box::new(checkpoint))
    }

    /// A unit as an earlier daemon left it, and the record of what its circuit is open for.
    pub(super) fn take_up(
        &mut self,
        now: Now,
        spec: &Arc<UnitSpec>,
        mut checkpoint: Checkpoint,
        kept: Option<Arc<UnitSpec>>,
    ) -> (Unit, Option<RecordId>) {
        let (changed, told) = (checkpoint.changed.take(), std::mem::take(&mut checkpoint.opened));
        let generation = checkpoint.generation;
        let mut unit = restored_unit(now, spec.clone(), self.desired.revision, checkpoint, kept);
        if unit.generation != generation {
            return (unit, None);
        }
        unit.changed = changed.map(|told| (self.recall_changed(&unit, told), generation));
        self.recall_ends(&mut unit);
        let opened = self.recall_opened(&unit, told);
        (unit, opened)
    }

    /// The record of a change that an earlier daemon told.
    fn recall_changed(&mut self, unit: &Unit, (message, at): (String, Stamp)) -> RecordId {
        let object = &unit.spec.object;
        let entry = Entry { warning: false, reason: CHANGED, object, message, change: None, cause: None };
        self.chronicle.again(at, entry).id
    }

    /// The records of how the ordinals ended that rest since an earlier daemon.
    fn recall_ends(&mut self, unit: &mut Unit) {
        let cause = unit.changed.map(|(record, _)| record);
        for slot in unit.slots.values_mut() {
            let Some(last) = &slot.last_end else { continue };
            let message = format!("{} {}", slot.seat, last.words);
            let (object, reason) = (&unit.spec.object, end_reason(&last.end));
            let warning = !matches!(slot.state, Lifecycle::Done(_));
            let entry = Entry { warning, reason, object, message, change: None, cause };
            slot.cause = Some(self.chronicle.again(last.at, entry).id);
            if matches!(&slot.state, Lifecycle::Failed(reason) if reason.is_of_program()) {
                let (name, spec) = (unit.spec.object.name.clone(), unit.spec.clone());
                self.effects.push_back(Effect::WatchProgram { name, spec, since: last.at });
            }
        }
    }

    /// The record of what opened a unit's circuit under an earlier daemon, if it is still not closed.
    fn recall_opened(&mut self, unit: &Unit, told: Vec<(String, Stamp)>) -> Option<RecordId> {
        if matches!(unit.breaker.circuit(), Circuit::Closed) {
            return None;
        }
        let last = told.len().checked_sub(1)?;
        let mut cause = unit.changed.map(|(record, _)| record);
        for (index, (message, at)) in told.into_iter().rev().enumerate() {
            let reason = if index == last { CIRCUIT_OPEN } else { "Failed" };
            let object = &unit.spec.object;
            let entry = Entry { warning: true, reason, object, message, change: None, cause };
            cause = Some(self.chronicle.again(at, entry).id);
        }
        cause
    }
}

impl Unit {
    /// Instances whose ends have come to what the unit is now.
    fn told_ends(&self) -> Vec<Incarnation> {
        let latest = self.slots.values().filter_map(|slot| Some(slot.last_end.as_ref()?.incarnation));
        latest.chain(self.ended.iter().copied()).collect::<BTreeSet<_>>().into_iter().collect()
    }
}

/// Where a serving seat rests that failed for the present generation, or is done; a Job is done for longer than that.
pub(super) fn rested(slot: &Slot, unit: &Unit) -> Option<(Ordinal, Rested)> {
    let until = match &slot.state {
        Lifecycle::Failed(_) => None,
        Lifecycle::Done(_) if !unit.spec.policy.job => None,
        Lifecycle::Backoff { until } => Some(*until),
        _ => return None,
    };
    let last_end = slot.last_end.as_deref().filter(|_| slot.rested_at == unit.generation)?.clone();
    Some((slot.seat.ordinal, Rested { last_end, until }))
}

/// A unit as an earlier daemon left it.
fn restored_unit(
    now: Now,
    spec: Arc<UnitSpec>,
    revision: Revision,
    checkpoint: Checkpoint,
    kept: Option<Arc<UnitSpec>>,
) -> Unit {
    let digest = spec.launch.digest();
    let written = checkpoint.written_generation.unwrap_or(checkpoint.generation);
    let standing = match &checkpoint.overrides.rejected {
        Some(rejected) => rejected.digest == digest,
        None => {
            checkpoint.overrides.pinned.is_some() && checkpoint.written_digest.as_deref() == Some(&digest)
        }
    };
    let on_way = standing && checkpoint.is_on_way_to_pinned();
    let pinned = checkpoint.overrides.pinned.as_ref().map(|(revision, _)| *revision);
    let same = if checkpoint.written_generation.is_some() { standing } else { checkpoint.digest == digest };
    let revision = checkpoint.written_revision.filter(|_| same).unwrap_or(revision);
    let generation = if same { written } else { written.max(checkpoint.generation).next() };
    let mut unit = Unit::new(spec, generation, revision, now.wall);
    unit.overrides = checkpoint.overrides.clone();
    if !standing {
        unit.overrides.rejected = None;
        unit.overrides.pinned = None;
    }
    unit.completed_once = checkpoint.completed_once || checkpoint.done.is_some();
    unit.completed.clone_from(&checkpoint.completed);
    unit.ended.clone_from(&checkpoint.ended);
    restore_slots(&mut unit, &checkpoint, same, now.mono);
    unit.rests_as_completed();
    if same && checkpoint.written_generation.is_none() {
        // The time of this boot, unless the machine was started again since: then nothing is later than what was left.
        let left = checkpoint.open_left_ms.map(|left| now.mono + Duration::from_millis(left));
        let until = left.map(|left| checkpoint.open_until.map_or(left, |until| until.min(left)));
        let failures = checkpoint.failures.iter().copied().filter(|at| *at <= now.mono);
        let open_for = Duration::from_millis(checkpoint.open_for_ms);
        let trial = checkpoint.trial_ready.filter(|since| *since <= now.mono);
        unit.breaker = Breaker::restored(until, trial, open_for, failures.collect());
    }
    match checkpoint.good {
        Some(good) if same && !standing && good.generation == generation => {
            unit.rollout = Rollout::complete(good.revision, generation, now.wall);
            unit.written.revision = good.revision;
            unit.good = Some(unit.written.clone());
            unit.before = checkpoint.before.as_ref().zip(kept).map(|((known, probation), spec)| {
                let latest = now.mono + unit.spec.policy.update.progress_deadline;
                unit.rollout.phase = Phase::Complete { probation: (*probation).min(latest) };
                unit.rollout.from = Some(known.generation);
                Version { spec, generation: known.generation, revision: known.revision }
            });
        }
        Some(good) if on_way => {
            let version = |(spec, revision)| Version { spec, generation: checkpoint.generation, revision };
            unit.asked_for = kept.zip(pinned).map(version);
            // What was good is what the manifest says, or runs.
            let declared = (good.digest == digest).then(|| unit.spec.clone());
            unit.known_good = Some((good, declared));
        }
        good => unit.known_good = good.map(|good| (good, kept)),
    }
    unit.rollout.unwell = checkpoint.unwell.filter(|_| same);
    unit.progress = checkpoint.progress;
    unit.span = checkpoint.rollout.map(|span| (span, checkpoint.rolled_by.map(Arc::new)));
    if unit.known_good.is_none() {
        unit.recall_rollout();
    }
    unit
}

fn restore_slots(unit: &mut Unit, checkpoint: &Checkpoint, same: bool, now: Instant) {
    let longest = unit.spec.policy.restart.backoff.max;
    for (index, restarts) in checkpoint.restarts.iter().enumerate() {
        let seat = Seat::serving(Ordinal(index as u32));
        let mut slot = Box::new(Slot::new(seat));
        slot.restart.restarts = *restarts;
        slot.restart.attempt = if same { checkpoint.attempt } else { 0 };
        slot.rested_at = unit.generation;
        slot.recalled_end = checkpoint.last_ends.get(&seat.ordinal).cloned().map(Box::new);
        if let Some((of, why)) = checkpoint.restart_asked.get(&seat.ordinal) {
            (slot.restart_asked, slot.asked_of) = (Some(why.clone()), *of);
        }
        if let Some(exit) = checkpoint.done.filter(|_| same) {
            slot.state = Lifecycle::Done(exit);
        }
        let rested = checkpoint.rests.get(&seat.ordinal);
        if let Some(rested) = rested.filter(|_| same && checkpoint.written_generation.is_none()) {
            slot.state = match rested.until {
                Some(until) => Lifecycle::Backoff { until: until.min(now + longest) },
                None if rested.last_end.end.is_success(&unit.spec.policy) => {
                    Lifecycle::Done(rested.last_end.end.exit.unwrap_or(Exit::Unknown))
                }
                None => Lifecycle::Failed(rested.last_end.end.reason.clone()),
            };
            slot.restart.again = rested.until.is_some();
            slot.last_end = Some(Box::new(rested.last_end.clone()));
        }
        unit.slots.insert(seat, slot);
    }
}

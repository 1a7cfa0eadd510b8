//! A new accepted revision: who is new, who changed, who is gone.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::base::{Generation, Instant, Name, Now, Revision, Seat, Stamp};
use crate::plan::{Desired, Drift, UnitSpec, Verb};
use crate::rollout::{Phase, Rollout};
use crate::unit::{Breaker, Circuit, Lifecycle};

use super::World;
use super::chronicle::{CHANGED, CIRCUIT_OPEN, ChangeAction, Entry, RecordId};
use super::event::{Cause, Checkpoint};
use super::externals::External;
use super::state::{Slot, Unit, Version, end_reason};

/// How one unit came out of a revision.
enum Fate {
    Same,
    New,
    /// Its launch changed: a new generation.
    Changed,
    /// Switches, labels or the machine changed: the same generation.
    Turned,
}

impl World {
    pub(super) fn revise(&mut self, now: Now, desired: Arc<Desired>, cause: &Cause) {
        let former = std::mem::replace(&mut self.desired, desired.clone());
        let message = format!("revision {} accepted: {}", desired.revision, cause.detail);
        let entry = Entry {
            warning: false,
            reason: "Revised",
            object: &"system",
            message,
            change: None,
            cause: None,
        };
        let record = self.announce(now, entry);
        let shared = Arc::new(cause.clone());
        let mut rows = Vec::new();
        let mut changed = BTreeSet::new();
        for (name, spec) in &desired.units {
            match self.revise_unit(now, name, spec, record, &shared) {
                Fate::Same => continue,
                Fate::New => rows.push((name.clone(), self.planned_row(name, Verb::Start, "it is new"))),
                Fate::Changed => {
                    let reason = self.drift_words(name);
                    let verb = self.drift_verb(name);
                    rows.push((name.clone(), self.planned_row(name, verb, &reason)));
                }
                Fate::Turned => {}
            }
            self.tell_fault(now, name, record);
            changed.insert(name.clone());
        }
        let gone: Vec<Name> =
            self.units.keys().filter(|name| !desired.units.contains_key(*name)).cloned().collect();
        for name in gone {
            if let Some(unit) = self.units.get_mut(&name).filter(|unit| unit.declared) {
                unit.declared = false;
                self.undeclared.insert(name.clone());
                unit.cause = Some(record);
                rows.push((
                    name.clone(),
                    self.planned_row(&name, Verb::Delete, "it is in no manifest any more"),
                ));
                changed.insert(name);
            }
        }
        self.revise_externals(now, &desired);
        self.wishes_turned();
        self.index_dependents();
        if self.begun && !rows.is_empty() {
            self.open_change(now, cause.clone(), rows);
        } else if !self.begun {
            self.first_cause = Some(cause.clone());
        }
        let followers: BTreeSet<Name> =
            changed.iter().flat_map(|name| desired.graph.impact(name)).cloned().collect();
        self.touched.extend(changed.iter().cloned());
        self.dirty.extend(changed.into_iter().chain(followers).filter(|name| self.units.contains_key(name)));
        if former.max_concurrent_starts != desired.max_concurrent_starts {
            self.dirty.extend(std::mem::take(&mut self.waiting_for_start));
        }
        if former.max_concurrent_rollouts != desired.max_concurrent_rollouts {
            self.dirty.extend(std::mem::take(&mut self.waiting_for_roll));
        }
    }

    /// What is in no manifest any more and goes on, for somebody who went back.
    pub(super) fn tell_kept(&mut self, now: Now, name: &Name) {
        if self.down.is_some() || self.units.get(name).is_none_or(|unit| unit.declared) {
            return;
        }
        let by = self.standing().kept.get(name).cloned();
        let Some(unit) = self.units.get_mut(name) else { return };
        let (kept, cause) = (std::mem::replace(&mut unit.kept, by.is_some()), unit.cause);
        let Some(by) = by.filter(|_| !kept) else { return };
        let (object, by) = (self.object(name), self.object(&by));
        let message = format!("is in no manifest any more and goes on: {by}, as it runs now, depends on it");
        let entry = Entry { warning: true, reason: "Kept", object: &object, message, change: None, cause };
        let record = self.announce(now, entry);
        if let Some(unit) = self.units.get_mut(name) {
            unit.cause = Some(record);
        }
    }

    /// What this machine lacks for a unit (E2xxx) is why it does not run.
    fn tell_fault(&mut self, now: Now, name: &Name, revised: RecordId) {
        let object = self.object(name);
        let Some(message) = self.units.get(name).and_then(|unit| unit.spec.machine.clone()) else { return };
        let entry = Entry {
            warning: true,
            reason: "CannotStart",
            object: &object,
            message,
            change: None,
            cause: Some(revised),
        };
        let told = self.announce(now, entry);
        if let Some(unit) = self.units.get_mut(name) {
            unit.cause = Some(told);
        }
    }

    fn planned_row(&self, name: &Name, verb: Verb, reason: &str) -> ChangeAction {
        ChangeAction { verb, unit: self.object(name), reason: reason.to_owned() }
    }

    fn revise_unit(
        &mut self,
        now: Now,
        name: &Name,
        spec: &Arc<UnitSpec>,
        record: RecordId,
        cause: &Arc<Cause>,
    ) -> Fate {
        let revision = self.desired.revision;
        let Some(unit) = self.units.get_mut(name) else {
            let mut opened = None;
            let mut unit = match self.restored.remove(name) {
                Some((mut checkpoint, kept)) => {
                    let (changed, told) = (checkpoint.changed.take(), std::mem::take(&mut checkpoint.opened));
                    let generation = checkpoint.generation;
                    let mut unit = restored_unit(now, spec.clone(), revision, checkpoint, kept);
                    if unit.generation == generation {
                        unit.changed = changed.map(|told| (self.recall_changed(&unit, told), generation));
                        self.recall_ends(&mut unit);
                        opened = self.recall_opened(&unit, told);
                    }
                    unit
                }
                None => Unit::new(spec.clone(), Generation(1), revision, now.wall),
            };
            unit.cause = opened.or(Some(record));
            unit.rolled_by = Some(cause.clone());
            self.units.insert(name.clone(), Box::new(unit));
            if self.begun {
                self.resume_rollout(now, name);
            }
            self.save_unit(now, name);
            return Fate::New;
        };
        if Arc::ptr_eq(&unit.written.spec, spec) && unit.declared {
            return Fate::Same;
        }
        let drift = Drift::between(&unit.written.spec, spec);
        let same = drift == Drift::None && *unit.written.spec == **spec && unit.declared;
        let mended = unit.written.spec.machine.is_some() && spec.machine.is_none();
        let standing = unit.overrides.rejected.is_some() || unit.overrides.pinned.is_some();
        unit.written.spec = spec.clone();
        unit.declared = true;
        self.undeclared.remove(name);
        if drift == Drift::None {
            let unrejected = mended
                && unit
                    .overrides
                    .rejected
                    .as_ref()
                    .is_some_and(|rejected| rejected.failure.reason == "CannotStart");
            if unrejected {
                self.want_written(now, name, record, cause);
                return Fate::Changed;
            }
            if !standing {
                unit.spec = spec.clone();
            }
            if same {
                self.share_spec(name);
                return Fate::Same;
            }
            unit.cause = Some(record);
            self.refresh_drift(name);
            if mended {
                self.program_changed(now, name);
            }
            return Fate::Turned;
        }
        unit.written.generation = unit.written.generation.max(unit.generation).next();
        unit.written.revision = revision;
        self.want_written(now, name, record, cause);
        Fate::Changed
    }

    /// What the manifest says is wanted (again): overrides of its version end.
    pub(super) fn want_written(&mut self, now: Now, name: &Name, record: RecordId, cause: &Arc<Cause>) {
        let Some(unit) = self.units.get_mut(name) else { return };
        unit.overrides.rejected = None;
        unit.overrides.pinned = None;
        let version = unit.written.clone();
        let drift = Drift::between(&unit.spec, &version.spec);
        let record = self.tell_changed(now, name, &drift, &version, record);
        self.want(now, name, version, record, cause);
    }

    /// Which fields a revision changed, where that may make a difference to how the program fares: what fails from now on fails
    /// since then.
    fn tell_changed(
        &mut self,
        now: Now,
        name: &Name,
        drift: &Drift,
        version: &Version,
        record: RecordId,
    ) -> RecordId {
        let (Drift::Replace(fields) | Drift::Reload(fields)) = drift else { return record };
        let words = Drift::words(fields);
        let fields = words.strip_suffix(" changed").unwrap_or("its spec");
        let object = self.object(name);
        let entry = Entry {
            warning: false,
            reason: CHANGED,
            object: &object,
            message: format!("revision {} changed {fields}", version.revision),
            change: None,
            cause: Some(record),
        };
        let told = self.announce(now, entry);
        if let Some(unit) = self.units.get_mut(name) {
            unit.changed = Some((told, version.generation));
        }
        told
    }

    /// The record of a change that an earlier daemon told.
    fn recall_changed(&mut self, unit: &Unit, (message, at): (String, Stamp)) -> RecordId {
        let object = &unit.spec.object;
        let entry = Entry { warning: false, reason: CHANGED, object, message, change: None, cause: None };
        self.chronicle.write_of(at, entry).id
    }

    /// The records of how the ordinals ended that rest since an earlier daemon.
    fn recall_ends(&mut self, unit: &mut Unit) {
        let cause = unit.changed.map(|(record, _)| record);
        for slot in unit.slots.values_mut() {
            let Some(last) = &slot.last_end else { continue };
            let message = format!("{} {}", slot.seat, last.words);
            let (object, reason) = (&unit.spec.object, end_reason(&last.end));
            let entry = Entry { warning: true, reason, object, message, change: None, cause };
            slot.cause = Some(self.chronicle.write_of(last.at, entry).id);
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
            cause = Some(self.chronicle.write_of(at, entry).id);
        }
        cause
    }

    /// Another version of a unit is wanted. What needs no new process is good as it is; the rest is a rollout.
    pub(super) fn want(
        &mut self,
        now: Now,
        name: &Name,
        version: Version,
        record: RecordId,
        cause: &Arc<Cause>,
    ) {
        let Some(unit) = self.units.get_mut(name) else { return };
        let drift = Drift::between(&unit.spec, &version.spec);
        if unit.spec.policy.replicas != version.spec.policy.replicas {
            unit.scaled_from = Some(unit.replicas());
            unit.overrides.replicas = None;
        }
        unit.cause = Some(record);
        let revision = version.revision;
        let former = std::mem::replace(&mut unit.generation, version.generation);
        unit.spec = version.spec;
        if matches!(drift, Drift::Replace(_)) {
            // What was wrong may be mended: earlier failures no longer count.
            unit.breaker.reset();
            for slot in unit.slots.values_mut() {
                slot.restart.attempt = 0;
                slot.cause = Some(record);
            }
        }
        if !matches!(drift, Drift::Replace(_)) {
            // What needs no new process starts none: a job that is done is not run again.
            let rests = |slot: &&mut Box<Slot>| {
                slot.rested_at == former && matches!(slot.state, Lifecycle::Done(_) | Lifecycle::Failed(_))
            };
            unit.slots.values_mut().filter(rests).for_each(|slot| slot.rested_at = unit.generation);
        }
        self.spec_turned(name);
        self.begin_rollout(now, name, revision, cause);
        self.refresh_drift(name);
        self.save_unit(now, name);
    }

    /// Equal specs need only one copy in memory.
    fn share_spec(&mut self, name: &Name) {
        let Some(unit) = self.units.get_mut(name) else { return };
        for instance in unit.slots.values_mut().filter_map(|slot| slot.instance.as_mut()) {
            if *instance.spec == *unit.spec {
                instance.spec = unit.spec.clone();
            }
        }
    }

    /// Compares what runs with what is wanted, once for every change of either.
    pub(super) fn refresh_drift(&mut self, name: &Name) {
        let Some(unit) = self.units.get_mut(name) else { return };
        let mut former = Vec::new();
        for slot in unit.slots.values_mut() {
            slot.drift = match &slot.instance {
                Some(instance) => Drift::between(&instance.spec, &unit.spec),
                None if slot.former.is_some() => match &slot.former {
                    Some(former) => Drift::between(&former.spec, &unit.spec),
                    None => Drift::None,
                },
                None if slot.rested_at != unit.generation && slot.last_end.is_some() => {
                    std::mem::take(&mut slot.drift).or_replace()
                }
                None => Drift::None,
            };
            if let (Drift::None, Some(instance)) = (&slot.drift, &mut slot.instance) {
                former.push(std::mem::replace(&mut instance.spec, unit.spec.clone()));
                instance.generation = unit.generation;
            }
        }
        match unit.slots.values().any(|slot| matches!(slot.drift, Drift::Replace(_))) {
            true => drop(self.outdated.insert(name.clone())),
            false => drop(self.outdated.remove(name)),
        }
        former.iter().for_each(|spec| self.loosen(name, spec));
    }

    fn drift_words(&self, name: &Name) -> String {
        let drifts =
            self.units.get(name).into_iter().flat_map(|unit| unit.slots.values()).map(|slot| &slot.drift);
        drifts
            .filter_map(|drift| match drift {
                Drift::Replace(fields) | Drift::Reload(fields) | Drift::InPlace(fields) => {
                    Some(Drift::words(fields))
                }
                Drift::None => None,
            })
            .next()
            .unwrap_or_else(|| "its spec changed".into())
    }

    fn drift_verb(&self, name: &Name) -> Verb {
        let Some(unit) = self.units.get(name) else { return Verb::Start };
        let running = unit.slots.values().any(|slot| slot.state.is_occupied());
        let replace = unit.slots.values().any(|slot| matches!(slot.drift, Drift::Replace(_)));
        let reload = unit.slots.values().any(|slot| matches!(slot.drift, Drift::Reload(_)));
        match (unit.scaled_from, replace) {
            (_, true) => Verb::Replace,
            (_, false) if reload => Verb::Reload,
            (Some(_), false) => Verb::Scale,
            (None, false) if running => Verb::Update,
            _ if unit.spec.policy.job => Verb::Run,
            _ => Verb::Start,
        }
    }

    fn revise_externals(&mut self, now: Now, desired: &Desired) {
        let gone: Vec<Name> =
            self.externals.keys().filter(|name| !desired.externals.contains_key(*name)).cloned().collect();
        for name in gone {
            self.externals.remove(&name);
            self.set_timer(&name);
            self.touched.insert(name.clone());
            self.tell_neighbours(&name);
        }
        for (name, spec) in &desired.externals {
            let same = self.externals.get(name).is_some_and(|external| external.spec == *spec);
            if !same {
                let former = self.externals.get(name);
                let external = External::new(spec.clone(), now.mono, former);
                self.externals.insert(name.clone(), external);
                self.set_timer(name);
                self.touched.insert(name.clone());
                self.tell_neighbours(name);
            }
        }
    }
}

impl Drift {
    /// A rested slot of an older generation starts with the new one.
    fn or_replace(self) -> Self {
        match self {
            Self::Replace(fields) => Self::Replace(fields),
            _ => Self::Replace(vec!["spec".into()]),
        }
    }
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
    let same = if checkpoint.written_generation.is_some() { standing } else { checkpoint.digest == digest };
    let revision = checkpoint.written_revision.filter(|_| same).unwrap_or(revision);
    let generation = if same { written } else { written.max(checkpoint.generation).next() };
    let mut unit = Unit::new(spec, generation, revision, now.wall);
    unit.overrides = checkpoint.overrides.clone();
    if !standing {
        unit.overrides.rejected = None;
        unit.overrides.pinned = None;
    }
    restore_slots(&mut unit, &checkpoint, same, now.mono);
    if same && checkpoint.written_generation.is_none() {
        // The time of this boot, unless the machine was started again since: then nothing is later than what was left.
        let left = checkpoint.open_left_ms.map(|left| now.mono + std::time::Duration::from_millis(left));
        let until = left.map(|left| checkpoint.open_until.map_or(left, |until| until.min(left)));
        let failures = checkpoint.failures.iter().copied().filter(|at| *at <= now.mono);
        let open_for = std::time::Duration::from_millis(checkpoint.open_for_ms);
        unit.breaker = Breaker::restored(until, open_for, failures.collect());
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
        good => unit.known_good = good.map(|good| (good, kept)),
    }
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
        let seat = Seat::serving(crate::base::Ordinal(index as u32));
        let mut slot = Box::new(Slot::new(seat));
        slot.restart.restarts = *restarts;
        slot.restart.attempt = if same { checkpoint.attempt } else { 0 };
        slot.rested_at = unit.generation;
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
                None => Lifecycle::Failed(rested.last_end.end.reason.clone()),
            };
            slot.restart.again = rested.until.is_some();
            slot.last_end = Some(Box::new(rested.last_end.clone()));
        }
        unit.slots.insert(seat, slot);
    }
}

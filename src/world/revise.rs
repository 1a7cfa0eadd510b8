//! A new accepted revision: who is new, who changed, who is gone.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::base::{Generation, Name, Now, Revision};
use crate::plan::{Desired, Drift, UnitSpec, Verb};
use crate::unit::Lifecycle;

use super::World;
use super::chronicle::{CHANGED, ChangeAction, Entry, RecordId, UNENFORCED};
use super::event::Cause;
use super::externals::External;
use super::rollouts::SIBLING;
use super::state::{Slot, Unit, Version};

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
        let mut mended = BTreeSet::new();
        let mut new = Vec::new();
        for (name, spec) in &desired.units {
            let rejected =
                self.units.get(name).and_then(|unit| Some(unit.overrides.rejected.as_ref()?.revision));
            let unenforced = self.units.get(name).and_then(|unit| unit.spec.unenforced.clone());
            match self.revise_unit(now, name, spec, record, &shared) {
                Fate::Same => continue,
                Fate::New if desired.left_out.contains(name) => {}
                Fate::New => {
                    rows.push((name.clone(), self.planned_row(name, Verb::Start, "it is new")));
                    new.push(spec.object.clone());
                }
                Fate::Changed => {
                    let reason = self.drift_words(name);
                    let verb = self.drift_verb(name);
                    rows.push((name.clone(), self.planned_row(name, verb, &reason)));
                }
                Fate::Turned => {}
            }
            if self.units.get(name).is_some_and(|unit| !unit.is_rolled_back()) {
                mended.extend(rejected);
            }
            self.tell_fault(now, name, record);
            if self.begun && self.units.get(name).is_some_and(|unit| unit.spec.unenforced != unenforced) {
                self.tell_unenforced(now, name, Some(record));
            }
            changed.insert(name.clone());
        }
        for name in self.went_along(&mended) {
            if let Some(unit) = self.units.get_mut(&name) {
                unit.written.revision = desired.revision;
            }
            self.want_written(now, &name, record, &shared);
            let reason = "what failed of the same revision was changed";
            rows.push((name.clone(), self.planned_row(&name, self.drift_verb(&name), reason)));
            changed.insert(name);
        }
        let gone: Vec<Name> =
            self.units.keys().filter(|name| !desired.units.contains_key(*name)).cloned().collect();
        for name in gone {
            if let Some(unit) = self.units.get_mut(&name).filter(|unit| unit.declared) {
                unit.declared = false;
                self.undeclared.insert(name.clone());
                unit.cause = Some(record);
                // A service under another name is another one: there is no rollout from one to the other.
                let runs = !unit.is_gone() && !unit.spec.policy.job;
                unit.gone_with = new.first().filter(|_| runs && self.begun).map(|first| {
                    let others = if new.len() > 1 { " or another unit that is" } else { ", which is" };
                    format!("; it does not come back if {first}{others} new with that, fails").into()
                });
                let why = unit.gone_words();
                rows.push((name.clone(), self.planned_row(&name, Verb::Delete, &why)));
                changed.insert(name);
            }
        }
        for (name, unit) in &mut self.units {
            unit.left_out = desired.left_out.contains(name);
        }
        self.revise_externals(now, &desired);
        self.wishes_turned();
        self.index_dependents();
        match self.begun {
            true => self.record_revision(now, cause, rows, &desired),
            false => self.first_cause = Some(cause.clone()),
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

    /// Who went back from one of these revisions for another unit's failure only: nothing was found wrong with what they are to run.
    fn went_along(&self, revisions: &BTreeSet<Revision>) -> Vec<Name> {
        let along = |unit: &Unit| {
            let rejected = unit.overrides.rejected.as_ref();
            rejected.is_some_and(|it| revisions.contains(&it.revision) && it.failure.reason == SIBLING)
        };
        self.units.iter().filter(|(_, unit)| along(unit)).map(|(name, _)| name.clone()).collect()
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

    /// What this machine does not enforce of a unit, which runs all the same: told with the revision that it came with, not with
    /// every start.
    fn tell_unenforced(&mut self, now: Now, name: &Name, cause: Option<RecordId>) {
        let Some(message) = self.units.get(name).and_then(|unit| unit.spec.unenforced.clone()) else {
            return;
        };
        let object = self.object(name);
        let entry =
            Entry { warning: true, reason: UNENFORCED, object: &object, message, change: None, cause };
        self.announce(now, entry);
    }

    /// The same of all at the beginning, but for what runs already and was told of by an earlier daemon.
    pub(super) fn tell_all_unenforced(&mut self, now: Now) {
        let told: BTreeSet<(&str, &str)> = self
            .chronicle
            .iter()
            .filter(|record| record.reason == UNENFORCED)
            .map(|record| (record.object.as_str(), record.message.as_str()))
            .collect();
        let untold = |unit: &Unit| {
            let object = unit.spec.object.to_string();
            let known = unit.spec.unenforced.as_ref().map(|message| told.contains(&(&object, message)));
            known.is_some_and(|known| !known || unit.is_gone())
        };
        let names: Vec<Name> =
            self.units.iter().filter(|(_, unit)| untold(unit)).map(|(name, _)| name.clone()).collect();
        for name in names {
            self.tell_unenforced(now, &name, None);
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
            let (mut unit, opened) = match self.restored.remove(name) {
                Some((checkpoint, kept)) => self.take_up(now, spec, checkpoint, kept),
                None => (Unit::new(spec.clone(), Generation(1), revision, now.wall), None),
            };
            // That it was taken up explains nothing where an earlier daemon told more.
            let rests = unit.slots.values().filter_map(|slot| slot.cause).max();
            unit.cause = opened.or(rests).or(Some(record));
            // What an earlier daemon knew of it stands.
            unit.rolled_by.get_or_insert_with(|| cause.clone());
            self.units.insert(name.clone(), Box::new(unit));
            if self.begun {
                self.resume_rollout(now, name);
            }
            // What is on its way to another version is saved once that is known again.
            if self.units.get(name).is_some_and(|unit| unit.known_good.is_none()) {
                self.save_unit(now, name);
            }
            return Fate::New;
        };
        if Arc::ptr_eq(&unit.written.spec, spec) && unit.declared {
            return Fate::Same;
        }
        let drift = Drift::between(&unit.written.spec, spec);
        let spec = &match drift {
            Drift::Replace(_) => spec.clone(),
            _ => spec.clone().remembering(&unit.written.spec),
        };
        let same = drift == Drift::None && *unit.written.spec == **spec && unit.declared;
        let mended = unit.written.spec.machine.is_some() && spec.machine.is_none();
        let standing = unit.overrides.rejected.is_some() || unit.overrides.pinned.is_some();
        let switched_on = unit.written.spec.switched_off.is_some() && spec.switched_off.is_none();
        if switched_on {
            // It starts for that, not for what it was switched off for.
            unit.slots.values_mut().for_each(|slot| slot.cause = Some(record));
        }
        unit.written.spec = spec.clone();
        (unit.declared, unit.gone_with) = (true, None);
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
            // The next daemon compares with what is written now.
            self.save_unit(now, name);
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
        if unit.overrides.rejected.take().is_some() {
            // What runs may have failed of the very files that are mended now: that it is the same as before says nothing.
            unit.forgive();
        }
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
        let (Drift::Replace(fields) | Drift::Reload(fields) | Drift::InPlace(fields)) = drift else {
            return record;
        };
        let probed = fields.iter().any(|field| field.starts_with("spec.probes"));
        if matches!(drift, Drift::InPlace(_)) && !probed {
            return record;
        }
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
        if unit.spec.policy.breaker.is_none() {
            // Nothing moves the circuit of one that it has no more.
            unit.breaker.reset();
        }
        if matches!(drift, Drift::Replace(_)) {
            // What was wrong may be mended.
            unit.forgive();
            unit.slots.values_mut().for_each(|slot| slot.cause = Some(record));
        }
        if !matches!(drift, Drift::Replace(_)) {
            // What needs no new process starts none: a job that is done is not run again.
            let rests = |slot: &&mut Box<Slot>| {
                slot.rested_at == former && matches!(slot.state, Lifecycle::Done(_) | Lifecycle::Failed(_))
            };
            unit.slots.values_mut().filter(rests).for_each(|slot| slot.rested_at = unit.generation);
        }
        unit.rests_as_completed();
        self.spec_turned(name);
        self.begin_rollout(now, name, revision, cause);
        self.refresh_drift(name);
        if let Some(unit) = self.units.get_mut(name) {
            // Where nobody is replaced there is no canary to hold for.
            let replaces = unit.slots.values().any(|slot| matches!(slot.drift, Drift::Replace(_)));
            unit.rollout.promoted |= !replaces;
        }
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
                let spec = unit.spec.clone().remembering(&instance.spec);
                former.push(std::mem::replace(&mut instance.spec, spec));
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
                let external = External::new(spec.clone(), now, former);
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

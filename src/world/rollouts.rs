//! Rollouts of the units: begin, look, take over, go back.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::base::{Generation, InstanceId, Name, Now, ObjectRef, Ordinal, Revision, Role, Seat, Stamp};
use crate::plan::{Action, Drift, Verb, Wish};
use crate::rollout::{Counts, Failure, Phase, Rollout, Turn};
use crate::unit::{AfterEnd, End, EndReason, Fact, StopReason};

use super::World;
use super::chronicle::{ChangeAction, Entry};
use super::effect::Effect;
use super::event::{Cause, Known, Rejection};
use super::state::{Slot, Unit, Version};

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

impl World {
    /// Another version of a unit is wanted: its rollout begins, and one that is under way is superseded.
    pub(super) fn begin_rollout(&mut self, now: Now, name: &Name, revision: Revision, cause: &Arc<Cause>) {
        let Some(unit) = self.units.get(name) else { return };
        if unit.good.is_some() {
            let outcome = if unit.rollout.is_active() { "Superseded" } else { outcome(&unit.rollout) };
            self.save_rollout(now, name, outcome);
        }
        let Some(unit) = self.units.get_mut(name) else { return };
        unit.before.clone_from(&unit.good);
        let from = unit.good.as_ref().map(|good| good.generation);
        let update = &unit.spec.policy.update;
        unit.rollout = Rollout::begin(revision, from, unit.generation, update, now.wall);
        unit.rolled_by = Some(cause.clone());
        unit.restart_crashes = 0;
        for slot in unit.slots.values_mut() {
            slot.former = None;
        }
        self.timers.set(name, self.units.get(name).and_then(Unit::deadline));
    }

    /// Looks how far a unit has come: who is available, whether its rollout goes on, is over or has failed.
    pub(super) fn look_at_rollout(&mut self, now: Now, name: &Name) {
        let Some(unit) = self.units.get(name) else { return };
        let wish = self.wish(name, unit);
        let running = matches!(wish, Wish::Up { .. }) && unit.overrides.paused.is_none();
        let Some(unit) = self.units.get_mut(name) else { return };
        let min_ready = unit.spec.policy.update.min_ready;
        for slot in unit.slots.values_mut() {
            slot.available = slot.ready_since.is_some_and(|since| now.mono.since(since) >= min_ready);
        }
        if !unit.rollout.is_active() || unit.spec.policy.job {
            return;
        }
        let Wish::Up { replicas } = wish else {
            unit.rollout.suspend();
            return;
        };
        let counts = counts(unit, replicas, running);
        let machine = unit.spec.machine.clone().filter(|_| unit.good.is_some());
        let update = unit.spec.policy.update.clone();
        let before = unit.rollout.progress();
        let turn = unit.rollout.look(&update, counts, now.mono);
        // The next daemon goes on from here.
        if unit.good.is_some() && unit.rollout.progress() != before {
            self.save_unit(now, name);
        }
        self.rollout_turned(now, name, turn, machine);
    }

    fn rollout_turned(&mut self, now: Now, name: &Name, turn: Turn, machine: Option<String>) {
        let Some(unit) = self.units.get(name) else { return };
        let (generation, limit) = (unit.generation, unit.spec.policy.update.progress_deadline);
        match (turn, machine) {
            (Turn::Nothing, Some(message)) if matches!(unit.rollout.phase, Phase::Progressing) => {
                let failure = failure("CannotStart", message, None, now.wall);
                self.rollout_failed(now, name, failure);
            }
            (Turn::Nothing, _) => {}
            (Turn::Holds, _) => self.tell_rollout(
                now,
                name,
                false,
                "CanaryReady",
                "its canaries are available and hold".into(),
            ),
            (Turn::Promoted, _) => {
                self.tell_rollout(now, name, false, "Promoted", "its canaries held: the rest follows".into())
            }
            (Turn::Completed, _) => self.rollout_complete(now, name),
            (Turn::WentBack, _) => {
                let message = format!("what was good runs again: generation {generation}");
                self.tell_rollout(now, name, false, "RollbackComplete", message);
                self.save_unit(now, name);
                self.save_rollout(now, name, "RolledBack");
                self.rollout_over();
            }
            (Turn::DeadlineExceeded, _) => {
                let limit = crate::base::format_duration(limit);
                let (why, instance) = self.why_stuck(name);
                let message = format!("it got no further for {limit}{why}");
                self.rollout_failed(
                    now,
                    name,
                    failure("ProgressDeadlineExceeded", message, instance, now.wall),
                );
            }
        }
    }

    fn rollout_complete(&mut self, now: Now, name: &Name) {
        let Some(unit) = self.units.get_mut(name) else { return };
        let first = unit.good.is_none();
        unit.good = Some(unit.wanted());
        let tried = unit.overrides.rejected.take().is_some();
        if first && !tried {
            // The first deployment is told by its instances. What is good outlives the daemon: an edit that comes while none is
            // there must have something to go back to.
            return self.save_unit(now, name);
        }
        let message =
            format!("generation {} is available, nothing of the former one is left", unit.generation);
        self.tell_rollout(now, name, false, "RolloutComplete", message);
        self.save_unit(now, name);
        self.save_rollout(now, name, "Complete");
        self.rollout_over();
    }

    /// A rollout that is over lets another one begin (`maxConcurrentRollouts`).
    fn rollout_over(&mut self) {
        let waiting = std::mem::take(&mut self.waiting_for_roll);
        self.dirty.extend(waiting);
    }

    /// The unwell new instance that a rollout waits for, and what is wrong with it.
    fn why_stuck(&self, name: &Name) -> (String, Option<InstanceId>) {
        let Some(unit) = self.units.get(name) else { return (String::new(), None) };
        let new = |slot: &&Slot| {
            slot.seat.role != Role::Draining
                && slot.former.is_none()
                && !matches!(slot.drift, Drift::Replace(_))
                && !slot.available
        };
        let Some(slot) = unit.slots.values().map(Box::as_ref).find(new) else { return (String::new(), None) };
        let answer = slot.instance.as_ref().and_then(|instance| {
            let board = instance.board.as_ref()?;
            [crate::unit::ProbeKind::Startup, crate::unit::ProbeKind::Readiness].into_iter().find_map(
                |kind| {
                    Some(format!(
                        "its {} probe: {}",
                        kind.as_str(),
                        board.last(kind).filter(|a| !a.ok)?.message
                    ))
                },
            )
        });
        let words = answer.or_else(|| slot.last_end.as_ref().map(|last| format!("it {}", last.words)));
        let words = words.map_or_else(
            || format!(": {} is {}", slot.seat, slot.state.word()),
            |words| format!(": {} is {}, {words}", slot.seat, slot.state.word()),
        );
        let id = slot.id(name).or_else(|| {
            let incarnation = slot.last_end.as_ref()?.incarnation;
            Some(InstanceId { unit: name.clone(), ordinal: slot.seat.ordinal, incarnation })
        });
        (words, id)
    }

    /// An instance ended and counts as a failure: is that the end of its rollout?
    pub(super) fn count_crash(
        &mut self,
        now: Now,
        id: &InstanceId,
        of: Generation,
        seat: Seat,
        end: &End,
        after: &AfterEnd,
    ) {
        let Some(unit) = self.units.get_mut(&id.unit) else { return };
        let permanent = matches!(after, AfterEnd::Failed(_));
        let words = super::state::end_words(end);
        if of != unit.generation || !unit.rollout.on_trial(now.mono) {
            return self.count_restart_crash(now, &id.unit, seat, permanent, &words);
        }
        let third = unit.rollout.crashed();
        if !permanent && !third {
            return;
        }
        let (reason, message) = match permanent {
            true => ("PermanentFailure", format!("{seat} {words}")),
            false => ("CrashLoop", format!("{seat} {words}, the {} time", nth(unit.rollout.crashes))),
        };
        self.rollout_failed(now, &id.unit, failure(reason, message, Some(id.clone()), now.wall));
    }

    /// A restart that somebody asked for brings up the same version: when it does not get well, the old instance stays.
    fn count_restart_crash(&mut self, now: Now, name: &Name, seat: Seat, permanent: bool, words: &str) {
        let Some(unit) = self.units.get_mut(name).filter(|_| seat.role == Role::Incoming) else { return };
        unit.restart_crashes += 1;
        if !permanent && unit.restart_crashes < 3 {
            return;
        }
        unit.restart_crashes = 0;
        for slot in unit.slots.values_mut() {
            slot.restart_asked = None;
        }
        let message = format!("the restart is given up, the former instance stays: {seat} {words}");
        self.tell_rollout(now, name, true, "RestartFailed", message);
    }

    /// A rollout has failed: everything that the same revision changed goes back to what was good.
    pub(super) fn rollout_failed(&mut self, now: Now, name: &Name, failure: Failure) {
        let Some(unit) = self.units.get_mut(name) else { return };
        let revision = unit.rollout.revision;
        if unit.before.is_none() {
            // Nothing to go back to: the unit follows its restart policy.
            return;
        }
        if !unit.spec.policy.update.auto_rollback {
            unit.rollout.phase = Phase::Failed(failure.clone());
            unit.rollout.deadline = None;
            let message = format!(
                "the rollout of revision {revision} has failed and stays as it is (autoRollback: false): {}",
                failure.message
            );
            self.tell_rollout(now, name, true, "RolloutFailed", message);
            self.save_rollout(now, name, "Failed");
            return;
        }
        let object = unit.spec.object.clone();
        let together: Vec<Name> = match self.desired.rollback_scope_unit {
            true => vec![name.clone()],
            false => self
                .units
                .iter()
                .filter(|(_, unit)| unit.rollout.revision == revision && unit.before.is_some())
                .filter(|(_, unit)| matches!(unit.rollout.phase, Phase::Progressing | Phase::Complete { .. }))
                .map(|(name, _)| name.clone())
                .collect(),
        };
        let cause = Cause::new("Rollback", format!("{object} of revision {revision}: {}", failure.message));
        let rows = together
            .iter()
            .map(|name| {
                let reason =
                    if *name == object.name { failure.message.clone() } else { sibling(&object, &failure) };
                (name.clone(), ChangeAction { verb: Verb::Rollback, unit: self.object(name), reason })
            })
            .collect();
        let change = self.open_change(now, cause, rows);
        // The one that failed first: it is the cause of what follows for the others.
        let mut record = None;
        let order = std::iter::once(name.clone()).chain(together.into_iter().filter(|other| other != name));
        for one in order {
            let own = match one == *name {
                true => failure.clone(),
                false => Failure {
                    reason: "Sibling".into(),
                    message: sibling(&object, &failure),
                    instance: None,
                    ..failure.clone()
                },
            };
            let id = self.go_back(now, &one, own, change, record);
            record = record.or(id);
        }
    }

    /// One unit goes back to the version that was good.
    fn go_back(
        &mut self,
        now: Now,
        name: &Name,
        failure: Failure,
        change: u64,
        cause: Option<u64>,
    ) -> Option<u64> {
        let object = self.object(name);
        let unit = self.units.get_mut(name)?;
        let back = unit.before.clone()?;
        let revision = unit.rollout.revision;
        let own_cause = unit.slots.values().filter_map(|slot| slot.cause).max().or(unit.cause);
        if unit.overrides.pinned.take().is_none() {
            unit.overrides.rejected = Some(Rejection {
                digest: unit.written.spec.launch.digest(),
                revision,
                runs: back.revision,
                failure: failure.clone(),
            });
        }
        let replicas = unit.spec.policy.replicas;
        if replicas != back.spec.policy.replicas {
            unit.scaled_from = Some(replicas);
        }
        (unit.spec, unit.generation) = (back.spec.clone(), back.generation);
        unit.good = Some(back);
        unit.rollout.phase = Phase::RollingBack(failure.clone());
        unit.rollout.deadline = None;
        unit.rollout.promoted = true;
        unit.breaker.reset();
        for slot in unit.slots.values_mut() {
            slot.former = None;
            slot.restart.attempt = 0;
        }
        self.refresh_drift(name);
        let message = format!(
            "revision {revision} is given up, what was good before it takes its place: {}",
            failure.message
        );
        let entry = Entry {
            warning: true,
            reason: "RolledBack",
            object: &object,
            message,
            change: Some(change),
            cause: cause.or(own_cause),
        };
        let record = self.announce(now, entry);
        if let Some(unit) = self.units.get_mut(name) {
            unit.cause = Some(record);
        }
        if let Some(id) = failure.instance {
            self.effects.push_back(Effect::TailLog { id, revision });
        }
        self.save_unit(now, name);
        self.save_rollout(now, name, "RolledBack");
        self.touch(name);
        self.touch_followers(name);
        Some(record)
    }

    /// The last lines of the instance that ended a rollout.
    pub(super) fn failing_lines(&mut self, now: Now, name: &Name, revision: Revision, lines: Vec<String>) {
        let Some(unit) = self.units.get_mut(name) else { return };
        if unit.rollout.revision != revision || lines.is_empty() {
            return;
        }
        match &mut unit.rollout.phase {
            Phase::RollingBack(failure) | Phase::RolledBack(failure) | Phase::Failed(failure) => {
                failure.lines.clone_from(&lines);
            }
            Phase::Progressing | Phase::Complete { .. } => return,
        }
        if let Some(rejected) = &mut unit.overrides.rejected {
            rejected.failure.lines = lines;
        }
        self.save_unit(now, name);
        self.save_rollout(now, name, "RolledBack");
        self.touched.insert(name.clone());
    }

    /// The incoming instance of an ordinal becomes its serving one; the serving one drains.
    pub(super) fn take_over(&mut self, now: Now, name: &Name, ordinal: Ordinal, action: &Action) {
        let object = self.object(name);
        let Some(unit) = self.units.get_mut(name) else { return };
        let Some(mut successor) = unit.slots.remove(&Seat::incoming(ordinal)) else { return };
        successor.seat = Seat::serving(ordinal);
        let mut drains = false;
        if let Some(mut former) = unit.slots.remove(&Seat::serving(ordinal)) {
            successor.restart.restarts += former.restart.restarts;
            successor.last_end = successor.last_end.take().or_else(|| former.last_end.clone());
            if former.state.is_occupied() {
                former.seat = Seat::draining(ordinal);
                former.restart_asked = None;
                drains = true;
                unit.slots.insert(former.seat, former);
            }
        }
        let incarnation = successor.instance.as_ref().map(|instance| instance.incarnation);
        unit.slots.insert(successor.seat, successor);
        unit.replacements += 1;
        let (change, cause) = (unit.change, unit.cause);
        let incarnation =
            incarnation.map_or_else(String::new, |incarnation| format!(" (incarnation {incarnation})"));
        let message = match drains {
            true => format!(
                "the incoming instance {ordinal}{incarnation} takes over, the former one drains: {}",
                action.reason
            ),
            false => format!("the incoming instance {ordinal}{incarnation} takes over: {}", action.reason),
        };
        let entry = Entry { warning: false, reason: "TookOver", object: &object, message, change, cause };
        let record = self.announce(now, entry);
        self.set_cause(name, Seat::serving(ordinal), record);
        self.remember(name, Seat::serving(ordinal));
        if drains {
            self.set_cause(name, Seat::draining(ordinal), record);
            self.apply(now, name, Seat::draining(ordinal), Fact::Stop { reason: StopReason::Replaced });
        }
        self.touch(name);
    }

    /// One that ended by itself in the middle of a rollout is started again as it was, until the rollout has come to it.
    pub(super) fn former_version(unit: &Unit, slot_spec: &Version, seat: Seat, end: &End) -> Option<Version> {
        let asked = matches!(end.reason, EndReason::Stopped(StopReason::Unwanted | StopReason::Replaced));
        let old = slot_spec.generation != unit.generation && unit.good.is_some();
        (seat.role == Role::Serving && old && !asked && matches!(unit.rollout.phase, Phase::Progressing))
            .then(|| slot_spec.clone())
    }

    /// What was restored of versions that are not the declared one, once everything that runs is known.
    pub(super) fn resume_rollouts(&mut self, now: Now) {
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

    pub(super) fn resume_rollout(&mut self, now: Now, name: &Name) {
        let Some(unit) = self.units.get_mut(name) else { return };
        let Some((known, kept)) = unit.known_good.take() else { return };
        let running = unit.slots.values().filter_map(|slot| slot.instance.as_ref());
        let spec = running
            .filter(|instance| instance.generation == known.generation)
            .map(|instance| instance.spec.clone())
            .next()
            .or(kept);
        let Some(spec) = spec else {
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
        if standing {
            (unit.spec, unit.generation) = (version.spec.clone(), version.generation);
            unit.rollout = Rollout::complete(version.revision, version.generation, now.wall);
            if let Some(rejected) = &unit.overrides.rejected {
                unit.rollout.revision = rejected.revision;
                unit.rollout.to = unit.written.generation;
                unit.rollout.phase = Phase::RolledBack(rejected.failure.clone());
            }
        } else {
            unit.before = Some(version.clone());
            unit.rollout.from = Some(version.generation);
            if let Some(progress) = unit.progress.take() {
                unit.rollout.resume(&progress, &unit.spec.policy.update, now.mono);
            }
        }
        unit.good = Some(version);
        self.refresh_drift(name);
    }

    pub(super) fn tell_rollout(
        &mut self,
        now: Now,
        name: &Name,
        warning: bool,
        reason: &'static str,
        message: String,
    ) {
        let object = self.object(name);
        let Some(unit) = self.units.get(name) else { return };
        let (change, cause) = (unit.change, unit.cause);
        let record = self.announce(now, Entry { warning, reason, object: &object, message, change, cause });
        if let (true, Some(unit)) = (warning, self.units.get_mut(name)) {
            unit.cause = Some(record);
        }
    }

    fn save_rollout(&mut self, now: Now, name: &Name, outcome: &str) {
        let Some(mut record) = self.rollout_record(name) else { return };
        record.outcome = outcome.to_owned();
        let ended = crate::rollout::state::duration(record.at, now.wall);
        record.duration_ms = (outcome != "Active").then_some(ended.as_millis() as u64);
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
            duration_ms: None,
            outcome: outcome(rollout).into(),
            message: rollout.failure().map(|failure| failure.message.clone()),
            lines: rollout.failure().map(|failure| failure.lines.clone()).unwrap_or_default(),
            from_generation: rollout.from.map(|from| from.0),
            to_generation: rollout.to.0,
        })
    }
}

fn outcome(rollout: &Rollout) -> &'static str {
    match rollout.phase {
        Phase::Progressing => "Active",
        Phase::Complete { .. } => "Complete",
        Phase::RollingBack(_) | Phase::RolledBack(_) => "RolledBack",
        Phase::Failed(_) => "Failed",
    }
}

fn counts(unit: &Unit, replicas: u32, running: bool) -> Counts {
    let new = |slot: &Slot| {
        slot.state.is_occupied()
            && slot.instance.as_ref().is_some_and(|instance| instance.generation == unit.generation)
            && !matches!(slot.drift, Drift::Replace(_) | Drift::Reload(_))
    };
    // The first deployment is over when its instances are Ready: nothing old waits to be replaced.
    let first = unit.good.is_none();
    let well = |slot: &Slot| new(slot) && (slot.available || (first && slot.is_ready()));
    let at = |ordinal: u32, role: Role| unit.slots.get(&Seat { ordinal: Ordinal(ordinal), role });
    let available = (0..replicas).filter(|ordinal| {
        [Role::Serving, Role::Incoming]
            .into_iter()
            .any(|role| at(*ordinal, role).is_some_and(|slot| well(slot)))
    });
    let in_place = (0..replicas).all(|ordinal| at(ordinal, Role::Serving).is_some_and(|slot| well(slot)));
    let leftovers = unit.slots.values().any(|slot| {
        slot.state.is_occupied() && (slot.seat.role != Role::Serving || slot.seat.ordinal.0 >= replicas)
    });
    Counts {
        replicas,
        available: available.count() as u32,
        settled: in_place && !leftovers,
        started: unit
            .slots
            .values()
            .any(|slot| new(slot) || (slot.rested_at == unit.generation && slot.last_end.is_some())),
        running,
    }
}

fn failure(reason: &str, message: String, instance: Option<InstanceId>, at: Stamp) -> Failure {
    Failure { reason: reason.into(), message, instance, lines: Vec::new(), at }
}

fn sibling(object: &ObjectRef, failure: &Failure) -> String {
    format!("{object}, changed by the same revision, failed: {}", failure.message)
}

fn nth(count: u32) -> String {
    match count {
        1 => "first".into(),
        2 => "second".into(),
        3 => "third".into(),
        count => format!("{count}th"),
    }
}

impl Version {
    /// What the store remembers of it.
    pub fn known(&self) -> Known {
        Known { generation: self.generation, revision: self.revision, digest: self.spec.launch.digest() }
    }
}

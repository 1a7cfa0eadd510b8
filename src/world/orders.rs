//! What a person asks for: overrides of the manifest, restarts.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::{Name, Now, ObjectRef, Revision, Role, Seat};
use crate::plan::{Drift, Verb, Wish};
use crate::unit::lifecycle::Rest;
use crate::unit::{Circuit, Lifecycle};

use super::chronicle::{ChangeAction, Entry, ORDERED};
use super::event::{Cause, Order};
use super::overrides::Signature;
use super::state::Slot;
use super::why::is_in_trouble;
use super::{Unit, World};

impl World {
    /// Carries out an order on units that exist; a name that does not is the API's business (it answers 404 first).
    pub(super) fn order(&mut self, now: Now, order: Order, by: &str) {
        let signature = || Signature { by: by.to_owned(), at: now.wall };
        let next = self.incarnation;
        match order {
            Order::Start(names) => self.each(now, &names, by, Verb::Start, "unisys start", |unit| {
                run_now(unit, signature());
                unit.breaker.reset();
                revive(unit);
            }),
            Order::Stop(names) => {
                self.each(now, &names, by, Verb::Stop, "unisys stop", |unit| {
                    unit.overrides.stopped = Some(signature());
                    unit.overrides.started = None;
                });
            }
            Order::Enable(names) => self.each(now, &names, by, Verb::Start, "unisys enable", |unit| {
                unit.overrides.disabled = None;
                unit.overrides.started.take_if(|_| !unit.left_out);
            }),
            Order::Disable(names) => {
                self.each(now, &names, by, Verb::Stop, "unisys disable", |unit| {
                    unit.overrides.disabled = Some(signature());
                    unit.overrides.started = None;
                });
            }
            Order::Restart(names) => self.each(now, &names, by, Verb::Restart, "unisys restart", |unit| {
                run_now(unit, signature());
                unit.breaker.reset();
                unit.restart_crashes = 0;
                unit.restart_since = Some(next);
                // In the middle of a rollout, what is on its way in as well.
                for slot in unit.slots.values_mut().filter(|slot| slot.seat.role != Role::Draining) {
                    slot.restart_asked = Some("unisys restart".into());
                    slot.restart.attempt = 0;
                }
            }),
            Order::Scale(pairs) => {
                for (name, replicas) in pairs {
                    self.each(now, &[name], by, Verb::Scale, "unisys scale", |unit| {
                        unit.scaled_from = Some(unit.replicas());
                        let declared = unit.spec.policy.replicas;
                        unit.overrides.replicas = (replicas != declared).then(|| (replicas, signature()));
                    });
                }
            }
            Order::ResetCircuit(names) => {
                self.each(now, &names, by, Verb::Start, "unisys circuit reset", |unit| {
                    unit.breaker.reset();
                    revive(unit);
                })
            }
            Order::Reload(names) => self.each(now, &names, by, Verb::Reload, "unisys reload", |unit| {
                for slot in unit.slots.values_mut().filter(|slot| slot.seat.role == Role::Serving) {
                    if slot.drift == Drift::None {
                        slot.drift = Drift::Reload(vec!["unisys reload".into()]);
                    }
                }
            }),
            Order::Pause(names) => self.each(now, &names, by, Verb::Update, "unisys rollout pause", |unit| {
                unit.overrides.paused = Some(signature());
            }),
            Order::Resume(names) => {
                self.each(now, &names, by, Verb::Update, "unisys rollout resume", |unit| {
                    unit.overrides.paused = None;
                })
            }
            Order::Promote(names) => {
                self.each(now, &names, by, Verb::Update, "unisys rollout promote", |unit| {
                    let update = unit.spec.policy.update.clone();
                    unit.rollout.promote(&update, now.mono);
                })
            }
            Order::Retry(names) => {
                for name in names {
                    self.each(
                        now,
                        std::slice::from_ref(&name),
                        by,
                        Verb::Replace,
                        "unisys apply --force",
                        |_| {},
                    );
                    let record = self.units.get(&name).and_then(|unit| unit.cause).unwrap_or_default();
                    let cause =
                        std::sync::Arc::new(Cause::new("Order", format!("unisys apply --force by {by}")));
                    self.want_written(now, &name, record, &cause);
                    self.touch(&name);
                }
            }
            Order::Undo(name, version) => self.undo(now, &name, version, by),
            Order::Run(name) => self.each(now, &[name], by, Verb::Run, "unisys run", |unit| {
                for slot in unit.slots.values_mut() {
                    slot.restart_asked = Some("unisys run".into());
                }
            }),
        }
    }

    /// Back to an earlier version of a unit: an override that ends when the manifest changes.
    fn undo(
        &mut self,
        now: Now,
        name: &Name,
        version: Option<(Revision, std::sync::Arc<crate::plan::UnitSpec>)>,
        by: &str,
    ) {
        let Some(unit) = self.units.get(name) else { return };
        let former = unit.before.as_ref().map(|before| (before.revision, before.spec.clone()));
        let Some((revision, spec)) = version.or(former) else { return };
        let what = format!("unisys rollout undo to revision {revision}");
        // Who goes back is not to stay where it is.
        let ends_pause = |unit: &mut Unit| unit.overrides.paused = None;
        self.each(now, std::slice::from_ref(name), by, Verb::Rollback, &what, ends_pause);
        let cause = std::sync::Arc::new(Cause::new("Undo", format!("{what} by {by}")));
        let Some(unit) = self.units.get_mut(name) else { return };
        let record = unit.cause.unwrap_or_default();
        if spec.launch.digest() == unit.written.spec.launch.digest() {
            self.want_written(now, name, record, &cause);
        } else {
            unit.overrides.rejected = None;
            unit.overrides.pinned = Some((revision, Signature { by: by.to_owned(), at: now.wall }));
            let generation = unit.written.generation.max(unit.generation).next();
            self.want(now, name, super::Version { spec, generation, revision }, record, &cause);
        }
        self.touch(name);
        self.touch_followers(name);
    }

    /// One order to several units is one change with one cause.
    fn each(
        &mut self,
        now: Now,
        names: &[Name],
        by: &str,
        verb: Verb,
        what: &str,
        mut change: impl FnMut(&mut Unit),
    ) {
        let along = self.standing().along.clone();
        let (mut rows, mut told, mut idle) = (Vec::new(), Vec::new(), BTreeSet::new());
        for name in names {
            let after = self.unwell_record(name);
            let Some(unit) = self.units.get_mut(name) else { continue };
            // What has come to rest, and is left alone, is so for the reason that it was.
            let stays = |slot: &Slot| verb == Verb::Scale && is_in_trouble(slot);
            let resting: Vec<Seat> =
                unit.slots.values().filter(|slot| stays(slot)).map(|slot| slot.seat).collect();
            let (before, replicas) = ((verb == Verb::Start).then(|| as_ordered(unit)), unit.replicas());
            change(unit);
            let what = match verb {
                Verb::Scale => format!("{what} from {replicas} to {}", unit.replicas()),
                _ => what.to_owned(),
            };
            if before.is_some_and(|before| before == as_ordered(unit)) {
                idle.insert(name.clone());
            }
            rows.push((name.clone(), row(&unit.spec.object, verb, &what)));
            told.push((name.clone(), what, after, resting));
        }
        self.wishes_turned();
        if rows.is_empty() {
            return;
        }
        let list = rows.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(" ");
        let cause = Cause::new("Order", format!("{what} {list} by {by}"));
        rows.extend(self.followers(&along));
        let change = self.open_change(now, cause, rows);
        for (name, what, after, resting) in told {
            let object = self.object(&name);
            let message = format!("{what} by {by}");
            let entry = Entry {
                warning: false,
                reason: ORDERED,
                object: &object,
                message,
                change: Some(change),
                cause: after,
            };
            let record = self.announce(now, entry);
            // What changes nothing is no reason for anything.
            if let Some(unit) = self.units.get_mut(&name).filter(|_| !idle.contains(&name)) {
                unit.cause = Some(record);
                for slot in unit.slots.values_mut().filter(|slot| !resting.contains(&slot.seat)) {
                    slot.cause = Some(record);
                }
            }
            self.save_unit(now, &name);
            self.touch(&name);
            self.touch_followers(&name);
        }
    }

    /// What becomes of units that are taken along by a stop and were not before, or no longer are: it belongs to the same change.
    fn followers(&self, before: &BTreeMap<Name, String>) -> Vec<(Name, ChangeAction)> {
        let after = &self.standing().along;
        let stopped = after.iter().filter(|(name, _)| !before.contains_key(*name));
        let stopped = stopped.filter_map(|(name, why)| {
            let unit = self.units.get(name).filter(|unit| !unit.is_gone())?;
            Some((name.clone(), row(&unit.spec.object, Verb::Stop, why)))
        });
        let started = before.keys().filter(|name| !after.contains_key(*name)).filter_map(|name| {
            let unit = self.units.get(name)?;
            let starts =
                unit.is_gone() && !unit.spec.policy.job && matches!(self.wish(name, unit), Wish::Up { .. });
            let reason = "what it depends on is wanted again";
            starts.then(|| (name.clone(), row(&unit.spec.object, Verb::Start, reason)))
        });
        stopped.chain(started).collect()
    }

    /// A stop or start of a unit concerns everything that cannot be without it.
    pub(super) fn touch_followers(&mut self, name: &Name) {
        let followers: Vec<Name> = self.desired.graph.impact(name).into_iter().cloned().collect();
        self.dirty.extend(followers.into_iter().filter(|follower| self.units.contains_key(follower)));
    }
}

pub(super) fn row(unit: &ObjectRef, verb: Verb, reason: &str) -> ChangeAction {
    ChangeAction { verb, unit: unit.clone(), reason: reason.to_owned() }
}

/// What an order to start may change of a unit.
fn as_ordered(unit: &Unit) -> (super::overrides::Overrides, Circuit, Vec<Lifecycle>) {
    let states = unit.slots.values().map(|slot| slot.state.clone()).collect();
    (unit.overrides.clone(), unit.breaker.circuit(), states)
}

/// It runs from now on, as by systemctl: what is disabled stays so, and counts again at the next `up`, as what that leaves out does.
fn run_now(unit: &mut Unit, signature: Signature) {
    (unit.restart_given_up, unit.restart_since) = (None, None);
    unit.overrides.stopped = None;
    unit.overrides.started = (unit.left_out || unit.overrides.disabled.is_some()).then_some(signature);
}

/// A failed or backing-off seat starts afresh, and one of a Service that has ended well; a Job has run.
fn revive(unit: &mut Unit) {
    let job = unit.spec.policy.job;
    for slot in unit.slots.values_mut() {
        slot.restart.attempt = 0;
        slot.restart.again = false;
        let rests = match slot.state {
            Lifecycle::Failed(_) | Lifecycle::Backoff { .. } | Lifecycle::Held => true,
            Lifecycle::Done(_) => !job,
            _ => false,
        };
        if rests {
            slot.state = Rest::Idle.into();
        }
    }
}

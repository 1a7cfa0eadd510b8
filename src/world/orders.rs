//! What a person asks for: overrides of the manifest, restarts, the end of everything.

use std::collections::BTreeMap;

use crate::base::{Generation, Name, Now, ObjectRef, Ordinal, Revision, Role, Stamp, limits};
use crate::plan::{Drift, Verb, Wish};
use crate::unit::lifecycle::Rest;
use crate::unit::{Fact, Lifecycle};

use super::chronicle::{CHANGED, CIRCUIT_OPEN, ChangeAction, Entry};
use super::effect::Effect;
use super::event::{Cause, Checkpoint, Order, Rested, Signature};
use super::state::Slot;
use super::{Unit, Version, World};

impl World {
    /// Carries out an order on units that exist; a name that does not is the API's business (it answers 404 first).
    pub(super) fn order(&mut self, now: Now, order: Order, by: &str) {
        let signature = || Signature { by: by.to_owned(), at: now.wall };
        match order {
            Order::Start(names) => self.each(now, &names, by, Verb::Start, "unisys start", |unit| {
                unit.overrides.stopped = None;
                unit.overrides.disabled = None;
                unit.breaker.reset();
                revive(unit);
            }),
            Order::Stop(names) => {
                self.each(now, &names, by, Verb::Stop, "unisys stop", |unit| {
                    unit.overrides.stopped = Some(signature())
                });
            }
            Order::Enable(names) => self.each(now, &names, by, Verb::Start, "unisys enable", |unit| {
                unit.overrides.disabled = None;
            }),
            Order::Disable(names) => {
                self.each(now, &names, by, Verb::Stop, "unisys disable", |unit| {
                    unit.overrides.disabled = Some(signature())
                });
            }
            Order::Restart(names) => self.each(now, &names, by, Verb::Restart, "unisys restart", |unit| {
                unit.overrides.stopped = None;
                unit.breaker.reset();
                unit.restart_crashes = 0;
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
        self.each(now, std::slice::from_ref(name), by, Verb::Rollback, &what, |_| {});
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
        let mut rows = Vec::new();
        for name in names {
            let Some(unit) = self.units.get_mut(name) else { continue };
            change(unit);
            rows.push((name.clone(), row(&unit.spec.object, verb, what)));
        }
        self.wishes_turned();
        if rows.is_empty() {
            return;
        }
        let list = rows.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(" ");
        let cause = Cause::new("Order", format!("{what} {list} by {by}"));
        let touched: Vec<Name> = rows.iter().map(|(name, _)| name.clone()).collect();
        rows.extend(self.followers(&along));
        let change = self.open_change(now, cause, rows);
        for name in touched {
            let object = self.object(&name);
            let message = format!("{what} by {by}");
            let entry = Entry {
                warning: false,
                reason: "Ordered",
                object: &object,
                message,
                change: Some(change),
                cause: None,
            };
            let record = self.announce(now, entry);
            if let Some(unit) = self.units.get_mut(&name) {
                unit.cause = Some(record);
                for slot in unit.slots.values_mut() {
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

    pub(super) fn shut_down(&mut self, now: Now, by: &str, at_once: bool) {
        if self.down.is_none() {
            let entry = Entry {
                warning: false,
                reason: "ShuttingDown",
                object: &"system",
                message: format!("everything is stopped: {by}"),
                change: None,
                cause: None,
            };
            let record = self.announce(now, entry);
            self.down = Some(by.to_owned());
            self.effects.push_back(Effect::GoingDown { by: by.to_owned() });
            self.begun = true;
            let names: Vec<Name> = self.units.keys().cloned().collect();
            let rows = names
                .iter()
                .filter(|name| self.units.get(*name).is_some_and(|unit| !unit.is_gone()))
                .map(|name| (name.clone(), row(&self.object(name), Verb::Stop, by)))
                .collect();
            let rows: Vec<_> = rows;
            if !rows.is_empty() {
                self.open_change(now, Cause::new("ShutDown", by), rows);
            }
            for name in names {
                let Some(unit) = self.units.get_mut(&name) else { continue };
                unit.cause = Some(record);
                let rests = unit.serving().any(|slot| rested(slot, unit.generation).is_some());
                if rests {
                    self.save_unit(now, &name);
                }
                self.dirty.insert(name);
            }
        }
        if at_once {
            self.kill_everything(now);
        }
    }

    fn kill_everything(&mut self, now: Now) {
        let all: Vec<_> = self
            .units
            .iter()
            .flat_map(|(name, unit)| unit.slots.keys().map(|seat| (name.clone(), *seat)))
            .collect();
        for (name, seat) in all {
            self.apply(now, &name, seat, Fact::KillNow);
        }
    }

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
            crate::unit::Circuit::Open { until } => Some((until - now.mono).as_millis() as u64),
            crate::unit::Circuit::HalfOpen { .. } => Some(0),
            crate::unit::Circuit::Closed => None,
        };
        let standing = unit.generation != unit.written.generation;
        let done = unit.slots.values().find_map(|slot| match slot.state {
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
                None => unit.serving().filter_map(|slot| rested(slot, unit.generation)).collect(),
            },
            attempt: unit.slots.values().map(|slot| slot.restart.attempt).max().unwrap_or(0),
            done,
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
            before: unit.before.as_ref().map(Version::known).zip(unit.rollout.probation()),
            // What an earlier daemon left stands until everything that runs is known.
            progress: match unit.known_good {
                Some(_) => unit.progress.clone(),
                None => unit.rollout.progress().filter(|_| unit.good.is_some()),
            },
            rollout: Some(unit.span.as_ref().map_or_else(|| unit.rollout.span(), |(span, _)| *span)),
            rolled_by: unit.span.as_ref().map_or(&unit.rolled_by, |(_, cause)| cause).as_deref().cloned(),
            open_until: match unit.breaker.circuit() {
                crate::unit::Circuit::Open { until } => Some(until),
                _ => None,
            },
            failures: unit.breaker.failing().collect(),
            changed: unit
                .changed
                .filter(|(_, generation)| *generation == unit.generation)
                .and_then(|(record, _)| self.chronicle.get(record))
                .map(|record| (record.message.clone(), record.at)),
            opened: match unit.breaker.circuit() {
                crate::unit::Circuit::Closed => Vec::new(),
                _ => self.what_opened(unit),
            },
        };
        Some(Box::new(checkpoint))
    }
}

fn row(unit: &ObjectRef, verb: Verb, reason: &str) -> ChangeAction {
    ChangeAction { verb, unit: unit.clone(), reason: reason.to_owned() }
}

/// Where a serving seat rests that failed for `generation`. What it executes may be another file by the time that there is
/// another daemon: that is tried again.
fn rested(slot: &Slot, generation: Generation) -> Option<(Ordinal, Rested)> {
    let until = match &slot.state {
        Lifecycle::Failed(reason) if !reason.is_of_program() => None,
        Lifecycle::Backoff { until } => Some(*until),
        _ => return None,
    };
    let last_end = slot.last_end.as_deref().filter(|_| slot.rested_at == generation)?.clone();
    Some((slot.seat.ordinal, Rested { last_end, until }))
}

/// A failed or backing-off seat starts afresh.
fn revive(unit: &mut Unit) {
    for slot in unit.slots.values_mut() {
        slot.restart.attempt = 0;
        slot.restart.again = false;
        if matches!(slot.state, Lifecycle::Failed(_) | Lifecycle::Backoff { .. } | Lifecycle::Held) {
            slot.state = Rest::Idle.into();
        }
    }
}

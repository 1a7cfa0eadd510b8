//! What a person asks for: overrides of the manifest, restarts, the end of everything.

use crate::base::{Name, Now, ObjectRef};
use crate::plan::Verb;
use crate::unit::lifecycle::Rest;
use crate::unit::{Fact, Lifecycle};

use super::chronicle::{ChangeAction, Entry};
use super::effect::Effect;
use super::event::{Cause, Checkpoint, Order, Signature};
use super::{Unit, World};

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
                for slot in unit.slots.values_mut() {
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
            Order::Run(name) => self.each(now, &[name], by, Verb::Run, "unisys run", |unit| {
                for slot in unit.slots.values_mut() {
                    slot.restart_asked = Some("unisys run".into());
                }
            }),
        }
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
        let mut rows = Vec::new();
        for name in names {
            let Some(unit) = self.units.get_mut(name) else { continue };
            change(unit);
            rows.push((name.clone(), row(&unit.spec.object, verb, what)));
        }
        if rows.is_empty() {
            return;
        }
        let list = rows.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(" ");
        let cause = Cause { kind: "Order".into(), detail: format!("{what} {list} by {by}") };
        let touched: Vec<Name> = rows.iter().map(|(name, _)| name.clone()).collect();
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
            self.begun = true;
            let names: Vec<Name> = self.units.keys().cloned().collect();
            let rows = names
                .iter()
                .filter(|name| self.units.get(*name).is_some_and(|unit| !unit.is_gone()))
                .map(|name| (name.clone(), row(&self.object(name), Verb::Stop, by)))
                .collect();
            let cause = Cause { kind: "ShutDown".into(), detail: by.to_owned() };
            self.open_change(now, cause, rows);
            for name in names {
                if let Some(unit) = self.units.get_mut(&name) {
                    unit.cause = Some(record);
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
            .flat_map(|(name, unit)| unit.slots.keys().map(|ordinal| (name.clone(), *ordinal)))
            .collect();
        for (name, ordinal) in all {
            self.apply(now, &name, ordinal, Fact::KillNow);
        }
    }

    /// The store learns what the next daemon will need of a unit.
    pub(super) fn save_unit(&mut self, now: Now, name: &Name) {
        let Some(unit) = self.units.get(name) else { return };
        let open_left = match unit.breaker.circuit() {
            crate::unit::Circuit::Open { until } => Some((until - now.mono).as_millis() as u64),
            crate::unit::Circuit::HalfOpen { .. } => Some(0),
            crate::unit::Circuit::Closed => None,
        };
        let done = unit.slots.values().find_map(|slot| match slot.state {
            Lifecycle::Done(exit) if slot.rested_at == unit.generation => Some(exit),
            _ => None,
        });
        let checkpoint = Checkpoint {
            generation: unit.generation,
            digest: unit.spec.launch.digest(),
            restarts: unit.slots.values().map(|slot| slot.restart.restarts).collect(),
            attempt: unit.slots.values().map(|slot| slot.restart.attempt).max().unwrap_or(0),
            done,
            open_left_ms: open_left,
            open_for_ms: unit.breaker.open_for().as_millis() as u64,
            overrides: unit.overrides.clone(),
        };
        self.effects.push_back(Effect::SaveUnit { name: name.clone(), checkpoint: Box::new(checkpoint) });
    }
}

fn row(unit: &ObjectRef, verb: Verb, reason: &str) -> ChangeAction {
    ChangeAction { verb, unit: unit.clone(), reason: reason.to_owned() }
}

/// A failed or backing-off ordinal starts afresh.
fn revive(unit: &mut Unit) {
    for slot in unit.slots.values_mut() {
        slot.restart.attempt = 0;
        if matches!(slot.state, Lifecycle::Failed(_) | Lifecycle::Backoff { .. } | Lifecycle::Held) {
            slot.state = Rest::Idle.into();
        }
    }
}

//! Changes: which actions are recorded together, and how that ended.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::base::{Name, Now, ObjectRef};
use crate::plan::{Action, Desired, Edit, UnitPlan, Verb, Wish};
use crate::unit::Lifecycle;

use super::chronicle::{ChangeAction, ROLLBACK};
use super::effect::Effect;
use super::event::Cause;
use super::settle::is_visible;
use super::{Change, OpenChange, Outcome, World};

impl World {
    /// Actions of a unit that belong to no open change begin one of their own.
    pub(super) fn note_change(&mut self, now: Now, name: &Name, plan: &UnitPlan) {
        let Some(action) = plan.actions.iter().find(|action| action.step.is_some() && is_visible(action))
        else {
            return;
        };
        let Some(unit) = self.units.get(name) else { return };
        // When everything goes down, nothing is deleted: it is stopped.
        let verb = if self.down.is_some() { Verb::Stop } else { action.verb };
        let row = ChangeAction { verb, unit: unit.spec.object.clone(), reason: action.reason.clone() };
        if let Some(open) = unit.change.and_then(|id| self.changes.get_mut(&id)) {
            if open.rows.insert((name.clone(), row.verb)) {
                self.unsaved.insert(open.change.id);
                open.change.actions.push(row);
            }
            return;
        }
        let cause = Cause::new(cause_kind(action), action.reason.clone());
        self.open_change(now, cause, vec![(name.clone(), row)]);
    }

    /// Records what a revision brings: what is to be done with units, and what else was edited, which is done with that.
    pub(super) fn record_revision(
        &mut self,
        now: Now,
        cause: &Cause,
        mut rows: Vec<(Name, ChangeAction)>,
        desired: &Desired,
    ) {
        let mut edited: BTreeMap<&ObjectRef, &Edit> =
            desired.edited.iter().map(|edit| (&edit.object, edit)).collect();
        for (_, row) in &mut rows {
            if let Some(edit) = edited.remove(&row.unit) {
                row.reason.push_str(&format!("; {}", edit.reason));
            }
        }
        let edited: Vec<ChangeAction> = edited
            .into_values()
            .map(|edit| ChangeAction {
                verb: edit.verb,
                unit: edit.object.clone(),
                reason: edit.reason.clone(),
            })
            .collect();
        if rows.is_empty() && edited.is_empty() {
            return;
        }
        let alone = rows.is_empty();
        let id = self.open_change(now, cause.clone(), rows);
        if let Some(open) = self.changes.get_mut(&id) {
            open.change.actions.extend(edited);
        }
        if alone {
            self.end_change(id, Outcome::Complete);
        }
    }

    /// Begins a change; the units whose actions it holds leave the changes that they were in.
    pub(super) fn open_change(&mut self, now: Now, cause: Cause, rows: Vec<(Name, ChangeAction)>) -> u64 {
        let id = self.next_change;
        self.next_change += 1;
        let overtaken = if cause.kind == ROLLBACK { Outcome::RolledBack } else { Outcome::Superseded };
        let mut open = OpenChange {
            change: Change {
                id,
                at: now.wall,
                cause,
                revision: self.desired.revision,
                actions: Vec::new(),
                outcome: Outcome::Active,
            },
            units: Default::default(),
            rows: Default::default(),
            rolled_back: false,
        };
        for (name, row) in rows {
            if overtaken == Outcome::RolledBack {
                self.go_back_on(&name);
            }
            if let Some(old) = self.units.get_mut(&name).and_then(|unit| unit.change.replace(id)) {
                self.leave_change(old, &name, overtaken);
            }
            open.units.insert(name);
            if open.rows.insert((row.unit.name.clone(), row.verb)) {
                open.change.actions.push(row);
            }
        }
        self.unsaved.insert(id);
        self.changes.insert(id, open);
        id
    }

    pub(super) fn leave_change(&mut self, id: u64, name: &Name, outcome: Outcome) {
        let Some(open) = self.changes.get_mut(&id) else { return };
        open.units.remove(name);
        open.rolled_back |= outcome == Outcome::RolledBack;
        if open.units.is_empty() {
            self.end_change(id, outcome);
        }
    }

    /// It has no units any more that anything is still to be done with.
    fn end_change(&mut self, id: u64, outcome: Outcome) {
        if let Some(mut open) = self.changes.remove(&id) {
            open.change.outcome = if open.rolled_back { Outcome::RolledBack } else { outcome };
            self.unsaved.remove(&id);
            let change = Arc::new(open.change);
            if outcome == Outcome::Complete && change.cause.brings_versions() {
                let brought = open.rows.into_iter().map(|(name, _)| (name, change.clone()));
                self.brought.extend(brought.filter(|(name, _)| self.units.contains_key(name)));
            }
            self.effects.push_back(Effect::SaveChange(change));
        }
    }

    /// The change that brought the version of a unit was complete, and is not: the unit goes back on it.
    fn go_back_on(&mut self, name: &Name) {
        let Some(change) = self.brought.remove(name) else { return };
        let of_it = self.units.get(name).is_some_and(|unit| unit.rollout.revision == change.revision);
        if of_it && change.outcome == Outcome::Complete {
            let change = Change { outcome: Outcome::RolledBack, ..(*change).clone() };
            self.effects.push_back(Effect::SaveChange(change.into()));
        }
    }

    /// A unit that has come to rest where it is wanted leaves its change.
    pub(super) fn close_change(&mut self, name: &Name) {
        let Some(unit) = self.units.get(name) else { return };
        let Some(id) = unit.change else { return };
        // What is not wanted rolls no further until it is.
        let wanted = matches!(self.wish(name, unit), Wish::Up { replicas: 1.. });
        let rolling = wanted && unit.rollout.is_active() && unit.good.is_some();
        let at_rest = unit.waiting.is_none()
            && !rolling
            && unit.slots.values().all(|slot| {
                matches!(
                    slot.state,
                    Lifecycle::Up(_) | Lifecycle::Done(_) | Lifecycle::Idle | Lifecycle::Failed(_)
                )
            });
        if at_rest {
            if let Some(unit) = self.units.get_mut(name) {
                unit.change = None;
                unit.scaled_from = None;
            }
            self.leave_change(id, name, Outcome::Complete);
        }
    }
}

fn cause_kind(action: &Action) -> &'static str {
    match action.verb {
        Verb::Restart | Verb::Run => "Exit",
        Verb::Start => "DependencyReady",
        _ => "Plan",
    }
}

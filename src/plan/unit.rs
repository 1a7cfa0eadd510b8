//! What is to be done with one unit: the heart of the plan.

use crate::base::{Ordinal, Role, Seat};
use crate::unit::{Circuit, Lifecycle, StopReason, Strategy};

use super::gate::{ground_gate, port_gate, replace_gate, start_gate, stop_gate};
use super::observed::{ObservedSlot, ObservedUnit, Surroundings, Wish};
use super::replace::{plan_replacements, surges};
use super::{Action, Drift, Pick, Step, UnitPlan, Verb, Waiting};

/// Plans one unit. Everything it looks at is in its arguments.
pub fn plan_unit(unit: &ObservedUnit<'_>, around: &dyn Surroundings) -> UnitPlan {
    match &unit.wish {
        Wish::Up { replicas } => plan_up(unit, *replicas, around),
        Wish::Down { why } => plan_down(unit, Verb::Stop, why, around),
        Wish::Gone { why } => plan_down(unit, Verb::Delete, why, around),
    }
}

impl<'a> ObservedUnit<'a> {
    pub(super) fn at(&self, seat: Seat) -> Option<&ObservedSlot<'a>> {
        self.slots.iter().find(|slot| slot.seat == seat)
    }
}

impl ObservedSlot<'_> {
    /// Something of it may be alive.
    pub(super) fn occupied(&self) -> bool {
        self.state.is_occupied()
    }

    /// It is not what is wanted, or a restart of it is asked for.
    pub(super) fn is_old(&self) -> bool {
        self.restart.is_some() || matches!(self.drift, Drift::Replace(_))
    }
}

fn plan_up(unit: &ObservedUnit<'_>, replicas: u32, around: &dyn Surroundings) -> UnitPlan {
    let mut actions = Vec::new();
    let mut starts = 0;
    for index in 0..replicas {
        let ordinal = Ordinal(index);
        let incoming = unit.at(Seat::incoming(ordinal)).is_some_and(|slot| slot.occupied() && !slot.is_old());
        let action = match unit.at(Seat::serving(ordinal)) {
            // One that is on its way in is in its place soon.
            None if incoming => None,
            None => Some(start(unit, Seat::serving(ordinal), None, &mut starts, around)),
            Some(slot) => serving_slot(unit, slot, &mut starts, around),
        };
        actions.extend(action);
    }
    for slot in unit.slots.iter().filter(|slot| slot.seat.role != Role::Serving) {
        actions.extend(passing_slot(unit, slot, replicas, &mut starts, around));
    }
    for slot in
        unit.slots.iter().filter(|slot| slot.seat.ordinal.0 >= replicas && slot.seat.role == Role::Serving)
    {
        actions.extend(surplus_slot(slot, replicas));
    }
    actions.extend(plan_replacements(unit, replicas, around));
    UnitPlan { actions, forget: false }
}

/// An ordinal beyond the wanted number goes, without waiting for anybody.
fn surplus_slot(slot: &ObservedSlot<'_>, replicas: u32) -> Option<Action> {
    let seat = slot.seat;
    let reason = format!("replicas is {replicas}");
    let step = match slot.state {
        Lifecycle::Stopping(_) => return None,
        Lifecycle::Starting(_) | Lifecycle::Up(_) => Step::Stop { seat, reason: StopReason::Unwanted },
        _ => Step::Drop { seat },
    };
    Some(Action { verb: Verb::Scale, reason, step: Some(step), waiting: None })
}

/// A serving seat: what rests is started when it may be; what runs takes what needs no new process.
fn serving_slot(
    unit: &ObservedUnit<'_>,
    slot: &ObservedSlot<'_>,
    starts: &mut u32,
    around: &dyn Surroundings,
) -> Option<Action> {
    // Its successor is there already.
    let succeeded = unit
        .at(Seat::incoming(slot.seat.ordinal))
        .is_some_and(|incoming| !incoming.is_old() && incoming.ready && !slot.occupied());
    match slot.state {
        _ if succeeded => None,
        Lifecycle::Idle | Lifecycle::Held => Some(start(unit, slot.seat, Some(slot), starts, around)),
        Lifecycle::Backoff { .. } if slot.is_old() && !slot.former && !unit.rollout.stays => {
            Some(start(unit, slot.seat, Some(slot), starts, around))
        }
        // A former one that came to its end rests as long as the rollout does.
        Lifecycle::Failed(_) | Lifecycle::Done(_)
            if slot.restart.is_some()
                || !(slot.rested_for_current
                    || unit.rollout.stays
                    || (slot.former && unit.rollout.holding)) =>
        {
            Some(start(unit, slot.seat, Some(slot), starts, around))
        }
        Lifecycle::Backoff { .. } | Lifecycle::Failed(_) | Lifecycle::Done(_) | Lifecycle::Stopping(_) => {
            None
        }
        Lifecycle::Starting(_) | Lifecycle::Up(_) => in_place(slot),
    }
}

fn in_place(slot: &ObservedSlot<'_>) -> Option<Action> {
    let seat = slot.seat;
    if slot.restart.is_some() {
        return None;
    }
    match slot.drift {
        Drift::InPlace(fields) => {
            let step = Some(Step::UpdateInPlace { seat });
            Some(Action { verb: Verb::Update, reason: Drift::words(fields), step, waiting: None })
        }
        Drift::Reload(fields) => {
            let up = matches!(slot.state, Lifecycle::Up(_)) && !slot.reloading;
            let step = up.then_some(Step::Reload { seat });
            let waiting = (!up).then_some(Waiting::Sibling { seat, until: "Up" });
            Some(Action { verb: Verb::Reload, reason: Drift::words(fields), step, waiting })
        }
        Drift::None | Drift::Replace(_) => None,
    }
}

/// An incoming or draining seat.
fn passing_slot(
    unit: &ObservedUnit<'_>,
    slot: &ObservedSlot<'_>,
    replicas: u32,
    starts: &mut u32,
    around: &dyn Surroundings,
) -> Option<Action> {
    let seat = slot.seat;
    let serving = unit.at(Seat::serving(seat.ordinal));
    let wanted = seat.role == Role::Incoming
        && seat.ordinal.0 < replicas
        && serving.is_none_or(|serving| serving.is_old() || !serving.occupied());
    let verb = if unit.rollout.back { Verb::Rollback } else { Verb::Replace };
    if !slot.occupied() {
        // What is wanted now may not run beside what serves, though what was wanted before might.
        let goes = !wanted || serving.is_none_or(|serving| !serving.is_old()) || !surges(unit);
        if goes {
            let reason = "nothing is left of it".into();
            return Some(Action { verb, reason, step: Some(Step::Drop { seat }), waiting: None });
        }
        return match slot.state {
            Lifecycle::Idle | Lifecycle::Held if !unit.rollout.paused => {
                Some(start(unit, seat, Some(slot), starts, around))
            }
            _ if slot.is_old() && !unit.rollout.paused => Some(start(unit, seat, Some(slot), starts, around)),
            _ => None,
        };
    }
    if matches!(slot.state, Lifecycle::Stopping(_)) || seat.role == Role::Draining {
        return None;
    }
    // What has not been executed yet is not, either.
    let beside = serving.is_some_and(|serving| serving.is_old() && serving.occupied());
    let may_be = !beside || slot.state.process().is_some() || surges(unit);
    if wanted && !slot.is_old() && may_be {
        return in_place(slot);
    }
    let reason = match slot.is_old() {
        true => "a newer version takes its place",
        false if wanted => "it may not run beside what serves",
        false => "it is not needed any more",
    };
    let reason = if unit.rollout.back { "its version was given up" } else { reason };
    let step = Some(Step::Stop { seat, reason: StopReason::Unwanted });
    Some(Action { verb, reason: reason.into(), step, waiting: None })
}

pub(super) fn start(
    unit: &ObservedUnit<'_>,
    seat: Seat,
    slot: Option<&ObservedSlot<'_>>,
    starts: &mut u32,
    around: &dyn Surroundings,
) -> Action {
    let held = slot.is_some_and(|slot| matches!(slot.state, Lifecycle::Held));
    let version = pick(unit, seat, slot);
    let (verb, reason) = start_words(unit, seat, slot, version);
    // After a `down`, or a boot, what a pause keeps in place begins anew too.
    let ended = slot.is_some_and(|slot| slot.last_end.is_some());
    let again = match version {
        Pick::Former => ended || !unit.rollout.stays,
        Pick::Wanted => ended && unit.proven,
    };
    if let Some(message) = unit.machine.filter(|_| version == Pick::Wanted) {
        let waiting = Some(Waiting::Machine { message: message.to_owned() });
        return Action { verb, reason, step: None, waiting };
    }
    // A new unit, or a newer version of one that rests, waits for what is replaced with it; one that is started again as it was
    // does not.
    let newer = slot.map_or(unit.slots.is_empty(), |slot| {
        matches!(slot.drift, Drift::Replace(_)) && version == Pick::Wanted
    });
    let gate = || if newer { replace_gate(around, again, &[]) } else { start_gate(around, again) };
    let waiting = circuit_gate(unit, seat, *starts)
        .or_else(gate)
        .or_else(|| (!again && seat.role == Role::Serving).then(|| ground_gate(around)).flatten())
        .or_else(|| port_gate(around))
        .or_else(|| (!around.start_allowed()).then_some(Waiting::StartSlots));
    let step = match &waiting {
        None => {
            *starts += 1;
            Some(Step::Start { seat, version })
        }
        Some(Waiting::Circuit | Waiting::DependencyCircuit { .. }) => (!held).then_some(Step::Hold { seat }),
        // A hold that no circuit justifies any more becomes an ordinary wait.
        Some(_) => held.then_some(Step::Rest { seat }),
    };
    Action { verb, reason, step, waiting }
}

/// What a seat is started as while a rollout has not come to it.
fn pick(unit: &ObservedUnit<'_>, seat: Seat, slot: Option<&ObservedSlot<'_>>) -> Pick {
    let added = slot.is_none() && seat.role == Role::Serving && is_before_promotion(unit);
    let stays =
        unit.rollout.stays && seat.role == Role::Serving && slot.is_none_or(|slot| !slot.rested_for_current);
    // What came to its end is not begun again as it was.
    let former = slot
        .is_some_and(|slot| slot.former && !matches!(slot.state, Lifecycle::Failed(_) | Lifecycle::Done(_)));
    if added || stays || former { Pick::Former } else { Pick::Wanted }
}

fn start_words(
    unit: &ObservedUnit<'_>,
    seat: Seat,
    slot: Option<&ObservedSlot<'_>>,
    version: Pick,
) -> (Verb, String) {
    let again = if unit.rollout.back { Verb::Rollback } else { Verb::Replace };
    if let Some(slot) = slot {
        if let Drift::Replace(fields) = slot.drift
            && version == Pick::Wanted
            && !slot.former
        {
            return (again, Drift::words(fields));
        }
        if let Some(why) = slot.restart {
            return (Verb::Restart, why.to_owned());
        }
        if let Some(end) = slot.last_end {
            let verb = match seat.role {
                Role::Serving if unit.job => Verb::Run,
                Role::Serving => Verb::Restart,
                Role::Incoming | Role::Draining => again,
            };
            return (verb, end.to_owned());
        }
    }
    match unit.scaled_from {
        _ if unit.job => (Verb::Run, "it has not run for this generation".into()),
        Some(from) if !unit.slots.is_empty() => (Verb::Scale, format!("replicas was {from}")),
        _ => (Verb::Start, "it is not running".into()),
    }
}

/// Its canaries are the only ones of the new version: an ordinal that is added begins with the old one.
fn is_before_promotion(unit: &ObservedUnit<'_>) -> bool {
    let serves_old =
        |slot: &ObservedSlot<'_>| slot.seat.role == Role::Serving && slot.is_old() && slot.occupied();
    matches!(unit.update.strategy, Strategy::Canary(_))
        && !(unit.rollout.promoted || unit.rollout.back)
        && unit.slots.iter().any(serves_old)
}

/// An open circuit starts nothing; a half-open one, one trial.
fn circuit_gate(unit: &ObservedUnit<'_>, seat: Seat, starts: u32) -> Option<Waiting> {
    match unit.circuit {
        Circuit::Closed => None,
        Circuit::Open { .. } => Some(Waiting::Circuit),
        Circuit::HalfOpen { .. } => {
            let trial = unit.slots.iter().any(|slot| {
                slot.seat != seat && matches!(slot.state, Lifecycle::Starting(_) | Lifecycle::Up(_))
            });
            (trial || starts > 0).then_some(Waiting::Circuit)
        }
    }
}

/// Nothing of the unit is wanted: what runs is stopped once every dependent is gone.
fn plan_down(unit: &ObservedUnit<'_>, verb: Verb, why: &str, around: &dyn Surroundings) -> UnitPlan {
    let mut actions = Vec::new();
    for slot in &unit.slots {
        let seat = slot.seat;
        let passing = seat.role != Role::Serving;
        let (step, waiting) = match slot.state {
            Lifecycle::Stopping(_) => continue,
            // Nobody uses a program that has not been executed, and none is executed that is not wanted.
            Lifecycle::Starting(_) if slot.state.process().is_none() => {
                (Some(Step::Stop { seat, reason: StopReason::Unwanted }), None)
            }
            Lifecycle::Starting(_) | Lifecycle::Up(_) => match stop_gate(around) {
                Some(waiting) => (None, Some(waiting)),
                None => (Some(Step::Stop { seat, reason: StopReason::Unwanted }), None),
            },
            _ if passing || verb != Verb::Stop => (Some(Step::Drop { seat }), None),
            Lifecycle::Idle | Lifecycle::Failed(_) | Lifecycle::Done(_) => continue,
            _ => (Some(Step::Rest { seat }), None),
        };
        actions.push(Action { verb, reason: why.to_owned(), step, waiting });
    }
    UnitPlan { forget: verb == Verb::Delete && unit.slots.is_empty(), actions }
}

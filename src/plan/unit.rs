//! What is to be done with one unit: the heart of the plan.

use crate::base::Ordinal;
use crate::unit::{Circuit, Lifecycle, StopReason};

use super::gate::{replace_gate, start_gate, stop_gate};
use super::observed::{ObservedSlot, ObservedUnit, Surroundings, Wish};
use super::{Action, Drift, Step, UnitPlan, Verb, Waiting};

/// Plans one unit. Everything it looks at is in its arguments.
pub fn plan_unit(unit: &ObservedUnit<'_>, around: &dyn Surroundings) -> UnitPlan {
    match &unit.wish {
        Wish::Up { replicas } => plan_up(unit, *replicas, around),
        Wish::Down { why } => plan_down(unit, Verb::Stop, why, around),
        Wish::Gone { why } => plan_down(unit, Verb::Delete, why, around),
    }
}

fn plan_up(unit: &ObservedUnit<'_>, replicas: u32, around: &dyn Surroundings) -> UnitPlan {
    let mut actions = Vec::new();
    let mut starts = 0;
    for index in 0..replicas {
        let ordinal = Ordinal(index);
        let slot = unit.slots.iter().find(|slot| slot.ordinal == ordinal);
        let action = match slot {
            None => Some(start(unit, ordinal, None, &mut starts, around)),
            Some(slot) => wanted_slot(unit, slot, replicas, &mut starts, around),
        };
        actions.extend(action);
    }
    for slot in unit.slots.iter().filter(|slot| slot.ordinal.0 >= replicas) {
        actions.extend(surplus_slot(slot, replicas));
    }
    UnitPlan { actions, forget: false }
}

/// An ordinal beyond the wanted number goes, without waiting for anybody.
fn surplus_slot(slot: &ObservedSlot<'_>, replicas: u32) -> Option<Action> {
    let ordinal = slot.ordinal;
    let reason = format!("replicas is {replicas}");
    let step = match slot.state {
        Lifecycle::Stopping(_) => return None,
        Lifecycle::Starting(_) | Lifecycle::Up(_) => Step::Stop { ordinal, reason: StopReason::Unwanted },
        _ => Step::Drop { ordinal },
    };
    Some(Action { verb: Verb::Scale, reason, step: Some(step), waiting: None })
}

fn wanted_slot(
    unit: &ObservedUnit<'_>,
    slot: &ObservedSlot<'_>,
    replicas: u32,
    starts: &mut u32,
    around: &dyn Surroundings,
) -> Option<Action> {
    match slot.state {
        Lifecycle::Idle | Lifecycle::Held => Some(start(unit, slot.ordinal, Some(slot), starts, around)),
        Lifecycle::Backoff { .. } if slot.restart.is_some() || matches!(slot.drift, Drift::Replace(_)) => {
            Some(start(unit, slot.ordinal, Some(slot), starts, around))
        }
        Lifecycle::Failed(_) | Lifecycle::Done(_) if slot.restart.is_some() || !slot.rested_for_current => {
            Some(start(unit, slot.ordinal, Some(slot), starts, around))
        }
        Lifecycle::Backoff { .. } | Lifecycle::Failed(_) | Lifecycle::Done(_) | Lifecycle::Stopping(_) => {
            None
        }
        Lifecycle::Starting(_) | Lifecycle::Up(_) => running_slot(unit, slot, replicas, around),
    }
}

/// A running instance: as it is, updated in place, or replaced (stop first, one ordinal at a time).
fn running_slot(
    unit: &ObservedUnit<'_>,
    slot: &ObservedSlot<'_>,
    replicas: u32,
    around: &dyn Surroundings,
) -> Option<Action> {
    let ordinal = slot.ordinal;
    let (verb, reason) = match (slot.drift, slot.restart) {
        (Drift::Replace(fields), _) => {
            (Verb::Replace, format!("{}; restart (stop first)", Drift::words(fields)))
        }
        (_, Some(why)) => (Verb::Restart, why.to_owned()),
        (Drift::InPlace(fields), None) => {
            let step = Some(Step::UpdateInPlace { ordinal });
            return Some(Action { verb: Verb::Update, reason: Drift::words(fields), step, waiting: None });
        }
        (Drift::None, None) => return None,
    };
    // An instance that is not well has nothing to lose; a well one goes only when its siblings are well.
    let waiting = if !slot.ready && verb == Verb::Replace {
        None
    } else {
        sibling_gate(unit, slot, replicas).or_else(|| replace_gate(around))
    };
    let step = waiting.is_none().then_some(Step::Stop { ordinal, reason: StopReason::Replaced });
    Some(Action { verb, reason, step, waiting })
}

fn sibling_gate(unit: &ObservedUnit<'_>, slot: &ObservedSlot<'_>, replicas: u32) -> Option<Waiting> {
    let others =
        || unit.slots.iter().filter(|other| other.ordinal != slot.ordinal && other.ordinal.0 < replicas);
    if let Some(busy) =
        others().find(|other| matches!(other.state, Lifecycle::Stopping(_) | Lifecycle::Starting(_)))
    {
        return Some(Waiting::Sibling { ordinal: busy.ordinal });
    }
    // Those to be replaced that are not well go first; among the well ones, in order.
    let pending = |other: &&ObservedSlot<'_>| {
        other.restart.is_some()
            || matches!(other.drift, Drift::Replace(_))
            || matches!(other.state, Lifecycle::Idle)
    };
    others()
        .filter(pending)
        .find(|other| (other.ready, other.ordinal) < (slot.ready, slot.ordinal))
        .map(|other| Waiting::Sibling { ordinal: other.ordinal })
}

fn start(
    unit: &ObservedUnit<'_>,
    ordinal: Ordinal,
    slot: Option<&ObservedSlot<'_>>,
    starts: &mut u32,
    around: &dyn Surroundings,
) -> Action {
    let (verb, reason) = start_words(unit, slot);
    let held = slot.is_some_and(|slot| matches!(slot.state, Lifecycle::Held));
    if let Some(message) = unit.machine {
        let waiting = Some(Waiting::Machine { message: message.to_owned() });
        return Action { verb, reason, step: None, waiting };
    }
    let waiting = circuit_gate(unit, slot, *starts)
        .or_else(|| start_gate(around))
        .or_else(|| (!around.start_allowed()).then_some(Waiting::StartSlots));
    let step = match &waiting {
        None => {
            *starts += 1;
            Some(Step::Start { ordinal })
        }
        Some(Waiting::Circuit | Waiting::DependencyCircuit { .. }) => {
            (!held).then_some(Step::Hold { ordinal })
        }
        // A hold that no circuit justifies any more becomes an ordinary wait.
        Some(_) => held.then_some(Step::Rest { ordinal }),
    };
    Action { verb, reason, step, waiting }
}

fn start_words(unit: &ObservedUnit<'_>, slot: Option<&ObservedSlot<'_>>) -> (Verb, String) {
    if let Some(slot) = slot {
        if let Drift::Replace(fields) = slot.drift {
            return (Verb::Replace, Drift::words(fields));
        }
        if let Some(why) = slot.restart {
            return (Verb::Restart, why.to_owned());
        }
        if let Some(end) = slot.last_end {
            return (if unit.job { Verb::Run } else { Verb::Restart }, end.to_owned());
        }
    }
    match unit.scaled_from {
        _ if unit.job => (Verb::Run, "it has not run for this generation".into()),
        Some(from) if !unit.slots.is_empty() => (Verb::Scale, format!("replicas was {from}")),
        _ => (Verb::Start, "it is not running".into()),
    }
}

/// An open circuit starts nothing; a half-open one, one trial.
fn circuit_gate(unit: &ObservedUnit<'_>, slot: Option<&ObservedSlot<'_>>, starts: u32) -> Option<Waiting> {
    match unit.circuit {
        Circuit::Closed => None,
        Circuit::Open { .. } => Some(Waiting::Circuit),
        Circuit::HalfOpen { .. } => {
            let mine = slot.map(|slot| slot.ordinal);
            let trial = unit.slots.iter().any(|slot| {
                Some(slot.ordinal) != mine && matches!(slot.state, Lifecycle::Starting(_) | Lifecycle::Up(_))
            });
            (trial || starts > 0).then_some(Waiting::Circuit)
        }
    }
}

/// Nothing of the unit is wanted: what runs is stopped once every dependent is gone.
fn plan_down(unit: &ObservedUnit<'_>, verb: Verb, why: &str, around: &dyn Surroundings) -> UnitPlan {
    let mut actions = Vec::new();
    for slot in &unit.slots {
        let ordinal = slot.ordinal;
        let (step, waiting) = match slot.state {
            Lifecycle::Stopping(_) => continue,
            Lifecycle::Starting(_) | Lifecycle::Up(_) => match stop_gate(around) {
                Some(waiting) => (None, Some(waiting)),
                None => (Some(Step::Stop { ordinal, reason: StopReason::Unwanted }), None),
            },
            Lifecycle::Idle | Lifecycle::Failed(_) | Lifecycle::Done(_) if verb == Verb::Stop => continue,
            _ if verb == Verb::Stop => (Some(Step::Rest { ordinal }), None),
            _ => (Some(Step::Drop { ordinal }), None),
        };
        actions.push(Action { verb, reason: why.to_owned(), step, waiting });
    }
    UnitPlan { forget: verb == Verb::Delete && unit.slots.is_empty(), actions }
}

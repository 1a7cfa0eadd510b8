//! Instances of an old version, or those that are to be restarted: which of them may go now, and how.

use crate::base::{Name, Ordinal, Seat};
use crate::rollout::{Group, Move, Place, Standing, View, moves};
use crate::unit::{Lifecycle, StopReason, Strategy};

use super::gate::{port_gate, replace_gate, start_gate};
use super::launch::Clash;
use super::observed::{ObservedSlot, ObservedUnit, Surroundings};
use super::{Action, Drift, Pick, Step, Verb, Waiting};

/// One action for every serving instance that is to be replaced: the step that it may take, or what it waits for.
pub fn plan_replacements(unit: &ObservedUnit<'_>, replicas: u32, around: &dyn Surroundings) -> Vec<Action> {
    let groups: Vec<Group> = (0..replicas).map(|index| group(unit, Ordinal(index))).collect();
    let clash = clash(unit);
    let view = View {
        update: unit.update,
        overlap: clash.is_none() && !unit.job,
        replicas,
        paused: unit.rollout.paused,
        promoted: unit.rollout.promoted,
        groups,
    };
    let moves = moves(&view);
    let mut actions = Vec::new();
    for group in &view.groups {
        let Some(slot) = unit.at(Seat::serving(group.ordinal)) else {
            actions.extend(take_over(unit, group, None, &moves));
            continue;
        };
        if !slot.occupied() {
            actions.extend(take_over(unit, group, Some(slot), &moves));
            continue;
        }
        if !slot.is_old() || matches!(slot.state, Lifecycle::Stopping(_)) {
            continue;
        }
        actions.push(replacement(unit, slot, group, &moves, clash.as_ref(), around));
    }
    actions
}

fn group(unit: &ObservedUnit<'_>, ordinal: Ordinal) -> Group {
    let place = |seat: Seat| unit.at(seat).map(|slot| Place { old: slot.is_old(), standing: standing(slot) });
    Group {
        ordinal,
        serving: place(Seat::serving(ordinal)),
        // What rests in an incoming seat is started again by itself.
        incoming: place(Seat::incoming(ordinal)),
        draining: unit.at(Seat::draining(ordinal)).is_some_and(ObservedSlot::occupied),
    }
}

fn standing(slot: &ObservedSlot<'_>) -> Standing {
    match slot.state {
        Lifecycle::Stopping(_) => Standing::Stopping,
        Lifecycle::Starting(_) | Lifecycle::Up(_) if slot.available => Standing::Available,
        Lifecycle::Starting(_) | Lifecycle::Up(_) if slot.ready => Standing::Ready,
        Lifecycle::Starting(_) | Lifecycle::Up(_) => Standing::Unready,
        _ => Standing::Gone,
    }
}

/// Old and new instances of the unit may run beside each other.
pub fn surges(unit: &ObservedUnit<'_>) -> bool {
    let allowed = match unit.update.strategy {
        Strategy::Recreate => false,
        Strategy::Rolling => unit.update.max_surge > 0,
        Strategy::BlueGreen | Strategy::Canary(_) => true,
    };
    allowed && !unit.job && clash(unit).is_none()
}

/// Why old and new instances of the unit cannot run beside each other, if so.
fn clash(unit: &ObservedUnit<'_>) -> Option<Clash> {
    unit.slots.iter().filter(|slot| slot.is_old()).find_map(|slot| slot.clash.clone())
}

/// An ordinal whose serving instance is gone while its successor is Ready.
fn take_over(
    unit: &ObservedUnit<'_>,
    group: &Group,
    slot: Option<&ObservedSlot<'_>>,
    moves: &[Move],
) -> Option<Action> {
    let ordinal = group.ordinal;
    moves.contains(&Move::TakeOver(ordinal)).then(|| {
        let (verb, reason) =
            slot.map_or((Verb::Replace, "its successor is ready".to_owned()), |slot| words(unit, slot));
        Action { verb, reason, step: Some(Step::TakeOver { ordinal }), waiting: None }
    })
}

fn replacement(
    unit: &ObservedUnit<'_>,
    slot: &ObservedSlot<'_>,
    group: &Group,
    moves: &[Move],
    clash: Option<&Clash>,
    around: &dyn Surroundings,
) -> Action {
    let ordinal = group.ordinal;
    let (verb, mut reason) = words(unit, slot);
    let next = moves.iter().find(|step| step.ordinal() == ordinal);
    let port = matches!(next, Some(Move::BringUp(_))).then(|| port_gate(around)).flatten();
    let ring = port.as_ref().and_then(|_| around.goes_first_for_port());
    reason.push_str(&match &port {
        Some(Waiting::Port { on, .. }) if ring.is_some() => {
            format!("; restart (stop first): it changes ports with {on}")
        }
        _ => manner(unit, clash),
    });
    let action = |step, waiting| Action { verb, reason: reason.clone(), step, waiting };
    let Some(next) = next else {
        return action(None, Some(obstacle(unit, group)));
    };
    if let Move::TakeOver(_) = next {
        return action(Some(Step::TakeOver { ordinal }), None);
    }
    // An instance that is not well has nothing to lose, whoever else is being replaced, once what is new could be started.
    let gate = match slot.ready {
        true => gate(unit, around, ring.as_deref().unwrap_or_default()),
        false => start_gate(around, false),
    };
    if let Some(waiting) = gate {
        return action(None, Some(waiting));
    }
    match next {
        Move::BringUp(_) if ring.is_none() => {
            let machine = unit.machine.map(|message| Waiting::Machine { message: message.to_owned() });
            let waiting = machine
                .or_else(|| port.clone())
                .or_else(|| (!around.start_allowed()).then_some(Waiting::StartSlots));
            let start = Step::Start { seat: Seat::incoming(ordinal), version: Pick::Wanted };
            action(waiting.is_none().then_some(start), waiting)
        }
        _ => action(Some(Step::Stop { seat: slot.seat, reason: StopReason::Replaced }), None),
    }
}

/// What a healthy instance waits for before anything is done about it: what it needs is replaced first, but for those that wait
/// for its port.
fn gate(unit: &ObservedUnit<'_>, around: &dyn Surroundings, ring: &[Name]) -> Option<Waiting> {
    if let Some(message) = unit.machine {
        return Some(Waiting::Machine { message: message.to_owned() });
    }
    replace_gate(around, unit.proven, ring)
        .or_else(|| (!around.roll_allowed()).then_some(Waiting::RolloutSlots))
}

/// Why no move is allowed for an ordinal.
fn obstacle(unit: &ObservedUnit<'_>, group: &Group) -> Waiting {
    let ordinal = group.ordinal;
    if unit.rollout.paused {
        return Waiting::Word { what: "its rollout to be resumed" };
    }
    if unit.rollout.holding {
        return Waiting::Word { what: "its canaries to be promoted" };
    }
    if group.incoming.is_some() {
        return Waiting::Sibling { seat: Seat::incoming(ordinal), until: "available" };
    }
    if group.draining {
        return Waiting::Sibling { seat: Seat::draining(ordinal), until: "gone" };
    }
    let busy = unit.slots.iter().find(|slot| {
        slot.seat.ordinal != ordinal
            && slot.occupied()
            && (!slot.available || slot.seat.role != crate::base::Role::Serving)
    });
    match busy {
        Some(slot) if slot.seat.role == crate::base::Role::Draining => {
            Waiting::Sibling { seat: slot.seat, until: "gone" }
        }
        Some(slot) => Waiting::Sibling { seat: slot.seat, until: "available" },
        None => Waiting::Sibling { seat: Seat::serving(ordinal), until: "replaceable" },
    }
}

fn words(unit: &ObservedUnit<'_>, slot: &ObservedSlot<'_>) -> (Verb, String) {
    match (slot.drift, slot.restart) {
        (Drift::Replace(fields), _) => {
            (if unit.rollout.back { Verb::Rollback } else { Verb::Replace }, Drift::words(fields))
        }
        (_, Some(why)) => (Verb::Restart, why.to_owned()),
        _ => (Verb::Replace, "it is replaced".to_owned()),
    }
}

/// How it is replaced; what keeps it from being seamless is named with its cure.
fn manner(unit: &ObservedUnit<'_>, clash: Option<&Clash>) -> String {
    if unit.job {
        return "; restart (stop first)".into();
    }
    match (unit.update.strategy, clash) {
        (Strategy::Recreate, _) => "; restart (stop first): strategy is Recreate".into(),
        (_, Some(clash)) if clash.held => format!(
            "; restart (stop first): {clash} cannot be had at its former and its new address at once; another number would make it seamless"
        ),
        (_, Some(clash)) => format!(
            "; restart (stop first): the program binds {clash} itself; `listen: true` or `port: auto` would make it seamless"
        ),
        (Strategy::Rolling, None) if unit.update.max_surge == 0 => {
            "; rolling (stop first): maxSurge is 0".into()
        }
        (Strategy::Rolling, None) if unit.update.max_unavailable > 0 => format!(
            "; rolling (new instances beside old ones, some stop first): maxUnavailable is {}",
            unit.update.max_unavailable
        ),
        (Strategy::Rolling, None) => "; rolling (new instance first)".into(),
        (Strategy::BlueGreen, None) => "; blue-green (all new instances first)".into(),
        (Strategy::Canary(_), None) => "; canary (a new instance beside the old ones first)".into(),
    }
}

//! What has to hold at every turn, looked at from outside: by what the fake keeper knows, not by what the world says of itself.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use unisys::base::{InstanceId, Instant, Name, Now, Part};
use unisys::plan::UnitSpec;

use unisys::unit::{Circuit, Condition, EndReason, Lifecycle, ProbeKind, StopReason, Strategy};
use unisys::world::{Effect, Event, InstanceFact, Unit, World};

use super::machine::{Held, Keeper};

/// Invariant 6: at most one live instance an ordinal (replacements are stop-first). Invariant 7: hard dependencies hold.
pub fn before_spawn(
    keeper: &Keeper,
    world: &World,
    id: &InstanceId,
    part: Part,
    spec: &UnitSpec,
    now: Instant,
) -> Result<(), String> {
    if part == Part::Main {
        if spec.launch.lost {
            return Err(format!("{id} is started from what is not known to be all of it"));
        }
        seats(keeper, world, id, spec)?;
    }
    let first = match spec.policy.pre_start.is_empty() {
        true => part == Part::Main,
        false => part == Part::PreStart(0),
    };
    if !first {
        return Ok(());
    }
    circuit(keeper, world, id, now)?;
    for dependency in spec.policy.depends_on.iter().filter(|dependency| !dependency.optional) {
        let holds = match dependency.condition {
            Condition::Started => live(keeper, &dependency.name) > 0,
            Condition::Ready => ready(keeper, &dependency.name),
            // Only the world knows that a job has completed; what was well on the ground of an earlier version runs again.
            Condition::Completed => {
                let (unit, job) = (&world.units()[&id.unit], world.units().get(&dependency.name));
                let own = unit.slots.values().find(|slot| slot.id(&id.unit).as_ref() == Some(id));
                let former = own.and_then(|slot| slot.instance.as_ref());
                let former = former.is_some_and(|instance| instance.generation != unit.generation);
                let good = unit.good.as_ref().is_some_and(|good| good.spec.launch == spec.launch);
                let again = (good || former) && job.is_some_and(|job| job.completed_once);
                let conditions = world.conditions(&dependency.name);
                again || conditions.iter().any(|it| it.kind == "Completed" && it.status == "True")
            }
        };
        if !holds {
            return Err(format!(
                "{id} is started though {} is not {:?} (invariant 7)",
                dependency.name, dependency.condition
            ));
        }
    }
    Ok(())
}

/// An open circuit starts nothing, a half-open one a single trial.
fn circuit(keeper: &Keeper, world: &World, id: &InstanceId, now: Instant) -> Result<(), String> {
    let Some(unit) = world.units().get(&id.unit).filter(|unit| unit.spec.policy.breaker.is_some()) else {
        return Ok(());
    };
    let goes = |other: &InstanceId| {
        let slot = unit.slots.values().find(|slot| slot.id(&id.unit).as_ref() == Some(other));
        slot.is_none_or(|slot| matches!(slot.state, Lifecycle::Stopping(_)))
    };
    let beside = || {
        let others = keeper.held.iter().filter(|(other, _)| other.unit == id.unit && *other != id);
        let mut alive = others.filter(|(_, held)| held.parts.values().any(|process| !process.end_told));
        alive.find(|(other, _)| !goes(other)).map(|(other, _)| other)
    };
    match unit.breaker.circuit() {
        Circuit::Open { until } if now < until => Err(format!("{id} is started, and its circuit is open")),
        Circuit::HalfOpen { .. } => match beside() {
            Some(other) => Err(format!("{id} is started as a trial beside {other}")),
            None => Ok(()),
        },
        Circuit::Open { .. } | Circuit::Closed => Ok(()),
    }
}

/// Answers to liveness probes as they came: how many in a row said no.
#[derive(Default)]
pub struct Liveness {
    failing: BTreeMap<InstanceId, (u64, u32)>,
}

impl Liveness {
    pub fn answered(&mut self, id: &InstanceId, seq: u64, ok: bool) {
        let (latest, count) = self.failing.entry(id.clone()).or_default();
        // One that is told twice counts once.
        if seq > *latest {
            (*latest, *count) = (seq, if ok { 0 } else { *count + 1 });
        }
    }

    /// It is probed anew, or not any more.
    pub fn forget(&mut self, id: &InstanceId) {
        self.failing.remove(id);
    }

    pub fn forget_unit(&mut self, name: &str) {
        self.failing.retain(|id, _| id.unit.as_str() != name);
    }

    /// Who has failed often enough is being stopped. Answers that were on their way when its probes began anew do not count.
    pub fn holds(&self, keeper: &Keeper, world: &World) -> Result<(), String> {
        for (id, (_, count)) in &self.failing {
            let Some(held) = keeper.held.get(id) else { continue };
            let Some(probe) = held.spec.policy.probe(ProbeKind::Liveness) else { continue };
            let slots = world.units().get(&id.unit).into_iter().flat_map(|unit| unit.slots.values());
            let up = slots
                .filter(|slot| slot.id(&id.unit).as_ref() == Some(id))
                .any(|slot| matches!(slot.state, Lifecycle::Up(_)));
            if up && *count > probe.failure_threshold + 1 {
                return Err(format!("{id} failed its liveness probe {count} times and runs on"));
            }
        }
        Ok(())
    }
}

/// Invariant 6: at most one serving and one incoming instance an ordinal, never more of a unit than its rollout allows.
fn seats(keeper: &Keeper, world: &World, id: &InstanceId, spec: &UnitSpec) -> Result<(), String> {
    let others: Vec<_> = keeper
        .held
        .iter()
        .filter(|(other, held)| {
            other.unit == id.unit && other.incarnation != id.incarnation && held.is_alive()
        })
        .collect();
    let beside = others.iter().filter(|(other, _)| other.ordinal == id.ordinal).count();
    if beside > 1 || (beside == 1 && spec.policy.job) {
        return Err(format!("{id} is started beside {beside} others of its ordinal (invariant 6)"));
    }
    let replicas = world.wanted_replicas(&id.unit);
    let update = &spec.policy.update;
    let extra = match update.strategy {
        Strategy::Rolling => update.max_surge,
        Strategy::BlueGreen => replicas,
        Strategy::Canary(canary) => canary.count(replicas).max(update.max_surge),
        Strategy::Recreate => 0,
    };
    // What an earlier rule allowed goes on; what this one does not is not made more.
    if beside == 0 {
        return Ok(());
    }
    // Who is started again in its seat makes no pair that was not there: an earlier rule may have allowed more of them.
    let slots = world.units().get(&id.unit).into_iter().flat_map(|unit| unit.slots.values());
    if slots.filter(|slot| slot.last_end.is_some()).any(|slot| slot.id(&id.unit).as_ref() == Some(id)) {
        return Ok(());
    }
    // Ordinals beyond the wanted number are on their way out.
    let mut live: Vec<_> = others.iter().map(|(other, _)| other.ordinal).filter(|o| o.0 < replicas).collect();
    live.push(id.ordinal);
    let seats: BTreeSet<_> = live.iter().collect();
    match live.len() - seats.len() > extra as usize {
        true => Err(format!("{id} is started: {live:?} live, {extra} may be beside others (invariant 6)")),
        false => Ok(()),
    }
}

/// How many instances a rollout has to leave available.
pub fn needed(unit: &Unit) -> u32 {
    let update = &unit.spec.policy.update;
    match update.strategy {
        Strategy::Recreate => 0,
        _ if update.max_surge == 0 => unit.replicas().saturating_sub(update.max_unavailable.max(1)),
        _ => unit.replicas().saturating_sub(update.max_unavailable),
    }
}

/// A rollout never leaves fewer than that which run, are ready and have not been told to stop: in truth, whatever the world
/// knows of them.
pub fn available(keeper: &Keeper, world: &World, name: &Name, now: Instant) -> Result<(), String> {
    let Some(unit) = world.units().get(name) else { return Ok(()) };
    let well = |held: &Held| {
        let probed = held.spec.policy.probe(ProbeKind::Readiness).is_some();
        held.signalled.is_none()
            && held.parts.get(&Part::Main).is_some_and(|main| {
                main.exit.is_none()
                    && !main.spawning
                    && (!probed || main.ready_at.is_some_and(|at| at <= now))
            })
    };
    let available = keeper.held.iter().filter(|(id, held)| id.unit == *name && well(held)).count() as u32;
    match available < needed(unit) {
        true => Err(format!("{name}: {available} available, {} needed", needed(unit))),
        false => Ok(()),
    }
}

fn live(keeper: &Keeper, name: &Name) -> usize {
    keeper.held.iter().filter(|(id, held)| id.unit == *name && held.main_alive_as_told()).count()
}

fn ready(keeper: &Keeper, name: &Name) -> bool {
    keeper.held.iter().any(|(id, held)| id.unit == *name && held.main_alive_as_told() && held.mark.through)
}

/// Stop order is the reverse of start order while everything goes down.
pub fn before_signal(keeper: &Keeper, world: &World, id: &InstanceId) -> Result<(), String> {
    if world.going_down().is_none() {
        return Ok(());
    }
    // One that was being replaced when everything was told to stop is on its way already.
    let slot = world.units().get(&id.unit).and_then(|unit| {
        let mine = |slot: &&unisys::world::Slot| slot.id(&id.unit).is_some_and(|own| own == *id);
        unit.slots.values().map(Box::as_ref).find(mine)
    });
    let replaced = |state: &Lifecycle| matches!(state, Lifecycle::Stopping(stopping) if stopping.reason != EndReason::Stopped(StopReason::Unwanted));
    if slot.is_some_and(|slot| replaced(&slot.state)) {
        return Ok(());
    }
    for (other, held) in &keeper.held {
        let depends = held
            .spec
            .policy
            .depends_on
            .iter()
            .any(|dependency| dependency.name == id.unit && !dependency.optional);
        if depends && held.main_alive_as_told() && other.unit != id.unit {
            return Err(format!("{id} is told to stop while its dependent {other} runs (stop order)"));
        }
    }
    Ok(())
}

/// Whom the watchdog ends is frozen, and somebody waits for it.
pub fn before_abort(keeper: &Keeper, id: &InstanceId, now: Instant) -> Result<(), String> {
    let Some(held) = keeper.held.get(id) else { return Ok(()) };
    let process = held.parts.get(&Part::Main).filter(|process| process.exit.is_none());
    let watchdog = held.spec.policy.watchdog.as_deref();
    match (process, watchdog) {
        (Some(process), Some(policy)) if !process.may_be_ended(policy, now) => {
            Err(format!("{id} is ended by its watchdog, and it is well: {process:?}"))
        }
        (_, None) => Err(format!("{id} has no watchdog and is ended by it")),
        _ => Ok(()),
    }
}

/// Who is frozen while somebody waits for it is not left so. `born`: when the present daemon began to watch.
pub fn watchdogs(keeper: &Keeper, world: &World, now: Instant, born: Instant) -> Result<(), String> {
    for (id, held) in &keeper.held {
        let slots = world.units().get(&id.unit).into_iter().flat_map(|unit| unit.slots.values());
        let Some(slot) = slots.map(Box::as_ref).find(|slot| slot.id(&id.unit).as_ref() == Some(id)) else {
            continue;
        };
        let instance = slot.instance.as_ref().and_then(|instance| instance.spec.policy.watchdog.as_deref());
        let (Lifecycle::Up(_), Some(policy)) = (&slot.state, instance) else { continue };
        // Its watchdog may be about to begin anew with another policy, or has.
        if held.spec.policy.watchdog.as_deref() != Some(policy) {
            continue;
        }
        let since = held.rewatched.map_or(born, |at| at.max(born));
        let process = held.parts.get(&Part::Main).filter(|process| process.exit.is_none());
        if let Some(process) = process
            && process.end_expected(policy, since).is_some_and(|at| at < now)
        {
            return Err(format!("{id} is frozen and nothing is done: {process:?}"));
        }
    }
    Ok(())
}

/// Who was moved out of its cgroup is known to run without, whoever dies. It takes a moment to be told.
pub fn moved_out(keeper: &Keeper, world: &World, now: Instant) -> Result<(), String> {
    for (id, held) in &keeper.held {
        let told = held.moved_out.is_some_and(|at| now.since(at) > Duration::from_millis(20));
        let slots = world.units().get(&id.unit).into_iter().flat_map(|unit| unit.slots.values());
        let slot = slots.filter(|_| told).find(|slot| slot.id(&id.unit).as_ref() == Some(id));
        let instance = slot.and_then(|slot| slot.instance.as_ref());
        if instance.is_some_and(|instance| instance.left_out.is_empty()) {
            return Err(format!("{id} was moved out of its cgroup, and nobody knows"));
        }
    }
    Ok(())
}

/// Nothing of an instance may live when it is forgotten, and how it ended is known as the keeper knows it.
pub fn before_forget(keeper: &Keeper, world: &World, id: &InstanceId) -> Result<(), String> {
    let Some(held) = keeper.held.get(id) else { return Ok(()) };
    if held.is_alive() {
        return Err(format!("{id} is forgotten while something of it lives"));
    }
    let slots = world.units().get(&id.unit).into_iter().flat_map(|unit| unit.slots.values());
    let told =
        slots.filter_map(|slot| slot.last_end.as_ref()).find(|last| last.incarnation == id.incarnation);
    let exit = held.parts.get(&Part::Main).and_then(|process| process.exit);
    match (told, exit) {
        (Some(told), Some(exit)) if told.end.exit != Some(exit) => {
            Err(format!("{id} ended with {exit}, told is {:?}", told.end.exit))
        }
        _ => Ok(()),
    }
}

/// Invariant 2: planning again after the plan was carried out yields no action. Invariant 5: a stale fact changes nothing.
pub fn after_turn(world: &World, now: Now) -> Result<(), String> {
    let mut ticked = world.clone();
    ticked.handle(now, Event::Tick);
    ticked.settle(now);
    if let Some(at) = ticked.poll_deadline().filter(|at| *at <= now.mono) {
        return Err(format!(
            "a deadline of {at:?} is still there after the tick at {:?}: it would spin",
            now.mono
        ));
    }
    let mut again = world.clone();
    again.handle(now, Event::Begin);
    again.settle(now);
    if let Some(effect) = loudest(&mut again) {
        return Err(format!("planning again is not without action: {effect:?} (invariant 2)"));
    }
    let mut stale = world.clone();
    for (name, unit) in world.units() {
        for slot in unit.slots.values() {
            let Some(id) = slot.id(name) else { continue };
            let Some(older) = id.incarnation.0.checked_sub(1) else { continue };
            let id = InstanceId { incarnation: unisys::base::Incarnation(older), ..id };
            // The one before it may still be there, in another role.
            if unit.slots.values().any(|other| other.id(name).as_ref() == Some(&id)) {
                continue;
            }
            let fact =
                InstanceFact::Exited { part: Part::Main, exit: unisys::base::Exit::Code(1), remains: false };
            stale.handle(now, Event::Instance { id, fact });
        }
    }
    stale.settle(now);
    match loudest(&mut stale) {
        Some(effect) => Err(format!("a stale fact led to {effect:?} (invariant 5)")),
        None => Ok(()),
    }
}

fn loudest(world: &mut World) -> Option<Effect> {
    world.poll_effect()
}

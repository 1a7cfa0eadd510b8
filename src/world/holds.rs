//! What keeps a unit from running, for whoever asked for it to run.

use crate::base::{Instant, Name, Now, Role, limits};
use crate::plan::Wish;
use crate::rollout::Phase;
use crate::unit::{Circuit, Lifecycle, ProbeKind};

use super::World;
use super::ends::TRIED_AGAIN;
use super::state::{Slot, Unit};

/// Why a unit has no process that counts, and what a person can do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// What comes after the unit's name.
    pub why: String,
    /// What to do; empty where waiting is all that there is to do.
    pub cure: String,
    /// It stays so until somebody does something, or until it has failed once more.
    pub lasting: bool,
}

impl Hold {
    fn lasting(why: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { why: why.into(), cure: cure.into(), lasting: true }
    }

    fn passing(why: impl Into<String>) -> Self {
        Self { why: why.into(), cure: String::new(), lasting: false }
    }

    /// As a line: `b is not started: it depends on service/a: stopped by you (hint: …)`.
    pub fn line(&self, name: &Name) -> String {
        match self.cure.is_empty() {
            true => format!("{name} {}", self.why),
            false => format!("{name} {} (hint: {})", self.why, self.cure),
        }
    }
}

impl World {
    /// What keeps a unit from running; nothing when every instance of it that is wanted runs, as what is wanted, or is done.
    pub fn held_back(&self, now: Now, name: &Name) -> Option<Hold> {
        let unit = self.units.get(name)?;
        let replicas = match self.wish(name, unit) {
            Wish::Up { replicas } => replicas,
            Wish::Down { why } | Wish::Gone { why } => {
                return Some(Hold::lasting(format!("is not started: {why}"), self.cure_of_down(name)));
            }
        };
        if replicas == 0 {
            return Some(Hold::lasting("has 0 replicas", format!("`unisys scale {name}=1`")));
        }
        // What an edit brings up meanwhile is no restart before it has taken the place.
        let edited = unit.good.is_some() && matches!(unit.rollout.phase, Phase::Progressing);
        let asked = |slot: &Slot| {
            let since = unit.restart_since.unwrap_or_default();
            let incarnation = slot.instance.as_ref().map(|instance| instance.incarnation);
            let new = incarnation.is_none_or(|incarnation| incarnation >= since);
            new && !(edited && unit.restart_since.is_some() && slot.seat.role == Role::Incoming)
        };
        let runs = |index: u32| {
            let of_it =
                |slot: &&Slot| slot.seat.ordinal.0 == index && slot.restart_asked.is_none() && asked(slot);
            let goes = |slot: &Slot| match &slot.state {
                Lifecycle::Starting(_) | Lifecycle::Up(_) => slot.state.process().is_some(),
                Lifecycle::Done(_) => slot.rested_at == unit.generation,
                _ => false,
            };
            unit.slots.values().map(Box::as_ref).filter(of_it).any(goes)
        };
        if (0..replicas).all(runs) {
            return None;
        }
        Some(self.held_up(now, name, unit))
    }

    /// Of a unit that is Ready: until when it may be so for a moment only, and why.
    pub fn unsettled(&self, now: Now, name: &Name) -> Option<(Instant, String)> {
        let unit = self.units.get(name).filter(|unit| !unit.spec.policy.job)?;
        let settles = |slot: &Slot| {
            let until = slot.ready_since? + slot.restart.proof(&unit.spec.policy);
            let words = match &slot.last_end {
                Some(last) if slot.restart.attempt > 0 => {
                    format!("{} runs again: it {}", slot.seat, last.words)
                }
                _ => format!("{} has only just begun", slot.seat),
            };
            (until > now.mono).then_some((until, words))
        };
        let comes = unit.slots.values().filter(|slot| slot.seat.role != Role::Draining);
        comes.filter_map(|slot| settles(slot)).max()
    }

    /// Of a unit that runs: until when its programs may do so for a moment only, and why. A probe that found one ready has told that it
    /// has come to run.
    pub fn only_begun(&self, now: Now, name: &Name) -> Option<(Instant, String)> {
        let unit = self.units.get(name)?;
        let tells = |kind: &ProbeKind| unit.spec.policy.probe(*kind).is_some();
        let told = [ProbeKind::Startup, ProbeKind::Readiness].iter().any(tells);
        let begins = |slot: &Slot| {
            let until = slot.state.process()?.executed_at + limits::SETTLED;
            (until > now.mono && !(told && slot.is_ready()))
                .then(|| (until, format!("{} has only just begun", slot.seat)))
        };
        let comes = unit.slots.values().filter(|slot| slot.seat.role != Role::Draining);
        comes.filter_map(|slot| begins(slot)).max()
    }

    /// Of a unit that is to run and waits: the dependency that has failed for good, cannot start or is not to run, so that nothing
    /// goes on before somebody does something.
    pub fn held_for_good(&self, name: &Name) -> Option<Name> {
        let unit = self.units.get(name).filter(|unit| unit.overrides.paused.is_none())?;
        let on = self.blamed_dependency(name).filter(|_| matches!(self.wish(name, unit), Wish::Up { .. }))?;
        let other = self.units.get(&on)?;
        match self.facets(&on)?.hopeless {
            Some(_) => Some(on),
            None => self.hopeless_dependency(other),
        }
    }

    /// Of a unit that is to run.
    fn held_up(&self, now: Now, name: &Name, unit: &Unit) -> Hold {
        if let Some(machine) = unit.spec.machine.as_ref().filter(|_| unit.is_gone()) {
            return Hold::lasting(format!("cannot start: {machine}"), "it is started once that is mended");
        }
        let ended = |slot: &Slot| match &slot.last_end {
            Some(last) => format!("it {}", last.words),
            None => "its last instance ended".to_owned(),
        };
        let closed = matches!(unit.breaker.circuit(), Circuit::Closed);
        for slot in unit.slots.values() {
            let why = format!("`unisys why {name}` and `unisys logs {name}` tell more");
            match slot.state {
                Lifecycle::Failed(ref reason) => {
                    let again = if reason.is_of_program() { TRIED_AGAIN } else { "" };
                    let former = match unit.serving().any(|slot| slot.state.process().is_some()) {
                        true => "; the instance before it runs on",
                        false => "",
                    };
                    return Hold::lasting(format!("has failed: {}{again}{former}", ended(slot)), why);
                }
                Lifecycle::Held | Lifecycle::Backoff { .. } if !closed => {
                    return self.kept_by_circuit(now, name, unit);
                }
                Lifecycle::Backoff { until } => {
                    let words = format!(
                        "does not stay up: {}; it is tried again at {}",
                        ended(slot),
                        now.wall_at(until)
                    );
                    return Hold::lasting(words, why);
                }
                Lifecycle::Held => return self.kept_by_circuit(now, name, unit),
                _ => {}
            }
        }
        if let Some(word) = unit.waiting.as_ref().filter(|_| unit.overrides.paused.is_some()) {
            return Hold::lasting(format!("waits for {word}"), format!("`unisys rollout resume {name}`"));
        }
        match &unit.waiting {
            Some(on) => match self.hopeless_dependency(unit) {
                Some(root) => Hold::lasting(format!("waits for {on}"), format!("`unisys why {root}`")),
                None => Hold::passing(format!("waits for {on}")),
            },
            None => Hold::passing(format!("is {}", self.status_word(name))),
        }
    }

    fn kept_by_circuit(&self, now: Now, name: &Name, unit: &Unit) -> Hold {
        let reset = format!(
            "`unisys circuit reset {name}` tries at once, `unisys why {name}` tells what it failed for"
        );
        match unit.breaker.circuit() {
            Circuit::Open { until } => {
                let words = format!("is held: its circuit is open until {}", now.wall_at(until));
                Hold::lasting(words, reset)
            }
            Circuit::HalfOpen { .. } => {
                Hold::lasting("is held: its circuit is half open, one instance is on trial", reset)
            }
            Circuit::Closed => {
                let on = unit.waiting.as_deref().unwrap_or("the circuit of a dependency to close");
                let root = self.dependency_with_circuit(unit);
                let cure = root.map(|root| {
                    format!("`unisys circuit reset {root}` tries it at once, `unisys why {name}`")
                });
                Hold::lasting(
                    format!("is held: it waits for {on}"),
                    cure.unwrap_or_else(|| format!("`unisys why {name}`")),
                )
            }
        }
    }

    /// A dependency whose circuit is not closed, over any number of edges.
    pub(super) fn dependency_with_circuit(&self, unit: &Unit) -> Option<Name> {
        self.behind(unit, |_, unit| !matches!(unit.breaker.circuit(), Circuit::Closed))
    }

    /// A dependency that has failed for good, cannot start or is not to run.
    fn hopeless_dependency(&self, unit: &Unit) -> Option<Name> {
        self.behind(unit, |name, _| self.facets(name).is_some_and(|facets| facets.hopeless.is_some()))
    }

    /// What to do about a unit that is not to run, for its own sake or for that of another one.
    fn cure_of_down(&self, name: &Name) -> String {
        if self.down.is_some() {
            return "`unisys up` once it is down".into();
        }
        let Some(unit) = self.units.get(name) else { return String::new() };
        let kept = |name: &Name| self.standing().kept.contains_key(name);
        let down = |name: &Name, unit: &Unit| !matches!(unit.wish(kept(name)), Wish::Up { .. });
        let root = if down(name, unit) { Some(name.clone()) } else { self.behind(unit, down) };
        let found = root.and_then(|root| Some((self.units.get(&root)?, root)));
        let Some((unit, root)) = found else { return format!("`unisys why {name}`") };
        let rests = unit.left_out || unit.overrides.disabled.is_some() || unit.overrides.stopped.is_some();
        match rests {
            true => format!("`unisys start {root}`"),
            false if !unit.declared => format!("{} is in no manifest any more", unit.spec.object),
            false => format!("`enabledWhen` of {} decides; `unisys describe {root}`", unit.spec.object),
        }
    }

    /// The nearest unit, over hard dependencies, of which something is so.
    fn behind(&self, unit: &Unit, so: impl Fn(&Name, &Unit) -> bool) -> Option<Name> {
        let hard = |unit: &Unit| -> Vec<Name> { unit.spec.policy.hard_dependencies().cloned().collect() };
        let mut left: std::collections::VecDeque<Name> = hard(unit).into();
        let mut seen: std::collections::BTreeSet<Name> = left.iter().cloned().collect();
        while let Some(name) = left.pop_front() {
            let Some(unit) = self.units.get(&name) else { continue };
            if so(&name, unit) {
                return Some(name);
            }
            left.extend(hard(unit).into_iter().filter(|next| seen.insert(next.clone())));
        }
        None
    }
}

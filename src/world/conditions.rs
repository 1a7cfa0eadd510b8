//! Conditions and the status word, computed from the state; only the time of their last change is remembered (invariant 4).

use crate::base::{Name, Now, Ordinal, Role, Stamp};
use crate::plan::{Drift, Wish};
use crate::unit::{Circuit, Lifecycle};

use super::World;
use super::chronicle::UNENFORCED;
use super::ends::TRIED_AGAIN;
use super::reload::RELOAD_FAILED;
use super::state::{Settled, Slot, Unit};

/// All kinds of condition that a unit may have.
pub const KINDS: [&str; 8] =
    ["Ready", "Progressing", "Completed", "CircuitOpen", "RolledBack", "Degraded", "Enforced", "Reloaded"];

/// One condition of a unit (Kubernetes' shape).
#[derive(Clone, Debug, PartialEq)]
pub struct UnitCondition {
    pub kind: &'static str,
    pub status: &'static str,
    pub reason: &'static str,
    pub message: String,
    pub since: Stamp,
}

/// A condition before it has a time.
struct Finding {
    kind: &'static str,
    status: bool,
    reason: &'static str,
    message: String,
}

impl World {
    /// Conditions of a unit with the time of their last change.
    pub fn conditions(&self, name: &Name) -> Vec<UnitCondition> {
        let Some(unit) = self.units.get(name) else { return Vec::new() };
        self.findings(name, unit)
            .into_iter()
            .map(|finding| UnitCondition {
                kind: finding.kind,
                status: word(finding.status),
                reason: finding.reason,
                message: finding.message,
                since: unit.conditions.get(finding.kind).map_or(Stamp(0), |settled| settled.since),
            })
            .collect()
    }

    pub(super) fn update_conditions(&mut self, now: Now, name: &Name) {
        let Some(unit) = self.units.get(name) else { return };
        let mut settled = unit.conditions.clone();
        let mut changed = false;
        for finding in self.findings(name, unit) {
            let status = word(finding.status);
            let same = settled
                .get(finding.kind)
                .is_some_and(|old| old.status == status && old.reason == finding.reason);
            if same {
                continue;
            }
            let since = match settled.get(finding.kind) {
                Some(old) if old.status == status => old.since,
                _ => now.wall,
            };
            settled.set(finding.kind, Settled { status, reason: finding.reason, since });
            changed = true;
        }
        if changed && let Some(unit) = self.units.get_mut(name) {
            unit.conditions = settled;
            self.touched.insert(name.clone());
        }
    }

    fn findings(&self, name: &Name, unit: &Unit) -> Vec<Finding> {
        let wish = self.wish(name, unit);
        let ready = ready_finding(unit, &wish);
        let progressing = progressing_finding(unit, &wish, ready.status);
        let mut findings = vec![ready, progressing];
        if unit.spec.policy.job {
            findings.push(completed_finding(unit));
        }
        if let Some(held) = held_finding(unit) {
            findings.push(held);
        }
        findings.extend(rolled_back_finding(unit));
        findings.extend(degraded_finding(unit));
        findings.extend(not_enforced_finding(unit));
        findings.extend(not_reloaded_finding(unit));
        debug_assert!(findings.iter().all(|finding| KINDS.contains(&finding.kind)));
        findings
    }

    /// The word in the STATUS column of `get`.
    pub fn status_word(&self, name: &Name) -> &'static str {
        let Some(unit) = self.units.get(name) else { return "Unknown" };
        let wish = self.wish(name, unit);
        let occupied = |test: fn(&Lifecycle) -> bool| unit.serving().any(|slot| test(&slot.state));
        match &wish {
            Wish::Down { .. } | Wish::Gone { .. } if !unit.is_gone() => return "Stopping",
            Wish::Down { .. } if unit.overrides.keeps_down().is_some() => return "Disabled",
            Wish::Down { .. } if unit.spec.switched_off.is_some() => return "Off",
            Wish::Down { .. } | Wish::Gone { .. } => return "Stopped",
            Wish::Up { replicas: 0 } if unit.is_gone() => return "Stopped",
            Wish::Up { .. } => {}
        }
        if !unit.slots.is_empty() && unit.slots.values().all(|slot| matches!(slot.state, Lifecycle::Done(_)))
        {
            return "Completed";
        }
        if unit.spec.machine.is_some() && unit.is_gone() {
            return "CannotStart";
        }
        if occupied(|state| matches!(state, Lifecycle::Failed(_))) {
            return "Failed";
        }
        if occupied(|state| matches!(state, Lifecycle::Held)) {
            return if matches!(unit.breaker.circuit(), Circuit::Closed) { "Held" } else { "CircuitOpen" };
        }
        if occupied(|state| matches!(state, Lifecycle::Backoff { .. })) {
            // It waits for the later of the two.
            let open = matches!(unit.breaker.circuit(), Circuit::Open { .. });
            return if open { "CircuitOpen" } else { "BackOff" };
        }
        let all_ready = ready_count(unit) == desired_count(&wish);
        match unit.rollout.word(unit.overrides.paused.is_some()) {
            _ if !all_ready || unit.good.is_none() => {}
            "RollingBack" => return "RollingBack",
            "Paused" => return "Paused",
            "Holding" => return "Holding",
            "Progressing" => return "Updating",
            _ if unit.is_rolled_back() => return "RolledBack",
            _ if unit.slots.values().any(|slot| slot.restart_asked.is_some()) => return "Updating",
            _ => {}
        }
        if unit.waiting.is_some() {
            return if unit.is_gone() { "Waiting" } else { "Pending" };
        }
        let updating = unit.slots.values().any(|slot| !matches!(slot.drift, Drift::None));
        match () {
            () if unit.spec.policy.job && occupied(|state| matches!(state, Lifecycle::Up(_))) => "Running",
            () if all_ready && !updating => ready_word(unit),
            () if occupied(|state| matches!(state, Lifecycle::Stopping(_))) => "Stopping",
            () if occupied(|state| matches!(state, Lifecycle::Starting(_))) => "Starting",
            () if all_ready => ready_word(unit),
            () if occupied(|state| matches!(state, Lifecycle::Up(_))) => "NotReady",
            () => "Starting",
        }
    }

    /// Nothing of it is started again until somebody does something.
    pub fn has_failed_for_good(&self, name: &Name) -> bool {
        matches!(self.status_word(name), "Failed" | "CannotStart")
    }

    /// Wanted replicas of a unit, after overrides and switches.
    pub fn wanted_replicas(&self, name: &Name) -> u32 {
        self.units.get(name).map_or(0, |unit| desired_count(&self.wish(name, unit)))
    }

    /// Why a unit is not to run, if so.
    pub fn down_reason(&self, name: &Name) -> Option<String> {
        match self.wish(name, self.units.get(name)?) {
            Wish::Down { why } | Wish::Gone { why } => Some(why),
            Wish::Up { .. } => None,
        }
    }
}

fn word(status: bool) -> &'static str {
    if status { "True" } else { "False" }
}

fn desired_count(wish: &Wish) -> u32 {
    match wish {
        Wish::Up { replicas } => *replicas,
        Wish::Down { .. } | Wish::Gone { .. } => 0,
    }
}

/// Instances that are Ready.
pub fn ready_count(unit: &Unit) -> u32 {
    let ordinals: std::collections::BTreeSet<Ordinal> = unit
        .slots
        .values()
        .filter(|slot| slot.seat.role != Role::Draining && slot.is_ready())
        .map(|slot| slot.seat.ordinal)
        .collect();
    ordinals.len() as u32
}

fn ready_finding(unit: &Unit, wish: &Wish) -> Finding {
    let finding = |status, reason, message: String| Finding { kind: "Ready", status, reason, message };
    let replicas = match wish {
        Wish::Up { replicas } => *replicas,
        Wish::Down { why } | Wish::Gone { why } => return finding(false, "NotWanted", why.clone()),
    };
    let ready = (0..replicas).filter(|index| unit.is_ordinal_ready(Ordinal(*index))).count();
    if unit.spec.policy.job {
        let done = unit.slots.values().any(|slot| matches!(slot.state, Lifecycle::Done(_)));
        return match done {
            true => finding(true, "Completed", "it has completed".into()),
            false => finding(false, "NotCompleted", "it has not completed".into()),
        };
    }
    if replicas == 0 {
        return finding(true, "NoReplicas", "it has 0 replicas: there is nothing to wait for".into());
    }
    if ready == replicas as usize {
        let probed = unit.spec.policy.probes[1].is_some();
        let reason = if probed { "ProbeSucceeded" } else { "Executed" };
        return finding(true, reason, format!("{ready}/{replicas} instances are ready"));
    }
    let (reason, message) = unready_reason(unit);
    finding(false, reason, format!("{ready}/{replicas} instances are ready{message}"))
}

/// The most telling reason for which a unit is not Ready.
fn unready_reason(unit: &Unit) -> (&'static str, String) {
    if let Some(machine) = &unit.spec.machine {
        return ("CannotStart", format!(": {machine}"));
    }
    let last =
        |slot: &Slot| slot.last_end.as_ref().map_or(String::new(), |last| format!(": it {}", last.words));
    for slot in unit.slots.values() {
        match &slot.state {
            Lifecycle::Failed(reason) if reason.is_of_program() => {
                return ("Failed", format!("{}{TRIED_AGAIN}", last(slot)));
            }
            Lifecycle::Failed(_) => return ("Failed", last(slot)),
            Lifecycle::Done(_) => return ("Completed", last(slot)),
            Lifecycle::Held => {
                return (
                    "Held",
                    unit.waiting.as_ref().map_or(String::new(), |on| format!(": waiting for {on}")),
                );
            }
            Lifecycle::Backoff { .. } => return ("BackOff", last(slot)),
            _ => {}
        }
    }
    if let Some(on) = &unit.waiting {
        return ("Waiting", format!(": waiting for {on}"));
    }
    let answer =
        unit.slots.values().filter_map(|slot| slot.instance.as_ref()?.board.as_ref()).find_map(|board| {
            [crate::unit::ProbeKind::Startup, crate::unit::ProbeKind::Readiness]
                .into_iter()
                .find_map(|kind| board.last(kind).filter(|answer| !answer.ok))
        });
    // What it says of itself (`STATUS=`, sd_notify(3)) tells most.
    let said = unit.slots.values().find_map(|slot| slot.instance.as_ref()?.status_text.as_deref());
    let said = said.map_or(String::new(), |said| format!("; it says: {said}"));
    match answer {
        Some(answer) => ("ProbeFailed", format!(": {}{said}", answer.message)),
        None => ("Starting", said),
    }
}

fn progressing_finding(unit: &Unit, wish: &Wish, ready: bool) -> Finding {
    // What is not wanted rolls no further until it is.
    let wanted = matches!(wish, Wish::Up { replicas: 1.. });
    let rolling = wanted && unit.rollout.is_active() && unit.good.is_some();
    let moving = rolling
        || unit.slots.values().any(|slot| {
            matches!(slot.state, Lifecycle::Starting(_) | Lifecycle::Stopping(_) | Lifecycle::Backoff { .. })
                || (wanted && matches!(slot.drift, Drift::Replace(_)))
        });
    let (status, reason) = match (moving, &unit.waiting) {
        (_, Some(_)) if wanted && !ready => (false, "Waiting"),
        (true, _) => (true, "Converging"),
        (false, _) => (false, "Settled"),
    };
    let message = match &unit.waiting {
        Some(on) => format!("waiting for {on}"),
        None if status => "it is on its way to what is wanted".into(),
        None => "nothing is left to do".into(),
    };
    Finding { kind: "Progressing", status, reason, message }
}

fn completed_finding(unit: &Unit) -> Finding {
    let done = unit.slots.values().find_map(|slot| match slot.state {
        Lifecycle::Done(exit) if slot.rested_at == unit.generation => Some(exit),
        _ => None,
    });
    let (reason, message) = match done {
        Some(exit) => ("Succeeded", exit.to_string()),
        None => ("NotCompleted", "it has not completed for this generation".into()),
    };
    Finding { kind: "Completed", status: done.is_some(), reason, message }
}

/// There from the first rollback on: what runs is not what the manifest says.
fn rolled_back_finding(unit: &Unit) -> Option<Finding> {
    let known = unit.conditions.get("RolledBack").is_some();
    let finding = |status, reason, message| Finding { kind: "RolledBack", status, reason, message };
    match &unit.overrides.rejected {
        Some(rejected) => {
            let last = rejected
                .failure
                .lines
                .last()
                .map_or(String::new(), |line| format!("; its last line: {line}"));
            let message = format!(
                "revision {} was given up, revision {} runs: {}{last}",
                rejected.revision, rejected.runs, rejected.failure.message
            );
            Some(finding(true, "RolloutFailed", message))
        }
        None if known => {
            Some(finding(false, "AsDeclared", "what the manifest says is what is wanted".into()))
        }
        None => None,
    }
}

/// Of a unit with a watchdog: what is wrong with an instance that runs.
fn degraded_finding(unit: &Unit) -> Option<Finding> {
    unit.spec.policy.watchdog.as_ref()?;
    let wrong = unit.slots.values().find_map(|slot| {
        let finding = slot.instance.as_ref()?.vigil.as_ref()?.finding()?;
        Some((finding.reason, format!("{}: {}", slot.seat, finding.message)))
    });
    let status = wrong.is_some();
    let (reason, message) = wrong.unwrap_or(("Well", "its watchdog finds nothing wrong".into()));
    Some(Finding { kind: "Degraded", status, reason, message })
}

/// Of a unit all of whose instances are ready: what its watchdog finds is seen in the table as well.
fn ready_word(unit: &Unit) -> &'static str {
    if not_reloaded_finding(unit).is_some() {
        return RELOAD_FAILED;
    }
    match degraded_finding(unit).filter(|finding| finding.status) {
        Some(Finding { reason: "Suspected", .. }) => "Suspected",
        Some(_) => "Degraded",
        None => "Ready",
    }
}

/// What is not enforced: the machine cannot, or one instance runs without it.
fn not_enforced_finding(unit: &Unit) -> Option<Finding> {
    let without = |slot: &Slot| {
        let left_out = &slot.instance.as_ref()?.left_out;
        (!left_out.is_empty()).then(|| format!("{} runs without {}", slot.seat, left_out.join(", ")))
    };
    let (reason, message) = match &unit.spec.unenforced {
        Some(message) => (UNENFORCED, message.clone()),
        None => ("LeftOut", unit.slots.values().find_map(|slot| without(slot))?),
    };
    Some(Finding { kind: "Enforced", status: false, reason, message })
}

/// While an instance runs with what it read before its files were changed.
fn not_reloaded_finding(unit: &Unit) -> Option<Finding> {
    let unread = unit.slots.values().find_map(|slot| slot.unread.as_ref())?;
    Some(Finding { kind: "Reloaded", status: false, reason: RELOAD_FAILED, message: unread.message.clone() })
}

fn held_finding(unit: &Unit) -> Option<Finding> {
    unit.spec.policy.breaker.as_ref()?;
    let open = !matches!(unit.breaker.circuit(), Circuit::Closed);
    let reason = if open { "TooManyFailures" } else { "Closed" };
    let message = if open { "it failed too often" } else { "its circuit is closed" };
    Some(Finding { kind: "CircuitOpen", status: open, reason, message: message.into() })
}

//! Programs that read their files again instead of being replaced (manifest.md, `reload`).

use crate::base::{Instant, Name, Now, Seat, Signal};
use crate::plan::{Action, Drift};
use crate::rollout::Phase;

use super::World;
use super::chronicle::Entry;
use super::effect::Effect;
use super::rollouts::failure;
use super::state::Reloading;

/// The word of a reload that came to nothing.
pub(super) const RELOAD_FAILED: &str = "ReloadFailed";

impl World {
    /// Tells a running program to read its files again; the spec is taken in place.
    pub(super) fn reload(&mut self, now: Now, name: &Name, seat: Seat, action: &Action) {
        let Some(id) = self.instance_id(name, seat) else { return };
        let object = self.object(name);
        let seen = self.replacements_of(name);
        let Some(unit) = self.units.get_mut(name) else { return };
        let (spec, generation, change, cause) = (unit.spec.clone(), unit.generation, unit.change, unit.cause);
        let back = unit.rollout.goes_back();
        let Some(slot) = unit.slots.get_mut(&seat) else { return };
        let executed_at = slot.state.process().map(|process| process.executed_at);
        let Some(instance) = slot.instance.as_mut() else { return };
        let probes_changed = !instance.spec.is_probed_like(&spec);
        let former = std::mem::replace(&mut instance.spec, spec.clone());
        let anew = if back { [false; 3] } else { spec.asks_anew(&former) };
        instance.sees(seen);
        instance.generation = generation;
        let ports = instance.ports.clone();
        (slot.drift, slot.unread) = (Drift::None, None);
        if let (Some(board), Some(at), true) = (instance.board.as_mut(), executed_at, probes_changed) {
            board.replace_policy(&spec.policy, at, now.mono, anew);
        }
        let written = spec.launch.service.reload.as_deref().cloned().unwrap_or_default();
        let timeout = written.timeout.0;
        let answered = written.command.is_some() || written.notify == Some(true);
        if answered {
            slot.reloading = Some(Reloading {
                began: now.mono,
                answered: false,
                undated: false,
                timeout,
                deadline: now.mono + timeout,
            });
        }
        let how = match (&written.command, written.notify, written.signal) {
            (Some(command), ..) => {
                let command = command.clone();
                let words = command.join(" ");
                self.effects.push_back(Effect::RunReload { id, command, timeout, spec, ports });
                words
            }
            (None, _, signal) => {
                let signal = signal.unwrap_or(Signal::HUP);
                self.effects.push_back(Effect::Signal { id, signal });
                signal.to_string()
            }
        };
        self.loosen(name, &former);
        let message = format!("{seat} is told to read its files again ({how}): {}", action.reason);
        let reason = if answered { "Reloading" } else { "Reloaded" };
        let record =
            self.announce(now, Entry { warning: false, reason, object: &object, message, change, cause });
        self.set_cause(name, seat, record);
        self.remember(name, seat);
        self.look_for_line(name, seat);
        self.settle_board(now, name, seat);
        self.watch(now, name, seat);
        self.touch(name);
    }

    /// `RELOADING=1`: its READY=1 will say that it is done. One that began before it was told to answers an earlier signal, so
    /// its READY=1 says nothing of this one; without a time it may be either and does not count, as in systemd
    /// (`service_notify_message`, `SERVICE_RELOAD_SIGNAL`).
    pub(super) fn told_reloading(&mut self, name: &Name, seat: Seat, since: Option<Instant>) {
        if let Some(slot) = self.units.get_mut(name).and_then(|unit| unit.slots.get_mut(&seat))
            && let Some(reloading) = &mut slot.reloading
        {
            reloading.answered |= since.is_some_and(|since| since >= reloading.began);
            reloading.undated |= since.is_none();
        }
    }

    /// READY=1 after RELOADING=1.
    pub(super) fn reload_answered(&mut self, now: Now, name: &Name, seat: Seat) {
        let slot = self.units.get(name).and_then(|unit| unit.slots.get(&seat));
        if slot.and_then(|slot| slot.reloading).is_some_and(|reloading| reloading.answered) {
            self.reloaded(now, name, seat, true, "READY=1");
        }
    }

    /// What came of a reload.
    pub(super) fn reloaded(&mut self, now: Now, name: &Name, seat: Seat, ok: bool, message: &str) {
        let Some(slot) = self.units.get_mut(name).and_then(|unit| unit.slots.get_mut(&seat)) else { return };
        if slot.reloading.take().is_none() {
            return;
        }
        let pid = slot.state.process().map(|process| format!(" (pid {})", process.pid)).unwrap_or_default();
        let (told, id) = (slot.cause, slot.id(name));
        let (reason, message) = match ok {
            true => ("Reloaded", format!("{seat} has read its files again ({message})")),
            false => (
                RELOAD_FAILED,
                format!(
                    "{seat}{pid} did not read its files again, what it read before is in force: {message}"
                ),
            ),
        };
        if !ok {
            let cure = format!("; another change of them, or `unisys reload {name}`, has it read them again");
            slot.unread = Some(failure(RELOAD_FAILED, format!("{message}{cure}"), id, now.wall).into());
        }
        let object = self.object(name);
        let change = self.units.get(name).and_then(|unit| unit.change);
        let cause = told.or_else(|| self.units.get(name).and_then(|unit| unit.cause));
        let record =
            self.announce(now, Entry { warning: !ok, reason, object: &object, message, change, cause });
        if !ok {
            self.set_cause(name, seat, record);
            self.remember(name, seat);
        }
        self.touch(name);
    }

    /// Who did not read its files again has not got what the rollout brings, and going back would have it read the same files: it
    /// fails and stays as it is, until they are read after all.
    pub(super) fn look_at_reloads(&mut self, now: Now, name: &Name) {
        let Some(unit) = self.units.get_mut(name) else { return };
        let unread = unit.slots.values().find_map(|slot| slot.unread.as_deref());
        match (&unit.rollout.phase, unread.cloned()) {
            (Phase::Progressing, Some(failure)) if unit.before.is_some() => {
                self.rollout_stays(now, name, failure, "");
            }
            (Phase::Failed(failed), None) if failed.reason == RELOAD_FAILED => {
                (unit.rollout.phase, unit.rollout.ended) = (Phase::Progressing, None);
            }
            _ => {}
        }
    }

    /// A reload whose time is over.
    pub(super) fn reload_due(&mut self, now: Now, name: &Name, seat: Seat) {
        let slot = self.units.get(name).and_then(|unit| unit.slots.get(&seat));
        let late = slot.and_then(|slot| slot.reloading).filter(|reloading| reloading.deadline <= now.mono);
        let Some(late) = late else { return };
        let limit = crate::base::format_duration(late.timeout);
        let why = match late.undated && !late.answered {
            true => format!(
                "within {limit} it said RELOADING=1 only without MONOTONIC_USEC, which sd_notify(3) asks for"
            ),
            false => format!("it did not say so within {limit}"),
        };
        self.reloaded(now, name, seat, false, &why);
    }
}

//! The fake keeper at work: what becomes of what it is asked for, and of the programs that it started.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use unisys::base::{Exit, Generation, InstanceId, Part, Signal, SpawnStage};
use unisys::plan::UnitSpec;
use unisys::unit::watchdog::Class;
use unisys::unit::{ProbeKind, ProbeWay, StopReason};
use unisys::world::{Effect, InstanceFact};

use super::super::machine::{Frozen, Held, Process};
use super::{Due, Sim, system};

impl Sim {
    pub(super) fn beats(&mut self, id: InstanceId, pause: Duration) {
        let process = self.keeper.held.get(&id).and_then(|held| held.parts.get(&Part::Main));
        let alive =
            process.is_some_and(|process| process.exit.is_none() && process.is_frozen(self.now).is_none());
        if alive {
            self.deliver(&id, InstanceFact::Heartbeat);
            self.later(pause.as_millis() as u64, Due::Beats(id, pause));
        }
    }

    pub(super) fn process_ends(&mut self, id: &InstanceId, part: Part, exit: Exit) {
        let descendants = self.rng.chance(self.faults.leaves_descendants);
        let Some(held) = self.keeper.held.get_mut(id) else { return };
        let Some(process) = held.parts.get_mut(&part).filter(|process| process.exit.is_none()) else {
            return;
        };
        process.exit = Some(exit);
        let well = exit == Exit::Code(0) && id.ordinal.0 == 0 && held.mark.stop.is_none();
        if part == Part::Main && held.spec.policy.job && well {
            self.ran.insert(id.unit.clone(), held.spec.launch.program());
        }
        held.descendants |= part == Part::Main && descendants;
        let remains = part == Part::Main && held.descendants;
        self.fact(1, id, InstanceFact::Exited { part, exit, remains });
    }

    /// What another version begins with may undo what has run.
    pub(super) fn begins(&mut self, id: &InstanceId, spec: &UnitSpec) {
        self.ran.retain(|name, ran| *name != id.unit || *ran == spec.launch.program());
    }

    /// A Job that has run, and ended well, does not run again: whoever died since.
    pub(super) fn runs(&mut self, id: &InstanceId, spec: &UnitSpec) -> Result<(), String> {
        let former = self.ran.remove(&id.unit).filter(|program| *program == spec.launch.program());
        let orders = self.asked.entry(id.unit.clone()).or_default();
        let later = orders.split_off(&id.incarnation.next());
        let asked = !std::mem::replace(orders, later).is_empty();
        match !asked && former.is_some() && self.world.wanted_replicas(&id.unit) == 1 {
            true => Err(format!("{id} is started, and what it runs has ended well already")),
            false => Ok(()),
        }
    }

    pub(super) fn spawn(&mut self, id: InstanceId, part: Part, spec: Arc<UnitSpec>, generation: Generation) {
        let delay = 1 + self.rng.below(5);
        if self.rng.chance(self.faults.exec_fails) {
            let (stage, errno, detail) = match self.rng.chance(0.8) {
                true => (SpawnStage::Clone, 11, "no pid"),
                false => (SpawnStage::Exec, 2, "no such program"),
            };
            if let Some(held) =
                self.keeper.held.get_mut(&id).filter(|_| matches!(part, Part::Main | Part::PreStart(_)))
            {
                held.mark.stop = Some(StopReason::Unwanted);
            }
            let fact = InstanceFact::SpawnFailed { part, stage, errno, detail: detail.into() };
            return self.fact(delay, &id, fact);
        }
        let fate = spec.launch.argv.get(2).cloned().unwrap_or_default();
        let ready = match fate == "hangs" || self.rng.chance(self.faults.never_ready) {
            true => None,
            false => Some(self.now + Duration::from_millis(delay + self.rng.below(3000))),
        };
        let pid = self.keeper.next_pid;
        self.keeper.next_pid += 1;
        let process = Process {
            pid,
            at: self.now + Duration::from_millis(delay),
            spawning: true,
            exit: None,
            ignores_stop: self.rng.chance(self.faults.ignores_stop),
            ready_at: ready,
            end_told: false,
            frozen: None,
        };
        let mut process = process;
        if part == Part::Main && spec.policy.watchdog.is_some() && self.rng.chance(self.faults.freezes) {
            let classes = [Class::Deadlock, Class::Livelock, Class::Stuck, Class::Stopped, Class::Blocked];
            process.frozen = Some(Frozen {
                at: self.now + Duration::from_millis(delay + self.rng.below(40_000)),
                class: system::pick(&mut self.rng, &classes),
                demand: self.rng.chance(0.6),
            });
        }
        let heartbeat = spec.policy.watchdog.as_ref().and_then(|watchdog| watchdog.heartbeat);
        let job = spec.policy.job;
        let notify = spec.policy.probe(ProbeKind::Readiness).is_some_and(|probe| probe.way == ProbeWay::Told);
        let held = self.keeper.held.entry(id.clone()).or_insert_with(|| Held {
            spec,
            generation,
            mark: Default::default(),
            parts: BTreeMap::new(),
            descendants: false,
            doomed: false,
            signalled: None,
            rewatched: None,
            moved_out: None,
        });
        if held.parts.contains_key(&part) {
            return;
        }
        held.parts.insert(part, process);
        self.later(delay, Due::Spawned(id.clone(), part));
        if part != Part::Main {
            let code = i32::from(self.rng.chance(self.faults.crashes / 4.0));
            let after = delay + 1 + self.rng.below(800);
            return self.later(after, Due::Ends(id, part, Exit::Code(code)));
        }
        if let Some(within) = heartbeat {
            self.later(delay, Due::Beats(id.clone(), within / 3));
        }
        if let (true, Some(ready)) = (notify, ready) {
            let after = ready.since(self.now).as_millis() as u64 + 1;
            self.fact(after, &id, InstanceFact::ToldReady { how: "READY=1" });
        }
        if fate == "crashes" && part == Part::Main {
            let after = delay + self.rng.below(900);
            return self.later(after, Due::Ends(id, part, Exit::Code(3)));
        }
        if self.rng.chance(self.faults.crashes) {
            let after = delay + self.rng.below(20_000);
            let exit = system::pick(
                &mut self.rng,
                &[Exit::Code(1), Exit::Code(0), Exit::Signal { signal: 9, core: false }],
            );
            self.later(after, Due::Ends(id, part, exit));
        } else if job {
            let after = delay + self.rng.below(5000);
            self.later(after, Due::Ends(id, part, Exit::Code(0)));
        }
    }

    /// The spawn thread is done; who was killed meanwhile is killed now.
    pub(super) fn spawned(&mut self, id: &InstanceId, part: Part) {
        let Some(held) = self.keeper.held.get_mut(id) else { return };
        let Some(process) = held.parts.get_mut(&part) else { return };
        process.spawning = false;
        let (pid, at) = (process.pid, process.at);
        let doomed = std::mem::take(&mut held.doomed);
        self.fact(
            0,
            id,
            InstanceFact::Spawned { part, pid, at, ports: Default::default(), left_out: Vec::new() },
        );
        if doomed {
            self.kill(id);
        }
    }

    pub(super) fn signal(&mut self, id: &InstanceId, signal: Signal) {
        let Some(process) = self.keeper.held.get(id).and_then(|held| held.parts.get(&Part::Main)) else {
            return;
        };
        let (there, ignores) = (process.exit.is_none() && !process.spawning, process.ignores_stop);
        if there && let Some(held) = self.keeper.held.get_mut(id) {
            held.signalled = Some(signal);
        }
        if there && !ignores {
            let after = 1 + self.rng.below(500);
            let exit = Exit::Signal { signal: signal.0, core: false };
            self.later(after, Due::Ends(id.clone(), Part::Main, exit));
        }
    }

    pub(super) fn kill(&mut self, id: &InstanceId) {
        let mut ended = Vec::new();
        if let Some(held) = self.keeper.held.get_mut(id) {
            if held.parts.values().any(|process| process.spawning) {
                held.doomed = true;
                return;
            }
            held.descendants = false;
            for (part, process) in held.parts.iter_mut().filter(|(_, process)| process.exit.is_none()) {
                process.exit = Some(Exit::Signal { signal: 9, core: false });
                ended.push(*part);
            }
        }
        for part in ended {
            let exit = Exit::Signal { signal: 9, core: false };
            self.fact(1, id, InstanceFact::Exited { part, exit, remains: false });
        }
        self.fact(2, id, InstanceFact::Gone { survivors: 0 });
    }

    pub(super) fn probe(&mut self, id: &InstanceId, kind: ProbeKind, seq: u64, timeout: Duration) {
        let process = self.keeper.held.get(id).and_then(|held| held.parts.get(&Part::Main));
        if process.is_some_and(|process| process.is_frozen(self.now).is_some_and(|frozen| frozen.demand)) {
            let fact = InstanceFact::Probe { kind, seq, ok: false, late: true, message: "sim".into() };
            return self.fact(timeout.as_millis() as u64, id, fact);
        }
        let well = process.is_some_and(|process| {
            process.exit.is_none()
                && (kind == ProbeKind::Liveness || process.ready_at.is_some_and(|at| at <= self.now))
        });
        let ok = well != self.rng.chance(self.faults.probe_lies);
        let after = self.rng.below(timeout.as_millis() as u64);
        self.fact(after, id, InstanceFact::Probe { kind, seq, ok, late: false, message: "sim".into() });
    }

    /// What was only to be remembered goes out.
    pub(super) fn send(&mut self) {
        for effect in std::mem::take(&mut self.unsent) {
            let Effect::Remember { id, spec, generation, mark } = effect else { continue };
            let Some(held) = self.keeper.held.get_mut(&id) else { continue };
            if held.spec.policy.watchdog != spec.policy.watchdog {
                held.rewatched = Some(self.now);
            }
            if held.spec.policy.probe(ProbeKind::Liveness) != spec.policy.probe(ProbeKind::Liveness) {
                self.liveness.forget(&id);
            }
            (held.spec, held.generation) = (spec, generation);
            held.mark.follow(mark);
        }
    }
}

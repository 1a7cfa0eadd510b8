//! Facts about instances, and what follows from them at once: one function a family.

use crate::base::{InstanceId, Name, Now, Ordinal, Part};
use crate::unit::lifecycle::Rest;
use crate::unit::{
    AfterEnd, Circuit, End, EndReason, Fact, Lifecycle, ProbeBoard, ProbeKind, Request, StopReason, Verdict,
};

use super::World;
use super::chronicle::Entry;
use super::effect::{Effect, Failure};
use super::event::InstanceFact;
use super::state::{LastEnd, end_words};

impl World {
    /// A fact about one instance. One of an instance that is not there any more changes nothing but a counter (invariant 5).
    pub(super) fn instance_fact(&mut self, now: Now, id: &InstanceId, fact: InstanceFact) {
        let current = self.units.get(&id.unit).and_then(|unit| unit.slots.get(&id.ordinal));
        if current.and_then(|slot| slot.instance.as_ref()).map(|instance| instance.incarnation)
            != Some(id.incarnation)
        {
            self.stale += 1;
            return;
        }
        let (name, ordinal) = (&id.unit, id.ordinal);
        match fact {
            InstanceFact::Spawned { part: Part::Main, pid, at, ports } => {
                if let Some(instance) = self.instance_mut(name, ordinal) {
                    instance.ports = ports.into();
                }
                self.apply(now, name, ordinal, Fact::Spawned { pid, at });
            }
            InstanceFact::Spawned { .. } => {}
            InstanceFact::SpawnFailed { stage, errno, detail, .. } => {
                self.apply(now, name, ordinal, Fact::SpawnFailed { stage, errno, detail });
            }
            InstanceFact::Exited { part: Part::Main, exit, remains } => {
                self.apply(now, name, ordinal, Fact::Exited { exit, remains });
            }
            InstanceFact::Exited { part, exit, .. } => {
                self.apply(now, name, ordinal, Fact::HookExited { part, exit })
            }
            InstanceFact::Gone { survivors } => self.apply(now, name, ordinal, Fact::Gone { survivors }),
            InstanceFact::Probe { kind, seq, ok, message } => {
                self.probe_answer(now, name, ordinal, kind, seq, ok, message)
            }
            InstanceFact::PortOpen => self.port_open(now, name, ordinal),
            InstanceFact::ToldReady { how } => self.told_ready(now, name, ordinal, how),
            InstanceFact::ToldStopping => {
                self.note(now, name, ordinal, "ToldStopping", "the program says that it is stopping")
            }
            InstanceFact::ToldStatus(text) => {
                if let Some(instance) = self.instance_mut(name, ordinal) {
                    instance.status_text = Some(text);
                }
            }
            InstanceFact::MainPid(pid) => self.apply(now, name, ordinal, Fact::MainPid { pid }),
            InstanceFact::Extend { until } => {
                if let Some(instance) = self.instance_mut(name, ordinal) {
                    let spec = instance.spec.clone();
                    if let Some(board) = instance.board.as_mut() {
                        board.extend(&spec.policy, until);
                    }
                }
                self.apply(now, name, ordinal, Fact::Extend { until });
            }
        }
        self.touch(name);
    }

    /// A deadline of the unit has passed: states, probes, time limits. Asking the questions that are due touches nothing else.
    pub(super) fn unit_due(&mut self, now: Now, name: &Name) {
        let Some(unit) = self.units.get(name) else { return };
        let ordinals: Vec<Ordinal> = unit.slots.keys().copied().collect();
        let breaker_due = unit.spec.policy.breaker.as_ref().and_then(|policy| unit.breaker.deadline(policy));
        if breaker_due.is_some_and(|at| at <= now.mono) {
            self.dirty.insert(name.clone());
        }
        for ordinal in ordinals {
            let Some(slot) = self.units.get(name).and_then(|unit| unit.slots.get(&ordinal)) else { continue };
            if slot.state.deadline().is_some_and(|at| at <= now.mono) {
                self.apply(now, name, ordinal, Fact::Due);
                self.touch(name);
            }
            self.check_active_deadline(now, name, ordinal);
            self.ask_due(now, name, ordinal);
        }
        self.timers.set(name, self.units.get(name).and_then(super::Unit::deadline));
    }

    fn check_active_deadline(&mut self, now: Now, name: &Name, ordinal: Ordinal) {
        let Some(slot) = self.units.get(name).and_then(|unit| unit.slots.get(&ordinal)) else { return };
        let (Some(instance), Some(process)) = (&slot.instance, slot.state.process()) else { return };
        let over =
            instance.spec.policy.active_deadline.is_some_and(|limit| process.executed_at + limit <= now.mono);
        if over && !matches!(slot.state, Lifecycle::Stopping(_)) {
            self.apply(now, name, ordinal, Fact::Stop { reason: StopReason::DeadlineExceeded });
            self.touch(name);
        }
    }

    fn ask_due(&mut self, now: Now, name: &Name, ordinal: Ordinal) {
        let Some(id) = self.instance_id(name, ordinal) else { return };
        let Some(instance) = self.instance_mut(name, ordinal) else { return };
        let (spec, ports) = (instance.spec.clone(), instance.ports.clone());
        let Some(board) = instance.board.as_mut() else { return };
        let (questions, verdict) = board.due(&spec.policy, now.mono);
        for question in questions {
            self.effects.push_back(Effect::Probe {
                id: id.clone(),
                kind: question.kind,
                seq: question.seq,
                timeout: question.timeout,
                spec: spec.clone(),
                ports: ports.clone(),
            });
        }
        self.verdict(now, name, ordinal, verdict);
    }

    /// Steps one ordinal and carries out what the step asks for.
    pub(super) fn apply(&mut self, now: Now, name: &Name, ordinal: Ordinal, fact: Fact) {
        let Some(unit) = self.units.get_mut(name) else { return };
        let unit_spec = unit.spec.clone();
        let Some(slot) = unit.slots.get_mut(&ordinal) else { return };
        let spec = slot.instance.as_ref().map_or(unit_spec, |instance| instance.spec.clone());
        let was_starting = matches!(slot.state, Lifecycle::Starting(_));
        let state = std::mem::replace(&mut slot.state, Lifecycle::Idle);
        let requests = match state.step(fact, &spec.policy, now.mono) {
            Ok((state, requests)) => {
                slot.state = state;
                requests
            }
            Err((state, _illegal)) => {
                slot.state = state;
                self.stale += 1;
                return;
            }
        };
        let is_starting = matches!(slot.state, Lifecycle::Starting(_));
        self.touch(name);
        for request in requests {
            self.carry_out(now, name, ordinal, request);
        }
        if was_starting && !is_starting {
            self.start_slot_freed();
        }
    }

    fn carry_out(&mut self, now: Now, name: &Name, ordinal: Ordinal, request: Request) {
        let Some(id) = self.instance_id(name, ordinal) else { return };
        match request {
            Request::Spawn(part) => {
                let Some(instance) = self.instance_mut(name, ordinal) else { return };
                let (spec, generation) = (instance.spec.clone(), instance.generation);
                self.effects.push_back(Effect::Spawn { id, part, spec, generation });
            }
            Request::Signal(signal) => self.effects.push_back(Effect::Signal { id, signal }),
            Request::Kill => self.effects.push_back(Effect::Kill { id }),
            Request::Executed => self.executed(now, name, ordinal),
            Request::StopBegan => self.stop_began(name, ordinal),
            Request::Ended(end) => self.ended(now, name, ordinal, end),
        }
    }

    /// The program has been executed: its probes begin, or it is through at once.
    fn executed(&mut self, now: Now, name: &Name, ordinal: Ordinal) {
        let Some(id) = self.instance_id(name, ordinal) else { return };
        let object = self.object(name);
        let Some(unit) = self.units.get_mut(name) else { return };
        let change = unit.change;
        let Some(slot) = unit.slots.get_mut(&ordinal) else { return };
        let Some(process) = slot.state.process().cloned() else { return };
        let Some(instance) = slot.instance.as_mut() else { return };
        let spec = instance.spec.clone();
        let board = ProbeBoard::new(&spec.policy, process.executed_at);
        let port = board.awaited_port(&spec.policy, &instance.ports);
        instance.port_watched = port.is_some();
        instance.log_watched = awaits_log(&spec);
        let log_watched = instance.log_watched;
        instance.board = Some(board);
        if let Some(port) = port {
            self.effects.push_back(Effect::WatchPort { id: id.clone(), port });
        }
        if log_watched {
            self.effects.push_back(Effect::WatchLog { id, spec });
        }
        let cause = self.slot_cause(name, ordinal);
        let message = format!("instance {ordinal} started, pid {}", process.pid);
        let record = self.announce(
            now,
            Entry { warning: false, reason: "Started", object: &object, message, change, cause },
        );
        self.set_cause(name, ordinal, record);
        self.settle_board(now, name, ordinal);
        self.ask_due(now, name, ordinal);
    }

    /// Probes may be through without a question: there are none, or they changed in place.
    pub(super) fn settle_board(&mut self, now: Now, name: &Name, ordinal: Ordinal) {
        let Some(instance) = self.instance_mut(name, ordinal) else { return };
        let spec = instance.spec.clone();
        let Some(board) = instance.board.as_mut() else { return };
        let verdict = board.settle(&spec.policy, now.mono);
        self.verdict(now, name, ordinal, verdict);
    }

    fn probe_answer(
        &mut self,
        now: Now,
        name: &Name,
        ordinal: Ordinal,
        kind: ProbeKind,
        seq: u64,
        ok: bool,
        message: String,
    ) {
        let Some(instance) = self.instance_mut(name, ordinal) else { return };
        let spec = instance.spec.clone();
        let Some(board) = instance.board.as_mut() else { return };
        let verdict = board.answer(&spec.policy, kind, seq, ok, message, now.mono);
        self.verdict(now, name, ordinal, verdict);
    }

    fn port_open(&mut self, now: Now, name: &Name, ordinal: Ordinal) {
        let Some(instance) = self.instance_mut(name, ordinal) else { return };
        let spec = instance.spec.clone();
        if let Some(board) = instance.board.as_mut() {
            board.port_open(&spec.policy, now.mono);
        }
        self.ask_due(now, name, ordinal);
    }

    fn told_ready(&mut self, now: Now, name: &Name, ordinal: Ordinal, _how: &'static str) {
        let Some(instance) = self.instance_mut(name, ordinal) else { return };
        let spec = instance.spec.clone();
        let Some(board) = instance.board.as_mut() else { return };
        let verdict = board.told_ready(&spec.policy, now.mono);
        self.verdict(now, name, ordinal, verdict);
    }

    fn verdict(&mut self, now: Now, name: &Name, ordinal: Ordinal, verdict: Verdict) {
        match verdict {
            Verdict::Nothing => {}
            Verdict::Through => {
                self.stop_watching(name, ordinal);
                self.apply(now, name, ordinal, Fact::Through);
                self.note(now, name, ordinal, "Ready", "is ready");
                self.ready_changed(now, name, ordinal, true);
            }
            Verdict::BecameReady => {
                self.note(now, name, ordinal, "Ready", "is ready again");
                self.ready_changed(now, name, ordinal, true);
            }
            Verdict::BecameUnready(why) => {
                self.warn(now, name, ordinal, "Unready", &format!("is not ready: {why}"));
                self.ready_changed(now, name, ordinal, false);
            }
            Verdict::StartupFailed(why) => {
                self.warn(now, name, ordinal, "StartupProbeFailed", &format!("did not start up: {why}"));
                self.apply(now, name, ordinal, Fact::Stop { reason: StopReason::StartupFailed });
            }
            Verdict::LivenessFailed(why) => {
                self.warn(now, name, ordinal, "LivenessProbeFailed", &format!("is not alive: {why}"));
                self.apply(now, name, ordinal, Fact::Stop { reason: StopReason::LivenessFailed });
            }
        }
    }

    fn ready_changed(&mut self, now: Now, name: &Name, ordinal: Ordinal, ready: bool) {
        if let Some(unit) = self.units.get_mut(name) {
            unit.breaker.trial_ready(ready, now.mono);
        }
        self.remember(name, ordinal);
        self.touch(name);
    }

    /// Probes end with the stop.
    fn stop_began(&mut self, name: &Name, ordinal: Ordinal) {
        self.stop_watching(name, ordinal);
        if let Some(instance) = self.instance_mut(name, ordinal) {
            instance.board = None;
        }
        self.remember(name, ordinal);
    }

    fn stop_watching(&mut self, name: &Name, ordinal: Ordinal) {
        let Some(id) = self.instance_id(name, ordinal) else { return };
        let Some(instance) = self.instance_mut(name, ordinal) else { return };
        let port = std::mem::replace(&mut instance.port_watched, false);
        let log = std::mem::replace(&mut instance.log_watched, false);
        if port {
            self.effects.push_back(Effect::UnwatchPort { id: id.clone() });
        }
        if log {
            self.effects.push_back(Effect::UnwatchLog { id });
        }
    }

    /// Nothing is left of the instance: where does the ordinal go?
    fn ended(&mut self, now: Now, name: &Name, ordinal: Ordinal, end: End) {
        self.stop_watching(name, ordinal);
        let Some(id) = self.instance_id(name, ordinal) else { return };
        self.effects.push_back(Effect::Forget { id: id.clone() });
        let words = end_words(&end);
        self.announce_end(now, name, ordinal, &end, &words);
        let wanted = self
            .units
            .get(name)
            .is_some_and(|unit| matches!(self.wish(name, unit), crate::plan::Wish::Up { .. }));
        let Some(unit) = self.units.get_mut(name) else { return };
        let generation = unit.generation;
        let Some(slot) = unit.slots.get_mut(&ordinal) else { return };
        let record = slot.cause;
        let (spec, started_with) = match slot.instance.take() {
            Some(instance) => (instance.spec, instance.generation),
            None => (unit.spec.clone(), generation),
        };
        let policy = &spec.policy;
        let failure = end.is_failure(policy);
        let after = slot.restart.after_end(policy, &end, now.mono, &mut self.rng);
        let failed = failure.then(|| {
            Box::new(Failure {
                id: id.clone(),
                spec: spec.clone(),
                generation: started_with,
                ran_for: end.ran_for(now.mono),
                end: end.clone(),
                words: words.clone(),
                at: now.wall,
                restarts: slot.restart.restarts,
                permanent: matches!(after, AfterEnd::Failed(_)),
                record,
            })
        });
        slot.last_end = Some(LastEnd { end, at: now.wall, incarnation: id.incarnation, words });
        slot.rested_at = generation;
        let (rest, warning) = match after {
            _ if !wanted => (Rest::Idle, None),
            AfterEnd::Idle => (Rest::Idle, None),
            AfterEnd::RestartAt(until) if until <= now.mono => (Rest::Idle, None),
            AfterEnd::RestartAt(until) => {
                let wait = crate::base::format_duration(std::time::Duration::from_millis(
                    (until - now.mono).as_millis() as u64,
                ));
                (Rest::Backoff { until }, Some(("BackOff", format!("is started again in {wait}"))))
            }
            AfterEnd::Done(exit) => (Rest::Done(exit), None),
            AfterEnd::Failed(reason) => {
                let last = slot.last_end.as_ref().map(|last| last.words.clone()).unwrap_or_default();
                (Rest::Failed(reason), Some(("Failed", format!("is not started again: it {last}"))))
            }
        };
        self.effects.extend(failed.map(Effect::Failed));
        if failure {
            self.breaker_failed(now, name, ordinal);
        }
        self.apply(now, name, ordinal, Fact::Rest(rest));
        if let Some((reason, message)) = warning {
            self.warn(now, name, ordinal, reason, &message);
        }
        self.save_unit(now, name);
    }

    fn breaker_failed(&mut self, now: Now, name: &Name, ordinal: Ordinal) {
        let Some(unit) = self.units.get_mut(name) else { return };
        let Some(policy) = unit.spec.policy.breaker.clone() else { return };
        if !unit.breaker.failed(&policy, now.mono) {
            return;
        }
        let wait = match unit.breaker.circuit() {
            Circuit::Open { until } => crate::base::format_duration(until - now.mono),
            _ => String::new(),
        };
        self.warn(
            now,
            name,
            ordinal,
            "CircuitOpen",
            &format!("failed too often: its circuit is open for {wait}"),
        );
        let cause = self.slot_cause(name, ordinal);
        if let Some(unit) = self.units.get_mut(name) {
            unit.cause = cause;
        }
    }

    fn announce_end(&mut self, now: Now, name: &Name, ordinal: Ordinal, end: &End, words: &str) {
        let object = self.object(name);
        // An exit that nobody asked for is a root: nothing that unisys knows of came before it.
        let cause = match end.reason {
            EndReason::Exited => None,
            _ => self.slot_cause(name, ordinal),
        };
        let change = self.units.get(name).and_then(|unit| unit.change);
        let asked = matches!(end.reason, EndReason::Stopped(StopReason::Unwanted | StopReason::Replaced));
        let policy = self.units.get(name).map(|unit| unit.spec.clone());
        let warning = !asked && policy.is_none_or(|spec| end.is_failure(&spec.policy));
        let mut message = format!("instance {ordinal} {words}");
        if end.survivors > 0 {
            message.push_str(&format!("; {} of its processes could not be killed", end.survivors));
        }
        let reason = super::state::end_reason(end);
        let reason = if reason == "ExitCode" || reason == "Signal" { "Exited" } else { reason };
        let record = self.announce(now, Entry { warning, reason, object: &object, message, change, cause });
        self.set_cause(name, ordinal, record);
    }

    fn note(&mut self, now: Now, name: &Name, ordinal: Ordinal, reason: &'static str, words: &str) {
        self.tell(now, name, ordinal, false, reason, words);
    }

    fn warn(&mut self, now: Now, name: &Name, ordinal: Ordinal, reason: &'static str, words: &str) {
        self.tell(now, name, ordinal, true, reason, words);
    }

    fn tell(
        &mut self,
        now: Now,
        name: &Name,
        ordinal: Ordinal,
        warning: bool,
        reason: &'static str,
        words: &str,
    ) {
        let object = self.object(name);
        let cause = self.slot_cause(name, ordinal);
        let change = self.units.get(name).and_then(|unit| unit.change);
        let message = format!("instance {ordinal} {words}");
        let record = self.announce(now, Entry { warning, reason, object: &object, message, change, cause });
        self.set_cause(name, ordinal, record);
    }

    fn slot_cause(&self, name: &Name, ordinal: Ordinal) -> Option<u64> {
        self.units.get(name)?.slots.get(&ordinal)?.cause
    }

    fn instance_mut(&mut self, name: &Name, ordinal: Ordinal) -> Option<&mut super::Instance> {
        self.units.get_mut(name)?.slots.get_mut(&ordinal)?.instance.as_mut()
    }
}

/// Its readiness or startup is told by a line in its log.
fn awaits_log(spec: &crate::plan::UnitSpec) -> bool {
    spec.launch.awaits_log
}

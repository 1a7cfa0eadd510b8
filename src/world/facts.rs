//! Facts about instances, and what follows from them at once: one function a family.

use crate::base::{Exit, InstanceId, Name, Now, Part, Role, Seat, SpawnStage, limits};
use crate::plan::Wish;
use crate::unit::restart::EADDRINUSE;
use crate::unit::{Fact, Lifecycle, ProbeBoard, ProbeKind, Request, StopReason, Verdict};

use super::World;
use super::chronicle::Entry;
use super::effect::Effect;
use super::event::InstanceFact;
use super::state::Slot;

impl World {
    /// A fact about one instance. One of an instance that is not there any more changes nothing but a counter (invariant 5).
    pub(super) fn instance_fact(&mut self, now: Now, id: &InstanceId, fact: InstanceFact) {
        let Some(seat) = self.seat_of(id) else {
            self.stale += 1;
            return;
        };
        let name = &id.unit;
        match fact {
            InstanceFact::Spawned { part: Part::Main, pid, at, ports, left_out } => {
                if !left_out.is_empty() {
                    self.not_enforced(now, name, seat, &left_out);
                }
                if let Some(instance) = self.instance_mut(name, seat) {
                    instance.ports = ports.into();
                }
                self.apply(now, name, seat, Fact::Spawned { pid, at });
            }
            InstanceFact::Spawned { .. } => {}
            InstanceFact::SpawnFailed { part, stage, errno, detail } => {
                self.stop_hook_failed(now, name, seat, part, &format!("could not {stage}: {detail}"));
                self.apply(now, name, seat, Fact::SpawnFailed { stage, errno, detail });
            }
            InstanceFact::PortHeld { detail } => {
                let stage = SpawnStage::Listeners;
                self.apply(now, name, seat, Fact::SpawnFailed { stage, errno: EADDRINUSE, detail });
                // The unit waits for what the look finds, and its waiting ends as any other for this machine.
                // One look finds what all wait for that are to be started now.
                if !self.effects.iter().any(|effect| matches!(effect, Effect::LookAtMachine)) {
                    self.effects.push_back(Effect::LookAtMachine);
                }
            }
            InstanceFact::Exited { part: Part::Main, exit, remains } => {
                if let Some(instance) = self.instance_mut(name, seat) {
                    instance.forked = remains && exit == Exit::Code(0) && !instance.spec.policy.job;
                }
                self.apply(now, name, seat, Fact::Exited { exit, remains });
            }
            InstanceFact::Exited { part, exit, .. } => {
                // A hook that ends in the turn in which its unit is no longer wanted starts nothing.
                let wish = self.units.get(name).map(|unit| self.wish(name, unit));
                let wanted = matches!(wish, Some(Wish::Up { replicas }) if seat.ordinal.0 < replicas);
                if matches!(part, Part::PreStart(_)) && !wanted {
                    self.apply(now, name, seat, Fact::Stop { reason: StopReason::Unwanted });
                }
                if exit != Exit::Code(0) {
                    self.stop_hook_failed(now, name, seat, part, &format!("ended: {exit}"));
                }
                self.apply(now, name, seat, Fact::HookExited { part, exit })
            }
            InstanceFact::Uncontained => {
                self.not_enforced(now, name, seat, &[super::OUT_OF_ITS_CGROUP.to_owned()])
            }
            InstanceFact::Gone { survivors } => self.apply(now, name, seat, Fact::Gone { survivors }),
            InstanceFact::Probe { kind, seq, ok, late, message } => {
                self.probe_seen(now, name, seat, (kind, seq), late);
                self.probe_answer(now, name, seat, kind, seq, ok, message);
                self.remember_startup(name, seat);
            }
            InstanceFact::PortOpen => self.port_open(now, name, seat),
            InstanceFact::ToldReady { .. } => {
                self.told_ready(now, name, seat);
                self.remember_startup(name, seat);
            }
            InstanceFact::ToldStopping => {
                self.note(now, name, seat, "ToldStopping", "the program says that it is stopping")
            }
            InstanceFact::ToldStatus(text) => {
                if let Some(instance) = self.instance_mut(name, seat) {
                    instance.status_text = Some(text);
                }
            }
            InstanceFact::ToldReloading { since } => self.told_reloading(name, seat, since),
            InstanceFact::Reloaded { ok, message } => self.reloaded(now, name, seat, ok, &message),
            InstanceFact::MainPid(pid) => {
                self.apply(now, name, seat, Fact::MainPid { pid });
                let slot = self.units.get(name).and_then(|unit| unit.slots.get(&seat));
                let main = slot.and_then(|slot| slot.state.process()).filter(|main| main.pid == pid);
                self.effects.extend(main.map(|_| Effect::Follow { id: id.clone(), pid }));
            }
            InstanceFact::Extend { until } => {
                if let Some(instance) = self.instance_mut(name, seat) {
                    let spec = instance.spec.clone();
                    if let Some(board) = instance.board.as_mut() {
                        board.extend(&spec.policy, until);
                    }
                    let starts = instance.board.as_ref().is_some_and(|board| !board.is_through());
                    // One that asks every moment is not written down every moment.
                    let told =
                        instance.extended.is_some_and(|told| until.since(told) < limits::EXTENDED_TOLD);
                    if starts && !told {
                        instance.extended = Some(until);
                        self.remember(name, seat);
                    }
                }
                self.extend_watch(name, seat, until);
                self.apply(now, name, seat, Fact::Extend { until });
            }
            InstanceFact::Heartbeat => return self.heartbeat(now, name, seat),
            InstanceFact::ToldFrozen => self.told_frozen(now, name, seat),
            InstanceFact::HeartbeatWithin(within) => self.heartbeat_within(now, name, seat, within),
            InstanceFact::Seen { look, closely } => {
                return self.seen(now, name, seat, look.as_ref(), closely);
            }
        }
        self.touch(name);
    }

    /// A deadline of the unit has passed: states, probes, time limits. Asking the questions that are due touches nothing else.
    pub(super) fn unit_due(&mut self, now: Now, name: &Name) {
        let Some(unit) = self.units.get(name) else { return };
        let seats: Vec<Seat> = unit.slots.keys().copied().collect();
        if unit.plan_due().is_some_and(|at| at <= now.mono) {
            self.dirty.insert(name.clone());
        }
        for seat in seats {
            let Some(slot) = self.units.get(name).and_then(|unit| unit.slots.get(&seat)) else { continue };
            if slot.state.deadline().is_some_and(|at| at <= now.mono) {
                self.apply(now, name, seat, Fact::Due);
                self.touch(name);
            }
            self.check_active_deadline(now, name, seat);
            self.reload_due(now, name, seat);
            self.ask_due(now, name, seat);
            self.look_due(now, name, seat);
        }
        self.set_timer(name);
    }

    fn check_active_deadline(&mut self, now: Now, name: &Name, seat: Seat) {
        let Some(slot) = self.units.get(name).and_then(|unit| unit.slots.get(&seat)) else { return };
        let (Some(instance), Some(process)) = (&slot.instance, slot.state.process()) else { return };
        let over =
            instance.spec.policy.active_deadline.is_some_and(|limit| process.executed_at + limit <= now.mono);
        if over && !matches!(slot.state, Lifecycle::Stopping(_)) {
            self.apply(now, name, seat, Fact::Stop { reason: StopReason::DeadlineExceeded });
            self.touch(name);
        }
    }

    fn ask_due(&mut self, now: Now, name: &Name, seat: Seat) {
        let Some(id) = self.instance_id(name, seat) else { return };
        let Some(instance) = self.instance_mut(name, seat) else { return };
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
        self.verdict(now, name, seat, verdict);
    }

    /// Steps one seat and carries out what the step asks for.
    pub(super) fn apply(&mut self, now: Now, name: &Name, seat: Seat, fact: Fact) {
        let Some(unit) = self.units.get_mut(name) else { return };
        let unit_spec = unit.spec.clone();
        let Some(slot) = unit.slots.get_mut(&seat) else { return };
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
            self.carry_out(now, name, seat, request);
        }
        if was_starting && !is_starting {
            self.start_slot_freed();
        }
    }

    fn carry_out(&mut self, now: Now, name: &Name, seat: Seat, request: Request) {
        let Some(id) = self.instance_id(name, seat) else { return };
        match request {
            Request::Spawn(part) => {
                let slot = self.units.get(name).and_then(|unit| unit.slots.get(&seat));
                let Some((slot, instance)) = slot.and_then(|slot| Some((slot, slot.instance.as_ref()?)))
                else {
                    return;
                };
                let (spec, generation) = (instance.spec.clone(), instance.generation);
                // What belongs to its end waits for nobody's start.
                let attempt = match part {
                    Part::Main | Part::PreStart(_) => slot.restart.attempt,
                    Part::StopCommand | Part::PostStop(_) => 0,
                };
                let role = seat.role;
                self.effects.push_back(Effect::Spawn { id, part, role, spec, generation, attempt });
            }
            Request::Signal(signal) => self.effects.push_back(Effect::Signal { id, signal }),
            Request::Kill => self.effects.push_back(Effect::Kill { id }),
            Request::Executed => self.executed(now, name, seat),
            Request::StopBegan => self.stop_began(name, seat),
            Request::Ended(end) => self.ended(now, name, seat, end),
        }
    }

    /// The program has been executed: its probes begin, or it is through at once.
    fn executed(&mut self, now: Now, name: &Name, seat: Seat) {
        let Some(id) = self.instance_id(name, seat) else { return };
        let object = self.object(name);
        let Some(unit) = self.units.get_mut(name) else { return };
        let change = unit.change;
        let Some(slot) = unit.slots.get_mut(&seat) else { return };
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
        let cause = self.slot_cause(name, seat);
        let message = format!("{seat} started, pid {}", process.pid);
        let record = self.announce(
            now,
            Entry { warning: false, reason: "Started", object: &object, message, change, cause },
        );
        self.set_cause(name, seat, record);
        if seat.role != Role::Serving {
            // The next daemon has to know which of the two it is.
            self.remember(name, seat);
        }
        self.settle_board(now, name, seat);
    }

    /// After an edit of its probes: the line that is awaited now, be it written already.
    pub(super) fn look_for_line(&mut self, name: &Name, seat: Seat) {
        let Some(id) = self.instance_id(name, seat) else { return };
        let Some(instance) = self.instance_mut(name, seat) else { return };
        let board = instance.board.as_ref();
        let awaits =
            board.is_some_and(|board| !board.is_through() || board.lacks_line(&instance.spec.policy));
        if awaits && awaits_log(&instance.spec) {
            instance.log_watched = true;
            let spec = instance.spec.clone();
            self.effects.push_back(Effect::WatchLog { id, spec });
        }
    }

    /// Probes may be through without a question: there are none, or they changed in place. What is due is asked.
    pub(super) fn settle_board(&mut self, now: Now, name: &Name, seat: Seat) {
        let Some(instance) = self.instance_mut(name, seat) else { return };
        let spec = instance.spec.clone();
        let Some(board) = instance.board.as_mut() else { return };
        let verdict = board.settle(&spec.policy, now.mono);
        self.verdict(now, name, seat, verdict);
        self.ask_due(now, name, seat);
    }

    fn probe_answer(
        &mut self,
        now: Now,
        name: &Name,
        seat: Seat,
        kind: ProbeKind,
        seq: u64,
        ok: bool,
        message: String,
    ) {
        let Some(instance) = self.instance_mut(name, seat) else { return };
        let spec = instance.spec.clone();
        let Some(board) = instance.board.as_mut() else { return };
        let edited = board.has_unproved_edit();
        let verdict = board.answer(&spec.policy, kind, seq, ok, message, now.mono);
        if edited && !board.has_unproved_edit() {
            self.remember(name, seat);
        }
        self.verdict(now, name, seat, verdict);
    }

    fn port_open(&mut self, now: Now, name: &Name, seat: Seat) {
        let Some(instance) = self.instance_mut(name, seat) else { return };
        let spec = instance.spec.clone();
        if let Some(board) = instance.board.as_mut() {
            board.port_open(&spec.policy, now.mono);
        }
        self.ask_due(now, name, seat);
    }

    /// The next daemon has to know that a startup is over: it is not said twice.
    fn remember_startup(&mut self, name: &Name, seat: Seat) {
        let Some(instance) = self.instance_mut(name, seat) else { return };
        let started = instance.board.as_ref().is_some_and(crate::unit::ProbeBoard::has_started);
        if started && !std::mem::replace(&mut instance.startup_told, true) {
            self.remember(name, seat);
        }
    }

    fn told_ready(&mut self, now: Now, name: &Name, seat: Seat) {
        self.reload_answered(now, name, seat);
        let Some(instance) = self.instance_mut(name, seat) else { return };
        let spec = instance.spec.clone();
        let Some(board) = instance.board.as_mut() else { return };
        let edited = board.has_unproved_edit();
        let verdict = board.told_ready(&spec.policy, now.mono);
        if edited && !board.has_unproved_edit() {
            self.remember(name, seat);
        }
        self.verdict(now, name, seat, verdict);
    }

    fn verdict(&mut self, now: Now, name: &Name, seat: Seat, verdict: Verdict) {
        match verdict {
            Verdict::Nothing => {}
            Verdict::Through => {
                self.apply(now, name, seat, Fact::Through);
                // First of all: READY=1 is said once, and a daemon that dies before the keeper knows of it has taken it along.
                self.ready_changed(now, name, seat, true);
                self.stop_watching(name, seat);
                self.watch(now, name, seat);
                self.note(now, name, seat, "Ready", "is ready");
            }
            Verdict::BecameReady => {
                self.ready_changed(now, name, seat, true);
                self.note(now, name, seat, "Ready", "is ready again");
            }
            Verdict::BecameUnready(why) => {
                let cause = self.blame_running(now, name, seat);
                let cause = cause.or_else(|| self.blame_finding(now, name, seat));
                self.tell(now, name, seat, true, "Unready", &format!("is not ready: {why}"), cause);
                self.ready_changed(now, name, seat, false);
            }
            Verdict::StartupFailed(why) => {
                let words = format!("did not start up: {}{why}", self.times(name, seat, ProbeKind::Startup));
                let cause = self.blame_running(now, name, seat).or_else(|| self.slot_cause(name, seat));
                self.tell(now, name, seat, true, "StartupProbeFailed", &words, cause);
                let goes_back = self.edited_probe_failed(now, name, seat, ProbeKind::Startup, &words);
                let board = self.instance_mut(name, seat).and_then(|instance| instance.board.as_mut());
                match board.filter(|board| board.is_through()) {
                    _ if goes_back => {}
                    Some(board) => board.forgo_startup_proof(),
                    None => self.apply(now, name, seat, Fact::Stop { reason: StopReason::StartupFailed }),
                }
            }
            Verdict::LivenessFailed(why) => {
                let words = format!("is not alive: {}{why}", self.times(name, seat, ProbeKind::Liveness));
                // That it was started and ready before is not why.
                let cause = self.blame_running(now, name, seat);
                self.tell(now, name, seat, true, "LivenessProbeFailed", &words, cause);
                if !self.edited_probe_failed(now, name, seat, ProbeKind::Liveness, &words) {
                    self.apply(now, name, seat, Fact::Stop { reason: StopReason::LivenessFailed });
                }
            }
        }
    }

    fn ready_changed(&mut self, now: Now, name: &Name, seat: Seat, ready: bool) {
        if let Some(unit) = self.units.get_mut(name) {
            unit.breaker.trial_ready(ready, now.mono);
            if let Some(slot) = unit.slots.get_mut(&seat) {
                slot.ready_since = ready.then_some(now.mono);
                slot.available = false;
            }
        }
        self.remember(name, seat);
        self.touch(name);
    }

    /// Probes end with the stop.
    fn stop_began(&mut self, name: &Name, seat: Seat) {
        self.stop_watching(name, seat);
        if let Some(slot) = self.units.get_mut(name).and_then(|unit| unit.slots.get_mut(&seat)) {
            (slot.ready_since, slot.available) = (None, false);
            (slot.reloading, slot.unread) = (None, None);
            if let Some(instance) = slot.instance.as_mut() {
                (instance.board, instance.vigil) = (None, None);
            }
        }
        self.remember(name, seat);
    }

    pub(super) fn stop_watching(&mut self, name: &Name, seat: Seat) {
        let Some(id) = self.instance_id(name, seat) else { return };
        let Some(instance) = self.instance_mut(name, seat) else { return };
        let port = std::mem::replace(&mut instance.port_watched, false);
        let log = std::mem::replace(&mut instance.log_watched, false);
        if port {
            self.effects.push_back(Effect::UnwatchPort { id: id.clone() });
        }
        if log {
            self.effects.push_back(Effect::UnwatchLog { id });
        }
    }

    fn not_enforced(&mut self, now: Now, name: &Name, seat: Seat, left_out: &[String]) {
        if let Some(instance) = self.instance_mut(name, seat) {
            let new = left_out.iter().filter(|what| !instance.left_out.contains(what)).cloned();
            instance.left_out = instance.left_out.iter().cloned().chain(new).collect();
        }
        self.touch(name);
        self.remember(name, seat);
        let object = self.object(name);
        let cause = self.slot_cause(name, seat);
        let change = self.units.get(name).and_then(|unit| unit.change);
        let message = format!("{seat} runs without {}", left_out.join(", "));
        let entry = Entry { warning: true, reason: "NotEnforced", object: &object, message, change, cause };
        self.announce(now, entry);
    }

    pub(super) fn note(&mut self, now: Now, name: &Name, seat: Seat, reason: &'static str, words: &str) {
        self.tell(now, name, seat, false, reason, words, self.slot_cause(name, seat));
    }

    pub(super) fn warn(&mut self, now: Now, name: &Name, seat: Seat, reason: &'static str, words: &str) {
        self.tell(now, name, seat, true, reason, words, self.slot_cause(name, seat));
    }

    /// `3 times: `, for a probe that is allowed to fail now and then.
    fn times(&mut self, name: &Name, seat: Seat, kind: ProbeKind) -> String {
        let threshold = self
            .instance_mut(name, seat)
            .and_then(|instance| Some(instance.spec.policy.probes[kind.index()].as_ref()?.failure_threshold));
        threshold
            .filter(|times| *times > 1)
            .map_or(String::new(), |times| format!("{} failed {times} times: ", kind.as_str()))
    }

    pub(super) fn tell(
        &mut self,
        now: Now,
        name: &Name,
        seat: Seat,
        warning: bool,
        reason: &'static str,
        words: &str,
        cause: Option<u64>,
    ) {
        let object = self.object(name);
        let change = self.units.get(name).and_then(|unit| unit.change);
        let message = format!("{seat} {words}");
        let record = self.announce(now, Entry { warning, reason, object: &object, message, change, cause });
        self.set_cause(name, seat, record);
    }

    /// Where an instance is; none if it is not there any more.
    fn seat_of(&self, id: &InstanceId) -> Option<Seat> {
        let unit = self.units.get(&id.unit)?;
        let here = |slot: &&Slot| {
            slot.seat.ordinal == id.ordinal
                && slot.instance.as_ref().is_some_and(|instance| instance.incarnation == id.incarnation)
        };
        // Three seats at most: cheaper than an index.
        [Seat::serving(id.ordinal), Seat::incoming(id.ordinal), Seat::draining(id.ordinal)]
            .iter()
            .filter_map(|seat| unit.slots.get(seat).map(Box::as_ref))
            .find(here)
            .map(|slot| slot.seat)
    }

    pub(super) fn slot_cause(&self, name: &Name, seat: Seat) -> Option<u64> {
        self.units.get(name)?.slots.get(&seat)?.cause
    }

    pub(super) fn instance_mut(&mut self, name: &Name, seat: Seat) -> Option<&mut super::Instance> {
        self.units.get_mut(name)?.slots.get_mut(&seat)?.instance.as_mut()
    }
}

/// Its readiness or startup is told by a line in its log.
fn awaits_log(spec: &crate::plan::UnitSpec) -> bool {
    spec.launch.awaits_log
}

//! When an instance is probed and what the answers mean. Kubernetes' rules to the letter, plus early probing.
//!
//! * `startup` gates the other two until it has succeeded once; when it fails, the instance is stopped.
//! * `readiness` runs for the whole life and only ever flips Ready; `liveness` failing stops the instance.
//! * Thresholds count consecutive answers; `initialDelay` counts from the program's start.
//! * While an instance is starting it is asked early as well: when the kernel says that its port is open, else after
//!   5, 10, 20 … ms up to the period. Early failures do not count: one failure a period does.
//!
//! Source: Kubernetes "Configure Liveness, Readiness and Startup Probes"; early probing is unisys' own.

use std::time::Duration;

use smallvec::SmallVec;

use crate::base::{Instant, PortNumbers, limits};

use super::policy::{Policy, ProbeKind, ProbePolicy, ProbeWay};

/// The probes of one instance.
#[derive(Clone, Debug)]
pub struct ProbeBoard {
    /// Boxed: most services have no probe.
    tracks: [Option<Box<Track>>; 3],
    ready: bool,
    through: bool,
}

#[derive(Clone, Debug)]
struct Track {
    /// When it is asked next; `NEVER` while gated, in flight or told.
    next: Instant,
    /// The question under way.
    in_flight: Option<u64>,
    asked: u64,
    asked_at: Instant,
    successes: u32,
    failures: u32,
    passed: bool,
    /// It was edited under the running program, or asked by an earlier daemon, and has not answered well since.
    unproved: bool,
    /// It was edited, and that is what is not proved.
    edited: bool,
    /// The next early delay.
    early: Duration,
    /// Failures of questions asked before this do not count.
    counts_from: Instant,
    last: Option<Answer>,
}

/// The latest answer of a probe, for `describe` and messages.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub ok: bool,
    pub message: String,
    pub at: Instant,
}

/// A question to ask now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    pub kind: ProbeKind,
    pub seq: u64,
    pub timeout: Duration,
}

/// What an answer changed.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    Nothing,
    /// Startup and the first readiness are through; the instance is Ready.
    Through,
    BecameReady,
    BecameUnready(String),
    StartupFailed(String),
    LivenessFailed(String),
}

impl ProbeBoard {
    /// The board of a program executed at `executed_at`.
    pub fn new(policy: &Policy, executed_at: Instant) -> Self {
        let gated = policy.probe(ProbeKind::Startup).is_some();
        let tracks = ProbeKind::ALL.map(|kind| {
            policy
                .probe(kind)
                .map(|probe| Track::new(probe, executed_at, gated && kind != ProbeKind::Startup))
                .map(Box::new)
        });
        Self { tracks, ready: false, through: false }
    }

    /// The board of an instance that was through its probes under an earlier daemon: it stays Ready until it is found otherwise.
    pub fn adopted(policy: &Policy, executed_at: Instant, now: Instant, ready: bool) -> Self {
        let mut board = Self::new(policy, executed_at);
        board.through = true;
        board.ready = ready || policy.probe(ProbeKind::Readiness).is_none();
        for kind in ProbeKind::ALL {
            let (Some(track), Some(probe)) = (&mut board.tracks[kind.index()], policy.probe(kind)) else {
                continue;
            };
            track.passed = kind != ProbeKind::Readiness || ready;
            track.early = probe.period;
            track.counts_from = now;
            let asked = probe.way != ProbeWay::Told && kind != ProbeKind::Startup;
            track.next = if asked { now } else { Instant::NEVER };
            track.unproved = asked;
        }
        board
    }

    /// Its probes changed in place: counts start again, what it is stays until they have answered. An answer to what was asked
    /// before is none to them. `edited`: which are other questions now. A startup probe among them is asked once more, for what it
    /// would say at the next start, and of one whose startup is over it decides nothing else; a line that is awaited is looked for
    /// in what was written already.
    pub fn replace_policy(&mut self, policy: &Policy, executed_at: Instant, now: Instant, edited: [bool; 3]) {
        let mut board = if self.through {
            Self::adopted(policy, executed_at, now, self.ready)
        } else {
            Self::resumed(policy, executed_at, now, self.has_started())
        };
        for (new, old) in board.tracks.iter_mut().zip(&self.tracks) {
            if let (Some(new), Some(old)) = (new, old) {
                new.asked = old.asked;
            }
        }
        board.mark_edited(true);
        let edited = ProbeKind::ALL.into_iter().filter(|kind| edited[kind.index()] && board.through);
        let edited: SmallVec<[ProbeKind; 3]> = edited.collect();
        board.prove(policy, &edited, now);
        *self = board;
    }

    /// These are to be proved by the running program, startup and told ones as well.
    pub fn prove(&mut self, policy: &Policy, edited: &[ProbeKind], now: Instant) {
        for kind in edited.iter().copied() {
            let (Some(track), Some(probe)) = (&mut self.tracks[kind.index()], policy.probe(kind)) else {
                continue;
            };
            (track.unproved, track.edited) = (true, true);
            track.next = if probe.way == ProbeWay::Told { Instant::NEVER } else { now };
        }
    }

    /// What is not proved was edited under the program: so it was when an earlier daemon had it.
    pub fn mark_edited(&mut self, edited: bool) {
        for track in self.tracks.iter_mut().flatten() {
            track.edited = edited && track.unproved;
        }
    }

    /// An edit of its probes is still to be proved.
    pub fn has_unproved_edit(&self) -> bool {
        ProbeKind::ALL.into_iter().any(|kind| self.is_unproved_edit(kind))
    }

    /// The edited probes that are still to be proved.
    pub fn unproved_edits(&self) -> Vec<ProbeKind> {
        ProbeKind::ALL.into_iter().filter(|kind| self.is_unproved_edit(*kind)).collect()
    }

    pub fn is_unproved_edit(&self, kind: ProbeKind) -> bool {
        self.tracks[kind.index()].as_ref().is_some_and(|track| track.unproved && track.edited)
    }

    /// A line that an edited probe awaits has not been found in what the program wrote.
    pub fn lacks_line(&self, policy: &Policy) -> bool {
        let told = |kind| policy.probe(kind).is_some_and(|probe| probe.way == ProbeWay::Told);
        ProbeKind::ALL.into_iter().any(|kind| told(kind) && self.is_unproved_edit(kind))
    }

    /// No proof comes of the edited startup probe, and nothing goes back for it.
    pub fn forgo_startup_proof(&mut self) {
        if let Some(track) = &mut self.tracks[ProbeKind::Startup.index()] {
            (track.unproved, track.next) = (false, Instant::NEVER);
        }
    }

    /// No probe of it is waited for to answer well for the first time since it was edited, or since this daemon has it.
    pub fn is_proved(&self) -> bool {
        ProbeKind::ALL.into_iter().all(|kind| self.has_proved(kind))
    }

    fn has_proved(&self, kind: ProbeKind) -> bool {
        self.tracks[kind.index()].as_ref().is_none_or(|track| !track.unproved)
    }

    /// The board of an instance that was not through its probes when it began anew. Whoever has said READY=1 does not say it again:
    /// a startup that has passed is over.
    pub fn resumed(policy: &Policy, executed_at: Instant, now: Instant, started: bool) -> Self {
        let mut board = Self::new(policy, executed_at);
        if let Some(track) = board.tracks[ProbeKind::Startup.index()].as_mut().filter(|_| started) {
            (track.passed, track.next) = (true, Instant::NEVER);
            board.open_gate(policy, now);
        }
        board
    }

    /// Its startup probe, if it has one, has passed.
    pub fn has_started(&self) -> bool {
        self.tracks[ProbeKind::Startup.index()].as_ref().is_some_and(|track| track.passed)
    }

    pub fn is_ready(&self) -> bool {
        self.ready
    }

    pub fn is_through(&self) -> bool {
        self.through
    }

    /// When the question under way was asked, if it is this one.
    pub fn asked_at(&self, kind: ProbeKind, seq: u64) -> Option<Instant> {
        let track = self.tracks[kind.index()].as_ref()?;
        (track.in_flight == Some(seq)).then_some(track.asked_at)
    }

    pub fn last(&self, kind: ProbeKind) -> Option<&Answer> {
        self.tracks[kind.index()].as_ref()?.last.as_ref()
    }

    /// The port that a starting instance is expected to open soon; `own` are the numbers that it got.
    pub fn awaited_port(&self, policy: &Policy, own: &PortNumbers) -> Option<u16> {
        if self.through {
            return None;
        }
        [ProbeKind::Startup, ProbeKind::Readiness].into_iter().find_map(|kind| {
            match &policy.probe(kind)?.way {
                ProbeWay::AskedOnPort(port) => Some(*port),
                ProbeWay::AskedOnOwnPort(name) => own.get(name.as_str()),
                ProbeWay::Asked | ProbeWay::Told => None,
            }
        })
    }

    /// An instance without startup and readiness probes is through as soon as it has been executed.
    pub fn settle(&mut self, policy: &Policy, now: Instant) -> Verdict {
        let startup = self.tracks[ProbeKind::Startup.index()].as_ref().is_none_or(|track| track.passed);
        if !startup {
            return Verdict::Nothing;
        }
        let readiness = self.tracks[ProbeKind::Readiness.index()].as_ref().is_none_or(|track| track.passed);
        self.open_gate(policy, now);
        match (self.through, self.ready, readiness) {
            (false, _, true) => {
                self.through = true;
                self.ready = true;
                Verdict::Through
            }
            (true, false, true) => {
                self.ready = true;
                Verdict::BecameReady
            }
            _ => Verdict::Nothing,
        }
    }

    /// When [`Self::due`] is wanted.
    pub fn deadline(&self) -> Option<Instant> {
        self.tracks.iter().flatten().map(|track| track.next).filter(|next| *next != Instant::NEVER).min()
    }

    /// The questions to ask now. For a told startup probe the question is whether its budget is spent.
    pub fn due(&mut self, policy: &Policy, now: Instant) -> (SmallVec<[Question; 2]>, Verdict) {
        let mut questions = SmallVec::new();
        for kind in ProbeKind::ALL {
            let (Some(track), Some(probe)) = (&mut self.tracks[kind.index()], policy.probe(kind)) else {
                continue;
            };
            if track.next > now || track.in_flight.is_some() {
                continue;
            }
            if probe.way == ProbeWay::Told {
                track.next = Instant::NEVER;
                if kind == ProbeKind::Startup && !track.passed {
                    return (
                        questions,
                        Verdict::StartupFailed("it did not say that it is ready in time".into()),
                    );
                }
                continue;
            }
            questions.push(track.ask(kind, probe, now));
        }
        (questions, Verdict::Nothing)
    }

    /// The answer to a question. An answer to no open question changes nothing.
    pub fn answer(
        &mut self,
        policy: &Policy,
        kind: ProbeKind,
        seq: u64,
        ok: bool,
        message: String,
        now: Instant,
    ) -> Verdict {
        let (Some(track), Some(probe)) = (&mut self.tracks[kind.index()], policy.probe(kind)) else {
            return Verdict::Nothing;
        };
        if track.in_flight != Some(seq) {
            return Verdict::Nothing;
        }
        track.in_flight = None;
        let starting = !self.through && kind != ProbeKind::Liveness;
        track.schedule(probe, starting && !ok, now);
        let failed = track.count(probe, ok);
        track.last = Some(Answer { ok, message: message.clone(), at: now });
        match (kind, ok) {
            (ProbeKind::Startup, true) => {
                if track.passed {
                    track.next = Instant::NEVER;
                }
                self.settle(policy, now)
            }
            (ProbeKind::Startup, false) if failed => Verdict::StartupFailed(message),
            (ProbeKind::Liveness, false) if failed => Verdict::LivenessFailed(message),
            (ProbeKind::Readiness, true) => self.settle(policy, now),
            (ProbeKind::Readiness, false) if failed => {
                track.passed = false;
                if std::mem::replace(&mut self.ready, false) {
                    Verdict::BecameUnready(message)
                } else {
                    Verdict::Nothing
                }
            }
            _ => Verdict::Nothing,
        }
    }

    /// The program says that it is ready (`READY=1`, the s6 newline, the awaited log line): every told probe has passed.
    pub fn told_ready(&mut self, policy: &Policy, now: Instant) -> Verdict {
        for kind in [ProbeKind::Startup, ProbeKind::Readiness] {
            let told = policy.probe(kind).is_some_and(|probe| probe.way == ProbeWay::Told);
            if let Some(track) = self.tracks[kind.index()].as_mut().filter(|_| told) {
                (track.passed, track.unproved) = (true, false);
                track.next = Instant::NEVER;
                track.last =
                    Some(Answer { ok: true, message: "the program says it is ready".into(), at: now });
            }
        }
        self.settle(policy, now)
    }

    /// The port of a starting instance is open: its probes are asked at once.
    pub fn port_open(&mut self, policy: &Policy, now: Instant) {
        if self.through {
            return;
        }
        for kind in [ProbeKind::Startup, ProbeKind::Readiness] {
            let way = policy.probe(kind).map(|probe| &probe.way);
            let on_port = matches!(way, Some(ProbeWay::AskedOnPort(_) | ProbeWay::AskedOnOwnPort(_)));
            let Some(track) = self.tracks[kind.index()].as_mut().filter(|_| on_port) else { continue };
            if track.next != Instant::NEVER && track.in_flight.is_none() {
                track.next = now;
                track.early = limits::EARLY_PROBE_FIRST;
            }
        }
    }

    /// The program asks for more time: startup failures before `until` do not count.
    pub fn extend(&mut self, policy: &Policy, until: Instant) {
        if let (Some(track), Some(probe)) =
            (&mut self.tracks[ProbeKind::Startup.index()], policy.probe(ProbeKind::Startup))
            && !track.passed
        {
            track.counts_from = track.counts_from.max(until);
            if probe.way == ProbeWay::Told {
                track.next = track.next.max(until);
            }
        }
    }

    /// Startup has passed: readiness and liveness begin.
    fn open_gate(&mut self, policy: &Policy, now: Instant) {
        for kind in [ProbeKind::Readiness, ProbeKind::Liveness] {
            let (Some(track), Some(probe)) = (&mut self.tracks[kind.index()], policy.probe(kind)) else {
                continue;
            };
            if track.in_flight.is_none() && track.next == Instant::NEVER && probe.way != ProbeWay::Told {
                track.next = now;
                track.counts_from = now;
            }
        }
    }
}

impl Track {
    fn new(probe: &ProbePolicy, executed_at: Instant, gated: bool) -> Self {
        let first = executed_at + probe.initial_delay;
        let next = match probe.way {
            _ if gated => Instant::NEVER,
            // What is told has a budget: so many periods.
            ProbeWay::Told => first + probe.period.saturating_mul(probe.failure_threshold),
            _ => first,
        };
        Self {
            next,
            in_flight: None,
            asked: 0,
            asked_at: Instant::default(),
            successes: 0,
            failures: 0,
            passed: false,
            unproved: false,
            edited: false,
            early: limits::EARLY_PROBE_FIRST,
            counts_from: first,
            last: None,
        }
    }

    fn ask(&mut self, kind: ProbeKind, probe: &ProbePolicy, now: Instant) -> Question {
        self.asked += 1;
        self.asked_at = now;
        self.in_flight = Some(self.asked);
        self.next = Instant::NEVER;
        Question { kind, seq: self.asked, timeout: probe.timeout }
    }

    /// When it is asked again. A period counts from question to question, as Kubernetes' ticker does.
    fn schedule(&mut self, probe: &ProbePolicy, early: bool, now: Instant) {
        let regular = self.asked_at + probe.period;
        self.next = if early && self.early < probe.period {
            let next = now + self.early;
            self.early = self.early.saturating_mul(2);
            next.min(regular.max(now))
        } else {
            regular.max(now)
        };
    }

    /// Counts an answer; true when the failure threshold is reached.
    fn count(&mut self, probe: &ProbePolicy, ok: bool) -> bool {
        if ok {
            self.failures = 0;
            self.successes += 1;
            let enough = self.successes >= probe.success_threshold;
            self.passed |= enough;
            self.unproved &= !enough;
            return false;
        }
        self.successes = 0;
        if self.asked_at < self.counts_from {
            return false;
        }
        self.counts_from = self.asked_at + probe.period;
        self.failures += 1;
        if self.failures >= probe.failure_threshold {
            self.failures = 0;
            return true;
        }
        false
    }
}

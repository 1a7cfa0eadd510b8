//! What the world remembers of each unit and each of its ordinals.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::base::{
    Exit, Generation, Incarnation, InstanceId, Instant, Name, Ordinal, PortNumbers, Revision, Role, Seat,
    Stamp,
};
use crate::plan::{Drift, UnitSpec, Wish};
use crate::rollout::{Failure, Rollout};
use crate::unit::{Breaker, End, EndReason, Finding, Lifecycle, ProbeBoard, RestartState, StopReason, Vigil};

use super::chronicle::RecordId;
use super::overrides::Overrides;

/// One version of a unit's spec.
#[derive(Clone, Debug)]
pub struct Version {
    pub spec: Arc<UnitSpec>,
    pub generation: Generation,
    /// The revision that brought it.
    pub revision: Revision,
}

/// One unit: what is wanted of it and its seats.
#[derive(Clone, Debug)]
pub struct Unit {
    /// What is wanted to run: the declared version, or another one while an override says so.
    pub spec: Arc<UnitSpec>,
    pub generation: Generation,
    /// What the accepted manifests say.
    pub written: Version,
    /// The last version that was found well.
    pub good: Option<Version>,
    /// The one that was good before it: where to go back to while a rollout is on trial.
    pub before: Option<Version>,
    pub rollout: Rollout,
    /// Why the present rollout came about.
    pub rolled_by: Option<Arc<super::Cause>>,
    /// A restored good version whose spec is not known yet: its identity, and the spec built from its revision.
    pub known_good: Option<(super::event::Known, Option<Arc<UnitSpec>>)>,
    /// An earlier version that an earlier daemon was on its way to, since somebody had asked for it.
    pub asked_for: Option<Version>,
    /// Instances that an earlier daemon has told the end of, and the keeper may still hold.
    pub ended: Vec<Incarnation>,
    /// How far an earlier daemon got with its rollout.
    pub progress: Option<crate::rollout::Progress>,
    pub span: Option<(crate::rollout::Span, Option<Arc<super::Cause>>)>,
    /// Failures of an instance that a restart brought up.
    pub restart_crashes: u32,
    /// The last restart that somebody asked for came to nothing: why.
    pub restart_given_up: Option<Box<str>>,
    /// Somebody asked for a restart: what was started since then is it.
    pub restart_since: Option<Incarnation>,
    /// It is in the desired state; else it is on its way out.
    pub declared: bool,
    /// It went in the revision that brought these: what is said of that.
    pub gone_with: Option<Box<str>>,
    /// It is not, and goes on: that was told.
    pub kept: bool,
    /// See [`Desired::left_out`](crate::plan::Desired::left_out).
    pub left_out: bool,
    pub overrides: Overrides,
    /// Boxed: a node of the map has room for eleven, and nearly every unit has one.
    pub slots: BTreeMap<Seat, Box<Slot>>,
    pub breaker: Breaker,
    /// Of a Job: a version of it has completed, be it an earlier one.
    pub completed_once: bool,
    /// Of a Job: what its last run was of, if that ended well.
    pub completed: Option<Completed>,
    /// +1 whenever an instance was replaced by a plan, for `restart: true` edges.
    pub replacements: u64,
    /// The latest record that explains what the unit does.
    pub cause: Option<RecordId>,
    /// The record of the last change of its manifest that took a new process or a reload or concerned its probes, and the
    /// generation that it brought, until an instance of that has proved itself.
    pub changed: Option<(RecordId, Generation)>,
    /// The change that its next actions belong to.
    pub change: Option<u64>,
    /// `replicas` before the last scale, until it is reached.
    pub scaled_from: Option<u32>,
    /// When each condition last changed, with the value it had.
    pub conditions: SettledConditions,
    /// What dependents were last told: a difference marks them dirty.
    pub facets: Option<crate::plan::Facets>,
    /// What it waits for, as the last plan said.
    pub waiting: Option<String>,
    /// The dependency that held up its start: when it starts, that one's readiness is the cause.
    pub waited_for: Option<Name>,
}

/// Conditions by kind: a handful, so a list is smaller and quicker than a map.
#[derive(Clone, Debug, Default)]
pub struct SettledConditions(Vec<(&'static str, Settled)>);

impl SettledConditions {
    pub fn get(&self, kind: &str) -> Option<&Settled> {
        self.0.iter().find(|(known, _)| *known == kind).map(|(_, settled)| settled)
    }

    pub fn set(&mut self, kind: &'static str, settled: Settled) {
        match self.0.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, old)) => *old = settled,
            None => self.0.push((kind, settled)),
        }
    }
}

/// A condition's value since a time.
#[derive(Clone, Debug, PartialEq)]
pub struct Settled {
    pub status: &'static str,
    pub reason: &'static str,
    pub since: Stamp,
}

/// One seat.
#[derive(Clone, Debug)]
pub struct Slot {
    pub seat: Seat,
    pub state: Lifecycle,
    /// While something of an instance may exist.
    pub instance: Option<Instance>,
    pub restart: RestartState,
    /// Boxed: rarely there.
    pub last_end: Option<Box<LastEnd>>,
    /// What an earlier daemon knew of the end before the instance that it left; of nobody while there is none.
    pub recalled_end: Option<Box<LastEnd>>,
    /// The generation that a Failed or Done rest belongs to.
    pub rested_at: Generation,
    pub restart_asked: Option<String>,
    /// An earlier daemon left that word, of this instance: whoever has followed it since has done what it says.
    pub asked_of: Option<Incarnation>,
    /// The record that explains its state.
    pub cause: Option<RecordId>,
    pub drift: Drift,
    /// Ready since, without a break.
    pub ready_since: Option<Instant>,
    /// Ready for `minReady`.
    pub available: bool,
    /// It has run for `progressDeadline` and has not been Ready in that time.
    pub overdue: bool,
    /// It ended by itself in the middle of a rollout: it is started again as this, not as what is new.
    pub former: Option<Version>,
    /// It was told to read its files again.
    pub reloading: Option<Reloading>,
    /// The last time that it was told to came to nothing: it runs with what it read before.
    pub unread: Option<Box<Failure>>,
}

/// A reload that is not over.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reloading {
    /// When it was told to.
    pub began: Instant,
    /// It has said RELOADING=1 to that, and its READY=1 is the end of it (`notify-reload`).
    pub answered: bool,
    /// It has said RELOADING=1 without MONOTONIC_USEC, which could be the answer to anything.
    pub undated: bool,
    /// How long it may take.
    pub timeout: std::time::Duration,
    pub deadline: Instant,
}

/// One start of one process.
#[derive(Clone, Debug)]
pub struct Instance {
    pub incarnation: Incarnation,
    /// The spec it was started with (with later in-place changes).
    pub spec: Arc<UnitSpec>,
    pub generation: Generation,
    pub started_wall: Stamp,
    /// From execution to the beginning of its stop.
    pub board: Option<ProbeBoard>,
    /// From when it is through its probes, if its spec has a watchdog.
    pub vigil: Option<Box<Vigil>>,
    /// What its watchdog ends it for.
    pub frozen: Option<Box<Finding>>,
    /// `STATUS=` of sd_notify.
    pub status_text: Option<String>,
    pub port_watched: bool,
    pub log_watched: bool,
    /// `replacements` of each `restart: true` dependency when it was started.
    pub seen: BTreeMap<Name, u64>,
    /// Numbers of its `auto` ports, once it has been spawned.
    pub ports: Arc<PortNumbers>,
    /// What it runs without: security settings (`bestEffort`), or its cgroup.
    pub left_out: Vec<String>,
    /// The interval of its heartbeat, if it has asked for one (`WATCHDOG_USEC=`).
    pub heartbeat: Option<Duration>,
    /// It ended well, and processes of it ran on.
    pub forked: bool,
    /// It may speak to nobody ([`super::event::Mark::unheard`]).
    pub unheard: bool,
    /// The keeper knows that it has started up.
    pub startup_told: bool,
    /// Until when its startup may take, if it has asked for more time (`EXTEND_TIMEOUT_USEC=`).
    pub extended: Option<Instant>,
}

impl Instance {
    /// Edges with `restart: true` that it had not when it was started count from now on.
    pub(super) fn sees(&mut self, replacements: BTreeMap<Name, u64>) {
        for (name, count) in replacements {
            self.seen.entry(name).or_insert(count);
        }
    }
}

/// How the last instance of an ordinal ended.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct LastEnd {
    pub end: End,
    pub at: Stamp,
    pub incarnation: Incarnation,
    pub words: String,
}

/// A run of a Job that ended well.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Completed {
    /// [`Launch::program`](crate::plan::Launch::program).
    pub program: String,
    pub exit: Exit,
}

impl Unit {
    /// What is wanted to run, and what its instances were started with.
    pub(super) fn versions(&self) -> impl Iterator<Item = &Arc<UnitSpec>> {
        let instances = self.slots.values().filter_map(|slot| slot.instance.as_ref());
        std::iter::once(&self.spec).chain(instances.map(|instance| &instance.spec))
    }

    /// Its rollout is paused, and something good ran before it.
    pub(super) fn stays(&self) -> bool {
        let rolls = self.overrides.paused.is_some() && !self.rollout.goes_back();
        rolls && self.good.as_ref().is_some_and(|good| good.generation != self.generation)
    }

    /// Earlier failures no longer count.
    pub(super) fn forgive(&mut self) {
        self.breaker.reset();
        self.slots.values_mut().for_each(|slot| slot.restart.attempt = 0);
    }

    /// What a Job ran last, and well, is what it is to run: it does not run again, whatever was wanted in between.
    pub(super) fn rests_as_completed(&mut self) {
        let Some(completed) = self.completed.as_ref().filter(|_| self.spec.policy.job) else { return };
        if completed.program != self.spec.launch.program() {
            return;
        }
        for slot in self.slots.values_mut().filter(|slot| slot.instance.is_none()) {
            slot.state = Lifecycle::Done(completed.exit);
            slot.rested_at = self.generation;
        }
    }

    /// A Job that has run, and ended well, for its present generation.
    pub fn has_run(&self) -> bool {
        self.spec.policy.job && self.has_completed()
    }

    /// All of it ended well, as its present generation, and nothing starts it again: a Job, or a Service whose restart policy is
    /// not Always.
    pub fn has_completed(&self) -> bool {
        !self.slots.is_empty() && self.slots.values().all(|slot| slot.is_done(self.generation))
    }

    pub fn new(spec: Arc<UnitSpec>, generation: Generation, revision: Revision, at: Stamp) -> Self {
        let written = Version { spec: spec.clone(), generation, revision };
        let rollout = Rollout::begin(revision, None, generation, &spec.policy.update, at);
        Self {
            spec,
            generation,
            written,
            good: None,
            before: None,
            rollout,
            rolled_by: None,
            known_good: None,
            asked_for: None,
            ended: Vec::new(),
            progress: None,
            span: None,
            restart_crashes: 0,
            restart_given_up: None,
            restart_since: None,
            declared: true,
            gone_with: None,
            kept: false,
            left_out: false,
            overrides: Overrides::default(),
            slots: BTreeMap::new(),
            breaker: Breaker::default(),
            completed_once: false,
            completed: None,
            replacements: 0,
            cause: None,
            changed: None,
            change: None,
            scaled_from: None,
            conditions: SettledConditions::default(),
            facets: None,
            waiting: None,
            waited_for: None,
        }
    }

    /// Replicas in force: an override before the manifest.
    pub fn replicas(&self) -> u32 {
        match &self.overrides.replicas {
            Some((replicas, _)) => *replicas,
            None => self.spec.policy.replicas,
        }
    }

    /// What is wanted of it by itself; `kept`: it goes on though it is in no manifest.
    pub fn wish(&self, kept: bool) -> Wish {
        if !self.declared && !kept {
            return Wish::Gone { why: self.gone_words() };
        }
        if let Some(signature) = self.overrides.keeps_down() {
            return Wish::Down { why: format!("disabled by {}", signature.by) };
        }
        if let Some(signature) = &self.overrides.stopped {
            return Wish::Down { why: format!("stopped by {}", signature.by) };
        }
        if self.left_out && self.overrides.started.is_none() {
            return Wish::Down { why: "`unisys up` was given other units".into() };
        }
        // Whatever version runs, the switch is the one that is written now.
        if let Some(why) = &self.written.spec.switched_off {
            return Wish::Down { why: why.clone() };
        }
        Wish::Up { replicas: self.replicas() }
    }

    /// Why it goes, of one that is declared no longer.
    pub fn gone_words(&self) -> String {
        let with = self.gone_with.as_deref().unwrap_or_default();
        format!("it is in no manifest any more{with}")
    }

    /// The version that is wanted to run.
    pub fn wanted(&self) -> Version {
        let revision = match self.generation == self.written.generation {
            true => self.written.revision,
            false => self.rollout.revision,
        };
        Version { spec: self.spec.clone(), generation: self.generation, revision }
    }

    /// What was started as this generation, if it is known what that is.
    pub fn version_of(&self, generation: Generation) -> Option<Arc<UnitSpec>> {
        self.known_versions().find(|(known, _)| *known == generation).map(|(_, spec)| spec.clone())
    }

    /// What may be started, or was good and may come back.
    pub fn known_versions(&self) -> impl Iterator<Item = (Generation, &Arc<UnitSpec>)> {
        let known = [&self.good, &self.before, &self.asked_for]
            .into_iter()
            .flatten()
            .map(|it| (it.generation, &it.spec));
        let restored = self.known_good.iter().filter_map(|(it, spec)| Some((it.generation, spec.as_ref()?)));
        std::iter::once((self.generation, &self.spec)).chain(known).chain(restored)
    }

    /// It does not run what its manifest says, because that was found bad.
    pub fn is_rolled_back(&self) -> bool {
        self.overrides.rejected.is_some()
    }

    /// The seats that the unit consists of.
    pub fn serving(&self) -> impl Iterator<Item = &Slot> {
        self.slots.values().map(Box::as_ref).filter(|slot| slot.seat.role == Role::Serving)
    }

    /// An ordinal is Ready when its serving instance is, or the one that is to take its place.
    pub fn is_ordinal_ready(&self, ordinal: Ordinal) -> bool {
        [Seat::serving(ordinal), Seat::incoming(ordinal)]
            .iter()
            .any(|seat| self.slots.get(seat).is_some_and(|slot| slot.is_ready()))
    }

    /// None of it is there because it was stopped or replaced on purpose: nobody who misses it has met with an outage.
    pub fn is_down_on_purpose(&self) -> bool {
        let purpose = |reason: &EndReason| {
            matches!(reason, EndReason::Stopped(StopReason::Unwanted | StopReason::Replaced))
        };
        let ended = |slot: &Slot| slot.last_end.as_ref().is_some_and(|last| purpose(&last.end.reason));
        let mut serving = self.serving().peekable();
        serving.peek().is_some()
            && serving.all(|slot| match &slot.state {
                Lifecycle::Stopping(stopping) => purpose(&stopping.reason),
                Lifecycle::Idle | Lifecycle::Starting(_) => ended(slot),
                _ => false,
            })
    }

    pub fn is_gone(&self) -> bool {
        self.slots.values().all(|slot| !slot.state.is_occupied())
    }

    /// The earliest time at which something of the unit is due.
    pub fn deadline(&self) -> Option<Instant> {
        let slots = self.slots.values().flat_map(|slot| {
            let board = slot.instance.as_ref().and_then(|instance| instance.board.as_ref());
            let active = slot.instance.as_ref().and_then(|instance| {
                let limit = instance.spec.policy.active_deadline?;
                let process = slot.state.process()?;
                (!matches!(slot.state, Lifecycle::Stopping(_))).then_some(process.executed_at + limit)
            });
            let reload = slot.reloading.map(|reloading| reloading.deadline);
            let vigil = slot.instance.as_ref().and_then(|instance| instance.vigil.as_ref()?.deadline());
            [vigil, slot.state.deadline(), board.and_then(ProbeBoard::deadline), active, reload]
        });
        slots.flatten().chain(self.plan_due()).min()
    }

    /// When its plan may be another one though nothing has happened.
    pub fn plan_due(&self) -> Option<Instant> {
        let update = &self.spec.policy.update;
        let slots = self.slots.values().flat_map(|slot| {
            let overdue = slot.overdue_at(update.progress_deadline);
            let overdue = overdue.filter(|_| !slot.overdue && !self.spec.policy.job);
            [slot.available_at(update.min_ready), overdue]
        });
        let breaker = self.spec.policy.breaker.as_ref().and_then(|policy| self.breaker.deadline(policy));
        slots.chain([breaker, self.rollout.due(update)]).flatten().min()
    }
}

impl Slot {
    pub fn new(seat: Seat) -> Self {
        Self {
            seat,
            state: Lifecycle::Idle,
            instance: None,
            restart: RestartState::default(),
            last_end: None,
            recalled_end: None,
            rested_at: Generation(0),
            restart_asked: None,
            asked_of: None,
            cause: None,
            drift: Drift::None,
            ready_since: None,
            available: false,
            overdue: false,
            former: None,
            reloading: None,
            unread: None,
        }
    }

    /// It ended well as this generation, and is not started again.
    pub fn is_done(&self, generation: Generation) -> bool {
        matches!(self.state, Lifecycle::Done(_)) && self.rested_at == generation
    }

    /// When it will have been Ready for `minReady`, if it is not available yet.
    pub fn available_at(&self, min_ready: std::time::Duration) -> Option<Instant> {
        self.ready_since.filter(|_| !self.available).map(|since| since + min_ready)
    }

    /// When it will have had as long as it may take to become Ready, while it is not.
    pub fn overdue_at(&self, limit: std::time::Duration) -> Option<Instant> {
        if self.ready_since.is_some() || matches!(self.state, Lifecycle::Stopping(_)) {
            return None;
        }
        Some(self.state.process()?.executed_at + limit)
    }

    pub fn id(&self, unit: &Name) -> Option<InstanceId> {
        let incarnation = self.instance.as_ref()?.incarnation;
        Some(InstanceId { unit: unit.clone(), ordinal: self.seat.ordinal, incarnation })
    }

    pub fn is_ready(&self) -> bool {
        let board = self.instance.as_ref().and_then(|instance| instance.board.as_ref());
        matches!(self.state, Lifecycle::Up(_)) && board.is_some_and(ProbeBoard::is_ready)
    }

    /// The probes that it has now have answered well, of those that can be asked: that it was Ready by others says nothing.
    pub fn is_proved(&self) -> bool {
        let board = self.instance.as_ref().and_then(|instance| instance.board.as_ref());
        board.is_none_or(ProbeBoard::is_proved)
    }

    pub fn vigil(&mut self) -> Option<&mut Vigil> {
        self.instance.as_mut()?.vigil.as_deref_mut()
    }

    pub fn board(&mut self) -> Option<&mut ProbeBoard> {
        self.instance.as_mut()?.board.as_mut()
    }
}

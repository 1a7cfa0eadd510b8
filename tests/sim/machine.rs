//! The fake keeper and the fake programs: what is true, whatever the world believes.

use std::collections::BTreeMap;
use std::time::Duration;

use unisys::base::{Exit, InstanceId, Instant, Part, Rng, Signal};
use unisys::plan::UnitSpec;
use unisys::unit::WatchdogPolicy;
use unisys::unit::watchdog::{Class, Look, OnFreeze, Threads, Work, WorkKind};
use unisys::world::Mark;

use std::sync::Arc;

/// How likely each fault is in this run.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    /// Of those who die, the share of keepers.
    pub keeper_dies: f64,
    pub exec_fails: f64,
    pub crashes: f64,
    pub never_ready: f64,
    pub ignores_stop: f64,
    pub leaves_descendants: f64,
    pub probe_lies: f64,
    pub repeated: f64,
    pub daemon_dies: f64,
    pub freezes: f64,
    /// Of commits, the share that takes long.
    pub slow_disk: f64,
    /// Of daemons that die, the share after which the files are edited before the next one reads them.
    pub edited_unseen: f64,
}

impl Faults {
    pub const NONE: Self = Self {
        keeper_dies: 0.0,
        exec_fails: 0.0,
        crashes: 0.0,
        never_ready: 0.0,
        ignores_stop: 0.0,
        leaves_descendants: 0.0,
        probe_lies: 0.0,
        repeated: 0.0,
        daemon_dies: 0.0,
        freezes: 0.0,
        slow_disk: 0.0,
        edited_unseen: 0.0,
    };

    pub fn draw(rng: &mut Rng) -> Self {
        let mut some = |most: f64| if rng.chance(0.5) { rng.unit() * most } else { 0.0 };
        Self {
            keeper_dies: some(0.5),
            exec_fails: some(0.2),
            crashes: some(0.7),
            never_ready: some(0.3),
            ignores_stop: some(0.5),
            leaves_descendants: some(0.5),
            probe_lies: some(0.2),
            repeated: some(0.5),
            daemon_dies: some(0.02),
            freezes: some(0.5),
            slow_disk: some(0.3),
            edited_unseen: some(0.3),
        }
    }
}

/// One process.
#[derive(Clone, Debug)]
pub struct Process {
    pub pid: u32,
    pub at: Instant,
    /// A spawn thread has it: it neither runs nor can be killed yet.
    pub spawning: bool,
    pub exit: Option<Exit>,
    pub ignores_stop: bool,
    pub ready_at: Option<Instant>,
    /// The world has been told of its end.
    pub end_told: bool,
    pub frozen: Option<Frozen>,
}

/// How a program hangs, from when on.
#[derive(Clone, Copy, Debug)]
pub struct Frozen {
    pub at: Instant,
    pub class: Class,
    /// Somebody waits for it, and shows it.
    pub demand: bool,
}

impl Process {
    pub fn is_frozen(&self, now: Instant) -> Option<Frozen> {
        self.frozen.filter(|frozen| frozen.at <= now)
    }

    /// What a look shows. One that is well works a little all the time.
    pub fn look(&self, now: Instant) -> Look {
        let well = self.frozen.map_or(now, |frozen| frozen.at.min(now)).since(self.at) / 10;
        let mut look =
            Look { cpu: well, threads: Threads { total: 2, ..Threads::default() }, ..Look::default() };
        let Some(frozen) = self.is_frozen(now) else {
            // Connections come and go.
            look.work = Some(vec![Work { id: now.0, kind: WorkKind::Connection, amount: 1 }]);
            return look;
        };
        match frozen.class {
            Class::Deadlock => look.threads.locked = 2,
            Class::Stuck => look.threads.uninterruptible = 1,
            Class::Stopped => look.threads.stopped = 2,
            Class::Livelock => {
                look.threads.running = 1;
                look.cpu += now.since(frozen.at) / 10;
                look.wanted += now.since(frozen.at);
            }
            Class::Blocked => {}
        }
        let waits = Work { id: 1, kind: WorkKind::Connection, amount: 1 };
        look.work = Some(if frozen.demand { vec![waits] } else { Vec::new() });
        look
    }

    /// The watchdog has to end it, and when that can be expected at the latest; `since`: nobody watched before.
    pub fn end_expected(&self, policy: &WatchdogPolicy, since: Instant) -> Option<Instant> {
        let frozen = self.frozen?;
        let from = frozen.at.max(since).max(self.ready_at?);
        // Of these two, only a probe that gets no answer is proof.
        let proven = frozen.demand && !matches!(frozen.class, Class::Livelock | Class::Blocked);
        let limits = [policy.heartbeat, policy.hard.filter(|_| proven)];
        let limit = limits.into_iter().flatten().min().filter(|_| policy.on_freeze != OnFreeze::Alert)?;
        Some(from + limit * 2 + Duration::from_secs(10))
    }

    /// The watchdog may end it.
    pub fn may_be_ended(&self, policy: &WatchdogPolicy, now: Instant) -> bool {
        let proven = |frozen: Frozen| frozen.demand || policy.heartbeat.is_some();
        policy.on_freeze != OnFreeze::Alert && self.is_frozen(now).is_some_and(proven)
    }
}

/// What the keeper holds of one instance.
#[derive(Clone, Debug)]
pub struct Held {
    pub spec: Arc<UnitSpec>,
    pub generation: unisys::base::Generation,
    pub mark: Mark,
    pub parts: BTreeMap<Part, Process>,
    pub descendants: bool,
    /// Killed while a spawn thread had it: it is, once it has been spawned.
    pub doomed: bool,
    pub signalled: Option<Signal>,
    /// When it was given its present watchdog, if it had another one before.
    pub rewatched: Option<Instant>,
    /// When somebody moved it out of its cgroup.
    pub moved_out: Option<Instant>,
}

impl Held {
    pub fn is_alive(&self) -> bool {
        self.descendants || self.parts.values().any(|process| process.exit.is_none())
    }

    pub fn main_alive(&self) -> bool {
        self.parts.get(&Part::Main).is_some_and(|process| process.exit.is_none())
    }

    /// As far as the world can know.
    pub fn main_alive_as_told(&self) -> bool {
        self.parts.get(&Part::Main).is_some_and(|process| !process.end_told)
    }
}

#[derive(Clone, Debug, Default)]
pub struct Keeper {
    pub held: BTreeMap<InstanceId, Held>,
    pub next_pid: u32,
    /// Everything is being stopped: who wanted it.
    pub down: Option<String>,
}

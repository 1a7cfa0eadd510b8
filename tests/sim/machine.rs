//! The fake keeper and the fake programs: what is true, whatever the world believes.

use std::collections::BTreeMap;

use unisys::base::{Exit, InstanceId, Instant, Part, Rng, Signal};
use unisys::plan::UnitSpec;
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

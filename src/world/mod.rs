//! All of the state, and the only place where it changes.
//!
//! ```text
//! handle(now, Event) … handle(now, Event)   facts and wishes go in
//! settle_some(now)                          plan some of what is dirty, take the steps that can be taken
//! poll_effect() → Effect                    what the executor is to do
//! poll_deadline() → Instant                 when a Tick is wanted
//! ```
//!
//! Only dirty units are planned: one crash among 10,000 units costs what that one unit costs.

mod adopt;
mod changes;
mod checkpoint;
pub mod chronicle;
pub mod conditions;
mod edges;
pub mod effect;
mod ends;
pub mod event;
mod externals;
mod facts;
pub mod holds;
mod listeners;
mod neighbours;
mod orders;
pub mod overrides;
mod reload;
mod revise;
pub mod rollouts;
mod settle;
pub mod shutdown;
mod standing;
pub mod state;
mod steps;
mod watchdog;
pub mod why;
pub mod words;

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::base::{Category, Incarnation, Instant, Name, Now, Revision, Rng};
use crate::plan::{Desired, UnitSpec, Verb};

pub use chronicle::{CIRCUIT_OPEN, Change, Chronicle, Outcome, Record, RecordId};
pub use effect::{Effect, Failure};
pub use event::{Adopted, Beginning, Cause, Checkpoint, Event, InstanceFact, Known, Mark, Order};
pub use externals::External;
pub use listeners::Holdings;
pub use overrides::{Overrides, Rejection, Signature};
pub use rollouts::RolloutRecord;
pub use state::{Instance, Slot, Unit, Version};
pub use why::LINKS;

use chronicle::Entry;
use standing::Standing;

/// What an instance runs without that somebody moved out of its cgroup ([`Instance::left_out`]).
pub const OUT_OF_ITS_CGROUP: &str = "its cgroup and the limits of it: somebody else moved its processes out";

/// The state of everything. See the module. A copy decides like the original: `plan` asks one what would happen.
#[derive(Clone)]
pub struct World {
    desired: Arc<Desired>,
    /// Boxed: nodes of a map that was filled in order are half empty.
    units: BTreeMap<Name, Box<Unit>>,
    externals: BTreeMap<Name, External>,
    /// Among all units there are, those on their way out included.
    dependents: edges::Dependents,
    /// Taken away wherever something else is wanted or there are other units, and then found anew.
    standing: OnceCell<Standing>,
    /// Units that are in no manifest any more.
    undeclared: BTreeSet<Name>,
    /// Units of which instances run that are to be replaced, as of their last change of specs.
    outdated: BTreeSet<Name>,
    restored: BTreeMap<Name, (Checkpoint, Option<Arc<UnitSpec>>)>,
    /// Held by the keeper with nothing of them alive, and their main program never asked for: looked at when all others are known.
    half_started: Vec<Adopted>,
    /// Of [`Unit::ended`], those that the keeper still holds.
    told_before: Vec<(Name, Incarnation)>,
    dirty: BTreeSet<Name>,
    touched: BTreeSet<Name>,
    timers: Timers,
    effects: VecDeque<Effect>,
    chronicle: Chronicle,
    changes: BTreeMap<u64, OpenChange>,
    /// Changes that grew since they were last saved.
    unsaved: BTreeSet<u64>,
    /// The change that brought the version of a unit, complete: it may still go back on trial.
    brought: BTreeMap<Name, Arc<Change>>,
    next_change: u64,
    rng: Rng,
    incarnation: Incarnation,
    /// Ordinals in Starting, for `maxConcurrentStarts`.
    starting: u32,
    waiting_for_start: BTreeSet<Name>,
    waiting_for_roll: BTreeSet<Name>,
    /// They start once a unit that is on its way out has let go of a port.
    waiting_for_port: BTreeSet<Name>,
    /// Whose rollouts count for `maxConcurrentRollouts`, as they were last planned.
    rolling: BTreeSet<Name>,
    begun: bool,
    /// Why the first revision came about.
    first_cause: Option<Cause>,
    /// The record of the machine's restart, if that ended what an earlier daemon had started.
    rebooted: Option<RecordId>,
    /// Everything goes down: why.
    down: Option<String>,
    stop_by: Option<shutdown::StopBy>,
    finished: bool,
    /// Facts that came too late to matter (invariant 5) or could not happen.
    pub stale: u64,
}

/// A change whose actions are not all done.
#[derive(Clone)]
struct OpenChange {
    change: Change,
    units: BTreeSet<Name>,
    /// Its actions by unit and verb.
    rows: BTreeSet<(Name, Verb)>,
    /// One of them has gone back to what was before it.
    rolled_back: bool,
}

/// When each unit is due.
#[derive(Clone, Default)]
struct Timers {
    queue: BTreeSet<(Instant, Name)>,
    of: BTreeMap<Name, Instant>,
}

impl Timers {
    fn set(&mut self, name: &Name, at: Option<Instant>) {
        if self.of.get(name).copied() == at {
            return;
        }
        if let Some(old) = self.of.remove(name) {
            self.queue.remove(&(old, name.clone()));
        }
        if let Some(at) = at.filter(|at| *at != Instant::NEVER) {
            self.of.insert(name.clone(), at);
            self.queue.insert((at, name.clone()));
        }
    }

    fn pop_due(&mut self, now: Instant) -> Option<Name> {
        let (at, _) = self.queue.first()?;
        if *at > now {
            return None;
        }
        let (_, name) = self.queue.pop_first()?;
        self.of.remove(&name);
        Some(name)
    }
}

impl World {
    pub fn new(beginning: Beginning) -> Self {
        Self {
            desired: Arc::new(Desired::default()),
            units: BTreeMap::new(),
            externals: BTreeMap::new(),
            dependents: edges::Dependents::new(),
            standing: OnceCell::new(),
            undeclared: BTreeSet::new(),
            outdated: BTreeSet::new(),
            restored: BTreeMap::new(),
            half_started: Vec::new(),
            told_before: Vec::new(),
            dirty: BTreeSet::new(),
            touched: BTreeSet::new(),
            timers: Timers::default(),
            effects: VecDeque::new(),
            // 2^20 records a life of the daemon: ids ascend across lives, without asking the store.
            chronicle: Chronicle::new(beginning.epoch.0 << 20),
            changes: BTreeMap::new(),
            unsaved: BTreeSet::new(),
            brought: BTreeMap::new(),
            next_change: 1,
            rng: Rng::new(beginning.seed),
            incarnation: beginning.incarnation,
            starting: 0,
            waiting_for_start: BTreeSet::new(),
            waiting_for_roll: BTreeSet::new(),
            waiting_for_port: BTreeSet::new(),
            rolling: BTreeSet::new(),
            begun: false,
            first_cause: None,
            rebooted: None,
            down: None,
            stop_by: None,
            finished: false,
            stale: 0,
        }
    }

    /// What earlier daemons told, oldest first; before anything else is heard.
    pub fn recall(&mut self, history: Vec<Record>) {
        self.chronicle.recall(history);
    }

    /// Changes recorded by earlier daemons go up to here.
    pub fn continue_changes_after(&mut self, last: u64) {
        self.next_change = self.next_change.max(last + 1);
    }

    /// Takes in one fact or wish. Nothing is decided about other units until [`Self::settle`].
    pub fn handle(&mut self, now: Now, event: Event) {
        match event {
            Event::Desired { desired, cause } => self.revise(now, desired, &cause),
            Event::Restore { unit, checkpoint, kept } => {
                self.restored.insert(unit, (checkpoint, kept));
            }
            Event::Adopt(adopted) => self.adopt(now, *adopted),
            Event::Begin => self.begin(now),
            Event::Instance { id, fact } => self.instance_fact(now, &id, fact),
            Event::External { name, seq, ok, message } => self.external_answer(now, &name, seq, ok, message),
            Event::Order { order, by } => self.order(now, order, &by),
            Event::StopBy { at } => self.stop_by(now, at),
            Event::ShutDown { by, now: at_once } => self.shut_down(now, &by, at_once),
            Event::Lines { unit, revision, lines } => self.failing_lines(now, &unit, revision, lines),
            Event::Classified { id, generation, exit, ran_for, category } => {
                if category == Category::Config {
                    self.misconfigured(now, &id, generation, exit, ran_for);
                }
            }
            Event::Note { warning, reason, object, message } => {
                let entry = Entry { warning, reason, object: &object, message, change: None, cause: None };
                self.announce(now, entry);
            }
            Event::ProgramChanged { name } => self.program_changed(now, &name),
            Event::Tick => self.tick(now),
        }
    }

    /// The next thing to do, in order.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        let effect = self.effects.pop_front();
        if effect.is_none() {
            // A thousand units that start at once leave room for thousands.
            self.effects.shrink_to(64);
        }
        effect
    }

    /// When [`Event::Tick`] is wanted next.
    pub fn poll_deadline(&self) -> Option<Instant> {
        let first = self.timers.queue.first().map(|(at, _)| *at);
        first.into_iter().chain(self.stop_due()).min()
    }

    /// Names whose status may have changed since the last call: what watchers are told.
    pub fn take_touched(&mut self) -> BTreeSet<Name> {
        std::mem::take(&mut self.touched)
    }

    pub fn desired(&self) -> &Arc<Desired> {
        &self.desired
    }

    pub fn revision(&self) -> Revision {
        self.desired.revision
    }

    pub fn units(&self) -> &BTreeMap<Name, Box<Unit>> {
        &self.units
    }

    pub fn externals(&self) -> &BTreeMap<Name, External> {
        &self.externals
    }

    pub fn chronicle(&self) -> &Chronicle {
        &self.chronicle
    }

    /// The incarnation that the next start will get: the executor reserves ahead of it.
    pub fn next_incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Why everything goes down, if it does.
    pub fn going_down(&self) -> Option<&str> {
        self.down.as_deref()
    }

    /// Units that something is still being done to.
    pub fn is_settled(&self) -> bool {
        self.dirty.is_empty() && self.effects.is_empty()
    }

    fn announce(&mut self, now: Now, entry: Entry<'_>) -> RecordId {
        let record = self.chronicle.write(now, entry);
        let id = record.id;
        self.effects.push_back(Effect::Announce(record));
        id
    }

    /// A unit changed: plan it again, look at its deadlines again, tell watchers.
    fn touch(&mut self, name: &Name) {
        self.dirty.insert(name.clone());
        self.touched.insert(name.clone());
    }

    fn tick(&mut self, now: Now) {
        self.hurry(now);
        // All that is due first: one whose deadline only settling moves (a circuit's) would be due for ever.
        let mut due = Vec::new();
        while let Some(name) = self.timers.pop_due(now.mono) {
            due.push(name);
        }
        for name in due {
            // An External takes the name of a unit that may still be on its way out.
            self.external_due(now, &name);
            self.unit_due(now, &name);
        }
    }

    /// When something of this name is due next.
    fn set_timer(&mut self, name: &Name) {
        let unit = self.units.get(name).and_then(|unit| unit.deadline());
        let external = self.externals.get(name).and_then(External::deadline);
        self.timers.set(name, unit.into_iter().chain(external).min());
    }
}

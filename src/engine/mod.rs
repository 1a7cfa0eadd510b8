//! The daemon: collect events → `world.handle` → effects → wake those who watch. It holds every descriptor and no rule.
//!
//! One thread, one loop. A turn takes a bounded batch of inputs, lets the world settle once, and carries out what it asks for.

mod adoption;
mod console;
mod deleted;
mod effects;
mod failures;
pub mod foretold;
mod frozen;
mod hearing;
pub mod history;
mod inputs;
mod last_up;
pub mod launch;
mod link;
mod listening;
mod machine;
mod owning;
mod ports;
mod programs;
mod pruning;
mod reports;
mod secrets;
mod set;
pub mod sets;
mod started_with;
mod telling;
mod trim;
mod usage;
mod watching;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use crate::base::{Debounce, Epoch, InstanceId, Instant, Name, Revision, limits};
use crate::faults::notifier::deliver::Courier;
use crate::keeper::protocol::{Down, Held, Request};
use crate::logs::Collector;
use crate::manifest::diagnostic::is_conflict;
use crate::os::cgroup::Tree;
use crate::os::state_dir::StateDir;
use crate::os::{clock, own};
use crate::plan::UnitSpec;
use crate::probe;
use crate::store::{Restored, Store, StoreError};
use crate::world::{Beginning, Cause, Event, InstanceFact, Slot, World};

pub use failures::Faults;
pub use inputs::{Input, Inputs};
pub use last_up::{LastUp, Recalled};
pub use link::{Heir, Left, Link};
pub use owning::{Ceded, Claim};
pub use reports::no_keeper;
pub use set::changed_files;
pub use sets::{Proposal, Removal, Sets};
pub use started_with::StartedWith;
use trim::Trim;

/// What a daemon is started with.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Options {
    pub state_dir: PathBuf,
    /// Paths of `-f`, absolute.
    pub paths: Vec<PathBuf>,
    pub overlays: Vec<PathBuf>,
    pub set: Option<String>,
    pub profile: Option<String>,
    pub watch: bool,
    /// Only these units, as they were written, and what they need; empty: all.
    pub units: Vec<String>,
    /// Limits of open files that services get.
    pub nofile: (u64, u64),
    /// What is shown on the terminal: nothing, or lines.
    pub quiet: bool,
}

/// What is known of an instance beside the world: descriptors and tasks.
pub(crate) struct Attached {
    notify: Option<telling::Notify>,
    /// The process that the program named as its main one.
    main_pid: Option<u32>,
    /// Masked in its output.
    secrets: Option<Arc<crate::base::Redactor>>,
}

pub struct Engine {
    pub world: World,
    pub sets: Sets,
    /// Before the store, and so dropped before it: who has the store has the logs.
    pub collector: Collector,
    pub store: Store,
    pub state: StateDir,
    pub options: Options,
    pub epoch: Epoch,
    pub state_id: String,
    pub started: crate::base::Stamp,
    pub keeper_release: String,
    pub keeper_pid: u32,
    keeper: link::Peer,
    pub faults: Faults,
    /// Cgroups of instances, where the keeper has them.
    cgroups: Option<Tree>,
    /// Grows with every turn in which something changed: watchers look again.
    pub changed: watch::Sender<u64>,
    link: Link,
    inputs: Inputs,
    asker: probe::Asker,
    attached: BTreeMap<InstanceId, Attached>,
    /// The specs that the keeper was last told.
    told: BTreeMap<InstanceId, Arc<UnitSpec>>,
    ports: ports::PortWatch,
    programs: programs::ProgramWatch,
    listening: listening::Listening,
    files: Option<crate::os::watch::Watch>,
    /// Something happened to what the sets are read from.
    touched: Arc<tokio::sync::Notify>,
    files_due: Option<Debounce>,
    /// The latest mark of which everything before it has been told.
    passed: watch::Sender<u64>,
    /// When units that this machine lacks something for are looked at again.
    machine_due: Option<Instant>,
    /// A desired state and whether this machine lacks something for it.
    looked_at: (Arc<crate::plan::Desired>, bool),
    console: console::Console,
    /// Instances whose last output is being written.
    closing: BTreeSet<InstanceId>,
    /// Of these it was, and how they ended may not be on the disk yet.
    unrecorded: BTreeSet<InstanceId>,
    /// Why it cannot be written just now.
    pub logs_stuck: Option<String>,
    /// Why state.db cannot be.
    pub state_stuck: Option<String>,
    /// To be answered when what was heard before has been acted upon.
    heard: Vec<tokio::sync::oneshot::Sender<()>>,
    /// Of these the last lines are wanted once they are written.
    tails: BTreeMap<InstanceId, Revision>,
    /// Everything has stopped; the last outputs are waited for.
    finished: bool,
    ending: bool,
    saw_events: bool,
    trim: Trim,
}

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot talk to the keeper: {0}")]
    Link(std::io::Error),
    #[error(
        "the keeper (unisys {release}) speaks version {version} of its protocol, this daemon (unisys {}) version {}: neither \
         understands the other; services are not touched\n\
         hint: put the binary of unisys {release} back, or one that knows both; `kill -USR2` to the keeper makes it that binary",
        env!("CARGO_PKG_VERSION"), crate::keeper::protocol::VERSION
    )]
    KeeperVersion { release: String, version: u32 },
    #[error("cannot start the log collector: {0}")]
    Logs(std::io::Error),
    #[error("cannot start the thread that looks at failures: {0}")]
    Faults(std::io::Error),
    #[error("cannot set up probes: {0}")]
    Http(reqwest::Error),
    /// The diagnostics have been printed.
    #[error("the manifests are not valid")]
    Invalid,
    /// The diagnostics have been printed.
    #[error("two sets own the same object")]
    Conflict,
    #[error("there is no unit called {0}; `unisys up` without names starts everything")]
    UnknownUnits(String),
    #[error("no Config has a profile `{0}`, as --profile wants\nhint: {1}")]
    UnknownProfile(String, String),
}

impl Engine {
    /// Reads what earlier daemons left, says hello to the keeper, adopts what it holds, and takes in the manifests.
    pub async fn start(
        options: Options,
        state: StateDir,
        link: Link,
        inputs: Inputs,
    ) -> Result<Self, EngineError> {
        let (store, mut restored) = Store::open(&state.database(), Self::hear_of_store(&inputs))?;
        let mut link = link;
        let version = crate::keeper::protocol::VERSION;
        link.send(&Request::Hello { version, epoch: restored.epoch, several: true });
        let greeting = adoption::inventory(&mut link).await?;
        store.recover(&mut restored, !greeting.held.is_empty());
        let another = (greeting.version != crate::keeper::protocol::VERSION).then_some(greeting.version);
        let epoch = greeting.epoch.max(restored.epoch).next();
        link.send(&Request::Begin { epoch });
        store.begin(epoch);
        let incarnation = restored.incarnation.max(greeting.incarnation.next());
        let mut world =
            World::new(Beginning { epoch, seed: u64::from_ne_bytes(clock::random()), incarnation });
        world.continue_changes_after(restored.last_change);
        world.recall(history::read(&state.log()));
        let sender = inputs.clone();
        let tell = Box::new(move |told| sender.blocking_send(Input::Log(told)).ok());
        let collector = Collector::start(&state, tell).map_err(EngineError::Logs)?;
        let http = probe::client().map_err(EngineError::Http)?;
        let courier = Courier::new(http.clone(), &state, options.nofile);
        let faults = Faults::start(&state, &greeting.state_id, &restored.errors, &inputs, courier)
            .map_err(EngineError::Faults)?;
        let cgroups = Tree::of_this_process(&greeting.state_id);
        let sets = Sets::new(&options, &restored, &greeting.state_id, Some(greeting.keeper));
        let mut engine = Self {
            world,
            sets,
            store,
            collector,
            epoch,
            state_id: greeting.state_id,
            started: clock::wall(),
            keeper_release: greeting.release,
            keeper_pid: greeting.keeper,
            keeper: link.keeper(),
            faults,
            cgroups,
            changed: watch::channel(0).0,
            link,
            inputs,
            asker: probe::Asker::new(http),
            attached: BTreeMap::new(),
            told: BTreeMap::new(),
            ports: ports::PortWatch::default(),
            programs: programs::ProgramWatch::default(),
            listening: listening::Listening::default(),
            files: None,
            touched: Arc::default(),
            files_due: None,
            passed: watch::channel(0).0,
            machine_due: None,
            looked_at: (Arc::default(), false),
            console: console::Console::new(options.quiet, !greeting.held.is_empty()),
            closing: BTreeSet::new(),
            unrecorded: BTreeSet::new(),
            logs_stuck: None,
            state_stuck: None,
            heard: Vec::new(),
            tails: BTreeMap::new(),
            finished: false,
            ending: false,
            saw_events: false,
            trim: Trim::new(clock::mono()),
            state,
            options,
        };
        if let Some(version) = another {
            engine.keeper_differs(version);
        }
        engine.tell_of_death(greeting.died, greeting.held.len());
        engine.begin(restored, greeting.held, greeting.down)?;
        Ok(engine)
    }

    fn begin(
        &mut self,
        mut restored: Restored,
        held: Vec<(Held, Vec<std::os::fd::OwnedFd>)>,
        down: Option<Down>,
    ) -> Result<(), EngineError> {
        let now = clock::now();
        let first = held.is_empty() && restored.revision.0 == 0;
        let outcome = self.sets.begin(&restored.sets, &adoption::busy(&held));
        if let Some(declared) = outcome.desired.as_ref().filter(|_| !outcome.rejected) {
            let held = held.iter().map(|(held, _)| held.id.unit.clone()).collect();
            self.forget_deleted(&mut restored.units, declared, &held);
        }
        let at = |revision| self.desired_at(revision).ok();
        for event in
            foretold::restorations(restored.units, restored.boot, outcome.desired.as_deref(), now, at)
        {
            self.world.handle(now, event);
        }
        if let Some(warning) = &restored.warning {
            self.note(true, "StateSetAside", "system", warning.clone());
        }
        let cause =
            Cause::new("Up", if held.is_empty() { "unisys up" } else { "taken up by another daemon" });
        if outcome.rejected && (first || outcome.desired.is_none()) && held.is_empty() {
            self.console.diagnostics(&outcome.diagnostics);
            return Err(match is_conflict(&outcome.diagnostics) {
                true => EngineError::Conflict,
                false => EngineError::Invalid,
            });
        }
        let unknown = self.sets.unknown_units();
        if !unknown.is_empty() && held.is_empty() {
            return Err(EngineError::UnknownUnits(unknown.join(", ")));
        }
        if let Some((profile, known)) = self.sets.unknown_profile() {
            if held.is_empty() {
                return Err(EngineError::UnknownProfile(profile, known));
            }
            // What runs goes on.
            let message = format!("no Config has a profile `{profile}`; {known}");
            self.note(true, "UnknownProfile", "system", message);
        }
        if outcome.rejected {
            let diagnostics = self.sets.pending();
            self.console.rejected(&diagnostics, true);
        }
        for why in self
            .sets
            .iter()
            .filter(|set| set.input.files.is_empty())
            .filter_map(|set| set.unreadable.as_ref())
        {
            self.console.unread(why, self.options.watch);
        }
        if let Some(desired) = outcome.desired {
            self.world.handle(now, Event::Desired { desired, cause: cause.clone() });
        }
        for (held, fds) in held {
            self.adopt(held, fds);
        }
        // Before anything is planned: what an earlier daemon has stopped already is not started again.
        if let Some(down) = down {
            self.goes_down(down);
        }
        self.world.handle(now, Event::Begin);
        self.remember_revision(&cause.detail);
        if !outcome.rejected {
            LastUp::remember(&self.options);
        }
        self.watch_files();
        self.turn_ends();
        Ok(())
    }

    /// Runs until everything has stopped or the keeper is gone; gives the keeper that takes the place of one that was killed.
    pub async fn run(mut self, mut inputs: mpsc::Receiver<Input>) -> Option<Heir> {
        let touched = self.touched.clone();
        while !self.ending {
            let deadline = self.next_deadline();
            tokio::select! {
                biased;
                report = self.link.receive() => match report {
                    Some((report, fds)) => {
                        self.stirred();
                        self.report(report, fds);
                    }
                    None => {
                        // Who waits to tell something is let go: the log thread is waited for next.
                        inputs.close();
                        return self.keeper_lost();
                    }
                },
                Some(input) = inputs.recv() => {
                    self.stirred();
                    self.input(input);
                }
                () = touched.notified() => {
                    self.stirred();
                    self.files_touched();
                }
                () = watching::sleep_until(deadline) => self.tick(),
            }
            for _ in 0..limits::TURN_BATCH {
                if let Some((report, fds)) = self.link.try_receive() {
                    self.report(report, fds);
                } else if let Ok(input) = inputs.try_recv() {
                    self.input(input);
                } else {
                    break;
                }
            }
            self.turn_ends();
            self.look_at_keeper();
        }
        self.faults.notifiers.end().await;
        self.store.flush();
        self.link.drain().await;
        None
    }

    fn next_deadline(&self) -> Option<Instant> {
        let files = self.files_due.as_ref().map(Debounce::due);
        let listening = self.listening.due();
        [
            self.world.poll_deadline(),
            files,
            self.ports.due,
            self.programs.due,
            listening,
            self.machine_due,
            self.sets.prune_due(),
            self.trim.due(),
            self.link.attention.due(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Something happened, other than by the time.
    fn stirred(&mut self) {
        let now = clock::mono();
        self.trim.stirred(now);
        self.link.attention.stirred(now);
    }

    fn tick(&mut self) {
        let now = clock::now();
        if self.world.poll_deadline().is_some_and(|at| at <= now.mono) {
            self.stirred();
            self.world.handle(now, Event::Tick);
        }
        if self.ports.due.is_some_and(|at| at <= now.mono) {
            for id in self.ports.look(now.mono) {
                self.fact(id, InstanceFact::PortOpen);
            }
        }
        if self.programs.due.is_some_and(|at| at <= now.mono) {
            for name in self.programs.look(now.mono) {
                self.world.handle(now, Event::ProgramChanged { name });
            }
        }
        if self.listening.due().is_some_and(|at| at <= now.mono) {
            self.look_at_listeners(now.mono);
        }
        let files = self.files_due.is_some_and(|files| files.due() <= now.mono);
        if files || self.sets.prune_due().is_some_and(|at| at <= now.mono) {
            self.files_due = None;
            if files && self.sets.is_being_written() {
                self.files_due = Some(watching::files_due(now.mono));
            } else {
                self.reload("FilesChanged");
            }
        }
        if self.trim.take_due(now.mono) {
            own::trim_memory();
        }
        if self.machine_due.is_some_and(|at| at <= now.mono) {
            self.machine_due = None;
            self.look_at_machine_again();
        }
    }

    fn main_pid(&self, id: &InstanceId) -> Option<u32> {
        self.slot_of(id)?.state.process().map(|process| process.pid)
    }

    fn slot_of(&self, id: &InstanceId) -> Option<&Slot> {
        let own = |slot: &&Slot| {
            slot.instance.as_ref().is_some_and(|instance| instance.incarnation == id.incarnation)
        };
        self.world.units().get(&id.unit)?.slots.values().map(Box::as_ref).find(own)
    }

    pub(crate) fn fact(&mut self, id: InstanceId, fact: InstanceFact) {
        self.world.handle(clock::now(), Event::Instance { id, fact });
    }

    /// Settles the world, carries out what it asks for, wakes watchers.
    fn turn_ends(&mut self) {
        // What is decided is carried out before more is. Effects that fail at once (a program that is not there) are facts for
        // the same turn.
        let mut later = Vec::new();
        while self.world.settle_some(clock::now()) | self.carry_out(&mut later) {}
        self.collector.wake();
        for effect in later {
            self.effect(effect);
        }
        self.link.flush();
        self.store.used(self.world.next_incarnation());
        self.save_failures();
        let touched = self.world.take_touched();
        self.tell_listeners(&touched);
        if !touched.is_empty() || std::mem::take(&mut self.saw_events) {
            self.console.turn(&self.world, &self.sets);
            self.changed.send_modify(|count| *count += 1);
        }
        self.wait_for_machine(&touched);
        // What came of it is on its way to the keeper.
        for heard in self.heard.drain(..) {
            let _ = heard.send(());
        }
    }

    pub(super) fn note_of(&mut self, unit: &Name, reason: &'static str, message: String) {
        let object = self.world.units().get(unit).map(|unit| unit.spec.object.to_string());
        self.note(true, reason, &object.unwrap_or_else(|| unit.to_string()), message);
    }

    pub fn note(&mut self, warning: bool, reason: &'static str, object: &str, message: String) {
        let event = Event::Note { warning, reason, object: object.to_owned(), message };
        self.world.handle(clock::now(), event);
    }
}

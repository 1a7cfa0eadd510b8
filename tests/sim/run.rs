//! One run: a system, a mix of faults, a virtual clock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use unisys::base::{
    Category, Epoch, Exit, Incarnation, InstanceId, Instant, Name, Now, Part, Revision, Rng, Signal, Stamp,
};
use unisys::manifest::load::ParseCache;
use unisys::plan::launch::Launch;
use unisys::plan::{Desired, UnitSpec};
use unisys::unit::{PartState, ProbeKind};
use unisys::world::{Adopted, Beginning, Cause, Checkpoint, Effect, Event, Failure, InstanceFact, World};

use super::machine::{Faults, Held, Keeper, Process};
use super::{oracle, system};

mod keeper;
mod people;
mod rollouts;
mod store;
mod truth;

use store::{Store, Write};

/// Something that will happen.
#[derive(Clone, Debug)]
enum Due {
    Fact(InstanceId, InstanceFact),
    /// A spawn thread has started it.
    Spawned(InstanceId, Part),
    /// A program sends its heartbeat, and the next one after this long.
    Beats(InstanceId, Duration),
    /// A failure was looked at closely.
    Classified(Box<Failure>, Category),
    /// What could not be executed is there again.
    ProgramChanged(Name),
    /// The program of an instance ends by itself.
    Ends(InstanceId, Part, Exit),
    /// What waits to be written is.
    Commit,
    /// The last output of an instance has been written.
    OutputClosed(InstanceId),
}

struct Sim {
    seed: u64,
    rng: Rng,
    faults: Faults,
    now: Instant,
    world: World,
    keeper: Keeper,
    agenda: BTreeMap<(Instant, u64), Due>,
    next: u64,
    store: Store,
    incarnation: Incarnation,
    epoch: u64,
    /// When the present daemon began.
    born: Instant,
    units: system::Units,
    /// What the files say; what is accepted of it.
    desired: Arc<Desired>,
    /// Marks that go to the keeper with the next request, or at the end of the turn.
    unsent: Vec<Effect>,
    /// The keeper is dead, and the daemon has not seen it yet: nothing that it asks for is done any more.
    orphaned: bool,
    cache: ParseCache,
    turns: u64,
    loud: bool,
    /// How often the daemon dies while everything goes down.
    fate: f64,
    finished: bool,
    liveness: oracle::Liveness,
    /// Who said READY=1 in this turn.
    heard: Vec<InstanceId>,
    /// What each Job ran last, if that ended well.
    ran: BTreeMap<Name, String>,
    /// Units of which somebody has asked for something that may be a run of its own: of this instance or a later one.
    asked: BTreeMap<Name, BTreeSet<Incarnation>>,
    /// What was done to main processes.
    done: Vec<(InstanceId, truth::Done)>,
}

/// The virtual time in which faults happen.
const TROUBLE: Duration = Duration::from_secs(120);
/// After it, everything has to be well within this.
const PATIENCE: Duration = Duration::from_secs(1800);
/// A run that takes more turns than this does not end.
const TURNS: u64 = 60_000;

/// Runs a seed; gives the number of turns, or what did not hold.
pub fn run(seed: u64, loud: bool) -> Result<u64, String> {
    let mut rng = Rng::new(seed);
    let units = system::draw(&mut rng);
    let mut cache = ParseCache::default();
    let desired = system::desired(&units, Revision(1), None, &mut cache).map(Arc::new).ok_or("no system")?;
    let mut sim = Sim {
        seed,
        faults: Faults::draw(&mut rng),
        world: world(1, &mut rng, Incarnation(1)),
        rng,
        now: Instant(1_000_000_000),
        keeper: Keeper { next_pid: 100, ..Keeper::default() },
        agenda: BTreeMap::new(),
        next: 0,
        store: Store::default(),
        incarnation: Incarnation(1),
        epoch: 1,
        born: Instant(1_000_000_000),
        units,
        desired,
        unsent: Vec::new(),
        orphaned: false,
        cache,
        turns: 0,
        loud,
        fate: 0.0,
        finished: false,
        liveness: oracle::Liveness::default(),
        heard: Vec::new(),
        ran: BTreeMap::new(),
        asked: BTreeMap::new(),
        done: Vec::new(),
    };
    sim.fate = sim.faults.daemon_dies;
    sim.begin()?;
    let trouble_ends = sim.now + TROUBLE;
    while sim.now < trouble_ends {
        sim.trouble()?;
        sim.step(trouble_ends)?;
        oracle::watchdogs(&sim.keeper, &sim.world, sim.now, sim.born)?;
    }
    sim.faults = Faults::NONE;
    sim.all_wanted()?;
    let patience_ends = sim.now + PATIENCE;
    while sim.unwell().is_some() {
        if sim.now >= patience_ends {
            return Err(format!("not well after the faults stopped: {}", sim.unwell().unwrap_or_default()));
        }
        sim.step(patience_ends)?;
    }
    sim.rollouts()?;
    sim.edits_on_edits()?;
    sim.units_that_change_together()?;
    sim.plan_tells_the_truth()?;
    sim.go_down()
}

/// What is left of a spec where the environment cannot be read any more.
fn lost(spec: &UnitSpec) -> Arc<UnitSpec> {
    let launch = Launch { lost: true, ..spec.launch.as_ref().clone() };
    Arc::new(UnitSpec { launch: Arc::new(launch), machine: Some("it is lost".into()), ..spec.clone() })
}

fn world(epoch: u64, rng: &mut Rng, incarnation: Incarnation) -> World {
    World::new(Beginning { epoch: Epoch(epoch), seed: rng.next_u64(), incarnation })
}

impl Sim {
    fn clock(&self) -> Now {
        // Of every other seed the wall clock jumps every few seconds, by years: no decision may hang on it.
        const YEARS: u64 = 20 * 365 * 24 * 3600 * 1000;
        let wall = (self.now.0 / 1_000_000) as i64;
        let jump = match self.seed % 2 {
            0 => 0,
            _ => Rng::new(self.seed ^ (self.now.0 / 7_000_000_000)).below(YEARS) as i64 - (YEARS / 2) as i64,
        };
        Now { mono: self.now, wall: Stamp(wall + jump) }
    }

    fn say(&self, words: impl FnOnce() -> String) {
        if self.loud {
            eprintln!("{:>10.3} {}", self.now.0 as f64 / 1e9, words());
        }
    }

    /// A new daemon: from the store, the manifests, and what the keeper holds.
    fn begin(&mut self) -> Result<(), String> {
        let now = self.clock();
        // What was not written is numbered anew.
        let revision = self.store.revision_of(&self.desired);
        self.desired = Arc::new(Desired { revision, ..(*self.desired).clone() });
        let rolling = self.store.units.values().filter_map(Checkpoint::rolling).collect();
        for (unit, checkpoint) in self.store.units.clone() {
            let kept = checkpoint
                .before_edit(self.desired.units.get(&unit))
                .or_else(|| checkpoint.kept_revision(&rolling, self.now))
                .and_then(|revision| self.store.revisions.get(&revision)?.units.get(&unit).cloned());
            self.world.handle(now, Event::Restore { unit, checkpoint, kept });
        }
        let cause = Cause::new("Up", "up");
        self.world.handle(now, Event::Desired { desired: self.desired.clone(), cause });
        for (id, held) in self.keeper.held.clone() {
            self.adopt(&id, &held);
        }
        if let Some(by) = self.keeper.down.clone() {
            self.world.handle(now, Event::ShutDown { by, now: false });
        }
        self.world.handle(now, Event::Begin);
        self.put(Write::Revision(self.desired.clone()));
        self.turn()
    }

    fn adopt(&mut self, id: &InstanceId, held: &Held) {
        let state = |process: &Process| match process.exit {
            _ if process.spawning => PartState::Spawning,
            Some(exit) => PartState::Ended { pid: process.pid, at: process.at, exit },
            None => PartState::Running { pid: process.pid, at: process.at },
        };
        // Of one that has ended, nobody can read what it was started with.
        let runs = held.parts.get(&Part::Main).is_some_and(|main| main.exit.is_none());
        let unit = self.world.units().get(&id.unit);
        let is_known =
            unit.is_some_and(|unit| unit.known_versions().any(|(_, spec)| *spec.launch == *held.spec.launch));
        let spec = if runs || is_known { held.spec.clone() } else { lost(&held.spec) };
        let adopted = Adopted {
            id: id.clone(),
            spec: Some(spec),
            generation: held.generation,
            started_wall: Stamp(0),
            parts: held.parts.iter().map(|(part, process)| (*part, state(process))).collect(),
            signalled: held.signalled,
            ports: Default::default(),
            mark: held.mark.clone(),
            rebooted: false,
        };
        self.world.handle(self.clock(), Event::Adopt(Box::new(adopted)));
    }

    /// The keeper is killed, and the daemon with it or after it: the next one finds by the journal what ran and what it was
    /// told of. A spawn under way ends unheard, and what had been asked of it is gone.
    fn keeper_dies(&mut self) -> Result<(), String> {
        self.say(|| "the keeper dies".into());
        for (id, held) in &mut self.keeper.held {
            // A thread that was between the request and the process starts nothing any more; the journal has no word of it.
            held.parts.retain(|part, process| {
                !process.spawning || (*part == Part::Main && id.incarnation.0 % 2 == 0)
            });
            for process in held.parts.values_mut().filter(|process| process.spawning) {
                // The process is there, found by its marker.
                process.spawning = false;
            }
            (held.doomed, held.signalled) = (false, None);
        }
        self.agenda.retain(|_, due| !matches!(due, Due::Spawned(..)));
        self.daemon_dies()
    }

    /// The daemon is killed: everything that was on its way to it is lost, and told anew as a whole.
    fn daemon_dies(&mut self) -> Result<(), String> {
        self.say(|| "the daemon dies".into());
        self.lose_writes();
        self.unsent.clear();
        // What a program said waits in the notify socket, which the keeper holds; all else is told anew as a whole.
        self.agenda.retain(
            |_, due| !matches!(due, Due::Fact(_, fact) if !matches!(fact, InstanceFact::ToldReady { .. })),
        );
        self.agenda.retain(|_, due| !matches!(due, Due::OutputClosed(_)));
        // It leaves the socket when the turn is over in which it was heard.
        for id in std::mem::take(&mut self.heard) {
            self.later(1, Due::Fact(id, InstanceFact::ToldReady { how: "READY=1" }));
        }
        for held in self.keeper.held.values_mut() {
            for process in held.parts.values_mut() {
                process.end_told = process.exit.is_some();
            }
        }
        self.epoch += 1;
        self.born = self.now;
        self.liveness = oracle::Liveness::default();
        let incarnation = Incarnation(self.incarnation.0 + 100);
        self.world = world(self.epoch, &mut self.rng, incarnation);
        self.begin()
    }

    fn somebody_dies(&mut self) -> Result<(), String> {
        if self.rng.chance(self.faults.edited_unseen) {
            self.somebody_edits_unseen();
        }
        if self.rng.chance(self.faults.keeper_dies) { self.keeper_dies() } else { self.daemon_dies() }
    }

    fn later(&mut self, millis: u64, due: Due) {
        self.next += 1;
        self.agenda.insert((self.now + Duration::from_millis(millis), self.next), due);
    }

    fn fact(&mut self, millis: u64, id: &InstanceId, fact: InstanceFact) {
        if self.rng.chance(self.faults.repeated) {
            self.later(millis + 7, Due::Fact(id.clone(), fact.clone()));
        }
        self.later(millis, Due::Fact(id.clone(), fact));
    }

    /// To the next thing that happens.
    fn step(&mut self, until: Instant) -> Result<(), String> {
        let agenda = self.agenda.first_key_value().map(|((at, _), _)| *at);
        let deadline = self.world.poll_deadline();
        let next = [agenda, deadline].into_iter().flatten().min().unwrap_or(until).min(until);
        self.now = self.now.max(next).max(self.now + Duration::from_micros(1));
        while let Some(entry) = self.agenda.first_entry().filter(|entry| entry.key().0 <= self.now) {
            match entry.remove() {
                Due::Fact(id, fact) => self.deliver(&id, fact),
                Due::Ends(id, part, exit) => self.process_ends(&id, part, exit),
                Due::Spawned(id, part) => self.spawned(&id, part),
                Due::Beats(id, pause) => self.beats(id, pause),
                Due::Commit => self.commit(),
                Due::OutputClosed(id) => self.output_closed(id),
                Due::ProgramChanged(name) => {
                    self.world.handle(self.clock(), Event::ProgramChanged { name });
                }
                Due::Classified(failure, category) => {
                    let Failure { id, generation, ran_for, .. } = *failure;
                    if let Some(exit) = failure.end.exit {
                        let event = Event::Classified { id, generation, exit, ran_for, category };
                        self.world.handle(self.clock(), event);
                    }
                }
            }
        }
        if self.world.poll_deadline().is_some_and(|at| at <= self.now) {
            self.world.handle(self.clock(), Event::Tick);
        }
        self.turn()
    }

    fn deliver(&mut self, id: &InstanceId, fact: InstanceFact) {
        if let InstanceFact::Exited { part, .. } = &fact
            && let Some(process) = self.keeper.held.get_mut(id).and_then(|held| held.parts.get_mut(part))
        {
            process.end_told = true;
        }
        if let InstanceFact::Probe { kind: ProbeKind::Liveness, seq, ok, .. } = fact {
            self.liveness.answered(id, seq, ok);
        }
        self.say(|| format!("{id} {fact:?}"));
        if let InstanceFact::ToldReady { .. } = fact {
            self.heard.push(id.clone());
        }
        self.world.handle(self.clock(), Event::Instance { id: id.clone(), fact });
    }

    fn turn(&mut self) -> Result<(), String> {
        self.turns += 1;
        if self.turns > TURNS {
            return Err("it does not come to rest".into());
        }
        let now = self.clock();
        let mut last = Vec::new();
        let mut more = true;
        while more {
            more = self.world.settle_some(now);
            let mut now_or_last = Vec::new();
            while let Some(effect) = self.world.poll_effect() {
                if effect.comes_last() { last.push(effect) } else { now_or_last.push(effect) }
            }
            if !more {
                now_or_last.append(&mut last);
            }
            for effect in now_or_last {
                // Looks are many and change nothing: daemons would do nothing but die at them.
                let share = if matches!(effect, Effect::LookAt { .. }) { 0.005 } else { 0.25 };
                self.effect(effect)?;
                if self.orphaned || !self.rng.chance(self.faults.daemon_dies * share) {
                    continue;
                }
                if self.rng.chance(self.faults.keeper_dies / 2.0) {
                    self.say(|| "the keeper dies, and the daemon ends its turn".into());
                    self.orphaned = true;
                    continue;
                }
                return self.somebody_dies();
            }
        }
        if self.orphaned {
            // It writes what it has to write before it gives way.
            self.commit();
            self.orphaned = false;
            return self.keeper_dies();
        }
        self.send();
        self.heard.clear();
        self.liveness.holds(&self.keeper, &self.world)?;
        oracle::moved_out(&self.keeper, &self.world, self.now)?;
        self.incarnation = self.world.next_incarnation();
        // Two copies of the world a look: every turn would be most of the run's time.
        if self.turns.is_multiple_of(7) { oracle::after_turn(&self.world, now) } else { Ok(()) }
    }

    fn effect(&mut self, effect: Effect) -> Result<(), String> {
        if self.orphaned && !effect.comes_last() {
            return Ok(());
        }
        if matches!(
            effect,
            Effect::Spawn { .. } | Effect::Signal { .. } | Effect::Kill { .. } | Effect::GoingDown { .. }
        ) {
            self.send();
        }
        match effect {
            Effect::Spawn { id, part, spec, generation, .. } => {
                oracle::before_spawn(&self.keeper, &self.world, &id, part, &spec, self.now)?;
                match part {
                    Part::Main => {
                        self.runs(&id, &spec)?;
                        self.done.push((id.clone(), truth::Done::Started));
                    }
                    Part::StopCommand => {
                        self.ran.remove(&id.unit);
                        self.done.push((id.clone(), truth::Done::ToldToStop));
                    }
                    Part::PreStart(_) => self.begins(&id, &spec),
                    Part::PostStop(_) => {}
                }
                self.spawn(id, part, spec, generation);
            }
            Effect::Signal { signal: Signal::CONT, .. } => {}
            // No program here names another one.
            Effect::Follow { .. } => {}
            Effect::Signal { id, signal } if signal == Signal::HUP => {
                self.done.push((id, truth::Done::ToldToReload));
            }
            Effect::Signal { id, signal } => {
                if signal == Signal::ABRT {
                    oracle::before_abort(&self.keeper, &id, self.now)?;
                }
                self.ran.remove(&id.unit);
                self.done.push((id.clone(), truth::Done::ToldToStop));
                oracle::before_signal(&self.keeper, &self.world, &id)?;
                self.signal(&id, signal);
            }
            Effect::Kill { id } => self.kill(&id),
            Effect::Forget { id } => {
                oracle::before_forget(&self.keeper, &self.world, &id)?;
                self.liveness.forget(&id);
                let after = 1 + self.rng.below(3);
                self.later(after, Due::OutputClosed(id));
            }
            Effect::Limit { .. } => {}
            Effect::Remember { .. } => self.unsent.push(effect),
            Effect::Probe { id, kind, seq, timeout, .. } => self.probe(&id, kind, seq, timeout),
            Effect::SaveUnit { name, checkpoint } => self.put(Write::Units(vec![(name, Some(checkpoint))])),
            Effect::SaveUnits { units } => {
                let units = units.into_iter().map(|(name, checkpoint)| (name, Some(checkpoint)));
                self.put(Write::Units(units.collect()));
            }
            Effect::DropUnit { name } => {
                self.ran.remove(&name);
                self.put(Write::Units(vec![(name, None)]));
            }
            Effect::GoingDown { by, .. } => self.keeper.down = Some(by),
            Effect::Finished { .. } => self.finished = true,
            Effect::Announce(record) => {
                // It goes back for what its probe said: what serves meanwhile is asked anew.
                if record.reason == "RolledBack" {
                    self.liveness.forget_unit(record.object.trim_start_matches("service/"));
                }
                self.say(|| format!("  {} {}: {}", record.object, record.reason, record.message))
            }
            // Somebody puts it back.
            Effect::WatchProgram { name, .. } => {
                let after = 1000 + self.rng.below(20_000);
                self.later(after, Due::ProgramChanged(name));
            }
            Effect::LookAt { id, closely, .. } => {
                let process = self.keeper.held.get(&id).and_then(|held| held.parts.get(&Part::Main));
                let look =
                    process.filter(|process| process.exit.is_none()).map(|process| process.look(self.now));
                self.fact(1 + self.now.0 % 50, &id, InstanceFact::Seen { look, closely });
            }
            // What is wrong with a bad version may be its configuration; this may be known late.
            Effect::Failed(failure) => {
                // What an earlier daemon knew is taken up with what is declared.
                let declared = self.desired.units.contains_key(&failure.id.unit);
                // That it was a failure may not have been recorded.
                if declared && !failure.again && self.store.tells_end(&failure.id) {
                    return Err(format!("{} ended and is told of again: it was recorded", failure.id));
                }
                let bad = failure.end.exit == Some(Exit::Code(3)) && self.rng.chance(0.5);
                let category = if bad { Category::Config } else { Category::Crash };
                let after = self.rng.below(3000);
                self.later(after, Due::Classified(failure, category));
            }
            Effect::ProbeExternal { .. }
            | Effect::WatchPort { .. }
            | Effect::UnwatchPort { .. }
            | Effect::WatchLog { .. }
            | Effect::UnwatchLog { .. }
            | Effect::UnwatchProgram { .. }
            | Effect::LookAtMachine
            | Effect::RunReload { .. }
            | Effect::TailLog { .. }
            | Effect::SaveRollout { .. }
            | Effect::SaveChange(_) => {}
        }
        Ok(())
    }
}

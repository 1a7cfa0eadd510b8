//! A world on its own, and programs that do what a scenario says: for what is easier told than drawn.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use unisys::base::{Epoch, Exit, Incarnation, InstanceId, Instant, Name, Now, Revision, SpawnStage, Stamp};
use unisys::manifest::load::ParseCache;
use unisys::plan::UnitSpec;
use unisys::unit::ProbeKind;
use unisys::world::{
    Beginning, Cause, Change, Checkpoint, Effect, Event, InstanceFact, Mark, Order, Unit, World,
};

use super::system;

/// A world, and programs that do what the scenario says.
pub struct Stage {
    pub world: World,
    now: Instant,
    revision: u64,
    cache: ParseCache,
    pid: u32,
    pub running: BTreeMap<InstanceId, u32>,
    /// What the keeper was told to remember.
    pub marks: BTreeMap<InstanceId, Mark>,
    /// As they were saved last.
    pub changes: BTreeMap<u64, Arc<Change>>,
    pub checkpoints: BTreeMap<Name, Checkpoint>,
    /// Units whose programs end five seconds after they are told to.
    pub deaf: BTreeSet<String>,
    ending: Vec<(Instant, InstanceId)>,
    /// Questions that were asked and not answered.
    asked: BTreeMap<(InstanceId, ProbeKind), u64>,
    pub asked_externals: BTreeMap<Name, u64>,
    /// Units whose start fails: where, with which errno, in which words.
    pub unstartable: BTreeMap<String, (SpawnStage, i32, &'static str)>,
    /// Units whose port somebody else holds, in these words.
    pub ports_held: BTreeMap<String, &'static str>,
    /// So often the machine was looked at.
    pub looks: u32,
    /// Failures that were told.
    pub failed: u32,
}

/// A service as a scenario writes it.
pub fn service(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: unisys.dev/v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{command: [run]{spec}}}\n---\n"
    )
}

/// The same as a version of its own, which needs a new process.
pub fn versioned(name: &str, spec: &str, version: u32) -> String {
    service(name, &format!("{spec}, env: {{X: \"{version}\"}}"))
}

pub fn system_of(spec: &str) -> String {
    format!("apiVersion: unisys.dev/v1\nkind: System\nmetadata: {{name: system}}\nspec: {{{spec}}}\n---\n")
}

/// It is down after one refusal.
pub fn external(name: &str, port: u16) -> String {
    format!(
        "apiVersion: unisys.dev/v1\nkind: External\nmetadata: {{name: {name}}}\n\
         spec: {{probes: {{readiness: {{tcp: {{host: 192.0.2.1, port: {port}}}, failureThreshold: 1}}}}}}\n---\n"
    )
}

pub const PROBED: &str =
    ", probes: {readiness: {exec: {command: [ready]}}, liveness: {exec: {command: [alive]}, period: 5s}}";
/// Its circuit opens at the first failure.
pub const FRAGILE: &str = ", circuitBreaker: {failures: 1}";

impl Stage {
    pub fn new() -> Self {
        let beginning = Beginning { epoch: Epoch(1), seed: 1, incarnation: Incarnation(1) };
        Self {
            world: World::new(beginning),
            now: Instant(1_000_000_000),
            revision: 0,
            cache: ParseCache::default(),
            pid: 100,
            running: BTreeMap::new(),
            marks: BTreeMap::new(),
            changes: BTreeMap::new(),
            checkpoints: BTreeMap::new(),
            deaf: BTreeSet::new(),
            ending: Vec::new(),
            asked: BTreeMap::new(),
            asked_externals: BTreeMap::new(),
            unstartable: BTreeMap::new(),
            ports_held: BTreeMap::new(),
            looks: 0,
            failed: 0,
        }
    }

    pub fn clock(&self) -> Now {
        Now { mono: self.now, wall: Stamp((self.now.0 / 1_000_000) as i64) }
    }

    pub fn accept(&mut self, manifests: &[String]) {
        self.revision += 1;
        let desired =
            system::from_text(manifests.concat(), Revision(self.revision), &mut self.cache).unwrap();
        let cause = match self.revision {
            1 => Cause::new("Up", "unisys up"),
            _ => Cause::new("FilesChanged", "api.yaml changed"),
        };
        self.tell(Event::Desired { desired: Arc::new(desired), cause });
        if self.revision == 1 {
            self.tell(Event::Begin);
        }
    }

    pub fn tell(&mut self, event: Event) {
        self.world.handle(self.clock(), event);
        self.act();
    }

    pub fn fact(&mut self, id: &InstanceId, fact: InstanceFact) {
        self.world.handle(self.clock(), Event::Instance { id: id.clone(), fact });
    }

    /// Everything that is asked for happens at once.
    pub fn act(&mut self) {
        loop {
            self.world.settle(self.clock());
            let Some(effect) = self.world.poll_effect() else { return };
            match effect {
                Effect::Spawn { id, .. } if self.ports_held.contains_key(id.unit.as_str()) => {
                    let detail = self.ports_held[id.unit.as_str()].to_owned();
                    self.fact(&id, InstanceFact::PortHeld { detail });
                }
                Effect::LookAtMachine => self.look_at_machine(),
                Effect::Spawn { id, part, .. } => match self.unstartable.get(id.unit.as_str()).copied() {
                    Some((stage, errno, detail)) => {
                        self.fact(
                            &id,
                            InstanceFact::SpawnFailed { part, stage, errno, detail: detail.into() },
                        );
                    }
                    None => {
                        self.pid += 1;
                        self.running.insert(id.clone(), self.pid);
                        let (pid, at) = (self.pid, self.now);
                        let (ports, left_out) = (Default::default(), Vec::new());
                        self.fact(&id, InstanceFact::Spawned { part, pid, at, ports, left_out });
                    }
                },
                Effect::Signal { id, .. } if self.deaf.contains(id.unit.as_str()) => {
                    self.ending.push((self.now + Duration::from_secs(5), id));
                }
                Effect::Failed(_) => self.failed += 1,
                Effect::SaveUnit { name, checkpoint } => _ = self.checkpoints.insert(name, *checkpoint),
                Effect::Signal { id, signal, .. } => {
                    self.ended(&id, Exit::Signal { signal: signal.0, core: false });
                }
                Effect::Kill { id } => {
                    self.ended(&id, Exit::Signal { signal: 9, core: false });
                    self.fact(&id, InstanceFact::Gone { survivors: 0 });
                }
                Effect::SaveChange(change) => _ = self.changes.insert(change.id, change),
                Effect::LookAt { id, closely, .. } => {
                    self.fact(&id, InstanceFact::Seen { look: None, closely })
                }
                Effect::Remember { id, mark, .. } => _ = self.marks.insert(id, mark),
                Effect::Probe { id, kind, seq, .. } => _ = self.asked.insert((id, kind), seq),
                Effect::ProbeExternal { name, seq, .. } => _ = self.asked_externals.insert(name, seq),
                _ => {}
            }
        }
    }

    /// What is accepted, on the machine as it is now.
    pub fn look_at_machine(&mut self) {
        self.looks += 1;
        let mut desired = (**self.world.desired()).clone();
        for (name, spec) in &mut desired.units {
            let lacks = self.ports_held.get(name.as_str()).map(|words| (*words).to_owned());
            *spec = Arc::new(UnitSpec { machine: lacks, ..(**spec).clone() });
        }
        let cause = Cause::new("MachineChanged", "this machine changed");
        self.world.handle(self.clock(), Event::Desired { desired: Arc::new(desired), cause });
    }

    pub fn ended(&mut self, id: &InstanceId, exit: Exit) {
        if self.running.remove(id).is_some() {
            let part = unisys::base::Part::Main;
            self.fact(id, InstanceFact::Exited { part, exit, remains: false });
        }
    }

    /// The latest instance of a unit.
    pub fn id(&self, name: &str) -> InstanceId {
        let of = self.running.keys().filter(|id| id.unit.as_str() == name);
        of.max_by_key(|id| id.incarnation).unwrap_or_else(|| panic!("{name} runs")).clone()
    }

    /// How many instances of a unit run.
    pub fn count(&self, name: &str) -> usize {
        self.running.keys().filter(|id| id.unit.as_str() == name).count()
    }

    pub fn unit(&self, text: &str) -> &Unit {
        &self.world.units()[&name(text)]
    }

    /// The status of a condition.
    pub fn condition(&self, unit: &str, kind: &str) -> &'static str {
        let conditions = self.world.conditions(&name(unit));
        conditions
            .into_iter()
            .find(|condition| condition.kind == kind)
            .map_or("Unknown", |found| found.status)
    }

    pub fn exits(&mut self, name: &str, exit: Exit) {
        self.ended(&self.id(name), exit);
        self.act();
    }

    /// Time goes by in steps, so that what is due in between happens.
    pub fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            let ending = self.ending.first().map(|(at, _)| *at);
            let due = self.world.poll_deadline().into_iter().chain(ending).min();
            self.now = due.map_or(end, |at| at.max(self.now + Duration::from_millis(1))).min(end);
            while self.ending.first().is_some_and(|(at, _)| *at <= self.now) {
                let (_, id) = self.ending.remove(0);
                self.ended(&id, Exit::Code(0));
            }
            self.tell(Event::Tick);
        }
    }

    pub fn answer(&mut self, name: &str, kind: ProbeKind, ok: bool, message: &str) {
        let question = self.take_question(name, kind);
        self.answer_to(question, ok, message);
    }

    /// Waits until it is asked; who answers is up to the scenario.
    pub fn take_question(&mut self, name: &str, kind: ProbeKind) -> (InstanceId, ProbeKind, u64) {
        let id = self.id(name);
        loop {
            match self.asked.remove(&(id.clone(), kind)) {
                Some(seq) => return (id, kind, seq),
                None => self.pass(Duration::from_millis(500)),
            }
        }
    }

    pub fn answer_to(&mut self, (id, kind, seq): (InstanceId, ProbeKind, u64), ok: bool, message: &str) {
        self.fact(&id, InstanceFact::Probe { kind, seq, ok, message: message.into(), late: false });
        self.act();
    }

    pub fn ready(&mut self, name: &str) {
        self.answer(name, ProbeKind::Readiness, true, "exit code 0");
    }

    pub fn not_alive(&mut self, name: &str, times: usize) {
        for _ in 0..times {
            self.answer(name, ProbeKind::Liveness, false, "timeout: no answer within 1s");
        }
    }

    pub fn external(&mut self, name: &str, ok: bool, message: &str) {
        let name: Name = name.parse().unwrap();
        let seq = loop {
            match self.asked_externals.remove(&name) {
                Some(seq) => break seq,
                None => self.pass(Duration::from_millis(500)),
            }
        };
        self.tell(Event::External { name, seq, ok, message: message.into() });
    }

    pub fn order(&mut self, order: Order) {
        self.tell(Event::Order { order, by: "ada".into() });
    }

    pub fn why(&self, name: &str) -> Vec<String> {
        let chain = self.world.why(&name.parse().unwrap());
        chain.iter().map(|record| format!("{}: {}", record.object, record.message)).collect()
    }
}

pub fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub fn names(text: &str) -> Vec<Name> {
    vec![name(text)]
}

/// The state of the rollout of `a`.
pub fn rollout(stage: &Stage) -> &'static str {
    stage.unit("a").rollout.word(false)
}

//! `why`, from the symptom to the root: composed scenarios on the decisions alone, each with its whole chain.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use unisys::base::{Epoch, Exit, Incarnation, InstanceId, Instant, Name, Now, Revision, SpawnStage, Stamp};
use unisys::manifest::load::ParseCache;
use unisys::unit::ProbeKind;
use unisys::world::{Beginning, Cause, Effect, Event, InstanceFact, Order, World};

use super::system;

/// A world, and programs that do what the scenario says.
struct Stage {
    world: World,
    now: Instant,
    revision: u64,
    cache: ParseCache,
    pid: u32,
    running: BTreeMap<InstanceId, u32>,
    /// Questions that were asked and not answered.
    asked: BTreeMap<(InstanceId, ProbeKind), u64>,
    asked_externals: BTreeMap<Name, u64>,
    /// Units whose start fails: where, with which errno, in which words.
    unstartable: BTreeMap<String, (SpawnStage, i32, &'static str)>,
}

/// A service as a scenario writes it.
fn service(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: unisys.dev/v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{command: [run]{spec}}}\n---\n"
    )
}

const PROBED: &str =
    ", probes: {readiness: {exec: {command: [ready]}}, liveness: {exec: {command: [alive]}, period: 5s}}";
/// Its circuit opens at the first failure.
const FRAGILE: &str = ", circuitBreaker: {failures: 1}";

impl Stage {
    fn new() -> Self {
        let beginning = Beginning { epoch: Epoch(1), seed: 1, incarnation: Incarnation(1) };
        Self {
            world: World::new(beginning),
            now: Instant(1_000_000_000),
            revision: 0,
            cache: ParseCache::default(),
            pid: 100,
            running: BTreeMap::new(),
            asked: BTreeMap::new(),
            asked_externals: BTreeMap::new(),
            unstartable: BTreeMap::new(),
        }
    }

    fn clock(&self) -> Now {
        Now { mono: self.now, wall: Stamp((self.now.0 / 1_000_000) as i64) }
    }

    fn accept(&mut self, manifests: &[String]) {
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

    fn tell(&mut self, event: Event) {
        self.world.handle(self.clock(), event);
        self.act();
    }

    fn fact(&mut self, id: &InstanceId, fact: InstanceFact) {
        self.world.handle(self.clock(), Event::Instance { id: id.clone(), fact });
    }

    /// Everything that is asked for happens at once.
    fn act(&mut self) {
        loop {
            self.world.settle(self.clock());
            let Some(effect) = self.world.poll_effect() else { return };
            match effect {
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
                Effect::Signal { id, signal, .. } => {
                    self.ended(&id, Exit::Signal { signal: signal.0, core: false });
                }
                Effect::Kill { id } => {
                    self.ended(&id, Exit::Signal { signal: 9, core: false });
                    self.fact(&id, InstanceFact::Gone { survivors: 0 });
                }
                Effect::Probe { id, kind, seq, .. } => _ = self.asked.insert((id, kind), seq),
                Effect::ProbeExternal { name, seq, .. } => _ = self.asked_externals.insert(name, seq),
                _ => {}
            }
        }
    }

    fn ended(&mut self, id: &InstanceId, exit: Exit) {
        if self.running.remove(id).is_some() {
            let part = unisys::base::Part::Main;
            self.fact(id, InstanceFact::Exited { part, exit, remains: false });
        }
    }

    /// The latest instance of a unit.
    fn id(&self, name: &str) -> InstanceId {
        let of = self.running.keys().filter(|id| id.unit.as_str() == name);
        of.max_by_key(|id| id.incarnation).unwrap_or_else(|| panic!("{name} runs")).clone()
    }

    fn exits(&mut self, name: &str, exit: Exit) {
        self.ended(&self.id(name), exit);
        self.act();
    }

    /// Time goes by in steps, so that what is due in between happens.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now = self
                .world
                .poll_deadline()
                .map_or(end, |at| at.max(self.now + Duration::from_millis(1)))
                .min(end);
            self.tell(Event::Tick);
        }
    }

    fn answer(&mut self, name: &str, kind: ProbeKind, ok: bool, message: &str) {
        let id = self.id(name);
        let seq = loop {
            match self.asked.remove(&(id.clone(), kind)) {
                Some(seq) => break seq,
                None => self.pass(Duration::from_millis(500)),
            }
        };
        self.fact(&id, InstanceFact::Probe { kind, seq, ok, message: message.into(), late: false });
        self.act();
    }

    fn ready(&mut self, name: &str) {
        self.answer(name, ProbeKind::Readiness, true, "exit code 0");
    }

    fn not_alive(&mut self, name: &str, times: usize) {
        for _ in 0..times {
            self.answer(name, ProbeKind::Liveness, false, "timeout: no answer within 1s");
        }
    }

    fn external(&mut self, name: &str, ok: bool, message: &str) {
        let name: Name = name.parse().unwrap();
        let seq = loop {
            match self.asked_externals.remove(&name) {
                Some(seq) => break seq,
                None => self.pass(Duration::from_millis(500)),
            }
        };
        self.tell(Event::External { name, seq, ok, message: message.into() });
    }

    fn order(&mut self, order: Order) {
        self.tell(Event::Order { order, by: "ada".into() });
    }

    fn why(&self, name: &str) -> Vec<String> {
        let chain = self.world.why(&name.parse().unwrap());
        chain.iter().map(|record| format!("{}: {}", record.object, record.message)).collect()
    }
}

fn names(name: &str) -> Vec<Name> {
    vec![name.parse().unwrap()]
}

/// web needs api; api becomes ready and is then changed by revision 2.
fn changed_api(stage: &mut Stage, rest: &str) {
    let with = |url: &str| {
        [
            service(
                "api",
                &format!(
                    "{PROBED}{rest}, update: {{strategy: Recreate, autoRollback: false}}, env: {{DB_URL: {url}}}"
                ),
            ),
            service("web", ", dependsOn: [api]"),
        ]
    };
    stage.accept(&with("old"));
    stage.ready("api");
    stage.pass(Duration::from_secs(900));
    stage.accept(&with("new"));
    stage.ready("api");
    stage.pass(Duration::from_secs(2));
}

/// What it is about, what happens, and whose state is asked about.
type Scenario = (&'static str, fn(&mut Stage), &'static str);

const SCENARIOS: &[Scenario] = &[
    (
        "a circuit that holds a dependent, since a change",
        |stage| {
            changed_api(stage, FRAGILE);
            stage.not_alive("api", 3);
            stage.exits("web", Exit::Code(1));
            stage.pass(Duration::from_secs(1));
        },
        "web",
    ),
    (
        "a crash since a change",
        |stage| {
            changed_api(stage, "");
            stage.exits("api", Exit::Code(3));
        },
        "api",
    ),
    (
        "a crash of a version that has run for long",
        |stage| {
            changed_api(stage, "");
            stage.pass(Duration::from_secs(900));
            stage.exits("api", Exit::Signal { signal: 11, core: false });
        },
        "api",
    ),
    (
        "a killed process",
        |stage| {
            stage.accept(&[service("a", "")]);
            stage.exits("a", Exit::Signal { signal: 9, core: false });
        },
        "a",
    ),
    (
        "no memory left",
        |stage| {
            stage.accept(&[service("a", ", restart: {policy: Never}")]);
            stage.exits("a", Exit::OomKilled);
        },
        "a",
    ),
    (
        "a program that is not there",
        |stage| {
            stage.unstartable.insert("a".into(), (SpawnStage::Exec, 2, "no such file in /bin:/usr/bin"));
            stage.accept(&[service("a", "")]);
        },
        "a",
    ),
    (
        "a dependent of a program that is not there",
        |stage| {
            stage.unstartable.insert("db".into(), (SpawnStage::Exec, 2, "no such file in /bin:/usr/bin"));
            stage.accept(&[service("db", ""), service("a", ", dependsOn: [db]")]);
        },
        "a",
    ),
    (
        "a start that waits for readiness, two levels down",
        |stage| {
            stage.accept(&[
                service("db", PROBED),
                service("api", ", dependsOn: [db]"),
                service("web", ", dependsOn: [api]"),
            ]);
        },
        "web",
    ),
    (
        "a dependency whose name begins alike",
        |stage| {
            stage.accept(&[
                service("api", ""),
                service("api-v2", PROBED),
                service("web", ", dependsOn: [api, api-v2]"),
            ]);
        },
        "web",
    ),
    (
        "a readiness probe that fails after a change",
        |stage| {
            changed_api(stage, "");
            for _ in 0..3 {
                stage.answer("api", ProbeKind::Readiness, false, "exit code 7");
            }
        },
        "api",
    ),
    (
        "a startup that takes too long",
        |stage| {
            stage.accept(&[service(
                "a",
                ", probes: {startup: {exec: {command: [up]}, period: 1s, failureThreshold: 2}}",
            )]);
            stage.pass(Duration::from_secs(1));
            for _ in 0..12 {
                if stage.why("a").iter().any(|line| line.contains("did not start")) {
                    break;
                }
                stage.answer("a", ProbeKind::Startup, false, "exit code 1");
            }
        },
        "a",
    ),
    (
        "a service that a person stopped",
        |stage| {
            stage.accept(&[service("a", "")]);
            stage.order(Order::Stop(names("a")));
        },
        "a",
    ),
    (
        "a dependent of a service that a person stopped",
        |stage| {
            stage.accept(&[service("db", ""), service("api", ", dependsOn: [db]")]);
            stage.order(Order::Stop(names("db")));
        },
        "api",
    ),
    (
        "a restart that a person asked for",
        |stage| {
            stage.accept(&[service("a", "")]);
            stage.pass(Duration::from_secs(5));
            stage.order(Order::Restart(names("a")));
        },
        "a",
    ),
    (
        "a circuit that is open for its third trial",
        |stage| {
            stage.accept(&[service("a", FRAGILE)]);
            stage.exits("a", Exit::Code(1));
            stage.pass(Duration::from_secs(61));
            stage.exits("a", Exit::Code(2));
        },
        "a",
    ),
    (
        "a circuit that a person closed",
        |stage| {
            stage.accept(&[service("a", FRAGILE)]);
            stage.exits("a", Exit::Code(1));
            stage.order(Order::ResetCircuit(names("a")));
        },
        "a",
    ),
    (
        "an external that is down",
        |stage| {
            let external = "apiVersion: unisys.dev/v1\nkind: External\nmetadata: {name: mail}\nspec: {probes: {readiness: {tcp: {host: 192.0.2.1, port: 25}, failureThreshold: 1}}}\n---\n";
            stage.accept(&[external.into(), service("a", ", dependsOn: [mail]")]);
            stage.external("mail", true, "connected");
            stage.external("mail", false, "connection refused");
            stage.exits("a", Exit::Code(1));
            stage.pass(Duration::from_secs(1));
        },
        "a",
    ),
    (
        "a replacement that follows another (restart: true)",
        |stage| {
            let with = |x: u32| {
                [
                    service("db", &format!(", env: {{X: \"{x}\"}}")),
                    service("a", ", dependsOn: [{name: db, restart: true}]"),
                ]
            };
            stage.accept(&with(1));
            stage.pass(Duration::from_secs(5));
            stage.accept(&with(2));
            stage.pass(Duration::from_secs(5));
        },
        "a",
    ),
    (
        "a port that somebody else holds",
        |stage| {
            let held = "port 80 of 127.0.0.1 is held by pid 7 (nginx)";
            stage.unstartable.insert("a".into(), (SpawnStage::Listeners, 98, held));
            stage.accept(&[service("a", ", ports: [{name: p, port: 80, listen: true}]")]);
        },
        "a",
    ),
    (
        "a service that was scaled to nothing",
        |stage| {
            stage.accept(&[service("a", "")]);
            stage.order(Order::Scale(vec![("a".parse().unwrap(), 0)]));
        },
        "a",
    ),
];

/// The chains as they are committed; `UPDATE_GENERATED=1` writes them anew, for a person to read again.
#[test]
fn every_scenario_is_told_from_its_symptom_to_its_root() {
    let mut told = String::new();
    for (what, play, subject) in SCENARIOS {
        let mut stage = Stage::new();
        play(&mut stage);
        told.push_str(&format!("# {what}\n{subject}\n"));
        for (depth, line) in stage.why(subject).iter().enumerate() {
            let because = if depth == 0 { "" } else { "because " };
            told.push_str(&format!("{}{because}{line}\n", "  ".repeat(depth + 1)));
        }
        told.push('\n');
    }
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sim/why.txt");
    if std::env::var_os("UPDATE_GENERATED").is_some() {
        std::fs::write(&path, &told).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap_or_default(), told);
}

/// Forty layers of three, each depending on all three below: 3^39 ways lead from the top to the bottom.
#[test]
fn a_graph_with_many_ways_is_planned_by_its_units_and_a_stop_at_its_root_takes_all_along() {
    let mut stage = Stage::new();
    let layer = |layer: usize| (0..3).map(move |index| format!("s{layer}x{index}"));
    let manifests: Vec<String> = (0..40)
        .flat_map(|number: usize| {
            let below: Vec<String> = number.checked_sub(1).map(layer).into_iter().flatten().collect();
            let depends_on = format!(", dependsOn: [{}]", below.join(", "));
            layer(number).map(move |name| service(&name, &depends_on))
        })
        .collect();
    stage.accept(&manifests);
    assert_eq!(stage.running.len(), 120);
    let order = |names: &[&str], order: fn(Vec<Name>) -> Order| Event::Order {
        order: order(names.iter().map(|name| name.parse().unwrap()).collect()),
        by: "ann".into(),
    };
    stage.tell(order(&["s0x1"], Order::Stop));
    assert_eq!(stage.running.len(), 2);
    let top: Name = "s39x2".parse().unwrap();
    let why: Vec<String> =
        stage.world.conditions(&top).into_iter().map(|condition| condition.message).collect();
    assert!(
        why.iter().any(|message| message.contains("it depends on service/s0x1: stopped by ann")),
        "{why:?}"
    );
    stage.tell(order(&["s0x1"], Order::Start));
    assert_eq!(stage.running.len(), 120);
}

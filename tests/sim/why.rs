//! `why`, from the symptom to the root: composed scenarios on the decisions alone, each with its whole chain.

use std::time::Duration;

use unisys::base::{Exit, SpawnStage};
use unisys::unit::ProbeKind;
use unisys::world::{InstanceFact, Order};

use super::stage::{FRAGILE, PROBED, Stage, names, service, versioned};

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
        "a job that fails when a person runs it again",
        |stage| {
            let job = |x: u32| {
                let job = service("j", &format!(", backoffLimit: 1, env: {{X: \"{x}\"}}"));
                vec![job.replace("kind: Service", "kind: Job")]
            };
            for x in [1, 2] {
                stage.accept(&job(x));
                stage.exits("j", Exit::Code(0));
            }
            stage.order(Order::Restart(names("j")));
            for _ in 0..2 {
                stage.exits("j", Exit::Code(3));
                stage.pass(Duration::from_secs(2));
            }
        },
        "j",
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
        "an external that never answered",
        |stage| {
            let external = "apiVersion: unisys.dev/v1\nkind: External\nmetadata: {name: mail}\nspec: {probes: {readiness: {tcp: {host: 192.0.2.1, port: 25}}}}\n---\n";
            stage.accept(&[external.into(), service("a", ", dependsOn: [mail]")]);
            (0..5).for_each(|_| stage.external("mail", false, "no route to host"));
        },
        "a",
    ),
    (
        "an open circuit of a unit that somebody scaled meanwhile",
        |stage| {
            changed_api(stage, FRAGILE);
            stage.exits("api", Exit::Code(1));
            stage.order(Order::Scale(vec![("api".parse().unwrap(), 2)]));
        },
        "api",
    ),
    (
        "a unit that somebody disabled because it failed",
        |stage| {
            changed_api(stage, FRAGILE);
            stage.exits("api", Exit::Code(1));
            stage.order(Order::Disable(names("api")));
            stage.pass(Duration::from_secs(1));
        },
        "api",
    ),
    (
        "a version that was given up, and then scaled",
        |stage| {
            let with = |x: u32| [versioned("a", PROBED, x)];
            stage.accept(&with(1));
            stage.ready("a");
            stage.pass(Duration::from_secs(900));
            stage.accept(&with(2));
            (0..3).for_each(|_| {
                stage.exits("a", Exit::Code(1));
                stage.pass(Duration::from_secs(2));
            });
            stage.order(Order::Scale(vec![("a".parse().unwrap(), 2)]));
        },
        "a",
    ),
    (
        "a unit that was taken out of the manifests after it had failed",
        |stage| {
            stage.accept(&[service("a", FRAGILE), service("b", "")]);
            stage.exits("a", Exit::Code(1));
            stage.accept(&[service("b", "")]);
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
    (
        "a freeze of a version that has run for long",
        |stage| {
            changed_api(stage, ", watchdog: {heartbeat: 1h}");
            stage.pass(Duration::from_secs(900));
            let id = stage.id("api");
            stage.fact(&id, InstanceFact::HeartbeatWithin(Duration::from_secs(10)));
            stage.act();
            stage.pass(Duration::from_secs(11));
        },
        "api",
    ),
    (
        "a unit that is switched on again",
        |stage| {
            let switched = |on: bool| {
                let config = format!(
                    "apiVersion: unisys.dev/v1\nkind: Config\nmetadata: {{name: app}}\nspec: {{data: {{ON: \"{on}\"}}}}\n---\n"
                );
                [
                    config,
                    service("a", ", enabledWhen: {config: app, key: ON}"),
                    service("b", ", dependsOn: [a]"),
                ]
            };
            for on in [true, false, true] {
                stage.accept(&switched(on));
                stage.pass(Duration::from_secs(2));
            }
        },
        "b",
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

#[test]
fn who_is_held_is_told_of_the_circuit_that_is_open_now() {
    let mut stage = Stage::new();
    let needs = |name: &str, on: &str| service(name, &format!(", dependsOn: [{on}]"));
    stage.accept(&[service("c", FRAGILE), service("d", FRAGILE), needs("b", "c, d"), needs("a", "b")]);
    stage.exits("c", Exit::Code(1));
    stage.exits("b", Exit::Code(1));
    stage.exits("a", Exit::Code(1));
    stage.pass(Duration::from_secs(1));
    assert_eq!(stage.unit("a").waiting.as_deref(), Some("the circuit of service/c to close"));
    stage.exits("d", Exit::Code(1));
    stage.order(Order::ResetCircuit(names("c")));
    stage.pass(Duration::from_secs(1));
    assert_eq!(stage.unit("a").waiting.as_deref(), Some("the circuit of service/d to close"));
    for name in ["a", "b"] {
        let told = stage.why(name);
        assert!(told[0].ends_with("for the circuit of service/d to close"), "{told:?}");
        assert!(told.iter().any(|line| line.starts_with("service/d: ")), "{told:?}");
        assert!(!told.iter().any(|line| line.starts_with("service/c: ")), "{told:?}");
    }
}

#[test]
fn an_order_that_changes_nothing_is_no_cause() {
    let mut stage = Stage::new();
    changed_api(&mut stage, "");
    stage.exits("api", Exit::Code(3));
    stage.pass(Duration::from_secs(1));
    let before = stage.why("api");
    assert!(before.len() > 2, "{before:?}");
    stage.order(Order::Start(names("api")));
    assert_eq!(stage.why("api"), before);
}

//! Where units once stayed for good, or did what nobody wanted: found by reading, kept by these.

use std::sync::Arc;
use std::time::Duration;

use unisys::base::{Exit, Generation, InstanceId, Instant, Name, Part, Revision};
use unisys::unit::{Circuit, PartState, ProbeKind};
use unisys::world::{Adopted, Cause, Checkpoint, Event, InstanceFact, Order, Outcome};

use super::stage::{FRAGILE, PROBED, Stage, names, service};
use super::system;

fn whole(spec: &str) -> String {
    format!("apiVersion: unisys.dev/v1\nkind: System\nmetadata: {{name: system}}\nspec: {{{spec}}}\n---\n")
}
fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn count(stage: &Stage, name: &str) -> usize {
    stage.running.keys().filter(|id| id.unit.as_str() == name).count()
}

fn roll_two(update: &str) -> Stage {
    let mut stage = Stage::new();
    let v = |x: u32, update: &str| {
        vec![
            whole("maxConcurrentRollouts: 1"),
            service("a", &format!("{PROBED}{update}, env: {{X: \"{x}\"}}")),
            service("b", &format!(", env: {{X: \"{x}\"}}")),
        ]
    };
    stage.accept(&v(1, update));
    stage.ready("a");
    stage.pass(Duration::from_secs(3));
    stage.accept(&v(2, update));
    stage
}

#[test]
fn a_rollout_that_is_stopped_lets_the_next_one_begin() {
    let mut stage = roll_two("");
    stage.order(Order::Stop(names("a")));
    stage.pass(Duration::from_secs(600));
    assert_eq!(stage.world.units()[&name("b")].waiting, None);
}

#[test]
fn a_rollout_that_is_paused_lets_the_next_one_begin() {
    let mut stage = roll_two("");
    stage.order(Order::Pause(names("a")));
    stage.pass(Duration::from_secs(600));
    assert_eq!(stage.world.units()[&name("b")].waiting, None);
}

#[test]
fn a_rollout_that_has_failed_lets_the_next_one_begin() {
    let mut stage = roll_two(", update: {autoRollback: false}");
    for _ in 0..700 {
        stage.pass(Duration::from_secs(1));
    }
    assert_eq!(stage.world.units()[&name("b")].waiting, None);
}

#[test]
fn a_higher_limit_of_rollouts_lets_the_next_one_begin() {
    let mut stage = roll_two("");
    stage.accept(&[
        whole("maxConcurrentRollouts: 2"),
        service("a", &format!("{PROBED}, env: {{X: \"2\"}}")),
        service("b", ", env: {X: \"2\"}"),
    ]);
    stage.pass(Duration::from_secs(20));
    assert_eq!(stage.world.units()[&name("b")].waiting, None);
}

#[test]
fn a_start_slot_goes_to_one_that_can_use_it() {
    let mut stage = Stage::new();
    stage.accept(&[
        whole("maxConcurrentStarts: 1"),
        service("a", PROBED),
        service("b", ", dependsOn: [{name: a, condition: Started}]"),
        service("c", ""),
    ]);
    stage.exits("a", Exit::Code(78));
    stage.pass(Duration::from_secs(600));
    assert_eq!(count(&stage, "c"), 1);
}

#[test]
fn a_circuit_closes_though_an_instance_was_ready_all_the_time() {
    let mut stage = Stage::new();
    stage.accept(&[service("a", &format!("{FRAGILE}, replicas: 2"))]);
    stage.pass(Duration::from_secs(5));
    assert_eq!(count(&stage, "a"), 2);
    stage.exits("a", Exit::Code(1));
    stage.pass(Duration::from_secs(3600));
    assert_eq!(count(&stage, "a"), 2);
}

#[test]
fn what_rests_for_a_version_that_was_given_up_runs_the_one_before() {
    for code in [78, 0] {
        let mut stage = Stage::new();
        let v = |x: u32| {
            vec![
                service("a", &format!("{PROBED}, env: {{X: \"{x}\"}}")),
                service(
                    "b",
                    &format!(", dependsOn: [a], restart: {{policy: OnFailure}}, env: {{X: \"{x}\"}}"),
                ),
            ]
        };
        stage.accept(&v(1));
        stage.ready("a");
        stage.pass(Duration::from_secs(3));
        stage.accept(&v(2));
        stage.ready("a");
        stage.pass(Duration::from_secs(10));
        for i in 0..3 {
            stage.exits("a", Exit::Code(1));
            if i < 2 {
                while count(&stage, "a") == 0 {
                    stage.pass(Duration::from_millis(100));
                }
            }
        }
        if count(&stage, "b") == 1 {
            stage.exits("b", Exit::Code(code));
        }
        stage.pass(Duration::from_secs(5));
        stage.ready("a");
        stage.pass(Duration::from_secs(3600));
        assert_eq!(count(&stage, "b"), 1, "{code}");
    }
}

#[test]
fn an_external_in_the_place_of_a_service_is_asked() {
    let mut stage = Stage::new();
    stage.accept(&[service("db", ""), service("api", ", dependsOn: [db]")]);
    let external = "apiVersion: unisys.dev/v1\nkind: External\nmetadata: {name: db}\nspec: {probes: {readiness: {tcp: {host: 192.0.2.1, port: 25}, failureThreshold: 1}}}\n---\n";
    stage.accept(&[external.to_owned(), service("api", ", dependsOn: [db]")]);
    stage.pass(Duration::from_secs(600));
    assert!(!stage.asked_externals.is_empty());
}

#[test]
fn a_job_that_becomes_a_service_runs() {
    let mut stage = Stage::new();
    stage.accept(&[service("x", "").replace("kind: Service", "kind: Job")]);
    stage.exits("x", Exit::Code(0));
    stage.accept(&[service("x", "")]);
    stage.pass(Duration::from_secs(600));
    assert_eq!(count(&stage, "x"), 1);
}

#[test]
fn who_can_go_on_without_it_keeps_nobody_from_stopping() {
    let mut stage = Stage::new();
    stage.accept(&[service("db", ""), service("api", ", dependsOn: [{name: db, optional: true}]")]);
    stage.order(Order::Stop(names("db")));
    stage.pass(Duration::from_secs(600));
    assert_eq!(count(&stage, "db"), 0);
}

#[test]
fn a_change_of_what_is_stopped_ends() {
    let mut stage = Stage::new();
    let v = |x: u32| vec![service("a", &format!("{PROBED}, env: {{X: \"{x}\"}}"))];
    stage.accept(&v(1));
    stage.ready("a");
    stage.pass(Duration::from_secs(3));
    stage.order(Order::Stop(names("a")));
    stage.accept(&v(2));
    stage.pass(Duration::from_secs(600));
    assert!(stage.changes.values().all(|c| c.outcome != Outcome::Active));
}

#[test]
fn an_end_of_nothing_is_no_change() {
    let mut stage = Stage::new();
    stage.accept(&[service("a", "")]);
    stage.order(Order::Stop(names("a")));
    stage.tell(Event::ShutDown { by: "x".into(), now: false });
    assert!(stage.changes.values().all(|c| c.outcome != Outcome::Active));
}

#[test]
fn canaries_that_failed_are_followed_by_nobody() {
    let mut stage = Stage::new();
    let v = |x: u32| {
        vec![service(
            "a",
            &format!(
                ", replicas: 3, env: {{X: \"{x}\"}}, update: {{autoRollback: false, strategy: Canary, canary: {{replicas: 1, hold: 1h, autoPromote: false}}}}"
            ),
        )]
    };
    stage.accept(&v(1));
    stage.pass(Duration::from_secs(5));
    stage.accept(&v(2));
    for _ in 0..3 {
        stage.exits("a", Exit::Code(1));
        while count(&stage, "a") < 4 {
            stage.pass(Duration::from_millis(100));
        }
    }
    stage.pass(Duration::from_secs(60));
    let new = stage.world.units()[&name("a")]
        .slots
        .values()
        .filter(|s| s.instance.as_ref().is_some_and(|i| i.generation.0 == 2))
        .count();
    assert!(new <= 1, "{new} of the failed version run");
}

#[test]
fn an_edge_that_restarts_does_so_from_when_it_is_written() {
    let mut stage = Stage::new();
    stage.accept(&[service("db", ""), service("api", ", dependsOn: [db]")]);
    stage.accept(&[service("db", ""), service("api", ", dependsOn: [{name: db, restart: true}]")]);
    let before = stage.id("api");
    stage.order(Order::Restart(names("db")));
    stage.pass(Duration::from_secs(60));
    assert_ne!(before, stage.id("api"));
}

#[test]
fn a_switch_turns_off_what_was_rolled_back_too() {
    let mut stage = Stage::new();
    let v = |x: u32, on: bool| {
        vec![
            format!(
                "apiVersion: unisys.dev/v1\nkind: Config\nmetadata: {{name: app}}\nspec: {{data: {{ON: \"{on}\"}}}}\n---\n"
            ),
            service("a", &format!(", enabledWhen: {{config: app, key: ON}}, env: {{X: \"{x}\"}}")),
        ]
    };
    stage.accept(&v(1, true));
    stage.pass(Duration::from_secs(5));
    stage.accept(&v(2, true));
    stage.exits("a", Exit::Code(78));
    stage.pass(Duration::from_secs(60));
    stage.accept(&v(2, false));
    stage.pass(Duration::from_secs(60));
    assert_eq!(count(&stage, "a"), 0);
}

#[test]
fn units_that_need_each_other_by_what_they_went_back_to_stop() {
    let mut stage = Stage::new();
    stage.accept(&[whole("rollbackScope: Unit"), service("u", ", dependsOn: [v]"), service("v", "")]);
    stage.pass(Duration::from_secs(5));
    stage.accept(&[
        whole("rollbackScope: Unit"),
        service("u", ", env: {X: \"2\"}"),
        service("v", ", dependsOn: [u]"),
    ]);
    stage.exits("u", Exit::Code(78));
    stage.pass(Duration::from_secs(60));
    stage.tell(Event::ShutDown { by: "x".into(), now: false });
    stage.pass(Duration::from_secs(600));
    assert!(stage.running.is_empty());
}

#[test]
fn a_former_version_that_has_ended_is_not_started_over_and_over() {
    let mut stage = Stage::new();
    let v = |x: u32| {
        vec![service(
            "a",
            &format!(
                ", circuitBreaker: null, replicas: 2, restart: {{policy: OnFailure}}, env: {{X: \"{x}\"}}"
            ),
        )]
    };
    stage.accept(&v(1));
    stage.pass(Duration::from_secs(5));
    stage.order(Order::Pause(names("a")));
    stage.accept(&v(2));
    let mut starts = 0;
    for i in 0..50 {
        let code = if i % 2 == 0 { 0 } else { 78 };
        if count(&stage, "a") == 2 {
            starts += 1;
            stage.exits("a", Exit::Code(code));
        }
    }
    assert!(starts < 10, "{starts} starts in no time");
}

#[test]
fn a_startup_that_was_told_is_over_when_probes_change() {
    let mut stage = Stage::new();
    let v = |p: u32| {
        vec![service(
            "a",
            &format!(
                ", probes: {{startup: {{notify: systemd, period: 1s, failureThreshold: 30}}, readiness: {{exec: {{command: [ready]}}, period: {p}s}}}}"
            ),
        )]
    };
    stage.accept(&v(5));
    let id = stage.id("a");
    stage.fact(&id, InstanceFact::ToldReady { how: "READY=1" });
    stage.act();
    stage.answer("a", ProbeKind::Readiness, false, "not yet");
    stage.pass(Duration::from_secs(60));
    assert_eq!(stage.id("a"), id);
    stage.accept(&v(7));
    stage.pass(Duration::from_secs(60));
    assert_eq!(count(&stage, "a"), 1);
    assert_eq!(stage.id("a"), id);
}
fn adopted(stage: &Stage, manifests: &[String], id: &InstanceId, checkpoint: Option<Checkpoint>) -> Stage {
    let mut next = Stage::new();
    next.pass(Duration::from_nanos(stage.clock().mono.0 - next.clock().mono.0));
    let spec = stage.world.units()[&id.unit].spec.clone();
    let mark = stage.marks.get(id).cloned().unwrap_or_default();
    if let Some(checkpoint) = checkpoint {
        next.world.handle(next.clock(), Event::Restore { unit: id.unit.clone(), checkpoint, kept: None });
    }
    let text = manifests.concat();
    let desired = system::from_text(text, Revision(1), &mut Default::default()).unwrap();
    next.world
        .handle(next.clock(), Event::Desired { desired: Arc::new(desired), cause: Cause::new("Up", "up") });
    let at = Instant(1_000_000_000);
    next.running.insert(id.clone(), 7);
    next.world.handle(
        next.clock(),
        Event::Adopt(Box::new(Adopted {
            id: id.clone(),
            spec: Some(spec),
            generation: Generation(1),
            started_wall: Default::default(),
            parts: vec![(Part::Main, PartState::Running { pid: 7, at })],
            signalled: None,
            mark,
            ports: Default::default(),
        })),
    );
    next.tell(Event::Begin);
    next
}

#[test]
fn a_startup_that_was_told_is_over_for_the_next_daemon() {
    let mut stage = Stage::new();
    let v = vec![service(
        "a",
        ", probes: {startup: {notify: systemd, period: 1s, failureThreshold: 30}, readiness: {exec: {command: [ready]}, period: 5s}}",
    )];
    stage.accept(&v);
    let id = stage.id("a");
    stage.fact(&id, InstanceFact::ToldReady { how: "READY=1" });
    stage.act();
    stage.answer("a", ProbeKind::Readiness, false, "not yet");
    stage.pass(Duration::from_secs(60));
    let mut next = adopted(&stage, &v, &id, None);
    next.pass(Duration::from_secs(1));
    assert!(next.running.contains_key(&id));
}

#[test]
fn a_trial_that_is_ready_closes_the_circuit_for_the_next_daemon() {
    let mut stage = Stage::new();
    let v = vec![service("a", FRAGILE)];
    stage.accept(&v);
    stage.exits("a", Exit::Code(1));
    while count(&stage, "a") == 0 {
        stage.pass(Duration::from_millis(500));
    }
    let id = stage.id("a");
    let digest = stage.world.units()[&id.unit].spec.launch.digest();
    let checkpoint = Checkpoint {
        generation: Generation(1),
        digest,
        open_left_ms: Some(0),
        open_for_ms: 60_000,
        restarts: vec![1],
        ..Default::default()
    };
    let mut next = adopted(&stage, &v, &id, Some(checkpoint));
    next.pass(Duration::from_secs(3600));
    assert_eq!(next.world.units()[&name("a")].breaker.circuit(), Circuit::Closed);
}

#[test]
fn a_restart_of_what_a_rollout_needs_waits_for_no_rollout_slot() {
    let mut stage = Stage::new();
    let v = |x: u32| {
        vec![
            whole("maxConcurrentRollouts: 1"),
            service("b", ""),
            service("a", &format!(", dependsOn: [b], replicas: 3, env: {{X: \"{x}\"}}")),
        ]
    };
    stage.accept(&v(1));
    stage.pass(Duration::from_secs(10));
    stage.accept(&v(2));
    stage.order(Order::Restart(names("b")));
    stage.pass(Duration::from_secs(20));
    stage.pass(Duration::from_secs(300));
    assert!(!stage.world.units()[&name("a")].is_rolled_back());
}

#[test]
fn an_answer_of_a_former_address_is_none_of_the_new_one() {
    let ext = |port: u32| {
        format!(
            "apiVersion: unisys.dev/v1\nkind: External\nmetadata: {{name: db}}\nspec: {{probes: {{readiness: {{tcp: {{host: 192.0.2.1, port: {port}}}, failureThreshold: 1}}}}}}\n---\n"
        )
    };
    let mut stage = Stage::new();
    stage.accept(&[ext(1), service("api", ", dependsOn: [db]")]);
    stage.pass(Duration::from_secs(1));
    stage.accept(&[ext(2), service("api", ", dependsOn: [db]")]);
    stage.pass(Duration::from_millis(10));
    stage.tell(Event::External { name: name("db"), seq: 1, ok: true, message: "old".into() });
    stage.pass(Duration::from_millis(10));
    assert_eq!(count(&stage, "api"), 0, "the answer of the former address counts for the new one");
}

/// Everything that the daemon remembers goes to the next one, as well as what the keeper holds.
#[test]
fn what_was_to_be_restarted_is_restarted_by_the_next_daemon() {
    let mut stage = Stage::new();
    let v = vec![service("a", PROBED)];
    stage.accept(&v);
    stage.ready("a");
    let id = stage.id("a");
    stage.order(Order::Restart(names("a")));
    assert_eq!(stage.running.len(), 2, "a new one is on its way in");
    let checkpoint = stage.checkpoints[&id.unit].clone();
    let mut next = adopted(&stage, &v, &id, Some(checkpoint));
    next.ready("a");
    next.pass(Duration::from_secs(30));
    assert!(count(&next, "a") == 1 && !next.running.contains_key(&id), "{:?}", next.running);
}

const BAD: &str = ", env: {X: \"2\"}";

/// `old` and the edge to it go in one edit, which is rolled back.
fn went_back() -> Stage {
    let mut stage = Stage::new();
    stage.accept(&[service("old", ""), service("a", ", dependsOn: [old]")]);
    stage.pass(Duration::from_secs(5));
    stage.accept(&[service("a", BAD)]);
    stage.exits("a", Exit::Code(78));
    stage.pass(Duration::from_secs(30));
    stage
}

#[test]
fn what_a_version_needs_that_was_gone_back_to_is_kept_until_nobody_needs_it() {
    let mut stage = went_back();
    assert_eq!((count(&stage, "a"), count(&stage, "old")), (1, 1));
    stage.accept(&[service("a", ", env: {X: \"3\"}")]);
    stage.pass(Duration::from_secs(60));
    assert_eq!((count(&stage, "a"), count(&stage, "old")), (1, 0));
}

#[test]
fn what_a_rolled_back_version_needs_may_leave_the_manifests_and_runs_on() {
    let mut stage = Stage::new();
    stage.accept(&[service("old", ""), service("a", ", dependsOn: [old]")]);
    stage.pass(Duration::from_secs(5));
    stage.accept(&[service("old", ""), service("a", BAD)]);
    stage.exits("a", Exit::Code(78));
    stage.pass(Duration::from_secs(30));
    let before = (stage.id("a"), stage.id("old"));
    stage.accept(&[service("a", BAD)]);
    stage.pass(Duration::from_secs(60));
    assert_eq!((stage.id("a"), stage.id("old")), before);
    stage.tell(Event::ShutDown { by: "ada".into(), now: false });
    stage.pass(Duration::from_secs(60));
    assert!(stage.running.is_empty());
}

#[test]
fn a_version_that_cannot_be_met_is_known_before_anybody_goes_back_to_it() {
    let mut stage = Stage::new();
    stage.accept(&[service("b", ""), service("a", ", dependsOn: [b]")]);
    let first = stage.world.units()[&name("a")].spec.clone();
    stage.accept(&[service("b", ", dependsOn: [a]"), service("a", ", env: {X: \"2\"}")]);
    stage.pass(Duration::from_secs(30));
    assert!(stage.world.unmet(&name("a"), &first).unwrap().contains("depends on it by now"));
    stage.accept(&[service("a", ", env: {X: \"2\"}")]);
    stage.pass(Duration::from_secs(30));
    assert!(stage.world.unmet(&name("a"), &first).unwrap().contains("no such unit"));
}

const PORT: &str = ", ports: [{name: http, port: 7}]";

#[test]
fn who_takes_over_a_port_waits_until_the_other_has_let_go_of_it() {
    // Renamed, or given to another while its owner gets a new one.
    for (owner, moved) in [(None, 0), (Some(", ports: [{name: http, port: 8}]"), 1)] {
        let mut stage = Stage::new();
        stage.deaf.insert("a".into());
        stage.accept(&[service("a", PORT)]);
        stage.pass(Duration::from_secs(5));
        let old = stage.id("a");
        let kept = owner.map(|ports| service("a", ports));
        stage.accept(&kept.into_iter().chain([service("b", PORT)]).collect::<Vec<_>>());
        stage.pass(Duration::from_secs(3));
        assert!(stage.running.contains_key(&old) && count(&stage, "b") == 0, "{:?}", stage.running);
        let waiting = stage.world.units()[&name("b")].waiting.clone();
        assert_eq!(waiting.as_deref(), Some("service/a to let go of port 7"));
        stage.pass(Duration::from_secs(60));
        assert_eq!((count(&stage, "a"), count(&stage, "b")), (moved, 1));
    }
}

#[test]
fn a_job_goes_back_to_nothing_and_is_not_run_for_what_needs_no_run() {
    let job = |spec: &str| service("a", spec).replace("kind: Service", "kind: Job");
    let mut stage = Stage::new();
    stage.accept(&[service("a", ""), service("s", "")]);
    stage.pass(Duration::from_secs(5));
    stage.accept(&[job(", backoffLimit: 0"), service("s", "")]);
    stage.pass(Duration::from_secs(5));
    stage.exits("a", Exit::Code(0));
    stage.accept(&[job(", backoffLimit: 0, dependsOn: [s]"), service("s", "")]);
    stage.pass(Duration::from_secs(30));
    assert_eq!(count(&stage, "a"), 0, "another edge is no reason to run it");
    stage.accept(&[job(", backoffLimit: 0, env: {X: \"2\"}"), service("s", "")]);
    stage.exits("a", Exit::Code(1));
    stage.pass(Duration::from_secs(600));
    assert_eq!(count(&stage, "a"), 0, "it is no service any more");
    let progressing = stage.world.conditions(&name("a")).into_iter().find(|c| c.kind == "Progressing");
    assert_eq!(progressing.unwrap().status, "False");
}

#[test]
fn of_what_is_not_to_run_nothing_is_proved_and_nothing_is_left_to_do() {
    let mut stage = Stage::new();
    stage.accept(&[service("a", PROBED)]);
    stage.ready("a");
    stage.pass(Duration::from_secs(3));
    stage.accept(&[service("a", &format!("{PROBED}{BAD}"))]);
    stage.order(Order::Scale(vec![(name("a"), 0)]));
    stage.pass(Duration::from_secs(60));
    assert!(
        stage.world.units()[&name("a")].rollout.is_active(),
        "a version that never was ready is not good"
    );
    let progressing = stage.world.conditions(&name("a")).into_iter().find(|c| c.kind == "Progressing");
    assert_eq!(progressing.unwrap().status, "False");
}

#[test]
fn an_optional_external_that_is_down_holds_nothing_up() {
    let external = "apiVersion: unisys.dev/v1\nkind: External\nmetadata: {name: mail}\nspec: {probes: {readiness: {tcp: {host: 192.0.2.1, port: 25}}}}\n---\n";
    let mut stage = Stage::new();
    stage.accept(&[external.to_owned(), service("a", ", dependsOn: [{name: mail, optional: true}]")]);
    assert_eq!(count(&stage, "a"), 0, "not known yet");
    stage.external("mail", false, "connection refused");
    assert_eq!(count(&stage, "a"), 1);
}

//! Where units once stayed for good, or did what nobody wanted: found by reading, kept by these.

use std::time::Duration;

use unisys::base::{Exit, SpawnStage, limits};
use unisys::unit::{Circuit, ProbeKind};
use unisys::world::{Event, InstanceFact, Order, Outcome};

use super::stage::{FRAGILE, PROBED, Stage, external, name, names, service, system_of, versioned};

fn roll_two(update: &str) -> Stage {
    let mut stage = Stage::new();
    let v = |x: u32, update: &str| {
        vec![
            system_of("maxConcurrentRollouts: 1"),
            versioned("a", &format!("{PROBED}{update}"), x),
            versioned("b", "", x),
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
    assert_eq!(stage.unit("b").waiting, None);
}

#[test]
fn a_rollout_that_is_paused_lets_the_next_one_begin() {
    let mut stage = roll_two("");
    stage.order(Order::Pause(names("a")));
    stage.pass(Duration::from_secs(600));
    assert_eq!(stage.unit("b").waiting, None);
}

#[test]
fn a_rollout_that_has_failed_lets_the_next_one_begin() {
    let mut stage = roll_two(", update: {autoRollback: false}");
    for _ in 0..700 {
        stage.pass(Duration::from_secs(1));
    }
    assert_eq!(stage.unit("b").waiting, None);
}

#[test]
fn a_higher_limit_of_rollouts_lets_the_next_one_begin() {
    let mut stage = roll_two("");
    stage.accept(&[system_of("maxConcurrentRollouts: 2"), versioned("a", PROBED, 2), versioned("b", "", 2)]);
    stage.pass(Duration::from_secs(20));
    assert_eq!(stage.unit("b").waiting, None);
}

#[test]
fn a_start_slot_goes_to_one_that_can_use_it() {
    let mut stage = Stage::new();
    stage.accept(&[
        system_of("maxConcurrentStarts: 1"),
        service("a", PROBED),
        service("b", ", dependsOn: [{name: a, condition: Started}]"),
        service("c", ""),
    ]);
    stage.exits("a", Exit::Code(78));
    stage.pass(Duration::from_secs(600));
    assert_eq!(stage.count("c"), 1);
}

#[test]
fn a_circuit_closes_though_an_instance_was_ready_all_the_time() {
    let mut stage = Stage::new();
    stage.accept(&[service("a", &format!("{FRAGILE}, replicas: 2"))]);
    stage.pass(Duration::from_secs(5));
    assert_eq!(stage.count("a"), 2);
    stage.exits("a", Exit::Code(1));
    stage.pass(Duration::from_secs(3600));
    assert_eq!(stage.count("a"), 2);
}

#[test]
fn an_external_in_the_place_of_a_service_is_asked() {
    let mut stage = Stage::new();
    stage.accept(&[service("db", ""), service("api", ", dependsOn: [db]")]);
    stage.accept(&[external("db", 25), service("api", ", dependsOn: [db]")]);
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
    assert_eq!(stage.count("x"), 1);
}

#[test]
fn who_can_go_on_without_it_keeps_nobody_from_stopping() {
    let mut stage = Stage::new();
    stage.accept(&[service("db", ""), service("api", ", dependsOn: [{name: db, optional: true}]")]);
    stage.order(Order::Stop(names("db")));
    stage.pass(Duration::from_secs(600));
    assert_eq!(stage.count("db"), 0);
}

#[test]
fn who_needs_it_no_longer_by_what_is_written_keeps_nobody_from_stopping_though_it_still_ends() {
    let mut stage = Stage::new();
    let common = [service("db", ""), service("cache", ", dependsOn: [db]")];
    let web = service("web", ", dependsOn: [db, {name: cache, optional: true}]");
    stage.accept(&[common.concat(), web]);
    stage.deaf.insert("web".into());
    stage.order(Order::Stop(names("db")));
    assert_eq!((stage.count("web"), stage.count("cache")), (1, 1));
    stage.accept(&[common.concat(), service("web", "")]);
    assert_eq!((stage.count("web"), stage.count("cache")), (1, 0));
}

#[test]
fn a_change_of_what_is_stopped_ends() {
    let mut stage = Stage::new();
    let v = |x: u32| vec![versioned("a", PROBED, x)];
    stage.accept(&v(1));
    stage.ready("a");
    stage.pass(Duration::from_secs(3));
    stage.order(Order::Stop(names("a")));
    stage.accept(&v(2));
    stage.pass(Duration::from_secs(600));
    assert!(stage.changes.values().all(|change| change.outcome != Outcome::Active));
}

#[test]
fn an_end_of_nothing_is_no_change() {
    let mut stage = Stage::new();
    stage.accept(&[service("a", "")]);
    stage.order(Order::Stop(names("a")));
    stage.tell(Event::ShutDown { by: "x".into(), now: false });
    assert!(stage.changes.values().all(|change| change.outcome != Outcome::Active));
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
fn a_former_version_that_has_ended_is_not_started_over_and_over() {
    let mut stage = Stage::new();
    let v =
        |x: u32| vec![versioned("a", ", circuitBreaker: null, replicas: 2, restart: {policy: OnFailure}", x)];
    stage.accept(&v(1));
    stage.pass(Duration::from_secs(5));
    stage.order(Order::Pause(names("a")));
    stage.accept(&v(2));
    let mut starts = 0;
    for i in 0..50 {
        let code = if i % 2 == 0 { 0 } else { 78 };
        if stage.count("a") == 2 {
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
    assert_eq!(stage.count("a"), 1);
    assert_eq!(stage.id("a"), id);
}
#[test]
fn a_restart_of_what_a_rollout_needs_waits_for_no_rollout_slot() {
    let mut stage = Stage::new();
    let v = |x: u32| {
        vec![
            system_of("maxConcurrentRollouts: 1"),
            service("b", ""),
            versioned("a", ", dependsOn: [b], replicas: 3", x),
        ]
    };
    stage.accept(&v(1));
    stage.pass(Duration::from_secs(10));
    stage.accept(&v(2));
    stage.order(Order::Restart(names("b")));
    stage.pass(Duration::from_secs(20));
    stage.pass(Duration::from_secs(300));
    assert!(!stage.unit("a").is_rolled_back());
}

const PORT: &str = ", ports: [{name: http, port: 7}]";

#[test]
fn who_takes_over_a_port_waits_until_the_other_has_let_go_of_it() {
    // Renamed, or given to another while its owner gets a new one.
    let other = ", ports: [{name: http, port: 8}]";
    for ([a, b], owner, moved) in
        [(["a", "b"], None, 0), (["a", "b"], Some(other), 1), (["b", "a"], Some(other), 1)]
    {
        let mut stage = Stage::new();
        stage.deaf.insert(a.into());
        stage.accept(&[service(a, PORT)]);
        stage.pass(Duration::from_secs(5));
        let old = stage.id(a);
        let kept = owner.map(|ports| service(a, ports));
        stage.accept(&kept.into_iter().chain([service(b, PORT)]).collect::<Vec<_>>());
        stage.pass(Duration::from_secs(3));
        assert!(stage.running.contains_key(&old) && stage.count(b) == 0, "{:?}", stage.running);
        let waiting = stage.unit(b).waiting.clone();
        assert_eq!(waiting.as_deref(), Some(format!("service/{a} to let go of port 7").as_str()));
        stage.pass(Duration::from_secs(60));
        assert_eq!((stage.count(a), stage.count(b)), (moved, 1));
    }
}

#[test]
fn of_what_is_not_to_run_nothing_is_proved_and_nothing_is_left_to_do() {
    let mut stage = Stage::new();
    stage.accept(&[service("a", PROBED)]);
    stage.ready("a");
    stage.pass(Duration::from_secs(3));
    stage.accept(&[versioned("a", PROBED, 2)]);
    stage.order(Order::Scale(vec![(name("a"), 0)]));
    stage.pass(Duration::from_secs(60));
    assert!(stage.unit("a").rollout.is_active(), "a version that never was ready is not good");
    assert_eq!(stage.condition("a", "Progressing"), "False");
}

#[test]
fn an_optional_external_that_is_down_holds_nothing_up() {
    let mut stage = Stage::new();
    stage.accept(&[external("mail", 25), service("a", ", dependsOn: [{name: mail, optional: true}]")]);
    assert_eq!(stage.count("a"), 0, "not known yet");
    stage.external("mail", false, "connection refused");
    assert_eq!(stage.count("a"), 1);
}

#[test]
fn a_job_that_is_changed_with_what_it_needs_runs_on_the_new_one() {
    // By name it comes first.
    let job = |version| versioned("a", ", dependsOn: [z]", version).replace("kind: Service", "kind: Job");
    let mut stage = Stage::new();
    stage.accept(&[job(1), versioned("z", PROBED, 1)]);
    stage.ready("z");
    stage.pass(Duration::from_secs(5));
    stage.exits("a", Exit::Code(0));
    stage.accept(&[job(2), versioned("z", PROBED, 2)]);
    assert_eq!(stage.count("a"), 0, "its database is about to go");
    stage.ready("z");
    stage.pass(Duration::from_secs(60));
    assert_eq!((stage.count("a"), stage.count("z")), (1, 1));
}

#[test]
fn a_unit_that_is_new_starts_on_the_new_version_of_what_it_needs_and_a_crashed_one_at_once() {
    let mut stage = Stage::new();
    let b = || service("b", ", dependsOn: [z]");
    stage.accept(&[b(), versioned("z", PROBED, 1)]);
    stage.ready("z");
    stage.pass(Duration::from_secs(5));
    stage.accept(&[service("a", ", dependsOn: [z]"), b(), versioned("z", PROBED, 2)]);
    stage.exits("b", Exit::Code(1));
    stage.pass(Duration::from_secs(1));
    assert_eq!((stage.count("a"), stage.count("b")), (0, 1));
    stage.ready("z");
    stage.pass(Duration::from_secs(60));
    assert_eq!(stage.count("a"), 1);
}

#[test]
fn a_job_that_has_run_stays_so_when_what_it_needed_is_stopped() {
    let job = service("m", ", dependsOn: [z]").replace("kind: Service", "kind: Job");
    let mut stage = Stage::new();
    stage.accept(&[job, service("w", ", dependsOn: [{name: m, condition: Completed}]"), service("z", "")]);
    stage.pass(Duration::from_secs(1));
    stage.exits("m", Exit::Code(0));
    stage.order(Order::Stop(names("z")));
    assert_eq!((stage.count("z"), stage.count("w")), (0, 1));
    stage.exits("w", Exit::Code(1));
    stage.pass(Duration::from_secs(5));
    assert_eq!(stage.count("w"), 1, "what it waited for is done");
}

#[test]
fn who_has_no_circuit_any_more_is_held_by_none() {
    let mut stage = Stage::new();
    stage.accept(&[service("a", FRAGILE)]);
    stage.exits("a", Exit::Code(1));
    assert_eq!(stage.world.status_word(&name("a")), "CircuitOpen");
    stage.accept(&[service("a", ", circuitBreaker: null")]);
    assert_eq!(stage.unit("a").breaker.circuit(), Circuit::Closed);
    assert_ne!(stage.world.status_word(&name("a")), "CircuitOpen");
}

#[test]
fn a_restart_into_a_program_that_is_missing_is_given_up_and_what_runs_stays() {
    let mut stage = Stage::new();
    stage.accept(&[service("a", "")]);
    stage.pass(Duration::from_secs(20));
    let id = stage.id("a");
    stage.unstartable.insert("a".into(), (SpawnStage::Exec, 2, "run does not exist"));
    stage.order(Order::Restart(names("a")));
    let told = stage.unit("a").restart_given_up.as_deref().expect("it is told");
    assert!(told.ends_with("run does not exist"), "{told}");
    assert_eq!(stage.world.status_word(&name("a")), "Ready");
    assert_eq!((stage.unit("a").waiting.as_deref(), stage.unit("a").slots.len()), (None, 1));
    // Nobody waits for a restart that has failed already.
    stage.unstartable.clear();
    stage.tell(Event::ProgramChanged { name: name("a") });
    stage.pass(Duration::from_secs(60));
    assert_eq!(stage.id("a"), id);
}

#[test]
fn a_first_version_that_never_comes_up_has_failed_at_its_deadline_until_it_gets_well_after_all() {
    let v = vec![service("a", &format!("{PROBED}, update: {{progressDeadline: 30s}}"))];
    let mut stage = Stage::new();
    stage.accept(&v);
    let word = |stage: &Stage| stage.unit("a").rollout.word(false);
    let began = stage.clock().mono;
    while stage.clock().mono.since(began) < Duration::from_secs(30) {
        assert_eq!(word(&stage), "Progressing");
        stage.answer("a", ProbeKind::Readiness, false, "not yet");
        stage.pass(Duration::from_secs(1));
    }
    assert_eq!(word(&stage), "Failed");
    let failure = stage.unit("a").rollout.failure().expect("it has failed");
    assert!(
        failure.reason == "ProgressDeadlineExceeded" && failure.message.contains("not yet"),
        "{failure:?}"
    );
    let id = stage.id("a");
    stage.ready("a");
    stage.pass(Duration::from_secs(2));
    assert_eq!((word(&stage), stage.id("a")), ("Complete", id));
}

#[test]
fn a_first_version_that_crashes_at_once_has_failed_though_it_was_ready_for_a_moment() {
    let mut stage = Stage::new();
    stage.accept(&[service("a", ", circuitBreaker: null")]);
    let word = |stage: &Stage| stage.unit("a").rollout.word(false);
    for _ in 0..3 {
        assert_eq!(word(&stage), "Progressing", "that it was executed says nothing");
        stage.exits("a", Exit::Code(1));
        stage.pass(Duration::from_millis(600));
    }
    assert_eq!(word(&stage), "Failed");
    assert_eq!(
        stage.checkpoints[&name("a")].unwell,
        stage.unit("a").rollout.unwell,
        "the next daemon knows it"
    );
    assert!(stage.unit("a").rollout.unwell.is_some());
    stage.pass(Duration::from_secs(5));
    assert_eq!(word(&stage), "Complete");
}

#[test]
fn a_good_code_is_a_failed_start_before_min_ready_and_an_end_after_it() {
    let said = ", before it was Ready for 1s (minReady): with policy Always a failed start";
    for (ran, failed) in [(Duration::from_millis(500), true), (Duration::from_secs(5), false)] {
        let mut stage = Stage::new();
        stage.accept(&[service("a", "")]);
        stage.pass(ran);
        stage.exits("a", Exit::Code(0));
        let words = stage.unit("a").serving().find_map(|slot| slot.last_end.clone()).expect("it ended").words;
        assert_eq!(words, format!("ended: exit code 0{}", if failed { said } else { "" }));
        assert_eq!(stage.unit("a").breaker.failures(), usize::from(failed));
        stage.pass(Duration::from_secs(1));
        assert_eq!(stage.count("a"), 1, "it is started again either way");
    }
}

#[test]
fn a_restart_beside_a_first_version_that_is_not_proved_yet_is_given_up_as_any_other() {
    let mut stage = Stage::new();
    stage.accept(&[service("a", ", restart: {backoff: {initial: 10ms, factor: 1}}")]);
    let first = stage.id("a");
    stage.order(Order::Restart(names("a")));
    for _ in 0..3 {
        while stage.count("a") == 1 {
            stage.pass(Duration::from_millis(10));
        }
        stage.exits("a", Exit::Code(1));
    }
    stage.pass(Duration::from_secs(5));
    assert!(stage.unit("a").restart_given_up.is_some() && stage.unit("a").rollout.unwell.is_none());
    assert_eq!((stage.id("a"), stage.unit("a").rollout.word(false)), (first, "Complete"));
}

#[test]
fn a_port_that_is_found_held_at_a_start_is_waited_for_until_the_machine_has_it() {
    let held = "cannot start service/a: port 80 is held by pid 4 (nginx) [E2005]";
    let mut stage = Stage::new();
    for name in ["a", "b", "c"] {
        stage.ports_held.insert(name.into(), held);
    }
    stage.accept(&[service("a", ""), service("b", ""), service("c", "")]);
    let unit = stage.unit("a");
    assert_eq!((unit.spec.machine.as_deref(), stage.count("a")), (Some(held), 0));
    let last = unit.slots.values().find_map(|slot| slot.last_end.clone()).expect("its start failed");
    assert!(last.words.contains(held), "{}", last.words);
    stage.pass(Duration::from_secs(3600));
    assert_eq!((stage.looks, stage.count("a")), (1, 0), "one look for all; it waits, and is not tried");
    stage.ports_held.clear();
    stage.look_at_machine();
    stage.act();
    assert_eq!(stage.count("a"), 1);
    let restarts = |stage: &Stage| stage.unit("a").serving().map(|slot| slot.restart.restarts).sum::<u32>();
    assert_eq!(restarts(&stage), 0, "no program had run");
    stage.exits("a", Exit::Code(1));
    stage.pass(Duration::from_secs(1));
    assert_eq!((stage.count("a"), restarts(&stage)), (1, 1));
}

#[test]
fn what_was_started_has_come_to_run_once_its_probe_says_so_or_it_has_run_for_a_moment() {
    let mut stage = Stage::new();
    stage.accept(&[service("plain", ""), service("probed", PROBED)]);
    let begun = |stage: &Stage| {
        ["plain", "probed"].map(|unit| stage.world.only_begun(stage.clock(), &name(unit)).map(|(at, _)| at))
    };
    let start = stage.clock().mono;
    let until = Some(start + limits::SETTLED);
    assert_eq!(begun(&stage), [until, until]);
    stage.ready("probed");
    assert_eq!((stage.clock().mono, begun(&stage)), (start, [until, None]));
    stage.pass(limits::SETTLED);
    assert_eq!(begun(&stage), [None, None]);
    // One that ends at once is held back.
    stage.order(Order::Restart(names("plain")));
    assert!(begun(&stage)[0].is_some());
    stage.exits("plain", Exit::Code(3));
    assert_eq!(begun(&stage)[0], None);
    assert!(stage.world.held_back(stage.clock(), &name("plain")).is_some());
}

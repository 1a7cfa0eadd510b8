//! Units that went back, or are about to: what goes with them, what they need, and what ends it.

use std::time::Duration;

use unisys::base::Exit;
use unisys::unit::Circuit;
use unisys::world::{Event, Order};

use super::stage::{PROBED, Stage, name, names, rollout, service, system_of, versioned};

#[test]
fn what_rests_for_a_version_that_was_given_up_runs_the_one_before() {
    for code in [78, 0] {
        let mut stage = Stage::new();
        let v = |x: u32| {
            vec![
                versioned("a", PROBED, x),
                versioned("b", ", dependsOn: [a], restart: {policy: OnFailure}", x),
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
                while stage.count("a") == 0 {
                    stage.pass(Duration::from_millis(100));
                }
            }
        }
        if stage.count("b") == 1 {
            stage.exits("b", Exit::Code(code));
        }
        stage.pass(Duration::from_secs(5));
        stage.ready("a");
        stage.pass(Duration::from_secs(3600));
        assert_eq!(stage.count("b"), 1, "{code}");
    }
}

#[test]
fn who_went_back_for_another_unit_goes_on_when_that_is_mended() {
    let mut stage = Stage::new();
    let v = |a: u32, b: u32| vec![versioned("a", "", a), versioned("b", "", b)];
    stage.accept(&v(1, 1));
    stage.pass(Duration::from_secs(900));
    stage.accept(&v(2, 2));
    stage.pass(Duration::from_secs(1));
    stage.exits("a", Exit::Code(78));
    stage.pass(Duration::from_secs(30));
    let back = |stage: &Stage, unit: &str| stage.unit(unit).is_rolled_back();
    assert!(back(&stage, "a") && back(&stage, "b"));
    stage.accept(&v(3, 2));
    stage.pass(Duration::from_secs(30));
    assert!(!back(&stage, "a") && !back(&stage, "b"), "nothing was wrong with b");
    assert!(["a", "b"].iter().all(|name| stage.unit(name).rollout.word(false) == "Complete"));
    // They are one revision again: what fails now takes both back.
    stage.exits("b", Exit::Code(78));
    stage.pass(Duration::from_secs(30));
    assert!(back(&stage, "a") && back(&stage, "b"));
    // Another change of who went along is that one's alone.
    stage.accept(&v(4, 2));
    stage.pass(Duration::from_secs(30));
    assert!(!back(&stage, "a") && back(&stage, "b"), "b was found bad itself");
}

#[test]
fn a_change_that_went_back_is_told_as_its_rollout_is() {
    // On its way, and on trial after it was complete.
    for probe in [PROBED, ""] {
        let mut stage = Stage::new();
        let v = |a: u32, b: u32| vec![versioned("a", probe, a), versioned("b", "", b)];
        stage.accept(&v(1, 1));
        if !probe.is_empty() {
            stage.ready("a");
        }
        stage.pass(Duration::from_secs(900));
        let before = stage.changes.keys().max().copied();
        stage.accept(&v(2, 2));
        stage.pass(Duration::from_secs(1));
        stage.exits("a", Exit::Code(78));
        stage.pass(Duration::from_secs(600));
        assert_eq!(stage.unit("a").rollout.word(false), "RolledBack", "{probe}");
        let changes = stage.changes.iter().filter(|(id, _)| Some(**id) > before);
        let outcomes: Vec<_> =
            changes.map(|(_, change)| (change.cause.kind.as_str(), change.outcome.as_str())).collect();
        assert_eq!(outcomes[0], ("FilesChanged", "RolledBack"), "{probe}: {outcomes:?}");
        assert!(outcomes[1..].iter().all(|(_, outcome)| *outcome == "Complete"), "{probe}: {outcomes:?}");
    }
}

#[test]
fn canaries_that_failed_are_followed_by_nobody() {
    let mut stage = Stage::new();
    let v = |x: u32| {
        vec![versioned(
            "a",
            ", replicas: 3, update: {autoRollback: false, strategy: Canary, canary: {replicas: 1, hold: 1h, autoPromote: false}}",
            x,
        )]
    };
    stage.accept(&v(1));
    stage.pass(Duration::from_secs(5));
    stage.accept(&v(2));
    for _ in 0..3 {
        stage.exits("a", Exit::Code(1));
        while stage.count("a") < 4 {
            stage.pass(Duration::from_millis(100));
        }
    }
    stage.pass(Duration::from_secs(60));
    let new = stage
        .unit("a")
        .slots
        .values()
        .filter(|slot| slot.instance.as_ref().is_some_and(|instance| instance.generation.0 == 2))
        .count();
    assert!(new <= 1, "{new} of the failed version run");
}

#[test]
fn a_switch_turns_off_what_was_rolled_back_too() {
    let mut stage = Stage::new();
    let v = |x: u32, on: bool| {
        vec![
            format!(
                "apiVersion: unisys.dev/v1\nkind: Config\nmetadata: {{name: app}}\nspec: {{data: {{ON: \"{on}\"}}}}\n---\n"
            ),
            versioned("a", ", enabledWhen: {config: app, key: ON}", x),
        ]
    };
    stage.accept(&v(1, true));
    stage.pass(Duration::from_secs(5));
    stage.accept(&v(2, true));
    stage.exits("a", Exit::Code(78));
    stage.pass(Duration::from_secs(60));
    stage.accept(&v(2, false));
    stage.pass(Duration::from_secs(60));
    assert_eq!(stage.count("a"), 0);
}

#[test]
fn units_that_need_each_other_by_what_they_went_back_to_stop() {
    let mut stage = Stage::new();
    stage.accept(&[system_of("rollbackScope: Unit"), service("u", ", dependsOn: [v]"), service("v", "")]);
    stage.pass(Duration::from_secs(5));
    stage.accept(&[
        system_of("rollbackScope: Unit"),
        versioned("u", "", 2),
        service("v", ", dependsOn: [u]"),
    ]);
    stage.exits("u", Exit::Code(78));
    stage.pass(Duration::from_secs(60));
    stage.tell(Event::ShutDown { by: "x".into(), now: false });
    stage.pass(Duration::from_secs(600));
    assert!(stage.running.is_empty());
}

/// `old` and the edge to it go in one edit, which is rolled back.
fn went_back() -> Stage {
    let mut stage = Stage::new();
    stage.accept(&[service("old", ""), service("a", ", dependsOn: [old]")]);
    stage.pass(Duration::from_secs(5));
    stage.accept(&[versioned("a", "", 2)]);
    stage.exits("a", Exit::Code(78));
    stage.pass(Duration::from_secs(30));
    stage
}

#[test]
fn what_a_version_needs_that_was_gone_back_to_is_kept_until_nobody_needs_it() {
    let mut stage = went_back();
    assert_eq!((stage.count("a"), stage.count("old")), (1, 1));
    stage.accept(&[versioned("a", "", 3)]);
    stage.pass(Duration::from_secs(60));
    assert_eq!((stage.count("a"), stage.count("old")), (1, 0));
}

#[test]
fn what_a_rolled_back_version_needs_may_leave_the_manifests_and_runs_on() {
    let mut stage = Stage::new();
    stage.accept(&[service("old", ""), service("a", ", dependsOn: [old]")]);
    stage.pass(Duration::from_secs(5));
    stage.accept(&[service("old", ""), versioned("a", "", 2)]);
    stage.exits("a", Exit::Code(78));
    stage.pass(Duration::from_secs(30));
    let before = (stage.id("a"), stage.id("old"));
    stage.accept(&[versioned("a", "", 2)]);
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
    let first = stage.unit("a").spec.clone();
    stage.accept(&[service("b", ", dependsOn: [a]"), versioned("a", "", 2)]);
    stage.pass(Duration::from_secs(30));
    assert!(stage.world.unmet(&name("a"), &first).unwrap().contains("depends on it by now"));
    stage.accept(&[versioned("a", "", 2)]);
    stage.pass(Duration::from_secs(30));
    assert!(stage.world.unmet(&name("a"), &first).unwrap().contains("no such unit"));
}

#[test]
fn what_has_never_stayed_up_is_nothing_to_go_back_to() {
    let half = Duration::from_millis(500);
    let v = |x: u32| vec![versioned("a", "", x)];
    // A first version that ends at once: it has been executed, and no more.
    let mut stage = Stage::new();
    stage.accept(&v(1));
    stage.pass(half);
    assert_eq!(rollout(&stage), "Progressing");
    stage.exits("a", Exit::Code(78));
    stage.accept(&v(2));
    stage.exits("a", Exit::Code(78));
    stage.pass(Duration::from_secs(30));
    assert!(!stage.unit("a").is_rolled_back(), "there is nothing good to go back to");
    assert_eq!((rollout(&stage), stage.count("a")), ("Failed", 0));
    // One that stays up for `minReady` is.
    let mut stage = Stage::new();
    stage.accept(&v(1));
    stage.pass(half * 3);
    assert_eq!(rollout(&stage), "Complete");
    let good = stage.unit("a").generation;
    // Another one that had no time to prove itself is none: what is older comes back.
    stage.accept(&v(2));
    stage.pass(half);
    assert_eq!(rollout(&stage), "Progressing");
    stage.accept(&v(3));
    stage.exits("a", Exit::Code(78));
    stage.pass(Duration::from_secs(30));
    assert!(stage.unit("a").is_rolled_back());
    assert_eq!((stage.unit("a").generation, stage.count("a")), (good, 1));
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
    assert_eq!(stage.count("a"), 0, "another edge is no reason to run it");
    stage.accept(&[job(", backoffLimit: 0, env: {X: \"2\"}"), service("s", "")]);
    stage.exits("a", Exit::Code(1));
    stage.pass(Duration::from_secs(600));
    assert_eq!(stage.count("a"), 0, "it is no service any more");
    assert_eq!(stage.condition("a", "Progressing"), "False");
}

#[test]
fn what_was_gone_back_to_is_taken_along_by_what_it_needs_again() {
    let mut stage = Stage::new();
    stage.accept(&[service("x", ""), service("a", ", dependsOn: [x]")]);
    stage.pass(Duration::from_secs(5));
    stage.accept(&[service("x", ""), versioned("a", "", 2)]);
    stage.order(Order::Stop(names("x")));
    assert_eq!((stage.count("a"), stage.count("x")), (2, 1), "its former version still needs it");
    stage.exits("a", Exit::Code(78));
    stage.pass(Duration::from_secs(60));
    assert!(stage.running.is_empty(), "{:?}", stage.running);
}

#[test]
fn an_incoming_one_that_fails_as_often_as_opens_a_circuit_waits_as_long_and_keeps_nobody_waiting() {
    let rest = ", update: {autoRollback: false}, circuitBreaker: {failures: 3, openFor: 30s}, \
                restart: {backoff: {initial: 100ms, factor: 1, jitter: 0}}";
    let mut stage = Stage::new();
    stage.accept(&[versioned("a", rest, 1)]);
    stage.pass(Duration::from_secs(10));
    let serving = stage.id("a");
    stage.accept(&[versioned("a", rest, 2)]);
    let crashes = |stage: &mut Stage, tenths: u32| {
        let mut crashes = 0;
        for _ in 0..tenths {
            stage.pass(Duration::from_millis(100));
            let incoming = stage.running.keys().find(|id| **id != serving).cloned();
            if let Some(incoming) = incoming {
                stage.ended(&incoming, Exit::Code(9));
                stage.act();
                crashes += 1;
            }
        }
        crashes
    };
    assert_eq!(crashes(&mut stage, 200), 3);
    assert_eq!(crashes(&mut stage, 300), 1, "it is tried again once it has waited as long");
    assert!(stage.running.contains_key(&serving) && stage.unit("a").breaker.circuit() == Circuit::Closed);
}

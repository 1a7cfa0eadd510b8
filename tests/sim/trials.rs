//! Trials: of an edit, which what the machine lacks says nothing about, and of a circuit, which go on under the next daemon.

use std::time::Duration;

use unisys::base::{Exit, SpawnStage};
use unisys::unit::Circuit;
use unisys::world::Event;

use super::next_daemon::adopted;
use super::stage::{FRAGILE, Stage, name, rollout, service, versioned};

const GONE: (SpawnStage, i32, &str) = (SpawnStage::Exec, 2, "no such file");

/// A good edit whose program is away when it is started again, and then there.
fn vanishes(edited: &str) -> Stage {
    let mut stage = Stage::new();
    stage.accept(&[versioned("a", "", 1)]);
    stage.pass(Duration::from_secs(900));
    stage.accept(&[versioned("a", edited, 2)]);
    stage.pass(Duration::from_secs(3));
    assert_eq!(rollout(&stage), "Complete");
    stage.unstartable.insert("a".into(), GONE);
    stage.exits("a", Exit::Code(1));
    stage.pass(Duration::from_secs(5));
    stage
}

#[test]
fn a_program_that_vanished_is_not_the_fault_of_an_edit_that_had_run() {
    let mut stage = vanishes("");
    assert!(!stage.unit("a").is_rolled_back());
    assert_eq!(stage.world.status_word(&name("a")), "Failed");
    stage.unstartable.clear();
    stage.tell(Event::ProgramChanged { name: name("a") });
    stage.pass(Duration::from_secs(5));
    assert_eq!((stage.world.status_word(&name("a")), stage.unit("a").generation.0), ("Ready", 2));
}

#[test]
fn what_executes_another_file_goes_back_to_the_one_that_is_there() {
    let stage = vanishes(", workingDir: elsewhere");
    assert!(stage.unit("a").is_rolled_back());
    // So does what executes something else before it.
    let launch = |edited: &str, version: u32| {
        let mut stage = Stage::new();
        stage.accept(&[versioned("a", edited, version)]);
        stage.unit("a").spec.launch.clone()
    };
    let hook = ", hooks: {preStart: [{command: [./other], timeout: 5s}]}";
    assert!(launch("", 1).executes_the_same(&launch("", 2)));
    assert!(!launch("", 1).executes_the_same(&launch(hook, 2)));
}

#[test]
fn the_trial_of_a_circuit_goes_on_under_the_next_daemon() {
    let mut stage = Stage::new();
    let v = vec![service("a", &FRAGILE.replace("failures: 1", "failures: 1, successAfter: 100s"))];
    stage.accept(&v);
    stage.exits("a", Exit::Code(1));
    while stage.count("a") == 0 {
        stage.pass(Duration::from_millis(500));
    }
    let half_open = |stage: &Stage| matches!(stage.unit("a").breaker.circuit(), Circuit::HalfOpen { .. });
    stage.pass(Duration::from_secs(80));
    assert!(half_open(&stage));
    let checkpoint = stage.checkpoints[&name("a")].clone();
    let mut next = adopted(&stage, &v, &stage.id("a"), Some(checkpoint.clone()));
    next.pass(Duration::from_secs(10));
    assert!(half_open(&next));
    next.pass(Duration::from_secs(15));
    assert_eq!(next.unit("a").breaker.circuit(), Circuit::Closed, "80 s under the one, 20 s under the other");
    // One that ended meanwhile has not held.
    let mut next = adopted(&stage, &v, &stage.id("a"), Some(checkpoint));
    next.exits("a", Exit::Code(1));
    assert!(matches!(next.unit("a").breaker.circuit(), Circuit::Open { .. }));
}

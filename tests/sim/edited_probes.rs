//! Probes that are edited under a program that runs.

use std::time::Duration;

use unisys::unit::{ProbeBoard, ProbeKind};
use unisys::world::InstanceFact;

use super::stage::{Stage, name, rollout, service};

/// A service whose probes ask so.
pub fn probed(readiness: &str, liveness: &str, rest: &str) -> Vec<String> {
    let probe = |asked: &str| format!("{{exec: {{command: [{asked}]}}, period: 5s}}");
    let probes = format!("{{readiness: {}, liveness: {}}}", probe(readiness), probe(liveness));
    vec![service("a", &format!(", probes: {probes}, update: {{progressDeadline: 60s{rest}}}"))]
}

/// It runs well under its first probes.
fn well(rest: &str) -> Stage {
    let mut stage = Stage::new();
    stage.accept(&probed("ready", "alive", rest));
    stage.ready("a");
    stage.answer("a", ProbeKind::Liveness, true, "");
    stage.pass(Duration::from_secs(2));
    assert_eq!(rollout(&stage), "Complete");
    stage
}

fn unready(stage: &mut Stage, times: usize) {
    for _ in 0..times {
        stage.answer("a", ProbeKind::Readiness, false, "exit code 1");
    }
}

#[test]
fn an_edited_readiness_probe_that_never_passes_is_rolled_back_and_the_instance_stays() {
    let mut stage = well("");
    let id = stage.id("a");
    stage.accept(&probed("other", "alive", ""));
    stage.answer("a", ProbeKind::Liveness, true, "");
    unready(&mut stage, 2);
    assert_eq!(rollout(&stage), "Progressing", "the old probe's answer is none of the new one");
    assert_eq!(stage.condition("a", "Ready"), "True", "an edit alone takes nothing away");
    unready(&mut stage, 1);
    assert_eq!(stage.condition("a", "Ready"), "False", "it has failed as often as it may");
    stage.pass(Duration::from_secs(60));
    let failure = stage.unit("a").rollout.failure().expect("it has failed").message.clone();
    assert!(failure.ends_with("0 is Up, its readiness probe: exit code 1"), "{failure}");
    stage.ready("a");
    stage.answer("a", ProbeKind::Liveness, true, "");
    stage.pass(Duration::from_secs(2));
    assert_eq!((rollout(&stage), stage.condition("a", "Ready")), ("RolledBack", "True"));
    assert_eq!(stage.id("a"), id);
}

#[test]
fn an_edited_probe_is_accepted_when_it_has_answered_well() {
    for strategy in ["", ", strategy: Canary, canary: {hold: 5m}"] {
        let mut stage = well(strategy);
        let id = stage.id("a");
        // What was asked before is not answered for what is asked now.
        let before = stage.take_question("a", ProbeKind::Readiness);
        stage.accept(&probed("other", "another", strategy));
        stage.answer_to(before, true, "");
        stage.answer("a", ProbeKind::Liveness, true, "");
        assert_eq!(rollout(&stage), "Progressing");
        stage.ready("a");
        stage.pass(Duration::from_millis(1));
        assert_eq!((rollout(&stage), stage.id("a")), ("Complete", id));
    }
}

#[test]
fn an_edited_liveness_probe_that_fails_is_rolled_back_and_kills_nobody() {
    let mut stage = well("");
    let id = stage.id("a");
    stage.accept(&probed("ready", "other", ""));
    stage.ready("a");
    stage.not_alive("a", 3);
    assert_eq!((rollout(&stage), stage.id("a")), ("RollingBack", id.clone()));
    assert_eq!(stage.unit("a").overrides.rejected.as_ref().unwrap().failure.reason, "ProbeFailed");
    stage.ready("a");
    stage.answer("a", ProbeKind::Liveness, true, "");
    stage.pass(Duration::from_secs(2));
    assert_eq!((rollout(&stage), stage.id("a")), ("RolledBack", id));
}

#[test]
fn a_liveness_probe_that_was_edited_and_passed_once_kills_as_before() {
    let mut stage = well("");
    let id = stage.id("a");
    stage.accept(&probed("ready", "other", ""));
    stage.ready("a");
    stage.answer("a", ProbeKind::Liveness, true, "");
    stage.not_alive("a", 3);
    stage.pass(Duration::from_secs(1));
    assert_ne!(stage.id("a"), id);
    assert_eq!(stage.world.units()[&name("a")].overrides.rejected, None);
}

#[test]
fn a_liveness_probe_that_was_edited_away_and_back_kills_as_before() {
    let mut stage = well("");
    let id = stage.id("a");
    stage.accept(&probed("ready", "other", ""));
    stage.accept(&probed("another", "alive", ""));
    stage.not_alive("a", 3);
    stage.pass(Duration::from_secs(1));
    assert_ne!(stage.id("a"), id);
}

#[test]
fn an_edited_startup_probe_is_asked_once_more_and_ends_nobody() {
    let asked = |command: &str| {
        let startup = format!("{{exec: {{command: [{command}]}}, period: 5s, failureThreshold: 2}}");
        vec![service("a", &format!(", probes: {{startup: {startup}}}, update: {{progressDeadline: 60s}}"))]
    };
    let mut stage = Stage::new();
    stage.accept(&asked("up"));
    stage.answer("a", ProbeKind::Startup, true, "");
    stage.pass(Duration::from_secs(2));
    let id = stage.id("a");
    stage.accept(&asked("other"));
    stage.pass(Duration::from_secs(2));
    assert_eq!((rollout(&stage), stage.marks[&id].edited), ("Progressing", true));
    for _ in 0..2 {
        stage.answer("a", ProbeKind::Startup, false, "exit code 1");
    }
    assert_eq!(stage.unit("a").overrides.rejected.as_ref().unwrap().failure.reason, "ProbeFailed");
    stage.pass(Duration::from_secs(2));
    assert_eq!((rollout(&stage), stage.id("a")), ("RolledBack", id.clone()));
    stage.accept(&asked("third"));
    stage.answer("a", ProbeKind::Startup, true, "");
    stage.pass(Duration::from_secs(2));
    assert_eq!((rollout(&stage), stage.id("a")), ("Complete", id.clone()));
    assert!(!stage.marks[&id].edited);
}

#[test]
fn what_an_earlier_daemon_asked_is_no_edit_unless_it_says_so() {
    let stage = well("");
    let (policy, now) = (&stage.unit("a").spec.policy, stage.clock().mono);
    let mut board = ProbeBoard::adopted(policy, now, now, true);
    assert!(!board.is_proved() && !board.has_unproved_edit());
    board.mark_edited(true);
    assert!(board.is_unproved_edit(ProbeKind::Liveness));
}

#[test]
fn a_line_that_is_awaited_anew_is_looked_for_in_what_was_written() {
    let awaits = |line: &str| {
        let probes = format!("{{readiness: {{log: {{pattern: {line}}}}}}}");
        vec![service("a", &format!(", probes: {probes}, update: {{progressDeadline: 60s}}"))]
    };
    let mut stage = Stage::new();
    stage.accept(&awaits("one"));
    let id = stage.id("a");
    let seen = |stage: &mut Stage| {
        stage.fact(&id, InstanceFact::ToldReady { how: "log" });
        stage.act();
        stage.pass(Duration::from_secs(2));
        assert_eq!((rollout(stage), stage.id("a")), ("Complete", id.clone()));
    };
    seen(&mut stage);
    stage.accept(&awaits("two"));
    stage.pass(Duration::from_secs(2));
    assert_eq!((rollout(&stage), stage.condition("a", "Ready")), ("Progressing", "True"));
    seen(&mut stage);
    stage.accept(&awaits("three"));
    stage.pass(Duration::from_secs(65));
    assert_eq!((rollout(&stage), stage.id("a")), ("RolledBack", id.clone()));
    let told = stage.unit("a").rollout.failure().unwrap().message.clone();
    assert!(told.ends_with("0 is Up, the line that its probe awaits is not in its log"), "{told}");
}

//! The way down when there is not enough time for everybody in turn.

use std::time::Duration;

use unisys::world::Event;

use super::stage::{Stage, service, system_of};

/// Three in a row, each of which takes five seconds to end.
fn chain(system: &str) -> Stage {
    let mut stage = Stage::new();
    let needs = |name: &str, on: &str| service(name, &format!(", dependsOn: [{on}]"));
    stage.accept(&[system_of(system), service("a", ""), needs("b", "a"), needs("c", "b")]);
    stage.pass(Duration::from_secs(60));
    assert_eq!(stage.running.len(), 3);
    stage.deaf.extend(["a", "b", "c"].map(str::to_owned));
    stage
}

fn stop(stage: &mut Stage, within: Option<u64>) {
    if let Some(within) = within {
        let at = stage.clock().mono + Duration::from_secs(within);
        stage.tell(Event::StopBy { at });
    }
    stage.tell(Event::ShutDown { by: "ada".into(), now: false });
}

/// What was told because of the time, without that of single instances.
fn told(stage: &Stage) -> Vec<String> {
    let records = stage.world.chronicle().iter();
    let of_time = records.filter(|record| ["StopsTogether", "StopDeadline"].contains(&&*record.reason));
    of_time.map(|record| format!("{}: {}", record.object, record.message)).collect()
}

#[test]
fn without_a_time_everybody_has_its_own() {
    let mut stage = chain("");
    stop(&mut stage, None);
    stage.pass(Duration::from_secs(14));
    assert_eq!((stage.running.len(), told(&stage)), (1, vec![]));
    stage.pass(Duration::from_secs(2));
    assert!(stage.running.is_empty() && stage.world.units().is_empty());
}

#[test]
fn when_time_is_short_what_is_left_stops_together() {
    let mut stage = chain("");
    stop(&mut stage, Some(12));
    stage.pass(Duration::from_millis(5900));
    assert_eq!(told(&stage), [] as [&str; 0], "in its order for half of the time");
    stage.pass(Duration::from_millis(5300));
    assert!(stage.running.is_empty() && stage.world.units().is_empty(), "{:?}", stage.running);
    assert_eq!(
        told(&stage),
        ["system: everything has to have stopped in 6s: what still waits is stopped together (service/a)"]
    );
}

#[test]
fn what_has_not_stopped_in_time_is_killed_and_named() {
    let mut stage = chain("");
    stop(&mut stage, Some(8));
    stage.pass(Duration::from_millis(7900));
    assert_eq!(stage.running.len(), 2);
    // Who asks again for less time means it; for more, it is too late.
    let at = stage.clock().mono + Duration::from_secs(60);
    stage.tell(Event::StopBy { at });
    stage.pass(Duration::from_millis(200));
    assert!(stage.running.is_empty() && stage.world.units().is_empty(), "{:?}", stage.running);
    let told = told(&stage);
    assert_eq!(told.len(), 4, "{told:?}");
    assert_eq!(
        told[1],
        "system: the time to stop is over: what had not stopped is killed (service/a, service/b)"
    );
    assert_eq!(told[2], "service/a: instance 0 is killed: the time for everything to stop is over");
}

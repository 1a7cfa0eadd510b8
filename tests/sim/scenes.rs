//! Decisions about whole systems that a drawn one hardly ever is.

use std::time::Duration;

use unisys::base::{Exit, Name};
use unisys::world::{InstanceFact, Order};

use super::stage::{PROBED, Stage, names, service, versioned};

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
    stage.order(Order::Stop(names("s0x1")));
    assert_eq!(stage.running.len(), 2);
    let top: Name = "s39x2".parse().unwrap();
    let why: Vec<String> =
        stage.world.conditions(&top).into_iter().map(|condition| condition.message).collect();
    assert!(
        why.iter().any(|message| message.contains("it depends on service/s0x1: stopped by ada")),
        "{why:?}"
    );
    stage.order(Order::Start(names("s0x1")));
    assert_eq!(stage.running.len(), 120);
}

#[test]
fn what_an_instance_runs_without_is_a_condition_that_the_keeper_remembers() {
    let mut stage = Stage::new();
    stage.accept(&[service("a", "")]);
    let id = stage.id("a");
    stage.fact(&id, InstanceFact::Uncontained);
    stage.act();
    let enforced = |stage: &Stage| {
        let conditions = stage.world.conditions(&"a".parse().unwrap());
        conditions.into_iter().find(|condition| condition.kind == "Enforced")
    };
    let condition = enforced(&stage).unwrap();
    assert_eq!((condition.status, condition.reason), ("False", "LeftOut"));
    assert!(condition.message.starts_with("instance 0 runs without its cgroup"), "{}", condition.message);
    assert_eq!(stage.marks[&id].left_out.len(), 1);
    stage.order(Order::Restart(names("a")));
    stage.pass(Duration::from_secs(5));
    assert!(enforced(&stage).is_none(), "another instance is in its cgroup");
}

#[test]
fn what_nothing_needs_any_more_goes_as_soon_as_the_last_instance_that_needed_it_is_gone() {
    for edit in
        [", env: {X: \"1\"}", ", stop: {grace: 3s}", ", env: {X: \"1\"}, update: {strategy: Recreate}"]
    {
        let mut stage = Stage::new();
        stage.accept(&[service("db", ""), service("api", ", dependsOn: [db]")]);
        assert_eq!(stage.running.len(), 2);
        stage.accept(&[service("api", edit)]);
        stage.pass(Duration::from_secs(30));
        let left: Vec<String> = stage.running.keys().map(|id| id.unit.to_string()).collect();
        assert_eq!(left, ["api"], "{edit}");
    }
}

#[test]
fn a_version_that_comes_back_needs_again_what_it_needed() {
    let mut stage = Stage::new();
    let api = |rest: &str| service("api", rest);
    stage.accept(&[service("db", ""), api(", dependsOn: [db]")]);
    stage.pass(Duration::from_secs(5));
    stage.accept(&[service("db", ""), api(", env: {X: \"1\"}")]);
    stage.pass(Duration::from_secs(30));
    stage.order(Order::Undo("api".parse().unwrap(), None));
    stage.pass(Duration::from_secs(30));
    stage.order(Order::Stop(names("db")));
    assert!(stage.running.is_empty(), "who needs it goes first, and both are gone: {:?}", stage.running);
}

#[test]
fn what_a_stop_takes_along_and_what_a_start_brings_back_is_one_change() {
    let mut stage = Stage::new();
    stage.accept(&[
        service("db", ""),
        service("api", ", dependsOn: [db]"),
        service("web", ", dependsOn: [api]"),
    ]);
    for (order, verb) in [(Order::Stop(names("db")), "Stop"), (Order::Start(names("db")), "Start")] {
        stage.changes.clear();
        stage.order(order);
        stage.pass(Duration::from_secs(30));
        let ids: Vec<u64> = stage.changes.keys().copied().collect();
        assert_eq!(ids.len(), 1, "{:?}", stage.changes);
        let actions: Vec<String> =
            stage.changes[&ids[0]].actions.iter().map(|action| action.unit.name.to_string()).collect();
        assert_eq!(actions, ["db", "api", "web"], "{verb}");
        assert!(stage.changes[&ids[0]].actions.iter().all(|action| format!("{:?}", action.verb) == verb));
    }
}

#[test]
fn an_optional_dependency_that_does_not_get_well_holds_nothing_up_for_long() {
    let on = ", dependsOn: [{name: cache, optional: true}]";
    let mut stage = Stage::new();
    stage.accept(&[service("cache", PROBED), service("api", on)]);
    stage.pass(Duration::from_secs(59));
    assert_eq!(stage.count("api"), 0, "it may still become ready");
    stage.pass(Duration::from_secs(2));
    assert_eq!(stage.count("api"), 1, "progressDeadline is over");

    let mut stage = Stage::new();
    stage.accept(&[service("cache", PROBED), service("api", on), service("web", ", dependsOn: [cache]")]);
    stage.exits("cache", Exit::Code(1));
    assert_eq!((stage.count("api"), stage.count("web")), (1, 0), "it failed, and only one can be without it");
}

#[test]
fn a_restart_in_the_middle_of_a_rollout_also_begins_what_is_on_its_way_in_anew() {
    let mut stage = Stage::new();
    stage.accept(&[versioned("a", PROBED, 1)]);
    stage.ready("a");
    stage.pass(Duration::from_secs(3));
    stage.accept(&[versioned("a", PROBED, 2)]);
    let incoming = stage.id("a");
    assert_eq!(stage.count("a"), 2);
    stage.order(Order::Restart(names("a")));
    stage.pass(Duration::from_secs(1));
    assert_ne!(stage.id("a"), incoming);
    assert_eq!(stage.count("a"), 2, "the serving one stays until a new one is ready");
    stage.ready("a");
    stage.pass(Duration::from_secs(10));
    assert_eq!((stage.count("a"), stage.unit("a").rollout.word(false)), (1, "Complete"));
}

#[test]
fn restarts_are_those_that_nobody_asked_for() {
    for (restart, delay) in [("", 1), (", restart: {backoff: {initial: 0s}}", 0)] {
        let mut stage = Stage::new();
        let v = |x: u32| vec![versioned("a", &format!("{restart}, update: {{strategy: Recreate}}"), x)];
        let restarts =
            |stage: &Stage| stage.unit("a").serving().map(|slot| slot.restart.restarts).sum::<u32>();
        stage.accept(&v(1));
        stage.exits("a", Exit::Code(1));
        stage.pass(Duration::from_secs(delay));
        assert_eq!((stage.count("a"), restarts(&stage)), (1, 1));
        stage.accept(&v(2));
        stage.order(Order::Restart(names("a")));
        stage.order(Order::Stop(names("a")));
        stage.order(Order::Start(names("a")));
        stage.pass(Duration::from_secs(5));
        assert_eq!((stage.count("a"), restarts(&stage)), (1, 1), "an edit and three orders");
        stage.exits("a", Exit::Code(1));
        stage.order(Order::Start(names("a")));
        stage.pass(Duration::from_secs(5));
        assert_eq!(stage.count("a"), 1);
        assert_eq!(restarts(&stage), if delay == 0 { 2 } else { 1 }, "an order came first, or did not");
    }
}

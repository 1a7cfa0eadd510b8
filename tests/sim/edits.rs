//! Edits of what runs well: what they may do to it, and when they have come to their end.

use std::time::Duration;

use unisys::base::{Exit, Part};
use unisys::world::{InstanceFact, Order};

use super::edited_probes::probed;
use super::stage::{Stage, name, names, rollout, service, versioned};

/// A job and a service that waits for it, each as a version of its own.
fn migrated(job: u32, service: u32) -> Vec<String> {
    let job = format!(
        "apiVersion: unisys.dev/v1\nkind: Job\nmetadata: {{name: job}}\n\
         spec: {{command: [run], backoffLimit: 0, env: {{X: \"{job}\"}}}}\n---\n"
    );
    vec![job, versioned("a", ", dependsOn: [{name: job, condition: Completed}]", service)]
}

#[test]
fn what_ran_on_the_ground_of_an_earlier_version_of_a_job_runs_again_after_the_next_one_failed() {
    let mut stage = Stage::new();
    stage.accept(&migrated(1, 1));
    assert_eq!(stage.count("a"), 0);
    stage.exits("job", Exit::Code(0));
    stage.pass(Duration::from_secs(2));
    stage.accept(&migrated(2, 1));
    stage.exits("job", Exit::Code(1));
    stage.exits("a", Exit::Code(1));
    stage.pass(Duration::from_secs(2));
    assert_eq!(stage.count("a"), 1, "{:?}", stage.unit("a").waiting);
    assert!(stage.checkpoints[&name("job")].completed_once, "the next daemon knows");
    // What the edit itself starts anew waits for what belongs to it; what ran before stays, and comes back, meanwhile.
    let id = stage.id("a");
    stage.accept(&migrated(2, 2));
    stage.pass(Duration::from_secs(100));
    assert_eq!(stage.id("a"), id);
    let waits = "job/job Completed (it ended: exit code 1)";
    assert_eq!(stage.unit("a").waiting.as_deref(), Some(waits));
    stage.exits("a", Exit::Code(1));
    stage.pass(Duration::from_secs(2));
    assert_eq!(stage.count("a"), 1, "{}", stage.why("a").join("\n"));
    stage.order(Order::Run(name("job")));
    stage.exits("job", Exit::Code(0));
    stage.pass(Duration::from_secs(2));
    assert_eq!(stage.unit("a").waiting, None);
    assert_eq!(rollout(&stage), "Complete");
}

/// Services that bind these ports themselves.
fn binding(ports: &[(&str, u16)], rest: &str) -> Vec<String> {
    let service =
        |(name, port): &(&str, u16)| service(name, &format!(", ports: [{{name: p, port: {port}}}]{rest}"));
    ports.iter().map(service).collect()
}

#[test]
fn services_that_change_ports_with_each_other_arrive() {
    let mut stage = Stage::new();
    stage.accept(&binding(&[("a", 1), ("b", 2), ("c", 3)], ""));
    stage.pass(Duration::from_secs(2));
    let b = stage.id("b");
    stage.accept(&binding(&[("a", 2), ("b", 3), ("c", 1)], ""));
    stage.pass(Duration::from_millis(1));
    assert_eq!((stage.count("a"), stage.id("b")), (0, b), "one goes first, nobody else");
    stage.pass(Duration::from_secs(10));
    for name in ["a", "b", "c"] {
        assert_eq!(stage.unit(name).rollout.word(false), "Complete", "{name}");
        assert_eq!(stage.count(name), 1);
    }
}

#[test]
fn a_service_and_what_it_needs_change_ports_with_each_other() {
    let mut stage = Stage::new();
    let pair = |a: u16, b: u16| {
        let with = |name: &str, port: u16, rest: &str| {
            service(name, &format!(", ports: [{{name: p, port: {port}}}]{rest}"))
        };
        vec![with("a", a, ""), with("b", b, ", dependsOn: [a]")]
    };
    stage.accept(&pair(1, 2));
    stage.pass(Duration::from_secs(2));
    stage.accept(&pair(2, 1));
    stage.pass(Duration::from_millis(1));
    assert!(stage.count("a") > 0 && stage.count("b") == 0, "who needs the other goes first");
    stage.pass(Duration::from_secs(10));
    for name in ["a", "b"] {
        assert_eq!(stage.unit(name).rollout.word(false), "Complete", "{name}");
        assert_eq!(stage.count(name), 1);
    }
}

#[test]
fn what_starts_while_a_rollout_is_paused_starts_as_what_is_good_and_nobody_waits_for_its_end() {
    let v = |x: u32| versioned("a", ", replicas: 2", x);
    let runs = |stage: &Stage| -> Vec<u64> {
        let instances = stage.unit("a").slots.values().filter_map(|slot| slot.instance.as_ref());
        instances.map(|instance| instance.generation.0).collect()
    };
    let mut stage = Stage::new();
    stage.accept(&[v(1)]);
    stage.pass(Duration::from_secs(2));
    stage.order(Order::Pause(names("a")));
    stage.accept(&[v(2)]);
    stage.order(Order::Stop(names("a")));
    stage.pass(Duration::from_secs(2));
    assert_eq!(stage.count("a"), 0);
    stage.order(Order::Start(names("a")));
    stage.pass(Duration::from_secs(2));
    assert_eq!((stage.count("a"), runs(&stage)), (2, vec![1, 1]));
    stage.order(Order::Scale(vec![(name("a"), 3)]));
    stage.exits("a", Exit::Code(1));
    stage.accept(&[v(2), service("b", ", dependsOn: [a]")]);
    stage.pass(Duration::from_secs(5));
    assert_eq!((runs(&stage), stage.count("b")), (vec![1, 1, 1], 1), "{:?}", stage.unit("b").waiting);
    stage.accept(&[v(3), service("b", ", dependsOn: [a]")]);
    stage.order(Order::Resume(names("a")));
    stage.pass(Duration::from_secs(30));
    assert_eq!(runs(&stage), [3, 3, 3]);
    let third = stage.unit("a").spec.launch.digest();
    stage.accept(&[v(4), service("b", ", dependsOn: [a]")]);
    stage.order(Order::Pause(names("a")));
    stage.order(Order::Undo(name("a"), None));
    stage.pass(Duration::from_secs(30));
    let instances = stage.unit("a").slots.values().filter_map(|slot| slot.instance.as_ref());
    let third = instances.map(|instance| instance.spec.launch.digest() == third);
    assert_eq!(third.collect::<Vec<_>>(), [true; 3]);
    assert!(stage.unit("a").overrides.paused.is_none());
}

#[test]
fn nobody_goes_first_for_a_port_that_will_not_come_free() {
    let mut stage = Stage::new();
    stage.accept(&binding(&[("a", 1), ("b", 2)], ""));
    stage.pass(Duration::from_secs(2));
    stage.order(Order::Pause(names("b")));
    stage.accept(&binding(&[("a", 2), ("b", 1)], ""));
    stage.pass(Duration::from_secs(10));
    assert_eq!((stage.count("a"), stage.count("b")), (1, 1));
    stage.order(Order::Resume(names("b")));
    stage.pass(Duration::from_secs(10));
    assert_eq!(stage.unit("a").rollout.word(false), "Complete");
}

#[test]
fn a_plan_says_whose_socket_is_in_the_way() {
    for (rest, words) in [
        (", listen: true", "port 80 cannot be had at its former and its new address at once"),
        ("", "the program binds port 80 itself"),
    ] {
        let mut stage = Stage::new();
        let at = |address: &str| {
            vec![service("a", &format!(", ports: [{{name: p, port: 80, address: {address}{rest}}}]"))]
        };
        stage.accept(&at("127.0.0.1"));
        stage.pass(Duration::from_secs(2));
        stage.order(Order::Pause(names("a")));
        stage.accept(&at("0.0.0.0"));
        let plan = stage.world.pending();
        assert!(plan.actions[0].reason.contains(words), "{}", plan.actions[0].reason);
    }
}

#[test]
fn what_cannot_go_back_stays_as_it_is() {
    let mut stage = Stage::new();
    let rest = ", update: {minReady: 0s, progressDeadline: 60s}";
    stage.accept(&[service("db", ""), versioned("a", &format!(", dependsOn: [db]{rest}"), 1)]);
    stage.pass(Duration::from_secs(2));
    stage.accept(&[versioned("a", rest, 2)]);
    stage.pass(Duration::from_secs(2));
    assert!(!stage.world.units().contains_key(&name("db")), "nobody needs it any more");
    for _ in 0..3 {
        stage.exits("a", Exit::Code(1));
        stage.pass(Duration::from_secs(2));
    }
    assert_eq!((rollout(&stage), stage.count("a")), ("Failed", 1));
    let told = stage.unit("a").rollout.failure().unwrap().message.clone();
    let reason = "it cannot go back: it depends on db, and there is no such unit any more";
    assert!(told.contains(reason), "{told}");
}

/// A program that ends well, and is not started again.
fn once(version: u32) -> Vec<String> {
    vec![versioned("a", ", restart: {policy: OnFailure}, update: {progressDeadline: 60s}", version)]
}

#[test]
fn a_version_that_ends_well_has_arrived() {
    let mut stage = Stage::new();
    for version in [1, 2] {
        stage.accept(&once(version));
        stage.exits("a", Exit::Code(0));
        stage.pass(Duration::from_secs(100));
        assert_eq!((rollout(&stage), stage.count("a")), ("Complete", 0));
    }
    // It is started again by whoever says so, and by the next `up`.
    stage.order(Order::Start(names("a")));
    assert_eq!(stage.count("a"), 1);
    stage.exits("a", Exit::Code(0));
    assert!(!stage.checkpoints[&name("a")].rests.is_empty(), "the next daemon leaves it alone");
    stage.tell(unisys::world::Event::ShutDown { by: "ada".into(), now: false });
    let left = &stage.checkpoints[&name("a")];
    assert!(left.rests.is_empty() && left.done.is_none(), "{left:?}");
}

#[test]
fn a_restart_is_done_when_what_runs_was_started_for_it() {
    let probed = |version: u32| {
        vec![versioned(
            "a",
            ", probes: {readiness: {exec: {command: [ready]}}}, update: {minReady: 0s}",
            version,
        )]
    };
    let held = |stage: &Stage| stage.world.held_back(stage.clock(), &name("a"));
    let mut stage = Stage::new();
    stage.accept(&probed(1));
    stage.ready("a");
    let first = stage.id("a");
    stage.order(Order::Restart(names("a")));
    assert_eq!(held(&stage), None, "it is on its way in");
    // An edit comes meanwhile, and fails: neither it nor the instance before is what was asked for.
    stage.accept(&probed(2));
    assert_ne!(held(&stage), None);
    stage.exits("a", Exit::Code(78));
    stage.pass(Duration::from_millis(1));
    assert!(stage.running.contains_key(&first));
    assert_eq!(stage.count("a"), 2, "it is started again as what was good");
    stage.ready("a");
    stage.pass(Duration::from_secs(2));
    assert_eq!((rollout(&stage), held(&stage)), ("RolledBack", None));
    assert!(!stage.running.contains_key(&first));
}

#[test]
fn a_first_version_that_failed_for_good_has_failed_whether_it_was_ready_for_a_moment_or_not() {
    // Ready as it runs, and never Ready.
    for first in [vec![service("a", "")], probed("ready", "alive", "")] {
        let mut stage = Stage::new();
        stage.accept(&first);
        let failure = |stage: &Stage| {
            let found = stage.world.rollout_failure(stage.clock(), &"a".parse().unwrap());
            found.map(|failure| failure.message.clone())
        };
        assert_eq!(failure(&stage), None, "it begins");
        stage.exits("a", Exit::Code(78));
        assert!(failure(&stage).is_some_and(|why| why.contains("exit code 78")), "{:?}", failure(&stage));
        stage.accept(&[versioned("a", "", 2)]);
        stage.pass(Duration::from_secs(2));
        assert_eq!((failure(&stage), rollout(&stage)), (None, "Complete"));
    }
}

#[test]
fn who_is_stopped_or_replaced_is_down_on_purpose() {
    let on_purpose = |stage: &Stage| stage.unit("a").is_down_on_purpose();
    let mut stage = Stage::new();
    stage.accept(&[versioned("a", super::stage::PROBED, 1)]);
    assert!(!on_purpose(&stage), "it begins");
    stage.ready("a");
    stage.order(Order::Stop(names("a")));
    assert!(on_purpose(&stage));
    stage.order(Order::Start(names("a")));
    assert!(on_purpose(&stage), "until it is back");
    stage.ready("a");
    assert!(!on_purpose(&stage));
    stage.exits("a", Exit::Code(1));
    assert!(!on_purpose(&stage));
}

#[test]
fn a_job_runs_again_only_where_something_else_was_run_or_wanted_last() {
    let wanted = |version: u32, rest: &str| {
        let job = versioned("job", rest, version).replace("kind: Service", "kind: Job");
        vec![service("gate", super::stage::PROBED), job]
    };
    let mut stage = Stage::new();
    stage.accept(&wanted(1, ""));
    stage.exits("job", Exit::Code(0));
    // As with a file that is away for a moment: the second version never gets to run.
    stage.accept(&wanted(2, ", dependsOn: [{name: gate, condition: Ready}]"));
    assert_eq!((stage.count("job"), stage.condition("job", "Completed")), (0, "False"));
    stage.accept(&wanted(1, ""));
    assert_eq!((stage.count("job"), stage.condition("job", "Completed")), (0, "True"));
    stage.accept(&wanted(2, ""));
    stage.exits("job", Exit::Code(0));
    stage.accept(&wanted(1, ""));
    assert_eq!(stage.count("job"), 1, "the second one ran last");
}

#[test]
fn what_is_available_and_ends_with_a_code_that_means_success_has_not_failed() {
    let mut stage = Stage::new();
    stage.accept(&[service("a", ", restart: {backoff: {initial: 1s, jitter: 0}}")]);
    for _ in 0..10 {
        stage.pass(Duration::from_secs(2));
        stage.exits("a", Exit::Code(0));
        assert_eq!(stage.count("a"), 0, "it is not started at once");
        stage.pass(Duration::from_secs(1));
        assert_eq!(stage.count("a"), 1, "nor later each time");
    }
    assert_eq!(stage.unit("a").breaker.failing().count(), 0);
    stage.exits("a", Exit::Code(0));
    assert_eq!(stage.unit("a").breaker.failing().count(), 1, "it had hardly begun");
    stage.pass(Duration::from_secs(4));
    stage.exits("a", Exit::Signal { signal: 15, core: false });
    assert_eq!(stage.unit("a").breaker.failing().count(), 2, "somebody else ended it");
}

#[test]
fn a_version_that_mends_one_that_was_given_up_is_tried_though_the_circuit_is_open() {
    let of = |version| vec![versioned("a", ", circuitBreaker: {failures: 1, openFor: 20m}", version)];
    let mut stage = Stage::new();
    stage.accept(&of(1));
    stage.pass(Duration::from_secs(2));
    stage.accept(&of(2));
    while rollout(&stage) == "Progressing" {
        let incoming = stage.running.keys().next_back().cloned().unwrap();
        stage.ended(&incoming, Exit::Code(7));
        stage.pass(Duration::from_secs(1));
    }
    assert_eq!(rollout(&stage), "RolledBack");
    // What it runs reads the same broken file.
    stage.exits("a", Exit::Code(7));
    stage.pass(Duration::from_secs(1));
    assert_eq!(stage.count("a"), 0, "its circuit is open");
    stage.accept(&of(1));
    stage.pass(Duration::from_secs(2));
    assert_eq!((stage.count("a"), rollout(&stage)), (1, "Complete"));
}

#[test]
fn replicas_that_are_added_with_a_canary_run_what_is_known_to_be_good() {
    let of = |version, replicas: u32| {
        let canary = format!(
            ", replicas: {replicas}, update: {{strategy: Canary, canary: {{replicas: 1, autoPromote: false}}}}"
        );
        vec![versioned("a", &canary, version)]
    };
    let mut stage = Stage::new();
    stage.accept(&of(1, 2));
    stage.pass(Duration::from_secs(2));
    stage.accept(&of(2, 6));
    stage.pass(Duration::from_secs(10));
    let of_generation = |stage: &Stage, wanted: u64| {
        let slots = stage.unit("a").slots.values();
        slots.filter_map(|slot| slot.instance.as_ref()).filter(|it| it.generation.0 == wanted).count()
    };
    assert_eq!((of_generation(&stage, 1), of_generation(&stage, 2)), (6, 1));
    stage.order(Order::Promote(names("a")));
    stage.pass(Duration::from_secs(60));
    assert_eq!((of_generation(&stage, 1), of_generation(&stage, 2)), (0, 6));
}

#[test]
fn what_goes_with_something_new_says_that_it_does_not_come_back() {
    let mut stage = Stage::new();
    stage.accept(&[service("a", ""), service("c", "")]);
    stage.accept(&[service("b", ""), service("c", "")]);
    let change = stage.changes.values().last().unwrap().clone();
    let row = |unit: &str| {
        let found = change.actions.iter().find(|action| action.unit.to_string() == unit);
        found.map(|action| action.reason.clone()).unwrap_or_default()
    };
    let words =
        "it is in no manifest any more; it does not come back if service/b, which is new with that, fails";
    assert_eq!(row("service/a"), words);
    stage.accept(&[service("b", "")]);
    let change = stage.changes.values().last().unwrap();
    assert_eq!(change.actions[0].reason, "it is in no manifest any more");
}

#[test]
fn a_job_that_nobody_wants_just_as_its_last_hook_ends_is_done() {
    let hook = ", dependsOn: [a], hooks: {postStop: [{command: [post], timeout: 5s}]}";
    let job = service("job", hook).replace("kind: Service", "kind: Job");
    let mut stage = Stage::new();
    stage.accept(&[service("a", ""), job]);
    stage.pass(Duration::from_secs(2));
    let id = stage.id("job");
    stage.exits("job", Exit::Code(0));
    stage.order(Order::Disable(names("a")));
    stage.running.remove(&id);
    let (part, exit, remains) = (Part::PostStop(0), Exit::Code(0), false);
    stage.fact(&id, InstanceFact::Exited { part, exit, remains });
    stage.act();
    stage.order(Order::Enable(names("a")));
    stage.pass(Duration::from_secs(2));
    assert_eq!((stage.count("a"), stage.count("job")), (1, 0));
}

#[test]
fn what_is_still_in_its_hooks_is_not_executed_beside_others_where_that_is_not_allowed_any_more() {
    let v = |update: &str, version| {
        let rest = format!(", hooks: {{preStart: [{{command: [pre], timeout: 5s}}]}}, update: {{{update}}}");
        [versioned("a", &rest, version)]
    };
    for (update, goes_on) in
        [("maxSurge: 1", true), ("strategy: Recreate", false), ("maxSurge: 0, maxUnavailable: 1", false)]
    {
        let mut stage = Stage::new();
        stage.accept(&v("maxSurge: 1", 1));
        let id = stage.id("a");
        stage
            .fact(&id, InstanceFact::Exited { part: Part::PreStart(0), exit: Exit::Code(0), remains: false });
        stage.act();
        stage.pass(Duration::from_secs(2));
        stage.accept(&v("maxSurge: 1", 2));
        assert_eq!(stage.count("a"), 2, "the hook of the new one runs");
        let incoming = stage.id("a");
        stage.accept(&v(update, 2));
        assert_eq!(stage.running.contains_key(&incoming), goes_on, "{update}");
    }
}

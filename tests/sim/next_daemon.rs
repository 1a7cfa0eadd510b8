//! What the next daemon has to know: it goes on with what it is told, and ends nobody who is well.

use std::sync::Arc;
use std::time::Duration;

use unisys::base::{Exit, Generation, Incarnation, InstanceId, Instant, Now, Part, Revision, Stamp};
use unisys::plan::Drift;
use unisys::unit::{Circuit, PartState, ProbeKind};
use unisys::world::{Adopted, Cause, Checkpoint, Event, InstanceFact, Mark, Order};

use super::stage::{FRAGILE, PROBED, Stage, name, names, service, versioned};
use super::system;

/// The next daemon, with what the keeper holds and remembers of an instance, and with what was stored of its unit.
pub fn adopted(
    stage: &Stage,
    manifests: &[String],
    id: &InstanceId,
    checkpoint: Option<Checkpoint>,
) -> Stage {
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
            rebooted: false,
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

/// The next daemon of the same boot, with what was stored of every unit, while nothing runs.
fn following(stage: &Stage, manifests: &[String]) -> Stage {
    let mut next = Stage::new();
    next.pass(Duration::from_nanos(stage.clock().mono.0 - next.clock().mono.0));
    for (unit, checkpoint) in stage.checkpoints.clone() {
        let restore = Event::Restore { unit: unit.clone(), checkpoint: checkpoint.clone(), kept: None };
        next.world.handle(next.clock(), restore);
        next.checkpoints.insert(unit, checkpoint);
    }
    next.accept(manifests);
    next
}

#[test]
fn what_has_failed_for_good_or_waits_for_its_next_start_does_so_under_the_next_daemon() {
    let slow = ", restart: {backoff: {initial: 40s, max: 60s, jitter: 0}}";
    let v = [
        service("perm", ""),
        service("never", ", restart: {policy: Never}"),
        service("job", ", backoffLimit: 0").replace("kind: Service", "kind: Job"),
        service("slow", slow),
    ];
    let units = ["perm", "never", "job", "slow"];
    let mut stage = Stage::new();
    stage.accept(&v);
    for unit in units {
        stage.exits(unit, Exit::Code(if unit == "perm" { 78 } else { 1 }));
    }
    for _ in 0..3 {
        let why = stage.why("never");
        stage = following(&stage, &v);
        stage.pass(Duration::from_secs(10));
        assert!(stage.running.is_empty(), "{:?}", stage.running);
        assert!(stage.why("never").last() == why.last(), "{:?} is not {why:?}", stage.why("never"));
    }
    stage.pass(Duration::from_secs(11));
    let running: Vec<String> = stage.running.keys().map(|id| id.unit.to_string()).collect();
    assert_eq!(running, ["slow"], "its time has come");
    assert_eq!(stage.unit("slow").serving().map(|slot| slot.restart.restarts).sum::<u32>(), 1);
    // A change or an order begins anew, and so does everything after an ordered end.
    stage.order(Order::Start(names("never")));
    assert_eq!(stage.count("never"), 1);
    stage.exits("never", Exit::Code(1));
    stage.tell(Event::ShutDown { by: "ada".into(), now: false });
    stage.pass(Duration::from_secs(30));
    let next = following(&stage, &v);
    assert!(units.iter().all(|unit| next.count(unit) == 1), "{:?}", next.running);
}

#[test]
fn a_job_that_was_given_up_is_tried_as_often_as_at_first_after_an_ordered_end_and_after_a_boot() {
    let v = [service("job", ", backoffLimit: 2").replace("kind: Service", "kind: Job")];
    let fails_for_good = |stage: &mut Stage| {
        let mut runs = 0;
        while stage.count("job") == 1 {
            runs += 1;
            stage.exits("job", Exit::Code(1));
            stage.pass(Duration::from_secs(120));
        }
        runs
    };
    let mut stage = Stage::new();
    stage.accept(&v);
    assert_eq!(fails_for_good(&mut stage), 3);
    let mut booted = Stage::new();
    let mut checkpoint = stage.checkpoints[&name("job")].clone();
    checkpoint.after_another_boot(booted.clock());
    booted.world.handle(booted.clock(), Event::Restore { unit: name("job"), checkpoint, kept: None });
    booted.accept(&v);
    assert_eq!(fails_for_good(&mut booted), 3, "after a boot");
    stage.tell(Event::ShutDown { by: "ada".into(), now: false });
    assert_eq!(fails_for_good(&mut following(&stage, &v)), 3, "after an ordered end");
}

#[test]
fn what_opened_a_circuit_is_known_to_the_next_daemon() {
    let v = |x: u32| {
        vec![
            versioned("api", &format!("{FRAGILE}, update: {{autoRollback: false, strategy: Recreate}}"), x),
            service("web", ", dependsOn: [api]"),
        ]
    };
    let mut stage = Stage::new();
    stage.accept(&v(1));
    stage.pass(Duration::from_secs(900));
    stage.accept(&v(2));
    stage.exits("api", Exit::Code(3));
    let told = stage.why("api");
    assert!(told.len() >= 3, "{told:?}");
    let mut next = stage;
    for _ in 0..2 {
        let following = following(&next, &v(2));
        assert_eq!(following.count("api"), 0);
        let why = following.why("api");
        for line in &told[1..3] {
            assert!(why.contains(line), "{why:?} lacks {line}");
        }
        assert!(why.last().unwrap().contains("changed spec.env.X"), "{why:?}");
        next = following;
    }
}

#[test]
fn a_trial_that_is_ready_closes_the_circuit_for_the_next_daemon() {
    let mut stage = Stage::new();
    let v = vec![service("a", FRAGILE)];
    stage.accept(&v);
    stage.exits("a", Exit::Code(1));
    while stage.count("a") == 0 {
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
    assert_eq!(next.unit("a").breaker.circuit(), Circuit::Closed);
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
    assert!(next.count("a") == 1 && !next.running.contains_key(&id), "{:?}", next.running);
}

#[test]
fn a_heartbeat_over_a_socket_that_was_made_anew_counts_from_the_first_that_is_heard() {
    let v = vec![service("a", ", watchdog: {heartbeat: 5s}")];
    let mut stage = Stage::new();
    stage.accept(&v);
    let id = stage.id("a");
    let mark = Mark { through: true, ready: true, unheard: true, ..Mark::default() };
    stage.marks.insert(id.clone(), mark);
    let mut next = adopted(&stage, &v, &id, None);
    next.pass(Duration::from_secs(300));
    assert!(next.running.contains_key(&id), "it may speak to a socket that nobody has any more");
    next.fact(&id, InstanceFact::Heartbeat);
    next.act();
    next.pass(Duration::from_secs(60));
    assert!(!next.running.contains_key(&id), "from here on it is missed");
}

#[test]
fn a_heartbeat_that_a_program_asked_for_counts_for_the_next_daemon_and_for_another_policy() {
    let v =
        |soft: u32| vec![service("a", &format!(", watchdog: {{heartbeat: 5s, freeze: {{soft: {soft}s}}}}"))];
    let mut stage = Stage::new();
    stage.accept(&v(30));
    let id = stage.id("a");
    stage.fact(&id, InstanceFact::HeartbeatWithin(Duration::from_secs(600)));
    stage.act();
    let mut next = adopted(&stage, &v(30), &id, None);
    stage.accept(&v(40));
    for stage in [&mut stage, &mut next] {
        stage.pass(Duration::from_secs(300));
        assert!(stage.running.contains_key(&id));
    }
}

#[test]
fn more_time_that_a_program_asked_for_is_its_own_with_the_next_daemon_too() {
    let v = vec![service("a", ", probes: {startup: {notify: systemd, period: 1s, failureThreshold: 5}}")];
    let mut stage = Stage::new();
    stage.accept(&v);
    let id = stage.id("a");
    let until = stage.clock().mono + Duration::from_secs(60);
    stage.fact(&id, InstanceFact::Extend { until });
    stage.act();
    stage.pass(Duration::from_secs(20));
    let mut next = adopted(&stage, &v, &id, None);
    next.pass(Duration::from_secs(30));
    assert!(next.running.contains_key(&id));
    next.pass(Duration::from_secs(20));
    assert!(!next.running.contains_key(&id), "that is over as well");
}

#[test]
fn what_a_revision_came_of_is_told_as_the_first_daemon_knew_it() {
    let v = vec![service("a", "")];
    let mut stage = Stage::new();
    stage.accept(&v);
    stage.pass(Duration::from_secs(2));
    let (id, a) = (stage.id("a"), name("a"));
    let next = adopted(&stage, &v, &id, Some(stage.checkpoints[&a].clone()));
    assert_eq!(next.world.rollout_record(&a).unwrap().cause, "unisys up");
}

#[test]
fn who_follows_a_job_that_has_run_waits_for_what_the_job_needed() {
    let after = |name: &str| format!(", dependsOn: [{{name: {name}, condition: Completed}}]");
    let job = |name: &str, spec: &str| service(name, spec).replace("kind: Service", "kind: Job");
    let v = [
        service("db", PROBED),
        job("migrate", ", dependsOn: [db]"),
        job("seed", &after("migrate")),
        service("api", &after("seed")),
    ];
    let mut stage = Stage::new();
    stage.accept(&v);
    stage.ready("db");
    stage.exits("migrate", Exit::Code(0));
    stage.exits("seed", Exit::Code(0));
    stage.pass(Duration::from_secs(2));
    // What ran on that ground runs on, and comes back, whatever becomes of it.
    stage.order(Order::Stop(names("db")));
    stage.exits("api", Exit::Code(1));
    stage.pass(Duration::from_secs(2));
    assert_eq!((stage.count("db"), stage.count("api")), (0, 1));
    stage.order(Order::Start(names("db")));
    stage.tell(Event::ShutDown { by: "ada".into(), now: false });
    stage.pass(Duration::from_secs(30));
    let mut next = following(&stage, &v);
    assert_eq!(
        (next.count("api"), next.count("migrate"), next.count("seed")),
        (0, 0, 0),
        "{:?}",
        next.running
    );
    let waits = "service/db Ready (job/migrate needed it)";
    assert_eq!(next.unit("api").waiting.as_deref(), Some(waits));
    assert_eq!(next.why("api")[0], format!("service/api: waits for {waits}"));
    assert!(next.why("api")[1].starts_with("service/db: "), "{:?}", next.why("api"));
    next.ready("db");
    assert_eq!((next.count("api"), next.count("migrate"), next.count("seed")), (1, 0, 0));
    // What is not to run any more was needed once.
    next.tell(Event::ShutDown { by: "ada".into(), now: false });
    next.pass(Duration::from_secs(30));
    let unwanted = [vec![v[0].replace("[run]", "[run], replicas: 0")], v[1..].to_vec()].concat();
    assert_eq!(following(&next, &unwanted).count("api"), 1);
}

#[test]
fn an_instance_of_which_only_the_generation_is_known_is_what_that_was() {
    let version = |x: u32| vec![versioned("a", ", update: {minReady: 0s}", x)];
    let mut stage = Stage::new();
    stage.accept(&version(1));
    stage.pass(Duration::from_secs(2));
    stage.order(Order::Pause(names("a")));
    stage.accept(&version(2));
    let (generation, good) = (stage.unit("a").generation, stage.unit("a").good.as_ref().unwrap().generation);
    assert_ne!(generation, good);
    for (of, replaced) in [(generation, false), (good, true), (Generation(9), true)] {
        let mut next = stage.world.clone();
        let id = InstanceId { incarnation: Incarnation(50), ..stage.id("a") };
        let mark = Mark::default();
        next.handle(
            stage.clock(),
            Event::Adopt(Box::new(Adopted {
                id: id.clone(),
                spec: None,
                generation: of,
                started_wall: Default::default(),
                parts: vec![(Part::Main, PartState::Running { pid: 7, at: stage.clock().mono })],
                signalled: None,
                mark,
                ports: Default::default(),
                rebooted: false,
            })),
        );
        let slots = next.units()[&name("a")].slots.values();
        let slot = slots.into_iter().find(|slot| slot.id(&name("a")).as_ref() == Some(&id)).unwrap();
        let old = slot.restart_asked.is_some() || matches!(slot.drift, Drift::Replace(_));
        assert_eq!(old, replaced, "{of:?} {:?} {:?}", slot.restart_asked, slot.drift);
    }
}

#[test]
fn a_job_that_has_run_is_not_run_again_for_what_starts_no_process() {
    let job = |rest: &str| vec![service("job", rest).replace("kind: Service", "kind: Job")];
    let mut stage = Stage::new();
    stage.accept(&job(", backoffLimit: 2"));
    stage.exits("job", Exit::Code(0));
    let edits = [(", backoffLimit: 3, activeDeadline: 9m", 0), (", backoffLimit: 3, env: {X: \"1\"}", 1)];
    for (edit, runs) in edits {
        assert_eq!(following(&stage, &job(edit)).count("job"), runs, "edited while nobody looked: {edit}");
    }
    let (edit, _) = edits[0];
    stage.accept(&job(edit));
    assert_eq!(stage.count("job"), 0);
    assert_eq!(following(&stage, &job(edit)).count("job"), 0, "edited under an earlier daemon");
    assert_eq!(following(&stage, &job(edits[1].0)).count("job"), 1);
}

#[test]
fn an_undo_that_is_under_way_goes_on_under_the_next_daemon() {
    let of = |version| vec![versioned("a", PROBED, version)];
    let mut stage = Stage::new();
    stage.accept(&of(1));
    let good = stage.world.units()[&name("a")].spec.clone();
    for version in [1, 2] {
        stage.accept(&of(version));
        stage.ready("a");
        stage.pass(Duration::from_secs(100));
    }
    let serving = stage.id("a");
    stage.order(Order::Undo(name("a"), Some((Revision(1), good.clone()))));
    let checkpoint = stage.checkpoints[&name("a")].clone();
    assert_eq!(checkpoint.kept_revision(&Default::default(), stage.clock().mono), Some(Revision(1)));
    let mut next = Stage::new();
    next.pass(Duration::from_nanos(stage.clock().mono.0 - next.clock().mono.0));
    let restore = |kept| Event::Restore { unit: name("a"), checkpoint: checkpoint.clone(), kept };
    next.world.handle(next.clock(), restore(Some(good.clone())));
    next.accept(&of(2));
    // Nothing of it runs: it begins with what was asked for.
    let unit = next.unit("a");
    assert_eq!((unit.spec.launch.digest(), unit.overrides.pinned.is_some()), (good.launch.digest(), true));
    assert_ne!(next.id("a"), serving);
    next.ready("a");
    next.pass(Duration::from_secs(2));
    assert_eq!(next.unit("a").rollout.word(false), "Complete");
    assert_eq!(
        next.unit("a").slots.values().next().unwrap().instance.as_ref().unwrap().spec.launch,
        good.launch
    );
}

#[test]
fn a_trial_ends_when_it_would_have_though_the_machine_was_started_again_since() {
    let mut stage = Stage::new();
    // The machine had been up for a while.
    stage.pass(Duration::from_secs(500));
    for version in [1, 2] {
        stage.accept(&[versioned("a", "", version)]);
        stage.pass(Duration::from_secs(100 / u64::from(version * version)));
    }
    let (checkpoint, then) = (stage.checkpoints[&name("a")].clone(), stage.clock());
    let (_, until) = checkpoint.before.as_ref().unwrap();
    let left = until.since(then.mono);
    assert!(left > Duration::from_secs(30), "{left:?}");
    for (later, left) in [(10, left - Duration::from_secs(10)), (70, Duration::ZERO)] {
        // Later and earlier than the clock was that it was told by.
        for mono in [Instant(5_000_000_000), Instant(5_000_000_000_000)] {
            let now = Now { mono, wall: Stamp(then.wall.0 + later * 1000) };
            let mut next = checkpoint.clone();
            next.after_another_boot(now);
            let (_, until) = next.before.as_ref().unwrap();
            assert_eq!(until.since(mono), left, "{later} s later, at {mono:?}");
            assert_eq!(next.kept_revision(&Default::default(), mono).is_some(), !left.is_zero());
        }
    }
}

#[test]
fn a_job_that_is_edited_while_the_hook_after_it_runs_is_done() {
    let hook = ", hooks: {postStop: [{command: [post], timeout: 5s}]}";
    let job =
        |rest: &str| vec![service("job", &format!("{hook}{rest}")).replace("kind: Service", "kind: Job")];
    let edits = [(", backoffLimit: 3", 0), (", stop: {grace: 3s}", 0), (", env: {X: \"1\"}", 1)];
    for (edit, runs) in edits {
        let mut stage = Stage::new();
        stage.accept(&job(""));
        let id = stage.id("job");
        stage.exits("job", Exit::Code(0));
        stage.accept(&job(edit));
        stage.running.remove(&id);
        let (part, exit, remains) = (Part::PostStop(0), Exit::Code(0), false);
        stage.fact(&id, InstanceFact::Exited { part, exit, remains });
        stage.act();
        assert_eq!(stage.count("job"), runs, "{edit}");
    }
}

#[test]
fn what_the_restart_of_the_machine_ended_has_not_failed() {
    let v = [service("a", FRAGILE), service("b", ", hooks: {preStart: [{command: [pre], timeout: 5s}]}")];
    let mut stage = Stage::new();
    stage.accept(&v);
    let mut next = Stage::new();
    let desired = system::from_text(v.concat(), Revision(1), &mut Default::default()).unwrap();
    let mut after = stage.checkpoints[&name("a")].clone();
    after.after_another_boot(next.clock());
    next.world.handle(next.clock(), Event::Restore { unit: name("a"), checkpoint: after, kept: None });
    let cause = Cause::new("Up", "unisys up");
    next.world.handle(next.clock(), Event::Desired { desired: Arc::new(desired), cause });
    // The one ran, of the other a hook.
    for (unit, part) in [("a", Part::Main), ("b", Part::PreStart(0))] {
        let ended = PartState::Ended { pid: 7, at: Instant(900_000_000_000), exit: Exit::Unknown };
        let adopted = Adopted {
            id: stage.id(unit),
            spec: Some(stage.unit(unit).spec.clone()),
            generation: Generation(1),
            started_wall: Default::default(),
            parts: vec![(part, ended)],
            signalled: None,
            mark: Mark::default(),
            ports: Default::default(),
            rebooted: true,
        };
        next.world.handle(next.clock(), Event::Adopt(Box::new(adopted)));
    }
    next.tell(Event::Begin);
    for unit in ["a", "b"] {
        let slot = next.unit(unit).slots.values().next().unwrap();
        assert_eq!((slot.restart.restarts, slot.restart.attempt), (0, 0), "{unit}");
        assert_eq!(slot.last_end.as_ref().unwrap().words, "ended: the machine was restarted");
        assert!(
            slot.id(&name(unit)).is_some_and(|id| id > stage.id(unit)),
            "{unit} is not started: {slot:?}"
        );
        let records = next.world.chronicle().chain(slot.cause.unwrap(), 9);
        let root = records.last().unwrap();
        assert_eq!((&*root.object, &*root.reason), ("system", "MachineRestarted"), "{records:?}");
    }
    assert_eq!(next.unit("a").breaker.circuit(), Circuit::Closed);
    assert_eq!(next.failed, 0);
}

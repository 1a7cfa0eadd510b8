//! Daemons that were killed before all that they knew was written: what the keeper and the store say together.

use std::sync::Arc;
use std::time::Duration;

use unisys::base::{Exit, Generation, Incarnation, InstanceId, Instant, Part, Revision};
use unisys::unit::{PartState, StopReason};
use unisys::world::{Adopted, Cause, Checkpoint, Effect, Event, Mark};

use super::stage::{Stage, name, service};
use super::system;

const AT: Instant = Instant(1_000_000_000);
const ENDED_WELL: PartState = PartState::Ended { pid: 7, at: AT, exit: Exit::Code(0) };
/// A service with a hook before it.
const HOOKED: &str = ", hooks: {preStart: [{command: [pre], timeout: 5s}]}";

/// The next daemon, at the same time, with what was stored of `a`, and the manifests; it has not heard of the keeper yet.
fn next_daemon(stage: &Stage, manifest: &str, checkpoint: Option<Checkpoint>) -> Stage {
    let mut next = Stage::new();
    next.pass(Duration::from_nanos(stage.clock().mono.0 - next.clock().mono.0));
    if let Some(checkpoint) = checkpoint {
        let restore = Event::Restore { unit: name("a"), checkpoint, kept: None };
        next.world.handle(next.clock(), restore);
    }
    let desired = system::from_text(manifest.to_owned(), Revision(1), &mut Default::default()).unwrap();
    let cause = Cause::new("Up", "up");
    next.world.handle(next.clock(), Event::Desired { desired: Arc::new(desired), cause });
    next
}

/// What the keeper says of an instance of `a`.
fn held(stage: &Stage, id: InstanceId, parts: Vec<(Part, PartState)>, mark: Mark) -> Event {
    Event::Adopt(Box::new(Adopted {
        id,
        spec: Some(stage.unit("a").spec.clone()),
        generation: Generation(1),
        started_wall: Default::default(),
        parts,
        signalled: None,
        mark,
        ports: Default::default(),
        rebooted: false,
    }))
}

#[test]
fn an_end_counts_once_whether_store_or_keeper_or_both_know_of_it() {
    let v = service("a", "");
    let mut stage = Stage::new();
    stage.accept(std::slice::from_ref(&v));
    let (id, before) = (stage.id("a"), stage.checkpoints[&name("a")].clone());
    stage.exits("a", Exit::Code(1));
    let after = stage.checkpoints[&name("a")].clone();
    assert_eq!((before.failures.len(), after.failures.len(), after.attempt), (0, 1, 1));
    for checkpoint in [before, after] {
        let mut checkpoint = checkpoint;
        // The second of these daemons dies as early as the one before it.
        for _ in 0..2 {
            let mut next = next_daemon(&stage, &v, Some(checkpoint.clone()));
            let ended = PartState::Ended { pid: 7, at: AT, exit: Exit::Code(1) };
            let mark = stage.marks.get(&id).cloned().unwrap_or_default();
            let event = held(&stage, id.clone(), vec![(Part::Main, ended)], mark);
            next.world.handle(next.clock(), event);
            next.tell(Event::Begin);
            checkpoint = next.checkpoints[&name("a")].clone();
            assert_eq!((checkpoint.failures.len(), checkpoint.attempt), (1, 1), "{checkpoint:?}");
            assert_eq!(next.failed, 1, "the daemon before may not have recorded it");
        }
    }
}

#[test]
fn who_was_being_stopped_before_its_program_began_does_not_begin_under_the_next_daemon() {
    let v = service("a", HOOKED);
    let mut stage = Stage::new();
    stage.accept(std::slice::from_ref(&v));
    let id = stage.id("a");
    let mut next = next_daemon(&stage, &v, None);
    let mark = Mark { stopping: true, stop: Some(StopReason::Replaced), ..Mark::default() };
    let event = held(&stage, id.clone(), vec![(Part::PreStart(0), ENDED_WELL)], mark);
    next.world.handle(next.clock(), event);
    next.tell(Event::Begin);
    assert!(next.count("a") == 1 && !next.running.contains_key(&id), "{:?}", next.running);
}

#[test]
fn a_start_that_had_failed_and_was_begun_anew_does_not_go_on_beside_the_other_one() {
    let v = service("a", HOOKED);
    let mut stage = Stage::new();
    stage.accept(std::slice::from_ref(&v));
    let hook = (Part::PreStart(0), ENDED_WELL);
    let runs = (Part::Main, PartState::Running { pid: 8, at: AT });
    for (parts, goes_on) in [(vec![hook], vec![4]), (vec![hook, runs], vec![])] {
        let mut next = next_daemon(&stage, &v, None);
        for (incarnation, parts) in [(3, vec![hook]), (4, parts)] {
            let id = InstanceId { incarnation: Incarnation(incarnation), ..stage.id("a") };
            next.world.handle(next.clock(), held(&stage, id, parts, Mark::default()));
        }
        next.world.handle(next.clock(), Event::Begin);
        next.world.settle(next.clock());
        let effects: Vec<Effect> = std::iter::from_fn(|| next.world.poll_effect()).collect();
        let started = effects.iter().filter_map(|effect| match effect {
            Effect::Spawn { id, .. } => Some(id.incarnation.0),
            _ => None,
        });
        assert!(started.eq(goes_on), "{effects:?}");
        let forgets = |it: &Effect| matches!(it, Effect::Forget { id } if id.incarnation.0 == 3);
        assert!(effects.iter().any(forgets), "{effects:?}");
    }
}

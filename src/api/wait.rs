//! Waiting until units are as wanted.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use crate::base::{Name, Now};
use crate::engine::Engine;
use crate::os::clock;
use crate::plan::Drift;
use crate::rollout::{Failure, Phase};
use crate::unit::Lifecycle;
use crate::world::Unit;
use crate::world::conditions::KINDS;
use crate::world::holds::Hold;

use super::calls::{Answer, Context, Refusal, among, not_found, refuse};
use super::types::{WaitFor, Waited};

/// Waits until it is so, or the time is over.
pub(super) async fn wait(State(context): State<Context>, Json(wanted): Json<WaitFor>) -> Answer<Waited> {
    let deadline = tokio::time::Instant::now() + Duration::from_millis(wanted.timeout_ms.min(86_400_000));
    let mut changed = context.changed.clone();
    known(&wanted.what)?;
    if wanted.what.contains('=') || wanted.what == "read" {
        let met = context.catches_up(deadline).await?;
        if wanted.what == "read" {
            return Ok(Json(Waited { met, ..Waited::default() }));
        }
    }
    let names = context.unit_names(&wanted.names).await?;
    let wanted_names = names.clone();
    loop {
        changed.mark_unchanged();
        let (names, what) = (names.clone(), wanted.what.clone());
        let now = clock::now();
        let found = context.ask(move |engine| {
            let unmet = unmet(engine, now, &names, &what)?;
            let settles = |name: &Name| match &*what {
                "started" => engine.world.only_begun(now, name),
                _ => engine.world.unsettled(now, name),
            };
            let settled = unmet.iter().filter_map(|(name, _)| settles(name)).map(|(at, _)| at);
            let again = settled.min().map(|at| at - now.mono);
            let (unmet, stuck) = told(engine, unmet, &what);
            Ok::<_, Refusal>((unmet, stuck, again, notes(engine, &names, &what)))
        });
        let (unmet, stuck, again, notes) = found.await??;
        let (names, what) = (wanted_names.clone(), wanted.what.clone());
        let rolled_back = context.ask(move |engine| given_up(engine, &names, &what)).await?;
        let met = unmet.is_empty() && rolled_back.is_empty();
        let waited = Waited { met, unmet, rolled_back, stuck, notes };
        if waited.is_over() {
            return Ok(Json(waited));
        }
        // That time goes by is no change.
        let again = again.map_or(deadline, |after| deadline.min(tokio::time::Instant::now() + after));
        match tokio::time::timeout_at(again, changed.changed()).await {
            Ok(Ok(())) => {}
            Err(_) if again < deadline => {}
            _ => return Ok(Json(waited)),
        }
    }
}

/// What is waited for can come to be: nobody waits for a word that means nothing.
fn known(what: &str) -> Result<(), Refusal> {
    match what.split_once('=') {
        None if matches!(what, "delete" | "stopped" | "started" | "reloaded" | "read") => Ok(()),
        Some(("lifecycle", word)) => among("lifecycle", word, &Lifecycle::WORDS).map(drop),
        Some(("condition", word)) => {
            let (kind, status) = word.split_once('=').unwrap_or((word, "True"));
            among("condition", kind, &KINDS)?;
            among("value of a condition", status, &["True", "False"]).map(drop)
        }
        Some(("rollout", revision)) if revision.parse::<u64>().is_ok() => Ok(()),
        _ => {
            let hint = "write --for=condition=Ready, --for=delete or --for=lifecycle=Done";
            Err(refuse(StatusCode::BAD_REQUEST, format!("cannot wait for `{what}`"), hint))
        }
    }
}

/// What nobody need wait for any longer. `rollout=REVISION`: units whose rollout of that revision, or a later one, was given
/// up, and of those that were handed in with it any that stands for what was given up before. `stopped`: processes that cannot be killed. `started`: what keeps units from running for longer than a moment.
fn given_up(engine: &Engine, names: &[Name], what: &str) -> Vec<String> {
    if what == "stopped" {
        let again = |name: &Name| {
            let wanted = engine.world.wanted_replicas(name) > 0 && engine.world.going_down().is_none();
            wanted.then(|| format!("{name}: it was started again meanwhile; `unisys why {name}`"))
        };
        return names.iter().filter_map(|name| survivors(engine, name).or_else(|| again(name))).collect();
    }
    if what == "started" {
        if let Some(why) = engine.world.going_down() {
            return names
                .iter()
                .map(|name| format!("{name} is not started: everything is being stopped: {why}"))
                .collect();
        }
        let lasting = |name: &Name| {
            let unit = engine.world.units().get(name)?;
            if let Some(why) = &unit.restart_given_up {
                return Some(format!("{name} is not restarted, the instance before it runs on: {why}"));
            }
            let hold = engine.world.held_back(clock::now(), name).filter(|hold| hold.lasting)?;
            Some(line(engine, name, hold))
        };
        return names.iter().filter_map(lasting).collect();
    }
    if what == "reloaded" {
        let unread = |name: &Name| {
            let unit = engine.world.units().get(name)?;
            let failure = unit.slots.values().find_map(|slot| slot.unread.as_ref())?;
            Some(format!("{name}: {}", failure.message))
        };
        return names.iter().filter_map(unread).collect();
    }
    let Some(revision) = revision_of(what) else { return Vec::new() };
    let units = engine.world.units().iter();
    units
        .filter(|(name, unit)| unit.rollout.revision.0 >= revision || names.contains(name))
        .filter(|(_, unit)| matches!(unit.rollout.phase, Phase::RollingBack(_) | Phase::RolledBack(_)))
        .filter_map(|(name, unit)| Some((name, unit, unit.rollout.failure()?)))
        .map(|(name, unit, failure)| {
            format!("{name}: revision {} was rolled back: {}", unit.rollout.revision, failure.message)
        })
        .collect()
}

/// The revision of `rollout=REVISION`.
fn revision_of(what: &str) -> Option<u64> {
    what.strip_prefix("rollout=")?.parse().ok()
}

/// Of the units that are to run those that this revision, or a later one, wrote, and those that were handed in with it, changed
/// or not. What is unwell besides is not its business.
fn brought_by(engine: &Engine, revision: Option<u64>, names: &[Name]) -> Vec<Name> {
    let world = &engine.world;
    let of_it = |name: &Name, unit: &Unit| {
        names.contains(name) || revision.is_none_or(|revision| unit.written.revision.0 >= revision)
    };
    let wanted = |name: &Name| world.wanted_replicas(name) > 0;
    let units = world.units().iter().filter(|(name, unit)| of_it(name, unit) && wanted(name));
    units.map(|(name, _)| name.clone()).collect()
}

/// What is waited for is that units are up.
fn is_of_running(what: &str) -> bool {
    let ready = ["condition=ready", "condition=ready=true"].contains(&what.to_ascii_lowercase().as_str());
    ready || what.starts_with("rollout=")
}

/// Those of which nothing runs though they are as wanted: nothing is to run, or it has ended well and is not started again
/// (compose waits no longer for such a one either).
fn notes(engine: &Engine, names: &[Name], what: &str) -> Vec<String> {
    if !is_of_running(what) {
        return Vec::new();
    }
    let units = engine.world.units().iter().filter(|(name, _)| names.is_empty() || names.contains(name));
    let note = |name: &Name, unit: &Unit| match (engine.world.down_reason(name), unit.replicas()) {
        // Of what was handed in, and is kept down for another reason.
        (Some(why), _) if what.starts_with("rollout=") && names.contains(name) => {
            Some(format!("{name} is not to run: {why}"))
        }
        (Some(_), _) => None,
        (None, 0) => Some(format!("{name} has 0 replicas: there is nothing to wait for")),
        _ if unit.spec.policy.job || !unit.has_completed() => None,
        _ => {
            let last = unit.slots.values().find_map(|slot| slot.last_end.as_ref());
            let end = last.map_or_else(String::new, |last| format!(": it {}", last.words));
            Some(format!("{name} has completed{end}; by its restart policy it is not started again"))
        }
    };
    units.filter_map(|(name, unit)| note(name, unit)).collect()
}

/// What is said of those that are not as wanted, and whether they stay so until somebody does something.
fn told(engine: &Engine, unmet: Vec<(Name, String)>, what: &str) -> (Vec<String>, bool) {
    if let Some(why) = engine.world.going_down().filter(|_| is_of_running(what)) {
        return (vec![format!("everything is being stopped: {why}")], true);
    }
    let stuck = (what.starts_with("condition=") || what.starts_with("rollout="))
        && !unmet.is_empty()
        && unmet.iter().all(|(name, _)| {
            is_stuck(engine, name) || (what.starts_with("rollout=") && stays_failed(engine, name).is_some())
        });
    (unmet.into_iter().map(|(_, words)| words).collect(), stuck)
}

/// The rollout of a unit has failed and goes no way.
fn stays_failed<'a>(engine: &'a Engine, name: &Name) -> Option<&'a Failure> {
    match &engine.world.units().get(name)?.rollout.phase {
        Phase::Failed(failure) => Some(failure),
        _ => None,
    }
}

/// It has failed for good or cannot start, or waits for a unit of which that is so.
fn is_stuck(engine: &Engine, name: &Name) -> bool {
    let (mut seen, mut left) = (BTreeSet::from([name]), vec![name]);
    while let Some(name) = left.pop() {
        if engine.world.has_failed_for_good(name) || engine.world.held_for_good(name).is_some() {
            return true;
        }
        let Some(unit) = engine.world.units().get(name) else { continue };
        // It will not be Ready for whoever needs it.
        if unit.has_completed() && !unit.spec.policy.job {
            return true;
        }
        if unit.slots.values().any(|slot| slot.state.is_occupied()) {
            continue;
        }
        left.extend(unit.spec.policy.hard_dependencies().filter(|on| seen.insert(on)));
    }
    false
}

fn unmet(engine: &Engine, now: Now, names: &[Name], what: &str) -> Result<Vec<(Name, String)>, Refusal> {
    let world = &engine.world;
    if what == "delete" {
        return Ok(names
            .iter()
            .filter(|name| world.units().contains_key(*name))
            .map(|name| (name.clone(), format!("{name} is there")))
            .collect());
    }
    let all: Vec<Name> = match names.is_empty() {
        _ if what.starts_with("rollout=") => brought_by(engine, revision_of(what), names),
        true if what == "stopped" => world.units().keys().cloned().collect(),
        true => world.units().keys().filter(|name| world.wanted_replicas(name) > 0).cloned().collect(),
        false => names.to_vec(),
    };
    if what == "started" && world.going_down().is_some() {
        // Units are forgotten as they go: see `given_up`.
        return Ok(Vec::new());
    }
    let unknown: Vec<String> =
        all.iter().filter(|name| !world.units().contains_key(*name)).map(Name::to_string).collect();
    if !unknown.is_empty() {
        return Err(not_found(engine, &unknown));
    }
    if what == "stopped" {
        let occupied = |name: &&Name| {
            let unit = world.units().get(*name);
            unit.is_some_and(|unit| unit.slots.values().any(|slot| slot.state.is_occupied()))
        };
        let words = |name: &Name| (name.clone(), format!("{name} is {}", world.status_word(name)));
        return Ok(all.iter().filter(occupied).map(words).collect());
    }
    if what == "reloaded" {
        let reads = |name: &&Name| {
            let slots = world.units().get(*name).into_iter().flat_map(|unit| unit.slots.values());
            slots.into_iter().any(|slot| {
                let asked = matches!(slot.drift, Drift::Reload(_)) && matches!(slot.state, Lifecycle::Up(_));
                slot.reloading.is_some() || asked
            })
        };
        let words = |name: &Name| (name.clone(), format!("{name} reads its files again"));
        return Ok(all.iter().filter(reads).map(words).collect());
    }
    if what == "started" {
        let held = |name: &Name| match world.held_back(now, name) {
            Some(hold) => Some((name.clone(), line(engine, name, hold))),
            None => Some((name.clone(), format!("{name}: {}", world.only_begun(now, name)?.1))),
        };
        return Ok(all.iter().filter_map(held).collect());
    }
    if let Some(kind) = what.strip_prefix("condition=") {
        let (kind, wanted) = kind.split_once('=').unwrap_or((kind, "True"));
        let met = |name: &Name| {
            let found = world
                .conditions(name)
                .into_iter()
                .find(|condition| condition.kind.eq_ignore_ascii_case(kind));
            let settled = world
                .units()
                .get(name)
                .is_some_and(|unit| unit.slots.values().all(|slot| !matches!(slot.drift, Drift::Replace(_))));
            let ready = kind.eq_ignore_ascii_case("Ready") && wanted.eq_ignore_ascii_case("True");
            let words = match found {
                Some(_) if ready && settled && has_completed(engine, name) => return None,
                Some(condition) if condition.status.eq_ignore_ascii_case(wanted) && settled => {
                    let ready = condition.kind == "Ready" && condition.status == "True";
                    let (_, words) = world.unsettled(now, name).filter(|_| ready)?;
                    format!("{name} is Ready for a moment: {words}")
                }
                Some(condition) if condition.status.eq_ignore_ascii_case(wanted) => {
                    let word = world.status_word(name);
                    format!(
                        "{name}: {kind} is {}, and it is {word}: it does not run all of its version yet",
                        condition.status
                    )
                }
                Some(condition) => {
                    let failed =
                        (world.status_word(name) == "Failed").then(|| failed_for_good(engine, now, name));
                    let failed = failed
                        .flatten()
                        .and_then(|line| line.strip_prefix(name.as_str()).map(|why| format!("it{why}")));
                    format!(
                        "{name}: {kind} is {} ({}): {}",
                        condition.status,
                        condition.reason,
                        failed.unwrap_or(condition.message)
                    )
                }
                None => format!("{name} has no condition {kind}"),
            };
            Some((name.clone(), words))
        };
        return Ok(all.iter().filter_map(met).collect());
    }
    if what.starts_with("rollout=") {
        let rolling = |name: &Name| {
            let unit = world.units().get(name)?;
            if let Some(failure) = stays_failed(engine, name) {
                let revision = unit.rollout.revision;
                let words = format!(
                    "{name}: the rollout of revision {revision} has failed and stays as it is: {}",
                    failure.message
                );
                return Some((name.clone(), words));
            }
            let rolls = match unit.spec.policy.job {
                true => unit.rollout.is_active() && !has(engine, name, "Completed"),
                false => {
                    unit.rollout.is_active() || !(has(engine, name, "Ready") || has_completed(engine, name))
                }
            };
            let words = match (rolls, world.unsettled(now, name)) {
                (true, _) => failed_for_good(engine, now, name)
                    .unwrap_or_else(|| format!("{name} is {}", world.status_word(name))),
                (false, Some((_, words))) => format!("{name} is Ready for a moment: {words}"),
                (false, None) => return None,
            };
            Some((name.clone(), words))
        };
        return Ok(all.iter().filter_map(rolling).collect());
    }
    if let Some(word) = what.strip_prefix("lifecycle=") {
        let met = |name: &&Name| {
            let slots = world.units().get(*name).into_iter().flat_map(|unit| unit.slots.values());
            !slots.clone().all(|slot| slot.state.word().eq_ignore_ascii_case(word)) || slots.count() == 0
        };
        let words = |name: &Name| (name.clone(), format!("{name} is not {word}"));
        return Ok(all.iter().filter(met).map(words).collect());
    }
    let hint = "write --for=condition=Ready, --for=delete or --for=lifecycle=Done";
    Err(refuse(StatusCode::BAD_REQUEST, format!("cannot wait for `{what}`"), hint))
}

/// Of a unit that has been stopped: how many of its processes live on.
fn survivors(engine: &Engine, name: &Name) -> Option<String> {
    let unit = engine.world.units().get(name)?;
    let rests = unit.slots.values().filter(|slot| !slot.state.is_occupied());
    let count: u32 = rests.filter_map(|slot| Some(slot.last_end.as_ref()?.end.survivors)).sum();
    (count > 0).then(|| {
        format!("{name}: {count} of its processes could not be killed; `unisys events {name}` names them")
    })
}

/// It ended well, and is not started again: nobody need wait for it any longer.
fn has_completed(engine: &Engine, name: &Name) -> bool {
    let unit = engine.world.units().get(name);
    unit.is_some_and(|unit| unit.has_completed() && engine.world.wanted_replicas(name) > 0)
}

/// Why a unit is not started again, what it said last, and what to do.
fn failed_for_good(engine: &Engine, now: Now, name: &Name) -> Option<String> {
    let failed = engine.world.has_failed_for_good(name);
    failed.then(|| Some(line(engine, name, engine.world.held_back(now, name)?))).flatten()
}

/// What holds a unit, in a line, with the last words of the instance that it tells of.
fn line(engine: &Engine, name: &Name, mut hold: Hold) -> String {
    let unit = engine.world.units().get(name);
    let ends =
        unit.into_iter().flat_map(|unit| unit.slots.values()).filter_map(|slot| slot.last_end.as_ref());
    let known = unit.and_then(|unit| engine.faults.book.latest_of(&unit.spec.object.to_string()));
    for last in ends {
        let known = known.filter(|known| known.incarnation == Some(last.incarnation.0));
        if let Some((_, said)) = known.and_then(|known| known.message.split_once(&last.words)) {
            hold.why = hold.why.replacen(&last.words, &format!("{}{said}", last.words), 1);
        }
    }
    hold.line(name)
}

fn has(engine: &Engine, name: &Name, kind: &str) -> bool {
    let conditions = engine.world.conditions(name);
    conditions.iter().any(|condition| condition.kind == kind && condition.status == "True")
}

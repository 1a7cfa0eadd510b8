//! Calls about rollouts: how far, how it was, and a person's word.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use tokio::time::Instant;

use crate::base::{Name, Revision, Stamp, limits};
use crate::engine::Engine;
use crate::os::caller::Caller;
use crate::os::clock;
use crate::plan::UnitSpec;
use crate::plan::launch::Lost;
use crate::rollout::Phase;
use crate::unit::Strategy;
use crate::world::{Event, Order, Overrides, RolloutRecord, Unit, World};

use super::calls::{Answer, Context, Refusal, named, not_found, refuse};
use super::types::{Done, PastRollout, Rollout, RolloutCall, RolloutStatus, RolloutStep};

/// `rollout` of a unit's status.
pub fn rollout(world: &World, name: &Name, unit: &Unit) -> Rollout {
    let now = clock::now();
    let failure = world.rollout_failure(now, name);
    let failure = failure.as_deref();
    let rolls = matches!(unit.rollout.phase, Phase::Progressing) && !unit.spec.policy.job;
    let held = world.held_for_good(name).filter(|_| rolls && failure.is_none());
    let held = held.map(|root| {
        let on = unit.waiting.as_deref().unwrap_or_default();
        format!("it waits for {on}; it goes on once that is mended: `unisys why {root}`")
    });
    let back = unit.goes_back_on_trial(now).filter(|_| !unit.spec.policy.job);
    Rollout {
        state: match (unit.spec.policy.job, failure, unit.rollout.failure()) {
            (true, ..) => "None".into(),
            (false, Some(_), None) => "Failed".into(),
            _ if held.is_some() => "Held".into(),
            _ => unit.rollout.word(unit.overrides.paused.is_some()).into(),
        },
        revision: unit.rollout.revision.0,
        from_generation: unit.rollout.from.map_or(unit.rollout.to.0, |from| from.0),
        to_generation: unit.rollout.to.0,
        last_good_generation: unit.good.as_ref().map(|good| good.generation.0),
        running_revision: running_revision(unit).0,
        on_trial_until: back.and(unit.rollout.probation()).map(|until| whole_second(now.wall_at(until))),
        back_to_revision: back.map(|back| back.revision.0),
        reason: failure.map(|failure| failure.reason.clone()).or(held.as_ref().map(|_| "Held".into())),
        message: failure.map(|failure| failure.message.clone()).or(held),
        lines: failure.map(|failure| failure.lines.clone()).unwrap_or_default(),
    }
}

/// The two clocks are not read at one moment: what is said again is to be the same.
fn whole_second(at: Stamp) -> Stamp {
    Stamp((at.0 + 500).div_euclid(1000) * 1000)
}

/// Of the version that serves: while another one is on its way in, still that before it.
fn running_revision(unit: &Unit) -> Revision {
    let runs = |generation| {
        let instances = unit.serving().filter_map(|slot| slot.instance.as_ref());
        instances.into_iter().any(|instance| instance.generation == generation)
    };
    // What runs has not read what came after it.
    let unread =
        matches!(unit.rollout.phase, Phase::Failed(_)) && unit.serving().any(|slot| slot.unread.is_some());
    match (&unit.before, &unit.overrides) {
        (Some(before), _) if unread => before.revision,
        (Some(before), _) if before.generation != unit.generation && runs(before.generation) => {
            before.revision
        }
        (_, Overrides { rejected: Some(rejected), .. }) => rejected.runs,
        (_, Overrides { pinned: Some((pinned, _)), .. }) => *pinned,
        _ => unit.wanted().revision,
    }
}

/// The unit, if there is something that it could roll out.
async fn rolls_out(context: &Context, name: &str) -> Result<Name, Refusal> {
    let unit = context.unit_name(name).await?;
    let asked = unit.clone();
    let job = context
        .ask(move |engine| engine.world.units().get(&asked).is_some_and(|unit| unit.spec.policy.job))
        .await?;
    if job {
        let message = format!("{unit} is a Job: it runs once for each version, and rolls nothing out");
        let hint =
            format!("`unisys get job {unit}` shows how it went, `unisys restart {unit}` runs it again");
        return Err(refuse(StatusCode::CONFLICT, message, hint));
    }
    Ok(unit)
}

pub async fn status(State(context): State<Context>, Path(name): Path<String>) -> Answer<RolloutStatus> {
    let unit = rolls_out(&context, &name).await?;
    context.catches_up(Instant::now() + limits::WATCH_CAUGHT_UP).await?;
    let found = context
        .ask(move |engine| {
            let replicas = engine.world.wanted_replicas(&unit);
            let name = unit;
            let unit = engine.world.units().get(&name)?;
            let steps = unit.slots.values().map(|slot| RolloutStep {
                instance: slot.seat.ordinal.0,
                role: slot.seat.role.as_str().into(),
                generation: slot.instance.as_ref().map(|instance| instance.generation.0),
                lifecycle: slot.state.word().into(),
                ready: slot.is_ready(),
                available: slot.available,
            });
            Some(RolloutStatus {
                rollout: rollout(&engine.world, &name, unit),
                replicas,
                steps: steps.collect(),
                waiting: unit.waiting.clone(),
            })
        })
        .await?;
    context.found(found, name).await
}

pub async fn history(State(context): State<Context>, Path(name): Path<String>) -> Answer<Vec<PastRollout>> {
    let unit = rolls_out(&context, &name).await?;
    let found = context
        .ask(move |engine| {
            let present = engine.world.rollout_record(&unit)?;
            let recorded = engine.world.units().get(&unit)?.rollout.recorded;
            let mut told = engine.store.rollouts(&unit);
            let untold = !recorded || told.is_empty();
            match told.iter_mut().find(|record| record.at == present.at) {
                Some(record) if record.outcome == "Active" => *record = present,
                None if untold => told.push(present),
                _ => {}
            }
            let kept = engine.store.kept_revisions();
            let past = |record: RolloutRecord| PastRollout {
                kept: kept.contains(&Revision(record.revision)),
                record,
            };
            Some(told.into_iter().map(past).collect::<Vec<_>>())
        })
        .await?;
    context.found(found, name).await
}

/// `pause`, `resume`, `promote`, `undo`, `retry`.
pub async fn call(
    State(context): State<Context>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    Json(call): Json<RolloutCall>,
) -> Answer<Done> {
    let unit = rolls_out(&context, &name).await?;
    let by = named(caller).await;
    let mut done = context
        .ask(move |engine| {
            if !engine.world.units().contains_key(&unit) {
                return Err(not_found(engine, &[name]));
            }
            let (order, notes) = match call.verb.as_str() {
                "undo" => undo(engine, &unit, call.to_revision)?,
                _ => (order(engine, &unit, &call)?, Vec::new()),
            };
            engine.world.handle(clock::now(), Event::Order { order, by });
            let message = match call.to_revision {
                Some(revision) => format!("rollout {} {unit} to revision {revision}", call.verb),
                None => format!("rollout {} {unit}", call.verb),
            };
            Ok(Done { revision: engine.world.revision().0, message, notes, ..Done::default() })
        })
        .await??;
    done.notes.extend(context.not_recorded().await?);
    Ok(Json(done))
}

fn order(engine: &Engine, name: &Name, call: &RolloutCall) -> Result<Order, Refusal> {
    let conflict = |error: String, hint: &str| Err(refuse(StatusCode::CONFLICT, error, hint));
    let Some(unit) = engine.world.units().get(name) else { return Err(not_found(engine, &[name])) };
    match call.verb.as_str() {
        "pause" => Ok(Order::Pause(vec![name.clone()])),
        "resume" if unit.overrides.paused.is_none() => {
            conflict(format!("the rollout of {name} is not paused"), "")
        }
        "resume" => Ok(Order::Resume(vec![name.clone()])),
        "promote" => {
            let canary = matches!(unit.spec.policy.update.strategy, Strategy::Canary(_));
            if !canary || !matches!(unit.rollout.phase, Phase::Progressing) || unit.rollout.promoted {
                return conflict(format!("{name} has no canary to promote"), "see `unisys rollout status`");
            }
            Ok(Order::Promote(vec![name.clone()]))
        }
        "retry" => Ok(Order::Retry(vec![name.clone()])),
        verb => Err(refuse(StatusCode::BAD_REQUEST, format!("a rollout has no verb `{verb}`"), "")),
    }
}

/// What was good before what is wanted now, as the history has it: this daemon has not seen it run.
fn former_version(engine: &mut Engine, name: &Name) -> Option<(Revision, Arc<UnitSpec>)> {
    let wanted = engine.world.units().get(name)?.spec.launch.digest();
    let kept = engine.store.kept_revisions();
    let told = engine.store.rollouts(name).into_iter().rev().filter(RolloutRecord::is_good);
    let mut revisions: Vec<Revision> = told.map(|record| Revision(record.revision)).collect();
    revisions.retain(|revision| kept.contains(revision));
    revisions.dedup();
    let mut versions = revisions.into_iter().take(limits::UNDO_KEPT).filter_map(|revision| {
        let spec = engine.version_at(revision, name).ok()?;
        Some((revision, spec))
    });
    versions.find(|(_, spec)| spec.launch.digest() != wanted)
}

/// The order, and what is to be said of it.
fn undo(engine: &mut Engine, name: &Name, to: Option<u64>) -> Result<(Order, Vec<String>), Refusal> {
    let conflict = |error: String, hint: &str| refuse(StatusCode::CONFLICT, error, hint);
    let hint = "name one with --to-revision; see `unisys rollout history`";
    let unit = engine.world.units().get(name);
    if let Some(unit) = unit.filter(|unit| to.is_none() && unit.is_rolled_back()) {
        let runs = running_revision(unit);
        let error = format!("{name} was rolled back by itself: revision {runs} runs already");
        return Err(conflict(error, hint));
    }
    // What ran before is known with the values that it had, which no revision keeps.
    let before = unit.and_then(|unit| unit.before.as_ref());
    let before = before.filter(|before| to.is_none_or(|to| before.revision.0 == to));
    let (revision, spec, asked) = match (before, to) {
        (Some(before), _) => (before.revision, before.spec.clone(), None),
        (None, Some(revision)) => {
            let revision = Revision(revision);
            let spec = engine.version_at(revision, name).map_err(|why| {
                let error = format!("cannot go back to revision {revision} of {name}: {why}");
                refuse(StatusCode::NOT_FOUND, error, "see `unisys rollout history`")
            })?;
            (revision, spec.clone(), Some((revision, spec)))
        }
        (None, None) => {
            let (revision, spec) = former_version(engine, name)
                .ok_or_else(|| conflict(format!("{name} has no version before the one that runs"), hint))?;
            (revision, spec.clone(), Some((revision, spec)))
        }
    };
    // As it would be read now.
    let anew = engine.version_at(revision, name).ok();
    if let Some(why) = &anew.as_ref().unwrap_or(&spec).machine {
        return Err(conflict(format!("revision {revision} of {name} cannot run here: {why}"), ""));
    }
    if let Some(why) = engine.world.unmet(name, &spec) {
        let hint = "edit the manifests instead: both can be brought back there";
        return Err(conflict(format!("{name} cannot go back to revision {revision}: {why}"), hint));
    }
    let lost = anew.map(|anew| spec.launch.lost(&anew.launch)).unwrap_or_default();
    let mut notes = not_kept(engine, (name, revision), &spec, lost)?;
    let paused = engine.world.units().get(name).is_some_and(|unit| unit.overrides.paused.is_some());
    notes.extend(paused.then(|| format!("{name} was paused: it is not any more")));
    Ok((Order::Undo(name.clone(), asked), notes))
}

/// A revision keeps manifests. What files held, and values that are read from them, cannot come back with it for good.
fn not_kept(
    engine: &Engine,
    (name, revision): (&Name, Revision),
    spec: &UnitSpec,
    Lost { files, values }: Lost,
) -> Result<Vec<String>, Refusal> {
    let Some(unit) = engine.world.units().get(name) else { return Ok(Vec::new()) };
    let wanted = &unit.spec.launch;
    let why = match files.is_empty() {
        false if wanted.differs_by_files(&spec.launch) => {
            format!("what has changed since is {}", files.join(", "))
        }
        true if wanted.digest() == spec.launch.digest() && !unit.is_rolled_back() => {
            "its manifest says what is wanted now".into()
        }
        _ => {
            let file = files.iter().map(|file| {
                format!("{file}: what it held in revision {revision} is not kept, {name} runs with what it holds now")
            });
            let names: Vec<&str> =
                values.iter().map(|path| path.strip_prefix("spec.env.").unwrap_or(path)).collect();
            let value = (!values.is_empty()).then(|| {
                format!(
                    "{name} runs with {} as in revision {revision} until `unisys down`; the next `unisys up` reads what the files say",
                    names.join(", ")
                )
            });
            return Ok(file.chain(value).collect());
        }
    };
    let error = format!(
        "{name} cannot go back to revision {revision}: {why}, and what files held is kept with no revision"
    );
    let hint = "write what they held into the files again: that is rolled out as any other change";
    Err(refuse(StatusCode::CONFLICT, error, hint))
}

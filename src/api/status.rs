//! What the world knows, in the shapes of the API. Computed when asked; nobody stores a status.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use crate::base::redact::MASK;
use crate::base::{Exit, Name, ObjectKind, ObjectRef, Stamp};
use crate::engine::Engine;
use crate::manifest::load::Source;
use crate::manifest::schema::API_VERSION;
use crate::os::{clock, process};
use crate::plan::Drift;
use crate::unit::Circuit as CircuitState;
use crate::world::conditions::ready_count;
use crate::world::state::{LastEnd, Slot, Unit};
use crate::world::words::end_reason;
use crate::world::{External, Record, Signature, World};

use super::types::{
    Circuit, Condition, Event, Instance, LastExit, Metadata, Object, Override, Plan, PlanAction, PlanWaiting,
    UnitStatus,
};

/// One line of the table.
#[derive(Clone, Debug)]
pub struct Row {
    pub name: String,
    pub ready: String,
    pub status: String,
    pub restarts: String,
    pub age: String,
    /// For `-o wide`.
    pub wide: Vec<String>,
}

/// The table of all units.
pub fn rows(world: &World) -> Vec<Row> {
    world.units().iter().map(|(name, unit)| row(world, name, unit)).collect()
}

fn row(world: &World, name: &Name, unit: &Unit) -> Row {
    let restarts: u32 = unit.slots.values().map(|slot| slot.restart.restarts).sum();
    let started = unit.slots.values().filter_map(|slot| slot.instance.as_ref()).map(|i| i.started_wall).min();
    Row {
        name: name.to_string(),
        ready: format!("{}/{}", ready_count(unit), world.wanted_replicas(name)),
        status: world.status_word(name).into(),
        restarts: restarts.to_string(),
        age: started.map_or_else(|| "-".into(), |at| age(at, clock::wall())),
        wide: Vec::new(),
    }
}

/// `5s`, `3m`, `2h`, `4d`.
pub fn age(since: Stamp, now: Stamp) -> String {
    let seconds = (now.0 - since.0).max(0) / 1000;
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7199 => format!("{}m", seconds / 60),
        7200..=172_799 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86400),
    }
}

/// All objects of a kind, or of every kind.
pub fn objects(engine: &Engine, kind: Option<ObjectKind>) -> Vec<Object> {
    let world = &engine.world;
    let wanted = |of: ObjectKind| kind.is_none_or(|kind| kind == of);
    let mut found = Vec::new();
    for (name, unit) in world.units() {
        if wanted(unit.spec.object.kind) {
            found.push(unit_object(engine, name, unit));
        }
    }
    for (name, external) in world.externals() {
        if wanted(ObjectKind::External) {
            let status = external_status(external);
            found.push(object(
                engine,
                &external.spec.object,
                &external.spec.launch.written,
                None,
                &external.spec.set,
                &external.spec.launch.base_dir,
                status,
            ));
            if let Some(last) = found.last_mut() {
                last.metadata.name = name.to_string();
                last.metadata.labels.clone_from(&external.spec.labels);
            }
        }
    }
    for source in engine.sets.objects().sources() {
        let is_other =
            !matches!(source.object.kind, ObjectKind::Service | ObjectKind::Job | ObjectKind::External);
        if is_other && wanted(source.object.kind) {
            found.push(plain_object(engine, source));
        }
    }
    found
}

fn external_status(external: &External) -> Value {
    let condition = |kind: &str, holds: bool, reason: &str, message: String, since: Stamp| {
        json!({"type": kind, "status": if holds { "True" } else { "False" }, "reason": reason, "message": message,
            "lastTransitionTime": since})
    };
    let (reason, message) = external.condition();
    let (state, failures, open) = external.circuit();
    let (why, words) = match (open, failures) {
        (None, _) => ("Closed", "its circuit is closed".to_owned()),
        (Some(_), 0) => ("Answers", "its probe succeeds, and not often enough yet".to_owned()),
        (Some(_), failures) => {
            ("ProbesFailed", format!("its readiness probe has failed {failures} times in a row"))
        }
    };
    let since = open.unwrap_or(external.since);
    json!({
        "summary": if external.ready { "Ready" } else { "NotReady" },
        "conditions": [
            condition("Ready", external.ready, reason, message, external.since),
            condition("CircuitOpen", open.is_some(), why, words, since),
        ],
        "circuit": {"state": state, "failures": failures, "openUntil": null},
    })
}

/// How it gets on under this daemon.
fn notifier_status(engine: &Engine, name: &Name) -> Value {
    let Some((health, counts)) = engine.faults.notifiers.health(name) else {
        return json!({"summary": "Declared"});
    };
    let (status, reason, message) = health.condition();
    let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
    json!({
        "summary": health.word(),
        "conditions": [{"type": "Delivering", "status": status, "reason": reason, "message": message,
            "lastTransitionTime": health.since}],
        "sent": count(&counts.sent),
        "failedAttempts": count(&counts.failed),
        "deadLetters": count(&counts.dead),
        "waiting": health.waiting,
        "lastDelivered": health.last_delivered,
        "lastFailure": health.last_failure.map(|(at, why)| json!({"at": at, "message": why})),
    })
}

/// A Config, Secret, System or Notifier. Literal values of a Secret are masked.
fn plain_object(engine: &Engine, source: &Source) -> Object {
    let mut object = object(
        engine,
        &source.object,
        &source.written,
        None,
        &source.set,
        &source.base_dir,
        match source.object.kind {
            ObjectKind::Notifier => notifier_status(engine, &source.object.name),
            _ => json!({"summary": "Declared"}),
        },
    );
    if let Some(meta) = engine.sets.objects().meta(&source.object) {
        object.metadata.labels.clone_from(&meta.labels);
    }
    if source.object.kind == ObjectKind::Secret
        && let Some(Value::Object(data)) = object.spec.get_mut("data")
    {
        data.values_mut().filter(|value| value.is_string()).for_each(|value| *value = json!(MASK));
    }
    object
}

fn object(
    engine: &Engine,
    of: &ObjectRef,
    written: &str,
    generation: Option<u64>,
    set: &str,
    base_dir: &Path,
    status: Value,
) -> Object {
    Object {
        api_version: API_VERSION.into(),
        kind: of.kind.as_str().into(),
        metadata: Metadata {
            name: of.name.to_string(),
            labels: Default::default(),
            annotations: engine
                .sets
                .objects()
                .meta(of)
                .map(|meta| meta.annotations.clone())
                .unwrap_or_default(),
            generation,
            revision: engine.world.revision().0,
            set: set.into(),
            base_dir: Some(base_dir.to_owned()),
        },
        spec: serde_json::from_str(written).unwrap_or(Value::Null),
        status,
    }
}

pub fn unit_object(engine: &Engine, name: &Name, unit: &Unit) -> Object {
    let status = serde_json::to_value(unit_status(&engine.world, name, unit)).unwrap_or_default();
    let mut object = object(
        engine,
        &unit.spec.object,
        &unit.spec.launch.written,
        Some(unit.written.generation.0),
        &unit.spec.set,
        &unit.spec.launch.base_dir,
        status,
    );
    object.metadata.labels.clone_from(&unit.spec.labels);
    object
}

pub fn unit_status(world: &World, name: &Name, unit: &Unit) -> UnitStatus {
    let updated = unit
        .slots
        .values()
        .filter(|slot| slot.instance.is_some() && !matches!(slot.drift, Drift::Replace(_)))
        .count() as u32;
    let conditions = world.conditions(name).into_iter().map(|condition| Condition {
        kind: condition.kind.into(),
        status: condition.status.into(),
        reason: condition.reason.into(),
        message: condition.message,
        last_transition_time: condition.since,
        observed_generation: unit.generation.0,
    });
    UnitStatus {
        summary: world.status_word(name).into(),
        observed_generation: unit.generation.0,
        overrides: overrides(name, unit),
        replicas: world.wanted_replicas(name),
        ready_replicas: ready_count(unit),
        updated_replicas: updated,
        conditions: conditions.collect(),
        instances: unit.slots.values().map(|slot| instance(slot)).collect(),
        circuit: circuit(unit),
        rollout: super::rollouts::rollout(world, name, unit),
        waiting: unit.waiting.clone(),
    }
}

/// What is in force of a unit though its manifest does not say it.
fn overrides(name: &Name, unit: &Unit) -> Vec<Override> {
    let over = &unit.overrides;
    let make = |field: &str, (manifest, value): (Value, Value), signature: &Signature, ends_with: String| {
        let (unit, field, by) = (name.to_string(), field.into(), signature.by.clone());
        Override { unit, field, value, manifest, by, at: signature.at, ends_with }
    };
    let mark = |field: &str, signature: &Option<Signature>, ends_with: String| {
        signature.as_ref().map(|by| make(field, (json!(false), json!(true)), by, ends_with))
    };
    let replicas = over.replicas.as_ref().map(|(count, by)| {
        let declared = unit.written.spec.policy.replicas;
        let ends_with = format!("unisys scale {name}={declared}");
        make("spec.replicas", (json!(declared), json!(count)), by, ends_with)
    });
    let written = unit.written.revision.0;
    let pinned = over.pinned.as_ref().map(|(revision, by)| {
        let ends_with =
            format!("a change of its manifest, or unisys rollout undo {name} --to-revision {written}");
        make("revision", (json!(written), json!(revision.0)), by, ends_with)
    });
    let rejected = over.rejected.as_ref().map(|rejected| {
        let by = Signature { by: "unisys (rollback)".into(), at: rejected.failure.at };
        let ends_with = "a change of its manifest, or unisys apply -f PATH --force".into();
        make("revision", (json!(rejected.revision.0), json!(rejected.runs.0)), &by, ends_with)
    });
    let marks = [
        mark("stopped", &over.stopped, format!("unisys start {name}")),
        mark("disabled", &over.disabled, format!("unisys enable {name}")),
        mark("started", &over.started, format!("unisys stop {name}, or the next up")),
    ];
    let paused = mark("rollout.paused", &over.paused, format!("unisys rollout resume {name}"));
    marks.into_iter().chain([replicas, paused, pinned, rejected]).flatten().collect()
}

/// The same of all units.
pub fn all_overrides(world: &World) -> Vec<Override> {
    world.units().iter().flat_map(|(name, unit)| overrides(name, unit)).collect()
}

fn instance(slot: &Slot) -> Instance {
    let process = slot.state.process();
    let stat = process.and_then(|process| process::stat(process.pid));
    let ticks = rustix::param::clock_ticks_per_second().max(1) as f64;
    let running = slot.instance.as_ref();
    Instance {
        ordinal: slot.seat.ordinal.0,
        incarnation: running.map(|instance| instance.incarnation.0),
        role: slot.seat.role.as_str().into(),
        lifecycle: slot.state.word().into(),
        pid: process.map(|process| process.pid),
        started_at: running.map(|instance| instance.started_wall),
        ready: slot.is_ready(),
        generation: running.map(|instance| instance.generation.0),
        restarts: slot.restart.restarts,
        last_exit: slot.last_end.as_deref().map(last_exit),
        cpu_seconds: stat.as_ref().map(|stat| stat.cpu_ticks as f64 / ticks),
        memory_bytes: stat.map(|stat| stat.rss_pages * rustix::param::page_size() as u64),
        status_text: running.and_then(|instance| instance.status_text.clone()),
        ports: running.map(port_numbers).unwrap_or_default(),
    }
}

fn port_numbers(instance: &crate::world::Instance) -> std::collections::BTreeMap<String, u16> {
    instance.ports.0.iter().map(|(name, number)| (name.to_string(), *number)).collect()
}

fn last_exit(last: &LastEnd) -> LastExit {
    let (code, signal) = match last.end.exit {
        Some(Exit::Code(code)) => (Some(code), None),
        Some(Exit::Signal { signal, .. }) => (None, Some(signal)),
        Some(Exit::OomKilled) => (None, Some(libc::SIGKILL)),
        Some(Exit::Unknown) | None => (None, None),
    };
    LastExit {
        code,
        signal,
        reason: end_reason(&last.end).into(),
        at: last.at,
        incarnation: last.incarnation.0,
    }
}

fn circuit(unit: &Unit) -> Circuit {
    let (state, until) = match unit.breaker.circuit() {
        CircuitState::Closed => ("Closed", None),
        CircuitState::Open { until } => ("Open", Some(until)),
        CircuitState::HalfOpen { .. } => ("HalfOpen", None),
    };
    let now = clock::now();
    let open_until = until.map(|at| now.wall_at(at));
    Circuit { state: state.into(), failures: unit.breaker.failures() as u32, open_until }
}

pub fn event(record: &Record) -> Event {
    Event {
        id: record.id,
        ts: record.at,
        kind: if record.warning { "Warning" } else { "Normal" }.into(),
        reason: record.reason.clone().into(),
        object: record.object.clone(),
        message: record.message.clone(),
        change: record.change,
        cause: record.cause,
    }
}

/// What runs and is not what the manifests say, a sentence each.
pub fn not_as_written(world: &World) -> Vec<String> {
    let sentence = |unit: &Unit| {
        let over = &unit.overrides;
        let object = &unit.spec.object;
        match (&over.rejected, &over.pinned) {
            (Some(rejected), _) => Some(format!(
                "{object}: revision {} was rolled back, revision {} runs: {}",
                rejected.revision, rejected.runs, rejected.failure.message
            )),
            (None, Some((revision, by))) => Some(format!(
                "{object}: revision {revision} runs, not what its manifest says (rollout undo by {})",
                by.by
            )),
            (None, None) => None,
        }
    };
    world.units().values().filter_map(|unit| sentence(unit)).collect()
}

/// What this machine does not enforce of what runs, a sentence each.
fn not_enforced(world: &World) -> Vec<&str> {
    world.units().values().filter_map(|unit| unit.spec.unenforced.as_deref()).collect()
}

pub fn plan(world: &World, plan: &crate::plan::Plan) -> Plan {
    let action = |action: &crate::plan::PlanAction| PlanAction {
        id: action.id,
        verb: action.verb.as_str().into(),
        unit: action.unit.to_string(),
        reason: action.reason.clone(),
        after: action.after.clone(),
    };
    let waiting =
        plan.waiting.iter().map(|row| PlanWaiting { unit: row.unit.to_string(), on: row.on.clone() });
    Plan {
        revision: world.revision().0,
        actions: plan.actions.iter().map(action).collect(),
        waiting: waiting.collect(),
        diagnostics: Vec::new(),
        others: Vec::new(),
        overrides: all_overrides(world),
        notes: Vec::new(),
    }
}

/// `get sets`.
pub fn sets(engine: &Engine) -> Vec<Object> {
    engine
        .sets
        .iter()
        .map(|set| {
            let valid = set.pending.is_empty() && set.unreadable.is_none();
            let first = set.pending.iter().find(|found| found.rejects()).or(set.pending.first());
            let message = match (&set.unreadable, first) {
                (Some(why), _) => why.clone(),
                (None, Some(first)) => format!("{}: {} [{}]", first.place(), first.message, first.code),
                (None, None) => "what is on the disk is what is accepted".into(),
            };
            Object {
                api_version: API_VERSION.into(),
                kind: "Set".into(),
                metadata: Metadata {
                    name: set.name.clone(),
                    labels: Default::default(),
                    annotations: Default::default(),
                    generation: None,
                    revision: set.revision.0,
                    set: set.name.clone(),
                    base_dir: None,
                },
                spec: json!({"overlays": set.overlays}),
                status: json!({
                    "summary": if valid { "Valid" } else { "Invalid" },
                    "path": set.path, "revision": set.revision.0,
                    "conditions": [{"type": "ManifestValid", "status": if valid { "True" } else { "False" },
                        "reason": if valid { "Accepted" } else { "Rejected" }, "message": message}],
                    "pending": set.pending, "ceded": ceded(&set.ceded),
                }),
            }
        })
        .collect()
}

/// Objects that a set declares and that belong to another one.
fn ceded(ceded: &crate::engine::Ceded) -> Vec<Value> {
    ceded.iter().map(|(object, to)| json!({"object": object, "set": to})).collect()
}

/// `get system`.
pub fn system(engine: &Engine) -> Value {
    let overrides = all_overrides(&engine.world);
    json!({
        "apiVersion": API_VERSION, "kind": "System",
        "metadata": {"name": "system"},
        "status": {
            "version": env!("CARGO_PKG_VERSION"), "epoch": engine.epoch.0, "revision": engine.world.revision().0,
            "started": engine.started, "keeperVersion": engine.keeper_release, "keeperPid": engine.keeper_pid,
            "daemonPid": std::process::id(), "stateDir": engine.state.root, "overrides": overrides,
            "invalid": engine.sets.pending().len(), "notAsWritten": not_as_written(&engine.world),
            "notEnforced": not_enforced(&engine.world),
            "logsBlocked": engine.logs_stuck, "stateBlocked": engine.state_stuck,
        }
    })
}

//! What is there, as it is now.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::base::{Name, ObjectKind, ObjectRef, limits};
use crate::engine::Engine;
use crate::engine::launch::{account, environment, ids};
use crate::faults::Book;
use crate::manifest::diagnostic::kinds_like;
use crate::manifest::resolve::{Origin, Place};
use crate::manifest::{capabilities, references};
use crate::world::{LINKS, Record, World};

use super::calls::{Answer, Context, Refusal, not_found, refuse};
use super::faults::names;
use super::selector::Selector;
use super::status;
use super::types::{ExecContext, ObjectList, Why, WhyLink};

pub(super) async fn readyz(State(context): State<Context>) -> Result<String, Refusal> {
    let unready = context
        .ask(|engine| {
            let world = &engine.world;
            let names = world.units().keys().filter(|name| {
                !matches!(
                    world.status_word(name),
                    "Ready"
                        | "Degraded"
                        | "Suspected"
                        | "Completed"
                        | "Stopped"
                        | "Disabled"
                        | "Off"
                        | "Running"
                )
            });
            names.map(Name::to_string).collect::<Vec<_>>()
        })
        .await?;
    match unready.is_empty() {
        true => Ok("ok\n".into()),
        false => {
            Err(refuse(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}", unready.join(", ")), ""))
        }
    }
}

pub(super) async fn metrics(State(context): State<Context>) -> Result<Response, Refusal> {
    let text = context.ask(|engine| crate::telemetry::exposition(engine)).await?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

#[derive(Deserialize)]
pub(super) struct ObjectsQuery {
    kind: Option<String>,
    label: Option<String>,
}

fn kind_of(word: &str) -> Result<ObjectKind, Refusal> {
    ObjectKind::from_word(word)
        .ok_or_else(|| refuse(StatusCode::NOT_FOUND, format!("there is no kind `{word}`"), kinds_like(word)))
}

pub(super) async fn objects(
    State(context): State<Context>,
    Query(query): Query<ObjectsQuery>,
) -> Answer<ObjectList> {
    let kind = query.kind.as_deref().map(kind_of).transpose()?;
    let selector = query.label.as_deref().map(str::parse::<Selector>).transpose();
    let selector = selector.map_err(|why| {
        let hint = "write `tier=backend`, `tier!=backend`, `tier in (a,b)`, `tier notin (a,b)`, `tier` or `!tier`, with commas between";
        refuse(StatusCode::BAD_REQUEST, why, hint)
    })?;
    let mut items = context.ask(move |engine| status::objects(engine, kind)).await?;
    if let Some(selector) = selector {
        items.retain(|object| selector.matches(&object.metadata.labels));
    }
    let kind = kind.map_or("List".into(), |kind| format!("{}List", kind.as_str()));
    Ok(Json(ObjectList { api_version: crate::manifest::schema::API_VERSION.into(), kind, items }))
}

#[derive(Deserialize)]
pub(super) struct ObjectQuery {
    #[serde(default)]
    describe: bool,
}

pub(super) async fn object(
    State(context): State<Context>,
    Path((kind, name)): Path<(String, String)>,
    Query(query): Query<ObjectQuery>,
) -> Answer<Value> {
    let text = format!("{kind}/{name}");
    let kind = match kind_of(&kind) {
        Ok(kind) => kind,
        Err(refusal) => return Err(context.instance_meant(&text).await?.unwrap_or(refusal)),
    };
    let wanted = name.clone();
    let found = context
        .ask(move |engine| {
            let found = status::objects(engine, Some(kind))
                .into_iter()
                .find(|object| object.metadata.name == wanted)?;
            let mut value = serde_json::to_value(found).ok()?;
            if query.describe {
                describe(engine, kind, &wanted, &mut value);
            }
            Some(value)
        })
        .await?;
    if let Some(found) = found {
        return Ok(Json(found));
    }
    let missing = format!("there is no {}/{name}", kind.singular());
    let refusal = refuse(StatusCode::NOT_FOUND, missing, "see `unisys get`");
    Err(context.instance_meant(&text).await?.unwrap_or(refusal))
}

/// `get` plus events, probes, neighbours and the spec with every default.
fn describe(engine: &Engine, kind: ObjectKind, name: &str, value: &mut Value) {
    let Ok(name) = name.parse::<Name>() else { return };
    let object = ObjectRef { kind, name: name.clone() }.to_string();
    let events: Vec<_> = engine
        .world
        .chronicle()
        .iter()
        .rev()
        .filter(|record| record.object == object)
        .take(20)
        .map(|record| status::event(record))
        .collect();
    value["events"] = json!(events.into_iter().rev().collect::<Vec<_>>());
    if matches!(kind, ObjectKind::Config | ObjectKind::Secret) {
        let of = ObjectRef { kind, name: name.clone() };
        value["usedBy"] = json!(references::users_of(engine.sets.objects(), &of));
        // A Secret's are shown nowhere.
        if kind == ObjectKind::Config {
            let values = engine.sets.config_values(&name);
            let row = |(key, text, origin): (String, String, Origin)| {
                let from = match origin.place {
                    Place::Line(file, line) => format!("{}:{line}", file.display()),
                    _ => origin.layer,
                };
                json!({"key": key, "value": text, "from": from})
            };
            value["values"] = values.into_iter().map(row).collect();
        }
    }
    let graph = &engine.world.desired().graph;
    value["dependsOn"] = json!(graph.dependencies(&name));
    value["dependents"] = json!(graph.dependents(&name));
    let Some(unit) = engine.world.units().get(&name) else { return };
    value["effectiveSpec"] = crate::plan::launch::effective(&unit.spec.launch.service);
    let boards = unit
        .slots
        .values()
        .filter_map(|slot| Some((slot.seat.ordinal, slot.instance.as_ref()?.board.as_ref()?)));
    let probes: Vec<Value> = boards
        .flat_map(|(ordinal, board)| {
            crate::unit::ProbeKind::ALL.into_iter().filter_map(move |kind| {
                let last = board.last(kind)?;
                Some(json!({"ordinal": ordinal.0, "probe": kind.as_str(), "ok": last.ok, "message": last.message}))
            })
        })
        .collect();
    value["probes"] = json!(probes);
}

pub(super) async fn system(State(context): State<Context>) -> Answer<Value> {
    Ok(Json(context.ask(|engine| status::system(engine)).await?))
}

pub(super) async fn sets(State(context): State<Context>) -> Answer<ObjectList> {
    let items = context.ask(|engine| status::sets(engine)).await?;
    Ok(Json(ObjectList {
        api_version: crate::manifest::schema::API_VERSION.into(),
        kind: "SetList".into(),
        items,
    }))
}

#[derive(Deserialize)]
pub(super) struct ChangesQuery {
    id: Option<u64>,
}

pub(super) async fn changes(
    State(context): State<Context>,
    Query(query): Query<ChangesQuery>,
) -> Answer<Vec<crate::store::StoredChange>> {
    let mut found = context.ask(|engine| engine.store.changes(limits::CHANGES_KEPT)).await?;
    if let Some(id) = query.id {
        found.retain(|change| change.id == id);
        if found.is_empty() {
            return Err(refuse(
                StatusCode::NOT_FOUND,
                format!("there is no change {id}"),
                "see `unisys changes`",
            ));
        }
    }
    Ok(Json(found))
}

pub(super) async fn why(State(context): State<Context>, Path(name): Path<String>) -> Answer<Why> {
    let unit = context.unit_name(&name).await?;
    let asked = name.clone();
    let found = context
        .ask(move |engine| {
            let world = &engine.world;
            let chain: Vec<_> = world.why(&unit);
            let mut before = Vec::new();
            let subject = match (world.units().get(&unit), world.externals().get(&unit)) {
                (Some(unit), _) => unit.spec.object.to_string(),
                (None, Some(external)) => external.spec.object.to_string(),
                // It is gone, and how that came is known.
                (None, None) => {
                    let last = chain.first().filter(|last| names(&last.object, &asked))?;
                    before = world.chronicle().unwell_before(last, LINKS);
                    last.object.clone()
                }
            };
            let lines = |record: &Record| given_up_with(world, record);
            let [chain, before] = [chain, before].map(|chain| links(&chain, &engine.faults.book, lines));
            Some(Why { subject, chain, before })
        })
        .await?;
    context.found(found, name).await
}

/// A chain as it is shown.
pub fn links(chain: &[Arc<Record>], book: &Book, lines: impl Fn(&Record) -> Vec<String>) -> Vec<WhyLink> {
    let link = |(index, record): (usize, &Arc<Record>)| WhyLink {
        id: record.id,
        at: record.at,
        object: record.object.clone(),
        what: what(book, record),
        lines: lines(record),
        because: chain.get(index + 1).map(|next| next.id),
    };
    chain.iter().enumerate().map(link).collect()
}

/// What was last written by the instance that a rollout failed with, of the record that tells of that.
fn given_up_with(world: &World, record: &Record) -> Vec<String> {
    if !["RolledBack", "RolloutFailed"].contains(&&*record.reason) {
        return Vec::new();
    }
    let unit = world.units().values().find(|unit| unit.spec.object.to_string() == record.object);
    let failure = unit
        .and_then(|unit| unit.rollout.failure().or(unit.overrides.rejected.as_ref().map(|it| &it.failure)));
    failure
        .filter(|failure| record.message.ends_with(&failure.message))
        .map(|it| it.lines.clone())
        .unwrap_or_default()
}

/// What happened; of a failure also its last words and its category, once they are known.
fn what(book: &Book, record: &Record) -> String {
    let known = book.iter().find(|known| known.cause == Some(record.id));
    let words = known.filter(|known| known.message.len() > record.message.len());
    match words.filter(|known| known.message.starts_with(&record.message)) {
        Some(known) => format!("{} ({})", known.message, known.category),
        None => record.message.clone(),
    }
}

pub(super) async fn exec(State(context): State<Context>, Path(name): Path<String>) -> Answer<ExecContext> {
    let asked = context.unit_name(&name).await?;
    let found = context
        .ask(move |engine| {
            let name = asked;
            let Some(unit) = engine.world.units().get(&name) else {
                return Err(not_found(engine, &[name]));
            };
            let running = unit.slots.values().find(|slot| slot.instance.is_some());
            let id = running.and_then(|slot| slot.id(&name)).map(|id| id.to_string());
            let running = running.and_then(|slot| slot.instance.as_ref());
            // As what runs was started, which may not be as it is wanted.
            let launch = &running.map_or(&unit.spec, |instance| &instance.spec).launch;
            let ports = running.map(|instance| instance.ports.clone()).unwrap_or_default();
            let main = crate::plan::ports::main_port(&launch.service);
            let own = |name: &str| launch.env.iter().any(|var| var.name == name);
            let numbers = ports.variables(main.as_ref()).into_iter().filter(|(name, _)| !own(name));
            let numbers = numbers.map(|(name, number)| (name, number.to_string()));
            let account = account(&launch.service);
            let user = account.and_then(|account| Ok((ids(&launch.service, account.as_ref())?, account)));
            let (user, account) =
                user.map_err(|fault| refuse(StatusCode::CONFLICT, fault.detail, "see `unisys doctor`"))?;
            let security = &launch.service.security;
            Ok(ExecContext {
                env: environment(launch, account.as_ref())
                    .into_iter()
                    .map(|(name, value)| (name, ports.fill(&value, main.as_ref())))
                    .chain(numbers)
                    .collect(),
                dir: crate::plan::machine::working_dir(launch).display().to_string(),
                user,
                umask: launch.service.file_mask(),
                no_new_privileges: security.no_new_privileges,
                sandbox: capabilities::sandbox(security, &launch.base_dir),
                run: engine.state.run().display().to_string(),
                instance: id.unwrap_or_else(|| format!("{name}.exec")),
            })
        })
        .await??;
    Ok(Json(found))
}

pub(super) async fn graph(State(context): State<Context>) -> Answer<Value> {
    let value = context
        .ask(|engine| {
            let graph = &engine.world.desired().graph;
            let lanes: Vec<Vec<String>> =
                graph.lanes().into_iter().map(|lane| lane.into_iter().map(Name::to_string).collect()).collect();
            let edges: Vec<Value> = engine
                .world
                .desired()
                .units
                .iter()
                .flat_map(|(name, unit)| unit.policy.depends_on.iter().map(move |on| (name, on)))
                .map(|(name, on)| {
                    json!({"from": name, "to": on.name, "condition": on.condition.as_str(), "optional": on.optional})
                })
                .collect();
            let cycles: Vec<String> = graph.cycles().iter().map(crate::graph::Cycle::path).collect();
            json!({"lanes": lanes, "edges": edges, "cycles": cycles})
        })
        .await?;
    Ok(Json(value))
}

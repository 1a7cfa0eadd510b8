//! The calls: what is asked of the engine, in its own thread, between two turns.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::sse::{Event as SseEvent, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};

use crate::base::{Name, ObjectKind, ObjectRef, Stamp, limits};
use crate::engine::{Engine, Input, Inputs, Proposal};
use crate::logs::read as logs;
use crate::manifest::fields::changed_fields;
use crate::manifest::{Diagnostic, LoadInput, SourceFile, tree};
use crate::os::clock;
use crate::os::state_dir::StateDir;
use crate::store::StoredFile;
use crate::world::{Cause, Event, Order};

use super::types::{
    Diff, Done, ExecContext, FieldDiff, ObjectDiff, ObjectList, Order as OrderCall, Problem, Submission,
    WaitFor, Waited, Why, WhyLink,
};
use super::{openapi, rollouts, status};

#[derive(Clone)]
pub struct Context {
    pub inputs: Inputs,
    pub changed: watch::Receiver<u64>,
    pub grown: watch::Receiver<u64>,
    pub state: Arc<StateDir>,
}

/// A refusal with the status it is answered with.
pub struct Refusal(StatusCode, Problem);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(self.1)).into_response()
    }
}

pub(super) fn refuse(status: StatusCode, error: impl Into<String>, hint: impl Into<String>) -> Refusal {
    Refusal(status, Problem { error: error.into(), hint: hint.into(), diagnostics: Vec::new() })
}

pub(super) type Answer<T> = Result<Json<T>, Refusal>;

impl Context {
    /// Runs something in the engine and waits for what it gives.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Engine) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let gone = || refuse(StatusCode::SERVICE_UNAVAILABLE, "the daemon is ending", "");
        let (answer, receive) = oneshot::channel();
        let call = Box::new(move |engine: &mut Engine| drop(answer.send(question(engine))));
        self.inputs.send(Input::Call(call)).await.map_err(|_| gone())?;
        receive.await.map_err(|_| gone())
    }
}

pub fn router(context: Context) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/openapi.json", get(async || Json(openapi::document())))
        .route("/v1/objects", get(objects))
        .route("/v1/objects/{kind}/{name}", get(object))
        .route("/v1/system", get(system))
        .route("/v1/sets", get(sets))
        .route("/v1/plan", get(pending).post(plan))
        .route("/v1/diff", post(diff))
        .route("/v1/apply", post(apply))
        .route("/v1/delete", post(delete))
        .route("/v1/orders", post(order))
        .route("/v1/down", post(down))
        .route("/v1/upgrade", post(upgrade))
        .route("/v1/events", get(events))
        .route("/v1/watch", get(watch_changes))
        .route("/v1/changes", get(changes))
        .route("/v1/why/{name}", get(why))
        .route("/v1/logs/{name}", get(read_logs))
        .route("/v1/wait", post(wait))
        .route("/v1/exec/{name}", get(exec))
        .route("/v1/graph", get(graph))
        .route("/v1/rollouts/{name}", get(rollouts::status).post(rollouts::call))
        .route("/v1/rollouts/{name}/history", get(rollouts::history))
        .merge(super::faults::routes())
        .fallback(async || refuse(StatusCode::NOT_FOUND, "there is no such call", "see /openapi.json"))
        .layer(DefaultBodyLimit::max(limits::REQUEST_BYTES))
        .layer(axum::middleware::from_fn(bounded))
        .with_state(context)
}

/// Takes in the whole body first, bounded in size and time: what is said to be too long is refused before a byte of it.
async fn bounded(request: axum::extract::Request, next: axum::middleware::Next) -> Response {
    let (parts, body) = request.into_parts();
    let said =
        parts.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let too_large = || {
        let message = format!("a request holds at most {} MiB", limits::REQUEST_BYTES >> 20);
        refuse(StatusCode::PAYLOAD_TOO_LARGE, message, "").into_response()
    };
    if said.is_some_and(|said| said > limits::REQUEST_BYTES as u64) {
        return too_large();
    }
    match tokio::time::timeout(limits::REQUEST_TIMEOUT, axum::body::to_bytes(body, limits::REQUEST_BYTES))
        .await
    {
        Ok(Ok(bytes)) => next.run(axum::extract::Request::from_parts(parts, Body::from(bytes))).await,
        Ok(Err(_)) => too_large(),
        Err(_) => {
            refuse(StatusCode::REQUEST_TIMEOUT, "the request did not arrive in time", "").into_response()
        }
    }
}

// -------------------------------------------------------------------- looking

async fn readyz(State(context): State<Context>) -> Result<String, Refusal> {
    let unready = context
        .ask(|engine| {
            let world = &engine.world;
            let names = world.units().keys().filter(|name| {
                !matches!(
                    world.status_word(name),
                    "Ready" | "Completed" | "Stopped" | "Disabled" | "Off" | "Running"
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

async fn metrics(State(context): State<Context>) -> Result<Response, Refusal> {
    let text = context.ask(|engine| crate::telemetry::exposition(engine)).await?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

#[derive(Deserialize)]
struct ObjectsQuery {
    kind: Option<String>,
    label: Option<String>,
}

fn kind_of(word: &str) -> Result<ObjectKind, Refusal> {
    ObjectKind::from_word(word).ok_or_else(|| {
        let kinds = ObjectKind::ALL.map(ObjectKind::singular).join(", ");
        refuse(StatusCode::NOT_FOUND, format!("there is no kind `{word}`"), format!("kinds: {kinds}, sets"))
    })
}

async fn objects(State(context): State<Context>, Query(query): Query<ObjectsQuery>) -> Answer<ObjectList> {
    let kind = query.kind.as_deref().map(kind_of).transpose()?;
    let mut items = context.ask(move |engine| status::objects(engine, kind)).await?;
    if let Some(label) = &query.label {
        for pair in label.split(',') {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            items.retain(|object| {
                object.metadata.labels.get(key).is_some_and(|found| pair == key || found == value)
            });
        }
    }
    let kind = kind.map_or("List".into(), |kind| format!("{}List", kind.as_str()));
    Ok(Json(ObjectList { api_version: crate::manifest::schema::API_VERSION.into(), kind, items }))
}

#[derive(Deserialize)]
struct ObjectQuery {
    #[serde(default)]
    describe: bool,
}

async fn object(
    State(context): State<Context>,
    Path((kind, name)): Path<(String, String)>,
    Query(query): Query<ObjectQuery>,
) -> Answer<Value> {
    let kind = kind_of(&kind)?;
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
    found.map(Json).ok_or_else(|| {
        refuse(StatusCode::NOT_FOUND, format!("there is no {}/{name}", kind.singular()), "see `unisys get`")
    })
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

async fn system(State(context): State<Context>) -> Answer<Value> {
    Ok(Json(context.ask(|engine| status::system(engine)).await?))
}

async fn sets(State(context): State<Context>) -> Answer<ObjectList> {
    let items = context.ask(|engine| status::sets(engine)).await?;
    Ok(Json(ObjectList {
        api_version: crate::manifest::schema::API_VERSION.into(),
        kind: "SetList".into(),
        items,
    }))
}

#[derive(Deserialize)]
struct EventsQuery {
    name: Option<String>,
    /// Only events after this id.
    after: Option<u64>,
}

impl EventsQuery {
    fn wants(&self, record: &crate::world::Record) -> bool {
        self.after.is_none_or(|after| record.id > after)
            && self
                .name
                .as_ref()
                .is_none_or(|name| record.object == *name || record.object.ends_with(&format!("/{name}")))
    }
}

async fn events(
    State(context): State<Context>,
    Query(query): Query<EventsQuery>,
) -> Answer<Vec<super::types::Event>> {
    let name = query.name.clone();
    let (found, known) = context
        .ask(move |engine| {
            let records = engine.world.chronicle().iter().filter(|record| query.wants(record));
            let found: Vec<_> = records.map(|record| status::event(record)).collect();
            let known = query.name.as_ref().is_none_or(|name| is_there(engine, name));
            (found, known)
        })
        .await?;
    // What is gone may still have its events.
    match name {
        Some(name) if found.is_empty() && !known => Err(refuse(
            StatusCode::NOT_FOUND,
            format!("there is no {name}, and nothing is remembered of one"),
            "see `unisys get`",
        )),
        _ => Ok(Json(found)),
    }
}

/// Whether `NAME` or `KIND/NAME` is declared.
fn is_there(engine: &Engine, name: &str) -> bool {
    let bare = name.rsplit_once('/').map_or(name, |(_, bare)| bare);
    let unit = bare.parse::<Name>().is_ok_and(|bare| engine.world.units().contains_key(&bare));
    unit || engine.sets.objects().sources().iter().any(|source| source.object.name.to_string() == bare)
}

/// Server-sent events with resume: each has its id, and `Last-Event-ID` or `after` goes on from there.
async fn watch_changes(
    State(context): State<Context>,
    Query(query): Query<EventsQuery>,
    headers: axum::http::HeaderMap,
) -> impl IntoResponse {
    let last = headers.get("last-event-id").and_then(|value| value.to_str().ok()?.parse().ok());
    let after = last.or(query.after).unwrap_or(0);
    let (send, receive) = tokio::sync::mpsc::channel::<Result<SseEvent, Infallible>>(64);
    let mut changed = context.changed.clone();
    tokio::spawn(async move {
        let mut after = after;
        loop {
            let filter = EventsQuery { name: query.name.clone(), after: Some(after) };
            let found = context
                .ask(move |engine| {
                    let records = engine.world.chronicle().iter().filter(|record| filter.wants(record));
                    records.map(|record| status::event(record)).collect::<Vec<_>>()
                })
                .await;
            let Ok(found) = found else { return };
            for event in found {
                after = event.id;
                let Ok(sse) = SseEvent::default().id(event.id.to_string()).event("event").json_data(&event)
                else {
                    return;
                };
                if send.send(Ok(sse)).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                result = changed.changed() => if result.is_err() { return },
                () = send.closed() => return,
            }
        }
    });
    Sse::new(stream_of(receive)).keep_alive(axum::response::sse::KeepAlive::default())
}

fn stream_of<T>(mut receive: tokio::sync::mpsc::Receiver<T>) -> impl futures_util::Stream<Item = T> {
    futures_util::stream::poll_fn(move |context| receive.poll_recv(context))
}

#[derive(Deserialize)]
struct ChangesQuery {
    id: Option<u64>,
}

async fn changes(
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

async fn why(State(context): State<Context>, Path(name): Path<String>) -> Answer<Why> {
    let unit = unit_name(&name)?;
    let found = context
        .ask(move |engine| {
            let world = &engine.world;
            let object = match (world.units().get(&unit), world.externals().get(&unit)) {
                (Some(unit), _) => unit.spec.object.clone(),
                (None, Some(external)) => external.spec.object.clone(),
                (None, None) => return None,
            };
            let chain: Vec<_> = world.why(&unit);
            let links = chain.iter().enumerate().map(|(index, record)| WhyLink {
                id: record.id,
                at: record.at,
                object: record.object.clone(),
                what: record.message.clone(),
                because: chain.get(index + 1).map(|next| next.id),
            });
            Some(Why { subject: object.to_string(), chain: links.collect() })
        })
        .await?;
    found.map(Json).ok_or_else(|| not_found(&[name]))
}

pub(super) fn unit_name(text: &str) -> Result<Name, Refusal> {
    let name = text.rsplit_once('/').map_or(text, |(_, name)| name);
    name.parse().map_err(|_| not_found(&[text.to_owned()]))
}

pub(super) fn not_found(names: &[String]) -> Refusal {
    refuse(StatusCode::NOT_FOUND, format!("there is no unit called {}", names.join(", ")), "see `unisys get`")
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LogsQuery {
    tail: Option<usize>,
    since_ms: Option<i64>,
    #[serde(default)]
    follow: bool,
    #[serde(default)]
    previous: bool,
    /// Until when the reader knows the log already.
    from: Option<u64>,
}

/// Lines as JSON, one a line; with `follow` until the client leaves.
async fn read_logs(
    State(context): State<Context>,
    Path(name): Path<String>,
    Query(query): Query<LogsQuery>,
) -> Result<Response, Refusal> {
    let unit = unit_name(&name)?;
    let known = {
        let unit = unit.clone();
        context.ask(move |engine| engine.world.units().contains_key(&unit)).await?
    };
    let service = unit.to_string();
    let (logs, index) = (context.state.services_logs(), context.state.index());
    if !known && !logs.join(format!("{service}.log")).exists() {
        return Err(not_found(&[name]));
    }
    let incarnation = match query.previous {
        true => Some(logs::previous_incarnation(&index, &service).ok_or_else(|| {
            refuse(
                StatusCode::NOT_FOUND,
                format!("{service} has no earlier instance that wrote anything"),
                "",
            )
        })?),
        false => None,
    };
    let (send, receive) = tokio::sync::mpsc::channel::<Result<Bytes, Infallible>>(16);
    let mut grown = context.grown.clone();
    tokio::spawn(async move {
        let mut wanted = logs::Query {
            tail: query.tail,
            since: query.since_ms.map(Stamp),
            incarnation,
            stream: None,
            from: query.from,
        };
        loop {
            let (path, index, service, asked) =
                (logs.clone(), index.clone(), service.clone(), wanted.clone());
            let read = tokio::task::spawn_blocking(move || logs::read(&path, &index, &service, &asked)).await;
            let Ok(Ok((lines, end))) = read else { return };
            let mut text = Vec::new();
            for line in &lines {
                let _ = serde_json::to_writer(&mut text, line);
                text.push(b'\n');
            }
            if !text.is_empty() && send.send(Ok(text.into())).await.is_err() {
                return;
            }
            if !query.follow {
                return;
            }
            wanted = logs::Query { from: Some(end), ..logs::Query::default() };
            tokio::select! {
                result = grown.changed() => if result.is_err() { return },
                () = send.closed() => return,
            }
        }
    });
    let body = Body::from_stream(stream_of(receive));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

async fn exec(State(context): State<Context>, Path(name): Path<String>) -> Answer<ExecContext> {
    let unit = unit_name(&name)?;
    let found = context
        .ask(move |engine| {
            let unit = engine.world.units().get(&unit)?;
            let launch = &unit.spec.launch;
            let running = unit.slots.values().find_map(|slot| slot.instance.as_ref());
            let ports = running.map(|instance| instance.ports.clone()).unwrap_or_default();
            let first = crate::plan::ports::first_auto(&launch.service);
            let own = |name: &str| launch.env.iter().any(|var| var.name == name);
            let numbers = ports.variables(first).into_iter().filter(|(name, _)| !own(name));
            let numbers = numbers.map(|(name, number)| (name, number.to_string()));
            let user = launch.service.user.as_deref().and_then(crate::os::identity::user);
            Some(ExecContext {
                env: launch
                    .env
                    .iter()
                    .map(|var| (var.name.clone(), ports.fill(&var.value, first)))
                    .chain(numbers)
                    .collect(),
                dir: crate::plan::machine::working_dir(launch).display().to_string(),
                user: user.map(|user| (user.uid, user.gid, user.groups)),
            })
        })
        .await?;
    found.map(Json).ok_or_else(|| not_found(&[name]))
}

async fn graph(State(context): State<Context>) -> Answer<Value> {
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

// -------------------------------------------------------------------- wishing

async fn pending(State(context): State<Context>) -> Answer<super::types::Plan> {
    let plan = context
        .ask(|engine| {
            let mut plan = status::plan(&engine.world, &engine.world.pending());
            plan.diagnostics = engine.sets.pending();
            plan
        })
        .await?;
    Ok(Json(plan))
}

/// The set that a submission is for, and its whole content.
fn target(engine: &Engine, submission: &Submission) -> Result<(String, Option<PathBuf>, LoadInput), Refusal> {
    let source =
        |file: &StoredFile| SourceFile { path: file.path.clone(), content: Ok(file.text.as_bytes().into()) };
    let name = match (&submission.set, &submission.path) {
        (Some(set), _) => set.clone(),
        (None, Some(path)) => crate::engine::sets::set_name(path),
        (None, None) => "default".into(),
    };
    if let (Some(path), Some(known)) = (&submission.path, engine.sets.get(&name))
        && known.path.as_ref().is_some_and(|known| known != path)
    {
        let message =
            format!("the set `{name}` is read from {}", known.path.clone().unwrap_or_default().display());
        return Err(refuse(StatusCode::CONFLICT, message, "give this one another name with --set"));
    }
    let mut input = engine.sets.input_of(&name);
    input.set.clone_from(&name);
    if submission.path.is_some() {
        input.files = submission.files.iter().map(source).collect();
    } else {
        let added = documents(&submission.files);
        if submission.prune && added.is_empty() && !submission.files.iter().any(has_documents) {
            let message = "there is nothing in it, and --prune would delete everything of the set";
            return Err(refuse(StatusCode::BAD_REQUEST, message, "`unisys delete` deletes"));
        }
        let none = Vec::new();
        let known = if submission.prune { &none } else { &input.files };
        let mut files: Vec<SourceFile> = known
            .iter()
            .filter(|file| !added.iter().any(|new| same_object(&new.path, &file.path)))
            .cloned()
            .collect();
        match added.is_empty() {
            // What cannot be taken apart is shown as it is: its diagnostics say why.
            true => files.extend(submission.files.iter().map(source)),
            false => files.extend(added),
        }
        input.files = files;
    }
    Ok((name, submission.path.clone(), input))
}

fn has_documents(file: &StoredFile) -> bool {
    tree::parse_to_values(&file.text).map_or(true, |values| values.iter().any(|value| !value.is_null()))
}

/// Each document of some files as a file of its own, so that later ones replace it by kind and name. Empty if any of them
/// cannot be read: then the files are taken as they are.
fn documents(files: &[StoredFile]) -> Vec<SourceFile> {
    let mut found = Vec::new();
    for file in files {
        let Ok(values) = tree::parse_to_values(&file.text) else { return Vec::new() };
        for value in values {
            let kind = value.get("kind").and_then(Value::as_str).unwrap_or_default();
            let name = value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
            if kind.is_empty() || name.is_empty() {
                return Vec::new();
            }
            // The first document keeps the text as written, so that lines in messages are right.
            let whole =
                files.len() == 1 && tree::parse_to_values(&file.text).is_ok_and(|values| values.len() == 1);
            let text = if whole { file.text.clone() } else { value.to_string() };
            let path = file.path.with_file_name(format!(
                "{}#{}.{name}",
                file.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
                kind.to_lowercase()
            ));
            found.push(SourceFile { path, content: Ok(text.into_bytes().into()) });
        }
    }
    found
}

fn same_object(a: &std::path::Path, b: &std::path::Path) -> bool {
    let object = |path: &std::path::Path| {
        path.file_name().and_then(|name| Some(name.to_str()?.rsplit_once('#')?.1.to_owned()))
    };
    object(a).is_some_and(|a| object(b) == Some(a))
}

fn propose(engine: &mut Engine, submission: &Submission) -> Result<Proposal, Refusal> {
    if let Some(expected) = submission.if_revision
        && expected != engine.world.revision().0
    {
        let message = format!("the accepted revision is {}, not {expected}", engine.world.revision());
        return Err(refuse(StatusCode::CONFLICT, message, "look at `unisys diff` again"));
    }
    let (name, path, input) = target(engine, submission)?;
    let busy = engine.busy_ports();
    Ok(engine.sets.propose(&name, path, input, &busy))
}

fn rejected(diagnostics: Vec<Diagnostic>) -> Refusal {
    let errors = diagnostics.iter().filter(|diagnostic| diagnostic.rejects()).count();
    let error =
        format!("{errors} error{} in the manifests; nothing was changed", if errors == 1 { "" } else { "s" });
    Refusal(StatusCode::UNPROCESSABLE_ENTITY, Problem { error, hint: String::new(), diagnostics })
}

/// What would be done if this were accepted: asked of a copy of the world.
fn planned(engine: &Engine, proposal: &Proposal) -> super::types::Plan {
    let mut world = engine.world.clone();
    let cause = Cause::new("Plan", "plan");
    world.handle(clock::now(), Event::Desired { desired: proposal.desired(), cause });
    let mut plan = status::plan(&world, &world.pending());
    plan.diagnostics.clone_from(&proposal.diagnostics);
    plan
}

async fn plan(
    State(context): State<Context>,
    Json(submission): Json<Submission>,
) -> Answer<super::types::Plan> {
    let plan = context
        .ask(move |engine| {
            let proposal = propose(engine, &submission)?;
            if proposal.rejected {
                Err(rejected(proposal.diagnostics))
            } else {
                Ok(planned(engine, &proposal))
            }
        })
        .await??;
    Ok(Json(plan))
}

async fn apply(State(context): State<Context>, Json(submission): Json<Submission>) -> Answer<Done> {
    let done = context
        .ask(move |engine| {
            let proposal = propose(engine, &submission)?;
            if proposal.rejected {
                return Err(rejected(proposal.diagnostics));
            }
            let plan = planned(engine, &proposal);
            let unchanged = proposal.desired().units == engine.world.desired().units
                && proposal.desired().externals == engine.world.desired().externals
                && proposal.objects().same_as(engine.sets.objects());
            if !submission.dry_run && !unchanged {
                let detail = match &submission.path {
                    Some(path) => format!("unisys apply -f {}", path.display()),
                    None => "unisys apply".into(),
                };
                engine.accept(proposal, Cause::new("Apply", detail));
            }
            let again =
                engine.world.units().iter().filter(|(_, unit)| submission.force && unit.is_rolled_back());
            let again: Vec<Name> = again.map(|(name, _)| name.clone()).collect();
            let forced = !submission.dry_run && !again.is_empty();
            if forced {
                let event = Event::Order { order: Order::Retry(again), by: "you".into() };
                engine.world.handle(clock::now(), event);
            }
            let message = match (unchanged, submission.dry_run) {
                (true, _) if forced => "what was rolled back is tried again".into(),
                (true, _) => format!("nothing to do, revision {} stays", engine.world.revision()),
                (false, true) => "nothing was changed (--dry-run)".into(),
                (false, false) => format!("revision {} accepted", engine.world.revision()),
            };
            Ok(Done { revision: engine.world.revision().0, message, plan })
        })
        .await??;
    Ok(Json(done))
}

async fn diff(State(context): State<Context>, Json(submission): Json<Submission>) -> Answer<Diff> {
    let diff = context
        .ask(move |engine| {
            let proposal = propose(engine, &submission)?;
            if proposal.rejected {
                return Err(rejected(proposal.diagnostics));
            }
            let notes = status::not_as_written(&engine.world);
            Ok(Diff { objects: differences(engine, &proposal), diagnostics: proposal.diagnostics, notes })
        })
        .await??;
    Ok(Json(diff))
}

fn differences(engine: &Engine, proposal: &Proposal) -> Vec<ObjectDiff> {
    let (old, new) = (engine.sets.objects().sources(), proposal.objects().sources());
    let row = |object: &ObjectRef, change: &str, fields| ObjectDiff {
        object: object.to_string(),
        change: change.into(),
        fields,
    };
    let mut found = Vec::new();
    for source in &new {
        match old.iter().find(|known| known.object == source.object) {
            None => found.push(row(&source.object, "Added", Vec::new())),
            Some(known) => {
                let mut fields = field_differences(&source.object, &known.written, &source.written);
                fields.extend(value_differences(engine, proposal, &source.object, &fields));
                if !fields.is_empty() {
                    found.push(row(&source.object, "Changed", fields));
                }
            }
        }
    }
    let gone = old.iter().filter(|known| !new.iter().any(|source| source.object == known.object));
    found.extend(gone.map(|known| row(&known.object, "Removed", Vec::new())));
    found
}

fn field_differences(object: &ObjectRef, old: &str, new: &str) -> Vec<FieldDiff> {
    let parse = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_default();
    let (old, new) = (parse(old), parse(new));
    let mask = |value: Value| {
        if object.kind == ObjectKind::Secret && !value.is_null() { json!("***") } else { value }
    };
    changed_fields((&old, &old), (&new, &new))
        .into_iter()
        .map(|change| FieldDiff { path: change.path, old: mask(change.old), new: mask(change.new) })
        .collect()
}

/// Values that change though the unit's own text does not: a Config, a `.env`.
fn value_differences(
    engine: &Engine,
    proposal: &Proposal,
    object: &ObjectRef,
    known: &[FieldDiff],
) -> Vec<FieldDiff> {
    let desired = proposal.desired();
    let (Some(old), Some(new)) =
        (engine.world.desired().units.get(&object.name), desired.units.get(&object.name))
    else {
        return Vec::new();
    };
    let (old, new) = (&old.launch.env, &new.launch.env);
    let mut names: Vec<&String> = old.iter().chain(new).map(|var| &var.name).collect();
    names.sort();
    names.dedup();
    let find = |env: &[crate::manifest::resolve::EnvVar], name: &str| {
        env.iter().find(|var| var.name == name).cloned()
    };
    let shown = |var: Option<crate::manifest::resolve::EnvVar>| match var {
        Some(var) if var.secret => json!("***"),
        Some(var) => json!(crate::base::ports::without_stand_ins(&var.value)),
        None => Value::Null,
    };
    names
        .into_iter()
        .filter(|name| {
            let path = format!("spec.env.{name}");
            !known.iter().any(|field| field.path == path || field.path == "spec.env")
        })
        .filter_map(|name| {
            let (old, new) = (find(old, name), find(new, name));
            let same = old.as_ref().map(|var| &var.value) == new.as_ref().map(|var| &var.value);
            (!same).then(|| FieldDiff { path: format!("spec.env.{name}"), old: shown(old), new: shown(new) })
        })
        .collect()
}

/// Objects to take away: by name, from the sets that `apply` made. What a watched directory declares comes back by itself.
#[derive(Deserialize)]
struct Deletion {
    objects: Vec<String>,
}

async fn delete(State(context): State<Context>, Json(deletion): Json<Deletion>) -> Answer<Done> {
    let done = context
        .ask(move |engine| {
            let mut gone = Vec::new();
            let mut whole: BTreeMap<String, BTreeSet<ObjectRef>> = BTreeMap::new();
            for text in &deletion.objects {
                let object: ObjectRef = text.parse().map_err(|_| {
                    refuse(
                        StatusCode::BAD_REQUEST,
                        format!("`{text}` is not KIND/NAME"),
                        "write it as `service/api`",
                    )
                })?;
                let sources = engine.sets.objects().sources();
                let source = sources.iter().find(|source| source.object == object).ok_or_else(|| {
                    refuse(StatusCode::NOT_FOUND, format!("there is no {object}"), "see `unisys get`")
                })?;
                let set = engine.sets.get(&source.set);
                if set.is_some_and(|set| set.applied && set.path.is_some()) {
                    whole.entry(source.set.to_string()).or_default().insert(object.clone());
                    continue;
                }
                if set.is_some_and(|set| set.path.is_some()) {
                    let message = format!("{object} is declared in {}", source.file.display());
                    return Err(refuse(
                        StatusCode::CONFLICT,
                        message,
                        "remove it there, or `unisys stop` it",
                    ));
                }
                gone.push((object.clone(), source.set.to_string(), source.file.clone()));
            }
            // Of a directory that was applied: all of it, or what is left would bring it back.
            for (set, objects) in &whole {
                let sources = engine.sets.objects().sources();
                let left =
                    sources.iter().find(|source| *source.set == **set && !objects.contains(&source.object));
                if let Some(left) = left {
                    let message = format!(
                        "the set `{set}` is read from its directory and holds {} as well",
                        left.object
                    );
                    return Err(refuse(
                        StatusCode::CONFLICT,
                        message,
                        "remove the file there, or delete the whole set with `unisys delete -f DIRECTORY`",
                    ));
                }
            }
            let mut revision = engine.world.revision().0;
            for set in whole.into_keys() {
                let busy = engine.busy_ports();
                let proposal = engine.sets.propose_without(&set, &busy);
                if proposal.rejected {
                    return Err(rejected(proposal.diagnostics));
                }
                let detail = format!("unisys delete of the set {set}");
                engine.accept(proposal, Cause { kind: "Delete".into(), detail, files: Vec::new() });
                revision = engine.world.revision().0;
            }
            for (object, set, file) in gone {
                let mut input = engine.sets.input_of(&set);
                input.files.retain(|known| known.path != file);
                let busy = engine.busy_ports();
                let proposal = engine.sets.propose(&set, None, input, &busy);
                if proposal.rejected {
                    return Err(rejected(proposal.diagnostics));
                }
                let detail = format!("unisys delete {object}");
                engine.accept(proposal, Cause::new("Delete", detail));
                revision = engine.world.revision().0;
            }
            Ok(Done { revision, message: format!("revision {revision} accepted"), plan: Default::default() })
        })
        .await??;
    Ok(Json(done))
}

async fn order(State(context): State<Context>, Json(call): Json<OrderCall>) -> Answer<Done> {
    let names: Vec<Name> = call.names.iter().map(|name| unit_name(name)).collect::<Result<_, _>>()?;
    let done = context
        .ask(move |engine| {
            let unknown: Vec<String> = names
                .iter()
                .filter(|name| !engine.world.units().contains_key(*name))
                .map(Name::to_string)
                .collect();
            if !unknown.is_empty() {
                return Err(not_found(&unknown));
            }
            if let Some(why) = engine.world.going_down() {
                return Err(refuse(StatusCode::CONFLICT, format!("everything is being stopped: {why}"), ""));
            }
            let list = call.names.join(" ");
            let order = match call.verb.as_str() {
                "start" => Order::Start(names),
                "stop" => Order::Stop(names),
                "restart" => Order::Restart(names),
                "enable" => Order::Enable(names),
                "disable" => Order::Disable(names),
                "reload" => reload(engine, names)?,
                "resetCircuit" => Order::ResetCircuit(names),
                "scale" => scale(engine, names, &call.replicas)?,
                verb => {
                    return Err(refuse(StatusCode::BAD_REQUEST, format!("there is no order `{verb}`"), ""));
                }
            };
            engine.world.handle(clock::now(), Event::Order { order, by: "you".into() });
            Ok(Done {
                revision: engine.world.revision().0,
                message: match call.verb.as_str() {
                    "resetCircuit" => format!("circuit of {list} reset"),
                    verb => format!("{verb} {list}"),
                },
                plan: Default::default(),
            })
        })
        .await??;
    Ok(Json(done))
}

fn reload(engine: &Engine, names: Vec<Name>) -> Result<Order, Refusal> {
    let without = names.iter().find(|name| {
        engine.world.units().get(*name).is_some_and(|unit| unit.spec.launch.service.reload.is_none())
    });
    match without {
        Some(name) => Err(refuse(
            StatusCode::CONFLICT,
            format!("{name} does not say how it reads its files again"),
            "declare `reload` in its manifest, or `unisys restart` it",
        )),
        None => Ok(Order::Reload(names)),
    }
}

fn scale(engine: &Engine, names: Vec<Name>, replicas: &[u32]) -> Result<Order, Refusal> {
    if names.len() != replicas.len() || replicas.iter().any(|count| *count > limits::REPLICAS) {
        let message = format!("each name needs a number from 0 to {}", limits::REPLICAS);
        return Err(refuse(StatusCode::BAD_REQUEST, message, "write `unisys scale api=3`"));
    }
    let fixed = names.iter().zip(replicas).find_map(|(name, count)| {
        let unit = engine.world.units().get(name).filter(|_| *count > 1)?;
        let port = unit.spec.launch.service.ports.iter().find_map(|port| match port.port {
            crate::manifest::spec::service::PortNumber::Number(number) if !port.listen => Some(number),
            _ => None,
        })?;
        Some(format!("{name} binds port {port} itself: a second instance could not"))
    });
    if let Some(message) = fixed {
        return Err(refuse(StatusCode::CONFLICT, message, "one instance can have a fixed port"));
    }
    Ok(Order::Scale(names.into_iter().zip(replicas.iter().copied()).collect()))
}

async fn down(State(context): State<Context>) -> Answer<Done> {
    context
        .ask(|engine| {
            engine.world.handle(clock::now(), Event::ShutDown { by: "unisys down".into(), now: false });
        })
        .await?;
    Ok(Json(Done { message: "stopping everything".into(), ..Done::default() }))
}

async fn upgrade(State(context): State<Context>) -> Answer<Done> {
    context.ask(Engine::upgrade_keeper).await?;
    Ok(Json(Done { message: "keeper and daemon become the binary on disk".into(), ..Done::default() }))
}

/// Waits until it is so, or the time is over.
async fn wait(State(context): State<Context>, Json(wanted): Json<WaitFor>) -> Answer<Waited> {
    let deadline = tokio::time::Instant::now() + Duration::from_millis(wanted.timeout_ms.min(86_400_000));
    let mut changed = context.changed.clone();
    let names: Vec<Name> = wanted.names.iter().map(|name| unit_name(name)).collect::<Result<_, _>>()?;
    let wanted_names = names.clone();
    loop {
        changed.mark_unchanged();
        let (names, what) = (names.clone(), wanted.what.clone());
        let unmet = context.ask(move |engine| unmet(engine, &names, &what)).await??;
        let (names, what) = (wanted_names.clone(), wanted.what.clone());
        let rolled_back = context.ask(move |engine| given_up(engine, &names, &what)).await?;
        if unmet.is_empty() || !rolled_back.is_empty() {
            return Ok(Json(Waited { met: rolled_back.is_empty(), unmet, rolled_back }));
        }
        match tokio::time::timeout_at(deadline, changed.changed()).await {
            Ok(Ok(())) => {}
            _ => return Ok(Json(Waited { met: false, unmet, rolled_back })),
        }
    }
}

/// `rollout=REVISION`: units whose rollout of that revision, or a later one, was given up.
fn given_up(engine: &Engine, names: &[Name], what: &str) -> Vec<String> {
    let Some(revision) = what.strip_prefix("rollout=").and_then(|text| text.parse::<u64>().ok()) else {
        return Vec::new();
    };
    let units = engine.world.units().iter().filter(|(name, _)| names.is_empty() || names.contains(name));
    units
        .filter(|(_, unit)| unit.rollout.revision.0 >= revision)
        .filter_map(|(name, unit)| Some((name, unit, unit.rollout.failure()?)))
        .map(|(name, unit, failure)| {
            format!("{name}: revision {} was rolled back: {}", unit.rollout.revision, failure.message)
        })
        .collect()
}

fn unmet(engine: &Engine, names: &[Name], what: &str) -> Result<Vec<String>, Refusal> {
    let world = &engine.world;
    if what == "delete" {
        return Ok(names
            .iter()
            .filter(|name| world.units().contains_key(*name))
            .map(|n| format!("{n} is there"))
            .collect());
    }
    let all: Vec<Name> = match names.is_empty() {
        true => world.units().keys().filter(|name| world.wanted_replicas(name) > 0).cloned().collect(),
        false => names.to_vec(),
    };
    let unknown: Vec<String> =
        all.iter().filter(|name| !world.units().contains_key(*name)).map(Name::to_string).collect();
    if !unknown.is_empty() {
        return Err(not_found(&unknown));
    }
    if let Some(kind) = what.strip_prefix("condition=") {
        let (kind, wanted) = kind.split_once('=').unwrap_or((kind, "True"));
        let met = |name: &Name| {
            let found = world
                .conditions(name)
                .into_iter()
                .find(|condition| condition.kind.eq_ignore_ascii_case(kind));
            let settled = world.units().get(name).is_some_and(|unit| {
                unit.slots.values().all(|slot| !matches!(slot.drift, crate::plan::Drift::Replace(_)))
            });
            match found {
                Some(condition) if condition.status.eq_ignore_ascii_case(wanted) && settled => None,
                Some(condition) => Some(format!(
                    "{name}: {kind} is {} ({}): {}",
                    condition.status, condition.reason, condition.message
                )),
                None => Some(format!("{name} has no condition {kind}")),
            }
        };
        return Ok(all.iter().filter_map(met).collect());
    }
    if what.starts_with("rollout=") {
        let rolling = |name: &&Name| {
            world.units().get(*name).is_some_and(|unit| {
                unit.rollout.is_active() || (!unit.spec.policy.job && !unit_ready(engine, name))
            })
        };
        let words = |name: &Name| format!("{name} is {}", world.status_word(name));
        return Ok(all.iter().filter(rolling).map(words).collect());
    }
    if let Some(word) = what.strip_prefix("lifecycle=") {
        let met = |name: &&Name| {
            let slots = world.units().get(*name).into_iter().flat_map(|unit| unit.slots.values());
            !slots.clone().all(|slot| slot.state.word().eq_ignore_ascii_case(word)) || slots.count() == 0
        };
        return Ok(all.iter().filter(met).map(|name| format!("{name} is not {word}")).collect());
    }
    let hint = "write --for=condition=Ready, --for=delete or --for=lifecycle=Done";
    Err(refuse(StatusCode::BAD_REQUEST, format!("cannot wait for `{what}`"), hint))
}

fn unit_ready(engine: &Engine, name: &Name) -> bool {
    let conditions = engine.world.conditions(name);
    conditions.iter().any(|condition| condition.kind == "Ready" && condition.status == "True")
}

//! The calls: what is asked of the engine, in its own thread, between two turns.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::DefaultBodyLimit;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use futures_util::StreamExt;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout_at};

use crate::base::{Name, ObjectKind, limits};
use crate::engine::{Engine, Input, Inputs};
use crate::manifest::diagnostic::nearest;
use crate::os::caller::Caller;
use crate::os::state_dir::StateDir;

use super::crowd::Place;
use super::types::Problem;
use super::{deletion, follow, look, manifests, openapi, orders, rollouts, wait};

#[derive(Clone)]
pub struct Context {
    pub inputs: Inputs,
    pub changed: watch::Receiver<u64>,
    pub grown: watch::Receiver<u64>,
    pub state: Arc<StateDir>,
}

/// A refusal with the status it is answered with.
pub struct Refusal(pub(crate) StatusCode, pub(crate) Problem);

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

    /// A note for the answer to what the next daemon has to know, if it cannot be written now.
    pub(super) async fn not_recorded(&self) -> Result<Option<String>, Refusal> {
        let mut recorded = self.ask(|engine| engine.store.recorded()).await?;
        let why = match tokio::time::timeout(limits::RECORDED_WITHIN, recorded.recv()).await {
            // It was written, or the daemon ends: then it is written last.
            Ok(None | Some(None)) => return Ok(None),
            Ok(Some(Some(why))) => why,
            Err(_) => format!("the disk has not taken it for {:?}", limits::RECORDED_WITHIN),
        };
        Ok(Some(format!(
            "it is done, but not recorded: {} cannot be written ({why}). Make room there (`unisys doctor` says where): it is then \
             recorded by itself, and the event StateUnblocked says so. A daemon that is started before does not know of it: give \
             it again then",
            self.state.database().display()
        )))
    }

    /// What was saved before a question counts for its answer: waits until the watched files are as the engine knows them, or the time
    /// is over. Whether they are.
    pub(super) async fn catches_up(&self, until: Instant) -> Result<bool, Refusal> {
        let until = until.min(Instant::now() + limits::WATCH_CAUGHT_UP);
        let mut changed = self.changed.clone();
        let Some((mark, mut passed)) = self.ask(Engine::mark_files).await? else { return Ok(true) };
        let _ = timeout_at(until, passed.wait_for(|last| *last >= mark)).await;
        loop {
            changed.mark_unchanged();
            if !self.ask(Engine::files_wait).await? {
                return Ok(true);
            }
            match timeout_at(until, changed.changed()).await {
                Ok(Ok(())) => {}
                _ => return Ok(false),
            }
        }
    }

    /// The name in `NAME` or `KIND/NAME`. Who writes the kind means nothing of another one.
    pub(super) async fn unit_name(&self, text: &str) -> Result<Name, Refusal> {
        let (kind, name) = text.rsplit_once('/').map_or((None, text), |(kind, name)| (Some(kind), name));
        if let Some(refusal) = self.instance_meant(text).await? {
            return Err(refusal);
        }
        let name: Name = name.parse().map_err(|_| nothing_called(text, "see `unisys get`"))?;
        let Some(kind) = kind else { return Ok(name) };
        let asked = name.clone();
        let found = self.ask(move |engine| {
            let external = engine.world.externals().get(&asked).map(|external| external.spec.object.clone());
            external.or_else(|| Some(engine.world.units().get(&asked)?.spec.object.clone()))
        });
        match found.await? {
            Some(object) if ObjectKind::from_word(kind) != Some(object.kind) => {
                Err(nothing_called(text, &format!("did you mean {object}? See `unisys get`")))
            }
            _ => Ok(name),
        }
    }

    /// That `api/0`, `api.0` or `api-0`, where there is a unit api and none of that name, is an instance: units are asked for.
    pub(super) async fn instance_meant(&self, text: &str) -> Result<Option<Refusal>, Refusal> {
        let Some((unit, ordinal)) = instance_of(text) else { return Ok(None) };
        let whole = text.rsplit('/').next().and_then(|name| name.parse::<Name>().ok());
        let of = unit.clone();
        let known = self.ask(move |engine| {
            let units = engine.world.units();
            units.contains_key(&of) && whole.is_none_or(|whole| !units.contains_key(&whole))
        });
        let hint = format!(
            "instance {ordinal} of {unit} is no unit: name {unit}, whose instances are ordered together; `unisys describe {unit}` \
             shows each, `unisys logs {unit}.{ordinal}` what that one wrote"
        );
        Ok(known.await?.then(|| nothing_called(text, &hint)))
    }

    /// The same of several.
    pub(super) async fn unit_names(&self, texts: &[String]) -> Result<Vec<Name>, Refusal> {
        let texts = texts.to_vec();
        let texts = self
            .ask(move |engine| {
                let units = engine.world.units();
                ObjectKind::joined(&texts, |word| {
                    word.parse().is_ok_and(|name: Name| units.contains_key(&name))
                })
            })
            .await?;
        let mut names = Vec::with_capacity(texts.len());
        for text in &texts {
            names.push(self.unit_name(text).await?);
        }
        Ok(names)
    }

    /// What was found of a unit, or that there is no such unit.
    pub(super) async fn found<T>(&self, found: Option<T>, name: String) -> Answer<T> {
        match found {
            Some(found) => Ok(Json(found)),
            None => Err(self.ask(move |engine| not_found(engine, &[name])).await?),
        }
    }
}

pub fn router(context: Context) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(look::readyz))
        .route("/metrics", get(look::metrics))
        .route("/openapi.json", get(async || Json(openapi::document())))
        .route("/v1/objects", get(look::objects))
        .route("/v1/objects/{kind}/{name}", get(look::object))
        .route("/v1/system", get(look::system))
        .route("/v1/sets", get(look::sets))
        .route("/v1/plan", get(manifests::pending).post(manifests::plan))
        .route("/v1/diff", post(manifests::diff))
        .route("/v1/apply", post(manifests::apply))
        .route("/v1/delete", post(deletion::delete))
        .route("/v1/orders", post(orders::order))
        .route("/v1/down", post(orders::down))
        .route("/v1/upgrade", post(orders::upgrade))
        .route("/v1/events", get(follow::events))
        .route("/v1/watch", get(follow::watch_changes))
        .route("/v1/changes", get(look::changes))
        .route("/v1/why/{name}", get(look::why))
        .route("/v1/logs/{name}", get(follow::read_logs))
        .route("/v1/wait", post(wait::wait))
        .route("/v1/exec/{name}", get(look::exec))
        .route("/v1/config/{name}", get(super::config::config))
        .route("/v1/graph", get(look::graph))
        .route("/v1/rollouts/{name}", get(rollouts::status).post(rollouts::call))
        .route("/v1/rollouts/{name}/history", get(rollouts::history))
        .merge(super::faults::routes())
        .fallback(async || refuse(StatusCode::NOT_FOUND, "there is no such call", "see /openapi.json"))
        .layer(DefaultBodyLimit::max(limits::REQUEST_BYTES))
        .layer(axum::middleware::from_fn(bounded))
        .with_state(context)
}

/// Takes in the whole body first, bounded in size and time: what is said to be too long is refused before a byte of it.
async fn bounded(
    Extension(place): Extension<Arc<Place>>,
    request: axum::extract::Request,
    next: axum::middleware::Next,
) -> Response {
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
    match tokio::time::timeout(limits::REQUEST_TIMEOUT, whole(body, &place)).await {
        Ok(Some(bytes)) => {
            place.is_whole();
            let answer = next.run(axum::extract::Request::from_parts(parts, Body::from(bytes))).await;
            place.is_answered();
            answer
        }
        Ok(None) => too_large(),
        Err(_) => {
            refuse(StatusCode::REQUEST_TIMEOUT, "the request did not arrive in time", "").into_response()
        }
    }
}

/// Who has called. Names may come from a directory service that does not answer: then the number has to do.
pub(super) async fn named(caller: Caller) -> String {
    let words = tokio::task::spawn_blocking(move || caller.words());
    match tokio::time::timeout(limits::NAMED_WITHIN, words).await {
        Ok(Ok(words)) => words,
        _ => format!("user {}", caller.uid),
    }
}

/// All of a body. `None`: it is too long, or its end never came.
async fn whole(body: Body, place: &Place) -> Option<Vec<u8>> {
    let mut pieces = body.into_data_stream();
    let mut whole = Vec::new();
    while let Some(piece) = pieces.next().await {
        let piece = piece.ok()?;
        if whole.len() + piece.len() > limits::REQUEST_BYTES {
            return None;
        }
        place.take(piece.len()).await;
        whole.extend_from_slice(&piece);
    }
    Some(whole)
}

/// Some units are not there; the hint names what may have been meant by the first.
pub(super) fn not_found(engine: &Engine, names: &[impl ToString]) -> Refusal {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let units = engine.world.units().keys().chain(engine.world.externals().keys()).map(Name::as_str);
    let written = names.first().and_then(|name| name.rsplit('/').next()).unwrap_or_default();
    if written.parse::<Name>().is_ok_and(|name| engine.world.externals().contains_key(&name)) {
        let message = format!("{written} is an External: unisys looks at it and does not run it");
        return refuse(StatusCode::NOT_FOUND, message, format!("see `unisys describe external/{written}`"));
    }
    let hint = match nearest(written, units) {
        Some(meant) => format!("did you mean {meant}? See `unisys get`"),
        None => "see `unisys get`".into(),
    };
    nothing_called(&names.join(", "), &hint)
}

/// The unit and the number in `api/0`, `api.0` and `api-0`.
fn instance_of(text: &str) -> Option<(Name, u32)> {
    let (unit, number) = text.rsplit_once(['/', '.', '-'])?;
    Some((unit.rsplit('/').next()?.parse().ok()?, number.parse().ok()?))
}

fn nothing_called(what: &str, hint: &str) -> Refusal {
    refuse(StatusCode::NOT_FOUND, format!("there is no unit called {what}"), hint)
}

/// The one of `words` that a word is, whatever its case.
pub(super) fn among<'w>(kind: &str, word: &str, words: &[&'w str]) -> Result<&'w str, Refusal> {
    if let Some(known) = words.iter().find(|known| known.eq_ignore_ascii_case(word)) {
        return Ok(known);
    }
    let meant = nearest(word, words.iter().copied()).map(|near| format!("did you mean {near}? "));
    let hint = format!("{}one of {}", meant.unwrap_or_default(), words.join(", "));
    Err(refuse(StatusCode::BAD_REQUEST, format!("there is no {kind} `{word}`"), hint))
}

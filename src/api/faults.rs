//! The calls about failures: error records and crash dumps. Dumps are read beside the engine: it waits for no disk.

use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;

use crate::base::{Category, ObjectKind, ObjectRef, Severity};
use crate::faults::book::{ErrorRecord, ErrorStats};
use crate::faults::crashes::{self, Crash, CrashDetail};

use super::calls::{Answer, Context, Refusal, among, not_found, refuse};

pub fn routes() -> Router<Context> {
    Router::new()
        .route("/v1/errors", get(errors))
        .route("/v1/errors/stats", get(stats))
        .route("/v1/crashes", get(list))
        .route("/v1/crashes/{id}", get(show))
        .route("/v1/crashes/{id}/export", get(export))
}

#[derive(Deserialize)]
pub(crate) struct ErrorsQuery {
    pub name: Option<String>,
    pub category: Option<String>,
    pub severity: Option<String>,
}

impl ErrorsQuery {
    /// With the words as records have them.
    pub fn checked(mut self) -> Result<Self, Refusal> {
        if let Some(word) = &mut self.category {
            *word = among("category", word, &Category::ALL.map(Category::as_str))?.to_owned();
        }
        if let Some(word) = &mut self.severity {
            *word = among("severity", word, &Severity::ALL.map(Severity::as_str))?.to_owned();
        }
        Ok(self)
    }

    pub fn wants(&self, record: &ErrorRecord) -> bool {
        let is = |wanted: &Option<String>, found: &str| wanted.as_ref().is_none_or(|word| word == found);
        let name = self.name.as_ref().is_none_or(|name| names(&record.unit, name));
        name && is(&self.category, record.category.as_str()) && is(&self.severity, record.severity.as_str())
    }
}

/// `api`, `service/api` and `svc/api` name `service/api`.
pub(crate) fn names(object: &str, word: &str) -> bool {
    object == word
        || object.rsplit_once('/').is_some_and(|(_, name)| name == word)
        || word.parse::<ObjectRef>().is_ok_and(|of| of.to_string() == object)
}

/// `a`, `service/a` and `job/a` name the unit of a crash, which knows no kind.
pub(crate) fn is_of(crash: &Crash, word: &str) -> bool {
    let kinds = ObjectKind::ALL.into_iter().filter(|kind| kind.is_unit());
    kinds.into_iter().any(|kind| names(&format!("{}/{}", kind.singular(), crash.service), word))
}

async fn errors(
    State(context): State<Context>,
    Query(query): Query<ErrorsQuery>,
) -> Answer<Vec<ErrorRecord>> {
    let query = query.checked()?;
    let name = query.name.clone();
    let found = context
        .ask(move |engine| {
            engine.faults.book.iter().filter(|record| query.wants(record)).cloned().collect::<Vec<_>>()
        })
        .await?;
    if found.is_empty() {
        is_known(&context, name).await?;
    }
    Ok(Json(found))
}

/// Where nothing is found of a name, it is one of something that there is.
async fn is_known(context: &Context, name: Option<String>) -> Result<(), Refusal> {
    let Some(name) = name else { return Ok(()) };
    let known = context.ask(move |engine| {
        let mut objects = engine.sets.objects().sources().into_iter().map(|source| source.object.to_string());
        let declared = objects.any(|object| names(&object, &name));
        let units = engine.world.units().values().map(|unit| unit.spec.object.to_string());
        match declared || units.into_iter().any(|object| names(&object, &name)) || name == "system" {
            true => Ok(()),
            false => Err(not_found(engine, &[name])),
        }
    });
    known.await?
}

async fn stats(State(context): State<Context>) -> Answer<ErrorStats> {
    Ok(Json(context.ask(|engine| engine.faults.book.stats()).await?))
}

#[derive(Deserialize)]
struct CrashesQuery {
    name: Option<String>,
}

async fn list(State(context): State<Context>, Query(query): Query<CrashesQuery>) -> Answer<Vec<Crash>> {
    let dir = context.state.crash_dumps();
    if let Some(name) = query.name.as_ref().filter(|name| name.contains('/')) {
        // A unit that there is has one kind.
        context.unit_name(name).await?;
    }
    let mut found = beside(move || crashes::list(&dir)).await?;
    found.retain(|crash| query.name.as_ref().is_none_or(|name| is_of(crash, name)));
    if found.is_empty() {
        is_known(&context, query.name).await?;
    }
    Ok(Json(found))
}

async fn show(State(context): State<Context>, Path(id): Path<String>) -> Answer<CrashDetail> {
    let (dir, wanted) = (context.state.crash_dumps(), id.clone());
    let found = beside(move || crashes::show(&dir, &wanted)).await?;
    found.map(Json).ok_or_else(|| missing(&id))
}

async fn export(State(context): State<Context>, Path(id): Path<String>) -> Result<Response, Refusal> {
    let (dir, wanted) = (context.state.crash_dumps(), id.clone());
    let archive = beside(move || crashes::export(&dir, &wanted)).await?.map_err(|_| missing(&id))?;
    Ok(([(header::CONTENT_TYPE, "application/x-tar")], archive).into_response())
}

fn missing(id: &str) -> Refusal {
    refuse(StatusCode::NOT_FOUND, format!("there is no crash `{id}`"), "see `unisys crashes`")
}

/// Runs something that reads files in a thread where it may wait.
async fn beside<T: Send + 'static>(read: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
    let gone = |_| refuse(StatusCode::SERVICE_UNAVAILABLE, "the daemon is ending", "");
    tokio::task::spawn_blocking(read).await.map_err(gone)
}

//! What is told for as long as somebody listens: events, changes of objects, logs.

use std::convert::Infallible;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::sse::{Event as SseEvent, Sse};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use crate::base::{Incarnation, Name, Ordinal, Stamp};
use crate::engine::Engine;
use crate::logs::read as logs;
use crate::world::{Record, Slot, Unit};

use super::calls::{Answer, Context, Refusal, not_found, refuse};
use super::faults::names;
use super::status;
use super::types::Event;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EventsQuery {
    pub name: Option<String>,
    /// Only events after this id.
    pub after: Option<u64>,
    pub since_ms: Option<i64>,
    pub until_ms: Option<i64>,
    /// The last so many of them.
    pub tail: Option<usize>,
}

impl EventsQuery {
    fn wants(&self, record: &Record) -> bool {
        self.after.is_none_or(|after| record.id > after)
            && self.since_ms.is_none_or(|since| record.at.0 >= since)
            && self.until_ms.is_none_or(|until| record.at.0 < until)
            && self.name.as_ref().is_none_or(|name| names(&record.object, name))
    }

    /// Those that are wanted of some, oldest first.
    pub fn of<'r>(&self, records: impl DoubleEndedIterator<Item = &'r Record>) -> Vec<Event> {
        let wanted = records.rev().filter(|record| self.wants(record)).take(self.tail.unwrap_or(usize::MAX));
        let mut found: Vec<Event> = wanted.map(status::event).collect();
        found.reverse();
        found
    }
}

pub(super) async fn events(
    State(context): State<Context>,
    Query(query): Query<EventsQuery>,
) -> Answer<Vec<Event>> {
    let name = query.name.clone();
    let (found, known) = context
        .ask(move |engine| {
            let found = query.of(engine.world.chronicle().iter().map(AsRef::as_ref));
            let known = query.name.as_ref().is_none_or(|name| is_there(engine, name));
            (found, known)
        })
        .await?;
    match name {
        Some(name) if found.is_empty() && !known => Err(refuse(
            StatusCode::NOT_FOUND,
            format!("there is no {name}, and nothing is remembered of one"),
            "see `unisys get`",
        )),
        _ => Ok(Json(found)),
    }
}

/// Whether `NAME` or `KIND/NAME` is declared, or something is remembered of it.
fn is_there(engine: &Engine, name: &str) -> bool {
    let bare = name.rsplit_once('/').map_or(name, |(_, bare)| bare);
    let unit = bare.parse::<Name>().is_ok_and(|bare| engine.world.units().contains_key(&bare));
    let told = || engine.world.chronicle().iter().any(|record| names(&record.object, name));
    unit || told()
        || engine.sets.objects().sources().iter().any(|source| source.object.name.to_string() == bare)
}

/// Server-sent events with resume: each has its id, and `Last-Event-ID` or `after` goes on from there.
pub(super) async fn watch_changes(
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
            let filter = EventsQuery { name: query.name.clone(), ..EventsQuery::default() };
            let found = context
                .ask(move |engine| filter.of(engine.world.chronicle().after(after).map(AsRef::as_ref)))
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
#[serde(rename_all = "camelCase")]
pub(super) struct LogsQuery {
    tail: Option<usize>,
    since_ms: Option<i64>,
    #[serde(default)]
    follow: bool,
    #[serde(default)]
    previous: bool,
    /// Only of this ordinal.
    instance: Option<u32>,
    /// Up to where the reader knows the log already, as it was told.
    from: Option<logs::Position>,
    /// So many lines from there on it knows too.
    #[serde(default)]
    skip: usize,
    /// It is told between the lines up to where they go.
    #[serde(default)]
    positions: bool,
}

/// Stands between the lines for who asked for positions.
#[derive(serde::Serialize, Deserialize)]
pub struct Reached {
    pub position: logs::Position,
    /// So many lines from there on are passed over.
    pub skip: usize,
}

fn json_line(line: &impl serde::Serialize) -> Vec<u8> {
    let mut text = serde_json::to_vec(line).unwrap_or_default();
    text.push(b'\n');
    text
}

/// The incarnations that run, or were the last to.
fn incarnations(unit: &Unit) -> Vec<Incarnation> {
    let of = |slot: &Slot| match (&slot.instance, &slot.last_end) {
        (Some(instance), _) => Some(instance.incarnation),
        (None, last) => last.as_ref().map(|last| last.incarnation),
    };
    unit.slots.values().filter_map(|slot| of(slot)).collect()
}

/// What a unit has begun to write without a newline so far: a program that asks and waits has said what for. Nothing of an instance
/// that has ended lines since the log was read up to `shown`: it does not follow on them.
async fn unfinished(context: &Context, unit: &Name, shown: logs::Position) -> Vec<logs::Line> {
    let of = unit.clone();
    let Ok(answer) = context.ask(move |engine| engine.collector.unfinished(of)).await else {
        return Vec::new();
    };
    let mut begun = answer.await.unwrap_or_default();
    if begun.is_empty() {
        return begun;
    }
    let (logs, index, service) = (context.state.services_logs(), context.state.index(), unit.to_string());
    let since = logs::Query { from: Some(shown), ..logs::Query::default() };
    let read = tokio::task::spawn_blocking(move || logs::read(&logs, &index, &service, &since)).await;
    // Where no line has ended so far there is no log.
    let later = read.ok().and_then(Result::ok).map(|(lines, _)| lines).unwrap_or_default();
    begun.retain(|line| later.iter().all(|later| later.incarnation != line.incarnation));
    begun
}

/// Lines as JSON, one a line, without `follow` with what is begun of the next one; with it until the client leaves.
pub(super) async fn read_logs(
    State(context): State<Context>,
    Path(name): Path<String>,
    Query(query): Query<LogsQuery>,
) -> Result<Response, Refusal> {
    let unit = context.unit_name(&name).await?;
    let present = {
        let unit = unit.clone();
        context.ask(move |engine| Some(incarnations(engine.world.units().get(&unit)?))).await?
    };
    let known = present.is_some();
    let service = unit.to_string();
    let (logs, index) = (context.state.services_logs(), context.state.index());
    // Who followed it already follows it on: it may come back.
    let followed = query.follow && query.from.is_some();
    if !known && !followed && !logs.join(format!("{service}.log")).exists() {
        return Err(context.ask(move |engine| not_found(engine, &[name])).await?);
    }
    let ordinal = query.instance.map(Ordinal);
    let incarnation = match query.previous {
        true => {
            let (index, of) = (index.clone(), service.clone());
            let present = present.unwrap_or_default();
            let look = move || logs::previous_incarnation(&index, &of, &present, ordinal);
            let looked = tokio::task::spawn_blocking(look).await;
            let none = format!("{service} has no earlier instance that wrote anything");
            Some(looked.ok().flatten().ok_or_else(|| refuse(StatusCode::NOT_FOUND, none, ""))?)
        }
        false => None,
    };
    let since = query.since_ms.map(Stamp);
    let mut wanted = logs::Query { tail: query.tail, since, incarnation, ordinal, ..logs::Query::default() };
    if query.from.is_some() {
        wanted.tail = Some(0);
    }
    let (path, of, asked) = ((logs.clone(), index.clone()), service.clone(), wanted.clone());
    let start = tokio::task::spawn_blocking(move || logs::start(&path.0, &path.1, &of, &asked)).await;
    let logs::Start { from, skip, end } = start.map_err(std::io::Error::from).flatten().map_err(|error| {
        let message = format!("cannot read the log of {service}: {}", crate::os::files::why(&error));
        refuse(StatusCode::INTERNAL_SERVER_ERROR, message, format!("look at {}", logs.display()))
    })?;
    let begin = query.from.unwrap_or(from);
    let mut skip = skip + query.skip;
    // What is written from now on is a follower's only: the last five lines are five, however fast they come.
    (wanted.tail, wanted.to) = (None, (!query.follow).then_some(end));
    let (send, receive) = tokio::sync::mpsc::channel::<Result<Bytes, Infallible>>(2);
    let mut grown = context.grown.clone();
    tokio::spawn(async move {
        let mut position = begin;
        let mut told = None;
        let mut mark = |position, skip| {
            let news = query.positions && told.replace((position, skip)) != Some((position, skip));
            if news { json_line(&Reached { position, skip }) } else { Vec::new() }
        };
        loop {
            wanted.from = Some(position);
            let (path, index, service, asked) =
                (logs.clone(), index.clone(), service.clone(), wanted.clone());
            let read = tokio::task::spawn_blocking(move || logs::read(&path, &index, &service, &asked)).await;
            let Ok(Ok((lines, reached))) = read else { return };
            let mut text = mark(position, skip);
            // What has been cut off meanwhile is not to be passed over.
            if reached.cuts != begin.cuts {
                skip = 0;
            }
            lines.iter().skip(skip).for_each(|line| text.extend(json_line(line)));
            skip = skip.saturating_sub(lines.len());
            text.extend(mark(reached, skip));
            if !text.is_empty() && send.send(Ok(text.into())).await.is_err() {
                return;
            }
            let went_on = reached != position;
            position = reached;
            let done = !went_on || position >= end;
            if done && !query.follow {
                let begun = match query.tail {
                    Some(0) => Vec::new(),
                    _ => unfinished(&context, &unit, position).await,
                };
                let wanted = |line: &&logs::Line| {
                    incarnation.is_none_or(|of| of.0 == line.incarnation)
                        && ordinal.is_none_or(|of| of.0 == line.instance)
                };
                let text: Vec<u8> = begun.iter().filter(wanted).flat_map(json_line).collect();
                if !text.is_empty() {
                    let _ = send.send(Ok(text.into())).await;
                }
                return;
            }
            if done {
                // Whoever wrote it.
                wanted = logs::Query { ordinal, ..logs::Query::default() };
            }
            // There may be more: it grew, or this was a part.
            if went_on {
                continue;
            }
            tokio::select! {
                result = grown.changed() => if result.is_err() { return },
                () = send.closed() => return,
            }
        }
    });
    let body = Body::from_stream(stream_of(receive));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

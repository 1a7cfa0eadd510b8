//! What a person orders units and the daemon to do.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};

use crate::base::{Name, limits};
use crate::engine::Engine;
use crate::os::caller::Caller;
use crate::os::clock;
use crate::world::{Event, Order};

use super::calls::{Answer, Context, Refusal, named, not_found, refuse};
use super::types::{Done, DownCall, Order as OrderCall};

pub(super) async fn order(
    State(context): State<Context>,
    Extension(caller): Extension<Caller>,
    Json(call): Json<OrderCall>,
) -> Answer<Done> {
    let by = named(caller).await;
    let names = context.unit_names(&call.names).await?;
    // That one leaves nothing to be known.
    let lasts = call.verb != "reload";
    let mut done = context
        .ask(move |engine| {
            let unknown: Vec<String> = names
                .iter()
                .filter(|name| !engine.world.units().contains_key(*name))
                .map(Name::to_string)
                .collect();
            if !unknown.is_empty() {
                return Err(not_found(engine, &unknown));
            }
            stays_up(engine)?;
            let list = listed(engine, &call, &names);
            let asked = names.clone();
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
            let none =
                |name: &&Name| engine.world.units().get(*name).is_some_and(|unit| unit.replicas() == 0);
            if let (Order::Start(names), "start") = (&order, call.verb.as_str())
                && let Some(name) = names.iter().find(none)
            {
                let message = format!("{name} has 0 replicas: there is nothing to start");
                return Err(refuse(StatusCode::CONFLICT, message, format!("`unisys scale {name}=1`")));
            }
            let ups = match call.verb.as_str() {
                "stop" | "disable" => wanted_up(engine),
                _ => BTreeSet::new(),
            };
            engine.world.handle(clock::now(), Event::Order { order, by });
            let notes = match call.verb.as_str() {
                "stop" | "disable" => taken_along(&call.verb, &ups, &wanted_up(engine), &asked),
                "enable" | "scale" | "resetCircuit" | "reload" => without_effect(engine, &asked),
                _ => Vec::new(),
            };
            Ok(Done {
                notes,
                revision: engine.world.revision().0,
                message: match call.verb.as_str() {
                    "resetCircuit" => format!("circuit of {list} reset"),
                    verb => format!("{verb} {list}"),
                },
                plan: Default::default(),
            })
        })
        .await??;
    if lasts {
        done.notes.extend(context.not_recorded().await?);
    }
    Ok(Json(done))
}

fn wanted_up(engine: &Engine) -> BTreeSet<Name> {
    let units = engine.world.units().keys();
    units.filter(|name| engine.world.down_reason(name).is_none()).cloned().collect()
}

/// What a stop took along, for it depends on what was stopped.
fn taken_along(verb: &str, before: &BTreeSet<Name>, after: &BTreeSet<Name>, asked: &[Name]) -> Vec<String> {
    let along = before.difference(after).filter(|name| !asked.contains(name));
    let along: Vec<&str> = along.map(Name::as_str).collect();
    if along.is_empty() {
        return Vec::new();
    }
    let list = asked.iter().map(Name::as_str).collect::<Vec<_>>().join(" ");
    let back = if verb == "disable" { "enable" } else { "start" };
    let along = along.join(", ");
    vec![format!("what depends on it is stopped first: {along} (`unisys {back} {list}` brings it back)")]
}

/// Of units that run no more for what was ordered: what holds them.
fn without_effect(engine: &Engine, names: &[Name]) -> Vec<String> {
    let now = clock::now();
    let scaled_to_none = |name: &Name| {
        let unit = engine.world.units().get(name);
        unit.is_some_and(|unit| unit.replicas() == 0 && engine.world.down_reason(name).is_none())
    };
    let held = names.iter().filter(|name| !scaled_to_none(name)).filter_map(|name| {
        let hold = engine.world.held_back(now, name).filter(|hold| hold.lasting)?;
        Some(hold.line(name))
    });
    held.collect()
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
    let is_job = |name: &&Name| engine.world.units().get(*name).is_some_and(|unit| unit.spec.policy.job);
    if let Some(job) = names.iter().find(is_job) {
        let message = format!("{job} is a Job: it runs once, and has no replicas");
        return Err(refuse(StatusCode::CONFLICT, message, format!("`unisys restart {job}` runs it again")));
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

/// Nothing is asked of a system that is on its way down.
pub(super) fn stays_up(engine: &Engine) -> Result<(), Refusal> {
    match engine.world.going_down() {
        Some(why) => Err(refuse(StatusCode::CONFLICT, format!("everything is being stopped: {why}"), "")),
        None => Ok(()),
    }
}

/// The units as the answer names them, of a scale with how many there were and will be.
fn listed(engine: &Engine, call: &OrderCall, names: &[Name]) -> String {
    if call.verb != "scale" {
        return call.names.join(" ");
    }
    let from = |name: &Name| engine.world.units().get(name).map_or(0, |unit| unit.replicas());
    let pairs = names.iter().zip(&call.replicas);
    let words: Vec<String> = pairs.map(|(name, to)| format!("{name} from {} to {to}", from(name))).collect();
    words.join(", ")
}

pub(super) async fn down(
    State(context): State<Context>,
    Extension(caller): Extension<Caller>,
    call: Option<Json<DownCall>>,
) -> Answer<Done> {
    let by = format!("unisys down by {}", named(caller).await);
    context
        .ask(move |engine| {
            let asked = call.and_then(|Json(call)| call.timeout_ms);
            engine.has_to_stop_within(asked.map(Duration::from_millis));
            engine.world.handle(clock::now(), Event::ShutDown { by, now: false });
        })
        .await?;
    Ok(Json(Done { message: "stopping everything".into(), ..Done::default() }))
}

pub(super) async fn upgrade(State(context): State<Context>) -> Answer<Done> {
    context.ask(Engine::upgrade_keeper).await?;
    Ok(Json(Done { message: "keeper and daemon become the binary on disk".into(), ..Done::default() }))
}

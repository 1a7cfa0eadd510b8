//! What stands beside the message of a record, for machines: a few words with names, each bounded.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::base::{Exit, Signal, format_duration, limits};
use crate::unit::{EndReason, StopReason};
use crate::world::words::end_reason;

use super::classify::{Classified, truncate};
use super::worker::Case;

/// By name: `reason`, `exitCode`, `signal`, `stage`, `errno`, `hook` (the first is 1), `probe`, `freeze`, `dependency`, `port`,
/// `generation`, `restarts`, `ranFor`.
pub type Context = BTreeMap<String, String>;

/// Of an instance that ended.
pub fn of_end(case: &Case, classified: &Classified) -> Context {
    let failure = &case.failure;
    let mut context = Context::new();
    let mut add = |name: &str, value: String| put(&mut context, name, value);
    add("reason", end_reason(&failure.end).into());
    match failure.end.exit {
        Some(Exit::Code(code)) => add("exitCode", code.to_string()),
        Some(Exit::Signal { signal, .. }) => add("signal", Signal(signal).to_string()),
        Some(Exit::OomKilled) => add("signal", Signal::KILL.to_string()),
        Some(Exit::Unknown) | None => {}
    }
    match &failure.end.reason {
        EndReason::SpawnFailed { stage, errno, .. } => {
            add("stage", format!("{stage:?}"));
            add("errno", errno.to_string());
        }
        EndReason::HookFailed { hook, .. } => add("hook", (hook + 1).to_string()),
        EndReason::Stopped(StopReason::StartupFailed) => add("probe", "startup".into()),
        EndReason::Stopped(StopReason::LivenessFailed) => add("probe", "liveness".into()),
        _ => {}
    }
    if let Some(frozen) = &failure.frozen {
        add("freeze", frozen.reason.into());
    }
    if let Some(on) = &case.dependency_down {
        add("dependency", on.clone());
    }
    if let Some(port) = classified.port_in_use.filter(|port| *port > 0) {
        add("port", port.to_string());
    }
    add("generation", failure.generation.0.to_string());
    add("restarts", failure.restarts.to_string());
    // To the millisecond: what is finer says nothing.
    let ran_for = Duration::from_millis(failure.ran_for.as_millis() as u64);
    add("ranFor", format_duration(ran_for));
    context
}

/// Of an event that is a failure of its own.
pub fn of_event(reason: &str) -> Context {
    let mut context = Context::new();
    put(&mut context, "reason", reason.into());
    context
}

fn put(context: &mut Context, name: &str, mut value: String) {
    truncate(&mut value, limits::ERROR_CONTEXT_BYTES);
    context.insert(name.to_owned(), value);
}

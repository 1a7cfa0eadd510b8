use crate::api::types::{Done, Order, WaitFor};
use crate::base::ObjectKind;

use super::super::args::Global;
use super::super::client::Client;
use super::super::pasted::pastable;
use super::super::{Failure, Outcome, render};
use crate::cli::aside;

/// A stop is over before, by its grace and the kill after it, unless its dependents take long: milliseconds.
const LONGEST_STOP: u64 = 24 * 3600 * 1000;

/// So long a start may wait for what it depends on, or for a replacement to be well: milliseconds.
const LONGEST_START: u64 = 60 * 1000;

/// `start`, `stop`, `restart`, `enable`, `disable`, `circuit reset`.
pub fn run(global: &Global, verb: &str, names: &[String], replicas: &[u32]) -> Result<Outcome, Failure> {
    let order = Order { verb: verb.into(), names: names.to_vec(), replicas: replicas.to_vec() };
    let client = Client::connect(global)?;
    // These come to the same when they are given twice.
    let done: Done = match verb {
        "start" | "stop" | "enable" | "disable" | "scale" => client.ask("/v1/orders", &order)?,
        _ => client.post("/v1/orders", &order)?,
    };
    super::say_notes(&done.notes, false);
    match verb {
        "stop" | "disable" => return reached(&client, global, names, &done, ("stopped", LONGEST_STOP)),
        // Not of a program that ended at once.
        "start" | "restart" => {
            let reached = reached(&client, global, names, &done, ("started", LONGEST_START));
            return reached.or_else(|error| given(global, error, &done));
        }
        "reload" => {
            let reached = reached(&client, global, names, &done, ("reloaded", LONGEST_STOP));
            return reached.or_else(|error| given(global, error, &done));
        }
        _ => super::say_done(global, &done, None)?,
    }
    Ok(Outcome::Done)
}

/// A daemon of an earlier version cannot be asked what came of an order: it has it.
fn given(global: &Global, error: Failure, done: &Done) -> Result<Outcome, Failure> {
    match error {
        Failure::Usage { .. } => super::say_done(global, done, None).map(|()| Outcome::Done),
        error => Err(error),
    }
}

/// Success is said when the units run, or when nothing of them is alive (architecture §2, containment).
fn reached(
    client: &Client,
    global: &Global,
    names: &[String],
    done: &Done,
    (what, timeout_ms): (&str, u64),
) -> Result<Outcome, Failure> {
    let wanted = WaitFor { names: names.to_vec(), what: what.into(), timeout_ms };
    let waited = client.wait(&wanted, global.quiet)?;
    super::say_done(global, done, Some(&waited))?;
    if waited.met {
        return Ok(Outcome::Done);
    }
    let mut lines: Vec<&String> = waited.rolled_back.iter().chain(&waited.unmet).collect();
    lines.sort();
    lines.dedup();
    lines.iter().for_each(|line| aside!("{}", pastable(&render::neutral(line))));
    if what == "started" && waited.rolled_back.is_empty() {
        let hint =
            format!("it goes on; `unisys wait --for=condition=Ready {}` waits for it", names.join(" "));
        aside!("hint: {}", pastable(&hint));
    }
    Ok(Outcome::No)
}

/// `scale NAME=N`.
pub fn scale(global: &Global, targets: &[String]) -> Result<Outcome, Failure> {
    let bad =
        |target: &str| Failure::usage(format!("`{target}` is not NAME=N"), "write `unisys scale api=3`");
    let mut names = Vec::new();
    let mut replicas = Vec::new();
    // What has no `=` is a kind, or wrong.
    for target in &ObjectKind::joined(targets, |_| false) {
        let (name, count) = target.split_once('=').ok_or_else(|| bad(target))?;
        names.push(name.to_owned());
        replicas.push(count.parse().map_err(|_| bad(target))?);
    }
    run(global, "scale", &names, &replicas)
}

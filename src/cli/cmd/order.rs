use crate::api::types::{Done, Order, WaitFor};

use super::super::args::Global;
use super::super::client::Client;
use super::super::{Failure, Outcome};

/// A stop is over before, by its grace and the kill after it, unless its dependents take long: milliseconds.
const LONGEST_STOP: u64 = 24 * 3600 * 1000;

/// `start`, `stop`, `restart`, `enable`, `disable`, `circuit reset`.
pub fn run(global: &Global, verb: &str, names: &[String], replicas: &[u32]) -> Result<Outcome, Failure> {
    let order = Order { verb: verb.into(), names: names.to_vec(), replicas: replicas.to_vec() };
    let client = Client::connect(global)?;
    // These come to the same when they are given twice.
    let done: Done = match verb {
        "start" | "stop" | "enable" | "disable" | "scale" => client.ask("/v1/orders", &order)?,
        _ => client.post("/v1/orders", &order)?,
    };
    if matches!(verb, "stop" | "disable") {
        return stopped(&client, global, names, &done);
    }
    if !global.quiet {
        println!("{}", done.message);
    }
    Ok(Outcome::Done)
}

/// Success is said when nothing of the units is alive (architecture §2, containment).
fn stopped(client: &Client, global: &Global, names: &[String], done: &Done) -> Result<Outcome, Failure> {
    let wanted = WaitFor { names: names.to_vec(), what: "stopped".into(), timeout_ms: LONGEST_STOP };
    let waited = client.wait(&wanted, global.quiet)?;
    if waited.met {
        if !global.quiet {
            println!("{}", done.message);
        }
        return Ok(Outcome::Done);
    }
    for line in waited.rolled_back.iter().chain(&waited.unmet) {
        eprintln!("{}", super::super::render::neutral(line));
    }
    Ok(Outcome::No)
}

/// `scale NAME=N`.
pub fn scale(global: &Global, targets: &[String]) -> Result<Outcome, Failure> {
    let bad =
        |target: &str| Failure::usage(format!("`{target}` is not NAME=N"), "write `unisys scale api=3`");
    let mut names = Vec::new();
    let mut replicas = Vec::new();
    for target in targets {
        let (name, count) = target.split_once('=').ok_or_else(|| bad(target))?;
        names.push(name.to_owned());
        replicas.push(count.parse().map_err(|_| bad(target))?);
    }
    run(global, "scale", &names, &replicas)
}

use crate::api::types::{Done, Order};

use super::super::args::Global;
use super::super::client::Client;
use super::super::{Failure, Outcome};

/// `start`, `stop`, `restart`, `enable`, `disable`, `circuit reset`.
pub fn run(global: &Global, verb: &str, names: &[String], replicas: &[u32]) -> Result<Outcome, Failure> {
    let order = Order { verb: verb.into(), names: names.to_vec(), replicas: replicas.to_vec() };
    let done: Done = Client::connect(global)?.post("/v1/orders", &order)?;
    if !global.quiet {
        println!("{}", done.message);
    }
    Ok(Outcome::Done)
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

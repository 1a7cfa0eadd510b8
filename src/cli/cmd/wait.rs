use serde_json::json;

use crate::api::types::WaitFor;
use crate::base::parse_duration;

use super::super::args::{Global, Wait};
use super::super::client::Client;
use super::super::pasted::pastable;
use super::super::{Failure, Outcome, render};
use crate::cli::aside;

/// `unisys wait`: 0 when it is so, 1 when the time is over.
pub fn run(global: &Global, args: &Wait) -> Result<Outcome, Failure> {
    let timeout = parse_duration(&args.timeout)
        .map_err(|error| Failure::usage(format!("--timeout: {error}"), "write --timeout 60s"))?;
    let wanted = WaitFor {
        names: args.names.clone(),
        what: args.what.clone(),
        timeout_ms: timeout.as_millis() as u64,
    };
    let waited = Client::connect(global)?.wait(&wanted, global.quiet)?;
    super::say_notes(&waited.notes, global.quiet);
    let shown = json!({"met": waited.met, "unmet": waited.unmet, "rolledBack": waited.rolled_back});
    render::structured(global.output, &shown)?;
    if waited.met {
        return Ok(Outcome::Done);
    }
    for line in &waited.unmet {
        aside!("{}", pastable(&render::neutral(line)));
    }
    Ok(Outcome::No)
}

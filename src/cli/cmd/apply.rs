use serde_json::json;

use crate::api::types::{Done, WaitFor};
use crate::cli::aside;

use super::super::args::{Apply, Format, Global};
use super::super::client::Client;
use super::super::{Failure, Outcome, render};
use super::{plan, submit, up};

/// `unisys apply`: sends manifests; says what is done about them.
pub fn run(global: &Global, args: &Apply) -> Result<Outcome, Failure> {
    render::only(global.output, &[Format::Text, Format::Json, Format::Yaml])?;
    let wait = args.wait.as_deref().map(up::wait_time).transpose()?;
    let mut submission = submit::read_with(&args.files.file, args.files.set.as_deref(), &args.files.overlay)?;
    submission.prune = args.prune;
    submission.dry_run = args.dry_run;
    submission.force = args.force;
    submission.force_conflicts = args.force_conflicts;
    submission.if_revision = args.if_revision;
    let client = Client::connect(global)?;
    let done: Done = submit::post(&client, "/v1/apply", &submission)?;
    let structured = matches!(global.output, Some(Format::Json | Format::Yaml));
    if !structured && !global.quiet {
        render::diagnostics(&done.plan.diagnostics, &submission.files);
        plan::print(&done.plan);
        render::line(&done.message);
    }
    super::say_notes(&done.notes, false);
    // What was not accepted is not waited for.
    let waited = match wait.filter(|_| !args.dry_run) {
        Some(time) => {
            let units = submit::declared(&submission.files)?.into_iter();
            let units = units.filter(|(kind, _)| ["service", "job"].contains(&kind.as_str()));
            let (names, timeout_ms) = (units.map(|(_, name)| name).collect(), time.as_millis() as u64);
            let over = WaitFor { names, what: format!("rollout={}", done.revision), timeout_ms };
            Some(client.wait(&over, global.quiet)?)
        }
        None => None,
    };
    let mut value = super::done_value(&done, waited.as_ref());
    value["accepted"] = json!(!args.dry_run);
    value["plan"] = json!(done.plan);
    render::structured(global.output, &value)?;
    let revision = done.revision;
    let Some(waited) = waited else {
        if !plan::lacks(&done.plan) {
            return Ok(Outcome::Done);
        }
        match args.dry_run {
            true => aside!("unisys: not all of it could run on this machine"),
            false => {
                aside!("unisys: revision {revision} is accepted, and not all of it can run on this machine")
            }
        }
        return Ok(Outcome::No);
    };
    super::say_notes(&waited.notes, global.quiet);
    match (waited.met, waited.rolled_back.is_empty()) {
        (true, _) => {}
        (false, false) => aside!("unisys: revision {revision} was accepted, and rolled back:"),
        (false, true) => aside!("unisys: revision {revision} is accepted, and not all of it is Ready:"),
    }
    Ok(super::came(&waited))
}

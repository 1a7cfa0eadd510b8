use crate::api::types::Done;

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
    if !render::structured(global.output, &serde_json::to_value(&done).unwrap_or_default())? && !global.quiet
    {
        render::diagnostics(&done.plan.diagnostics, &submission.files);
        plan::print(&done.plan);
        render::line(&done.message);
    }
    super::say_notes(&done.notes, false);
    match wait {
        // What was not accepted is not waited for.
        Some(time) if !args.dry_run => {
            let units = submit::declared(&submission.files)?.into_iter();
            let units = units.filter(|(kind, _)| ["service", "job"].contains(&kind.as_str()));
            let names = units.map(|(_, name)| name).collect();
            up::wait_rollout(&client, done.revision, names, time, global.quiet)
        }
        // It is accepted, and some of it cannot run.
        _ if plan::lacks(&done.plan) => Ok(Outcome::No),
        _ => Ok(Outcome::Done),
    }
}

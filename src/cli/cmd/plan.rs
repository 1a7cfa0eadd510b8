use std::path::{Path, PathBuf};

use crate::api::status;
use crate::api::types::{Override, Plan as PlanShape, Submission};
use crate::engine::{LastUp, Options};
use crate::manifest::diagnostic::{Severity, is_conflict};
use crate::manifest::{Diagnostic, LoadInput, SourceFile};
use crate::store::StoredFile;

use super::super::args::{Format, Global, Plan};
use super::super::client::{Client, STATE_DIR, find_socket};
use super::super::pasted::pastable;
use super::super::{Failure, Outcome, kept, render};
use super::{get, say_notes, submit};
use crate::cli::aside;

/// `unisys plan`: 0 nothing to do, 1 something to do, 2 an error: what the manifests want cannot be had on this machine, or what is
/// on the disk is not accepted.
pub fn run(global: &Global, args: &Plan) -> Result<Outcome, Failure> {
    render::only(global.output, &[Format::Text, Format::Table, Format::Json, Format::Yaml])?;
    let read = |path: &PathBuf| submit::read_with(path, args.set.as_deref(), &args.overlay);
    let mut submission = args.file.as_ref().map(read).transpose()?;
    if let Some(submission) = &mut submission {
        submission.force_conflicts = args.force_conflicts;
    }
    let client = match (Client::connect(global), &submission) {
        (Err(Failure::NoDaemon { .. }), Some(submission)) if is_before_up(global) => {
            return show(global, &before_up(global, args, submission)?, submission.files.clone(), &[]);
        }
        (client, _) => client?,
    };
    if args.plain {
        let message = "--plain is of what `up` would do, and a system runs here already";
        return Err(Failure::usage(message, "what another `--overlay` would change is shown with that"));
    }
    let plan: PlanShape = match &submission {
        Some(submission) => submit::ask(&client, "/v1/plan", submission)?,
        None => {
            client.catch_up()?;
            client.get("/v1/plan", &[])?
        }
    };
    // What is on the disk may not be what there is nothing to do about.
    let refused = match &submission {
        Some(_) => Vec::new(),
        None => get::not_accepted(&get::sets(&client)?),
    };
    let sent = submission.map(|submission| submission.files).unwrap_or_default();
    show(global, &plan, sent, &refused)
}

/// No daemon was named, and none is here: there may be none yet.
fn is_before_up(global: &Global) -> bool {
    global.socket.is_none() && global.state_dir.is_none() && find_socket(global).is_none()
}

/// What `up` would do with it, and with what was kept of a system that was here before.
fn before_up(global: &Global, args: &Plan, submission: &Submission) -> Result<PlanShape, Failure> {
    let source =
        |file: &StoredFile| SourceFile { path: file.path.clone(), content: Ok(file.text.as_bytes().into()) };
    let sources = |files: &[StoredFile]| files.iter().map(source).collect();
    let stdin = args.file.as_deref() == Some(Path::new("-"));
    let given = stdin.then(|| LoadInput {
        set: args.set.clone().unwrap_or_else(|| "default".into()),
        files: sources(&submission.files),
        overlays: submission.overlays.iter().map(|overlay| sources(&overlay.files)).collect(),
    });
    let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
    let mut options = Options {
        state_dir: absolute(&STATE_DIR.into()),
        paths: args.file.iter().filter(|_| !stdin).map(absolute).collect(),
        overlays: args.overlay.iter().map(absolute).collect(),
        set: args.set.clone(),
        profile: None,
        watch: false,
        units: Vec::new(),
        nofile: (0, 0),
        quiet: global.quiet,
    };
    if let Some(last) = LastUp::read(&options.state_dir).filter(|_| !stdin && !args.plain) {
        super::up::recall(&last, &mut options)?;
    }
    let foretold = kept::foretold(&options, given);
    if let Some(why) = foretold.unreadable {
        return Err(Failure::usage(why, "`unisys up` would not take it either"));
    }
    let diagnostics = foretold.diagnostics;
    if diagnostics.iter().any(Diagnostic::rejects) {
        return Err(Failure::Invalid {
            message: "the manifests are not valid".into(),
            conflict: is_conflict(&diagnostics),
            diagnostics,
            sent: submission.files.clone(),
        });
    }
    let world = foretold.world;
    Ok(PlanShape { diagnostics, ..status::plan(&world, &world.pending()) })
}

fn show(
    global: &Global,
    plan: &PlanShape,
    sent: Vec<StoredFile>,
    refused: &[String],
) -> Result<Outcome, Failure> {
    let nothing = plan.actions.is_empty() && plan.waiting.is_empty();
    if !render::structured(global.output, &serde_json::to_value(plan).unwrap_or_default())? {
        render::diagnostics(&plan.diagnostics, &sent);
        print(plan);
        overrides(&plan.overrides);
        if nothing {
            let of = if refused.is_empty() { "" } else { " for what is accepted" };
            render::line(format_args!("nothing to do{of}"));
        }
    }
    say_notes(&plan.notes, global.quiet);
    refused.iter().for_each(|note| aside!("note: {note}"));
    Ok(match nothing {
        _ if lacks(plan) || !refused.is_empty() => Outcome::Code(2),
        true => Outcome::Done,
        false => Outcome::No,
    })
}

/// Some of it cannot run: this machine has not what it needs (E2xxx).
pub fn lacks(plan: &PlanShape) -> bool {
    plan.diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
}

/// What is in force though the manifests do not say it: it is nothing to do, and may be what keeps something from being done.
pub fn overrides(overrides: &[Override]) {
    if overrides.is_empty() {
        return;
    }
    let head = ["OVERRIDE", "FIELD", "MANIFEST", "NOW", "BY", "AT", "ENDS WITH"];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    lines.extend(overrides.iter().map(|over| {
        let at = over.at.to_string();
        let value = |value: &serde_json::Value| value.to_string();
        let (manifest, now) = (value(&over.manifest), value(&over.value));
        let cells = [&over.unit, &over.field, &manifest, &now, &over.by, &at, &over.ends_with];
        cells.map(|cell| pastable(&render::neutral(cell))).to_vec()
    }));
    render::print(&render::columns(&lines));
}

/// Actions and what is waited for, as tables.
pub fn print(plan: &PlanShape) {
    if !plan.actions.is_empty() {
        let mut lines = vec![["#", "ACTION", "UNIT", "AFTER", "REASON"].map(str::to_owned).to_vec()];
        lines.extend(plan.actions.iter().map(|action| {
            let after: Vec<String> = action.after.iter().map(u32::to_string).collect();
            let after = if after.is_empty() { "-".into() } else { after.join(",") };
            vec![
                action.id.to_string(),
                action.verb.clone(),
                action.unit.clone(),
                after,
                action.reason.clone(),
            ]
        }));
        render::print(&render::columns(&lines));
    }
    if !plan.waiting.is_empty() {
        let mut lines = vec![["WAITING", "FOR"].map(str::to_owned).to_vec()];
        lines.extend(plan.waiting.iter().map(|row| vec![row.unit.clone(), row.on.clone()]));
        render::print(&render::columns(&lines));
    }
    if !plan.others.is_empty() {
        let others = plan.others.join(", ");
        render::line(format_args!(
            "beside it, in other sets: {} (`unisys plan` says what)",
            render::neutral(&others)
        ));
    }
}

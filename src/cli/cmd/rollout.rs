use std::collections::BTreeSet;

use crate::api::types::{Done, PastRollout, RolloutCall, RolloutStatus, RolloutStep};
use crate::base::ObjectKind;

use super::super::args::{Format, Global, Rollout};
use super::super::client::{Client, encoded};
use super::super::{Failure, Outcome, render};

/// `unisys rollout`: status, history, undo, pause, resume, promote.
pub fn run(global: &Global, args: &Rollout) -> Result<Outcome, Failure> {
    render::only(global.output, &[Format::Text, Format::Table, Format::Json, Format::Yaml])?;
    let client = Client::connect(global)?;
    let (name, verb, to_revision) = match args {
        Rollout::Status { name } => return status(global, &client, &name.text()),
        Rollout::History { name } => return history(global, &client, &name.text()),
        Rollout::Undo { name, to_revision } => {
            if let Some((unit, revision)) = name.text().split_once('/')
                && ObjectKind::from_word(unit).is_none()
                && revision.parse::<u64>().is_ok()
            {
                return Err(Failure::usage(
                    format!("`{unit} {revision}` is not KIND NAME"),
                    format!("write `unisys rollout undo {unit} --to-revision {revision}`"),
                ));
            }
            (name, "undo", *to_revision)
        }
        Rollout::Pause { name } => (name, "pause", None),
        Rollout::Resume { name } => (name, "resume", None),
        Rollout::Promote { name } => (name, "promote", None),
    };
    let call = RolloutCall { verb: verb.into(), to_revision };
    let done: Done = client.post(&format!("/v1/rollouts/{}", encoded(&name.text())), &call)?;
    super::say_notes(&done.notes, false);
    super::say_done(global, &done, None)?;
    Ok(Outcome::Done)
}

fn status(global: &Global, client: &Client, name: &str) -> Result<Outcome, Failure> {
    let found: RolloutStatus = client.get(&format!("/v1/rollouts/{}", encoded(name)), &[])?;
    // What has come to its end, and what became of it since.
    let done = |step: &&RolloutStep| step.ready || step.lifecycle == "Done";
    let ready: BTreeSet<u32> = found.steps.iter().filter(done).map(|step| step.instance).collect();
    let lacking = found.replicas.saturating_sub(ready.len() as u32);
    let outcome = match found.rollout.state.as_str() {
        "RollingBack" | "RolledBack" => Outcome::RolledBack,
        "Failed" | "Held" => Outcome::No,
        "Complete" if lacking > 0 => Outcome::No,
        _ => Outcome::Done,
    };
    if render::structured(global.output, &serde_json::to_value(&found).unwrap_or_default())? {
        return Ok(outcome);
    }
    let rollout = &found.rollout;
    let runs = match found.steps.iter().any(|step| step.generation.is_some()) {
        true => format!("revision {} runs", rollout.running_revision),
        false => "nothing of it runs".into(),
    };
    let mut out = format!(
        "{}: revision {} (generation {} to {}); {runs}\n",
        rollout.state, rollout.revision, rollout.from_generation, rollout.to_generation,
    );
    if let Some(message) = &rollout.message {
        let reason = rollout.reason.as_deref().unwrap_or("Failed");
        out.push_str(&format!("{reason}: {}\n", render::neutral(message)));
    }
    if let Some(until) = rollout.on_trial_until {
        out.push_str(&format!(
            "on trial until {until}: if it fails too often, revision {} comes back\n",
            rollout.back_to_revision.unwrap_or_default()
        ));
    }
    for line in &rollout.lines {
        out.push_str(&format!("  | {}\n", render::neutral(line)));
    }
    if matches!(outcome, Outcome::No) && lacking > 0 && rollout.state != "Held" {
        out.push_str(&format!("{} of {} are Ready: `unisys why {name}`\n", ready.len(), found.replicas));
    }
    // What holds it is said already.
    if let Some(waiting) = found.waiting.as_ref().filter(|_| rollout.state != "Held") {
        out.push_str(&format!("waiting for {waiting}\n"));
    }
    let mut rows = vec![
        ["INSTANCE", "ROLE", "GENERATION", "LIFECYCLE", "READY", "AVAILABLE"].map(str::to_owned).to_vec(),
    ];
    rows.extend(found.steps.iter().map(|step| {
        vec![
            step.instance.to_string(),
            step.role.clone(),
            step.generation.map_or_else(|| "-".into(), |generation| generation.to_string()),
            step.lifecycle.clone(),
            step.ready.to_string(),
            step.available.to_string(),
        ]
    }));
    out.push_str(&render::columns(&rows));
    render::print(&out);
    Ok(outcome)
}

fn history(global: &Global, client: &Client, name: &str) -> Result<Outcome, Failure> {
    let found: Vec<PastRollout> = client.get(&format!("/v1/rollouts/{}/history", encoded(name)), &[])?;
    if render::structured(global.output, &serde_json::to_value(&found).unwrap_or_default())? {
        return Ok(Outcome::Done);
    }
    let mut rows = vec![["REVISION", "AT", "OUTCOME", "TOOK", "FILES", "CAUSE"].map(str::to_owned).to_vec()];
    rows.extend(found.iter().map(|PastRollout { record, .. }| {
        let took =
            record.duration_ms.map_or_else(|| "-".into(), |millis| format!("{:.1}s", millis as f64 / 1000.0));
        let why = record.message.as_ref().map_or(String::new(), |message| format!(": {message}"));
        vec![
            record.revision.to_string(),
            record.at.to_string(),
            record.outcome.clone(),
            took,
            if record.files.is_empty() { "-".into() } else { record.files.join(",") },
            render::neutral(&format!("{}{why}", record.cause)),
        ]
    }));
    render::print(&render::columns(&rows));
    let lost: BTreeSet<u64> = found
        .iter()
        .filter(|past| !past.kept && past.record.is_good())
        .map(|past| past.record.revision)
        .collect();
    if !lost.is_empty() && !global.quiet {
        let lost: Vec<String> = lost.iter().map(u64::to_string).collect();
        let note =
            format!("nothing can be undone to what is not kept any more: revision {}", lost.join(", "));
        super::say_notes(&[note], false);
    }
    Ok(Outcome::Done)
}

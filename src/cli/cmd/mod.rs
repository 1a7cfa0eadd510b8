//! One file a verb, or a family of verbs that are one call.

mod apply;
mod changes;
mod config;
mod crashes;
mod daemon;
mod delete;
mod describe;
mod diff;
mod doctor;
mod down;
mod errors;
mod events;
mod exec;
mod explain;
mod get;
mod graph;
mod logs;
mod metrics;
mod order;
mod plan;
mod rollout;
mod schema;
mod submit;
mod up;
mod validate;
mod wait;
mod why;

use serde_json::{Value, json};

use super::args::{Circuit, Cli, Format, Global, Verb};
use super::pasted::pastable;
use super::render::neutral;
use super::{Failure, Outcome};
use crate::api::types::{Done, Waited};
use crate::cli::aside;

/// What a verb prints that says no more than how it went, or that has one form; the others look for themselves.
fn formats(verb: &Verb) -> Option<&'static [Format]> {
    match verb {
        Verb::Schema(_) => Some(&[Format::Json]),
        Verb::Delete(_)
        | Verb::Start(_)
        | Verb::Stop(_)
        | Verb::Restart(_)
        | Verb::Enable(_)
        | Verb::Disable(_)
        | Verb::Scale { .. }
        | Verb::Reload(_)
        | Verb::Circuit(_)
        | Verb::Wait(_) => Some(&[Format::Text, Format::Json, Format::Yaml]),
        Verb::Up(_)
        | Verb::Down(_)
        | Verb::Explain { .. }
        | Verb::Exec { .. }
        | Verb::Upgrade
        | Verb::Metrics
        | Verb::Completions { .. } => Some(&[Format::Text]),
        _ => None,
    }
}

/// What there is to know beside that it was done, on standard error.
fn say_notes(notes: &[String], quiet: bool) {
    for note in notes.iter().filter(|_| !quiet) {
        aside!("note: {}", pastable(&neutral(note)));
    }
}

/// What came of a wait, said where it is not as wanted.
fn came(waited: &Waited) -> Outcome {
    let (lines, outcome) = match (waited.met, waited.rolled_back.is_empty()) {
        (true, _) => return Outcome::Done,
        (false, false) => (&waited.rolled_back, Outcome::RolledBack),
        (false, true) => (&waited.unmet, Outcome::No),
    };
    lines.iter().for_each(|line| aside!("{}", pastable(&neutral(line))));
    outcome
}

/// What was done and, where it was waited for, what came of it: `-o json` of orders and `apply`.
fn done_value(done: &Done, waited: Option<&Waited>) -> Value {
    let mut value = json!({"revision": done.revision, "message": done.message, "notes": done.notes});
    if let Some(waited) = waited {
        value["waited"] = json!({"met": waited.met, "unmet": waited.unmet, "rolledBack": waited.rolled_back});
    }
    value
}

/// Says what was done, in the form that was asked for.
fn say_done(global: &Global, done: &Done, waited: Option<&Waited>) -> Result<(), Failure> {
    let said = super::render::structured(global.output, &done_value(done, waited))?;
    if !said && !global.quiet && waited.is_none_or(|waited| waited.met) {
        super::render::line(&done.message);
    }
    Ok(())
}

/// Runs the verb.
pub fn run(cli: Cli) -> Result<Outcome, Failure> {
    let global = &cli.global;
    super::pasted::given(global, &cli.verb);
    if let Some(formats) = formats(&cli.verb) {
        super::render::only(global.output, formats)?;
    }
    match cli.verb {
        Verb::Up(args) => up::run(global, &args),
        Verb::Down(args) => down::run(global, &args),
        Verb::Apply(args) => apply::run(global, &args),
        Verb::Diff(args) => diff::run(global, &args),
        Verb::Plan(args) => plan::run(global, &args),
        Verb::Delete(args) => delete::run(global, &args),
        Verb::Validate(args) => validate::run(global, &args),
        Verb::Schema(args) => schema::run(&args),
        Verb::Explain { what } => explain::run(&what),
        Verb::Get(args) => get::run(global, &args),
        Verb::Describe(object) => describe::run(global, &object.text()),
        Verb::Why(object) => why::run(global, &object.text()),
        Verb::Config(args) => config::run(global, &args),
        Verb::Events(args) => events::run(global, &args),
        Verb::Changes { id } => changes::run(global, id),
        Verb::Errors { verb } => errors::run(global, verb),
        Verb::Crashes { verb } => crashes::run(global, verb),
        Verb::Logs(args) => logs::run(global, &args),
        Verb::Start(names) => order::run(global, "start", &names.names, &[]),
        Verb::Stop(names) => order::run(global, "stop", &names.names, &[]),
        Verb::Restart(names) => order::run(global, "restart", &names.names, &[]),
        Verb::Enable(names) => order::run(global, "enable", &names.names, &[]),
        Verb::Disable(names) => order::run(global, "disable", &names.names, &[]),
        Verb::Scale { targets } => order::scale(global, &targets),
        Verb::Reload(names) => order::run(global, "reload", &names.names, &[]),
        Verb::Rollout(args) => rollout::run(global, &args),
        Verb::Circuit(Circuit::Reset(names)) => order::run(global, "resetCircuit", &names.names, &[]),
        Verb::Wait(args) => wait::run(global, &args),
        Verb::Exec { name, command } => exec::run(global, &name.text(), &command),
        Verb::Graph => graph::run(global),
        Verb::Doctor => doctor::run(global),
        Verb::Upgrade => daemon::upgrade(global),
        Verb::Metrics => metrics::run(global),
        Verb::Completions { shell } => {
            let mut command = <Cli as clap::CommandFactory>::command();
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command, "unisys", &mut script);
            super::render::print(&String::from_utf8_lossy(&script));
            Ok(Outcome::Done)
        }
        Verb::Daemon(args) => daemon::run(&args),
        Verb::Keeper(args) => daemon::keeper(&args),
    }
}

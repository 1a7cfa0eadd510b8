//! `unisys up`: checks what can be checked first, then becomes the keeper.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::api::types::WaitFor;
use crate::base::{Name, limits, parse_duration};
use crate::engine::{LastUp, Options, Recalled};
use crate::keeper::{self, Keeper};
use crate::manifest::Diagnostic;
use crate::manifest::diagnostic::is_conflict;
use crate::os::inherit;
use crate::os::own;
use crate::os::state_dir::{StateDir, StateDirError};
use crate::os::voice::complain;
use crate::os::{files, snapshot};

use super::super::args::{Global, Up};
use super::super::client::{Client, STATE_DIR};
use super::super::{Failure, Outcome, own_program, render};
use crate::cli::aside;
use crate::cli::attach::{self, Stood};
use crate::cli::home::{Home, Look, manifests_in};

pub fn run(global: &Global, args: &Up) -> Result<Outcome, Failure> {
    let wait = args.wait.as_deref().map(wait_time).transpose()?;
    let options = options(global, args)?;
    if args.detach {
        return detach(global, wait, &options);
    }
    loop {
        let state = StateDir::open(&options.state_dir).map_err(state_failure)?;
        match state.lock(None) {
            Ok(lock) => return keep_with(options, state, lock, None, None),
            Err(locked @ StateDirError::Locked { .. }) => match attach::stand_in(&state, &options)? {
                None => return Err(state_failure(locked)),
                Some(Stood::Over(outcome)) => return Ok(outcome),
                Some(Stood::Left) => {}
            },
            Err(error) => return Err(state_failure(error)),
        }
    }
}

/// Runs the keeper on a state directory. What an earlier one left: see [`keeper::Options`].
pub fn keep(
    options: Options,
    resumed: Option<keeper::Resumed>,
    heir: Option<keeper::Heritage>,
) -> Result<Outcome, Failure> {
    let state = StateDir::open(&options.state_dir).map_err(state_failure)?;
    let (lock, kept) = match resumed {
        Some(resumed) => (resumed.lock, Some(resumed.kept)),
        None => match state.lock(heir.as_ref().map(|heir| heir.of)) {
            Err(StateDirError::Superseded { .. }) => return Ok(Outcome::Done),
            lock => (lock.map_err(state_failure)?, None),
        },
    };
    keep_with(options, state, lock, kept, heir)
}

/// `kept`: what an earlier image of this process left open.
fn keep_with(
    options: Options,
    state: StateDir,
    lock: OwnedFd,
    kept: Option<BTreeMap<String, Vec<i32>>>,
    heir: Option<keeper::Heritage>,
) -> Result<Outcome, Failure> {
    own::reserve_descriptors(limits::DESCRIPTORS_RESERVED);
    settle(&state)?;
    let text = serde_json::to_string(&options).map_err(|error| Failure::other(error.to_string(), ""))?;
    let keeper_options = keeper::Options {
        state,
        lock,
        program: own_program(),
        daemon_arguments: vec!["daemon".into(), "--options".into(), text.clone()],
        kept,
        heir,
        own_arguments: vec!["--options".into(), text],
        nofile: options.nofile,
    };
    let fail = |error: std::io::Error| {
        Failure::other(format!("the keeper cannot go on: {}", files::why(&error)), "")
    };
    match Keeper::new(keeper_options).and_then(Keeper::run).map_err(fail)? {
        0 => Ok(Outcome::Done),
        code => Ok(Outcome::Code(code)),
    }
}

/// Whoever has the lock makes a copy of another system's directory one of its own.
fn settle(state: &StateDir) -> Result<(), Failure> {
    if let Some(of) = state.settle().map_err(state_failure)? {
        complain!(
            "note: {} is a copy of {}: it is a system of its own now, and what runs there is left alone",
            state.root.display(),
            of.display()
        );
    }
    Ok(())
}

fn state_failure(error: StateDirError) -> Failure {
    let hint = match &error {
        StateDirError::Locked { .. } => {
            "use that one (`unisys get`), stop it (`unisys down`), or give --state-dir"
        }
        StateDirError::Owner { .. } | StateDirError::Create { .. } => "give another with --state-dir",
        StateDirError::Untrusted { .. } => {
            "whoever can write it can run code as you: remove it, make it and its parents yours alone, or give another with --state-dir"
        }
        StateDirError::NotDirectory { .. } => "remove it, or give another with --state-dir",
        StateDirError::Removed { .. } => "then try again, or give another with --state-dir",
        StateDirError::Copied { .. } => "remove it, or give another with --state-dir",
        StateDirError::Lock { .. } | StateDirError::Superseded { .. } => "",
    };
    Failure::Conflict { message: error.to_string(), hint: hint.into() }
}

fn options(global: &Global, args: &Up) -> Result<Options, Failure> {
    let home = home(global, args)?;
    let state_dir = match &global.state_dir {
        Some(dir) => dir.clone(),
        None => home.join(STATE_DIR),
    };
    let state_dir = std::path::absolute(state_dir).map_err(|error| Failure::usage(error.to_string(), ""))?;
    let last = LastUp::read(&state_dir);
    let paths = paths(&args.files, &home, last.as_ref().map(|last| last.paths(&state_dir)))?;
    let overlays = args.overlay.iter().map(|path| absolute(path)).collect::<Result<Vec<_>, _>>()?;
    let mut options = Options {
        state_dir,
        paths,
        overlays,
        set: args.set.clone(),
        profile: args.profile.clone(),
        watch: !args.no_watch,
        units: args.units.clone(),
        nofile: (0, 0),
        quiet: global.quiet,
    };
    if let Some(last) = last.filter(|_| !args.plain) {
        recall(&last, &mut options)?;
        if let Some(units) = last.narrower(&options) {
            say(
                options.quiet,
                format_args!("the last `up` here was of {units} alone; this one is of all units"),
            );
        }
    }
    let mut read = options.paths.iter().chain(&options.overlays);
    if let Some(message) = read.find_map(|path| snapshot::distrusted(path)) {
        let hint = "whoever can write the manifests can run code as root; make them writable by root alone";
        return Err(Failure::Conflict { message, hint: hint.into() });
    }
    for word in &args.units {
        let name = word.rsplit('/').next().unwrap_or_default();
        name.parse::<Name>().map_err(|error| Failure::usage(format!("`{word}`: {error}"), ""))?;
    }
    own::few_arenas();
    options.nofile = own::raise_nofile();
    // As if it had been called there.
    std::env::set_current_dir(&home).map_err(|error| {
        Failure::usage(format!("cannot go to {}: {}", home.display(), files::why(&error)), "")
    })?;
    Ok(options)
}

/// The directory of the system that is meant.
fn home(global: &Global, args: &Up) -> Result<PathBuf, Failure> {
    let here = std::env::current_dir().map_err(|error| {
        let message = format!("cannot tell which directory this is: {}", files::why(&error));
        Failure::usage(message, "go to another one")
    })?;
    if global.state_dir.is_some() {
        return Ok(here);
    }
    match Look::around(&here).home(!args.files.is_empty()) {
        Home::Here => Ok(here),
        Home::HereBelow(above) => {
            say(
                global.quiet,
                format_args!("{} has a system of its own; this is another one", above.display()),
            );
            Ok(here)
        }
        Home::Above(above) => {
            say(global.quiet, format_args!("this is the system of {}", above.display()));
            Ok(above)
        }
        Home::Taken(above, keeper) => Err(Failure::Conflict {
            message: format!(
                "cannot begin a system here: that of {} runs (pid {keeper}), and is the one that commands find from here",
                above.display()
            ),
            hint: format!(
                "`unisys apply -f PATH` gives it these files as well; `--state-dir {STATE_DIR}` begins another one here"
            ),
        }),
    }
}

/// What the last `up` was given, and this one was not.
pub fn recall(last: &LastUp, options: &mut Options) -> Result<(), Failure> {
    match last.recall(options) {
        Recalled::Nothing => {}
        Recalled::Left(words) => {
            say(options.quiet, format_args!("the last `up` here was with {words}; this one is not"));
        }
        Recalled::Taken(words) => {
            for path in &options.overlays {
                std::fs::metadata(path).map_err(|error| {
                    let why = files::why(&error);
                    let message =
                        format!("cannot read {}: {why}; the last `up` here was with {words}", path.display());
                    Failure::usage(
                        message,
                        "name other overlays with --overlay PATH, or use none with --plain",
                    )
                })?;
            }
            say(options.quiet, format_args!("with {words}, as the last `up` here (--plain: without)"));
        }
    }
    Ok(())
}

fn say(quiet: bool, words: std::fmt::Arguments<'_>) {
    if !quiet {
        aside!("note: {words}");
    }
}

/// What is named; else what lies where the system is; else what it was of before.
fn paths(given: &[PathBuf], home: &Path, last: Option<Vec<PathBuf>>) -> Result<Vec<PathBuf>, Failure> {
    if !given.is_empty() {
        return given.iter().map(|path| absolute(path)).collect();
    }
    if let Some(path) = manifests_in(home) {
        return Ok(vec![absolute(&path)?]);
    }
    match last.filter(|paths| !paths.is_empty()) {
        Some(paths) => paths.iter().map(|path| absolute(path)).collect(),
        None => Err(Failure::usage(
            "there is neither ./manifests nor ./unisys.yaml",
            "name your manifests with -f PATH",
        )),
    }
}

/// The path with its directory resolved; its last part may be a link that is swapped later.
fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    let fail = |error: std::io::Error| {
        Failure::usage(
            format!("cannot read {}: {}", path.display(), files::why(&error)),
            "name a directory or file with -f PATH",
        )
    };
    if path == Path::new("-") {
        return Err(Failure::usage(
            "`up` does not read standard input: what it runs from is read again whenever it changes",
            "give `up` a file or directory, and hand in the rest with `unisys apply -f -`",
        ));
    }
    std::fs::metadata(path).map_err(fail)?;
    std::path::absolute(path).map_err(fail)
}

/// Starts the keeper in a session of its own and returns once its daemon answers.
fn detach(global: &Global, wait: Option<Duration>, options: &Options) -> Result<Outcome, Failure> {
    let state = StateDir::open(&options.state_dir).map_err(state_failure)?;
    let lock = state.lock(None).map_err(state_failure)?;
    settle(&state)?;
    drop(lock);
    let log_path = state.logs().join("up.log");
    let log = files::fresh_file(&log_path, 0o600).map_err(|error| {
        Failure::other(format!("cannot write {}: {}", log_path.display(), files::why(&error)), "")
    })?;
    let copy = log.try_clone().map_err(|error| Failure::other(error.to_string(), ""))?;
    let mut command = std::process::Command::new(own_program());
    let text = serde_json::to_string(options).map_err(|error| Failure::other(error.to_string(), ""))?;
    command.args(["keeper", "--options", &text]).stdin(std::process::Stdio::null()).stdout(log).stderr(copy);
    let mut child = inherit::detached(&mut command)
        .spawn()
        .map_err(|error| Failure::other(format!("cannot start: {error}"), ""))?;
    let client = loop {
        if let Ok(Some(status)) = child.try_wait() {
            let text = std::fs::read_to_string(&log_path).unwrap_or_default();
            render::to_stderr(&text);
            return Ok(Outcome::Code(status.code().unwrap_or(1) as u8));
        }
        match Client::at(&state.socket()) {
            Ok(client) if client.text("/healthz").is_ok() => break client,
            _ => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    refused(&client)?;
    let unread = super::get::not_accepted(&super::get::sets(&client)?);
    super::say_notes(&[unread, unenforced(&client)?, unstartable(&client)?].concat(), global.quiet);
    if let Some(time) = wait {
        return wait_ready(&client, time, global.quiet);
    }
    if !global.quiet {
        render::line(format_args!("running, pid {}; output in {}", child.id(), log_path.display()));
    }
    Ok(Outcome::Done)
}

/// What this machine does not enforce, which the terminal of `up` would have shown.
fn unenforced(client: &Client) -> Result<Vec<String>, Failure> {
    let system: serde_json::Value = client.get("/v1/system", &[])?;
    Ok(serde_json::from_value(system["status"]["notEnforced"].clone()).unwrap_or_default())
}

/// Units that this machine lacks something for, which the terminal of `up` would have shown.
fn unstartable(client: &Client) -> Result<Vec<String>, Failure> {
    let objects: serde_json::Value = client.get("/v1/objects", &[])?;
    let lacks = |it: &&serde_json::Value| it["reason"] == "CannotStart" && it["status"] == "False";
    let note = |object: &serde_json::Value| {
        let condition = object["status"]["conditions"].as_array()?.iter().find(lacks)?;
        let words = condition["message"].as_str()?;
        let words = words.split_once(": ").map_or(words, |(_, words)| words);
        let (kind, name) = (object["kind"].as_str()?.to_lowercase(), object["metadata"]["name"].as_str()?);
        Some(format!("{kind}/{name} cannot start: {words}"))
    };
    Ok(objects["items"].as_array().into_iter().flatten().filter_map(note).collect())
}

/// The manifests were found bad, and what an earlier `up` accepted runs in their place.
fn refused(client: &Client) -> Result<(), Failure> {
    let sets: serde_json::Value = client.get("/v1/sets", &[])?;
    let pending = |set: &serde_json::Value| -> Vec<Diagnostic> {
        serde_json::from_value(set["status"]["pending"].clone()).unwrap_or_default()
    };
    let mut diagnostics: Vec<Diagnostic> = Vec::new();
    for diagnostic in sets["items"].as_array().into_iter().flatten().flat_map(pending) {
        // What lies in no set is told of each.
        if !diagnostics.contains(&diagnostic) {
            diagnostics.push(diagnostic);
        }
    }
    let errors = diagnostics.iter().filter(|diagnostic| diagnostic.rejects()).count();
    if errors == 0 {
        return Ok(());
    }
    let message = format!(
        "{errors} error{} in the manifests; what was accepted before runs, until they are corrected",
        if errors == 1 { "" } else { "s" }
    );
    let conflict = is_conflict(&diagnostics);
    Err(Failure::Invalid { message, diagnostics, sent: Vec::new(), conflict })
}

/// The time of `--wait`.
pub fn wait_time(text: &str) -> Result<Duration, Failure> {
    parse_duration(text).map_err(|error| Failure::usage(format!("--wait: {error}"), "write --wait=60s"))
}

/// Waits for everything to be Ready.
fn wait_ready(client: &Client, timeout: Duration, quiet: bool) -> Result<Outcome, Failure> {
    let timeout_ms = timeout.as_millis() as u64;
    let ready = WaitFor { names: Vec::new(), what: "condition=Ready".into(), timeout_ms };
    let waited = client.wait(&ready, quiet)?;
    super::say_notes(&waited.notes, quiet);
    Ok(super::came(&waited))
}

//! What a system that does not answer has left in its state directory, for those verbs that look back: logs, events, crashes,
//! errors, changes. Nothing is written, locked or mended here: that is for the next daemon.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::api::faults::{ErrorsQuery, is_of, names};
use crate::api::follow::EventsQuery;
use crate::api::look::links;
use crate::api::types::{Event, Why};
use crate::base::{Name, Stamp};
use crate::engine::foretold::{Foretold, foretell};
use crate::engine::sets::Busy;
use crate::engine::{Options, history};
use crate::faults::Book;
use crate::faults::book::{ErrorRecord, ErrorStats};
use crate::faults::crashes::{self, Crash, CrashDetail};
use crate::keeper::left_running;
use crate::logs::read::{self as logs, Line, Query};
use crate::manifest::LoadInput;
use crate::manifest::diagnostic::nearest;
use crate::os::state_dir::StateDir;
use crate::store::{Left, StoredChange, left, legacy};
use crate::world::{Chronicle, LINKS};

use super::Failure;
use super::args::Global;
use super::client::{Client, STATE_DIR, refused};
use super::keeper::keeper_pid;
use crate::cli::aside;

/// The state directory of a system that does not answer.
pub struct Kept(StateDir);

/// Asks the daemon, or the next one where that ends meanwhile; where none answers, what one has left, which is said.
pub fn ask<T>(
    global: &Global,
    daemon: impl Fn(&Client) -> Result<T, Failure>,
    kept: impl FnOnce(&Kept) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let answer = Client::connect(global).and_then(|client| match daemon(&client) {
        Err(Failure::NoDaemon { .. }) => Client::connect(global).and_then(|client| daemon(&client)),
        answer => answer,
    });
    match answer {
        Err(Failure::NoDaemon { message, hint }) => match Kept::find(global) {
            Some(found) => {
                if !global.quiet {
                    aside!("note: {message}; this is what was kept in {}", found.0.root.display());
                }
                kept(&found)
            }
            None => Err(Failure::NoDaemon { message, hint }),
        },
        answer => answer,
    }
}

/// What a system that has ended told from a time on, as far as it can be read.
pub fn since(global: &Global, at: Stamp) -> Vec<Event> {
    let query = EventsQuery { name: None, since_ms: Some(at.0), until_ms: None, tail: None, after: None };
    Kept::find(global).and_then(|kept| kept.events(&query).ok()).unwrap_or_default()
}

/// What `up` will find that nobody has given yet. What was kept and cannot be read is left out, which is said.
pub fn foretold(options: &Options, given: Option<LoadInput>) -> Foretold {
    let dir = &options.state_dir;
    let kept = Kept::at(dir.clone()).map(|kept| legacy(&kept.0.database()));
    let note = match &kept {
        Some(Ok(_)) => format!(", with what was kept in {}", dir.display()),
        Some(Err(error)) => {
            format!(" if nothing had been kept in {}: that was left out ({error})", dir.display())
        }
        None => String::new(),
    };
    aside!("note: no daemon runs here: this is what `unisys up` would do{note}");
    let (state_id, keeper, processes) = ours();
    let busy = Busy { processes, ..Busy::default() };
    let legacy = kept.and_then(Result::ok).unwrap_or_default();
    foretell(options, given, legacy, (&state_id, keeper, &busy))
}

/// What marks the processes of the system here, its keeper if one is there, and those of them that run without it.
pub fn ours() -> (String, Option<u32>, BTreeSet<u32>) {
    let state = StateDir { root: STATE_DIR.into() };
    let id =
        std::fs::read_to_string(state.root.join("run/id")).ok().filter(|_| state.copied_from().is_none());
    let state_id = id.unwrap_or_else(|| "none".into());
    let left = left_running(&state).into_values().collect();
    (state_id.trim().to_owned(), keeper_pid(&state.socket()), left)
}

impl Kept {
    /// The directory that was named, or the first here and upwards. As with a socket, it has to be the caller's own, or root's.
    fn find(global: &Global) -> Option<Self> {
        let named = global.socket.as_ref().and_then(|socket| socket.parent());
        let named = named.map(PathBuf::from).or_else(|| global.state_dir.clone());
        let root = named.or_else(|| {
            let here = std::env::current_dir().ok()?;
            here.ancestors().map(|dir| dir.join(STATE_DIR)).find(|dir| dir.is_dir())
        })?;
        Self::at(root)
    }

    fn at(root: PathBuf) -> Option<Self> {
        let state = StateDir { root: std::path::absolute(root).ok()? };
        let meta = state.root.symlink_metadata().ok()?;
        let trusted = [0, rustix::process::geteuid().as_raw()].contains(&meta.uid());
        (meta.is_dir() && trusted && state.services_logs().is_dir()).then_some(Self(state))
    }

    /// Lines of a unit, oldest first. `previous`: of the instance before the last one.
    pub fn logs(
        &self,
        name: &str,
        mut query: Query,
        previous: bool,
        take: impl FnMut(Line),
    ) -> Result<(), Failure> {
        let (dir, index) = (self.0.services_logs(), self.0.index());
        let unit = name.rsplit('/').next().unwrap_or(name);
        let known = unit.parse::<Name>().is_ok() && dir.join(format!("{unit}.log")).exists();
        if !known {
            let all = self.logged();
            let hint = match (nearest(unit, all.iter().map(String::as_str)), all.is_empty()) {
                (Some(near), _) => format!("did you mean {near}?"),
                (None, true) => "no unit has written anything".into(),
                (None, false) => format!("these have written something: {}", all.join(", ")),
            };
            return Err(Failure::NotFound { message: format!("no output of {unit} was kept"), hint });
        }
        if previous {
            let before = logs::previous_incarnation(&index, unit, &[], query.ordinal);
            let message = format!("{unit} has no earlier instance that wrote anything");
            query.incarnation = Some(before.ok_or(Failure::NotFound { message, hint: String::new() })?);
        }
        let fail = |error: std::io::Error| {
            let why = crate::os::files::why(&error);
            Failure::other(format!("cannot read the log of {unit}: {why}"), "")
        };
        logs::each(&dir, &index, unit, &query, take).map_err(fail)
    }

    /// Whom there are logs of.
    fn logged(&self) -> Vec<String> {
        let files = std::fs::read_dir(self.0.services_logs()).into_iter().flatten().flatten();
        let mut found: Vec<String> = files
            .filter_map(|file| Some(file.file_name().to_str()?.strip_suffix(".log")?.to_owned()))
            .collect();
        found.sort();
        found
    }

    pub fn events(&self, query: &EventsQuery) -> Result<Vec<Event>, Failure> {
        let all = history::read(&self.0.log());
        if let Some(name) = &query.name
            && !all.iter().any(|record| names(&record.object, name))
        {
            let message = format!("no event of {name} was kept");
            return Err(Failure::NotFound { message, hint: String::new() });
        }
        Ok(query.of(all.iter()))
    }

    /// How what is called by this name came to its last state.
    pub fn why(&self, name: &str) -> Result<Why, Failure> {
        let unit = name.rsplit('/').next().unwrap_or(name);
        let mut chronicle = Chronicle::new(u64::MAX);
        chronicle.recall(history::read(&self.0.log()));
        let last = unit.parse::<Name>().ok().and_then(|unit| chronicle.latest_of_unit(&unit));
        let chain = last.map(|id| chronicle.chain(id, LINKS)).unwrap_or_default();
        let Some(first) = chain.first().filter(|first| names(&first.object, name)) else {
            let message = format!("no event of {name} was kept");
            return Err(Failure::NotFound { message, hint: String::new() });
        };
        // Without a store that can be read, last words are not known.
        let book = self.book().unwrap_or_default();
        let before = chronicle.unwell_before(first, LINKS);
        let subject = first.object.clone();
        let [chain, before] = [&chain, &before].map(|chain| links(chain, &book, |_| Vec::new()));
        Ok(Why { subject, chain, before })
    }

    pub fn crashes(&self, name: Option<&str>) -> Vec<Crash> {
        let mut found = crashes::list(&self.0.crash_dumps());
        found.retain(|crash| name.is_none_or(|name| is_of(crash, name)));
        found
    }

    pub fn crash(&self, id: &str) -> Result<CrashDetail, Failure> {
        crashes::show(&self.0.crash_dumps(), id).ok_or_else(|| no_crash(id))
    }

    /// As a tar archive.
    pub fn export(&self, id: &str) -> Result<Vec<u8>, Failure> {
        crashes::export(&self.0.crash_dumps(), id).map_err(|_| no_crash(id))
    }

    pub fn errors(&self, query: ErrorsQuery) -> Result<Vec<ErrorRecord>, Failure> {
        let query = query.checked().map_err(refused)?;
        Ok(self.book()?.iter().filter(|record| query.wants(record)).cloned().collect())
    }

    pub fn error_stats(&self) -> Result<ErrorStats, Failure> {
        Ok(self.book()?.stats())
    }

    fn book(&self) -> Result<Book, Failure> {
        let records = self.left()?.errors;
        Ok(Book::restore(records.iter().filter_map(|text| serde_json::from_str(text).ok()).collect()))
    }

    /// Changes, newest first; of one when it is given.
    pub fn changes(&self, id: Option<u64>) -> Result<Vec<StoredChange>, Failure> {
        let mut found = self.left()?.changes;
        found.retain(|change| id.is_none_or(|id| id == change.id));
        match id {
            Some(id) if found.is_empty() => Err(Failure::NotFound {
                message: format!("there is no change {id}"),
                hint: "see `unisys changes`".into(),
            }),
            _ => Ok(found),
        }
    }

    fn left(&self) -> Result<Left, Failure> {
        left(&self.0.database()).map_err(|error| {
            Failure::other(error.to_string(), "it is left as it is; `unisys up` mends what can be mended")
        })
    }
}

fn no_crash(id: &str) -> Failure {
    Failure::NotFound { message: format!("there is no crash `{id}`"), hint: "see `unisys crashes`".into() }
}

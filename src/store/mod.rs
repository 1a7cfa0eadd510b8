//! What outlives everything: revisions, changes, unit checkpoints with their overrides, sets. SQLite in a thread of its own,
//! off the restart path: nothing waits for it but the first load and an orderly end.

mod schema;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};

use crate::base::{Epoch, Incarnation, Name, Revision, Stamp, limits};
use crate::os::clock;
use crate::world::{Change, Checkpoint, RolloutRecord};

/// Incarnations are reserved in blocks, so that a start never waits for the disk.
const BLOCK: u64 = 10_000;

/// What earlier daemons left.
#[derive(Debug, Default)]
pub struct Restored {
    pub epoch: Epoch,
    /// Key of the digests of values.
    pub key: Vec<u8>,
    /// The first incarnation that no earlier daemon can have used.
    pub incarnation: Incarnation,
    pub revision: Revision,
    pub last_change: u64,
    pub units: Vec<(Name, Checkpoint)>,
    pub sets: Vec<StoredSet>,
    /// Error records, as they were saved.
    pub errors: Vec<String>,
    /// Something that a person should know: a damaged database was set aside.
    pub warning: Option<String>,
}

/// A set as it was last accepted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredSet {
    pub name: String,
    /// The directory or file that it is read from; none for what was given to `apply`.
    pub path: Option<PathBuf>,
    #[serde(default)]
    pub applied: bool,
    pub overlays: Vec<PathBuf>,
    pub files: Vec<StoredFile>,
    pub overlay_files: Vec<Vec<StoredFile>>,
}

/// A manifest as written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredFile {
    pub path: PathBuf,
    pub text: String,
}

/// A change as `changes` shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StoredChange {
    pub id: u64,
    pub at: Stamp,
    pub cause: StoredCause,
    pub revision: u64,
    pub actions: Vec<StoredAction>,
    /// `Active`, `Complete`, `Superseded`.
    pub outcome: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StoredCause {
    pub kind: String,
    pub detail: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StoredAction {
    pub verb: String,
    pub unit: String,
    pub reason: String,
}

impl From<&Change> for StoredChange {
    fn from(change: &Change) -> Self {
        let action = |action: &crate::world::chronicle::ChangeAction| StoredAction {
            verb: action.verb.as_str().into(),
            unit: action.unit.to_string(),
            reason: action.reason.clone(),
        };
        Self {
            id: change.id,
            at: change.at,
            cause: StoredCause { kind: change.cause.kind.clone(), detail: change.cause.detail.clone() },
            revision: change.revision.0,
            actions: change.actions.iter().map(action).collect(),
            outcome: change.outcome.as_str().into(),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot open {path}: {source}")]
    Open { path: PathBuf, source: rusqlite::Error },
    #[error(
        "{path} was written by a newer unisys (format {found}, this one knows {known}); use that version, or move the file away"
    )]
    Newer { path: PathBuf, found: i64, known: i64 },
}

enum Command {
    SaveUnits(Vec<(Name, Box<Checkpoint>)>),
    DropUnit(Name),
    SaveChange(Box<StoredChange>),
    Accept { revision: Revision, cause: String, at: Stamp, sets: Vec<StoredSet> },
    SaveErrors { bodies: Vec<(u64, String)>, dropped: Vec<u64> },
    Reserve(Incarnation),
    Epoch(Epoch),
    Changes(usize, Sender<Vec<StoredChange>>),
    SaveRollout(Name, Box<RolloutRecord>),
    Rollouts(Name, Sender<Vec<RolloutRecord>>),
    Revision(Revision, Sender<Option<Vec<StoredSet>>>),
    Flush(Sender<()>),
}

/// A handle of the thread. It hears what it is told with the next [`Store::hand_over`] or question.
pub struct Store {
    commands: Sender<Vec<Command>>,
    /// Not handed over yet.
    waiting: RefCell<Vec<Command>>,
    reserved: Incarnation,
    thread: Option<JoinHandle<()>>,
}

impl Store {
    /// Opens or creates the database and reads what is there. A damaged file is set aside, never deleted.
    ///
    /// # Errors
    /// The file was written by a newer unisys, or nothing can be created there.
    pub fn open(path: &Path) -> Result<(Self, Restored), StoreError> {
        let fail = |source| StoreError::Open { path: path.to_owned(), source };
        let reserved = |restored: &Restored| Incarnation(restored.incarnation.0 + BLOCK);
        // The first write is part of it: some damage shows only then.
        let take = |connection: &Connection| {
            let restored = load(connection)?;
            set_meta(connection, "incarnation", reserved(&restored).0)?;
            Ok(restored)
        };
        let (connection, mut restored, warning) = schema::open(path, take)?;
        restored.warning = warning;
        let reserved = reserved(&restored);
        let (commands, queue) = channel();
        let thread = thread::Builder::new()
            .name("store".into())
            .stack_size(256 << 10)
            .spawn(move || serve(connection, &queue))
            .map_err(|error| fail(rusqlite::Error::ToSqlConversionFailure(error.into())))?;
        Ok((Self { commands, waiting: RefCell::default(), reserved, thread: Some(thread) }, restored))
    }

    fn keep(&self, command: Command) {
        self.waiting.borrow_mut().push(command);
    }

    /// Gives the thread what it was told since the last time: once for all that a turn had to say.
    pub fn hand_over(&self) {
        let waiting = self.waiting.take();
        if !waiting.is_empty() {
            let _ = self.commands.send(waiting);
        }
    }

    /// The same with one that is not put off; a question is answered after everything that was told before it.
    fn ask(&self, command: Command) {
        self.keep(command);
        self.hand_over();
    }

    /// The daemon's epoch, told once it is known.
    pub fn begin(&self, epoch: Epoch) {
        self.ask(Command::Epoch(epoch));
    }

    /// All of them are saved, or none.
    pub fn save_units(&self, units: Vec<(Name, Box<Checkpoint>)>) {
        self.keep(Command::SaveUnits(units));
    }

    pub fn drop_unit(&self, name: Name) {
        self.keep(Command::DropUnit(name));
    }

    pub fn save_change(&self, change: &Change) {
        self.keep(Command::SaveChange(Box::new(change.into())));
    }

    pub fn accept(&self, revision: Revision, cause: String, sets: Vec<StoredSet>) {
        self.keep(Command::Accept { revision, cause, at: clock::wall(), sets });
    }

    /// Error records by id, and ids that made room.
    pub fn save_errors(&self, bodies: Vec<(u64, String)>, dropped: Vec<u64>) {
        self.keep(Command::SaveErrors { bodies, dropped });
    }

    /// Keeps the reservation ahead of what is used.
    pub fn used(&mut self, next: Incarnation) {
        if next.0 + BLOCK / 2 > self.reserved.0 {
            self.reserved = Incarnation(next.0 + BLOCK);
            self.keep(Command::Reserve(self.reserved));
        }
    }

    pub fn save_rollout(&self, name: Name, rollout: Box<RolloutRecord>) {
        self.keep(Command::SaveRollout(name, rollout));
    }

    /// The rollouts of a unit, oldest first. Waits for the thread.
    pub fn rollouts(&self, name: &Name) -> Vec<RolloutRecord> {
        let (answer, receive) = channel();
        self.ask(Command::Rollouts(name.clone(), answer));
        receive.recv().unwrap_or_default()
    }

    /// The sets of a kept revision, with their manifests as written. Waits for the thread.
    pub fn revision(&self, revision: Revision) -> Option<Vec<StoredSet>> {
        let (answer, receive) = channel();
        self.ask(Command::Revision(revision, answer));
        receive.recv().ok().flatten()
    }

    /// The latest changes, newest first. Waits for the thread.
    pub fn changes(&self, limit: usize) -> Vec<StoredChange> {
        let (answer, receive) = channel();
        self.ask(Command::Changes(limit, answer));
        receive.recv().unwrap_or_default()
    }

    /// Everything said so far is on the disk.
    pub fn flush(&self) {
        let (answer, receive) = channel();
        self.ask(Command::Flush(answer));
        let _ = receive.recv();
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.flush();
        let (closed, _) = channel();
        self.commands = closed;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(mut connection: Connection, queue: &Receiver<Vec<Command>>) {
    // One transaction for everything that is waiting: a thousand starts are a few commits.
    while let Ok(mut batch) = queue.recv() {
        batch.extend(queue.try_iter().take(255).flatten());
        let mut answers: Vec<Box<dyn FnOnce()>> = Vec::new();
        let result = connection.transaction().and_then(|transaction| {
            for command in batch {
                apply(&transaction, command, &mut answers)?;
            }
            transaction.commit()
        });
        if let Err(error) = result {
            tracing::error!(%error, "cannot write state.db; what was to be remembered is lost");
        }
        for answer in answers {
            answer();
        }
    }
}

fn apply(
    connection: &Connection,
    command: Command,
    answers: &mut Vec<Box<dyn FnOnce()>>,
) -> rusqlite::Result<()> {
    match command {
        Command::SaveUnits(units) => {
            for (name, checkpoint) in units {
                let text = serde_json::to_string(&checkpoint).unwrap_or_default();
                connection
                    .prepare_cached("INSERT INTO unit (name, checkpoint) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET checkpoint = ?2")?
                    .execute(params![name.as_str(), text])?;
            }
        }
        Command::DropUnit(name) => {
            connection.execute("DELETE FROM unit WHERE name = ?1", [name.as_str()])?;
        }
        Command::SaveChange(change) => {
            let text = serde_json::to_string(&change).unwrap_or_default();
            connection
                .prepare_cached(
                    "INSERT INTO change (id, body) VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET body = ?2",
                )?
                .execute(params![change.id as i64, text])?;
            connection
                .prepare_cached("DELETE FROM change WHERE id <= ?1")?
                .execute([change.id as i64 - limits::CHANGES_KEPT as i64])?;
        }
        Command::Accept { revision, cause, at, sets } => {
            let text = serde_json::to_string(&sets).unwrap_or_default();
            connection.execute(
                "INSERT OR REPLACE INTO revision (id, at, cause, sets) VALUES (?1, ?2, ?3, ?4)",
                params![revision.0 as i64, at.to_string(), cause, text],
            )?;
            forget_revisions(connection, revision)?;
        }
        Command::SaveErrors { bodies, dropped } => {
            let mut save = connection.prepare_cached(
                "INSERT INTO error (id, body) VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET body = ?2",
            )?;
            for (id, body) in bodies {
                save.execute(params![id as i64, body])?;
            }
            for id in dropped {
                connection.execute("DELETE FROM error WHERE id = ?1", [id as i64])?;
            }
        }
        Command::Epoch(epoch) => set_meta(connection, "epoch", epoch.0)?,
        Command::Reserve(number) => set_meta(connection, "incarnation", number.0)?,
        Command::Changes(limit, answer) => {
            let mut statement =
                connection.prepare_cached("SELECT body FROM change ORDER BY id DESC LIMIT ?1")?;
            let rows = statement.query_map([limit as i64], |row| row.get::<_, String>(0))?;
            let found: Vec<StoredChange> =
                rows.filter_map(|text| serde_json::from_str(&text.ok()?).ok()).collect();
            answers.push(Box::new(move || {
                let _ = answer.send(found);
            }));
        }
        Command::SaveRollout(name, rollout) => {
            let text = serde_json::to_string(&rollout).unwrap_or_default();
            connection
                .prepare_cached("INSERT INTO rollout (unit, at, body) VALUES (?1, ?2, ?3) ON CONFLICT (unit, at) DO UPDATE SET body = ?3")?
                .execute(params![name.as_str(), rollout.at.0, text])?;
            connection
                .prepare_cached("DELETE FROM rollout WHERE unit = ?1 AND at NOT IN (SELECT at FROM rollout WHERE unit = ?1 ORDER BY at DESC LIMIT ?2)")?
                .execute(params![name.as_str(), limits::ROLLOUTS_KEPT as i64])?;
        }
        Command::Rollouts(name, answer) => {
            let mut statement =
                connection.prepare_cached("SELECT body FROM rollout WHERE unit = ?1 ORDER BY at")?;
            let rows = statement.query_map([name.as_str()], |row| row.get::<_, String>(0))?;
            let found: Vec<RolloutRecord> =
                rows.filter_map(|text| serde_json::from_str(&text.ok()?).ok()).collect();
            answers.push(Box::new(move || drop(answer.send(found))));
        }
        Command::Revision(revision, answer) => {
            let mut statement = connection.prepare_cached("SELECT sets FROM revision WHERE id = ?1")?;
            let mut rows = statement.query_map([revision.0 as i64], |row| row.get::<_, String>(0))?;
            let found = rows.next().and_then(|text| serde_json::from_str(&text.ok()?).ok());
            answers.push(Box::new(move || drop(answer.send(found))));
        }
        Command::Flush(answer) => answers.push(Box::new(move || {
            let _ = answer.send(());
        })),
    }
    Ok(())
}

fn set_meta(connection: &Connection, name: &str, value: u64) -> rusqlite::Result<()> {
    connection.execute(
        "INSERT OR REPLACE INTO meta (name, value) VALUES (?1, ?2)",
        params![name, value.to_string()],
    )?;
    Ok(())
}

fn load(connection: &Connection) -> rusqlite::Result<Restored> {
    let mut statement = connection.prepare("SELECT name, value FROM meta")?;
    let meta: BTreeMap<String, String> =
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<rusqlite::Result<_>>()?;
    let number = |name: &str| meta.get(name).and_then(|text| text.parse::<u64>().ok());
    let key = match meta.get("key").and_then(|text| unhex(text)) {
        Some(key) => key,
        None => {
            let key = clock::random::<32>();
            let text: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
            connection.execute("INSERT OR REPLACE INTO meta (name, value) VALUES ('key', ?1)", [text])?;
            key.to_vec()
        }
    };
    let mut statement = connection.prepare("SELECT name, checkpoint FROM unit")?;
    let units = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
    let units = units
        .filter_map(|row| {
            let (name, text) = row.ok()?;
            Some((name.parse().ok()?, serde_json::from_str(&text).ok()?))
        })
        .collect();
    let latest = connection.query_row("SELECT id, sets FROM revision ORDER BY id DESC LIMIT 1", [], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?))
    });
    let (revision, sets) = match latest {
        Ok((id, sets)) => (Revision(id as u64), serde_json::from_str(&sets).unwrap_or_default()),
        Err(rusqlite::Error::QueryReturnedNoRows) => (Revision(0), Vec::new()),
        Err(error) => return Err(error),
    };
    let mut statement = connection.prepare("SELECT body FROM error ORDER BY id")?;
    let errors = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    let last_change: i64 =
        connection.query_row("SELECT COALESCE(MAX(id), 0) FROM change", [], |row| row.get(0))?;
    Ok(Restored {
        epoch: Epoch(number("epoch").unwrap_or(0)),
        key,
        incarnation: Incarnation(number("incarnation").unwrap_or(1)),
        revision,
        last_change: last_change as u64,
        units,
        sets,
        errors,
        warning: None,
    })
}

/// Forgets the revisions that are older than those that are kept, but for those that a unit runs in place of the declared one, or
/// may have to go back to: a rollback or an `undo` stands for as long as it takes, and the next daemon may have to read its
/// manifests.
fn forget_revisions(connection: &Connection, latest: Revision) -> rusqlite::Result<()> {
    let oldest = latest.0 as i64 - limits::REVISIONS_KEPT as i64;
    let mut statement = connection.prepare_cached("SELECT id FROM revision WHERE id <= ?1")?;
    let outdated: Vec<i64> =
        statement.query_map([oldest], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    if outdated.is_empty() {
        return Ok(());
    }
    let mut statement = connection.prepare_cached("SELECT checkpoint FROM unit")?;
    let (rolling, now) = (BTreeSet::new(), clock::mono());
    let needed: BTreeSet<i64> = statement
        .query_map([], |row| row.get::<_, String>(0))?
        .filter_map(|text| serde_json::from_str::<Checkpoint>(&text.ok()?).ok()?.kept_revision(&rolling, now))
        .map(|revision| revision.0 as i64)
        .collect();
    for id in outdated.into_iter().filter(|id| !needed.contains(id)) {
        connection.execute("DELETE FROM revision WHERE id = ?1", [id])?;
    }
    Ok(())
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = |index: usize| u8::from_str_radix(text.get(index..index + 2)?, 16).ok();
    (text.len() == 64).then(|| (0..32).map(|index| digits(index * 2)).collect::<Option<Vec<u8>>>())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Generation;
    use crate::world::Known;

    #[test]
    fn what_was_saved_is_there_again_and_incarnations_are_never_reused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        let (store, first) = Store::open(&path).unwrap();
        let checkpoint = Checkpoint { attempt: 3, ..Checkpoint::default() };
        store.save_units(vec![("api".parse().unwrap(), Box::new(checkpoint.clone()))]);
        store.begin(Epoch(7));
        let set = StoredSet {
            name: "m".into(),
            path: None,
            applied: true,
            overlays: vec![],
            files: vec![StoredFile { path: "/a.yaml".into(), text: "kind: Service".into() }],
            overlay_files: vec![],
        };
        store.accept(Revision(4), "test".into(), vec![set.clone()]);
        drop(store);
        let (_store, second) = Store::open(&path).unwrap();
        assert_eq!(second.units, [("api".parse().unwrap(), checkpoint)]);
        assert_eq!((second.epoch, second.revision, second.sets), (Epoch(7), Revision(4), vec![set]));
        assert_eq!(second.key, first.key);
        assert!(second.incarnation > first.incarnation);
    }

    /// A database with something of everything.
    fn whole(path: &Path) -> Vec<u8> {
        let (store, _) = Store::open(path).unwrap();
        for index in 0..40 {
            store.save_units(vec![(format!("u{index}").parse().unwrap(), Box::default())]);
        }
        store.accept(Revision(1), "test".into(), Vec::new());
        drop(store);
        std::fs::read(path).unwrap()
    }

    /// It opens whatever its bytes are, says so when it had to be set aside, and can be written to.
    fn opens(path: &Path, bytes: &[u8], what: &str) {
        for suffix in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{suffix}", path.display()));
        }
        std::fs::write(path, bytes).unwrap();
        match Store::open(path) {
            Ok((store, _)) => store.flush(),
            // The byte that is damaged may be the version itself: a newer one is never touched.
            Err(StoreError::Newer { .. }) => {}
            Err(error) => panic!("{what}: {error}"),
        }
    }

    /// `FAULTS=1000` looks at every byte; else at some of them, page boundaries among them.
    fn places(length: usize) -> impl Iterator<Item = usize> {
        let every = std::env::var("FAULTS").is_ok();
        (0..length).filter(move |at| every || at % 509 == 0 || at % 4096 < 2 || *at < 110)
    }

    #[test]
    fn a_database_that_is_cut_off_anywhere_opens() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        let bytes = whole(&path);
        for cut in places(bytes.len()) {
            opens(&path, &bytes[..cut], &format!("cut at {cut} of {}", bytes.len()));
        }
    }

    #[test]
    fn a_database_with_any_byte_turned_over_opens() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        let bytes = whole(&path);
        for at in places(bytes.len()) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0xff;
            opens(&path, &damaged, &format!("byte {at} of {}", bytes.len()));
        }
    }

    #[test]
    fn a_revision_that_a_standing_override_needs_outlives_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(&dir.path().join("state.db")).unwrap();
        let name: Name = "api".parse().unwrap();
        let known =
            |digest: &str| Known { generation: Generation(1), revision: Revision(1), digest: digest.into() };
        let rolled_back =
            Checkpoint { digest: "bad".into(), good: Some(known("good")), ..Checkpoint::default() };
        store.save_units(vec![(name.clone(), Box::new(rolled_back))]);
        let last = 2 * limits::REVISIONS_KEPT as u64;
        for revision in 1..=last {
            store.accept(Revision(revision), "test".into(), Vec::new());
        }
        let kept = |revision| store.revision(Revision(revision)).is_some();
        assert!(kept(1) && !kept(2) && kept(last));
        let mended = Checkpoint { digest: "good".into(), good: Some(known("good")), ..Checkpoint::default() };
        store.save_units(vec![(name, Box::new(mended))]);
        store.accept(Revision(last + 1), "test".into(), Vec::new());
        assert!(!kept(1));
    }

    #[test]
    fn a_damaged_database_is_set_aside_and_a_newer_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        std::fs::write(&path, b"this is no database, whatever it says, and long enough to be looked at")
            .unwrap();
        let (store, restored) = Store::open(&path).unwrap();
        assert!(restored.warning.unwrap().contains("set aside"));
        drop(store);
        let connection = Connection::open(&path).unwrap();
        connection.pragma_update(None, "user_version", 99).unwrap();
        drop(connection);
        assert!(matches!(Store::open(&path), Err(StoreError::Newer { found: 99, .. })));
    }
}

//! What outlives everything: revisions, changes, unit checkpoints with their overrides, sets. SQLite in a thread of its own,
//! off the restart path: nothing waits for it but the first load and an orderly end.

mod left;
mod pending;
mod rows;
mod schema;
mod spare;
mod stored;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::base::{Epoch, Incarnation, Name, Revision};
use crate::os::clock;
use crate::world::{Change, Checkpoint, RolloutRecord};

use pending::{Accepted, Pending};
use rows::{FIRST, INCARNATION, answer, is_full, load, set_meta, write};
use spare::Spare;

pub use left::{Left, Legacy, left, legacy};
pub use stored::{StoredAction, StoredCause, StoredChange, StoredFile, StoredSet};

/// A disk that could not be written to is tried again after this long.
const AGAIN: Duration = Duration::from_secs(1);
/// Before a commit, and between two, unless somebody waits: in a storm each holds what a few crashes left, not one; and what
/// is told of a restart is not written while the program starts.
const BREATH: Duration = Duration::from_millis(5);
/// Incarnations are reserved in blocks, so that a start never waits for the disk.
const BLOCK: u64 = 10_000;

/// What earlier daemons left.
#[derive(Debug, Default)]
pub struct Restored {
    pub epoch: Epoch,
    /// Key of the digests of values.
    pub key: Vec<u8>,
    /// The boot of the last daemon ([`clock::boot`]), if its container is this one.
    pub boot: Option<u64>,
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
    /// The same of some units alone.
    partly: Option<String>,
    /// There was no database that could be read, but a copy of what is needed most.
    spare: Option<spare::Contents>,
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

/// Told when nothing can be written: why; and when it is again. False: nobody took it.
pub type Tell = Box<dyn Fn(Option<String>) -> bool + Send>;

/// A question is answered by the thread, from what is written and what is about to be.
enum Question {
    Changes(usize, Sender<Vec<StoredChange>>),
    Rollouts(Name, Sender<Vec<RolloutRecord>>),
    Revision(Revision, Sender<Option<Vec<StoredSet>>>),
    /// Which revisions are kept.
    Kept(Sender<BTreeSet<Revision>>),
    Flush(Sender<()>),
    /// Whether everything said so far could be written; if not, why. One that is patient hurries no commit.
    Recorded {
        answer: tokio::sync::mpsc::Sender<Option<String>>,
        patient: bool,
    },
}

impl Question {
    fn is_patient(&self) -> bool {
        matches!(self, Self::Recorded { patient: true, .. })
    }
}

/// What the engine and the thread share. The lock is held for as long as it takes to put something into a map.
#[derive(Default)]
struct Desk {
    pending: Pending,
    questions: Vec<Question>,
    closing: bool,
    /// What is waiting has been tried since.
    last_try: bool,
}

impl Desk {
    /// There is a question that is answered now, whatever waits to be written.
    fn is_asked(&self) -> bool {
        match self.pending.is_empty() {
            true => !self.questions.is_empty(),
            false => self.questions.iter().any(|question| !question.is_patient()),
        }
    }
}

#[derive(Default)]
struct Shared {
    desk: Mutex<Desk>,
    wake: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, put: impl FnOnce(&mut Desk)) {
        let mut desk = self.lock();
        let idle = desk.pending.is_empty() && desk.questions.is_empty();
        put(&mut desk);
        // A thread that has something to do looks again by itself.
        if idle || !desk.questions.is_empty() || desk.closing {
            self.wake.notify_one();
        }
    }
}

/// A handle of the thread.
pub struct Store {
    shared: Arc<Shared>,
    reserved: Incarnation,
    /// The latest change of a former daemon.
    former: u64,
    thread: Option<JoinHandle<()>>,
}

impl Store {
    /// Opens or creates the database and reads what is there. A damaged file is set aside, never deleted. A disk that is full
    /// keeps nobody from reading: what is to be written waits until it can be, and `tell` hears of it.
    ///
    /// # Errors
    /// The file was written by a newer unisys, or nothing can be created there.
    pub fn open(path: &Path, tell: Tell) -> Result<(Self, Restored), StoreError> {
        let fail = |source| StoreError::Open { path: path.to_owned(), source };
        let reserved = |restored: &Restored| Incarnation(restored.incarnation.0 + BLOCK);
        let unreserved = Cell::new(false);
        // The first write is part of it: some damage shows only then.
        let take = |connection: &Connection| {
            let restored = load(connection, || spare::Contents::read(path))?;
            match set_meta(connection, INCARNATION, reserved(&restored).0) {
                // Those of this block are still unused: the next daemon asks its keeper, which knows the highest.
                Err(error) if is_full(&error) => unreserved.set(true),
                other => other?,
            }
            Ok(restored)
        };
        let emptied = path.metadata().is_ok_and(|found| found.len() == 0);
        let (connection, mut restored, warning) = schema::open(path, take)?;
        // One that was only just created when its daemon was killed is empty as well; there is no copy then.
        let emptied = emptied && restored.spare.is_some();
        restored.warning = warning.or_else(|| emptied.then(|| format!("{} was emptied", path.display())));
        let reserved = reserved(&restored);
        let shared = Arc::new(Shared::default());
        if unreserved.get() {
            shared.lock().pending.meta.insert(INCARNATION, reserved.0);
        }
        let desk = shared.clone();
        let spare = Spare::new(path, &restored.units);
        let thread = thread::Builder::new()
            .name("store".into())
            .stack_size(256 << 10)
            .spawn(move || serve(connection, &desk, spare, &tell))
            .map_err(|error| fail(rusqlite::Error::ToSqlConversionFailure(error.into())))?;
        let former = restored.last_change;
        Ok((Self { shared, reserved, former, thread: Some(thread) }, restored))
    }

    /// What the copy tells is taken up, and written: the database was lost, or the keeper `holds` instances that it should know
    /// of. Who removed it while nothing ran wants to begin anew, and is told what that means.
    pub fn recover(&self, restored: &mut Restored, holds: bool) {
        let spare = restored.spare.take();
        if let (Some(spare), false, None) = (&spare, holds, &restored.warning) {
            restored.warning = Some(spare.forgotten());
            return;
        }
        let known = spare.is_some();
        if let Some(spare) = spare {
            (restored.revision, restored.sets) = (spare.revision, spare.sets());
            let earlier: Vec<_> = spare.earlier().collect();
            restored.units = spare.units.into_iter().collect();
            let units = restored.units.iter().cloned();
            self.save_units(units.map(|(name, checkpoint)| (name, Box::new(checkpoint))).collect());
            for (revision, sets) in earlier {
                self.accept(revision, "known from a copy".into(), sets);
            }
            restored.warning.get_or_insert_with(|| "state.db is missing, though services run".into());
        }
        if let Some(lost) = &mut restored.warning {
            lost.push_str(match known {
                true => "; sets, orders (stop, disable, scale, pause, undo), rollbacks and Jobs that have run are known from a copy",
                false => "; sets that were given to `apply`, orders (stop, disable, scale, pause, undo), rollbacks (what was found bad is tried again) and what Jobs have run are lost",
            });
            lost.push_str("; other revisions, changes, errors, circuits and what a rollout that was under way or on trial could go back to are lost");
        }
        if restored.warning.is_none() {
            restored.warning = restored.partly.take();
        }
    }

    fn write(&self, put: impl FnOnce(&mut Pending)) {
        self.shared.put(|desk| put(&mut desk.pending));
    }

    fn ask<T: Default>(&self, question: impl FnOnce(Sender<T>) -> Question) -> T {
        let (answer, receive) = channel();
        // Nobody answers any more once it is closed.
        if self.thread.is_some() {
            self.shared.put(|desk| desk.questions.push(question(answer)));
        } else {
            drop(answer);
        }
        receive.recv().unwrap_or_default()
    }

    /// The daemon's epoch, told once it is known, and the boot that it is of.
    pub fn begin(&self, epoch: Epoch) {
        self.write(|pending| {
            pending.meta.extend([("epoch", epoch.0), ("boot", clock::boot()), (FIRST, clock::first())])
        });
    }

    /// All of them are saved, or none.
    pub fn save_units(&self, units: Vec<(Name, Box<Checkpoint>)>) {
        let units = units.into_iter().map(|(name, checkpoint)| (name, Some(checkpoint)));
        self.write(|pending| pending.units.extend(units));
    }

    pub fn drop_unit(&self, name: Name) {
        self.write(|pending| drop(pending.units.insert(name, None)));
    }

    pub fn save_change(&self, change: &Change) {
        let change = Box::new(change.into());
        self.write(|pending| pending.change(change));
    }

    pub fn accept(&self, revision: Revision, cause: String, sets: Vec<StoredSet>) {
        let accepted = Accepted { cause, at: clock::wall(), sets };
        self.write(|pending| pending.accept(revision, accepted));
    }

    /// Error records by id, and ids that made room.
    pub fn save_errors(&self, bodies: Vec<(u64, String)>, dropped: Vec<u64>) {
        self.write(|pending| {
            bodies.into_iter().for_each(|(id, body)| pending.error(id, Some(body)));
            dropped.into_iter().for_each(|id| pending.error(id, None));
        });
    }

    /// Keeps the reservation ahead of what is used.
    pub fn used(&mut self, next: Incarnation) {
        if next.0 + BLOCK / 2 > self.reserved.0 {
            self.reserved = Incarnation(next.0 + BLOCK);
            let reserved = self.reserved.0;
            self.write(|pending| _ = pending.meta.insert(INCARNATION, reserved));
        }
    }

    pub fn save_rollout(&self, name: Name, rollout: Box<RolloutRecord>) {
        self.write(|pending| pending.rollout((name, rollout.at.0), rollout));
    }

    /// The rollouts of a unit, oldest first. Waits for the thread.
    pub fn rollouts(&self, name: &Name) -> Vec<RolloutRecord> {
        self.ask(|answer| Question::Rollouts(name.clone(), answer))
    }

    /// The sets of a kept revision, with their manifests as written. Waits for the thread.
    pub fn revision(&self, revision: Revision) -> Option<Vec<StoredSet>> {
        self.ask(|answer| Question::Revision(revision, answer))
    }

    /// The revisions that are kept. Waits for the thread.
    pub fn kept_revisions(&self) -> BTreeSet<Revision> {
        self.ask(Question::Kept)
    }

    /// The latest changes, newest first. Waits for the thread.
    pub fn changes(&self, limit: usize) -> Vec<StoredChange> {
        let mut found = self.ask(|answer| Question::Changes(limit, answer));
        // What a former daemon had not done is done by this one, as a change of its own.
        let left = |change: &&mut StoredChange| change.id <= self.former && change.outcome == "Active";
        found.iter_mut().filter(left).for_each(StoredChange::interrupt);
        found
    }

    /// Everything said so far is on the disk, or has been tried to be.
    pub fn flush(&self) {
        self.ask(Question::Flush);
    }

    /// Gives `None` once everything said so far is on the disk; or why it cannot be written now. Nobody waits here.
    pub fn recorded(&self) -> tokio::sync::mpsc::Receiver<Option<String>> {
        self.ask_recorded(false)
    }

    /// The same, but what waits is written when it would have been.
    pub fn recorded_in_passing(&self) -> tokio::sync::mpsc::Receiver<Option<String>> {
        self.ask_recorded(true)
    }

    fn ask_recorded(&self, patient: bool) -> tokio::sync::mpsc::Receiver<Option<String>> {
        let (answer, receive) = tokio::sync::mpsc::channel(1);
        self.shared.put(|desk| desk.questions.push(Question::Recorded { answer, patient }));
        receive
    }

    /// Writes what is left and lets the database go, for another daemon to open.
    pub fn close(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        // What is waiting is tried once more.
        self.shared.put(|desk| desk.closing = true);
        let _ = thread.join();
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.close();
    }
}

/// Takes what there is to do; waits for it. Nothing is written before `not_before`, but for somebody who waits.
fn take(shared: &Shared, mut not_before: Option<Instant>) -> Option<(Pending, Vec<Question>)> {
    let mut desk = shared.lock();
    loop {
        let left = not_before.map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()));
        let due = !desk.pending.is_empty() && (left.is_zero() || (desk.closing && !desk.last_try));
        if desk.is_asked() || due {
            desk.last_try = desk.closing;
            return Some((std::mem::take(&mut desk.pending), std::mem::take(&mut desk.questions)));
        }
        if desk.closing && (desk.pending.is_empty() || desk.last_try) {
            return None;
        }
        if desk.pending.is_empty() {
            desk = shared.wake.wait(desk).unwrap_or_else(PoisonError::into_inner);
            not_before = not_before.max(Some(Instant::now() + BREATH));
        } else {
            desk = shared.wake.wait_timeout(desk, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// One transaction for everything that is waiting: a thousand starts are a few commits. What cannot be written goes back, and is
/// tried again.
fn serve(mut connection: Connection, shared: &Shared, mut spare: Spare, tell: &Tell) {
    let mut not_before = None;
    // What was last told: that it fails, or nothing yet.
    let mut told = false;
    let mut kept = None;
    while let Some((pending, questions)) = take(shared, not_before) {
        let (mut answers, written) = (Vec::new(), !pending.is_empty());
        let result = connection.transaction().and_then(|transaction| {
            write(&transaction, &pending, &mut kept)?;
            for question in &questions {
                answers.push(answer(&transaction, question)?);
            }
            transaction.commit()
        });
        match &result {
            Ok(()) => spare.written(&pending),
            Err(error) => {
                tracing::error!(%error, "cannot write state.db; it is tried again");
                kept = None;
                shared.lock().pending.put_back(pending);
            }
        }
        // What is written stays true for those who ask, whatever could not be.
        for question in questions.iter().skip(answers.len()) {
            answers.extend(answer(&connection, question));
        }
        for question in &questions {
            if let Question::Recorded { answer, .. } = question {
                let _ = answer.try_send(result.as_ref().err().map(ToString::to_string));
            }
        }
        not_before = Some(Instant::now() + if result.is_ok() { BREATH } else { AGAIN });
        match result {
            Err(error) if !told => told = tell(Some(error.to_string())),
            Ok(()) if told && written => told = !tell(None),
            _ => {}
        }
        answers.into_iter().for_each(|answer| answer());
        if let Err(error) = spare.keep(&connection) {
            tracing::error!(%error, "cannot write spare.json; it is tried again");
        }
    }
}

#[cfg(test)]
mod tests;

//! Rows of the database: what is written, what is answered, what the next daemon is given.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::types::Type;
use rusqlite::{Connection, params};

use crate::base::{Epoch, Incarnation, Name, Revision, Shelves, limits};
use crate::os::clock;
use crate::world::{Checkpoint, RolloutRecord};

use super::pending::Pending;
use super::spare::Contents;
use super::{Question, Restored, StoredChange, StoredSet};

pub const INCARNATION: &str = "incarnation";
/// Beside the boot: see [`clock::first`].
pub const FIRST: &str = "first";

/// Which changes are in the database; `None`: not looked yet, or what was to be written was not.
pub type Kept = Option<Shelves<(bool, String)>>;

/// Everything that waits, within a transaction.
pub fn write(connection: &Connection, pending: &Pending, kept: &mut Kept) -> rusqlite::Result<()> {
    for (name, value) in &pending.meta {
        set_meta(connection, name, *value)?;
    }
    let mut save = connection.prepare_cached(
        "INSERT INTO unit (name, checkpoint) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET checkpoint = ?2",
    )?;
    for (name, checkpoint) in &pending.units {
        match checkpoint {
            Some(checkpoint) => {
                let text = serde_json::to_string(checkpoint).unwrap_or_default();
                save.execute(params![name.as_str(), text])?;
            }
            None => {
                connection.execute("DELETE FROM unit WHERE name = ?1", [name.as_str()])?;
            }
        }
    }
    write_changes(connection, pending.changes.rows(), kept)?;
    for (revision, accepted) in &pending.revisions {
        let text = serde_json::to_string(&accepted.sets).unwrap_or_default();
        connection.execute(
            // A daemon that takes up a revision does not make it.
            "INSERT INTO revision (id, at, cause, sets) VALUES (?1, ?2, ?3, ?4) ON CONFLICT (id) DO UPDATE SET sets = ?4",
            params![revision.0 as i64, accepted.at.to_string(), accepted.cause, text],
        )?;
    }
    for ((name, at), rollout) in &pending.rollouts {
        let text = serde_json::to_string(&rollout).unwrap_or_default();
        connection
            .prepare_cached("INSERT INTO rollout (unit, at, body) VALUES (?1, ?2, ?3) ON CONFLICT (unit, at) DO UPDATE SET body = ?3")?
            .execute(params![name.as_str(), at, text])?;
        connection
            .prepare_cached("DELETE FROM rollout WHERE unit = ?1 AND at NOT IN (SELECT at FROM rollout WHERE unit = ?1 ORDER BY at DESC LIMIT ?2)")?
            .execute(params![name.as_str(), limits::ROLLOUTS_KEPT as i64])?;
    }
    if let Some(latest) = pending.revisions.keys().last() {
        forget_revisions(connection, *latest)?;
    }
    let mut save = connection.prepare_cached(
        "INSERT INTO error (id, body) VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET body = ?2",
    )?;
    for (id, body) in &pending.errors {
        match body {
            Some(body) => save.execute(params![*id as i64, body])?,
            None => connection.execute("DELETE FROM error WHERE id = ?1", [*id as i64])?,
        };
    }
    Ok(())
}

fn write_changes(
    connection: &Connection,
    changes: &BTreeMap<u64, Box<StoredChange>>,
    kept: &mut Kept,
) -> rusqlite::Result<()> {
    if changes.is_empty() {
        return Ok(());
    }
    let kept = match kept {
        Some(kept) => kept,
        none => none.insert(kept_changes(connection)?),
    };
    let mut save = connection.prepare_cached(
        "INSERT INTO change (id, body) VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET body = ?2",
    )?;
    let mut forget = connection.prepare_cached("DELETE FROM change WHERE id = ?1")?;
    for (id, change) in changes {
        let gone = kept.put(*id, change.shelf());
        if gone != Some(*id) {
            save.execute(params![*id as i64, serde_json::to_string(change).unwrap_or_default()])?;
        }
        if let Some(gone) = gone {
            forget.execute([gone as i64])?;
        }
    }
    Ok(())
}

fn kept_changes(connection: &Connection) -> rusqlite::Result<Shelves<(bool, String)>> {
    let mut kept = Shelves::new(limits::CHANGES_KEPT);
    let mut statement = connection.prepare("SELECT id, body FROM change ORDER BY id")?;
    let mut rows = statement.query([])?;
    // What is damaged keeps nothing else from being written.
    while let Ok(Some(row)) = rows.next() {
        let Ok(id) = row.get::<_, i64>(0) else { continue };
        let text = row.get::<_, String>(1).unwrap_or_default();
        let change = serde_json::from_str::<StoredChange>(&text);
        // One that cannot be read is nobody's, and makes room like any other.
        kept.put(id as u64, change.map_or_else(|_| (false, String::new()), |change| change.shelf()));
    }
    Ok(kept)
}

/// The answer, to be given once everything is written.
pub fn answer(connection: &Connection, question: &Question) -> rusqlite::Result<Box<dyn FnOnce()>> {
    Ok(match question {
        Question::Changes(limit, answer) => {
            let found = changes(connection, *limit)?;
            let answer = answer.clone();
            Box::new(move || drop(answer.send(found)))
        }
        Question::Rollouts(name, answer) => {
            let mut statement =
                connection.prepare_cached("SELECT body FROM rollout WHERE unit = ?1 ORDER BY at")?;
            let rows = statement.query_map([name.as_str()], |row| row.get::<_, String>(0))?;
            let found: Vec<RolloutRecord> =
                rows.filter_map(|text| serde_json::from_str(&text.ok()?).ok()).collect();
            let answer = answer.clone();
            Box::new(move || drop(answer.send(found)))
        }
        Question::Revision(revision, answer) => {
            let found = sets_at(connection, *revision)?;
            let answer = answer.clone();
            Box::new(move || drop(answer.send(found)))
        }
        Question::Kept(answer) => {
            let mut statement = connection.prepare_cached("SELECT id FROM revision")?;
            let rows = statement.query_map([], |row| row.get::<_, i64>(0))?;
            let found = rows.filter_map(|id| Some(Revision(id.ok()? as u64))).collect();
            let answer = answer.clone();
            Box::new(move || drop(answer.send(found)))
        }
        Question::Flush(answer) => {
            let answer = answer.clone();
            Box::new(move || _ = answer.send(()))
        }
        // It is about whether this is written.
        Question::Recorded { .. } => Box::new(|| ()),
    })
}

/// The manifests of a revision, if they are kept.
pub fn sets_at(connection: &Connection, revision: Revision) -> rusqlite::Result<Option<Vec<StoredSet>>> {
    let mut statement = connection.prepare_cached("SELECT sets FROM revision WHERE id = ?1")?;
    let mut rows = statement.query_map([revision.0 as i64], |row| row.get::<_, String>(0))?;
    Ok(rows.next().and_then(|text| serde_json::from_str(&text.ok()?).ok()))
}

/// The latest changes, newest first.
pub fn changes(connection: &Connection, limit: usize) -> rusqlite::Result<Vec<StoredChange>> {
    let mut statement = connection.prepare_cached("SELECT body FROM change ORDER BY id DESC LIMIT ?1")?;
    let rows = statement.query_map([limit as i64], |row| row.get::<_, String>(0))?;
    Ok(rows.filter_map(|text| serde_json::from_str(&text.ok()?).ok()).collect())
}

/// There is no room now; there may be later.
pub fn is_full(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DiskFull, SystemIoFailure};
    matches!(error.sqlite_error_code(), Some(DiskFull | SystemIoFailure))
}

/// A number of the system itself.
pub fn set_meta(connection: &Connection, name: &str, value: u64) -> rusqlite::Result<()> {
    connection.execute(
        "INSERT OR REPLACE INTO meta (name, value) VALUES (?1, ?2)",
        params![name, value.to_string()],
    )?;
    Ok(())
}

/// What earlier daemons left; of a database that is new, the copy that there may be.
/// What of a unit cannot be read is taken from that as well.
///
/// # Errors
/// The database cannot be read, or not what sets there are.
pub fn load(connection: &Connection, copy: impl Fn() -> Option<Contents>) -> rusqlite::Result<Restored> {
    let mut statement = connection.prepare("SELECT name, value FROM meta")?;
    let meta: BTreeMap<String, String> =
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<rusqlite::Result<_>>()?;
    let number = |name: &str| meta.get(name).and_then(|text| text.parse::<u64>().ok());
    let (key, spare) = match meta.get("key").and_then(|text| unhex(text)) {
        Some(key) => (key, None),
        None => {
            let spare = copy();
            let known = spare.as_ref().and_then(|spare| unhex(&spare.key));
            let key = known.unwrap_or_else(|| clock::random::<32>().to_vec());
            let text: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
            connection.execute("INSERT OR REPLACE INTO meta (name, value) VALUES ('key', ?1)", [text])?;
            (key, spare)
        }
    };
    let (mut units, unread) = load_units(connection)?;
    let partly = (!unread.is_empty()).then(|| {
        let copy = copy().map(|copy| copy.units).unwrap_or_default();
        units.extend(unread.iter().flatten().filter_map(|name| Some((name.clone(), copy.get(name)?.clone()))));
        let name = |name: &Option<Name>| name.as_ref().map_or_else(|| "a unit".to_owned(), Name::to_string);
        let names: Vec<String> = unread.iter().map(name).collect();
        format!(
            "state.db is damaged where it tells of {}; orders, rollbacks and whether a Job has run are known from a copy if they \
             are in it, restarts and circuits are forgotten",
            names.join(", ")
        )
    });
    let latest = connection.query_row("SELECT id, sets FROM revision ORDER BY id DESC LIMIT 1", [], |row| {
        let sets = serde_json::from_str(&row.get::<_, String>(1)?);
        // Without them what was given to `apply` would be stopped.
        Ok((
            row.get::<_, i64>(0)?,
            sets.map_err(|error| rusqlite::Error::FromSqlConversionFailure(1, Type::Text, error.into()))?,
        ))
    });
    let (revision, sets) = match latest {
        Ok((id, sets)) => (Revision(id as u64), sets),
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
        boot: number("boot").filter(|_| clock::is_first(number(FIRST).unwrap_or(0))),
        incarnation: Incarnation(number("incarnation").unwrap_or(1)),
        revision,
        last_change: last_change as u64,
        units,
        sets,
        errors,
        warning: None,
        partly,
        spare,
    })
}

/// What is known of each unit, and those of which that cannot be read; `None`: nor which one it is.
#[allow(clippy::type_complexity)] // two lists
fn load_units(connection: &Connection) -> rusqlite::Result<(Vec<(Name, Checkpoint)>, Vec<Option<Name>>)> {
    let (mut units, mut unread) = (Vec::new(), Vec::new());
    let mut statement = connection.prepare("SELECT name, checkpoint FROM unit")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let text = |column| row.get::<_, String>(column).ok();
        let name = text(0).and_then(|name| name.parse().ok());
        let checkpoint = text(1).and_then(|text| serde_json::from_str(&text).ok());
        match (name, checkpoint) {
            (Some(name), Some(checkpoint)) => units.push((name, checkpoint)),
            (name, _) => unread.push(name),
        }
    }
    Ok((units, unread))
}

/// Forgets the revisions that are older than those that are kept, but for those that a unit runs in place of the declared one, or
/// may have to go back to: a rollback or an `undo` stands for as long as it takes, and the next daemon may have to read its
/// manifests. Those that a person may go back to by `undo` stay while there is room.
fn forget_revisions(connection: &Connection, latest: Revision) -> rusqlite::Result<()> {
    let oldest = latest.0 as i64 - limits::REVISIONS_KEPT as i64;
    let mut statement = connection
        .prepare_cached("SELECT id, octet_length(sets) FROM revision WHERE id <= ?1 ORDER BY id DESC")?;
    let outdated: Vec<(i64, i64)> = statement
        .query_map([oldest], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    if outdated.is_empty() {
        return Ok(());
    }
    let mut statement = connection.prepare_cached("SELECT checkpoint FROM unit")?;
    let units: Vec<Checkpoint> = statement
        .query_map([], |row| row.get::<_, String>(0))?
        .filter_map(|text| serde_json::from_str(&text.ok()?).ok())
        .collect();
    let (rolling, now) = (BTreeSet::new(), clock::mono());
    let needed: BTreeSet<Revision> =
        units.iter().filter_map(|unit| unit.kept_revision(&rolling, now)).collect();
    let mut undone = undoable(connection)?;
    undone.extend(units.iter().filter_map(|unit| Some(unit.good.as_ref()?.revision)));
    let mut room = limits::UNDO_BYTES;
    for (id, bytes) in outdated {
        let revision = Revision(id as u64);
        if needed.contains(&revision) {
            continue;
        }
        if undone.contains(&revision) && bytes <= room {
            room -= bytes;
            continue;
        }
        connection.execute("DELETE FROM revision WHERE id = ?1", [id])?;
    }
    Ok(())
}

/// The revisions of the latest rollouts of each unit that came to a good end.
fn undoable(connection: &Connection) -> rusqlite::Result<BTreeSet<Revision>> {
    let mut statement = connection.prepare_cached(
        "SELECT unit, body FROM rollout WHERE unit IN (SELECT name FROM unit) ORDER BY unit, at DESC",
    )?;
    let mut rows = statement.query([])?;
    let (mut found, mut of, mut count) = (BTreeSet::new(), String::new(), 0);
    while let Some(row) = rows.next()? {
        let unit: String = row.get(0)?;
        if unit != of {
            (of, count) = (unit, 0);
        }
        let body: String = row.get(1)?;
        let Ok(record) = serde_json::from_str::<RolloutRecord>(&body) else { continue };
        if record.is_good() && count < limits::UNDO_KEPT {
            count += 1;
            found.insert(Revision(record.revision));
        }
    }
    Ok(found)
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = |index: usize| u8::from_str_radix(text.get(index..index + 2)?, 16).ok();
    (text.len() == 64).then(|| (0..32).map(|index| digits(index * 2)).collect::<Option<Vec<u8>>>())?
}

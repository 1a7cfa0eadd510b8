//! What is in a database that nobody has open, for somebody who only looks.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use crate::base::{Revision, limits};
use crate::os::clock;

use super::rows::{changes, load, sets_at};
use super::{Restored, StoreError, StoredChange, StoredSet, schema};

/// What is looked for in it.
#[derive(Debug, Default)]
pub struct Left {
    /// Error records, as they were saved.
    pub errors: Vec<String>,
    /// The latest changes, newest first.
    pub changes: Vec<StoredChange>,
}

/// A directory that goes with its files.
struct Copy(PathBuf);

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Reads a copy: SQLite would take up what a killed daemon left beside the file, and write into both. Neither a damaged file nor
/// one of a newer unisys is touched. None is one with nothing in it.
///
/// # Errors
/// It cannot be read, or was written by a newer unisys.
pub fn left(path: &Path) -> Result<Left, StoreError> {
    if !path.exists() {
        return Ok(Left::default());
    }
    let fail = |source| StoreError::Open { path: path.to_owned(), source };
    let (connection, _copied) = open(path)?;
    let read = || -> rusqlite::Result<Left> {
        let mut statement = connection.prepare("SELECT body FROM error ORDER BY id")?;
        let errors = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        let mut changes = changes(&connection, limits::CHANGES_KEPT)?;
        // Nobody goes on with it.
        changes.iter_mut().filter(|change| change.outcome == "Active").for_each(StoredChange::interrupt);
        Ok(Left { errors, changes })
    };
    read().map_err(fail)
}

/// What the next daemon will be given.
#[derive(Default)]
pub struct Legacy {
    pub restored: Restored,
    database: Option<(Connection, Copy)>,
}

impl Legacy {
    /// The manifests of a revision, if they are kept.
    pub fn revision(&self, revision: Revision) -> Option<Vec<StoredSet>> {
        sets_at(&self.database.as_ref()?.0, revision).ok()?
    }
}

/// Reads a copy, as [`left`] does. None is one with nothing in it.
///
/// # Errors
/// It cannot be read, or was written by a newer unisys.
pub fn legacy(path: &Path) -> Result<Legacy, StoreError> {
    if !path.exists() {
        return Ok(Legacy::default());
    }
    let (connection, copied) = open(path)?;
    let fail = |source| StoreError::Open { path: path.to_owned(), source };
    let restored = load(&connection, || None).map_err(fail)?;
    Ok(Legacy { restored, database: Some((connection, copied)) })
}

/// A copy of it, which goes once it is dropped.
fn open(path: &Path) -> Result<(Connection, Copy), StoreError> {
    let fail = |source| StoreError::Open { path: path.to_owned(), source };
    let copied = copy(path).map_err(|error| fail(rusqlite::Error::ToSqlConversionFailure(error.into())))?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(copied.0.join(NAME), flags).map_err(fail)?;
    schema::check_version(&connection, path)?;
    Ok((connection, copied))
}

const NAME: &str = "state.db";

/// The file and what was written lately, in a directory of the caller's alone: literal secrets are in it.
fn copy(path: &Path) -> std::io::Result<Copy> {
    let name: String = clock::random::<8>().iter().map(|byte| format!("{byte:02x}")).collect();
    let dir = std::env::temp_dir().join(format!("unisys-{name}"));
    DirBuilder::new().mode(0o700).create(&dir)?;
    let copy = Copy(dir);
    std::fs::copy(path, copy.0.join(NAME))?;
    match std::fs::copy(format!("{}-wal", path.display()), copy.0.join(format!("{NAME}-wal"))) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    Ok(copy)
}

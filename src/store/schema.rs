//! The database's format and its versions.

use std::path::Path;

use rusqlite::Connection;

use super::StoreError;

/// `PRAGMA user_version` of this format.
const VERSION: i64 = 1;

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS unit (name TEXT PRIMARY KEY, checkpoint TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS change (id INTEGER PRIMARY KEY, body TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS revision (id INTEGER PRIMARY KEY, at TEXT NOT NULL, cause TEXT NOT NULL, sets TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS rollout (unit TEXT, at INTEGER, body TEXT NOT NULL, PRIMARY KEY (unit, at)) STRICT;
CREATE TABLE IF NOT EXISTS error (id INTEGER PRIMARY KEY, body TEXT NOT NULL) STRICT;
";

/// Opens the database; one that SQLite cannot read is renamed and a new one begun, with a warning.
///
/// `read` takes what is there: damage may lie anywhere in the file.
pub fn open<T>(
    path: &Path,
    read: impl Fn(&Connection) -> rusqlite::Result<T>,
) -> Result<(Connection, T, Option<String>), StoreError> {
    // Opening a FIFO would wait for a writer, and a directory is none of SQLite's faults.
    let strange = std::fs::metadata(path).is_ok_and(|found| !found.is_file());
    let try_both = || {
        let connection = try_open(path)?;
        let found = read(&connection).map_err(|source| StoreError::Open { path: path.to_owned(), source })?;
        Ok((connection, found))
    };
    let opened = match strange {
        true => Err(StoreError::Open { path: path.to_owned(), source: rusqlite::Error::InvalidQuery }),
        false => try_both(),
    };
    match opened {
        Err(StoreError::Open { source, .. })
            if strange || is_damage(&source) || says_read_only(&source, path) =>
        {
            let aside = path.with_extension(format!("damaged-{}", crate::os::clock::wall().0));
            let why = if strange { "it is no file".to_owned() } else { source.to_string() };
            let warning =
                format!("{} is damaged ({why}); it was set aside as {}", path.display(), aside.display());
            for suffix in ["-wal", "-shm"] {
                let _ = std::fs::remove_file(format!("{}{suffix}", path.display()));
            }
            std::fs::rename(path, aside).map_err(|error| StoreError::Open {
                path: path.to_owned(),
                source: rusqlite::Error::ToSqlConversionFailure(error.into()),
            })?;
            try_both().map(|(connection, found)| (connection, found, Some(warning)))
        }
        other => other.map(|(connection, found)| (connection, found, None)),
    }
}

fn try_open(path: &Path) -> Result<Connection, StoreError> {
    let fail = |source| StoreError::Open { path: path.to_owned(), source };
    // It holds manifests as written, literal secrets included; SQLite gives its other files the same mode.
    crate::os::files::private_file(path)
        .map_err(|error| fail(rusqlite::Error::ToSqlConversionFailure(error.into())))?;
    let connection = Connection::open(path).map_err(fail)?;
    // Before anything is read. Nobody else has it open: the index of what was written lately needs no file, which a full disk
    // could not grow.
    connection.execute_batch("PRAGMA locking_mode = EXCLUSIVE;").map_err(fail)?;
    let version = check_version(&connection, path)?;
    // A lost second of history after a power cut is no harm; waiting for the disk at every crash would be.
    connection
        .execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA cache_size = -256; PRAGMA mmap_size = 0;")
        .map_err(fail)?;
    connection.execute_batch(TABLES).map_err(fail)?;
    // Only what differs is written: a full disk must not keep a daemon from what is there.
    if version != VERSION {
        connection.pragma_update(None, "user_version", VERSION).map_err(fail)?;
    }
    Ok(connection)
}

/// The version of what is written in it, which this unisys knows. `path`: as it is told.
pub fn check_version(connection: &Connection, path: &Path) -> Result<i64, StoreError> {
    let fail = |source| StoreError::Open { path: path.to_owned(), source };
    let found = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(fail)?;
    match found > VERSION {
        true => Err(StoreError::Newer { path: path.to_owned(), found, known: VERSION }),
        false => Ok(found),
    }
}

/// The header says that only a newer SQLite may write it, though the file itself can be written.
fn says_read_only(error: &rusqlite::Error, path: &Path) -> bool {
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::ReadOnly)
        && std::fs::OpenOptions::new().append(true).open(path).is_ok()
}

/// Whatever is not the machine's fault is the file's: nothing else speaks of what it holds.
fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{
        CannotOpen, DatabaseBusy, DatabaseLocked, DiskFull, OutOfMemory, PermissionDenied, ReadOnly,
        SystemIoFailure,
    };
    // The file is shorter than its header says.
    const SHORT_READ: i32 = 522;
    match error {
        rusqlite::Error::SqliteFailure(inner, _) if inner.extended_code == SHORT_READ => true,
        rusqlite::Error::SqliteFailure(inner, _) => !matches!(
            inner.code,
            CannotOpen
                | DatabaseBusy
                | DatabaseLocked
                | DiskFull
                | OutOfMemory
                | PermissionDenied
                | ReadOnly
                | SystemIoFailure
        ),
        // private_file failed: the machine said why.
        rusqlite::Error::ToSqlConversionFailure(_) => false,
        _ => true,
    }
}

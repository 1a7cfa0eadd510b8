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
pub fn open(path: &Path) -> Result<(Connection, Option<String>), StoreError> {
    match try_open(path) {
        Err(StoreError::Open { source, .. }) if is_damage(&source) => {
            let aside = path.with_extension(format!("damaged-{}", crate::os::clock::wall().0));
            let warning = format!(
                "{} is damaged ({source}); it was set aside as {}; overrides and history are lost",
                path.display(),
                aside.display()
            );
            for suffix in ["-wal", "-shm"] {
                let _ = std::fs::remove_file(format!("{}{suffix}", path.display()));
            }
            std::fs::rename(path, aside).map_err(|error| StoreError::Open {
                path: path.to_owned(),
                source: rusqlite::Error::ToSqlConversionFailure(error.into()),
            })?;
            try_open(path).map(|connection| (connection, Some(warning)))
        }
        other => other.map(|connection| (connection, None)),
    }
}

fn try_open(path: &Path) -> Result<Connection, StoreError> {
    let fail = |source| StoreError::Open { path: path.to_owned(), source };
    // It holds manifests as written, literal secrets included; SQLite gives its other files the same mode.
    crate::os::files::private_file(path)
        .map_err(|error| fail(rusqlite::Error::ToSqlConversionFailure(error.into())))?;
    let connection = Connection::open(path).map_err(fail)?;
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(fail)?;
    if version > VERSION {
        return Err(StoreError::Newer { path: path.to_owned(), found: version, known: VERSION });
    }
    // A lost second of history after a power cut is no harm; waiting for the disk at every crash would be.
    connection
        .execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA cache_size = -256; PRAGMA mmap_size = 0;")
        .map_err(fail)?;
    connection.execute_batch(TABLES).map_err(fail)?;
    connection.pragma_update(None, "user_version", VERSION).map_err(fail)?;
    Ok(connection)
}

fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    matches!(error, rusqlite::Error::SqliteFailure(inner, _) if matches!(inner.code, DatabaseCorrupt | NotADatabase))
}

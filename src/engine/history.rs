//! What earlier daemons told, from the log that they wrote it to: `events` and `why` go on where those ended.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use serde::Deserialize;

use crate::base::{Shelves, Stamp, limits};
use crate::world::Record;

/// A line that tells an event; others have no id.
#[derive(Deserialize)]
struct Line {
    timestamp: Stamp,
    message: String,
    object: String,
    reason: String,
    id: u64,
    #[serde(default)]
    warning: bool,
    change: Option<u64>,
    cause: Option<u64>,
}

/// The latest events of each object in a log, oldest first. One that cannot be read, or is not whole, tells less.
pub fn read(log: &Path) -> Vec<Record> {
    let bytes = tail(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let (mut shelves, mut records) = (Shelves::new(limits::EVENTS_RECALLED), BTreeMap::new());
    for record in text.lines().filter_map(record) {
        let gone = shelves.put(record.id, record.shelf());
        records.insert(record.id, record);
        if let Some(gone) = gone {
            records.remove(&gone);
        }
    }
    records.into_values().collect()
}

fn tail(log: &Path) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(limits::HISTORY_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(limits::HISTORY_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn record(line: &str) -> Option<Record> {
    let Line { timestamp: at, message, object, reason, id, warning, change, cause } =
        serde_json::from_str(line).ok()?;
    Some(Record { id, at, warning, reason: reason.into(), object, message, change, cause })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_and_whatever_else_is_in_the_log_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        assert_eq!(read(&log), [], "there is none");
        let event = r#"{"timestamp":"2026-01-02T03:04:05.678901Z","level":"INFO","message":"instance 0 ended","object":"service/a","reason":"Failed","warning":true,"cause":8,"id":9,"target":"t"}"#;
        let other =
            r#"{"timestamp":"2026-01-02T03:04:05.678901Z","level":"WARN","message":"m","target":"t"}"#;
        std::fs::write(&log, format!("torn\"}}\n{event}\n{other}\n{}", &event[..40])).unwrap();
        let [record] = &read(&log)[..] else { panic!("{:?}", read(&log)) };
        assert_eq!((record.id, record.cause, record.warning), (9, Some(8), true));
        assert_eq!((&*record.reason, record.object.as_str()), ("Failed", "service/a"));
        assert_eq!(record.at.to_string(), "2026-01-02T03:04:05.678Z");
    }

    #[test]
    fn what_a_noisy_object_told_leaves_room_for_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let event = |id: usize| {
            let object = if id < 10 { "service/quiet" } else { "service/noisy" };
            format!(
                r#"{{"timestamp":"2026-01-02T03:04:05.678901Z","level":"INFO","message":"instance 0 ended","object":"{object}","reason":"Failed","id":{id}}}"#
            ) + "\n"
        };
        let count = limits::EVENTS_RECALLED * 2;
        std::fs::write(&log, (0..count).map(event).collect::<String>()).unwrap();
        let found = read(&log);
        assert_eq!(found.len(), limits::EVENTS_RECALLED);
        assert!(found.is_sorted_by_key(|record| record.id));
        assert_eq!(found.iter().filter(|record| record.object == "service/quiet").count(), 10);
        assert_eq!(found.last().map(|record| record.id), Some(count as u64 - 1));
    }
}

//! Reading logs back: the last lines, from a time on, of one incarnation, and as they are written.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::base::{Incarnation, InstanceId, Ordinal, Stamp, limits};
use crate::os::files::existing_own_file;

pub use super::derived::Position;
use super::derived::{Record, Stream, for_each_after, for_each_backwards, last_record};

/// The most that is read back at once; who wants more reads on from a [`start`].
const ANSWER_BYTES: u64 = 16 << 20;

/// The most that a follower is given at once: it may be slow, and the next part is read when it has taken this one.
const PART_BYTES: u64 = 1 << 20;

/// Where the last lines of an instance are looked for: among so many pieces (48 bytes of index each).
pub const LOOK: usize = 1 << 16;

/// One line, in the shape of `logs -o json` (cli.md).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    pub ts: Stamp,
    pub service: String,
    pub instance: u32,
    pub incarnation: u64,
    pub stream: String,
    /// Not known until logs are parsed.
    pub level: Option<String>,
    pub message: String,
    pub trace_id: Option<String>,
    pub fields: serde_json::Map<String, serde_json::Value>,
    /// Its end has not been written yet; it is in no log.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unfinished: bool,
}

/// What is wanted of a log.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// The last so many lines.
    pub tail: Option<usize>,
    pub since: Option<Stamp>,
    pub incarnation: Option<Incarnation>,
    pub ordinal: Option<Ordinal>,
    pub stream: Option<Stream>,
    /// From this position of the log on, a part of it.
    pub from: Option<Position>,
    /// Nothing that was written behind this position.
    pub to: Option<Position>,
    /// Only among so many of the last pieces that were written: who wrote nothing is not looked for in all of a log.
    pub among: Option<usize>,
}

impl Query {
    fn wants(&self, record: &Record) -> bool {
        self.incarnation.is_none_or(|wanted| wanted == record.incarnation)
            && self.ordinal.is_none_or(|wanted| wanted == record.ordinal)
            && self.stream.is_none_or(|wanted| wanted == record.stream)
            && self.since.is_none_or(|since| record.at >= since)
    }
}

/// A log that is replaced as often as this while it is read once is not read just now.
const TRIES: usize = 16;

/// A log and the index that belongs to it.
struct Pair {
    log: File,
    index: File,
    path: PathBuf,
}

impl Pair {
    /// `None`: nothing has been written yet.
    fn open(logs: &Path, index: &Path, service: &str) -> Option<Self> {
        let path = index.join(service);
        // In this order: [`Pair::is_current`] tells whether the log is of this index.
        let index = existing_own_file(&path).ok()?;
        let log = existing_own_file(&logs.join(format!("{service}.log"))).ok()?;
        Some(Self { log, index, path })
    }

    /// The text between two positions. False: not all of it is there any more, only these lines.
    fn text(&self, begin: u64, end: u64, buffer: &mut Vec<u8>) -> io::Result<bool> {
        buffer.resize((end - begin) as usize, 0);
        match self.log.read_exact_at(buffer, begin) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            result => return result.map(|()| true),
        }
        let left = self.log.metadata()?.len().clamp(begin, end) - begin;
        buffer.truncate(left as usize);
        self.log.read_exact_at(buffer, begin)?;
        buffer.truncate(memchr::memrchr(b'\n', buffer).map_or(0, |last| last + 1));
        Ok(false)
    }

    /// Whether what has been read was what the index says: a log that was shortened or replaced has another index before anything
    /// is written to it again.
    fn is_current(&self) -> bool {
        let same = |found: std::fs::Metadata| {
            self.index.metadata().is_ok_and(|own| (own.dev(), own.ino()) == (found.dev(), found.ino()))
        };
        self.path.symlink_metadata().is_ok_and(same)
    }
}

/// Looks at a log and its index as they were at one moment. `None`: nothing has been written yet.
fn look<T>(
    logs: &Path,
    index: &Path,
    service: &str,
    mut at: impl FnMut(&Pair) -> io::Result<T>,
) -> io::Result<Option<T>> {
    for _ in 0..TRIES {
        let Some(pair) = Pair::open(logs, index, service) else { return Ok(None) };
        let seen = at(&pair);
        if pair.is_current() {
            return seen.map(Some);
        }
    }
    Err(io::Error::other("the log is replaced again and again"))
}

/// Lines of a service, oldest first, and the position that they go up to. From a position on nothing is left out: a part that is
/// not all ends before the end of the log.
pub fn read(logs: &Path, index: &Path, service: &str, query: &Query) -> io::Result<(Vec<Line>, Position)> {
    let found = look(logs, index, service, |pair| match query.from {
        Some(from) => read_on(pair, service, query, from),
        None => read_back(pair, service, query),
    })?;
    // What is not there just now may come back as it was.
    Ok(found.unwrap_or_else(|| (Vec::new(), query.from.unwrap_or_default())))
}

fn read_on(pair: &Pair, service: &str, query: &Query, from: Position) -> io::Result<(Vec<Line>, Position)> {
    let end = end_of(&pair.index)?;
    // One whose index was removed too begins anew.
    let from = if end < from { Position::default() } else { from };
    let (mut found, mut read, mut reached) = (Vec::new(), 0, from.at);
    let mut buffer = Vec::new();
    let mut is_first = true;
    for_each_after(&pair.index, from, |begin, record| {
        if std::mem::take(&mut is_first) {
            reached = begin;
        }
        let length = record.log_end.saturating_sub(begin);
        let beyond = query.to.is_some_and(|to| record.end() > to);
        if beyond || read > 0 && read + length > PART_BYTES {
            return Ok(false);
        }
        read += length;
        // Of one without length the text is gone.
        if length > 0 && query.wants(&record) {
            let whole = pair.text(begin, record.log_end, &mut buffer)?;
            found.extend(lines_of(&buffer).map(|line| to_line(service, &record, line)));
            if !whole {
                // Somebody has cut it off: what is written next comes in its place.
                reached = begin + buffer.len() as u64;
                return Ok(false);
            }
        }
        reached = record.log_end;
        Ok(true)
    })?;
    Ok((found, Position { cuts: end.cuts, at: reached }))
}

fn end_of(index: &File) -> io::Result<Position> {
    Ok(last_record(index)?.1.map(|last| last.end()).unwrap_or_default())
}

fn read_back(pair: &Pair, service: &str, query: &Query) -> io::Result<(Vec<Line>, Position)> {
    let mut budget = ANSWER_BYTES;
    let mut lines_left = query.tail.unwrap_or(usize::MAX);
    let mut buffer = Vec::new();
    let mut found: Vec<Line> = Vec::new();
    let end = for_each_piece_back(pair, query, |start, record| {
        let length = (record.log_end - start).min(budget);
        if lines_left == 0 || length == 0 {
            return false;
        }
        budget -= length;
        buffer.resize(length as usize, 0);
        if pair.log.read_exact_at(&mut buffer, record.log_end - length).is_err() {
            return false;
        }
        let mut lines: Vec<&[u8]> = lines_of(&buffer).collect();
        lines.drain(..lines.len().saturating_sub(lines_left));
        lines_left -= lines.len();
        found.extend(lines.into_iter().rev().map(|line| to_line(service, &record, line)));
        true
    })?;
    found.reverse();
    Ok((found, end))
}

/// The pieces that are wanted, latest first: where the text of each begins, and its record. Gives the position that all of them
/// go up to.
fn for_each_piece_back(
    pair: &Pair,
    query: &Query,
    mut take: impl FnMut(u64, Record) -> bool,
) -> io::Result<Position> {
    let length = pair.log.metadata()?.len();
    let mut end = None;
    let mut upper: Option<Record> = None;
    let mut whole = true;
    let mut left = query.among.unwrap_or(usize::MAX);
    let mut look = |start: u64, mut record: Record| {
        // Somebody may have cut off some of it.
        record.log_end = record.log_end.min(length);
        // The text of one without length is gone.
        let empty = record.log_end <= start;
        let old = query.since.is_some_and(|since| record.at < since);
        empty || !old && (!query.wants(&record) || take(start, record))
    };
    for_each_backwards(&pair.index, |record| {
        if left == 0 {
            whole = false;
            return false;
        }
        left -= 1;
        end.get_or_insert(record.end());
        whole = match upper.replace(record) {
            Some(later) => look(record.log_end, later),
            None => true,
        };
        whole
    })?;
    // Where the iteration ended at the first record of all, its piece begins where the log does; else it was refused.
    if let Some(first) = upper.filter(|_| whole) {
        look(0, first);
    }
    Ok(end.unwrap_or_default())
}

/// Where what is wanted begins, and how far the log goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Start {
    pub from: Position,
    /// Lines from there on, of those that are wanted, which are more than the last so many.
    pub skip: usize,
    pub end: Position,
}

/// Looks for the beginning of what is wanted, whose text is not kept meanwhile: it may be of any length.
pub fn start(logs: &Path, index: &Path, service: &str, query: &Query) -> io::Result<Start> {
    Ok(look(logs, index, service, |pair| start_in(pair, query))?.unwrap_or_default())
}

fn start_in(pair: &Pair, query: &Query) -> io::Result<Start> {
    let mut lines_left = query.tail.unwrap_or(usize::MAX);
    let mut buffer = Vec::new();
    let (mut from, mut skip) = (None, 0);
    let end = for_each_piece_back(pair, query, |start, record| {
        if lines_left == 0 {
            return false;
        }
        if query.tail.is_some() {
            buffer.resize((record.log_end - start) as usize, 0);
            if pair.log.read_exact_at(&mut buffer, start).is_err() {
                return false;
            }
            let lines = lines_of(&buffer).count();
            skip = lines.saturating_sub(lines_left);
            lines_left = lines_left.saturating_sub(lines);
        }
        from = Some(start);
        true
    })?;
    let from = from.map_or(end, |at| Position { at, ..end });
    Ok(Start { from, skip, end })
}

pub(super) fn lines_of(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let lines = text.strip_suffix(b"\n").unwrap_or(text).split(|byte| *byte == b'\n');
    lines.filter(|_| !text.is_empty())
}

pub(super) fn to_line(service: &str, record: &Record, line: &[u8]) -> Line {
    Line {
        ts: record.at,
        service: service.to_owned(),
        instance: record.ordinal.0,
        incarnation: record.incarnation.0,
        stream: record.stream.as_str().into(),
        level: None,
        message: String::from_utf8_lossy(line).into_owned(),
        trace_id: None,
        fields: serde_json::Map::new(),
        unfinished: false,
    }
}

/// Every line that is wanted of a log as it is now, oldest first.
pub fn each(
    logs: &Path,
    index: &Path,
    service: &str,
    query: &Query,
    mut take: impl FnMut(Line),
) -> io::Result<()> {
    let Start { from, mut skip, end } = start(logs, index, service, query)?;
    let mut wanted = Query { tail: None, from: Some(from), to: Some(end), ..query.clone() };
    loop {
        let (lines, reached) = read(logs, index, service, &wanted)?;
        let over = reached >= end || wanted.from == Some(reached);
        // What has been cut off meanwhile is not to be passed over.
        if reached.cuts != from.cuts {
            skip = 0;
        }
        let passed = skip.min(lines.len());
        skip -= passed;
        lines.into_iter().skip(passed).for_each(&mut take);
        if over {
            return Ok(());
        }
        wanted.from = Some(reached);
    }
}

/// The latest lines of one instance, as bytes, unless others have written very much since.
pub fn tail_of_instance(logs: &Path, index: &Path, id: &InstanceId, count: usize) -> Vec<Vec<u8>> {
    let query =
        Query { tail: Some(count), incarnation: Some(id.incarnation), among: Some(LOOK), ..Query::default() };
    let lines = read(logs, index, id.unit.as_str(), &query).map(|(lines, _)| lines).unwrap_or_default();
    lines.into_iter().map(|line| line.message.into_bytes()).collect()
}

/// The latest incarnation that wrote anything and is none of the `present` ones; where it is not known which those are, the one
/// before the latest. Of one ordinal alone, where one is asked for.
pub fn previous_incarnation(
    index: &Path,
    service: &str,
    present: &[Incarnation],
    ordinal: Option<Ordinal>,
) -> Option<Incarnation> {
    let index = existing_own_file(&index.join(service)).ok()?;
    let mut latest = None;
    let mut previous = None;
    for_each_backwards(&index, |record| {
        if ordinal.is_some_and(|wanted| wanted != record.ordinal) {
            return true;
        }
        let latest = *latest.get_or_insert(record.incarnation);
        let is_earlier = match present {
            [] => record.incarnation < latest,
            present => !present.contains(&record.incarnation),
        };
        previous = is_earlier.then_some(record.incarnation);
        previous.is_none()
    })
    .ok()?;
    previous
}

const _: () = assert!(limits::LOG_LINE_BYTES as u64 <= ANSWER_BYTES);

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;

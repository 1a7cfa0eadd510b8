//! The log that people read, and its index: fixed records that say which bytes of the log came when, from which instance, and
//! up to where of its spool.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, ErrorKind::NotFound, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use rustix::fs::OFlags;

use crate::base::{Incarnation, Ordinal, Stamp, limits};
use crate::keeper::journal::checksum;
use crate::os::files;

/// Where a line was written to by the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    pub const BOTH: [Self; 2] = [Self::Stdout, Self::Stderr];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// One batch of lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The log ends here with this batch; it begins where the record before ends.
    pub log_end: u64,
    /// The stream's spool is consumed up to here.
    pub spool_end: u64,
    pub at: Stamp,
    pub incarnation: Incarnation,
    pub ordinal: Ordinal,
    pub stream: Stream,
    /// Counts how often the log had lost something by then, from [`first_cut`] on and up to [`CUTS`].
    pub cuts: u32,
}

/// Up to where a log has been read: one that was emptied has other lines at the same bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct Position {
    pub cuts: u32,
    pub at: u64,
}

impl From<Position> for String {
    fn from(Position { cuts, at }: Position) -> Self {
        format!("{cuts}-{at}")
    }
}

impl TryFrom<String> for Position {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let position = || {
            let (cuts, at) = text.split_once('-')?;
            Some(Self { cuts: cuts.parse().ok()?, at: at.parse().ok()? })
        };
        position().ok_or("not a position that a log was told to be read up to")
    }
}

/// More is not counted: three bytes of a record.
const CUTS: u32 = (1 << 24) - 1;

/// A log that somebody shortens as often as this while one batch is written is not written to just now.
const TRIES: usize = 8;

/// Bytes of one record.
pub const RECORD: usize = 48;

impl Record {
    pub fn end(&self) -> Position {
        Position { cuts: self.cuts, at: self.log_end }
    }

    /// Of the first instance of a unit, as a test writes it.
    #[cfg(test)]
    pub(super) const OF_ONE: Self = Self {
        log_end: 0,
        spool_end: 0,
        at: Stamp(1),
        incarnation: Incarnation(1),
        ordinal: Ordinal(0),
        stream: Stream::Stdout,
        cuts: 0,
    };

    fn to_bytes(self) -> [u8; RECORD] {
        let mut bytes = [0; RECORD];
        bytes[0..8].copy_from_slice(&self.log_end.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.spool_end.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.at.0.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.incarnation.0.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.ordinal.0.to_le_bytes());
        bytes[36] = self.stream as u8;
        bytes[37..40].copy_from_slice(&self.cuts.min(CUTS).to_le_bytes()[..3]);
        let sum = checksum(&bytes[..40]);
        bytes[40..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// `None` for a torn or damaged record.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let number = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        if number(40)? != checksum(&bytes[..40]) {
            return None;
        }
        Some(Self {
            log_end: number(0)?,
            spool_end: number(8)?,
            at: Stamp(number(16)? as i64),
            incarnation: Incarnation(number(24)?),
            ordinal: Ordinal(u32::from_le_bytes(bytes[32..36].try_into().ok()?)),
            stream: if bytes[36] == 0 { Stream::Stdout } else { Stream::Stderr },
            cuts: u32::from_le_bytes([bytes[37], bytes[38], bytes[39], 0]),
        })
    }
}

/// The log of one service, open for writing. Both files are created with the first line.
pub struct Log {
    log: PathBuf,
    index: PathBuf,
    files: Option<(File, File)>,
    /// Of the log that is open, and of its index.
    inodes: [u64; 2],
    length: u64,
    index_length: u64,
    cuts: u32,
    /// What stood in a file's place and was no file: it was removed.
    removed: Option<PathBuf>,
}

impl Log {
    pub fn new(logs: &Path, index: &Path, service: &str) -> Self {
        Self {
            log: logs.join(format!("{service}.log")),
            index: index.join(service),
            files: None,
            inodes: [0; 2],
            length: 0,
            index_length: 0,
            cuts: 0,
            removed: None,
        }
    }

    /// The path of which a link (or a FIFO, a socket) was removed since this was asked last.
    pub fn removed(&mut self) -> Option<PathBuf> {
        self.removed.take()
    }

    /// Appends whole lines and then the record that says so.
    pub fn append(&mut self, lines: &[u8], record: Record) -> io::Result<()> {
        for _ in 0..TRIES {
            self.ready()?;
            let written = self.write(lines, record);
            if !matches!(written, Ok(true)) {
                // What has come into it, and no record knows of, is cut off.
                self.files = None;
            }
            if written? {
                return Ok(());
            }
        }
        Err(io::Error::other("somebody shortens the log again and again"))
    }

    /// Open, as the last record left it.
    fn ready(&mut self) -> io::Result<()> {
        if self.files.is_some() && self.is_another() {
            self.files = None;
        }
        self.open()
    }

    /// False: somebody has shortened it since it was found ready, and the lines are not in it.
    fn write(&mut self, lines: &[u8], mut record: Record) -> io::Result<bool> {
        let Some((log, index)) = &self.files else { return Ok(false) };
        // To its end, wherever that is by now: at another place it would begin with a hole.
        let mut writer = log;
        writer.write_all(lines)?;
        let end = log.metadata()?.len();
        record.log_end = self.length + lines.len() as u64;
        if end != record.log_end {
            let begin = end.saturating_sub(lines.len() as u64);
            let mut found = vec![0; (end - begin) as usize];
            if log.read_exact_at(&mut found, begin).is_ok() && found == lines {
                log.set_len(begin)?;
            }
            return Ok(false);
        }
        if self.index_length == 0 {
            self.cuts = first_cut(record.at);
        }
        record.cuts = self.cuts;
        index.write_all_at(&record.to_bytes(), self.index_length)?;
        self.length = record.log_end;
        self.index_length += RECORD as u64;
        Ok(true)
    }

    /// Somebody has shortened the log, removed it, written to it, or put another one in its place, as a rotation from outside
    /// does; or has removed its index.
    fn is_another(&self) -> bool {
        let same = |path: &Path, inode, length| {
            path.symlink_metadata().is_ok_and(|found| found.ino() == inode && found.len() == length)
        };
        let [log, index] = self.inodes;
        !(same(&self.log, log, self.length) && same(&self.index, index, self.index_length))
    }

    /// What the last record does not know of was written by a daemon that was killed: it is cut off, to be derived again. A
    /// log that somebody has shortened or removed goes on from where it ends, and so does one whose index is gone.
    fn open(&mut self) -> io::Result<()> {
        if self.files.is_some() {
            return Ok(());
        }
        let index_is_gone = self.index.symlink_metadata().is_err_and(|error| error.kind() == NotFound);
        let mut open = |path: &Path| -> io::Result<File> {
            let (file, removed) = files::own_file(path)?;
            if removed {
                self.removed = Some(path.to_owned());
            }
            Ok(file)
        };
        let log = match open(&self.log) {
            // The directory was removed: it comes back, with what is written from now on.
            Err(error) if error.kind() == NotFound => {
                for dir in [&self.log, &self.index].into_iter().filter_map(|path| path.parent()) {
                    dir.parent().map_or(Ok(()), files::private_dir_within)?;
                    files::private_dir_within(dir)?;
                }
                open(&self.log)?
            }
            other => other?,
        };
        rustix::fs::fcntl_setfl(&log, OFlags::APPEND)?;
        let (inode, mut length) = (log.metadata()?.ino(), log.metadata()?.len());
        // Before there is an index that knows nothing of the log: all of it would be cut off.
        if index_is_gone && length > 0 {
            tracing::warn!(log = %self.log.display(), "its index was removed by somebody; it goes on from its end");
            length = end_line(&log, length)?;
            files::write_atomically(&self.index, &made_anew(&log, length)?, 0o600)?;
        }
        let mut index = open(&self.index)?;
        let (mut records, mut last) = last_record(&index)?;
        let known = last.map_or(0, |record| record.log_end);
        if length > known {
            log.set_len(known)?;
            length = known;
        } else if length < known {
            tracing::warn!(log = %self.log.display(), "it was shortened, removed or replaced by somebody; it goes on from its end");
            length = end_line(&log, length)?;
            files::write_atomically(&self.index, &shortened(&index, length)?, 0o600)?;
            index = open(&self.index)?;
            (records, last) = last_record(&index)?;
        }
        self.inodes = [inode, index.metadata()?.ino()];
        self.length = length;
        self.index_length = records;
        self.cuts = last.map_or(0, |record| record.cuts);
        index.set_len(records)?;
        self.files = Some((log, index));
        Ok(())
    }

    /// Up to where each stream of an instance is consumed, as the index knows; only the `wanted` ones are looked for. Instances
    /// of a rollout write at the same time, so nothing but the record itself ends the search.
    pub fn consumed(&self, incarnation: Incarnation, wanted: [bool; 2]) -> [u64; 2] {
        let mut found = wanted.map(|wanted| (!wanted).then_some(0));
        let Ok(index) = files::existing_own_file(&self.index) else { return [0; 2] };
        let _ = for_each_backwards(&index, |record| {
            if record.incarnation == incarnation {
                found[record.stream as usize].get_or_insert(record.spool_end);
            }
            found.contains(&None)
        });
        found.map(|end| end.unwrap_or(0))
    }

    /// Files that are idle need no descriptor.
    pub fn close(&mut self) {
        self.files = None;
    }
}

/// Where a log that begins at this time begins to count: one that was removed with its index is another one for who knew it.
fn first_cut(at: Stamp) -> u32 {
    (at.0 / 1_000).rem_euclid(i64::from(CUTS / 2)) as u32
}

/// What comes next is no part of a line that was cut. Gives the length of the log.
fn end_line(mut log: &File, length: u64) -> io::Result<u64> {
    let mut end = [b'\n'];
    if length > 0 {
        log.read_exact_at(&mut end, length - 1)?;
    }
    if end == [b'\n'] {
        return Ok(length);
    }
    log.write_all(b"\n")?;
    Ok(length + 1)
}

/// The index of a log of which no record is left: in pieces of whole lines, of no known instance, as old as the last of them.
fn made_anew(log: &File, length: u64) -> io::Result<Vec<u8>> {
    let modified = log.metadata()?.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    let at = Stamp(i64::try_from(modified.as_millis()).unwrap_or_default());
    let (mut records, mut begin) = (Vec::new(), 0);
    let mut piece = vec![0; limits::LOG_LINE_BYTES];
    while begin < length {
        piece.truncate((length - begin) as usize);
        log.read_exact_at(&mut piece, begin)?;
        begin += memchr::memrchr(b'\n', &piece).map_or(piece.len(), |last| last + 1) as u64;
        let (incarnation, ordinal, stream) = (Incarnation(0), Ordinal(0), Stream::Stdout);
        let cuts = first_cut(at);
        records.push(Record { log_end: begin, spool_end: 0, at, incarnation, ordinal, stream, cuts });
    }
    Ok(records.into_iter().flat_map(Record::to_bytes).collect())
}

/// The index of a log that ends at `length`: of what is gone, only up to where the spools are consumed, and that it is gone.
fn shortened(index: &File, length: u64) -> io::Result<Vec<u8>> {
    let mut latest = BTreeMap::new();
    let mut kept = Vec::new();
    let mut torn = None;
    let mut cuts = 0;
    for_each_backwards(index, |record| {
        cuts = cuts.max(record.cuts);
        if record.log_end <= length {
            kept.push(record);
        } else {
            latest.entry((record.incarnation, record.stream)).or_insert(record);
            torn = Some(record);
        }
        true
    })?;
    let cuts = (cuts + 1).min(CUTS);
    // Where it was cut within a piece, what is left of it is no news to who has read all of it.
    let end = kept.first().map_or(0, |record| record.log_end);
    let torn = torn.filter(|_| end < length).map(|record| Record { log_end: length, ..record });
    let gone = latest.into_values().map(|record| Record { log_end: length, cuts, ..record });
    Ok(kept.into_iter().rev().chain(torn).chain(gone).flat_map(Record::to_bytes).collect())
}

/// Length of the valid part of an index, and its last record.
pub fn last_record(index: &File) -> io::Result<(u64, Option<Record>)> {
    let mut length = index.metadata()?.len() / RECORD as u64 * RECORD as u64;
    while length > 0 {
        let mut bytes = [0; RECORD];
        index.read_exact_at(&mut bytes, length - RECORD as u64)?;
        if let Some(record) = Record::from_bytes(&bytes) {
            return Ok((length, Some(record)));
        }
        length -= RECORD as u64;
    }
    Ok((0, None))
}

/// Calls with each record behind a position, and where its text begins, the first of them first, while it says to go on. Records
/// ascend; one that is damaged counts as one that ends where the one after it does.
pub fn for_each_after(
    index: &File,
    position: Position,
    mut wanted: impl FnMut(u64, Record) -> io::Result<bool>,
) -> io::Result<()> {
    let count = last_record(index)?.0 / RECORD as u64;
    let at = |number: u64| -> io::Result<Option<Record>> {
        let mut bytes = [0; RECORD];
        index.read_exact_at(&mut bytes, number * RECORD as u64)?;
        Ok(Record::from_bytes(&bytes))
    };
    let (mut low, mut high) = (0, count);
    // Of what is not behind the position the log ends here.
    let mut begin = 0;
    while low < high {
        let middle = low + (high - low) / 2;
        let mut known = middle;
        let record = loop {
            match at(known)? {
                Some(record) => break record,
                // The last of all is never damaged.
                None => known += 1,
            }
        };
        if record.cuts > position.cuts || record.log_end > position.at {
            high = middle;
        } else {
            (low, begin) = (known + 1, record.log_end);
        }
    }
    for number in low..count {
        if let Some(record) = at(number)? {
            if record.cuts <= position.cuts {
                begin = begin.max(position.at);
            }
            if !wanted(begin, record)? {
                break;
            }
            begin = record.log_end;
        }
    }
    Ok(())
}

/// Calls with each record from the last to the first while it says to go on.
pub fn for_each_backwards(index: &File, mut wanted: impl FnMut(Record) -> bool) -> io::Result<()> {
    let (mut end, _) = last_record(index)?;
    let mut buffer = vec![0; RECORD * 1024];
    while end > 0 {
        let count = (buffer.len() as u64).min(end) as usize;
        index.read_exact_at(&mut buffer[..count], end - count as u64)?;
        for bytes in buffer[..count].rchunks_exact(RECORD) {
            if Record::from_bytes(bytes).is_some_and(|record| !wanted(record)) {
                return Ok(());
            }
        }
        end -= count as u64;
    }
    Ok(())
}

#[cfg(test)]
#[path = "derived_tests.rs"]
mod tests;

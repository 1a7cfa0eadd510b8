//! The log that people read, and its index: fixed records that say which bytes of the log came when, from which instance, and
//! up to where of its spool.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::base::{Incarnation, Ordinal, Stamp};
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
}

/// Bytes of one record.
pub const RECORD: usize = 48;

impl Record {
    fn to_bytes(self) -> [u8; RECORD] {
        let mut bytes = [0; RECORD];
        bytes[0..8].copy_from_slice(&self.log_end.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.spool_end.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.at.0.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.incarnation.0.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.ordinal.0.to_le_bytes());
        bytes[36] = self.stream as u8;
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
        })
    }
}

/// The log of one service, open for writing. Both files are created with the first line.
pub struct Log {
    log: PathBuf,
    index: PathBuf,
    files: Option<(File, File)>,
    /// Of the log that is open.
    inode: u64,
    length: u64,
    index_length: u64,
    /// What stood in a file's place and was no file: it was removed.
    removed: Option<PathBuf>,
}

impl Log {
    pub fn new(logs: &Path, index: &Path, service: &str) -> Self {
        Self {
            log: logs.join(format!("{service}.log")),
            index: index.join(service),
            files: None,
            inode: 0,
            length: 0,
            index_length: 0,
            removed: None,
        }
    }

    /// The path of which a link (or a FIFO, a socket) was removed since this was asked last.
    pub fn removed(&mut self) -> Option<PathBuf> {
        self.removed.take()
    }

    /// Appends whole lines and then the record that says so.
    pub fn append(&mut self, lines: &[u8], mut record: Record) -> io::Result<()> {
        if self.files.is_some() && self.is_another() {
            self.files = None;
        }
        self.open()?;
        let Some((log, index)) = &self.files else { return Ok(()) };
        log.write_all_at(lines, self.length)?;
        record.log_end = self.length + lines.len() as u64;
        index.write_all_at(&record.to_bytes(), self.index_length)?;
        self.length = record.log_end;
        self.index_length += RECORD as u64;
        Ok(())
    }

    /// Somebody has shortened the log, removed it, or put another one in its place, as a rotation from outside does.
    fn is_another(&self) -> bool {
        let same = |found: std::fs::Metadata| found.ino() == self.inode && found.len() >= self.length;
        !std::fs::symlink_metadata(&self.log).is_ok_and(same)
    }

    /// What the last record does not know of was written by a daemon that was killed: it is cut off, to be derived again. A
    /// log that somebody has shortened or removed goes on from where it ends.
    fn open(&mut self) -> io::Result<()> {
        if self.files.is_some() {
            return Ok(());
        }
        let mut open = |path: &Path| -> io::Result<File> {
            let (file, removed) = files::own_file(path)?;
            if removed {
                self.removed = Some(path.to_owned());
            }
            Ok(file)
        };
        let (log, mut index) = (open(&self.log)?, open(&self.index)?);
        let (mut records, last) = last_record(&index)?;
        let found = log.metadata()?;
        let known = last.map_or(0, |record| record.log_end);
        if found.len() > known {
            log.set_len(known)?;
        } else if found.len() < known {
            tracing::warn!(log = %self.log.display(), "it was shortened, removed or replaced by somebody; it goes on from its end");
            files::write_atomically(&self.index, &shortened(&index, found.len())?, 0o600)?;
            index = open(&self.index)?;
            (records, _) = last_record(&index)?;
        }
        self.inode = found.ino();
        self.length = found.len().min(known);
        self.index_length = records;
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

/// The index of a log that ends at `length`: of what is gone, only up to where the spools are consumed.
fn shortened(index: &File, length: u64) -> io::Result<Vec<u8>> {
    let mut latest = BTreeMap::new();
    let mut kept = Vec::new();
    for_each_backwards(index, |record| {
        if record.log_end <= length {
            kept.push(record);
        } else {
            latest.entry((record.incarnation, record.stream)).or_insert(record);
        }
        true
    })?;
    let gone = latest.into_values().map(|record| Record { log_end: length, ..record });
    Ok(kept.into_iter().rev().chain(gone).flat_map(Record::to_bytes).collect())
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

/// Calls with each record that ends behind a position of the log, the first of them first, while it says to go on. Records
/// ascend; one that is damaged counts as one that ends where the one after it does.
pub fn for_each_after(
    index: &File,
    position: u64,
    mut wanted: impl FnMut(Record) -> io::Result<bool>,
) -> io::Result<()> {
    let count = last_record(index)?.0 / RECORD as u64;
    let at = |number: u64| -> io::Result<Option<Record>> {
        let mut bytes = [0; RECORD];
        index.read_exact_at(&mut bytes, number * RECORD as u64)?;
        Ok(Record::from_bytes(&bytes))
    };
    let (mut low, mut high) = (0, count);
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
        if record.log_end > position { high = middle } else { low = known + 1 }
    }
    for number in low..count {
        if let Some(record) = at(number)?
            && !wanted(record)?
        {
            break;
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

//! What a new keeper needs when this one was killed: an append-only file of records, each line with a checksum. A torn or
//! damaged tail is ignored: what it would have said is found by the marker in the processes' environments.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::{Epoch, Exit, Generation, Incarnation, InstanceId, Instant, Listen, Part, Spent};
use crate::os::clock;
use crate::world::Mark;

use super::protocol::{Down, Held, HeldPart};

/// One thing that became true.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Entry {
    /// First of a file.
    Begin {
        version: u32,
        boot: String,
        epoch: Epoch,
        incarnation: Incarnation,
        /// [`clock::first`]; earlier keepers did not say.
        #[serde(default)]
        first: u64,
    },
    /// An instance is about to be started, with this pair of FIFOs. What it writes may be all that is ever known of it.
    Starting {
        id: InstanceId,
        fifos: u64,
    },
    Instance(Box<Held>),
    Part {
        id: InstanceId,
        part: HeldPart,
    },
    Exited {
        id: InstanceId,
        part: Part,
        exit: Exit,
        remains: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        spent: Option<Spent>,
    },
    Remember {
        id: InstanceId,
        mark: Mark,
        generation: Generation,
        spec: Option<String>,
    },
    Forgot {
        id: InstanceId,
    },
    /// Its main program was asked to stop.
    Signalled {
        id: InstanceId,
        signal: i32,
    },
    Epoch {
        epoch: Epoch,
    },
    /// A listener is open; `inode` finds it again in a process that has it.
    Listening {
        listen: Listen,
        inode: u64,
        owner: Option<(u32, u32)>,
    },
    Closed {
        listen: Listen,
    },
    /// Everything is being stopped.
    Down(Down),
}

impl Entry {
    /// It begins a journal of this boot, and of this container: the processes that it tells of are those that are seen from here.
    pub fn begins_here(&self) -> bool {
        matches!(self, Self::Begin { boot, first, .. } if *boot == clock::boot_id() && clock::is_first(*first))
    }
}

/// A journal that has grown by this much since it was last written whole is written whole again.
const REWRITE: u64 = 4 << 20;
/// A larger file is not ours.
const LARGEST: u64 = 256 << 20;

/// A journal that could not be written is tried again after this long.
const AGAIN: Duration = Duration::from_secs(1);

/// Once a write has failed nothing is appended any more: what follows a torn record is never read. The next that is written is
/// the whole state, as a new file; until then the old one says what it can.
pub struct Journal {
    path: PathBuf,
    file: Option<File>,
    pending: String,
    grown: u64,
    /// It says less than is true; when it is tried again.
    behind: Option<Instant>,
}

impl Journal {
    /// Begins a new file with these entries, replacing the old one.
    pub fn create(path: &Path, entries: &[Entry]) -> io::Result<Self> {
        let temporary = path.with_extension("new");
        let mut text = String::new();
        for entry in entries {
            push(&mut text, entry);
        }
        let mut file = crate::os::files::fresh_file(&temporary, 0o600)?;
        file.write_all(text.as_bytes())?;
        std::fs::rename(&temporary, path)?;
        Ok(Self { file: Some(file), behind: None, ..Self::unwritten(path, Instant(0)) })
    }

    /// One that is written as soon as it can be.
    pub fn unwritten(path: &Path, now: Instant) -> Self {
        let behind = Some(now + AGAIN);
        Self { path: path.to_owned(), file: None, pending: String::new(), grown: 0, behind }
    }

    /// Reads what an earlier keeper wrote; nothing if there is no such file.
    pub fn read(path: &Path) -> io::Result<Vec<Entry>> {
        let mut text = Vec::new();
        match File::open(path) {
            Ok(file) => file.take(LARGEST).read_to_end(&mut text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        // A torn tail may be anything.
        let lines =
            text.split_inclusive(|byte| *byte == b'\n').map_while(|line| std::str::from_utf8(line).ok());
        Ok(lines.map_while(whole).filter_map(parse).collect())
    }

    /// Takes an entry; [`Journal::flush`] writes it.
    pub fn write(&mut self, entry: &Entry) {
        push(&mut self.pending, entry);
    }

    /// # Errors
    /// It could not be written: said once, then it is behind until it is written whole.
    pub fn flush(&mut self, now: Instant) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let pending = std::mem::take(&mut self.pending);
        let Some(file) = self.file.as_mut().filter(|_| self.behind.is_none()) else { return Ok(()) };
        self.grown += pending.len() as u64;
        file.write_all(pending.as_bytes()).inspect_err(|_| self.behind = Some(now + AGAIN))
    }

    pub fn wants_rewrite(&self, now: Instant) -> bool {
        match self.behind {
            Some(at) => at <= now,
            None => self.grown > REWRITE,
        }
    }

    /// When it is tried again, if it is behind.
    pub fn behind(&self) -> Option<Instant> {
        self.behind
    }

    /// It could not be written whole either.
    pub fn wait(&mut self, now: Instant) {
        self.behind = self.behind.map(|_| now + AGAIN);
        // The old file is whole: another 4 MiB may pass.
        self.grown = 0;
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn push(text: &mut String, entry: &Entry) {
    let Ok(json) = serde_json::to_string(entry) else { return };
    text.push_str(&format!("{:016x} {json}\n", checksum(json.as_bytes())));
}

/// The record of an undamaged line.
fn whole(line: &str) -> Option<&str> {
    let (sum, json) = line.strip_suffix('\n')?.split_once(' ')?;
    (u64::from_str_radix(sum, 16).ok()? == checksum(json.as_bytes())).then_some(json)
}

/// `None` for a record of a newer keeper.
fn parse(json: &str) -> Option<Entry> {
    serde_json::from_str(json).ok()
}

/// FNV-1a, 64 bits: tells a torn write from a whole one.
pub fn checksum(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;

    fn begin() -> Entry {
        Entry::Begin { version: 1, boot: "b".into(), epoch: Epoch(3), incarnation: Incarnation(9), first: 0 }
    }

    #[test]
    fn a_torn_tail_is_ignored_and_what_came_before_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let mut journal = Journal::create(&path, &[begin()]).unwrap();
        journal.write(&Entry::Epoch { epoch: Epoch(4) });
        journal.write(&Entry::Epoch { epoch: Epoch(5) });
        journal.flush(Instant(0)).unwrap();
        let whole = std::fs::read(&path).unwrap();
        assert_eq!(Journal::read(&path).unwrap().len(), 3);
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            assert!(Journal::read(&path).unwrap().len() < 3, "cut at {cut}");
        }
        let mut damaged = whole.clone();
        damaged[40] ^= 1;
        std::fs::write(&path, damaged).unwrap();
        assert!(Journal::read(&path).unwrap().is_empty());
    }

    #[test]
    fn a_torn_tail_that_is_no_text_hides_nothing_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        drop(Journal::create(&path, &[Entry::Epoch { epoch: Epoch(4) }]).unwrap());
        let mut torn = std::fs::read(&path).unwrap();
        torn.extend([0xff, 0, 0xc3]);
        std::fs::write(&path, torn).unwrap();
        assert_eq!(Journal::read(&path).unwrap().len(), 1);
    }

    #[test]
    fn after_a_write_that_failed_nothing_is_appended_until_all_is_written_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let mut journal = Journal::create(&path, &[begin()]).unwrap();
        // A disk that is full takes nothing.
        journal.file = Some(OpenOptions::new().write(true).open("/dev/full").unwrap());
        journal.write(&Entry::Epoch { epoch: Epoch(4) });
        assert!(journal.flush(Instant(0)).is_err());
        journal.file = Some(OpenOptions::new().append(true).open(&path).unwrap());
        journal.write(&Entry::Epoch { epoch: Epoch(5) });
        assert!(journal.flush(Instant(0)).is_ok(), "it is said once");
        assert_eq!(Journal::read(&path).unwrap().len(), 1, "a record that nobody would read is not written");
        assert!(!journal.wants_rewrite(Instant(0)) && journal.wants_rewrite(Instant(0) + AGAIN));
        let mut journal = Journal::create(&path, &[begin(), Entry::Epoch { epoch: Epoch(5) }]).unwrap();
        assert!(journal.behind().is_none());
        journal.write(&Entry::Epoch { epoch: Epoch(6) });
        journal.flush(Instant(0)).unwrap();
        assert_eq!(Journal::read(&path).unwrap().len(), 3);
    }
}

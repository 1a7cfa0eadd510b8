//! What a new keeper needs when this one was killed: an append-only file of records, each line with a checksum. A torn or
//! damaged tail is ignored: what it would have said is found by the marker in the processes' environments.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::base::{Epoch, Exit, Generation, Incarnation, InstanceId, Listen, Part};
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

/// A journal that has grown by this much since it was last written whole is written whole again.
const REWRITE: u64 = 4 << 20;
/// A larger file is not ours.
const LARGEST: u64 = 256 << 20;

pub struct Journal {
    path: PathBuf,
    file: File,
    pending: String,
    grown: u64,
}

impl Journal {
    /// Begins a new file with these entries, replacing the old one.
    pub fn create(path: &Path, entries: &[Entry]) -> io::Result<Self> {
        let temporary = path.with_extension("new");
        let mut text = String::new();
        for entry in entries {
            push(&mut text, entry);
        }
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        std::fs::rename(&temporary, path)?;
        Ok(Self { path: path.to_owned(), file, pending: String::new(), grown: 0 })
    }

    /// Reads what an earlier keeper wrote; nothing if there is no such file.
    pub fn read(path: &Path) -> io::Result<Vec<Entry>> {
        let mut text = String::new();
        match File::open(path) {
            Ok(file) => file.take(LARGEST).read_to_string(&mut text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        Ok(text.split_inclusive('\n').map_while(whole).filter_map(parse).collect())
    }

    /// Takes an entry; [`Journal::flush`] writes it.
    pub fn write(&mut self, entry: &Entry) {
        push(&mut self.pending, entry);
    }

    pub fn flush(&mut self) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let result = self.file.write_all(self.pending.as_bytes());
        self.grown += self.pending.len() as u64;
        self.pending.clear();
        result
    }

    pub fn wants_rewrite(&self) -> bool {
        self.grown > REWRITE
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
    use super::*;

    #[test]
    fn a_torn_tail_is_ignored_and_what_came_before_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let begin =
            Entry::Begin { version: 1, boot: "b".into(), epoch: Epoch(3), incarnation: Incarnation(9) };
        let mut journal = Journal::create(&path, &[begin]).unwrap();
        journal.write(&Entry::Epoch { epoch: Epoch(4) });
        journal.write(&Entry::Epoch { epoch: Epoch(5) });
        journal.flush().unwrap();
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
}

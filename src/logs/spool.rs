//! One stream of one instance on its way to the log: bytes as they came, until lines are derived from them.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::pipe::SpliceFlags;

use crate::base::limits;
use crate::os::files;

/// Moved by one call: the size of a pipe at most.
const MOVE: usize = 1 << 20;
/// Disk space of consumed bytes is given back in steps of this size.
const PUNCH: u64 = 1 << 20;

pub struct Spool {
    path: PathBuf,
    pipe: OwnedFd,
    /// Created with the first byte: a silent service costs no file. Closed while others need its descriptor more.
    file: Option<File>,
    /// Bytes moved so far: the file's length.
    pub moved: u64,
    /// Lines are derived up to here.
    pub consumed: u64,
    punched: u64,
    /// Overwritten up to here, where that is asked for.
    wiped: u64,
}

/// What one look at the pipe found.
pub enum Moved {
    Bytes,
    Nothing,
    /// The disk cannot take it: the bytes stay in the pipe and the program waits.
    Stuck(io::Error),
}

impl Spool {
    /// `consumed` is what the index knows; `None`: nobody has written one.
    pub fn open(path: PathBuf, pipe: OwnedFd, consumed: Option<u64>) -> Self {
        let file = consumed.and_then(|_| files::existing_own_file(&path).ok());
        let consumed = consumed.unwrap_or(0);
        let moved = file.as_ref().and_then(|file| file.metadata().ok()).map_or(0, |meta| meta.len());
        // Where the index has lost how far it was, what had become lines, and whose disk space was given back, is not read again.
        let there = file.as_ref().map(|file| rustix::fs::seek(file, SeekFrom::Data(consumed)));
        let consumed = match there {
            Some(Ok(at)) => at,
            Some(Err(rustix::io::Errno::NXIO)) => moved,
            _ => consumed,
        };
        let consumed = consumed.min(moved);
        Self { path, pipe, file, moved, consumed, punched: consumed, wiped: 0 }
    }

    pub fn pipe(&self) -> &OwnedFd {
        &self.pipe
    }

    pub fn into_pipe(self) -> OwnedFd {
        self.pipe
    }

    pub fn is_open(&self) -> bool {
        self.file.is_some()
    }

    /// Gives its descriptor back, if nothing in it waits to become lines; it is opened again with the next byte.
    pub fn rest(&mut self) {
        if self.consumed == self.moved {
            self.file = None;
        }
    }

    /// In a directory that somebody may have removed.
    fn create(&self) -> io::Result<File> {
        let own = || files::own_file(&self.path).map(|(file, _)| file);
        match own() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.path.parent().map_or(Ok(()), files::private_dir_within)?;
                own()
            }
            result => result,
        }
    }

    /// Moves what is in the pipe to the end of the spool.
    pub fn fill(&mut self) -> Moved {
        if self.file.is_none() {
            match is_readable(&self.pipe) {
                true => match self.create() {
                    Ok(file) => self.file = Some(file),
                    Err(error) => return Moved::Stuck(error),
                },
                false => return Moved::Nothing,
            }
        }
        let Some(file) = &self.file else { return Moved::Nothing };
        let mut offset = self.moved;
        match rustix::pipe::splice(
            &self.pipe,
            None,
            file,
            Some(&mut offset),
            MOVE,
            SpliceFlags::NONBLOCK | SpliceFlags::MOVE,
        ) {
            Ok(0) => Moved::Nothing,
            Ok(count) => {
                self.moved += count as u64;
                Moved::Bytes
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Moved::Nothing,
            Err(error) => Moved::Stuck(error.into()),
        }
    }

    /// Reads the bytes that lines have not been derived from, up to the longest line and its end.
    pub fn unread<'a>(&self, buffer: &'a mut Vec<u8>) -> io::Result<&'a [u8]> {
        let Some(file) = &self.file else { return Ok(&[]) };
        let want = (self.moved - self.consumed).min(limits::LOG_LOOK_BYTES as u64) as usize;
        buffer.resize(want, 0);
        file.read_exact_at(buffer, self.consumed)?;
        Ok(buffer)
    }

    /// The next `count` unread bytes have become lines; their disk space is given back now and then.
    pub fn consume(&mut self, count: u64) {
        self.consumed += count;
        let end = self.consumed / PUNCH * PUNCH;
        if end > self.punched
            && let Some(file) = &self.file
        {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            // A file system that cannot do it keeps the bytes until the instance ends.
            if rustix::fs::fallocate(file, flags, self.punched, end - self.punched).is_ok() {
                self.wiped = self.wiped.max(end);
            }
            self.punched = end;
        }
    }

    /// Overwrites what has become lines: it holds secrets. In the page cache, where it mostly is gone before it was on the disk.
    pub fn wipe(&mut self) {
        const ZEROS: [u8; 16 << 10] = [0; 16 << 10];
        let Some(file) = &self.file else { return };
        // One look takes in no more, and all before it is overwritten: by the daemon before, too, but for its last look.
        self.wiped = self.wiped.max(self.consumed.saturating_sub(limits::LOG_LOOK_BYTES as u64));
        while self.wiped < self.consumed {
            let count = (self.consumed - self.wiped).min(ZEROS.len() as u64);
            // A disk that cannot take it: tried again with what comes next.
            if file.write_all_at(&ZEROS[..count as usize], self.wiped).is_err() {
                return;
            }
            self.wiped += count;
        }
    }

    pub fn remove(self) {
        if self.file.is_some() || self.moved > 0 {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Bytes wait in a pipe.
pub fn is_readable(fd: impl AsFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
}

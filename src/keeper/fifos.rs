//! Pairs of FIFOs, which instances write to, and of which one that nobody uses any more is used again. Each new FIFO costs a file
//! system an inode, and ext4 looks past every inode that was freed within the last minutes before it gives one
//! (`recently_deleted`): in a storm of crashes that was most of what a start cost.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirEntryExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::base::limits;

/// What the names of a pair begin with; no instance's does.
const PREFIX: &str = "fifo+";

/// Which pairs there are, by number.
pub struct Fifos {
    run: PathBuf,
    /// Those that wait; none once there are no instances to come.
    spare: Option<Vec<u64>>,
    next: u64,
}

impl Fifos {
    pub fn new(run: &Path) -> Self {
        Self { run: run.to_owned(), spare: Some(Vec::new()), next: 0 }
    }

    /// After an earlier keeper: the pairs of its instances are `known`; others are removed, as who holds them is not.
    pub fn clean(&mut self, known: &BTreeSet<u64>) {
        self.next = known.last().map_or(0, |last| last + 1);
        for entry in std::fs::read_dir(&self.run).into_iter().flatten().flatten() {
            if number_of(Path::new(&entry.file_name())).is_some_and(|number| !known.contains(&number)) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }

    /// A pair for a new instance: one that is there, or one to be made when it is opened.
    pub fn take(&mut self) -> u64 {
        self.spare.as_mut().and_then(Vec::pop).unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        })
    }

    /// An instance is gone. Its pair is kept for another one, unless somebody may still hold it; there are enough; or it was
    /// given to somebody.
    pub fn release(&mut self, number: u64) {
        let paths = paths(&self.run, number);
        let spare = self.spare.as_mut().filter(|spare| spare.len() < limits::SPARE_FIFOS);
        match spare.filter(|_| paths.iter().all(|path| is_unused(path))) {
            Some(spare) => spare.push(number),
            None => remove(&paths),
        }
    }

    /// Everything is to stop: removes those that wait, and keeps none any more.
    pub fn close(&mut self) {
        for number in self.spare.take().unwrap_or_default() {
            remove(&paths(&self.run, number));
        }
    }
}

/// Where a pair is: for stdout and for stderr.
pub fn paths(run: &Path, number: u64) -> [PathBuf; 2] {
    ["out", "err"].map(|end| run.join(format!("{PREFIX}{number}.{end}")))
}

/// The pair that a FIFO is of.
pub fn number_of(path: &Path) -> Option<u64> {
    path.file_stem()?.to_str()?.strip_prefix(PREFIX)?.parse().ok()
}

/// Opens a FIFO both ways, which waits for nobody; makes it if it is not there.
///
/// # Errors
/// mknod(2) or open(2) failed.
pub fn open(path: &Path, extra: OFlags) -> io::Result<OwnedFd> {
    let open = || rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC | extra, Mode::empty());
    match open() {
        Err(Errno::NOENT) => make(path).and_then(|()| Ok(open()?)),
        opened => Ok(opened?),
    }
}

/// Something is in it that nobody has read.
pub fn is_written(path: &Path) -> bool {
    let reader = open_there(path, OFlags::RDONLY);
    reader.is_ok_and(|reader| rustix::io::ioctl_fionread(&reader).is_ok_and(|bytes| bytes > 0))
}

/// Opens those that none of these descriptors is of: what is in them stays as long as somebody has them open.
pub fn hold_others(run: &Path, held: &[OwnedFd]) -> Vec<OwnedFd> {
    let inode = |fd: &OwnedFd| Some(rustix::fs::fstat(fd).ok()?.st_ino);
    let known: BTreeSet<u64> = held.iter().filter_map(inode).collect();
    let entries = std::fs::read_dir(run).into_iter().flatten().flatten();
    let others = entries
        .filter(|entry| number_of(Path::new(&entry.file_name())).is_some() && !known.contains(&entry.ino()));
    others.filter_map(|entry| open_there(&entry.path(), OFlags::RDWR).ok()).collect()
}

fn open_there(path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(path, flags | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())
}

fn remove(paths: &[PathBuf]) {
    for path in paths {
        let _ = std::fs::remove_file(path);
    }
}

/// A new FIFO, or the one that is there.
fn make(path: &Path) -> io::Result<()> {
    match rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// It is ours alone, nobody has it open in any way, and nothing is in it (fifo(7)).
fn is_unused(path: &Path) -> bool {
    // Whoever has it open for reading, or both ways, lets a writer in.
    if !matches!(open_there(path, OFlags::WRONLY), Err(Errno::NXIO)) {
        return false;
    }
    let Ok(reader) = open_there(path, OFlags::RDONLY) else { return false };
    let ours = rustix::fs::fstat(&reader).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::Fifo
            && stat.st_mode & 0o777 == 0o600
            && stat.st_uid == rustix::process::geteuid().as_raw()
            && stat.st_nlink == 1
    });
    // The end of a file is where there is no writer; where there is one, there may be more to come (EAGAIN).
    ours && matches!(rustix::io::read(&reader, &mut [0u8]), Ok(0))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn hold(path: &Path, flags: OFlags) -> OwnedFd {
        rustix::fs::open(path, flags | OFlags::NONBLOCK, Mode::empty()).unwrap()
    }

    #[test]
    fn a_pair_that_nobody_holds_is_used_again_and_any_other_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let mut fifos = Fifos::new(dir.path());
        let made = |number: u64| paths(dir.path(), number).map(|path| open(&path, OFlags::NONBLOCK).unwrap());
        let first = fifos.take();
        drop(made(first));
        fifos.release(first);
        assert_eq!(fifos.take(), first);
        for flags in [OFlags::RDWR, OFlags::RDONLY] {
            for at in [0, 1] {
                let number = fifos.take();
                drop(made(number));
                let held = hold(&paths(dir.path(), number)[at], flags);
                fifos.release(number);
                assert!(fifos.spare.as_ref().unwrap().is_empty(), "{flags:?}");
                assert!(!paths(dir.path(), number)[at].exists(), "{flags:?}");
                drop(held);
            }
        }
        drop(made(first));
        let [path, _] = paths(dir.path(), first);
        // A writer alone, as who opens /dev/stdout again is.
        let both = hold(&path, OFlags::RDWR);
        let writer = hold(&path, OFlags::WRONLY);
        drop(both);
        assert!(!is_unused(&path));
        drop(writer);
        assert!(is_unused(&path));
        for mode in [0o644, 0o600] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(is_unused(&path), mode == 0o600);
        }
        let other = dir.path().join("other");
        assert!(!is_unused(&other));
        std::os::unix::fs::symlink(&path, &other).unwrap();
        assert!(!is_unused(&other));
        std::fs::remove_file(&other).unwrap();
        std::fs::write(&other, "").unwrap();
        assert!(!is_unused(&other));
    }

    #[test]
    fn no_more_wait_than_are_of_use_and_after_a_keeper_only_what_is_known_stays() {
        let dir = tempfile::tempdir().unwrap();
        let mut fifos = Fifos::new(dir.path());
        let make = |number| {
            paths(dir.path(), number).iter().for_each(|path| drop(open(path, OFlags::NONBLOCK).unwrap()))
        };
        let count = || std::fs::read_dir(dir.path()).unwrap().count();
        let numbers: Vec<u64> = (0..limits::SPARE_FIFOS + 5).map(|_| fifos.take()).collect();
        numbers.iter().for_each(|number| make(*number));
        numbers.iter().for_each(|number| fifos.release(*number));
        assert_eq!(count(), 2 * limits::SPARE_FIFOS);
        std::fs::write(dir.path().join("journal"), "").unwrap();
        let mut heir = Fifos::new(dir.path());
        heir.clean(&BTreeSet::from([2, 7]));
        assert_eq!((count(), heir.take()), (2 * 2 + 1, 8));
        make(8);
        heir.release(8);
        heir.close();
        make(9);
        heir.release(9);
        assert_eq!(count(), 2 * 2 + 1);
    }
}

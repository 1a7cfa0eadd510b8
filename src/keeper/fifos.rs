//! FIFOs that nobody uses any more, for instances to come. Each new one costs a file system an inode, and ext4 looks past every
//! inode that was freed within the last minutes before it gives one (`recently_deleted`): in a storm of crashes that was most of
//! what a start cost.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::base::limits;

/// What the name of one that waits begins with; no instance's does.
const SPARE: &str = "spare+";

pub struct Fifos {
    run: PathBuf,
    /// Numbers of those that wait; none once there are no instances to come.
    spare: Mutex<Option<Vec<u64>>>,
    next: AtomicU64,
}

impl Fifos {
    /// Those that an earlier keeper left are removed: who holds them is not known.
    pub fn new(run: &Path) -> Self {
        let entries = std::fs::read_dir(run).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(SPARE)) {
            let _ = std::fs::remove_file(entry.path());
        }
        Self { run: run.to_owned(), spare: Mutex::new(Some(Vec::new())), next: AtomicU64::new(0) }
    }

    /// A FIFO of this path, readable and writable by its owner; the one that is there, if there is one.
    ///
    /// # Errors
    /// mknod(2) failed.
    pub fn make(&self, path: &Path) -> io::Result<()> {
        let spare = self.spare().as_mut().and_then(Vec::pop);
        if spare.is_some_and(|number| std::fs::rename(self.path(number), path).is_ok()) {
            return Ok(());
        }
        make(path)
    }

    /// Keeps it for another instance, unless somebody may still hold it; there are enough; or it was given to somebody.
    pub fn release(&self, path: &Path) {
        let wanted = self.spare().as_ref().is_some_and(|spare| spare.len() < limits::SPARE_FIFOS);
        if wanted && is_unused(path) {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if std::fs::rename(path, self.path(number)).is_ok() {
                self.spare().get_or_insert_default().push(number);
                return;
            }
        }
        let _ = std::fs::remove_file(path);
    }

    /// Everything is to stop: removes those that wait, and keeps none any more.
    pub fn close(&self) {
        for number in self.spare().take().unwrap_or_default() {
            let _ = std::fs::remove_file(self.path(number));
        }
    }

    fn spare(&self) -> MutexGuard<'_, Option<Vec<u64>>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, number: u64) -> PathBuf {
        self.run.join(format!("{SPARE}{number}"))
    }
}

/// A new FIFO, or the one that is there.
///
/// # Errors
/// mknod(2) failed.
pub fn make(path: &Path) -> io::Result<()> {
    match rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// It is ours alone, nobody has it open in any way, and nothing is in it (fifo(7)).
fn is_unused(path: &Path) -> bool {
    let open = |flags| {
        rustix::fs::open(path, flags | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())
    };
    // Whoever has it open for reading, or both ways, lets a writer in.
    if !matches!(open(OFlags::WRONLY), Err(Errno::NXIO)) {
        return false;
    }
    let Ok(reader) = open(OFlags::RDONLY) else { return false };
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
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    fn open(path: &Path, flags: OFlags) -> std::os::fd::OwnedFd {
        rustix::fs::open(path, flags | OFlags::NONBLOCK, Mode::empty()).unwrap()
    }

    #[test]
    fn one_that_nobody_holds_is_used_again_and_any_other_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let fifos = Fifos::new(dir.path());
        let of = |name: &str| dir.path().join(name);
        let inode = |name: &str| of(name).metadata().unwrap().ino();
        fifos.make(&of("a")).unwrap();
        let first = inode("a");
        fifos.release(&of("a"));
        assert!(!of("a").exists());
        fifos.make(&of("b")).unwrap();
        assert_eq!(inode("b"), first);
        for flags in [OFlags::RDWR, OFlags::RDONLY] {
            let held = open(&of("b"), flags);
            let before = fifos.spare().clone();
            fifos.release(&of("b"));
            assert!(!of("b").exists() && *fifos.spare() == before, "{flags:?}");
            drop(held);
            fifos.make(&of("b")).unwrap();
        }
        // A writer alone, as who opens /dev/stdout again is; and what it wrote.
        let both = open(&of("b"), OFlags::RDWR);
        let writer = open(&of("b"), OFlags::WRONLY);
        drop(both);
        assert!(!is_unused(&of("b")));
        drop(writer);
        assert!(is_unused(&of("b")));
        for mode in [0o644, 0o600] {
            std::fs::set_permissions(of("b"), std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(is_unused(&of("b")), mode == 0o600);
        }
        std::fs::write(of("c"), "").unwrap();
        assert!(!is_unused(&of("c")) && !is_unused(&of("d")));
        std::os::unix::fs::symlink(of("b"), of("e")).unwrap();
        assert!(!is_unused(&of("e")));
    }

    #[test]
    fn no_more_wait_than_are_of_use_and_none_outlive_the_keeper() {
        let dir = tempfile::tempdir().unwrap();
        let fifos = Fifos::new(dir.path());
        let of = |number: usize| dir.path().join(number.to_string());
        for number in 0..limits::SPARE_FIFOS + 5 {
            fifos.make(&of(number)).unwrap();
        }
        (0..limits::SPARE_FIFOS + 5).for_each(|number| fifos.release(&of(number)));
        let count = || std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(count(), limits::SPARE_FIFOS);
        drop(Fifos::new(dir.path()));
        assert_eq!(count(), 0);
        // One that somebody removed is made anew.
        fifos.make(&of(0)).unwrap();
        assert_eq!(count(), 1);
        fifos.release(&of(0));
        fifos.close();
        fifos.make(&of(0)).unwrap();
        fifos.release(&of(0));
        assert_eq!(count(), 0);
    }
}

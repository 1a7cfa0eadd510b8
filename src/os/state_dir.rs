//! The state directory: where everything lives, who may, and one system a directory.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{clock, files, process};

/// A process that was killed lets go of its lock within this.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
/// One that has just been killed is seen as alive for a moment.
const LOCK_LOOK: Duration = Duration::from_millis(300);
const LOCK_AGAIN: Duration = Duration::from_millis(2);

fn is_alive(pid: &str) -> bool {
    pid.parse().is_ok_and(|pid| process::stat(pid).is_some_and(|stat| stat.is_alive()))
}

/// Paths of a state directory (architecture §5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateDir {
    pub root: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    #[error("cannot create the state directory {path}: {why}")]
    Create { path: PathBuf, why: String },
    #[error("the state directory {path} belongs to user {owner}, not to you (user {you})")]
    Owner { path: PathBuf, owner: u32, you: u32 },
    #[error("the state directory {path} is a symbolic link or no directory")]
    NotDirectory { path: PathBuf },
    #[error("the state directory {path} is not to be trusted by root: {why}")]
    Untrusted { path: PathBuf, why: String },
    #[error("a system is already running on {path} (pid {pid})")]
    Locked { path: PathBuf, pid: String },
    #[error("cannot lock {path}: {why}")]
    Lock { path: PathBuf, why: String },
}

impl StateDir {
    /// Opens or creates the directory: mode 0700, owner checked, no symbolic link; for root, writable by root alone.
    pub fn open(root: &Path) -> Result<Self, StateDirError> {
        let create =
            |error: io::Error| StateDirError::Create { path: root.to_owned(), why: files::why(&error) };
        files::private_dir(root).map_err(create)?;
        let meta = fs::symlink_metadata(root).map_err(create)?;
        if !meta.is_dir() {
            return Err(StateDirError::NotDirectory { path: root.to_owned() });
        }
        let you = rustix::process::geteuid().as_raw();
        if meta.uid() != you {
            return Err(StateDirError::Owner { path: root.to_owned(), owner: meta.uid(), you });
        }
        if meta.mode() & 0o077 != 0 {
            fs::set_permissions(root, std::os::unix::fs::PermissionsExt::from_mode(0o700)).map_err(create)?;
        }
        let root = fs::canonicalize(root).map_err(create)?;
        if you == 0
            && let Some(why) = files::untrusted(&root)
        {
            return Err(StateDirError::Untrusted { path: root, why });
        }
        let dir = Self { root };
        for sub in [dir.run(), dir.services_logs(), dir.index(), dir.crash_dumps()] {
            files::private_dir(&sub).map_err(create)?;
        }
        Ok(dir)
    }

    pub fn socket(&self) -> PathBuf {
        self.root.join("unisys.sock")
    }

    pub fn run(&self) -> PathBuf {
        self.root.join("run")
    }

    pub fn database(&self) -> PathBuf {
        self.root.join("state.db")
    }

    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    pub fn services_logs(&self) -> PathBuf {
        self.root.join("logs/services")
    }

    /// A directory a crash.
    pub fn crash_dumps(&self) -> PathBuf {
        self.root.join("crash-dumps")
    }

    /// Notifications that could not be delivered, one a line.
    pub fn dead_letters(&self) -> PathBuf {
        self.root.join("logs/notifier-dead-letters.jsonl")
    }

    /// What was moved from which spool to where, beside the logs that people read.
    pub fn index(&self) -> PathBuf {
        self.root.join("logs/index")
    }

    /// Takes the lock for as long as the descriptor lives (flock(2)); the file holds the owner's pid.
    ///
    /// A holder that was killed lets go a moment after it is seen to be dead: it is waited for, and one that seems to be alive
    /// may just have been killed. An heir waits for the keeper of this pid, and gives way to whoever took over meanwhile.
    pub fn lock(&self, heir_of: Option<u32>) -> Result<OwnedFd, StateDirError> {
        let began = clock::mono();
        let heir_of = heir_of.map(|pid| pid.to_string());
        loop {
            let holder = self.holder();
            let locked = || StateDirError::Locked { path: self.root.clone(), pid: holder.clone() };
            let superseded = heir_of.as_ref().is_some_and(|former| *former != holder);
            match self.try_lock(superseded) {
                Err(StateDirError::Locked { .. }) => {
                    let dead = heir_of.is_some() || !is_alive(&holder);
                    let patience = if dead { LOCK_PATIENCE } else { LOCK_LOOK };
                    if superseded || clock::mono().since(began) >= patience {
                        return Err(locked());
                    }
                    std::thread::sleep(LOCK_AGAIN);
                }
                result => return result,
            }
        }
    }

    /// The pid that the lock's file names.
    pub fn holder(&self) -> String {
        fs::read_to_string(self.root.join("lock")).unwrap_or_default().trim().to_owned()
    }

    /// `superseded`: another keeper has been there since, and whether it still is or not, its word stands.
    fn try_lock(&self, superseded: bool) -> Result<OwnedFd, StateDirError> {
        use rustix::fs::{FlockOperation, Mode, OFlags};
        let path = self.root.join("lock");
        let fail = |error: io::Error| StateDirError::Lock { path: path.clone(), why: files::why(&error) };
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600)).map_err(|e| fail(e.into()))?;
        match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) if !superseded => {}
            Ok(()) | Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(StateDirError::Locked { path: self.root.clone(), pid: self.holder() });
            }
            Err(error) => return Err(fail(error.into())),
        }
        let pid = format!("{}\n", std::process::id());
        rustix::fs::ftruncate(&fd, 0).map_err(|e| fail(e.into()))?;
        rustix::io::pwrite(&fd, pid.as_bytes(), 0).map_err(|e| fail(e.into()))?;
        Ok(fd)
    }

    /// Identity of the directory for the marker in children's environments: survives renames and restarts.
    pub fn identity(&self) -> io::Result<String> {
        let path = self.run().join("id");
        match fs::read_to_string(&path) {
            Ok(text) if text.trim().len() == 16 => Ok(text.trim().to_owned()),
            _ => {
                let id: String =
                    super::clock::random::<8>().iter().map(|byte| format!("{byte:02x}")).collect();
                files::write_atomically(&path, id.as_bytes(), 0o600)?;
                Ok(id)
            }
        }
    }
}

/// A path to a unix socket that fits into an address (107 bytes), however long the real one is: through an open directory.
/// The descriptor has to live while the path is used.
pub fn short_socket(path: &Path) -> io::Result<(PathBuf, Option<OwnedFd>)> {
    use std::os::fd::AsRawFd;
    if path.as_os_str().len() <= 100 {
        return Ok((path.to_owned(), None));
    }
    let (dir, name) = (path.parent().unwrap_or(Path::new("/")), path.file_name().unwrap_or_default());
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let fd = rustix::fs::open(dir, flags, rustix::fs::Mode::empty())?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd())).join(name);
    Ok((short, Some(fd)))
}

//! The state directory: where everything lives, who may, and one system a directory.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::place::Place;
use super::{clock, files, process};

/// A process that was killed lets go of its lock within this.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
/// One that has just been killed is seen as alive for a moment.
const LOCK_LOOK: Duration = Duration::from_millis(300);
const LOCK_AGAIN: Duration = Duration::from_millis(2);

fn is_alive(pid: &str) -> bool {
    pid.parse().is_ok_and(|pid| process::stat(pid).is_some_and(|stat| stat.is_alive()))
}

/// Why somebody else may have put into a directory what is in it.
fn planted(root: &Path, meta: &fs::Metadata, you: u32) -> io::Result<Option<String>> {
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        if meta.mode() & 0o022 != 0 {
            let mode = meta.mode() & 0o7777;
            return Ok(Some(format!("it can be written by others (mode {mode:04o}), and is not empty")));
        }
        match entry.metadata() {
            Ok(found) if ![0, you].contains(&found.uid()) => {
                let name = entry.file_name();
                return Ok(Some(format!("{} in it belongs to user {}", name.display(), found.uid())));
            }
            // It has gone meanwhile.
            Ok(_) | Err(_) => {}
        }
    }
    Ok(None)
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
    #[error("the state directory {path} is not to be trusted: {why}")]
    Untrusted { path: PathBuf, why: String },
    #[error("a system is already running on {path} (pid {pid})")]
    Locked { path: PathBuf, pid: String },
    #[error(
        "the system of {path} still runs (keeper, pid {pid}) though its directory was removed; `kill {pid}` stops its services in \
         order and ends it"
    )]
    Removed { path: PathBuf, pid: u32 },
    #[error("cannot lock {path}: {why}")]
    Lock { path: PathBuf, why: String },
    #[error("cannot begin anew in {path}, which is a copy of another system's state directory: {why}")]
    Copied { path: PathBuf, why: String },
    #[error("the keeper that was to be replaced on {path} has ended in order, or has been replaced")]
    Superseded { path: PathBuf },
}

impl StateDir {
    /// Opens or creates the directory: mode 0700, owner checked, no symbolic link, nothing in it of somebody else, for what it
    /// holds is carried out; for root, its parents are writable by root alone.
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
        if let Some(why) = planted(root, &meta, you).map_err(create)? {
            return Err(StateDirError::Untrusted { path: root.to_owned(), why });
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
        // What is in it is of this machine, and may be secret: no repository is to take it in. Where that cannot be written (a full
        // disk) the system has to run all the same.
        let ignore = fs::OpenOptions::new().write(true).create_new(true).open(dir.root.join(".gitignore"));
        let _ = ignore.and_then(|mut file| io::Write::write_all(&mut file, b"*\n"));
        for sub in [dir.run(), dir.services_logs(), dir.index(), dir.crash_dumps()] {
            files::private_dir(&sub).map_err(create)?;
        }
        Ok(dir)
    }

    /// Whether somebody's state lies there: that is nobody's manifests.
    pub fn is_at(root: &Path) -> bool {
        let state = Self { root: root.to_owned() };
        [state.run(), state.index(), state.crash_dumps()].iter().all(|dir| dir.is_dir())
    }

    pub fn socket(&self) -> PathBuf {
        self.root.join("unisys.sock")
    }

    pub fn run(&self) -> PathBuf {
        self.root.join("run")
    }

    /// Where files come and go that only tell the order of what happened to others.
    pub fn marks(&self) -> PathBuf {
        self.run().join("marks")
    }

    /// What the keeper writes for the next one.
    pub fn journal(&self) -> PathBuf {
        self.run().join("journal")
    }

    pub fn database(&self) -> PathBuf {
        self.root.join("state.db")
    }

    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// JSON lines of everything that unisys says about itself.
    pub fn log(&self) -> PathBuf {
        self.logs().join("unifiedsystem.log")
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

    /// What each notifier has told, for the next daemon.
    pub fn told(&self) -> PathBuf {
        self.root.join("notifiers")
    }

    /// What was moved from which spool to where, beside the logs that people read.
    pub fn index(&self) -> PathBuf {
        self.root.join("logs/index")
    }

    /// Takes the lock for as long as the descriptor lives (flock(2)); the file holds the owner's pid until that ends in order.
    ///
    /// A holder that was killed lets go a moment after it is seen to be dead: it is waited for, and one that seems to be alive
    /// may just have been killed. An heir waits for the keeper of this pid.
    ///
    /// # Errors
    /// `Superseded`: the keeper that an heir is to replace has ended in order, or another one took over meanwhile; whether that
    /// still is there or not, its word stands.
    pub fn lock(&self, heir_of: Option<u32>) -> Result<OwnedFd, StateDirError> {
        let began = clock::mono();
        let former = heir_of.map(|pid| pid.to_string());
        loop {
            match self.try_lock(former.as_deref()) {
                Err(StateDirError::Locked { path, pid }) => {
                    let dead = former.is_some() || !is_alive(&pid);
                    let patience = if dead { LOCK_PATIENCE } else { LOCK_LOOK };
                    if clock::mono().since(began) >= patience {
                        return Err(StateDirError::Locked { path, pid });
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

    fn try_lock(&self, former: Option<&str>) -> Result<OwnedFd, StateDirError> {
        use rustix::fs::{FlockOperation, Mode, OFlags};
        let path = self.root.join("lock");
        let fail = |error: io::Error| StateDirError::Lock { path: path.clone(), why: files::why(&error) };
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fresh = !path.exists();
        let fd = rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600)).map_err(|e| fail(e.into()))?;
        let locked = rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive);
        let pid = self.holder();
        match locked {
            Ok(()) | Err(rustix::io::Errno::WOULDBLOCK) if former.is_some_and(|former| former != pid) => {
                return Err(StateDirError::Superseded { path: self.root.clone() });
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(StateDirError::Locked { path: self.root.clone(), pid });
            }
            Ok(()) => {}
            Err(error) => return Err(fail(error.into())),
        }
        if fresh && let Some(pid) = holder_of_removed(&path) {
            // The next who asks must find out as well.
            fs::remove_file(&path).map_err(fail)?;
            return Err(StateDirError::Removed { path: self.root.clone(), pid });
        }
        // One write of a fixed width: whoever is killed here leaves the pid of the former or its own, never half of one.
        let pid = format!("{:<10}\n", std::process::id());
        rustix::io::pwrite(&fd, pid.as_bytes(), 0).map_err(|e| fail(e.into()))?;
        rustix::fs::ftruncate(&fd, pid.len() as u64).map_err(|e| fail(e.into()))?;
        Ok(fd)
    }

    /// The lock that stands here is this one: the directory is still the holder's, and not another that was made in its place.
    pub fn is_held_by(&self, lock: &OwnedFd) -> bool {
        let here = fs::symlink_metadata(self.root.join("lock"));
        let own = rustix::fs::fstat(lock);
        matches!((here, own), (Ok(here), Ok(own)) if (here.dev(), here.ino()) == (own.st_dev, own.st_ino))
    }

    /// The holder ends in order: nobody is to take its place.
    pub fn let_go(lock: &OwnedFd) {
        let _ = rustix::fs::ftruncate(lock, 0);
    }

    fn place(&self) -> PathBuf {
        self.run().join("place")
    }

    /// The directory that this one is a copy of. What is written here of processes (journal, identity) is that one's.
    pub fn copied_from(&self) -> Option<PathBuf> {
        let id = fs::read_to_string(self.run().join("id")).ok()?;
        let (recorded, own) =
            (Place::read(&self.place())?, Place::of(&fs::canonicalize(&self.root).ok()?).ok()?);
        let same = fs::read_to_string(recorded.path.join("run/id")).is_ok_and(|other| other == id);
        let twin = Place::of(&recorded.path).ok().filter(|_| same);
        own.is_copy(&recorded, twin.as_ref()).then_some(recorded.path)
    }

    /// Writes down where this directory lies. A copy becomes a system of its own: what runs, and what is owed, is that of the
    /// directory that was copied, which is given. To be called by who has the lock.
    ///
    /// # Errors
    /// `Removed`: it was copied, or moved to another file system, from a directory that is gone and whose keeper is not.
    pub fn settle(&self) -> Result<Option<PathBuf>, StateDirError> {
        let fail =
            |error: io::Error| StateDirError::Copied { path: self.root.clone(), why: files::why(&error) };
        let of = self.copied_from();
        if of.is_some() {
            // The identity last: who is killed before that does all of it again.
            let removed = [
                fs::remove_file(self.journal()),
                fs::remove_file(self.socket()),
                fs::remove_dir_all(self.told()),
                fs::remove_file(self.run().join("id")),
            ];
            for result in removed {
                match result {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fail(error)),
                    _ => {}
                }
            }
        }
        let own = Place::of(&self.root).map_err(fail)?;
        let recorded = Place::read(&self.place());
        if let Some(recorded) = recorded.as_ref().filter(|recorded| of.is_none() && !recorded.is(&own))
            && recorded.path != own.path
            && let Some(pid) = holder_of_removed(&recorded.path.join("lock"))
        {
            return Err(StateDirError::Removed { path: recorded.path.clone(), pid });
        }
        // A full disk keeps nobody from what runs: the next one writes it.
        if recorded.as_ref() != Some(&own) {
            let _ = own.write(&self.place());
        }
        Ok(of)
    }

    /// Makes the directory of what only a running system has again, if somebody removed it; true if that was so. Who it is stays.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn restore_run(&self, id: &str) -> io::Result<bool> {
        let path = self.run().join("id");
        if path.exists() {
            return Ok(false);
        }
        files::private_dir_within(&self.run())?;
        Place::of(&self.root)?.write(&self.place())?;
        files::write_atomically(&path, id.as_bytes(), 0o600)?;
        Ok(true)
    }

    /// Identity of the directory for the marker in children's environments: survives renames and restarts, and is not copied.
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

/// The keeper that holds the lock that was at this path before somebody removed it (`rm -rf`, `git clean`), be it after the
/// directory was moved elsewhere.
fn holder_of_removed(lock: &Path) -> Option<u32> {
    let (own, root) = (process::stat(std::process::id())?, lock.parent()?);
    let removed = PathBuf::from(format!("{} (deleted)", lock.display()));
    let all: Vec<_> = process::all().into_iter().filter(|stat| stat.name == own.name).collect();
    let others = || all.iter().filter(|stat| stat.pid != own.pid);
    // Of what was moved the kernel tells the last name; who serves it was told the first.
    let was_here = |keeper: u32| {
        let mut served = all.iter().filter(|stat| stat.pid == keeper || stat.ppid == keeper);
        served.any(|stat| told_of(stat.pid).is_some_and(|told| told == root))
    };
    let moved = |pid| process::holds(pid, |path| path.ends_with("lock (deleted)")) && was_here(pid);
    let holder = others().find(|stat| process::holds_open(stat.pid, &removed));
    holder.or_else(|| others().find(|stat| moved(stat.pid))).map(|stat| stat.pid)
}

/// The state directory that a keeper in the background, or a daemon, was told to serve.
fn told_of(pid: u32) -> Option<PathBuf> {
    let command = process::command(pid);
    let options = command.get(command.find('{')?..=command.rfind('}')?)?;
    let options: serde_json::Value = serde_json::from_str(options).ok()?;
    fs::canonicalize(options["stateDir"].as_str()?).ok()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn former(state: &StateDir) -> u32 {
        state.holder().parse().unwrap()
    }

    #[test]
    fn an_heir_takes_the_place_of_a_killed_keeper_and_of_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(&dir.path().join("state")).unwrap();
        let superseded = |result| matches!(result, Err(StateDirError::Superseded { .. }));
        let lock = state.lock(None).unwrap();
        assert!(state.is_held_by(&lock));
        assert!(matches!(state.lock(None), Err(StateDirError::Locked { .. })));
        drop(lock);
        // Killed: its pid stands.
        let heir = state.lock(Some(former(&state))).unwrap();
        assert!(superseded(state.lock(Some(u32::MAX))), "another took over and is there");
        StateDir::let_go(&heir);
        assert!(superseded(state.lock(Some(std::process::id()))), "it ended in order and is still there");
        drop(heir);
        assert!(superseded(state.lock(Some(std::process::id()))), "it ended in order");
        assert!(state.lock(None).is_ok(), "a person may begin anew");
    }

    #[test]
    fn what_somebody_else_may_have_put_into_it_is_not_carried_out() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("state");
        let mode = |mode| fs::set_permissions(&root, fs::Permissions::from_mode(mode)).unwrap();
        let refused = || match StateDir::open(&root) {
            Err(StateDirError::Untrusted { why, .. }) => why,
            other => panic!("{other:?}"),
        };
        fs::create_dir(&root).unwrap();
        mode(0o777);
        StateDir::open(&root).expect("it is empty");
        assert_eq!(fs::metadata(&root).unwrap().mode() & 0o777, 0o700);
        mode(0o775);
        assert!(refused().contains("mode 0775"));
        assert_eq!(fs::metadata(&root).unwrap().mode() & 0o777, 0o775, "nothing is hidden");
        mode(0o700);
        StateDir::open(&root).unwrap();
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(root.join("run"), Some(65534), None).unwrap();
            assert_eq!(refused(), "run in it belongs to user 65534");
        }
    }

    #[test]
    fn a_directory_that_was_made_in_the_place_of_a_removed_one_is_not_the_holders() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(&dir.path().join("state")).unwrap();
        let lock = state.lock(None).unwrap();
        fs::rename(&state.root, dir.path().join("gone")).unwrap();
        assert!(!state.is_held_by(&lock));
        let again = StateDir::open(&state.root).unwrap();
        fs::write(again.root.join("lock"), "1\n").unwrap();
        assert!(!again.is_held_by(&lock));
    }

    #[test]
    fn a_copy_begins_with_an_identity_of_its_own_and_no_journal_and_what_was_moved_keeps_both() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(&dir.path().join("state")).unwrap();
        assert_eq!(state.settle().unwrap(), None);
        let id = state.identity().unwrap();
        fs::write(state.journal(), "what runs").unwrap();
        let copy = StateDir::open(&dir.path().join("copy")).unwrap();
        for file in ["id", "place", "journal"] {
            fs::copy(state.run().join(file), copy.run().join(file)).unwrap();
        }
        assert_eq!(copy.copied_from(), Some(state.root.clone()));
        assert_eq!(copy.settle().unwrap(), Some(state.root.clone()));
        assert!(!copy.journal().exists());
        assert_ne!(copy.identity().unwrap(), id);
        assert_eq!((copy.settle().unwrap(), copy.copied_from()), (None, None), "it is one of its own now");
        let moved = dir.path().join("moved");
        fs::rename(&state.root, &moved).unwrap();
        let moved = StateDir::open(&moved).unwrap();
        assert_eq!(moved.settle().unwrap(), None);
        assert_eq!((moved.identity().unwrap(), moved.journal().exists()), (id, true));
    }

    #[test]
    fn a_longer_word_in_the_lock_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(&dir.path().join("state")).unwrap();
        fs::write(state.root.join("lock"), "4294967295 and more of it\n").unwrap();
        let _lock = state.lock(None).unwrap();
        assert_eq!(state.holder(), std::process::id().to_string());
    }
}

//! Files: bounded reads, atomic writes, who may write where.

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::Stamp;
use crate::base::limits;
use crate::base::ports::{Place, places_overlap};
use crate::manifest::{FileError, Files};
use crate::plan::machine::{FileKind, Limit, Machine};

use super::clock;

/// Reads at most `limit` bytes of a regular file. Never blocks on a FIFO or device.
pub fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    Ok(read_identified(path, limit)?.1)
}

/// The same with what the file was before it was read.
pub(super) fn read_identified(path: &Path, limit: u64) -> io::Result<(Identity, Vec<u8>)> {
    let (file, meta) = open_regular(path)?;
    if meta.len() > limit {
        return Err(too_large(limit));
    }
    let mut bytes = Vec::with_capacity(meta.len() as usize);
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit { Err(too_large(limit)) } else { Ok((Identity::of(&meta), bytes)) }
}

/// What a file is without a look into it (stat(2)): the same again has the same content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// Device and inode.
    pub file: (u64, u64),
    size: u64,
    /// When it was last changed, by any means: seconds and nanoseconds.
    changed: (i64, i64),
}

impl Identity {
    pub fn of(meta: &fs::Metadata) -> Self {
        let changed = (meta.ctime(), meta.ctime_nsec());
        Self { file: (meta.dev(), meta.ino()), size: meta.size(), changed }
    }

    /// Whether another change, from this moment on, gives it another time. The clock of a file system goes in steps, of two
    /// seconds at most (FAT): what was changed just now may be changed once more at the same time (git calls it racy).
    pub fn is_settled(&self, now: Stamp) -> bool {
        const STEP_MS: i64 = 2_000;
        self.changed.0.saturating_mul(1_000).saturating_add(self.changed.1 / 1_000_000) + STEP_MS < now.0
    }
}

/// Neither waits for who writes into a FIFO nor opens a device, which may have no end.
fn open_regular(path: &Path) -> io::Result<(fs::File, fs::Metadata)> {
    let how = libc::O_NONBLOCK | libc::O_CLOEXEC;
    let file = fs::OpenOptions::new().read(true).custom_flags(how).open(path)?;
    let meta = file.metadata()?;
    if meta.is_dir() {
        return Err(io::Error::other("it is a directory"));
    }
    if !meta.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    Ok((file, meta))
}

/// The program that a script is to be read by, as its first line says (execve(2)).
pub fn interpreter(script: &Path) -> Option<String> {
    let mut first = vec![0; 256];
    let count = open_regular(script).ok()?.0.read(&mut first).ok()?;
    let line = first[..count].strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    Some(String::from_utf8_lossy(line).split_whitespace().next()?.to_owned())
}

fn too_large(limit: u64) -> io::Error {
    io::Error::other(format!("it is larger than {} MiB", limit >> 20))
}

/// What the operating system said, without its error number.
pub fn why(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    match error.kind() {
        io::ErrorKind::NotFound => "it does not exist".into(),
        io::ErrorKind::PermissionDenied => "permission denied".into(),
        _ if error.raw_os_error() == Some(libc::ELOOP) => "its symbolic links go in a circle".into(),
        _ => text.to_owned(),
    }
}

/// Referenced files, read from the disk.
pub struct Disk;

impl Files for Disk {
    fn read(&self, path: &Path) -> Result<Arc<[u8]>, FileError> {
        match read_bounded(path, limits::ENV_FILE_BYTES) {
            Ok(bytes) => Ok(bytes.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(FileError::Missing),
            Err(error) => Err(FileError::Unreadable(why(&error))),
        }
    }

    fn digest(&self, path: &Path) -> Result<u64, FileError> {
        digest(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => FileError::Missing,
            _ => FileError::Unreadable(why(&error)),
        })
    }
}

thread_local! {
    /// Files that were read whole, and what they were then.
    static DIGESTS: RefCell<BTreeMap<PathBuf, (Identity, u64)>> = const { RefCell::new(BTreeMap::new()) };
}

/// SHA-256 of a file, its first 64 bits. A file that has not changed is not read again.
fn digest(path: &Path) -> io::Result<u64> {
    use sha2::Digest;
    let (mut file, meta) = open_regular(path)?;
    let identity = Identity::of(&meta);
    let known = DIGESTS.with_borrow(|digests| digests.get(path).copied());
    if let Some((_, digest)) = known.filter(|(known, _)| *known == identity) {
        return Ok(digest);
    }
    let mut hasher = sha2::Sha256::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            count => hasher.update(&buffer[..count]),
        }
    }
    let digest = hasher.finalize().iter().take(8).fold(0, |sum, byte| (sum << 8) | u64::from(*byte));
    if identity.is_settled(clock::wall()) {
        DIGESTS.with_borrow_mut(|digests| digests.insert(path.to_owned(), (identity, digest)));
    }
    Ok(digest)
}

/// This machine, for the checks of E2xxx. Ports that listeners of our own processes hold are not foreign.
#[derive(Default)]
pub struct ThisMachine {
    /// Where others listen (TCP), with the pid and command that do.
    holders: BTreeMap<Place, String>,
    /// Looked up once: every unit of a revision asks.
    controllers: OnceCell<super::cgroup::Offer>,
    capabilities: OnceCell<u64>,
    namespace: OnceCell<Result<(), String>>,
    /// Files that were looked at: a thousand units that run one program ask about it once.
    seen: RefCell<BTreeMap<OsString, FileKind>>,
    /// Limits that were tried.
    limits: RefCell<BTreeMap<Limit, Result<(), String>>>,
}

impl ThisMachine {
    pub fn new(holders: BTreeMap<Place, String>) -> Self {
        Self { holders, ..Self::default() }
    }
}

impl Machine for ThisMachine {
    fn file(&self, path: &Path) -> FileKind {
        if let Some(kind) = self.seen.borrow().get(path.as_os_str()) {
            return *kind;
        }
        let kind = match fs::metadata(path) {
            Err(_) => FileKind::Missing,
            Ok(meta) if meta.is_dir() => FileKind::Directory,
            Ok(_) => match rustix::fs::access(path, rustix::fs::Access::EXEC_OK) {
                Ok(()) => FileKind::Executable,
                Err(_) => FileKind::NotExecutable,
            },
        };
        self.seen.borrow_mut().insert(path.as_os_str().to_owned(), kind);
        kind
    }

    fn user_exists(&self, user: &str) -> bool {
        super::identity::user(user).is_some()
    }

    fn group_exists(&self, group: &str) -> bool {
        super::identity::group(group).is_some()
    }

    fn is_root(&self) -> bool {
        is_root()
    }

    fn port_holder(&self, place: &Place) -> Option<(IpAddr, String)> {
        let found = self.holders.iter().find(|(held, _)| places_overlap(held, place));
        found.map(|((address, _), holder)| (*address, holder.clone()))
    }

    fn first_allowed_port(&self) -> u16 {
        super::sockets::first_allowed_port()
    }

    fn has_address(&self, address: &str) -> bool {
        super::sockets::has_address(address)
    }

    fn resolved(&self, path: &Path) -> PathBuf {
        let parent = || Some(fs::canonicalize(path.parent()?).ok()?.join(path.file_name()?));
        fs::canonicalize(path).ok().or_else(parent).unwrap_or_else(|| path.to_owned())
    }

    fn is_socket(&self, path: &Path) -> bool {
        use std::os::unix::fs::FileTypeExt;
        fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
    }

    fn capabilities(&self) -> u64 {
        *self.capabilities.get_or_init(super::sandbox::own_capabilities)
    }

    fn mount_namespace(&self) -> Result<(), String> {
        self.namespace.get_or_init(super::sandbox::mount_namespace).clone()
    }

    fn allows(&self, limit: Limit) -> Result<(), String> {
        if let Some(known) = self.limits.borrow().get(&limit) {
            return known.clone();
        }
        let allowed = super::allowed::allows(limit);
        self.limits.borrow_mut().insert(limit, allowed.clone());
        allowed
    }

    fn may_write(&self, path: &Path) -> bool {
        let (dir, flags) = (rustix::fs::CWD, rustix::fs::AtFlags::EACCESS);
        rustix::fs::accessat(dir, path, rustix::fs::Access::WRITE_OK, flags).is_ok()
    }

    fn controllers(&self) -> (Vec<String>, String) {
        let offer = self.controllers.get_or_init(super::cgroup::offer);
        (offer.controllers.clone(), offer.lacking.clone())
    }
}

/// A file of unisys's own under this name, to be read and written; created with mode 0600. What stands there and is no regular
/// file is removed and not followed: whoever may write the directory may have put a link to somebody else's file there. True if
/// that was so.
pub fn own_file(path: &Path) -> io::Result<(fs::File, bool)> {
    let options = own_options();
    match options.clone().create(true).open(path) {
        Ok(file) if file.metadata()?.is_file() => return Ok((file, false)),
        Ok(_) => {}
        // A link; a socket.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ELOOP | libc::ENXIO)) => {}
        Err(error) => return Err(error),
    }
    fs::remove_file(path)?;
    Ok((options.clone().create_new(true).open(path)?, true))
}

/// The same if it is there: not created, nothing removed.
pub fn existing_own_file(path: &Path) -> io::Result<fs::File> {
    let file = own_options().open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is not a regular file")) }
}

fn own_options() -> fs::OpenOptions {
    let mut options = fs::OpenOptions::new();
    // Neither follows nor waits for anybody.
    options
        .read(true)
        .write(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC);
    options
}

/// A new file under this name, in place of whatever stands there.
pub fn fresh_file(path: &Path, mode: u32) -> io::Result<fs::File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)
}

/// Writes a file whole or not at all: a temporary beside it, then rename(2).
pub fn write_atomically(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = fresh_file(&temporary, mode)?;
    file.write_all(bytes)?;
    file.sync_data()?;
    fs::rename(&temporary, path)
}

/// Makes a file readable by its owner alone; creates an empty one if there is none.
pub fn private_file(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let file = fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))
}

/// Creates a directory of mode 0700 with its parents, or accepts the one there is.
pub fn private_dir(path: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).recursive(true).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// The same in a directory that there is: what was moved away is not begun anew in its place.
pub fn private_dir_within(path: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

pub(super) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whom root must not trust: the first of the path and its parents that somebody else may write (architecture §8). A sticky
/// directory owned by root counts as trusted.
pub fn untrusted(path: &Path) -> Option<String> {
    let path = fs::canonicalize(path).ok()?;
    path.ancestors().find_map(|part| untrusted_part(part, &fs::metadata(part).ok()?, part != path))
}

pub(super) fn untrusted_part(part: &Path, meta: &fs::Metadata, above: bool) -> Option<String> {
    if meta.uid() != 0 {
        return Some(format!("{} belongs to user {}", part.display(), meta.uid()));
    }
    let sticky = meta.is_dir() && meta.mode() & 0o1000 != 0;
    let writable = meta.mode() & 0o022 != 0 && !(sticky && above);
    writable
        .then(|| format!("{} can be written by others (mode {:04o})", part.display(), meta.mode() & 0o7777))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_its_own_is_never_one_behind_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (own, others) = (dir.path().join("own"), dir.path().join("others"));
        fs::write(&others, "theirs").unwrap();
        let link = || std::os::unix::fs::symlink(&others, &own).unwrap();
        link();
        assert!(existing_own_file(&own).is_err(), "nothing of theirs is read");
        let (mut file, removed) = own_file(&own).unwrap();
        file.write_all(b"mine").unwrap();
        assert!(removed && fs::symlink_metadata(&own).unwrap().is_file());
        let (mut file, removed) = own_file(&own).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), removed), ("mine", false), "its own stays");
        fs::remove_file(&own).unwrap();
        std::os::unix::fs::symlink(&others, own.with_extension("new")).unwrap();
        write_atomically(&own, b"mine", 0o600).unwrap();
        fs::remove_file(&own).unwrap();
        link();
        fresh_file(&own, 0o600).unwrap();
        fs::remove_file(&own).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(&own).unwrap();
        assert!(own_file(&own).unwrap().1, "nor a socket");
        assert_eq!(fs::read_to_string(&others).unwrap(), "theirs");
    }

    #[test]
    fn what_has_no_end_or_no_writer_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, kind, rustix::fs::Mode::RUSR, 0).unwrap();
        for path in [fifo.as_path(), Path::new("/dev/zero"), dir.path()] {
            assert!(digest(path).is_err(), "{}", path.display());
        }
    }
}

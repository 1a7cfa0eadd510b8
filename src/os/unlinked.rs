//! Tells that a file has lost its name though somebody has it open: inotify(7) on its inode, whose count of links changes.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::inherit;

/// One file that is watched.
pub struct Unlinked {
    inotify: AsyncFd<OwnedFd>,
    path: PathBuf,
}

impl Unlinked {
    /// Within the event loop.
    pub fn watch(path: &Path) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        inotify::add_watch(&inotify, path, WatchFlags::ATTRIB | WatchFlags::MOVE_SELF)?;
        Ok(Self { inotify: inherit::watched(inotify, Interest::READABLE)?, path: path.to_owned() })
    }

    /// Nothing has its name now.
    pub fn is_gone(&self) -> bool {
        let meta = self.path.symlink_metadata();
        meta.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    }

    /// Waits until it has lost its name and no other has it. May be asked again where it was not waited for.
    pub async fn gone(&self) -> io::Result<()> {
        while !self.is_gone() {
            let mut told = self.inotify.readable().await?;
            let mut buffer = [MaybeUninit::uninit(); 1024];
            let mut reader = Reader::new(self.inotify.get_ref(), &mut buffer);
            while reader.next().is_ok() {}
            told.clear_ready();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_socket_without_a_name_is_gone_and_one_whose_mode_changed_is_not() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let _held = std::os::unix::net::UnixListener::bind(&path).unwrap();
        runtime.block_on(async {
            let watch = Unlinked::watch(&path).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            assert!(tokio::time::timeout(Duration::from_millis(50), watch.gone()).await.is_err());
            std::fs::remove_file(&path).unwrap();
            watch.gone().await.unwrap();
        });
    }
}

//! Where a state directory lies, written into it: how a copy of it (`cp -r`) is told from the directory itself, moved or put back.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::files;

/// A directory, by its name and by what stays the same under another name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    pub path: PathBuf,
    pub device: u64,
    pub inode: u64,
}

impl Place {
    pub fn of(path: &Path) -> io::Result<Self> {
        let meta = fs::symlink_metadata(path)?;
        Ok(Self { path: path.to_owned(), device: meta.dev(), inode: meta.ino() })
    }

    /// None: nobody has written it, or it cannot be read.
    pub fn read(file: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(file).ok()?).ok()
    }

    pub fn write(&self, file: &Path) -> io::Result<()> {
        files::write_atomically(file, &serde_json::to_vec(self)?, 0o600)
    }

    pub fn is(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }

    /// Whether this directory is a copy of the one that `recorded` tells of. `twin`: what lies there now, if it has the same
    /// identity. One that was moved is still the same; one that was put back from elsewhere, or whose device has another number
    /// since a boot, has no twin. Of two that have the same identity, the one that lies elsewhere than recorded is the copy.
    pub fn is_copy(&self, recorded: &Self, twin: Option<&Self>) -> bool {
        let elsewhere = !self.is(recorded) && self.path != recorded.path;
        elsewhere && twin.is_some_and(|twin| !twin.is(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(path: &str, inode: u64) -> Place {
        Place { path: path.into(), device: 1, inode }
    }

    #[test]
    fn a_copy_is_told_from_what_was_moved_or_put_back() {
        let recorded = place("/a", 1);
        for (own, twin, copy, what) in [
            (place("/a", 1), Some(place("/a", 1)), false, "as it was"),
            (place("/b", 2), Some(place("/a", 1)), true, "copied"),
            (
                place("/b", 2),
                Some(place("/a", 3)),
                true,
                "copied; the device has another number, or the other was put back",
            ),
            (place("/b", 1), None, false, "moved"),
            (place("/b", 1), Some(place("/a", 2)), false, "moved, and a copy put in its place"),
            (place("/a", 2), Some(place("/a", 2)), false, "put back from a backup"),
            (place("/b", 2), None, false, "put back elsewhere, or moved to another file system"),
            (place("/b", 2), Some(place("/a", 2)), false, "seen under another name (a bind mount)"),
        ] {
            assert_eq!(own.is_copy(&recorded, twin.as_ref()), copy, "{what}");
        }
    }
}

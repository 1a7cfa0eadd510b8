//! A directory of manifests as one snapshot. What has not changed since it was last read is not opened again: of a thousand
//! files one is edited, and opening a file also wakes whoever watches its directory (`IN_OPEN`, inotify(7)).

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::limits;
use crate::manifest::SourceFile;

use super::clock;
use super::files::{Identity, is_root, read_identified, untrusted, untrusted_part, why};
use super::state_dir::StateDir;

/// A path of `-f` as one snapshot.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    pub files: Vec<SourceFile>,
    /// Directories that were read, for watching.
    pub dirs: Vec<PathBuf>,
    /// Files in them that are links: what they lead to lies elsewhere.
    pub links: BTreeSet<PathBuf>,
    /// Why root should not run what is declared there: whoever can write it would run code as root. Absent for other users.
    pub distrusted: Option<String>,
}

/// What files held when they were last read, by device and inode.
#[derive(Debug, Default)]
pub struct Known(HashMap<(u64, u64), Content>);

#[derive(Debug)]
struct Content {
    identity: Identity,
    bytes: Arc<[u8]>,
    /// Asked for since [`Known::forget_others`].
    used: bool,
}

impl Known {
    /// What a file holds of this identity, if that is known.
    fn get(&mut self, identity: &Identity) -> Option<Arc<[u8]>> {
        let content = self.0.get_mut(&identity.file).filter(|content| content.identity == *identity)?;
        content.used = true;
        Some(content.bytes.clone())
    }

    fn read(&mut self, path: &Path, identity: &Identity) -> io::Result<Arc<[u8]>> {
        if let Some(bytes) = self.get(identity) {
            return Ok(bytes);
        }
        let (identity, bytes) = read_identified(path, limits::MANIFEST_FILE_BYTES)?;
        let bytes: Arc<[u8]> = bytes.into();
        if identity.is_settled(clock::wall()) {
            self.0.insert(identity.file, Content { identity, bytes: bytes.clone(), used: true });
        }
        Ok(bytes)
    }

    /// Everything was read: what was not asked for since the last time is there no longer.
    pub fn forget_others(&mut self) {
        self.0.retain(|_, content| std::mem::take(&mut content.used));
    }
}

/// Reads a manifest file, or a directory recursively: `*.yaml`, `*.yml`, `*.json`, in capitals too; names that start with `.` or
/// `_` are ignored. Links to directories are followed once. Order is by path.
///
/// # Errors
/// The path itself does not exist or cannot be read. A file inside that cannot be read is part of the snapshot.
pub fn snapshot(path: &Path) -> io::Result<Snapshot> {
    snapshot_knowing(path, &mut Known::default())
}

/// The same again.
///
/// # Errors
/// As [`snapshot`].
pub fn snapshot_knowing(path: &Path, known: &mut Known) -> io::Result<Snapshot> {
    let mut listing = list(path)?;
    listing.found.sort_by(|a, b| a.0.cmp(&b.0));
    let files = listing.found.into_iter().map(|(path, found)| {
        let content = found
            .and_then(|identity| known.read(&path, &identity))
            .map_err(|error| unreadable(&path, &error));
        SourceFile { path, content }
    });
    listing.snapshot.files = files.collect();
    Ok(listing.snapshot)
}

/// By its ending, in small letters or not.
fn is_manifest(path: &Path) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str());
    ending
        .is_some_and(|ending| ["yaml", "yml", "json"].iter().any(|known| ending.eq_ignore_ascii_case(known)))
}

/// [`Snapshot::distrusted`] alone.
pub fn distrusted(path: &Path) -> Option<String> {
    list(path).ok().filter(|_| is_root())?.snapshot.distrusted
}

fn unreadable(path: &Path, error: &io::Error) -> String {
    match fs::read_link(path) {
        Ok(target) if error.kind() == io::ErrorKind::NotFound => {
            format!("it is a link to {}, which does not exist", target.display())
        }
        _ => why(error),
    }
}

/// What is there, before files are read.
#[derive(Default)]
struct Listing {
    snapshot: Snapshot,
    found: Vec<(PathBuf, io::Result<Identity>)>,
    /// Directories that were gone into.
    seen: BTreeSet<(u64, u64)>,
}

fn list(path: &Path) -> io::Result<Listing> {
    let mut listing = Listing::default();
    let distrusted = is_root().then(|| untrusted(path)).flatten();
    let meta = fs::metadata(path)?;
    if meta.is_dir() {
        listing.read_dir(path, 0)?;
    } else {
        listing.found.push((path.to_owned(), Ok(Identity::of(&meta))));
        listing.snapshot.dirs.extend(path.parent().map(Path::to_owned));
    }
    let distrusted = distrusted.or(listing.snapshot.distrusted.take());
    listing.snapshot.distrusted =
        distrusted.map(|why| format!("{} is not to be trusted by root: {why}", path.display()));
    Ok(listing)
}

impl Listing {
    fn read_dir(&mut self, dir: &Path, depth: usize) -> io::Result<()> {
        let meta = fs::metadata(dir)?;
        if depth > 32 || !self.seen.insert((meta.dev(), meta.ino())) {
            return Ok(());
        }
        if depth > 0 && StateDir::is_at(dir) {
            return Ok(());
        }
        let entries = fs::read_dir(dir)?;
        self.snapshot.dirs.push(dir.to_owned());
        let is_root = is_root();
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(['.', '_']) || self.found.len() >= limits::SET_FILES {
                continue;
            }
            let path = entry.path();
            let wanted = is_manifest(&path);
            // The directory says what is a plain file; only what may matter is looked at.
            if !wanted && entry.file_type().is_ok_and(|kind| kind.is_file()) {
                continue;
            }
            let itself = entry.metadata();
            let is_link = itself.as_ref().is_ok_and(fs::Metadata::is_symlink);
            let meta = if is_link { fs::metadata(&path) } else { itself };
            let is_dir = meta.as_ref().is_ok_and(fs::Metadata::is_dir);
            if !(is_dir || wanted) {
                continue;
            }
            if is_root && self.snapshot.distrusted.is_none() {
                // What leads to it has been looked at, unless it is a link.
                self.snapshot.distrusted = match (&meta, is_link) {
                    (_, true) => untrusted(&path),
                    (Ok(meta), false) => untrusted_part(&path, meta, false),
                    (Err(_), false) => None,
                };
            }
            if is_dir {
                if let Err(error) = self.read_dir(&path, depth + 1) {
                    self.found.push((path, Err(error)));
                }
                continue;
            }
            if is_link {
                self.snapshot.links.insert(path.clone());
            }
            self.found.push((path, meta.map(|meta| Identity::of(&meta))));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn texts(dir: &Path, known: &mut Known) -> Vec<String> {
        let files = snapshot_knowing(dir, known).unwrap().files;
        files
            .iter()
            .map(|file| String::from_utf8_lossy(file.content.as_ref().unwrap()).into_owned())
            .collect()
    }

    fn learn(known: &mut Known, path: &Path, text: &str) {
        let identity = Identity::of(&fs::metadata(path).unwrap());
        known.0.insert(identity.file, Content { identity, bytes: text.as_bytes().into(), used: true });
    }

    #[test]
    fn a_file_that_has_not_changed_is_not_read_again_and_any_other_is() {
        let dir = tempfile::tempdir().unwrap();
        let [a, b] = ["a.yaml", "b.yaml"].map(|name| dir.path().join(name));
        fs::write(&a, "one").unwrap();
        fs::write(&b, "two").unwrap();
        let mut known = Known::default();
        assert_eq!(texts(dir.path(), &mut known), ["one", "two"]);
        assert!(
            known.0.is_empty(),
            "written just now: it may be written again at the same time of the clock"
        );
        learn(&mut known, &a, "known");
        assert_eq!(texts(dir.path(), &mut known), ["known", "two"]);
        known.forget_others();
        fs::write(&a, "longer").unwrap();
        assert_eq!(texts(dir.path(), &mut known), ["longer", "two"]);
        learn(&mut known, &a, "known");
        fs::rename(&b, &a).unwrap();
        assert_eq!(texts(dir.path(), &mut known), ["two"]);
        known.forget_others();
        assert_eq!(known.0.len(), 1);
        known.forget_others();
        assert!(known.0.is_empty(), "nobody asked for it any more");
    }

    #[test]
    fn an_ending_in_capitals_is_one_too() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.YAML", "b.Yml", "c.json", "d.yaml.off", "_e.YAML", "yaml", "f.txt"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        assert_eq!(texts(dir.path(), &mut Known::default()), ["a.YAML", "b.Yml", "c.json"]);
    }

    #[test]
    fn a_state_directory_among_them_holds_no_manifests() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(&dir.path().join("state")).unwrap();
        fs::write(state.root.join("spare.json"), "{}").unwrap();
        fs::write(state.crash_dumps().join("crash.json"), "{}").unwrap();
        fs::write(dir.path().join("a.yaml"), "a").unwrap();
        assert_eq!(texts(dir.path(), &mut Known::default()), ["a"]);
    }

    #[test]
    fn what_links_lead_to_is_read_and_known_to_lie_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let (set, other) = (dir.path().join("set"), dir.path().join("other"));
        fs::create_dir(&set).unwrap();
        fs::write(&other, "far").unwrap();
        fs::write(set.join("near.yaml"), "near").unwrap();
        let link = set.join("far.yaml");
        symlink(&other, &link).unwrap();
        symlink(dir.path().join("nothing"), set.join("none.yaml")).unwrap();
        symlink(&set, set.join("again")).unwrap();
        let found = snapshot(&set).unwrap();
        let contents: Vec<_> = found.files.iter().map(|file| file.content.as_deref()).collect();
        assert_eq!(contents[..2], [Ok(&b"far"[..]), Ok(&b"near"[..])]);
        let nothing = dir.path().join("nothing");
        let why = format!("it is a link to {}, which does not exist", nothing.display());
        assert_eq!(contents[2..], [Err(&why)]);
        assert_eq!(found.links.len(), 2);
        assert!(found.links.contains(&link));
        assert_eq!(found.dirs, [set]);
    }
}

//! One set of manifests: what was accepted of it, and what is on the disk.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::Revision;
use crate::manifest::split::written_in;
use crate::manifest::{Diagnostic, LoadInput, SourceFile};
use crate::os::files;
use crate::os::snapshot::{Known, snapshot_knowing};
use crate::store::{StoredFile, StoredSet};

use super::owning::Ceded;
use super::pruning::Prune;

/// One set as it was last accepted, and what is wrong with what is on the disk now.
pub struct Set {
    pub name: String,
    /// Where it is read from; none for what was given to `apply`.
    pub path: Option<PathBuf>,
    /// Given to `apply`, not to `up`: it stays when `up` names other paths, and `delete` may end it.
    pub applied: bool,
    pub overlays: Vec<PathBuf>,
    pub(super) input: LoadInput,
    pub(super) dirs: Vec<PathBuf>,
    /// See [`Snapshot::links`](crate::os::snapshot::Snapshot::links).
    pub(super) links: BTreeSet<PathBuf>,
    /// Objects that it declares and that another set took over.
    pub ceded: Ceded,
    pub pending: Vec<Diagnostic>,
    /// The path cannot be read, or holds nothing: nothing is pruned.
    pub unreadable: Option<String>,
    pub revision: Revision,
    pub(super) prune: Option<Prune>,
}

impl Set {
    /// One that was not read yet.
    pub(super) fn new(name: String, path: Option<PathBuf>, revision: Revision) -> Self {
        Self {
            name,
            path,
            applied: false,
            overlays: Vec::new(),
            input: LoadInput::default(),
            dirs: Vec::new(),
            links: BTreeSet::new(),
            ceded: Ceded::new(),
            pending: Vec::new(),
            unreadable: None,
            revision,
            prune: None,
        }
    }

    /// It is read from one file, not from a directory.
    pub fn is_of_one_file(&self) -> bool {
        self.path.as_ref().is_some_and(|path| match &self.input.files[..] {
            [] => path.is_file(),
            files => files.iter().any(|file| file.path == *path),
        })
    }

    /// As it is on the disk now. `accepted`: as it was when it was last found well.
    ///
    /// # Errors
    /// Why it cannot be read, or is not meant to be, for people.
    pub(super) fn read(&self, accepted: &LoadInput, known: &mut Known) -> Result<Candidate, String> {
        let Some(path) = &self.path else { return Ok(self.current()) };
        let snapshot = snapshot_knowing(path, known)
            .map_err(|error| format!("{} cannot be read: {}", path.display(), files::why(&error)))?;
        if snapshot.files.is_empty() {
            return Err(format!("{} holds no manifests", path.display()));
        }
        let mut distrusted = snapshot.distrusted;
        let mut overlays = Vec::new();
        let (mut dirs, mut links) = (snapshot.dirs, snapshot.links);
        for overlay in &self.overlays {
            let snapshot = snapshot_knowing(overlay, known).map_err(|error| {
                format!("the overlay {} cannot be read: {}", overlay.display(), files::why(&error))
            })?;
            let of_it = |file: &SourceFile| file.path.starts_with(overlay);
            if snapshot.files.is_empty() && accepted.overlays.iter().flatten().any(of_it) {
                let path = overlay.display();
                return Err(format!(
                    "the overlay {path} holds no manifests any more; without it: `unisys up` without --overlay"
                ));
            }
            distrusted = distrusted.or(snapshot.distrusted);
            dirs.extend(snapshot.dirs);
            links.extend(snapshot.links);
            overlays.push(snapshot.files);
        }
        if let Some(why) = distrusted {
            return Err(why);
        }
        let input = LoadInput { set: self.name.clone(), files: snapshot.files, overlays };
        if let Some(why) = emptied(accepted, &input) {
            return Err(why);
        }
        Ok(Candidate { dirs, links, input, ..self.current() })
    }

    /// As it was accepted.
    pub(super) fn current(&self) -> Candidate {
        Candidate {
            name: self.name.clone(),
            path: self.path.clone(),
            input: self.input.clone(),
            dirs: self.dirs.clone(),
            links: self.links.clone(),
            ceded: self.ceded.clone(),
        }
    }

    /// As the store has it.
    pub(super) fn as_stored(&self, kept: &StoredSet) -> Candidate {
        Candidate { input: input_of(kept), ceded: kept.ceded.clone(), ..self.current() }
    }

    /// With its manifests as written, for the store.
    pub(super) fn stored(&self) -> StoredSet {
        let file = |file: &SourceFile| {
            let text = String::from_utf8_lossy(file.content.as_ref().ok()?).into_owned();
            Some(StoredFile { path: file.path.clone(), text })
        };
        StoredSet {
            name: self.name.clone(),
            path: self.path.clone(),
            applied: self.applied,
            overlays: self.overlays.clone(),
            files: self.input.files.iter().filter_map(file).collect(),
            overlay_files: self
                .input
                .overlays
                .iter()
                .map(|files| files.iter().filter_map(file).collect())
                .collect(),
            ceded: self.ceded.clone(),
        }
    }
}

/// What a set may become.
#[derive(Clone)]
pub(super) struct Candidate {
    pub name: String,
    pub path: Option<PathBuf>,
    pub input: LoadInput,
    pub dirs: Vec<PathBuf>,
    pub links: BTreeSet<PathBuf>,
    pub ceded: Ceded,
}

/// The same, where several paths are read: those that would have one name are told apart by the directories that they are in.
pub(super) fn set_name_among(path: &Path, all: &[PathBuf]) -> String {
    let name = set_name(path);
    if all.iter().filter(|other| set_name(other) == name).count() < 2 {
        return name;
    }
    match path.parent().and_then(Path::file_name) {
        Some(parent) => format!("{}-{name}", parent.to_string_lossy()),
        None => name,
    }
}

/// The name of a set: its directory's, or its file's without the ending.
pub fn set_name(path: &Path) -> String {
    let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
    name.map_or_else(|| "root".into(), |name| name.to_string_lossy().into_owned())
}

pub(super) fn input_of(stored: &StoredSet) -> LoadInput {
    let file =
        |file: &StoredFile| SourceFile { path: file.path.clone(), content: Ok(file.text.as_bytes().into()) };
    LoadInput {
        set: stored.name.clone(),
        files: stored.files.iter().map(file).collect(),
        overlays: stored.overlay_files.iter().map(|files| files.iter().map(file).collect()).collect(),
    }
}

/// A file that held something and is empty now: somebody is about to write it, or made a mistake. Who wants its objects to go
/// removes it.
fn emptied(old: &LoadInput, new: &LoadInput) -> Option<String> {
    fn all(input: &LoadInput) -> impl Iterator<Item = &SourceFile> {
        input.files.iter().chain(input.overlays.iter().flatten())
    }
    let empty = |file: &&SourceFile| file.content.as_ref().is_ok_and(|bytes| bytes.trim_ascii().is_empty());
    let held = |file: &&SourceFile| {
        let before = all(old).find(|before| before.path == file.path);
        before.is_some_and(|before| !empty(&before))
    };
    let file = all(new).filter(empty).find(held)?;
    Some(format!("{} is empty now; remove it if what it held is to go", file.path.display()))
}

/// Files that are others now, or gone.
pub(super) fn changed_paths(old: &LoadInput, new: &LoadInput) -> Vec<PathBuf> {
    // By their bytes: comparing paths part by part is dear among thousands.
    fn all(input: &LoadInput) -> HashMap<&OsStr, &Result<Arc<[u8]>, String>> {
        let files = input.files.iter().chain(input.overlays.iter().flatten());
        files.map(|file| (file.path.as_os_str(), &file.content)).collect()
    }
    let (old, new) = (all(old), all(new));
    let changed = new.iter().filter(|(path, content)| old.get(*path) != Some(*content));
    let gone = old.keys().filter(|path| !new.contains_key(*path));
    changed.map(|(path, _)| path).chain(gone).map(PathBuf::from).collect()
}

/// Names of the files, as people wrote them, in which one input differs from another.
pub fn changed_files(old: &LoadInput, new: &LoadInput) -> Vec<String> {
    let changed = changed_paths(old, new);
    let names: BTreeSet<String> = changed.iter().map(|path| file_name(&written_in(path))).collect();
    names.into_iter().collect()
}

pub(super) fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

//! Wake-ups when watched files change. What changed is found by reading again: an event is a hint, never a fact.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};

/// Links that are followed on the way to one file (path_resolution(7)).
const LINKS: usize = 40;

/// What a change of may matter: all that is in some directories, and single names, each of them without a link in its path,
/// as the kernel reports them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Interest {
    dirs: BTreeSet<PathBuf>,
    names: BTreeSet<PathBuf>,
}

impl Interest {
    /// Everything in `dirs`, and `files`, wherever links lead on the way there: a link that is swapped is a change of what it
    /// leads to.
    pub fn new<'a>(dirs: impl Iterator<Item = &'a Path>, files: impl Iterator<Item = &'a Path>) -> Self {
        let mut interest = Self::default();
        for dir in dirs {
            let dir = interest.follow(dir);
            interest.names.insert(dir.clone());
            interest.dirs.insert(dir);
        }
        // A thousand files of one directory: its own links are followed once.
        let mut parents: HashMap<&Path, PathBuf> = HashMap::new();
        for file in files {
            let (Some(parent), Some(name)) = (file.parent(), file.file_name()) else { continue };
            let path = parents.entry(parent).or_insert_with(|| interest.follow(parent)).join(name);
            let target = match path.is_symlink() {
                true => interest.follow(&path),
                false => path,
            };
            interest.names.insert(target);
        }
        let Self { dirs, names } = &mut interest;
        names.retain(|name| !name.parent().is_some_and(|parent| dirs.contains(parent)));
        interest
    }

    /// Where a path leads; every link on the way is of interest. What does not exist leads to itself.
    fn follow(&mut self, path: &Path) -> PathBuf {
        let words = |path: &Path| -> Vec<OsString> {
            path.components().map(|component| component.as_os_str().to_owned()).collect()
        };
        let mut left: VecDeque<OsString> = words(path).into();
        let (mut at, mut links) = (PathBuf::from("/"), 0);
        while let Some(word) = left.pop_front() {
            match Path::new(&word).components().next() {
                Some(Component::RootDir) => at = PathBuf::from("/"),
                Some(Component::ParentDir) => drop(at.pop()),
                Some(Component::Normal(name)) => {
                    at.push(name);
                    let Some(target) = std::fs::read_link(&at).ok().filter(|_| links < LINKS) else {
                        continue;
                    };
                    links += 1;
                    self.names.insert(at.clone());
                    at.pop();
                    words(&target).into_iter().rev().for_each(|word| left.push_front(word));
                }
                _ => {}
            }
        }
        at
    }

    /// Whether something that happened to this path may matter. `/`: anything may have happened.
    pub fn concerns(&self, path: &Path) -> bool {
        path == Path::new("/")
            || path.parent().is_some_and(|parent| self.dirs.contains(parent))
            || self.names.contains(path)
    }

    /// The directories whose entries have to be watched for it.
    fn watched(&self) -> BTreeSet<PathBuf> {
        let parents = self.names.iter().filter_map(|name| name.parent());
        let all = self.dirs.iter().map(PathBuf::as_path).chain(parents);
        all.filter(|dir| dir.is_dir()).map(Path::to_owned).collect()
    }
}

/// Watches directories, not files: editors replace files, and a link is swapped by a rename beside it.
pub struct Watch {
    watcher: RecommendedWatcher,
    dirs: BTreeSet<PathBuf>,
    interest: Arc<RwLock<Interest>>,
    marks: PathBuf,
    marked: u64,
}

impl Watch {
    /// `passed` is called with the number of a mark once everything has been told that happened before it ([`Self::mark`]); `marks`
    /// is the directory for them.
    ///
    /// `touched` is called when something has happened to what is of interest, on a thread of the watcher. What else happens in
    /// these directories (a log that is written beside the manifests) wakes nobody but that thread.
    pub fn new(
        marks: PathBuf,
        touched: impl Fn() + Send + 'static,
        passed: impl Fn(u64) + Send + 'static,
    ) -> notify::Result<Self> {
        let own = marks.clone();
        let number = move |path: &Path| {
            let name = path.strip_prefix(&own).ok()?.to_str()?;
            name.parse::<u64>().ok()
        };
        let interest = Arc::new(RwLock::new(Interest::default()));
        let known = interest.clone();
        let concerns = move |path: &Path| known.read().unwrap_or_else(PoisonError::into_inner).concerns(path);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| match event {
            // Reading tells too; only what may have changed something is of interest.
            Ok(event) => {
                event.paths.iter().filter_map(|path| number(path)).for_each(&passed);
                let quiet = matches!(event.kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write));
                if !quiet && event.paths.iter().any(|path| concerns(path)) {
                    touched();
                }
            }
            // The queue overflowed: anything may have happened.
            Err(_) => touched(),
        })?;
        Ok(Self { watcher, dirs: BTreeSet::new(), interest, marks, marked: 0 })
    }

    /// Marks what has happened until now: events of one queue come in their order (inotify(7)), so that whoever is told of the mark
    /// has been told of everything before it.
    ///
    /// # Errors
    /// The mark cannot be made, or would not be seen.
    pub fn mark(&mut self) -> std::io::Result<u64> {
        // The first time, and when somebody removed it.
        if self.marked == 0 || !self.marks.is_dir() {
            std::fs::create_dir_all(&self.marks)?;
            let _ = self.watcher.unwatch(&self.marks);
            self.watcher.watch(&self.marks, RecursiveMode::NonRecursive).map_err(std::io::Error::other)?;
        }
        self.marked += 1;
        let mark = self.marks.join(self.marked.to_string());
        std::fs::File::create(&mark)?;
        std::fs::remove_file(&mark)?;
        Ok(self.marked)
    }

    /// Watches exactly this from now on. Directories that cannot be watched are given back.
    pub fn set(&mut self, interest: Interest) -> Vec<(PathBuf, String)> {
        let dirs = interest.watched();
        *self.interest.write().unwrap_or_else(PoisonError::into_inner) = interest;
        let mut failed = Vec::new();
        for gone in self.dirs.difference(&dirs) {
            let _ = self.watcher.unwatch(gone);
        }
        let mut now = BTreeSet::new();
        for dir in dirs {
            // A directory that was replaced by another of the same name has to be watched again.
            if self.dirs.contains(&dir) {
                let _ = self.watcher.unwatch(&dir);
            }
            match self.watcher.watch(&dir, RecursiveMode::NonRecursive) {
                Ok(()) => drop(now.insert(dir)),
                Err(error) => failed.push((dir, error.to_string())),
            }
        }
        self.dirs = now;
        failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    /// `set/a.yaml`, `.env`, `app.log`; `current` leads to `releases/1`, and there `of-1.env` to `../shared.env`.
    fn project() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        fs::create_dir_all(root.join("set")).unwrap();
        fs::create_dir_all(root.join("releases/1/set")).unwrap();
        for file in ["set/a.yaml", ".env", "app.log", "releases/shared.env", "releases/1/set/b.yaml"] {
            fs::write(root.join(file), "").unwrap();
        }
        symlink("releases/1", root.join("current")).unwrap();
        symlink("../shared.env", root.join("releases/1/of-1.env")).unwrap();
        (dir, root)
    }

    fn concerned(interest: &Interest, root: &Path, paths: &[&str]) -> Vec<bool> {
        paths.iter().map(|path| interest.concerns(&root.join(path))).collect()
    }

    #[test]
    fn what_is_beside_a_set_or_a_file_that_is_read_is_of_no_interest() {
        let (_dir, root) = project();
        let (set, env, missing) = (root.join("set"), root.join(".env"), root.join("set.local/none"));
        let file = set.join("a.yaml");
        let files = [&*file, &*env, &*missing];
        let interest = Interest::new([&*set].into_iter(), files.into_iter());
        let paths =
            ["set/a.yaml", "set/new.yaml", "set", ".env", "app.log", "set/deeper/c.yaml", "set.local/none"];
        assert_eq!(concerned(&interest, &root, &paths), [true, true, true, true, false, false, true]);
        assert_eq!(interest.watched(), BTreeSet::from([root.clone(), set]));
        assert!(interest.concerns(Path::new("/")));
    }

    #[test]
    fn every_link_on_the_way_is_of_interest_and_where_it_leads() {
        let (_dir, root) = project();
        let (set, env) = (root.join("current/set"), root.join("current/of-1.env"));
        let interest = Interest::new([&*set].into_iter(), [&*env].into_iter());
        let paths = [
            "current",
            "releases/1/set/new.yaml",
            "releases/1/set",
            "releases/1/of-1.env",
            "releases/shared.env",
        ];
        assert_eq!(concerned(&interest, &root, &paths), [true; 5]);
        let others = ["releases/1", "releases/2", "set/a.yaml", "app.log", "releases/1/app.log"];
        assert_eq!(concerned(&interest, &root, &others), [false; 5]);
    }

    #[test]
    fn links_in_a_circle_end() {
        let (_dir, root) = project();
        symlink("two", root.join("one")).unwrap();
        symlink("one", root.join("two")).unwrap();
        let one = root.join("one");
        let interest = Interest::new(std::iter::empty(), [&*one].into_iter());
        assert_eq!(concerned(&interest, &root, &["one", "two", "three"]), [true, true, false]);
    }
}

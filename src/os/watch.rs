//! Wake-ups when watched files change. What changed is found by reading again: an event is a hint, never a fact.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};

/// Watches directories, not files: editors replace files, and a link is swapped by a rename beside it.
pub struct Watch {
    watcher: RecommendedWatcher,
    dirs: BTreeSet<PathBuf>,
}

impl Watch {
    /// `touched` is called with each path that something happened to, on a thread of the watcher.
    pub fn new(touched: impl Fn(&Path) + Send + 'static) -> notify::Result<Self> {
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| match event {
            // Reading tells too; only what may have changed something is of interest.
            Ok(event) => {
                let quiet = matches!(event.kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write));
                if !quiet {
                    event.paths.iter().for_each(|path| touched(path));
                }
            }
            // The queue overflowed: anything may have happened.
            Err(_) => touched(Path::new("/")),
        })?;
        Ok(Self { watcher, dirs: BTreeSet::new() })
    }

    /// Watches exactly these directories from now on. Those that cannot be watched are given back.
    pub fn set(&mut self, dirs: BTreeSet<PathBuf>) -> Vec<(PathBuf, String)> {
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

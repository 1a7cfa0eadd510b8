//! Tells when a program that could not be executed is another one.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::base::{Instant, Name, Stamp};
use crate::os::clock;
use crate::os::files::ThisMachine;
use crate::plan::UnitSpec;
use crate::plan::machine::{find_program, working_dir};

/// How often it is looked while any is awaited.
const AGAIN: Duration = Duration::from_secs(1);
/// What was changed so shortly before it could not be executed may have been changed after that as well.
const FRESH: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct ProgramWatch {
    awaited: BTreeMap<Name, (Arc<UnitSpec>, Option<Seen>)>,
    pub due: Option<Instant>,
}

/// What would be executed: where it lies and which file it is, as well as the directory that it is executed in.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    program: Option<(PathBuf, Identity)>,
    dir: Option<Identity>,
}

#[derive(Debug, PartialEq, Eq)]
struct Identity {
    inode: (u64, u64),
    mode: u32,
    length: u64,
    /// Seconds and nanoseconds of its last change (ctime).
    changed: (i64, i64),
}

impl ProgramWatch {
    /// `since`: when it could not be executed.
    pub fn add(&mut self, name: Name, spec: Arc<UnitSpec>, since: Stamp) {
        let seen = Seen::look(&spec);
        let seen = (!seen.is_fresh(since)).then_some(seen);
        self.awaited.insert(name, (spec, seen));
        self.due.get_or_insert(clock::mono() + AGAIN);
    }

    pub fn remove(&mut self, name: &Name) {
        self.awaited.remove(name);
        if self.awaited.is_empty() {
            self.due = None;
        }
    }

    /// Those whose program is another one now; they are not awaited any more.
    pub fn look(&mut self, now: Instant) -> Vec<Name> {
        let other = |(_, (spec, seen)): &(&Name, &(Arc<UnitSpec>, Option<Seen>))| {
            seen.as_ref().is_none_or(|seen| *seen != Seen::look(spec))
        };
        let found: Vec<Name> = self.awaited.iter().filter(other).map(|(name, _)| name.clone()).collect();
        self.awaited.retain(|name, _| !found.contains(name));
        self.due = (!self.awaited.is_empty()).then_some(now + AGAIN);
        found
    }
}

impl Seen {
    fn look(spec: &UnitSpec) -> Self {
        let launch = &spec.launch;
        let program = find_program(launch, &ThisMachine::default()).ok();
        Self {
            program: program.and_then(|path| Identity::of(&path).map(|identity| (path, identity))),
            // Only whether it is there and may be entered.
            dir: Identity::of(&working_dir(launch)).map(|dir| Identity { length: 0, changed: (0, 0), ..dir }),
        }
    }

    /// It has changed since then, or just before.
    fn is_fresh(&self, since: Stamp) -> bool {
        self.program.as_ref().is_some_and(|(_, identity)| {
            let (seconds, nanoseconds) = identity.changed;
            since.0 - (seconds * 1000 + nanoseconds / 1_000_000) < FRESH.as_millis() as i64
        })
    }
}

impl Identity {
    fn of(path: &std::path::Path) -> Option<Self> {
        let meta = std::fs::metadata(path).ok()?;
        Some(Self {
            inode: (meta.dev(), meta.ino()),
            mode: meta.mode(),
            length: meta.len(),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }
}

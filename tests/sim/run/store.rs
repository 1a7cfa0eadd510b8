//! The fake store: what is on the disk, and what a daemon has handed over that is not there yet.
//!
//! The real one (`src/store`) is a thread of its own that nobody waits for before a program is started,
//! signalled or killed. It commits some milliseconds after it was handed something, and everything that
//! waits by then in one transaction; a disk that is slow makes it longer. So a daemon that is killed takes
//! along what waits. What survives it is a prefix of what was handed over: a commit may fall between any two
//! effects of a turn, never within the checkpoints of one. Revisions are among it: what was accepted and not
//! written is numbered anew by the next daemon, which reads the files as they are by then.
//!
//! What waits for the store is that the keeper forgets who has ended: an end is known to one of them. And a
//! daemon whose keeper has died writes everything before it gives way.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use unisys::base::{InstanceId, Name, Revision};
use unisys::plan::Desired;
use unisys::world::Checkpoint;

use super::{Due, Sim};

/// Something to be written.
pub(super) enum Write {
    /// All of them or none; `None`: it is to be removed.
    Units(Vec<(Name, Option<Box<Checkpoint>>)>),
    Revision(Arc<Desired>),
    /// Nothing: what was handed over before tells how this instance ended; then the keeper forgets it.
    End(InstanceId),
}

#[derive(Default)]
pub(super) struct Store {
    pub units: BTreeMap<Name, Checkpoint>,
    /// Every accepted revision.
    pub revisions: BTreeMap<Revision, Arc<Desired>>,
    waiting: VecDeque<Write>,
}

impl Store {
    fn write(&mut self, write: Write) {
        match write {
            Write::Units(units) => {
                for (name, checkpoint) in units {
                    match checkpoint {
                        Some(checkpoint) => drop(self.units.insert(name, *checkpoint)),
                        None => drop(self.units.remove(&name)),
                    }
                }
            }
            Write::Revision(desired) => drop(self.revisions.insert(desired.revision, desired)),
            Write::End(_) => {}
        }
    }

    /// The next daemon will know of this end.
    pub fn tells_end(&self, id: &InstanceId) -> bool {
        self.units.get(&id.unit).is_some_and(|checkpoint| checkpoint.ended.contains(&id.incarnation))
    }

    /// The revision that these manifests are: the latest, or the one after it.
    pub fn revision_of(&self, desired: &Desired) -> Revision {
        match self.revisions.last_key_value() {
            Some((revision, latest)) if latest.units == desired.units => *revision,
            Some((revision, _)) => revision.next(),
            None => Revision(1),
        }
    }
}

impl Sim {
    pub(super) fn put(&mut self, write: Write) {
        if self.store.waiting.is_empty() {
            let slow = self.rng.chance(self.faults.slow_disk);
            let after = if slow { self.rng.below(1000) } else { 5 + self.rng.below(6) };
            self.later(after, Due::Commit);
        }
        self.store.waiting.push_back(write);
    }

    pub(super) fn commit(&mut self) {
        while let Some(write) = self.store.waiting.pop_front() {
            match write {
                Write::End(id) if !self.orphaned => drop(self.keeper.held.remove(&id)),
                write => self.store.write(write),
            }
        }
    }

    /// The last output of an instance is in its log: what is left is to record how it ended.
    pub(super) fn output_closed(&mut self, id: InstanceId) {
        match self.store.waiting.is_empty() {
            true => drop(self.keeper.held.remove(&id)),
            false => self.put(Write::End(id)),
        }
    }

    /// The daemon is killed.
    pub(super) fn lose_writes(&mut self) {
        let count = self.store.waiting.len();
        // A commit may just have been done.
        let kept = if self.rng.chance(0.5) { 0 } else { self.rng.below(count as u64 + 1) as usize };
        if count > kept {
            self.say(|| format!("of {count} writes that waited, the last {} are lost", count - kept));
        }
        for write in self.store.waiting.drain(..kept).collect::<Vec<_>>() {
            self.store.write(write);
        }
        self.store.waiting.clear();
        self.agenda.retain(|_, due| !matches!(due, Due::Commit));
    }
}

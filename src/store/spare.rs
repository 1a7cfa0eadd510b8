//! A copy, in a file of its own, of what neither the keeper nor the manifests on the disk could tell again if the database were
//! lost: which sets there are, what people ordered, what was rolled back and to what, which Jobs have run, and the key of the digests
//! (without it everything that runs would look changed).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use serde::{Deserialize, Serialize};

use crate::base::{Instant, Name, Revision};
use crate::os::files::{read_bounded, write_atomically};
use crate::world::Checkpoint;

use super::StoredSet;
use super::pending::Pending;

/// No more is read: it is as large as the manifests are.
const BYTES: u64 = 1 << 30;
/// Names in one message.
const NAMED: usize = 8;

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Contents {
    pub key: String,
    /// The latest one. Absent from older copies.
    #[serde(default)]
    pub revision: Revision,
    /// Its sets, as the database has them: a JSON text.
    sets: String,
    /// The same of earlier revisions, of which a unit runs, or is to run, what it does not declare any more.
    #[serde(default)]
    earlier: BTreeMap<Revision, String>,
    pub units: BTreeMap<Name, Checkpoint>,
}

impl Contents {
    /// None if there is none that can be read.
    pub fn read(database: &Path) -> Option<Self> {
        serde_json::from_slice(&read_bounded(&path(database), BYTES).ok()?).ok()
    }

    /// What nobody knows any more once the database is gone and the copy is not taken up.
    pub fn forgotten(&self) -> String {
        let named = |is_so: fn(&Checkpoint) -> bool| {
            let names = self.units.iter().filter(|(_, unit)| is_so(unit)).map(|(name, _)| name.as_str());
            let mut names: Vec<_> = names.collect();
            let more = names.len().saturating_sub(NAMED);
            names.truncate(NAMED);
            let words = names.join(", ");
            if more > 0 { format!("{words} and {more} more") } else { words }
        };
        let ordered = named(|unit| unit.overrides != Default::default());
        let done = named(|unit| unit.done.is_some());
        let mut words = "state.db was removed while nothing ran: the system begins anew, without its revisions and changes".to_owned();
        if !ordered.is_empty() {
            words.push_str(&format!(
                ", without what was ordered (stop, disable, scale, pause, undo) or rolled back of {ordered}"
            ));
        }
        if !done.is_empty() {
            words.push_str(&format!("; {done} runs again, though it has run"));
        }
        if self.sets().iter().any(|set| set.applied || set.path.is_none()) {
            words.push_str("; what was given to `apply` is not there any more");
        }
        words
    }

    pub fn sets(&self) -> Vec<StoredSet> {
        serde_json::from_str(&self.sets).unwrap_or_default()
    }

    pub fn earlier(&self) -> impl Iterator<Item = (Revision, Vec<StoredSet>)> {
        self.earlier.iter().filter_map(|(revision, sets)| Some((*revision, serde_json::from_str(sets).ok()?)))
    }
}

fn path(database: &Path) -> PathBuf {
    database.with_file_name("spare.json")
}

/// Keeps the copy current: it is written when something in it changes, which what happens to services by itself does not.
pub struct Spare {
    path: PathBuf,
    units: BTreeMap<Name, Checkpoint>,
    due: bool,
}

impl Spare {
    pub fn new(database: &Path, units: &[(Name, Checkpoint)]) -> Self {
        let units = units.iter().filter_map(|(name, checkpoint)| Some((name.clone(), told(checkpoint)?)));
        Self { path: path(database), units: units.collect(), due: true }
    }

    /// These are on the disk now, in the database.
    pub fn written(&mut self, pending: &Pending) {
        self.due |= !pending.revisions.is_empty();
        for (name, checkpoint) in &pending.units {
            let told = checkpoint.as_deref().and_then(told);
            if self.units.get(name) == told.as_ref() {
                continue;
            }
            self.due = true;
            match told {
                Some(told) => drop(self.units.insert(name.clone(), told)),
                None => drop(self.units.remove(name)),
            }
        }
    }

    /// Writes the copy if anything in it changed.
    ///
    /// # Errors
    /// It cannot be written, or what belongs in it cannot be read. It is tried again with what is written next.
    pub fn keep(&mut self, connection: &Connection) -> Result<(), Box<dyn std::error::Error>> {
        if !self.due {
            return Ok(());
        }
        let key = connection.query_row("SELECT value FROM meta WHERE name = 'key'", [], |row| row.get(0))?;
        let latest = "SELECT id, sets FROM revision ORDER BY id DESC LIMIT 1";
        let mut statement = connection.prepare_cached(latest)?;
        let latest = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.next().transpose()?;
        let Some((revision, sets)) = latest.map(|(id, sets): (i64, String)| (Revision(id as u64), sets))
        else {
            return Ok(());
        };
        let needed = self.units.values().filter_map(|unit| unit.kept_revision(&BTreeSet::new(), Instant(0)));
        let mut statement = connection.prepare_cached("SELECT sets FROM revision WHERE id = ?1")?;
        let mut earlier = BTreeMap::new();
        for needed in needed.filter(|needed| *needed != revision).collect::<BTreeSet<_>>() {
            if let Some(sets) = statement.query_map([needed.0 as i64], |row| row.get(0))?.next() {
                earlier.insert(needed, sets?);
            }
        }
        let contents = Contents { key, revision, sets, earlier, units: std::mem::take(&mut self.units) };
        let text = serde_json::to_vec(&contents);
        self.units = contents.units;
        write_atomically(&self.path, &text?, 0o600)?;
        self.due = false;
        Ok(())
    }
}

/// What is kept of a unit: what was ordered, or found bad, beside its manifest, and that a Job has run.
fn told(checkpoint: &Checkpoint) -> Option<Checkpoint> {
    let overrides = &checkpoint.overrides;
    if checkpoint.done.is_none() && *overrides == Default::default() {
        return None;
    }
    let mut told = Checkpoint {
        generation: checkpoint.generation,
        digest: checkpoint.digest.clone(),
        done: checkpoint.done,
        // Which ordinals it is done for.
        restarts: checkpoint.done.map_or_else(Vec::new, |_| checkpoint.restarts.clone()),
        overrides: overrides.clone(),
        ..Checkpoint::default()
    };
    if overrides.rejected.is_some() || overrides.pinned.is_some() {
        // What is declared, what stands in its place, and how that came about.
        told.written_generation = checkpoint.written_generation;
        told.written_revision = checkpoint.written_revision;
        told.written_digest.clone_from(&checkpoint.written_digest);
        told.good.clone_from(&checkpoint.good);
        told.rollout = checkpoint.rollout;
        told.rolled_by.clone_from(&checkpoint.rolled_by);
    }
    Some(told)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Exit, Stamp};
    use crate::world::Signature;

    #[test]
    fn it_is_due_when_an_order_or_a_revision_changes_and_not_for_what_happens_by_itself() {
        let name: Name = "bot".parse().unwrap();
        let mut spare = Spare::new(Path::new("/x/state.db"), &[]);
        spare.due = false;
        let mut writes = |checkpoint: Option<Checkpoint>| {
            let mut pending = Pending::default();
            pending.units.insert(name.clone(), checkpoint.map(Box::new));
            spare.written(&pending);
            std::mem::take(&mut spare.due)
        };
        let by_itself = Checkpoint { attempt: 3, open_for_ms: 9, ..Checkpoint::default() };
        assert!(!writes(Some(by_itself.clone())));
        let mut ordered = by_itself.clone();
        ordered.overrides.disabled = Some(Signature { by: "ada".into(), at: Stamp(1) });
        assert!(writes(Some(ordered.clone())));
        assert!(!writes(Some(Checkpoint { attempt: 4, ..ordered })));
        assert!(writes(Some(by_itself.clone())));
        assert!(writes(Some(Checkpoint { done: Some(Exit::Code(0)), ..by_itself })));
        assert!(writes(None));
        assert!(!writes(None));
    }
}

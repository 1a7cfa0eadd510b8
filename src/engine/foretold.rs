//! What a daemon will find that nobody has started yet, for who asks before `up`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use crate::base::{Epoch, Name, Now, Revision};
use crate::manifest::{Diagnostic, LoadInput};
use crate::os::clock;
use crate::plan::Desired;
use crate::store::Legacy;
use crate::world::{Beginning, Cause, Checkpoint, Event, World};

use super::Options;
use super::sets::{Busy, Sets};

/// Everything as it will be before the first step is taken.
pub struct Foretold {
    pub world: World,
    pub diagnostics: Vec<Diagnostic>,
    /// Why what `up` is to be given cannot be read, or is not meant to be.
    pub unreadable: Option<String>,
}

/// `given`: manifests that are on no disk, beside those of `options`. `state_id`, `keeper` and `busy`: what the last one left.
pub fn foretell(
    options: &Options,
    given: Option<LoadInput>,
    mut legacy: Legacy,
    (state_id, keeper, busy): (&str, Option<u32>, &Busy),
) -> Foretold {
    let now = clock::now();
    let mut sets = Sets::new(options, &legacy.restored, state_id, keeper);
    let (units, boot) = (std::mem::take(&mut legacy.restored.units), legacy.restored.boot);
    let incarnation = legacy.restored.incarnation;
    let mut world = World::new(Beginning { epoch: Epoch(1), seed: 0, incarnation });
    let begun = sets.begin(&legacy.restored.sets, busy);
    let named = |path: &PathBuf| options.paths.contains(path);
    let of_path = sets.iter().find(|set| set.path.as_ref().is_some_and(named));
    let unreadable = of_path.and_then(|set| set.unreadable.clone());
    let (desired, diagnostics) = match given {
        Some(input) => {
            let proposal = sets.propose(&input.set.clone(), None, input, None, busy);
            (proposal.desired(), proposal.diagnostics)
        }
        None => (begun.desired.unwrap_or_default(), begun.diagnostics),
    };
    let at = |revision| sets.desired_from(&legacy.revision(revision)?, busy).ok();
    for event in restorations(units, boot, Some(&desired), now, at) {
        world.handle(now, event);
    }
    let cause = Cause::new("Plan", "plan");
    world.handle(now, Event::Desired { desired, cause });
    world.handle(now, Event::Begin);
    Foretold { world, diagnostics, unreadable }
}

/// Units as earlier daemons left them, each with the version that it may have to go back to. `boot`: that of the last daemon.
/// `declared`: what the manifests say now. `desired_at`: everything as a revision had it, if that is kept and can still be read.
pub(super) fn restorations(
    units: Vec<(Name, Checkpoint)>,
    boot: Option<u64>,
    declared: Option<&Desired>,
    now: Now,
    mut desired_at: impl FnMut(Revision) -> Option<Desired>,
) -> Vec<Event> {
    let rolling: BTreeSet<Revision> =
        units.iter().filter_map(|(_, checkpoint)| checkpoint.rolling()).collect();
    let another_boot = boot != Some(clock::boot());
    // Many units may go back to one revision: it is read once.
    let mut read: BTreeMap<Revision, Option<Desired>> = BTreeMap::new();
    let restore = |(unit, mut checkpoint): (Name, Checkpoint)| {
        if another_boot {
            checkpoint.after_another_boot(now);
        }
        let declared = declared.and_then(|declared| declared.units.get(&unit));
        let revision = checkpoint.before_edit(declared);
        let revision = revision.or_else(|| checkpoint.kept_revision(&rolling, now.mono));
        let kept = revision.and_then(|revision| {
            let desired = read.entry(revision).or_insert_with(|| desired_at(revision));
            desired.as_ref()?.units.get(&unit).map(Arc::clone)
        });
        Event::Restore { unit, checkpoint, kept }
    };
    units.into_iter().map(restore).collect()
}

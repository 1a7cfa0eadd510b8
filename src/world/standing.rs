//! What becomes of units for what is wanted of others.

use std::collections::{BTreeMap, VecDeque};

use crate::base::Name;
use crate::plan::Wish;

use super::state::Unit;

/// What follows for units from the wishes of all of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Standing {
    /// Units that are down, though nobody stopped them, and why: a hard dependency that a person stopped, a switch turned off or a
    /// manifest dropped takes its dependents along (systemd's `Requires=`), and those theirs. Otherwise "a unit is stopped only when
    /// its dependents are gone" would never let it go.
    pub along: BTreeMap<Name, String>,
    /// Units that are in no manifest any more and go on all the same, and who needs them: a version that was gone back to depends on
    /// them.
    pub kept: BTreeMap<Name, Name>,
}

impl Standing {
    pub fn of(units: &BTreeMap<Name, Box<Unit>>) -> Self {
        let kept = kept(units);
        let wishes = units.iter().map(|(name, unit)| {
            let unit = unit.as_ref();
            (name, unit, unit.wish(kept.contains_key(name)))
        });
        let (up, down): (Vec<_>, Vec<_>) = wishes.partition(|(.., wish)| matches!(wish, Wish::Up { .. }));
        let mut along = BTreeMap::new();
        if down.is_empty() {
            return Self { along, kept };
        }
        let mut dependents: BTreeMap<&Name, Vec<&Name>> = BTreeMap::new();
        // A job that has run needs nothing any more.
        for (name, unit, _) in up.into_iter().filter(|(_, unit, _)| !unit.has_run()) {
            for on in unit.spec.policy.hard_dependencies() {
                dependents.entry(on).or_default().push(name);
            }
        }
        let root = |(name, unit, wish): (&Name, &Unit, Wish)| match wish {
            Wish::Down { why } | Wish::Gone { why } => {
                Some((name.clone(), format!("it depends on {}: {why}", unit.spec.object)))
            }
            Wish::Up { .. } => None,
        };
        let mut left: VecDeque<(Name, String)> = down.into_iter().filter_map(root).collect();
        while let Some((name, why)) = left.pop_front() {
            // A job is done once: what becomes of it later is nothing to those that waited for it.
            if units.get(&name).is_some_and(|unit| unit.spec.policy.job) {
                continue;
            }
            for dependent in dependents.get(&name).into_iter().flatten() {
                if !along.contains_key(*dependent) {
                    along.insert((*dependent).clone(), why.clone());
                    left.push_back(((*dependent).clone(), why.clone()));
                }
            }
        }
        Self { along, kept }
    }
}

/// Undeclared units that declared ones which are to run need, over any number of edges.
fn kept(units: &BTreeMap<Name, Box<Unit>>) -> BTreeMap<Name, Name> {
    let mut kept = BTreeMap::new();
    if units.values().all(|unit| unit.declared) {
        return kept;
    }
    let running = units.iter().filter(|(_, unit)| matches!(unit.wish(false), Wish::Up { .. }));
    let mut left: Vec<(&Name, &Unit)> = running.map(|(name, unit)| (name, unit.as_ref())).collect();
    while let Some((name, unit)) = left.pop() {
        for on in unit.spec.policy.hard_dependencies() {
            let Some(needed) = units.get(on).filter(|needed| !needed.declared) else { continue };
            if kept.insert(on.clone(), name.clone()).is_none() {
                left.push((on, needed));
            }
        }
    }
    kept
}

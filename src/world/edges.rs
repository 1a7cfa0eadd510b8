//! Who depends on whom: by what is wanted of the units, and by what their instances were started with.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::base::Name;
use crate::plan::UnitSpec;
use crate::plan::observed::Ground;
use crate::unit::Dependency;

use super::World;
use super::state::Unit;

/// Names that depend on each name. It may hold more than is true: an instance that brought an edge may have ended since.
pub(super) type Dependents = BTreeMap<Name, BTreeSet<Name>>;

impl World {
    /// Finds all edges anew.
    pub(super) fn index_dependents(&mut self) {
        let mut dependents = Dependents::new();
        for (name, unit) in &self.units {
            // What it may be started with again.
            let former = unit.slots.values().filter_map(|slot| Some(&slot.former.as_ref()?.spec));
            for spec in unit.versions().chain(former) {
                for dependency in &spec.policy.depends_on {
                    dependents.entry(dependency.name.clone()).or_default().insert(name.clone());
                }
            }
        }
        self.dependents = dependents;
    }

    /// Another version of a unit is wanted: it has edges of its own, and may take others along.
    pub(super) fn spec_turned(&mut self, name: &Name) {
        self.wishes_turned();
        let Some(unit) = self.units.get(name) else { return };
        for dependency in &unit.spec.policy.depends_on {
            self.dependents.entry(dependency.name.clone()).or_default().insert(name.clone());
        }
    }

    /// Something else is wanted of some unit, or there are others: what follows from it for the rest is found anew.
    pub(super) fn wishes_turned(&mut self) {
        self.standing.take();
        // Whether anybody needs them still; who goes first of those that change ports.
        self.dirty.extend(self.undeclared.iter().chain(&self.waiting_for_port).cloned());
    }

    /// Who looks at a unit: what depends on it, and what follows Jobs that do (see [`Self::grounds`]).
    pub(super) fn followers_of(&self, name: &Name) -> BTreeSet<&Name> {
        let (mut found, mut left) = (BTreeSet::new(), vec![name]);
        while let Some(name) = left.pop() {
            for dependent in self.dependents.get(name).into_iter().flatten() {
                let job = || self.units.get(dependent).is_some_and(|unit| unit.spec.policy.job);
                if found.insert(dependent) && job() {
                    left.push(dependent);
                }
            }
        }
        found
    }

    /// What the Jobs needed that a unit follows and that have run, over any number of them.
    pub(super) fn grounds(&self, unit: &Unit) -> Vec<Ground<'_>> {
        let done = |edge: &Dependency| self.units.get(&edge.name).filter(|unit| unit.has_run());
        let jobs = unit.spec.policy.depends_on.iter().filter_map(|edge| Some((done(edge)?, edge.optional)));
        let (mut left, mut seen, mut grounds) = (jobs.collect::<Vec<_>>(), BTreeSet::new(), Vec::new());
        while let Some((job, optional)) = left.pop() {
            let hard = job.spec.policy.depends_on.iter().filter(|edge| !edge.optional);
            for edge in hard.filter(|edge| seen.insert(&edge.name)) {
                left.extend(done(edge).map(|job| (job, optional)));
                // What is not to run any more was needed once.
                let wanted = !self.units.contains_key(&edge.name) || self.wanted_replicas(&edge.name) > 0;
                if let Some(facets) = self.facets(&edge.name).filter(|_| wanted) {
                    grounds.push(Ground { edge, facets, job: job.spec.object.clone(), optional });
                }
            }
        }
        grounds
    }

    /// A unit that this version of another one cannot be without, and that is not there, or needs that one in turn.
    pub fn unmet(&self, name: &Name, spec: &UnitSpec) -> Option<String> {
        let in_ring = || spec.policy.hard_dependencies().find(|on| self.reaches(on, name));
        self.lacks(spec)
            .or_else(|| in_ring().map(|on| format!("it depends on {on}, which depends on it by now")))
    }

    /// A unit that a version cannot be without, and that is not there.
    pub(super) fn lacks(&self, spec: &UnitSpec) -> Option<String> {
        let gone = |on: &&Name| !self.units.contains_key(*on) && !self.externals.contains_key(*on);
        let on = spec.policy.hard_dependencies().find(gone)?;
        Some(format!("it depends on {on}, and there is no such unit any more"))
    }

    /// One unit depends on another, over any number of edges: by what is wanted and by what they were started with.
    pub(super) fn reaches(&self, from: &Name, to: &Name) -> bool {
        let (mut seen, mut left) = (BTreeSet::from([from]), vec![from]);
        while let Some(name) = left.pop() {
            if name == to {
                return true;
            }
            let Some(unit) = self.units.get(name) else { continue };
            for spec in unit.versions() {
                let on = spec.policy.depends_on.iter().map(|dependency| &dependency.name);
                left.extend(on.filter(|on| seen.insert(on)));
            }
        }
        false
    }

    /// Nothing of a unit runs with this spec any more: what only that depended on may be free to stop.
    pub(super) fn loosen(&mut self, name: &Name, spec: &Arc<UnitSpec>) {
        if self.units.get(name).is_some_and(|unit| Arc::ptr_eq(&unit.spec, spec)) {
            return;
        }
        let names = spec.policy.depends_on.iter().map(|dependency| &dependency.name);
        self.dirty.extend(names.filter(|name| self.units.contains_key(*name)).cloned());
    }
}

/// Something of a unit is there that needs another, as it is wanted or as it was started, by an edge that counts.
pub(super) fn needs(unit: &Unit, on: &Name, counts: impl Fn(&Dependency) -> bool) -> bool {
    let needs = |spec: &UnitSpec| {
        spec.policy.depends_on.iter().any(|dependency| dependency.name == *on && counts(dependency))
    };
    let mut occupied = unit.slots.values().filter(|slot| slot.state.is_occupied()).peekable();
    occupied.peek().is_some()
        && (needs(&unit.spec)
            || occupied.filter_map(|slot| slot.instance.as_ref()).any(|instance| needs(&instance.spec)))
}

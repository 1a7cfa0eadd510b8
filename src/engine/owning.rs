//! Which set owns an object that several declare.
//!
//! Two sets that declare the same object are a conflict (E1304), unless one of them took it over (`apply --force-conflicts`). The
//! other then *cedes* it: what it declares of the object counts for nothing, now and in later reloads, until the set that took it
//! does not declare it any more, or until the first one takes it back. So two directories never fight over it.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::ObjectRef;
use crate::manifest::load::owned_twice;
use crate::manifest::{Diagnostic, Objects};

use super::set::Candidate;

/// Objects that a set declares and that belong to another one, by the name of that.
pub type Ceded = BTreeMap<ObjectRef, String>;

/// What somebody hands in at this moment, with the wish that it counts.
#[derive(Clone, Debug, Default)]
pub struct Claim {
    pub set: String,
    pub objects: BTreeSet<ObjectRef>,
    /// It counts whoever owned it.
    pub force: bool,
}

/// An object that belongs to another set from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    pub object: ObjectRef,
    pub from: String,
    pub to: String,
}

/// Decides whose objects count: each set's without those that it cedes. `declared` are all objects of each candidate.
pub(super) fn settle(
    candidates: &mut [Candidate],
    declared: Vec<Objects>,
    claim: Option<&Claim>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<Objects> {
    let names: Vec<String> = candidates.iter().map(|candidate| candidate.name.clone()).collect();
    let declares = |set: &str, object: &ObjectRef| {
        names.iter().position(|name| name == set).is_some_and(|at| declared[at].has(object))
    };
    for (candidate, own) in candidates.iter_mut().zip(&declared) {
        candidate.ceded.retain(|object, taker| own.has(object) && declares(taker, object));
    }
    if let Some(claim) = claim
        && let Some(at) = names.iter().position(|name| *name == claim.set)
    {
        match claim.force {
            true => take(candidates, &declared, at, claim),
            false => refuse(&candidates[at], &names, &declared, at, claim, diagnostics),
        }
    }
    let counts = |(candidate, own): (&Candidate, Objects)| match candidate.ceded.is_empty() {
        true => own,
        false => own.only(|source| !candidate.ceded.contains_key(&source.object)),
    };
    candidates.iter().zip(declared).map(counts).collect()
}

fn take(candidates: &mut [Candidate], declared: &[Objects], at: usize, claim: &Claim) {
    candidates[at].ceded.retain(|object, _| !claim.objects.contains(object));
    for (other, candidate) in candidates.iter_mut().enumerate().filter(|(other, _)| *other != at) {
        for object in claim.objects.iter().filter(|object| declared[at].has(object)) {
            if declared[other].has(object) && !candidate.ceded.contains_key(object) {
                candidate.ceded.insert(object.clone(), claim.set.clone());
            }
        }
    }
}

/// What a set has ceded is not its own to change.
fn refuse(
    candidate: &Candidate,
    names: &[String],
    declared: &[Objects],
    at: usize,
    claim: &Claim,
    diagnostics: &mut Vec<Diagnostic>,
) {
    for (object, taker) in candidate.ceded.iter().filter(|(object, _)| claim.objects.contains(object)) {
        let owner =
            names.iter().position(|name| name == taker).and_then(|owner| declared[owner].source(object));
        if let Some((owner, own)) = owner.zip(declared[at].source(object)) {
            diagnostics.push(owned_twice(owner, own));
        }
    }
}

/// Objects that have another owner than before.
pub(super) fn moved(before: &Objects, after: &Objects) -> Vec<Moved> {
    let owners: BTreeMap<&ObjectRef, &str> =
        before.sources().into_iter().map(|source| (&source.object, &*source.set)).collect();
    let sources = after.sources().into_iter();
    let other = |source: &std::sync::Arc<crate::manifest::load::Source>| {
        let from = owners.get(&source.object).filter(|from| ***from != *source.set)?;
        Some(Moved { object: source.object.clone(), from: (*from).to_owned(), to: source.set.to_string() })
    };
    sources.filter_map(other).collect()
}

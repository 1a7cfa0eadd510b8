//! Manifests that are handed in: plan, diff, apply.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde_json::{Value, json};

use crate::base::{Name, ObjectKind, ObjectRef};
use crate::engine::{Claim, Engine, Proposal, changed_files};
use crate::manifest::diagnostic::is_conflict;
use crate::manifest::fields::{FieldChange, changed_fields, changed_metadata};
use crate::manifest::split::{objects_in, split, written_in};
use crate::manifest::{Diagnostic, LoadInput, SourceFile, tree};
use crate::os::caller::Caller;
use crate::os::{clock, snapshot};
use crate::store::StoredFile;
use crate::world::{Cause, Event, Order};

use super::calls::{Answer, Context, Refusal, named, refuse};
use super::elsewhere::{self, Elsewhere};
use super::orders::stays_up;
use super::status;
use super::types::{Diff, Done, FieldDiff, ObjectDiff, Overlay, PlanAction, Problem, Submission};

pub(super) async fn pending(State(context): State<Context>) -> Answer<super::types::Plan> {
    let plan = context
        .ask(|engine| {
            let mut plan = status::plan(&engine.world, &engine.world.pending());
            plan.diagnostics = engine.sets.pending();
            plan
        })
        .await?;
    Ok(Json(plan))
}

fn source(file: &StoredFile) -> SourceFile {
    SourceFile { path: file.path.clone(), content: Ok(file.text.as_bytes().into()) }
}

/// The set that a submission is for, and its whole content.
fn target(engine: &Engine, submission: &Submission) -> Result<(String, Option<PathBuf>, LoadInput), Refusal> {
    let (name, path, mut input) = target_files(engine, submission)?;
    if !submission.overlays.is_empty() {
        let of = |overlay: &Overlay| overlay.files.iter().map(source).collect();
        input.overlays = submission.overlays.iter().map(of).collect();
    }
    Ok((name, path, input))
}

/// The overlays of a set are those that it is read with again: `apply` cannot give it others.
fn has_overlays(engine: &Engine, submission: &Submission) -> Result<(), Refusal> {
    let given: Vec<&PathBuf> = submission.overlays.iter().map(|overlay| &overlay.path).collect();
    let (name, _, _) = target_files(engine, submission)?;
    let known = engine.sets.get(&name).map(|set| set.overlays.iter().collect::<Vec<_>>()).unwrap_or_default();
    if given.is_empty() || given == known {
        return Ok(());
    }
    let list = known.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
    let message = match known.is_empty() {
        true => format!("the set `{name}` is read without overlays, and `apply` gives it none"),
        false => {
            format!("the set `{name}` is read with other overlays ({list}), and `apply` does not change that")
        }
    };
    let hint = "overlays are given to `unisys up -f PATH --overlay PATH`; `plan` and `diff` show what others would come to";
    Err(refuse(StatusCode::BAD_REQUEST, message, hint))
}

/// What lies `here` is not what a set is read from.
fn read_elsewhere(name: &str, there: Option<&Path>, here: &Path) -> Refusal {
    let there = there.unwrap_or(Path::new("")).display();
    let message = format!("the set `{name}` is read from {there}, and {} is no part of it", here.display());
    let hint = format!(
        "to apply it, put it there; what that would change is shown by `unisys plan -f PATH --set {name}` and \
         `diff`, given all of it. For a set of its own, give it a name that no set has: --set NAME"
    );
    refuse(StatusCode::CONFLICT, message, hint)
}

fn target_files(
    engine: &Engine,
    submission: &Submission,
) -> Result<(String, Option<PathBuf>, LoadInput), Refusal> {
    if let Some(beside) = files_of_a_set(engine, submission)? {
        return Ok(beside);
    }
    let name = match (&submission.set, &submission.path) {
        (Some(set), _) => set.clone(),
        (None, Some(path)) => crate::engine::sets::set_name(path),
        (None, None) => "default".into(),
    };
    if let (Some(path), Some(known)) = (&submission.path, engine.sets.get(&name))
        && known.path.as_ref().is_some_and(|known| known != path)
    {
        return Err(read_elsewhere(&name, known.path.as_deref(), path));
    }
    if submission.path.is_none()
        && let Some(there) = engine.sets.get(&name).and_then(|set| set.path.as_deref())
    {
        let here = submission.files.first().map(|file| file.path.clone()).unwrap_or_default();
        return Err(read_elsewhere(&name, Some(there), &here));
    }
    let mut input = engine.sets.input_of(&name);
    input.set.clone_from(&name);
    if submission.path.is_some() {
        input.files = submission.files.iter().map(source).collect();
    } else {
        let added = documents(&submission.files);
        if added.is_empty() && !submission.files.iter().any(has_documents) {
            let (message, hint) = match submission.prune {
                true => (
                    "there is nothing in it, and --prune would delete everything of the set",
                    "`unisys delete` deletes",
                ),
                false => {
                    ("there is no manifest in it", "give a directory, a file or `-` with at least one object")
                }
            };
            return Err(refuse(StatusCode::BAD_REQUEST, message, hint));
        }
        let none = Vec::new();
        let known = if submission.prune { &none } else { &input.files };
        let mut files: Vec<SourceFile> = known
            .iter()
            .filter(|file| !added.iter().any(|new| same_object(&new.path, &file.path)))
            .cloned()
            .collect();
        match added.is_empty() {
            // What cannot be taken apart is shown as it is: its diagnostics say why.
            true => files.extend(submission.files.iter().map(source)),
            false => files.extend(added),
        }
        input.files = files;
    }
    Ok((name, submission.path.clone(), input))
}

/// Files of a directory that a set is read from, whose other files stay as they were accepted. Nothing if they are none.
pub(super) fn files_of_a_set(
    engine: &Engine,
    submission: &Submission,
) -> Result<Option<(String, Option<PathBuf>, LoadInput)>, Refusal> {
    if submission.path.is_some() || submission.files.is_empty() {
        return Ok(None);
    }
    let holds_all = |root: &PathBuf| submission.files.iter().all(|file| file.path.starts_with(root));
    let Some(set) = engine.sets.iter().find(|set| set.path.as_ref().is_some_and(holds_all)) else {
        return Ok(None);
    };
    if submission.set.as_ref().is_some_and(|wanted| *wanted != set.name) {
        return Ok(None);
    }
    if submission.prune {
        let message = format!(
            "the set `{}` is read from its directory: what is not in it any more goes by itself",
            set.name
        );
        return Err(refuse(
            StatusCode::BAD_REQUEST,
            message,
            "leave --prune out, or apply the whole directory",
        ));
    }
    let mut input = engine.sets.input_of(&set.name);
    for file in &submission.files {
        let new = SourceFile { path: file.path.clone(), content: Ok(file.text.as_bytes().into()) };
        match input.files.iter_mut().find(|known| known.path == new.path) {
            Some(known) => *known = new,
            None => input.files.push(new),
        }
    }
    input.files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(Some((set.name.clone(), None, input)))
}

fn has_documents(file: &StoredFile) -> bool {
    tree::parse_to_values(&file.text).map_or(true, |values| values.iter().any(|value| !value.is_null()))
}

/// Each object of some files as a file of its own, so that later ones replace it by kind and name. Empty if any of them cannot
/// be taken apart: then the files are taken as they are.
fn documents(files: &[StoredFile]) -> Vec<SourceFile> {
    let mut found = Vec::new();
    for file in files {
        let Some(objects) = split(&file.path, &file.text) else { return Vec::new() };
        let source =
            |(path, text): (PathBuf, String)| SourceFile { path, content: Ok(text.into_bytes().into()) };
        found.extend(objects.into_iter().map(source));
    }
    found
}

fn same_object(a: &std::path::Path, b: &std::path::Path) -> bool {
    let object = |path: &std::path::Path| {
        path.file_name().and_then(|name| Some(name.to_str()?.rsplit_once('#')?.1.to_owned()))
    };
    object(a).is_some_and(|a| object(b) == Some(a))
}

fn propose(engine: &mut Engine, submission: &Submission) -> Result<Proposal, Refusal> {
    if let Some(expected) = submission.if_revision
        && expected != engine.world.revision().0
    {
        let message = format!("the accepted revision is {}, not {expected}", engine.world.revision());
        return Err(refuse(StatusCode::CONFLICT, message, "look at `unisys diff -f PATH` again"));
    }
    let (name, path, input) = target(engine, submission)?;
    let busy = engine.busy();
    let force = submission.force_conflicts;
    // Which objects they are matters only to who takes over some, or gave away some: it takes another look at every file.
    let files = submission.files.iter().filter(|_| force || engine.sets.cedes(&name));
    let objects = files.flat_map(|file| objects_in(&file.path, &file.text)).collect();
    let claim = Claim { set: name.clone(), objects, force };
    Ok(engine.sets.propose(&name, path, input, Some(&claim), &busy))
}

pub(super) fn rejected(diagnostics: Vec<Diagnostic>) -> Refusal {
    let errors = diagnostics.iter().filter(|diagnostic| diagnostic.rejects()).count();
    let error =
        format!("{errors} error{} in the manifests; nothing was changed", if errors == 1 { "" } else { "s" });
    let status = match is_conflict(&diagnostics) {
        true => StatusCode::CONFLICT,
        false => StatusCode::UNPROCESSABLE_ENTITY,
    };
    Refusal(status, Problem { error, hint: String::new(), diagnostics })
}

/// What would be done if this were accepted: asked of a copy of the world. What other sets have to do anyway is named, not told.
fn planned(engine: &Engine, set: &str, proposal: &Proposal) -> super::types::Plan {
    let mut world = engine.world.clone();
    let cause = Cause::new("Plan", "plan");
    let desired = proposal.desired();
    world.handle(clock::now(), Event::Desired { desired: desired.clone(), cause });
    let mut plan = status::plan(&world, &world.pending());
    let anyway = status::plan(&engine.world, &engine.world.pending());
    let is_other = |unit: &str| {
        let name: Option<Name> = unit.rsplit('/').next().and_then(|name| name.parse().ok());
        let spec = |name: &Name| {
            let running = || engine.world.units().get(name).map(|unit| &unit.spec);
            desired.units.get(name).or_else(running).cloned()
        };
        name.and_then(|name| spec(&name)).is_some_and(|spec| *spec.set != *set)
    };
    let mut others = BTreeSet::new();
    let mut is_left_out = |unit: &String, anyway: bool| {
        let left_out = anyway && is_other(unit);
        if left_out {
            others.insert(unit.clone());
        }
        left_out
    };
    plan.actions.retain(|action| {
        let same = |known: &super::types::PlanAction| known.verb == action.verb && known.unit == action.unit;
        !is_left_out(&action.unit, anyway.actions.iter().any(same))
    });
    plan.waiting.retain(|row| {
        let same = |known: &super::types::PlanWaiting| known.unit == row.unit && known.on == row.on;
        !is_left_out(&row.unit, anyway.waiting.iter().any(same))
    });
    plan.others = others.into_iter().collect();
    // What nothing is done for by itself is edited all the same.
    let units = plan.actions.iter().enumerate().rev();
    let at: BTreeMap<String, usize> = units.map(|(at, action)| (action.unit.clone(), at)).collect();
    for edit in &desired.edited {
        let unit = edit.object.to_string();
        if let Some(at) = at.get(&unit) {
            plan.actions[*at].reason.push_str(&format!("; {}", edit.reason));
            continue;
        }
        let id = plan.actions.last().map_or(0, |last| last.id) + 1;
        let (verb, reason) = (edit.verb.as_str().into(), edit.reason.clone());
        plan.actions.push(PlanAction { id, verb, unit, reason, after: Vec::new() });
    }
    let files: BTreeSet<String> = proposal
        .objects()
        .sources()
        .into_iter()
        .filter(|source| *source.set != *set)
        .map(|source| written_in(&source.file).display().to_string())
        .collect();
    let own = proposal.diagnostics.iter().filter(|found| !files.contains(&found.file));
    plan.diagnostics = own.cloned().collect();
    plan
}

/// What is to be compared, with where it lies if that is not where its set is read from.
fn compared(engine: &Engine, submission: Submission) -> (Submission, Option<Elsewhere>) {
    match elsewhere::as_there(engine, &submission) {
        Some((moved, elsewhere)) => (moved, Some(elsewhere)),
        None => (submission, None),
    }
}

/// What it would be, unless that is rejected.
fn proposed(
    engine: &mut Engine,
    submission: &Submission,
    elsewhere: Option<&Elsewhere>,
) -> Result<Proposal, Refusal> {
    let mut proposal = propose(engine, submission)?;
    if let Some(elsewhere) = elsewhere {
        elsewhere.told_here(&mut proposal.diagnostics);
    }
    if proposal.rejected { Err(rejected(proposal.diagnostics)) } else { Ok(proposal) }
}

pub(super) async fn plan(
    State(context): State<Context>,
    Json(submission): Json<Submission>,
) -> Answer<super::types::Plan> {
    let plan = context
        .ask(move |engine| {
            let (submission, elsewhere) = compared(engine, submission);
            let proposal = proposed(engine, &submission, elsewhere.as_ref())?;
            let mut plan = planned(engine, &target(engine, &submission)?.0, &proposal);
            plan.notes.extend(elsewhere.as_ref().map(Elsewhere::note));
            Ok(plan)
        })
        .await??;
    Ok(Json(plan))
}

pub(super) async fn apply(
    State(context): State<Context>,
    Extension(caller): Extension<Caller>,
    Json(submission): Json<Submission>,
) -> Answer<Done> {
    let (dry_run, by) = (submission.dry_run, named(caller).await);
    let mut done = context
        .ask(move |engine| {
            stays_up(engine)?;
            // It is read again from there.
            if let Some(why) = submission.path.as_deref().and_then(snapshot::distrusted) {
                let hint =
                    "whoever can write the manifests can run code as root; make them writable by root alone";
                return Err(refuse(StatusCode::CONFLICT, why, hint));
            }
            has_overlays(engine, &submission)?;
            let proposal = propose(engine, &submission)?;
            if proposal.rejected {
                return Err(rejected(proposal.diagnostics));
            }
            let (set, _, input) = target(engine, &submission)?;
            let files = changed_files(&engine.sets.input_of(&set), &input);
            let plan = planned(engine, &set, &proposal);
            let unchanged = proposal.desired().units == engine.world.desired().units
                && proposal.desired().externals == engine.world.desired().externals
                && proposal.objects().same_as(engine.sets.objects());
            if !submission.dry_run && !unchanged {
                let detail = match &submission.path {
                    Some(path) => format!("unisys apply -f {} by {by}", path.display()),
                    None => format!("unisys apply by {by}"),
                };
                let cause = Cause { files, ..Cause::new("Apply", detail) };
                engine.accept(proposal, cause);
            }
            let again =
                engine.world.units().iter().filter(|(_, unit)| submission.force && unit.is_rolled_back());
            let again: Vec<Name> = again.map(|(name, _)| name.clone()).collect();
            let forced = !submission.dry_run && !again.is_empty();
            if forced {
                let event = Event::Order { order: Order::Retry(again), by };
                engine.world.handle(clock::now(), event);
            }
            let message = match (unchanged, submission.dry_run) {
                (true, _) if forced => "what was rolled back is tried again".into(),
                (true, _) => format!("nothing to do, revision {} stays", engine.world.revision()),
                (false, true) => "nothing was changed (--dry-run)".into(),
                (false, false) => format!("revision {} accepted", engine.world.revision()),
            };
            Ok(Done { revision: engine.world.revision().0, message, plan, ..Done::default() })
        })
        .await??;
    if !dry_run {
        done.notes.extend(context.not_recorded().await?);
    }
    Ok(Json(done))
}

pub(super) async fn diff(State(context): State<Context>, Json(submission): Json<Submission>) -> Answer<Diff> {
    let diff = context
        .ask(move |engine| {
            let (submission, elsewhere) = compared(engine, submission);
            let proposal = proposed(engine, &submission, elsewhere.as_ref())?;
            let mut notes = status::not_as_written(&engine.world);
            notes.splice(0..0, elsewhere.as_ref().map(Elsewhere::note));
            Ok(Diff {
                objects: differences(engine, &proposal),
                diagnostics: proposal.diagnostics,
                notes,
                overrides: status::all_overrides(&engine.world),
            })
        })
        .await??;
    Ok(Json(diff))
}

fn differences(engine: &Engine, proposal: &Proposal) -> Vec<ObjectDiff> {
    let (old, new) = (engine.sets.objects().sources(), proposal.objects().sources());
    let row = |object: &ObjectRef, change: &str, fields| ObjectDiff {
        object: object.to_string(),
        change: change.into(),
        fields,
    };
    let mut found = Vec::new();
    for source in &new {
        match old.iter().find(|known| known.object == source.object) {
            None => found.push(row(&source.object, "Added", Vec::new())),
            Some(known) => {
                let mut fields = metadata_differences(engine, proposal, &source.object);
                fields.extend(field_differences(&source.object, &known.written, &source.written));
                fields.extend(value_differences(engine, proposal, &source.object, &fields));
                if !fields.is_empty() {
                    found.push(row(&source.object, "Changed", fields));
                }
            }
        }
    }
    let gone = old.iter().filter(|known| !new.iter().any(|source| source.object == known.object));
    found.extend(gone.map(|known| row(&known.object, "Removed", Vec::new())));
    found
}

fn field_differences(object: &ObjectRef, old: &str, new: &str) -> Vec<FieldDiff> {
    let parse = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_default();
    let (old, new) = (parse(old), parse(new));
    shown_fields(object, changed_fields((&old, &old), (&new, &new)))
}

fn metadata_differences(engine: &Engine, proposal: &Proposal, object: &ObjectRef) -> Vec<FieldDiff> {
    let meta = engine.sets.objects().meta(object).zip(proposal.objects().meta(object));
    shown_fields(object, meta.map(|(old, new)| changed_metadata(old, new)).unwrap_or_default())
}

/// Nothing of a Secret is shown: an annotation of a tool's may hold all of it.
fn shown_fields(object: &ObjectRef, changes: Vec<FieldChange>) -> Vec<FieldDiff> {
    let mask = |value: Value| {
        if object.kind == ObjectKind::Secret && !value.is_null() { json!("***") } else { value }
    };
    let shown = changes.into_iter().map(|change| FieldDiff {
        path: change.path,
        old: mask(change.old),
        new: mask(change.new),
    });
    shown.collect()
}

/// Values that change though the unit's own text does not: a Config, a `.env`.
fn value_differences(
    engine: &Engine,
    proposal: &Proposal,
    object: &ObjectRef,
    known: &[FieldDiff],
) -> Vec<FieldDiff> {
    let desired = proposal.desired();
    let (Some(old), Some(new)) =
        (engine.world.desired().units.get(&object.name), desired.units.get(&object.name))
    else {
        return Vec::new();
    };
    let (old, new) = (&old.launch.env, &new.launch.env);
    let mut names: Vec<&String> = old.iter().chain(new).map(|var| &var.name).collect();
    names.sort();
    names.dedup();
    let find = |env: &[Arc<crate::manifest::resolve::EnvVar>], name: &str| {
        env.iter().find(|var| var.name == name).cloned()
    };
    let shown = |var: Option<Arc<crate::manifest::resolve::EnvVar>>| match var {
        Some(var) if var.secret => json!("***"),
        Some(var) => json!(crate::base::ports::without_stand_ins(&var.value)),
        None => Value::Null,
    };
    names
        .into_iter()
        .filter(|name| {
            let path = format!("spec.env.{name}");
            !known.iter().any(|field| field.path == path || field.path == "spec.env")
        })
        .filter_map(|name| {
            let (old, new) = (find(old, name), find(new, name));
            let same = old.as_ref().map(|var| &var.value) == new.as_ref().map(|var| &var.value);
            (!same).then(|| FieldDiff { path: format!("spec.env.{name}"), old: shown(old), new: shown(new) })
        })
        .collect()
}

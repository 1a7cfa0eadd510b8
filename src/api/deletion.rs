//! `delete`: objects, or whole sets, that were handed in are taken away, all of them in one revision or none.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::Deserialize;

use crate::base::{ObjectKind, ObjectRef};
use crate::engine::{Engine, Removal};
use crate::manifest::diagnostic::nearest;
use crate::os::caller::Caller;
use crate::world::Cause;

use super::calls::{Answer, Context, Refusal, refuse};
use super::manifests::rejected;
use super::types::Done;

/// Objects to take away: by name, from the sets that `apply` made. What a watched directory declares comes back by itself.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Deletion {
    #[serde(default)]
    objects: Vec<String>,
    /// Some of them may be gone already.
    #[serde(default)]
    ignore_missing: bool,
    /// Everything of the set that is read from there, whether a file declares it or not.
    #[serde(default)]
    path: Option<PathBuf>,
}

pub(super) async fn delete(
    State(context): State<Context>,
    Extension(caller): Extension<Caller>,
    Json(deletion): Json<Deletion>,
) -> Answer<Done> {
    let by = super::calls::named(caller).await;
    let mut done = context
        .ask(move |engine| {
            let mut taken = Taken::default();
            // A directory that is there may be no set, or not one that may be deleted: then its objects say so.
            let is_applied = |path: &&PathBuf| {
                engine.sets.iter().any(|set| set.applied && set.path.as_ref() == Some(*path))
            };
            if let Some(path) =
                deletion.path.as_ref().filter(|path| deletion.objects.is_empty() || is_applied(path))
            {
                taken.set_of(engine, path)?;
            }
            let mut gone = Vec::new();
            let sources = engine.sets.objects().sources();
            let called = |word: &str| sources.iter().any(|source| source.object.name.as_str() == word);
            for text in &ObjectKind::joined(&deletion.objects, called) {
                let object = named(engine, text)?;
                if !taken.object(engine, &object)? {
                    gone.push(object);
                }
            }
            if let Some(first) = gone.first().filter(|_| !deletion.ignore_missing || taken.is_empty()) {
                return Err(refuse(
                    StatusCode::NOT_FOUND,
                    format!("there is no {first}"),
                    "see `unisys get`",
                ));
            }
            let (removal, what) = taken.removal(engine)?;
            let busy = engine.busy();
            let proposal = engine.sets.propose_without(&removal, &busy);
            if proposal.rejected {
                return Err(rejected(proposal.diagnostics));
            }
            engine.accept(proposal, Cause::new("Delete", format!("unisys delete of {what} by {by}")));
            let revision = engine.world.revision().0;
            let notes = gone.iter().map(|object| format!("{object} was gone already")).collect();
            let message = format!("revision {revision} accepted: deleted {what}");
            Ok(Done { revision, message, notes, ..Done::default() })
        })
        .await??;
    done.notes.extend(context.not_recorded().await?);
    Ok(Json(done))
}

/// `KIND/NAME`, or the name alone of what no two objects are called.
fn named(engine: &Engine, text: &str) -> Result<ObjectRef, Refusal> {
    if text.contains('/') {
        return text.parse().map_err(|_| {
            let message = format!("`{text}` is not KIND/NAME");
            refuse(StatusCode::BAD_REQUEST, message, "write it as `service/api`")
        });
    }
    let sources = engine.sets.objects().sources();
    let called: Vec<_> = sources.iter().filter(|source| source.object.name.as_str() == text).collect();
    match called[..] {
        [one] => Ok(one.object.clone()),
        [] => {
            let names = sources.iter().map(|source| source.object.name.as_str());
            let hint = match nearest(text, names) {
                Some(near) => format!("did you mean {near}? See `unisys get`"),
                None => "see `unisys get`".into(),
            };
            Err(refuse(StatusCode::NOT_FOUND, format!("there is nothing called {text}"), hint))
        }
        _ => {
            let objects: Vec<String> = called.iter().map(|source| source.object.to_string()).collect();
            let message = format!("{text} is the name of {}", objects.join(" and of "));
            Err(refuse(StatusCode::BAD_REQUEST, message, "write the one that is meant with its kind"))
        }
    }
}

/// What is to be taken away.
#[derive(Default)]
struct Taken {
    /// Of sets that are read from somewhere: these end as a whole.
    of_read: BTreeMap<String, BTreeSet<ObjectRef>>,
    /// The set that was named by its path.
    named: Option<(String, PathBuf)>,
    /// Of what was handed in object by object: in which set and file.
    alone: BTreeMap<ObjectRef, (String, PathBuf)>,
}

impl Taken {
    fn is_empty(&self) -> bool {
        self.of_read.is_empty() && self.alone.is_empty()
    }

    fn set_of(&mut self, engine: &Engine, path: &Path) -> Result<(), Refusal> {
        let set = engine.sets.iter().find(|set| set.path.as_deref() == Some(path));
        let set = set.ok_or_else(|| {
            let message = format!("no set is read from {}", path.display());
            refuse(StatusCode::NOT_FOUND, message, "see `unisys get sets`")
        })?;
        if !set.applied {
            let message = format!("{} is what `unisys up` was given", path.display());
            return Err(refuse(StatusCode::CONFLICT, message, "start unisys without it"));
        }
        let sources = engine.sets.objects().sources();
        let of_set = sources.into_iter().filter(|source| *source.set == *set.name);
        self.of_read.entry(set.name.clone()).or_default().extend(of_set.map(|source| source.object.clone()));
        self.named = Some((set.name.clone(), path.to_owned()));
        Ok(())
    }

    /// False: there is no such object.
    fn object(&mut self, engine: &Engine, object: &ObjectRef) -> Result<bool, Refusal> {
        let sources = engine.sets.objects().sources();
        let Some(source) = sources.iter().find(|source| source.object == *object) else { return Ok(false) };
        match engine.sets.get(&source.set).filter(|set| set.path.is_some()) {
            Some(set) if set.applied => {
                self.of_read.entry(set.name.clone()).or_default().insert(object.clone());
            }
            Some(_) => {
                let message = format!("{object} is declared in {}", source.file.display());
                return Err(refuse(StatusCode::CONFLICT, message, "remove it there, or `unisys stop` it"));
            }
            None => {
                self.alone.insert(object.clone(), (source.set.to_string(), source.file.clone()));
            }
        }
        Ok(true)
    }

    /// The same for the sets, and in words.
    fn removal(self, engine: &Engine) -> Result<(Removal, String), Refusal> {
        // Of a directory that was applied: all of it, or what is left would bring it back.
        for (set, objects) in &self.of_read {
            let sources = engine.sets.objects().sources();
            let left =
                sources.iter().find(|source| *source.set == **set && !objects.contains(&source.object));
            if let Some(left) = left {
                let path = engine.sets.get(set).and_then(|set| set.path.clone()).unwrap_or_default();
                let message =
                    format!("the set `{set}` is read from its directory and holds {} as well", left.object);
                let hint = format!(
                    "remove the file there, or delete the whole set with `unisys delete -f {}`",
                    path.display()
                );
                return Err(refuse(StatusCode::CONFLICT, message, hint));
            }
        }
        let named = self.named.as_ref();
        let everything = named.map(|(_, path)| format!("everything of {}", path.display()));
        let of_read = self.of_read.iter().filter(|(set, _)| named.is_none_or(|(named, _)| named != *set));
        let objects = of_read.flat_map(|(_, objects)| objects).chain(self.alone.keys());
        let words: Vec<String> = objects.map(ToString::to_string).chain(everything).collect();
        let mut removal = Removal { sets: self.of_read.into_keys().collect(), ..Removal::default() };
        for (set, file) in self.alone.into_values() {
            removal.files.entry(set).or_default().insert(file);
        }
        Ok((removal, words.join(", ")))
    }
}

//! What differs between two accepted states and is no unit's own spec: labels, annotations, and whatever else is declared. Nothing is
//! done for it by itself, and it is what somebody did all the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use crate::base::{ObjectKind, ObjectRef};
use crate::manifest::Objects;
use crate::manifest::fields::{changed_fields, changed_metadata};
use crate::manifest::load::Source;

use super::{Drift, Verb};

/// One object that somebody edited, and what of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    pub verb: Verb,
    pub object: ObjectRef,
    pub reason: String,
}

/// What a revision edits beside the specs of its units, in order of the objects.
pub fn edits(old: &Objects, new: &Objects) -> Vec<Edit> {
    let (before, after) = (by_object(old), by_object(new));
    let mut found = Vec::new();
    for (object, source) in &after {
        let of_unit = is_unit(object);
        let reason = match before.get(object) {
            Some(known) if Arc::ptr_eq(known, source) => continue,
            Some(known) => {
                let mut fields = metadata_fields(old, new, object);
                if !of_unit {
                    fields.extend(spec_fields(known, source));
                }
                if fields.is_empty() {
                    continue;
                }
                Drift::words(&fields)
            }
            None if of_unit => continue,
            None => "it is new".into(),
        };
        found.push(Edit { verb: Verb::Update, object: (*object).clone(), reason });
    }
    let gone = before.keys().filter(|object| !is_unit(object) && !after.contains_key(*object));
    found.extend(gone.map(|object| Edit {
        verb: Verb::Delete,
        object: (*object).clone(),
        reason: "it is in no manifest any more".into(),
    }));
    found
}

fn by_object(objects: &Objects) -> BTreeMap<&ObjectRef, &Arc<Source>> {
    objects.sources().into_iter().map(|source| (&source.object, source)).collect()
}

/// What runs: it comes and goes, and its spec changes, by actions of its own.
fn is_unit(object: &ObjectRef) -> bool {
    matches!(object.kind, ObjectKind::Service | ObjectKind::Job)
}

fn metadata_fields(old: &Objects, new: &Objects, object: &ObjectRef) -> Vec<String> {
    let Some((old, new)) = old.meta(object).zip(new.meta(object)) else { return Vec::new() };
    changed_metadata(old, new).into_iter().map(|change| change.path).collect()
}

fn spec_fields(old: &Source, new: &Source) -> Vec<String> {
    if old.written == new.written {
        return Vec::new();
    }
    let parse = |source: &Source| serde_json::from_str::<Value>(&source.written).unwrap_or_default();
    let (old, new) = (parse(old), parse(new));
    changed_fields((&old, &old), (&new, &new)).into_iter().map(|change| change.path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::load::ParseCache;
    use crate::manifest::{LoadInput, SourceFile, load};

    fn objects(text: &str) -> Objects {
        let content = Ok(text.as_bytes().into());
        let files = vec![SourceFile { path: "/m/a.yaml".into(), content }];
        let input = LoadInput { set: "m".into(), files, ..LoadInput::default() };
        let (objects, diagnostics) = load(&input, &mut ParseCache::default());
        assert_eq!(diagnostics, []);
        objects
    }

    fn one(kind: &str, metadata: &str, spec: &str) -> String {
        format!(
            "---\napiVersion: unisys.dev/v1\nkind: {kind}\nmetadata: {{name: a{metadata}}}\nspec: {spec}\n"
        )
    }

    #[test]
    fn what_concerns_no_process_is_told_of_every_kind_of_object() {
        let service = |metadata: &str, spec: &str| one("Service", metadata, spec);
        let config = |data: &str| one("Config", "", &format!("{{data: {{{data}}}}}"));
        let plain = service("", "{command: [x]}");
        for (old, new, expected) in [
            (plain.clone(), plain.clone(), vec![]),
            (plain.clone(), format!("# a comment\n{plain}"), vec![]),
            (
                plain.clone(),
                service(", labels: {tier: web}", "{command: [x]}"),
                vec!["Update service/a: metadata.labels.tier changed"],
            ),
            (
                service(", labels: {tier: web}, annotations: {by: me}", "{command: [x]}"),
                service(", labels: {tier: db}", "{command: [y]}"),
                vec!["Update service/a: metadata.labels.tier and metadata.annotations.by changed"],
            ),
            (plain.clone(), service("", "{command: [y]}"), vec![]),
            (String::new(), plain.clone(), vec![]),
            (plain.clone(), String::new(), vec![]),
            (config("A: b"), config("A: c"), vec!["Update config/a: spec.data.A changed"]),
            (plain.clone(), format!("{plain}{}", config("A: b")), vec!["Update config/a: it is new"]),
            (
                format!("{plain}{}", config("A: b")),
                plain.clone(),
                vec!["Delete config/a: it is in no manifest any more"],
            ),
        ] {
            let found = edits(&objects(&old), &objects(&new));
            let words: Vec<String> = found
                .iter()
                .map(|edit| format!("{} {}: {}", edit.verb.as_str(), edit.object, edit.reason))
                .collect();
            assert_eq!(words, expected, "{old} → {new}");
        }
    }
}

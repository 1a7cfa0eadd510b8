//! Which field of a spec takes what to change (architecture §3, invariant 11).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::spec::Metadata;

/// What it takes for a change of a field to take effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FieldClass {
    /// Same process.
    InPlace,
    /// The program reads its files again.
    Reload,
    /// A new process.
    Replace,
}

/// A field that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldChange {
    /// `spec.env.LOG_LEVEL`.
    pub path: String,
    pub class: FieldClass,
    pub old: Value,
    pub new: Value,
}

/// The class of each field of a Service's or Job's spec, by its first step.
const CLASSES: [(&str, FieldClass); 35] = [
    ("command", FieldClass::Replace),
    ("workingDir", FieldClass::Replace),
    ("user", FieldClass::Replace),
    ("group", FieldClass::Replace),
    ("supplementaryGroups", FieldClass::Replace),
    ("umask", FieldClass::Replace),
    ("env", FieldClass::Replace),
    ("envFrom", FieldClass::Replace),
    ("inheritEnv", FieldClass::Replace),
    ("ports", FieldClass::Replace),
    ("resources", FieldClass::Replace),
    ("security", FieldClass::Replace),
    ("restartOn", FieldClass::Replace),
    ("reloadOn", FieldClass::Reload),
    ("replicas", FieldClass::InPlace),
    ("dependsOn", FieldClass::InPlace),
    ("probes", FieldClass::InPlace),
    ("restart", FieldClass::InPlace),
    ("circuitBreaker", FieldClass::InPlace),
    ("watchdog", FieldClass::InPlace),
    ("stop", FieldClass::InPlace),
    ("reload", FieldClass::InPlace),
    ("update", FieldClass::InPlace),
    ("hooks", FieldClass::InPlace),
    ("logging", FieldClass::InPlace),
    ("metrics", FieldClass::InPlace),
    ("enabledWhen", FieldClass::InPlace),
    ("backoffLimit", FieldClass::InPlace),
    ("activeDeadline", FieldClass::InPlace),
    ("schedule", FieldClass::InPlace),
    ("timeZone", FieldClass::InPlace),
    ("concurrencyPolicy", FieldClass::InPlace),
    ("startingDeadline", FieldClass::InPlace),
    ("history", FieldClass::InPlace),
    ("labels", FieldClass::InPlace),
];

/// The class of a field by its first step; what is not known needs a new process.
pub fn class_of(field: &str) -> FieldClass {
    CLASSES.iter().find(|(name, _)| *name == field).map_or(FieldClass::Replace, |(_, class)| *class)
}

/// Probes that are told through a descriptor or socket are arranged when the process starts, and a program reads its
/// WATCHDOG_USEC once; a cgroup's limits can be set anew while it runs.
fn class_at(path: &str) -> FieldClass {
    let steps: Vec<&str> = path.split('.').collect();
    match steps.as_slice() {
        ["spec", "probes", _, "notify", ..] => FieldClass::Replace,
        ["spec", "watchdog", "heartbeat", ..] => FieldClass::Replace,
        ["spec", "resources", "memory" | "cpu" | "pids", ..] => FieldClass::InPlace,
        ["spec", first, ..] => class_of(first),
        _ => FieldClass::Replace,
    }
}

/// The class of a change at a path: where a whole part came or went, the greatest of what is in it.
fn class_of_change(path: &str, old: &Value, new: &Value) -> FieldClass {
    let inner: Vec<&String> =
        [old, new].into_iter().filter_map(Value::as_object).flat_map(|part| part.keys()).collect();
    let own = class_at(path);
    let within = |key: &String| {
        let of = |part: &Value| part.get(key).cloned().unwrap_or(Value::Null);
        let (old, new) = (of(old), of(new));
        (old != new).then(|| class_of_change(&format!("{path}.{key}"), &old, &new))
    };
    inner.into_iter().filter_map(within).max().unwrap_or(own)
}

/// What of a spec as written takes a new process to change: two that agree in it run the same program.
pub fn of_process(written: &Value) -> Value {
    essential("spec", written).unwrap_or(Value::Null)
}

fn essential(path: &str, value: &Value) -> Option<Value> {
    let Value::Object(fields) = value else {
        return (class_at(path) == FieldClass::Replace).then(|| value.clone());
    };
    let part =
        |(key, value): (&String, &Value)| Some((key.clone(), essential(&format!("{path}.{key}"), value)?));
    let kept: serde_json::Map<String, Value> = fields.iter().filter_map(part).collect();
    (!kept.is_empty()).then_some(Value::Object(kept))
}

/// The fields that differ. A field differs when it was *written* differently and *means* something different: a new unisys
/// with other defaults changes nothing. `written` is the spec as written, `effective` with every default filled in.
pub fn changed_fields(old: (&Value, &Value), new: (&Value, &Value)) -> Vec<FieldChange> {
    let mut written = Vec::new();
    differences("spec", old.0, new.0, &mut written);
    let mut effective = Vec::new();
    differences("spec", old.1, new.1, &mut effective);
    written
        .into_iter()
        .filter(|path| effective.iter().any(|other| within(path, other) || within(other, path)))
        .map(|path| {
            let (old, new) = (value_at(old.0, &path), value_at(new.0, &path));
            FieldChange { class: class_of_change(&path, &old, &new), old, new, path }
        })
        .collect()
}

/// The labels and annotations that differ: no process has to do with them.
pub fn changed_metadata(old: &Metadata, new: &Metadata) -> Vec<FieldChange> {
    let parts = [("labels", &old.labels, &new.labels), ("annotations", &old.annotations, &new.annotations)];
    let mut found = Vec::new();
    for (part, old, new) in parts.into_iter().filter(|(_, old, new)| old != new) {
        let value =
            |of: &BTreeMap<String, String>, name| of.get(name).cloned().map_or(Value::Null, Value::from);
        let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        for name in names.into_iter().filter(|name| old.get(*name) != new.get(*name)) {
            found.push(FieldChange {
                path: format!("metadata.{part}.{name}"),
                class: FieldClass::InPlace,
                old: value(old, name),
                new: value(new, name),
            });
        }
    }
    found
}

fn within(inner: &str, outer: &str) -> bool {
    inner == outer || inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with('.'))
}

/// Paths of the smallest parts that differ; a list that differs is one part, unless its items have names.
fn differences(path: &str, old: &Value, new: &Value, found: &mut Vec<String>) {
    if old == new {
        return;
    }
    let (Value::Object(old), Value::Object(new)) = (old, new) else {
        found.push(path.to_owned());
        return;
    };
    let mut keys: Vec<&String> = old.keys().chain(new.keys()).collect();
    keys.sort();
    keys.dedup();
    for key in keys {
        let path = format!("{path}.{key}");
        match (old.get(key), new.get(key)) {
            (Some(old), Some(new)) => differences(&path, old, new, found),
            _ => found.push(path),
        }
    }
}

fn value_at(root: &Value, path: &str) -> Value {
    let mut value = root;
    for step in path.split('.').skip(1) {
        match value.get(step) {
            Some(next) => value = next,
            None => return Value::Null,
        }
    }
    value.clone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ObjectKind;
    use crate::manifest::schema;
    use serde_json::json;

    #[test]
    fn two_that_run_the_same_program_agree_in_what_is_of_the_process() {
        let of = |text: &str| of_process(&serde_json::from_str(text).unwrap());
        let job =
            of(r#"{"command": ["a"], "env": {"B": "1"}, "backoffLimit": 2, "resources": {"memory": "1Gi"}}"#);
        assert_eq!(
            job,
            of(r#"{"command": ["a"], "env": {"B": "1"}, "activeDeadline": "9s", "labels": {"x": "y"}}"#)
        );
        assert_ne!(job, of(r#"{"command": ["a"], "env": {"B": "2"}, "backoffLimit": 2}"#));
        assert_ne!(job, of(r#"{"command": ["a"], "env": {"B": "1"}, "resources": {"nofile": 64}}"#));
        assert_eq!(of("{}"), Value::Null);
    }

    #[test]
    fn every_field_of_a_unit_has_a_class() {
        for (kind, name) in [(ObjectKind::Service, "ServiceSpec"), (ObjectKind::Job, "JobSpec")] {
            let root = schema::of_kind(kind);
            for field in schema::property_names(&root, &root["$defs"][name]) {
                assert!(CLASSES.iter().any(|(known, _)| *known == field), "{name}.{field} has no class");
            }
        }
    }

    #[test]
    fn new_defaults_change_nothing_and_a_written_default_changes_nothing() {
        let (written, old, new) = (
            json!({"command": ["a"]}),
            json!({"command": ["a"], "stop": {"grace": "10s"}}),
            json!({"command": ["a"], "stop": {"grace": "30s"}}),
        );
        assert_eq!(changed_fields((&written, &old), (&written, &new)), []);
        let explicit = json!({"command": ["a"], "stop": {"grace": "10s"}});
        assert_eq!(changed_fields((&written, &old), (&explicit, &old)), []);
    }

    #[test]
    fn a_change_is_named_by_its_smallest_part() {
        let (old, new) = (
            json!({"env": {"A": "1", "B": "2"}, "replicas": 1}),
            json!({"env": {"A": "1", "B": "3"}, "replicas": 2}),
        );
        let found: Vec<_> = changed_fields((&old, &old), (&new, &new))
            .into_iter()
            .map(|change| (change.path, change.class))
            .collect();
        assert_eq!(
            found,
            [
                ("spec.env.B".to_owned(), FieldClass::Replace),
                ("spec.replicas".to_owned(), FieldClass::InPlace)
            ]
        );
    }
}

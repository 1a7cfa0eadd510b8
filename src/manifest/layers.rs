//! What an overlay brings: its paths count from its own file, and its values are placed in it.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use crate::base::ObjectKind;

use super::diagnostic::{DEFAULTS, Span};
use super::split::written_in;
use super::tree::{self, Kind, Node};

/// One document in a file. The tree is parsed anew when a place is asked for, which only a finding does: the trees of a thousand
/// files would be most of the daemon's memory.
#[derive(Clone, Debug)]
pub struct Text {
    pub file: PathBuf,
    pub bytes: Arc<[u8]>,
    pub index: usize,
    /// `metadata.baseDir`, as written.
    pub base: Option<PathBuf>,
}

impl Text {
    /// The directory that relative paths in it count from.
    pub fn dir(&self) -> PathBuf {
        let own = self.file.parent().unwrap_or(Path::new(""));
        self.base.as_ref().map_or_else(|| own.to_owned(), |base| own.join(base))
    }

    fn span(&self, (line, column): (u32, u32)) -> Span {
        Span { file: written_in(&self.file), line, column, ..Span::default() }
    }
}

/// What lies under the spec of every Service (`System.defaults`), and where that is written.
#[derive(Clone, Debug)]
pub struct Defaults {
    pub text: Text,
    pub overlays: Vec<Text>,
    /// The whole System, with its overlays.
    pub system: Value,
}

impl Defaults {
    /// How much of a field's path is in it, and the place of that.
    fn place(&self, field: &str) -> (usize, Span) {
        let steps: Vec<&str> =
            DEFAULTS.split('.').chain(field.split('.')).filter(|step| !step.is_empty()).collect();
        let (depth, span) = place(&self.text, &self.overlays, || self.system.clone(), &steps);
        // Its own step is none of the field's.
        (depth.saturating_sub(1), Span { of_defaults: true, ..span })
    }

    /// The place of a default, by the path that it has in a Service.
    pub fn span(&self, path: &str) -> Span {
        self.place(path.strip_prefix("spec").unwrap_or_default()).1
    }
}

/// The place of a field: in the last overlay that sets it, else in the base, else in the defaults; of one that nobody sets, where
/// most of its path is. `merged` is what base and overlays come to together.
pub fn span(
    base: &Text,
    overlays: &[Text],
    defaults: Option<&Defaults>,
    merged: impl FnOnce() -> Value,
    path: &str,
) -> Span {
    let steps: Vec<&str> = path.split('.').filter(|step| !step.is_empty()).collect();
    let (depth, own) = place(base, overlays, merged, &steps);
    let Some((defaults, field)) = defaults.zip(path.strip_prefix("spec")) else { return own };
    let (reached, of_defaults) = defaults.place(field);
    if reached > depth { of_defaults } else { own }
}

fn place(base: &Text, overlays: &[Text], merged: impl FnOnce() -> Value, steps: &[&str]) -> (usize, Span) {
    let documents = tree::documents(&base.file, &base.bytes);
    let whole = documents.get(base.index);
    // Only what is merged is found by name.
    let merged = if overlays.is_empty() { Value::Null } else { merged() };
    let (mut most, place) = whole.map_or((0, (0, 0)), |node| reach(node, &merged, steps));
    let mut found = base.span(place);
    for overlay in overlays {
        let documents = tree::documents(&overlay.file, &overlay.bytes);
        let Some(node) = documents.get(overlay.index) else { continue };
        let (depth, place) = reach(node, &merged, steps);
        if depth > most || depth == steps.len() {
            (most, found) = (depth, overlay.span(place));
        }
    }
    (most, found)
}

/// How much of a path is in a document, and the place of that. Items of lists that are merged by name are found by their name.
fn reach(document: &Node, merged: &Value, steps: &[&str]) -> (usize, (u32, u32)) {
    let (mut node, mut merged) = (document, Some(merged));
    let mut place = (node.line, node.column);
    for (depth, step) in steps.iter().enumerate() {
        let below = merged.and_then(|merged| match merged {
            Value::Array(items) => items.get(step.parse::<usize>().ok()?),
            other => other.get(*step),
        });
        let next = match &node.kind {
            Kind::Map(entries) => {
                entries.iter().rev().find(|(key, _)| key.text == *step).map(|(key, next)| {
                    place = (key.line, key.column);
                    next
                })
            }
            Kind::Seq(items) => item(items, below, step).inspect(|next| place = (next.line, next.column)),
            Kind::Scalar(_) => None,
        };
        let Some(next) = next else { return (depth, place) };
        (node, merged) = (next, below);
    }
    (steps.len(), place)
}

/// The item of a list that became this item of the merged one.
fn item<'n>(items: &'n [Node], merged: Option<&Value>, step: &str) -> Option<&'n Node> {
    let named = |item: &Node| item.get("name").and_then(Node::as_str).map(str::to_owned);
    let name = merged.and_then(|item| item.get("name")?.as_str());
    match name.filter(|_| items.iter().all(|item| named(item).is_some())) {
        Some(name) => items.iter().find(|item| named(item).as_deref() == Some(name)),
        None => items.get(step.parse::<usize>().ok()?),
    }
}

/// Fields that are paths, relative to the manifest's file; `*` is any key or index.
const PATHS: [(&[ObjectKind], &str); 10] = [
    (&UNITS, "workingDir"),
    (&UNITS, "envFrom.*.file"),
    (&UNITS, "reloadOn.*"),
    (&UNITS, "restartOn.*"),
    (&UNITS, "security.readOnlyPaths.*"),
    (&UNITS, "security.readWritePaths.*"),
    (&UNITS, "security.inaccessiblePaths.*"),
    (&[ObjectKind::Config], "files.*"),
    (&[ObjectKind::Secret], "data.*.file"),
    (&[ObjectKind::Notifier], "file.path"),
];
const UNITS: [ObjectKind; 2] = [ObjectKind::Service, ObjectKind::Job];

/// Programs and files that count from the working directory, and with it from the manifest's file where nobody sets one. A
/// program without a slash is looked for in PATH.
const FROM_WORKING_DIR: [(bool, &str); 7] = [
    (true, "command.0"),
    (true, "exec.command.0"),
    (true, "stop.command.0"),
    (true, "reload.command.0"),
    (true, "hooks.*.*.command.0"),
    (true, "probes.*.exec.command.0"),
    (false, "probes.*.file.path"),
];

/// Makes the relative paths that a patch sets count from the patch's own directory, where it is laid over something from another.
pub fn rebase(patch: &mut Value, base: &Value, kind: ObjectKind, from: &Path, to: &Path) {
    if from == to {
        return;
    }
    let Some(spec) = patch.get_mut("spec") else { return };
    let base = base.get("spec").unwrap_or(&Value::Null);
    let moved = |text: &str| moved(text, from, to);
    for (kinds, pattern) in PATHS {
        if kinds.contains(&kind) {
            each(spec, &pattern.split('.').collect::<Vec<_>>(), &mut |text| *text = moved(text));
        }
    }
    let has_dir = |spec: &Value| spec.get("workingDir").is_some_and(Value::is_string);
    if !has_dir(spec) && !has_dir(base) {
        for (program, pattern) in FROM_WORKING_DIR {
            let mut change = |text: &mut String| {
                if !program || text.contains('/') {
                    *text = moved(text);
                }
            };
            each(spec, &pattern.split('.').collect::<Vec<_>>(), &mut change);
        }
    }
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        let is = |port: &Value| port["protocol"].as_str().map(|protocol| protocol.starts_with("unix"));
        let below =
            base["ports"].as_array().into_iter().flatten().find(|below| below["name"] == port["name"]);
        if is(port).or_else(|| is(below?)).unwrap_or(false) {
            each(port, &["address"], &mut |text| *text = moved(text));
        }
    }
}

/// Changes every text at a pattern.
fn each(value: &mut Value, pattern: &[&str], change: &mut dyn FnMut(&mut String)) {
    let Some((step, rest)) = pattern.split_first() else {
        if let Value::String(text) = value {
            change(text);
        }
        return;
    };
    match value {
        Value::Object(map) if *step == "*" => map.values_mut().for_each(|value| each(value, rest, change)),
        Value::Array(items) if *step == "*" => items.iter_mut().for_each(|value| each(value, rest, change)),
        Value::Array(items) => {
            let item = step.parse::<usize>().ok().and_then(|index| items.get_mut(index));
            item.into_iter().for_each(|value| each(value, rest, change));
        }
        Value::Object(map) => map.get_mut(*step).into_iter().for_each(|value| each(value, rest, change)),
        _ => {}
    }
}

/// A path that counts from `from`, as it is written in a file of `to`.
fn moved(text: &str, from: &Path, to: &Path) -> String {
    let path = Path::new(text);
    // Of what begins with a variable nobody knows here where it leads.
    if text.is_empty() || text.starts_with('$') || path.is_absolute() {
        return text.to_owned();
    }
    let full: PathBuf = from.join(path).components().filter(|part| *part != Component::CurDir).collect();
    if full.is_absolute() {
        return full.display().to_string();
    }
    let up = to.components().filter(|part| *part != Component::CurDir).map(|_| Component::ParentDir);
    up.collect::<PathBuf>().join(full).display().to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_path_is_the_same_file_wherever_it_is_written() {
        for (text, from, to, expected) in [
            ("a.env", "/p/over", "/p/base", "/p/over/a.env"),
            ("./a.env", "/p/over", "/p/base", "/p/over/a.env"),
            ("../a.env", "/p/over", "/p/base", "/p/over/../a.env"),
            ("/etc/a.env", "/p/over", "/p/base", "/etc/a.env"),
            ("${HOME}/a", "/p/over", "/p/base", "${HOME}/a"),
            ("a.env", "over", "manifests/deep", "../../over/a.env"),
            (".", "/p/over", "/p/base", "/p/over"),
        ] {
            assert_eq!(moved(text, Path::new(from), Path::new(to)), expected, "{text}");
        }
    }

    fn rebased(kind: ObjectKind, base: Value, patch: Value) -> Value {
        let mut document = json!({"spec": patch});
        rebase(&mut document, &json!({"spec": base}), kind, Path::new("/o"), Path::new("/b"));
        document["spec"].take()
    }

    #[test]
    fn every_path_that_an_overlay_sets_counts_from_it_and_nothing_else() {
        let patch = json!({
            "command": ["./run", "./argument"], "envFrom": [{"file": ".env"}, {"config": "c"}], "reloadOn": ["x.toml"],
            "hooks": {"preStart": [{"command": ["bin/migrate"]}]}, "env": {"A": "./a"},
            "stop": {"command": ["halt"]}, "security": {"readOnlyPaths": ["data"]},
            "probes": {"readiness": {"file": {"path": "ready"}}, "liveness": {"http": {"path": "./health"}}},
            "ports": [{"name": "s", "address": "run/s"}, {"name": "t", "address": "10.0.0.1"}],
        });
        let base = json!({"ports": [{"name": "s", "protocol": "unix", "address": "old"}]});
        assert_eq!(
            rebased(ObjectKind::Service, base, patch),
            json!({
                "command": ["/o/run", "./argument"], "envFrom": [{"file": "/o/.env"}, {"config": "c"}],
                "reloadOn": ["/o/x.toml"], "hooks": {"preStart": [{"command": ["/o/bin/migrate"]}]}, "env": {"A": "./a"},
                "stop": {"command": ["halt"]}, "security": {"readOnlyPaths": ["/o/data"]},
                "probes": {"readiness": {"file": {"path": "/o/ready"}}, "liveness": {"http": {"path": "./health"}}},
                "ports": [{"name": "s", "address": "/o/run/s"}, {"name": "t", "address": "10.0.0.1"}],
            })
        );
        // Where somebody says what the working directory is, programs count from that.
        for (base, patch, expected) in [
            (json!({"workingDir": "w"}), json!({"command": ["./run"]}), json!({"command": ["./run"]})),
            (
                json!({}),
                json!({"workingDir": "w", "command": ["./run"]}),
                json!({"workingDir": "/o/w", "command": ["./run"]}),
            ),
        ] {
            assert_eq!(rebased(ObjectKind::Job, base, patch), expected);
        }
        for (kind, patch, expected) in [
            (ObjectKind::Config, json!({"files": [".env"]}), json!({"files": ["/o/.env"]})),
            (
                ObjectKind::Secret,
                json!({"data": {"a": {"file": "s"}, "b": "text"}}),
                json!({"data": {"a": {"file": "/o/s"}, "b": "text"}}),
            ),
            (
                ObjectKind::Notifier,
                json!({"file": {"path": "n"}, "exec": {"command": ["./n"]}}),
                json!({"file": {"path": "/o/n"}, "exec": {"command": ["/o/n"]}}),
            ),
        ] {
            assert_eq!(rebased(kind, json!({}), patch), expected);
        }
    }
}

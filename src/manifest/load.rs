//! A set of files → objects, with everything that is wrong with them.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::base::{Name, ObjectKind, ObjectRef, limits};

use super::diagnostic::{Diagnostic, Span, nearest, tell_defaults_once};
use super::layers::{self, Defaults, Text};
pub use super::objects::{Object, Objects, Source, owned_twice};
use super::overlay;
use super::schema::API_VERSION;
use super::shape::{Shapes, Written};
use super::spec::{
    ConfigSpec, ExternalSpec, JobSpec, Metadata, NotifierSpec, SecretSpec, ServiceSpec, SystemSpec,
};
use super::tree::{self, Node};

/// One file of a set. Relative paths inside count from its directory.
#[derive(Clone, Debug)]
pub struct SourceFile {
    pub path: PathBuf,
    /// Its bytes, or why there are none.
    pub content: Result<Arc<[u8]>, String>,
}

/// Not derived: paths are compared as they are written, not part by part; a reload compares thousands.
impl PartialEq for SourceFile {
    fn eq(&self, other: &Self) -> bool {
        self.path.as_os_str() == other.path.as_os_str() && self.content == other.content
    }
}

/// What is loaded together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoadInput {
    /// Name of the set that the files belong to.
    pub set: String,
    pub files: Vec<SourceFile>,
    /// Each overlay's files, in the order given.
    pub overlays: Vec<Vec<SourceFile>>,
}

/// What makes another load cheap: objects that were accepted, so that only files that changed are read again. Parsed trees are
/// never kept: those of a thousand files are larger than all else that the daemon holds.
#[derive(Default)]
pub struct ParseCache {
    /// Objects of an earlier load with the same overlays, without errors.
    pub known: Objects,
    pub shapes: Shapes,
}

enum Typed {
    Service(Metadata, Arc<ServiceSpec>),
    Job(Metadata, Arc<JobSpec>),
    Config(Metadata, Arc<ConfigSpec>),
    Secret(Metadata, Arc<SecretSpec>),
    System(Metadata, Arc<SystemSpec>),
    External(Metadata, Arc<ExternalSpec>),
    Notifier(Metadata, Arc<NotifierSpec>),
}

/// A document that says what it is.
struct Draft {
    object: ObjectRef,
    value: Value,
    text: Text,
    /// Overlays that were laid over it, in order.
    overlays: Vec<Text>,
    defaults: Option<Arc<Defaults>>,
}

impl Draft {
    fn span(&self, path: &str) -> Span {
        layers::span(&self.text, &self.overlays, self.defaults.as_deref(), || self.value.clone(), path)
    }
}

/// Loads a set. Objects that are broken are left out; their diagnostics say so.
pub fn load(input: &LoadInput, cache: &mut ParseCache) -> (Objects, Vec<Diagnostic>) {
    let _places = tree::Places::keep();
    let kept = Kept::of(input, &cache.known);
    if let Some(found) = load_with(input, kept, cache) {
        return found;
    }
    // What changed has to do with what did not: everything is read.
    load_with(input, Kept::default(), cache).unwrap_or_default()
}

/// Objects of files that are as they were.
#[derive(Default)]
struct Kept {
    objects: Objects,
    files: BTreeSet<OsString>,
}

impl Kept {
    fn of(input: &LoadInput, known: &Objects) -> Self {
        let content = |file: &SourceFile| file.content.as_ref().ok().cloned();
        let now: BTreeMap<&OsStr, Arc<[u8]>> =
            input.files.iter().filter_map(|file| Some((file.path.as_os_str(), content(file)?))).collect();
        let objects = known.only(|source| {
            *source.set == *input.set
                && now.get(source.file.as_os_str()).is_some_and(|bytes| *bytes == source.text.bytes)
        });
        let files =
            objects.sources().into_iter().map(|source| source.file.clone().into_os_string()).collect();
        Self { objects, files }
    }
}

/// `None` if the kept objects cannot be taken as they are: an object is declared twice, or defaults may have changed.
fn load_with(input: &LoadInput, kept: Kept, cache: &mut ParseCache) -> Option<(Objects, Vec<Diagnostic>)> {
    let mut diagnostics = Vec::new();
    let mut drafts: BTreeMap<ObjectRef, Draft> = BTreeMap::new();
    let changed = input.files.iter().filter(|file| !kept.files.contains(file.path.as_os_str()));
    let mut objects = kept.objects;
    for draft in parse_all(changed, &mut objects, &mut diagnostics) {
        if let Some(first) = drafts.get(&draft.object) {
            diagnostics.push(duplicate(&draft, first));
        } else {
            drafts.insert(draft.object.clone(), draft);
        }
    }
    if !kept.files.is_empty() {
        let new_system = drafts.keys().any(|object| object.kind == ObjectKind::System);
        let system = new_system || cache.known.system.is_some();
        if system || !input.overlays.is_empty() || drafts.keys().any(|object| objects.has(object)) {
            return None;
        }
    }
    for files in &input.overlays {
        for patch in parse_all(files, &mut Objects::default(), &mut diagnostics) {
            apply_overlay(&mut drafts, &patch, &mut diagnostics);
        }
    }
    if drafts.len() > limits::OBJECTS {
        let message = format!("{} objects; a system has at most {}", drafts.len(), limits::OBJECTS);
        diagnostics.push(Diagnostic::error("E1006", &Span::default(), "", message));
        return Some((Objects::default(), diagnostics));
    }
    if let Some(defaults) = merge_defaults(&mut drafts) {
        check_defaults(&defaults, cache, &mut diagnostics);
    }
    let set: Arc<str> = input.set.as_str().into();
    for draft in drafts.into_values() {
        match typed(&draft, cache, &mut diagnostics) {
            Some(typed) => objects.insert(typed, draft, &set, &mut diagnostics),
            None => drop(objects.broken.insert(draft.object.name)),
        }
    }
    tell_defaults_once(&mut diagnostics);
    Some((objects, diagnostics))
}

/// What is not well is noted in `objects`.
fn parse_all<'f>(
    files: impl IntoIterator<Item = &'f SourceFile>,
    objects: &mut Objects,
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<Draft> {
    let mut drafts = Vec::new();
    for file in files {
        match &file.content {
            Ok(bytes) => {
                let before = diagnostics.len();
                let documents = tree::parse(&file.path, bytes, diagnostics);
                objects.unread |= documents.is_empty() && diagnostics.len() > before;
                for (index, node) in documents.iter().enumerate() {
                    match identify(&file.path, bytes, node, index, diagnostics) {
                        Some(draft) => drafts.push(draft),
                        None => objects.broken.extend(name_in(node).and_then(|name| name.parse().ok())),
                    }
                }
            }
            Err(why) => {
                objects.unread = true;
                let span = Span { file: file.path.clone(), line: 0, column: 0, ..Span::default() };
                let diagnostic =
                    Diagnostic::error("E1007", &span, "", format!("the file cannot be read: {why}"));
                diagnostics.push(diagnostic.hint("check its owner, mode and size (`ls -l`)"));
            }
        }
    }
    drafts
}

/// `apiVersion`, `kind` and `metadata.name` come first: without them nothing else can be said.
fn identify(
    file: &Path,
    bytes: &Arc<[u8]>,
    node: &Node,
    index: usize,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<Draft> {
    let span = |path: &[&str]| {
        let (line, column) = node.place(path.iter().copied());
        Span { file: file.to_owned(), line, column, ..Span::default() }
    };
    if !matches!(node.kind, tree::Kind::Map(_)) {
        let diagnostic = Diagnostic::error("E1201", &span(&[]), "", "this document is not an object");
        diagnostics.push(diagnostic.hint("an object has apiVersion, kind, metadata and spec"));
        return None;
    }
    match node.get("apiVersion").and_then(Node::as_str) {
        Some(API_VERSION) => {}
        written => {
            let found =
                written.map_or("`apiVersion` is missing".to_owned(), |word| format!("`{word}` is not known"));
            let diagnostic = Diagnostic::error("E1201", &span(&["apiVersion"]), "apiVersion", found);
            diagnostics.push(diagnostic.hint(format!("write `apiVersion: {API_VERSION}` as its first line")));
            return None;
        }
    }
    let word = node.get("kind").and_then(Node::as_str).unwrap_or_default();
    let Some(kind) = ObjectKind::ALL.into_iter().find(|kind| kind.as_str() == word) else {
        let kinds = ObjectKind::ALL.map(ObjectKind::as_str);
        let message =
            if word.is_empty() { "`kind` is missing".to_owned() } else { format!("unknown kind `{word}`") };
        let hint = match nearest(word, kinds) {
            Some(near) if !word.is_empty() => format!("did you mean `{near}`?"),
            _ => format!("write `kind: Service` for a program, or another of {}", kinds.join(", ")),
        };
        diagnostics.push(Diagnostic::error("E1201", &span(&["kind"]), "kind", message).hint(hint));
        return None;
    };
    match name_in(node).unwrap_or_default().parse::<Name>() {
        Ok(name) => {
            let object = ObjectRef { kind, name };
            let base = node.get("metadata").and_then(|metadata| metadata.get("baseDir"));
            let base = base.and_then(Node::as_str).map(PathBuf::from);
            let text = Text { file: file.to_owned(), bytes: bytes.clone(), index, base };
            Some(Draft { object, value: node.to_value(), text, overlays: Vec::new(), defaults: None })
        }
        Err(error) => {
            let (message, hint) = match node.get("metadata").and_then(|metadata| metadata.get("name")) {
                Some(name) => no_name(name, &error),
                None => ("`metadata.name` is missing".to_owned(), None),
            };
            let hint = hint.unwrap_or_else(|| "write `metadata: {name: api}`".into());
            let diagnostic =
                Diagnostic::error("E1208", &span(&["metadata", "name"]), "metadata.name", message);
            diagnostics.push(diagnostic.hint(hint));
            None
        }
    }
}

/// What stands where a name is to stand, and how it becomes one.
fn no_name(written: &Node, error: &dyn std::fmt::Display) -> (String, Option<String>) {
    let what = match &written.kind {
        tree::Kind::Scalar(Value::Number(_)) => "a number",
        tree::Kind::Scalar(Value::Bool(_)) => "true or false",
        tree::Kind::Scalar(Value::Null) => return ("`metadata.name` is empty".into(), None),
        tree::Kind::Scalar(_) => return (error.to_string(), None),
        tree::Kind::Seq(_) => return ("a name is text, and this is a list".into(), None),
        tree::Kind::Map(_) => return ("a name is text, and this is a map".into(), None),
    };
    let value = written.to_value().to_string();
    let quoted = value.parse::<Name>().is_ok().then(|| format!("put it in quotes: `name: \"{value}\"`"));
    (format!("`{value}` is {what} to YAML, and a name is text"), quoted)
}

fn name_in(node: &Node) -> Option<&str> {
    node.get("metadata")?.get("name").and_then(Node::as_str)
}

fn duplicate(second: &Draft, first: &Draft) -> Diagnostic {
    let at = first.span("metadata.name");
    let message = format!("{} is declared twice; first at {}:{}", second.object, at.file.display(), at.line);
    Diagnostic::error("E1301", &second.span("metadata.name"), "metadata.name", message)
        .hint("rename one of the two, or remove it")
}

fn apply_overlay(drafts: &mut BTreeMap<ObjectRef, Draft>, patch: &Draft, diagnostics: &mut Vec<Diagnostic>) {
    match drafts.get_mut(&patch.object) {
        Some(draft) => {
            let mut value = patch.value.clone();
            let (from, to) = (patch.text.dir(), draft.text.dir());
            layers::rebase(&mut value, &draft.value, draft.object.kind, &from, &to);
            overlay::overlay(&mut draft.value, &value);
            draft.overlays.push(patch.text.clone());
        }
        None => {
            let span = patch.span("metadata.name");
            let message = format!("the overlay's {} matches no object", patch.object);
            let names: Vec<String> = drafts.keys().map(ToString::to_string).collect();
            let near =
                nearest(&patch.object.to_string(), names.iter().map(String::as_str)).map(str::to_owned);
            let hint = near.map_or("declare it in the base, or remove it here".into(), |near| {
                format!("did you mean `{near}`?")
            });
            diagnostics.push(Diagnostic::error("E1302", &span, "metadata.name", message).hint(hint));
        }
    }
}

/// Gives what was put under the Services.
fn merge_defaults(drafts: &mut BTreeMap<ObjectRef, Draft>) -> Option<Arc<Defaults>> {
    let system = drafts.values().find(|draft| draft.object.kind == ObjectKind::System)?;
    system.value.get("spec")?.get("defaults")?;
    let (text, overlays) = (system.text.clone(), system.overlays.clone());
    let defaults = Arc::new(Defaults { text, overlays, system: system.value.clone() });
    let values = &defaults.system["spec"]["defaults"];
    for draft in drafts.values_mut().filter(|draft| draft.object.kind == ObjectKind::Service) {
        if let Some(spec) = draft.value.get_mut("spec") {
            overlay::underlay(spec, values);
            draft.defaults = Some(defaults.clone());
        }
    }
    Some(defaults)
}

/// What is wrong with a default whatever a Service says beside it. What is not whole (a probe of which a Service has the rest) is
/// held against the schema there.
fn check_defaults(defaults: &Defaults, cache: &mut ParseCache, diagnostics: &mut Vec<Diagnostic>) {
    const WHATEVER_IS_BESIDE: [&str; 5] = ["E1203", "E1204", "E1205", "E1206", "E1207"];
    let mut spec = defaults.system["spec"]["defaults"].clone();
    let Value::Object(fields) = &mut spec else { return };
    fields.entry("command").or_insert_with(|| serde_json::json!(["program"]));
    let service = serde_json::json!({
        "apiVersion": API_VERSION, "kind": ObjectKind::Service.as_str(), "metadata": {"name": "defaults"}, "spec": spec,
    });
    let kind = ObjectKind::Service;
    if read_typed(kind, &service).is_ok() && cache.shapes.holds(kind, &service) {
        return;
    }
    let written = Written { span: &|path| defaults.span(path), hides: false };
    let found = cache.shapes.check(kind, &service, &written);
    diagnostics.extend(found.into_iter().filter(|found| WHATEVER_IS_BESIDE.contains(&found.code.as_str())));
}

fn typed(draft: &Draft, cache: &mut ParseCache, diagnostics: &mut Vec<Diagnostic>) -> Option<Typed> {
    let kind = draft.object.kind;
    let read = read_typed(kind, &draft.value);
    let hides = kind == ObjectKind::Secret;
    let written = Written { span: &|path| draft.span(path), hides };
    let mut found = Vec::new();
    if read.is_err() || !cache.shapes.holds(kind, &draft.value) {
        found = cache.shapes.check(kind, &draft.value, &written);
    }
    match read {
        Ok(typed) if found.is_empty() => return Some(typed),
        Err(error) if found.is_empty() => {
            // The schema is content and the type is not: say what the type says.
            let what = if hides { "it does not have the form of a Secret".into() } else { error.to_string() };
            diagnostics.push(Diagnostic::error("E1200", &draft.span("spec"), "spec", what));
        }
        _ => diagnostics.extend(found),
    }
    None
}

fn read_typed(kind: ObjectKind, value: &Value) -> Result<Typed, serde_json::Error> {
    fn read<T: DeserializeOwned>(value: &Value) -> Result<(Metadata, Arc<T>), serde_json::Error> {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Document<T> {
            #[serde(rename = "apiVersion")]
            _api_version: String,
            #[serde(rename = "kind")]
            _kind: String,
            metadata: Metadata,
            spec: T,
        }
        let document = <Document<T> as serde::Deserialize>::deserialize(value)?;
        Ok((document.metadata, Arc::new(document.spec)))
    }
    Ok(match kind {
        ObjectKind::Service => read(value).map(|(meta, spec)| Typed::Service(meta, spec))?,
        ObjectKind::Job => read(value).map(|(meta, spec)| Typed::Job(meta, spec))?,
        ObjectKind::Config => read(value).map(|(meta, spec)| Typed::Config(meta, spec))?,
        ObjectKind::Secret => read(value).map(|(meta, spec)| Typed::Secret(meta, spec))?,
        ObjectKind::System => read(value).map(|(meta, spec)| Typed::System(meta, spec))?,
        ObjectKind::External => read(value).map(|(meta, spec)| Typed::External(meta, spec))?,
        ObjectKind::Notifier => read(value).map(|(meta, spec)| Typed::Notifier(meta, spec))?,
    })
}

/// Keys sorted, so that the order in which a person wrote them is no difference.
fn canonical(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by(|a, b| a.0.cmp(b.0));
            Value::Object(entries.into_iter().map(|(key, value)| (key.clone(), canonical(value))).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(canonical).collect()),
        other => other.clone(),
    }
}

impl Objects {
    fn insert(&mut self, typed: Typed, draft: Draft, set: &Arc<str>, diagnostics: &mut Vec<Diagnostic>) {
        let written = canonical(draft.value.get("spec").unwrap_or(&Value::Null)).to_string();
        let base_dir = draft.text.dir();
        let name = draft.object.name.clone();
        let source = Arc::new(Source {
            object: draft.object,
            set: set.clone(),
            file: draft.text.file.clone(),
            base_dir,
            written: written.into(),
            text: draft.text,
            overlays: draft.overlays,
            defaults: draft.defaults,
        });
        match typed {
            Typed::Service(meta, spec) => drop(self.services.insert(name, Object { meta, spec, source })),
            Typed::Job(meta, spec) => drop(self.jobs.insert(name, Object { meta, spec, source })),
            Typed::Config(meta, spec) => drop(self.configs.insert(name, Object { meta, spec, source })),
            Typed::Secret(meta, spec) => drop(self.secrets.insert(name, Object { meta, spec, source })),
            Typed::External(meta, spec) => drop(self.externals.insert(name, Object { meta, spec, source })),
            Typed::Notifier(meta, spec) => drop(self.notifiers.insert(name, Object { meta, spec, source })),
            Typed::System(meta, spec) => {
                if let Some(first) = &self.system {
                    let message = format!("there is a System already: {}", first.source.file.display());
                    let span = source.span("kind");
                    diagnostics
                        .push(Diagnostic::error("E1303", &span, "kind", message).hint("keep one System"));
                } else {
                    self.system = Some(Object { meta, spec, source });
                }
            }
        }
    }
}

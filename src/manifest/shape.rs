//! Objects held against the schema: every deviation at once, in words.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use jsonschema::error::ValidationErrorKind;
use jsonschema::{ValidationError, Validator};
use serde_json::Value;

use crate::base::ObjectKind;

use super::bounds::Bounds;
use super::diagnostic::{Diagnostic, Span, nearest};
use super::{elsewhere, schema};

/// Validators by kind, built when first needed: only a broken object needs one.
#[derive(Default)]
pub struct Shapes {
    built: Mutex<BTreeMap<ObjectKind, Arc<Shape>>>,
    bounds: BTreeMap<ObjectKind, Bounds>,
}

struct Shape {
    schema: Value,
    validator: Validator,
}

impl Shapes {
    fn get(&self, kind: ObjectKind) -> Option<Arc<Shape>> {
        let mut built = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shape) = built.get(&kind) {
            return Some(shape.clone());
        }
        let schema = schema::of_kind(kind);
        let validator = jsonschema::validator_for(&schema).ok()?;
        let shape = Arc::new(Shape { schema, validator });
        built.insert(kind, shape.clone());
        Some(shape)
    }

    /// Whether an object whose types are right keeps within the bounds of its kind as well.
    pub fn holds(&mut self, kind: ObjectKind, value: &Value) -> bool {
        let bounds = self.bounds.entry(kind).or_insert_with(|| {
            let schema = schema::of_kind(kind);
            Bounds::of(&schema, &schema)
        });
        bounds.hold(value)
    }

    /// All deviations of an object from the schema of its kind. `written` places them.
    pub fn check(&self, kind: ObjectKind, value: &Value, written: &Written<'_>) -> Vec<Diagnostic> {
        let Some(shape) = self.get(kind) else { return Vec::new() };
        let mut found = Vec::new();
        for error in shape.validator.iter_errors(value) {
            explain(&shape.schema, &error, written, &mut found);
        }
        found
    }
}

/// Where an object was written: the place of each of its fields.
pub struct Written<'a> {
    pub span: &'a dyn Fn(&str) -> Span,
    /// It is a Secret: none of its values is shown.
    pub hides: bool,
}

impl Written<'_> {
    pub fn span(&self, path: &str) -> Span {
        (self.span)(path)
    }

    /// A value as a message shows it.
    fn shown(&self, value: &Value) -> String {
        if self.hides { "the value".into() } else { shown(value) }
    }

    /// What has no value of its own may be one that was meant to be.
    fn may_be_value(&self, key: &str, value: &Value) -> bool {
        self.hides && value.get(key).is_none_or(Value::is_null)
    }
}

fn explain(root: &Value, error: &ValidationError<'_>, written: &Written<'_>, found: &mut Vec<Diagnostic>) {
    let mut path = dotted(error.instance_path().as_str());
    let span = written.span(&path);
    if written.hides && error.instance().is_null() {
        path.truncate(path.rfind('.').unwrap_or_default());
    }
    match error.kind() {
        ValidationErrorKind::AdditionalProperties { unexpected } => {
            for key in unexpected {
                found.push(match written.may_be_value(key, error.instance()) {
                    true => Diagnostic::error("E1203", &span, path.as_str(), "unknown key"),
                    false => unknown_key(root, &path, key, error.instance(), written),
                });
            }
        }
        ValidationErrorKind::Required { property } => {
            let property = property.as_str().unwrap_or_default();
            let message = format!("`{property}` is missing");
            let hint = match path.is_empty() && property == "spec" {
                true => spec_hint(root),
                false => described(root, &super::tree::join(&path, property)),
            };
            found.push(Diagnostic::error("E1202", &span, path, message).hint(hint));
        }
        ValidationErrorKind::OneOfMultipleValid { .. } | ValidationErrorKind::OneOfNotValid { .. }
            if exclusive_keys(root, &path).is_some() =>
        {
            // What is no map at all is said to be none.
            if !error.instance().is_object() {
                return;
            }
            let keys = exclusive_keys(root, &path).unwrap_or_default().join(", ");
            let message = format!("this has to have exactly one of {keys}");
            found.push(Diagnostic::error("E1601", &span, path, message).hint("keep the one that is meant"));
        }
        ValidationErrorKind::AnyOf { context } | ValidationErrorKind::OneOfNotValid { context } => {
            any_of(root, error, context, written, &path, found);
        }
        _ => found.push(wrong_value(root, error, written, &span, path)),
    }
}

/// The keys of which an object at this path has exactly one.
fn exclusive_keys<'s>(root: &'s Value, path: &str) -> Option<Vec<&'s str>> {
    let steps: Vec<&str> = path.split('.').filter(|step| !step.is_empty()).collect();
    let branches = schema::at(root, root, &steps)?.get("oneOf")?.as_array()?;
    branches.iter().map(|branch| branch.get("required")?.get(0)?.as_str()).collect()
}

fn unknown_key(root: &Value, path: &str, key: &str, object: &Value, written: &Written<'_>) -> Diagnostic {
    let full = super::tree::join(path, key);
    let span = written.span(&full);
    let steps: Vec<&str> = path.split('.').filter(|step| !step.is_empty()).collect();
    let allowed =
        schema::at(root, root, &steps).map(|schema| schema::property_names(root, schema)).unwrap_or_default();
    let value = object.get(key).unwrap_or(&Value::Null);
    let hint = match (elsewhere::of_key(key, value), nearest(key, allowed.iter().copied())) {
        // Beside `spec`, where it belongs.
        _ if path.is_empty() && schema::at(root, root, &["spec", key]).is_some() => {
            format!("write it under `spec`: `spec: {{{key}: …}}`")
        }
        (Some(hint), _) => hint,
        (None, Some(near)) => format!("did you mean `{near}`?"),
        (None, None) => format!("allowed here: {}", allowed.join(", ")),
    };
    Diagnostic::error("E1203", &span, full, format!("unknown key `{key}`")).hint(hint)
}

fn wrong_value(
    root: &Value,
    error: &ValidationError<'_>,
    written: &Written<'_>,
    span: &Span,
    path: String,
) -> Diagnostic {
    let value = written.shown(error.instance());
    let (code, message) = match error.kind() {
        ValidationErrorKind::Type { kind } => {
            let wanted = format!("{kind:?}");
            let wanted =
                wanted.trim_start_matches("Single(").trim_start_matches("Multiple(").trim_end_matches(')');
            (
                "E1204",
                match error.instance().as_ref() {
                    Value::Object(_) | Value::Array(_) => {
                        format!("this is {}; it has to be {}", type_of(error.instance()), type_words(wanted))
                    }
                    other => format!("{value} is {}; this has to be {}", type_of(other), type_words(wanted)),
                },
            )
        }
        ValidationErrorKind::Enum { options } => {
            ("E1205", format!("{value} is not one of {}", list(options)))
        }
        ValidationErrorKind::Constant { expected_value } => {
            ("E1205", format!("{value} has to be {}", shown(expected_value)))
        }
        ValidationErrorKind::Pattern { .. } => {
            ("E1206", format!("{value} does not have the form of this field"))
        }
        ValidationErrorKind::Minimum { limit } => ("E1207", format!("{value} is less than {limit}")),
        ValidationErrorKind::Maximum { limit } => ("E1207", format!("{value} is more than {limit}")),
        ValidationErrorKind::MinItems { limit } => {
            ("E1207", format!("the list needs at least {limit} items"))
        }
        ValidationErrorKind::MaxItems { limit } => ("E1207", format!("the list has more than {limit} items")),
        ValidationErrorKind::MaxLength { limit } => {
            ("E1207", format!("{value} has more than {limit} characters"))
        }
        _ if written.hides => ("E1200", "it does not have the form of this field".into()),
        _ => ("E1200", error.to_string()),
    };
    let hint = match (error.kind(), error.instance().as_ref()) {
        (ValidationErrorKind::Enum { options }, Value::String(word)) => {
            let words: Vec<&str> =
                options.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            nearest(word, words).map(|near| format!("did you mean `{near}`?"))
        }
        _ => None,
    };
    let hint = hint.or_else(|| meant(error.instance(), written, &path));
    let hint = hint.unwrap_or_else(|| match path == "spec" && error.instance().is_null() {
        true => spec_hint(root),
        false => hint_for(root, &path, error.instance()),
    });
    Diagnostic::error(code, span, path, message).hint(hint)
}

/// How a value is written here that another tool has in this form.
fn meant(value: &Value, written: &Written<'_>, path: &str) -> Option<String> {
    if written.hides { None } else { elsewhere::of_value(path, value) }
}

/// The least that an object of this kind says.
fn spec_hint(root: &Value) -> String {
    let spec = match root.get("title").and_then(Value::as_str).unwrap_or_default() {
        "Service" | "Job" => "spec: {command: [PROGRAM, ARGUMENT]}",
        "Config" => "spec: {data: {NAME: value}}",
        "Secret" => "spec: {data: {NAME: {file: PATH}}}",
        "External" => "spec: {probes: {readiness: {tcp: {host: HOST, port: 5432}}}}",
        "Notifier" => "spec: {webhook: {url: https://…}}",
        _ => "spec: {}",
    };
    format!("write `{spec}`")
}

/// What the field means, with an example of how its value looks.
fn hint_for(root: &Value, path: &str, value: &Value) -> String {
    let described = described(root, path);
    match value {
        Value::Number(number) if described.contains("Never a bare number") => {
            let unit = if described.contains("bytes") { "Mi" } else { "s" };
            format!("write it with its unit: `{number}{unit}`")
        }
        _ => described,
    }
}

fn described(root: &Value, path: &str) -> String {
    let steps: Vec<&str> = path.split('.').filter(|step| !step.is_empty()).collect();
    let schema = schema::at(root, root, &steps);
    let description =
        schema.and_then(|schema| schema.get("description")).and_then(Value::as_str).unwrap_or_default();
    description.replace('\n', " ")
}

/// Of several allowed forms, the one that comes nearest is what was meant.
fn any_of(
    root: &Value,
    error: &ValidationError<'_>,
    context: &[Vec<ValidationError<'static>>],
    written: &Written<'_>,
    path: &str,
    found: &mut Vec<Diagnostic>,
) {
    let same_type = |branch: &&Vec<ValidationError<'static>>| {
        !branch.iter().any(|inner| {
            inner.instance_path().as_str() == error.instance_path().as_str()
                && matches!(
                    inner.kind(),
                    ValidationErrorKind::Type { .. } | ValidationErrorKind::Constant { .. }
                )
        })
    };
    let span = written.span(path);
    if let Some(hint) = meant(error.instance(), written, path) {
        let message = "this has none of the forms that this field allows";
        found.push(Diagnostic::error("E1204", &span, path, message).hint(hint));
        return;
    }
    let near: Vec<_> = context.iter().filter(same_type).collect();
    if let Some(branch) = near.iter().min_by_key(|branch| branch.len()) {
        let unknown = |inner: &&ValidationError<'static>| {
            matches!(inner.kind(), ValidationErrorKind::AdditionalProperties { .. })
        };
        // What one of several forms lacks says nothing where a key is of none.
        let only_unknown = near.len() > 1 && branch.iter().any(|inner| unknown(&inner));
        for inner in branch.iter().filter(|inner| !only_unknown || unknown(inner)) {
            explain(root, inner, written, found);
        }
        return;
    }
    let message = format!("{} has none of the forms that this field allows", written.shown(error.instance()));
    let mut hint = hint_for(root, path, error.instance());
    if path.starts_with("spec.env.") && !matches!(error.instance().as_ref(), Value::String(_)) {
        hint = "an environment variable is text: put it in quotes, as it stands there".into();
    }
    found.push(Diagnostic::error("E1204", &span, path, message).hint(hint));
}

/// `/spec/env/A` → `spec.env.A`.
fn dotted(pointer: &str) -> String {
    pointer
        .trim_start_matches('/')
        .split('/')
        .map(|step| step.replace("~1", "/").replace("~0", "~"))
        .collect::<Vec<_>>()
        .join(".")
}

/// A value as a message shows it: short, and never a whole document.
fn shown(value: &Value) -> String {
    match value {
        Value::Object(_) => "a map".into(),
        Value::Array(_) => "a list".into(),
        Value::String(text) if text.chars().count() > 60 => {
            format!("`{}…`", text.chars().take(60).collect::<String>())
        }
        Value::String(text) => format!("`{text}`"),
        other => format!("`{other}`"),
    }
}

fn list(options: &Value) -> String {
    let words: Vec<String> = options
        .as_array()
        .into_iter()
        .flatten()
        .map(|option| option.as_str().map_or_else(|| option.to_string(), str::to_owned))
        .collect();
    words.join(", ")
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}

fn type_words(wanted: &str) -> String {
    let wanted = wanted.to_lowercase();
    [
        ("string", "text"),
        ("integer", "a whole number"),
        ("number", "a number"),
        ("boolean", "true or false"),
        ("array", "a list"),
        ("object", "a map"),
    ]
    .into_iter()
    .find(|(name, _)| wanted.contains(name))
    .map_or(wanted.clone(), |(_, words)| words.to_owned())
}

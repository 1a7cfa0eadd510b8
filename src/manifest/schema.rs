//! JSON Schema (2020-12) of the manifests, generated from the types.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::base::ObjectKind;

use super::spec::{
    ConfigSpec, ExternalSpec, JobSpec, Metadata, NotifierSpec, SecretSpec, ServiceSpec, SystemSpec,
};

/// The only version of the manifest format.
pub const API_VERSION: &str = "unisys.dev/v1";
const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// The schema of one kind of object, whole and self-contained.
pub fn of_kind(kind: ObjectKind) -> Value {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let metadata = generator.subschema_for::<Metadata>().to_value();
    let spec = match kind {
        ObjectKind::Service => generator.subschema_for::<ServiceSpec>(),
        ObjectKind::Job => generator.subschema_for::<JobSpec>(),
        ObjectKind::Config => generator.subschema_for::<ConfigSpec>(),
        ObjectKind::Secret => generator.subschema_for::<SecretSpec>(),
        ObjectKind::System => generator.subschema_for::<SystemSpec>(),
        ObjectKind::External => generator.subschema_for::<ExternalSpec>(),
        ObjectKind::Notifier => generator.subschema_for::<NotifierSpec>(),
    };
    let definitions = generator.take_definitions(true);
    json!({
        "$schema": DIALECT,
        "title": kind.as_str(),
        "type": "object",
        "properties": {
            "apiVersion": {"description": "Version of the manifest format.", "const": API_VERSION},
            "kind": {"description": "What is declared.", "const": kind.as_str()},
            "metadata": metadata,
            "spec": spec.to_value(),
        },
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "additionalProperties": false,
        "$defs": definitions,
    })
}

/// The schema of any object: what an editor is pointed to.
pub fn of_any() -> Value {
    let mut definitions = Map::new();
    let mut branches = Vec::new();
    for kind in ObjectKind::ALL {
        let mut schema = of_kind(kind);
        if let Value::Object(schema) = &mut schema {
            schema.remove("$schema");
            if let Some(Value::Object(inner)) = schema.remove("$defs") {
                definitions.extend(inner);
            }
        }
        definitions.insert(format!("{}Manifest", kind.as_str()), schema);
        branches.push(json!({
            "if": {"properties": {"kind": {"const": kind.as_str()}}, "required": ["kind"]},
            "then": {"$ref": format!("#/$defs/{}Manifest", kind.as_str())},
        }));
    }
    json!({
        "$schema": DIALECT,
        "title": "unisys manifest",
        "type": "object",
        "properties": {"kind": {"enum": ObjectKind::ALL.map(ObjectKind::as_str)}},
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "allOf": branches,
        "$defs": definitions,
    })
}

/// File names under `schemas/` with their content.
pub fn files() -> Vec<(String, String)> {
    let text = |schema: &Value| format!("{schema:#}\n");
    let kinds =
        ObjectKind::ALL.map(|kind| (format!("{}.schema.json", kind.singular()), text(&of_kind(kind))));
    std::iter::once(("unisys.schema.json".to_owned(), text(&of_any()))).chain(kinds).collect()
}

/// Follows `$ref` and `anyOf: [x, null]` to the schema that says something.
pub fn resolve<'s>(root: &'s Value, mut schema: &'s Value) -> &'s Value {
    for _ in 0..16 {
        if let Some(target) = schema.get("$ref").and_then(Value::as_str) {
            match root.pointer(target.trim_start_matches('#')) {
                Some(next) => schema = next,
                None => return schema,
            }
        } else if let Some(branch) = only_branch(schema) {
            schema = branch;
        } else {
            return schema;
        }
    }
    schema
}

/// The branch of an `anyOf` beside `null`, if there is just one.
fn only_branch(schema: &Value) -> Option<&Value> {
    let branches = schema.get("anyOf")?.as_array()?;
    let mut rest =
        branches.iter().filter(|branch| branch.get("type").and_then(Value::as_str) != Some("null"));
    let first = rest.next()?;
    rest.next().is_none().then_some(first)
}

/// The schema at a path of keys and indices below `schema`, references followed.
pub fn at<'s>(root: &'s Value, schema: &'s Value, path: &[&str]) -> Option<&'s Value> {
    let schema = resolve(root, schema);
    let Some((step, rest)) = path.split_first() else { return Some(schema) };
    let next = schema
        .get("properties")
        .and_then(|properties| properties.get(step))
        .or_else(|| schema.get("items").filter(|_| step.parse::<usize>().is_ok()))
        .or_else(|| schema.get("additionalProperties").filter(|inner| inner.is_object()));
    match next {
        Some(next) => at(root, next, rest),
        None => {
            let branches = schema.get("anyOf").and_then(Value::as_array)?;
            branches.iter().find_map(|branch| at(root, branch, path))
        }
    }
}

/// Names of the properties of a schema, or of the forms that it allows.
pub fn property_names<'s>(root: &'s Value, schema: &'s Value) -> Vec<&'s str> {
    let forms = schema.get("anyOf").and_then(Value::as_array).into_iter().flatten();
    let all = std::iter::once(schema).chain(forms.map(|form| resolve(root, form)));
    let maps = all.filter_map(|schema| schema.get("properties")?.as_object());
    let mut names: Vec<&str> = Vec::new();
    for name in maps.flat_map(|map| map.keys()) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    names
}

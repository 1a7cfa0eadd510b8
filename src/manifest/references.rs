//! Who takes something from a Config or a Secret.

use serde_json::Value;

use crate::base::{ObjectKind, ObjectRef};

use super::load::Objects;

/// The objects that refer to a Config or Secret.
pub fn users_of(objects: &Objects, of: &ObjectRef) -> Vec<ObjectRef> {
    let key = match of.kind {
        ObjectKind::Config => "config",
        ObjectKind::Secret => "secret",
        _ => return Vec::new(),
    };
    let uses = |written: &str| {
        serde_json::from_str(written).is_ok_and(|spec: Value| refers(&spec, key, of.name.as_str(), ""))
    };
    let sources = objects.sources().into_iter();
    sources.filter(|source| uses(&source.written)).map(|source| source.object.clone()).collect()
}

/// Maps whose keys are names of a person's own.
const OWN_KEYS: [&str; 3] = ["env", "data", "headers"];

/// Wherever something is taken from one, it is as `{config: NAME}` or `{config: NAME, key: KEY}`.
fn refers(value: &Value, key: &str, name: &str, under: &str) -> bool {
    match value {
        Value::Object(map) => map.iter().any(|(known, below)| {
            let is_one = known == key && below == name && !OWN_KEYS.contains(&under);
            is_one || refers(below, key, name, known)
        }),
        Value::Array(items) => items.iter().any(|item| refers(item, key, name, "")),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_reference_is_one_wherever_it_stands() {
        for (spec, expected) in [
            (json!({"env": {"A": {"config": "app", "key": "a"}}}), true),
            (json!({"envFrom": [{"file": ".env"}, {"config": "app"}]}), true),
            (json!({"enabledWhen": {"config": "app", "key": "a"}}), true),
            (json!({"webhook": {"url": {"config": "app", "key": "a"}}}), true),
            (json!({"env": {"A": {"secret": "app", "key": "a"}}}), false),
            (json!({"env": {"A": {"config": "other", "key": "app"}}}), false),
            (json!({"env": {"config": "app"}}), false),
        ] {
            assert_eq!(refers(&spec, "config", "app", ""), expected, "{spec}");
        }
    }
}

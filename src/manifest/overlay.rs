//! Overlays and `System.defaults`: trees laid over trees.
//!
//! Maps merge; lists whose items have a `name` merge by name; other lists replace; `null` removes (manifest.md, Overlays).

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// Lays `patch` over `base`.
pub fn overlay(base: &mut Value, patch: &Value) {
    match (base, patch) {
        (Value::Object(base), Value::Object(patch)) => overlay_map(base, patch),
        (Value::Array(base), Value::Array(patch)) if is_named(base) && is_named(patch) => {
            overlay_named(base, patch)
        }
        (base, patch) => *base = patch.clone(),
    }
}

fn overlay_map(base: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (key, value) in patch {
        match (base.get_mut(key), value) {
            (_, Value::Null) => {
                base.remove(key);
            }
            (Some(old), value) => overlay(old, value),
            (None, value) => {
                base.insert(key.clone(), value.clone());
            }
        }
    }
}

fn is_named(items: &[Value]) -> bool {
    !items.is_empty() && items.iter().all(|item| item.get("name").is_some_and(Value::is_string))
}

fn overlay_named(base: &mut Vec<Value>, patch: &[Value]) {
    let mut index: BTreeMap<String, usize> = BTreeMap::new();
    for (at, item) in base.iter().enumerate() {
        if let Some(name) = item["name"].as_str() {
            index.insert(name.to_owned(), at);
        }
    }
    for item in patch {
        match item["name"].as_str().and_then(|name| index.get(name)) {
            Some(at) => overlay(&mut base[*at], item),
            None => base.push(item.clone()),
        }
    }
}

/// Puts `defaults` under a spec: what the spec says stays, an explicit `null` included.
pub fn underlay(spec: &mut Value, defaults: &Value) {
    let (Value::Object(spec), Value::Object(defaults)) = (spec, defaults) else { return };
    for (key, default) in defaults {
        match spec.get_mut(key) {
            None => {
                spec.insert(key.clone(), default.clone());
            }
            Some(value @ Value::Object(_)) => underlay(value, default),
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn maps_merge_named_lists_merge_by_name_other_lists_replace_and_null_removes() {
        let mut base = json!({"env": {"A": "1", "B": "2"}, "ports": [{"name": "http", "port": 1}], "command": ["a", "b"]});
        let patch = json!({"env": {"B": null, "C": "3"}, "ports": [{"name": "http", "port": 2}, {"name": "x", "port": 3}], "command": ["c"]});
        overlay(&mut base, &patch);
        assert_eq!(
            base,
            json!({"env": {"A": "1", "C": "3"}, "ports": [{"name": "http", "port": 2}, {"name": "x", "port": 3}], "command": ["c"]})
        );
    }

    #[test]
    fn defaults_lie_under_a_spec_and_an_explicit_null_overrides_them() {
        let mut spec = json!({"circuitBreaker": null, "stop": {"grace": "1s"}});
        underlay(
            &mut spec,
            &json!({"circuitBreaker": {"failures": 3}, "stop": {"grace": "5s", "signal": "SIGINT"}, "replicas": 2}),
        );
        assert_eq!(
            spec,
            json!({"circuitBreaker": null, "stop": {"grace": "1s", "signal": "SIGINT"}, "replicas": 2})
        );
    }
}

//! Whether an object is within the bounds that the schema sets beyond types: numbers, lengths, patterns. Types cannot say
//! `1 to 1000`, and the validator that can is too large and slow to hold every object of a big system against it. So this
//! says only *whether* something may be out of bounds; what and where, the validator says ([`super::shape`]).

use std::cell::OnceCell;
use std::collections::BTreeMap;

use regex::Regex;
use serde_json::Value;

use super::schema;

/// The bounds of one kind of object, as a tree of just the fields that have any.
#[derive(Debug, Default)]
pub struct Bounds {
    number: Option<(f64, f64)>,
    /// Items of a list, characters of a text.
    length: Option<(u64, u64)>,
    pattern: Option<Pattern>,
    /// Named fields, and no list: the types would take a list for the fields in their order.
    named: bool,
    list: bool,
    fields: BTreeMap<String, Bounds>,
    /// Every item of a list, every value of a map without named fields.
    each: Option<Box<Bounds>>,
}

/// Built when first needed: most patterns belong to fields that nobody writes.
#[derive(Debug)]
struct Pattern {
    text: String,
    built: OnceCell<Option<Regex>>,
}

/// References nest this deep at most; the schema's own nesting is less.
const DEPTH: usize = 24;

impl Bounds {
    /// Of a schema whose references start at `root`.
    pub fn of(root: &Value, schema: &Value) -> Self {
        Self::default().with(root, schema, DEPTH)
    }

    fn with(mut self, root: &Value, schema: &Value, depth: usize) -> Self {
        self.collect(root, schema, depth);
        self
    }

    fn collect(&mut self, root: &Value, schema: &Value, depth: usize) {
        let Some(depth) = depth.checked_sub(1) else { return };
        let schema = schema::resolve(root, schema);
        // Each bound applies to its own type only, so the branches of a choice can be taken together.
        for word in ["anyOf", "oneOf", "allOf"] {
            for branch in schema.get(word).and_then(Value::as_array).into_iter().flatten() {
                self.collect(root, branch, depth);
            }
        }
        let number = |word: &str| schema.get(word).and_then(Value::as_f64);
        if let (low, high) = (number("minimum"), number("maximum"))
            && (low.is_some() || high.is_some())
        {
            self.number = Some((low.unwrap_or(f64::MIN), high.unwrap_or(f64::MAX)));
        }
        let count = |words: [&str; 2]| words.into_iter().find_map(|word| schema.get(word)?.as_u64());
        let (least, most) = (count(["minItems", "minLength"]), count(["maxItems", "maxLength"]));
        if least.is_some() || most.is_some() {
            self.length = Some((least.unwrap_or(0), most.unwrap_or(u64::MAX)));
        }
        if let Some(text) = schema.get("pattern").and_then(Value::as_str) {
            self.pattern = Some(Pattern { text: text.to_owned(), built: OnceCell::new() });
        }
        self.named |= schema.get("properties").is_some();
        self.list |= schema.get("items").is_some();
        for (name, inner) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let found = self.fields.remove(name).unwrap_or_default().with(root, inner, depth);
            if !found.is_empty() {
                self.fields.insert(name.clone(), found);
            }
        }
        for word in ["items", "additionalProperties"] {
            if let Some(inner) = schema.get(word).filter(|inner| inner.is_object()) {
                let found = self.each.take().map(|each| *each).unwrap_or_default().with(root, inner, depth);
                self.each = (!found.is_empty()).then(|| Box::new(found));
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.number.is_none()
            && self.length.is_none()
            && self.pattern.is_none()
            && !self.named
            && self.fields.is_empty()
            && self.each.is_none()
    }

    /// Nothing in it is out of bounds.
    pub fn hold(&self, value: &Value) -> bool {
        let within =
            |count: usize| self.length.is_none_or(|(least, most)| (least..=most).contains(&(count as u64)));
        match value {
            Value::Null | Value::Bool(_) => true,
            Value::Number(number) => self.number.is_none_or(|(low, high)| {
                number.as_f64().is_some_and(|number| (low..=high).contains(&number))
            }),
            Value::String(text) => {
                within(text.chars().count())
                    && self.pattern.as_ref().is_none_or(|pattern| pattern.matches(text))
            }
            Value::Array(items) => {
                within(items.len())
                    && (self.list || !self.named)
                    && self.each.as_ref().is_none_or(|each| items.iter().all(|item| each.hold(item)))
            }
            Value::Object(map) => map.iter().all(|(key, value)| {
                let bounds = self.fields.get(key).or(self.each.as_deref());
                bounds.is_none_or(|bounds| bounds.hold(value))
            }),
        }
    }
}

impl Pattern {
    fn matches(&self, text: &str) -> bool {
        let built = self.built.get_or_init(|| Regex::new(&self.text).ok());
        // One that this crate cannot build is the validator's to judge.
        built.as_ref().is_some_and(|pattern| pattern.is_match(text))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::base::ObjectKind;

    #[test]
    fn what_types_cannot_say_is_seen() {
        let schema = schema::of_kind(ObjectKind::Service);
        let bounds = Bounds::of(&schema, &schema);
        let holds =
            |spec: Value| bounds.hold(&json!({"kind": "Service", "metadata": {"name": "a"}, "spec": spec}));
        assert!(holds(json!({"command": ["x"], "dependsOn": ["a", {"name": "b"}], "env": {"A": "b"}})));
        assert!(holds(json!({"command": ["x"], "replicas": 3, "ports": [{"name": "p", "port": 80}]})));
        for out in [
            json!({"command": []}),
            json!({"command": ["x"], "replicas": 1001}),
            json!({"command": ["x"], "ports": [{"name": "p", "port": 0}]}),
            json!({"command": ["x"], "umask": "888"}),
            json!({"command": ["x"], "stop": ["SIGINT"]}),
            json!({"command": ["x"], "probes": {"readiness": {"tcp": [80]}}}),
            json!({"command": ["x"], "env": {"A": ["config", "key"]}}),
            json!({"command": ["x"], "restart": {"backoff": {"jitter": 1.5}}}),
        ] {
            assert!(!holds(out.clone()), "{out}");
        }
    }
}

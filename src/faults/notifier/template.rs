//! What a message says: JSON, or a person's template with `{{field}}` replaced. The fields are those of
//! [`TEMPLATE_FIELDS`](crate::manifest::notifiers::TEMPLATE_FIELDS); of a grouped message they are those of its first error,
//! but for `text`, `errors` and `omitted`, which are of all.

use serde_json::{Value, json};

use super::desk::Letter;

/// The message as JSON: what `exec` and `file` get, and a webhook without a template.
pub fn message(notifier: &str, letter: &Letter) -> Value {
    let errors: Vec<Value> = letter
        .errors
        .iter()
        .map(|(record, since)| {
            let mut value = serde_json::to_value(record).unwrap_or_default();
            value["newlySeen"] = json!(since);
            value
        })
        .collect();
    json!({
        "apiVersion": "unisys.dev/v1",
        "kind": "Notification",
        "notifier": notifier,
        "text": text(letter),
        "errors": errors,
        "omitted": letter.omitted,
    })
}

/// One line an error.
fn text(letter: &Letter) -> String {
    let mut lines: Vec<String> = letter
        .errors
        .iter()
        .map(|(record, since)| {
            let times = if *since > 1 { format!(" ({since} times)") } else { String::new() };
            format!("{} {} {}: {}{times}", record.severity, record.category, record.unit, record.message)
        })
        .collect();
    if letter.omitted > 0 {
        lines.push(format!("and {} more", letter.omitted));
    }
    lines.join("\n")
}

/// A template is JSON when it begins as an object or an array does, and not with a field.
pub fn is_json(template: &str) -> bool {
    let text = template.trim_start();
    text.starts_with(['{', '[']) && !text.starts_with("{{")
}

/// Replaces `{{field}}`. In a template that [is JSON](is_json) texts are escaped for the inside of quotes.
pub fn render(template: &str, message: &Value) -> String {
    let is_json = is_json(template);
    let mut parts = template.split("{{");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once("}}") {
            Some((name, rest)) => {
                out.push_str(&field(name.trim(), message, is_json));
                out.push_str(rest);
            }
            None => {
                out.push_str("{{");
                out.push_str(part);
            }
        }
    }
    out
}

fn field(name: &str, message: &Value, is_json: bool) -> String {
    let value = match name {
        "text" | "errors" | "omitted" | "notifier" => &message[name],
        _ => &message["errors"][0][name],
    };
    match value {
        Value::String(text) if is_json => {
            let quoted = Value::from(text.as_str()).to_string();
            quoted[1..quoted.len() - 1].to_owned()
        }
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_filled_in_and_stays_json() {
        let message = json!({"notifier": "ops", "text": "a \"b\"\nc", "omitted": 0,
            "errors": [{"severity": "fatal", "count": 3, "incarnation": null}]});
        for (template, expected) in [
            ("{{severity}} × {{ count }}{{incarnation}}", "fatal × 3"),
            ("{{text}}", "a \"b\"\nc"),
            (r#"{"text": "{{text}}", "n": {{count}}}"#, r#"{"text": "a \"b\"\nc", "n": 3}"#),
            ("no field {{", "no field {{"),
        ] {
            assert_eq!(render(template, &message), expected);
        }
        let fields = crate::manifest::notifiers::template_fields;
        assert_eq!(fields("{{a}} {{ b }} {{").collect::<Vec<_>>(), ["a", "b"]);
    }
}

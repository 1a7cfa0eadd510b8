//! `unisys explain`: fields from the schema, codes from `src/errors/`.

use serde_json::Value;

use crate::base::ObjectKind;

use super::diagnostic::nearest;
use super::{not_yet, schema};

macro_rules! codes {
    ($($code:literal),* $(,)?) => {
        /// Every code with its page.
        pub const CODES: &[(&str, &str)] = &[$(($code, include_str!(concat!("../errors/", $code, ".md")))),*];
    };
}

codes!(
    "E1001", "E1002", "E1003", "E1004", "E1005", "E1006", "E1007", "E1008", "E1009", "E1010", "E1200",
    "E1201", "E1202", "E1203", "E1204", "E1205", "E1206", "E1207", "E1208", "E1301", "E1302", "E1303",
    "E1304", "E1401", "E1402", "E1403", "E1404", "E1405", "E1406", "E1501", "E1502", "E1503", "E1504",
    "E1505", "E1506", "E1507", "E1508", "E1601", "E1602", "E1603", "E1604", "E1605", "E1606", "E1607",
    "E1608", "E1609", "E1610", "E1900", "E2001", "E2002", "E2003", "E2004", "E2005", "E2006", "E2007",
    "E2009", "E2010", "E2011", "E2012", "E2013", "E2014", "E2015", "E2016",
);

/// What is neither a field nor a code.
const PAGES: [(&str, &str); 1] = [("overlay", include_str!("overlays.md"))];

/// Longer lines of words are broken.
const WIDTH: usize = 100;

/// What a field, a code or another word means; `Err` has the nearest thing that exists.
pub fn explain(word: &str) -> Result<String, String> {
    if let Some((_, page)) = CODES.iter().find(|(code, _)| code.eq_ignore_ascii_case(word)) {
        return Ok((*page).to_owned());
    }
    if let Some((_, page)) = PAGES.iter().find(|(name, _)| *name == word.trim_end_matches('s')) {
        return Ok((*page).to_owned());
    }
    let steps: Vec<&str> = word.split('.').filter(|step| !step.is_empty()).collect();
    let Some(kind) = steps.first().and_then(|word| ObjectKind::from_word(word)) else {
        let kinds = ObjectKind::ALL.map(ObjectKind::singular);
        let codes = CODES.iter().map(|(code, _)| *code);
        let pages = PAGES.map(|(name, _)| name);
        return Err(match nearest(word, kinds.into_iter().chain(pages).chain(codes)) {
            Some(near) => format!("there is nothing called `{word}`; did you mean `{near}`?"),
            None => format!(
                "there is nothing called `{word}`; kinds: {}; also: {}",
                kinds.join(", "),
                pages.join(", ")
            ),
        });
    };
    let root = schema::of_kind(kind);
    field(&root, kind, &steps[1..])
}

fn field(root: &Value, kind: ObjectKind, steps: &[&str]) -> Result<String, String> {
    for length in 1..=steps.len() {
        if at(root, &steps[..length]).is_none() {
            let parent = at(root, &steps[..length - 1]);
            let names = parent.map(|parent| properties(root, parent)).unwrap_or_default();
            let names: Vec<&str> = names.into_iter().map(|(name, _)| name).collect();
            let missing = steps[length - 1];
            let near =
                nearest(missing, names.iter().copied()).map(|near| format!("; did you mean `{near}`?"));
            let near = near.unwrap_or_else(|| match names.is_empty() {
                true => "; it has none".into(),
                false => format!("; it has {}", names.join(", ")),
            });
            return Err(format!(
                "{} has no field `{missing}`{near}",
                [&[kind.singular()], &steps[..length - 1]].concat().join(".")
            ));
        }
    }
    let raw = raw_at(root, steps);
    let resolved = at(root, steps).unwrap_or(root);
    let mut out = format!("{}\n", [&[kind.singular()], steps].concat().join("."));
    out.push_str(&format!("  type: {}\n", type_words(root, resolved)));
    if let Some(default) = raw.and_then(|raw| raw.get("default")).filter(|default| !default.is_null()) {
        out.push_str(&format!("  default: {default}\n"));
    }
    let description =
        [raw, Some(resolved)].into_iter().flatten().find_map(|schema| schema.get("description")?.as_str());
    if let Some(description) = description {
        out.push_str(&format!("\n  {}\n", wrapped(description, 2)));
    }
    let not_yet = |steps: &[&str]| not_yet::of_field(kind, &steps.join("."));
    match not_yet(steps) {
        Some("") => out.push_str(
            "\n  Not carried out yet by this version: an object that says it is refused (E1900).\n",
        ),
        Some(which) => {
            out.push_str(&format!("\n  {which} is not carried out yet by this version (E1900).\n"))
        }
        None => {}
    }
    out.push_str(&value_forms(root, resolved));
    let properties = properties(root, resolved);
    if !properties.is_empty() {
        out.push_str("\nFields:\n");
        let width = properties.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, inner) in properties {
            let resolved = schema::resolve(root, inner);
            let words = [inner, resolved].into_iter().find_map(|schema| schema.get("description")?.as_str());
            let mut words = words.unwrap_or_default().to_owned();
            match not_yet(&[steps, &[name]].concat()).filter(|_| not_yet(steps).is_none()) {
                Some("") => words.push_str(" (not yet: E1900)"),
                Some(which) => words.push_str(&format!(" ({which} not yet: E1900)")),
                None => {}
            }
            let head = format!("  {name:width$}  {:9}", type_words(root, resolved));
            let column = width + 15;
            // Beside a long type there is no room.
            let line = match head.chars().count() + 2 <= column || words.is_empty() {
                true => format!("{head}  {}", wrapped(&words, column)),
                false => format!("{head}\n{:column$}{}", "", wrapped(&words, column)),
            };
            out.push_str(&format!("{}\n", line.trim_end()));
        }
    }
    Ok(out)
}

/// The forms that each value of a map may have.
fn value_forms(root: &Value, schema: &Value) -> String {
    let value = schema.get("additionalProperties").filter(|value| value.is_object());
    let forms = value.and_then(|value| schema::resolve(root, value).get("anyOf")?.as_array());
    let Some(forms) = forms else { return String::new() };
    let mut out = "\nEach value is one of:\n".to_owned();
    for form in forms {
        let resolved = schema::resolve(root, form);
        let own = [form, resolved].into_iter().find_map(|schema| schema.get("description")?.as_str());
        let of_fields =
            properties(root, resolved).into_iter().find_map(|(_, field)| field.get("description")?.as_str());
        let head = format!("  {:12}  ", form_words(root, resolved));
        let words = wrapped(own.or(of_fields).unwrap_or_default(), head.chars().count());
        out.push_str(&format!("{}\n", format!("{head}{words}").trim_end()));
    }
    out
}

/// Words in lines of a bearable length, each but the first after so many blanks.
fn wrapped(text: &str, indent: usize) -> String {
    let mut out = String::new();
    let mut column = indent;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if column > indent && column + 1 + length > WIDTH {
            out.push_str(&format!("\n{:indent$}", ""));
            column = indent;
        } else if column > indent {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += length;
    }
    out
}

/// The schema at a path of keys; that of a list is left out for its items'.
fn at<'s>(root: &'s Value, steps: &[&str]) -> Option<&'s Value> {
    let mut schema = schema::resolve(root, root);
    for step in steps {
        schema = schema::at(root, items(root, schema), &[step])?;
    }
    Some(schema)
}

/// The schema of what is in a list, of anything else itself.
fn items<'s>(root: &'s Value, schema: &'s Value) -> &'s Value {
    schema.get("items").map_or(schema, |items| schema::resolve(root, items))
}

/// The fields of an object, of those in a list, or of the forms that it may have.
fn properties<'s>(root: &'s Value, schema: &'s Value) -> Vec<(&'s str, &'s Value)> {
    let item = items(root, schema);
    let forms = item.get("anyOf").and_then(Value::as_array).into_iter().flatten();
    let forms = forms.map(|form| schema::resolve(root, form));
    let objects = std::iter::once(item).chain(forms).filter_map(|form| form.get("properties")?.as_object());
    let mut all: Vec<(&str, &Value)> =
        objects.flatten().map(|(name, inner)| (name.as_str(), inner)).collect();
    all.dedup_by_key(|(name, _)| *name);
    all
}

/// The schema of the last step before references are followed: it has the field's own default and description.
fn raw_at<'s>(root: &'s Value, steps: &[&str]) -> Option<&'s Value> {
    let (last, before) = steps.split_last()?;
    let fields = properties(root, at(root, before)?);
    fields.into_iter().find(|(name, _)| name == last).map(|(_, inner)| inner)
}

fn type_words(root: &Value, resolved: &Value) -> String {
    if let Some(options) = resolved.get("enum").and_then(Value::as_array) {
        return options.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" | ");
    }
    if let Some(variants) = resolved.get("oneOf").and_then(Value::as_array) {
        let of = |variant: &Value| match (variant.get("const"), variant.get("enum")) {
            (Some(one), _) => vec![one.clone()],
            (None, several) => several.and_then(Value::as_array).cloned().unwrap_or_default(),
        };
        let words: Vec<Value> = variants.iter().flat_map(of).collect();
        let words: Vec<&str> = words.iter().filter_map(Value::as_str).collect();
        if !words.is_empty() {
            return words.join(" | ");
        }
    }
    match resolved.get("type") {
        Some(Value::String(word)) if word == "array" => {
            let items = resolved.get("items").map(|items| type_words(root, schema::resolve(root, items)));
            format!("list of {}", items.unwrap_or_else(|| "anything".into()))
        }
        Some(Value::String(word)) if word == "object" => form_words(root, resolved),
        Some(Value::String(word)) => word.clone(),
        Some(Value::Array(words)) => words
            .iter()
            .filter_map(Value::as_str)
            .filter(|word| *word != "null")
            .collect::<Vec<_>>()
            .join(" or "),
        _ => match resolved.get("anyOf").and_then(Value::as_array) {
            Some(forms) => {
                let mut words: Vec<String> =
                    forms.iter().map(|form| form_words(root, schema::resolve(root, form))).collect();
                words.dedup();
                words.join(" or ")
            }
            None => "value".into(),
        },
    }
}

/// The same of one of several forms, or of a map: its keys, where they are few.
fn form_words(root: &Value, form: &Value) -> String {
    /// More are listed below.
    const FEW: usize = 4;
    if form.get("type").and_then(Value::as_str) != Some("object") {
        return type_words(root, form);
    }
    let value = form.get("additionalProperties").filter(|value| value.is_object());
    match (form.get("properties").and_then(Value::as_object), value) {
        (None, Some(value)) => format!("map of {}", type_words(root, schema::resolve(root, value))),
        (Some(fields), _) if fields.len() <= FEW => {
            format!("{{{}}}", fields.keys().map(String::as_str).collect::<Vec<_>>().join(", "))
        }
        _ => "map".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_codes_are_explained_and_slips_are_corrected() {
        assert!(explain("service.spec.restart.backoff.initial").unwrap().contains("default: \"100ms\""));
        assert!(explain("service.spec.ports").unwrap().contains("listen"));
        assert!(explain("service.spec.ports.listen").unwrap().contains("type: boolean"));
        assert!(explain("service.spec.dependsOn").unwrap().contains("optional"));
        let optional = explain("service.spec.dependsOn.optional").unwrap();
        assert!(optional.contains("type: boolean") && optional.contains("holds nothing up"), "{optional}");
        assert!(explain("service.spec.dependsOn.optinal").unwrap_err().contains("did you mean `optional`"));
        assert!(explain("service.spec.command.x").unwrap_err().contains("it has none"));
        assert!(explain("service.spec.restrat").unwrap_err().contains("did you mean `restart`"));
        assert!(explain("service.spec.metrics.scrape").unwrap().contains("E1900"));
        assert!(explain("job.spec").unwrap().contains("(not yet: E1900)"));
        assert!(explain("job.spec.logging.maxSize").unwrap().contains("E1900"));
        assert!(explain("secret.spec.deliver").unwrap().contains("`files` is not carried out yet"));
        assert!(!explain("service.spec.restart").unwrap().contains("E1900"));
        for field in ["service.spec.env", "secret.spec.data"] {
            assert!(explain(field).unwrap().contains("type: map of string or {"), "{field}");
        }
        assert!(explain("service.spec.env").unwrap().contains("  {secret, key}  A key of a Secret."));
        assert!(explain("secret.spec.data").unwrap().contains("  {file}        Relative to the manifest;"));
        assert!(explain("service.spec.dependsOn").unwrap().contains("list of string or {name, condition,"));
        // Nothing is cut off at the end of a line of the sources.
        let ports = explain("service.spec.ports").unwrap();
        assert!(ports.lines().all(|line| line.chars().count() <= WIDTH), "{ports}");
        assert!(ports.contains("tcp | udp | unix | unixDatagram"), "{ports}");
        let ports = ports.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(ports.contains("finishes what it has accepted."), "{ports}");
        assert!(explain("overlays").unwrap().contains("--overlay"));
        assert!(explain("overlys").unwrap_err().contains("did you mean `overlay`"));
        assert!(explain("E1203").unwrap().contains("E1203"));
        assert!(explain("servise").unwrap_err().contains("did you mean `service`"));
    }

    #[test]
    fn every_code_in_the_sources_has_a_page_and_every_page_is_used() {
        let sources = [
            include_str!("tree.rs"),
            include_str!("load.rs"),
            include_str!("objects.rs"),
            include_str!("shape.rs"),
            include_str!("check.rs"),
            include_str!("check_ports.rs"),
            include_str!("resolve/mod.rs"),
            include_str!("resolve/values.rs"),
            include_str!("resolve/expansion.rs"),
            include_str!("not_yet.rs"),
            include_str!("notifiers.rs"),
            include_str!("capabilities.rs"),
            include_str!("../plan/machine.rs"),
            include_str!("../plan/machine/commands.rs"),
            include_str!("../plan/machine/notifiers.rs"),
            include_str!("../plan/machine/ports.rs"),
            include_str!("../cli/cmd/validate.rs"),
        ]
        .concat();
        for (code, page) in CODES {
            assert!(page.starts_with(&format!("# {code}")), "{code}");
            assert!(sources.contains(&format!("\"{code}\"")), "{code} is explained and never used");
        }
        for (at, _) in sources.match_indices("\"E") {
            let code = &sources[at + 1..at + 6];
            if code[1..].chars().all(|c| c.is_ascii_digit()) && sources[at + 6..].starts_with('"') {
                assert!(CODES.iter().any(|(known, _)| *known == code), "{code} has no page");
            }
        }
    }
}

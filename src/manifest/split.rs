//! Files that are handed in one by one: each object of them is a file of its own, which a later one of the same object replaces.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::base::{Name, ObjectKind, ObjectRef, limits};

use super::tree;

/// Each object of a file, as `FILE#KIND.NAME` with its text where it stood, so that places stay right. Nothing where the file
/// cannot be taken apart: then it is looked at as it is, and its findings say why.
pub fn split(path: &Path, text: &str) -> Option<Vec<(PathBuf, String)>> {
    let mut flaws = Vec::new();
    let nodes = tree::parse(path, text.as_bytes(), &mut flaws);
    if !flaws.is_empty() {
        return None;
    }
    let nodes: Vec<_> = nodes.iter().filter(|node| !node.is_null()).collect();
    let mut padding = 0;
    let mut found = Vec::new();
    for node in &nodes {
        let value = node.to_value();
        let kind = ObjectKind::ALL.into_iter().find(|kind| value["kind"] == kind.as_str())?;
        let name: Name = value.pointer("/metadata/name")?.as_str()?.parse().ok()?;
        let file = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let of_it = path.with_file_name(format!("{file}#{}.{name}", kind.singular()));
        let own = match nodes.len() {
            1 => text.to_owned(),
            _ => {
                padding += node.line as usize;
                let own = (padding <= limits::PADDING).then(|| in_its_place(text, node.line as usize));
                own.filter(|own| is_alone(own, &value)).unwrap_or_else(|| value.to_string())
            }
        };
        found.push((of_it, own));
    }
    Some(found)
}

/// The objects that a file declares, as far as that can be told.
pub fn objects_in(path: &Path, text: &str) -> Vec<ObjectRef> {
    let nodes = tree::parse(path, text.as_bytes(), &mut Vec::new());
    let object = |node: &tree::Node| {
        let kind = node.get("kind")?.as_str()?;
        let kind = ObjectKind::ALL.into_iter().find(|known| known.as_str() == kind)?;
        let name = node.get("metadata")?.get("name")?.as_str()?.parse().ok()?;
        Some(ObjectRef { kind, name })
    };
    nodes.iter().filter_map(object).collect()
}

/// The file that a person wrote, of one that [`split`] made of it.
pub fn written_in(path: &Path) -> PathBuf {
    let made = || {
        let (file, object) = path.file_name()?.to_str()?.rsplit_once('#')?;
        let (kind, name) = object.split_once('.')?;
        let is_object = ObjectKind::ALL.iter().any(|known| known.singular() == kind);
        (is_object && name.parse::<Name>().is_ok()).then(|| path.with_file_name(file))
    };
    made().unwrap_or_else(|| path.to_owned())
}

/// Documents begin at `---` and end at `---` or `...` in the first column, whatever is around it (YAML 1.2.2, 9.1).
pub(super) fn begins_or_ends_document(line: &str) -> bool {
    let rest = line.strip_prefix("---").or_else(|| line.strip_prefix("..."));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r']))
}

/// The document that a line belongs to, after as many empty lines as are before it.
fn in_its_place(text: &str, line: usize) -> String {
    let ends = begins_or_ends_document;
    let lines: Vec<&str> = text.split('\n').collect();
    let at = line.saturating_sub(1).min(lines.len().saturating_sub(1));
    let first = (0..=at).rev().find(|index| ends(lines[*index])).unwrap_or(0);
    let end = (at + 1..lines.len()).find(|index| ends(lines[*index])).unwrap_or(lines.len());
    format!("{}{}\n", "\n".repeat(first), lines[first..end].join("\n"))
}

fn is_alone(text: &str, value: &Value) -> bool {
    tree::parse_to_values(text).is_ok_and(|values| {
        let mut values = values.iter().filter(|found| !found.is_null());
        values.next() == Some(value) && values.next().is_none()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str, more: &str) -> String {
        format!(
            "apiVersion: unisys.dev/v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  command: [x]\n{more}"
        )
    }

    #[test]
    fn each_object_is_a_file_of_its_own_that_stands_where_it_stood() {
        let a = object("a", "  env:\n    TEXT: |\n      one\n      --- two\n");
        for (before, between, after) in [
            ("", "---\n", ""),
            ("# a comment\n---\n", "---\n\n# another\n", "---\n"),
            ("%YAML 1.2\n---\n", "...\n---\n", "...\n"),
            ("\n\n", "--- # here\n", "\n---\n# nothing more\n"),
        ] {
            let text = format!("{before}{a}{between}{}{after}", object("b", ""));
            let files = split(Path::new("/d/m.yaml"), &text).unwrap();
            let names: Vec<_> = files.iter().map(|(path, _)| path.display().to_string()).collect();
            assert_eq!(names, ["/d/m.yaml#service.a", "/d/m.yaml#service.b"], "{text}");
            for (path, own) in &files {
                assert_eq!(written_in(path), Path::new("/d/m.yaml"));
                let line = own.lines().position(|line| line.starts_with("metadata")).unwrap();
                assert_eq!(own.lines().nth(line), text.lines().nth(line), "{text}\n{own}");
            }
        }
    }

    #[test]
    fn what_is_alone_keeps_its_text_and_what_cannot_be_taken_apart_is_not() {
        let one = object("a", "");
        assert_eq!(split(Path::new("a.yaml"), &one).unwrap()[0].1, one);
        for text in [
            "a: [",
            "kind: Service\n",
            "kind: Nothing\nmetadata: {name: a}\n",
            "kind: Service\nmetadata: {name: A_}\n",
        ] {
            assert_eq!(split(Path::new("a.yaml"), text), None, "{text}");
        }
        assert_eq!(split(Path::new("a.yaml"), "---\n# nothing\n"), Some(Vec::new()));
        // A file of a person's own.
        for path in ["a#service.b.yaml", "a.yaml", "a#b", "a#thing.b"] {
            assert_eq!(written_in(Path::new(path)), Path::new(path));
        }
    }
}

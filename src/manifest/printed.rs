//! What `get -o yaml` printed, given back: lists are taken apart, and what only the daemon says of an object is left out, as by
//! kubectl. Only of what was printed: a `status` that a person wrote is an unknown key.

use std::path::Path;

use serde_json::Value;

use crate::base::redact::MASK;

use super::diagnostic::{Diagnostic, Span};
use super::schema::API_VERSION;
use super::tree::{Kind, Node};

/// Keys of `metadata` that only the daemon gives; the first of them not to every object.
const GIVEN: [&str; 3] = ["generation", "revision", "set"];

/// The objects of a document: of a list each of its items.
pub fn objects(file: &Path, document: Node, diagnostics: &mut Vec<Diagnostic>) -> Vec<Node> {
    if !is_list(&document) {
        return vec![object(file, document, diagnostics)];
    }
    let Kind::Map(entries) = document.kind else { return Vec::new() };
    let items = entries.into_iter().find(|(key, _)| key.text == "items").map(|(_, items)| items.kind);
    let Some(Kind::Seq(items)) = items else { return Vec::new() };
    items.into_iter().map(|item| object(file, item, diagnostics)).collect()
}

fn is_list(document: &Node) -> bool {
    let word = |key| document.get(key).and_then(Node::as_str).unwrap_or_default();
    word("apiVersion") == API_VERSION
        && word("kind").ends_with("List")
        && document.get("items").is_some_and(|items| matches!(items.kind, Kind::Seq(_)))
}

/// Without what only the daemon says of it.
fn object(file: &Path, mut node: Node, diagnostics: &mut Vec<Diagnostic>) -> Node {
    let given = |key: &&str| node.get("metadata").is_some_and(|metadata| metadata.get(key).is_some());
    if node.get("status").is_none() || !GIVEN[1..].iter().all(given) {
        return node;
    }
    if node.get("kind").and_then(Node::as_str) == Some("Secret") {
        masked(file, &node, diagnostics);
    }
    let Kind::Map(entries) = &mut node.kind else { return node };
    entries.retain(|(key, _)| key.text != "status");
    let metadata = entries.iter_mut().filter(|(key, _)| key.text == "metadata");
    for (_, metadata) in metadata {
        if let Kind::Map(entries) = &mut metadata.kind {
            entries.retain(|(key, _)| !GIVEN.contains(&key.text.as_str()));
        }
    }
    node
}

/// It would replace a value by what stands in its place.
fn masked(file: &Path, secret: &Node, diagnostics: &mut Vec<Diagnostic>) {
    let data = secret.get("spec").and_then(|spec| spec.get("data")).map(|data| &data.kind);
    let Some(Kind::Map(entries)) = data else { return };
    for (key, value) in entries {
        if matches!(&value.kind, Kind::Scalar(Value::String(text)) if text == MASK) {
            let span = Span { file: file.to_owned(), line: key.line, column: key.column, ..Span::default() };
            let message = format!("the value of `{}` is not in it: `get` shows none of a Secret", key.text);
            let hint = "write the value, or leave this Secret out: it stays as it is";
            let path = format!("spec.data.{}", key.text);
            diagnostics.push(Diagnostic::error("E1206", &span, path, message).hint(hint));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tree::parse;
    use super::*;

    const OBJECT: &str = "apiVersion: unisys.dev/v1\nkind: Service\nmetadata: {name: a, generation: 1, revision: 2, set: s}\nspec: {command: [x]}\nstatus: {summary: Ready}\n";

    fn read(text: &str) -> (Vec<Value>, Vec<Diagnostic>) {
        let mut diagnostics = Vec::new();
        let found = parse(Path::new("a.yaml"), text.as_bytes(), &mut diagnostics);
        (found.iter().map(Node::to_value).collect(), diagnostics)
    }

    #[test]
    fn what_get_printed_is_read_as_the_manifest_it_came_from() {
        let manifest = OBJECT.replace(", generation: 1, revision: 2, set: s", "");
        let manifest = manifest.replace("status: {summary: Ready}\n", "");
        let (wanted, _) = read(&manifest);
        assert_eq!(read(OBJECT), (wanted.clone(), Vec::new()));
        assert_eq!(read(&OBJECT.replace("generation: 1, ", "")), (wanted.clone(), Vec::new()));
        let item = OBJECT.replace('\n', "\n  ");
        let list = format!("apiVersion: unisys.dev/v1\nkind: ServiceList\nitems:\n- {item}\n- {item}");
        assert_eq!(read(&list).0, [wanted.clone(), wanted].concat());
    }

    #[test]
    fn what_was_not_printed_is_left_as_it_is() {
        for text in [
            OBJECT.replace(", set: s", ""),
            OBJECT.replace("status", "states"),
            "apiVersion: v1\nkind: List\nitems: [{kind: Pod}]\n".into(),
            "apiVersion: unisys.dev/v1\nkind: List\nitems: {}\n".into(),
        ] {
            let plain: Value = serde_yaml::from_str(&text).unwrap();
            assert_eq!(read(&text).0, [plain], "{text}");
        }
    }

    #[test]
    fn a_mask_does_not_become_a_value() {
        let secret =
            OBJECT.replace("Service", "Secret").replace("{command: [x]}", "{data: {k: '***', f: {file: p}}}");
        let (_, found) = read(&secret);
        assert!(found.len() == 1 && found[0].code == "E1206" && found[0].path == "spec.data.k", "{found:?}");
        assert_eq!(read(&secret.replace("status", "states")).1, [], "a person may write it");
    }
}

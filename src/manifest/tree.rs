//! YAML (and JSON, which is YAML) as a tree in which every node knows its place.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_saphyr::{DuplicateKeyPolicy, Spanned};

use crate::base::limits;

use super::diagnostic::{Diagnostic, Span};
use super::hidden::hide;
use super::printed;

/// A node with its place (from 1).
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub line: u32,
    pub column: u32,
    pub kind: Kind,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    Scalar(Value),
    Seq(Vec<Node>),
    /// In the order written; a duplicate key is there twice.
    Map(Vec<(Key, Node)>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    pub text: String,
    pub line: u32,
    pub column: u32,
}

impl Node {
    /// The plain value; of duplicate keys the last.
    pub fn to_value(&self) -> Value {
        match &self.kind {
            Kind::Scalar(value) => value.clone(),
            Kind::Seq(items) => Value::Array(items.iter().map(Self::to_value).collect()),
            Kind::Map(entries) => {
                Value::Object(entries.iter().map(|(key, node)| (key.text.clone(), node.to_value())).collect())
            }
        }
    }

    pub fn get(&self, key: &str) -> Option<&Self> {
        match &self.kind {
            Kind::Map(entries) => entries.iter().rev().find(|(k, _)| k.text == key).map(|(_, node)| node),
            _ => None,
        }
    }

    pub fn as_str(&self) -> Option<&str> {
        match &self.kind {
            Kind::Scalar(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    pub fn is_null(&self) -> bool {
        matches!(self.kind, Kind::Scalar(Value::Null))
    }

    /// The place of the value at a path of keys and indices; of the deepest part that exists.
    pub fn place<'p>(&self, path: impl IntoIterator<Item = &'p str>) -> (u32, u32) {
        let mut node = self;
        let mut place = (self.line, self.column);
        for step in path {
            match &node.kind {
                Kind::Map(entries) => match entries.iter().rev().find(|(key, _)| key.text == step) {
                    Some((key, next)) => {
                        place = (key.line, key.column);
                        node = next;
                    }
                    None => return place,
                },
                Kind::Seq(items) => match step.parse::<usize>().ok().and_then(|index| items.get(index)) {
                    Some(next) => {
                        place = (next.line, next.column);
                        node = next;
                    }
                    None => return place,
                },
                Kind::Scalar(_) => return place,
            }
        }
        place
    }

    /// What is wrong below, though it is YAML.
    fn flaws(&self, path: &str, found: &mut Vec<Flaw>) {
        let nul = |text: &str, line, column, found: &mut Vec<Flaw>| {
            if text.contains('\0') {
                found.push(Flaw { kind: FlawKind::Nul, line, column, path: path.to_owned() });
            }
        };
        match &self.kind {
            Kind::Scalar(value) => nul(value.as_str().unwrap_or_default(), self.line, self.column, found),
            Kind::Seq(items) => {
                for (index, item) in items.iter().enumerate() {
                    item.flaws(&join(path, &index.to_string()), found);
                }
            }
            Kind::Map(entries) => {
                for (index, (key, node)) in entries.iter().enumerate() {
                    nul(&key.text, key.line, key.column, found);
                    let path = join(path, &key.text);
                    if entries[..index].iter().any(|(earlier, _)| earlier.text == key.text) {
                        let kind = FlawKind::Twice(key.text.clone());
                        found.push(Flaw { kind, line: key.line, column: key.column, path: path.clone() });
                    }
                    node.flaws(&path, found);
                }
            }
        }
    }
}

struct Flaw {
    kind: FlawKind,
    line: u32,
    column: u32,
    path: String,
}

enum FlawKind {
    /// This key is there twice in one map.
    Twice(String),
    Nul,
}

/// `spec` + `env` → `spec.env`.
pub fn join(path: &str, step: &str) -> String {
    if path.is_empty() { step.to_owned() } else { format!("{path}.{step}") }
}

struct Inner(Kind);

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Inner>::deserialize(deserializer)?;
        let place = spanned.referenced;
        Ok(Self { line: place.line() as u32, column: place.column() as u32, kind: spanned.value.0 })
    }
}

impl<'de> Deserialize<'de> for Inner {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KindVisitor).map(Inner)
    }
}

struct KindVisitor;

macro_rules! scalar {
    ($method:ident, $type:ty) => {
        fn $method<E>(self, value: $type) -> Result<Kind, E> {
            Ok(Kind::Scalar(value.into()))
        }
    };
}

impl<'de> Visitor<'de> for KindVisitor {
    type Value = Kind;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a YAML value")
    }

    scalar!(visit_bool, bool);
    scalar!(visit_i64, i64);
    scalar!(visit_u64, u64);
    scalar!(visit_f64, f64);
    scalar!(visit_str, &str);
    scalar!(visit_string, String);

    fn visit_unit<E>(self) -> Result<Kind, E> {
        Ok(Kind::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Kind, E> {
        Ok(Kind::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Kind, D::Error> {
        Inner::deserialize(deserializer).map(|inner| inner.0)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Kind, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element::<Node>()? {
            items.push(item);
        }
        Ok(Kind::Seq(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Kind, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = access.next_key::<Spanned<String>>()? {
            let place = key.referenced;
            let key = Key { text: key.value, line: place.line() as u32, column: place.column() as u32 };
            entries.push((key, access.next_value::<Node>()?));
        }
        Ok(Kind::Map(entries))
    }
}

thread_local! {
    /// The files whose places were asked for last, while a [`Places`] lives.
    static LAST: RefCell<Option<Vec<Parsed>>> = const { RefCell::new(None) };
}

/// So many: a manifest and overlays over it are asked in turn.
const PARSED: usize = 4;

/// A file with its documents.
type Parsed = (Arc<[u8]>, Rc<Vec<Node>>);

/// While it lives, the file whose places are asked for is parsed once, not once a question: a file may hold a thousand documents.
/// It ends with the work on a set, for trees take a multiple of their files' memory.
pub struct Places(());

impl Places {
    pub fn keep() -> Self {
        LAST.set(Some(Vec::new()));
        Self(())
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        LAST.set(None);
    }
}

/// The documents of a file that was parsed before, for the place of a finding.
pub fn documents(file: &Path, bytes: &Arc<[u8]>) -> Rc<Vec<Node>> {
    let known = LAST.with_borrow(|last| {
        let found = last.iter().flatten().find(|(of, _)| Arc::ptr_eq(of, bytes));
        found.map(|(_, documents)| documents.clone())
    });
    known.unwrap_or_else(|| {
        let documents = Rc::new(parse(file, bytes, &mut Vec::new()));
        LAST.with_borrow_mut(|last| {
            if let Some(last) = last {
                last.truncate(PARSED - 1);
                last.insert(0, (bytes.clone(), documents.clone()));
            }
        });
        documents
    })
}

/// The documents of one file. Budgets stop "billion laughs" and deep nesting before they cost anything.
pub fn parse(file: &Path, bytes: &[u8], diagnostics: &mut Vec<Diagnostic>) -> Vec<Node> {
    let whole = Span { file: file.to_owned(), line: 0, column: 0, ..Span::default() };
    if bytes.len() as u64 > limits::MANIFEST_FILE_BYTES {
        let limit = crate::base::ByteSize(limits::MANIFEST_FILE_BYTES);
        let message = format!("the file has {} bytes; a manifest has at most {limit}", bytes.len());
        diagnostics.push(
            Diagnostic::error("E1003", &whole, "", message)
                .hint("is it a manifest? split it, or move it elsewhere"),
        );
        return Vec::new();
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => text,
        _ => {
            diagnostics.push(not_text(&whole, bytes));
            return Vec::new();
        }
    };
    match serde_saphyr::from_multiple_with_options::<Node>(text, options()) {
        Ok(documents) => {
            let documents: Vec<Node> = documents.into_iter().filter(|node| !node.is_null()).collect();
            for document in &documents {
                report_flaws(file, document, diagnostics);
            }
            documents.into_iter().flat_map(|node| printed::objects(file, node, diagnostics)).collect()
        }
        Err(error) => {
            diagnostics.push(syntax_error(file, text, &error));
            Vec::new()
        }
    }
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: limits::YAML_DEPTH,
            max_nodes: limits::YAML_NODES,
            max_events: limits::YAML_NODES * 3,
            max_documents: limits::OBJECTS,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: limits::YAML_NODES / 10,
        },
        duplicate_keys: DuplicateKeyPolicy::LastWins,
        strict_booleans: true,
        with_snippet: false,
    }
}

fn report_flaws(file: &Path, document: &Node, diagnostics: &mut Vec<Diagnostic>) {
    let mut found = Vec::new();
    document.flaws("", &mut found);
    for Flaw { kind, line, column, path } in found {
        let span = Span { file: file.to_owned(), line, column, ..Span::default() };
        diagnostics.push(match kind {
            FlawKind::Twice(key) => {
                let message = format!("the key `{key}` is there twice");
                Diagnostic::error("E1004", &span, path, message).hint("remove one of the two")
            }
            FlawKind::Nul => {
                let message = "it contains the character NUL, at which a program would cut it off";
                Diagnostic::error("E1008", &span, path, message).hint("remove `\\0`")
            }
        });
    }
}

fn not_text(whole: &Span, bytes: &[u8]) -> Diagnostic {
    let utf_16 = match bytes {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => true,
        [a, b, c, d, ..] => [*a == 0, *b == 0] == [*c == 0, *d == 0] && (*a == 0) != (*b == 0),
        _ => false,
    };
    match utf_16 {
        true => Diagnostic::error("E1002", whole, "", "the file is UTF-16, and a manifest is UTF-8")
            .hint("save it as UTF-8 (`iconv -f UTF-16 -t UTF-8`)"),
        false => Diagnostic::error("E1002", whole, "", "the file is not text (UTF-8)")
            .hint("a manifest is UTF-8 text; a name that starts with `.` or `_` is ignored"),
    }
}

/// The first line that a merge left for somebody to decide (gitattributes(5), `conflict-marker-size`).
fn conflict(text: &str) -> Option<u32> {
    let marks = |line: &str| {
        line == "=======" || ["<<<<<<< ", "||||||| ", ">>>>>>> "].iter().any(|mark| line.starts_with(mark))
    };
    text.lines().position(marks).map(|index| index as u32 + 1)
}

/// In place of what would show a value.
const IN_SECRET: &str = "what is wrong is not shown, for it may be a Secret's value";

fn syntax_error(file: &Path, text: &str, error: &serde_saphyr::Error) -> Diagnostic {
    if let Some(line) = conflict(text) {
        let span = Span { file: file.to_owned(), line, column: 1, ..Span::default() };
        let message = "a merge has left here what somebody has to decide (conflict markers)";
        return Diagnostic::error("E1001", &span, "", message).hint(
            "keep one of the versions, or both as one, and remove the lines `<<<<<<<`, `=======` and `>>>>>>>`",
        );
    }
    let (line, column) = error.location().map_or((0, 0), |at| (at.line() as u32, at.column() as u32));
    let span = Span { file: file.to_owned(), line, column, ..Span::default() };
    let words = error.without_snippet().to_string();
    let words = words.lines().next().unwrap_or_default().trim().to_owned();
    let written = text.lines().nth(line.saturating_sub(1) as usize).unwrap_or_default();
    let before = text.lines().nth(line.saturating_sub(2) as usize).unwrap_or_default();
    if [written, before].iter().any(|line| line.trim_start_matches(' ').starts_with('\t')) {
        let message = "the line is indented with a tab; YAML allows only blanks";
        return Diagnostic::error("E1001", &span, "", message).hint("replace the tab by two blanks");
    }
    let lower = words.to_lowercase();
    if lower.contains("depth") {
        let message = format!("it is nested more than {} deep here", limits::YAML_DEPTH);
        let hint = "no field of a manifest is that deep: look for brackets that are not closed, or a program that writes it wrongly";
        return Diagnostic::error("E1005", &span, "", message).hint(hint);
    }
    if ["budget", "alias", "limit", "too many"].iter().any(|word| lower.contains(word)) {
        let message = format!("the document is larger or deeper than a manifest can be: {words}");
        let mut diagnostic = Diagnostic::error("E1005", &span, "", message)
            .hint("remove the aliases (`*name`) that multiply it");
        hide(&mut diagnostic, &words, text, IN_SECRET);
        return diagnostic;
    }
    let mut diagnostic = Diagnostic::error("E1001", &span, "", format!("this is not YAML: {words}"))
        .hint("check the indentation, the colons and the quotes at this place");
    hide(&mut diagnostic, &words, text, IN_SECRET);
    diagnostic
}

/// A text's first document as a plain value: what the test of the two YAML readers compares.
pub fn parse_to_values(text: &str) -> Result<Vec<Value>, String> {
    let mut diagnostics = Vec::new();
    let documents = parse(Path::new("text"), text.as_bytes(), &mut diagnostics);
    match diagnostics.first() {
        Some(first) => Err(first.message.clone()),
        None => Ok(documents.iter().map(Node::to_value).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_manifest_is_told_as_what_it_is() {
        let whole = "kind: Service\nspec: {}\n";
        let wide = |bytes: fn(u16) -> [u8; 2]| whole.encode_utf16().flat_map(bytes).collect::<Vec<u8>>();
        let conflict = |before: &str, label: &str| {
            format!("{before}<<<<<<< {label}\n{whole}=======\r\n{whole}>>>>>>> topic\n").into_bytes()
        };
        for (bytes, expected, line) in [
            (wide(u16::to_le_bytes), "is UTF-16", 0),
            (wide(u16::to_be_bytes), "is UTF-16", 0),
            (b"\xff\xfek\0".to_vec(), "is UTF-16", 0),
            (b"kind: caf\xe9".to_vec(), "is not text", 0),
            (b"\0\0\0\0".to_vec(), "is not text", 0),
            (conflict("", "HEAD"), "conflict markers", 1),
            (conflict("a: 1\n", "Updated upstream"), "conflict markers", 2),
            (b"a: 1\n=======\nb: 1\n".to_vec(), "conflict markers", 2),
            (b"a: 1\n=====\n".to_vec(), "this is not YAML", 2),
        ] {
            let mut found = Vec::new();
            parse(Path::new("a.yaml"), &bytes, &mut found);
            let [found] = &found[..] else { panic!("{expected}: {found:?}") };
            assert!(found.message.contains(expected), "{expected}: {}", found.message);
            assert_eq!(found.line, line, "{expected}");
        }
        for bytes in [format!("\u{feff}{whole}"), whole.replace('\n', "\r\n"), "a: |\n  <<<<<<< x\n".into()] {
            let mut found = Vec::new();
            assert_eq!((parse(Path::new("a.yaml"), bytes.as_bytes(), &mut found).len(), found.len()), (1, 0));
        }
    }
}

//! Which lines of a file may hold the values of a Secret: they are never shown, and nothing of them is in a message.
//!
//! Told from the text alone, for what is wrong with a file may be that it cannot be read: a document (YAML 1.2.2, 9.1) is shown
//! once it says that it is of another kind.

use std::ops::RangeInclusive;

use crate::base::ObjectKind;

use super::diagnostic::{Diagnostic, nearest};
use super::split::begins_or_ends_document;

/// Lines, from 1.
pub struct Hidden(Vec<RangeInclusive<u32>>);

impl Hidden {
    pub fn of(text: &str) -> Self {
        let mut hidden = Vec::new();
        let (mut first, mut document) = (1, String::new());
        let mut end = |first: u32, last: u32, document: &str| {
            if may_be_secret(document) {
                hidden.push(first..=last);
            }
        };
        let mut number = 0;
        for line in text.split('\n') {
            number += 1;
            if begins_or_ends_document(line) {
                end(first, number - 1, &document);
                first = number;
                document.clear();
            }
            document.push_str(line);
            document.push('\n');
        }
        end(first, number, &document);
        Self(hidden)
    }

    pub fn holds(&self, line: u32) -> bool {
        self.0.iter().any(|lines| lines.contains(&line))
    }
}

/// Unless each `kind` in it is another one. What is left out or misspelt may be meant to be a Secret.
fn may_be_secret(document: &str) -> bool {
    let written = |line: &str| !line.trim_start().is_empty() && !line.trim_start().starts_with('#');
    if !document.lines().any(written) {
        return false;
    }
    let blank = |c: char| c.is_whitespace() || c == '"' || c == '\'';
    let values =
        document.split("kind").skip(1).filter_map(|rest| rest.trim_start_matches(blank).strip_prefix(':'));
    let words = values.map(|value| {
        let value = value.trim_start_matches(blank);
        &value[..value.find(|c: char| !c.is_alphanumeric()).unwrap_or(value.len())]
    });
    let mut kinds = words.map(|word| {
        let known = ObjectKind::ALL.into_iter().find(|kind| kind.as_str() == word);
        let is_near = || word.is_empty() || nearest(word, [ObjectKind::Secret.as_str()]).is_some();
        known.map_or_else(is_near, |known| known == ObjectKind::Secret)
    });
    kinds.next().is_none_or(|first| first || kinds.any(|may_be| may_be))
}

/// Takes out what a parser says of a file, where it says it in words that are in hidden lines.
pub fn hide(diagnostic: &mut Diagnostic, words: &str, text: &str, instead: &str) {
    let hidden = Hidden::of(text);
    // No place: it may be anywhere.
    let at = |line: u32| hidden.holds(line) || (diagnostic.line == 0 && !hidden.0.is_empty());
    if !at(diagnostic.line) {
        return;
    }
    let tokens = |text: &str| -> Vec<String> {
        let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| word.len() > 2);
        words.map(str::to_owned).collect()
    };
    let shown = tokens(text);
    if tokens(words).iter().any(|word| shown.contains(word)) {
        diagnostic.message = diagnostic.message.replace(words, instead);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_shown_once_it_says_that_it_is_of_another_kind() {
        for (text, hidden) in [
            ("kind: Service\nspec: {}\n", ""),
            ("kind: Secret\nspec: {data: {a: b}}\n", "123"),
            ("kind: Service\nspec: {}\n---\nkind: Secret\nspec: {}\n---\nkind: Job\n", "345"),
            ("{\"kind\": \"Secret\", \"spec\": 1}", "1"),
            ("{\"kind\": \"Service\"}", ""),
            ("kind: Scret\n", "12"),
            ("kind: secret\n", "12"),
            ("kind: Thing\n", ""),
            ("kind: &a Secret\n", "12"),
            ("metadata: {name: a}\nspec: {data: {a: b}}\n", "123"),
            ("# nothing\n---\nkind: Service\n", ""),
            ("kind: Service\nspec: {env: {A: 'kind: Secret'}}\n", "123"),
        ] {
            let found = Hidden::of(text);
            let lines: String =
                (1..9).filter(|line| found.holds(*line)).map(|line| line.to_string()).collect();
            assert_eq!(lines, hidden, "{text}");
        }
    }
}

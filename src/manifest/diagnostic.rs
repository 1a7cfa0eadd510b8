//! What is wrong with a manifest, where, and how to mend it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::base::{ObjectKind, limits};

use super::split::written_in;

/// A place in a file. Lines and columns count from 1; 0 means "the file as a whole".
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    pub file: PathBuf,
    pub line: u32,
    pub column: u32,
    /// In `defaults` of the System, from where a Service has it.
    pub of_defaults: bool,
}

#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Error,
    Warning,
}

/// One finding, in the shape of `validate -o json` (cli.md). Secret values never appear in one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Diagnostic {
    pub severity: Severity,
    /// `E1203`; `unisys explain E1203` tells more.
    pub code: String,
    pub file: String,
    pub line: u32,
    pub column: u32,
    /// `spec.restart.policy`.
    pub path: String,
    pub message: String,
    /// How to mend it; may be empty.
    pub hint: String,
}

impl Diagnostic {
    pub fn error(code: &str, span: &Span, path: impl Into<String>, message: impl Into<String>) -> Self {
        let path = path.into();
        let default = path.strip_prefix("spec").filter(|_| span.of_defaults);
        let path = default.map(|rest| format!("{DEFAULTS}{rest}")).unwrap_or(path);
        Self {
            severity: Severity::Error,
            code: code.into(),
            file: written_in(&span.file).display().to_string(),
            line: span.line,
            column: span.column,
            path,
            message: message.into(),
            hint: String::new(),
        }
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    #[must_use]
    pub fn warning(mut self) -> Self {
        self.severity = Severity::Warning;
        self
    }

    /// Rejects the revision (text, references, graph), as opposed to a finding about this machine.
    pub fn rejects(&self) -> bool {
        self.severity == Severity::Error && self.code.starts_with("E1")
    }

    /// `file:line:column`.
    pub fn place(&self) -> String {
        match self.line {
            0 => self.file.clone(),
            line => format!("{}:{line}:{}", self.file, self.column),
        }
    }
}

/// Objects belong to other sets (E1304): a conflict, whatever else is wrong.
pub fn is_conflict(diagnostics: &[Diagnostic]) -> bool {
    diagnostics.iter().any(|diagnostic| diagnostic.code == CONFLICT)
}

/// What of a System is the default of every Service's `spec`.
pub const DEFAULTS: &str = "spec.defaults";

/// File, line, column, path and code.
type Told = (String, u32, u32, String, String);

/// What is wrong with a default is found of each Service that has it from there, and told once.
pub fn tell_defaults_once(diagnostics: &mut Vec<Diagnostic>) {
    let mut told: BTreeMap<Told, (usize, usize)> = BTreeMap::new();
    let mut kept: Vec<Diagnostic> = Vec::with_capacity(diagnostics.len().min(64));
    for found in diagnostics.drain(..) {
        if found.path.starts_with(DEFAULTS) {
            let key = (found.file.clone(), found.line, found.column, found.path.clone(), found.code.clone());
            if let Some((_, more)) = told.get_mut(&key) {
                *more += 1;
                continue;
            }
            told.insert(key, (kept.len(), 0));
        }
        kept.push(found);
    }
    // Of this machine: each of them is a unit that cannot be started.
    for (at, more) in told.into_values() {
        let found = &mut kept[at];
        if more > 0 && found.code.starts_with("E2") {
            found.message.push_str(&format!("; the same of {more} more that have it by default"));
        }
    }
    *diagnostics = kept;
}

/// Keeps no more than are told; a conflict is among those that stay.
pub fn keep_told(diagnostics: &mut Vec<Diagnostic>) {
    if let Some(at) = diagnostics.iter().position(|found| found.code == CONFLICT)
        && at >= limits::DIAGNOSTICS
    {
        diagnostics.swap(at, limits::DIAGNOSTICS - 1);
    }
    diagnostics.truncate(limits::DIAGNOSTICS);
}

/// An object belongs to another set.
const CONFLICT: &str = "E1304";

/// The nearest of `allowed` to what was written, if it is near enough to be what was meant.
pub fn nearest<'a>(written: &str, allowed: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Of a word of two letters one has to stand.
    let length = written.chars().count();
    let limit = ((length / 3).max(1) + 1).min(length.saturating_sub(1));
    allowed
        .into_iter()
        .map(|word| (strsim::damerau_levenshtein(&written.to_lowercase(), &word.to_lowercase()), word))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, word)| word)
}

/// What may have been meant by a word that is no kind, and which kinds there are.
pub fn kinds_like(word: &str) -> String {
    let kinds = ObjectKind::ALL.map(ObjectKind::singular);
    let meant = nearest(word, kinds).map(|kind| format!("did you mean {kind}? ")).unwrap_or_default();
    format!("{meant}kinds: {}", kinds.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conflict_is_one_whatever_else_is_wrong_and_is_told() {
        let found = |code: &str| Diagnostic::error(code, &Span::default(), "", "");
        let mut diagnostics = vec![found("E1203"); limits::DIAGNOSTICS + 1];
        assert!(!is_conflict(&diagnostics));
        diagnostics.push(found("E1304"));
        keep_told(&mut diagnostics);
        assert!(is_conflict(&diagnostics) && diagnostics.len() == limits::DIAGNOSTICS);
    }
}

//! Diagnostics as text with the source line, JSON, SARIF 2.1.0, and GitHub's workflow commands.

use serde_json::{Value, json};

use super::diagnostic::{Diagnostic, Severity};
use super::hidden::Hidden;

/// Text for people; `source` gives the content of a file, for the excerpt.
pub fn text(diagnostics: &[Diagnostic], colour: bool, source: &dyn Fn(&str) -> Option<String>) -> String {
    let paint = |code: &str, words: &str| {
        if colour { format!("\x1b[{code}m{words}\x1b[0m") } else { words.to_owned() }
    };
    let mut out = String::new();
    let mut file = Source::default();
    for diagnostic in diagnostics {
        file.is(&diagnostic.file, source);
        let (word, code) = match diagnostic.severity {
            Severity::Error => ("error", "1;31"),
            Severity::Warning => ("warning", "1;33"),
        };
        let head = format!("{word}[{}]", diagnostic.code);
        out.push_str(&format!("{}: {}\n", paint(code, &head), diagnostic.message));
        if !diagnostic.file.is_empty() {
            out.push_str(&format!("  {} {}\n", paint("1;34", "-->"), diagnostic.place()));
        }
        if let Some((line, column)) = file.excerpt(diagnostic.line, diagnostic.column) {
            let number = diagnostic.line.to_string();
            let pad = " ".repeat(number.len());
            let caret = " ".repeat(column);
            out.push_str(&format!(" {} {}\n", paint("1;34", &format!("{number} |")), line));
            out.push_str(&format!(" {pad} {} {caret}{}\n", paint("1;34", "|"), paint(code, "^")));
        }
        if !diagnostic.path.is_empty() {
            out.push_str(&format!("  {} {}\n", paint("1;34", "="), diagnostic.path));
        }
        if !diagnostic.hint.is_empty() {
            out.push_str(&format!("  {} {}\n", paint("1;36", "hint:"), diagnostic.hint));
        }
        out.push('\n');
    }
    out
}

/// The file that findings are in, one after the other.
#[derive(Default)]
struct Source {
    file: Option<String>,
    text: Option<(String, Hidden)>,
}

impl Source {
    fn is(&mut self, file: &str, source: &dyn Fn(&str) -> Option<String>) {
        if self.file.as_deref() != Some(file) {
            self.file = Some(file.to_owned());
            self.text = source(file).map(|text| {
                let hidden = Hidden::of(&text);
                (text, hidden)
            });
        }
    }

    /// A line, unless it may hold the value of a Secret, and how many characters of it stand before a column.
    fn excerpt(&self, number: u32, column: u32) -> Option<(String, usize)> {
        let index = usize::try_from(number.checked_sub(1)?).ok()?;
        let (text, hidden) = self.text.as_ref()?;
        let line = text.lines().nth(index).filter(|_| !hidden.holds(number))?;
        Some(part_of(line, column.saturating_sub(1) as usize))
    }
}

/// As much of a line as is shown, with the place in it, and how far that is from its beginning.
fn part_of(line: &str, at: usize) -> (String, usize) {
    const SHOWN: usize = 160;
    // Of what stands before the place, when the beginning of the line is not shown.
    const BEFORE: usize = 60;
    const LEFT_OUT: &str = "… ";
    let first = if at < SHOWN { 0 } else { at - BEFORE };
    let mut rest = line.chars().skip(first).map(|c| if c.is_control() { ' ' } else { c });
    let shown: String = rest.by_ref().take(SHOWN).collect();
    let (before, width) = if first > 0 { (LEFT_OUT, LEFT_OUT.chars().count()) } else { ("", 0) };
    let after = if rest.next().is_some() { " …" } else { "" };
    (format!("{before}{shown}{after}"), at - first + width)
}

/// The shape of cli.md.
pub fn json(diagnostics: &[Diagnostic]) -> Value {
    json!({"valid": is_valid(diagnostics), "diagnostics": diagnostics})
}

/// No errors.
pub fn is_valid(diagnostics: &[Diagnostic]) -> bool {
    diagnostics.iter().all(|diagnostic| diagnostic.severity != Severity::Error)
}

/// SARIF 2.1.0 (OASIS), for code scanning.
pub fn sarif(diagnostics: &[Diagnostic]) -> Value {
    let mut codes: Vec<&str> = diagnostics.iter().map(|diagnostic| diagnostic.code.as_str()).collect();
    codes.sort_unstable();
    codes.dedup();
    let rules: Vec<Value> = codes
        .iter()
        .map(|code| {
            let page = super::explain::CODES.iter().find(|(known, _)| known == code).map_or("", |(_, page)| *page);
            json!({"id": code, "shortDescription": {"text": page.lines().next().unwrap_or_default().trim_start_matches("# ")}, "fullDescription": {"text": page}})
        })
        .collect();
    let results: Vec<Value> = diagnostics
        .iter()
        .map(|diagnostic| {
            let level = match diagnostic.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
            };
            let words = if diagnostic.hint.is_empty() {
                diagnostic.message.clone()
            } else {
                format!("{} (hint: {})", diagnostic.message, diagnostic.hint)
            };
            json!({
                "ruleId": diagnostic.code, "level": level, "message": {"text": words},
                "locations": [{"physicalLocation": {
                    "artifactLocation": {"uri": diagnostic.file},
                    "region": {"startLine": diagnostic.line.max(1), "startColumn": diagnostic.column.max(1)}
                }}]
            })
        })
        .collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json", "version": "2.1.0",
        "runs": [{"tool": {"driver": {"name": "unisys", "version": env!("CARGO_PKG_VERSION"), "rules": rules}}, "results": results}]
    })
}

/// GitHub's `::error file=…` workflow commands.
pub fn github(diagnostics: &[Diagnostic]) -> String {
    let escape = |text: &str| text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
    let property = |text: &str| escape(text).replace(':', "%3A").replace(',', "%2C");
    let line = |diagnostic: &Diagnostic| {
        let word = if diagnostic.severity == Severity::Error { "error" } else { "warning" };
        let hint =
            if diagnostic.hint.is_empty() { String::new() } else { format!("\nhint: {}", diagnostic.hint) };
        format!(
            "::{word} file={},line={},col={},title={}::{}\n",
            property(&diagnostic.file),
            diagnostic.line.max(1),
            diagnostic.column.max(1),
            property(&diagnostic.code),
            escape(&format!("{}{hint}", diagnostic.message))
        )
    };
    diagnostics.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_in_a_long_line_is_shown() {
        for (line, at, expected, caret) in [
            ("a: b".to_owned(), 3, "a: b".to_owned(), 3),
            ("x".repeat(200), 3, format!("{} …", "x".repeat(160)), 3),
            (format!("{}!", "x".repeat(300)), 300, format!("… {}!", "x".repeat(60)), 62),
            (
                format!("{}!{}", "é".repeat(300), "y".repeat(300)),
                300,
                format!("… {}!{} …", "é".repeat(60), "y".repeat(99)),
                62,
            ),
        ] {
            let (shown, column) = part_of(&line, at);
            assert_eq!((shown.as_str(), column), (expected.as_str(), caret), "{at}");
            assert!(at < 4 || shown.chars().nth(column) == Some('!'));
        }
    }
}

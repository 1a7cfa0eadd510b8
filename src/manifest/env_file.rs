//! The `.env` dialect of docker compose (rules.md): `export`, comments, quotes, `${VAR}`, `${VAR:-default}` (unset or empty) and
//! `${VAR-default}` (unset); a default may hold others.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::limits;

/// One assignment, with its line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    pub name: String,
    pub value: String,
    pub line: u32,
    /// It hangs on a variable that the file does not define.
    pub outside: bool,
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub line: u32,
    pub message: String,
    /// A repeated key is only a warning, the later one wins; so is a variable that is not defined, which is empty.
    pub warning: bool,
}

/// Reads a file. `outer` gives values to `${VAR}` that the file itself does not define above.
pub fn parse(bytes: &[u8], outer: &dyn Fn(&str) -> Option<String>) -> (Vec<Assignment>, Vec<Problem>) {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let before = &bytes[..error.valid_up_to()];
            let line = 1 + before.iter().filter(|byte| **byte == b'\n').count() as u32;
            let message = "the line is not UTF-8".into();
            return (Vec::new(), vec![Problem { line, message, warning: false }]);
        }
    };
    let mut reader = Reader {
        text: text.strip_prefix('\u{feff}').unwrap_or(text),
        line: 1,
        known: BTreeMap::new(),
        outer,
        undefined: false,
        outside: false,
        hanging: BTreeSet::new(),
    };
    let mut assignments: Vec<Assignment> = Vec::new();
    let mut problems = Vec::new();
    while !reader.text.is_empty() {
        let line = reader.line;
        reader.outside = false;
        match reader.assignment() {
            Ok(None) => {}
            Ok(Some((name, value))) if value.contains('\0') => {
                let message =
                    format!("the value of `{name}` has a NUL character, which no environment can hold");
                problems.push(Problem { line, message, warning: false });
            }
            Ok(Some((name, value))) => {
                if std::mem::take(&mut reader.undefined) {
                    // What follows the dollar may be a part of a password.
                    let message = format!(
                        "in the value of `{name}` a `$` stands before a name that is not defined, and nothing takes its place; \
                         a value in single quotes keeps its dollars"
                    );
                    problems.push(Problem { line, message, warning: true });
                }
                if reader.known.insert(name.clone(), value.clone()).is_some() {
                    let message = format!("`{name}` is there twice; the later one wins");
                    problems.push(Problem { line, message, warning: true });
                    assignments.retain(|earlier| earlier.name != name);
                }
                match reader.outside {
                    true => drop(reader.hanging.insert(name.clone())),
                    false => drop(reader.hanging.remove(&name)),
                }
                assignments.push(Assignment { name, value, line, outside: reader.outside });
            }
            Err(message) => {
                reader.undefined = false;
                problems.push(Problem { line, message, warning: false });
                reader.skip_line();
            }
        }
    }
    (assignments, problems)
}

struct Reader<'a> {
    text: &'a str,
    line: u32,
    known: BTreeMap<String, String>,
    outer: &'a dyn Fn(&str) -> Option<String>,
    /// A variable of this line has neither a value nor a default.
    undefined: bool,
    /// This line hangs on a variable that the file does not define; so do `hanging`.
    outside: bool,
    hanging: BTreeSet<String>,
}

impl Reader<'_> {
    fn bump(&mut self) -> Option<char> {
        let next = self.text.chars().next()?;
        self.text = &self.text[next.len_utf8()..];
        if next == '\n' {
            self.line += 1;
        }
        Some(next)
    }

    fn skip_blanks(&mut self) {
        while self.text.starts_with([' ', '\t', '\r']) {
            self.bump();
        }
    }

    fn skip_line(&mut self) {
        while self.bump().is_some_and(|next| next != '\n') {}
    }

    /// One line: `NAME=value`, a comment, or nothing.
    fn assignment(&mut self) -> Result<Option<(String, String)>, String> {
        self.skip_blanks();
        if self.text.starts_with(['#', '\n']) || self.text.is_empty() {
            self.skip_line();
            return Ok(None);
        }
        if let Some(rest) = self.text.strip_prefix("export").filter(|rest| rest.starts_with([' ', '\t'])) {
            self.text = rest;
            self.skip_blanks();
        }
        let end = self.text.find(['=', '\n']).unwrap_or(self.text.len());
        let name = self.text[..end].trim_end();
        if !self.text[end..].starts_with('=') {
            return Err(format!("{} has no `=`", shown(name)));
        }
        let good = !name.is_empty()
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
        if !good {
            return Err(format!("{} is not a name of a variable", shown(name)));
        }
        let name = name.to_owned();
        self.text = &self.text[end + 1..];
        let blank = self.text.starts_with([' ', '\t']);
        while self.text.starts_with([' ', '\t']) {
            self.bump();
        }
        let value = match self.text.chars().next() {
            Some('\'') => self.single_quoted()?,
            Some('"') => self.double_quoted()?,
            _ => self.bare(blank)?,
        };
        Ok(Some((name, value)))
    }

    fn single_quoted(&mut self) -> Result<String, String> {
        self.bump();
        let mut value = String::new();
        loop {
            match self.bump() {
                Some('\'') => return self.after_quotes(value),
                Some(next) => value.push(next),
                None => return Err("the single quote is not closed".into()),
            }
        }
    }

    fn double_quoted(&mut self) -> Result<String, String> {
        self.bump();
        let mut value = String::new();
        loop {
            match self.text.chars().next() {
                Some('"') => {
                    self.bump();
                    return self.after_quotes(value);
                }
                None => return Err("the double quote is not closed".into()),
                Some(_) => self.piece(&mut value, 0, true)?,
            }
        }
    }

    /// After a closing quote only a comment may follow.
    fn after_quotes(&mut self, value: String) -> Result<String, String> {
        self.skip_blanks();
        if !self.text.is_empty() && !self.text.starts_with(['#', '\n']) {
            return Err("there is something after the closing quote".into());
        }
        self.skip_line();
        Ok(value)
    }

    /// `blank`: one stands before it, so that a comment may begin at once.
    fn bare(&mut self, blank: bool) -> Result<String, String> {
        let mut value = String::new();
        loop {
            match self.text.chars().next() {
                None | Some('\n') => break,
                Some('#') if (blank && value.is_empty()) || value.ends_with([' ', '\t']) => break,
                Some(_) => self.piece(&mut value, 0, false)?,
            }
        }
        self.skip_line();
        Ok(value.trim_end().to_owned())
    }

    /// What stands behind a dollar: `{VAR}`, `{VAR:-default}`, `{VAR-default}` or `VAR`; a dollar before anything else is itself.
    /// `depth`: within so many defaults. `quoted`: between double quotes, where a default may have escapes and go over lines.
    fn variable(&mut self, depth: usize, quoted: bool) -> Result<String, String> {
        let braced = self.text.strip_prefix('{');
        let text = braced.unwrap_or(self.text);
        let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
        let name = text[..end].to_owned();
        let good = !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit());
        if braced.is_none() && !good {
            return Ok("$".into());
        }
        self.text = &text[end..];
        self.outside |= self.hanging.contains(&name) || !self.known.contains_key(&name);
        let value = self.known.get(&name).cloned().or_else(|| (self.outer)(&name));
        if braced.is_none() {
            self.undefined |= value.is_none();
            return Ok(value.unwrap_or_default());
        }
        if depth == limits::ENV_DEFAULTS_DEEP {
            return Err(format!("there are more than {depth} `${{` within each other"));
        }
        let (value, has_default) = if let Some(rest) = self.text.strip_prefix(":-") {
            self.text = rest;
            (value.filter(|value| !value.is_empty()), true)
        } else if let Some(rest) = self.text.strip_prefix('-') {
            self.text = rest;
            (value, true)
        } else {
            (value, false)
        };
        // Read whether it is used or not: it has to end somewhere.
        let before = self.undefined;
        let default = if has_default { self.default(&name, depth + 1, quoted)? } else { String::new() };
        self.undefined = match &value {
            Some(_) => before,
            None => self.undefined || !has_default,
        };
        match self.text.chars().next() {
            Some('}') if good => self.bump(),
            None | Some('\n') => return Err(unclosed(&name)),
            _ => {
                return Err(format!(
                    "what begins with `${{{name}` is none of `${{NAME}}`, `${{NAME:-default}}` and `${{NAME-default}}`"
                ));
            }
        };
        Ok(value.unwrap_or(default))
    }

    /// Up to the brace that closes it.
    fn default(&mut self, name: &str, depth: usize, quoted: bool) -> Result<String, String> {
        let mut value = String::new();
        loop {
            match self.text.chars().next() {
                Some('}') => return Ok(value),
                None => return Err(unclosed(name)),
                Some('\n') if !quoted => return Err(unclosed(name)),
                Some('"') if quoted => return Err(unclosed(name)),
                _ => self.piece(&mut value, depth, quoted)?,
            }
        }
    }

    /// One character of a value, or the one that an escape means, or the value of a variable.
    fn piece(&mut self, value: &mut String, depth: usize, quoted: bool) -> Result<(), String> {
        match self.bump() {
            Some('$') => value.push_str(&self.variable(depth, quoted)?),
            Some('\\') if quoted => match self.bump() {
                Some('n') => value.push('\n'),
                Some('t') => value.push('\t'),
                Some('r') => value.push('\r'),
                Some(next @ ('"' | '\\' | '$')) => value.push(next),
                Some(next) => value.extend(['\\', next]),
                None => return Err("the double quote is not closed".into()),
            },
            Some('\r') if quoted && self.text.starts_with('\n') => {}
            Some(next) => value.push(next),
            None => {}
        }
        match value.len() > limits::ENV_VALUE_BYTES {
            true => Err(format!("the value is longer than {} KiB", limits::ENV_VALUE_BYTES >> 10)),
            false => Ok(()),
        }
    }
}

fn unclosed(name: &str) -> String {
    format!("`${{{name}` is not closed: a `}}` is missing")
}

/// What may be shown of a line that is no assignment: a name, but nothing that may be a part of a value.
fn shown(word: &str) -> String {
    let is_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    match !word.is_empty() && word.len() <= 40 && word.chars().all(is_name) {
        true => format!("`{word}`"),
        false => "what stands there".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: &[(&str, &str)]) {
        let (assignments, problems) =
            parse(text.as_bytes(), &|name| (name == "HOME").then(|| "/home/me".into()));
        assert!(problems.iter().all(|problem| problem.warning), "{text:?}: {problems:?}");
        let found: Vec<_> = assignments.iter().map(|a| (a.name.as_str(), a.value.as_str())).collect();
        assert_eq!(found, expect, "{text:?}");
    }

    #[test]
    fn the_dialect_is_composes() {
        check("A=1\nexport B = two words # comment\n", &[("A", "1"), ("B", "two words")]);
        check("\u{feff}A=1\r\nB='x # $A'\r\n", &[("A", "1"), ("B", "x # $A")]);
        check("A=\"a\\nb \\\"q\\\" \\$A ${HOME}\"", &[("A", "a\nb \"q\" $A /home/me")]);
        check("A=1\nB=${A}0\nC=${NO:-x}\nD=$A-$\n", &[("A", "1"), ("B", "10"), ("C", "x"), ("D", "1-$")]);
        check("A=\"two\nlines\"\nB=3", &[("A", "two\nlines"), ("B", "3")]);
        check("# only\n\nA=\n", &[("A", "")]);
        check("A=a#b\nA=later", &[("A", "later")]);
        check("A=#ff0000\nB= # none\nC=#", &[("A", "#ff0000"), ("B", ""), ("C", "#")]);
    }

    #[test]
    fn what_hangs_on_a_variable_from_elsewhere_is_known() {
        let text = "A=1\nB=${A}\nC=$HOME\nD=x${C}\nE=${NO:-1}\nC=2\nF=$C\nG='$HOME'\nH=$-\n";
        let (found, _) = parse(text.as_bytes(), &|name| (name == "HOME").then(|| "/home/me".into()));
        let outside: Vec<&str> = found.iter().filter(|a| a.outside).map(|a| a.name.as_str()).collect();
        assert_eq!(outside, ["D", "E"], "C was given another value");
    }

    #[test]
    fn bytes_that_are_no_text_are_told_with_their_line() {
        let (_, problems) = parse(b"A=1\nB=\xff\n", &|_| None);
        assert_eq!((problems[0].line, problems[0].message.as_str()), (2, "the line is not UTF-8"));
    }

    #[test]
    fn a_dollar_before_what_is_not_defined_is_told_without_what_follows_it() {
        for (text, told) in [
            ("PW=p$word", true),
            ("PW=\"p$word\"", true),
            ("PW=p${word}", true),
            ("PW=${NO:-$word}", true),
            ("PW='p$word'", false),
            ("PW=\"p\\$word\"", false),
            ("PW=a$HOME-$", false),
            ("PW=${NO:-x}", false),
            ("PW=${HOME:-$word}", false),
        ] {
            let (_, problems) = parse(text.as_bytes(), &|name| (name == "HOME").then(|| "h".into()));
            let words: Vec<&str> = problems.iter().map(|problem| problem.message.as_str()).collect();
            assert_eq!(problems.len(), usize::from(told), "{text}: {words:?}");
            assert!(words.iter().all(|words| !words.contains("word") && words.contains("`PW`")), "{words:?}");
        }
    }

    #[test]
    fn defaults_are_composes_too() {
        let value = |text: &str, expect: &str| {
            let (assignments, problems) =
                parse(format!("EMPTY=\nSET=s\nX={text}\nAFTER=1").as_bytes(), &|name| {
                    (name == "HOME").then(|| "/home/me".into())
                });
            assert!(problems.iter().all(|problem| problem.warning), "{text}: {problems:?}");
            let last = &assignments[assignments.len() - 2..];
            assert_eq!((last[0].value.as_str(), last[1].name.as_str()), (expect, "AFTER"), "{text}");
        };
        for (text, expect) in [
            ("${SET:-x}", "s"),
            ("${EMPTY:-x}", "x"),
            ("${EMPTY-x}", ""),
            ("${NO-x}", "x"),
            ("${NO:-}", ""),
            ("${NO}", ""),
            ("${NO:-${EMPTY:-x}}", "x"),
            ("${NO:-${SET:-x}}", "s"),
            ("${SET:-${NO:-x}}!", "s!"),
            ("a${NO:-b${NO-c${NO:-d}e}f}g", "abcdefg"),
            ("${NO:-$SET-$HOME}", "s-/home/me"),
            ("${NO:-a-b:-c}", "a-b:-c"),
            ("${NO:-{a}}", "{a}"),
            ("${NO:-two words} # comment", "two words"),
            ("${NO:-http://h:1/#x}", "http://h:1/#x"),
            ("\"${NO:-two words # and a line\nmore}\"", "two words # and a line\nmore"),
            ("\"${NO:-\\\"q\\\"\\$}\" # c", "\"q\"$"),
            ("'${NO:-x}'", "${NO:-x}"),
            ("\\${SET}", "\\s"),
            ("\"\\${SET}\"", "${SET}"),
            ("$ $1 $-", "$ $1 $-"),
        ] {
            value(text, expect);
        }
    }

    #[test]
    fn what_is_wrong_with_a_variable_is_told() {
        let deep = format!("{}x{}", "${A:-".repeat(40), "}".repeat(40));
        // Each doubles the one before it.
        let grows: String = (1..40).map(|n| format!("A{n}=${{A{}}}${{A{}}}\n", n - 1, n - 1)).collect();
        for (text, expect) in [
            ("A=${B", "`${B` is not closed"),
            ("A=${B:-x", "`${B` is not closed"),
            ("A=${B:-${C:-x}", "`${B` is not closed"),
            ("A=\"${B:-x\"\nC=1", "`${B` is not closed"),
            ("A=${", "`${` is not closed"),
            ("A=${}", "none of `${NAME}`"),
            ("A=${1}", "none of `${NAME}`"),
            ("A=${B C}", "none of `${NAME}`"),
            ("A=${B:?needed}", "none of `${NAME}`"),
            ("A=${B:+x}", "none of `${NAME}`"),
            (&format!("A={deep}"), "more than 32 `${` within"),
            (&format!("A0=xxxx\n{grows}"), "longer than 128 KiB"),
        ] {
            let (_, problems) = parse(text.as_bytes(), &|_| None);
            let first = problems.first().map(|problem| problem.message.as_str()).unwrap_or_default();
            assert!(first.contains(expect), "{text:?}: {first}");
        }
        let (_, problems) = parse(b"1x=MIIEvg\nhalf of a secret\nNAME", &|_| None);
        let said: Vec<&str> = problems.iter().map(|problem| problem.message.as_str()).collect();
        assert_eq!(
            said,
            [
                "what stands there is not a name of a variable",
                "what stands there has no `=`",
                "`NAME` has no `=`"
            ]
        );
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (text, line) in
            [("A=1\nB", 2), ("1A=2", 1), ("A='x", 1), ("A=1\n\nB=\"x\" y", 3), ("A=${B", 1), ("A=1\nB=\0", 2)]
        {
            let (_, problems) = parse(text.as_bytes(), &|_| None);
            assert_eq!(problems.first().map(|problem| problem.line), Some(line), "{text:?}");
        }
    }
}

//! The `.env` dialect of docker compose (rules.md): `export`, comments, quotes, `${VAR}` and `${VAR:-default}`.

use std::collections::BTreeMap;

/// One assignment, with its line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    pub name: String,
    pub value: String,
    pub line: u32,
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub line: u32,
    pub message: String,
    /// A repeated key is only a warning; the later one wins.
    pub warning: bool,
}

/// Reads a file. `outer` gives values to `${VAR}` that the file itself does not define above.
pub fn parse(text: &str, outer: &dyn Fn(&str) -> Option<String>) -> (Vec<Assignment>, Vec<Problem>) {
    let mut reader = Reader {
        text: text.strip_prefix('\u{feff}').unwrap_or(text),
        line: 1,
        known: BTreeMap::new(),
        outer,
    };
    let mut assignments: Vec<Assignment> = Vec::new();
    let mut problems = Vec::new();
    while !reader.text.is_empty() {
        let line = reader.line;
        match reader.assignment() {
            Ok(None) => {}
            Ok(Some((name, value))) => {
                if reader.known.insert(name.clone(), value.clone()).is_some() {
                    let message = format!("`{name}` is there twice; the later one wins");
                    problems.push(Problem { line, message, warning: true });
                    assignments.retain(|earlier| earlier.name != name);
                }
                assignments.push(Assignment { name, value, line });
            }
            Err(message) => {
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
            return Err(format!("`{}` has no `=`", name.chars().take(40).collect::<String>()));
        }
        let good = !name.is_empty()
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
        if !good {
            return Err(format!(
                "`{}` is not a name of a variable",
                name.chars().take(40).collect::<String>()
            ));
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
            match self.bump() {
                Some('"') => return self.after_quotes(value),
                Some('\\') => match self.bump() {
                    Some('n') => value.push('\n'),
                    Some('t') => value.push('\t'),
                    Some('r') => value.push('\r'),
                    Some(next @ ('"' | '\\' | '$')) => value.push(next),
                    Some(next) => value.extend(['\\', next]),
                    None => return Err("the double quote is not closed".into()),
                },
                Some('$') => value.push_str(&self.variable()?),
                Some('\r') if self.text.starts_with('\n') => {}
                Some(next) => value.push(next),
                None => return Err("the double quote is not closed".into()),
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
                Some('$') => {
                    self.bump();
                    value.push_str(&self.variable()?);
                }
                Some(next) => {
                    value.push(next);
                    self.bump();
                }
            }
        }
        self.skip_line();
        Ok(value.trim_end().to_owned())
    }

    /// `{VAR}`, `{VAR:-default}` or `VAR` behind a dollar; a dollar before anything else is itself.
    fn variable(&mut self) -> Result<String, String> {
        let (name, default) = if self.text.starts_with('{') {
            let end = self.text.find('}').ok_or("`${` is not closed")?;
            let inner = self.text[1..end].to_owned();
            self.text = &self.text[end + 1..];
            match inner.split_once(":-").or_else(|| inner.split_once('-')) {
                Some((name, default)) => (name.to_owned(), Some(default.to_owned())),
                None => (inner, None),
            }
        } else {
            let end =
                self.text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(self.text.len());
            if end == 0 || self.text.starts_with(|c: char| c.is_ascii_digit()) {
                return Ok("$".into());
            }
            let name = self.text[..end].to_owned();
            self.text = &self.text[end..];
            (name, None)
        };
        let value =
            self.known.get(&name).cloned().or_else(|| (self.outer)(&name)).filter(|value| !value.is_empty());
        Ok(value.or(default).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: &[(&str, &str)]) {
        let (assignments, problems) = parse(text, &|name| (name == "HOME").then(|| "/home/me".into()));
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
    fn what_is_wrong_is_told_with_its_line() {
        for (text, line) in [("A=1\nB", 2), ("1A=2", 1), ("A='x", 1), ("A=1\n\nB=\"x\" y", 3), ("A=${B", 1)] {
            let (_, problems) = parse(text, &|_| None);
            assert_eq!(problems.first().map(|problem| problem.line), Some(line), "{text:?}");
        }
    }
}

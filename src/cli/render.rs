//! Text for people: tables, YAML, colour only on a terminal. What services wrote is shown without terminal escapes.

use std::io::{IsTerminal, Write};

use serde_json::Value;

use crate::api::status::Row;
use crate::manifest::Diagnostic;
use crate::store::StoredFile;

use super::Failure;
use super::args::Format;
use super::pasted::pastable;
use crate::cli::aside;

pub fn colour_on_stderr() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// NAME, READY, STATUS, RESTARTS, AGE; wide: PID, SET, OVERRIDES and WAITING FOR as well.
pub fn table(rows: &[Row]) -> String {
    let mut head = vec!["NAME", "READY", "STATUS", "RESTARTS", "AGE"];
    if rows.iter().any(|row| !row.wide.is_empty()) {
        head.extend(["PID", "SET", "OVERRIDES", "WAITING FOR"]);
    }
    let mut lines = vec![head.into_iter().map(str::to_owned).collect::<Vec<_>>()];
    lines.extend(rows.iter().map(|row| {
        let mut line = vec![
            row.name.clone(),
            row.ready.clone(),
            row.status.clone(),
            row.restarts.clone(),
            row.age.clone(),
        ];
        line.extend(row.wide.iter().cloned());
        line
    }));
    columns(&lines)
}

/// Columns three blanks apart, no blanks at the end of a line.
pub fn columns(lines: &[Vec<String>]) -> String {
    let count = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..count).map(|column| width(column).unwrap_or(0)).collect();
    let mut out = String::new();
    for line in lines {
        let cells: Vec<String> =
            line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}", width = *width)).collect();
        out.push_str(cells.join("   ").trim_end());
        out.push('\n');
    }
    out
}

/// A value as JSON or YAML; none if another format was asked for.
pub fn structured_text(format: Option<Format>, value: &Value) -> Result<Option<String>, Failure> {
    Ok(match format {
        Some(Format::Json) => Some(format!("{value:#}\n")),
        Some(Format::Yaml) => {
            Some(serde_yaml::to_string(value).map_err(|error| Failure::other(error.to_string(), ""))?)
        }
        _ => None,
    })
}

/// Prints it; false if another format was asked for.
pub fn structured(format: Option<Format>, value: &Value) -> Result<bool, Failure> {
    let text = structured_text(format, value)?;
    text.iter().for_each(|text| print(text));
    Ok(text.is_some())
}

/// Prints, and is silent when nobody reads any more (`| head`).
pub fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => {}
        // Whoever read it has seen enough (`| head`).
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => {
            aside!("unisys: cannot write what was asked for to the standard output: {error}");
            std::process::exit(1);
        }
    }
}

/// The same of a line.
pub fn line(text: impl std::fmt::Display) {
    print(&format!("{text}\n"));
}

/// Nobody may read it, or nothing may take it: that changes nothing.
pub fn to_stderr(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Text of a service without what a terminal would obey: colours are left out, whatever else it has is shown as U+FFFD.
pub fn neutral(text: &str) -> String {
    painted(text, false)
}

/// A line of a service, with its colours where they are wanted: of what a terminal obeys they do no harm.
pub fn painted(text: &str, colours: bool) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut painted = false;
    // A line that ends in CR LF.
    let mut rest = text.strip_suffix('\r').unwrap_or(text);
    while let Some(c) = rest.chars().next() {
        if let Some(colour) = colour_at(rest) {
            if colours {
                shown.push_str(colour);
                painted = !matches!(colour, "\u{1b}[m" | "\u{1b}[0m");
            }
            rest = &rest[colour.len()..];
            continue;
        }
        shown.push(if c.is_control() && c != '\t' { '\u{fffd}' } else { c });
        rest = &rest[c.len_utf8()..];
    }
    if painted {
        shown.push_str("\u{1b}[0m");
    }
    shown
}

/// The sequence that chooses colours (SGR of ECMA-48, 8.3.117) at the beginning of some text.
fn colour_at(text: &str) -> Option<&str> {
    let parameters = text.strip_prefix("\u{1b}[")?;
    let end = parameters.find(|c: char| !matches!(c, '0'..='9' | ';' | ':'))?;
    parameters[end..].starts_with('m').then(|| &text[..2 + end + 1])
}

pub fn colour_on_stdout() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// Findings with excerpts, on standard error; `sent`: texts that may be nowhere on the disk.
pub fn diagnostics(diagnostics: &[Diagnostic], sent: &[StoredFile]) {
    let source = |file: &str| {
        let of_it = sent.iter().find(|sent| sent.path.as_os_str() == file);
        of_it.map(|sent| sent.text.clone()).or_else(|| std::fs::read_to_string(file).ok())
    };
    let mut told = diagnostics.to_vec();
    told.iter_mut().for_each(|diagnostic| diagnostic.hint = pastable(&diagnostic.hint));
    to_stderr(&crate::manifest::render::text(&told, colour_on_stderr(), &source));
}

/// A format that a verb does not have.
pub fn only(format: Option<Format>, allowed: &[Format]) -> Result<(), Failure> {
    match format {
        Some(format) if !allowed.contains(&format) => {
            let names: Vec<String> =
                allowed.iter().map(|format| format!("{format:?}").to_lowercase()).collect();
            Err(Failure::usage(
                format!("this verb does not print {}", format!("{format:?}").to_lowercase()),
                match names.as_slice() {
                    [one] => format!("it prints {one} alone: leave -o out"),
                    _ => format!("-o is one of {}", names.join(", ")),
                },
            ))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_a_terminal_obeys_only_colours_are_shown_and_only_where_they_are_wanted() {
        for (text, plain, coloured) in [
            ("plain\tand\u{e9}", "plain\tand\u{e9}", "plain\tand\u{e9}"),
            ("ended by CR LF\r", "ended by CR LF", "ended by CR LF"),
            ("\u{1b}[31mred\u{1b}[0m", "red", "\u{1b}[31mred\u{1b}[0m"),
            ("\u{1b}[1;38:5:9mleft on", "left on", "\u{1b}[1;38:5:9mleft on\u{1b}[0m"),
            ("50%\r100%", "50%\u{fffd}100%", "50%\u{fffd}100%"),
            ("\u{1b}[2Jgone", "\u{fffd}[2Jgone", "\u{fffd}[2Jgone"),
            ("\u{1b}]0;title\u{7}", "\u{fffd}]0;title\u{fffd}", "\u{fffd}]0;title\u{fffd}"),
            ("torn \u{1b}[3", "torn \u{fffd}[3", "torn \u{fffd}[3"),
        ] {
            assert_eq!((neutral(text).as_str(), painted(text, true).as_str()), (plain, coloured));
        }
    }
}

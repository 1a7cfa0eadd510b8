//! Text for people: tables, YAML, colour only on a terminal. What services wrote is shown without terminal escapes.

use std::io::{IsTerminal, Write};

use serde_json::Value;

use crate::api::status::Row;

use super::Failure;
use super::args::Format;

pub fn colour_on_stderr() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// NAME, READY, STATUS, RESTARTS, AGE; wide: PID, SET and WAITING FOR as well.
pub fn table(rows: &[Row]) -> String {
    let mut head = vec!["NAME", "READY", "STATUS", "RESTARTS", "AGE"];
    if rows.iter().any(|row| !row.wide.is_empty()) {
        head.extend(["PID", "SET", "WAITING FOR"]);
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

/// Prints a value as JSON or YAML; false if another format was asked for.
pub fn structured(format: Option<Format>, value: &Value) -> Result<bool, Failure> {
    match format {
        Some(Format::Json) => print(&format!("{value:#}\n")),
        Some(Format::Yaml) => {
            let text = serde_yaml::to_string(value).map_err(|error| Failure::other(error.to_string(), ""))?;
            print(&text);
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// Prints, and is silent when nobody reads any more (`| head`).
pub fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

/// Text of a service without what a terminal would obey.
pub fn neutral(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// A format that a verb does not have.
pub fn only(format: Option<Format>, allowed: &[Format]) -> Result<(), Failure> {
    match format {
        Some(format) if !allowed.contains(&format) => {
            let names: Vec<String> =
                allowed.iter().map(|format| format!("{format:?}").to_lowercase()).collect();
            Err(Failure::usage(
                format!("this verb does not print {}", format!("{format:?}").to_lowercase()),
                format!("-o is one of {}", names.join(", ")),
            ))
        }
        _ => Ok(()),
    }
}

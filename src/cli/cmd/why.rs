use crate::api::types::{Why, WhyLink};

use super::super::args::{Format, Global};
use super::super::client::{Client, encoded};
use super::super::{Failure, Outcome, kept, render};
use super::get::blocked;

/// Of the last words of a program; `-o json` has more.
const LINES: usize = 5;

/// `unisys why`: symptom first, root last.
pub fn run(global: &Global, name: &str) -> Result<Outcome, Failure> {
    render::only(global.output, &[Format::Text, Format::Json, Format::Yaml])?;
    let ask = |client: &Client| -> Result<(Why, Vec<String>), Failure> {
        client.catch_up()?;
        let why = client.get(&format!("/v1/why/{}", encoded(name)), &[])?;
        Ok((why, blocked(&client.get("/v1/system", &[])?)))
    };
    let (why, notes) = kept::ask(global, ask, |kept| Ok((kept.why(name)?, Vec::new())))?;
    if render::structured(global.output, &serde_json::to_value(&why).unwrap_or_default())? {
        return Ok(Outcome::Done);
    }
    let mut out = format!("{}\n", why.subject);
    out.push_str(&told(&why.chain));
    if !why.before.is_empty() {
        out.push_str("  before that\n");
        out.push_str(&told(&why.before));
    }
    if why.chain.is_empty() {
        out.push_str("  nothing has happened to it\n");
    }
    render::print(&out);
    super::say_notes(&notes, false);
    Ok(Outcome::Done)
}

/// Each deeper than what it explains.
fn told(chain: &[WhyLink]) -> String {
    let mut out = String::new();
    for (depth, link) in chain.iter().enumerate() {
        let time = link.at.to_string();
        let because = if depth == 0 { "" } else { "because " };
        let indent = "  ".repeat(depth.min(12) + 1);
        let what = render::neutral(&link.what);
        out.push_str(&format!(
            "{indent}{because}{}: {what}  [{}]\n",
            link.object,
            time.get(11..23).unwrap_or(&time)
        ));
        let lines = &link.lines[link.lines.len().saturating_sub(LINES)..];
        lines.iter().for_each(|line| out.push_str(&format!("{indent}  | {}\n", render::neutral(line))));
    }
    out
}

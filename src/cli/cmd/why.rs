use crate::api::types::Why;

use super::super::args::{Format, Global};
use super::super::client::{Client, encoded};
use super::super::{Failure, Outcome, render};
use super::get::blocked;

/// `unisys why`: symptom first, root last.
pub fn run(global: &Global, name: &str) -> Result<Outcome, Failure> {
    render::only(global.output, &[Format::Text, Format::Json, Format::Yaml])?;
    let client = Client::connect(global)?;
    client.catch_up()?;
    let why: Why = client.get(&format!("/v1/why/{}", encoded(name)), &[])?;
    if render::structured(global.output, &serde_json::to_value(&why).unwrap_or_default())? {
        return Ok(Outcome::Done);
    }
    let notes = blocked(&client.get("/v1/system", &[])?);
    let mut out = format!("{}\n", why.subject);
    for (depth, link) in why.chain.iter().enumerate() {
        let time = link.at.to_string();
        let because = if depth == 0 { "" } else { "because " };
        let indent = "  ".repeat(depth.min(12) + 1);
        let what = render::neutral(&link.what);
        out.push_str(&format!(
            "{indent}{because}{}: {what}  [{}]\n",
            link.object,
            time.get(11..23).unwrap_or(&time)
        ));
    }
    if why.chain.is_empty() {
        out.push_str("  nothing has happened to it\n");
    }
    render::print(&out);
    super::say_notes(&notes, false);
    Ok(Outcome::Done)
}

use crate::api::types::Diff;

use super::super::args::{Diff as Args, Format, Global};
use super::super::client::Client;
use super::super::{Failure, Outcome, render};
use super::{plan, submit};

/// `unisys diff`: 0 no difference, 1 differences.
pub fn run(global: &Global, args: &Args) -> Result<Outcome, Failure> {
    render::only(global.output, &[Format::Text, Format::Json, Format::Yaml])?;
    let client = Client::connect(global)?;
    let files = &args.files;
    let mut submission = submit::read_with(&files.file, files.set.as_deref(), &files.overlay)?;
    submission.force_conflicts = args.force_conflicts;
    let diff: Diff = submit::ask(&client, "/v1/diff", &submission)?;
    if !render::structured(global.output, &serde_json::to_value(&diff).unwrap_or_default())? {
        let mut text = String::new();
        for object in &diff.objects {
            let mark = match object.change.as_str() {
                "Added" => "+",
                "Removed" => "-",
                _ => "~",
            };
            text.push_str(&format!("{mark} {}\n", object.object));
            for field in &object.fields {
                text.push_str(&format!("    {}: {} → {}\n", field.path, field.old, field.new));
            }
        }
        render::print(&text);
        plan::overrides(&diff.overrides);
        super::say_notes(&diff.notes, false);
    }
    Ok(if diff.objects.is_empty() { Outcome::Done } else { Outcome::No })
}

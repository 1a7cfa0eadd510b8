use crate::store::StoredChange;

use super::super::args::{Format, Global};
use super::super::{Failure, Outcome, kept, render};

/// `unisys changes`: the list, or one with its actions.
pub fn run(global: &Global, id: Option<u64>) -> Result<Outcome, Failure> {
    render::only(global.output, &[Format::Text, Format::Table, Format::Json, Format::Yaml])?;
    let query: Vec<_> = id.map(|id| ("id", id.to_string())).into_iter().collect();
    let changes: Vec<StoredChange> =
        kept::ask(global, |client| client.get("/v1/changes", &query), |kept| kept.changes(id))?;
    if render::structured(global.output, &serde_json::to_value(&changes).unwrap_or_default())? {
        return Ok(Outcome::Done);
    }
    let mut lines = vec![["ID", "AT", "REVISION", "OUTCOME", "CAUSE"].map(str::to_owned).to_vec()];
    lines.extend(changes.iter().map(|change| {
        let cause = format!("{}: {}", change.cause.kind, render::neutral(&change.cause.detail));
        vec![
            change.id.to_string(),
            change.at.to_string(),
            change.revision.to_string(),
            change.outcome.clone(),
            cause,
        ]
    }));
    let mut out = render::columns(&lines);
    if let (Some(_), Some(change)) = (id, changes.first()) {
        let mut rows = vec![["ACTION", "UNIT", "REASON"].map(str::to_owned).to_vec()];
        rows.extend(
            change.actions.iter().map(|a| vec![a.verb.clone(), a.unit.clone(), render::neutral(&a.reason)]),
        );
        out.push('\n');
        out.push_str(&render::columns(&rows));
    }
    render::print(&out);
    Ok(Outcome::Done)
}

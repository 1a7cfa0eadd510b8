use std::collections::BTreeMap;

use crate::api::faults::ErrorsQuery;
use crate::faults::book::{ErrorRecord, ErrorStats};

use super::super::args::{Errors, ErrorsLs, Format, Global};
use super::super::{Failure, Outcome, kept, render};

const FORMATS: [Format; 4] = [Format::Text, Format::Table, Format::Json, Format::Yaml];

/// `unisys errors`: what went wrong, counted.
pub fn run(global: &Global, verb: Option<Errors>) -> Result<Outcome, Failure> {
    render::only(global.output, &FORMATS)?;
    match verb.unwrap_or(Errors::Ls(ErrorsLs::default())) {
        Errors::Ls(args) => list(global, &args),
        Errors::Stats => stats(global),
    }
}

fn list(global: &Global, args: &ErrorsLs) -> Result<Outcome, Failure> {
    let ErrorsLs { of, category, severity } = args.clone();
    let name = of.name();
    let filters = [("name", &name), ("category", &category), ("severity", &severity)];
    let query: Vec<_> = filters.into_iter().filter_map(|(key, word)| Some((key, word.clone()?))).collect();
    let records: Vec<ErrorRecord> = kept::ask(
        global,
        |client| client.get("/v1/errors", &query),
        |kept| kept.errors(ErrorsQuery { name, category, severity }),
    )?;
    if render::structured(global.output, &serde_json::to_value(&records).unwrap_or_default())? {
        return Ok(Outcome::Done);
    }
    let head = ["ID", "LAST SEEN", "COUNT", "SEVERITY", "CATEGORY", "UNIT", "MESSAGE"];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    lines.extend(records.iter().map(|record| {
        vec![
            record.id.to_string(),
            record.last_seen.to_string(),
            record.count.to_string(),
            record.severity.to_string(),
            record.category.to_string(),
            record.unit.clone(),
            render::neutral(&record.message),
        ]
    }));
    render::print(&render::columns(&lines));
    Ok(Outcome::Done)
}

fn stats(global: &Global) -> Result<Outcome, Failure> {
    let stats: ErrorStats =
        kept::ask(global, |client| client.get("/v1/errors/stats", &[]), |kept| kept.error_stats())?;
    if render::structured(global.output, &serde_json::to_value(&stats).unwrap_or_default())? {
        return Ok(Outcome::Done);
    }
    let mut lines = vec![["BY", "WHAT", "COUNT"].map(str::to_owned).to_vec()];
    let mut add = |by: &str, counts: &BTreeMap<String, u64>| {
        let mut rows: Vec<_> = counts.iter().collect();
        rows.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        lines.extend(
            rows.into_iter().map(|(word, count)| vec![by.to_owned(), word.clone(), count.to_string()]),
        );
    };
    add("category", &stats.by_category);
    add("severity", &stats.by_severity);
    add("unit", &stats.by_unit);
    lines.push(vec!["total".into(), format!("{} different", stats.distinct), stats.total.to_string()]);
    render::print(&render::columns(&lines));
    Ok(Outcome::Done)
}

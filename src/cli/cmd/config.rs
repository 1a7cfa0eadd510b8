use std::path::Path;

use crate::api::types::{ConfigOrigin, ConfigVar, ObjectList, UnitConfig};
use crate::manifest::diagnostic::nearest;

use super::super::args::{Config, Format, Global};
use super::super::client::{Client, encoded};
use super::super::{Failure, Outcome, render};

/// Of a longer value, as much is in a table.
const SHOWN: usize = 60;

/// `unisys config`: the environment that units are to have, and where each value comes from.
pub fn run(global: &Global, args: &Config) -> Result<Outcome, Failure> {
    render::only(global.output, &[Format::Text, Format::Table, Format::Json, Format::Yaml])?;
    let client = Client::connect(global)?;
    client.catch_up()?;
    let named = args.words.join("/");
    let names = if named.is_empty() { all(&client)? } else { vec![named.clone()] };
    let mut found = Vec::new();
    for name in names {
        found.push(client.get::<UnitConfig>(&format!("/v1/config/{}", encoded(&name)), &[])?);
    }
    if let Some(key) = &args.explain {
        keep(&mut found, key, &named)?;
    }
    let value = match named.is_empty() {
        true => serde_json::to_value(&found),
        false => serde_json::to_value(&found[0]),
    };
    if render::structured(global.output, &value.unwrap_or_default())? {
        return Ok(Outcome::Done);
    }
    let mut out = String::new();
    for unit in &found {
        if named.is_empty() {
            out.push_str(&format!("{}\n", unit.service));
        }
        let text = if args.explain.is_some() { explained(&unit.env) } else { table(&unit.env) };
        let indent = if named.is_empty() { "  " } else { "" };
        text.lines().for_each(|line| out.push_str(&format!("{indent}{line}\n")));
    }
    render::print(&out);
    let notes: Vec<String> = found.into_iter().flat_map(|unit| unit.notes).collect();
    super::say_notes(&notes, global.quiet);
    Ok(Outcome::Done)
}

fn all(client: &Client) -> Result<Vec<String>, Failure> {
    let mut names = Vec::new();
    for kind in ["service", "job"] {
        let list: ObjectList = client.get("/v1/objects", &[("kind", kind.to_owned())])?;
        names.extend(list.items.into_iter().map(|object| format!("{kind}/{}", object.metadata.name)));
    }
    Ok(names)
}

/// Only this variable, and of all units only those that have it.
fn keep(found: &mut Vec<UnitConfig>, key: &str, named: &str) -> Result<(), Failure> {
    let known: Vec<String> =
        found.iter().flat_map(|unit| unit.env.iter().map(|var| var.name.clone())).collect();
    for unit in found.iter_mut() {
        unit.env.retain(|var| var.name == key);
    }
    found.retain(|unit| !unit.env.is_empty());
    if !found.is_empty() {
        return Ok(());
    }
    let whose = if named.is_empty() { "no unit has".to_owned() } else { format!("{named} has no") };
    let hint = match nearest(key, known.iter().map(String::as_str)) {
        Some(near) => format!("did you mean {near}?"),
        None => format!("`unisys config{}{named}` shows all", if named.is_empty() { "" } else { " " }),
    };
    Err(Failure::NotFound { message: format!("{whose} variable `{key}`"), hint })
}

fn table(env: &[ConfigVar]) -> String {
    let mut lines = vec![["NAME", "VALUE", "FROM", "AT"].map(str::to_owned).to_vec()];
    lines.extend(env.iter().map(|var| {
        let value = render::neutral(&var.value);
        let short: String = value.chars().take(SHOWN).collect();
        let more = if short.len() < value.len() { "…" } else { "" };
        vec![
            var.name.clone(),
            format!("{short}{more}"),
            from(&var.origin),
            at(&var.origin).unwrap_or_default(),
        ]
    }));
    render::columns(&lines)
}

fn explained(env: &[ConfigVar]) -> String {
    let mut out = String::new();
    let placed = |origin: &ConfigOrigin| match at(origin) {
        Some(at) => format!("{}  {at}", from(origin)),
        None => from(origin),
    };
    for var in env {
        out.push_str(&format!("{}={}\n", var.name, render::neutral(&var.value)));
        out.push_str(&format!("  from   {}\n", placed(&var.origin)));
        var.shadowed.iter().for_each(|hidden| out.push_str(&format!("  hides  {}\n", placed(hidden))));
    }
    out
}

fn from(origin: &ConfigOrigin) -> String {
    match origin.object.is_empty() {
        true => "-".into(),
        false => format!("{} {}", origin.object, origin.layer),
    }
}

/// As it is found from here.
fn at(origin: &ConfigOrigin) -> Option<String> {
    let file = Path::new(origin.file.as_deref()?);
    // Without the way to it: `manifests/../.env`.
    let file = std::fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    let here = std::env::current_dir().and_then(std::fs::canonicalize).ok();
    let near = here.and_then(|here| Some(file.strip_prefix(here).ok()?.to_owned()));
    let file = near.unwrap_or(file).display().to_string();
    Some(origin.line.map_or_else(|| file.clone(), |line| format!("{file}:{line}")))
}

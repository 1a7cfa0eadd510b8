use serde_json::Value;

use crate::api::status::{Row, age};
use crate::base::Stamp;
use crate::os::clock;

use super::super::args::{Format, Get, Global};
use super::super::client::Client;
use super::super::{Failure, Outcome, render};

/// `unisys get`: a list or one object, once or whenever something changes.
pub fn run(global: &Global, args: &Get) -> Result<Outcome, Failure> {
    render::only(global.output, &[Format::Table, Format::Wide, Format::Json, Format::Yaml, Format::Name])?;
    let client = Client::connect(global)?;
    let value = fetch(&client, args)?;
    show(global.output, &value)?;
    if !args.watch {
        return Ok(Outcome::Done);
    }
    let mut shown = value;
    let mut failed = None;
    client_stream(global, |_| match fetch(&client, args) {
        Ok(value) if value == shown => true,
        Ok(value) => {
            let result = show(global.output, &value);
            shown = value;
            result.map_err(|error| failed = Some(error)).is_ok()
        }
        Err(error) => {
            failed = Some(error);
            false
        }
    })?;
    failed.map_or(Ok(Outcome::Done), Err)
}

/// Calls for every piece of the stream of changes.
fn client_stream(global: &Global, take: impl FnMut(&[u8]) -> bool) -> Result<(), Failure> {
    Client::connect(global)?.stream("/v1/watch", &[], take)
}

fn fetch(client: &Client, args: &Get) -> Result<Value, Failure> {
    let (kind, name) = match (args.kind.as_deref(), args.name.as_deref()) {
        (Some(both), None) => match both.split_once('/') {
            Some((kind, name)) => (Some(kind), Some(name)),
            None => (Some(both), None),
        },
        (kind, name) => (kind, name),
    };
    match (kind, name) {
        (Some("system"), None) => client.get("/v1/system", &[]),
        (Some("sets" | "set"), name) => {
            let mut list: Value = client.get("/v1/sets", &[])?;
            let Some(name) = name else { return Ok(list) };
            let found = list["items"].as_array_mut().and_then(|items| {
                items.iter().position(|item| item["metadata"]["name"] == name).map(|at| items.swap_remove(at))
            });
            found.ok_or_else(|| Failure::NotFound {
                message: format!("there is no set {name}"),
                hint: "see `unisys get sets`".into(),
            })
        }
        (Some(kind), Some(name)) => client.get(&format!("/v1/objects/{kind}/{name}"), &[]),
        (kind, _) => {
            let mut query = Vec::new();
            query.extend(kind.filter(|kind| *kind != "all").map(|kind| ("kind", kind.to_owned())));
            query.extend(args.label.clone().map(|label| ("label", label)));
            client.get("/v1/objects", &query)
        }
    }
}

fn show(format: Option<Format>, value: &Value) -> Result<(), Failure> {
    if render::structured(format, value)? {
        return Ok(());
    }
    let single = [value.clone()];
    let items: &[Value] = value["items"].as_array().map_or(&single, Vec::as_slice);
    if format == Some(Format::Name) {
        let names = items.iter().map(|item| {
            format!("{}/{}\n", text(&item["kind"]).to_lowercase(), text(&item["metadata"]["name"]))
        });
        render::print(&names.collect::<String>());
        return Ok(());
    }
    if value["kind"] == "System" {
        let status = &value["status"];
        let rows = [
            "version",
            "epoch",
            "revision",
            "started",
            "keeperVersion",
            "keeperPid",
            "daemonPid",
            "stateDir",
        ];
        let lines: Vec<Vec<String>> =
            rows.iter().map(|row| vec![(*row).to_owned(), text(&status[*row])]).collect();
        render::print(&render::columns(&lines));
        return Ok(());
    }
    let wide = format == Some(Format::Wide);
    let units: Vec<&Value> = items.iter().filter(|item| item["status"]["replicas"].is_number()).collect();
    let rows: Vec<Row> = units.iter().map(|item| row(item, wide)).collect();
    let mut out = String::new();
    if !rows.is_empty() {
        out.push_str(&render::table(&rows));
    }
    let others: Vec<&Value> = items.iter().filter(|item| !item["status"]["replicas"].is_number()).collect();
    if !others.is_empty() {
        if !rows.is_empty() {
            out.push('\n');
        }
        let mut lines = vec![vec!["KIND".to_owned(), "NAME".into(), "STATUS".into()]];
        lines.extend(others.iter().map(|item| {
            vec![text(&item["kind"]), text(&item["metadata"]["name"]), text(&item["status"]["summary"])]
        }));
        out.push_str(&render::columns(&lines));
    }
    if out.is_empty() {
        out.push_str("nothing is declared\n");
    }
    render::print(&out);
    Ok(())
}

fn row(item: &Value, wide: bool) -> Row {
    let status = &item["status"];
    let instances = status["instances"].as_array().cloned().unwrap_or_default();
    let restarts: u64 = instances.iter().filter_map(|instance| instance["restarts"].as_u64()).sum();
    let started =
        instances.iter().filter_map(|i| serde_json::from_value::<Stamp>(i["startedAt"].clone()).ok()).min();
    let pids: Vec<String> =
        instances.iter().filter_map(|i| i["pid"].as_u64()).map(|pid| pid.to_string()).collect();
    Row {
        name: text(&item["metadata"]["name"]),
        ready: format!("{}/{}", status["readyReplicas"], status["replicas"]),
        status: text(&status["summary"]),
        restarts: restarts.to_string(),
        age: started.map_or_else(|| "-".into(), |at| age(at, clock::wall())),
        wide: match wide {
            true => vec![
                if pids.is_empty() { "-".into() } else { pids.join(",") },
                text(&item["metadata"]["set"]),
                text(&status["waiting"]),
            ],
            false => Vec::new(),
        },
    }
}

pub fn text(value: &Value) -> String {
    match value {
        Value::String(text) => render::neutral(text),
        Value::Null => "-".into(),
        other => other.to_string(),
    }
}

use serde_json::Value;

use crate::api::status::{Row, age};
use crate::base::{ObjectKind, Stamp};
use crate::manifest::diagnostic::{kinds_like, nearest};
use crate::os::clock;

use super::super::args::{Format, Get, Global};
use super::super::client::Client;
use super::super::{Failure, Outcome, render};
use crate::cli::aside;

/// `unisys get`: a list or one object, once or whenever something changes.
pub fn run(global: &Global, args: &Get) -> Result<Outcome, Failure> {
    render::only(global.output, &[Format::Table, Format::Wide, Format::Json, Format::Yaml, Format::Name])?;
    let client = Client::connect(global)?;
    client.catch_up()?;
    let look = |client: &Client| -> Result<(Value, Vec<String>), Failure> {
        let mut notes = match is_for_a_person(global.output, args) {
            true => {
                let sets = sets(client)?;
                [not_accepted(&sets), ceded(&sets), blocked(&client.get("/v1/system", &[])?)].concat()
            }
            false => Vec::new(),
        };
        let found = fetch(client, args)?;
        if is_for_a_person(global.output, args) {
            notes.extend(paused(&found));
        }
        Ok((found, notes))
    };
    let text = |value: &Value, at: Option<Stamp>| {
        render::structured_text(global.output, value)
            .transpose()
            .unwrap_or_else(|| Ok(table(global.output, args, value, at)))
    };
    let show = |(value, notes): &(Value, Vec<String>)| -> Result<(), Failure> {
        render::print(&text(value, Some(clock::wall()))?);
        notes.iter().for_each(|note| aside!("note: {note}"));
        Ok(())
    };
    // What it looks like, but for how old it is.
    let look_of = |(value, notes): &(Value, Vec<String>)| Ok((text(value, None)?, notes.clone()));
    let first = look(&client)?;
    let mut shown = look_of(&first)?;
    show(&first)?;
    if !args.watch {
        return Ok(Outcome::Done);
    }
    Client::follow(global, |client| {
        let mut failed = None;
        client.stream("/v1/watch", &[], |_| {
            let looked = look(client).and_then(|seen| Ok((look_of(&seen)?, seen)));
            let told = looked.and_then(|(look, seen)| {
                if look != shown {
                    shown = look;
                    show(&seen)?;
                }
                Ok(())
            });
            match told {
                Ok(()) => true,
                // The next daemon is asked.
                Err(Failure::NoDaemon { .. }) => false,
                Err(error) => {
                    failed = Some(error);
                    false
                }
            }
        })?;
        failed.map_or(Ok(true), Err)
    })
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
        (Some(word), None) if word != "all" && ObjectKind::from_word(word).is_none() => named(client, word),
        (kind, _) => {
            let mut query = Vec::new();
            query.extend(kind.filter(|kind| *kind != "all").map(|kind| ("kind", kind.to_owned())));
            query.extend(args.label.clone().map(|label| ("label", label)));
            client.get("/v1/objects", &query)
        }
    }
}

/// What is called by a word that is no kind.
fn named(client: &Client, word: &str) -> Result<Value, Failure> {
    let mut list: Value = client.get("/v1/objects", &[])?;
    let items = list["items"].as_array_mut().map(std::mem::take).unwrap_or_default();
    let names: Vec<String> = items.iter().map(|item| text(&item["metadata"]["name"])).collect();
    let mut found: Vec<Value> = items.into_iter().filter(|item| item["metadata"]["name"] == word).collect();
    if found.is_empty() {
        let meant =
            nearest(word, names.iter().map(String::as_str)).map(|name| format!("did you mean {name}? "));
        return Err(Failure::NotFound {
            message: format!("there is no kind and nothing else called {word}"),
            hint: meant.unwrap_or_default() + &kinds_like(word),
        });
    }
    // One is itself, as with its kind.
    if found.len() == 1 {
        return Ok(found.swap_remove(0));
    }
    list["items"] = Value::Array(found);
    Ok(list)
}

/// A table of units, in which nothing says that other manifests are written than those that run.
fn is_for_a_person(format: Option<Format>, args: &Get) -> bool {
    let kind = args.kind.as_deref().unwrap_or_default();
    matches!(format, None | Some(Format::Table | Format::Wide))
        && !["set", "sets", "system"].contains(&kind.split('/').next().unwrap_or(kind))
}

/// The sets, as `get sets` shows them.
pub fn sets(client: &Client) -> Result<Vec<Value>, Failure> {
    let mut sets: Value = client.get("/v1/sets", &[])?;
    Ok(sets["items"].as_array_mut().map(std::mem::take).unwrap_or_default())
}

/// Of which sets the manifests are invalid, and what runs instead.
pub fn not_accepted(sets: &[Value]) -> Vec<String> {
    let invalid = sets.iter().filter(|set| set["status"]["conditions"][0]["status"] == "False");
    let here = std::env::current_dir().map(|dir| format!("{}/", dir.display())).unwrap_or_default();
    let note = |set: &Value| {
        let message = text(&set["status"]["conditions"][0]["message"]);
        let message = message.strip_prefix(&here).filter(|_| !here.is_empty()).unwrap_or(&message);
        let runs = match text(&set["status"]["revision"]).as_str() {
            "0" => "nothing runs of it".to_owned(),
            revision => format!("its revision {revision} runs on"),
        };
        format!("set {} is invalid, {runs}: {}", text(&set["metadata"]["name"]), render::neutral(message))
    };
    invalid.map(note).collect()
}

/// Why output cannot be written, of what `get system` says.
pub fn logs_blocked(system: &Value) -> Vec<String> {
    system["status"]["logsBlocked"].as_str().map(render::neutral).into_iter().collect()
}

/// The same of output and of what has to be remembered.
pub fn blocked(system: &Value) -> Vec<String> {
    let state = system["status"]["stateBlocked"].as_str().map(render::neutral);
    logs_blocked(system).into_iter().chain(state).collect()
}

/// What a pause of rollouts holds back, of what is shown.
fn paused(found: &Value) -> Vec<String> {
    let one = [found.clone()];
    let items = found["items"].as_array().map_or(&one[..], Vec::as_slice);
    let is_paused = |item: &&Value| {
        let overrides = item["status"]["overrides"].as_array();
        overrides.is_some_and(|list| list.iter().any(|over| over["field"] == "rollout.paused"))
    };
    let note = |item: &Value| {
        let name = text(&item["metadata"]["name"]);
        let rollout = &item["status"]["rollout"];
        let (held, runs) = (&rollout["revision"], &rollout["runningRevision"]);
        let what = match rollout["state"] == "Paused" {
            true if held == runs => format!("revision {held} is held back"),
            true => format!("revision {held} is held back, revision {runs} runs"),
            false => "nothing is held back".to_owned(),
        };
        format!("the rollout of {name} is paused, {what} (`unisys rollout resume {name}`)")
    };
    items.iter().filter(is_paused).map(note).collect()
}

/// What sets declare in vain.
fn ceded(sets: &[Value]) -> Vec<String> {
    let ceded = |set: &Value| {
        let name = text(&set["metadata"]["name"]);
        let list = set["status"]["ceded"].as_array().cloned().unwrap_or_default();
        let line = move |ceded: Value| {
            let (object, owner) = (text(&ceded["object"]), text(&ceded["set"]));
            format!(
                "set {name} declares {object}, which belongs to set {owner} (apply --force-conflicts): it counts for nothing"
            )
        };
        list.into_iter().map(line).collect::<Vec<_>>()
    };
    sets.iter().flat_map(ceded).collect()
}

/// `at`: the ages are as of then; none: they are left out.
fn table(format: Option<Format>, args: &Get, value: &Value, at: Option<Stamp>) -> String {
    let single = [value.clone()];
    let items: &[Value] = value["items"].as_array().map_or(&single, Vec::as_slice);
    if format == Some(Format::Name) {
        let names = items.iter().map(|item| {
            format!("{}/{}\n", text(&item["kind"]).to_lowercase(), text(&item["metadata"]["name"]))
        });
        return names.collect();
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
        return render::columns(&lines);
    }
    let wide = format == Some(Format::Wide);
    let units: Vec<&Value> = items.iter().filter(|item| item["status"]["replicas"].is_number()).collect();
    let rows: Vec<Row> = units.iter().map(|item| row(item, wide, at)).collect();
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
        let nothing = match (&args.label, &args.kind) {
            (Some(label), _) => format!("nothing has the labels {label}\n"),
            (None, Some(kind)) if kind != "all" => "nothing of that kind is declared\n".to_owned(),
            _ => "nothing is declared\n".to_owned(),
        };
        out.push_str(&nothing);
    }
    out
}

fn row(item: &Value, wide: bool, at: Option<Stamp>) -> Row {
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
        status: match status["circuit"]["openUntil"]
            .as_str()
            .filter(|_| status["summary"] == "CircuitOpen")
            .and_then(clock_of)
        {
            Some(until) => format!("{} until {until}", text(&status["summary"])),
            None => text(&status["summary"]),
        },
        restarts: restarts.to_string(),
        age: match (started, at) {
            (Some(started), Some(at)) => age(started, at),
            _ => "-".into(),
        },
        wide: match wide {
            true => vec![
                if pids.is_empty() { "-".into() } else { pids.join(",") },
                text(&item["metadata"]["set"]),
                overrides(&status["overrides"]),
                text(&status["waiting"]),
            ],
            false => Vec::new(),
        },
    }
}

/// What is in force though no manifest says it: `replicas=2`.
fn overrides(list: &Value) -> String {
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
    let words = list.iter().map(|item| format!("{}={}", text(&item["field"]), text(&item["value"])));
    if list.is_empty() { "-".into() } else { words.collect::<Vec<_>>().join(",") }
}

/// `03:12:45Z` of a time.
fn clock_of(stamp: &str) -> Option<String> {
    let (clock, _) = stamp.split_once('T')?.1.split_once('.')?;
    Some(format!("{clock}Z"))
}

pub fn text(value: &Value) -> String {
    match value {
        Value::String(text) => render::neutral(text),
        Value::Null => "-".into(),
        other => other.to_string(),
    }
}

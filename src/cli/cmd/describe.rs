use serde_json::Value;

use super::super::args::{Format, Global};
use super::super::client::Client;
use super::super::{Failure, Outcome, render};
use super::get::{blocked, text};

/// `unisys describe`: everything known of one object.
pub fn run(global: &Global, object: &str) -> Result<Outcome, Failure> {
    render::only(global.output, &[Format::Text, Format::Json, Format::Yaml])?;
    let client = Client::connect(global)?;
    client.catch_up()?;
    let query = [("describe", "true".to_owned())];
    let value: Value = match object.split_once('/') {
        Some((kind, name)) => client.get(&format!("/v1/objects/{kind}/{name}"), &query)?,
        None => match client.get(&format!("/v1/objects/service/{object}"), &query) {
            Err(Failure::NotFound { .. }) => {
                client.get(&format!("/v1/objects/job/{object}"), &query).map_err(|error| match error {
                    Failure::NotFound { hint, .. } => {
                        Failure::NotFound { message: format!("there is no unit called {object}"), hint }
                    }
                    other => other,
                })?
            }
            other => other?,
        },
    };
    if render::structured(global.output, &value)? {
        return Ok(Outcome::Done);
    }
    let notes = blocked(&client.get("/v1/system", &[])?);
    let (meta, status) = (&value["metadata"], &value["status"]);
    let mut out = format!("{}/{}\n", text(&value["kind"]).to_lowercase(), text(&meta["name"]));
    let mut line = |name: &str, value: String| out.push_str(&format!("  {name:<12}{value}\n"));
    line("status", text(&status["summary"]));
    line("set", text(&meta["set"]));
    if !meta["generation"].is_null() {
        line("generation", text(&meta["generation"]));
    }
    match value.get("usedBy") {
        Some(users) => line("used by", list(users)),
        None => {
            line("needs", list(&value["dependsOn"]));
            line("needed by", list(&value["dependents"]));
        }
    }
    if let Some(on) = status["waiting"].as_str() {
        line("waits for", render::neutral(on));
    }
    let circuit = &status["circuit"];
    let is_external = value["kind"] == "External";
    if circuit["state"].as_str().is_some_and(|state| state != "Closed") && !is_external {
        let until = circuit["openUntil"].as_str().map(|at| format!(" until {at}")).unwrap_or_default();
        let name = text(&meta["name"]);
        let words =
            format!("{}{until}; `unisys circuit reset {name}` tries at once", text(&circuit["state"]));
        line("circuit", words);
    }
    if value["kind"] == "Notifier" && !status["conditions"].is_null() {
        let count = |field: &str| text(&status[field]);
        let words = format!(
            "{} sent, {} waiting, {} dead letters",
            count("sent"),
            count("waiting"),
            count("deadLetters")
        );
        line("messages", words);
        line("delivered", text(&status["lastDelivered"]));
        let failure = &status["lastFailure"];
        let words = match failure.is_null() {
            true => "-".to_owned(),
            false => format!("{}: {}", text(&failure["at"]), text(&failure["message"])),
        };
        line("failed", words);
    }
    if let Some(until) = status["rollout"]["onTrialUntil"].as_str() {
        let back = text(&status["rollout"]["backToRevision"]);
        line("on trial", format!("until {until}: if it fails too often, revision {back} comes back"));
    }
    for over in status["overrides"].as_array().into_iter().flatten() {
        line(
            "override",
            format!(
                "{} = {} by {} at {}",
                text(&over["field"]),
                over["value"],
                text(&over["by"]),
                text(&over["at"])
            ),
        );
    }
    section(&mut out, "conditions", &status["conditions"], &["type", "status", "reason", "message"]);
    let mut fields = vec!["ordinal", "lifecycle", "pid", "ready", "restarts", "startedAt"];
    if status["instances"].as_array().is_some_and(|all| all.iter().any(|it| !it["statusText"].is_null())) {
        fields.push("statusText");
    }
    section(&mut out, "instances", &status["instances"], &fields);
    section(&mut out, "probes", &value["probes"], &["ordinal", "probe", "ok", "message"]);
    section(&mut out, "values", &value["values"], &["key", "value", "from"]);
    section(&mut out, "events", &value["events"], &["ts", "type", "reason", "message"]);
    out.push_str("spec\n");
    let spec = serde_yaml::to_string(&value["spec"]).unwrap_or_default();
    spec.lines().for_each(|line| out.push_str(&format!("  {}\n", render::neutral(line))));
    render::print(&out);
    super::say_notes(&notes, false);
    Ok(Outcome::Done)
}

fn list(value: &Value) -> String {
    let names: Vec<String> = value.as_array().into_iter().flatten().map(text).collect();
    if names.is_empty() { "-".into() } else { names.join(", ") }
}

fn section(out: &mut String, name: &str, rows: &Value, fields: &[&str]) {
    let Some(rows) = rows.as_array().filter(|rows| !rows.is_empty()) else { return };
    let mut lines = vec![fields.iter().map(|field| field.to_uppercase()).collect::<Vec<_>>()];
    lines.extend(rows.iter().map(|row| fields.iter().map(|field| text(&row[*field])).collect()));
    out.push_str(&format!("{name}\n"));
    render::columns(&lines).lines().for_each(|line| out.push_str(&format!("  {line}\n")));
}

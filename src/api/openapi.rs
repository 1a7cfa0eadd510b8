//! OpenAPI 3.1 of the control API, from the types.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::types;

/// The whole document; committed as `schemas/openapi.json` and served at `/openapi.json`.
pub fn document() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut book = Book { generator: settings.into_generator(), paths: Map::new() };
    book.get::<types::ObjectList>(
        "/v1/objects",
        "All objects, or those of one kind or label.",
        &["kind", "label"],
    );
    book.get::<types::Object>(
        "/v1/objects/{kind}/{name}",
        "One object; with `describe=true` its events, probes and neighbours.",
        &["describe"],
    );
    book.get::<Value>("/v1/system", "The daemon: version, epoch, revision, overrides in force.", &[]);
    book.get::<types::ObjectList>("/v1/sets", "The sets of manifests and what is wrong with them.", &[]);
    book.get::<types::Plan>("/v1/plan", "What is still to be done and what it waits for.", &[]);
    book.post::<types::Submission, types::Plan>("/v1/plan", "What `apply` of these manifests would do.");
    book.post::<types::Submission, types::Diff>("/v1/diff", "What differs, field by field, secrets masked.");
    book.post::<types::Submission, types::Done>("/v1/apply", "Accepts manifests.");
    book.post::<Value, types::Done>(
        "/v1/delete",
        "Takes objects away that `apply` made: `{\"objects\": [\"service/api\"]}`; or the whole set of a directory: `{\"path\": \"/etc/api\"}`.",
    );
    book.post::<types::Order, types::Done>(
        "/v1/orders",
        "start, stop, restart, reload, enable, disable, scale, resetCircuit.",
    );
    book.get::<types::RolloutStatus>("/v1/rollouts/{name}", "How far the rollout of a unit is.", &[]);
    book.post::<types::RolloutCall, types::Done>(
        "/v1/rollouts/{name}",
        "pause, resume, promote, undo, retry.",
    );
    book.get::<Vec<types::PastRollout>>(
        "/v1/rollouts/{name}/history",
        "The rollouts of a unit, oldest first.",
        &[],
    );
    book.post::<types::DownCall, types::Done>("/v1/down", "Stops everything, then daemon and keeper.");
    book.post::<Value, types::Done>("/v1/upgrade", "Keeper and daemon become the binary on disk.");
    book.get::<Vec<types::Event>>(
        "/v1/events",
        "What happened, oldest first.",
        &["name", "after", "sinceMs", "untilMs", "tail"],
    );
    book.get::<types::Event>(
        "/v1/watch",
        "The same as server-sent events; resumes after `Last-Event-ID`.",
        &["name", "after"],
    );
    book.get::<Vec<crate::store::StoredChange>>("/v1/changes", "Recorded changes, newest first.", &["id"]);
    book.get::<types::Why>("/v1/why/{name}", "The causal chain of a unit's state, symptom first.", &[]);
    book.get::<crate::logs::read::Line>(
        "/v1/logs/{name}",
        "Captured lines as JSON, one a line; with `positions`, up to where they go in between, for `from`.",
        &["tail", "sinceMs", "follow", "previous", "instance", "positions", "from", "skip"],
    );
    book.post::<types::WaitFor, types::Waited>("/v1/wait", "Answers when it is so, or the time is over.");
    book.get::<types::ExecContext>(
        "/v1/exec/{name}",
        "Environment, directory and user of a unit, for `unisys exec`; holds secrets.",
        &[],
    );
    book.get::<types::UnitConfig>(
        "/v1/config/{name}",
        "The environment that a unit is to have, each value with where it comes from; secrets masked.",
        &[],
    );
    book.get::<Value>("/v1/graph", "The dependency graph: lanes, edges, cycles.", &[]);
    book.get::<Vec<crate::faults::ErrorRecord>>(
        "/v1/errors",
        "What went wrong, counted, latest first.",
        &["name", "category", "severity"],
    );
    book.get::<crate::faults::book::ErrorStats>(
        "/v1/errors/stats",
        "Failures by category, severity, unit.",
        &[],
    );
    book.get::<Vec<crate::faults::crashes::Crash>>("/v1/crashes", "Crash dumps, latest first.", &["name"]);
    book.get::<crate::faults::crashes::CrashDetail>(
        "/v1/crashes/{id}",
        "One crash: what is known of it and its last output.",
        &[],
    );
    book.get::<Value>("/v1/crashes/{id}/export", "One crash dump as a tar archive.", &[]);
    let schemas = book.generator.take_definitions(true);
    json!({
        "openapi": "3.1.0",
        "info": {"title": "unisys control API", "version": env!("CARGO_PKG_VERSION"),
            "description": "Over the unix socket of a state directory; only its owner and root are let in."},
        "paths": book.paths,
        "components": {"schemas": schemas},
    })
}

struct Book {
    generator: SchemaGenerator,
    paths: Map<String, Value>,
}

impl Book {
    fn get<T: JsonSchema>(&mut self, path: &str, summary: &str, query: &[&str]) {
        let mut parameters: Vec<Value> = path
            .split(['{', '}'])
            .skip(1)
            .step_by(2)
            .map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}))
            .collect();
        parameters.extend(
            query.iter().map(|name| json!({"name": name, "in": "query", "schema": {"type": "string"}})),
        );
        let responses = self.responses::<T>();
        self.insert(
            path,
            "get",
            json!({"summary": summary, "parameters": parameters, "responses": responses}),
        );
    }

    fn post<B: JsonSchema, T: JsonSchema>(&mut self, path: &str, summary: &str) {
        let body = self.generator.subschema_for::<B>();
        let responses = self.responses::<T>();
        let body = json!({"content": {"application/json": {"schema": body}}});
        self.insert(path, "post", json!({"summary": summary, "requestBody": body, "responses": responses}));
    }

    fn responses<T: JsonSchema>(&mut self) -> Value {
        let (good, bad) =
            (self.generator.subschema_for::<T>(), self.generator.subschema_for::<types::Problem>());
        json!({
            "200": {"description": "done", "content": {"application/json": {"schema": good}}},
            "default": {"description": "refused", "content": {"application/json": {"schema": bad}}},
        })
    }

    fn insert(&mut self, path: &str, method: &str, operation: Value) {
        let entry = self.paths.entry(path.to_owned()).or_insert_with(|| json!({}));
        entry[method] = operation;
    }
}

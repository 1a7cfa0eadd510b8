use serde_json::Value;

use super::super::args::{Format, Global};
use super::super::client::Client;
use super::super::{Failure, Outcome, render};
use super::get::text;

/// `unisys graph`: lanes as text, or edges for dot and mermaid.
pub fn run(global: &Global) -> Result<Outcome, Failure> {
    render::only(global.output, &[Format::Text, Format::Json, Format::Yaml, Format::Dot, Format::Mermaid])?;
    let graph: Value = Client::connect(global)?.get("/v1/graph", &[])?;
    if render::structured(global.output, &graph)? {
        return Ok(Outcome::Done);
    }
    let edges: Vec<(String, String, String)> = graph["edges"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|edge| (text(&edge["from"]), text(&edge["to"]), text(&edge["condition"])))
        .collect();
    let names =
        || graph["lanes"].as_array().into_iter().flatten().filter_map(Value::as_array).flatten().map(text);
    let out = match global.output {
        Some(Format::Dot) => {
            let nodes: String = names().map(|name| format!("  \"{name}\";\n")).collect();
            let lines: String =
                edges.iter().map(|(a, b, c)| format!("  \"{a}\" -> \"{b}\" [label=\"{c}\"];\n")).collect();
            format!("digraph unisys {{\n  rankdir=LR;\n{nodes}{lines}}}\n")
        }
        Some(Format::Mermaid) => {
            let nodes: String = names().map(|name| format!("  {name}\n")).collect();
            let lines: String = edges.iter().map(|(a, b, c)| format!("  {a} -->|{c}| {b}\n")).collect();
            format!("graph LR\n{nodes}{lines}")
        }
        _ => {
            let mut out = String::new();
            for (index, lane) in graph["lanes"].as_array().into_iter().flatten().enumerate() {
                for name in lane.as_array().into_iter().flatten().map(text) {
                    let needs: Vec<String> = edges
                        .iter()
                        .filter(|(from, _, _)| *from == name)
                        .map(|(_, to, c)| format!("{to} {c}"))
                        .collect();
                    let needs = if needs.is_empty() {
                        String::new()
                    } else {
                        format!("  after {}", needs.join(", "))
                    };
                    out.push_str(&format!("{}  {name}{needs}\n", index + 1));
                }
            }
            out
        }
    };
    render::print(&out);
    Ok(Outcome::Done)
}

use serde_json::Value;

use super::super::args::{Format, Global};
use super::super::client::Client;
use super::super::{Failure, Outcome, render};
use super::get::text;

/// `unisys graph`: lanes as text or a drawing, or edges for dot and mermaid.
pub fn run(global: &Global) -> Result<Outcome, Failure> {
    render::only(
        global.output,
        &[Format::Text, Format::Json, Format::Yaml, Format::Dot, Format::Mermaid, Format::Svg],
    )?;
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
        Some(Format::Svg) => svg(&lanes(&graph), &edges),
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

fn lanes(graph: &Value) -> Vec<Vec<String>> {
    let lanes = graph["lanes"].as_array().into_iter().flatten().filter_map(Value::as_array);
    lanes.map(|lane| lane.iter().map(text).collect()).collect()
}

/// A column a lane, an arrow from each unit to what it needs. Names and conditions need no escaping: they are labels of
/// RFC 1123 and words of ours.
fn svg(lanes: &[Vec<String>], edges: &[(String, String, String)]) -> String {
    const BOX: (usize, usize) = (150, 34);
    const STEP: (usize, usize) = (230, 54);
    let at = |name: &str| {
        lanes.iter().enumerate().find_map(|(column, lane)| {
            let row = lane.iter().position(|other| other == name)?;
            Some((20 + column * STEP.0, 20 + row * STEP.1))
        })
    };
    let rows = lanes.iter().map(Vec::len).max().unwrap_or(0);
    let (width, height) = (20 + lanes.len() * STEP.0, 20 + rows * STEP.1);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n\
         <defs><marker id=\"arrow\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" markerWidth=\"8\" markerHeight=\"8\" \
         orient=\"auto\"><path d=\"M0 0L8 4L0 8z\"/></marker></defs>\n"
    );
    for (from, to, condition) in edges {
        let (Some((x1, y1)), Some((x2, y2))) = (at(from), at(to)) else { continue };
        let (y1, x2, y2) = (y1 + BOX.1 / 2, x2 + BOX.0, y2 + BOX.1 / 2);
        out.push_str(&format!(
            "<path d=\"M{x1} {y1}L{x2} {y2}\" stroke=\"#666\" fill=\"none\" marker-end=\"url(#arrow)\">\
             <title>{from} after {to} {condition}</title></path>\n"
        ));
    }
    for name in lanes.iter().flatten() {
        let Some((x, y)) = at(name) else { continue };
        out.push_str(&format!(
            "<rect x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{}\" rx=\"6\" fill=\"#eef\" stroke=\"#336\"/>\
             <text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{name}</text>\n",
            BOX.0,
            BOX.1,
            x + BOX.0 / 2,
            y + BOX.1 / 2 + 5
        ));
    }
    out.push_str("</svg>\n");
    out
}

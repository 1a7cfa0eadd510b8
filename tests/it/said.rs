//! What is said of mistakes that are easily made: what it is, where, and how it is written instead; in text, JSON and SARIF.

use serde_json::Value;

use crate::support::{System, sleeper, until};

const HEAD: &str = "apiVersion: unisys.dev/v1\nkind: Service\nmetadata: {name: a}\n";

/// The first finding of one file, which all forms have alike: its text, and itself.
fn first(content: &str, machine: bool) -> (String, Value) {
    let system = System::new(&[("a.yaml", content)]);
    let machine = if machine { &["--machine"][..] } else { &[] };
    let validate = |form: &str| system.run(&[&["validate", "manifests", "-o", form][..], machine].concat());
    let json: Value = serde_json::from_slice(&validate("json").stdout).unwrap();
    let found = json["diagnostics"][0].clone();
    let sarif: Value = serde_json::from_slice(&validate("sarif").stdout).unwrap();
    let result = &sarif["runs"][0]["results"][0];
    assert_eq!(result["ruleId"], found["code"]);
    let region = &result["locations"][0]["physicalLocation"]["region"];
    assert_eq!((&region["startLine"], &region["startColumn"]), (&found["line"], &found["column"]));
    let said = result["message"]["text"].as_str().unwrap();
    assert!(said.contains(found["message"].as_str().unwrap()), "{said}");
    let text = validate("text");
    assert_eq!(text.status.code(), Some(1));
    (crate::support::text(&text.stderr), found)
}

#[test]
fn mistakes_that_are_easily_made_are_told_with_their_cure() {
    let named =
        |name: &str| format!("{HEAD}spec: {{command: [x]}}\n").replace("name: a", &format!("name: {name}"));
    let probe = |fields: &str| {
        format!("{HEAD}spec:\n  command: [x]\n  probes:\n    readiness: {{tcp: {{port: 1}}, {fields}}}\n")
    };
    let deep = format!("{HEAD}spec: {{command: [x], env: {{A: {}{}}}}}\n", "[".repeat(200), "]".repeat(200));
    let external = "apiVersion: unisys.dev/v1\nkind: External\nmetadata: {name: a}\nspec: {probes: {readiness: {tcp: {host: h, port: 1}, period: 0s}}}\n";
    for (content, code, place, message, hint) in [
        (
            format!("{HEAD}spec: {{command: [x, \"${{}}\"]}}\n"),
            "E1504",
            (4, 21),
            "`${}` names no variable",
            "write `${NAME}`, or `$$` for a dollar",
        ),
        (
            format!("{HEAD}spec: {{command: [x, \"${{A:-1}}\"]}}\n"),
            "E1504",
            (4, 21),
            "`${A:-1}` is not understood",
            "a default is given in a Config",
        ),
        (
            named("123"),
            "E1208",
            (3, 12),
            "`123` is a number to YAML, and a name is text",
            "put it in quotes: `name: \"123\"`",
        ),
        (named("true"), "E1208", (3, 12), "`true` is true or false to YAML", "`name: \"true\"`"),
        (named("1.5"), "E1208", (3, 12), "`1.5` is a number to YAML", "write `metadata: {name: api}`"),
        (
            named("[a]"),
            "E1208",
            (3, 12),
            "a name is text, and this is a list",
            "write `metadata: {name: api}`",
        ),
        (named("Api"), "E1208", (3, 12), "found `A`", "write `metadata: {name: api}`"),
        (deep, "E1005", (4, 92), "it is nested more than 64 deep here", "brackets that are not closed"),
        (
            probe("timeout: 0s"),
            "E1207",
            (7, 33),
            "within a timeout of 0s nothing can answer",
            "write `timeout: 1s`",
        ),
        (
            probe("period: 0s"),
            "E1207",
            (7, 33),
            "a probe with a period of 0s is asked without a pause",
            "write `period: 10s`",
        ),
        (external.into(), "E1207", (4, 54), "a probe with a period of 0s", "write `period: 10s`"),
        (
            format!("{HEAD}spec: {{command: [x], reload: {{timeout: 0s}}}}\n"),
            "E1207",
            (4, 31),
            "within a timeout of 0s no reload is over",
            "write `timeout: 30s`",
        ),
    ] {
        let (text, found) = first(&content, false);
        let at = (found["line"].as_u64().unwrap(), found["column"].as_u64().unwrap());
        assert_eq!((found["code"].as_str().unwrap(), at), (code, place), "{text}");
        assert!(found["message"].as_str().unwrap().contains(message), "{text}");
        assert!(found["hint"].as_str().unwrap().contains(hint), "{text}");
    }
    let (text, found) = first(&format!("{HEAD}spec: {{command: [/tmp]}}\n"), true);
    assert_eq!(found["code"], "E2002");
    assert!(text.contains("/tmp is a directory") && text.contains("hint: name the program in it"), "{text}");
}

#[test]
fn the_place_in_a_long_line_is_pointed_at() {
    let content = format!(
        "{HEAD}spec: {{command: [x, {}], restrat: 3, env: {{A: {}}}}}\n",
        "y".repeat(300),
        "z".repeat(300)
    );
    let (text, found) = first(&content, false);
    assert_eq!(found["column"], 324);
    let lines: Vec<&str> = text.lines().collect();
    let caret = lines.iter().position(|line| line.trim_end().ends_with('^')).unwrap();
    let at = lines[caret].chars().count() - 1;
    let pointed: String = lines[caret - 1].chars().skip(at).take(7).collect();
    assert_eq!(pointed, "restrat", "{text}");
    assert!(
        lines[caret - 1].chars().count() < 180
            && lines[caret - 1].contains("… ")
            && lines[caret - 1].ends_with('…')
    );
}

#[test]
fn a_hook_that_fails_is_told_by_its_place_among_them() {
    let hooks =
        "  hooks: {preStart: [{command: [\"true\"]}, {command: [\"false\"]}]}\n  restart: {policy: Never}\n";
    let system = System::up(&[("a.yaml", &sleeper("a", hooks))]);
    let told = until("it is told", || {
        system.ok(&["events", "a"]).lines().find(|line| line.contains("preStart hook")).map(str::to_owned)
    });
    assert!(told.contains("preStart hook 2 failed: exit code 1"), "{told}");
}

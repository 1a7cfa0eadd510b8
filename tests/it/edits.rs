//! Edits that concern no process are seen all the same: by `diff` and `plan` before, by `changes` after.

use serde_json::{Value, json};

use crate::support::{System, sleeper, text, until};

fn service(metadata: &str) -> String {
    sleeper("a", "").replace("{name: a}", &format!("{{name: a{metadata}}}"))
}

fn config(data: &str) -> String {
    format!("apiVersion: unisys.dev/v1\nkind: Config\nmetadata: {{name: c}}\nspec: {{data: {{{data}}}}}\n")
}

/// The actions of the change that has this one.
fn recorded(system: &System, unit: &str, reason: &str) -> Option<Value> {
    let changes = system.json(&["changes"]);
    let found = changes.as_array()?.iter().find(|change| {
        let actions = change["actions"].as_array();
        actions.is_some_and(|all| all.iter().any(|row| row["unit"] == unit && row["reason"] == reason))
    });
    found.cloned()
}

#[test]
fn what_concerns_no_process_is_shown_before_and_recorded_after_it_is_taken_in() {
    let mut system = System::new(&[("a.yaml", &service(", labels: {tier: web}"))]);
    system.start(&["--no-watch"]);
    system.ready(&["a"]);
    let pid = system.pid("a");
    let edited = |file: &str, content: Option<&str>, diff: &str, action: (&str, &str, &str)| {
        match content {
            Some(content) => system.write(&format!("manifests/{file}"), content),
            None => std::fs::remove_file(system.path(&format!("manifests/{file}"))).unwrap(),
        }
        let before = system.run(&["diff", "-f", "manifests"]);
        let shown = text(&before.stdout);
        assert!(before.status.code() == Some(1) && shown.contains(diff), "{diff}: {shown}");
        let plan = system.run(&["plan", "-f", "manifests", "-o", "json"]);
        assert_eq!(plan.status.code(), Some(1), "{diff}");
        let plan: Value = serde_json::from_slice(&plan.stdout).unwrap();
        let (verb, unit, reason) = action;
        let row = json!({"id": 1, "verb": verb, "unit": unit, "reason": reason, "after": []});
        assert_eq!(plan["actions"], json!([row]), "{diff}");
        let said = system.ok(&["apply", "-f", "manifests"]);
        assert!(said.contains(reason) && said.contains("accepted"), "{said}");
        let change = until("it is recorded", || recorded(&system, unit, reason));
        assert_eq!(
            (&change["outcome"], change["actions"].as_array().unwrap().len()),
            (&json!("Complete"), 1)
        );
        assert_eq!(change["cause"]["kind"], "Apply");
        assert_eq!(system.run(&["diff", "-f", "manifests"]).status.code(), Some(0), "{diff}");
        assert_eq!(system.pid("a"), pid, "{diff}");
    };
    let words = "metadata.labels.tier changed";
    let labels = service(", labels: {tier: db}");
    let line = "metadata.labels.tier: \"web\" → \"db\"";
    edited("a.yaml", Some(&labels), line, ("Update", "service/a", words));
    assert!(system.ok(&["get", "services", "-l", "tier=db"]).contains('a'));
    let noted = service(", labels: {tier: db}, annotations: {owner: me}");
    let line = "metadata.annotations.owner: null → \"me\"";
    edited("a.yaml", Some(&noted), line, ("Update", "service/a", "metadata.annotations.owner changed"));
    edited("c.yaml", Some(&config("A: b")), "+ config/c", ("Update", "config/c", "it is new"));
    let changed = config("A: c");
    edited("c.yaml", Some(&changed), "spec.data.A", ("Update", "config/c", "spec.data.A changed"));
    edited("c.yaml", None, "- config/c", ("Delete", "config/c", "it is in no manifest any more"));
}

#[test]
fn a_saved_label_is_a_recorded_change_beside_those_of_units() {
    let system = System::up(&[("a.yaml", &service("")), ("b.yaml", &sleeper("b", ""))]);
    system.ready(&["a", "b"]);
    let pid = system.pid("a");
    let both = service(", labels: {tier: web}") + "---\n" + &sleeper("b2", "");
    system.write("manifests/a.yaml", &both);
    let change = until("it is recorded, complete", || {
        recorded(&system, "service/a", "metadata.labels.tier changed")
            .filter(|change| change["outcome"] == "Complete")
    });
    assert_eq!(change["actions"].as_array().unwrap().len(), 2, "{change}");
    assert_eq!(system.pid("a"), pid);
    // Beside what needs a process.
    let b = "  replicas: 2\n";
    let b = sleeper("b", b).replace("{name: b}", "{name: b, annotations: {why: load}}");
    system.write("manifests/b.yaml", &b);
    let words = "spec.replicas changed; metadata.annotations.why changed";
    until("both are told", || recorded(&system, "service/b", words));
    system.write("manifests/a.yaml", &format!("# a comment\n{both}"));
    system.ok(&["wait", "--for=condition=Ready", "a"]);
    let revision = system.json(&["get", "system"])["status"]["revision"].clone();
    assert_eq!(revision, 3, "a comment is no edit");
}

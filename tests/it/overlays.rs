//! Overlays: what they change counts from where it is written, and what is wrong with them is said there.

use crate::support::{System, sleeper, text, until};

#[test]
fn an_overlay_that_vanishes_or_is_emptied_changes_nothing() {
    let mut system = System::new(&[("a.yaml", &sleeper("a", ""))]);
    std::fs::create_dir(system.path("over")).unwrap();
    let patch =
        "apiVersion: unisys.dev/v1\nkind: Service\nmetadata: {name: a}\nspec: {env: {LEVEL: debug}}\n";
    system.write("over/a.yaml", patch);
    system.start(&["--overlay", "over"]);
    system.ready(&["a"]);
    let a = system.pid("a");
    let said = |what: &'static str, times: usize| {
        until(what, || (system.ok(&["events"]).matches(what).count() >= times).then_some(()));
        assert_eq!(system.pid("a"), a, "{what}");
    };
    std::fs::rename(system.path("over"), system.path("elsewhere")).unwrap();
    said("cannot be read", 1);
    std::fs::rename(system.path("elsewhere"), system.path("over")).unwrap();
    said("can be read again", 1);
    std::fs::rename(system.path("over/a.yaml"), system.path("a.yaml")).unwrap();
    said("holds no manifests any more", 1);
    std::fs::rename(system.path("a.yaml"), system.path("over/a.yaml")).unwrap();
    said("can be read again", 2);
    system.write("over/a.yaml", "<<<<<<< HEAD\n");
    said("in the manifests, first", 1);
    system.write("over/a.yaml", "");
    said("a.yaml is empty now", 1);
    assert!(!system.ok(&["events"]).contains("valid again"), "what is empty is not well");
    // It is meant as soon as there is something else.
    system.write("over/a.yaml", &patch.replace("debug", "info"));
    until("another one runs", || (system.pid("a") != a).then_some(()));
}

#[test]
fn a_mistake_in_an_overlay_is_said_of_the_set_that_it_lies_over() {
    let patch = |name: &str| {
        format!(
            "apiVersion: unisys.dev/v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{env: {{X: over}}}}\n"
        )
    };
    let mut system = System::new(&[("a.yaml", &sleeper("a", ""))]);
    std::fs::create_dir(system.path("over")).unwrap();
    system.write("over/a.yaml", &patch("a"));
    system.start(&["--overlay", "over"]);
    let a = system.pid("a");
    system.write("over/b.yaml", &patch("b"));
    until("its set is said to be invalid", || system.ok(&["get", "sets"]).contains("Invalid").then_some(()));
    assert_eq!(system.json(&["get", "sets"])["items"][0]["status"]["pending"][0]["code"], "E1302");
    assert_eq!(system.pid("a"), a);
}

#[test]
fn paths_that_an_overlay_sets_count_from_it_and_its_values_are_placed_in_it() {
    let config = "apiVersion: unisys.dev/v1\nkind: Config\nmetadata: {name: c}\nspec: {files: [base.env]}\n";
    let a = sleeper(
        "a",
        "  envFrom: [{config: c}, {file: base.env}]\n  ports: [{name: s, protocol: unix, address: s}]\n",
    );
    let over = |kind: &str, name: &str, spec: &str| {
        format!("apiVersion: unisys.dev/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n{spec}")
    };
    let mut system = System::new(&[("a.yaml", &a), ("c.yaml", config), ("b.yaml", &sleeper("b", ""))]);
    std::fs::create_dir_all(system.path("over/data")).unwrap();
    system.write("manifests/base.env", "WHERE=base\nBASE=1\n");
    system.write("over/over.env", "WHERE=over\n");
    system.write("over/config.env", "CONFIG=over\n");
    system.write(
        "over/a.yaml",
        &over("Service", "a", "  workingDir: data\n  envFrom: [{config: c}, {file: over.env}]\n"),
    );
    system.write("over/b.yaml", &over("Service", "b", "  command: [./run.sh, ./as-it-is]\n"));
    system.write("over/c.yaml", &over("Config", "c", "  files: [config.env]\n"));
    std::fs::write(system.path("over/run.sh"), "#!/bin/sh\necho \"$0 $1\"; exec sleep 1000\n").unwrap();
    assert!(
        std::process::Command::new("chmod")
            .arg("+x")
            .arg(system.path("over/run.sh"))
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(
        system.ok(&["validate", "manifests", "--overlay", "over", "--machine"]).trim(),
        "valid: 3 objects"
    );
    system.start(&["--overlay", "over"]);
    system.ready(&["a", "b"]);
    let said = system.ok(&["exec", "a", "--", "sh", "-c", "pwd; echo $WHERE $CONFIG $BASE"]);
    assert_eq!(said, format!("{}\nover over\n", system.path("over/data").canonicalize().unwrap().display()));
    let run = system.path("over/run.sh").display().to_string();
    until("b has said its name", || {
        system.ok(&["logs", "b"]).contains(&format!("{run} ./as-it-is")).then_some(())
    });
    // What is wrong in an overlay is told with its place there, beside what is wrong in the base.
    system.write("over/b.yaml", &over("Service", "b", "  replicas: many\n  stop: {grace: 5}\n"));
    system.write(
        "over/a.yaml",
        &over("Service", "a", "  ports:\n  - {name: t, protocol: unix}\n  - {name: s, backlog: 5}\n"),
    );
    let (code, words) = system.fails(&["validate", "manifests", "--overlay", "over"]);
    assert_eq!(code, 1, "{words}");
    for place in ["over/b.yaml:5:3", "over/b.yaml:6:10"] {
        assert!(words.contains(place), "{place} is not in {words}");
    }
    system.write("over/b.yaml", &over("Service", "b", "  labels: {}\n"));
    let (_, words) = system.fails(&["validate", "manifests", "--overlay", "over"]);
    assert!(words.contains("over/b.yaml:5:3"), "{words}");
    system.write("over/b.yaml", &over("Service", "b", "  replicas: 1\n"));
    let (_, words) = system.fails(&["validate", "manifests", "--overlay", "over"]);
    // Ports are merged by their names: `s` comes first.
    for (code, place) in [("E1508", "over/a.yaml:7:15"), ("E1507", "over/a.yaml:6:5")] {
        let found = words.contains(code) && words.contains(place);
        assert!(found, "{code} {place} is not in {words}");
    }
}

#[test]
fn up_without_overlays_and_profile_has_those_of_the_last_one_and_says_so() {
    let config = "apiVersion: unisys.dev/v1\nkind: Config\nmetadata: {name: c}\nspec:\n  profiles: {eu: {REGION: eu}}\n";
    let manifests = [("a.yaml", &*sleeper("a", "  envFrom: [{config: c}]\n")), ("c.yaml", config)];
    let mut system = System::new(&manifests);
    system.write(
        "prod.yaml",
        "apiVersion: unisys.dev/v1\nkind: Service\nmetadata: {name: a}\nspec: {env: {LEVEL: prod}}\n",
    );
    let variables = |system: &System| {
        let environ = std::fs::read(format!("/proc/{}/environ", system.pid("a"))).unwrap();
        let environ = text(&environ);
        let value = |name: &str| {
            let of_name = |pair: &str| pair.strip_prefix(name)?.strip_prefix('=').map(str::to_owned);
            environ.split('\0').find_map(of_name)
        };
        (value("LEVEL"), value("REGION"))
    };
    let prod = || (Some("prod".to_owned()), Some("eu".to_owned()));
    system.start(&["--overlay", "prod.yaml", "--profile", "eu"]);
    assert_eq!(variables(&system), prod());
    // As a boot does.
    system.ok(&["down"]);
    system.ended();
    let plan = system.run(&["plan", "-f", "manifests"]);
    assert!(text(&plan.stderr).contains("note: with --overlay prod.yaml --profile eu"), "{plan:?}");
    system.start(&[]);
    assert_eq!(variables(&system), prod());
    let note = "note: with --overlay prod.yaml --profile eu, as the last `up` here (--plain: without)";
    assert!(system.terminal().contains(note), "{}", system.terminal());
    system.ok(&["down"]);
    system.ended();
    std::fs::rename(system.path("prod.yaml"), system.path("gone.yaml")).unwrap();
    let (code, words) = system.fails(&["up", "-d"]);
    assert!(code == 2 && words.contains("--plain"), "{words}");
    let plan = system.run(&["plan", "-f", "manifests", "--plain"]);
    assert!(plan.status.code() == Some(1) && !text(&plan.stderr).contains("note: with"), "{plan:?}");
    system.start(&["--plain"]);
    assert_eq!(variables(&system), (None, None));
    system.ok(&["down"]);
    system.ended();
    system.start(&[]);
    assert_eq!(variables(&system), (None, None), "this was the last one");
}

#[test]
fn who_did_not_have_saved_files_taken_in_is_not_surprised_by_the_next_up() {
    let mut system = System::new(&[("a.yaml", &sleeper("a", "")), ("b.yaml", &sleeper("b", ""))]);
    let again = |system: &mut System, extra: &[&str]| {
        system.ok(&["down"]);
        system.ended();
        system.start(extra);
        system.ready(&["a"]);
        system.terminal()
    };
    system.start(&["--no-watch", "a"]);
    let said = again(&mut system, &[]);
    assert!(said.contains("note: with --no-watch, as the last `up` here (--plain: without)"), "{said}");
    assert!(said.contains("note: the last `up` here was of a alone; this one is of all units"), "{said}");
    system.ready(&["b"]);
    let pid = system.pid("a");
    system.write("manifests/a.yaml", &sleeper("a", "  env: {A: b}\n"));
    let plan = system.run(&["plan", "-f", "manifests"]);
    assert!(plan.status.code() == Some(1) && system.pid("a") == pid, "nobody has applied it");
    let said = again(&mut system, &["--plain"]);
    assert!(!said.contains("note:"), "{said}");
    system.write("manifests/a.yaml", &sleeper("a", "  env: {A: c}\n"));
    until("it is taken in", || system.ok(&["events"]).contains("spec.env.A changed").then_some(()));
}

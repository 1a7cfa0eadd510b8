//! Manifests that are given to a command: standard input, one file, directories, overlays.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use crate::support::{System, sleeper, text, until};

#[test]
fn what_get_printed_is_the_same_wherever_it_is_given_back() {
    let system = System::up(&[("a.yaml", &sleeper("a", ""))]);
    for dir in ["b/bin", "elsewhere"] {
        fs::create_dir_all(system.path(dir)).unwrap();
    }
    system.write("b/.env", "LEVEL=debug\n");
    let config = "---\napiVersion: unisys.dev/v1\nkind: Config\nmetadata: {name: c}\nspec: {files: [.env]}\n";
    let rest = "  workingDir: bin\n  envFrom: [{file: .env}, {config: c}]\n";
    system.write("b/b.yaml", &format!("{}{config}", sleeper("b", rest)));
    system.ok(&["apply", "-f", "b/b.yaml"]);
    system.ready(&["b"]);
    let (pid, printed) = (system.pid("b"), system.ok(&["get", "service/b", "-o", "yaml"]));
    let printed = format!("{printed}---\n{}", system.ok(&["get", "config/c", "-o", "yaml"]));
    assert!(printed.contains(&format!("baseDir: {}", system.path("b").display())), "{printed}");
    for verb in ["diff", "apply"] {
        let mut child = system
            .command(&["--state-dir", "../.unified-system", verb, "-f", "-"])
            .current_dir(system.path("elsewhere"))
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(printed.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{verb}: {}{}", text(&output.stdout), text(&output.stderr));
    }
    assert_eq!((system.pid("b"), system.instance("b")["generation"].as_u64()), (pid, Some(1)));
}

#[test]
fn standard_input_is_applied_and_a_bad_one_changes_nothing() {
    let system = System::up(&[("a.yaml", &sleeper("a", ""))]);
    let feed = |body: &str| {
        let mut child = system
            .command(&["apply", "-f", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(body.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    assert!(feed(&sleeper("b", "")).status.success());
    system.ready(&["b"]);
    for nothing in ["", "# a comment\n", "---\n---\n"] {
        let output = feed(nothing);
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).contains("there is no manifest in it"), "{}", text(&output.stderr));
    }
    let output = feed("kind: Service\n");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("E1201"), "{}", text(&output.stderr));
    system.ready(&["a", "b"]);
}

#[test]
fn plan_and_apply_speak_of_their_own_set_and_fail_for_what_this_machine_lacks() {
    let missing = |name: &str| sleeper(name, "").replace("[sleep, \"1000\"]", "[/no/such/program]");
    let waits = sleeper("waits", "  dependsOn: [lacks]\n");
    let system = System::up(&[("lacks.yaml", &missing("lacks")), ("waits.yaml", &waits)]);
    system.write("b.yaml", &sleeper("b", ""));
    let of_others = |words: &str| words.contains("E2001") || words.contains("service/lacks Ready");
    let all = |output: &std::process::Output| {
        crate::support::text(&output.stdout) + &crate::support::text(&output.stderr)
    };
    let plan = system.run(&["plan", "-f", "b.yaml"]);
    assert_eq!(plan.status.code(), Some(1), "{}", all(&plan));
    assert!(!of_others(&all(&plan)), "{}", all(&plan));
    assert!(all(&plan).contains("in other sets: service/lacks, service/waits"), "{}", all(&plan));
    let apply = system.run(&["apply", "-f", "b.yaml"]);
    assert!(apply.status.success() && !of_others(&all(&apply)), "{}", all(&apply));
    assert_eq!(system.run(&["plan", "-f", "b.yaml"]).status.code(), Some(0));
    // Its own are told, and are no success.
    let of_set = system.run(&["plan", "-f", "manifests"]);
    assert_eq!(of_set.status.code(), Some(2), "{}", all(&of_set));
    assert!(of_others(&all(&of_set)) && all(&of_set).contains("service/waits"), "{}", all(&of_set));
    system.write("c.yaml", &missing("c"));
    let apply = system.run(&["apply", "-f", "c.yaml"]);
    assert_eq!(apply.status.code(), Some(1), "{}", all(&apply));
    assert!(all(&apply).contains("accepted") && all(&apply).contains("E2001"), "{}", all(&apply));
}

#[test]
fn what_is_wrong_in_a_file_or_standard_input_of_several_objects_is_placed_where_it_is_written() {
    use std::io::Write;
    let system = System::up(&[("k.yaml", &sleeper("k", ""))]);
    std::fs::create_dir(system.path("sub")).unwrap();
    system.write("sub/x.env", "X=beside\n");
    let text = |more: &str| {
        let a = sleeper("a", "  envFrom: [{file: x.env}]\n");
        format!("# two of them\n{a}---\n\n{}", sleeper("b", more))
    };
    let stdin = |args: &[&str], text: &str| {
        let mut command = system.command(args);
        let pipe = std::process::Stdio::piped;
        let mut child = command.stdin(pipe()).stderr(pipe()).stdout(pipe()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        (output.status.code().unwrap(), crate::support::text(&output.stderr))
    };
    for (more, code) in
        [("  dependsOn: [nobody]\n", "E1401"), ("  replicas: many\n", "E1204"), ("  replica: 1\n", "E1203")]
    {
        system.write("sub/both.yaml", &text(more));
        let (_, words) = system.fails(&["apply", "-f", "sub/both.yaml"]);
        let excerpt = format!(" 15 | {}", more.trim_end());
        for part in [code, "sub/both.yaml:15:", &excerpt] {
            assert!(words.contains(part), "{part} is not in {words}");
        }
        let (exit, words) = stdin(&["apply", "-f", "-"], &text(more));
        assert_eq!(exit, 1);
        for part in [code, "stdin.yaml:15:", &excerpt] {
            assert!(words.contains(part), "{part} is not in {words}");
        }
        assert_eq!(stdin(&["diff", "-f", "-"], &text(more)).0, 2);
    }
    // Paths count from the file, and of standard input from where the caller is.
    system.write("sub/both.yaml", &text(""));
    system.ok(&["apply", "-f", "sub/both.yaml", "--wait"]);
    assert_eq!(system.ok(&["exec", "a", "--", "printenv", "X"]), "beside\n");
    system.ok(&["diff", "-f", "sub/both.yaml"]);
    let (_, words) = stdin(&["plan", "-f", "-"], &text(""));
    for part in [
        "E2004",
        "stdin.yaml:7:",
        " 7 |   envFrom: [{file: x.env}]",
        &system.path("x.env").display().to_string(),
    ] {
        assert!(words.contains(part), "{part} is not in {words}");
    }
    system.write("x.env", "X=here\n");
    let here = text("").replace("\n---", "\n...\n# more\n---");
    assert_eq!(stdin(&["apply", "-f", "-", "--wait"], &here).0, 0);
    assert_eq!(system.ok(&["exec", "a", "--", "printenv", "X"]), "here\n");
}

#[test]
fn one_file_of_a_directory_is_applied_and_its_other_files_stay_as_they_were_accepted() {
    let mut system = System::new(&[("a.yaml", &sleeper("a", "")), ("b.yaml", &sleeper("b", ""))]);
    system.start(&["--no-watch"]);
    system.ready(&["a", "b"]);
    let (a, b) = (system.pid("a"), system.pid("b"));
    for name in ["a", "b"] {
        let edited = sleeper(name, "  env: {X: \"1\"}\n");
        std::fs::write(system.path(&format!("manifests/{name}.yaml")), edited).unwrap();
    }
    assert_eq!(system.fails(&["apply", "--prune", "-f", "manifests/a.yaml"]).0, 2);
    assert!(text(&system.run(&["diff", "-f", "manifests/a.yaml"]).stdout).contains("spec.env"));
    system.ok(&["apply", "-f", "manifests/a.yaml", "--wait=30s"]);
    assert_ne!(system.pid("a"), a);
    assert_eq!(system.pid("b"), b);
    std::fs::write(system.path("manifests/c.yaml"), sleeper("c", "")).unwrap();
    system.ok(&["apply", "-f", "manifests/c.yaml", "--wait=30s"]);
    assert_eq!((system.ready(&["c"]), system.pid("b")), ((), b));
    system.ok(&["apply", "-f", "manifests", "--wait=30s"]);
    assert_ne!(system.pid("b"), b);
}

#[test]
fn what_nobody_applied_is_not_taken_in_when_what_the_machine_lacked_is_there() {
    let missing = sleeper("missing", "").replace("[sleep, \"1000\"]", "[./shell, -c, exec sleep 1000]");
    let from_file = "  envFrom: [{file: ../.env}]\n";
    let mut system = System::new(&[
        ("a.yaml", &sleeper("a", "")),
        ("b.yaml", &sleeper("b", from_file)),
        ("missing.yaml", &missing),
    ]);
    system.write(".env", "X=1\n");
    system.start(&["--no-watch"]);
    system.ready(&["a", "b"]);
    let (a, b) = (system.pid("a"), system.pid("b"));
    system.write("manifests/a.yaml", &sleeper("a", "  env: {X: \"1\"}\n"));
    system.write(".env", "X=2\n");
    std::os::unix::fs::symlink("/bin/sh", system.path("manifests/shell")).unwrap();
    system.ready(&["missing"]);
    for (name, pid) in [("a", a), ("b", b)] {
        let unit = system.json(&["get", "service", name]);
        assert_eq!((unit["metadata"]["generation"].as_u64(), system.pid(name)), (Some(1), pid), "{name}");
    }
    system.ok(&["apply", "-f", "manifests", "--wait=30s"]);
    assert!(system.pid("a") != a && system.pid("b") != b);
}

#[test]
fn directories_of_one_name_are_sets_of_their_own() {
    let mut system = System::new(&[]);
    for (project, name) in [("x", "first"), ("y", "second")] {
        let dir = system.path(project).join("manifests");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("a.yaml"), sleeper(name, "")).unwrap();
    }
    system.start(&["-f", "x/manifests", "-f", "y/manifests"]);
    system.ready(&["first", "second"]);
    let sets = system.json(&["get", "sets"]);
    let names: Vec<&str> =
        sets["items"].as_array().unwrap().iter().filter_map(|set| set["metadata"]["name"].as_str()).collect();
    assert_eq!(names, ["x-manifests", "y-manifests"]);
    let second = system.pid("second");
    system.write("x/manifests/a.yaml", &sleeper("first", "  env: {X: \"1\"}\n"));
    until("an edit of one is taken", || system.ok(&["events", "first"]).contains("Changed").then_some(()));
    assert_eq!(system.pid("second"), second);
}

#[test]
fn a_profile_an_overlay_and_named_units_shape_what_is_started() {
    let config = "apiVersion: unisys.dev/v1\nkind: Config\nmetadata: {name: c}\nspec: {data: {L: info}, profiles: {loud: {L: debug}}}\n";
    let mut system = System::new(&[
        ("a.yaml", &sleeper("a", "  env: {L: {config: c, key: L}}\n")),
        ("b.yaml", &sleeper("b", "  dependsOn: [a]\n")),
        ("other.yaml", &sleeper("other", "")),
        ("c.yaml", config),
    ]);
    std::fs::create_dir(system.path("over")).unwrap();
    system.write(
        "over/a.yaml",
        "apiVersion: unisys.dev/v1\nkind: Service\nmetadata: {name: a}\nspec: {env: {X: over}}\n",
    );
    system.start(&["--profile", "loud", "--overlay", "over", "b"]);
    system.ready(&["a", "b"]);
    assert_eq!(system.json(&["get", "service", "other"])["status"]["instances"], serde_json::json!([]));
    assert_eq!(system.ok(&["exec", "a", "--", "sh", "-c", "echo $L $X"]).trim(), "debug over");
}

//! What a system that does not run has left, read by those who look back.

use std::fs;

use serde_json::Value;

use crate::support::{System, kill_both, python, sleeper, text, until};

/// Writes two lines and fails, for good.
fn failing() -> String {
    let code = "import sys\nprint('first')\nprint('second', file=sys.stderr)\nraise SystemExit(3)";
    python("a", code, "  restart: {policy: Never}\n")
}

/// One that has failed and left a dump.
fn with_a_crash() -> System {
    let system = System::up(&[("a.yaml", &failing())]);
    until("a crash dump", || (!system.json(&["crashes", "ls", "a"]).as_array()?.is_empty()).then_some(()));
    system
}

/// What verbs answer, and that each says that nothing runs.
fn told(system: &System, args: &[&str]) -> String {
    let output = system.run(args);
    let words = text(&output.stderr);
    assert!(output.status.success(), "{args:?}: {words}");
    assert!(words.contains("this is what was kept in"), "{args:?}: {words}");
    text(&output.stdout)
}

fn told_json(system: &System, args: &[&str]) -> Value {
    serde_json::from_str(&told(system, &[args, &["-o", "json"]].concat())).unwrap()
}

#[test]
fn what_was_told_of_a_system_that_has_ended_is_told_again() {
    let mut system = with_a_crash();
    let known = [["errors", "ls"], ["crashes", "ls"]].map(|args| system.json(&args));
    system.ok(&["down"]);
    assert_eq!(system.ended(), 0);
    let database = fs::read(system.path(".unified-system/state.db")).unwrap();
    let logs = told(&system, &["logs", "a"]);
    assert!(logs.contains("first\n") && logs.contains("second\n"), "{logs}");
    assert_eq!(told(&system, &["logs", "service/a", "-f", "--grep", "sec", "--tail", "1"]), "second\n");
    assert!(told(&system, &["events", "a"]).contains("ended: exit code 3"));
    let why = told(&system, &["why", "a"]);
    assert!(why.contains("unisys down") && why.contains("before that\n"), "{why}");
    assert!(why.contains("service/a: instance 0 is not started again") && why.contains("second"), "{why}");
    assert_eq!(told_json(&system, &["why", "service/a"])["subject"], "service/a");
    for (args, known) in [["errors", "ls"], ["crashes", "ls"]].iter().zip(known) {
        assert_eq!(told_json(&system, args), known, "{args:?}");
    }
    assert!(told(&system, &["errors", "stats"]).contains("service/a"));
    let id = told_json(&system, &["crashes"])[0]["id"].as_str().unwrap().to_owned();
    assert!(told(&system, &["crashes", "show", &id]).contains("second"));
    told(&system, &["crashes", "export", &id, "out.tar"]);
    assert!(fs::metadata(system.path("out.tar")).unwrap().len() > 1000);
    let changes = told_json(&system, &["changes"]);
    assert_eq!(told_json(&system, &["changes", "1"])[0], changes.as_array().unwrap().last().unwrap().clone());
    for args in [
        &["logs", "b"][..],
        &["events", "b"],
        &["why", "b"],
        &["why", "job/a"],
        &["crashes", "show", "b"],
        &["changes", "99"],
    ] {
        assert_eq!(system.run(args).status.code(), Some(4), "{args:?}");
    }
    // What is there now is nobody's who can be asked.
    assert_eq!(system.run(&["get"]).status.code(), Some(3));
    assert_eq!(fs::read(system.path(".unified-system/state.db")).unwrap(), database, "nothing is written");
    assert!(!system.path(".unified-system/state.db-wal").exists());
}

#[test]
fn what_a_killed_daemon_had_just_written_is_read_and_left_for_the_next() {
    let mut system = with_a_crash();
    until("it is written", || {
        let path = system.path(".unified-system/state.db-wal");
        fs::read(path).ok().filter(|bytes| bytes.windows(11).any(|part| part == b"fingerprint"))
    });
    kill_both(system.keeper_pid(), system.daemon_pid().unwrap());
    system.ended();
    let files = ["state.db", "state.db-wal"].map(|name| system.path(".unified-system").join(name));
    let before = files.each_ref().map(|file| fs::read(file).unwrap());
    assert_eq!(told_json(&system, &["errors", "ls"])[0]["unit"], "service/a");
    assert!(told(&system, &["logs", "a"]).contains("second\n"));
    assert_eq!(files.each_ref().map(|file| fs::read(file).unwrap()), before);
    // A reader mends nothing, nor reads what it does not know.
    fs::remove_file(&files[1]).unwrap();
    fs::write(&files[0], "no database at all, and longer than nothing").unwrap();
    let (code, words) = system.fails(&["errors", "ls"]);
    assert!(code == 1 && words.contains("state.db") && words.contains("left as it is"), "{words}");
    assert_eq!(fs::read_dir(system.path(".unified-system")).unwrap().flatten().count(), {
        let names = fs::read_dir(system.path(".unified-system")).unwrap().flatten();
        names.filter(|entry| !entry.file_name().to_string_lossy().contains("damaged")).count()
    });
}

#[test]
fn where_nothing_was_kept_there_is_no_daemon() {
    let system = System::new(&[]);
    for verb in [&["logs", "a"][..], &["events"], &["errors"], &["crashes"], &["changes"]] {
        assert_eq!(system.run(verb).status.code(), Some(3), "{verb:?}");
    }
    let (code, words) = system.fails(&["logs", "a", "--level", "warn"]);
    assert!(code == 2 && words.contains("not carried out yet") && words.contains("--grep"), "{words}");
}

#[test]
fn before_up_a_plan_knows_what_was_kept_and_up_does_what_it_says() {
    let job = "apiVersion: unisys.dev/v1\nkind: Job\nmetadata: {name: once}\nspec: {command: [\"true\"]}\n";
    let units = ["q", "r", "s"].map(|name| (format!("{name}.yaml"), sleeper(name, "")));
    let mut manifests: Vec<(&str, &str)> = units.iter().map(|(file, text)| (&**file, &**text)).collect();
    manifests.push(("once.yaml", job));
    let mut system = System::new(&manifests);
    let plan = |system: &System| system.run(&["plan", "-f", "manifests"]);
    let before = text(&plan(&system).stdout);
    for unit in ["service/q", "service/r", "service/s", "job/once"] {
        assert!(before.contains(unit), "{unit}: {before}");
    }
    system.start(&[]);
    system.ready(&["q", "r", "s"]);
    system.write("extra.yaml", &sleeper("given", ""));
    system.ok(&["apply", "-f", "extra.yaml", "--wait"]);
    system.ok(&["wait", "--for=condition=Completed", "once"]);
    system.ok(&["disable", "q"]);
    system.ok(&["stop", "r"]);
    system.ok(&["down"]);
    assert_eq!(system.ended(), 0);
    let database = system.path(".unified-system/state.db");
    let kept = fs::read(&database).unwrap();
    let output = plan(&system);
    let (table, words) = (text(&output.stdout), text(&output.stderr));
    assert!(words.contains("with what was kept in"), "{words}");
    let (actions, overrides) = table.split_once("OVERRIDE").unwrap();
    assert!(actions.contains("service/s") && actions.contains("service/given"), "{table}");
    for unit in ["service/q", "service/r", "job/once"] {
        assert!(!actions.contains(unit), "{unit}: {table}");
    }
    assert!(overrides.contains("unisys enable q") && overrides.contains("unisys start r"), "{table}");
    assert_eq!(fs::read(&database).unwrap(), kept, "nothing is written");
    system.start(&[]);
    system.ready(&["s", "given"]);
    for name in ["q", "r"] {
        assert!(system.instance(name)["pid"].is_null(), "{name}");
    }
    system.ok(&["down"]);
    assert_eq!(system.ended(), 0);
    fs::write(&database, "no database at all, and longer than nothing").unwrap();
    let output = plan(&system);
    let (table, words) = (text(&output.stdout), text(&output.stderr));
    assert!(words.contains("that was left out") && table.contains("service/q"), "{words}{table}");
}

#[test]
fn why_tells_of_what_was_deleted() {
    let system = System::up(&[("a.yaml", &failing()), ("b.yaml", &sleeper("b", ""))]);
    until("its end", || system.ok(&["why", "a"]).contains("exit code 3").then_some(()));
    fs::remove_file(system.path("manifests/a.yaml")).unwrap();
    system.ok(&["wait", "--for=delete", "a"]);
    let why = system.ok(&["why", "a"]);
    assert!(why.starts_with("service/a\n") && why.contains("nothing of it is left"), "{why}");
    assert!(why.contains("before that") && why.contains("exit code 3"), "{why}");
    assert_eq!(system.fails(&["why", "job/a"]).0, 4);
    assert_eq!(system.fails(&["why", "c"]).0, 4);
}

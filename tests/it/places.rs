//! Where a system's directory lies: copied, moved, looked for from below.

use std::fs;
use std::process::Command;

use super::support::{System, alive, kill_both, python, sleeper, text, until};

#[test]
fn a_copy_of_a_running_directory_is_a_system_of_its_own() {
    let mut system = System::up(&[("a.yaml", &sleeper("a", ""))]);
    system.ready(&["a"]);
    let (a, daemon) = (system.pid("a"), system.daemon_pid().unwrap());
    let mut copy = System::new(&[]);
    let from = [system.path(".unified-system"), system.path("manifests")];
    assert!(Command::new("cp").arg("-r").args(from).arg(copy.dir.path()).status().unwrap().success());
    copy.start(&[]);
    copy.ready(&["a"]);
    assert_ne!(copy.pid("a"), a);
    let note = format!("{} is a copy of {}", copy.path("").display(), system.path("").display());
    let said = copy.terminal();
    assert!(said.replace(".unified-system", "").contains(&note), "{said}");
    assert_eq!(system.pid("a"), a);
    // Not before `up` either: what the copied journal tells of is the other's.
    let late = System::new(&[]);
    let from = [system.path(".unified-system"), system.path("manifests")];
    assert!(Command::new("cp").arg("-r").args(from).arg(late.dir.path()).status().unwrap().success());
    kill_both(system.keeper_pid(), daemon);
    system.ended();
    until("the daemon is dead", || (!alive(daemon)).then_some(()));
    let (code, words) = late.fails(&["get"]);
    assert!(code == 3 && !words.contains("(pid"), "{words}");
    let (code, words) = system.fails(&["get"]);
    assert!(code == 3 && words.contains(&format!("a (pid {a})")), "{words}");
    copy.ok(&["down"]);
    copy.ended();
    assert!(alive(a), "the copy stopped what is not its own");
    system.start(&[]);
    assert_eq!(system.pid("a"), a);
}

#[test]
fn up_in_a_directory_below_is_that_of_the_system_that_the_other_commands_find() {
    let mut system = System::up(&[("a.yaml", &sleeper("a", ""))]);
    system.ready(&["a"]);
    let below = system.path("src/deep");
    std::fs::create_dir_all(&below).unwrap();
    let run = |args: &[&str]| {
        let output = system.command(args).current_dir(&below).output().unwrap();
        (output.status.code().unwrap(), text(&output.stderr))
    };
    let (code, words) = run(&["up", "-d"]);
    assert!(code == 5 && words.contains("already running"), "{words}");
    let (code, words) = run(&["up", "-d", "-f", "../../manifests"]);
    assert!(code == 5 && words.contains(&format!("pid {}", system.keeper_pid())), "{words}");
    assert!(words.contains("--state-dir"), "{words}");
    assert!(!below.join(".unified-system").exists());
    // One of its own is meant where there are manifests.
    std::fs::create_dir(below.join("manifests")).unwrap();
    std::fs::write(below.join("manifests/b.yaml"), sleeper("b", "")).unwrap();
    let (code, words) = run(&["up", "-d"]);
    assert!(code == 0 && words.contains("has a system of its own"), "{words}");
    assert_eq!(run(&["get", "service", "b"]).0, 0);
    assert_eq!(run(&["down"]).0, 0);
    let ordered = system.ok(&["down"]);
    system.ended();
    assert_eq!(ordered, "stopped\n");
    // What rests is found as well.
    std::fs::remove_dir_all(below.join(".unified-system")).unwrap();
    std::fs::remove_dir_all(below.join("manifests")).unwrap();
    let up = system.command(&["up", "-d"]).current_dir(&below).output().unwrap();
    assert!(
        up.status.success() && text(&up.stderr).contains("this is the system of"),
        "{}",
        text(&up.stderr)
    );
    assert!(!below.join(".unified-system").exists());
    system.ready(&["a"]);
    system.ok(&["down"]);
}

#[test]
fn what_only_a_running_system_has_comes_back_when_somebody_removes_it() {
    let says = "import os, time\nprint('one', flush=True)\nwhile not os.path.exists('go'): time.sleep(0.01)\nprint('two', flush=True)\ntime.sleep(1000)";
    let system = System::up(&[("a.yaml", &python("a", says, "")), ("b.yaml", &sleeper("b", ""))]);
    system.ready(&["a", "b"]);
    until("it has said something", || (system.log_of("a") == "one\n").then_some(()));
    let (a, b) = (system.pid("a"), system.pid("b"));
    let run = system.path(".unified-system/run");
    let id = fs::read_to_string(run.join("id")).unwrap();
    fs::remove_dir_all(&run).unwrap();
    system.write("manifests/go", "");
    until("its output arrives", || (system.log_of("a") == "one\ntwo\n").then_some(()));
    system.ok(&["restart", "b"]);
    assert_eq!(system.pid("a"), a);
    until("another b", || (system.pid("b") != b).then_some(()));
    assert_eq!(fs::read_to_string(run.join("id")).unwrap(), id);
    until("it is said", || system.terminal().contains("it is there again").then_some(()));
    // The next keeper and daemon find what runs.
    until("the journal is written again", || fs::read(run.join("journal")).ok());
    let b = system.pid("b");
    kill_both(system.keeper_pid(), system.daemon_pid().unwrap());
    let mut next = system;
    next.start(&[]);
    next.ready(&["a", "b"]);
    assert_eq!((next.pid("a"), next.pid("b")), (a, b));
}

#[test]
fn who_removes_the_database_while_nothing_runs_is_told_what_is_forgotten() {
    let job = "apiVersion: unisys.dev/v1\nkind: Job\nmetadata: {name: once}\nspec: {command: [\"true\"]}\n";
    let mut system = System::up(&[("a.yaml", &sleeper("a", "")), ("once.yaml", job)]);
    system.ready(&["a"]);
    system.ok(&["scale", "a=2"]);
    system.ok(&["wait", "--for=lifecycle=Done", "once"]);
    system.ok(&["down"]);
    assert_eq!(system.ended(), 0);
    for file in ["state.db", "state.db-wal", "state.db-shm"] {
        let _ = fs::remove_file(system.path(&format!(".unified-system/{file}")));
    }
    system.start(&[]);
    let told = system.ok(&["events", "system"]);
    for part in ["state.db was removed while nothing ran", "rolled back of a", "once runs again"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(system.terminal().contains("state.db was removed"), "{}", system.terminal());
    system.ready(&["a"]);
    assert_eq!(system.json(&["get", "service", "a"])["status"]["replicas"], 1);
    system.ok(&["down"]);
    assert_eq!(system.ended(), 0);
    system.start(&[]);
    assert!(!system.ok(&["events", "system", "-n", "5"]).contains("state.db was removed"), "once");
}

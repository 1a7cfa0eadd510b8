//! Where a system's directory lies: copied, moved, looked for from below.

use std::process::Command;

use super::support::{System, alive, kill_both, sleeper, text, until};

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

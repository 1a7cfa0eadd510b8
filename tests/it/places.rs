//! Where a system's directory lies: copied, moved, looked for from below.

use std::process::Command;

use super::support::{System, alive, kill_both, sleeper, until};

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

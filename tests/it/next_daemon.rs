//! What the next daemon knows, and that there is one.

use crate::support::{System, signal, sleeper, until};

#[test]
fn how_the_one_before_ended_is_known_to_the_next_daemon() {
    let system = System::up(&[("a.yaml", &sleeper("a", ""))]);
    let (pid, daemon) = (system.pid("a"), until("a daemon", || system.daemon_pid()));
    signal(pid, "KILL");
    until("another pid", || (system.instance("a")["pid"] != pid).then_some(()));
    system.ready(&["a"]);
    let known = system.instance("a")["lastExit"].clone();
    assert_eq!(known["signal"], 9);
    signal(daemon, "KILL");
    until("another daemon", || system.daemon_pid().filter(|pid| *pid != daemon));
    assert_eq!(system.instance("a")["lastExit"], known);
}

#[test]
fn a_keeper_whose_binary_is_gone_from_the_disk_has_a_daemon_all_the_same() {
    let mut system = System::new(&[("a.yaml", &sleeper("a", ""))]);
    system.has_own_binary();
    system.start(&[]);
    let (pid, daemon) = (system.pid("a"), until("a daemon", || system.daemon_pid()));
    system.move_binary();
    signal(daemon, "KILL");
    until("another daemon", || system.daemon_pid().filter(|pid| *pid != daemon));
    assert_eq!(system.pid("a"), pid);
}

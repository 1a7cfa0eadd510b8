//! The way down, when there is a time for it.

use crate::support::{System, python, signal, text, until};

/// It hears no signal, and has a long time to.
fn deaf(name: &str, rest: &str) -> String {
    let code = "import signal,time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('deaf', flush=True)\ntime.sleep(1000)";
    python(name, code, &format!("  stop: {{grace: 10m}}\n{rest}"))
}

#[test]
fn down_ends_in_the_time_that_it_is_given_and_names_who_was_killed() {
    let mut system = System::up(&[("a.yaml", &deaf("a", "")), ("b.yaml", &deaf("b", "  dependsOn: [a]\n"))]);
    for name in ["a", "b"] {
        until("it is deaf", || system.ok(&["logs", name]).contains("deaf").then_some(()));
    }
    let output = system.run(&["down", "--timeout", "1s"]);
    let words = text(&output.stderr);
    assert!(output.status.success(), "{words}");
    assert_eq!(system.ended(), 0);
    assert!(words.contains("what had not stopped is killed (service/a, service/b)"), "{words}");
    assert_eq!(system.fails(&["down", "--timeout", "soon"]).0, 2);
}

#[test]
fn a_system_that_has_to_stop_in_time_does_so_for_a_signal_too() {
    let settings =
        "apiVersion: unisys.dev/v1\nkind: System\nmetadata: {name: system}\nspec: {stopDeadline: 1s}\n";
    let mut system = System::up(&[("a.yaml", &deaf("a", "")), ("s.yaml", settings)]);
    until("it is deaf", || system.ok(&["logs", "a"]).contains("deaf").then_some(()));
    signal(system.keeper_pid(), "TERM");
    assert_eq!(system.ended(), 0);
    let (events, errors) = (system.ok(&["events", "a"]), system.ok(&["errors", "ls"]));
    assert!(events.contains("is killed: the time for everything to stop is over"), "{events}");
    assert!(errors.contains("timeout"), "{errors}");
}

#[test]
fn a_hook_that_begins_after_the_time_is_over_is_ended_too() {
    let hook = "  hooks: {postStop: [{command: [sleep, '1000'], timeout: 10m}]}\n";
    let mut system = System::up(&[("a.yaml", &deaf("a", hook))]);
    until("it is deaf", || system.ok(&["logs", "a"]).contains("deaf").then_some(()));
    let output = system.run(&["down", "--timeout", "1s"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(system.ended(), 0, "by the daemon, in its order, not by the keeper after it");
}

#[test]
fn another_daemon_keeps_the_time_that_was_given_to_the_one_before() {
    let settings =
        "apiVersion: unisys.dev/v1\nkind: System\nmetadata: {name: system}\nspec: {stopDeadline: 1s}\n";
    let code = "import os,signal,time\nstops=[]\nsignal.signal(signal.SIGTERM, lambda *_: stops.append(1))\nprint('hears', flush=True)\nwhile not os.path.exists('../go'):\n  time.sleep(.25)\n  if stops: print('stopping', flush=True)";
    let slow = python("a", code, "  stop: {grace: 10m}\n");
    let mut system = System::up(&[("a.yaml", &slow), ("s.yaml", settings)]);
    until("it hears", || system.ok(&["logs", "a"]).contains("hears").then_some(()));
    let mut down = system.command(&["down", "--timeout", "5m"]).spawn().unwrap();
    let said = || system.log_of("a").matches("stopping").count();
    until("it is told to stop", || (said() > 0).then_some(()));
    let daemon = system.daemon_pid().unwrap();
    signal(daemon, "KILL");
    until("another daemon", || system.daemon_pid().filter(|pid| *pid != daemon));
    let before = said();
    // A second and a half of its own time, which is more than the system would have without being asked.
    until("it goes on", || (said() > before + 6).then_some(()));
    system.write("go", "");
    assert_eq!(system.ended(), 0);
    assert!(!system.log_of("a").is_empty());
    let _ = down.wait();
    assert!(!system.ok(&["events"]).contains("StopDeadline"));
}

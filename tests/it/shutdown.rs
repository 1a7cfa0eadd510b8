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
    assert!(words.contains("service/a, service/b had not stopped and are killed"), "{words}");
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

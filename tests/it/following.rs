//! Who follows a log sees each line once, whatever becomes of the unit, the daemon and the keeper meanwhile.

use std::fs;

use crate::support::{Follower, System, python, signal, sleeper, until};

/// Counts until `enough` is there.
const COUNTS: &str = "import itertools, os, sys, time\nfor n in itertools.count():\n  sys.stdout.write('%d\\n' % n); time.sleep(0.002)\n  \
                      if os.path.exists('enough'): break\nprint('end', flush=True); time.sleep(1000)";

#[test]
fn a_follower_is_there_for_the_first_line_and_for_the_unit_that_comes_after_it() {
    let says = |word: &str| {
        let waits = format!(
            "import os, time\nwhile not os.path.exists('{word}'): time.sleep(0.01)\nprint('{word}', flush=True); time.sleep(1000)"
        );
        python("a", &waits, "")
    };
    let system = System::up(&[("a.yaml", &says("first")), ("z.yaml", &sleeper("z", ""))]);
    system.ready(&["a"]);
    let follower = Follower::of(system.command(&["logs", "-f", "a"]));
    system.write("manifests/first", "");
    follower.shows("first");
    fs::remove_file(system.path("manifests/a.yaml")).unwrap();
    system.ok(&["wait", "--for=delete", "a"]);
    system.write("manifests/a.yaml", &says("second"));
    system.ready(&["a"]);
    system.write("manifests/second", "");
    follower.shows("second");
    assert_eq!(follower.shown(), ["first", "second"]);
    let (code, words) = system.fails(&["logs", "-f", "a", "nobody"]);
    assert!(code == 4 && words.contains("nobody"), "{code} {words}");
    system.ok(&["down"]);
    let (code, words) = follower.ended();
    assert_eq!(code, Some(0), "{words}");
    assert!(words.contains("the system has ended"), "{words}");
}

#[test]
fn a_follower_sees_each_line_once_over_the_deaths_of_daemons_and_keepers() {
    let system = System::up(&[("a.yaml", &python("a", COUNTS, ""))]);
    system.ready(&["a"]);
    let follower = Follower::of(system.command(&["logs", "-f", "--tail=100000", "a"]));
    let goes_on = |what: &str| {
        let seen = follower.shown().len();
        until(what, || (follower.shown().len() > seen + 20).then_some(()));
    };
    goes_on("it follows");
    let keeper = || system.json(&["get", "system"])["status"]["keeperPid"].as_u64().unwrap() as u32;
    for round in 0..4 {
        let (daemon, of) = (system.daemon_pid().unwrap(), keeper());
        signal(if round % 2 == 0 { daemon } else { of }, "KILL");
        until("another daemon", || system.daemon_pid().filter(|pid| *pid != daemon));
        goes_on("it follows on");
    }
    system.write("manifests/enough", "");
    follower.shows("end");
    let shown = follower.shown();
    let expected: Vec<String> =
        (0..shown.len() - 1).map(|number| number.to_string()).chain(["end".to_owned()]).collect();
    assert_eq!(shown, expected);
}

#[test]
fn a_follower_of_what_was_taken_away_with_its_log_goes_on_under_the_next_daemon() {
    let waits = "import os, time\nprint('begin', flush=True)\nwhile not os.path.exists('go'): time.sleep(0.01)\n\
                 print('here', flush=True); time.sleep(1000)";
    let system = System::up(&[("a.yaml", &python("a", waits, "")), ("z.yaml", &sleeper("z", ""))]);
    let follower = Follower::of(system.command(&["logs", "-f", "a"]));
    follower.shows("begin");
    fs::remove_file(system.path("manifests/a.yaml")).unwrap();
    system.ok(&["wait", "--for=delete", "a"]);
    for file in ["services/a.log", "index/a"] {
        fs::remove_file(system.path(&format!(".unified-system/logs/{file}"))).unwrap();
    }
    let daemon = system.daemon_pid().unwrap();
    signal(daemon, "KILL");
    until("another daemon", || system.daemon_pid().filter(|pid| *pid != daemon));
    system.write("manifests/a.yaml", &python("a", waits, ""));
    system.ready(&["a"]);
    system.write("manifests/go", "");
    follower.shows("here");
    assert_eq!(follower.shown(), ["begin", "begin", "here"]);
}

//! The keeper dies, also together with its daemon, and at moments at which it has not written down all that it did.

use std::collections::BTreeSet;
use std::fs;
use std::process::Stdio;

use crate::support::{System, alive, kill_both, python, signal, sleeper, text, until};

fn version(version: u32, rest: &str) -> String {
    sleeper("a", &format!("  env: {{VERSION: \"{version}\"}}\n  update: {{minReady: 100ms}}\n{rest}"))
}

fn state(system: &System) -> String {
    system.rollout("a")["state"].as_str().unwrap_or_default().to_owned()
}

fn of_version(pid: u32, version: u32) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let wanted = format!("VERSION={version}").into_bytes();
    environment.split(|byte| *byte == 0).any(|line| line == wanted)
}

/// Keeper and daemon are killed; what the keeper wrote of its latest start, and all after that, never came to the disk.
fn killed_before_it_was_written(system: &mut System) {
    let (keeper, daemon) = (system.keeper_pid(), system.daemon_pid().unwrap());
    kill_both(keeper, daemon);
    system.ended();
    until("the daemon is dead", || (!alive(daemon)).then_some(()));
    let path = system.path(".unified-system/run/journal");
    let text = fs::read_to_string(&path).unwrap();
    let last = text.rfind(" {\"instance\":").expect("it was written");
    let line = text[..last].rfind('\n').unwrap() + 1;
    fs::write(path, &text[..line]).unwrap();
}

#[test]
fn what_was_started_and_not_written_down_is_found_by_its_marker() {
    let mut system = System::up(&[("a.yaml", &version(1, ""))]);
    system.ready(&["a"]);
    let pid = system.pid("a");
    killed_before_it_was_written(&mut system);
    system.start(&[]);
    assert_eq!(system.pid("a"), pid, "it is not started again");
    system.ready(&["a"]);
    assert_eq!(system.marked(), [pid]);
    // It is watched, and what it is known as is what runs.
    signal(pid, "KILL");
    let next = until("it is started again", || {
        system.instance("a")["pid"].as_u64().filter(|next| *next != u64::from(pid))
    });
    until("only that one runs", || (system.marked() == [next as u32]).then_some(()));
}

#[test]
fn a_new_version_that_was_started_and_not_written_down_goes_on_with_its_rollout() {
    let mut system = System::up(&[("a.yaml", &version(1, ""))]);
    until("it is good", || (state(&system) == "Complete").then_some(()));
    let old = system.pid("a");
    let waits = "  probes: {readiness: {file: {path: go}, period: 50ms}}\n";
    system.write("manifests/a.yaml", &version(2, waits));
    let new = until("the new one is there", || system.marked().into_iter().find(|pid| *pid != old));
    until("it is on its way in", || {
        let steps = system.rollout("a")["steps"].as_array()?.len();
        (steps == 2 && of_version(new, 2)).then_some(())
    });
    killed_before_it_was_written(&mut system);
    system.start(&[]);
    until("both are known", || (system.rollout("a")["steps"].as_array()?.len() == 2).then_some(()));
    assert!(alive(old) && alive(new), "neither was touched");
    assert_eq!(state(&system), "Progressing");
    system.write("manifests/go", "");
    until("the rollout is complete", || (state(&system) == "Complete").then_some(()));
    until("only the new one runs", || (system.marked() == [new]).then_some(()));
    assert_eq!(system.pid("a"), new);
}

#[test]
fn a_keeper_that_is_killed_as_soon_as_a_new_version_runs_costs_no_rollout() {
    let system = System::up(&[("a.yaml", &version(1, ""))]);
    until("it is good", || (state(&system) == "Complete").then_some(()));
    for round in 2..6 {
        let old = system.pid("a");
        let keeper = system.json(&["get", "system"])["status"]["keeperPid"].as_u64().unwrap() as u32;
        system.write("manifests/a.yaml", &version(round, ""));
        // As soon as it has been forked: its start may be written down or not.
        until("something new runs", || system.marked().into_iter().find(|pid| *pid != old));
        signal(keeper, "KILL");
        until("the new version runs alone", || {
            let [pid] = system.marked()[..] else { return None };
            (of_version(pid, round) && system.instance_if_any("a")?["pid"] == pid).then_some(())
        });
        until("its rollout is complete", || (state(&system) == "Complete").then_some(()));
    }
}

#[test]
fn programs_stay_heard_over_the_socket_or_pipe_they_have_when_the_keeper_dies() {
    // Connected once, as many libraries do; and a startup that is told by a newline when somebody wants it.
    let beats = "import os,socket,time\ns=socket.socket(socket.AF_UNIX,socket.SOCK_DGRAM)\ns.connect(os.environ['NOTIFY_SOCKET'])\n\
                 n=0\nwhile True:\n  n+=1; s.send(b'READY=1\\nWATCHDOG=1\\nSTATUS=%d' % n); time.sleep(0.05)";
    let told = "import os,time\nwhile not os.path.exists('go'): time.sleep(0.01)\nos.write(7, b'\\n'); time.sleep(1000)";
    let probe = |how: &str| format!("  probes: {{startup: {{notify: '{how}', period: 1h}}}}\n");
    let system = System::up(&[
        ("a.yaml", &python("a", beats, &format!("{}  watchdog: {{heartbeat: 10s}}\n", probe("systemd")))),
        ("b.yaml", &python("b", told, &probe("fd:7"))),
    ]);
    system.ready(&["a"]);
    let (a, b) = (system.pid("a"), system.pid("b"));
    for _ in 0..2 {
        let daemon = system.daemon_pid().unwrap();
        let keeper = system.json(&["get", "system"])["status"]["keeperPid"].as_u64().unwrap() as u32;
        signal(keeper, "KILL");
        until("another daemon", || system.daemon_pid().filter(|pid| *pid != daemon));
        until("a is heard by it", || system.instance("a")["statusText"].as_str().map(drop));
    }
    system.write("manifests/go", "");
    system.ready(&["b"]);
    assert_eq!((system.pid("a"), system.pid("b")), (a, b));
}

#[test]
fn keeper_and_daemon_killed_at_once_and_the_next_up_adopts() {
    let mut system = System::up(&[("a.yaml", &sleeper("a", ""))]);
    let a = system.pid("a");
    let daemon = system.daemon_pid().unwrap();
    kill_both(system.keeper_pid(), daemon);
    system.ended();
    assert!(alive(a));
    system.start(&[]);
    assert_eq!(system.pid("a"), a);
    system.ok(&["down"]);
    assert_eq!(system.ended(), 0);
    assert!(!alive(a));
}

#[test]
fn who_asks_a_system_without_keeper_and_daemon_is_told_that_its_services_run() {
    let mut system = System::up(&[("a.yaml", &sleeper("a", "")), ("b.yaml", &sleeper("b", ""))]);
    system.ready(&["a", "b"]);
    let (a, b) = (system.pid("a"), system.pid("b"));
    let (keeper, daemon) = (system.keeper_pid(), system.daemon_pid().unwrap());
    // Stopped first: neither is to find the other dead.
    kill_both(keeper, daemon);
    system.ended();
    until("the daemon is dead", || (!alive(daemon)).then_some(()));
    for verb in [&["down"][..], &["get"], &["stop", "a"]] {
        let (code, words) = system.fails(verb);
        assert_eq!(code, 3, "{verb:?}: {words}");
        for part in [
            "its services still do",
            &format!("a (pid {a})"),
            &format!("b (pid {b})"),
            "`unisys up` takes them up",
        ] {
            assert!(words.contains(part), "{verb:?}: {part} is not in {words}");
        }
    }
    system.start(&[]);
    assert_eq!((system.pid("a"), system.pid("b")), (a, b));
    system.ok(&["down"]);
    assert_eq!(system.ended(), 0);
    assert!(!alive(a) && !alive(b));
    let (code, words) = system.fails(&["down"]);
    assert!(code == 3 && !words.contains("still do"), "{code} {words}");
}

#[test]
fn nobody_takes_the_place_of_a_keeper_that_ended_in_order() {
    let mut system = System::up(&[("a.yaml", &sleeper("a", ""))]);
    let keeper = system.keeper_pid().to_string();
    let words = fs::read_to_string(format!("/proc/{}/cmdline", system.daemon_pid().unwrap())).unwrap();
    let options = words.split('\0').skip_while(|word| *word != "--options").nth(1).unwrap().to_owned();
    system.ok(&["down"]);
    assert_eq!(system.ended(), 0);
    let mut late = std::process::Command::new(crate::support::BINARY);
    late.args(["keeper", "--heir-of", &keeper, "--options", &options]);
    let output = late.output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output.stderr));
    assert!(system.processes().is_empty());
}

#[test]
fn keepers_that_are_killed_as_soon_as_they_are_there_leave_one_that_takes_over() {
    let system = System::up(&[("a.yaml", &sleeper("a", ""))]);
    let a = system.pid("a");
    let daemon = system.daemon_pid().unwrap();
    let mut known: BTreeSet<u32> = system.processes().into_iter().collect();
    signal(system.keeper_pid(), "KILL");
    // An heir is killed as soon as it is seen: mostly before it has a daemon of its own.
    for _ in 0..3 {
        let heir = until("an heir", || {
            let file =
                |pid: &u32, name| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
            // What an heir has just forked is called like it until it becomes a daemon.
            let of_heir = |pid: &u32| {
                let stat = file(pid, "stat");
                let parent = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)?.parse().ok());
                parent.is_some_and(|parent: u32| file(&parent, "cmdline").contains("--heir-of"))
            };
            let is_heir = |pid: &u32| file(pid, "cmdline").contains("--heir-of") && !of_heir(pid);
            system.processes().into_iter().find(|pid| !known.contains(pid) && is_heir(pid))
        });
        known.insert(heir);
        signal(heir, "KILL");
    }
    until("another daemon", || system.daemon_pid().filter(|pid| *pid != daemon));
    assert_eq!(system.pid("a"), a);
    signal(a, "KILL");
    until("it is watched again", || {
        (system.instance("a")["pid"] != a).then(|| system.instance("a")["pid"].as_u64())?
    });
}

#[test]
fn who_watches_or_waits_goes_on_when_the_keeper_dies() {
    let system = System::up(&[("a.yaml", &sleeper("a", ""))]);
    system.ready(&["a"]);
    let watches: [&[&str]; 4] = [
        &["events", "-w"],
        &["get", "-w"],
        &["logs", "-f", "a"],
        &["wait", "--for=delete", "a", "--timeout", "60s"],
    ];
    let mut watchers: Vec<_> = watches
        .iter()
        .map(|args| system.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
        .collect();
    let keeper = || system.json(&["get", "system"])["status"]["keeperPid"].as_u64().unwrap() as u32;
    for _ in 0..3 {
        let before = keeper();
        signal(before, "KILL");
        until("another keeper", || (keeper() != before).then_some(()));
    }
    for (watcher, args) in watchers.iter_mut().zip(watches) {
        assert_eq!(watcher.try_wait().unwrap(), None, "{args:?}");
    }
    fs::remove_file(system.path("manifests/a.yaml")).unwrap();
    system.write("manifests/b.yaml", &sleeper("b", ""));
    let waits = watchers.pop().unwrap().wait_with_output().unwrap();
    assert_eq!(waits.status.code(), Some(0), "{}", text(&waits.stderr));
    system.ok(&["down"]);
    for (watcher, args) in watchers.into_iter().zip(watches) {
        let watched = watcher.wait_with_output().unwrap();
        assert_eq!(watched.status.code(), Some(0), "{args:?}: {}", text(&watched.stderr));
    }
}

#[test]
fn up_that_is_started_again_stands_in_for_the_heir_of_the_one_that_was_killed() {
    let mut system = System::up(&[("a.yaml", &sleeper("a", ""))]);
    system.ready(&["a"]);
    let a = system.pid("a");
    let holder = |system: &System| -> Option<u32> {
        fs::read_to_string(system.path(".unified-system/lock")).ok()?.trim().parse().ok()
    };
    let next = |system: &System, former: u32| {
        until("an heir", || holder(system).filter(|pid| *pid != former && alive(*pid)))
    };
    let first = system.keeper_pid();
    signal(first, "KILL");
    system.ended();
    let heir = next(&system, first);
    // As a supervisor does.
    system.start(&[]);
    let stands = |system: &System, heir: u32| {
        let note = format!("in the background (keeper, pid {heir})");
        until("it stands in", || system.terminal().contains(&note).then_some(()));
    };
    stands(&system, heir);
    let (code, words) = system.fails(&["up", "-d"]);
    assert!(code == 5 && words.contains("already running"), "{words}");
    let other = system.run(&["up", "--profile", "other"]);
    assert_eq!(other.status.code(), Some(5), "it is told something else: {}", text(&other.stderr));
    signal(heir, "KILL");
    let second = next(&system, heir);
    stands(&system, second);
    // With the daemon there is no heir.
    let daemon = until("a daemon", || system.daemon_pid());
    crate::support::kill_both(second, daemon);
    until("it is the keeper", || (holder(&system) == Some(system.keeper_pid())).then_some(()));
    assert_eq!(system.pid("a"), a);
    let keeper = system.keeper_pid();
    signal(keeper, "KILL");
    system.ended();
    let last = next(&system, keeper);
    system.start(&[]);
    stands(&system, last);
    signal(system.keeper_pid(), "TERM");
    assert_eq!(system.ended(), 0);
    assert!(!alive(a) && !alive(last));
}

//! Edits, orders and programs that a rollout or reload cannot carry out: what is healthy stays, and it is said why.

use crate::support::{System, free_port, python, signal, sleeper, text, until};

const WELL: &str = "  update: {minReady: 100ms, progressDeadline: 5s}\n";

/// Until a unit's latest rollout ended so; its record.
fn outcome(system: &System, unit: &str, wanted: &str) -> serde_json::Value {
    until(&format!("{unit} is {wanted}"), || (system.rollout(unit)["state"] == wanted).then_some(()));
    system.json(&["rollout", "history", unit]).as_array().unwrap().last().unwrap().clone()
}

/// A unit that runs well, is edited, and is found to run on as it did.
fn edit_that_changes_nothing(system: &System, text: &str) -> serde_json::Value {
    outcome(system, "a", "Complete");
    let pid = system.pid("a");
    system.write("manifests/a.yaml", text);
    let record = outcome(system, "a", "RolledBack");
    assert_eq!(system.pid("a"), pid, "what was good was not touched");
    record
}

#[test]
fn a_listener_that_cannot_be_had_rolls_back_and_touches_nobody() {
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = held.local_addr().unwrap().port();
    let long = "x".repeat(120);
    for (port, words) in [
        (format!("{{name: p, port: {taken}, listen: true}}"), format!("held by pid {}", std::process::id())),
        ("{name: p, protocol: unix, address: a.yaml, listen: true}".into(), "a.yaml".into()),
        (format!("{{name: p, protocol: unix, address: {long}, listen: true}}"), long.clone()),
    ] {
        let system = System::up(&[("a.yaml", &sleeper("a", WELL))]);
        let text = sleeper("a", &format!("{WELL}  ports: [{port}]\n"));
        let record = edit_that_changes_nothing(&system, &text);
        assert!(record["message"].to_string().contains(&words), "{record}");
        assert_eq!(
            std::fs::read_to_string(system.path("manifests/a.yaml")).unwrap(),
            text,
            "a file is a file"
        );
    }
}

#[test]
fn a_port_that_is_taken_after_the_look_at_the_machine_names_its_holder_and_rolls_back() {
    // Nobody holds it when the edit is planned: a relative of the program does by the time of the start.
    let port = free_port();
    let system = System::up(&[("a.yaml", &sleeper("a", WELL))]);
    outcome(&system, "a", "Complete");
    let pid = system.pid("a");
    system.ok(&["rollout", "pause", "a"]);
    system.write(
        "manifests/a.yaml",
        &sleeper("a", &format!("{WELL}  ports: [{{name: p, port: {port}, listen: true}}]\n")),
    );
    until("the edit waits", || {
        crate::support::text(&system.run(&["plan"]).stdout).contains("to be resumed").then_some(())
    });
    let held = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    system.ok(&["rollout", "resume", "a"]);
    let record = outcome(&system, "a", "RolledBack");
    let named = format!("held by pid {}", std::process::id());
    assert!(system.ok(&["events", "a"]).contains(&named) || record.to_string().contains(&named), "{record}");
    assert_eq!(system.pid("a"), pid);
    drop(held);
}

#[test]
fn a_new_version_that_ignores_its_listener_is_told_and_rolled_back() {
    let port = free_port();
    // Without a probe it is Ready until it fails to bind: that has to be within `minReady`.
    let update = "  update: {minReady: 3s, progressDeadline: 30s}\n";
    let ports = format!("{update}  ports: [{{name: http, port: {port}, listen: true}}]\n");
    let well = "import socket\ns=socket.socket(fileno=3)\nwhile True: s.accept()[0].close()";
    let system = System::up(&[("a.yaml", &python("a", well, &ports))]);
    let ignores = format!("import socket\nsocket.create_server(('127.0.0.1', {port}))");
    edit_that_changes_nothing(&system, &python("a", &ignores, &ports));
    until("it is said", || system.ok(&["events"]).contains("ListenIgnored").then_some(()));
}

#[test]
fn a_version_that_dies_a_second_after_it_was_ready_comes_back_by_itself() {
    let dies = "import time; time.sleep(1); raise SystemExit(3)";
    // Within `minReady` it never gets to replace anything.
    let patient = "  update: {minReady: 15s, progressDeadline: 25s}\n";
    let system = System::up(&[("a.yaml", &sleeper("a", patient))]);
    edit_that_changes_nothing(&system, &python("a", dies, patient));
    // After it, it has: what was good is started again. Its third crash counts for one progressDeadline.
    let at_once = "  update: {minReady: 0s, progressDeadline: 2m}\n";
    let system = System::up(&[("a.yaml", &sleeper("a", at_once))]);
    outcome(&system, "a", "Complete");
    system.write("manifests/a.yaml", &python("a", dies, at_once));
    outcome(&system, "a", "RolledBack");
    system.ready(&["a"]);
    let command = std::fs::read_to_string(format!("/proc/{}/cmdline", system.pid("a"))).unwrap();
    assert!(command.starts_with("sleep"), "{command}");
}

#[test]
fn a_flapping_edit_makes_few_plans_and_ends_with_the_last_one() {
    let system = System::up(&[("a.yaml", &sleeper("a", "  update: {minReady: 0s}\n"))]);
    outcome(&system, "a", "Complete");
    let revision = || system.json(&["get", "service", "a"])["metadata"]["revision"].as_u64().unwrap();
    let before = revision();
    let began = std::time::Instant::now();
    for version in 1..=50 {
        let text = sleeper("a", &format!("  update: {{minReady: 0s}}\n  env: {{VERSION: \"{version}\"}}\n"));
        system.write("manifests/a.yaml", &text);
        std::thread::park_timeout(std::time::Duration::from_millis(50));
    }
    until("the last one runs", || {
        let environment = std::fs::read(format!("/proc/{}/environ", system.pid("a"))).ok()?;
        environment.split(|byte| *byte == 0).any(|line| line == b"VERSION=50").then_some(())
    });
    outcome(&system, "a", "Complete");
    // 200 ms of quiet precede each look at the files.
    let most = began.elapsed().as_millis() as u64 / 200 + 1;
    let made = revision() - before;
    assert!((1..=most).contains(&made), "{made} revisions of 50 saves, at most {most}");
}

#[test]
fn undo_to_a_version_that_is_gone_or_whose_program_is_gone_changes_nothing_that_runs() {
    let of = |program: &str| {
        format!(
            "apiVersion: unisys.dev/v1\nkind: Service\nmetadata: {{name: a}}\nspec:\n  command: [{program}, \"1000\"]\n{WELL}"
        )
    };
    let mut system = System::new(&[("a.yaml", &of("./first"))]);
    std::fs::copy("/bin/sleep", system.path("manifests/first")).unwrap();
    system.start(&["-f", "manifests"]);
    outcome(&system, "a", "Complete");
    let first = system.json(&["get", "service", "a"])["metadata"]["revision"].as_u64().unwrap().to_string();
    system.write("manifests/a.yaml", &of("sleep"));
    until("the second is complete", || {
        let status = system.rollout("a");
        (status["state"] == "Complete" && status["toGeneration"] == 2).then_some(())
    });
    let pid = system.pid("a");
    assert_eq!(system.fails(&["rollout", "undo", "a", "--to-revision", "999"]).0, 4);
    std::fs::remove_file(system.path("manifests/first")).unwrap();
    let output = system.run(&["rollout", "undo", "a", "--to-revision", &first]);
    if output.status.success() {
        until("it is given up", || system.ok(&["events", "a"]).contains("RolledBack").then_some(()));
    } else {
        assert!(crate::support::text(&output.stderr).contains("first"), "{output:?}");
    }
    assert_eq!(system.pid("a"), pid);
    system.ready(&["a"]);
}

#[test]
fn a_limit_of_open_files_that_is_too_low_for_one_more_touches_nobody_and_says_what_to_do() {
    let others = "apiVersion: unisys.dev/v1\nkind: Service\nmetadata: {name: others}\nspec:\n  command: [sh, -c, \"echo out; echo err >&2; exec sleep 1000\"]\n  replicas: 20\n  dependsOn: [a]\n  circuitBreaker: null\n  restart: {backoff: {initial: 50ms, max: 200ms}}\n";
    let mut system = System::new(&[("a.yaml", &sleeper("a", WELL)), ("others.yaml", others)]);
    system.within = vec!["prlimit".into(), "--nofile=64:64".into()];
    system.start(&[]);
    // There is no room for all of them: what runs is heard, and so is whoever asks.
    let pids = || -> Vec<u64> {
        let instances = system.json(&["get", "service", "others"])["status"]["instances"].clone();
        instances.as_array().unwrap().iter().filter_map(|instance| instance["pid"].as_u64()).collect()
    };
    let refused = || system.ok(&["events", "others"]).matches("SpawnFailed").count();
    let (mut running, mut since) = (Vec::new(), 0);
    until("no other one fits", || {
        let now = pids();
        if now != running {
            (running, since) = (now, refused());
        }
        (refused() >= since + 20 && since > 0).then_some(())
    });
    until("each that runs is heard", || {
        let logs = system.ok(&["logs", "others", "--tail", "1000"]);
        let heard = |text: &str| logs.lines().filter(|line| line.ends_with(text)).count();
        (heard("out") >= pids().len() && heard("err") >= pids().len()).then_some(())
    });
    let before = pids();
    assert!(before.len() > 3, "{before:?}");
    let changed = sleeper("a", &format!("{WELL}  env: {{A: b}}\n"));
    let record = edit_that_changes_nothing(&system, &changed);
    for words in ["unisys may have 64 files open", "LimitNOFILE"] {
        assert!(record["message"].to_string().contains(words), "{record}");
    }
    // The next daemon finds descriptors too.
    let (pid, daemon) = (system.pid("a"), system.daemon_pid().unwrap());
    signal(daemon, "KILL");
    until("another daemon", || system.daemon_pid().filter(|pid| *pid != daemon));
    assert_eq!(system.pid("a"), pid);
    let after = pids();
    assert!(before.iter().all(|pid| after.contains(pid)), "{before:?} {after:?}");
}

#[test]
fn a_limit_of_open_files_of_a_service_counts_what_it_has_open_and_what_does_not_fit_is_said() {
    let (one, two) = (free_port(), free_port());
    // Each of these has three or four descriptors in the keeper: numbers that are above the limit below.
    let others = "apiVersion: unisys.dev/v1\nkind: Service\nmetadata: {name: others}\nspec: {command: [sleep, \"1000\"], replicas: 20}\n";
    let ports = format!(
        "{WELL}  ports: [{{name: one, port: {one}, listen: true}}, {{name: two, port: {two}, listen: true}}]\n"
    );
    let limited = |limit: u64| sleeper("a", &format!("{ports}  resources: {{nofile: {limit}}}\n"));
    let system = System::up(&[("a.yaml", &sleeper("a", &ports)), ("others.yaml", others)]);
    system.ready(&["others"]);
    let record = edit_that_changes_nothing(&system, &limited(5));
    assert!(
        record["message"].to_string().contains("`resources.nofile` is 5, and the program has 5 open"),
        "{record}"
    );
    let pid = system.pid("a");
    system.write("manifests/a.yaml", &limited(1 << 40));
    until("more than the kernel allows is said", || {
        let record = system.json(&["rollout", "history", "a"]).as_array()?.last()?.to_string();
        (record.contains("`nofile` cannot be 1099511627776: the ") && record.contains("RolledBack"))
            .then_some(())
    });
    assert_eq!(system.pid("a"), pid);
    system.write("manifests/a.yaml", &limited(16));
    until("one that fits is complete", || {
        let last = system.json(&["rollout", "history", "a"]).as_array()?.last()?.clone();
        (last["outcome"] == "Complete" && system.pid("a") != pid).then_some(())
    });
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", system.pid("a"))).unwrap();
    let open = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(open.split_whitespace().nth(3), Some("16"), "{open}");
}

/// Reads `conf` again at SIGHUP, and tells so in the way that is written there.
const RELOADS: &str = "import os, signal, socket, time
def tell(text):
  s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.sendto(text.encode(), os.environ['NOTIFY_SOCKET'])
def again(*_):
  how = open('conf').read()
  began = {'good': f'\\nMONOTONIC_USEC={time.monotonic_ns() // 1000}', 'stale': '\\nMONOTONIC_USEC=1'}.get(how, '')
  if how != 'silent': tell('RELOADING=1' + began)
  print('read', how)
  tell('READY=1')
signal.signal(signal.SIGHUP, again)
tell('READY=1')
while True: signal.pause()
";

fn reloading(reload: &str) -> System {
    let rest = format!(
        "  workingDir: ..\n  reload: {reload}\n  reloadOn: [../conf]\n  probes: {{readiness: {{notify: systemd}}}}\n{WELL}"
    );
    let mut system = System::new(&[("a.yaml", &python("a", RELOADS, &rest))]);
    system.write("conf", "first");
    system.start(&[]);
    outcome(&system, "a", "Complete");
    system
}

#[test]
fn a_reload_by_notify_is_over_when_the_program_says_so_of_this_very_reload() {
    let system = reloading("{notify: true, timeout: 1s}");
    let pid = system.pid("a");
    for (conf, said) in [
        ("good", "has read its files again (READY=1)"),
        ("stale", "it did not say so within 1s"),
        ("undated", "RELOADING=1 only without MONOTONIC_USEC"),
        ("silent", "it did not say so within 1s"),
    ] {
        let count = || system.ok(&["events", "a"]).matches(said).count();
        let before = count();
        system.write("conf", conf);
        until(&format!("{conf} is told"), || (count() > before).then_some(()));
        assert!(system.ok(&["logs", "a"]).contains(&format!("read {conf}")));
        assert_eq!(system.pid("a"), pid, "{conf}: the same process");
    }
    system.ready(&["a"]);
}

#[test]
fn a_reload_command_that_hangs_or_fails_leaves_the_program_as_it_is_and_is_said() {
    for (command, said) in [
        ("[sleep, \"1000\"]", "ReloadFailed"),
        ("[\"false\"]", "ReloadFailed"),
        ("[./no-such-program]", "ReloadFailed"),
        ("[\"true\"]", "has read its files again"),
    ] {
        let system = reloading(&format!("{{command: {command}, timeout: 1s}}"));
        let pid = system.pid("a");
        system.write("conf", "other");
        until(&format!("{command} is told"), || system.ok(&["events", "a"]).contains(said).then_some(()));
        let events = system.ok(&["events", "a"]);
        assert!(said != "ReloadFailed" || events.contains("what it read before is in force"), "{events}");
        assert_eq!(system.pid("a"), pid);
        system.ready(&["a"]);
    }
}

#[test]
fn a_change_that_was_not_read_has_failed_until_it_is_read_after_all() {
    let system = reloading("{command: [test, -e, mended]}");
    let (pid, daemon) = (system.pid("a"), system.daemon_pid().unwrap());
    system.write("conf", "other");
    outcome(&system, "a", "Failed");
    signal(daemon, "KILL");
    until("the next daemon", || system.daemon_pid().filter(|pid| *pid != daemon));
    let record = outcome(&system, "a", "Failed");
    assert_eq!((record["revision"].as_u64(), record["outcome"].as_str()), (Some(2), Some("Failed")));
    let status = system.run(&["rollout", "status", "a"]);
    let told = text(&status.stdout);
    let unread = format!("ReloadFailed: instance 0 (pid {pid}) did not read its files again");
    assert!(told.contains("Failed: revision 2 (generation 1 to 2); revision 1 runs"), "{told}");
    assert!(told.contains(&unread) && status.status.code() == Some(1), "{told}");
    assert!(
        system.ok(&["get"]).contains("ReloadFailed")
            && system.ok(&["why", "a"]).contains(&format!("(pid {pid}) did not"))
    );
    system.ok(&["wait", "--for=condition=Reloaded=False", "a"]);
    let (code, said) = system.fails(&["reload", "a"]);
    assert!(code == 1 && said.contains("did not read its files again"), "{code}: {said}");
    system.write("mended", "");
    system.ok(&["reload", "a"]);
    assert_eq!(outcome(&system, "a", "Complete")["outcome"], "Complete");
    assert!(system.ok(&["get"]).contains("Ready ") && system.pid("a") == pid);
}

#[test]
fn what_went_back_starts_as_it_first_did_under_the_next_daemon_too() {
    let of = |run: &str| {
        let code = format!("import os, sys\nprint(sys.argv[-1], os.environ['PORT'], flush=True)\n{run}");
        let code = serde_json::to_string(&code).unwrap();
        format!(
            "apiVersion: unisys.dev/v1\nkind: Service\nmetadata: {{name: a}}\nspec:\n  command: [python3, -u, -c, {code}, 'greet=${{GREETING}}:$$']\n  env: {{GREETING: hello}}\n  ports: [{{name: h, port: auto}}]\n  update: {{strategy: Recreate, minReady: 100ms, progressDeadline: 3s}}\n  restart: {{backoff: {{initial: 50ms, factor: 1}}}}\n"
        )
    };
    let serve = "import time\ntime.sleep(9999)";
    let system = System::up(&[("a.yaml", &of(serve))]);
    until("it runs", || (system.log_of("a").lines().count() == 1).then_some(()));
    system.write("manifests/a.yaml", &of("sys.exit(3)"));
    outcome(&system, "a", "RolledBack");
    system.ready(&["a"]);
    let daemon = system.daemon_pid().unwrap();
    signal(daemon, "KILL");
    until("another daemon", || system.daemon_pid().filter(|pid| *pid != daemon));
    let before = system.pid("a");
    let lines = system.log_of("a").lines().count();
    signal(before, "KILL");
    until("it says its words", || (system.log_of("a").lines().count() > lines).then_some(()));
    until("another process", || {
        (system.instance_if_any("a")?["pid"].as_u64()? != u64::from(before)).then_some(())
    });
    system.ready(&["a"]);
    let log = system.log_of("a");
    let (first, last) = (log.lines().next().unwrap(), log.lines().last().unwrap());
    let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(
        (&words(first)[0], &words(last)[0]),
        (&"greet=hello:$".to_owned(), &"greet=hello:$".to_owned())
    );
    let ports = system.instance("a")["ports"].to_string();
    assert!(ports.contains(&words(last)[1]), "{last}: {ports}");
}

#[test]
fn a_restart_into_a_program_that_fails_is_given_up_and_the_former_instance_stays() {
    let well = "#!/bin/sh\nexec sleep 9999\n";
    // Longer than what fails at once takes on a machine that is busy.
    let rest = "  restart: {backoff: {initial: 10ms, factor: 1}}\n  update: {minReady: 1s}\n";
    let mut system = System::new(&[]);
    let (program, new) = (system.path("program"), system.path("new"));
    let write = |text: &str| {
        std::fs::write(&new, text).unwrap();
        std::process::Command::new("chmod").arg("755").arg(&new).status().unwrap();
        std::fs::rename(&new, &program).unwrap();
    };
    write(well);
    let text = format!(
        "apiVersion: unisys.dev/v1\nkind: Service\nmetadata: {{name: a}}\nspec:\n  command: [../program]\n{rest}"
    );
    system.write("manifests/a.yaml", &text);
    system.start(&[]);
    system.ready(&["a"]);
    let pid = system.pid("a");
    // While the first rollout is on probation, and after another edit, which there is something to go back to from.
    for edited in [false, true] {
        write("#!/bin/sh\nexit 1\n");
        if edited {
            system.write("manifests/a.yaml", &text.replace("minReady: 1s", "minReady: 1100ms"));
            until("it is taken in", || system.ok(&["changes"]).contains("a.yaml changed").then_some(()));
            // In the middle of it the edit would be blamed, and go back.
            until("it is good", || (system.rollout("a")["state"] == "Complete").then_some(()));
        }
        let given_up = |events: &str| events.matches("the restart is given up").count();
        let before = given_up(&system.ok(&["events"]));
        let (code, words) = system.fails(&["restart", "a"]);
        assert_eq!(code, 1, "{words}");
        until("it is given up", || (given_up(&system.ok(&["events"])) > before).then_some(()));
        until("nothing is on its way", || {
            (system.json(&["get", "service", "a"])["status"]["summary"] == "Ready").then_some(())
        });
        assert_eq!(system.pid("a"), pid);
        until("it is good", || (system.rollout("a")["state"] == "Complete").then_some(()));
        // One that says by its code that no further start mends it is given up at once.
        write("#!/bin/sh\nexit 78\n");
        let (code, words) = system.fails(&["restart", "a"]);
        assert!(code == 1 && words.contains("a is not restarted, the instance before it runs on"), "{words}");
        assert_eq!(system.pid("a"), pid);
    }
    write(well);
    system.ok(&["restart", "a"]);
    until("another process", || (system.pid("a") != pid).then_some(()));
}

#[test]
fn a_file_that_goes_and_comes_back_as_it_was_changes_nothing() {
    for field in ["  restartOn: [f]\n", "  reloadOn: [f]\n  reload: {signal: SIGTERM}\n"] {
        let system = System::new(&[("a.yaml", &sleeper("a", &format!("{WELL}{field}")))]);
        system.write("manifests/f", "1");
        let mut system = system;
        system.start(&[]);
        outcome(&system, "a", "Complete");
        let (pid, generation) = (system.pid("a"), system.rollout("a")["toGeneration"].clone());
        let gone = || std::fs::remove_file(system.path("manifests/f")).unwrap();
        gone();
        system.ok(&["apply", "-f", "manifests"]);
        system.write("manifests/f", "1");
        system.ok(&["apply", "-f", "manifests"]);
        assert_eq!(system.rollout("a")["toGeneration"], generation, "{field}");
        assert_eq!(system.pid("a"), pid, "{field}");
        // What comes back as another one is a change.
        gone();
        system.ok(&["apply", "-f", "manifests"]);
        system.write("manifests/f", "2");
        system.ok(&["apply", "-f", "manifests"]);
        until("it is another one", || {
            (system.instance("a")["pid"].as_u64()? != u64::from(pid)).then_some(())
        });
    }
}

#[test]
fn what_was_edited_while_nothing_ran_goes_back_as_any_other_edit() {
    let version = |command: &str, version: u32| {
        let rest = format!(
            "  env: {{VERSION: \"{version}\"}}\n  update: {{minReady: 100ms, progressDeadline: 5s}}\n"
        );
        sleeper("a", &rest).replace("[sleep, \"1000\"]", command)
    };
    let mut system = System::up(&[("a.yaml", &version("[sleep, \"1000\"]", 1))]);
    let until_state = |system: &System, state: &str| {
        until(state, || (system.rollout("a")["state"] == state).then_some(()));
    };
    until_state(&system, "Complete");
    for paused in [false, true] {
        if paused {
            system.ok(&["rollout", "pause", "a"]);
        }
        system.ok(&["down"]);
        system.ended();
        system.write("manifests/a.yaml", &version("[\"false\"]", if paused { 3 } else { 2 }));
        system.start(&[]);
        until_state(&system, if paused { "Paused" } else { "RolledBack" });
        // It says what it goes back to before that runs.
        until("it runs", || (system.instance("a")["ready"] == true).then_some(()));
        let environment = std::fs::read(format!("/proc/{}/environ", system.pid("a"))).unwrap();
        assert!(environment.split(|byte| *byte == 0).any(|own| own == b"VERSION=1"), "{paused}");
    }
}

#[test]
fn why_has_the_last_words_of_a_version_that_was_given_up_and_keeps_them_over_an_order() {
    let system = System::up(&[("a.yaml", &sleeper("a", WELL))]);
    outcome(&system, "a", "Complete");
    let code = "import sys\nprint('no such table: users', file=sys.stderr)\nsys.exit(3)";
    system.write("manifests/a.yaml", &python("a", code, WELL));
    outcome(&system, "a", "RolledBack");
    let words = |told: &str| told.contains("| no such table: users") && told.contains("is given up");
    until("its last words", || words(&system.ok(&["why", "a"])).then_some(()));
    system.ok(&["scale", "a=2"]);
    let why = system.ok(&["why", "a"]);
    assert!(words(&why) && why.contains("unisys scale from 1 to 2"), "{why}");
}

//! What is ordered by hand: what stays of it, what keeps it from having an effect, and how both are told.

use crate::support::{System, alive, python, signal, sleeper, text, until};

/// The fields of the overrides in force.
fn overrides(system: &System, name: &str) -> Vec<String> {
    let object = system.json(&["get", "service", name]);
    let list = object["status"]["overrides"].as_array().cloned().unwrap_or_default();
    list.iter().map(|over| over["field"].as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn what_is_disabled_and_started_runs_until_everything_is_stopped_and_stays_disabled() {
    let mut system = System::up(&[("a.yaml", &sleeper("a", "")), ("b.yaml", &sleeper("b", ""))]);
    system.ready(&["a", "b"]);
    system.ok(&["disable", "a"]);
    system.ok(&["start", "a"]);
    let pid = system.pid("a");
    assert_eq!(overrides(&system, "a"), ["disabled", "started"]);
    let daemon = system.daemon_pid().unwrap();
    signal(daemon, "KILL");
    until("another daemon", || system.daemon_pid().filter(|pid| *pid != daemon));
    until("it is adopted", || (system.instance("a")["pid"] == pid).then_some(()));
    assert_eq!(overrides(&system, "a"), ["disabled", "started"]);
    system.ok(&["down"]);
    assert_eq!(system.ended(), 0);
    assert!(!alive(pid));
    system.start(&[]);
    system.ready(&["b"]);
    assert_eq!(system.json(&["get", "service", "a"])["status"]["summary"], "Disabled");
    assert_eq!(overrides(&system, "a"), ["disabled"]);
    // A restart starts what does not run, as a start does.
    system.ok(&["restart", "a"]);
    system.pid("a");
    system.ok(&["stop", "a"]);
    assert_eq!(overrides(&system, "a"), ["stopped", "disabled"]);
    system.ok(&["enable", "a"]);
    assert_eq!(system.json(&["get", "service", "a"])["status"]["summary"], "Stopped");
    system.ok(&["start", "a"]);
    assert!(overrides(&system, "a").is_empty());
}

#[test]
fn who_does_not_come_to_run_is_told_with_what_holds_it_and_what_to_do() {
    let crash = |name: &str, rest: &str| {
        let head = format!("apiVersion: unisys.dev/v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n");
        format!(
            "{head}  command: [sh, -c, \"exit 3\"]\n  probes: {{readiness: {{file: {{path: nowhere}}}}}}\n{rest}"
        )
    };
    let breaker = "  circuitBreaker: {failures: 1, openFor: 1h, maxOpen: 1h}\n  restart: {backoff: {initial: 1h, max: 1h}}\n";
    let missing = "apiVersion: unisys.dev/v1\nkind: Service\nmetadata: {name: missing}\nspec: {command: [no-such-program-at-all]}\n";
    let off = "apiVersion: unisys.dev/v1\nkind: Config\nmetadata: {name: c}\nspec: {data: {ON: \"false\"}}\n";
    let system = System::up(&[
        ("a.yaml", &sleeper("a", "")),
        ("b.yaml", &sleeper("b", "  dependsOn: [a]\n")),
        ("never.yaml", &crash("never", "  restart: {policy: Never}\n")),
        ("after.yaml", &sleeper("after", "  dependsOn: [never]\n")),
        (
            "again.yaml",
            &crash("again", "  restart: {backoff: {initial: 1h, max: 1h}}\n  circuitBreaker: null\n"),
        ),
        ("circuit.yaml", &crash("circuit", breaker)),
        ("held.yaml", &sleeper("held", "  dependsOn: [circuit]\n")),
        ("missing.yaml", missing),
        ("c.yaml", off),
        ("off.yaml", &sleeper("off", "  enabledWhen: {config: c, key: \"ON\"}\n")),
    ]);
    system.ready(&["a", "b"]);
    system.ok(&["stop", "a"]);
    for (verb, name, words) in [
        ("start", "b", &["b is not started", "it depends on service/a: stopped by ", "`unisys start a`"][..]),
        ("restart", "b", &["b is not started", "`unisys start a`"]),
        ("start", "never", &["never has failed", "exit code 3", "`unisys logs never`"]),
        ("restart", "never", &["never has failed"]),
        ("start", "after", &["after waits for service/never Ready", "`unisys why never`"]),
        ("start", "again", &["again does not stay up", "exit code 3", "it is tried again at 2"]),
        (
            "start",
            "circuit",
            &["circuit is held", "its circuit is open until 2", "`unisys circuit reset circuit`"],
        ),
        (
            "start",
            "held",
            &["held is held", "the circuit of service/circuit", "`unisys circuit reset circuit`"],
        ),
        ("start", "missing", &["missing cannot start", "no-such-program-at-all"]),
        ("start", "off", &["off is not started", "`enabledWhen` of service/off"]),
    ] {
        let (code, said) = system.fails(&[verb, name]);
        assert_eq!(code, 1, "{verb} {name}: {said}");
        for word in words {
            assert!(said.contains(word), "{verb} {name}: {word} is not in: {said}");
        }
    }
    let (code, said) = system.fails(&["scale", "a=2"]);
    assert!(code == 0 && said.contains("note: a is not started: stopped by "), "{code} {said}");
    system.ok(&["start", "a", "b"]);
    system.ready(&["a", "b"]);
    assert_eq!(system.json(&["get", "service", "a"])["status"]["readyReplicas"], 2);
}

#[test]
fn a_stop_names_what_it_takes_along() {
    let system = System::up(&[
        ("a.yaml", &sleeper("a", "")),
        ("b.yaml", &sleeper("b", "  dependsOn: [a]\n")),
        ("c.yaml", &sleeper("c", "  dependsOn: [b]\n")),
        ("d.yaml", &sleeper("d", "")),
    ]);
    system.ready(&["a", "b", "c", "d"]);
    for (verb, back) in [("stop", "start"), ("disable", "enable")] {
        let output = system.run(&[verb, "a"]);
        let said = text(&output.stderr);
        assert!(
            output.status.success() && said.contains("stopped first: b, c (") && said.contains(back),
            "{said}"
        );
        system.ok(&[back, "a"]);
        system.ready(&["a", "b", "c"]);
    }
    let said = text(&system.run(&["stop", "c", "d"]).stderr);
    assert!(!said.contains("stopped first"), "{said}");
}

#[test]
fn who_waits_for_a_start_is_told_what_it_waits_for_and_of_the_end_of_everything() {
    let slow = sleeper("slow", "  hooks: {preStart: [{command: [sleep, \"1000\"], timeout: 1h}]}\n");
    let system = System::up(&[("a.yaml", &sleeper("a", "")), ("slow.yaml", &slow)]);
    system.ready(&["a"]);
    let mut start = system.command(&["start", "slow"]).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut said = std::io::BufReader::new(start.stderr.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut said, &mut line).unwrap();
    assert_eq!(line, "waiting: slow is Starting\n");
    system.ok(&["down"]);
    std::io::Read::read_to_string(&mut said, &mut line).unwrap();
    let code = start.wait().unwrap().code();
    // The daemon may be gone before it could answer.
    assert!(matches!(code, Some(1 | 3)), "{code:?}: {line}");
    assert!(!line.contains("there is no unit"), "{line}");
}

#[test]
fn plan_and_diff_show_what_is_in_force_though_no_manifest_says_it() {
    let system = System::up(&[("a.yaml", &sleeper("a", "")), ("b.yaml", &sleeper("b", ""))]);
    system.ready(&["a", "b"]);
    assert!(system.json(&["plan"])["overrides"].as_array().is_some_and(Vec::is_empty));
    assert!(!system.ok(&["diff", "-f", "manifests"]).contains("OVERRIDE"));
    system.ok(&["scale", "a=3"]);
    system.ok(&["disable", "b"]);
    system.ok(&["start", "b"]);
    until("three", || (system.json(&["get", "service", "a"])["status"]["readyReplicas"] == 3).then_some(()));
    for args in [&["plan"][..], &["plan", "-f", "manifests"], &["diff", "-f", "manifests"]] {
        // There is nothing to do about it.
        let shown = system.ok(args);
        let lines: Vec<Vec<&str>> = shown.lines().map(|line| line.split_whitespace().collect()).collect();
        let row = |start: &[&str], end: &[&str]| {
            let found = lines.iter().any(|line| line.starts_with(start) && line.ends_with(end));
            assert!(found, "{args:?}: {start:?} {end:?} is not in\n{shown}");
        };
        row(&["OVERRIDE", "FIELD", "MANIFEST", "NOW", "BY", "AT"], &["ENDS", "WITH"]);
        row(&["a", "spec.replicas", "1", "3"], &["unisys", "scale", "a=1"]);
        row(&["b", "disabled", "false", "true"], &["unisys", "enable", "b"]);
        row(&["b", "started", "false", "true"], &["the", "next", "up"]);
        let json = system.json(args);
        let fields: Vec<_> =
            json["overrides"].as_array().unwrap().iter().map(|over| &over["field"]).collect();
        assert_eq!(fields, ["spec.replicas", "disabled", "started"]);
        assert_eq!(json["overrides"][0]["endsWith"], "unisys scale a=1");
    }
    system.ok(&["scale", "a=1"]);
    system.ok(&["enable", "b"]);
    assert!(!system.ok(&["diff", "-f", "manifests"]).contains("OVERRIDE"));
}

#[test]
fn what_is_wrong_is_seen_in_the_table_with_until_when() {
    let breaker = "  circuitBreaker: {failures: 1, openFor: 20m}\n";
    let crash = "apiVersion: unisys.dev/v1\nkind: Service\nmetadata: {name: crash}\nspec:\n  command: [sh, -c, \"exit 3\"]\n";
    let external = |name: &str, port: u16| {
        format!(
            "apiVersion: unisys.dev/v1\nkind: External\nmetadata: {{name: {name}}}\nspec: {{probes: {{readiness: {{tcp: {{host: 127.0.0.1, port: {port}}}, period: 100ms, failureThreshold: 1}}}}}}\n"
        )
    };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let began = std::time::SystemTime::now();
    let system = System::up(&[
        ("crash.yaml", &format!("{crash}{breaker}")),
        ("up.yaml", &external("there", port)),
        ("down.yaml", &external("gone", 1)),
        ("frozen.yaml", &sleeper("frozen", "  watchdog: {heartbeat: 300ms, onFreeze: Alert}\n")),
    ]);
    let row = |name: &str| {
        let shown = system.ok(&["get", "services"]);
        shown.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned()
    };
    until("the circuit is open", || row("crash").contains("CircuitOpen until ").then_some(()));
    // The end of a time that is counted on another clock: each look may find it a millisecond away.
    let until_when = system.json(&["get", "service", "crash"])["status"]["circuit"]["openUntil"].clone();
    let until_when: jiff::Timestamp = until_when.as_str().unwrap().parse().unwrap();
    let clocks = [-1, 0, 1].map(|off| {
        let at = until_when + jiff::SignedDuration::from_secs(off);
        at.strftime("%H:%M:%SZ").to_string()
    });
    let shown = row("crash");
    assert!(clocks.iter().any(|clock| shown.contains(&format!("CircuitOpen until {clock}"))), "{shown}");
    let told = system.ok(&["describe", "crash"]);
    let at = told.lines().find_map(|line| line.split("Open until ").nth(1)?.split(';').next());
    let at: jiff::Timestamp = at.unwrap().parse().unwrap();
    assert!(at.duration_since(until_when).abs() < jiff::SignedDuration::from_secs(1), "{told}");
    assert!(told.contains("`unisys circuit reset crash`"), "{told}");
    until("it is said to be degraded", || row("frozen").contains("Degraded").then_some(()));
    // When each was found to be so, not the beginning of all time.
    let condition = |name: &str| system.json(&["get", "external", name])["status"]["conditions"][0].clone();
    let since = |name: &str| {
        let text = condition(name)["lastTransitionTime"].as_str().unwrap().to_owned();
        std::time::Duration::from_millis(text.parse::<jiff::Timestamp>().unwrap().as_millisecond() as u64)
    };
    until("one is there and one is not", || {
        (condition("there")["status"] == "True" && condition("gone")["reason"] == "ProbeFailed").then_some(())
    });
    let began = began.duration_since(std::time::UNIX_EPOCH).unwrap();
    let before = since("there");
    assert!(before.as_millis() >= began.as_millis() && since("gone").as_millis() >= began.as_millis());
    drop(listener);
    until("it is gone", || (condition("there")["status"] == "False").then_some(()));
    assert!(since("there") > before);
}

#[test]
fn a_job_rolls_nothing_out_and_says_so() {
    let job = "apiVersion: unisys.dev/v1\nkind: Job\nmetadata: {name: once}\nspec: {command: [\"false\"], backoffLimit: 0}\n";
    let system = System::up(&[("once.yaml", job)]);
    until("it has failed", || system.ok(&["get"]).contains("Failed").then_some(()));
    for verb in ["get", "describe"] {
        assert_eq!(system.json(&[verb, "job", "once"])["status"]["rollout"]["state"], "None", "{verb}");
    }
    for verb in [&["status"][..], &["history"], &["undo"]] {
        let (code, words) = system.fails(&[&["rollout"], verb, &["once"]].concat());
        assert!(
            code == 5 && words.contains("once is a Job") && words.contains("unisys restart once"),
            "{words}"
        );
    }
}

#[test]
fn up_of_some_units_knows_the_others_and_leaves_alone_what_runs() {
    let need = "  dependsOn: [needed]\n";
    let units = [("a.yaml", "a", need), ("b.yaml", "b", ""), ("c.yaml", "c", ""), ("n.yaml", "needed", "")];
    let manifests: Vec<(&str, String)> =
        units.iter().map(|(file, name, rest)| (*file, sleeper(name, rest))).collect();
    let manifests: Vec<(&str, &str)> = manifests.iter().map(|(file, text)| (*file, text.as_str())).collect();
    let mut system = System::new(&manifests);
    system.start(&["a"]);
    system.ready(&["a", "needed"]);
    system.ok(&["wait", "--for=condition=Ready"]);
    assert!(system.instance_if_any("b").is_none_or(|b| b["pid"].is_null()));
    assert!(system.ok(&["why", "b"]).contains("`unisys up` was given other units"));
    system.ok(&["start", "b"]);
    let (a, b) = (system.pid("a"), system.pid("b"));
    // Neither daemon after it stops b or starts c: not the next one, not one of another `up`.
    let daemon = system.daemon_pid().unwrap();
    crate::support::signal(daemon, "KILL");
    until("another daemon", || system.daemon_pid().filter(|pid| *pid != daemon));
    for named in ["a", "c"] {
        crate::support::kill_both(system.keeper_pid(), system.daemon_pid().unwrap());
        until("both are gone", || (!system.run(&["get", "system"]).status.success()).then_some(()));
        system.start(&[named]);
        system.ready(&["a", "b", "needed", named]);
        assert_eq!((system.pid("a"), system.pid("b")), (a, b));
    }
    system.ok(&["stop", "b"]);
    assert!(!crate::support::alive(b));
}

#[test]
fn an_order_tells_who_gave_it_and_a_scale_from_how_many_to_how_many() {
    let system = System::up(&[("a.yaml", &sleeper("a", "  replicas: 2\n"))]);
    let own = std::process::Command::new("id").arg("-un").output().unwrap();
    let own = text(&own.stdout).trim().to_owned();
    assert_eq!(system.ok(&["scale", "a=3"]), "scale a from 2 to 3\n");
    system.ok(&["rollout", "pause", "a"]);
    let events = system.ok(&["events", "a"]);
    for order in ["unisys scale from 2 to 3 by ", "unisys rollout pause by "] {
        let (_, by) = events.split_once(order).unwrap_or_else(|| panic!("{order}: {events}"));
        // As whom somebody logged in, if that is known; and the terminal or the pid.
        let by = by.lines().next().unwrap();
        assert!(by.contains(&format!("{own} (")) && by.ends_with(')'), "{by}");
    }
    let changes = system.ok(&["changes"]);
    assert!(changes.contains("unisys scale a by "), "{changes}");
}

#[test]
fn a_kind_and_a_name_may_be_two_words() {
    let mut system = System::new(&[
        ("a.yaml", &python("a", "raise SystemExit(3)", crate::faults::NEVER)),
        ("b.yaml", &sleeper("b", "")),
        ("c.yaml", &sleeper("c", "")),
    ]);
    let (code, words) = system.fails(&["up", "job", "a"]);
    assert!(code == 4 && words.contains("there is no unit called job/a"), "{code} {words}");
    system.start(&["service", "a", "b"]);
    let summary = |name: &str| system.json(&["get", name])["status"]["summary"].clone();
    until("b runs", || (summary("b") == "Ready").then_some(()));
    assert_eq!(summary("c"), "Stopped");
    let dump = until("there is a dump", || {
        let list = system.ok(&["crashes", "ls", "service", "a"]);
        (list.lines().count() > 1).then_some(list)
    });
    assert_eq!(system.ok(&["crashes", "ls", "svc/a"]), dump);
    assert!(system.ok(&["errors", "ls", "services", "a"]).contains("service/a"));
    for verb in ["errors", "crashes"] {
        assert_eq!(system.fails(&[verb, "ls", "service", "nobody"]).0, 4);
        assert_eq!(system.fails(&[verb, "ls", "job", "c"]).0, 4);
    }
}

#[test]
fn changes_tell_who_gave_an_apply_or_a_delete() {
    let system = System::up(&[("a.yaml", &sleeper("a", ""))]);
    system.write("b.yaml", &sleeper("b", ""));
    system.ok(&["apply", "-f", "b.yaml", "--wait"]);
    system.ok(&["delete", "service", "b"]);
    let changes = system.ok(&["changes"]);
    for order in ["Apply: unisys apply by ", "Delete: unisys delete of service/b by "] {
        assert!(changes.contains(order), "{order} is not in {changes}");
    }
}

#[test]
fn orders_end_with_their_unit_also_where_it_is_deleted_while_nothing_runs() {
    let mut system = System::new(&[("a.yaml", &sleeper("a", "")), ("b.yaml", &sleeper("b", ""))]);
    std::fs::create_dir(system.path("others")).unwrap();
    system.write("others/c.yaml", &sleeper("c", ""));
    system.start(&[]);
    let again = |system: &mut System, extra: &[&str]| {
        system.ok(&["down"]);
        system.ended();
        system.start(extra);
    };
    let status = |system: &System| {
        let status = system.json(&["get", "service", "a"])["status"].clone();
        status["overrides"].as_array().unwrap().len()
    };
    system.ok(&["disable", "a"]);
    // Of manifests that are not read it is not known that they are gone.
    again(&mut system, &["-f", "others"]);
    again(&mut system, &[]);
    assert_eq!(status(&system), 1);
    system.ok(&["down"]);
    system.ended();
    std::fs::remove_file(system.path("manifests/a.yaml")).unwrap();
    system.start(&[]);
    system.write("manifests/a.yaml", &sleeper("a", ""));
    system.ready(&["a"]);
    again(&mut system, &[]);
    system.ready(&["a"]);
    assert_eq!(status(&system), 0);
}

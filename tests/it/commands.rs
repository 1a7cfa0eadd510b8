//! The verbs: exit codes and shapes that scripts rely on.

use std::process::Stdio;

use crate::support::{System, alive, python, signal, sleeper, text, until};

#[test]
fn apply_diff_plan_and_delete_agree_and_say_by_their_exit_code_what_there_is_to_do() {
    let system = System::up(&[("a.yaml", &sleeper("a", ""))]);
    system.ready(&["a"]);
    system.write("b.yaml", &sleeper("b", "  dependsOn: [a]\n"));
    assert_eq!(system.run(&["diff", "-f", "b.yaml"]).status.code(), Some(1));
    let plan = system.run(&["plan", "-f", "b.yaml", "-o", "json"]);
    assert_eq!(plan.status.code(), Some(1));
    let plan: serde_json::Value = serde_json::from_slice(&plan.stdout).unwrap();
    assert_eq!(
        (plan["actions"][0]["verb"].as_str(), plan["actions"][0]["unit"].as_str()),
        (Some("Start"), Some("service/b"))
    );
    system.ok(&["apply", "-f", "b.yaml", "--wait=30s"]);
    assert_eq!(system.run(&["diff", "-f", "b.yaml"]).status.code(), Some(0));
    assert_eq!(system.run(&["plan", "-f", "b.yaml"]).status.code(), Some(0));
    assert!(system.ok(&["apply", "-f", "b.yaml"]).contains("nothing to do"));
    assert_eq!(system.fails(&["apply", "-f", "b.yaml", "--if-revision", "1"]).0, 5);
    assert_eq!(system.fails(&["delete", "service/a"]).0, 5);
    assert_eq!(system.fails(&["delete", "service/nothing"]).0, 4);
    let pid = system.pid("b");
    system.ok(&["delete", "service/b"]);
    system.ok(&["wait", "--for=delete", "b"]);
    assert!(!alive(pid));
}

#[test]
fn an_object_is_named_as_kubectl_would() {
    let system = System::up(&[("a.yaml", &sleeper("a", ""))]);
    for verb in ["why", "describe", "get"] {
        for words in [&["a"][..], &["service/a"], &["service", "a"]] {
            assert!(system.ok(&[&[verb], words].concat()).contains('a'));
        }
        assert_eq!(system.fails(&[verb, "service", "none"]).0, 4);
    }
}

#[test]
fn stop_start_restart_scale_enable_and_disable_are_overrides_that_survive_the_daemon() {
    let system =
        System::up(&[("a.yaml", &sleeper("a", "")), ("b.yaml", &sleeper("b", "  dependsOn: [a]\n"))]);
    system.ready(&["a", "b"]);
    let b = system.pid("b");
    system.ok(&["stop", "a"]);
    until("what needs it went first", || (!alive(b)).then_some(()));
    until("a is stopped", || system.instance("a")["pid"].is_null().then_some(()));
    let daemon = system.daemon_pid().unwrap();
    crate::support::signal(daemon, "KILL");
    until("another daemon", || system.daemon_pid().filter(|pid| *pid != daemon));
    let object = system.json(&["get", "service", "a"]);
    assert_eq!(object["status"]["overrides"][0]["field"], "stopped");
    system.ok(&["start", "a"]);
    system.ready(&["a", "b"]);
    let a = system.pid("a");
    system.ok(&["restart", "a"]);
    until("another pid", || (system.instance("a")["pid"].as_u64()? != u64::from(a)).then_some(()));
    system.ok(&["scale", "b=3"]);
    until("three", || (system.json(&["get", "service", "b"])["status"]["readyReplicas"] == 3).then_some(()));
    system.ok(&["disable", "b"]);
    until("none", || {
        (system.json(&["get", "service", "b"])["status"]["summary"] == "Disabled").then_some(())
    });
    system.ok(&["enable", "b"]);
    system.ready(&["b"]);
}

#[test]
fn logs_come_back_whole_whatever_bytes_they_are() {
    let code = "import sys,time\no=sys.stdout.buffer\no.write(b'one\\n\\xff\\xfe\\n'+b'x'*(1<<20)+b'y\\nlast')\no.flush()";
    let job = format!(
        "apiVersion: unisys.dev/v1\nkind: Job\nmetadata: {{name: j}}\nspec:\n  command: [python3, -c, {}]\n",
        serde_json::to_string(code).unwrap()
    );
    let system = System::up(&[("j.yaml", &job)]);
    system.ok(&["wait", "--for=condition=Completed", "j"]);
    let bytes = until("the last line", || {
        let bytes = std::fs::read(system.path(".unified-system/logs/services/j.log")).ok()?;
        bytes.ends_with(b"last\n").then_some(bytes)
    });
    let lines: Vec<&[u8]> = bytes.strip_suffix(b"\n").unwrap().split(|byte| *byte == b'\n').collect();
    let lengths: Vec<usize> = lines.iter().map(|line| line.len()).collect();
    assert_eq!((lines[0], lines[1]), (&b"one"[..], &b"\xff\xfe"[..]));
    assert_eq!(lengths[2..], [1 << 20, 1, 4]);
    let json = system.ok(&["logs", "j", "-o", "json", "--tail", "1"]);
    let line: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((line["message"].as_str(), line["stream"].as_str()), (Some("last"), Some("stdout")));
    assert_eq!(system.fails(&["logs", "nothing"]).0, 4);
}

#[test]
fn exec_runs_in_the_services_environment_and_gives_its_code() {
    let system = System::up(&[("a.yaml", &sleeper("a", "  env: {COLOUR: red}\n"))]);
    assert_eq!(system.ok(&["exec", "a", "--", "printenv", "COLOUR"]).trim(), "red");
    assert_eq!(system.run(&["exec", "a", "--", "sh", "-c", "exit 7"]).status.code(), Some(7));
    assert_eq!(system.fails(&["exec", "nothing", "--", "true"]).0, 4);
}

#[test]
fn verbs_without_a_daemon_say_so_and_those_that_need_none_work() {
    let system = System::new(&[("a.yaml", &sleeper("a", ""))]);
    for verb in [&["get"][..], &["down"], &["why", "a"], &["logs", "a"], &["apply", "-f", "manifests"]] {
        let (code, words) = system.fails(verb);
        assert_eq!(code, 3, "{verb:?}: {words}");
        assert!(words.contains("unisys up"), "{words}");
    }
    system.ok(&["validate", "manifests", "--machine"]);
    system.ok(&["schema", "service"]);
    system.ok(&["explain", "service.spec.restart"]);
    assert_eq!(system.fails(&["explain", "service.spec.restrat"]).0, 4);
    assert_eq!(system.fails(&["up", "-f", "nowhere"]).0, 2);
    assert_eq!(system.fails(&["nonsense"]).0, 2);
}

#[test]
fn get_graph_describe_changes_and_metrics_have_their_shapes() {
    let system =
        System::up(&[("a.yaml", &sleeper("a", "")), ("b.yaml", &sleeper("b", "  dependsOn: [a]\n"))]);
    system.ready(&["a", "b"]);
    let list = system.json(&["get", "services"]);
    assert_eq!(list["kind"], "ServiceList");
    assert_eq!(list["items"][0]["status"]["conditions"][0]["type"], "Ready");
    assert_eq!(system.ok(&["get", "services", "-o", "name"]), "service/a\nservice/b\n");
    assert_eq!(system.ok(&["graph"]), "1  a\n2  b  after a Ready\n");
    assert!(system.ok(&["graph", "-o", "mermaid"]).contains("b -->|Ready| a"));
    let described = system.json(&["describe", "b"]);
    assert_eq!(described["dependsOn"][0], "a");
    assert_eq!(described["effectiveSpec"]["replicas"], 1);
    assert!(!system.json(&["changes"]).as_array().unwrap().is_empty());
    assert!(system.ok(&["metrics"]).contains("unisys_unit_ready_replicas{unit=\"a\"} 1"));
    let job = "apiVersion: unisys.dev/v1\nkind: Job\nmetadata: {name: once}\nspec: {command: [\"true\"]}\n";
    system.write("manifests/once.yaml", job);
    until("nothing lacks of a Job that has run", || {
        system.ok(&["metrics"]).contains("unisys_unit_replicas{unit=\"once\"} 0").then_some(())
    });
    assert_eq!(system.fails(&["get", "pods"]).0, 4);
    assert_eq!(system.fails(&["get", "service", "zzz"]).0, 4);
    assert_eq!(system.fails(&["get", "-o", "sarif"]).0, 2);
}

#[test]
fn what_watches_goes_on_when_something_changes() {
    let system = System::up(&[("a.yaml", &sleeper("a", ""))]);
    system.ready(&["a"]);
    for verb in [&["get", "-w"][..], &["events", "-w"]] {
        let mut child = system.command(verb).stdout(Stdio::piped()).spawn().unwrap();
        let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
        let mut seen = |word: &str| {
            let mut line = String::new();
            while std::io::BufRead::read_line(&mut out, &mut line).unwrap() > 0 && !line.contains(word) {
                line.clear();
            }
            assert!(line.contains(word), "{verb:?} never said {word}");
        };
        seen("Ready");
        system.ok(&["stop", "a"]);
        seen("Stop");
        system.ok(&["start", "a"]);
        seen("Ready");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn who_follows_a_log_or_the_events_follows_the_next_daemon_too() {
    let counts = "import time\nn=0\nwhile True:\n  print(n); n+=1; time.sleep(0.002)";
    let mut system = System::up(&[("a.yaml", &python("a", counts, ""))]);
    let follow = |args: &[&str], name: &str| {
        let file = std::fs::File::create(system.path(name)).unwrap();
        system.command(args).stdout(file).stderr(std::process::Stdio::null()).spawn().unwrap()
    };
    let mut followers =
        [follow(&["logs", "-f", "a", "--tail", "100000"], "lines"), follow(&["events", "-w"], "events")];
    let lines = || std::fs::read_to_string(system.path("lines")).unwrap().lines().count();
    for _ in 0..3 {
        let before = lines();
        until("it goes on", || (lines() > before + 100).then_some(()));
        signal(system.daemon_pid().unwrap(), "KILL");
    }
    let before = lines();
    until("it goes on", || (lines() > before + 100).then_some(()));
    system.ok(&["stop", "a"]);
    until("the end of it is told", || {
        std::fs::read_to_string(system.path("events")).unwrap().contains("unisys stop by ").then_some(())
    });
    system.ok(&["down"]);
    for follower in &mut followers {
        assert_eq!(follower.wait().unwrap().code(), Some(0), "it ends with the system");
    }
    let text = std::fs::read_to_string(system.path("lines")).unwrap();
    let numbers: Vec<usize> = text.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(numbers, (0..numbers.len()).collect::<Vec<_>>(), "none is missing, none comes twice");
    assert_eq!(system.ended(), 0);
}

#[test]
fn waiting_ends_when_there_is_nothing_left_to_wait_for() {
    let job =
        "apiVersion: unisys.dev/v1\nkind: Job\nmetadata: {name: migrate}\nspec: {command: [\"true\"]}\n";
    let deaf = "apiVersion: unisys.dev/v1\nkind: Service\nmetadata: {name: deaf}\nspec:\n  \
        command: [sh, -c, \"trap '' TERM; echo deaf; while :; do sleep 0.1; done\"]\n  stop: {grace: 2s}\n";
    let system = System::up(&[
        ("job.yaml", job),
        ("a.yaml", &sleeper("a", "  dependsOn: [migrate]\n")),
        ("d.yaml", deaf),
    ]);
    system.ready(&["a"]);
    system.write("more.yaml", &sleeper("more", ""));
    system.ok(&["apply", "-f", "more.yaml", "--wait=20s"]);
    let (code, words) = system.fails(&["scale", "migrate=2"]);
    assert_eq!(code, 5, "{words}");
    until("it does not hear", || system.ok(&["logs", "deaf"]).contains("deaf").then_some(()));
    // Somebody else starts what is being stopped.
    let stop = system.command(&["stop", "deaf"]).stderr(std::process::Stdio::piped()).spawn().unwrap();
    until("it is being stopped", || system.ok(&["get"]).contains("Stopping").then_some(()));
    system.ok(&["start", "deaf"]);
    let stopped = stop.wait_with_output().unwrap();
    assert_eq!(stopped.status.code(), Some(1));
    assert!(text(&stopped.stderr).contains("started again meanwhile"), "{}", text(&stopped.stderr));
}

#[test]
fn wrong_usage_is_said_before_anything_is_done() {
    let system = System::up(&[("a.yaml", &sleeper("a", ""))]);
    system.write("b.yaml", &sleeper("b", ""));
    assert_eq!(system.fails(&["apply", "-f", "b.yaml", "--wait=soon"]).0, 2);
    assert_eq!(system.fails(&["get", "service", "b"]).0, 4);
    assert_eq!(system.fails(&["events", "b"]).0, 4);
    assert_eq!(system.fails(&["describe", "b"]).0, 4);
    assert_eq!(system.fails(&["wait", "--for=nonsense", "a"]).0, 2);
    assert_eq!(system.fails(&["scale", "a"]).0, 2);
    assert_eq!(system.fails(&["plan", "-f", "nowhere"]).0, 2);
    assert_eq!(system.run(&["wait", "--for=delete", "a", "--timeout", "10ms"]).status.code(), Some(1));
    system.ok(&["wait", "--for=delete", "b"]);
    system.ok(&["wait", "--for=lifecycle=Up", "a"]);
    assert!(system.ok(&["get", "-o", "wide"]).lines().next().unwrap().contains("PID"));
    assert!(system.ok(&["graph", "-o", "svg"]).starts_with("<svg"));
    assert!(system.ok(&["graph", "-o", "dot"]).starts_with("digraph"));
}

#[test]
fn words_that_mean_nothing_are_refused_with_those_that_do() {
    let labelled = |name: &str, labels: &str| {
        sleeper(name, "")
            .replace(&format!("{{name: {name}}}"), &format!("{{name: {name}, labels: {{{labels}}}}}"))
    };
    let config = "apiVersion: unisys.dev/v1\nkind: Config\nmetadata: {name: c, labels: {tier: back}}\nspec: {profiles: {loud: {A: b}}}\n";
    let mut system = System::new(&[
        ("a.yaml", &labelled("a", "tier: back, track: canary")),
        ("b.yaml", &labelled("b", "tier: back")),
        ("w.yaml", &labelled("w", "tier: web")),
        ("n.yaml", &sleeper("n", "")),
        ("c.yaml", config),
    ]);
    for (profile, hint) in [("laud", "did you mean `loud`?"), ("nowhere", "profiles: loud")] {
        let (code, words) = system.fails(&["up", "--profile", profile]);
        assert_eq!(code, 2, "{words}");
        assert!(
            words.contains(&format!("no Config has a profile `{profile}`")) && words.contains(hint),
            "{words}"
        );
        assert_eq!(system.fails(&["up", "--detach", "--profile", profile]).0, 2);
    }
    system.start(&[]);
    for (args, code, part) in [
        (
            &["wait", "--for=lifecycle=Bogus", "a"][..],
            2,
            "Idle, Starting, Up, Stopping, Backoff, Held, Failed, Done",
        ),
        (&["wait", "--for=condition=Redy", "a"], 2, "did you mean Ready?"),
        (&["wait", "--for=condition=Ready=Perhaps", "a"], 2, "one of True, False"),
        (&["wait", "--for=rollout=x", "a"], 2, "cannot wait for `rollout=x`"),
        (&["get", "-l", "a in b"], 2, "tier notin (a,b)"),
        (&["get", "services", "-l", ""], 2, "tier!=backend"),
        (&["errors", "ls", "NOSUCH"], 4, "there is no unit called NOSUCH"),
        (&["errors", "ls", "--category", "crush"], 2, "did you mean crash?"),
        (&["errors", "ls", "--severity", "bad"], 2, "one of warning, recoverable, fatal"),
        (&["crashes", "ls", "aa"], 4, "did you mean a?"),
        (&["metrics", "-o", "json"], 2, "it prints text alone"),
        (&["wait", "--for=delete", "x", "-o", "name"], 2, "-o is one of text, json, yaml"),
        (&["events", "-o", "yaml"], 2, "-o is one of text, table, json"),
        (&["get", "-o", "svg"], 2, "-o is one of table, wide, json, yaml, name"),
        (&["schema", "-o", "yaml"], 2, "it prints json alone"),
    ] {
        let (found, words) = system.fails(args);
        assert!(found == code && words.contains(part), "{args:?}: {found} {words}");
    }
    system.ready(&["a"]);
    for name in ["a", "service/a", "c"] {
        system.ok(&["errors", "ls", name]);
    }
    for (selector, names) in [
        ("tier=back", "service/a service/b config/c"),
        ("tier==web", "service/w"),
        ("tier!=back", "service/n service/w"),
        ("tier,track!=canary", "service/b service/w config/c"),
        ("tier in (web, other)", "service/w"),
        ("tier notin (web)", "service/a service/b service/n config/c"),
        ("!tier", "service/n"),
        ("tier=none", ""),
    ] {
        let shown = system.ok(&["get", "-l", selector, "-o", "name"]);
        assert_eq!(shown.split_whitespace().collect::<Vec<_>>().join(" "), names, "{selector}");
    }
}

#[test]
fn nobody_waits_for_what_has_failed_for_good_or_for_who_waits_for_that() {
    let never = "  restart: {policy: Never}\n  probes: {readiness: {file: {path: nowhere}, period: 100ms}}\n";
    let a = python("a", "import sys; sys.exit(3)", never);
    let b = sleeper("b", "  dependsOn: [a]\n");
    let system = System::up(&[("a.yaml", &a), ("b.yaml", &b), ("c.yaml", &sleeper("c", ""))]);
    let waited = ["wait", "--for=condition=Ready", "a", "b", "c", "--timeout", "1h"];
    let (code, words) = system.fails(&waited);
    assert_eq!(code, 1);
    assert!(words.contains("a: Ready is False") && words.contains("b: Ready is False"), "{words}");
    assert!(!words.contains("c: "), "{words}");
}

#[test]
fn a_terminal_never_obeys_what_a_service_wrote() {
    let code = "print('\\x1b]0;title\\x07\\x1b[2J\\x9b31m seen'); import time; time.sleep(1000)";
    let system = System::up(&[("a.yaml", &crate::support::python("a", code, ""))]);
    let shown = until("its line", || Some(system.ok(&["logs", "a"])).filter(|text| text.contains("seen")));
    assert!(!shown.contains(['\x1b', '\x07', '\u{9b}']), "{shown:?}");
    let json = system.ok(&["logs", "a", "-o", "json"]);
    assert!(!json.contains('\x1b') && json.contains("seen"), "{json:?}");
}

#[test]
fn a_secret_is_shown_nowhere() {
    let secret =
        "apiVersion: unisys.dev/v1\nkind: Secret\nmetadata: {name: s}\nspec: {data: {pw: {file: ../pw}}}\n";
    // A probe that tells it.
    let telling = "  env: {PW: {secret: s, key: pw}}\n  update: {autoRollback: false}\n  probes: {liveness: {period: 1s, failureThreshold: 1, \
        exec: {command: [sh, -c, 'echo it is $PW; exit 1']}}}\n";
    let mut system = System::new(&[
        ("s.yaml", secret),
        ("a.yaml", &sleeper("a", "  env: {PW: {secret: s, key: pw}}\n")),
        ("b.yaml", &sleeper("b", telling)),
    ]);
    system.write("pw", "hunter2-first");
    system.start(&[]);
    system.ready(&["a"]);
    assert_eq!(system.ok(&["exec", "a", "--", "printenv", "PW"]).trim(), "hunter2-first", "it is delivered");
    system.write("pw", "hunter2-second");
    until("it is replaced", || system.ok(&["events", "a"]).contains("PW changed").then_some(()));
    system.ready(&["a"]);
    until("the probe has told it", || system.ok(&["events", "b"]).contains("it is ***").then_some(()));
    let mut said = system.terminal();
    for verb in [
        &["get", "-o", "yaml"][..],
        &["describe", "a"],
        &["describe", "a", "-o", "json"],
        &["describe", "secret/s"],
        &["events", "-o", "json"],
        &["why", "a"],
        &["changes"],
        &["diff", "-f", "manifests"],
        &["get", "system", "-o", "json"],
    ] {
        said.push_str(&system.ok(verb));
    }
    assert!(!said.contains("hunter2"), "{said}");
    let state = system.path(".unified-system");
    let grep = std::process::Command::new("grep").args(["-rl", "hunter2"]).arg(state).output();
    assert_eq!(text(&grep.unwrap().stdout), "", "not in the state directory either");
}

#[test]
fn a_mistyped_name_or_kind_is_told_with_what_may_have_been_meant() {
    let system = System::up(&[("backend.yaml", &sleeper("backend", ""))]);
    let said = |args: &[&str]| {
        let (code, words) = system.fails(args);
        assert_eq!(code, 4, "{args:?}: {words}");
        words
    };
    for args in [
        &["why", "bakend"][..],
        &["stop", "bakend"],
        &["logs", "bakend"],
        &["get", "bakend"],
        &["wait", "--for=condition=Ready", "bakend"],
    ] {
        let words = said(args);
        assert!(words.contains("did you mean backend?"), "{args:?}: {words}");
    }
    for args in [&["get", "servise"][..], &["get", "servise/backend"], &["schema", "servise"]] {
        let words = said(args);
        assert!(words.contains("did you mean service?"), "{args:?}: {words}");
    }
    assert_eq!(system.json(&["get", "backend"])["metadata"]["name"], "backend");
    assert_eq!(system.ok(&["validate", "-f", "manifests"]), system.ok(&["validate", "manifests"]));
}

#[test]
fn who_writes_the_kind_means_nothing_of_another_one() {
    let external = "apiVersion: unisys.dev/v1\nkind: External\nmetadata: {name: mail}\nspec: {probes: {readiness: {tcp: {host: 127.0.0.1, port: 1}}}}\n";
    let system = System::up(&[("a.yaml", &sleeper("a", "")), ("mail.yaml", external)]);
    let pid = system.pid("a");
    for verb in ["stop", "restart", "start", "why", "describe"] {
        let (code, words) = system.fails(&[verb, "job/a"]);
        assert!(code == 4 && words.contains("job/a"), "{verb}: {code} {words}");
    }
    assert!(system.fails(&["stop", "job/a"]).1.contains("did you mean service/a?"));
    assert_eq!(system.fails(&["wait", "--for=condition=Ready", "job/a"]).0, 4);
    assert_eq!(system.pid("a"), pid, "nothing was stopped");
    system.ok(&["logs", "service/a"]);
    system.ok(&["exec", "service/a", "--", "true"]);
    system.ok(&["rollout", "status", "service/a"]);
    system.ok(&["rollout", "history", "service/a"]);
    system.ok(&["why", "service/a"]);
    let (code, words) = system.fails(&["restart", "mail"]);
    assert!(code == 4 && words.contains("mail is an External"), "{words}");
}

#[test]
fn kind_and_name_may_be_two_words_wherever_they_may_be_one() {
    // One is called as a kind is.
    let system = System::up(&[("a.yaml", &sleeper("a", "")), ("job.yaml", &sleeper("job", ""))]);
    system.ready(&["a", "job"]);
    for args in [
        &["get", "service", "a"][..],
        &["describe", "service", "a"],
        &["why", "service", "a"],
        &["events", "service", "a"],
        &["logs", "service", "a"],
        &["logs", "job", "a"],
        &["wait", "--for=condition=Ready", "service", "a", "job"],
        &["rollout", "status", "service", "a"],
        &["scale", "service", "a=2"],
        &["exec", "service", "a", "--", "true"],
        &["stop", "svc", "a", "job"],
        &["start", "job", "a"],
        &["stop", "job"],
    ] {
        system.ok(args);
    }
    let summary = |name: &str| system.json(&["get", "service", name])["status"]["summary"].clone();
    assert_eq!((summary("a"), summary("job")), ("Ready".into(), "Stopped".into()));
    for wrong in [&["stop", "externals", "a"][..], &["rollout", "status", "external", "a"]] {
        let (code, words) = system.fails(wrong);
        assert!(code == 4 && words.contains("did you mean service/a?"), "{words}");
    }
    system.write("b.yaml", &["b", "c", "d"].map(|name| sleeper(name, "")).join("---\n"));
    system.ok(&["apply", "-f", "b.yaml"]);
    assert!(system.ok(&["delete", "service", "b", "c"]).contains("deleted service/b, service/c"));
    assert!(system.ok(&["delete", "service/d"]).contains("deleted service/d"));
}

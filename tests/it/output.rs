//! What commands print, whoever reads it, and what they say of what runs.

use std::fs::File;
use std::process::Stdio;

use crate::support::{System, python, signal, sleeper, text, until};

#[test]
fn whoever_has_seen_enough_may_leave_and_a_full_disk_is_said() {
    let system = System::up(&[("a.yaml", &sleeper("a", ""))]);
    for args in [&["completions", "bash"][..], &["get"], &["stop", "a"], &["schema"]] {
        let mut child = system.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""), "{args:?}");
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = system.command(args).stdout(full).stderr(Stdio::piped()).output().unwrap();
        let words = text(&output.stderr);
        assert!(output.status.code() == Some(1) && words.contains("No space left"), "{args:?}: {words}");
    }
}

#[test]
fn whatever_becomes_of_what_up_says_goes_on() {
    let loops = "apiVersion: unisys.dev/v1\nkind: Service\nmetadata: {name: loops}\n\
                 spec: {command: [\"false\"], restart: {backoff: {initial: 20ms, max: 20ms}}, circuitBreaker: null}\n";
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let (reader, left) = rustix::pipe::pipe().unwrap();
    drop(reader);
    // As a pager that waits, and a terminal that was stopped with Ctrl-S: the pipe is full, and nobody reads.
    let (_pager, waits) = rustix::pipe::pipe().unwrap();
    let size = rustix::pipe::fcntl_setpipe_size(&waits, 4096).unwrap();
    assert_eq!(rustix::io::write(&waits, &vec![b'x'; size]).unwrap(), size);
    for (what, takes) in [("full", full()), ("left", left.into()), ("waits", waits.into())] {
        let mut system = System::new(&[("a.yaml", &sleeper("a", "")), ("loops.yaml", loops)]);
        system.start_saying(&[], &[], takes);
        let restarts = || system.instance_if_any("loops")?["restarts"].as_u64();
        until("it comes back", || restarts().filter(|count| *count >= 3));
        let (program, daemon) = (system.pid("a"), system.daemon_pid().unwrap());
        signal(daemon, "KILL");
        until("another daemon", || system.daemon_pid().filter(|pid| *pid != daemon));
        until("it goes on", || system.run(&["get", "system"]).status.success().then_some(()));
        assert_eq!(system.pid("a"), program, "{what}");
        signal(program, "KILL");
        until("it is started again", || {
            (system.instance_if_any("a")?["pid"].as_u64()? != u64::from(program)).then_some(())
        });
        system.ok(&["down"]);
        assert_eq!(system.ended(), 0, "{what}");
    }
}

#[test]
fn a_log_of_any_length_is_read_from_its_first_line_on() {
    // More than any answer holds at once.
    let write = "import signal\nprint('the first')\nfor n in range(400): print(n,'x'*50000)\nprint('the last',flush=True)\nsignal.pause()";
    let system = System::up(&[("a.yaml", &python("a", write, ""))]);
    until("it has said all", || system.ok(&["logs", "a", "--tail=1"]).contains("the last").then_some(()));
    assert_eq!(system.ok(&["logs", "a", "--grep", "the (first|last)"]), "the first\nthe last\n");
    let lines = system.ok(&["logs", "a", "--since", "1h", "-o", "json"]);
    let lines: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines.len(), lines[0]["message"].as_str()), (402, Some("the first")));
    let tail = system.ok(&["logs", "a", "--tail=401"]);
    assert!(tail.starts_with("0 x") && tail.lines().count() == 401);
    assert_eq!(system.ok(&["logs", "a", "--tail=100000"]).lines().count(), 402);
}

#[test]
fn what_a_program_has_begun_to_say_is_shown_before_it_ends_the_line() {
    let ask = "import os,signal,sys\nprint('hello')\nsys.stdout.write(os.environ.get('T','')+'Password: '+os.environ.get('T','')[:9])\nsys.stdout.flush()\nsignal.pause()";
    let secret =
        "apiVersion: unisys.dev/v1\nkind: Secret\nmetadata: {name: t}\nspec: {data: {k: hunter22hunter}}\n";
    let masked = python("m", ask, "  env: {T: {secret: t, key: k}}\n");
    let only = python("only", "import signal\nprint('Password: ', end='', flush=True)\nsignal.pause()", "");
    let system = System::up(&[
        ("a.yaml", &python("a", ask, "")),
        ("m.yaml", &masked),
        ("only.yaml", &only),
        ("t.yaml", secret),
    ]);
    let asks = |name: &str| {
        until("it asks", || Some(system.ok(&["logs", name])).filter(|text| text.contains("word")))
    };
    assert_eq!(asks("a"), "hello\nPassword: \n");
    assert_eq!(asks("m"), "hello\n***Password: \n", "no part of a secret is shown");
    assert_eq!(asks("only"), "Password: \n");
    assert_eq!(system.ok(&["logs", "a", "--tail", "0"]), "");
    let lines = system.ok(&["logs", "a", "-o", "json"]);
    let unfinished =
        |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["unfinished"] == true;
    assert_eq!(lines.lines().map(unfinished).collect::<Vec<_>>(), [false, true]);
    // It is in the log once, when its end has come; and the one before is known though this one has ended no line.
    assert_eq!(system.log_of("a"), "hello\n");
    let (code, words) = system.fails(&["logs", "a", "--previous"]);
    assert!(code == 4 && words.contains("no earlier instance"), "{words}");
    system.write("manifests/a.yaml", &python("a", "import signal\nsignal.pause()", ""));
    until("the next one runs", || {
        let wrote = system.run(&["logs", "a", "--previous"]);
        (text(&wrote.stdout) == "hello\nPassword: \n").then_some(())
    });
    assert_eq!(system.log_of("a"), "hello\nPassword: \n");
}

#[test]
fn a_command_beside_a_program_has_the_environment_that_runs() {
    let system = System::up(&[("a.yaml", &sleeper("a", "  env: {X: first}\n"))]);
    system.ready(&["a"]);
    until("it is good", || (system.rollout("a")["state"] == "Complete").then_some(()));
    system.ok(&["rollout", "pause", "a"]);
    system.write("manifests/a.yaml", &sleeper("a", "  env: {X: second}\n"));
    until("it waits", || text(&system.run(&["plan"]).stdout).contains("to be resumed").then_some(()));
    assert_eq!(system.ok(&["exec", "a", "--", "printenv", "X"]), "first\n");
}

#[test]
fn orders_are_seen_in_the_wide_table() {
    let system = System::up(&[("a.yaml", &sleeper("a", "")), ("b.yaml", &sleeper("b", ""))]);
    system.ok(&["scale", "a=2"]);
    let wide = system.ok(&["get", "services", "-o", "wide"]);
    let line = |name: &str| wide.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert!(wide.lines().next().unwrap().contains("OVERRIDES"), "{wide}");
    assert!(line("a ").contains("replicas=2") && !line("b ").contains('='), "{wide}");
    assert_eq!(system.ok(&["get", "-l", "x=y"]), "nothing has the labels x=y\n");
}

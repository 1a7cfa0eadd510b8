//! A new version comes up beside the old one, and goes again when it does not get well.

use crate::support::{System, alive, free_port, signal, sleeper, text, until};

/// A server that says its version, on the listener that unisys holds. `fate`: what it does instead of getting well.
fn server(version: &str, fate: &str) -> String {
    // It ends once what it has accepted is answered: that much a program has to do itself.
    let code = format!(
        "import os,socket,sys,signal\nif '{fate}'=='exits': print('no good',file=sys.stderr); sys.exit(3)\ns=socket.socket(fileno=3)\nstop=[]\nsignal.signal(15,lambda *a: stop.append(1))\ns.settimeout(0.02)\nn=socket.socket(socket.AF_UNIX,socket.SOCK_DGRAM)\nif '{fate}'=='hangs': signal.pause(); sys.exit(0)\nn.sendto(b'READY=1',os.environ['NOTIFY_SOCKET'])\nwhile not stop:\n  try: c,_=s.accept()\n  except TimeoutError: continue\n  c.settimeout(10)\n  c.recv(100)\n  c.sendall(b'{version}')\n  c.close()"
    );
    let code = serde_json::to_string(&code).unwrap();
    let command = if fate == "cannot" {
        "[./no-such-program]".to_owned()
    } else {
        format!("[python3, -u, -c, {code}]")
    };
    format!(
        "apiVersion: unisys.dev/v1\nkind: Service\nmetadata: {{name: web}}\nspec:\n  command: {command}\n  ports: [{{name: http, port: PORT, listen: true}}]\n  probes: {{readiness: {{notify: systemd}}}}\n  update: {{minReady: 200ms, progressDeadline: 3s}}\n"
    )
}

/// What a client gets; a refused or broken connection is an error.
fn ask(port: u16) -> std::io::Result<String> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(std::time::Duration::from_secs(20)))?;
    stream.write_all(b"?")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Somebody asks one question after the other while something is done: how many answers were right, and what else came.
fn under_load(port: u16, is_right: impl Fn(&str) -> bool + Sync, work: impl FnOnce()) -> (u32, Vec<String>) {
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            let (mut asked, mut faults) = (0, Vec::new());
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                match ask(port) {
                    Ok(answer) if is_right(&answer) => asked += 1,
                    other => faults.push(format!("{other:?}")),
                }
            }
            (asked, faults)
        });
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        // Whatever came of it: the scope waits for the client.
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        let answers = client.join().unwrap();
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        answers
    })
}

#[test]
fn an_edit_under_load_loses_no_request_and_a_bad_one_comes_back_by_itself() {
    let port = free_port();
    let text = |version: &str, fate: &str| server(version, fate).replace("PORT", &port.to_string());
    let system = System::up(&[("web.yaml", &text("one", "well"))]);
    system.ready(&["web"]);
    let (asked, faults) = under_load(
        port,
        |answer| answer == "one" || answer == "two",
        || {
            system.write("manifests/web.yaml", &text("two", "well"));
            until("the new version serves", || (ask(port).ok()? == "two").then_some(()));
            until("its rollout is complete", || (system.rollout("web")["state"] == "Complete").then_some(()));
            let pid = system.pid("web");
            for fate in ["exits", "hangs", "cannot"] {
                system.write("manifests/web.yaml", &text("bad", fate));
                until(&format!("the version that {fate} is given up"), || {
                    let found = system.json(&["rollout", "history", "web"]);
                    let rolled =
                        found.as_array()?.iter().filter(|record| record["outcome"] == "RolledBack").count();
                    (rolled > ["exits", "hangs", "cannot"].iter().position(|known| *known == fate)?)
                        .then_some(())
                });
                until("only what was good runs", || {
                    let status = system.rollout("web");
                    (status["state"] == "RolledBack" && status["steps"].as_array()?.len() == 1).then_some(())
                });
                assert_eq!(system.pid("web"), pid, "{fate}: what was good was not touched");
            }
        },
    );
    assert!(faults.is_empty() && asked > 0, "{asked} well, {faults:?}");
    assert!(system.ok(&["get", "services"]).contains("RolledBack"));
    assert!(
        system.json(&["rollout", "history", "web"]).to_string().contains("no good"),
        "its last lines are told"
    );
    let conditions = system.json(&["get", "service", "web"])["status"]["conditions"].to_string();
    assert!(conditions.contains("RolledBack"), "{conditions}");
    // It is not tried again until it changes, and stays so under another daemon.
    let daemon = system.daemon_pid().unwrap();
    signal(daemon, "KILL");
    until("another daemon", || system.daemon_pid().filter(|pid| *pid != daemon));
    assert_eq!(system.rollout("web")["state"], "RolledBack");
    assert_eq!(system.rollout("web")["runningRevision"], 2, "what runs is what was good");
    assert_eq!(system.fails(&["rollout", "status", "web"]).0, 6);
    let (code, words) = system.fails(&["rollout", "undo", "web"]);
    assert!(code == 5 && words.contains("web was rolled back by itself"), "{code}: {words}");
    assert_eq!(ask(port).unwrap(), "two");
    system.write("manifests/web.yaml", &text("three", "well"));
    until("what is mended serves", || (ask(port).ok()? == "three").then_some(()));
}

#[test]
fn apply_waits_for_a_rollout_and_says_by_6_that_it_was_rolled_back_and_undo_goes_back() {
    let worker = |seconds: u32, program: &str| {
        format!(
            "apiVersion: unisys.dev/v1\nkind: Service\nmetadata: {{name: w}}\nspec:\n  command: [\"{program}\", \"{seconds}\"]\n  update: {{minReady: 100ms, progressDeadline: 5s}}\n"
        )
    };
    let system = System::up(&[("a.yaml", &sleeper("a", ""))]);
    let apply = |text: &str| {
        system.write("w.yaml", text);
        system.run(&["apply", "-f", "w.yaml", "--wait=20s"]).status.code()
    };
    assert_eq!(apply(&worker(1000, "sleep")), Some(0));
    let first = system.pid("w");
    assert_eq!(apply(&worker(1, "false")), Some(6));
    assert_eq!(system.pid("w"), first);
    assert_eq!(apply(&worker(2000, "sleep")), Some(0));
    let second = system.pid("w");
    assert!(first != second && !alive(first));
    system.ok(&["rollout", "undo", "w"]);
    until("the version before runs", || {
        (system.instance("w")["pid"].as_u64()? != u64::from(second)).then_some(())
    });
    let object = system.json(&["get", "service", "w"]);
    assert_eq!(object["status"]["overrides"][0]["field"], "revision");
    assert_eq!(system.fails(&["rollout", "undo", "w", "--to-revision", "999"]).0, 4);
    assert_eq!(system.fails(&["rollout", "promote", "w"]).0, 5);
    assert_eq!(system.fails(&["rollout", "status", "nothing"]).0, 4);
}

#[test]
fn a_paused_rollout_takes_no_step_until_it_is_resumed() {
    let system = System::up(&[("a.yaml", &sleeper("a", "  update: {minReady: 100ms}\n"))]);
    system.ready(&["a"]);
    until("a is good", || (system.rollout("a")["state"] == "Complete").then_some(()));
    let pid = system.pid("a");
    system.ok(&["rollout", "pause", "a"]);
    let notes = || crate::support::text(&system.run(&["get"]).stderr);
    assert!(notes().contains("the rollout of a is paused, nothing is held back"), "{}", notes());
    system.write("manifests/a.yaml", &sleeper("a", "  update: {minReady: 100ms}\n  env: {A: b}\n"));
    until("it waits", || {
        crate::support::text(&system.run(&["plan"]).stdout)
            .contains("its rollout to be resumed")
            .then_some(())
    });
    assert_eq!(system.pid("a"), pid);
    assert!(notes().contains("a is paused, revision 2 is held back, revision 1 runs"), "{}", notes());
    system.ok(&["rollout", "resume", "a"]);
    assert!(!notes().contains("paused"), "{}", notes());
    until("it is replaced", || (system.instance("a")["pid"].as_u64()? != u64::from(pid)).then_some(()));
}

#[test]
fn a_changed_file_reloads_the_program_and_a_rebuilt_one_replaces_it() {
    let code = "import signal,sys\nsignal.signal(1,lambda *a: print('reloaded '+open('conf').read(),flush=True))\nprint('up',flush=True)\nwhile True: signal.pause()";
    let text = format!(
        "apiVersion: unisys.dev/v1\nkind: Service\nmetadata: {{name: a}}\nspec:\n  command: [python3, -u, -c, {}]\n  workingDir: ..\n  reload: {{signal: SIGHUP}}\n  reloadOn: [../conf]\n  restartOn: [../program]\n  probes: {{readiness: {{log: {{pattern: up}}}}}}\n  update: {{minReady: 100ms}}\n",
        serde_json::to_string(code).unwrap()
    );
    let mut system = System::new(&[("a.yaml", &text)]);
    system.write("conf", "first");
    system.write("program", "1");
    system.start(&[]);
    system.ready(&["a"]);
    until("a is good", || (system.rollout("a")["state"] == "Complete").then_some(()));
    let pid = system.pid("a");
    system.write("conf", "second");
    until("it has read it again", || system.ok(&["logs", "a"]).contains("reloaded second").then_some(()));
    assert_eq!(system.pid("a"), pid, "the same process");
    system.write("program", "2");
    until("it is replaced", || (system.instance("a")["pid"].as_u64()? != u64::from(pid)).then_some(()));
    assert_eq!(system.fails(&["reload", "nothing"]).0, 4);
}

#[test]
fn a_file_that_is_saved_over_and_over_good_and_bad_ends_as_its_last_content_and_loses_no_request() {
    let port = free_port();
    let text = |version: &str, fate: &str| server(version, fate).replace("PORT", &port.to_string());
    let system = System::up(&[("web.yaml", &text("first", "well"))]);
    system.ready(&["web"]);
    until("it is good", || (system.rollout("web")["state"] == "Complete").then_some(()));
    let began = std::time::Instant::now();
    let (asked, faults) = under_load(
        port,
        |answer| answer != "bad",
        || {
            for save in 0..100 {
                let (name, fate) = match save % 4 {
                    0 => ("bad", "exits"),
                    2 => ("bad", "hangs"),
                    3 => ("bad", "cannot"),
                    _ => ("good", "well"),
                };
                system.write(
                    "manifests/web.yaml",
                    &text(&format!("{name}{}", if name == "good" { "!" } else { "" }), fate),
                );
                // Some are followed by quiet enough to be tried.
                let pause = if save % 10 == 9 { 400 } else { 70 };
                std::thread::park_timeout(std::time::Duration::from_millis(pause));
            }
            system.write("manifests/web.yaml", &text("last", "well"));
            until("the last one serves", || (ask(port).ok()? == "last").then_some(()));
            until("it is complete", || (system.rollout("web")["state"] == "Complete").then_some(()));
        },
    );
    assert!(faults.is_empty() && asked > 0, "{asked} well, {faults:?}");
    // 200 ms of quiet precede each look at the files, 2 s at most.
    let most = began.elapsed().as_millis() as usize / 200 + 2;
    let made = system.json(&["rollout", "history", "web"]).as_array().unwrap().len();
    assert!((2..=most).contains(&made), "{made} rollouts of 101 saves, at most {most}");
}

#[test]
fn the_status_of_a_first_version_says_by_1_that_it_failed_and_by_0_that_it_came_to_a_good_end() {
    let update = "  update: {minReady: 100ms, progressDeadline: 500ms}\n";
    let unready = "  probes: {readiness: {exec: {command: [\"false\"]}, period: 100ms}}\n";
    let never = sleeper("never", &format!("{update}{unready}"));
    let crashes = sleeper("crashes", update).replace("[sleep, \"1000\"]", "[\"false\"]");
    let ends = sleeper("ends", "  restart: {policy: OnFailure}\n").replace("[sleep, \"1000\"]", "[\"true\"]");
    let system = System::up(&[("a.yaml", &[never, crashes, ends].join("---\n"))]);
    for (name, reason) in [
        ("never", "ProgressDeadlineExceeded: it got no further for 500ms"),
        ("crashes", "CrashLoop: instance 0 ended: exit code 1, the third time"),
    ] {
        until(&format!("{name} has failed"), || (system.rollout(name)["state"] == "Failed").then_some(()));
        let status = system.run(&["rollout", "status", name]);
        let told = text(&status.stdout);
        assert!(status.status.code() == Some(1) && told.contains(reason), "{told}");
        let record = system.json(&["rollout", "history", name])[0].clone();
        assert_eq!(
            (record["outcome"].as_str(), record["revision"].as_u64()),
            (Some("Failed"), Some(1)),
            "{record}"
        );
        assert!(system.ok(&["events", name]).contains("there is nothing to go back to"));
    }
    until("it has ended well", || system.ok(&["get", "service", "ends"]).contains("Completed").then_some(()));
    assert!(system.ok(&["rollout", "status", "ends"]).contains("nothing of it runs"));
}

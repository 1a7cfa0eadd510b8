//! What people rely on: crashes, edits, the daemon's death, the end of everything.

use std::fs;

use crate::support::{Follower, System, alive, python, signal, sleeper, text, until};

#[test]
fn a_killed_service_is_started_again_and_why_names_the_signal() {
    let system = System::up(&[("a.yaml", &sleeper("a", ""))]);
    let before = system.pid("a");
    signal(before, "KILL");
    until("another pid", || (system.instance("a")["pid"].as_u64()? != u64::from(before)).then_some(()));
    system.ready(&["a"]);
    let instance = system.instance("a");
    assert_eq!((instance["restarts"].as_u64(), instance["lastExit"]["signal"].as_i64()), (Some(1), Some(9)));
    let why = system.ok(&["why", "a"]);
    assert!(why.contains("SIGKILL"), "{why}");
}

#[test]
fn a_changed_file_replaces_what_changed_and_nothing_else() {
    let system = System::up(&[("a.yaml", &sleeper("a", "")), ("b.yaml", &sleeper("b", ""))]);
    let (a, b) = (system.pid("a"), system.pid("b"));
    system.write("manifests/a.yaml", &sleeper("a", "  env: {X: \"1\"}\n"));
    until("a is replaced", || (system.instance("a")["pid"].as_u64()? != u64::from(a)).then_some(()));
    assert_eq!(system.pid("b"), b);
    let a = system.pid("a");
    // What needs no new process touches no pid.
    system.write(
        "manifests/a.yaml",
        &sleeper("a", "  env: {X: \"1\"}\n  restart: {policy: OnFailure}\n  stop: {grace: 3s}\n"),
    );
    until("the spec is taken over", || {
        let object = system.json(&["get", "service", "a"]);
        (object["spec"]["stop"]["grace"] == "3s" && object["status"]["observedGeneration"] == 3).then_some(())
    });
    assert_eq!(system.pid("a"), a);
    system.ok(&["plan"]);
}

#[test]
fn a_link_that_is_swapped_is_a_change_of_all_that_is_behind_it() {
    let mut system = System::new(&[]);
    let kept = "  env: {REVISION: {config: app, key: REVISION}}\n";
    for release in ["1", "2"] {
        let dir = system.path("releases").join(release);
        fs::create_dir_all(dir.join("manifests")).unwrap();
        fs::write(dir.join("manifests/a.yaml"), sleeper("a", kept)).unwrap();
        fs::write(dir.join("env"), format!("REVISION={release}\n")).unwrap();
    }
    let config =
        "apiVersion: unisys.dev/v1\nkind: Config\nmetadata: {name: app}\nspec: {files: [../current/env]}\n";
    system.write("manifests/config.yaml", config);
    std::os::unix::fs::symlink("releases/1", system.path("current")).unwrap();
    let (manifests, current) = (system.path("manifests"), system.path("current/manifests"));
    let names = [manifests, current].map(|path| path.to_str().unwrap().to_owned());
    system.start(&["-f", &names[0], "-f", &names[1]]);
    let a = system.pid("a");
    std::os::unix::fs::symlink("releases/2", system.path("next")).unwrap();
    fs::rename(system.path("next"), system.path("current")).unwrap();
    until("a is replaced", || (system.instance("a")["pid"].as_u64()? != u64::from(a)).then_some(()));
    let events = system.ok(&["events"]);
    assert!(events.contains("changed spec.env.REVISION"), "{events}");
}

#[test]
fn a_line_that_was_written_long_ago_is_seen_by_a_probe_that_is_added_later() {
    let code = "import time\nprint('listening on it')\nfor n in range(5000): print('line', n)\nprint('last')\ntime.sleep(1000)";
    let system = System::up(&[("a.yaml", &python("a", code, ""))]);
    let pid = system.pid("a");
    until("it has said it all", || system.log_of("a").contains("last").then_some(()));
    let probe = "  probes: {readiness: {log: {pattern: listening}}}\n";
    system.write("manifests/a.yaml", &python("a", code, probe));
    until("the edit is there", || system.ok(&["events", "a"]).contains("Updated").then_some(()));
    system.ready(&["a"]);
    assert_eq!(system.pid("a"), pid);
}

#[test]
fn a_link_in_place_of_a_log_is_replaced_and_never_followed() {
    let ticks = "import time\nwhile True: print('tick'); time.sleep(0.01)";
    let mut system = System::up(&[("a.yaml", &python("a", ticks, ""))]);
    until("it writes", || system.log_of("a").contains("tick").then_some(()));
    fs::write(system.path("theirs"), "somebody else's\n").unwrap();
    let places = [".unified-system/logs/services/a.log", ".unified-system/logs/index/a"];
    for name in places {
        let path = system.path(name);
        // The index is looked at when it is opened; and a daemon that is killed might have seen it, and not live to tell of it.
        system.ok(&["down"]);
        system.ended();
        std::os::unix::fs::symlink(system.path("theirs"), system.path("link")).unwrap();
        fs::rename(system.path("link"), &path).unwrap();
        system.start(&[]);
        until("it is a file again", || fs::symlink_metadata(&path).ok()?.is_file().then_some(()));
        until("it is written", || system.ok(&["logs", "a"]).contains("tick").then_some(()));
        let told = || {
            system
                .ok(&["events", "a"])
                .lines()
                .any(|line| line.contains("LogReplaced") && line.contains(name))
        };
        until("it is told", || told().then_some(()));
    }
    assert_eq!(fs::read_to_string(system.path("theirs")).unwrap(), "somebody else's\n");
}

#[test]
fn a_broken_edit_keeps_everything_running_and_says_so_everywhere() {
    let system = System::up(&[("a.yaml", &sleeper("a", ""))]);
    let a = system.pid("a");
    system.write(
        "manifests/a.yaml",
        "apiVersion: unisys.dev/v1\nkind: Service\nmetadata: {name: a}\nspec: {comand: [x]}\n",
    );
    until("the set is invalid", || {
        let sets = system.json(&["get", "sets"]);
        (sets["items"][0]["status"]["conditions"][0]["status"] == "False").then_some(())
    });
    assert_eq!(system.pid("a"), a);
    assert!(system.terminal().contains("did you mean `command`"), "{}", system.terminal());
    assert!(system.ok(&["events"]).contains("ManifestInvalid"));
    let noted = text(&system.run(&["get"]).stderr);
    assert!(
        noted.contains("set manifests is invalid, its revision 1 runs on: ") && noted.contains("a.yaml:4:"),
        "{noted}"
    );
    // The daemon's death changes nothing about it: the accepted revision runs on.
    let daemon = system.daemon_pid().unwrap();
    signal(daemon, "KILL");
    until("another daemon", || system.daemon_pid().filter(|pid| *pid != daemon));
    assert_eq!(system.pid("a"), a);
    system.write("manifests/a.yaml", &sleeper("a", ""));
    until("it is valid again", || {
        let sets = system.json(&["get", "sets"]);
        (sets["items"][0]["status"]["conditions"][0]["status"] == "True").then_some(())
    });
    assert_eq!(system.pid("a"), a);
}

#[test]
fn a_deleted_file_stops_its_service_and_an_emptied_directory_stops_none() {
    let system = System::up(&[("a.yaml", &sleeper("a", "")), ("b.yaml", &sleeper("b", ""))]);
    let (a, b) = (system.pid("a"), system.pid("b"));
    fs::remove_file(system.path("manifests/b.yaml")).unwrap();
    until("b is gone", || (!alive(b)).then_some(()));
    fs::remove_file(system.path("manifests/a.yaml")).unwrap();
    until("it is said", || system.ok(&["events"]).contains("nothing is pruned").then_some(()));
    fs::remove_dir(system.path("manifests")).unwrap();
    until("that too", || system.ok(&["events"]).contains("cannot be read").then_some(()));
    assert_eq!(system.pid("a"), a);
}

#[test]
fn stop_leaves_nobody_alive_not_even_who_left_its_session() {
    let code = "import os,sys,time\n\
        if os.fork()==0:\n  os.setsid()\n  if os.fork()==0:\n    open('child','w').write(str(os.getpid())); time.sleep(1000)\n  os._exit(0)\n\
        time.sleep(1000)";
    let system = System::up(&[("a.yaml", &python("a", code, "  workingDir: ..\n"))]);
    let child: u32 = until("the descendant", || fs::read_to_string(system.path("child")).ok()?.parse().ok());
    system.ok(&["stop", "a"]);
    until("it is gone", || (!alive(child)).then_some(()));
    until("and known to be", || (system.instance("a")["lifecycle"] == "Idle").then_some(()));
}

#[test]
fn readiness_is_heard_by_every_way_there_is() {
    let notify = "import os,socket,time\ns=socket.socket(socket.AF_UNIX,socket.SOCK_DGRAM)\n\
        a=os.environ['NOTIFY_SOCKET']\ns.connect('\\0'+a[1:] if a[0]=='@' else a)\ns.send(b'STATUS=warm\\nREADY=1')\ntime.sleep(1000)";
    let newline = "import os,time\nos.write(3,b'\\n')\ntime.sleep(1000)";
    let line = "import time\nprint('listening on 1')\ntime.sleep(1000)";
    let file = "import time\nopen('up.txt','w')\ntime.sleep(1000)";
    let http = "from http.server import *\nclass H(SimpleHTTPRequestHandler):\n  def do_GET(self):\n    self.send_response(204); self.end_headers()\n\
        s=HTTPServer(('127.0.0.1',0),H)\nopen('port','w').write(str(s.server_port))\ns.serve_forever()";
    let system = System::up(&[
        ("n.yaml", &python("n", notify, "  probes: {readiness: {notify: systemd}}\n")),
        ("s.yaml", &python("s", newline, "  probes: {readiness: {notify: 'fd:3'}}\n")),
        ("l.yaml", &python("l", line, "  probes: {readiness: {log: {pattern: listening on}}}\n")),
        ("f.yaml", &python("f", file, "  probes: {readiness: {file: {path: up.txt}}}\n")),
        ("e.yaml", &sleeper("e", "  probes: {readiness: {exec: {command: [\"true\"]}}}\n")),
        ("h.yaml", &python("h", http, "")),
    ]);
    system.ready(&["n", "s", "l", "f", "e", "h"]);
    assert_eq!(system.instance("n")["statusText"], "warm");
    let port: u16 =
        until("its port", || fs::read_to_string(system.path("manifests/port")).ok()?.parse().ok());
    let probed = format!(
        "  probes: {{readiness: {{http: {{path: /, port: {port}}}}}, liveness: {{tcp: {{port: {port}}}}}}}\n"
    );
    system.write("manifests/p.yaml", &sleeper("p", &probed));
    until("p is there", || system.run(&["get", "service", "p"]).status.success().then_some(()));
    system.ready(&["p"]);
}

#[test]
fn dependents_start_after_and_stop_before_and_ctrl_c_stops_everything() {
    let mut system = System::up(&[
        ("db.yaml", &sleeper("db", "")),
        ("api.yaml", &sleeper("api", "  dependsOn: [db]\n")),
        ("web.yaml", &sleeper("web", "  dependsOn: [api]\n")),
    ]);
    system.ready(&["db", "api", "web"]);
    let pids = [system.pid("db"), system.pid("api"), system.pid("web")];
    signal(system.keeper_pid(), "INT");
    assert_eq!(system.ended(), 0);
    assert!(pids.iter().all(|pid| !alive(*pid)));
    let terminal = system.terminal();
    let at = |words: &str| terminal.find(words).unwrap_or_else(|| panic!("no `{words}` in {terminal}"));
    assert!(at("service/db         instance 0 started") < at("service/api        instance 0 started"));
    assert!(at("service/web        instance 0 was stopped") < at("service/api        stopping"));
    assert!(at("service/api        instance 0 was stopped") < at("service/db         stopping"));
    assert_eq!(system.fails(&["get"]).0, 3);
}

#[test]
fn a_second_ctrl_c_kills_what_does_not_want_to_go() {
    let stubborn =
        "import signal,time\nsignal.signal(signal.SIGTERM,signal.SIG_IGN)\nprint('here')\ntime.sleep(1000)";
    let mut system = System::up(&[("a.yaml", &python("a", stubborn, "  stop: {grace: 600s}\n"))]);
    until("it is here", || system.log_of("a").contains("here").then_some(()));
    let pid = system.pid("a");
    signal(system.keeper_pid(), "INT");
    until("it is being stopped", || (system.instance("a")["lifecycle"] == "Stopping").then_some(()));
    // Not at once: one press of a key may arrive twice.
    until("another press is one", || {
        signal(system.keeper_pid(), "INT");
        (!alive(pid)).then_some(())
    });
    assert_eq!(system.ended(), 130);
}

#[test]
fn as_pid_1_it_reaps_what_is_left_to_it_and_ends_in_order() {
    let unshare = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"];
    let works = std::process::Command::new(unshare[0]).args(&unshare[1..]).arg("true").status();
    if !works.is_ok_and(|status| status.success()) {
        eprintln!("skipped: no pid namespace for this user");
        return;
    }
    let orphans = "for i in 1 2 3 4 5; do (setsid sleep 0.01 &); done; exec sleep 1000";
    let first = format!(
        "apiVersion: unisys.dev/v1\nkind: Service\nmetadata: {{name: a}}\nspec:\n  command: [sh, -c, '{orphans}']\n"
    );
    let mut system = System::new(&[("a.yaml", &first), ("b.yaml", &sleeper("b", "  dependsOn: [a]\n"))]);
    system.within = unshare.map(str::to_owned).into();
    system.start(&[]);
    system.ready(&["a", "b"]);
    let children = |pid: u32| -> Vec<u32> {
        // Each thread has its own.
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let texts = tasks.map(|task| fs::read_to_string(task.path().join("children")).unwrap_or_default());
        let words = texts.collect::<Vec<_>>().join(" ");
        words.split_whitespace().filter_map(|word| word.parse().ok()).collect()
    };
    let init = children(system.keeper_pid())[0];
    // Its daemon and two services; no orphan, dead or alive.
    until("the orphans are gone", || (children(init).len() == 3).then_some(()));
    signal(init, "TERM");
    assert_eq!(system.ended(), 0);
    let (b, a) = (
        system.terminal().find("service/b          instance 0 was stopped").expect("b is stopped"),
        system.terminal().find("service/a          instance 0 was stopped").expect("a is stopped"),
    );
    assert!(b < a, "in reverse order: {}", system.terminal());
}

#[test]
fn a_program_that_says_it_is_stopping_is_told_of() {
    let code = "import socket,os,time\ns=socket.socket(socket.AF_UNIX,socket.SOCK_DGRAM)\n\
                a=os.environ['NOTIFY_SOCKET']\nsend=lambda t: s.sendto(t,chr(0)+a[1:] if a[0]=='@' else a)\n\
                send(b'READY=1')\nsend(b'STOPPING=1\\nSTATUS=emptying the queue')\ntime.sleep(1000)";
    let probe = "  probes: {readiness: {notify: systemd}}\n";
    let system = System::up(&[("a.yaml", &python("a", code, probe))]);
    until("it is told", || {
        system.ok(&["events", "a"]).contains("the program says that it is stopping").then_some(())
    });
    assert!(system.ok(&["describe", "a"]).contains("emptying the queue"));
}

#[test]
fn a_program_that_is_missing_when_it_is_needed_again_is_started_once_it_is_back() {
    let system = System::new(&[]);
    for way in ["crash", "restart"] {
        let dir = system.path(way);
        fs::create_dir(&dir).unwrap();
        fs::copy("/bin/sleep", dir.join("program")).unwrap();
    }
    let of = |name: &str| {
        let manifest = sleeper(name, "  restart: {backoff: {initial: 0s}}\n");
        manifest.replace(
            "[sleep, \"1000\"]",
            &format!("[{}, \"1000\"]", system.path(name).join("program").display()),
        )
    };
    system.write("manifests/a.yaml", &of("crash"));
    system.write("manifests/b.yaml", &of("restart"));
    let mut system = system;
    system.start(&[]);
    system.ready(&["crash", "restart"]);
    let before = ["crash", "restart"].map(|name| system.pid(name));
    let move_all = |from: &str, to: &str| {
        for name in ["crash", "restart"] {
            let dir = system.path(name);
            fs::rename(dir.join(from), dir.join(to)).unwrap();
        }
    };
    move_all("program", "away");
    signal(before[0], "KILL");
    let (code, words) = system.fails(&["restart", "restart"]);
    assert!(
        code == 1 && words.contains("is not restarted, the instance before it runs on"),
        "{code} {words}"
    );
    for name in ["crash", "restart"] {
        until("why says it", || system.ok(&["why", name]).contains("program does not exist").then_some(()));
    }
    assert!(alive(before[1]), "what runs is not stopped for what cannot be started");
    assert!(system.ok(&["describe", "crash"]).contains("it is tried again once that is another file"));
    move_all("away", "program");
    let runs_again = |name: &str, before: u32| {
        until("it runs again", || {
            system.instance(name)["pid"].as_u64().filter(|pid| *pid != u64::from(before))
        })
    };
    runs_again("crash", before[0]);
    until("it is told", || system.ok(&["events"]).contains("ProgramChanged").then_some(()));
    // A restart that has failed is over.
    assert_eq!(system.json(&["get", "restart"])["status"]["summary"], "Ready");
    assert!(!system.ok(&["rollout", "status", "restart"]).contains("waiting"));
    assert_eq!(system.pid("restart"), before[1]);
    system.ok(&["restart", "restart"]);
    runs_again("restart", before[1]);
}

#[test]
fn a_control_socket_that_somebody_removes_comes_back() {
    let system = System::up(&[("a.yaml", &sleeper("a", ""))]);
    let (daemon, socket) = (system.daemon_pid(), system.path(".unified-system/unisys.sock"));
    for times in 1..=2 {
        std::fs::remove_file(&socket).unwrap();
        until("it is there again", || {
            let events = system.run(&["events"]);
            (text(&events.stdout).matches("SocketRemoved").count() == times).then_some(())
        });
        assert_eq!(system.daemon_pid(), daemon);
    }
}

#[test]
fn who_does_not_end_in_its_time_is_said_to_have_been_killed() {
    let code =
        "import signal,time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('deaf')\ntime.sleep(1000)";
    let system = System::up(&[("a.yaml", &python("a", code, "  stop: {grace: 200ms}\n"))]);
    until("it is deaf", || system.log_of("a").contains("deaf").then_some(()));
    system.ok(&["stop", "a"]);
    let words = "it did not end within stop.grace (200ms) of SIGTERM and was killed";
    for verb in ["events", "describe", "why"] {
        let told = system.ok(&[verb, "a"]);
        assert!(told.contains(words), "{verb}: {told}");
    }
}

#[test]
fn a_log_that_is_emptied_moved_or_removed_from_outside_goes_on_and_so_does_who_follows_it() {
    let counts = "import itertools, os, sys, time\nfor n in itertools.count():\n  sys.stdout.write('%d\\n' % n); time.sleep(0.002)\n  \
                  if os.path.exists('enough'): break\nprint('end', flush=True); time.sleep(1000)";
    let system = System::up(&[("a.yaml", &python("a", counts, ""))]);
    system.ready(&["a"]);
    let follower = Follower::of(system.command(&["logs", "a", "-f"]));
    let path = system.path(".unified-system/logs/services/a.log");
    let beyond = |what: &str, than: u64| {
        until(what, || {
            let text = fs::read_to_string(&path).ok()?;
            assert!(!text.contains('\0'), "{what}");
            let lines = || text.lines();
            lines().last()?.parse::<u64>().ok().filter(|last| *last > than && lines().count() > 5)
        })
    };
    let mut last = beyond("it writes", 20);
    let way: [(&str, &dyn Fn()); 3] = [
        ("emptied", &|| fs::write(&path, "").unwrap()),
        ("moved", &|| fs::rename(&path, path.with_extension("log.1")).unwrap()),
        ("removed", &|| fs::remove_file(&path).unwrap()),
    ];
    for (what, lose) in way {
        // In the midst of it.
        let seen = follower.shown().len();
        until("it is followed", || (follower.shown().len() > seen).then_some(()));
        lose();
        last = beyond(what, last + 20);
        let tail = system.ok(&["logs", "a", "--tail=5"]);
        assert!(tail.lines().count() == 5, "{what}: {tail}");
    }
    system.write("manifests/enough", "");
    follower.shows("end");
    let shown = follower.shown();
    let seen: std::collections::BTreeSet<&str> = shown.iter().map(String::as_str).collect();
    assert_eq!(shown.len(), seen.len(), "none twice: {shown:?}");
    let left = fs::read_to_string(&path).unwrap();
    let missed: Vec<&str> = left.lines().filter(|line| !seen.contains(line)).collect();
    assert_eq!(missed, [""; 0], "of what still lies in it nothing is lost");
}

#[test]
fn a_file_that_is_being_written_anew_stops_nobody() {
    let two = |more: &str| format!("{}---\n{}", sleeper("one", more), sleeper("two", more));
    let system = System::up(&[("a.yaml", &sleeper("a", "")), ("m.yaml", &two(""))]);
    system.ready(&["a", "one", "two"]);
    let pids = || ["a", "one", "two"].map(|name| system.pid(name));
    let before = pids();
    // A generator that is slow: `(sleep 3; cat good) > a.yaml`.
    let mut slow = fs::File::create(system.path("manifests/a.yaml")).unwrap();
    until("it is said", || system.ok(&["events"]).contains("a.yaml is empty now").then_some(()));
    std::io::Write::write_all(&mut slow, sleeper("a", "  # again\n").as_bytes()).unwrap();
    drop(slow);
    until("it can be read", || system.ok(&["events"]).contains("can be read again").then_some(()));
    // And one that has written a half, which is a manifest of its own.
    let mut slow = fs::File::create(system.path("manifests/m.yaml")).unwrap();
    std::io::Write::write_all(&mut slow, sleeper("one", "").as_bytes()).unwrap();
    std::io::Write::flush(&mut slow).unwrap();
    until("it is said", || system.ok(&["events"]).contains("m.yaml is still being written").then_some(()));
    std::io::Write::write_all(&mut slow, format!("---\n{}", sleeper("two", "  # again\n")).as_bytes())
        .unwrap();
    drop(slow);
    system.write("manifests/b.yaml", &sleeper("b", ""));
    until("b is known", || system.run(&["get", "b"]).status.success().then_some(()));
    assert_eq!(pids(), before);
    // Who wants objects to go takes them out, or removes their file.
    system.write("manifests/m.yaml", &sleeper("one", ""));
    until("it is gone", || (!system.run(&["get", "two"]).status.success()).then_some(()));
    fs::remove_file(system.path("manifests/a.yaml")).unwrap();
    until("it is gone", || (!system.run(&["get", "a"]).status.success()).then_some(()));
}

#[test]
fn one_press_of_a_key_that_arrives_twice_leaves_programs_their_time() {
    let slow = "import signal,sys,time\ndef end(*_):\n  time.sleep(0.3); print('flushed', flush=True); sys.exit(0)\nsignal.signal(signal.SIGTERM, end)\nprint('here', flush=True)\nwhile True: signal.pause()";
    let system = System::up(&[("a.yaml", &python("a", slow, ""))]);
    until("it is here", || system.log_of("a").contains("here").then_some(()));
    let keeper = system.keeper_pid();
    signal(keeper, "INT");
    signal(keeper, "INT");
    until("it has ended", || (!alive(keeper)).then_some(()));
    assert!(system.log_of("a").contains("flushed"));
}

#[test]
fn an_up_whose_manifests_are_bad_says_so_though_what_was_accepted_runs() {
    let system = System::up(&[("a.yaml", &sleeper("a", "  env: {V: one}\n"))]);
    system.ready(&["a"]);
    system.ok(&["down"]);
    system.write("manifests/a.yaml", &sleeper("a", "  env: {V: two}\n  wrong: 1\n"));
    let (code, told) = system.fails(&["up", "-d", "--wait"]);
    assert_eq!(code, 1, "{told}");
    assert!(
        told.contains("a.yaml") && told.contains("wrong") && told.contains("what was accepted before runs"),
        "{told}"
    );
    assert_eq!(system.ok(&["exec", "a", "--", "sh", "-c", "echo $V"]).trim(), "one");
    system.ok(&["down"]);
    system.write("manifests/a.yaml", &sleeper("a", "  env: {V: two}\n"));
    let (code, told) = system.fails(&["up", "-d", "--wait"]);
    assert_eq!((code, told.as_str()), (0, ""));
    system.ok(&["down"]);
}

#[test]
fn filters_of_logs_look_at_all_of_them() {
    let many = "for n in range(500): print('line', n)\nimport time; time.sleep(9999)";
    let system = System::up(&[("a.yaml", &python("a", many, ""))]);
    until("it has written", || system.log_of("a").contains("line 499").then_some(()));
    let lines = |args: &[&str]| system.ok(&[&["logs", "a"], args].concat()).lines().count();
    assert_eq!((lines(&[]), lines(&["--tail", "7"]), lines(&["--since", "1h"])), (100, 7, 500));
    assert_eq!((lines(&["--grep", "^line 5$"]), lines(&["--grep", "^line 5$", "--tail", "100"])), (1, 0));
}

#[test]
fn who_goes_into_the_background_is_told_to_stay_in_the_foreground() {
    let forks = sleeper("a", "  restart: {policy: OnFailure}\n")
        .replace("[sleep, \"1000\"]", "[sh, -c, \"sleep 1000 & exit 0\"]");
    let system = System::up(&[("a.yaml", &forks)]);
    let told =
        until("its end", || Some(system.ok(&["why", "a"])).filter(|told| told.contains("exit code 0")));
    assert!(told.contains("while processes of it ran on: it goes into the background"), "{told}");
    assert_eq!(system.marked().len(), 0, "nothing of it is left");
}

#[test]
fn a_program_that_ends_while_it_is_probed_has_ended_and_has_not_failed_its_probe() {
    let code = "import http.server, os\nclass H(http.server.BaseHTTPRequestHandler):\n  def do_GET(self): os._exit(3)\nhttp.server.HTTPServer(('127.0.0.1', int(os.environ['PORT'])), H).serve_forever()";
    let rest = "  ports: [{name: http, port: auto}]\n  circuitBreaker: null\n  restart: {backoff: {initial: 0s}}\n  probes: {startup: {tcp: {port: http}, period: 50ms, failureThreshold: 600}, liveness: {http: {path: /, port: http}, period: 50ms, failureThreshold: 1}}\n";
    let system = System::up(&[("a.yaml", &python("a", code, rest))]);
    until("it has ended some times", || (system.instance("a")["restarts"].as_u64()? >= 5).then_some(()));
    let last = system.instance("a")["lastExit"].clone();
    assert_eq!((&last["code"], &last["reason"]), (&3.into(), &"ExitCode".into()), "{last}");
    assert!(!system.ok(&["events", "a"]).contains("LivenessProbeFailed"));
}

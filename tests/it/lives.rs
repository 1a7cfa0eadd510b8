//! What people rely on: crashes, edits, the daemon's death, the end of everything.

use std::collections::BTreeSet;
use std::fs;

use crate::support::{System, alive, python, signal, sleeper, text, until};

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
fn the_daemon_can_be_killed_and_no_service_notices() {
    let noisy = python("a", "import time\nn=0\nwhile True:\n  print(n); n+=1; time.sleep(0.001)", "");
    let system = System::up(&[("a.yaml", &noisy), ("b.yaml", &sleeper("b", "  dependsOn: [a]\n"))]);
    system.ready(&["a", "b"]);
    let (a, b) = (system.pid("a"), system.pid("b"));
    for _ in 0..5 {
        let daemon = until("a daemon", || system.daemon_pid());
        signal(daemon, "KILL");
        until("another daemon", || system.daemon_pid().filter(|pid| *pid != daemon));
    }
    assert_eq!((system.pid("a"), system.pid("b")), (a, b));
    // Every line exactly once, in order.
    until("enough lines", || (log_of(&system, "a").lines().count() > 300).then_some(()));
    system.ok(&["stop", "a"]);
    until("a has stopped", || system.instance("a")["pid"].is_null().then_some(()));
    let numbers: Vec<u64> = log_of(&system, "a").lines().map(|line| line.parse().unwrap()).collect();
    let expected: Vec<u64> = (0..numbers.len() as u64).collect();
    assert_eq!(numbers, expected);
}

fn log_of(system: &System, name: &str) -> String {
    fs::read_to_string(system.path(&format!(".unified-system/logs/services/{name}.log"))).unwrap_or_default()
}

#[test]
fn an_exit_that_happens_while_the_daemon_is_dead_keeps_its_code() {
    let system = System::up(&[(
        "a.yaml",
        &python(
            "a",
            "import sys\nsys.stdin\nimport signal\nsignal.signal(signal.SIGUSR1, lambda *_: sys.exit(42))\nprint('here')\nwhile True: signal.pause()",
            "  restart: {policy: Never}\n",
        ),
    )]);
    until("it is here", || log_of(&system, "a").contains("here").then_some(()));
    let (pid, daemon) = (system.pid("a"), system.daemon_pid().unwrap());
    signal(daemon, "STOP");
    signal(pid, "USR1");
    until("it ended", || (!alive(pid)).then_some(()));
    signal(daemon, "KILL");
    until("the code is known", || (system.instance("a")["lastExit"]["code"] == 42).then_some(()));
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
    until("it is here", || log_of(&system, "a").contains("here").then_some(()));
    let pid = system.pid("a");
    signal(system.keeper_pid(), "INT");
    until("it is being stopped", || (system.instance("a")["lifecycle"] == "Stopping").then_some(()));
    signal(system.keeper_pid(), "INT");
    assert_eq!(system.ended(), 130);
    assert!(!alive(pid));
}

#[test]
fn keeper_and_daemon_killed_at_once_and_the_next_up_adopts() {
    let mut system = System::up(&[("a.yaml", &sleeper("a", ""))]);
    let a = system.pid("a");
    let daemon = system.daemon_pid().unwrap();
    signal(daemon, "STOP");
    signal(system.keeper_pid(), "KILL");
    signal(daemon, "KILL");
    system.ended();
    assert!(alive(a));
    system.start(&[]);
    assert_eq!(system.pid("a"), a);
    system.ok(&["down"]);
    assert_eq!(system.ended(), 0);
    assert!(!alive(a));
}

#[test]
fn the_keeper_becomes_the_binary_on_disk_and_no_service_notices() {
    let mut system = System::up(&[("a.yaml", &sleeper("a", ""))]);
    let (a, daemon) = (system.pid("a"), system.daemon_pid().unwrap());
    system.ok(&["upgrade"]);
    until("another daemon", || system.daemon_pid().filter(|pid| *pid != daemon));
    assert_eq!(system.pid("a"), a);
    signal(a, "KILL");
    until("it is started again", || (system.instance("a")["lastExit"]["signal"] == 9).then_some(()));
    // The end is the end, also right after an upgrade: the daemon that was replaced leaves nobody who takes over.
    system.ok(&["upgrade"]);
    system.ok(&["down"]);
    assert_eq!(system.ended(), 0);
    until("nothing of it runs", || system.processes().is_empty().then_some(()));
    assert!(!system.path(".unified-system/unisys.sock").exists());
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
fn a_binary_that_cannot_be_executed_leaves_everything_as_it_was() {
    let mut system = System::new(&[("a.yaml", &sleeper("a", "  restart: {backoff: {initial: 0s}}\n"))]);
    system.has_own_binary();
    system.start(&[]);
    let a = system.pid("a");
    fs::rename(system.path("unisys"), system.path("unisys.good")).unwrap();
    fs::write(system.path("unisys"), "not a program").unwrap();
    let keeper = system.keeper_pid();
    signal(keeper, "USR2");
    let said = || {
        let mut events = std::process::Command::new(crate::support::BINARY);
        let output = events.arg("events").current_dir(system.dir.path()).output().unwrap();
        text(&output.stdout).contains("UpgradeFailed")
    };
    until("it is said", || said().then_some(()));
    fs::rename(system.path("unisys.good"), system.path("unisys")).unwrap();
    assert_eq!((system.pid("a"), system.keeper_pid()), (a, keeper));
    signal(a, "KILL");
    until("it is started again", || (system.instance("a")["lastExit"]["signal"] == 9).then_some(()));
    signal(keeper, "TERM");
    assert_eq!(system.ended(), 0, "the keeper still hears signals");
}

#[test]
fn a_command_waits_for_a_daemon_that_is_being_started_again() {
    let mut system = System::up(&[("a.yaml", &sleeper("a", ""))]);
    for _ in 0..3 {
        signal(system.daemon_pid().unwrap(), "KILL");
        system.ok(&["get"]);
    }
    system.ok(&["upgrade"]);
    system.ok(&["down"]);
    assert_eq!(system.ended(), 0);
}

#[test]
fn an_upgrade_amid_starts_starts_nobody_twice() {
    let mut system = System::up(&[("a.yaml", &sleeper("a", ""))]);
    for replicas in [60, 120] {
        let daemon = system.daemon_pid().unwrap();
        system.ok(&["scale", &format!("a={replicas}")]);
        system.ok(&["upgrade"]);
        until("another daemon", || system.daemon_pid().filter(|pid| *pid != daemon));
        until("all are ready", || {
            (system.json(&["get", "service", "a"])["status"]["readyReplicas"] == replicas).then_some(())
        });
        assert_eq!(system.marked().len(), replicas);
    }
    system.ok(&["down"]);
    assert_eq!(system.ended(), 0);
    assert_eq!(system.marked(), Vec::<u32>::new());
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
fn which_change_a_crash_follows_is_known_to_the_next_daemon() {
    let code = "import os,time,sys\nwhile True:\n  time.sleep(0.05)\n  if os.path.exists('die'): sys.exit(3)";
    let with =
        |value: &str| python("a", code, &format!("  env: {{DB_URL: {value}}}\n  update: {{minReady: 0s}}\n"));
    let system = System::up(&[("a.yaml", &with("old"))]);
    system.ready(&["a"]);
    system.write("manifests/a.yaml", &with("new"));
    until("the change is made", || system.ok(&["events", "a"]).contains("RolloutComplete").then_some(()));
    let daemon = system.daemon_pid().unwrap();
    signal(daemon, "KILL");
    until("another daemon", || system.daemon_pid().filter(|pid| *pid != daemon));
    system.write("manifests/die", "");
    let why = until("the crash and what it follows", || {
        Some(system.ok(&["why", "a"])).filter(|why| why.contains("exit code 3"))
    });
    assert!(why.contains("revision 2 changed spec.env"), "{why}");
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
    system.ok(&["restart", "restart"]);
    for name in ["crash", "restart"] {
        until("why says it", || system.ok(&["why", name]).contains("program does not exist").then_some(()));
    }
    assert!(alive(before[1]), "what runs is not stopped for what cannot be started");
    move_all("away", "program");
    for (name, before) in ["crash", "restart"].into_iter().zip(before) {
        let pid = || system.instance(name)["pid"].as_u64().filter(|pid| *pid != u64::from(before));
        until("it runs again", pid);
    }
    until("it is told", || system.ok(&["events"]).contains("ProgramChanged").then_some(()));
}

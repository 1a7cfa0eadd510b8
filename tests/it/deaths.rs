//! The daemon dies, or is stopped; or daemon and keeper become another binary.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use crate::support::{System, alive, free_port, kill_both, python, signal, sleeper, text, until};

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
    until("enough lines", || (system.log_of("a").lines().count() > 300).then_some(()));
    system.ok(&["stop", "a"]);
    until("a has stopped", || system.instance("a")["pid"].is_null().then_some(()));
    let numbers: Vec<u64> = system.log_of("a").lines().map(|line| line.parse().unwrap()).collect();
    let expected: Vec<u64> = (0..numbers.len() as u64).collect();
    assert_eq!(numbers, expected);
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
    until("it is here", || system.log_of("a").contains("here").then_some(()));
    let (pid, daemon) = (system.pid("a"), system.daemon_pid().unwrap());
    signal(daemon, "STOP");
    signal(pid, "USR1");
    until("it ended", || (!alive(pid)).then_some(()));
    signal(daemon, "KILL");
    until("the code is known", || (system.instance("a")["lastExit"]["code"] == 42).then_some(()));
}

#[test]
fn why_and_events_go_on_where_the_daemon_before_ended() {
    let once = "import os, time\nif os.path.exists('ran'): time.sleep(1000)\nopen('ran', 'w').close(); raise RuntimeError('no luck')";
    let system = System::up(&[("a.yaml", &python("a", once, ""))]);
    let ended = "instance 0 ended: exit code 1: RuntimeError: no luck (crash)";
    let told = || {
        until("why goes down to the crash", || {
            let chain = system.json(&["why", "a"])["chain"].as_array()?.clone();
            let at = chain.iter().position(|link| link["what"] == ended)?;
            assert!(
                chain[..at].iter().filter(|link| link["what"].as_str().unwrap().contains("adopted")).count()
                    < 2
            );
            Some(chain[at]["id"].clone())
        })
    };
    until("it runs again", || {
        let chain = system.json(&["why", "a"])["chain"].as_array()?.clone();
        (chain.len() > 4 && chain[0]["what"] == "instance 0 is ready").then_some(())
    });
    let crash = told();
    for _ in 0..2 {
        let daemon = system.daemon_pid().unwrap();
        signal(daemon, "KILL");
        until("another daemon", || system.daemon_pid().filter(|pid| *pid != daemon));
        until("it has adopted", || system.ok(&["why", "a"]).contains("adopted").then_some(()));
        assert_eq!(told(), crash, "the very same");
    }
    let events = system.ok(&["events", "-o", "json"]);
    let events = events.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let ids: Vec<u64> = events.map(|event| event["id"].as_u64().unwrap()).collect();
    assert!(ids.is_sorted_by(|a, b| a < b) && ids.contains(&crash.as_u64().unwrap()), "{ids:?}");
    assert_eq!(system.ok(&["events"]).matches(" Revised ").count(), 3, "one a daemon, each with its time");
}

/// As nginx, redis and PostgreSQL do to change their titles: the marker is gone, for those that it forks as well.
const WRITES_OVER_ITS_ENVIRONMENT: &str = "import ctypes,os,socket,time\n\
    fields=open('/proc/self/stat').read().rsplit(')',1)[1].split()\n\
    start,end=int(fields[47]),int(fields[48])\n\
    ctypes.memset(start,0,end-start)\n";

#[test]
fn a_program_that_writes_over_its_environment_is_ours_all_the_same() {
    let port = free_port();
    let code = format!(
        "{WRITES_OVER_ITS_ENVIRONMENT}s=socket.create_server(('127.0.0.1',{port}))\nos.fork()\ntime.sleep(1000)"
    );
    let rest = format!(
        "  ports: [{{name: h, port: {port}, address: 127.0.0.1}}]\n  probes: {{readiness: {{tcp: {{port: h}}, period: 100ms}}}}\n"
    );
    let mut system = System::up(&[("a.yaml", &python("a", &code, &rest))]);
    system.ready(&["a"]);
    let (a, daemon, keeper) = (system.pid("a"), system.daemon_pid().unwrap(), system.keeper_pid());
    signal(daemon, "KILL");
    let next = until("another daemon", || system.daemon_pid().filter(|pid| *pid != daemon));
    until("it has adopted", || system.ok(&["events"]).contains("Adopted").then_some(()));
    assert_eq!(system.pid("a"), a);
    let events = system.ok(&["events"]);
    assert!(!events.contains("CannotStart") && !events.contains("E2005"), "{events}");
    kill_both(keeper, next);
    system.ended();
    until("the daemon is dead", || (!alive(next)).then_some(()));
    let (_, words) = system.fails(&["get"]);
    assert!(words.contains(&format!("a (pid {a})")), "{words}");
    system.start(&[]);
    assert_eq!(system.pid("a"), a);
    let events = system.ok(&["events"]);
    assert!(!events.contains("CannotStart") && !events.contains("E2005"), "{events}");
}

#[test]
fn the_next_keeper_finds_what_a_dead_program_leaves_in_its_session() {
    let code = format!(
        "{WRITES_OVER_ITS_ENVIRONMENT}pid=os.fork()\nif pid: open('child','w').write(str(pid)); os.rename('child','child%d' % os.getpid())\n\
         null=os.open('/dev/null',os.O_RDWR)\n[os.dup2(null,n) for n in (0,1,2)]\ntime.sleep(1000)"
    );
    let system = System::up(&[("a.yaml", &python("a", &code, "  restart: {backoff: {initial: 0s}}\n"))]);
    let child_of = |pid: u32| {
        let file = system.path(&format!("manifests/child{pid}"));
        until("its child", || fs::read_to_string(&file).ok()?.parse::<u32>().ok())
    };
    let a = system.pid("a");
    let child = child_of(a);
    let keeper_now = || system.json(&["get", "system"])["status"]["keeperPid"].as_u64().map(|pid| pid as u32);
    let keeper = keeper_now().unwrap();
    signal(keeper, "KILL");
    until("another keeper", || keeper_now().filter(|pid| *pid != keeper));
    signal(a, "KILL");
    let next =
        until("it runs again", || system.instance("a")["pid"].as_u64().filter(|pid| *pid != u64::from(a)));
    assert!(!alive(child), "killed before another takes its place");
    let child = child_of(next as u32);
    system.ok(&["stop", "a"]);
    until("nobody is left", || (!alive(child)).then_some(()));
}

#[test]
fn a_daemon_or_keeper_that_was_stopped_is_woken_by_the_other() {
    let system = System::up(&[("a.yaml", &sleeper("a", "  restart: {backoff: {initial: 0s}}\n"))]);
    let (a, daemon, keeper) = (system.pid("a"), system.daemon_pid().unwrap(), system.keeper_pid());
    signal(daemon, "STOP");
    system.ok(&["get"]);
    assert_eq!(system.daemon_pid(), Some(daemon), "it goes on, with all that it knew");
    signal(keeper, "STOP");
    // The keeper alone hears of its end.
    signal(a, "KILL");
    until("it is started again", || {
        system.ok(&["get"]);
        system.instance("a")["pid"].as_u64().filter(|pid| *pid != u64::from(a))
    });
    assert!(system.ok(&["events"]).contains("the keeper was stopped by a signal"));
    // Ctrl-Z would leave the services without anybody.
    signal(keeper, "TSTP");
    until("it is said", || system.terminal().contains("not stopped").then_some(()));
}

#[test]
fn who_waits_is_answered_by_the_next_daemon_and_told_what_is_waited_for() {
    let late = "import os, time\nwhile not os.path.exists('go'): time.sleep(0.01)\nopen('well', 'w').close()\ntime.sleep(1000)";
    let probe = "  probes: {readiness: {file: {path: well}, period: 100ms}}\n";
    let system = System::up(&[("a.yaml", &python("a", late, probe))]);
    let mut waits = system.command(&["wait", "--for=condition=Ready", "a", "--timeout", "1h"]);
    let mut waits = waits.stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(waits.stderr.take().unwrap()).lines();
    assert!(said.next().unwrap().unwrap().starts_with("waiting: a: Ready is False"));
    let daemon = system.daemon_pid().unwrap();
    signal(daemon, "KILL");
    until("another daemon", || system.daemon_pid().filter(|pid| *pid != daemon));
    system.write("manifests/go", "");
    assert!(waits.wait().unwrap().success());
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
fn a_system_whose_directory_was_removed_is_not_started_a_second_time() {
    let mut system = System::up(&[("a.yaml", &sleeper("a", ""))]);
    system.ready(&["a"]);
    let (a, keeper) = (system.pid("a"), system.keeper_pid());
    fs::remove_dir_all(system.path(".unified-system")).unwrap();
    for _ in 0..2 {
        let (code, words) = system.fails(&["up", "-d"]);
        assert!(code == 5 && words.contains(&format!("`kill {keeper}`")), "{code}: {words}");
    }
    assert!(alive(a) && alive(keeper));
    signal(keeper, "TERM");
    system.ended();
    assert!(!alive(a), "what was said is so");
    system.start(&[]);
    system.ok(&["down"]);
}

#[test]
fn a_directory_that_was_moved_away_is_not_begun_anew_and_another_system_in_its_place_is_left_alone() {
    // It is tried again for as long as the directory is away.
    let again = "  circuitBreaker: null\n  restart: {backoff: {initial: 10ms, max: 20ms}}\n";
    let mut system = System::up(&[("a.yaml", &sleeper("a", again))]);
    system.ready(&["a"]);
    let (a, keeper, state) = (system.pid("a"), system.keeper_pid(), system.path(".unified-system"));
    let gone = system.path("gone");
    fs::rename(&state, &gone).unwrap();
    signal(a, "KILL");
    // Its dump could not be written either.
    until("its end is told", || {
        let log = fs::read_to_string(gone.join("logs/unifiedsystem.log")).unwrap_or_default();
        log.contains("CrashDumpFailed").then_some(())
    });
    assert!(!state.exists(), "what was moved away is not made again");
    fs::rename(&gone, &state).unwrap();
    system.ready(&["a"]);
    until("it is removed", || fs::remove_dir_all(&state).ok());
    let (code, words) = system.fails(&["up", "-d"]);
    assert!(code == 5 && words.contains(&format!("`kill {keeper}`")), "{code}: {words}");
    // Somebody else's in its place.
    fs::create_dir_all(state.join("run")).unwrap();
    for name in ["lock", "unisys.sock", "run/journal"] {
        fs::write(state.join(name), "").unwrap();
    }
    signal(keeper, "TERM");
    system.ended();
    assert!(state.join("unisys.sock").exists() && state.join("run/journal").exists());
}

#[test]
fn a_binary_that_is_none_leaves_everything_as_it_was() {
    let mut system = System::new(&[("a.yaml", &sleeper("a", "  restart: {backoff: {initial: 0s}}\n"))]);
    system.has_own_binary();
    system.start(&[]);
    let (a, keeper, daemon) = (system.pid("a"), system.keeper_pid(), system.daemon_pid());
    fs::rename(system.path("unisys"), system.path("unisys.good")).unwrap();
    let ask = |verb: &str| {
        let mut command = std::process::Command::new(crate::support::BINARY);
        command.arg(verb).current_dir(system.dir.path()).output().unwrap()
    };
    let whole = fs::read(system.path("unisys.good")).unwrap();
    let script = |words: &str| format!("#!/bin/sh\n{words}\n").into_bytes();
    // No program, one that fails, one that is something else, one of which a part was copied.
    for bad in [b"not a program".into(), script("exit 1"), script("echo 1.0"), whole[..1 << 20].into()] {
        let path = system.path("unisys");
        let _ = fs::remove_file(&path);
        fs::write(&path, bad).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let output = ask("upgrade");
        let words = text(&output.stderr);
        assert!(output.status.code() == Some(1) && words.contains("the keeper goes on as it is"), "{words}");
        assert!(words.contains(&path.display().to_string()), "{words}");
    }
    signal(keeper, "USR2");
    until("it is said", || (text(&ask("events").stdout).matches("UpgradeFailed").count() == 5).then_some(()));
    fs::rename(system.path("unisys.good"), system.path("unisys")).unwrap();
    assert_eq!((system.pid("a"), system.keeper_pid(), system.daemon_pid()), (a, keeper, daemon));
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
fn what_has_failed_or_waits_is_left_alone_by_the_next_daemon_and_tried_again_by_the_next_up() {
    let fails = |name: &str, code: u8, rest: &str| {
        let code = format!("import sys\nopen('{name}.runs','a').write('x')\nsys.exit({code})");
        python(name, &code, rest)
    };
    let job = "apiVersion: unisys.dev/v1\nkind: Job\nmetadata: {name: job}\nspec: {command: [sh, -c, 'printf x >> job.runs; exit 1'], backoffLimit: 0}\n";
    let mut system = System::new(&[
        ("perm.yaml", &fails("perm", 78, "")),
        ("never.yaml", &fails("never", 1, "  restart: {policy: Never}\n")),
        ("slow.yaml", &fails("slow", 1, "  restart: {backoff: {initial: 10m, max: 10m}}\n")),
        ("job.yaml", job),
        ("junk.yaml", &sleeper("junk", "").replace("[sleep, \"1000\"]", "[./junk]")),
        ("a.yaml", &sleeper("a", "")),
    ]);
    system.write("manifests/junk", "not a program");
    fs::set_permissions(system.path("manifests/junk"), fs::Permissions::from_mode(0o755)).unwrap();
    system.start(&[]);
    let units = ["perm", "never", "slow", "job"];
    let runs = |system: &System| {
        units.map(|name| {
            fs::read_to_string(system.path(&format!("manifests/{name}.runs"))).unwrap_or_default().len()
        })
    };
    let rested = |system: &System| {
        let rests = |name: &str| {
            let kind = if name == "job" { "job" } else { "service" };
            let found = system.json(&["get", kind, name]);
            ["Failed", "Backoff"]
                .contains(&found["status"]["instances"][0]["lifecycle"].as_str()?)
                .then_some(())
        };
        for name in units {
            until("it rests", || rests(name));
        }
    };
    rested(&system);
    assert_eq!(runs(&system), [1; 4]);
    let junk = |system: &System| system.instance("junk")["lastExit"]["incarnation"].clone();
    let tried = junk(&system);
    for how in ["daemon", "upgrade", "keeper"] {
        let daemon = system.daemon_pid().unwrap();
        match how {
            "daemon" => signal(daemon, "KILL"),
            "keeper" => signal(system.keeper_pid(), "KILL"),
            _ => drop(system.ok(&["upgrade"])),
        }
        until("another daemon", || system.daemon_pid().filter(|pid| *pid != daemon));
        system.ready(&["a"]);
        rested(&system);
        assert_eq!(runs(&system), [1; 4], "{how}");
        assert_eq!(
            (&system.instance("junk")["lifecycle"], junk(&system)),
            (&"Failed".into(), tried.clone()),
            "{how}"
        );
        assert_eq!(system.instance("never")["lastExit"]["code"], 1);
        assert!(system.ok(&["why", "perm"]).contains("exit code 78"));
    }
    // What it executes is another file by the time that there is another daemon.
    let daemon = system.daemon_pid().unwrap();
    signal(daemon, "STOP");
    fs::remove_file(system.path("manifests/junk")).unwrap();
    fs::write(system.path("manifests/junk"), "#!/bin/sh\nexec sleep 1000\n").unwrap();
    fs::set_permissions(system.path("manifests/junk"), fs::Permissions::from_mode(0o755)).unwrap();
    signal(daemon, "KILL");
    system.ready(&["junk"]);
    system.ok(&["down"]);
    system.start(&[]);
    until("all were tried again", || (runs(&system) == [2; 4]).then_some(()));
}

#[test]
fn no_command_outlives_the_daemon_that_asked_for_it() {
    let probe = "  probes: {liveness: {period: 1s, timeout: 60s, exec: {command: [sleep, \"2000\"]}}}\n";
    let leaves = "  probes: {liveness: {period: 1s, timeout: 1s, failureThreshold: 100, exec: {command: [sh, -c, 'timeout 3000 sleep 3000; true']}}}\n";
    let mut system = System::up(&[("a.yaml", &sleeper("a", probe)), ("b.yaml", &sleeper("b", leaves))]);
    let asked = |system: &System, what: &str| {
        let is_it = |pid: &u32| {
            fs::read_to_string(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line == format!("sleep\0{what}\0"))
        };
        system.marked().into_iter().filter(is_it).collect::<Vec<u32>>()
    };
    let first = until("it is being asked", || asked(&system, "2000").first().copied());
    // In a process group of its own, which is not that of the command that ran out of time.
    let apart = until("the other one is being asked", || asked(&system, "3000").first().copied());
    until("its time is up", || (!alive(apart)).then_some(()));
    signal(system.daemon_pid().unwrap(), "KILL");
    until("it has gone too", || (!alive(first)).then_some(()));
    let second = until("another is being asked", || asked(&system, "2000").first().copied());
    system.ok(&["down"]);
    assert_eq!(system.ended(), 0);
    assert!(!alive(second));
    assert!(asked(&system, "3000").is_empty(), "nor anything that it started");
}

#[test]
fn a_database_that_is_lost_costs_no_service_no_order_and_no_set() {
    let job =
        "apiVersion: unisys.dev/v1\nkind: Job\nmetadata: {name: once}\nspec: {command: [sh, -c, echo ran]}\n";
    let system =
        System::up(&[("a.yaml", &sleeper("a", "")), ("bot.yaml", &sleeper("bot", "")), ("once.yaml", job)]);
    fs::create_dir(system.path("other")).unwrap();
    system.write("other/b.yaml", &sleeper("b", ""));
    system.ok(&["apply", "-f", "other"]);
    system.ready(&["a", "b"]);
    until("the job has run", || system.log_of("once").contains("ran").then_some(()));
    system.ok(&["disable", "bot"]);
    let (a, b) = (system.pid("a"), system.pid("b"));
    let state = system.path(".unified-system");
    for lose in ["emptied", "removed", "damaged"] {
        until("the copy is there", || {
            let copy = fs::read_to_string(state.join("spare.json")).ok()?;
            (copy.contains("disabled") && copy.contains("Code") && copy.contains("other")).then_some(())
        });
        let daemon = system.daemon_pid().unwrap();
        // It holds the file open, and must not write to it any more.
        signal(daemon, "STOP");
        let _ = fs::remove_file(state.join("state.db-wal"));
        match lose {
            "emptied" => fs::write(state.join("state.db"), "").unwrap(),
            "removed" => fs::remove_file(state.join("state.db")).unwrap(),
            _ => fs::write(state.join("state.db"), [b'x'; 9000]).unwrap(),
        }
        signal(daemon, "KILL");
        until("another daemon", || system.daemon_pid().filter(|pid| *pid != daemon));
        let told = "are known from a copy";
        until("it is said", || system.ok(&["events"]).contains(told).then_some(()));
        system.ready(&["a", "b"]);
        assert_eq!((system.pid("a"), system.pid("b")), (a, b), "{lose}");
        let shown = system.ok(&["get"]);
        assert!(shown.contains("Disabled"), "{lose}: {shown}");
        assert_eq!(system.log_of("once").lines().count(), 1, "{lose}");
    }
}

#[test]
fn a_system_whose_directory_was_moved_and_then_removed_is_not_started_a_second_time() {
    let mut system = System::up(&[("a.yaml", &sleeper("a", ""))]);
    system.ready(&["a"]);
    let (keeper, pid) = (system.keeper_pid(), system.pid("a"));
    let other = system.path("other");
    fs::rename(system.path(".unified-system"), &other).unwrap();
    // The daemon may be writing there.
    until("it is removed", || fs::remove_dir_all(&other).ok());
    for time in ["at first", "again"] {
        let (code, words) = system.fails(&["up"]);
        assert!(
            code == 5 && words.contains(&format!("still runs (keeper, pid {keeper})")),
            "{time}: {words}"
        );
    }
    assert!(alive(pid));
    signal(keeper, "TERM");
    assert_eq!(system.ended(), 0);
    until("a was stopped", || (!alive(pid)).then_some(()));
}

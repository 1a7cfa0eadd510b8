//! Storms and pressure, each strictly contained: crash loops, a fork bomb, full disks, floods of messages and of output, a service
//! that turns against who started it. The control API answers, healthy services come back, memory stays bounded.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::{System, alive, is_root, kill_both, python, signal, sleeper, text, until};

/// Resident memory of a process, in MiB.
fn memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
    line.trim().split(' ').next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) >> 10
}

/// What keeper and daemon may hold whatever storms around them; 1,000 services at rest take a tenth of it.
const BOUND: u64 = 250;

fn within_bounds(system: &System) {
    let pids = [Some(system.keeper_pid()), system.daemon_pid()];
    for pid in pids.into_iter().flatten() {
        assert!(memory(pid) < BOUND, "process {pid} holds {} MiB", memory(pid));
    }
}

/// Kills a healthy service; it has to come back.
fn comes_back(system: &System, name: &str) {
    let before = system.pid(name);
    signal(before, "KILL");
    until("it is back", || (system.instance(name)["pid"].as_u64()? != u64::from(before)).then_some(()));
}

/// Comes back soon, however often it is killed.
const STEADY: &str = "  circuitBreaker: null\n  restart: {backoff: {initial: 10ms, max: 20ms}}\n";

/// A file system of a few pages of its own, unmounted at the end. `None`, with a word, where nobody may mount.
struct Small(PathBuf);

impl Small {
    fn mount(at: &Path, size: &str) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let options = format!("size={size},mode=0700");
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "none"]).arg(at).status();
        if status.is_ok_and(|status| status.success()) {
            return Some(Self(at.to_owned()));
        }
        eprintln!("skipped: cannot mount a small file system here");
        None
    }

    fn fill(&self) {
        let mut file = fs::File::create(self.0.join("filler")).unwrap();
        for size in [65536, 4096, 1] {
            while std::io::Write::write_all(&mut file, &vec![0; size]).is_ok() {}
        }
    }

    fn empty(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn restarts(system: &System) -> u64 {
    let objects = system.json(&["get", "services"]);
    let instances = objects["items"].as_array().unwrap().iter();
    instances.filter_map(|object| object["status"]["instances"][0]["restarts"].as_u64()).sum()
}

fn said(system: &System, what: &str) {
    until(what, || system.ok(&["events"]).contains(what).then_some(()));
}

#[test]
fn two_hundred_services_that_crash_at_once_delay_nobody() {
    let loops = "  circuitBreaker: null\n  restart: {backoff: {initial: 20ms, max: 20ms}}\n";
    let crash =
        |index: usize| sleeper(&format!("c{index}"), loops).replace("[sleep, \"1000\"]", "[\"false\"]");
    let all: Vec<String> = (0..200).map(crash).collect();
    let system = System::up(&[("crash.yaml", &all.join("---\n")), ("h.yaml", &sleeper("healthy", STEADY))]);
    system.ready(&["healthy"]);
    for round in 1..=3 {
        comes_back(&system, "healthy");
        until("the storm goes on", || (restarts(&system) > 500 * round).then_some(()));
        within_bounds(&system);
    }
    // The daemon's own death in the middle of it changes nothing.
    let (healthy, daemon) = (system.pid("healthy"), system.daemon_pid().unwrap());
    signal(daemon, "KILL");
    until("another daemon", || system.daemon_pid().filter(|pid| *pid != daemon));
    assert_eq!(system.pid("healthy"), healthy);
    comes_back(&system, "healthy");
    let dumps = fs::read_dir(system.path(".unified-system/crash-dumps")).unwrap().count();
    assert!(dumps <= 200 * 20, "{dumps} crash dumps");
    system.ok(&["down"]);
}

/// Whom the fork bomb becomes: nobody else on this machine is he, so that his limit of processes is the bomb's alone.
const BOMBER: u32 = 54_322;

fn of_bomber() -> usize {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let is_his = |entry: &fs::DirEntry| {
        let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        status.lines().any(|line| line.starts_with("Uid:") && line.contains(&BOMBER.to_string()))
            && !status.contains("State:\tZ")
    };
    entries.filter(is_his).count()
}

#[test]
fn a_fork_bomb_is_held_by_its_limit_and_ended_by_stop() {
    if !is_root() {
        eprintln!("skipped: only root can give the bomb a user of its own");
        return;
    }
    // `pids.max` needs a cgroup; where there is none that is said, and a limit of the user's processes holds the bomb.
    let bomb = format!(
        "import os,resource,time\nos.setgid({BOMBER}); os.setuid({BOMBER})\nresource.setrlimit(resource.RLIMIT_NPROC,(64,64))\n\
         while True:\n  try: os.fork()\n  except OSError: time.sleep(0.05)"
    );
    let system = System::up(&[
        ("b.yaml", &python("bomb", &bomb, "  resources: {pids: {max: 64}}\n  stop: {grace: 200ms}\n")),
        ("h.yaml", &sleeper("healthy", STEADY)),
    ]);
    until("the bomb has gone off", || (of_bomber() >= 60).then_some(()));
    assert!(of_bomber() <= 64);
    let conditions = system.json(&["get", "service", "bomb"])["status"]["conditions"].to_string();
    let enforced =
        text(&system.run(&["doctor"]).stdout).contains("limits of memory, cpu and pids are enforced");
    assert!(enforced || conditions.contains("NotOnThisMachine"), "{conditions}");
    for _ in 0..3 {
        comes_back(&system, "healthy");
    }
    within_bounds(&system);
    system.ok(&["stop", "bomb"]);
    until("nothing of it is left", || (of_bomber() == 0).then_some(()));
    until("and it is known", || (system.instance("bomb")["lifecycle"] == "Idle").then_some(()));
}

#[test]
fn a_full_disk_takes_nothing_that_was_promised() {
    let mut system = System::new(&[("h.yaml", &sleeper("healthy", STEADY)), ("b.yaml", &sleeper("b", ""))]);
    let state = system.path(".unified-system");
    let Some(disk) = Small::mount(&state, "4m") else { return };
    system.start(&[]);
    system.ready(&["healthy", "b"]);
    disk.fill();
    // What is written there now is only in memory, and that is said; services are started all the same.
    until("it is said of the database", || {
        comes_back(&system, "healthy");
        system.ok(&["events"]).contains("StateBlocked").then_some(())
    });
    until("and of the journal", || {
        comes_back(&system, "healthy");
        system.ok(&["events"]).contains("JournalBlocked").then_some(())
    });
    let doctor = text(&system.run(&["doctor"]).stdout);
    assert!(doctor.contains("MISSING   disk"), "{doctor}");
    // Another daemon reads what there is.
    let (b, daemon) = (system.pid("b"), system.daemon_pid().unwrap());
    signal(daemon, "KILL");
    until("another daemon", || system.daemon_pid().filter(|pid| *pid != daemon));
    assert_eq!(system.pid("b"), b);
    comes_back(&system, "healthy");
    said(&system, "JournalBlocked");
    said(&system, "StateBlocked");
    // A promise made now is kept, as soon as it can be written; until then its answer says that it is not.
    let stop = system.run(&["stop", "b"]);
    assert!(stop.status.success());
    let note = text(&stop.stderr);
    assert!(note.contains("not recorded") && note.contains("state.db cannot be written"), "{note}");
    until("b is stopped", || (!alive(b)).then_some(()));
    disk.empty();
    said(&system, "StateUnblocked");
    said(&system, "JournalUnblocked");
    let (healthy, daemon) = (system.pid("healthy"), system.daemon_pid().unwrap());
    kill_both(system.keeper_pid(), daemon);
    system.ended();
    system.start(&[]);
    assert_eq!(system.pid("healthy"), healthy, "the journal is whole again");
    assert_eq!(system.json(&["get", "service", "b"])["status"]["summary"], "Stopped");
    system.ok(&["down"]);
    system.ended();
}

#[test]
fn down_on_a_full_disk_ends_and_says_whose_words_are_not_in_the_logs() {
    let floods = "import time\nwhile True:\n  print('x' * 1000); time.sleep(0.0005)";
    let mut system = System::new(&[("a.yaml", &python("a", floods, ""))]);
    let Some(_disk) = Small::mount(&system.path(".unified-system"), "3m") else { return };
    system.start(&[]);
    said(&system, "LogsBlocked");
    let down = system.run(&["down"]);
    let words = text(&down.stderr);
    let note = "note: what services wrote meanwhile is not in their logs: ";
    assert!(down.status.success() && words.contains(note) && words.contains("No space left"), "{words}");
    assert_eq!((text(&down.stdout).as_str(), system.ended()), ("stopped\n", 0));
}

#[test]
fn crash_dumps_on_a_full_disk_are_left_out_and_said() {
    let crash = "import signal\nprint('here')\nsignal.pause()";
    let mut system = System::new(&[("a.yaml", &python("a", crash, STEADY))]);
    let dumps = system.path(".unified-system/crash-dumps");
    let state = system.path(".unified-system");
    fs::create_dir_all(&state).unwrap();
    Command::new("chmod").arg("700").arg(&state).status().unwrap();
    let Some(disk) = Small::mount(&dumps, "64k") else { return };
    disk.fill();
    system.start(&[]);
    comes_back(&system, "a");
    said(&system, "CrashDumpFailed");
    comes_back(&system, "a");
    assert_eq!(system.ok(&["events"]).matches("CrashDumpFailed").count(), 1, "it is said once");
    let half = fs::read_dir(&dumps).unwrap().flatten().count();
    assert_eq!(half, 1, "nothing half written is left beside the filler");
    disk.empty();
    comes_back(&system, "a");
    until("there is a dump", || (!system.json(&["crashes", "ls"]).as_array()?.is_empty()).then_some(()));
}

#[test]
fn a_flood_of_messages_is_heard_to_its_end_and_stops_nobody() {
    // Each datagram is a fact for the daemon: tens of thousands as fast as they are taken.
    let flood = "import os,socket,time\ns=socket.socket(socket.AF_UNIX,socket.SOCK_DGRAM)\na=os.environ['NOTIFY_SOCKET']\n\
        s.connect('\\0'+a[1:] if a[0]=='@' else a)\ns.send(b'READY=1')\n\
        for n in range(30000): s.send(b'STATUS=%d' % n)\ns.send(b'STATUS=all said')\ntime.sleep(1000)";
    let system = System::up(&[
        ("f.yaml", &python("f", flood, "  probes: {readiness: {notify: systemd}}\n")),
        ("h.yaml", &sleeper("healthy", STEADY)),
    ]);
    comes_back(&system, "healthy");
    within_bounds(&system);
    until("the last word is heard", || (system.instance("f")["statusText"] == "all said").then_some(()));
    comes_back(&system, "healthy");
    within_bounds(&system);
}

#[test]
fn probes_that_hang_take_no_time_from_those_of_others() {
    let probe = |command: &str, timeout: &str| {
        format!(
            "  circuitBreaker: null\n  probes: {{liveness: {{period: 1s, timeout: {timeout}, failureThreshold: 1, \
             exec: {{command: {command}}}}}}}\n"
        )
    };
    let hangs = format!("  replicas: 40\n{}", probe("[sleep, \"1000\"]", "3s"));
    let system = System::up(&[
        ("bad.yaml", &sleeper("bad", &hangs)),
        ("good.yaml", &sleeper("good", &probe("[\"true\"]", "1s"))),
    ]);
    let pid = system.pid("good");
    until("many have hung", || {
        (system.ok(&["events", "bad"]).matches("liveness").count() > 20).then_some(())
    });
    assert_eq!(system.pid("good"), pid);
    assert_eq!(system.instance("good")["restarts"], 0);
}

#[test]
fn output_without_a_newline_costs_no_memory() {
    let code = "import os,time\nblock=b'x'*65536\nfor _ in range(4096): os.write(1,block)\nos.write(1,b'\\nthe end\\n')\ntime.sleep(1000)";
    let system = System::up(&[("a.yaml", &python("a", code, "")), ("h.yaml", &sleeper("healthy", STEADY))]);
    comes_back(&system, "healthy");
    until("256 MiB have been written", || {
        within_bounds(&system);
        system.ok(&["logs", "a", "--tail", "1"]).contains("the end").then_some(())
    });
    comes_back(&system, "healthy");
}

#[test]
fn a_service_that_closes_its_output_or_changes_its_argv_is_supervised_as_before() {
    let closes = "import os,time\nos.close(1); os.close(2)\nopen('closed','w')\ntime.sleep(1000)";
    let renamed = sleeper("renamed", "")
        .replace("[sleep, \"1000\"]", "[bash, -c, 'exec -a \"unisys keeper\" sleep 1000']");
    let system =
        System::up(&[("c.yaml", &python("closes", closes, "  workingDir: ..\n")), ("r.yaml", &renamed)]);
    until("it has closed them", || system.path("closed").exists().then_some(()));
    let renamed = system.pid("renamed");
    until("it has another name", || {
        let words = fs::read(format!("/proc/{renamed}/cmdline")).ok()?;
        words.starts_with(b"unisys keeper\0").then_some(())
    });
    let (closes, daemon) = (system.pid("closes"), system.daemon_pid().unwrap());
    signal(daemon, "KILL");
    until("another daemon", || system.daemon_pid().filter(|pid| *pid != daemon));
    assert_eq!((system.pid("closes"), system.pid("renamed")), (closes, renamed));
    comes_back(&system, "closes");
    comes_back(&system, "renamed");
    let pids = [system.pid("closes"), system.pid("renamed")];
    system.ok(&["stop", "closes", "renamed"]);
    until("both are gone", || pids.iter().all(|pid| !alive(*pid)).then_some(()));
}

#[test]
fn a_service_that_kills_its_parent_changes_nothing_for_the_others() {
    // Its parent is the keeper: another one takes over, services run on.
    let code = "import os,time\nif not os.path.exists('killed'):\n  open('killed','w').close()\n  os.kill(os.getppid(),9)\ntime.sleep(1000)";
    let mut system = System::new(&[("h.yaml", &sleeper("healthy", STEADY))]);
    system.start(&[]);
    let (healthy, keeper) = (system.pid("healthy"), system.keeper_pid());
    system.write("manifests/k.yaml", &python("killer", code, "  workingDir: ..\n"));
    until("the keeper is dead", || (!alive(keeper)).then_some(()));
    system.ended();
    let killer = until("it runs on", || system.instance_if_any("killer")?["pid"].as_u64()) as u32;
    assert_eq!(system.pid("healthy"), healthy);
    until("it is ready", || (system.instance_if_any("killer")?["ready"] == true).then_some(()));
    assert_eq!(system.pid("killer"), killer);
    comes_back(&system, "healthy");
    system.ok(&["down"]);
    until("nothing of it runs", || (!alive(killer) && system.processes().is_empty()).then_some(()));
}

/// A keeper of another version, played by a script: what it says of itself, and what the daemon then does.
fn keeper_that_says(version: u32, oldest: u32) -> (System, String, i32) {
    let system = System::new(&[]);
    let play = "import json,os,socket,subprocess,sys\n\
        binary,options,version,oldest,state=sys.argv[1:]\n\
        ours,theirs=socket.socketpair(socket.AF_UNIX,socket.SOCK_SEQPACKET)\n\
        daemon=subprocess.Popen([binary,'daemon','--options',options,'--keeper-fd',str(theirs.fileno())],pass_fds=[theirs.fileno()])\n\
        theirs.close()\n\
        hello=json.loads(ours.recv(65536)[1:])\n\
        assert hello['request']=='hello',hello\n\
        say=lambda **said: ours.send(b'P'+json.dumps(said).encode())\n\
        say(report='welcome',version=int(version),oldest=int(oldest),keeper=os.getpid(),release='9.9.9',epoch=3,incarnation=1,state_id='x')\n\
        words=b''\n\
        try:\n\
        \tsay(report='inventoryEnd')\n\
        \twords=ours.recv(65536)\n\
        except (BrokenPipeError,ConnectionResetError): pass\n\
        ours.close()\n\
        print(words.decode(),daemon.wait())";
    let state = system.path("state");
    let options = serde_json::json!({
        "stateDir": state, "paths": [], "overlays": [], "set": null, "profile": null, "watch": false, "units": [],
        "nofile": [1024, 1024], "quiet": true,
    });
    let output = Command::new("python3")
        .args(["-c", play, crate::support::BINARY, &options.to_string()])
        .args([version.to_string(), oldest.to_string()])
        .arg(&state)
        .output()
        .unwrap();
    let code = output.status.code().unwrap_or(-1);
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    (system, said, code)
}

#[test]
fn a_keeper_of_another_version_is_adopted_or_refused_in_words() {
    // One that can still speak to us: adopted, and said.
    let (system, said, code) = keeper_that_says(2, 1);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("\"begin\""), "it goes on: {said}");
    let log = fs::read_to_string(system.path("state/logs/unifiedsystem.log")).unwrap();
    assert!(log.contains("KeeperVersion") && log.contains("unisys upgrade"), "{log}");
    // One that cannot: refused, and nothing is asked of it.
    let (_system, said, _) = keeper_that_says(3, 2);
    assert!(said.contains("the keeper (unisys 9.9.9) speaks version 3"), "{said}");
    assert!(said.contains("services are not touched") && said.contains(" 82"), "{said}");
    assert!(!said.contains("\"begin\""), "{said}");
    let (_system, said, _) = keeper_that_says(0, 0);
    assert!(said.contains("speaks version 0"), "{said}");
}

#[test]
fn a_state_directory_of_a_newer_version_is_refused_and_an_older_one_opens() {
    let mut system = System::new(&[("a.yaml", &sleeper("a", ""))]);
    system.start(&[]);
    system.ok(&["stop", "a"]);
    system.ok(&["down"]);
    system.ended();
    let version = |number: u32| {
        let script = format!(
            "import sqlite3\nc=sqlite3.connect('.unified-system/state.db',isolation_level=None)\nc.execute('PRAGMA user_version={number}')"
        );
        let status = Command::new("python3").args(["-c", &script]).current_dir(system.dir.path()).status();
        assert!(status.unwrap().success());
    };
    version(99);
    let (code, words) = system.fails(&["up"]);
    assert_eq!(code, 1, "{words}");
    assert!(words.contains("written by a newer unisys (format 99"), "{words}");
    version(0);
    system.start(&[]);
    // What was promised then stands.
    assert_eq!(system.json(&["get", "service", "a"])["status"]["summary"], "Stopped");
    let object: Value = system.json(&["get", "service", "a"]);
    assert_eq!(object["status"]["overrides"].as_array().map(Vec::len), Some(1), "{object}");
}

//! No disk, no descriptors, no pids: what runs goes on, and it is said.

use crate::support::{System, alive, copy_program, is_root, kill_both, python, sleeper, text, until};

#[test]
fn a_full_disk_loses_no_line_and_stops_nobody() {
    // A file system of its own that is full: only root can make one.
    let last_words = "import os,sys,time\nwhile not os.path.exists('../go'): time.sleep(0.01)\n\
        for n in range(50): print('last', n)\nsys.exit(3)";
    let system = System::new(&[
        (
            "a.yaml",
            &python("a", "import time\nn=0\nwhile True:\n  print(n, 'x'*1000); n+=1; time.sleep(0.0005)", ""),
        ),
        ("b.yaml", &python("b", last_words, "  restart: {policy: Never}\n")),
    ]);
    let state = system.path("state");
    std::fs::create_dir(&state).unwrap();
    let mount = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=3m,mode=0700", "none", state.to_str().unwrap()])
        .status();
    if !mount.is_ok_and(|status| status.success()) {
        eprintln!("skipped: cannot mount a small file system here");
        return;
    }
    let run = |args: &[&str]| {
        let mut all = vec!["--state-dir", state.to_str().unwrap()];
        all.extend(args);
        system.run(&all)
    };
    assert!(run(&["up", "--detach"]).status.success());
    until("the disk is full and said to be", || {
        crate::support::text(&run(&["events"]).stdout).contains("LogsBlocked").then_some(())
    });
    let object: serde_json::Value =
        serde_json::from_slice(&run(&["get", "service", "a", "-o", "json"]).stdout).unwrap();
    let pid = object["status"]["instances"][0]["pid"].as_u64().unwrap() as u32;
    assert!(alive(pid));
    for args in [&["get"][..], &["describe", "a"], &["why", "a"]] {
        let said = crate::support::text(&run(args).stderr);
        assert!(said.contains("note: output cannot be written to"), "{args:?}: {said}");
    }
    // One that ends now has said its last words to nobody yet.
    std::fs::write(system.path("go"), "").unwrap();
    until("b has ended", || {
        crate::support::text(&run(&["events", "b"]).stdout).contains("exit code 3").then_some(())
    });
    std::process::Command::new("mount")
        .args(["-o", "remount,size=64m", state.to_str().unwrap()])
        .status()
        .unwrap();
    until("it goes on", || {
        crate::support::text(&run(&["events"]).stdout).contains("LogsUnblocked").then_some(())
    });
    assert!(!crate::support::text(&run(&["get"]).stderr).contains("cannot be written"));
    assert!(run(&["down"]).status.success());
    let last = std::fs::read_to_string(state.join("logs/services/b.log")).unwrap();
    assert_eq!(last.lines().count(), 50, "{last}");
    let log = std::fs::read_to_string(state.join("logs/services/a.log")).unwrap();
    let numbers: Vec<usize> =
        log.lines().map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect();
    assert_eq!(numbers, (0..numbers.len()).collect::<Vec<_>>());
    std::process::Command::new("umount").arg(&state).status().unwrap();
}

#[test]
fn a_pipe_that_cannot_be_opened_again_costs_its_own_service_no_more_than_its_output() {
    let ticks = "import time\nwhile True: print('tick'); time.sleep(0.01)";
    let mut system = System::up(&[("a.yaml", &python("a", ticks, "")), ("b.yaml", &python("b", ticks, ""))]);
    let pids = ["a", "b"].map(|name| system.pid(name));
    kill_both(system.keeper_pid(), system.daemon_pid().unwrap());
    until("both are gone", || system.processes().is_empty().then_some(()));
    let pipe = std::fs::read_link(format!("/proc/{}/fd/1", pids[0])).unwrap();
    std::fs::remove_file(&pipe).unwrap();
    std::fs::create_dir(&pipe).unwrap();
    system.start(&[]);
    assert_eq!(["a", "b"].map(|name| system.pid(name)), pids);
    assert!(system.terminal().contains("cannot open what a.0"), "{}", system.terminal());
    until("it is said", || system.ok(&["events", "a"]).contains("NotHeard").then_some(()));
    let lines = |name: &str| system.log_of(name).lines().count();
    let before = lines("b");
    until("the other is heard", || (lines("b") > before).then_some(()));
    system.ok(&["restart", "a"]);
    let before = lines("a");
    until("it is heard again", || (lines("a") > before).then_some(()));
}

#[test]
fn no_free_descriptors_fail_a_start_by_name_and_harm_nobody() {
    let system = System::new(&[("a.yaml", &sleeper("a", ""))]);
    let mut command = std::process::Command::new("sh");
    let script = format!("ulimit -n 40; exec {} up", crate::support::BINARY);
    let log = std::fs::File::create(system.path("up.log")).unwrap();
    let mut child = command
        .args(["-c", &script])
        .current_dir(system.dir.path())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    until("a is ready", || {
        system.run(&["wait", "--for=condition=Ready", "a"]).status.success().then_some(())
    });
    let a = system.pid("a");
    system.ok(&["scale", "a=30"]);
    until("it says what is missing", || {
        system.ok(&["events", "a"]).contains("create its pipes").then_some(())
    });
    assert_eq!(system.pid("a"), a);
    crate::support::signal(child.id(), "TERM");
    until("it ends", || child.try_wait().unwrap());
}

#[test]
fn a_kill_needs_no_descriptors_and_says_nothing_that_is_not_true() {
    let deaf = "apiVersion: unisys.dev/v1\nkind: Service\nmetadata: {name: a}\nspec:\n  \
        command: [sh, -c, \"trap '' TERM; while :; do sleep 1000; done\"]\n  stop: {grace: 100ms}\n";
    let system = System::new(&[("a.yaml", deaf)]);
    let script = format!("ulimit -n 160; exec {} up", crate::support::BINARY);
    let log = std::fs::File::create(system.path("up.log")).unwrap();
    let mut command = std::process::Command::new("sh");
    command.args(["-c", &script]).current_dir(system.dir.path()).stdout(log.try_clone().unwrap()).stderr(log);
    let mut child = command.spawn().unwrap();
    until("a is ready", || {
        system.run(&["wait", "--for=condition=Ready", "a"]).status.success().then_some(())
    });
    system.ok(&["scale", "a=60"]);
    until("as many as can be run", || system.ok(&["events", "a"]).contains("SpawnFailed").then_some(()));
    system.ok(&["stop", "a"]);
    assert_eq!(system.marked(), Vec::<u32>::new());
    crate::support::signal(child.id(), "TERM");
    until("it ends", || child.try_wait().unwrap());
}

#[test]
fn a_log_that_cannot_be_written_holds_back_its_own_service_only() {
    let says = |name: &str| {
        python(name, "import time\nfor n in range(3000): print(n, 'x'*1000)\ntime.sleep(1000)", "")
    };
    let mut system = System::new(&[("bad.yaml", &says("bad")), ("good.yaml", &says("good"))]);
    let logs = system.path(".unified-system/logs/services");
    std::fs::create_dir_all(logs.join("bad.log")).unwrap();
    use std::os::unix::fs::PermissionsExt;
    let private = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(system.path(".unified-system"), private).unwrap();
    system.start(&[]);
    until("it is said", || system.ok(&["events"]).contains("LogsBlocked").then_some(()));
    let lines = |name: &str| std::fs::read_to_string(logs.join(name)).map_or(0, |text| text.lines().count());
    until("the other's output is all there", || (lines("good.log") == 3000).then_some(()));
    assert_eq!(system.ok(&["events"]).matches("LogsBlocked").count(), 1);
    std::fs::remove_dir(logs.join("bad.log")).unwrap();
    until("nothing is lost", || (lines("bad.log") == 3000).then_some(()));
}

#[test]
fn no_free_pid_fails_a_start_by_name_and_harms_nobody() {
    use std::os::unix::fs::{PermissionsExt, chown};
    use std::os::unix::process::CommandExt;
    // Somebody with a process limit of his own; nobody else on this machine is he.
    const STRANGER: u32 = 54_321;
    if !is_root() {
        eprintln!("skipped: only root can be somebody else");
        return;
    }
    let system = System::new(&[]);
    std::fs::set_permissions(system.dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    copy_program(&system.path("unisys"));
    std::fs::create_dir_all(system.path("his/manifests")).unwrap();
    system.write("his/manifests/a.yaml", &sleeper("a", ""));
    for name in ["his/manifests", "his"] {
        chown(system.path(name), Some(STRANGER), Some(STRANGER)).unwrap();
    }
    let him = |script: &str| {
        let mut command = std::process::Command::new("bash");
        command.args(["-c", script]).env("U", system.path("unisys")).current_dir(system.path("his"));
        command.uid(STRANGER).gid(STRANGER);
        command
    };
    // Keeper and daemon have some threads of their own.
    let mut up = him("ulimit -u 24; exec $U -q up").spawn().unwrap();
    let run = |script: &str| him(script).output().unwrap();
    until("a is ready", || run("$U wait --for=condition=Ready a").status.success().then_some(()));
    let pid = || -> Option<u64> {
        let object: serde_json::Value =
            serde_json::from_slice(&run("$U get service a -o json").stdout).ok()?;
        object["status"]["instances"][0]["pid"].as_u64()
    };
    let a = pid().unwrap();
    assert!(run("$U scale a=40").status.success());
    until("it says what is missing", || {
        text(&run("$U events a").stdout).contains("Resource temporarily unavailable").then_some(())
    });
    assert_eq!(pid(), Some(a));
    assert!(alive(a as u32));
    assert!(run("$U down").status.success());
    until("it ends", || up.try_wait().unwrap());
}

//! What the next daemon knows, and that there is one.

use crate::support::{System, kill_both, python, signal, sleeper, until};

#[test]
fn how_the_one_before_ended_is_known_to_the_next_daemon_and_how_that_came_to_be() {
    let system = System::up(&[("a.yaml", &sleeper("a", ""))]);
    let (pid, daemon) = (system.pid("a"), until("a daemon", || system.daemon_pid()));
    signal(pid, "KILL");
    until("another pid", || (system.instance("a")["pid"] != pid).then_some(()));
    system.ready(&["a"]);
    let known = system.instance("a")["lastExit"].clone();
    assert_eq!(known["signal"], 9);
    signal(daemon, "KILL");
    until("another daemon", || system.daemon_pid().filter(|pid| *pid != daemon));
    assert_eq!(system.instance("a")["lastExit"], known);
    let told = |what: &str| (system.ok(&["events", "system"]).matches(what).count() == 1).then_some(());
    until("its death is told", || {
        told(&format!("the daemon (pid {daemon}) ended: SIGKILL; what runs was taken up"))
    });
    let keeper = system.keeper_pid();
    signal(keeper, "KILL");
    until("the keeper's too", || told(&format!("the keeper (pid {keeper}) was killed; another one")));
    assert_eq!(system.instance("a")["lastExit"], known);
    assert!(system.ok(&["errors", "ls"]).contains("the keeper (pid"));
}

#[test]
fn a_keeper_whose_binary_is_gone_from_the_disk_has_a_daemon_all_the_same() {
    let mut system = System::new(&[("a.yaml", &sleeper("a", ""))]);
    system.has_own_binary();
    system.start(&[]);
    let (pid, daemon) = (system.pid("a"), until("a daemon", || system.daemon_pid()));
    system.move_binary();
    signal(daemon, "KILL");
    until("another daemon", || system.daemon_pid().filter(|pid| *pid != daemon));
    assert_eq!(system.pid("a"), pid);
}

#[test]
fn what_ran_when_the_machine_was_restarted_has_not_crashed() {
    use unisys::keeper::journal::{Entry, Journal};
    let code = "import time\nprint('all is well', flush=True)\ntime.sleep(1000)";
    let job = "apiVersion: unisys.dev/v1\nkind: Job\nmetadata: {name: j}\nspec: {command: [sleep, '1000']}\n";
    let mut system = System::up(&[("a.yaml", &python("a", code, "")), ("j.yaml", job)]);
    system.ready(&["a"]);
    until("the job runs", || system.json(&["get", "job", "j"])["status"]["instances"][0]["pid"].as_u64());
    let programs = system.marked();
    kill_both(system.keeper_pid(), system.daemon_pid().unwrap());
    system.ended();
    programs.iter().for_each(|pid| signal(*pid, "KILL"));
    until("nothing runs", || (system.marked().is_empty() && system.processes().is_empty()).then_some(()));
    // What tells one boot from another.
    let path = system.path(".unified-system/run/journal");
    let mut entries = Journal::read(&path).unwrap();
    for entry in &mut entries {
        if let Entry::Begin { boot, .. } = entry {
            *boot = "another".into();
        }
    }
    Journal::create(&path, &entries).unwrap();
    system.start(&[]);
    system.ready(&["a"]);
    let events = system.ok(&["events"]);
    assert!(events.contains("MachineRestarted"), "{events}");
    let instance = system.instance("a");
    assert_eq!(instance["lastExit"]["reason"], "MachineRestarted", "{instance}");
    assert_eq!(instance["restarts"], 0);
    let chain = system.json(&["why", "a"])["chain"].as_array().unwrap().clone();
    let root = chain.last().unwrap();
    assert_eq!(root["what"], "the machine was restarted, and what ran ended with it", "{chain:?}");
    assert_eq!(system.json(&["errors", "ls"]).as_array().map(Vec::len), Some(0));
    assert_eq!(system.json(&["crashes", "ls"]).as_array().map(Vec::len), Some(0));
    until("the job runs again", || {
        system.json(&["get", "job", "j"])["status"]["instances"][0]["pid"].as_u64()
    });
}

/// A container that is started again has other processes in the same boot.
#[test]
fn what_ran_when_its_container_was_restarted_has_not_crashed() {
    let unshare = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
    let works = std::process::Command::new(unshare[0]).args(&unshare[1..]).arg("true").status();
    if !works.is_ok_and(|status| status.success()) {
        eprintln!("skipped: no pid namespace for this user");
        return;
    }
    let code = "import time\nprint('all is well', flush=True)\ntime.sleep(1000)";
    let mut system = System::new(&[("a.yaml", &python("a", code, ""))]);
    system.within = unshare.map(Into::into).into();
    system.start(&[]);
    system.ready(&["a"]);
    // With the first process of a container everything in it ends.
    signal(system.keeper_pid(), "KILL");
    system.ended();
    until("nothing runs", || (system.marked().is_empty() && system.processes().is_empty()).then_some(()));
    system.start(&[]);
    system.ready(&["a"]);
    let events = system.ok(&["events"]);
    assert!(events.contains("MachineRestarted"), "{events}");
    let instance = system.instance("a");
    assert_eq!(
        (&instance["lastExit"]["reason"], &instance["restarts"]),
        (&"MachineRestarted".into(), &0.into())
    );
    assert_eq!(system.json(&["crashes", "ls"]).as_array().map(Vec::len), Some(0));
    // A daemon that is killed in it is no restart.
    system.ok(&["down"]);
    assert_eq!(system.ended(), 0);
}

//! The keeper dies at a moment at which it has not written down all that it did.

use std::fs;

use crate::support::{System, alive, kill_both, signal, sleeper, until};

fn version(version: u32, rest: &str) -> String {
    sleeper("a", &format!("  env: {{VERSION: \"{version}\"}}\n  update: {{minReady: 100ms}}\n{rest}"))
}

fn state(system: &System) -> String {
    system.rollout("a")["state"].as_str().unwrap_or_default().to_owned()
}

fn of_version(pid: u32, version: u32) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let wanted = format!("VERSION={version}").into_bytes();
    environment.split(|byte| *byte == 0).any(|line| line == wanted)
}

/// Keeper and daemon are killed; what the keeper wrote of its latest start, and all after that, never came to the disk.
fn killed_before_it_was_written(system: &mut System) {
    let (keeper, daemon) = (system.keeper_pid(), system.daemon_pid().unwrap());
    kill_both(keeper, daemon);
    system.ended();
    until("the daemon is dead", || (!alive(daemon)).then_some(()));
    let path = system.path(".unified-system/run/journal");
    let text = fs::read_to_string(&path).unwrap();
    let last = text.rfind(" {\"instance\":").expect("it was written");
    let line = text[..last].rfind('\n').unwrap() + 1;
    fs::write(path, &text[..line]).unwrap();
}

#[test]
fn what_was_started_and_not_written_down_is_found_by_its_marker() {
    let mut system = System::up(&[("a.yaml", &version(1, ""))]);
    system.ready(&["a"]);
    let pid = system.pid("a");
    killed_before_it_was_written(&mut system);
    system.start(&[]);
    assert_eq!(system.pid("a"), pid, "it is not started again");
    system.ready(&["a"]);
    assert_eq!(system.marked(), [pid]);
    // It is watched, and what it is known as is what runs.
    signal(pid, "KILL");
    let next = until("it is started again", || {
        system.instance("a")["pid"].as_u64().filter(|next| *next != u64::from(pid))
    });
    until("only that one runs", || (system.marked() == [next as u32]).then_some(()));
}

#[test]
fn a_new_version_that_was_started_and_not_written_down_goes_on_with_its_rollout() {
    let mut system = System::up(&[("a.yaml", &version(1, ""))]);
    until("it is good", || (state(&system) == "Complete").then_some(()));
    let old = system.pid("a");
    let waits = "  probes: {readiness: {file: {path: go}, period: 50ms}}\n";
    system.write("manifests/a.yaml", &version(2, waits));
    let new = until("the new one is there", || system.marked().into_iter().find(|pid| *pid != old));
    until("it is on its way in", || {
        let steps = system.rollout("a")["steps"].as_array()?.len();
        (steps == 2 && of_version(new, 2)).then_some(())
    });
    killed_before_it_was_written(&mut system);
    system.start(&[]);
    until("both are known", || (system.rollout("a")["steps"].as_array()?.len() == 2).then_some(()));
    assert!(alive(old) && alive(new), "neither was touched");
    assert_eq!(state(&system), "Progressing");
    system.write("manifests/go", "");
    until("the rollout is complete", || (state(&system) == "Complete").then_some(()));
    until("only the new one runs", || (system.marked() == [new]).then_some(()));
    assert_eq!(system.pid("a"), new);
}

#[test]
fn a_keeper_that_is_killed_as_soon_as_a_new_version_runs_costs_no_rollout() {
    let system = System::up(&[("a.yaml", &version(1, ""))]);
    until("it is good", || (state(&system) == "Complete").then_some(()));
    for round in 2..6 {
        let old = system.pid("a");
        let keeper = system.json(&["get", "system"])["status"]["keeperPid"].as_u64().unwrap() as u32;
        system.write("manifests/a.yaml", &version(round, ""));
        // As soon as it has been forked: its start may be written down or not.
        until("something new runs", || system.marked().into_iter().find(|pid| *pid != old));
        signal(keeper, "KILL");
        until("the new version runs alone", || {
            let [pid] = system.marked()[..] else { return None };
            (of_version(pid, round) && system.instance_if_any("a")?["pid"] == pid).then_some(())
        });
        until("its rollout is complete", || (state(&system) == "Complete").then_some(()));
    }
}

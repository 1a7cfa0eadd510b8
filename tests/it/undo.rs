//! Going back to an earlier version because somebody says so, and what stands of that.

use crate::rollout_ways::{another_daemon, bad, history, pids, until_state, version};
use crate::support::{System, alive, kill_both, python, signal, sleeper, text, until};

#[test]
fn what_history_tells_can_be_undone_to_after_many_revisions_and_by_another_daemon() {
    let update = "progressDeadline: 200ms";
    let system = System::up(&[("a.yaml", &version("a", "1", update, ""))]);
    until_state(&system, "a", "Complete");
    for edit in ["2", "3"] {
        system.write("manifests/a.yaml", &version("a", edit, update, ""));
        until(&format!("edit {edit} is complete"), || {
            let told = history(&system, "a");
            (told.len().to_string() == edit && told.last()?.1 == "Complete").then_some(())
        });
    }
    let revision = |system: &System| system.json(&["get", "system"])["status"]["revision"].as_u64().unwrap();
    let told = revision(&system);
    for edit in 0..12 {
        system.write("b.yaml", &version("b", &edit.to_string(), "", ""));
        system.ok(&["apply", "-f", "b.yaml"]);
    }
    assert!(revision(&system) >= told + 12);
    until("it is on trial no longer", || system.rollout("a")["onTrialUntil"].is_null().then_some(()));
    another_daemon(&system);
    let runs = |wanted: &str| {
        let line = format!("VERSION={wanted}").into_bytes();
        until(&format!("version {wanted} runs"), || {
            let pid = system.instance("a")["pid"].as_u64()?;
            let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
            environment.split(|byte| *byte == 0).any(|own| own == line).then_some(())
        });
    };
    let records = system.json(&["rollout", "history", "a"]);
    assert!(records.as_array().unwrap().iter().all(|record| record["kept"] == true), "{records}");
    system.ok(&["rollout", "undo", "a"]);
    runs("2");
    let first = records[0]["revision"].to_string();
    system.ok(&["rollout", "undo", "a", "--to-revision", &first]);
    runs("1");
}

#[test]
fn an_undo_of_what_a_file_held_is_refused_and_of_what_was_read_from_it_says_how_long_it_lasts() {
    let mut system = System::new(&[(
        "a.yaml",
        &sleeper(
            "a",
            "  restartOn: [../f]\n  envFrom: [{file: ../a.env}]\n  update: {minReady: 100ms, progressDeadline: 5s}\n",
        ),
    )]);
    system.write("f", "one");
    system.write("a.env", "A=one");
    system.start(&[]);
    until_state(&system, "a", "Complete");
    let arrived = |revision: u64| {
        until("it is complete", || {
            let rollout = system.rollout("a");
            (rollout["state"] == "Complete" && rollout["revision"] == revision).then_some(())
        });
    };
    system.write("f", "two");
    arrived(2);
    let pid = system.pid("a");
    for to in [&[][..], &["--to-revision", "1"]] {
        let (code, words) = system.fails(&[&["rollout", "undo", "a"], to].concat());
        assert!(code == 5 && words.contains("spec.restartOn (../f), and what files held is kept"), "{words}");
    }
    assert_eq!(system.pid("a"), pid, "nothing was started for it");
    system.write("a.env", "A=two");
    arrived(3);
    let undone = system.run(&["rollout", "undo", "a", "--to-revision", "2"]);
    let words = text(&undone.stderr);
    assert!(
        undone.status.success() && words.contains("with A as in revision 2 until `unisys down`"),
        "{words}"
    );
    until("what it was given before", || {
        let environment = std::fs::read(format!("/proc/{}/environ", system.pid("a"))).ok()?;
        environment.split(|byte| *byte == 0).any(|own| own == b"A=one").then_some(())
    });
}

#[test]
fn a_rollback_and_an_undo_stand_though_the_database_is_lost() {
    let v = |name, number| version(name, number, "", "");
    let mut system = System::up(&[("a.yaml", &v("a", "1")), ("u.yaml", &v("u", "1"))]);
    for name in ["a", "u"] {
        until_state(&system, name, "Complete");
    }
    system.write("manifests/a.yaml", &bad("a", "", ""));
    until_state(&system, "a", "RolledBack");
    system.write("manifests/u.yaml", &v("u", "2"));
    until("the next version", || (system.rollout("u")["toGeneration"] == 2).then_some(()));
    until_state(&system, "u", "Complete");
    system.ok(&["rollout", "undo", "u"]);
    until("the former one", || {
        let status = system.rollout("u");
        (status["state"] == "Complete" && status["toGeneration"].as_u64() > Some(2)).then_some(())
    });
    let running = [pids(&system, "a"), pids(&system, "u")];
    let tried = history(&system, "a").len();
    let state_dir = system.path(".unified-system");
    let damage = || std::fs::write(state_dir.join("state.db"), [b'x'; 9000]).unwrap();
    let kept = || {
        until("the copy is there", || {
            let copy = std::fs::read_to_string(state_dir.join("spare.json")).ok()?;
            let whole = ["\"rejected\":{", "\"pinned\":[", "\"earlier\":{\"1\""];
            whole.iter().all(|part| copy.contains(part)).then_some(())
        });
    };
    let stands = |system: &System| {
        let told = "rollbacks and Jobs that have run are known from a copy";
        until("it is said", || system.ok(&["events"]).contains(told).then_some(()));
        system.ready(&["a", "u"]);
        until_state(system, "a", "RolledBack");
        for name in ["a", "u"] {
            let environment = std::fs::read(format!("/proc/{}/environ", system.pid(name))).unwrap();
            let mut lines = environment.split(|byte| *byte == 0);
            assert!(lines.any(|line| line == b"VERSION=1"), "{name} runs what was found bad or undone");
        }
    };
    kept();
    let daemon = system.daemon_pid().unwrap();
    // It holds the file open, and must not write to it any more.
    signal(daemon, "STOP");
    let _ = std::fs::remove_file(state_dir.join("state.db-wal"));
    damage();
    another_daemon(&system);
    stands(&system);
    assert_eq!([pids(&system, "a"), pids(&system, "u")], running);
    kept();
    system.ok(&["down"]);
    system.ended();
    let _ = std::fs::remove_file(state_dir.join("state.db-wal"));
    damage();
    system.start(&[]);
    stands(&system);
    assert!(history(&system, "a").len() <= tried, "it was not tried again");
}

/// As a power failure leaves it: no process from which an environment could be read.
#[test]
fn what_stands_in_for_the_declared_version_is_whole_after_everything_was_killed() {
    let version = |command: &str, version: u32| {
        let rest = format!(
            "  env: {{VERSION: \"{version}\"}}\n  envFrom: [{{secret: s}}]\n  update: {{minReady: 100ms, progressDeadline: 5s}}\n"
        );
        sleeper("a", &rest).replace("[sleep, \"1000\"]", command)
    };
    let secret = "apiVersion: unisys.dev/v1\nkind: Secret\nmetadata: {name: s}\nspec: {data: {TOKEN: {file: ../token}}}\n";
    let (good, other, bad) = ("[sleep, \"1000\"]", "[sleep, \"2000\"]", "[\"false\"]");
    for way in ["rolled back", "undone", "paused"] {
        let mut system = System::new(&[("a.yaml", &version(good, 1)), ("s.yaml", secret)]);
        system.write("token", "t");
        system.start(&[]);
        until_state(&system, "a", "Complete");
        match way {
            "rolled back" => {
                system.write("manifests/a.yaml", &version(bad, 2));
                until_state(&system, "a", "RolledBack");
            }
            "undone" => {
                system.write("manifests/a.yaml", &version(other, 2));
                until("it is there", || (system.rollout("a")["revision"] == 2).then_some(()));
                until_state(&system, "a", "Complete");
                system.ok(&["rollout", "undo", "a"]);
                until("it is back", || system.ok(&["why", "a"]).contains("undo").then_some(()));
                until_state(&system, "a", "Complete");
            }
            _ => {
                system.ok(&["rollout", "pause", "a"]);
                system.write("manifests/a.yaml", &version(other, 2));
                until_state(&system, "a", "Paused");
            }
        }
        until("it is ready", || (system.instance("a")["ready"] == true).then_some(()));
        let before = system.pid("a");
        let (keeper, daemon) = (system.keeper_pid(), system.daemon_pid().unwrap());
        kill_both(keeper, daemon);
        signal(before, "KILL");
        system.ended();
        until("nothing of it is left", || (!alive(daemon) && !alive(before)).then_some(()));
        system.start(&[]);
        let pid = until("another one runs", || {
            let pid = system.instance("a")["pid"].as_u64()? as u32;
            (pid != before && alive(pid)).then_some(pid)
        });
        until("it is ready again", || (system.instance("a")["ready"] == true).then_some(()));
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
        let environment = text(&environment);
        for wanted in ["VERSION=1\0", "TOKEN=t\0", "PATH="] {
            assert!(environment.contains(wanted), "{way}: {wanted} is not in {environment:?}");
        }
    }
}

#[test]
fn a_rollback_says_which_files_it_cannot_take_back() {
    let reads =
        "import os,time\nif 'bad' in open('../f').read(): os._exit(78)\nprint('up')\ntime.sleep(1000)";
    let rest =
        "  restartOn: [../f]\n  probes: {readiness: {log: {pattern: up}}}\n  update: {minReady: 100ms}\n";
    let mut system = System::new(&[("a.yaml", &python("a", reads, rest))]);
    system.write("f", "good");
    system.start(&[]);
    until_state(&system, "a", "Complete");
    let pid = system.pid("a");
    system.write("f", "bad");
    until_state(&system, "a", "RolledBack");
    assert_eq!(system.pid("a"), pid);
    let said = "what ../f held before is not kept and cannot come back with it: the next start reads what is there now";
    for verb in [&["describe", "a"][..], &["why", "a"], &["events", "a"]] {
        let words = system.ok(verb);
        assert!(words.contains(said), "{verb:?}: {words}");
    }
    assert!(text(&system.run(&["rollout", "status", "a"]).stdout).contains(said));
}

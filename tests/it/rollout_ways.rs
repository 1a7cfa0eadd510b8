//! Ways in which rollouts go: strategies, several units at once, edits on edits, and what is told of them afterwards.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::support::{System, python, signal, sleeper, until};

/// A service of so many instances, of one version.
pub fn version(name: &str, version: &str, update: &str, rest: &str) -> String {
    sleeper(
        name,
        &format!("  update: {{minReady: 100ms, {update}}}\n  env: {{VERSION: \"{version}\"}}\n{rest}"),
    )
}

pub fn bad(name: &str, update: &str, rest: &str) -> String {
    version(name, "bad", update, rest).replace("[sleep, \"1000\"]", "[\"false\"]")
}

pub fn pids(system: &System, name: &str) -> BTreeSet<u64> {
    let instances = system.json(&["get", "service", name])["status"]["instances"].clone();
    instances.as_array().unwrap().iter().filter_map(|instance| instance["pid"].as_u64()).collect()
}

fn state(system: &System, name: &str) -> String {
    system.rollout(name)["state"].as_str().unwrap_or_default().to_owned()
}

pub fn until_state(system: &System, name: &str, wanted: &str) {
    until(&format!("{name} is {wanted}"), || (state(system, name) == wanted).then_some(()));
}

/// Revision, outcome and duration of each rollout.
pub fn history(system: &System, name: &str) -> Vec<(u64, String, u64)> {
    let records = system.json(&["rollout", "history", name]);
    let told = records.as_array().unwrap().iter().map(|record| {
        let outcome = record["outcome"].as_str().unwrap().to_owned();
        (record["revision"].as_u64().unwrap(), outcome, record["durationMs"].as_u64().unwrap_or(u64::MAX))
    });
    told.collect()
}

#[test]
fn blue_and_green_are_whole_beside_each_other_and_a_bad_green_leaves_blue_alone() {
    let (update, rest) = ("strategy: BlueGreen", "  replicas: 3\n");
    let system = System::up(&[("a.yaml", &version("a", "1", update, rest))]);
    until_state(&system, "a", "Complete");
    let blue = pids(&system, "a");
    system.write("manifests/a.yaml", &bad("a", update, rest));
    until_state(&system, "a", "RolledBack");
    assert_eq!(pids(&system, "a"), blue);
    // Nothing old goes while one of the new is not ready: it is ready when this file is there.
    let waits = "  probes: {readiness: {file: {path: go}, period: 50ms}}\n";
    system.write("manifests/a.yaml", &version("a", "2", update, &format!("{rest}{waits}")));
    until("all of green is there", || (pids(&system, "a").len() == 6).then_some(()));
    assert!(pids(&system, "a").is_superset(&blue));
    system.write("manifests/go", "");
    until("only green is left", || {
        let now = pids(&system, "a");
        (now.len() == 3 && now.is_disjoint(&blue)).then_some(())
    });
    until_state(&system, "a", "Complete");
}

#[test]
fn canaries_hold_beside_the_others_until_they_are_promoted_or_taken_back() {
    let update = "strategy: Canary, canary: {replicas: 1, hold: 1h, autoPromote: false}";
    let rest = "  replicas: 3\n";
    let system = System::up(&[("a.yaml", &version("a", "1", update, rest))]);
    until_state(&system, "a", "Complete");
    let first = pids(&system, "a");
    assert_eq!(system.fails(&["rollout", "promote", "a"]).0, 5, "there is no canary");
    system.write("manifests/a.yaml", &version("a", "2", update, rest));
    until_state(&system, "a", "Holding");
    assert!(pids(&system, "a").len() == 4 && pids(&system, "a").is_superset(&first));
    system.ok(&["rollout", "undo", "a"]);
    until("the canary is gone", || (pids(&system, "a") == first).then_some(()));
    system.write("manifests/a.yaml", &version("a", "3", update, rest));
    until_state(&system, "a", "Holding");
    system.ok(&["rollout", "promote", "a"]);
    until("the rest follows", || {
        let now = pids(&system, "a");
        (now.len() == 3 && now.is_disjoint(&first)).then_some(())
    });
    until_state(&system, "a", "Complete");
}

#[test]
fn what_one_revision_changed_goes_back_together_is_not_tried_again_and_is_said_everywhere() {
    for (scope, neighbour) in [("Set", "RolledBack"), ("Unit", "Complete")] {
        let whole = format!(
            "apiVersion: unisys.dev/v1\nkind: System\nmetadata: {{name: s}}\nspec: {{rollbackScope: {scope}}}\n---\n"
        );
        let all = |a: &str, b: &str| format!("{whole}{a}---\n{b}---\n{}", sleeper("c", ""));
        let (a, b) = (version("a", "1", "", ""), version("b", "1", "", ""));
        let system = System::up(&[("all.yaml", &all(&a, &b))]);
        for name in ["a", "b", "c"] {
            until_state(&system, name, "Complete");
        }
        let (good, other) = (pids(&system, "b"), pids(&system, "c"));
        let text = all(&version("a", "2", "", ""), &bad("b", "", ""));
        system.write("manifests/all.yaml", &text);
        until_state(&system, "b", "RolledBack");
        until_state(&system, "a", neighbour);
        assert_eq!((pids(&system, "b"), pids(&system, "c")), (good.clone(), other), "{scope}");
        assert_eq!(system.fails(&["diff", "-f", "manifests"]).0, 0);
        let diff = system.run(&["diff", "-f", "manifests"]);
        let told = [system.ok(&["get", "services"]), crate::support::text(&diff.stderr), system.terminal()];
        for (text, words) in
            told.iter().zip(["RolledBack", "revision 2 was rolled back, revision 1 runs", "given up"])
        {
            assert!(text.contains(words), "{scope}: {text}");
        }
        // The same content is not tried again, unless somebody insists.
        let tried = || history(&system, "b").len();
        let before = tried();
        assert_eq!(system.run(&["apply", "-f", "manifests", "--wait=20s"]).status.code(), Some(6));
        assert_eq!(tried(), before);
        assert_eq!(system.run(&["apply", "-f", "manifests", "--force", "--wait=20s"]).status.code(), Some(6));
        assert_eq!(tried(), before + 1);
        assert_eq!(pids(&system, "b"), good, "{scope}");
    }
}

#[test]
fn what_is_complete_goes_back_with_the_rest_of_its_revision_under_another_daemon_too() {
    let system =
        System::up(&[("a.yaml", &version("a", "1", "", "")), ("b.yaml", &version("b", "1", "", ""))]);
    for name in ["a", "b"] {
        until_state(&system, name, "Complete");
    }
    let before = pids(&system, "b");
    system.ok(&["rollout", "pause", "b"]);
    let never = "  probes: {readiness: {file: {path: never}, period: 50ms}}\n";
    let both = [version("a", "2", "", ""), version("b", "2", "progressDeadline: 2s", never)];
    system.write("both.yaml", &both.join("---\n"));
    for name in ["a", "b"] {
        std::fs::remove_file(system.path(&format!("manifests/{name}.yaml"))).unwrap();
    }
    std::fs::rename(system.path("both.yaml"), system.path("manifests/both.yaml")).unwrap();
    until("a is complete", || {
        let status = system.rollout("a");
        (status["state"] == "Complete" && status["toGeneration"] == 2).then_some(())
    });
    let daemon = system.daemon_pid().unwrap();
    signal(daemon, "KILL");
    until("another daemon", || system.daemon_pid().filter(|pid| *pid != daemon));
    assert_eq!(state(&system, "a"), "Complete");
    system.ok(&["rollout", "resume", "b"]);
    for name in ["a", "b"] {
        until_state(&system, name, "RolledBack");
    }
    assert_eq!(pids(&system, "b"), before);
    let environment = std::fs::read(format!("/proc/{}/environ", system.pid("a"))).unwrap();
    assert!(environment.split(|byte| *byte == 0).any(|line| line == b"VERSION=1"));
}

#[test]
fn history_tells_each_rollout_once_however_long_ago_and_whichever_daemon_is_asked() {
    let system = System::up(&[("a.yaml", &version("a", "1", "", ""))]);
    until_state(&system, "a", "Complete");
    let first = history(&system, "a");
    assert!(
        matches!(first.as_slice(), [(1, outcome, took)] if outcome == "Complete" && *took < 60_000),
        "{first:?}"
    );
    let edit = |text: &str, wanted: &str| {
        let before = history(&system, "a").len();
        system.write("manifests/a.yaml", text);
        until(&format!("the edit is {wanted}"), || {
            let told = history(&system, "a");
            (told.len() > before && told.last()?.1 == wanted && state(&system, "a") == wanted).then_some(())
        });
    };
    edit(&version("a", "2", "", ""), "Complete");
    edit(&bad("a", "", ""), "RolledBack");
    let told = history(&system, "a");
    assert_eq!(told[0], first[0], "what is over gets no longer");
    let kill = || {
        let daemon = system.daemon_pid().unwrap();
        signal(daemon, "KILL");
        until("another daemon", || system.daemon_pid().filter(|pid| *pid != daemon));
    };
    kill();
    assert_eq!(history(&system, "a"), told);
    edit(&version("a", "3", "", ""), "Complete");
    kill();
    let after = history(&system, "a");
    assert_eq!((after.len(), &after[..3]), (4, &told[..]));
    // One that is under way keeps its beginning and its cause.
    let waits = "  probes: {readiness: {file: {path: go}, period: 50ms}}\n";
    system.write("manifests/a.yaml", &version("a", "4", "", waits));
    until("it is under way", || (pids(&system, "a").len() == 2).then_some(()));
    let record = || system.json(&["rollout", "history", "a"]).as_array().unwrap().last().unwrap().clone();
    let began = record();
    kill();
    system.write("manifests/go", "");
    until("it is complete", || (record()["outcome"] == "Complete").then_some(()));
    for field in ["at", "cause", "files", "revision"] {
        assert_eq!(record()[field], began[field], "{field}");
    }
    assert_eq!(history(&system, "a").len(), 5);
}

#[test]
fn a_newer_edit_takes_over_from_one_that_is_under_way_and_one_back_to_what_runs_replaces_nothing() {
    let slow = |version: &str| {
        let rest = "  probes: {readiness: {file: {path: go}, period: 50ms}}\n";
        self::version("a", version, "", if version == "1" { "" } else { rest })
    };
    let system = System::up(&[("a.yaml", &slow("1"))]);
    until_state(&system, "a", "Complete");
    let first = pids(&system, "a");
    let two = || (pids(&system, "a").len() == 2).then(|| pids(&system, "a"));
    system.write("manifests/a.yaml", &slow("2"));
    let second = until("the second is coming", two);
    system.write("manifests/a.yaml", &slow("3"));
    until("the third is coming", || two().filter(|now| *now != second));
    assert!(pids(&system, "a").is_superset(&first));
    system.write("manifests/a.yaml", &slow("1"));
    until("the first stays", || (pids(&system, "a") == first).then_some(()));
    until_state(&system, "a", "Complete");
    let outcomes: Vec<String> = history(&system, "a").into_iter().map(|(_, outcome, _)| outcome).collect();
    assert_eq!(outcomes, ["Complete", "Superseded", "Superseded", "Complete"]);
}

#[test]
fn dependents_follow_where_they_ask_to_and_no_more_roll_at_once_than_may() {
    let limit =
        "apiVersion: unisys.dev/v1\nkind: System\nmetadata: {name: s}\nspec: {maxConcurrentRollouts: 1}\n";
    let follows = version("b", "1", "", "  dependsOn: [{name: a, restart: true}]\n");
    let stays = version("c", "1", "", "  dependsOn: [a]\n");
    let manifests =
        [("s.yaml", limit), ("a.yaml", &version("a", "1", "", "")), ("b.yaml", &follows), ("c.yaml", &stays)];
    let system = System::up(&manifests);
    for name in ["a", "b", "c"] {
        until_state(&system, name, "Complete");
    }
    let before = ["a", "b", "c"].map(|name| pids(&system, name));
    system.write("manifests/a.yaml", &version("a", "2", "", ""));
    until("b follows a", || {
        (pids(&system, "a").is_disjoint(&before[0]) && pids(&system, "b").is_disjoint(&before[1]))
            .then_some(())
    });
    assert_eq!(pids(&system, "c"), before[2]);
    // Not after a crash.
    let (crashes, follower) = (system.pid("a"), pids(&system, "b"));
    signal(crashes, "KILL");
    until("a is back", || (system.instance("a")["pid"].as_u64()? != u64::from(crashes)).then_some(()));
    system.ready(&["a"]);
    assert_eq!(pids(&system, "b"), follower);
    // Two units of one edit: the events tell that one began only when the other was over.
    system.write("manifests/a.yaml", &version("a", "3", "", ""));
    system.write("manifests/c.yaml", &version("c", "2", "", "  dependsOn: [a]\n"));
    until("both are complete", || {
        (system.ok(&["events", "c"]).contains("RolloutComplete") && state(&system, "a") == "Complete")
            .then_some(())
    });
    let events = system.ok(&["events"]);
    let at = |unit: &str, reason: &str| {
        events
            .lines()
            .enumerate()
            .filter(|(_, line)| line.contains(unit) && line.contains(reason))
            .map(|(at, _)| at)
            .last()
    };
    assert!(at("service/a", "RolloutComplete") < at("service/c", "starting incoming"), "{events}");
}

#[test]
fn a_program_is_replaced_once_its_file_is_whole() {
    let text = "import time\nprint('whole', flush=True)\ntime.sleep(1000)\n";
    let rest = "  workingDir: ..\n  restartOn: [../program.py]\n  update: {minReady: 100ms}\n";
    let manifest = python("a", "", rest).replace("[python3, -u, -c, \"\"]", "[python3, program.py]");
    let mut system = System::new(&[("a.yaml", &manifest)]);
    std::fs::write(system.path("program.py"), text).unwrap();
    system.start(&[]);
    until_state(&system, "a", "Complete");
    until("it has read its file", || system.ok(&["logs", "a"]).contains("whole").then_some(()));
    let pid = system.pid("a");
    // As a compiler or a copy over a slow line does: in the same file, for longer than a look at it waits.
    let written = text.replace("time.sleep", "if True:\n  time.sleep");
    for end in 1..=written.len() {
        std::fs::write(system.path("program.py"), &written[..end]).unwrap();
        std::thread::park_timeout(Duration::from_millis(20));
    }
    until("it is replaced", || (system.instance("a")["pid"].as_u64()? != u64::from(pid)).then_some(()));
    until_state(&system, "a", "Complete");
    let outcomes: Vec<String> = history(&system, "a").into_iter().map(|(_, outcome, _)| outcome).collect();
    assert_eq!(outcomes, ["Complete", "Complete"]);
    let events = system.ok(&["events", "a"]);
    assert!(!events.contains("exit code"), "{events}");
}

pub fn another_daemon(system: &System) {
    let daemon = system.daemon_pid().unwrap();
    signal(daemon, "KILL");
    until("another daemon", || system.daemon_pid().filter(|pid| *pid != daemon));
}

#[test]
fn a_complete_rollout_says_that_it_is_on_trial_and_an_edit_that_is_taken_back_is_not() {
    let system = System::up(&[("a.yaml", &version("a", "1", "", ""))]);
    until_state(&system, "a", "Complete");
    assert!(system.rollout("a")["onTrialUntil"].is_null(), "there is nothing to go back to");
    let edit = |edit: &str, count: usize| {
        system.write("manifests/a.yaml", &version("a", edit, "", ""));
        until(&format!("edit {edit} is complete"), || {
            let told = history(&system, "a");
            (told.len() == count && told.last()?.1 == "Complete").then_some(())
        });
    };
    edit("2", 2);
    let status = system.rollout("a");
    assert!(status["onTrialUntil"].is_string() && status["backToRevision"] == 1, "{status}");
    for words in [&["rollout", "status", "a"][..], &["describe", "service/a"]] {
        let said = system.ok(words);
        assert!(said.contains("on trial") && said.contains("revision 1 comes back"), "{said}");
    }
    assert!(system.ok(&["events", "a"]).contains("for 1m it is on trial: revision 1 may come back"));
    edit("1", 3);
    assert!(system.rollout("a")["onTrialUntil"].is_null(), "what it was before is known to be good");
    // Whatever happens to it from now on, what was on trial does not come back.
    for kill in 1..=3 {
        signal(system.pid("a"), "KILL");
        until("it is started again", || {
            let instance = system.instance("a");
            (instance["restarts"] == kill && instance["pid"].is_u64()).then_some(())
        });
    }
    assert_eq!(state(&system, "a"), "Complete");
    assert_eq!(history(&system, "a").len(), 3);
}

#[test]
fn a_rollout_that_waits_for_a_job_that_failed_for_good_says_by_whom_it_is_held() {
    let job = |program: &str| {
        format!(
            "apiVersion: unisys.dev/v1\nkind: Job\nmetadata: {{name: migrate}}\nspec: {{command: [\"{program}\"], backoffLimit: 0}}\n"
        )
    };
    let needs = "  dependsOn: [{name: migrate, condition: Completed}]\n";
    let both = |program: &str, edit: &str| format!("{}---\n{}", job(program), version("a", edit, "", needs));
    let system = System::up(&[("all.yaml", &both("true", "1"))]);
    until_state(&system, "a", "Complete");
    let before = pids(&system, "a");
    system.write("manifests/all.yaml", &both("false", "2"));
    until_state(&system, "a", "Held");
    let output = system.run(&["rollout", "status", "a"]);
    let said = crate::support::text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("job/migrate") && said.contains("`unisys why migrate`"), "{said}");
    assert_eq!(pids(&system, "a"), before);
    system.write("manifests/all.yaml", &both("true", "2"));
    until_state(&system, "a", "Complete");
}

#[test]
fn an_edited_probe_that_a_daemon_was_about_to_prove_is_proved_by_the_next_one() {
    let update = "progressDeadline: 2s";
    let line = |pattern: &str| format!("  probes: {{readiness: {{log: {{pattern: {pattern}}}}}}}\n");
    let starts = |program: &str| {
        format!("  probes: {{startup: {{exec: {{command: [\"{program}\"]}}, period: 1h}}}}\n")
    };
    let speaks = |rest: &str| {
        version("a", "1", update, rest).replace("[sleep, \"1000\"]", "[sh, -c, 'echo up; exec sleep 1000']")
    };
    for (good, edited) in [(line("up"), line("never")), (starts("true"), starts("false"))] {
        let system = System::up(&[("a.yaml", &speaks(&good))]);
        until_state(&system, "a", "Complete");
        let before = pids(&system, "a");
        system.write("manifests/a.yaml", &speaks(&edited));
        until_state(&system, "a", "Progressing");
        another_daemon(&system);
        until_state(&system, "a", "RolledBack");
        assert_eq!(pids(&system, "a"), before, "{edited}");
    }
}

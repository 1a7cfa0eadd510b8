//! What an operator is answered who knows other tools: hints that can be pasted, shapes that scripts read, who wrote which line.

use serde_json::Value;

use crate::support::{Follower, System, python, sleeper, text, until};

const SAYS: &str = "import os,signal\nprint('I am', os.environ['UNISYS_INSTANCE'].split('/')[1].split('.')[1], flush=True)\nsignal.pause()";

fn json_of(output: &std::process::Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output.stderr)))
}

#[test]
fn each_of_several_instances_is_told_apart_in_logs_and_can_be_asked_for_alone() {
    let manifests = [("w.yaml", python("w", SAYS, "  replicas: 3\n")), ("one.yaml", python("one", SAYS, ""))];
    let system = System::up(&manifests.each_ref().map(|(name, text)| (*name, text.as_str())));
    let sorted = |args: &[&str]| {
        let shown = system.ok(args);
        let mut lines: Vec<String> = shown.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    until("all have said it", || (sorted(&["logs", "w"]).len() == 3).then_some(()));
    assert_eq!(sorted(&["logs", "w"]), ["w.0 | I am 0", "w.1 | I am 1", "w.2 | I am 2"]);
    until("so has the other", || (system.ok(&["logs", "one"]) == "I am 0\n").then_some(()));
    assert_eq!(sorted(&["logs", "w.1"]), ["I am 1"]);
    assert_eq!(sorted(&["logs", "w", "--instance", "2", "-n", "1"]), ["I am 2"]);
    assert_eq!(sorted(&["logs", "service/w.0"]), ["I am 0"]);
    assert_eq!(sorted(&["logs", "w.1", "w.2"]), ["w.1 | I am 1", "w.2 | I am 2"]);
    let one = Follower::of(system.command(&["logs", "-f", "w.1", "-n", "0"]));
    let all = Follower::of(system.command(&["logs", "-f", "w"]));
    all.shows("w.2 | I am 2");
    let before = system.ok(&["logs", "w"]).lines().count();
    until("each has said it again", || {
        system.ok(&["restart", "w"]);
        (system.ok(&["logs", "w"]).lines().count() >= before + 3).then_some(())
    });
    one.shows("I am 1");
    assert!(one.shown().iter().all(|line| line == "I am 1"), "{:?}", one.shown());
    system.ok(&["down"]);
    let kept = text(&system.run(&["logs", "w.2", "-n", "1", "-q"]).stdout);
    assert_eq!(kept, "I am 2\n");
}

#[test]
fn events_are_of_a_span_of_time_or_the_last_so_many() {
    let system = System::up(&[("a.yaml", &sleeper("a", ""))]);
    system.ready(&["a"]);
    let events = |args: &[&str]| -> Vec<Value> {
        let shown = system.ok(&[&["events", "a", "-o", "json"][..], args].concat());
        shown.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let first = events(&[]);
    let last = first.last().unwrap()["ts"].as_str().unwrap().to_owned();
    assert_eq!(events(&["--tail", "1"]), first[first.len() - 1..]);
    assert_eq!(events(&["--since", "1h"]).len(), first.len());
    until("the clock has gone on", || {
        system.ok(&["restart", "a"]);
        (events(&[]).last()?["ts"].as_str()? > last.as_str()).then_some(())
    });
    let before = events(&["--until", &last]);
    assert!(before.iter().all(|event| event["ts"].as_str() < Some(&last)), "{before:?}");
    let since = events(&["--since", &last]);
    assert!(since.iter().all(|event| event["ts"].as_str() >= Some(&last)), "{since:?}");
    assert_eq!(before.len() + since.len(), events(&[]).len());
    assert_eq!(events(&["--until", "1h"]).len(), 0);
    let new = Follower::of(system.command(&["events", "-w", "-n", "0"]));
    until("what happens is told", || {
        system.ok(&["restart", "a"]);
        new.shown().iter().any(|line| line.contains("Ordered")).then_some(())
    });
    assert!(new.shown().iter().all(|line| line.get(..24) > Some(&last)), "{:?}", new.shown());
    assert_eq!(system.fails(&["events", "--since", "yesterday"]).0, 2);
    assert_eq!(system.fails(&["events", "none", "--since", "1h"]).0, 4);
    system.ok(&["down"]);
    let kept = text(&system.run(&["events", "a", "-n", "1", "-q"]).stdout);
    assert_eq!(kept.lines().count(), 1);
}

#[test]
fn what_others_call_otherwise_is_told_as_it_is_called_here() {
    let system = System::up(&[("api.yaml", &sleeper("api", ""))]);
    system.ready(&["api"]);
    for (args, code, hint) in [
        (&["status"][..], 2, "`unisys get`"),
        (&["list"], 2, "`unisys get`"),
        (&["undo", "api", "1"], 2, "`unisys rollout undo NAME --to-revision N`"),
        (&["rollout", "undo", "api", "1"], 2, "`unisys rollout undo api --to-revision 1`"),
        (&["restart", "api/0"], 4, "`unisys logs api.0`"),
        (&["describe", "api/0"], 4, "`unisys logs api.0`"),
        (&["why", "api.0"], 4, "name api,"),
        (&["stop", "api-0"], 4, "name api,"),
        (&["stop", "service/api-0"], 4, "name api,"),
    ] {
        let (found, words) = system.fails(args);
        assert!(found == code && words.contains(hint), "{args:?}: {found} {words}");
        assert!(!words.contains("did you mean"), "{args:?}: {words}");
    }
    assert!(system.fails(&["stop", "apu"]).1.contains("did you mean api"));
}

#[test]
fn orders_answer_in_json_with_what_came_of_them() {
    let system = System::up(&[("api.yaml", &sleeper("api", "")), ("bad.yaml", &python("bad", "1/0", ""))]);
    system.ready(&["api"]);
    for args in [
        &["stop", "api"][..],
        &["start", "api"],
        &["restart", "api"],
        &["scale", "api=2"],
        &["disable", "api"],
        &["enable", "api"],
        &["circuit", "reset", "api"],
        &["rollout", "pause", "api"],
        &["rollout", "resume", "api"],
        &["wait", "--for=condition=Ready", "api"],
    ] {
        let answer = system.json(args);
        let met = answer["met"].as_bool().or(answer["waited"]["met"].as_bool());
        assert!(met != Some(false) && (met.is_some() || answer["message"].is_string()), "{args:?}: {answer}");
    }
    let output = system.run(&["start", "bad", "-o", "json"]);
    let answer = json_of(&output);
    assert_eq!((output.status.code(), answer["waited"]["met"].as_bool()), (Some(1), Some(false)));
}

#[test]
fn apply_tells_what_was_not_taken_in_from_what_was_and_is_not_well() {
    let system = System::up(&[("api.yaml", &sleeper("api", ""))]);
    system.ready(&["api"]);
    system.write("wrong.yaml", &sleeper("w", "  replcas: 2\n"));
    let output = system.run(&["apply", "-f", "wrong.yaml", "-o", "json"]);
    let answer = json_of(&output);
    assert_eq!((output.status.code(), answer["accepted"].as_bool()), (Some(1), Some(false)));
    assert_eq!(answer["diagnostics"][0]["code"], "E1203");
    for verb in ["plan", "diff"] {
        let output = system.run(&[verb, "-f", "wrong.yaml", "-o", "json"]);
        assert_eq!(
            (output.status.code(), json_of(&output)["diagnostics"][0]["code"].as_str()),
            (Some(2), Some("E1203"))
        );
    }
    system.write("bad.yaml", &python("bad", "1/0", ""));
    let output = system.run(&["apply", "-f", "bad.yaml", "--wait=20s", "-o", "json"]);
    let answer = json_of(&output);
    assert_eq!((output.status.code(), answer["accepted"].as_bool()), (Some(1), Some(true)));
    assert_eq!(answer["waited"]["met"], false);
    let words = text(&output.stderr);
    assert!(words.contains(&format!("revision {} is accepted, and not all", answer["revision"])), "{words}");
    let history = system.json(&["rollout", "history", "bad"]);
    assert_eq!(history[0]["files"], serde_json::json!(["bad.yaml"]));
}

#[test]
fn commands_in_hints_carry_what_was_given() {
    let mut system = System::new(&[("api.yaml", &sleeper("api", ""))]);
    let (code, words) = system.fails(&["get", "--state-dir", "elsewhere"]);
    assert!(code == 3 && words.contains("`unisys --state-dir elsewhere up`"), "{words}");
    system.start(&[]);
    system.ready(&["api"]);
    std::fs::create_dir(system.path("other")).unwrap();
    system.write("other/api.yaml", &sleeper("api", ""));
    let (code, words) = system.fails(&["apply", "-f", "other"]);
    assert!(code == 5 && words.contains("`unisys apply -f other --force-conflicts`"), "{words}");
}

#[test]
fn crashes_of_a_job_are_found_by_its_kind() {
    let job = "apiVersion: unisys.dev/v1\nkind: Job\nmetadata: {name: j}\nspec: {command: [\"false\"]}\n";
    let system = System::up(&[("j.yaml", job), ("a.yaml", &sleeper("a", ""))]);
    let found = |args: &[&str]| system.ok(args).lines().skip(1).count();
    until("its crash is there", || (found(&["crashes", "ls", "j"]) > 0).then_some(()));
    for args in [&["crashes", "ls", "job", "j"][..], &["crashes", "ls", "job/j"], &["crashes", "list"]] {
        assert!(found(args) > 0, "{args:?}");
    }
    assert_eq!(system.fails(&["crashes", "ls", "service/j"]).0, 4);
    assert_eq!(found(&["crashes", "ls", "a"]), 0);
}

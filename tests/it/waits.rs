//! What `wait`, `up --wait` and `apply --wait` take for an answer.

use crate::support::{System, sleeper, text};

const READY: &str = "--for=condition=Ready";
const FRAIL: &str = "  circuitBreaker: null\n  restart: {backoff: {initial: 10ms, max: 20ms}}\n";

fn crashing(name: &str) -> String {
    sleeper(name, FRAIL).replace("[sleep, \"1000\"]", "[\"false\"]")
}

#[test]
fn a_crash_loop_is_ready_for_no_command_that_waits() {
    let system = System::new(&[("a.yaml", &crashing("a"))]);
    let (code, words) = system.fails(&["up", "-d", "--wait=3s"]);
    assert_eq!(code, 1, "{words}");
    let (code, words) = system.fails(&["wait", "a", READY, "--timeout", "3s"]);
    assert_eq!(code, 1, "{words}");
    assert!(words.contains("exit code 1"), "{words}");
    std::fs::create_dir(system.path("more")).unwrap();
    system.write("more/b.yaml", &crashing("b"));
    let (code, words) = system.fails(&["apply", "-f", "more", "--wait=3s"]);
    assert_eq!(code, 1, "{words}");
    // It stays when what it lacked is there.
    system.write("manifests/a.yaml", &sleeper("a", FRAIL));
    system.ready(&["a"]);
    system.ok(&["down"]);
}

#[test]
fn nothing_is_waited_for_where_no_replica_is_wanted_and_that_is_said() {
    let b = sleeper("b", "  update: {minReady: 0s}\n");
    let system = System::up(&[("a.yaml", &sleeper("a", "  replicas: 0\n")), ("b.yaml", &b)]);
    for args in
        [&["wait", "a", READY][..], &["wait", "a", "b", READY], &["apply", "-f", "manifests", "--wait"]]
    {
        let output = system.run(args);
        let words = text(&output.stderr);
        assert!(output.status.success(), "{args:?} {words}");
        assert_eq!(words, "note: a has 0 replicas: there is nothing to wait for\n", "{args:?}");
    }
    // What somebody stopped is another matter.
    system.ok(&["stop", "b"]);
    assert_eq!(system.fails(&["wait", "b", READY, "--timeout", "10ms"]).0, 1);
}

#[test]
fn an_apply_says_of_what_it_was_given_that_it_is_not_to_run() {
    let mut system = System::new(&[("a.yaml", &sleeper("a", ""))]);
    system.start(&["a"]);
    system.write("b.yaml", &sleeper("b", ""));
    let output = system.run(&["apply", "-f", "b.yaml", "--wait"]);
    let words = text(&output.stderr);
    assert!(words.contains("note: b is not to run: `unisys up` was given other units"), "{words}");
    system.ok(&["start", "b"]);
    system.ok(&["down"]);
}

#[test]
fn an_apply_waits_for_its_own_and_says_so_of_what_failed_though_nothing_changed() {
    let system = System::up(&[("a.yaml", &sleeper("a", ""))]);
    let lost = sleeper("lost", "").replace("[sleep, \"1000\"]", "[sh, -c, \"exit 78\"]");
    system.write("lost.yaml", &lost);
    assert_eq!(system.fails(&["apply", "-f", "lost.yaml", "--wait"]).0, 1);
    // Whether its end came together with its start or after it.
    let status = system.rollout("lost");
    assert!(
        status["state"] == "Failed" && status["message"].to_string().contains("exit code 78"),
        "{status}"
    );
    assert_eq!(system.fails(&["rollout", "status", "lost"]).0, 1);
    // That one is unwell is nobody else's business.
    system.write("b.yaml", &sleeper("b", ""));
    system.ok(&["apply", "-f", "b.yaml", "--wait"]);
    system.ok(&["rollout", "status", "b"]);
    // It is no better for being handed in again.
    assert_eq!(system.fails(&["apply", "-f", "lost.yaml", "--wait"]).0, 1);
}

#[test]
fn what_has_ended_well_is_waited_for_no_longer_and_that_is_said() {
    let once = |x: u32| {
        let rest = format!("  restart: {{policy: OnFailure}}\n  env: {{X: \"{x}\"}}\n");
        sleeper("once", &rest).replace("[sleep, \"1000\"]", "[\"true\"]")
    };
    let mut system = System::new(&[("once.yaml", &once(1))]);
    system.ok(&["up", "-d", "--wait"]);
    let incarnation = |system: &System| system.instance("once")["lastExit"]["incarnation"].as_u64();
    let first = incarnation(&system);
    system.write("once.yaml", &once(2));
    for args in [&["wait", "once", READY][..], &["apply", "-f", "once.yaml", "--force-conflicts", "--wait"]] {
        let output = system.run(args);
        let words = text(&output.stderr);
        assert!(output.status.success(), "{args:?} {words}");
        let note = "note: once has completed: it ended: exit code 0; by its restart policy it is not started again\n";
        assert_eq!(words, note, "{args:?}");
    }
    assert_eq!(system.rollout("once")["state"], "Complete");
    let second = incarnation(&system);
    assert!(second > first, "{first:?} {second:?}");
    // It runs again when somebody starts it, and at the next `up`.
    system.ok(&["start", "once"]);
    system.ok(&["wait", "once", READY]);
    let third = incarnation(&system);
    assert!(third > second, "{second:?} {third:?}");
    system.ok(&["down"]);
    system.start(&["--wait"]);
    system.ok(&["wait", "once", READY]);
    assert!(incarnation(&system).is_some());
}

#[test]
fn what_a_job_failed_for_is_said_as_of_a_service() {
    let system = System::up(&[("a.yaml", &sleeper("a", ""))]);
    let fails = |name: &str| {
        sleeper(name, "").replace("[sleep, \"1000\"]", "[sh, -c, \"echo no moon >&2; exit 78\"]")
    };
    system.write("b.yaml", &fails("b"));
    system.write("j.yaml", &fails("j").replace("kind: Service", "kind: Job"));
    for name in ["b", "j"] {
        let (code, words) = system.fails(&["apply", "-f", &format!("{name}.yaml"), "--wait"]);
        assert_eq!(code, 1, "{words}");
        let line = format!(
            "{name} has failed: it ended: exit code 78: no moon (hint: `unisys why {name}` and `unisys logs {name}` tell more)\n"
        );
        assert!(words.ends_with(&line), "{words}");
    }
}

#[test]
fn what_was_saved_before_a_question_counts_for_its_answer() {
    let of = |version: u64| {
        sleeper(
            "a",
            &format!("  env: {{V: \"{version}\"}}\n  update: {{minReady: 50ms, progressDeadline: 5s}}\n"),
        )
    };
    let system = System::up(&[("a.yaml", &of(1))]);
    for version in 2..6 {
        system.write("manifests/a.yaml", &of(version));
        if version % 2 == 0 {
            assert_eq!(system.rollout("a")["toGeneration"], version);
        }
        system.ok(&["wait", "--for=condition=Progressing=False", "a"]);
        let generation = system.instance("a")["generation"].as_u64();
        assert_eq!(generation, Some(version), "the wait was for what had been saved");
    }
}

#[test]
fn who_asks_what_is_there_is_told_of_what_was_saved_before() {
    let system = System::up(&[("a.yaml", &sleeper("a", ""))]);
    for (name, verb) in [("b", "get"), ("c", "describe"), ("d", "why")] {
        system.write(&format!("manifests/{name}.yaml"), &sleeper(name, ""));
        let output = system.run(&[verb, name]);
        assert!(output.status.success(), "{verb}: {}", text(&output.stderr));
    }
    system.write("manifests/e.yaml", "kind: Nothing\n");
    let output = system.run(&["get"]);
    assert!(text(&output.stderr).contains("e.yaml"), "{}", text(&output.stderr));
    std::fs::remove_file(system.path("manifests/e.yaml")).unwrap();
    assert_eq!(system.run(&["plan"]).status.code(), Some(0), "what was refused is gone");
}

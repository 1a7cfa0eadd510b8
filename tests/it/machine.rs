//! What `validate --machine` finds: all that this machine lacks, each at its own place, once.

use crate::support::{NOBODY, System, is_root, sleeper};

const HEAD: &str = "apiVersion: unisys.dev/v1\nkind: System\nmetadata: {name: all}\nspec:\n  defaults:\n";

fn lacks(system: &System, expected: &[&str]) -> String {
    let (code, words) = system.fails(&["validate", "--machine", "manifests"]);
    assert_eq!(code, 1, "{words}");
    expected.iter().for_each(|part| assert!(words.contains(part), "it should say {part}: {words}"));
    words
}

#[test]
fn everything_that_a_unit_lacks_is_told_at_once() {
    let rest = "  workingDir: nowhere\n  user: nobody-like-that\n  ports: [{name: p, port: 80, address: 203.0.113.9, listen: true}]\n  stop: {command: [halt-me]}\n  reload: {command: [../read-again]}\n  hooks: {preStart: [{command: [migrate-me]}, {command: [and-more]}], postStop: [{command: [clean-up]}]}\n  probes:\n    readiness: {exec: {command: [ask-me]}}\n    liveness: {exec: {command: [/bin]}}\n  security: {readOnlyPaths: [nowhere-either]}\n  resources: {nofile: 99999999999}\n";
    let system = System::new(&[("a.yaml", &sleeper("a", rest).replace("sleep", "sleep-on"))]);
    let words = lacks(
        &system,
        &[
            "error[E2003]: the working directory",
            "error[E2001]: cannot start service/a: `sleep-on` is in no directory of PATH",
            "error[E2001]: cannot start service/a: its preStart hook: `migrate-me`",
            "warning[E2001]: cannot execute the preStart hook of service/a: `and-more`",
            "warning[E2001]: cannot execute the postStop hook of service/a: `clean-up`",
            "warning[E2001]: cannot execute the stop command of service/a: `halt-me`",
            "warning[E2001]: cannot execute the readiness probe of service/a: `ask-me`",
            "warning[E2002]: cannot execute the liveness probe of service/a: /bin is a directory",
            "name the program in it",
            "error[E2006]: there is no user `nobody-like-that`",
            "error[E2012]: cannot start service/a: this machine does not have the address 203.0.113.9",
            "nowhere-either does not exist",
            "error[E2015]: cannot start service/a: `nofile` cannot be 99999999999",
        ],
    );
    assert!(!words.contains("read-again"), "where it would be is not known: {words}");
}

#[test]
fn limits_that_unisys_may_not_set_are_told_before_a_start() {
    if !is_root() {
        return;
    }
    let limits = "  resources: {nice: -3, oomScoreAdjust: -900, nofile: 2000000000}\n";
    let mut system = System::new(&[
        ("a.yaml", &sleeper("a", limits)),
        ("b.yaml", &sleeper("b", "  resources: {nice: 3, oomScoreAdjust: 900, nofile: 16}\n")),
    ]);
    system.belong_to(NOBODY);
    let words = lacks(
        &system,
        &[
            "`nice` cannot be -3: unisys may not give less than 0",
            "`oomScoreAdjust` cannot be -900",
            "`nofile` cannot be 2000000000: the",
            "hint: run unisys as root",
        ],
    );
    assert_eq!(words.matches("E2015").count(), 3, "{words}");
}

#[test]
fn a_notifier_that_would_tell_nobody_is_found() {
    let notifier = |name: &str, way: &str| {
        format!("apiVersion: unisys.dev/v1\nkind: Notifier\nmetadata: {{name: {name}}}\nspec: {way}\n")
    };
    let mut system = System::new(&[
        ("a.yaml", &notifier("pages", "{exec: {command: [page-me]}}")),
        ("b.yaml", &notifier("nowhere", "{file: {path: nowhere/errors.jsonl}}")),
        ("c.yaml", &notifier("dir", "{file: {path: .}}")),
        ("d.yaml", &notifier("well", "{file: {path: errors.jsonl}}")),
        ("e.yaml", &notifier("good", "{exec: {command: [cat]}}")),
    ]);
    let words = lacks(
        &system,
        &[
            "error[E2001]: notifier/pages tells nobody: `page-me` is in no directory of PATH",
            "spec.exec.command.0",
            "error[E2016]: notifier/nowhere tells nobody: the directory",
            "error[E2016]: notifier/dir tells nobody:",
            "is a directory",
        ],
    );
    assert!(!words.contains("notifier/well") && !words.contains("notifier/good"), "{words}");
    if is_root() {
        system.belong_to(NOBODY);
        std::process::Command::new("chown").arg("0:0").arg(system.path("manifests")).status().unwrap();
        lacks(&system, &["error[E2016]: notifier/well tells nobody: unisys may not create a file in"]);
    }
}

#[test]
fn a_default_is_checked_where_it_is_written_once() {
    let wrong = "    restrat: {policy: Always}\n    stop: {grace: 5}\n    replicas: many\n";
    let system = System::new(&[("s.yaml", &format!("{HEAD}{wrong}"))]);
    let told = |services: usize| {
        let (code, words) = system.fails(&["validate", "manifests"]);
        assert_eq!((code, words.matches("error[").count()), (1, 3), "of {services} services: {words}");
        for part in [
            "s.yaml:6:5",
            "spec.defaults.restrat",
            "did you mean `restart`?",
            "s.yaml:7:12",
            "spec.defaults.stop.grace",
            "`5s`",
            "spec.defaults.replicas",
        ] {
            assert!(words.contains(part), "{part}: {words}");
        }
    };
    told(0);
    for name in ["a", "b"] {
        system.write(&format!("manifests/{name}.yaml"), &sleeper(name, ""));
    }
    told(2);
    // What a Service adds makes it whole.
    system.write("manifests/s.yaml", &format!("{HEAD}    probes: {{readiness: {{period: 3s}}}}\n"));
    let probe = "  probes: {readiness: {exec: {command: [\"true\"]}}}\n";
    for name in ["a", "b"] {
        system.write(&format!("manifests/{name}.yaml"), &sleeper(name, probe));
    }
    assert_eq!(system.ok(&["validate", "manifests"]).trim(), "valid: 3 objects");
    // What this machine lacks for each of them.
    let lacking = "    user: nobody-like-that\n    workingDir: nowhere\n    hooks: {preStart: [{command: [migrate-me]}]}\n";
    system.write("manifests/s.yaml", &format!("{HEAD}{lacking}"));
    system.write("manifests/c.yaml", &sleeper("c", "  workingDir: neither\n"));
    let words = lacks(
        &system,
        &[
            "s.yaml:6:5",
            "= spec.defaults.user",
            "s.yaml:7:5",
            "= spec.defaults.workingDir",
            "c.yaml:6:3",
            "neither does not exist",
            "= spec.defaults.hooks.preStart.0.command.0",
        ],
    );
    for once in ["there is no user `nobody-like-that`", "nowhere does not exist", "`migrate-me`"] {
        assert_eq!(words.matches(once).count(), 1, "{words}");
    }
    let others = words.lines().any(|line| line.ends_with("; the same of 2 more that have it by default"));
    assert!(others, "{words}");
}

//! A broken `.env` is a broken edit: it is told with its line, and nothing that runs is touched.

use crate::support::{System, alive, signal, sleeper, text, until};

const FROM_FILE: &str = "  envFrom: [{file: ../.env}]\n  update: {minReady: 100ms}\n";

fn events_with(system: &System, words: &str) -> String {
    until(&format!("an event with {words}"), || {
        system.ok(&["events"]).lines().rev().find(|line| line.contains(words)).map(str::to_owned)
    })
}

fn replaced(system: &System, name: &str, pid: u32) -> u32 {
    until(&format!("{name} is replaced"), || {
        let found = system.instance(name)["pid"].as_u64()? as u32;
        (found != pid).then_some(found)
    })
}

#[test]
fn validate_and_apply_tell_the_line_of_a_broken_env_file_and_who_reads_it() {
    let mut system = System::new(&[
        ("a.yaml", &sleeper("a", FROM_FILE)),
        ("b.yaml", &sleeper("b", "  envFrom: [{config: app}]\n")),
        (
            "c.yaml",
            "apiVersion: unisys.dev/v1\nkind: Config\nmetadata: {name: app}\nspec: {files: [../.env]}\n",
        ),
    ]);
    assert_eq!(
        system.run(&["validate", "manifests"]).status.code(),
        Some(0),
        "a missing one is the machine's"
    );
    let (code, words) = system.fails(&["validate", "manifests", "--machine"]);
    assert!(code == 1 && words.contains("E2004") && words.contains("it does not exist"), "{words}");
    for (content, line, expected) in [
        ("A=1\nLOG_LEVEL\n", 2, "`LOG_LEVEL` has no `=`"),
        ("\nA=${B:-${C:-x}\n", 2, "`${B` is not closed"),
        ("A=1\nA B=2\n", 2, "is not a name of a variable"),
    ] {
        system.write(".env", content);
        let (code, words) = system.fails(&["validate", "manifests"]);
        assert_eq!((code, words.matches("E1009").count()), (1, 1), "once for all who read it: {words}");
        let place = format!("/.env:{line}:1");
        assert!(words.contains(&place) && words.contains(expected), "{words}");
        assert!(words.contains("service/a reads") && words.contains("a.yaml:6:"), "{words}");
        assert_eq!(system.run(&["up"]).status.code(), Some(1), "nor does it begin with it");
    }
    std::fs::remove_file(system.path(".env")).unwrap();
    std::fs::create_dir(system.path(".env")).unwrap();
    let (code, words) = system.fails(&["validate", "manifests"]);
    assert!(code == 1 && words.contains("E1009") && words.contains("spec.envFrom.0"), "{words}");
    std::fs::remove_dir(system.path(".env")).unwrap();
    system.write(".env", "A=1\n");
    system.start(&["--no-watch"]);
    system.ready(&["a", "b"]);
    let pid = system.pid("a");
    system.write(".env", "A=2\nB\n");
    let (code, words) = system.fails(&["apply", "-f", "manifests"]);
    assert!(code == 1 && words.contains("E1009") && words.contains("/.env:2:1"), "{code}: {words}");
    assert_eq!(system.pid("a"), pid);
    system.write(".env", "A=2\nB=\n");
    system.ok(&["apply", "-f", "manifests"]);
    replaced(&system, "a", pid);
}

#[test]
fn a_broken_env_file_changes_nothing_that_runs_nor_does_the_next_daemon() {
    let mut system = System::new(&[("a.yaml", &sleeper("a", FROM_FILE)), ("b.yaml", &sleeper("b", ""))]);
    system.write(".env", "A=1\n");
    system.start(&[]);
    system.ready(&["a", "b"]);
    let (a, b) = (system.pid("a"), system.pid("b"));
    system.write(".env", "A=1\nsomething\n");
    let told = events_with(&system, "E1009");
    assert!(told.contains("revision 1 stays") && told.contains("/.env:2:1"), "{told}");
    assert_eq!((system.pid("a"), system.pid("b")), (a, b));
    let first = system.daemon_pid().unwrap();
    signal(first, "KILL");
    until("another daemon", || system.daemon_pid().filter(|pid| *pid != first));
    // Who reads it is neither started nor replaced; all others are.
    let held = text(&system.run(&["plan"]).stdout) + &system.ok(&["describe", "a"]);
    assert!(held.contains("E2009"), "{held}");
    signal(b, "KILL");
    let again = replaced(&system, "b", b);
    assert!(system.pid("a") == a && alive(a) && alive(again));
    system.write(".env", "A=1\n");
    events_with(&system, "valid again");
    assert_eq!(system.pid("a"), a, "nothing has changed for it");
    system.write(".env", "A=2\n");
    replaced(&system, "a", a);
}

#[test]
fn a_switch_in_a_broken_env_file_stops_nobody() {
    let config = "apiVersion: unisys.dev/v1\nkind: Config\nmetadata: {name: app}\nspec: {files: [../.env]}\n";
    let switched = sleeper("a", "  enabledWhen: {config: app, key: ON}\n");
    let mut system = System::new(&[("a.yaml", &switched), ("c.yaml", config)]);
    system.write(".env", "ON=true\n");
    system.start(&[]);
    system.ready(&["a"]);
    let a = system.pid("a");
    system.write(".env", "ON true\n");
    events_with(&system, "E1009");
    let first = system.daemon_pid().unwrap();
    signal(first, "KILL");
    until("another daemon", || system.daemon_pid().filter(|pid| *pid != first));
    events_with(&system, "adopted");
    assert!(system.pid("a") == a && alive(a));
    system.write(".env", "ON=false\n");
    until("it is switched off", || (!alive(a)).then_some(()));
}

#[test]
fn an_env_file_that_was_broken_from_the_start_is_watched_for_its_cure() {
    let system = System::up(&[("b.yaml", &sleeper("b", ""))]);
    std::fs::create_dir(system.path("elsewhere")).unwrap();
    system.write("elsewhere/.env", "A='open\n");
    system.write("manifests/a.yaml", &sleeper("a", "  envFrom: [{file: ../elsewhere/.env}]\n"));
    events_with(&system, "E1009");
    system.write("elsewhere/.env", "A='closed'\n");
    until("it is started", || system.instance_if_any("a")?["pid"].as_u64());
}

#[test]
fn what_an_env_file_that_is_there_gives_to_a_config_is_checked_without_the_machine() {
    let config = "apiVersion: unisys.dev/v1\nkind: Config\nmetadata: {name: app}\nspec:\n  files: [../.env, ../.env.local]\n  fromEnvironment: [REGION]\n  types:\n    PORT: {type: port, required: true}\n    ON: {type: bool}\n    REGION: {enum: [eu, us], required: true}\n";
    let user = sleeper(
        "a",
        "  env: {P: {config: app, key: PORT}, R: {config: app, key: REGION}, U: {config: app, key: URL}}\n  enabledWhen: {config: app, key: ON}\n",
    );
    let system = System::new(&[("a.yaml", &user), ("c.yaml", config)]);
    let validate = |what: &str, expected: &[&str]| {
        let (code, words) = system.fails(&["validate", "manifests"]);
        assert_eq!(code, i32::from(!expected.is_empty()), "{what}: {words}");
        expected.iter().for_each(|part| assert!(words.contains(part), "{what} should say {part}: {words}"));
    };
    validate("neither file is there, as in a checkout", &[]);
    system.write(".env", "PORT=many\n");
    validate(
        "a wrong type, by its line",
        &["error[E1503]: `PORT` is wrong: `many` is not a port", "/.env:1:1"],
    );
    system.write(".env", "URL=x\n");
    validate("the other file may give the port", &[]);
    system.write(".env.local", "ON=perhaps\nREGION=mars\n");
    validate(
        "now it cannot",
        &["`PORT` is required", "`ON` is wrong", "/.env.local:1:1", "is not one of eu, us"],
    );
    system.write(".env.local", "ON=${SWITCH:-perhaps}\nPORT=$HTTP_PORT\n");
    validate("what hangs on another machine's variables", &[]);
    system.write(".env", "PORT=1\n");
    system.write(".env.local", "ON=true\n");
    validate("nothing gives URL", &["E1406", "gives no value for `URL`"]);
    system.write(".env", "PORT=80\nURL=x\n");
    validate("all is well", &[]);
}

#[test]
fn what_an_env_file_that_is_there_does_not_define_is_told_without_the_machine() {
    let user = sleeper("a", "  envFrom: [{file: ../.env}]\n  env: {URL: \"http://${HOTS}\"}\n");
    let system = System::new(&[("a.yaml", &user)]);
    assert_eq!(system.run(&["validate", "manifests"]).status.code(), Some(0), "it may be in the file");
    system.write(".env", "HOST=x\n");
    let (code, words) = system.fails(&["validate", "manifests"]);
    assert!(code == 1 && words.contains("E1504") && words.contains("did you mean `${HOST}`?"), "{words}");
}

//! What people type who know kubectl, compose and systemctl, and what they are told.

use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use super::support::{NOBODY, System, is_root, sleeper, text, until};

const BOTH: &str = "apiVersion: unisys.dev/v1\nkind: Config\nmetadata: {name: cc}\nspec: {data: {k: v}}\n";

fn given(system: &System, args: &[&str], input: &str) -> (i32, String) {
    use std::io::Write;
    let mut command = system.command(args);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.code().unwrap_or(-1), text(&[output.stdout, output.stderr].concat()))
}

#[test]
fn plan_says_that_what_is_on_the_disk_is_not_accepted() {
    let system = System::up(&[("a.yaml", &sleeper("a", ""))]);
    assert_eq!(system.ok(&["plan"]), "nothing to do\n");
    system.write("manifests/a.yaml", &sleeper("a", "  restrat: {}\n"));
    until("it is refused", || system.ok(&["get", "sets"]).contains("Invalid").then_some(()));
    let output = system.run(&["plan"]);
    let (out, words) = (text(&output.stdout), text(&output.stderr));
    assert_eq!((output.status.code(), out.as_str()), (Some(2), "nothing to do for what is accepted\n"));
    assert!(words.contains("E1203") && words.contains("note: set manifests is invalid"), "{words}");
    // What cannot be read has no findings.
    std::fs::remove_dir_all(system.path("manifests")).unwrap();
    until("it is noticed", || system.fails(&["plan"]).1.contains("cannot be read").then_some(()));
    assert_eq!(system.fails(&["plan", "-o", "json"]).0, 2);
}

#[test]
fn who_may_not_look_into_a_state_directory_is_told_whose_it_is() {
    // Root may look everywhere, and nobody else can give something to another user.
    if !is_root() {
        return;
    }
    let mut system = System::new(&[("a.yaml", &sleeper("a", ""))]);
    system.has_own_binary();
    system.start(&[]);
    std::fs::set_permissions(system.dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let state = system.path(".unified-system");
    for args in [&["get"][..], &["get", "--state-dir", ".unified-system"]] {
        use std::os::unix::process::CommandExt;
        let output = system.command(args).uid(NOBODY).gid(NOBODY).output().unwrap();
        let words = text(&output.stderr);
        assert_eq!(output.status.code(), Some(5), "{words}");
        assert!(words.contains(".unified-system belongs to root (user 0)"), "{words}");
        assert!(words.contains("sudo -u root"), "{words}");
    }
    assert!(state.exists());
}

#[test]
fn a_name_alone_is_deleted_where_it_means_one_object() {
    let system = System::up(&[("a.yaml", &sleeper("a", ""))]);
    system.write("b.yaml", &format!("{BOTH}---\n{}---\n{}", BOTH.replace("cc", "b"), sleeper("b", "")));
    system.ok(&["apply", "-f", "b.yaml", "--wait"]);
    let (code, words) = system.fails(&["delete", "b"]);
    assert!(code == 2 && words.contains("service/b and of config/b"), "{words}");
    let (code, words) = system.fails(&["delete", "cd"]);
    assert!(code == 4 && words.contains("did you mean cc?"), "{words}");
    assert!(system.ok(&["delete", "cc"]).contains("deleted config/cc"));
    assert!(system.ok(&["delete", "service", "b"]).contains("deleted service/b"));
    system.ok(&["delete", "b"]);
}

#[test]
fn what_get_prints_can_be_given_back() {
    let system = System::up(&[("a.yaml", &sleeper("a", ""))]);
    let manifest =
        sleeper("b", "  env: {X: {config: cc, key: k}}\n").replace("name: b", "name: b, annotations: {n: o}");
    system.write("b.yaml", &format!("{BOTH}---\n{manifest}"));
    system.ok(&["apply", "-f", "b.yaml", "--wait"]);
    assert_eq!(system.json(&["get", "b"]), system.json(&["get", "service", "b"]), "one is itself");
    for printed in [system.ok(&["get", "-o", "yaml"]), system.ok(&["get", "-o", "json"])] {
        let (code, words) = given(&system, &["validate", "-"], &printed);
        assert!(code == 0 && words.contains("valid: 3 objects"), "{words}");
    }
    let printed = system.ok(&["get", "b", "-o", "yaml"]);
    assert!(printed.contains("n: o"), "{printed}");
    let (code, words) = given(&system, &["diff", "-f", "-"], &printed);
    assert_eq!(code, 0, "{words}");
    let pid = system.pid("b");
    let (code, words) = given(&system, &["apply", "-f", "-"], &printed);
    assert!(code == 0 && words.contains("nothing to do"), "{words}");
    let (code, words) = given(&system, &["apply", "-f", "-", "--wait"], &printed.replace("1000", "2000"));
    assert_eq!(code, 0, "{words}");
    assert_ne!(system.pid("b"), pid);
    // A status that a person wrote is a slip.
    let (code, words) = given(&system, &["validate", "-"], &format!("{BOTH}status: {{}}\n"));
    assert!(code == 1 && words.contains("E1203"), "{words}");
}

#[test]
fn logs_are_shown_with_their_times_and_from_a_time_on() {
    let code = "import time\nprint('one')\nprint('two')\ntime.sleep(1000)";
    let system = System::up(&[("a.yaml", &super::support::python("a", code, ""))]);
    until("it has written", || (system.ok(&["logs", "a"]) == "one\ntwo\n").then_some(()));
    let lines = system.ok(&["logs", "a", "-t", "-n", "1"]);
    let (at, line) = lines.trim_end().split_once(' ').unwrap();
    assert!(line == "two" && at.ends_with('Z') && at.contains('T'), "{lines}");
    assert!(system.ok(&["logs", "a", "--since", at]).contains("two"));
    assert_eq!(system.ok(&["logs", "a", "--since", "2999-01-01T00:00:00Z"]), "");
    assert_eq!(system.fails(&["logs", "a", "--since", "yesterday"]).0, 2);
}

#[test]
fn plan_needs_no_daemon_before_the_first_up_and_knows_overlays() {
    let mut system =
        System::new(&[("a.yaml", &sleeper("a", "  dependsOn: [b]\n")), ("b.yaml", &sleeper("b", ""))]);
    std::fs::create_dir(system.path("over")).unwrap();
    let patch = "apiVersion: unisys.dev/v1\nkind: Service\nmetadata: {name: a}\nspec: {env: {X: patched}}\n";
    system.write("over/a.yaml", patch);
    let output = system.run(&["plan", "-f", "manifests", "-o", "json"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("no daemon runs here"));
    let plan: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let actions: Vec<_> =
        plan["actions"].as_array().unwrap().iter().map(|a| (&a["verb"], &a["unit"])).collect();
    assert_eq!(
        serde_json::json!(actions),
        serde_json::json!([["Start", "service/b"], ["Start", "service/a"]])
    );
    // What is wrong is above 1, what was named is looked for, and without manifests there is nothing to plan.
    system.write("over/a.yaml", &patch.replace("name: a", "name: c"));
    let (code, words) = system.fails(&["plan", "-f", "manifests", "--overlay", "over"]);
    assert!(code == 2 && words.contains("E1302"), "{words}");
    assert_eq!(system.fails(&["plan", "-f", "manifests", "--state-dir", "elsewhere"]).0, 3);
    assert_eq!(system.fails(&["plan"]).0, 3);
    system.write("over/a.yaml", patch);
    system.start(&[]);
    system.ready(&["a", "b"]);
    assert_eq!(system.run(&["plan", "-f", "manifests"]).status.code(), Some(0));
    let output = system.run(&["plan", "-f", "manifests", "--overlay", "over"]);
    assert!(output.status.code() == Some(1) && text(&output.stdout).contains("spec.env.X"), "{output:?}");
    let output = system.run(&["diff", "-f", "manifests", "--overlay", "over"]);
    assert!(output.status.code() == Some(1) && text(&output.stdout).contains("patched"), "{output:?}");
    let (code, words) = system.fails(&["apply", "-f", "manifests", "--overlay", "over"]);
    assert!(code == 2 && words.contains("is read without overlays"), "{words}");
    drop(system);
    let mut system = System::new(&[("a.yaml", &sleeper("a", ""))]);
    std::fs::create_dir(system.path("over")).unwrap();
    system.write("over/a.yaml", patch);
    system.start(&["--overlay", "over"]);
    assert!(system.ok(&["apply", "-f", "manifests", "--overlay", "over"]).contains("nothing to do"));
    let (code, words) = system.fails(&["apply", "-f", "manifests", "--overlay", "manifests"]);
    assert!(code == 2 && words.contains("with other overlays"), "{words}");
}

#[test]
fn describe_of_a_config_shows_who_uses_it_and_what_it_gives() {
    let config = "apiVersion: unisys.dev/v1\nkind: Config\nmetadata: {name: app}\nspec: {files: [.env], data: {A: one}, types: {D: {default: three}}}\n";
    let secret = "apiVersion: unisys.dev/v1\nkind: Secret\nmetadata: {name: db}\nspec: {data: {token: hidden-value}}\n";
    let user = sleeper("a", "  env: {X: {config: app, key: A}, T: {secret: db, key: token}}\n");
    let mut system = System::new(&[("c.yaml", &format!("{config}---\n{secret}---\n{user}"))]);
    system.write("manifests/.env", "B=two\n");
    system.start(&[]);
    let told = system.ok(&["describe", "config", "app"]);
    for line in ["used by     service/a", "A     one     data", "three   types", ".env:1"] {
        assert!(told.contains(line), "{line}: {told}");
    }
    let told = system.ok(&["describe", "secret/db"]);
    assert!(told.contains("used by     service/a") && !told.contains("hidden"), "{told}");
    let described = system.json(&["describe", "config/app"]);
    assert_eq!(
        described["values"][1],
        serde_json::json!({"key": "B", "value": "two", "from": described["values"][1]["from"]})
    );
}

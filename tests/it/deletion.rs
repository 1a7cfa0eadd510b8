//! `delete`: all of it, in one revision, or nothing.

use std::process::Stdio;

use super::support::{System, alive, sleeper, text, until};

const USER: &str = "  env: {X: {config: cc, key: k}}\n";

fn config() -> String {
    "apiVersion: unisys.dev/v1\nkind: Config\nmetadata: {name: cc}\nspec: {data: {k: v}}\n".to_owned()
}

#[test]
fn what_needs_each_other_goes_together_whatever_comes_first() {
    let system = System::up(&[("a.yaml", &sleeper("a", ""))]);
    let both = format!("{}---\n{}", config(), sleeper("b", USER));
    system.write("both.yaml", &both);
    system.write("c.yaml", &sleeper("c", ""));
    let forms: [&[&str]; 3] =
        [&["config/cc", "service/b"], &["service/b", "config/cc"], &["-f", "both.yaml"]];
    for form in forms {
        system.ok(&["apply", "-f", "both.yaml", "--wait"]);
        system.ok(&["apply", "-f", "c.yaml", "--wait"]);
        let (b, c) = (system.pid("b"), system.pid("c"));
        // Somebody still needs one of them: nothing is taken away, and that is true.
        let (code, words) = system.fails(&["delete", "service/c", "config/cc"]);
        assert!(code == 1 && words.contains("E1405") && words.contains("nothing was changed"), "{words}");
        assert!(alive(b) && alive(c) && system.pid("c") == c);
        let before = revision(&system);
        let told = system.ok(&[&["delete"], form].concat());
        assert!(told.contains("config/cc") && told.contains("service/b"), "{told}");
        assert_eq!(revision(&system), before + 1, "one revision");
        until("it is gone", || (!alive(b)).then_some(()));
        assert!(alive(c));
    }
}

#[test]
fn what_a_file_declares_may_be_gone_in_part() {
    let system = System::up(&[("a.yaml", &sleeper("a", ""))]);
    system.write("two.yaml", &format!("{}---\n{}", sleeper("b", ""), sleeper("c", "")));
    system.ok(&["apply", "-f", "two.yaml", "--wait"]);
    let c = system.pid("c");
    system.ok(&["delete", "service/b"]);
    let (code, words) = system.fails(&["delete", "service/b", "service/c"]);
    assert!(code == 4 && words.contains("there is no service/b"), "{words}");
    assert!(alive(c), "of what is named, all is to be there");
    let output = system.run(&["delete", "-f", "two.yaml"]);
    let told = text(&[output.stdout, output.stderr].concat());
    assert!(output.status.success(), "{told}");
    assert!(
        told.contains("note: service/b was gone already") && told.contains("deleted service/c"),
        "{told}"
    );
    until("it is gone", || (!alive(c)).then_some(()));
    assert_eq!(system.fails(&["delete", "-f", "two.yaml"]).0, 4, "nothing is left of it");
}

#[test]
fn what_apply_was_given_outlives_the_daemon_and_delete_ends_it() {
    let system = System::up(&[("a.yaml", &sleeper("a", ""))]);
    std::fs::create_dir(system.path("more")).unwrap();
    system.write("more/b.yaml", &sleeper("b", ""));
    system.write("two.yaml", &format!("{}---\n{}", sleeper("c", ""), sleeper("d", "")));
    system.ok(&["apply", "-f", "more", "--wait"]);
    system.ok(&["apply", "-f", "two.yaml", "--prune", "--wait"]);
    let daemon = system.daemon_pid().unwrap();
    crate::support::signal(daemon, "KILL");
    until("another daemon", || system.daemon_pid().filter(|pid| *pid != daemon));
    system.ready(&["a", "b", "c", "d"]);
    // One document of a file that held two is changed alone.
    system.write("c.yaml", &sleeper("c", "  env: {X: '1'}\n"));
    assert_eq!(system.run(&["diff", "-f", "c.yaml"]).status.code(), Some(1));
    system.ok(&["delete", "service/c"]);
    // Its directory is gone, and nothing was stopped for that.
    std::fs::remove_dir_all(system.path("more")).unwrap();
    until("that it is noticed", || system.ok(&["get", "sets"]).contains("Invalid").then_some(()));
    system.ready(&["b"]);
    assert_eq!(system.fails(&["delete", "-f", "manifests/nowhere"]).0, 4);
    assert!(system.ok(&["delete", "-f", "more"]).contains("deleted everything of "));
    system.ok(&["wait", "--for=delete", "b", "c"]);
    system.ready(&["a", "d"]);
    assert_eq!(system.ok(&["get", "sets", "-o", "name"]), "set/manifests\nset/default\n");
    let mut command = system.command(&["apply", "-f", "-", "--prune"]);
    let status = command.stdin(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    assert_eq!(status.code(), Some(2), "nothing is no reason to delete everything");
    // A Config that nothing uses is accepted as well.
    system.write(
        "f.yaml",
        "apiVersion: unisys.dev/v1\nkind: Config\nmetadata: {name: f}\nspec: {data: {A: b}}\n",
    );
    system.ok(&["apply", "-f", "f.yaml"]);
    system.ok(&["get", "config", "f"]);
}

fn revision(system: &System) -> u64 {
    let text = system.ok(&["get", "system", "-o", "json"]);
    let system: serde_json::Value = serde_json::from_str(&text).unwrap();
    system["status"]["revision"].as_u64().unwrap()
}

#[test]
fn the_directory_of_a_set_is_deleted_with_what_is_not_in_it_any_more() {
    let system = System::up(&[("a.yaml", &sleeper("a", ""))]);
    std::fs::create_dir(system.path("more")).unwrap();
    system.write("more/b.yaml", &sleeper("b", ""));
    system.write("more/c.yaml", &sleeper("c", ""));
    system.ok(&["apply", "-f", "more", "--wait"]);
    let (code, words) = system.fails(&["delete", "service/b"]);
    assert!(code == 5 && words.contains("unisys delete -f "), "{words}");
    // A file that cannot be accepted takes one of them out of what is declared there, and what was accepted stays.
    system.write("more/c.yaml", &sleeper("c2", "  dependsOn: [nobody]\n"));
    until("it is refused", || system.ok(&["get", "sets"]).contains("Invalid").then_some(()));
    let told = system.ok(&["delete", "-f", "more"]);
    assert!(told.contains("deleted everything of "), "{told}");
    system.ok(&["wait", "--for=delete", "b", "c"]);
    system.ready(&["a"]);
    // What `up` was given is told to be that.
    let (code, words) = system.fails(&["delete", "-f", "manifests"]);
    assert!(code == 5 && words.contains("remove it there"), "{words}");
}

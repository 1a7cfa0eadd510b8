//! `delete`: all of it, in one revision, or nothing.

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

fn revision(system: &System) -> u64 {
    let text = system.ok(&["get", "system", "-o", "json"]);
    let system: serde_json::Value = serde_json::from_str(&text).unwrap();
    system["status"]["revision"].as_u64().unwrap()
}

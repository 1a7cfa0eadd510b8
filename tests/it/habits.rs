//! What people type who know kubectl, compose and systemctl, and what they are told.

use super::support::{System, sleeper, text, until};

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

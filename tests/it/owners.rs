//! Objects that two sets declare: who owns them, and that nobody fights over them.

use crate::support::{System, signal, sleeper, until};

fn set_of(system: &System, name: &str) -> String {
    system.json(&["get", "service", name])["metadata"]["set"].as_str().unwrap_or_default().to_owned()
}

fn replicas(system: &System, name: &str) -> u64 {
    system.json(&["get", "service", name])["status"]["replicas"].as_u64().unwrap()
}

#[test]
fn two_directories_that_declare_the_same_object_are_a_conflict_for_up() {
    let system = System::new(&[("a.yaml", &sleeper("a", ""))]);
    std::fs::create_dir(system.path("other")).unwrap();
    system.write("other/a.yaml", &sleeper("a", ""));
    let (code, words) = system.fails(&["up", "-f", "manifests", "-f", "other"]);
    assert!(
        code == 5 && words.contains("E1304") && words.contains("two sets own the same object"),
        "{code} {words}"
    );
}

#[test]
fn an_object_of_another_set_is_a_conflict_and_is_taken_over_for_good_by_force() {
    let mut system = System::up(&[("ab.yaml", &format!("{}---\n{}", sleeper("a", ""), sleeper("b", "")))]);
    system.ready(&["a", "b"]);
    let pid = system.pid("a");
    system.write("mine.yaml", &sleeper("a", "  replicas: 2\n"));
    for verb in [&["apply"][..], &["plan"], &["diff"], &["apply", "--dry-run"]] {
        let (code, words) = system.fails(&[verb, &["-f", "mine.yaml"]].concat());
        assert_eq!(code, 5, "{verb:?}: {words}");
        for part in ["E1304", "mine.yaml:3:", "belongs to the set `manifests`", "--force-conflicts"] {
            assert!(words.contains(part), "{verb:?}: {part} is not in {words}");
        }
    }
    assert_eq!((set_of(&system, "a"), replicas(&system, "a")), ("manifests".into(), 1));
    // Another mistake beside it is one of the manifests.
    system.write(
        "wrong.yaml",
        &format!("{}---\n{}", sleeper("a", ""), sleeper("c", "  dependsOn: [nobody]\n")),
    );
    assert_eq!(system.fails(&["apply", "-f", "wrong.yaml"]).0, 1);

    system.ok(&["apply", "-f", "mine.yaml", "--force-conflicts", "--wait"]);
    assert_eq!((set_of(&system, "a"), replicas(&system, "a")), ("default".into(), 2));
    assert_eq!(system.pid("a"), pid, "another owner is no reason to start anything");
    assert_eq!(set_of(&system, "b"), "manifests");
    assert!(
        system
            .ok(&["events", "a"])
            .contains("it belongs to the set `default` from now on, before to `manifests`")
    );
    let sets = system.json(&["get", "sets"]);
    assert_eq!(sets["items"][0]["status"]["ceded"][0]["object"], "service/a");
    assert_eq!(sets["items"][0]["status"]["summary"], "Valid");
    let said = crate::support::text(&system.run(&["get"]).stderr);
    assert!(said.contains("set manifests declares service/a, which belongs to set default"), "{said}");

    // The other set's files go on being read, and count for the rest of it; the next daemon knows as well.
    let both = |a: u32, b: u32| {
        let of = |name: &str, count: u32| sleeper(name, &format!("  replicas: {count}\n"));
        format!("{}---\n{}", of("a", a), of("b", b))
    };
    system.write("manifests/ab.yaml", &both(3, 2));
    until("b is scaled", || (replicas(&system, "b") == 2).then_some(()));
    assert_eq!((set_of(&system, "a"), replicas(&system, "a")), ("default".into(), 2));
    let daemon = system.daemon_pid().unwrap();
    signal(daemon, "KILL");
    until("another daemon", || system.daemon_pid().filter(|pid| *pid != daemon));
    system.write("manifests/ab.yaml", &both(4, 3));
    until("b is scaled", || (replicas(&system, "b") == 3).then_some(()));
    assert_eq!((set_of(&system, "a"), replicas(&system, "a")), ("default".into(), 2));
    system.ok(&["down"]);
    assert_eq!(system.ended(), 0);
    system.start(&[]);
    assert_eq!((set_of(&system, "a"), replicas(&system, "a")), ("default".into(), 2));

    // What was ceded is in conflict when it is handed in, and is taken back by force, for good as well.
    let (code, words) = system.fails(&["apply", "-f", "manifests"]);
    assert!(code == 5 && words.contains("belongs to the set `default`"), "{code} {words}");
    system.ok(&["apply", "-f", "manifests", "--force-conflicts"]);
    assert_eq!((set_of(&system, "a"), replicas(&system, "a")), ("manifests".into(), 4));
    assert_eq!(system.fails(&["apply", "-f", "mine.yaml"]).0, 5);
    system.ok(&["apply", "-f", "manifests"]);

    // It comes back to who declares it when its owner lets go of it.
    system.ok(&["apply", "-f", "mine.yaml", "--force-conflicts"]);
    assert_eq!(replicas(&system, "a"), 2);
    system.ok(&["delete", "service/a"]);
    until("it is the other one's", || (set_of(&system, "a") == "manifests").then_some(()));
    assert_eq!(replicas(&system, "a"), 4);
    assert!(
        system.json(&["get", "sets"])["items"][0]["status"]["ceded"].as_array().is_some_and(Vec::is_empty)
    );
}

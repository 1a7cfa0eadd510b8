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
    // It is one whatever else is wrong.
    system.write(
        "wrong.yaml",
        &format!("{}---\n{}", sleeper("a", ""), sleeper("c", "  dependsOn: [nobody]\n")),
    );
    for verb in ["apply", "plan", "diff"] {
        let (code, words) = system.fails(&[verb, "-f", "wrong.yaml"]);
        assert!(code == 5 && words.contains("nobody"), "{verb}: {code} {words}");
    }
    // What a take-over would come to is asked for as it is done.
    for verb in ["plan", "diff"] {
        let output = system.run(&[verb, "-f", "mine.yaml", "--force-conflicts"]);
        let told = crate::support::text(&[output.stdout, output.stderr].concat());
        assert!(output.status.code() == Some(1) && told.contains("service/a"), "{verb}: {told}");
    }
    assert_eq!((set_of(&system, "a"), replicas(&system, "a")), ("manifests".into(), 1));

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

#[test]
fn a_checkout_is_compared_with_the_set_that_runs_and_is_not_applied_in_its_place() {
    let api = |x: &str| sleeper("api", &format!("  workingDir: ..\n  env: {{X: '{x}'}}\n"));
    let system = System::up(&[("api.yaml", &api("1")), ("web.yaml", &sleeper("web", ""))]);
    system.ready(&["api", "web"]);
    let pids = (system.pid("api"), system.pid("web"));
    for dir in ["checkout/manifests", "checkout/deploy"] {
        std::fs::create_dir_all(system.path(dir)).unwrap();
        system.write(&format!("{dir}/api.yaml"), &api("1"));
        system.write(&format!("{dir}/web.yaml"), &sleeper("web", ""));
    }
    let told = |args: &[&str]| {
        let output = system.run(args);
        (output.status.code().unwrap(), crate::support::text(&[output.stdout, output.stderr].concat()))
    };
    // By the directory's name, or by that of the set.
    let ways: [&[&str]; 2] =
        [&["-f", "checkout/manifests"], &["-f", "checkout/deploy", "--set", "manifests"]];
    for way in ways {
        for verb in ["plan", "diff"] {
            let (code, words) = told(&[&[verb], way].concat());
            let note = "taken as the content of the set `manifests`, which is read from";
            assert!(code == 0 && words.contains(note), "where it lies is no difference: {code} {words}");
        }
    }
    for dir in ["checkout/manifests", "checkout/deploy"] {
        system.write(&format!("{dir}/api.yaml"), &api("2"));
        std::fs::remove_file(system.path(&format!("{dir}/web.yaml"))).unwrap();
        system.write(&format!("{dir}/new.yaml"), &sleeper("new", ""));
    }
    for way in ways {
        let (code, words) = told(&[&["diff"], way].concat());
        for part in ["~ service/api", "spec.env.X: \"1\" → \"2\"", "+ service/new", "- service/web"] {
            assert!(code == 1 && words.contains(part), "{part}: {words}");
        }
        assert!(!words.contains("workingDir"), "{words}");
        let plan = crate::support::text(&system.run(&[&["plan", "-o", "json"], way].concat()).stdout);
        let plan: serde_json::Value = serde_json::from_str(&plan).unwrap();
        let mut verbs: Vec<String> = plan["actions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|action| format!("{} {}", action["verb"], action["unit"]).replace('"', ""))
            .collect();
        verbs.sort();
        assert_eq!(verbs, ["Delete service/web", "Replace service/api", "Start service/new"], "{plan}");
        // It is no part of what is applied.
        let (code, words) = told(&[&["apply"], way].concat());
        assert!(code == 5 && words.contains("is no part of it"), "{words}");
        assert!(words.contains("`unisys plan -f checkout/") && words.contains("and `diff`"), "{words}");
    }
    // What is wrong is told where it is written.
    system.write("checkout/deploy/new.yaml", &sleeper("new", "  dependsOn: [nobody]\n"));
    let (code, words) = told(&["plan", "-f", "checkout/deploy", "--set", "manifests"]);
    assert!(code == 2 && words.contains("checkout/deploy/new.yaml:"), "{code} {words}");
    // Under the name of no set they are objects of another one, and how to compare them is said.
    let (code, words) = told(&["plan", "-f", "checkout/deploy"]);
    assert!(code == 5 && words.contains("unisys plan -f checkout/deploy --set manifests`"), "{code} {words}");
    // A part of it says nothing of the rest.
    let (code, words) = told(&["diff", "-f", "checkout/deploy/api.yaml", "--set", "manifests"]);
    assert!(code == 5 && words.contains("given all of it"), "{code} {words}");
    assert_eq!((system.pid("api"), system.pid("web")), pids);
}

#[test]
fn one_file_is_compared_with_the_set_that_one_file_is() {
    let mut system = System::new(&[]);
    system.write("unisys.yaml", &sleeper("a", ""));
    system.start(&["-f", "unisys.yaml"]);
    system.ready(&["a"]);
    std::fs::create_dir(system.path("checkout")).unwrap();
    system.write("checkout/unisys.yaml", &sleeper("a", "  replicas: 2\n"));
    let output = system.run(&["diff", "-f", "checkout/unisys.yaml"]);
    let words = crate::support::text(&output.stdout);
    assert!(output.status.code() == Some(1) && words.contains("spec.replicas"), "{words}");
    let mut command = system.command(&["diff", "-f", "-", "--set", "unisys"]);
    command.stdin(std::fs::File::open(system.path("checkout/unisys.yaml")).unwrap());
    let output = command.output().unwrap();
    assert_eq!((output.status.code(), crate::support::text(&output.stdout)), (Some(1), words));
}

#[test]
fn a_mistake_in_one_set_holds_up_no_other() {
    let mut system = System::new(&[]);
    for set in ["one", "two"] {
        std::fs::create_dir(system.path(set)).unwrap();
        system.write(&format!("{set}/{set}.yaml"), &sleeper(set, ""));
    }
    system.start(&["-f", "one", "-f", "two"]);
    system.ready(&["one", "two"]);
    let two = system.pid("two");
    let condition = |set: &str| {
        let found = system.json(&["get", "sets"])["items"].as_array().unwrap().clone();
        let found = found.into_iter().find(|it| it["metadata"]["name"] == set).unwrap();
        found["status"]["conditions"][0]["status"].as_str().unwrap().to_owned()
    };
    system.write("two/two.yaml", &sleeper("two", "  restrt: {}\n"));
    until("it is said", || (condition("two") == "False").then_some(()));
    system.write("one/new.yaml", &sleeper("new", ""));
    system.ready(&["new"]);
    assert_eq!((condition("one"), condition("two")), ("True".into(), "False".into()));
    std::fs::remove_file(system.path("one/one.yaml")).unwrap();
    let gone = || (system.run(&["get", "service", "one"]).status.code() == Some(4)).then_some(());
    until("what left the valid set goes", gone);
    assert_eq!(system.pid("two"), two);
    // Where one cannot be taken in without the other, neither is, and both say so.
    system.write("two/two.yaml", &sleeper("two", "  dependsOn: [new]\n"));
    until("it is valid again", || (condition("two") == "True").then_some(()));
    let new = system.pid("new");
    std::fs::remove_file(system.path("one/new.yaml")).unwrap();
    system.write("one/other.yaml", &sleeper("other", ""));
    until("both are held", || (condition("one") == "False" && condition("two") == "False").then_some(()));
    assert_eq!(system.pid("new"), new);
    // What a set declares that another one has is that set's mistake, wherever the other one lies.
    system.write("one/new.yaml", &sleeper("new", ""));
    until("both are valid", || (condition("one") == "True" && condition("two") == "True").then_some(()));
    system.write("mine.yaml", &sleeper("mine", ""));
    system.ok(&["apply", "-f", "mine.yaml"]);
    system.write("two/mine.yaml", &sleeper("mine", "  env: {X: theirs}\n"));
    until("it is said", || (condition("two") == "False").then_some(()));
    assert_eq!(condition("one"), "True");
    assert_eq!(set_of(&system, "mine"), "default");
}

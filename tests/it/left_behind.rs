//! Processes that services leave behind.

use std::fs;

use crate::support::{System, alive, signal, until};

#[test]
fn who_left_everything_by_which_it_could_be_known_is_told_and_ends_with_the_system() {
    let code = "ulimit -S -x unlimited; setsid env -i sleep 1000 >/dev/null 2>&1 </dev/null & echo $! > ../left; exec sleep 1000";
    let manifest = format!(
        "apiVersion: unisys.dev/v1\nkind: Service\nmetadata: {{name: a}}\nspec: {{command: [bash, -c, '{code}']}}\n"
    );
    // What was begun before by whoever became `unisys up` is none of the system's.
    let mut system = System::new(&[("a.yaml", &manifest)]);
    system.within = ["bash", "-c", "sleep 1000 & echo $! > before; exec \"$@\"", "-"].map(Into::into).into();
    system.start(&[]);
    let pid = |file: &str| fs::read_to_string(system.path(file)).ok()?.trim().parse::<u32>().ok();
    let (left, before) = (until("who left", || pid("left")), pid("before").unwrap());
    until("it has left", || system.ok(&["stop", "a"]).contains("stop a").then_some(()));
    assert!(alive(left), "nobody knows whose it is");
    let told = || system.ok(&["events", "system"]);
    until("it is told", || {
        told().contains(&format!("process {left} (sleep) came of a service")).then_some(())
    });
    assert_eq!(told().matches("came of a service").count(), 1, "{}", told());
    system.ok(&["down"]);
    assert!(!alive(left) && alive(before));
    signal(before, "KILL");
}

#[test]
fn who_left_session_group_environment_and_output_ends_with_its_service_and_no_other() {
    let manifest = |name: &str| {
        let code = format!(
            "(setsid env -i sleep 1000 >/dev/null 2>&1 </dev/null & echo $! > ../{name}.left); exec sleep 1000"
        );
        format!(
            "apiVersion: unisys.dev/v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{command: [bash, -c, '{code}']}}\n"
        )
    };
    let system = System::up(&[("a.yaml", &manifest("a")), ("b.yaml", &manifest("b"))]);
    let left = |name: &str| {
        until("who left", || {
            fs::read_to_string(system.path(&format!("{name}.left"))).ok()?.trim().parse::<u32>().ok()
        })
    };
    let (a, b) = (left("a"), left("b"));
    let environment = || fs::read(format!("/proc/{a}/environ")).ok();
    until("it has left all of it", || environment().filter(|bytes| !bytes.starts_with(b"UNISYS")));
    system.ok(&["stop", "a"]);
    assert!(!alive(a) && alive(b));
    assert!(!system.ok(&["events", "system"]).contains("came of a service"));
    // By the keeper that takes over as well.
    let keeper = system.keeper_pid();
    signal(keeper, "KILL");
    until("another keeper", || {
        let system = system.run(&["get", "system", "-o", "json"]);
        let system: serde_json::Value = serde_json::from_slice(&system.stdout).ok()?;
        system["status"]["keeperPid"].as_u64().filter(|pid| *pid != u64::from(keeper))
    });
    system.ok(&["stop", "b"]);
    assert!(!alive(b));
}

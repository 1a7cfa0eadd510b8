//! What is said where a person looks for it.

use crate::support::{System, python, sleeper, until};

#[test]
fn up_of_nothing_says_so_and_takes_in_what_comes() {
    let mut system = System::new(&[]);
    system.start(&[]);
    let said = || system.terminal();
    until("it is said", || {
        said().contains("manifests holds no manifests: nothing runs of it; what is saved there").then_some(())
    });
    let note = String::from_utf8_lossy(&system.run(&["get", "services"]).stderr).into_owned();
    assert!(note.contains("nothing runs of it") && !note.contains("revision 0"), "{note}");
    system.write("manifests/a.yaml", &sleeper("a", ""));
    system.ready(&["a"]);
}

#[test]
fn so_does_up_in_the_background() {
    let system = System::new(&[]);
    let output = system.run(&["up", "-d"]);
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && words.contains("manifests holds no manifests"), "{words}");
    system.ok(&["down"]);
}

#[test]
fn what_a_program_says_of_itself_stands_beside_it_and_where_it_is_waited_for() {
    let code = "import os,socket,time\ns=socket.socket(socket.AF_UNIX,socket.SOCK_DGRAM)\n\
        a=os.environ['NOTIFY_SOCKET']\ns.connect('\\0'+a[1:] if a[0]=='@' else a)\ns.send(b'STATUS=loading 50%')\ntime.sleep(1000)";
    let system = System::up(&[("n.yaml", &python("n", code, "  probes: {readiness: {notify: systemd}}\n"))]);
    until("it was said", || (system.instance("n")["statusText"] == "loading 50%").then_some(()));
    assert!(system.ok(&["describe", "n"]).contains("STATUSTEXT"));
    let (code, words) = system.fails(&["wait", "--for=condition=Ready", "--timeout", "100ms", "n"]);
    assert!(code == 1 && words.contains("it says: loading 50%"), "{code} {words}");
}

#[test]
fn a_script_whose_interpreter_is_missing_is_told_by_it() {
    use std::os::unix::fs::PermissionsExt;
    let system = System::new(&[("a.yaml", &sleeper("a", "").replace("[sleep, \"1000\"]", "[./run]"))]);
    system.write("manifests/run", "#!/no/such/interpreter -x\n");
    std::fs::set_permissions(system.path("manifests/run"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut system = system;
    system.start(&[]);
    let why = || String::from_utf8_lossy(&system.run(&["why", "a"]).stdout).into_owned();
    until("it is named", || {
        why().contains("its interpreter /no/such/interpreter does not exist").then_some(())
    });
}

#[test]
fn what_cannot_be_the_name_of_a_variable_is_found_before_it_is_one() {
    let system = System::new(&[("a.yaml", &sleeper("a", "  env: {'A=B': x, '': y, FINE-1: z}\n"))]);
    let (code, words) = system.fails(&["validate", "manifests"]);
    assert!(code == 1 && words.matches("E1208").count() == 2 && words.contains("`A=B`"), "{words}");
}

#[test]
fn up_of_standard_input_says_what_there_is_for_it() {
    let system = System::new(&[]);
    let (code, words) = system.fails(&["up", "-f", "-"]);
    assert!(code == 2 && words.contains("unisys apply -f -"), "{code} {words}");
}

#[test]
fn up_in_the_background_tells_what_cannot_start() {
    let system = System::new(&[("a.yaml", &sleeper("a", "").replace("[sleep, \"1000\"]", "[./nothere]"))]);
    let output = system.run(&["up", "-d"]);
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && words.contains("note: service/a cannot start: "), "{words}");
    assert!(words.contains("nothere does not exist"), "{words}");
    system.ok(&["down"]);
}

#[test]
fn what_fails_on_the_way_out_is_told_and_holds_nothing_up() {
    let rest = "  stop: {command: [sh, -c, exit 3]}\n  hooks: {postStop: [{command: [\"true\"]}, {command: [sh, -c, exit 7]}]}\n";
    let lacks = "  stop: {command: [/nonexistent/stop]}\n";
    let system = System::up(&[("a.yaml", &sleeper("a", rest)), ("b.yaml", &sleeper("b", lacks))]);
    system.ready(&["a", "b"]);
    system.ok(&["stop", "a", "b"]);
    let events = until("it is told", || {
        let events = system.ok(&["events"]);
        (events.matches("StopHookFailed").count() == 3).then_some(events)
    });
    for words in
        ["has a stop.command that ended: exit code 3", "has a postStop hook 2 that ended: exit code 7"]
    {
        assert!(events.contains(words), "{words} is not in {events}");
    }
    assert!(system.ok(&["errors", "ls"]).contains("exit code 7"));
}

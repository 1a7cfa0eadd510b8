//! Programs that name another process as their main one (`MAINPID=`, sd_notify(3)).

use std::fs;

use crate::support::{System, alive, python, signal, until};

/// It starts a child, says that this is its main program, and `then`.
fn forking(then: &str) -> String {
    let code = format!(
        "import os,socket,sys,time\npid=os.fork()\nif pid==0:\n  time.sleep(1000)\n\
         s=socket.socket(socket.AF_UNIX,socket.SOCK_DGRAM)\na=os.environ['NOTIFY_SOCKET']\n\
         s.connect('\\0'+a[1:] if a[0]=='@' else a)\nopen('../parent','w').write(str(os.getpid()))\n\
         s.send(b'MAINPID=%d\\nREADY=1' % pid)\n{then}"
    );
    let fields = "  probes: {readiness: {notify: systemd}}\n  circuitBreaker: null\n  restart: {backoff: {initial: 1ms, max: 10ms}}\n";
    python("a", &code, fields)
}

fn parent(system: &System) -> u32 {
    until("its parent", || fs::read_to_string(system.path("parent")).ok()?.parse().ok())
}

#[test]
fn the_end_of_the_process_that_a_program_named_is_its_end() {
    let system = System::up(&[("a.yaml", &forking("time.sleep(1000)"))]);
    system.ready(&["a"]);
    let (parent, main) = (parent(&system), system.pid("a"));
    assert_ne!(parent, main);
    // The next daemon, and the next keeper, know it.
    let daemon = until("a daemon", || system.daemon_pid());
    signal(daemon, "KILL");
    until("another daemon", || system.daemon_pid().filter(|pid| *pid != daemon));
    assert_eq!(system.pid("a"), main);
    signal(main, "KILL");
    until("another one", || (system.instance("a")["pid"] != main).then_some(()));
    system.ready(&["a"]);
    let instance = system.instance("a");
    assert_eq!(instance["restarts"], 1, "{instance}");
    until("nothing of the former one lives", || (!alive(parent)).then_some(()));
    let last = system.pid("a");
    system.ok(&["stop", "a"]);
    assert!(!alive(last));
}

#[test]
fn the_word_of_a_program_that_ends_at_once_is_heard_before_its_end() {
    let system = System::up(&[("a.yaml", &forking("os._exit(3)"))]);
    for restarts in 0..20 {
        system.ready(&["a"]);
        let parent = parent(&system);
        until("its parent ends", || (!alive(parent)).then_some(()));
        let instance = system.instance("a");
        let main = system.pid("a");
        assert_ne!(main, parent, "{instance}");
        assert_eq!(instance["restarts"], restarts, "{instance}");
        fs::remove_file(system.path("parent")).unwrap();
        signal(main, "TERM");
        until("another one", || (system.instance("a")["restarts"] == restarts + 1).then_some(()));
        assert_eq!(system.instance("a")["lastExit"]["signal"], 15);
    }
}

#[test]
fn a_program_that_leaves_another_one_in_its_place_runs_on() {
    let system = System::up(&[("a.yaml", &forking("time.sleep(0.5)"))]);
    system.ready(&["a"]);
    let (parent, main) = (parent(&system), system.pid("a"));
    until("its parent ends", || (!alive(parent)).then_some(()));
    system.ready(&["a"]);
    let instance = system.instance("a");
    assert_eq!((&instance["restarts"], &instance["pid"]), (&0.into(), &main.into()), "{instance}");
    // It is the keeper's child by now: how it ends is known.
    signal(main, "TERM");
    until("another one", || (system.instance("a")["restarts"] == 1).then_some(()));
    assert_eq!(system.instance("a")["lastExit"]["signal"], 15);
}

//! Sockets that outlive processes, with real servers: nothing is refused while there is nobody to answer.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::support::{System, free_port, kill_both, python, signal, sleeper, until};

/// Answers each connection with its pid, and ends between two of them when it is asked to.
const PYTHON: &str = "import os, signal, socket
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
assert os.environ['LISTEN_PID'] == str(os.getpid())
s = socket.socket(fileno=3)
s.settimeout(0.02)
while not signal.sigpending():
  try: c, _ = s.accept()
  except TimeoutError: continue
  c.settimeout(10)
  c.recv(1000)
  c.sendall(b'HTTP/1.0 200 OK\\r\\n\\r\\n%d' % os.getpid())
  c.close()
";

const NODE: &str = "const server = require('http').createServer((_, answer) => {
  answer.setHeader('connection', 'close'); answer.end(String(process.pid));
}).listen({fd: 3});
process.on('SIGTERM', () => server.close(() => process.exit(0)));
";

fn service(command: &[&str], rest: &str) -> String {
    let command = serde_json::to_string(command).unwrap();
    format!(
        "apiVersion: unisys.dev/v1\nkind: Service\nmetadata: {{name: a}}\nspec:\n  command: {command}\n{rest}"
    )
}

fn listening(port: u16) -> String {
    format!("  ports: [{{name: http, port: {port}, listen: true}}]\n")
}

/// Says something and hears everything.
fn talk(mut stream: impl Read + Write) -> Result<String, String> {
    let mut answer = String::new();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").map_err(|error| format!("write: {error}"))?;
    stream.read_to_string(&mut answer).map_err(|error| format!("read: {error}"))?;
    match answer.rsplit("\r\n").next() {
        Some(body) if !body.is_empty() => Ok(body.trim().to_owned()),
        _ => Err("an empty answer".into()),
    }
}

/// The body of the answer on a port.
fn ask(port: u16) -> Result<String, String> {
    let stream = TcpStream::connect(("127.0.0.1", port)).map_err(|error| format!("connect: {error}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    talk(stream)
}

/// The answer of a system that has just begun: its sockets are bound when its manifests are read.
fn first_answer(port: u16) -> String {
    until("it answers", || ask(port).ok())
}

/// Connections, one after the other, until it is ended.
struct Load {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<(u64, Vec<String>)>,
}

impl Load {
    fn on(port: u16) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            let (mut good, mut bad) = (0, Vec::new());
            while !stopped.load(Ordering::Relaxed) {
                match ask(port) {
                    Ok(_) => good += 1,
                    Err(why) => bad.push(why),
                }
            }
            (good, bad)
        });
        Self { stop, thread }
    }

    /// How many were answered; none may have failed.
    fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let (good, bad) = self.thread.join().unwrap();
        assert_eq!(bad, Vec::<String>::new(), "beside {good} that were answered");
        good
    }
}

fn pid_other_than(system: &System, before: u32) -> u32 {
    until("another pid", || system.instance("a")["pid"].as_u64().filter(|pid| *pid != u64::from(before)))
        as u32
}

/// Replaces, restarts, kills the daemon and upgrades the keeper under load.
fn no_connection_fails(command: &[&str]) {
    let port = free_port();
    let system = System::up(&[("a.yaml", &service(command, &listening(port)))]);
    let mut pid: u32 = first_answer(port).parse().unwrap();
    assert_eq!(system.pid("a"), pid);
    let load = Load::on(port);
    for round in 0..3 {
        let rest = format!("{}  env: {{ROUND: \"{round}\"}}\n", listening(port));
        system.write("manifests/a.yaml", &service(command, &rest));
        pid = pid_other_than(&system, pid);
    }
    system.ok(&["restart", "a"]);
    pid = pid_other_than(&system, pid);
    let daemon = until("a daemon", || system.daemon_pid());
    signal(daemon, "KILL");
    let daemon = until("another daemon", || system.daemon_pid().filter(|pid| *pid != daemon));
    assert_eq!(system.pid("a"), pid, "the daemon's end is nothing to it");
    system.ok(&["upgrade"]);
    until("a daemon of the new keeper", || system.daemon_pid().filter(|pid| *pid != daemon));
    assert_eq!(system.pid("a"), pid, "nor is the keeper's upgrade");
    // The upgraded keeper holds the same socket.
    system.ok(&["restart", "a"]);
    pid = pid_other_than(&system, pid);
    assert!(load.end() > 10);
    // The former one accepts until it has been told to go.
    until("the last one answers", || (ask(port).unwrap() == pid.to_string()).then_some(()));
}

#[test]
fn no_connection_to_a_python_server_fails() {
    no_connection_fails(&["python3", "-u", "-c", PYTHON]);
}

#[test]
fn no_connection_to_a_node_server_fails() {
    no_connection_fails(&["node", "-e", NODE]);
}

#[test]
fn connections_wait_through_a_crash_and_the_end_of_keeper_and_daemon() {
    let port = free_port();
    let slow = "  restart: {backoff: {initial: 500ms}}\n";
    let mut system = System::up(&[("a.yaml", &python("a", PYTHON, &format!("{}{slow}", listening(port))))]);
    let before = first_answer(port);
    signal(before.parse().unwrap(), "KILL");
    let after = ask(port).unwrap();
    assert_ne!(before, after, "nobody was there, and it waited");
    // Nor is the daemon there when it ends, and the next one finds no instance that was given the socket.
    let daemon = until("a daemon", || system.daemon_pid());
    signal(daemon, "STOP");
    signal(after.parse().unwrap(), "KILL");
    let waiting = thread::spawn(move || ask(port));
    signal(daemon, "KILL");
    let after = {
        let answer = waiting.join().unwrap().unwrap();
        assert_ne!(answer, after);
        answer
    };
    // The next keeper has the socket from the process that lives on.
    let daemon = until("a daemon", || system.daemon_pid());
    kill_both(system.keeper_pid(), daemon);
    system.ended();
    assert_eq!(ask(port).unwrap(), after);
    system.start(&[]);
    signal(after.parse().unwrap(), "KILL");
    let last = ask(port).unwrap();
    assert_ne!(last, after);
    // What is stopped is not waited for.
    system.ok(&["stop", "a"]);
    until("it is refused", || TcpStream::connect(("127.0.0.1", port)).is_err().then_some(()));
    system.ok(&["start", "a"]);
    until("it is answered", || ask(port).ok());
    system.ok(&["down"]);
    system.ended();
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
}

#[test]
fn each_kind_of_socket_is_handed_over_in_order() {
    let code = "import os, selectors, signal, socket
names = os.environ['LISTEN_FDNAMES'].split(':')
assert int(os.environ['LISTEN_FDS']) == len(names)
all = selectors.DefaultSelector()
for n, name in enumerate(names): all.register(socket.socket(fileno=3 + n), 1, name)
while True:
  for key, _ in all.select():
    s = key.fileobj
    if s.type == socket.SOCK_STREAM:
      c, _ = s.accept(); c.recv(1000); c.sendall(key.data.encode()); c.close()
    else:
      _, other = s.recvfrom(1000); s.sendto(key.data.encode(), other)
";
    let (four, six, udp) = (free_port(), free_port(), free_port());
    let ports = format!(
        "  ports:
    - {{name: four, port: {four}, listen: true}}
    - {{name: six, port: {six}, address: \"::1\", listen: true}}
    - {{name: datagrams, port: {udp}, protocol: udp, listen: true}}
    - {{name: path, protocol: unix, address: ../s.sock, listen: true}}
"
    );
    let system = System::up(&[("a.yaml", &python("a", code, &ports))]);
    let path = system.path("s.sock");
    let look = || {
        assert_eq!(ask(four).unwrap(), "four");
        assert_eq!(talk(TcpStream::connect(("::1", six)).unwrap()).unwrap(), "six");
        assert_eq!(talk(UnixStream::connect(&path).unwrap()).unwrap(), "path");
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        socket.send_to(b"x", ("127.0.0.1", udp)).unwrap();
        let mut answer = [0; 20];
        let length = socket.recv(&mut answer).unwrap();
        assert_eq!(&answer[..length], b"datagrams");
    };
    until("it is there", || path.exists().then_some(()));
    look();
    signal(system.pid("a"), "KILL");
    look();
    // A port that the manifest no longer has is closed; the others stay as they are.
    system.write("manifests/a.yaml", &python("a", code, &listening(four)));
    until("the file of the socket goes", || (!path.exists()).then_some(()));
    until("six is refused", || TcpStream::connect(("::1", six)).is_err().then_some(()));
    assert_eq!(ask(four).unwrap(), "http");
}

#[test]
fn auto_ports_are_each_instances_own_and_probed_so() {
    // The second is sick while the file is there. Both answer on the shared port and on their own one.
    let code = "import os, selectors, socket
from pathlib import Path
second = os.environ['UNISYS_INSTANCE'].split('/')[1].split('.')[1] == '1'
all = selectors.DefaultSelector()
for fd in (3, 4): all.register(socket.socket(fileno=fd), 1)
for fd, name in (3, 'PORT'), (4, 'PORT_PROBE'): assert socket.socket(fileno=os.dup(fd)).getsockname()[1] == int(os.environ[name])
own = socket.create_server(('127.0.0.1', int(os.environ['PORT_OWN'])))
all.register(own, 1)
while True:
  for key, _ in all.select():
    c, _ = key.fileobj.accept(); c.recv(1000)
    code = 503 if second and Path('../sick').exists() else 200
    c.sendall(b'HTTP/1.0 %d X\\r\\n\\r\\n%d' % (code, os.getpid())); c.close()
";
    let shared = free_port();
    let rest = format!(
        "  replicas: 2
  ports:
    - {{name: http, port: {shared}, listen: true}}
    - {{name: probe, port: auto, listen: true}}
    - {{name: own, port: auto}}
  probes: {{readiness: {{http: {{path: /, port: probe}}, period: 50ms, failureThreshold: 1}}}}
"
    );
    let system = System::up(&[("a.yaml", &python("a", code, &rest))]);
    system.ready(&["a"]);
    let instances = || match system.json(&["get", "service", "a"])["status"]["instances"].take() {
        Value::Array(instances) => instances,
        other => panic!("{other}"),
    };
    let mut seen = std::collections::BTreeSet::new();
    for instance in instances() {
        let pid = instance["pid"].as_u64().unwrap().to_string();
        for name in ["probe", "own"] {
            let port = instance["ports"][name].as_u64().unwrap() as u16;
            assert!(seen.insert(port));
            assert_eq!(until("its own port answers", || ask(port).ok()), pid);
        }
    }
    std::fs::write(system.path("sick"), "").unwrap();
    until("only the second is not ready", || {
        let ready: Vec<bool> = instances().iter().map(|instance| instance["ready"] == true).collect();
        (ready == [true, false]).then_some(())
    });
    // A daemon that was not there when they started knows their numbers.
    let before: Vec<Value> = instances().iter().map(|instance| instance["ports"].clone()).collect();
    let daemon = until("a daemon", || system.daemon_pid());
    signal(daemon, "KILL");
    until("another daemon", || system.daemon_pid().filter(|pid| *pid != daemon));
    std::fs::remove_file(system.path("sick")).unwrap();
    system.ready(&["a"]);
    let after: Vec<Value> = instances().iter().map(|instance| instance["ports"].clone()).collect();
    assert_eq!(before, after);
}

#[test]
fn a_descriptor_that_a_program_gives_to_keep_comes_back() {
    let code = "import os, signal, socket
names = os.environ.get('LISTEN_FDNAMES', '').split(':')
def tell(text, fds=()):
  s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.connect(os.environ['NOTIFY_SOCKET'])
  socket.send_fds(s, [text], fds)
if 'state' in names:
  os.lseek(3 + names.index('state'), 0, 0)
  tell(b'READY=1\\nSTATUS=' + os.read(3 + names.index('state'), 100))
else:
  fd = os.memfd_create('state'); os.write(fd, b'remembered')
  tell(b'FDSTORE=1\\nFDNAME=state', [fd]); tell(b'READY=1\\nSTATUS=new')
signal.pause()
";
    let system = System::up(&[("a.yaml", &python("a", code, "  probes: {readiness: {notify: systemd}}\n"))]);
    until("it is new", || (system.instance("a")["statusText"] == "new").then_some(()));
    let daemon = until("a daemon", || system.daemon_pid());
    system.ok(&["upgrade"]);
    until("another daemon", || system.daemon_pid().filter(|pid| *pid != daemon));
    signal(system.pid("a"), "KILL");
    until("it has its state", || (system.instance("a")["statusText"] == "remembered").then_some(()));
}

#[test]
fn a_port_that_is_taken_is_said_with_its_holder_and_had_once_it_is_free() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port();
    let system = System::up(&[("a.yaml", &python("a", PYTHON, &listening(port)))]);
    let named = format!("held by pid {}", std::process::id());
    until("the holder is named", || {
        let object = system.json(&["get", "service", "a"]);
        object["status"]["conditions"].to_string().contains(&named).then_some(())
    });
    drop(holder);
    until("it is answered", || ask(port).ok());
    // Taken between the look at the machine and the start: the keeper cannot bind it.
    system.ok(&["stop", "a"]);
    let holder = until("the port is free", || TcpListener::bind(("127.0.0.1", port)).ok());
    let _ = system.run(&["start", "a"]);
    until("why names the holder", || system.ok(&["why", "a"]).contains(&named).then_some(()));
    drop(holder);
    until("it is answered again", || ask(port).ok());
}

#[test]
fn a_program_that_binds_by_itself_what_it_is_handed_is_told() {
    let port = free_port();
    let code = format!("import socket\nsocket.create_server(('127.0.0.1', {port}))");
    let system = System::up(&[("a.yaml", &python("a", &code, &listening(port)))]);
    until("it is said", || system.ok(&["events"]).contains("ListenIgnored").then_some(()));
    assert!(system.ok(&["events"]).contains("LISTEN_FDS"));
}

#[test]
fn a_program_that_never_accepts_from_what_it_is_handed_is_told_and_runs_on() {
    let port = free_port();
    let system = System::up(&[("a.yaml", &service(&["sleep", "1000"], &listening(port)))]);
    let pid = system.pid("a");
    let _waits = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    until("it is said", || system.ok(&["events"]).contains("wait and are not accepted").then_some(()));
    assert!(system.ok(&["events"]).contains("hint: let it serve the sockets it is handed"));
    assert_eq!(system.pid("a"), pid);
}

#[test]
fn backlog_and_reuse_port_are_as_asked() {
    let port = free_port();
    let with = |options: &str| {
        python("a", PYTHON, &format!("  ports: [{{name: http, port: {port}, listen: true, {options}}}]\n"))
    };
    let system = System::up(&[("a.yaml", &with("backlog: 7, reusePort: true"))]);
    let pid: u32 = first_answer(port).parse().unwrap();
    let backlog = || {
        let found = unisys::os::listeners::Diag::open().unwrap().tcp_listeners().unwrap();
        found.iter().find(|listener| listener.port == port).unwrap().backlog
    };
    assert_eq!(backlog(), 7);
    let bind = format!(
        "import socket; s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1); s.bind(('127.0.0.1', {port}))"
    );
    assert!(std::process::Command::new("python3").args(["-c", &bind]).status().unwrap().success());
    // Another backlog is the same socket: connections that wait there stay.
    system.write("manifests/a.yaml", &with("backlog: 9, reusePort: true"));
    pid_other_than(&system, pid);
    assert_eq!(backlog(), 9);
}

#[test]
fn ports_that_cannot_be_are_refused_with_a_hint() {
    let long = "x".repeat(120);
    let cases = [
        (
            "ports: [{name: p, port: 81, listen: true}], probes: {readiness: {http: {path: /, port: p}}}",
            "E1605",
        ),
        ("ports: [{name: p, port: 81, listen: true}], probes: {readiness: {tcp: {port: 81}}}", "E1605"),
        ("ports: [{name: p, port: auto, listen: true}], probes: {readiness: {tcp: {port: p}}}", "E1608"),
        (
            "ports: [{name: p, port: 81, listen: true}, {name: q, port: 81, address: \"*\", listen: true}]",
            "E1501",
        ),
        ("ports: [{name: p, port: 81, listen: true}, {name: p, port: 82, listen: true}]", "E1301"),
        ("ports: [{name: p}]", "E1508"),
        ("ports: [{name: p, port: 81, backlog: 5}]", "E1508"),
        ("ports: [{name: p, port: 81, reusePort: true}]", "E1508"),
        ("ports: [{name: p, port: 5, protocol: unix, address: s}]", "E1508"),
        ("ports: [{name: p, protocol: unix, listen: true}]", "E1507"),
        ("ports: [{name: p, port: 81, address: example}]", "E1507"),
        ("ports: [{name: p, port: 81, listen: true}], probes: {readiness: {notify: \"fd:3\"}}", "E1607"),
        ("replicas: 2, ports: [{name: p, port: 81}]", "E1502"),
        ("ports: [{name: p, port: 8181, address: 192.0.2.1, listen: true}]", "E2012"),
        (&format!("ports: [{{name: p, protocol: unix, address: {long}, listen: true}}]"), "E2010"),
        ("ports: [{name: p, protocol: unix, address: a.yaml, listen: true}]", "E2010"),
        ("ports: [{name: p, protocol: unix, address: nowhere/s, listen: true}]", "E2010"),
    ];
    for (spec, expected) in cases {
        let text = format!(
            "apiVersion: unisys.dev/v1\nkind: Service\nmetadata: {{name: a}}\nspec: {{command: [sleep, \"1\"], {spec}}}\n"
        );
        let system = System::new(&[("a.yaml", &text)]);
        let (code, words) = system.fails(&["validate", "manifests", "--machine"]);
        assert_eq!(code, 1, "{spec}: {words}");
        assert!(words.contains(expected) && words.contains("hint"), "{spec} should say {expected}: {words}");
    }
    let fine = "ports: [{name: p, port: 8181}], replicas: 2, update: {overlap: true}";
    let text = format!(
        "apiVersion: unisys.dev/v1\nkind: Service\nmetadata: {{name: a}}\nspec: {{command: [sleep, \"1\"], {fine}}}\n"
    );
    assert_eq!(System::new(&[("a.yaml", &text)]).run(&["validate", "manifests"]).status.code(), Some(0));
}

#[test]
fn a_socket_is_one_by_whatever_links_it_is_reached() {
    let listens = |name: &str, path: &str| {
        let port = format!("{{name: p, protocol: unix, address: {path}, listen: true}}");
        sleeper(name, &format!("  ports: [{port}]\n"))
    };
    let system = System::new(&[("a.yaml", &listens("a", "run/s")), ("b.yaml", &listens("b", "link/s"))]);
    std::fs::create_dir(system.path("manifests/run")).unwrap();
    std::os::unix::fs::symlink("run", system.path("manifests/link")).unwrap();
    let (code, words) = system.fails(&["validate", "manifests", "--machine"]);
    assert_eq!(code, 1, "{words}");
    assert!(words.contains("E2010") && words.contains("run/s of service/a, by a link"), "{words}");
    assert!(!words.contains("cannot start service/a"), "{words}");
    system.write("manifests/b.yaml", &listens("b", "link/t"));
    system.ok(&["validate", "manifests", "--machine"]);
}

#[test]
fn a_port_is_claimed_by_address() {
    // Free at every address, as far as one look can tell.
    let port = TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port();
    let server = |name: &str, address: &str| {
        let code = "import http.server,os; http.server.HTTPServer((os.environ['AT'], int(os.environ['NUMBER'])), http.server.BaseHTTPRequestHandler).serve_forever()";
        let rest = format!(
            "  env: {{AT: {address}, NUMBER: \"{port}\"}}\n  ports: [{{name: http, port: {port}, address: {address}}}]\n  \
               probes: {{readiness: {{exec: {{command: [python3, -c, \"import socket,os; socket.create_connection((os.environ['AT'], int(os.environ['NUMBER'])))\"]}}, period: 1s}}}}\n"
        );
        python(name, code, &rest)
    };
    let elsewhere = TcpListener::bind(("127.0.0.4", port)).unwrap();
    let system = System::up(&[("a.yaml", &server("a", "127.0.0.1")), ("b.yaml", &server("b", "127.0.0.2"))]);
    system.ready(&["a", "b"]);
    // Another address is no port that the old instance would have to let go of.
    system.write("manifests/b.yaml", &server("b", "127.0.0.3"));
    until("b moves", || std::net::TcpStream::connect(("127.0.0.3", port)).ok());
    system.ready(&["a", "b"]);
    let events = system.ok(&["events", "b"]);
    assert!(events.contains("rolling (new instance first)") && !events.contains("stop first"), "{events}");
    // Every address is also that of a.
    for address in ["0.0.0.0", "::", "*", "::ffff:127.0.0.1"] {
        system.write("all.yaml", &server("all", &format!("\"{address}\"")));
        let (code, words) = system.fails(&["plan", "-f", "all.yaml"]);
        assert!(code == 2 && words.contains("E1501"), "{address}: {code} {words}");
        assert!(words.contains("is claimed by service/a on 127.0.0.1"), "{address}: {words}");
    }
    // Who holds it elsewhere is named once it is in the way.
    system.write("c.yaml", &server("c", "127.0.0.4"));
    assert_eq!(system.fails(&["apply", "-f", "c.yaml"]).0, 1, "accepted, and not what was wished");
    let held = until("c cannot start", || {
        let c = system.json(&["get", "service", "c"]);
        (c["status"]["summary"] == "CannotStart").then(|| c.to_string())
    });
    assert!(held.contains(&format!("port {port} is held by pid {}", std::process::id())), "{held}");
    drop(elsewhere);
    until("c is started", || std::net::TcpStream::connect(("127.0.0.4", port)).ok());
}

#[test]
fn a_listener_of_another_address_takes_the_place_of_the_one_before() {
    let port = free_port();
    let of = |address: &str, command: &str| {
        format!(
            "apiVersion: unisys.dev/v1\nkind: Service\nmetadata: {{name: a}}\nspec:\n  command: [sleep, \"{command}\"]\n  restart: {{backoff: {{initial: 60s}}}}\n  ports: [{{name: h, port: {port}, address: \"{address}\", listen: true}}]\n"
        )
    };
    let system = System::up(&[("a.yaml", &of("0.0.0.0", "9001"))]);
    system.ready(&["a"]);
    for address in ["127.0.0.1", "0.0.0.0", "::ffff:127.0.0.1", "127.0.0.1"] {
        let before = system.pid("a");
        system.write("manifests/a.yaml", &of(address, "9001"));
        until(&format!("another process listens at {address}"), || {
            (system.instance("a")["pid"].as_u64()? != u64::from(before)).then_some(())
        });
    }
    assert!(!system.ok(&["events"]).contains("could not bind"));
    assert_eq!(system.instance("a")["restarts"], 0);
}

#[test]
fn a_listener_is_taken_over_from_an_instance_that_no_journal_knows() {
    let port = free_port();
    let mut system = System::up(&[("a.yaml", &python("a", PYTHON, &listening(port)))]);
    let before = first_answer(port);
    let daemon = until("a daemon", || system.daemon_pid());
    kill_both(system.keeper_pid(), daemon);
    system.ended();
    // As if they had been killed between its start and the writing of it.
    let path = system.path(".unified-system/run/journal");
    let journal = std::fs::read_to_string(&path).unwrap();
    let lines = journal.lines().filter(|line| !line.contains("\"id\":{\"unit\":\"a\""));
    let without: String = lines.map(|line| format!("{line}\n")).collect();
    assert!(without.contains("listening") && without != journal, "{journal}");
    std::fs::write(&path, without).unwrap();
    system.start(&[]);
    system.ok(&["restart", "a"]);
    pid_other_than(&system, before.parse().unwrap());
    until("the new one answers", || (ask(port).unwrap() != before).then_some(()));
    assert!(!system.terminal().contains("bound at its next start"), "{}", system.terminal());
}

#[test]
fn a_port_that_is_not_held_for_it_is_not_told_as_if_it_were() {
    let (own, taken) = (free_port(), TcpListener::bind("127.0.0.1:0").unwrap());
    let other = taken.local_addr().unwrap().port();
    let code = format!("require('http').createServer().listen({other}, '127.0.0.1')");
    let rest = format!("{}  restart: {{policy: Never}}\n", listening(own));
    let system = System::up(&[("a.yaml", &service(&["node", "-e", &code], &rest))]);
    let message =
        until("its error", || Some(system.json(&["errors", "ls", "a"])[0]["message"].as_str()?.to_owned()));
    let holder = format!("port {other} is held by pid {}", std::process::id());
    assert!(message.contains(&holder), "{message}");
    assert!(!system.ok(&["events"]).contains("what unisys holds for it"));
}

#[test]
fn a_socket_file_that_somebody_removes_is_missed_and_bound_again_by_a_restart() {
    let ports = "  ports: [{name: s, protocol: unix, address: s.sock, listen: true}]\n";
    let system = System::up(&[("a.yaml", &python("a", PYTHON, ports))]);
    system.ready(&["a"]);
    let path = system.path("manifests/s.sock");
    let ask = || UnixStream::connect(&path).map_err(|error| error.to_string()).and_then(talk);
    let first = ask().unwrap();
    std::fs::remove_file(&path).unwrap();
    until("it is said", || {
        system.ok(&["events", "a"]).contains("`unisys restart a` binds it anew").then_some(())
    });
    system.ok(&["restart", "a"]);
    assert_ne!(until("an answer", || ask().ok()), first);
}

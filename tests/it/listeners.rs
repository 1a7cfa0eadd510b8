//! Sockets that outlive processes, with real servers: nothing is refused while there is nobody to answer.

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::{System, free_port, kill_both, python, signal, until};

/// Answers each connection with its pid, and ends between two of them when it is asked to.
pub const PYTHON: &str = "import os, signal, socket
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

pub fn service(command: &[&str], rest: &str) -> String {
    let command = serde_json::to_string(command).unwrap();
    format!(
        "apiVersion: unisys.dev/v1\nkind: Service\nmetadata: {{name: a}}\nspec:\n  command: {command}\n{rest}"
    )
}

pub fn listening(port: u16) -> String {
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
pub fn ask(port: u16) -> Result<String, String> {
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

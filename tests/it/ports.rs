//! Whose a port is: numbers of its own, claims, and what is in the way.

use std::net::TcpListener;

use serde_json::Value;

use crate::listeners::{PYTHON, ask, listening, service};
use crate::support::{System, free_port, python, signal, sleeper, text, until};

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
fn a_start_onto_a_port_that_somebody_else_holds_is_not_made() {
    let port = free_port();
    let serves =
        format!("import socket,time\ns=socket.create_server(('127.0.0.1',{port}))\ntime.sleep(1000)");
    let rest = format!(
        "  ports: [{{name: h, port: {port}, address: 127.0.0.1}}]\n  restart: {{backoff: {{initial: 1s}}}}\n  \
         probes: {{readiness: {{tcp: {{port: h}}, period: 100ms}}}}\n"
    );
    let app = sleeper("app", "  dependsOn: [db]\n");
    let system = System::up(&[("db.yaml", &python("db", &serves, &rest)), ("app.yaml", &app)]);
    system.ready(&["db", "app"]);
    let pid = std::process::id();
    let listen = || std::net::TcpListener::bind(("127.0.0.1", port)).ok();
    let word = || system.json(&["get", "service", "db"])["status"]["summary"].clone();
    // By a person's word …
    system.ok(&["stop", "app", "db"]);
    let foreign = listen().unwrap();
    let (code, words) = system.fails(&["start", "db"]);
    assert!(code == 1 && words.contains(&format!("port {port} is held by pid {pid}")), "{code} {words}");
    assert!(words.contains("E2005"), "{words}");
    assert_eq!(word(), "CannotStart");
    assert!(system.ok(&["why", "db"]).contains(&format!("held by pid {pid}")));
    system.run(&["start", "app"]);
    assert!(system.instance("app")["pid"].is_null(), "nobody starts against somebody else's port");
    drop(foreign);
    system.ready(&["db", "app"]);
    // … and after a crash.
    signal(system.pid("db"), "KILL");
    let foreign = until("the port is ours", listen);
    until("it is not started", || (word() == "CannotStart").then_some(()));
    // It does not wait for manifests that are not well.
    system.write("manifests/bad.yaml", "{");
    until("they are refused", || system.ok(&["events"]).contains("ManifestInvalid").then_some(()));
    drop(foreign);
    system.ready(&["db"]);
}

#[test]
fn a_port_of_another_system_is_named_with_its_unit() {
    const LONG: &str = "  restart: {backoff: {initial: 1h, max: 1h}}\n";
    let (own, held) = (free_port(), free_port());
    let serves = format!("import socket,time\ns=socket.create_server(('127.0.0.1',{own}))\ntime.sleep(1000)");
    let ports =
        |port: u16, rest: &str| format!("  ports: [{{name: h, port: {port}, address: 127.0.0.1{rest}}}]\n");
    let manifests = [
        ("web.yaml", python("web", &serves, &ports(own, ""))),
        ("api.yaml", sleeper("api", &ports(held, ", listen: true")) + LONG),
    ];
    let manifests: Vec<(&str, &str)> = manifests.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let first = System::up(&manifests);
    first.ready(&["web", "api"]);
    until("web listens", || std::net::TcpStream::connect(("127.0.0.1", own)).ok());
    let mut second = System::new(&manifests);
    second.start(&[]);
    let dir = std::fs::canonicalize(first.path(".unified-system")).unwrap();
    for unit in ["web", "api"] {
        let told = until("it cannot start", || {
            let object = second.json(&["get", "service", unit]);
            (object["status"]["summary"] == "CannotStart").then(|| object.to_string())
        });
        let incarnation = first.instance(unit)["incarnation"].clone();
        let id = format!("{unit}.0.{incarnation} of the system in {}", dir.display());
        assert!(told.contains(&id), "{id} is not in {told}");
    }
    let words = text(&second.run(&["validate", "--machine", "manifests"]).stderr);
    assert!(
        words.contains("of the system in") && words.contains("unisys --state-dir DIR stop NAME"),
        "{words}"
    );
    // A listener is the keeper's, which holds it while its program waits for its next start.
    signal(first.pid("api"), "KILL");
    until("the keeper is named", || {
        let found = second.run(&["validate", "--machine", "manifests"]);
        text(&[found.stdout, found.stderr].concat()).contains("the keeper of the system in").then_some(())
    });
}

//! What goes wrong is recorded, dumped and told, with real programs that crash and real listeners that misbehave.

use serde_json::Value;

use crate::support::{System, free_port, python, signal, sleeper, text, until};

/// The latest error record of a unit that satisfies a condition.
pub fn error(system: &System, unit: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    until(what, || {
        let found = system.json(&["errors", "ls", unit]);
        found.as_array()?.iter().find(|record| wanted(record)).cloned()
    })
}

fn crash(system: &System, service: &str) -> Value {
    until("a crash dump", || system.json(&["crashes", "ls", service]).as_array()?.last().cloned())
}

fn node(name: &str, code: &str, rest: &str) -> String {
    python(name, code, rest).replace("[python3, -u, -c,", "[node, -e,")
}

/// Once is enough.
pub const NEVER: &str = "  restart: {policy: Never}\n";

#[test]
fn a_crash_is_classified_by_its_last_words_counted_and_dumped() {
    let refused = "import socket,sys\nprint('hello')\nprint('warming up',file=sys.stderr)\nsocket.create_connection(('127.0.0.1',1))";
    let system = System::up(&[
        ("a.yaml", &python("a", refused, "  restart: {backoff: {initial: 50ms}}\n")),
        ("m.yaml", &python("m", "import no_such_module", NEVER)),
        ("s.yaml", &python("s", "import os\nos.kill(os.getpid(),11)", NEVER)),
    ]);
    let record = error(&system, "a", "a's error, counted", |record| record["count"].as_u64() >= Some(2));
    assert_eq!((&record["category"], &record["severity"]), (&"network".into(), &"recoverable".into()));
    assert!(record["message"].as_str().unwrap().contains("ConnectionRefusedError: [Errno 111]"), "{record}");
    assert_eq!(record["unit"], "service/a");
    let cause = record["cause"].as_u64().unwrap();
    let events = system.ok(&["events", "a", "-o", "json"]);
    assert!(events.contains(&format!("\"id\":{cause}")), "the cause is an event");
    let record = error(&system, "m", "m's error", |_| true);
    assert_eq!((&record["category"], &record["severity"]), (&"config".into(), &"fatal".into()));
    assert_eq!(error(&system, "s", "s's error", |_| true)["category"], "crash");
    let first = crash(&system, "a");
    assert_eq!((&first["exit"]["code"], &first["exit"]["reason"]), (&1.into(), &"ExitCode".into()));
    let id = first["id"].as_str().unwrap();
    let shown = system.json(&["crashes", "show", id]);
    assert_eq!(shown["stdout"], serde_json::json!(["hello"]));
    let stderr = shown["stderr"].to_string();
    assert!(stderr.contains("warming up") && stderr.contains("Traceback"), "{stderr}");
    let detail = &shown["detail"];
    assert_eq!(
        (&detail["revision"], &detail["generation"], &detail["category"]),
        (&1.into(), &1.into(), &"network".into())
    );
    assert!(detail["uptimeMs"].as_u64().is_some() && detail["limits"]["openFiles"].as_u64().is_some());
    assert_eq!(crash(&system, "s")["exit"]["signal"], 11);
    // To somebody else: an archive that tar reads, or a directory.
    let printed = system.ok(&["crashes", "export", id, "x.tar"]);
    assert_eq!(printed.trim(), "x.tar");
    let listed = std::process::Command::new("tar")
        .args(["tf", "x.tar"])
        .current_dir(system.dir.path())
        .output()
        .unwrap();
    assert_eq!(text(&listed.stdout), format!("{id}/crash.json\n{id}/stderr.log\n{id}/stdout.log\n"));
    system.ok(&["crashes", "export", id, "."]);
    assert!(system.path(id).join("stderr.log").exists());
    assert_eq!(system.fails(&["crashes", "show", "nonsense"]).0, 4);
    // For machines.
    let context = error(&system, "m", "m's error once more", |_| true)["context"].clone();
    assert_eq!((&context["reason"], &context["exitCode"]), (&"ExitCode".into(), &"1".into()), "{context}");
    assert!(context["ranFor"].is_string() && context["restarts"].is_string(), "{context}");
    // Figures, and memory across the daemon's death.
    let metrics = system.ok(&["metrics"]);
    assert!(
        metrics.contains(r#"unisys_errors_total{category="config",severity="fatal",unit="service/m"} 1"#),
        "{metrics}"
    );
    assert!(system.json(&["errors", "stats"])["byCategory"]["network"].as_u64() >= Some(2));
    let daemon = system.daemon_pid().unwrap();
    signal(daemon, "KILL");
    until("another daemon", || system.daemon_pid().filter(|pid| *pid != daemon));
    assert_eq!(error(&system, "m", "m's error again", |_| true)["count"], 1);
    let table = system.ok(&["errors"]);
    assert!(table.lines().next().unwrap().starts_with("ID") && table.contains("service/m"), "{table}");
}

#[test]
fn a_port_that_is_taken_is_named_with_its_holder() {
    // A process of its own: children of ours have what we listen on until they execute.
    let hold = "import socket,sys\ns=socket.create_server(('127.0.0.1',0)); print(s.getsockname()[1], flush=True); sys.stdin.read()";
    let mut held = std::process::Command::new("python3");
    let held =
        held.args(["-c", hold]).stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut held = held.spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(held.stdout.take().unwrap()), &mut line)
        .unwrap();
    let port: u16 = line.trim().parse().unwrap();
    let code = format!("require('http').createServer().listen({port},'127.0.0.1')");
    let bind = "import os,socket\nsocket.create_server(('127.0.0.1',int(os.environ['PORT'])))";
    let rest = format!("{NEVER}  env: {{PORT: \"{port}\"}}\n");
    let system = System::up(&[("n.yaml", &node("n", &code, NEVER)), ("p.yaml", &python("p", bind, &rest))]);
    let record = error(&system, "n", "n's error", |_| true);
    assert_eq!(record["category"], "resource");
    let message = record["message"].as_str().unwrap();
    let holder = format!("port {port} is held by pid {}", held.id());
    assert!(message.contains("EADDRINUSE") && message.contains(&holder), "{message}");
    let record = error(&system, "p", "p's error", |_| true);
    assert_eq!(record["category"], "resource");
    // It says only that an address is in use.
    let message = record["message"].as_str().unwrap();
    assert!(message.contains("already in use") && message.contains(&holder), "{message}");
    drop(held.stdin.take());
    held.wait().unwrap();
}

#[test]
fn a_port_that_another_service_holds_is_named_with_it() {
    let bind = "import os,socket,time\ns=socket.create_server(('127.0.0.1',int(os.environ['PORT'])))\ntime.sleep(9999)";
    let port = free_port();
    let env = format!("  env: {{PORT: \"{port}\"}}\n");
    let system = System::up(&[("a.yaml", &python("a", bind, &env))]);
    until("a holds its port", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
    system.write("manifests/b.yaml", &python("b", bind, &format!("{NEVER}{env}")));
    until("b is known", || system.run(&["get", "b"]).status.success().then_some(()));
    let record = error(&system, "b", "b's error", |_| true);
    let message = record["message"].as_str().unwrap();
    let holder = format!("port {port} is held by pid {} (python3, a", system.pid("a"));
    assert!(message.contains(&holder) && message.contains("of this system"), "{message}");
}

#[test]
fn secrets_are_in_no_record_and_no_dump() {
    let secret = "apiVersion: unisys.dev/v1\nkind: Secret\nmetadata: {name: db}\nspec: {data: {token: hunter2hunter2, key: \"line one of it\\nline two of it\"}}\n";
    let code = "import os,sys\nprint(os.environ['TOKEN'])\nprint(os.environ['KEY'],file=sys.stderr)\nraise RuntimeError('bad token '+os.environ['TOKEN'])";
    let rest = format!(
        "{NEVER}  env: {{TOKEN: {{secret: db, key: token}}, KEY: {{secret: db, key: key}}, PLAIN: visible}}\n"
    );
    let system = System::up(&[("s.yaml", secret), ("a.yaml", &python("a", code, &rest))]);
    let record = error(&system, "a", "a's error", |_| true);
    assert!(record["message"].as_str().unwrap().contains("bad token ***"), "{record}");
    let id = crash(&system, "a")["id"].as_str().unwrap().to_owned();
    let dump = system.path(".unified-system/crash-dumps").join(&id);
    let mut all = String::new();
    for file in ["crash.json", "stdout.log", "stderr.log"] {
        all.push_str(&std::fs::read_to_string(dump.join(file)).unwrap());
    }
    for hidden in ["hunter2", "line one", "line two"] {
        assert!(!all.contains(hidden), "{hidden} in {all}");
        assert!(!system.ok(&["errors", "-o", "json"]).contains(hidden));
    }
    assert!(all.contains("\"PLAIN\": \"visible\"") && all.contains("\"TOKEN\": \"***\""));
}

#[test]
fn the_change_since_it_was_last_ready_is_in_the_dump() {
    let system = System::up(&[("a.yaml", &sleeper("a", "  env: {URL: good}\n"))]);
    system.ready(&["a"]);
    let broken = python("a", "raise SystemExit(3)", "  env: {URL: bad}\n");
    system.write("manifests/a.yaml", &broken);
    let id = crash(&system, "a")["id"].as_str().unwrap().to_owned();
    let fields = system.json(&["crashes", "show", &id])["detail"]["changedSinceReady"].to_string();
    assert!(fields.contains(r#""path":"spec.env.URL","old":"good","new":"bad""#), "{fields}");
}

/// It grows with each connection, which is with each probe, and ends at the seventh.
const GROWS: &str = "import os,socket
server,held=socket.create_server(('127.0.0.1',int(os.environ['PORT']))),[]
for _ in range(7):
  server.accept()
  held.append((bytearray(os.urandom(8<<20)),open('/dev/null')))
raise MemoryError('full')";

#[test]
fn a_dump_shows_what_the_program_used_on_its_way_to_the_crash() {
    let probed = format!(
        "{NEVER}  ports: [{{name: main, port: auto}}]\n  probes: {{readiness: {{tcp: {{port: main}}, period: 1s}}}}\n"
    );
    let system = System::up(&[
        ("grows.yaml", &python("grows", GROWS, &probed)),
        ("plain.yaml", &python("plain", "raise SystemExit(3)", NEVER)),
    ]);
    let id = crash(&system, "grows")["id"].as_str().unwrap().to_owned();
    let resources = &system.json(&["crashes", "show", &id])["detail"]["resources"];
    // The first may have found what became python only then.
    let curve = |name: &str| -> Vec<u64> {
        let samples = resources["samples"].as_array().unwrap();
        samples.iter().skip(1).map(|sample| sample[name].as_u64().unwrap()).collect()
    };
    let memory = curve("memoryBytes");
    assert!(memory.len() >= 3 && memory.is_sorted(), "{resources}");
    assert!(memory[memory.len() - 1] >= memory[0] + (16 << 20), "{memory:?}");
    let open = curve("openFiles");
    assert!(open.is_sorted() && open[open.len() - 1] >= open[0] + 2, "{open:?}");
    assert!(curve("threads").iter().chain(&curve("processes")).all(|count| *count == 1), "{resources}");
    assert!(curve("cpuMs").is_sorted());
    // Of all of its life, as the kernel knows it.
    let peak = resources["spent"]["peakMemoryBytes"].as_u64().unwrap();
    assert!(peak >= 56 << 20 && peak >= memory[memory.len() - 1], "{resources}");
    assert!(resources["spent"]["userCpuMs"].as_u64().is_some());
    let shown = system.ok(&["crashes", "show", &id]);
    let rows = [
        "resources, ",
        "  memory ",
        "  processor ",
        "  threads ",
        "  open files ",
        "  its main program in all: ",
    ];
    assert!(rows.iter().all(|row| shown.contains(row)), "{shown}");
    // Nothing wakes for one without a probe: it has only what the kernel tells of its end.
    let id = crash(&system, "plain")["id"].as_str().unwrap().to_owned();
    let plain = &system.json(&["crashes", "show", &id])["detail"]["resources"];
    assert_eq!(plain["samples"], serde_json::json!([]));
    assert!(plain["note"].as_str().unwrap().contains("nothing wakes"), "{plain}");
    assert!(plain["spent"]["systemCpuMs"].as_u64().is_some(), "{plain}");
}

#[test]
fn heartbeats_and_looks_of_the_watchdog_are_moments_to_read_what_a_program_uses() {
    let beats = "import os,socket,time
s=socket.socket(socket.AF_UNIX,socket.SOCK_DGRAM)
for said in ['READY=1','WATCHDOG=1','STATUS=has beaten']: s.sendto(said.encode(),os.environ['NOTIFY_SOCKET'])
time.sleep(1000)";
    let told =
        format!("{NEVER}  probes: {{readiness: {{notify: systemd}}}}\n  watchdog: {{heartbeat: 10m}}\n");
    let looked_at = format!("{NEVER}  watchdog: {{freeze: {{soft: 600ms}}}}\n");
    let system = System::up(&[
        ("beats.yaml", &python("beats", beats, &told)),
        ("looked.yaml", &python("looked", "import time\ntime.sleep(2)\nraise SystemExit(3)", &looked_at)),
    ]);
    until("what it said after its heartbeat is known", || {
        (system.instance("beats")["statusText"] == "has beaten").then_some(())
    });
    signal(system.pid("beats"), "KILL");
    for service in ["beats", "looked"] {
        let id = crash(&system, service)["id"].as_str().unwrap().to_owned();
        let resources = &system.json(&["crashes", "show", &id])["detail"]["resources"];
        let last = resources["samples"].as_array().unwrap().last().unwrap_or_else(|| panic!("{resources}"));
        assert!(
            last["memoryBytes"].as_u64() > Some(1 << 20) && last["openFiles"].as_u64() > Some(2),
            "{last}"
        );
    }
}

#[test]
fn a_dump_that_cannot_be_written_is_said_once_and_harms_nothing() {
    let rest = "  restart: {backoff: {initial: 20ms}}\n  circuitBreaker: {failures: 4}\n";
    let system = System::up(&[("a.yaml", &python("a", "raise SystemExit(3)", rest))]);
    crash(&system, "a");
    let dumps = system.path(".unified-system/crash-dumps");
    std::fs::remove_dir_all(&dumps).unwrap();
    // Root may write anywhere: a file in place of the directory stops root as well.
    std::fs::write(&dumps, "in the way").unwrap();
    system.ok(&["circuit", "reset", "a"]);
    until("it is said", || system.ok(&["events"]).contains("CrashDumpFailed").then_some(()));
    error(&system, "a", "it is counted all the same", |record| record["count"].as_u64() >= Some(3));
    let events = system.ok(&["events"]);
    assert_eq!(events.matches("CrashDumpFailed").count(), 1, "{events}");
}

#[test]
fn a_systems_own_patterns_say_what_an_error_is() {
    let settings = "apiVersion: unisys.dev/v1\nkind: System\nmetadata: {name: system}\nspec: {errors: {patterns: [{pattern: 'quota of \\d+', category: api, severity: fatal}]}}\n";
    let code = "import sys\nsys.exit('quota of 12 exceeded')";
    let system = System::up(&[("s.yaml", settings), ("a.yaml", &python("a", code, ""))]);
    let record = error(&system, "a", "a's error", |_| true);
    assert_eq!((&record["category"], &record["severity"]), (&"api".into(), &"fatal".into()));
}

#[test]
fn an_error_of_the_configuration_is_tried_once_more_and_then_waits_for_a_change() {
    let code = "import os\nos.environ['DB_URL']\nimport time\ntime.sleep(9999)";
    let rest = "  restart: {backoff: {initial: 1s}}\n";
    let system = System::up(&[
        ("a.yaml", &python("a", code, rest)),
        ("b.yaml", &python("b", "import os\nos._exit(78)", rest)),
    ]);
    let given_up = |name: &str, restarts: u64| {
        let said = until("it is given up", || {
            Some(system.ok(&["events", name])).filter(|said| said.contains("is not started again"))
        });
        assert_eq!(system.instance(name)["restarts"], restarts, "{said}");
        said
    };
    let said = given_up("a", 1);
    assert!(said.contains("for its configuration, as the time before"), "{said}");
    given_up("b", 0);
    let with = python("a", code, &format!("  env: {{DB_URL: there}}\n{rest}"));
    system.write("manifests/a.yaml", &with);
    until("it runs once that is mended", || (system.instance("a")["ready"] == true).then_some(()));
}

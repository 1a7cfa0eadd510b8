//! Real output of real programs, and what is made of it.

use super::*;
use Category::*;

fn lines(text: &str) -> Vec<String> {
    text.trim_matches('\n').lines().map(str::to_owned).collect()
}

fn of(reason: EndReason, exit: Option<Exit>, stderr: &str) -> Classified {
    let stderr = lines(stderr);
    let evidence = Evidence {
        unit: "service/a",
        reason: &reason,
        exit,
        words: "ended: exit code 1",
        permanent: false,
        success: false,
        probe: "",
        stderr: &stderr,
        dependency_down: None,
    };
    classify(&evidence, &Patterns::default())
}

fn exited(stderr: &str) -> Classified {
    of(EndReason::Exited, Some(Exit::Code(1)), stderr)
}

/// What was written, what it was, and what its message ends with.
const WRITTEN: &[(Category, &str, &str)] = &[
    (
        Network,
        "ConnectionRefusedError: [Errno 111] Connection refused",
        r#"
starting
Traceback (most recent call last):
  File "/app/main.py", line 4, in <module>
    socket.create_connection(("127.0.0.1", 1))
  File "/usr/lib/python3.12/socket.py", line 852, in create_connection
    raise exceptions[0]
ConnectionRefusedError: [Errno 111] Connection refused
"#,
    ),
    (
        Database,
        "psycopg2.OperationalError: connection to server at \"localhost\" (127.0.0.1), port 5432 failed: Connection refused",
        r#"
Traceback (most recent call last):
  File "/app/db.py", line 9, in connect
    return psycopg2.connect(url)
psycopg2.OperationalError: connection to server at "localhost" (127.0.0.1), port 5432 failed: Connection refused
	Is the server running on that host and accepting TCP/IP connections?
"#,
    ),
    (
        // The last exception says nothing; the chain's first one does.
        Timeout,
        "RuntimeError: cannot load prices",
        r#"
Traceback (most recent call last):
  File "/app/main.py", line 2, in load
    read()
TimeoutError: The read operation timed out

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "/app/main.py", line 6, in <module>
    load()
RuntimeError: cannot load prices
"#,
    ),
    (
        Crash,
        "ZeroDivisionError: division by zero",
        r#"
ConnectionRefusedError once, long ago, and survived
Traceback (most recent call last):
  File "<string>", line 1, in <module>
ZeroDivisionError: division by zero
"#,
    ),
    (
        Config,
        "ModuleNotFoundError: No module named 'app'",
        "Traceback (most recent call last):\n  File \"<frozen runpy>\", line 189, in _run\nModuleNotFoundError: No module named 'app'",
    ),
    (
        Config,
        "KeyError: 'DB_URL'",
        "Traceback (most recent call last):\n  File \"<frozen os>\", line 714, in __getitem__\nKeyError: 'DB_URL'",
    ),
    (
        Oom,
        "MemoryError",
        "Traceback (most recent call last):\n  File \"<string>\", line 1, in <module>\nMemoryError",
    ),
    (
        Permission,
        "PermissionError: [Errno 13] Permission denied: '/etc/shadow'",
        "Traceback (most recent call last):\n  File \"<string>\", line 1, in <module>\nPermissionError: [Errno 13] Permission denied: '/etc/shadow'",
    ),
    (
        Filesystem,
        "OSError: [Errno 28] No space left on device",
        "Traceback (most recent call last):\n  File \"a.py\", line 1, in <module>\nOSError: [Errno 28] No space left on device",
    ),
    (
        Resource,
        "OSError: [Errno 24] Too many open files: '/dev/null'",
        "Traceback (most recent call last):\n  File \"a.py\", line 1, in <module>\nOSError: [Errno 24] Too many open files: '/dev/null'",
    ),
    (
        Network,
        "socket.gaierror: [Errno -2] Name or service not known",
        "Traceback (most recent call last):\n  File \"a.py\", line 1, in <module>\nsocket.gaierror: [Errno -2] Name or service not known",
    ),
    (
        Resource,
        "Error: listen EADDRINUSE: address already in use :::8000",
        r#"
node:events:497
      throw er; // Unhandled 'error' event
      ^

Error: listen EADDRINUSE: address already in use :::8000
    at Server.setupListenHandle [as _listen2] (node:net:1907:16)
    at listenInCluster (node:net:1964:12)
Emitted 'error' event on Server instance at:
    at emitErrorNT (node:net:1943:8)
    at process.processTicksAndRejections (node:internal/process/task_queues:90:21) {
  code: 'EADDRINUSE',
  errno: -98,
  syscall: 'listen',
  address: '::',
  port: 8000
}

Node.js v22.11.0
"#,
    ),
    (
        Crash,
        "TypeError: Cannot read properties of undefined (reading 'id')",
        r#"
/app/index.js:3
  return user.id;
              ^

TypeError: Cannot read properties of undefined (reading 'id')
    at handler (/app/index.js:3:15)
    at Object.<anonymous> (/app/index.js:6:1)

Node.js v22.11.0
"#,
    ),
    (
        Config,
        "Error: Cannot find module './missing'",
        "node:internal/modules/cjs/loader:1228\n  throw err;\n  ^\n\nError: Cannot find module './missing'\nRequire stack:\n- /app/x.js\n    at Module._resolveFilename (node:internal/modules/cjs/loader:1225:15) {\n  code: 'MODULE_NOT_FOUND',\n  requireStack: [ '/app/x.js' ]\n}\n\nNode.js v22.11.0",
    ),
    (
        Oom,
        "FATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory",
        "\n<--- Last few GCs --->\n\n[7:0x1] Mark-Compact 47.4 (50.1) -> 46.3\nFATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory\n----- Native stack trace -----\n\n 1: 0xe16044 node::OOMErrorHandler(char const*, v8::OOMDetails const&) [node]",
    ),
    (
        Network,
        "java.lang.IllegalStateException: cannot start; caused by java.net.ConnectException: Connection refused",
        "Exception in thread \"main\" java.lang.IllegalStateException: cannot start\n\tat Main.main(Main.java:9)\nCaused by: java.net.ConnectException: Connection refused\n\tat java.base/sun.nio.ch.Net.pollConnect(Native Method)\n\t... 1 more",
    ),
    (
        Oom,
        "java.lang.OutOfMemoryError: Java heap space",
        "Exception in thread \"main\" java.lang.OutOfMemoryError: Java heap space\n\tat Main.main(Main.java:5)",
    ),
    (
        Config,
        "Error: Could not find or load main class App",
        "Error: Could not find or load main class App\nCaused by: java.lang.ClassNotFoundException: App",
    ),
    (
        Crash,
        "panic: runtime error: index out of range [5] with length 3",
        "panic: runtime error: index out of range [5] with length 3\n\ngoroutine 1 [running]:\nmain.main()\n\t/app/main.go:5 +0x1d\nexit status 2",
    ),
    (
        Oom,
        "fatal error: runtime: out of memory",
        "fatal error: runtime: out of memory\n\nruntime stack:\nruntime.throw({0x49d1f5?, 0x400000?})",
    ),
    (
        Resource,
        "listen tcp :8080: bind: address already in use",
        "2026/01/01 10:00:00 listen tcp :8080: bind: address already in use",
    ),
    (
        Network,
        "dial tcp: lookup db on 127.0.0.53:53: no such host",
        "2026/01/01 10:00:00 dial tcp: lookup db on 127.0.0.53:53: no such host",
    ),
    (Timeout, "context deadline exceeded", "2026/01/01 10:00:00 rpc: context deadline exceeded"),
    (
        Filesystem,
        "called `Result::unwrap()` on an `Err` value: Os { code: 2, kind: NotFound, message: \"No such file or directory\" }",
        "\nthread 'main' panicked at src/main.rs:2:33:\ncalled `Result::unwrap()` on an `Err` value: Os { code: 2, kind: NotFound, message: \"No such file or directory\" }\nnote: run with `RUST_BACKTRACE=1` environment variable to display a backtrace",
    ),
    (
        Crash,
        "'index out of bounds', src/main.rs:2:5",
        "thread 'main' panicked at 'index out of bounds', src/main.rs:2:5\nnote: run with `RUST_BACKTRACE=1` environment variable to display a backtrace",
    ),
    (
        Oom,
        "memory allocation of 1099511627776 bytes failed",
        "memory allocation of 1099511627776 bytes failed",
    ),
    (
        Resource,
        "could not create any TCP/IP sockets",
        "2026-01-01 10:00:00.000 UTC [7] LOG:  could not bind IPv4 address \"127.0.0.1\": Address already in use\n2026-01-01 10:00:00.000 UTC [7] HINT:  Is another postmaster already running on port 5432? If not, wait a few seconds and retry.\n2026-01-01 10:00:00.000 UTC [7] WARNING:  could not create listen socket for \"127.0.0.1\"\n2026-01-01 10:00:00.001 UTC [7] FATAL:  could not create any TCP/IP sockets",
    ),
    (
        Database,
        "database \"app\" does not exist",
        "2026-01-01 10:00:00.000 UTC [9] FATAL:  database \"app\" does not exist",
    ),
    (
        Database,
        "could not locate a valid checkpoint record",
        "2026-01-01 10:00:00.000 UTC [9] PANIC:  could not locate a valid checkpoint record",
    ),
    (Config, "nosuch: command not found", "sh: 1: nosuch: command not found"),
    (
        Api,
        "requests.exceptions.HTTPError: 503 Server Error: Service Unavailable for url: http://x/",
        "Traceback (most recent call last):\n  File \"a.py\", line 1, in <module>\nrequests.exceptions.HTTPError: 503 Server Error: Service Unavailable for url: http://x/",
    ),
    (Crash, "all is lost", "all is lost"),
    (Crash, "ended: exit code 1", ""),
];

#[test]
fn last_words_say_what_it_was() {
    let mut wrong = Vec::new();
    for (category, ending, stderr) in WRITTEN {
        let found = exited(stderr);
        if found.category != *category || !found.message.ends_with(ending) {
            wrong.push(format!("{category} …{ending}\n  found {} {}", found.category, found.message));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn an_address_in_use_names_its_port_and_then_its_holder() {
    let ports = [
        (WRITTEN[11].2, Some(8000)),
        ("OSError: [Errno 98] Address already in use", Some(0)),
        (
            "Traceback (most recent call last):\n  File \"/a.py\", line 3, in <module>\n    run(host=\"::\", port=8125)\nOSError: [Errno 98] Address already in use",
            Some(8125),
        ),
        (
            "2026-01-01 10:00:00.000 UTC [7] LOG:  could not bind IPv4 address \"127.0.0.1\": Address already in use\n2026-01-01 10:00:00.000 UTC [7] HINT:  Is another postmaster already running on port 5432? If not, wait a few seconds and retry.\n2026-01-01 10:00:00.001 UTC [7] FATAL:  could not create any TCP/IP sockets",
            Some(5432),
        ),
        ("listen tcp 0.0.0.0:8080: bind: address already in use", Some(8080)),
        ("ENOSPC", None),
    ];
    for (stderr, port) in ports {
        assert_eq!(exited(stderr).port_in_use, port, "{stderr}");
    }
    let mut found = exited(WRITTEN[11].2);
    let fingerprint = found.fingerprint.clone();
    found.name_holder(8000, "pid 412 (nginx)");
    assert!(found.message.ends_with(":::8000; port 8000 is held by pid 412 (nginx)"), "{}", found.message);
    assert_eq!(found.fingerprint, fingerprint);
}

#[test]
fn what_was_written_long_before_does_not_explain_a_signal_that_somebody_sent() {
    let lines = "psycopg.OperationalError: connection refused, retrying\nconnected";
    for (signal, category, told) in [(9, Crash, false), (15, Crash, false), (6, Database, true)] {
        let found = of(EndReason::Exited, Some(Exit::Signal { signal, core: false }), lines);
        assert_eq!((found.message.contains("refused"), found.category), (told, category), "{signal}");
    }
}

#[test]
fn codes_signals_and_steps_say_what_it_was_when_nothing_was_written() {
    let signal = |signal| Exit::Signal { signal, core: false };
    let exits = [
        (Exit::Code(126), Permission),
        (Exit::Code(127), Config),
        (Exit::Code(78), Config),
        (Exit::Code(69), Dependency),
        (Exit::Code(3), Crash),
        (signal(11), Crash),
        (signal(9), Crash),
        (signal(24), Resource),
        (Exit::Unknown, Crash),
    ];
    for (exit, category) in exits {
        assert_eq!(of(EndReason::Exited, Some(exit), "").category, category, "{exit}");
    }
    // A segmentation fault is not explained by what was logged before it.
    assert_eq!(of(EndReason::Exited, Some(signal(11)), "Connection refused").category, Crash);
    let steps = [
        (SpawnStage::Exec, 2, Config),
        (SpawnStage::Exec, 13, Permission),
        (SpawnStage::WorkingDir, 2, Config),
        (SpawnStage::Clone, 11, Resource),
        (SpawnStage::Clone, 12, Oom),
        (SpawnStage::Pipes, 28, Filesystem),
        (SpawnStage::Pipes, 24, Resource),
        (SpawnStage::User, 1, Permission),
        (SpawnStage::Descriptors, 9, Internal),
    ];
    for (stage, errno, category) in steps {
        let reason = EndReason::SpawnFailed { stage, errno, detail: String::new() };
        assert_eq!(of(reason, None, "").category, category, "{stage} {errno}");
    }
    assert_eq!(of(EndReason::Stopped(StopReason::DeadlineExceeded), None, "").category, Timeout);
    assert_eq!(of(EndReason::HookFailed { hook: 0, exit: None }, None, "").category, Timeout);
}

#[test]
fn a_failing_probe_says_what_it_was() {
    let probes = [
        ("http://127.0.0.1:80/health answered 500", Api),
        ("http://127.0.0.1:80/health: connection refused", Network),
        ("127.0.0.1:80: timed out", Timeout),
        ("", Crash),
    ];
    for (probe, category) in probes {
        let reason = EndReason::Stopped(StopReason::LivenessFailed);
        let evidence = Evidence {
            unit: "service/a",
            reason: &reason,
            exit: Some(Exit::Signal { signal: 15, core: false }),
            words: "was stopped because its liveness probe failed",
            permanent: false,
            success: false,
            probe,
            stderr: &[],
            dependency_down: None,
        };
        let found = classify(&evidence, &Patterns::default());
        assert_eq!(found.category, category, "{probe}");
        assert!(found.message.ends_with(probe));
        let killed = Evidence { reason: &EndReason::Exited, exit: Some(Exit::OomKilled), ..evidence };
        assert_eq!(classify(&killed, &Patterns::default()).category, Oom);
    }
}

#[test]
fn severity_follows_from_what_comes_next() {
    let stderr = lines("ECONNREFUSED");
    let evidence = Evidence {
        unit: "service/a",
        reason: &EndReason::Exited,
        exit: Some(Exit::Code(1)),
        words: "ended",
        permanent: false,
        success: false,
        probe: "",
        stderr: &stderr,
        dependency_down: Some("service/db"),
    };
    let none = Patterns::default();
    let again = classify(&evidence, &none);
    assert_eq!((again.category, again.severity), (Dependency, Severity::Recoverable));
    assert!(again.message.ends_with("; service/db, which it depends on, is not Ready"));
    assert_eq!(classify(&Evidence { permanent: true, ..evidence.clone() }, &none).severity, Severity::Fatal);
    assert_eq!(classify(&Evidence { success: true, ..evidence.clone() }, &none).severity, Severity::Warning);
    let own = Patterns::new([("REFUSED", Api, Some(Severity::Fatal))]);
    let found = classify(&evidence, &own);
    assert_eq!((found.category, found.severity), (Api, Severity::Fatal));
}

#[test]
fn the_same_failure_has_the_same_fingerprint_whatever_its_numbers() {
    let print = |message: &str| fingerprint("service/a", Crash, message);
    assert_eq!(
        print("ended: exit code 1: took 12.5 ms at 0x7ffd1a2b"),
        print("ended: exit code 1: took 9.1 ms at 0x55aa")
    );
    assert_ne!(print("ended: exit code 1"), print("ended: exit code 2"));
    assert_ne!(print("ended: exit code 1: no a"), print("ended: exit code 1: no b"));
    assert_ne!(print("x"), fingerprint("service/b", Crash, "x"));
    assert_ne!(print("x"), fingerprint("service/a", Oom, "x"));
}

#[test]
fn long_messages_are_cut_at_a_character() {
    let found = exited(&"ä".repeat(5000));
    assert!(found.message.len() <= limits::ERROR_MESSAGE_BYTES && found.message.ends_with('…'));
}

#[test]
fn a_key_that_is_no_variable_of_the_environment_is_no_configuration() {
    let of_data = "Traceback (most recent call last):\n  File \"/app/bot.py\", line 1, in <module>\n    prices['BTCUSD']\n    ~~~~~~^^^^^^^^^^\nKeyError: 'BTCUSD'";
    assert_eq!(exited(of_data).category, Crash);
    let of_environment = "Traceback (most recent call last):\n  File \"/app/bot.py\", line 2, in <module>\n    os.environ['TOKEN']\n  File \"/usr/lib/python3.11/os.py\", line 679, in __getitem__\n    raise KeyError(key) from None\nKeyError: 'TOKEN'";
    assert_eq!(exited(of_environment).category, Config);
}

#[test]
fn who_is_told_what_was_missing_or_wrong_on_its_command_line_is_misconfigured() {
    let said = [
        "usage: bot [-h] --token TOKEN\nbot: error: the following arguments are required: --token",
        "Usage: bot [OPTIONS]\nError: Missing option '--token'.",
        "error: the following required arguments were not provided:\n  --token <TOKEN>",
        "django.core.exceptions.ImproperlyConfigured: The SECRET_KEY setting must not be empty.",
        "nginx: [emerg] unknown directive \"lissten\" in /etc/nginx/nginx.conf:3",
        "2026-01-01 00:00:00 UTC [1] FATAL:  configuration file \"/var/lib/postgresql.conf\" contains errors",
    ];
    for words in said {
        assert_eq!(exited(words).category, Config, "{words}");
    }
}

#[test]
fn who_did_not_answer_in_time_failed_for_that() {
    let stopped = |reason, probe: &str| {
        let evidence = Evidence {
            unit: "service/a",
            reason: &EndReason::Stopped(reason),
            exit: Some(Exit::Signal { signal: 15, core: false }),
            words: "failed its probe",
            permanent: false,
            success: false,
            probe,
            stderr: &[],
            dependency_down: None,
        };
        classify(&evidence, &Patterns::default()).category
    };
    assert_eq!(stopped(StopReason::LivenessFailed, "no answer within 300ms"), Timeout);
    assert_eq!(stopped(StopReason::StartupFailed, "it did not say that it is ready in time"), Timeout);
    assert_eq!(stopped(StopReason::StartupFailed, ""), Timeout);
    assert_eq!(stopped(StopReason::LivenessFailed, "another answer than expected"), Crash);
}

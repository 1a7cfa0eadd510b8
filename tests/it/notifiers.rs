//! Who is told of failures: webhooks, commands and files.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::faults::{NEVER, error};
use crate::support::{System, python, signal, sleeper, until};

/// A webhook: what it was sent, and how it answers.
struct Hook {
    port: u16,
    bodies: Arc<Mutex<Vec<String>>>,
    /// `200`, `500`, or 0: it accepts and never answers.
    answer: Arc<AtomicU16>,
}

impl Hook {
    fn new(answer: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (bodies, answer) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicU16::new(answer)));
        let (into, how) = (bodies.clone(), answer.clone());
        std::thread::spawn(move || {
            let mut held = Vec::new();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let how = how.load(Ordering::SeqCst);
                if how == 0 {
                    into.lock().unwrap().push(String::new());
                    held.push(stream);
                    continue;
                }
                let request = read_request(&mut stream);
                into.lock().unwrap().push(request);
                let _ = write!(stream, "HTTP/1.1 {how} X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            }
        });
        Self { port, bodies, answer }
    }

    fn count(&self) -> usize {
        self.bodies.lock().unwrap().len()
    }

    fn found(&self, what: &str) -> Option<String> {
        self.bodies.lock().unwrap().iter().find(|body| body.contains(what)).cloned()
    }

    fn notifier(&self, name: &str, rest: &str) -> String {
        format!(
            "apiVersion: unisys.dev/v1\nkind: Notifier\nmetadata: {{name: {name}}}\nspec:\n  webhook: {{url: 'http://127.0.0.1:{}/hook', headers: {{X-Token: {{secret: hook, key: token}}}}}}\n{rest}",
            self.port
        )
    }
}

fn read_request(stream: &mut impl Read) -> String {
    let (mut text, mut buffer) = (String::new(), [0; 4096]);
    loop {
        let whole = text.split_once("\r\n\r\n").is_some_and(|(head, body)| {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            length.and_then(|length| length.parse().ok()).is_none_or(|length| body.len() >= length)
        });
        if whole {
            return text;
        }
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return text,
            Ok(count) => text.push_str(&String::from_utf8_lossy(&buffer[..count])),
        }
    }
}

const HOOK_SECRET: &str = "apiVersion: unisys.dev/v1\nkind: Secret\nmetadata: {name: hook}\nspec: {data: {token: let-me-in-please}}\n";

#[test]
fn notifiers_tell_by_webhook_exec_and_file_what_their_filters_let_pass() {
    let hook = Hook::new(200);
    let file = "apiVersion: unisys.dev/v1\nkind: Notifier\nmetadata: {name: f}\nspec: {file: {path: ../told.jsonl}, on: {services: [a]}}\n";
    let exec = "apiVersion: unisys.dev/v1\nkind: Notifier\nmetadata: {name: e}\nspec: {exec: {command: [sh, -c, 'cat > ../exec.tmp && mv ../exec.tmp ../exec.json']}, on: {categories: [config]}}\n";
    let code = "import os\nraise RuntimeError('with '+os.environ['T'])";
    let rest = format!("{NEVER}  env: {{T: {{secret: hook, key: token}}}}\n");
    let system = System::up(&[
        ("s.yaml", HOOK_SECRET),
        ("h.yaml", &hook.notifier("h", "  on: {severity: [fatal]}\n")),
        ("e.yaml", exec),
        ("f.yaml", file),
        ("a.yaml", &python("a", code, &rest)),
        ("m.yaml", &python("m", "import no_such_module", "")),
    ]);
    let request = until("the webhook is told", || hook.found("service/a"));
    assert!(request.contains("x-token: let-me-in-please") && request.contains("with ***"), "{request}");
    let (_, body) = request.split_once("\r\n\r\n").unwrap();
    let body: Value = serde_json::from_str(body).unwrap();
    assert_eq!((&body["kind"], &body["errors"][0]["severity"]), (&"Notification".into(), &"fatal".into()));
    let line = until("the file is written", || {
        let text = std::fs::read_to_string(system.path("told.jsonl")).ok()?;
        text.lines().next().map(str::to_owned)
    });
    assert!(line.contains("service/a") && !line.contains("let-me-in"), "{line}");
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(system.path("told.jsonl")).unwrap());
    assert_eq!(mode & 0o777, 0o600);
    let told = until("the command is told", || std::fs::read_to_string(system.path("exec.json")).ok());
    assert!(told.contains("no_such_module"), "{told}");
    assert!(hook.found("service/m").is_none_or(|told| told.contains("\"fatal\"")));
    assert!(!std::fs::read_to_string(system.path("told.jsonl")).unwrap().contains("service/m"));
    until("it is counted", || {
        system
            .ok(&["metrics"])
            .contains("unisys_notifications_total{notifier=\"h\",outcome=\"sent\"}")
            .then_some(())
    });
}

#[test]
fn a_webhook_that_fails_is_tried_again_and_one_that_hangs_delays_nothing() {
    let (broken, hanging) = (Hook::new(500), Hook::new(0));
    let system = System::up(&[
        ("s.yaml", HOOK_SECRET),
        ("b.yaml", &broken.notifier("b", "")),
        ("h.yaml", &hanging.notifier("h", "")),
        ("a.yaml", &python("a", "raise SystemExit(3)", NEVER)),
    ]);
    until("both were tried", || (broken.count() >= 2 && hanging.count() >= 1).then_some(()));
    until("it is said", || system.ok(&["events"]).contains("the server answered 500").then_some(()));
    let status = |name: &str| system.json(&["get", &format!("notifier/{name}")])["status"].clone();
    let failing = status("b");
    assert_eq!(failing["summary"], "Failing", "{failing}");
    assert_eq!(failing["conditions"][0]["status"], "False", "{failing}");
    assert!(failing["lastFailure"]["message"].as_str().unwrap().contains("500"), "{failing}");
    let described = system.ok(&["describe", "notifier/b"]);
    assert!(
        described.contains("DeliveryFailed") && described.contains("the server answered 500"),
        "{described}"
    );
    // Another reason is told as well, and what is recorded is the latest.
    broken.answer.store(403, Ordering::SeqCst);
    until("the other reason is recorded", || {
        system.ok(&["errors", "ls"]).contains("answered 403").then_some(())
    });
    assert!(!system.ok(&["events"]).contains("let-me-in"));
    // Meanwhile a crash is recorded and started again at once.
    system.write("manifests/c.yaml", &sleeper("c", ""));
    until("c is there", || system.run(&["get", "service", "c"]).status.success().then_some(()));
    let pid = system.pid("c");
    signal(pid, "KILL");
    until("c is started again", || (system.instance("c")["pid"].as_u64()? != u64::from(pid)).then_some(()));
    error(&system, "c", "c's error", |_| true);
    broken.answer.store(200, Ordering::SeqCst);
    until("what was held back follows", || broken.found("service/c"));
    until("that is said too", || system.ok(&["events"]).contains("delivers again").then_some(()));
    assert_eq!(status("b")["summary"], "Delivering");
    // Whoever is gone tells nobody any more, which is said.
    fs::remove_file(system.path("manifests/h.yaml")).unwrap();
    until("it is said", || {
        let events = system.ok(&["events"]);
        events.contains("gave up telling of service/a: the notifier is in no manifest any more").then_some(())
    });
    until("it is an error", || system.ok(&["errors", "ls"]).contains("gave up").then_some(()));
    let letters = until("a dead letter", || {
        std::fs::read_to_string(system.path(".unified-system/logs/notifier-dead-letters.jsonl")).ok()
    });
    assert!(letters.contains("\"notifier\":\"h\"") && letters.contains("service/a"), "{letters}");
}

#[test]
fn what_a_killed_daemon_had_not_told_the_next_one_tells_and_nothing_else() {
    let hook = Hook::new(200);
    let system = System::up(&[
        ("s.yaml", HOOK_SECRET),
        ("h.yaml", &hook.notifier("h", "")),
        ("a.yaml", &python("a", "raise SystemExit(3)", NEVER)),
    ]);
    until("a's failure is told", || hook.found("service/a"));
    let kept = system.path(".unified-system/notifiers/h.json");
    let fingerprint = error(&system, "a", "a's error", |_| true)["fingerprint"].as_str().unwrap().to_owned();
    until("that it was is kept", || fs::read_to_string(&kept).ok()?.contains(&fingerprint).then_some(()));
    hook.answer.store(500, Ordering::SeqCst);
    system.write("manifests/c.yaml", &python("c", "raise SystemExit(4)", NEVER));
    let told = hook.count();
    until("c's is tried", || (hook.count() > told).then_some(()));
    error(&system, "c", "c's error", |_| true);
    // Who reads the store reads it after what was to be written.
    system.ok(&["changes"]);
    signal(system.daemon_pid().unwrap(), "KILL");
    hook.bodies.lock().unwrap().clear();
    hook.answer.store(200, Ordering::SeqCst);
    let letter = until("the next daemon tells c's", || hook.found("service/c"));
    assert!(!letter.contains("service/a"), "{letter}");
    system.ok(&["down"]);
    assert!(hook.found("service/a").is_none(), "told by the one before");
}

#[test]
fn what_waits_is_told_by_the_notifier_as_it_was_corrected_and_by_the_next_daemon() {
    let (wrong, right) = (Hook::new(500), Hook::new(200));
    let mut system = System::up(&[
        ("s.yaml", HOOK_SECRET),
        ("h.yaml", &wrong.notifier("h", "")),
        ("a.yaml", &python("a", "raise SystemExit(3)", NEVER)),
    ]);
    until("it is tried in vain", || (wrong.count() > 0).then_some(()));
    until("that is said", || system.ok(&["events"]).contains("cannot deliver").then_some(()));
    system.write("manifests/h.yaml", &right.notifier("h", "  on: {severity: [recoverable, fatal]}\n"));
    until("a's failure is told", || right.found("service/a"));
    until("that is said too", || system.ok(&["events"]).contains("delivers again").then_some(()));
    right.answer.store(500, Ordering::SeqCst);
    let told = right.count();
    system.write("manifests/c.yaml", &python("c", "raise SystemExit(4)", NEVER));
    until("c's is tried", || (right.count() > told).then_some(()));
    error(&system, "c", "c's error", |_| true);
    system.ok(&["down"]);
    assert_eq!(system.ended(), 0);
    right.bodies.lock().unwrap().clear();
    right.answer.store(200, Ordering::SeqCst);
    // What it is to tell from now on is another matter.
    system.write("manifests/h.yaml", &right.notifier("h", "  on: {services: [other]}\n"));
    system.start(&[]);
    let letter = until("the next daemon tells c's", || right.found("service/c"));
    assert!(!letter.contains("service/a"), "{letter}");
    assert!(!system.path(".unified-system/logs/notifier-dead-letters.jsonl").exists());
}

#[test]
fn what_a_notifier_owed_that_left_the_manifests_while_nothing_ran_is_a_dead_letter() {
    let hook = Hook::new(500);
    let mut system = System::up(&[
        ("s.yaml", HOOK_SECRET),
        ("h.yaml", &hook.notifier("h", "")),
        ("a.yaml", &python("a", "raise SystemExit(3)", NEVER)),
    ]);
    until("it is tried in vain", || (hook.count() > 0).then_some(()));
    error(&system, "a", "a's error", |_| true);
    system.ok(&["down"]);
    assert_eq!(system.ended(), 0);
    fs::remove_file(system.path("manifests/h.yaml")).unwrap();
    system.start(&[]);
    until("that it is given up is said", || {
        system.ok(&["events"]).contains("gave up telling of").then_some(())
    });
    let letters =
        fs::read_to_string(system.path(".unified-system/logs/notifier-dead-letters.jsonl")).unwrap();
    assert!(letters.contains("service/a") && letters.contains("in no manifest any more"), "{letters}");
    let kept = system.path(".unified-system/notifiers/h.json");
    until("nothing is kept of it", || (!kept.exists()).then_some(()));
}

/// An https server on localhost and the certificate of the authority that vouches for it.
fn https_hook() -> (u16, String, Arc<Mutex<Vec<String>>>) {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let pem = authority.self_signed(&authority_key).unwrap().pem();
    let key = rcgen::KeyPair::generate().unwrap();
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let server = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap();
    let chain = vec![server.signed_by(&key, &issuer).unwrap().der().clone()];
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key.into())
        .unwrap();
    let (config, told) = (Arc::new(config), Arc::new(Mutex::new(Vec::new())));
    let (listener, into) = (TcpListener::bind("127.0.0.1:0").unwrap(), told.clone());
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let server = rustls::ServerConnection::new(config.clone()).unwrap();
            let mut stream = rustls::StreamOwned::new(server, stream.unwrap());
            let request = read_request(&mut stream);
            if !request.is_empty() {
                let _ = stream.write_all(b"HTTP/1.1 204 X\r\nconnection: close\r\n\r\n");
                into.lock().unwrap().push(request);
            }
        }
    });
    (port, pem, told)
}

#[test]
fn a_webhook_over_https_is_told_only_when_its_certificate_is_trusted() {
    let (port, pem, told) = https_hook();
    let (_, another, _) = https_hook();
    let hook = format!(
        "apiVersion: unisys.dev/v1\nkind: Notifier\nmetadata: {{name: h}}\nspec: {{webhook: {{url: 'https://localhost:{port}/x'}}}}\n"
    );
    let manifests = [("h.yaml", hook.as_str()), ("a.yaml", &python("a", "raise SystemExit(3)", NEVER))];
    let mut system = System::new(&manifests);
    system.write("roots.pem", &another);
    let roots = system.path("roots.pem");
    system.start_in(&[], &[("SSL_CERT_FILE", &roots)]);
    until("the stranger is refused", || {
        system.ok(&["events"]).contains("cannot deliver: invalid peer certificate").then_some(())
    });
    assert!(told.lock().unwrap().is_empty());
    drop(system);

    let mut system = System::new(&manifests);
    system.write("roots.pem", &pem);
    let roots = system.path("roots.pem");
    system.start_in(&[], &[("SSL_CERT_FILE", &roots)]);
    let request = until("the webhook is told", || told.lock().unwrap().first().cloned());
    assert!(request.starts_with("POST /x ") && request.contains("service/a"), "{request}");
}

#[test]
fn a_notifier_that_cannot_be_is_refused_with_its_code() {
    let head = "apiVersion: unisys.dev/v1\nkind: Notifier\nmetadata: {name: n}\n";
    for (spec, expected) in [
        ("{webhook: {url: 'ftp://example.com/x'}}", "is not a URL"),
        ("{webhook: {url: 'https://'}}", "is not a URL"),
        ("{webhook: {url: 'http://h/x'}, file: {path: x}}", "E1606"),
        ("{}", "E1606"),
        ("{webhook: {url: 'http://h/x', template: '{{sevrity}}'}}", "did you mean `{{severity}}`?"),
        ("{file: {path: x}, on: {severity: [fatl]}}", "fatal"),
        ("{file: {path: x}, on: {services: [nobody]}}", "nobody"),
    ] {
        let system = System::new(&[("n.yaml", &format!("{head}spec: {spec}\n"))]);
        let (code, words) = system.fails(&["validate", "manifests"]);
        assert_eq!(code, 1, "{spec}: {words}");
        assert!(words.contains(expected), "{spec} should say {expected}: {words}");
    }
}

//! Each kind of bad input: a clear message, the right exit code, and no running service harmed.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use crate::support::{BINARY, NOBODY, System, copy_program, free_port, is_root, root, sleeper, text, until};

/// What `validate` says of one file.
fn validate(name: &str, content: &[u8]) -> (i32, String) {
    let system = System::new(&[]);
    std::fs::write(system.path(&format!("manifests/{name}")), content).unwrap();
    let (code, words) = system.fails(&["validate", "manifests"]);
    (code, words)
}

#[test]
fn text_that_is_no_manifest_is_refused_with_its_code() {
    let head = "apiVersion: unisys.dev/v1\nkind: Service\nmetadata: {name: a}\n";
    let bomb = {
        let mut text = String::from("a: &a [x,x,x,x,x,x,x,x,x]\n");
        for (old, new) in ("abcdefgh").chars().zip("bcdefghi".chars()) {
            text.push_str(&format!("{new}: &{new} [{}]\n", vec![format!("*{old}"); 9].join(",")));
        }
        text
    };
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("unknown key", format!("{head}spec: {{command: [x], restrat: 1}}").into(), "E1203"),
        ("wrong type", format!("{head}spec: {{command: [x], replicas: many}}").into(), "replicas"),
        ("duplicate key", format!("{head}spec: {{command: [x], command: [y]}}").into(), "command"),
        ("tab indentation", b"apiVersion: unisys.dev/v1\nkind: Service\nmetadata:\n\tname: a\n".to_vec(), "E1001"),
        ("YAML bomb", bomb.into(), "E100"),
        ("NUL in a value", format!("{head}spec: {{command: [sleep, \"1\\0\"]}}\n").into_bytes(), "E1008"),
        ("100 MB file", vec![b'#'; 100 << 20], "E1007"),
        ("binary file", (0..=255).cycle().take(4096).collect(), "E100"),
        ("self-dependency", format!("{head}spec: {{command: [x], dependsOn: [a]}}").into(), "E140"),
        ("unknown dependency", format!("{head}spec: {{command: [x], dependsOn: [b]}}").into(), "E140"),
        ("duplicate name", format!("{head}spec: {{command: [x]}}\n---\n{head}spec: {{command: [y]}}").into(), "E1301"),
        (
            "clashing port",
            format!("{head}spec: {{command: [x], ports: [{{name: p, port: 80}}]}}\n---\n{}spec: {{command: [x], ports: [{{name: p, port: 80}}]}}", head.replace("name: a", "name: b")).into(),
            "80",
        ),
        (
            "cycle",
            format!("{head}spec: {{command: [x], dependsOn: [b]}}\n---\n{}spec: {{command: [x], dependsOn: [a]}}", head.replace("name: a", "name: b")).into(),
            "a → b → a",
        ),
        ("not carried out yet", format!("{head}spec: {{command: [x], metrics: {{scrape: {{port: 9}}}}}}").into(), "E1900"),
        (
            "secrets as files",
            b"apiVersion: unisys.dev/v1\nkind: Secret\nmetadata: {name: s}\nspec: {data: {a: b}, deliver: files}\n".to_vec(),
            "E1900",
        ),
        (
            "a Config that nothing uses",
            b"apiVersion: unisys.dev/v1\nkind: Config\nmetadata: {name: c}\nspec: {data: {PORT: many}, types: {PORT: {type: port}}}\n".to_vec(),
            "E1503",
        ),
        ("no apiVersion", b"kind: Service\nmetadata: {name: a}\nspec: {command: [x]}\n".to_vec(), "write `apiVersion: unisys.dev/v1`"),
        ("no kind", b"apiVersion: unisys.dev/v1\nmetadata: {name: a}\nspec: {command: [x]}\n".to_vec(), "write `kind: Service`"),
        ("no spec", head.into(), "write `spec: {command: [PROGRAM, ARGUMENT]}`"),
        ("an empty spec", format!("{head}spec:\n").into(), "write `spec: {command: [PROGRAM, ARGUMENT]}`"),
        ("beside spec", format!("{head}command: [x]\n").into(), "write it under `spec`"),
        (
            "one socket twice",
            format!("{head}spec: {{command: [x], ports: [{{name: p, protocol: unix, address: run/../a.sock}}]}}\n---\n{}spec: {{command: [x], ports: [{{name: p, protocol: unix, address: ./a.sock}}]}}", head.replace("name: a", "name: b")).into(),
            "E1501",
        ),
        ("bare number", format!("{head}spec: {{command: [x], stop: {{grace: 5}}}}").into(), "grace"),
    ];
    for (what, content, expected) in cases {
        let (code, words) = validate("a.yaml", &content);
        assert_eq!(code, 1, "{what}: {words}");
        assert!(
            words.contains(expected),
            "{what} should say {expected}: {}",
            words.chars().take(600).collect::<String>()
        );
    }
}

#[test]
fn what_editors_leave_beside_a_manifest_is_not_read_and_a_dead_link_is_told_as_one() {
    let system = System::new(&[("a.yaml", &sleeper("a", ""))]);
    for name in ["a.yaml~", "#a.yaml#", ".a.yaml.swp", "4913", "a.yaml.orig", "a.yaml.bak"] {
        std::fs::write(system.path("manifests").join(name), sleeper("a", "")).unwrap();
    }
    let link = |target: &str, name: &str| {
        std::os::unix::fs::symlink(target, system.path("manifests").join(name)).unwrap();
    };
    link("ada@host.4711:1", ".#a.yaml");
    assert_eq!(system.ok(&["validate", "manifests"]).trim(), "valid: 1 object");
    link("nowhere", "b.yaml");
    let (code, words) = system.fails(&["validate", "manifests"]);
    assert!(code == 1 && words.contains("it is a link to nowhere, which does not exist"), "{words}");
}

#[test]
fn what_the_machine_lacks_fails_that_unit_only() {
    let system = System::new(&[]);
    std::fs::write(system.path("plain"), "no program").unwrap();
    let with = |name: &str, spec: &str| {
        format!("apiVersion: unisys.dev/v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {spec}\n")
    };
    system.write("manifests/missing.yaml", &with("missing", "{command: [no-such-program]}"));
    system.write("manifests/plain.yaml", &with("plain", "{command: [../plain]}"));
    system.write("manifests/dir.yaml", &with("dir", "{command: [sleep, \"1\"], workingDir: nowhere}"));
    system.write("manifests/user.yaml", &with("user", "{command: [sleep, \"1\"], user: nobody-like-that}"));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    system.write(
        "manifests/port.yaml",
        &with("port", &format!("{{command: [sleep, \"1\"], ports: [{{name: p, port: {port}}}]}}")),
    );
    system.write("manifests/ok.yaml", &sleeper("ok", ""));
    assert_eq!(system.run(&["validate", "manifests"]).status.code(), Some(0), "all of it is E2");
    let (code, words) = system.fails(&["validate", "manifests", "--machine"]);
    assert_eq!(code, 1);
    for code in ["E2001", "E2002", "E2003", "E2005", "E2006"] {
        assert!(words.contains(code), "{code}: {words}");
    }
    assert!(words.contains(&format!("held by pid {}", std::process::id())), "{words}");
    let mut system = system;
    system.start(&[]);
    system.ready(&["ok"]);
    let held = system.json(&["get", "service", "port"]);
    assert_eq!(held["status"]["summary"], "CannotStart");
    for (unit, code) in [("missing", "E2001"), ("plain", "E2002"), ("dir", "E2003"), ("user", "E2006")] {
        let why = system.ok(&["why", unit]);
        assert!(why.contains(code) && why.contains("revision 1 accepted"), "{why}");
    }
    // A user that is not there is nobody, not us.
    let (code, words) = system.fails(&["exec", "user", "--", "id"]);
    assert_eq!(code, 5, "{words}");
    assert!(words.contains("there is no user `nobody-like-that`"), "{words}");
    // What is mended is noticed.
    drop(listener);
    until("the port is free for it", || {
        (system.json(&["get", "service", "port"])["status"]["summary"] != "CannotStart").then_some(())
    });
}

/// Sessions of such a process have no number (proc_pid_stat(5) says 0): a container's first process, or a child of it.
#[test]
fn a_port_is_held_by_a_process_whose_session_is_not_seen_from_here() {
    let unshare = ["unshare", "--pid", "--fork", "--mount-proc"];
    let works = Command::new(unshare[0]).args(&unshare[1..]).arg("true").status();
    if !works.is_ok_and(|status| status.success()) {
        eprintln!("skipped: no pid namespace for this user");
        return;
    }
    let port = free_port();
    let spec = format!("spec: {{command: [sleep, \"1\"], ports: [{{name: p, port: {port}}}]}}");
    let system = System::new(&[(
        "a.yaml",
        &format!("apiVersion: unisys.dev/v1\nkind: Service\nmetadata: {{name: a}}\n{spec}\n"),
    )]);
    let holder = format!(
        "import socket, subprocess, sys\n\
         listener = socket.create_server((\"127.0.0.1\", {port}))\n\
         sys.exit(subprocess.call(sys.argv[1:]))"
    );
    let output = Command::new(unshare[0])
        .args(&unshare[1..])
        .args(["python3", "-c", &holder, BINARY, "validate", "--machine", "manifests"])
        .current_dir(system.path(""))
        .output()
        .unwrap();
    let words = text(&output.stderr) + &text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{words}");
    assert!(words.contains(&format!("port {port} is held by pid 1 (python3")), "{words}");
}

#[test]
fn what_is_declared_where_it_is_not_well_is_not_said_to_be_missing() {
    let user = sleeper("s", "  dependsOn: [api]\n  envFrom: [{config: c}]\n");
    let config = "apiVersion: unisys.dev/v1\nkind: Config\nmetadata: {name: c}\nspec: {data: {A: [1]}}\n";
    let broken = |rest: &str| format!("apiVersion: unisys.dev/v1\nkind: {rest}");
    for (api, code) in [
        (sleeper("api", "  replicas: two\n"), "E1204"),
        (broken("Servise\nmetadata: {name: api}\nspec: {command: [x]}\n"), "E1201"),
        (broken("Service\nmetadata: {name: api\n"), "E1001"),
    ] {
        let system = System::new(&[("s.yaml", &user), ("c.yaml", config), ("api.yaml", &api)]);
        let (_, words) = system.fails(&["validate", "manifests"]);
        assert!(words.contains(code), "{code}: {words}");
        assert!(!words.contains("E1401") && !words.contains("E1405"), "{words}");
    }
    let system = System::new(&[("s.yaml", &user)]);
    let (_, words) = system.fails(&["validate", "manifests"]);
    assert!(words.contains("E1401") && words.contains("E1405"), "{words}");
}

#[test]
fn unreadable_and_circular_links_in_a_watched_directory_change_nothing() {
    let system = System::up(&[("a.yaml", &sleeper("a", ""))]);
    let a = system.pid("a");
    std::os::unix::fs::symlink("loop.yaml", system.path("manifests/loop.yaml")).unwrap();
    until("it is said", || system.ok(&["events"]).contains("E1007").then_some(()));
    std::fs::remove_file(system.path("manifests/loop.yaml")).unwrap();
    until("it is well again", || system.ok(&["events"]).contains("valid again").then_some(()));
    assert_eq!(system.pid("a"), a);
}

#[test]
fn a_second_up_on_the_same_state_directory_is_refused() {
    let system = System::up(&[("a.yaml", &sleeper("a", ""))]);
    let a = system.pid("a");
    let (code, words) = system.fails(&["up"]);
    assert_eq!(code, 5, "{words}");
    assert!(words.contains(&system.keeper_pid().to_string()), "{words}");
    assert_eq!(system.pid("a"), a);
}

#[test]
fn a_state_directory_with_a_long_path_works() {
    let system = System::new(&[("a.yaml", &sleeper("a", "  probes: {readiness: {notify: systemd}}\n"))]);
    let long = system.path(&"x".repeat(150));
    let state = long.to_str().unwrap();
    let output = system.run(&["--state-dir", state, "up", "--detach"]);
    assert!(output.status.success(), "{}", crate::support::text(&output.stderr));
    assert!(system.ok(&["--state-dir", state, "get"]).contains("Starting"));
    system.ok(&["--state-dir", state, "down"]);
}

#[test]
fn garbage_slow_and_vanishing_clients_harm_nobody() {
    let system = System::up(&[("a.yaml", &sleeper("a", ""))]);
    let a = system.pid("a");
    let connect = || UnixStream::connect(system.path(".unified-system/unisys.sock")).unwrap();
    connect().write_all(&[0, 255, 1, 2, 3, 13, 10, 13, 10]).unwrap();
    let slow: Vec<UnixStream> = (0..50)
        .map(|_| {
            let mut stream = connect();
            stream.write_all(b"GET /v1/obj").unwrap();
            stream
        })
        .collect();
    let mut half = connect();
    half.write_all(b"POST /v1/apply HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{\"fi").unwrap();
    drop(half);
    let mut large = connect();
    let head = format!(
        "POST /v1/apply HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        1u64 << 40
    );
    large.write_all(head.as_bytes()).unwrap();
    let mut answer = [0; 12];
    large.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
    assert_eq!(system.pid("a"), a);
    drop(slow);
}

#[test]
fn requests_that_are_not_finished_keep_nobody_waiting_and_have_a_bound() {
    let system = System::up(&[("a.yaml", &sleeper("a", ""))]);
    let connect = || UnixStream::connect(system.path(".unified-system/unisys.sock")).unwrap();
    let began = std::time::Instant::now();
    let answered = || {
        system.ok(&["get"]);
        // Each of them may take thirty seconds.
        assert!(began.elapsed().as_secs() < 15, "{:?}", began.elapsed());
    };
    let half: Vec<UnixStream> = (0..300)
        .map(|number| {
            let mut stream = connect();
            let whole_head: &[u8] =
                b"POST /v1/apply HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{\"fi";
            stream.write_all(if number % 2 == 0 { b"GET /v1/obj" } else { whole_head }).unwrap();
            stream
        })
        .collect();
    answered();
    let daemon = system.daemon_pid().unwrap();
    let sending: Vec<_> = (0..24)
        .map(|_| {
            let mut stream = connect();
            std::thread::spawn(move || {
                let head = b"POST /v1/apply HTTP/1.1\r\nhost: x\r\ncontent-length: 33000000\r\n\r\n";
                let sent = stream.write_all(head).and_then(|()| stream.write_all(&vec![b' '; 32_000_000]));
                // It stays there, unfinished.
                sent.map(|()| stream)
            })
        })
        .collect();
    until("some of them have been ended for others", || {
        sending.iter().any(std::thread::JoinHandle::is_finished).then_some(())
    });
    system.ok(&["apply", "-f", "manifests"]);
    answered();
    let status = std::fs::read_to_string(format!("/proc/{daemon}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().split(' ').next().unwrap().parse().unwrap();
    assert!(peak < 300 << 10, "{peak} KiB at most, of 750 MiB that were sent");
    drop((half, sending));
}

#[test]
fn an_unreadable_file_is_named_and_changes_nothing() {
    use std::os::unix::fs::PermissionsExt;
    let system = System::new(&[("a.yaml", &sleeper("a", "")), ("b.yaml", &sleeper("b", ""))]);
    let forbid = || {
        let path = system.path("manifests/b.yaml");
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o000)).unwrap();
    };
    // Root reads everything: there, a user who may not is played by another process.
    forbid();
    let output = if is_root() {
        use std::os::unix::process::CommandExt;
        for dir in [system.dir.path().to_owned(), system.path("manifests")] {
            std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let binary = system.path("unisys");
        copy_program(&binary);
        let mut command = Command::new(binary);
        command.args(["validate", "manifests"]).current_dir(system.dir.path());
        command.uid(NOBODY).gid(NOBODY).output().unwrap()
    } else {
        system.run(&["validate", "manifests"])
    };
    let words = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{words}");
    assert!(words.contains("E1007") && words.contains("b.yaml"), "{words}");
}

#[test]
fn a_root_directory_that_vanishes_or_is_emptied_prunes_nothing_and_is_watched_when_it_comes_back() {
    let system = System::up(&[("a.yaml", &sleeper("a", ""))]);
    let a = system.pid("a");
    let said = |what: &'static str, times: usize| {
        until(what, || (system.ok(&["events"]).matches(what).count() >= times).then_some(()));
    };
    std::fs::rename(system.path("manifests"), system.path("elsewhere")).unwrap();
    said("cannot be read", 1);
    assert_eq!(system.pid("a"), a);
    std::fs::rename(system.path("elsewhere"), system.path("manifests")).unwrap();
    said("can be read again", 1);
    std::fs::rename(system.path("manifests/a.yaml"), system.path("a.yaml")).unwrap();
    said("holds no manifests", 1);
    assert_eq!(system.pid("a"), a);
    std::fs::rename(system.path("a.yaml"), system.path("manifests/a.yaml")).unwrap();
    said("can be read again", 2);
    assert_eq!(system.pid("a"), a);
    // It is watched as before.
    system.write("manifests/b.yaml", &sleeper("b", ""));
    until("b runs", || system.run(&["get", "service", "b"]).status.success().then_some(()));
}

#[test]
fn a_state_directory_of_somebody_else_is_refused() {
    if !is_root() {
        eprintln!("skipped: only root can give a directory away");
        return;
    }
    use std::os::unix::fs::PermissionsExt;
    let system = System::new(&[("a.yaml", &sleeper("a", ""))]);
    std::fs::create_dir(system.path("theirs")).unwrap();
    std::os::unix::fs::chown(system.path("theirs"), Some(NOBODY), Some(NOBODY)).unwrap();
    let (code, words) = system.fails(&["--state-dir", "theirs", "up"]);
    assert_eq!(code, 5, "{words}");
    assert!(words.contains("belongs to user 65534"), "{words}");
    // One below a directory that others can write to could be swapped for another at any time.
    std::fs::create_dir(system.path("open")).unwrap();
    std::fs::set_permissions(system.path("open"), std::fs::Permissions::from_mode(0o777)).unwrap();
    let (code, words) = system.fails(&["--state-dir", "open/state", "up"]);
    assert_eq!(code, 5, "{words}");
    assert!(words.contains("can be written by others"), "{words}");
}

/// Manifests and whether they are well.
fn manifests_and_verdicts() -> Vec<(std::path::PathBuf, bool)> {
    let dirs = [("manifests", true), ("tests/it/fixtures/good", true), ("tests/it/fixtures/bad", false)];
    let files = |(dir, well)| {
        let entries = std::fs::read_dir(root().join(dir)).unwrap();
        entries.map(move |entry| (entry.unwrap().path(), well))
    };
    let found: Vec<_> = dirs.into_iter().flat_map(files).collect();
    assert!(found.len() > 20, "the fixtures are there");
    found
}

/// Another judge of manifests, of which only `.ci/run` knows where it is.
fn judge(variable: &str) -> Option<std::ffi::OsString> {
    let found = std::env::var_os(variable);
    if found.is_none() {
        eprintln!("skipped: {variable} does not say where it is (.ci/run does)");
    }
    found
}

#[test]
fn check_jsonschema_agrees_on_good_and_bad_files() {
    let Some(checker) = judge("CHECK_JSONSCHEMA") else { return };
    let schema = root().join("schemas/unisys.schema.json");
    // All at once: most of the time of each run is Python's start.
    let mut command = Command::new(&checker);
    command.args(["-o", "json", "--schemafile"]).arg(&schema);
    let output = command.args(manifests_and_verdicts().iter().map(|(path, _)| path)).output().unwrap();
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for (path, well) in manifests_and_verdicts() {
        let refused = ["errors", "parse_errors"].iter().any(|list| {
            let rows = said[*list].as_array().into_iter().flatten();
            rows.filter_map(|row| row["filename"].as_str()).any(|file| path.as_os_str() == file)
        });
        assert_eq!(refused, !well, "{}: {said:#}", path.display());
    }
}

#[test]
fn an_editors_yaml_server_agrees_on_good_and_bad_files() {
    let Some(server) = judge("YAML_LANGUAGE_SERVER") else { return };
    let mut command = Command::new("python3");
    command.arg(root().join("tests/it/yaml_server.py")).arg(server);
    command.arg(root().join("schemas/unisys.schema.json"));
    let output = command.args(manifests_and_verdicts().iter().map(|(path, _)| path)).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for (path, well) in manifests_and_verdicts() {
        let words = &said[path.to_str().unwrap()];
        assert_eq!(words.as_array().is_some_and(Vec::is_empty), well, "{}: {words:#}", path.display());
    }
}

#[test]
fn good_and_bad_files_are_told_apart() {
    for (dir, code) in [("good", 0), ("bad", 1)] {
        for entry in std::fs::read_dir(root().join("tests/it/fixtures").join(dir)).unwrap() {
            let path = entry.unwrap().path();
            let output = Command::new(BINARY).arg("validate").arg(&path).output().unwrap();
            assert_eq!(output.status.code(), Some(code), "{}: {}", path.display(), text(&output.stderr));
        }
    }
}

#[test]
fn a_unit_that_is_in_no_manifest_is_not_found_by_up() {
    let system = System::new(&[("a.yaml", &sleeper("a", ""))]);
    let (code, words) = system.fails(&["up", "zzz"]);
    assert_eq!(code, 4, "{words}");
    assert!(words.contains("zzz"), "{words}");
}

#[test]
fn root_follows_no_manifest_that_others_have_come_to_be_able_to_write() {
    use std::os::unix::fs::PermissionsExt;
    if !is_root() {
        eprintln!("skipped: only root has others to distrust");
        return;
    }
    let system = System::up(&[("a.yaml", &sleeper("a", ""))]);
    let pid = system.pid("a");
    let mode = |mode| {
        std::fs::set_permissions(system.path("manifests/a.yaml"), std::fs::Permissions::from_mode(mode))
            .unwrap()
    };
    mode(0o666);
    // In place: the file stays the one that anybody can write.
    std::fs::write(system.path("manifests/a.yaml"), sleeper("a", "  env: {X: '1'}\n")).unwrap();
    let note = || String::from_utf8_lossy(&system.run(&["get", "services"]).stderr).into_owned();
    until("it is said", || note().contains("not to be trusted by root").then_some(()));
    assert_eq!(system.fails(&["apply", "-f", "manifests"]).0, 5);
    assert_eq!(system.pid("a"), pid);
    mode(0o644);
    until("it is followed again", || (system.instance("a")["pid"] != pid).then_some(()));
}

#[test]
fn nothing_is_not_valid() {
    let system = System::new(&[]);
    for args in [&["validate", "manifests"][..], &["validate", "-"]] {
        let validate =
            |format: &[&str]| system.command(&[args, format].concat()).stdin(Stdio::null()).output();
        let output = validate(&[]).unwrap();
        let words = text(&output.stderr);
        assert!(
            output.status.code() == Some(1) && words.contains("E1010") && words.contains("no manifest"),
            "{words}"
        );
        for format in ["json", "sarif", "github"] {
            let output = validate(&["-o", format]).unwrap();
            let words = text(&output.stdout);
            assert!(output.status.code() == Some(1) && words.contains("E1010"), "{format}: {words}");
        }
    }
}

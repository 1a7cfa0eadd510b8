//! What programs write holds their secrets in no file and no answer: not in pieces, not after a daemon's death, not in last words.

use std::path::Path;

use crate::support::{System, alive, kill_both, python, signal, text, until};

const SECRET: &str = "apiVersion: unisys.dev/v1\nkind: Secret\nmetadata: {name: s}\nspec: {data: {pw: {file: ../pw}, key: {file: ../key}}}\n";
const NEVER: &str = "  restart: {policy: Never}\n";
const ENV: &str =
    "  env: {PW: {secret: s, key: pw}, KEY: {secret: s, key: key}, URL: 'db://me:${PW}@host'}\n";
const KEY: &str = "-----BEGIN KEY-----\nMIIEvgIBADANBg\nshort\n-----END KEY-----\n";

/// Broken in every way, and wherever it is told: the place and the rule are, no value is.
#[test]
fn no_value_of_a_broken_secret_is_shown() {
    let secret =
        |spec: &str| format!("apiVersion: unisys.dev/v1\nkind: Secret\nmetadata: {{name: s}}\nspec:\n{spec}");
    let broken = [
        ("number", secret("  data: {pw: 31337042}\n")),
        ("list", secret("  data:\n    pw: [hunter2-first]\n")),
        ("type", secret("  data: hunter2-first\n")),
        ("form", secret("  data: {pw: {text: hunter2-first}}\n")),
        ("flow", secret("  data: {pw hunter2-first}\n")),
        ("set", secret("  data: {pw: {hunter2-first}}\n")),
        ("unknown", secret("  hunter2-first:\n")),
        ("kubernetes", secret("  stringData: {pw: hunter2-first}\n")),
        ("deliver", secret("  deliver: hunter2-first\n")),
        ("twice", secret("  data:\n    pw: hunter2-first\n    pw: hunter2-first\n")),
        ("nul", secret("  data:\n    pw: \"hunter2-first\\0\"\n")),
        ("quote", secret("  data:\n    pw: \"hunter2-first\n")),
        ("indent", secret("  data:\n    pw: a\n   hunter2-first: b\n")),
        ("tab", secret("  data:\n\tpw: hunter2-first\n")),
        ("alias", secret("  data:\n    pw: *hunter2-first\n")),
        ("tag", secret("  data:\n    pw: !!int hunter2-first\n")),
        ("escape", secret("  data:\n    pw: \"hunter2-first\\q\"\n")),
        ("kind", "{apiVersion: unisys.dev/v1, kind: Scret, metadata: {name: s}, spec: {data: {pw: hunter2-first}}}".into()),
        ("no-kind", "{apiVersion: unisys.dev/v1, metadata: {name: s}, spec: {data: {pw: hunter2-first}}}".into()),
        ("name", "{apiVersion: unisys.dev/v1, kind: Secret, spec: {data: {pw: hunter2-first}}}".into()),
        ("json", "{\"apiVersion\": \"unisys.dev/v1\", \"kind\": \"Secret\", \"metadata\": {\"name\": \"s\"}, \"spec\": {\"data\": {\"pw\": [\"hunter2-first\"]}}}".into()),
    ];
    let system = System::up(&[("a.yaml", &python("a", "import time\ntime.sleep(99)", ""))]);
    let valid = || system.json(&["get", "sets"])["items"][0]["status"]["conditions"][0]["status"].clone();
    let told = |what: &str, said: &str| {
        for hidden in ["hunter2", "-first", "31337042"] {
            assert!(!said.contains(hidden), "{what}: {said}");
        }
    };
    for (what, manifest) in &broken {
        let file = format!("broken/{what}.yaml");
        std::fs::create_dir_all(system.path("broken")).unwrap();
        std::fs::write(system.path(&file), manifest).unwrap();
        for verb in [
            &["validate", &file][..],
            &["validate", &file, "-o", "json"],
            &["apply", "-f", &file],
            &["plan", "-f", &file],
        ] {
            let output = system.run(verb);
            let said = text(&output.stdout) + &text(&output.stderr);
            assert!(!output.status.success() && said.contains(&format!("{what}.yaml")), "{what}: {said}");
            assert!(said.contains("E1"), "{what}: {said}");
            told(what, &said);
        }
        // The place of it is told, where there is one.
        assert!(text(&system.run(&["validate", &file]).stderr).contains(&format!("{what}.yaml:")), "{what}");
        system.write("manifests/s.yaml", manifest);
        until(&format!("{what} is told"), || (valid() == "False").then_some(()));
        std::fs::remove_file(system.path("manifests/s.yaml")).unwrap();
        until(&format!("{what} is mended"), || (valid() == "True").then_some(()));
    }
    told("events", &system.ok(&["events", "-o", "json"]));
    told("the terminal", &system.terminal());
    let log = std::fs::read_to_string(system.path(".unified-system/logs/unifiedsystem.log")).unwrap();
    assert!(log.contains("ManifestInvalid"));
    told("the log", &log);
}

/// One that knows the secrets, and one that does not.
fn system(code: &str, rest: &str) -> System {
    let system = System::new(&[("s.yaml", SECRET), ("a.yaml", &python("a", code, &format!("{ENV}{rest}")))]);
    system.write("pw", "hunter2-first\n");
    system.write("key", KEY);
    system
}

fn logged(system: &System, words: &str) -> String {
    until(&format!("{words} in the log"), || Some(system.log_of("a")).filter(|log| log.contains(words)))
}

/// Files below a directory in which some text is.
fn files_with(words: &str, dir: &Path) -> String {
    text(&std::process::Command::new("grep").args(["-rla", words]).arg(dir).output().unwrap().stdout)
}

#[test]
fn secrets_are_masked_in_output_whole_split_cut_and_unfinished() {
    let code = "import os,sys,time\nE=os.environ\nw=lambda t,fd=1: os.write(fd,t.encode())\n\
        w('plain '+E['PW']+' '+E['URL']+'\\n')\nw(E['KEY']+'\\n',2)\n\
        w('half '+E['PW'][:7]);time.sleep(.5);w(E['PW'][7:]+' whole\\n')\n\
        for n in range(0,20): w('x'*((1<<20)-n)+E['PW']+'\\n')\n\
        w('done\\n')\nw('last words '+E['PW'],2)\nsys.exit(3)";
    let mut system = system(code, NEVER);
    // It has no secret: what it writes is its own.
    system.write("manifests/b.yaml", &python("b", "print('my hunt'+'er2-first')", NEVER));
    system.start(&[]);
    let log = logged(&system, "last words");
    logged(&system, "done");
    let short: String = log.lines().filter(|line| line.len() < 100).map(|line| format!("{line}\n")).collect();
    assert!(short.contains("plain *** ***\n") && short.contains("half *** whole\n"), "{short}");
    assert!(short.contains("***\n***\n***\n***\n"), "each line of the key: {short}");
    assert!(log.contains("last words ***"), "{short}");
    let b = until("b's line", || Some(system.log_of("b")).filter(|log| log.contains("my")));
    assert_eq!(b, "my hunter2-first\n");
    let id = until("its crash dump", || {
        Some(system.json(&["crashes", "ls", "a"]).as_array()?.last()?["id"].as_str()?.to_owned())
    });
    let mut said = system.terminal();
    for verb in [
        &["logs", "a"][..],
        &["logs", "a", "-o", "json"],
        &["events", "-o", "json"],
        &["why", "a"],
        &["errors"],
        &["crashes", "show", &id],
        &["describe", "a", "-o", "json"],
    ] {
        said.push_str(&system.ok(verb));
    }
    assert!(said.contains("last words ***"));
    for hidden in ["hunter2", "MIIEvg", "-first", "BEGIN KEY"] {
        assert!(!said.contains(hidden), "{hidden} is shown");
        assert!(!log.contains(hidden), "{hidden} is in the log");
    }
    assert_eq!(files_with("hunter2", &system.path(".unified-system")).lines().count(), 1, "only in b's log");
}

/// What it does on SIGTERM, and when the pid in the file `watched` is gone.
fn teller(end: &str) -> String {
    format!(
        "import os,signal,sys,time\nE=os.environ\nw=lambda t,fd=1: os.write(fd,t.encode())\ndef bye(*a):\n  w('bye '+E['PW']+'\\n')\n  sys.exit(0)\nsignal.signal(15,bye)\nw('half '+E['PW'][:5])\nopen('begun','w').close()\nwhile True:\n  time.sleep(.002)\n  try: pid=open('watched').read()\n  except OSError: continue\n  if pid and not os.path.exists('/proc/'+pid): break\nw(E['PW'][5:]+' whole\\n')\n{end}"
    )
}

fn begun(system: &System) {
    until("it has begun", || system.path("manifests/begun").exists().then_some(()));
}

/// The secret changes and the daemon is killed: what the program says to the next one, up to `last`, is masked by what it was started
/// with.
fn masked_under_the_next_daemon(system: &System, last: &str) {
    let first = system.daemon_pid().unwrap();
    system.write("pw", "another-second\n");
    system.write("manifests/watched", &first.to_string());
    signal(first, "KILL");
    let log = logged(system, last);
    assert!(log.contains("half *** whole\n") && log.contains(&format!("{last} ***\n")), "{log}");
}

#[test]
fn the_next_daemon_masks_what_was_half_written_and_by_the_secrets_of_before() {
    // Told to replace it, the next daemon hears it say goodbye with a value that is nowhere any more.
    let mut system = system(&teller("signal.pause()"), "  update: {minReady: 100ms}\n");
    system.start(&["--no-watch"]);
    begun(&system);
    let pid = system.pid("a");
    masked_under_the_next_daemon(&system, "bye");
    until("it is replaced", || (system.instance("a")["pid"].as_u64()? != u64::from(pid)).then_some(()));
    assert_eq!(files_with("hunter2", &system.path(".unified-system/logs")), "");
}

#[test]
fn the_next_daemon_knows_the_secrets_of_one_that_has_cleared_its_environment() {
    let mut system = system("", "  update: {minReady: 100ms}\n");
    let program = teller("signal.pause()").replace(
        "E=os.environ\n",
        "E=os.environ\nif 'PW' in E: os.execve(sys.executable,[sys.executable,'-u',__file__,E['PW']],{})\nE={'PW':sys.argv[1]}\n",
    );
    system.write("teller.py", &program);
    system.write(
        "manifests/a.yaml",
        &format!(
            "apiVersion: unisys.dev/v1\nkind: Service\nmetadata: {{name: a}}\nspec:\n  command: [python3, -u, ../teller.py]\n{ENV}  update: {{minReady: 100ms}}\n"
        ),
    );
    system.start(&["--no-watch"]);
    begun(&system);
    masked_under_the_next_daemon(&system, "bye");
}

#[test]
fn what_lay_in_the_spool_when_all_were_killed_is_masked_by_the_secrets_of_before() {
    let mut system = system(&teller("signal.pause()"), "  update: {minReady: 100ms}\n");
    system.start(&["--no-watch"]);
    begun(&system);
    let spool = || {
        let files = std::fs::read_dir(system.path(".unified-system/run")).unwrap().flatten();
        let mut spools = files.map(|file| file.path());
        spools.find(|path| path.to_string_lossy().ends_with(".stdout.spool"))
    };
    let spool = until("its first words are in the spool", || {
        spool().filter(|path| std::fs::read(path).is_ok_and(|bytes| bytes == b"half hunte"))
    });
    kill_both(system.keeper_pid(), system.daemon_pid().unwrap());
    until("both are gone", || system.processes().is_empty().then_some(()));
    // As if the daemon had been killed between moving it and making lines of it.
    let mut file = std::fs::OpenOptions::new().append(true).open(&spool).unwrap();
    std::io::Write::write_all(&mut file, b"r2-first moved\nand hunter2-first\n").unwrap();
    system.write("pw", "another-second\n");
    system.start(&["--no-watch"]);
    let log = logged(&system, "bye");
    assert_eq!(log, "half *** moved\nand ***\nbye ***\n");
}

#[test]
fn a_half_line_of_one_that_ended_with_all_others_and_whose_secret_nobody_knows_is_not_shown() {
    let mut system = system(&teller("signal.pause()"), NEVER);
    system.start(&["--no-watch"]);
    begun(&system);
    let spool = || {
        let mut files = std::fs::read_dir(system.path(".unified-system/run")).unwrap().flatten();
        files.find_map(|file| {
            Some(file.path()).filter(|path| path.to_string_lossy().ends_with(".stdout.spool"))
        })
    };
    until("its first words are in the spool", || {
        spool().filter(|path| std::fs::read(path).is_ok_and(|bytes| bytes == b"half hunte"))
    });
    let pid = system.pid("a");
    kill_both(system.keeper_pid(), system.daemon_pid().unwrap());
    until("both are gone", || system.processes().is_empty().then_some(()));
    signal(pid, "KILL");
    until("it is gone", || (!alive(pid)).then_some(()));
    system.write("pw", "another-second\n");
    system.start(&["--no-watch"]);
    assert_eq!(logged(&system, "*"), "***\n");
    assert_eq!(files_with("half hunte", &system.path(".unified-system")), "");
}

#[test]
fn lines_of_a_key_that_are_written_one_by_one_are_masked_and_words_are_not() {
    let code = "import os,time\nfor line in os.environ['KEY'].split('\\n')+['a short word','done']: os.write(1,(line+'\\n').encode()); time.sleep(.05)";
    let mut system = system(code, NEVER);
    system.start(&[]);
    logged(&system, "done");
    assert_eq!(logged(&system, "done"), "***\n***\n***\n***\na short word\ndone\n");
}

#[test]
fn the_last_words_of_one_that_ended_without_a_daemon_are_masked_too() {
    // Nobody can read the environment of one that is gone: the keeper knows.
    let mut system = system(&teller("w('gone '+E['PW'],2)\nsys.exit(3)"), NEVER);
    system.start(&["--no-watch"]);
    begun(&system);
    let first = system.daemon_pid().unwrap();
    masked_under_the_next_daemon(&system, "gone");
    until("another daemon", || system.daemon_pid().filter(|pid| *pid != first));
    assert_eq!(files_with("hunter2", &system.path(".unified-system")), "", "in no journal either");
}

#[test]
fn a_keeper_that_was_killed_leaves_an_heir_that_masks_as_well() {
    let mut system = system(&teller("signal.pause()"), "  update: {minReady: 100ms}\n");
    system.start(&["--no-watch"]);
    begun(&system);
    let (keeper, first) = (system.keeper_pid(), system.daemon_pid().unwrap());
    signal(keeper, "KILL");
    until("another daemon", || system.daemon_pid().filter(|pid| *pid != first));
    system.write("pw", "another-second\n");
    let second = system.daemon_pid().unwrap();
    system.write("manifests/watched", &second.to_string());
    signal(second, "KILL");
    let log = logged(&system, "bye");
    assert!(log.contains("half *** whole\n") && log.contains("bye ***\n"), "{log}");
}

#[test]
fn daemons_that_are_killed_at_any_moment_lose_no_line_repeat_none_and_show_no_secret() {
    // In two writes each, so that most kills fall into a line.
    let code = "import os,time\nE=os.environ\nw=lambda t: os.write(1,t.encode())\nfor n in range(4000):\n  w(f'{n} '+E['PW'][:n%13])\n  if n%20==0: time.sleep(.01)\n  w(E['PW'][n%13:]+f' {n}\\n')\ntime.sleep(99)";
    let mut system = system(code, "");
    system.start(&[]);
    let wanted: String = (0..4000).map(|n| format!("{n} *** {n}\n")).collect();
    let mut kills = 0;
    while !system.log_of("a").contains("3999 *** 3999\n") {
        let daemon = until("a daemon", || system.daemon_pid());
        signal(daemon, "KILL");
        until("another daemon", || system.daemon_pid().filter(|pid| *pid != daemon));
        kills += 1;
        assert!(kills < 500, "it gets on");
    }
    assert!(kills > 3, "it was looked at: {kills}");
    let log = system.log_of("a");
    let differs = log.lines().zip(wanted.lines()).find(|(found, wanted)| found != wanted);
    assert_eq!((differs, log.len()), (None, wanted.len()), "after {kills} kills");
}

#[test]
fn an_edited_secret_is_masked_before_and_after() {
    let code = "import os,signal,time\nE=os.environ\nprint('with',E['PW'],flush=True)\ndef bye(*a):\n  print('bye',E['PW'],open('../pw').read().strip(),flush=True)\n  os._exit(0)\nsignal.signal(15,bye)\nwhile True: time.sleep(9)";
    let mut system = system(code, "  update: {minReady: 100ms}\n");
    system.start(&[]);
    logged(&system, "with ***\n");
    system.write("pw", "another-second\n");
    let log = logged(&system, "bye");
    assert!(log.contains("bye *** ***\n"), "the one that is replaced may read the new value: {log}");
    until("the new one", || (system.log_of("a").matches("with ***\n").count() == 2).then_some(()));
    // What has become lines is not left in the spools.
    let run = system.path(".unified-system/run");
    assert_eq!(files_with("hunter2\\|another", &run), "");
}

#[test]
fn what_a_program_says_to_unisys_is_masked_before_it_is_cut() {
    const SHIFTS: [usize; 4] = [0, 1, 5, 12];
    // Commands are heard for 4 KiB, a status for 256 characters: each secret lies across that, so many bytes of it behind.
    let cut = "import os,sys\np=os.environ['PW']\nprint('x'*(4096-len(p)+int(sys.argv[1]))+p+'zz')\nsys.exit(3 if len(sys.argv)>2 or os.path.exists('fail') else 0)";
    let told = "import os,signal,socket,sys\np=os.environ['PW']\ns=socket.socket(socket.AF_UNIX,socket.SOCK_DGRAM)\na=os.environ['NOTIFY_SOCKET']\ns.connect('\\0'+a[1:] if a[0]=='@' else a)\ns.send(('READY=1\\nSTATUS='+'y'*(256-len(p)+int(sys.argv[1]))+p+' '+os.environ['TABBED']).encode())\nsignal.pause()";
    let word = |code: &str| serde_json::to_string(code).unwrap();
    let service = |shift: usize| {
        let ask = |code: &str, more: &str| format!("[python3, -c, {}, \"{shift}\"{more}]", word(code));
        format!(
            "apiVersion: unisys.dev/v1\nkind: Service\nmetadata: {{name: a{shift}}}\nspec:\n  command: {}\n  env: {{PW: {{secret: s, key: pw}}, TABBED: {{secret: s, key: key}}}}\n  probes: {{startup: {{notify: systemd}}, readiness: {{exec: {{command: {}}}, period: 100ms}}}}\n  reload: {{command: {}}}\n",
            ask(told, ""),
            ask(cut, ""),
            ask(cut, ", fails")
        )
    };
    let files: Vec<(String, String)> =
        SHIFTS.iter().map(|shift| (format!("a{shift}.yaml"), service(*shift))).collect();
    let mut all: Vec<(&str, &str)> =
        files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    all.push(("s.yaml", SECRET));
    let mut system = System::new(&all);
    system.write("pw", "hunter2-first\n");
    system.write("key", "tab\tsecretvalue99\n");
    system.start(&[]);
    let names = SHIFTS.map(|shift| format!("a{shift}"));
    for name in &names {
        system.ready(&[name]);
        system.run(&["reload", name]);
    }
    until("reloads are told", || {
        let events = system.ok(&["events", "-o", "json"]);
        (events.matches("ReloadFailed").count() >= SHIFTS.len()).then_some(())
    });
    system.write("manifests/fail", "");
    let mut said = String::new();
    for name in &names {
        said.push_str(&until("its probe and its status are seen", || {
            let shown = system.ok(&["get", "service", name, "-o", "json"]);
            (shown.contains("xxx") && shown.contains("yyy")).then_some(shown)
        }));
        said.push_str(&system.ok(&["describe", name]));
    }
    said.push_str(&system.ok(&["events", "-o", "json"]));
    said.push_str(&std::fs::read_to_string(system.path(".unified-system/logs/unifiedsystem.log")).unwrap());
    for hidden in ["hun", "first", "secretvalue"] {
        let at = said.find(hidden).map(|at| &said[at.saturating_sub(40)..(at + 40).min(said.len())]);
        assert_eq!(at, None, "{hidden}");
    }
}

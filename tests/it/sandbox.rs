//! Cgroups and `security`, seen from inside a program.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use super::support::*;

/// Tries things and says what became of them, a line each, then waits.
const TRY: &str = r"
import os, socket, time
def t(name, f):
    try: f(); print(name, 'ok')
    except OSError as e: print(name, e.errno)
t('read-only', lambda: open('fixed/x', 'w'))
t('read-write', lambda: open('fixed/data/x', 'w'))
t('inaccessible', lambda: os.listdir('secret'))
t('file', lambda: open('key').read())
t('state', lambda: os.listdir('.unified-system'))
t('inet', lambda: socket.socket())
t('unix', lambda: socket.socket(socket.AF_UNIX))
t('device', lambda: open('/dev/null', 'w').write('x'))
t('stdout again', lambda: open('/dev/stdout', 'w').write(''))
if os.environ.get('TRY_TMP'): print('tmp', os.listdir('/tmp')); open('/tmp/mine', 'w')
for line in open('/proc/self/status'):
    if line.startswith(('Cap', 'NoNewPrivs')): print(line.split()[0], line.split()[1])
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
a = os.environ['NOTIFY_SOCKET']
s.connect('\0' + a[1:] if a[0] == '@' else a)
s.send(b'READY=1')
print('done', flush=True)
time.sleep(1000)
";

fn manifest(security: &str, rest: &str) -> String {
    let code = TRY.trim().lines().map(|line| format!("      {line}\n")).collect::<String>();
    format!(
        "apiVersion: unisys.dev/v1\nkind: Service\nmetadata: {{name: a}}\nspec:\n  command:\n  - python3\n  - -uc\n  - |\n{code}  workingDir: ..\n  probes: {{readiness: {{notify: systemd}}}}\n  restart: {{policy: Never}}\n  security: {security}\n{rest}"
    )
}

fn files(system: &System) {
    for dir in ["fixed/data", "secret"] {
        std::fs::create_dir_all(system.path(dir)).unwrap();
    }
    std::fs::write(system.path("key"), "secret").unwrap();
}

fn said(system: &System) -> String {
    until("it has tried everything", || {
        let text = system.run(&["logs", "a", "--tail", "100"]);
        let text = String::from_utf8_lossy(&text.stdout).into_owned();
        (text.contains("done\n") || text.contains("Traceback")).then_some(text)
    })
}

const EACCES: i32 = 13;
const EROFS: i32 = 30;
const EAFNOSUPPORT: i32 = 97;

const KEPT: &str = "{readOnlyPaths: [../fixed], readWritePaths: [../fixed/data], inaccessiblePaths: [../secret, ../key], restrictNetwork: true, capabilities: {drop: [ALL]}}";

/// What every program in [`KEPT`] says.
fn is_kept(text: &str) {
    for (what, result) in [
        ("read-only", EROFS.to_string()),
        ("read-write", "ok".into()),
        ("inaccessible", EACCES.to_string()),
        ("file", EACCES.to_string()),
        ("state", EACCES.to_string()),
        ("inet", EAFNOSUPPORT.to_string()),
        ("unix", "ok".into()),
        ("device", "ok".into()),
        ("stdout again", "ok".into()),
    ] {
        assert!(text.contains(&format!("{what} {result}\n")), "{what} should be {result}: {text}");
    }
    for set in ["CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert!(text.contains(&format!("{set}: 0000000000000000")), "{text}");
    }
    assert!(text.contains("NoNewPrivs: 1"), "{text}");
}

#[test]
fn a_program_is_kept_from_what_its_manifest_says_and_so_are_its_commands() {
    if unisys::os::sandbox::mount_namespace().is_err() {
        eprintln!("skipped: no mount namespaces for this user");
        return;
    }
    // Not in /tmp, which a private /tmp would hide.
    let mut system = System::new_in(Path::new("/dev/shm"));
    files(&system);
    let security = KEPT.replace("{readOnly", "{privateTmp: true, readOnly");
    let probe = "  hooks: {preStart: [{command: [sh, -c, 'ls secret || touch fixed/data/hook']}]}\n  env: {TRY_TMP: '1'}\n";
    system.write("manifests/a.yaml", &manifest(&security, probe));
    system.start(&[]);
    system.ready(&["a"]);
    let words = said(&system);
    is_kept(&words);
    assert!(words.contains("tmp []\n"), "{words}");
    assert!(system.path("fixed/data/hook").exists(), "the hook is in the sandbox too");
    // `exec` is where the program is: the same /tmp, the same walls.
    let output = system.run(&["exec", "a", "--", "sh", "-c", "ls /tmp; ls secret; touch fixed/y"]);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(1), "mine\n".into()));
    assert_eq!(
        text(&output.stderr).matches("denied").count() + text(&output.stderr).matches("Read-only").count(),
        2
    );
    system.ok(&["down"]);
}

#[test]
fn nothing_can_be_put_where_something_is_hidden_not_even_by_root() {
    if unisys::os::sandbox::mount_namespace().is_err() {
        eprintln!("skipped: no mount namespaces for this user");
        return;
    }
    let tries = "touch secret/x || echo dir kept; echo x > key || echo file kept; touch .unified-system/x || echo state kept; echo done; exec sleep 1000";
    let spec = format!(
        "  command: [sh, -c, '{tries}']\n  workingDir: ..\n  security: {{inaccessiblePaths: [../secret, ../key]}}\n"
    );
    let mut system = System::new(&[(
        "a.yaml",
        &format!("apiVersion: unisys.dev/v1\nkind: Service\nmetadata: {{name: a}}\nspec:\n{spec}"),
    )]);
    files(&system);
    system.start(&[]);
    let words = said(&system);
    for kept in ["dir kept", "file kept", "state kept"] {
        assert!(words.contains(kept), "{words}");
    }
}

#[test]
fn who_runs_as_another_user_can_say_that_it_is_ready() {
    if !is_root() {
        eprintln!("skipped: only root runs programs as others");
        return;
    }
    let code = "import os, socket, time; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); \
                a = os.environ[\"NOTIFY_SOCKET\"]; s.sendto(b\"READY=1\", chr(0) + a[1:] if a[0] == \"@\" else a); time.sleep(1000)";
    let mut system = System::new(&[(
        "a.yaml",
        &format!(
            "apiVersion: unisys.dev/v1\nkind: Service\nmetadata: {{name: a}}\nspec:\n  user: nobody\n  workingDir: /\n  command: [/usr/bin/env, python3, -c, '{code}']\n  env: {{NOTIFY_SOCKET: /nowhere}}\n  probes: {{readiness: {{notify: systemd}}}}\n"
        ),
    )]);
    system.start(&[]);
    system.ready(&["a"]);
}

#[test]
fn an_ordinary_user_is_kept_as_well() {
    if !is_root() {
        eprintln!("skipped: every test runs as an ordinary user here");
        return;
    }
    let mut system = System::new(&[("a.yaml", &manifest(KEPT, ""))]);
    files(&system);
    system.belong_to(65534);
    let works = Command::new("unshare").args(["--user", "--mount", "true"]).uid(65534).gid(65534).status();
    if !works.is_ok_and(|status| status.success()) {
        eprintln!("skipped: ordinary users have no user namespaces here");
        return;
    }
    system.start(&[]);
    is_kept(&said(&system));
    // What it cannot give is said beforehand, and not left out.
    system.write("manifests/a.yaml", &manifest("{capabilities: {add: [NET_ADMIN]}}", ""));
    let (code, words) = system.fails(&["validate", "--machine", "manifests"]);
    assert_eq!(code, 1);
    assert!(words.contains("E2014") && words.contains("does not have NET_ADMIN"), "{words}");
}

#[test]
fn what_cannot_be_enforced_fails_the_start_or_is_said() {
    let missing = "inaccessiblePaths: [../nowhere]";
    let mut system = System::new(&[("a.yaml", &manifest(&format!("{{{missing}}}"), ""))]);
    files(&system);
    system.start(&[]);
    let conditions = |word: &str| system.ok(&["describe", "service/a"]).contains(word).then_some(());
    until("it is refused", || conditions("nowhere does not exist [E2014]"));
    assert_eq!(system.json(&["get", "service", "a"])["status"]["readyReplicas"], 0);
    system.write("manifests/a.yaml", &manifest(&format!("{{{missing}, bestEffort: true}}"), ""));
    system.ready(&["a"]);
    conditions("runs without `inaccessiblePaths`").expect("a condition says so");
    assert!(system.ok(&["events", "a"]).contains("NotEnforced"));
    assert!(said(&system).contains("inaccessible ok"));
}

#[test]
fn security_that_cannot_be_meant_is_refused() {
    for (security, expected) in [
        ("{capabilities: {drop: [NET_RWA]}}", "did you mean `NET_RAW`?"),
        ("{capabilities: {add: [ALL]}}", "`ALL` cannot be added"),
        ("{readOnlyPaths: [/srv], inaccessiblePaths: [/srv/.]}", "two rules for the path /srv"),
        ("{restrictNetwork: true, noNewPrivileges: false}", "set-user-ID"),
    ] {
        let system = System::new(&[("a.yaml", &manifest(security, ""))]);
        let (code, words) = system.fails(&["validate", "manifests"]);
        assert_eq!(code, 1, "{security}");
        assert!(words.contains("E1609") && words.contains(expected), "{security}: {words}");
    }
}

/// A cgroup (v2) of our own below the root, into which a system is put as an init would. `None` where there is none to have.
struct Subtree(std::path::PathBuf);

impl Subtree {
    fn new(name: &str) -> Option<Self> {
        if !is_root() || Path::new("/run/systemd/system").exists() {
            return None;
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        let name = format!("unisys-test-{name}-{}", std::process::id());
        let dir = unisys::os::cgroup::own_dir(&mounts, &own)?.join(name);
        std::fs::create_dir(&dir).ok().map(|()| Self(dir))
    }

    /// As an init does it: the process is there before the program begins.
    fn start(&self, system: &mut System) {
        let enter = "echo $$ > \"$0/cgroup.procs\" && exec \"$@\"";
        system.within = ["sh", "-c", enter, self.0.to_str().unwrap()].map(str::to_owned).into();
        system.start(&[]);
    }
}

impl Drop for Subtree {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[test]
fn in_a_cgroup_of_its_own_nothing_of_an_instance_survives_its_stop() {
    let Some(subtree) = Subtree::new("stop") else {
        eprintln!("skipped: no cgroup v2 that may be written");
        return;
    };
    // It leaves its session, clears its environment and closes its output: without a cgroup nobody could say whose it is.
    let code = "setsid env -i sleep 98765 >/dev/null 2>&1 & disown 2>/dev/null; exec sleep 98764";
    let service = |limit: &str| {
        format!(
            "apiVersion: unisys.dev/v1\nkind: Service\nmetadata: {{name: a}}\nspec:\n  command: [bash, -c, '{code}']\n  resources: {{pids: {{max: {limit}}}}}\n"
        )
    };
    let mut system = System::new(&[("a.yaml", &service("50"))]);
    subtree.start(&mut system);
    system.ready(&["a"]);
    let pid = system.pid("a");
    let of = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    assert!(of(pid).contains("/a.0."), "{}", of(pid));
    assert!(of(system.keeper_pid()).contains("/supervisor"));
    let dir =
        subtree.0.join(of(pid).split_once("unisys-test-stop-").unwrap().1.trim().split_once('/').unwrap().1);
    let members = || -> Vec<u32> {
        let text = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    };
    let both = until("both are there", || Some(members()).filter(|members| members.len() == 2));
    // Limits change in place.
    system.write("manifests/a.yaml", &service("60"));
    until("the change is there", || system.ok(&["events", "a"]).contains("Updated").then_some(()));
    assert_eq!(system.pid("a"), pid);
    // A new keeper comes to the same tree.
    let keeper = system.keeper_pid();
    signal(keeper, "KILL");
    until("another keeper", || {
        (system.json(&["get", "system"])["status"]["keeperPid"].as_u64()? != u64::from(keeper)).then_some(())
    });
    system.ok(&["stop", "a"]);
    until("nothing is left", || both.iter().all(|pid| !alive(*pid)).then_some(()));
    until("its cgroup is gone", || (!dir.exists()).then_some(()));
    system.ok(&["down"]);
    until("the tree is gone", || {
        (std::fs::read_dir(&subtree.0).unwrap().flatten().filter(|e| e.path().is_dir()).count() == 0)
            .then_some(())
    });
}

#[test]
fn probes_run_in_the_cgroup_of_what_they_ask_and_what_they_leave_ends_with_it() {
    let Some(subtree) = Subtree::new("probe") else {
        eprintln!("skipped: no cgroup v2 that may be written");
        return;
    };
    // It leaves somebody whom nobody could name it by.
    let probe = "[bash, -c, 'cat /proc/self/cgroup > ../asked; setsid env -i sleep 98763 >/dev/null 2>&1 & echo $! > ../left']";
    let rest = format!("  probes: {{readiness: {{exec: {{command: {probe}}}, period: 1h}}}}\n");
    let mut system = System::new(&[("a.yaml", &sleeper("a", &rest))]);
    subtree.start(&mut system);
    system.ready(&["a"]);
    let asked = std::fs::read_to_string(system.path("asked")).unwrap();
    assert!(asked.lines().any(|line| line.starts_with("0::") && line.contains("/a.0.")), "{asked}");
    let left: u32 = std::fs::read_to_string(system.path("left")).unwrap().trim().parse().unwrap();
    system.ok(&["stop", "a"]);
    until("nothing is left of it", || (!alive(left)).then_some(()));
    system.ok(&["down"]);
}

#[test]
fn the_dump_of_one_with_a_cgroup_has_what_that_used_and_how_long_it_waited() {
    let Some(subtree) = Subtree::new("used") else {
        eprintln!("skipped: no cgroup v2 that may be written");
        return;
    };
    let code = "sum(range(3000000)); raise SystemExit(3)";
    let mut system = System::new(&[("a.yaml", &python("a", code, "  restart: {policy: Never}\n"))]);
    subtree.start(&mut system);
    let id =
        until("a crash dump", || Some(system.json(&["crashes", "ls", "a"])[0]["id"].as_str()?.to_owned()));
    let cgroup = &system.json(&["crashes", "show", &id])["detail"]["resources"]["cgroup"];
    assert!(cgroup["userCpuMs"].as_u64() > Some(0), "{cgroup}");
    // Kernels may be without pressure, and this cgroup without controllers.
    let has_pressure = subtree.0.join("memory.pressure").exists();
    for kind in ["memory", "cpu", "io"] {
        assert_eq!(cgroup["pressure"][kind]["some"]["avg10"].is_f64(), has_pressure, "{kind}: {cgroup}");
    }
    assert_eq!(cgroup["peakMemoryBytes"].is_u64(), subtree.0.join("memory.peak").exists(), "{cgroup}");
}

#[test]
fn limits_that_nothing_enforces_are_said_and_stop_nothing() {
    let (controllers, _) =
        unisys::plan::machine::Machine::controllers(&unisys::os::files::ThisMachine::default());
    if !controllers.is_empty() {
        eprintln!("skipped: this machine enforces them");
        return;
    }
    let system =
        System::up(&[("a.yaml", &sleeper("a", "  resources: {memory: {max: 64Mi}, cpu: {max: 0.5}}\n"))]);
    system.ready(&["a"]);
    assert!(system.ok(&["describe", "service/a"]).contains("runs without its limit of memory, cpu"));
    let output = system.run(&["validate", "--machine", "manifests"]);
    assert!(
        output.status.success() && text(&output.stderr).contains("warning[E2013]"),
        "{}",
        text(&output.stderr)
    );
    assert!(system.ok(&["plan", "-f", "manifests"]).is_empty() || !text(&output.stderr).is_empty());
    // Where somebody looks, once: not with every start, nor by the next daemon.
    let told = |words: &str| words.matches("service/a runs without its limit of memory, cpu").count();
    assert_eq!((told(&system.terminal()), told(&system.ok(&["events"]))), (1, 1));
    system.ok(&["restart", "a"]);
    let (pid, daemon) = (system.pid("a"), system.daemon_pid().unwrap());
    signal(daemon, "KILL");
    until("another daemon", || system.daemon_pid().filter(|pid| *pid != daemon));
    assert_eq!(system.pid("a"), pid);
    assert_eq!((told(&system.terminal()), told(&system.ok(&["events"]))), (1, 1));
    // Another limit is another matter, and who starts it in the background has no terminal to look at.
    system.write("manifests/a.yaml", &sleeper("a", "  resources: {pids: {max: 9}}\n"));
    until("it is told", || system.ok(&["events"]).contains("its limit of pids").then_some(()));
    let detached = System::new(&[("a.yaml", &sleeper("a", "  resources: {memory: {max: 64Mi}}\n"))]);
    let output = detached.run(&["up", "-d"]);
    let words = text(&output.stderr);
    detached.ok(&["down"]);
    assert!(words.contains("runs without its limit of memory") && words.contains("E2013"), "{words}");
}

#[test]
fn a_program_is_told_the_home_and_name_of_the_user_that_it_runs_as() {
    if !is_root() {
        return;
    }
    // Name, home and shell of somebody who is not root.
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    let mut users = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let user = users.find(|user| user[2] != "0" && user[5].len() > 1).unwrap();
    let service = |name: &str, env: &str| {
        let spec = format!(
            "spec: {{command: [env], user: {}, workingDir: /, restart: {{policy: Never}}{env}}}",
            user[0]
        );
        format!("apiVersion: unisys.dev/v1\nkind: Service\nmetadata: {{name: {name}}}\n{spec}\n")
    };
    let own = service("b", ", env: {HOME: /its/own, USER: itself}");
    let mut system = System::new(&[("a.yaml", &service("a", "")), ("b.yaml", &own)]);
    system.start_in(&[], &[("HOME", Path::new("/somebody/elses"))]);
    let said = |unit: &str, name: &str| {
        let log =
            until("it says it", || Some(system.log_of(unit)).filter(|log| log.contains("UNISYS_INSTANCE")));
        let mut values = log.lines().filter_map(|line| line.strip_prefix(&format!("{name}=")));
        let value = values.next().map(str::to_owned);
        assert_eq!(values.next(), None);
        value
    };
    let nobody_gets_in = user[6].ends_with("/nologin") || user[6].ends_with("/false");
    let shell = (!nobody_gets_in).then(|| user[6].to_owned());
    let (name, home) = (Some(user[0].to_owned()), Some(user[5].to_owned()));
    let all = |unit: &str| ["HOME", "USER", "LOGNAME", "SHELL"].map(|name| said(unit, name));
    assert_eq!(all("a"), [home, name.clone(), name.clone(), shell.clone()]);
    assert_eq!(all("b"), [Some("/its/own".into()), Some("itself".into()), name, shell]);
    let within = system.ok(&["exec", "a", "--", "env"]);
    assert!(within.lines().any(|line| line == format!("HOME={}", user[5])), "{within}");
    assert_eq!(within.matches("HOME=").count(), 1);
}

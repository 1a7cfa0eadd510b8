//! A system in a directory of its own, and ways to look at it. Nothing here sleeps for a time: everything waits for a condition.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

pub const BINARY: &str = env!("CARGO_BIN_EXE_unisys");

/// How long anything may take before a test says that it never came.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until something is there.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for: {what}");
        std::thread::yield_now();
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// A copy of the binary, made by another process: while this one writes a program, a child that another test has just forked holds
/// it open as well, and nobody can execute it (ETXTBSY, execve(2)).
pub fn copy_program(to: &Path) {
    assert!(Command::new("cp").arg(BINARY).arg(to).status().unwrap().success());
}

/// A command that goes on telling, and the lines of its standard output so far.
pub struct Follower {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Follower {
    pub fn of(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = Arc::<Mutex<Vec<String>>>::default();
        let (told, out) = (lines.clone(), BufReader::new(child.stdout.take().unwrap()));
        std::thread::spawn(move || {
            out.lines().map_while(Result::ok).for_each(|line| told.lock().unwrap().push(line));
        });
        Self { child, lines }
    }

    pub fn shown(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// Waits until a line has been shown.
    pub fn shows(&self, line: &str) {
        until(&format!("`{line}` is shown, and not only {:?}", self.shown()), || {
            self.lines.lock().unwrap().iter().any(|shown| shown == line).then_some(())
        });
    }

    /// Its exit code, and what it said on its standard error.
    pub fn ended(mut self) -> (Option<i32>, String) {
        let code = self.child.wait().unwrap().code();
        (code, std::io::read_to_string(self.child.stderr.take().unwrap()).unwrap())
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub struct System {
    pub dir: TempDir,
    /// Whom everything runs as, if not as us.
    user: Option<u32>,
    binary: PathBuf,
    /// A command that becomes `up`, which is appended to it.
    pub within: Vec<String>,
    keeper: Option<Child>,
}

impl System {
    /// A directory with manifests; nothing runs yet.
    pub fn new(manifests: &[(&str, &str)]) -> Self {
        let system = Self::with(tempfile::tempdir().unwrap());
        for (name, text) in manifests {
            system.write(&format!("manifests/{name}"), text);
        }
        system
    }

    /// One without manifests, in a directory of its own there.
    pub fn new_in(dir: &Path) -> Self {
        Self::with(tempfile::tempdir_in(dir).unwrap())
    }

    fn with(dir: TempDir) -> Self {
        let system = Self { dir, user: None, binary: BINARY.into(), within: Vec::new(), keeper: None };
        fs::create_dir(system.path("manifests")).unwrap();
        system
    }

    /// It runs a copy of the binary, which can be replaced.
    pub fn has_own_binary(&mut self) {
        self.binary = self.path("unisys");
        copy_program(&self.binary);
    }

    /// Its binary lies elsewhere from now on, and is not where it was.
    pub fn move_binary(&mut self) {
        let elsewhere = self.path("elsewhere");
        fs::rename(&self.binary, &elsewhere).unwrap();
        self.binary = elsewhere;
    }

    /// Everything in it, and every command from now on, is another user's.
    pub fn belong_to(&mut self, uid: u32) {
        self.has_own_binary();
        let status =
            Command::new("chown").args(["-R", &format!("{uid}:{uid}")]).arg(self.dir.path()).status();
        assert!(status.unwrap().success());
        self.user = Some(uid);
    }

    /// The same, running and answering.
    pub fn up(manifests: &[(&str, &str)]) -> Self {
        let mut system = Self::new(manifests);
        system.start(&[]);
        system
    }

    pub fn start(&mut self, extra: &[&str]) {
        self.start_in(extra, &[]);
    }

    /// The same with something in its own environment.
    pub fn start_in(&mut self, extra: &[&str], env: &[(&str, &Path)]) {
        let log = fs::File::create(self.path("up.log")).unwrap();
        self.start_saying(extra, env, log);
    }

    /// The same, with what `up` says to something else than a file.
    pub fn start_saying(&mut self, extra: &[&str], env: &[(&str, &Path)], log: fs::File) {
        let mut command = self.command(&["up"]);
        if let Some((program, words)) = self.within.split_first() {
            command = Command::new(program);
            command.args(words).arg(&self.binary).arg("up").current_dir(self.dir.path());
        }
        let child = command
            .args(extra)
            .envs(env.iter().copied())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        self.keeper = Some(child);
        until("the daemon answers", || {
            if let Some(status) = self.keeper.as_mut().unwrap().try_wait().unwrap() {
                panic!("up ended with {status}: {}", self.terminal());
            }
            self.run(&["get", "system"]).status.success().then_some(())
        });
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        // As an editor does: a new file in place of the old one.
        let temporary = self.path(&format!("{name}.tmp~"));
        fs::write(&temporary, text).unwrap();
        fs::rename(temporary, self.path(name)).unwrap();
    }

    pub fn terminal(&self) -> String {
        fs::read_to_string(self.path("up.log")).unwrap_or_default()
    }

    pub fn command(&self, args: &[&str]) -> Command {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new(&self.binary);
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        command
            .args(args)
            .current_dir(self.dir.path())
            .env_remove("UNISYS_SOCKET")
            .env_remove("UNISYS_STATE_DIR");
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// stdout of a verb that has to succeed.
    pub fn ok(&self, args: &[&str]) -> String {
        // A daemon that was killed is back in a moment.
        let output = until("an answer of the daemon", || {
            let output = self.run(args);
            (output.status.code() != Some(3)).then_some(output)
        });
        assert!(output.status.success(), "{args:?}: {}\n{}", text(&output.stderr), self.terminal());
        text(&output.stdout)
    }

    /// Exit code and stderr of a verb.
    pub fn fails(&self, args: &[&str]) -> (i32, String) {
        let output = self.run(args);
        (output.status.code().unwrap_or(-1), text(&output.stderr))
    }

    pub fn json(&self, args: &[&str]) -> Value {
        let mut all = args.to_vec();
        all.extend(["-o", "json"]);
        serde_json::from_str(&self.ok(&all)).unwrap()
    }

    /// `rollout status`; its exit code says how it went.
    pub fn rollout(&self, name: &str) -> Value {
        serde_json::from_slice(&self.run(&["rollout", "status", name, "-o", "json"]).stdout)
            .unwrap_or_default()
    }

    pub fn instance(&self, name: &str) -> Value {
        self.json(&["get", "service", name])["status"]["instances"][0].clone()
    }

    /// The same of a unit that may not be known yet, by a daemon that may not answer.
    pub fn instance_if_any(&self, name: &str) -> Option<Value> {
        let output = self.run(&["get", "service", name, "-o", "json"]);
        let object: Value = serde_json::from_slice(&output.stdout).ok()?;
        Some(object["status"]["instances"][0].clone())
    }

    pub fn pid(&self, name: &str) -> u32 {
        until(&format!("{name} has a pid"), || self.instance(name)["pid"].as_u64()) as u32
    }

    pub fn ready(&self, names: &[&str]) {
        let mut args = vec!["wait", "--for=condition=Ready", "--timeout", "30s"];
        args.extend(names);
        self.ok(&args);
    }

    /// The log of a service as it lies on the disk.
    pub fn log_of(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(&format!(".unified-system/logs/services/{name}.log")))
            .unwrap_or_default()
    }

    pub fn keeper_pid(&self) -> u32 {
        self.keeper.as_ref().unwrap().id()
    }

    pub fn daemon_pid(&self) -> Option<u32> {
        let output = self.run(&["get", "system", "-o", "json"]);
        let value: Value = serde_json::from_slice(&output.stdout).ok()?;
        Some(value["status"]["daemonPid"].as_u64()? as u32)
    }

    /// Its programs that live, known to unisys or not: they carry its marker.
    pub fn marked(&self) -> Vec<u32> {
        let id = fs::read_to_string(self.path(".unified-system/run/id")).unwrap();
        let marker = format!("UNISYS_INSTANCE={}/", id.trim());
        let pids = fs::read_dir("/proc").unwrap().flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let carries = |pid: &u32| {
            let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            String::from_utf8_lossy(&environ).contains(&marker) && alive(*pid)
        };
        pids.filter(carries).collect()
    }

    /// Waits for the keeper's end; its exit code.
    pub fn ended(&mut self) -> i32 {
        let keeper = self.keeper.as_mut().unwrap();
        let status = until("the keeper ends", || keeper.try_wait().unwrap());
        self.keeper = None;
        status.code().unwrap_or(-1)
    }
}

impl System {
    /// Keepers and daemons of it that run.
    pub fn processes(&self) -> Vec<u32> {
        let here = self.dir.path().display().to_string();
        let pids = fs::read_dir("/proc").unwrap().flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let is_ours = |pid: &u32| {
            let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            alive(*pid) && String::from_utf8_lossy(&words).contains(&here)
        };
        pids.filter(is_ours).collect()
    }
}

impl Drop for System {
    fn drop(&mut self) {
        if let Some(mut keeper) = self.keeper.take() {
            signal(keeper.id(), "TERM");
            let deadline = Instant::now() + PATIENCE;
            while keeper.try_wait().ok().flatten().is_none() {
                if Instant::now() > deadline {
                    let _ = keeper.kill();
                }
                std::thread::park_timeout(Duration::from_millis(5));
            }
        }
        self.end_heirs();
    }
}

impl System {
    /// A test that killed a keeper may leave the one that took over.
    fn end_heirs(&self) {
        let lock = self.path(".unified-system/lock");
        let heir = || {
            let pid = fs::read_to_string(&lock).ok()?.trim().parse::<u32>().ok()?;
            self.processes().contains(&pid).then_some(pid)
        };
        let deadline = Instant::now() + PATIENCE;
        while let Some(pid) = heir() {
            signal(pid, if Instant::now() > deadline { "KILL" } else { "TERM" });
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }
}

/// The user that tests become where a fault needs one who is not root.
pub const NOBODY: u32 = 65534;

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub fn signal(pid: u32, name: &str) {
    Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap();
}

/// Kills keeper and daemon at once: neither has the time to put another one in the other's place.
pub fn kill_both(keeper: u32, daemon: u32) {
    let both = format!("kill -STOP {daemon}; kill -KILL {keeper} {daemon}");
    Command::new("sh").args(["-c", &both]).status().unwrap();
}

pub fn alive(pid: u32) -> bool {
    // A zombie is gone for everybody but its parent.
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// A port that nobody uses.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A service of one line of Python.
pub fn python(name: &str, code: &str, rest: &str) -> String {
    let code = serde_json::to_string(code).unwrap();
    format!(
        "apiVersion: unisys.dev/v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  command: [python3, -u, -c, {code}]\n{rest}"
    )
}

/// A service that does nothing for a long time.
pub fn sleeper(name: &str, rest: &str) -> String {
    format!(
        "apiVersion: unisys.dev/v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  command: [sleep, \"1000\"]\n{rest}"
    )
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

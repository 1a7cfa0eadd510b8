//! A system under test, and what can be done to it: everything is found and killed by pid, from outside.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use serde_json::Value;
use tempfile::TempDir;
use unisys::os::process;

const BINARY: &str = env!("CARGO_BIN_EXE_unisys");
/// How long anything may take before the suite says that it never came.
const PATIENCE: Duration = Duration::from_secs(40);

pub struct Machine {
    pub dir: TempDir,
    up: Option<Child>,
}

/// Waits until something is there.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> Result<T, String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if Instant::now() > deadline {
            return Err(format!("waited in vain for: {what}"));
        }
        std::thread::sleep(Duration::from_millis(3));
    }
}

pub fn kill(pid: u32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid as i32) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

pub fn is_alive(pid: u32) -> bool {
    process::stat(pid).is_some_and(|stat| stat.is_alive())
}

/// One life of a program, as the program itself reported it.
#[derive(Clone, Debug)]
pub struct Life {
    pub name: String,
    pub pid: u32,
    /// When it started, on the clock of this boot: no other life of this name has it.
    pub mark: u64,
    pub version: String,
    /// Code, lines of stdout, lines of stderr.
    pub end: Option<(i32, u32, u32)>,
}

impl Machine {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["manifests", "locks"] {
            fs::create_dir(dir.path().join(name)).expect("a directory");
        }
        Self { dir, up: None }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// As an editor does: a new file in place of the old one.
    pub fn write(&self, text: &str) {
        let temporary = self.path("manifests/.all");
        fs::write(&temporary, text).expect("a file");
        fs::rename(temporary, self.path("manifests/all.yaml")).expect("a file");
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command.args(arguments).current_dir(self.dir.path()).stdin(Stdio::null());
        command.env_remove("UNISYS_SOCKET").env_remove("UNISYS_STATE_DIR");
        command
    }

    pub fn launch(&mut self) {
        let log = fs::OpenOptions::new().append(true).create(true).open(self.path("up.log")).expect("a log");
        let copy = log.try_clone().expect("a log");
        let child = self.command(&["--quiet", "up"]).stdout(log).stderr(copy).spawn().expect("unisys");
        self.up = Some(child);
    }

    /// Its daemon answers.
    pub fn answers(&self) -> bool {
        let output = self.command(&["get", "system", "-o", "name"]).output();
        output.is_ok_and(|output| output.status.success())
    }

    pub fn ask(&self, arguments: &[&str]) -> Result<String, String> {
        until("an answer", || {
            let output = self.command(arguments).output().ok()?;
            match output.status.code() {
                Some(0) => Some(Ok(String::from_utf8_lossy(&output.stdout).into_owned())),
                // No daemon just now.
                Some(3) => None,
                _ => Some(Err(format!("{arguments:?}: {}", String::from_utf8_lossy(&output.stderr)))),
            }
        })?
    }

    /// Processes of this system that run this verb of unisys.
    fn running(&self, verbs: &[&str]) -> Vec<u32> {
        let here = self.dir.path().display().to_string();
        let mine = |pid: &u32| {
            let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<_> = words.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
            words.get(1).is_some_and(|verb| verbs.contains(&verb.as_ref()))
                && words.iter().any(|word| word.contains(&here))
        };
        let all = process::all().into_iter().filter(|stat| stat.is_alive() && stat.name == "unisys");
        all.map(|stat| stat.pid).filter(mine).collect()
    }

    pub fn daemon(&self) -> Option<u32> {
        self.running(&["daemon"]).first().copied()
    }

    /// The keeper has started the daemon that runs.
    pub fn has_own_daemon(&self) -> bool {
        let keeper = self.keeper();
        let parents = self.running(&["daemon"]).into_iter().filter_map(process::stat);
        keeper.is_some() && parents.into_iter().any(|stat| Some(stat.ppid) == keeper)
    }

    pub fn keeper(&self) -> Option<u32> {
        let up = self.up.as_ref().map(Child::id).filter(|pid| is_alive(*pid));
        up.or_else(|| self.running(&["keeper"]).first().copied())
    }

    /// Collects an `up` that was killed.
    pub fn reap(&mut self) {
        if let Some(up) = &mut self.up
            && up.try_wait().ok().flatten().is_some()
        {
            self.up = None;
        }
    }

    pub fn terminal(&self) -> String {
        fs::read_to_string(self.path("up.log")).unwrap_or_default()
    }

    /// The lives that the programs reported, in the order of their starts.
    pub fn lives(&self) -> Vec<Life> {
        let text = fs::read_to_string(self.path("board")).unwrap_or_default();
        let mut lives: Vec<Life> = Vec::new();
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let number = |index: usize| words.get(index).and_then(|word| word.parse::<u32>().ok());
            let (Some(kind), Some(name), Some(pid)) = (words.first(), words.get(1), number(2)) else {
                continue;
            };
            let version = words.get(3).map_or_else(String::new, |word| (*word).to_owned());
            match *kind {
                "start" => {
                    let mark = words.get(4).and_then(|word| word.parse().ok()).unwrap_or(0);
                    lives.push(Life { name: (*name).to_owned(), pid, mark, version, end: None });
                }
                "end" => {
                    let life = lives.iter_mut().rev().find(|life| life.pid == pid && life.name == *name);
                    if let (Some(life), Some(code), Some(out), Some(err)) =
                        (life, number(5), number(6), number(7))
                    {
                        life.end = Some((code as i32, out, err));
                    }
                }
                _ => {}
            }
        }
        lives
    }

    /// Lines of the board that begin with this word.
    pub fn reported(&self, word: &str) -> Vec<String> {
        let text = fs::read_to_string(self.path("board")).unwrap_or_default();
        let found = text.lines().filter(|line| line.split(' ').next() == Some(word));
        found.map(str::to_owned).collect()
    }

    /// What unisys told of itself: one object a line.
    pub fn told(&self) -> Vec<Value> {
        let path = self.path(".unified-system/logs/unifiedsystem.log");
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Lines of the logs that did not arrive, and lines that arrived more than once.
    pub fn compare_logs(&self, lives: &[Life]) -> (u64, u64) {
        let mut logs: BTreeMap<String, BTreeMap<(u64, String), Vec<u32>>> = BTreeMap::new();
        let names: BTreeSet<&String> = lives.iter().map(|life| &life.name).collect();
        for name in names {
            let path = self.path(&format!(".unified-system/logs/services/{name}.log"));
            let text = fs::read_to_string(path).unwrap_or_default();
            let found = logs.entry(name.clone()).or_default();
            for line in text.lines() {
                let words: Vec<&str> = line.split(' ').collect();
                if let [mark, stream, number] = words[..]
                    && let (Ok(mark), Ok(number)) = (mark.parse(), number.parse())
                {
                    found.entry((mark, stream.to_owned())).or_default().push(number);
                }
            }
        }
        let (mut lost, mut repeated) = (0, 0);
        for life in lives {
            let Some((_, out, err)) = life.end else { continue };
            for (stream, count) in [("out", out), ("err", err)] {
                let key = (life.mark, stream.to_owned());
                let found = logs.get(&life.name).and_then(|log| log.get(&key)).cloned().unwrap_or_default();
                let different: BTreeSet<u32> = found.iter().copied().collect();
                repeated += (found.len() - different.len()) as u64;
                let missing: Vec<u32> = (1..=count).filter(|number| !different.contains(number)).collect();
                if !missing.is_empty() && super::tells() {
                    println!("lost of {life:?}, {stream}: {missing:?}");
                }
                lost += missing.len() as u64;
            }
        }
        (lost, repeated)
    }

    /// A keeper or daemon that a victim started before it was killed itself.
    pub fn destroy_daemons(&mut self) {
        for pid in self.running(&["daemon", "keeper"]) {
            kill(pid, Signal::KILL);
        }
        if let Some(up) = &mut self.up {
            let _ = up.wait();
        }
        self.up = None;
    }

    /// The processes of it, for a person to look at.
    pub fn processes(&self) -> String {
        let marker = self.dir.path().display().to_string();
        let mut found = self.running(&["daemon", "keeper", "up", "--quiet"]);
        found.extend(self.up.as_ref().map(Child::id));
        found.sort_unstable();
        found.dedup();
        let words = found.iter().map(|pid| {
            let stat = process::stat(*pid);
            let stack = fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
            format!("  {stat:?} {stack}\n")
        });
        let programs = self.programs(&marker).len();
        words.collect::<String>() + &format!("  and {programs} with its directory in their arguments\n")
    }

    /// Everything of it ends, whatever state it is in.
    pub fn destroy(&mut self) {
        let marker = self.dir.path().display().to_string();
        for _ in 0..100 {
            let mut found = self.running(&["daemon", "keeper"]);
            found.extend(self.up.as_ref().map(Child::id));
            found.extend(self.programs(&marker));
            for pid in &found {
                kill(*pid, Signal::KILL);
            }
            if let Some(up) = &mut self.up {
                let _ = up.wait();
            }
            self.up = None;
            if found.is_empty() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn programs(&self, marker: &str) -> Vec<u32> {
        let mine = |pid: &u32| process::command(*pid).contains(marker);
        let all = process::all().into_iter().filter(process::Stat::is_alive);
        all.map(|stat| stat.pid).filter(mine).collect()
    }

    /// Keeps what a failed round left, for a person to look at.
    pub fn keep(self) -> PathBuf {
        let Self { dir, .. } = self;
        dir.keep()
    }
}

pub fn own_program() -> PathBuf {
    std::env::current_exe().unwrap_or_else(|_| Path::new("/proc/self/exe").to_owned())
}

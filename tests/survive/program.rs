//! The programs that are kept alive: this very binary, run again with `--program`. Each writes what it did where the suite can
//! compare it with what unisys says of it.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, flock};
use unisys::os::{clock, signals};

/// Between two lines.
const PACE: Duration = Duration::from_millis(20);
const SIGTERM: i32 = 15;

/// `KIND DIR NAME VERSION`: what it is, where it reports, what it is called.
pub fn run(arguments: &[String]) -> ! {
    let [kind, dir, name, version, ..] = arguments else { std::process::exit(99) };
    let dir = PathBuf::from(dir);
    match kind.as_str() {
        "steady" => serve(&dir, name, version, None),
        "crasher" => serve(&dir, name, version, Some(lifetime())),
        "tree" => tree(&dir, name),
        "descendant" => descendant(&dir, name, version),
        _ => std::process::exit(98),
    }
}

/// Lines that crashers write before they end: between 1 and 8.
fn lifetime() -> u32 {
    1 + std::process::id() % 8
}

/// One line a line of the board, written at once: `start`, `end`, `duplicate`.
fn report(dir: &Path, words: &str) {
    let file = OpenOptions::new().append(true).create(true).open(dir.join("board"));
    let written = file.and_then(|mut file| file.write_all(format!("{words}\n").as_bytes()));
    if written.is_err() {
        std::process::exit(97);
    }
}

/// Held while this program lives: a second one of the same name and version at the same time is a duplicate.
fn claim(dir: &Path, name: &str, version: &str) -> Option<File> {
    let path = dir.join("locks").join(format!("{name}-{version}"));
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(path).ok()?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).ok().map(|()| file)
}

fn serve(dir: &Path, name: &str, version: &str, lines: Option<u32>) -> ! {
    let signals = signals::descriptor(&[SIGTERM]).unwrap_or_else(|_| std::process::exit(96));
    let pid = std::process::id();
    // Numbers of processes come again within one round: lines are told apart by when their program started.
    let mark = clock::mono().0;
    let claimed = claim(dir, name, version);
    report(dir, &format!("start {name} {pid} {version} {mark}"));
    if claimed.is_none() {
        report(dir, &format!("duplicate {name} {pid} {version}"));
    }
    let (mut out, mut err) = (0u32, 0u32);
    let code = loop {
        out += 1;
        println!("{mark} out {out}");
        if out % 4 == 0 {
            err += 1;
            eprintln!("{mark} err {err}");
        }
        if lines.is_some_and(|lines| out >= lines) {
            break 1 + (pid % 100) as i32;
        }
        if waits(&signals, PACE) {
            break 0;
        }
    };
    report(dir, &format!("end {name} {pid} {version} {mark} {code} {out} {err}"));
    std::process::exit(code)
}

/// Waits; true when it was told to end.
fn waits(signals: &OwnedFd, time: Duration) -> bool {
    let time = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) };
    let _ = poll(&mut [PollFd::new(signals, PollFlags::IN)], Some(&time));
    !signals::read(signals).is_empty()
}

/// A service with six descendants, each escaping in another way; then it waits to be told to end.
fn tree(dir: &Path, name: &str) -> ! {
    let signals = signals::descriptor(&[SIGTERM]).unwrap_or_else(|_| std::process::exit(96));
    for way in ["plain", "ignores", "group", "session", "orphan", "daemon"] {
        start(dir, name, way);
    }
    report(dir, &format!("start {name} {} tree 0", std::process::id()));
    while !waits(&signals, Duration::from_secs(3600)) {}
    std::process::exit(0)
}

fn start(dir: &Path, name: &str, way: &str) {
    let program = std::env::current_exe().unwrap_or_else(|_| std::process::exit(95));
    let child = Command::new(program)
        .args(["--program", "descendant"])
        .arg(dir)
        .args([name, way])
        .stdin(Stdio::null())
        .spawn();
    if child.is_err() {
        std::process::exit(94);
    }
}

/// One that does not want to be found.
fn descendant(dir: &Path, name: &str, way: &str) -> ! {
    match way {
        "ignores" => drop(signals::descriptor(&[SIGTERM])),
        "group" => drop(rustix::process::setpgid(None, None)),
        "session" => drop(rustix::process::setsid()),
        // Its parent ends: it belongs to whoever reaps orphans.
        "orphan" => {
            start(dir, name, "ignores");
            std::process::exit(0)
        }
        // As daemon(3) does it: a session of its own, orphaned, deaf to SIGTERM.
        "daemon" => {
            let _ = rustix::process::setsid();
            start(dir, name, "group");
            std::process::exit(0)
        }
        _ => {}
    }
    report(dir, &format!("descendant {name} {} {way}", std::process::id()));
    loop {
        std::thread::park();
    }
}

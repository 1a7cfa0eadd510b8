//! The daemon as the keeper sees it: a child that is started again at once when it dies.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::base::{BackoffCurve, Instant, Rng};
use crate::os::{clock, packet, signals};

use super::attention::Attention;

/// A daemon that dies at once is tried again ever more slowly: services do not need it, and a person may be mending it.
const BACKOFF: BackoffCurve = BackoffCurve {
    initial: Duration::from_millis(50),
    factor: 2.0,
    max: Duration::from_secs(10),
    jitter: 0.1,
};
/// Alive this long, it is well.
const WELL_AFTER: Duration = Duration::from_secs(10);

pub struct Daemon {
    /// Its program and arguments; the socket's number is added.
    program: PathBuf,
    arguments: Vec<String>,
    pub pid: Option<u32>,
    pub socket: Option<OwnedFd>,
    /// It understands packets that hold several messages.
    pub several: bool,
    /// Whether it still hears what it is told.
    pub attention: Attention,
    started: Instant,
    failures: u32,
    /// When it is started again.
    pub start_at: Option<Instant>,
    rng: Rng,
}

impl Daemon {
    pub fn new(program: PathBuf, arguments: Vec<String>) -> Self {
        let rng = Rng::new(u64::from_ne_bytes(clock::random()));
        Self {
            program,
            arguments,
            pid: None,
            socket: None,
            several: false,
            attention: Attention::default(),
            started: Instant(0),
            failures: 0,
            start_at: Some(Instant(0)),
            rng,
        }
    }

    /// Starts it in a process group of its own: the terminal's Ctrl-C is the keeper's to hear.
    ///
    /// The binary that the keeper was started as may be gone from the disk just now: then its own image is the daemon.
    pub fn start(&mut self) -> io::Result<()> {
        match self.start_as(&self.program.clone()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.start_as(Path::new("/proc/self/exe"))
            }
            other => other,
        }
    }

    fn start_as(&mut self, program: &Path) -> io::Result<()> {
        let (ours, theirs) = packet::pair()?;
        let number = theirs.as_raw_fd();
        let mut command = Command::new(program);
        command.args(&self.arguments).process_group(0).stdin(std::process::Stdio::null());
        command.arg("--keeper-fd").arg(number.to_string());
        // SAFETY: between fork and exec only system calls are made: one flag, one mask.
        unsafe {
            command.pre_exec(move || {
                libc::fcntl(number, libc::F_SETFD, 0);
                signals::unblock_all();
                // It says what happens on the terminal, from the background.
                signals::block(&[libc::SIGTTOU])
            });
        }
        let child = command.spawn()?;
        self.pid = Some(child.id());
        self.socket = Some(ours);
        self.attention = Attention::default();
        self.started = clock::mono();
        self.start_at = None;
        Ok(())
    }

    /// It is gone: when does the next one start?
    pub fn ended(&mut self) {
        let now = clock::mono();
        self.pid = None;
        self.socket = None;
        self.failures = if now.since(self.started) >= WELL_AFTER { 0 } else { self.failures + 1 };
        let delay = match self.failures {
            0 | 1 => Duration::ZERO,
            n => BACKOFF.delay(n - 1, &mut self.rng),
        };
        self.start_at = Some(now + delay);
    }
}

//! Whether there is a keeper beside a socket at which nobody answers, and so whether somebody may soon.

use std::path::Path;
use std::time::{Duration, Instant};

/// A keeper holds the lock beside this socket: if nobody answers there, its daemon is being started.
pub fn has_keeper(socket: &Path) -> bool {
    let lock = socket.parent().and_then(|dir| std::fs::File::open(dir.join("lock")).ok());
    let shared = rustix::fs::FlockOperation::NonBlockingLockShared;
    lock.is_some_and(|lock| rustix::fs::flock(&lock, shared) == Err(rustix::io::Errno::WOULDBLOCK))
}

/// The keeper that has the lock beside this socket. One that has ended is not asked for: its number may be another's by now.
pub fn keeper_pid(socket: &Path) -> Option<u32> {
    let lock = has_keeper(socket).then(|| socket.with_file_name("lock"))?;
    std::fs::read_to_string(lock).ok()?.trim().parse().ok()
}

/// What became of the keeper that has, or had, the lock beside this socket.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Keeper {
    Lives,
    /// It did not end in order: an heir may take its place in a moment.
    Killed,
    Ended,
}

pub fn keeper_of(socket: &Path) -> Keeper {
    if has_keeper(socket) {
        return Keeper::Lives;
    }
    let lock = socket.parent().and_then(|dir| std::fs::read_to_string(dir.join("lock")).ok());
    match lock {
        Some(pid) if !pid.trim().is_empty() => Keeper::Killed,
        // An heir has come in between: it has the lock, and has not written its number into it yet.
        _ if has_keeper(socket) => Keeper::Lives,
        _ => Keeper::Ended,
    }
}

/// Nobody answers at this socket, and somebody may soon, as it was `began` that it was tried.
pub fn may_answer(socket: &Path, began: Instant) -> bool {
    let waited = began.elapsed();
    match keeper_of(socket) {
        Keeper::Lives => waited < PATIENCE,
        Keeper::Killed => waited < HEIR,
        Keeper::Ended => false,
    }
}

/// How long the heir of a keeper that was killed is waited for: it is there within milliseconds, or never.
const HEIR: Duration = Duration::from_secs(1);
/// How long a daemon that is being started is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

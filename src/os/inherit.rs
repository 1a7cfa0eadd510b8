//! Descriptors that another image or process left open for this one, and descriptors in the event loop.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Takes a descriptor by its number, close-on-exec from here on. To be called once for a number that was passed to this
/// process on purpose.
///
/// # Errors
/// Nothing is open under this number.
pub fn take(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: whoever started this process opened it for us and passed its number; nothing else here knows of it. A number
    // that is not open fails in the call below, before anything is done with it.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    match rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC) {
        Ok(()) => Ok(fd),
        Err(error) => {
            std::mem::forget(fd);
            Err(error.into())
        }
    }
}

/// The command's program finds these descriptors open under their numbers.
pub fn leave_open(command: &mut std::process::Command, numbers: Vec<i32>) {
    use std::os::unix::process::CommandExt;
    // SAFETY: between fork and exec only system calls are made; the numbers are allocated before.
    unsafe {
        command.pre_exec(move || {
            for number in &numbers {
                libc::fcntl(*number, libc::F_SETFD, 0);
            }
            Ok(())
        })
    };
}

/// A non-blocking descriptor in the event loop.
pub fn watched(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` names the same open descriptor for as long as it lives, and the `AsyncFd` owns it.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(io::Error::from)
}

/// The command starts in a session of its own, away from this terminal, and with the three standard streams alone: of whatever
/// else its caller has open (the lock of a script, say) nothing is held on to.
pub fn detached(command: &mut std::process::Command) -> &mut std::process::Command {
    use std::os::unix::process::CommandExt;
    // SAFETY: two system calls between fork and exec.
    unsafe {
        command.pre_exec(|| {
            let _ = rustix::process::setsid();
            libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
            Ok(())
        })
    }
}

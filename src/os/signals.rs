//! Signals as a descriptor, and what a child must find as if unisys were not there.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Blocks the signals and gives a non-blocking descriptor that tells of them (signalfd(2)). Threads started later inherit the mask.
pub fn descriptor(signals: &[i32]) -> io::Result<OwnedFd> {
    block(signals)?;
    // SAFETY: the set is initialised; the new descriptor belongs to nobody else.
    unsafe {
        let fd = libc::signalfd(-1, &set_of(signals), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// Allocates nothing.
fn set_of(signals: &[i32]) -> libc::sigset_t {
    // SAFETY: the set is ours and initialised by sigemptyset.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in signals {
            libc::sigaddset(&mut set, *signal);
        }
        set
    }
}

/// The signals that have arrived, with their sender's pid.
pub fn read(fd: &OwnedFd) -> Vec<(i32, u32)> {
    let mut found = Vec::new();
    loop {
        // SAFETY: signalfd_siginfo is plain data of a fixed size, which read(2) fills whole or not at all.
        unsafe {
            let mut info: libc::signalfd_siginfo = std::mem::zeroed();
            let size = size_of::<libc::signalfd_siginfo>();
            let got = libc::read(fd.as_raw_fd(), std::ptr::from_mut(&mut info).cast(), size);
            if got != size as isize {
                return found;
            }
            found.push((info.ssi_signo as i32, info.ssi_pid));
        }
    }
}

/// Blocks signals in the calling thread. Safe between fork and exec.
pub fn block(signals: &[i32]) -> io::Result<()> {
    // SAFETY: the set is initialised; nothing is asked for the former one.
    match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set_of(signals), std::ptr::null_mut()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// The program of `command` begins with these signals blocked: none that arrives before it listens is lost, or ends it.
pub fn block_in(command: &mut std::process::Command, signals: &'static [i32]) {
    use std::os::unix::process::CommandExt;
    // SAFETY: `block` allocates nothing and takes no lock.
    unsafe { command.pre_exec(|| block(signals)) };
}

/// The signal mask empty again, for a program that is executed in place of this one.
pub fn unblock_all() {
    // SAFETY: as above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &set_of(&[]), std::ptr::null_mut()) };
}

//! One short command on the daemon's behalf: an exec probe, `unisys exec`. As the service's user, in its environment, with a
//! time and output limit; its whole session ends with it.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::base::{Exit, SpawnStage};
use crate::keeper::protocol::Spawn;

use super::sandbox::{self, Prepared};
use super::{process, spawn};

/// How it ended and what it said (both streams, up to the limit).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// `None`: it ran out of time and was killed.
    pub exit: Option<Exit>,
    pub output: Vec<u8>,
}

/// What makes a command one of a service's own.
pub struct Own {
    pub dir: String,
    /// User, group, and supplementary groups.
    pub user: Option<(u32, u32, Vec<u32>)>,
    pub umask: Option<u32>,
    pub no_new_privileges: bool,
    pub sandbox: Option<Prepared>,
}

/// Becomes a command of a service's own. Returns only when it cannot.
pub fn become_it(mut command: std::process::Command, own: Own) -> io::Error {
    use std::os::unix::process::CommandExt;
    let Ok(dir) = CString::new(own.dir) else { return io::Error::other("a NUL byte in a path") };
    let (user, sandbox) = (own.user, own.sandbox);
    let enter = move || {
        let check = |result: libc::c_long| if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
        let kept = |fault: sandbox::Fault| io::Error::from_raw_os_error(fault.errno);
        let mut left_out = 0;
        // SAFETY: only system calls, in the order in which `spawn` makes them; nobody else shares this process by now.
        unsafe {
            if let Some(sandbox) = &sandbox {
                sandbox.before_user(&mut left_out).map_err(kept)?;
            }
            if let Some((uid, gid, groups)) = &user {
                check(libc::setgroups(groups.len(), groups.as_ptr()).into())?;
                check(libc::setresgid(*gid, *gid, *gid).into())?;
                check(libc::setresuid(*uid, *uid, *uid).into())?;
            }
            if let Some(umask) = own.umask {
                libc::umask(umask);
            }
            check(libc::chdir(dir.as_ptr()).into())?;
            if own.no_new_privileges {
                check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).into())?;
            }
            sandbox.as_ref().map_or(Ok(()), |sandbox| sandbox.after_user(&mut left_out).map_err(kept))
        }
    };
    // SAFETY: the closure allocates only where it fails, and there is no other thread.
    unsafe { command.pre_exec(enter) };
    command.exec()
}

/// Where commands run.
#[derive(Clone, Debug)]
pub struct Place {
    /// Soft and hard limit of open files, for those without one of their own.
    pub nofile: (u64, u64),
    /// Where sandboxes have their private directories.
    pub run: PathBuf,
    /// The directory of the cgroup (v2) that it begins in, if that is there: its limits hold, and what the command leaves behind
    /// ends with everything else in it.
    pub cgroup: Option<PathBuf>,
}

impl Place {
    fn cgroup(&self) -> Option<OwnedFd> {
        use rustix::fs::{Mode, OFlags};
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(self.cgroup.as_ref()?, flags, Mode::empty()).ok()
    }
}

/// Runs a command to its end; blocks the calling thread.
pub fn run(request: &Spawn, place: &Place, timeout: Duration, limit: usize) -> io::Result<Ran> {
    run_from(request, File::open("/dev/null")?, place, timeout, limit)
}

/// The same with a text to read: from a file without a name, so that nothing waits for the command to read it.
pub fn run_with_input(
    request: &Spawn,
    input: &[u8],
    place: &Place,
    timeout: Duration,
    limit: usize,
) -> io::Result<Ran> {
    let fd = rustix::fs::memfd_create("input", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut file = File::from(fd);
    file.write_all(input)?;
    file.rewind()?;
    run_from(request, file, place, timeout, limit)
}

fn run_from(request: &Spawn, stdin: File, place: &Place, timeout: Duration, limit: usize) -> io::Result<Ran> {
    let text = |text: &str| CString::new(text).map_err(|_| io::Error::other("a NUL byte in a text"));
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    let cgroup = place.cgroup();
    let mut child = spawn::Child {
        path: text(&request.path)?,
        argv: request.argv.iter().map(|word| text(word)).collect::<io::Result<_>>()?,
        envp: request
            .env
            .iter()
            .map(|(name, value)| text(&format!("{name}={value}")))
            .collect::<io::Result<_>>()?,
        dir: text(&request.dir)?,
        stdin: stdin.as_raw_fd(),
        stdout: write.as_raw_fd(),
        stderr: write.as_raw_fd(),
        extra: None,
        handed: Vec::new(),
        user: request.user.clone(),
        umask: request.umask,
        nofile: request.nofile.map_or(place.nofile, |limit| (limit, limit)),
        tag: request.tag(),
        nice: request.nice,
        oom_score_adjust: None,
        watchdog: false,
        no_new_privileges: request.no_new_privileges,
        dies_with_parent: true,
        cgroup: cgroup.as_ref().map(AsRawFd::as_raw_fd),
        sandbox: request
            .sandbox
            .as_deref()
            .map(|sandbox| Prepared::new(sandbox, &place.run, &request.id.to_string()))
            .transpose()?,
    };
    let mut stack = spawn::Stack::default();
    let mut spawned = spawn::spawn(&child, &mut stack);
    if spawned.as_ref().is_err_and(|failed| failed.stage == SpawnStage::Cgroup) {
        // It was just taken away, as its program may have been.
        child.cgroup = None;
        spawned = spawn::spawn(&child, &mut stack);
    }
    let spawned = spawned.map_err(|failed| {
        io::Error::new(
            failed.error.kind(),
            format!(
                "could not {}{}: {}",
                failed.stage,
                failed.detail.map_or(String::new(), |what| format!(" ({what})")),
                super::files::why(&failed.error)
            ),
        )
    })?;
    drop(write);
    let ran = attend(&spawned.pidfd, read, timeout, limit);
    if ran.timed_out {
        end_session(spawned.pid);
    }
    let pid = spawned.pid as libc::pid_t;
    // SAFETY: plain calls on our own child, which has not been waited for: its pid and session are still its own.
    unsafe {
        libc::kill(-pid, libc::SIGKILL);
        let mut status = 0;
        libc::waitpid(pid, &mut status, 0);
        let exit = if ran.timed_out { None } else { Some(process::exit_of(status)) };
        Ok(Ran { exit, output: ran.output })
    }
}

/// Whoever is still in the session that a command leads, in whatever process group.
fn end_session(leader: u32) {
    for member in process::all().into_iter().filter(|stat| stat.sid == leader && stat.pid != leader) {
        if let Ok(Some(pidfd)) = process::open(member.pid, member.start) {
            let _ = process::signal(&pidfd, libc::SIGKILL);
        }
    }
}

struct Attended {
    timed_out: bool,
    output: Vec<u8>,
}

fn attend(pidfd: &OwnedFd, read: OwnedFd, timeout: Duration, limit: usize) -> Attended {
    let deadline = Instant::now() + timeout;
    let mut pipe = File::from(read);
    let mut output = Vec::new();
    let mut open = true;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Attended { timed_out: true, output };
        }
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        let mut fds = vec![PollFd::new(pidfd, PollFlags::IN)];
        if open {
            fds.push(PollFd::new(&pipe, PollFlags::IN));
        }
        if poll(&mut fds, Some(&timeout)).is_err() {
            continue;
        }
        let ended = !fds[0].revents().is_empty();
        let readable = fds.get(1).is_some_and(|fd| !fd.revents().is_empty());
        drop(fds);
        if readable {
            let mut buffer = [0; 4096];
            match pipe.read(&mut buffer) {
                Ok(0) | Err(_) => open = false,
                Ok(count) => {
                    let room = limit.saturating_sub(output.len()).min(count);
                    output.extend_from_slice(&buffer[..room]);
                }
            }
        } else if ended {
            return Attended { timed_out: false, output };
        }
    }
}

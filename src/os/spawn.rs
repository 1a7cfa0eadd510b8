//! One process from a description, by a vfork-style `clone(2)`: no copy of the parent's memory map, a pidfd, and the name of
//! the stage that failed. Between clone and exec the child shares the parent's memory and the parent's thread sleeps, so the
//! child may only make system calls and write to [`Report`].
//!
//! The child also begins with the parent's table of descriptors (CLONE_FILES) and takes a copy of its lower end only
//! (CLOSE_RANGE_UNSHARE): a keeper of 1,000 services has 4,000 descriptors, and copying and closing all of them for each child
//! made starts cost more the more there were (measured: a third of the spawn threads' time).

use std::ffi::CString;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;

use crate::base::{Instant, SpawnStage};

use super::sandbox::{PathRule, Prepared, Step};
use super::{clock, process};

/// Everything that a child is, prepared so that the child itself allocates nothing.
pub struct Child {
    pub path: CString,
    pub argv: Vec<CString>,
    pub envp: Vec<CString>,
    pub dir: CString,
    /// Descriptors for 0, 1 and 2, and one more at a number of its own.
    pub stdin: RawFd,
    pub stdout: RawFd,
    pub stderr: RawFd,
    pub extra: Option<(RawFd, RawFd)>,
    /// Descriptors for 3, 4, …; with any, `LISTEN_PID` is set to the child's pid (sd_listen_fds(3)).
    pub handed: Vec<RawFd>,
    pub user: Option<(u32, u32, Vec<u32>)>,
    pub umask: Option<u32>,
    pub nofile: (u64, u64),
    /// By which its descendants are known ([`process::tag`]).
    pub tag: Option<u64>,
    pub nice: Option<i32>,
    pub oom_score_adjust: Option<CString>,
    pub no_new_privileges: bool,
    /// It is killed when the thread that started it ends (PR_SET_PDEATHSIG): a command, which nobody knows of but that thread.
    pub dies_with_parent: bool,
    /// `WATCHDOG_PID` is set to the child's pid (sd_watchdog_enabled(3)).
    pub watchdog: bool,
    /// The directory of the cgroup (v2) that it begins in.
    pub cgroup: Option<RawFd>,
    pub sandbox: Option<Prepared>,
}

/// What a new process is known by.
pub struct Spawned {
    pub pid: u32,
    /// Ticks since boot at which it began, as /proc has them; 0 where they cannot be known.
    pub start: u64,
    pub pidfd: OwnedFd,
    /// Fields of `security` that were left out (`bestEffort`).
    pub left_out: Vec<&'static str>,
}

/// Why there is no new process.
#[derive(Debug)]
pub struct SpawnError {
    pub stage: SpawnStage,
    pub error: io::Error,
    /// What exactly, where the stage is not enough.
    pub detail: Option<String>,
}

/// Written by the child in the parent's memory.
struct Report {
    stage: u32,
    errno: i32,
    /// Of a sandbox: the step, and the path one above its index.
    step: u32,
    path: u32,
    left_out: u32,
    /// When it ran first.
    began: Instant,
}

struct Shared<'a> {
    child: &'a Child,
    argv: Vec<*const libc::c_char>,
    envp: Vec<*const libc::c_char>,
    /// Descriptors from here on are none of the child's business.
    above: libc::c_uint,
    /// The handed descriptors where none of them is in another's way; filled by the child.
    moved: Vec<RawFd>,
    /// `LISTEN_PID=` and `WATCHDOG_PID=`, completed by the child.
    listen_pid: PidVariable,
    watchdog_pid: PidVariable,
    /// Signals that are put back to their default.
    signals: &'static [i32],
    report: Report,
}

impl Child {
    /// The first number above every descriptor that the child needs.
    fn above(&self) -> libc::c_uint {
        let own = [2, self.stdin, self.stdout, self.stderr];
        let given = self.extra.iter().map(|(from, _)| *from).chain(self.handed.iter().copied());
        own.into_iter().chain(given).max().unwrap_or(2) as libc::c_uint + 1
    }
}

/// A variable with the child's own pid: room for a name, ten digits and a NUL.
type PidVariable = [u8; PID_VARIABLE];
const PID_VARIABLE: usize = 32;
const LISTEN_PID: &[u8] = b"LISTEN_PID=";
const WATCHDOG_PID: &[u8] = b"WATCHDOG_PID=";

/// A stack for children, used by one thread, one child at a time.
pub struct Stack(Vec<u8>);

const STACK: usize = 64 << 10;

impl Default for Stack {
    fn default() -> Self {
        Self(vec![0; STACK])
    }
}

/// Starts the child and returns once it has executed its program or failed to.
pub fn spawn(child: &Child, stack: &mut Stack) -> Result<Spawned, SpawnError> {
    let pointers = |words: &[CString]| {
        words.iter().map(|word| word.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>()
    };
    let mut shared = Shared {
        child,
        argv: pointers(&child.argv),
        envp: pointers(&child.envp),
        above: child.above(),
        moved: vec![-1; child.handed.len()],
        listen_pid: [0; PID_VARIABLE],
        watchdog_pid: [0; PID_VARIABLE],
        signals: changed_signals(),
        report: Report { stage: 0, errno: 0, step: 0, path: 0, left_out: 0, began: Instant(0) },
    };
    let variables = [(!child.handed.is_empty(), &shared.listen_pid), (child.watchdog, &shared.watchdog_pid)];
    for (_, text) in variables.into_iter().filter(|(wanted, _)| *wanted) {
        let end = shared.envp.len() - 1;
        shared.envp.insert(end, text.as_ptr().cast());
    }
    let mut pidfd: RawFd = -1;
    let top = (stack.0.as_mut_ptr() as usize + STACK) & !15;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_FILES | libc::CLONE_PIDFD | libc::SIGCHLD;
    let argument = std::ptr::from_mut(&mut shared).cast::<libc::c_void>();
    let asked = clock::mono();
    // SAFETY: the stack is ours, aligned, and used by nobody else; CLONE_VFORK keeps this thread (and with it `shared`)
    // where it is until the child has executed or ended; the child keeps to async-signal-safe calls.
    let pid = unsafe {
        match child.cgroup {
            None => libc::clone(
                in_child,
                top as *mut libc::c_void,
                flags,
                argument,
                std::ptr::from_mut(&mut pidfd),
            ),
            Some(cgroup) => into_cgroup(cgroup, stack, flags, argument, &mut pidfd),
        }
    };
    if pid < 0 {
        let error = io::Error::last_os_error();
        // clone(2) has no other use for these two.
        let refused = matches!(error.raw_os_error(), Some(libc::EBUSY | libc::ENODEV | libc::EOPNOTSUPP));
        let stage = if child.cgroup.is_some() && refused { SpawnStage::Cgroup } else { SpawnStage::Clone };
        return Err(SpawnError { stage, error, detail: None });
    }
    // SAFETY: the kernel stored a new descriptor there.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    // The child wrote it through another pointer.
    // SAFETY: `shared` is alive and aligned.
    let report = unsafe { std::ptr::read_volatile(&shared.report) };
    if report.errno != 0 {
        // It never was a process of anybody: collect it here.
        let mut status = 0;
        // SAFETY: plain call on our own child.
        unsafe { libc::waitpid(pid, &mut status, 0) };
        let stage = SpawnStage::ALL.get(report.stage as usize).copied().unwrap_or(SpawnStage::Exec);
        let detail = child.sandbox.as_ref().filter(|_| report.step != 0).map(|sandbox| {
            let path = sandbox.paths.get((report.path as usize).wrapping_sub(1));
            path.map_or_else(|| Step::fields(report.step).join(", "), PathRule::shown)
        });
        return Err(SpawnError { stage, error: io::Error::from_raw_os_error(report.errno), detail });
    }
    let start = start_between(asked, report.began)
        .unwrap_or_else(|| process::stat(pid as u32).map_or(0, |stat| stat.start));
    Ok(Spawned { pid: pid as u32, start, pidfd, left_out: Step::fields(report.left_out) })
}

/// The tick in which a process began that was made between these moments, if it is but one: /proc counts in hundredths of a
/// second on the same clock, and a look there costs more than the system calls of a start (measured).
fn start_between(asked: Instant, began: Instant) -> Option<u64> {
    let ticks = clock::to_ticks(asked);
    (ticks == clock::to_ticks(began)).then_some(ticks)
}

/// Signals that this process ignores or handles. Looked for once: keeper and daemon set theirs before they start anything.
fn changed_signals() -> &'static [i32] {
    static CHANGED: OnceLock<Vec<i32>> = OnceLock::new();
    let changed = |signal: &i32| {
        // SAFETY: the structure is plain data, and ours; nothing is changed.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            libc::sigaction(*signal, std::ptr::null(), &mut action) == 0
                && action.sa_sigaction != libc::SIG_DFL
        }
    };
    CHANGED.get_or_init(|| (1..=64).filter(changed).collect())
}

/// clone3(2) with CLONE_INTO_CGROUP: the child begins in its cgroup. A process that moves itself there waits for every
/// other start on the machine to pause (`cgroup_threadgroup_rwsem`), ten milliseconds and more. -1 and errno on failure.
///
/// # Safety
/// As for `libc::clone` with a stack of its own; `argument` is passed to [`in_child`].
unsafe fn into_cgroup(
    cgroup: RawFd,
    stack: &mut Stack,
    flags: libc::c_int,
    argument: *mut libc::c_void,
    pidfd: &mut RawFd,
) -> libc::pid_t {
    /// `struct clone_args` of linux/sched.h, version 2.
    #[repr(C)]
    struct CloneArgs {
        flags: u64,
        pidfd: u64,
        child_tid: u64,
        parent_tid: u64,
        exit_signal: u64,
        stack: u64,
        stack_size: u64,
        tls: u64,
        set_tid: u64,
        set_tid_size: u64,
        cgroup: u64,
    }
    const CLONE_INTO_CGROUP: u64 = 1 << 33;
    let bottom = (stack.0.as_mut_ptr() as usize + 15) & !15;
    let arguments = CloneArgs {
        flags: (flags & !libc::SIGCHLD) as u64 | CLONE_INTO_CGROUP,
        pidfd: std::ptr::from_mut(pidfd) as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: libc::SIGCHLD as u64,
        stack: bottom as u64,
        stack_size: (STACK - 16) as u64,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: cgroup as u64,
    };
    let entry: extern "C" fn(*mut libc::c_void) -> libc::c_int = in_child;
    let size = size_of::<CloneArgs>();
    let result: isize;
    // SAFETY: the C library has no clone3 for a function on another stack. The child comes out of the system call with
    // the new stack and these registers, calls `in_child`, and never returns here; the parent goes on after it.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 as isize => result,
            in("rdi") &raw const arguments,
            in("rsi") size,
            in("r12") argument,
            in("r13") entry,
            lateout("rcx") _,
            lateout("r11") _,
        );
        #[cfg(target_arch = "aarch64")]
        std::arch::asm!(
            "svc 0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x0, x20",
            "blr x21",
            "brk 1",
            "2:",
            inlateout("x0") &raw const arguments => result,
            in("x1") size,
            in("x8") libc::SYS_clone3,
            in("x20") argument,
            in("x21") entry,
        );
        if result < 0 {
            *libc::__errno_location() = -result as libc::c_int;
            return -1;
        }
    }
    result as libc::pid_t
}

extern "C" fn in_child(argument: *mut libc::c_void) -> libc::c_int {
    // SAFETY: `spawn` passed a pointer to its `Shared`, which outlives this child (CLONE_VFORK).
    unsafe {
        let shared = &mut *argument.cast::<Shared<'_>>();
        std::ptr::write_volatile(&mut shared.report.began, clock::mono());
        let (stage, errno) = become_child(shared);
        std::ptr::write_volatile(&mut shared.report.stage, stage as u32);
        std::ptr::write_volatile(&mut shared.report.errno, errno);
        libc::_exit(127)
    }
}

/// Takes the stages in order; returns only when one failed.
///
/// # Safety
/// To be called between clone and exec only. Raw system calls where glibc would tell other threads (setuid) or lock.
unsafe fn become_child(shared: &mut Shared<'_>) -> (SpawnStage, i32) {
    macro_rules! stage {
        ($stage:ident, $call:expr) => {
            if $call < 0 {
                return (SpawnStage::$stage, *libc::__errno_location());
            }
        };
    }
    macro_rules! sandbox {
        ($call:ident) => {
            if let Some(sandbox) = &shared.child.sandbox
                && let Err(fault) = sandbox.$call(&mut shared.report.left_out)
            {
                shared.report.step = fault.step.bit();
                shared.report.path = fault.path.map_or(0, |index| index as u32 + 1);
                return (SpawnStage::Security, fault.errno);
            }
        };
    }
    let child = shared.child;
    // SAFETY: every pointer refers to `child`, prepared by the parent; see the caller.
    unsafe {
        // First of all a table of its own: nothing before this line may touch a descriptor.
        stage!(
            Descriptors,
            libc::syscall(libc::SYS_close_range, shared.above, u32::MAX, libc::CLOSE_RANGE_UNSHARE)
        );
        stage!(Session, libc::setsid());
        stage!(Descriptors, libc::dup2(child.stdin, 0));
        stage!(Descriptors, libc::dup2(child.stdout, 1));
        stage!(Descriptors, libc::dup2(child.stderr, 2));
        stage!(Descriptors, arrange(child, &mut shared.moved));
        if let Some(nice) = child.nice {
            stage!(Scheduling, libc::setpriority(libc::PRIO_PROCESS, 0, nice));
        }
        if let Some(adjust) = &child.oom_score_adjust {
            let fd = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
            stage!(Scheduling, fd);
            stage!(Scheduling, libc::write(fd, adjust.as_ptr().cast(), adjust.as_bytes().len()));
        }
        sandbox!(before_user);
        // Of what the program has open, which is not before its descriptors have their places: until then the table has the
        // keeper's numbers, and how many those are is no business of the program's limit. A higher one needs to be still root.
        let limit = libc::rlimit { rlim_cur: child.nofile.0, rlim_max: child.nofile.1 };
        stage!(Rlimits, libc::setrlimit(libc::RLIMIT_NOFILE, &limit));
        if let Some(tag) = child.tag {
            // Without it they are known by less.
            let mut limit: libc::rlimit = std::mem::zeroed();
            libc::getrlimit(libc::RLIMIT_LOCKS, &mut limit);
            limit.rlim_cur = tag;
            libc::setrlimit(libc::RLIMIT_LOCKS, &limit);
        }
        if let Some((uid, gid, groups)) = &child.user {
            stage!(Groups, libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()));
            stage!(Groups, libc::syscall(libc::SYS_setresgid, *gid, *gid, *gid));
            stage!(User, libc::syscall(libc::SYS_setresuid, *uid, *uid, *uid));
        }
        if let Some(umask) = child.umask {
            libc::umask(umask);
        }
        stage!(WorkingDir, libc::chdir(child.dir.as_ptr()));
        if !child.handed.is_empty() {
            write_pid(&mut shared.listen_pid, LISTEN_PID, libc::getpid() as u32);
        }
        if child.watchdog {
            write_pid(&mut shared.watchdog_pid, WATCHDOG_PID, libc::getpid() as u32);
        }
        for signal in shared.signals {
            libc::signal(*signal, libc::SIG_DFL);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
        // After the user: a change of that forgets it.
        if child.dies_with_parent {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
        }
        if child.no_new_privileges {
            stage!(Security, libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
        }
        sandbox!(after_user);
        libc::execve(child.path.as_ptr(), shared.argv.as_ptr(), shared.envp.as_ptr());
        (SpawnStage::Exec, *libc::__errno_location())
    }
}

/// Puts the handed descriptors at 3, 4, …, the extra one at its number, and has every other above 2 closed. The table is the
/// child's own copy. Everything is moved out of the way first: a source may have the number of another's place.
///
/// # Safety
/// To be called between clone and exec only.
unsafe fn arrange(child: &Child, moved: &mut [RawFd]) -> i32 {
    let count = child.handed.len() as RawFd;
    let above = child.extra.map_or(0, |(_, to)| to + 1).max(3 + count);
    // SAFETY: plain calls with numbers; nothing is allocated.
    unsafe {
        for (place, from) in moved.iter_mut().zip(&child.handed) {
            *place = libc::fcntl(*from, libc::F_DUPFD, above);
            if *place < 0 {
                return -1;
            }
        }
        let mut extra = None;
        if let Some((from, to)) = child.extra {
            let from = libc::fcntl(from, libc::F_DUPFD, above);
            if from < 0 {
                return -1;
            }
            extra = Some((from, to));
        }
        for (index, from) in moved.iter().enumerate() {
            if libc::dup2(*from, 3 + index as RawFd) < 0 {
                return -1;
            }
        }
        let mut first = 3 + count;
        if let Some((from, to)) = extra {
            if libc::dup2(from, to) < 0 {
                return -1;
            }
            if to > first {
                libc::syscall(libc::SYS_close_range, first, to - 1, 0);
            }
            first = first.max(to + 1);
        }
        // By the exec itself: until then this child holds the keeper's lock, so that no other keeper can look for what runs
        // while this one runs and cannot be recognised yet. Linux before 5.11 can only close them now.
        if libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) < 0 {
            libc::syscall(libc::SYS_close_range, first, u32::MAX, 0);
        }
    }
    0
}

/// The name (with its `=`), the pid and a NUL, without allocating.
fn write_pid(text: &mut PidVariable, name: &[u8], pid: u32) {
    text.fill(0);
    text[..name.len()].copy_from_slice(name);
    let digits = pid.checked_ilog10().unwrap_or(0) as usize + 1;
    let mut rest = pid;
    for place in (name.len()..name.len() + digits).rev() {
        text[place] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_known_without_proc_only_within_one_tick() {
        let at = |millis: u64| Instant(millis * 1_000_000);
        assert_eq!(start_between(at(120), at(129)), Some(12));
        assert_eq!(start_between(at(129), at(130)), None);
    }

    #[test]
    fn a_pid_is_written_as_a_variable() {
        let mut text = [7; PID_VARIABLE];
        for (pid, expected) in
            [(1, "LISTEN_PID=1"), (90, "LISTEN_PID=90"), (u32::MAX, "LISTEN_PID=4294967295")]
        {
            write_pid(&mut text, LISTEN_PID, pid);
            let end = text.iter().position(|byte| *byte == 0).unwrap();
            assert_eq!(std::str::from_utf8(&text[..end]), Ok(expected));
        }
    }
}

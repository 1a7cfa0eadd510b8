//! Processes as /proc shows them, their exits, and signals that reach just the one that is meant.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::process::{Pid, PidfdFlags};

use crate::base::{Exit, Instant, Spent};

use super::clock;

/// One line of /proc/<pid>/stat (proc_pid_stat(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    pub pid: u32,
    pub name: String,
    pub state: char,
    pub ppid: u32,
    pub pgid: u32,
    pub sid: u32,
    /// Ticks of processor time, user and system.
    pub cpu_ticks: u64,
    pub threads: u32,
    /// Ticks since boot; with the pid and the boot it identifies a process.
    pub start: u64,
    pub rss_pages: u64,
    /// It was forked and has not executed anything since (PF_FORKNOEXEC).
    pub not_executed: bool,
    /// It is on its way out, or out (PF_EXITING): set before its files are closed.
    pub exiting: bool,
    /// Where its arguments and its environment lie: with address randomisation, whose image it is.
    image: (u64, u64),
}

pub fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&read_lossy(format!("/proc/{pid}/stat"))?)
}

/// A file of `/proc` with a program's name in it, which may be any bytes: the kernel cuts it wherever it is too long.
pub fn read_lossy(path: impl AsRef<std::path::Path>) -> Option<String> {
    Some(String::from_utf8_lossy(&fs::read(path).ok()?).into_owned())
}

pub fn parse_stat(text: &str) -> Option<Stat> {
    let (head, tail) = text.rsplit_once(')')?;
    let (pid, name) = head.split_once(" (")?;
    let fields: Vec<&str> = tail.split_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(Stat {
        pid: pid.parse().ok()?,
        name: name.to_owned(),
        state: fields.first()?.chars().next()?,
        ppid: number(1)? as u32,
        pgid: number(2)? as u32,
        sid: number(3)? as u32,
        cpu_ticks: number(11)? + number(12)?,
        threads: number(17)? as u32,
        start: number(19)?,
        rss_pages: number(21)?,
        not_executed: number(6)? & PF_FORKNOEXEC != 0,
        exiting: number(6)? & PF_EXITING != 0,
        image: (number(45).unwrap_or(0), number(47).unwrap_or(0)),
    })
}

/// Of `include/linux/sched.h`.
const PF_FORKNOEXEC: u64 = 0x40;
const PF_EXITING: u64 = 0x4;

/// Children of this process that are about to become a program: they still are this process, with its descriptors and its
/// environment.
pub struct OwnImage((u64, u64));

impl OwnImage {
    pub fn look() -> Option<Self> {
        stat(std::process::id()).map(|own| Self(own.image)).filter(|own| own.0.0 != 0)
    }

    pub fn is_of(&self, stat: &Stat) -> bool {
        stat.not_executed && stat.image == self.0
    }
}

impl Stat {
    pub fn started_at(&self) -> Instant {
        clock::of_ticks(self.start)
    }

    pub fn is_alive(&self) -> bool {
        !matches!(self.state, 'Z' | 'X')
    }
}

/// All processes.
pub fn all() -> Vec<Stat> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| stat(entry.file_name().to_str()?.parse().ok()?)).collect()
}

/// Children of a process, of all its threads; `None` where the kernel does not tell (CONFIG_PROC_CHILDREN).
pub fn children(pid: u32) -> Option<Vec<u32>> {
    let mut found = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
        found.extend(children_of_task(&task.path())?);
    }
    Some(found)
}

/// What this process was given as a subreaper, and what its first thread started: orphans go to the first thread of a process
/// (`find_new_reaper` of the kernel), and to the first thread go those of a thread that ends. So what other threads started,
/// however many that are, is not looked at.
pub fn adopted() -> Option<Vec<u32>> {
    let own = std::process::id();
    children_of_task(Path::new(&format!("/proc/{own}/task/{own}")))
}

fn children_of_task(task: &Path) -> Option<Vec<u32>> {
    let text = fs::read_to_string(task.join("children")).ok()?;
    Some(text.split_whitespace().filter_map(|word| word.parse().ok()).collect())
}

/// The value of a variable in a process's first environment.
pub fn environ_value(pid: u32, name: &str) -> Option<String> {
    let bytes = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let prefix = format!("{name}=");
    bytes
        .split(|byte| *byte == 0)
        .find_map(|entry| std::str::from_utf8(entry).ok()?.strip_prefix(&prefix).map(str::to_owned))
}

/// What [`crate::base::InstanceId::tag`] gave a process or one that it came of: its soft RLIMIT_LOCKS, which Linux has not looked at
/// since 2.4.25 (getrlimit(2)). It goes along through fork and exec, and nobody sets it by the way.
pub fn tag(pid: u32) -> Option<u64> {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let locks = limits.lines().find_map(|line| line.strip_prefix("Max file locks"))?;
    locks.split_whitespace().next()?.parse().ok()
}

/// The whole first environment of a process.
pub fn environ(pid: u32) -> Vec<(String, String)> {
    let bytes = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let entries = bytes.split(|byte| *byte == 0).filter_map(|entry| {
        let (name, value) = std::str::from_utf8(entry).ok()?.split_once('=')?;
        Some((name.to_owned(), value.to_owned()))
    });
    entries.collect()
}

/// It holds a file of this name open.
pub fn holds_open(pid: u32, path: &std::path::Path) -> bool {
    holds(pid, |target| target == path)
}

/// It holds a file open whose name is such, as the kernel tells it.
pub fn holds(pid: u32, is: impl Fn(&Path) -> bool) -> bool {
    open_files(pid).any(|target| is(&target))
}

/// The names of what it holds open, as the kernel tells them; none of a process that may not be looked at.
pub fn open_files(pid: u32) -> impl Iterator<Item = std::path::PathBuf> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    entries.filter_map(|entry| fs::read_link(entry.path()).ok())
}

/// One of these files that a process which can be looked at has open for writing (proc_pid_fdinfo(5)).
pub fn being_written(paths: &[std::path::PathBuf]) -> Option<std::path::PathBuf> {
    let writes = |dir: &Path, fd: &std::ffi::OsStr| {
        let info = fs::read_to_string(dir.with_file_name("fdinfo").join(fd)).unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok());
        flags.is_some_and(|flags| flags & libc::O_ACCMODE != libc::O_RDONLY)
    };
    let real: Vec<_> = paths.iter().filter_map(|path| fs::canonicalize(path).ok()).collect();
    if real.is_empty() {
        return None;
    }
    all().into_iter().find_map(|stat| {
        let dir = Path::new("/proc").join(stat.pid.to_string()).join("fd");
        let entries = fs::read_dir(&dir).into_iter().flatten().flatten();
        entries.into_iter().find_map(|entry| {
            let file = fs::read_link(entry.path()).ok().filter(|file| real.contains(file))?;
            writes(&dir, &entry.file_name()).then_some(file)
        })
    })
}

/// What a process has open at a number.
pub fn opened(pid: u32, number: u32) -> Option<std::path::PathBuf> {
    fs::read_link(format!("/proc/{pid}/fd/{number}")).ok()
}

/// Command line of a process, for people.
pub fn command(pid: u32) -> String {
    words(pid).join(" ")
}

/// The words of its command line; none of one that has ended.
pub fn words(pid: u32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = bytes.split(|b| *b == 0).filter(|w| !w.is_empty());
    words.map(|w| String::from_utf8_lossy(w).into_owned()).collect()
}

/// A handle of the process with this pid and start; `None` when that one is gone.
///
/// # Errors
/// It may well live, but no handle of it can be had: no descriptor is left.
pub fn open(pid: u32, start: u64) -> io::Result<Option<OwnedFd>> {
    let Some(number) = Pid::from_raw(pid as i32) else { return Ok(None) };
    match rustix::process::pidfd_open(number, PidfdFlags::empty()) {
        // The pid may have been given to another before it was opened: its start tells.
        Ok(fd) => Ok(is_still(pid, start).then_some(fd)),
        Err(rustix::io::Errno::SRCH) => Ok(None),
        Err(error) if is_still(pid, start) => Err(error.into()),
        Err(_) => Ok(None),
    }
}

/// There is a descriptor left to look at processes with.
pub fn can_look() -> bool {
    fs::File::open("/proc/self/stat").is_ok()
}

/// The process with this pid and start lives.
pub fn is_still(pid: u32, start: u64) -> bool {
    stat(pid).is_some_and(|stat| stat.start == start && stat.is_alive())
}

/// Every thread of it is on its way out, or it is gone: what it no longer answers is its end, not a fault before that.
pub fn is_ending(pid: u32) -> bool {
    let exiting = |text: String| parse_stat(&text).is_none_or(|stat| stat.exiting);
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return true };
    let mut stats = threads.flatten().filter_map(|thread| read_lossy(thread.path().join("stat")));
    stats.all(exiting)
}

/// It was stopped by a signal, and waits for another to go on; not by a debugger, who knows what it does (proc_pid_stat(5)).
pub fn is_stopped(pid: u32) -> bool {
    stat(pid).is_some_and(|stat| stat.state == 'T')
}

/// A handle of whatever has this pid now.
pub fn open_any(pid: u32) -> Option<OwnedFd> {
    rustix::process::pidfd_open(Pid::from_raw(pid as i32)?, PidfdFlags::empty()).ok()
}

/// Sends a signal by handle.
pub fn signal(pidfd: &OwnedFd, signal: i32) -> io::Result<()> {
    // SAFETY: plain system call; no memory is passed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sends a signal by number: for who is known to be that process still, when no handle of it can be had.
pub fn signal_pid(pid: u32, signal: i32) {
    // SAFETY: plain system call; no memory is passed. 0 and below would mean a group.
    if let Ok(pid @ 1..) = i32::try_from(pid) {
        unsafe { libc::kill(pid, signal) };
    }
}

/// The handle's process has ended (it may be a zombie).
pub fn has_ended(pidfd: &OwnedFd) -> bool {
    readable_within(pidfd, std::time::Duration::ZERO)
}

/// The same of many at once.
pub fn ended<'a>(pidfds: impl Iterator<Item = &'a OwnedFd>) -> Vec<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds: Vec<_> = pidfds.map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
    // Where it cannot be asked now, it is asked again.
    let _ = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
    fds.iter().map(|fd| fd.revents().contains(PollFlags::IN)).collect()
}

/// Something can be read, now or within this time.
pub fn readable_within(fd: &OwnedFd, time: std::time::Duration) -> bool {
    let mut fds = [rustix::event::PollFd::new(fd, rustix::event::PollFlags::IN)];
    let time =
        rustix::event::Timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) };
    rustix::event::poll(&mut fds, Some(&time)).is_ok_and(|ready| ready > 0)
}

/// A process group has a member.
pub fn group_lives(pgid: u32) -> bool {
    Pid::from_raw(pgid as i32).is_some_and(|pid| rustix::process::test_kill_process_group(pid).is_ok())
}

/// Children that have ended, each once, with what they used (wait4(2)).
pub fn reap() -> Vec<(u32, Exit, Spent)> {
    let mut found = Vec::new();
    loop {
        let mut status = 0;
        // SAFETY: any bytes are good for a structure of numbers.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: `status` and `usage` are ours.
        let pid = unsafe { libc::wait4(-1, &mut status, libc::WNOHANG, &mut usage) };
        if pid <= 0 {
            return found;
        }
        found.push((pid as u32, exit_of(status), spent(&usage)));
    }
}

fn spent(usage: &libc::rusage) -> Spent {
    let ms = |time: libc::timeval| time.tv_sec as u64 * 1000 + time.tv_usec as u64 / 1000;
    Spent {
        user_cpu_ms: ms(usage.ru_utime),
        system_cpu_ms: ms(usage.ru_stime),
        // In KiB (getrusage(2)).
        peak_memory_bytes: Some(usage.ru_maxrss as u64 * 1024),
    }
}

/// What a status of waitpid(2) says.
pub fn exit_of(status: i32) -> Exit {
    if libc::WIFSIGNALED(status) {
        Exit::Signal { signal: libc::WTERMSIG(status), core: libc::WCOREDUMP(status) }
    } else {
        Exit::Code(libc::WEXITSTATUS(status))
    }
}

/// How the process of a handle ended, though it is nobody's child here. Until its parent has collected it, /proc tells
/// (proc_pid_stat(5), `exit_code`: to root and to its own user); after that, the handle does (ioctl_pidfd(2), `PIDFD_GET_INFO`, Linux 6.15).
pub fn exit_by_handle(pidfd: &OwnedFd, pid: u32, start: u64) -> Exit {
    match exit_info(pidfd) {
        // Collected between the two looks, it is known to the handle.
        Exit::Unknown => exit_of_zombie(pid, start).unwrap_or_else(|| exit_info(pidfd)),
        exit => exit,
    }
}

/// The code of a process that has ended and waits for its parent.
pub fn exit_of_zombie(pid: u32, start: u64) -> Option<Exit> {
    let text = read_lossy(format!("/proc/{pid}/stat"))?;
    let stat = parse_stat(&text)?;
    let code = text.rsplit_once(')')?.1.split_whitespace().nth(49)?.parse().ok()?;
    // Who may not know is shown 0; what ended well is 0 as well.
    let may_know = rustix::process::geteuid().is_root() || code != 0 || owns(pid);
    (stat.state == 'Z' && stat.start == start && may_know).then(|| exit_of(code))
}

/// The process is one of this user's.
fn owns(pid: u32) -> bool {
    use std::os::unix::fs::MetadataExt;
    let meta = fs::metadata(format!("/proc/{pid}"));
    meta.is_ok_and(|meta| meta.uid() == rustix::process::geteuid().as_raw())
}

fn exit_info(pidfd: &OwnedFd) -> Exit {
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        mask: u64,
        cgroup: u64,
        ids: [u32; 11],
        exit_code: i32,
    }
    const INFO_EXIT: u64 = 1 << 3;
    // _IOWR(0xFF, 11, struct pidfd_info), first version of 64 bytes.
    const GET_INFO: libc::c_ulong = (3 << 30) | (64 << 16) | (0xFF << 8) | 11;
    let mut info = Info { mask: INFO_EXIT, ..Info::default() };
    // SAFETY: the structure has the size that the request number names and is ours.
    let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), GET_INFO as _, std::ptr::from_mut(&mut info)) };
    if result == 0 && info.mask & INFO_EXIT != 0 { exit_of(info.exit_code) } else { Exit::Unknown }
}

/// A process and its descendants, as far as /proc tells; it comes first. Children are looked for until so many processes and
/// threads were met.
pub fn family(main: u32, most: u32) -> Vec<Stat> {
    let (mut found, mut seen, mut met) = (Vec::new(), BTreeSet::new(), 0u32);
    let mut queue = VecDeque::from([main]);
    while let Some(pid) = queue.pop_front().filter(|_| met <= most) {
        let Some(stat) = stat(pid).filter(Stat::is_alive).filter(|_| seen.insert(pid)) else { continue };
        met = met.saturating_add(1 + stat.threads);
        if met <= most {
            queue.extend(children(pid).unwrap_or_default());
        }
        found.push(stat);
    }
    found
}

/// Descendants of the roots, roots included, as far as /proc tells.
pub fn tree(roots: &[u32]) -> BTreeMap<u32, u64> {
    let mut found = BTreeMap::new();
    let mut queue: Vec<u32> = roots.to_vec();
    while let Some(pid) = queue.pop() {
        let Some(stat) = stat(pid).filter(Stat::is_alive) else { continue };
        if found.insert(pid, stat.start).is_none() {
            queue.extend(children(pid).unwrap_or_default());
        }
    }
    found
}

/// Whether a process descends from another (or is it).
pub fn descends(pid: u32, from: u32) -> bool {
    lineage(pid).any(|pid| pid == from)
}

/// A process, its parent, and so on, without the first of all.
pub fn lineage(pid: u32) -> impl Iterator<Item = u32> {
    let parent = |pid: &u32| stat(*pid).map(|stat| stat.ppid).filter(|parent| *parent > 1);
    std::iter::successors(Some(pid), parent).take(64)
}

/// The user that a process runs as (proc_pid(5)).
pub fn user_of(pid: u32) -> Option<u32> {
    use std::os::unix::fs::MetadataExt;
    Some(fs::metadata(format!("/proc/{pid}")).ok()?.uid())
}

/// Pid and user of who made the other end of a unix socket (unix(7), SO_PEERCRED). The pid is 0 where it cannot be named: a
/// client outside of the pid namespace that this process is in. (rustix takes 0 for no answer at all.)
pub fn peer(socket: impl AsFd) -> Option<(u32, u32)> {
    let mut found = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes of a structure that any bytes are good for.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            std::ptr::from_mut(&mut found).cast(),
            &mut length,
        )
    };
    (result == 0).then_some((found.pid as u32, found.uid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_cut_in_the_middle_of_a_character_is_a_process_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("обработчик");
        fs::copy("/bin/sleep", &program).unwrap();
        let mut child = std::process::Command::new(&program).arg("100").spawn().unwrap();
        let found = stat(child.id());
        child.kill().unwrap();
        child.wait().unwrap();
        let name = found.expect("it runs").name;
        assert!(name.starts_with("обработ") && name.ends_with('\u{fffd}'), "{name}");
    }

    #[test]
    fn a_name_with_spaces_and_brackets_does_not_confuse_the_fields() {
        let text =
            "42 (a ) b) S 7 42 40 0 -1 4194560 1 2 3 4 10 20 0 0 20 0 1 0 555 1000 33 18446744073709551615";
        let stat = parse_stat(text).unwrap();
        assert_eq!(
            (stat.pid, stat.name.as_str(), stat.ppid, stat.sid, stat.start),
            (42, "a ) b", 7, 40, 555)
        );
        assert_eq!((stat.cpu_ticks, stat.threads, stat.rss_pages), (30, 1, 33));
    }
}

//! What the processes of an instance do at one moment, and what waits for them: what /proc and sock_diag(7) show. Nothing is
//! attached to, nothing is stopped for it.

use std::collections::BTreeSet;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use serde::Serialize;

use crate::base::Usage;

use super::listeners::{Diag, Listener, UnixSocket, socket_inodes};
use super::{process, usage};

/// Threads that are looked at: more would take longer than they say.
const THREADS: usize = 512;
/// What waits is named up to here: as many connections as a backlog usually has room for (net.core.somaxconn).
const WORK: usize = 4096;
/// Frames of a kernel stack that are kept.
const FRAMES: usize = 16;

/// A moment of all processes below a main process.
#[derive(Debug, Default)]
pub struct Moment {
    pub cpu: Duration,
    /// The same with the time in which they were ready to run and others ran.
    pub wanted: Duration,
    pub threads: Vec<Thread>,
    pub usage: Usage,
    /// What waits, if that was asked for.
    pub waiting: Option<Vec<Waiting>>,
}

/// One thread (proc_pid_task(5)). What the kernel does not show to this user is empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Thread {
    pub process: u32,
    pub thread: u32,
    pub name: String,
    /// `R`, `S`, `D`, `T`, `t` … (proc_pid_stat(5)).
    pub state: char,
    pub cpu_ms: u64,
    /// The function of the kernel that it sleeps in (proc_pid_wchan(5)).
    pub wait_channel: String,
    /// By name where it is a known one that waits, else by number.
    pub system_call: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kernel_stack: Vec<String>,
    #[serde(skip)]
    pub waits_for: WaitsFor,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WaitsFor {
    Lock,
    Child,
    #[default]
    Other,
}

/// A connection that is not accepted, or input that is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    pub id: u64,
    pub is_connection: bool,
    pub amount: u32,
}

/// Looks; `None` when the process is gone. `closely`: kernel stacks too, where they are shown.
pub fn look(main: u32, work: bool, closely: bool) -> Option<Moment> {
    // The main process comes first: its main thread is the one that is told of.
    let family = process::family(main, u32::MAX);
    if family.is_empty() {
        return None;
    }
    let pids: Vec<u32> = family.iter().map(|stat| stat.pid).collect();
    let mut moment = Moment { usage: usage::of(&family), ..Moment::default() };
    for pid in pids.iter().copied() {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let mut tids: Vec<u32> = tasks.filter_map(|task| task.file_name().to_str()?.parse().ok()).collect();
        tids.sort_unstable_by_key(|tid| (*tid != pid, *tid));
        for tid in tids {
            if moment.threads.len() == THREADS {
                break;
            }
            if let Some((thread, (ran, waited))) = thread(pid, tid, closely) {
                moment.cpu += ran;
                moment.wanted += ran + waited;
                moment.threads.push(thread);
            }
        }
    }
    moment.waiting = work.then(|| waiting(&pids));
    Some(moment)
}

fn thread(pid: u32, tid: u32, closely: bool) -> Option<(Thread, (Duration, Duration))> {
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/task/{tid}/{name}"));
    let stat = process::parse_stat(&read("stat").ok()?).filter(process::Stat::is_alive)?;
    // Nanoseconds that it ran, and waited to run (sched-stats); without them, ticks.
    let times = read("schedstat").unwrap_or_default();
    let mut times = times.split(' ').map_while(|word| word.parse().ok().map(Duration::from_nanos));
    let cpu = match (times.next(), times.next()) {
        (Some(ran), Some(waited)) => (ran, waited),
        _ => (super::clock::ticks(stat.cpu_ticks), Duration::ZERO),
    };
    let wait_channel = read("wchan").ok().filter(|text| text != "0").unwrap_or_default();
    let call = read("syscall").unwrap_or_default();
    let words: Vec<&str> = call.split_whitespace().collect();
    let number = words.first().and_then(|word| word.parse::<i64>().ok());
    let argument = words.get(2).and_then(|word| i64::from_str_radix(word.trim_start_matches("0x"), 16).ok());
    let stack = if closely { read("stack").unwrap_or_default() } else { String::new() };
    let frames = stack.lines().take(FRAMES).map(|line| line.trim_start_matches("[<0>] ").to_owned());
    let waits_for = waits_for(number, argument, &wait_channel);
    let thread = Thread {
        process: pid,
        thread: tid,
        name: stat.name,
        state: stat.state,
        cpu_ms: cpu.0.as_millis() as u64,
        wait_channel,
        system_call: number.map(call_name).unwrap_or_default(),
        kernel_stack: frames.collect(),
        waits_for,
    };
    Some((thread, cpu))
}

/// By the system call where that is shown, else by the name of the function in the kernel.
fn waits_for(call: Option<i64>, second: Option<i64>, channel: &str) -> WaitsFor {
    const WAITS: [i64; 3] = [libc::F_SETLKW as i64, libc::F_OFD_SETLKW as i64, F_SETLKW64];
    // Of 32-bit programs.
    const F_SETLKW64: i64 = 14;
    match call {
        Some(number) if LOCKS.contains(&number) => WaitsFor::Lock,
        Some(libc::SYS_fcntl) if second.is_some_and(|command| WAITS.contains(&command)) => WaitsFor::Lock,
        Some(libc::SYS_wait4 | libc::SYS_waitid) => WaitsFor::Child,
        // -1: not in a system call (a page fault, a stop).
        Some(number) if number >= 0 => WaitsFor::Other,
        _ if ["futex", "flock", "locks_lock", "posix_lock", "setlk", "semtimedop"]
            .iter()
            .any(|name| channel.contains(name)) =>
        {
            WaitsFor::Lock
        }
        _ if channel == "do_wait" => WaitsFor::Child,
        _ => WaitsFor::Other,
    }
}

const LOCKS: [i64; 5] =
    [libc::SYS_futex, libc::SYS_futex_waitv, libc::SYS_flock, libc::SYS_semop, libc::SYS_semtimedop];

fn call_name(number: i64) -> String {
    let named = CALLS.iter().find(|(known, _)| *known == number);
    named.map_or_else(|| number.to_string(), |(_, name)| (*name).to_owned())
}

/// System calls that wait (syscalls(2)).
const CALLS: &[(i64, &str)] = &[
    (libc::SYS_read, "read"),
    (libc::SYS_readv, "readv"),
    (libc::SYS_write, "write"),
    (libc::SYS_writev, "writev"),
    (libc::SYS_recvfrom, "recvfrom"),
    (libc::SYS_recvmsg, "recvmsg"),
    (libc::SYS_sendto, "sendto"),
    (libc::SYS_sendmsg, "sendmsg"),
    (libc::SYS_connect, "connect"),
    (libc::SYS_accept, "accept"),
    (libc::SYS_accept4, "accept4"),
    (libc::SYS_ppoll, "ppoll"),
    (libc::SYS_pselect6, "pselect6"),
    (libc::SYS_epoll_pwait, "epoll_pwait"),
    (libc::SYS_epoll_pwait2, "epoll_pwait2"),
    (libc::SYS_futex, "futex"),
    (libc::SYS_futex_waitv, "futex_waitv"),
    (libc::SYS_flock, "flock"),
    (libc::SYS_fcntl, "fcntl"),
    (libc::SYS_semop, "semop"),
    (libc::SYS_semtimedop, "semtimedop"),
    (libc::SYS_msgrcv, "msgrcv"),
    (libc::SYS_nanosleep, "nanosleep"),
    (libc::SYS_clock_nanosleep, "clock_nanosleep"),
    (libc::SYS_wait4, "wait4"),
    (libc::SYS_waitid, "waitid"),
    (libc::SYS_fsync, "fsync"),
    (libc::SYS_openat, "openat"),
    (libc::SYS_rt_sigtimedwait, "rt_sigtimedwait"),
    (libc::SYS_rt_sigsuspend, "rt_sigsuspend"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_poll, "poll"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_select, "select"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_epoll_wait, "epoll_wait"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_pause, "pause"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_open, "open"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_vfork, "vfork"),
];

/// Connections (TCP, unix) that these processes have not accepted, and bytes that others sent and they have not read.
fn waiting(pids: &[u32]) -> Vec<Waiting> {
    let own: BTreeSet<u32> = pids.iter().flat_map(|pid| socket_inodes(*pid)).collect();
    let Ok(diag) = Diag::open() else { return Vec::new() };
    let listeners = diag.tcp_listeners().unwrap_or_default();
    let ports: BTreeSet<u16> = listeners
        .iter()
        .filter(|listener| own.contains(&listener.inode) && listener.waiting > 0)
        .map(|listener| listener.port)
        .collect();
    let mut ends = diag.tcp_connections().unwrap_or_default();
    // Who calls waits for so long and no longer; that nobody has accepted the call is seen as before.
    ends.extend(diag.tcp_given_up().unwrap_or_default());
    // What waits at a UDP socket may be other datagrams at each look. Whoever reads them makes progress, which is looked at too.
    ends.extend(diag.udp_sockets().unwrap_or_default());
    let mut found: Vec<Waiting> = ends.iter().filter_map(|end| waits(end, &own, &ports)).collect();
    found.extend(diag.unix_sockets().unwrap_or_default().iter().flat_map(|socket| unix_waits(socket, &own)));
    found.sort_by_key(|waiting| waiting.id);
    found.truncate(WORK);
    found
}

fn unix_waits(socket: &UnixSocket, own: &BTreeSet<u32>) -> Vec<Waiting> {
    // What its own processes say to each other is nobody's demand.
    if !own.contains(&socket.inode) || own.contains(&socket.peer) {
        return Vec::new();
    }
    let id = |peer: u32| {
        let mut hasher = DefaultHasher::new();
        (socket.inode, peer).hash(&mut hasher);
        hasher.finish()
    };
    if socket.connections.is_empty() {
        return vec![Waiting { id: id(socket.peer), is_connection: false, amount: socket.waiting }];
    }
    let from = socket.connections.iter().filter(|peer| !own.contains(peer));
    from.map(|peer| Waiting { id: id(*peer), is_connection: true, amount: 1 }).collect()
}

fn waits(end: &Listener, own: &BTreeSet<u32>, ports: &BTreeSet<u16>) -> Option<Waiting> {
    let is_connection = end.inode == 0 && ports.contains(&end.port);
    let is_input = end.inode != 0 && end.waiting > 0 && own.contains(&end.inode);
    if !is_connection && !is_input {
        return None;
    }
    let mut hasher = DefaultHasher::new();
    (end.address, end.port, end.peer_port, end.inode).hash(&mut hasher);
    let amount = if is_connection { 1 } else { end.waiting };
    Some(Waiting { id: hasher.finish(), is_connection, amount })
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn what_a_thread_waits_for_is_known_by_its_call_or_by_its_channel() {
        let of = |call, second, channel| waits_for(call, second, channel);
        assert_eq!(of(Some(libc::SYS_futex), None, ""), WaitsFor::Lock);
        assert_eq!(of(Some(libc::SYS_fcntl), Some(7), ""), WaitsFor::Lock);
        assert_eq!(of(Some(libc::SYS_fcntl), Some(3), ""), WaitsFor::Other);
        assert_eq!(of(Some(libc::SYS_wait4), None, "do_wait"), WaitsFor::Child);
        assert_eq!(of(Some(libc::SYS_read), None, "futex_like"), WaitsFor::Other, "the call is what counts");
        assert_eq!(of(None, None, "futex_do_wait"), WaitsFor::Lock, "another user's");
        assert_eq!(of(Some(-1), None, "do_wait"), WaitsFor::Child);
        assert_eq!(of(None, None, ""), WaitsFor::Other);
    }

    #[test]
    fn a_connection_that_nobody_accepts_and_bytes_that_nobody_reads_wait() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let own = [std::process::id()];
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(b"hello").unwrap();
        let until = |test: &dyn Fn(&[Waiting]) -> bool| {
            for _ in 0..1000 {
                let found = waiting(&own);
                if test(&found) {
                    return found;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            panic!("{:?}", waiting(&own));
        };
        // Other tests of this process have sockets of their own.
        let first = until(&|found| found.iter().any(|waiting| waiting.is_connection));
        let connection = first.iter().find(|waiting| waiting.is_connection).map(|waiting| waiting.id);
        let (accepted, _) = listener.accept().unwrap();
        let then = until(&|found| found.iter().any(|waiting| !waiting.is_connection && waiting.amount == 5));
        let input = then.iter().find(|waiting| waiting.amount == 5).map(|waiting| waiting.id);
        until(&|found| !found.iter().any(|waiting| Some(waiting.id) == connection));
        drop(accepted);
        until(&|found| !found.iter().any(|waiting| Some(waiting.id) == input));
        // Who gives up before it is accepted has not been accepted either.
        let short = TcpStream::connect(address).unwrap();
        let port = short.local_addr().unwrap().port();
        let given_up = || {
            let ends = Diag::open().and_then(|diag| diag.tcp_given_up()).unwrap_or_default();
            ends.iter().any(|end| end.peer_port == port)
        };
        drop(short);
        let before = until(&|_| given_up());
        let (accepted, _) = listener.accept().unwrap();
        let after = until(&|_| !given_up());
        assert!(before.iter().any(|waiting| waiting.is_connection), "{before:?}");
        assert!(!after.iter().any(|waiting| waiting.is_connection), "{after:?}");
        drop(accepted);
    }

    /// What waits at the sockets of a process, once it satisfies `test`. Other tests of this process have sockets of their own.
    fn until(pids: &[u32], test: impl Fn(&[Waiting]) -> bool) {
        for _ in 0..1000 {
            if test(&waiting(pids)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("{:?}", waiting(pids));
    }

    /// A program that has such a socket and reads nothing; it ends with its input.
    fn deaf(code: &str) -> std::process::Child {
        let code = format!("import socket,sys\n{code}\nsys.stdin.read()");
        let mut command = std::process::Command::new("python3");
        command.args(["-c", &code]).stdin(std::process::Stdio::piped()).spawn().unwrap()
    }

    #[test]
    fn what_waits_at_unix_and_udp_sockets_is_seen_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let (stream, datagrams) = (path("stream"), path("datagrams"));
        let port = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut program = deaf(&format!(
            "a=socket.socket(socket.AF_UNIX); a.bind({stream:?}); a.listen()\n\
             b=socket.socket(socket.AF_UNIX,socket.SOCK_DGRAM); b.bind({datagrams:?})\n\
             c=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); c.bind(('127.0.0.1',{port}))\n\
             d,e=socket.socketpair(); d.send(b'its own')"
        ));
        let pids = [program.id()];
        let count = |found: &[Waiting], connection: bool| {
            found.iter().filter(|waiting| waiting.is_connection == connection).count()
        };
        let bound = || {
            let sockets = Diag::open().and_then(|diag| diag.udp_sockets()).unwrap();
            stream.exists() && datagrams.exists() && sockets.iter().any(|socket| socket.port == port)
        };
        until(&pids, |found| bound() && count(found, true) + count(found, false) == 0);
        let _clients = [(); 2].map(|()| std::os::unix::net::UnixStream::connect(&stream).unwrap());
        until(&pids, |found| count(found, true) == 2 && count(found, false) == 0);
        std::os::unix::net::UnixDatagram::unbound().unwrap().send_to(b"hello", &datagrams).unwrap();
        until(&pids, |found| count(found, false) == 1);
        std::net::UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"hello", ("127.0.0.1", port)).unwrap();
        until(&pids, |found| count(found, false) == 2);
        drop(program.stdin.take());
        program.wait().unwrap();
    }

    #[test]
    fn this_process_is_seen_with_its_threads() {
        let (send, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::Builder::new().name("waits".into()).spawn(move || wait.recv()).unwrap();
        let sees = || {
            let moment = look(std::process::id(), false, true).unwrap();
            let found = moment.threads.iter().find(|thread| thread.name == "waits").cloned();
            assert!(moment.usage.threads >= 2 && moment.usage.memory_bytes > 0, "{:?}", moment.usage);
            (moment.cpu > Duration::ZERO).then_some(found).flatten()
        };
        let seen = (0..1000).find_map(|_| {
            std::thread::sleep(Duration::from_millis(2));
            sees().filter(|thread| thread.waits_for == WaitsFor::Lock)
        });
        assert_eq!(seen.map(|thread| thread.state), Some('S'));
        drop(send);
        let _ = thread.join();
        assert!(look(u32::MAX - 7, true, true).is_none());
    }
}

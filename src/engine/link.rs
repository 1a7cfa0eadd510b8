//! The daemon's end of the conversation with the keeper.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::base::{InstanceId, Instant};
use crate::keeper::Heritage;
use crate::keeper::attention::{Attention, DEAF, LOOK};
use crate::keeper::protocol::{Report, Request};
use crate::os::state_dir::StateDir;
use crate::os::{inherit, packet, process, signals};

use super::Options;

/// The keeper's process.
pub struct Peer {
    pid: u32,
    /// `None`: it was gone before we looked.
    handle: Option<OwnedFd>,
}

impl Peer {
    /// Its end of the link is closed. Either it was killed, or it became the binary on disk (execve(2)) and starts a daemon of
    /// its own: who lives on needs no heir. One that has become another image and ended since is taken for killed; the heir
    /// learns from the lock that it ended in order.
    pub fn was_killed(&self) -> bool {
        let alive =
            |handle| !process::has_ended(handle) && process::stat(self.pid).is_some_and(|stat| !stat.exiting);
        !self.handle.as_ref().is_some_and(alive)
    }

    /// Lets it go on after it was stopped.
    pub fn wake(&self) {
        if let Some(handle) = &self.handle {
            let _ = process::signal(handle, libc::SIGCONT);
        }
    }
}

pub struct Link {
    socket: AsyncFd<OwnedFd>,
    waiting: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
    /// The keeper understands packets that hold several messages.
    pub several: bool,
    /// What came with others, and is not taken yet.
    heard: VecDeque<Report>,
    closed: bool,
    /// Whether the keeper still hears what it is asked.
    pub attention: Attention,
    /// It does not, and that was said.
    deaf: bool,
}

/// What is wrong with a keeper that lives.
pub enum Amiss {
    /// It was stopped by a signal.
    Stopped,
    /// It reads nothing; told once.
    Deaf,
}

impl Link {
    /// Over a descriptor that was inherited from the keeper.
    pub fn inherited(number: i32) -> io::Result<Self> {
        let fd = inherit::take(number)?;
        let socket = inherit::watched(fd, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self {
            socket,
            waiting: VecDeque::new(),
            several: false,
            heard: VecDeque::new(),
            closed: false,
            attention: Attention::default(),
            deaf: false,
        })
    }

    /// The keeper, whether it still lives: it made the socket (SO_PEERCRED, unix(7)).
    pub fn keeper(&self) -> Peer {
        let pid = process::peer(self.socket.get_ref()).map_or(0, |(pid, _)| pid);
        Peer { pid, handle: process::open_any(pid) }
    }

    /// Sends, or keeps it until the keeper reads on.
    pub fn send(&mut self, request: &Request) {
        self.send_with(request, Vec::new());
    }

    /// The same with descriptors.
    pub fn send_with(&mut self, request: &Request, fds: Vec<OwnedFd>) {
        self.push(request, fds);
        self.flush();
    }

    /// Sends with what comes next, or by [`flush`](Self::flush).
    pub fn send_later(&mut self, request: &Request) {
        self.push(request, Vec::new());
    }

    fn push(&mut self, request: &Request, fds: Vec<OwnedFd>) {
        if let Ok(bytes) = serde_json::to_vec(request) {
            self.waiting.push_back((bytes, fds));
        }
    }

    /// The next report; `None` when the keeper is gone. Sends what waits meanwhile.
    pub async fn receive(&mut self) -> Option<(Report, Vec<OwnedFd>)> {
        loop {
            if let Some(found) = self.try_receive() {
                return Some(found);
            }
            if self.closed {
                return None;
            }
            if self.waiting.is_empty() {
                self.socket.readable().await.ok()?.clear_ready();
            } else {
                let mut ready = self.socket.ready(Interest::READABLE | Interest::WRITABLE).await.ok()?;
                ready.clear_ready();
                drop(ready);
                self.flush();
            }
        }
    }

    /// The next report, if there is one.
    pub fn try_receive(&mut self) -> Option<(Report, Vec<OwnedFd>)> {
        self.flush();
        loop {
            if let Some(report) = self.heard.pop_front() {
                return Some((report, Vec::new()));
            }
            match packet::receive(self.socket.get_ref()) {
                Ok(Some(packet)) => {
                    self.attention.heard();
                    for message in packet.messages() {
                        match serde_json::from_slice(message) {
                            Ok(report) => self.heard.push_back(report),
                            // A newer keeper may say what this daemon does not understand.
                            Err(error) => {
                                tracing::warn!(%error, "the keeper said something that is not understood");
                            }
                        }
                    }
                    if let Some(report) = self.heard.pop_front() {
                        return Some((report, packet.fds));
                    }
                }
                Ok(None) => {
                    self.closed = true;
                    return None;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(_) => {
                    self.closed = true;
                    return None;
                }
            }
        }
    }

    /// Sends what waits, as far as the keeper reads.
    pub fn flush(&mut self) {
        let socket = self.socket.get_ref();
        while let Some((bytes, fds)) = self.waiting.front() {
            let sent = if self.several && fds.is_empty() {
                let alone =
                    self.waiting.iter().map_while(|(bytes, fds)| fds.is_empty().then_some(bytes.as_slice()));
                packet::send_several(socket, alone)
            } else {
                packet::send(socket, bytes, &borrowed(fds)).map(|()| 1)
            };
            match sent {
                Ok(sent) => drop(self.waiting.drain(..sent)),
                Err(error) if packet::is_for_now(&error) => return,
                Err(error) => {
                    tracing::error!(%error, "cannot send to the keeper");
                    self.waiting.clear();
                    self.closed = true;
                }
            }
        }
    }

    /// Looks at the keeper, if that is due.
    pub fn look(&mut self, now: Instant, keeper: &Peer) -> Option<Amiss> {
        if !self.attention.is_due(now) {
            return None;
        }
        let stopped = process::is_stopped(keeper.pid);
        let unread = !self.waiting.is_empty() || packet::is_unread(self.socket.get_ref());
        let amiss = self.attention.looked(now, stopped || unread);
        self.deaf &= unread;
        if stopped {
            (amiss >= LOOK).then_some(Amiss::Stopped)
        } else {
            (unread && amiss >= DEAF && !std::mem::replace(&mut self.deaf, true)).then_some(Amiss::Deaf)
        }
    }

    /// Everything said has been taken.
    pub async fn drain(&mut self) {
        while !self.waiting.is_empty() && !self.closed {
            let Ok(mut ready) = self.socket.writable().await else { return };
            ready.clear_ready();
            drop(ready);
            self.flush();
        }
    }
}

fn borrowed(fds: &[OwnedFd]) -> Vec<BorrowedFd<'_>> {
    fds.iter().map(AsFd::as_fd).collect()
}

/// A keeper that was started in place of one that was killed, and takes over from its journal.
pub struct Heir {
    keeper: Child,
    /// Whose lock it takes over.
    of: u32,
    options: Box<Options>,
    left: Left,
}

/// Descriptors of instances that nobody else holds until the next keeper has them.
#[derive(Default)]
pub struct Left {
    /// Of their output: held open for what is in them, and opened anew by their names.
    pub pipes: Vec<OwnedFd>,
    /// Over which they tell: given to the keeper as they are.
    pub notify: Vec<(InstanceId, OwnedFd)>,
    /// Of their main processes, given in the same way: they tell how those ended that end before the next keeper is there.
    pub mains: Vec<(InstanceId, OwnedFd)>,
}

impl Left {
    /// A file that lists what is given, by the numbers that they keep.
    fn list(&self) -> io::Result<OwnedFd> {
        let notify = self.notify.iter().map(|(id, fd)| (id.to_string(), fd.as_raw_fd()));
        let mains = self.mains.iter().map(|(id, fd)| (Heritage::of_main(id), fd.as_raw_fd()));
        let numbers: BTreeMap<String, i32> = notify.chain(mains).collect();
        let memory = rustix::fs::memfd_create("unisys-left", rustix::fs::MemfdFlags::CLOEXEC)?;
        let mut file = std::fs::File::from(memory);
        serde_json::to_writer(&mut file, &numbers)?;
        Ok(file.into())
    }
}

/// How often it is looked whether an heir has a daemon, and for how long.
const HEIR_LOOK: Duration = Duration::from_millis(5);
const HEIR_LOOKS: u32 = 2000;

impl Heir {
    pub fn start(options: &Options, former: &Peer, left: Left) -> io::Result<Self> {
        Self::of(options, former.pid, left)
    }

    fn of(options: &Options, of: u32, left: Left) -> io::Result<Self> {
        let text = serde_json::to_string(options)?;
        let list = left.list()?;
        let mut command = Command::new(crate::cli::own_program());
        command
            .args(["keeper", "--heir-of", &of.to_string(), "--options", &text])
            .args(["--notify", &list.as_raw_fd().to_string()])
            .process_group(0)
            .stdin(Stdio::null());
        signals::block_in(&mut command, &crate::keeper::SIGNALS);
        let given = left.notify.iter().chain(&left.mains).map(|(_, fd)| fd).chain([&list]);
        inherit::leave_open(&mut command, given.map(AsRawFd::as_raw_fd).collect());
        Ok(Self { keeper: command.spawn()?, of, options: Box::new(options.clone()), left })
    }

    /// Waits until the heir has a daemon, which from then on watches over it as we do now. One that is killed before that gets
    /// an heir in its turn; one that gives way to another keeper does not.
    pub fn see_in(mut self) -> io::Result<()> {
        for _ in 0..HEIR_LOOKS {
            match self.keeper.try_wait()? {
                Some(status) if status.signal().is_some() => self = self.next()?,
                Some(_) => return Ok(()),
                None if process::tree(&[self.keeper.id()]).len() > 1 => return Ok(()),
                None => {}
            }
            std::thread::sleep(HEIR_LOOK);
        }
        Ok(())
    }

    fn next(self) -> io::Result<Self> {
        let state = StateDir::open(&self.options.state_dir).map_err(io::Error::other)?;
        let killed = self.keeper.id();
        // It may have been killed before it had the lock.
        let of = if state.holder() == killed.to_string() { killed } else { self.of };
        Self::of(&self.options, of, self.left)
    }
}

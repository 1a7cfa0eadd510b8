//! Sockets that outlive processes: the listeners of `listen: true` ports, and descriptors that programs gave to keep
//! (`FDSTORE=1`, sd_notify(3)). They stay open from the first start on, whatever becomes of instances and daemons, so that
//! connections wait in the backlog instead of being refused. A listener is closed when the daemon no longer names it and no
//! instance that was given it is left.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use crate::base::{InstanceId, Listen, Name, Ordinal, PortNeed, PortNumbers, Role, limits};
use crate::os::sockets::{self, BindError};
use crate::os::voice::complain;
use crate::os::{clock, inherit};

use super::journal::Entry;
use super::spawner;

/// Who a unix socket's file belongs to, if not to unisys.
pub type FileOwner = Option<(u32, u32)>;

struct Listener {
    socket: OwnedFd,
    owner: FileOwner,
}

/// A descriptor that a program gave to keep.
struct Stored {
    name: String,
    fd: OwnedFd,
}

#[derive(Default)]
pub struct Listeners {
    open: BTreeMap<Listen, Listener>,
    /// Of each seat: what an incoming instance gives to keep is not its predecessor's before it has taken the place.
    stored: BTreeMap<(Name, Ordinal, Role), Vec<Stored>>,
    /// What the accepted revision wants; `None` until a daemon has said: nothing is closed before.
    wanted: Option<BTreeSet<Listen>>,
}

/// What one start is given.
#[derive(Default)]
pub struct Provided {
    /// With the names that `LISTEN_FDNAMES` tells, in the order of their numbers from 3 on.
    pub handed: Vec<(String, OwnedFd)>,
    pub numbers: PortNumbers,
    /// Listeners that were opened for it, for the journal.
    pub opened: Vec<Entry>,
}

/// Keys of what is kept open through an exec of this process.
const KEPT_LISTENER: &str = "listener ";
const KEPT_STORED: &str = "stored ";
/// After the ordinal, of an incoming seat.
const INCOMING: &str = ".incoming";

impl Listeners {
    /// Sockets and numbers for a start of `id`. A number in `taken` is another instance's and not given out again.
    pub fn provide(
        &mut self,
        id: &InstanceId,
        role: Role,
        needs: &[PortNeed],
        owner: FileOwner,
        taken: &BTreeSet<u16>,
    ) -> Result<Provided, BindError> {
        let mut provided = Provided::default();
        for need in needs {
            let listen = need.listen();
            let socket = match need {
                PortNeed::Shared(listen) => self.shared(listen, owner, &mut provided.opened)?,
                PortNeed::Private(listen) | PortNeed::Number(listen) => fresh(listen, taken)?,
            };
            if !matches!(need, PortNeed::Shared(_)) {
                provided.numbers.0.insert(listen.name.clone(), sockets::number(&socket));
            }
            if need.is_handed_over() {
                provided.handed.push((listen.name.to_string(), socket));
            }
        }
        if role == Role::Incoming {
            self.hand_down(id);
        }
        for stored in self.stored.get(&seat(id, role)).into_iter().flatten() {
            let fd = stored.fd.try_clone().map_err(|error| out_of_descriptors(&stored.name, &error))?;
            provided.handed.push((stored.name.clone(), fd));
        }
        Ok(provided)
    }

    /// A copy of the held listener, which is bound now if it is not yet.
    fn shared(
        &mut self,
        listen: &Listen,
        owner: FileOwner,
        opened: &mut Vec<Entry>,
    ) -> Result<OwnedFd, BindError> {
        // Nobody finds one whose file was removed: who was given it goes on with it, and new instances get another.
        let lost = listen.transport.is_unix() && !sockets::has_file(listen);
        if lost || !self.open.contains_key(listen) {
            let bound = match self.same_address(listen).filter(|_| !lost) {
                Some(socket) => Ok(socket),
                None => sockets::bind(listen, owner),
            };
            // Who holds it is the daemon's question: an answer takes a look at every process.
            let socket = left(bound?, listen)?;
            let inode = sockets::inode(&socket);
            opened.push(Entry::Listening { listen: listen.clone(), inode, owner });
            self.open.insert(listen.clone(), Listener { socket, owner });
        }
        match self.open.get(listen).map(|listener| listener.socket.try_clone()) {
            Some(Ok(socket)) => Ok(socket),
            Some(Err(error)) => Err(out_of_descriptors(&listen.to_string(), &error)),
            None => Err(BindError { errno: 0, detail: format!("{listen}: it is not open") }),
        }
    }

    /// A copy of the socket that is held for the same address under another name: whoever renames a port or its unit keeps
    /// the connections that wait there.
    fn same_address(&self, listen: &Listen) -> Option<OwnedFd> {
        let (known, listener) = self.open.iter().find(|(known, _)| is_same_address(known, listen))?;
        let socket = listener.socket.try_clone().ok()?;
        if known.backlog != listen.backlog {
            // A backlog that the kernel refuses is none that anybody could have.
            let _ = sockets::relisten(&socket, listen);
        }
        Some(socket)
    }

    /// The daemon says what is wanted: listeners, and units whose stored descriptors are kept.
    pub fn want(&mut self, wanted: Vec<Listen>, storing: &[Name]) {
        self.wanted = Some(wanted.into_iter().collect());
        self.stored.retain(|(unit, _, _), _| storing.contains(unit));
    }

    /// Closes what nobody wants: not the accepted revision, and none of the instances that were given `in_use`.
    pub fn close_unwanted(&mut self, in_use: &BTreeSet<&Listen>) -> Vec<Entry> {
        let Some(wanted) = &self.wanted else { return Vec::new() };
        let gone = |listen: &&Listen| !wanted.contains(listen) && !in_use.contains(listen);
        let gone = self.open.keys().filter(gone).cloned().collect();
        self.close_all_of(gone)
    }

    /// Closes what is in the way of a start: nobody that lives was given it (`in_use`), and it is unwanted, or was another address
    /// of a port that is needed.
    pub fn make_way(&mut self, needs: &[PortNeed], in_use: &BTreeSet<&Listen>) -> Vec<Entry> {
        let needed = |known: &Listen| {
            let is_it = |need: &PortNeed| {
                let listen = need.listen();
                (&listen.unit, &listen.name) == (&known.unit, &known.name) && listen != known
            };
            needs.iter().any(is_it)
        };
        let unwanted = |known: &Listen| self.wanted.as_ref().is_some_and(|wanted| !wanted.contains(known));
        let gone = |known: &&Listen| !in_use.contains(known) && (needed(known) || unwanted(known));
        let gone = self.open.keys().filter(gone).cloned().collect();
        self.close_all_of(gone)
    }

    fn close_all_of(&mut self, gone: Vec<Listen>) -> Vec<Entry> {
        let close = |listen: Listen| {
            self.close(&listen);
            Entry::Closed { listen }
        };
        gone.into_iter().map(close).collect()
    }

    fn close(&mut self, listen: &Listen) {
        self.open.remove(listen);
        if listen.transport.is_unix() && self.same_address(listen).is_none() {
            let _ = std::fs::remove_file(Path::new(&listen.address));
        }
    }

    /// Nothing runs any more.
    pub fn close_all(&mut self) {
        for listen in self.open.keys().cloned().collect::<Vec<_>>() {
            self.close(&listen);
        }
        self.stored.clear();
    }

    /// Keeps a descriptor for the next instance of the ordinal; one that is kept already is not kept twice.
    ///
    /// # Errors
    /// So many are kept already.
    pub fn store(
        &mut self,
        id: &InstanceId,
        role: Role,
        name: &str,
        fd: OwnedFd,
    ) -> Result<(), &'static str> {
        if role == Role::Draining {
            return Err("another instance has its place already");
        }
        let stored = self.stored.entry(seat(id, role)).or_default();
        if stored.iter().any(|known| known.name == name && is_same(&known.fd, &fd)) {
            return Ok(());
        }
        if stored.len() >= limits::STORED_DESCRIPTORS {
            return Err("it keeps as many descriptors as it may already");
        }
        if spawner::leaves_some(&fd).is_err() {
            return Err("unisys has as many files open as it may");
        }
        stored.push(Stored { name: name.to_owned(), fd });
        Ok(())
    }

    /// `FDSTOREREMOVE=1`: every descriptor of this name goes.
    pub fn unstore(&mut self, id: &InstanceId, role: Role, name: &str) {
        if let Some(stored) = self.stored.get_mut(&seat(id, role)) {
            stored.retain(|known| known.name != name);
        }
    }

    /// A new version begins with what the serving instance keeps at this moment, as if it were started in its place.
    fn hand_down(&mut self, id: &InstanceId) {
        let serving = self.stored.get(&seat(id, Role::Serving)).into_iter().flatten();
        let copies = serving
            .filter_map(|stored| {
                let fd = stored.fd.try_clone().ok()?;
                Some(Stored { name: stored.name.clone(), fd })
            })
            .collect();
        self.stored.insert(seat(id, Role::Incoming), copies);
    }

    /// An incoming instance has become the serving one: what it keeps is what the ordinal keeps.
    pub fn take_place(&mut self, id: &InstanceId) {
        let own = self.stored.remove(&seat(id, Role::Incoming)).unwrap_or_default();
        self.stored.insert(seat(id, Role::Serving), own);
    }

    /// An incoming instance is gone without having taken a place: the serving one's descriptors are as they were.
    pub fn give_up(&mut self, id: &InstanceId) {
        self.stored.remove(&seat(id, Role::Incoming));
    }

    /// As journal entries.
    pub fn entries(&self) -> impl Iterator<Item = Entry> {
        self.open.iter().map(|(listen, listener)| Entry::Listening {
            listen: listen.clone(),
            inode: sockets::inode(&listener.socket),
            owner: listener.owner,
        })
    }

    /// What has to stay open through an exec, under keys that [`Listeners::take_over`] knows.
    pub fn kept(&self) -> Vec<(String, BorrowedFd<'_>)> {
        let open = self.open.iter().filter_map(|(listen, listener)| {
            let key = serde_json::to_string(listen).ok()?;
            Some((format!("{KEPT_LISTENER}{key}"), listener.socket.as_fd()))
        });
        let stored = self.stored.iter().flat_map(|((unit, ordinal, role), list)| {
            let role = if *role == Role::Incoming { INCOMING } else { "" };
            list.iter().map(move |stored| {
                (format!("{KEPT_STORED}{unit}.{ordinal}{role} {}", stored.name), stored.fd.as_fd())
            })
        });
        open.chain(stored).collect()
    }

    /// Takes over what an earlier keeper held: by descriptors that its image left open (`kept`), from a living process that
    /// was given the listener (`holders`), or by binding it again. What can be had in no way is bound at the next start.
    pub fn take_over(
        &mut self,
        entries: &[Entry],
        kept: Option<&BTreeMap<String, Vec<i32>>>,
        holders: &dyn Fn(&Listen) -> Vec<u32>,
    ) {
        for (listen, inode, owner) in replay(entries) {
            let key = format!("{KEPT_LISTENER}{}", serde_json::to_string(&listen).unwrap_or_default());
            let number = kept.and_then(|kept| kept.get(&key)?.first().copied());
            let socket = number
                .and_then(|number| inherit::take(number).ok())
                .or_else(|| holders(&listen).into_iter().find_map(|pid| sockets::held_by(pid, inode)))
                .or_else(|| sockets::bind(&listen, owner).ok());
            match socket {
                Some(socket) => drop(self.open.insert(listen, Listener { socket, owner })),
                None => complain!("unisys: {listen} of {} is bound at its next start", listen.unit),
            }
        }
        for (key, numbers) in kept.into_iter().flatten() {
            let Some((of, name)) = key.strip_prefix(KEPT_STORED).and_then(|rest| rest.split_once(' ')) else {
                continue;
            };
            let (of, role) = match of.strip_suffix(INCOMING) {
                Some(of) => (of, Role::Incoming),
                None => (of, Role::Serving),
            };
            let Ok(id) = format!("{of}.0").parse::<InstanceId>() else { continue };
            for number in numbers {
                if let Ok(fd) = inherit::take(*number) {
                    let _ = self.store(&id, role, name, fd);
                }
            }
        }
    }
}

fn seat(id: &InstanceId, role: Role) -> (Name, Ordinal, Role) {
    (id.unit.clone(), id.ordinal, role)
}

/// The listeners of a unit that are open, as the entries of a journal say.
pub fn of_unit(entries: &[Entry], unit: &Name) -> Vec<Listen> {
    replay(entries).into_iter().map(|(listen, ..)| listen).filter(|listen| listen.unit == *unit).collect()
}

/// What the entries of a journal say is open.
fn replay(entries: &[Entry]) -> Vec<(Listen, u64, FileOwner)> {
    let mut open: BTreeMap<&Listen, (u64, FileOwner)> = BTreeMap::new();
    for entry in entries {
        match entry {
            Entry::Listening { listen, inode, owner } => drop(open.insert(listen, (*inode, *owner))),
            Entry::Closed { listen } => drop(open.remove(listen)),
            _ => {}
        }
    }
    open.into_iter().map(|(listen, (inode, owner))| (listen.clone(), inode, owner)).collect()
}

/// A socket with a number of its own that no living instance was given. A program that binds it itself does so a moment later:
/// among the numbers that the kernel chooses by itself, a connection of anybody (a probe) could have it by then.
fn fresh(listen: &Listen, taken: &BTreeSet<u16>) -> Result<OwnedFd, BindError> {
    let quiet = sockets::quiet_ports();
    let start = usize::from(u16::from_ne_bytes(clock::random())) % quiet.len().max(1);
    let from_anywhere = quiet.clone().skip(start).chain(quiet.take(start));
    for port in from_anywhere.filter(|port| !taken.contains(port)).take(limits::AUTO_PORT_TRIES as usize) {
        match sockets::bind(&Listen { port, ..listen.clone() }, None) {
            Err(error) if error.errno == libc::EADDRINUSE => {}
            bound => return left(bound?, listen),
        }
    }
    // Those that are not wanted stay open until a good one is found: the kernel gives another number each time.
    let mut passed_over = Vec::new();
    for _ in 0..limits::AUTO_PORT_TRIES {
        let socket = sockets::bind(listen, None)?;
        if !taken.contains(&sockets::number(&socket)) {
            return left(socket, listen);
        }
        passed_over.push(socket);
    }
    Err(BindError { errno: libc::EADDRINUSE, detail: format!("{}: there is no free port", listen.address) })
}

/// The socket, if it leaves the keeper descriptors for what it needs itself.
fn left(socket: OwnedFd, listen: &Listen) -> Result<OwnedFd, BindError> {
    spawner::leaves_some(&socket).map_err(|error| out_of_descriptors(&listen.to_string(), &error))?;
    Ok(socket)
}

fn out_of_descriptors(what: &str, error: &io::Error) -> BindError {
    let detail = format!("{what}: {}", spawner::why_not(error));
    BindError { errno: error.raw_os_error().unwrap_or(0), detail }
}

fn is_same_address(a: &Listen, b: &Listen) -> bool {
    (&a.address, a.port, a.transport) == (&b.address, b.port, b.transport)
}

/// Two descriptors of one file or socket.
fn is_same(a: &OwnedFd, b: &OwnedFd) -> bool {
    let identity = |fd: &OwnedFd| rustix::fs::fstat(fd).ok().map(|stat| (stat.st_dev, stat.st_ino));
    a.as_raw_fd() == b.as_raw_fd() || identity(a).is_some_and(|of| identity(b) == Some(of))
}

#[cfg(test)]
#[path = "listeners_tests.rs"]
mod tests;

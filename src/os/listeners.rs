//! Which ports are listened on, from the kernel's own table (sock_diag(7)), by whom, and what waits there.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::base::ports::{Place, Places};
use crate::base::{InstanceId, Transport};

use super::process;

/// A listening socket, or one end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    pub address: IpAddr,
    pub port: u16,
    /// The other end's.
    pub peer_port: u16,
    /// 0: a connection that nobody has accepted.
    pub inode: u32,
    /// Of TCP: connections that wait to be accepted; of a connection, bytes that wait to be read.
    pub waiting: u32,
    /// Of TCP: connections that may wait.
    pub backlog: u32,
}

/// A unix socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnixSocket {
    pub inode: u32,
    /// The other end's; 0 where there is none.
    pub peer: u32,
    /// Of a listener: connections that wait to be accepted; else bytes that wait to be read.
    pub waiting: u32,
    /// The ends from which such connections come.
    pub connections: Vec<u32>,
}

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const TCP_ESTABLISHED: u32 = 1;
/// The other end has gone, this one has not been closed.
const TCP_CLOSE_WAIT: u32 = 8;
const TCP_LISTEN: u32 = 10;
/// The state of every bound UDP socket (TCP_CLOSE).
const UDP_BOUND: u32 = 7;
const HEADER: usize = 16;
/// A unix socket that is neither connected nor listens (TCP_CLOSE).
const UNBOUND: u32 = 7;
/// struct inet_diag_req_v2.
const REQUEST: usize = 56;
/// struct unix_diag_req.
const UNIX_REQUEST: usize = 24;
/// UDIAG_SHOW_PEER, UDIAG_SHOW_ICONS, UDIAG_SHOW_RQLEN.
const SHOW: u32 = 0x4 | 0x8 | 0x10;
/// Where `idiag_rqueue` and `idiag_inode` are in struct inet_diag_msg.
const RQUEUE: usize = 56;
/// `idiag_wqueue`: of a listening socket, its backlog.
const WQUEUE: usize = 60;
const INODE: usize = 68;

/// An open question to the kernel; kept open by those who ask often.
pub struct Diag(OwnedFd);

impl Diag {
    pub fn open() -> io::Result<Self> {
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
        // SAFETY: plain call; the new descriptor belongs to nobody else.
        unsafe {
            let fd = libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_SOCK_DIAG);
            if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(Self(OwnedFd::from_raw_fd(fd))) }
        }
    }

    /// All TCP listeners of this network namespace, IPv4 and IPv6.
    pub fn tcp_listeners(&self) -> io::Result<Vec<Listener>> {
        self.sockets(libc::IPPROTO_TCP, TCP_LISTEN)
    }

    /// All TCP connections.
    pub fn tcp_connections(&self) -> io::Result<Vec<Listener>> {
        self.sockets(libc::IPPROTO_TCP, TCP_ESTABLISHED)
    }

    /// TCP connections whose other end has gone before this one was accepted.
    pub fn tcp_given_up(&self) -> io::Result<Vec<Listener>> {
        let mut found = self.sockets(libc::IPPROTO_TCP, TCP_CLOSE_WAIT)?;
        found.retain(|end| end.inode == 0);
        Ok(found)
    }

    /// All bound UDP sockets.
    pub fn udp_sockets(&self) -> io::Result<Vec<Listener>> {
        self.sockets(libc::IPPROTO_UDP, UDP_BOUND)
    }

    fn sockets(&self, protocol: i32, state: u32) -> io::Result<Vec<Listener>> {
        let mut found = Vec::new();
        for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
            self.dump(family, protocol, state, &mut found)?;
        }
        Ok(found)
    }

    /// All unix sockets at which something waits.
    pub fn unix_sockets(&self) -> io::Result<Vec<UnixSocket>> {
        let mut request = [0u8; UNIX_REQUEST];
        request[0] = libc::AF_UNIX as u8;
        let states = (1u32 << TCP_ESTABLISHED) | (1 << TCP_LISTEN) | (1 << UNBOUND);
        request[4..8].copy_from_slice(&states.to_ne_bytes());
        request[12..16].copy_from_slice(&SHOW.to_ne_bytes());
        let mut found = Vec::new();
        self.ask(&request, |body| found.extend(unix_socket(body).filter(|socket| socket.waiting > 0)))?;
        Ok(found)
    }

    fn dump(&self, family: u8, protocol: i32, state: u32, found: &mut Vec<Listener>) -> io::Result<()> {
        let mut request = [0u8; REQUEST];
        request[0] = family;
        request[1] = protocol as u8;
        request[4..8].copy_from_slice(&(1u32 << state).to_ne_bytes());
        self.ask(&request, |body| found.extend(listener(body)))
    }

    /// Puts one question and gives the body of every answer.
    fn ask(&self, question: &[u8], mut answer: impl FnMut(&[u8])) -> io::Result<()> {
        let mut request = vec![0u8; HEADER];
        request[0..4].copy_from_slice(&((HEADER + question.len()) as u32).to_ne_bytes());
        request[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
        request[6..8].copy_from_slice(&flags.to_ne_bytes());
        request.extend_from_slice(question);
        let mut buffer = vec![0u8; 32 << 10];
        // SAFETY: both buffers are ours and as long as said.
        unsafe {
            if libc::send(self.0.as_raw_fd(), request.as_ptr().cast(), request.len(), 0) < 0 {
                return Err(io::Error::last_os_error());
            }
            loop {
                let got = libc::recv(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0);
                if got < 0 {
                    return Err(io::Error::last_os_error());
                }
                if parse(&buffer[..got as usize], &mut answer)? {
                    return Ok(());
                }
            }
        }
    }
}

/// Reads one datagram of answers; true when the dump is complete.
fn parse(mut bytes: &[u8], answer: &mut impl FnMut(&[u8])) -> io::Result<bool> {
    while bytes.len() >= HEADER {
        let length = word(bytes, 0) as usize;
        let kind = i32::from(u16::from_ne_bytes([bytes[4], bytes[5]]));
        if kind == libc::NLMSG_DONE {
            return Ok(true);
        }
        if kind == libc::NLMSG_ERROR || length < HEADER || length > bytes.len() {
            return Err(io::Error::other("the kernel refuses to list sockets"));
        }
        answer(&bytes[HEADER..length]);
        bytes = &bytes[length.next_multiple_of(4).min(bytes.len())..];
    }
    Ok(false)
}

/// In the order of this machine. The caller knows that it is there.
fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// struct inet_diag_msg.
fn listener(body: &[u8]) -> Option<Listener> {
    if body.len() < INODE + 4 {
        return None;
    }
    // idiag_sport, in network order, after family, state, timer and retrans.
    let port = u16::from_be_bytes([body[4], body[5]]);
    let peer_port = u16::from_be_bytes([body[6], body[7]]);
    let address = if i32::from(body[0]) == libc::AF_INET {
        IpAddr::V4(Ipv4Addr::from([body[8], body[9], body[10], body[11]]))
    } else {
        let bytes: [u8; 16] = body[8..24].try_into().ok()?;
        IpAddr::V6(Ipv6Addr::from(bytes))
    };
    let (waiting, backlog, inode) = (word(body, RQUEUE), word(body, WQUEUE), word(body, INODE));
    Some(Listener { address, port, peer_port, inode, waiting, backlog })
}

/// struct unix_diag_msg and its attributes (linux/unix_diag.h).
fn unix_socket(body: &[u8]) -> Option<UnixSocket> {
    const PEER: u16 = 2;
    const CONNECTIONS: u16 = 3;
    const QUEUE: u16 = 4;
    let mut rest = body.get(16..)?;
    let mut socket = UnixSocket { inode: word(body, 4), ..UnixSocket::default() };
    let is_listener = u32::from(body[2]) == TCP_LISTEN;
    while rest.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes([rest[0], rest[1]]));
        let kind = u16::from_ne_bytes([rest[2], rest[3]]);
        let value = rest.get(4..length)?;
        match kind {
            PEER if value.len() >= 4 => socket.peer = word(value, 0),
            CONNECTIONS => socket.connections = value.chunks_exact(4).map(|inode| word(inode, 0)).collect(),
            QUEUE if value.len() >= 4 => socket.waiting = word(value, 0),
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    if !is_listener {
        socket.connections.clear();
    }
    Some(socket)
}

/// Who listens where it is in the way of one of `wanted`: `pid 412 (nginx)`. Processes that carry the marker of `state_id` are ours
/// and left out, as are those of `own` (the keeper, which holds listeners for them, and what it started) with their sessions and
/// descendants: a program that writes over its environment to change its title has no marker. A holder that cannot be seen
/// (another user's) is named as such, one of another system with its unit.
pub fn foreign_holders(
    wanted: &BTreeSet<Place>,
    state_id: &str,
    own: &BTreeSet<u32>,
) -> BTreeMap<Place, String> {
    let listeners = Diag::open().and_then(|diag| diag.tcp_listeners()).unwrap_or_default();
    let wanted: Places = wanted.iter().collect();
    let in_the_way = |held: &Place| wanted.overlapping(held).is_some();
    let held: BTreeMap<u32, Place> = listeners
        .into_iter()
        .map(|listener| (listener.inode, (listener.address.to_canonical(), listener.port)))
        .filter(|(_, place)| in_the_way(place))
        .collect();
    // Several sockets may share a place (SO_REUSEPORT).
    let mut holders: BTreeMap<u32, String> = held.keys().map(|inode| (*inode, UNSEEN.to_owned())).collect();
    if held.is_empty() {
        return BTreeMap::new();
    }
    for stat in process::all() {
        for inode in socket_inodes(stat.pid) {
            if !holders.contains_key(&inode) {
                continue;
            }
            if is_own(&stat, state_id, own) {
                holders.remove(&inode);
            } else if let Some(holder) = holders.get_mut(&inode) {
                *holder = named(&stat, state_id);
            }
        }
    }
    holders.into_iter().filter_map(|(inode, holder)| Some((*held.get(&inode)?, holder))).collect()
}

const UNSEEN: &str = "a process that cannot be seen from here";

fn is_own(stat: &process::Stat, state_id: &str, own: &BTreeSet<u32>) -> bool {
    own.contains(&stat.sid)
        || instance(stat.pid, state_id).is_some()
        || process::lineage(stat.pid).any(|pid| own.contains(&pid))
}

/// The instance of this system that a process says it belongs to.
fn instance(pid: u32, state_id: &str) -> Option<String> {
    let marker = process::environ_value(pid, InstanceId::MARKER)?;
    let (state, id) = marker.split_once('/')?;
    (state == state_id).then(|| id.to_owned())
}

/// Who is in the way of a socket that cannot be bound because its address is in use, and at which of these ports: `pid 412
/// (nginx)`; an instance of this system is named as such.
pub fn holder(ports: &BTreeSet<u16>, transport: Transport, state_id: &str) -> Option<(u16, String)> {
    let diag = Diag::open().ok()?;
    let sockets = match transport {
        Transport::Tcp => diag.tcp_listeners(),
        Transport::Udp => diag.udp_sockets(),
        Transport::Unix | Transport::UnixDatagram => return None,
    };
    let taken: BTreeMap<u32, u16> = sockets
        .ok()?
        .into_iter()
        .filter(|socket| ports.contains(&socket.port))
        .map(|socket| (socket.inode, socket.port))
        .collect();
    let first = *taken.values().next()?;
    let of = |stat: process::Stat| {
        let port = socket_inodes(stat.pid).iter().find_map(|inode| taken.get(inode).copied())?;
        Some((port, stat))
    };
    let Some((port, stat)) = process::all().into_iter().find_map(of) else {
        return Some((first, UNSEEN.to_owned()));
    };
    Some((port, named(&stat, state_id)))
}

/// A process for people: `pid 412 (nginx)`, with the instance that it is or the keeper that holds sockets for one, of whichever
/// system.
fn named(stat: &process::Stat, state_id: &str) -> String {
    let marker = process::environ_value(stat.pid, InstanceId::MARKER);
    let marked = marker.as_ref().and_then(|marker| marker.split_once('/'));
    let system = marked.map(|(state, _)| state.to_owned());
    let dir = process::open_files(stat.pid).find_map(|file| state_dir_of(&file, system.as_deref()));
    let of = match (system.as_ref().or(dir.as_ref().map(|(id, _)| id)), &dir) {
        (Some(id), _) if id == state_id => "of this system".to_owned(),
        (_, Some((_, dir))) => format!("of the system in {}", dir.display()),
        (Some(_), None) => "of another system".to_owned(),
        (None, None) => return format!("pid {} ({})", stat.pid, stat.name),
    };
    let what = marked.map_or("the keeper", |(_, instance)| instance);
    format!("pid {} ({}, {what} {of})", stat.pid, stat.name)
}

/// The identity and state directory of the system that a file belongs to which its keepers (the lock) or its programs (where they
/// write to) have open; of a program, only if it is the system that its marker names.
fn state_dir_of(file: &Path, system: Option<&str>) -> Option<(String, PathBuf)> {
    let parent = file.parent()?;
    let dir = match system {
        None if file.file_name()? == "lock" => parent,
        Some(_) if parent.file_name()? == "run" => parent.parent()?,
        _ => return None,
    };
    let id = std::fs::read_to_string(dir.join("run/id")).ok()?.trim().to_owned();
    system.is_none_or(|system| system == id).then(|| (id, dir.to_owned()))
}

/// Sockets that a process has open.
pub fn socket_inodes(pid: u32) -> Vec<u32> {
    process::open_files(pid)
        .filter_map(|target| target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_of_this_process_is_seen_with_its_pid() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let nobody = BTreeSet::new();
        let at = |address: &str| BTreeSet::from([(address.parse::<IpAddr>().unwrap(), port)]);
        let place = (IpAddr::from([127, 0, 0, 1]), port);
        for address in ["127.0.0.1", "0.0.0.0", "::", "::ffff:127.0.0.1"] {
            let holders = foreign_holders(&at(address), "no such system", &nobody);
            assert!(holders[&place].starts_with(&format!("pid {}", std::process::id())), "{holders:?}");
        }
        for address in ["127.0.0.2", "::1"] {
            assert!(foreign_holders(&at(address), "no such system", &nobody).is_empty(), "{address}");
        }
        let wanted = at("127.0.0.1");
        assert!(foreign_holders(&wanted, "no such system", &[std::process::id()].into()).is_empty());
        let holders = foreign_holders(&wanted, "no such system", &nobody);
        let found = holder(&BTreeSet::from([port]), Transport::Tcp, "x");
        assert_eq!(found, Some((port, holders[&place].clone())));
        let seen = Diag::open().unwrap().tcp_listeners().unwrap();
        let of = |port: u16| seen.iter().find(|listener| listener.port == port).copied().unwrap();
        assert_eq!((of(port).address.to_string().as_str(), of(port).waiting), ("127.0.0.1", 0));
        let _waiting = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        let seen = Diag::open().unwrap().tcp_listeners().unwrap();
        assert!(seen.iter().any(|listener| listener.port == port && listener.waiting == 1));
        drop(socket);
        assert!(foreign_holders(&wanted, "no such system", &nobody).is_empty());
    }
}

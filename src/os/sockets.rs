//! Sockets that unisys binds for others, and sockets that are found again in a process that holds them.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use crate::base::ports::Place;
use crate::base::{Listen, Transport, limits};

use super::process;

/// Why a socket cannot be bound, as a sentence's end.
#[derive(Debug)]
pub struct BindError {
    pub errno: i32,
    pub detail: String,
}

impl BindError {
    fn new(listen: &Listen, error: &io::Error) -> Self {
        let why = match error.kind() {
            io::ErrorKind::PermissionDenied if !listen.transport.is_unix() => {
                "only root may bind this port; choose one from 1024 on".into()
            }
            io::ErrorKind::AddrNotAvailable => "this machine does not have this address".into(),
            _ => super::files::why(error),
        };
        Self { errno: error.raw_os_error().unwrap_or(0), detail: format!("{listen}: {why}") }
    }
}

/// Binds a socket; a stream listens at once. A socket file is of mode 0600 and belongs to `owner`.
///
/// # Errors
/// The address is taken, is not of this machine, or needs a privilege; a file is where a socket file should be.
pub fn bind(listen: &Listen, owner: Option<(u32, u32)>) -> Result<OwnedFd, BindError> {
    let bound = match listen.transport {
        Transport::Tcp => bind_ip(listen, SocketType::STREAM),
        Transport::Udp => bind_ip(listen, SocketType::DGRAM),
        Transport::Unix => bind_path(listen, SocketType::STREAM, owner),
        Transport::UnixDatagram => bind_path(listen, SocketType::DGRAM, owner),
    };
    bound.map_err(|error| BindError::new(listen, &error))
}

/// Port numbers that the kernel gives to nobody who does not ask for them: those right below the range that it takes the
/// numbers of outgoing connections and of `bind(0)` from (ip(7), `ip_local_port_range`). Empty where that begins too low.
pub fn quiet_ports() -> Range<u16> {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    below(range.split_whitespace().next().and_then(|low| low.parse().ok()).unwrap_or(0))
}

fn below(low: u16) -> Range<u16> {
    low.saturating_sub(limits::AUTO_PORTS).max(limits::AUTO_PORT_LOWEST).min(low)..low
}

/// The address of an IP listener.
pub fn ip(address: &str) -> io::Result<IpAddr> {
    address.parse().map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "this is no IP address"))
}

/// A program that binds a TCP port by itself could not: it is taken, by whomever. Nothing is heard there for it.
pub fn is_taken((address, port): &Place) -> bool {
    let address = SocketAddr::new(*address, *port);
    let bound = ip_socket(&address, SocketType::STREAM).and_then(|socket| {
        sockopt::set_socket_reuseaddr(&socket, true)?;
        rustix::net::bind(&socket, &address)
    });
    bound == Err(rustix::io::Errno::ADDRINUSE)
}

fn ip_socket(address: &SocketAddr, kind: SocketType) -> rustix::io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)
}

fn bind_ip(listen: &Listen, kind: SocketType) -> io::Result<OwnedFd> {
    let address = SocketAddr::new(ip(&listen.address)?, listen.port);
    let socket = ip_socket(&address, kind)?;
    if kind == SocketType::STREAM {
        // Connections of an earlier holder that are still in TIME_WAIT do not matter. Of UDP it would let others in.
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    if listen.reuse_port {
        sockopt::set_socket_reuseport(&socket, true)?;
    }
    rustix::net::bind(&socket, &address)?;
    if kind == SocketType::STREAM {
        rustix::net::listen(&socket, backlog(listen))?;
    }
    Ok(socket)
}

fn backlog(listen: &Listen) -> i32 {
    listen.backlog.map_or(limits::LISTEN_BACKLOG, |backlog| i32::try_from(backlog).unwrap_or(i32::MAX))
}

/// Another backlog for a socket that listens already: listen(2) may be called again.
pub fn relisten(socket: impl AsFd, listen: &Listen) -> io::Result<()> {
    match listen.transport {
        Transport::Tcp | Transport::Unix => Ok(rustix::net::listen(socket, backlog(listen))?),
        Transport::Udp | Transport::UnixDatagram => Ok(()),
    }
}

fn bind_path(listen: &Listen, kind: SocketType, owner: Option<(u32, u32)>) -> io::Result<OwnedFd> {
    let path = Path::new(&listen.address);
    remove_dead(path)?;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
    // The file gets the mode of the socket's inode (unix(7)): it is never open to others, not even for a moment.
    rustix::fs::fchmod(&socket, rustix::fs::Mode::from_raw_mode(0o600))?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    if let Some((uid, gid)) = owner {
        std::os::unix::fs::chown(path, Some(uid), Some(gid))?;
    }
    if kind == SocketType::STREAM {
        rustix::net::listen(&socket, backlog(listen))?;
    }
    Ok(socket)
}

/// There is a file where a unix socket's is to be.
pub fn has_file(listen: &Listen) -> bool {
    Path::new(&listen.address).symlink_metadata().is_ok()
}

/// A socket file that nobody listens on is in the way and goes; anything else stays.
fn remove_dead(path: &Path) -> io::Result<()> {
    let meta = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    if !meta.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it exists and is not a socket"));
    }
    match is_dead(path)? {
        true => std::fs::remove_file(path),
        false => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens on it")),
    }
}

/// connect(2) to a socket file without a listener is refused.
fn is_dead(path: &Path) -> io::Result<bool> {
    let address = SocketAddrUnix::new(path)?;
    for kind in [SocketType::STREAM, SocketType::DGRAM] {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)?;
        match rustix::net::connect(&socket, &address) {
            Err(rustix::io::Errno::PROTOTYPE) => {}
            Err(rustix::io::Errno::CONNREFUSED) => return Ok(true),
            _ => return Ok(false),
        }
    }
    Ok(false)
}

/// The number that a socket is bound to; 0 for a unix socket.
pub fn number(socket: impl AsFd) -> u16 {
    let address = rustix::net::getsockname(socket).ok();
    address.and_then(|address| SocketAddr::try_from(address).ok()).map_or(0, |address| address.port())
}

/// The machine has this address: something can be bound to it.
pub fn has_address(address: &str) -> bool {
    ip(address).is_ok_and(|ip| {
        UdpSocket::bind(SocketAddr::new(ip, 0))
            .map_or_else(|error| error.kind() != io::ErrorKind::AddrNotAvailable, |_| true)
    })
}

/// The lowest port that this process may bind.
pub fn first_allowed_port() -> u16 {
    if rustix::process::geteuid().is_root() {
        return 1;
    }
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or_default();
    text.trim().parse().unwrap_or(1024)
}

/// What identifies a socket in /proc: `socket:[inode]`.
pub fn inode(socket: impl AsFd) -> u64 {
    rustix::fs::fstat(socket).map_or(0, |stat| stat.st_ino)
}

/// A copy of a socket that a process holds, found by its inode (pidfd_getfd(2)); `None` where it is not held or the kernel
/// does not allow it.
pub fn held_by(pid: u32, inode: u64) -> Option<OwnedFd> {
    let wanted = format!("socket:[{inode}]");
    let pidfd = process::open_any(pid)?;
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten();
    entries.into_iter().find_map(|entry| {
        let target = std::fs::read_link(entry.path()).ok()?;
        let number: i32 = entry.file_name().to_str()?.parse().ok()?;
        (target.to_str() == Some(&wanted)).then_some(())?;
        let flags = rustix::process::PidfdGetfdFlags::empty();
        rustix::process::pidfd_getfd(&pidfd, number, flags).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quiet_ports_are_below_the_range_that_the_kernel_chooses_from() {
        assert_eq!(below(32_768), 24_768..32_768);
        assert_eq!(below(15_000), 10_000..15_000);
        assert!(below(1_024).is_empty() && below(0).is_empty());
    }

    fn listen(address: &str, port: u16, transport: Transport) -> Listen {
        Listen {
            unit: "a".parse().unwrap(),
            name: "p".parse().unwrap(),
            address: address.into(),
            port,
            transport,
            backlog: None,
            reuse_port: false,
        }
    }

    #[test]
    fn a_listener_is_bound_numbered_and_found_again_in_its_process() {
        let socket = bind(&listen("127.0.0.1", 0, Transport::Tcp), None).unwrap();
        let port = number(&socket);
        assert_ne!(port, 0);
        let taken = bind(&listen("127.0.0.1", port, Transport::Tcp), None).unwrap_err();
        assert_eq!(taken.errno, libc::EADDRINUSE);
        let copy = held_by(std::process::id(), inode(&socket)).unwrap();
        drop(socket);
        assert_eq!(number(&copy), port);
        assert!(
            bind(&listen("192.0.2.1", 0, Transport::Tcp), None).unwrap_err().detail.contains("does not have")
        );
    }

    #[test]
    fn a_dead_socket_file_is_replaced_and_anything_else_is_not() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        for transport in [Transport::Unix, Transport::UnixDatagram] {
            let path = dir.path().join(format!("{transport:?}"));
            let wanted = listen(path.to_str().unwrap(), 0, transport);
            let first = bind(&wanted, None).unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            assert!(bind(&wanted, None).unwrap_err().detail.contains("another process listens on it"));
            drop(first);
            drop(bind(&wanted, None).unwrap());
            std::fs::remove_file(&path).unwrap();
            std::fs::write(&path, "mine").unwrap();
            assert!(bind(&wanted, None).unwrap_err().detail.contains("is not a socket"));
            assert_eq!(std::fs::read(&path).unwrap(), b"mine");
        }
    }
}

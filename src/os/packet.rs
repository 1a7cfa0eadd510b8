//! Messages with descriptors over a `SOCK_SEQPACKET` pair. One that is too large for a packet travels in a memfd; small ones without
//! descriptors may share a packet.

use std::cell::RefCell;
use std::io::{self, IoSlice, IoSliceMut, Read, Seek, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

/// The largest message that is sent as a packet of its own; the default socket buffer is about 200 KiB.
const PACKET: usize = 64 << 10;
/// The largest message at all.
const LARGEST: u64 = 64 << 20;
/// Descriptors with one message.
const DESCRIPTORS: usize = 8;

/// A connected pair, both ends non-blocking and close-on-exec.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// Sends one message. `WouldBlock` when the peer's buffer is full: try again when the socket can be written.
pub fn send(socket: impl AsFd, bytes: &[u8], fds: &[std::os::fd::BorrowedFd<'_>]) -> io::Result<()> {
    if bytes.len() > PACKET {
        let memory = rustix::fs::memfd_create("unisys", rustix::fs::MemfdFlags::CLOEXEC)?;
        let mut file = std::fs::File::from(memory);
        file.write_all(bytes)?;
        let mut all = vec![file.as_fd()];
        all.extend(fds);
        return send_packet(socket, b"M", &[], &all);
    }
    send_packet(socket, b"P", bytes, fds)
}

/// Sends the first of these messages, which have no descriptors, and as many of the next as one packet holds; gives how many that
/// were. The receiver must know of packets that hold several. `WouldBlock` as [`send`].
pub fn send_several<'a>(
    socket: impl AsFd,
    mut messages: impl Iterator<Item = &'a [u8]>,
) -> io::Result<usize> {
    let Some(first) = messages.next() else { return Ok(0) };
    let mut several = Vec::new();
    let mut count = 1;
    for message in messages {
        if count == 1 {
            append(&mut several, first);
        }
        if several.len() + LENGTH + message.len() > PACKET {
            break;
        }
        append(&mut several, message);
        count += 1;
    }
    match count {
        1 => send(socket, first, &[])?,
        _ => send_packet(socket, b"S", &several, &[])?,
    }
    Ok(count)
}

/// The length of a message among several: little-endian, before it.
const LENGTH: usize = size_of::<u32>();

fn append(several: &mut Vec<u8>, message: &[u8]) {
    several.extend((message.len() as u32).to_le_bytes());
    several.extend(message);
}

fn send_packet(
    socket: impl AsFd,
    mark: &[u8; 1],
    bytes: &[u8],
    fds: &[std::os::fd::BorrowedFd<'_>],
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(fds));
    }
    let slices = [IoSlice::new(mark), IoSlice::new(bytes)];
    rustix::net::sendmsg(socket, &slices, &mut ancillary, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?;
    Ok(())
}

/// What was received at once.
pub struct Packet {
    bytes: Vec<u8>,
    /// Several messages, each after its length.
    several: bool,
    /// Of its only message.
    pub fds: Vec<OwnedFd>,
}

impl Packet {
    pub fn messages(&self) -> Messages<'_> {
        Messages { rest: &self.bytes, several: self.several }
    }
}

/// The messages of a packet, in the order of their sending.
pub struct Messages<'a> {
    rest: &'a [u8],
    several: bool,
}

impl<'a> Iterator for Messages<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.rest.is_empty() {
            return None;
        }
        if !self.several {
            return Some(std::mem::take(&mut self.rest));
        }
        let (length, rest) = self.rest.split_first_chunk::<LENGTH>()?;
        let (message, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        self.rest = rest;
        Some(message)
    }
}

thread_local! {
    /// Where messages arrive; kept, because clearing and freeing 64 KiB a message was a tenth of the time of a start (measured).
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; PACKET + 1].into());
}

/// Receives one message; `None` when the peer is gone, `WouldBlock` when there is none.
///
/// Of a peer that died with something unread the kernel tells once, ahead of what it had sent (`unix_release_sock`: ECONNRESET):
/// that is received all the same.
pub fn receive(socket: impl AsFd) -> io::Result<Option<Packet>> {
    let receive = || BUFFER.with_borrow_mut(|buffer| receive_in(buffer, &socket));
    match receive() {
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => receive(),
        received => received,
    }
}

fn receive_in(buffer: &mut [u8], socket: impl AsFd) -> io::Result<Option<Packet>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(buffer)];
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let got = rustix::net::recvmsg(socket, &mut slices, &mut ancillary, flags)?;
    let mut fds: Vec<OwnedFd> = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    if got.bytes == 0 {
        return Ok(None);
    }
    let bytes = match buffer[0] {
        b'P' | b'S' => buffer[1..got.bytes].to_vec(),
        b'M' if !fds.is_empty() => {
            let mut file = std::fs::File::from(fds.remove(0));
            file.rewind()?;
            let mut bytes = Vec::new();
            file.take(LARGEST).read_to_end(&mut bytes)?;
            bytes
        }
        _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "not a message")),
    };
    Ok(Some(Packet { bytes, several: buffer[0] == b'S', fds }))
}

/// Something that was sent over this end has not been received yet (SIOCOUTQ, unix(7)).
pub fn is_unread(socket: impl AsFd) -> bool {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the kernel writes one int, which is ours.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &mut bytes) };
    result == 0 && bytes > 0
}

/// What sending may meet with that passes: the socket is full, or there is no room for what is on its way (sendmsg(2), unix(7),
/// memfd_create(2)).
pub fn is_for_now(error: &io::Error) -> bool {
    let codes = [libc::EAGAIN, libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::ETOOMANYREFS];
    error.raw_os_error().is_some_and(|code| codes.contains(&code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_and_large_messages_arrive_whole_with_their_descriptors() {
        let (a, b) = pair().unwrap();
        for size in [1, 1000, PACKET, PACKET + 1, 3 << 20] {
            let bytes = vec![7u8; size];
            let null = std::fs::File::open("/dev/null").unwrap();
            assert!(!is_unread(&a));
            send(&a, &bytes, &[null.as_fd()]).unwrap();
            assert!(is_unread(&a));
            let packet = receive(&b).unwrap().unwrap();
            assert_eq!((packet.bytes.len(), packet.fds.len()), (size, 1));
            assert_eq!(packet.messages().collect::<Vec<_>>(), [bytes]);
        }
        assert_eq!(receive(&b).err().map(|e| e.kind()), Some(io::ErrorKind::WouldBlock));
        drop(a);
        assert!(receive(&b).unwrap().is_none());
    }

    #[test]
    fn what_a_peer_sent_is_received_though_it_died_with_something_unread() {
        let (a, b) = pair().unwrap();
        for word in [b"one", b"two"] {
            send(&a, word, &[]).unwrap();
        }
        send(&b, b"never read", &[]).unwrap();
        drop(a);
        let received = std::iter::from_fn(|| receive(&b).unwrap()).map(|packet| packet.bytes);
        assert_eq!(received.collect::<Vec<_>>(), [b"one", b"two"]);
    }

    #[test]
    fn what_waits_shares_packets_and_arrives_in_order() {
        let (a, b) = pair().unwrap();
        let sizes = [3, 0, 40_000, 20_000, 10_000, PACKET + 1, 5, 6];
        let sent: Vec<Vec<u8>> =
            sizes.iter().enumerate().map(|(index, size)| vec![index as u8; *size]).collect();
        let mut gone = Vec::new();
        while gone.iter().sum::<usize>() < sent.len() {
            let rest = &sent[gone.iter().sum()..];
            gone.push(send_several(&a, rest.iter().map(Vec::as_slice)).unwrap());
        }
        assert_eq!(gone, [4, 1, 1, 2], "as many as fit; one that is too large goes alone");
        let mut got: Vec<Vec<u8>> = Vec::new();
        while let Ok(Some(packet)) = receive(&b) {
            got.extend(packet.messages().map(<[u8]>::to_vec));
        }
        assert!(got == sent);
    }

    #[test]
    fn a_length_that_is_a_lie_ends_the_packet() {
        let messages = |bytes: &[u8]| {
            let packet = Packet { bytes: bytes.to_vec(), several: true, fds: Vec::new() };
            packet.messages().map(<[u8]>::to_vec).collect::<Vec<_>>()
        };
        assert_eq!(messages(b"\x01\0\0\0a\xff\xff\xff\xffb"), [b"a"]);
        assert_eq!(messages(b"\x01\0\0\0a\x01\0"), [b"a"]);
        assert!(messages(b"").is_empty());
    }
}

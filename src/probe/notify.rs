//! What a program tells on its notify socket (sd_notify(3)) or descriptor (s6).

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

/// Longest datagram that is read; longer ones are cut by the kernel.
const DATAGRAM: usize = 4096;
/// Longest status text that is kept.
const STATUS: usize = 256;

/// One assignment of a datagram that unisys knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    Ready,
    Stopping,
    Reloading,
    /// `MONOTONIC_USEC=`, of `RELOADING=1`: when the program began, in microseconds of CLOCK_MONOTONIC.
    Monotonic(u64),
    Status(String),
    MainPid(u32),
    /// Microseconds from now.
    ExtendTimeout(u64),
    Barrier,
    /// `WATCHDOG=1`.
    Heartbeat,
    /// `WATCHDOG=trigger`.
    Frozen,
    /// `WATCHDOG_USEC=`: microseconds.
    HeartbeatWithin(u64),
    /// `FDSTORE=1`: keep the descriptors of this datagram.
    Store,
    /// `FDSTOREREMOVE=1`: keep those of the name no longer.
    Unstore,
    /// `FDNAME=`, of either.
    StoreName(String),
}

/// The name of a stored descriptor that has none (sd_pid_notify_with_fds(3)).
pub const STORED: &str = "stored";

/// A datagram and who sent it.
pub struct Message {
    pub words: Vec<Word>,
    pub sender: Option<u32>,
    /// The sender's user.
    pub uid: u32,
    /// Of `FDSTORE=1`, or of `BARRIER=1`: closed once everything before is processed, which is when this is dropped.
    pub fds: Vec<OwnedFd>,
}

/// The words of a datagram. Unknown assignments are ignored.
pub fn parse(text: &[u8]) -> Vec<Word> {
    let text = String::from_utf8_lossy(text);
    let word = |line: &str| {
        let (key, value) = line.split_once('=')?;
        Some(match (key, value) {
            ("READY", "1") => Word::Ready,
            ("STOPPING", "1") => Word::Stopping,
            ("RELOADING", "1") => Word::Reloading,
            ("MONOTONIC_USEC", value) => Word::Monotonic(value.parse().ok()?),
            ("BARRIER", "1") => Word::Barrier,
            ("WATCHDOG", "1") => Word::Heartbeat,
            ("WATCHDOG", "trigger") => Word::Frozen,
            ("WATCHDOG_USEC", value) => {
                Word::HeartbeatWithin(value.parse().ok().filter(|micros| *micros > 0)?)
            }
            ("FDSTORE", "1") => Word::Store,
            ("FDSTOREREMOVE", "1") => Word::Unstore,
            ("FDNAME", value) if is_store_name(value) => Word::StoreName(value.to_owned()),
            ("STATUS", value) => Word::Status(value.to_owned()),
            ("MAINPID", value) => Word::MainPid(value.parse().ok()?),
            ("EXTEND_TIMEOUT_USEC", value) => Word::ExtendTimeout(value.parse().ok()?),
            _ => return None,
        })
    };
    text.lines().filter_map(word).collect()
}

/// A status as it is shown: a line that is not too long. What must not be shown is masked before.
pub fn shown(status: &str) -> String {
    status.chars().map(|c| if c.is_control() { ' ' } else { c }).take(STATUS).collect()
}

/// At most 255 characters, none of them a colon or a control character.
fn is_store_name(name: &str) -> bool {
    (1..=255).contains(&name.len()) && !name.chars().any(|c| c == ':' || c.is_control())
}

/// The next datagram, which stays where it is until it is received; `WouldBlock` when there is none.
pub fn peek(socket: impl AsFd) -> io::Result<Message> {
    read(socket, RecvFlags::PEEK)
}

/// The next datagram; `WouldBlock` when there is none.
pub fn receive(socket: impl AsFd) -> io::Result<Message> {
    read(socket, RecvFlags::empty())
}

fn read(socket: impl AsFd, how: RecvFlags) -> io::Result<Message> {
    let mut buffer = [0u8; DATAGRAM];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253), ScmCredentials(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(&mut buffer)];
    let flags = how | RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let got = rustix::net::recvmsg(socket, &mut slices, &mut ancillary, flags)?;
    let mut message = Message { words: Vec::new(), sender: None, uid: 0, fds: Vec::new() };
    for part in ancillary.drain() {
        match part {
            RecvAncillaryMessage::ScmRights(fds) => message.fds.extend(fds),
            RecvAncillaryMessage::ScmCredentials(sender) => {
                message.sender = Some(sender.pid.as_raw_nonzero().get() as u32);
                message.uid = sender.uid.as_raw();
            }
            _ => {}
        }
    }
    message.words = parse(&buffer[..got.bytes]);
    Ok(message)
}

/// Whether a newline has come on an s6 descriptor; `None` at its end.
pub fn read_newline(pipe: impl AsFd) -> io::Result<Option<bool>> {
    let mut buffer = [0; 256];
    match rustix::io::read(pipe, &mut buffer) {
        Ok(0) => Ok(None),
        Ok(count) => Ok(Some(buffer[..count].contains(&b'\n'))),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_words_are_read_and_the_rest_ignored() {
        let text = b"READY=1\nSTATUS=warm\x1b[2J up\nX_OWN=1\nMAINPID=12\nMAINPID=x\nEXTEND_TIMEOUT_USEC=5\nnonsense\n";
        assert_eq!(
            parse(text),
            [Word::Ready, Word::Status("warm\u{1b}[2J up".into()), Word::MainPid(12), Word::ExtendTimeout(5)]
        );
        assert_eq!(
            parse(b"FDSTORE=1\nFDNAME=a\nFDNAME=a:b\nFDSTOREREMOVE=1"),
            [Word::Store, Word::StoreName("a".into()), Word::Unstore]
        );
        assert_eq!(parse(b"RELOADING=1\nMONOTONIC_USEC=77"), [Word::Reloading, Word::Monotonic(77)]);
        assert_eq!(
            parse(b"WATCHDOG=1\nWATCHDOG=trigger\nWATCHDOG_USEC=20\nWATCHDOG_USEC=0\nWATCHDOG=2"),
            [Word::Heartbeat, Word::Frozen, Word::HeartbeatWithin(20)]
        );
        assert_eq!(parse(b"READY=0"), []);
        assert_eq!(parse(&[0xff, 0xfe]), []);
    }
}

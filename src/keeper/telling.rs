//! Reports to the daemon; what it does not read at once waits here, up to a limit.

use std::io;

use crate::base::InstanceId;
use crate::os::voice::complain;
use crate::os::{clock, packet, process};

use super::attention::{DEAF, LOOK};
use super::protocol::Report;
use super::run::Keeper;

/// Reports that wait for a daemon that does not read; more, and it is started anew.
const BACKLOG: usize = 200_000;

impl Keeper {
    pub(super) fn tell(&mut self, report: &Report) {
        self.tell_of(report, None);
    }

    /// The same with the instance's pipes.
    pub(super) fn tell_with_pipes(&mut self, report: &Report, id: &InstanceId) {
        self.tell_of(report, Some(id));
    }

    /// It goes with others, before the keeper sleeps and after what it tells of is in the journal: whatever a daemon knows, the
    /// next keeper knows. A report for a daemon that is not there is not kept: the next one hears the state as a whole.
    fn tell_of(&mut self, report: &Report, pipes_of: Option<&InstanceId>) {
        if !self.greeted || self.daemon.socket.is_none() {
            return;
        }
        let Ok(bytes) = serde_json::to_vec(report) else { return };
        self.daemon.attention.stirred(clock::mono());
        if self.backlog.len() < BACKLOG {
            return self.backlog.push_back((bytes, pipes_of.cloned()));
        }
        self.replace_daemon("does not keep up");
    }

    /// It does not read: a new daemon hears everything from the start.
    fn replace_daemon(&mut self, why: &str) {
        complain!("unisys: the daemon {why}; it is started again");
        self.signal_daemon(libc::SIGKILL);
        self.daemon.socket = None;
        self.greeted = false;
    }

    fn signal_daemon(&self, signal: i32) {
        if let Some(handle) = self.daemon.pid.and_then(process::open_any) {
            let _ = process::signal(&handle, signal);
        }
    }

    /// A daemon that was stopped is woken, one that hangs is started again: all that it should do waits meanwhile.
    pub(super) fn look_at_daemon(&mut self) {
        let now = clock::mono();
        if !self.daemon.attention.is_due(now) {
            return;
        }
        let stopped = self.daemon.pid.is_some_and(process::is_stopped);
        let unread = self.greeted && self.daemon.socket.as_ref().is_some_and(packet::is_unread);
        let amiss = self.daemon.attention.looked(now, stopped || unread);
        if stopped && amiss >= LOOK {
            complain!("unisys: the daemon was stopped by a signal; it goes on");
            self.signal_daemon(libc::SIGCONT);
        } else if unread && amiss >= DEAF {
            self.replace_daemon(&format!("has not listened for {} s", DEAF.as_secs()));
        }
    }

    pub(super) fn flush_backlog(&mut self) {
        while let (Some(socket), Some((bytes, pipes_of))) = (&self.daemon.socket, self.backlog.front()) {
            let sent = match pipes_of {
                None if self.daemon.several => {
                    let alone =
                        self.backlog.iter().map_while(|(bytes, of)| of.is_none().then_some(bytes.as_slice()));
                    packet::send_several(socket, alone)
                }
                _ => packet::send(socket, bytes, &self.table.pipes_of(pipes_of.as_ref())).map(|()| 1),
            };
            match sent {
                Err(error) if packet::is_for_now(&error) => {
                    // A full socket says when it is not; a lack of descriptors does not.
                    self.choked = error.kind() != io::ErrorKind::WouldBlock;
                    return;
                }
                sent => drop(self.backlog.drain(..sent.unwrap_or(1))),
            }
        }
        self.choked = false;
    }
}

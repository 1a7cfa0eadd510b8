//! Reports to the daemon; what it does not read at once waits here, up to a limit.

use std::io;

use crate::base::InstanceId;
use crate::os::{packet, process};

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

    /// A report for a daemon that is not there is not kept: the next one hears the state as a whole.
    fn tell_of(&mut self, report: &Report, pipes_of: Option<&InstanceId>) {
        let Some(socket) = self.daemon.socket.as_ref().filter(|_| self.greeted) else { return };
        let Ok(bytes) = serde_json::to_vec(report) else { return };
        if self.backlog.is_empty() && packet::send(socket, &bytes, &self.table.pipes_of(pipes_of)).is_ok() {
            return;
        }
        if self.backlog.len() < BACKLOG {
            return self.backlog.push_back((bytes, pipes_of.cloned()));
        }
        // It does not read: a new daemon hears everything from the start.
        eprintln!("unisys: the daemon does not keep up; it is started again");
        if let Some(handle) = self.daemon.pid.and_then(process::open_any) {
            let _ = process::signal(&handle, libc::SIGKILL);
        }
        self.daemon.socket = None;
        self.greeted = false;
    }

    pub(super) fn flush_backlog(&mut self) {
        while let (Some(socket), Some((bytes, pipes_of))) = (&self.daemon.socket, self.backlog.front()) {
            match packet::send(socket, bytes, &self.table.pipes_of(pipes_of.as_ref())) {
                Err(error) if packet::is_for_now(&error) => {
                    // A full socket says when it is not; a lack of descriptors does not.
                    self.choked = error.kind() != io::ErrorKind::WouldBlock;
                    return;
                }
                _ => drop(self.backlog.pop_front()),
            }
        }
        self.choked = false;
    }
}

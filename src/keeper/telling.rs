//! Reports to the daemon; what it does not read at once waits here, up to a limit.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::base::InstanceId;
use crate::os::{packet, process};

use super::protocol::Report;
use super::run::Keeper;

/// Reports that wait for a daemon that does not read; more, and it is started anew.
const BACKLOG: usize = 200_000;

impl Keeper {
    pub(super) fn tell_with_pipes(&mut self, report: &Report, id: &InstanceId) {
        let pipes = self.table.instances.get_mut(id).and_then(|instance| instance.pipes.take());
        let fds = pipes.as_ref().map(|pipes| pipes.fds()).unwrap_or_default();
        self.tell(report, &fds);
        drop(fds);
        if let Some(instance) = self.table.instances.get_mut(id) {
            instance.pipes = pipes;
        }
    }

    /// A report for a daemon that is not there is not kept: the next one hears the state as a whole.
    pub(super) fn tell(&mut self, report: &Report, fds: &[BorrowedFd<'_>]) {
        let Some(socket) = self.daemon.socket.as_ref().filter(|_| self.greeted) else { return };
        let Ok(bytes) = serde_json::to_vec(report) else { return };
        if self.backlog.is_empty() && packet::send(socket, &bytes, fds).is_ok() {
            return;
        }
        let copies: io::Result<Vec<OwnedFd>> = fds.iter().map(|fd| fd.try_clone_to_owned()).collect();
        match copies {
            Ok(copies) if self.backlog.len() < BACKLOG => self.backlog.push_back((bytes, copies)),
            _ => {
                // It does not read, or there are no descriptors left: a new daemon hears everything from the start.
                eprintln!("unisys: the daemon does not keep up; it is started again");
                if let Some(handle) = self.daemon.pid.and_then(process::open_any) {
                    let _ = process::signal(&handle, libc::SIGKILL);
                }
                self.daemon.socket = None;
                self.greeted = false;
            }
        }
    }

    pub(super) fn flush_backlog(&mut self) {
        while let (Some(socket), Some((bytes, fds))) = (&self.daemon.socket, self.backlog.front()) {
            let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
            match packet::send(socket, bytes, &borrowed) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                _ => drop(self.backlog.pop_front()),
            }
        }
    }
}

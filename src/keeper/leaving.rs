//! The way out: everything is to stop, and then the keeper goes.

use std::time::Duration;

use crate::os::process;
use crate::os::state_dir::StateDir;

use super::journal::Entry;
use super::protocol::Down;
use super::run::{IMMEDIATE, Keeper};

/// So long a daemon is waited for when everything has stopped.
const LAST_WORDS: Duration = Duration::from_secs(3);

impl Keeper {
    /// Everything is to stop, whoever dies on the way.
    pub(super) fn goes_down(&mut self, down: Down) {
        self.journal.write(&Entry::Down(down.clone()));
        // Before anybody acts on it: whoever dies next, it is known.
        self.flush_journal();
        self.hold_to(&down);
        self.down = Some(down);
        self.fifos.close();
    }

    /// Should no daemon see to it that the time is kept, the keeper does.
    pub(super) fn hold_to(&mut self, down: &Down) {
        if let Some(until) = down.until {
            let at = until + IMMEDIATE;
            self.kill_all_at = Some(self.kill_all_at.map_or(at, |known| known.min(at)));
        }
    }

    /// Nothing is left to keep: the daemon goes, then the files that only a running system has.
    pub(super) fn leave(&mut self) {
        // First: a daemon that an upgrade replaced may still be looking whether we were killed.
        StateDir::let_go(&self.options.lock);
        self.daemon.socket = None;
        self.end_daemon();
        if self.table.instances.is_empty() {
            self.sweep();
            self.listeners.close_all();
            // What stands there may be another system's by now.
            if self.options.state.is_held_by(&self.options.lock) {
                let _ = std::fs::remove_file(self.journal.path());
                let _ = std::fs::remove_file(self.options.state.socket());
            }
            if let Some(tree) = &self.cgroups {
                tree.leave(std::process::id());
            }
        }
    }

    fn end_daemon(&self) {
        if let Some(handle) = self.daemon.pid.and_then(process::open_any) {
            process::readable_within(&handle, LAST_WORDS);
            if !process::has_ended(&handle) {
                let _ = process::signal(&handle, libc::SIGKILL);
                // What it asked with becomes ours once it is gone, and is then ended with the rest.
                process::readable_within(&handle, LAST_WORDS);
            }
        }
    }
}

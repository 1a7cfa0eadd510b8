//! The daemon's handle of the thread that moves and frames output ([`super::work`]).

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};

use tokio::sync::oneshot;

use crate::base::{InstanceId, Name, Redactor};
use crate::os::state_dir::StateDir;

use super::read::Line;
use super::work::Work;

/// What the collector tells the engine.
#[derive(Debug)]
pub enum Told {
    /// The awaited line has appeared.
    LineSeen(InstanceId),
    /// Everything that an instance wrote is in the log.
    Closed(InstanceId),
    /// Somebody had put something else in place of this file, a link to another one for example; it was not followed.
    Removed(InstanceId, PathBuf),
    /// Output cannot be written: why; or it can be again.
    Stuck(Option<String>),
}

/// What the thread is told.
pub(super) enum Command {
    Open {
        id: InstanceId,
        pipes: [OwnedFd; 2],
        secrets: Option<Arc<Redactor>>,
    },
    /// Its secrets are these now.
    Mask {
        id: InstanceId,
        secrets: Option<Arc<Redactor>>,
    },
    Close(InstanceId),
    Watch {
        id: InstanceId,
        pattern: String,
    },
    Unwatch(InstanceId),
    /// What instances of this unit have begun to write and not ended with a newline.
    Unfinished {
        unit: Name,
        answer: oneshot::Sender<Vec<Line>>,
    },
}

/// Sends to the engine; `None` once it is gone.
pub type Tell = Box<dyn Fn(Told) -> Option<()> + Send>;

/// A handle of the thread. It hears what it is told with the next [`Collector::wake`].
pub struct Collector {
    commands: Option<Sender<Command>>,
    /// Something was said that the thread has not been woken for.
    told: Cell<bool>,
    wake: OwnedFd,
    thread: Option<JoinHandle<Vec<OwnedFd>>>,
    /// Grows whenever a log does: those who follow one wait for it.
    pub grown: tokio::sync::watch::Receiver<u64>,
}

impl Collector {
    pub fn start(state: &StateDir, tell: Tell) -> std::io::Result<Self> {
        let flags = rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK;
        let wake = rustix::event::eventfd(0, flags)?;
        let (commands, queue) = channel();
        let (grown_send, grown) = tokio::sync::watch::channel(0);
        let work = Work::new(state, &wake, tell, grown_send)?;
        let waker = wake.try_clone()?;
        let thread = thread::Builder::new()
            .name("logs".into())
            .stack_size(256 << 10)
            .spawn(move || work.run(&queue, &waker))?;
        Ok(Self { commands: Some(commands), told: Cell::new(false), wake, thread: Some(thread), grown })
    }

    fn send(&self, command: Command) {
        if let Some(commands) = &self.commands {
            self.told.set(commands.send(command).is_ok() || self.told.get());
        }
    }

    /// Wakes the thread if it was told anything since the last time: once for all that a turn had to say.
    pub fn wake(&self) {
        if self.told.take() {
            let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        }
    }

    /// Captures what an instance writes, from where an earlier daemon left off, with its secrets masked.
    pub fn open(&self, id: InstanceId, pipes: [OwnedFd; 2], secrets: Option<Arc<Redactor>>) {
        self.send(Command::Open { id, pipes, secrets });
    }

    /// From now on these are its secrets.
    pub fn mask(&self, id: InstanceId, secrets: Option<Arc<Redactor>>) {
        self.send(Command::Mask { id, secrets });
    }

    /// The instance has ended: what is left in its pipes is written, then [`Told::Closed`].
    pub fn close(&self, id: InstanceId) {
        self.send(Command::Close(id));
    }

    /// Tells when a line matches that is written from now on, or has been since it started.
    pub fn watch(&self, id: InstanceId, pattern: String) {
        self.send(Command::Watch { id, pattern });
    }

    pub fn unwatch(&self, id: InstanceId) {
        self.send(Command::Unwatch(id));
    }

    /// What instances of a unit have begun to write and not ended with a newline: it is in no log yet.
    pub fn unfinished(&self, unit: Name) -> oneshot::Receiver<Vec<Line>> {
        let (answer, receive) = oneshot::channel();
        self.send(Command::Unfinished { unit, answer });
        receive
    }

    /// Once it returns, pipes, spools and logs are another's: two who derive lines would write them twice. Whoever keeps the
    /// pipes open until that one has them loses nothing of programs that end meanwhile.
    pub fn stop(&mut self) -> Vec<OwnedFd> {
        self.commands = None;
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or_default()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        drop(self.stop());
    }
}

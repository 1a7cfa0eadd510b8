//! What a look at a program that runs shows.

use std::time::Duration;

/// What a frozen program does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    Deadlock,
    Livelock,
    Stuck,
    Stopped,
    Blocked,
}

impl Class {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deadlock => "Deadlock",
            Self::Livelock => "Livelock",
            Self::Stuck => "Stuck",
            Self::Stopped => "Stopped",
            Self::Blocked => "Blocked",
        }
    }
}

/// One look at all processes of an instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Processor time of the threads that there are.
    pub cpu: Duration,
    /// The same with the time in which they were ready to run and others ran: on a busy machine the one who spins gets little.
    pub wanted: Duration,
    pub threads: Threads,
    /// Where its main thread waits: a function of the kernel, or a system call. Empty when that is not shown.
    pub at: String,
    /// What waits for it; `None`: that was not asked for.
    pub work: Option<Vec<Work>>,
    /// Since its last output.
    pub quiet: Option<Duration>,
    /// Bytes that it has written so far.
    pub written: Option<u64>,
}

/// How many of its threads do what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Threads {
    pub total: u32,
    pub running: u32,
    /// Stopped by a signal.
    pub stopped: u32,
    pub uninterruptible: u32,
    /// They wait for a lock.
    pub locked: u32,
    /// They wait for a child to end.
    pub parents: u32,
    /// Held by a debugger.
    pub traced: u32,
}

impl Threads {
    pub(super) fn all(self, count: u32) -> bool {
        count > 0 && count == self.total
    }

    /// Nobody runs but who waits for a lock, or for a child that does.
    pub(super) fn are_locked(self) -> bool {
        self.locked > 0 && self.locked + self.parents == self.total
    }
}

/// Something that waits for the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// The same from look to look.
    pub id: u64,
    pub kind: WorkKind,
    /// Bytes, or connections.
    pub amount: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkKind {
    /// Not accepted.
    Connection,
    /// Not read.
    Input,
}

/// A program in this state, in words that follow "it".
pub fn state_words(class: Class, look: &Look) -> String {
    let place = if look.at.is_empty() { String::new() } else { format!(" ({})", look.at) };
    let threads = match look.threads.total {
        1 => "its only thread".to_owned(),
        count => format!("each of its {count} threads"),
    };
    match class {
        Class::Stopped => "it has been stopped by a signal".into(),
        Class::Stuck => format!("it sleeps uninterruptibly in the kernel{place}"),
        Class::Deadlock => format!("{threads} waits for a lock{place}"),
        Class::Blocked => format!("it waits{place} and gets nowhere"),
        Class::Livelock => "it keeps the processor busy".into(),
    }
}

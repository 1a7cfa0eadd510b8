//! When memory is given back to the machine.

use std::time::Duration;

use crate::base::{Debounce, Instant, limits};

/// Memory that was needed for a moment is given back once nothing has happened for a while, for then nothing waits for that
/// millisecond.
#[derive(Debug)]
pub(super) struct Trim {
    due: Option<Debounce>,
    /// Programs that were started since the last time.
    starts: u32,
}

impl Trim {
    pub fn new(now: Instant) -> Self {
        Self { due: Some(after(now, limits::TRIM_AFTER)), starts: 0 }
    }

    pub fn due(&self) -> Option<Instant> {
        self.due.as_ref().map(Debounce::due)
    }

    /// Something was done that is not done all the time: a question, a look at the manifests, many starts.
    pub fn soon(&mut self, now: Instant) {
        let soon = after(now, limits::TRIM_AFTER);
        if self.due().is_none_or(|due| soon.due() < due) {
            self.due = Some(soon);
        }
    }

    /// Something happened. What lies on the way of a crash or a probe is kept for longer: having it read in again would delay the
    /// next restart by more than a millisecond.
    pub fn stirred(&mut self, now: Instant) {
        match &mut self.due {
            Some(due) => due.postpone(now),
            None => self.due = Some(after(now, limits::TRIM_LATER)),
        }
    }

    /// One program more.
    pub fn started(&mut self, now: Instant) {
        self.starts += 1;
        if self.starts >= limits::MANY_STARTS {
            self.soon(now);
        }
    }

    /// Whether it is to be done now; it counts as done.
    pub fn take_due(&mut self, now: Instant) -> bool {
        let due = self.due().is_some_and(|due| due <= now);
        if due {
            (self.due, self.starts) = (None, 0);
        }
        due
    }
}

fn after(now: Instant, quiet: Duration) -> Debounce {
    Debounce::new(now, quiet, limits::TRIM_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_waits_for_quiet_longer_after_a_crash_than_after_a_question_and_never_for_ever() {
        let start = Instant(1_000_000_000_000);
        let mut trim = Trim::new(start);
        assert_eq!(trim.due(), Some(start + limits::TRIM_AFTER));
        assert!(!trim.take_due(start) && trim.take_due(start + limits::TRIM_AFTER));
        assert!(trim.due().is_none() && !trim.take_due(start + limits::TRIM_MAX), "done once");
        trim.stirred(start);
        assert_eq!(trim.due(), Some(start + limits::TRIM_LATER));
        trim.soon(start);
        assert_eq!(
            trim.due(),
            Some(start + limits::TRIM_AFTER),
            "a question is answered by the sooner of both"
        );
        let mut now = start;
        while now < start + limits::TRIM_MAX {
            now += limits::TRIM_AFTER / 2;
            trim.stirred(now);
        }
        assert_eq!(trim.due(), Some(start + limits::TRIM_MAX), "what never rests");
    }

    #[test]
    fn starts_count_once_there_are_many() {
        let start = Instant(1_000_000_000_000);
        let mut trim = Trim::new(start);
        assert!(trim.take_due(start + limits::TRIM_AFTER));
        (1..limits::MANY_STARTS).for_each(|_| trim.started(start));
        assert!(trim.due().is_none());
        trim.started(start);
        assert_eq!(trim.due(), Some(start + limits::TRIM_AFTER));
    }
}

//! What a program usually does: how fast its probes are answered, how regularly it writes. What is unusual is told, never acted
//! upon.

use std::time::Duration;

use crate::base::{Instant, format_duration};

use super::watchdog::Finding;

/// How long answers take: the usual time, and that of late.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    usual: Duration,
    count: u32,
    late: [Duration; LATE],
}

/// Answers that count as of late.
const LATE: usize = 5;
/// Answers before anything is usual.
const LEARNED: u32 = 20;
/// So much slower than usual is slow, if it is as long as [`NOTICED`].
const SLOW: u32 = 5;
const NOTICED: Duration = Duration::from_millis(100);

impl Pace {
    /// An answer came after this long.
    pub fn answered(&mut self, time: Duration) {
        self.late[self.count as usize % LATE] = time;
        self.count = self.count.saturating_add(1);
        if self.count <= LEARNED {
            self.usual += time / LEARNED;
        } else if self.slow().is_none() {
            // What is usual changes slowly, and not while it is slow.
            self.usual = (self.usual * 63 + time) / 64;
        }
    }

    /// What is wrong of late.
    pub fn slow(&self) -> Option<Finding> {
        if self.count < LEARNED + LATE as u32 {
            return None;
        }
        let mut late = self.late;
        late.sort_unstable();
        let middle = late[LATE / 2];
        let slow = middle >= NOTICED && middle >= self.usual * SLOW;
        slow.then(|| Finding {
            reason: "SlowProbes",
            message: format!(
                "its probes are answered after {} of late, usually after {}",
                format_duration(millis(middle)),
                format_duration(millis(self.usual))
            ),
        })
    }
}

fn millis(time: Duration) -> Duration {
    Duration::from_millis((time.as_millis() as u64).max(1))
}

/// A program that writes by the clock: what lies between two outputs is always about as long. One that writes when it has
/// something to do is idle when it is silent, and has no rhythm.
#[derive(Clone, Debug, Default)]
pub struct Rhythm {
    last: Option<Instant>,
    shortest: Option<Duration>,
    longest: Duration,
    count: u32,
}

/// Outputs before there is a rhythm.
const REGULAR: u32 = 12;

impl Rhythm {
    /// It was last heard at this time, as looks in this distance show.
    pub fn heard(&mut self, at: Instant, period: Duration) {
        let gap = match self.last {
            // What was heard before is not seen at the same time to the millisecond by another look.
            Some(last) if at > last + period / 2 => at.since(last),
            Some(_) => return,
            None => return self.last = Some(at),
        };
        self.last = Some(at);
        let shortest = self.shortest.map_or(gap, |shortest| shortest.min(gap));
        let longest = self.longest.max(gap);
        if gap < period * 2 || longest > shortest + shortest / 2 {
            // Whoever speaks more often than it is looked at, or irregularly, has none.
            *self = Self { last: Some(at), ..Self::default() };
            return;
        }
        (self.shortest, self.longest, self.count) = (Some(shortest), longest, self.count + 1);
    }

    /// It has been silent for too long.
    pub fn silent(&self, now: Instant, soft: Duration) -> Option<Finding> {
        let quiet = now.since(self.last?);
        let silent = self.count >= REGULAR && quiet >= soft && quiet > self.longest * 3;
        silent.then(|| Finding {
            reason: "Suspected",
            message: format!(
                "it has written nothing for {}; before, it wrote something every {}",
                format_duration(whole(quiet)),
                format_duration(whole(self.longest))
            ),
        })
    }
}

/// To the second, from a second on; to the millisecond below.
pub fn whole(time: Duration) -> Duration {
    if time < Duration::from_secs(1) { millis(time) } else { Duration::from_secs(time.as_secs()) }
}

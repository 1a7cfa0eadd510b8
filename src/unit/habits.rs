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

/// A program that writes by the clock: what lies between two outputs is always about as long, or, where it writes more often
/// than it is looked at, what it writes in the same time is always about as much. One that writes when it has something to do
/// is idle when it is silent, and has no rhythm.
#[derive(Clone, Debug, Default)]
pub struct Rhythm {
    last: Option<Instant>,
    shortest: Option<Duration>,
    longest: Duration,
    count: u32,
    stream: Stream,
}

/// What a program writes that is heard at about every look, in spans of [`SPAN`] looks.
#[derive(Clone, Debug, Default)]
struct Stream {
    /// Bytes up to the last look.
    written: Option<u64>,
    /// Looks in a row that heard nothing: one is chance.
    quiet: u32,
    /// Of the span that has begun.
    looks: u32,
    bytes: u64,
    /// Of those that are through.
    least: Option<u64>,
    most: u64,
    spans: u32,
}

/// Looks of a span.
const SPAN: u32 = 6;
/// Spans in which about as much was written before that is a rhythm: of what comes by chance, so many are never alike without a
/// pause, unless it is so much that a pause means something.
const STEADY: u32 = 6;

impl Stream {
    fn heard(&mut self, written: u64) {
        let Some(before) = self.written.replace(written) else { return };
        let bytes = written.saturating_sub(before);
        let was_silent = self.quiet > 1;
        self.quiet = if bytes == 0 { self.quiet + 1 } else { 0 };
        match self.quiet {
            0 if was_silent => return *self = Self { written: self.written, ..Self::default() },
            0 | 1 => {}
            // What was usual is what its silence is measured by.
            _ if self.is_steady() => return,
            _ => return *self = Self { written: self.written, quiet: self.quiet, ..Self::default() },
        }
        (self.looks, self.bytes) = (self.looks + 1, self.bytes + bytes);
        if self.looks < SPAN {
            return;
        }
        let bytes = std::mem::take(&mut self.bytes);
        self.looks = 0;
        let least = self.least.map_or(bytes, |least| least.min(bytes));
        let most = self.most.max(bytes);
        match most > least + least / 2 {
            false => (self.least, self.most, self.spans) = (Some(least), most, self.spans + 1),
            // It may have fallen silent.
            true if self.quiet > 0 => {}
            true => *self = Self { written: self.written, ..Self::default() },
        }
    }

    fn is_steady(&self) -> bool {
        self.spans >= STEADY
    }
}

/// Outputs before there is a rhythm.
const REGULAR: u32 = 12;

impl Rhythm {
    /// It had written this many bytes in all when it was looked at, once a period.
    pub fn wrote(&mut self, written: u64) {
        self.stream.heard(written);
    }

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
            *self = Self { last: Some(at), stream: std::mem::take(&mut self.stream), ..Self::default() };
            return;
        }
        (self.shortest, self.longest, self.count) = (Some(shortest), longest, self.count + 1);
    }

    /// It has been silent for too long, as looks in this distance show.
    pub fn silent(&self, now: Instant, soft: Duration, period: Duration) -> Option<Finding> {
        let quiet = now.since(self.last?);
        let before = if self.count >= REGULAR && quiet > self.longest * 3 {
            format!("it wrote something every {}", format_duration(whole(self.longest)))
        } else if self.stream.is_steady() {
            let span = format_duration(whole(period * SPAN));
            format!("it wrote all the time, about {} bytes in {span}", self.stream.most)
        } else {
            return None;
        };
        let quiet = (quiet >= soft).then(|| format_duration(whole(quiet)))?;
        let message = format!("it has written nothing for {quiet}; before, {before}");
        Some(Finding { reason: "Suspected", message })
    }
}

/// To the second, from a second on; to the millisecond below.
pub fn whole(time: Duration) -> Duration {
    if time < Duration::from_secs(1) { millis(time) } else { Duration::from_secs(time.as_secs()) }
}

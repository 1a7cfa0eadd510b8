//! Whether the other side of the link is still there: keeper and daemon each look at the other, since a process that was
//! stopped, or hangs, ends for nobody.

use std::time::Duration;

use crate::base::Instant;

/// At most one look in this time, and none while nothing happens. Who is stopped at two looks is woken.
pub const LOOK: Duration = Duration::from_secs(1);
/// Who has neither read nor said anything for so long hangs. A daemon that reads 10,000 changed manifests is busy for a second.
pub const DEAF: Duration = Duration::from_secs(30);

/// When the other side is looked at next, and since when something is amiss with it.
#[derive(Debug, Default)]
pub struct Attention {
    looked: Option<Instant>,
    look_at: Option<Instant>,
    amiss_since: Option<Instant>,
}

impl Attention {
    /// Something was told, or happened: it is looked at soon.
    pub fn stirred(&mut self, now: Instant) {
        let after = self.looked.map_or(now, |looked| looked + LOOK);
        self.look_at.get_or_insert(after.max(now));
    }

    /// It said something.
    pub fn heard(&mut self) {
        self.amiss_since = None;
    }

    pub fn due(&self) -> Option<Instant> {
        self.look_at
    }

    /// Whether to look now.
    pub fn is_due(&self, now: Instant) -> bool {
        self.look_at.is_some_and(|at| at <= now)
    }

    /// What was seen: whether it is stopped, or does not read. Gives for how long that has been so; while it is, it is looked again.
    pub fn looked(&mut self, now: Instant, amiss: bool) -> Duration {
        self.looked = Some(now);
        self.look_at = amiss.then(|| now + LOOK);
        if !amiss {
            self.amiss_since = None;
            return Duration::ZERO;
        }
        now.since(*self.amiss_since.get_or_insert(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Instant = Instant(1_000_000_000_000);

    #[test]
    fn who_is_well_is_looked_at_once_a_second_at_most_and_not_at_all_while_nothing_happens() {
        let mut attention = Attention::default();
        assert_eq!(attention.due(), None);
        attention.stirred(START);
        assert!(attention.is_due(START));
        assert_eq!(attention.looked(START, false), Duration::ZERO);
        assert_eq!(attention.due(), None);
        attention.stirred(START + LOOK / 4);
        attention.stirred(START + LOOK / 2);
        assert_eq!(attention.due(), Some(START + LOOK));
        attention.looked(START + LOOK, false);
        attention.stirred(START + LOOK * 9);
        assert!(attention.is_due(START + LOOK * 9), "after a quiet time at once: nobody is woken for it");
    }

    #[test]
    fn what_is_amiss_counts_until_it_is_well_or_speaks() {
        let mut attention = Attention::default();
        attention.stirred(START);
        assert_eq!(attention.looked(START, true), Duration::ZERO);
        assert_eq!(attention.due(), Some(START + LOOK));
        assert_eq!(attention.looked(START + DEAF, true), DEAF);
        attention.heard();
        assert_eq!(attention.looked(START + DEAF * 2, true), Duration::ZERO, "it was busy");
        assert_eq!(attention.looked(START + DEAF * 3, false), Duration::ZERO);
        assert_eq!(attention.looked(START + DEAF * 4, true), Duration::ZERO, "that is something else");
    }
}

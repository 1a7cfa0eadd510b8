//! Tells a program that does not accept the connections of its listener from one that is only busy or restarting.

use std::time::Duration;

use crate::base::{Incarnation, Instant, limits};

/// Looks at one unit's listeners, ever more seldom while all is well.
#[derive(Clone, Debug, PartialEq)]
pub struct AcceptWatch {
    /// The next look.
    pub due: Instant,
    step: Duration,
    /// Who was up, and since when connections have been seen waiting under it.
    waiting: Option<(Incarnation, Instant)>,
    said: Option<Incarnation>,
}

impl AcceptWatch {
    pub fn new(now: Instant) -> Self {
        let step = limits::ACCEPT_LOOK.0;
        Self { due: now + step, step, waiting: None, said: None }
    }

    /// Takes a look: `up` is an instance that is through its probes, `waiting` whether connections wait. True when they
    /// have waited too long, once for each instance.
    pub fn look(&mut self, up: Option<Incarnation>, waiting: bool, now: Instant) -> bool {
        let Some(up) = up.filter(|_| waiting) else {
            self.waiting = None;
            self.step = self.step.saturating_mul(2).min(limits::ACCEPT_LOOK.1);
            self.due = now + self.step;
            return false;
        };
        let since = match self.waiting {
            Some((of, since)) if of == up => since,
            _ => now,
        };
        self.waiting = Some((up, since));
        self.step = limits::ACCEPT_LOOK.0;
        self.due = now + self.step;
        now.since(since) >= limits::UNACCEPTED && self.said.replace(up) != Some(up)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_connections_that_wait_long_under_one_instance_are_told_and_once() {
        let second = |n: u64| Instant(0) + Duration::from_secs(n);
        let up = |n| Some(Incarnation(n));
        let mut watch = AcceptWatch::new(second(0));
        assert!(!watch.look(up(1), true, second(1)));
        assert!(!watch.look(None, true, second(6)), "nobody is up: they wait for the next instance");
        assert!(!watch.look(up(2), true, second(7)));
        assert!(!watch.look(up(2), true, second(10)));
        assert!(!watch.look(up(2), false, second(11)), "they were accepted");
        assert!(!watch.look(up(2), true, second(12)));
        assert!(watch.look(up(2), true, second(17)));
        assert!(!watch.look(up(2), true, second(18)), "it is said once");
        assert!(!watch.look(up(3), true, second(19)));
        assert!(watch.look(up(3), true, second(24)));
        for _ in 0..10 {
            watch.look(up(3), false, second(30));
        }
        assert_eq!(watch.due, second(30) + limits::ACCEPT_LOOK.1);
    }
}

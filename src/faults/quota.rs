//! How often a service's crashes are looked at closely: a burst, then one now and then.

use std::collections::BTreeMap;

use crate::base::{Instant, Name, limits};

/// One bucket a service.
#[derive(Clone, Debug, Default)]
pub struct Quota {
    buckets: BTreeMap<Name, Bucket>,
}

#[derive(Clone, Debug)]
struct Bucket {
    left: u32,
    /// Tokens were last added then.
    filled: Instant,
    skipped: u64,
}

impl Quota {
    /// Whether this one is looked at; if so, how many before it were not.
    pub fn take(&mut self, service: &Name, now: Instant) -> Option<u64> {
        let full = Bucket { left: limits::CRASH_DUMP_BURST, filled: now, skipped: 0 };
        let bucket = self.buckets.entry(service.clone()).or_insert(full);
        let every = limits::CRASH_DUMP_EVERY.as_nanos() as u64;
        let earned = now.since(bucket.filled).as_nanos() as u64 / every;
        if earned > 0 {
            bucket.left = limits::CRASH_DUMP_BURST.min(bucket.left.saturating_add(earned.min(100) as u32));
            bucket.filled = Instant(bucket.filled.0 + earned * every);
        }
        match bucket.left.checked_sub(1) {
            Some(left) => {
                bucket.left = left;
                Some(std::mem::take(&mut bucket.skipped))
            }
            None => {
                bucket.skipped += 1;
                None
            }
        }
    }

    /// The service is no more.
    pub fn forget(&mut self, service: &Name) {
        self.buckets.remove(service);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_looked_at_and_then_one_now_and_then() {
        let mut quota = Quota::default();
        let name: Name = "a".parse().unwrap();
        let start = Instant(1_000_000_000);
        let burst = (0..20).filter(|_| quota.take(&name, start).is_some()).count();
        assert_eq!(burst, limits::CRASH_DUMP_BURST as usize);
        assert_eq!(quota.take(&name, start + limits::CRASH_DUMP_EVERY), Some(15));
        assert_eq!(quota.take(&name, start + limits::CRASH_DUMP_EVERY), None);
        assert_eq!(quota.take(&"b".parse().unwrap(), start), Some(0));
    }
}

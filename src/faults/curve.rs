//! What an instance used over time: a few readings, close together at the end and far apart before.
//!
//! Nobody wakes for a reading: one is taken when something wakes for the instance anyway, if the last is long enough ago.

use serde::Serialize;

use crate::base::{Instant, Now, Stamp, Usage, limits};

/// The readings of one instance, oldest first; nothing is held before the first.
#[derive(Clone, Debug, Default)]
pub struct Curve {
    readings: Vec<(Instant, Usage)>,
}

/// A reading as it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sample {
    pub at: Stamp,
    #[serde(flatten)]
    pub usage: Usage,
}

impl Curve {
    /// Whether a reading is wanted: a young instance is read more often.
    pub fn is_due(&self, now: Instant) -> bool {
        let (Some((first, _)), Some((last, _))) = (self.readings.first(), self.readings.last()) else {
            return true;
        };
        let (shortest, longest) = limits::USAGE_EVERY;
        let every = (now.since(*first) / limits::USAGE_SAMPLES as u32).clamp(shortest, longest);
        now.since(*last) >= every
    }

    /// Takes a reading in, if one was wanted.
    pub fn take(&mut self, usage: Usage, now: Instant) {
        if !self.is_due(now) {
            return;
        }
        if self.readings.len() == limits::USAGE_SAMPLES {
            self.readings.remove(self.least_missed(now));
        }
        self.readings.push((now, usage));
    }

    /// The reading without which the gap between its neighbours is smallest for its age. First and last always stay.
    fn least_missed(&self, now: Instant) -> usize {
        let gap = |three: &[(Instant, Usage)]| {
            let [(before, _), (at, _), (after, _)] = three else { return f64::MAX };
            after.since(*before).as_secs_f64() / now.since(*at).as_secs_f64()
        };
        let gaps = self.readings.windows(3).map(gap).enumerate();
        gaps.min_by(|(_, one), (_, other)| one.total_cmp(other)).map_or(0, |(index, _)| index + 1)
    }

    /// All of them, by the clock on the wall.
    pub fn samples(&self, now: Now) -> Vec<Sample> {
        let sample = |(at, usage): &(Instant, Usage)| {
            let ago = now.mono.since(*at).as_millis() as i64;
            Sample { at: Stamp(now.wall.0 - ago), usage: *usage }
        };
        self.readings.iter().map(sample).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// One that was offered a reading every so often, up to a time.
    fn offered(every: u64, until: u64) -> Curve {
        let mut curve = Curve::default();
        let times = (0..=until / every).map(|n| n * every);
        times.for_each(|at| curve.take(Usage { memory_bytes: at, ..Usage::default() }, Instant(at)));
        curve
    }

    fn ages(curve: &Curve, now: u64) -> Vec<u64> {
        curve.readings.iter().map(|(at, _)| (now - at.0) / SECOND).collect()
    }

    #[test]
    fn the_first_seconds_are_read_each_second_and_later_ones_every_fifth() {
        for (every, until, count) in [
            (SECOND / 100, 3 * SECOND, 4),
            (SECOND, 10 * SECOND, 11),
            (5 * SECOND, 60 * SECOND, 13),
            (10 * SECOND, 60 * SECOND, 7),
        ] {
            assert_eq!(offered(every, until).readings.len(), count, "{every} {until}");
        }
        let old = offered(SECOND / 10, 1000 * SECOND);
        let now = old.readings.last().unwrap().0;
        assert!(!old.is_due(now + Duration::from_secs(4)) && old.is_due(now + Duration::from_millis(4500)));
    }

    #[test]
    fn old_readings_thin_out_and_the_first_stays() {
        let day = 24 * 3600 * SECOND;
        for (every, until, recent) in [
            (SECOND, 600 * SECOND, 20),
            (5 * SECOND, 3600 * SECOND, 16),
            (10 * SECOND, day, 12),
            (10 * SECOND, 30 * day, 8),
        ] {
            let curve = offered(every, until);
            let ages = ages(&curve, until);
            assert_eq!(ages.len(), limits::USAGE_SAMPLES);
            assert_eq!(ages[0], until / SECOND, "the first stays");
            assert!(ages.is_sorted_by(|one, other| one > other));
            let found = ages.iter().filter(|age| **age <= 300).count();
            assert!(found >= recent, "{found} of the last five minutes: {ages:?}");
            assert!(*ages.last().unwrap() <= 10, "{ages:?}");
            assert_eq!(curve.readings.capacity(), limits::USAGE_SAMPLES);
        }
    }

    #[test]
    fn samples_are_told_by_the_clock_on_the_wall_of_the_moment_in_which_they_are_told() {
        let curve = offered(SECOND, 2 * SECOND);
        let now = Now { mono: Instant(5 * SECOND), wall: Stamp(1_767_225_600_000) };
        let told = serde_json::to_value(curve.samples(now)).unwrap();
        assert_eq!(told[0]["at"], "2025-12-31T23:59:55.000Z");
        assert_eq!(
            told[2],
            serde_json::json!({
                "at": "2025-12-31T23:59:57.000Z", "memoryBytes": 2 * SECOND, "cpuMs": 0, "processes": 0, "threads": 0,
                "openFiles": null
            })
        );
    }
}

//! Time as data. Nothing above the purity line reads a clock: the time is handed in.

use std::fmt;
use std::ops::{Add, AddAssign, Sub};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A point on the machine's boot-time clock, in nanoseconds (`CLOCK_BOOTTIME`: monotonic, counts suspend, shared by all processes of one boot).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Instant(pub u64);

impl Instant {
    /// The far future; a deadline that never comes.
    pub const NEVER: Self = Self(u64::MAX);

    /// How long after `earlier` this is; zero if it is not after.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    /// Saturates: a deadline too far to say is [`Instant::NEVER`].
    fn add(self, rhs: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, rhs: Duration) {
        *self = *self + rhs;
    }
}

impl Sub for Instant {
    type Output = Duration;

    fn sub(self, rhs: Self) -> Duration {
        self.since(rhs)
    }
}

/// The two clocks of one moment, handed to everything that decides: `mono` decides, `wall` is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    pub mono: Instant,
    pub wall: Stamp,
}

impl Now {
    /// When a point of the other clock is, for people.
    pub fn wall_at(self, at: Instant) -> Stamp {
        Stamp(self.wall.0 + (at - self.mono).as_millis() as i64)
    }
}

/// Wall-clock time: milliseconds since the Unix epoch. For people and logs only; no decision depends on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp(pub i64);

impl fmt::Display for Stamp {
    /// RFC 3339 in UTC with milliseconds: `2026-01-01T00:00:00.000Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(stamp) => write!(f, "{}", stamp.strftime("%Y-%m-%dT%H:%M:%S%.3fZ")),
            Err(_) => write!(f, "{}ms", self.0),
        }
    }
}

impl Serialize for Stamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Stamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let stamp: jiff::Timestamp = text.parse().map_err(serde::de::Error::custom)?;
        Ok(Self(stamp.as_millisecond()))
    }
}

impl schemars::JsonSchema for Stamp {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Stamp".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "format": "date-time"})
    }

    fn inline_schema() -> bool {
        true
    }
}

/// What is due once nothing has happened for a while, and at the latest so long after it was first asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Debounce {
    first: Instant,
    latest: Instant,
    quiet: Duration,
    at_most: Duration,
}

impl Debounce {
    pub fn new(now: Instant, quiet: Duration, at_most: Duration) -> Self {
        Self { first: now, latest: now, quiet, at_most }
    }

    /// Something happened.
    pub fn postpone(&mut self, now: Instant) {
        self.latest = now;
    }

    pub fn due(&self) -> Instant {
        (self.latest + self.quiet).min(self.first + self.at_most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_written_with_milliseconds_and_read_back() {
        let stamp = Stamp(1_767_225_600_007);
        assert_eq!(stamp.to_string(), "2026-01-01T00:00:00.007Z");
        let json = serde_json::to_string(&stamp).unwrap();
        assert_eq!(serde_json::from_str::<Stamp>(&json).unwrap(), stamp);
    }

    #[test]
    fn what_is_debounced_is_put_off_and_not_for_ever() {
        let second = |seconds: u64| Instant(seconds * 1_000_000_000);
        let mut due = Debounce::new(second(10), Duration::from_secs(1), Duration::from_secs(3));
        assert_eq!(due.due(), second(11));
        due.postpone(second(11));
        assert_eq!(due.due(), second(12));
        due.postpone(second(12) + Duration::from_millis(500));
        assert_eq!(due.due(), second(13));
    }

    #[test]
    fn a_deadline_beyond_time_is_never() {
        assert_eq!(Instant(5) + Duration::MAX, Instant::NEVER);
        assert_eq!(Instant(5).since(Instant(9)), Duration::ZERO);
    }
}

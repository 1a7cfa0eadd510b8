//! Times as a person gives them: so long ago, or a point in time.

use crate::base::{Stamp, parse_duration};
use crate::os::clock;

use super::Failure;

/// What an option of this name was given, if it was.
pub fn of(option: &str, text: Option<&str>) -> Result<Option<Stamp>, Failure> {
    text.map(|text| read(option, text, clock::wall())).transpose()
}

/// `5m`: so long ago; or a time as RFC 3339 writes it.
fn read(option: &str, text: &str, now: Stamp) -> Result<Stamp, Failure> {
    if let Ok(ago) = parse_duration(text) {
        return Ok(Stamp(now.0.saturating_sub(i64::try_from(ago.as_millis()).unwrap_or(i64::MAX))));
    }
    serde_json::from_value(text.into()).map_err(|_| {
        Failure::usage(
            format!("{option}: `{text}` is neither a duration nor a time"),
            format!("write {option} 5m, or {option} 2026-01-01T00:00:00Z (with a time zone: Z or +02:00)"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_duration_before_now_or_a_time() {
        let now = Stamp(1_767_225_600_000);
        for (text, expected) in [
            ("5m", Some(now.0 - 300_000)),
            ("2026-01-01T00:00:00Z", Some(now.0)),
            ("2026-01-01T02:00:00.500+02:00", Some(now.0 + 500)),
            ("2026-01-01", None),
            ("5", None),
            ("yesterday", None),
        ] {
            assert_eq!(read("--since", text, now).ok().map(|at| at.0), expected, "{text}");
        }
    }
}

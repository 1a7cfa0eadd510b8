//! Durations and sizes as people write them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Why a text is not a duration or a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseUnitError {
    #[error("`{0}` has no unit; write a number with one of {1}")]
    NoUnit(String, &'static str),
    #[error("`{0}` has the unknown unit `{1}`; allowed are {2}")]
    UnknownUnit(String, String, &'static str),
    #[error("`{0}` is not a number with a unit, such as {1}")]
    NotANumber(String, &'static str),
    #[error("`{0}` is too large")]
    TooLarge(String),
}

const DURATION_UNITS: &str = "ms, s, m, h, d";
const SIZE_UNITS: &str = "B, kB, MB, GB, TB, Ki, Mi, Gi, Ti";

/// Reads `250ms`, `10s`, `5m`, `1h30m`, `1.5s`. `0s` is zero; a bare number is an error.
pub fn parse_duration(text: &str) -> Result<Duration, ParseUnitError> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() || std::ptr::eq(rest, text) {
        let (number, unit, tail) = next_part(text, rest, DURATION_UNITS, "`10s`")?;
        let seconds = match unit {
            "us" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            other => return Err(ParseUnitError::UnknownUnit(text.into(), other.into(), DURATION_UNITS)),
        };
        let too_large = || ParseUnitError::TooLarge(text.into());
        let nanos = (number * seconds * 1e9).round();
        if nanos > u64::MAX as f64 {
            return Err(too_large());
        }
        total = total.checked_add(Duration::from_nanos(nanos as u64)).ok_or_else(too_large)?;
        rest = tail;
    }
    Ok(total)
}

/// Writes what [`parse_duration`] reads, in the largest units that are exact: `1h30m`, `250ms`.
pub fn format_duration(duration: Duration) -> String {
    let mut nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".into();
    }
    let mut out = String::new();
    for (unit, size) in [
        ("d", 86_400_000_000_000),
        ("h", 3_600_000_000_000),
        ("m", 60_000_000_000),
        ("s", 1_000_000_000),
        ("ms", 1_000_000),
        ("us", 1_000),
    ] {
        if nanos >= size {
            out.push_str(&format!("{}{unit}", nanos / size));
            nanos %= size;
        }
    }
    out
}

/// A number of bytes, written `512Mi`, `1Gi`, `10MB`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

impl FromStr for ByteSize {
    type Err = ParseUnitError;

    fn from_str(text: &str) -> Result<Self, ParseUnitError> {
        let (number, unit, tail) = next_part(text, text, SIZE_UNITS, "`512Mi`")?;
        if !tail.is_empty() {
            return Err(ParseUnitError::NotANumber(text.into(), "`512Mi`"));
        }
        let factor: u64 = match unit {
            "B" => 1,
            "kB" | "KB" => 1_000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "TB" => 1_000_000_000_000,
            "Ki" | "KiB" => 1 << 10,
            "Mi" | "MiB" => 1 << 20,
            "Gi" | "GiB" => 1 << 30,
            "Ti" | "TiB" => 1 << 40,
            other => return Err(ParseUnitError::UnknownUnit(text.into(), other.into(), SIZE_UNITS)),
        };
        let bytes = number * factor as f64;
        if bytes > u64::MAX as f64 {
            return Err(ParseUnitError::TooLarge(text.into()));
        }
        Ok(Self(bytes as u64))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0;
        for (unit, size) in [("Ti", 1_u64 << 40), ("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)] {
            if bytes >= size && bytes.is_multiple_of(size) {
                return write!(f, "{}{unit}", bytes / size);
            }
        }
        for (unit, size) in [("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1_000)] {
            if bytes >= size && bytes.is_multiple_of(size) {
                return write!(f, "{}{unit}", bytes / size);
            }
        }
        write!(f, "{bytes}B")
    }
}

impl Serialize for ByteSize {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Splits `1h30m` into (1.0, "h", "30m").
fn next_part<'a>(
    whole: &str,
    text: &'a str,
    units: &'static str,
    example: &'static str,
) -> Result<(f64, &'a str, &'a str), ParseUnitError> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let not_a_number = || ParseUnitError::NotANumber(whole.into(), example);
    let number: f64 = text[..digits].parse().map_err(|_| not_a_number())?;
    let rest = &text[digits..];
    let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
    if end == 0 {
        return Err(ParseUnitError::NoUnit(whole.into(), units));
    }
    Ok((number, &rest[..end], &rest[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written_alike() {
        for (text, millis) in [
            ("0s", 0),
            ("250ms", 250),
            ("10s", 10_000),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("1d", 86_400_000),
        ] {
            let parsed = parse_duration(text).unwrap();
            assert_eq!(parsed, Duration::from_millis(millis), "{text}");
            assert_eq!(format_duration(parsed), text);
        }
        assert_eq!(parse_duration("1.5s").unwrap(), Duration::from_millis(1500));
    }

    #[test]
    fn what_is_not_a_duration_says_why() {
        for bad in ["", "10", "s", "10 s", "10x", "-1s", "1h30", "999999999999999d"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        assert!(parse_duration("10").unwrap_err().to_string().contains("no unit"));
    }

    #[test]
    fn sizes_are_read_and_written_alike() {
        for (text, bytes) in [("512Mi", 512 << 20), ("1Gi", 1 << 30), ("10MB", 10_000_000), ("7B", 7)] {
            assert_eq!(text.parse::<ByteSize>().unwrap(), ByteSize(bytes), "{text}");
            assert_eq!(ByteSize(bytes).to_string(), text);
        }
        for bad in ["", "512", "Mi", "512mi", "1Gi1Mi", "-1Mi"] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad}");
        }
    }
}

//! The types of Config values.

use crate::base::{ByteSize, parse_duration};

use super::super::diagnostic::nearest;
use super::super::spec::{ConfigType, ConfigTypeName};

/// Why a value is not of a type.
pub fn check_type(wanted: &ConfigType, value: &str) -> Result<(), String> {
    if let Some(allowed) = &wanted.allowed
        && !allowed.iter().any(|word| word == value)
    {
        let near = nearest(value, allowed.iter().map(String::as_str))
            .map_or(String::new(), |near| format!("; did you mean `{near}`?"));
        return Err(format!("`{value}` is not one of {}{near}", allowed.join(", ")));
    }
    let fail = |what: &str| Err(format!("`{value}` is not {what}"));
    match wanted.kind {
        None | Some(ConfigTypeName::String) => Ok(()),
        Some(ConfigTypeName::Bool) if parse_bool(value).is_none() => fail("true or false"),
        Some(ConfigTypeName::Int) if value.parse::<i64>().is_err() => fail("a whole number"),
        Some(ConfigTypeName::Float) if value.parse::<f64>().is_err() => fail("a number"),
        Some(ConfigTypeName::Port) if !value.parse::<u16>().is_ok_and(|port| port > 0) => {
            fail("a port, 1 to 65535")
        }
        Some(ConfigTypeName::Duration) => parse_duration(value).map(drop).map_err(|error| error.to_string()),
        Some(ConfigTypeName::Size) => value.parse::<ByteSize>().map(drop).map_err(|error| error.to_string()),
        Some(ConfigTypeName::Url)
            if !value
                .split_once("://")
                .is_some_and(|(scheme, rest)| !scheme.is_empty() && !rest.is_empty()) =>
        {
            fail("a URL")
        }
        Some(_) => Ok(()),
    }
}

/// What counts as a switch's position.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Some(true),
        "false" | "no" | "off" | "0" | "" => Some(false),
        _ => None,
    }
}

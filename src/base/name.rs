//! Names of objects and units.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// An RFC 1123 label: 1 to 63 of `a-z`, `0-9` and `-`, beginning and ending with a letter or digit. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Name(Arc<str>);

/// Why a text is not a [`Name`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("a name cannot be empty")]
    Empty,
    #[error("a name has at most 63 characters, this has {0}")]
    TooLong(usize),
    #[error("a name has only a-z, 0-9 and `-`, and begins and ends with a letter or digit; found `{0}`")]
    BadCharacter(char),
}

impl Name {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > 63 {
            return Err(NameError::TooLong(text.chars().count()));
        }
        let inner = |c: &char| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-';
        if let Some(bad) = text.chars().find(|c| !inner(c)) {
            return Err(NameError::BadCharacter(bad));
        }
        if text.starts_with('-') || text.ends_with('-') {
            return Err(NameError::BadCharacter('-'));
        }
        Ok(Self(text.into()))
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl schemars::JsonSchema for Name {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Name".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "An RFC 1123 label: a-z, 0-9 and `-`, beginning and ending with a letter or digit.",
            "pattern": "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$",
            "maxLength": 63
        })
    }

    fn inline_schema() -> bool {
        true
    }
}

/// The kinds of object that a manifest can declare.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
pub enum ObjectKind {
    Service,
    Job,
    Config,
    Secret,
    System,
    External,
    Notifier,
}

impl ObjectKind {
    pub const ALL: [Self; 7] =
        [Self::Service, Self::Job, Self::Config, Self::Secret, Self::System, Self::External, Self::Notifier];

    /// As in `kind:`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::Job => "Job",
            Self::Config => "Config",
            Self::Secret => "Secret",
            Self::System => "System",
            Self::External => "External",
            Self::Notifier => "Notifier",
        }
    }

    /// As in `service/api`.
    pub fn singular(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Job => "job",
            Self::Config => "config",
            Self::Secret => "secret",
            Self::System => "system",
            Self::External => "external",
            Self::Notifier => "notifier",
        }
    }

    /// Reads `service`, `services`, `Service`, `svc` … as a person types it on the command line.
    pub fn from_word(word: &str) -> Option<Self> {
        let word = word.to_ascii_lowercase();
        let stem = word.strip_suffix('s').unwrap_or(&word);
        match stem {
            "svc" => Some(Self::Service),
            _ => Self::ALL.into_iter().find(|kind| kind.singular() == stem),
        }
    }

    /// `KIND NAME NAME` as `KIND/NAME KIND/NAME`, for whoever writes as for kubectl. `called`: what goes by the name of a kind; then
    /// the words are names.
    pub fn joined(words: &[String], called: impl Fn(&str) -> bool) -> Vec<String> {
        match words {
            [kind, names @ ..]
                if !names.is_empty()
                    && names.iter().all(|name| !name.contains('/'))
                    && Self::from_word(kind).is_some()
                    && !called(kind) =>
            {
                names.iter().map(|name| format!("{kind}/{name}")).collect()
            }
            words => words.to_vec(),
        }
    }

    /// Services and Jobs run processes; they are units and share one name space.
    pub fn is_unit(self) -> bool {
        matches!(self, Self::Service | Self::Job)
    }
}

/// `service/api`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectRef {
    pub kind: ObjectKind,
    pub name: Name,
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.singular(), self.name)
    }
}

impl std::str::FromStr for ObjectRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is not KIND/NAME");
        let (kind, name) = text.split_once('/').ok_or_else(bad)?;
        let kind = ObjectKind::from_word(kind).ok_or_else(bad)?;
        Ok(Self { kind, name: name.parse().map_err(|error| format!("`{text}`: {error}"))? })
    }
}

impl Serialize for ObjectRef {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ObjectRef {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_rfc_1123_labels() {
        for good in ["a", "0", "api-v2", &"x".repeat(63)] {
            assert!(good.parse::<Name>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", "ä", &"x".repeat(64)] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
    }

    #[test]
    fn kinds_are_read_in_every_common_spelling() {
        for word in ["service", "services", "Service", "svc"] {
            assert_eq!(ObjectKind::from_word(word), Some(ObjectKind::Service), "{word}");
        }
        assert_eq!(ObjectKind::from_word("pod"), None);
        let joined = |words: &str, called: &str| {
            let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
            ObjectKind::joined(&words, |word| word == called).join(" ")
        };
        for (words, called, expected) in [
            ("service api web", "", "service/api service/web"),
            ("service api", "service", "service api"),
            ("service", "", "service"),
            ("api service", "", "api service"),
            ("service job/a", "", "service job/a"),
        ] {
            assert_eq!(joined(words, called), expected);
        }
    }
}

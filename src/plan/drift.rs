//! How the spec that an instance was started with differs from the desired one.

use super::desired::UnitSpec;

/// The difference, by what it takes to remove it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Drift {
    #[default]
    None,
    /// The fields can change under the running process.
    InPlace(Vec<String>),
    /// The program has to read its files again; nothing needs a new process.
    Reload(Vec<String>),
    /// At least one field needs a new process.
    Replace(Vec<String>),
}

impl Drift {
    /// Compares field by field (invariant 11): a field differs when it was written differently *and* means something
    /// different, so new built-in defaults of a new unisys replace nothing.
    pub fn between(started: &UnitSpec, desired: &UnitSpec) -> Self {
        if std::ptr::eq(started, desired) {
            return Self::None;
        }
        started.drift_to(desired)
    }

    /// `spec.env.LOG_LEVEL changed`.
    pub fn words(fields: &[String]) -> String {
        match fields {
            [] => "changed".into(),
            [one] => format!("{one} changed"),
            [first, rest @ ..] if rest.len() > 3 => format!("{first} and {} more fields changed", rest.len()),
            [rest @ .., last] => format!("{} and {last} changed", rest.join(", ")),
        }
    }
}

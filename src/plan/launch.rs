//! What it takes to start one unit, and how two such descriptions differ.

use std::sync::Arc;

use super::Drift;

/// Everything that a start needs, as resolved values. Opaque to the decisions but for [`Launch::drift_to`].
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Launch {
    /// Canonical JSON of the spec as written (overlays and `System.defaults` merged, built-in defaults not).
    pub written: Arc<str>,
    /// Keyed digest of the resolved environment.
    pub env_digest: String,
    /// Its readiness or startup is told by a line in its log.
    pub awaits_log: bool,
}

impl Launch {
    /// Identity of what was written and resolved, for checkpoints.
    pub fn digest(&self) -> String {
        use sha2::Digest;
        let mut hasher = sha2::Sha256::new();
        hasher.update(self.written.as_bytes());
        hasher.update([0]);
        hasher.update(self.env_digest.as_bytes());
        hasher.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }

    pub fn drift_to(&self, desired: &Self) -> Drift {
        if self.written == desired.written && self.env_digest == desired.env_digest {
            return Drift::None;
        }
        Drift::Replace(vec!["spec".into()])
    }
}

//! How a new version of a unit takes the place of an old one, and how it goes back. Pure.
//!
//! ```text
//!            bring up           available            gone
//! serving ────────────▶ serving ─────────▶ draining ──────▶ ∅
//!            ∅ ───────▶ incoming ────────▶ serving
//! ```
//!
//! [`moves`] says what may be done next with the ordinals of a unit; [`state`] is the progress of one rollout: its deadline,
//! its failures, whether it is over. The old instance stays until the new one is available (architecture §1, rule 3).
//!
//! Sources: Kubernetes Deployments (`maxSurge`, `maxUnavailable`, `minReadySeconds`, `progressDeadlineSeconds`); Nomad's
//! `update` stanza (`canary`, `auto_promote`, `auto_revert`). Ending at the third crash and the rollback of everything that
//! the same revision changed are unisys' own.

pub mod moves;
pub mod state;

pub use moves::{Group, Move, Place, Standing, View, moves};
pub(crate) use state::CRASHES;
pub use state::{Counts, Failure, Phase, Progress, Rollout, Span, Turn};

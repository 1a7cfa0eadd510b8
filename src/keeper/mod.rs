//! The keeper: root of everything. Small, synchronous, dull. It spawns on request, remembers what must outlive the daemon,
//! reaps, kills what belongs to an instance, and starts the daemon again when it dies. It decides nothing.
//!
//! ```text
//! daemon ──Request──▶ keeper ──▶ spawn threads ──▶ processes
//!        ◀──Report───        ◀── SIGCHLD ─────────
//! ```
//!
//! A daemon that connects says Hello and is told everything that is there ([`protocol`]); requests are idempotent on
//! (instance, part) and fenced by the daemon's epoch. What a new keeper needs after this one was killed is in [`journal`].

#![allow(unsafe_code)]

pub mod attention;
mod cgroups;
pub mod contain;
mod crew;
mod daemon;
mod ends;
pub mod fifos;
pub mod journal;
mod leaving;
mod listeners;
pub mod protocol;
mod requests;
mod resume;
mod run;
mod spawner;
mod table;
mod telling;

pub use run::{Heritage, Keeper, Options, Resumed, SIGNALS};
pub use table::left_running;

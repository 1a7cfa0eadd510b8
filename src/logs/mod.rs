//! Captured output: every byte exactly once.
//!
//! ```text
//! FIFO ──splice──▶ spool (one an instance and stream) ──lines──▶ logs/services/<name>.log + logs/index/<name>
//! ```
//!
//! Bytes leave the FIFO and enter the spool in one system call, at the offset where the spool ends: killed at any moment, the
//! spool's length says what was moved. Lines are derived from the spool; each index record says up to where, and is written
//! after the lines. What was written after the last record is cut off and derived again ([`derived`]).

pub mod collector;
pub mod derived;
pub mod read;
mod room;
mod spool;
mod work;

pub use collector::{Collector, Told};

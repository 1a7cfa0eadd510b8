//! Captured output: every byte exactly once.
//!
//! ```text
//! FIFO ──splice──▶ spool (one an instance and stream) ──lines──▶ logs/services/<name>.log + logs/index/<name>
//! ```
//!
//! Bytes leave the FIFO and enter the spool in one system call, at the offset where the spool ends: killed at any moment, the
//! spool's length says what was moved. Lines are derived from the spool; each index record says up to where, and is written
//! after the lines. What was written after the last record is cut off and derived again ([`derived`]).
//!
//! Secrets of the program are masked between spool and log ([`lines`]): positions in the two are counted apart, so a line may
//! become longer or shorter on its way. What has become lines of a program with secrets is overwritten in the spool.

pub mod collector;
pub mod derived;
mod lines;
pub mod read;
mod room;
mod spool;
mod work;

pub use collector::{Collector, Told};

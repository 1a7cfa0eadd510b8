//! What goes wrong: a record of each failure, a dump of each crash, and somebody who is told.
//!
//! ```text
//! facts about an end ─┐
//! last stderr lines ──┴─▶ classify ──▶ Book (records, counts) ──▶ store, metrics, `errors`
//!                            │                    └──▶ notifier::Desk (filter, rate, grouping, retries) ──▶ webhook, exec, file
//!                            └──▶ crash dump (a thread of its own) ──▶ `crashes`
//! ```
//!
//! [`patterns`], [`shapes`], [`classify`], [`book`], [`curve`], [`quota`], [`events`] and [`notifier::desk`], [`notifier::template`] decide and touch
//! nothing: no clock, no file, no process (a test looks). [`worker`], [`dump`], [`crashes`] and [`notifier::deliver`] have no
//! choices. Nothing here delays a restart: the engine hands over facts and goes on.

pub mod book;
pub mod classify;
pub mod context;
pub mod crashes;
pub mod curve;
pub mod dump;
pub mod events;
pub mod notifier;
pub mod patterns;
pub mod quota;
pub mod shapes;
pub mod worker;

pub use book::{Book, ErrorRecord};
pub use classify::{Classified, Evidence, classify};
pub use patterns::Patterns;

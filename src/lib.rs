//! unisys keeps the programs of a system running on a machine. `src/README.md` is the map of this crate.

#![deny(unsafe_code)]

pub mod base;

pub mod graph;
pub mod manifest;
pub mod plan;
pub mod rollout;
pub mod unit;
pub mod world;

pub mod api;
pub mod cli;
pub mod engine;
pub mod faults;
pub mod keeper;
pub mod logs;
pub mod os;
pub mod probe;
pub mod store;
pub mod telemetry;

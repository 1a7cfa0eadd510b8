//! Real processes, real files, real signals: each test starts the binary as a person would.

mod bad_input;
mod bad_rollouts;
mod commands;
mod deaths;
mod deletion;
mod env_files;
mod faults;
mod freezes;
mod generated;
mod habits;
mod kept;
mod listeners;
mod lives;
mod orders;
mod output;
mod owners;
mod readme;
mod rollout_ways;
mod rollouts;
mod sandbox;
mod scarcity;
mod secrets;
mod storms;
mod support;
mod tidy;
mod waits;

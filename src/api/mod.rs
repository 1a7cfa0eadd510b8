//! The control API: HTTP/1.1 + JSON over a unix socket of mode 0600, peer credentials checked. Every verb of the command line
//! is a call of it; the shapes that scripts rely on are in [`types`].

mod calls;
mod config;
mod crowd;
mod deletion;
mod elsewhere;
pub(crate) mod faults;
pub(crate) mod follow;
pub(crate) mod look;
mod manifests;
pub mod openapi;
mod orders;
mod rollouts;
mod selector;
mod server;
pub mod status;
pub mod types;
mod wait;

pub use calls::Refusal;
pub use server::serve;

//! The control API: HTTP/1.1 + JSON over a unix socket of mode 0600, peer credentials checked. Every verb of the command line
//! is a call of it; the shapes that scripts rely on are in [`types`].

mod calls;
mod faults;
pub mod openapi;
mod rollouts;
mod server;
pub mod status;
pub mod types;

pub use server::serve;

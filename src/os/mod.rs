//! The only system calls and, with the keeper, the only `unsafe`. Nothing here chooses anything.

#![allow(unsafe_code)]

pub mod allowed;
pub mod caller;
pub mod cgroup;
pub mod clock;
pub mod command;
pub mod emptied;
pub mod files;
pub mod freeze;
pub mod identity;
pub mod inherit;
pub mod listeners;
pub mod own;
pub mod packet;
mod place;
pub mod process;
pub mod sandbox;
pub mod signals;
pub mod snapshot;
pub mod sockets;
pub mod spawn;
pub mod state_dir;
pub mod unlinked;
pub mod usage;
pub mod voice;
pub mod watch;

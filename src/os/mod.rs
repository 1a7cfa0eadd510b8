//! The only system calls and, with the keeper, the only `unsafe`. Nothing here chooses anything.

#![allow(unsafe_code)]

pub mod clock;
pub mod files;
pub mod identity;
pub mod packet;
pub mod process;
pub mod signals;
pub mod spawn;
pub mod state_dir;

//! Text → typed, validated objects and diagnostics. Pure: files come in as bytes or through [`Files`].
//!
//! ```text
//! SourceFile … ──tree──▶ documents ──overlay──▶ merged ──objects──▶ Objects ──check──▶ diagnostics
//!                                                                     │
//!                                                         resolve ────┴──▶ environment and argv of each unit
//! ```
//!
//! Nothing fails fast: every step gives what it could make and what was wrong with the rest.

mod bounds;
pub mod capabilities;
pub mod check;
mod check_ports;
pub mod diagnostic;
mod elsewhere;
pub mod env_file;
pub mod explain;
pub mod fields;
mod hidden;
mod layers;
pub mod load;
pub mod not_yet;
pub mod notifiers;
mod objects;
pub mod overlay;
mod printed;
pub mod references;
pub mod render;
pub mod resolve;
pub mod schema;
pub mod shape;
pub mod spec;
pub mod split;
pub mod tree;

use std::path::Path;
use std::sync::Arc;

pub use diagnostic::{Diagnostic, Severity, Span};
pub use load::{LoadInput, Object, Objects, SourceFile, load};

/// Files that manifests refer to (`.env` files, secret files). The reader is the outside's.
pub trait Files {
    /// The bytes of a file, or why there are none.
    fn read(&self, path: &Path) -> Result<Arc<[u8]>, FileError>;

    /// A digest of the content of a file of any size (`reloadOn`, `restartOn`).
    fn digest(&self, path: &Path) -> Result<u64, FileError>;
}

/// Why a referenced file cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    #[error("it does not exist")]
    Missing,
    #[error("{0}")]
    Unreadable(String),
}

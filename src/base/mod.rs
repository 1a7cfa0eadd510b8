//! Words that everything else shares. Nothing here knows what a manifest or a process is.

pub mod backoff;
pub mod fault;
pub mod ids;
pub mod limits;
pub mod name;
pub mod ports;
pub mod process;
pub mod redact;
pub mod rng;
pub mod shelves;
pub mod time;
pub mod units;

pub use backoff::BackoffCurve;
pub use fault::{Category, Severity};
pub use ids::{Epoch, Generation, Incarnation, InstanceId, Ordinal, Revision, Role, Seat};
pub use name::{Name, NameError, ObjectKind, ObjectRef};
pub use ports::{Listen, PortNeed, PortNumbers, Transport};
pub use process::{CgroupLimits, Exit, Part, PathAccess, Sandbox, Signal, SpawnStage, Spent, Usage};
pub use redact::Redactor;
pub use rng::Rng;
pub use shelves::Shelves;
pub use time::{Debounce, Instant, Now, Stamp};
pub use units::{ByteSize, ParseUnitError, format_duration, parse_duration};

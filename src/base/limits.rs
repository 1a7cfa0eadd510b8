//! Every limit, each with its reason (invariant 8). Nothing in unisys grows without one of these.

use std::time::Duration;

/// A manifest file larger than this is not read: people do not write a megabyte of YAML, and a 100 MB file must not stop the daemon.
pub const MANIFEST_FILE_BYTES: u64 = 4 << 20;
/// Objects in one revision; ten times the largest system measured.
pub const OBJECTS: usize = 100_000;
/// Files in one set.
pub const SET_FILES: usize = 20_000;
/// Nesting of a YAML document. The deepest valid manifest has 9 levels.
pub const YAML_DEPTH: usize = 64;
/// Nodes of one YAML document after alias expansion: stops "billion laughs".
pub const YAML_NODES: usize = 500_000;
/// A `.env` or secret file.
pub const ENV_FILE_BYTES: u64 = 1 << 20;
/// Diagnostics shown of one revision; the rest is counted.
pub const DIAGNOSTICS: usize = 1_000;

/// One log line; longer ones are split, as `docker logs` and journald do.
pub const LOG_LINE_BYTES: usize = 1 << 20;
/// Facts handled in one turn of the engine before effects are carried out: keeps the control API answering in an event storm.
pub const TURN_BATCH: usize = 256;
/// Events kept in memory for `events` and `why`.
pub const EVENTS_KEPT: usize = 10_000;
/// Revisions kept with their manifests as written (manifest.md, Sets).
pub const REVISIONS_KEPT: usize = 10;
/// Changes kept in the store.
pub const CHANGES_KEPT: usize = 1_000;

/// A request body of the control API: the largest set plus room.
pub const REQUEST_BYTES: usize = 32 << 20;
/// A client has this long to send its head and body.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Connections to the control API at once; more wait in the backlog.
pub const CONNECTIONS: usize = 256;
/// Output kept of a probe, hook or stop command.
pub const COMMAND_OUTPUT_BYTES: usize = 4 << 10;
/// Body read of an http probe: only the status counts.
pub const PROBE_BODY_BYTES: usize = 4 << 10;

/// Quiet time after the last file event before a set is read again.
pub const WATCH_QUIET: Duration = Duration::from_millis(200);
/// At most this long after the first file event, quiet or not.
pub const WATCH_MAX: Duration = Duration::from_secs(2);
/// Two equal snapshots this far apart are needed before anything is pruned.
pub const PRUNE_CONFIRM: Duration = Duration::from_secs(1);

/// Early readiness probes of a starting instance: first delay, doubling up to the probe's period.
pub const EARLY_PROBE_FIRST: Duration = Duration::from_millis(5);
/// Replicas of one unit.
pub const REPLICAS: u32 = 1_000;

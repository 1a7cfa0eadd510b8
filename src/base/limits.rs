//! Every limit, each with its reason (invariant 8). Nothing in unisys grows without one of these.

use std::time::Duration;

/// A manifest file larger than this is not read: people do not write a megabyte of YAML, and a 100 MB file must not stop the daemon.
pub const MANIFEST_FILE_BYTES: u64 = 4 << 20;
/// Empty lines that stand before the objects of a file that was handed in, so that places are right: they are kept with each of
/// ten revisions. Beyond it places are those in the object.
pub const PADDING: usize = 4 << 20;
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

/// Descriptors that the keeper leaves free: what it needs to start a daemon, write its journal and look into `/proc`. A start
/// that would take one of them is refused. Of an instance the keeper holds one more than the daemon does, and both have the same limit, so
/// the daemon has at least a quarter of it for itself.
pub const FREE_DESCRIPTORS: u64 = 16;
/// Logs kept open, two files each; the one used longest ago is closed for another.
pub const OPEN_LOGS: u64 = 512;

/// Lines for a terminal, or whatever takes the output of `up`, that takes nothing: a table of a thousand units is one of them.
pub const UNSAID_LINES: usize = 1_000;
/// So long an ending process waits for its last lines to be taken.
pub const SAID_WITHIN: Duration = Duration::from_millis(500);

/// One log line; longer ones are split, as `docker logs` and journald do.
pub const LOG_LINE_BYTES: usize = 1 << 20;

/// What is looked at of an output at once: the longest line, and its end.
pub const LOG_LOOK_BYTES: usize = LOG_LINE_BYTES + 1;
/// Facts handled in one turn of the engine before effects are carried out: keeps the control API answering in an event storm.
pub const TURN_BATCH: usize = 256;
/// A program that was told to stop and has not ended after this long may have been stopped by a signal: it is woken.
pub const STOP_WAKE: Duration = Duration::from_millis(250);
/// A program that asks for more time and more again is written down anew when it has got this much more.
pub const EXTENDED_TOLD: Duration = Duration::from_millis(500);
/// A program that ends sooner has failed at its start: by then a slow one has read its configuration too.
pub const START_FAILURE: Duration = Duration::from_secs(30);
/// The same of one without a probe that tells when it has begun: by then it may have been at work.
pub const START_FAILURE_UNSEEN: Duration = Duration::from_secs(5);
/// Who runs for so long has come to run; who ended before has ended at once.
pub const SETTLED: Duration = Duration::from_millis(400);
/// After a crash a command that waits for Ready waits until the next one has outlived it, but no longer than this: nobody waits at a
/// terminal for what fails once an hour.
pub const LONGEST_PROOF: Duration = Duration::from_secs(10);
/// Units planned before what they ask for is carried out: a first start or stop among thousands waits no longer than for these.
pub const SETTLE_BATCH: usize = 16;
/// Descriptors that keeper and daemon make room for at their start, four a service: 64 KiB in the kernel.
pub const DESCRIPTORS_RESERVED: i32 = 8192;
/// Links of the chain that opened a circuit, kept for the next daemon: the failure, and what it came of within the unit.
pub const OPENED_BY: usize = 8;
/// Events kept in memory for `events` and `why`; of whoever has most the oldest makes room.
pub const EVENTS_KEPT: usize = 10_000;
/// Of these, how many an earlier daemon told: half a megabyte of memory.
pub const EVENTS_RECALLED: usize = 2_000;
/// The end of the log that they are read from: a start waits for it.
pub const HISTORY_BYTES: u64 = 2 << 20;
/// Revisions kept with their manifests as written (manifest.md, Sets).
pub const REVISIONS_KEPT: usize = 10;
/// Of each unit, so many of the latest versions that were good can be gone back to: their revisions are kept beside the latest ones
/// (Kubernetes' revisionHistoryLimit).
pub const UNDO_KEPT: usize = 10;
/// Bytes of the manifests of all revisions that are kept for that alone: a hundred of a set of half a megabyte.
pub const UNDO_BYTES: i64 = 64 << 20;
/// Rollouts kept of each unit.
pub const ROLLOUTS_KEPT: usize = 50;
/// Lines of a failing instance that a rollback tells.
pub const ROLLBACK_LINES: usize = 5;
/// Changes kept in the store; of the unit that has most the oldest makes room.
pub const CHANGES_KEPT: usize = 1_000;

/// A request body of the control API: the largest set plus room.
pub const REQUEST_BYTES: usize = 32 << 20;
/// A client has this long to send its head and body.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// An order's answer waits so long for what it changes to be on the disk; then it says that it is not.
pub const RECORDED_WITHIN: Duration = Duration::from_secs(2);
/// Bodies of all requests that are on their way, or not used yet: two of the largest.
pub const BODIES_BYTES: usize = 2 * REQUEST_BYTES;
/// Connections to the control API at once; more wait in the backlog.
pub const CONNECTIONS: usize = 256;
/// Whoever has sent nothing of an unfinished request for this long is ended where others wait for its place or its bytes: a client
/// sends all that it has at once.
pub const CROWD_PATIENCE: Duration = Duration::from_millis(500);
/// A program that is ending does not answer its probes: within this time the keeper has told of its end, unless that takes it long
/// (files that are written back, a core dump).
pub const END_TOLD: Duration = Duration::from_secs(1);
/// Output kept of a probe, hook or stop command.
pub const COMMAND_OUTPUT_BYTES: usize = 4 << 10;
/// Threads of the daemon for what waits: commands of probes, close looks at frozen programs, logs that are read, names that are
/// resolved.
pub const WAITING_THREADS: usize = 32;
/// Of these for commands of probes, in all and of one unit.
pub const PROBE_COMMANDS: usize = 24;
pub const PROBE_COMMANDS_OF_UNIT: usize = 4;
/// Body read of an http probe: only the status counts.
pub const PROBE_BODY_BYTES: usize = 4 << 10;

/// The name of whoever gave an order may take so long to find; the order does not wait longer for it.
pub const NAMED_WITHIN: Duration = Duration::from_secs(1);
/// Quiet time after the last file event before a set is read again.
pub const WATCH_QUIET: Duration = Duration::from_millis(200);
/// At most this long after the first file event, quiet or not.
pub const WATCH_MAX: Duration = Duration::from_secs(2);
/// A question about what was just saved waits at most so long until that is known: what is still being written then is not saved.
pub const WATCH_CAUGHT_UP: Duration = Duration::from_secs(5);
/// The same of a question that is about now, whatever is being written: a file that was saved once is known by then.
pub const ASKED_CAUGHT_UP: Duration = Duration::from_secs(1);
/// Two equal snapshots this far apart are needed before anything is pruned.
pub const PRUNE_CONFIRM: Duration = Duration::from_secs(1);

/// Early readiness probes of a starting instance: first delay, doubling up to the probe's period.
pub const EARLY_PROBE_FIRST: Duration = Duration::from_millis(5);
/// So many starts leave enough memory behind to give it back.
pub const MANY_STARTS: u32 = 64;
/// Quiet time before memory is given back.
pub const TRIM_AFTER: Duration = Duration::from_secs(1);
/// The same, of what a crash or a probe leaves.
pub const TRIM_LATER: Duration = Duration::from_secs(60);
/// At most this long after there was something to give back, quiet or not.
pub const TRIM_MAX: Duration = Duration::from_secs(600);
/// Replicas of one unit.
pub const REPLICAS: u32 = 1_000;

/// Defaults within each other in a `.env` file (`${A:-${B:-x}}`): each is a call within a call.
pub const ENV_DEFAULTS_DEEP: usize = 32;
/// A value of a `.env` file: a program is given no longer one (execve(2), MAX_ARG_STRLEN), and variables that hold each other twice
/// would grow without end.
pub const ENV_VALUE_BYTES: usize = 128 << 10;

/// Secrets shorter than this are not looked for: a text without its "abc" is no text any more (rules.md).
pub const SECRET_VALUE_BYTES: usize = 6;
/// Lines of a secret of several lines shorter than this are not looked for alone.
pub const SECRET_LINE_BYTES: usize = 8;
/// And those shorter than this not even where they are all of a line: `},` and `end` are lines of many texts.
pub const SECRET_SHORT_LINE_BYTES: usize = 4;

/// Error records kept, one a fingerprint; the one seen longest ago makes room.
pub const ERRORS_KEPT: usize = 1_000;
/// Counters of errors by category, severity and unit; what comes after is counted under no unit.
pub const ERROR_COUNTERS: usize = 10_000;
/// Bytes of an error's message: a headline, not a story. The story is in the log and in the crash dump.
pub const ERROR_MESSAGE_BYTES: usize = 600;
/// Bytes of one value of an error's context: a name or a number.
pub const ERROR_CONTEXT_BYTES: usize = 120;
/// Last lines of stderr that a failure is classified by: the longest traceback that people write, without its middle.
pub const EVIDENCE_LINES: usize = 80;
/// Bytes of one of these lines that are looked at.
pub const EVIDENCE_LINE_BYTES: usize = 1_000;
/// Patterns of a System's `errors.patterns`: each is tried on each line.
pub const ERROR_PATTERNS: usize = 100;
/// Ended instances whose failure waits to be looked at; of what comes beyond, only how it ended is recorded.
pub const FAILURES_WAITING: usize = 512;

/// Crash dumps of one service (rules.md).
pub const CRASH_DUMPS: usize = 20;
/// Bytes of one crash dump (rules.md).
pub const CRASH_DUMP_BYTES: u64 = 10 << 20;
/// A crash dump older than this is removed (rules.md).
pub const CRASH_DUMP_AGE: Duration = Duration::from_secs(30 * 24 * 3600);
/// Lines of each stream in a crash dump.
pub const CRASH_DUMP_LINES: usize = 200;
/// Crash dumps of one service in a row; then one every [`CRASH_DUMP_EVERY`]: a crash loop must not spend the machine on
/// describing itself, nor push out the dump of its first crash.
pub const CRASH_DUMP_BURST: u32 = 5;
/// See [`CRASH_DUMP_BURST`].
pub const CRASH_DUMP_EVERY: Duration = Duration::from_secs(10);
/// Readings kept of what a running instance uses, for its crash dump: 1.3 KB. They lie close together at the end and far apart
/// before, so a day leaves a dozen in its last five minutes.
pub const USAGE_SAMPLES: usize = 32;
/// Two readings are at least this far apart, first and in the end: a little less than the periods that probes usually have.
pub const USAGE_EVERY: (Duration, Duration) = (Duration::from_millis(900), Duration::from_millis(4500));
/// Processes and threads whose children are looked for when an instance is read between two turns: two milliseconds at most.
/// What lies beyond is not counted.
pub const USAGE_TASKS: u32 = 256;
/// Answers of probes remembered of a running instance, for its crash dump.
pub const PROBES_REMEMBERED: usize = 10;

/// Messages that wait for a notifier; errors beyond are grouped into one.
pub const NOTICES_WAITING: usize = 64;
/// Different errors in one grouped message; the rest is counted.
pub const NOTICES_GROUPED: usize = 100;
/// Errors on their way to a notifier's task; more are counted and said.
pub const NOTICES_OFFERED: usize = 256;
/// Messages a minute of a notifier that does not say how many (rules.md).
pub const NOTIFIER_RATE: u32 = 10;
/// An attempt to deliver takes at most this long.
pub const NOTIFIER_TIMEOUT: Duration = Duration::from_secs(10);
/// A message is tried this long, then it is a dead letter (rules.md).
pub const NOTIFIER_PATIENCE: Duration = Duration::from_secs(3600);
/// Commands of notifiers that run at once: hanging ones must not take the threads that probes run on.
pub const NOTIFIER_COMMANDS: usize = 2;
/// The dead-letter file; when it is full it is renamed to `….1` and begun again.
pub const DEAD_LETTER_BYTES: u64 = 10 << 20;

/// Connections that wait for a service to accept them, as far as the kernel's `net.core.somaxconn` allows: a restart of some
/// seconds under load refuses nobody.
pub const LISTEN_BACKLOG: i32 = 4096;
/// Ports of one service; each is a descriptor of every instance and of the keeper.
pub const PORTS: usize = 64;
/// The longest path of a unix socket: `sun_path` of sockaddr_un(7) holds 108 bytes with its NUL.
pub const SOCKET_PATH_BYTES: usize = 107;
/// Tries to find a number for an `auto` port that no other instance was given.
pub const AUTO_PORT_TRIES: u32 = 64;
/// `auto` ports are among so many numbers below those that the kernel chooses itself.
pub const AUTO_PORTS: u16 = 8_000;
/// And none is below this: well-known and registered services live there.
pub const AUTO_PORT_LOWEST: u16 = 10_000;
/// Pairs of FIFOs that the keeper keeps for instances to come.
pub const SPARE_FIFOS: usize = 128;
/// Descriptors that one ordinal may keep with `FDSTORE=1`: each is one of the keeper's.
pub const STORED_DESCRIPTORS: usize = 16;
/// Connections that wait unaccepted for this long are said to be ignored; a busy server takes them sooner.
pub const UNACCEPTED: Duration = Duration::from_secs(5);
/// Between two looks at what waits unaccepted: first, doubling up to the second. Only units with `listen: true` are looked at.
pub const ACCEPT_LOOK: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

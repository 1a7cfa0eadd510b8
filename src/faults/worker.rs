//! A thread that looks at failures: reads the last output, classifies, writes the dump. Nothing waits for it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde::Serialize;

use crate::base::{Exit, Generation, InstanceId, Redactor, Spent, Stamp, Transport, Usage, limits};
use crate::logs::derived::Stream;
use crate::logs::read::{LOOK, Query, read};
use crate::manifest::spec::service::PortNumber;
use crate::os::freeze::Thread;
use crate::os::state_dir::StateDir;
use crate::os::usage::{self, CgroupUsage};
use crate::os::{listeners, own};
use crate::plan::UnitSpec;
use crate::world::Failure;

use super::book::Sighting;
use super::classify::{Classified, Evidence, classify};
use super::context;
use super::curve::Sample;
use super::dump;
use super::patterns::Patterns;

/// Everything that is known of one failure when it leaves the engine.
pub struct Case {
    pub failure: Box<Failure>,
    pub revision: u64,
    /// It ended with a code that means success.
    pub success: bool,
    /// What the failing probe said, or the watchdog found.
    pub probe: String,
    pub dependency_down: Option<String>,
    /// Latest last.
    pub probes: Vec<ProbeSeen>,
    /// Of one that its watchdog ended: each thread, when it was found frozen.
    pub threads: Vec<Thread>,
    /// What it used while it ran, oldest first.
    pub samples: Vec<Sample>,
    /// What its main program used in all, if it ended as the keeper's child.
    pub spent: Option<Spent>,
    /// What its cgroup used, if it had one.
    pub cgroup: Option<CgroupUsage>,
    /// The latest spec with which the unit was Ready.
    pub last_good: Option<Arc<UnitSpec>>,
    /// Open files that it could have.
    pub nofile: u64,
    /// Crashes of the service since the last one that was looked at closely.
    pub skipped: u64,
    /// What it was is recorded already; an earlier daemon owed the dump.
    pub known: bool,
    pub redactor: Redactor,
    pub patterns: Arc<Patterns>,
}

/// An answer of a probe.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProbeSeen {
    pub at: Stamp,
    pub probe: &'static str,
    pub ok: bool,
    pub message: String,
    /// The process at that moment, when the probe failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<Usage>,
}

/// What the thread tells.
#[derive(Debug)]
pub enum Told {
    Known(Box<Known>),
    Dumped(InstanceId),
    DumpFailed { id: InstanceId, why: String },
}

/// What a failure was.
#[derive(Debug)]
pub struct Known {
    pub sighting: Sighting,
    pub id: InstanceId,
    pub generation: Generation,
    pub exit: Option<Exit>,
    pub ran_for: Duration,
}

/// Sends to the engine.
pub type Tell = Box<dyn Fn(Told) + Send>;

/// A handle of the thread.
pub struct Worker {
    cases: Option<SyncSender<Case>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    pub fn start(state: &StateDir, state_id: String, tell: Tell) -> std::io::Result<Self> {
        let (cases, queue) = sync_channel(limits::FAILURES_WAITING);
        let work = Work { state: state.clone(), state_id, tell };
        let thread = thread::Builder::new()
            .name("faults".into())
            .stack_size(512 << 10)
            .spawn(move || work.run(&queue))?;
        Ok(Self { cases: Some(cases), thread: Some(thread) })
    }

    /// Hands a case over; it comes back when too many wait.
    pub fn look_at(&self, case: Case) -> Result<(), Box<Case>> {
        let Some(cases) = &self.cases else { return Err(Box::new(case)) };
        cases.try_send(case).map_err(|error| match error {
            TrySendError::Full(case) | TrySendError::Disconnected(case) => Box::new(case),
        })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.cases = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Work {
    state: StateDir,
    state_id: String,
    tell: Tell,
}

/// Output before the program itself: hooks, which run at most this long before it.
const BEFORE: Duration = Duration::from_secs(600);

impl Work {
    fn run(self, queue: &Receiver<Case>) {
        own::make_way();
        dump::clean(&self.state.crash_dumps());
        while let Ok(mut case) = queue.recv() {
            case.spent = case.spent.map(own_peak);
            let stderr = self.last_lines(&case, Stream::Stderr);
            let classified = self.classified(&case, &stderr);
            if !case.known {
                (self.tell)(Told::Known(Box::new(known(&case, &classified))));
            }
            let stdout = self.last_lines(&case, Stream::Stdout);
            let dir = self.state.crash_dumps();
            match dump::write(&dir, &case, &classified, &stdout, &stderr) {
                Ok(()) => (self.tell)(Told::Dumped(case.failure.id)),
                Err(error) => {
                    let (id, why) = (case.failure.id, crate::os::files::why(&error));
                    (self.tell)(Told::DumpFailed { id, why });
                }
            }
        }
    }

    /// The last lines of one stream of the instance, secrets masked.
    fn last_lines(&self, case: &Case, stream: Stream) -> Vec<String> {
        let failure = &case.failure;
        let before = (failure.ran_for + BEFORE).as_millis() as i64;
        let query = Query {
            tail: Some(limits::CRASH_DUMP_LINES),
            since: Some(Stamp(failure.at.0 - before)),
            incarnation: Some(failure.id.incarnation),
            stream: Some(stream),
            among: Some(LOOK),
            ..Query::default()
        };
        let service = failure.id.unit.as_str();
        let found = read(&self.state.services_logs(), &self.state.index(), service, &query);
        let lines = found.map(|(lines, _)| lines).unwrap_or_default();
        lines.into_iter().map(|line| case.redactor.text(&line.message).into_owned()).collect()
    }

    fn classified(&self, case: &Case, stderr: &[String]) -> Classified {
        let mut classified = classified(case, stderr);
        let Some(port) = classified.port_in_use else { return classified };
        let ports = match port {
            0 => likely_ports(&case.failure.spec),
            port => [port].into(),
        };
        if let Some((port, holder)) = listeners::holder(&ports, Transport::Tcp, &self.state_id) {
            classified.name_holder(port, &holder);
        }
        classified
    }
}

/// Without a peak of memory that may be the keeper's: the two shared theirs until the program was executed.
fn own_peak(spent: Spent) -> Spent {
    let keeper = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get() as u32);
    let shared = keeper.and_then(usage::peak);
    let own = spent.peak_memory_bytes.filter(|peak| shared.is_none_or(|shared| *peak > shared));
    Spent { peak_memory_bytes: own, ..spent }
}

/// What a case is, with these last lines of stderr. Lines that are too long are data: only their beginnings are looked at.
pub fn classified(case: &Case, stderr: &[String]) -> Classified {
    let stderr = &stderr[stderr.len().saturating_sub(limits::EVIDENCE_LINES)..];
    if stderr.iter().all(|line| line.len() <= limits::EVIDENCE_LINE_BYTES) {
        return with(case, stderr);
    }
    let mut cut = stderr.to_vec();
    cut.iter_mut().for_each(|line| super::classify::truncate(line, limits::EVIDENCE_LINE_BYTES));
    with(case, &cut)
}

fn with(case: &Case, stderr: &[String]) -> Classified {
    let failure = &case.failure;
    let words = case.redactor.text(&failure.words);
    let evidence = Evidence {
        unit: &failure.spec.object.to_string(),
        reason: &failure.end.reason,
        exit: failure.end.exit,
        words: &words,
        permanent: failure.permanent,
        success: case.success,
        probe: &case.redactor.text(&case.probe),
        stderr,
        dependency_down: case.dependency_down.as_deref(),
    };
    classify(&evidence, &case.patterns)
}

/// Ports that a program which does not say which one was taken may have meant: those that its manifest declares; else what
/// its environment or its arguments call one.
fn likely_ports(spec: &UnitSpec) -> BTreeSet<u16> {
    let ports = spec.launch.service.ports.iter().filter_map(|port| match port.port {
        PortNumber::Number(number) => Some(number),
        PortNumber::Auto(_) => None,
    });
    let declared: BTreeSet<u16> = ports.collect();
    if !declared.is_empty() {
        return declared;
    }
    let env = spec
        .launch
        .env
        .iter()
        .find(|variable| variable.name == "PORT")
        .and_then(|variable| variable.value.parse().ok());
    // `http.server 8000`, `--port 8000`, `--port=8000`, `--bind=0.0.0.0:8000`.
    let argument = |word: &String| match word.split_once('=') {
        Some((name, value)) if ["port", "bind", "listen", "addr"].iter().any(|what| name.contains(what)) => {
            value.rsplit(':').next()?.parse().ok()
        }
        Some(_) => None,
        None => word.parse().ok(),
    };
    let arguments = spec.launch.argv.iter().skip(1).filter_map(argument);
    env.into_iter().chain(arguments).filter(|port| *port > 0).collect()
}

fn known(case: &Case, classified: &Classified) -> Known {
    let failure = &case.failure;
    Known {
        sighting: sighting(case, classified),
        id: failure.id.clone(),
        generation: failure.generation,
        exit: failure.end.exit,
        ran_for: failure.ran_for,
    }
}

/// The record of a case.
pub fn sighting(case: &Case, classified: &Classified) -> Sighting {
    let failure = &case.failure;
    Sighting {
        fingerprint: classified.fingerprint.clone(),
        category: classified.category,
        severity: classified.severity,
        unit: failure.spec.object.to_string(),
        incarnation: Some(failure.id.incarnation.0),
        revision: case.revision,
        message: format!("instance {} {}", failure.id.ordinal, classified.message),
        at: failure.at,
        cause: failure.record,
        context: context::of_end(case, classified),
        follows: false,
    }
}

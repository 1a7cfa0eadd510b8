//! Failures on their way from the world to the error book, the crash dumps and the notifiers. Every decision is in `faults`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::base::{InstanceId, Instant, Name, Redactor, Spent, Usage, limits};
use crate::faults::book::Sighting;
use crate::faults::curve::Curve;
use crate::faults::dump;
use crate::faults::events::{self, Happening};
use crate::faults::notifier::deliver::Courier;
use crate::faults::notifier::{self, Notifiers};
use crate::faults::quota::Quota;
use crate::faults::worker::{self, Case, ProbeSeen, Worker};
use crate::faults::{Book, ErrorRecord, Patterns};
use crate::os::clock;
use crate::os::freeze::Thread;
use crate::os::state_dir::StateDir;
use crate::plan::UnitSpec;
use crate::probe::Answer;
use crate::unit::policy::Condition;
use crate::unit::watchdog::OnFreeze;
use crate::unit::{EndReason, ProbeKind, StopReason};
use crate::world::conditions::ready_count;
use crate::world::{Event, Failure, Record};

use super::{Engine, Input, Inputs};

/// A spec that was Ready, and the one before it: a program without a probe is Ready before it can fail.
struct Good {
    spec: Arc<UnitSpec>,
    before: Option<Arc<UnitSpec>>,
}

/// One that fails within this time of its start was never good.
const FRESH: Duration = Duration::from_secs(60);

/// What an instance used.
#[derive(Default)]
struct Used {
    curve: Curve,
    /// By its main program, in all.
    spent: Option<Spent>,
}

/// What the engine keeps of failures.
pub struct Faults {
    pub book: Book,
    /// Crash dumps written by this daemon, and those that could not be.
    pub dumps: (u64, u64),
    pub notifiers: Notifiers,
    quota: Quota,
    worker: Worker,
    /// Failed instances whose last output is not in the log yet.
    pending: BTreeMap<InstanceId, Box<Failure>>,
    probes: BTreeMap<InstanceId, VecDeque<ProbeSeen>>,
    /// Of those that are read now and then, and of those that have ended.
    used: BTreeMap<InstanceId, Used>,
    /// Each thread of an instance, when its watchdog last looked closely.
    threads: BTreeMap<InstanceId, Vec<Thread>>,
    /// A close look at these is under way.
    explaining: BTreeSet<InstanceId>,
    /// The latest spec with which each unit was Ready.
    last_good: BTreeMap<Name, Good>,
    redactor: Redactor,
    patterns: Arc<Patterns>,
    /// The last dump could not be written: that is said once.
    dump_failing: bool,
}

impl Faults {
    pub fn start(
        state: &StateDir,
        state_id: &str,
        saved: &[String],
        inputs: &Inputs,
        courier: Courier,
    ) -> std::io::Result<Self> {
        let notes = inputs.clone();
        let tell_note: notifier::Tell = Arc::new(move |name, warning, reason, message| {
            let object = format!("notifier/{name}");
            let call = Box::new(move |engine: &mut Engine| engine.note(warning, reason, &object, message));
            // Full of inputs, the engine has more to do than to hear of a notifier.
            let _ = notes.try_send(Input::Call(call));
        });
        let inputs = inputs.clone();
        let tell = Box::new(move |told| {
            let call = Box::new(move |engine: &mut Engine| engine.failure_told(told));
            let _ = inputs.blocking_send(Input::Call(call));
        });
        let records: Vec<ErrorRecord> =
            saved.iter().filter_map(|text| serde_json::from_str(text).ok()).collect();
        Ok(Self {
            book: Book::restore(records),
            dumps: (0, 0),
            notifiers: Notifiers::new(courier, tell_note),
            quota: Quota::default(),
            worker: Worker::start(state, state_id.to_owned(), tell)?,
            pending: BTreeMap::new(),
            probes: BTreeMap::new(),
            used: BTreeMap::new(),
            threads: BTreeMap::new(),
            explaining: BTreeSet::new(),
            last_good: BTreeMap::new(),
            redactor: Redactor::default(),
            patterns: Arc::default(),
            dump_failing: false,
        })
    }

    /// A probe answered: the last few are remembered for a crash dump.
    pub fn probed(&mut self, id: &InstanceId, kind: ProbeKind, answer: &Answer, process: Option<Usage>) {
        let seen = self.probes.entry(id.clone()).or_default();
        if seen.len() == limits::PROBES_REMEMBERED {
            seen.pop_front();
        }
        seen.push_back(ProbeSeen {
            at: clock::wall(),
            probe: kind.as_str(),
            ok: answer.ok,
            message: self.redactor.text(&answer.message).into_owned(),
            process,
        });
    }

    /// Whether it is time to read what the instance uses.
    pub fn usage_is_due(&self, id: &InstanceId, now: Instant) -> bool {
        self.used.get(id).is_none_or(|used| used.curve.is_due(now))
    }

    /// What the instance used at a moment.
    pub fn used(&mut self, id: &InstanceId, usage: Usage, at: Instant) {
        self.used.entry(id.clone()).or_default().curve.take(usage, at);
    }

    /// Its main program has ended, and used this much, if that is known.
    pub fn spent(&mut self, id: &InstanceId, spent: Option<Spent>) {
        if spent.is_some() {
            self.used.entry(id.clone()).or_default().spent = spent;
        }
    }

    /// Its watchdog looked closely: for a crash dump, if one follows.
    pub fn looked_at(&mut self, id: &InstanceId, threads: Vec<Thread>) {
        self.threads.insert(id.clone(), threads);
    }

    /// Nothing of the instance is left.
    pub fn ended(&mut self, id: &InstanceId) {
        if !self.pending.contains_key(id) {
            self.probes.remove(id);
            self.used.remove(id);
            self.threads.remove(id);
        }
    }

    pub fn forget_unit(&mut self, name: &Name) {
        self.quota.forget(name);
        self.last_good.remove(name);
    }

    pub fn redactor(&self) -> &Redactor {
        &self.redactor
    }
}

impl Engine {
    /// The accepted state changed: other secrets, other patterns.
    pub(super) fn faults_revised(&mut self) {
        let wanted = self.world.desired().units.values();
        // Programs that are still to be replaced know the values of before.
        let slots = self.world.units().values().flat_map(|unit| unit.slots.values());
        let running = slots.filter_map(|slot| Some(&slot.instance.as_ref()?.spec));
        let env = wanted.chain(running).flat_map(|spec| spec.launch.secrets());
        let notifiers = self.sets.notifiers().iter().flat_map(|plan| &plan.secrets);
        let secrets = env.map(|var| &var.value).chain(notifiers);
        let secrets: BTreeSet<&str> = secrets.map(String::as_str).collect();
        self.faults.redactor = Redactor::new(secrets);
        self.secrets_revised();
        self.faults.notifiers.revise(self.sets.notifiers(), &self.faults.book);
        let system = self.sets.objects().system.as_ref();
        let settings = system.and_then(|system| system.spec.errors.as_ref());
        let rows = settings.into_iter().flat_map(|settings| &settings.patterns);
        self.faults.patterns =
            Arc::new(Patterns::new(rows.map(|row| (row.pattern.as_str(), row.category, row.severity))));
    }

    /// An instance failed: it is looked at once its last output is in the log.
    pub(super) fn failed(&mut self, failure: Box<Failure>) {
        let object = failure.spec.object.to_string();
        let known = failure.again && self.faults.book.knows(&object, failure.id.incarnation.0);
        // The daemon that recorded it may have been killed before it had written the dump.
        if known && dump::is_there(&self.state.crash_dumps(), &failure.id) {
            return;
        }
        if self.closing.contains(&failure.id) {
            self.faults.pending.insert(failure.id.clone(), failure);
        } else {
            self.look_at_failure(failure);
        }
    }

    /// The last output of an instance is in the log.
    pub(super) fn output_closed(&mut self, id: &InstanceId) {
        if let Some(failure) = self.faults.pending.remove(id) {
            self.look_at_failure(failure);
        }
        self.faults.ended(id);
    }

    /// Hands the failure to the thread, or records at once what is known without a closer look.
    fn look_at_failure(&mut self, failure: Box<Failure>) {
        let looked_at = self.faults.quota.take(&failure.id.unit, clock::mono());
        let object = failure.spec.object.to_string();
        let known = failure.again && self.faults.book.knows(&object, failure.id.incarnation.0);
        if known && looked_at.is_none() {
            return;
        }
        let mut case = self.case(failure, looked_at.unwrap_or_default());
        // It is there until it is forgotten, which comes next.
        let cgroups = self.cgroups.as_ref().filter(|_| looked_at.is_some());
        case.known = known;
        case.cgroup = cgroups.and_then(|tree| tree.usage(&case.failure.id));
        let id = case.failure.id.clone();
        let left = match looked_at {
            Some(_) => self.faults.worker.look_at(case).err(),
            None => Some(Box::new(case)),
        };
        if let Some(case) = left {
            if known {
                return;
            }
            let classified = worker::classified(&case, &[]);
            let sighting = worker::sighting(&case, &classified);
            self.record_failure(self.as_last_time(sighting));
        } else {
            self.faults.explaining.insert(id);
        }
    }

    /// Without its last words a failure is taken for the one before, when that ended alike.
    fn as_last_time(&self, sighting: Sighting) -> Sighting {
        match self.faults.book.latest_of(&sighting.unit) {
            Some(known) if known.incarnation.is_some() && known.message.starts_with(&sighting.message) => {
                Sighting {
                    fingerprint: known.fingerprint.clone(),
                    category: known.category,
                    severity: known.severity,
                    message: known.message.clone(),
                    ..sighting
                }
            }
            _ => sighting,
        }
    }

    fn case(&mut self, failure: Box<Failure>, skipped: u64) -> Case {
        let probes = self.faults.probes.remove(&failure.id).unwrap_or_default();
        let threads = self.faults.threads.remove(&failure.id);
        let used = self.faults.used.remove(&failure.id).unwrap_or_default();
        let spec = &failure.spec;
        let own = spec.launch.secrets().map(|var| var.value.as_str());
        Case {
            revision: self.world.revision().0,
            success: failure.end.is_success(&spec.policy),
            probe: failed_probe(&failure, &probes),
            dependency_down: self.dependency_down(spec),
            probes: probes.into(),
            threads: threads_of(&failure, threads),
            samples: used.curve.samples(clock::now()),
            spent: used.spent,
            cgroup: None,
            last_good: self.last_good(&failure),
            nofile: spec.launch.service.resources.nofile.unwrap_or(self.options.nofile.0),
            skipped,
            known: false,
            redactor: self.faults.redactor.with(own),
            patterns: self.faults.patterns.clone(),
            failure,
        }
    }

    fn last_good(&self, failure: &Failure) -> Option<Arc<UnitSpec>> {
        let good = self.faults.last_good.get(&failure.id.unit)?;
        let own = Arc::ptr_eq(&good.spec, &failure.spec);
        if own && failure.ran_for < FRESH { good.before.clone() } else { Some(good.spec.clone()) }
    }

    /// A hard dependency that is not Ready, though nobody stopped it.
    fn dependency_down(&self, spec: &UnitSpec) -> Option<String> {
        let wanted = spec.policy.depends_on.iter();
        let mut wanted = wanted.filter(|edge| !edge.optional && edge.condition == Condition::Ready);
        wanted.find_map(|edge| {
            let unit = self.world.units().get(&edge.name);
            let external = self.world.externals().get(&edge.name);
            match (unit, external) {
                (Some(unit), _) => {
                    let out = ready_count(unit) == 0 && !unit.is_down_on_purpose();
                    out.then(|| unit.spec.object.to_string())
                }
                (None, Some(external)) => (!external.ready).then(|| external.spec.object.to_string()),
                (None, None) => None,
            }
        })
    }

    fn failure_told(&mut self, told: worker::Told) {
        match told {
            worker::Told::Known(known) => self.failure_known(*known),
            worker::Told::Dumped(id) => {
                self.faults.dumps.0 += 1;
                self.faults.dump_failing = false;
                self.explained(&id);
            }
            worker::Told::DumpFailed { id, why } => {
                self.explained(&id);
                let what = id.to_string();
                self.faults.dumps.1 += 1;
                if !std::mem::replace(&mut self.faults.dump_failing, true) {
                    let dir = self.state.crash_dumps();
                    let message =
                        format!("the crash dump of {what} cannot be written to {}: {why}", dir.display());
                    self.note(true, "CrashDumpFailed", "system", message);
                }
            }
        }
    }

    fn failure_known(&mut self, known: worker::Known) {
        let worker::Known { sighting, id, generation, exit, ran_for } = known;
        if let Some(exit) = exit {
            let id = id.clone();
            let event = Event::Classified { id, generation, exit, ran_for, category: sighting.category };
            self.world.handle(clock::now(), event);
        }
        self.record_failure(sighting);
    }

    /// All that is owed of its failure is done, or cannot be.
    fn explained(&mut self, id: &InstanceId) {
        if self.faults.explaining.remove(id) && self.unrecorded.contains(id) {
            self.let_go_once_recorded(id.clone());
        }
    }

    /// What came of its failure is not known yet.
    pub(super) fn is_being_explained(&self, id: &InstanceId) -> bool {
        self.faults.explaining.contains(id)
    }

    /// Something was announced: a failure of its own, perhaps.
    pub(super) fn announced(&mut self, record: &Record) {
        if record.reason == "Ready" {
            self.remember_good(&record.object);
        }
        let happening = Happening {
            warning: record.warning,
            reason: &record.reason,
            object: &record.object,
            message: &record.message,
            id: record.id,
            at: record.at,
            revision: self.world.revision().0,
        };
        let faults = &self.faults;
        let latest = || faults.book.latest_of(&record.object).map(|known| known.category);
        let latest = if record.warning { latest() } else { None };
        if let Some(mut sighting) = events::failure(&happening, latest, &faults.patterns) {
            sighting.message = faults.redactor.text(&sighting.message).into_owned();
            self.record_failure(sighting);
        }
    }

    fn remember_good(&mut self, object: &str) {
        let Some(name) = object.rsplit('/').next().and_then(|name| name.parse::<Name>().ok()) else { return };
        let Some(unit) = self.world.units().get(&name) else { return };
        let ready = unit.slots.values().filter(|slot| slot.is_ready());
        let latest = ready.filter_map(|slot| slot.instance.as_ref()).max_by_key(|i| i.incarnation);
        if let Some(instance) = latest {
            let spec = instance.spec.clone();
            let before = match self.faults.last_good.remove(&name) {
                Some(known) if Arc::ptr_eq(&known.spec, &spec) => known.before,
                Some(known) => Some(known.spec),
                None => None,
            };
            self.faults.last_good.insert(name, Good { spec, before });
        }
    }

    fn record_failure(&mut self, sighting: Sighting) {
        let record = self.faults.book.record(sighting);
        self.faults.notifiers.offer(record);
    }

    /// What changed in the book goes to the store.
    pub(super) fn save_failures(&mut self) {
        if !self.faults.book.has_changes() {
            return;
        }
        let (records, dropped) = self.faults.book.take_changes();
        let body = |record: &ErrorRecord| serde_json::to_string(record).unwrap_or_default();
        self.store.save_errors(records.iter().map(|record| (record.id, body(record))).collect(), dropped);
    }
}

/// What the threads did of one that its watchdog ended, if that was to be kept.
fn threads_of(failure: &Failure, threads: Option<Vec<Thread>>) -> Vec<Thread> {
    let ended = failure.end.reason == EndReason::Stopped(StopReason::Watchdog);
    let watchdog = failure.spec.policy.watchdog.as_deref();
    let kept = watchdog.is_some_and(|policy| policy.on_freeze == OnFreeze::DumpAndRestart);
    threads.filter(|_| ended && kept).unwrap_or_default()
}

/// What the probe said, or the watchdog found, that an instance was stopped for.
fn failed_probe(failure: &Failure, probes: &VecDeque<ProbeSeen>) -> String {
    if let Some(frozen) = &failure.frozen {
        return frozen.message.clone();
    }
    let kind = match failure.end.reason {
        EndReason::Stopped(StopReason::StartupFailed) => ProbeKind::Startup,
        EndReason::Stopped(StopReason::LivenessFailed) => ProbeKind::Liveness,
        _ => return String::new(),
    };
    let last = probes.iter().rev().find(|seen| seen.probe == kind.as_str() && !seen.ok);
    last.map(|seen| seen.message.clone()).unwrap_or_default()
}

//! Whether a program that runs still gets anywhere: by its heartbeat, and without its help by what the kernel shows of it.
//!
//! An idle program and a deadlocked one look alike: both wait, neither uses the processor (measured). So a freeze is a *state*
//! that lasts together with a *demand* that lasts, and only the two together are acted upon:
//!
//! | state, of all its processes | class | demand that is enough to act |
//! | --- | --- | --- |
//! | SIGSTOP | `Stopped` | a connection or input that waits (TCP, UDP, unix), or probes without an answer |
//! | uninterruptible sleep, no progress | `Stuck` | the same |
//! | every thread waits for a lock, no progress | `Deadlock` | the same |
//! | waits for something else, no progress | `Blocked` | probes without an answer |
//! | uses the processor all the time | `Livelock` | probes without an answer, or a queue of connections that only grows and no other sign of life |
//!
//! A demand is one and the same connection that nobody accepts, input that is not read, or question that is not answered; a
//! program that works through a long queue shows none. What is `Blocked` with input waiting may not want to read it now, and
//! what is busy while one connection waits may be at work for another: they are told (`Suspected`), never ended. A queue grows
//! when others come behind a connection that waits on.
//!
//! Sources: sd_notify(3) and sd_watchdog_enabled(3) for the heartbeat; the rest is unisys' own.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::base::{Instant, format_duration};

use super::habits::{Pace, Rhythm, whole};
use super::look::state_words;
pub use super::look::{Class, Look, Threads, Work, WorkKind};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFreeze {
    Alert,
    Restart,
    DumpAndRestart,
}

/// manifest.md, `watchdog`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchdogPolicy {
    /// WATCHDOG=1 is expected within this time, again and again.
    pub heartbeat: Option<Duration>,
    /// Frozen this long, it is told.
    pub soft: Option<Duration>,
    /// Frozen this long, it is acted upon.
    pub hard: Option<Duration>,
    pub on_freeze: OnFreeze,
}

impl WatchdogPolicy {
    /// It is looked at without its help.
    pub fn looks(&self) -> bool {
        self.period().is_some()
    }

    /// Frozen or silent this long, it is told.
    fn first(&self) -> Duration {
        self.soft.or(self.hard).unwrap_or(Duration::MAX)
    }

    /// How often it is looked at; `None`: nobody asked for that.
    fn period(&self) -> Option<Duration> {
        let shortest = self.soft.into_iter().chain(self.hard).min()?;
        Some((shortest / LOOKS).clamp(Duration::from_millis(100), Duration::from_secs(10)))
    }
}

/// Looks within the shorter of `soft` and `hard`.
const LOOKS: u32 = 6;
/// Below this share of one processor a program makes no progress: runtimes wake up now and then by themselves.
const STILL: f64 = 0.001;
/// From this share of one processor on that it uses or waits for, it is busy.
const BUSY: f64 = 0.5;

/// A look that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// What waits for it is wanted too.
    pub work: bool,
    /// Each thread is wanted, for a person to read.
    pub closely: bool,
}

/// What is wrong with an instance that has not been acted upon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// A class, `Suspected`, or `SlowProbes`.
    pub reason: &'static str,
    pub message: String,
}

/// What a look changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sight {
    Nothing,
    /// From now on something is wrong, or something else.
    Degraded(Finding),
    /// It is well again.
    Well,
    /// To be ended.
    Frozen(Finding),
}

/// The watch over one instance, from when it is through its probes to the beginning of its stop.
#[derive(Clone, Debug)]
pub struct Vigil {
    policy: WatchdogPolicy,
    beat: Option<Beat>,
    /// When it is looked at next; `NEVER` while a look is under way.
    next: Instant,
    /// The next look is to be a close one.
    closely: bool,
    /// When it was looked at last, its `cpu` and its `wanted` then.
    last: Option<(Instant, Duration, Duration)>,
    still: Option<Instant>,
    busy: Option<Instant>,
    stopped: Option<Instant>,
    stuck: Option<Instant>,
    locked: Option<Instant>,
    work: BTreeMap<u64, Waiting>,
    /// When a connection that waited was seen to wait no more.
    accepted: Instant,
    /// Since when its probes have had no answer at all.
    unanswered: Option<Instant>,
    /// When it last gave an answer or a heartbeat of its own: whatever waits, it gets on.
    alive: Instant,
    pace: Pace,
    rhythm: Rhythm,
    standing: Option<Finding>,
}

#[derive(Clone, Copy, Debug)]
struct Beat {
    within: Duration,
    due: Instant,
    missed: Option<Missed>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missed {
    /// It was silent for too long.
    Silent,
    /// It said `WATCHDOG=trigger`.
    Told,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    since: Instant,
    kind: WorkKind,
    amount: u32,
}

impl Vigil {
    pub fn new(policy: WatchdogPolicy, now: Instant) -> Self {
        Self {
            policy,
            beat: policy.heartbeat.map(|within| Beat { within, due: now + within, missed: None }),
            next: policy.period().map_or(Instant::NEVER, |period| now + period),
            closely: false,
            last: None,
            still: None,
            busy: None,
            stopped: None,
            stuck: None,
            locked: None,
            work: BTreeMap::new(),
            accepted: now,
            unanswered: None,
            alive: Instant::default(),
            pace: Pace::default(),
            rhythm: Rhythm::default(),
            standing: None,
        }
    }

    pub fn policy(&self) -> &WatchdogPolicy {
        &self.policy
    }

    /// What is wrong with it.
    pub fn finding(&self) -> Option<&Finding> {
        self.standing.as_ref()
    }

    /// When [`Self::due`] is wanted.
    pub fn deadline(&self) -> Option<Instant> {
        let beat = self.beat.map_or(Instant::NEVER, |beat| beat.due);
        Some(beat.min(self.next)).filter(|at| *at != Instant::NEVER)
    }

    /// The look that is due. A heartbeat that was missed is followed by a close look, so that it is known what the program did
    /// instead; one that comes before the look is through has come in time.
    pub fn due(&mut self, now: Instant) -> Option<Ask> {
        if let Some(beat) = self.beat.as_mut().filter(|beat| beat.due <= now) {
            beat.due = Instant::NEVER;
            beat.missed.get_or_insert(Missed::Silent);
            self.next = Instant::NEVER;
            return Some(Ask { work: true, closely: true });
        }
        if self.next > now {
            return None;
        }
        self.next = Instant::NEVER;
        let closely = std::mem::take(&mut self.closely);
        // A program that gets on needs no look at what waits for it.
        let halted = [self.still, self.stopped, self.stuck].iter().any(Option::is_some);
        let work = closely || halted || self.busy.is_some();
        Some(Ask { work, closely })
    }

    /// `WATCHDOG=1`.
    pub fn beat(&mut self, now: Instant) -> Sight {
        self.alive = now;
        let Some(beat) = self.beat.as_mut().filter(|beat| beat.missed != Some(Missed::Told)) else {
            return Sight::Nothing;
        };
        beat.due = now + beat.within;
        match beat.missed.take() {
            Some(_) => self.stand(None),
            None => Sight::Nothing,
        }
    }

    /// `WATCHDOG=trigger`: the program itself says that it is not well.
    pub fn trigger(&mut self, now: Instant) {
        let within = self.beat.map_or(Duration::MAX, |beat| beat.within);
        self.beat = Some(Beat { within, due: now, missed: Some(Missed::Told) });
    }

    /// `WATCHDOG_USEC=`: another interval from now on.
    pub fn expect(&mut self, within: Duration, now: Instant) {
        if let Some(beat) = self.beat.as_mut().filter(|beat| beat.missed != Some(Missed::Told)) {
            *beat = Beat { within, due: now + within, missed: None };
        }
    }

    /// Heartbeats count from the first one on that is heard: silence before it says nothing.
    pub fn await_first(&mut self) {
        if let Some(beat) = self.beat.as_mut().filter(|beat| beat.missed.is_none()) {
            beat.due = Instant::NEVER;
        }
    }

    /// `EXTEND_TIMEOUT_USEC=`: the next heartbeat may come as late as this.
    pub fn extend(&mut self, until: Instant) {
        if let Some(beat) = self.beat.as_mut().filter(|beat| beat.missed.is_none()) {
            beat.due = beat.due.max(until);
        }
    }

    /// A probe was answered that the program itself has to answer.
    pub fn answered(&mut self, now: Instant) {
        self.alive = now;
    }

    /// A probe that was asked at `asked` was answered, whatever the answer, or was not.
    pub fn probed(&mut self, answered: bool, asked: Instant, now: Instant) {
        if answered {
            self.unanswered = None;
            self.pace.answered(now.since(asked));
        } else {
            self.unanswered.get_or_insert(asked);
        }
    }

    /// What a look showed; `None`: nothing could be seen.
    pub fn seen(&mut self, look: Option<&Look>, closely: bool, now: Instant) -> Sight {
        let policy = self.policy;
        self.next = policy.period().map_or(Instant::NEVER, |period| now + period);
        if let Some(look) = look {
            self.take_in(look, now);
        }
        // One that was under way already says less than the close one that follows.
        if let Some(missed) = self.beat.and_then(|beat| beat.missed).filter(|_| closely) {
            return self.missed(missed, look, now);
        }
        let Some(frozen) = self.frozen(look, now) else {
            let period = policy.period().unwrap_or_default();
            let slow = self.rhythm.silent(now, policy.first(), period).or_else(|| self.pace.slow());
            return self.stand(slow);
        };
        let long = |limit: Option<Duration>| limit.is_some_and(|limit| frozen.lasts >= limit);
        if frozen.is_proven && long(policy.hard) && policy.on_freeze != OnFreeze::Alert {
            if closely {
                return Sight::Frozen(frozen.finding());
            }
            (self.next, self.closely) = (now, true);
        }
        let told = long(policy.soft) || long(policy.hard);
        self.stand(told.then(|| frozen.finding()))
    }

    /// No heartbeat: what it does instead is seen in the threads of this moment.
    fn missed(&mut self, missed: Missed, look: Option<&Look>, now: Instant) -> Sight {
        let debugged = look.is_some_and(|look| look.threads.traced > 0);
        if let Some(beat) = self.beat.as_mut().filter(|_| debugged) {
            (beat.due, beat.missed) = (now + beat.within, None);
            return Sight::Nothing;
        }
        let what = match missed {
            Missed::Silent => {
                let within = self.beat.map(|beat| beat.within).unwrap_or_default();
                format!("sent no WATCHDOG=1 within {}", format_duration(within))
            }
            Missed::Told => "said WATCHDOG=trigger".to_owned(),
        };
        // Who just said something has been running for that: what it does from now on is not known.
        let speaks = |look: &&Look| missed == Missed::Told && look.threads.running > 0;
        let doing = look.filter(|look| !speaks(look)).map(|look| {
            let class = match look.threads {
                threads if threads.running > 0 => Class::Livelock,
                threads if threads.stopped > 0 => Class::Stopped,
                threads if threads.uninterruptible > 0 => Class::Stuck,
                threads if threads.are_locked() => Class::Deadlock,
                _ => Class::Blocked,
            };
            (class, format!(": {}", state_words(class, look)))
        });
        let (class, doing) = doing.map_or((None, String::new()), |(class, words)| (Some(class), words));
        let reason = class.map_or("Watchdog", Class::as_str);
        let finding = Finding { reason, message: format!("{what}{doing}") };
        if self.policy.on_freeze == OnFreeze::Alert {
            // Its next one ends it.
            if let Some(beat) = self.beat.as_mut() {
                beat.missed = Some(Missed::Silent);
            }
            return self.stand(Some(finding));
        }
        Sight::Frozen(finding)
    }

    fn take_in(&mut self, look: &Look, now: Instant) {
        let since = |holds: bool, known: &mut Option<Instant>, from: Instant| match holds {
            true => drop(known.get_or_insert(from)),
            false => *known = None,
        };
        let threads = look.threads;
        // Who debugs it knows.
        let watched = threads.traced > 0;
        // Right after another look, a share of so short a time says nothing: the kernel accounts by its ticks.
        let short = self.policy.period().unwrap_or_default() / 2;
        let fresh = self.last.is_some_and(|(at, ..)| now.since(at) < short);
        if let Some((at, cpu, wanted)) = self.last.filter(|_| !fresh) {
            let time = now.since(at).as_secs_f64().max(1e-6);
            // Less than before: a thread has ended, which is progress of its own.
            let share = |now: Duration, before| now.checked_sub(before).map(|used| used.as_secs_f64() / time);
            let (used, wanted) = (share(look.cpu, cpu), share(look.wanted, wanted));
            since(!watched && used.is_some_and(|share| share < STILL), &mut self.still, at);
            since(!watched && wanted.is_some_and(|share| share >= BUSY), &mut self.busy, at);
        }
        if !fresh {
            self.last = Some((now, look.cpu, look.wanted));
        }
        since(!watched && threads.all(threads.stopped), &mut self.stopped, now);
        let stuck = threads.uninterruptible > 0 && threads.running == 0;
        since(!watched && stuck && self.still.is_some(), &mut self.stuck, now);
        since(!watched && threads.are_locked(), &mut self.locked, now);
        let known = std::mem::take(&mut self.work);
        for work in look.work.iter().flatten() {
            // Input of which some was read is not the same input.
            let same = known.get(&work.id).filter(|old| old.kind == work.kind && old.amount <= work.amount);
            let since = same.map_or(now, |old| old.since);
            self.work.insert(work.id, Waiting { since, kind: work.kind, amount: work.amount });
        }
        let is_gone = |(id, waiting): (&u64, &Waiting)| {
            waiting.kind == WorkKind::Connection && !self.work.contains_key(id)
        };
        if look.work.is_some() && known.iter().any(is_gone) {
            self.accepted = now;
        }
        if let Some(written) = look.written.filter(|_| !fresh) {
            self.rhythm.wrote(written);
        }
        if let (Some(quiet), Some(period)) = (look.quiet, self.policy.period()) {
            self.rhythm.heard(Instant(now.0.saturating_sub(quiet.as_nanos() as u64)), period);
        }
    }

    fn frozen(&self, look: Option<&Look>, now: Instant) -> Option<Frozen> {
        let (class, since) = match self {
            Self { stopped: Some(at), .. } => (Class::Stopped, *at),
            Self { stuck: Some(at), .. } => (Class::Stuck, *at),
            Self { still: Some(still), locked: Some(at), .. } => (Class::Deadlock, (*at).max(*still)),
            Self { still: Some(at), .. } => (Class::Blocked, *at),
            Self { busy: Some(at), .. } => (Class::Livelock, *at),
            _ => return None,
        };
        let asked = self.unanswered.map(|at| (at, "its probes have had no answer".to_owned()));
        let waits = self.waits(class);
        let words = look.map(|look| state_words(class, look)).unwrap_or_default();
        let second = match class {
            Class::Blocked => None,
            // Until it has grown for long enough, the connection that waits is what is told.
            Class::Livelock => {
                self.growing().filter(|(at, _)| now.since(since.max(*at)) >= self.policy.first())
            }
            Class::Stopped | Class::Stuck | Class::Deadlock => waits.clone(),
        };
        let proof = [asked, second].into_iter().flatten().min_by_key(|(at, _)| *at);
        let is_proven = proof.is_some();
        let demand = match (proof, class) {
            (Some(proof), _) => Some(proof),
            (None, Class::Blocked | Class::Livelock) => Some(waits?),
            (None, Class::Stopped | Class::Stuck) => None,
            // Idle.
            (None, Class::Deadlock) => return None,
        };
        let from = demand.as_ref().map_or(since, |(at, _)| since.max(*at));
        let reserve = match class {
            _ if is_proven => "",
            Class::Livelock => "; it may be at work for somebody else",
            _ => "; it may wait for something else first",
        };
        let message = match demand {
            Some((at, what)) => {
                format!("{words}, and {what} for {}{reserve}", format_duration(whole(now.since(at))))
            }
            None => format!(
                "{words} since {} ago; nothing waits for it",
                format_duration(whole(now.since(since)))
            ),
        };
        Some(Frozen { class, is_proven, lasts: now.since(from), message })
    }

    /// What waits, and since when.
    fn waits(&self, class: Class) -> Option<(Instant, String)> {
        // Who is busy and accepts others first gets on.
        let accepted = if class == Class::Livelock { self.accepted } else { Instant::default() };
        let since = |waiting: &Waiting| match waiting.kind {
            WorkKind::Connection => waiting.since.max(accepted),
            WorkKind::Input => waiting.since,
        };
        let longest = self.work.values().min_by_key(|waiting| since(waiting))?;
        let what = match longest.kind {
            WorkKind::Connection => "a connection has not been accepted",
            WorkKind::Input => "what it was sent has not been read",
        };
        Some((since(longest), what.to_owned()))
    }

    /// Connections of which none is accepted and the first has waited since before the others came: since when that is so, without
    /// a sign of life. One that is at its limit of connections lets others wait, and is well.
    fn growing(&self) -> Option<(Instant, String)> {
        let queue = || self.work.values().filter(|waiting| waiting.kind == WorkKind::Connection);
        let first = queue().map(|waiting| waiting.since).min()?;
        let grown = queue().map(|waiting| waiting.since).filter(|since| *since > first).min()?;
        Some((
            grown.max(self.accepted).max(self.alive),
            format!("a queue of connections that it does not accept (now {}) has grown", queue().count()),
        ))
    }

    /// What is wrong becomes this; said when it is not what it was.
    fn stand(&mut self, finding: Option<Finding>) -> Sight {
        let before = self.standing.as_ref().map(|finding| finding.reason);
        let after = finding.as_ref().map(|finding| finding.reason);
        self.standing = finding;
        match &self.standing {
            _ if before == after => Sight::Nothing,
            Some(finding) => Sight::Degraded(finding.clone()),
            None => Sight::Well,
        }
    }
}

struct Frozen {
    class: Class,
    is_proven: bool,
    lasts: Duration,
    message: String,
}

impl Frozen {
    fn finding(&self) -> Finding {
        let reason = if self.is_proven { self.class.as_str() } else { "Suspected" };
        Finding { reason, message: self.message.clone() }
    }
}

#[cfg(test)]
#[path = "watchdog_tests.rs"]
mod tests;

//! The progress of one rollout.

use std::time::Duration;

use crate::base::{Generation, InstanceId, Instant, Revision, Stamp};
use crate::unit::{Strategy, UpdatePolicy};

/// Crashes of new instances that end a rollout (issue: "the third crash ends it at once").
pub(crate) const CRASHES: u32 = 3;

/// From one version of a unit to the next.
#[derive(Clone, Debug, PartialEq)]
pub struct Rollout {
    /// The revision that changed the unit.
    pub revision: Revision,
    /// What it comes from: the version that was good; none at the first deployment, or for one that never was well.
    pub from: Option<Generation>,
    pub to: Generation,
    pub phase: Phase,
    pub began: Stamp,
    pub ended: Option<Stamp>,
    /// The history knows how it ended.
    pub recorded: bool,
    /// It fails unless it gets further until then; absent while it waits, is paused or holds.
    pub deadline: Option<Instant>,
    /// Failures of new instances.
    pub crashes: u32,
    /// The most new instances that were available at once: more is progress.
    furthest: u32,
    /// The canaries have been available since.
    pub holding_since: Option<Instant>,
    /// The canaries were found well; always, for other strategies.
    pub promoted: bool,
    /// It leads back to what was known to be good: nothing of that is on trial, and nothing takes its place.
    pub proved: bool,
    /// Why a first deployment has failed. There is nothing to go back to: it goes on by its restart policy, and may get well.
    pub unwell: Option<Box<Failure>>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Phase {
    Progressing,
    /// Everything new is available and nothing old is left. Until then, new crashes still end it.
    Complete {
        probation: Instant,
    },
    /// It failed; what was good takes its place again.
    RollingBack(Box<Failure>),
    RolledBack(Box<Failure>),
    /// It failed and stays as it is: `autoRollback: false`, or there is nothing to go back to.
    Failed(Box<Failure>),
}

/// How far a rollout has got, for the next daemon: one that dies every minute must not give a bad version time without end.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Progress {
    pub to: Generation,
    pub deadline: Option<Instant>,
    pub crashes: u32,
    pub furthest: u32,
    pub holding_since: Option<Instant>,
    pub promoted: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub proved: bool,
}

/// When a rollout was, for the next daemon: the same one is not told twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Span {
    pub to: Generation,
    pub began: Stamp,
    pub ended: Option<Stamp>,
    pub recorded: bool,
}

/// Why a rollout failed.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Failure {
    /// CamelCase: `ProgressDeadlineExceeded`, `CrashLoop`, `PermanentFailure`, `ProbeFailed`, `CannotStart`, `Sibling`, `Undone`.
    pub reason: String,
    /// A sentence's end.
    pub message: String,
    pub instance: Option<InstanceId>,
    /// The last lines that the failing instance wrote.
    #[serde(default)]
    pub lines: Vec<String>,
    pub at: Stamp,
}

/// What is seen of a unit's instances.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub replicas: u32,
    /// Instances of the wanted version that are available, serving or incoming.
    pub available: u32,
    /// Nothing but available instances of the wanted version is there, each in its place.
    pub settled: bool,
    /// Something of the new version has been started.
    pub started: bool,
    /// Its steps may be taken: it is wanted, not paused, and waits for no other unit.
    pub running: bool,
}

/// What became of a rollout at a look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    Nothing,
    /// It holds, waiting for somebody's word or its time.
    Holds,
    Promoted,
    Completed,
    /// It is back at what was good.
    WentBack,
    DeadlineExceeded,
}

impl Rollout {
    pub fn begin(
        revision: Revision,
        from: Option<Generation>,
        to: Generation,
        update: &UpdatePolicy,
        began: Stamp,
    ) -> Self {
        Self {
            revision,
            from,
            to,
            phase: Phase::Progressing,
            began,
            ended: None,
            recorded: false,
            deadline: None,
            crashes: 0,
            furthest: 0,
            holding_since: None,
            promoted: !matches!(update.strategy, Strategy::Canary(_)) || from.is_none(),
            proved: false,
            unwell: None,
        }
    }

    /// One that was over before this daemon began; when that was is told by [`Self::recall`].
    pub fn complete(revision: Revision, generation: Generation, began: Stamp) -> Self {
        Self {
            revision,
            from: None,
            to: generation,
            phase: Phase::Complete { probation: Instant::default() },
            began,
            ended: Some(began),
            recorded: true,
            deadline: None,
            crashes: 0,
            furthest: 0,
            holding_since: None,
            promoted: true,
            proved: false,
            unwell: None,
        }
    }

    pub fn span(&self) -> Span {
        Span { to: self.to, began: self.began, ended: self.ended, recorded: self.recorded }
    }

    /// It is the one that an earlier daemon knew, if it leads to the same version.
    pub fn recall(&mut self, span: &Span) -> bool {
        let same = span.to == self.to;
        if same {
            (self.began, self.ended, self.recorded) = (span.began, span.ended, span.recorded);
        }
        same
    }

    pub fn progress(&self) -> Option<Progress> {
        matches!(self.phase, Phase::Progressing).then_some(Progress {
            to: self.to,
            deadline: self.deadline,
            crashes: self.crashes,
            furthest: self.furthest,
            holding_since: self.holding_since,
            promoted: self.promoted,
            proved: self.proved,
        })
    }

    /// Goes on where an earlier daemon was, if it is the same rollout. The clock may have begun anew with the machine: nothing
    /// is later than it can be.
    pub fn resume(&mut self, progress: &Progress, update: &UpdatePolicy, now: Instant) {
        if progress.to == self.to && matches!(self.phase, Phase::Progressing) {
            self.deadline = progress.deadline.map(|at| at.min(now + update.progress_deadline));
            self.crashes = progress.crashes;
            self.furthest = progress.furthest;
            self.holding_since = progress.holding_since.filter(|since| *since <= now);
            (self.promoted, self.proved) = (progress.promoted, progress.proved);
        }
    }

    /// New instances are on their way in.
    pub fn is_active(&self) -> bool {
        matches!(self.phase, Phase::Progressing | Phase::RollingBack(_))
    }

    /// It is on its way to what was good before, of which nothing has to be proved.
    pub fn goes_back(&self) -> bool {
        matches!(self.phase, Phase::RollingBack(_))
    }

    pub fn is_complete(&self) -> bool {
        matches!(self.phase, Phase::Complete { .. })
    }

    /// A failing new instance would end it.
    pub fn on_trial(&self, now: Instant) -> bool {
        match self.phase {
            Phase::Progressing => !self.proved,
            Phase::Complete { probation } => now < probation,
            _ => false,
        }
    }

    /// Until when it is complete on trial.
    pub fn probation(&self) -> Option<Instant> {
        match self.phase {
            Phase::Complete { probation } => Some(probation),
            _ => None,
        }
    }

    pub fn failure(&self) -> Option<&Failure> {
        match &self.phase {
            Phase::RollingBack(failure) | Phase::RolledBack(failure) | Phase::Failed(failure) => {
                Some(failure)
            }
            Phase::Progressing | Phase::Complete { .. } => self.unwell.as_deref(),
        }
    }

    /// As in `rollout.state`.
    pub fn word(&self, paused: bool) -> &'static str {
        match self.phase {
            Phase::Progressing | Phase::Complete { .. } if self.unwell.is_some() => "Failed",
            Phase::Progressing if paused => "Paused",
            Phase::Progressing if self.holding_since.is_some() && !self.promoted => "Holding",
            Phase::Progressing => "Progressing",
            Phase::Complete { .. } => "Complete",
            Phase::RollingBack(_) => "RollingBack",
            Phase::RolledBack(_) => "RolledBack",
            Phase::Failed(_) => "Failed",
        }
    }

    /// A new instance failed. True when that was one too many.
    pub fn crashed(&mut self) -> bool {
        self.crashes += 1;
        self.crashes >= CRASHES
    }

    /// Looks at the instances again.
    pub fn look(&mut self, update: &UpdatePolicy, counts: Counts, now: Instant) -> Turn {
        match self.phase {
            Phase::Progressing => self.go_on(update, counts, now),
            Phase::RollingBack(ref failure) if counts.settled => {
                self.phase = Phase::RolledBack(failure.clone());
                Turn::WentBack
            }
            _ => Turn::Nothing,
        }
    }

    fn go_on(&mut self, update: &UpdatePolicy, counts: Counts, now: Instant) -> Turn {
        if counts.settled {
            let trial = if self.proved { Duration::ZERO } else { update.progress_deadline };
            self.phase = Phase::Complete { probation: now + trial };
            self.deadline = None;
            return Turn::Completed;
        }
        if !counts.running {
            self.suspend();
            return Turn::Nothing;
        }
        if let Some(turn) = self.hold(update, counts, now) {
            return turn;
        }
        let further = counts.available > self.furthest;
        self.furthest = self.furthest.max(counts.available);
        // What is known to be good follows its restart policy for as long as it takes.
        if self.unwell.is_none() && !self.proved && counts.started && (further || self.deadline.is_none()) {
            self.deadline = Some(now + update.progress_deadline);
        }
        match self.deadline {
            Some(at) if at <= now => Turn::DeadlineExceeded,
            _ => Turn::Nothing,
        }
    }

    /// Its clocks stop: it is paused, or the unit is not to run.
    pub fn suspend(&mut self) {
        self.deadline = None;
        self.holding_since = None;
    }

    /// Canaries that are all available are looked at for a while.
    fn hold(&mut self, update: &UpdatePolicy, counts: Counts, now: Instant) -> Option<Turn> {
        let Strategy::Canary(canary) = update.strategy else { return None };
        if self.promoted {
            return None;
        }
        if counts.available < canary.count(counts.replicas) {
            self.holding_since = None;
            return None;
        }
        self.deadline = None;
        let fresh = self.holding_since.is_none();
        let since = *self.holding_since.get_or_insert(now);
        if canary.auto_promote && now.since(since) >= canary.hold {
            self.promote(update, now);
            return Some(Turn::Promoted);
        }
        Some(if fresh { Turn::Holds } else { Turn::Nothing })
    }

    /// The canaries are well: the rest follows.
    pub fn promote(&mut self, update: &UpdatePolicy, now: Instant) {
        self.promoted = true;
        self.holding_since = None;
        self.deadline = Some(now + update.progress_deadline).filter(|_| !self.proved);
    }

    /// When [`Self::look`] is wanted though nothing happened.
    pub fn due(&self, update: &UpdatePolicy) -> Option<Instant> {
        if !matches!(self.phase, Phase::Progressing) {
            return None;
        }
        let hold = match (update.strategy, self.holding_since) {
            (Strategy::Canary(canary), Some(since)) if canary.auto_promote => Some(since + canary.hold),
            _ => None,
        };
        [self.deadline, hold].into_iter().flatten().min()
    }
}

/// How long a rollout took, for its history.
pub fn duration(began: Stamp, ended: Stamp) -> Duration {
    Duration::from_millis(u64::try_from(ended.0 - began.0).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unit::{CanaryPolicy, CanaryShare, Policy};

    const SECOND: Duration = Duration::from_secs(1);

    fn counts(available: u32, started: bool) -> Counts {
        Counts { replicas: 3, available, settled: available == 3, started, running: true }
    }

    fn rollout(update: &UpdatePolicy) -> Rollout {
        Rollout::begin(Revision(7), Some(Generation(1)), Generation(2), update, Stamp(0))
    }

    #[test]
    fn the_deadline_begins_with_the_first_start_and_every_step_forward_renews_it() {
        let update = Policy::plain().update;
        let mut roll = rollout(&update);
        let at = |seconds: u64| Instant(0) + SECOND * seconds as u32;
        assert_eq!(roll.look(&update, counts(0, false), at(500)), Turn::Nothing);
        assert_eq!(roll.due(&update), None, "nothing has been started");
        roll.look(&update, counts(0, true), at(500));
        assert_eq!(roll.due(&update), Some(at(560)));
        roll.look(&update, counts(1, true), at(550));
        assert_eq!(roll.due(&update), Some(at(610)));
        // Lost and found again is no progress.
        roll.look(&update, counts(0, true), at(560));
        roll.look(&update, counts(1, true), at(570));
        assert_eq!(roll.look(&update, counts(1, true), at(610)), Turn::DeadlineExceeded);
    }

    #[test]
    fn it_is_complete_when_nothing_old_is_left_and_stays_on_trial_for_a_while() {
        let update = Policy::plain().update;
        let mut roll = rollout(&update);
        assert_eq!(roll.look(&update, counts(3, true), Instant(5)), Turn::Completed);
        assert!(roll.on_trial(Instant(6)) && !roll.on_trial(Instant(5) + SECOND * 61));
        assert_eq!([roll.crashed(), roll.crashed(), roll.crashed()], [false, false, true]);
    }

    #[test]
    fn canaries_hold_until_their_time_or_somebodys_word() {
        let canary =
            |auto_promote| CanaryPolicy { share: CanaryShare::Replicas(1), hold: SECOND, auto_promote };
        for auto in [true, false] {
            let update = UpdatePolicy { strategy: Strategy::Canary(canary(auto)), ..Policy::plain().update };
            let mut roll = rollout(&update);
            roll.look(&update, counts(0, true), Instant(0));
            assert_eq!(roll.look(&update, counts(1, true), Instant(0)), Turn::Holds);
            assert_eq!(roll.word(false), "Holding");
            let expected = if auto { Turn::Promoted } else { Turn::Nothing };
            assert_eq!(roll.look(&update, counts(1, true), Instant(0) + SECOND), expected);
        }
    }

    #[test]
    fn the_next_daemon_goes_on_with_what_is_left_of_the_deadline() {
        let update = Policy::plain().update;
        let at = |seconds: u64| Instant(0) + SECOND * seconds as u32;
        let mut first = rollout(&update);
        first.look(&update, counts(1, true), at(500));
        first.crashed();
        let progress = first.progress().unwrap();
        let resumed = |progress: &Progress, now| {
            let mut next = rollout(&update);
            next.resume(progress, &update, now);
            next
        };
        let mut next = resumed(&progress, at(550));
        // Instances that were there already are no progress.
        assert_eq!(next.look(&update, counts(1, true), at(550)), Turn::Nothing);
        assert_eq!(next.due(&update), Some(at(560)));
        assert_eq!([next.crashed(), next.crashed()], [false, true]);
        // The machine was started again since, and its clock with it.
        assert_eq!(resumed(&progress, at(3)).due(&update), Some(at(63)));
        let other = Progress { to: Generation(9), ..progress };
        assert_eq!(resumed(&other, at(550)).due(&update), None, "another rollout's");
    }

    #[test]
    fn the_next_daemon_knows_when_it_was() {
        let update = Policy::plain().update;
        let mut first = rollout(&update);
        (first.ended, first.recorded) = (Some(Stamp(7)), true);
        let mut next = Rollout::begin(Revision(7), None, Generation(2), &update, Stamp(100));
        assert!(next.recall(&first.span()));
        assert_eq!((next.began, next.ended, next.recorded), (Stamp(0), Some(Stamp(7)), true));
        let mut other = Rollout::begin(Revision(8), None, Generation(3), &update, Stamp(100));
        assert!(!other.recall(&first.span()) && other.began == Stamp(100));
    }

    #[test]
    fn a_pause_stops_the_clock() {
        let update = Policy::plain().update;
        let mut roll = rollout(&update);
        roll.look(&update, counts(0, true), Instant(0));
        roll.look(&update, Counts { running: false, ..counts(0, true) }, Instant(1));
        assert_eq!(roll.due(&update), None);
    }
}

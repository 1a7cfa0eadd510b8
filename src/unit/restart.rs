//! What follows the end of an instance: again, later, never.

use std::time::Duration;

use crate::base::{Exit, Instant, Rng, SpawnStage, limits};

use super::lifecycle::{End, EndReason, StopReason};
use super::policy::{Policy, RestartWhen};

/// Somebody else has the address (bind(2)).
pub const EADDRINUSE: i32 = 98;

/// What one ordinal remembers from start to start.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RestartState {
    /// Failures in a row; the exponent of the next backoff.
    pub attempt: u32,
    /// Automatic restarts of this ordinal, ever.
    pub restarts: u32,
    /// The next start is one.
    pub again: bool,
    /// How long the last one ran.
    pub lasted: Duration,
    /// How it ended when it last failed at its start for an error of its configuration.
    pub misconfigured: Option<Exit>,
    /// The one that ended last had passed a probe for its start: it was configured well enough for that, whatever its last words.
    pub answered: bool,
}

/// Where an ended ordinal goes.
#[derive(Clone, Debug, PartialEq)]
pub enum AfterEnd {
    /// It was stopped on purpose; the plan knows whether something follows.
    Idle,
    RestartAt(Instant),
    Done(Exit),
    Failed(EndReason),
}

impl End {
    /// It ended well: by itself, with a code that means success, or by a signal that a well-behaved program dies of when
    /// asked to (systemd.service(5), "clean exit": SIGHUP, SIGINT, SIGTERM, SIGPIPE).
    pub fn is_success(&self, policy: &Policy) -> bool {
        match (&self.reason, self.exit) {
            (EndReason::Exited, Some(Exit::Code(code))) => is_among(code, &policy.restart.success_exit_codes),
            (EndReason::Exited, Some(Exit::Signal { signal, .. })) => {
                !policy.job && matches!(signal, 1 | 2 | 13 | 15)
            }
            _ => false,
        }
    }

    /// It ended by itself and had hardly begun.
    pub fn failed_at_start(&self, policy: &Policy, now: Instant) -> bool {
        self.reason == EndReason::Exited && self.ran_for(now) < policy.start_failure()
    }

    /// What it is to execute, or where, was not there.
    pub fn is_want_of_program(&self) -> bool {
        const ENOENT: i32 = 2;
        matches!(self.reason, EndReason::SpawnFailed { errno: ENOENT, .. }) && self.reason.is_of_program()
    }

    /// The machine had no process, memory or descriptor left for it, or somebody else its port: nothing that the program is to
    /// blame for.
    pub fn is_want_of_resources(&self) -> bool {
        const EAGAIN: i32 = 11;
        const ENOMEM: i32 = 12;
        const ENFILE: i32 = 23;
        const EMFILE: i32 = 24;
        match self.reason {
            EndReason::SpawnFailed { stage: SpawnStage::Listeners, errno: EADDRINUSE, .. } => true,
            EndReason::SpawnFailed { errno, .. } => matches!(errno, EAGAIN | ENOMEM | ENFILE | EMFILE),
            _ => false,
        }
    }

    /// Nobody asked for this end: it counts as a failure for backoff and breaker. What ended well did what it is for; unless it is
    /// to run always, and has not even been `available`, or was sent a signal by somebody.
    pub fn is_failure(&self, policy: &Policy, available: bool) -> bool {
        match self.reason {
            EndReason::Stopped(StopReason::Unwanted | StopReason::Replaced) | EndReason::Rebooted => false,
            EndReason::Exited if self.is_success(policy) => {
                let to_run = !policy.job && policy.restart.when == RestartWhen::Always;
                to_run && !(available && matches!(self.exit, Some(Exit::Code(_))))
            }
            _ => true,
        }
    }
}

impl RestartState {
    /// A failure was looked at closely: `exit` came of an error of the configuration, which no further start mends.
    ///
    /// One start more is allowed all the same, since what was wrong may have been a file that was just being written.
    /// When that one ends alike, nothing is started until something changes.
    pub fn is_misconfigured(&mut self, exit: Exit) {
        // A series that somebody's change or order began anew is not judged by what was before.
        if self.attempt > 0 && !self.answered {
            self.misconfigured = Some(exit);
        }
    }

    /// How long one has to run to be taken for one that stays: after a crash, longer than the one before it did; without a
    /// probe that could tell, as long as it takes a program to fail at once.
    pub fn proof(&self, policy: &Policy) -> Duration {
        let min_ready = policy.update.min_ready;
        match self.attempt {
            0 if policy.is_seen_to_start() => Duration::ZERO,
            0 => min_ready.min(limits::SETTLED),
            _ => self.lasted.saturating_mul(2).min(limits::LONGEST_PROOF).max(min_ready),
        }
    }

    /// Decides what follows `end`. The jitter comes from `rng`.
    pub fn after_end(
        &mut self,
        policy: &Policy,
        end: &End,
        failure: bool,
        now: Instant,
        rng: &mut Rng,
    ) -> AfterEnd {
        if !failure {
            self.attempt = 0;
        }
        let after = self.follow(policy, end, now, rng);
        self.lasted = end.ran_for(now);
        self.again = matches!(after, AfterEnd::RestartAt(_));
        after
    }

    fn follow(&mut self, policy: &Policy, end: &End, now: Instant, rng: &mut Rng) -> AfterEnd {
        if end.ran_for(now) >= policy.restart.reset_after {
            self.attempt = 0;
        }
        if let EndReason::Stopped(StopReason::Unwanted | StopReason::Replaced) | EndReason::Rebooted =
            end.reason
        {
            return AfterEnd::Idle;
        }
        if let EndReason::SpawnFailed { stage, errno, .. } = &end.reason
            && is_permanent(*stage, *errno)
        {
            return AfterEnd::Failed(end.reason.clone());
        }
        if let Some(Exit::Code(code)) = end.exit
            && is_among(code, &policy.restart.permanent_exit_codes)
        {
            return AfterEnd::Failed(end.reason.clone());
        }
        let at_start = end.failed_at_start(policy, now) && !self.answered;
        let as_before = end.exit.is_some() && end.exit == self.misconfigured;
        if at_start && as_before && self.attempt > 0 {
            return AfterEnd::Failed(end.reason.clone());
        }
        self.misconfigured = None;
        let exit = end.exit.unwrap_or(Exit::Unknown);
        let success = end.is_success(policy);
        match policy.restart.when {
            _ if success && policy.job => return AfterEnd::Done(exit),
            RestartWhen::OnFailure | RestartWhen::Never if success => return AfterEnd::Done(exit),
            RestartWhen::Never => return AfterEnd::Failed(end.reason.clone()),
            RestartWhen::Always | RestartWhen::OnFailure => {}
        }
        if policy.restart.give_up_after.is_some_and(|limit| self.attempt >= limit) {
            return AfterEnd::Failed(end.reason.clone());
        }
        let delay = policy.restart.backoff.delay(self.attempt, rng);
        self.attempt = self.attempt.saturating_add(1);
        AfterEnd::RestartAt(now + delay)
    }
}

fn is_among(code: i32, codes: &[u8]) -> bool {
    codes.iter().any(|known| i32::from(*known) == code)
}

/// A start that would fail the same way again until something changes (manifest.md: "exec failures are permanent").
/// Lack of processes, memory or descriptors passes.
fn is_permanent(stage: SpawnStage, errno: i32) -> bool {
    const EPERM: i32 = 1;
    const ENOENT: i32 = 2;
    const E2BIG: i32 = 7;
    const ENOEXEC: i32 = 8;
    const EACCES: i32 = 13;
    const ENOTDIR: i32 = 20;
    const EISDIR: i32 = 21;
    const EINVAL: i32 = 22;
    const ELOOP: i32 = 40;
    match stage {
        SpawnStage::Exec | SpawnStage::WorkingDir => {
            matches!(errno, ENOENT | E2BIG | ENOEXEC | EACCES | ENOTDIR | EISDIR | ELOOP | EPERM)
        }
        SpawnStage::User
        | SpawnStage::Groups
        | SpawnStage::Scheduling
        | SpawnStage::Rlimits
        | SpawnStage::Security => {
            matches!(errno, EPERM | EINVAL | EACCES)
        }
        SpawnStage::Pipes
        | SpawnStage::Listeners
        | SpawnStage::Clone
        | SpawnStage::Session
        | SpawnStage::Cgroup
        | SpawnStage::Descriptors => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::policy::{ProbeKind, ProbePolicy, ProbeWay};
    use super::*;

    /// Milliseconds it ran, how it ended, whether that is found to come of its configuration.
    type Ended = (u64, Exit, bool);

    fn series(ends: &[Ended]) -> Vec<&'static str> {
        let (policy, mut rng, mut state) = (Policy::plain(), Rng::new(1), RestartState::default());
        let now = Instant(1_000_000_000_000);
        let mut follow = |&(ran, exit, misconfigured): &Ended| {
            let executed_at = Some(Instant(now.0 - ran * 1_000_000));
            let end = End {
                reason: EndReason::Exited,
                exit: Some(exit),
                executed_at,
                survivors: 0,
                overran: false,
            };
            let failure = end.is_failure(&policy, false);
            let after = state.after_end(&policy, &end, failure, now, &mut rng);
            if misconfigured {
                state.is_misconfigured(exit);
            }
            match after {
                AfterEnd::RestartAt(_) => "again",
                AfterEnd::Failed(_) => "failed",
                AfterEnd::Idle | AfterEnd::Done(_) => "other",
            }
        };
        ends.iter().map(&mut follow).collect()
    }

    #[test]
    fn the_last_words_of_one_that_had_answered_keep_nobody_down() {
        let (policy, mut rng) = (probed(), Rng::new(1));
        let now = Instant(1_000_000_000_000);
        let executed_at = Some(Instant(now.0 - 8_000_000_000));
        let end = End {
            reason: EndReason::Exited,
            exit: Some(Exit::Code(1)),
            executed_at,
            survivors: 0,
            overran: false,
        };
        for (answered, last) in [(false, false), (true, true)] {
            let mut state = RestartState::default();
            let mut again = true;
            for _ in 0..3 {
                state.answered = answered;
                again = matches!(state.after_end(&policy, &end, true, now, &mut rng), AfterEnd::RestartAt(_));
                state.is_misconfigured(Exit::Code(1));
            }
            assert_eq!(again, last, "answered: {answered}");
        }
    }

    fn probed() -> Policy {
        let mut probed = Policy::plain();
        probed.probes[ProbeKind::Readiness.index()] = Some(ProbePolicy {
            way: ProbeWay::Asked,
            initial_delay: Duration::ZERO,
            period: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            success_threshold: 1,
            failure_threshold: 3,
        });
        probed
    }

    #[test]
    fn after_a_crash_the_next_one_has_to_outlive_it() {
        let (plain, probed) = (Policy::plain(), probed());
        for (policy, attempt, lasted, proof) in [
            (&probed, 0, 0, 0),
            (&plain, 0, 0, 400),
            (&plain, 1, 100, 1000),
            (&probed, 1, 100, 1000),
            (&plain, 3, 2000, 4000),
            (&plain, 1, 3_600_000, 10_000),
        ] {
            let lasted = Duration::from_millis(lasted);
            let state = RestartState { attempt, lasted, ..RestartState::default() };
            assert_eq!(state.proof(policy), Duration::from_millis(proof), "{attempt} {lasted:?}");
        }
    }

    #[test]
    fn what_the_machine_lacks_is_told_from_what_the_program_lacks() {
        let of = |stage, errno| {
            let reason = EndReason::SpawnFailed { stage, errno, detail: String::new() };
            End { reason, exit: None, executed_at: None, survivors: 0, overran: false }.is_want_of_resources()
        };
        let lacks = [
            (SpawnStage::Clone, libc::EAGAIN),
            (SpawnStage::Pipes, libc::EMFILE),
            (SpawnStage::Exec, libc::ENOMEM),
        ];
        assert!(lacks.iter().all(|(stage, errno)| of(*stage, *errno)));
        assert!(!of(SpawnStage::Exec, libc::ENOENT) && !of(SpawnStage::Clone, libc::EINVAL));
    }

    #[test]
    fn what_no_further_start_mends_is_not_started_again() {
        let code = Exit::Code;
        for permanent in [78, 125, 126, 127] {
            assert_eq!(series(&[(10, code(permanent), false)]), ["failed"], "{permanent}");
        }
        let rows: &[(&str, &[Ended], &[&str])] = &[
            ("a crash", &[(10, code(1), false); 3], &["again"; 3]),
            ("the configuration, twice alike", &[(10, code(1), true); 2], &["again", "failed"]),
            (
                "the configuration, known late",
                &[(10, code(1), false), (10, code(1), true), (10, code(1), false)],
                &["again", "again", "failed"],
            ),
            (
                "another end between",
                &[(10, code(1), true), (10, code(2), false), (10, code(1), false)],
                &["again"; 3],
            ),
            ("it has run for a while", &[(10, code(1), true), (6_000, code(1), false)], &["again"; 2]),
        ];
        for (what, ends, follows) in rows {
            assert_eq!(series(ends), *follows, "{what}");
        }
    }
}

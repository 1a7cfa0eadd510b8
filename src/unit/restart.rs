//! What follows the end of an instance: again, later, never.

use crate::base::{Exit, Instant, Rng, SpawnStage};

use super::lifecycle::{End, EndReason, StopReason};
use super::policy::{Policy, RestartWhen};

/// What one ordinal remembers from start to start.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RestartState {
    /// Failures in a row; the exponent of the next backoff.
    pub attempt: u32,
    /// Automatic restarts of this ordinal, ever.
    pub restarts: u32,
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
            (EndReason::Exited, Some(Exit::Code(code))) => policy.restart.success_exit_codes.contains(&code),
            (EndReason::Exited, Some(Exit::Signal { signal, .. })) => {
                !policy.job && matches!(signal, 1 | 2 | 13 | 15)
            }
            _ => false,
        }
    }

    /// Nobody asked for this end: it counts as a failure for backoff and breaker. A Job that ended well did what it is for.
    pub fn is_failure(&self, policy: &Policy) -> bool {
        match self.reason {
            EndReason::Stopped(StopReason::Unwanted | StopReason::Replaced) => false,
            EndReason::Exited => {
                !(self.is_success(policy) && (policy.job || policy.restart.when != RestartWhen::Always))
            }
            _ => true,
        }
    }
}

impl RestartState {
    /// Decides what follows `end`. The jitter comes from `rng`.
    pub fn after_end(&mut self, policy: &Policy, end: &End, now: Instant, rng: &mut Rng) -> AfterEnd {
        if end.ran_for(now) >= policy.restart.reset_after {
            self.attempt = 0;
        }
        if let EndReason::Stopped(StopReason::Unwanted | StopReason::Replaced) = end.reason {
            return AfterEnd::Idle;
        }
        if let EndReason::SpawnFailed { stage, errno, .. } = &end.reason
            && is_permanent(*stage, *errno)
        {
            return AfterEnd::Failed(end.reason.clone());
        }
        if let Some(Exit::Code(code)) = end.exit
            && policy.restart.permanent_exit_codes.contains(&code)
        {
            return AfterEnd::Failed(end.reason.clone());
        }
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

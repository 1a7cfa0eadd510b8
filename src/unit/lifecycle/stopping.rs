//! The way out of an instance, whoever began it: commands and signals, a sweep, hooks.

use smallvec::smallvec;

use crate::base::{Exit, Instant, Part, Signal, limits};

use crate::unit::policy::Policy;

use super::{End, EndReason, Fact, Lifecycle, Process, Request, Requests, Step, after_exit, illegal};

#[derive(Clone, Debug, PartialEq)]
pub struct Stopping {
    pub process: Option<Process>,
    pub reason: EndReason,
    pub phase: StopPhase,
    pub exit: Option<Exit>,
    /// Its grace ran out before it had ended: it was killed.
    pub overran: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopPhase {
    /// `stop.command` runs; the stop signal follows when it ends.
    Command {
        kill_at: Instant,
    },
    /// The stop signal was sent.
    Signalled {
        kill_at: Instant,
        /// One that is stopped (SIGSTOP) hears nothing: it is sent SIGCONT then, as systemd does (systemd.kill(5)); `NEVER`: it
        /// was. Not at once: nearly all have ended by then.
        wake_at: Instant,
    },
    /// SIGKILL to everything of the instance, or a look whether anything is left after its exit.
    Sweeping,
    PostStop {
        hook: u8,
        deadline: Instant,
    },
}

impl StopPhase {
    /// Its stop signal is sent now.
    pub fn signalled(kill_at: Instant, now: Instant) -> Self {
        Self::Signalled { kill_at, wake_at: now + limits::STOP_WAKE }
    }
}

/// In place of a postStop hook's number: it ran out of time and is being killed; none follows.
const KILLED: u8 = u8::MAX - 1;

impl Stopping {
    pub(super) fn step(mut self, fact: Fact, policy: &Policy, now: Instant) -> Step {
        match (&self.phase, fact) {
            (_, Fact::Exited { exit, remains }) if self.exit.is_none() && self.process.is_some() => {
                if matches!(self.phase, StopPhase::Sweeping) {
                    self.exit = Some(exit);
                    return Ok((Lifecycle::Stopping(self), smallvec![]));
                }
                // A stop command that still runs goes with what is left.
                let remains = remains || matches!(self.phase, StopPhase::Command { .. });
                Ok(after_exit(self.process, self.reason, exit, remains, policy, now))
            }
            (
                StopPhase::Command { kill_at },
                Fact::HookExited { part: Part::StopCommand, .. } | Fact::SpawnFailed { .. },
            ) => {
                self.phase = StopPhase::signalled(*kill_at, now);
                let signal = match self.reason {
                    EndReason::Stopped(reason) => reason.signal(policy),
                    _ => policy.stop.signal,
                };
                Ok((Lifecycle::Stopping(self), smallvec![Request::Signal(signal)]))
            }
            (StopPhase::Signalled { kill_at, .. }, Fact::Due) if now < *kill_at => {
                self.phase = StopPhase::Signalled { kill_at: *kill_at, wake_at: Instant::NEVER };
                Ok((Lifecycle::Stopping(self), smallvec![Request::Signal(Signal::CONT)]))
            }
            (StopPhase::Command { .. } | StopPhase::Signalled { .. }, fact @ (Fact::Due | Fact::KillNow)) => {
                self.overran = matches!(fact, Fact::Due);
                self.phase = StopPhase::Sweeping;
                Ok((Lifecycle::Stopping(self), smallvec![Request::Kill]))
            }
            (StopPhase::Command { kill_at }, Fact::Extend { until }) => {
                self.phase = StopPhase::Command { kill_at: (*kill_at).max(until) };
                Ok((Lifecycle::Stopping(self), smallvec![]))
            }
            (StopPhase::Signalled { kill_at, wake_at }, Fact::Extend { until }) => {
                self.phase = StopPhase::Signalled { kill_at: (*kill_at).max(until), wake_at: *wake_at };
                Ok((Lifecycle::Stopping(self), smallvec![]))
            }
            (StopPhase::Sweeping, Fact::Gone { survivors }) => Ok(self.after_gone(survivors, policy, now)),
            // The keeper started it while the stop was on its way: it is swept with the rest.
            (StopPhase::Sweeping, Fact::Spawned { pid, at }) if self.process.is_none() => {
                self.process = Some(Process { pid, executed_at: at });
                Ok((Lifecycle::Stopping(self), smallvec![Request::Kill]))
            }
            (StopPhase::Sweeping, Fact::SpawnFailed { .. } | Fact::HookExited { .. } | Fact::KillNow) => {
                Ok((Lifecycle::Stopping(self), smallvec![]))
            }
            (StopPhase::PostStop { hook, .. }, Fact::HookExited { part: Part::PostStop(of), .. })
                if *hook == of =>
            {
                let next = hook + 1;
                Ok(self.post_stop(next, policy, now))
            }
            (StopPhase::PostStop { hook, .. }, Fact::SpawnFailed { .. }) => {
                let next = hook + 1;
                Ok(self.post_stop(next, policy, now))
            }
            (StopPhase::PostStop { .. }, Fact::Due | Fact::KillNow) => {
                self.phase = StopPhase::PostStop { hook: KILLED, deadline: Instant::NEVER };
                Ok((Lifecycle::Stopping(self), smallvec![Request::Kill]))
            }
            (StopPhase::PostStop { hook: KILLED, .. }, Fact::Gone { survivors }) => Ok(self.ended(survivors)),
            // The answer to an earlier kill, told again: the hook still runs.
            (StopPhase::PostStop { .. }, Fact::Gone { .. }) => Ok((Lifecycle::Stopping(self), smallvec![])),
            // Already on its way; a wish to stop changes why it will not come back.
            (_, Fact::Stop { reason }) => {
                self.reason = EndReason::Stopped(reason);
                Ok((Lifecycle::Stopping(self), smallvec![]))
            }
            (_, Fact::MainPid { .. } | Fact::HookExited { .. }) => {
                Ok((Lifecycle::Stopping(self), smallvec![]))
            }
            (_, fact) => Err(illegal(Lifecycle::Stopping(self), &fact)),
        }
    }

    /// Nothing is alive. `hooks.postStop` follow a program that was executed.
    pub(super) fn after_gone(self, survivors: u32, policy: &Policy, now: Instant) -> (Lifecycle, Requests) {
        if self.process.is_some() && survivors == 0 {
            return self.post_stop(0, policy, now);
        }
        self.ended(survivors)
    }

    fn post_stop(mut self, hook: u8, policy: &Policy, now: Instant) -> (Lifecycle, Requests) {
        let Some(timeout) = policy.post_stop.get(usize::from(hook)) else {
            return self.ended(0);
        };
        self.phase = StopPhase::PostStop { hook, deadline: now + *timeout };
        self.exit = Some(self.exit.unwrap_or(Exit::Unknown));
        (Lifecycle::Stopping(self), smallvec![Request::Spawn(Part::PostStop(hook))])
    }

    fn ended(self, survivors: u32) -> (Lifecycle, Requests) {
        let end = End {
            executed_at: self.process.as_ref().map(|process| process.executed_at),
            exit: self.exit.or(self.process.is_some().then_some(Exit::Unknown)),
            reason: self.reason,
            survivors,
            overran: self.overran,
        };
        (Lifecycle::Idle, smallvec![Request::Ended(end)])
    }
}

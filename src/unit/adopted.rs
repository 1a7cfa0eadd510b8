//! In which state of its life an instance is that an earlier daemon started, from what the keeper holds of it.

use crate::base::{Exit, Instant, Part};

use super::lifecycle::{
    End, EndReason, Fact, Lifecycle, Process, StartPhase, Starting, StopPhase, StopReason, Stopping,
};
use super::policy::Policy;

/// What the keeper holds of an instance's programs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeldParts {
    /// Each was asked for once.
    pub parts: Vec<(Part, PartState)>,
    /// It was being stopped on purpose.
    pub stop: Option<StopReason>,
    /// The stop signal was sent to the main program.
    pub signalled: bool,
    /// Its main program was through its probes.
    pub through: bool,
    /// It ran when the machine was restarted.
    pub rebooted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartState {
    /// Asked for; the keeper has not said what became of it.
    Spawning,
    Running {
        pid: u32,
        at: Instant,
    },
    Ended {
        pid: u32,
        at: Instant,
        exit: Exit,
    },
}

impl PartState {
    pub fn process(self) -> Option<(u32, Instant)> {
        match self {
            Self::Spawning => None,
            Self::Running { pid, at } | Self::Ended { pid, at, .. } => Some((pid, at)),
        }
    }

    pub fn exit(self) -> Option<Exit> {
        match self {
            Self::Ended { exit, .. } => Some(exit),
            _ => None,
        }
    }
}

impl HeldParts {
    pub fn main(&self) -> Option<PartState> {
        self.parts.iter().find(|(part, _)| *part == Part::Main).map(|(_, state)| *state)
    }

    /// The latest one of a kind.
    fn last(&self, kind: impl Fn(Part) -> Option<u8>) -> Option<(u8, PartState)> {
        let hooks = self.parts.iter().filter_map(|(part, state)| Some((kind(*part)?, *state)));
        hooks.max_by_key(|(hook, _)| *hook)
    }

    /// The state, and the fact that happened since; `None` when nothing of it was ever started. Times begin anew.
    pub fn state(&self, policy: &Policy, now: Instant) -> Option<(Lifecycle, Option<Fact>)> {
        let main = self.main();
        let process =
            main.and_then(PartState::process).map(|(pid, executed_at)| Process { pid, executed_at });
        if self.rebooted && self.stop.is_none() {
            return Some(rebooted(process, now));
        }
        let post = self.last(|part| if let Part::PostStop(hook) = part { Some(hook) } else { None });
        if let Some((hook, state)) = post {
            let exit = main.and_then(PartState::exit).unwrap_or(Exit::Unknown);
            let phase = StopPhase::PostStop { hook, deadline: timeout(&policy.post_stop, hook, now) };
            let reason = self.end_reason();
            let stopping = Stopping { process, reason, phase, exit: Some(exit), overran: false };
            let fact = hook_exited(Part::PostStop(hook), state);
            return Some((Lifecycle::Stopping(stopping), fact));
        }
        match (main, process) {
            (Some(PartState::Ended { exit, .. }), Some(process)) => {
                // What it left behind is looked for and killed.
                let fact = Fact::Exited { exit, remains: true };
                Some((self.running(process, policy, now).0, Some(fact)))
            }
            (Some(_), Some(process)) => Some(self.running(process, policy, now)),
            (Some(_), None) => Some((starting(now, StartPhase::Spawning), None)),
            (None, _) => {
                let pre = self.last(|part| if let Part::PreStart(hook) = part { Some(hook) } else { None });
                let (hook, state) = pre?;
                let deadline = timeout(&policy.pre_start, hook, now);
                // Who was being stopped goes no further in its start.
                let fact = match self.stop {
                    Some(reason) => Some(Fact::Stop { reason }),
                    None => hook_exited(Part::PreStart(hook), state),
                };
                Some((starting(now, StartPhase::PreStart { hook, deadline }), fact))
            }
        }
    }

    /// While its main program ran.
    fn running(&self, process: Process, policy: &Policy, now: Instant) -> (Lifecycle, Option<Fact>) {
        let Some(reason) = self.stop else {
            let state = match self.through {
                true => Lifecycle::Up(process),
                false => starting(process.executed_at, StartPhase::Probing(process)),
            };
            return (state, None);
        };
        let kill_at = now + policy.stop.grace;
        let command = self.parts.iter().find(|(part, _)| *part == Part::StopCommand);
        let ended = Fact::HookExited { part: Part::StopCommand, exit: Exit::Code(0) };
        let (phase, fact) = match command {
            _ if self.signalled => (StopPhase::signalled(kill_at, now), None),
            Some((_, PartState::Spawning | PartState::Running { .. })) => {
                (StopPhase::Command { kill_at }, None)
            }
            // Its command has ended, or it has none, and the signal was still to follow.
            _ => (StopPhase::Command { kill_at }, Some(ended)),
        };
        let reason = EndReason::Stopped(reason);
        (
            Lifecycle::Stopping(Stopping {
                process: Some(process),
                reason,
                phase,
                exit: None,
                overran: false,
            }),
            fact,
        )
    }

    /// How one ended of which every part has; `None`: its main program never ran.
    pub fn end(&self) -> Option<End> {
        let main = self.main()?;
        let (_, executed_at) = main.process()?;
        let (exit, executed_at) = (Some(main.exit()?), Some(executed_at));
        Some(End { reason: self.end_reason(), exit, executed_at, survivors: 0, overran: false })
    }

    fn end_reason(&self) -> EndReason {
        self.stop.map_or(EndReason::Exited, EndReason::Stopped)
    }
}

/// Nothing of it is there any more, which is looked for all the same: on its way out, and the fact that ends it.
fn rebooted(process: Option<Process>, now: Instant) -> (Lifecycle, Option<Fact>) {
    let fact = match process {
        Some(_) => Fact::Exited { exit: Exit::Unknown, remains: true },
        None => Fact::KillNow,
    };
    let phase = StopPhase::signalled(now, now);
    let stopping = Stopping { process, reason: EndReason::Rebooted, phase, exit: None, overran: false };
    (Lifecycle::Stopping(stopping), Some(fact))
}

fn starting(since: Instant, phase: StartPhase) -> Lifecycle {
    Lifecycle::Starting(Starting { since, phase })
}

fn timeout(list: &[std::time::Duration], hook: u8, now: Instant) -> Instant {
    list.get(usize::from(hook)).map_or(Instant::NEVER, |timeout| now + *timeout)
}

fn hook_exited(part: Part, state: PartState) -> Option<Fact> {
    state.exit().map(|exit| Fact::HookExited { part, exit })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::Signal;
    use crate::unit::lifecycle::{End, Request};

    const NOW: Instant = Instant(5_000_000_000);
    const AT: Instant = Instant(1_000_000_000);
    const RUNNING: PartState = PartState::Running { pid: 7, at: AT };
    const ENDED: PartState = PartState::Ended { pid: 7, at: AT, exit: Exit::Code(125) };

    fn held(parts: &[(Part, PartState)]) -> HeldParts {
        HeldParts { parts: parts.to_vec(), ..HeldParts::default() }
    }

    fn policy() -> Policy {
        let hooks = || [Duration::from_secs(5)].into_iter().collect();
        Policy { pre_start: hooks(), post_stop: hooks(), ..Policy::plain() }
    }

    /// The state after the fact that happened since, and what it asks for.
    fn now(held: &HeldParts) -> (Lifecycle, Vec<Request>) {
        let (state, fact) = held.state(&policy(), NOW).expect("something was started");
        match fact {
            Some(fact) => {
                let (state, requests) = state.step(fact, &policy(), NOW).expect("a fact of that state");
                (state, requests.into_vec())
            }
            None => (state, Vec::new()),
        }
    }

    #[test]
    fn nothing_that_was_started_is_nothing() {
        assert_eq!(held(&[]).state(&policy(), NOW), None);
    }

    #[test]
    fn a_spawn_under_way_is_awaited_and_not_asked_for_again() {
        let before = (Part::PreStart(0), PartState::Ended { pid: 6, at: AT, exit: Exit::Code(0) });
        let (state, requests) = now(&held(&[before, (Part::Main, PartState::Spawning)]));
        assert_eq!((state, requests), (starting(NOW, StartPhase::Spawning), vec![]));
        let (state, _) = now(&held(&[(Part::PreStart(0), PartState::Spawning)]));
        assert!(matches!(
            state,
            Lifecycle::Starting(Starting { phase: StartPhase::PreStart { hook: 0, .. }, .. })
        ));
    }

    #[test]
    fn a_hook_that_ended_leads_to_what_follows_it() {
        let (_, requests) =
            now(&held(&[(Part::PreStart(0), PartState::Ended { pid: 6, at: AT, exit: Exit::Code(0) })]));
        assert_eq!(requests, [Request::Spawn(Part::Main)]);
    }

    #[test]
    fn an_exit_that_nobody_asked_for_keeps_its_code_through_the_hooks_after_it() {
        let (_, requests) = now(&held(&[(Part::Main, ENDED)]));
        assert_eq!(requests, [Request::StopBegan, Request::Kill]);
        let hook = PartState::Ended { pid: 8, at: NOW, exit: Exit::Code(3) };
        let (_, requests) = now(&held(&[(Part::Main, ENDED), (Part::PostStop(0), hook)]));
        let end = End {
            reason: EndReason::Exited,
            exit: Some(Exit::Code(125)),
            executed_at: Some(AT),
            survivors: 0,
            overran: false,
        };
        assert_eq!(requests, [Request::Ended(end)]);
    }

    #[test]
    fn a_stop_is_continued_where_it_was_and_its_signal_is_sent_once() {
        let main = (Part::Main, RUNNING);
        let command = |state| (Part::StopCommand, state);
        let signal = vec![Request::Signal(Signal(15))];
        let ended = PartState::Ended { pid: 8, at: NOW, exit: Exit::Code(0) };
        let check = |parts: &[(Part, PartState)], signalled, expected: &[Request]| {
            let stop = Some(StopReason::LivenessFailed);
            let (state, requests) = now(&HeldParts { stop, signalled, ..held(parts) });
            assert_eq!(requests, expected, "{parts:?} {signalled}");
            let Lifecycle::Stopping(stopping) = state else { panic!("{state:?}") };
            assert_eq!(stopping.reason, EndReason::Stopped(StopReason::LivenessFailed));
        };
        check(&[main], false, &signal);
        check(&[main], true, &[]);
        check(&[main, command(RUNNING)], false, &[]);
        check(&[main, command(PartState::Spawning)], false, &[]);
        check(&[main, command(ended)], false, &signal);
        check(&[main, command(ended)], true, &[]);
    }
}

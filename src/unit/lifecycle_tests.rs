use super::*;
use crate::base::limits;
use crate::unit::policy::StopPolicy;

const NOW: Instant = Instant(5_000_000_000);

/// What each deadline asks for, until nothing has one.
fn deadlines(mut state: Lifecycle, policy: &Policy) -> Vec<(Duration, Requests)> {
    let mut asked = Vec::new();
    while let Some(at) = state.deadline() {
        let (next, requests) =
            state.step(Fact::Due, policy, at).expect("a deadline is a fact of every state");
        asked.push((at.since(NOW), requests));
        state = next;
    }
    asked
}

#[test]
fn one_that_does_not_end_is_woken_once_and_then_killed() {
    let grace = |grace| Policy { stop: StopPolicy { grace, ..Policy::plain().stop }, ..Policy::plain() };
    let stop = |policy: &Policy, reason| {
        let up = Lifecycle::Up(Process { pid: 7, executed_at: Instant(1) });
        up.step(Fact::Stop { reason }, policy, NOW).expect("what is up can be stopped")
    };
    let long = grace(Duration::from_secs(10));
    let (state, requests) = stop(&long, StopReason::Unwanted);
    assert_eq!(requests.as_slice(), [Request::StopBegan, Request::Signal(Signal::TERM)]);
    let woken: Requests = smallvec![Request::Signal(Signal::CONT)];
    let killed: Requests = smallvec![Request::Kill];
    assert_eq!(
        deadlines(state, &long),
        [(limits::STOP_WAKE, woken), (Duration::from_secs(10), killed.clone())]
    );
    // Its grace is over before.
    let short = grace(limits::STOP_WAKE / 2);
    let (state, requests) = stop(&short, StopReason::Watchdog);
    assert_eq!(requests.as_slice(), [Request::StopBegan, Request::Signal(Signal::ABRT)], "rules.md");
    assert_eq!(deadlines(state, &short), [(limits::STOP_WAKE / 2, killed)]);
}

#[test]
fn only_whose_grace_ran_out_is_said_to_have_been_killed_for_it() {
    let policy = Policy::plain();
    let (state, _) = Lifecycle::Up(Process { pid: 7, executed_at: Instant(1) })
        .step(Fact::Stop { reason: StopReason::Unwanted }, &policy, NOW)
        .unwrap();
    let late = NOW + policy.stop.grace;
    for (fact, overran) in [(Fact::Due, true), (Fact::KillNow, false)] {
        let (state, _) = state.clone().step(fact, &policy, late).unwrap();
        let killed = Exit::Signal { signal: 9, core: false };
        let (state, _) = state.step(Fact::Exited { exit: killed, remains: true }, &policy, late).unwrap();
        let (_, requests) = state.step(Fact::Gone { survivors: 0 }, &policy, late).unwrap();
        let Some(Request::Ended(end)) = requests.last() else { panic!("{requests:?}") };
        assert_eq!((end.overran, end.exit), (overran, Some(killed)));
    }
}

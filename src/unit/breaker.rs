//! The circuit breaker of one unit: Closed → Open → HalfOpen with one trial → Closed, or Open for twice as long.
//!
//! Source: Nygard, "Release It!", 2nd edition, chapter 5; the doubling is unisys' own (manifest.md, `circuitBreaker`).

use std::collections::VecDeque;
use std::time::Duration;

use crate::base::Instant;

use super::policy::BreakerPolicy;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Breaker {
    /// Failures within the window, oldest first; never more than the threshold.
    failures: VecDeque<Instant>,
    circuit: Circuit,
    /// How long it was open last; doubles with each failed trial.
    open_for: Duration,
    /// The trial has become Ready, or is no longer, and nobody has been told to remember it.
    moved: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Circuit {
    #[default]
    Closed,
    Open {
        until: Instant,
    },
    /// One trial may run; `ready_since` is when it became Ready.
    HalfOpen {
        ready_since: Option<Instant>,
    },
}

impl Circuit {
    pub fn word(self) -> &'static str {
        match self {
            Self::Closed => "Closed",
            Self::Open { .. } => "Open",
            Self::HalfOpen { .. } => "HalfOpen",
        }
    }
}

impl Breaker {
    pub fn circuit(&self) -> Circuit {
        self.circuit
    }

    /// Failures that count at present.
    pub fn failures(&self) -> usize {
        self.failures.len()
    }

    /// A breaker as an earlier daemon left it.
    /// `trial`: since when its trial has been Ready.
    pub fn restored(
        open_until: Option<Instant>,
        trial: Option<Instant>,
        open_for: Duration,
        failures: VecDeque<Instant>,
    ) -> Self {
        let circuit = match (open_until, trial) {
            (Some(_), ready_since @ Some(_)) => Circuit::HalfOpen { ready_since },
            (Some(until), None) => Circuit::Open { until },
            (None, _) => Circuit::Closed,
        };
        Self { failures, circuit, open_for, moved: false }
    }

    /// The trial has moved since the last call.
    pub fn take_moved(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }

    /// Since when the trial has been Ready.
    pub fn trial(&self) -> Option<Instant> {
        match self.circuit {
            Circuit::HalfOpen { ready_since } => ready_since,
            Circuit::Closed | Circuit::Open { .. } => None,
        }
    }

    /// When the failures happened that count at present, oldest first.
    pub fn failing(&self) -> impl Iterator<Item = Instant> + '_ {
        self.failures.iter().copied()
    }

    pub fn open_for(&self) -> Duration {
        self.open_for
    }

    /// An instance failed. True when this opens the circuit.
    pub fn failed(&mut self, policy: &BreakerPolicy, now: Instant) -> bool {
        match self.circuit {
            Circuit::Open { .. } => false,
            Circuit::HalfOpen { .. } => {
                self.open(self.open_for.saturating_mul(2).min(policy.max_open), now);
                true
            }
            Circuit::Closed => {
                self.failures.push_back(now);
                self.forget_old(policy, now);
                if self.failures.len() < policy.failures as usize {
                    return false;
                }
                self.open(policy.open_for, now);
                true
            }
        }
    }

    /// Moves on with the time: an open circuit becomes half-open, a trial that stayed Ready closes it. True when it closed.
    pub fn tick(&mut self, policy: &BreakerPolicy, now: Instant) -> bool {
        match self.circuit {
            Circuit::Open { until } if now >= until => {
                self.circuit = Circuit::HalfOpen { ready_since: None };
                false
            }
            Circuit::HalfOpen { ready_since: Some(since) } if now.since(since) >= policy.success_after => {
                self.reset();
                true
            }
            _ => false,
        }
    }

    /// The trial instance is Ready, or no longer.
    pub fn trial_ready(&mut self, ready: bool, now: Instant) {
        if let Circuit::HalfOpen { ready_since } = &mut self.circuit {
            let since = match (ready, *ready_since) {
                (true, Some(since)) => Some(since),
                (true, None) => Some(now),
                (false, _) => None,
            };
            self.moved |= std::mem::replace(ready_since, since) != since;
        }
    }

    /// Closed, as if nothing had happened: a trial that held, or a person's word.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    pub fn deadline(&self, policy: &BreakerPolicy) -> Option<Instant> {
        match self.circuit {
            Circuit::Open { until } => Some(until),
            Circuit::HalfOpen { ready_since: Some(since) } => Some(since + policy.success_after),
            Circuit::Closed | Circuit::HalfOpen { ready_since: None } => None,
        }
    }

    fn open(&mut self, open_for: Duration, now: Instant) {
        self.open_for = open_for;
        self.circuit = Circuit::Open { until: now + open_for };
        self.failures.clear();
    }

    fn forget_old(&mut self, policy: &BreakerPolicy, now: Instant) {
        while self.failures.front().is_some_and(|at| now.since(*at) > policy.window) {
            self.failures.pop_front();
        }
        while self.failures.len() > policy.failures as usize {
            self.failures.pop_front();
        }
    }
}

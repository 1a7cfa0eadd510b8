//! Externals: what unisys does not run but others depend on.

use std::sync::Arc;

use crate::base::{Instant, Name, Now, Stamp};
use crate::plan::{ExternalSpec, Facets};
use crate::unit::ProbePolicy;

use super::World;
use super::chronicle::{Entry, RecordId};
use super::effect::Effect;

/// An External and what its readiness probe says.
#[derive(Clone, Debug)]
pub struct External {
    pub spec: Arc<ExternalSpec>,
    pub ready: bool,
    pub message: String,
    /// It has been so since then.
    pub since: Stamp,
    pub cause: Option<RecordId>,
    next: Instant,
    asked_at: Instant,
    asked: u64,
    in_flight: Option<u64>,
    successes: u32,
    failures: u32,
    /// Since when it is known, and told, that it is not Ready.
    down: Option<Stamp>,
}

impl External {
    /// `former`: what had its name, whose question may be under way.
    pub(super) fn new(spec: Arc<ExternalSpec>, now: Now, former: Option<&Self>) -> Self {
        let ready = spec.readiness.is_none();
        let next = spec.readiness.as_ref().map_or(Instant::NEVER, |probe| now.mono + probe.initial_delay);
        Self {
            spec,
            ready,
            message: String::new(),
            since: former.filter(|former| former.ready == ready).map_or(now.wall, |former| former.since),
            cause: None,
            next,
            asked_at: now.mono,
            asked: former.map_or(0, |former| former.asked),
            in_flight: None,
            successes: 0,
            failures: 0,
            down: None,
        }
    }

    pub(super) fn facets(&self) -> Facets {
        Facets {
            object: self.spec.object.clone(),
            started: self.ready,
            ready: self.ready,
            completed: self.ready,
            completed_once: self.ready,
            gone: true,
            // An optional dependency on it holds nothing up once it is known to be down.
            hopeless: (!self.ready && self.failures > 0).then(|| self.message.clone()),
            unwell: false,
            circuit: None,
            replacing: false,
            wanted: true,
        }
    }

    /// The condition Ready: its reason, and a message.
    pub fn condition(&self) -> (&'static str, String) {
        let asked = self.failures > 0 || self.successes > 0;
        match (self.ready, &self.spec.readiness) {
            (_, None) => ("NotProbed", "it has no readiness probe, and counts as ready".into()),
            (_, Some(_)) if !asked => ("Unknown", "it has not been asked yet".into()),
            (true, _) => ("ProbeSucceeded", self.message.clone()),
            (false, _) => ("ProbeFailed", self.message.clone()),
        }
    }

    /// As the circuit of a unit is told: open from when its probe has failed `failureThreshold` times in a row until it is Ready,
    /// half open while it answers but not often enough yet; how often it has failed in a row, and since when it is open.
    pub fn circuit(&self) -> (&'static str, u32, Option<Stamp>) {
        let state = match self.down {
            None => "Closed",
            Some(_) if self.successes > 0 => "HalfOpen",
            Some(_) => "Open",
        };
        (state, self.failures, self.down)
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        (self.in_flight.is_none() && self.next != Instant::NEVER).then_some(self.next)
    }

    fn probe(&self) -> Option<&ProbePolicy> {
        self.spec.readiness.as_ref()
    }
}

impl World {
    pub(super) fn external_due(&mut self, now: Now, name: &Name) {
        let Some(external) = self.externals.get_mut(name) else { return };
        if let Some(timeout) = external.probe().map(|probe| probe.timeout)
            && external.in_flight.is_none()
            && external.next <= now.mono
        {
            external.asked += 1;
            external.asked_at = now.mono;
            external.in_flight = Some(external.asked);
            let (seq, spec) = (external.asked, external.spec.clone());
            self.effects.push_back(Effect::ProbeExternal { name: name.clone(), seq, timeout, spec });
        }
        self.set_timer(name);
    }

    pub(super) fn external_answer(&mut self, now: Now, name: &Name, seq: u64, ok: bool, message: String) {
        let Some(external) = self.externals.get_mut(name).filter(|external| external.in_flight == Some(seq))
        else {
            self.stale += 1;
            return;
        };
        external.in_flight = None;
        let Some(probe) = external.spec.readiness.clone() else { return };
        external.next = (external.asked_at + probe.period).max(now.mono);
        external.message.clone_from(&message);
        (external.successes, external.failures) =
            if ok { (external.successes + 1, 0) } else { (0, external.failures + 1) };
        let ready = match external.ready {
            true => external.failures < probe.failure_threshold,
            false => external.successes >= probe.success_threshold,
        };
        let changed = std::mem::replace(&mut external.ready, ready) != ready;
        if changed {
            external.since = now.wall;
        }
        // One that never was Ready has the same time as one that was to be found down.
        let down = !ready && external.down.is_none() && external.failures >= probe.failure_threshold;
        external.down = match ready {
            true => None,
            false => external.down.or_else(|| down.then_some(now.wall)),
        };
        // Whether it is known to be down, for whom that is enough.
        let known = !ready && external.failures.max(external.successes) == 1;
        self.set_timer(name);
        if known && !changed {
            self.tell_neighbours(name);
        }
        if changed || down {
            let object = self.object(name);
            let (reason, message) = if ready {
                ("Ready", "its readiness probe succeeds".to_owned())
            } else {
                let times = match probe.failure_threshold {
                    1 => String::new(),
                    count => format!(" {count} times in a row"),
                };
                ("Unready", format!("its readiness probe has failed{times}: {message}"))
            };
            let entry =
                Entry { warning: !ready, reason, object: &object, message, change: None, cause: None };
            let id = self.announce(now, entry);
            if let Some(external) = self.externals.get_mut(name) {
                external.cause = Some(id);
            }
            self.touched.insert(name.clone());
            self.tell_neighbours(name);
        }
    }
}

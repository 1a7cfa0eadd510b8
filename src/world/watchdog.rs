//! Watchdogs of instances: what is asked, what is heard, what follows (`unit::watchdog`).

use std::time::Duration;

use crate::base::{Instant, Name, Now, Seat};
use crate::manifest::spec::probe::{Probe, ProbeAction};
use crate::unit::watchdog::{Look, Sight};
use crate::unit::{Fact, ProbeKind, StopReason, Vigil};

use super::World;
use super::effect::Effect;
use super::words::{DEGRADED, FROZEN};

impl World {
    /// An instance that is through its probes is watched as its spec says; from the beginning again when that has changed.
    pub(super) fn watch(&mut self, now: Now, name: &Name, seat: Seat) {
        let Some(instance) = self.instance_mut(name, seat) else { return };
        let through = instance.board.as_ref().is_some_and(crate::unit::ProbeBoard::is_through);
        let wanted = instance.spec.policy.watchdog.as_deref().filter(|_| through);
        if wanted != instance.vigil.as_ref().map(|vigil| vigil.policy()) {
            instance.vigil = wanted.map(|policy| Box::new(Vigil::new(*policy, now.mono)));
            // What it has said of its own heartbeat outlives policies and daemons.
            if let (Some(vigil), Some(within)) = (&mut instance.vigil, instance.heartbeat) {
                vigil.expect(within, now.mono);
            }
            if let (Some(vigil), true) = (&mut instance.vigil, instance.unheard) {
                vigil.await_first();
            }
            self.touch(name);
        }
    }

    /// Asks for the look that is due.
    pub(super) fn look_due(&mut self, now: Now, name: &Name, seat: Seat) {
        let Some(id) = self.instance_id(name, seat) else { return };
        let Some(slot) = self.units.get_mut(name).and_then(|unit| unit.slots.get_mut(&seat)) else { return };
        let Some(pid) = slot.state.process().map(|process| process.pid) else { return };
        let ask = slot.vigil().and_then(|vigil| vigil.due(now.mono));
        if let Some(ask) = ask {
            self.effects.push_back(Effect::LookAt { id, pid, work: ask.work, closely: ask.closely });
        }
    }

    pub(super) fn seen(&mut self, now: Now, name: &Name, seat: Seat, look: Option<&Look>, closely: bool) {
        let Some(vigil) = self.vigil(name, seat) else { return };
        let sight = vigil.seen(look, closely, now.mono);
        self.sight(now, name, seat, sight);
    }

    pub(super) fn heartbeat(&mut self, now: Now, name: &Name, seat: Seat) {
        let Some(instance) = self.instance_mut(name, seat) else { return };
        instance.unheard = false;
        let Some(vigil) = &mut instance.vigil else { return };
        let sight = vigil.beat(now.mono);
        self.sight(now, name, seat, sight);
    }

    pub(super) fn heartbeat_within(&mut self, now: Now, name: &Name, seat: Seat, within: Duration) {
        let Some(instance) = self.instance_mut(name, seat) else { return };
        instance.unheard = false;
        let known = instance.heartbeat.replace(within) == Some(within);
        if let Some(vigil) = self.vigil(name, seat) {
            vigil.expect(within, now.mono);
        }
        if !known {
            self.remember(name, seat);
        }
    }

    pub(super) fn told_frozen(&mut self, now: Now, name: &Name, seat: Seat) {
        if let Some(vigil) = self.vigil(name, seat) {
            vigil.trigger(now.mono);
        }
        self.look_due(now, name, seat);
    }

    pub(super) fn extend_watch(&mut self, name: &Name, seat: Seat, until: Instant) {
        if let Some(vigil) = self.vigil(name, seat) {
            vigil.extend(until);
        }
    }

    /// A probe was answered or was not, before anything follows from what the answer was.
    pub(super) fn probe_seen(
        &mut self,
        now: Now,
        name: &Name,
        seat: Seat,
        (kind, seq): (ProbeKind, u64),
        late: bool,
    ) {
        let Some(instance) = self.instance_mut(name, seat) else { return };
        let asked = instance.board.as_ref().and_then(|board| board.asked_at(kind, seq));
        // The kernel takes connections for a program that does nothing.
        let answers = instance.spec.launch.probe(kind).and_then(Probe::action).is_some_and(|action| {
            matches!(action, ProbeAction::Http(_) | ProbeAction::Grpc(_) | ProbeAction::Exec(_))
        });
        if let (Some(asked), Some(vigil)) = (asked, instance.vigil.as_mut()) {
            vigil.probed(!late, asked, now.mono);
            if answers && !late {
                vigil.answered(now.mono);
            }
        }
    }

    fn sight(&mut self, now: Now, name: &Name, seat: Seat, sight: Sight) {
        match sight {
            // Only its timer has moved.
            Sight::Nothing => {
                return self.set_timer(name);
            }
            Sight::Degraded(finding) => {
                self.found(now, name, seat, finding.reason, &format!("{DEGRADED}{}", finding.message));
            }
            Sight::Well => self.note(now, name, seat, "Recovered", "is well again"),
            Sight::Frozen(finding) => {
                self.found(now, name, seat, finding.reason, &format!("{FROZEN}{}", finding.message));
                if let Some(instance) = self.instance_mut(name, seat) {
                    instance.frozen = Some(Box::new(finding));
                }
                self.apply(now, name, seat, Fact::Stop { reason: StopReason::Watchdog });
            }
        }
        self.touch(name);
    }

    /// What its watchdog has found is told: the evidence is the root, unless something is known that came before.
    fn found(&mut self, now: Now, name: &Name, seat: Seat, reason: &'static str, words: &str) {
        let cause = self.blame_finding(now, name, seat);
        self.tell(now, name, seat, true, reason, words, cause);
    }

    fn vigil(&mut self, name: &Name, seat: Seat) -> Option<&mut Vigil> {
        self.units.get_mut(name)?.slots.get_mut(&seat)?.vigil()
    }
}

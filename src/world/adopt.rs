//! Instances that an earlier daemon started: they are taken over as they are (architecture §2).

use std::cmp::Reverse;

use crate::base::{Incarnation, Now, Part, Role, Seat};
use crate::unit::{Fact, HeldParts, Lifecycle, PartState, ProbeBoard, StopReason};

use super::World;
use super::chronicle::{ADOPTED, Entry, RecordId};
use super::effect::{Effect, Failure};
use super::event::Adopted;
use super::state::{Instance, LastEnd, Slot, Unit};
use super::words::{REBOOTED, end_words};

impl World {
    pub(super) fn adopt(&mut self, now: Now, adopted: Adopted) {
        self.incarnation = self.incarnation.max(Incarnation(adopted.id.incarnation.0 + 1));
        let unit = self.units.get(&adopted.id.unit);
        let counted = unit.is_some_and(|unit| unit.ended.contains(&adopted.id.incarnation));
        if counted && adopted.parts.iter().all(|(_, state)| state.exit().is_some()) {
            // An earlier daemon has counted its end; only that it may be forgotten was still to be said.
            self.told_before.push((adopted.id.unit.clone(), adopted.id.incarnation));
            self.effects.push_back(Effect::Forget { id: adopted.id.clone() });
            return self.tell_failure_again(now, &adopted);
        }
        match adopted.parts.iter().all(|(part, state)| *part != Part::Main && state.exit().is_some()) {
            true => self.half_started.push(adopted),
            false => self.take_in(now, adopted),
        }
    }

    /// A start goes on where it was, unless an earlier daemon was told that it failed, and has begun another one, without having
    /// had time to record it.
    pub(super) fn adopt_half_started(&mut self, now: Now) {
        let mut half_started = std::mem::take(&mut self.half_started);
        half_started.sort_by_key(|adopted| Reverse(adopted.id.incarnation));
        for adopted in half_started {
            let Adopted { id, .. } = &adopted;
            let slots = self.units.get(&id.unit).into_iter().flat_map(|unit| unit.slots.values());
            let mut own = slots.filter(|slot| slot.seat.ordinal == id.ordinal);
            let is_later = |slot: &Slot| {
                slot.instance.as_ref().is_some_and(|instance| instance.incarnation > id.incarnation)
            };
            match own.any(|slot| is_later(slot)) {
                true => {
                    self.effects.push_back(Effect::Kill { id: id.clone() });
                    self.effects.push_back(Effect::Forget { id: id.clone() });
                }
                false => self.take_in(now, adopted),
            }
        }
    }

    fn take_in(&mut self, now: Now, mut adopted: Adopted) {
        self.settle_role(now, &mut adopted);
        let name = adopted.id.unit.clone();
        let seat = Seat { ordinal: adopted.id.ordinal, role: adopted.mark.role };
        let known = self.units.get(&name).and_then(|unit| unit.version_of(adopted.generation));
        let unknown = adopted.spec.is_none() && known.is_none();
        let wanted = || Some(self.units.get(&name)?.spec.clone());
        let Some(spec) = adopted.spec.clone().or(known).or_else(wanted) else {
            // Nobody knows what it is: it cannot be kept.
            self.effects.push_back(Effect::Kill { id: adopted.id.clone() });
            self.effects.push_back(Effect::Forget { id: adopted.id });
            return;
        };
        let unit = self.units.entry(name.clone()).or_insert_with(|| {
            self.standing.take();
            self.undeclared.insert(name.clone());
            let unit = Unit::new(spec.clone(), adopted.generation, Default::default(), now.wall);
            Box::new(Unit { declared: false, ..unit })
        });
        let slot = unit.slots.entry(seat).or_insert_with(|| Box::new(Slot::new(seat)));
        slot.last_end = slot.last_end.take().or_else(|| slot.recalled_end.take());
        if slot.asked_of.take().is_some_and(|of| of != adopted.id.incarnation) {
            slot.restart_asked = None;
        }
        if unknown && !spec.policy.job {
            slot.restart_asked = Some("nobody knows which version of it runs".into());
        }
        if slot.instance.as_ref().is_some_and(|known| known.incarnation > adopted.id.incarnation) {
            self.effects.push_back(Effect::Kill { id: adopted.id.clone() });
            self.effects.push_back(Effect::Forget { id: adopted.id });
            return;
        }
        if let Some(older) = slot.id(&name).filter(|id| id.incarnation < adopted.id.incarnation) {
            self.effects.push_back(Effect::Kill { id: older.clone() });
            self.effects.push_back(Effect::Forget { id: older });
        }
        let mut held = adopted.held_parts(&spec.policy);
        if spec.launch.lost && held.main().is_none() {
            // No more of it is started from what is not known to be all of it.
            held.stop = held.stop.or(Some(StopReason::Replaced));
        }
        let Some((state, fact)) = held.state(&spec.policy, now.mono) else {
            // Its start failed and nobody was there to hear it.
            self.effects.push_back(Effect::Forget { id: adopted.id });
            return;
        };
        slot.state = state;
        let board = slot.state.process().filter(|_| held.stop.is_none() && !held.rebooted).map(|process| {
            if adopted.mark.through {
                let ready = adopted.mark.ready;
                let mut board = ProbeBoard::adopted(&spec.policy, process.executed_at, now.mono, ready);
                board.mark_edited(adopted.mark.edited);
                board.prove(&spec.policy, &adopted.mark.unproved, now.mono);
                board
            } else {
                let mut board =
                    ProbeBoard::resumed(&spec.policy, process.executed_at, now.mono, adopted.mark.started);
                if let Some(until) = adopted.mark.extended {
                    board.extend(&spec.policy, until);
                }
                board
            }
        });
        let ready = board.as_ref().is_some_and(ProbeBoard::is_ready);
        slot.unread.clone_from(&adopted.mark.unread);
        slot.ready_since = slot.state.process().filter(|_| ready).map(|process| process.executed_at);
        slot.instance = Some(Instance {
            incarnation: adopted.id.incarnation,
            spec,
            generation: adopted.generation,
            started_wall: adopted.started_wall,
            board,
            vigil: None,
            frozen: None,
            status_text: None,
            port_watched: false,
            log_watched: false,
            seen: Default::default(),
            ports: adopted.ports.clone(),
            left_out: adopted.mark.left_out.clone(),
            heartbeat: adopted.mark.heartbeat,
            forked: false,
            unheard: adopted.mark.unheard,
            startup_told: adopted.mark.started,
            extended: adopted.mark.extended,
        });
        self.adopted_follow_up(now, &adopted, &held, fact);
    }

    /// Whether the failure that an end was is recorded is not known here.
    fn tell_failure_again(&mut self, now: Now, adopted: &Adopted) {
        let id = &adopted.id;
        let Some(unit) = self.units.get(&id.unit) else { return };
        let spec = adopted.spec.clone().unwrap_or_else(|| unit.spec.clone());
        let is_of =
            |slot: &Slot| slot.last_end.as_ref().is_some_and(|last| last.incarnation == id.incarnation);
        let slot = unit.slots.values().find(|slot| is_of(slot));
        // Of one that was started again at once the store keeps no words.
        let last = slot.and_then(|slot| slot.last_end.as_deref().cloned());
        let told = last.or_else(|| {
            let end = adopted.held_parts(&spec.policy).end()?;
            Some(LastEnd { words: end_words(&end), end, at: now.wall, incarnation: id.incarnation })
        });
        let Some(LastEnd { end, words, at, .. }) = told.filter(|_| !adopted.rebooted) else { return };
        if !end.is_failure(&spec.policy, true) {
            return;
        }
        let failure = Failure {
            id: id.clone(),
            generation: adopted.generation,
            ran_for: end.ran_for(now.mono),
            end,
            words,
            frozen: None,
            at,
            restarts: slot.map_or(0, |slot| slot.restart.restarts),
            permanent: slot.is_some_and(|slot| matches!(slot.state, Lifecycle::Failed(_))),
            record: slot.and_then(|slot| slot.cause),
            again: true,
            spec,
        };
        self.effects.push_back(Effect::Failed(Box::new(failure)));
    }

    /// The daemon may have died before it could tell the keeper of a role: of two serving instances of an ordinal, a newer one
    /// that is not through its probes was on its way in; one that is has taken over, and the older one drains.
    fn settle_role(&mut self, now: Now, adopted: &mut Adopted) {
        let (name, ordinal) = (adopted.id.unit.clone(), adopted.id.ordinal);
        if adopted.mark.role != Role::Serving {
            return;
        }
        let Some(unit) = self.units.get_mut(&name) else { return };
        let older = unit.slots.get(&Seat::serving(ordinal)).filter(|slot| {
            let incarnation = slot.instance.as_ref().map(|instance| instance.incarnation);
            slot.state.is_occupied()
                && incarnation.is_some_and(|incarnation| incarnation < adopted.id.incarnation)
        });
        let Some(older) = older else { return };
        if unit.spec.policy.job || matches!(older.state, Lifecycle::Stopping(_)) {
            return;
        }
        if !adopted.mark.through {
            adopted.mark.role = Role::Incoming;
            return;
        }
        let Some(mut slot) = unit.slots.remove(&Seat::serving(ordinal)) else { return };
        slot.seat = Seat::draining(ordinal);
        unit.slots.insert(slot.seat, slot);
        self.apply(now, &name, Seat::draining(ordinal), Fact::Stop { reason: StopReason::Replaced });
    }

    /// Said once: what ended with it follows from it.
    fn machine_restarted(&mut self, now: Now) -> RecordId {
        if let Some(record) = self.rebooted {
            return record;
        }
        let message = "the machine was restarted, and what ran ended with it".to_owned();
        let entry =
            Entry { warning: true, reason: REBOOTED, object: &"system", message, change: None, cause: None };
        let record = self.announce(now, entry);
        self.rebooted = Some(record);
        record
    }

    fn adopted_follow_up(&mut self, now: Now, adopted: &Adopted, held: &HeldParts, fact: Option<Fact>) {
        let name = &adopted.id.unit;
        let seat = Seat { ordinal: adopted.id.ordinal, role: adopted.mark.role };
        self.refresh_drift(name);
        let seen = self.replacements_of(name);
        let Some(slot) = self.units.get_mut(name).and_then(|unit| unit.slots.get_mut(&seat)) else {
            return;
        };
        if let Some(instance) = slot.instance.as_mut() {
            instance.seen = seen;
            if matches!(slot.state, Lifecycle::Starting(_)) && instance.board.is_some() {
                let port = instance
                    .board
                    .as_ref()
                    .and_then(|board| board.awaited_port(&instance.spec.policy, &instance.ports));
                instance.port_watched = port.is_some();
                instance.log_watched = instance.spec.launch.awaits_log;
                let spec = instance.spec.clone();
                if let Some(port) = port {
                    self.effects.push_back(Effect::WatchPort { id: adopted.id.clone(), port });
                }
                if spec.launch.awaits_log {
                    self.effects.push_back(Effect::WatchLog { id: adopted.id.clone(), spec });
                }
            }
        }
        let rebooted = held.rebooted.then(|| self.machine_restarted(now));
        let object = self.object(name);
        let message = match held.main() {
            Some(PartState::Running { pid, .. }) => format!("{seat} adopted, pid {pid}"),
            _ => format!("{seat} adopted"),
        };
        // It goes on being what an earlier daemon told of it; that each of them adopted it says nothing.
        let told = self.chronicle.recalled(&object.to_string(), seat.ordinal);
        let cause = told.and_then(|it| if it.reason == ADOPTED { it.cause } else { Some(it.id) });
        let entry = Entry { warning: false, reason: ADOPTED, object: &object, message, change: None, cause };
        let record = rebooted.unwrap_or_else(|| self.announce(now, entry));
        self.set_cause(name, seat, record);
        if let Some(fact) = fact {
            self.apply(now, name, seat, fact);
        }
        if !adopted.mark.unproved.is_empty() {
            self.look_for_line(name, seat);
        }
        self.settle_board(now, name, seat);
        self.watch(now, name, seat);
        self.refresh(now, name);
        self.touch(name);
    }
}

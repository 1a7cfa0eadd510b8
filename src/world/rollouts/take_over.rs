//! Who has an ordinal's place: the incoming instance takes it, and one that ends meanwhile comes back as it was.

use crate::base::{Name, Now, Ordinal, Role, Seat};
use crate::plan::Action;
use crate::rollout::Phase;
use crate::unit::{End, EndReason, Fact, StopReason};

use crate::world::World;
use crate::world::chronicle::Entry;
use crate::world::state::{Unit, Version};

impl World {
    /// The incoming instance of an ordinal becomes its serving one; the serving one drains.
    pub(in crate::world) fn take_over(&mut self, now: Now, name: &Name, ordinal: Ordinal, action: &Action) {
        let object = self.object(name);
        let Some(unit) = self.units.get_mut(name) else { return };
        let Some(mut successor) = unit.slots.remove(&Seat::incoming(ordinal)) else { return };
        successor.seat = Seat::serving(ordinal);
        let mut drains = false;
        if let Some(mut former) = unit.slots.remove(&Seat::serving(ordinal)) {
            successor.restart.restarts += former.restart.restarts;
            successor.last_end = successor.last_end.take().or_else(|| former.last_end.clone());
            if former.state.is_occupied() {
                former.seat = Seat::draining(ordinal);
                former.restart_asked = None;
                drains = true;
                unit.slots.insert(former.seat, former);
            }
        }
        let incarnation = successor.instance.as_ref().map(|instance| instance.incarnation);
        unit.slots.insert(successor.seat, successor);
        unit.replacements += 1;
        unit.restart_given_up = None;
        let (change, cause) = (unit.change, unit.cause);
        let incarnation =
            incarnation.map_or_else(String::new, |incarnation| format!(" (incarnation {incarnation})"));
        let message = match drains {
            true => format!(
                "the incoming instance {ordinal}{incarnation} takes over, the former one drains: {}",
                action.reason
            ),
            false => format!("the incoming instance {ordinal}{incarnation} takes over: {}", action.reason),
        };
        let entry = Entry { warning: false, reason: "TookOver", object: &object, message, change, cause };
        let record = self.announce(now, entry);
        self.set_cause(name, Seat::serving(ordinal), record);
        self.remember(name, Seat::serving(ordinal));
        self.save_unit(now, name);
        if drains {
            self.set_cause(name, Seat::draining(ordinal), record);
            self.apply(now, name, Seat::draining(ordinal), Fact::Stop { reason: StopReason::Replaced });
        }
        self.touch(name);
    }

    /// One that ended by itself in the middle of a rollout is started again as it was, until the rollout has come to it.
    pub(in crate::world) fn former_version(
        unit: &Unit,
        slot_spec: &Version,
        seat: Seat,
        end: &End,
    ) -> Option<Version> {
        let asked = matches!(end.reason, EndReason::Stopped(StopReason::Unwanted | StopReason::Replaced));
        let old = slot_spec.generation != unit.generation && unit.good.is_some();
        if seat.role != Role::Serving || !old || asked || !matches!(unit.rollout.phase, Phase::Progressing) {
            return None;
        }
        match slot_spec.spec.launch.lost {
            true => unit.good.clone().filter(|good| good.generation == slot_spec.generation),
            false => Some(slot_spec.clone()),
        }
    }
}

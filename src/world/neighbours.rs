//! What the units see of each other.

use crate::base::{Name, ObjectKind, ObjectRef, Ordinal, Role, Seat};
use crate::plan::launch::Clash;
use crate::plan::observed::{Ground, ObservedRollout, Surroundings};
use crate::plan::{Drift, Facets, ObservedSlot, ObservedUnit, Wish};
use crate::rollout::Phase;
use crate::unit::{Circuit, Dependency, EndReason, Lifecycle, StopReason};

use super::edges::needs;
use super::standing::Standing;
use super::state::{Slot, Unit};
use super::{External, World};

/// The surroundings of one unit in this world.
pub(super) struct Around<'a> {
    pub world: &'a World,
    pub name: &'a Name,
    pub unit: &'a Unit,
}

impl Surroundings for Around<'_> {
    fn dependencies(&self) -> Vec<(&Dependency, Option<Facets>)> {
        let depends_on = &self.unit.spec.policy.depends_on;
        depends_on.iter().map(|dependency| (dependency, self.world.facets(&dependency.name))).collect()
    }

    fn grounds(&self) -> Vec<Ground<'_>> {
        self.world.grounds(self.unit)
    }

    fn running_dependent(&self) -> Option<ObjectRef> {
        if self.world.stops_together() {
            return None;
        }
        let names = self.world.dependents.get(self.name).into_iter().flatten();
        let mut units = names.filter_map(|name| Some((name, self.world.units.get(name)?)));
        units.find(|(name, unit)| self.is_held_up_by(name, unit)).map(|(_, unit)| unit.spec.object.clone())
    }

    fn roll_allowed(&self) -> bool {
        self.world.may_roll(self.name)
    }

    fn port_holder(&self) -> Option<(ObjectRef, String)> {
        let (holder, clash) = self.world.port_holder(self.name, self.unit)?;
        Some((self.world.object(holder), clash.to_string()))
    }

    fn goes_first_for_port(&self) -> Option<Vec<Name>> {
        self.world.goes_first_for_port(self.name)
    }

    fn start_allowed(&self) -> bool {
        self.world.desired.max_concurrent_starts.is_none_or(|limit| self.world.starting < limit)
    }
}

impl Around<'_> {
    /// A dependent has to be gone before this unit stops.
    fn is_held_up_by(&self, name: &Name, dependent: &Unit) -> bool {
        if matches!(self.world.wish(name, dependent), Wish::Up { .. }) {
            // Who goes on without it keeps nobody; nor does who waited for a job, which is done once.
            return !self.unit.spec.policy.job
                && needs(dependent, self.name, |dependency| !dependency.optional);
        }
        // Both go. Of those that need each other, by what is wanted and by what they were started with, none waits.
        needs(dependent, self.name, |_| true) && !self.world.reaches(self.name, name)
    }
}

impl World {
    /// Who is to let go of a port that the wanted version of this unit binds.
    fn port_holder(&self, name: &Name, wants: &Unit) -> Option<(&Name, Clash)> {
        let leaving = self.undeclared.iter().chain(&self.outdated).filter(|leaving| *leaving != name);
        leaving.filter_map(|name| Some((name, self.units.get(name)?))).find_map(|(name, unit)| {
            let old = unit.slots.values().filter(|slot| {
                slot.state.is_occupied() && (!unit.declared || matches!(slot.drift, Drift::Replace(_)))
            });
            let mut instances = old.filter_map(|slot| slot.instance.as_ref());
            Some((name, instances.find_map(|old| old.spec.launch.clash_with(&wants.spec.launch))?))
        })
    }

    /// Of units that wait for each other's ports in a ring, the one that stops so that the others can go on: one that no other of
    /// them needs, the first of those by name. All of them may go on then: none waits for somebody's word. Gives the ring to it.
    fn goes_first_for_port(&self, name: &Name) -> Option<Vec<Name>> {
        let mut ring = vec![name];
        loop {
            let last = ring[ring.len() - 1];
            let (holder, _) = self.units.get(last).and_then(|unit| self.port_holder(last, unit))?;
            match holder {
                holder if holder == name => break,
                holder if ring.contains(&holder) => return None,
                holder => ring.push(holder),
            }
        }
        let goes_on = |name: &&Name| {
            self.units.get(*name).is_some_and(|unit| {
                unit.overrides.paused.is_none()
                    && unit.spec.machine.is_none()
                    && matches!(self.wish(name, unit), Wish::Up { .. })
            }) && self.may_roll(name)
        };
        let unneeded = |name: &&&Name| ring.iter().all(|other| other == *name || !self.reaches(other, name));
        let first = ring.iter().filter(unneeded).min()?;
        (*first == name && ring.iter().all(goes_on)).then(|| ring.into_iter().cloned().collect())
    }

    /// What is seen of a unit or external by its neighbours.
    pub(super) fn facets(&self, name: &Name) -> Option<Facets> {
        match self.units.get(name) {
            Some(unit) => Some(self.unit_facets(name, unit)),
            None => self.externals.get(name).map(External::facets),
        }
    }

    fn unit_facets(&self, name: &Name, unit: &Unit) -> Facets {
        let wish = self.wish(name, unit);
        let replicas = match wish {
            Wish::Up { replicas } => replicas,
            _ => 0,
        };
        let all = |test: fn(&Slot) -> bool| {
            replicas > 0
                && (0..replicas).all(|index| {
                    let seats = [Seat::serving(Ordinal(index)), Seat::incoming(Ordinal(index))];
                    seats.iter().any(|seat| unit.slots.get(seat).is_some_and(|slot| test(slot)))
                })
        };
        let ended = replicas > 0 && unit.has_completed();
        let completed = ended && unit.spec.policy.job;
        let hopeless = match &wish {
            Wish::Down { why } | Wish::Gone { why } => Some(why.clone()),
            Wish::Up { replicas: 0 } => Some("replicas is 0".into()),
            Wish::Up { .. } if unit.serving().any(|slot| matches!(slot.state, Lifecycle::Failed(_))) => Some(
                unit.slots
                    .values()
                    .find_map(|slot| slot.last_end.as_ref())
                    .map_or_else(|| "it has failed".to_owned(), |last| format!("it {}", last.words)),
            ),
            Wish::Up { .. } if ended && !completed => Some("it has completed".into()),
            Wish::Up { .. } => unit.spec.machine.clone(),
        };
        let unwell =
            unit.serving().any(|slot| slot.overdue || matches!(slot.state, Lifecycle::Backoff { .. }));
        let held = unit.slots.values().any(|slot| matches!(slot.state, Lifecycle::Held));
        let open = !matches!(unit.breaker.circuit(), Circuit::Closed);
        let holds = unit.spec.policy.breaker.as_ref().is_some_and(|breaker| breaker.hold_dependents);
        Facets {
            object: unit.spec.object.clone(),
            started: completed || all(|slot| slot.state.process().is_some()),
            ready: completed || (!unit.spec.policy.job && all(Slot::is_ready)),
            completed,
            completed_once: completed || (unit.spec.policy.job && unit.completed_once),
            gone: unit.is_gone(),
            hopeless,
            unwell,
            circuit: match held || (holds && open && !all(Slot::is_ready)) {
                true if open => Some(unit.spec.object.clone()),
                true => Some(
                    self.dependency_with_circuit(unit)
                        .map_or_else(|| unit.spec.object.clone(), |root| self.object(&root)),
                ),
                false => None,
            },
            replacing: unit.slots.values().any(|slot| {
                // Nobody waits for the end of a pause.
                let moves = slot.seat.role != Role::Serving || matches!(slot.drift, Drift::Replace(_));
                slot.state.is_occupied() && ((moves && !unit.stays()) || slot.restart_asked.is_some())
            }),
            wanted: matches!(wish, Wish::Up { .. }),
        }
    }

    /// What is wanted of a unit: its own wish, or down because something that it cannot be without is stopped.
    pub(super) fn wish(&self, name: &Name, unit: &Unit) -> Wish {
        // First of all: what is wanted otherwise matters no more, and finding it costs as much as there are units.
        if let Some(why) = &self.down {
            return Wish::Gone { why: why.clone() };
        }
        let standing = self.standing();
        let own = unit.wish(standing.kept.contains_key(name));
        if !matches!(own, Wish::Up { .. }) {
            return own;
        }
        match standing.along.get(name) {
            Some(why) => Wish::Down { why: why.clone() },
            None => own,
        }
    }

    /// See [`Standing`]; found once for as long as nothing is wanted otherwise.
    pub(super) fn standing(&self) -> &Standing {
        self.standing.get_or_init(|| Standing::of(&self.units))
    }

    /// The unit as the plan sees it.
    pub(super) fn observe<'a>(&self, name: &Name, unit: &'a Unit) -> ObservedUnit<'a> {
        let slots = unit.slots.values().map(|slot| ObservedSlot {
            seat: slot.seat,
            state: &slot.state,
            ready: slot.is_ready(),
            available: slot.available,
            clash: slot
                .instance
                .as_ref()
                .and_then(|instance| instance.spec.launch.clash_with(&unit.spec.launch)),
            former: slot.former.is_some(),
            reloading: slot.reloading.is_some(),
            drift: &slot.drift,
            restart: slot.restart_asked.as_deref(),
            rested_for_current: slot.rested_at == unit.generation,
            // Who was stopped because nobody wanted it is not started *again*.
            last_end: slot
                .last_end
                .as_ref()
                .filter(|last| last.end.reason != EndReason::Stopped(StopReason::Unwanted))
                .map(|last| last.words.as_str()),
        });
        ObservedUnit {
            object: unit.spec.object.clone(),
            wish: self.wish(name, unit),
            slots: slots.collect(),
            circuit: if unit.spec.policy.breaker.is_some() {
                unit.breaker.circuit()
            } else {
                Circuit::Closed
            },
            machine: unit.spec.machine.as_deref(),
            scaled_from: unit.scaled_from,
            proven: unit.good.as_ref().is_some_and(|good| good.generation == unit.generation),
            job: unit.spec.policy.job,
            update: &unit.spec.policy.update,
            rollout: ObservedRollout {
                paused: unit.overrides.paused.is_some(),
                stays: unit.stays(),
                holding: unit.rollout.holding_since.is_some() && !unit.rollout.promoted,
                // What has failed and is not rolled back stays as it is: its canaries are no more than that.
                promoted: unit.rollout.promoted
                    || !(unit.rollout.is_active() || matches!(unit.rollout.phase, Phase::Failed(_))),
                back: matches!(unit.rollout.phase, Phase::RollingBack(_)),
            },
        }
    }

    /// Tells the neighbours of a unit that it looks different, if it does.
    pub(super) fn tell_neighbours(&mut self, name: &Name) {
        let facets = self.facets(name);
        let changed = match self.units.get_mut(name) {
            Some(unit) if unit.facets != facets => {
                unit.facets = facets;
                true
            }
            Some(_) => false,
            None => true,
        };
        if !changed {
            return;
        }
        let dependents = self.followers_of(name);
        // What only its instances depend on looks whether it is still needed.
        let versions = self.units.get(name).into_iter().flat_map(|unit| unit.versions());
        let dependencies = versions.flat_map(|spec| &spec.policy.depends_on);
        let neighbours: Vec<Name> = dependents
            .into_iter()
            .cloned()
            .chain(dependencies.map(|dependency| dependency.name.clone()))
            .collect();
        self.dirty.extend(neighbours.into_iter().filter(|neighbour| self.units.contains_key(neighbour)));
    }

    /// The object of a name, unit or external.
    pub(super) fn object(&self, name: &Name) -> ObjectRef {
        match (self.units.get(name), self.externals.get(name)) {
            (Some(unit), _) => unit.spec.object.clone(),
            (None, Some(external)) => external.spec.object.clone(),
            (None, None) => ObjectRef { kind: ObjectKind::Service, name: name.clone() },
        }
    }
}

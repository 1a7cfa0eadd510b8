//! What the keeper holds becomes what the world knows.

use std::io;
use std::os::fd::OwnedFd;

use crate::base::{Epoch, Incarnation, Part, Signal};
use crate::keeper::protocol::{Died, Down, Held, HeldPart, OLDEST, Report, VERSION};
use crate::os::{clock, process};
use crate::unit::PartState;
use crate::world::{Adopted, Event};

use super::sets::Busy;
use super::{Engine, EngineError, Link, StartedWith};

/// The keeper's answer to Hello.
pub struct Greeting {
    pub version: u32,
    pub epoch: Epoch,
    pub incarnation: Incarnation,
    pub release: String,
    pub keeper: u32,
    pub state_id: String,
    /// Everything was being stopped.
    pub down: Option<Down>,
    pub died: Option<Died>,
    pub held: Vec<(Held, Vec<OwnedFd>)>,
}

/// Reads the greeting up to its end.
///
/// # Errors
/// The keeper is gone, or neither side understands the other.
pub async fn inventory(link: &mut Link) -> Result<Greeting, EngineError> {
    let gone = || EngineError::Link(io::Error::new(io::ErrorKind::UnexpectedEof, "it ended"));
    let mut greeting: Option<Greeting> = None;
    loop {
        match link.receive().await.ok_or_else(gone)? {
            (
                Report::Welcome {
                    version,
                    keeper,
                    release,
                    epoch,
                    incarnation,
                    state_id,
                    down,
                    oldest,
                    several,
                    died,
                },
                _,
            ) => {
                link.several = several;
                if version < OLDEST || oldest > VERSION {
                    return Err(EngineError::KeeperVersion { release, version });
                }
                let held = Vec::new();
                let found =
                    Greeting { version, epoch, incarnation, release, keeper, state_id, down, died, held };
                greeting = Some(found);
            }
            (Report::Instance(held), fds) => {
                if let Some(greeting) = &mut greeting {
                    greeting.held.push((*held, fds));
                }
            }
            (Report::InventoryEnd, _) => return greeting.ok_or_else(gone),
            // Whatever else is told meanwhile is part of the inventory, or said again.
            _ => {}
        }
    }
}

/// What the keeper holds, before any of it is adopted. Of a program that has ended there may be children in its session.
pub fn busy(held: &[(Held, Vec<OwnedFd>)]) -> Busy {
    let parts = held.iter().flat_map(|(held, _)| &held.parts);
    let runs = |held: &&Held| held.parts.iter().any(|part| part.part == Part::Main && part.exit.is_none());
    let running = held.iter().map(|(held, _)| held).filter(runs);
    Busy {
        places: running.flat_map(|held| StartedWith::places(&held.spec)).collect(),
        processes: parts.map(|part| part.pid).filter(|pid| *pid != 0).collect(),
    }
}

impl Engine {
    pub(super) fn adopt(&mut self, held: Held, fds: Vec<OwnedFd>) {
        let id = held.id.clone();
        let name = &id.unit;
        let main = held.parts.iter().find(|part| part.part == Part::Main);
        let pid = main.filter(|main| main.exit.is_none()).map(|main| main.pid);
        self.faults.spent(&id, main.and_then(|main| main.spent));
        // Whatever became of the process, and whatever it did to its own environment, the keeper knows the secrets.
        let environ = || {
            let own = pid.map(process::environ).unwrap_or_default();
            let own =
                own.into_iter().filter(|(name, _)| !held.secrets.iter().any(|(known, _)| known == name));
            own.chain(held.secrets.iter().cloned()).collect()
        };
        let desired = self.world.desired().units.get(name);
        let unit = self.world.units().get(name);
        let known = unit.into_iter().flat_map(|unit| unit.known_versions()).map(|(_, spec)| spec);
        let known = desired.into_iter().chain(known);
        let spec =
            StartedWith::decode(&held.spec, name, known, self.sets.objects(), environ, self.sets.key());
        let lost = spec.as_deref().is_some_and(|spec| StartedWith::lost_secrets(&held.spec, spec));
        self.attach_pipes(&id, pid, fds, spec.as_deref(), lost && pid.is_none());
        if let Some(spec) = &spec {
            self.told.insert(id.clone(), spec.clone());
        }
        let mut parts: Vec<(Part, PartState)> =
            held.parts.iter().map(|part| (part.part, state(part))).collect();
        parts.extend(held.spawning.iter().map(|part| (*part, PartState::Spawning)));
        // One that ended before the machine did has an end of its own.
        let rebooted = main.map_or_else(|| held.parts.iter().any(|part| part.rebooted), |main| main.rebooted);
        let adopted = Adopted {
            id: id.clone(),
            spec,
            generation: held.generation,
            started_wall: held.wall,
            parts,
            signalled: held.signalled.map(Signal),
            mark: held.mark,
            ports: std::sync::Arc::new(held.ports),
            rebooted,
        };
        self.world.handle(clock::now(), Event::Adopt(Box::new(adopted)));
    }
}

fn state(part: &HeldPart) -> PartState {
    match part.exit {
        Some(exit) => PartState::Ended { pid: part.pid, at: part.at, exit },
        None => PartState::Running { pid: part.pid, at: part.at },
    }
}

//! What the keeper holds becomes what the world knows.

use std::io;
use std::os::fd::OwnedFd;

use crate::base::{Epoch, Incarnation, Part};
use crate::keeper::protocol::{Held, HeldPart, Report};
use crate::os::{clock, process};
use crate::world::{Adopted, Event};

use super::{Engine, Link, StartedWith};

/// The keeper's answer to Hello.
pub struct Greeting {
    pub epoch: Epoch,
    pub incarnation: Incarnation,
    pub release: String,
    pub keeper: u32,
    pub state_id: String,
    pub held: Vec<(Held, Vec<OwnedFd>)>,
}

/// Reads the greeting up to its end.
pub async fn inventory(link: &mut Link) -> io::Result<Greeting> {
    let gone = || io::Error::new(io::ErrorKind::UnexpectedEof, "it ended");
    let mut greeting: Option<Greeting> = None;
    loop {
        match link.receive().await.ok_or_else(gone)? {
            (Report::Welcome { version: _, keeper, release, epoch, incarnation, state_id }, _) => {
                greeting = Some(Greeting { epoch, incarnation, release, keeper, state_id, held: Vec::new() });
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

impl Engine {
    pub(super) fn adopt(&mut self, held: Held, fds: Vec<OwnedFd>) {
        let id = held.id.clone();
        let name = &id.unit;
        let main = held.parts.iter().find(|part| part.part == Part::Main);
        let pid = main.filter(|main| main.exit.is_none()).map(|main| main.pid);
        let environ = || pid.map(process::environ).unwrap_or_default();
        let desired = self.world.desired().clone();
        let spec = StartedWith::decode(&held.spec, name, &desired, self.sets.objects(), &environ);
        self.attach_pipes(&id, fds);
        if let Some(attached) = self.attached.get_mut(&id) {
            attached.told.clone_from(&spec);
        }
        let ports = std::sync::Arc::new(held.ports);
        for part in telling_parts(&held.parts) {
            let adopted = Adopted {
                id: id.clone(),
                spec: spec.clone(),
                generation: held.generation,
                started_wall: held.wall,
                main: main.map(|main| (main.pid, main.at)),
                part: part.part,
                exit: part.exit,
                mark: held.mark,
                ports: ports.clone(),
            };
            self.world.handle(clock::now(), Event::Adopt(Box::new(adopted)));
        }
    }
}

/// The parts that say what state an instance is in: its main program and what runs beside or after it, or else the last hook.
fn telling_parts(parts: &[HeldPart]) -> Vec<&HeldPart> {
    let mut telling: Vec<&HeldPart> = Vec::new();
    if let Some(after) =
        parts.iter().filter(|part| matches!(part.part, Part::PostStop(_))).max_by_key(|part| part.part)
    {
        return vec![after];
    }
    match parts.iter().find(|part| part.part == Part::Main) {
        Some(main) => {
            telling.push(main);
            telling.extend(parts.iter().filter(|part| part.part == Part::StopCommand && part.exit.is_none()));
        }
        None => telling.extend(parts.iter().max_by_key(|part| part.part)),
    }
    telling
}

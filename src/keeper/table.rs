//! What the keeper holds of each instance.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use zeroize::Zeroizing;

use crate::base::{
    Exit, Generation, Incarnation, InstanceId, Instant, Listen, Part, PortNumbers, Spent, Stamp,
};
use crate::world::Mark;

use super::journal::Entry;
use super::protocol::{Held, HeldPart, Notify};

/// One instance.
pub struct Instance {
    pub spec: String,
    pub generation: Generation,
    pub wall: Stamp,
    pub mark: Mark,
    pub notify: Notify,
    pub pipes: Option<Pipes>,
    /// The number of its pair of FIFOs; none: they are named after it.
    pub fifos: Option<u64>,
    pub parts: BTreeMap<Part, PartState>,
    /// Numbers of its `auto` ports.
    pub ports: PortNumbers,
    /// Listeners that it was given.
    pub listens: Vec<Listen>,
    /// The last signal that its main program was sent on request.
    pub signalled: Option<i32>,
    /// The secrets among its variables, for the next daemon: what a program has done to its own environment (setproctitle) cannot
    /// be undone. In memory only, so an heir does not know them.
    pub secrets: Vec<(String, Zeroizing<String>)>,
}

/// The keeper's ends of what an instance writes to.
pub struct Pipes {
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
    pub notify: Option<OwnedFd>,
}

pub enum PartState {
    /// With a spawn thread.
    Spawning,
    Running(Running),
    /// Apart: few have ended, and room is taken for each that runs.
    Ended {
        held: Box<HeldPart>,
    },
}

pub struct Running {
    pub pid: u32,
    pub start: u64,
    pub at: Instant,
    pub pidfd: OwnedFd,
    /// It is our child and waitpid(2) tells its end; else the handle does.
    pub child: bool,
}

impl Pipes {
    pub fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let notify = self.notify.as_ref().map(AsFd::as_fd);
        [self.stdout.as_fd(), self.stderr.as_fd()].into_iter().chain(notify).collect()
    }
}

impl Instance {
    pub fn running(&self) -> impl Iterator<Item = (Part, &Running)> {
        self.parts.iter().filter_map(|(part, state)| match state {
            PartState::Running(running) => Some((*part, running)),
            _ => None,
        })
    }

    pub fn is_spawning(&self) -> bool {
        self.parts.values().any(|state| matches!(state, PartState::Spawning))
    }

    pub fn main(&self) -> Option<&Running> {
        match self.parts.get(&Part::Main) {
            Some(PartState::Running(running)) => Some(running),
            _ => None,
        }
    }

    /// As it is written to the journal.
    pub fn held(&self, id: &InstanceId) -> Held {
        let parts = self.parts.iter().filter_map(|(part, state)| match state {
            PartState::Spawning => None,
            PartState::Running(running) => Some(running.held(*part)),
            PartState::Ended { held } => Some(HeldPart::clone(held)),
        });
        let is_spawning = |state: &PartState| matches!(state, PartState::Spawning);
        let spawning = self.parts.iter().filter(|(_, state)| is_spawning(state)).map(|(part, _)| *part);
        Held {
            id: id.clone(),
            spec: self.spec.clone(),
            generation: self.generation,
            wall: self.wall,
            mark: self.mark.clone(),
            parts: parts.collect(),
            notify: self.notify,
            ports: self.ports.clone(),
            listens: self.listens.clone(),
            spawning: spawning.collect(),
            signalled: self.signalled,
            fifos: self.fifos,
            secrets: Vec::new(),
        }
    }

    /// As it is told to a daemon.
    pub fn told(&self, id: &InstanceId) -> Held {
        let secrets = self.secrets.iter().map(|(name, value)| (name.clone(), value.to_string()));
        Held { secrets: secrets.collect(), ..self.held(id) }
    }
}

impl Running {
    pub fn held(&self, part: Part) -> HeldPart {
        HeldPart {
            part,
            pid: self.pid,
            start: self.start,
            at: self.at,
            exit: None,
            remains: true,
            spent: None,
        }
    }
}

/// All instances, and whose a pid is.
#[derive(Default)]
pub struct Table {
    pub instances: BTreeMap<InstanceId, Instance>,
    pub by_pid: BTreeMap<u32, (InstanceId, Part)>,
    pub highest: Incarnation,
}

impl Table {
    /// The keeper's ends of an instance's pipes, as far as there are any.
    pub fn pipes_of(&self, id: Option<&InstanceId>) -> Vec<BorrowedFd<'_>> {
        let instance = id.and_then(|id| self.instances.get(id));
        instance.and_then(|instance| instance.pipes.as_ref()).map(Pipes::fds).unwrap_or_default()
    }

    /// A part has ended; gives whose it was.
    pub fn ended(
        &mut self,
        pid: u32,
        exit: Exit,
        remains: bool,
        spent: Option<Spent>,
    ) -> Option<(InstanceId, Part)> {
        let (id, part) = self.by_pid.remove(&pid)?;
        let state = self.instances.get_mut(&id)?.parts.get_mut(&part)?;
        if let PartState::Running(running) = state {
            let held = HeldPart { exit: Some(exit), remains, spent, ..running.held(part) };
            *state = PartState::Ended { held: Box::new(held) };
        }
        Some((id, part))
    }

    pub fn note_incarnation(&mut self, incarnation: Incarnation) {
        self.highest = self.highest.max(incarnation);
    }

    /// The state as journal entries.
    pub fn entries(&self) -> impl Iterator<Item = Entry> {
        self.instances.iter().map(|(id, instance)| Entry::Instance(Box::new(instance.held(id))))
    }

    /// What the entries of a journal add up to.
    pub fn replay(entries: Vec<Entry>) -> BTreeMap<InstanceId, Held> {
        let mut held: BTreeMap<InstanceId, Held> = BTreeMap::new();
        for entry in entries {
            match entry {
                Entry::Begin { .. }
                | Entry::Epoch { .. }
                | Entry::Listening { .. }
                | Entry::Closed { .. }
                | Entry::Down(_) => {}
                Entry::Instance(instance) => drop(held.insert(instance.id.clone(), *instance)),
                Entry::Part { id, part } => {
                    if let Some(instance) = held.get_mut(&id) {
                        instance.parts.retain(|known| known.part != part.part);
                        instance.parts.push(part);
                    }
                }
                Entry::Exited { id, part, exit, remains, spent } => {
                    let parts = held.get_mut(&id).into_iter().flat_map(|instance| &mut instance.parts);
                    for known in parts.filter(|known| known.part == part) {
                        known.exit = Some(exit);
                        known.remains = remains;
                        known.spent = spent;
                    }
                }
                Entry::Remember { id, mark, generation, spec } => {
                    if let Some(instance) = held.get_mut(&id) {
                        instance.mark = mark;
                        instance.generation = generation;
                        instance.spec = spec.unwrap_or(std::mem::take(&mut instance.spec));
                    }
                }
                Entry::Signalled { id, signal } => {
                    if let Some(instance) = held.get_mut(&id) {
                        instance.signalled = Some(signal);
                    }
                }
                Entry::Forgot { id } => drop(held.remove(&id)),
            }
        }
        held
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_stop_that_was_asked_for_is_known_to_the_next_keeper() {
        let id: InstanceId = "a.0.1".parse().unwrap();
        let instance = json!({"instance": {
            "id": id, "spec": "", "generation": 1, "wall": Stamp(0), "mark": Mark::default(), "parts": [], "notify": "no"
        }});
        let asked = Entry::Signalled { id: id.clone(), signal: 15 };
        let held = Table::replay(vec![serde_json::from_value(instance).unwrap(), asked]);
        assert_eq!(held[&id].signalled, Some(15));
    }

    #[test]
    fn an_end_is_read_with_what_was_used_and_from_an_older_keeper_without() {
        let id: InstanceId = "a.0.1".parse().unwrap();
        let part = json!({"part": "Main", "pid": 5, "start": 1, "at": 1, "exit": null, "remains": true});
        let instance = json!({"instance": {
            "id": id, "spec": "", "generation": 1, "wall": Stamp(0), "mark": Mark::default(), "parts": [part], "notify": "no"
        }});
        let spent = Spent { user_cpu_ms: 7, system_cpu_ms: 1, peak_memory_bytes: Some(4096) };
        let exited = |spent| Entry::Exited {
            id: id.clone(),
            part: Part::Main,
            exit: Exit::Code(1),
            remains: false,
            spent,
        };
        let old = json!({"exited": {"id": id, "part": "Main", "exit": {"Code": 1}, "remains": false}});
        assert_eq!(serde_json::to_value(exited(None)).unwrap(), old);
        for (end, expected) in
            [(serde_json::to_value(exited(Some(spent))).unwrap(), Some(spent)), (old, None)]
        {
            let entries = [instance.clone(), end].map(|entry| serde_json::from_value(entry).unwrap());
            let held = Table::replay(entries.into());
            let part = &held[&id].parts[0];
            assert_eq!((part.exit, part.remains, part.spent), (Some(Exit::Code(1)), false, expected));
        }
    }
}

//! What the keeper holds of each instance.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use zeroize::Zeroizing;

use crate::base::{
    Exit, Generation, Incarnation, InstanceId, Instant, Listen, Part, PortNumbers, Spent, Stamp,
};
use crate::os::process;
use crate::os::state_dir::StateDir;
use crate::world::Mark;

use super::journal::{Entry, Journal};
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
            rebooted: false,
        }
    }
}

/// What the entries of a journal add up to.
pub struct Replayed {
    pub held: BTreeMap<InstanceId, Held>,
    /// Instances that were being started, and the numbers of their FIFOs: what became of them is not known.
    pub starting: BTreeMap<InstanceId, u64>,
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
    pub fn replay(entries: Vec<Entry>) -> Replayed {
        let mut held: BTreeMap<InstanceId, Held> = BTreeMap::new();
        let mut starting = BTreeMap::new();
        for entry in entries {
            match &entry {
                Entry::Starting { id, fifos } => drop(starting.insert(id.clone(), *fifos)),
                Entry::Instance(instance) => drop(starting.remove(&instance.id)),
                Entry::Forgot { id } => drop(starting.remove(id)),
                _ => {}
            }
            match entry {
                Entry::Begin { .. }
                | Entry::Epoch { .. }
                | Entry::Starting { .. }
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
        // Of some the journal was written whole while they were being started.
        let begun = |instance: &Held| !instance.parts.is_empty();
        let others = held.values().filter(|instance| !begun(instance));
        starting.extend(others.filter_map(|instance| Some((instance.id.clone(), instance.fifos?))));
        held.retain(|_, instance| begun(instance));
        Replayed { held, starting }
    }
}

/// Main processes that a keeper which is gone has left running, as far as its journal tells; of those that started in this boot. A
/// copied journal tells of another system's.
pub fn left_running(state: &StateDir) -> BTreeMap<InstanceId, u32> {
    if state.copied_from().is_some() {
        return BTreeMap::new();
    }
    let entries = Journal::read(&state.journal()).unwrap_or_default();
    if !entries.iter().any(Entry::begins_here) {
        return BTreeMap::new();
    }
    let main = |(id, held): (InstanceId, Held)| {
        let main = held.parts.into_iter().find(|part| part.part == Part::Main && part.exit.is_none())?;
        process::is_still(main.pid, main.start).then_some((id, main.pid))
    };
    Table::replay(entries).held.into_iter().filter_map(main).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_stop_that_was_asked_for_is_known_to_the_next_keeper() {
        let id: InstanceId = "a.0.1".parse().unwrap();
        let asked = Entry::Signalled { id: id.clone(), signal: 15 };
        let Replayed { held, .. } = Table::replay(vec![begun(&id), asked]);
        assert_eq!(held[&id].signalled, Some(15));
    }

    fn begun(id: &InstanceId) -> Entry {
        let part = json!({"part": "Main", "pid": 5, "start": 1, "at": 1, "exit": null, "remains": true});
        entry(id, &[part])
    }

    fn entry(id: &InstanceId, parts: &[serde_json::Value]) -> Entry {
        let instance = json!({
            "id": id, "spec": "", "generation": 1, "wall": Stamp(0), "mark": Mark::default(), "parts": parts,
            "notify": "no", "fifos": 7
        });
        serde_json::from_value(json!({ "instance": instance })).unwrap()
    }

    #[test]
    fn what_was_being_started_is_told_from_what_runs_and_what_is_gone() {
        let id: InstanceId = "a.0.1".parse().unwrap();
        let starting = || Entry::Starting { id: id.clone(), fifos: 7 };
        let forgot = || Entry::Forgot { id: id.clone() };
        for (entries, held, started) in [
            (vec![starting()], 0, 1),
            // The journal was written whole in between.
            (vec![entry(&id, &[])], 0, 1),
            (vec![starting(), begun(&id)], 1, 0),
            (vec![entry(&id, &[]), begun(&id)], 1, 0),
            (vec![starting(), forgot()], 0, 0),
            (vec![starting(), begun(&id), forgot()], 0, 0),
        ] {
            let found = Table::replay(entries.clone());
            assert_eq!((found.held.len(), found.starting.len()), (held, started), "{entries:?}");
            assert!(found.starting.values().all(|number| *number == 7));
        }
    }

    #[test]
    fn an_end_is_read_with_what_was_used_and_from_an_older_keeper_without() {
        let id: InstanceId = "a.0.1".parse().unwrap();
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
            let Replayed { held, .. } = Table::replay(vec![begun(&id), serde_json::from_value(end).unwrap()]);
            let part = &held[&id].parts[0];
            assert_eq!((part.exit, part.remains, part.spent), (Some(Exit::Code(1)), false, expected));
        }
    }
}

//! What a daemon asks of the keeper, and what it is told of the state when it comes.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;

use crate::base::{Epoch, Exit, InstanceId, Part, PortNeed, Role, SpawnStage};
use crate::os::sockets::BindError;
use crate::os::{packet, process};
use crate::world::Mark;

use super::journal::Entry;
use super::listeners::Provided;
use super::protocol::{self, CANNOT_BECOME, Down, Report, Request, Spawn};
use super::run::Keeper;
use super::spawner::{Gifts, PipeNames};
use super::table::{Instance, PartState};

impl Keeper {
    pub(super) fn read_requests(&mut self) {
        while let Some(socket) = &self.daemon.socket {
            match packet::receive(socket) {
                Ok(Some(mut packet)) => {
                    let mut fds = std::mem::take(&mut packet.fds);
                    for message in packet.messages() {
                        match serde_json::from_slice(message) {
                            Ok(request) => self.request(request, std::mem::take(&mut fds)),
                            Err(error) => {
                                let why = format!("not understood: {error}");
                                self.tell(&Report::Refused { id: None, why });
                            }
                        }
                    }
                }
                // The daemon is gone or going; its end is told by SIGCHLD.
                Ok(None) => {
                    self.daemon.socket = None;
                    self.greeted = false;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => return,
            }
        }
    }

    fn request(&mut self, request: Request, fds: Vec<OwnedFd>) {
        self.daemon.attention.heard();
        match request {
            Request::Hello { version: _, epoch, several } => {
                self.daemon.several = several;
                self.greet(epoch);
            }
            Request::Begin { epoch } if epoch > self.epoch => {
                self.epoch = epoch;
                self.journal.write(&Entry::Epoch { epoch });
            }
            Request::Begin { epoch } => self.refuse(None, &format!("epoch {epoch} is not new")),
            Request::Spawn(spawn) if self.fenced(spawn.epoch, Some(&spawn.id)) => self.spawn(spawn),
            Request::Signal { epoch, id, signal, pid } if self.fenced(epoch, Some(&id)) => {
                self.signal_instance(&id, signal, pid);
            }
            Request::Follow { epoch, id, pid } if self.fenced(epoch, Some(&id)) => self.follow(&id, pid),
            Request::Kill { epoch, id } if self.fenced(epoch, Some(&id)) => self.kill(id),
            Request::Forget { epoch, id } if self.fenced(epoch, Some(&id)) => self.forget(&id),
            Request::Remember { epoch, id, mark, generation, spec } if self.fenced(epoch, Some(&id)) => {
                if let Some(instance) = self.table.instances.get_mut(&id) {
                    if (instance.mark.role, mark.role) == (Role::Incoming, Role::Serving) {
                        self.listeners.take_place(&id);
                    }
                    instance.mark.follow(mark);
                    let mark = instance.mark.clone();
                    instance.generation = generation;
                    if let Some(spec) = &spec {
                        instance.spec.clone_from(spec);
                    }
                    self.journal.write(&Entry::Remember { id, mark, generation, spec });
                }
            }
            Request::Limit { epoch, id, limits } if self.fenced(epoch, Some(&id)) => {
                let set = self.cgroups.as_ref().map(|tree| tree.limit(&id, &limits));
                if let Some(Err(error)) = set {
                    self.refuse(Some(id), &format!("its limits cannot be changed: {error}"));
                }
            }
            Request::Listeners { epoch, wanted, storing } if self.fenced(epoch, None) => {
                self.listeners.want(wanted, &storing);
                self.close_unwanted();
            }
            Request::Store { epoch, id, name } if self.fenced(epoch, Some(&id)) => {
                let role = self.role(&id);
                for fd in fds {
                    if let Err(why) = self.listeners.store(&id, role, &name, fd) {
                        self.refuse(Some(id.clone()), &format!("cannot keep its descriptor `{name}`: {why}"));
                    }
                }
            }
            Request::Unstore { epoch, id, name } if self.fenced(epoch, Some(&id)) => {
                self.listeners.unstore(&id, self.role(&id), &name);
            }
            Request::Down { epoch, by, until } if self.fenced(epoch, None) => match self.down.clone() {
                None => self.goes_down(Down { by, immediate: false, until }),
                Some(down) if until.is_some() && down.until != until => {
                    self.goes_down(Down { until, ..down });
                }
                Some(_) => {}
            },
            Request::Exit { epoch, code } if self.fenced(epoch, None) => self.done = Some(code),
            Request::Upgrade { epoch } if self.fenced(epoch, None) => {
                if let Err(error) = self.upgrade() {
                    self.refuse(None, &format!("{CANNOT_BECOME}{}: {error}", self.options.program.display()));
                }
            }
            _ => {}
        }
    }

    /// A request of an older daemon than the latest does nothing.
    fn fenced(&mut self, epoch: Epoch, id: Option<&InstanceId>) -> bool {
        if epoch == self.epoch {
            return true;
        }
        let why = format!("epoch {epoch} is not the current one ({})", self.epoch);
        self.refuse(id.cloned(), &why);
        false
    }

    fn refuse(&mut self, id: Option<InstanceId>, why: &str) {
        self.tell(&Report::Refused { id, why: why.to_owned() });
    }

    fn greet(&mut self, epoch: Epoch) {
        self.greeted = true;
        self.backlog.clear();
        let welcome = Report::Welcome {
            version: protocol::VERSION,
            keeper: std::process::id(),
            release: env!("CARGO_PKG_VERSION").into(),
            epoch: self.epoch.max(epoch),
            incarnation: self.table.highest,
            state_id: self.state_id.clone(),
            down: self.down.clone(),
            oldest: protocol::OLDEST,
            several: true,
            died: self.died.take(),
        };
        self.tell(&welcome);
        let held: Vec<_> = self.table.instances.iter().map(|(id, instance)| instance.told(id)).collect();
        for held in held {
            let id = held.id.clone();
            self.tell_with_pipes(&Report::Instance(Box::new(held)), &id);
        }
        self.tell(&Report::InventoryEnd);
        if self.journal_error.is_some() {
            self.tell_of_journal();
        }
        // For daemons that do not know what the welcome says of it.
        if let Some(Down { immediate, .. }) = self.down {
            self.tell(&Report::Terminate { immediate, signal: libc::SIGTERM });
        }
    }

    pub(super) fn spawn(&mut self, request: Box<Spawn>) {
        self.restore_run();
        self.table.note_incarnation(request.id.incarnation);
        let (id, part) = (request.id.clone(), request.part);
        if let Some(instance) = self.table.instances.get(&id)
            && let Some(state) = instance.parts.get(&part)
        {
            // Asked again: say again what became of it.
            let report = match state {
                PartState::Spawning => return,
                PartState::Running(running) => {
                    let ports = instance.ports.clone();
                    let (pid, at, left_out) = (running.pid, running.at, Vec::new());
                    Report::Spawned { id: id.clone(), part, pid, at, ports, left_out }
                }
                PartState::Ended { held } => {
                    let exit = held.exit.unwrap_or(Exit::Unknown);
                    let (remains, spent) = (held.remains, held.spent);
                    Report::Exited { id: id.clone(), part, exit, remains, spent }
                }
            };
            self.tell_with_pipes(&report, &id);
            return;
        }
        let provided = match part {
            Part::Main => self.provide(&request),
            _ => Ok(Provided::default()),
        };
        let instance = self.table.instances.entry(id.clone()).or_insert_with(|| Instance {
            spec: String::new(),
            generation: request.generation,
            wall: request.wall,
            mark: Mark { role: request.role, ..Mark::default() },
            notify: request.notify,
            pipes: None,
            fifos: Some(self.fifos.take()),
            parts: BTreeMap::new(),
            ports: Default::default(),
            listens: Vec::new(),
            signalled: None,
            secrets: Vec::new(),
        });
        instance.spec.clone_from(&request.spec);
        let secrets = request.env.iter().filter(|(name, _)| request.secrets.contains(name));
        instance.secrets = secrets.map(|(name, value)| (name.clone(), value.clone().into())).collect();
        let provided = match provided {
            Ok(provided) => provided,
            Err(BindError { errno, detail }) => {
                let stage = SpawnStage::Listeners;
                return self.tell(&Report::SpawnFailed { id, part, stage, errno, detail });
            }
        };
        if part == Part::Main {
            let shared = request.ports.iter().filter(|need| matches!(need, PortNeed::Shared(_)));
            instance.listens = shared.map(|need| need.listen().clone()).collect();
            instance.ports = provided.numbers;
        }
        instance.parts.insert(part, PartState::Spawning);
        let needs_pipes = instance.pipes.is_none();
        if let Some(fifos) = instance.fifos.filter(|_| needs_pipes) {
            self.journal.write(&Entry::Starting { id: id.clone(), fifos });
        }
        let gifts = Gifts { handed: provided.handed, ports: instance.ports.clone() };
        self.spawner.start(request, needs_pipes, instance.fifos, gifts);
    }

    /// The sockets and numbers that a main program is given.
    pub(super) fn provide(&mut self, request: &Spawn) -> Result<Provided, BindError> {
        let taken: BTreeSet<u16> = self
            .table
            .instances
            .values()
            .flat_map(|instance| instance.ports.0.values().copied())
            .filter(|_| request.ports.iter().any(|need| !matches!(need, PortNeed::Shared(_))))
            .collect();
        let owner = request.user.as_ref().map(|(uid, gid, _)| (*uid, *gid));
        let (id, role, ports) = (&request.id, request.role, &request.ports);
        let provided = match self.listeners.provide(id, role, ports, owner, &taken) {
            Err(error) if error.errno == libc::EADDRINUSE && self.make_way(ports) => {
                self.listeners.provide(id, role, ports, owner, &taken)?
            }
            provided => provided?,
        };
        for entry in &provided.opened {
            self.journal.write(entry);
        }
        Ok(provided)
    }

    /// Closes listeners that may be in the way of these: those that only instances which have ended were given, and that are not
    /// wanted any more, or are the same port at another address.
    fn make_way(&mut self, needs: &[PortNeed]) -> bool {
        let living = self.table.instances.values().filter(|instance| instance.main().is_some());
        let in_use = living.flat_map(|instance| &instance.listens).collect();
        let gone = self.listeners.make_way(needs, &in_use);
        gone.iter().for_each(|entry| self.journal.write(entry));
        !gone.is_empty()
    }

    /// Closes the listeners that neither the accepted revision nor any instance has a use for.
    pub(super) fn close_unwanted(&mut self) {
        let in_use = self.table.instances.values().flat_map(|instance| &instance.listens).collect();
        for entry in self.listeners.close_unwanted(&in_use) {
            self.journal.write(&entry);
        }
    }

    fn signal_instance(&mut self, id: &InstanceId, signal: i32, pid: Option<u32>) {
        let send = |handle: &OwnedFd| drop(process::signal(handle, signal));
        let Some(main) = self.table.instances.get(id).and_then(Instance::main) else { return };
        match pid.filter(|pid| *pid != main.pid) {
            // A main process that the program named itself; only one of the instance is reached.
            Some(pid) if process::descends(pid, main.pid) || self.strays.of(id).any(|stray| stray == pid) => {
                process::open_any(pid).iter().for_each(send);
            }
            _ => send(&main.pidfd),
        }
        // The next daemon asks whether it was told to stop; that it was woken for it says nothing.
        if let Some(instance) = self.table.instances.get_mut(id).filter(|_| signal != libc::SIGCONT) {
            instance.signalled = Some(signal);
            self.journal.write(&Entry::Signalled { id: id.clone(), signal });
        }
    }

    fn role(&self, id: &InstanceId) -> Role {
        self.table.instances.get(id).map(|instance| instance.mark.role).unwrap_or_default()
    }

    fn forget(&mut self, id: &InstanceId) {
        let Some(instance) = self.table.instances.get(id) else { return };
        if instance.is_spawning() || instance.running().next().is_some() {
            return self.refuse(Some(id.clone()), "it is alive");
        }
        if instance.mark.role == Role::Incoming {
            self.listeners.give_up(id);
        }
        let (fifos, notify) = (instance.fifos, instance.notify != protocol::Notify::No);
        // Its pipes are closed with it.
        self.table.instances.remove(id);
        if let Some(tree) = &self.cgroups {
            tree.remove(id);
        }
        if let Some(emptied) = &mut self.emptied {
            emptied.forget(id);
        }
        self.oom_kills.remove(id);
        PipeNames::of(&self.options.state.run(), id, fifos).remove(notify);
        if let Some(number) = fifos {
            self.fifos.release(number);
        }
        self.journal.write(&Entry::Forgot { id: id.clone() });
        self.close_unwanted();
    }
}

//! The keeper's loop: requests of the daemon, outcomes of spawns, ends of children, signals of people.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::base::{Epoch, Exit, InstanceId, Instant, Part, PortNeed, Role, SpawnStage, limits};
use crate::os::cgroup::Tree;
use crate::os::sockets::BindError;
use crate::os::state_dir::StateDir;
use crate::os::{clock, packet, process, signals};
use crate::world::Mark;

use super::contain::{Kill, Owner, Strays};
use super::daemon::Daemon;
use super::journal::{Entry, Journal};
use super::listeners::{Listeners, Provided};
use super::protocol::{self, Down, HeldPart, Report, Request, Spawn};
use super::spawner::{Gifts, Outcome, PipeNames, Spawner};
use super::table::{Instance, PartState, Running, Table};

/// How often a kill that is under way is looked at: members that are not our children end without a signal to us.
const KILL_POLL: Duration = Duration::from_millis(5);
/// After a second SIGINT the daemon has this long to kill everything; then the keeper does it.
const IMMEDIATE: Duration = Duration::from_secs(8);
/// Reports that wait for a daemon that does not read; more, and it is started anew.
const BACKLOG: usize = 200_000;

/// Who asks, for [`super::contain`]. No method: what is asked about is borrowed beside it.
macro_rules! owner {
    ($keeper:expr, $run:expr) => {
        Owner {
            run: $run,
            state_id: &$keeper.state_id,
            daemon: $keeper.daemon.pid,
            cgroups: $keeper.cgroups.as_ref(),
            heir: $keeper.heir,
        }
    };
}

/// What a keeper is started with.
pub struct Options {
    pub state: StateDir,
    /// The state directory's lock, held for as long as the keeper lives.
    pub lock: OwnedFd,
    /// The binary that the daemon is, and this keeper becomes when it upgrades.
    pub program: PathBuf,
    /// Arguments of the daemon.
    pub daemon_arguments: Vec<String>,
    /// Descriptors that an earlier image of this process kept open: those of each instance.
    pub kept: Option<BTreeMap<String, Vec<i32>>>,
    /// A daemon started it in place of one with this pid that was killed, and goes on with what that one was at; a person who
    /// starts one means it.
    pub heir_of: Option<u32>,
    /// Arguments with which this keeper was started, for its own `exec`.
    pub own_arguments: Vec<String>,
    pub nofile: (u64, u64),
}

/// What an earlier image of this process left open.
pub struct Resumed {
    pub lock: OwnedFd,
    pub kept: BTreeMap<String, Vec<i32>>,
}

pub struct Keeper {
    pub(super) options: Options,
    pub(super) state_id: String,
    pub(super) table: Table,
    pub(super) strays: Strays,
    pub(super) journal: Journal,
    pub(super) listeners: Listeners,
    pub(super) epoch: Epoch,
    /// One for each instance, where a subtree was given to us.
    cgroups: Option<Tree>,
    /// Some instances are not our children.
    pub(super) heir: bool,
    daemon: Daemon,
    spawner: Spawner,
    signals: OwnedFd,
    kills: BTreeMap<InstanceId, Kill>,
    /// Kills of instances that are just being spawned.
    doomed: Vec<InstanceId>,
    /// Ends of children that are not known yet: a program may end before its spawn is reported.
    early: BTreeMap<u32, Exit>,
    backlog: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
    pub(super) down: Option<Down>,
    kill_all_at: Option<Instant>,
    /// Whether the daemon has been told everything and hears reports.
    greeted: bool,
    done: Option<u8>,
    /// Starts since memory was last given back, and when it will be.
    starts: u32,
    trim_at: Option<Instant>,
}

/// What the keeper listens to.
pub const SIGNALS: [i32; 6] =
    [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGUSR2, libc::SIGPIPE];

impl Keeper {
    /// Takes over what an earlier keeper left, if anything, and is ready to run.
    pub fn new(options: Options) -> io::Result<Self> {
        process::become_subreaper()?;
        let signals = signals::descriptor(&SIGNALS)?;
        let state_id = options.state.identity()?;
        // Why there is none is said where somebody wants limits (E2013) and by `doctor`.
        let cgroups = Tree::claim(&state_id).ok();
        let spawner = Spawner::new(&options.state.run(), &state_id, options.nofile, cgroups.as_ref())?;
        let daemon = Daemon::new(options.program.clone(), options.daemon_arguments.clone());
        let journal_path = options.state.run().join("journal");
        let old = Journal::read(&journal_path)?;
        let mut keeper = Self {
            journal: Journal::create(&journal_path.with_extension("begin"), &[])?,
            options,
            state_id,
            table: Table::default(),
            listeners: Listeners::default(),
            strays: Strays::default(),
            epoch: Epoch(0),
            cgroups,
            heir: false,
            daemon,
            spawner,
            signals,
            kills: BTreeMap::new(),
            doomed: Vec::new(),
            early: BTreeMap::new(),
            backlog: VecDeque::new(),
            down: None,
            kill_all_at: None,
            greeted: false,
            done: None,
            starts: 0,
            trim_at: Some(clock::mono() + limits::TRIM_AFTER),
        };
        keeper.take_over(old)?;
        if let Some(tree) = &keeper.cgroups {
            tree.clean(|id| keeper.table.instances.contains_key(id));
        }
        let entries: Vec<Entry> = keeper.entries();
        let _ = std::fs::remove_file(keeper.journal.path());
        keeper.journal = Journal::create(&journal_path, &entries)?;
        Ok(keeper)
    }

    pub(super) fn begin_entry(&self) -> Entry {
        Entry::Begin {
            version: protocol::VERSION,
            boot: clock::boot_id(),
            epoch: self.epoch,
            incarnation: self.table.highest,
        }
    }

    /// The state as journal entries.
    fn entries(&self) -> Vec<Entry> {
        let held = self.table.entries().chain(self.listeners.entries());
        let down = self.down.clone().map(Entry::Down);
        std::iter::once(self.begin_entry()).chain(down).chain(held).collect()
    }

    /// Runs until everything has stopped; gives the exit code.
    pub fn run(mut self) -> io::Result<u8> {
        loop {
            self.start_daemon_if_due();
            self.wait()?;
            let mut ended = self.heir;
            for (signal, _) in signals::read(&self.signals) {
                ended |= signal == libc::SIGCHLD;
                self.signal(signal);
            }
            self.take_outcomes();
            // Looking costs as much as there are children: only when one has ended.
            if ended {
                self.collect_ends();
            }
            self.progress_kills();
            self.read_requests();
            self.kill_everything_if_due();
            self.flush_journal();
            self.rewrite_journal_if_grown();
            self.flush_backlog();
            if self.trim_at.is_some_and(|at| at <= clock::mono()) {
                self.trim_at = None;
                self.starts = 0;
                process::trim_memory();
            }
            if let Some(code) = self.done {
                self.leave();
                return Ok(code);
            }
        }
    }

    fn start_daemon_if_due(&mut self) {
        if self.daemon.start_at.is_some_and(|at| at <= clock::mono()) {
            self.greeted = false;
            self.backlog.clear();
            if let Err(error) = self.daemon.start() {
                eprintln!("unisys: cannot start the daemon: {error}; trying again");
                self.daemon.ended();
            }
        }
    }

    /// Sleeps until something happens.
    fn wait(&mut self) -> io::Result<()> {
        let now = clock::mono();
        let kills = (!self.kills.is_empty()).then(|| now + KILL_POLL);
        let deadlines = [self.daemon.start_at, kills, self.kill_all_at, self.trim_at];
        let timeout = deadlines.into_iter().flatten().min().map(|at| at.since(now));
        let timeout = timeout
            .map(|left| Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) });
        let mut fds =
            vec![PollFd::new(&self.signals, PollFlags::IN), PollFd::new(&self.spawner.wake, PollFlags::IN)];
        if let Some(socket) = &self.daemon.socket {
            let write = if self.backlog.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
            fds.push(PollFd::new(socket, PollFlags::IN | write));
        }
        if self.heir {
            let foreign = self.table.instances.values().flat_map(Instance::running);
            fds.extend(
                foreign
                    .filter(|(_, running)| !running.child)
                    .map(|(_, running)| PollFd::new(&running.pidfd, PollFlags::IN)),
            );
        }
        process::forget_program_if_asked();
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn signal(&mut self, signal: i32) {
        match signal {
            libc::SIGTERM | libc::SIGINT => {
                // A second SIGINT kills; a second SIGTERM says nothing new.
                let again = self.down.is_some() && signal == libc::SIGINT;
                if again {
                    self.kill_all_at.get_or_insert(clock::mono() + IMMEDIATE);
                }
                let immediate = again || self.down.as_ref().is_some_and(|down| down.immediate);
                self.goes_down(Down { by: protocol::signal_words(signal).into(), immediate });
                self.tell(&Report::Terminate { immediate, signal }, &[]);
            }
            libc::SIGHUP => self.tell(&Report::Reload, &[]),
            libc::SIGUSR2 => self.tell(&Report::UpgradeAsked, &[]),
            _ => {}
        }
    }

    fn flush_journal(&mut self) {
        if let Err(error) = self.journal.flush() {
            eprintln!(
                "unisys: cannot write {}: {error}; a restart of the keeper would not know this",
                self.journal.path().display()
            );
        }
    }

    /// Everything is to stop, whoever dies on the way.
    fn goes_down(&mut self, down: Down) {
        self.journal.write(&Entry::Down(down.clone()));
        // Before anybody acts on it: whoever dies next, it is known.
        self.flush_journal();
        self.down = Some(down);
    }

    // ---------------------------------------------------------------- requests

    fn read_requests(&mut self) {
        while let Some(socket) = &self.daemon.socket {
            match packet::receive(socket) {
                Ok(Some(packet)) => match serde_json::from_slice(&packet.bytes) {
                    Ok(request) => self.request(request, packet.fds),
                    Err(error) => {
                        self.tell(
                            &Report::Refused { id: None, why: format!("not understood: {error}") },
                            &[],
                        );
                    }
                },
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
        match request {
            Request::Hello { version: _, epoch } => self.greet(epoch),
            Request::Begin { epoch } if epoch > self.epoch => {
                self.epoch = epoch;
                self.journal.write(&Entry::Epoch { epoch });
            }
            Request::Begin { epoch } => self.refuse(None, &format!("epoch {epoch} is not new")),
            Request::Spawn(spawn) if self.fenced(spawn.epoch, Some(&spawn.id)) => self.spawn(spawn),
            Request::Signal { epoch, id, signal, pid } if self.fenced(epoch, Some(&id)) => {
                self.signal_instance(&id, signal, pid);
            }
            Request::Kill { epoch, id } if self.fenced(epoch, Some(&id)) => self.kill(id),
            Request::Forget { epoch, id } if self.fenced(epoch, Some(&id)) => self.forget(&id),
            Request::Remember { epoch, id, mark, generation, spec } if self.fenced(epoch, Some(&id)) => {
                if let Some(instance) = self.table.instances.get_mut(&id) {
                    if (instance.mark.role, mark.role) == (Role::Incoming, Role::Serving) {
                        self.listeners.take_place(&id);
                    }
                    instance.mark = mark;
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
            Request::Down { epoch, by } if self.fenced(epoch, None) && self.down.is_none() => {
                self.goes_down(Down { by, immediate: false });
            }
            Request::Exit { epoch, code } if self.fenced(epoch, None) => self.done = Some(code),
            Request::Upgrade { epoch } if self.fenced(epoch, None) => {
                if let Err(error) = self.upgrade() {
                    self.refuse(None, &format!("cannot become {}: {error}", self.options.program.display()));
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
        self.tell(&Report::Refused { id, why: why.to_owned() }, &[]);
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
        };
        self.tell(&welcome, &[]);
        let instances = std::mem::take(&mut self.table.instances);
        for (id, instance) in &instances {
            let fds = instance.pipes.as_ref().map(|pipes| pipes.fds()).unwrap_or_default();
            self.tell(&Report::Instance(Box::new(instance.held(id))), &fds);
        }
        self.table.instances = instances;
        self.tell(&Report::InventoryEnd, &[]);
        // For daemons that do not know what the welcome says of it.
        if let Some(Down { immediate, .. }) = self.down {
            self.tell(&Report::Terminate { immediate, signal: libc::SIGTERM }, &[]);
        }
    }

    fn spawn(&mut self, request: Box<Spawn>) {
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
                    Report::Exited { id: id.clone(), part, exit, remains: held.remains }
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
            parts: BTreeMap::new(),
            ports: Default::default(),
            listens: Vec::new(),
            signalled: None,
        });
        instance.spec.clone_from(&request.spec);
        let provided = match provided {
            Ok(provided) => provided,
            Err(BindError { errno, detail }) => {
                let stage = SpawnStage::Listeners;
                return self.tell(&Report::SpawnFailed { id, part, stage, errno, detail }, &[]);
            }
        };
        if part == Part::Main {
            let shared = request.ports.iter().filter(|need| matches!(need, PortNeed::Shared(_)));
            instance.listens = shared.map(|need| need.listen().clone()).collect();
            instance.ports = provided.numbers;
        }
        instance.parts.insert(part, PartState::Spawning);
        let needs_pipes = instance.pipes.is_none();
        let gifts = Gifts { handed: provided.handed, ports: instance.ports.clone() };
        self.spawner.start(request, needs_pipes, gifts);
    }

    /// The sockets and numbers that a main program is given.
    fn provide(&mut self, request: &Spawn) -> Result<Provided, BindError> {
        let taken: BTreeSet<u16> = self
            .table
            .instances
            .values()
            .flat_map(|instance| instance.ports.0.values().copied())
            .filter(|_| request.ports.iter().any(|need| !matches!(need, PortNeed::Shared(_))))
            .collect();
        let owner = request.user.as_ref().map(|(uid, gid, _)| (*uid, *gid));
        let provided = self.listeners.provide(&request.id, request.role, &request.ports, owner, &taken)?;
        for entry in &provided.opened {
            self.journal.write(entry);
        }
        Ok(provided)
    }

    /// Closes the listeners that neither the accepted revision nor any instance has a use for.
    fn close_unwanted(&mut self) {
        let in_use = self.table.instances.values().flat_map(|instance| &instance.listens).collect();
        for entry in self.listeners.close_unwanted(&in_use) {
            self.journal.write(&entry);
        }
    }

    fn signal_instance(&mut self, id: &InstanceId, signal: i32, pid: Option<u32>) {
        let Some(main) = self.table.instances.get(id).and_then(Instance::main) else { return };
        match pid.filter(|pid| *pid != main.pid) {
            // A main process that the program named itself; only one of the instance is reached.
            Some(pid) if process::descends(pid, main.pid) || self.strays.of(id).any(|stray| stray == pid) => {
                if let Some(handle) = process::open_any(pid) {
                    let _ = process::signal(&handle, signal);
                }
            }
            _ => drop(process::signal(&main.pidfd, signal)),
        }
        if let Some(instance) = self.table.instances.get_mut(id) {
            instance.signalled = Some(signal);
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
        self.table.instances.remove(id);
        if let Some(tree) = &self.cgroups {
            tree.remove(id);
        }
        PipeNames::of(&self.options.state.run(), id).remove();
        self.journal.write(&Entry::Forgot { id: id.clone() });
        self.close_unwanted();
    }

    // ---------------------------------------------------------------- processes

    fn take_outcomes(&mut self) {
        for outcome in self.spawner.outcomes() {
            self.starts += 1;
            if self.starts >= limits::MANY_STARTS {
                self.trim_at = Some(clock::mono() + limits::TRIM_AFTER);
            }
            self.outcome(outcome);
        }
        if self.spawner.in_flight == 0 && !self.early.is_empty() {
            self.early.clear();
        }
    }

    fn outcome(&mut self, outcome: Outcome) {
        let (id, part) = (outcome.request.id.clone(), outcome.request.part);
        let Some(instance) = self.table.instances.get_mut(&id) else { return };
        if outcome.pipes.is_some() {
            instance.pipes = outcome.pipes;
        }
        match outcome.result {
            Ok(started) => {
                let (pid, left_out) = (started.pid, started.left_out);
                let running = Running {
                    pid: started.pid,
                    start: started.start,
                    at: started.at,
                    pidfd: started.pidfd,
                    child: true,
                };
                let held: HeldPart = running.held(part);
                instance.parts.insert(part, PartState::Running(running));
                let entry = match (part, instance.parts.len()) {
                    // With the numbers and listeners that only the main program has.
                    (Part::Main, _) | (_, 1) => Entry::Instance(Box::new(instance.held(&id))),
                    _ => Entry::Part { id: id.clone(), part: held },
                };
                self.journal.write(&entry);
                self.table.by_pid.insert(started.pid, (id.clone(), part));
                let ports = instance.ports.clone();
                let report = Report::Spawned { id: id.clone(), part, pid, at: started.at, ports, left_out };
                self.tell_with_pipes(&report, &id);
                if let Some(exit) = self.early.remove(&started.pid) {
                    self.ended(started.pid, exit);
                }
            }
            Err(failed) => {
                instance.parts.remove(&part);
                let report = Report::SpawnFailed {
                    id: id.clone(),
                    part,
                    stage: failed.stage,
                    errno: failed.errno,
                    detail: failed.detail,
                };
                self.tell(&report, &[]);
            }
        }
        if let Some(at) = self.doomed.iter().position(|doomed| *doomed == id) {
            self.doomed.swap_remove(at);
            self.kill(id);
        }
    }

    fn collect_ends(&mut self) {
        let mut ends = process::reap();
        if self.heir {
            let foreign = self.table.instances.values().flat_map(Instance::running);
            ends.extend(
                foreign.filter(|(_, running)| !running.child && process::has_ended(&running.pidfd)).map(
                    |(_, running)| {
                        (running.pid, process::exit_by_handle(&running.pidfd, running.pid, running.start))
                    },
                ),
            );
        }
        // Spawns whose outcome came while we looked belong to the table first.
        if !ends.is_empty() {
            self.take_outcomes();
        }
        let mut looked = false;
        for (pid, exit) in ends {
            if self.daemon.pid == Some(pid) {
                self.daemon_ended(exit);
            } else if self.table.by_pid.contains_key(&pid) {
                if !std::mem::replace(&mut looked, true) {
                    self.look_for_strays();
                }
                self.ended(pid, exit);
            } else if self.spawner.in_flight > 0 {
                self.early.insert(pid, exit);
            }
        }
    }

    fn daemon_ended(&mut self, exit: Exit) {
        // What it asked for before it died is done: its successor would only ask again, and believe that it were the first.
        self.read_requests();
        self.daemon.ended();
        self.greeted = false;
        // Another try would end the same; as exit codes of `up`.
        let hopeless =
            [(protocol::EXIT_INVALID, 1), (protocol::EXIT_CANNOT, 1), (protocol::EXIT_NOT_FOUND, 4)];
        if self.table.instances.is_empty() {
            let found = hopeless.iter().find(|(code, _)| exit == Exit::Code((*code).into()));
            self.done = found.map(|(_, code)| *code).or(self.done);
        }
        if self.done.is_none() {
            let when = match self.daemon.start_at {
                Some(at) if at > clock::mono() => "it is started again soon",
                _ => "it is started again",
            };
            eprintln!("unisys: the daemon ended ({exit}); {when}, services are not touched");
        }
    }

    fn ended(&mut self, pid: u32, exit: Exit) {
        let Some((id, part)) = self.table.by_pid.get(&pid).cloned() else { return };
        let tree = self.cgroups.as_ref();
        let killed = matches!(exit, Exit::Signal { signal: libc::SIGKILL, .. });
        let exit = match tree.filter(|tree| killed && tree.oom_kills(&id) > 0) {
            Some(_) => Exit::OomKilled,
            None => exit,
        };
        let remains = part == Part::Main
            && (process::group_lives(pid)
                || self.strays.of(&id).next().is_some()
                || tree.is_some_and(|tree| !tree.processes(&id).is_empty()));
        self.table.ended(pid, exit, remains);
        self.journal.write(&Entry::Exited { id: id.clone(), part, exit, remains });
        self.tell(&Report::Exited { id, part, exit, remains }, &[]);
    }

    fn look_for_strays(&mut self) {
        let (table, strays) = (&self.table, &mut self.strays);
        let run = self.options.state.run();
        let owner = owner!(self, &run);
        strays.refresh(table, &owner);
    }

    fn kill(&mut self, id: InstanceId) {
        match self.table.instances.get(&id) {
            None => return self.tell(&Report::Gone { id, survivors: Vec::new() }, &[]),
            Some(instance) if instance.is_spawning() => return self.doomed.push(id),
            Some(_) => {}
        }
        if self.kills.contains_key(&id) {
            return;
        }
        let run = self.options.state.run();
        let owner = owner!(self, &run);
        let kill = Kill::begin(&self.table, &mut self.strays, &owner, &id);
        self.kills.insert(id, kill);
    }

    fn progress_kills(&mut self) {
        if self.kills.is_empty() {
            return;
        }
        let run = self.options.state.run();
        let owner = owner!(self, &run);
        let mut over = Vec::new();
        for (id, kill) in &mut self.kills {
            if let Some(survivors) = kill.progress(&self.table, &mut self.strays, &owner, id) {
                over.push((id.clone(), survivors));
            }
        }
        if over.is_empty() {
            return;
        }
        // Ends that are already there are told before the word that nothing is left.
        self.collect_ends();
        for (id, survivors) in over {
            self.kills.remove(&id);
            self.tell(&Report::Gone { id, survivors }, &[]);
        }
    }

    fn kill_everything_if_due(&mut self) {
        if self.kill_all_at.is_some_and(|at| at <= clock::mono()) {
            let ids: Vec<InstanceId> = self.table.instances.keys().cloned().collect();
            for id in &ids {
                self.kill(id.clone());
            }
            for _ in 0..200 {
                self.progress_kills();
                self.collect_ends();
                if self.kills.is_empty() {
                    break;
                }
                std::thread::sleep(KILL_POLL);
            }
            self.done = Some(130);
        }
    }

    // ---------------------------------------------------------------- telling

    fn tell_with_pipes(&mut self, report: &Report, id: &InstanceId) {
        let pipes = self.table.instances.get_mut(id).and_then(|instance| instance.pipes.take());
        let fds = pipes.as_ref().map(|pipes| pipes.fds()).unwrap_or_default();
        self.tell(report, &fds);
        drop(fds);
        if let Some(instance) = self.table.instances.get_mut(id) {
            instance.pipes = pipes;
        }
    }

    /// A report for a daemon that is not there is not kept: the next one hears the state as a whole.
    fn tell(&mut self, report: &Report, fds: &[BorrowedFd<'_>]) {
        let Some(socket) = self.daemon.socket.as_ref().filter(|_| self.greeted) else { return };
        let Ok(bytes) = serde_json::to_vec(report) else { return };
        if self.backlog.is_empty() && packet::send(socket, &bytes, fds).is_ok() {
            return;
        }
        let copies: io::Result<Vec<OwnedFd>> = fds.iter().map(|fd| fd.try_clone_to_owned()).collect();
        match copies {
            Ok(copies) if self.backlog.len() < BACKLOG => self.backlog.push_back((bytes, copies)),
            _ => {
                // It does not read, or there are no descriptors left: a new daemon hears everything from the start.
                eprintln!("unisys: the daemon does not keep up; it is started again");
                if let Some(handle) = self.daemon.pid.and_then(process::open_any) {
                    let _ = process::signal(&handle, libc::SIGKILL);
                }
                self.daemon.socket = None;
                self.greeted = false;
            }
        }
    }

    fn flush_backlog(&mut self) {
        while let (Some(socket), Some((bytes, fds))) = (&self.daemon.socket, self.backlog.front()) {
            let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
            match packet::send(socket, bytes, &borrowed) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                _ => drop(self.backlog.pop_front()),
            }
        }
    }

    fn rewrite_journal_if_grown(&mut self) {
        if self.journal.wants_rewrite() {
            let entries: Vec<Entry> = self.entries();
            if let Ok(journal) = Journal::create(self.journal.path(), &entries) {
                self.journal = journal;
            }
        }
    }

    /// Nothing is left to keep: the daemon goes, then the files that only a running system has.
    fn leave(&mut self) {
        self.daemon.socket = None;
        self.end_daemon();
        if self.table.instances.is_empty() {
            self.listeners.close_all();
            let _ = std::fs::remove_file(self.journal.path());
            let _ = std::fs::remove_file(self.options.state.socket());
            if let Some(tree) = &self.cgroups {
                tree.leave(std::process::id());
            }
        }
    }

    fn end_daemon(&self) {
        if let Some(handle) = self.daemon.pid.and_then(process::open_any) {
            let mut fds = [PollFd::new(&handle, PollFlags::IN)];
            let _ = poll(&mut fds, Some(&Timespec { tv_sec: 3, tv_nsec: 0 }));
            if !process::has_ended(&handle) {
                let _ = process::signal(&handle, libc::SIGKILL);
            }
        }
    }
}

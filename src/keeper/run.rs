//! The keeper's loop: requests of the daemon, outcomes of spawns, ends of children, signals of people.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::base::{Epoch, Exit, InstanceId, Instant, Spent, limits};
use crate::os::cgroup::Tree;
use crate::os::emptied::Emptied;
use crate::os::state_dir::StateDir;
use crate::os::voice::complain;
use crate::os::{clock, inherit, own, process, signals};

use super::cgroups::OomKills;
use super::contain::{Kill, Strays};
use super::crew::{Crew, Duty};
use super::daemon::Daemon;
use super::ends::Unheard;
use super::fifos::Fifos;
use super::journal::{Entry, Journal};
use super::listeners::Listeners;
use super::protocol::{self, Died, Down, Report};
use super::spawner::{self, Job, Spawner};
use super::table::{Instance, Table};

/// How often a kill that is under way is looked at: members that are not our children end without a signal to us.
pub(super) const KILL_POLL: Duration = Duration::from_millis(5);
/// So long after the first signal to stop a SIGINT is a second one.
const AGAIN: Duration = Duration::from_millis(500);
/// After a second SIGINT the daemon has this long to kill everything; then the keeper does it.
pub(super) const IMMEDIATE: Duration = Duration::from_secs(8);

/// Of each of its threads.
const STACK: usize = 512 << 10;

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
    /// A daemon started it in place of one that was killed, and goes on with what that one was at; a person who starts one means
    /// it.
    pub heir: Option<Heritage>,
    /// Arguments with which this keeper was started, for its own `exec`.
    pub own_arguments: Vec<String>,
    pub nofile: (u64, u64),
}

/// What an earlier image of this process left open.
pub struct Resumed {
    pub lock: OwnedFd,
    pub kept: BTreeMap<String, Vec<i32>>,
}

/// What the daemon of a keeper that was killed leaves to the next one.
#[derive(Debug, Default)]
pub struct Heritage {
    /// Who was killed: whose lock is taken over.
    pub of: u32,
    /// Open descriptors over which instances tell: programs stay connected to the very socket or pipe. And handles of their main
    /// processes ([`Heritage::of_main`]).
    pub notify: BTreeMap<String, i32>,
}

impl Heritage {
    /// What the handle of an instance's main process is called: a keeper that knows none leaves it alone.
    pub fn of_main(id: &InstanceId) -> String {
        format!("{id} main")
    }

    pub(super) fn take(&mut self, key: &str) -> Option<OwnedFd> {
        self.notify.remove(key).and_then(|number| inherit::take(number).ok())
    }
}

pub struct Keeper {
    pub(super) options: Options,
    pub(super) state_id: String,
    pub(super) table: Table,
    pub(super) strays: Strays,
    pub(super) journal: Journal,
    /// Why it cannot be written, while it cannot.
    pub(super) journal_error: Option<String>,
    pub(super) listeners: Listeners,
    pub(super) epoch: Epoch,
    /// One for each instance, where a subtree was given to us.
    pub(super) cgroups: Option<Tree>,
    /// Tells of cgroups that have become empty.
    pub(super) emptied: Option<Emptied>,
    pub(super) oom_kills: BTreeMap<InstanceId, OomKills>,
    /// Some instances are not our children.
    pub(super) heir: bool,
    pub(super) daemon: Daemon,
    pub(super) spawner: Spawner,
    pub(super) fifos: Fifos,
    pub(super) signals: OwnedFd,
    pub(super) kills: BTreeMap<InstanceId, Kill>,
    /// Kills of instances that are just being spawned.
    pub(super) doomed: Vec<InstanceId>,
    /// Ends of children that are not known yet: a program may end before its spawn is reported.
    pub(super) early: BTreeMap<u32, (Exit, Option<Spent>)>,
    /// Ends that are told once it has been read what the programs said before.
    pub(super) unheard: Vec<Unheard>,
    /// Reports that wait, some with the pipes of an instance.
    pub(super) backlog: VecDeque<(Vec<u8>, Option<InstanceId>)>,
    /// They wait for descriptors, not for room in the socket: tried again like a kill.
    pub(super) choked: bool,
    pub(super) down: Option<Down>,
    pub(super) kill_all_at: Option<Instant>,
    /// When it was first told to stop everything by a signal.
    down_at: Option<Instant>,
    /// What the next daemon is to hear: in whose place it comes.
    pub(super) died: Option<Died>,
    /// Whether the daemon has been told everything and hears reports.
    pub(super) greeted: bool,
    pub(super) done: Option<u8>,
    /// Starts since memory was last given back, and when it will be.
    pub(super) starts: u32,
    pub(super) trim_at: Option<Instant>,
}

/// What the keeper listens to. The last three would stop it, and with it all that is watched over: Ctrl-Z, and what is written to a
/// terminal from the background (`stty tostop`, termios(3)).
pub const SIGNALS: [i32; 9] = [
    libc::SIGCHLD,
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGHUP,
    libc::SIGUSR2,
    libc::SIGPIPE,
    libc::SIGTSTP,
    libc::SIGTTOU,
    libc::SIGTTIN,
];

/// What only the thread has that leads.
pub(super) struct Lead {
    keeper: Keeper,
    over: Sender<io::Result<u8>>,
}

impl Lead {
    /// Listens and answers until it has a program to start and another thread leads, or everything is over.
    fn lead(mut self: Box<Self>, crew: &Crew<Box<Self>, Job>) -> Option<Job> {
        loop {
            let result = self.keeper.turn();
            if let Some(result) = result.transpose() {
                let Self { keeper, over } = *self;
                drop(keeper);
                let _ = over.send(result);
                return None;
            }
            match crew.hand_over(self) {
                Ok(job) => return Some(job),
                Err(lead) => self = lead,
            }
        }
    }
}

impl Keeper {
    /// Takes over what an earlier keeper left, if anything, and is ready to run.
    pub fn new(options: Options) -> io::Result<Self> {
        // An earlier image of this process has begun nothing for others.
        let begun_by_others =
            if options.kept.is_some() { Vec::new() } else { process::adopted().unwrap_or_default() };
        let died = options.heir.as_ref().map(|heir| Died::Keeper { pid: heir.of });
        own::become_subreaper()?;
        let signals = signals::descriptor(&SIGNALS)?;
        let state_id = options.state.identity()?;
        // Why there is none is said where somebody wants limits (E2013) and by `doctor`.
        let cgroups = Tree::claim(&state_id).ok();
        let run = options.state.run();
        let spawner = Spawner::new(&run, &state_id, options.nofile, cgroups.as_ref())?;
        let daemon = Daemon::new(options.program.clone(), options.daemon_arguments.clone());
        let journal_path = options.state.journal();
        let old = Journal::read(&journal_path)?;
        let mut keeper = Self {
            journal: Journal::unwritten(&journal_path, clock::mono()),
            journal_error: None,
            options,
            state_id,
            table: Table::default(),
            listeners: Listeners::default(),
            strays: Strays::beside(begun_by_others),
            epoch: Epoch(0),
            oom_kills: BTreeMap::new(),
            emptied: cgroups.as_ref().and_then(|_| Emptied::new().ok()),
            cgroups,
            heir: false,
            daemon,
            spawner,
            fifos: Fifos::new(&run),
            signals,
            kills: BTreeMap::new(),
            doomed: Vec::new(),
            early: BTreeMap::new(),
            unheard: Vec::new(),
            backlog: VecDeque::new(),
            choked: false,
            down: None,
            kill_all_at: None,
            down_at: None,
            died,
            greeted: false,
            done: None,
            starts: 0,
            trim_at: Some(clock::mono() + limits::TRIM_AFTER),
        };
        keeper.take_over(old)?;
        let known = |id: &InstanceId| keeper.table.instances.contains_key(id);
        spawner::clean_private(&keeper.options.state.run(), known);
        keeper.fifos.clean(&keeper.table.instances.values().filter_map(|instance| instance.fifos).collect());
        if let Some(tree) = &keeper.cgroups {
            tree.clean(known);
        }
        keeper.watch_cgroups();
        let entries: Vec<Entry> = keeper.entries();
        // Services that run need a keeper more than a journal: the one of the earlier keeper stays until there is room.
        match Journal::create(&journal_path, &entries) {
            Ok(journal) => keeper.journal = journal,
            Err(error) => keeper.journal_blocked(&error),
        }
        Ok(keeper)
    }

    fn begin_entry(&self) -> Entry {
        Entry::Begin {
            version: protocol::VERSION,
            boot: clock::boot_id(),
            first: clock::first(),
            epoch: self.epoch,
            incarnation: self.table.highest,
        }
    }

    /// The state as journal entries.
    pub(super) fn entries(&self) -> Vec<Entry> {
        let held = self.table.entries().chain(self.listeners.entries());
        let down = self.down.clone().map(Entry::Down);
        let unheard = self.unheard.iter().map(Unheard::entry);
        std::iter::once(self.begin_entry()).chain(down).chain(held).chain(unheard).collect()
    }

    /// Runs until everything has stopped; gives the exit code.
    pub fn run(self) -> io::Result<u8> {
        let crew = self.spawner.crew.clone();
        for (index, mut hand) in self.spawner.hands()?.into_iter().enumerate() {
            let crew = crew.clone();
            let work = move || {
                while let Some(duty) = crew.duty() {
                    let job = match duty {
                        Duty::Lead(lead) => lead.lead(&crew),
                        Duty::Job(job) => Some(job),
                    };
                    job.into_iter().for_each(|job| hand.start(job));
                }
            };
            thread::Builder::new().name(format!("keeper{index}")).stack_size(STACK).spawn(work)?;
        }
        let (over, result) = channel();
        crew.begin(Box::new(Lead { keeper: self, over }));
        // A thread that starts a program may be waited for in vain: this one goes as soon as the leader says so.
        result.recv().map_err(|_| io::Error::other("its leading thread has ended"))?
    }

    /// Waits for something to happen and does what follows; the exit code once it is over.
    fn turn(&mut self) -> io::Result<Option<u8>> {
        self.start_daemon_if_due();
        self.wait()?;
        let mut ended = self.heir;
        for (signal, _) in signals::read(&self.signals) {
            if signal == libc::SIGCHLD {
                ended = true;
                // The daemon may have been stopped (CLD_STOPPED, sigaction(2)).
                self.daemon.attention.stirred(clock::mono());
            }
            self.signal(signal);
        }
        self.take_outcomes();
        // Looking costs as much as there are children: only when one has ended.
        if ended {
            self.collect_ends();
        }
        self.look_who_left();
        self.progress_kills();
        // What has ended is written down, and told, before the daemon's wishes are seen to.
        self.flush_journal();
        self.flush_backlog();
        let heard = self.heard_out();
        self.read_requests();
        heard.into_iter().for_each(|end| self.heard_end(end));
        self.look_at_daemon();
        self.kill_everything_if_due();
        self.flush_journal();
        self.rewrite_journal_if_due();
        self.flush_backlog();
        if self.trim_at.is_some_and(|at| at <= clock::mono()) {
            self.trim_at = None;
            self.starts = 0;
            own::trim_memory();
        }
        if self.done.is_some() {
            self.leave();
        }
        Ok(self.done)
    }

    fn start_daemon_if_due(&mut self) {
        if self.daemon.start_at.is_some_and(|at| at <= clock::mono()) {
            self.greeted = false;
            self.backlog.clear();
            if let Err(error) = self.daemon.start() {
                complain!("unisys: cannot start the daemon: {error}; trying again");
                self.daemon.ended();
            }
        }
    }

    /// Sleeps until something happens.
    fn wait(&mut self) -> io::Result<()> {
        let now = clock::mono();
        let soon = !self.kills.is_empty() || self.choked || !self.unheard.is_empty();
        let kills = soon.then(|| now + KILL_POLL);
        let deadlines = [
            self.daemon.start_at,
            self.daemon.attention.due(),
            kills,
            self.kill_all_at,
            self.trim_at,
            self.journal.behind(),
        ];
        let timeout = deadlines.into_iter().flatten().min().map(|at| at.since(now));
        let timeout = timeout
            .map(|left| Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) });
        let mut fds =
            vec![PollFd::new(&self.signals, PollFlags::IN), PollFd::new(self.spawner.wake(), PollFlags::IN)];
        if let Some(socket) = &self.daemon.socket {
            let waits = !self.backlog.is_empty() && !self.choked;
            let write = if waits { PollFlags::OUT } else { PollFlags::empty() };
            fds.push(PollFd::new(socket, PollFlags::IN | write));
        }
        fds.extend(self.emptied.as_ref().map(|emptied| PollFd::new(emptied, PollFlags::IN)));
        if self.heir {
            let foreign = self.table.instances.values().flat_map(Instance::running);
            fds.extend(
                foreign
                    .filter(|(_, running)| {
                        !running.child && !self.unheard.iter().any(|end| end.pid() == running.pid)
                    })
                    .map(|(_, running)| PollFd::new(&running.pidfd, PollFlags::IN)),
            );
        }
        own::forget_program_if_asked();
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn signal(&mut self, signal: i32) {
        match signal {
            libc::SIGTERM | libc::SIGINT => {
                // A second SIGINT kills; a second SIGTERM says nothing new, nor does one that is the same key pressed: a terminal and
                // a program between it and us (`timeout`, `npm`) both send it.
                let now = clock::mono();
                let again = signal == libc::SIGINT && self.down_at.is_some_and(|at| now.since(at) >= AGAIN);
                if again {
                    self.kill_all_at.get_or_insert(clock::mono() + IMMEDIATE);
                }
                let immediate = again || self.down.as_ref().is_some_and(|down| down.immediate);
                self.down_at.get_or_insert(now);
                let until = self.down.as_ref().and_then(|down| down.until);
                self.goes_down(Down { by: protocol::signal_words(signal).into(), immediate, until });
                self.tell(&Report::Terminate { immediate, signal });
            }
            libc::SIGHUP => self.tell(&Report::Reload),
            // Without a daemon that could be asked, none may be what is to be mended.
            libc::SIGUSR2 if !self.greeted => {
                if let Err(error) = self.upgrade() {
                    complain!("unisys: cannot become {}: {error}", self.options.program.display());
                }
            }
            libc::SIGUSR2 => self.tell(&Report::UpgradeAsked),
            libc::SIGTSTP => complain!(
                "unisys: not stopped, since nobody would watch over the services; Ctrl-C ends everything, `unisys up --detach` \
                 leaves the terminal free"
            ),
            _ => {}
        }
    }

    pub(super) fn flush_journal(&mut self) {
        if let Err(error) = self.journal.flush(clock::mono()) {
            self.journal_blocked(&error);
        }
    }

    /// Somebody removed what only a running system has: programs could not be started without it, and the next keeper would not know
    /// of those that run.
    pub(super) fn restore_run(&mut self) {
        let state = &self.options.state;
        if !state.is_held_by(&self.options.lock) {
            return;
        }
        if let Ok(true) = state.restore_run(&self.state_id) {
            self.journal = Journal::unwritten(&state.journal(), clock::mono());
            complain!("unisys: somebody removed {}; it is there again", state.run().display());
        }
    }

    fn journal_blocked(&mut self, error: &io::Error) {
        let path = self.journal.path().display();
        complain!("unisys: cannot write {path}: {error}; a restart of the keeper would not know everything");
        self.journal_error = Some(error.to_string());
        self.tell_of_journal();
    }

    /// The daemon says it to people.
    pub(super) fn tell_of_journal(&mut self) {
        self.tell(&Report::Journal { blocked: self.journal_error.clone() });
    }

    fn rewrite_journal_if_due(&mut self) {
        if !self.journal.wants_rewrite(clock::mono()) {
            return;
        }
        if !self.options.state.is_held_by(&self.options.lock) {
            return self.journal.wait(clock::mono());
        }
        let entries: Vec<Entry> = self.entries();
        match Journal::create(self.journal.path(), &entries) {
            Ok(journal) => {
                self.journal = journal;
                if self.journal_error.take().is_some() {
                    self.tell_of_journal();
                }
            }
            Err(_) => self.journal.wait(clock::mono()),
        }
    }
}

//! Taking over: from an earlier keeper that was killed (by its journal), or from an earlier image of this very process (by
//! its journal and the descriptors that it kept open).

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::io::FdFlags;

use crate::base::{Exit, Generation, InstanceId, Listen, Part};
use crate::os::voice::{self, complain};
use crate::os::{clock, files, process};

use super::fifos;
use super::journal::{Entry, Journal};
use super::listeners;
use super::protocol::{Held, HeldPart, Notify};
use super::run::{Heritage, Keeper};
use super::spawner;
use super::table::{Instance, PartState, Pipes, Replayed, Running, Table};

/// Starts that are under way are waited for this long before the keeper becomes another image.
const STARTS: Duration = Duration::from_secs(10);

impl Keeper {
    /// Adopts what the journal speaks of. A process is recognised by pid and start time, and only in the boot it was started in.
    pub(super) fn take_over(&mut self, entries: Vec<Entry>) -> io::Result<()> {
        let same_boot = entries.iter().any(Entry::begins_here);
        for entry in &entries {
            match entry {
                Entry::Begin { epoch, incarnation, .. } => {
                    self.epoch = self.epoch.max(*epoch);
                    self.table.note_incarnation(*incarnation);
                }
                Entry::Epoch { epoch } => self.epoch = self.epoch.max(*epoch),
                Entry::Down(down) if self.options.heir.is_some() || self.options.kept.is_some() => {
                    self.hold_to(down);
                    self.down = Some(down.clone());
                    self.fifos.close();
                }
                Entry::Instance(held) => self.table.note_incarnation(held.id.incarnation),
                _ => {}
            }
        }
        let same_process = self.options.kept.is_some();
        let Replayed { held, starting } = Table::replay(entries.clone());
        for (id, mut held) in held {
            // One that cannot be had is no reason to leave the others without a keeper.
            let pipes = self.reopen(&id, &mut held).map_err(|error| {
                let why = files::why(&error);
                complain!("unisys: cannot open what {id} writes to: {why}; it runs on, and what it writes is not heard");
            });
            let parts: BTreeMap<Part, PartState> = held
                .parts
                .iter()
                .map(|part| (part.part, self.resume_part(&id, part, same_boot, same_process)))
                .collect();
            for (part, state) in &parts {
                if let PartState::Running(running) = state {
                    self.heir |= !running.child;
                    self.table.by_pid.insert(running.pid, (id.clone(), *part));
                }
            }
            self.table.instances.insert(id, instance(held, pipes.ok(), parts));
        }
        self.adopt_marked(&entries);
        self.take_up_output(starting, &entries, same_boot);
        if same_boot {
            self.take_over_listeners(&entries);
        }
        Ok(())
    }

    /// The pipes of an instance that an earlier keeper made: those that were left open are taken as they are.
    fn reopen(&mut self, id: &InstanceId, held: &mut Held) -> io::Result<Pipes> {
        let key = id.to_string();
        if let Some(pipes) =
            self.options.kept.as_mut().and_then(|kept| kept.remove(&key)).and_then(spawner::kept)
        {
            return Ok(pipes);
        }
        let left = self.options.heir.as_mut().and_then(|heir| heir.take(&key));
        held.mark.unheard |= left.is_none() && held.notify == Notify::Socket;
        spawner::reopen(&self.options.state.run(), id, held.fifos, held.notify, left)
    }

    fn take_over_listeners(&mut self, entries: &[Entry]) {
        let table = &self.table;
        let holders = |listen: &Listen| -> Vec<u32> {
            let of = table.instances.values().filter(|instance| instance.listens.contains(listen));
            let mains: Vec<u32> = of.filter_map(Instance::main).map(|running| running.pid).collect();
            process::tree(&mains).into_keys().collect()
        };
        self.listeners.take_over(entries, self.options.kept.as_ref(), &holders);
    }

    fn resume_part(
        &mut self,
        id: &InstanceId,
        part: &HeldPart,
        same_boot: bool,
        same_process: bool,
    ) -> PartState {
        if part.exit.is_some() {
            return PartState::Ended { held: Box::new(part.clone()) };
        }
        let heir = self.options.heir.as_mut().filter(|_| part.part == Part::Main);
        let left = heir.and_then(|heir| heir.take(&Heritage::of_main(id)));
        // One that an even earlier keeper started stays nobody's child here, also after an exec.
        let child =
            same_process && process::stat(part.pid).is_some_and(|stat| stat.ppid == std::process::id());
        let handle = match (left, child) {
            // It tells of one that has ended, too.
            (Some(handle), _) => Some(handle),
            // Our own child: even one that has ended waits for us.
            (None, true) => process::open_any(part.pid),
            (None, false) => process::open(part.pid, part.start).ok().flatten().filter(|_| same_boot),
        };
        match handle {
            Some(pidfd) => {
                PartState::Running(Running { pid: part.pid, start: part.start, at: part.at, pidfd, child })
            }
            None => {
                // Its new parent may not have collected it yet.
                let exit = process::exit_of_zombie(part.pid, part.start).filter(|_| same_boot);
                let exit = Some(exit.unwrap_or(Exit::Unknown));
                let held = HeldPart { exit, remains: same_boot, rebooted: !same_boot, ..part.clone() };
                PartState::Ended { held: Box::new(held) }
            }
        }
    }

    /// Processes that carry our marker and are in no journal: the earlier keeper was killed between their start and its
    /// writing. Of what they were started with nothing is known but its generation. They may be the only ones that have their unit's
    /// listeners still.
    fn adopt_marked(&mut self, entries: &[Entry]) {
        let prefix = format!("{}/", self.state_id);
        for stat in process::all() {
            let Some(value) = process::environ_value(stat.pid, InstanceId::MARKER) else { continue };
            let Some(id) = value.strip_prefix(&prefix).and_then(|text| text.parse().ok()) else { continue };
            if self.table.instances.contains_key(&id) || stat.sid != stat.pid {
                continue;
            }
            let Ok(Some(pidfd)) = process::open(stat.pid, stat.start) else { continue };
            let run = self.options.state.run();
            let stdout = process::opened(stat.pid, 1).filter(|path| path.parent() == Some(&run));
            let fifos = stdout.and_then(|path| fifos::number_of(&path));
            let Ok(pipes) = spawner::reopen(&run, &id, fifos, Default::default(), None) else { continue };
            let generation = process::environ_value(stat.pid, spawner::GENERATION);
            let generation = generation.and_then(|number| number.parse().ok()).map(Generation);
            let at = stat.started_at();
            let running = Running { pid: stat.pid, start: stat.start, at, pidfd, child: false };
            self.heir = true;
            self.table.note_incarnation(id.incarnation);
            self.table.by_pid.insert(stat.pid, (id.clone(), Part::Main));
            let parts = BTreeMap::from([(Part::Main, PartState::Running(running))]);
            let generation = generation.unwrap_or_default();
            let held = Held { generation, ..bare(&id, fifos, entries) };
            self.table.instances.insert(id, instance(held, Some(pipes), parts));
        }
    }

    /// Instances that were being started when the earlier keeper was killed, and of which no process lives: one that wrote
    /// something ran and has ended, and its output is taken up.
    fn take_up_output(&mut self, starting: BTreeMap<InstanceId, u64>, entries: &[Entry], same_boot: bool) {
        let run = self.options.state.run();
        for (id, number) in starting {
            let wrote = fifos::paths(&run, number).iter().any(|path| fifos::is_written(path));
            if self.table.instances.contains_key(&id) || !wrote {
                continue;
            }
            let Ok(pipes) = spawner::reopen(&run, &id, Some(number), Default::default(), None) else {
                continue;
            };
            self.table.note_incarnation(id.incarnation);
            let main = HeldPart {
                part: Part::Main,
                pid: 0,
                start: 0,
                at: clock::mono(),
                exit: Some(Exit::Unknown),
                remains: true,
                spent: None,
                rebooted: !same_boot,
            };
            let parts = BTreeMap::from([(Part::Main, PartState::Ended { held: Box::new(main) })]);
            let held = bare(&id, Some(number), entries);
            self.table.instances.insert(id, instance(held, Some(pipes), parts));
        }
    }

    /// Waits until no start is under way: the threads end with this image, and with them who knows what they started.
    fn finish_starts(&mut self) -> io::Result<()> {
        self.spawner.crew.leave_to_others();
        let deadline = clock::mono() + STARTS;
        while self.spawner.in_flight > 0 {
            let left = deadline.since(clock::mono());
            if left.is_zero() {
                return Err(io::Error::other("a program is still being started; try again later"));
            }
            process::readable_within(self.spawner.wake(), left);
            self.take_outcomes();
        }
        Ok(())
    }

    /// Becomes the binary on disk. Children stay children, the lock and the instances' descriptors stay open; the journal
    /// says the rest.
    ///
    /// # Errors
    /// It does not run, or execve(2) failed: everything is as it was.
    pub(super) fn upgrade(&mut self) -> io::Result<()> {
        try_out(&self.options.program)?;
        self.finish_starts()?;
        // The next image knows of no end that is not written.
        std::mem::take(&mut self.unheard).into_iter().for_each(|end| self.heard_end(end));
        self.journal.flush(clock::mono())?;
        if self.journal.behind().is_some() {
            // The next image knows only what is written.
            self.journal = Journal::create(self.journal.path(), &self.entries())?;
        }
        let mut kept: BTreeMap<String, Vec<i32>> = BTreeMap::new();
        let mut open: Vec<BorrowedFd<'_>> = vec![self.options.lock.as_fd()];
        for (id, instance) in &self.table.instances {
            let Some(pipes) = &instance.pipes else { continue };
            kept.insert(id.to_string(), pipes.fds().iter().map(AsRawFd::as_raw_fd).collect());
            open.extend(pipes.fds());
        }
        for (key, fd) in self.listeners.kept() {
            kept.entry(key).or_default().push(fd.as_raw_fd());
            open.push(fd);
        }
        let memory = rustix::fs::memfd_create("unisys-kept", rustix::fs::MemfdFlags::empty())?;
        let mut text = std::fs::File::from(memory);
        serde_json::to_writer(&mut text, &kept)?;
        open.push(text.as_fd());
        for fd in &open {
            rustix::io::fcntl_setfd(fd, FdFlags::empty())?;
        }
        let word = |text: &str| CString::new(text).map_err(|_| io::Error::other("a NUL byte in an argument"));
        let path = CString::new(self.options.program.as_os_str().as_bytes())
            .map_err(|_| io::Error::other("a NUL byte in a path"))?;
        let lock = format!("{}", self.options.lock.as_raw_fd());
        let mut argv = vec![
            path.clone(),
            word("keeper")?,
            word("--resume")?,
            word(&format!("{}:{lock}", text.as_raw_fd()))?,
        ];
        for argument in &self.options.own_arguments {
            argv.push(word(argument)?);
        }
        voice::finish();
        // Signals stay blocked across it (execve(2)): none is lost, and if it fails they are still ours.
        let mut pointers: Vec<*const libc::c_char> = argv.iter().map(|word| word.as_ptr()).collect();
        pointers.push(std::ptr::null());
        // SAFETY: every pointer refers to a C string that lives until the call returns, which it does only on failure.
        unsafe { libc::execv(path.as_ptr(), pointers.as_ptr()) };
        let error = io::Error::last_os_error();
        for fd in &open {
            let _ = rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC);
        }
        Err(error)
    }
}

/// There is no way back from execve(2): what is no whole program, or another one, must not get that far.
fn try_out(program: &Path) -> io::Result<()> {
    const TIME: Duration = Duration::from_secs(10);
    let mut command = Command::new(program);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    let mut said = [0; 64];
    let mut length = 0;
    if let Some(output) = child.stdout.take().map(OwnedFd::from)
        && process::readable_within(&output, TIME)
    {
        length = rustix::io::read(&output, &mut said)?;
    }
    let _ = child.kill();
    child.wait()?;
    if said[..length].starts_with(concat!(env!("CARGO_PKG_NAME"), " ").as_bytes()) {
        return Ok(());
    }
    let message = format!("it is not {}, or damaged: `--version` says nothing of it", env!("CARGO_PKG_NAME"));
    Err(io::Error::other(message))
}

/// Of an instance of which the journal says nothing.
fn bare(id: &InstanceId, fifos: Option<u64>, entries: &[Entry]) -> Held {
    Held {
        id: id.clone(),
        spec: String::new(),
        generation: Default::default(),
        wall: clock::wall(),
        mark: Default::default(),
        parts: Vec::new(),
        notify: Default::default(),
        ports: Default::default(),
        listens: listeners::of_unit(entries, &id.unit),
        spawning: Vec::new(),
        signalled: None,
        fifos,
        secrets: Vec::new(),
    }
}

fn instance(held: Held, pipes: Option<Pipes>, parts: BTreeMap<Part, PartState>) -> Instance {
    Instance {
        spec: held.spec,
        generation: held.generation,
        wall: held.wall,
        mark: held.mark,
        notify: held.notify,
        pipes,
        fifos: held.fifos,
        parts,
        ports: held.ports,
        listens: held.listens,
        signalled: held.signalled,
        secrets: Vec::new(),
    }
}

//! Starts programs: makes the FIFOs and the notify socket of an instance, and its process. Two threads that do halve the time in
//! which a large system starts (measured), while a third one leads.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use rustix::fs::OFlags;

use crate::base::{InstanceId, Instant, PortNumbers, SpawnStage, limits};
use crate::os::cgroup::Tree;
use crate::os::sandbox::Prepared;
use crate::os::{clock, files, inherit, own, spawn};

use super::crew::Crew;
use super::fifos;
use super::protocol::{Notify, Spawn};
use super::run::Lead;
use super::table::Pipes;

/// One leads, the others start programs.
const THREADS: usize = 3;
/// In the environment of a unit's programs: the generation of what they were started with.
pub const GENERATION: &str = "UNISYS_GENERATION";
/// Variables of sd_listen_fds(3), sd_notify(3) and sd_watchdog_enabled(3), and the marks of unisys: true of one process only, so
/// none comes from elsewhere.
const OWN_WORDS: [&str; 7] = [
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    InstanceId::MARKER,
    GENERATION,
];

/// What became of a request.
pub struct Outcome {
    pub request: Box<Spawn>,
    /// The keeper's ends, made for the first part of an instance.
    pub pipes: Option<Pipes>,
    pub result: Result<Started, Failed>,
}

pub struct Started {
    pub pid: u32,
    pub start: u64,
    pub at: Instant,
    pub pidfd: OwnedFd,
    /// What it runs without: security settings (`bestEffort`), or its cgroup.
    pub left_out: Vec<String>,
}

pub struct Failed {
    pub stage: SpawnStage,
    pub errno: i32,
    pub detail: String,
}

/// A request with what is already there for its instance.
pub(super) struct Job {
    request: Box<Spawn>,
    needs_pipes: bool,
    /// See [`PipeNames::of`].
    fifos: Option<u64>,
    gifts: Gifts,
}

/// What the program is given beside its request.
#[derive(Default)]
pub struct Gifts {
    /// Descriptors from 3 on, with their names (sd_listen_fds(3)).
    pub handed: Vec<(String, OwnedFd)>,
    /// Numbers of the instance's `auto` ports.
    pub ports: PortNumbers,
}

/// What every spawn thread knows.
struct Common {
    run: PathBuf,
    marker: String,
    state_id: String,
    null: File,
    nofile: (u64, u64),
    cgroups: Option<Tree>,
    done: Sender<Outcome>,
    wake: OwnedFd,
}

/// What one thread spawns with.
struct Tools {
    stack: spawn::Stack,
    /// Two descriptors with low numbers, which a child's stdout and stderr are put at: it copies the table up to there only.
    low: [OwnedFd; 2],
}

impl Tools {
    fn new() -> io::Result<Self> {
        let null = || File::open("/dev/null").map(OwnedFd::from);
        Ok(Self { stack: spawn::Stack::default(), low: [null()?, null()?] })
    }

    fn put(&mut self, from: [&OwnedFd; 2]) -> io::Result<()> {
        for (from, at) in from.into_iter().zip(&mut self.low) {
            rustix::io::dup3(from, at, rustix::io::DupFlags::CLOEXEC)?;
        }
        Ok(())
    }
}

/// One of the threads, with all it needs to start programs.
pub(super) struct Hand {
    common: Arc<Common>,
    tools: Tools,
}

impl Hand {
    pub fn start(&mut self, job: Job) {
        let mut pipes = None;
        let result = start(&self.common, &job, &mut self.tools, &mut pipes);
        // Who leads next hears of it, unless everything is over.
        let _ = self.common.done.send(Outcome { request: job.request, pipes, result });
        let _ = rustix::io::write(&self.common.wake, &1u64.to_ne_bytes());
    }
}

pub struct Spawner {
    pub(super) crew: Arc<Crew<Box<Lead>, Job>>,
    common: Arc<Common>,
    outcomes: Receiver<Outcome>,
    pub in_flight: usize,
}

impl Spawner {
    /// `nofile`: the limits that children get unless they have their own. With `cgroups` each instance has one.
    pub fn new(run: &Path, state_id: &str, nofile: (u64, u64), cgroups: Option<&Tree>) -> io::Result<Self> {
        let (done, outcomes) = channel();
        let flags = rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK;
        let common = Common {
            run: run.to_owned(),
            marker: format!("{}={state_id}/", InstanceId::MARKER),
            state_id: state_id.to_owned(),
            null: File::open("/dev/null")?,
            nofile,
            cgroups: cgroups.cloned(),
            done,
            wake: rustix::event::eventfd(0, flags)?,
        };
        Ok(Self { crew: Arc::default(), common: Arc::new(common), outcomes, in_flight: 0 })
    }

    /// What the threads start programs with.
    pub(super) fn hands(&self) -> io::Result<Vec<Hand>> {
        let hand = |_| Ok(Hand { common: self.common.clone(), tools: Tools::new()? });
        (0..THREADS).map(hand).collect()
    }

    /// Readable when there are outcomes.
    pub fn wake(&self) -> &OwnedFd {
        &self.common.wake
    }

    pub fn start(&mut self, request: Box<Spawn>, needs_pipes: bool, fifos: Option<u64>, gifts: Gifts) {
        // A crash storm is a queue of starts that will fail again: whoever failed less often in a row is in front of it.
        self.crew.put(request.attempt, Job { request, needs_pipes, fifos, gifts });
        self.in_flight += 1;
    }

    pub fn outcomes(&mut self) -> Vec<Outcome> {
        let mut count = [0u8; 8];
        let _ = rustix::io::read(self.wake(), &mut count);
        let found: Vec<Outcome> = self.outcomes.try_iter().collect();
        self.in_flight -= found.len();
        found
    }
}

impl Drop for Spawner {
    fn drop(&mut self) {
        self.crew.close();
    }
}

fn start(
    common: &Common,
    job: &Job,
    tools: &mut Tools,
    pipes: &mut Option<Pipes>,
) -> Result<Started, Failed> {
    let request = &job.request;
    let failed = |stage, error: io::Error| Failed {
        stage,
        errno: error.raw_os_error().unwrap_or(0),
        detail: why_not(&error),
    };
    let pipe_fault = |error: io::Error| failed(SpawnStage::Pipes, error);
    let mut names = PipeNames::of(&common.run, &request.id, job.fifos);
    // The state directory is hidden from it, or another user's.
    let foreign =
        request.user.as_ref().is_some_and(|(uid, _, _)| *uid != rustix::process::geteuid().as_raw());
    names.unseen = foreign || request.sandbox.as_ref().is_some_and(|sandbox| sandbox.has_namespace());
    let mut extra = None;
    if job.needs_pipes {
        let (notify, child_end) = notify_ends(&names, request.notify).map_err(pipe_fault)?;
        extra = child_end;
        let made = Pipes {
            stdout: fifos::open(&names.stdout, OFlags::NONBLOCK).map_err(pipe_fault)?,
            stderr: fifos::open(&names.stderr, OFlags::NONBLOCK).map_err(pipe_fault)?,
            notify,
        };
        leaves_some(&made.stderr).map_err(pipe_fault)?;
        *pipes = Some(made);
    }
    // A description of its own: whatever the program does to its stdout (O_NONBLOCK) does not reach the keeper's end.
    let stdout = fifos::open(&names.stdout, OFlags::empty()).map_err(pipe_fault)?;
    let stderr = fifos::open(&names.stderr, OFlags::empty()).map_err(pipe_fault)?;
    if let Some((uid, gid, _)) = &request.user {
        names.give_to(*uid, *gid).map_err(pipe_fault)?;
    }
    tools.put([&stdout, &stderr]).map_err(pipe_fault)?;
    let cgroup = common.cgroups.as_ref().map(|tree| tree.create(&request.id, &request.cgroup_limits));
    let (cgroup, removed) = match cgroup.transpose() {
        // A program without limits is more use than none.
        Err(error) if error.kind() == io::ErrorKind::NotFound => (None, Some(error)),
        cgroup => (cgroup.map_err(|error| failed(SpawnStage::Cgroup, error))?, None),
    };
    fits(job, common.nofile)?;
    let mut child = prepare(common, job, &names, &tools.low, extra.as_ref())
        .map_err(|error| failed(SpawnStage::Exec, error))?;
    child.cgroup = cgroup.as_ref().map(AsRawFd::as_raw_fd);
    let prepare = |sandbox| Prepared::new(sandbox, &common.run, &request.id.to_string());
    let sandbox = request.sandbox.as_deref().map(prepare).transpose();
    child.sandbox = sandbox.map_err(|error| failed(SpawnStage::Security, error))?;
    let spawned = spawn::spawn(&child, &mut tools.stack);
    // The keeper holds no end of a program's output longer than it has to.
    let null = OwnedFd::from(common.null.try_clone().map_err(pipe_fault)?);
    let _ = tools.put([&null, &null]);
    let spawned = spawned.map_err(|error| {
        let mut fault = failed(error.stage, error.error);
        if let (SpawnStage::Rlimits, Some(asked)) = (fault.stage, request.nofile) {
            let most = own::file_limit();
            fault.detail = format!(
                "`resources.nofile` is {asked}, and unisys may give {most} at most: {}; ask for less, or raise its own limit",
                fault.detail
            );
        }
        if fault.stage == SpawnStage::WorkingDir {
            fault.detail = format!("{}: {}", request.dir, fault.detail);
        }
        let missing = fault.stage == SpawnStage::Exec && fault.errno == libc::ENOENT;
        if let Some(interpreter) = missing.then(|| files::interpreter(Path::new(&request.path))).flatten() {
            fault.detail = format!("its interpreter {interpreter} does not exist (first line of {})", request.path);
        }
        if let Some(what) = error.detail {
            fault.detail = format!("{what}: {}", fault.detail);
        }
        fault
    })?;
    let cgroup = removed.map(|error| format!("a cgroup of its own, with its limits: {error}"));
    let left_out = spawned.left_out.iter().map(|&field| field.to_owned()).chain(cgroup).collect();
    Ok(Started { pid: spawned.pid, start: spawned.start, at: clock::mono(), pidfd: spawned.pidfd, left_out })
}

/// A program needs numbers for what it is given, and at least one for a file that it opens.
fn fits(job: &Job, general: (u64, u64)) -> Result<(), Failed> {
    let given = 3 + job.gifts.handed.len() as u64;
    let limit = job.request.nofile.unwrap_or(general.0);
    if limit > given {
        return Ok(());
    }
    let field = if job.request.nofile.is_some() { "`resources.nofile`" } else { "the limit of open files" };
    let detail = format!(
        "{field} is {limit}, and the program has {given} open when it begins (stdin, stdout, stderr and what it is handed): it has to be higher"
    );
    Err(Failed { stage: SpawnStage::Rlimits, errno: libc::EINVAL, detail })
}

/// The lowest free number is what a new descriptor gets, so one above this says that all below it are taken.
///
/// # Errors
/// EMFILE: the rest is the keeper's own (`limits::FREE_DESCRIPTORS`).
pub fn leaves_some(new: &OwnedFd) -> io::Result<()> {
    let limit = own::file_limit();
    match new.as_raw_fd() as u64 + limits::FREE_DESCRIPTORS < limit {
        true => Ok(()),
        false => Err(io::Error::from_raw_os_error(libc::EMFILE)),
    }
}

/// Why something could not be opened or started; what a person does when it was one too many.
pub fn why_not(error: &io::Error) -> String {
    if error.raw_os_error() != Some(libc::EMFILE) {
        return crate::os::files::why(error);
    }
    format!(
        "unisys may have {} files open and needs four for each instance; raise its limit (`LimitNOFILE=` in a unit of systemd, `ulimit -Hn` in a shell) and start `unisys up` again",
        own::file_limit()
    )
}

fn prepare(
    common: &Common,
    job: &Job,
    names: &PipeNames,
    [stdout, stderr]: &[OwnedFd; 2],
    extra: Option<&(OwnedFd, i32)>,
) -> io::Result<spawn::Child> {
    let text = |text: &str| {
        CString::new(text).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a NUL byte in a text"))
    };
    let request = &job.request;
    let main = request.main_port.as_ref();
    let fill = |word: &String| text(&job.gifts.ports.fill(word, main));
    let mut envp = Vec::with_capacity(request.env.len() + 6);
    for (name, value) in request.env.iter().filter(|(name, _)| !OWN_WORDS.contains(&name.as_str())) {
        envp.push(fill(&format!("{name}={value}"))?);
    }
    for (name, number) in job.gifts.ports.variables(main) {
        // What a manifest says itself stands.
        if !request.env.iter().any(|(known, _)| *known == name) {
            envp.push(text(&format!("{name}={number}"))?);
        }
    }
    if !job.gifts.handed.is_empty() {
        let told: Vec<&str> = job.gifts.handed.iter().map(|(name, _)| name.as_str()).collect();
        envp.push(text(&format!("LISTEN_FDS={}", told.len()))?);
        envp.push(text(&format!("LISTEN_FDNAMES={}", told.join(":")))?);
    }
    envp.push(text(&format!("{}{}", common.marker, request.id))?);
    envp.push(text(&format!("{GENERATION}={}", request.generation.0))?);
    if request.notify == Notify::Socket {
        envp.push(text(&format!("NOTIFY_SOCKET={}", names.notify_address()))?);
    }
    Ok(spawn::Child {
        path: text(&request.path)?,
        argv: request.argv.iter().map(fill).collect::<io::Result<_>>()?,
        envp,
        dir: text(&request.dir)?,
        stdin: common.null.as_raw_fd(),
        stdout: stdout.as_raw_fd(),
        stderr: stderr.as_raw_fd(),
        extra: extra.map(|(fd, number)| (fd.as_raw_fd(), *number)),
        handed: job.gifts.handed.iter().map(|(_, fd)| fd.as_raw_fd()).collect(),
        user: request.user.clone(),
        umask: request.umask,
        nofile: request.nofile.map_or(common.nofile, |limit| (limit, limit)),
        tag: Some(request.id.tag(&common.state_id)),
        nice: request.nice,
        oom_score_adjust: request.oom_score_adjust.map(|value| text(&value.to_string())).transpose()?,
        no_new_privileges: request.no_new_privileges,
        dies_with_parent: false,
        watchdog: request.watchdog,
        cgroup: None,
        sandbox: None,
    })
}

/// Where an instance's FIFOs and notify socket are.
pub struct PipeNames {
    pub stdout: PathBuf,
    pub stderr: PathBuf,
    pub notify: PathBuf,
    /// Its own directories (`os/sandbox.rs`).
    private: PathBuf,
    /// The program does not see these paths: its notify socket has an abstract address.
    unseen: bool,
}

impl PipeNames {
    /// `fifos`: the number of its pair; none: they are named after it, as earlier keepers did.
    pub fn of(run: &Path, id: &crate::base::InstanceId, fifos: Option<u64>) -> Self {
        let name = |suffix: &str| run.join(format!("{id}.{suffix}"));
        let of_pair = |number| fifos::paths(run, number);
        let [stdout, stderr] = fifos.map_or_else(|| [name("out"), name("err")], of_pair);
        Self { stdout, stderr, notify: name("notify"), private: name(PRIVATE), unseen: false }
    }

    /// A program that runs as another user may open /dev/stdout again.
    fn give_to(&self, uid: u32, gid: u32) -> io::Result<()> {
        for path in [&self.stdout, &self.stderr, &self.notify] {
            match std::os::unix::fs::chown(path, Some(uid), Some(gid)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// The socket's path, or an abstract address of the same name where the path is too long for one.
    fn notify_address(&self) -> String {
        match self.is_short() {
            true => self.notify.display().to_string(),
            false => format!("@{}", self.abstract_name()),
        }
    }

    fn is_short(&self) -> bool {
        self.notify.as_os_str().len() <= 100 && !self.unseen
    }

    fn abstract_name(&self) -> String {
        use std::os::unix::ffi::OsStrExt;
        format!("unisys/{:016x}", super::journal::checksum(self.notify.as_os_str().as_bytes()))
    }

    /// But for the FIFOs of a pair, which may be used again. `notify`: there is a socket or a pipe of that name.
    pub fn remove(&self, notify: bool) {
        if self.private.exists() {
            away(vec![self.private.clone()]);
        }
        let of_pair = |path: &&PathBuf| fifos::number_of(path).is_none();
        let named = [&self.stdout, &self.stderr].into_iter().filter(of_pair);
        for path in named.chain(notify.then_some(&self.notify)) {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The end of the name of a private directory (`os/sandbox.rs`).
const PRIVATE: &str = "tmp";

/// They may hold a lot: nobody waits for it.
fn away(dirs: Vec<PathBuf>) {
    std::thread::spawn(move || dirs.iter().for_each(|dir| drop(std::fs::remove_dir_all(dir))));
}

/// Private directories of instances that nobody knows any more: a keeper was killed, or `unisys exec` made one.
pub fn clean_private(run: &Path, known: impl Fn(&crate::base::InstanceId) -> bool) {
    let entries = std::fs::read_dir(run).into_iter().flatten().flatten().map(|entry| entry.path());
    let of = |path: &Path| path.file_stem()?.to_str()?.parse().ok();
    let unknown = |path: &PathBuf| {
        path.extension().is_some_and(|end| end == PRIVATE) && !of(path).is_some_and(|id| known(&id))
    };
    let found: Vec<PathBuf> = entries.filter(unknown).collect();
    if !found.is_empty() {
        away(found);
    }
}

type NotifyEnds = (Option<OwnedFd>, Option<(OwnedFd, i32)>);

/// The keeper's end, and the child's where it is a descriptor.
fn notify_ends(names: &PipeNames, notify: Notify) -> io::Result<NotifyEnds> {
    match notify {
        Notify::No => Ok((None, None)),
        Notify::Socket => Ok((Some(notify_socket(names)?), None)),
        Notify::Descriptor(number) => {
            let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
            rustix::fs::fcntl_setfl(&read, OFlags::NONBLOCK)?;
            Ok((Some(read), Some((write, number))))
        }
    }
}

fn notify_socket(names: &PipeNames) -> io::Result<OwnedFd> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, socket_with, sockopt};
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
    sockopt::set_socket_passcred(&socket, true)?;
    if names.is_short() {
        let _ = std::fs::remove_file(&names.notify);
        bind(&socket, &SocketAddrUnix::new(&names.notify)?)?;
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&names.notify, std::fs::Permissions::from_mode(0o600))?;
    } else {
        bind(&socket, &SocketAddrUnix::new_abstract_name(names.abstract_name().as_bytes())?)?;
    }
    Ok(socket)
}

/// Pipes of an instance that an earlier image of this process kept open.
pub fn kept(numbers: Vec<i32>) -> Option<Pipes> {
    let mut fds = numbers.into_iter().filter_map(|number| inherit::take(number).ok());
    Some(Pipes { stdout: fds.next()?, stderr: fds.next()?, notify: fds.next() })
}

/// Opens the pipes of an instance that an earlier keeper made; `left`: over which the program tells, from who held it until now.
pub fn reopen(
    run: &Path,
    id: &crate::base::InstanceId,
    fifos: Option<u64>,
    notify: Notify,
    left: Option<OwnedFd>,
) -> io::Result<Pipes> {
    let mut names = PipeNames::of(run, id, fifos);
    let seen = names.notify.exists();
    names.unseen = !seen;
    let anew = left.is_none() && (seen || notify == Notify::Socket);
    let notify = if anew { Some(notify_socket(&names)?) } else { left };
    Ok(Pipes {
        stdout: fifos::open(&names.stdout, OFlags::NONBLOCK)?,
        stderr: fifos::open(&names.stderr, OFlags::NONBLOCK)?,
        notify,
    })
}

//! One cgroup (v2) an instance, where unisys was given a subtree: cgroups(7), "Delegation"; the kernel's
//! Documentation/admin-guide/cgroup-v2.rst; systemd's CGROUP_DELEGATION page.
//!
//! In the cgroup that unisys was started in it makes `unisys-STATE/`, and below that `supervisor` for itself (a cgroup with
//! controllers for its children holds no process of its own) and one for each instance, called as the instance is.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::base::{CgroupLimits, InstanceId};

use super::usage::{self, CgroupUsage};

/// What limits need.
pub const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];
const PREFIX: &str = "unisys-";
const SUPERVISOR: &str = "supervisor";
/// The period of `cpu.max`, in microseconds: the kernel's default.
const CPU_PERIOD: u64 = 100_000;
/// Cgroups that a program made below its own, counted while they are looked through.
const MOST_BELOW: usize = 10_000;

/// A subtree with a cgroup for each instance.
#[derive(Clone, Debug)]
pub struct Tree {
    base: PathBuf,
}

/// What a tree can do, or would.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// Those of [`CONTROLLERS`] that limits can be set with.
    pub controllers: Vec<String>,
    /// Why there are not all of them.
    pub lacking: String,
}

/// The directory of the cgroup of a process, from `/proc/PID/mountinfo` and `/proc/PID/cgroup`. `None` without cgroup v2.
pub fn own_dir(mountinfo: &str, cgroup: &str) -> Option<PathBuf> {
    let own = cgroup.lines().find_map(|line| line.strip_prefix("0::"))?;
    mountinfo.lines().find_map(|line| {
        // id parent major:minor root mount-point options … - type source options (proc_pid_mountinfo(5))
        let (left, right) = line.split_once(" - ")?;
        if right.split(' ').next() != Some("cgroup2") {
            return None;
        }
        let mut fields = left.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        let below = if root == "/" { own } else { own.strip_prefix(root)? };
        Some(Path::new(point).join(below.trim_start_matches('/')))
    })
}

/// The cgroup that a process is in; `Err` says why there is none that counts.
fn dir_of(pid: u32) -> Result<PathBuf, String> {
    let read = |name: &str| fs::read_to_string(name).map_err(|error| format!("{name}: {error}"));
    own_dir(&read("/proc/self/mountinfo")?, &read(&format!("/proc/{pid}/cgroup"))?)
        .ok_or_else(|| "this machine has no cgroup v2 mounted".into())
}

/// Whether a cgroup was given to us: we can write it, and nobody else is its manager.
fn delegated(dir: &Path) -> Result<(), String> {
    let shown = dir.display();
    if !dir.join("cgroup.events").exists() {
        return Err(format!("{shown} is the root of the machine's cgroups, which belongs to its init"));
    }
    for part in [dir.to_owned(), dir.join("cgroup.procs"), dir.join("cgroup.subtree_control")] {
        if rustix::fs::access(&part, rustix::fs::Access::WRITE_OK).is_err() {
            return Err(format!("{} cannot be written", part.display()));
        }
    }
    // systemd marks what it gives away; what it does not, root could write but must not.
    let managed = Path::new("/run/systemd/system").exists() && rustix::process::geteuid().is_root();
    let marked = ["trusted.delegate", "user.delegate"].iter().any(|name| {
        let mut value = [0u8; 8];
        rustix::fs::getxattr(dir, *name, &mut value[..])
            .is_ok_and(|length| value.starts_with(b"1") && length == 1)
    });
    match managed && !marked {
        true => Err(format!("{shown} is systemd's own: set `Delegate=yes` in the unit that starts unisys")),
        false => Ok(()),
    }
}

/// The tree of which `own` is the leaf for unisys itself; `state_id` is empty for that of any system.
fn base_of<'a>(own: &'a Path, state_id: &str) -> Option<&'a Path> {
    let base = own.parent().filter(|_| own.file_name().is_some_and(|leaf| leaf == SUPERVISOR))?;
    let of = base.file_name()?.to_str()?.strip_prefix(PREFIX)?;
    (state_id.is_empty() || of == state_id).then_some(base)
}

fn words(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

fn only_limits(found: &[String]) -> Vec<String> {
    CONTROLLERS
        .iter()
        .filter(|name| found.iter().any(|found| found == *name))
        .map(|name| (*name).to_owned())
        .collect()
}

/// What limits could be set with by this process, as far as reading tells; nothing is changed.
pub fn offer() -> Offer {
    offer_to(std::process::id())
}

/// The same of another process: a daemon that runs.
pub fn offer_to(pid: u32) -> Offer {
    let lacking = |why: String| Offer { controllers: Vec::new(), lacking: why };
    let dir = match dir_of(pid) {
        Ok(dir) => dir,
        Err(why) => return lacking(why),
    };
    if let Some(base) = base_of(&dir, "") {
        return Tree { base: base.to_owned() }.offer();
    }
    if let Err(why) = delegated(&dir) {
        return lacking(why);
    }
    let controllers = only_limits(&words(&dir.join("cgroup.controllers")));
    let others = words(&dir.join("cgroup.procs")).len() > 1;
    let given = only_limits(&words(&dir.join("cgroup.subtree_control")));
    if others && given != controllers {
        return Offer {
            lacking: format!(
                "{} holds other processes, so its controllers cannot be handed on",
                dir.display()
            ),
            controllers: given,
        };
    }
    Offer { lacking: missing(&controllers, &dir), controllers }
}

fn missing(controllers: &[String], dir: &Path) -> String {
    let without: Vec<&str> =
        CONTROLLERS.iter().filter(|name| !controllers.iter().any(|has| has == *name)).copied().collect();
    match without.is_empty() {
        true => String::new(),
        false => format!("{} does not have: {}", dir.display(), without.join(", ")),
    }
}

impl Tree {
    /// Takes this process's cgroup as a tree of its own, and moves this process to its leaf. `Err` says why not.
    pub fn claim(state_id: &str) -> Result<Self, String> {
        let pid = std::process::id();
        Self::claim_in(&dir_of(pid)?, state_id, pid)
    }

    fn claim_in(own: &Path, state_id: &str, pid: u32) -> Result<Self, String> {
        if let Some(base) = base_of(own, state_id) {
            return Ok(Self { base: base.to_owned() });
        }
        delegated(own)?;
        let tree = Self { base: own.join(format!("{PREFIX}{state_id}")) };
        let leaf = tree.base.join(SUPERVISOR);
        fs::create_dir_all(&leaf).map_err(|error| format!("cannot make {}: {error}", leaf.display()))?;
        write(&leaf.join("cgroup.procs"), &pid.to_string())
            .map_err(|error| format!("cannot move to {}: {error}", leaf.display()))?;
        tree.hand_on();
        Ok(tree)
    }

    /// Controllers for the cgroups of instances.
    fn hand_on(&self) {
        for dir in self.base.parent().into_iter().chain([self.base.as_path()]) {
            for name in only_limits(&words(&dir.join("cgroup.controllers"))) {
                // Refused where others live in the same cgroup: then there is containment without limits.
                let _ = write(&dir.join("cgroup.subtree_control"), &format!("+{name}"));
            }
        }
    }

    /// The tree that this process is in the leaf of; `None` where the keeper claimed none.
    pub fn of_this_process(state_id: &str) -> Option<Self> {
        base_of(&dir_of(std::process::id()).ok()?, state_id).map(|base| Self { base: base.to_owned() })
    }

    /// What it can do now.
    pub fn offer(&self) -> Offer {
        let controllers = only_limits(&words(&self.base.join("cgroup.subtree_control")));
        Offer { lacking: missing(&controllers, &self.base), controllers }
    }

    pub fn dir(&self, id: &InstanceId) -> PathBuf {
        self.base.join(id.to_string())
    }

    /// Makes an instance's cgroup, with its limits, and gives it for [`super::spawn`]. One that is there stays as it is; a tree
    /// that somebody removed is made again.
    ///
    /// # Errors
    /// NotFound: what the tree was made in was removed as well.
    pub fn create(&self, id: &InstanceId, limits: &CgroupLimits) -> io::Result<OwnedFd> {
        let dir = self.dir(id);
        let made = fs::create_dir(&dir).or_else(|error| match error.kind() {
            ErrorKind::NotFound => {
                match fs::create_dir(&self.base) {
                    // Another spawn thread was faster.
                    Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
                    _ => self.hand_on(),
                }
                fs::create_dir(&dir)
            }
            _ => Err(error),
        });
        match made {
            Ok(()) => self.limit(id, limits)?,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(io::Error::new(error.kind(), format!("{} was removed", self.base.display())));
            }
            Err(error) => return Err(error),
        }
        Ok(rustix::fs::open(&dir, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
    }

    /// Sets limits; without a value one is lifted. A limit without its controller is not set (told beforehand, E2013).
    pub fn limit(&self, id: &InstanceId, limits: &CgroupLimits) -> io::Result<()> {
        let dir = self.dir(id);
        let number = |value: Option<u64>| value.map_or("max".to_owned(), |value| value.to_string());
        let quota = limits.cpu_max.map_or("max".to_owned(), |cpus| {
            // The kernel takes no quota below a millisecond.
            ((cpus * CPU_PERIOD as f64) as u64).max(1000).to_string()
        });
        let files = [
            ("memory.high", number(limits.memory_high)),
            ("memory.max", number(limits.memory_max)),
            // All of an instance ends together, not its largest process alone.
            ("memory.oom.group", u8::from(limits.memory_max.is_some()).to_string()),
            ("cpu.max", format!("{quota} {CPU_PERIOD}")),
            ("pids.max", number(limits.pids_max)),
        ];
        for (name, value) in files {
            match write(&dir.join(name), &value) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                result => result.map_err(|error| io::Error::new(error.kind(), format!("{name}: {error}")))?,
            }
        }
        Ok(())
    }

    /// SIGKILL to all of it at once (Linux 5.14); false where the kernel cannot.
    pub fn kill(&self, id: &InstanceId) -> bool {
        write(&self.dir(id).join("cgroup.kill"), "1").is_ok()
    }

    /// Everything in it, in cgroups that it made below its own too.
    pub fn processes(&self, id: &InstanceId) -> Vec<u32> {
        let (mut found, mut dirs, mut looked) = (Vec::new(), vec![self.dir(id)], 0);
        while let Some(dir) = dirs.pop().filter(|_| looked < MOST_BELOW) {
            looked += 1;
            found.extend(words(&dir.join("cgroup.procs")).iter().filter_map(|word| word.parse::<u32>().ok()));
            dirs.extend(below(&dir));
        }
        found
    }

    /// The instance that a process is in.
    pub fn instance_of(&self, pid: u32) -> Option<InstanceId> {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
        let base = format!("/{}/", self.base.file_name()?.to_string_lossy());
        let (_, rest) = path.split_once(&base)?;
        rest.split('/').next()?.parse().ok()
    }

    /// How often the kernel killed something in it for want of memory (`memory.events`).
    pub fn oom_kills(&self, id: &InstanceId) -> u64 {
        let text = fs::read_to_string(self.dir(id).join("memory.events")).unwrap_or_default();
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok());
        count.unwrap_or(0)
    }

    /// The kernel kills single processes of it for want of memory, not all together (`memory.oom.group`). One that is held back by
    /// `memory.high` has news at every moment: it is left out.
    pub fn may_kill_a_part(&self, id: &InstanceId) -> bool {
        let is = |file: &str, word: &str| words(&self.dir(id).join(file)) == [word];
        is("memory.oom.group", "0") && is("memory.high", "max")
    }

    /// What it has used so far; `None` when it is gone.
    pub fn usage(&self, id: &InstanceId) -> Option<CgroupUsage> {
        usage::of_cgroup(&self.dir(id))
    }

    /// Away with it, and with what it made below; what is alive stays.
    pub fn remove(&self, id: &InstanceId) {
        remove_below(&self.dir(id), 0);
    }

    /// Cgroups of instances that nobody knows any more.
    pub fn clean(&self, known: impl Fn(&InstanceId) -> bool) {
        for dir in below(&self.base) {
            let id = dir.file_name().and_then(|name| name.to_str()?.parse::<InstanceId>().ok());
            if id.is_some_and(|id| !known(&id)) {
                remove_below(&dir, 0);
            }
        }
    }

    /// Back to where this process came from, and the tree away. That cgroup takes processes again once it hands on no controllers;
    /// where others have them too, the empty tree stays for the next `up`.
    pub fn leave(&self, pid: u32) {
        let Some(own) = self.base.parent() else { return };
        if below(own) == [self.base.as_path()] {
            for dir in [self.base.as_path(), own] {
                for name in CONTROLLERS {
                    let _ = write(&dir.join("cgroup.subtree_control"), &format!("-{name}"));
                }
            }
        }
        if write(&own.join("cgroup.procs"), &pid.to_string()).is_ok() {
            let _ = fs::remove_dir(self.base.join(SUPERVISOR));
            let _ = fs::remove_dir(&self.base);
        }
    }
}

fn below(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let dirs = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    dirs.map(|entry| entry.path()).collect()
}

fn remove_below(dir: &Path, depth: usize) {
    if depth < 64 {
        for dir in below(dir) {
            remove_below(&dir, depth + 1);
        }
        let _ = fs::remove_dir(dir);
    }
}

/// One write, as the kernel wants it; never makes a file.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).open(path)?;
    io::Write::write_all(&mut file, text.as_bytes())
}

#[cfg(test)]
#[path = "cgroup_tests.rs"]
mod tests;

//! Tells which cgroups have become empty, without asking them again and again: inotify(7) on `cgroup.events`, which changes
//! when the last process leaves (the kernel's Documentation/admin-guide/cgroup-v2.rst, "[Un]populated Notification"); and in which
//! the kernel killed something for want of memory: `memory.events` changes then.

use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};

use crate::base::InstanceId;

/// Cgroups that are watched, by the number of their watch.
pub struct Emptied {
    inotify: OwnedFd,
    watches: BTreeMap<i32, (InstanceId, Told)>,
}

/// What has happened to a cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// The first process has come or the last has gone.
    Populated,
    /// Something that `memory.events` counts.
    Memory,
}

impl Emptied {
    pub fn new() -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        Ok(Self { inotify, watches: BTreeMap::new() })
    }

    /// From now on tells of this instance's cgroup. One that cannot be watched (it is gone, or there are too many watches) is not told of.
    pub fn watch(&mut self, id: &InstanceId, dir: &Path) {
        self.add(id, &dir.join("cgroup.events"), Told::Populated);
    }

    /// The same of what `memory.events` counts.
    pub fn watch_memory(&mut self, id: &InstanceId, dir: &Path) {
        self.add(id, &dir.join("memory.events"), Told::Memory);
    }

    fn add(&mut self, id: &InstanceId, file: &Path, told: Told) {
        if let Ok(watch) = inotify::add_watch(&self.inotify, file, WatchFlags::MODIFY) {
            self.watches.insert(watch, (id.clone(), told));
        }
    }

    pub fn forget(&mut self, id: &InstanceId) {
        let inotify = &self.inotify;
        self.watches.retain(|watch, (of, _)| {
            let stays = of != id;
            if !stays {
                // The kernel has taken it away itself where the cgroup is gone.
                let _ = inotify::remove_watch(inotify, *watch);
            }
            stays
        });
    }

    /// In which instances' cgroups something has happened since the last call.
    pub fn read(&mut self) -> Vec<(InstanceId, Told)> {
        let mut found = Vec::new();
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        while let Ok(event) = reader.next() {
            if let Some(told) = self.watches.get(&event.wd()).filter(|told| !found.contains(*told)) {
                found.push(told.clone());
            }
        }
        found
    }
}

impl AsFd for Emptied {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_that_changes_is_told_once_until_it_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let events = dir.path().join("cgroup.events");
        std::fs::write(&events, "populated 1\n").unwrap();
        let id: InstanceId = "api.0.5".parse().unwrap();
        let mut emptied = Emptied::new().unwrap();
        emptied.watch(&id, dir.path());
        emptied.watch(&"web.0.6".parse().unwrap(), &dir.path().join("gone"));
        assert!(emptied.read().is_empty());
        std::fs::write(&events, "populated 0\n").unwrap();
        assert_eq!(emptied.read(), [(id.clone(), Told::Populated)]);
        assert!(emptied.read().is_empty());
        let memory = dir.path().join("memory.events");
        std::fs::write(&memory, "oom_kill 0\n").unwrap();
        emptied.watch_memory(&id, dir.path());
        std::fs::write(&memory, "oom_kill 1\n").unwrap();
        assert_eq!(emptied.read(), [(id.clone(), Told::Memory)]);
        emptied.forget(&id);
        std::fs::write(&memory, "oom_kill 2\n").unwrap();
        std::fs::write(&events, "populated 1\n").unwrap();
        assert!(emptied.read().is_empty());
    }
}

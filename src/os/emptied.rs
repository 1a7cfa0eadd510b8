//! Tells which cgroups have become empty, without asking them again and again: inotify(7) on `cgroup.events`, which changes
//! when the last process leaves (the kernel's Documentation/admin-guide/cgroup-v2.rst, "[Un]populated Notification").

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
    watches: BTreeMap<i32, InstanceId>,
}

impl Emptied {
    pub fn new() -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        Ok(Self { inotify, watches: BTreeMap::new() })
    }

    /// From now on tells of this instance's cgroup. One that cannot be watched (it is gone, or there are too many watches) is not told of.
    pub fn watch(&mut self, id: &InstanceId, dir: &Path) {
        if let Ok(watch) = inotify::add_watch(&self.inotify, dir.join("cgroup.events"), WatchFlags::MODIFY) {
            self.watches.insert(watch, id.clone());
        }
    }

    pub fn forget(&mut self, id: &InstanceId) {
        let inotify = &self.inotify;
        self.watches.retain(|watch, of| {
            let stays = of != id;
            if !stays {
                // The kernel has taken it away itself where the cgroup is gone.
                let _ = inotify::remove_watch(inotify, *watch);
            }
            stays
        });
    }

    /// Instances in whose cgroup the first process has come or the last has gone since the last call.
    pub fn read(&mut self) -> Vec<InstanceId> {
        let mut found = Vec::new();
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        while let Ok(event) = reader.next() {
            if let Some(id) = self.watches.get(&event.wd()).filter(|id| !found.contains(*id)) {
                found.push(id.clone());
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
        assert_eq!(emptied.read(), std::slice::from_ref(&id));
        assert!(emptied.read().is_empty());
        emptied.forget(&id);
        std::fs::write(&events, "populated 1\n").unwrap();
        assert!(emptied.read().is_empty());
    }
}

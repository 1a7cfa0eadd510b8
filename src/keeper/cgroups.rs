//! Who has left the cgroup of its instance: somebody else moved it. It runs on, and it is said, as nothing limits it there. And
//! which SIGKILL was the kernel's, for want of memory.

use std::time::Duration;

use crate::base::{InstanceId, Instant};
use crate::os::emptied::Told;
use crate::os::{clock, process};
use crate::world::OUT_OF_ITS_CGROUP;

use super::journal::Entry;
use super::protocol::Report;
use super::run::Keeper;
use super::table::Instance;

/// Whom the kernel kills is gone within this, unless it has very much memory to give back.
const DYING: Duration = Duration::from_secs(3);

/// How often something of an instance was killed for want of memory, where not all of it is killed together: a command beside its
/// program (a probe), or a child of it, may have been, long before the program ends.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct OomKills {
    count: u64,
    /// When it last became more.
    at: Option<Instant>,
}

impl OomKills {
    fn read(&mut self, count: u64, now: Instant) {
        if count > self.count {
            *self = Self { count, at: Some(now) };
        }
    }

    /// A SIGKILL that ends the program now is of the last of them.
    fn explain(mut self, count: u64, now: Instant) -> bool {
        self.read(count, now);
        self.at.is_some_and(|at| now.since(at) <= DYING)
    }
}

impl Keeper {
    pub(super) fn watch_cgroup(&mut self, id: &InstanceId) {
        let (Some(tree), Some(emptied)) = (&self.cgroups, &mut self.emptied) else { return };
        emptied.watch(id, &tree.dir(id));
        if tree.may_kill_a_part(id) {
            emptied.watch_memory(id, &tree.dir(id));
            let main = self.table.instances.get(id).and_then(Instance::main);
            // What was killed before, while it lives on, was something else.
            let lives = main.is_some_and(|main| !process::has_ended(&main.pidfd));
            let count = if lives { tree.oom_kills(id) } else { 0 };
            self.oom_kills.insert(id.clone(), OomKills { count, at: None });
        }
    }

    /// A part of an instance that ended by SIGKILL was killed by the kernel.
    pub(super) fn was_oom_killed(&self, id: &InstanceId) -> bool {
        let Some(tree) = &self.cgroups else { return false };
        let known = self.oom_kills.get(id).copied().unwrap_or_default();
        known.explain(tree.oom_kills(id), clock::mono())
    }

    fn look_at_memory(&mut self, id: &InstanceId) {
        if let (Some(tree), Some(known)) = (&self.cgroups, self.oom_kills.get_mut(id)) {
            known.read(tree.oom_kills(id), clock::mono());
        }
    }

    /// For instances that an earlier keeper started.
    pub(super) fn watch_cgroups(&mut self) {
        let ids: Vec<InstanceId> = self.table.instances.keys().cloned().collect();
        for id in ids {
            self.watch_cgroup(&id);
        }
    }

    pub(super) fn look_who_left(&mut self) {
        let changed = self.emptied.as_mut().map(|emptied| emptied.read()).unwrap_or_default();
        for (id, told) in changed {
            if told == Told::Memory {
                self.look_at_memory(&id);
            } else if self.has_left(&id) {
                if let Some(emptied) = &mut self.emptied {
                    emptied.forget(&id);
                }
                self.remember_left_out(&id, OUT_OF_ITS_CGROUP);
                self.tell(&Report::Uncontained { id });
            }
        }
    }

    /// The daemon that is told may die before it says what is to be remembered.
    fn remember_left_out(&mut self, id: &InstanceId, what: &str) {
        let Some(instance) = self.table.instances.get_mut(id) else { return };
        if instance.mark.left_out.iter().any(|known| known == what) {
            return;
        }
        instance.mark.left_out.push(what.to_owned());
        let (mark, generation) = (instance.mark.clone(), instance.generation);
        self.journal.write(&Entry::Remember { id: id.clone(), mark, generation, spec: None });
    }

    /// Its main program is alive, and elsewhere. One that has ended is still named in its last cgroup.
    fn has_left(&self, id: &InstanceId) -> bool {
        let main = self.table.instances.get(id).and_then(Instance::main);
        main.zip(self.cgroups.as_ref()).is_some_and(|(main, tree)| {
            tree.instance_of(main.pid).as_ref() != Some(id) && !process::has_ended(&main.pidfd)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kill_for_want_of_memory_explains_only_the_ends_that_follow_it_at_once() {
        let at = |seconds: u64| Instant(1_000_000) + Duration::from_secs(seconds);
        let none = OomKills::default();
        assert!(!none.explain(0, at(0)));
        assert!(none.explain(1, at(0)), "it was told with the end");
        let mut known = OomKills { count: 2, at: None };
        assert!(!known.explain(2, at(0)), "those before it was looked at");
        known.read(3, at(10));
        assert!(known.explain(3, at(11)));
        known.read(3, at(60));
        assert!(!known.explain(3, at(60)), "a probe was killed long before");
        assert!(known.explain(4, at(60)));
    }
}

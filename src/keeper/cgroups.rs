//! Who has left the cgroup of its instance: somebody else moved it. It runs on, and it is said, as nothing limits it there.

use crate::base::InstanceId;
use crate::os::process;
use crate::world::OUT_OF_ITS_CGROUP;

use super::journal::Entry;
use super::protocol::Report;
use super::run::Keeper;
use super::table::Instance;

impl Keeper {
    pub(super) fn watch_cgroup(&mut self, id: &InstanceId) {
        if let (Some(tree), Some(emptied)) = (&self.cgroups, &mut self.emptied) {
            emptied.watch(id, &tree.dir(id));
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
        for id in changed {
            if self.has_left(&id) {
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

//! What programs use: read when something wakes for them anyway, kept for a crash dump. Nothing here wakes anybody.

use crate::base::{InstanceId, Usage};
use crate::os::{clock, usage};
use crate::probe::Answer;
use crate::unit::ProbeKind;
use crate::world::Slot;

use super::Engine;

impl Engine {
    /// A probe was answered. How it was with a program whose probe failed is told with the answer.
    pub(super) fn probe_answered(&mut self, id: &InstanceId, kind: ProbeKind, answer: &Answer) {
        // What is gone has no dump any more.
        let Some(pid) = self.main_pid(id) else { return };
        let usage = self.read_usage(id, pid, !answer.ok);
        self.faults.probed(id, kind, answer, usage.filter(|_| !answer.ok));
    }

    /// A heartbeat came.
    pub(super) fn heart_beat(&mut self, id: &InstanceId) {
        if let Some(pid) = self.main_pid(id) {
            self.read_usage(id, pid, false);
        }
    }

    /// Reads it if that is due; `anyway`: also if it is not.
    fn read_usage(&mut self, id: &InstanceId, pid: u32, anyway: bool) -> Option<Usage> {
        let now = clock::mono();
        if !anyway && (!self.faults.usage_is_due(id, now) || self.is_looked_at(id)) {
            return None;
        }
        let usage = usage::look(pid)?;
        self.faults.used(id, usage, now);
        Some(usage)
    }

    /// Its watchdog looks at all of its processes now and then, and that is its curve.
    fn is_looked_at(&self, id: &InstanceId) -> bool {
        let vigil =
            |slot: &Slot| slot.instance.as_ref()?.vigil.as_deref().map(|vigil| vigil.policy().looks());
        self.slot_of(id).and_then(vigil).unwrap_or(false)
    }
}

//! Tells when the port of a starting instance is open, from the kernel's table of listeners.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::base::{InstanceId, Instant};
use crate::os::clock;
use crate::os::listeners::Diag;

/// While something starts, the table is read this often …
const OFTEN: Duration = Duration::from_millis(4);
/// … and this often once the youngest has been starting for a while.
const SELDOM: Duration = Duration::from_millis(100);
const YOUNG: Duration = Duration::from_secs(10);

#[derive(Default)]
pub struct PortWatch {
    awaited: BTreeMap<InstanceId, (u16, Instant)>,
    diag: Option<Diag>,
    pub due: Option<Instant>,
}

impl PortWatch {
    pub fn add(&mut self, id: InstanceId, port: u16) {
        let now = clock::mono();
        self.awaited.insert(id, (port, now));
        self.due = Some(now + OFTEN);
    }

    pub fn remove(&mut self, id: &InstanceId) {
        self.awaited.remove(id);
        if self.awaited.is_empty() {
            self.due = None;
            self.diag = None;
        }
    }

    /// Those whose port is open now; they are not awaited any more.
    pub fn look(&mut self, now: Instant) -> Vec<InstanceId> {
        if self.diag.is_none() {
            self.diag = Diag::open().ok();
        }
        let listeners = self.diag.as_ref().and_then(|diag| diag.tcp_listeners().ok()).unwrap_or_default();
        let open: std::collections::BTreeSet<u16> =
            listeners.into_iter().map(|listener| listener.port).collect();
        let found: Vec<InstanceId> = self
            .awaited
            .iter()
            .filter(|(_, (port, _))| open.contains(port))
            .map(|(id, _)| id.clone())
            .collect();
        for id in &found {
            self.awaited.remove(id);
        }
        let youngest = self.awaited.values().map(|(_, since)| *since).max();
        self.due = youngest.map(|since| now + if now.since(since) < YOUNG { OFTEN } else { SELDOM });
        found
    }
}

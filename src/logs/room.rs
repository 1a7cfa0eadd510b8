//! How many files logs and spools may keep open.

use crate::base::limits;

/// How many files are kept open. The daemon has a quarter of its descriptors beside those that instances take (see
/// `limits::FREE_DESCRIPTORS`); what logs and spools leave of it is for clients and probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    pub logs: usize,
    pub spools: usize,
}

impl Room {
    /// Of a process that may have `limit` files open.
    pub fn of(limit: u64) -> Self {
        let logs = (limit / 32).clamp(2, limits::OPEN_LOGS);
        let clients = (limit / 8).min(limits::CONNECTIONS as u64);
        let spools = (limit / 4).saturating_sub(2 * logs + clients).max(4);
        Self { logs: logs as usize, spools: usize::try_from(spools).unwrap_or(usize::MAX) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_the_descriptors_is_shared_by_logs_spools_and_clients() {
        for (limit, logs, spools) in [(64, 2, 4), (1024, 32, 64), (4096, 128, 512), (524_288, 512, 129_792)] {
            assert_eq!(Room::of(limit), Room { logs, spools }, "{limit}");
        }
    }
}

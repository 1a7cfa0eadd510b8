//! What waits for a spawn thread.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// The lower rank comes first; equals take turns.
#[derive(Debug)]
pub(super) struct Queue<T> {
    waiting: Mutex<Waiting<T>>,
    more: Condvar,
}

#[derive(Debug)]
struct Waiting<T> {
    /// By rank, then in the order of their coming.
    jobs: BTreeMap<(u32, u64), T>,
    next: u64,
    closed: bool,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        let waiting = Waiting { jobs: BTreeMap::new(), next: 0, closed: false };
        Self { waiting: Mutex::new(waiting), more: Condvar::new() }
    }
}

impl<T> Queue<T> {
    fn lock(&self) -> MutexGuard<'_, Waiting<T>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn put(&self, rank: u32, job: T) {
        let mut waiting = self.lock();
        let place = (rank, waiting.next);
        waiting.next += 1;
        waiting.jobs.insert(place, job);
        self.more.notify_one();
    }

    /// The next one, as soon as there is one; `None` once the queue is closed.
    pub fn take(&self) -> Option<T> {
        let mut waiting = self.lock();
        loop {
            if waiting.closed {
                return None;
            }
            match waiting.jobs.pop_first() {
                Some((_, job)) => return Some(job),
                None => waiting = self.more.wait(waiting).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    pub fn close(&self) {
        self.lock().closed = true;
        self.more.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_rank_comes_first_and_equals_take_turns() {
        let queue = Queue::default();
        for (name, rank) in [("storm-a", 40), ("storm-b", 40), ("well", 0), ("storm-c", 39), ("well-too", 0)]
        {
            queue.put(rank, name);
        }
        let taken: Vec<&str> = (0..5).filter_map(|_| queue.take()).collect();
        assert_eq!(taken, ["well", "well-too", "storm-c", "storm-a", "storm-b"]);
        queue.close();
        assert!(queue.take().is_none());
    }
}

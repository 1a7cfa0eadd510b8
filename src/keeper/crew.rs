//! The keeper's threads. One of them leads: it has the keeper, and listens. What is to be started it starts itself, once another
//! one has the lead: so a program does not wait until a second thread has woken (leader/followers: Schmidt and others,
//! Pattern-Oriented Software Architecture 2).

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Who has nothing to do waits here; and so does what nobody has time for. `L` is what only the leader has.
#[derive(Debug)]
pub(super) struct Crew<L, J> {
    state: Mutex<State<L, J>>,
    called: Condvar,
}

#[derive(Debug)]
struct State<L, J> {
    /// Nobody leads.
    lead: Option<L>,
    /// By rank, the lower first; then in the order of their coming.
    jobs: BTreeMap<(u32, u64), J>,
    next: u64,
    /// Threads that wait, and of them those that were called and have not woken yet.
    idle: usize,
    called: usize,
    closed: bool,
}

/// What a thread has to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Duty<L, J> {
    Lead(L),
    Job(J),
}

impl<L, J> Default for Crew<L, J> {
    fn default() -> Self {
        let state = State { lead: None, jobs: BTreeMap::new(), next: 0, idle: 0, called: 0, closed: false };
        Self { state: Mutex::new(state), called: Condvar::new() }
    }
}

impl<L, J> Crew<L, J> {
    fn lock(&self) -> MutexGuard<'_, State<L, J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One of them takes the lead.
    pub fn begin(&self, lead: L) {
        let mut state = self.lock();
        state.lead = Some(lead);
        self.call(state);
    }

    /// Of several jobs that wait one is left to the leader: [`hand_over`](Self::hand_over).
    pub fn put(&self, rank: u32, job: J) {
        let mut state = self.lock();
        let place = (rank, state.next);
        state.next += 1;
        state.jobs.insert(place, job);
        if state.jobs.len() > 1 {
            self.call(state);
        }
    }

    /// The leader will not take a job: others take all of them.
    pub fn leave_to_others(&self) {
        let waiting = self.lock().jobs.len();
        (0..waiting).for_each(|_| self.call(self.lock()));
    }

    /// A job for the leader, if there is one and another thread is free to lead. Otherwise it goes on leading: whoever is
    /// done with a job takes the next one.
    pub fn hand_over(&self, lead: L) -> Result<J, L> {
        let mut state = self.lock();
        if state.idle == state.called {
            return Err(lead);
        }
        let Some((_, job)) = state.jobs.pop_first() else { return Err(lead) };
        state.lead = Some(lead);
        self.call(state);
        Ok(job)
    }

    /// What there is to do, as soon as there is something; `None` once it is over.
    pub fn duty(&self) -> Option<Duty<L, J>> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            if let Some(lead) = state.lead.take() {
                return Some(Duty::Lead(lead));
            }
            if let Some((_, job)) = state.jobs.pop_first() {
                return Some(Duty::Job(job));
            }
            state.idle += 1;
            while state.called == 0 && !state.closed {
                state = self.called.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.called = state.called.saturating_sub(1);
            state.idle -= 1;
        }
    }

    /// One that waits goes on, if there is one; it finds the lock free.
    fn call(&self, mut state: MutexGuard<'_, State<L, J>>) {
        if state.called < state.idle {
            state.called += 1;
            drop(state);
            self.called.notify_one();
        }
    }

    pub fn close(&self) {
        self.lock().closed = true;
        self.called.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::{Receiver, channel};
    use std::thread;

    use super::*;

    type Duties = Receiver<Option<Duty<&'static str, u32>>>;

    /// One that asks for its duty, and waits for it.
    fn idle(crew: &Arc<Crew<&'static str, u32>>) -> Duties {
        let (told, duties) = channel();
        let own = crew.clone();
        let before = crew.lock().idle;
        thread::spawn(move || told.send(own.duty()));
        while crew.lock().idle == before {
            thread::yield_now();
        }
        duties
    }

    #[test]
    fn the_lowest_rank_comes_first_and_equals_take_turns() {
        let crew: Crew<(), &str> = Crew::default();
        for (name, rank) in [("storm-a", 40), ("storm-b", 40), ("well", 0), ("storm-c", 39), ("well-too", 0)]
        {
            crew.put(rank, name);
        }
        let taken: Vec<_> = (0..5).filter_map(|_| crew.duty()).collect();
        assert_eq!(taken, ["well", "well-too", "storm-c", "storm-a", "storm-b"].map(Duty::Job));
        crew.close();
        assert_eq!(crew.duty(), None);
    }

    #[test]
    fn the_leader_starts_what_came_alone_and_another_leads() {
        let crew = Arc::new(Crew::default());
        assert_eq!(crew.hand_over("keeper"), Err("keeper"), "nothing to do, and nobody to lead");
        crew.put(0, 1);
        assert_eq!(crew.hand_over("keeper"), Err("keeper"), "nobody to lead");
        assert_eq!(crew.duty(), Some(Duty::Job(1)), "who has time takes it");
        let other = idle(&crew);
        assert_eq!(crew.hand_over("keeper"), Err("keeper"), "nothing to do");
        crew.put(0, 2);
        assert!(other.try_recv().is_err(), "the leader's own");
        assert_eq!(crew.hand_over("keeper"), Ok(2));
        assert_eq!(other.recv().unwrap(), Some(Duty::Lead("keeper")));
    }

    #[test]
    fn of_several_jobs_others_take_what_they_can() {
        let crew = Arc::new(Crew::default());
        let (first, second) = (idle(&crew), idle(&crew));
        crew.put(0, 1);
        crew.put(0, 2);
        let (taker, waiter) = match first.recv_timeout(std::time::Duration::from_millis(50)) {
            Ok(duty) => (duty, second),
            Err(_) => (second.recv().unwrap(), first),
        };
        assert_eq!(taker, Some(Duty::Job(1)));
        crew.leave_to_others();
        assert_eq!(waiter.recv().unwrap(), Some(Duty::Job(2)), "the leader is busy otherwise");
        let last = idle(&crew);
        crew.close();
        assert_eq!(last.recv().unwrap(), None);
    }
}

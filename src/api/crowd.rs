//! Who is connected: bounded in number and in what they have sent, so that who does not finish a request is in nobody's way.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout, timeout_at};

use crate::base::limits;

/// Those whose requests are on their way or being answered.
#[derive(Default)]
pub(super) struct Crowd {
    clients: Mutex<Clients>,
    /// A place or bytes were given back.
    freed: Notify,
}

#[derive(Default)]
struct Clients {
    next: u64,
    /// In the order in which they came.
    there: BTreeMap<u64, Client>,
    /// Of all bodies.
    bytes: usize,
}

struct Client {
    /// `None`: its request is whole.
    sending: Option<Sending>,
    bytes: usize,
    task: Option<AbortHandle>,
}

/// What has come since then is nothing.
struct Sending(Instant);

impl Clients {
    fn remove(&mut self, id: u64) -> Option<Client> {
        let client = self.there.remove(&id)?;
        self.bytes -= client.bytes;
        Some(client)
    }

    /// Ends those who have sent nothing for as long as patience is had with them while others wait.
    fn end_idle(&mut self, wanted: impl Fn(&u64, &Client) -> bool) {
        let now = Instant::now();
        let idle = |client: &Client| {
            let since = client.sending.as_ref().map(|Sending(since)| now.saturating_duration_since(*since));
            since.is_some_and(|idle| idle >= limits::CROWD_PATIENCE)
        };
        let idle = self.there.iter().filter(|(id, client)| idle(client) && wanted(id, client));
        for id in idle.map(|(id, _)| *id).collect::<Vec<_>>() {
            if let Some(task) = self.remove(id).and_then(|client| client.task) {
                task.abort();
            }
        }
    }
}

impl Crowd {
    fn clients(&self) -> MutexGuard<'_, Clients> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a place. Where all are taken, those who are not done with their requests have as long as
    /// [`limits::CROWD_PATIENCE`] to go on, then they are ended. `None`: all of them are being answered.
    pub async fn enter(self: &Arc<Self>) -> Option<Arc<Place>> {
        let until = Instant::now() + limits::CROWD_PATIENCE;
        loop {
            let freed = self.freed.notified();
            if let Some(place) = self.try_enter() {
                return Some(place);
            }
            if timeout_at(until, freed).await.is_err() {
                // Whoever could have gone on meanwhile has had its turn.
                tokio::task::yield_now().await;
                self.clients().end_idle(|_, _| true);
                return self.try_enter();
            }
        }
    }

    /// No descriptor is left for one more: those who are in nobody's way but by being there are ended.
    pub fn make_way(&self) {
        self.clients().end_idle(|_, _| true);
    }

    fn try_enter(self: &Arc<Self>) -> Option<Arc<Place>> {
        let mut clients = self.clients();
        if clients.there.len() >= limits::CONNECTIONS {
            return None;
        }
        let id = clients.next;
        clients.next += 1;
        let sending = Some(Sending(Instant::now()));
        clients.there.insert(id, Client { sending, bytes: 0, task: None });
        Some(Arc::new(Place { crowd: self.clone(), id }))
    }
}

/// The place of one client, given back with its end.
pub(super) struct Place {
    crowd: Arc<Crowd>,
    id: u64,
}

impl Place {
    /// The task that is ended to make way for others.
    pub fn held_by(&self, task: AbortHandle) {
        if let Some(client) = self.crowd.clients().there.get_mut(&self.id) {
            client.task = Some(task);
        }
    }

    /// Takes in so many bytes of its body more, once there is room for them among those of all.
    pub async fn take(&self, count: usize) {
        loop {
            let freed = self.crowd.freed.notified();
            if self.try_take(count) {
                return;
            }
            if timeout(limits::CROWD_PATIENCE, freed).await.is_err() {
                tokio::task::yield_now().await;
                self.crowd.clients().end_idle(|id, client| *id != self.id && client.bytes > 0);
            }
        }
    }

    fn try_take(&self, count: usize) -> bool {
        let mut clients = self.crowd.clients();
        let fits = clients.bytes + count <= limits::BODIES_BYTES;
        if fits && let Some(client) = clients.there.get_mut(&self.id) {
            client.bytes += count;
            client.sending = Some(Sending(Instant::now()));
            clients.bytes += count;
        }
        fits
    }

    /// Its request is whole: it is waited for as long as the answer takes.
    pub fn is_whole(&self) {
        if let Some(client) = self.crowd.clients().there.get_mut(&self.id) {
            client.sending = None;
        }
    }

    /// Its body has been used.
    pub fn is_answered(&self) {
        let mut clients = self.crowd.clients();
        let given = clients.there.get_mut(&self.id).map_or(0, |client| std::mem::take(&mut client.bytes));
        clients.bytes -= given;
        drop(clients);
        self.crowd.freed.notify_waiters();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.crowd.clients().remove(self.id);
        self.crowd.freed.notify_waiters();
    }
}

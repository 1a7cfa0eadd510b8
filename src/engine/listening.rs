//! Listeners that outlive processes, as the daemon sees them: what the keeper is to hold, and programs that ignore them.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::{Incarnation, InstanceId, Instant, Listen, Name, Part, SpawnStage, Transport};
use crate::faults::patterns;
use crate::keeper::protocol::Request;
use crate::logs::read::{self, Line, Query};
use crate::os::clock;
use crate::os::listeners::{self, Diag};
use crate::os::sockets;
use crate::unit::{AcceptWatch, Lifecycle};
use crate::world::{Holdings, InstanceFact, Unit};

use super::{Engine, Input};

/// The last lines of an instance that are searched for its reason to end.
const LAST_LINES: usize = 20;
/// What a person does about it.
const HINT: &str = "hint: let it serve the sockets it is handed (descriptors from 3 on, LISTEN_FDS), or remove `listen: true`";

#[derive(Default)]
pub struct Listening {
    holdings: BTreeMap<Name, Holdings>,
    /// What the keeper was told last.
    told: Option<(Vec<Listen>, Vec<Name>)>,
    watches: BTreeMap<Name, AcceptWatch>,
    /// Files of unix sockets that were removed, and are not there again.
    lost: BTreeSet<String>,
}

impl Listening {
    pub fn due(&self) -> Option<Instant> {
        self.watches.values().map(|watch| watch.due).min()
    }
}

impl Engine {
    /// Tells the keeper what is wanted, if that has changed with these units.
    pub(super) fn tell_listeners(&mut self, touched: &BTreeSet<Name>) {
        if self.listening.told.is_some() && touched.is_empty() {
            return;
        }
        let now = clock::mono();
        let all: BTreeSet<Name>;
        let names = if self.listening.told.is_none() {
            all = self.world.units().keys().cloned().collect();
            &all
        } else {
            touched
        };
        let listening = &mut self.listening;
        for name in names {
            let holdings = self.world.holdings(name);
            let watched = holdings.listeners.iter().any(|listen| listen.transport == Transport::Tcp);
            if !watched {
                listening.watches.remove(name);
            } else if !listening.watches.contains_key(name) {
                listening.watches.insert(name.clone(), AcceptWatch::new(now));
            }
            if holdings == Holdings::default() {
                listening.holdings.remove(name);
            } else {
                listening.holdings.insert(name.clone(), holdings);
            }
        }
        let holdings = &listening.holdings;
        let wanted = holdings.values().flat_map(|held| held.listeners.iter().cloned()).collect();
        let storing = holdings.iter().filter(|(_, held)| held.stores).map(|(name, _)| name.clone()).collect();
        let told: (Vec<Listen>, Vec<Name>) = (wanted, storing);
        if listening.told.as_ref() == Some(&told) {
            return;
        }
        listening.told = Some(told.clone());
        let (wanted, storing) = told;
        let epoch = self.epoch;
        self.link.send(&Request::Listeners { epoch, wanted, storing });
    }

    /// Looks for connections that wait unaccepted.
    pub(super) fn look_at_listeners(&mut self, now: Instant) {
        let found = Diag::open().and_then(|diag| diag.tcp_listeners()).unwrap_or_default();
        let waits = |listen: &Listen| {
            found.iter().any(|socket| {
                socket.port == listen.port
                    && socket.waiting > 0
                    && socket.address.to_string() == listen.address
            })
        };
        let mut ignored = Vec::new();
        for (name, watch) in self.listening.watches.iter_mut().filter(|(_, watch)| watch.due <= now) {
            let held = self.listening.holdings.get(name);
            let waiting = held.into_iter().flat_map(|held| &held.listeners).find(|listen| waits(listen));
            let up = self.world.units().get(name).and_then(|unit| first_up(unit));
            if watch.look(up, waiting.is_some(), now) {
                ignored.extend(waiting.map(|listen| (name.clone(), listen.to_string())));
            }
        }
        for (name, listen) in ignored {
            let message = format!("connections to {listen} wait and are not accepted; {HINT}");
            self.listen_ignored(&name, message);
        }
    }

    /// Files of unix sockets that somebody removed though programs serve them. What was not bound yet is not missed.
    pub(super) fn look_for_lost_sockets(&mut self) {
        let serves = |name: &Name| {
            let unit = self.world.units().get(name);
            unit.is_some_and(|unit| unit.slots.values().any(|slot| slot.state.process().is_some()))
        };
        let holdings = self.listening.holdings.iter().filter(|(name, _)| serves(name));
        let listeners = holdings.flat_map(|(name, held)| held.listeners.iter().map(move |it| (name, it)));
        let lost = listeners.filter(|(_, listen)| listen.transport.is_unix() && !sockets::has_file(listen));
        let lost: Vec<_> = lost.map(|(name, listen)| (name.clone(), listen.address.clone())).collect();
        let known = std::mem::take(&mut self.listening.lost);
        for (name, path) in lost {
            if !known.contains(&path) {
                let message = format!(
                    "somebody removed the socket file {path}: nobody finds it there any more; `unisys restart {name}` binds it anew"
                );
                self.note_of(&name, "SocketRemoved", message);
            }
            self.listening.lost.insert(path);
        }
    }

    /// An instance has ended and everything that it wrote is there: did it try to bind what it is handed?
    pub(super) fn look_for_taken_address(&mut self, id: &InstanceId) {
        let Some(held) = self.listening.holdings.get(&id.unit) else { return };
        let listeners = &held.listeners;
        if listeners.is_empty() {
            return;
        }
        let (tail, incarnation) = (Some(LAST_LINES), Some(id.incarnation));
        let query = Query { tail, incarnation, among: Some(read::LOOK), ..Query::default() };
        let (logs, index) = (self.state.services_logs(), self.state.index());
        let Ok((lines, _)) = read::read(&logs, &index, id.unit.as_str(), &query) else { return };
        let speaking = || lines.iter().rev().filter(|line| patterns::says_address_in_use(&line.message));
        let Some(last) = speaking().next() else { return };
        // It says which port; another one than these is somebody else's. Else it may have meant the first.
        let in_line = |line: &Line| patterns::port_in(&line.message);
        let named = speaking().find_map(in_line);
        let named = named.or_else(|| lines.iter().rev().find_map(|line| patterns::port_named(&line.message)));
        let is_it = |listen: &&Listen| named.is_none_or(|port| port == listen.port);
        if let Some(listen) = listeners.iter().find(is_it) {
            let line = speaking().find(|line| in_line(line).is_some()).unwrap_or(last);
            let said: String = line.message.trim().chars().filter(|c| !c.is_control()).take(200).collect();
            let message = format!(
                "instance {} tried to bind by itself what unisys holds for it ({listen}): {said}; {HINT}",
                id.ordinal
            );
            self.listen_ignored(&id.unit.clone(), message);
        }
    }

    /// A start that failed. When the address of a listener is taken, its holder is named: that takes a look at every process (tens
    /// of milliseconds where there are thousands), so neither the keeper nor a turn waits for it.
    pub(super) fn spawn_failed(
        &mut self,
        id: InstanceId,
        part: Part,
        stage: SpawnStage,
        errno: i32,
        detail: String,
    ) {
        let held = self.listening.holdings.get(&id.unit).map(|held| held.listeners.clone());
        let taken = held.unwrap_or_default().into_iter().find(|listen| {
            stage == SpawnStage::Listeners
                && errno == libc::EADDRINUSE
                && detail.starts_with(&listen.to_string())
        });
        let Some(listen) = taken else {
            return self.fact(id, InstanceFact::SpawnFailed { part, stage, errno, detail });
        };
        let (inputs, state_id) = (self.inputs.clone(), self.state_id.clone());
        tokio::spawn(async move {
            let (port, transport) = (listen.port, listen.transport);
            let look = move || listeners::holder(&[port].into(), transport, &state_id);
            let holder = tokio::task::spawn_blocking(look).await.ok().flatten();
            let detail = holder.map_or(detail, |(_, holder)| format!("{listen} is held by {holder}"));
            let fact = InstanceFact::SpawnFailed { part, stage, errno, detail };
            let _ = inputs.send(Input::Fact { id, fact }).await;
        });
    }

    fn listen_ignored(&mut self, name: &Name, message: String) {
        self.note_of(name, "ListenIgnored", message);
        self.saw_events = true;
    }
}

/// An instance that is through its probes.
fn first_up(unit: &Unit) -> Option<Incarnation> {
    let mut up = unit.slots.values().filter(|slot| matches!(slot.state, Lifecycle::Up(_)));
    up.find_map(|slot| slot.instance.as_ref().map(|instance| instance.incarnation))
}

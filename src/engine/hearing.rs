//! What the other threads and the keeper's version have to say, and the last lines of who ended.

use crate::base::{InstanceId, Revision, limits};
use crate::keeper::protocol::Request;
use crate::logs::Told;
use crate::os::clock;
use crate::world::{Event, InstanceFact};

use super::{Engine, Input, Inputs};

impl Engine {
    /// The last lines of an instance, told once they are all written.
    pub(crate) fn tail_log(&mut self, id: InstanceId, revision: Revision) {
        if self.closing.contains(&id) {
            self.tails.insert(id, revision);
            return;
        }
        let (logs, index, inputs) = (self.state.services_logs(), self.state.index(), self.inputs.clone());
        tokio::task::spawn_blocking(move || {
            let lines = crate::logs::read::tail_of_instance(&logs, &index, &id, limits::ROLLBACK_LINES);
            let lines: Vec<String> =
                lines.iter().map(|line| String::from_utf8_lossy(line).into_owned()).collect();
            let tell = move |engine: &mut Engine| {
                let lines =
                    lines.iter().map(|line| engine.faults.redactor().text(line).into_owned()).collect();
                let event = Event::Lines { unit: id.unit, revision, lines };
                engine.world.handle(clock::now(), event);
            };
            let _ = inputs.blocking_send(Input::Call(Box::new(tell)));
        });
    }

    /// The keeper is of another version.
    pub(super) fn keeper_differs(&mut self, version: u32) {
        let message = format!(
            "the keeper (unisys {}) speaks version {version} of its protocol, this daemon version {}: what only one of them \
             knows is not used; `unisys upgrade` makes both the same, services are not touched",
            self.keeper_release,
            crate::keeper::protocol::VERSION
        );
        self.note(false, "KeeperVersion", "system", message);
    }

    /// What the store's thread says when it cannot write, and when it can again.
    pub(super) fn hear_of_store(inputs: &Inputs) -> crate::store::Tell {
        let inputs = inputs.clone();
        Box::new(move |failing| {
            let call = Box::new(move |engine: &mut Engine| engine.store_told(failing));
            // Never waited for: the engine may be waiting for the thread.
            inputs.try_send(Input::Call(call)).is_ok()
        })
    }

    fn store_told(&mut self, failing: Option<String>) {
        match failing {
            Some(why) => {
                let path = self.state.database();
                let message = format!(
                    "{} cannot be written: {why}; overrides, revisions and history are only in memory until it can",
                    path.display()
                );
                self.state_stuck = Some(message.clone());
                self.note(true, "StateBlocked", "system", message);
            }
            None => {
                self.state_stuck = None;
                self.note(false, "StateUnblocked", "system", "state.db is written again".into());
            }
        }
    }

    /// How an instance ended is known to the keeper until the store knows what came of it: the next daemon finds
    /// it in one of them, whenever this one is killed. So it is with the failure that it was. A disk that
    /// takes nothing holds up nobody.
    pub(super) fn let_go_once_recorded(&mut self, id: InstanceId) {
        self.unrecorded.insert(id.clone());
        if self.is_being_explained(&id) {
            return;
        }
        self.save_failures();
        let (mut recorded, inputs) = (self.store.recorded_in_passing(), self.inputs.clone());
        tokio::spawn(async move {
            let _ = recorded.recv().await;
            let _ = inputs.send(Input::EndRecorded(id)).await;
        });
    }

    /// Nothing need be kept of it.
    pub(super) fn let_go(&mut self, id: &InstanceId) {
        if let Some(id) = self.unrecorded.take(id) {
            let epoch = self.epoch;
            self.link.send_later(&Request::Forget { epoch, id });
        }
    }

    pub(super) fn log_told(&mut self, told: Told) {
        match told {
            Told::LineSeen(id) => self.fact(id, InstanceFact::ToldReady { how: "log" }),
            // Before that the keeper may not let the pipes go.
            Told::Closed(id) => {
                self.closing.remove(&id);
                if let Some(revision) = self.tails.remove(&id) {
                    self.tail_log(id.clone(), revision);
                }
                self.output_closed(&id);
                self.look_for_taken_address(&id);
                self.let_go_once_recorded(id);
                self.end_if_finished();
            }
            Told::Removed(id, path) => {
                let message = format!(
                    "{} was a link, or another thing that is no file: it was removed and not followed, and a new file begun; \
                     somebody who may write that directory had put it there",
                    path.display()
                );
                self.note_of(&id.unit, "LogReplaced", message);
            }
            Told::Stuck(Some(why)) => {
                let message = format!(
                    "output cannot be written to {}: {why}; programs that write wait until it can",
                    self.state.logs().display()
                );
                self.logs_stuck = Some(message.clone());
                self.note(true, "LogsBlocked", "system", message);
                self.end_if_finished();
            }
            Told::Stuck(None) => {
                self.logs_stuck = None;
                self.note(false, "LogsUnblocked", "system", "output is written again".into())
            }
        }
    }
}

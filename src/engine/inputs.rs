//! What reaches the engine from its own threads and tasks: each becomes an event of the world.

use std::os::fd::OwnedFd;

use tokio::sync::mpsc;

use crate::base::{InstanceId, Name, limits};
use crate::keeper::protocol::Request;
use crate::logs::Told;
use crate::os::{clock, process};
use crate::probe::{self, Answer};
use crate::unit::ProbeKind;
use crate::world::{Event, InstanceFact};

use super::Engine;

/// Something that reached the engine.
pub enum Input {
    Probe {
        id: InstanceId,
        kind: ProbeKind,
        seq: u64,
        answer: Answer,
        /// It has waited for the end of the program that was ending when it came.
        waited: bool,
    },
    External {
        name: Name,
        seq: u64,
        answer: Answer,
    },
    Fact {
        id: InstanceId,
        fact: InstanceFact,
    },
    Log(Told),
    /// How it ended is on the disk, or cannot be written.
    EndRecorded(InstanceId),
    /// Descriptors that a program gives to keep (`FDSTORE=1`), under a name.
    Store {
        id: InstanceId,
        name: String,
        fds: Vec<OwnedFd>,
    },
    /// `FDSTOREREMOVE=1`.
    Unstore {
        id: InstanceId,
        name: String,
    },
    /// A question or wish of the control API.
    Call(Box<dyn FnOnce(&mut Engine) + Send>),
    /// To be answered when everything before it has been acted upon.
    Heard(tokio::sync::oneshot::Sender<()>),
}

/// Inputs that wait; who sends more waits.
const INPUTS: usize = 4096;

/// A way into the engine.
pub type Inputs = mpsc::Sender<Input>;

impl Engine {
    /// A channel for inputs.
    pub fn channel() -> (Inputs, mpsc::Receiver<Input>) {
        mpsc::channel(INPUTS)
    }

    pub(super) fn input(&mut self, input: Input) {
        match input {
            Input::Probe { id, kind, seq, answer, waited } => {
                if !answer.ok && !waited && self.is_ending(&id) {
                    return self.put_off(id, kind, seq, answer);
                }
                self.probe_answered(&id, kind, &answer);
                let probe::Answer { ok, late, message } = answer;
                let message = self.without_secrets(message);
                self.fact(id, InstanceFact::Probe { kind, seq, ok, late, message });
            }
            Input::External { name, seq, answer } => {
                let message = self.without_secrets(answer.message);
                let event = Event::External { name, seq, ok: answer.ok, message };
                self.world.handle(clock::now(), event);
            }
            Input::Fact { id, fact } => {
                if let (InstanceFact::MainPid(pid), Some(attached)) = (&fact, self.attached.get_mut(&id)) {
                    attached.main_pid = Some(*pid);
                }
                let fact = match fact {
                    InstanceFact::ToldStatus(text) => {
                        InstanceFact::ToldStatus(probe::notify::shown(&self.without_secrets(text)))
                    }
                    InstanceFact::Reloaded { ok, message } => {
                        InstanceFact::Reloaded { ok, message: self.without_secrets(message) }
                    }
                    fact => fact,
                };
                if fact == InstanceFact::Heartbeat {
                    self.heart_beat(&id);
                }
                self.fact(id, fact);
            }
            Input::Log(told) => self.log_told(told),
            Input::EndRecorded(id) => self.let_go(&id),
            Input::Store { id, name, fds } => {
                let epoch = self.epoch;
                for fd in fds {
                    let request = Request::Store { epoch, id: id.clone(), name: name.clone() };
                    self.link.send_with(&request, vec![fd]);
                }
            }
            Input::Unstore { id, name } => {
                let epoch = self.epoch;
                self.link.send(&Request::Unstore { epoch, id, name });
            }
            Input::Heard(heard) => self.heard.push(heard),
            Input::Call(call) => {
                self.trim.soon(clock::mono());
                call(self);
            }
        }
    }

    /// What programs say may hold values that only they should know.
    fn without_secrets(&self, text: String) -> String {
        let redactor = self.faults.redactor();
        if let Some(said) = text.strip_suffix(probe::CUT) {
            let whole = said.get(..redactor.whole(said.as_bytes())).unwrap_or_default();
            return format!("{}{}", redactor.text(whole), probe::CUT);
        }
        match redactor.text(&text) {
            std::borrow::Cow::Borrowed(_) => text,
            std::borrow::Cow::Owned(masked) => masked,
        }
    }

    /// Its main program is ending: that is about to be told, and says more than that it does not answer.
    fn is_ending(&self, id: &InstanceId) -> bool {
        self.main_pid(id).is_some_and(process::is_ending)
    }

    /// Takes a failed answer for one only if the program has not ended meanwhile.
    fn put_off(&self, id: InstanceId, kind: ProbeKind, seq: u64, answer: Answer) {
        let inputs = self.inputs.clone();
        tokio::spawn(async move {
            tokio::time::sleep(limits::END_TOLD).await;
            let _ = inputs.send(Input::Probe { id, kind, seq, answer, waited: true }).await;
        });
    }
}

//! Reads what programs tell: their pipes go to the collector, their notify sockets become facts.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::base::{InstanceId, Redactor};
use crate::os::{clock, inherit, process};
use crate::plan::UnitSpec;
use crate::probe::notify::{self, Word};
use crate::world::InstanceFact;

use super::{Attached, Engine, Input, Inputs};

impl Engine {
    /// Descriptors of an instance, as the keeper sends them: stdout, stderr, and what it tells readiness by.
    /// `main`: the pid of its main program, if that one is known by now. `started`: what it was started with, unless the world knows.
    /// `unknown`: it has ended, and had secrets that nobody knows any more.
    pub(super) fn attach_pipes(
        &mut self,
        id: &InstanceId,
        main: Option<u32>,
        fds: Vec<OwnedFd>,
        started: Option<&UnitSpec>,
        unknown: bool,
    ) {
        if self.attached.contains_key(id) {
            return;
        }
        let mut fds = fds.into_iter();
        let (Some(stdout), Some(stderr)) = (fds.next(), fds.next()) else {
            // The keeper could not open them again, or the kernel dropped what there is no number for (unix(7), MSG_CTRUNC).
            let message = format!(
                "what instance {} writes is not heard: its pipes cannot be opened, or there are too many open files; it runs on, \
                 and `unisys restart {}` gives it new ones",
                id.ordinal, id.unit
            );
            return self.note_of(&id.unit, "NotHeard", message);
        };
        let secrets = match unknown {
            true => Some(Arc::new(Redactor::of_unknown())),
            false => self.secrets_of(&id.unit, started),
        };
        self.collector.open(id.clone(), [stdout, stderr], secrets.clone());
        let notify = fds.next().and_then(|fd| Notify::listen(id, main, fd, &self.inputs));
        self.attached.insert(id.clone(), Attached { notify, main_pid: None, secrets });
    }

    pub(super) fn detach(&mut self, id: &InstanceId) {
        if let Some(attached) = self.attached.remove(id)
            && let Some(notify) = attached.notify
        {
            notify.task.abort();
        }
        self.told.remove(id);
        self.ports.remove(id);
    }

    /// Over what programs tell, for who holds it next; nothing more is heard of it here.
    pub(super) fn leave_notify(&mut self) -> Vec<(InstanceId, OwnedFd)> {
        let heard = std::mem::take(&mut self.attached).into_iter();
        heard.filter_map(|(id, attached)| Some((id, attached.notify?.leave()?))).collect()
    }
}

/// A socket (sd_notify) or a pipe (s6) of an instance, and who listens to it.
pub(crate) struct Notify {
    fd: Arc<AsyncFd<OwnedFd>>,
    task: tokio::task::JoinHandle<()>,
}

impl Notify {
    fn listen(id: &InstanceId, main: Option<u32>, fd: OwnedFd, inputs: &Inputs) -> Option<Self> {
        let fd = Arc::new(inherit::watched(fd, Interest::READABLE).ok()?);
        let task = tokio::spawn(listen(id.clone(), main, fd.clone(), inputs.clone()));
        Some(Self { fd, task })
    }

    fn leave(self) -> Option<OwnedFd> {
        self.task.abort();
        self.fd.get_ref().try_clone().ok()
    }
}

/// Until its end.
async fn listen(id: InstanceId, main: Option<u32>, fd: Arc<AsyncFd<OwnedFd>>, inputs: Inputs) {
    let is_socket = rustix::net::sockopt::socket_type(fd.get_ref()).is_ok();
    loop {
        let Ok(mut ready) = fd.readable().await else { return };
        // What is said once, and what the end of whoever said it hangs on.
        let mut is_kept = false;
        let facts = if is_socket {
            match ready.try_io(notify::peek) {
                Ok(Ok(message)) => {
                    is_kept = message.words.iter().any(|word| matches!(word, Word::Ready | Word::MainPid(_)));
                    if !is_kept {
                        let _ = notify::receive(fd.get_ref());
                    }
                    datagram(&id, main, message, &inputs).await
                }
                Ok(Err(_)) => return,
                Err(_) => continue,
            }
        } else {
            match ready.try_io(notify::read_newline) {
                Ok(Ok(Some(true))) => vec![InstanceFact::ToldReady { how: "newline" }],
                Ok(Ok(Some(false))) => continue,
                Ok(Ok(None) | Err(_)) => return,
                Err(_) => continue,
            }
        };
        for fact in facts {
            if inputs.send(Input::Fact { id: id.clone(), fact }).await.is_err() {
                return;
            }
        }
        // It is in the socket, which the keeper holds, until the keeper has been told: a daemon that is killed between the two
        // leaves it to the next one, and the end of who said it is told after it.
        if is_kept {
            let (heard, told) = tokio::sync::oneshot::channel();
            if inputs.send(Input::Heard(heard)).await.is_err() || told.await.is_err() {
                return;
            }
            let _ = notify::receive(fd.get_ref());
        }
    }
}

/// The facts of one datagram. A sender that does not belong to the instance is not heard (architecture §8).
async fn datagram(
    id: &InstanceId,
    main: Option<u32>,
    message: notify::Message,
    inputs: &Inputs,
) -> Vec<InstanceFact> {
    let Some(sender) = message.sender else { return Vec::new() };
    // The kernel names the sender: usually the main program, which is known without asking /proc.
    // One that is gone already cannot be asked: anybody reaches an abstract address (unix(7)), but not as the program's user.
    let of_its_user = || {
        [Some(std::process::id()), main]
            .iter()
            .flatten()
            .any(|pid| process::user_of(*pid) == Some(message.uid))
    };
    let own = main == Some(sender) || belongs(sender, id).unwrap_or_else(of_its_user);
    if !own {
        tracing::warn!(%id, sender, "a notify message from outside the instance is ignored");
        return Vec::new();
    }
    let mut facts = Vec::new();
    // Of a barrier: closed when this function ends.
    let _barrier = store(id, &message.words, message.fds, inputs).await;
    let began = message.words.iter().find_map(|word| match word {
        Word::Monotonic(micros) => Some(*micros),
        _ => None,
    });
    for word in message.words {
        match word {
            Word::Ready => facts.push(InstanceFact::ToldReady { how: "READY=1" }),
            Word::Reloading => {
                facts.push(InstanceFact::ToldReloading { since: began.map(clock::from_monotonic) })
            }
            Word::Monotonic(_) => {}
            Word::Stopping => facts.push(InstanceFact::ToldStopping),
            Word::Status(text) => facts.push(InstanceFact::ToldStatus(text)),
            Word::MainPid(pid) if belongs(pid, id) == Some(true) => facts.push(InstanceFact::MainPid(pid)),
            Word::MainPid(pid) => tracing::warn!(%id, pid, "MAINPID of a foreign process is ignored"),
            Word::ExtendTimeout(micros) => {
                facts.push(InstanceFact::Extend { until: clock::mono() + Duration::from_micros(micros) });
            }
            Word::Heartbeat => facts.push(InstanceFact::Heartbeat),
            Word::Frozen => facts.push(InstanceFact::ToldFrozen),
            Word::HeartbeatWithin(micros) => {
                facts.push(InstanceFact::HeartbeatWithin(Duration::from_micros(micros)));
            }
            Word::Store | Word::Unstore | Word::StoreName(_) => {}
            Word::Barrier => {
                // Everything before it has gone into the engine's queue; closing the descriptor says so.
                for fact in facts.drain(..) {
                    let _ = inputs.send(Input::Fact { id: id.clone(), fact }).await;
                }
            }
        }
    }
    facts
}

/// Descriptors that the program gives to keep or takes back go to the keeper; others are given back.
async fn store(id: &InstanceId, words: &[Word], fds: Vec<OwnedFd>, inputs: &Inputs) -> Vec<OwnedFd> {
    let name = words.iter().find_map(|word| match word {
        Word::StoreName(name) => Some(name.clone()),
        _ => None,
    });
    let name = name.unwrap_or_else(|| notify::STORED.to_owned());
    if words.contains(&Word::Unstore) {
        let _ = inputs.send(Input::Unstore { id: id.clone(), name }).await;
        return fds;
    }
    if !words.contains(&Word::Store) {
        return fds;
    }
    let _ = inputs.send(Input::Store { id: id.clone(), name, fds }).await;
    Vec::new()
}

/// By the marker in its environment or that of an ancestor; `None` for one that is gone.
fn belongs(pid: u32, id: &InstanceId) -> Option<bool> {
    let marker = id.to_string();
    let mut pid = pid;
    for _ in 0..32 {
        let stat = process::stat(pid)?;
        match process::environ_value(pid, InstanceId::MARKER) {
            Some(value) => return Some(value.split_once('/').is_some_and(|(_, own)| own == marker)),
            None if stat.ppid > 1 => pid = stat.ppid,
            None => return Some(false),
        }
    }
    Some(false)
}

//! What the keeper reports, and what becomes of it when it is gone.

use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::base::{InstanceId, Part};
use crate::keeper::attention::DEAF;
use crate::keeper::fifos;
use crate::keeper::protocol::{CANNOT_BECOME, Died, Down, Report, Request, signal_words};
use crate::os::voice::complain;
use crate::os::{clock, process};
use crate::unit::Process;
use crate::world::shutdown::time_to_stop;
use crate::world::{Event, InstanceFact};

use super::link::{Amiss, Heir, Left, Peer};
use super::{Engine, Options};

impl Engine {
    pub(super) fn report(&mut self, report: Report, fds: Vec<OwnedFd>) {
        match report {
            Report::Spawned { id, part, pid, at, ports, left_out } => {
                self.attach_pipes(&id, (part == Part::Main).then_some(pid), fds, None, false);
                self.trim.started(clock::mono());
                self.fact(id, InstanceFact::Spawned { part, pid, at, ports, left_out });
            }
            Report::SpawnFailed { id, part, stage, errno, detail } => {
                self.spawn_failed(id, part, stage, errno, detail);
            }
            Report::Exited { id, part, exit, remains, spent } => {
                self.faults.spent(&id, spent.filter(|_| part == Part::Main));
                self.fact(id, InstanceFact::Exited { part, exit, remains });
            }
            Report::Uncontained { id } => self.fact(id, InstanceFact::Uncontained),
            Report::Gone { id, survivors } => {
                if !survivors.is_empty() {
                    let object = format!("{}", id.unit);
                    let message = format!(
                        "cannot kill {survivors:?} of instance {id}: they are in an uninterruptible wait"
                    );
                    self.note(true, "Survivors", &object, message);
                }
                self.fact(id, InstanceFact::Gone { survivors: survivors.len() as u32 });
            }
            Report::Unattributed { pid, program } => {
                let message = format!(
                    "process {pid} ({program}) came of a service and has left its session, its environment and its output: which one \
                     is not known, so no `unisys stop` ends it; it ends with `unisys down`, or `kill {pid}`"
                );
                self.note(true, "Unattributed", "system", message);
            }
            Report::Refused { id: None, why } if why.starts_with(CANNOT_BECOME) => {
                let message = format!("the keeper goes on as it is: it {why}");
                self.note(true, "UpgradeFailed", "system", message);
            }
            Report::Refused { why, .. } => tracing::warn!(%why, "the keeper refused a request"),
            Report::Terminate { immediate, signal } => {
                self.goes_down(Down { by: signal_words(signal).into(), immediate, until: None });
            }
            Report::Journal { blocked: Some(why) } => {
                let message = format!(
                    "what the keeper keeps for its successor cannot be written to {}: {why}; should the keeper die now, the \
                     next one would not know everything",
                    self.state.run().join("journal").display()
                );
                self.note(true, "JournalBlocked", "system", message);
            }
            Report::Journal { blocked: None } => {
                let message = "the keeper's journal is written again".into();
                self.note(false, "JournalUnblocked", "system", message);
            }
            Report::Reload => self.reload("SIGHUP"),
            Report::UpgradeAsked => self.upgrade_keeper(),
            Report::Welcome { .. } | Report::Instance(_) | Report::InventoryEnd => {}
        }
    }

    /// In whose place this daemon, or its keeper, has come.
    pub(super) fn tell_of_death(&mut self, died: Option<Died>, held: usize) {
        let (reason, words) = match died {
            None => return,
            Some(Died::Daemon { pid, exit }) => {
                ("DaemonDied", format!("the daemon (pid {pid}) ended: {exit}"))
            }
            Some(Died::Keeper { pid }) => (
                "KeeperDied",
                format!(
                    "the keeper (pid {pid}) was killed; another one (pid {}) has taken over",
                    self.keeper_pid
                ),
            ),
        };
        let message = format!("{words}; what runs was taken up as it is ({held} held)");
        self.note(true, reason, "system", message);
    }

    pub(super) fn goes_down(&mut self, down: Down) {
        self.console.going_down(down.immediate);
        match down.until {
            Some(at) => self.world.handle(clock::now(), Event::StopBy { at }),
            // It has its time already: another daemon is only told again that everything stops.
            None if self.world.is_going_down() => {}
            None => self.has_to_stop_within(None),
        }
        self.world.handle(clock::now(), Event::ShutDown { by: down.by, now: down.immediate });
    }

    /// Everything that is stopped has to have stopped in time.
    pub fn has_to_stop_within(&mut self, asked: Option<Duration>) {
        let (now, declared) = (clock::now(), self.world.desired().stop_deadline);
        if let Some(within) = time_to_stop(asked, declared, self.keeper_pid == 1) {
            self.world.handle(now, Event::StopBy { at: now.mono + within });
        }
    }

    /// A keeper that was stopped is woken: no end is heard and nothing is started meanwhile. One that hangs is spoken of, and
    /// left alone: only it has what the services are held by.
    pub(super) fn look_at_keeper(&mut self) {
        match self.link.look(clock::mono(), &self.keeper) {
            None => {}
            Some(Amiss::Stopped) => {
                self.keeper.wake();
                let message = "the keeper was stopped by a signal; it goes on".into();
                self.note(true, "KeeperStopped", "system", message);
            }
            Some(Amiss::Deaf) => {
                let message = format!(
                    "the keeper (pid {}) has not listened for {} s: nothing is started or stopped meanwhile; services run on. \
                     Once it is killed (kill -9), this daemon starts another one that takes them over",
                    self.keeper_pid,
                    DEAF.as_secs()
                );
                self.note(true, "KeeperHangs", "system", message);
            }
        }
    }

    /// The keeper becomes the binary on disk; then this daemon ends and the keeper starts the new one.
    pub fn upgrade_keeper(&mut self) {
        let epoch = self.epoch;
        self.note(false, "Upgrading", "system", "keeper and daemon become the binary on disk".into());
        self.link.send(&Request::Upgrade { epoch });
    }

    /// The keeper has closed the link. If it was killed, a new one takes over from its journal and starts a daemon of its own.
    pub(super) fn keeper_lost(&mut self) -> Option<Heir> {
        // First of all: from now on who ends is collected by others, and how it ended is known only by a handle.
        let mains = self.handles_of_mains();
        // In this order: the next daemon waits for the store before it captures anything.
        let mut pipes = self.collector.stop();
        // Also those of which the keeper did not get to tell.
        pipes.extend(fifos::hold_others(&self.state.run(), &pipes));
        self.store.close();
        let left = Left { pipes, notify: self.leave_notify(), mains };
        Self::replace_keeper(&self.options, &self.keeper, left)
    }

    /// Of the main process of every instance. One that began at another time only has its pid.
    fn handles_of_mains(&self) -> Vec<(InstanceId, OwnedFd)> {
        const LATE: Duration = Duration::from_secs(1);
        let slots = self.world.units().iter().flat_map(|(name, unit)| {
            unit.slots.values().filter_map(move |slot| Some((slot.id(name)?, slot.state.process()?)))
        });
        let handle = |(id, of): (InstanceId, &Process)| {
            let handle = process::open_any(of.pid)?;
            let began = process::stat(of.pid)?.started_at();
            (began <= of.executed_at && of.executed_at.since(began) < LATE).then_some((id, handle))
        };
        slots.filter_map(handle).collect()
    }

    /// Starts a keeper in place of one that was killed; does nothing when it became another image of itself.
    pub fn replace_keeper(options: &Options, former: &Peer, left: Left) -> Option<Heir> {
        if !former.was_killed() {
            return None;
        }
        tracing::error!("the keeper is gone; starting a new one");
        complain!("unisys: the keeper is gone; services run on, a new keeper takes over");
        Heir::start(options, former, left).map_err(|error| no_keeper(&error)).ok()
    }
}

/// The next `up` finds what runs in the journal.
pub fn no_keeper(error: &std::io::Error) {
    complain!(
        "unisys: cannot start a new keeper: {error}; services run on, the next `unisys up` adopts them"
    );
}

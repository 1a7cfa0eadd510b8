//! Outcomes of spawns, ends of processes, and kills.

use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::base::{Exit, InstanceId, Instant, Part, Spent, limits};
use crate::os::voice::complain;
use crate::os::{clock, process};
use crate::unit::StopReason;

use super::contain::{Kill, Owner};
use super::journal::Entry;
use super::protocol::{self, Died, HeldPart, Notify, Report};
use super::run::{KILL_POLL, Keeper};
use super::spawner::Outcome;
use super::table::{Instance, PartState, Running};

/// So long an end is kept back for what the program said before it; a daemon that runs takes a moment.
const HEARD: Duration = Duration::from_secs(1);

/// The end of a process, as it is written down and told.
struct Ended {
    id: InstanceId,
    part: Part,
    pid: u32,
    exit: Exit,
    remains: bool,
    spent: Option<Spent>,
}

/// That of a main program that may have said something which nobody has read: it may have named another process as its main one
/// (`MAINPID=`, sd_notify(3)), and then its end is not the instance's. It is in the journal, unless that is so.
pub(super) struct Unheard {
    end: Ended,
    until: Instant,
}

impl Unheard {
    pub(super) fn pid(&self) -> u32 {
        self.end.pid
    }

    /// As it is in the journal.
    pub(super) fn entry(&self) -> Entry {
        let Ended { id, part, exit, remains, spent, .. } = &self.end;
        Entry::Exited { id: id.clone(), part: *part, exit: *exit, remains: *remains, spent: *spent }
    }
}

/// Who asks, for [`super::contain`]. No method: what is asked about is borrowed beside it.
macro_rules! owner {
    ($keeper:expr, $run:expr) => {
        Owner {
            run: $run,
            state_id: &$keeper.state_id,
            daemon: $keeper.daemon.pid,
            cgroups: $keeper.cgroups.as_ref(),
            heir: $keeper.heir,
        }
    };
}

impl Keeper {
    pub(super) fn take_outcomes(&mut self) {
        for outcome in self.spawner.outcomes() {
            self.starts += 1;
            if self.starts >= limits::MANY_STARTS {
                self.trim_at = Some(clock::mono() + limits::TRIM_AFTER);
            }
            self.outcome(outcome);
        }
        if self.spawner.in_flight == 0 && !self.early.is_empty() {
            self.early.clear();
        }
    }

    fn outcome(&mut self, outcome: Outcome) {
        let (id, part) = (outcome.request.id.clone(), outcome.request.part);
        let Some(instance) = self.table.instances.get_mut(&id) else { return };
        if outcome.pipes.is_some() {
            instance.pipes = outcome.pipes;
        }
        match outcome.result {
            Ok(started) => {
                let (pid, left_out) = (started.pid, started.left_out);
                let running = Running {
                    pid: started.pid,
                    start: started.start,
                    at: started.at,
                    pidfd: started.pidfd,
                    child: true,
                };
                if part == Part::Main {
                    // The daemon that is told may die before it says what is to be remembered.
                    instance.mark.left_out.clone_from(&left_out);
                }
                let held: HeldPart = running.held(part);
                instance.parts.insert(part, PartState::Running(running));
                let entry = match (part, instance.parts.len()) {
                    // With the numbers and listeners that only the main program has.
                    (Part::Main, _) | (_, 1) => Entry::Instance(Box::new(instance.held(&id))),
                    _ => Entry::Part { id: id.clone(), part: held },
                };
                self.journal.write(&entry);
                self.table.by_pid.insert(started.pid, (id.clone(), part));
                let ports = instance.ports.clone();
                let report = Report::Spawned { id: id.clone(), part, pid, at: started.at, ports, left_out };
                self.tell_with_pipes(&report, &id);
                if part == Part::Main {
                    self.watch_cgroup(&id);
                }
                if let Some((exit, spent)) = self.early.remove(&started.pid) {
                    self.ended(started.pid, exit, spent);
                }
            }
            Err(failed) => {
                instance.parts.remove(&part);
                if matches!(part, Part::Main | Part::PreStart(_)) {
                    // A daemon that has not heard of it goes no further in a start that has failed.
                    instance.mark.stop = Some(StopReason::Unwanted);
                    let (mark, generation) = (instance.mark.clone(), instance.generation);
                    self.journal.write(&Entry::Remember { id: id.clone(), mark, generation, spec: None });
                }
                let report = Report::SpawnFailed {
                    id: id.clone(),
                    part,
                    stage: failed.stage,
                    errno: failed.errno,
                    detail: failed.detail,
                };
                self.tell(&report);
            }
        }
        if let Some(at) = self.doomed.iter().position(|doomed| *doomed == id) {
            self.doomed.swap_remove(at);
            self.kill(id);
        }
    }

    pub(super) fn collect_ends(&mut self) {
        let reaped = process::reap().into_iter();
        let mut ends: Vec<_> = reaped.map(|(pid, exit, spent)| (pid, exit, Some(spent))).collect();
        if self.heir {
            let running = self.table.instances.values().flat_map(Instance::running);
            let foreign: Vec<&Running> =
                running.map(|(_, running)| running).filter(|running| !running.child).collect();
            // One question for all of them: this is asked whenever anything happens.
            let ended = process::ended(foreign.iter().map(|running| &running.pidfd));
            ends.extend(foreign.into_iter().zip(ended).filter(|(_, ended)| *ended).map(|(running, _)| {
                let exit = process::exit_by_handle(&running.pidfd, running.pid, running.start);
                (running.pid, exit, None)
            }));
        }
        // Spawns whose outcome came while we looked belong to the table first.
        if !ends.is_empty() {
            self.take_outcomes();
        }
        let mut looked = false;
        // One that is no child is seen to have ended each time.
        ends.retain(|(pid, _, spent)| spent.is_some() || !self.unheard.iter().any(|end| end.pid() == *pid));
        for (pid, exit, spent) in ends {
            if self.daemon.pid == Some(pid) {
                self.daemon_ended(exit);
            } else if self.table.by_pid.contains_key(&pid) {
                if !std::mem::replace(&mut looked, true) {
                    self.look_for_strays();
                }
                self.ended(pid, exit, spent);
            } else if self.spawner.in_flight > 0 {
                self.early.insert(pid, (exit, spent));
            }
        }
        if looked {
            self.tell_unattributed();
        }
    }

    fn daemon_ended(&mut self, exit: Exit) {
        // What it asked for before it died is done: its successor would only ask again, and believe that it were the first.
        self.read_requests();
        self.died = self.daemon.pid.map(|pid| Died::Daemon { pid, exit }).filter(|_| exit != Exit::Code(0));
        self.daemon.ended();
        self.greeted = false;
        // Another try would end the same; as exit codes of `up`.
        let hopeless = [
            (protocol::EXIT_INVALID, 1),
            (protocol::EXIT_CANNOT, 1),
            (protocol::EXIT_USAGE, 2),
            (protocol::EXIT_CONFLICT, 5),
            (protocol::EXIT_NOT_FOUND, 4),
        ];
        if self.table.instances.is_empty() {
            let found = hopeless.iter().find(|(code, _)| exit == Exit::Code((*code).into()));
            self.done = found.map(|(_, code)| *code).or(self.done);
        }
        if self.done.is_none() {
            let when = match self.daemon.start_at {
                Some(at) if at > clock::mono() => "it is started again soon",
                _ => "it is started again",
            };
            complain!("unisys: the daemon ended ({exit}); {when}, services are not touched");
        }
    }

    /// The end of a process is written down; that of a main program that may have said something is told once that has been read,
    /// and what the daemon asked for then.
    fn ended(&mut self, pid: u32, exit: Exit, spent: Option<Spent>) {
        let Some((id, part)) = self.table.by_pid.get(&pid).cloned() else { return };
        let tree = self.cgroups.as_ref();
        // The group may have outlived an earlier kill of a part of it: what is killed by us now did not end of that.
        let killed =
            matches!(exit, Exit::Signal { signal: libc::SIGKILL, .. }) && !self.kills.contains_key(&id);
        let exit = if killed && self.was_oom_killed(&id) { Exit::OomKilled } else { exit };
        let remains = part == Part::Main
            && (process::group_lives(pid)
                || self.strays.of(&id).next().is_some()
                || tree.is_some_and(|tree| !tree.processes(&id).is_empty()));
        self.journal.write(&Entry::Exited { id: id.clone(), part, exit, remains, spent });
        let tells = part == Part::Main && self.notify_of(&id).is_some();
        let end = Ended { id, part, pid, exit, remains, spent };
        match tells {
            true => self.unheard.push(Unheard { end, until: clock::mono() + HEARD }),
            false => self.tell_end(end),
        }
    }

    fn tell_end(&mut self, end: Ended) {
        let Ended { id, part, pid, exit, remains, spent } = end;
        self.table.ended(pid, exit, remains, spent);
        self.tell(&Report::Exited { id, part, exit, remains, spent });
    }

    /// It has said something (sd_notify(3)) that no daemon has heard.
    fn is_unread(&self, id: &InstanceId) -> bool {
        self.notify_of(id).is_some_and(|notify| process::readable_within(notify, Duration::ZERO))
    }

    /// The socket over which it tells.
    fn notify_of(&self, id: &InstanceId) -> Option<&OwnedFd> {
        let instance = self.table.instances.get(id).filter(|instance| instance.notify == Notify::Socket)?;
        instance.pipes.as_ref()?.notify.as_ref()
    }

    /// Ends whose word has been read. What follows from it has been asked for by then, and is read before they are told.
    pub(super) fn heard_out(&mut self) -> Vec<Unheard> {
        let now = clock::mono();
        let ends = std::mem::take(&mut self.unheard);
        let (wait, over) =
            ends.into_iter().partition(|end: &Unheard| end.until > now && self.is_unread(&end.end.id));
        self.unheard = wait;
        over
    }

    /// Of a process that is still a main program.
    pub(super) fn heard_end(&mut self, Unheard { end, .. }: Unheard) {
        if self.table.by_pid.get(&end.pid).is_some_and(|(id, _)| *id == end.id) {
            self.tell_end(end);
        }
    }

    /// Another process of an instance is its main program from now on (`MAINPID=`, sd_notify(3)): its end is the instance's. The one
    /// before it is one of many.
    pub(super) fn follow(&mut self, id: &InstanceId, pid: u32) {
        let Some(former) = self.table.instances.get(id).and_then(Instance::main) else { return };
        // In this order: one whose parent ends meanwhile is a stray from then on.
        let descends = process::descends(pid, former.pid);
        self.look_for_strays();
        let of_it = descends || self.strays.of(id).any(|stray| stray == pid);
        let Some(instance) = self.table.instances.get_mut(id) else { return };
        let Some(PartState::Running(former)) = instance.parts.get(&Part::Main) else { return };
        let Some(stat) = process::stat(pid).filter(|stat| of_it && stat.pid != former.pid && stat.is_alive())
        else {
            return;
        };
        let Ok(Some(pidfd)) = process::open(pid, stat.start) else { return };
        let child = stat.ppid == std::process::id();
        let running = Running { pid, start: stat.start, at: former.at, pidfd, child };
        self.strays.keep(former.pid, former.start, id);
        self.table.by_pid.remove(&former.pid);
        self.table.by_pid.insert(pid, (id.clone(), Part::Main));
        instance.parts.insert(Part::Main, PartState::Running(running));
        self.journal.write(&Entry::Instance(Box::new(instance.held(id))));
        // Whoever is no child of ours is known to end by its handle.
        self.heir |= !child;
    }

    fn look_for_strays(&mut self) {
        let (table, strays) = (&self.table, &mut self.strays);
        let run = self.options.state.run();
        let owner = owner!(self, &run);
        strays.refresh(table, &owner);
    }

    /// Who cannot be attributed is never hidden.
    fn tell_unattributed(&mut self) {
        for pid in self.strays.unattributed() {
            self.tell(&Report::Unattributed {
                pid,
                program: process::words(pid).into_iter().next().unwrap_or_default(),
            });
        }
    }

    /// Nothing that came of this system is left behind; who cannot be killed is named.
    pub(super) fn sweep(&mut self) {
        let (table, strays) = (&self.table, &mut self.strays);
        let run = self.options.state.run();
        let owner = owner!(self, &run);
        let unknown = strays.sweep(table, &owner);
        if !unknown.is_empty() {
            let words = unknown.iter().map(|pid| format!("{pid} ({})", process::command(*pid)));
            let words = words.collect::<Vec<_>>().join(", ");
            complain!("unisys: these could not be killed: {words}");
        }
    }

    pub(super) fn kill(&mut self, id: InstanceId) {
        match self.table.instances.get(&id) {
            None => return self.tell(&Report::Gone { id, survivors: Vec::new() }),
            Some(instance) if instance.is_spawning() => return self.doomed.push(id),
            Some(_) => {}
        }
        if self.kills.contains_key(&id) {
            return;
        }
        let run = self.options.state.run();
        let owner = owner!(self, &run);
        let kill = Kill::begin(&self.table, &mut self.strays, &owner, &id);
        self.kills.insert(id, kill);
    }

    pub(super) fn progress_kills(&mut self) {
        if self.kills.is_empty() {
            return;
        }
        let run = self.options.state.run();
        let owner = owner!(self, &run);
        let mut over = Vec::new();
        for (id, kill) in &mut self.kills {
            if let Some(survivors) = kill.progress(&self.table, &mut self.strays, &owner, id) {
                over.push((id.clone(), survivors));
            }
        }
        if over.is_empty() {
            return;
        }
        // Ends that are already there are told before the word that nothing is left.
        self.collect_ends();
        for end in std::mem::take(&mut self.unheard) {
            match over.iter().any(|(id, _)| *id == end.end.id) {
                true => self.heard_end(end),
                false => self.unheard.push(end),
            }
        }
        // Before whoever asked for a stop hears that it is over.
        self.tell_unattributed();
        for (id, survivors) in over {
            self.kills.remove(&id);
            self.tell(&Report::Gone { id, survivors });
        }
    }

    pub(super) fn kill_everything_if_due(&mut self) {
        if self.kill_all_at.is_some_and(|at| at <= clock::mono()) {
            let ids: Vec<InstanceId> = self.table.instances.keys().cloned().collect();
            for id in &ids {
                self.kill(id.clone());
            }
            for _ in 0..200 {
                self.progress_kills();
                self.collect_ends();
                if self.kills.is_empty() {
                    break;
                }
                std::thread::sleep(KILL_POLL);
            }
            self.done = Some(130);
        }
    }
}

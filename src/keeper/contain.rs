//! Which processes belong to an instance, and how all of them are killed.
//!
//! The keeper is a subreaper: whatever a service leaves behind becomes its child. So a living process of an instance is a
//! descendant of one of its parts, or of a *stray*: a child of the keeper that it did not start. A stray is attributed by its
//! session, by the `UNISYS_INSTANCE` marker in its environment, by its tag ([`process::tag`]), or by holding the instance's FIFO
//! open. A program that leaves all of them on purpose cannot be attributed; it is told, and ends with everything.
//!
//! Where there is a cgroup for each instance (`os/cgroup.rs`), it knows what belongs to it and is killed as one.

use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use crate::base::{InstanceId, Instant};
use crate::os::cgroup::Tree;
use crate::os::{clock, process};

use super::spawner::PipeNames;
use super::table::{Instance, PartState, Running, Table};

/// Scans until nothing new is found; a fork bomb is stopped faster than it can fork, as every member is stopped first.
const ROUNDS: usize = 32;
/// What sleeps uninterruptibly this long after SIGKILL is a survivor, and named.
const PATIENCE: Duration = Duration::from_secs(5);
/// Whoever does not ends as soon as it is given a processor: with many for few of them that may take longer.
const BUSY: Duration = Duration::from_secs(60);

/// How long one that is killed at the very end is waited for, before it is looked whether anybody is left.
const DYING: Duration = Duration::from_millis(100);

/// Children of the keeper that it did not start, and whose they are.
#[derive(Default)]
pub struct Strays {
    known: BTreeMap<u32, (u64, Option<InstanceId>)>,
    /// Main programs of which another process has taken the place.
    kept: BTreeMap<u32, (u64, InstanceId)>,
    /// Of nobody, and told.
    told: BTreeMap<u32, u64>,
    /// Children of whoever became the keeper: they are none of ours.
    foreign: BTreeMap<u32, u64>,
}

impl Strays {
    /// Whoever has started this process may have started others in it before.
    pub fn beside(children: Vec<u32>) -> Self {
        let start = |pid| process::stat(pid).map(|stat| (pid, stat.start));
        Self { foreign: children.into_iter().filter_map(start).collect(), ..Self::default() }
    }

    /// It stays the instance's, though it is not its main program any more.
    pub fn keep(&mut self, pid: u32, start: u64, id: &InstanceId) {
        self.kept.insert(pid, (start, id.clone()));
    }

    /// Those of nobody, that have not been told yet.
    pub fn unattributed(&mut self) -> Vec<u32> {
        let nobody = |(pid, (start, owner)): (&u32, &(u64, Option<InstanceId>))| match owner {
            None => Some((*pid, *start)),
            Some(_) => None,
        };
        let found: BTreeMap<u32, u64> = self.known.iter().filter_map(nobody).collect();
        let told = std::mem::replace(&mut self.told, found.clone());
        found.into_iter().filter(|(pid, start)| told.get(pid) != Some(start)).map(|(pid, _)| pid).collect()
    }

    /// Looks at the keeper's children again.
    pub fn refresh(&mut self, table: &Table, own: &Owner<'_>) {
        let mut known = std::mem::take(&mut self.known);
        let leaders = LazyCell::new(|| Leaders::of(table));
        self.kept.retain(|pid, (start, _)| process::is_still(*pid, *start));
        let kept = self.kept.iter().map(|(pid, (start, id))| (*pid, (*start, Some(id.clone()))));
        self.known.extend(kept);
        let mut loose = own.loose(table, &leaders);
        loose.retain(|pid| !self.kept.contains_key(pid));
        if loose.is_empty() {
            return;
        }
        let image = process::OwnImage::look();
        for pid in loose {
            let Some(stat) = process::stat(pid).filter(process::Stat::is_alive) else { continue };
            // One that a spawn thread is just starting holds everything that the keeper holds, and belongs to nobody else.
            if image.as_ref().is_some_and(|image| image.is_of(&stat)) {
                continue;
            }
            if self.foreign.get(&pid) == Some(&stat.start) {
                continue;
            }
            // Whose one is that was just becoming another program could not be read.
            let entry =
                match known.remove(&pid).filter(|(start, owner)| *start == stat.start && owner.is_some()) {
                    Some(entry) => entry,
                    None => (stat.start, own.attribute(table, &leaders, &stat)),
                };
            self.known.insert(pid, entry);
        }
    }

    pub fn of<'a>(&'a self, id: &'a InstanceId) -> impl Iterator<Item = u32> + 'a {
        self.known.iter().filter(move |(_, (_, owner))| owner.as_ref() == Some(id)).map(|(pid, _)| *pid)
    }

    /// At the very end: whoever carries the marker of this system, a command that lost its daemon for one, or has become a child of
    /// the keeper, is killed with all that it started. Gives those that are still there.
    pub fn sweep(&mut self, table: &Table, own: &Owner<'_>) -> Vec<u32> {
        for _ in 0..ROUNDS {
            self.refresh(table, own);
            let roots: Vec<u32> = self.known.keys().copied().collect();
            for (pid, start) in process::tree(&roots) {
                let Some(victim) = Victim::find(pid, start) else { continue };
                victim.signal(pid, libc::SIGKILL);
                if let Victim::Handle(handle) = victim {
                    process::readable_within(&handle, DYING);
                }
            }
            if process::reap().is_empty() && roots.is_empty() {
                break;
            }
        }
        self.known.keys().copied().collect()
    }
}

/// Who is asking.
pub struct Owner<'a> {
    pub run: &'a Path,
    pub state_id: &'a str,
    pub daemon: Option<u32>,
    pub cgroups: Option<&'a Tree>,
    /// Some instances are not our children (an earlier keeper started them): all processes have to be looked at.
    pub heir: bool,
}

impl Owner<'_> {
    /// Processes that may be strays.
    fn loose<'t>(&self, table: &'t Table, leaders: &impl Deref<Target = Leaders<'t>>) -> Vec<u32> {
        let own = std::process::id();
        let ours = |pid: &u32| Some(*pid) != self.daemon && !table.by_pid.contains_key(pid) && *pid != own;
        match process::adopted().filter(|_| !self.heir) {
            Some(adopted) => adopted.into_iter().filter(ours).collect(),
            None => {
                let prefix = format!("{}/", self.state_id);
                let marked = |pid: u32| {
                    process::environ_value(pid, InstanceId::MARKER)
                        .is_some_and(|value| value.starts_with(&prefix))
                };
                let tags: BTreeSet<u64> = table.instances.keys().map(|id| id.tag(self.state_id)).collect();
                let tagged = |pid: u32| process::tag(pid).is_some_and(|tag| tags.contains(&tag));
                process::all()
                    .into_iter()
                    .filter(|stat| ours(&stat.pid))
                    .filter(|stat| {
                        stat.ppid == own
                            || leaders.lead(stat).is_some()
                            || marked(stat.pid)
                            || tagged(stat.pid)
                    })
                    .map(|stat| stat.pid)
                    .collect()
            }
        }
    }

    fn attribute(&self, table: &Table, leaders: &Leaders<'_>, stat: &process::Stat) -> Option<InstanceId> {
        let by_cgroup = self.cgroups.and_then(|tree| tree.instance_of(stat.pid));
        if let Some(id) = by_cgroup.filter(|id| table.instances.contains_key(id)) {
            return Some(id);
        }
        if let Some(id) = leaders.lead(stat) {
            return Some(id.clone());
        }
        if let Some(value) = process::environ_value(stat.pid, InstanceId::MARKER)
            && let Some((state, id)) = value.split_once('/')
        {
            return (state == self.state_id).then(|| id.parse().ok()).flatten();
        }
        if let Some(tag) = process::tag(stat.pid)
            && let Some(id) = table.instances.keys().find(|id| id.tag(self.state_id) == tag)
        {
            return Some(id.clone());
        }
        let holds = |(id, instance): &(&InstanceId, &Instance)| {
            let names = PipeNames::of(self.run, id, instance.fifos);
            process::holds_open(stat.pid, &names.stdout) || process::holds_open(stat.pid, &names.stderr)
        };
        table.instances.iter().find(holds).map(|(id, _)| id.clone())
    }
}

/// Programs that were started, each as the leader of a session; those that have ended too, as they may have left others in it.
struct Leaders<'t>(BTreeMap<u32, (u64, &'t InstanceId)>);

impl<'t> Leaders<'t> {
    fn of(table: &'t Table) -> Self {
        let parts = table.instances.iter().flat_map(|(id, instance)| {
            instance.parts.values().filter_map(move |part| match part {
                PartState::Running(running) => Some((running.pid, (running.start, id))),
                PartState::Ended { held } if held.pid != 0 => Some((held.pid, (held.start, id))),
                PartState::Ended { .. } | PartState::Spawning => None,
            })
        });
        Self(parts.collect())
    }

    /// Whose session or group a process is in. The number of a leader that has ended is free again once nobody of its session
    /// and group is left: it may lead another.
    fn lead(&self, stat: &process::Stat) -> Option<&'t InstanceId> {
        [stat.sid, stat.pgid].iter().find_map(|leader| {
            let (start, id) = self.0.get(leader)?;
            process::stat(*leader).is_none_or(|leader| leader.start == *start).then_some(*id)
        })
    }
}

/// Everything alive of an instance: pid and start.
fn members(table: &Table, strays: &Strays, owner: &Owner<'_>, id: &InstanceId) -> BTreeMap<u32, u64> {
    let parts = table.instances.get(id).into_iter().flat_map(|instance| instance.running());
    let mut roots: Vec<u32> = parts.map(|(_, running)| running.pid).chain(strays.of(id)).collect();
    roots.extend(owner.cgroups.into_iter().flat_map(|tree| tree.processes(id)));
    process::tree(&roots)
}

/// Parts of an instance that have not ended.
fn living<'a>(table: &'a Table, id: &InstanceId) -> impl Iterator<Item = &'a Running> {
    let running = table.instances.get(id).into_iter().flat_map(|instance| instance.running());
    running.map(|(_, running)| running).filter(|running| !process::has_ended(&running.pidfd))
}

/// Who is to be killed: by a handle; where no descriptor is left for one, by its pid, as long as it is still the same process.
enum Victim {
    Handle(OwnedFd),
    Start(u64),
}

impl Victim {
    fn find(pid: u32, start: u64) -> Option<Self> {
        match process::open(pid, start) {
            Ok(handle) => handle.map(Self::Handle),
            Err(_) => Some(Self::Start(start)),
        }
    }

    fn signal(&self, pid: u32, signal: i32) {
        match self {
            Self::Handle(handle) => drop(process::signal(handle, signal)),
            Self::Start(start) if process::is_still(pid, *start) => process::signal_pid(pid, signal),
            Self::Start(_) => {}
        }
    }

    fn has_ended(&self, pid: u32) -> bool {
        match self {
            Self::Handle(handle) => process::has_ended(handle),
            Self::Start(start) => !process::is_still(pid, *start),
        }
    }
}

/// A kill that is under way.
pub struct Kill {
    victims: BTreeMap<u32, Victim>,
    began: Instant,
}

impl Kill {
    /// Stops every member, looks again until no new one appears, then kills them all.
    pub fn begin(table: &Table, strays: &mut Strays, owner: &Owner<'_>, id: &InstanceId) -> Self {
        let mut kill = Self { victims: BTreeMap::new(), began: clock::mono() };
        kill.round(table, strays, owner, id);
        kill
    }

    fn round(&mut self, table: &Table, strays: &mut Strays, owner: &Owner<'_>, id: &InstanceId) {
        // Parts are reached by the handles that are held anyway: who kills hundreds at once may have no descriptor left.
        for running in living(table, id) {
            let _ = process::signal(&running.pidfd, libc::SIGSTOP);
        }
        for _ in 0..ROUNDS {
            strays.refresh(table, owner);
            let mut found_new = false;
            for (pid, start) in members(table, strays, owner, id) {
                if self.victims.contains_key(&pid) || table.by_pid.contains_key(&pid) {
                    continue;
                }
                if let Some(victim) = Victim::find(pid, start) {
                    victim.signal(pid, libc::SIGSTOP);
                    self.victims.insert(pid, victim);
                    found_new = true;
                }
            }
            if !found_new {
                break;
            }
        }
        // What has left the cgroup, if it could, was found by the walk.
        if let Some(tree) = owner.cgroups {
            tree.kill(id);
        }
        for (pid, victim) in &self.victims {
            victim.signal(*pid, libc::SIGKILL);
        }
        for running in living(table, id) {
            let _ = process::signal(&running.pidfd, libc::SIGKILL);
        }
    }

    /// `Some(survivors)` when it is over.
    pub fn progress(
        &mut self,
        table: &Table,
        strays: &mut Strays,
        owner: &Owner<'_>,
        id: &InstanceId,
    ) -> Option<Vec<u32>> {
        self.victims.retain(|pid, victim| !victim.has_ended(*pid));
        let ended = |kill: &Self| kill.victims.is_empty() && living(table, id).next().is_none();
        if ended(self) {
            self.round(table, strays, owner, id);
            // Nobody is found either when nothing can be looked at.
            if ended(self) && process::can_look() {
                return Some(Vec::new());
            }
        }
        let took = clock::mono().since(self.began);
        if took < PATIENCE {
            return None;
        }
        let survivors = self.victims.keys().copied().chain(living(table, id).map(|running| running.pid));
        let survivors: Vec<u32> = survivors.collect();
        let states = survivors.iter().map(|pid| process::stat(*pid).map(|stat| stat.state));
        gives_up(took, states).then_some(survivors)
    }
}

/// Those that have not ended so long after SIGKILL will not, by their states (proc_pid_stat(5)); one of which nothing could be read
/// may.
fn gives_up(took: Duration, states: impl IntoIterator<Item = Option<char>>) -> bool {
    // Z: the first thread has ended, and another one sleeps.
    let stays = |state: Option<char>| matches!(state, Some('D' | 'Z'));
    took >= BUSY || (took >= PATIENCE && states.into_iter().all(stays))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_sleeps_uninterruptibly_is_a_survivor_and_who_waits_for_a_processor_is_waited_for() {
        let at = |seconds: u64, states: &[Option<char>]| {
            gives_up(Duration::from_secs(seconds), states.iter().copied())
        };
        assert!(!at(4, &[Some('D')]));
        assert!(at(5, &[Some('D'), Some('Z')]));
        assert!(!at(5, &[Some('D'), Some('R')]), "it ends once it runs");
        assert!(!at(5, &[Some('T')]) && !at(5, &[None]));
        assert!(at(60, &[Some('R')]), "whatever it is that keeps it");
    }
}

//! Looks at instances for their watchdogs: what /proc shows goes to the world, thread by thread to the next crash dump.

use crate::base::InstanceId;
use crate::logs::derived::Stream;
use crate::os::clock;
use crate::os::freeze::{self, Moment, Thread, WaitsFor};
use crate::unit::watchdog::{Look, Threads, Work, WorkKind};
use crate::world::InstanceFact;

use super::{Engine, Input};

impl Engine {
    /// Looks in a thread of its own: a program with many threads and connections takes a while to look at.
    pub(super) fn look_at(&mut self, id: InstanceId, pid: u32, work: bool, closely: bool) {
        let (inputs, run) = (self.inputs.clone(), self.state.run());
        tokio::task::spawn_blocking(move || {
            let moment = freeze::look(pid, work, closely);
            let spools = Stream::BOTH.map(|stream| run.join(format!("{id}.{}.spool", stream.as_str())));
            // What became lines is cut out of a spool, and its length stays.
            let spools: Vec<_> = spools.iter().filter_map(|path| path.metadata().ok()).collect();
            let quiet = spools.iter().filter_map(|spool| spool.modified().ok()?.elapsed().ok()).min();
            let written = quiet.map(|_| spools.iter().map(std::fs::Metadata::len).sum());
            let look = moment.as_ref().map(|moment| Look { quiet, written, ..look_of(moment) });
            let at = clock::mono();
            let tell = move |engine: &mut Engine| {
                if let Some(moment) = moment.filter(|_| engine.main_pid(&id).is_some()) {
                    engine.faults.used(&id, moment.usage, at);
                    if closely {
                        engine.faults.looked_at(&id, moment.threads);
                    }
                }
                engine.fact(id, InstanceFact::Seen { look, closely });
            };
            let _ = inputs.blocking_send(Input::Call(Box::new(tell)));
        });
    }
}

fn look_of(moment: &Moment) -> Look {
    let count =
        |test: fn(&Thread) -> bool| moment.threads.iter().filter(|thread| test(thread)).count() as u32;
    let asleep = |waits_for| {
        moment.threads.iter().filter(|thread| thread.state == 'S' && thread.waits_for == waits_for).count()
            as u32
    };
    let threads = Threads {
        total: moment.threads.len() as u32,
        running: count(|thread| thread.state == 'R'),
        stopped: count(|thread| thread.state == 'T'),
        uninterruptible: count(|thread| thread.state == 'D'),
        traced: count(|thread| thread.state == 't'),
        locked: asleep(WaitsFor::Lock),
        parents: asleep(WaitsFor::Child),
    };
    let work = moment.waiting.as_ref().map(|waiting| {
        let works = waiting.iter().map(|one| Work {
            id: one.id,
            kind: if one.is_connection { WorkKind::Connection } else { WorkKind::Input },
            amount: one.amount,
        });
        works.collect()
    });
    Look { cpu: moment.cpu, wanted: moment.wanted, threads, at: place(moment), work, ..Look::default() }
}

/// Where the thread waits that explains the most: one that cannot be interrupted, else the main one.
fn place(moment: &Moment) -> String {
    let stuck = moment.threads.iter().find(|thread| thread.state == 'D');
    let Some(thread) = stuck.or_else(|| moment.threads.first()) else { return String::new() };
    match (thread.state, &thread.system_call, &thread.wait_channel) {
        ('D', _, channel) if !channel.is_empty() => channel.clone(),
        (_, call, _) if call.starts_with(|c: char| c.is_ascii_alphabetic()) => call.clone(),
        (_, _, channel) => channel.clone(),
    }
}

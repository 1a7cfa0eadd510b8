//! The thread that moves and frames output. It sleeps until a pipe has bytes or the daemon has a word for it.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use regex::bytes::Regex;
use rustix::event::epoll;
use rustix::io::Errno;

use crate::base::{InstanceId, Name, Redactor, limits};
use crate::os::state_dir::StateDir;
use crate::os::{clock, own};

use super::collector::{Command, Tell, Told};
use super::derived::{Log, Record, Stream};
use super::lines::Lines;
use super::read::{Line, lines_of, to_line};
use super::room::Room;
use super::spool::{Moved, Spool, is_readable};

/// A disk that is full is asked again after this long; meanwhile programs that write wait (`overflow: block`).
const STUCK_RETRY: Duration = Duration::from_secs(1);
/// Bytes moved of one stream before the next one has its turn.
const TURN: usize = 16;
/// The key of the eventfd(2) that wakes the thread.
const WAKE: u64 = 1;

struct Captured {
    streams: [Spool; 2],
    key: u64,
    /// Masked in its lines.
    secrets: Option<Arc<Redactor>>,
    /// Lines are looked at for this.
    pattern: Option<Regex>,
    /// Its output cannot be written just now.
    stuck: bool,
    /// It has ended: it is let go of once all of its output is written.
    ended: bool,
}

/// Instances that have ended and whose output cannot be written (a full disk, a crash loop): beyond, the first of them is let go of
/// with what it left.
const ENDED_KEPT: usize = 64;

struct Service {
    log: Log,
    used: u64,
}

pub(super) struct Work {
    run: PathBuf,
    logs: PathBuf,
    index: PathBuf,
    epoll: OwnedFd,
    /// Boxed: nodes of a map that was filled in order are half empty.
    instances: BTreeMap<InstanceId, Box<Captured>>,
    /// Those of them that have ended and whose output cannot be written just now, in the order of their ends.
    ended: VecDeque<InstanceId>,
    /// Epoll keys: two an instance, even for stdout.
    ids: BTreeMap<u64, InstanceId>,
    next_key: u64,
    services: BTreeMap<Name, Service>,
    room: Room,
    spools_open: usize,
    buffer: Vec<u8>,
    /// Some output cannot be written: tried again then.
    retry_at: Option<Instant>,
    /// It is the disk: nobody's can.
    full: bool,
    /// The engine knows of it.
    told_stuck: bool,
    tell: Tell,
    grown: tokio::sync::watch::Sender<u64>,
}

impl Work {
    /// `wake`: an eventfd(2) that grows with every command.
    pub fn new(
        state: &StateDir,
        wake: &OwnedFd,
        tell: Tell,
        grown: tokio::sync::watch::Sender<u64>,
    ) -> std::io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, wake, epoll::EventData::new_u64(WAKE), epoll::EventFlags::IN)?;
        Ok(Self {
            run: state.run(),
            logs: state.services_logs(),
            index: state.index(),
            epoll,
            instances: BTreeMap::new(),
            ended: VecDeque::new(),
            ids: BTreeMap::new(),
            next_key: 2,
            services: BTreeMap::new(),
            room: Room::of(own::file_limit()),
            spools_open: 0,
            buffer: Vec::new(),
            retry_at: None,
            full: false,
            told_stuck: false,
            tell,
            grown,
        })
    }

    /// Gives the pipes of all that still run.
    pub fn run(mut self, queue: &Receiver<Command>, wake: &OwnedFd) -> Vec<OwnedFd> {
        let mut events: Vec<epoll::Event> = Vec::with_capacity(128);
        loop {
            events.clear();
            let timeout = self.retry_at.map(|at| {
                let left = at.saturating_duration_since(Instant::now());
                rustix::event::Timespec {
                    tv_sec: left.as_secs() as i64,
                    tv_nsec: i64::from(left.subsec_nanos()),
                }
            });
            let spare = rustix::buffer::spare_capacity(&mut events);
            match epoll::wait(&self.epoll, spare, timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return self.pipes(),
            }
            let keys: Vec<u64> = events.iter().map(|event| event.data.u64()).collect();
            let mut wrote = false;
            for key in keys.iter().filter(|key| **key != WAKE) {
                if let Some(id) = self.ids.get(&(key & !1)).cloned() {
                    wrote |= self.pump(&id, Stream::BOTH[(key & 1) as usize]);
                }
            }
            if keys.contains(&WAKE) {
                let mut count = [0; 8];
                let _ = rustix::io::read(wake, &mut count);
                loop {
                    match queue.try_recv() {
                        Ok(command) => self.command(command),
                        Err(std::sync::mpsc::TryRecvError::Empty) => break,
                        Err(std::sync::mpsc::TryRecvError::Disconnected) => return self.pipes(),
                    }
                }
            }
            if self.retry_at.is_some_and(|at| at <= Instant::now()) {
                self.retry();
            }
            if wrote {
                self.grown.send_modify(|count| *count += 1);
            }
        }
    }

    fn pipes(self) -> Vec<OwnedFd> {
        let streams = self.instances.into_values().flat_map(|captured| captured.streams);
        streams.map(Spool::into_pipe).collect()
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Open { id, pipes, secrets } => self.open(id, pipes, secrets),
            Command::Mask { id, secrets } => {
                if let Some(captured) = self.instances.get_mut(&id) {
                    captured.secrets = secrets;
                }
            }
            Command::Close(id) => self.close(&id),
            Command::Watch { id, pattern } => {
                // The pattern was checked with the manifest.
                let Ok(pattern) = Regex::new(&pattern) else { return };
                // As much of it as one answer holds: it may have said more than that since, and the line long ago.
                let already = super::read::tail_of_instance(&self.logs, &self.index, &id, usize::MAX)
                    .iter()
                    .any(|line| pattern.is_match(line));
                if already {
                    (self.tell)(Told::LineSeen(id));
                } else if let Some(captured) = self.instances.get_mut(&id) {
                    captured.pattern = Some(pattern);
                }
            }
            Command::Unwatch(id) => {
                if let Some(captured) = self.instances.get_mut(&id) {
                    captured.pattern = None;
                }
            }
            // Who asked may have left meanwhile.
            Command::Unfinished { unit, answer } => drop(answer.send(self.unfinished(&unit))),
        }
    }

    /// What a unit has begun to write, as it would be shown now: a line is derived once all of it is there.
    fn unfinished(&self, unit: &Name) -> Vec<Line> {
        let mut buffer = Vec::new();
        let mut found = Vec::new();
        for (id, captured) in self.instances.iter().filter(|(id, _)| id.unit == *unit) {
            let secrets = captured.secrets.as_deref();
            for stream in Stream::BOTH {
                let Ok(bytes) = captured.streams[stream as usize].unread(&mut buffer) else { continue };
                // Of a secret that is not all there nothing is shown. What has its end is a line in a moment.
                let whole = secrets.map_or(bytes.len(), |secrets| secrets.whole(bytes));
                let begun = bytes[..whole].last().is_some_and(|byte| *byte != b'\n');
                if !begun || bytes.len() >= limits::LOG_LINE_BYTES {
                    continue;
                }
                let text = Lines::of(&bytes[..whole], true, secrets).text;
                let record = Record {
                    log_end: 0,
                    spool_end: 0,
                    at: clock::wall(),
                    incarnation: id.incarnation,
                    ordinal: id.ordinal,
                    stream,
                    cuts: 0,
                };
                let line = |line| Line { unfinished: true, ..to_line(unit.as_str(), &record, line) };
                found.extend(lines_of(&text).last().map(line));
            }
        }
        found
    }

    fn open(&mut self, id: InstanceId, pipes: [OwnedFd; 2], secrets: Option<Arc<Redactor>>) {
        if self.instances.contains_key(&id) {
            return;
        }
        let key = self.next_key;
        self.next_key += 2;
        let run = self.run.clone();
        let spool_path = |stream: Stream| run.join(format!("{id}.{}.spool", stream.as_str()));
        // Only an instance that an earlier daemon knew has anything in the index.
        let spooled = Stream::BOTH.map(|stream| spool_path(stream).exists());
        let known = spooled.contains(&true);
        let consumed =
            if known { self.service(&id.unit).log.consumed(id.incarnation, spooled) } else { [0; 2] };
        let consumed = [0, 1].map(|stream| spooled[stream].then_some(consumed[stream]));
        let [stdout, stderr] = pipes;
        for (pipe, bit) in [(&stdout, 0), (&stderr, 1)] {
            let data = epoll::EventData::new_u64(key | bit);
            let interest = if self.full { epoll::EventFlags::empty() } else { epoll::EventFlags::IN };
            let _ = epoll::add(&self.epoll, pipe, data, interest);
        }
        let mut streams = [
            Spool::open(spool_path(Stream::Stdout), stdout, consumed[0]),
            Spool::open(spool_path(Stream::Stderr), stderr, consumed[1]),
        ];
        if secrets.is_some() {
            streams.iter_mut().for_each(Spool::wipe);
        }
        self.spools_open += streams.iter().filter(|spool| spool.is_open()).count();
        self.ids.insert(key, id.clone());
        self.instances.insert(
            id.clone(),
            Box::new(Captured { streams, key, secrets, pattern: None, stuck: false, ended: false }),
        );
        if known {
            for stream in Stream::BOTH {
                self.derive(&id, stream, false);
            }
        }
        if self.spools_open > self.room.spools {
            self.rest_spools();
        }
    }

    fn close(&mut self, id: &InstanceId) {
        match self.instances.get_mut(id) {
            Some(captured) => captured.ended = true,
            None => {
                (self.tell)(Told::Closed(id.clone()));
                return;
            }
        }
        self.finish(id);
        if self.instances.contains_key(id) {
            self.ended.push_back(id.clone());
        }
        if self.ended.len() > ENDED_KEPT
            && let Some(first) = self.ended.pop_front()
        {
            self.let_go(&first);
        }
    }

    /// Writes what one that has ended left, and lets go of it; what cannot be written now is tried again.
    fn finish(&mut self, id: &InstanceId) {
        for stream in Stream::BOTH {
            // A pipe is empty after a few; somebody whom it left it to may write on and on.
            for _ in 0..TURN {
                if !self.pump(id, stream) {
                    break;
                }
            }
            self.derive(id, stream, true);
        }
        if self.instances.get(id).is_some_and(|captured| !captured.stuck) {
            self.let_go(id);
        }
    }

    fn let_go(&mut self, id: &InstanceId) {
        if let Some(captured) = self.instances.remove(id) {
            self.ended.retain(|ended| ended != id);
            self.ids.remove(&captured.key);
            for spool in captured.streams {
                let _ = epoll::delete(&self.epoll, spool.pipe().as_fd());
                self.spools_open -= usize::from(spool.is_open());
                // What could not become lines is kept for a person to look at.
                if spool.consumed == spool.moved {
                    spool.remove();
                }
            }
            self.grown.send_modify(|count| *count += 1);
        }
        (self.tell)(Told::Closed(id.clone()));
    }

    /// Moves what there is, a bounded while, and derives lines; true if anything was moved.
    fn pump(&mut self, id: &InstanceId, stream: Stream) -> bool {
        let mut any = false;
        self.make_room(id, stream);
        for _ in 0..TURN {
            let Some(captured) = self.instances.get_mut(id) else { break };
            let spool = &mut captured.streams[stream as usize];
            let was_open = spool.is_open();
            let moved = spool.fill();
            self.spools_open += usize::from(!was_open && spool.is_open());
            match moved {
                Moved::Bytes => any = true,
                Moved::Nothing => break,
                Moved::Stuck(error) => {
                    self.stick(id, &error);
                    break;
                }
            }
            self.derive(id, stream, false);
            // What cannot become lines is left in the pipe: the program waits, and the spool does not grow without end.
            if self.instances.get(id).is_some_and(|captured| captured.stuck) {
                break;
            }
        }
        any
    }

    /// Before a spool is opened that would be one too many, another one that has nothing in it is closed.
    fn make_room(&mut self, id: &InstanceId, stream: Stream) {
        let needs = |captured: &Captured| {
            let spool = &captured.streams[stream as usize];
            !spool.is_open() && is_readable(spool.pipe())
        };
        if self.spools_open < self.room.spools
            || !self.instances.get(id).is_some_and(|captured| needs(captured))
        {
            return;
        }
        self.rest_spools();
    }

    fn rest_spools(&mut self) {
        for spool in self.instances.values_mut().flat_map(|captured| &mut captured.streams) {
            spool.rest();
        }
        let spools = self.instances.values().flat_map(|captured| &captured.streams);
        self.spools_open = spools.filter(|spool| spool.is_open()).count();
    }

    /// Turns unread bytes into lines; `all`: an unfinished last line too.
    fn derive(&mut self, id: &InstanceId, stream: Stream, all: bool) {
        let mut buffer = std::mem::take(&mut self.buffer);
        while let Some(captured) = self.instances.get_mut(id) {
            let spool = &mut captured.streams[stream as usize];
            let Ok(bytes) = spool.unread(&mut buffer) else { break };
            // There may be more than one look takes in.
            let last = all && spool.consumed + bytes.len() as u64 == spool.moved;
            let Lines { text: lines, taken } = Lines::of(bytes, last, captured.secrets.as_deref());
            if taken == 0 {
                break;
            }
            if captured.pattern.as_ref().is_some_and(|pattern| matches_a_line(pattern, &lines)) {
                captured.pattern = None;
                (self.tell)(Told::LineSeen(id.clone()));
            }
            let record = Record {
                log_end: 0,
                spool_end: spool.consumed + taken as u64,
                at: clock::wall(),
                incarnation: id.incarnation,
                ordinal: id.ordinal,
                stream,
                cuts: 0,
            };
            let log = &mut self.service(&id.unit).log;
            let (result, removed) = (log.append(&lines, record), log.removed());
            if let Some(path) = removed {
                (self.tell)(Told::Removed(id.clone(), path));
            }
            if let Err(error) = result {
                self.stick(id, &error);
                break;
            }
            if let Some(captured) = self.instances.get_mut(id) {
                let spool = &mut captured.streams[stream as usize];
                spool.consume(taken as u64);
                if captured.secrets.is_some() {
                    spool.wipe();
                }
            }
        }
        buffer.clear();
        buffer.shrink_to(64 << 10);
        self.buffer = buffer;
    }

    fn service(&mut self, name: &Name) -> &mut Service {
        if self.services.len() >= self.room.logs && !self.services.contains_key(name) {
            let oldest =
                self.services.iter().min_by_key(|(_, service)| service.used).map(|(name, _)| name.clone());
            if let Some(oldest) = oldest {
                self.services.remove(&oldest);
            }
        }
        let used = clock::mono().0;
        let (logs, index) = (&self.logs, &self.index);
        let service = self
            .services
            .entry(name.clone())
            .or_insert_with(|| Service { log: Log::new(logs, index, name.as_str()), used });
        service.used = used;
        service
    }

    /// Output of an instance cannot be written: it waits, and its program with it. Where that is the disk's fault, everybody does.
    fn stick(&mut self, id: &InstanceId, error: &std::io::Error) {
        let of_disk = [libc::ENOSPC, libc::EDQUOT, libc::EIO, libc::EROFS];
        let full = error.raw_os_error().is_some_and(|code| of_disk.contains(&code));
        if let Some(captured) = self.instances.get_mut(id) {
            captured.stuck = true;
            Self::listen(&self.epoll, captured, false);
        }
        if full && !self.full {
            self.full = true;
            self.instances.values().for_each(|captured| Self::listen(&self.epoll, captured, false));
        }
        self.retry_at.get_or_insert_with(|| Instant::now() + STUCK_RETRY);
        if !self.told_stuck {
            self.told_stuck = true;
            (self.tell)(Told::Stuck(Some(crate::os::files::why(error))));
        }
    }

    fn listen(epoll: &OwnedFd, captured: &Captured, wanted: bool) {
        let flags = if wanted { epoll::EventFlags::IN } else { epoll::EventFlags::empty() };
        for (spool, bit) in captured.streams.iter().zip([0, 1]) {
            let data = epoll::EventData::new_u64(captured.key | bit);
            let _ = epoll::modify(epoll, spool.pipe(), data, flags);
        }
    }

    /// Everybody's turn again, if it was the disk; else of those whose output could not be written.
    fn retry(&mut self) {
        self.retry_at = None;
        let all = std::mem::take(&mut self.full);
        let waiting = self.instances.iter().filter(|(_, captured)| all || captured.stuck);
        let waiting: Vec<InstanceId> = waiting.map(|(id, _)| id.clone()).collect();
        for id in &waiting {
            if self.full {
                // Of no use to ask for each of them: the first that is asked for next time tells.
                self.retry_at.get_or_insert_with(|| Instant::now() + STUCK_RETRY);
                break;
            }
            let Some(captured) = self.instances.get_mut(id) else { continue };
            captured.stuck = false;
            if captured.ended {
                self.finish(id);
            } else {
                for stream in Stream::BOTH {
                    self.pump(id, stream);
                    self.derive(id, stream, false);
                }
            }
        }
        if self.full {
            return;
        }
        for captured in waiting.iter().filter_map(|id| self.instances.get(id)) {
            if !captured.stuck {
                Self::listen(&self.epoll, captured, true);
            }
        }
        if self.told_stuck && !self.instances.values().any(|captured| captured.stuck) {
            self.told_stuck = false;
            (self.tell)(Told::Stuck(None));
        }
    }
}

fn matches_a_line(pattern: &Regex, lines: &[u8]) -> bool {
    lines.split(|byte| *byte == b'\n').any(|line| !line.is_empty() && pattern.is_match(line))
}

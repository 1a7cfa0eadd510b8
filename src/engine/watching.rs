//! Manifests and what they read: watched, read again, accepted.

use std::sync::Arc;

use futures_util::FutureExt;

use crate::base::{Debounce, Instant, Name, Revision, limits};
use crate::manifest::spec::service::Port;
use crate::os::clock;
use crate::plan::UnitSpec;
use crate::unit::Lifecycle;
use crate::world::{Cause, Event, Slot};

use super::owning::Moved;
use super::sets::Busy;
use super::{Engine, Proposal};

impl Engine {
    pub(super) fn files_touched(&mut self) {
        if !self.options.watch {
            return;
        }
        let now = clock::mono();
        match &mut self.files_due {
            Some(due) => due.postpone(now),
            None => self.files_due = Some(files_due(now)),
        }
    }

    /// Watches what the sets are read from, exactly.
    pub(crate) fn watch_files(&mut self) {
        if !self.options.watch {
            return;
        }
        if self.files.is_none() {
            let (touched, passed) = (self.touched.clone(), self.passed.clone());
            let passed = move |mark: u64| _ = passed.send_replace(mark);
            // Never waits: this thread is waited for whenever other directories are to be watched.
            let marks = self.state.marks();
            match crate::os::watch::Watch::new(marks, move || touched.notify_one(), passed) {
                Ok(watch) => self.files = Some(watch),
                Err(error) => {
                    let message =
                        format!("files are not watched: {error}; `unisys apply` and SIGHUP still read them");
                    return self.note(true, "NotWatching", "system", message);
                }
            }
        }
        let interest = self.sets.interest();
        let failed = self.files.as_mut().map(|watch| watch.set(interest)).unwrap_or_default();
        for (dir, why) in failed.into_iter().filter(|(dir, _)| dir.exists()) {
            self.note(true, "NotWatching", "system", format!("{} is not watched: {why}", dir.display()));
        }
    }

    /// Marks what has happened to files until now; nothing where they are not watched. Once the mark has passed, [`Self::files_wait`]
    /// knows of all of it.
    pub fn mark_files(&mut self) -> Option<(u64, tokio::sync::watch::Receiver<u64>)> {
        let mark = self.files.as_mut()?.mark().ok()?;
        Some((mark, self.passed.subscribe()))
    }

    /// Files were touched, and have not been read again yet.
    pub fn files_wait(&mut self) -> bool {
        if self.touched.notified().now_or_never().is_some() {
            self.files_touched();
        }
        self.files_due.is_some()
    }

    /// Reads the sets again; what is well is accepted, what is not is told and changes nothing.
    pub fn reload(&mut self, kind: &str) {
        self.trim.soon(clock::mono());
        let busy = self.busy();
        let outcome = self.sets.reload(&busy);
        for (set, warning, message) in outcome.notes {
            let reason = if warning { "ManifestInvalid" } else { "ManifestValid" };
            self.note(warning, reason, &format!("set/{set}"), message);
        }
        if outcome.newly_rejected {
            let pending = self.sets.pending();
            self.console.rejected(&pending, false);
        }
        self.tell_moved();
        if let Some(desired) = outcome.desired {
            let mut cause = Cause::new(kind, outcome.what.clone());
            cause.files = outcome.files;
            self.world.handle(clock::now(), Event::Desired { desired, cause });
            self.remember_revision(&outcome.what);
        }
        self.faults_revised();
        self.look_for_lost_sockets();
        if kind != "MachineChanged" {
            self.watch_files();
        }
        self.saw_events = true;
    }

    /// What running instances of ours have.
    pub fn busy(&self) -> Busy {
        let slots = self.world.units().values().flat_map(|unit| unit.slots.values()).map(Box::as_ref);
        let mut busy = Busy::default();
        // Of one that is not executed yet, or never was, nobody listens.
        let begun = |slot: &&Slot| match &slot.state {
            Lifecycle::Stopping(stopping) => stopping.process.is_some() || stopping.exit.is_some(),
            state => state.process().is_some(),
        };
        for slot in slots.filter(|slot| slot.state.is_occupied()).filter(begun) {
            let ports = slot.instance.iter().flat_map(|instance| &instance.spec.launch.service.ports);
            busy.places.extend(ports.filter_map(Port::place));
            busy.processes.extend(slot.state.process().map(|process| process.pid));
        }
        busy
    }

    /// Takes in a proposal that was found well.
    pub fn accept(&mut self, proposal: Proposal, cause: Cause) {
        let desired = self.sets.accept(proposal);
        self.tell_moved();
        let detail = cause.detail.clone();
        self.world.handle(clock::now(), Event::Desired { desired, cause });
        self.remember_revision(&detail);
        self.watch_files();
        self.saw_events = true;
    }

    /// Which objects belong to another set from now on.
    pub(super) fn tell_moved(&mut self) {
        for moved in self.sets.take_moved() {
            let Moved { object, from, to } = moved;
            let declares = self.sets.get(&from).is_some_and(|set| set.ceded.contains_key(&object));
            let rest = match declares {
                true => {
                    format!("; what `{from}` declares of it counts for nothing until `{to}` lets go of it")
                }
                false => String::new(),
            };
            let message = format!("it belongs to the set `{to}` from now on, before to `{from}`{rest}");
            self.note(declares, "OwnerChanged", &object.to_string(), message);
        }
    }

    /// A unit as a kept revision had it.
    ///
    /// # Errors
    /// The revision is not kept, does not have the unit, or cannot be built any more: what is missing.
    pub fn version_at(&mut self, revision: Revision, name: &Name) -> Result<Arc<UnitSpec>, String> {
        let spec = self.desired_at(revision)?.units.get(name).cloned();
        spec.ok_or_else(|| format!("{name} was not declared in it"))
    }

    pub(super) fn desired_at(&mut self, revision: Revision) -> Result<crate::plan::Desired, String> {
        let stored = self.store.revision(revision).ok_or_else(|| {
            format!("revision {revision} is not kept (the last {} are)", limits::REVISIONS_KEPT)
        })?;
        let busy = self.busy();
        self.sets.desired_from(&stored, &busy)
    }

    pub(super) fn remember_revision(&mut self, detail: &str) {
        self.faults_revised();
        self.store.accept(self.world.revision(), detail.to_owned(), self.sets.stored());
    }
}

/// A look at the files, once nobody is writing them any more.
pub(super) fn files_due(now: Instant) -> Debounce {
    Debounce::new(now, limits::WATCH_QUIET, limits::WATCH_MAX)
}

pub(super) async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep(at.since(clock::mono())).await,
        None => std::future::pending().await,
    }
}

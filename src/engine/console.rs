//! What `up` shows: a line for every change, a table once everything has settled, and what to try next.

use std::io::IsTerminal;

use crate::base::Name;
use crate::manifest::Diagnostic;
use crate::manifest::render;
use crate::os::voice::{self, To};
use crate::world::{Record, World};

use super::Sets;

pub struct Console {
    quiet: bool,
    colour: bool,
    /// The table and what to try have been shown.
    hinted: bool,
    /// A unit that was on its way at the last look.
    moving: Option<Name>,
    immediate: bool,
    down: bool,
}

impl Console {
    /// `again`: a daemon before this one has shown what to try.
    pub fn new(quiet: bool, again: bool) -> Self {
        let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { quiet, colour, hinted: again, moving: None, immediate: false, down: false }
    }

    fn say(&self, line: &str) {
        if !self.quiet {
            voice::say(To::Stdout, line.to_owned());
        }
    }

    /// One thing that happened.
    pub fn record(&mut self, record: &Record) {
        if self.quiet || matches!(&*record.reason, "Revised" | "Starting" | "Ordered") {
            return;
        }
        let time = record.at.to_string();
        let time = time.get(11..23).unwrap_or_default();
        let mark = match (record.warning, &*record.reason) {
            (true, _) => "!",
            (_, "Ready" | "ManifestValid") => "✓",
            _ => "·",
        };
        let (on, off) = match (self.colour, mark) {
            (true, "!") => ("\x1b[33m", "\x1b[0m"),
            (true, "✓") => ("\x1b[32m", "\x1b[0m"),
            _ => ("", ""),
        };
        let message: String = record.message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        self.say(&format!("{time} {on}{mark}{off} {:<18} {message}", record.object));
    }

    /// After a turn: the table, once nothing moves any more.
    pub fn turn(&mut self, world: &World, sets: &Sets) {
        if self.quiet || self.hinted || self.down || world.going_down().is_some() {
            return;
        }
        let moves = |name: &Name| {
            let word = world.status_word(name);
            matches!(word, "Starting" | "Stopping" | "Pending" | "Waiting" | "NotReady")
        };
        // One that moved at the last look is asked first: all are looked at only when it may have been the last.
        if self.moving.as_ref().is_some_and(moves) {
            return;
        }
        self.moving = world.units().keys().find(|name| moves(name)).cloned();
        if self.moving.is_some() || world.units().is_empty() {
            return;
        }
        self.hinted = true;
        let rows = crate::api::status::rows(world);
        self.say("");
        self.say(crate::cli::render::table(&rows).trim_end());
        self.say("");
        for hint in hints(world, sets) {
            self.say(&hint);
        }
    }

    pub fn diagnostics(&self, diagnostics: &[Diagnostic]) {
        let source = |file: &str| std::fs::read_to_string(file).ok();
        let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        voice::say(To::Stderr, render::text(diagnostics, colour, &source).trim_end().to_owned());
    }

    pub fn rejected(&mut self, diagnostics: &[Diagnostic], at_start: bool) {
        if self.quiet {
            return;
        }
        let source = |file: &str| std::fs::read_to_string(file).ok();
        let errors: Vec<Diagnostic> = diagnostics.iter().filter(|d| d.rejects()).take(5).cloned().collect();
        self.say(render::text(&errors, self.colour, &source).trim_end());
        if at_start {
            self.say("the manifests are not valid; the last accepted revision runs on");
        }
    }

    /// Manifests that are not there yet.
    pub fn unread(&self, why: &str, watched: bool) {
        let then = if watched { "; what is saved there is taken in" } else { "" };
        self.say(&format!("{why}: nothing runs of it{then}"));
    }

    pub fn going_down(&mut self, immediate: bool) {
        self.immediate |= immediate;
        if !self.down {
            self.say("\nstopping everything; Ctrl-C again kills at once");
        }
        self.down = true;
    }

    pub fn was_immediate(&self) -> bool {
        self.immediate
    }
}

/// What a person may try now, with what is really there.
fn hints(world: &World, sets: &Sets) -> Vec<String> {
    let mut hints = vec!["try next, in another terminal:".to_owned()];
    // What nobody depends on is what people look at.
    let graph = &world.desired().graph;
    let tops = graph.lanes().into_iter().rev().flatten().collect::<Vec<_>>();
    let last_first = tops.iter().filter_map(|name| Some((*name, sets.objects().services.get(*name)?)));
    let http = last_first.clone().find_map(|(name, object)| {
        let is_page = object.spec.ports.first().is_some_and(|port| port.name.as_str() == "http");
        if !is_page {
            return None;
        }
        let port = object.spec.ports.first()?;
        let crate::manifest::spec::service::PortNumber::Number(number) = port.port else { return None };
        (world.status_word(name) == "Ready").then_some(number)
    });
    if let Some(port) = http {
        hints.push(format!("  open     http://127.0.0.1:{port}/"));
    }
    if let Some(object) = sets.objects().services.values().next() {
        let file = object.source.file.display().to_string();
        let here = std::env::current_dir().map(|dir| format!("{}/", dir.display())).unwrap_or_default();
        hints.push(format!("  edit     {}", file.strip_prefix(&here).unwrap_or(&file)));
    }
    let pid = world.units().iter().find_map(|(name, unit)| {
        let process = unit.slots.values().find_map(|slot| slot.state.process())?;
        Some((name, process.pid))
    });
    if let Some((name, pid)) = pid {
        hints.push(format!("  kill     kill -9 {pid}    then: unisys why {name}"));
    }
    hints.push("  look     unisys get · unisys logs NAME -f · unisys events · unisys plan".into());
    hints.push("Ctrl-C stops everything.".into());
    hints
}

//! What a failure was: from how the process ended, at which step its start failed, what a probe said, and its last words.
//! A function: the same evidence gives the same answer.

use sha2::{Digest, Sha256};

use crate::base::{Category, Exit, Severity, SpawnStage, limits};
use crate::unit::{EndReason, StopReason};

use super::patterns::{Patterns, Said, port_in, port_named, says_address_in_use};
use super::shapes::{Story, story};

/// What is known of one failure.
#[derive(Clone, Debug)]
pub struct Evidence<'a> {
    /// `service/api`: part of the fingerprint.
    pub unit: &'a str,
    pub reason: &'a EndReason,
    pub exit: Option<Exit>,
    /// How it ended, in words: "ended: exit code 1".
    pub words: &'a str,
    /// It is not started again until something changes.
    pub permanent: bool,
    /// It ended with a code that means success, though it should have gone on.
    pub success: bool,
    /// What the failing probe said, or the watchdog found.
    pub probe: &'a str,
    /// The last lines of stderr, oldest first, secrets masked.
    pub stderr: &'a [String],
    /// A hard dependency that was not Ready when it ended.
    pub dependency_down: Option<&'a str>,
}

/// What it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classified {
    pub category: Category,
    pub severity: Severity,
    /// Failures with the same one are the same failure again.
    pub fingerprint: String,
    /// A sentence without its subject.
    pub message: String,
    /// An address was in use: the port, or 0 when the program did not say which.
    pub port_in_use: Option<u16>,
}

/// See the module.
pub fn classify(evidence: &Evidence<'_>, patterns: &Patterns) -> Classified {
    let story = story(evidence.stderr).filter(|_| !was_killed(evidence));
    let said = story.as_ref().and_then(|story| heard(story, patterns));
    let said = said.or_else(|| patterns.line(evidence.probe));
    let mut category = category(evidence, said);
    let mut message = evidence.words.to_owned();
    if let Some(story) = story.as_ref().filter(|_| has_last_words(evidence.reason)) {
        message.push_str(": ");
        message.push_str(&story.headline);
    }
    if !evidence.probe.is_empty() {
        message.push_str(": ");
        message.push_str(evidence.probe);
    }
    let fingerprint = fingerprint(evidence.unit, category, &message);
    if let Some(on) = evidence.dependency_down
        && matches!(category, Category::Network | Category::Timeout | Category::Database)
    {
        category = Category::Dependency;
        message.push_str(&format!("; {on}, which it depends on, is not Ready"));
    }
    let port_in_use = story.as_ref().filter(|_| category == Category::Resource).and_then(port_in_use);
    truncate(&mut message, limits::ERROR_MESSAGE_BYTES);
    Classified { category, severity: severity(evidence, said), fingerprint, message, port_in_use }
}

impl Classified {
    /// Says who holds the address that was in use.
    pub fn name_holder(&mut self, port: u16, holder: &str) {
        self.message.push_str(&format!("; port {port} is held by {holder}"));
        truncate(&mut self.message, limits::ERROR_MESSAGE_BYTES);
    }
}

/// The headline says it, or else the most telling line of the story; of equals the last.
fn heard(story: &Story<'_>, patterns: &Patterns) -> Option<Said> {
    patterns.line(&story.headline).filter(|said| !said.is_weak()).or_else(|| {
        // Where a variable is asked for that is not there (`os.environ["X"]`), only the line of code tells it from any other key.
        let is_code = |line: &str| {
            ["at ", "File \"", "note: "].iter().any(|start| line.starts_with(start))
                && !line.ends_with("in __getitem__")
        };
        let lines = story.lines.iter().filter(|line| !is_code(line.trim_start()));
        lines.filter_map(|line| patterns.line(line)).min_by_key(|said| said.rank)
    })
}

/// Somebody sent it a signal that ends a program: nothing that it wrote before is why.
fn was_killed(evidence: &Evidence<'_>) -> bool {
    // SIGHUP, SIGINT, SIGQUIT, SIGKILL, SIGTERM.
    let by_signal = matches!(evidence.exit, Some(Exit::Signal { signal: 1 | 2 | 3 | 9 | 15, .. }));
    by_signal && matches!(evidence.reason, EndReason::Exited)
}

/// Only an end of its own accord is explained by what it wrote last.
fn has_last_words(reason: &EndReason) -> bool {
    matches!(reason, EndReason::Exited | EndReason::HookFailed { .. })
}

fn port_in_use(story: &Story<'_>) -> Option<u16> {
    let line = story.lines.iter().rev().chain([&story.headline]).find(|line| says_address_in_use(line))?;
    // Or it stands beside it: among the fields of a Node error, in the hint of PostgreSQL, in the call of a Python traceback.
    Some(port_in(line).or_else(|| story.lines.iter().find_map(|line| port_named(line))).unwrap_or(0))
}

fn category(evidence: &Evidence<'_>, said: Option<Said>) -> Category {
    let said = said.map(|said| said.category);
    match evidence.reason {
        EndReason::SpawnFailed { stage, errno, .. } => of_spawn(*stage, *errno),
        EndReason::HookFailed { exit: None, .. } => Category::Timeout,
        EndReason::HookFailed { exit: Some(exit), .. } => said.unwrap_or_else(|| of_exit(*exit)),
        EndReason::Stopped(StopReason::DeadlineExceeded | StopReason::Watchdog) => Category::Timeout,
        EndReason::Stopped(StopReason::StartupFailed) if evidence.probe.is_empty() => Category::Timeout,
        EndReason::Stopped(_) | EndReason::Rebooted => said.unwrap_or(Category::Crash),
        EndReason::Exited => match evidence.exit {
            // Memory it touched and must not: whatever it wrote before is not why.
            Some(Exit::Signal { signal: 4 | 7 | 8 | 11 | 31, .. }) => Category::Crash,
            // The kernel knows better than the last line.
            Some(Exit::OomKilled) => Category::Oom,
            Some(exit) => said.unwrap_or_else(|| of_exit(exit)),
            None => said.unwrap_or(Category::Crash),
        },
    }
}

fn severity(evidence: &Evidence<'_>, said: Option<Said>) -> Severity {
    match said.and_then(|said| said.severity) {
        Some(severity) => severity,
        None if evidence.permanent => Severity::Fatal,
        None if evidence.success => Severity::Warning,
        None => Severity::Recoverable,
    }
}

/// Codes with a meaning of their own: the shell's 126 and 127 (POSIX, 2.8.2), sysexits(3), limits that kill (signal(7)).
fn of_exit(exit: Exit) -> Category {
    match exit {
        Exit::Code(126 | 77) => Category::Permission,
        Exit::Code(127 | 64 | 78) => Category::Config,
        Exit::Code(66 | 73 | 74) => Category::Filesystem,
        Exit::Code(69) => Category::Dependency,
        Exit::Code(71) => Category::Resource,
        Exit::OomKilled => Category::Oom,
        Exit::Signal { signal: 24 | 25, .. } => Category::Resource,
        _ => Category::Crash,
    }
}

/// A failed start, by its step and errno(3).
fn of_spawn(stage: SpawnStage, errno: i32) -> Category {
    const EPERM: i32 = 1;
    const EIO: i32 = 5;
    const EAGAIN: i32 = 11;
    const ENOMEM: i32 = 12;
    const EACCES: i32 = 13;
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    const ENOSPC: i32 = 28;
    const EROFS: i32 = 30;
    match (stage, errno) {
        (_, EPERM | EACCES) => Category::Permission,
        (_, ENOMEM) => Category::Oom,
        (_, EAGAIN | ENFILE | EMFILE) => Category::Resource,
        (_, ENOSPC | EROFS | EIO) => Category::Filesystem,
        (SpawnStage::Clone | SpawnStage::Cgroup, _) => Category::Resource,
        (SpawnStage::Pipes | SpawnStage::Session | SpawnStage::Descriptors, _) => Category::Internal,
        _ => Category::Config,
    }
}

/// Unit, category and message without what differs from one time to the next: numbers and addresses.
pub fn fingerprint(unit: &str, category: Category, message: &str) -> String {
    let mut hasher = Sha256::new();
    hasher.update(unit.as_bytes());
    hasher.update([0]);
    hasher.update(category.as_str().as_bytes());
    hasher.update([0]);
    hasher.update(without_numbers(message).as_bytes());
    hasher.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Words with a digit in them, but for the code that it ended with, become `#`.
pub(super) fn without_numbers(message: &str) -> String {
    let mut out = String::with_capacity(message.len());
    let (kept, rest) = match message.find("exit code ") {
        Some(at) => {
            let code = &message[at + 10..];
            let length = code.find(|c: char| !c.is_ascii_digit() && c != '-').unwrap_or(code.len());
            message.split_at(at + 10 + length)
        }
        None => ("", message),
    };
    out.push_str(kept);
    for word in rest.split_inclusive(|c: char| !c.is_alphanumeric()) {
        if word.contains(|c: char| c.is_ascii_digit()) {
            out.push('#');
            out.extend(word.chars().last().filter(|c| !c.is_alphanumeric()));
        } else {
            out.push_str(word);
        }
    }
    out
}

/// Cuts at a character.
pub fn truncate(text: &mut String, limit: usize) {
    if text.len() > limit {
        let mut end = limit - '…'.len_utf8();
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
}

#[cfg(test)]
#[path = "classify_tests.rs"]
mod tests;

//! Which events are failures of their own: those that no ended instance stands behind.

use crate::base::{Category, Severity, limits};
use crate::world::CIRCUIT_OPEN;
use crate::world::shutdown::STOP_DEADLINE;
use crate::world::words::{DEGRADED, FROZEN};

use super::book::Sighting;
use super::classify::{fingerprint, truncate};
use super::context;
use super::patterns::Patterns;

/// Reasons of what a watchdog finds.
const FINDINGS: [&str; 8] =
    ["Deadlock", "Livelock", "Stuck", "Stopped", "Blocked", "Watchdog", "Suspected", "SlowProbes"];

/// An event, as the causal log has it.
#[derive(Clone, Copy, Debug)]
pub struct Happening<'a> {
    pub warning: bool,
    pub reason: &'a str,
    pub object: &'a str,
    pub message: &'a str,
    pub id: u64,
    pub at: crate::base::Stamp,
    pub revision: u64,
}

/// The failure that an event is, if it is one. `latest`: the category of the object's latest failure.
pub fn failure(event: &Happening<'_>, latest: Option<Category>, patterns: &Patterns) -> Option<Sighting> {
    if !event.warning {
        return None;
    }
    let said = || patterns.line(event.message).map(|said| said.category);
    let (category, severity) = match event.reason {
        // What a watchdog finds: no progress, or no word, in its time. The end of one that it ends for it says the same.
        reason if FINDINGS.contains(&reason) && event.message.contains(DEGRADED) => {
            let proven = !["Suspected", "SlowProbes"].contains(&reason);
            (Category::Timeout, if proven { Severity::Recoverable } else { Severity::Warning })
        }
        reason if FINDINGS.contains(&reason) && event.message.contains(FROZEN) => return None,
        // The instance's end says it, or it is a consequence of one.
        "Exited"
        | "OOMKilled"
        | "Watchdog"
        | "Unknown"
        | "SpawnFailed"
        | "HookFailed"
        | "StartupProbeFailed"
        | "LivenessProbeFailed"
        | "DeadlineExceeded"
        | "Failed"
        | "FailedAtFirst"
        | "BackOff"
        | "Held"
        | "Stopped"
        | "Replaced" => return None,
        // The machine is as it was before anything ran, or somebody has restarted it: nothing has failed.
        "NotOnThisMachine" | "MachineRestarted" => return None,
        // Who does not stop in time for all that is told by name.
        "StopsTogether" => return None,
        "CircuitOpen" => (latest.unwrap_or(Category::Crash), Severity::Fatal),
        // An edit that came to nothing is not tried again before it is changed: whoever made it wants to hear of that.
        "RolledBack" | "RolloutFailed" => (said().unwrap_or(Category::Config), Severity::Fatal),
        "Unready" if event.object.starts_with("external/") => (Category::Dependency, Severity::Warning),
        "Unready" => (said().unwrap_or(Category::Api), Severity::Warning),
        "ManifestInvalid" => (Category::Config, Severity::Recoverable),
        "LogsBlocked" | "StateBlocked" | "JournalBlocked" => (Category::Filesystem, Severity::Recoverable),
        STOP_DEADLINE => (Category::Timeout, Severity::Warning),
        "StopHookFailed" => (said().unwrap_or(Category::Crash), Severity::Warning),
        "NotHeard" => (Category::Resource, Severity::Warning),
        "LogReplaced" => (Category::Permission, Severity::Warning),
        "DaemonDied" | "KeeperDied" => (Category::Internal, Severity::Recoverable),
        "StateSetAside" => (Category::Database, Severity::Recoverable),
        "Survivors" | "Unattributed" => (Category::Resource, Severity::Recoverable),
        // It is not tried before something changes.
        "CannotStart" => (said().unwrap_or(Category::Config), Severity::Fatal),
        "NotWatching" | "NotEnforced" => (Category::Resource, Severity::Warning),
        "CrashDumpFailed" | "SocketRemoved" => (Category::Filesystem, Severity::Warning),
        "NotifierFailed" | "NotifierGaveUp" => (said().unwrap_or(Category::Network), Severity::Warning),
        _ => (said().unwrap_or(Category::Internal), Severity::Warning),
    };
    let mut message = event.message.to_owned();
    truncate(&mut message, limits::ERROR_MESSAGE_BYTES);
    Some(Sighting {
        fingerprint: fingerprint(event.object, category, &format!("{}: {message}", event.reason)),
        category,
        severity,
        unit: event.object.to_owned(),
        incarnation: None,
        revision: event.revision,
        message,
        at: event.at,
        cause: Some(event.id),
        context: context::of_event(event.reason),
        follows: event.reason == CIRCUIT_OPEN,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_that_are_failures_are_told_from_those_that_follow_from_one() {
        let check = |reason, message, expected: Option<(Category, Severity)>| {
            let event = Happening {
                warning: true,
                reason,
                object: "service/a",
                message,
                id: 9,
                at: Default::default(),
                revision: 3,
            };
            let found = failure(&event, Some(Category::Oom), &Patterns::default());
            assert_eq!(found.as_ref().map(|f| (f.category, f.severity)), expected, "{reason}");
            assert!(failure(&Happening { warning: false, ..event }, None, &Patterns::default()).is_none());
            assert!(found.is_none_or(|found| found.cause == Some(9) && found.revision == 3));
        };
        check("Exited", "instance 0 ended: exit code 1", None);
        check("OOMKilled", "instance 0 ended: SIGKILL, out of memory", None);
        check("Watchdog", "instance 0 was stopped by its watchdog (SIGABRT)", None);
        check("BackOff", "instance 0 is started again in 1s", None);
        check("FailedAtFirst", "the rollout of revision 1 has failed: instance 0 ended: exit code 1", None);
        check("Stopped", "instance 0 was stopped (SIGTERM)", None);
        let timeout = |severity| Some((Category::Timeout, severity));
        for (reason, severity) in [
            ("Stopped", Severity::Recoverable),
            ("Watchdog", Severity::Recoverable),
            ("Suspected", Severity::Warning),
        ] {
            check(reason, "instance 0 is degraded: it waits, and nobody hears of it", timeout(severity));
        }
        check("Deadlock", "instance 0 is frozen: its only thread waits for a lock", None);
        check("CircuitOpen", "instance 0 failed too often", Some((Category::Oom, Severity::Fatal)));
        check(
            "Unready",
            "is not ready: 127.0.0.1:1: connection refused",
            Some((Category::Network, Severity::Warning)),
        );
        check("Unready", "is not ready: answered 503", Some((Category::Api, Severity::Warning)));
        check("ManifestInvalid", "revision 1 stays", Some((Category::Config, Severity::Recoverable)));
        check(
            "RolledBack",
            "revision 2 is given up, what was good before it takes its place: instance 0 ended: exit code 1",
            Some((Category::Config, Severity::Fatal)),
        );
        check("NotOnThisMachine", "service/a runs without its limit of memory: no such file", None);
        check(
            "SocketRemoved",
            "somebody removed the control socket; it is there again",
            Some((Category::Filesystem, Severity::Warning)),
        );
        check("SomethingNew", "whatever", Some((Category::Internal, Severity::Warning)));
    }
}

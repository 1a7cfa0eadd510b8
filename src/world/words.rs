//! How an end is told, and by what word it is counted.

use crate::base::{Exit, format_duration};
use crate::unit::{End, EndReason, Policy, StopReason};

/// The machine was restarted: of the event, and of each end that it was.
pub const REBOOTED: &str = "MachineRestarted";

/// How it begins what a watchdog says of an instance that runs on, and of one that it ends.
pub const DEGRADED: &str = "is degraded: ";
pub const FROZEN: &str = "is frozen: ";

/// How an end reads in a sentence: "exited with exit code 1".
pub fn end_words(end: &End) -> String {
    let exit = end.exit.map(|exit| exit.to_string());
    match (&end.reason, exit) {
        (EndReason::Exited, Some(exit)) => format!("ended: {exit}"),
        (EndReason::Exited, None) => "ended".into(),
        (EndReason::Rebooted, _) => "ended: the machine was restarted".into(),
        (EndReason::SpawnFailed { stage, detail, .. }, _) => format!("could not {stage}: {detail}"),
        (EndReason::HookFailed { hook, exit: Some(exit) }, _) => {
            format!("preStart hook {} failed: {exit}", u32::from(*hook) + 1)
        }
        (EndReason::HookFailed { hook, exit: None }, _) => {
            format!("preStart hook {} ran out of time", u32::from(*hook) + 1)
        }
        (EndReason::Stopped(reason), exit) => {
            let why = match reason {
                StopReason::Unwanted => "was stopped",
                StopReason::Replaced => "was replaced",
                StopReason::StartupFailed => "was stopped because its startup probe failed",
                StopReason::LivenessFailed => "was stopped because its liveness probe failed",
                StopReason::DeadlineExceeded => "was stopped because it ran longer than activeDeadline",
                StopReason::Watchdog => "was stopped by its watchdog",
            };
            exit.map_or_else(|| why.to_owned(), |exit| format!("{why} ({exit})"))
        }
    }
}

/// The same of one that had to be killed: it had as long as its manifest says.
pub fn overrun_words(end: &End, policy: &Policy) -> Option<String> {
    let EndReason::Stopped(reason) = end.reason else { return None };
    let killed = matches!(end.exit, Some(Exit::Signal { signal: 9, .. } | Exit::Unknown));
    let grace = format_duration(policy.stop.grace);
    let (signal, command) = (reason.signal(policy), policy.stop.command && reason != StopReason::Watchdog);
    let of = if command { "stop.command".to_owned() } else { signal.to_string() };
    (end.overran && killed)
        .then(|| format!("; it did not end within stop.grace ({grace}) of {of} and was killed"))
}

/// The word of an end in `lastExit.reason`.
pub fn end_reason(end: &End) -> &'static str {
    match (&end.reason, end.exit) {
        (EndReason::SpawnFailed { .. }, _) => "SpawnFailed",
        (EndReason::HookFailed { .. }, _) => "HookFailed",
        (EndReason::Rebooted, _) => REBOOTED,
        (EndReason::Stopped(StopReason::Unwanted), _) => "Stopped",
        (EndReason::Stopped(StopReason::Replaced), _) => "Replaced",
        (EndReason::Stopped(StopReason::StartupFailed), _) => "StartupProbeFailed",
        (EndReason::Stopped(StopReason::LivenessFailed), _) => "LivenessProbeFailed",
        (EndReason::Stopped(StopReason::DeadlineExceeded), _) => "DeadlineExceeded",
        (EndReason::Stopped(StopReason::Watchdog), _) => "Watchdog",
        (EndReason::Exited, Some(Exit::Code(_))) => "ExitCode",
        (EndReason::Exited, Some(Exit::Signal { .. })) => "Signal",
        (EndReason::Exited, Some(Exit::OomKilled)) => "OOMKilled",
        (EndReason::Exited, Some(Exit::Unknown) | None) => "Unknown",
    }
}

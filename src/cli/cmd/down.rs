use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::Value;

use crate::api::types::{DownCall, WaitFor};
use crate::base::parse_duration;
use crate::os::clock;
use crate::world::shutdown::STOP_DEADLINE;

use super::super::args::{Down, Global};
use super::super::client::Client;
use super::super::{Failure, Outcome, kept, render};
use crate::cli::aside;

/// How long a keeper may take to end whose daemon went without an answer.
const ANSWERLESS: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

/// Every stop is over before: a day, in milliseconds.
const LONGEST: u64 = 24 * 3600 * 1000;

/// `unisys down`: returns once everything has stopped and the keeper is gone.
pub fn run(global: &Global, args: &Down) -> Result<Outcome, Failure> {
    let timeout = args.timeout.as_deref().map(parse_duration).transpose();
    let timeout =
        timeout.map_err(|error| Failure::usage(format!("--timeout: {error}"), "write --timeout 30s"))?;
    let call = DownCall { timeout_ms: timeout.map(|time| time.as_millis() as u64) };
    let client = Client::connect(global)?;
    let system: Value = client.get("/v1/system", &[])?;
    let number = |field: &str| system["status"][field].as_u64();
    // Numbers of another pid namespace are others' here.
    let is_of_ours = number("daemonPid") == Some(client.daemon().into());
    let keeper =
        number("keeperPid").filter(|_| is_of_ours).and_then(|pid| crate::os::process::open_any(pid as u32));
    let blocked = super::get::logs_blocked(&system);
    let asked_at = clock::wall();
    let asked: Result<Value, Failure> = client.ask("/v1/down", &call);
    match (asked, keeper) {
        (Ok(_), keeper) => {
            // Until nobody answers any more: what is left is the keeper's own end.
            let wanted = WaitFor { names: Vec::new(), what: "stopped".into(), timeout_ms: LONGEST };
            let _ = client.wait(&wanted, global.quiet);
            match keeper {
                Some(keeper) => drop(ended(&keeper, None)),
                None => client.outlast_keeper(),
            }
        }
        // Where nothing runs the daemon may be gone before it has answered.
        (Err(Failure::NoDaemon { .. }), Some(keeper)) if ended(&keeper, Some(ANSWERLESS)) => {}
        (Err(failure), _) => return Err(failure),
    }
    for event in kept::since(global, asked_at).iter().filter(|event| event.reason == STOP_DEADLINE) {
        aside!("note: {}: {}", event.object, render::neutral(&event.message));
    }
    if !blocked.is_empty() {
        aside!("note: what services wrote meanwhile is not in their logs: {}", blocked.concat());
    }
    if !global.quiet {
        render::line("stopped");
    }
    Ok(Outcome::Done)
}

/// Waits for a process to end; false when the time is over.
fn ended(process: &OwnedFd, timeout: Option<Timespec>) -> bool {
    let mut fds = [PollFd::new(process, PollFlags::IN)];
    loop {
        match poll(&mut fds, timeout.as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            found => return found.is_ok_and(|count| count > 0),
        }
    }
}

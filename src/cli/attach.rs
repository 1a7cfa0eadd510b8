//! `up` in the foreground of a system that goes on in the background: it stands there in the keeper's stead. A supervisor (systemd,
//! runit) whose `up` was killed starts another one while the heir of that one's keeper keeps everything running.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};

use crate::engine::{LastUp, Options};
use crate::os::state_dir::StateDir;
use crate::os::{process, signals};

use super::keeper::{Keeper, Vigil, keeper_of, keeper_pid, options_among};
use super::{Failure, Outcome, aside};

/// What is passed on to the keeper.
const SIGNALS: [i32; 4] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGUSR2];
/// How often a keeper that is on its way is looked for.
const LOOK: Duration = Duration::from_millis(20);

/// What came of it.
pub enum Stood {
    /// The system has ended.
    Over(Outcome),
    /// Nobody keeps it any more: that is for this process to do now.
    Left,
}

/// Whether `words` are those of a keeper in nobody's foreground that was told the same as this one.
fn is_same_in_background(words: &[String], own: &Options) -> bool {
    let in_background = words.get(1).is_some_and(|verb| verb == "keeper")
        // An `up` in somebody's foreground that has become another binary.
        && !words.iter().any(|word| word == "--resume");
    let told = options_among(words).filter(|_| in_background);
    told.is_some_and(|told| LastUp::of(&told).is_like(&LastUp::of(own)) && told.units == own.units)
}

/// Stands in for the keeper of this system for as long as there is one. None: it is in somebody's foreground, or was told
/// something else.
pub fn stand_in(state: &StateDir, own: &Options) -> Result<Option<Stood>, Failure> {
    let socket = state.socket();
    let fail = |error: std::io::Error| Failure::other(format!("cannot wait for the keeper: {error}"), "");
    let same = |pid: u32| is_same_in_background(&process::words(pid), own);
    let Some(mut keeper) = keeper_pid(&socket).filter(|pid| same(*pid)) else { return Ok(None) };
    // Before anything is waited for: none that arrives is lost.
    let heard = signals::descriptor(&SIGNALS).map_err(fail)?;
    let mut interrupts = 0;
    loop {
        if !own.quiet {
            aside!(
                "note: the system runs already, in the background (keeper, pid {keeper}): signals are passed on to it, Ctrl-C stops \
                 its services in order"
            );
        }
        if let Some(handle) = process::open_any(keeper) {
            interrupts += pass_on(&heard, &handle).map_err(fail)?;
        }
        match next_keeper(&socket, keeper) {
            Some(next) => keeper = next,
            None if keeper_of(&socket) == Keeper::Killed => return Ok(Some(Stood::Left)),
            // As the keeper itself would end: a second press of Ctrl-C kills.
            None if interrupts > 1 => return Ok(Some(Stood::Over(Outcome::Code(130)))),
            None => return Ok(Some(Stood::Over(Outcome::Done))),
        }
    }
}

/// Until the keeper has ended; gives how often it was interrupted.
fn pass_on(heard: &OwnedFd, keeper: &OwnedFd) -> std::io::Result<u32> {
    let mut interrupts = 0;
    while !process::has_ended(keeper) {
        let mut fds = [PollFd::new(heard, PollFlags::IN), PollFd::new(keeper, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for (signal, _) in signals::read(heard) {
            interrupts += u32::from(signal == libc::SIGINT);
            let _ = process::signal(keeper, signal);
        }
    }
    Ok(interrupts)
}

/// Who takes the place of one that was killed, if somebody does.
fn next_keeper(socket: &Path, former: u32) -> Option<u32> {
    let mut vigil = Vigil::default();
    while vigil.may_answer(socket) {
        if let Some(next) = keeper_pid(socket).filter(|pid| *pid != former) {
            return Some(next);
        }
        std::thread::sleep(LOOK);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_stood_in_for_is_in_the_background_and_was_told_the_same() {
        let options = |overlay: Option<&str>| -> Options {
            let overlays: Vec<&str> = overlay.into_iter().collect();
            let value = serde_json::json!({
                "stateDir": "/srv/app/.unified-system", "paths": ["/srv/app/manifests"], "overlays": overlays, "set": null,
                "profile": null, "watch": true, "units": [], "nofile": [1024, 1024], "quiet": false,
            });
            serde_json::from_value(value).unwrap()
        };
        let (same, other) = (
            serde_json::to_string(&options(None)).unwrap(),
            serde_json::to_string(&options(Some("/o"))).unwrap(),
        );
        for (words, expected) in [
            (vec!["unisys", "keeper", "--heir-of", "7", "--options", &same, "--notify", "3"], true),
            (vec!["unisys", "keeper", "--options", &same], true),
            (vec!["unisys", "keeper", "--options", &other], false),
            (vec!["unisys", "keeper", "--resume", "9:4", "--options", &same], false),
            (vec!["unisys", "up"], false),
            (vec![], false),
        ] {
            let words: Vec<String> = words.into_iter().map(str::to_owned).collect();
            assert_eq!(is_same_in_background(&words, &options(None)), expected, "{words:?}");
        }
    }
}

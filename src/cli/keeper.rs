//! Whether there is a keeper beside a socket at which nobody answers, and so whether somebody may soon.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::engine::Options;
use crate::os::process;

/// A keeper holds the lock beside this socket: if nobody answers there, its daemon is being started.
pub fn has_keeper(socket: &Path) -> bool {
    let lock = socket.parent().and_then(|dir| std::fs::File::open(dir.join("lock")).ok());
    let shared = rustix::fs::FlockOperation::NonBlockingLockShared;
    lock.is_some_and(|lock| rustix::fs::flock(&lock, shared) == Err(rustix::io::Errno::WOULDBLOCK))
}

/// The keeper that has the lock beside this socket. One that has ended is not asked for: its number may be another's by now.
pub fn keeper_pid(socket: &Path) -> Option<u32> {
    let lock = has_keeper(socket).then(|| socket.with_file_name("lock"))?;
    std::fs::read_to_string(lock).ok()?.trim().parse().ok()
}

/// What became of the keeper that has, or had, the lock beside this socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeper {
    Lives,
    /// It did not end in order: an heir may take its place in a moment.
    Killed,
    Ended,
}

pub fn keeper_of(socket: &Path) -> Keeper {
    if has_keeper(socket) {
        return Keeper::Lives;
    }
    let lock = socket.parent().and_then(|dir| std::fs::read_to_string(dir.join("lock")).ok());
    match lock {
        Some(pid) if !pid.trim().is_empty() => Keeper::Killed,
        // An heir has come in between: it has the lock, and has not written its number into it yet.
        _ if has_keeper(socket) => Keeper::Lives,
        _ => Keeper::Ended,
    }
}

/// How long the heir of a keeper that was killed is waited for where none is seen on its way: it may be of another pid namespace.
const HEIR: Duration = Duration::from_secs(1);
/// How long a daemon that is being started, or a keeper that is on its way, is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Somebody waits for an answer at a socket where there is none. Each keeper that comes, and each that is killed, is waited for
/// anew: several may die in a row.
#[derive(Default)]
pub struct Vigil {
    /// What became of which keeper, and since when it is known.
    seen: Option<(Keeper, String, Instant)>,
}

impl Vigil {
    /// Somebody may still answer.
    pub fn may_answer(&mut self, socket: &Path) -> bool {
        let lock = std::fs::read_to_string(socket.with_file_name("lock")).unwrap_or_default();
        self.goes_on(keeper_of(socket), lock.trim(), Instant::now(), || is_coming(socket))
    }

    fn goes_on(&mut self, keeper: Keeper, pid: &str, now: Instant, is_coming: impl FnOnce() -> bool) -> bool {
        let known = self.seen.as_ref().filter(|(known, of, _)| *known == keeper && of == pid);
        let since = known.map_or(now, |(.., since)| *since);
        self.seen = Some((keeper, pid.to_owned(), since));
        let waited = now - since;
        match keeper {
            Keeper::Lives => waited < PATIENCE,
            Keeper::Killed => waited < HEIR || waited < PATIENCE && is_coming(),
            Keeper::Ended => false,
        }
    }
}

/// The daemon of a keeper that was killed lives, and sees to it that there is another; or that one lives, and has not taken over
/// yet.
fn is_coming(socket: &Path) -> bool {
    let Some(dir) = socket.parent().and_then(|dir| dir.canonicalize().ok()) else { return false };
    process::all().iter().any(|stat| is_started_for(&process::words(stat.pid), &dir))
}

/// What a daemon or a keeper that was started with these words was told.
pub fn options_among(words: &[String]) -> Option<Options> {
    serde_json::from_str(words.iter().skip_while(|word| *word != "--options").nth(1)?).ok()
}

/// Whether these are the words that a daemon or a keeper of this state directory is started with.
fn is_started_for(words: &[String], dir: &Path) -> bool {
    options_among(words).is_some_and(|options| options.state_dir.canonicalize().is_ok_and(|of| of == dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_gives_up_only_where_nobody_is_on_the_way() {
        use Keeper::{Ended, Killed, Lives};
        let (soon, later) = (HEIR - Duration::from_millis(1), PATIENCE - Duration::from_millis(1));
        /// What is seen, how long after what was seen before, whether somebody is on the way; and whether it is waited on.
        type Look = (Keeper, &'static str, Duration, bool, bool);
        let cases: [&[Look]; 7] = [
            // An heir takes its time.
            &[(Killed, "1", soon, false, true), (Killed, "1", later - soon, true, true)],
            // No heir comes.
            &[(Killed, "1", soon, false, true), (Killed, "1", HEIR, false, false)],
            &[(Killed, "1", later, true, true), (Killed, "1", PATIENCE, true, false)],
            // One after another is killed.
            &[
                (Killed, "1", soon, false, true),
                (Lives, "2", soon, false, true),
                (Killed, "2", later, false, true),
                (Killed, "2", soon, false, true),
                (Killed, "3", later, false, true),
            ],
            // Its daemon does not come up.
            &[(Lives, "1", later, false, true), (Lives, "1", PATIENCE, true, false)],
            &[(Ended, "", soon, true, false)],
            &[(Killed, "1", soon, true, true), (Ended, "", soon, true, false)],
        ];
        for looks in cases {
            let (mut vigil, mut now) = (Vigil::default(), Instant::now());
            // What is seen first is seen as soon as it is asked for.
            let mut last = None;
            for &(keeper, pid, after, is_coming, expected) in looks {
                if last.replace((keeper, pid)).is_none() {
                    vigil.goes_on(keeper, pid, now, || is_coming);
                }
                now += after;
                let found = vigil.goes_on(keeper, pid, now, || is_coming);
                assert_eq!(found, expected, "{pid} after {after:?} in {:?}", looks.len());
            }
        }
    }

    #[test]
    fn a_keeper_on_its_way_is_known_by_its_words() {
        let dir = tempfile::tempdir().unwrap();
        let of = |dir: &Path| {
            serde_json::json!({
                "stateDir": dir, "paths": [], "overlays": [], "set": null, "profile": null, "watch": true, "units": [],
                "nofile": [1024, 1024], "quiet": false,
            })
            .to_string()
        };
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let known = |list: &[&str]| is_started_for(&words(list), &dir.path().canonicalize().unwrap());
        let (ours, theirs) = (of(dir.path()), of(Path::new("/")));
        assert!(known(&["unisys", "keeper", "--heir-of", "7", "--options", &ours, "--notify", "3"]));
        assert!(known(&["unisys", "daemon", "--options", &ours]));
        assert!(!known(&["unisys", "daemon", "--options", &theirs]));
        assert!(!known(&["unisys", "daemon", "--options"]));
        assert!(!known(&["unisys", "wait", "a"]) && !known(&[]));
    }
}

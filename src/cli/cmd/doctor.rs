use std::path::Path;

use crate::os::state_dir::short_socket;
use crate::os::{cgroup, own, process};

use super::super::args::{Format, Global};
use super::super::client::find_socket;
use super::super::{Failure, Outcome, render};

/// One finding.
struct Check {
    name: &'static str,
    /// `None`: works without, with less.
    ok: Option<bool>,
    words: String,
}

/// `unisys doctor`: what this machine offers, and what is missing for which feature. 1 if something necessary is missing.
pub fn run(global: &Global) -> Result<Outcome, Failure> {
    render::only(global.output, &[Format::Text, Format::Json])?;
    let checks = checks(global);
    if global.output == Some(Format::Json) {
        let rows: Vec<_> = checks
            .iter()
            .map(|check| serde_json::json!({"check": check.name, "ok": check.ok, "message": check.words}))
            .collect();
        render::print(&format!("{:#}\n", serde_json::json!({"checks": rows})));
    } else {
        let lines: Vec<Vec<String>> = checks
            .iter()
            .map(|check| {
                let mark = match check.ok {
                    Some(true) => "ok",
                    Some(false) => "MISSING",
                    None => "note",
                };
                vec![mark.into(), check.name.into(), check.words.clone()]
            })
            .collect();
        render::print(&render::columns(&lines));
    }
    Ok(if checks.iter().any(|check| check.ok == Some(false)) { Outcome::No } else { Outcome::Done })
}

fn checks(global: &Global) -> Vec<Check> {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map(|word| word.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let (soft, hard) = own::raise_nofile();
    let memory = sysinfo::System::new().map(|mut system| {
        system.refresh_memory();
        format!("{} MiB, {} MiB available", system.total_memory() >> 20, system.available_memory() >> 20)
    });
    let children =
        Path::new("/proc/self/task").join(std::process::id().to_string()).join("children").exists();
    // What runs here tells more than what the next `up` would be given where `doctor` is.
    let cgroups = daemon(global).map_or_else(cgroup::offer, cgroup::offer_to);
    let check = |name, ok, words: String| Check { name, ok, words };
    vec![
        check("kernel", Some(version >= (5, 9)), format!("{release}; 5.9 is needed (pidfd, close_range)")),
        check(
            "exit codes of adopted processes",
            (version >= (6, 15)).then_some(true),
            "6.15 tells how a process ended that another keeper had started".into(),
        ),
        check(
            "children of a process",
            Some(children),
            "/proc/PID/task/TID/children (CONFIG_PROC_CHILDREN)".into(),
        ),
        check(
            "limits by cgroup v2",
            (!cgroups.controllers.is_empty()).then_some(true),
            match (cgroups.controllers.is_empty(), cgroups.lacking.is_empty()) {
                (_, true) => "limits of memory, cpu and pids are enforced".into(),
                (true, _) => format!("no limits of memory, cpu and pids: {}", cgroups.lacking),
                (false, _) => format!("limits of {}; {}", cgroups.controllers.join(", "), cgroups.lacking),
            },
        ),
        check(
            "open files",
            (hard >= 65_536).then_some(true),
            format!("soft {soft}, hard {hard}; each instance takes 6"),
        ),
        disk(global),
        check("memory", None, memory.unwrap_or_else(|error| error.to_string())),
        check(
            "daemon",
            None,
            find_socket(global)
                .filter(|path| path.exists())
                .map_or("none runs here".into(), |path| path.display().to_string()),
        ),
    ]
}

/// The process of the daemon that runs here.
fn daemon(global: &Global) -> Option<u32> {
    let (socket, _dir) = short_socket(&find_socket(global)?).ok()?;
    let stream = std::os::unix::net::UnixStream::connect(socket).ok()?;
    process::peer(&stream).map(|(pid, _)| pid)
}

/// Room for logs and state: with less than the first it is soon full, with less than the second it is.
const ROOM: u64 = 64 << 20;
const NO_ROOM: u64 = 1 << 20;

/// The file system of the state directory, or of where it would be.
fn disk(global: &Global) -> Check {
    let dir = find_socket(global).and_then(|path| Some(path.parent()?.to_owned())).filter(|dir| dir.exists());
    let dir = dir.unwrap_or_else(|| Path::new(".").to_owned());
    let (ok, words) = match rustix::fs::statvfs(&dir) {
        Ok(found) => {
            let free = found.f_bavail * found.f_frsize;
            let ok = (free >= NO_ROOM).then_some(()).map_or(Some(false), |()| (free >= ROOM).then_some(true));
            (ok, format!("{} MiB free for logs and state", free >> 20))
        }
        Err(error) => (None, format!("{}: {error}", dir.display())),
    };
    Check { name: "disk", ok, words }
}

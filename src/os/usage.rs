//! What an instance uses: its processes as /proc shows them, and its cgroup as the kernel counts for it, also once they are gone.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::base::{Usage, limits};

use super::clock;
use super::process::{self, Stat};

/// A process and its descendants at this moment; `None` when it is gone.
pub fn look(main: u32) -> Option<Usage> {
    let family = process::family(main, limits::USAGE_TASKS);
    (!family.is_empty()).then(|| of(&family))
}

/// The same of processes that were looked at already; only what they have open is looked for.
pub fn of(family: &[Stat]) -> Usage {
    let page = rustix::param::page_size() as u64;
    let open = family.iter().filter_map(|stat| open_files(stat.pid)).reduce(u32::saturating_add);
    let mut usage = Usage { open_files: open, processes: family.len() as u32, ..Usage::default() };
    for stat in family {
        usage.memory_bytes += stat.rss_pages * page;
        usage.cpu_ms += clock::ticks(stat.cpu_ticks).as_millis() as u64;
        usage.threads += stat.threads;
    }
    usage
}

/// As the size of the directory, without reading it (Linux 6.2, proc_pid_fd(5)); before that it has none.
fn open_files(pid: u32) -> Option<u32> {
    let path = format!("/proc/{pid}/fd");
    match fs::metadata(&path).ok()?.len() {
        0 => fs::read_dir(&path).ok().map(|entries| entries.count() as u32),
        count => Some(count as u32),
    }
}

/// The most memory that a process has had at once (proc_pid_status(5), `VmHWM`).
pub fn peak(pid: u32) -> Option<u64> {
    let text = super::process::read_lossy(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// What a cgroup (v2) used in its life (the kernel's Documentation/admin-guide/cgroup-v2.rst). What it does not have, for want of a
/// controller or in an older kernel, is `None`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CgroupUsage {
    /// `memory.peak`.
    pub peak_memory_bytes: Option<u64>,
    /// `memory.events`: how often it was held back at `memory.high`, at `memory.max`, and what the kernel killed.
    pub memory_high_events: Option<u64>,
    pub memory_max_events: Option<u64>,
    pub oom_kills: Option<u64>,
    /// `pids.peak`.
    pub peak_pids: Option<u64>,
    /// `cpu.stat`.
    pub user_cpu_ms: Option<u64>,
    pub system_cpu_ms: Option<u64>,
    /// Held back at `cpu.max`.
    pub throttled_ms: Option<u64>,
    pub pressure: Pressures,
}

/// `memory.pressure`, `cpu.pressure`, `io.pressure` (Documentation/accounting/psi.rst).
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Pressures {
    pub memory: Option<Pressure>,
    pub cpu: Option<Pressure>,
    pub io: Option<Pressure>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Pressure {
    /// Some of its tasks waited.
    pub some: Option<Waited>,
    /// All of them did.
    pub full: Option<Waited>,
}

/// The share of the last 10, 60 and 300 seconds in percent, and the whole time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Waited {
    pub avg10: f64,
    pub avg60: f64,
    pub avg300: f64,
    pub total_ms: u64,
}

/// Reads a cgroup's directory; `None` when it is gone.
pub fn of_cgroup(dir: &Path) -> Option<CgroupUsage> {
    // Every cgroup of version 2 has this one.
    let cpu = pairs(&fs::read_to_string(dir.join("cpu.stat")).ok()?);
    let read = |name: &str| fs::read_to_string(dir.join(name)).ok();
    let number = |name: &str| read(name)?.trim().parse().ok();
    let events = read("memory.events").map(|text| pairs(&text)).unwrap_or_default();
    let micros = |name: &str| cpu.get(name).map(|micros| micros / 1000);
    let pressure = |name: &str| read(name).as_deref().and_then(pressure);
    Some(CgroupUsage {
        peak_memory_bytes: number("memory.peak"),
        memory_high_events: events.get("high").copied(),
        memory_max_events: events.get("max").copied(),
        oom_kills: events.get("oom_kill").copied(),
        peak_pids: number("pids.peak"),
        user_cpu_ms: micros("user_usec"),
        system_cpu_ms: micros("system_usec"),
        throttled_ms: micros("throttled_usec"),
        pressure: Pressures {
            memory: pressure("memory.pressure"),
            cpu: pressure("cpu.pressure"),
            io: pressure("io.pressure"),
        },
    })
}

/// Lines of a word and a number.
fn pairs(text: &str) -> BTreeMap<String, u64> {
    let pair = |line: &str| {
        let (name, number) = line.split_once(' ')?;
        Some((name.to_owned(), number.trim().parse().ok()?))
    };
    text.lines().filter_map(pair).collect()
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and a line of `full`, which older kernels do not have of the processor.
fn pressure(text: &str) -> Option<Pressure> {
    let line = |kind: &str| text.lines().find_map(|line| waited(line.strip_prefix(kind)?));
    let found = Pressure { some: line("some "), full: line("full ") };
    (found != Pressure::default()).then_some(found)
}

fn waited(fields: &str) -> Option<Waited> {
    let value = |name: &str| {
        fields.split(' ').find_map(|field| field.strip_prefix(name)?.strip_prefix('=')).map(str::trim)
    };
    let share = |name: &str| value(name)?.parse().ok();
    Some(Waited {
        avg10: share("avg10")?,
        avg60: share("avg60")?,
        avg300: share("avg300")?,
        total_ms: value("total")?.parse::<u64>().ok()? / 1000,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_what_it_has() {
        let own = std::process::id();
        let before = look(own).unwrap();
        let held: Vec<fs::File> = (0..100).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        let mut memory = vec![0u8; 64 << 20];
        memory.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
        let after = look(own).unwrap();
        // Other tests of this process open and close files of their own.
        assert!(after.open_files.unwrap() > 100 && before.open_files.unwrap() > 2, "{before:?} {after:?}");
        assert!(after.memory_bytes >= 64 << 20 && after.threads >= 2 && after.processes >= 1, "{after:?}");
        assert!(peak(own).unwrap() >= 64 << 20);
        drop((held, memory));
        assert_eq!(look(u32::MAX - 7), None);
    }

    #[test]
    fn a_child_counts_with_its_parent_up_to_the_limit() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let stats = process::family(std::process::id(), u32::MAX);
        assert_eq!(stats.first().map(|stat| stat.pid), Some(std::process::id()));
        assert!(stats.iter().any(|stat| stat.pid == child.id()));
        // With its threads this process is more than one already.
        assert_eq!(process::family(std::process::id(), 1).len(), 1);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn pressure_is_read_as_far_as_there_is_any() {
        let zero = Waited::default();
        let half = Waited { avg10: 50.5, avg60: 12.25, avg300: 3.0, total_ms: 1234 };
        let cases = [
            (
                "some avg10=50.50 avg60=12.25 avg300=3.00 total=1234567\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
                Some(Pressure { some: Some(half), full: Some(zero) }),
            ),
            (
                "some avg10=0.00 avg60=0.00 avg300=0.00 total=999\n",
                Some(Pressure { some: Some(zero), full: None }),
            ),
            ("some avg10=x avg60=0.00 avg300=0.00 total=0\n", None),
            ("some avg10=0.00\n", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(pressure(text), expected, "{text}");
        }
    }
}

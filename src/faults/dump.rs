//! Crash dumps: a directory a crash, whole or not at all, bounded in number, size and age.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::base::redact::MASK;
use crate::base::{Exit, Incarnation, InstanceId, Name, Signal, Stamp, limits};
use crate::manifest::fields::changed_fields;
use crate::os::{clock, files, identity};
use crate::plan::launch::effective;
use crate::plan::machine::working_dir;
use crate::world::words::end_reason;

use super::classify::Classified;
use super::worker::Case;

/// Directories that are being written begin with this.
const TEMPORARY: &str = ".new-";
/// The share of each log in the bytes of a dump; what is left is for the description.
const LOG_BYTES: usize = (limits::CRASH_DUMP_BYTES as usize) * 3 / 10;
/// That of the threads of a frozen program.
const THREADS_BYTES: usize = (limits::CRASH_DUMP_BYTES as usize) / 5;
const DESCRIPTION_BYTES: usize = limits::CRASH_DUMP_BYTES as usize - 2 * LOG_BYTES - THREADS_BYTES - 4096;

/// `20260101T000000.000Z-api-5`: sorts by time, then names the crash.
pub fn id(at: Stamp, service: &Name, incarnation: Incarnation) -> String {
    let time: String = at.to_string().chars().filter(|c| !matches!(c, '-' | ':')).collect();
    format!("{time}-{service}-{incarnation}")
}

/// The service in an id; `None` for a name that is no dump's.
pub fn service_of(id: &str) -> Option<&str> {
    let (time, rest) = id.split_once('-')?;
    let (service, incarnation) = rest.rsplit_once('-')?;
    let is_time = time.len() == 20 && time.starts_with(|c: char| c.is_ascii_digit()) && time.ends_with('Z');
    (is_time && incarnation.parse::<u64>().is_ok() && service.parse::<Name>().is_ok()).then_some(service)
}

/// There is one of this instance.
pub fn is_there(dir: &Path, of: &InstanceId) -> bool {
    let own = format!("-{}-{}", of.unit, of.incarnation);
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .any(|name| service_of(&name) == Some(of.unit.as_str()) && name.ends_with(&own))
}

/// Writes one: into a temporary directory, which is then renamed. Older ones make room.
pub fn write(
    dir: &Path,
    case: &Case,
    classified: &Classified,
    stdout: &[String],
    stderr: &[String],
) -> io::Result<()> {
    let failure = &case.failure;
    let id = id(failure.at, &failure.id.unit, failure.id.incarnation);
    let temporary = dir.join(format!("{TEMPORARY}{id}"));
    let written = files::private_dir_within(dir)
        .and_then(|()| fill(&temporary, &id, case, classified, stdout, stderr))
        .and_then(|()| fs::rename(&temporary, dir.join(&id)));
    if written.is_err() {
        let _ = fs::remove_dir_all(&temporary);
    }
    make_room(dir, failure.id.unit.as_str());
    written
}

fn fill(
    dir: &Path,
    id: &str,
    case: &Case,
    classified: &Classified,
    stdout: &[String],
    stderr: &[String],
) -> io::Result<()> {
    files::private_dir_within(dir)?;
    let mut description = describe(id, case, classified);
    case.redactor.json(&mut description);
    let mut text = format!("{description:#}\n");
    if text.len() > DESCRIPTION_BYTES {
        description["environment"] = json!("left out: the dump would be too large");
        description["spec"] = Value::Null;
        text = format!("{description:#}\n");
    }
    if !case.threads.is_empty() {
        let mut threads = json!(case.threads);
        case.redactor.json(&mut threads);
        let text = format!("{threads:#}\n");
        put(
            &dir.join("threads.json"),
            if text.len() > THREADS_BYTES { b"\"too many to be kept\"\n" } else { text.as_bytes() },
        )?;
    }
    put(&dir.join("crash.json"), text.as_bytes())?;
    put(&dir.join("stdout.log"), log(stdout).as_bytes())?;
    put(&dir.join("stderr.log"), log(stderr).as_bytes())
}

fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)
}

/// The lines, from the end back as far as there is room.
fn log(lines: &[String]) -> String {
    let mut room = LOG_BYTES;
    let fits = |line: &&String| {
        let left = room.checked_sub(line.len() + 1);
        room = left.unwrap_or(0);
        left.is_some()
    };
    let count = lines.iter().rev().take_while(fits).count();
    lines[lines.len() - count..].iter().flat_map(|line| [line.as_str(), "\n"]).collect()
}

/// `exit` of a crash (rules.md), with the signal's name and whether there is a core.
pub fn exit_value(exit: Option<Exit>, reason: &str) -> Value {
    let (code, signal, core) = match exit {
        Some(Exit::Code(code)) => (Some(code), None, false),
        Some(Exit::Signal { signal, core }) => (None, Some(signal), core),
        Some(Exit::OomKilled) => (None, Some(libc::SIGKILL), false),
        Some(Exit::Unknown) | None => (None, None, false),
    };
    let name = signal.map(|signal| Signal(signal).to_string());
    json!({"code": code, "signal": signal, "signalName": name, "core": core, "reason": reason})
}

fn describe(id: &str, case: &Case, classified: &Classified) -> Value {
    let failure = &case.failure;
    let launch = &failure.spec.launch;
    let mut environment: Map<String, Value> = launch
        .env
        .iter()
        .map(|var| (var.name.clone(), if var.secret { MASK.into() } else { var.value.clone().into() }))
        .collect();
    let user = launch.service.user.as_deref().and_then(identity::user);
    let of_user = launch.of_user(&user.iter().flat_map(identity::User::variables).collect::<Vec<_>>());
    environment.extend(of_user.into_iter().map(|(name, value)| (name.to_owned(), value.into())));
    json!({
        "version": 1,
        "id": id,
        "service": failure.id.unit,
        "instance": failure.id.ordinal,
        "incarnation": failure.id.incarnation,
        "at": failure.at,
        "exit": exit_value(failure.end.exit, end_reason(&failure.end)),
        "uptimeMs": failure.ran_for.as_millis() as u64,
        "restarts": failure.restarts,
        "startedAgain": !failure.permanent,
        "survivors": failure.end.survivors,
        "category": classified.category,
        "severity": classified.severity,
        "fingerprint": classified.fingerprint,
        "message": classified.message,
        "watchdog": failure.frozen.as_ref().map(|frozen| json!({"class": frozen.reason, "message": frozen.message})),
        "cause": failure.record,
        "revision": case.revision,
        "generation": failure.generation,
        "changedSinceReady": changed(case),
        "crashesNotDumpedBefore": case.skipped,
        "probes": case.probes,
        "resources": resources(case),
        "limits": {"openFiles": case.nofile, "declared": launch.service.resources},
        "core": core(case),
        "command": launch.argv,
        "workingDir": working_dir(launch),
        "environment": environment,
        "spec": parsed(&launch.written),
    })
}

/// What it used while it ran, in all, and by its cgroup's account; `null` is what nobody knows.
fn resources(case: &Case) -> Value {
    let mut found = json!({"samples": case.samples, "spent": case.spent, "cgroup": case.cgroup});
    if case.samples.is_empty() {
        found["note"] = match case.failure.spec.policy.is_looked_at() {
            true => "it ended before it was first read",
            false => {
                "read while it runs is what has a watchdog or a probe that is asked: nothing wakes for others"
            }
        }
        .into();
    }
    found
}

/// The fields that differ from the spec with which it was last Ready; `null` when that one is not known.
fn changed(case: &Case) -> Value {
    let Some(good) = &case.last_good else { return Value::Null };
    let (good, bad) = (&good.launch, &case.failure.spec.launch);
    let old = (parsed(&good.written), effective(&good.service));
    let new = (parsed(&bad.written), effective(&bad.service));
    let mut fields: Vec<Value> = changed_fields((&old.0, &old.1), (&new.0, &new.1))
        .into_iter()
        .map(|change| json!({"path": change.path, "old": change.old, "new": change.new}))
        .collect();
    // A value from a file or a Secret: that it differs is said, what it is is not.
    let digest = |marks: &[crate::plan::launch::ValueMark], name: &str| {
        marks.iter().find(|mark| mark.name == name).map(|mark| mark.digest)
    };
    let names = bad.marks.iter().map(|mark| &mark.name).filter(|name| *name != "command");
    for name in names.filter(|name| digest(&good.marks, name) != digest(&bad.marks, name)) {
        let path = format!("spec.env.{name}");
        if !fields.iter().any(|field| field["path"] == path) {
            fields.push(json!({"path": path, "old": MASK, "new": MASK}));
        }
    }
    Value::Array(fields)
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or(Value::Null)
}

/// Where the core is, if there is one (core(5)).
fn core(case: &Case) -> Value {
    let Some(Exit::Signal { core: true, .. }) = case.failure.end.exit else { return Value::Null };
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
    let pattern = pattern.trim();
    match pattern.strip_prefix('|') {
        Some(program) => json!({"handledBy": program.split(' ').next()}),
        None => {
            let dir = working_dir(&case.failure.spec.launch);
            json!({"pattern": pattern, "directory": dir.join(pattern).parent().map(Path::to_owned)})
        }
    }
}

/// Dumps in a directory, oldest first.
pub fn ids(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut ids: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| service_of(name).is_some())
        .collect();
    ids.sort();
    ids
}

/// The oldest of a service go, beyond the number; of every service, those that are too old.
fn make_room(dir: &Path, service: &str) {
    let horizon = Stamp(clock::wall().0 - limits::CRASH_DUMP_AGE.as_millis() as i64);
    let horizon = id(horizon, &"a".parse().expect("a valid name"), Incarnation(0));
    let all = ids(dir);
    let old = all.iter().take_while(|id| **id < horizon);
    let mut of_service: Vec<&String> = all.iter().filter(|id| service_of(id) == Some(service)).collect();
    of_service.truncate(of_service.len().saturating_sub(limits::CRASH_DUMPS));
    let gone: std::collections::BTreeSet<&String> = old.chain(of_service).collect();
    for id in gone {
        let _ = fs::remove_dir_all(dir.join(id));
    }
}

/// Removes what a daemon that was killed left half written, and what is too old.
pub fn clean(dir: &Path) {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let half: Vec<PathBuf> = entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(TEMPORARY))
        .map(|entry| entry.path())
        .collect();
    for path in half {
        let _ = fs::remove_dir_all(path);
    }
    make_room(dir, "");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_names_time_service_and_incarnation() {
        let id = id(Stamp(1_767_225_600_007), &"a-b".parse().unwrap(), Incarnation(5));
        assert_eq!(id, "20260101T000000.007Z-a-b-5");
        assert_eq!(service_of(&id), Some("a-b"));
        for other in [".new-20260101T000000.007Z-a-5", "notes", "20260101T000000.007Z-a", "x-a-5"] {
            assert_eq!(service_of(other), None, "{other}");
        }
    }

    #[test]
    fn the_oldest_of_a_service_and_whatever_is_too_old_makes_room() {
        let dir = tempfile::tempdir().unwrap();
        let now = clock::wall().0;
        let make = |at: i64, service: &str, n: u64| {
            fs::create_dir(dir.path().join(id(Stamp(at), &service.parse().unwrap(), Incarnation(n))))
                .unwrap();
        };
        (0..25).for_each(|n| make(now + n, "a", n as u64));
        make(now, "b", 99);
        make(now - limits::CRASH_DUMP_AGE.as_millis() as i64 - 1000, "c", 1);
        fs::create_dir(dir.path().join("of-a-person")).unwrap();
        make_room(dir.path(), "a");
        let left = ids(dir.path());
        assert_eq!(left.len(), limits::CRASH_DUMPS + 1);
        assert!(left.iter().all(|id| service_of(id) != Some("c")));
        assert!(left.iter().any(|id| id.ends_with("-a-24")) && !left.iter().any(|id| id.ends_with("-a-4")));
        assert!(dir.path().join("of-a-person").exists());
    }

    #[test]
    fn logs_are_cut_from_the_front() {
        let line = "x".repeat(LOG_BYTES / 3);
        let lines = ["first".to_owned(), line.clone(), line.clone(), line];
        assert_eq!(log(&lines).lines().count(), 2);
        assert_eq!(log(&lines[..2]), format!("first\n{}\n", lines[1]));
    }
}

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::faults::crashes::{Crash, CrashDetail, CrashExit, unpack};

use super::super::args::{Crashes, Format, Global, Of};
use super::super::client::Client;
use super::super::{Failure, Outcome, kept, render, resources};

/// `unisys crashes`: the dumps, one with all that is known of it, or one for somebody else.
pub fn run(global: &Global, verb: Option<Crashes>) -> Result<Outcome, Failure> {
    render::only(global.output, &[Format::Text, Format::Table, Format::Json, Format::Yaml])?;
    match verb.unwrap_or(Crashes::Ls { of: Of::default() }) {
        Crashes::Ls { of } => list(global, of.name()),
        Crashes::Show { id } => show(global, &id),
        Crashes::Export { id, to } => export(global, &id, to),
    }
}

fn list(global: &Global, name: Option<String>) -> Result<Outcome, Failure> {
    let query = Vec::from_iter(name.clone().map(|name| ("name", name)));
    let crashes: Vec<Crash> = kept::ask(
        global,
        |client| client.get("/v1/crashes", &query),
        |kept| Ok(kept.crashes(name.as_deref())),
    )?;
    if render::structured(global.output, &serde_json::to_value(&crashes).unwrap_or_default())? {
        return Ok(Outcome::Done);
    }
    let mut lines = vec![["ID", "SERVICE", "EXIT", "CATEGORY", "KB"].map(str::to_owned).to_vec()];
    lines.extend(crashes.iter().map(|crash| {
        vec![
            crash.id.clone(),
            crash.service.clone(),
            exit(&crash.exit),
            crash.category.clone(),
            crash.bytes.div_ceil(1000).to_string(),
        ]
    }));
    render::print(&render::columns(&lines));
    Ok(Outcome::Done)
}

fn exit(exit: &CrashExit) -> String {
    match (exit.code, exit.signal) {
        (Some(code), _) => format!("{} {code}", exit.reason),
        (_, Some(signal)) => format!("{} {}", exit.reason, crate::base::Signal(signal)),
        _ => exit.reason.clone(),
    }
}

fn show(global: &Global, id: &str) -> Result<Outcome, Failure> {
    let path = format!("/v1/crashes/{id}");
    let found: CrashDetail = kept::ask(global, |client| client.get(&path, &[]), |kept| kept.crash(id))?;
    if render::structured(global.output, &serde_json::to_value(&found).unwrap_or_default())? {
        return Ok(Outcome::Done);
    }
    let mut out = String::new();
    let told_below = |key: &str| key == "resources";
    for (key, value) in found.detail.as_object().into_iter().flatten().filter(|(key, _)| !told_below(key)) {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        out.push_str(&format!("{key:<22} {}\n", render::neutral(&value)));
    }
    out.push_str(&resources::text(&found.detail["resources"]));
    for (name, lines) in [("stdout", &found.stdout), ("stderr", &found.stderr)] {
        out.push_str(&format!("\n{name}, the last {} lines\n", lines.len()));
        lines.iter().for_each(|line| out.push_str(&format!("  {}\n", render::neutral(line))));
    }
    out.push_str(&threads(&found.threads));
    render::print(&out);
    Ok(Outcome::Done)
}

/// What each thread of a frozen program did; nothing of another.
fn threads(found: &Value) -> String {
    let rows = found.as_array().into_iter().flatten().map(|thread| {
        let word = |name: &str| thread[name].as_str().unwrap_or_default();
        let number = thread["thread"].as_u64().unwrap_or_default();
        let (state, call, channel) = (word("state"), word("systemCall"), word("waitChannel"));
        let line = format!("{number:>8} {:<16} {state} {call:<18} {channel}", word("name"));
        format!("  {}\n", render::neutral(line.trim_end()))
    });
    let rows: String = rows.collect();
    if rows.is_empty() { rows } else { format!("\nthreads, when it was found frozen\n{rows}") }
}

/// A tar archive, or a directory when one is named; secrets were masked when the dump was written.
fn export(global: &Global, id: &str, to: Option<PathBuf>) -> Result<Outcome, Failure> {
    let all = |client: &Client| {
        let mut archive = Vec::new();
        client.stream(&format!("/v1/crashes/{id}/export"), &[], |chunk| {
            archive.extend_from_slice(chunk);
            true
        })?;
        Ok(archive)
    };
    let archive = kept::ask(global, all, |kept| kept.export(id))?;
    let to = to.unwrap_or_else(|| PathBuf::from(format!("{id}.tar")));
    let (path, written) = if to.is_dir() {
        let dir = to.join(id);
        let written = write_files(&dir, &archive);
        (dir, written)
    } else {
        let written = write(&to, &archive);
        (to, written)
    };
    written.map_err(|error| {
        let why = crate::os::files::why(&error);
        Failure::other(format!("cannot write {}: {why}", path.display()), "name another file or directory")
    })?;
    render::print(&format!("{}\n", path.display()));
    Ok(Outcome::Done)
}

fn write_files(dir: &Path, archive: &[u8]) -> std::io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(dir)?;
    unpack(archive).into_iter().try_for_each(|(name, content)| write(&dir.join(name), &content))
}

fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)
}

//! Reads crash dumps back, and packs one for somebody else.

use std::fs;
use std::io;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::base::limits;
use crate::os::files::read_bounded;

use super::dump::{ids, service_of};

/// One crash (rules.md, `crashes ls`).
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Crash {
    pub id: String,
    pub service: String,
    pub incarnation: u64,
    pub at: String,
    pub exit: CrashExit,
    pub category: String,
    pub path: String,
    pub bytes: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CrashExit {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub reason: String,
}

/// One crash with all that is known of it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CrashDetail {
    #[serde(flatten)]
    pub crash: Crash,
    /// `crash.json`.
    pub detail: Value,
    /// Last lines.
    pub stdout: Vec<String>,
    pub stderr: Vec<String>,
    /// `threads.json`, of one that its watchdog ended: what each thread did.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub threads: Value,
}

/// All of them, latest first. One that cannot be read is left out.
pub fn list(dir: &Path) -> Vec<Crash> {
    ids(dir).iter().rev().filter_map(|id| summary(dir, id).map(|(crash, _)| crash)).collect()
}

/// One, by its id; the name is checked, so that it leads nowhere else.
pub fn show(dir: &Path, id: &str) -> Option<CrashDetail> {
    service_of(id)?;
    let (crash, detail) = summary(dir, id)?;
    let lines = |name: &str| {
        let bytes = read_bounded(&dir.join(id).join(name), limits::CRASH_DUMP_BYTES).unwrap_or_default();
        String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect()
    };
    let threads =
        read_bounded(&dir.join(id).join("threads.json"), limits::CRASH_DUMP_BYTES).unwrap_or_default();
    let threads = serde_json::from_slice(&threads).unwrap_or_default();
    Some(CrashDetail { crash, detail, stdout: lines("stdout.log"), stderr: lines("stderr.log"), threads })
}

fn summary(dir: &Path, id: &str) -> Option<(Crash, Value)> {
    let path = dir.join(id);
    let text = read_bounded(&path.join("crash.json"), limits::CRASH_DUMP_BYTES).ok()?;
    let detail: Value = serde_json::from_slice(&text).ok()?;
    let word = |name: &str| detail[name].as_str().unwrap_or_default().to_owned();
    let crash = Crash {
        id: id.to_owned(),
        service: service_of(id)?.to_owned(),
        incarnation: detail["incarnation"].as_u64().unwrap_or_default(),
        at: word("at"),
        exit: serde_json::from_value(detail["exit"].clone()).unwrap_or_default(),
        category: word("category"),
        path: path.display().to_string(),
        bytes: files(&path).ok()?.iter().map(|(_, size)| size).sum(),
    };
    Some((crash, detail))
}

/// Regular files of a dump with their sizes, by name.
fn files(path: &Path) -> io::Result<Vec<(String, u64)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        if let Some(name) = entry.file_name().to_str().filter(|_| meta.is_file()) {
            found.push((name.to_owned(), meta.len()));
        }
    }
    found.sort();
    Ok(found)
}

/// The dump as a tar archive (POSIX.1-2001, pax: ustar headers), its files under a directory of its id.
///
/// # Errors
/// There is no such dump, or it cannot be read.
pub fn export(dir: &Path, id: &str) -> io::Result<Vec<u8>> {
    let missing = || io::Error::new(io::ErrorKind::NotFound, "there is no such crash");
    service_of(id).ok_or_else(missing)?;
    let path = dir.join(id);
    let mut archive = Vec::new();
    for (name, _) in files(&path)? {
        let content = read_bounded(&path.join(&name), limits::CRASH_DUMP_BYTES)?;
        archive.extend(tar_header(id, &name, content.len())?);
        archive.extend(&content);
        archive.resize(archive.len().next_multiple_of(BLOCK), 0);
    }
    archive.resize(archive.len() + 2 * BLOCK, 0);
    Ok(archive)
}

const BLOCK: usize = 512;

fn tar_header(dir: &str, name: &str, size: usize) -> io::Result<[u8; BLOCK]> {
    let mut header = [0; BLOCK];
    if name.len() > 100 || dir.len() > 155 {
        return Err(io::Error::other("a name is too long"));
    }
    header[..name.len()].copy_from_slice(name.as_bytes());
    let mut field = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    field(100, "0000600\0");
    field(108, "0000000\0");
    field(116, "0000000\0");
    field(124, &format!("{size:011o}\0"));
    field(136, "00000000000\0");
    field(345, dir);
    // The checksum is taken with itself as blanks.
    field(148, "        ");
    field(156, "0");
    field(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(header)
}

/// The files of an archive that [`export`] made, by the last part of their name.
pub fn unpack(archive: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(header) = archive.get(at..at + BLOCK).filter(|header| header[0] != 0) {
        let text = |range: std::ops::Range<usize>| {
            String::from_utf8_lossy(header[range].split(|byte| *byte == 0).next().unwrap_or_default())
                .into_owned()
        };
        let Ok(size) = usize::from_str_radix(text(124..136).trim(), 8) else { break };
        let Some(content) = archive.get(at + BLOCK..at + BLOCK + size) else { break };
        let name = text(0..100);
        let name = name.rsplit('/').next().unwrap_or_default();
        if !matches!(name, "" | "." | "..") {
            found.push((name.to_owned(), content.to_vec()));
        }
        at += BLOCK + size.next_multiple_of(BLOCK);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_exported_is_unpacked_again_and_nothing_else_is_reached() {
        let dir = tempfile::tempdir().unwrap();
        let id = "20260101T000000.007Z-api-5";
        fs::create_dir(dir.path().join(id)).unwrap();
        fs::write(dir.path().join(id).join("crash.json"), r#"{"incarnation": 5, "at": "t", "exit": {"code": 1, "signal": null, "reason": "ExitCode"}, "category": "oom"}"#).unwrap();
        fs::write(dir.path().join(id).join("stderr.log"), "x".repeat(1000)).unwrap();
        let found = list(dir.path());
        assert_eq!((found.len(), found[0].incarnation, found[0].exit.code), (1, 5, Some(1)));
        assert!(found[0].bytes > 1000);
        let archive = export(dir.path(), id).unwrap();
        assert_eq!(archive.len() % BLOCK, 0);
        let files = unpack(&archive);
        assert_eq!(
            files.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
            ["crash.json", "stderr.log"]
        );
        assert_eq!(files[1].1.len(), 1000);
        for bad in ["../x", "..", "", "20260101T000000.007Z-../..-5"] {
            assert!(show(dir.path(), bad).is_none() && export(dir.path(), bad).is_err(), "{bad}");
        }
    }
}

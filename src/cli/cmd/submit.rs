//! Reads what `-f` names, for the calls that send manifests.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::api::types::{Overlay, Submission};
use crate::base::limits;
use crate::manifest::tree;
use crate::os::files;
use crate::os::snapshot::snapshot;
use crate::store::StoredFile;

use super::super::Failure;
use super::super::client::Client;

/// Sends manifests; excerpts of what is wrong come from what was sent.
pub fn ask<T: DeserializeOwned>(client: &Client, call: &str, submission: &Submission) -> Result<T, Failure> {
    with_texts(client.ask(call, submission), submission)
}

/// The same of an order, which is given once.
pub fn post<T: DeserializeOwned>(client: &Client, call: &str, submission: &Submission) -> Result<T, Failure> {
    with_texts(client.post(call, submission), submission)
}

fn with_texts<T>(result: Result<T, Failure>, submission: &Submission) -> Result<T, Failure> {
    result.map_err(|failure| match failure {
        Failure::Invalid { message, diagnostics, conflict, .. } => {
            Failure::Invalid { message, diagnostics, sent: submission.files.clone(), conflict }
        }
        other => other,
    })
}

/// Kind, in small letters, and name of what these files declare.
pub fn declared(files: &[StoredFile]) -> Result<Vec<(String, String)>, Failure> {
    let mut declared = Vec::new();
    for file in files {
        let documents = tree::parse_to_values(&file.text).map_err(|why| {
            Failure::usage(format!("{}: {why}", file.path.display()), "`unisys validate -f PATH` says more")
        })?;
        declared.extend(documents.into_iter().map(|document| {
            let word = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
            (word(&document["kind"]).to_lowercase(), word(&document["metadata"]["name"]))
        }));
    }
    Ok(declared)
}

/// The same with overlays over it.
pub fn read_with(path: &Path, set: Option<&str>, overlays: &[PathBuf]) -> Result<Submission, Failure> {
    let mut submission = read(path, set)?;
    for overlay in overlays {
        let (path, files) = files_at(overlay)?;
        submission.overlays.push(Overlay { path, files });
    }
    Ok(submission)
}

/// The files of a directory (with its path, as they are the whole set), one file, or standard input.
pub fn read(path: &Path, set: Option<&str>) -> Result<Submission, Failure> {
    let mut submission = Submission { set: set.map(str::to_owned), ..Submission::default() };
    if path == Path::new("-") {
        let mut text = String::new();
        let result = std::io::stdin().take(limits::REQUEST_BYTES as u64).read_to_string(&mut text);
        result.map_err(|error| {
            Failure::usage(format!("cannot read standard input: {}", files::why(&error)), "")
        })?;
        // Relative paths count from where the caller is.
        let here = std::env::current_dir().unwrap_or_default();
        submission.files.push(StoredFile { path: here.join("stdin.yaml"), text });
        return Ok(submission);
    }
    let (absolute, files) = files_at(path)?;
    submission.files = files;
    if absolute.is_dir() {
        if submission.files.is_empty() {
            return Err(Failure::usage(
                format!("{} holds no manifests", path.display()),
                "manifests end in .yaml, .yml or .json",
            ));
        }
        submission.path = Some(absolute);
    }
    Ok(submission)
}

/// The files at a path, with the whole of it.
fn files_at(path: &Path) -> Result<(PathBuf, Vec<StoredFile>), Failure> {
    let fail = |error: std::io::Error| {
        Failure::usage(
            format!("cannot read {}: {}", path.display(), files::why(&error)),
            "name a directory, a file or -",
        )
    };
    let absolute = std::path::absolute(path).map_err(fail)?;
    let mut found = Vec::new();
    for file in snapshot(&absolute).map_err(fail)?.files {
        let bytes = file
            .content
            .map_err(|why| Failure::usage(format!("cannot read {}: {why}", file.path.display()), ""))?;
        found.push(StoredFile { path: file.path, text: String::from_utf8_lossy(&bytes).into_owned() });
    }
    Ok((absolute, found))
}

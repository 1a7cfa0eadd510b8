use std::path::{Path, PathBuf};

use serde_json::json;

use super::super::args::{Delete, Global};
use super::super::client::Client;
use super::super::{Failure, Outcome};
use super::submit;
use crate::api::types::Done;

/// `unisys delete`: takes away what `apply` made.
pub fn run(global: &Global, args: &Delete) -> Result<Outcome, Failure> {
    let mut objects = args.objects.clone();
    let mut dir = None;
    // What a directory declared is known to the daemon, should the directory be there no more.
    let missing = |path: &&PathBuf| {
        let found = std::fs::symlink_metadata(path);
        found.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) && *path != Path::new("-")
    };
    if let Some(path) = args.file.as_ref().filter(missing) {
        dir = std::path::absolute(path).ok();
    } else if let Some(path) = &args.file {
        let read = submit::read(path, None)?;
        dir = read.path;
        let declared = submit::declared(&read.files)?;
        objects.extend(declared.into_iter().map(|(kind, name)| format!("{kind}/{name}")));
    }
    // What a file declares may be gone in part: it is to be gone.
    let deletion = json!({"objects": objects, "ignoreMissing": args.file.is_some(), "path": dir});
    let done: Done = Client::connect(global)?.post("/v1/delete", &deletion)?;
    super::say_notes(&done.notes, false);
    super::say_done(global, &done, None)?;
    Ok(Outcome::Done)
}

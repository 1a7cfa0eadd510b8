//! Manifests that lie elsewhere than those of the set that they are for, compared with it: a checkout beside what runs.
//!
//! They are looked at as if they lay where the set is read from, so that a relative path is no difference. The files that they refer
//! to are those there: what a checkout has of them (another `.env`, nothing built yet) says nothing about what runs.

use std::path::{Path, PathBuf};

use crate::engine::{Engine, sets};
use crate::manifest::Diagnostic;

use super::manifests::files_of_a_set;
use super::types::Submission;

/// Where such manifests lie, and where they are taken to lie.
pub(super) struct Elsewhere {
    set: String,
    there: PathBuf,
    /// Each file, there and here.
    files: Vec<(String, String)>,
}

impl Elsewhere {
    /// What is compared with what, for people.
    pub(super) fn note(&self) -> String {
        let there = self.there.display();
        format!(
            "taken as the content of the set `{}`, which is read from {there}; files that the manifests refer to are those there",
            self.set
        )
    }

    /// What is wrong is told of the files that were handed in.
    pub(super) fn told_here(&self, diagnostics: &mut [Diagnostic]) {
        let root = self.there.display().to_string();
        for diagnostic in diagnostics {
            if let Some((_, here)) = self.files.iter().find(|(there, _)| *there == diagnostic.file) {
                diagnostic.file.clone_from(here);
            }
            if diagnostic.message.contains(&root) {
                for (there, here) in &self.files {
                    diagnostic.message = diagnostic.message.replace(there, here);
                }
            }
        }
    }
}

/// A submission as if it lay where its set is read from; nothing where it does, or where no set is read from anywhere. A directory
/// stands for a directory, a file for a set of one file.
pub(super) fn as_there(engine: &Engine, submission: &Submission) -> Option<(Submission, Elsewhere)> {
    if files_of_a_set(engine, submission).is_ok_and(|found| found.is_some()) {
        return None;
    }
    let here = match (&submission.path, &submission.files[..]) {
        (Some(path), _) => path.clone(),
        (None, [file]) => file.path.clone(),
        (None, _) => return None,
    };
    let name = submission.set.clone().unwrap_or_else(|| sets::set_name(&here));
    let set = engine.sets.get(&name)?;
    let there = set.path.clone().filter(|there| *there != here)?;
    if set.is_of_one_file() != submission.path.is_none() {
        return None;
    }
    let mut moved = submission.clone();
    moved.set = Some(name.clone());
    moved.path = Some(there.clone());
    let mut files = Vec::new();
    for file in &mut moved.files {
        let path = rebased(&file.path, &here, &there);
        files.push((path.display().to_string(), file.path.display().to_string()));
        file.path = path;
    }
    for overlay in &mut moved.overlays {
        let same_name = |known: &&PathBuf| known.file_name() == overlay.path.file_name();
        let Some(known) = set.overlays.iter().find(same_name) else { continue };
        for file in &mut overlay.files {
            let path = rebased(&file.path, &overlay.path, known);
            files.push((path.display().to_string(), file.path.display().to_string()));
            file.path = path;
        }
        overlay.path.clone_from(known);
    }
    Some((moved, Elsewhere { set: name, there, files }))
}

fn rebased(path: &Path, from: &Path, to: &Path) -> PathBuf {
    match path.strip_prefix(from) {
        Ok(rest) if rest.as_os_str().is_empty() => to.to_owned(),
        Ok(rest) => to.join(rest),
        Err(_) => path.to_owned(),
    }
}

//! What this machine lacks for a Notifier: nobody would be told.

use std::path::{Path, PathBuf};

use crate::manifest::diagnostic::Diagnostic;
use crate::manifest::load::Source;
use crate::manifest::resolve::Context;
use crate::manifest::spec::NotifierSpec;

use super::commands::find;
use super::{FileKind, Machine};

/// The program of one that executes a command, the file of one that writes lines.
pub fn notifier_faults(
    spec: &NotifierSpec,
    source: &Source,
    context: &Context<'_>,
    machine: &dyn Machine,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let mut tell = |path: &str, code: &str, why: String, hint: &str| {
        let message = format!("{} tells nobody: {why}", source.object);
        diagnostics.push(Diagnostic::error(code, &source.span(path), path, message).hint(hint));
    };
    if let Some(program) = spec.exec.as_ref().and_then(|exec| exec.command.first()) {
        // It is executed as unisys itself is.
        let path = context.environment.get("PATH").map_or("", String::as_str);
        if let Err(fault) = find(program, &source.base_dir, path, machine) {
            let (code, hint) = fault.told(program);
            tell("spec.exec.command.0", code, fault.to_string(), hint);
        }
    }
    if let Some(file) = &spec.file {
        let path: PathBuf = source.base_dir.join(&file.path).components().collect();
        if let Some((why, hint)) = cannot_append(&path, machine) {
            tell("spec.file.path", "E2016", why, hint);
        }
    }
}

/// Why no line can be added to a file, which need not be there yet.
fn cannot_append(path: &Path, machine: &dyn Machine) -> Option<(String, &'static str)> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    let shown = path.display();
    match machine.file(path) {
        FileKind::Directory => return Some((format!("{shown} is a directory"), "name a file in it")),
        FileKind::Missing if machine.file(dir) != FileKind::Directory => {
            let why = format!("the directory {} does not exist", dir.display());
            return Some((why, "create it, or correct the path"));
        }
        FileKind::Missing if !machine.may_write(dir) => {
            let why = format!("unisys may not create a file in {}", dir.display());
            return Some((why, "let the user of unisys write there, or name another file"));
        }
        FileKind::Missing => return None,
        FileKind::Executable | FileKind::NotExecutable => {}
    }
    let unwritable =
        || (format!("unisys may not write {shown}"), "let its user write it, or name another file");
    (!machine.may_write(path)).then(unwritable)
}

//! The programs that a unit executes: its own, and those of its hooks, probes, stop and reload.

use std::path::{Path, PathBuf};

use crate::manifest::diagnostic::Diagnostic;
use crate::manifest::load::Source;
use crate::manifest::spec::ServiceSpec;
use crate::manifest::spec::probe::ProbeAction;
use crate::plan::launch::Launch;

use super::{FileKind, Machine, working_dir};

/// execvp(3)'s default search path, for an environment without PATH.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Why a program cannot be executed: what was found instead of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProgramFault {
    #[error("{0}")]
    Missing(String),
    #[error("{0}")]
    NotExecutable(String),
    #[error("{0}")]
    Directory(String),
}

/// Where the program of a launch is found; `Err` says where it was looked for.
pub fn find_program(launch: &Launch, machine: &dyn Machine) -> Result<PathBuf, ProgramFault> {
    find_in(&launch.argv, launch, machine)
}

/// The same for any command in the unit's environment: a hook, an exec probe.
pub fn find_in(argv: &[String], launch: &Launch, machine: &dyn Machine) -> Result<PathBuf, ProgramFault> {
    let program = argv.first().map(String::as_str).unwrap_or_default();
    let path =
        launch.env.iter().find(|var| var.name == "PATH").map_or(DEFAULT_PATH, |var| var.value.as_str());
    find(program, &working_dir(launch), path, machine)
}

/// The same in a directory, with a PATH.
pub fn find(program: &str, dir: &Path, path: &str, machine: &dyn Machine) -> Result<PathBuf, ProgramFault> {
    if program.contains('/') {
        let path: PathBuf = dir.join(program).components().collect();
        let shown = path.display();
        return match machine.file(&path) {
            FileKind::Missing => Err(ProgramFault::Missing(format!("{shown} does not exist"))),
            FileKind::Directory => Err(ProgramFault::Directory(format!("{shown} is a directory"))),
            FileKind::NotExecutable => Err(ProgramFault::NotExecutable(format!("{shown} is not executable"))),
            FileKind::Executable => Ok(path),
        };
    }
    let mut not_executable = None;
    for dir_in_path in path.split(':').filter(|part| !part.is_empty()) {
        let candidate = dir.join(dir_in_path).join(program);
        match machine.file(&candidate) {
            FileKind::Executable => return Ok(candidate),
            FileKind::NotExecutable => not_executable = Some(candidate),
            FileKind::Missing | FileKind::Directory => {}
        }
    }
    Err(match not_executable {
        Some(found) => ProgramFault::NotExecutable(format!("{} is not executable", found.display())),
        None => ProgramFault::Missing(format!("`{program}` is in no directory of PATH ({path})")),
    })
}

impl ProgramFault {
    /// Its code, and what to do about it.
    pub fn told(&self, program: &str) -> (&'static str, &'static str) {
        match self {
            Self::Missing(_) => {
                let install = INSTALL.iter().find(|(name, _)| *name == program).map(|(_, how)| *how);
                ("E2001", install.unwrap_or("install it, or correct the name"))
            }
            Self::NotExecutable(_) => ("E2002", "make it executable (`chmod +x`)"),
            Self::Directory(_) => ("E2002", "name the program in it that is meant"),
        }
    }
}

/// Programs that many systems need, with what installs them.
const INSTALL: [(&str, &str); 6] = [
    ("node", "install Node.js: https://nodejs.org, or `apt install nodejs`"),
    ("python3", "install Python 3: https://python.org, or `apt install python3`"),
    ("python", "install Python: `apt install python3`, and write `python3`"),
    ("java", "install a Java runtime: `apt install default-jre`"),
    ("nginx", "install nginx: `apt install nginx`"),
    ("redis-server", "install Redis: `apt install redis-server`"),
];

/// A command that a unit executes.
struct Command<'a> {
    /// `spec.command`.
    path: String,
    argv: &'a [String],
    /// Nothing starts without it.
    starts: bool,
    /// What of the unit it is.
    what: &'static str,
}

/// All of a unit's. What comes after a preStart hook or a dependency may be made by that, and the rest is missed later, or never.
fn commands(launch: &Launch) -> Vec<Command<'_>> {
    let spec: &ServiceSpec = &launch.service;
    let mut found =
        vec![Command { path: "spec.command".into(), argv: &launch.argv, starts: true, what: "program" }];
    let mut add = |path: String, argv, starts, what| found.push(Command { path, argv, starts, what });
    for (index, hook) in spec.hooks.pre_start.iter().enumerate() {
        let starts = index == 0 && spec.depends_on.is_empty();
        add(format!("spec.hooks.preStart.{index}.command"), &hook.command, starts, "preStart hook");
    }
    let probes = [
        ("startup", &spec.probes.startup, "startup probe"),
        ("readiness", &spec.probes.readiness, "readiness probe"),
        ("liveness", &spec.probes.liveness, "liveness probe"),
    ];
    for (name, probe, what) in probes {
        if let Some(ProbeAction::Exec(exec)) = probe.as_deref().and_then(|probe| probe.action()) {
            add(format!("spec.probes.{name}.exec.command"), &exec.command, false, what);
        }
    }
    if let Some(command) = spec.reload.as_ref().and_then(|reload| reload.command.as_ref()) {
        add("spec.reload.command".into(), command, false, "reload command");
    }
    add("spec.stop.command".into(), &spec.stop.command, false, "stop command");
    for (index, hook) in spec.hooks.post_stop.iter().enumerate() {
        add(format!("spec.hooks.postStop.{index}.command"), &hook.command, false, "postStop hook");
    }
    found.retain(|command| !command.argv.is_empty());
    found
}

/// Of something that is not run: the program that its probe executes.
pub fn probe_faults(
    launch: &Launch,
    source: &Source,
    machine: &dyn Machine,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let probes = commands(launch).into_iter().filter(|command| command.path.starts_with("spec.probes"));
    tell(probes, launch, source, machine, diagnostics);
}

/// Those that are not here. Without its working directory, where relative ones would be is not known.
pub(super) fn faults(
    launch: &Launch,
    source: &Source,
    machine: &dyn Machine,
    diagnostics: &mut Vec<Diagnostic>,
) {
    tell(commands(launch), launch, source, machine, diagnostics);
}

fn tell<'a>(
    commands: impl IntoIterator<Item = Command<'a>>,
    launch: &Launch,
    source: &Source,
    machine: &dyn Machine,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let dir_is_there = machine.file(&working_dir(launch)) == FileKind::Directory;
    for command in commands {
        let program = command.argv[0].as_str();
        let relative = program.contains('/') && !program.starts_with('/');
        if relative && !dir_is_there {
            continue;
        }
        let Err(fault) = find_in(command.argv, launch, machine) else { continue };
        let (code, hint) = fault.told(program);
        let path = format!("{}.0", command.path);
        let (what, object) = (command.what, &source.object);
        let message = match (command.starts, what) {
            (true, "program") => format!("cannot start {object}: {fault}"),
            (true, _) => format!("cannot start {object}: its {what}: {fault}"),
            (false, _) => format!("cannot execute the {what} of {object}: {fault}"),
        };
        let found = Diagnostic::error(code, &source.span(&path), path, message).hint(hint);
        diagnostics.push(if command.starts { found } else { found.warning() });
    }
}

//! What this machine lacks for a unit (E2xxx): asked of a [`Machine`], decided here.

mod ports;

use core::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::base::PathAccess;
use crate::base::ports::Place;
use crate::manifest::capabilities;
use crate::manifest::diagnostic::Diagnostic;
use crate::manifest::load::Source;

use super::launch::Launch;
use ports::{port_fault, socket_fault, taken_socket};

pub use ports::{Sockets, fixed_places, port_held, sockets};

/// What a machine can be asked. Implemented with real syscalls elsewhere, and by a table in tests.
pub trait Machine {
    /// What a path is.
    fn file(&self, path: &Path) -> FileKind;
    fn user_exists(&self, user: &str) -> bool;
    fn group_exists(&self, group: &str) -> bool;
    /// unisys may become other users.
    fn is_root(&self) -> bool;
    /// The foreign process that listens on a TCP port where it would be in the way there, and its address: `pid 412 (nginx)`.
    fn port_holder(&self, place: &Place) -> Option<(IpAddr, String)>;
    /// The lowest port that unisys may bind.
    fn first_allowed_port(&self) -> u16;
    /// An IP address is one of this machine.
    fn has_address(&self, address: &str) -> bool;
    /// A path without links, as far as it exists.
    fn resolved(&self, path: &Path) -> PathBuf;
    /// A path is a socket.
    fn is_socket(&self, path: &Path) -> bool;
    /// Capabilities that unisys has (capabilities(7), permitted), one bit each.
    fn capabilities(&self) -> u64;
    /// A program can be given mounts of its own; `Err` says why not.
    fn mount_namespace(&self) -> Result<(), String>;
    /// The cgroup controllers that limits can be set with, and why there are not all of them.
    fn controllers(&self) -> (Vec<String>, String);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    Missing,
    Directory,
    Executable,
    NotExecutable,
}

/// Where the program of a launch is found; `Err` says where it was looked for.
pub fn find_program(launch: &Launch, machine: &dyn Machine) -> Result<PathBuf, ProgramFault> {
    find_in(&launch.argv, launch, machine)
}

/// The same for any command in the unit's environment: a hook, an exec probe.
pub fn find_in(argv: &[String], launch: &Launch, machine: &dyn Machine) -> Result<PathBuf, ProgramFault> {
    let program = argv.first().map(String::as_str).unwrap_or_default();
    let dir = working_dir(launch);
    if program.contains('/') {
        let path: PathBuf = dir.join(program).components().collect();
        return match machine.file(&path) {
            FileKind::Executable => Ok(path),
            FileKind::Missing => Err(ProgramFault::Missing(format!("{} does not exist", path.display()))),
            FileKind::Directory => {
                Err(ProgramFault::NotExecutable(format!("{} is a directory", path.display())))
            }
            FileKind::NotExecutable => {
                Err(ProgramFault::NotExecutable(format!("{} is not executable", path.display())))
            }
        };
    }
    let path =
        launch.env.iter().find(|var| var.name == "PATH").map_or(DEFAULT_PATH, |var| var.value.as_str());
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

/// execvp(3)'s default search path, for an environment without PATH.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProgramFault {
    #[error("{0}")]
    Missing(String),
    #[error("{0}")]
    NotExecutable(String),
}

/// The working directory of a unit.
pub fn working_dir(launch: &Launch) -> PathBuf {
    launch.base_dir.join(&launch.service.working_dir).components().collect()
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

/// Everything that this machine lacks for a unit.
pub fn machine_faults(
    launch: &Launch,
    source: &Source,
    machine: &dyn Machine,
    sockets: &Sockets,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let spec = &launch.service;
    let dir = working_dir(launch);
    if machine.file(&dir) != FileKind::Directory {
        let path = "spec.workingDir";
        let message = format!("the working directory {} does not exist", dir.display());
        diagnostics.push(
            Diagnostic::error("E2003", &source.span(path), path, message)
                .hint("create it, or correct the path"),
        );
        return;
    }
    if let Err(fault) = find_program(launch, machine) {
        let path = "spec.command.0";
        let program = launch.argv.first().map(String::as_str).unwrap_or_default();
        let (code, hint) = match &fault {
            ProgramFault::Missing(_) => {
                let install = INSTALL.iter().find(|(name, _)| *name == program).map(|(_, how)| *how);
                ("E2001", install.unwrap_or("install it, or correct the name").to_owned())
            }
            ProgramFault::NotExecutable(_) => ("E2002", "make it executable (`chmod +x`)".to_owned()),
        };
        let message = format!("cannot start {}: {fault}", source.object);
        diagnostics.push(Diagnostic::error(code, &source.span(path), path, message).hint(hint));
    }
    users(launch, source, machine, diagnostics);
    limits_fault(launch, source, machine, diagnostics);
    security_faults(launch, source, machine, diagnostics);
    for (index, port) in spec.ports.iter().enumerate() {
        let found = match port.protocol.is_unix() {
            true => {
                let taken = taken_socket(port, launch, source, machine, sockets);
                taken.or_else(|| socket_fault(port, launch, machine))
            }
            false => port_fault(port, machine),
        };
        if let Some((field, code, why, hint)) = found {
            let path = format!("spec.ports.{index}.{field}");
            let message = format!("cannot start {}: {why}", source.object);
            diagnostics.push(Diagnostic::error(code, &source.span(&path), path, message).hint(hint));
        }
    }
}

/// Limits that nothing on this machine enforces: the unit runs without them, and it is said.
fn limits_fault(launch: &Launch, source: &Source, machine: &dyn Machine, diagnostics: &mut Vec<Diagnostic>) {
    let resources = &launch.service.resources;
    let asked = [
        (resources.memory != Default::default(), "memory"),
        (resources.cpu != Default::default(), "cpu"),
        (resources.pids != Default::default(), "pids"),
    ];
    if asked.iter().all(|(asked, _)| !asked) {
        return;
    }
    let (has, lacking) = machine.controllers();
    let without = asked.iter().filter(|(asked, name)| *asked && !has.iter().any(|has| has == name));
    let without: Vec<&str> = without.map(|(_, name)| *name).collect();
    if let Some(first) = without.first() {
        let path = format!("spec.resources.{first}");
        let message =
            format!("{} runs without its limit of {}: {lacking}", source.object, without.join(", "));
        let diagnostic = Diagnostic::error("E2013", &source.span(&path), path, message).warning();
        diagnostics.push(diagnostic.hint(
            "start unisys where it is given a cgroup v2 subtree (`systemd-run --user --scope -p Delegate=yes unisys up`; in a unit: `Delegate=yes`)",
        ));
    }
}

/// Security settings that cannot be enforced here: the unit is not started, or with `bestEffort` runs without them.
fn security_faults(
    launch: &Launch,
    source: &Source,
    machine: &dyn Machine,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let sandbox = capabilities::sandbox(&launch.service.security, &launch.base_dir);
    let Some(sandbox) = sandbox else { return };
    let mut tell = |field: &str, why: String, hint: &str| {
        let path = format!("spec.security.{field}");
        let verb = if sandbox.best_effort { "runs without" } else { "is not started without" };
        let message = format!("{} {verb} `{field}`: {why}", source.object);
        let diagnostic = Diagnostic::error("E2014", &source.span(&path), path, message).hint(hint);
        diagnostics.push(if sandbox.best_effort { diagnostic.warning() } else { diagnostic });
    };
    let lacking = sandbox.ambient & !machine.capabilities();
    if lacking != 0 {
        let names = capabilities::names(lacking).join(", ");
        tell(
            "capabilities",
            format!("unisys itself does not have {names}"),
            "run unisys as root, or with them",
        );
    }
    if sandbox.has_namespace()
        && let Err(why) = machine.mount_namespace()
    {
        let field = sandbox.paths.first().map_or("privateTmp", |(_, access)| field_of(*access));
        return tell(field, why, "run unisys as root, or allow user namespaces (user_namespaces(7))");
    }
    for (path, access) in &sandbox.paths {
        if machine.file(Path::new(path)) == FileKind::Missing {
            tell(field_of(*access), format!("{path} does not exist"), "create it, or correct the path");
        }
    }
    let program = find_program(launch, machine).unwrap_or_default();
    let hidden = |path: &Path| path.starts_with("/tmp") || path.starts_with("/var/tmp");
    if sandbox.private_tmp && (hidden(&working_dir(launch)) || hidden(&program)) {
        let why = "the program or its working directory lies in /tmp, which it would not see".to_owned();
        tell("privateTmp", why, "put it elsewhere");
    }
}

fn field_of(access: PathAccess) -> &'static str {
    match access {
        PathAccess::ReadOnly => "readOnlyPaths",
        PathAccess::ReadWrite => "readWritePaths",
        PathAccess::None => "inaccessiblePaths",
    }
}

fn users(launch: &Launch, source: &Source, machine: &dyn Machine, diagnostics: &mut Vec<Diagnostic>) {
    let spec = &launch.service;
    let mut fault = |path: &str, message: String, hint: &str| {
        diagnostics.push(Diagnostic::error("E2006", &source.span(path), path, message).hint(hint));
    };
    if let Some(user) = &spec.user {
        if !machine.user_exists(user) {
            fault(
                "spec.user",
                format!("there is no user `{user}` on this machine"),
                "create it, or correct the name",
            );
        } else if !machine.is_root() {
            fault(
                "spec.user",
                format!("unisys is not root and cannot run {} as `{user}`", source.object),
                "remove `user`, or run unisys as root",
            );
        }
    }
    for group in spec.group.iter().chain(&spec.supplementary_groups) {
        if !machine.group_exists(group) {
            fault(
                "spec.group",
                format!("there is no group `{group}` on this machine"),
                "create it, or correct the name",
            );
        }
    }
}

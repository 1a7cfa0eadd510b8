//! What this machine lacks for a unit (E2xxx): asked of a [`Machine`], decided here.

mod commands;
mod notifiers;
mod ports;

use core::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::base::PathAccess;
use crate::base::ports::Place;
use crate::manifest::capabilities;
use crate::manifest::diagnostic::Diagnostic;
use crate::manifest::load::Source;

use super::launch::Launch;
use ports::{port_faults, socket_fault, taken_socket};

pub use commands::{ProgramFault, find_in, find_program, probe_faults};
pub use notifiers::notifier_faults;
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
    /// A limit can be set for a program; `Err` says why not.
    fn allows(&self, limit: Limit) -> Result<(), String>;
    /// unisys may write a file, or create one in a directory.
    fn may_write(&self, path: &Path) -> bool;
}

/// A limit that takes a right to set, beyond a certain value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Limit {
    /// setpriority(2).
    Nice(i32),
    /// proc_pid_oom_score_adj(5).
    OomScore(i32),
    /// Soft and hard limit of open files (setrlimit(2)).
    OpenFiles(u64),
}

impl Limit {
    fn value(self) -> i128 {
        match self {
            Self::Nice(value) | Self::OomScore(value) => value.into(),
            Self::OpenFiles(value) => value.into(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    Missing,
    Directory,
    Executable,
    NotExecutable,
}

/// The working directory of a unit.
pub fn working_dir(launch: &Launch) -> PathBuf {
    launch.base_dir.join(&launch.service.working_dir).components().collect()
}

/// Everything that this machine lacks for a unit.
pub fn machine_faults(
    launch: &Launch,
    source: &Source,
    machine: &dyn Machine,
    sockets: &Sockets,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let dir = working_dir(launch);
    let missing = match machine.file(&dir) {
        FileKind::Directory => None,
        FileKind::Missing => Some("does not exist"),
        FileKind::Executable | FileKind::NotExecutable => Some("is not a directory"),
    };
    if let Some(why) = missing {
        let path = "spec.workingDir";
        let message = format!("the working directory {} {why}", dir.display());
        diagnostics.push(
            Diagnostic::error("E2003", &source.span(path), path, message)
                .hint("create it, or correct the path"),
        );
    }
    commands::faults(launch, source, machine, diagnostics);
    users(launch, source, machine, diagnostics);
    limits_fault(launch, source, machine, diagnostics);
    refused_limits(launch, source, machine, diagnostics);
    security_faults(launch, source, machine, diagnostics);
    for (index, port) in launch.service.ports.iter().enumerate() {
        let found = match port.protocol.is_unix() {
            true => {
                let taken = taken_socket(port, launch, source, machine, sockets);
                taken.or_else(|| socket_fault(port, launch, machine)).into_iter().collect()
            }
            false => port_faults(port, machine),
        };
        for (field, code, why, hint) in found {
            let path = format!("spec.ports.{index}.{field}");
            let message = format!("cannot start {}: {why}", source.object);
            diagnostics.push(Diagnostic::error(code, &source.span(&path), path, message).hint(hint));
        }
    }
}

/// Limits that the kernel lets nobody set who is no more than this unisys.
fn refused_limits(
    launch: &Launch,
    source: &Source,
    machine: &dyn Machine,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let resources = &launch.service.resources;
    let asked = [
        ("nice", resources.nice.map(Limit::Nice)),
        ("oomScoreAdjust", resources.oom_score_adjust.map(Limit::OomScore)),
        ("nofile", resources.nofile.map(Limit::OpenFiles)),
    ];
    for (field, limit) in asked {
        let Some((limit, Err(why))) = limit.map(|limit| (limit, machine.allows(limit))) else { continue };
        let path = format!("spec.resources.{field}");
        let message = format!("cannot start {}: `{field}` cannot be {}: {why}", source.object, limit.value());
        let hint = match limit {
            Limit::Nice(_) => {
                "run unisys as root, or raise its limit (`ulimit -e`; in a unit: `LimitNICE=`), or ask for more"
            }
            Limit::OomScore(_) => "run unisys as root (CAP_SYS_RESOURCE), or ask for more",
            Limit::OpenFiles(_) => {
                "raise the hard limit of unisys (`ulimit -Hn`; in a unit: `LimitNOFILE=`), or ask for less"
            }
        };
        diagnostics.push(Diagnostic::error("E2015", &source.span(&path), path, message).hint(hint));
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
        tell(field, why, "run unisys as root, or allow user namespaces (user_namespaces(7))");
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

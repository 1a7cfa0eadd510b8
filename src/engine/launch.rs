//! A spec as a request to the keeper.

use std::time::Duration;

use crate::base::{InstanceId, Part, PortNumbers};
use crate::keeper::protocol::{Notify, Spawn};
use crate::manifest::capabilities;
use crate::manifest::spec::NotifyWay;
use crate::manifest::spec::service::ServiceSpec;
use crate::os::files::ThisMachine;
use crate::os::{clock, identity};
use crate::plan::machine::{find_in, working_dir};
use crate::plan::ports::{main_port, needs};
use crate::plan::{Launch, UnitSpec};

use super::StartedWith;

/// Why a request cannot be made: the errno and words of a failed exec.
pub struct Unlaunchable {
    pub errno: i32,
    pub detail: String,
}

/// The request that starts one part of an instance.
pub fn request(
    id: &InstanceId,
    part: Part,
    spec: &UnitSpec,
    generation: crate::base::Generation,
    epoch: crate::base::Epoch,
) -> Result<Box<Spawn>, Unlaunchable> {
    let service = &spec.launch.service;
    let argv = match part {
        Part::Main => &spec.launch.argv,
        Part::PreStart(hook) => &service.hooks.pre_start[usize::from(hook)].command,
        Part::PostStop(hook) => &service.hooks.post_stop[usize::from(hook)].command,
        Part::StopCommand => &service.stop.command,
    };
    let mut request = command(id, argv, spec)?;
    request.epoch = epoch;
    request.part = part;
    request.generation = generation;
    request.notify = notify(service);
    if let (Part::Main, Some(within)) = (part, heartbeat(service)) {
        request.watchdog = true;
        request.env.retain(|(name, _)| name != WATCHDOG_USEC && name != "WATCHDOG_PID");
        request.env.push((WATCHDOG_USEC.into(), within.as_micros().to_string()));
    }
    request.ports = needs(&id.unit, &spec.launch);
    request.main_port = main_port(service);
    request.spec = StartedWith::encode(spec);
    request.secrets = spec.launch.secrets().map(|var| var.name.clone()).collect();
    Ok(request)
}

/// Any command in the unit's environment, as its user, in its directory.
pub fn command(id: &InstanceId, argv: &[String], spec: &UnitSpec) -> Result<Box<Spawn>, Unlaunchable> {
    let launch = &spec.launch;
    let service = &launch.service;
    let path = find_in(argv, launch, &ThisMachine::default())
        .map_err(|fault| Unlaunchable { errno: libc::ENOENT, detail: fault.to_string() })?;
    let account = account(service)?;
    let user = ids(service, account.as_ref())?;
    let command = Spawn::command(id.clone(), &path, argv, &working_dir(launch));
    Ok(Box::new(Spawn {
        env: environment(launch, account.as_ref()),
        user,
        umask: service.file_mask(),
        nofile: service.resources.nofile,
        nice: service.resources.nice,
        oom_score_adjust: service.resources.oom_score_adjust,
        no_new_privileges: service.security.no_new_privileges,
        cgroup_limits: service.resources.cgroup(),
        sandbox: capabilities::sandbox(&service.security, &launch.base_dir).map(Box::new),
        wall: clock::wall(),
        ..command
    }))
}

/// The environment of a unit's commands, with what tells them whom they run as.
pub fn environment(launch: &Launch, account: Option<&identity::User>) -> Vec<(String, String)> {
    launch.environment(&account.map(identity::User::variables).unwrap_or_default())
}

fn missing(what: &str, name: &str) -> Unlaunchable {
    Unlaunchable { errno: libc::ENOENT, detail: format!("there is no {what} `{name}` on this machine") }
}

/// Whom a service runs as, if not as unisys.
pub fn account(service: &ServiceSpec) -> Result<Option<identity::User>, Unlaunchable> {
    let Some(name) = &service.user else { return Ok(None) };
    identity::user(name).ok_or_else(|| missing("user", name)).map(Some)
}

/// The same as user, group, and supplementary groups.
pub fn ids(
    service: &ServiceSpec,
    account: Option<&identity::User>,
) -> Result<Option<(u32, u32, Vec<u32>)>, Unlaunchable> {
    let Some(user) = account else { return Ok(None) };
    let group = |name: &String| identity::group(name).ok_or_else(|| missing("group", name));
    let gid = service.group.as_ref().map_or(Ok(user.gid), group)?;
    let more: Vec<u32> = service.supplementary_groups.iter().map(group).collect::<Result<_, _>>()?;
    Ok(Some((user.uid, gid, [user.groups.clone(), more].concat())))
}

/// A command that runs beside the instance knows its numbers: PORT and PORT_<NAME>, as the program itself does.
pub fn fill(command: &mut Spawn, ports: &PortNumbers, service: &ServiceSpec) {
    let main = main_port(service);
    for word in command.argv.iter_mut().chain(command.env.iter_mut().map(|(_, value)| value)) {
        *word = ports.fill(word, main.as_ref());
    }
    for (name, number) in ports.variables(main.as_ref()) {
        if !command.env.iter().any(|(known, _)| *known == name) {
            command.env.push((name, number.to_string()));
        }
    }
}

/// sd_watchdog_enabled(3).
const WATCHDOG_USEC: &str = "WATCHDOG_USEC";

fn heartbeat(service: &ServiceSpec) -> Option<Duration> {
    service.watchdog.as_ref()?.heartbeat.map(|within| within.0)
}

fn notify(service: &ServiceSpec) -> Notify {
    let ways = [&service.probes.startup, &service.probes.readiness];
    let mut ways = ways.into_iter().filter_map(|probe| probe.as_deref()?.notify);
    match ways.next() {
        None if service.reload.as_ref().is_some_and(|reload| reload.notify == Some(true)) => Notify::Socket,
        None if heartbeat(service).is_some() => Notify::Socket,
        None => Notify::No,
        Some(NotifyWay::Systemd) => Notify::Socket,
        Some(NotifyWay::Fd(number)) => Notify::Descriptor(number),
    }
}

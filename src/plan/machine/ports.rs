//! What is in the way of a unit's ports.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::base::ports::Place;
use crate::base::{ObjectRef, limits};
use crate::manifest::Objects;
use crate::manifest::load::Source;
use crate::manifest::spec::service::{Port, PortNumber, Protocol};
use crate::plan::UnitSpec;
use crate::plan::launch::Launch;
use crate::plan::ports::socket_path;

use super::{FileKind, Machine};

/// Files of unix sockets, and which unit has each: of several, the first by name.
pub type Sockets = BTreeMap<PathBuf, ObjectRef>;

/// Two spellings of a path may come to one file by links: the manifests alone do not say so (E1501).
pub fn sockets(objects: &Objects, machine: &dyn Machine) -> Sockets {
    let mut sockets = Sockets::new();
    for object in objects.services.values() {
        for port in object.spec.ports.iter().filter(|port| port.protocol.is_unix()) {
            let file = machine.resolved(&object.source.base_dir.join(&port.address));
            sockets.entry(file).or_insert_with(|| object.source.object.clone());
        }
    }
    sockets
}

/// Field, code, reason and cure of what is in a port's way.
pub(super) type PortFault = (&'static str, &'static str, String, &'static str);

/// The code of a port that somebody else holds.
const PORT_HELD: &str = "E2005";

/// A port of a unit is held by somebody else: in the words in which it waits for that.
pub fn port_held(spec: &UnitSpec, port: &Port, machine: &dyn Machine) -> Option<String> {
    let (_, code, why, _) =
        port_faults(port, machine).into_iter().find(|(_, code, ..)| *code == PORT_HELD)?;
    Some(format!("cannot start {}: {why} [{code}]", spec.object))
}

pub(super) fn port_faults(port: &Port, machine: &dyn Machine) -> Vec<PortFault> {
    let number = if let PortNumber::Number(number) = port.port { number } else { 0 };
    let mut found = Vec::new();
    if port.listen && number != 0 && number < machine.first_allowed_port() {
        let why = format!("port {number} is privileged and unisys is not root");
        let hint = "choose a port from 1024 on, or run unisys as root or with CAP_NET_BIND_SERVICE";
        found.push(("port", "E2011", why, hint));
    }
    if port.listen && !machine.has_address(port.ip_text()) {
        let why = format!("this machine does not have the address {}", port.address);
        found.push(("address", "E2012", why, "use an address that `ip address` shows, or `*` for all"));
    }
    let place = port.place().filter(|_| port.protocol == Protocol::Tcp && number != 0);
    if let Some((place, (at, holder))) = place.and_then(|place| Some((place, machine.port_holder(&place)?))) {
        let where_else = if at == place.0 { String::new() } else { format!(" on {at}") };
        let why = format!("port {number} is held by {holder}{where_else}");
        let hint = "stop that process (a unit of another system: `unisys --state-dir DIR stop NAME`), or choose another port or address";
        found.push(("port", PORT_HELD, why, hint));
    }
    found
}

pub(super) fn taken_socket(
    port: &Port,
    launch: &Launch,
    source: &Source,
    machine: &dyn Machine,
    sockets: &Sockets,
) -> Option<PortFault> {
    let path = socket_path(port, launch);
    let file = machine.resolved(&path);
    let owner = sockets.get(&file).filter(|owner| **owner != source.object)?;
    let why = format!("{} is the socket {} of {owner}, by a link", path.display(), file.display());
    Some(("address", "E2010", why, "choose another path"))
}

pub(super) fn socket_fault(port: &Port, launch: &Launch, machine: &dyn Machine) -> Option<PortFault> {
    if !port.listen {
        return None;
    }
    let path = socket_path(port, launch);
    let length = path.as_os_str().len();
    let fault = |why: String, hint| Some(("address", "E2010", why, hint));
    if length > limits::SOCKET_PATH_BYTES {
        let why = format!(
            "the path of a socket has at most {} bytes, {} has {length}",
            limits::SOCKET_PATH_BYTES,
            path.display()
        );
        return fault(why, "use a shorter path");
    }
    let parent = path.parent().unwrap_or(Path::new("/"));
    if machine.file(parent) != FileKind::Directory {
        return fault(
            format!("the directory {} does not exist", parent.display()),
            "create it, or correct the path",
        );
    }
    if machine.file(&path) != FileKind::Missing && !machine.is_socket(&path) {
        let why = format!("{} exists and is not a socket", path.display());
        return fault(why, "remove it, or choose another path");
    }
    None
}

/// Where services are to listen at fixed TCP ports.
pub fn fixed_places(objects: &Objects) -> BTreeSet<Place> {
    let ports = objects.services.values().flat_map(|object| &object.spec.ports);
    ports.filter(|port| port.protocol == Protocol::Tcp).filter_map(Port::place).collect()
}

//! What the schema cannot say of ports: addresses, clashes, and probes that another instance could answer.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use crate::base::ObjectRef;
use crate::base::ports::addresses_overlap;

use super::diagnostic::{Diagnostic, nearest};
use super::load::{Objects, Source};
use super::spec::probe::{NotifyWay, PortRef, Probe, ProbeAction};
use super::spec::service::{Port, PortNumber, Protocol, ServiceSpec, UpdateStrategy};

/// The ports of one service.
pub(super) fn service(spec: &ServiceSpec, source: &Source, diagnostics: &mut Vec<Diagnostic>) {
    for (index, port) in spec.ports.iter().enumerate() {
        let path = format!("spec.ports.{index}");
        let twice = spec.ports.iter().take(index).any(|other| other.name == port.name);
        if twice {
            let path = format!("{path}.name");
            let message = format!("two ports have the name `{}`", port.name);
            diagnostics.push(
                Diagnostic::error("E1301", &source.span(&path), path, message).hint("rename one of them"),
            );
        }
        number(port, &path, source, diagnostics);
        address(port, &path, source, diagnostics);
        socket_options(port, &path, source, diagnostics);
    }
    let own_port = spec.ports.iter().any(|port| !port.listen && matches!(port.port, PortNumber::Number(_)));
    if spec.replicas > 1 && own_port && !spec.update.overlap && spec.update.strategy != UpdateStrategy::Canary
    {
        let message = format!("{} replicas cannot all bind the same port", spec.replicas);
        let diagnostic = Diagnostic::error("E1502", &source.span("spec.replicas"), "spec.replicas", message);
        diagnostics.push(diagnostic.hint(
            "say `listen: true` or `port: auto`, or `update: {overlap: true}` if the program sets SO_REUSEPORT, or run one replica",
        ));
    }
    notify_descriptor(spec, source, diagnostics);
}

/// Options of a socket that unisys does not bind would be silently ignored.
fn socket_options(port: &Port, path: &str, source: &Source, diagnostics: &mut Vec<Diagnostic>) {
    if port.listen {
        return;
    }
    for (option, is_set) in [("backlog", port.backlog.is_some()), ("reusePort", port.reuse_port)] {
        if is_set {
            let path = format!("{path}.{option}");
            let message = format!(
                "`{option}` is for a socket that unisys binds, and the port `{}` is not one",
                port.name
            );
            let diagnostic = Diagnostic::error("E1508", &source.span(&path), path, message);
            diagnostics.push(diagnostic.hint("say `listen: true`, or leave it to the program"));
        }
    }
}

fn number(port: &Port, path: &str, source: &Source, diagnostics: &mut Vec<Diagnostic>) {
    let path = format!("{path}.port");
    let (message, hint) = match (&port.port, port.protocol.is_unix()) {
        (PortNumber::Number(0), false) => {
            (format!("the port `{}` has no number", port.name), "write `port: 8000`, or `port: auto`")
        }
        (PortNumber::Number(0), true) => return,
        (_, true) => (
            format!("the port `{}` is a unix socket: it has a path and no number", port.name),
            "remove `port`; `address` is the path",
        ),
        _ => return,
    };
    diagnostics.push(Diagnostic::error("E1508", &source.span(&path), path, message).hint(hint));
}

fn address(port: &Port, path: &str, source: &Source, diagnostics: &mut Vec<Diagnostic>) {
    let path = format!("{path}.address");
    let address = &port.address;
    let (message, hint) = if port.protocol.is_unix() {
        if !address.is_empty() && address != Port::DEFAULT_ADDRESS && !address.contains('\0') {
            return;
        }
        (format!("the unix socket `{}` has no path", port.name), "write `address: run/api.sock`")
    } else if port.ip().is_some() {
        return;
    } else {
        let message = format!("`{address}` is no IP address of a port");
        (message, "write an address such as 127.0.0.1 or `::1`, `localhost`, or `*` for every address")
    };
    diagnostics.push(Diagnostic::error("E1507", &source.span(&path), path, message).hint(hint));
}

/// Handed sockets take the descriptors from 3 on.
fn notify_descriptor(spec: &ServiceSpec, source: &Source, diagnostics: &mut Vec<Diagnostic>) {
    let handed = spec.ports.iter().filter(|port| port.listen).count() as i32;
    let probes = [("startup", &spec.probes.startup), ("readiness", &spec.probes.readiness)];
    for (kind, probe) in probes {
        let Some(NotifyWay::Fd(number)) = probe.as_deref().and_then(|probe| probe.notify) else { continue };
        if number < 3 + handed {
            let path = format!("spec.probes.{kind}.notify");
            let message =
                format!("descriptor {number} is one of the {handed} sockets that the program is handed");
            diagnostics.push(
                Diagnostic::error("E1607", &source.span(&path), path, message)
                    .hint(format!("write `fd:{}`, or `systemd`", 3 + handed)),
            );
        }
    }
}

/// The port that a network probe asks exists, and is one that only the instance itself answers on.
pub(super) fn probe(
    probe: &Probe,
    path: &str,
    ports: &[Port],
    source: &Source,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let (port, way) = match probe.action() {
        Some(ProbeAction::Http(http)) => (&http.port, "http"),
        Some(ProbeAction::Tcp(tcp)) => (&tcp.port, "tcp"),
        Some(ProbeAction::Grpc(grpc)) => (&grpc.port, "grpc"),
        _ => return,
    };
    let path = format!("{path}.{way}.port");
    let found = match port {
        PortRef::Name(name) => match ports.iter().find(|port| port.name.as_str() == name) {
            Some(port) => Some(port),
            None => {
                let names = ports.iter().map(|port| port.name.as_str());
                let hint = nearest(name, names)
                    .map_or("declare it under `ports`, or write a number".into(), |near| {
                        format!("did you mean `{near}`?")
                    });
                let message = format!("there is no port named `{name}`");
                diagnostics.push(Diagnostic::error("E1604", &source.span(&path), path, message).hint(hint));
                return;
            }
        },
        PortRef::Number(number) => {
            ports.iter().find(|port| matches!(&port.port, PortNumber::Number(own) if own == number))
        }
    };
    let Some((code, message, hint)) = found.and_then(|port| unanswerable(port, way)) else { return };
    diagnostics.push(Diagnostic::error(code, &source.span(&path), path, message).hint(hint));
}

/// Why the answer of a network probe on this port would say nothing about the instance.
fn unanswerable(port: &Port, way: &str) -> Option<(&'static str, String, &'static str)> {
    if port.protocol != Protocol::Tcp {
        let message = format!("a {way} probe speaks TCP, and the port `{}` does not", port.name);
        return Some(("E1603", message, "use exec, notify, log or file"));
    }
    if port.listen && matches!(port.port, PortNumber::Number(_)) {
        let message = format!(
            "every instance answers on a `listen: true` port, so this {way} probe could be answered by another instance"
        );
        let hint = "use notify, log or exec, or add a port `{name: probe, port: auto, listen: true}` and probe that (its number is PORT_PROBE; PORT stays that of this one)";
        return Some(("E1605", message, hint));
    }
    if port.listen && way == "tcp" {
        let message = format!(
            "the port `{}` is open before the program runs, so this tcp probe would succeed at once",
            port.name
        );
        return Some(("E1608", message, "use http, grpc, notify, log or exec"));
    }
    None
}

/// Places that units claim, and who claimed them, by transport and port.
type Claims<'a> = BTreeMap<(bool, u16), Vec<(&'a Port, ObjectRef)>>;

/// Two units cannot claim the same port of the same address; 0.0.0.0 and :: are every address. A unit that lets unisys bind its
/// ports cannot have the same one twice either.
pub(super) fn clashes(objects: &Objects, diagnostics: &mut Vec<Diagnostic>) {
    let mut claimed = Claims::new();
    let mut paths: BTreeMap<PathBuf, ObjectRef> = BTreeMap::new();
    for object in objects.services.values() {
        for (index, port) in object.spec.ports.iter().enumerate() {
            let path = format!("spec.ports.{index}");
            if port.protocol.is_unix() {
                let file = plain(&object.source.base_dir.join(&port.address));
                if let Some(owner) = paths.insert(file.clone(), object.source.object.clone()) {
                    let message = format!("the socket {} is claimed by {owner}", file.display());
                    clash(&object.source, format!("{path}.address"), message, diagnostics);
                }
                continue;
            }
            let Some((ip, number)) = port.place() else { continue };
            let owners = claimed.entry((port.protocol == Protocol::Udp, number)).or_default();
            let other = owners.iter().find(|(other, owner)| {
                other.ip().is_some_and(|other| addresses_overlap(other, ip))
                    && (*owner != object.source.object || other.listen || port.listen)
            });
            if let Some((other, owner)) = other {
                let message =
                    format!("port {number} on {} is claimed by {owner} on {}", port.address, other.address);
                clash(&object.source, format!("{path}.port"), message, diagnostics);
            }
            owners.push((port, object.source.object.clone()));
        }
    }
}

/// One spelling of a path for all: without `.`, and without what `..` takes back.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => _ = plain.pop(),
            part => plain.push(part),
        }
    }
    plain
}

fn clash(source: &Source, path: String, message: String, diagnostics: &mut Vec<Diagnostic>) {
    diagnostics.push(
        Diagnostic::error("E1501", &source.span(&path), path, message)
            .hint("give one of the two another port, or an address of its own (0.0.0.0, `::` and `*` are every address)"),
    );
}

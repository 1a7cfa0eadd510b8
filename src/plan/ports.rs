//! The ports of a unit as a start needs them.

use crate::base::ports::MainPort;
use crate::base::{Listen, Name, PortNeed, PortNumbers, Transport};
use crate::manifest::spec::probe::PortRef;
use crate::manifest::spec::service::{Port, PortNumber, Protocol, ServiceSpec};

use super::Launch;

/// Sockets and numbers that the unit's program is given, in the order in which they are written. A fixed port that the
/// program binds itself is no need.
pub fn needs(unit: &Name, launch: &Launch) -> Vec<PortNeed> {
    launch.service.ports.iter().filter_map(|port| need(unit, port, launch)).collect()
}

fn need(unit: &Name, port: &Port, launch: &Launch) -> Option<PortNeed> {
    let transport = transport(port.protocol);
    let address = match transport.is_unix() {
        true => socket_path(port, launch).display().to_string(),
        false => port.ip_text().to_owned(),
    };
    let number = if let PortNumber::Number(number) = port.port { number } else { 0 };
    let listen = Listen {
        unit: unit.clone(),
        name: port.name.clone(),
        address,
        port: number,
        transport,
        backlog: port.backlog,
        reuse_port: port.reuse_port,
    };
    match (&port.port, port.listen) {
        (PortNumber::Number(_), true) => Some(PortNeed::Shared(listen)),
        (PortNumber::Auto(_), true) => Some(PortNeed::Private(listen)),
        (PortNumber::Auto(_), false) => Some(PortNeed::Number(listen)),
        (PortNumber::Number(_), false) => None,
    }
}

/// The unit's listeners that outlive its instances.
pub fn shared_listeners(unit: &Name, launch: &Launch) -> Vec<Listen> {
    let shared = needs(unit, launch).into_iter().filter_map(|need| match need {
        PortNeed::Shared(listen) => Some(listen),
        PortNeed::Private(_) | PortNeed::Number(_) => None,
    });
    shared.collect()
}

/// Where the file of a unix socket is: relative paths count from the manifest's file.
pub fn socket_path(port: &Port, launch: &Launch) -> std::path::PathBuf {
    launch.base_dir.join(&port.address)
}

fn transport(protocol: Protocol) -> Transport {
    match protocol {
        Protocol::Tcp => Transport::Tcp,
        Protocol::Udp => Transport::Udp,
        Protocol::Unix => Transport::Unix,
        Protocol::UnixDatagram => Transport::UnixDatagram,
    }
}

/// The number behind a port's name: the fixed one, or the one that this instance got.
pub fn port_number(port: &PortRef, service: &ServiceSpec, own: &PortNumbers) -> Option<u16> {
    match port {
        PortRef::Number(number) => Some(*number),
        PortRef::Name(name) => {
            let port = service.ports.iter().find(|port| port.name.as_str() == name)?;
            match port.port {
                PortNumber::Number(number) => Some(number),
                PortNumber::Auto(_) => own.get(name),
            }
        }
    }
}

/// The port that PORT is: the one named `http`, else the first as written. A private listener beside a shared one is there for
/// probes and comes last.
pub fn main_port(service: &ServiceSpec) -> Option<MainPort> {
    let ports = || service.ports.iter().filter(|port| !port.protocol.is_unix());
    let shared = ports().any(|port| port.listen && !port.is_auto());
    let for_probes = |port: &Port| shared && port.listen && port.is_auto();
    let http = ports().find(|port| port.name.as_str() == "http");
    let main = http.or_else(|| ports().find(|port| !for_probes(port)))?;
    Some(match main.port {
        PortNumber::Number(number) => MainPort::Fixed(number),
        PortNumber::Auto(_) => MainPort::Own(main.name.clone()),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_kind_of_port_becomes_what_a_start_needs() {
        let service: ServiceSpec = serde_json::from_value(serde_json::json!({"command": ["x"], "ports": [
            {"name": "http", "port": 80, "listen": true, "address": "*"},
            {"name": "own", "port": 81},
            {"name": "probe", "port": "auto", "listen": true},
            {"name": "admin", "port": "auto"},
            {"name": "sock", "protocol": "unix", "address": "run/s", "listen": true},
        ]}))
        .unwrap();
        let launch = Launch {
            service: std::sync::Arc::new(service),
            base_dir: "/base".into(),
            ..Launch::of_argv(&["x"])
        };
        let unit: Name = "a".parse().unwrap();
        let words: Vec<String> = needs(&unit, &launch)
            .iter()
            .map(|need| {
                let kind = match need {
                    PortNeed::Shared(_) => "shared",
                    PortNeed::Private(_) => "private",
                    PortNeed::Number(_) => "number",
                };
                format!("{kind} {} {}", need.listen().name, need.listen())
            })
            .collect();
        assert_eq!(
            words,
            [
                "shared http [::]:80",
                "private probe 127.0.0.1:0",
                "number admin 127.0.0.1:0",
                "shared sock /base/run/s"
            ]
        );
        assert_eq!(shared_listeners(&unit, &launch).len(), 2);
        let own = PortNumbers([("probe".parse().unwrap(), 4000)].into());
        let named = |name: &str| port_number(&PortRef::Name(name.into()), &launch.service, &own);
        assert_eq!((named("http"), named("probe"), named("admin")), (Some(80), Some(4000), None));
    }

    #[test]
    fn port_is_that_of_the_port_that_a_person_would_call_the_programs() {
        let private = json!({"name": "probe", "port": "auto", "listen": true});
        let shared = json!({"name": "web", "port": 80, "listen": true});
        let own = json!({"name": "admin", "port": "auto"});
        let http = json!({"name": "http", "port": 81});
        let unix = json!({"name": "a", "protocol": "unix", "address": "s", "listen": true});
        let of = |name: &str| Some(MainPort::Own(name.parse().unwrap()));
        for (ports, main) in [
            (vec![&private, &shared], Some(MainPort::Fixed(80))),
            (vec![&shared, &private], Some(MainPort::Fixed(80))),
            (vec![&private, &own], of("probe")),
            (vec![&own, &shared], of("admin")),
            (vec![&own, &http], Some(MainPort::Fixed(81))),
            (vec![&unix, &private], of("probe")),
            (vec![&unix], None),
        ] {
            let service: ServiceSpec =
                serde_json::from_value(json!({"command": ["x"], "ports": ports})).unwrap();
            assert_eq!(main_port(&service), main, "{ports:?}");
        }
    }
}

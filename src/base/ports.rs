//! Words for sockets that unisys binds for others: which there are, and which number each instance got.

use core::net::IpAddr;
use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::Name;

/// The kind of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Transport {
    Tcp,
    Udp,
    Unix,
    UnixDatagram,
}

impl Transport {
    /// Its address is a path.
    pub fn is_unix(self) -> bool {
        matches!(self, Self::Unix | Self::UnixDatagram)
    }
}

/// Where something listens, or is to: an address and a port.
pub type Place = (IpAddr, u16);

/// Two sockets cannot listen at the same port of these addresses. 0.0.0.0 and `::` are every address, as `::` hears IPv4 as well
/// unless a program says otherwise (ipv6(7), IPV6_V6ONLY); ::ffff:10.0.0.1 is 10.0.0.1.
pub fn addresses_overlap(a: IpAddr, b: IpAddr) -> bool {
    let (a, b) = (a.to_canonical(), b.to_canonical());
    a == b || a.is_unspecified() || b.is_unspecified()
}

/// The same of a port as well.
pub fn places_overlap(a: &Place, b: &Place) -> bool {
    a.1 == b.1 && addresses_overlap(a.0, b.0)
}

/// Places by port, to find those that are in the way of another: each look costs what is at one port.
#[derive(Clone, Debug, Default)]
pub struct Places(BTreeMap<u16, Vec<IpAddr>>);

impl Places {
    /// The first that overlaps with this one.
    pub fn overlapping(&self, (address, port): &Place) -> Option<Place> {
        let found = self.0.get(port)?.iter().find(|known| addresses_overlap(**known, *address))?;
        Some((*found, *port))
    }
}

impl<'p> FromIterator<&'p Place> for Places {
    fn from_iter<I: IntoIterator<Item = &'p Place>>(places: I) -> Self {
        let mut by_port: BTreeMap<u16, Vec<IpAddr>> = BTreeMap::new();
        for (address, port) in places {
            by_port.entry(*port).or_default().push(*address);
        }
        Self(by_port)
    }
}

/// Identity of a listener that outlives processes: whoever wants another address or port wants another listener.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listen {
    pub unit: Name,
    /// The port's name, told in `LISTEN_FDNAMES`.
    pub name: Name,
    /// An IP address, or the absolute path of a unix socket.
    pub address: String,
    /// 0 for a unix socket.
    pub port: u16,
    pub transport: Transport,
    /// Connections that may wait; absent: as many as [`super::limits::LISTEN_BACKLOG`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backlog: Option<u32>,
    /// SO_REUSEPORT.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reuse_port: bool,
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.transport {
            Transport::Tcp | Transport::Udp if self.address.contains(':') => {
                write!(f, "[{}]:{}", self.address, self.port)
            }
            Transport::Tcp | Transport::Udp => write!(f, "{}:{}", self.address, self.port),
            Transport::Unix | Transport::UnixDatagram => f.write_str(&self.address),
        }
    }
}

/// A port as a start needs it. Ports that the program binds by itself at a fixed number are none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PortNeed {
    /// The unit's shared listener.
    Shared(Listen),
    /// A listener of this instance alone; its number (0 here) is chosen when it starts.
    Private(Listen),
    /// A number that nobody uses; the program binds it.
    Number(Listen),
}

impl PortNeed {
    pub fn listen(&self) -> &Listen {
        match self {
            Self::Shared(listen) | Self::Private(listen) | Self::Number(listen) => listen,
        }
    }

    /// A socket is handed over for it.
    pub fn is_handed_over(&self) -> bool {
        !matches!(self, Self::Number(_))
    }
}

/// The port that PORT is, of a program that is told numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum MainPort {
    Fixed(u16),
    /// One of its `auto` ports.
    Own(Name),
}

/// The numbers that one instance got for its `auto` ports, by the port's name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PortNumbers(pub BTreeMap<Name, u16>);

impl PortNumbers {
    pub fn get(&self, name: &str) -> Option<u16> {
        self.0.get(name).copied()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// PORT_<NAME> for each, and PORT.
    pub fn variables(&self, main: Option<&MainPort>) -> Vec<(String, u16)> {
        let own = match main {
            Some(MainPort::Own(name)) => self.get(name.as_str()),
            _ => self.get("http"),
        };
        let own = own.or_else(|| self.0.values().next().copied());
        let one = own.map(|own| if let Some(MainPort::Fixed(number)) = main { *number } else { own });
        let named = self.0.iter().map(|(name, number)| (port_variable(name.as_str()), *number));
        one.map(|number| ("PORT".to_owned(), number)).into_iter().chain(named).collect()
    }

    /// A text with the stand-ins of [`stand_in`] replaced by the numbers; one without a number becomes nothing.
    pub fn fill(&self, text: &str, main: Option<&MainPort>) -> String {
        let parts: Vec<&str> = text.split('\0').collect();
        if parts.len().is_multiple_of(2) || parts.len() == 1 {
            return text.to_owned();
        }
        let variables = self.variables(main);
        let number = |name: &str| {
            let found = variables.iter().find(|(known, _)| known == name);
            found.map(|(_, number)| number.to_string()).unwrap_or_default()
        };
        let part =
            |(index, part): (usize, &&str)| if index % 2 == 0 { (*part).to_owned() } else { number(part) };
        parts.iter().enumerate().map(part).collect()
    }
}

/// PORT_<NAME> of a port's name.
pub fn port_variable(name: &str) -> String {
    format!("PORT_{}", name.to_ascii_uppercase().replace('-', "_"))
}

/// What stands for a variable whose value is known only when the instance starts. A NUL can be in no argument and in no
/// variable, so nothing that a person wrote reads like it.
pub fn stand_in(variable: &str) -> String {
    format!("\0{variable}\0")
}

/// The same text for people: `${PORT}` where a stand-in is.
pub fn without_stand_ins(text: &str) -> String {
    let mut out = String::new();
    for (index, part) in text.split('\0').enumerate() {
        match index % 2 {
            0 => out.push_str(part),
            _ => out.push_str(&format!("${{{part}}}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(list: &[(&str, u16)]) -> PortNumbers {
        PortNumbers(list.iter().map(|(name, number)| (name.parse().unwrap(), *number)).collect())
    }

    #[test]
    fn port_is_that_of_the_main_port_where_numbers_are_told() {
        let own = |name: &str| MainPort::Own(name.parse().unwrap());
        let both = numbers(&[("admin", 1), ("web", 2)]);
        assert_eq!(both.variables(Some(&own("web")))[0], ("PORT".into(), 2));
        assert_eq!(both.variables(Some(&MainPort::Fixed(80)))[0], ("PORT".into(), 80));
        assert!(both.variables(None).contains(&("PORT_ADMIN".into(), 1)));
        assert_eq!(numbers(&[]).variables(Some(&MainPort::Fixed(80))), [], "it is told no numbers");
        assert_eq!(port_variable("my-port"), "PORT_MY_PORT");
    }

    #[test]
    fn addresses_overlap_where_two_sockets_would_be_in_each_others_way() {
        for (a, b, overlap) in [
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "10.0.0.1", false),
            ("127.0.0.1", "0.0.0.0", true),
            ("127.0.0.1", "::", true),
            ("127.0.0.1", "::1", false),
            ("::1", "::1", true),
            ("::1", "0:0:0:0:0:0:0:1", true),
            ("::1", "::", true),
            ("fe80::1", "::1", false),
            ("0.0.0.0", "::", true),
            ("::ffff:10.0.0.1", "10.0.0.1", true),
            ("::ffff:10.0.0.1", "10.0.0.2", false),
            ("::ffff:0.0.0.0", "10.0.0.2", true),
        ] {
            let (a, b): (IpAddr, IpAddr) = (a.parse().unwrap(), b.parse().unwrap());
            assert_eq!((addresses_overlap(a, b), addresses_overlap(b, a)), (overlap, overlap), "{a} {b}");
            assert!(!places_overlap(&(a, 1), &(b, 2)));
            assert_eq!(places_overlap(&(a, 1), &(b, 1)), overlap);
            let places: Places = [(a, 1), (a, 2)].iter().collect();
            assert_eq!(places.overlapping(&(b, 2)), overlap.then_some((a, 2)));
            assert_eq!(places.overlapping(&(b, 3)), None);
        }
    }

    #[test]
    fn stand_ins_are_filled_and_shown() {
        let text = format!("http://x:{}/{}", stand_in("PORT"), stand_in("PORT_ADMIN"));
        assert_eq!(numbers(&[("http", 80), ("admin", 7)]).fill(&text, None), "http://x:80/7");
        assert_eq!(numbers(&[]).fill(&text, None), "http://x:/");
        assert_eq!(numbers(&[]).fill("a\0b", None), "a\0b");
        assert_eq!(without_stand_ins(&text), "http://x:${PORT}/${PORT_ADMIN}");
    }
}

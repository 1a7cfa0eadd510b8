//! Identities. Each is a newtype, so that a generation can never be passed where an incarnation is meant.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Name;

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl $name {
            /// The one after this.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

counter! {
    /// Identity of a whole accepted manifest set; +1 with every accepted change of desired state.
    Revision(u64)
}
counter! {
    /// +1 when the spec of one unit changes.
    Generation(u64)
}
counter! {
    /// One start of one process of a unit. Unique within a unit for as long as its state directory lives; fences stale facts.
    Incarnation(u64)
}
counter! {
    /// One life of the daemon. The keeper refuses requests of an older one.
    Epoch(u64)
}
counter! {
    /// Replica index of a unit, from 0.
    Ordinal(u32)
}

/// What an instance is to its unit at present. It changes during a rollout; the instance does not.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub enum Role {
    /// The one that the unit consists of.
    #[default]
    Serving,
    /// Brought up beside the serving one; takes its place once it is available, or goes.
    Incoming,
    /// It had its place taken and is on its way out.
    Draining,
}

impl Role {
    /// As in `instances[].role`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Incoming => "incoming",
            Self::Draining => "draining",
        }
    }
}

/// A place for one instance of a unit: an ordinal in one role (invariant 6: at most one of each).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seat {
    pub ordinal: Ordinal,
    pub role: Role,
}

impl Seat {
    pub fn serving(ordinal: Ordinal) -> Self {
        Self { ordinal, role: Role::Serving }
    }

    pub fn incoming(ordinal: Ordinal) -> Self {
        Self { ordinal, role: Role::Incoming }
    }

    pub fn draining(ordinal: Ordinal) -> Self {
        Self { ordinal, role: Role::Draining }
    }
}

impl fmt::Display for Seat {
    /// As in sentences: `instance 0`, `incoming instance 0`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.role {
            Role::Serving => write!(f, "instance {}", self.ordinal),
            Role::Incoming => write!(f, "incoming instance {}", self.ordinal),
            Role::Draining => write!(f, "draining instance {}", self.ordinal),
        }
    }
}

/// One instance: unit + ordinal + incarnation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct InstanceId {
    pub unit: Name,
    pub ordinal: Ordinal,
    pub incarnation: Incarnation,
}

impl InstanceId {
    /// The variable that marks every process of an instance: the state directory's id, `/` and this.
    pub const MARKER: &str = "UNISYS_INSTANCE";

    /// The same as a number, which a process cannot shed by accident: a limit that the kernel looks at no more (see
    /// `os::process::tag`). FNV-1a, without its highest bits, which would mean that there is no limit.
    pub fn tag(&self, state_id: &str) -> u64 {
        let text = format!("{state_id}/{self}");
        let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        hash >> 2
    }
}

impl fmt::Display for InstanceId {
    /// `api.0.5`: the form used in file names and in [`InstanceId::MARKER`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.unit, self.ordinal, self.incarnation)
    }
}

impl std::str::FromStr for InstanceId {
    type Err = ();

    /// Reads the form that `Display` writes. A name holds no dot, so the two last fields are the numbers.
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split('.');
        let (Some(unit), Some(ordinal), Some(incarnation), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(());
        };
        Ok(Self {
            unit: unit.parse().map_err(|_| ())?,
            ordinal: Ordinal(ordinal.parse().map_err(|_| ())?),
            incarnation: Incarnation(incarnation.parse().map_err(|_| ())?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_id_survives_its_text_form() {
        let id =
            InstanceId { unit: "a-b".parse().unwrap(), ordinal: Ordinal(3), incarnation: Incarnation(41) };
        assert_eq!(id.to_string(), "a-b.3.41");
        assert_eq!("a-b.3.41".parse(), Ok(id.clone()));
        // A keeper finds what an earlier one, of another version, started.
        assert_eq!(id.tag("me"), 0x26f6_1538_1919_8184);
        assert!(id.tag("me") != id.tag("you"));
        for bad in ["", "a", "a.1", "a.1.2.3", "a.x.1", "A.1.1"] {
            assert_eq!(bad.parse::<InstanceId>(), Err(()), "{bad}");
        }
    }
}

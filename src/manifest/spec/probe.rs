//! Probes: Kubernetes' meaning, durations instead of seconds.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::HumanDuration;

/// How unisys learns that an instance has started, is ready, is alive.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Probes {
    /// Gates the other two until it has succeeded once; failing, it stops the instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup: Option<Box<Probe>>,
    /// Runs for the whole life and decides whether the instance is Ready; it never restarts anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness: Option<Box<Probe>>,
    /// Failing, it stops the instance, which then follows its restart policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub liveness: Option<Box<Probe>>,
}

/// One probe: exactly one way to ask, and its timing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("oneOf" = super::one_of(&["http", "tcp", "grpc", "exec", "notify", "log", "file"])))]
pub struct Probe {
    /// A GET request; a status of 200 to 399 is a success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpProbe>,
    /// A TCP connection that opens is a success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpProbe>,
    /// The gRPC health protocol (grpc.health.v1); SERVING is a success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<GrpcProbe>,
    /// A command that exits with 0 is a success. No shell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec: Option<ExecProbe>,
    /// The program tells by itself: `systemd` (READY=1 on NOTIFY_SOCKET) or `fd:N` (the s6 newline on descriptor N).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notify: Option<NotifyWay>,
    /// A line in its log that matches a regular expression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<LogProbe>,
    /// A file that exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<FileProbe>,
    /// Time from the program's start to the first question.
    #[serde(default)]
    pub initial_delay: HumanDuration,
    /// Time from question to question.
    #[serde(default = "ten_seconds")]
    pub period: HumanDuration,
    /// Time for an answer.
    #[serde(default = "one_second")]
    pub timeout: HumanDuration,
    /// Successes in a row that count as one; must be 1 for startup and liveness.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1000))]
    pub success_threshold: u32,
    /// Failures in a row that count as one.
    #[serde(default = "three")]
    #[schemars(range(min = 1, max = 100_000))]
    pub failure_threshold: u32,
}

/// The way in which a probe asks, taken out of [`Probe`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ProbeAction<'a> {
    Http(&'a HttpProbe),
    Tcp(&'a TcpProbe),
    Grpc(&'a GrpcProbe),
    Exec(&'a ExecProbe),
    Notify(&'a NotifyWay),
    Log(&'a LogProbe),
    File(&'a FileProbe),
}

impl Probe {
    /// The ways that are set; a valid probe has exactly one.
    pub fn actions(&self) -> Vec<ProbeAction<'_>> {
        [
            self.http.as_ref().map(ProbeAction::Http),
            self.tcp.as_ref().map(ProbeAction::Tcp),
            self.grpc.as_ref().map(ProbeAction::Grpc),
            self.exec.as_ref().map(ProbeAction::Exec),
            self.notify.as_ref().map(ProbeAction::Notify),
            self.log.as_ref().map(ProbeAction::Log),
            self.file.as_ref().map(ProbeAction::File),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// The way of a validated probe.
    pub fn action(&self) -> Option<ProbeAction<'_>> {
        self.actions().first().copied()
    }
}

/// A port by name or number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum PortRef {
    Number(#[schemars(range(min = 1))] u16),
    Name(String),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpProbe {
    /// Path and query of the request.
    #[serde(default = "slash")]
    pub path: String,
    /// A port of the service, by name or number.
    pub port: PortRef,
    /// Address to connect to; absent: the port's own address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Statuses that are a success: `200`, `200-399`, or several with commas.
    #[serde(default)]
    pub status: StatusRanges,
    /// Request headers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TcpProbe {
    /// A port of the service, by name or number.
    pub port: PortRef,
    /// Address to connect to; absent: the port's own address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcProbe {
    /// A port of the service, by name or number.
    pub port: PortRef,
    /// Name of the gRPC service asked about; absent: the whole server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExecProbe {
    /// Program and arguments.
    #[schemars(length(min = 1))]
    pub command: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LogProbe {
    /// A regular expression (RE2 syntax); the first line that it matches is the success.
    pub pattern: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FileProbe {
    /// Path, relative to the working directory.
    pub path: String,
}

/// `systemd` or `fd:N`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotifyWay {
    Systemd,
    Fd(i32),
}

impl Serialize for NotifyWay {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Systemd => serializer.serialize_str("systemd"),
            Self::Fd(fd) => serializer.collect_str(&format_args!("fd:{fd}")),
        }
    }
}

impl<'de> Deserialize<'de> for NotifyWay {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        if text == "systemd" {
            return Ok(Self::Systemd);
        }
        match text.strip_prefix("fd:").map(str::parse) {
            Some(Ok(fd)) if (3..=255).contains(&fd) => Ok(Self::Fd(fd)),
            _ => Err(serde::de::Error::custom("write `systemd`, or `fd:N` with N from 3 to 255")),
        }
    }
}

impl JsonSchema for NotifyWay {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "NotifyWay".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "`systemd` (sd_notify), or `fd:N`: a newline on descriptor N, as s6 has it.",
            "pattern": "^(systemd|fd:([3-9]|[1-9][0-9]|1[0-9][0-9]|2[0-4][0-9]|25[0-5]))$"
        })
    }
}

/// `200-399`, `200`, `200,301-302`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusRanges(pub Vec<(u16, u16)>);

impl Default for StatusRanges {
    fn default() -> Self {
        Self(vec![(200, 399)])
    }
}

impl StatusRanges {
    pub fn contains(&self, status: u16) -> bool {
        self.0.iter().any(|(low, high)| (*low..=*high).contains(&status))
    }
}

impl std::fmt::Display for StatusRanges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, (low, high)) in self.0.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            if low == high { write!(f, "{comma}{low}")? } else { write!(f, "{comma}{low}-{high}")? }
        }
        Ok(())
    }
}

impl Serialize for StatusRanges {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for StatusRanges {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            One(u16),
            Text(String),
        }
        let bad = || serde::de::Error::custom("write a status such as `200`, or a range such as `200-399`");
        let text = match Written::deserialize(deserializer)? {
            Written::One(status) => status.to_string(),
            Written::Text(text) => text,
        };
        let mut ranges = Vec::new();
        for part in text.split(',') {
            let (low, high) = part.trim().split_once('-').unwrap_or((part.trim(), part.trim()));
            let range = (low.parse().map_err(|_| bad())?, high.parse().map_err(|_| bad())?);
            if range.0 > range.1 || range.0 < 100 || range.1 > 599 {
                return Err(bad());
            }
            ranges.push(range);
        }
        Ok(Self(ranges))
    }
}

impl JsonSchema for StatusRanges {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "StatusRanges".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "Statuses that are a success: `200`, `200-399`, `200,301-302`.",
            "anyOf": [
                {"type": "integer", "minimum": 100, "maximum": 599},
                {"type": "string", "pattern": "^[1-5][0-9][0-9](-[1-5][0-9][0-9])?(, ?[1-5][0-9][0-9](-[1-5][0-9][0-9])?)*$"}
            ]
        })
    }
}

fn slash() -> String {
    "/".into()
}

fn ten_seconds() -> HumanDuration {
    HumanDuration::secs(10)
}

fn one_second() -> HumanDuration {
    HumanDuration::secs(1)
}

fn one() -> u32 {
    1
}

fn three() -> u32 {
    3
}

//! `kind: Service`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::base::ports::Place;
use crate::base::{Name, Signal};

use super::dependency::Dependency;
use super::process::{Env, EnvSource, Hooks, Logging, Resources, Security, Stop, Switch};
use super::{HumanDuration, Probes, is_default};

/// A program that is to run all the time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceSpec {
    /// Program and arguments. There is no shell. `${NAME}` is replaced from the resolved environment, `$$` is a dollar.
    /// Its standard input is `/dev/null` and there is no terminal: a program that asks for something reads the end of it.
    #[schemars(length(min = 1))]
    pub command: Vec<String>,
    /// Relative to the manifest's file.
    #[serde(default = "dot")]
    pub working_dir: String,
    /// Run as this user; needs root. HOME, USER, LOGNAME and SHELL are the user's, unless `env` or `envFrom` says otherwise; `${HOME}`
    /// in the manifest is that of unisys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Run with this group; absent: the user's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Further groups; needs root.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub supplementary_groups: Vec<String>,
    /// File mode creation mask, octal: `"0027"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^0?[0-7]{3}$"))]
    pub umask: Option<String>,
    /// Instances to run.
    #[serde(default = "one")]
    #[schemars(range(max = 1000))]
    pub replicas: u32,
    /// Variables by name; they win over `envFrom`.
    #[serde(default, skip_serializing_if = "Env::is_empty")]
    pub env: Env,
    /// Sources of variables, in order; later wins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env_from: Vec<EnvSource>,
    /// Names taken over from the environment of unisys; nothing else of it is.
    #[serde(default = "inherited_names")]
    pub inherit_env: Vec<String>,
    /// Where it listens.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub ports: Vec<Port>,
    /// What has to be there first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<Dependency>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub probes: Probes,
    #[serde(default, skip_serializing_if = "is_default")]
    pub restart: Restart,
    /// Stops starting a service that fails too often; `null` turns it off.
    #[serde(default = "default_breaker")]
    pub circuit_breaker: Option<CircuitBreaker>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watchdog: Option<Box<Watchdog>>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub stop: Stop,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reload: Option<Box<Reload>>,
    /// Files whose content is part of the spec: a changed file reloads the service.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reload_on: Vec<String>,
    /// Files whose content is part of the spec: a changed file replaces the service.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub restart_on: Vec<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub update: Box<Update>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub hooks: Hooks,
    #[serde(default, skip_serializing_if = "is_default")]
    pub resources: Box<Resources>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub security: Box<Security>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub logging: Box<Logging>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<Box<ServiceMetrics>>,
    /// Runs only while this key of a Config is true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled_when: Option<Switch>,
}

impl ServiceSpec {
    /// `umask` as a number.
    pub fn file_mask(&self) -> Option<u32> {
        self.umask.as_ref().and_then(|text| u32::from_str_radix(text, 8).ok())
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Port {
    /// Name to refer to it by.
    pub name: Name,
    /// Number, or `auto`: chosen for each instance and exported as PORT_<NAME>. With it comes PORT: of the port named `http`, else of
    /// the first as written, where an `auto` listener beside a `listen: true` one with a number comes last. A unix socket has none.
    #[serde(default = "no_port", skip_serializing_if = "is_no_port")]
    pub port: PortNumber,
    /// An IP address, `localhost`, or `*` for every address (IPv4 as well); of a unix socket its path, relative to the
    /// manifest's file.
    #[serde(default = "localhost", skip_serializing_if = "is_localhost")]
    pub address: String,
    #[serde(default, skip_serializing_if = "is_default")]
    pub protocol: Protocol,
    /// unisys binds it, keeps it for good and hands it over (LISTEN_FDS). All instances share it, new ones from their first
    /// instruction on: a program accepts only once it can answer, without blocking in accept(2), and finishes what it has accepted.
    #[serde(default, skip_serializing_if = "is_default")]
    pub listen: bool,
    /// Of `listen: true` streams: connections that may wait to be accepted, as far as `net.core.somaxconn` allows. Default: 4096.
    #[serde(default, skip_serializing_if = "is_default")]
    pub backlog: Option<u32>,
    /// Of `listen: true`: SO_REUSEPORT is set, so that programs of the same user outside of unisys may bind the address as well
    /// if they set it too; the kernel then shares connections out among all sockets. Counts when the socket is bound: one that is
    /// held already stays as it is.
    #[serde(default, skip_serializing_if = "is_default")]
    pub reuse_port: bool,
}

impl Port {
    pub const DEFAULT_ADDRESS: &str = "127.0.0.1";

    /// The IP address that the words of `address` mean: `localhost` is 127.0.0.1, `*` is `::` (IPv4 as well).
    pub fn ip_text(&self) -> &str {
        match self.address.as_str() {
            "localhost" => Self::DEFAULT_ADDRESS,
            "*" | "" => "::",
            other => other.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(other),
        }
    }

    /// The same as an address; nothing where it is none (E1507), and of a unix socket.
    pub fn ip(&self) -> Option<core::net::IpAddr> {
        if self.protocol.is_unix() { None } else { self.ip_text().parse().ok() }
    }

    /// Where it is, if it has a number.
    pub fn place(&self) -> Option<Place> {
        match self.port {
            PortNumber::Number(number) if number != 0 => Some((self.ip()?, number)),
            _ => None,
        }
    }

    /// Each instance gets a number of its own.
    pub fn is_auto(&self) -> bool {
        matches!(self.port, PortNumber::Auto(_))
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum PortNumber {
    Number(#[schemars(range(min = 1))] u16),
    Auto(AutoPort),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum AutoPort {
    Auto,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
    /// A stream socket with a path.
    Unix,
    /// A datagram socket with a path.
    UnixDatagram,
}

impl Protocol {
    /// Its address is a path.
    pub fn is_unix(self) -> bool {
        matches!(self, Self::Unix | Self::UnixDatagram)
    }
}

/// What follows when an instance ends by itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Restart {
    pub policy: RestartPolicy,
    pub backoff: Backoff,
    /// Exits that are not failures. Under `Always` that is one of an instance that was available (Ready for `update.minReady`): it
    /// is started again after `backoff.initial`; one that ends sooner has failed to start.
    pub success_exit_codes: Vec<u8>,
    /// Exits after which it is not started again. By default 78 (its configuration is wrong: sysexits(3)), 125 (s6, docker),
    /// 126 and 127 (a wrapper could not execute the program, or not find it: POSIX, 2.8.2). Besides, one that ends alike at two
    /// starts in a row, before it was Ready (without a probe: within 5 s), and by its last words for an error of its configuration
    /// (a module, option or variable that is missing) is not started again until something changes; `unisys start` tries.
    pub permanent_exit_codes: Vec<u8>,
}

impl Default for Restart {
    fn default() -> Self {
        Self {
            policy: RestartPolicy::default(),
            backoff: Backoff::default(),
            success_exit_codes: vec![0],
            permanent_exit_codes: vec![78, 125, 126, 127],
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RestartPolicy {
    #[default]
    Always,
    OnFailure,
    Never,
}

/// The delay before an automatic start: `initial × factor^n`, at most `max`, ± `jitter`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Backoff {
    /// The first delay; `0s`: at once, always.
    pub initial: HumanDuration,
    #[schemars(range(min = 1.0, max = 100.0))]
    pub factor: f64,
    pub max: HumanDuration,
    /// Share by which each delay is moved at random, both ways.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub jitter: f64,
    /// Running this long forgets earlier failures.
    pub reset_after: HumanDuration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            initial: HumanDuration::millis(100),
            factor: 2.0,
            max: HumanDuration::secs(300),
            jitter: 0.2,
            reset_after: HumanDuration::secs(600),
        }
    }
}

/// Closed → Open → HalfOpen with one trial.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CircuitBreaker {
    /// Failures within `window` that open it: no more starts.
    #[schemars(range(min = 1, max = 1000))]
    pub failures: u32,
    pub window: HumanDuration,
    /// Then one trial instance is started.
    pub open_for: HumanDuration,
    /// A trial that is Ready this long closes it.
    pub success_after: HumanDuration,
    /// A trial that fails doubles `openFor` up to this.
    pub max_open: HumanDuration,
    /// Dependents not yet started are Held.
    pub hold_dependents: bool,
}

impl Default for CircuitBreaker {
    fn default() -> Self {
        Self {
            failures: 5,
            window: HumanDuration::secs(300),
            open_for: HumanDuration::secs(60),
            success_after: HumanDuration::secs(10),
            max_open: HumanDuration::secs(1800),
            hold_dependents: true,
        }
    }
}

/// Finds programs that hang.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Watchdog {
    /// WATCHDOG=1 is expected on NOTIFY_SOCKET within this time, again and again, once it is Ready; the program reads
    /// WATCHDOG_USEC. A missed one acts at once.
    pub heartbeat: Option<HumanDuration>,
    /// Without the program's help: by what its threads do and what waits for it.
    pub freeze: Option<Freeze>,
    /// What is done with one that is frozen, or has missed its heartbeat.
    pub on_freeze: OnFreeze,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Freeze {
    /// Frozen this long, its condition Degraded is true, with what it is as the reason.
    pub soft: Option<HumanDuration>,
    /// Frozen this long while somebody waits for it, it is acted upon.
    pub hard: Option<HumanDuration>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnFreeze {
    /// It is told and left running.
    Alert,
    /// SIGABRT, then `stop.grace`, then SIGKILL; `restart` says what follows.
    Restart,
    /// The same, and each thread is in the crash dump.
    #[default]
    DumpAndRestart,
}

/// How a running program reads its files again: exactly one of `signal`, `command` and `notify`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Reload {
    pub signal: Option<Signal>,
    /// Ends with 0 once the program has read its files again.
    pub command: Option<Vec<String>>,
    /// The program gets SIGHUP, says `RELOADING=1` with `MONOTONIC_USEC=`, and `READY=1` when it is done (systemd's notify-reload).
    pub notify: Option<bool>,
    /// A reload by `command` or `notify` that is not over by then has failed: what was read before stays in force.
    pub timeout: HumanDuration,
}

impl Default for Reload {
    fn default() -> Self {
        Self {
            signal: None,
            command: None,
            notify: None,
            timeout: HumanDuration(std::time::Duration::from_secs(30)),
        }
    }
}

/// How a new instance takes the place of an old one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Update {
    pub strategy: UpdateStrategy,
    /// Instances beyond `replicas` during a rollout.
    pub max_surge: u32,
    /// Instances that may be missing during a rollout.
    pub max_unavailable: u32,
    /// Ready this long counts as available.
    pub min_ready: HumanDuration,
    pub progress_deadline: HumanDuration,
    pub auto_rollback: bool,
    /// The program sets SO_REUSEPORT itself: two generations may bind the same port.
    pub overlap: bool,
    pub canary: Option<Canary>,
}

impl Default for Update {
    fn default() -> Self {
        Self {
            strategy: UpdateStrategy::default(),
            max_surge: 1,
            max_unavailable: 0,
            min_ready: HumanDuration::secs(1),
            progress_deadline: HumanDuration::secs(60),
            auto_rollback: true,
            overlap: false,
            canary: None,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum UpdateStrategy {
    #[default]
    Rolling,
    BlueGreen,
    Canary,
    Recreate,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Canary {
    #[serde(default)]
    pub replicas: Option<u32>,
    #[serde(default)]
    pub percent: Option<u32>,
    #[serde(default)]
    pub hold: Option<HumanDuration>,
    #[serde(default)]
    pub auto_promote: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceMetrics {
    /// A Prometheus endpoint of the service.
    pub scrape: Scrape,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Scrape {
    pub port: super::PortRef,
    #[serde(default = "metrics_path")]
    pub path: String,
    #[serde(default = "fifteen_seconds")]
    pub interval: HumanDuration,
}

pub(super) fn dot() -> String {
    ".".into()
}

fn one() -> u32 {
    1
}

/// What a service sees of unisys' own environment unless its manifest says otherwise.
pub(crate) fn inherited_names() -> Vec<String> {
    ["PATH", "HOME", "LANG", "TZ"].map(String::from).to_vec()
}

#[allow(clippy::unnecessary_wraps)] // the signature that `#[serde(default)]` needs
fn default_breaker() -> Option<CircuitBreaker> {
    Some(CircuitBreaker::default())
}

fn no_port() -> PortNumber {
    PortNumber::Number(0)
}

fn is_no_port(port: &PortNumber) -> bool {
    *port == no_port()
}

fn localhost() -> String {
    Port::DEFAULT_ADDRESS.into()
}

fn is_localhost(address: &str) -> bool {
    address == Port::DEFAULT_ADDRESS
}

fn metrics_path() -> String {
    "/metrics".into()
}

fn fifteen_seconds() -> HumanDuration {
    HumanDuration::secs(15)
}

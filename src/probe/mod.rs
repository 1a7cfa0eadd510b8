//! Runs probes: each asks one question and gives one answer. When to ask and what an answer means is decided elsewhere.

mod grpc;
pub mod http;
pub mod notify;

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::base::{Name, limits};
use crate::keeper::protocol::Spawn;
use crate::manifest::spec::HttpProbe;
use crate::os::command::Place;

/// A question with every value that asking it needs.
pub enum Question {
    Http {
        port: u16,
        probe: HttpProbe,
    },
    Tcp {
        host: String,
        port: u16,
    },
    Grpc {
        port: u16,
        service: String,
    },
    /// A command, in the service's environment.
    Exec {
        command: Box<Spawn>,
        place: Place,
    },
    File {
        path: PathBuf,
    },
    /// It cannot be asked: why.
    Impossible(String),
}

/// Yes or no, with what was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub ok: bool,
    /// There was none in time.
    pub late: bool,
    pub message: String,
}

impl Answer {
    fn yes(message: impl Into<String>) -> Self {
        Self { ok: true, late: false, message: message.into() }
    }

    fn no(message: impl Into<String>) -> Self {
        Self { ok: false, late: false, message: message.into() }
    }
}

/// Commands that run at the same time, in all and of one unit: others' commands that hang take none of a unit's time, as time
/// counts from when its command may run.
#[derive(Clone)]
struct Turns {
    all: Arc<Semaphore>,
    of: Arc<Mutex<HashMap<Name, Weak<Semaphore>>>>,
}

impl Turns {
    fn new() -> Self {
        Self { all: Arc::new(Semaphore::new(limits::PROBE_COMMANDS)), of: Arc::default() }
    }

    /// A unit's turn; it ends with what is given.
    async fn take(&self, unit: &Name) -> Option<[OwnedSemaphorePermit; 2]> {
        let own = {
            let mut of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
            of.retain(|_, turns| turns.strong_count() > 0);
            let known = of.get(unit).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let turns = Arc::new(Semaphore::new(limits::PROBE_COMMANDS_OF_UNIT));
                of.insert(unit.clone(), Arc::downgrade(&turns));
                turns
            })
        };
        // Its own first: who waits for the others of its unit keeps nobody else waiting.
        let own = own.acquire_owned().await.ok()?;
        Some([own, self.all.clone().acquire_owned().await.ok()?])
    }
}

/// Asks questions. Copies share what bounds them.
#[derive(Clone)]
pub struct Asker {
    http: reqwest::Client,
    turns: Turns,
    files: Files,
}

/// Paths that are being looked at. One on a disk that does not answer holds one thread, however often it is asked for.
#[derive(Clone, Default)]
struct Files(Arc<Mutex<BTreeSet<PathBuf>>>);

impl Files {
    async fn ask(&self, path: PathBuf) -> Answer {
        let looking = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !looking().insert(path.clone()) {
            let message = format!("{}: no answer to an earlier look yet", path.display());
            return Answer { late: true, ..Answer::no(message) };
        }
        let files = self.clone();
        let look = move || {
            let answer = match path.try_exists() {
                Ok(true) => Answer::yes("the file exists"),
                Ok(false) => Answer::no(format!("{} does not exist", path.display())),
                Err(error) => Answer::no(format!("cannot look at {}: {error}", path.display())),
            };
            files.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&path);
            answer
        };
        let looked = tokio::task::spawn_blocking(look).await;
        looked.unwrap_or_else(|error| Answer::no(format!("it could not be looked at: {error}")))
    }
}

impl Asker {
    pub fn new(http: reqwest::Client) -> Self {
        Self { http, turns: Turns::new(), files: Files::default() }
    }

    /// Asks, and answers in time: no answer within `timeout` is a no.
    pub async fn ask(&self, question: Question, timeout: Duration) -> Answer {
        let turn = match &question {
            Question::Exec { command, .. } => self.turns.take(&command.id.unit).await,
            _ => None,
        };
        match tokio::time::timeout(timeout, self.put(question, timeout, turn)).await {
            Ok(answer) => answer,
            Err(_) => {
                let message = format!("no answer within {}", crate::base::format_duration(timeout));
                Answer { late: true, ..Answer::no(message) }
            }
        }
    }

    async fn put(
        &self,
        question: Question,
        timeout: Duration,
        turn: Option<[OwnedSemaphorePermit; 2]>,
    ) -> Answer {
        match question {
            Question::Http { port, probe } => ask_http(&self.http, port, &probe).await,
            Question::Tcp { host, port } => ask_tcp(&host, port).await,
            Question::Grpc { port, service } => grpc::ask(port, &service).await,
            Question::Exec { command, place } => ask_command(*command, place, timeout, turn).await,
            Question::File { path } => self.files.ask(path).await,
            Question::Impossible(why) => Answer::no(why),
        }
    }
}

/// A client for probes: no proxy, redirects to the same host only (Kubernetes), no connection kept.
pub fn client() -> reqwest::Result<reqwest::Client> {
    let policy = reqwest::redirect::Policy::custom(|attempt| {
        let same = attempt.previous().last().is_some_and(|last| last.host_str() == attempt.url().host_str());
        if same && attempt.previous().len() < 11 { attempt.follow() } else { attempt.stop() }
    });
    http::local()
        .user_agent(concat!("unisys-probe/", env!("CARGO_PKG_VERSION")))
        .redirect(policy)
        .pool_max_idle_per_host(0)
        .build()
}

async fn ask_http(client: &reqwest::Client, port: u16, probe: &HttpProbe) -> Answer {
    let host = probe.host.as_deref().unwrap_or("127.0.0.1");
    // RFC 3986, 3.2.2: an IPv6 address is written in brackets.
    let host = if host.parse::<std::net::Ipv6Addr>().is_ok() { format!("[{host}]") } else { host.to_owned() };
    let path = if probe.path.starts_with('/') { probe.path.clone() } else { format!("/{}", probe.path) };
    let mut request = client.get(format!("http://{host}:{port}{path}"));
    for (name, value) in &probe.headers {
        request = request.header(name, value);
    }
    let mut response = match request.send().await {
        Ok(response) => response,
        Err(error) => return Answer::no(format!("http://{host}:{port}{path}: {}", root_cause(&error))),
    };
    let status = response.status();
    // A server that is cut off in the middle of its answer may log an error: read a little of it.
    let mut read = 0;
    while read < limits::PROBE_BODY_BYTES {
        match response.chunk().await {
            Ok(Some(chunk)) => read += chunk.len(),
            _ => break,
        }
    }
    let message = format!("http://{host}:{port}{path} answered {}", status.as_u16());
    // By default a redirect that was not followed (another host, too many) is a success, as it is for Kubernetes.
    Answer { ok: probe.status.contains(status.as_u16()), late: false, message }
}

async fn ask_tcp(host: &str, port: u16) -> Answer {
    let result = match host.parse::<IpAddr>() {
        Ok(ip) => tokio::net::TcpStream::connect(SocketAddr::new(ip, port)).await,
        Err(_) => tokio::net::TcpStream::connect((host, port)).await,
    };
    match result {
        Ok(_) => Answer::yes(format!("port {port} accepts connections")),
        Err(error) => Answer::no(format!("{host}:{port}: {}", crate::os::files::why(&error))),
    }
}

/// The end of what a command said, where more was said: what may be the beginning of a secret is not shown then.
pub const CUT: char = '…';

/// Without a character that was cut.
fn whole(output: &[u8]) -> &[u8] {
    match std::str::from_utf8(output) {
        Err(error) if error.error_len().is_none() => &output[..error.valid_up_to()],
        _ => output,
    }
}

async fn ask_command(
    command: Spawn,
    place: Place,
    timeout: Duration,
    turn: Option<[OwnedSemaphorePermit; 2]>,
) -> Answer {
    let ran = tokio::task::spawn_blocking(move || {
        // Its turn lasts as long as the command, whether anybody still waits for the answer or not.
        let _turn = turn;
        crate::os::command::run(&command, &place, timeout, limits::COMMAND_OUTPUT_BYTES)
    });
    match ran.await {
        Ok(Ok(ran)) => {
            let said = String::from_utf8_lossy(whole(&ran.output));
            let mut said = said.trim().lines().last().unwrap_or_default().to_owned();
            if ran.output.len() >= limits::COMMAND_OUTPUT_BYTES {
                said.push(CUT);
            }
            let ended = match ran.exit {
                Some(exit) => exit.to_string(),
                None => "ran out of time and was killed".into(),
            };
            let message = if said.is_empty() { ended } else { format!("{ended}: {said}") };
            Answer { ok: ran.exit == Some(crate::base::Exit::Code(0)), late: ran.exit.is_none(), message }
        }
        Ok(Err(error)) => Answer::no(error.to_string()),
        Err(_) => Answer::no("the probe was cut off"),
    }
}

/// The innermost reason: "connection refused", not "error sending request".
pub fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    let text = cause.to_string();
    let mut letters = text.split(" (os error").next().unwrap_or_default().chars();
    // The operating system's words begin with a capital; this one goes on in a sentence.
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

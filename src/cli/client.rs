//! A client of the control API: finds the socket, checks whose it is, calls.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::api::Refusal;
use crate::api::types::{Problem, WaitFor, Waited};
use crate::base::{InstanceId, limits};
use crate::keeper::left_running;
use crate::os::state_dir::{StateDir, short_socket};
use crate::os::{identity, process};

use super::args::Global;
use super::keeper::{Keeper, Vigil, has_keeper, keeper_of};
use super::progress::Progress;
use super::{Failure, Outcome};
use crate::cli::aside;

pub struct Client {
    http: reqwest::Client,
    /// Keeps a path through an open directory valid.
    _dir: Option<OwnedFd>,
    runtime: tokio::runtime::Runtime,
    /// The daemon's process, as the socket says (SO_PEERCRED); 0 where it is of another pid namespace.
    daemon: u32,
    socket: PathBuf,
}

/// The state directory's name.
pub const STATE_DIR: &str = ".unified-system";
const SYSTEM_SOCKET: &str = "/run/unisys/unisys.sock";

/// Where the daemon's socket is, if there is one.
pub fn find_socket(global: &Global) -> Option<PathBuf> {
    if let Some(socket) = &global.socket {
        return Some(socket.clone());
    }
    if let Some(dir) = &global.state_dir {
        return Some(dir.join("unisys.sock"));
    }
    let here = std::env::current_dir().ok()?;
    let upwards = here.ancestors().map(|dir| dir.join(STATE_DIR).join("unisys.sock"));
    upwards
        .chain([PathBuf::from(SYSTEM_SOCKET)])
        .find(|path| path.exists() || is_denied(path) || keeper_of(path) != Keeper::Ended)
}

/// There is a state directory, and the caller may not look into it.
fn is_denied(socket: &Path) -> bool {
    let denied = |error: std::io::Error| error.kind() == std::io::ErrorKind::PermissionDenied;
    socket.parent().is_some_and(|dir| dir.symlink_metadata().is_ok())
        && socket.symlink_metadata().err().is_some_and(denied)
}

/// How often a daemon that is being started is looked for.
const LOOK: Duration = Duration::from_millis(20);
/// Waiting is asked for in pieces: in between it is said what is waited for.
const WAIT_PIECE: Duration = Duration::from_secs(1);
/// What is stuck for so long stays stuck. A program that was missing may just have been installed: the daemon looks for it every
/// five seconds.
const STUCK: Duration = Duration::from_secs(6);
/// An answer that takes longer than this may never come.
const SILENCE: Duration = Duration::from_secs(3);

impl Client {
    /// Connects, after checking that the socket and the server behind it belong to the caller or root.
    pub fn connect(global: &Global) -> Result<Self, Failure> {
        let path = find_socket(global)
            .ok_or_else(|| no_daemon("there is no daemon here or in a directory above"))?;
        Self::at(&path).map_err(|failure| or_orphaned(failure, &path))
    }

    /// A daemon that was killed is back in a moment: it is waited for as long as there is a keeper.
    pub fn at(path: &Path) -> Result<Self, Failure> {
        let mut vigil = Vigil::default();
        loop {
            match Self::try_at(path) {
                Err(Failure::NoDaemon { .. }) if vigil.may_answer(path) => std::thread::sleep(LOOK),
                result => return result.map_err(|failure| or_silent(failure, path)),
            }
        }
    }

    fn try_at(path: &Path) -> Result<Self, Failure> {
        let own = rustix::process::geteuid().as_raw();
        let trusted = |uid: u32| uid == own || uid == 0;
        let meta = std::fs::symlink_metadata(path).map_err(|error| unreachable(path, &error))?;
        let forbidden = |uid: u32| Failure::Conflict {
            message: format!("the socket {} belongs to user {uid}, neither you nor root", path.display()),
            hint: "use --socket with one that you trust".into(),
        };
        if !trusted(meta.uid()) {
            return Err(forbidden(meta.uid()));
        }
        let (short, dir) = short_socket(path).map_err(|error| Failure::other(error.to_string(), ""))?;
        let stream =
            std::os::unix::net::UnixStream::connect(&short).map_err(|error| unreachable(path, &error))?;
        let peer = process::peer(&stream);
        if let Some((_, uid)) = peer.filter(|(_, uid)| !trusted(*uid)) {
            return Err(forbidden(uid));
        }
        drop(stream);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::other(format!("cannot start: {error}"), ""))?;
        let http = crate::probe::http::local().unix_socket(short).build();
        let http = http.map_err(|error| Failure::other(format!("cannot start: {error}"), ""))?;
        Ok(Self { http, _dir: dir, runtime, daemon: peer.map_or(0, |(pid, _)| pid), socket: path.to_owned() })
    }

    /// Its process, as it is called here; 0: it is of another pid namespace, and not seen.
    pub fn daemon(&self) -> u32 {
        self.daemon
    }

    /// Waits until there is no keeper any more.
    pub fn outlast_keeper(&self) {
        while has_keeper(&self.socket) {
            std::thread::sleep(LOOK);
        }
    }

    /// A question; a daemon that is replaced before it has answered leaves it to the next.
    pub fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, String)]) -> Result<T, Failure> {
        self.repeated(|client| client.get_once(path, query))
    }

    /// A question with a body, or an order that may be given twice: as [`Self::get`].
    pub fn ask<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        self.repeated(|client| client.post_once(path, body))
    }

    /// An order: given once, even if nobody answers.
    pub fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        match self.post_once(path, body) {
            Err(Failure::NoDaemon { .. }) if has_keeper(&self.socket) => Err(Failure::NoDaemon {
                message: "the daemon was replaced before it answered: this may have been done, or not".into(),
                hint: "`unisys changes` tells".into(),
            }),
            result => result.map_err(|failure| or_orphaned(failure, &self.socket)),
        }
    }

    /// What was saved before counts for what is asked next.
    pub fn catch_up(&self) -> Result<(), Failure> {
        let timeout_ms = limits::ASKED_CAUGHT_UP.as_millis() as u64;
        let read = WaitFor { names: Vec::new(), what: "read".into(), timeout_ms };
        match self.ask::<Waited>("/v1/wait", &read) {
            // A daemon of an earlier version does not know the word.
            Err(Failure::Usage { .. }) => Ok(()),
            result => result.map(drop),
        }
    }

    /// Waits until units are as wanted, whichever daemons come and go meanwhile; says what is waited for.
    pub fn wait(&self, wanted: &WaitFor, quiet: bool) -> Result<Waited, Failure> {
        let deadline = Instant::now() + Duration::from_millis(wanted.timeout_ms);
        let mut progress = Progress::new(quiet);
        let mut stuck_since = None;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let piece = left.min(WAIT_PIECE).as_millis() as u64;
            let waited: Waited = self.ask("/v1/wait", &WaitFor { timeout_ms: piece, ..wanted.clone() })?;
            let stuck = waited.stuck.then(|| *stuck_since.get_or_insert_with(Instant::now));
            let hopeless = stuck.is_some_and(|since| since.elapsed() > STUCK);
            if waited.is_over() || hopeless || left <= WAIT_PIECE {
                return Ok(waited);
            }
            stuck_since = stuck;
            progress.show(&waited.unmet);
        }
    }

    fn repeated<T>(&self, call: impl Fn(&Self) -> Result<T, Failure>) -> Result<T, Failure> {
        let mut result = call(self);
        let mut vigil = Vigil::default();
        while matches!(result, Err(Failure::NoDaemon { .. })) && vigil.may_answer(&self.socket) {
            std::thread::sleep(LOOK);
            let client = Self::try_at(&self.socket).map_err(|failure| or_silent(failure, &self.socket));
            result = client.and_then(|client| call(&client));
        }
        // One that is being killed still accepts for a moment.
        result.map_err(|failure| or_orphaned(failure, &self.socket))
    }

    fn get_once<T: DeserializeOwned>(&self, path: &str, query: &[(&str, String)]) -> Result<T, Failure> {
        let url = url(path, query);
        self.runtime.block_on(async { read(self.answer(self.http.get(url)).await).await })
    }

    fn post_once<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        let request = self.http.post(url(path, &[])).json(body);
        self.runtime.block_on(async { read(self.answer(request).await).await })
    }

    /// The body as it comes, in pieces, until its end or until `take` says no.
    pub fn stream(
        &self,
        path: &str,
        query: &[(&str, String)],
        mut take: impl FnMut(&[u8]) -> bool,
    ) -> Result<(), Failure> {
        let request = self.http.get(url(path, query));
        let mut response = self.runtime.block_on(async { good(self.answer(request).await).await })?;
        // Outside of the runtime, so that `take` may make calls of its own.
        while let Ok(Some(chunk)) = self.runtime.block_on(response.chunk()) {
            if !take(&chunk) {
                break;
            }
        }
        Ok(())
    }

    /// Sends, and says so once where nobody seems to hear it. Some answers take their time (`wait`, a stop with its grace): a
    /// daemon that hears answers another question at once.
    async fn answer(&self, request: reqwest::RequestBuilder) -> reqwest::Result<reqwest::Response> {
        let mut answer = std::pin::pin!(request.send());
        if let Ok(response) = tokio::time::timeout(SILENCE, &mut answer).await {
            return response;
        }
        let other = self.http.get("http://unisys/healthz").timeout(SILENCE).send();
        tokio::select! {
            response = &mut answer => return response,
            Err(error) = other => {
                if error.is_timeout() {
                    self.say_silent();
                }
            }
        }
        answer.await
    }

    fn say_silent(&self) {
        let pid = self.daemon;
        if process::is_stopped(pid) {
            aside!("unisys: the daemon (pid {pid}) was stopped by a signal: it answers once it goes on");
            aside!("hint: kill -CONT {pid}");
        } else {
            aside!("unisys: the daemon (pid {pid}) does not answer; still waiting, services are not touched");
            aside!("hint: once it is killed (kill -9 {pid}), its keeper starts another one");
        }
    }

    /// A stream that goes on for as long as the system does: each daemon's in its turn. `open` reads one to its end, and gives
    /// whether the next one is wanted.
    pub fn follow(
        global: &Global,
        mut open: impl FnMut(&Self) -> Result<bool, Failure>,
    ) -> Result<Outcome, Failure> {
        let mut client = Self::connect(global)?;
        loop {
            match open(&client) {
                Ok(false) => break,
                // As often as anybody is asked, where one answers and has ended.
                Ok(true) | Err(Failure::NoDaemon { .. }) => std::thread::sleep(LOOK),
                Err(error) => return Err(error),
            }
            client = match Self::connect(global) {
                Err(Failure::NoDaemon { .. }) if keeper_of(&client.socket) == Keeper::Ended => {
                    aside!("unisys: the system has ended");
                    break;
                }
                result => result?,
            };
        }
        Ok(Outcome::Done)
    }

    pub fn text(&self, path: &str) -> Result<String, Failure> {
        let mut text = Vec::new();
        self.stream(path, &[], |chunk| {
            text.extend_from_slice(chunk);
            true
        })?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

/// Where there is a keeper and nobody answers, that.
fn or_silent(failure: Failure, path: &Path) -> Failure {
    if !matches!(failure, Failure::NoDaemon { .. }) || !has_keeper(path) {
        return failure;
    }
    let lock =
        path.parent().and_then(|dir| std::fs::read_to_string(dir.join("lock")).ok()).unwrap_or_default();
    let (keeper, log) = (lock.trim(), "see logs/up.log beside it");
    if path.exists() {
        let message =
            format!("there is a keeper (pid {keeper}), and no daemon answers on {}", path.display());
        return Failure::NoDaemon { message, hint: log.into() };
    }
    let message = format!("there is a keeper (pid {keeper}), and the socket {} is gone", path.display());
    let hint = format!(
        "its daemon does not come up ({log}), or somebody removed the socket: then `kill {keeper}` stops the services in order and \
         ends it"
    );
    Failure::NoDaemon { message, hint }
}

/// Where nobody answers, the services that run on, if some do.
fn or_orphaned(failure: Failure, socket: &Path) -> Failure {
    match failure {
        Failure::NoDaemon { message, hint } => {
            orphaned(socket).unwrap_or(Failure::NoDaemon { message, hint })
        }
        other => other,
    }
}

/// Services of a state directory that run on though keeper and daemon were killed.
fn orphaned(socket: &Path) -> Option<Failure> {
    /// So many are named.
    const NAMED: usize = 5;
    let dir = socket.parent()?;
    let state = StateDir { root: dir.to_owned() };
    if has_keeper(socket) || state.copied_from().is_some() {
        return None;
    }
    let id = std::fs::read_to_string(dir.join("run/id")).ok()?;
    let prefix = format!("{}/", id.trim());
    let instance = |stat: &process::Stat| {
        let marker = process::environ_value(stat.pid, InstanceId::MARKER)?;
        marker.strip_prefix(&prefix)?.parse::<InstanceId>().ok()
    };
    let found = process::all().into_iter().filter_map(|stat| Some((instance(&stat)?, stat.pid)));
    // Of an instance that the journal does not tell of, the first process: it has the lowest pid unless they began anew.
    let mut marked: BTreeMap<InstanceId, u32> = BTreeMap::new();
    for (id, pid) in found {
        let of_it = marked.entry(id).or_insert(pid);
        *of_it = (*of_it).min(pid);
    }
    // A program may have written over its marker.
    let mut first = left_running(&state);
    for (id, pid) in marked {
        first.entry(id).or_insert(pid);
    }
    if first.is_empty() {
        return None;
    }
    let name = |(id, pid): (&InstanceId, &u32)| format!("{} (pid {pid})", id.unit);
    let mut list: Vec<String> = first.iter().take(NAMED).map(name).collect();
    if first.len() > NAMED {
        list.push(format!("{} more", first.len() - NAMED));
    }
    Some(Failure::NoDaemon {
        message: format!(
            "neither keeper nor daemon of {} runs, but its services still do: {}",
            dir.display(),
            list.join(", ")
        ),
        hint: "`unisys up` takes them up as they are; `unisys down` after it stops them in order".into(),
    })
}

/// A socket that may not be used, or that nobody listens on.
fn unreachable(path: &Path, error: &std::io::Error) -> Failure {
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => denied(path),
        _ => no_daemon(&format!("no daemon listens on {}", path.display())),
    }
}

/// What is there on the way to a socket belongs to somebody else.
fn denied(socket: &Path) -> Failure {
    let owned = socket.ancestors().find_map(|path| Some((path, path.symlink_metadata().ok()?.uid())));
    let (path, uid) = owned.unwrap_or((socket, 0));
    let name = identity::name_of(uid);
    let owner = name.as_ref().map_or(format!("user {uid}"), |name| format!("{name} (user {uid})"));
    let as_them = name.unwrap_or_else(|| format!("#{uid}"));
    Failure::Conflict {
        message: format!(
            "you may not use {}: {} belongs to {owner}, and is for that user and root alone",
            socket.display(),
            path.display()
        ),
        hint: format!(
            "run it as that user (`sudo -u {as_them} unisys …`), or name another daemon with --state-dir or --socket"
        ),
    }
}

pub fn no_daemon(message: &str) -> Failure {
    Failure::NoDaemon {
        message: message.to_owned(),
        hint: "start one with `unisys up`, or name its socket with --socket".into(),
    }
}

/// As it may stand in a path or a query (RFC 3986, 2.1).
pub fn encoded(text: &str) -> String {
    let kept = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let one = |byte: u8| if kept(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(one).collect()
}

fn url(path: &str, query: &[(&str, String)]) -> String {
    let mut url = format!("http://unisys{path}");
    for (index, (name, value)) in query.iter().enumerate() {
        let encoded = encoded(value);
        url.push_str(&format!("{}{name}={encoded}", if index == 0 { '?' } else { '&' }));
    }
    url
}

async fn read<T: DeserializeOwned>(response: reqwest::Result<reqwest::Response>) -> Result<T, Failure> {
    let response = good(response).await?;
    response.json().await.map_err(|error| {
        let cause = crate::probe::root_cause(&error);
        Failure::other(
            format!("the daemon's answer is not understood: {cause}"),
            "is it of another version? `unisys get system`",
        )
    })
}

async fn good(response: reqwest::Result<reqwest::Response>) -> Result<reqwest::Response, Failure> {
    let response = response.map_err(|error| {
        no_daemon(&format!("the daemon does not answer: {}", crate::probe::root_cause(&error)))
    })?;
    let status = response.status().as_u16();
    if status < 400 {
        return Ok(response);
    }
    let text = response.text().await.unwrap_or_default();
    let problem: Problem = serde_json::from_str(&text)
        .unwrap_or_else(|_| Problem { error: text.trim().to_owned(), ..Problem::default() });
    Err(problem_of(status, problem))
}

/// A refusal of this process's own.
pub fn refused(Refusal(status, problem): Refusal) -> Failure {
    problem_of(status.as_u16(), problem)
}

fn problem_of(status: u16, problem: Problem) -> Failure {
    let Problem { error: message, hint, diagnostics } = problem;
    match status {
        404 => Failure::NotFound { message, hint },
        409 | 422 if !diagnostics.is_empty() => {
            Failure::Invalid { message, diagnostics, sent: Vec::new(), conflict: status == 409 }
        }
        409 | 403 => Failure::Conflict { message, hint },
        400 | 413 | 422 => Failure::Usage { message, hint },
        503 => Failure::NoDaemon { message, hint },
        _ => Failure::Other { message, hint },
    }
}

//! Delivers one message by one way, once, within a time.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use reqwest::redirect::Policy;
use serde_json::Value;
use tokio::sync::{OnceCell, Semaphore};

use crate::base::{Exit, InstanceId, Name, limits};
use crate::keeper::protocol::Spawn;
use crate::manifest::spec::system::Webhook;
use crate::os::state_dir::StateDir;
use crate::os::{clock, command, files};
use crate::plan::notifier::NotifierPlan;
use crate::probe::http::remote;
use crate::probe::root_cause;

use super::template;

/// What every delivery shares.
#[derive(Clone)]
pub struct Courier {
    http: reqwest::Client,
    /// Built for the first https webhook: root certificates take megabytes.
    https: Arc<OnceCell<reqwest::Client>>,
    pub dead_letters: PathBuf,
    /// Of each notifier a file: what it has told.
    told: PathBuf,
    pub nofile: (u64, u64),
    commands: Arc<Semaphore>,
}

impl Courier {
    pub fn new(http: reqwest::Client, state: &StateDir, nofile: (u64, u64)) -> Self {
        let commands = Arc::new(Semaphore::new(limits::NOTIFIER_COMMANDS));
        let (dead_letters, told) = (state.dead_letters(), state.told());
        Self { http, https: Arc::default(), dead_letters, told, nofile, commands }
    }

    /// What a notifier of an earlier daemon kept.
    pub fn kept(&self, name: &Name) -> Option<String> {
        fs::read_to_string(self.told_by(name)).ok()
    }

    /// What a notifier has told, for the next daemon.
    pub async fn keep(&self, name: &Name, text: String) -> Result<(), String> {
        let (dir, path) = (self.told.clone(), self.told_by(name));
        beside(move || {
            fs::create_dir_all(&dir)?;
            files::write_atomically(&path, text.as_bytes(), 0o600)
        })
        .await
    }

    fn told_by(&self, name: &Name) -> PathBuf {
        self.told.join(format!("{name}.json"))
    }

    /// Notifiers that are not there any more, and of which something is kept.
    pub fn others(&self, is_there: impl Fn(&Name) -> bool) -> Vec<Name> {
        let kept = fs::read_dir(&self.told).into_iter().flatten().flatten();
        let names = kept.filter_map(|entry| entry.path().file_stem()?.to_str()?.parse::<Name>().ok());
        names.filter(|name| !is_there(name)).collect()
    }

    /// Nothing is kept of it any more.
    pub fn forget(&self, name: &Name) {
        let _ = fs::remove_file(self.told_by(name));
    }

    async fn client(&self, url: &str) -> Result<reqwest::Client, String> {
        if !url.starts_with("https:") {
            return Ok(self.http.clone());
        }
        let build = || remote().redirect(Policy::none()).pool_max_idle_per_host(0).build();
        let build = || beside(move || build().map_err(|error| io::Error::other(root_cause(&error))));
        let client = self.https.get_or_try_init(build).await;
        client.cloned().map_err(|why| format!("TLS cannot be set up: {why}"))
    }

    /// Appends a message that nobody got.
    pub async fn bury(&self, message: Value) -> Result<(), String> {
        let path = self.dead_letters.clone();
        beside(move || {
            files::own_file(&path)?;
            if fs::metadata(&path).is_ok_and(|meta| meta.len() > limits::DEAD_LETTER_BYTES) {
                fs::rename(&path, path.with_extension("jsonl.1"))?;
            }
            append(&path, &message)
        })
        .await
    }
}

/// One attempt; `Err` says why, in words that may hold a secret of the notifier.
pub async fn deliver(courier: Courier, plan: Arc<NotifierPlan>, message: Value) -> Result<(), String> {
    let spec = plan.spec.clone();
    if let Some(webhook) = &spec.webhook {
        let sent = tokio::time::timeout(limits::NOTIFIER_TIMEOUT, post(&courier, &plan, webhook, &message));
        sent.await.unwrap_or_else(|_| Err(format!("no answer within {:?}", limits::NOTIFIER_TIMEOUT)))
    } else if let Some(exec) = &spec.exec {
        let Ok(slot) = courier.commands.clone().acquire_owned().await else { return Ok(()) };
        let (command, dir, nofile) = (exec.command.clone(), plan.base_dir.clone(), courier.nofile);
        beside(move || {
            let _slot = slot;
            execute(&command, &dir, nofile, &message)
        })
        .await
    } else if let Some(file) = &spec.file {
        let path = plan.base_dir.join(&file.path);
        beside(move || append(&path, &message)).await
    } else {
        Err("it says no way to tell anybody".into())
    }
}

async fn beside<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, String> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(|error| files::why(&error)),
        Err(_) => Err("it was cut off".into()),
    }
}

async fn post(
    courier: &Courier,
    plan: &NotifierPlan,
    webhook: &Webhook,
    message: &Value,
) -> Result<(), String> {
    let (kind, body) = match &webhook.template {
        Some(text) if !template::is_json(text) => {
            ("text/plain; charset=utf-8", template::render(text, message))
        }
        Some(text) => ("application/json", template::render(text, message)),
        None => ("application/json", message.to_string()),
    };
    let http = courier.client(&plan.url).await?;
    let mut request =
        http.post(&plan.url).header("user-agent", concat!("unisys/", env!("CARGO_PKG_VERSION")));
    let own_kind = plan.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type"));
    if !own_kind {
        request = request.header("content-type", kind);
    }
    for (name, value) in &plan.headers {
        request = request.header(name, value);
    }
    let response = request.body(body).send().await.map_err(|error| root_cause(&error))?;
    let status = response.status();
    if status.is_success() { Ok(()) } else { Err(format!("the server answered {}", status.as_u16())) }
}

/// Without a shell, as unisys' own user, with its PATH and HOME and nothing else; the message is its standard input.
fn execute(argv: &[String], dir: &Path, nofile: (u64, u64), message: &Value) -> io::Result<()> {
    let word = argv.first().map(String::as_str).unwrap_or_default();
    let missing = || io::Error::other(format!("there is no executable `{word}`"));
    let path = find(word, dir).ok_or_else(missing)?;
    let kept = |name: &str| Some((name.to_owned(), std::env::var(name).ok()?));
    let id = InstanceId {
        unit: "notifier".parse().expect("a valid name"),
        ordinal: Default::default(),
        incarnation: Default::default(),
    };
    let env = ["PATH", "HOME", "LANG", "TZ"].into_iter().filter_map(kept).collect();
    let request = Spawn { env, wall: clock::wall(), ..Spawn::command(id, &path, argv, dir) };
    let input = format!("{message}\n");
    let limit = limits::COMMAND_OUTPUT_BYTES;
    let place = command::Place { nofile, run: PathBuf::new(), cgroup: None };
    let ran = command::run_with_input(&request, input.as_bytes(), &place, limits::NOTIFIER_TIMEOUT, limit)?;
    let said = String::from_utf8_lossy(&ran.output);
    let said = said.trim().lines().last().unwrap_or_default();
    match ran.exit {
        Some(Exit::Code(0)) => Ok(()),
        Some(exit) => Err(io::Error::other(format!("`{word}` ended: {exit}: {said}"))),
        None => Err(io::Error::other(format!("`{word}` ran out of time and was killed"))),
    }
}

fn find(word: &str, dir: &Path) -> Option<PathBuf> {
    if word.contains('/') {
        return Some(dir.join(word)).filter(|path| path.is_file());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|dir| dir.join(word)).find(|path| path.is_file())
}

/// One line more, in a file of mode 0600. A FIFO or device is refused: it could make the daemon wait.
fn append(path: &Path, message: &Value) -> io::Result<()> {
    let mut file = fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    // One write: two notifiers may share a file.
    file.write_all(format!("{message}\n").as_bytes())
}

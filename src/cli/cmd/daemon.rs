//! The two programs that `up` consists of, as the keeper starts them.

use serde_json::Value;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use std::time::{Duration, Instant};

use crate::api;
use crate::api::types::Event;
use crate::base::limits;
use crate::engine::{Engine, EngineError, Heir, Left, Link, Options, no_keeper};
use crate::keeper::protocol;
use crate::keeper::{Heritage, Resumed};
use crate::os::state_dir::StateDir;
use crate::os::voice::complain;
use crate::os::{files, inherit, own};

use super::super::args::{Daemon, Global, KeeperArgs};
use super::super::client::Client;
use super::super::{Failure, Outcome, render};
use super::up;

pub fn run(args: &Daemon) -> Result<Outcome, Failure> {
    own::few_arenas();
    own::reserve_descriptors(limits::DESCRIPTORS_RESERVED);
    let options = parse(&args.options)?;
    let state = StateDir::open(&options.state_dir).map_err(|error| Failure::other(error.to_string(), ""))?;
    log_to(&state)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(limits::WAITING_THREADS)
        .thread_stack_size(256 << 10)
        .on_thread_park(own::forget_program_if_asked)
        .thread_keep_alive(Duration::from_secs(2))
        .build()
        .map_err(|error| Failure::other(error.to_string(), ""))?;
    let ended = runtime.block_on(async {
        let link = Link::inherited(args.keeper_fd).map_err(|error| Failure::other(error.to_string(), ""))?;
        let (inputs, receive) = Engine::channel();
        let (again, keeper) = (options.clone(), link.keeper());
        let engine = match Engine::start(options, state.clone(), link, inputs.clone()).await {
            Ok(engine) => engine,
            // The keeper was killed before it had told everything.
            Err(EngineError::Link(_)) => {
                return Ok(Ended::Run(Engine::replace_keeper(&again, &keeper, Left::default())));
            }
            Err(error) => return refuse_start(&error).map(Ended::With),
        };
        let (changed, grown) = (engine.changed.subscribe(), engine.collector.grown.clone());
        let server = {
            let state = state.clone();
            tokio::spawn(async move {
                if let Err(error) = api::serve(&state, inputs, changed, grown).await {
                    complain!(
                        "unisys: cannot listen on {}: {error}; services run, commands cannot reach them",
                        state.socket().display()
                    );
                }
            })
        };
        let heir = engine.run(receive).await;
        server.abort();
        Ok(Ended::Run(heir))
    })?;
    // Whatever belongs to the next daemon from now on is let go before it is waited for.
    runtime.shutdown_background();
    match ended {
        Ended::With(outcome) => Ok(outcome),
        Ended::Run(heir) => {
            if let Some(Err(error)) = heir.map(Heir::see_in) {
                no_keeper(&error);
            }
            Ok(Outcome::Done)
        }
    }
}

enum Ended {
    With(Outcome),
    /// With who takes the keeper's place, if that was killed.
    Run(Option<Heir>),
}

/// A start that cannot succeed is not tried again: the keeper, which knows these codes, ends with it.
fn refuse_start(error: &EngineError) -> Result<Outcome, Failure> {
    complain!("unisys: {error}");
    Ok(Outcome::Code(match error {
        EngineError::Invalid => protocol::EXIT_INVALID,
        EngineError::UnknownUnits(_) => protocol::EXIT_NOT_FOUND,
        EngineError::Conflict => protocol::EXIT_CONFLICT,
        EngineError::UnknownProfile(..) => protocol::EXIT_USAGE,
        _ => protocol::EXIT_CANNOT,
    }))
}

fn parse(text: &str) -> Result<Options, Failure> {
    serde_json::from_str(text)
        .map_err(|error| Failure::usage(format!("not options: {error}"), "this verb is started by `up`"))
}

/// JSON lines of everything that unisys says about itself.
fn log_to(state: &StateDir) -> Result<(), Failure> {
    let path = state.log();
    let fail = |error: std::io::Error| {
        Failure::other(format!("cannot open {}: {}", path.display(), files::why(&error)), "")
    };
    let (file, _) = files::own_file(&path).map_err(fail)?;
    // Appended to, also where somebody else shortens it.
    rustix::fs::fcntl_setfl(&file, rustix::fs::OFlags::APPEND).map_err(|error| fail(error.into()))?;
    let layer =
        tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(std::sync::Mutex::new(file));
    let level = tracing_subscriber::filter::LevelFilter::INFO;
    tracing_subscriber::registry().with(level).with(layer).init();
    Ok(())
}

pub fn keeper(args: &KeeperArgs) -> Result<Outcome, Failure> {
    let options = parse(&args.options)?;
    let resumed = args.resume.as_deref().map(resume).transpose()?;
    let heir = args.heir_of.map(|of| -> Result<_, Failure> {
        Ok(Heritage { of, notify: args.notify.map(list).transpose()?.unwrap_or_default() })
    });
    up::keep(options, resumed, heir.transpose()?)
}

/// Descriptors that an earlier image left open: `LIST:LOCK`.
fn resume(text: &str) -> Result<Resumed, Failure> {
    let (kept, lock) = text.split_once(':').ok_or_else(no_list)?;
    let (kept, lock): (i32, i32) =
        (kept.parse().map_err(|_| no_list())?, lock.parse().map_err(|_| no_list())?);
    Ok(Resumed { lock: inherit::take(lock).map_err(|_| no_list())?, kept: list(kept)? })
}

/// What is written in a file that was left open under this number.
fn list<T: serde::de::DeserializeOwned>(number: i32) -> Result<T, Failure> {
    let mut file = std::fs::File::from(inherit::take(number).map_err(|_| no_list())?);
    std::io::Seek::rewind(&mut file).map_err(|_| no_list())?;
    serde_json::from_reader(file).map_err(|_| no_list())
}

fn no_list() -> Failure {
    Failure::usage("not a list of descriptors", "this verb is started by unisys itself")
}

pub fn upgrade(global: &Global) -> Result<Outcome, Failure> {
    let daemon = |client: &Client| -> Result<Value, Failure> {
        Ok(client.get::<Value>("/v1/system", &[])?["status"]["daemonPid"].clone())
    };
    let client = Client::connect(global)?;
    let before = daemon(&client)?;
    let known = refused(&client)?.map(|event| event.id);
    let words = match client.post::<Value>("/v1/upgrade", &serde_json::json!({})) {
        Ok(answer) => answer["message"].as_str().unwrap_or_default().to_owned(),
        // It may be replaced before it has answered; whether it is, is seen below.
        Err(Failure::NoDaemon { .. }) => "keeper and daemon are the binary on disk".into(),
        Err(error) => return Err(error),
    };
    let deadline = Instant::now() + UPGRADE;
    // It is done when the daemon of the new binary answers; in between there may be none.
    loop {
        let found = Client::connect(global).and_then(|client| Ok((daemon(&client)?, refused(&client)?)));
        match found {
            Ok((now, _)) if now != before => break,
            Ok((_, Some(event))) if Some(event.id) > known => {
                return Err(Failure::other(
                    event.message,
                    "put the right program in its place, and try again",
                ));
            }
            Err(failure) if Instant::now() > deadline => return Err(failure),
            Ok(_) if Instant::now() > deadline => {
                let message = "keeper and daemon are the same as before";
                return Err(Failure::other(message, "`unisys events` says why"));
            }
            _ => std::thread::sleep(Duration::from_millis(20)),
        }
    }
    render::line(words);
    Ok(Outcome::Done)
}

/// What was said last of an upgrade that could not be.
fn refused(client: &Client) -> Result<Option<Event>, Failure> {
    let events: Vec<Event> = client.get("/v1/events", &[("name", "system".to_owned())])?;
    Ok(events.into_iter().rfind(|event| event.reason == "UpgradeFailed"))
}

/// How long an upgrade may take: programs that are being started are waited for.
const UPGRADE: Duration = Duration::from_secs(20);

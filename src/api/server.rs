//! The socket and its connections: bounded in number, size and time; the peer's user is checked before a byte is read.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::{Extension, Router};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{UnixListener, UnixStream};

use crate::base::limits;
use crate::engine::Inputs;
use crate::os::caller::Caller;
use crate::os::process;
use crate::os::state_dir::{StateDir, short_socket};
use crate::os::unlinked::Unlinked;

use super::calls;
use super::crowd::Crowd;

/// Listens on the state directory's socket. The old file of a daemon that is gone is replaced by rename(2), so that there is
/// no moment without one.
pub fn listen(state: &StateDir) -> io::Result<UnixListener> {
    let path = state.socket();
    let temporary = path.with_extension("new");
    let _ = std::fs::remove_file(&temporary);
    let (short, _dir) = short_socket(&temporary)?;
    let listener = std::os::unix::net::UnixListener::bind(short)?;
    std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&temporary, &path)?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// Serves until the daemon ends.
pub async fn serve(
    state: &StateDir,
    inputs: Inputs,
    changed: tokio::sync::watch::Receiver<u64>,
    grown: tokio::sync::watch::Receiver<u64>,
) -> io::Result<()> {
    let mut listener = listen(state)?;
    let mut name = Unlinked::watch(&state.socket()).ok();
    let context = calls::Context { inputs, changed, grown, state: Arc::new(state.clone()) };
    let router = calls::router(context.clone());
    let crowd = Arc::new(Crowd::default());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = gone(name.as_ref(), state) => {
                match listen(state) {
                    Ok(anew) => listener = anew,
                    Err(error) => tracing::warn!(%error, "cannot listen on the control socket anew"),
                }
                name = Unlinked::watch(&state.socket()).ok();
                let _ = context.ask(|engine| engine.note(true, "SocketRemoved", "system", REMOVED.into())).await;
                continue;
            }
        };
        let (stream, _) = match accepted {
            Ok(accepted) => accepted,
            // No descriptors left: clients wait a moment, services do not notice.
            Err(error) => {
                tracing::warn!(%error, "cannot accept a client");
                crowd.make_way();
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(caller) = allowed(&stream) else { continue };
        let Some(place) = crowd.enter().await else {
            turn_away(&stream);
            continue;
        };
        // What it asks is asked in its place.
        let router = Router::new()
            .fallback_service(router.clone())
            .layer(Extension(place.clone()))
            .layer(Extension(caller));
        let served = {
            let place = place.clone();
            async move {
                let _place = place;
                connection(stream, router).await;
            }
        };
        place.held_by(tokio::spawn(served).abort_handle());
    }
}

/// What is said of it.
const REMOVED: &str = "somebody removed the control socket; it is there again";

/// Who removes a directory with all that is in it is not disturbed: it is gone by then.
const REMOVAL: Duration = Duration::from_secs(1);

/// Somebody removed the socket, and not the whole directory. One that cannot be watched is not missed.
async fn gone(name: Option<&Unlinked>, state: &StateDir) {
    let Some(name) = name else { return std::future::pending().await };
    while name.gone().await.is_ok() {
        tokio::time::sleep(REMOVAL).await;
        match (name.is_gone(), state.root.join("lock").exists()) {
            (true, true) => return,
            (true, false) => break,
            (false, _) => {}
        }
    }
    std::future::pending().await
}

/// Everybody who is there is being answered, and that may take as long as they like.
fn turn_away(stream: &UnixStream) {
    let problem = calls::refuse(
        StatusCode::SERVICE_UNAVAILABLE,
        format!("{} clients are being answered already", limits::CONNECTIONS),
        "end some of those that follow or wait (`logs -f`, `get -w`, `events -w`, `wait`)",
    );
    let Ok(body) = serde_json::to_string(&problem.1) else { return };
    let head = "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nconnection: close\r\n";
    let answer = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    // A new socket takes it at once.
    let _ = stream.try_write(answer.as_bytes());
}

/// The owner of the daemon, and root.
fn allowed(stream: &UnixStream) -> Option<Caller> {
    let own = rustix::process::geteuid().as_raw();
    let (pid, uid) = process::peer(stream)?;
    (uid == own || uid == 0).then_some(Caller { pid, uid })
}

async fn connection(stream: UnixStream, router: Router) {
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::REQUEST_TIMEOUT)
        .max_buf_size(64 << 10)
        // A client has its place for one answer: nobody keeps one for what may be asked later.
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    if let Err(error) = served.await {
        tracing::debug!(%error, "a client's connection ended badly");
    }
}

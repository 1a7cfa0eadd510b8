//! The socket and its connections: bounded in number, size and time; the peer's user is checked before a byte is read.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use crate::base::limits;
use crate::engine::Inputs;
use crate::os::process;
use crate::os::state_dir::{StateDir, short_socket};

use super::calls;

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
    let listener = listen(state)?;
    let context = calls::Context { inputs, changed, grown, state: Arc::new(state.clone()) };
    let router = calls::router(context);
    let slots = Arc::new(Semaphore::new(limits::CONNECTIONS));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return Ok(()) };
        let (stream, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            // No descriptors left: clients wait a moment, services do not notice.
            Err(error) => {
                tracing::warn!(%error, "cannot accept a client");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
        };
        if !allowed(&stream) {
            continue;
        }
        let router = router.clone();
        tokio::spawn(async move {
            let _slot = slot;
            connection(stream, router).await;
        });
    }
}

/// The owner of the daemon, and root.
fn allowed(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    process::peer(stream).is_some_and(|(_, uid)| uid == own || uid == 0)
}

async fn connection(stream: UnixStream, router: Router) {
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::REQUEST_TIMEOUT)
        .max_buf_size(64 << 10)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    if let Err(error) = served.await {
        tracing::debug!(%error, "a client's connection ended badly");
    }
}

//! The admin socket `control.sock`: the API for root and the server's own user, known by the kernel.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::fs::{Mode, OFlags};
use tokio::net::{UnixListener, UnixStream};

use crate::api::{self, Caller};
use crate::server::Shared;

/// Admin requests at once; further callers wait in the backlog.
const CONNECTIONS_MAX: usize = 64;

/// The name of the socket in the state directory.
const NAME: &str = "control.sock";

/// Binds the socket; a stale one is replaced.
///
/// The address goes through the directory's descriptor, since a socket path is at most 107 bytes.
pub(crate) fn bind(state: &Path) -> std::io::Result<UnixListener> {
    let directory = rustix::fs::open(state, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let short = short_path(&directory);
    if std::os::unix::net::UnixStream::connect(&short).is_ok() {
        return Err(std::io::Error::new(std::io::ErrorKind::AddrInUse, "another server answers there"));
    }
    drop(std::fs::remove_file(state.join(NAME)));
    let listener = UnixListener::bind(&short)?;
    std::fs::set_permissions(state.join(NAME), std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

fn short_path(directory: &impl std::os::fd::AsRawFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{NAME}", directory.as_raw_fd()))
}

/// Takes the socket out of the directory.
pub(crate) fn remove(state: &Path) {
    drop(std::fs::remove_file(state.join(NAME)));
}

/// Answers callers until the server stops.
pub(crate) async fn serve(shared: Arc<Shared>, listener: UnixListener) {
    let places = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::debug!(%error, "accept on the admin socket failed");
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = shared.stopping.cancelled() => return,
        };
        let shared = Arc::clone(&shared);
        let tasks = shared.tasks.clone();
        tasks.spawn(async move {
            connection(shared, stream).await;
            drop(place);
        });
    }
}

async fn connection(shared: Arc<Shared>, stream: UnixStream) {
    let own = rustix::process::geteuid().as_raw();
    let uid = stream.peer_cred().map(|cred| cred.uid());
    if !uid.is_ok_and(|uid| uid == 0 || uid == own) {
        return;
    }
    let stopping = shared.stopping.clone();
    let service = service_fn(move |request: http::Request<Incoming>| {
        let shared = Arc::clone(&shared);
        async move {
            let (parts, body) = request.into_parts();
            let body = Limited::new(body, api::BODY_MAX).collect().await;
            let response = match body {
                Ok(body) => api::handle(&shared, &Caller::local(), &parts, body.to_bytes()).await,
                Err(_) => api::too_long(),
            };
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    let serving = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    tokio::select! {
        ended = serving.as_mut() => drop(ended),
        () = stopping.cancelled() => {
            serving.as_mut().graceful_shutdown();
            drop(serving.await);
        }
    }
}

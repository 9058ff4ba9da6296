//! The LocalAPI: HTTP/1.1 over a Unix socket, with the official paths and shapes (localapi-cli.md part A).

mod capture;
mod dial;
mod explain;
mod files;
mod handlers;
mod serve;
mod watch;

use std::convert::Infallible;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use sw_types::local::{LOCAL_HOST, Problem};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) use self::handlers::unescape;
use crate::core::CoreHandle;

/// Longest request body.
const BODY_MAX: usize = 1 << 20;
/// Clients at once; the next ones wait.
const CONNECTIONS_MAX: usize = 256;

/// A response's body.
pub type ResponseBody = UnsyncBoxBody<Bytes, Infallible>;

/// What a caller may do (localapi-cli.md §A2, threat-model.md §8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    uid: u32,
    pub(crate) is_root: bool,
}

/// Opens the socket and serves it until `stop`.
pub(crate) fn serve(
    path: PathBuf,
    alias: Option<PathBuf>,
    core: CoreHandle,
    stop: CancellationToken,
) -> Result<JoinHandle<()>, Problem> {
    let listener = bind(&path)?;
    let alias = alias.filter(|alias| make_alias(&path, alias));
    Ok(tokio::spawn(async move {
        let limit = std::sync::Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(permit) = std::sync::Arc::clone(&limit).acquire_owned().await else { break };
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let (core, stop) = (core.clone(), stop.clone());
                    tokio::spawn(async move {
                        tokio::select! {
                            () = stop.cancelled() => {}
                            () = serve_connection(stream, core) => {}
                        }
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "LocalAPI");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
        for path in std::iter::once(path).chain(alias) {
            let _maybe_gone = std::fs::remove_file(path);
        }
    }))
}

/// Refuses a path at which a daemon answers, or something is that no daemon left there.
///
/// # Errors
/// What is there.
pub fn ensure_free(path: &Path) -> Result<(), Problem> {
    use std::os::unix::fs::FileTypeExt as _;
    let Ok(file) = path.symlink_metadata() else { return Ok(()) };
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(Problem::other(
            "samewire already runs on this machine.",
            format!("a daemon answers at {}", path.display()),
            "use it: samewire status. A second one needs another --socket and another --statedir",
        ));
    }
    if file.file_type().is_socket() || file.file_type().is_symlink() {
        return Ok(());
    }
    Err(Problem::other(
        "the socket for local programs could not be opened.",
        format!("{} is there already, and it is no socket", path.display()),
        "choose another place: samewire daemon --socket=PATH",
    ))
}

fn bind(path: &Path) -> Result<UnixListener, Problem> {
    let refuse = |error: std::io::Error| {
        Problem::other(
            "the socket for local programs could not be opened.",
            format!("{}: {error}", path.display()),
            "run it as root, or choose another place: samewire daemon --socket=PATH",
        )
    };
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(refuse)?;
    }
    ensure_free(path)?;
    // One that a daemon left which is gone.
    if path.symlink_metadata().is_ok() && sw_os::files::is_owned_by_us(path) {
        std::fs::remove_file(path).map_err(refuse)?;
    }
    let listener = UnixListener::bind(path).map_err(refuse)?;
    // Everybody may connect: what a caller may do is decided by its uid.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).map_err(refuse)?;
    Ok(listener)
}

/// Links the official path to ours where nothing answers there; false when somebody else owns it.
fn make_alias(path: &Path, alias: &Path) -> bool {
    if std::os::unix::net::UnixStream::connect(alias).is_ok() {
        return false;
    }
    let _maybe_absent = alias.parent().map(std::fs::create_dir_all);
    let _maybe_stale = std::fs::remove_file(alias);
    std::os::unix::fs::symlink(path, alias).is_ok()
}

async fn serve_connection(stream: UnixStream, core: CoreHandle) {
    let Ok(credentials) = stream.peer_cred() else { return };
    let uid = credentials.uid();
    let caller = Caller { uid, is_root: uid == 0 };
    let service = service_fn(move |mut request: Request<Incoming>| {
        let core = core.clone();
        async move {
            // As long as files are, they pass through.
            if let Some(endpoint) = file_endpoint(&request) {
                let response = if caller.may_write(&core).await {
                    files::answer(&core, &endpoint, request).await
                } else {
                    Ok(text(StatusCode::FORBIDDEN, "access denied"))
                };
                let stopped = |stopped: crate::core::Stopped| {
                    text(StatusCode::SERVICE_UNAVAILABLE, stopped.to_string())
                };
                return Ok::<_, Infallible>(finish(response.unwrap_or_else(stopped)));
            }
            let upgrade = request.extensions_mut().remove::<hyper::upgrade::OnUpgrade>();
            let (parts, body) = request.into_parts();
            let response = match Limited::new(body, BODY_MAX).collect().await {
                Ok(body) => {
                    handle(&core, caller, &Request::from_parts(parts, body.to_bytes()), upgrade).await
                }
                Err(_) => text(StatusCode::PAYLOAD_TOO_LARGE, "the body is too long"),
            };
            Ok::<_, Infallible>(response)
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    if let Err(error) = connection.await {
        tracing::trace!(%error, "LocalAPI connection");
    }
}

/// The endpoint, if it is one of those that carry files, and the request is no page's.
fn file_endpoint(request: &Request<Incoming>) -> Option<String> {
    let endpoint = request.uri().path().strip_prefix("/localapi/v0/")?;
    let is_files = endpoint.starts_with("files/") || endpoint.starts_with("file-put/");
    (is_files && is_from_program(request.headers())).then(|| endpoint.to_owned())
}

/// Pages of a browser have no business here.
fn is_from_program(headers: &http::HeaderMap) -> bool {
    let host = headers.get(header::HOST).map(|host| host.as_bytes()).unwrap_or_default();
    let is_from_page = headers.contains_key(header::ORIGIN) || headers.contains_key(header::REFERER);
    !is_from_page && (host.is_empty() || host == LOCAL_HOST.as_bytes())
}

/// A request of the program that embeds the node.
pub(crate) async fn handle_in_process(core: &CoreHandle, request: Request<Bytes>) -> Response<ResponseBody> {
    handle(core, Caller { uid: 0, is_root: true }, &request, None).await
}

async fn handle(
    core: &CoreHandle,
    caller: Caller,
    request: &Request<Bytes>,
    upgrade: Option<hyper::upgrade::OnUpgrade>,
) -> Response<ResponseBody> {
    if !is_from_program(request.headers()) {
        return finish(text(StatusCode::FORBIDDEN, "invalid request"));
    }
    let path = request.uri().path();
    let response =
        match path.strip_prefix("/localapi/v0/").or_else(|| path.strip_prefix("/localapi/samewire/v1/")) {
            // Any program on this machine reaches the network as the machine does.
            Some("dial") => match dial::dial(core, request.headers(), upgrade).await {
                Ok(response) => response,
                Err(stopped) => text(StatusCode::SERVICE_UNAVAILABLE, stopped.to_string()),
            },
            Some(endpoint) => handlers::dispatch(core, caller, request, endpoint).await,
            None if path == "/" => text(StatusCode::OK, "samewire: the API for programs on this machine\n"),
            None => text(StatusCode::NOT_FOUND, "not found"),
        };
    finish(response)
}

fn finish(mut response: Response<ResponseBody>) -> Response<ResponseBody> {
    let headers = response.headers_mut();
    for (name, value) in [
        ("tailscale-version", crate::VERSION_LONG),
        ("tailscale-cap", "145"),
        ("content-security-policy", "default-src 'none'; frame-ancestors 'none'; script-src 'none'"),
        ("x-frame-options", "DENY"),
        ("x-content-type-options", "nosniff"),
    ] {
        headers.insert(name, http::HeaderValue::from_static(value));
    }
    response
}

impl Caller {
    /// Root, or the user that the daemon itself runs as.
    pub(crate) fn is_daemons_own(self) -> bool {
        self.is_root || self.uid == rustix::process::geteuid().as_raw()
    }

    /// Whether this caller may change things.
    pub(crate) async fn may_write(self, core: &CoreHandle) -> bool {
        if self.is_daemons_own() {
            return true;
        }
        let operator = core.call(|core| core.node.prefs().operator_user.clone()).await.unwrap_or_default();
        !operator.is_empty() && sw_os::host::user_id(&operator) == Some(self.uid)
    }
}

pub(crate) fn text(status: StatusCode, text: impl Into<String>) -> Response<ResponseBody> {
    respond(status, "text/plain; charset=utf-8", text.into().into_bytes())
}

pub(crate) fn json(value: &impl serde::Serialize) -> Response<ResponseBody> {
    match serde_json::to_vec(value) {
        Ok(body) => respond(StatusCode::OK, "application/json", body),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

pub(crate) fn respond(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Response<ResponseBody> {
    let mut response = Response::new(Full::new(Bytes::from(body)).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}

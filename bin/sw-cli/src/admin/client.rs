//! One request of the admin API: over the server's socket, or over the network with an API key.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use rustix::fs::{Mode, OFlags};
use serde_json::Value;
use sw_net::dial;
use sw_net::tls::{CertHash, Trust, client_config, server_name};
use sw_types::local::Problem;
use sw_types::problem::Slug;
use tokio::net::UnixStream;
use tokio_rustls::TlsConnector;

/// Largest answer: a list of very many machines.
const ANSWER_MAX: usize = 256 << 20;

/// HTTP status of a change that found no space (507).
const DISK_FULL: u16 = 507;

/// Why a verb failed. `Display` gives the what; [`ClientError::why`] and [`ClientError::fix`] the rest.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nothing answers at the socket.
    #[error("no control server runs here.")]
    NotRunning {
        /// Where it was looked for.
        socket: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The server's files are root's.
    #[error("administering the server on this machine needs root.")]
    NoPermission {
        /// What was to be opened.
        path: PathBuf,
    },
    /// Nothing answers at the URL.
    #[error("the server {host} does not answer.")]
    Unreachable {
        /// Host and port.
        host: String,
        /// What was seen.
        why: String,
    },
    /// The server said no.
    #[error("{message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// In the server's words.
        message: String,
        /// More of them: the places of a policy with what to write instead.
        details: Option<String>,
    },
    /// The conversation broke.
    #[error("the control server did not answer: {0}")]
    Broken(String),
    /// A value on the command line.
    #[error("{what} cannot be used: {why}.")]
    Argument {
        /// Which.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// No runtime.
    #[error("the program cannot start: {0}")]
    Runtime(std::io::Error),
}

impl ClientError {
    /// The observed fact behind the error.
    pub fn why(&self) -> Option<String> {
        match self {
            Self::NotRunning { socket, source } => {
                Some(format!("nothing answers at {} ({})", socket.display(), source.kind()))
            }
            Self::NoPermission { path } => Some(format!("{} is not yours to read", path.display())),
            Self::Unreachable { why, .. } => Some(why.clone()),
            Self::Refused { details, .. } => details.clone(),
            Self::Broken(_) | Self::Argument { .. } | Self::Runtime(_) => None,
        }
    }

    /// The one next step.
    pub fn fix(&self) -> Option<String> {
        match self {
            Self::NotRunning { .. } => {
                Some("start it: samewire control serve, or name its directory: --state DIR".to_owned())
            }
            Self::Unreachable { .. } => {
                Some("check the URL; a server with a certificate of its own needs --pin HASH".to_owned())
            }
            Self::Refused { status: 401, .. } => {
                Some("make a key on the server: samewire control apikeys create; then --api-key or SAMEWIRE_API_KEY".to_owned())
            }
            Self::NoPermission { .. } => Some("the same command with sudo before it".to_owned()),
            Self::Refused { status: DISK_FULL, .. } => Some(Slug::DiskFull.template().2.to_owned()),
            Self::Refused { message, .. } => fix_of_refusal(message).map(str::to_owned),
            Self::Argument { .. } => Some("see what it takes: the same command with --help".to_owned()),
            Self::Broken(_) | Self::Runtime(_) => None,
        }
    }

    /// What `--json` prints on standard error (ux.md §1.3).
    pub fn problem(&self) -> Problem {
        let slug = match self {
            Self::Unreachable { .. } => Slug::ServerUnreachable.name(),
            Self::NoPermission { .. } => Slug::NoPermission.name(),
            Self::Refused { status: DISK_FULL, .. } => Slug::DiskFull.name(),
            Self::NotRunning { .. }
            | Self::Refused { .. }
            | Self::Broken(_)
            | Self::Argument { .. }
            | Self::Runtime(_) => "other",
        };
        Problem {
            slug: slug.to_owned(),
            what: self.to_string(),
            why: self.why().unwrap_or_default(),
            fix: self.fix().unwrap_or_default(),
        }
    }

    /// Exit code (ux.md §1).
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotRunning { .. } => 3,
            Self::NoPermission { .. } => 4,
            Self::Unreachable { .. } => 5,
            Self::Refused { status: 401, .. } => 7,
            Self::Argument { .. } => 2,
            Self::Refused { .. } | Self::Broken(_) | Self::Runtime(_) => 1,
        }
    }
}

/// What helps against a refusal, as far as its words tell.
fn fix_of_refusal(message: &str) -> Option<&'static str> {
    let lists = [
        ("there is no person", "samewire control users list shows all"),
        ("there is no machine", "samewire control nodes list shows all"),
        ("there is no key", "samewire control keys list shows all"),
        (
            "tagOwners",
            "declare the tag in the policy: samewire policy get > FILE, then samewire policy set FILE",
        ),
    ];
    lists.iter().find(|(words, _)| message.contains(words)).map(|(_, fix)| *fix)
}

/// Speaks to one server.
#[derive(Debug)]
pub(crate) enum Client<'a> {
    /// The server on this machine, by its state directory.
    Here(&'a Path),
    /// A server anywhere.
    There(Remote),
}

/// A server by its URL.
#[derive(Debug)]
pub(crate) struct Remote {
    host: String,
    port: u16,
    trust: Option<Trust>,
    key: String,
}

impl Remote {
    /// Reads a URL; `pin` is the SHA-256 of the server's certificate in hex.
    pub(crate) fn new(url: &str, key: &str, pin: Option<&str>) -> Result<Self, ClientError> {
        let bad =
            |what: &str, why: &str| ClientError::Argument { what: what.to_owned(), why: why.to_owned() };
        let parsed: hyper::Uri = url.parse().map_err(|_| bad(url, "it is no URL"))?;
        let is_tls = match parsed.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            Some(_) | None => return Err(bad(url, "it begins with neither https:// nor http://")),
        };
        let host = parsed.host().ok_or_else(|| bad(url, "it names no host"))?;
        let trust = match pin {
            None => Trust::Roots,
            Some(text) => {
                let digits = text.trim_start_matches("sha256-raw:");
                Trust::Pinned(CertHash::parse(digits).ok_or_else(|| bad(text, "it is no SHA-256 in hex"))?)
            }
        };
        Ok(Self {
            host: host.trim_matches(['[', ']']).to_owned(),
            port: parsed.port_u16().unwrap_or(if is_tls { 443 } else { 80 }),
            trust: is_tls.then_some(trust),
            key: key.to_owned(),
        })
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<(u16, String), ClientError> {
        const LIMIT: Duration = Duration::from_secs(30);
        let name = dial::join_host_port(&self.host, self.port);
        let away = |why: String| ClientError::Unreachable { host: name.clone(), why };
        let asking = async {
            let options = dial::DialOptions::default();
            let tcp =
                dial::connect(&options, &self.host, self.port).await.map_err(|e| away(e.to_string()))?;
            let Some(trust) = &self.trust else { return exchange(TokioIo::new(tcp), request).await };
            let config = client_config(trust, &[b"http/1.1"]).map_err(|e| away(e.to_string()))?;
            let name = server_name(&self.host).map_err(|e| away(e.to_string()))?;
            let tls = TlsConnector::from(config).connect(name, tcp).await.map_err(|e| away(e.to_string()))?;
            exchange(TokioIo::new(tls), request).await
        };
        tokio::time::timeout(LIMIT, asking)
            .await
            .unwrap_or_else(|_| Err(away("no answer within 30 s".to_owned())))
    }
}

/// Sends one request on a connection of its own; status and body of the answer.
async fn exchange<S>(io: S, request: Request<Full<Bytes>>) -> Result<(u16, String), ClientError>
where
    S: hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
{
    let broken = |error: &dyn std::fmt::Display| ClientError::Broken(error.to_string());
    let handshake = hyper::client::conn::http1::handshake(io).await;
    let (mut sender, connection) = handshake.map_err(|e| broken(&e))?;
    let driver = tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(|e| broken(&e))?;
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await.map_err(|e| broken(&e))?;
    driver.abort();
    Ok((status, String::from_utf8_lossy(&body.to_bytes()).into_owned()))
}

impl<'a> Client<'a> {
    pub(crate) fn new(state: &'a Path) -> Self {
        Self::Here(state)
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Value, ClientError> {
        self.json(Method::GET, path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Result<Value, ClientError> {
        self.json(Method::POST, path, Some(body)).await
    }

    pub(crate) async fn patch(&self, path: &str, body: Value) -> Result<Value, ClientError> {
        self.json(Method::PATCH, path, Some(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Result<Value, ClientError> {
        self.json(Method::DELETE, path, None).await
    }

    async fn json(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value, ClientError> {
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let text = self.text(method, path, body).await?;
        serde_json::from_str(&text).map_err(|error| ClientError::Broken(error.to_string()))
    }

    /// One request; the answer's text if the status says that it was done.
    pub(crate) async fn text(&self, method: Method, path: &str, body: String) -> Result<String, ClientError> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("/api/samewire/v1/{path}"))
            .header("content-type", "application/json");
        request = match self {
            Self::Here(_) => request.header("host", "control"),
            Self::There(remote) => request
                .header("host", dial::join_host_port(&remote.host, remote.port))
                .header("authorization", format!("Bearer {}", remote.key)),
        };
        let request = request.body(Full::new(Bytes::from(body)));
        let request = request.map_err(|error| ClientError::Broken(error.to_string()))?;
        let (status, text) = match self {
            Self::Here(state) => exchange(TokioIo::new(connect(state).await?), request).await?,
            Self::There(remote) => remote.exchange(request).await?,
        };
        if (200..300).contains(&status) {
            return Ok(text);
        }
        let said: Option<Value> = serde_json::from_str(&text).ok();
        let message =
            said.as_ref().and_then(|said| said.get("message")).and_then(Value::as_str).unwrap_or(text.trim());
        let details = said.as_ref().and_then(|said| said.pointer("/data/0/errors/0")).and_then(Value::as_str);
        let details = details.map(|details| details.trim_end().replace('\n', "\n       "));
        let mut message = message.to_owned();
        if !message.ends_with(['.', '?', '!', '}']) {
            message.push('.');
        }
        Err(ClientError::Refused { status, message, details })
    }
}

/// WHY through the directory: a socket's path is at most 107 bytes.
async fn connect(state: &Path) -> Result<UnixStream, ClientError> {
    use std::os::fd::AsRawFd;
    let socket = state.join("control.sock");
    let missing = |source: std::io::Error| {
        if source.kind() == std::io::ErrorKind::PermissionDenied {
            return ClientError::NoPermission { path: state.to_owned() };
        }
        ClientError::NotRunning { socket: socket.clone(), source }
    };
    let directory = rustix::fs::open(state, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let directory = directory.map_err(|e| missing(e.into()))?;
    let path = format!("/proc/self/fd/{}/control.sock", directory.as_raw_fd());
    UnixStream::connect(path).await.map_err(missing)
}

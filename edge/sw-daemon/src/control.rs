//! The client of the control server: carries out what the node core's session asks for (control.md §1, §2).

mod map_stream;
mod server_url;
mod transport;

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use sw_node::control::RequestFailure;
use sw_tailcfg::{
    BODY_MAX, MapRequest, MapResponse, PATHS_WANTED, PathsReport, RegisterRequest, RegisterResponse,
    ServerIs, decode_answer, encode,
};
use sw_types::local::Problem;
use sw_types::problem::Slug;
use sw_types::{ControlKey, NodeKey};
use thiserror::Error;
use tokio::io::AsyncWriteExt as _;

use self::map_stream::Frames;
pub(crate) use self::map_stream::decompress;
pub(crate) use self::server_url::ServerUrl;
pub(crate) use self::transport::{ControlClient, ControlConfig};
use crate::errors::chain;

/// Text of an error answer that is kept.
const ERROR_TEXT_MAX: usize = 200;
/// Longest program that is taken from a server.
const DOWNLOAD_MAX: u64 = 1 << 30;

/// Why a request to the server brought nothing.
#[derive(Debug, Error)]
pub(crate) enum ControlError {
    #[error("the name {host} does not resolve")]
    UnknownName { host: String },
    #[error("{host} does not answer ({tried})")]
    Unreachable { host: String, tried: String, reason: String },
    #[error("{host} is no control server: {answer}")]
    NotOurs { host: String, answer: String },
    #[error("{host} has another key than the one pinned")]
    KeyChanged { host: String, new: ControlKey, old: String },
    #[error("the connection broke: {0}")]
    Broken(String),
    #[error("http {status}: {text}")]
    Status { status: u16, retry_after: Option<Duration>, text: String },
    #[error("the answer was not understood: {0}")]
    Answer(String),
}

impl ControlError {
    /// What the session needs to know.
    pub(crate) fn failure(&self) -> RequestFailure {
        match self {
            Self::Status { status, retry_after, .. } => {
                RequestFailure::Http { status: *status, retry_after: *retry_after }
            }
            Self::UnknownName { .. }
            | Self::Unreachable { .. }
            | Self::NotOurs { .. }
            | Self::KeyChanged { .. }
            | Self::Broken(_)
            | Self::Answer(_) => RequestFailure::Transport,
        }
    }

    /// What a user reads. `None` for what heals by itself and says nothing.
    pub(crate) fn problem(&self, host: &str) -> Option<Problem> {
        Some(match self {
            Self::UnknownName { host } => Slug::ServerNameUnknown.problem(&[("host", host)]),
            Self::Unreachable { host, tried, reason } => {
                Slug::ServerUnreachable.problem(&[("host", host), ("tried", tried), ("error", reason)])
            }
            Self::NotOurs { host, answer } => {
                let capver = sw_node::control::CAP_VERSION.to_string();
                Slug::ServerNotOurs.problem(&[("host", host), ("capver", &capver), ("answer", answer)])
            }
            Self::KeyChanged { host, new, old } => {
                Slug::ServerKeyChanged.problem(&[("host", host), ("new", &new.short()), ("old", old)])
            }
            Self::Status { status: 429, .. } => Slug::TooManyTries
                .problem(&[("reason", "too many tries from this machine"), ("time", "some seconds")]),
            Self::Status { status, text, .. } => Problem::other(
                format!("the server {host} refuses the request."),
                format!("it says: {text} (status {status})"),
                "wait: it is tried again by itself",
            ),
            Self::Broken(_) | Self::Answer(_) => return None,
        })
    }
}

impl ControlClient {
    /// `POST /machine/register`.
    pub(crate) async fn register(&self, request: &RegisterRequest) -> Result<RegisterResponse, ControlError> {
        let keys = [request.old_node_key, request.node_key];
        let body = self.post("/machine/register", encode(request), &keys).await?;
        decode_answer(&body, BODY_MAX).map_err(|error| ControlError::Answer(error.to_string()))
    }

    /// `POST /machine/map` that only tells.
    pub(crate) async fn update(&self, request: &MapRequest) -> Result<(), ControlError> {
        self.post("/machine/map", encode(request), &[request.node_key]).await.map(|_| ())
    }

    /// `POST /machine/map` as a stream.
    pub(crate) async fn open_map(&self, request: &MapRequest) -> Result<MapStream, ControlError> {
        let request_body = Bytes::from(encode(request));
        let request = build(self.authority(), Method::POST, "/machine/map", &[request.node_key])?;
        let (response, body) = self.send(request, request_body).await?;
        if !response.status.is_success() {
            let text = read_all(body, BODY_MAX).await.unwrap_or_default();
            return Err(response.into_error(&text));
        }
        let takes_paths = response.headers.contains_key(PATHS_WANTED);
        let server = response.headers.get(ServerIs::HEADER).and_then(|value| value.to_str().ok());
        let server = server.and_then(ServerIs::parse);
        Ok(MapStream { takes_paths, server, frames: Frames::new(body) })
    }

    /// Tells a server that asked for it (`/machine/samewire/v1/paths`).
    pub(crate) async fn paths(&self, key: NodeKey, report: &PathsReport) -> Result<(), ControlError> {
        self.post("/machine/samewire/v1/paths", encode(report), &[key]).await.map(|_| ())
    }

    /// Posts a body to a path and returns the answer's.
    pub(crate) async fn post(
        &self,
        path: &str,
        body: Vec<u8>,
        keys: &[NodeKey],
    ) -> Result<Vec<u8>, ControlError> {
        self.exchange(Method::POST, path, body, keys).await
    }

    /// One request and its whole answer.
    pub(crate) async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
        keys: &[NodeKey],
    ) -> Result<Vec<u8>, ControlError> {
        let request = build(self.authority(), method, path, keys)?;
        let (response, stream) = self.send(request, Bytes::from(body)).await?;
        let answer = read_all(stream, BODY_MAX).await?;
        if response.status.is_success() { Ok(answer) } else { Err(response.into_error(&answer)) }
    }
}

impl ControlClient {
    /// One request whose answer goes into `file`.
    pub(crate) async fn download(
        &self,
        path: &str,
        body: Vec<u8>,
        keys: &[NodeKey],
        file: &mut tokio::fs::File,
    ) -> Result<(), ControlError> {
        let request = build(self.authority(), Method::POST, path, keys)?;
        let (response, mut stream) = self.send(request, Bytes::from(body)).await?;
        if !response.status.is_success() {
            let answer = read_all(stream, BODY_MAX).await?;
            return Err(response.into_error(&answer));
        }
        let mut left = DOWNLOAD_MAX;
        while let Some(chunk) = stream.data().await {
            let chunk = chunk.map_err(|error| ControlError::Broken(chain(&error)))?;
            let _closed_meanwhile = stream.flow_control().release_capacity(chunk.len());
            left = left
                .checked_sub(chunk.len() as u64)
                .ok_or_else(|| ControlError::Answer(format!("longer than {DOWNLOAD_MAX} bytes")))?;
            file.write_all(&chunk).await.map_err(|error| ControlError::Answer(error.to_string()))?;
        }
        Ok(())
    }
}

fn build(authority: &str, method: Method, path: &str, keys: &[NodeKey]) -> Result<Request<()>, ControlError> {
    let mut request = Request::builder().method(method).uri(format!("https://{authority}{path}"));
    // Which node this is, for load balancers (control.md §1.7).
    for key in keys.iter().filter(|key| !key.is_zero()) {
        request = request.header("ts-lb", key.to_string());
    }
    request.body(()).map_err(|error| ControlError::Broken(error.to_string()))
}

/// A map stream that has begun.
pub(crate) struct MapStream {
    /// The server wants to be told of paths.
    pub(crate) takes_paths: bool,
    /// What the server is, where it is one of ours.
    pub(crate) server: Option<ServerIs>,
    frames: Frames,
}

impl MapStream {
    /// Waits until the next message is whole; `None` at the end. To wait with it makes the server wait.
    pub(crate) async fn next(&mut self) -> Result<Option<MapResponse>, ControlError> {
        self.frames.next().await
    }
}

/// Status and headers of an answer.
pub(crate) struct Head {
    pub(crate) status: http::StatusCode,
    pub(crate) headers: HeaderMap,
}

impl Head {
    fn into_error(self, body: &[u8]) -> ControlError {
        let text: String =
            String::from_utf8_lossy(body).chars().filter(|c| !c.is_control()).take(ERROR_TEXT_MAX).collect();
        let retry_after = self
            .headers
            .get(http::header::RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.trim().parse().ok())
            .map(Duration::from_secs);
        ControlError::Status { status: self.status.as_u16(), retry_after, text }
    }
}

async fn read_all(mut body: h2::RecvStream, limit: usize) -> Result<Vec<u8>, ControlError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk.map_err(|error| ControlError::Broken(chain(&error)))?;
        // The window is given back as soon as the bytes are ours.
        let _closed_meanwhile = body.flow_control().release_capacity(chunk.len());
        if bytes.len() + chunk.len() > limit {
            return Err(ControlError::Answer(format!("longer than {limit} bytes")));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

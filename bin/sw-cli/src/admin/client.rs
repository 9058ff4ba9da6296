//! One request over the server's admin socket.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use rustix::fs::{Mode, OFlags};
use serde_json::Value;
use tokio::net::UnixStream;

/// Largest answer: a list of very many machines.
const ANSWER_MAX: usize = 256 << 20;

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
    /// The server said no.
    #[error("{message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// In the server's words.
        message: String,
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
                Some(format!("nothing answers at {} ({source})", socket.display()))
            }
            Self::Refused { .. } | Self::Broken(_) | Self::Argument { .. } | Self::Runtime(_) => None,
        }
    }

    /// The one next step.
    pub fn fix(&self) -> Option<String> {
        match self {
            Self::NotRunning { .. } => {
                Some("start it: samewire control serve, or name its directory: --state DIR".to_owned())
            }
            Self::Refused { .. } | Self::Broken(_) | Self::Argument { .. } | Self::Runtime(_) => None,
        }
    }

    /// Exit code (ux.md §1).
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotRunning { .. } => 3,
            Self::Argument { .. } => 2,
            Self::Refused { .. } | Self::Broken(_) | Self::Runtime(_) => 1,
        }
    }
}

/// Speaks to one server.
#[derive(Debug)]
pub(crate) struct Client<'a> {
    state: &'a Path,
}

impl<'a> Client<'a> {
    pub(crate) fn new(state: &'a Path) -> Self {
        Self { state }
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
        let broken = |error: &dyn std::fmt::Display| ClientError::Broken(error.to_string());
        let stream = self.connect().await?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|e| broken(&e))?;
        let driver = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(format!("/api/samewire/v1/{path}"))
            .header("host", "control")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)));
        let response = sender.send_request(request.map_err(|e| broken(&e))?).await.map_err(|e| broken(&e))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await.map_err(|e| broken(&e))?;
        driver.abort();
        let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        if status.is_success() {
            return Ok(text);
        }
        let said: Option<Value> = serde_json::from_str(&text).ok();
        let message =
            said.as_ref().and_then(|said| said.get("message")).and_then(Value::as_str).unwrap_or(text.trim());
        Err(ClientError::Refused { status: status.as_u16(), message: message.to_owned() })
    }

    /// WHY through the directory: a socket's path is at most 107 bytes.
    async fn connect(&self) -> Result<UnixStream, ClientError> {
        use std::os::fd::AsRawFd;
        let socket = self.state.join("control.sock");
        let missing = |source: std::io::Error| ClientError::NotRunning { socket: socket.clone(), source };
        let directory = rustix::fs::open(self.state, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let directory = directory.map_err(|e| missing(e.into()))?;
        let path = format!("/proc/self/fd/{}/control.sock", directory.as_raw_fd());
        UnixStream::connect(path).await.map_err(missing)
    }
}

//! The connection to the server: dial, `/key`, Noise, HTTP/2.

use std::io;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use sw_net::dial::{self, DialError, DialOptions};
use sw_net::tls::{Trust, client_config, server_name};
use sw_net::ts2021;
use sw_node::control::CAP_VERSION;
use sw_tailcfg::{OverTlsPublicKeyResponse, decode_answer};
use sw_types::{ControlKey, MachinePrivate, ServerKeyHash};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use super::{ControlError, Head, ServerUrl};
use crate::errors::chain;

/// Limit of one dial with everything up to HTTP/2 (control.md §1.3).
const DIAL_MAX: Duration = Duration::from_secs(10);
/// Limit of taking leave when the daemon stops.
const LEAVE_MAX: Duration = Duration::from_millis(500);
/// Largest answer to `/key`.
const KEY_ANSWER_MAX: usize = 64 << 10;
/// Windows as the official client announces them (control.md §1.7).
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// Who the server is and who we are.
#[derive(Debug)]
pub(crate) struct ControlConfig {
    /// `host[:port]` by which requests and messages name the server.
    pub(crate) authority: String,
    /// Addresses of one server, best first.
    pub(crate) servers: Vec<ServerUrl>,
    pub(crate) machine: Arc<MachinePrivate>,
    /// The key that the server must have; none at the first contact.
    pub(crate) pinned: Option<ControlKey>,
    /// From an invite: what the key must hash to.
    pub(crate) key_hash: Option<ServerKeyHash>,
    pub(crate) dial: DialOptions,
}

/// Talks to one control server. Requests share a connection, which is made when it is needed.
#[derive(Debug)]
pub(crate) struct ControlClient {
    config: ControlConfig,
    /// Held while dialling, so that requests wait for one dial instead of each making its own.
    connection: Mutex<Option<Connection>>,
    /// The key that was seen and is to be pinned.
    key: std::sync::Mutex<Option<ControlKey>>,
    /// URL of the address in use.
    reached: std::sync::Mutex<String>,
}

#[derive(Debug)]
struct Connection {
    sender: SendRequest<Bytes>,
    /// Ends by itself when the last sender is dropped or the server goes away.
    driver: JoinHandle<()>,
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

impl ControlClient {
    pub(crate) fn new(config: ControlConfig) -> Self {
        let key = std::sync::Mutex::new(config.pinned);
        Self { config, connection: Mutex::new(None), key, reached: std::sync::Mutex::default() }
    }

    /// The host that is named in requests and messages.
    pub(crate) fn authority(&self) -> &str {
        &self.config.authority
    }

    /// The server's key, once known.
    pub(crate) fn server_key(&self) -> Option<ControlKey> {
        *self.key.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a connection, if there is none: proves that the server answers and has the right key. Returns the address
    /// that answered.
    ///
    /// # Errors
    /// The first failure of the addresses tried.
    pub(crate) async fn prove(&self) -> Result<String, ControlError> {
        self.connection().await?;
        Ok(self.reached.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// Lets go of the connection; the next request makes a new one.
    pub(crate) async fn disconnect(&self) {
        self.connection.lock().await.take();
    }

    /// Lets go of the connection and waits until the server was told: streams given up are reset, then GOAWAY.
    pub(crate) async fn close(&self) {
        if let Some(Connection { sender, driver }) = self.connection.lock().await.take() {
            drop(sender);
            // A server out of reach hears nothing, and that must not hold the daemon up.
            let _told = tokio::time::timeout(LEAVE_MAX, driver).await;
        }
    }

    /// Sends a request; returns the answer's head and body.
    pub(crate) async fn send(
        &self,
        request: Request<()>,
        body: Bytes,
    ) -> Result<(Head, h2::RecvStream), ControlError> {
        let sender = self.connection().await?;
        let broken = |error: h2::Error| ControlError::Broken(chain(&error));
        let exchange = async {
            let mut sender = sender.ready().await.map_err(broken)?;
            let (response, mut stream) = sender.send_request(request, body.is_empty()).map_err(broken)?;
            if !body.is_empty() {
                send_body(&mut stream, body).await.map_err(broken)?;
            }
            response.await.map_err(broken)
        };
        match exchange.await {
            Ok(response) => {
                let (parts, body) = response.into_parts();
                Ok((Head { status: parts.status, headers: parts.headers }, body))
            }
            Err(error) => {
                self.disconnect().await;
                Err(error)
            }
        }
    }

    async fn connection(&self) -> Result<SendRequest<Bytes>, ControlError> {
        let mut connection = self.connection.lock().await;
        if let Some(live) = connection.as_ref() {
            // A dead connection answers at once.
            if let Ok(sender) = live.sender.clone().ready().await {
                return Ok(sender);
            }
        }
        *connection = None;
        let dialled = self.dial_any().await?;
        let sender = dialled.sender.clone();
        *connection = Some(dialled);
        Ok(sender)
    }

    /// Tries the addresses in turn; the first failure is the one that is told.
    async fn dial_any(&self) -> Result<Connection, ControlError> {
        let mut first_error = None;
        for server in &self.config.servers {
            let error = match tokio::time::timeout(DIAL_MAX, self.dial(server)).await {
                Ok(Ok(connection)) => {
                    *self.reached.lock().unwrap_or_else(PoisonError::into_inner) = server.url();
                    return Ok(connection);
                }
                Ok(Err(error @ ControlError::KeyChanged { .. })) => return Err(error),
                Ok(Err(error)) => error,
                Err(_) => unreachable(server, "no answer in time".to_owned()),
            };
            first_error = first_error.or(Some(error));
        }
        Err(first_error.unwrap_or_else(|| ControlError::Broken("no server is set".to_owned())))
    }

    async fn dial(&self, server: &ServerUrl) -> Result<Connection, ControlError> {
        let pinned = self.server_key();
        let key = match pinned {
            Some(key) => key,
            None => self.fetch_key(server).await?,
        };
        let io = self.open(server, &Trust::Anything, &[]).await?;
        // Host carries the port that was dialled (control.md §1.2).
        let host = dial::join_host_port(&server.host, server.port);
        let random = crate::random();
        let connected = ts2021::connect(io, &host, CAP_VERSION, &self.config.machine, &key, random).await;
        let connected = match connected {
            Ok(connected) => connected,
            Err(error) => return Err(self.explain_refusal(server, key, pinned.is_some(), &error).await),
        };
        *self.key.lock().unwrap_or_else(PoisonError::into_inner) = Some(key);
        let (sender, connection) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .enable_push(false)
            .handshake::<_, Bytes>(connected.stream)
            .await
            .map_err(|error| ControlError::Broken(chain(&error)))?;
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = chain(&error), "the connection to the control server ended");
            }
        });
        Ok(Connection { sender, driver })
    }

    /// A failed handshake has one cause that a user must know: the server has another key than the pinned one.
    async fn explain_refusal(
        &self,
        server: &ServerUrl,
        key: ControlKey,
        is_pinned: bool,
        error: &ts2021::ConnectError,
    ) -> ControlError {
        if is_pinned
            && let Ok(new) = self.fetch_any_key(server).await
            && new != key
        {
            return ControlError::KeyChanged { host: server.authority(), new, old: key.short() };
        }
        match error {
            ts2021::ConnectError::Status(status) => ControlError::NotOurs {
                host: server.authority(),
                answer: format!("{status} at {}", ts2021::PATH),
            },
            ts2021::ConnectError::OtherProtocol => {
                ControlError::NotOurs { host: server.authority(), answer: "another protocol".to_owned() }
            }
            ts2021::ConnectError::Io(_)
            | ts2021::ConnectError::Http(_)
            | ts2021::ConnectError::Handshake(_)
            | ts2021::ConnectError::Refused(_)
            | ts2021::ConnectError::Early => unreachable(server, chain(error)),
        }
    }

    /// The server's key, checked against what is known of it.
    async fn fetch_key(&self, server: &ServerUrl) -> Result<ControlKey, ControlError> {
        let key = self.fetch_any_key(server).await?;
        if self.config.key_hash.is_some_and(|hash| !hash.matches(&key)) {
            let old = "the one of the invite".to_owned();
            return Err(ControlError::KeyChanged { host: server.authority(), new: key, old });
        }
        Ok(key)
    }

    /// `GET /key` (control.md §1.1).
    async fn fetch_any_key(&self, server: &ServerUrl) -> Result<ControlKey, ControlError> {
        // With a hash or a pinned key TLS proves nothing more.
        let is_known = self.config.key_hash.is_some() || self.server_key().is_some();
        let trust = if is_known { Trust::Anything } else { Trust::Roots };
        let io = self.open(server, &trust, &[b"http/1.1"]).await?;
        let not_ours = |answer: String| ControlError::NotOurs { host: server.authority(), answer };
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io))
            .await
            .map_err(|error| not_ours(chain(&error)))?;
        let driver = tokio::spawn(connection);
        let request = Request::get(format!("/key?v={CAP_VERSION}"))
            .header(http::header::HOST, server.authority())
            .header(http::header::CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .map_err(|error| ControlError::Broken(error.to_string()))?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|error| not_ours(chain(&error)))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), KEY_ANSWER_MAX).collect().await;
            let body = body.map_err(|error| not_ours(error.to_string()))?.to_bytes();
            let decoded = decode_answer::<OverTlsPublicKeyResponse>(&body, KEY_ANSWER_MAX);
            match decoded {
                Ok(answer) if status.is_success() && !answer.public_key.is_zero() => {
                    Ok(ControlKey::from(*answer.public_key.as_bytes()))
                }
                Ok(_) | Err(_) => Err(not_ours(status.to_string())),
            }
        };
        let key = exchange.await;
        driver.abort();
        key
    }

    async fn open(
        &self,
        server: &ServerUrl,
        trust: &Trust,
        alpn: &[&[u8]],
    ) -> Result<Box<dyn Io>, ControlError> {
        let tcp = dial::connect(&self.config.dial, &server.host, server.port)
            .await
            .map_err(|error| dial_error(server, error))?;
        if !server.is_tls {
            return Ok(Box::new(tcp));
        }
        tls(server, tcp, trust, alpn).await.map_err(|error| unreachable(server, chain(&error)))
    }
}

async fn tls(server: &ServerUrl, tcp: TcpStream, trust: &Trust, alpn: &[&[u8]]) -> io::Result<Box<dyn Io>> {
    let config = client_config(trust, alpn).map_err(io::Error::other)?;
    let name = server_name(&server.host).map_err(io::Error::other)?;
    let stream = tokio_rustls::TlsConnector::from(config).connect(name, tcp).await?;
    Ok(Box::new(stream))
}

fn unreachable(server: &ServerUrl, reason: String) -> ControlError {
    ControlError::Unreachable { host: server.authority(), tried: format!("port {}", server.port), reason }
}

fn dial_error(server: &ServerUrl, error: DialError) -> ControlError {
    match error {
        DialError::Resolve { .. } | DialError::NoAddress { .. } => {
            ControlError::UnknownName { host: server.host.clone() }
        }
        DialError::Connect { address, source } => ControlError::Unreachable {
            host: server.authority(),
            tried: address.to_string(),
            reason: source.to_string(),
        },
        DialError::TimedOut { .. } => unreachable(server, "no answer in time".to_owned()),
        DialError::Proxy { .. } | DialError::ProxyIo(_) => unreachable(server, chain(&error)),
    }
}

/// Sends a body as the window allows.
async fn send_body(stream: &mut h2::SendStream<Bytes>, mut body: Bytes) -> Result<(), h2::Error> {
    while !body.is_empty() {
        stream.reserve_capacity(body.len());
        let granted = match std::future::poll_fn(|context| stream.poll_capacity(context)).await {
            Some(granted) => granted?,
            None => return Ok(()), // reset by the server: its answer says why
        };
        let part = body.split_to(granted.min(body.len()));
        stream.send_data(part, body.is_empty())?;
    }
    Ok(())
}

//! From an HTTP request for DERP to a client that is logged in.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use http::{HeaderMap, Method, Request};
use sw_net::derp_client::DerpStream;
use sw_net::front::{Conn, Io, Stream};
use sw_net::pump::Pump;
use sw_net::ws::{WsStream, derive_accept_key};
use sw_proto::derp::{
    ClientFrame, ClientInfo, PresentFlags, ServerFrame, ServerInfo, VERSION, open_client_info,
    seal_server_info, split_client_frame,
};
use sw_proto::nacl::{BoxKey, Nonce};
use sw_relay_core::Arrival;
use sw_types::NodeKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tracing::debug;

use crate::client::Client;
use crate::counters::Counters;
use crate::hub::{Hub, encode};

/// For each step of the login (derp.md §6).
const STEP_LIMIT: Duration = Duration::from_secs(10);

/// For the admission check (derp.md §9).
const ADMISSION_LIMIT: Duration = Duration::from_secs(5);

/// How a request asks for DERP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// `Upgrade: DERP`; the client may know our key already and want no answer.
    Derp { fast_start: bool },
    /// `Upgrade: websocket`, with the key to answer and whether the subprotocol is the right one.
    WebSocket { key: String, is_derp: bool },
}

impl Asked {
    /// Reads the headers; `None` when this is no request for an upgrade that we know.
    pub(crate) fn of<B>(request: &Request<B>) -> Option<Self> {
        let headers = request.headers();
        let upgrade = text(headers, "upgrade")?;
        // The official Rust client asks with POST.
        let is_asking = request.method() == Method::GET || request.method() == Method::POST;
        if upgrade.eq_ignore_ascii_case("derp") && is_asking {
            return Some(Self::Derp { fast_start: text(headers, "derp-fast-start") == Some("1") });
        }
        if !upgrade.eq_ignore_ascii_case("websocket") || request.method() != Method::GET {
            return None;
        }
        let key = text(headers, "sec-websocket-key")?.to_owned();
        let mut protocols = headers.get_all("sec-websocket-protocol").iter();
        let is_derp = protocols
            .any(|value| value.to_str().is_ok_and(|list| list.split(',').any(|name| name.trim() == "derp")));
        Some(Self::WebSocket { key, is_derp })
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// What the request says of the client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    pub(crate) from: SocketAddr,
    /// The client would rather be on another node of the region.
    pub(crate) is_not_ideal: bool,
}

impl Caller {
    pub(crate) fn of(headers: &HeaderMap, from: SocketAddr) -> Self {
        Self { from, is_not_ideal: text(headers, "ideal-node").is_some_and(|name| !name.is_empty()) }
    }
}

/// Serves a connection that the front handed over before any answer.
pub(crate) async fn serve_first(hub: Arc<Hub>, head: Request<()>, stream: Stream, conn: Arc<Conn>) {
    let caller = Caller::of(head.headers(), conn.peer);
    let Some(asked) = Asked::of(&head) else { return };
    Counters::one(&hub.counters.accepts);
    match asked {
        Asked::Derp { fast_start } => {
            let (already_read, io) = stream.into_parts();
            let stream: Box<dyn DerpStream> = match io {
                Io::Plain(stream) => Box::new(stream),
                Io::Tls(stream) => stream,
            };
            let first = if fast_start { Vec::new() } else { switching(&hub, "DERP", "") };
            serve(hub, stream, BytesMut::from(&already_read[..]), first, caller, Some(&conn)).await;
        }
        Asked::WebSocket { key, is_derp } => {
            let extra = format!("Sec-WebSocket-Accept: {}\r\n", derive_accept_key(key.as_bytes()));
            let protocol = if is_derp { "Sec-WebSocket-Protocol: derp\r\n" } else { "" };
            let answer = switching(&hub, "websocket", &format!("{extra}{protocol}"));
            let mut stream = stream;
            if write(&mut stream, &answer).await.is_ok() {
                serve_websocket(hub, stream, is_derp, caller, Some(&conn)).await;
            }
        }
    }
}

/// Serves a WebSocket whose handshake is done.
pub(crate) async fn serve_websocket<S: DerpStream + 'static>(
    hub: Arc<Hub>,
    stream: S,
    is_derp: bool,
    caller: Caller,
    conn: Option<&Conn>,
) {
    Counters::one(&hub.counters.websocket_accepts);
    let mut stream = WsStream::server(stream, Vec::new()).await;
    if !is_derp {
        // derp.md §4.3: the subprotocol is mandatory.
        stream.close_policy("the derp subprotocol is needed").await;
        return;
    }
    serve(hub, Box::new(stream), BytesMut::new(), Vec::new(), caller, conn).await;
}

/// The head of a 101 answer.
pub(crate) fn switching(hub: &Hub, upgrade: &str, extra: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: {upgrade}\r\nConnection: Upgrade\r\n\
         Derp-Version: {VERSION}\r\nDerp-Public-Key: {}\r\n{extra}\r\n",
        hex::encode(hub.key().as_bytes())
    )
    .into_bytes()
}

/// Login and everything after it. `first` goes out in front of our key.
pub(crate) async fn serve(
    hub: Arc<Hub>,
    stream: Box<dyn DerpStream>,
    input: BytesMut,
    first: Vec<u8>,
    caller: Caller,
    conn: Option<&Conn>,
) {
    let client = match login(&hub, stream, input, first, caller).await {
        Ok(client) => client,
        Err(error) => {
            debug!(from = %caller.from, %error, "login failed");
            return;
        }
    };
    if let Some(conn) = conn {
        conn.authenticated();
    }
    let end = client.run().await;
    debug!(from = %caller.from, %end, "client closed");
}

/// Why a login fails.
#[derive(Debug, thiserror::Error)]
enum LoginError {
    #[error("the client went: {0}")]
    Io(#[from] io::Error),
    #[error("the client takes too long")]
    TimedOut,
    #[error(transparent)]
    Frame(#[from] sw_proto::derp::FrameError),
    #[error(transparent)]
    Sealed(#[from] sw_proto::derp::LoginError),
    #[error("the client sends something else than its login")]
    Order,
    #[error("the client may not come in")]
    Refused,
}

async fn login(
    hub: &Arc<Hub>,
    mut stream: Box<dyn DerpStream>,
    mut input: BytesMut,
    mut first: Vec<u8>,
    caller: Caller,
) -> Result<Client, LoginError> {
    let failed = |error: LoginError| {
        Counters::one(match error {
            LoginError::Refused => &hub.counters.admission_refused,
            LoginError::Io(_)
            | LoginError::TimedOut
            | LoginError::Frame(_)
            | LoginError::Sealed(_)
            | LoginError::Order => &hub.counters.login_failures,
        });
        error
    };
    ServerFrame::ServerKey(hub.key()).encode(&mut first);
    let proving = async {
        timed(write(&mut stream, &first)).await?;
        let (key, info, shared) = timed_login(read_login(hub, &mut stream, &mut input)).await?;
        let is_mesh = is_mesh_member(hub, &info);
        if !is_mesh && !admits(hub, key, caller).await {
            return Err(LoginError::Refused);
        }
        Ok((key, info, shared, is_mesh))
    };
    let (key, info, shared, is_mesh) = proving.await.map_err(failed)?;
    let answer = ServerInfo { version: VERSION.into(), ..ServerInfo::default() };
    let sealed = seal_server_info(&shared, &Nonce(random().map_err(LoginError::Io)?), &answer);
    let flags = flags(&info, is_mesh, caller);
    let place = hub.connect(Arrival { key, from: caller.from, flags, is_mesh });
    let mut pump = Pump::new(stream, &input);
    pump.push(encode(&ServerFrame::ServerInfo(&sealed)));
    Ok(Client::new(Arc::clone(hub), place, key, is_mesh, pump))
}

/// Reads up to the client's login and opens it.
async fn read_login(
    hub: &Hub,
    stream: &mut Box<dyn DerpStream>,
    input: &mut BytesMut,
) -> Result<(NodeKey, ClientInfo, BoxKey), LoginError> {
    loop {
        if let Some((frame, rest)) = split_client_frame(input)? {
            let used = input.len() - rest.len();
            let ClientFrame::ClientInfo(body) = frame else { return Err(LoginError::Order) };
            let agree = |key| hub.config.key.shared_secret(&key).ok().map(|shared| BoxKey::new(&shared));
            let opened = open_client_info(body, agree)?;
            input.advance(used);
            return Ok(opened);
        }
        if stream.read_buf(input).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    }
}

fn is_mesh_member(hub: &Hub, info: &ClientInfo) -> bool {
    match (&hub.config.mesh_key, &info.mesh_key) {
        (Some(ours), Some(theirs)) => ours.ct_eq(theirs),
        (None, _) | (_, None) => false,
    }
}

async fn admits(hub: &Hub, key: NodeKey, caller: Caller) -> bool {
    let asking = hub.config.admission.admits(key, caller.from.ip());
    tokio::time::timeout(ADMISSION_LIMIT, asking).await.unwrap_or(false)
}

fn flags(info: &ClientInfo, is_mesh: bool, caller: Caller) -> PresentFlags {
    let kind = match (is_mesh, info.is_prober) {
        (true, _) => PresentFlags::MESH,
        (false, true) => PresentFlags::PROBER,
        (false, false) => PresentFlags::REGULAR,
    };
    let not_ideal = if caller.is_not_ideal { PresentFlags::NOT_IDEAL.0 } else { 0 };
    PresentFlags(kind.0 | not_ideal)
}

async fn write<S: tokio::io::AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

async fn timed(step: impl Future<Output = io::Result<()>>) -> Result<(), LoginError> {
    Ok(tokio::time::timeout(STEP_LIMIT, step).await.map_err(|_| LoginError::TimedOut)??)
}

async fn timed_login<T>(step: impl Future<Output = Result<T, LoginError>>) -> Result<T, LoginError> {
    tokio::time::timeout(STEP_LIMIT, step).await.map_err(|_| LoginError::TimedOut)?
}

/// Bytes of the system's generator.
pub(crate) fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0u8; N];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(bytes)
}

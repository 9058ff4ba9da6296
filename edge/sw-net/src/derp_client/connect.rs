//! One connection to a relay: TCP, TLS, HTTP upgrade or fast start, login.

use std::io;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use rustls::pki_types::ServerName;
use sw_proto::derp::{ClientInfo, ServerInfo};
use sw_proto::nacl::Nonce;
use sw_types::{CertCheck, DerpKey, MeshKey, RelayNode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use super::login::Progress;
use super::{DerpConfig, Login, LoginFailed};
use crate::dial::{self, DialError};
use crate::tls::{CertHash, Trust, client_config, derp_key_of, server_name};
use crate::ws::{WsStream, derive_accept_key, generate_key};

/// Limit for everything up to the login (derp.md §2).
const LIMIT: Duration = Duration::from_secs(10);

/// Longest HTTP answer head.
const HEAD_MAX: usize = 16 << 10;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The region has no node that relays.
    #[error("the region has no relay")]
    NoNode,
    /// TCP.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The host name cannot be asked for in TLS.
    #[error("{0:?} is no host name")]
    Name(String),
    /// TLS or the bytes below it.
    #[error("connection fails: {0}")]
    Io(#[from] io::Error),
    /// TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    /// The answer to the request is no upgrade.
    #[error("the relay answers {0:?} instead of switching protocols")]
    Http(String),
    /// The login.
    #[error(transparent)]
    Login(#[from] LoginFailed),
    /// All of it takes too long.
    #[error("the relay does not answer")]
    TimedOut,
}

/// How DERP is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upgrade {
    /// `Upgrade: DERP`, with fast start where the certificate allows it.
    Derp,
    /// `Upgrade: websocket`, for proxies that know nothing else.
    WebSocket,
}

/// A stream of any kind.
pub trait DerpStream: AsyncRead + AsyncWrite + Send + Unpin + std::fmt::Debug {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + std::fmt::Debug> DerpStream for T {}

/// A connection that is logged in.
#[derive(Debug)]
pub struct Connection {
    /// The bytes.
    pub stream: Box<dyn DerpStream>,
    /// What came behind the login.
    pub already_read: BytesMut,
    /// The relay's key.
    pub relay: DerpKey,
    /// What it says of itself.
    pub info: ServerInfo,
}

/// Connects to the first node of the region that takes it.
///
/// # Errors
/// That of the last node.
pub async fn connect(config: &DerpConfig, upgrade: Upgrade) -> Result<Connection, ConnectError> {
    let nodes = config.region.nodes.iter().filter(|node| !node.stun_only);
    let mut last = ConnectError::NoNode;
    for node in nodes {
        match tokio::time::timeout(LIMIT, connect_node(config, node, upgrade)).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) => last = error,
            Err(_) => last = ConnectError::TimedOut,
        }
    }
    Err(last)
}

async fn connect_node(
    config: &DerpConfig,
    node: &RelayNode,
    upgrade: Upgrade,
) -> Result<Connection, ConnectError> {
    let tcp = dial::connect_node(&config.dial, node).await?;
    if config.plain_http {
        return open(config, node, tcp, None, upgrade).await;
    }
    let (trust, name) = trust_of(node)?;
    let tls = TlsConnector::from(client_config(&trust, &[])?).connect(name, tcp).await?;
    let (_, session) = tls.get_ref();
    let is_tls13 = session.protocol_version() == Some(rustls::ProtocolVersion::TLSv1_3);
    let relay = if is_tls13 { derp_key_of(session.peer_certificates().unwrap_or_default()) } else { None };
    open(config, node, tls, relay, upgrade).await
}

/// Which certificate a relay must show, and the name to ask for in TLS (derp.md §2).
pub(crate) fn trust_of(node: &RelayNode) -> Result<(Trust, ServerName<'static>), ConnectError> {
    let trust = match &node.cert {
        _ if node.insecure_for_tests => Trust::Anything,
        CertCheck::Sha256(hash) => Trust::Pinned(CertHash(*hash)),
        CertCheck::HostName | CertCheck::Name(_) => Trust::Roots,
    };
    let name = match &node.cert {
        CertCheck::Name(name) => name,
        CertCheck::HostName | CertCheck::Sha256(_) => &node.host_name,
    };
    let name = server_name(name).map_err(|_| ConnectError::Name(node.host_name.clone()))?;
    Ok((trust, name))
}

/// Request, answer, login.
async fn open<S>(
    config: &DerpConfig,
    node: &RelayNode,
    mut stream: S,
    relay: Option<DerpKey>,
    upgrade: Upgrade,
) -> Result<Connection, ConnectError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + std::fmt::Debug + 'static,
{
    let info = ClientInfo {
        mesh_key: config
            .mesh_key
            .as_ref()
            .map(|key| MeshKey::from_text(key.to_text().expose()))
            .transpose()
            .ok()
            .flatten(),
        can_ack_pings: config.mesh_key.is_none(),
        ..ClientInfo::node()
    };
    let mut login = Login::new(config.key.clone(), info, Nonce(random()?));
    let fast = if upgrade == Upgrade::Derp { relay } else { None };
    let mut request = request_head(config, node, fast.is_some(), upgrade);
    let websocket_key = (upgrade == Upgrade::WebSocket).then(generate_key);
    if let Some(key) = &websocket_key {
        request.push_str(&format!(
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: derp\r\nSec-WebSocket-Key: {key}\r\n"
        ));
    }
    request.push_str("\r\n");
    let mut first = request.into_bytes();
    if let Some(relay) = fast {
        first.extend_from_slice(&login.start_with(relay)?);
    }
    stream.write_all(&first).await?;
    stream.flush().await?;
    let mut input = BytesMut::new();
    if fast.is_none() {
        read_answer(&mut stream, &mut input, websocket_key.as_deref()).await?;
    }
    if websocket_key.is_some() {
        let stream = WsStream::client(stream, input.to_vec()).await;
        return finish(login, stream, BytesMut::new()).await;
    }
    finish(login, stream, input).await
}

fn request_head(config: &DerpConfig, node: &RelayNode, fast_start: bool, upgrade: Upgrade) -> String {
    let standard_port = if config.plain_http { sw_types::HTTP_PORT } else { sw_types::HTTPS_PORT };
    let host = if node.derp_port == standard_port {
        node.host_name.clone()
    } else {
        dial::join_host_port(&node.host_name, node.derp_port)
    };
    let name = match upgrade {
        Upgrade::Derp => "DERP",
        Upgrade::WebSocket => "websocket",
    };
    let mut head =
        format!("GET /derp HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: {name}\r\n");
    if fast_start {
        head.push_str("Derp-Fast-Start: 1\r\n");
    }
    // derp.md §4.1: only when this is not the first choice.
    if let Some(ideal) = config.region.nodes.first().filter(|first| first.name != node.name) {
        head.push_str(&format!("Ideal-Node: {}\r\n", ideal.name));
    }
    head
}

/// Reads the answer's head; bytes behind it stay in `input`.
async fn read_answer<S: AsyncRead + Unpin>(
    stream: &mut S,
    input: &mut BytesMut,
    websocket_key: Option<&str>,
) -> Result<(), ConnectError> {
    loop {
        if stream.read_buf(input).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut answer = httparse::Response::new(&mut headers);
        let status = answer.parse(input).map_err(|error| ConnectError::Http(error.to_string()))?;
        if let httparse::Status::Complete(len) = status {
            if answer.code != Some(101) {
                return Err(ConnectError::Http(format!("status {}", answer.code.unwrap_or_default())));
            }
            if let Some(key) = websocket_key {
                let accept =
                    answer.headers.iter().find(|h| h.name.eq_ignore_ascii_case("sec-websocket-accept"));
                if accept.is_none_or(|header| header.value != derive_accept_key(key.as_bytes()).as_bytes()) {
                    return Err(ConnectError::Http("101 without the WebSocket proof".to_owned()));
                }
            }
            input.advance(len);
            return Ok(());
        }
        if input.len() > HEAD_MAX {
            return Err(ConnectError::Http("an endless head".to_owned()));
        }
    }
}

async fn finish<S>(mut login: Login, mut stream: S, mut input: BytesMut) -> Result<Connection, ConnectError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + std::fmt::Debug + 'static,
{
    loop {
        let (used, progress) = login.on_input(&input)?;
        input.advance(used);
        match progress {
            Progress::Incomplete => {
                if stream.read_buf(&mut input).await? == 0 {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                }
            }
            Progress::Send(frame) => {
                stream.write_all(&frame).await?;
                stream.flush().await?;
            }
            Progress::Done { relay, info } => {
                return Ok(Connection { stream: Box::new(stream), already_read: input, relay, info });
            }
        }
    }
}

/// Bytes of the system's generator.
pub(super) fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0u8; N];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(bytes)
}

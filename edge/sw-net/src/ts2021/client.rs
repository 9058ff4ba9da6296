//! The client's end.

use super::{PATH, stream::NoiseStream};
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, UPGRADE};
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use std::io;
use sw_noise::{
    EarlySplit, HANDSHAKE_HEADER, HandshakeError, Initiator, ServerReply, UPGRADE_PROTOCOL,
    initiation_to_header, split_early, split_reply,
};
use sw_types::{CapVer, ControlKey, MachinePrivate};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

/// Why the transport did not come about.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    #[error("no valid HTTP answer: {0}")]
    Http(#[from] hyper::Error),
    #[error("unexpected HTTP response: {0}")]
    Status(StatusCode),
    #[error("the answer switches to another protocol")]
    OtherProtocol,
    #[error("the handshake failed: {0}")]
    Handshake(#[from] HandshakeError),
    #[error("the server refuses: \"{0}\"")]
    Refused(String),
    #[error("the server's early payload is too long")]
    Early,
}

/// A connection to a control server; HTTP/2 goes over `stream`.
#[derive(Debug)]
pub struct Connected {
    pub stream: NoiseStream<TokioIo<Upgraded>>,
    /// JSON of the early payload, if the server sent one.
    pub early: Option<Vec<u8>>,
}

/// Upgrades a fresh connection to a control server.
///
/// `host` is the Host header, with the port that was dialled (control.md §1.2). A time limit is the caller's. The
/// first bytes of the server decide whether there is an early payload, so this returns once the server has begun.
///
/// # Errors
/// See [`ConnectError`].
pub async fn connect<S>(
    io: S,
    host: &str,
    version: CapVer,
    machine: &MachinePrivate,
    server: &ControlKey,
    ephemeral_random: [u8; 32],
) -> Result<Connected, ConnectError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (initiator, initiation) = Initiator::start(version, machine, server, ephemeral_random)?;
    let mut io = upgrade(io, host, &initiation_to_header(&initiation)).await?;
    let (reply, rest) = read_reply(&mut io).await?;
    let transport = match reply {
        ServerReply::Response(response) => initiator.finish(machine, &response)?,
        ServerReply::Refused(text) => return Err(ConnectError::Refused(text)),
    };
    let mut stream = NoiseStream::initiated(io, transport, &rest)?;
    let early = read_early(&mut stream).await?;
    Ok(Connected { stream, early })
}

async fn upgrade<S>(io: S, host: &str, handshake: &str) -> Result<TokioIo<Upgraded>, ConnectError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = http1::handshake::<_, Empty<Bytes>>(TokioIo::new(io)).await?;
    let driver = tokio::spawn(connection.with_upgrades());
    let request = Request::post(PATH)
        .header(HOST, host)
        .header(UPGRADE, UPGRADE_PROTOCOL)
        .header(CONNECTION, "upgrade")
        .header(HANDSHAKE_HEADER, handshake)
        .header(CONTENT_LENGTH, "0")
        .body(Empty::new())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let response = sender.send_request(request).await;
    let response = match response {
        Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => response,
        Ok(response) => {
            driver.abort();
            return Err(ConnectError::Status(response.status()));
        }
        Err(error) => {
            driver.abort();
            return Err(error.into());
        }
    };
    let is_ours = response
        .headers()
        .get(UPGRADE)
        .is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(UPGRADE_PROTOCOL.as_bytes()));
    if !is_ours {
        driver.abort();
        return Err(ConnectError::OtherProtocol);
    }
    Ok(TokioIo::new(hyper::upgrade::on(response).await?))
}

/// Reads the server's first message, and what came behind it.
async fn read_reply(io: &mut TokioIo<Upgraded>) -> Result<(ServerReply, Vec<u8>), ConnectError> {
    // An error text is the longest message; the limit is checked by the parser.
    let mut bytes = Vec::with_capacity(256);
    loop {
        if let Some((reply, rest)) = split_reply(&bytes)? {
            return Ok((reply, rest.to_vec()));
        }
        if io.read_buf(&mut bytes).await? == 0 {
            return Err(ConnectError::Io(io::ErrorKind::UnexpectedEof.into()));
        }
    }
}

async fn read_early(stream: &mut NoiseStream<TokioIo<Upgraded>>) -> Result<Option<Vec<u8>>, ConnectError> {
    loop {
        match split_early(stream.unread()).map_err(|_| ConnectError::Early)? {
            EarlySplit::Http2 { .. } => return Ok(None),
            EarlySplit::Payload { json, rest } => {
                let (json, used) = (json.to_vec(), stream.unread().len() - rest.len());
                stream.consume(used);
                return Ok(Some(json));
            }
            EarlySplit::NeedMore => {
                if !std::future::poll_fn(|cx| stream.poll_fill(cx)).await? {
                    return Err(ConnectError::Io(io::ErrorKind::UnexpectedEof.into()));
                }
            }
        }
    }
}

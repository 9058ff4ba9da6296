//! The server's end.

use super::stream::NoiseStream;
use crate::front::{Body, empty, full};
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use std::io;
use sw_noise::{
    Accepted, HANDSHAKE_HEADER, HandshakeError, UPGRADE_PROTOCOL, accept, error_message,
    initiation_from_header,
};
use sw_types::{CapVer, ControlPrivate, MachineKey};
use tokio::io::AsyncWriteExt;

/// A client whose handshake is through.
#[derive(Debug)]
pub struct Arrived {
    /// Proven by the handshake.
    pub machine: MachineKey,
    /// The capability version that the client speaks.
    pub version: CapVer,
    /// HTTP/2 begins here.
    pub stream: NoiseStream<TokioIo<Upgraded>>,
}

/// Why a request was not upgraded; the texts go to the client as plain text with status 400 (control.md §1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("missing Upgrade header; a proxy between the client and this server may have removed it")]
    NoUpgrade,
    #[error("the Upgrade header names another protocol than {UPGRADE_PROTOCOL}")]
    OtherProtocol,
    #[error("the protocol switch needs HTTP/1.1")]
    NotHttp1,
    #[error("missing or undecodable {HANDSHAKE_HEADER} header")]
    NoHandshake,
}

impl Refusal {
    /// The answer that says it.
    pub fn response(self) -> Response<Body> {
        let mut response = Response::new(full(format!("{self}\n")));
        *response.status_mut() = StatusCode::BAD_REQUEST;
        response
    }
}

/// Checks an upgrade request and runs the handshake. Send the response; the future then gives the stream.
///
/// `early` is the JSON of the early payload, sent to clients that understand it (version 49 and later).
/// A handshake that fails is answered by the protocol's own error message after the 101, so the outcome of the
/// future is the error in that case.
///
/// # Errors
/// The request is no upgrade to this protocol.
pub fn answer(
    mut request: Request<Incoming>,
    server: &ControlPrivate,
    ephemeral_random: [u8; 32],
    early: Option<Vec<u8>>,
) -> Result<(Response<Body>, impl Future<Output = io::Result<Arrived>> + Send + 'static), Refusal> {
    let initiation = check(request.version(), request.headers())?;
    let handshake = accept(&initiation, server, ephemeral_random);
    let upgrade = hyper::upgrade::on(&mut request);
    let mut response = Response::new(empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(UPGRADE, http::HeaderValue::from_static(UPGRADE_PROTOCOL));
    response.headers_mut().insert(CONNECTION, http::HeaderValue::from_static("upgrade"));
    let arrival = async move {
        let upgraded = upgrade.await.map_err(io::Error::other)?;
        begin(TokioIo::new(upgraded), handshake, early).await
    };
    Ok((response, arrival))
}

fn check(version: Version, headers: &HeaderMap) -> Result<[u8; sw_noise::INITIATION_LEN], Refusal> {
    if version != Version::HTTP_11 {
        return Err(Refusal::NotHttp1);
    }
    let upgrade = headers.get(UPGRADE).ok_or(Refusal::NoUpgrade)?;
    if !upgrade.as_bytes().eq_ignore_ascii_case(UPGRADE_PROTOCOL.as_bytes()) {
        return Err(Refusal::OtherProtocol);
    }
    let header =
        headers.get(HANDSHAKE_HEADER).and_then(|value| value.to_str().ok()).ok_or(Refusal::NoHandshake)?;
    initiation_from_header(header).map_err(|_| Refusal::NoHandshake)
}

/// Sends the Noise response and the early payload in one write.
async fn begin(
    mut io: TokioIo<Upgraded>,
    handshake: Result<Accepted, HandshakeError>,
    early: Option<Vec<u8>>,
) -> io::Result<Arrived> {
    let accepted = match handshake {
        Ok(accepted) => accepted,
        Err(error) => {
            io.write_all(&error_message(error)).await?;
            io.shutdown().await?;
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
    };
    let Accepted { machine, version, response, transport, .. } = accepted;
    io.write_all(&response).await?;
    let mut stream = NoiseStream::new(io, transport, &[])?;
    if let Some(json) = early.filter(|_| version >= CapVer(49)) {
        let mut payload = Vec::new();
        sw_noise::push_early(&json, &mut payload);
        stream.push(&payload)?;
    }
    stream.flush().await?;
    Ok(Arrived { machine, version, stream })
}

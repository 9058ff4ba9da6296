//! HTTP/2 inside Noise: one task per connection, one per request (control.md §1.7, §2.2).

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{Method, Request, Response, StatusCode};
use serde::Serialize;
use sw_net::front::Conn;
use sw_net::ts2021::NoiseStream;
use sw_tailnet::Ended;
use sw_types::{CapVer, MachineKey};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use crate::server::Shared;

/// threat-model.md §4, "HTTP/2"; a client needs one long poll and a few short requests.
const STREAMS_MAX: u32 = 100;
const HEADERS_MAX: u32 = 64 * 1024;
const RESETS_MAX: usize = 50;
/// Unsent bytes that one stream may hold (threat-model.md §4).
const SEND_BUFFER_MAX: usize = 64 * 1024;

/// Who is at the other end.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub machine: MachineKey,
    pub version: CapVer,
    pub conn: Arc<Conn>,
}

/// How the connection ended, for the streams on it; `None` while it lives.
pub(crate) type ConnEnd = watch::Receiver<Option<Ended>>;

/// Serves a connection to its end.
pub(crate) async fn serve<S>(shared: Arc<Shared>, stream: NoiseStream<S>, peer: Peer, limit: Duration)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADERS_MAX)
        .max_concurrent_reset_streams(RESETS_MAX)
        .max_pending_accept_reset_streams(RESETS_MAX)
        .max_local_error_reset_streams(Some(RESETS_MAX))
        .max_send_buffer_size(SEND_BUFFER_MAX);
    // WHY boxed: the connection stays for hours, the states before it do not.
    let handshake = Box::pin(builder.handshake::<_, Bytes>(stream));
    let Ok(Ok(connection)) = tokio::time::timeout(limit, handshake).await else {
        tracing::debug!(machine = %peer.machine.short(), "no HTTP/2 after the handshake");
        return;
    };
    let mut connection = Box::new(connection);
    let (end, ended) = watch::channel(None);
    let mut stopping = false;
    let how = loop {
        tokio::select! {
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    let work = handle(Arc::clone(&shared), peer.clone(), request, respond, ended.clone());
                    shared.tasks.spawn(work);
                }
                Some(Err(error)) => break how_ended(&error),
                None => break Ended::Broken,
            },
            () = shared.stopping.cancelled(), if !stopping => {
                stopping = true;
                // GOAWAY: the client opens its next connection elsewhere (control.md §1.7).
                connection.graceful_shutdown();
            }
        }
    };
    end.send_replace(Some(how));
}

/// A connection that timed out belongs to a machine that is gone (control.md §4.2).
fn how_ended(error: &h2::Error) -> Ended {
    match error.get_io().map(std::io::Error::kind) {
        Some(std::io::ErrorKind::TimedOut | std::io::ErrorKind::HostUnreachable) => Ended::Dead,
        Some(_) | None => Ended::Broken,
    }
}

async fn handle(
    shared: Arc<Shared>,
    peer: Peer,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    ended: ConnEnd,
) {
    let path = request.uri().path().to_owned();
    let result = match (request.method(), path.as_str()) {
        (&Method::POST, "/machine/map") => {
            // WHY boxed: its state is large, and a long poll goes on without it.
            let begun =
                Box::pin(crate::map_stream::begin(&shared, &peer, request.into_body(), &mut respond)).await;
            match begun {
                Ok(Some(stream)) => {
                    stream.run(shared, ended).await;
                    Ok(())
                }
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            }
        }
        _ => Box::pin(crate::machine::handle(&shared, &peer, request, &mut respond)).await,
    };
    match result {
        Ok(()) => {}
        Err(Refused::Status(status, text)) => drop(send_text(&mut respond, status, &text)),
        Err(Refused::Gone) => {}
    }
}

/// Why a request was not served.
#[derive(Debug)]
pub(crate) enum Refused {
    /// Plain text with a status: what clients log (control.md §2.2).
    Status(StatusCode, String),
    /// The client went away.
    Gone,
}

impl From<h2::Error> for Refused {
    fn from(_: h2::Error) -> Self {
        Self::Gone
    }
}

impl From<crate::task::Failure> for Refused {
    fn from(failure: crate::task::Failure) -> Self {
        Self::Status(StatusCode::INTERNAL_SERVER_ERROR, failure.to_string())
    }
}

/// Reads a body of at most `limit` bytes.
pub(crate) async fn read_body(mut body: RecvStream, limit: usize) -> Result<Bytes, Refused> {
    let mut bytes = BytesMut::new();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        if bytes.len() + piece.len() > limit {
            return Err(Refused::Status(StatusCode::PAYLOAD_TOO_LARGE, "the body is too long".to_owned()));
        }
        if bytes.is_empty() && body.is_end_stream() {
            return Ok(piece);
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes.freeze())
}

/// Reads and decodes a body; checks the version that it names.
pub(crate) async fn read_json<T: serde::de::DeserializeOwned>(body: RecvStream) -> Result<T, Refused> {
    let body = read_body(body, sw_tailcfg::BODY_MAX).await?;
    sw_tailcfg::decode_request(&body).map_err(|error| {
        let too_long = matches!(error, sw_tailcfg::DecodeError::TooLong { .. });
        let status = if too_long { StatusCode::PAYLOAD_TOO_LARGE } else { StatusCode::BAD_REQUEST };
        Refused::Status(status, error.to_string())
    })
}

/// Refuses clients that are too old (control.md §7.1).
pub(crate) fn check_version(version: CapVer) -> Result<(), Refused> {
    if version >= CapVer::SERVER_MIN {
        return Ok(());
    }
    let text = format!(
        "this client is too old: it has capability version {version}, the server needs {}",
        CapVer::SERVER_MIN
    );
    Err(Refused::Status(StatusCode::BAD_REQUEST, text))
}

pub(crate) fn send_text(
    respond: &mut SendResponse<Bytes>,
    status: StatusCode,
    text: &str,
) -> Result<(), h2::Error> {
    send(respond, status, "text/plain; charset=utf-8", format!("{text}\n").into())
}

pub(crate) fn send_json(respond: &mut SendResponse<Bytes>, value: &impl Serialize) -> Result<(), h2::Error> {
    send(respond, StatusCode::OK, "application/json", sw_tailcfg::encode(value).into())
}

pub(crate) fn send(
    respond: &mut SendResponse<Bytes>,
    status: StatusCode,
    kind: &'static str,
    body: Bytes,
) -> Result<(), h2::Error> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    let mut stream = respond.send_response(response, body.is_empty())?;
    if !body.is_empty() {
        stream.send_data(body, true)?;
    }
    Ok(())
}

/// Waits until the client gives a request up.
pub(crate) async fn given_up(respond: &mut SendResponse<Bytes>) -> Result<Reason, h2::Error> {
    poll_fn(|cx| respond.poll_reset(cx)).await
}

//! `/ts2021`: from an upgrade request to HTTP/2 inside Noise (control.md §1.2 to §1.8).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::header::{CONNECTION, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use sw_net::front::{Body, Conn, full};
use sw_net::ts2021::NoiseStream;
pub(crate) use sw_net::ts2021::PATH;
use sw_noise::{Accepted, HANDSHAKE_HEADER, HandshakeError, UPGRADE_PROTOCOL};
use sw_types::CapVer;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::clock;
use crate::inner::{self, Peer};
use crate::server::Shared;

/// For the first bytes of HTTP/2 after the handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// How the client asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Upgrade,
    WebSocket,
}

/// An upgrade request that may be granted.
struct Asked {
    form: Form,
    initiation: Result<[u8; sw_noise::INITIATION_LEN], HandshakeError>,
    websocket_key: Option<String>,
}

/// Reads the request; the text says what is wrong with it, for a 400.
fn ask(method: &Method, query: Option<&str>, headers: &HeaderMap) -> Result<Asked, &'static str> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let upgrade = text(UPGRADE.as_str()).ok_or("missing Upgrade header; does a proxy strip it?")?;
    if *method == Method::GET && upgrade.eq_ignore_ascii_case("websocket") {
        let from_query = query.and_then(|query| query_value(query, HANDSHAKE_HEADER));
        let value = from_query.ok_or("missing X-Tailscale-Handshake in the query")?;
        let websocket_key = text(SEC_WEBSOCKET_KEY.as_str()).ok_or("missing Sec-WebSocket-Key")?.to_owned();
        let initiation = sw_noise::initiation_from_header(&value);
        return Ok(Asked { form: Form::WebSocket, initiation, websocket_key: Some(websocket_key) });
    }
    if *method != Method::POST {
        return Err("upgrade with POST, or with GET and a WebSocket");
    }
    if !upgrade.eq_ignore_ascii_case(UPGRADE_PROTOCOL) {
        return Err("unknown protocol in the Upgrade header");
    }
    let value = text(HANDSHAKE_HEADER).ok_or("missing X-Tailscale-Handshake header")?;
    match sw_noise::initiation_from_header(value) {
        Err(HandshakeError::Header) => Err("X-Tailscale-Handshake is not base64"),
        initiation => Ok(Asked { form: Form::Upgrade, initiation, websocket_key: None }),
    }
}

/// Takes a connection whose first request is the upgrade; nothing was answered yet.
pub(crate) async fn take(
    shared: Arc<Shared>,
    head: Request<()>,
    mut stream: sw_net::front::Stream,
    conn: Arc<Conn>,
) {
    let asked = match ask(head.method(), head.uri().query(), head.headers()) {
        Ok(asked) => asked,
        Err(why) => {
            let text = format!(
                "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{why}\n",
                why.len() + 1
            );
            drop(stream.write_all(text.as_bytes()).await);
            drop(stream.shutdown().await);
            return;
        }
    };
    let switch = switching(&asked);
    match asked.form {
        Form::Upgrade => noise(shared, stream, &asked, switch, conn).await,
        Form::WebSocket => {
            if stream.write_all(&switch).await.is_ok() {
                websocket(shared, stream, &asked, conn).await;
            }
        }
    }
}

/// Answers an upgrade that is not the first request of its connection.
pub(crate) fn route(shared: Arc<Shared>, mut request: Request<Incoming>, conn: Arc<Conn>) -> Response<Body> {
    let asked = match ask(request.method(), request.uri().query(), request.headers()) {
        Ok(asked) => asked,
        Err(why) => return answer(StatusCode::BAD_REQUEST, why),
    };
    let mut response = Response::new(sw_net::front::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    for (name, value) in switch_headers(&asked) {
        if let Ok(value) = value.parse() {
            response.headers_mut().insert(name, value);
        }
    }
    let tasks = shared.tasks.clone();
    tasks.spawn(async move {
        if let Ok(upgraded) = hyper::upgrade::on(&mut request).await {
            let io = hyper_util::rt::TokioIo::new(upgraded);
            match asked.form {
                Form::Upgrade => noise(shared, io, &asked, Vec::new(), conn).await,
                Form::WebSocket => websocket(shared, io, &asked, conn).await,
            }
        }
    });
    response
}

fn answer(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(full(format!("{text}\n")));
    *response.status_mut() = status;
    response
}

fn switch_headers(asked: &Asked) -> Vec<(http::HeaderName, String)> {
    match (&asked.form, &asked.websocket_key) {
        (Form::WebSocket, Some(key)) => vec![
            (UPGRADE, "websocket".to_owned()),
            (CONNECTION, "Upgrade".to_owned()),
            (http::header::SEC_WEBSOCKET_ACCEPT, derive_accept_key(key.as_bytes())),
            (http::header::SEC_WEBSOCKET_PROTOCOL, UPGRADE_PROTOCOL.to_owned()),
        ],
        (Form::WebSocket | Form::Upgrade, _) => {
            vec![(UPGRADE, UPGRADE_PROTOCOL.to_owned()), (CONNECTION, "upgrade".to_owned())]
        }
    }
}

/// The 101 as bytes.
fn switching(asked: &Asked) -> Vec<u8> {
    let mut text = "HTTP/1.1 101 Switching Protocols\r\n".to_owned();
    for (name, value) in switch_headers(asked) {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    text.into_bytes()
}

/// The Noise handshake and what follows. `first` goes out in one segment with the Noise response.
async fn noise<S>(shared: Arc<Shared>, mut io: S, asked: &Asked, first: Vec<u8>, conn: Arc<Conn>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let accepted = asked
        .initiation
        .and_then(|initiation| sw_noise::accept(&initiation, &shared.noise_key, clock::random()));
    let accepted = match accepted {
        Ok(accepted) => accepted,
        Err(error @ (HandshakeError::Size | HandshakeError::Type | HandshakeError::Length)) => {
            let mut bytes = first;
            bytes.extend(sw_noise::error_message(error));
            drop(io.write_all(&bytes).await);
            return;
        }
        Err(error) => {
            tracing::debug!(%error, "Noise handshake failed");
            return;
        }
    };
    let Accepted { version, machine, response, transport } = accepted;
    let mut first = first;
    first.extend(response);
    let early = if version >= CapVer::EARLY_PAYLOAD { early_payload() } else { Vec::new() };
    let Ok(stream) = NoiseStream::accepted(io, transport, first, &early) else {
        return;
    };
    let peer = Peer { machine, version, conn };
    inner::serve(shared, stream, peer, HANDSHAKE_LIMIT).await;
}

/// The early payload: a challenge that nobody answers (control.md §1.6).
fn early_payload() -> Vec<u8> {
    let challenge = sw_types::ChallengePrivate::generate(clock::random()).public();
    let json = sw_tailcfg::encode(&sw_tailcfg::EarlyNoise { node_key_challenge: challenge });
    let mut plain = Vec::new();
    sw_noise::push_early(&json, &mut plain);
    plain
}

/// A WebSocket as a byte stream: message borders mean nothing (control.md §1.8).
async fn websocket<S>(shared: Arc<Shared>, io: S, asked: &Asked, conn: Arc<Conn>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
    let (mut to_client, mut from_client) = socket.split();
    let (near, far) = tokio::io::duplex(16 * 1024);
    let (mut read, mut write) = tokio::io::split(far);
    let inbound = async {
        while let Some(Ok(message)) = from_client.next().await {
            match message {
                Message::Binary(bytes) if write.write_all(&bytes).await.is_ok() => {}
                Message::Ping(_) | Message::Pong(_) => {}
                Message::Binary(_) | Message::Text(_) | Message::Close(_) | Message::Frame(_) => break,
            }
        }
        drop(write.shutdown().await);
    };
    let outbound = async {
        let mut buffer = vec![0; 8 * 1024];
        loop {
            match tokio::io::AsyncReadExt::read(&mut read, &mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(n) => {
                    let bytes = Bytes::copy_from_slice(buffer.get(..n).unwrap_or_default());
                    if to_client.send(Message::Binary(bytes)).await.is_err() {
                        break;
                    }
                }
            }
        }
        drop(to_client.close().await);
    };
    let work = noise(shared, near, asked, Vec::new(), conn);
    tokio::select! {
        ((), ()) = async { tokio::join!(inbound, outbound) } => {}
        () = work => {}
    }
}

/// One value of a query string, percent-decoded.
pub(crate) fn query_value(query: &str, name: &str) -> Option<String> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let found = pairs.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name))?;
    percent_decode(found.1)
}

fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = match first {
            b'%' => {
                let (digits, tail) = tail.split_at_checked(2)?;
                bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
                tail
            }
            // WHY not a blank: base64 holds `+`, and browsers leave it as it is.
            byte => {
                bytes.push(*byte);
                tail
            }
        };
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_values_are_decoded() {
        assert_eq!(
            query_value("a=1&X-Tailscale-Handshake=AB%2B%2F+%3D", HANDSHAKE_HEADER).as_deref(),
            Some("AB+/+=")
        );
        assert_eq!(query_value("a=%2", "a"), None);
        assert_eq!(query_value("a=%zz", "a"), None);
        assert_eq!(query_value("b=1", "a"), None);
    }

    #[test]
    fn what_is_wrong_with_an_upgrade_is_said() {
        let mut headers = HeaderMap::new();
        assert!(ask(&Method::POST, None, &headers).is_err_and(|why| why.contains("Upgrade")));
        headers.insert(UPGRADE, "TailScale-Control-Protocol".parse().unwrap());
        assert!(ask(&Method::POST, None, &headers).is_err_and(|why| why.contains("Handshake")));
        headers.insert("x-tailscale-handshake", "!".parse().unwrap());
        assert!(ask(&Method::POST, None, &headers).is_err_and(|why| why.contains("base64")));
        headers.insert("x-tailscale-handshake", "AAAA".parse().unwrap());
        assert!(ask(&Method::POST, None, &headers).is_ok_and(|asked| asked.initiation.is_err()));
        assert!(ask(&Method::PUT, None, &headers).is_err());
    }
}

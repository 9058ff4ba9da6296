//! A client as official ones are on the wire; it reads frames by itself, so that nothing of the server checks itself.

use std::net::SocketAddr;

use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::{SinkExt as _, StreamExt as _};
use h2::client::SendRequest;
use h2::{PingPong, RecvStream};
use http::{Method, Request, Response, StatusCode};
use serde_json::Value;
use sw_net::ts2021::NoiseStream;
use sw_noise::{Initiator, ServerReply, initiation_to_header, split_reply};
use sw_tailcfg::{Hostinfo, MapRequest, NetInfo, RegisterAuth, RegisterRequest, RegisterResponse};
use sw_types::{CapVer, ControlKey, MachinePrivate, NodeKey, RegionId, Secret};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;

pub(crate) const VERSION: CapVer = CapVer(130);
/// The relay that all machines call home.
pub(crate) const HOME: RegionId = RegionId(900);

pub(crate) struct Client {
    pub(crate) node_key: NodeKey,
    sender: SendRequest<Bytes>,
    pub(crate) pings: PingPong,
    /// Ends with the connection.
    pub(crate) connection: JoinHandle<Result<(), h2::Error>>,
}

fn keys(n: u8) -> (MachinePrivate, NodeKey) {
    (MachinePrivate::generate([n; 32]), NodeKey::from_bytes([n; 32]))
}

impl Client {
    /// The machine with this number, by the upgrade.
    pub(crate) async fn dial(server: SocketAddr, noise: ControlKey, n: u8) -> Self {
        let stream = TcpStream::connect(server).await.unwrap();
        let (machine, node_key) = keys(n);
        // The host without its port, as some clients write it.
        let host = server.ip().to_string();
        let connected =
            sw_net::ts2021::connect(stream, &host, VERSION, &machine, &noise, [n; 32]).await.unwrap();
        assert!(connected.early.is_some_and(|json| json.starts_with(b"{\"nodeKeyChallenge\":")));
        Self::over(connected.stream, node_key).await
    }

    /// The same by a WebSocket, as clients in browsers come (control.md §1.8).
    pub(crate) async fn dial_by_websocket(server: SocketAddr, noise: ControlKey, n: u8) -> Self {
        let (machine, node_key) = keys(n);
        let (initiator, initiation) = Initiator::start(VERSION, &machine, &noise, [n; 32]).unwrap();
        let handshake: String =
            initiation_to_header(&initiation).bytes().map(|byte| format!("%{byte:02X}")).collect();
        let request = Request::get(format!("ws://{server}/ts2021?X-Tailscale-Handshake={handshake}"))
            .header("host", server.to_string())
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "AAECAwQFBgcICQoLDA0ODw==")
            .header("sec-websocket-protocol", "tailscale-control-protocol")
            .body(())
            .unwrap();
        let tcp = TcpStream::connect(server).await.unwrap();
        let (socket, answer) = tokio_tungstenite::client_async(request, tcp).await.unwrap();
        assert_eq!(answer.headers()["sec-websocket-protocol"], "tailscale-control-protocol");
        let mut io = as_bytes(socket);
        let mut bytes = Vec::new();
        let (reply, rest) = loop {
            if let Some((reply, rest)) = split_reply(&bytes).unwrap() {
                break (reply, rest.to_vec());
            }
            assert!(io.read_buf(&mut bytes).await.unwrap() > 0, "the server answers the handshake");
        };
        let ServerReply::Response(response) = reply else { panic!("refused: {reply:?}") };
        let transport = initiator.finish(&machine, &response).unwrap();
        let mut stream = NoiseStream::initiated(io, transport, &rest).unwrap();
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        let length = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let mut early = vec![0; length as usize];
        stream.read_exact(&mut early).await.unwrap();
        assert!(head.starts_with(b"\xff\xff\xffTS") && early.starts_with(b"{\"nodeKeyChallenge\":"));
        Self::over(stream, node_key).await
    }

    async fn over<S>(stream: S, node_key: NodeKey) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, mut connection) = h2::client::handshake(stream).await.unwrap();
        let pings = connection.ping_pong().unwrap();
        Self { node_key, sender, pings, connection: tokio::spawn(connection) }
    }

    /// Sends a request; the answer's body is not read yet.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<Response<RecvStream>, h2::Error> {
        let request =
            Request::builder().method(method).uri(format!("https://server{path}")).body(()).unwrap();
        let mut sender = self.sender.clone().ready().await?;
        let (response, mut stream) = sender.send_request(request, false)?;
        stream.send_data(body.into(), true)?;
        response.await
    }

    /// Status and whole body.
    pub(crate) async fn ask(&self, method: Method, path: &str, body: Vec<u8>) -> (StatusCode, Vec<u8>) {
        let response = self.send(method, path, body).await.unwrap();
        let (status, mut body) = (response.status(), response.into_body());
        let mut bytes = Vec::new();
        while let Some(piece) = body.data().await {
            let piece = piece.unwrap();
            body.flow_control().release_capacity(piece.len()).unwrap();
            bytes.extend_from_slice(&piece);
        }
        (status, bytes)
    }

    pub(crate) fn register_request(&self) -> RegisterRequest {
        RegisterRequest {
            version: VERSION,
            node_key: self.node_key,
            hostinfo: Some(std::sync::Arc::new(host())),
            ..RegisterRequest::default()
        }
    }

    pub(crate) async fn register(&self, request: &RegisterRequest) -> RegisterResponse {
        let (status, body) = self.ask(Method::POST, "/machine/register", sw_tailcfg::encode(request)).await;
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
        sw_tailcfg::decode_answer(&body, 1 << 20).unwrap()
    }

    pub(crate) async fn join(&self, auth_key: &str) {
        let auth = Some(RegisterAuth { auth_key: Secret::new(auth_key.to_owned()) });
        let answer = self.register(&RegisterRequest { auth, ..self.register_request() }).await;
        assert!(answer.machine_authorized && answer.error.is_empty(), "{answer:?}");
    }

    pub(crate) fn map_request(&self) -> MapRequest {
        MapRequest {
            version: VERSION,
            node_key: self.node_key,
            hostinfo: Some(std::sync::Arc::new(host())),
            ..MapRequest::default()
        }
    }

    /// Opens a stream.
    pub(crate) async fn stream(&self, request: MapRequest) -> MapStream {
        let request = MapRequest { stream: true, keep_alive: true, ..request };
        let response = self.send(Method::POST, "/machine/map", sw_tailcfg::encode(&request)).await.unwrap();
        assert_eq!(response.status(), 200);
        MapStream { body: response.into_body(), unread: BytesMut::new() }
    }

    /// A map that is asked for once.
    pub(crate) async fn map(&self, request: MapRequest) -> Value {
        let response = self.send(Method::POST, "/machine/map", sw_tailcfg::encode(&request)).await.unwrap();
        assert_eq!(response.status(), 200);
        let mut stream = MapStream { body: response.into_body(), unread: BytesMut::new() };
        let map = stream.message().await.expect("a map");
        assert_eq!(stream.frame().await, None, "nothing behind it");
        map
    }
}

fn host() -> Hostinfo {
    Hostinfo {
        os: "linux".to_owned(),
        hostname: "machine".to_owned(),
        net_info: Some(NetInfo { preferred_derp: HOME, ..NetInfo::default() }),
        ..Hostinfo::default()
    }
}

/// Answers of a map request as they come.
pub(crate) struct MapStream {
    body: RecvStream,
    unread: BytesMut,
}

impl MapStream {
    /// The content of the next frame; `None` at an orderly end.
    pub(crate) async fn frame(&mut self) -> Option<Bytes> {
        loop {
            if let Some(length) = self.unread.first_chunk::<4>() {
                let length = u32::from_le_bytes(*length) as usize;
                if self.unread.len() >= 4 + length {
                    self.unread.advance(4);
                    return Some(self.unread.split_to(length).freeze());
                }
            }
            let piece = match self.body.data().await {
                Some(piece) => piece.expect("the stream is not broken off"),
                None => {
                    assert!(self.unread.is_empty(), "a frame is never cut");
                    return None;
                }
            };
            self.body.flow_control().release_capacity(piece.len()).unwrap();
            self.unread.extend_from_slice(&piece);
        }
    }

    /// The next message, unpacked.
    pub(crate) async fn message(&mut self) -> Option<Value> {
        let frame = self.frame().await?;
        let json =
            if frame.starts_with(b"{") { frame.to_vec() } else { zstd::decode_all(&frame[..]).unwrap() };
        Some(serde_json::from_slice(&json).unwrap())
    }
}

/// The bytes of a WebSocket's binary messages; borders mean nothing.
fn as_bytes(socket: tokio_tungstenite::WebSocketStream<TcpStream>) -> tokio::io::DuplexStream {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (mut to_server, mut from_server) = socket.split();
    let (mut read, mut write) = tokio::io::split(far);
    tokio::spawn(async move {
        while let Some(Ok(message)) = from_server.next().await {
            if let Message::Binary(bytes) = message
                && write.write_all(&bytes).await.is_err()
            {
                break;
            }
        }
        drop(write.shutdown().await);
    });
    tokio::spawn(async move {
        let mut buffer = vec![0; 8 * 1024];
        while let Ok(n @ 1..) = read.read(&mut buffer).await {
            // Single bytes at the front, since no border may matter.
            let (first, rest) = buffer[..n].split_at(1);
            for piece in [first, rest] {
                if to_server.send(Message::Binary(Bytes::copy_from_slice(piece))).await.is_err() {
                    return;
                }
            }
        }
        drop(to_server.close().await);
    });
    near
}

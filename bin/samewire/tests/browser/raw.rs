//! A machine that says of itself what no program of ours would.

use std::sync::Arc;

use http::{Method, Request};
use sw_tailcfg::{
    Hostinfo, OverTlsPublicKeyResponse, RegisterRequest, RegisterResponse, decode_answer, encode,
};
use sw_types::{CapVer, ControlKey, MachinePrivate, NodeKey};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const VERSION: CapVer = CapVer(130);
const ANSWER_MAX: usize = 1 << 20;

/// Registers without a key under this host name; returns the path of the login page.
pub(crate) async fn asks_to_join(url: &str, number: u8, host: &str) -> String {
    let server = url.strip_prefix("http://").expect("plain http");
    let noise = server_key(server).await;
    let stream = TcpStream::connect(server).await.expect("the server listens");
    let machine = MachinePrivate::generate([number; 32]);
    let connected = sw_net::ts2021::connect(stream, server, VERSION, &machine, &noise, [number; 32]);
    let connected = connected.await.expect("a Noise connection");
    let (sender, connection) = h2::client::handshake(connected.stream).await.expect("HTTP/2");
    tokio::spawn(connection);
    let hostinfo = Hostinfo { os: "linux".into(), hostname: host.into(), ..Hostinfo::default() };
    let request = RegisterRequest {
        version: VERSION,
        node_key: NodeKey::from_bytes([number; 32]),
        hostinfo: Some(Arc::new(hostinfo)),
        ..RegisterRequest::default()
    };
    let head = Request::builder().method(Method::POST).uri(format!("https://{server}/machine/register"));
    let mut sender = sender.ready().await.expect("ready");
    let (answer, mut body) = sender.send_request(head.body(()).expect("a head"), false).expect("sent");
    body.send_data(encode(&request).into(), true).expect("sent");
    let mut answer = answer.await.expect("an answer").into_body();
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.data().await {
        bytes.extend_from_slice(&chunk.expect("bytes"));
    }
    let answer: RegisterResponse = decode_answer(&bytes, ANSWER_MAX).expect("JSON");
    answer.auth_url[answer.auth_url.find("/register/").expect("a login page")..].to_owned()
}

async fn server_key(server: &str) -> ControlKey {
    let mut stream = TcpStream::connect(server).await.expect("the server listens");
    let ask = format!("GET /key?v={VERSION} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n");
    stream.write_all(ask.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("an answer");
    let body = answer.windows(4).position(|end| end == b"\r\n\r\n").expect("a head") + 4;
    let keys: OverTlsPublicKeyResponse = decode_answer(&answer[body..], ANSWER_MAX).expect("JSON");
    ControlKey::from_bytes(*keys.public_key.as_bytes())
}

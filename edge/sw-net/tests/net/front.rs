//! One port that speaks TLS, plain HTTP, h2 and raw protocols.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use sw_net::front::{Body, BoxFuture, Conn, Front, FrontLimits, Router, Stream, full};
use sw_net::tls::{CertStore, Identity, Trust, client_config, server_config, server_name};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

struct Echo;

impl Router for Echo {
    fn route(&self, request: Request<Incoming>, conn: Arc<Conn>) -> BoxFuture<Response<Body>> {
        let text = format!("{} {:?} tls={}", request.uri().path(), request.version(), conn.is_tls());
        Box::pin(async move { Response::new(full(text)) })
    }

    fn claims(&self, head: &Request<()>, _conn: &Conn) -> bool {
        head.uri().path() == "/raw"
    }

    fn take(&self, _head: Request<()>, mut stream: Stream, conn: Arc<Conn>) -> BoxFuture<()> {
        Box::pin(async move {
            conn.authenticated();
            let mut byte = [0; 1];
            while stream.read_exact(&mut byte).await.is_ok() {
                stream.write_all(&[byte[0] + 1]).await.unwrap();
                stream.flush().await.unwrap();
            }
        })
    }
}

struct Running {
    front: Front,
    address: SocketAddr,
    identity: Identity,
}

fn start(limits: FrontLimits) -> Running {
    let identity = Identity::self_signed(&["127.0.0.1".to_owned()]).unwrap();
    let store = CertStore::new();
    store.set_default(&identity);
    let listener = sw_net::socket::listen_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let front = Front::new(Arc::new(Echo), limits);
    front.listen(listener, Some(server_config(store)));
    Running { front, address, identity }
}

async fn tls(
    running: &Running,
    trust: &Trust,
    alpn: &[&[u8]],
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let stream = TcpStream::connect(running.address).await?;
    TlsConnector::from(client_config(trust, alpn).unwrap())
        .connect(server_name("127.0.0.1").unwrap(), stream)
        .await
}

async fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let reading = stream.read_to_string(&mut answer);
    tokio::time::timeout(Duration::from_secs(5), reading).await.expect("an answer and an end").unwrap();
    answer
}

#[tokio::test]
async fn plain_http_is_served_and_odd_requests_are_refused() {
    let running = start(FrontLimits::default());
    let ok = ask(running.address, "GET /key?v=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(ok.starts_with("HTTP/1.1 200") && ok.ends_with("/key HTTP/1.1 tls=false"), "{ok}");
    let long_line = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(8 << 10));
    let large_head = format!("GET / HTTP/1.1\r\nHost: x\r\nA: {}\r\n\r\n", "a".repeat(64 << 10));
    let cases = [
        ("GET http://x/other HTTP/1.1\r\nHost: x\r\n\r\n", "400"),
        ("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", "400"),
        ("CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n", "400"),
        ("POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "400"),
        (&long_line, "414"),
        (&large_head, "431"),
    ];
    for (request, status) in cases {
        let answer = ask(running.address, request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{} -> {answer}", &request[..20]);
    }
    running.front.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn the_same_port_speaks_tls_without_alpn_and_h2_with_it() {
    let running = start(FrontLimits::default());
    let trust = Trust::Pinned(running.identity.hash());
    let mut stream = tls(&running, &trust, &[]).await.unwrap();
    stream.write_all(b"GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("/a HTTP/1.1 tls=true"), "{answer}");

    let stream = tls(&running, &trust, &[b"h2", b"http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let driver = tokio::spawn(connection);
    let request = Request::get("https://127.0.0.1/b").body(sw_net::front::empty()).unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, &b"/b HTTP/2.0 tls=true"[..]);
    drop(sender);
    driver.await.unwrap().unwrap();
    running.front.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn another_certificate_than_the_pinned_one_is_refused() {
    let running = start(FrontLimits::default());
    let other = Identity::self_signed(&["127.0.0.1".to_owned()]).unwrap();
    assert!(tls(&running, &Trust::Pinned(other.hash()), &[]).await.is_err());
    assert!(tls(&running, &Trust::Roots, &[]).await.is_err());
    assert!(tls(&running, &Trust::Authority(running.identity.leaf().clone()), &[]).await.is_ok());
}

#[tokio::test]
async fn a_claimed_connection_gets_the_bytes_behind_the_head() {
    let running = start(FrontLimits::default());
    let mut stream = tls(&running, &Trust::Pinned(running.identity.hash()), &[]).await.unwrap();
    // Head and first bytes of the protocol in one record, as fast start sends them.
    stream.write_all(b"GET /raw HTTP/1.1\r\nHost: x\r\nUpgrade: x\r\n\r\n\x01\x02").await.unwrap();
    let mut answer = [0; 2];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, [2, 3], "no HTTP answer before it");
    stream.write_all(&[9]).await.unwrap();
    stream.read_exact(&mut answer[..1]).await.unwrap();
    assert_eq!(answer[0], 10);
}

#[tokio::test]
async fn silence_and_noise_are_cut_off() {
    let limits = FrontLimits {
        handshake: Duration::from_millis(200),
        header: Duration::from_millis(200),
        ..FrontLimits::default()
    };
    let running = start(limits);
    for sent in [&b""[..], b"\x00junk", b"\x16\x03\x01", b"GET / HTTP/1.1\r\nHost"] {
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        stream.write_all(sent).await.unwrap();
        let mut rest = Vec::new();
        let reading = stream.read_to_end(&mut rest);
        // Closed with data unread may be a reset; what matters is that it ends.
        drop(tokio::time::timeout(Duration::from_secs(5), reading).await.expect("closed"));
    }
}

#[tokio::test]
async fn a_connection_waits_for_its_turn_and_is_served_then() {
    let limits = FrontLimits { unauthenticated_per_source: 1, ..FrontLimits::default() };
    let running = start(limits);
    let idle = TcpStream::connect(running.address).await.unwrap();
    let address = running.address;
    let second =
        tokio::spawn(
            async move { ask(address, "GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await },
        );
    // Both are accepted; the second one waits in the queue until the first one goes.
    let stats = running.front.stats();
    while stats.accepted.load(std::sync::atomic::Ordering::Relaxed) < 2 {
        tokio::task::yield_now().await;
    }
    assert!(!second.is_finished());
    drop(idle);
    assert!(second.await.unwrap().starts_with("HTTP/1.1 200"));
}

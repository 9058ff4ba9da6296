use super::*;
use crate::front::{BoxFuture, Conn, Front, FrontLimits, Router, full};
use http::{Request, Response};
use hyper::body::Incoming;
use std::sync::{Arc, Mutex};
use sw_types::{CapVer, ControlPrivate, MachinePrivate};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

/// Upgrades one client and hands it out.
struct Upgrader {
    key: ControlPrivate,
    early: Option<Vec<u8>>,
    arrived: Mutex<Option<oneshot::Sender<std::io::Result<Arrived>>>>,
}

impl Router for Upgrader {
    fn route(&self, request: Request<Incoming>, _conn: Arc<Conn>) -> BoxFuture<Response<crate::front::Body>> {
        if request.uri().path() != PATH {
            return Box::pin(std::future::ready(Response::new(full("no"))));
        }
        match answer(request, &self.key, [9; 32], self.early.clone()) {
            Ok((response, arrival)) => {
                let sender = self.arrived.lock().expect("not poisoned").take();
                tokio::spawn(async move {
                    let outcome = arrival.await;
                    if let Some(sender) = sender {
                        assert!(sender.send(outcome).is_ok(), "the test waits for it");
                    }
                });
                Box::pin(std::future::ready(response))
            }
            Err(refusal) => Box::pin(std::future::ready(refusal.response())),
        }
    }
}

async fn serve(
    early: Option<&str>,
) -> (std::net::SocketAddr, oneshot::Receiver<std::io::Result<Arrived>>, Front) {
    let (sender, receiver) = oneshot::channel();
    let upgrader = Upgrader {
        key: ControlPrivate::generate([2; 32]),
        early: early.map(|json| json.as_bytes().to_vec()),
        arrived: Mutex::new(Some(sender)),
    };
    let front = Front::new(Arc::new(upgrader), FrontLimits::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    front.listen(listener, None);
    (address, receiver, front)
}

#[tokio::test]
async fn both_ends_meet_and_a_megabyte_crosses_each_way() {
    let json = r#"{"nodeKeyChallenge":"chalpub:00"}"#;
    let (address, arrived, _front) = serve(Some(json)).await;
    let machine = MachinePrivate::generate([1; 32]);
    let key = ControlPrivate::generate([2; 32]).public();
    let io = TcpStream::connect(address).await.expect("connects");
    let client = connect(io, "h:80", CapVer(130), &machine, &key, [3; 32]).await.expect("upgrades");
    assert_eq!(client.early.as_deref(), Some(json.as_bytes()));
    let mut server = arrived.await.expect("sent").expect("handshake");
    assert_eq!((server.machine, server.version), (machine.public(), CapVer(130)));

    let sent: Vec<u8> = (0..1_u32 << 20).map(|i| (i % 251) as u8).collect();
    let expected = sent.clone();
    let echo = tokio::spawn(async move {
        let mut got = vec![0; expected.len()];
        server.stream.read_exact(&mut got).await.expect("reads");
        server.stream.write_all(&got).await.expect("writes");
        server.stream.shutdown().await.expect("closes");
    });
    let (mut read, mut write) = tokio::io::split(client.stream);
    let copy = sent.clone();
    let writer = tokio::spawn(async move {
        write.write_all(&copy).await.expect("writes");
        write.flush().await.expect("flushes");
        write
    });
    let mut back = Vec::new();
    read.read_to_end(&mut back).await.expect("reads to the end");
    assert!(back == sent, "bytes differ");
    drop(writer.await.expect("no panic"));
    echo.await.expect("no panic");
}

#[tokio::test]
async fn a_client_with_the_wrong_server_key_gets_nowhere() {
    let (address, arrived, _front) = serve(None).await;
    let machine = MachinePrivate::generate([1; 32]);
    let wrong = ControlPrivate::generate([7; 32]).public();
    let io = TcpStream::connect(address).await.expect("connects");
    let error = connect(io, "h:80", CapVer(130), &machine, &wrong, [3; 32]).await.expect_err("refused");
    assert!(matches!(error, ConnectError::Refused(_) | ConnectError::Io(_)), "{error}");
    assert!(arrived.await.expect("sent").is_err());
}

#[tokio::test]
async fn a_request_without_upgrade_is_told_what_is_missing() {
    let (address, _arrived, _front) = serve(None).await;
    let mut io = TcpStream::connect(address).await.expect("connects");
    io.write_all(b"POST /ts2021 HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        .await
        .expect("writes");
    let mut answer = String::new();
    io.read_to_string(&mut answer).await.expect("reads");
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("missing Upgrade header"), "{answer}");
}

#[tokio::test]
async fn a_server_that_is_none_of_ours_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        let (mut io, _) = listener.accept().await.expect("a client");
        let mut request = [0; 1_024];
        let n = io.read(&mut request).await.expect("reads");
        assert!(n > 0);
        io.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await.expect("writes");
    });
    let machine = MachinePrivate::generate([1; 32]);
    let key = ControlPrivate::generate([2; 32]).public();
    let io = TcpStream::connect(address).await.expect("connects");
    let error = connect(io, "h", CapVer(130), &machine, &key, [3; 32]).await.expect_err("not ours");
    assert_eq!(error.to_string(), "unexpected HTTP response: 404 Not Found");
}

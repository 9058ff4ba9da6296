use super::*;
use sw_noise::{Accepted, HANDSHAKE_HEADER, accept, error_message, initiation_from_header};
use sw_types::{CapVer, ControlPrivate, MachineKey, MachinePrivate};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

const SWITCH: &str =
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: tailscale-control-protocol\r\nConnection: upgrade\r\n\r\n";

/// The server's end of one connection.
struct Arrived {
    machine: MachineKey,
    version: CapVer,
    stream: NoiseStream<TcpStream>,
}

/// Answers one client as a control server does: everything up to the early payload in one segment.
async fn serve(early: Option<&'static str>) -> (std::net::SocketAddr, JoinHandle<Option<Arrived>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let arrival = tokio::spawn(async move {
        let (mut io, _) = listener.accept().await.expect("a client");
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            assert!(io.read_buf(&mut request).await.expect("reads") > 0, "the request is whole");
        }
        let request = String::from_utf8(request).expect("a head is text");
        assert!(request.starts_with("POST /ts2021 HTTP/1.1\r\n"), "{request}");
        let fields = request.lines().filter_map(|line| line.split_once(": "));
        let mut handshake = fields.filter(|(name, _)| name.eq_ignore_ascii_case(HANDSHAKE_HEADER));
        let (_, handshake) = handshake.next().expect("a handshake");
        let initiation = initiation_from_header(handshake).expect("an initiation");
        let mut first = SWITCH.as_bytes().to_vec();
        let accepted = match accept(&initiation, &ControlPrivate::generate([2; 32]), [9; 32]) {
            Ok(accepted) => accepted,
            Err(error) => {
                first.extend(error_message(error));
                io.write_all(&first).await.expect("writes");
                return None;
            }
        };
        let Accepted { machine, version, response, transport } = accepted;
        first.extend(response);
        let mut payload = Vec::new();
        if let Some(json) = early {
            sw_noise::push_early(json.as_bytes(), &mut payload);
        }
        let mut stream = NoiseStream::accepted(io, transport, first, &payload).expect("a fresh transport");
        if early.is_none() {
            // A client knows by the first bytes that there is no early payload (control.md §1.6).
            stream.write_all(&[0; 9]).await.expect("writes");
        }
        stream.flush().await.expect("flushes");
        Some(Arrived { machine, version, stream })
    });
    (address, arrival)
}

#[tokio::test]
async fn both_ends_meet_and_a_megabyte_crosses_each_way() {
    let json = r#"{"nodeKeyChallenge":"chalpub:00"}"#;
    let (address, arrived) = serve(Some(json)).await;
    let machine = MachinePrivate::generate([1; 32]);
    let key = ControlPrivate::generate([2; 32]).public();
    let io = TcpStream::connect(address).await.expect("connects");
    let client = connect(io, "h:80", CapVer(130), &machine, &key, [3; 32]).await.expect("upgrades");
    assert_eq!(client.early.as_deref(), Some(json.as_bytes()));
    let mut server = arrived.await.expect("no panic").expect("handshake");
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
async fn a_server_may_begin_without_an_early_payload() {
    let (address, _arrived) = serve(None).await;
    let machine = MachinePrivate::generate([1; 32]);
    let key = ControlPrivate::generate([2; 32]).public();
    let io = TcpStream::connect(address).await.expect("connects");
    let mut client = connect(io, "h:80", CapVer(130), &machine, &key, [3; 32]).await.expect("upgrades");
    assert_eq!(client.early, None);
    let mut first = [1; 9];
    client.stream.read_exact(&mut first).await.expect("reads");
    assert_eq!(first, [0; 9], "what was looked at is still there");
}

#[tokio::test]
async fn a_client_with_the_wrong_server_key_gets_nowhere() {
    let (address, arrived) = serve(None).await;
    let machine = MachinePrivate::generate([1; 32]);
    let wrong = ControlPrivate::generate([7; 32]).public();
    let io = TcpStream::connect(address).await.expect("connects");
    let error = connect(io, "h:80", CapVer(130), &machine, &wrong, [3; 32]).await.expect_err("refused");
    assert!(matches!(error, ConnectError::Refused(_) | ConnectError::Io(_)), "{error}");
    assert!(arrived.await.expect("no panic").is_none());
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

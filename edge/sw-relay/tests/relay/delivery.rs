//! What goes in comes out: plain, TLS with fast start, WebSocket, mesh, duplicates, departures.

use std::sync::Arc;

use sw_net::derp_client::{DerpConfig, DerpEvent, Upgrade};
use sw_net::dial::Proxy;
use sw_proto::derp::PeerGone;
use sw_types::{CertCheck, MeshKey, NodePrivate};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::setup::{Peer, config, disco_packet, eventually, region, start};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packets_of_all_sizes_arrive_in_order_and_unchanged() {
    let running = start(config(1));
    let mut plain = Peer::plain(&running, 10).await;
    let mut tls = Peer::tls(&running, 11).await;
    let sizes = [0, 1, 32, 100, 1280, 1500, 16_384, 65_535, 65_536];
    for (from, to) in [(0, 1), (1, 0)] {
        let peers = [&plain, &tls];
        let (key, sender) = (peers[to].key, &peers[from].client);
        for (index, size) in sizes.iter().enumerate() {
            sender.send(key, &vec![index as u8; *size]);
        }
        let want_from = peers[from].key;
        let receiver = if to == 1 { &mut tls } else { &mut plain };
        for (index, size) in sizes.iter().enumerate() {
            let got = receiver.packet().await;
            assert_eq!((got.from, got.packet.len()), (want_from, *size));
            assert!(got.packet.iter().all(|byte| *byte == index as u8));
        }
    }
    assert_eq!(running.relay.stats().home_connections, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_carries_the_same_frames() {
    let running = start(config(1));
    let other = Peer::plain(&running, 10).await;
    for cert in [None, Some(CertCheck::Sha256(running.hash.0))] {
        let key = Arc::new(NodePrivate::generate([20; 32]));
        let mut config =
            DerpConfig::new(region(running.address, cert.clone().unwrap_or(CertCheck::HostName)), key);
        config.plain_http = cert.is_none();
        let mut connection = sw_net::derp_client::connect(&config, Upgrade::WebSocket).await.unwrap();
        assert_eq!(connection.relay, running.relay.key());
        other.client.send(config.key.public(), b"over a websocket");
        let mut frame = [0; 5 + 32 + 16];
        connection.stream.read_exact(&mut frame).await.unwrap();
        assert_eq!(&frame[37..], b"over a websocket");
        drop(connection);
        eventually("it left", || running.relay.stats().connections == 1).await;
    }
}

/// Passes connections on to a relay if `answer` says so, after what it says; else answers and closes.
async fn middlebox(
    relay: std::net::SocketAddr,
    answer: fn(&str) -> (bool, &'static [u8]),
    eats_head: bool,
) -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                let (passes, said) = answer(std::str::from_utf8(&head).unwrap());
                stream.write_all(said).await.unwrap();
                if passes {
                    let mut onward = tokio::net::TcpStream::connect(relay).await.unwrap();
                    if !eats_head {
                        onward.write_all(&head).await.unwrap();
                    }
                    drop(tokio::io::copy_bidirectional(&mut stream, &mut onward).await);
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_finds_its_way_through_a_proxy_and_past_a_box_that_knows_websockets_alone() {
    let running = start(config(1));
    let mut there = Peer::plain(&running, 10).await;
    let websockets = |head: &str| -> (bool, &'static [u8]) {
        match head.contains("Upgrade: websocket") {
            true => (true, b""),
            false => (false, b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"),
        }
    };
    let boxed = middlebox(running.address, websockets, false).await;
    let behind = Peer::connect(boxed, None, 11).await;
    behind.client.send(there.key, b"over a websocket");
    assert_eq!(&there.packet().await.packet[..], b"over a websocket");
    assert!(running.relay.metrics_text().contains("derp_websocket_accepts 1\n"));

    let connect = |head: &str| -> (bool, &'static [u8]) {
        match head.starts_with("CONNECT ") && head.contains("Proxy-Authorization: Basic dTpw\r\n") {
            true => (true, b"HTTP/1.1 200 Connection established\r\n\r\n"),
            false => (false, b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"),
        }
    };
    let proxy = middlebox(running.address, connect, true).await;
    let key = Arc::new(NodePrivate::generate([12; 32]));
    let pinned = CertCheck::Sha256(running.hash.0);
    let mut through = DerpConfig::new(region(running.address, pinned), Arc::clone(&key));
    through.dial.proxy = Proxy::parse(&format!("http://u:p@{proxy}"));
    let mut connection = sw_net::derp_client::connect(&through, Upgrade::Derp).await.unwrap();
    there.client.send(key.public(), b"through a proxy");
    let mut frame = [0; 5 + 32 + 15];
    connection.stream.read_exact(&mut frame).await.unwrap();
    assert_eq!(&frame[37..], b"through a proxy");
    through.dial.proxy = Proxy::parse(&format!("http://{proxy}"));
    assert!(sw_net::derp_client::connect(&through, Upgrade::Derp).await.is_err(), "without its password");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn absence_is_told_to_senders_of_disco_alone_and_departure_to_receivers() {
    let running = start(config(1));
    let mut a = Peer::plain(&running, 10).await;
    let mut b = Peer::plain(&running, 11).await;
    let nobody = NodePrivate::generate([99; 32]).public();
    a.client.send(nobody, b"not disco: no answer");
    a.client.send(nobody, &disco_packet());
    let gone = a.until(|event| matches!(event, DerpEvent::PeerGone { .. })).await;
    assert_eq!(gone, DerpEvent::PeerGone { peer: nobody, reason: PeerGone::NotHere });
    a.client.send(b.key, b"hello");
    b.packet().await;
    let a_key = a.key;
    drop(a);
    let gone = b.until(|event| matches!(event, DerpEvent::PeerGone { .. })).await;
    assert_eq!(gone, DerpEvent::PeerGone { peer: a_key, reason: PeerGone::Disconnected });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_connections_with_one_key_the_one_heard_last_gets_the_packets() {
    let running = start(config(1));
    let a = Peer::plain(&running, 10).await;
    let mut first = Peer::plain(&running, 11).await;
    // A connection's note that this is its home counts as heard too: the newest is the last when all have come.
    eventually("the first are at home", || running.relay.stats().home_connections == 2).await;
    let mut second = Peer::plain(&running, 11).await;
    eventually("all are at home", || running.relay.stats().home_connections == 3).await;
    assert_eq!(running.relay.stats().duplicate_connections, 2);
    a.client.send(second.key, b"to the newest");
    assert_eq!(&second.packet().await.packet[..], b"to the newest");
    first.client.send(a.key, b"I am here");
    let mut a = a;
    a.packet().await;
    a.client.send(first.key, b"to the one heard last");
    assert_eq!(&first.packet().await.packet[..], b"to the one heard last");
    drop(first);
    eventually("it left", || running.relay.stats().duplicate_connections == 0).await;
    a.client.send(second.key, b"to the one that is left");
    assert_eq!(&second.packet().await.packet[..], b"to the one that is left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_relays_of_a_region_carry_packets_for_each_other() {
    let meshed = |seed| {
        let mut config = config(seed);
        config.mesh_key = Some(Arc::new(MeshKey::from_bytes([5; 32])));
        start(config)
    };
    let (one, two) = (meshed(1), meshed(2));
    let pinned = |running: &crate::setup::Running| region(running.address, CertCheck::Sha256(running.hash.0));
    one.relay.join_mesh(pinned(&two), false);
    two.relay.join_mesh(pinned(&one), false);
    let mut a = Peer::tls(&one, 10).await;
    let mut b = Peer::tls(&two, 11).await;
    eventually("both are known on both sides", || {
        one.relay.stats().remote_clients >= 1 && two.relay.stats().remote_clients >= 1
    })
    .await;
    for round in 0..3u8 {
        a.client.send(b.key, &[round; 200]);
        assert_eq!(b.packet().await.packet[..], [round; 200]);
        b.client.send(a.key, &[round; 2000]);
        assert_eq!(a.packet().await.packet[..], [round; 2000]);
    }
    let b_key = b.key;
    drop(b);
    let gone = a.until(|event| matches!(event, DerpEvent::PeerGone { .. })).await;
    assert_eq!(gone, DerpEvent::PeerGone { peer: b_key, reason: PeerGone::Disconnected });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_stops_writes_what_waits_and_clients_come_back() {
    let running = start(config(1));
    let a = Peer::plain(&running, 10).await;
    let mut b = Peer::plain(&running, 11).await;
    for _ in 0..20 {
        a.client.send(b.key, &[3; 1000]);
    }
    b.packet().await;
    running.relay.drain(std::time::Duration::from_secs(5)).await;
    b.until(|event| matches!(event, DerpEvent::Disconnected { .. })).await;
    assert_eq!(running.relay.stats().connections, 0);
    // The same relay answers still: the clients find it again.
    b.until(|event| matches!(event, DerpEvent::Connected { .. })).await;
}

/// One request; status line, headers in lower case and body.
async fn ask(running: &crate::setup::Running, request: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(running.address).await.unwrap();
    stream.write_all(format!("{request}\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.to_lowercase()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_other_paths_answer_as_clients_expect() {
    let mut config = config(1);
    config.bootstrap_names = vec!["localhost".to_owned()];
    let running = start(config);
    let answer = ask(&running, "GET /generate_204 HTTP/1.1\r\nX-Tailscale-Challenge: ts_relay.example").await;
    assert!(answer.starts_with("http/1.1 204 "), "{answer}");
    assert!(answer.contains("\r\nx-tailscale-response: response ts_relay.example\r\n"), "{answer}");
    let answer = ask(&running, "GET /generate_204 HTTP/1.1\r\nX-Tailscale-Challenge: <x>").await;
    assert!(!answer.contains("x-tailscale-response"), "{answer}");
    for path in ["/derp/probe", "/derp/latency-check"] {
        let answer = ask(&running, &format!("HEAD {path} HTTP/1.1")).await;
        assert!(
            answer.starts_with("http/1.1 200 ") && answer.contains("access-control-allow-origin: *"),
            "{answer}"
        );
        assert!(ask(&running, &format!("POST {path} HTTP/1.1")).await.starts_with("http/1.1 405 "));
    }
    assert!(ask(&running, "GET /derp HTTP/1.1").await.starts_with("http/1.1 426 "));
    // As the official Rust client asks.
    let whole = "GET https://127.0.0.1/derp/latency-check HTTP/1.1";
    assert!(ask(&running, whole).await.starts_with("http/1.1 200 "));
    assert!(ask(&running, "GET https://127.0.0.1/robots.txt HTTP/1.1").await.starts_with("http/1.1 400 "));
    assert!(ask(&running, "GET /robots.txt HTTP/1.1").await.contains("disallow: /"));
    assert!(
        ask(&running, "GET /debug/varz HTTP/1.1").await.contains("derp_accepts 0"),
        "asked from this machine"
    );
    let mut told = String::new();
    let began = std::time::Instant::now();
    while !told.contains("127.0.0.1") {
        assert!(began.elapsed() < crate::setup::PATIENCE, "the name is resolved: {told}");
        told = ask(&running, "GET /bootstrap-dns?q=localhost HTTP/1.1").await;
    }
    assert!(told.contains("content-type: application/json") && told.contains("{\"localhost\":["), "{told}");
}

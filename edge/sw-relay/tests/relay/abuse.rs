//! Bad clients: memory stays bounded, counters tell, nobody else notices.

use std::sync::Arc;
use std::time::Duration;

use sw_net::derp_client::{DerpConfig, DerpEvent, Upgrade};
use sw_net::front::BoxFuture;
use sw_proto::derp::{ClientFrame, FrameHeader, FrameType};
use sw_relay::{Admission, ClientRate};
use sw_types::{CertCheck, NodeKey, NodePrivate};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::setup::{PATIENCE, Peer, Running, config, eventually, region, start};

const UPGRADE: &[u8] = b"GET /derp HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: DERP\r\n\r\n";

/// A connection that is logged in and then used byte by byte.
async fn raw(running: &Running, seed: u8) -> sw_net::derp_client::Connection {
    let key = Arc::new(NodePrivate::generate([seed; 32]));
    let mut config = DerpConfig::new(region(running.address, CertCheck::HostName), key);
    config.plain_http = true;
    sw_net::derp_client::connect(&config, Upgrade::Derp).await.unwrap()
}

async fn is_closed(stream: &mut (impl AsyncReadExt + Unpin)) {
    let mut rest = Vec::new();
    drop(tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("the relay closes it"));
}

/// Two clients in good standing, who must not notice anything.
struct Witnesses(Peer, Peer);

impl Witnesses {
    async fn new(running: &Running) -> Self {
        Self(Peer::plain(running, 100).await, Peer::tls(running, 101).await)
    }

    async fn are_served(&mut self) {
        self.0.client.send(self.1.key, b"still here");
        assert_eq!(&self.1.packet().await.packet[..], b"still here");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_that_cannot_be_close_their_connection_alone() {
    let running = start(config(1));
    let mut witnesses = Witnesses::new(&running).await;
    let header = |kind, len| FrameHeader { kind, len }.encode().to_vec();
    let bad = [
        header(FrameType::SendPacket, u32::MAX),
        header(FrameType::SendPacket, 31),
        header(FrameType::SendPacket, 32 + 65_537),
        header(FrameType::Unknown(0x77), 65_537),
        header(FrameType::Ping, 7),
        // Only for mesh members.
        header(FrameType::WatchConns, 0),
        [header(FrameType::ClosePeer, 32), witnesses.0.key.as_bytes().to_vec()].concat(),
        [header(FrameType::ForwardPacket, 64), vec![1; 64]].concat(),
    ];
    for bytes in &bad {
        let mut connection = raw(&running, 30).await;
        connection.stream.write_all(bytes).await.unwrap();
        is_closed(&mut connection.stream).await;
        witnesses.are_served().await;
    }
    let text = running.relay.metrics_text();
    assert!(text.contains(&format!("derp_bad_frames {}\n", bad.len())), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn arbitrary_frames_never_hurt_anybody() {
    let running = start(config(1));
    let mut witnesses = Witnesses::new(&running).await;
    let mut noise = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        noise ^= noise << 13;
        noise ^= noise >> 7;
        noise ^= noise << 17;
        noise
    };
    for round in 0..60 {
        let mut connection = raw(&running, 40 + (round % 5)).await;
        let mut bytes = Vec::new();
        for _ in 0..200 {
            let len = (next() % 300) as u32;
            bytes.extend_from_slice(
                &FrameHeader { kind: FrameType::from_wire(next() as u8 % 0x20), len }.encode(),
            );
            bytes.extend((0..len).map(|_| next() as u8));
        }
        // The relay may have closed it by now.
        drop(connection.stream.write_all(&bytes).await);
    }
    witnesses.are_served().await;
    eventually("all left", || running.relay.stats().connections == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logins_that_prove_nothing_are_refused_and_counted() {
    let running = start(config(1));
    let mut witnesses = Witnesses::new(&running).await;
    // Somebody else's key; noise; another frame first.
    let mut forged = Vec::new();
    ClientFrame::ClientInfo(&[&witnesses.0.key.as_bytes()[..], &[0; 100]].concat()).encode(&mut forged);
    let mut zero_key = Vec::new();
    ClientFrame::ClientInfo(&[0; 132]).encode(&mut zero_key);
    let mut packet = Vec::new();
    ClientFrame::SendPacket { to: witnesses.0.key, packet: b"x" }.encode(&mut packet);
    let logins = [forged, zero_key, packet, vec![0xff; 64]];
    for login in &logins {
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        stream.write_all(&[UPGRADE, login].concat()).await.unwrap();
        is_closed(&mut stream).await;
    }
    eventually("counted", || running.relay.totals().login_failures == logins.len() as u64).await;
    assert_eq!(running.relay.stats().connections, 2);
    witnesses.are_served().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_takes_nothing_is_closed_and_delays_nobody() {
    let mut config = config(1);
    config.write_timeout = Duration::from_millis(500);
    let running = start(config);
    let mut witnesses = Witnesses::new(&running).await;
    let slow = raw(&running, 50).await;
    let slow_key = NodePrivate::generate([50; 32]).public();
    let mut sender = raw(&running, 51).await;
    let mut frame = Vec::new();
    ClientFrame::SendPacket { to: slow_key, packet: &[9; 60_000] }.encode(&mut frame);
    let is_closed = || running.relay.metrics_text().contains("derp_sclient_write_timeouts 1\n");
    let flood = async {
        // The relay drops, it does not wait. How much sockets hold is the system's affair, and what was dropped fills
        // none: so it goes on until the slow one's socket has taken all that it can.
        while !is_closed() {
            for _ in 0..50 {
                sender.stream.write_all(&frame).await.unwrap();
            }
            witnesses.are_served().await;
        }
    };
    tokio::time::timeout(PATIENCE, flood).await.expect("nobody is held up, and the slow one is closed");
    eventually("nothing stays behind", || running.relay.metrics_text().contains("derp_queued_bytes 0\n"))
        .await;
    drop(slow);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_a_slow_receiver_is_bounded() {
    let mut config = config(1);
    config.write_timeout = Duration::ZERO;
    let limit = config.queue.data_bytes as u64;
    let running = start(config);
    let _slow = raw(&running, 50).await;
    let slow_key = NodePrivate::generate([50; 32]).public();
    let mut sender = raw(&running, 51).await;
    let mut frame = Vec::new();
    ClientFrame::SendPacket { to: slow_key, packet: &[9; 1000] }.encode(&mut frame);
    for _ in 0..30_000 {
        sender.stream.write_all(&frame).await.unwrap();
    }
    let queued = || {
        let text = running.relay.metrics_text();
        let line = text.lines().find_map(|line| line.strip_prefix("derp_queued_bytes ")).map(str::to_owned);
        line.unwrap().parse::<u64>().unwrap()
    };
    eventually("everything was read", || running.relay.totals().packets_received == 30_000).await;
    assert!(queued() > 0 && queued() <= limit, "{} of {limit}", queued());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_over_its_rate_is_read_more_slowly() {
    let mut config = config(1);
    config.rate = Some(ClientRate { bytes_per_second: 1_000_000, burst_bytes: 65_568 });
    let running = start(config);
    let mut a = Peer::plain(&running, 10).await;
    let mut b = Peer::plain(&running, 11).await;
    let began = std::time::Instant::now();
    for _ in 0..10 {
        a.client.send(b.key, &[1; 60_000]);
    }
    for _ in 0..10 {
        assert_eq!(b.packet().await.packet.len(), 60_000, "held back, not dropped");
    }
    // 600 KB at 1 MB/s, less the burst.
    assert!(began.elapsed() > Duration::from_millis(400), "{:?}", began.elapsed());
    b.client.send(a.key, b"not affected");
    a.packet().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_rate_holds_for_those_who_are_connected() {
    let running = start(config(1));
    let a = Peer::plain(&running, 10).await;
    let mut b = Peer::plain(&running, 11).await;
    a.client.send(b.key, &[1; 60_000]);
    b.packet().await;
    running.relay.set_rate(Some(ClientRate { bytes_per_second: 100_000, burst_bytes: 65_568 }));
    let metrics = running.relay.metrics_text();
    assert!(metrics.contains("derp_rate_limit_per_client_bytes_per_second 100000\n"), "{metrics}");
    for _ in 0..4 {
        a.client.send(b.key, &[1; 60_000]);
    }
    let waited = || !running.relay.metrics_text().contains("derp_rate_limit_waited 0\n");
    eventually("the client is made to wait", waited).await;
    running.relay.set_rate(None);
    for _ in 0..4 {
        b.packet().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machines_with_one_key_hear_of_it_and_of_its_end() {
    let running = start(config(1));
    let mut a = Peer::plain(&running, 10).await;
    let mut first = Peer::plain(&running, 11).await;
    let mut second = Peer::plain(&running, 11).await;
    for _ in 0..8 {
        first.client.send(a.key, b"from one");
        a.packet().await;
        second.client.send(a.key, b"from the other");
        a.packet().await;
    }
    let problem =
        |event: &DerpEvent| matches!(event, DerpEvent::Health(Some(text)) if text.contains("same key"));
    first.until(problem).await;
    second.until(problem).await;
    drop(first);
    second.until(|event| matches!(event, DerpEvent::Health(None))).await;
}

struct Only(NodeKey);

impl Admission for Only {
    fn admits(&self, key: NodeKey, _source: std::net::IpAddr) -> BoxFuture<bool> {
        Box::pin(std::future::ready(key == self.0))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_admitted_stays_out_and_who_is_kicked_goes() {
    let mut config = config(1);
    config.admission = Arc::new(Only(NodePrivate::generate([10; 32]).public()));
    let running = start(config);
    let a = Peer::plain(&running, 10).await;
    let key = Arc::new(NodePrivate::generate([11; 32]));
    let mut other = DerpConfig::new(region(running.address, CertCheck::HostName), key);
    other.plain_http = true;
    assert!(sw_net::derp_client::connect(&other, Upgrade::Derp).await.is_err());
    assert!(running.relay.metrics_text().contains("derp_admission_refused 1\n"));
    assert_eq!(running.relay.stats().connections, 1);
    running.relay.kick(a.key);
    eventually("it came anew", || running.relay.metrics_text().contains("derp_accepts 3\n")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stun_answers_exact_requests_alone() {
    let running = start(config(1));
    let socket = sw_net::socket::bind_udp("127.0.0.1:0".parse().unwrap()).unwrap();
    let server = socket.local_addr().unwrap();
    running.relay.serve_stun(socket).unwrap();
    let client = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let tx = sw_proto::stun::TxId([4; 12]);
    let request = sw_proto::stun::request(tx);
    client.send_to(&request[..39], server).await.unwrap();
    client.send_to(b"GET / HTTP/1.1\r\n\r\n", server).await.unwrap();
    client.send_to(&request, server).await.unwrap();
    // An answer may arrive before it is counted.
    let counted = async |line| eventually(line, || running.relay.metrics_text().contains(line)).await;
    let mut answer = [0; 100];
    let (len, _) = tokio::time::timeout(PATIENCE, client.recv_from(&mut answer)).await.unwrap().unwrap();
    assert_eq!(sw_proto::stun::parse_response(&answer[..len]), Ok((tx, client.local_addr().unwrap())));
    // The same over IPv6, where this machine has it.
    if let Ok(socket) = sw_net::socket::bind_udp("[::1]:0".parse().unwrap()) {
        let server = socket.local_addr().unwrap();
        running.relay.serve_stun(socket).unwrap();
        let client = tokio::net::UdpSocket::bind("[::1]:0").await.unwrap();
        client.send_to(&request[..39], server).await.unwrap();
        client.send_to(&request, server).await.unwrap();
        let (len, _) = tokio::time::timeout(PATIENCE, client.recv_from(&mut answer)).await.unwrap().unwrap();
        assert_eq!(sw_proto::stun::parse_response(&answer[..len]), Ok((tx, client.local_addr().unwrap())));
        counted("stun_addrfamily{family=\"ipv6\"} 1\n").await;
    }
    counted("stun_addrfamily{family=\"ipv4\"} 1\n").await;
    counted("stun_requests{disposition=\"not_stun\"} 1\n").await;
}

//! Whole devices over loopback, with packet queues in place of TUNs.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use sw_dataplane::{
    Counter, DatagramKind, Device, DeviceConfig, Event, PacketChannel, PacketIo, PeerConfig, Roaming,
    SocketNumber, SocketOptions, Way,
};
use sw_types::{Instant, NodeKey, NodePrivate, Path, RegionId, Vni};
use tokio::sync::mpsc::Receiver;

const PATIENCE: Duration = Duration::from_secs(20);

struct Node {
    device: Device,
    events: Receiver<Event>,
    inner: PacketChannel,
    key: NodeKey,
    ip: Ipv4Addr,
}

#[tokio::test]
async fn packets_flow_both_ways_after_a_handshake() {
    let (mut a, mut b) = (node(1), node(2));
    connect(&a, &b, Some(direct(&b)), Roaming::ByOwner);
    connect(&b, &a, Some(direct(&a)), Roaming::ByOwner);
    exchange(&mut a, &mut b).await;
    exchange(&mut b, &mut a).await;
    // Counting comes after delivery.
    eventually(|| {
        let stats = a.device.peer(&b.key).unwrap();
        stats.last_handshake.is_some()
            && stats.sent_bytes > 0
            && stats.received_bytes > 0
            && stats.sent_datagrams[0] > 0
    })
    .await;
}

#[tokio::test]
async fn a_source_that_belongs_to_another_peer_is_dropped() {
    let (mut a, mut b, c) = (node(1), node(2), node(3));
    connect(&a, &b, Some(direct(&b)), Roaming::ByOwner);
    connect(&b, &a, Some(direct(&a)), Roaming::ByOwner);
    connect(&b, &c, None, Roaming::ByOwner);
    exchange(&mut a, &mut b).await;
    a.inner.to_network.send(packet(c.ip, b.ip, b"stolen source")).await.unwrap();
    exchange(&mut a, &mut b).await;
    assert_eq!(counter(&b.device, "in_foreign_source"), 1);
}

#[tokio::test]
async fn a_peer_without_a_path_is_asked_for_and_then_reached() {
    let (mut a, mut b) = (node(1), node(2));
    connect(&a, &b, None, Roaming::ByOwner);
    connect(&b, &a, None, Roaming::ByOwner);
    a.inner.to_network.send(packet(a.ip, b.ip, b"early")).await.unwrap();
    wait_event(&mut a.events, |e| matches!(e, Event::WantPath(key) if *key == b.key)).await;
    a.device.set_way(&b.key, Some(direct(&b).into()));
    // b has no path to a and answers to where the initiation came from.
    expect(&mut b, b"early").await;
    wait_event(&mut b.events, |e| matches!(e, Event::FirstPacketFrom { peer, .. } if *peer == a.key)).await;
    b.device.set_way(&a.key, Some(direct(&a).into()));
    exchange(&mut b, &mut a).await;
}

#[tokio::test]
async fn a_relay_is_one_more_path() {
    let (mut a, mut b) = (node(1), node(2));
    connect(&a, &b, Some(Path::Derp(RegionId(900))), Roaming::ByOwner);
    connect(&b, &a, Some(Path::Derp(RegionId(900))), Roaming::ByOwner);
    a.inner.to_network.send(packet(a.ip, b.ip, b"by relay")).await.unwrap();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        tokio::select! {
            Some(event) = a.events.recv() => relay(event, &a, &b),
            Some(event) = b.events.recv() => relay(event, &b, &a),
            got = b.inner.from_network.recv() => {
                assert!(got.unwrap().ends_with(b"by relay"));
                break;
            }
            () = tokio::time::sleep_until(deadline) => panic!("nothing came through the relay"),
        }
    }
    fn relay(event: Event, from: &Node, to: &Node) {
        if let Event::RelayOut { region, to: key, bytes } = event {
            assert_eq!(key, to.key);
            to.device.on_relayed(region, from.key, bytes);
        }
    }
}

#[tokio::test]
async fn plain_peers_follow_packets_and_tailnet_peers_do_not() {
    let (mut a, mut b) = (node(1), node(2));
    connect(&a, &b, Some(direct(&b)), Roaming::ByOwner);
    connect(&b, &a, Some(direct(&a)), Roaming::FollowPackets);
    exchange(&mut a, &mut b).await;
    let old = direct(&a);
    a.device.rebind(0).unwrap();
    assert_ne!(old, direct(&a));
    exchange(&mut a, &mut b).await;
    eventually(|| b.device.peer(&a.key).unwrap().path == Some(direct(&a))).await;
    exchange(&mut b, &mut a).await;
    b.device.rebind(0).unwrap();
    exchange(&mut b, &mut a).await;
    assert_ne!(a.device.peer(&b.key).unwrap().path, Some(direct(&b)), "only set_way moves it");
}

#[tokio::test]
async fn an_initiation_waits_for_its_sender_to_become_a_peer() {
    let (a, mut b) = (node(1), node(2));
    connect(&a, &b, Some(direct(&b)), Roaming::ByOwner);
    a.inner.to_network.send(packet(a.ip, b.ip, b"early bird")).await.unwrap();
    eventually(|| b.device.stats().handshakes == sw_wg::Stats::default() && sent(&a) == 1).await;
    // What b knows only now has been there before; the protocol itself repeats after five seconds.
    let start = std::time::Instant::now();
    connect(&b, &a, None, Roaming::ByOwner);
    expect(&mut b, b"early bird").await;
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_lost_initiation_is_repeated_when_a_path_appears() {
    let (a, mut b) = (node(1), node(2));
    let nowhere = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let lost = Path::Direct(nowhere.local_addr().unwrap());
    connect(&a, &b, Some(lost), Roaming::ByOwner);
    connect(&b, &a, Some(direct(&a)), Roaming::ByOwner);
    a.inner.to_network.send(packet(a.ip, b.ip, b"patient")).await.unwrap();
    let start = std::time::Instant::now();
    nowhere.recv_from(&mut [0; 200]).unwrap();
    a.device.set_way(&b.key, Some(direct(&b).into()));
    // A path that comes at once is no reason for a second initiation; news of the peer a little later is.
    let mut ticks = tokio::time::interval(Duration::from_millis(50));
    loop {
        tokio::select! {
            _ = ticks.tick() => a.device.on_reachable(&b.key),
            got = b.inner.from_network.recv() => {
                assert!(got.unwrap().ends_with(b"patient"));
                break;
            }
        }
    }
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_path_may_start_from_a_further_socket_and_leave_copies_with_a_relay() {
    let (mut a, mut b) = (node(1), node(2));
    connect(&a, &b, None, Roaming::ByOwner);
    connect(&b, &a, None, Roaming::ByOwner);
    let socket = a.device.open_socket().unwrap();
    let to: SocketAddr = (Ipv4Addr::LOCALHOST, b.device.local_port()).into();
    let mut disco = vec![0x54, 0x53, 0xf0, 0x9f, 0x92, 0xac];
    disco.resize(80, 0);
    a.device.send_udp(socket, to, &disco);
    let event = wait_event(&mut b.events, |e| matches!(e, Event::NonWireGuard { .. })).await;
    let Event::NonWireGuard { from, .. } = event else { panic!("{event:?}") };
    assert_ne!(from.port(), a.device.local_port());
    b.device.send_udp(SocketNumber::MAIN, from, &disco);
    let event = wait_event(&mut a.events, |e| matches!(e, Event::NonWireGuard { .. })).await;
    assert!(matches!(event, Event::NonWireGuard { socket: at, .. } if at == socket), "{event:?}");
    b.device.set_way(&a.key, Some(Path::Direct(from).into()));
    let relay_copy = Some(RegionId(900));
    a.device.set_way(&b.key, Some(Way { path: direct(&b), socket, relay_copy }));
    exchange(&mut a, &mut b).await;
    exchange(&mut b, &mut a).await;
    let is_copy = |e: &Event| matches!(e, Event::RelayOut { to, .. } if *to == b.key);
    let copy = wait_event(&mut a.events, is_copy).await;
    let Event::RelayOut { bytes, .. } = copy else { panic!("{copy:?}") };
    b.device.on_relayed(RegionId(900), a.key, bytes);
    a.device.close_socket(socket);
    a.device.send_udp(socket, to, &disco);
    eventually(|| counter(&a.device, "no_socket") > 0).await;
}

#[tokio::test]
async fn rebinding_to_the_same_port_works() {
    let (mut a, mut b) = (node(1), node(2));
    connect(&a, &b, Some(direct(&b)), Roaming::ByOwner);
    connect(&b, &a, Some(direct(&a)), Roaming::ByOwner);
    exchange(&mut a, &mut b).await;
    let port = a.device.local_port();
    a.device.rebind(port).unwrap();
    assert_eq!(a.device.local_port(), port);
    exchange(&mut b, &mut a).await;
}

#[tokio::test]
async fn other_protocols_come_out_as_events_and_share_the_port() {
    let (a, mut b) = (node(1), node(2));
    let to: SocketAddr = (Ipv4Addr::LOCALHOST, b.device.local_port()).into();
    let mut stun = vec![1, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
    stun.resize(32, 0);
    let mut disco = vec![0x54, 0x53, 0xf0, 0x9f, 0x92, 0xac];
    disco.resize(80, 0);
    let control = [&[0, 0x80, 0x7a, 0x11, 0, 0, 1, 0][..], &disco].concat();
    for (bytes, kind) in
        [(stun, DatagramKind::Stun), (disco, DatagramKind::Disco), (control, DatagramKind::Geneve)]
    {
        a.device.send_udp(SocketNumber::MAIN, to, &bytes);
        let event = wait_event(&mut b.events, |_| true).await;
        let Event::NonWireGuard { socket: SocketNumber::MAIN, from, kind: got, bytes: came } = event else {
            panic!("{event:?}")
        };
        assert_eq!((got, came), (kind, bytes));
        assert_eq!(from.port(), a.device.local_port());
    }
}

#[tokio::test]
async fn service_addresses_are_handed_to_the_owner_and_answered() {
    let mut a = node(1);
    let service = Ipv4Addr::new(100, 100, 100, 100);
    a.device.set_local_addrs(vec![], vec![service.into()]);
    let query = packet(a.ip, service, b"query");
    a.inner.to_network.send(query.clone()).await.unwrap();
    let event = wait_event(&mut a.events, |_| true).await;
    assert!(matches!(event, Event::ServicePacket(bytes) if bytes == query));
    a.device.inject_inbound(&packet(service, a.ip, b"answer"));
    expect(&mut a, b"answer").await;
}

#[tokio::test]
async fn a_removed_peer_is_heard_no_more() {
    let (mut a, mut b) = (node(1), node(2));
    connect(&a, &b, Some(direct(&b)), Roaming::ByOwner);
    connect(&b, &a, Some(direct(&a)), Roaming::ByOwner);
    exchange(&mut a, &mut b).await;
    assert!(b.device.remove_peer(&a.key));
    let before = counter(&b.device, "in_unknown_session");
    while counter(&b.device, "in_unknown_session") == before {
        a.inner.to_network.send(packet(a.ip, b.ip, b"too late")).await.unwrap();
        tokio::task::yield_now().await;
    }
    connect(&b, &a, Some(direct(&a)), Roaming::ByOwner);
    exchange(&mut b, &mut a).await;
}

#[tokio::test]
async fn a_forged_storm_leaves_the_session_alone() {
    let (mut a, mut b) = (node(1), node(2));
    connect(&a, &b, Some(direct(&b)), Roaming::ByOwner);
    connect(&b, &a, Some(direct(&a)), Roaming::ByOwner);
    exchange(&mut a, &mut b).await;
    let enemy = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let to: SocketAddr = (Ipv4Addr::LOCALHOST, b.device.local_port()).into();
    for i in 0..20_000u32 {
        let mut bytes = vec![0; [32, 148, 92, 64, 7, 1200][i as usize % 6]];
        bytes[0] = (i % 5) as u8;
        if let Some(index) = bytes.get_mut(4..8) {
            index.copy_from_slice(&i.to_le_bytes());
        }
        enemy.send_to(&bytes, to).unwrap();
    }
    exchange(&mut a, &mut b).await;
    exchange(&mut b, &mut a).await;
}

fn node(n: u8) -> Node {
    let (io, inner) = PacketIo::channel();
    let options = SocketOptions { address: Some(Ipv4Addr::LOCALHOST.into()), ..SocketOptions::default() };
    let config = DeviceConfig { io, port: 0, sockets: options, mtu: 1420 };
    let (device, events) = Device::start(config).unwrap();
    let private = NodePrivate::from_bytes([n; 32]);
    let key = private.public();
    device.set_private_key(Some(private));
    Node { device, events, inner, key, ip: Ipv4Addr::new(100, 64, 0, n) }
}

fn connect(node: &Node, peer: &Node, path: Option<Path>, roaming: Roaming) {
    node.device.upsert_peer(PeerConfig {
        key: peer.key,
        psk: None,
        keepalive: None,
        allowed: vec![ipnet::Ipv4Net::from(peer.ip).into()],
        path,
        roaming,
    });
}

fn sent(node: &Node) -> u64 {
    node.device.stats().handshakes.initiations_sent
}

fn direct(node: &Node) -> Path {
    Path::Direct((Ipv4Addr::LOCALHOST, node.device.local_port()).into())
}

/// An IPv4 packet of an unassigned protocol.
fn packet(src: Ipv4Addr, dst: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 253, 0, 0];
    packet.extend(src.octets());
    packet.extend(dst.octets());
    packet.extend(payload);
    let len = packet.len() as u16;
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    packet
}

/// Sends until something arrives: the first packets may be lost while paths move.
async fn exchange(from: &mut Node, to: &mut Node) {
    let payload: [u8; 16] = rand_payload();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while tokio::time::Instant::now() < deadline {
        from.inner.to_network.send(packet(from.ip, to.ip, &payload)).await.unwrap();
        let wait = tokio::time::timeout(Duration::from_millis(300), async {
            loop {
                if to.inner.from_network.recv().await.unwrap().ends_with(&payload) {
                    return;
                }
            }
        });
        if wait.await.is_ok() {
            return;
        }
    }
    panic!("nothing arrived; {:?} {:?}", from.device.stats(), to.device.stats());
}

async fn eventually(is_so: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !is_so() {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::task::yield_now().await;
    }
}

fn rand_payload() -> [u8; 16] {
    let mut payload = [0; 16];
    getrandom::fill(&mut payload).unwrap();
    payload
}

async fn expect(node: &mut Node, payload: &[u8]) {
    let got = tokio::time::timeout(PATIENCE, node.inner.from_network.recv()).await;
    assert!(got.expect("nothing came").unwrap().ends_with(payload));
}

async fn wait_event(events: &mut Receiver<Event>, is_it: impl Fn(&Event) -> bool) -> Event {
    tokio::time::timeout(PATIENCE, async {
        loop {
            let event = events.recv().await.unwrap();
            if is_it(&event) {
                return event;
            }
        }
    })
    .await
    .expect("no such event")
}

fn counter(device: &Device, label: &str) -> u64 {
    let counters = device.stats().counters;
    counters.iter().find(|(c, _)| c.label() == label).map(|(_, n)| *n).unwrap()
}

#[tokio::test]
async fn two_nodes_talk_through_a_third_that_forwards() {
    let (mut a, mut b, relay) = (node(1), node(2), node(3));
    let vni = Vni::new(77).expect("24 bits");
    let tunnel = Path::PeerRelay { addr: (Ipv4Addr::LOCALHOST, relay.device.local_port()).into(), vni };
    let legs = [&a, &b].map(|node| (Ipv4Addr::LOCALHOST, node.device.local_port()).into());
    relay.device.set_forward(vni, Some(legs));
    connect(&a, &b, Some(tunnel), Roaming::ByOwner);
    connect(&b, &a, Some(tunnel), Roaming::ByOwner);
    exchange(&mut a, &mut b).await;
    exchange(&mut b, &mut a).await;
    let stats = relay.device.stats();
    let forwarded = stats.counters.iter().find(|(counter, _)| *counter == Counter::Forwarded);
    assert!(forwarded.is_some_and(|(_, count)| *count >= 4), "{forwarded:?}");
    let [(_, heard)] = relay.device.forwarded()[..] else { panic!("one tunnel") };
    assert!(heard.iter().all(|at| *at > Instant::ZERO));
}

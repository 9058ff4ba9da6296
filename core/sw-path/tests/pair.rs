//! Two engines on a flat network with one relay: the life of one path.
#![expect(clippy::unwrap_used, reason = "the helpers of a test may fail it")]
#![expect(clippy::wildcard_enum_match_arm, reason = "each test looks at a few outputs of many")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use sw_path::{
    LinkChange, LocalAddress, Output, PathConfig, PathEngine, PeerInfo, PingOutcome, RelayState, Route,
    SocketId, Source, Verdict, Via,
};
use sw_types::{
    CapVer, CertCheck, DiscoPrivate, Instant, NodeKey, NodePrivate, Now, RegionId, RelayAddr, RelayMap,
    RelayNode, RelayRegion, UnixTime,
};

const HOME: RegionId = RegionId(900);
const ONE_WAY: Duration = Duration::from_millis(10);
const RELAY_ONE_WAY: Duration = Duration::from_millis(25);

struct Node {
    key: NodeKey,
    addr: SocketAddr,
    engine: PathEngine,
    route: Route,
    outputs: Vec<Output>,
}

struct Flight {
    at: Instant,
    to: usize,
    source: Source,
    bytes: Vec<u8>,
}

struct World {
    now: Now,
    nodes: Vec<Node>,
    flights: VecDeque<Flight>,
    /// UDP between the nodes is dropped.
    udp_blocked: bool,
    /// Every n-th UDP datagram between the nodes is dropped.
    lose_every: Option<u32>,
    /// A node hears UDP of the other only after it has sent to it.
    have_nats: bool,
    /// Who has sent UDP to the other.
    opened: BTreeSet<usize>,
    /// Node 1 is at its relay from then on.
    at_relay_from: Instant,
    is_relay_dead: bool,
    sent: u32,
    stun: SocketAddr,
}

fn relay_map(stun: SocketAddr) -> RelayMap {
    let node = RelayNode {
        name: "900a".to_owned(),
        host_name: "relay.example".to_owned(),
        cert: CertCheck::HostName,
        ipv4: RelayAddr::Fixed(match stun {
            SocketAddr::V4(v4) => *v4.ip(),
            SocketAddr::V6(_) => panic!("the test relay has IPv4"),
        }),
        ipv6: RelayAddr::Disabled,
        stun_port: Some(stun.port()),
        stun_only: false,
        derp_port: 443,
        insecure_for_tests: false,
        stun_test_ip: None,
        can_port_80: false,
    };
    let region = RelayRegion {
        id: HOME,
        code: "home".to_owned(),
        name: "home".to_owned(),
        no_measure_no_home: false,
        nodes: vec![node],
    };
    RelayMap { regions: BTreeMap::from([(HOME, region)]), region_score: BTreeMap::new() }
}

impl World {
    fn new() -> Self {
        let now = Now { mono: Instant::from_nanos(1_000_000_000), wall: UnixTime::from_secs(1_800_000_000) };
        let stun: SocketAddr = "198.51.100.1:3478".parse().unwrap();
        let mut world = Self {
            now,
            nodes: Vec::new(),
            flights: VecDeque::new(),
            udp_blocked: false,
            lose_every: None,
            have_nats: false,
            opened: BTreeSet::new(),
            at_relay_from: Instant::ZERO,
            is_relay_dead: false,
            sent: 0,
            stun,
        };
        let mut infos = Vec::new();
        for n in 1..=2_u8 {
            let disco = DiscoPrivate::generate([n; 32]);
            let key = NodePrivate::generate([n + 100; 32]).public();
            let addr = SocketAddr::from(([203, 0, 113, n], 41641));
            infos.push(PeerInfo {
                node: key,
                disco: Some(disco.public()),
                endpoints: Vec::new(),
                home: Some(HOME),
                cap: CapVer::CLIENT,
            });
            let engine = PathEngine::new(PathConfig::default(), disco, key, [n; 32]);
            world.nodes.push(Node { key, addr, engine, route: Route::default(), outputs: Vec::new() });
        }
        for n in 0..2 {
            let peer = infos[1 - n].clone();
            let node = &mut world.nodes[n];
            let local = LocalAddress { interface: "eth0".to_owned(), ip: node.addr.ip(), prefix_len: 24 };
            node.engine.on_local_addresses(vec![local], now);
            node.engine.on_bound_port(node.addr.port(), now);
            node.engine.on_relay_map(&relay_map(stun), now);
            node.engine.on_relay_state(HOME, RelayState::Connected, now);
            node.engine.on_peers(vec![peer.into()], now);
        }
        world.drain();
        world
    }

    fn drain(&mut self) {
        for n in 0..2 {
            while let Some(output) = self.nodes[n].engine.poll_output() {
                self.perform(n, &output);
                self.nodes[n].outputs.push(output);
            }
        }
    }

    fn perform(&mut self, n: usize, output: &Output) {
        let (from, key) = (self.nodes[n].addr, self.nodes[n].key);
        match output {
            Output::SendUdp { to, datagram, .. } if *to == self.stun => {
                let answer = sw_proto::stun::answer(datagram, from).unwrap();
                let source = Source::Udp { socket: SocketId::MAIN, from: self.stun };
                let at = self.now.mono + ONE_WAY * 2;
                self.flights.push_back(Flight { at, to: n, source, bytes: answer.as_bytes().to_vec() });
            }
            Output::SendUdp { to, datagram, .. } => {
                self.sent += 1;
                let lost =
                    self.udp_blocked || self.lose_every.is_some_and(|every| self.sent.is_multiple_of(every));
                if let Some(peer) = self.nodes.iter().position(|node| node.addr == *to)
                    && !lost
                {
                    self.opened.insert(n);
                    let source = Source::Udp { socket: SocketId::MAIN, from };
                    let at = self.now.mono + ONE_WAY;
                    self.flights.push_back(Flight { at, to: peer, source, bytes: datagram.clone() });
                }
            }
            Output::SendRelay { region, to, datagram } => {
                let peer = self.nodes.iter().position(|node| node.key == *to).unwrap();
                let source = Source::Relay { region: *region, from: key };
                let at = self.now.mono + RELAY_ONE_WAY;
                if self.is_relay_dead || (peer == 1 && self.now.mono < self.at_relay_from) {
                    return;
                }
                self.flights.push_back(Flight { at, to: peer, source, bytes: datagram.clone() });
            }
            Output::SetRoute { route, .. } => self.nodes[n].route = *route,
            _ => {}
        }
    }

    /// Runs until `duration` later; `traffic` says which nodes send every 100 ms.
    fn run(&mut self, duration: Duration, traffic: &[usize]) {
        let end = self.now.mono + duration;
        let mut next_traffic = self.now.mono;
        let mut still = 0;
        loop {
            let deadline = self.nodes.iter().filter_map(|n| n.engine.next_deadline()).map(|(at, _)| at).min();
            let arrival = self.flights.iter().map(|f| f.at).min();
            let talk = (!traffic.is_empty()).then_some(next_traffic);
            let Some(at) = [deadline, arrival, talk].into_iter().flatten().min().filter(|at| *at <= end)
            else {
                break;
            };
            still = if at <= self.now.mono { still + 1 } else { 0 };
            assert!(still < 1000, "a deadline that does not go away");
            self.now = self.now.after(at.saturating_since(self.now.mono));
            while let Some(due) = self.flights.iter().position(|f| f.at <= self.now.mono) {
                let flight = self.flights.remove(due).unwrap();
                let is_of_peer = matches!(flight.source, Source::Udp { from, .. } if from == self.nodes[1 - flight.to].addr);
                if self.have_nats && is_of_peer && !self.opened.contains(&flight.to) {
                    continue;
                }
                self.nodes[flight.to].engine.on_datagram(flight.source, &flight.bytes, self.now);
                self.drain();
            }
            if talk.is_some_and(|t| t <= self.now.mono) {
                for n in traffic {
                    let peer = self.nodes[1 - n].key;
                    self.nodes[*n].engine.on_traffic(&peer, self.now);
                }
                next_traffic += Duration::from_millis(100);
            }
            for n in 0..2 {
                self.nodes[n].engine.on_deadline(self.now);
            }
            self.drain();
        }
        self.now = self.now.after(end.saturating_since(self.now.mono));
    }

    /// Runs until `wanted` holds for node 0 and returns how long that took.
    fn until(&mut self, limit: Duration, traffic: &[usize], wanted: impl Fn(Route) -> bool) -> Duration {
        let start = self.now.mono;
        while !wanted(self.nodes[0].route) {
            assert!(self.now.mono.saturating_since(start) < limit, "still {:?}", self.nodes[0].route);
            self.run(Duration::from_millis(10), traffic);
        }
        self.now.mono.saturating_since(start)
    }
}

fn is_direct(route: Route) -> bool {
    route.udp.is_some() && route.relay.is_none()
}

#[test]
fn a_first_packet_leads_to_a_direct_path_at_once() {
    let mut world = World::new();
    world.run(Duration::from_millis(200), &[]);
    assert_eq!(world.nodes[0].engine.home(), Some(HOME));
    assert_eq!(world.nodes[0].route, Route { udp: None, relay: Some(HOME) });
    let took = world.until(Duration::from_secs(2), &[0], is_direct);
    // The candidates come by CallMeMaybe: one relay delay, then one round trip.
    assert!(took <= RELAY_ONE_WAY + ONE_WAY * 3 + Duration::from_millis(20), "{took:?}");
}

#[test]
fn a_peer_that_came_to_its_relay_a_moment_late_is_met_between_nats() {
    let mut world = World::new();
    world.run(Duration::from_millis(200), &[]);
    let peers: Vec<_> = world.nodes.iter().map(|node| (node.key, node.addr)).collect();
    for (n, (node, addr)) in peers.into_iter().enumerate() {
        let info = PeerInfo {
            node,
            disco: Some(DiscoPrivate::generate([n as u8 + 1; 32]).public()),
            endpoints: vec![addr],
            home: Some(HOME),
            cap: CapVer::CLIENT,
        };
        world.nodes[1 - n].engine.on_peers(vec![info.into()], world.now);
    }
    world.have_nats = true;
    world.at_relay_from = world.now.mono + Duration::from_millis(50);
    let took = world.until(Duration::from_secs(2), &[0], is_direct);
    assert!(took <= Duration::from_millis(200), "{took:?}");
}

#[test]
fn a_black_hole_is_left_within_three_seconds_and_taken_again_when_it_heals() {
    let mut world = World::new();
    world.until(Duration::from_secs(3), &[0, 1], is_direct);
    world.run(Duration::from_secs(20), &[0, 1]);
    world.udp_blocked = true;
    let left = world.until(Duration::from_secs(3), &[0, 1], |route| route.relay.is_some());
    assert!(left < Duration::from_millis(2500), "{left:?}");
    world.until(Duration::from_secs(10), &[0, 1], |route| route.udp.is_none());
    world.run(Duration::from_secs(30), &[0, 1]);
    assert_eq!(world.nodes[0].route, Route { udp: None, relay: Some(HOME) });
    world.udp_blocked = false;
    let healed = world.until(Duration::from_secs(3), &[0, 1], is_direct);
    assert!(healed < Duration::from_secs(2), "{healed:?}");
}

#[test]
fn a_lossy_path_is_left_for_the_relay_and_taken_again() {
    let mut world = World::new();
    world.until(Duration::from_secs(3), &[0, 1], is_direct);
    world.run(Duration::from_secs(20), &[0, 1]);
    world.lose_every = Some(2);
    world.until(Duration::from_secs(6), &[0, 1], |route| route.udp.is_none());
    let peer = world.nodes[1].key;
    let report = world.nodes[0].engine.report(&peer, world.now).unwrap();
    assert!(report.candidates.iter().any(|c| matches!(c.verdict, Verdict::Lossy { .. } | Verdict::Lost)));
    world.lose_every = None;
    world.until(Duration::from_secs(10), &[0, 1], is_direct);
}

#[test]
fn a_lossy_path_is_taken_when_the_relay_is_dead() {
    let mut world = World::new();
    world.until(Duration::from_secs(3), &[0, 1], is_direct);
    world.run(Duration::from_secs(20), &[0, 1]);
    world.lose_every = Some(3);
    world.until(Duration::from_secs(6), &[0, 1], |route| route.udp.is_none());
    world.is_relay_dead = true;
    let took = world.until(Duration::from_secs(5), &[0, 1], |route| route.udp.is_some());
    assert!(took < Duration::from_secs(3), "{took:?}");
    for _ in 0..300 {
        world.run(Duration::from_millis(100), &[0, 1]);
        assert!(
            world.nodes[0].route.udp.is_some(),
            "two thirds arrive by this path, and nothing by the other"
        );
    }
}

#[test]
fn a_quiet_node_sleeps() {
    let mut world = World::new();
    world.until(Duration::from_secs(3), &[0], is_direct);
    world.run(Duration::from_secs(60), &[]);
    let mut wakes = 0;
    let start = world.now.mono;
    while world.now.mono.saturating_since(start) < Duration::from_secs(60) {
        let Some((at, _)) = world.nodes[0].engine.next_deadline() else { break };
        wakes += 1;
        world.run(at.saturating_since(world.now.mono) + Duration::from_millis(1), &[]);
    }
    assert!(wakes <= 12, "{wakes} wake-ups a minute");
}

#[test]
fn after_idle_the_first_packets_go_both_ways_until_the_path_is_proven() {
    let mut world = World::new();
    world.until(Duration::from_secs(3), &[0], is_direct);
    world.run(Duration::from_secs(70), &[]);
    let route = world.nodes[0].route;
    assert!(route.udp.is_some() && route.relay.is_some(), "{route:?}");
    let took = world.until(Duration::from_secs(1), &[0], is_direct);
    assert!(took <= ONE_WAY * 2 + Duration::from_millis(20), "{took:?}");
}

#[test]
fn a_link_change_falls_back_to_the_relay_and_finds_the_path_anew() {
    let mut world = World::new();
    world.until(Duration::from_secs(3), &[0, 1], is_direct);
    world.nodes[0].addr = "203.0.113.77:41641".parse().unwrap();
    let local = LocalAddress { interface: "wlan0".to_owned(), ip: world.nodes[0].addr.ip(), prefix_len: 24 };
    let now = world.now;
    world.nodes[0].engine.on_local_addresses(vec![local], now);
    world.nodes[0].engine.on_link_change(LinkChange::Major, now);
    world.drain();
    assert_eq!(world.nodes[0].route, Route { udp: None, relay: Some(HOME) });
    assert!(world.nodes[0].outputs.contains(&Output::Rebind));
    let took = world.until(Duration::from_secs(1), &[0, 1], is_direct);
    assert!(took < Duration::from_millis(200), "{took:?}");
}

#[test]
fn a_ping_is_answered_by_relay_first_and_then_directly() {
    let mut world = World::new();
    world.run(Duration::from_millis(200), &[]);
    let peer = world.nodes[1].key;
    let mut vias = Vec::new();
    for _ in 0..3 {
        let now = world.now;
        let wanted = world.nodes[0].engine.on_ping_request(&peer, 0, now);
        world.drain();
        world.run(Duration::from_secs(1), &[]);
        let done = world.nodes[0].outputs.iter().find_map(|output| match output {
            Output::PingResult { id, outcome: PingOutcome::Pong { via, .. }, .. } if *id == wanted => {
                Some(*via)
            }
            _ => None,
        });
        vias.push(done.unwrap());
    }
    assert_eq!(vias[2], Via::Direct(world.nodes[1].addr));
    let stranger = NodePrivate::generate([77; 32]).public();
    let now = world.now;
    world.nodes[0].engine.on_ping_request(&stranger, 0, now);
    world.drain();
    let unknown = |o: &Output| matches!(o, Output::PingResult { outcome: PingOutcome::UnknownPeer, .. });
    assert!(world.nodes[0].outputs.iter().any(unknown));
}

#[test]
fn strangers_and_forgeries_are_not_answered() {
    let mut world = World::new();
    world.run(Duration::from_millis(200), &[]);
    let before = world.nodes[0].outputs.len();
    let from = "192.0.2.9:9".parse().unwrap();
    let mut forged = sw_proto::disco::MAGIC.to_vec();
    forged.extend_from_slice(&[7; 100]);
    let now = world.now;
    for socket_source in [
        Source::Udp { socket: SocketId::MAIN, from },
        Source::Relay { region: HOME, from: world.nodes[1].key },
    ] {
        world.nodes[0].engine.on_datagram(socket_source, &forged, now);
    }
    world.drain();
    assert_eq!(world.nodes[0].outputs.len(), before);
    assert_eq!(world.nodes[0].engine.stats().disco_unknown_sender, 2);
    let kinds: BTreeSet<bool> = BTreeSet::from([
        world.nodes[0].engine.on_datagram(
            Source::Udp { socket: SocketId::MAIN, from },
            &[4, 0, 0, 0, 1],
            now,
        ),
        world.nodes[0].engine.on_datagram(Source::Udp { socket: SocketId::MAIN, from }, &forged, now),
    ]);
    assert_eq!(kinds, BTreeSet::from([false, true]), "WireGuard is left to others");
}

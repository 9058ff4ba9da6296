//! Two engines between which no UDP passes, and a third that relays for them.

#![expect(clippy::wildcard_enum_match_arm, reason = "the world looks at a few outputs of many")]
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use sw_path::{
    LocalAddress, Output, PathConfig, PathEngine, PeerInfo, RelayRoles, RelayState, Route, SocketId, Source,
};
use sw_proto::geneve;
use sw_types::{CapVer, DiscoPrivate, Instant, NodeKey, NodePrivate, Now, RegionId, UnixTime, Vni};

const HOME: RegionId = RegionId(900);
const ONE_WAY: Duration = Duration::from_millis(5);
const DERP_ONE_WAY: Duration = Duration::from_millis(30);
/// The machine that relays.
const SERVER: usize = 2;

struct Flight {
    at: Instant,
    to: usize,
    source: Source,
    bytes: Vec<u8>,
}

struct Machine {
    key: NodeKey,
    addr: SocketAddr,
    engine: PathEngine,
    routes: BTreeMap<NodeKey, Route>,
    /// What its data plane forwards, and when it heard from whom.
    forwards: BTreeMap<Vni, ([SocketAddr; 2], [Instant; 2])>,
}

struct World {
    now: Now,
    machines: Vec<Machine>,
    flights: VecDeque<Flight>,
    /// Whether UDP passes between the two clients.
    is_open: bool,
    server_is_down: bool,
}

fn key_of(n: usize) -> NodeKey {
    NodePrivate::generate([n as u8 + 100; 32]).public()
}

impl World {
    fn new(may_use: bool) -> Self {
        let now = Now { mono: Instant::from_nanos(1_000_000_000), wall: UnixTime::from_secs(1_800_000_000) };
        let mut machines = Vec::new();
        for n in 0..3 {
            let disco = DiscoPrivate::generate([n as u8 + 1; 32]);
            let addr = SocketAddr::from(([203, 0, 113, n as u8 + 1], 41641));
            let mut engine = PathEngine::new(PathConfig::default(), disco, key_of(n), [n as u8; 32]);
            let local = LocalAddress { interface: "eth0".to_owned(), ip: addr.ip(), prefix_len: 24 };
            engine.on_local_addresses(vec![local], now);
            engine.on_bound_port(addr.port(), now);
            engine.on_relay_state(HOME, RelayState::Connected, now);
            let peers = (0..3).filter(|other| *other != n).map(|other| {
                let info = PeerInfo {
                    node: key_of(other),
                    disco: Some(DiscoPrivate::generate([other as u8 + 1; 32]).public()),
                    endpoints: vec![SocketAddr::from(([203, 0, 113, other as u8 + 1], 41641))],
                    home: Some(HOME),
                    cap: CapVer::CLIENT,
                };
                info.into()
            });
            engine.on_peers(peers.collect(), now);
            let clients = if n == SERVER && may_use { vec![key_of(0), key_of(1)] } else { Vec::new() };
            let servers = BTreeSet::from([key_of(SERVER)]);
            engine.set_relay_roles(RelayRoles {
                servers,
                clients: clients.into_iter().collect(),
                is_refused: false,
            });
            let (routes, forwards) = (BTreeMap::new(), BTreeMap::new());
            machines.push(Machine { key: key_of(n), addr, engine, routes, forwards });
        }
        machines[SERVER].engine.set_serve_relay(true, Vec::new(), now);
        let mut world =
            Self { now, machines, flights: VecDeque::new(), is_open: false, server_is_down: false };
        world.drain();
        world
    }

    fn drain(&mut self) {
        for n in 0..3 {
            while let Some(output) = self.machines[n].engine.poll_output() {
                self.perform(n, output);
            }
        }
    }

    fn perform(&mut self, n: usize, output: Output) {
        let (addr, key) = (self.machines[n].addr, self.machines[n].key);
        match output {
            Output::SendUdp { to, datagram, .. } => self.send_udp(n, addr, to, datagram),
            Output::SendRelay { region, to, datagram } => {
                let to = self.machines.iter().position(|machine| machine.key == to).expect("one of us");
                let (at, source) = (self.now.mono + DERP_ONE_WAY, Source::Relay { region, from: key });
                self.flights.push_back(Flight { at, to, source, bytes: datagram });
            }
            Output::SetRoute { peer, route } => drop(self.machines[n].routes.insert(peer, route)),
            Output::Forward { vni, legs: Some(legs) } => {
                self.machines[n].forwards.insert(vni, (legs, [self.now.mono; 2]));
            }
            Output::Forward { vni, legs: None } => drop(self.machines[n].forwards.remove(&vni)),
            _ => {}
        }
    }

    fn send_udp(&mut self, n: usize, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        let Some(to) = self.machines.iter().position(|machine| machine.addr == to) else { return };
        let passes = self.is_open || n == SERVER || to == SERVER;
        let is_lost = self.server_is_down && (n == SERVER || to == SERVER);
        if passes && !is_lost {
            let source = Source::Udp { socket: SocketId::MAIN, from };
            self.flights.push_back(Flight { at: self.now.mono + ONE_WAY, to, source, bytes });
        }
    }

    fn arrive(&mut self, flight: Flight) {
        let machine = &mut self.machines[flight.to];
        if let (Source::Udp { from, .. }, Some((header, _))) =
            (flight.source, geneve::Header::split(&flight.bytes))
            && !header.control
            && let Some((legs, heard)) = machine.forwards.get_mut(&header.vni)
            && let Some(leg) = legs.iter().position(|leg| *leg == from)
        {
            heard[leg] = self.now.mono;
            let (own, to) = (machine.addr, legs[1 - leg]);
            self.send_udp(SERVER, own, to, flight.bytes);
            return;
        }
        machine.engine.on_datagram(flight.source, &flight.bytes, self.now);
    }

    /// Runs until `duration` later, while the machines of `talking` send to each other.
    fn run(&mut self, duration: Duration, talking: bool) {
        let end = self.now.mono + duration;
        let mut next_talk = self.now.mono;
        loop {
            let deadlines = self.machines.iter().filter_map(|m| m.engine.next_deadline().map(|(at, _)| at));
            let arrivals = self.flights.iter().map(|flight| flight.at);
            let talk = talking.then_some(next_talk);
            let Some(at) = deadlines.chain(arrivals).chain(talk).min().filter(|at| *at <= end) else { break };
            self.now = self.now.after(at.saturating_since(self.now.mono));
            while let Some(due) = self.flights.iter().position(|flight| flight.at <= self.now.mono) {
                let flight = self.flights.remove(due).expect("it is there");
                self.arrive(flight);
                self.drain();
            }
            if talk.is_some_and(|at| at <= self.now.mono) {
                for n in 0..2 {
                    self.machines[n].engine.on_traffic(&key_of(1 - n), self.now);
                }
                next_talk = self.now.mono + Duration::from_millis(100);
            }
            let machine = &mut self.machines[SERVER];
            for (vni, (_, heard)) in &machine.forwards {
                machine.engine.on_forwarded(*vni, *heard);
            }
            for machine in &mut self.machines {
                machine.engine.on_deadline(self.now);
            }
            self.drain();
        }
        self.now = self.now.after(end.saturating_since(self.now.mono));
    }

    fn until(&mut self, limit: Duration, wanted: impl Fn(Route) -> bool) -> Duration {
        let start = self.now.mono;
        while !(0..2).all(|n| wanted(self.route(n))) {
            let took = self.now.mono.saturating_since(start);
            assert!(took < limit, "still {:?}, {:?}", self.route(0), self.route(1));
            self.run(Duration::from_millis(10), true);
        }
        self.now.mono.saturating_since(start)
    }

    fn route(&self, n: usize) -> Route {
        self.machines[n].routes.get(&key_of(1 - n)).copied().unwrap_or_default()
    }
}

fn is_tunnel(route: Route) -> bool {
    route.relay.is_none() && route.udp.is_some_and(|leg| leg.vni.is_some())
}

#[test]
fn a_pair_without_a_direct_path_meets_at_a_peer_that_relays() {
    let mut world = World::new(true);
    let took = world.until(Duration::from_secs(3), is_tunnel);
    // Half a second for direct paths, three ways by DERP, then the handshake.
    assert!(took <= Duration::from_millis(900), "{took:?}");
    assert_eq!(world.route(0).udp.map(|leg| leg.addr), Some(world.machines[SERVER].addr));
    assert_eq!(world.route(0).udp.map(|leg| leg.vni), world.route(1).udp.map(|leg| leg.vni));
    // It stays as long as somebody talks, longer than a silent tunnel lives.
    for _ in 0..60 {
        world.run(Duration::from_secs(10), true);
        assert!(is_tunnel(world.route(0)) && is_tunnel(world.route(1)));
    }
}

#[test]
fn a_direct_path_is_taken_as_soon_as_there_is_one() {
    let mut world = World::new(true);
    world.until(Duration::from_secs(3), is_tunnel);
    world.is_open = true;
    world.until(Duration::from_secs(25), |route| {
        route.relay.is_none() && route.udp.is_some_and(|leg| leg.vni.is_none())
    });
}

#[test]
fn a_dead_tunnel_is_left_for_the_relay_and_found_again() {
    let mut world = World::new(true);
    world.until(Duration::from_secs(3), is_tunnel);
    world.server_is_down = true;
    let left = world.until(Duration::from_secs(5), |route| route.relay.is_some());
    assert!(left <= Duration::from_secs(3), "{left:?}");
    world.run(Duration::from_secs(20), true);
    assert!(world.route(0).udp.is_none());
    world.server_is_down = false;
    world.until(Duration::from_secs(40), is_tunnel);
}

#[test]
fn a_silent_tunnel_ends_and_the_next_packet_makes_another() {
    let mut world = World::new(true);
    world.until(Duration::from_secs(3), is_tunnel);
    world.run(Duration::from_secs(1300), false);
    assert!(world.machines[SERVER].forwards.is_empty());
    world.until(Duration::from_secs(10), is_tunnel);
}

#[test]
fn who_may_not_use_the_relay_gets_no_tunnel() {
    let mut world = World::new(false);
    world.run(Duration::from_secs(20), true);
    assert_eq!(world.route(0), Route { udp: None, relay: Some(HOME) });
    assert!(world.machines[SERVER].forwards.is_empty());
    assert!(world.machines[SERVER].engine.stats().disco_refused > 0);
}

//! The engine: owns the peers, the netcheck and our endpoints, and passes
//! inputs on to them.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use sw_proto::nacl::BoxKey;
use sw_types::{DiscoKey, DiscoPrivate, Instant, NodeKey, Now, RegionId, RelayMap, Rng};

use crate::api::*;
use crate::endpoints::EndpointBook;
use crate::home::HomeChooser;
use crate::netcheck::{Host, Netcheck};
use crate::peer::{Act, Ctx, Net, Peer};
use crate::peer_relay::{Client, Server};
use crate::spray::Sprays;

use self::peers::Peers;

mod datagram;
mod measure;
mod peers;
mod perform;
mod relaying;
mod spraying;

/// Finds and keeps the best path to each peer.
///
/// Inputs are the `on_*` calls; after any of them drain [`Self::poll_output`]
/// to `None` and arm one timer for [`Self::next_deadline`].
#[derive(Debug)]
pub struct PathEngine {
    config: PathConfig,
    disco: DiscoPrivate,
    node: NodeKey,
    rng: Rng,
    outputs: VecDeque<Output>,
    stats: Stats,

    book: EndpointBook,
    netcheck: Netcheck,
    measure: Measure,
    chooser: HomeChooser,
    home: Option<RegionId>,
    relays: BTreeMap<RegionId, Relay>,
    net_info: Option<NetInfo>,

    peers: Peers,
    /// Which nodes claim a disco key, and the key shared with it.
    disco_keys: HashMap<DiscoKey, Shared>,
    timers: Timers,
    sprays: Sprays,
    relay_client: Client,
    relay_server: Option<Server>,
    relay_roles: RelayRoles,
    /// Where clients of our relay find us besides our endpoints.
    relay_addresses: Vec<SocketAddr>,
    next_ping_id: u64,
}

/// The nodes of one disco key.
#[derive(Debug, Default)]
struct Shared {
    nodes: Vec<NodeKey>,
    /// Made when first needed: an agreement costs 0.1 ms.
    key: Option<BoxKey>,
}

/// What is known of one relay region.
#[derive(Clone, Copy, Debug, Default)]
struct Relay {
    /// When the last frame came from there.
    heard: Option<Instant>,
    /// Since when connecting fails.
    down_since: Option<Instant>,
}

/// When to measure next.
#[derive(Debug, Default)]
struct Measure {
    next_periodic: Option<Instant>,
    /// Something asked for another report while one runs.
    again: bool,
    /// The endpoints changed or will; collect them then.
    gather_at: Option<Instant>,
    /// The home relay may be dead; decide then.
    home_check: Option<Instant>,
    /// No relay map yet: measuring makes no sense.
    ready: bool,
}

/// When each peer wants to be served.
#[derive(Debug, Default)]
struct Timers {
    queue: BTreeSet<(Instant, NodeKey)>,
    due: HashMap<NodeKey, Instant>,
}

impl Timers {
    fn set(&mut self, peer: NodeKey, at: Option<Instant>) {
        let old = match at {
            Some(at) => self.due.insert(peer, at),
            None => self.due.remove(&peer),
        };
        if old == at {
            return;
        }
        if let Some(old) = old {
            self.queue.remove(&(old, peer));
        }
        if let Some(at) = at {
            self.queue.insert((at, peer));
        }
    }

    fn first(&self) -> Option<Instant> {
        self.queue.first().map(|(at, _)| *at)
    }
}

/// How a link changed (path-selection.md §11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkChange {
    /// Another default interface or address: sockets and paths are void.
    Major,
    /// Something else: only measure again.
    Minor,
}

/// A sleep at least this long is a move to another network.
const LONG_SLEEP: Duration = Duration::from_secs(600);
/// Connecting to the home relay may fail for this long before another region
/// is chosen.
const HOME_PATIENCE: Duration = Duration::from_secs(3);
/// With no other region either, all are measured again this often.
const HOMELESS_CHECK: Duration = Duration::from_secs(60);

impl PathEngine {
    /// Makes an engine for the node `node` with the disco key `disco`, both
    /// told to control by the caller.
    pub fn new(config: PathConfig, disco: DiscoPrivate, node: NodeKey, seed: [u8; 32]) -> Self {
        let rng = Rng::new(seed);
        let mut book = EndpointBook::default();
        book.fixed.clone_from(&config.static_endpoints);
        Self {
            config,
            disco,
            node,
            rng,
            outputs: VecDeque::new(),
            stats: Stats::default(),
            book,
            netcheck: Netcheck::default(),
            measure: Measure::default(),
            chooser: HomeChooser::default(),
            home: None,
            relays: BTreeMap::new(),
            net_info: None,
            peers: Peers::default(),
            disco_keys: HashMap::new(),
            timers: Timers::default(),
            sprays: Sprays::default(),
            relay_client: Client::default(),
            relay_server: None,
            relay_roles: RelayRoles::default(),
            relay_addresses: Vec::new(),
            next_ping_id: 1,
        }
    }

    /// Replaces all peers by those of a full netmap.
    pub fn on_peers(&mut self, peers: Vec<Arc<PeerInfo>>, now: Now) {
        let wanted: BTreeSet<NodeKey> = peers.iter().map(|p| p.node).collect();
        let gone: Vec<NodeKey> = self.peers.keys().filter(|key| !wanted.contains(*key)).copied().collect();
        for peer in gone {
            self.on_peer_removed(&peer);
        }
        for peer in peers {
            self.on_peer(peer, now);
        }
    }

    /// Adds a peer or changes what the netmap says of it.
    pub fn on_peer(&mut self, info: impl Into<Arc<PeerInfo>>, now: Now) {
        let info = info.into();
        let (node, disco) = (info.node, info.disco);
        let known = self.peers.get(&node);
        if known.is_some_and(|p| p.info == info) {
            return;
        }
        let (is_new, old_disco) = (known.is_none(), known.and_then(|p| p.info.disco));
        if old_disco != disco {
            self.forget_disco(old_disco, &node);
            if let Some(disco) = disco {
                let nodes = &mut self.disco_keys.entry(disco).or_default().nodes;
                // One node has a key, as good as always.
                nodes.reserve_exact(1);
                nodes.push(node);
            }
        }
        if is_new {
            self.peers.insert(node, Peer::new(Arc::clone(&info)));
        }
        match self.peers.get_mut(&node) {
            // Most peers of a large network are never spoken with: news of them set nothing in motion.
            Some(peer) if peer.is_untouched() => {
                if let Some(route) = peer.note_info(info) {
                    self.perform(&node, Act::SetRoute(route), now);
                }
            }
            Some(_) | None => self.with_peer(&node, now, |peer, ctx| peer.on_info(info, ctx)),
        }
        if self.measure.next_periodic.is_none() && self.measure.ready && self.netcheck.last().is_none() {
            self.request_netcheck(now);
        }
    }

    /// A peer left the netmap: nothing of it is answered any more.
    pub fn on_peer_removed(&mut self, node: &NodeKey) {
        let Some(peer) = self.peers.remove(node) else { return };
        self.forget_disco(peer.info.disco, node);
        self.timers.set(*node, None);
        self.relay_client.forget(node);
        for socket in self.sprays.forget(node) {
            self.outputs.push_back(Output::CloseSocket(socket));
        }
    }

    fn forget_disco(&mut self, disco: Option<DiscoKey>, node: &NodeKey) {
        let Some(disco) = disco else { return };
        if let Some(shared) = self.disco_keys.get_mut(&disco) {
            shared.nodes.retain(|n| n != node);
            if shared.nodes.is_empty() {
                self.disco_keys.remove(&disco);
            }
        }
    }

    /// Takes the relay map (`DERPMap`).
    pub fn on_relay_map(&mut self, map: &RelayMap, now: Now) {
        self.chooser.set_scores(map.region_score.clone());
        self.relays.retain(|region, _| map.regions.contains_key(region));
        let home_gone = self.home.is_some_and(|home| !map.regions.contains_key(&home));
        if home_gone {
            self.home = None;
        }
        for name in self.netcheck.set_map(map) {
            self.outputs.push_back(Output::Resolve(name));
        }
        self.measure.ready = !map.regions.is_empty();
        self.request_netcheck(now);
    }

    /// Takes the addresses of a name asked for by [`Output::Resolve`]; empty
    /// when the look-up failed.
    pub fn on_resolved(&mut self, name: &str, ips: &[IpAddr], now: Now) {
        self.netcheck.on_resolved(name, ips);
        self.request_netcheck(now);
    }

    /// Takes all addresses of this machine.
    pub fn on_local_addresses(&mut self, mut local: Vec<LocalAddress>, now: Now) {
        local.sort();
        local.dedup();
        if local != self.book.local {
            self.book.local = local;
            self.gather_soon(now);
            self.request_netcheck(now);
        }
    }

    /// The data socket is bound to this port.
    pub fn on_bound_port(&mut self, port: u16, now: Now) {
        if self.book.port != port {
            self.book.port = port;
            self.outputs.push_back(Output::WantPortMapping(Some(port)));
            self.gather_soon(now);
            self.request_netcheck(now);
        }
    }

    /// The router forwards this address to us, or no longer does.
    pub fn on_port_mapped(&mut self, addr: Option<SocketAddr>, now: Now) {
        if self.book.mapped != addr {
            self.book.mapped = addr;
            self.gather_soon(now);
        }
    }

    /// Data for `peer` was sent or waits to be. Call it for the first packet
    /// after a pause and at least every second while traffic flows.
    pub fn on_traffic(&mut self, peer: &NodeKey, now: Now) {
        let was_active = self.peers.get(peer).is_some_and(|p| p.is_active(now.mono));
        self.with_peer(peer, now, |peer, ctx| peer.on_traffic(ctx));
        if !was_active {
            self.schedule_netcheck(now);
        }
    }

    /// A WireGuard packet of `peer` was authenticated. Plain WireGuard peers
    /// are answered where they were last heard.
    pub fn on_authenticated(&mut self, peer: &NodeKey, source: Source, now: Now) {
        match source {
            Source::Relay { region, .. } => {
                self.with_peer(peer, now, |peer, ctx| peer.on_heard_by_relay(region, ctx));
            }
            Source::Udp { socket, from } => self.with_peer(peer, now, |peer, ctx| {
                if peer.info.disco.is_none() {
                    peer.on_ping(Leg { socket, addr: from, vni: None }, ctx);
                }
            }),
        }
    }

    /// The connection to a relay region came up, or connecting failed.
    pub fn on_relay_state(&mut self, region: RegionId, state: RelayState, now: Now) {
        let relay = self.relays.entry(region).or_default();
        match state {
            RelayState::Connected => {
                relay.down_since = None;
                relay.heard = Some(now.mono);
            }
            RelayState::Down => {
                if relay.down_since.is_none() {
                    relay.down_since = Some(now.mono);
                    if self.home == Some(region) {
                        self.measure.home_check = Some(now.mono + HOME_PATIENCE);
                        self.request_netcheck(now);
                    }
                }
            }
        }
    }

    /// A frame (any) came from a relay region.
    pub fn on_relay_heard(&mut self, region: RegionId, now: Now) {
        let relay = self.relays.entry(region).or_default();
        relay.heard = Some(now.mono);
        relay.down_since = None;
    }

    /// Answer to [`Output::MeasureRelayHttp`]; `None` when it failed.
    pub fn on_relay_http(&mut self, region: RegionId, rtt: Option<Duration>, now: Now) {
        self.netcheck.on_http(region, rtt);
        self.serve_netcheck(now);
    }

    /// The network below changed.
    pub fn on_link_change(&mut self, change: LinkChange, now: Now) {
        if change == LinkChange::Major {
            self.outputs.push_back(Output::Rebind);
            self.book.forget();
            self.chooser.forget();
            self.netcheck.forget();
            self.relay_client.forget_network();
            for socket in self.sprays.forget_network() {
                self.outputs.push_back(Output::CloseSocket(socket));
            }
            let peers: Vec<NodeKey> = self.peers.keys().copied().collect();
            for peer in peers {
                self.with_peer(&peer, now, |peer, ctx| peer.on_link_change(ctx));
            }
            self.gather_soon(now);
        }
        self.request_netcheck(now);
    }

    /// The machine slept for `slept`.
    pub fn on_resume(&mut self, slept: Duration, now: Now) {
        let change = if slept >= LONG_SLEEP { LinkChange::Major } else { LinkChange::Minor };
        self.on_link_change(change, now);
        self.on_deadline(now);
    }

    /// Pings a peer for somebody who wants to see the answer, in a datagram of
    /// at least `size` bytes.
    pub fn on_ping_request(&mut self, peer: &NodeKey, size: u16, now: Now) -> PingId {
        let id = PingId(self.next_ping_id);
        self.next_ping_id += 1;
        if self.peers.contains_key(peer) {
            self.with_peer(peer, now, |peer, ctx| peer.on_ping_request(id, size, ctx));
        } else {
            let outcome = PingOutcome::UnknownPeer;
            self.outputs.push_back(Output::PingResult { id, peer: *peer, outcome });
        }
        id
    }

    /// Does what is due; early or late calls do no harm.
    pub fn on_deadline(&mut self, now: Now) {
        while let Some((at, peer)) = self.timers.queue.first().copied()
            && at <= now.mono
        {
            self.with_peer(&peer, now, |peer, ctx| peer.serve(ctx));
        }
        self.serve_measure(now);
        self.serve_sprays(now);
        self.serve_relays(now);
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`Self::on_deadline`] next, and why.
    pub fn next_deadline(&self) -> Option<(Instant, Wake)> {
        let measure = [self.measure.next_periodic, self.measure.gather_at, self.measure.home_check];
        [
            self.timers.first().map(|at| (at, Wake::Peer)),
            self.netcheck.next_deadline().map(|at| (at, Wake::Netcheck)),
            measure.into_iter().flatten().min().map(|at| (at, Wake::Endpoints)),
            self.sprays.next_deadline().map(|at| (at, Wake::Spray)),
            self.relay_deadline().map(|at| (at, Wake::PeerRelay)),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Where data for `peer` goes.
    pub fn route(&self, peer: &NodeKey) -> Option<Route> {
        Some(self.peers.get(peer)?.route())
    }

    /// Everything about the way to `peer`, for people.
    pub fn report(&self, peer: &NodeKey, now: Now) -> Option<PeerReport> {
        let mut report = self.peers.get(peer)?.report(self.own_nat(), now.mono);
        report.peer_nat = self.sprays.peer_nat(peer);
        report.sprays = self.sprays.runs(peer);
        Some(report)
    }

    /// Our endpoints as last told.
    pub fn endpoints(&self) -> &[Endpoint] {
        self.book.told()
    }

    pub fn home(&self) -> Option<RegionId> {
        self.home
    }

    /// The last netcheck.
    pub fn net_report(&self) -> Option<&NetReport> {
        self.netcheck.last()
    }

    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// How much is held for peers.
    pub fn footprint(&self) -> Footprint {
        let mut most =
            Footprint { peers: self.peers.len(), endpoints: self.book.told().len(), ..Footprint::default() };
        for peer in self.peers.values() {
            let (candidates, pings) = peer.size();
            most.candidates_of_one_peer = most.candidates_of_one_peer.max(candidates);
            most.pings_of_one_peer = most.pings_of_one_peer.max(pings);
        }
        most
    }

    fn own_nat(&self) -> NatKind {
        self.netcheck.last().map(|r| r.nat).unwrap_or_default()
    }

    fn host(&self) -> Host {
        let net = self.net();
        Host {
            ipv4: net.ipv4,
            ipv6: net.ipv6,
            udp: !self.config.tcp_443_only,
            local: self.book.local_ips(),
            port: self.book.port,
        }
    }

    fn net(&self) -> Net {
        let udp = !self.config.tcp_443_only;
        let loopback = self.book.only_loopback();
        let has = |v6: bool| {
            self.book.local.iter().any(|l| {
                let usable = match l.ip {
                    IpAddr::V4(ip) => !v6 && !ip.is_loopback(),
                    IpAddr::V6(ip) => v6 && !ip.is_loopback() && !ip.is_unicast_link_local(),
                };
                usable || (loopback && l.ip.is_ipv6() == v6)
            })
        };
        Net {
            ipv4: udp && has(false),
            ipv6: udp && has(true),
            loopback,
            probe_mtu: self.config.probe_mtu,
            one_mapping: matches!(self.own_nat(), NatKind::None | NatKind::Easy),
        }
    }

    /// Runs `input` on a peer and performs what it asks for.
    fn with_peer(&mut self, node: &NodeKey, now: Now, input: impl FnOnce(&mut Peer, &mut Ctx<'_>)) {
        let net = self.net();
        let Some(peer) = self.peers.get_mut(node) else { return };
        let mut acts: Vec<Act> = Vec::new();
        let mut ctx = Ctx { now: now.mono, rng: &mut self.rng, acts: &mut acts, net };
        input(peer, &mut ctx);
        let next = peer.next_deadline(now.mono);
        self.timers.set(*node, next);
        for act in acts {
            self.perform(node, act, now);
        }
        self.consider_spray(node, now);
        self.consider_relay(node, now);
    }
}

//! Relay servers as machines see them: a STUN socket, the registry of `sw-relay-core` that says whose connection gets a
//! frame, and its queue before each connection that says which frames are dropped when the link behind is too narrow.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use sw_relay_core::{Arrival, Chunk, ConnId, Kind, QueueLimits, Registry, Route, SendQueue};
use sw_tailcfg::{DerpMap, DerpNode, DerpRegion};
use sw_types::{CertCheck, Instant, NodeKey, RegionId, RelayAddr, RelayMap, RelayNode, RelayRegion};

use crate::net::{Network, StationId};

/// Ports that answer STUN; two, so that one relay shows a hard NAT.
pub(crate) const STUN_PORTS: [u16; 2] = [3478, 443];

/// One relay server.
#[derive(Debug)]
pub(crate) struct Relay {
    pub(crate) region: RegionId,
    pub(crate) station: StationId,
    pub(crate) is_alive: bool,
    registry: Registry,
    /// Connections by machine and attempt, and the other way round.
    conns: BTreeMap<(usize, u64), ConnId>,
    owners: BTreeMap<ConnId, (usize, u64)>,
    /// When the last frame of a connection arrives, by machine and direction.
    pub(crate) last: BTreeMap<(usize, bool), Instant>,
    /// What waits for a connection whose socket takes no more now.
    outboxes: BTreeMap<(usize, u64), SendQueue>,
}

/// What became of a frame before a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Queued {
    /// Nothing waited there, so writing begins.
    pub(crate) begins: bool,
    /// Packets that found no room.
    pub(crate) dropped: u32,
    pub(crate) waiting_bytes: usize,
}

/// Length of the sender's key, which a frame begins with.
const KEY_LEN: usize = 32;

impl Relay {
    pub(crate) fn new(region: RegionId, station: StationId) -> Self {
        Self {
            region,
            station,
            is_alive: true,
            registry: Registry::new(),
            conns: BTreeMap::new(),
            owners: BTreeMap::new(),
            last: BTreeMap::new(),
            outboxes: BTreeMap::new(),
        }
    }

    /// A machine has logged in by its attempt `epoch`.
    pub(crate) fn on_connect(&mut self, key: NodeKey, host: usize, epoch: u64) {
        let conn = self.registry.on_connect(Arrival::regular(key, SocketAddr::from(([192, 0, 2, 1], 1))));
        self.conns.insert((host, epoch), conn);
        self.owners.insert(conn, (host, epoch));
        self.settle();
    }

    pub(crate) fn on_disconnect(&mut self, host: usize, epoch: u64) {
        if let Some(conn) = self.conns.remove(&(host, epoch)) {
            self.owners.remove(&conn);
            self.registry.on_disconnect(conn);
            self.outboxes.remove(&(host, epoch));
            self.settle();
        }
    }

    /// Queues a frame for a connection.
    pub(crate) fn enqueue(
        &mut self,
        to: (usize, u64),
        from: NodeKey,
        bytes: &[u8],
        limits: QueueLimits,
    ) -> Queued {
        let kind = if sw_proto::disco::looks_like(bytes) { Kind::Disco } else { Kind::Data };
        let chunk = Chunk { bytes: [from.as_bytes(), bytes].concat().into(), packets: 1 };
        let queue = self.outboxes.entry(to).or_default();
        let begins = queue.is_empty();
        let dropped = queue.push(kind, chunk, limits);
        Queued { begins, dropped: dropped.head_packets + dropped.tail_packets, waiting_bytes: queue.bytes() }
    }

    /// Takes what goes out next on a connection: sender and content of each frame.
    pub(crate) fn take_frames(&mut self, of: (usize, u64)) -> Vec<(NodeKey, Vec<u8>)> {
        let mut frames = Vec::new();
        let Some(queue) = self.outboxes.get_mut(&of) else { return frames };
        queue.pop_into(1, |chunk| {
            if let Some((key, bytes)) = chunk.bytes.split_first_chunk::<KEY_LEN>() {
                frames.push((NodeKey::from_bytes(*key), bytes.to_vec()));
            }
        });
        if queue.is_empty() {
            self.outboxes.remove(&of);
        }
        frames
    }

    /// Whether something waits for a connection.
    pub(crate) fn waits(&self, of: (usize, u64)) -> bool {
        self.outboxes.contains_key(&of)
    }

    /// Whose connection gets a frame that came on the sender's.
    pub(crate) fn route(&mut self, host: usize, epoch: u64, to: NodeKey) -> Option<(usize, u64)> {
        let from = *self.conns.get(&(host, epoch))?;
        // Of several connections of one key the one heard last is active.
        self.registry.on_activity(from);
        let route = self.registry.route(from, to);
        self.settle();
        match route {
            Route::Local(conn) => self.owners.get(&conn).copied(),
            Route::Forward(_) | Route::Unknown => None,
        }
    }

    /// The process ends; returns whose connections break.
    pub(crate) fn forget_all(&mut self) -> Vec<(usize, u64)> {
        self.registry = Registry::new();
        self.owners.clear();
        self.outboxes.clear();
        std::mem::take(&mut self.conns).into_keys().collect()
    }

    pub(crate) fn connections(&self) -> usize {
        self.registry.stats().connections
    }

    /// Machines find out by themselves who is gone, and one relay has no mesh.
    fn settle(&mut self) {
        while self.registry.poll_output().is_some() {}
    }
}

/// The map as a server is given it.
pub(crate) fn wire_map_of(map: &RelayMap) -> DerpMap {
    let address = |addr: Option<String>| addr.unwrap_or_else(|| "none".to_owned());
    let nodes = |region: &RelayRegion| {
        let node = |node: &RelayNode| DerpNode {
            name: node.name.clone(),
            region_id: region.id,
            host_name: node.host_name.clone(),
            ipv4: address(node.ipv4.fixed().map(|ip| ip.to_string())),
            ipv6: address(node.ipv6.fixed().map(|ip| ip.to_string())),
            stun_port: node.stun_port.map_or(-1, i32::from),
            stun_only: node.stun_only,
            derp_port: i32::from(node.derp_port),
            ..DerpNode::default()
        };
        region.nodes.iter().map(node).collect()
    };
    let region = |region: &RelayRegion| DerpRegion {
        region_id: region.id,
        region_code: region.code.clone(),
        region_name: region.name.clone(),
        nodes: nodes(region),
        ..DerpRegion::default()
    };
    let regions = map.regions.iter().map(|(id, r)| (*id, region(r))).collect();
    DerpMap { regions: Some(regions), omit_default_regions: true, ..DerpMap::default() }
}

/// The relay map that control would send.
pub(crate) fn map_of(relays: &[Relay], net: &Network) -> RelayMap {
    let mut map = RelayMap::default();
    for relay in relays {
        let station = net.station(relay.station);
        let nodes = STUN_PORTS.iter().enumerate().map(|(n, port)| RelayNode {
            name: format!("{}{}", relay.region, if n == 0 { 'a' } else { 'b' }),
            host_name: format!("relay-{}-{n}.example", relay.region),
            cert: CertCheck::HostName,
            ipv4: station.v4.map_or(RelayAddr::Disabled, RelayAddr::Fixed),
            ipv6: station.v6.map_or(RelayAddr::Disabled, RelayAddr::Fixed),
            stun_port: Some(*port),
            stun_only: n > 0,
            derp_port: 443,
            insecure_for_tests: false,
            stun_test_ip: None,
            can_port_80: false,
        });
        let region = RelayRegion {
            id: relay.region,
            code: format!("r{}", relay.region),
            name: format!("region {}", relay.region),
            no_measure_no_home: false,
            nodes: nodes.collect(),
        };
        map.regions.insert(relay.region, region);
    }
    map
}

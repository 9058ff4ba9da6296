//! One machine: its cores and what the edge around them would hold.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use sw_node::Node;
use sw_path::{PathConfig, PathEngine, PeerInfo, Route, SocketId};
use sw_tailcfg::MapResponse;
use sw_types::local::Prefs;
use sw_types::{CapVer, DiscoKey, DiscoPrivate, Instant, MachineKey, NodeKey, NodePrivate, RegionId, Rng};

use crate::net::StationId;
use crate::scenario::HostSpec;
use crate::world::Pending;

/// A connection to a relay.
#[derive(Debug)]
pub(crate) struct Conn {
    /// Which attempt; answers to older ones are stale.
    pub(crate) epoch: u64,
    pub(crate) is_up: bool,
    /// Frames that wait for the connection, oldest dropped.
    pub(crate) waiting: VecDeque<(NodeKey, Vec<u8>)>,
}

/// Frames that wait for a connection.
pub(crate) const WAITING_MAX: usize = 64;

/// The port a node asks for.
pub(crate) const PORT: u16 = 41641;

/// One machine.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) spec: HostSpec,
    pub(crate) station: StationId,
    pub(crate) key: NodeKey,
    /// What the private half of `key` is made of.
    key_seed: [u8; 32],
    pub(crate) machine: MachineKey,
    pub(crate) disco: DiscoKey,
    pub(crate) engine: PathEngine,
    /// The node core; `None` while control is a stand-in.
    pub(crate) node: Option<Box<Node>>,
    /// What the program wrote to its state file, and the netmap it remembers.
    pub(crate) prefs: Option<Prefs>,
    pub(crate) cache: Option<MapResponse>,
    pub(crate) pending: Vec<Pending>,
    pub(crate) is_awake: bool,
    pub(crate) lies: bool,
    pub(crate) port: u16,
    pub(crate) sockets: BTreeMap<u16, SocketId>,
    pub(crate) ports: BTreeMap<SocketId, u16>,
    next_socket: u16,
    pub(crate) home: Option<RegionId>,
    pub(crate) relays: BTreeMap<RegionId, Conn>,
    /// Where data for each machine goes.
    pub(crate) routes: Vec<Option<Route>>,
    /// The netmap by machine: fold of all that control sent.
    pub(crate) netmap: Vec<Option<Arc<PeerInfo>>>,
    pub(crate) endpoints: Vec<std::net::SocketAddr>,
    /// Grows when the node restarts or its streams break.
    pub(crate) control_epoch: u64,
    /// The connection to control is there (to the server with real cores: was dialled).
    pub(crate) control_up: bool,
    /// When the last message to and from control arrives: streams keep order.
    pub(crate) last_said: Instant,
    pub(crate) last_told: Instant,
    /// The wake that is armed: time and token.
    pub(crate) armed: Option<(Instant, u64)>,
    pub(crate) token: u64,
    pub(crate) wakes: u64,
    /// Wakes at the same moment, one after the other.
    pub(crate) still: u32,
    pub(crate) last_wake: Instant,
    pub(crate) wall_offset_s: i64,
    /// First time that each peer was reached directly.
    pub(crate) direct_at: BTreeMap<usize, Instant>,
}

impl Host {
    pub(crate) fn new(spec: HostSpec, station: StationId, config: PathConfig, rng: &mut Rng) -> Self {
        let key_seed = rng.bytes();
        let key = NodePrivate::generate(key_seed).public();
        let disco = DiscoPrivate::generate(rng.bytes());
        Self {
            spec,
            station,
            key,
            key_seed,
            machine: MachineKey::from_bytes(rng.bytes()),
            disco: disco.public(),
            engine: PathEngine::new(config, disco, key, rng.bytes()),
            node: None,
            prefs: None,
            cache: None,
            pending: Vec::new(),
            is_awake: true,
            lies: false,
            port: PORT,
            sockets: BTreeMap::new(),
            ports: BTreeMap::new(),
            next_socket: 1,
            home: None,
            relays: BTreeMap::new(),
            routes: Vec::new(),
            netmap: Vec::new(),
            endpoints: Vec::new(),
            control_epoch: 0,
            control_up: false,
            last_said: Instant::ZERO,
            last_told: Instant::ZERO,
            armed: None,
            token: 0,
            wakes: 0,
            still: 0,
            last_wake: Instant::ZERO,
            wall_offset_s: 0,
            direct_at: BTreeMap::new(),
        }
    }

    /// Kills the node program and starts it again: a new disco key, no
    /// memory but the node key.
    pub(crate) fn restart(&mut self, config: PathConfig, rng: &mut Rng) {
        let disco = DiscoPrivate::generate(rng.bytes());
        self.disco = disco.public();
        self.engine = PathEngine::new(config, disco, self.key, rng.bytes());
        self.sockets.clear();
        self.ports.clear();
        self.home = None;
        self.relays.clear();
        self.routes.clear();
        self.netmap.clear();
        self.endpoints.clear();
        self.control_epoch += 1;
        self.control_up = false;
        self.armed = None;
        self.direct_at.clear();
    }

    /// Where data for a machine goes.
    pub(crate) fn route(&self, peer: usize) -> Option<Route> {
        self.routes.get(peer).copied().flatten()
    }

    pub(crate) fn set_route(&mut self, peer: usize, route: Option<Route>) {
        if self.routes.len() <= peer {
            self.routes.resize(peer + 1, None);
        }
        if let Some(slot) = self.routes.get_mut(peer) {
            *slot = route;
        }
    }

    pub(crate) fn knows(&self, peer: usize) -> bool {
        self.netmap.get(peer).is_some_and(Option::is_some)
    }

    /// Takes what control says of a peer.
    pub(crate) fn know(&mut self, peer: usize, info: Option<Arc<PeerInfo>>) {
        if self.netmap.len() <= peer {
            self.netmap.resize(peer + 1, None);
        }
        if let Some(slot) = self.netmap.get_mut(peer) {
            *slot = info;
        }
    }

    pub(crate) fn private_key(&self) -> NodePrivate {
        NodePrivate::generate(self.key_seed)
    }

    /// What this node tells control of itself.
    pub(crate) fn info(&self) -> PeerInfo {
        PeerInfo {
            node: self.key,
            disco: Some(self.disco),
            endpoints: self.endpoints.clone(),
            home: self.home,
            cap: CapVer::CLIENT,
        }
    }

    pub(crate) fn open_socket(&mut self, rng: &mut Rng) -> SocketId {
        let id = SocketId(self.next_socket);
        self.next_socket = self.next_socket.checked_add(1).unwrap_or(1);
        let port = loop {
            let port = 32_768 + rng.below(28_000) as u16;
            if port != self.port && !self.sockets.contains_key(&port) {
                break port;
            }
        };
        self.sockets.insert(port, id);
        self.ports.insert(id, port);
        id
    }

    pub(crate) fn close_socket(&mut self, id: SocketId) {
        if let Some(port) = self.ports.remove(&id) {
            self.sockets.remove(&port);
        }
    }

    pub(crate) fn socket_at(&self, port: u16) -> Option<SocketId> {
        if port == self.port { Some(SocketId::MAIN) } else { self.sockets.get(&port).copied() }
    }

    pub(crate) fn port_of(&self, id: SocketId) -> Option<u16> {
        if id == SocketId::MAIN { Some(self.port) } else { self.ports.get(&id).copied() }
    }
}

//! The DERP client: one handle per region, which connects when it is needed and stays connected while it is home.
//!
//! ```text
//! DerpClient::send ──► bounded queue ──► task: connect ─ login ─ pump ──► events (Packets, PeerGone, …)
//!                                          ▲                │
//!                                          └── back-off ◄───┘ error
//! ```
//! Layers: [`login`] is the handshake without IO, [`connect`] opens one connection (TLS with the relay's key in the
//! chain, fast start, upgrade, WebSocket), [`client`](self) keeps one alive. Sources: derp.md §2–§7.

mod connect;
mod login;
mod queue;
mod run;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sw_proto::derp::{PeerGone, PeerPresent};
use sw_proto::nacl::BoxKey;
use sw_types::{DerpKey, DerpPrivate, MeshKey, NodeKey, NodePrivate, RegionId, RelayRegion};
use tokio::sync::mpsc;

use crate::dial::DialOptions;
pub(crate) use connect::trust_of;
pub use connect::{ConnectError, Connection, DerpStream, Upgrade, connect};
pub use login::{Login, LoginFailed, Progress};
use queue::Shared;

/// Ping when nothing was heard for this long (derp.md §7).
pub const QUIET_LIMIT: Duration = Duration::from_secs(45);

/// Dead when the ping is not answered for this long (derp.md §7).
pub const PONG_LIMIT: Duration = Duration::from_secs(10);

/// The same after a network change (derp.md §7).
pub const CHECK_LIMIT: Duration = Duration::from_secs(3);

/// A connection that is not home is closed when nothing was sent for this long (derp.md §7).
pub const IDLE_LIMIT: Duration = Duration::from_secs(60);

/// Packets that wait in a node's queue (derp.md §7).
pub const QUEUE_PACKETS: usize = 32;

/// Whose key proves the connection.
#[derive(Clone, Debug)]
pub enum ClientKey {
    /// A node's.
    Node(Arc<NodePrivate>),
    /// A relay's, towards another relay of its region (derp.md §10).
    Relay(Arc<DerpPrivate>),
}

impl ClientKey {
    /// The key that others send to.
    #[must_use]
    pub fn public(&self) -> NodeKey {
        match self {
            Self::Node(key) => key.public(),
            Self::Relay(key) => NodeKey::from_bytes(*key.public().as_bytes()),
        }
    }

    fn agree(&self, relay: &DerpKey) -> Option<BoxKey> {
        let shared = match self {
            Self::Node(key) => key.shared_secret(relay),
            Self::Relay(key) => key.shared_secret(relay),
        };
        shared.ok().map(|shared| BoxKey::new(&shared))
    }
}

/// How to connect to a region.
#[derive(Clone, Debug)]
pub struct DerpConfig {
    /// The region, as the map describes it.
    pub region: RelayRegion,
    /// Our key.
    pub key: ClientKey,
    /// For mesh members.
    pub mesh_key: Option<Arc<MeshKey>>,
    /// Proxy and socket marks.
    pub dial: DialOptions,
    /// Plain HTTP instead of TLS: only for development and loopback.
    pub plain_http: bool,
    /// Whether the relay should tell of its clients (mesh members); such a connection is kept up at all times.
    pub watch: bool,
    /// Packets that wait for a connection or a slow relay; the oldest are dropped.
    pub queue_packets: usize,
}

impl DerpConfig {
    /// What a node needs.
    #[must_use]
    pub fn new(region: RelayRegion, key: Arc<NodePrivate>) -> Self {
        Self {
            region,
            key: ClientKey::Node(key),
            mesh_key: None,
            dial: DialOptions::default(),
            plain_http: false,
            watch: false,
            queue_packets: QUEUE_PACKETS,
        }
    }
}

/// A packet that a relay delivered. Its sender is a routing hint, no proof (threat-model.md §2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// Who sent it, as the relay says.
    pub from: NodeKey,
    /// The packet.
    pub packet: Bytes,
}

/// What happens on a region's connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DerpEvent {
    /// Connected and logged in.
    Connected {
        /// The relay's key.
        relay: DerpKey,
    },
    /// The packets of one read, in order.
    Packets(Vec<Received>),
    /// A peer is not reachable through this region.
    PeerGone {
        /// Which.
        peer: NodeKey,
        /// Why.
        reason: PeerGone,
    },
    /// For mesh members: a client connected.
    PeerPresent(PeerPresent),
    /// The relay reports a problem, or that it is over.
    Health(Option<String>),
    /// The connection ended; the next attempt comes after `retry_in`, or with the next packet.
    Disconnected {
        /// Why, for people.
        why: String,
        /// Until the next attempt; absent when the connection was closed for idleness.
        retry_in: Option<Duration>,
    },
}

/// The handle of a region's connection; clones share it. The connection ends when the last one is dropped.
#[derive(Clone, Debug)]
pub struct DerpClient {
    region: RegionId,
    shared: Arc<Shared>,
    // Tells the task that nobody holds a handle any more.
    _alive: mpsc::Sender<std::convert::Infallible>,
}

impl DerpClient {
    /// Starts the region's task in the present tokio runtime; it connects with the first packet or as home.
    ///
    /// Events wait when `events` is full, and with them the relay: the channel is the limit of what is buffered.
    #[must_use]
    pub fn spawn(config: DerpConfig, events: mpsc::Sender<(RegionId, DerpEvent)>) -> Self {
        let region = config.region.id;
        let shared = Arc::new(Shared::new(config.queue_packets, config.watch));
        let (alive, gone) = mpsc::channel(1);
        tokio::spawn(run::run(config, Arc::clone(&shared), events, gone));
        Self { region, shared, _alive: alive }
    }

    /// Which region.
    #[must_use]
    pub const fn region(&self) -> RegionId {
        self.region
    }

    /// Queues a packet, connecting if need be. Never waits; when the queue is full the oldest packet is dropped.
    ///
    /// Packets over 65,536 bytes are dropped.
    pub fn send(&self, to: NodeKey, packet: &[u8]) {
        self.shared.send(to, packet);
    }

    /// Mesh members: queues a packet of another relay's client.
    pub fn forward(&self, from: NodeKey, to: NodeKey, packet: &[u8]) {
        self.shared.forward(from, to, packet);
    }

    /// Makes this region home or not: home stays connected, and the relay is told.
    pub fn set_home(&self, is_home: bool) {
        self.shared.set_home(is_home);
    }

    /// Checks the connection after a network change: no answer within 3 s means a new connection.
    pub fn check(&self) {
        self.shared.check();
    }

    /// Closes the present connection and opens it again, as after a change of addresses.
    pub fn reconnect(&self) {
        self.shared.reconnect();
    }

    /// Whether the connection is up.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.shared.is_connected()
    }

    /// Since when there is no connection; `None` while there is one.
    #[must_use]
    pub fn down_since(&self) -> Option<Instant> {
        self.shared.down_since()
    }

    /// When the last frame of the relay came (home choice hears it, stun-netcheck.md §5).
    #[must_use]
    pub fn last_frame(&self) -> Option<Instant> {
        self.shared.last_frame()
    }

    /// Packets dropped because the queue was full.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.shared.dropped()
    }
}

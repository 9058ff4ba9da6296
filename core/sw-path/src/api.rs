//! What goes into the engine and what comes out of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use sw_types::{CapVer, DiscoKey, NodeKey, Path, RegionId, Vni};

/// Settings of the engine; `Default` is what a normal node runs with.
#[derive(Clone, Debug)]
pub struct PathConfig {
    /// Asks peers that may relay for us where no direct path is found.
    pub peer_relays: bool,
    /// Opens extra sockets and tries many ports of a peer behind a hard NAT
    /// (nat-traversal-beyond.md §4 item 4).
    pub port_spray: bool,
    /// The same toward peers that do not know the technique, by listing
    /// guessed ports in CallMeMaybe messages.
    pub port_spray_unaware: bool,
    /// Pings in several sizes to learn the path MTU (path-selection.md §8).
    pub probe_mtu: bool,
    /// A fixed local port is worth guessing as a manual forward (type 4).
    pub fixed_port: bool,
    /// No UDP at all: relays over port 443 alone (`only-tcp-443`).
    pub tcp_443_only: bool,
    /// Addresses announced besides the measured ones (type 5).
    pub static_endpoints: Vec<SocketAddr>,
}

impl Default for PathConfig {
    fn default() -> Self {
        Self {
            peer_relays: true,
            port_spray: true,
            port_spray_unaware: false,
            probe_mtu: true,
            fixed_port: true,
            tcp_443_only: false,
            static_endpoints: Vec::new(),
        }
    }
}

/// One of our UDP sockets. The main one stands for both families; further
/// ones exist only while a port spray needs them and for paths it found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketId(pub u16);

impl SocketId {
    /// The data socket (one per family).
    pub const MAIN: Self = Self(0);
}

/// A UDP way to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Leg {
    /// Which of our sockets sends.
    pub socket: SocketId,
    /// Where to: the peer, or a peer relay.
    pub addr: SocketAddr,
    /// Set for a peer relay: the Geneve header's network id.
    pub vni: Option<Vni>,
}

impl Leg {
    /// The way from the main socket straight to `addr`.
    pub const fn main(addr: SocketAddr) -> Self {
        Self { socket: SocketId::MAIN, addr, vni: None }
    }

    /// How people see it.
    pub const fn via(self) -> Via {
        match self.vni {
            Some(vni) => Via::PeerRelay { server: self.addr, vni },
            None => Via::Direct(self.addr),
        }
    }
}

/// Where data for one peer goes. Both set: send every packet both ways (the
/// receiver's replay window drops the copies). None set: nowhere yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Route {
    pub udp: Option<Leg>,
    pub relay: Option<RegionId>,
}

impl Route {
    /// The one word for status and explain; `None` without any way.
    pub fn path(self) -> Option<Path> {
        match (self.udp, self.relay) {
            (Some(Leg { addr, vni: Some(vni), .. }), _) => Some(Path::PeerRelay { addr, vni }),
            (Some(Leg { addr, vni: None, .. }), _) => Some(Path::Direct(addr)),
            (None, Some(region)) => Some(Path::Derp(region)),
            (None, None) => None,
        }
    }
}

/// What the engine must know of one peer; all from the netmap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerInfo {
    pub node: NodeKey,
    /// `None` for plain WireGuard peers.
    pub disco: Option<DiscoKey>,
    pub endpoints: Vec<SocketAddr>,
    /// Where the peer listens when nothing better is known.
    pub home: Option<RegionId>,
    pub cap: CapVer,
}

/// Who may relay for whom, as the policy says (path-selection.md §9).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RelayRoles {
    /// Peers that may relay for us (`cap/relay-target` from them).
    pub servers: BTreeSet<NodeKey>,
    /// Peers that may use our relay (`cap/relay` from them).
    pub clients: BTreeSet<NodeKey>,
    /// We go by no peer relay, whoever offers it (`disable-relay-client`).
    pub is_refused: bool,
}

/// Where a datagram came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Our UDP socket `socket` received it from `from`.
    Udp { socket: SocketId, from: SocketAddr },
    /// Relay region `region` says that `from` sent it; a hint, not a proof.
    Relay { region: RegionId, from: NodeKey },
}

/// One address of this machine.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LocalAddress {
    pub interface: String,
    pub ip: IpAddr,
    pub prefix_len: u8,
}

/// How an own endpoint was learnt; the numbers of `EndpointTypes`
/// (stun-netcheck.md §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndpointType {
    Local = 1,
    Stun = 2,
    PortMapped = 3,
    StunLocalPort = 4,
    Explicit = 5,
}

/// An address at which peers may find us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    pub addr: SocketAddr,
    pub kind: EndpointType,
}

/// State of the connection to one relay region, told by the edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelayState {
    Connected,
    /// Not connected: never asked for, closed, or broken.
    Down,
}

/// Identifies one request of [`crate::PathEngine::on_ping_request`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PingId(pub u64);

/// The way one ping and its pong took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Via {
    Direct(SocketAddr),
    PeerRelay { server: SocketAddr, vni: Vni },
    Relay(RegionId),
}

/// Answer to a ping request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PingOutcome {
    Pong {
        via: Via,
        rtt: Duration,
    },
    /// The peer is not in the netmap.
    UnknownPeer,
    TimedOut,
}

/// What the engine asks of whoever drives it.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    SendUdp {
        socket: SocketId,
        to: SocketAddr,
        datagram: Vec<u8>,
    },
    /// The edge opens the connection to `region` if there is none.
    SendRelay {
        region: RegionId,
        to: NodeKey,
        datagram: Vec<u8>,
    },
    /// Data for `peer` takes `route` from here on.
    SetRoute {
        peer: NodeKey,
        route: Route,
    },
    /// Our endpoints changed: tell control. Sorted by usefulness.
    EndpointsChanged(Vec<Endpoint>),
    /// Keep a connection to this region open and tell it so (NotePreferred).
    /// Other regions are connected when something is to be sent there and
    /// may be closed when they carried nothing for 60 s.
    HomeRegion(RegionId),
    /// `Hostinfo.NetInfo` changed in more than its latencies.
    NetInfo(NetInfo),
    /// A netcheck ended.
    NetcheckReport(NetReport),
    /// Time one `GET /derp/latency-check` and report it with `on_relay_http`.
    MeasureRelayHttp(RegionId),
    /// Look up a relay's name and report it with `on_resolved`.
    Resolve(String),
    /// The local UDP port that a port mapping should forward to; `None`
    /// releases it.
    WantPortMapping(Option<u16>),
    /// Open this many further IPv4 UDP sockets on random ports, each
    /// reported by `on_socket_opened`.
    OpenSockets(u16),
    CloseSocket(SocketId),
    /// Bind the data sockets anew, keeping the port if possible.
    Rebind,
    /// Datagrams of tunnel `vni` that come from one of `legs` go out to the other, unchanged; `None` ends it.
    Forward {
        vni: Vni,
        legs: Option<[SocketAddr; 2]>,
    },
    PingResult {
        id: PingId,
        peer: NodeKey,
        outcome: PingOutcome,
    },
}

/// What kind of NAT stands before us, seen from STUN answers
/// (nat-traversal-beyond.md §4 item 3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NatKind {
    /// Not enough answers to tell.
    #[default]
    Unknown,
    /// The outside sees our own address.
    None,
    /// The same mapping for every destination.
    Easy,
    /// A mapping for each destination, without a visible order.
    Random,
    /// A mapping for each destination; ports step by `step`.
    Sequential { step: i16 },
    /// A mapping for each destination, out of a small range of ports.
    Block { first: u16, last: u16 },
}

impl NatKind {
    /// Returns whether each destination gets its own mapping.
    pub fn is_hard(self) -> bool {
        match self {
            Self::Unknown | Self::None | Self::Easy => false,
            Self::Random | Self::Sequential { .. } | Self::Block { .. } => true,
        }
    }
}

/// The result of one netcheck (stun-netcheck.md §4).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NetReport {
    pub udp: bool,
    pub ipv4: bool,
    pub ipv6: bool,
    /// `None` until two IPv4 answers from different addresses came.
    pub mapping_varies: Option<bool>,
    pub nat: NatKind,
    pub global_v4: Option<SocketAddr>,
    pub global_v6: Option<SocketAddr>,
    pub latency: BTreeMap<RegionId, Duration>,
    pub latency_v4: BTreeMap<RegionId, Duration>,
    pub latency_v6: BTreeMap<RegionId, Duration>,
    pub home: Option<RegionId>,
    /// True for a report that probed every region.
    pub full: bool,
}

/// Facts for `Hostinfo.NetInfo` (stun-netcheck.md §4.7); the edge adds what
/// it alone knows (port mapping services, firewall mode).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NetInfo {
    pub mapping_varies: Option<bool>,
    pub working_ipv6: bool,
    pub os_has_ipv6: bool,
    pub working_udp: bool,
    pub have_port_map: bool,
    pub preferred_derp: Option<RegionId>,
    /// Key `<region>-v4` or `<region>-v6`.
    pub derp_latency: BTreeMap<String, Duration>,
}

/// Why a candidate does or does not carry the traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Carries the traffic.
    InUse,
    /// Works, but `InUse` is faster or nearer.
    Slower,
    /// Worked and misses pings now.
    Doubtful,
    /// Worked, but lost too many of the last pings.
    Lossy { lost_percent: u8 },
    /// Worked, but the relay is much faster.
    Slow,
    /// Worked once; the last pings found nobody.
    Lost,
    /// Pinged without any answer.
    NoAnswer,
    /// Never pinged: nothing asked for this peer yet.
    Untried,
}

/// One candidate path to a peer.
#[derive(Clone, Debug, PartialEq)]
pub struct CandidateReport {
    pub via: Via,
    pub verdict: Verdict,
    /// Lowest round-trip time of the last eight pongs.
    pub rtt: Option<Duration>,
    pub pings: u32,
    pub pongs: u32,
    pub mtu: Option<u16>,
}

/// Everything known about the way to one peer, for `explain` and `status`.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerReport {
    pub peer: NodeKey,
    pub route: Route,
    pub home: Option<RegionId>,
    pub relay_rtt: Option<Duration>,
    /// What the peer told of its NAT; `None` from other implementations.
    pub peer_nat: Option<NatKind>,
    pub own_nat: NatKind,
    pub candidates: Vec<CandidateReport>,
    /// Discoveries since the last success.
    pub fruitless: u32,
    /// A port spray runs or ran without success.
    pub sprays: u32,
}

/// Why the engine wants to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wake {
    /// A peer's pings, heartbeat or time-outs.
    Peer,
    /// The netcheck that runs.
    Netcheck,
    /// The next periodic netcheck or a change of our endpoints.
    Endpoints,
    /// Ports to spray.
    Spray,
    /// Peer relay handshakes and expiry.
    PeerRelay,
}

/// Plain counters; the edge exports them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub pings_sent: u64,
    pub pongs_received: u64,
    pub pings_received: u64,
    pub call_me_maybe_sent: u64,
    pub call_me_maybe_received: u64,
    pub disco_unknown_sender: u64,
    pub disco_unsealed_failed: u64,
    pub disco_refused: u64,
    pub stun_received: u64,
    pub netchecks: u64,
    pub sprays: u64,
    pub path_changes: u64,
}

/// How much an engine holds; for tests that nothing grows without bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    pub peers: usize,
    pub candidates_of_one_peer: usize,
    pub pings_of_one_peer: usize,
    pub endpoints: usize,
}

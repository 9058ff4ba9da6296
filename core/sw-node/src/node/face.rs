//! What a node is given, and what it asks of the edge.

use super::*;

/// What a node starts with.
#[derive(Debug)]
pub struct NodeConfig {
    /// Facts about the machine; what prefs and netcheck say is added.
    pub hostinfo: Hostinfo,
    pub disco: DiscoKey,
    pub lock: LockKey,
    /// No TUN, no routes, no DNS of the machine.
    pub is_userspace: bool,
    /// Removed by the server when it goes away (no state file).
    pub is_ephemeral: bool,
    pub dns_facts: DnsFacts,
    pub seed: [u8; 32],
}

/// What programs on this machine hear on the bus.
#[derive(Clone, Debug)]
pub enum Event {
    State(BackendState),
    PrefsChanged,
    NetmapChanged { peers: BTreeSet<NodeId>, removed: Vec<NodeId>, is_whole: bool },
    BrowseToUrl(String),
    LoginFinished,
    Problem(Problem),
}

/// What the node asks of the edge.
#[derive(Debug)]
pub enum Output {
    Control(ControlOutput),
    /// A fresh node key, by [`Node::on_node_key`].
    WantNodeKey,
    /// The key that data plane and relays use; `None` when signed out.
    Identity(Option<NodeKey>),
    /// `None`: nothing of ours on the machine.
    Machine(Option<MachineConfig>),
    Resolver(Arc<ResolverConfig>),
    /// Peers that are new or changed, and keys that are gone.
    Peers {
        changed: Vec<PeerConfig>,
        removed: Vec<NodeKey>,
    },
    Filter(FilterConfig),
    RelayMap(RelayMap),
    /// Write the preferences (with keys) to the state file.
    Save,
    /// The network is worth remembering for a start without the server.
    CacheNetmap,
    /// Answer this request of the server.
    Ping(PingRequest),
    Event(Event),
}

/// A control server whose key was checked before anything was said to it.
#[derive(Clone, Debug)]
pub struct ProvenServer {
    /// The address that answered.
    pub url: String,
    /// Further ones of the same server, best first.
    pub further_urls: Vec<String>,
    /// `mkey:` text.
    pub key: String,
}

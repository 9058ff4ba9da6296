//! Who is connected here and, through the mesh, elsewhere in the region.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;

use sw_proto::derp::{PeerGone, PeerPresent, PresentFlags};
use sw_types::NodeKey;

/// One connection, for as long as the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(u64);

/// One connection of ours to another relay of the region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u32);

/// Sources of which one connection hears when they go; further ones it does not hear of.
const SUBSCRIPTIONS_MAX: usize = 4096;

/// How often the active connection of a key changes before that is a fight: a machine that connects anew may be heard
/// on its old connection once or twice.
const FIGHT_SWITCHES: u8 = 8;

/// A client that has proven its key.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Its key.
    pub key: NodeKey,
    /// Where it comes from.
    pub from: SocketAddr,
    /// What the mesh is told of it.
    pub flags: PresentFlags,
    /// Whether it showed the mesh key.
    pub is_mesh: bool,
}

impl Arrival {
    /// An ordinary client.
    #[must_use]
    pub fn regular(key: NodeKey, from: SocketAddr) -> Self {
        Self { key, from, flags: PresentFlags::REGULAR, is_mesh: false }
    }
}

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// To this connection.
    Local(ConnId),
    /// To another relay.
    Forward(LinkId),
    /// Nowhere.
    Unknown,
}

/// What the edge is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// The connection gets its key's packets, or no longer does.
    Active {
        /// Which.
        conn: ConnId,
        /// Whether.
        is_active: bool,
    },
    /// The connection shares its key with others, or no longer does: while it does, each of its frames counts
    /// ([`Registry::on_activity`]).
    Shared {
        /// Which.
        conn: ConnId,
        /// Whether.
        is_shared: bool,
    },
    /// Several machines use the key of the connection and take its packets from each other, or no longer do.
    Fight {
        /// Which.
        conn: ConnId,
        /// Whether.
        is_fighting: bool,
    },
    /// Tell `to` that `peer` is gone.
    PeerGone {
        /// Whom.
        to: ConnId,
        /// Of whom.
        peer: NodeKey,
        /// Why.
        reason: PeerGone,
    },
    /// Tell the mesh member `to` of a client.
    PeerPresent {
        /// Whom.
        to: ConnId,
        /// Of whom.
        present: PeerPresent,
    },
    /// Close it.
    Close {
        /// Which.
        conn: ConnId,
    },
    /// Remembered routes through the mesh no longer hold.
    MeshChanged,
}

/// Gauges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RegistryStats {
    /// Connections.
    pub connections: usize,
    /// Connections of which this relay is the home.
    pub home_connections: usize,
    /// Distinct keys connected here.
    pub local_clients: usize,
    /// Distinct keys known through the mesh and not connected here.
    pub remote_clients: usize,
    /// Mesh members that listen.
    pub watchers: usize,
    /// Keys with more than one connection.
    pub duplicate_keys: usize,
    /// Connections of such keys.
    pub duplicate_connections: usize,
    /// Connections that would rather be on another node.
    pub not_ideal_connections: usize,
}

#[derive(Debug)]
struct Conn {
    arrival: Arrival,
    is_home: bool,
    sources: BTreeSet<NodeKey>,
}

/// See the module. One owner; every question is answered from memory.
#[derive(Debug, Default)]
pub struct Registry {
    next: u64,
    // BTreeMap: a new watcher is told of all clients, in the order they came.
    conns: BTreeMap<ConnId, Conn>,
    // INVARIANT: never empty; the last one is active.
    clients: HashMap<NodeKey, Vec<ConnId>>,
    watchers: BTreeSet<ConnId>,
    /// In the order in which the links told of the key: the earliest is preferred (derp.md §10).
    remote: HashMap<NodeKey, Vec<LinkId>>,
    link_keys: BTreeMap<LinkId, BTreeSet<NodeKey>>,
    /// Who received packets of a key.
    subscribers: HashMap<NodeKey, BTreeSet<ConnId>>,
    /// How often the active connection changed, for keys with several.
    switches: HashMap<NodeKey, u8>,
    duplicate_keys: usize,
    duplicate_connections: usize,
    outputs: VecDeque<Output>,
}

impl Registry {
    /// Nobody.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The next thing to do; drain it after each input.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Takes a client in; it becomes the active connection of its key (derp.md §7.3).
    pub fn on_connect(&mut self, arrival: Arrival) -> ConnId {
        let conn = ConnId(self.next);
        self.next += 1;
        self.conns.insert(conn, Conn { arrival, is_home: false, sources: BTreeSet::new() });
        let set = self.clients.entry(arrival.key).or_default();
        let others = set.len();
        if let Some(before) = set.last() {
            self.outputs.push_back(Output::Active { conn: *before, is_active: false });
        }
        set.push(conn);
        self.outputs.push_back(Output::Active { conn, is_active: true });
        match others {
            0 => {}
            1 => {
                let first = set.first().copied().unwrap_or(conn);
                self.outputs.push_back(Output::Shared { conn: first, is_shared: true });
                self.outputs.push_back(Output::Shared { conn, is_shared: true });
                self.duplicate_keys += 1;
                self.duplicate_connections += 2;
            }
            _ => {
                self.outputs.push_back(Output::Shared { conn, is_shared: true });
                self.duplicate_connections += 1;
            }
        }
        if self.switches.get(&arrival.key) == Some(&FIGHT_SWITCHES) {
            self.outputs.push_back(Output::Fight { conn, is_fighting: true });
        }
        let present = present_of(&arrival);
        self.outputs.extend(self.watchers.iter().map(|to| Output::PeerPresent { to: *to, present }));
        if self.remote.contains_key(&arrival.key) {
            // Here is nearer than through the mesh.
            self.outputs.push_back(Output::MeshChanged);
        }
        conn
    }

    /// Lets a connection go.
    pub fn on_disconnect(&mut self, conn: ConnId) {
        let Some(gone) = self.conns.remove(&conn) else { return };
        self.watchers.remove(&conn);
        for source in &gone.sources {
            if let Some(set) = self.subscribers.get_mut(source) {
                set.remove(&conn);
                if set.is_empty() {
                    self.subscribers.remove(source);
                }
            }
        }
        let key = gone.arrival.key;
        let Some(set) = self.clients.get_mut(&key) else { return };
        let was_active = set.last() == Some(&conn);
        set.retain(|other| *other != conn);
        match set.as_slice() {
            [] => {
                self.clients.remove(&key);
                self.key_left(key);
            }
            [last] => {
                self.outputs.push_back(Output::Shared { conn: *last, is_shared: false });
                if self.switches.remove(&key) == Some(FIGHT_SWITCHES) {
                    self.outputs.push_back(Output::Fight { conn: *last, is_fighting: false });
                }
                self.duplicate_keys -= 1;
                self.duplicate_connections -= 2;
                if was_active {
                    self.outputs.push_back(Output::Active { conn: *last, is_active: true });
                }
            }
            [.., last] => {
                self.duplicate_connections -= 1;
                if was_active {
                    self.outputs.push_back(Output::Active { conn: *last, is_active: true });
                }
            }
        }
    }

    /// The key has no connection here any more.
    fn key_left(&mut self, key: NodeKey) {
        let reason = PeerGone::Disconnected;
        self.outputs.extend(self.watchers.iter().map(|to| Output::PeerGone { to: *to, peer: key, reason }));
        if !self.remote.contains_key(&key) {
            self.tell_subscribers(key);
        }
    }

    /// The key is gone from the region: all who received from it hear so, once (derp.md §7.2).
    fn tell_subscribers(&mut self, key: NodeKey) {
        let reason = PeerGone::Disconnected;
        for to in self.subscribers.remove(&key).unwrap_or_default() {
            if let Some(conn) = self.conns.get_mut(&to) {
                conn.sources.remove(&key);
            }
            self.outputs.push_back(Output::PeerGone { to, peer: key, reason });
        }
    }

    /// A frame came from a connection whose key has several: the one heard last is active (derp.md §7.3).
    pub fn on_activity(&mut self, conn: ConnId) {
        let Some(key) = self.conns.get(&conn).map(|conn| conn.arrival.key) else { return };
        let Some(set) = self.clients.get_mut(&key) else { return };
        let Some(before) = set.last().copied().filter(|last| *last != conn) else { return };
        set.retain(|other| *other != conn);
        set.push(conn);
        self.outputs.push_back(Output::Active { conn: before, is_active: false });
        self.outputs.push_back(Output::Active { conn, is_active: true });
        let switches = self.switches.entry(key).or_default();
        if *switches < FIGHT_SWITCHES {
            *switches += 1;
            if *switches == FIGHT_SWITCHES {
                self.outputs.extend(set.iter().map(|conn| Output::Fight { conn: *conn, is_fighting: true }));
            }
        }
    }

    /// The client says whether this relay is its home; gives whether that is a change.
    pub fn on_preferred(&mut self, conn: ConnId, is_home: bool) -> bool {
        self.conns.get_mut(&conn).is_some_and(|conn| std::mem::replace(&mut conn.is_home, is_home) != is_home)
    }

    /// A mesh member wants to hear of clients: first all that are here, then changes (derp.md §10).
    pub fn on_watch(&mut self, conn: ConnId) {
        if !self.conns.contains_key(&conn) || !self.watchers.insert(conn) {
            return;
        }
        let all = self.conns.iter().filter(|(other, _)| **other != conn);
        let told =
            all.map(|(_, other)| Output::PeerPresent { to: conn, present: present_of(&other.arrival) });
        self.outputs.extend(told);
    }

    /// Closes all connections of a key: asked for by a mesh member, or because the key may no longer come in.
    pub fn on_close_key(&mut self, key: NodeKey) {
        let set = self.clients.get(&key).map(Vec::as_slice).unwrap_or_default();
        self.outputs.extend(set.iter().map(|conn| Output::Close { conn: *conn }));
    }

    /// Another relay tells of a client.
    pub fn on_remote_present(&mut self, link: LinkId, key: NodeKey) {
        if self.link_keys.entry(link).or_default().insert(key) {
            self.remote.entry(key).or_default().push(link);
        }
    }

    /// Another relay tells that a client left it.
    pub fn on_remote_gone(&mut self, link: LinkId, key: NodeKey) {
        if self.link_keys.get_mut(&link).is_some_and(|keys| keys.remove(&key)) {
            self.remote_left(link, key);
        }
    }

    /// The connection to another relay broke: whatever it told is forgotten (derp.md §10).
    pub fn on_link_down(&mut self, link: LinkId) {
        for key in self.link_keys.remove(&link).unwrap_or_default() {
            self.remote_left(link, key);
        }
    }

    fn remote_left(&mut self, link: LinkId, key: NodeKey) {
        let Some(links) = self.remote.get_mut(&key) else { return };
        links.retain(|other| *other != link);
        if links.is_empty() {
            self.remote.remove(&key);
            if !self.clients.contains_key(&key) {
                self.tell_subscribers(key);
            }
        }
        self.outputs.push_back(Output::MeshChanged);
    }

    /// Where packets of `from` to `to` go. Call it before the first packet: the receiver is noted to hear when
    /// the sender leaves (derp.md §7.2).
    pub fn route(&mut self, from: ConnId, to: NodeKey) -> Route {
        let Some(source) = self.conns.get(&from).map(|conn| conn.arrival.key) else { return Route::Unknown };
        if let Some(conn) = self.active(to) {
            self.subscribe(conn, source);
            return Route::Local(conn);
        }
        match self.remote.get(&to).and_then(|links| links.first()) {
            Some(link) => Route::Forward(*link),
            None => Route::Unknown,
        }
    }

    /// Where a packet that another relay forwarded goes: to a client here or nowhere, never on (derp.md §10).
    pub fn route_forwarded(&mut self, source: NodeKey, to: NodeKey) -> Route {
        let Some(conn) = self.active(to) else { return Route::Unknown };
        self.subscribe(conn, source);
        Route::Local(conn)
    }

    fn active(&self, key: NodeKey) -> Option<ConnId> {
        self.clients.get(&key).and_then(|set| set.last()).copied()
    }

    fn subscribe(&mut self, conn: ConnId, source: NodeKey) {
        let Some(state) = self.conns.get_mut(&conn) else { return };
        if state.sources.len() < SUBSCRIPTIONS_MAX && state.sources.insert(source) {
            self.subscribers.entry(source).or_default().insert(conn);
        }
    }

    /// The gauges; counts through all connections.
    #[must_use]
    pub fn stats(&self) -> RegistryStats {
        let not_ideal = PresentFlags::NOT_IDEAL.0;
        let local_clients = self.clients.len();
        let both = self.conns.values().map(|c| c.arrival.key).filter(|key| self.remote.contains_key(key));
        RegistryStats {
            connections: self.conns.len(),
            home_connections: self.conns.values().filter(|conn| conn.is_home).count(),
            local_clients,
            remote_clients: self.remote.len() - both.collect::<BTreeSet<_>>().len(),
            watchers: self.watchers.len(),
            duplicate_keys: self.duplicate_keys,
            duplicate_connections: self.duplicate_connections,
            not_ideal_connections: self.conns.values().filter(|c| c.arrival.flags.0 & not_ideal != 0).count(),
        }
    }
}

fn present_of(arrival: &Arrival) -> PeerPresent {
    PeerPresent { key: arrival.key, from: Some(arrival.from), flags: arrival.flags }
}

#[cfg(test)]
mod tests;

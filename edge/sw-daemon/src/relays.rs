//! The connections to relay regions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sw_net::derp_client::{DerpClient, DerpConfig, DerpEvent};
use sw_net::dial::DialOptions;
use sw_types::{NodeKey, NodePrivate, RegionId, RelayMap};
use tokio::sync::mpsc;

/// A connection that is being opened is no fault yet.
const CONNECTING: Duration = Duration::from_secs(5);

/// Opens connections when they are needed; each closes itself when it is idle and not home.
#[derive(Debug)]
pub(crate) struct Relays {
    map: RelayMap,
    key: Option<Arc<NodePrivate>>,
    home: Option<RegionId>,
    /// When that became the home.
    home_since: Option<Instant>,
    clients: BTreeMap<RegionId, DerpClient>,
    events: mpsc::Sender<(RegionId, DerpEvent)>,
    dial: DialOptions,
}

impl Relays {
    pub(crate) fn new(events: mpsc::Sender<(RegionId, DerpEvent)>, dial: DialOptions) -> Self {
        let (map, clients) = (RelayMap::default(), BTreeMap::new());
        Self { map, key: None, home: None, home_since: None, clients, events, dial }
    }

    /// Whose packets are carried; all connections of another key end.
    pub(crate) fn set_key(&mut self, key: Option<Arc<NodePrivate>>) {
        self.clients.clear();
        self.key = key;
        self.open_home();
    }

    /// Takes the relay map; connections to regions that are gone or changed end.
    pub(crate) fn set_map(&mut self, map: RelayMap) {
        self.clients
            .retain(|id, _| map.regions.contains_key(id) && map.regions.get(id) == self.map.regions.get(id));
        self.dial.bootstrap.set(map.regions.values().flat_map(|region| region.nodes.iter().cloned()));
        self.map = map;
        self.open_home();
    }

    /// Keeps the connection to this region open.
    pub(crate) fn set_home(&mut self, home: RegionId) {
        if let Some(former) = self.home.filter(|former| *former != home)
            && let Some(client) = self.clients.get(&former)
        {
            client.set_home(false);
        }
        if self.home.replace(home) != Some(home) {
            self.home_since = Some(Instant::now());
        }
        self.open_home();
    }

    /// The present home.
    pub(crate) fn home(&self) -> Option<RegionId> {
        self.home
    }

    fn open_home(&mut self) {
        if let Some(client) = self.home.and_then(|home| self.client(home)) {
            client.set_home(true);
        }
    }

    /// Sends through a region; without such a region the packet is lost, as on any network.
    pub(crate) fn send(&mut self, region: RegionId, to: NodeKey, packet: &[u8]) {
        if let Some(client) = self.client(region) {
            client.send(to, packet);
        }
    }

    /// After a change of the network: are the connections still alive?
    pub(crate) fn check(&self) {
        for client in self.clients.values() {
            client.check();
        }
    }

    /// Whether the home relay has not answered for longer than connecting takes.
    pub(crate) fn is_home_silent(&self) -> bool {
        let Some((home, since)) = self.home.zip(self.home_since) else { return false };
        let down_since = match self.clients.get(&home) {
            Some(client) => client.down_since(),
            None => Some(since),
        };
        down_since.is_some_and(|down| down.max(since).elapsed() > CONNECTING)
    }

    fn client(&mut self, region: RegionId) -> Option<&DerpClient> {
        if !self.clients.contains_key(&region) {
            let (description, key) = (self.map.regions.get(&region)?.clone(), self.key.clone()?);
            let config = DerpConfig { dial: self.dial.clone(), ..DerpConfig::new(description, key) };
            self.clients.insert(region, DerpClient::spawn(config, self.events.clone()));
        }
        self.clients.get(&region)
    }
}

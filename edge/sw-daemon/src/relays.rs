//! The connections to relay regions.

use std::collections::BTreeMap;
use std::sync::Arc;

use sw_net::derp_client::{DerpClient, DerpConfig, DerpEvent};
use sw_net::dial::DialOptions;
use sw_types::{NodeKey, NodePrivate, RegionId, RelayMap};
use tokio::sync::mpsc;

/// Opens connections when they are needed; each closes itself when it is idle and not home.
#[derive(Debug)]
pub(crate) struct Relays {
    map: RelayMap,
    key: Option<Arc<NodePrivate>>,
    home: Option<RegionId>,
    clients: BTreeMap<RegionId, DerpClient>,
    events: mpsc::Sender<(RegionId, DerpEvent)>,
    dial: DialOptions,
}

impl Relays {
    pub(crate) fn new(events: mpsc::Sender<(RegionId, DerpEvent)>, dial: DialOptions) -> Self {
        Self { map: RelayMap::default(), key: None, home: None, clients: BTreeMap::new(), events, dial }
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
        self.home = Some(home);
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

    /// Whether the home relay is connected.
    pub(crate) fn is_home_connected(&self) -> bool {
        self.home.and_then(|home| self.clients.get(&home)).is_some_and(DerpClient::is_connected)
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

//! Connections to the other relays of the region: they tell of their clients, and take packets for them (derp.md §10).

use std::sync::Arc;

use sw_net::derp_client::{ClientKey, DerpClient, DerpConfig, DerpEvent};
use sw_relay_core::LinkId;
use sw_types::{RegionId, RelayRegion};
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::hub::Hub;

/// Packets that may wait for another relay.
const LINK_QUEUE: usize = 1024;

/// Connects to another relay and stays connected until the task is dropped.
pub(crate) async fn link(hub: Arc<Hub>, link: LinkId, peer: RelayRegion, plain_http: bool) {
    let (events, mut heard) = mpsc::channel::<(RegionId, DerpEvent)>(64);
    let config = DerpConfig {
        region: peer,
        key: ClientKey::Relay(Arc::clone(&hub.config.key)),
        mesh_key: hub.config.mesh_key.clone(),
        dial: sw_net::dial::DialOptions::default(),
        plain_http,
        watch: true,
        queue_packets: LINK_QUEUE,
    };
    let client = DerpClient::spawn(config, events);
    hub.add_link(link, client);
    while let Some((_, event)) = heard.recv().await {
        match event {
            DerpEvent::Connected { relay } if relay == hub.key() => {
                warn!(link = link.0, "mesh: that relay is this one");
                break;
            }
            DerpEvent::Connected { .. } => info!(link = link.0, "mesh: connected"),
            // The other relay may tell us of our own connection.
            DerpEvent::PeerPresent(present) if present.key.as_bytes() == hub.key().as_bytes() => {}
            DerpEvent::PeerPresent(present) => hub.on_remote(link, present.key, true),
            DerpEvent::PeerGone { peer, .. } => hub.on_remote(link, peer, false),
            DerpEvent::Disconnected { why, .. } => {
                info!(link = link.0, %why, "mesh: connection lost");
                hub.on_link_down(link);
            }
            DerpEvent::Packets(_) | DerpEvent::Health(_) => {}
        }
    }
    hub.remove_link(link);
}

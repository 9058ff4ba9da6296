//! This machine as a peer relay, and as a client of others (path-selection.md §9).

use sw_node::grants::relay_roles;
use sw_path::RelayRoles;

use super::Core;

/// The node attributes by which the network forbids either side.
const DISABLE_SERVER: &str = "disable-relay-server";
const DISABLE_CLIENT: &str = "disable-relay-client";

impl Core {
    /// Tells path choice who may relay for whom, and whether this machine relays.
    pub(super) fn refresh_peer_relays(&mut self) {
        let now = self.now();
        let prefs = self.node.prefs();
        let (roles, is_forbidden) = match self.node.netmap() {
            Some(netmap) => {
                let (servers, clients) = relay_roles(netmap);
                let own = &netmap.self_node.cap_map;
                let is_refused = own.contains_key(DISABLE_CLIENT);
                (RelayRoles { servers, clients, is_refused }, own.contains_key(DISABLE_SERVER))
            }
            None => (RelayRoles::default(), false),
        };
        // The data socket serves, whatever port the setting names: it is the one that other settings open.
        let serve = prefs.relay_server_port.is_some() && !is_forbidden;
        let fixed = prefs.relay_server_static_endpoints.clone().unwrap_or_default();
        self.paths.set_relay_roles(roles);
        self.paths.set_serve_relay(serve, fixed, now);
    }

    /// Tells path choice which tunnels are alive, before it looks for dead ones.
    pub(super) fn note_forwarded(&mut self) {
        for (vni, heard) in self.device.forwarded() {
            self.paths.on_forwarded(vni, heard);
        }
    }
}

//! The status object, put together from the network and from what the edge knows of each path
//! (localapi-cli.md §A4).

use std::collections::BTreeMap;

use sw_tailcfg::Node as WireNode;
use sw_types::local::{BackendState, ExitNodeStatus, PeerStatus, Problem, Status, TailnetStatus};
use sw_types::{NodeKey, UnixTime};

use crate::desired::{exit_node, offers_exit_node, peer_api_url};
use crate::netmap::Netmap;
use crate::node::{Node, profile_of};

/// What the edge knows of one peer.
#[derive(Clone, Debug, Default)]
pub struct PeerRuntime {
    /// The direct address in use, or empty.
    pub direct: String,
    /// `ip:port:vni` of the peer relay in use, or empty.
    pub peer_relay: String,
    pub rx_bytes: u64,
    pub tx_bytes: u64,
    pub last_handshake: UnixTime,
    pub last_write: UnixTime,
    /// A packet was sent to it in the last 45 s.
    pub is_active: bool,
    pub is_configured: bool,
    /// Why the path is not direct, of the list in ux.md §2.4.
    pub reason: String,
    pub latency_seconds: Option<f64>,
}

/// What the edge adds to the status as a whole.
#[derive(Clone, Debug, Default)]
pub struct StatusContext {
    pub version: String,
    pub has_tun: bool,
    pub health: Vec<String>,
    pub notices: Vec<Problem>,
    pub with_peers: bool,
}

/// Puts the status together. `runtime` is asked once per peer.
pub fn status(
    node: &Node,
    context: StatusContext,
    runtime: impl Fn(&NodeKey) -> PeerRuntime,
    now: UnixTime,
) -> Status {
    let mut status = Status {
        version: context.version,
        tun: context.has_tun,
        backend_state: node.state().name().to_owned(),
        have_node_key: node.has_key(),
        auth_url: node.auth_url().to_owned(),
        health: context.health,
        notices: context.notices,
        ..Status::default()
    };
    let Some(netmap) = node.netmap() else {
        let hostinfo = node.control().hostinfo();
        status.self_node = Some(PeerStatus {
            public_key: node.key().unwrap_or_default(),
            host_name: hostinfo.hostname.clone(),
            os: hostinfo.os.clone(),
            ..PeerStatus::default()
        });
        return status;
    };
    let is_running = node.state() == BackendState::Running;
    let own = &netmap.self_node;
    let mut own_status = peer_status(netmap, own, PeerRuntime::default(), now);
    own_status.addrs = Some(node.control().endpoints().iter().map(|(address, _)| *address).collect());
    own_status.host_name.clone_from(&node.control().hostinfo().hostname);
    own_status.online = node.control().is_online();
    let home =
        node.control().hostinfo().net_info.as_ref().map(|info| info.preferred_derp).unwrap_or_default();
    own_status.relay = region_code(netmap, home);
    own_status.in_engine = false;
    let caps: Vec<String> = own.cap_map.keys().cloned().collect();
    own_status.capabilities = (!caps.is_empty()).then_some(caps);
    own_status.cap_map =
        (!own.cap_map.is_empty()).then(|| serde_json::to_value(&own.cap_map).unwrap_or_default());
    status.tailscale_ips = is_running.then(|| own.addresses.iter().map(|net| net.addr()).collect());
    status.self_node = Some(own_status);
    netmap.magic_dns_suffix().clone_into(&mut status.magic_dns_suffix);
    status.current_tailnet = Some(TailnetStatus {
        name: netmap.domain.clone(),
        magic_dns_suffix: netmap.magic_dns_suffix().to_owned(),
        magic_dns_enabled: netmap.dns.proxied,
    });
    status.cert_domains = (!netmap.dns.cert_domains.is_empty()).then(|| netmap.dns.cert_domains.clone());
    status.client_version =
        netmap.client_version.as_ref().and_then(|version| serde_json::to_value(version).ok());
    let exit = exit_node(netmap, node.prefs());
    status.exit_node_status = exit.map(|exit| ExitNodeStatus {
        id: exit.stable_id.to_string(),
        online: exit.online.unwrap_or(false),
        tailscale_ips: Some(exit.addresses.clone()),
    });
    if context.with_peers {
        let mut peers = BTreeMap::new();
        let mut users = BTreeMap::new();
        for peer in netmap.peers() {
            let mut one = peer_status(netmap, peer, runtime(&peer.key), now);
            one.exit_node = exit.is_some_and(|exit| exit.id == peer.id);
            peers.insert(peer.key, one);
            if let Some(profile) = profile_of(netmap, peer.user) {
                users.insert(peer.user, profile);
            }
        }
        if let Some(profile) = profile_of(netmap, own.user) {
            users.insert(own.user, profile);
        }
        status.peer = (!peers.is_empty()).then_some(peers);
        status.user = (!users.is_empty()).then_some(users);
    }
    status
}

fn peer_status(netmap: &Netmap, node: &WireNode, runtime: PeerRuntime, now: UnixTime) -> PeerStatus {
    let hostinfo = node.hostinfo.as_deref();
    let is_offline = node.online == Some(false);
    PeerStatus {
        id: node.stable_id.to_string(),
        node_id: node.id,
        public_key: node.key,
        host_name: hostinfo.map(|info| info.hostname.clone()).unwrap_or_default(),
        dns_name: node.name.clone(),
        os: hostinfo.map(|info| info.os.clone()).unwrap_or_default(),
        user_id: node.user,
        alt_sharer_user_id: node.sharer,
        tailscale_ips: Some(node.addresses.iter().map(|net| net.addr()).collect()),
        allowed_ips: Some(node.effective_allowed_ips().to_vec()),
        tags: (!node.tags.is_empty()).then(|| node.tags.clone()),
        primary_routes: (!node.primary_routes.is_empty()).then(|| node.primary_routes.clone()),
        addrs: None,
        cur_addr: runtime.direct,
        relay: region_code(netmap, node.home_region().unwrap_or_default()),
        peer_relay: runtime.peer_relay,
        rx_bytes: runtime.rx_bytes,
        tx_bytes: runtime.tx_bytes,
        created: node.created.unwrap_or_default(),
        last_write: runtime.last_write,
        last_seen: node.last_seen.filter(|_| is_offline).unwrap_or_default(),
        last_handshake: runtime.last_handshake,
        online: node.online.unwrap_or(false),
        exit_node: false,
        exit_node_option: offers_exit_node(node),
        active: runtime.is_active,
        peer_api_url: peer_api_url(netmap, node).map(|url| vec![url]),
        taildrop_target: 0,
        no_file_sharing_reason: String::new(),
        capabilities: None,
        cap_map: None,
        ssh_host_keys: hostinfo
            .filter(|info| !info.ssh_host_keys.is_empty())
            .map(|info| info.ssh_host_keys.clone()),
        sharee_node: hostinfo.is_some_and(|info| info.sharee_node),
        in_network_map: true,
        in_magic_sock: runtime.is_configured,
        in_engine: runtime.is_configured,
        expired: netmap.is_expired(node, now),
        key_expiry: node.key_expiry.map(|time| UnixTime::from_secs(time.as_secs())),
        location: hostinfo.and_then(|info| serde_json::to_value(info.location.as_ref()?).ok()),
        path_reason: runtime.reason,
        latency_seconds: runtime.latency_seconds,
    }
}

/// The code of a relay region, or empty.
pub fn region_code(netmap: &Netmap, region: sw_types::RegionId) -> String {
    let regions = netmap.derp_map.regions.as_ref();
    regions
        .and_then(|regions| regions.get(&region))
        .map(|region| region.region_code.clone())
        .unwrap_or_default()
}

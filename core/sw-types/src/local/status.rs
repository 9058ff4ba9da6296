//! The status object and ping results (localapi-cli.md §A4, §A3).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Problem;
use super::profile::UserProfile;
use super::{is_false, null_is_default};
use crate::{NodeId, NodeKey, UnixTime, UserId};

/// Everything a user may know of the node and its network.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Status {
    pub version: String,
    #[serde(rename = "TUN")]
    pub tun: bool,
    pub backend_state: String,
    #[serde(skip_serializing_if = "is_false")]
    pub have_node_key: bool,
    #[serde(rename = "AuthURL", deserialize_with = "null_is_default")]
    pub auth_url: String,
    #[serde(rename = "TailscaleIPs")]
    pub tailscale_ips: Option<Vec<IpAddr>>,
    #[serde(rename = "Self")]
    pub self_node: Option<PeerStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_node_status: Option<ExitNodeStatus>,
    #[serde(deserialize_with = "null_is_default")]
    pub health: Vec<String>,
    #[serde(rename = "MagicDNSSuffix", deserialize_with = "null_is_default")]
    pub magic_dns_suffix: String,
    pub current_tailnet: Option<TailnetStatus>,
    pub cert_domains: Option<Vec<String>>,
    pub extra_records: Option<Value>,
    pub peer: Option<BTreeMap<NodeKey, PeerStatus>>,
    pub user: Option<BTreeMap<UserId, UserProfile>>,
    pub client_version: Option<Value>,
    /// Ours: what is worth knowing, with its slugs; the warnings among them stand in `Health` too.
    #[serde(rename = "SamewireNotices", skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<Problem>,
}

/// The network this node is in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct TailnetStatus {
    pub name: String,
    #[serde(rename = "MagicDNSSuffix")]
    pub magic_dns_suffix: String,
    #[serde(rename = "MagicDNSEnabled")]
    pub magic_dns_enabled: bool,
}

/// The exit node in use.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ExitNodeStatus {
    #[serde(rename = "ID")]
    pub id: String,
    pub online: bool,
    #[serde(rename = "TailscaleIPs")]
    pub tailscale_ips: Option<Vec<IpNet>>,
}

/// One node, this one included.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct PeerStatus {
    #[serde(rename = "ID")]
    pub id: String,
    #[serde(rename = "NodeID")]
    pub node_id: NodeId,
    pub public_key: NodeKey,
    pub host_name: String,
    #[serde(rename = "DNSName")]
    pub dns_name: String,
    #[serde(rename = "OS")]
    pub os: String,
    #[serde(rename = "UserID")]
    pub user_id: UserId,
    #[serde(rename = "AltSharerUserID", skip_serializing_if = "UserId::is_zero")]
    pub alt_sharer_user_id: UserId,
    #[serde(rename = "TailscaleIPs")]
    pub tailscale_ips: Option<Vec<IpAddr>>,
    #[serde(rename = "AllowedIPs", skip_serializing_if = "Option::is_none")]
    pub allowed_ips: Option<Vec<IpNet>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tags: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub primary_routes: Option<Vec<IpNet>>,
    pub addrs: Option<Vec<SocketAddr>>,
    pub cur_addr: String,
    pub relay: String,
    pub peer_relay: String,
    pub rx_bytes: u64,
    pub tx_bytes: u64,
    pub created: UnixTime,
    pub last_write: UnixTime,
    pub last_seen: UnixTime,
    pub last_handshake: UnixTime,
    pub online: bool,
    pub exit_node: bool,
    pub exit_node_option: bool,
    pub active: bool,
    #[serde(rename = "PeerAPIURL")]
    pub peer_api_url: Option<Vec<String>>,
    pub taildrop_target: u8,
    pub no_file_sharing_reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cap_map: Option<Value>,
    #[serde(rename = "sshHostKeys", skip_serializing_if = "Option::is_none")]
    pub ssh_host_keys: Option<Vec<String>>,
    #[serde(skip_serializing_if = "is_false")]
    pub sharee_node: bool,
    pub in_network_map: bool,
    pub in_magic_sock: bool,
    pub in_engine: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub expired: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_expiry: Option<UnixTime>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<Value>,
    /// Ours: why the path is not direct, from the list of ux.md §2.4; left out when it is.
    #[serde(rename = "SamewirePathReason", skip_serializing_if = "String::is_empty")]
    pub path_reason: String,
    /// Ours: measured round trip of the path in use, in seconds; left out when unknown.
    #[serde(rename = "SamewireLatencySeconds", skip_serializing_if = "Option::is_none")]
    pub latency_seconds: Option<f64>,
}

/// The answer to one ping.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct PingResult {
    #[serde(rename = "IP")]
    pub ip: String,
    #[serde(rename = "NodeIP")]
    pub node_ip: String,
    pub node_name: String,
    pub err: String,
    pub latency_seconds: f64,
    pub endpoint: String,
    pub peer_relay: String,
    #[serde(rename = "DERPRegionID")]
    pub derp_region_id: u32,
    #[serde(rename = "DERPRegionCode")]
    pub derp_region_code: String,
    #[serde(rename = "PeerAPIPort", skip_serializing_if = "is_zero_port")]
    pub peer_api_port: u16,
    #[serde(rename = "PeerAPIURL", skip_serializing_if = "String::is_empty")]
    pub peer_api_url: String,
    #[serde(rename = "IsLocalIP", skip_serializing_if = "is_false")]
    pub is_local_ip: bool,
}

fn is_zero_port(port: &u16) -> bool {
    *port == 0
}

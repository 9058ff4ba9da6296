//! What a machine tells about itself (control.md §4.3).

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use sw_types::{RegionId, StableNodeId};

use crate::wire::is_default;

/// A machine's description of itself; every field is left out when empty. All of it is a claim of the machine.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Hostinfo {
    /// Version of the program, for example `1.103.0-t1234`.
    #[serde(rename = "IPNVersion", skip_serializing_if = "is_default")]
    pub ipn_version: String,
    #[serde(rename = "FrontendLogID", skip_serializing_if = "is_default")]
    pub frontend_log_id: String,
    /// 64 hex digits; official clients do not register without it.
    #[serde(rename = "BackendLogID", skip_serializing_if = "is_default")]
    pub backend_log_id: String,
    /// `linux`, `windows`, `macOS`, …
    #[serde(rename = "OS", skip_serializing_if = "is_default")]
    pub os: String,
    #[serde(rename = "OSVersion", skip_serializing_if = "is_default")]
    pub os_version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<bool>,
    /// Code of the run-time environment, for example `k8s`.
    #[serde(skip_serializing_if = "is_default")]
    pub env: String,
    #[serde(skip_serializing_if = "is_default")]
    pub distro: String,
    #[serde(skip_serializing_if = "is_default")]
    pub distro_version: String,
    #[serde(skip_serializing_if = "is_default")]
    pub distro_code_name: String,
    #[serde(skip_serializing_if = "is_default")]
    pub app: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub desktop: Option<bool>,
    #[serde(skip_serializing_if = "is_default")]
    pub package: String,
    #[serde(skip_serializing_if = "is_default")]
    pub device_model: String,
    #[serde(skip_serializing_if = "is_default")]
    pub push_device_token: String,
    /// The machine's own name for itself, any text; see [`sw_types::sanitize_hostname`].
    #[serde(skip_serializing_if = "is_default")]
    pub hostname: String,
    #[serde(skip_serializing_if = "is_default")]
    pub shields_up: bool,
    /// Set by the server on peers that are shared in.
    #[serde(skip_serializing_if = "is_default")]
    pub sharee_node: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub no_logs_no_support: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub remote_config: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub wire_ingress: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub ingress_enabled: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub allows_update: bool,
    /// The processor as the kernel names it.
    #[serde(skip_serializing_if = "is_default")]
    pub machine: String,
    #[serde(skip_serializing_if = "is_default")]
    pub go_arch: String,
    #[serde(skip_serializing_if = "is_default")]
    pub go_arch_var: String,
    #[serde(skip_serializing_if = "is_default")]
    pub go_version: String,
    /// Routes that the machine offers; an exit node offers `0.0.0.0/0` and `::/0`.
    #[serde(rename = "RoutableIPs", skip_serializing_if = "is_default")]
    pub routable_ips: Vec<IpNet>,
    #[serde(skip_serializing_if = "is_default")]
    pub request_tags: Vec<String>,
    #[serde(rename = "WoLMACs", skip_serializing_if = "is_default")]
    pub wol_macs: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub services: Vec<Service>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_info: Option<NetInfo>,
    /// Lines of `authorized_keys`; not empty means that the machine runs its SSH server.
    #[serde(rename = "sshHostKeys", skip_serializing_if = "is_default")]
    pub ssh_host_keys: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub cloud: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub userspace: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub userspace_router: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_connector: Option<bool>,
    /// Changes when the services that it hosts change (control.md §5.13).
    #[serde(skip_serializing_if = "is_default")]
    pub services_hash: String,
    /// Willing to be a UDP relay for peers.
    #[serde(skip_serializing_if = "is_default")]
    pub peer_relay: bool,
    /// The exit node in use.
    #[serde(rename = "ExitNodeID", skip_serializing_if = "is_default")]
    pub exit_node_id: StableNodeId,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<Location>,
    #[serde(rename = "TPM", skip_serializing_if = "Option::is_none")]
    pub tpm: Option<TpmInfo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_encrypted: Option<bool>,
}

/// A port that a machine offers. Peers need the `peerapi…` entries.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Service {
    /// `tcp`, `udp`, `peerapi4`, `peerapi6`, `peerapi-dns-proxy`, `egg`.
    pub proto: String,
    pub port: u16,
    #[serde(skip_serializing_if = "is_default")]
    pub description: String,
}

/// What a machine found out about its network.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct NetInfo {
    #[serde(rename = "MappingVariesByDestIP", skip_serializing_if = "Option::is_none")]
    pub mapping_varies_by_dest_ip: Option<bool>,
    #[serde(rename = "WorkingIPv6", skip_serializing_if = "Option::is_none")]
    pub working_ipv6: Option<bool>,
    #[serde(rename = "OSHasIPv6", skip_serializing_if = "Option::is_none")]
    pub os_has_ipv6: Option<bool>,
    #[serde(rename = "WorkingUDP", skip_serializing_if = "Option::is_none")]
    pub working_udp: Option<bool>,
    #[serde(rename = "WorkingICMPv4", skip_serializing_if = "Option::is_none")]
    pub working_icmpv4: Option<bool>,
    #[serde(skip_serializing_if = "is_default")]
    pub have_port_map: bool,
    #[serde(rename = "UPnP", skip_serializing_if = "Option::is_none")]
    pub upnp: Option<bool>,
    #[serde(rename = "PMP", skip_serializing_if = "Option::is_none")]
    pub pmp: Option<bool>,
    #[serde(rename = "PCP", skip_serializing_if = "Option::is_none")]
    pub pcp: Option<bool>,
    /// The home region; 0 is unknown.
    #[serde(rename = "PreferredDERP", skip_serializing_if = "is_default")]
    pub preferred_derp: RegionId,
    /// `wired`, `wifi`, `mobile`.
    #[serde(skip_serializing_if = "is_default")]
    pub link_type: String,
    /// Seconds by `<region>-v4` or `<region>-v6`.
    #[serde(rename = "DERPLatency", skip_serializing_if = "is_default")]
    pub derp_latency: BTreeMap<String, f64>,
    /// `nft-…` or `ipt-…`.
    #[serde(skip_serializing_if = "is_default")]
    pub firewall_mode: String,
}

/// Where a machine stands.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Location {
    #[serde(skip_serializing_if = "is_default")]
    pub country: String,
    #[serde(skip_serializing_if = "is_default")]
    pub country_code: String,
    #[serde(skip_serializing_if = "is_default")]
    pub city: String,
    #[serde(skip_serializing_if = "is_default")]
    pub city_code: String,
    #[serde(skip_serializing_if = "is_default")]
    pub latitude: f64,
    #[serde(skip_serializing_if = "is_default")]
    pub longitude: f64,
    /// Of several exit nodes in one place the highest is taken.
    #[serde(skip_serializing_if = "is_default")]
    pub priority: i64,
}

/// A machine's security chip.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct TpmInfo {
    #[serde(skip_serializing_if = "is_default")]
    pub manufacturer: String,
    #[serde(skip_serializing_if = "is_default")]
    pub vendor: String,
    #[serde(skip_serializing_if = "is_default")]
    pub model: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub firmware_version: u64,
    #[serde(skip_serializing_if = "is_default")]
    pub spec_revision: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub family_indicator: String,
}

//! A node as the server tells it (control.md §5.6).

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use sw_types::{CapVer, DiscoKey, MachineKey, NodeId, NodeKey, RegionId, StableNodeId, UnixTime, UserId};

use crate::dns::Resolver;
use crate::filter::CapMap;
use crate::hostinfo::Hostinfo;
use crate::wire::{Base64, addr_ports, go_time, is_default};

/// The node that asks, or one of its peers.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Node {
    /// Unique, above 0, never reused.
    #[serde(rename = "ID")]
    pub id: NodeId,
    #[serde(rename = "StableID")]
    pub stable_id: StableNodeId,
    /// The whole name **with trailing dot**; all nodes of a network share its suffix.
    pub name: String,
    pub user: UserId,
    #[serde(skip_serializing_if = "is_default")]
    pub sharer: UserId,
    pub key: NodeKey,
    /// `None` is never.
    #[serde(with = "go_time", skip_serializing_if = "Option::is_none")]
    pub key_expiry: Option<UnixTime>,
    #[serde(skip_serializing_if = "is_default")]
    pub key_signature: Base64,
    #[serde(skip_serializing_if = "is_default")]
    pub machine: MachineKey,
    #[serde(skip_serializing_if = "is_default")]
    pub disco_key: DiscoKey,
    /// The node's own addresses as /32 and /128: one IPv4, then one IPv6, since the official Rust client takes
    /// nothing else (control.md §8.3).
    pub addresses: Vec<IpNet>,
    /// Addresses and the routes it serves. `None` is the same as `addresses` for capability versions from 112.
    #[serde(rename = "AllowedIPs", skip_serializing_if = "Option::is_none")]
    pub allowed_ips: Option<Vec<IpNet>>,
    /// What cannot be read is left out.
    #[serde(deserialize_with = "addr_ports", skip_serializing_if = "is_default")]
    pub endpoints: Vec<SocketAddr>,
    /// The home region for capability versions below 111: `127.3.3.40:REGION`.
    #[serde(rename = "DERP", skip_serializing_if = "is_default")]
    pub derp: String,
    /// The home region; 0 is unknown. [`Self::home_region`] reads the old form too.
    #[serde(rename = "HomeDERP", skip_serializing_if = "is_default")]
    pub home_derp: RegionId,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostinfo: Option<Arc<Hostinfo>>,
    #[serde(with = "go_time", skip_serializing_if = "Option::is_none")]
    pub created: Option<UnixTime>,
    /// The version of the node's last map request.
    #[serde(skip_serializing_if = "is_default")]
    pub cap: CapVer,
    #[serde(skip_serializing_if = "is_default")]
    pub tags: Vec<String>,
    /// Subnet routes that go through this node now.
    #[serde(skip_serializing_if = "is_default")]
    pub primary_routes: Vec<IpNet>,
    /// Only of a node that is offline.
    #[serde(with = "go_time", skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<UnixTime>,
    /// `None` is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub online: Option<bool>,
    /// Must be true on the node itself, or it waits for approval.
    #[serde(skip_serializing_if = "is_default")]
    pub machine_authorized: bool,
    /// Old form of the keys of `cap_map`.
    #[serde(skip_serializing_if = "is_default")]
    pub capabilities: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub cap_map: CapMap,
    /// Not signed under tailnet lock; may be reached, but reaches nothing but the peer API.
    #[serde(rename = "UnsignedPeerAPIOnly", skip_serializing_if = "is_default")]
    pub unsigned_peer_api_only: bool,
    #[serde(rename = "DataPlaneAuditLogID", skip_serializing_if = "is_default")]
    pub data_plane_audit_log_id: String,
    #[serde(skip_serializing_if = "is_default")]
    pub expired: bool,
    /// The IPv4 address under which this peer knows us.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub self_node_v4_masq_addr_for_this_peer: Option<Ipv4Addr>,
    /// The IPv6 address under which this peer knows us.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub self_node_v6_masq_addr_for_this_peer: Option<Ipv6Addr>,
    /// A plain WireGuard peer without path discovery or relay.
    #[serde(skip_serializing_if = "is_default")]
    pub is_wire_guard_only: bool,
    /// May not open connections to us.
    #[serde(skip_serializing_if = "is_default")]
    pub is_jailed: bool,
    #[serde(rename = "ExitNodeDNSResolvers", skip_serializing_if = "is_default")]
    pub exit_node_dns_resolvers: Vec<Resolver>,
}

impl Node {
    /// What the `DERP` field begins with.
    const OLD_DERP_PREFIX: &str = "127.3.3.40:";

    /// The home region, from `home_derp` or the old form; `None` when it is unknown.
    pub fn home_region(&self) -> Option<RegionId> {
        if !self.home_derp.is_zero() {
            return Some(self.home_derp);
        }
        let old = self.derp.strip_prefix(Self::OLD_DERP_PREFIX)?.parse::<RegionId>().ok()?;
        (!old.is_zero()).then_some(old)
    }

    /// The old form of a home region, for capability versions below 111.
    pub fn old_derp(region: RegionId) -> String {
        format!("{}{region}", Self::OLD_DERP_PREFIX)
    }

    /// The prefixes that this node may send from: `allowed_ips`, or its own addresses.
    pub fn effective_allowed_ips(&self) -> &[IpNet] {
        self.allowed_ips.as_deref().unwrap_or(&self.addresses)
    }

    /// Returns true when the node has this attribute, in the new form or the old one.
    pub fn has_cap(&self, cap: &str) -> bool {
        self.cap_map.contains_key(cap) || self.capabilities.iter().any(|known| known == cap)
    }
}

//! The map response: a full map or what changed in it (control.md §5.2).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sw_types::{CapVer, DiscoKey, NodeId, NodeKey, RegionId, UnixTime, UserId};

use crate::c2n::PingRequest;
use crate::derp_map::DerpMap;
use crate::dns::DnsConfig;
use crate::filter::{CapMap, FilterRule};
use crate::node::Node;
use crate::ssh::SshPolicy;
use crate::wire::{Base64, go_time, is_default, open_words, optional_addr_ports};

/// One message of a map stream. What is absent is unchanged; where absent and empty differ the type is an `Option`.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct MapResponse {
    /// First message only; opaque.
    #[serde(skip_serializing_if = "is_default")]
    pub map_session_handle: String,
    #[serde(skip_serializing_if = "is_default")]
    pub seq: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub keep_alive: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ping_request: Option<PingRequest>,
    /// To be opened once.
    #[serde(rename = "PopBrowserURL", skip_serializing_if = "is_default")]
    pub pop_browser_url: String,
    /// The node that asks. The first message that is no keep-alive must have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<Box<Node>>,
    #[serde(rename = "DERPMap", skip_serializing_if = "Option::is_none")]
    pub derp_map: Option<DerpMap>,
    /// If not empty, the complete list, sorted by id. **Empty is "no change"**; never written then, since the
    /// official Rust client takes `[]` as "all gone" (control.md §8.3).
    #[serde(skip_serializing_if = "is_default")]
    pub peers: Vec<Arc<Node>>,
    /// Whole nodes that are new or changed, sorted by id.
    #[serde(skip_serializing_if = "is_default")]
    pub peers_changed: Vec<Arc<Node>>,
    #[serde(skip_serializing_if = "is_default")]
    pub peers_removed: Vec<NodeId>,
    #[serde(skip_serializing_if = "is_default")]
    pub peers_changed_patch: Vec<PeerChange>,
    /// True: seen now; false: not known when.
    #[serde(skip_serializing_if = "is_default")]
    pub peer_seen_change: BTreeMap<NodeId, bool>,
    #[serde(skip_serializing_if = "is_default")]
    pub online_change: BTreeMap<NodeId, bool>,
    #[serde(rename = "DNSConfig", skip_serializing_if = "Option::is_none")]
    pub dns_config: Option<DnsConfig>,
    /// The network's name as shown; empty is unchanged.
    #[serde(skip_serializing_if = "is_default")]
    pub domain: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collect_services: Option<bool>,
    /// Replaces the filter named `base`; `[]` lets nothing in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packet_filter: Option<Vec<FilterRule>>,
    /// Filters by name, applied after `packet_filter`: `None` deletes that one, the name `*` with `None` clears all
    /// first. What counts is the union.
    #[serde(skip_serializing_if = "is_default")]
    pub packet_filters: BTreeMap<String, Option<Vec<FilterRule>>>,
    #[serde(skip_serializing_if = "is_default")]
    pub user_profiles: Vec<UserProfile>,
    /// Old form of `display_messages`; `[]` is "all well".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<Vec<String>>,
    /// Messages by id: `None` deletes that one, the id `*` with `None` clears all first.
    #[serde(skip_serializing_if = "is_default")]
    pub display_messages: BTreeMap<String, Option<DisplayMessage>>,
    #[serde(rename = "SSHPolicy", skip_serializing_if = "Option::is_none")]
    pub ssh_policy: Option<SshPolicy>,
    #[serde(with = "go_time", skip_serializing_if = "Option::is_none")]
    pub control_time: Option<UnixTime>,
    #[serde(rename = "TKAInfo", skip_serializing_if = "Option::is_none")]
    pub tka_info: Option<TkaInfo>,
    #[serde(rename = "DomainDataPlaneAuditLogID", skip_serializing_if = "is_default")]
    pub domain_data_plane_audit_log_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub debug: Option<Debug>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control_dial_plan: Option<ControlDialPlan>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_version: Option<ClientVersion>,
    /// Deprecated in favour of the attribute `default-auto-update`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_auto_update: Option<bool>,
}

/// A small change of one peer (control.md §5.5). Ids that are not known are ignored.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct PeerChange {
    #[serde(rename = "NodeID")]
    pub node_id: NodeId,
    /// The new home region unless 0.
    #[serde(rename = "DERPRegion", skip_serializing_if = "is_default")]
    pub derp_region: RegionId,
    #[serde(skip_serializing_if = "is_default")]
    pub cap: CapVer,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cap_map: Option<CapMap>,
    /// What cannot be read is left out.
    #[serde(deserialize_with = "optional_addr_ports", skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<Vec<SocketAddr>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<NodeKey>,
    #[serde(skip_serializing_if = "is_default")]
    pub key_signature: Base64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disco_key: Option<DiscoKey>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub online: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<UnixTime>,
    /// Go's zero time is "never again".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_expiry: Option<UnixTime>,
}

/// What is shown of a user (control.md §5.7).
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct UserProfile {
    #[serde(rename = "ID")]
    pub id: UserId,
    pub login_name: String,
    pub display_name: String,
    #[serde(rename = "ProfilePicURL", skip_serializing_if = "is_default")]
    pub profile_pic_url: String,
    #[serde(skip_serializing_if = "is_default")]
    pub groups: Vec<String>,
}

/// State of tailnet lock as the server knows it.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct TkaInfo {
    /// Hash of the newest update, base32.
    #[serde(skip_serializing_if = "is_default")]
    pub head: String,
    #[serde(skip_serializing_if = "is_default")]
    pub disabled: bool,
}

/// Orders for the client, obeyed before the rest of the message.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Debug {
    /// Seconds to wait before going on, at most 300.
    #[serde(skip_serializing_if = "is_default")]
    pub sleep_seconds: f64,
    /// Keeps official clients from sending their logs to their maker. To be set in every first map.
    #[serde(skip_serializing_if = "is_default")]
    pub disable_log_tail: bool,
    /// Ends the client's process with this code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit: Option<i32>,
}

/// Hint at a newer version of the program.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ClientVersion {
    #[serde(skip_serializing_if = "is_default")]
    pub running_latest: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub latest_version: String,
    #[serde(skip_serializing_if = "is_default")]
    pub urgent_security_update: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub notify: bool,
    #[serde(rename = "NotifyURL", skip_serializing_if = "is_default")]
    pub notify_url: String,
    #[serde(skip_serializing_if = "is_default")]
    pub notify_text: String,
}

/// Addresses at which the server can be dialled besides DNS (control.md §5.16). Empty is DNS.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ControlDialPlan {
    pub candidates: Vec<ControlIpCandidate>,
}

/// One address to dial.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ControlIpCandidate {
    #[serde(rename = "IP", skip_serializing_if = "Option::is_none")]
    pub ip: Option<IpAddr>,
    /// A proxy that takes HTTPS CONNECT.
    #[serde(rename = "ACEHost", skip_serializing_if = "is_default")]
    pub ace_host: String,
    /// Seconds to wait before dialling.
    #[serde(rename = "DialStartDelaySec", skip_serializing_if = "is_default")]
    pub dial_start_delay_sec: f64,
    /// Seconds; 0 times out at once, so it is always set.
    #[serde(rename = "DialTimeoutSec", skip_serializing_if = "is_default")]
    pub dial_timeout_sec: f64,
    #[serde(skip_serializing_if = "is_default")]
    pub priority: i64,
}

open_words! {
    /// How much a [`DisplayMessage`] matters.
    Severity {
        High = "high",
        #[default]
        Medium = "medium",
        Low = "low",
    }
}

/// A message for the user (control.md §5.12).
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct DisplayMessage {
    pub title: String,
    pub text: String,
    pub severity: Severity,
    #[serde(skip_serializing_if = "is_default")]
    pub impacts_connectivity: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub primary_action: Option<DisplayMessageAction>,
}

/// What the user can do about it.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct DisplayMessageAction {
    #[serde(rename = "URL")]
    pub url: String,
    pub label: String,
}

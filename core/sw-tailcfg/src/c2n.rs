//! Pings, and what the server asks of nodes through them (control.md §5.13, §5.15).

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use sw_types::RegionId;

use crate::wire::{Base64, is_default};

/// An order to ping something, or to run the request in `payload`.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct PingRequest {
    /// Where to answer; each is used once.
    #[serde(rename = "URL")]
    pub url: String,
    /// Always written: the official Rust client ends the stream without it (control.md §8.3).
    #[serde(rename = "URLIsNoise")]
    pub url_is_noise: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub log: bool,
    /// Comma list of `disco`, `TSMP`, `ICMP`, `peerapi`, or `c2n`. Always written, as above.
    pub types: String,
    #[serde(rename = "IP", skip_serializing_if = "Option::is_none")]
    pub ip: Option<IpAddr>,
    /// A whole HTTP/1.1 request, for `c2n`.
    #[serde(skip_serializing_if = "is_default")]
    pub payload: Base64,
}

/// Result of a ping, for each type one.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct PingResponse {
    pub r#type: String,
    #[serde(rename = "IP", skip_serializing_if = "is_default")]
    pub ip: String,
    #[serde(rename = "NodeIP", skip_serializing_if = "is_default")]
    pub node_ip: String,
    #[serde(skip_serializing_if = "is_default")]
    pub node_name: String,
    #[serde(skip_serializing_if = "is_default")]
    pub err: String,
    #[serde(skip_serializing_if = "is_default")]
    pub latency_seconds: f64,
    #[serde(skip_serializing_if = "is_default")]
    pub endpoint: String,
    #[serde(skip_serializing_if = "is_default")]
    pub peer_relay: String,
    #[serde(rename = "DERPRegionID", skip_serializing_if = "is_default")]
    pub derp_region_id: RegionId,
    #[serde(rename = "DERPRegionCode", skip_serializing_if = "is_default")]
    pub derp_region_code: String,
    #[serde(rename = "PeerAPIPort", skip_serializing_if = "is_default")]
    pub peer_api_port: u16,
    #[serde(rename = "IsLocalIP", skip_serializing_if = "is_default")]
    pub is_local_ip: bool,
}

/// Answer to `GET /vip-services`.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct VipServices {
    #[serde(rename = "VIPServices", skip_serializing_if = "is_default")]
    pub vip_services: Vec<VipService>,
    pub services_hash: String,
}

/// A service that a node hosts.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct VipService {
    /// `svc:NAME`.
    pub name: String,
    /// `*`, `80`, `80-90`, `tcp:443`, `udp:*`.
    pub ports: Vec<String>,
    pub active: bool,
}

/// Answer to `/update`.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct C2nUpdate {
    #[serde(skip_serializing_if = "is_default")]
    pub err: String,
    pub enabled: bool,
    pub supported: bool,
    pub started: bool,
}

/// Answer to `GET /posture/identity`.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct PostureIdentity {
    #[serde(skip_serializing_if = "is_default")]
    pub serial_numbers: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub iface_hardware_addrs: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub posture_disabled: bool,
}

/// Answer to `GET /appconnector/routes`.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct AppConnectorRoutes {
    pub domains: std::collections::BTreeMap<String, Vec<IpAddr>>,
}

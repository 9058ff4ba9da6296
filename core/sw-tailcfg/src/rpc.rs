//! The smaller calls (control.md §2).

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sw_types::{CapVer, NodeKey, Secret, UnixTime};

use crate::wire::{go_time, is_default};

/// Body of `POST /machine/set-dns`: a record that proves a name to a certificate authority.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct SetDnsRequest {
    pub version: CapVer,
    pub node_key: NodeKey,
    /// `_acme-challenge.NAME`.
    pub name: String,
    /// `TXT`.
    pub r#type: String,
    pub value: String,
}

/// Answer to it.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SetDnsResponse {}

/// Body of `POST /machine/update-health` (older clients); accepted and ignored.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct HealthChangeRequest {
    pub subsys: String,
    /// Empty when the problem is gone.
    pub error: String,
    pub node_key: NodeKey,
}

/// Body of `PATCH /machine/set-device-attr`.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct SetDeviceAttributesRequest {
    pub version: CapVer,
    pub node_key: NodeKey,
    /// String, number, bool, or `null` to delete.
    pub update: BTreeMap<String, Value>,
}

/// Body of `POST /machine/audit-log`.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct AuditLogRequest {
    pub version: CapVer,
    pub node_key: NodeKey,
    /// `DISCONNECT_NODE`.
    pub action: String,
    pub details: String,
    #[serde(with = "go_time")]
    pub timestamp: Option<UnixTime>,
}

/// Body of `POST /machine/id-token`.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct TokenRequest {
    pub cap_version: CapVer,
    pub node_key: NodeKey,
    pub audience: String,
}

/// Answer to it: a signed token.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TokenResponse {
    #[serde(serialize_with = "sw_types::serialize_exposed")]
    pub id_token: Secret<String>,
}

/// Body of `POST /machine/feature/query`.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct QueryFeatureRequest {
    /// `serve`, `funnel`.
    pub feature: String,
    pub node_key: NodeKey,
}

/// Answer to it.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct QueryFeatureResponse {
    /// The feature is on already.
    #[serde(skip_serializing_if = "is_default")]
    pub complete: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub text: String,
    #[serde(rename = "URL", skip_serializing_if = "is_default")]
    pub url: String,
    #[serde(skip_serializing_if = "is_default")]
    pub should_wait: bool,
}

/// Answer to `/machine/webclient/init` and `/wait`.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct WebClientAuthResponse {
    #[serde(rename = "ID", skip_serializing_if = "is_default")]
    pub id: String,
    #[serde(rename = "URL", skip_serializing_if = "is_default")]
    pub url: String,
    #[serde(skip_serializing_if = "is_default")]
    pub complete: bool,
}

/// Body of `POST /verify`, by which a relay asks whether to admit a client.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct DerpAdmitRequest {
    pub node_public: NodeKey,
    pub source: Option<IpAddr>,
}

/// Answer to it.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct DerpAdmitResponse {
    pub allow: bool,
}

//! Tailnet-lock calls (keys.md §4.4). Updates and signatures travel as base64 of their CBOR bytes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sw_types::{CapVer, NodeId, NodeKey, Secret};

use crate::wire::{Base64, is_default, secret_base64};

/// `/machine/tka/init/begin`: a node proposes to switch the lock on.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct TkaInitBeginRequest {
    pub version: CapVer,
    pub node_key: NodeKey,
    #[serde(rename = "GenesisAUM")]
    pub genesis_aum: Base64,
}

/// Which nodes need a signature before it can be on.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct TkaInitBeginResponse {
    pub need_signatures: Vec<TkaSignInfo>,
}

/// A node that needs a signature.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct TkaSignInfo {
    #[serde(rename = "NodeID")]
    pub node_id: NodeId,
    pub node_public: NodeKey,
    /// The node's own lock key, 32 bytes.
    pub rotation_pubkey: Base64,
}

/// `/machine/tka/init/finish`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct TkaInitFinishRequest {
    pub version: CapVer,
    pub node_key: NodeKey,
    pub signatures: BTreeMap<NodeId, Base64>,
    /// A disablement secret for the maker's support to keep.
    #[serde(with = "secret_base64", skip_serializing_if = "secret_base64::is_empty")]
    pub support_disablement: Secret<Vec<u8>>,
}

/// `/machine/tka/bootstrap`: the node's idea of the lock differs from the server's.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct TkaBootstrapRequest {
    pub version: CapVer,
    pub node_key: NodeKey,
    /// Empty while the lock is off here.
    pub head: String,
}

/// How to switch it on or off.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct TkaBootstrapResponse {
    #[serde(rename = "GenesisAUM", skip_serializing_if = "is_default")]
    pub genesis_aum: Base64,
    #[serde(with = "secret_base64", skip_serializing_if = "secret_base64::is_empty")]
    pub disablement_secret: Secret<Vec<u8>>,
}

/// `/machine/tka/sync/offer`: what the node has.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct TkaSyncOfferRequest {
    pub version: CapVer,
    pub node_key: NodeKey,
    pub head: String,
    pub ancestors: Vec<String>,
}

/// What the server has, and what the node lacks.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct TkaSyncOfferResponse {
    pub head: String,
    pub ancestors: Vec<String>,
    #[serde(rename = "MissingAUMs")]
    pub missing_aums: Vec<Base64>,
}

/// `/machine/tka/sync/send`: what the server lacks.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct TkaSyncSendRequest {
    pub version: CapVer,
    pub node_key: NodeKey,
    pub head: String,
    #[serde(rename = "MissingAUMs")]
    pub missing_aums: Vec<Base64>,
    pub interactive: bool,
}

/// The head after it.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct TkaSyncSendResponse {
    pub head: String,
}

/// `/machine/tka/disable`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct TkaDisableRequest {
    pub version: CapVer,
    pub node_key: NodeKey,
    pub head: String,
    #[serde(with = "secret_base64")]
    pub disablement_secret: Secret<Vec<u8>>,
}

/// `/machine/tka/sign`: a signature for one node.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct TkaSignRequest {
    pub version: CapVer,
    pub node_key: NodeKey,
    pub signature: Base64,
}

/// The empty answer of `init/finish`, `disable` and `sign`.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TkaEmptyResponse {}

/// `/machine/tka/affected-sigs`: which signatures rest on a key.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct TkaAffectedSigsRequest {
    pub version: CapVer,
    pub node_key: NodeKey,
    #[serde(rename = "KeyID")]
    pub key_id: Base64,
}

/// Those signatures.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct TkaAffectedSigsResponse {
    pub signatures: Vec<Base64>,
}

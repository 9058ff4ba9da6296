//! The map request (control.md §4).

use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sw_types::{CapVer, DiscoKey, HardwareKey, NodeKey, UnixTime};

use crate::hostinfo::Hostinfo;
use crate::wire::{Base64, go_time, is_default, parallel_addr_ports};

/// Body of `POST /machine/map` (control.md §4.1).
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct MapRequest {
    pub version: CapVer,
    /// `zstd` or empty: how the frames of the answer are compressed.
    #[serde(skip_serializing_if = "is_default")]
    pub compress: String,
    #[serde(skip_serializing_if = "is_default")]
    pub keep_alive: bool,
    pub node_key: NodeKey,
    /// Zero when it is not known yet: the server keeps the one before.
    pub disco_key: DiscoKey,
    #[serde(skip_serializing_if = "is_default")]
    pub hardware_attestation_key: HardwareKey,
    #[serde(skip_serializing_if = "is_default")]
    pub hardware_attestation_key_signature: Base64,
    #[serde(with = "go_time", skip_serializing_if = "Option::is_none")]
    pub hardware_attestation_key_signature_timestamp: Option<UnixTime>,
    #[serde(skip_serializing_if = "is_default")]
    pub stream: bool,
    pub hostinfo: Option<Arc<Hostinfo>>,
    #[serde(skip_serializing_if = "is_default")]
    pub map_session_handle: String,
    #[serde(skip_serializing_if = "is_default")]
    pub map_session_seq: i64,
    /// UDP endpoints. What cannot be read stands as `0.0.0.0:0`, so that the types beside it keep their places;
    /// [`Self::usable_endpoints`] leaves such ones out.
    #[serde(deserialize_with = "parallel_addr_ports", skip_serializing_if = "is_default")]
    pub endpoints: Vec<SocketAddr>,
    /// The kind of each of `endpoints`.
    #[serde(skip_serializing_if = "is_default")]
    pub endpoint_types: Vec<EndpointType>,
    /// Head of the node's tailnet-lock chain, base32.
    #[serde(rename = "TKAHead", skip_serializing_if = "is_default")]
    pub tka_head: String,
    /// Dead; official clients send false since capability version 68.
    #[serde(skip_serializing_if = "is_default")]
    pub read_only: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub omit_peers: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub debug_flags: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub connection_handle_for_test: String,
}

/// What a map request asks for (control.md §4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapRequestKind {
    /// Keep the answer open: a full map, then what changes.
    Stream,
    /// Store what the request tells, answer 200 with an empty body.
    LiteUpdate,
    /// Store it and answer one full map.
    OneShot,
}

impl MapRequest {
    /// What is asked for.
    pub const fn kind(&self) -> MapRequestKind {
        match (self.stream, self.omit_peers) {
            (true, _) => MapRequestKind::Stream,
            (false, true) => MapRequestKind::LiteUpdate,
            (false, false) => MapRequestKind::OneShot,
        }
    }

    /// The endpoints that a peer could use, each once, with their kinds: no unspecified, loopback or multicast
    /// address and no port 0 (control.md §4.2).
    pub fn usable_endpoints(&self) -> Vec<(SocketAddr, EndpointType)> {
        let kinds = self.endpoint_types.iter().copied().chain(std::iter::repeat(EndpointType::UNKNOWN));
        let mut usable: Vec<(SocketAddr, EndpointType)> = Vec::new();
        for (&addr, kind) in self.endpoints.iter().zip(kinds) {
            let ip = addr.ip();
            let bad = ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || addr.port() == 0;
            if !bad && !usable.iter().any(|(known, _)| *known == addr) {
                usable.push((addr, kind));
            }
        }
        usable
    }
}

/// How a node knows one of its endpoints (control.md §4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EndpointType(pub i32);

impl EndpointType {
    pub const UNKNOWN: Self = Self(0);
    /// An address of an interface.
    pub const LOCAL: Self = Self(1);
    /// Seen by a STUN server.
    pub const STUN: Self = Self(2);
    /// Mapped by the router on request.
    pub const PORT_MAPPED: Self = Self(3);
    /// The address that STUN saw with the local port: a guess at a hard NAT.
    pub const STUN_LOCAL_PORT: Self = Self(4);
    /// Given by the user.
    pub const EXPLICIT: Self = Self(5);
}

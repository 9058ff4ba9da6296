//! Packet filter rules and capability grants as the server sends them (control.md §5.10).

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::wire::is_default;

/// Attributes or capabilities by name, each with free JSON values; an empty list is "present without data".
pub type CapMap = BTreeMap<String, Vec<Value>>;

/// One rule: either ports that open or capabilities that are granted.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct FilterRule {
    /// An address, a prefix, a range `a-b`, `*`, or `cap:NAME`.
    #[serde(rename = "SrcIPs")]
    pub src_ips: Vec<String>,
    /// Never sent by us: clients then refuse the whole filter.
    #[serde(skip_serializing_if = "is_default")]
    pub src_bits: Vec<i32>,
    #[serde(skip_serializing_if = "is_default")]
    pub dst_ports: Vec<NetPortRange>,
    /// Empty is TCP, UDP, ICMP and ICMPv6. Values outside 0 to 255 are skipped.
    #[serde(rename = "IPProto", skip_serializing_if = "is_default")]
    pub ip_proto: Vec<i64>,
    #[serde(skip_serializing_if = "is_default")]
    pub cap_grant: Vec<CapGrant>,
}

impl FilterRule {
    /// Lets everything in.
    pub fn allow_all() -> Self {
        Self {
            src_ips: vec!["*".to_owned()],
            dst_ports: vec![NetPortRange { ip: "*".to_owned(), ports: PortRange::ANY, ..Default::default() }],
            ..Self::default()
        }
    }
}

/// Ports at a destination.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct NetPortRange {
    /// As in [`FilterRule::src_ips`], without `cap:`.
    #[serde(rename = "IP")]
    pub ip: String,
    /// Never sent by us: clients then refuse the whole filter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bits: Option<i32>,
    pub ports: PortRange,
}

/// Ports from `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct PortRange {
    pub first: u16,
    pub last: u16,
}

impl PortRange {
    /// All ports.
    pub const ANY: Self = Self { first: 0, last: u16::MAX };
}

/// Capabilities that the sources of the rule have at destinations in `dsts`.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct CapGrant {
    pub dsts: Vec<IpNet>,
    /// Old form of the keys of `cap_map`.
    #[serde(skip_serializing_if = "is_default")]
    pub caps: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub cap_map: CapMap,
}

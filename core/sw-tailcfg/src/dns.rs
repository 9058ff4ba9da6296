//! DNS settings (control.md §5.9).

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::wire::is_default;

/// The whole DNS setting; a later one replaces it.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct DnsConfig {
    /// Resolvers for every name, in place of the machine's own.
    #[serde(skip_serializing_if = "is_default")]
    pub resolvers: Vec<Resolver>,
    /// Split DNS by suffix; an empty list is answered by MagicDNS itself.
    #[serde(skip_serializing_if = "is_default")]
    pub routes: BTreeMap<String, Vec<Resolver>>,
    /// Used when split DNS needs an upstream and none is known.
    #[serde(skip_serializing_if = "is_default")]
    pub fallback_resolvers: Vec<Resolver>,
    /// Search domains without trailing dot; the first is the network's own.
    #[serde(skip_serializing_if = "is_default")]
    pub domains: Vec<String>,
    /// MagicDNS is on.
    #[serde(skip_serializing_if = "is_default")]
    pub proxied: bool,
    /// Dead (capability versions 9 to 13).
    #[serde(skip_serializing_if = "is_default")]
    pub nameservers: Vec<IpAddr>,
    /// Names that a certificate can be had for.
    #[serde(skip_serializing_if = "is_default")]
    pub cert_domains: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub extra_records: Vec<DnsRecord>,
    /// Suffixes (with leading dot) and names that an exit node must not answer, lower case.
    #[serde(skip_serializing_if = "is_default")]
    pub exit_node_filtered_set: Vec<String>,
    /// Read and ignored.
    #[serde(rename = "TempCorpIssue13969", skip_serializing_if = "is_default")]
    pub temp_corp_issue_13969: String,
}

/// A DNS resolver.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Resolver {
    /// An address, an address with port, or a URL of DNS over HTTPS.
    #[serde(skip_serializing_if = "is_default")]
    pub addr: String,
    #[serde(skip_serializing_if = "is_default")]
    pub bootstrap_resolution: Vec<IpAddr>,
    /// Stays in use while an exit node is.
    #[serde(skip_serializing_if = "is_default")]
    pub use_with_exit_node: bool,
}

/// A record that MagicDNS answers.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct DnsRecord {
    pub name: String,
    /// Empty: A or AAAA as the value is.
    #[serde(skip_serializing_if = "is_default")]
    pub r#type: String,
    pub value: String,
}

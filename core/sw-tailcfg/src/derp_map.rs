//! The relay map as it travels, and its check (control.md §5.8).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sw_types::{CertCheck, DERP_PORT, RegionId, RelayAddr, RelayMap, RelayNode, RelayRegion, STUN_PORT};

use crate::wire::is_default;

/// Relay regions, or a change of them: what is `None` stays as it was.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct DerpMap {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub home_params: Option<HomeParams>,
    /// If given, the whole set. A region that is `null` is dropped at reading: headscale once sent one.
    #[serde(deserialize_with = "regions", skip_serializing_if = "Option::is_none")]
    pub regions: Option<BTreeMap<RegionId, DerpRegion>>,
    #[serde(rename = "omitDefaultRegions", skip_serializing_if = "is_default")]
    pub omit_default_regions: bool,
}

fn regions<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<BTreeMap<RegionId, DerpRegion>>, D::Error> {
    let regions = Option::<BTreeMap<RegionId, Option<DerpRegion>>>::deserialize(deserializer)?;
    Ok(regions.map(|regions| regions.into_iter().filter_map(|(id, region)| Some((id, region?))).collect()))
}

/// How the home region is chosen.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct HomeParams {
    /// Factor on the latency of a region; `None` is unchanged, empty is a reset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region_score: Option<BTreeMap<RegionId, f64>>,
}

/// Relays that are meshed with one another.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct DerpRegion {
    #[serde(rename = "RegionID")]
    pub region_id: RegionId,
    pub region_code: String,
    pub region_name: String,
    #[serde(skip_serializing_if = "is_default")]
    pub latitude: f64,
    #[serde(skip_serializing_if = "is_default")]
    pub longitude: f64,
    /// Deprecated.
    #[serde(skip_serializing_if = "is_default")]
    pub avoid: bool,
    /// Never measured nor a home (capability versions from 115).
    #[serde(skip_serializing_if = "is_default")]
    pub no_measure_no_home: bool,
    /// In order of preference.
    pub nodes: Vec<DerpNode>,
}

/// One relay.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct DerpNode {
    /// Unique, for example `900a`.
    pub name: String,
    #[serde(rename = "RegionID")]
    pub region_id: RegionId,
    pub host_name: String,
    /// Name in the certificate, or `sha256-raw:HEX` of a certificate.
    #[serde(skip_serializing_if = "is_default")]
    pub cert_name: String,
    /// An address, `none`, or empty: ask DNS.
    #[serde(rename = "IPv4", skip_serializing_if = "is_default")]
    pub ipv4: String,
    #[serde(rename = "IPv6", skip_serializing_if = "is_default")]
    pub ipv6: String,
    /// 0 is 3478, -1 is none.
    #[serde(rename = "STUNPort", skip_serializing_if = "is_default")]
    pub stun_port: i32,
    #[serde(rename = "STUNOnly", skip_serializing_if = "is_default")]
    pub stun_only: bool,
    /// 0 is 443.
    #[serde(rename = "DERPPort", skip_serializing_if = "is_default")]
    pub derp_port: i32,
    #[serde(skip_serializing_if = "is_default")]
    pub insecure_for_tests: bool,
    #[serde(rename = "STUNTestIP", skip_serializing_if = "is_default")]
    pub stun_test_ip: String,
    #[serde(skip_serializing_if = "is_default")]
    pub can_port80: bool,
}

/// Why a part of a relay map is not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DerpMapProblem {
    #[error("region {key} has number {inside} inside, or 0")]
    RegionId { key: RegionId, inside: RegionId },
    #[error("relay {node} has an address that is none")]
    Address { node: String },
    #[error("relay {node} has port {port}")]
    Port { node: String, port: i32 },
    #[error("relay {node} pins its certificate by a hash that is none")]
    CertificateHash { node: String },
    #[error("relay {node} has no host name")]
    NoHostName { node: String },
    #[error("region {region} has a score that is not above 0")]
    Score { region: RegionId },
}

impl DerpMap {
    /// What a certificate name of a pinned certificate begins with.
    pub const CERT_HASH_PREFIX: &str = "sha256-raw:";

    /// Takes over what `update` gives and keeps the rest.
    pub fn apply(&mut self, update: Self) {
        if let Some(score) = update.home_params.and_then(|params| params.region_score) {
            self.home_params = Some(HomeParams { region_score: Some(score) });
        }
        if update.regions.is_some() {
            self.regions = update.regions;
            self.omit_default_regions = update.omit_default_regions;
        }
    }

    /// Checks the map. What is wrong is left out and told: one bad relay must not cost the others.
    pub fn check(&self) -> (RelayMap, Vec<DerpMapProblem>) {
        let mut map = RelayMap::default();
        let mut problems = Vec::new();
        for (&key, region) in self.regions.iter().flatten() {
            if key.is_zero() || region.region_id != key {
                problems.push(DerpMapProblem::RegionId { key, inside: region.region_id });
                continue;
            }
            let mut nodes = Vec::new();
            for node in &region.nodes {
                match node.check() {
                    Ok(node) => nodes.push(node),
                    Err(problem) => problems.push(problem),
                }
            }
            let region = RelayRegion {
                id: key,
                code: region.region_code.clone(),
                name: region.region_name.clone(),
                no_measure_no_home: region.no_measure_no_home,
                nodes,
            };
            map.regions.insert(key, region);
        }
        for (&region, &score) in self.home_params.iter().flat_map(|params| &params.region_score).flatten() {
            if score.is_finite() && score > 0.0 {
                map.region_score.insert(region, score);
            } else {
                problems.push(DerpMapProblem::Score { region });
            }
        }
        (map, problems)
    }
}

impl DerpNode {
    fn check(&self) -> Result<RelayNode, DerpMapProblem> {
        if self.host_name.is_empty() {
            return Err(DerpMapProblem::NoHostName { node: self.name.clone() });
        }
        let stun_test_ip: RelayAddr<IpAddr> = self.address(&self.stun_test_ip)?;
        Ok(RelayNode {
            name: self.name.clone(),
            host_name: self.host_name.clone(),
            cert: self.certificate()?,
            ipv4: self.address::<Ipv4Addr>(&self.ipv4)?,
            ipv6: self.address::<Ipv6Addr>(&self.ipv6)?,
            stun_port: match self.stun_port {
                -1 => None,
                0 => Some(STUN_PORT),
                port => Some(self.port(port)?),
            },
            stun_only: self.stun_only,
            derp_port: if self.derp_port == 0 { DERP_PORT } else { self.port(self.derp_port)? },
            insecure_for_tests: self.insecure_for_tests,
            stun_test_ip: stun_test_ip.fixed(),
            can_port_80: self.can_port80,
        })
    }

    fn address<A: FromStr>(&self, text: &str) -> Result<RelayAddr<A>, DerpMapProblem> {
        match text {
            "" => Ok(RelayAddr::Resolve),
            "none" => Ok(RelayAddr::Disabled),
            _ => match text.parse() {
                Ok(addr) => Ok(RelayAddr::Fixed(addr)),
                Err(_) => Err(DerpMapProblem::Address { node: self.name.clone() }),
            },
        }
    }

    fn port(&self, port: i32) -> Result<u16, DerpMapProblem> {
        u16::try_from(port).map_err(|_| DerpMapProblem::Port { node: self.name.clone(), port })
    }

    fn certificate(&self) -> Result<CertCheck, DerpMapProblem> {
        if self.cert_name.is_empty() {
            return Ok(CertCheck::HostName);
        }
        let Some(hex) = self.cert_name.strip_prefix(DerpMap::CERT_HASH_PREFIX) else {
            return Ok(CertCheck::Name(self.cert_name.clone()));
        };
        // A hash that cannot be read must never become "any certificate".
        hash_from_hex(hex)
            .map(CertCheck::Sha256)
            .ok_or_else(|| DerpMapProblem::CertificateHash { node: self.name.clone() })
    }
}

fn hash_from_hex(hex: &str) -> Option<[u8; 32]> {
    let digits: &[u8; 64] = hex.as_bytes().try_into().ok()?;
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(digits.as_chunks::<2>().0) {
        let digit = |place: u8| char::from(place).to_digit(16);
        *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{BODY_MAX, decode_answer};

    fn map(text: &str) -> DerpMap {
        decode_answer(text.as_bytes(), BODY_MAX).expect("the map is read")
    }

    #[test]
    fn ports_addresses_and_certificates_are_checked() {
        let hash = "ab".repeat(32);
        let (checked, problems) = map(&format!(
            r#"{{"HomeParams":{{"RegionScore":{{"900":0.5,"901":0,"902":-1}}}},"Regions":{{"900":{{"RegionID":900,"Nodes":[
            {{"Name":"a","HostName":"a.example"}},
            {{"Name":"b","HostName":"b.example","STUNPort":-1,"DERPPort":8443,"IPv4":"none","IPv6":"::1","CertName":"sha256-raw:{hash}"}},
            {{"Name":"c","HostName":"c","CertName":"sha256-raw:00"}},
            {{"Name":"d","HostName":"d","IPv4":"::1"}},
            {{"Name":"e","HostName":"e","STUNPort":65536}},
            {{"Name":"f","HostName":"f","DERPPort":-1}},
            {{"Name":"g"}}]}},
            "901":{{"RegionID":902}},"0":{{}},"903":null}}}}"#
        ))
        .check();
        assert_eq!(problems.len(), 9, "{problems:#?}");
        assert_eq!(checked.regions.len(), 1);
        assert_eq!(checked.region_score, BTreeMap::from([(RegionId(900), 0.5)]));
        let nodes = &checked.regions[&RegionId(900)].nodes;
        assert_eq!(nodes.len(), 2);
        assert_eq!((nodes[0].stun_port, nodes[0].derp_port), (Some(3478), 443));
        assert_eq!((nodes[0].ipv4, &nodes[0].cert), (RelayAddr::Resolve, &CertCheck::HostName));
        assert_eq!((nodes[1].stun_port, nodes[1].derp_port), (None, 8443));
        assert_eq!((nodes[1].ipv4, nodes[1].ipv6.fixed()), (RelayAddr::Disabled, Some(Ipv6Addr::LOCALHOST)));
        assert_eq!(nodes[1].cert, CertCheck::Sha256([0xab; 32]));
    }

    #[test]
    fn an_update_changes_only_what_it_names() {
        let mut derp = map(r#"{"Regions":{"1":{"RegionID":1}},"omitDefaultRegions":true}"#);
        derp.apply(map(r#"{"HomeParams":{"RegionScore":{"1":2}}}"#));
        assert_eq!(derp.regions.as_ref().map(BTreeMap::len), Some(1));
        assert!(derp.omit_default_regions);
        derp.apply(map(r#"{"HomeParams":{},"Regions":{}}"#));
        assert_eq!(derp.check().0.regions.len(), 0);
        assert_eq!(derp.check().0.score(RegionId(1)), 2.0);
        derp.apply(map(r#"{"HomeParams":{"RegionScore":{}}}"#));
        assert_eq!(derp.check().0.score(RegionId(1)), 1.0);
    }
}

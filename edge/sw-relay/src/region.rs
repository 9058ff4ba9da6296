//! What the DERP map says of a relay.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use sw_net::tls::CertHash;
use sw_tailcfg::{DerpMap, DerpNode, DerpRegion};
use sw_types::{HTTPS_PORT, RegionId, STUN_PORT};

/// Region of a network's own relay (architecture.md §10.1).
pub const OWN_REGION: RegionId = RegionId(900);

/// How clients reach a relay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RelayPlace {
    /// Names and addresses that clients may use, the best first.
    pub hosts: Vec<String>,
    /// TCP port of DERP.
    pub derp_port: u16,
    /// UDP ports that answer STUN, the best first. A second one lets clients tell hard NAT from easy.
    pub stun_ports: Vec<u16>,
    /// Hash of the self-signed certificate; absent where a public one is shown.
    pub cert_sha256: Option<String>,
    /// Whether TCP port 80 answers captive-portal checks.
    pub can_port_80: bool,
}

/// Makes the region of the map: a node per host, then one per further STUN port (architecture.md §10.3).
///
/// WHY the further ones are whole relays and not `STUNOnly`: it is the same relay, and programs that take any one node of a
/// region (`tailcat` does) find it in each.
#[must_use]
pub fn derp_region(id: RegionId, code: &str, name: &str, place: &RelayPlace) -> DerpRegion {
    let mut nodes = Vec::new();
    let mut names = ('a'..='z').map(|letter| format!("{id}{letter}"));
    let mut node = |host: &str, stun_port: Option<u16>| {
        let Some(name) = names.next() else { return };
        nodes.push(one_node(id, name, host, stun_port, place));
    };
    let first_stun = place.stun_ports.first().copied();
    for host in &place.hosts {
        node(host, first_stun);
    }
    for port in place.stun_ports.iter().skip(1) {
        if let Some(host) = place.hosts.first() {
            node(host, Some(*port));
        }
    }
    DerpRegion {
        region_id: id,
        region_code: code.to_owned(),
        region_name: name.to_owned(),
        nodes,
        ..DerpRegion::default()
    }
}

/// A map with this region alone.
#[must_use]
pub fn derp_map(region: DerpRegion) -> DerpMap {
    DerpMap {
        regions: Some([(region.region_id, region)].into()),
        omit_default_regions: true,
        ..DerpMap::default()
    }
}

fn one_node(
    region_id: RegionId,
    name: String,
    host: &str,
    stun_port: Option<u16>,
    place: &RelayPlace,
) -> DerpNode {
    // An address is used as it is, and the other family is switched off; a name is asked for in DNS.
    let (ipv4, ipv6) = match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => (ip.to_string(), "none".to_owned()),
        Ok(IpAddr::V6(ip)) => ("none".to_owned(), ip.to_string()),
        Err(_) => (String::new(), String::new()),
    };
    DerpNode {
        name,
        region_id,
        host_name: host.to_owned(),
        cert_name: place.cert_sha256.clone().map_or_else(String::new, |hash| format!("sha256-raw:{hash}")),
        ipv4,
        ipv6,
        stun_port: match stun_port {
            None => -1,
            Some(STUN_PORT) => 0,
            Some(port) => port.into(),
        },
        derp_port: if place.derp_port == HTTPS_PORT { 0 } else { place.derp_port.into() },
        can_port80: place.can_port_80,
        ..DerpNode::default()
    }
}

/// The hex form of a certificate's hash, as [`RelayPlace`] keeps it.
#[must_use]
pub fn hash_text(hash: CertHash) -> String {
    hex::encode(hash.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_relay_with_two_stun_ports_reads_back_as_it_was_meant() {
        let place = RelayPlace {
            hosts: vec!["203.0.113.7".to_owned(), "relay.example.org".to_owned()],
            derp_port: 8443,
            stun_ports: vec![3478, 8443],
            cert_sha256: Some("ab".repeat(32)),
            can_port_80: false,
        };
        let map = derp_map(derp_region(OWN_REGION, "home", "cellar", &place));
        let (checked, problems) = map.check();
        assert_eq!(problems, []);
        let nodes = &checked.regions[&OWN_REGION].nodes;
        assert_eq!(nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>(), ["900a", "900b", "900c"]);
        assert_eq!(nodes[0].cert, sw_types::CertCheck::Sha256([0xab; 32]));
        assert_eq!((nodes[0].derp_port, nodes[0].stun_port, nodes[0].stun_only), (8443, Some(3478), false));
        assert_eq!((nodes[2].stun_port, nodes[2].stun_only), (Some(8443), false));
        assert_eq!(
            (nodes[2].derp_port, nodes[2].cert.clone()),
            (8443, nodes[0].cert.clone()),
            "the same relay"
        );
        assert_eq!(nodes[0].ipv6, sw_types::RelayAddr::Disabled);
        assert_eq!(nodes[1].ipv6, sw_types::RelayAddr::Resolve);
    }
}

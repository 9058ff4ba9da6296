//! What the policy lets a peer do with services of this node, beyond opening ports (node-services.md §3.2).

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use sw_tailcfg::{CapMap, FilterRule};
use sw_types::NodeKey;

use crate::Netmap;

const CAP_RELAY: &str = "tailscale.com/cap/relay";
const CAP_RELAY_TARGET: &str = "tailscale.com/cap/relay-target";

/// The capabilities that the rules give `src` on `dst`. `holds` tells which node capabilities the peer has, for sources
/// of the form `cap:NAME`.
pub fn granted(rules: &[FilterRule], src: IpAddr, dst: IpAddr, holds: impl Fn(&str) -> bool) -> CapMap {
    let mut caps = CapMap::new();
    let of_src = rules.iter().filter(|rule| rule.src_ips.iter().any(|text| covers(text, src, &holds)));
    for grant in of_src.flat_map(|rule| &rule.cap_grant) {
        if !grant.dsts.iter().any(|net| net.contains(&dst)) {
            continue;
        }
        for name in &grant.caps {
            caps.entry(name.clone()).or_default();
        }
        for (name, values) in &grant.cap_map {
            caps.entry(name.clone()).or_default().extend(values.iter().cloned());
        }
    }
    caps
}

/// Returns the peers that may relay for this node, and those that may use its relay (path-selection.md §9).
pub fn relay_roles(netmap: &Netmap) -> (BTreeSet<NodeKey>, BTreeSet<NodeKey>) {
    let is_for_relays = |rule: &&FilterRule| {
        rule.cap_grant.iter().any(|grant| {
            [CAP_RELAY, CAP_RELAY_TARGET]
                .into_iter()
                .any(|cap| grant.cap_map.contains_key(cap) || grant.caps.iter().any(|name| name == cap))
        })
    };
    let rules: Vec<FilterRule> = netmap.rules().filter(is_for_relays).cloned().collect();
    let (mut servers, mut clients) = (BTreeSet::new(), BTreeSet::new());
    if rules.is_empty() {
        return (servers, clients);
    }
    for peer in netmap.peers() {
        for src in &peer.addresses {
            let same_family =
                netmap.self_node.addresses.iter().filter(|dst| dst.addr().is_ipv4() == src.addr().is_ipv4());
            for dst in same_family {
                let caps = granted(&rules, src.addr(), dst.addr(), |name| peer.cap_map.contains_key(name));
                if caps.contains_key(CAP_RELAY_TARGET) {
                    servers.insert(peer.key);
                }
                if caps.contains_key(CAP_RELAY) {
                    clients.insert(peer.key);
                }
            }
        }
    }
    (servers, clients)
}

/// Whether the rules let `src` use this node's way to the Internet: a TCP connection to port 53 anywhere.
pub fn may_use_exit(rules: &[FilterRule], src: IpAddr, holds: impl Fn(&str) -> bool) -> bool {
    let anywhere: IpAddr =
        if src.is_ipv4() { [0, 0, 0, 0].into() } else { [0x2000, 0, 0, 0, 0, 0, 0, 0].into() };
    rules.iter().any(|rule| {
        let has_tcp = rule.ip_proto.is_empty() || rule.ip_proto.contains(&6);
        let reaches = |dst: &sw_tailcfg::NetPortRange| {
            (dst.ports.first..=dst.ports.last).contains(&53) && covers(&dst.ip, anywhere, &|_: &str| false)
        };
        has_tcp
            && rule.dst_ports.iter().any(reaches)
            && rule.src_ips.iter().any(|text| covers(text, src, &holds))
    })
}

/// Whether one item of a rule covers an address: an address, a prefix, a range `a-b`, `*`, or `cap:NAME`.
fn covers(text: &str, ip: IpAddr, holds: &dyn Fn(&str) -> bool) -> bool {
    if text == "*" {
        return true;
    }
    if let Some(name) = text.strip_prefix("cap:") {
        return holds(name);
    }
    if let Some((first, last)) = text.split_once('-') {
        let (Ok(first), Ok(last)) = (first.parse::<IpAddr>(), last.parse::<IpAddr>()) else { return false };
        return first.is_ipv4() == ip.is_ipv4() && first <= ip && ip <= last;
    }
    text.parse::<IpNet>().map_or_else(|_| text.parse() == Ok(ip), |net| net.contains(&ip))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn grants_hold_for_their_source_and_destination() {
        let rules: Vec<FilterRule> = serde_json::from_str(
            r#"[{"SrcIPs": ["100.64.0.1-100.64.0.3", "cap:x"], "CapGrant": [
                {"Dsts": ["100.64.0.9/32"], "Caps": ["old"], "CapMap": {"new": [{"a": 1}]}}]},
               {"SrcIPs": ["100.64.0.2"], "CapGrant": [{"Dsts": ["100.64.0.0/10"], "CapMap": {"new": [{"b": 2}]}}]}]"#,
        )
        .expect("rules");
        let of = |src, dst| granted(&rules, ip(src), ip(dst), |_| false);
        assert_eq!(of("100.64.0.2", "100.64.0.9")["new"].len(), 2, "values of several grants add up");
        assert!(of("100.64.0.1", "100.64.0.9").contains_key("old"));
        assert!(of("100.64.0.1", "100.64.0.8").is_empty());
        assert!(of("100.64.0.4", "100.64.0.9").is_empty());
        assert!(!granted(&rules, ip("100.64.0.4"), ip("100.64.0.9"), |name| name == "x").is_empty());
    }

    #[test]
    fn the_way_out_is_for_those_whom_a_rule_lets_out() {
        let rules: Vec<FilterRule> = serde_json::from_str(
            r#"[{"SrcIPs": ["100.64.0.1"], "DstPorts": [{"IP": "0.0.0.0/0", "Ports": {"First": 0, "Last": 65535}}]},
               {"SrcIPs": ["100.64.0.2"], "DstPorts": [{"IP": "100.64.0.9", "Ports": {"First": 0, "Last": 65535}}]}]"#,
        )
        .expect("rules");
        assert!(may_use_exit(&rules, ip("100.64.0.1"), |_| false));
        assert!(!may_use_exit(&rules, ip("100.64.0.2"), |_| false));
        assert!(!may_use_exit(&rules, ip("fd7a:115c:a1e0::1"), |_| false));
    }
}

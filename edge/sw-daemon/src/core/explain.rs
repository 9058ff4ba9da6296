//! Whether and how an address is reached, as facts (ux.md §2.5).

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Value, json};
use sw_node::Netmap;
use sw_node::desired::peer_api_url;
use sw_node::status::region_code;
use sw_path::Verdict;
use sw_tailcfg::Node as WireNode;
use sw_types::UnixTime;

use super::Core;
use super::queries::short_name;

/// By which entry of the network an address is reached.
enum Route<'n> {
    /// It is this machine's own.
    Own,
    /// A machine of the network has it.
    Machine(&'n WireNode),
    /// A machine routes it, and that is in use here.
    Via(&'n WireNode, IpNet),
    /// A machine routes it, but this machine does not use what others offer.
    NotAccepted(&'n WireNode, IpNet),
    /// Nobody has it.
    Nowhere,
}

impl Core {
    /// The facts of one address; `None` without a network.
    pub(crate) fn explain(&self, ip: IpAddr) -> Option<Value> {
        let netmap = self.node.netmap()?;
        let route = self.route_to(netmap, ip);
        let own = short_name(&netmap.self_node.name);
        let (kind, node, prefix) = match route {
            Route::Own => ("self", Some(&*netmap.self_node), None),
            Route::Machine(node) => ("machine", Some(node), None),
            Route::Via(node, net) if net.prefix_len() == 0 => ("exit", Some(node), Some(net)),
            Route::Via(node, net) => ("subnet", Some(node), Some(net)),
            Route::NotAccepted(node, net) => ("notAccepted", Some(node), Some(net)),
            Route::Nowhere => ("none", None, None),
        };
        let mut facts = json!({ "self": own, "address": ip, "route": { "kind": kind, "prefix": prefix } });
        let of_peer = node.map(|node| self.peer_facts(netmap, node)).unwrap_or_default();
        if let (Some(facts), Value::Object(more)) = (facts.as_object_mut(), of_peer) {
            facts.extend(more);
        }
        Some(facts)
    }

    fn route_to<'n>(&self, netmap: &'n Netmap, ip: IpAddr) -> Route<'n> {
        if let Some(node) = netmap.node_by_address(ip) {
            let is_own = node.id == netmap.self_node.id;
            return if is_own { Route::Own } else { Route::Machine(node) };
        }
        let best = |node: &'n WireNode| {
            let nets = node.effective_allowed_ips().iter().filter(|net| net.contains(&ip));
            nets.max_by_key(|net| net.prefix_len()).copied()
        };
        if let Some(node) = self.device.owner(ip).and_then(|key| netmap.peer_by_key(&key)) {
            let net = best(node).unwrap_or_else(|| IpNet::from(ip));
            return Route::Via(node, net);
        }
        let offered = netmap.peers().filter_map(|node| Some((&**node, best(node)?)));
        let offered = offered.filter(|(_, net)| net.prefix_len() > 0).max_by_key(|(_, net)| net.prefix_len());
        offered.map_or(Route::Nowhere, |(node, net)| Route::NotAccepted(node, net))
    }

    fn peer_facts(&self, netmap: &Netmap, node: &WireNode) -> Value {
        let now = self.now();
        let report = self.paths.report(&node.key, now);
        let path = report.as_ref().and_then(|report| report.route.path());
        let candidates: Vec<Value> = report
            .iter()
            .flat_map(|report| &report.candidates)
            .map(|candidate| {
                json!({
                    "via": via_text(&candidate.via),
                    "verdict": verdict_text(candidate.verdict),
                    "rttMs": candidate.rtt.map(|rtt| rtt.as_secs_f64() * 1e3),
                    "pings": candidate.pings,
                    "pongs": candidate.pongs,
                    "mtu": candidate.mtu,
                })
            })
            .collect();
        let stats = self.device.peer(&node.key);
        json!({
            "name": short_name(&node.name),
            "online": node.online,
            "lastSeen": node.last_seen,
            "expired": netmap.is_expired(node, now.wall),
            "path": path.map(|path| path.to_string()),
            "direct": path.is_some_and(|path| path.is_direct()),
            "relay": node.home_region().map(|region| region_code(netmap, region)),
            "reason": self.relay_reason(report.as_ref()),
            "relayRttMs": report.as_ref().and_then(|report| report.relay_rtt).map(|rtt| rtt.as_secs_f64() * 1e3),
            "ownNat": report.as_ref().map(|report| format!("{:?}", report.own_nat)),
            "peerNat": report.as_ref().and_then(|report| report.peer_nat).map(|nat| format!("{nat:?}")),
            "mtu": sw_node::desired::MTU,
            "lastHandshake": stats.and_then(|stats| stats.last_handshake).filter(|time| *time > UnixTime::EPOCH),
            "candidates": candidates,
            "peerApi": peer_api_url(netmap, node),
        })
    }
}

fn via_text(via: &sw_path::Via) -> String {
    match via {
        sw_path::Via::Direct(address) => format!("direct {address}"),
        sw_path::Via::PeerRelay { server, vni } => format!("peer relay {server}:vni:{vni}"),
        sw_path::Via::Relay(region) => format!("relay {region}"),
    }
}

fn verdict_text(verdict: Verdict) -> String {
    match verdict {
        Verdict::InUse => "used".to_owned(),
        Verdict::Slower => "works, slower".to_owned(),
        Verdict::Doubtful => "misses answers".to_owned(),
        Verdict::Lossy { lost_percent } => format!("loses {lost_percent} %"),
        Verdict::Slow => "slower than the relay".to_owned(),
        Verdict::Lost => "lost".to_owned(),
        Verdict::NoAnswer => "no answer".to_owned(),
        Verdict::Untried => "not tried".to_owned(),
    }
}

//! The picture of the path between two machines: what both ends told, and what follows from it.

use super::picture::{Pair, pair};
use sw_tailnet::{Node, Tailnet};
use sw_web::Kind;
use sw_web::machine::{End, PathView};

/// The path to the machine called `to`; without a name, to the first one that a live link leads to.
pub(super) fn chosen(tailnet: &Tailnet, node: &Node, to: &str) -> Option<PathView> {
    let peer = if to.is_empty() {
        let mut peers: Vec<&Node> = tailnet
            .state()
            .nodes()
            .filter(|peer| peer.id != node.id && tailnet.link(node.id, peer.id).is_some())
            .collect();
        peers.sort_by(|a, b| a.label.cmp(&b.label));
        peers.into_iter().find(|peer| tailnet.presence(peer.id).is_online())?
    } else {
        let peer = tailnet.state().node_by_label(to)?;
        (peer.id != node.id && tailnet.sees(node.id, peer.id)).then_some(peer)?
    };
    Some(view(tailnet, node, peer))
}

fn view(tailnet: &Tailnet, node: &Node, peer: &Node) -> PathView {
    let online = |node: &Node| tailnet.presence(node.id).is_online();
    let is_live = online(node) && online(peer);
    let pair = if is_live { pair(tailnet, node, peer) } else { Pair::offline() };
    let ends = [Side::of(tailnet, node), Side::of(tailnet, peer)];
    let is_relayed = matches!(pair.kind, Kind::Relayed | Kind::PeerRelay);
    let (because, change) = match pair.kind {
        Kind::Direct => {
            ("Direct: packets go from socket to socket, and nobody between can read them.".into(), "")
        }
        Kind::Relayed | Kind::PeerRelay => why_relayed(&ends),
        Kind::Offline => (offline_words(&ends), ""),
        Kind::Idle | Kind::Bad => (idle_words(&pair), ""),
    };
    let [from, to] = &ends;
    PathView {
        from: from.end(),
        to: to.end(),
        kind: pair.kind,
        label: pair.words,
        relay: is_relayed.then(|| (relay_name(tailnet, node, peer), "relay".to_owned())),
        direct_note: if is_relayed { "no direct way found".into() } else { String::new() },
        ipv6_note: if is_relayed { ipv6_note(&ends) } else { String::new() },
        because,
        change: change.to_owned(),
    }
}

/// One end, as it measured its own network.
struct Side {
    name: String,
    address: String,
    online: bool,
    udp: Option<bool>,
    is_hard: Option<bool>,
    ipv6: Option<bool>,
    /// The protocol by which its router maps ports.
    maps_by: Option<&'static str>,
    is_public: bool,
}

impl Side {
    fn of(tailnet: &Tailnet, node: &Node) -> Self {
        let facts = tailnet.facts(node.id);
        let info = facts.and_then(|facts| facts.host.net_info.as_ref());
        let maps_by = info.and_then(|info| {
            let ways = [(info.pcp, "PCP"), (info.pmp, "NAT-PMP"), (info.upnp, "UPnP")];
            ways.into_iter().find(|(works, _)| *works == Some(true)).map(|(_, word)| word)
        });
        Self {
            name: node.label.clone(),
            address: node.ipv4.to_string(),
            online: tailnet.presence(node.id).is_online(),
            udp: info.and_then(|info| info.working_udp),
            is_hard: info.and_then(|info| info.mapping_varies_by_dest_ip),
            ipv6: info.and_then(|info| info.working_ipv6),
            maps_by,
            // Of one address alone nobody can say whether a router stands before it; of a private one, one does.
            is_public: facts.is_some_and(|facts| {
                !facts.endpoints.is_empty() && !facts.endpoints.iter().any(|at| is_private(at.ip()))
            }),
        }
    }

    fn end(&self) -> End {
        let mapping = self.maps_by.map(|way| format!("maps ports by {way}"));
        let (router, note) = match (self.udp, self.is_hard) {
            (Some(false), _) => ("Its network", "lets no UDP out".to_owned()),
            (_, Some(true)) => ("Router, hard", mapping.unwrap_or_else(|| "new port each time".into())),
            _ if self.is_public => ("", String::new()),
            (_, Some(false)) => ("Router, easy", mapping.unwrap_or_else(|| "one port for all".into())),
            (_, None) => ("", String::new()),
        };
        End {
            name: self.name.clone(),
            address: self.address.clone(),
            online: self.online,
            router: router.to_owned(),
            router_note: note,
            router_is_hard: self.udp == Some(false) || self.is_hard == Some(true),
        }
    }
}

/// The cause as a fact only where a measurement shows it.
fn why_relayed(ends: &[Side; 2]) -> (String, &'static str) {
    if let Some(blocked) = ends.iter().find(|side| side.udp == Some(false)) {
        let because = format!("Relayed, because the network of {} lets no UDP out.", blocked.name);
        return (because, "One change would make it direct: let UDP out in the firewall there.");
    }
    let hard: Vec<&Side> = ends.iter().filter(|side| side.is_hard == Some(true)).collect();
    let change = "One change would make it direct: allow port mapping (UPnP or PCP) in either router, or use IPv6 on both sides.";
    match hard[..] {
        [_, _] => ("Relayed, because both networks use a new port for every destination.".into(), change),
        [one] => {
            let name = &one.name;
            (
                format!(
                    "Relayed, probably because the network of {name} uses a new port for every destination."
                ),
                change,
            )
        }
        _ => (
            "Relayed; the packets flow, and a direct way is looked for again every few seconds.".into(),
            "If it stays so: samewire explain, on one of the two, says what was tried.",
        ),
    }
}

fn offline_words(ends: &[Side; 2]) -> String {
    let off: Vec<&str> = ends.iter().filter(|side| !side.online).map(|side| side.name.as_str()).collect();
    let verb = if off.len() == 1 { "is" } else { "are" };
    format!("{} {verb} offline.", off.join(" and "))
}

fn idle_words(pair: &Pair) -> String {
    if pair.words.starts_with("not told") {
        return "Neither machine tells its paths: both run the Tailscale app. This is what their networks allow.".into();
    }
    "Nothing was sent between them in the last minute; a path is found when something is.".into()
}

fn ipv6_note(ends: &[Side; 2]) -> String {
    match (ends[0].ipv6, ends[1].ipv6) {
        (Some(true), Some(false)) => format!("IPv6: {} has none", ends[1].name),
        (Some(false), Some(true)) => format!("IPv6: {} has none", ends[0].name),
        (Some(false), Some(false)) => "IPv6: neither has it".into(),
        _ => String::new(),
    }
}

/// Packets go by the home relay of who receives them; both as one name where it is the same.
fn relay_name(tailnet: &Tailnet, node: &Node, peer: &Node) -> String {
    let name = |node: &Node| {
        let home = tailnet.facts(node.id)?.home;
        let region = tailnet.derp_map().regions.as_ref()?.get(&home)?;
        Some(region.region_name.clone()).filter(|name| !name.is_empty())
    };
    name(peer).or_else(|| name(node)).unwrap_or_else(|| "relay".into())
}

fn is_private(ip: std::net::IpAddr) -> bool {
    match ip {
        std::net::IpAddr::V4(ip) => ip.is_private() || ip.is_link_local(),
        std::net::IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

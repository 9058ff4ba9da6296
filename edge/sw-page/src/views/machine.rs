//! One machine's page.

use super::picture::Pair;
use super::{person, routes_in_words, shell, software};
use crate::guard::Visitor;
use crate::site::{Ask, Site};
use crate::words;
use sw_control::clock;
use sw_tailnet::{JoinedBy, Node, Tailnet};
use sw_types::UnixTime;
use sw_web::Page;
use sw_web::machine::{MachineView, PeerRow, ReachRow, RouteRow, Tab, page as render};

pub(super) async fn page(site: &Site, ask: &Ask, visitor: &Visitor, name: &str) -> Option<String> {
    let (label, tab, now) = (name.to_owned(), Tab::parse(ask.query.get("tab")), clock::now().wall);
    let to = ask.query.get("to").to_owned();
    let view = site.control.read(move |tailnet| {
        let node = tailnet.state().node_by_label(&label)?;
        Some(view(tailnet, node, tab, &to, now))
    });
    let mut view = view.await.ok()??;
    if tab == Tab::History {
        view.history = super::log::of_machine(site, name).await;
    }
    Some(render(&shell(site, ask, visitor, Page::Machines).await?, &view))
}

fn view(tailnet: &Tailnet, node: &Node, tab: Tab, to: &str, now: UnixTime) -> MachineView {
    let mut peers = peers(tailnet, node, tailnet.presence(node.id).is_online());
    let path = super::path::chosen(tailnet, node, to);
    if let Some(path) = &path {
        peers.iter_mut().for_each(|peer| peer.chosen = peer.name == path.to.name);
    }
    let online = tailnet.presence(node.id).is_online();
    MachineView {
        name: node.label.clone(),
        sentence: sentence(tailnet, node, online, now),
        tab,
        path,
        peers,
        reach: reach(tailnet, node),
        routes: routes(tailnet, node),
        history: Vec::new(),
        about: about(tailnet, node, now),
        network: network(tailnet, node),
        tags: node.tags().to_vec(),
        key_expires: node.expiry.is_some(),
        is_waiting: !node.approved,
    }
}

fn sentence(tailnet: &Tailnet, node: &Node, online: bool, now: UnixTime) -> String {
    let facts = tailnet.facts(node.id);
    let system = facts.map(|facts| crate::device::device_words(&facts.host)).unwrap_or_default();
    let presence = match (online, facts.and_then(|facts| facts.last_seen)) {
        (true, _) => "Online.".to_owned(),
        (false, Some(at)) => format!("Offline, last seen {}.", words::ago(at, now)),
        (false, None) => "Never seen.".to_owned(),
    };
    let software = facts.map(|facts| software(&facts.host.ipn_version)).unwrap_or_default();
    let more: Vec<String> = [system, software].into_iter().filter(|word| !word.is_empty()).collect();
    if more.is_empty() { presence } else { format!("{presence} {}.", more.join(", ")) }
}

/// Those it may talk to, online first.
fn peers(tailnet: &Tailnet, node: &Node, own_online: bool) -> Vec<PeerRow> {
    let others =
        tailnet.state().nodes().filter(|other| other.id != node.id && tailnet.sees(node.id, other.id));
    let mut rows: Vec<(bool, PeerRow)> = others
        .map(|other| {
            let online = own_online && tailnet.presence(other.id).is_online();
            let pair = if online { super::picture::pair(tailnet, node, other) } else { Pair::offline() };
            let way =
                tailnet.facts(other.id).and_then(|facts| facts.endpoints.first()).map(ToString::to_string);
            let row = PeerRow {
                name: other.label.clone(),
                kind: pair.kind,
                words: pair.words,
                way: way.unwrap_or_default(),
                ..PeerRow::default()
            };
            (online, row)
        })
        .collect();
    rows.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.name.cmp(&b.1.name)));
    rows.into_iter().take(200).map(|(_, row)| row).collect()
}

/// The packet filter that the machine is sent, in the words of people and machines.
fn reach(tailnet: &Tailnet, node: &Node) -> Vec<ReachRow> {
    let own: Vec<String> = node.addresses().iter().map(ToString::to_string).collect();
    let mut rows = Vec::new();
    for rule in tailnet.filter_of(node.id).iter() {
        let ports: Vec<String> = rule
            .dst_ports
            .iter()
            .filter(|dst| {
                dst.ip == "*" || own.iter().any(|ip| dst.ip == *ip || dst.ip.starts_with(&format!("{ip}/")))
            })
            .map(|dst| {
                if dst.ports.first == 0 && dst.ports.last == 65_535 {
                    "all".to_owned()
                } else if dst.ports.first == dst.ports.last {
                    dst.ports.first.to_string()
                } else {
                    format!("{}-{}", dst.ports.first, dst.ports.last)
                }
            })
            .collect();
        if ports.is_empty() {
            continue;
        }
        // What "*" in the policy means to machines: every address of the network.
        let is_everyone = rule.src_ips.iter().any(|src| src == "*" || src == "fd7a:115c:a1e0::/48");
        let mut who: Vec<String> = if is_everyone {
            vec!["every machine of the network".to_owned()]
        } else {
            rule.src_ips.iter().map(|src| named(tailnet, src)).collect()
        };
        who.dedup();
        let mut ports = ports;
        ports.dedup();
        let more = if who.len() > 6 { format!(" and {} more", who.len() - 6) } else { String::new() };
        who.truncate(6);
        rows.push(ReachRow {
            who: format!("{}{more}", who.join(", ")),
            ports: ports.join(", "),
            rule: "policy".into(),
        });
    }
    rows
}

/// A source of a rule by the machine's name.
fn named(tailnet: &Tailnet, src: &str) -> String {
    if src == "*" {
        return "everyone".into();
    }
    let bare = src.split('/').next().unwrap_or(src);
    match bare.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V4(ip)) => {
            tailnet.state().node_by_v4(ip).map_or_else(|| src.to_owned(), |n| n.label.clone())
        }
        Ok(std::net::IpAddr::V6(ip)) => {
            tailnet.state().nodes().find(|n| n.ipv6 == ip).map_or_else(|| src.to_owned(), |n| n.label.clone())
        }
        Err(_) => src.to_owned(),
    }
}

fn routes(tailnet: &Tailnet, node: &Node) -> Vec<RouteRow> {
    let mut all: Vec<ipnet::IpNet> = tailnet.announced_routes(node.id).to_vec();
    all.extend(
        node.approved_routes.iter().filter(|route| !tailnet.announced_routes(node.id).contains(route)),
    );
    let allowed = routes_in_words(&node.approved_routes);
    let serving = routes_in_words(tailnet.serving_routes(node.id));
    routes_in_words(&all)
        .into_iter()
        .map(|route| RouteRow {
            allowed: allowed.contains(&route),
            note: if serving.contains(&route) { "in use".into() } else { String::new() },
            route,
        })
        .collect()
}

fn about(tailnet: &Tailnet, node: &Node, now: UnixTime) -> Vec<(String, String)> {
    let person = person(tailnet, node);
    let joined = match &node.joined_by {
        JoinedBy::Key(id) => format!("{}, by key {id}", words::date(node.created)),
        JoinedBy::Login(_) => format!("{}, by the login page", words::date(node.created)),
        JoinedBy::Admin => format!("{}, by an operator", words::date(node.created)),
    };
    let key = match node.expiry {
        None => "does not expire".into(),
        Some(at) if at <= now => format!("expired {}", words::ago(at, now)),
        Some(at) => format!("expires {}", words::until(at, now)),
    };
    let pairs = [
        ("Name", tailnet.state().fqdn(node).trim_end_matches('.').to_owned()),
        ("Address", node.ipv4.to_string()),
        ("IPv6", node.ipv6.to_string()),
        ("Person", if person.is_empty() { "none, tagged".into() } else { person }),
        ("Tags", node.tags().join(", ")),
        ("Key", key),
        ("Joined", joined),
    ];
    pairs.into_iter().filter(|(_, value)| !value.is_empty()).map(|(k, v)| (k.to_owned(), v)).collect()
}

fn network(tailnet: &Tailnet, node: &Node) -> Vec<(String, String)> {
    let Some(facts) = tailnet.facts(node.id) else { return Vec::new() };
    let mut out = Vec::new();
    if let Some(info) = &facts.host.net_info {
        if let Some(varies) = info.mapping_varies_by_dest_ip {
            out.push((
                "Router".into(),
                if varies { "hard, new ports for every destination" } else { "easy" }.to_owned(),
            ));
        }
        if let Some(works) = info.working_udp {
            out.push(("UDP".into(), if works { "works" } else { "blocked" }.to_owned()));
        }
        if let Some(works) = info.working_ipv6 {
            out.push(("IPv6".into(), if works { "works" } else { "none" }.to_owned()));
        }
    }
    if let Some(public) = facts.endpoints.first() {
        out.push(("Public".into(), public.to_string()));
    }
    if !facts.home.is_zero() {
        let name = tailnet.derp_map().regions.as_ref().and_then(|regions| regions.get(&facts.home));
        let name = name.map(|region| region.region_name.clone()).filter(|name| !name.is_empty());
        let delay = facts.host.net_info.as_ref().and_then(|info| {
            let key = format!("{}-v4", facts.home);
            info.derp_latency.get(&key).map(|seconds| format!(", {:.0} ms", seconds * 1_000.0))
        });
        let name = name.unwrap_or_else(|| format!("region {}", facts.home));
        out.push(("Home relay".into(), name + &delay.unwrap_or_default()));
    }
    out
}

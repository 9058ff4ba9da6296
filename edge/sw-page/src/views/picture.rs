//! The picture of the network.

use super::{connection, person, shell};
use crate::guard::Visitor;
use crate::site::{Ask, Site};
use crate::words;
use std::collections::{BTreeMap, BTreeSet};
use sw_tailcfg::{LinkPath, LinkReport};
use sw_tailnet::{Node, Tailnet};
use sw_web::network::{Chosen, Dot, Link, NetworkView, page as render};
use sw_web::{Group, Kind, Page};

/// Links drawn at most: beyond, the picture would say less with more.
const LINKS_MAX: usize = 2_000;

pub(super) async fn page(site: &Site, ask: &Ask, visitor: &Visitor) -> Option<String> {
    let mut view = view(site, ask.query.get("by") == "tag", ask.query.get("chosen")).await?;
    view.as_table = ask.query.get("as") == "table";
    Some(render(&shell(site, ask, visitor, Page::Network).await?, &view))
}

/// What is drawn; `name` is the chosen machine, or empty.
pub(super) async fn view(site: &Site, by_tag: bool, name: &str) -> Option<NetworkView> {
    let name = name.to_owned();
    let read = site.control.read(move |tailnet| {
        let chosen = chosen(tailnet, &name);
        NetworkView { chosen, ..view_of(tailnet, by_tag) }
    });
    read.await.ok()
}

fn view_of(tailnet: &Tailnet, by_tag: bool) -> NetworkView {
    let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut machines = BTreeMap::new();
    for node in tailnet.state().nodes() {
        let online = tailnet.presence(node.id).is_online();
        machines.insert(node.label.clone(), Dot { online });
        groups.entry(group(tailnet, node, by_tag)).or_default().push(node.label.clone());
    }
    let links = links(tailnet);
    let of = |kind: Kind| links.iter().filter(|link| link.kind == kind).count();
    let online = machines.values().filter(|dot| dot.online).count();
    let by_peers = match of(Kind::PeerRelay) {
        0 => String::new(),
        n => format!(", {n} by peer relay"),
    };
    let live = match (of(Kind::Direct), of(Kind::Relayed)) {
        (0, 0) if by_peers.is_empty() => "No machine talks to another right now.".to_owned(),
        (direct, relayed) => format!("{direct} direct, {relayed} relayed{by_peers}, right now."),
    };
    let sentence =
        format!("{}, {online} online. {live}", words::count(machines.len(), "machine", "machines"));
    let groups = groups.into_iter().map(|(name, machines)| Group { name, machines }).collect();
    NetworkView { sentence, groups, machines, links, by_tag, ..NetworkView::default() }
}

/// Owner, else first tag.
fn group(tailnet: &Tailnet, node: &Node, by_tag: bool) -> String {
    let tag = node.tags().first().cloned();
    let person = Some(person(tailnet, node)).filter(|name| !name.is_empty());
    let (first, second) = if by_tag { (tag, person) } else { (person, tag) };
    first.or(second).unwrap_or_else(|| "nobody".into())
}

/// Live links as our machines tell them; between machines that tell none, what their networks allow.
fn links(tailnet: &Tailnet) -> Vec<Link> {
    let online: Vec<&Node> = tailnet.state().nodes().filter(|n| tailnet.presence(n.id).is_online()).collect();
    let mut links = Vec::new();
    let mut drawn = BTreeSet::new();
    for node in &online {
        for link in tailnet.links_of(node.id).unwrap_or_default() {
            let is_new = drawn.insert((node.id.min(link.peer), node.id.max(link.peer)));
            let peer = tailnet.state().node(link.peer).filter(|peer| tailnet.presence(peer.id).is_online());
            if let Some(peer) = peer.filter(|_| is_new && links.len() < LINKS_MAX) {
                links.push(line(node, peer, Pair::told(link), link.bytes));
            }
        }
    }
    let silent: Vec<&Node> = online.into_iter().filter(|n| tailnet.links_of(n.id).is_none()).collect();
    for (i, a) in silent.iter().enumerate() {
        for b in &silent[..i] {
            if links.len() >= LINKS_MAX {
                return links;
            }
            if tailnet.sees(a.id, b.id) {
                links.push(line(a, b, Pair::inferred(tailnet, a, b), 0));
            }
        }
    }
    links
}

fn line(a: &Node, b: &Node, pair: Pair, bytes: u64) -> Link {
    let (a, b) = (a.label.clone(), b.label.clone());
    Link { a, b, kind: pair.kind, bytes, words: pair.words, delay: pair.delay }
}

/// What is known of the path between two machines.
pub(super) struct Pair {
    pub kind: Kind,
    /// "direct, 11 ms", "idle", "not told: can be direct".
    pub words: String,
    /// "11 ms"; empty when not measured.
    pub delay: String,
}

impl Pair {
    pub(super) fn offline() -> Self {
        Self { kind: Kind::Offline, words: "offline".into(), delay: String::new() }
    }

    /// As one of the two measured it.
    fn told(link: &LinkReport) -> Self {
        let (kind, word) = match link.path {
            LinkPath::Direct => (Kind::Direct, "direct"),
            LinkPath::Relay => (Kind::Relayed, "relayed"),
            LinkPath::PeerRelay => (Kind::PeerRelay, "by peer relay"),
        };
        let delay = link.delay_us.map(words::delay).unwrap_or_default();
        let words = if delay.is_empty() { word.to_owned() } else { format!("{word}, {delay}") };
        Self { kind, words, delay }
    }

    /// What the networks of two official apps allow, as each measured its own.
    fn inferred(tailnet: &Tailnet, a: &Node, b: &Node) -> Self {
        let report = |node: &Node| {
            let info = tailnet.facts(node.id)?.host.net_info.as_ref()?;
            Some((info.working_udp, info.mapping_varies_by_dest_ip))
        };
        let words = match (report(a), report(b)) {
            (Some((Some(false), _)), _) | (_, Some((Some(false), _))) => {
                "not told: only relayed, UDP is blocked"
            }
            (Some((_, Some(true))), Some((_, Some(true)))) | (None, _) | (_, None) => "not told",
            (Some(_), Some(_)) => "not told: can be direct",
        };
        Self { kind: Kind::Idle, words: words.into(), delay: String::new() }
    }
}

/// The path between two online machines that may talk.
pub(super) fn pair(tailnet: &Tailnet, a: &Node, b: &Node) -> Pair {
    let tells = |node: &Node| tailnet.links_of(node.id).is_some();
    match tailnet.link(a.id, b.id) {
        Some(link) => Pair::told(link),
        None if tells(a) || tells(b) => {
            Pair { kind: Kind::Idle, words: "not connected".into(), delay: String::new() }
        }
        None => Pair::inferred(tailnet, a, b),
    }
}

fn chosen(tailnet: &Tailnet, name: &str) -> Option<Chosen> {
    let node = tailnet.state().node_by_label(name)?;
    let own = connection(tailnet, node, tailnet.presence(node.id).is_online());
    let peers =
        tailnet.state().nodes().filter(|other| other.id != node.id && tailnet.sees(node.id, other.id));
    let peers = peers.filter(|other| tailnet.presence(other.id).is_online()).take(8);
    Some(Chosen {
        name: node.label.clone(),
        kind: own.kind,
        label: own.text,
        peers: peers
            .map(|other| {
                let pair = pair(tailnet, node, other);
                (other.label.clone(), pair.kind, pair.words)
            })
            .collect(),
        why: own.why,
    })
}

//! The picture of the network.

use super::{connection, person, shell};
use crate::guard::Visitor;
use crate::site::{Ask, Site};
use crate::words;
use std::collections::BTreeMap;
use sw_tailnet::{Node, Tailnet};
use sw_web::network::{Chosen, Dot, Link, NetworkView, page as render};
use sw_web::{Group, Kind, Page};

/// Links drawn at most: beyond, the picture would say less with more.
const LINKS_MAX: usize = 2_000;

pub(super) async fn page(site: &Site, ask: &Ask, visitor: &Visitor) -> Option<String> {
    let mut view = view(site, ask.query.get("by") == "tag").await?;
    view.as_table = ask.query.get("as") == "table";
    let name = ask.query.get("chosen").to_owned();
    if !name.is_empty() {
        view.chosen = site.control.read(move |tailnet| chosen(tailnet, &name)).await.ok()?;
    }
    Some(render(&shell(site, ask, visitor, Page::Network).await?, &view))
}

pub(super) async fn view(site: &Site, by_tag: bool) -> Option<NetworkView> {
    site.control.read(move |tailnet| view_of(tailnet, by_tag)).await.ok()
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
    let sentence = format!(
        "{}, {online} online. As their networks report, {} can go direct, {} only by relay.",
        words::count(machines.len(), "machine", "machines"),
        words::count(of(Kind::Direct), "pair", "pairs"),
        of(Kind::Relayed)
    );
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

/// Pairs of online machines that may talk, with the kind of path their networks allow.
fn links(tailnet: &Tailnet) -> Vec<Link> {
    let online: Vec<&Node> = tailnet.state().nodes().filter(|n| tailnet.presence(n.id).is_online()).collect();
    let mut links = Vec::new();
    for (i, a) in online.iter().enumerate() {
        for b in &online[..i] {
            if links.len() >= LINKS_MAX {
                return links;
            }
            if tailnet.sees(a.id, b.id) {
                let kind = pair_kind(tailnet, a, b);
                links.push(Link {
                    a: a.label.clone(),
                    b: b.label.clone(),
                    kind,
                    bytes: 10_000,
                    delay: String::new(),
                });
            }
        }
    }
    links
}

pub(super) fn pair_kind(tailnet: &Tailnet, a: &Node, b: &Node) -> Kind {
    let report = |node: &Node| {
        let info = tailnet.facts(node.id)?.host.net_info.as_ref()?;
        Some((info.working_udp, info.mapping_varies_by_dest_ip))
    };
    match (report(a), report(b)) {
        (Some((Some(false), _)), _) | (_, Some((Some(false), _))) => Kind::Relayed,
        (Some((_, Some(true))), Some((_, Some(true)))) | (None, _) | (_, None) => Kind::Idle,
        (Some(_), Some(_)) => Kind::Direct,
    }
}

/// What two networks allow, as their machines report them.
pub(super) fn in_words(kind: Kind) -> &'static str {
    match kind {
        Kind::Direct => "can be direct",
        Kind::Relayed => "only relayed",
        Kind::PeerRelay => "by peer relay",
        Kind::Idle => "not told",
        Kind::Offline => "offline",
        Kind::Bad => "no",
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
                let kind = pair_kind(tailnet, node, other);
                (other.label.clone(), kind, in_words(kind).into())
            })
            .collect(),
        why: own.why,
    })
}

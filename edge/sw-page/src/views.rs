//! Fills the views of the pages from the tailnet.

use crate::access;
use crate::guard::{Visitor, Way};
use crate::http;
use crate::site::{Ask, Site};
use crate::words;
use ::http::{Response, StatusCode};
use std::sync::Arc;
use sw_control::clock;
use sw_net::front::Body;
use sw_tailnet::{Login, LoginStatus, Node, Owner, Tailnet};
use sw_types::UnixTime;
use sw_web::{Page, Shell, Toast, Viewer, machines, network};

mod health;
mod log;
mod machine;
mod other;
mod path;
mod picture;

/// Answers a GET of a signed-in admin.
pub(crate) async fn page(site: &Arc<Site>, ask: &Ask, visitor: &Visitor) -> Response<Body> {
    let pieces: Vec<String> = ask.path.clone();
    let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
    let html = match pieces[..] {
        ["machines"] => machines_page(site, ask, visitor).await,
        ["machines", "add"] => other::add(site, ask, visitor).await,
        ["machines", name] => match machine::page(site, ask, visitor, name).await {
            Some(html) => Some(html),
            None => return not_found(),
        },
        ["network"] => picture::page(site, ask, visitor).await,
        ["access"] => other::access(site, ask, visitor).await,
        ["people"] => other::people(site, ask, visitor).await,
        ["keys"] => other::keys(site, ask, visitor).await,
        ["dns"] => other::dns(site, ask, visitor).await,
        ["relays"] => other::relays(site, ask, visitor).await,
        ["log"] => log::page(site, ask, visitor).await,
        ["log", "export"] => return log::export(site).await,
        ["settings"] => other::settings(site, ask, visitor).await,
        ["health"] => health::page(site, ask, visitor).await,
        ["more"] => shell(site, ask, visitor, Page::Settings).await.map(|shell| sw_web::more(&shell)),
        _ => return not_found(),
    };
    match html {
        Some(html) => http::html(StatusCode::OK, html),
        None => http::text(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping\n"),
    }
}

fn not_found() -> Response<Body> {
    http::text(StatusCode::NOT_FOUND, "there is no such page\n")
}

/// What stands around the page; takes up the toast of the act that led here.
pub(crate) async fn shell(site: &Site, ask: &Ask, visitor: &Visitor, page: Page) -> Option<Shell> {
    let (machines, people) = site
        .control
        .read(|tailnet| (tailnet.state().node_count(), tailnet.state().users().count()))
        .await
        .ok()?;
    let act = site.acts.get(ask.query.get("did"), visitor.user, clock::now().mono);
    let toast = act.as_ref().map(|act| Toast {
        text: act.text.clone(),
        undo: (!act.back.is_empty()).then(|| format!("/undo/{}", act.id)),
        is_error: act.is_error,
    });
    let way = match &visitor.way {
        Way::Machine(name) => format!("from {name}"),
        Way::Session { .. } => "on this browser".into(),
    };
    // Cookies cannot be protected on plain http, so only this server's own machine or network may write there.
    let can_write = site.config.is_https() || ask.is_tls || is_near(ask);
    Some(Shell {
        page,
        machines,
        people,
        problems: health::problems(site).await,
        viewer: Some(Viewer { name: visitor.name.clone(), role: visitor.role.as_str().into(), way }),
        theme: ask.theme,
        csrf: visitor.csrf.clone(),
        toast,
        can_write,
        read_only_why: if can_write {
            String::new()
        } else {
            "This page came over plain http from far away, so it only shows. Use https, or a machine of the network.".into()
        },
    })
}

/// Loopback or a private address: the LAN case of plain http (ux.md §3.2).
fn is_near(ask: &Ask) -> bool {
    match ask.peer.ip().to_canonical() {
        std::net::IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.octets()[0] == 100,
        std::net::IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local(),
    }
}

/// The secret of the act that led here, shown once.
pub(crate) fn fresh_secret(site: &Site, ask: &Ask, visitor: &Visitor) -> Option<String> {
    site.acts.get(ask.query.get("did"), visitor.user, clock::now().mono)?.secret
}

async fn machines_page(site: &Site, ask: &Ask, visitor: &Visitor) -> Option<String> {
    let (query, filter) = (ask.query.get("q").to_owned(), machines::Filter::parse(ask.query.get("show")));
    let page_number = ask.query.get("page").parse().unwrap_or(0);
    let now = clock::now().wall;
    let view = site
        .control
        .read(move |tailnet| machines_view(tailnet, &query, filter, page_number, now))
        .await
        .ok()?;
    // The secret of an act is for its own page; the shell asks without taking it.
    let shell = shell(site, ask, visitor, Page::Machines).await?;
    Some(machines::page(&shell, &view))
}

fn machines_view(
    tailnet: &Tailnet,
    query: &str,
    filter: machines::Filter,
    page: usize,
    now: UnixTime,
) -> machines::MachinesView {
    let mut nodes: Vec<&Node> = tailnet.state().nodes().collect();
    nodes.sort_by(|a, b| a.label.cmp(&b.label));
    let online = |node: &Node| tailnet.presence(node.id).is_online();
    let online_count = nodes.iter().filter(|n| online(n)).count();
    let is_relayed = |node: &Node| connection(tailnet, node, online(node)).kind == sw_web::Kind::Relayed;
    let relayed = nodes.iter().filter(|node| is_relayed(node)).count();
    let counts = machines::Counts { all: nodes.len(), online: online_count, relayed, update: 0 };
    let matching: Vec<&Node> = nodes
        .into_iter()
        .filter(|node| match filter {
            machines::Filter::All => true,
            machines::Filter::Online => online(node),
            machines::Filter::Relayed => is_relayed(node),
            machines::Filter::Update => false,
        })
        .filter(|node| matches(tailnet, node, query))
        .collect();
    let rows = matching.iter().skip(page * machines::PAGE_LEN).take(machines::PAGE_LEN);
    machines::MachinesView {
        sentence: sentence(counts.all, online_count),
        waiting: waiting(tailnet, now),
        rows: rows.map(|node| row(tailnet, node, now)).collect(),
        matching: matching.len(),
        page,
        query: query.to_owned(),
        filter,
        counts,
    }
}

fn sentence(all: usize, online: usize) -> String {
    format!("{}, {online} online.", words::count(all, "machine", "machines"))
}

/// Name, address, person, tag.
fn matches(tailnet: &Tailnet, node: &Node, query: &str) -> bool {
    let query = query.to_ascii_lowercase();
    query.is_empty()
        || node.label.contains(&query)
        || node.ipv4.to_string().starts_with(&query)
        || node.tags().iter().any(|tag| tag.contains(&query))
        || person(tailnet, node).to_ascii_lowercase().contains(&query)
}

/// Name of the owner; empty for a tagged machine.
pub(crate) fn person(tailnet: &Tailnet, node: &Node) -> String {
    match &node.owner {
        Owner::Tags(_) => String::new(),
        Owner::User(id) => tailnet.state().user(*id).map_or_else(String::new, |user| {
            words::foreign(if user.display_name.is_empty() { &user.name } else { &user.display_name })
        }),
    }
}

fn row(tailnet: &Tailnet, node: &Node, now: UnixTime) -> machines::Row {
    let facts = tailnet.facts(node.id);
    let online = tailnet.presence(node.id).is_online();
    let mut chips: Vec<String> = node.tags().to_vec();
    chips.extend(routes_in_words(&node.approved_routes));
    if node.is_expired(now) {
        chips.push("key expired".into());
    }
    let seen = facts.and_then(|facts| facts.last_seen);
    machines::Row {
        name: node.label.clone(),
        os: facts.map(|facts| crate::device::device_words(&facts.host)).unwrap_or_default(),
        chips,
        address: node.ipv4.to_string(),
        connection: connection(tailnet, node, online),
        person: person(tailnet, node),
        software: facts.map(|facts| software(&facts.host.ipn_version)).unwrap_or_default(),
        seen: match (online, seen) {
            (true, _) => "now".into(),
            (false, Some(at)) => words::ago(at, now),
            (false, None) => "never".into(),
        },
        online,
    }
}

/// How a machine is connected: by its live links, as it tells them; else by what it tells of its network (UDP, kind of
/// router) and what follows from that.
pub(crate) fn connection(tailnet: &Tailnet, node: &Node, online: bool) -> sw_web::Connection {
    use sw_web::{Connection, Kind};
    let Some(facts) = tailnet.facts(node.id).filter(|_| online) else {
        return Connection { kind: Kind::Offline, text: "offline".into(), why: String::new() };
    };
    let links = tailnet.links_of(node.id).unwrap_or_default();
    let relayed = links.iter().filter(|link| link.path != sw_tailcfg::LinkPath::Direct).count();
    match (links.len(), relayed) {
        (0, _) => {}
        (_, 0) => return Connection { kind: Kind::Direct, text: "direct".into(), why: String::new() },
        (all, relayed) if all == relayed => {
            return Connection { kind: Kind::Relayed, text: "relayed".into(), why: String::new() };
        }
        (all, relayed) => {
            let text = format!("{relayed} of {all} relayed");
            return Connection { kind: Kind::Relayed, text, why: String::new() };
        }
    }
    let udp = facts.host.net_info.as_ref().and_then(|info| info.working_udp);
    let varies = facts.host.net_info.as_ref().and_then(|info| info.mapping_varies_by_dest_ip);
    match (udp, varies) {
        (Some(false), _) => Connection {
            kind: Kind::Relayed,
            text: "relayed".into(),
            why: "it measured that its network lets no UDP out".into(),
        },
        (_, Some(true)) => Connection {
            kind: Kind::Idle,
            text: "online".into(),
            why: "hard network: direct with easy ones, probably".into(),
        },
        (_, Some(false)) => Connection {
            kind: Kind::Idle,
            text: "online".into(),
            why: "easy network: direct with nearly everyone, probably".into(),
        },
        (_, None) => Connection { kind: Kind::Idle, text: "online".into(), why: String::new() },
    }
}

/// "exit node" once, and the subnets.
pub(crate) fn routes_in_words(routes: &[ipnet::IpNet]) -> Vec<String> {
    let mut out: Vec<String> =
        routes.iter().filter(|route| !sw_tailnet::is_exit(route)).map(ToString::to_string).collect();
    if routes.iter().any(sw_tailnet::is_exit) {
        out.push("exit node".into());
    }
    out
}

/// "samewire 1.0" or "Tailscale 1.98".
fn software(version: &str) -> String {
    let short: Vec<&str> = version.split(['-', '+']).next().unwrap_or_default().split('.').take(2).collect();
    let short = short.join(".");
    if version.is_empty() {
        String::new()
    } else if version.contains("samewire") {
        format!("samewire {short}")
    } else {
        format!("Tailscale {short}")
    }
}

fn waiting(tailnet: &Tailnet, now: UnixTime) -> Vec<machines::Waiting> {
    let logins =
        tailnet.logins().filter(|login| login.status == LoginStatus::Waiting).map(|login| join(login, now));
    let unapproved =
        tailnet.state().nodes().filter(|node| !node.approved).map(|node| machines::Waiting::Join {
            id: node.label.clone(),
            name: node.label.clone(),
            person: person(tailnet, node),
            facts: format!("joined {}", words::ago(node.created, now)),
            key: node.node_key.to_string().chars().skip(8).take(5).collect(),
        });
    let routes = tailnet.state().nodes().flat_map(|node| {
        let open: Vec<ipnet::IpNet> = tailnet
            .announced_routes(node.id)
            .iter()
            .copied()
            .filter(|route| !node.approved_routes.contains(route))
            .collect();
        let machine = node.label.clone();
        routes_in_words(&open).into_iter().map(move |route| machines::Waiting::Route {
            machine: machine.clone(),
            route,
            facts: String::new(),
        })
    });
    logins.chain(unapproved).chain(routes).take(20).collect()
}

fn join(login: &Login, now: UnixTime) -> machines::Waiting {
    machines::Waiting::Join {
        id: login.id.clone(),
        name: if login.host.hostname.is_empty() {
            "A device".into()
        } else {
            words::foreign(&login.host.hostname)
        },
        person: String::new(),
        facts: format!("{}, {}", crate::device::device_words(&login.host), words::ago(login.created, now)),
        key: words::three_words(&login.id),
    }
}

/// Fragments of the page that a viewer has open; `None` ends the stream.
pub(crate) async fn fragments(site: &Site, visitor: &Visitor, page: &str) -> Option<Vec<(String, String)>> {
    let now = clock::now().wall;
    let problems = health::problems(site).await;
    let mut out = vec![("health-word".to_owned(), health_word(problems))];
    if page == "/machines" || page.starts_with("/machines?") {
        let query = page.split_once('?').map_or("", |(_, query)| query);
        let fields = crate::http::Fields::parse(query.as_bytes());
        let (q, filter) = (fields.get("q").to_owned(), machines::Filter::parse(fields.get("show")));
        let number = fields.get("page").parse().unwrap_or(0);
        let view =
            site.control.read(move |tailnet| machines_view(tailnet, &q, filter, number, now)).await.ok()?;
        let mut shell = Shell::for_tests(Page::Machines);
        shell.csrf.clone_from(&visitor.csrf);
        out.push(("machines-sentence".into(), format!("<p id=\"machines-sentence\">{}</p>", view.sentence)));
        out.push((
            "count-machines".into(),
            format!("<span class=\"n\" id=\"count-machines\">{}</span>", view.counts.all),
        ));
        out.push(("waiting".into(), machines::waiting(&shell, &view.waiting).into_string()));
        out.push(("machine-rows".into(), machines::rows(&view.rows).into_string()));
    } else if page.starts_with("/network") {
        let chosen = page.split("chosen=").nth(1).and_then(|rest| rest.split('&').next()).unwrap_or_default();
        let view = picture::view(site, page.contains("by=tag"), chosen).await?;
        out.push(("net".into(), network::picture(&view).into_string()));
        out.push(("network-sentence".into(), network::sentence(&view).into_string()));
    } else if page.starts_with("/machines/add") {
        out.push(("joined".into(), other::joined(site, visitor).await?));
    }
    Some(out)
}

fn health_word(problems: usize) -> String {
    let (class, text) = match problems {
        0 => ("direct", "All well".to_owned()),
        1 => ("relay", "1 thing".to_owned()),
        n => ("relay", format!("{n} things")),
    };
    format!("<span id=\"health-word\" class=\"n st {class}\">{text}</span>")
}

pub(crate) fn policy_sentence(tailnet: &Tailnet) -> String {
    match tailnet.state().policy() {
        Some(policy) => {
            format!(
                "Who may reach what. Version {}, saved by {} on {}.",
                policy.version,
                policy.author,
                words::date(policy.at)
            )
        }
        None => "Who may reach what. Everyone reaches everything.".into(),
    }
}

pub(crate) use access::current;

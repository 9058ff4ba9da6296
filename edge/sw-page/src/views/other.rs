//! The pages that are one table or two.

use super::{current, fresh_secret, policy_sentence, shell};
use crate::access::{check_text, history};
use crate::guard::Visitor;
use crate::site::{Ask, Site};
use crate::words;
use std::collections::BTreeSet;
use sw_control::clock;
use sw_tailnet::{AuthKey, Tailnet, User};
use sw_types::UnixTime;
use sw_web::access::{AccessView, Matrix, ReachView, Tab, Version};
use sw_web::{Kind, Page, access, add, dns, keys, people, relays, settings};

pub(super) async fn add(site: &Site, ask: &Ask, visitor: &Visitor) -> Option<String> {
    let shell = shell(site, ask, visitor, Page::Machines).await?;
    let now = clock::now().wall;
    let Some(invite) = site.invites.get(visitor.user, now) else {
        return Some(add::ask_page(&shell));
    };
    let facts = &site.config.join;
    let view = add::AddView {
        sentence: format!(
            "It works {} times, until {} UTC.",
            crate::join::INVITE_USES,
            words::date_time(invite.expires)
        ),
        invite_id: invite.id.clone(),
        join_line: facts.line(&invite.token),
        join_string: facts.string(&invite.token, invite.expires).unwrap_or_default(),
        join_url: facts.url(&invite.token),
        official_up: facts.official_up(&invite.auth_key),
        login_server: site.config.base_url.clone(),
        no_phones: if facts.is_reachable_outside || !site.config.is_https() {
            String::new()
        } else {
            "Phones need a public address or a domain. This network has none yet.".into()
        },
        joined: joined_since(site, invite.made).await?,
    };
    Some(add::page(&shell, &view))
}

/// The live list of the page Add.
pub(super) async fn joined(site: &Site, visitor: &Visitor) -> Option<String> {
    let since =
        site.invites.get(visitor.user, clock::now().wall).map_or(clock::now().wall, |invite| invite.made);
    Some(add::live(&joined_since(site, since).await?).into_string())
}

async fn joined_since(site: &Site, since: UnixTime) -> Option<Vec<add::Joined>> {
    let read = site.control.read(move |tailnet| {
        let new = tailnet.state().nodes().filter(|node| node.created >= since);
        new.map(|node| {
            let system =
                tailnet.facts(node.id).map(|f| crate::device::device_words(&f.host)).unwrap_or_default();
            let online = tailnet.presence(node.id).is_online();
            add::Joined {
                name: node.label.clone(),
                facts: format!("{system}, {}", node.ipv4),
                when: words::date_time(node.created),
                kind: if online { Kind::Idle } else { Kind::Offline },
            }
        })
        .collect()
    });
    read.await.ok()
}

pub(super) async fn access(site: &Site, ask: &Ask, visitor: &Visitor) -> Option<String> {
    let tab = Tab::parse(ask.query.get("tab"));
    let versions = history(site).await;
    let wanted: u64 = ask.query.get("version").parse().unwrap_or(0);
    let shown = versions.iter().find(|v| v.version == wanted).map(|v| v.text.clone());
    let preset = access::PRESETS
        .iter()
        .find(|(id, ..)| *id == ask.query.get("preset"))
        .map(|(_, _, text)| (*text).to_owned());
    let reach = ReachView {
        src: ask.query.get("src").into(),
        dst: ask.query.get("dst").into(),
        port: ask.query.get("port").into(),
        answer: None,
    };
    let (who, now) = (visitor.clone(), clock::now());
    let view = site.control.read(move |tailnet| {
        let (version, text) = current(tailnet);
        let text = shown.or(preset).unwrap_or(text);
        let check = check_text(tailnet, &who, &text);
        let reach = answer(tailnet, reach);
        AccessView {
            sentence: policy_sentence(tailnet),
            tab,
            version,
            text,
            check,
            is_default: tailnet.state().policy().is_none(),
            matrix: matrix(tailnet),
            reach,
            ..AccessView::default()
        }
    });
    let mut view = view.await.ok()?;
    view.unconfirmed_s = site.risky.seconds_left(view.version, now.mono);
    view.history = versions
        .into_iter()
        .map(|v| Version {
            number: v.version,
            author: v.author,
            when: words::date_time(v.at),
            note: words::count(v.text.lines().count(), "line", "lines"),
            is_current: v.version == view.version,
        })
        .collect();
    Some(access::page(&shell(site, ask, visitor, Page::Access).await?, &view))
}

/// "Can it reach?", from the filter that the destination is sent.
fn answer(tailnet: &Tailnet, mut reach: ReachView) -> ReachView {
    if reach.src.is_empty() || reach.dst.is_empty() {
        return reach;
    }
    let find = |word: &str| tailnet.state().find_node(word);
    let (Some(src), Some(dst)) = (find(&reach.src), find(&reach.dst)) else {
        reach.answer = Some((false, "No machine has that name.".into()));
        return reach;
    };
    let port: Option<u16> = reach.port.parse().ok();
    let from = src.ipv4;
    let is_source = |text: &str| {
        text == "*"
            || text.parse::<ipnet::IpNet>().is_ok_and(|net| net.contains(&std::net::IpAddr::V4(from)))
            || text == from.to_string()
    };
    let to = std::net::IpAddr::V4(dst.ipv4);
    let is_target = |text: &str| {
        text == "*"
            || text.parse::<ipnet::IpNet>().is_ok_and(|net| net.contains(&to))
            || text == to.to_string()
    };
    let allowed = tailnet.filter_of(dst.id).iter().any(|rule| {
        rule.src_ips.iter().any(|src| is_source(src))
            && rule
                .dst_ports
                .iter()
                .any(|d| is_target(&d.ip) && port.is_none_or(|p| (d.ports.first..=d.ports.last).contains(&p)))
    });
    let sentence = if allowed {
        format!("{} reaches {}.", src.label, dst.label)
    } else {
        format!(
            "No rule lets {} reach {}{}.",
            src.label,
            dst.label,
            port.map(|p| format!(" on port {p}")).unwrap_or_default()
        )
    };
    reach.answer = Some((allowed, sentence));
    reach
}

/// Machines by machines, at most twenty each way.
fn matrix(tailnet: &Tailnet) -> Matrix {
    let nodes: Vec<_> = tailnet.state().nodes().take(20).collect();
    let columns = nodes.iter().map(|node| node.label.clone()).collect();
    let rows = nodes.iter().map(|a| {
        let cells = nodes.iter().map(|b| {
            if a.id == b.id {
                "-".into()
            } else if tailnet.sees(a.id, b.id) {
                "sees".into()
            } else {
                String::new()
            }
        });
        (a.label.clone(), cells.collect())
    });
    Matrix { columns, rows: rows.collect() }
}

pub(super) async fn people(site: &Site, ask: &Ask, visitor: &Visitor) -> Option<String> {
    let link = fresh_secret(site, ask, visitor);
    let now = clock::now().wall;
    let mut view = site.control.read(move |tailnet| people_view(tailnet, now)).await.ok()?;
    if let (Some(link), Some(invite)) = (link, view.invites.first_mut()) {
        invite.link = link;
    }
    Some(people::page(&shell(site, ask, visitor, Page::People).await?, &view))
}

fn people_view(tailnet: &Tailnet, now: UnixTime) -> people::PeopleView {
    let state = tailnet.state();
    let mut invites: Vec<&AuthKey> =
        state.auth_keys().filter(|key| key.invite && is_valid(key, now)).collect();
    invites.sort_by_key(|key| std::cmp::Reverse(key.created));
    let person = |user: &User| {
        let own = || state.nodes().filter(|node| node.user() == Some(user.id));
        let seen = own().filter_map(|node| tailnet.facts(node.id)?.last_seen).max();
        let is_online = own().any(|node| tailnet.presence(node.id).is_online());
        people::Person {
            id: user.id.to_string(),
            name: words::foreign(if user.display_name.is_empty() { &user.name } else { &user.display_name }),
            login: format!("{}@", user.name),
            role: user.role.as_str().into(),
            machines: own().count(),
            sign_in: if user.provider.is_some() {
                "company sign-in".into()
            } else {
                "machine or link".into()
            },
            seen: if is_online {
                "now".into()
            } else {
                seen.map_or_else(|| "never".into(), |at| words::ago(at, now))
            },
        }
    };
    let people: Vec<people::Person> = state.users().map(person).collect();
    let invites: Vec<people::Invite> = invites
        .iter()
        .map(|key| people::Invite {
            id: key.id.clone(),
            for_whom: key
                .user
                .and_then(|id| state.user(id))
                .map_or_else(String::new, |user| user.name.clone()),
            sent: format!("made {}", words::ago(key.created, now)),
            may: "add machines".into(),
            ends: key.expires.map_or_else(|| "never".into(), |at| words::until(at, now)),
            link: String::new(),
        })
        .collect();
    let count = words::count(people.len(), "person", "people");
    people::PeopleView {
        sentence: format!("{count}, {}.", words::count(invites.len(), "open invite", "open invites")),
        people,
        invites,
    }
}

fn is_valid(key: &AuthKey, now: UnixTime) -> bool {
    key.revoked.is_none()
        && key.expires.is_none_or(|at| at > now)
        && key.uses_max.is_none_or(|max| key.used < max)
}

pub(super) async fn keys(site: &Site, ask: &Ask, visitor: &Visitor) -> Option<String> {
    let now = clock::now().wall;
    let mut view = site.control.read(move |tailnet| keys_view(tailnet, now)).await.ok()?;
    view.fresh = fresh_secret(site, ask, visitor);
    Some(keys::page(&shell(site, ask, visitor, Page::Keys).await?, &view))
}

fn keys_view(tailnet: &Tailnet, now: UnixTime) -> keys::KeysView {
    let state = tailnet.state();
    let auth: Vec<keys::AuthKey> = state
        .auth_keys()
        .filter(|key| is_valid(key, now))
        .map(|key| keys::AuthKey {
            id: key.id.clone(),
            shown: format!("{}...", key.id),
            note: [if key.invite { "invite" } else { "auth key" }, key.description.as_str()]
                .join(" ")
                .trim()
                .to_owned(),
            adds: match (key.user.and_then(|id| state.user(id)), key.tags.is_empty()) {
                (_, false) => key.tags.join(", "),
                (Some(user), true) => format!("{}'s machines", user.name),
                (None, true) => String::new(),
            },
            left: key
                .uses_max
                .map_or_else(|| "no limit".into(), |max| format!("{} of {max}", max - key.used.min(max))),
            ends: key.expires.map_or_else(|| "never".into(), |at| words::until(at, now)),
            last_used: if key.used == 0 {
                "never".into()
            } else {
                words::count(key.used as usize, "time", "times")
            },
        })
        .collect();
    let api: Vec<keys::ApiKey> = state
        .api_keys()
        .map(|key| keys::ApiKey {
            id: key.id.clone(),
            shown: format!("swapi-{}...", key.id),
            note: key.description.clone(),
            may: key.scopes.join(", "),
            ends: key.expires.map_or_else(|| "never".into(), |at| words::until(at, now)),
            last_used: String::new(),
        })
        .collect();
    let sentence = format!(
        "{} and {} are valid.",
        words::count(auth.len(), "invite or auth key", "invites and auth keys"),
        words::count(api.len(), "API key", "API keys")
    );
    keys::KeysView { sentence, auth, api, fresh: None }
}

pub(super) async fn dns(site: &Site, ask: &Ask, visitor: &Visitor) -> Option<String> {
    let asked = ask.query.get("try").to_owned();
    let view = site.control.read(move |tailnet| dns_view(tailnet, asked)).await.ok()?;
    Some(dns::page(&shell(site, ask, visitor, Page::Dns).await?, &view))
}

fn dns_view(tailnet: &Tailnet, asked: String) -> dns::DnsView {
    let settings = tailnet.state().settings();
    let list = |servers: &[sw_tailnet::Nameserver]| {
        servers.iter().map(|s| s.address.clone()).collect::<Vec<_>>().join(", ")
    };
    let mut resolvers: Vec<(String, String, String)> = settings
        .dns
        .split
        .iter()
        .map(|(zone, servers)| (zone.clone(), list(servers), "split zone".into()))
        .collect();
    let rest = if settings.dns.nameservers.is_empty() {
        ("everything else".into(), "each machine's own resolver".into(), "nothing is overridden".into())
    } else {
        ("everything else".into(), list(&settings.dns.nameservers), "set here for all".into())
    };
    resolvers.push(rest);
    let answer = (!asked.is_empty()).then(|| try_name(tailnet, &asked));
    dns::DnsView {
        sentence: format!(
            "Names end in {}. {}.",
            settings.base_domain,
            words::count(settings.dns.extra.len(), "own record", "own records")
        ),
        magic: settings.dns.magic_dns,
        base_domain: settings.base_domain.clone(),
        records: settings
            .dns
            .extra
            .iter()
            .map(|r| dns::Record {
                name: r.name.clone(),
                kind: if r.kind.is_empty() {
                    if r.value.contains(':') { "AAAA".into() } else { "A".into() }
                } else {
                    r.kind.clone()
                },
                value: r.value.clone(),
            })
            .collect(),
        resolvers,
        asked,
        answer,
    }
}

fn try_name(tailnet: &Tailnet, asked: &str) -> (bool, String, String) {
    let settings = tailnet.state().settings();
    let name = asked.trim_end_matches('.').to_ascii_lowercase();
    let label = name.strip_suffix(&format!(".{}", settings.base_domain)).unwrap_or(&name);
    if let Some(node) = tailnet.state().node_by_label(label) {
        return (
            true,
            node.ipv4.to_string(),
            format!("{label}.{} is a machine. Every machine answers this itself.", settings.base_domain),
        );
    }
    if let Some(record) = settings.dns.extra.iter().find(|r| r.name == name) {
        return (true, record.value.clone(), "An own record. Every machine answers this itself.".into());
    }
    (
        false,
        "not here".into(),
        "No machine and no own record has this name; the next resolver is asked.".into(),
    )
}

pub(super) async fn relays(site: &Site, ask: &Ask, visitor: &Visitor) -> Option<String> {
    let view = site.control.read(relays_view).await.ok()?;
    Some(relays::page(&shell(site, ask, visitor, Page::Relays).await?, &view))
}

fn relays_view(tailnet: &Tailnet) -> relays::RelaysView {
    let regions = tailnet.derp_map().regions.clone().unwrap_or_default();
    let users = |region: i64| {
        tailnet
            .state()
            .nodes()
            .filter(|n| {
                tailnet.presence(n.id).is_online()
                    && tailnet.facts(n.id).is_some_and(|f| i64::from(f.home.0) == region)
            })
            .count()
    };
    let mut rows = Vec::new();
    for (id, region) in regions.iter() {
        let number = i64::from(id.0);
        let ways = region.nodes.iter().map(|node| {
            let port = if node.derp_port == 0 { 443 } else { node.derp_port };
            format!("{}, TCP {port}", words::foreign(&node.host_name))
        });
        rows.push(relays::Relay {
            name: if region.region_name.is_empty() {
                format!("region {number}")
            } else {
                region.region_name.clone()
            },
            // Two of one region may stand at one place: one whole, one for STUN alone.
            ways: ways.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join("; "),
            kind: format!("relay, region {number}"),
            used_by: words::count(users(number), "machine", "machines"),
        });
    }
    let blocked = tailnet.state().nodes().filter(|node| {
        let info = tailnet.facts(node.id).and_then(|facts| facts.host.net_info.as_ref());
        tailnet.presence(node.id).is_online() && info.and_then(|info| info.working_udp) == Some(false)
    });
    let relayed = blocked
        .map(|node| relays::RelayedPair {
            pair: format!("{}, everybody", node.label),
            why: "its network lets no UDP out".into(),
            help: "let UDP out in its firewall".into(),
        })
        .collect();
    relays::RelaysView {
        sentence: format!("{} in the map.", words::count(rows.len(), "relay", "relays")),
        relays: rows,
        relayed,
    }
}

pub(super) async fn settings(site: &Site, ask: &Ask, visitor: &Visitor) -> Option<String> {
    let shell = shell(site, ask, visitor, Page::Settings).await?;
    let (theme, version) = (ask.theme, site.config.version.clone());
    let oidc = site.config.oidc.as_ref();
    let oidc = oidc.map_or_else(
        || "Not set up: samewire control serve --help".into(),
        |oidc| format!("by {}", oidc.name()),
    );
    let passkeys = site.passkeys_of(ask, visitor).await;
    let view = site.control.read(move |tailnet| {
        let settings = tailnet.state().settings();
        settings::SettingsView {
            network: settings.name.clone(),
            address_range: format!("{}/{}", settings.pool.base, settings.pool.bits),
            approval: settings.approval,
            record_connections: settings.record_connections,
            key_expiry_days: settings.key_days.unwrap_or(0),
            passkeys,
            oidc,
            backup: "One file with everything but the server's keys".into(),
            version: format!("samewire {version}"),
            theme,
        }
    });
    Some(settings::page(&shell, &view.await.ok()?))
}

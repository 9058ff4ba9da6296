//! What is watched, in plain words.

use super::shell;
use crate::guard::Visitor;
use crate::site::{Ask, Site};
use crate::words;
use std::time::Duration;
use sw_control::clock;
use sw_tailnet::Tailnet;
use sw_types::UnixTime;
use sw_web::Page;
use sw_web::health::{Button, HealthView, Problem, Watched, page as render};

/// A key that ends within this needs somebody.
const WARN: Duration = Duration::from_secs(3 * 86_400);

pub(super) async fn page(site: &Site, ask: &Ask, visitor: &Visitor) -> Option<String> {
    let view = view(site).await?;
    Some(render(&shell(site, ask, visitor, Page::Health).await?, &view))
}

/// How many things need somebody.
pub(super) async fn problems(site: &Site) -> usize {
    let now = clock::now().wall;
    site.control.read(move |tailnet| problems_of(tailnet, now).len()).await.unwrap_or(0)
}

async fn view(site: &Site) -> Option<HealthView> {
    let now = clock::now().wall;
    let is_https = site.config.is_https();
    let outside = site.config.join.is_reachable_outside;
    let (mut problems, watched) =
        site.control.read(move |tailnet| (problems_of(tailnet, now), watched(tailnet, now))).await.ok()?;
    let mut watched = watched;
    watched.push(Watched {
        what: "Reachable from outside".into(),
        state: if outside { "yes, as the join line says".into() } else { "only in this LAN".into() },
        is_well: true,
    });
    watched.push(Watched {
        what: "Encryption of this page".into(),
        state: if is_https { "https".into() } else { "plain http, this LAN only".into() },
        is_well: true,
    });
    problems.truncate(20);
    Some(HealthView { problems, watched, checked: "now".into() })
}

fn problems_of(tailnet: &Tailnet, now: UnixTime) -> Vec<Problem> {
    let mut out = Vec::new();
    for node in tailnet.state().nodes() {
        let Some(expiry) = node.expiry else { continue };
        let extend = Button {
            label: "Extend for 180 days".into(),
            to: format!("/machines/{}/extend", node.label),
            post: true,
        };
        if expiry <= now {
            out.push(Problem {
                what: format!("The key of {} has expired.", node.label),
                why: "The others no longer accept it. Sign in again there, or extend it here.".into(),
                button: Some(extend),
            });
        } else if expiry.saturating_since(now) <= WARN {
            out.push(Problem {
                what: format!("The key of {} expires {}.", node.label, words::until(expiry, now)),
                why:
                    "After that the others would no longer accept it. Nothing is interrupted by extending it."
                        .into(),
                button: Some(extend),
            });
        }
    }
    for node in tailnet.state().nodes().filter(|node| !node.approved) {
        out.push(Problem {
            what: format!("{} waits for approval.", node.label),
            why: "It is in the books, but sees nobody until you let it in.".into(),
            button: Some(Button {
                label: "Look".into(),
                to: format!("/machines/{}", node.label),
                post: false,
            }),
        });
    }
    let blocked = tailnet.state().nodes().filter(|node| {
        let info = tailnet.facts(node.id).and_then(|facts| facts.host.net_info.as_ref());
        tailnet.presence(node.id).is_online() && info.and_then(|info| info.working_udp) == Some(false)
    });
    for node in blocked {
        out.push(Problem {
            what: format!("{} reaches everybody only by relay.", node.label),
            why: "Its network drops all outgoing UDP. If it let UDP out, its paths would be direct. The relay works until then.".into(),
            button: Some(Button { label: "Open machine".into(), to: format!("/machines/{}", node.label), post: false }),
        });
    }
    out
}

fn watched(tailnet: &Tailnet, now: UnixTime) -> Vec<Watched> {
    let well = |what: &str, state: String| Watched { what: what.into(), state, is_well: true };
    let online = tailnet.state().nodes().filter(|n| tailnet.presence(n.id).is_online()).count();
    let expired = tailnet.state().nodes().filter(|n| n.is_expired(now)).count();
    let relays = tailnet.derp_map().regions.as_ref().map_or(0, std::collections::BTreeMap::len);
    let policy = tailnet
        .state()
        .policy()
        .map_or_else(|| "everyone reaches everything".into(), |p| format!("version {}", p.version));
    vec![
        well("Machines", format!("{online} of {} online", tailnet.state().node_count())),
        Watched {
            what: "Keys of machines".into(),
            state: format!("{expired} expired"),
            is_well: expired == 0,
        },
        Watched { what: "Relays".into(), state: format!("{relays} in the map"), is_well: relays > 0 },
        well("Policy", policy),
        well("Names", if tailnet.state().settings().dns.magic_dns { "on".into() } else { "off".into() }),
        well("Storage", "every change is on disk before it is answered".into()),
    ]
}

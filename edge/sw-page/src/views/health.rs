//! What is watched, in plain words.

use super::shell;
use crate::guard::Visitor;
use crate::site::{Ask, Site};
use crate::words;
use std::sync::Arc;
use std::time::Duration;
use sw_control::{Finding, clock, findings};
use sw_tailnet::Tailnet;
use sw_types::UnixTime;
use sw_types::problem::Slug;
use sw_web::Page;
use sw_web::health::{Button, HealthView, Problem, Watched, page as render};

/// More at once helps nobody.
const PROBLEMS_MAX: usize = 20;
/// Ends of keys within this are counted.
const SOON: Duration = Duration::from_secs(14 * 86_400);

pub(super) async fn page(site: &Site, ask: &Ask, visitor: &Visitor) -> Option<String> {
    let view = view(site).await?;
    Some(render(&shell(site, ask, visitor, Page::Health).await?, &view))
}

/// How many things need somebody.
pub(super) async fn problems(site: &Site) -> usize {
    let now = clock::now().wall;
    let join = Arc::clone(&site.config.join);
    site.control.read(move |tailnet| findings(tailnet, Some(&join), now).len()).await.unwrap_or(0)
}

async fn view(site: &Site) -> Option<HealthView> {
    let now = clock::now().wall;
    let is_https = site.config.is_https();
    let outside = site.config.join.is_reachable_outside;
    let join = Arc::clone(&site.config.join);
    let look = move |tailnet: &Tailnet| (findings(tailnet, Some(&join), now), watched(tailnet, now));
    let (found, mut watched) = site.control.read(look).await.ok()?;
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
    let problems = found.into_iter().take(PROBLEMS_MAX).map(problem_of).collect();
    Some(HealthView { problems, watched, checked: "now".into() })
}

fn problem_of(finding: Finding) -> Problem {
    let Finding { machine, problem } = finding;
    let slug = problem.known_slug();
    let button = machine.as_ref().map(|label| match slug {
        Some(Slug::KeyExpired | Slug::KeyExpiresSoon) => Button {
            label: "Extend for 180 days".into(),
            to: format!("/machines/{label}/extend"),
            post: true,
        },
        Some(_) | None => {
            Button { label: "Open machine".into(), to: format!("/machines/{label}"), post: false }
        }
    });
    let is_acted_on = button.as_ref().is_some_and(|button| button.post);
    let mut texts = vec![problem.why, if is_acted_on { String::new() } else { problem.fix }];
    texts.retain(|text| !text.is_empty());
    Problem {
        machine,
        what: words::sentence(&problem.what),
        why: texts.iter().map(|text| words::sentence(text)).collect::<Vec<_>>().join(" "),
        help: slug.map(|slug| format!("samewire help {}", slug.name())),
        button,
    }
}

fn watched(tailnet: &Tailnet, now: UnixTime) -> Vec<Watched> {
    let well = |what: &str, state: String| Watched { what: what.into(), state, is_well: true };
    let online = tailnet.state().nodes().filter(|n| tailnet.presence(n.id).is_online()).count();
    let expired = tailnet.state().nodes().filter(|n| n.is_expired(now)).count();
    let ends = |at: UnixTime| at > now && at.saturating_since(now) < SOON;
    let ending = tailnet.state().nodes().filter(|node| node.expiry.is_some_and(ends)).count();
    let relays = tailnet.derp_map().regions.as_ref().map_or(0, std::collections::BTreeMap::len);
    let policy = tailnet
        .state()
        .policy()
        .map_or_else(|| "everyone reaches everything".into(), |p| format!("version {}", p.version));
    vec![
        well("Machines", format!("{online} of {} online", tailnet.state().node_count())),
        Watched {
            what: "Keys of machines".into(),
            state: format!("{expired} expired, {ending} end within 14 days"),
            is_well: expired == 0,
        },
        Watched { what: "Relays".into(), state: format!("{relays} in the map"), is_well: relays > 0 },
        well("Policy", policy),
        well("Names", if tailnet.state().settings().dns.magic_dns { "on".into() } else { "off".into() }),
        well("Storage", "every change is on disk before it is answered".into()),
    ]
}

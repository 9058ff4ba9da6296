//! What needs somebody: the same sentences on the page, in the API and on the command line (ux.md §1.1).

use std::time::Duration;

use serde::Serialize;
use sw_tailnet::{Node, Tailnet};
use sw_types::UnixTime;
use sw_types::local::Problem;
use sw_types::problem::{Slug, span};

use crate::join::JoinFacts;

/// A key that ends within this needs somebody.
const EXPIRY_NOTICE: Duration = Duration::from_secs(3 * 86_400);

/// One thing that needs somebody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The machine it is about; none where it is the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    /// What, why, and what to do.
    #[serde(flatten)]
    pub problem: Problem,
}

/// Everything that needs somebody, the server's own troubles first.
pub fn findings(tailnet: &Tailnet, join: Option<&JoinFacts>, now: UnixTime) -> Vec<Finding> {
    let server = join.map(JoinFacts::problems).unwrap_or_default().into_iter();
    let mut all: Vec<Finding> =
        server.chain(no_relay(tailnet)).map(|problem| Finding { machine: None, problem }).collect();
    for node in tailnet.state().nodes() {
        let of_machine = [key(tailnet, node, now), waits(node, join), relayed(tailnet, node)];
        let machine = Some(node.label.clone());
        all.extend(
            of_machine.into_iter().flatten().map(|problem| Finding { machine: machine.clone(), problem }),
        );
    }
    all
}

fn no_relay(tailnet: &Tailnet) -> Option<Problem> {
    let count = tailnet.derp_map().regions.as_ref().map_or(0, std::collections::BTreeMap::len);
    (count == 0).then(|| Problem {
        slug: "no-relay".to_owned(),
        what: "the network has no relay, so machines behind strict firewalls do not reach each other."
            .to_owned(),
        why: String::new(),
        fix: "start the server without --no-relay, or with --derp-map FILE".to_owned(),
    })
}

fn key(tailnet: &Tailnet, node: &Node, now: UnixTime) -> Option<Problem> {
    let expiry = node.expiry?;
    let days = tailnet.state().settings().key_days;
    let person = node.user().and_then(|user| tailnet.state().user(user)).map(|user| user.name.as_str());
    let reason = match (person, days) {
        (Some(person), Some(days)) => format!("keys of {person} last {days} days"),
        (Some(_) | None, _) => String::new(),
    };
    if expiry <= now {
        let age = span(now.saturating_since(expiry));
        return Some(Slug::KeyExpired.problem(&[("age", &age), ("reason", &reason), ("name", &node.label)]));
    }
    let left = expiry.saturating_since(now);
    (left <= EXPIRY_NOTICE)
        .then(|| Slug::KeyExpiresSoon.problem(&[("time", &span(left)), ("reason", &reason)]))
}

fn waits(node: &Node, join: Option<&JoinFacts>) -> Option<Problem> {
    let url = join.map_or("the page Machines", |join| &join.page_url);
    (!node.approved).then(|| Slug::WaitingApproval.problem(&[("name", &node.label), ("url", url)]))
}

/// A machine that says that no UDP leaves its network.
fn relayed(tailnet: &Tailnet, node: &Node) -> Option<Problem> {
    let info = tailnet.facts(node.id).and_then(|facts| facts.host.net_info.as_ref());
    let is_blocked =
        tailnet.presence(node.id).is_online() && info.and_then(|info| info.working_udp) == Some(false);
    is_blocked.then(|| Problem {
        why: "it says so itself; the relay carries its traffic".to_owned(),
        fix: "let UDP out in its firewall: its paths become direct by themselves".to_owned(),
        ..Slug::UdpBlocked.problem(&[])
    })
}

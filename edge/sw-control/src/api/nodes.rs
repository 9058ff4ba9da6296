//! Machines, waiting logins and routes.

use std::net::IpAddr;

use http::{Method, StatusCode};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use sw_tailnet::{Command, LoginStatus, Node, Tailnet, is_exit};
use sw_types::{NodeId, NodeKey, UnixTime, UserId};

use super::{Answer, Ask, Problem, no_such_path, ok};
use crate::c2n::{self, Unanswered};

/// A machine as scripts see it (localapi-cli.md §C1). Keys are never renamed.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NodeInfo {
    id: String,
    stable_id: String,
    name: String,
    given_name: String,
    fqdn: String,
    user: Option<String>,
    tags: Vec<String>,
    addresses: Vec<IpAddr>,
    online: bool,
    node_key: NodeKey,
    machine_key: String,
    last_seen: Option<UnixTime>,
    expiry: Option<UnixTime>,
    expired: bool,
    approved: bool,
    ephemeral: bool,
    created: UnixTime,
    os: String,
    version: String,
    endpoints: Vec<std::net::SocketAddr>,
    home_relay: u32,
    routes: Routes,
}

/// Routes of a machine.
#[derive(Debug, Clone, Serialize)]
struct Routes {
    advertised: Vec<IpNet>,
    approved: Vec<IpNet>,
    serving: Vec<IpNet>,
}

impl NodeInfo {
    pub(crate) fn of(tailnet: &Tailnet, node: &Node) -> Self {
        let state = tailnet.state();
        let facts = tailnet.facts(node.id).cloned().unwrap_or_default();
        let now = crate::clock::now().wall;
        Self {
            id: node.id.to_string(),
            stable_id: state.stable_id(node.id),
            name: node.host_name.clone(),
            given_name: node.label.clone(),
            fqdn: state.fqdn(node).trim_end_matches('.').to_owned(),
            user: node.user().and_then(|user| state.user(user)).map(|user| user.name.clone()),
            tags: node.tags().to_vec(),
            addresses: node.addresses().to_vec(),
            online: tailnet.is_online(node.id),
            node_key: node.node_key,
            machine_key: node.machine_key.to_string(),
            last_seen: facts.last_seen,
            expiry: node.expiry,
            expired: node.is_expired(now),
            approved: node.approved,
            ephemeral: node.ephemeral,
            created: node.created,
            os: facts.host.os.clone(),
            version: facts.host.ipn_version.clone(),
            endpoints: facts.endpoints.clone(),
            home_relay: facts.home.0,
            routes: Routes {
                advertised: facts.host.routable_ips.clone(),
                approved: node.approved_routes.clone(),
                serving: tailnet.serving_routes(node.id).to_vec(),
            },
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Input {
    name: Option<String>,
    tags: Vec<String>,
    routes: Vec<IpNet>,
    user: Option<String>,
    expiry: Option<UnixTime>,
    disable: bool,
    approved: Option<bool>,
    ipv4: Option<std::net::Ipv4Addr>,
}

pub(crate) async fn handle(ask: &Ask<'_>, path: &[&str]) -> Answer {
    ask.may("devices:core")?;
    match (ask.method().clone(), path) {
        (Method::GET, []) => {
            let list = ask.shared.control.read(|tailnet| {
                let nodes = tailnet.state().nodes();
                nodes.map(|node| NodeInfo::of(tailnet, node)).collect::<Vec<_>>()
            });
            ok(&list.await?)
        }
        (Method::GET, [word]) => one(ask, find(ask, word).await?).await,
        (Method::DELETE, [word]) => {
            let node = find(ask, word).await?;
            run(ask, Command::DeleteNode(node)).await?;
            ok(&serde_json::json!({}))
        }
        (Method::POST, [word, "approve"]) => approve(ask, word).await,
        (Method::POST, [word, "refuse"]) => {
            run(ask, Command::RefuseLogin(login_word(word))).await?;
            ok(&serde_json::json!({}))
        }
        (Method::POST, [word, "ping"]) => {
            let took = c2n::echo(ask.shared, find(ask, word).await?).await?;
            ok(&serde_json::json!({ "milliseconds": took.as_secs_f64() * 1e3 }))
        }
        (Method::POST, [word, verb]) => {
            let node = find(ask, word).await?;
            let command = command(ask, node, verb).await?;
            run(ask, command).await?;
            one(ask, node).await
        }
        _ => Err(no_such_path()),
    }
}

impl From<Unanswered> for Problem {
    fn from(why: Unanswered) -> Self {
        let status = match why {
            Unanswered::Away(_) => StatusCode::CONFLICT,
            Unanswered::Silent(_) | Unanswered::Other(_) => StatusCode::GATEWAY_TIMEOUT,
            Unanswered::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Unanswered::Failed(failure) => return failure.into(),
        };
        Self::new(status, why.to_string())
    }
}

async fn command(ask: &Ask<'_>, node: NodeId, verb: &str) -> Result<Command, Problem> {
    let input: Input = ask.input()?;
    Ok(match verb {
        "rename" => Command::RenameNode { node, label: input.name },
        "expire" => {
            let at =
                if input.disable { None } else { Some(input.expiry.unwrap_or(crate::clock::now().wall)) };
            Command::SetExpiry { node, at }
        }
        "tags" => Command::TagNode { node, tags: input.tags },
        "routes" => Command::SetRoutes { node, routes: input.routes },
        "authorized" => Command::ApproveNode { node, approved: input.approved.unwrap_or(true) },
        "user" => {
            let word = input.user.ok_or_else(|| Problem::new(StatusCode::BAD_REQUEST, "name a user"))?;
            Command::GiveNode { node, user: super::users::find(ask, &word).await? }
        }
        "address" => {
            let ipv4 =
                input.ipv4.ok_or_else(|| Problem::new(StatusCode::BAD_REQUEST, "name an ipv4 address"))?;
            Command::SetAddress { node, ipv4 }
        }
        _ => return Err(no_such_path()),
    })
}

/// Lets in what waits: a login request by its id or URL, or a machine that wants approval.
async fn approve(ask: &Ask<'_>, word: &str) -> Answer {
    let input: Input = ask.input()?;
    let login = login_word(word);
    let (asked, user_word) = (login.clone(), input.user.clone());
    let found = ask.shared.control.read(move |tailnet| {
        let waits = tailnet.login(&asked).is_some();
        let state = tailnet.state();
        let user = match &user_word {
            Some(word) => state.find_user(word).map(|user| user.id),
            // Unambiguous where there is one person.
            None => one_user(state.users().map(|user| user.id)),
        };
        (waits, user)
    });
    let (waits, user) = found.await?;
    if !waits {
        let node = find(ask, word).await?;
        run(ask, Command::ApproveNode { node, approved: true }).await?;
        return one(ask, node).await;
    }
    let user = match (user, &input.user) {
        (Some(user), _) => user,
        (None, Some(word)) => return Err(Problem::not_found("person", word)),
        (None, None) => {
            return Err(Problem::new(StatusCode::BAD_REQUEST, "whose machine is it? name a user"));
        }
    };
    match run(ask, Command::ApproveLogin { login, user, by_admin: true }).await? {
        sw_tailnet::Done::Node(node) => one(ask, node).await,
        sw_tailnet::Done::Changed | sw_tailnet::Done::User(_) | sw_tailnet::Done::Secret { .. } => {
            ok(&serde_json::json!({}))
        }
    }
}

fn one_user(mut users: impl Iterator<Item = UserId>) -> Option<UserId> {
    let first = users.next()?;
    users.next().is_none().then_some(first)
}

/// The id in a login page's URL, or the word itself.
fn login_word(word: &str) -> String {
    word.rsplit('/').next().unwrap_or(word).to_owned()
}

pub(crate) async fn find(ask: &Ask<'_>, word: &str) -> Result<NodeId, Problem> {
    let asked = word.to_owned();
    let found =
        ask.shared.control.read(move |tailnet| tailnet.state().find_node(&asked).map(|node| node.id)).await?;
    found.ok_or_else(|| Problem::not_found("machine", word))
}

async fn one(ask: &Ask<'_>, node: NodeId) -> Answer {
    let look = move |tailnet: &Tailnet| tailnet.state().node(node).map(|found| NodeInfo::of(tailnet, found));
    let info = ask.shared.control.read(look).await?;
    ok(&info.ok_or_else(|| Problem::not_found("machine", &node.to_string()))?)
}

async fn run(ask: &Ask<'_>, command: Command) -> Result<sw_tailnet::Done, Problem> {
    Ok(ask.shared.control.execute(&ask.caller.name, command).await?)
}

/// Login requests that wait for somebody.
pub(crate) async fn logins(ask: &Ask<'_>) -> Answer {
    ask.may("devices:core")?;
    let list = ask.shared.control.read(|tailnet| {
        let waiting = tailnet.logins().filter(|login| login.status == LoginStatus::Waiting);
        let shown = waiting.map(|login| {
            serde_json::json!({
                "id": login.id, "name": login.host.hostname, "os": login.host.os, "created": login.created,
                "machineKey": login.machine_key, "nodeKey": login.node_key,
            })
        });
        shown.collect::<Vec<_>>()
    });
    ok(&list.await?)
}

/// Every announced or approved route.
pub(crate) async fn routes(ask: &Ask<'_>) -> Answer {
    ask.may("devices:routes")?;
    let list = ask.shared.control.read(|tailnet| {
        let mut list = Vec::new();
        for node in tailnet.state().nodes() {
            let advertised = tailnet.facts(node.id).map(|facts| facts.host.routable_ips.clone()).unwrap_or_default();
            let mut all: Vec<IpNet> = advertised.iter().chain(&node.approved_routes).copied().collect();
            all.sort();
            all.dedup();
            list.extend(all.into_iter().map(|route| {
                serde_json::json!({
                    "id": node.id.to_string(), "givenName": node.label, "route": route,
                    "advertised": advertised.contains(&route), "approved": node.approved_routes.contains(&route),
                    "serving": tailnet.serving_routes(node.id).contains(&route), "exit": is_exit(&route),
                })
            }));
        }
        list
    });
    ok(&list.await?)
}

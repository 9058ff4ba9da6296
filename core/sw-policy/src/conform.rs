//! The conformance interface: one JSON document in, one out (policy.md §17).

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sw_types::{NodeId, UserId};

use crate::alias::Role;
use crate::check::Context;
use crate::compiled::Compiled;
use crate::error::Rejection;
use crate::model::Policy;
use crate::plan::CapMap;
use crate::policy_tests;
use crate::posture::Attributes;
use crate::rule::{Rule, SshPolicy};
use crate::world::{Node, User, World};

/// The input.
#[derive(Debug, Deserialize)]
pub struct Input {
    #[serde(default)]
    policy: Option<Box<RawValue>>,
    #[serde(flatten)]
    world: WorldInput,
    #[serde(default)]
    options: Options,
}

/// People and machines as JSON: the `users` and `nodes` of the interface.
#[derive(Debug, Default, Deserialize)]
pub struct WorldInput {
    #[serde(default)]
    users: Option<Vec<UserInput>>,
    #[serde(default)]
    nodes: Option<Vec<NodeInput>>,
}

#[derive(Debug, Deserialize)]
struct UserInput {
    id: i64,
    #[serde(default)]
    name: String,
    #[serde(default)]
    email: Option<String>,
    #[serde(default)]
    provider: Option<String>,
    #[serde(default)]
    role: Option<String>,
    #[serde(default)]
    groups: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NodeInput {
    id: i64,
    name: String,
    #[serde(default)]
    user: Option<i64>,
    #[serde(default)]
    tags: Option<Vec<String>>,
    #[serde(default)]
    ipv4: Option<std::net::Ipv4Addr>,
    #[serde(default)]
    ipv6: Option<std::net::Ipv6Addr>,
    #[serde(default, rename = "routableIPs")]
    routable_ips: Option<Vec<IpNet>>,
    #[serde(default)]
    approved_routes: Option<Vec<IpNet>>,
    #[serde(default)]
    posture: Option<Attributes>,
    #[serde(default)]
    online: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Options {
    run_tests: bool,
    ssh_base: String,
    domains: Option<Vec<String>>,
    check_domains: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { run_tests: true, ssh_base: "https://unused".to_owned(), domains: None, check_domains: false }
    }
}

/// The answer.
#[derive(Debug, Serialize)]
pub struct Output {
    error: Option<ErrorOutput>,
    nodes: BTreeMap<String, NodeOutput>,
}

#[derive(Debug, Serialize)]
struct ErrorOutput {
    kind: &'static str,
    message: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct NodeOutput {
    packet_filter: Vec<Rule>,
    ssh_policy: SshPolicy,
    cap_map: CapMap,
    peers: Vec<String>,
    peer_routes: BTreeMap<String, Vec<String>>,
    primary_routes: Vec<String>,
    auto_approve: Vec<String>,
}

/// A world and which of its machines are online.
#[derive(Clone, Debug, Default)]
pub struct Network {
    pub world: World,
    pub offline: std::collections::BTreeSet<NodeId>,
}

impl WorldInput {
    /// Turns the JSON into a world.
    #[must_use]
    pub fn network(self) -> Network {
        let mut network = Network::default();
        for user in self.users.unwrap_or_default() {
            let id = UserId(user.id);
            let user = User {
                id,
                name: user.name,
                email: user.email.unwrap_or_default(),
                provider: user.provider.unwrap_or_default(),
                role: user.role.map_or(Role::Member, |role| Role::parse(&role)),
                groups: user.groups.unwrap_or_default(),
            };
            network.world.users.insert(id, Arc::new(user));
        }
        for node in self.nodes.unwrap_or_default() {
            let id = NodeId(node.id);
            if node.online == Some(false) {
                network.offline.insert(id);
            }
            let addresses = node.ipv4.map(Into::into).into_iter().chain(node.ipv6.map(Into::into));
            let facts = Node {
                id,
                name: node.name,
                user: node.user.map(UserId),
                tags: node.tags.unwrap_or_default(),
                addresses: addresses.collect(),
                announced: node.routable_ips.unwrap_or_default(),
                approved: node.approved_routes.unwrap_or_default(),
                posture: node.posture.unwrap_or_default(),
            };
            network.world.nodes.insert(id, Arc::new(facts));
        }
        network
    }
}

impl Network {
    /// Prints the people and machines as the `users` and `nodes` which [`WorldInput`] reads.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let user = |user: &Arc<User>| {
            serde_json::json!({
                "id": user.id.0, "name": user.name, "email": user.email, "provider": user.provider,
                "role": user.role.name(), "groups": user.groups,
            })
        };
        let node = |node: &Arc<Node>| {
            let address = |is_v4| node.addresses.iter().find(|address| address.is_ipv4() == is_v4);
            serde_json::json!({
                "id": node.id.0, "name": node.name, "user": node.user.map(|user| user.0), "tags": node.tags,
                "ipv4": address(true), "ipv6": address(false), "routableIPs": node.announced,
                "approvedRoutes": node.approved, "posture": node.posture,
                "online": !self.offline.contains(&node.id),
            })
        };
        let users: Vec<serde_json::Value> = self.world.users.values().map(user).collect();
        let nodes: Vec<serde_json::Value> = self.world.nodes.values().map(node).collect();
        serde_json::json!({ "users": users, "nodes": nodes })
    }

    /// Returns which machine serves each subnet route: the lowest number that is online (policy.md §11.4).
    #[must_use]
    pub fn primaries(&self) -> BTreeMap<IpNet, NodeId> {
        let mut primaries = BTreeMap::new();
        for is_online in [true, false] {
            for node in self.world.nodes.values().filter(|node| self.offline.contains(&node.id) != is_online)
            {
                for net in node.subnet_routes() {
                    primaries.entry(net).or_insert(node.id);
                }
            }
        }
        primaries
    }
}

/// Answers one document.
///
/// # Errors
/// When the document is not of the interface's form.
pub fn answer(document: &str) -> Result<Output, serde_json::Error> {
    let input: Input = serde_json::from_str(document)?;
    let text = match &input.policy {
        None => String::new(),
        Some(raw) if raw.get().starts_with('"') => serde_json::from_str(raw.get())?,
        Some(raw) => raw.get().to_owned(),
    };
    let network = input.world.network();
    Ok(match compile(&text, &network, &input.options) {
        Ok(compiled) => Output { error: None, nodes: outputs(&compiled, &network, &input.options) },
        Err(rejection) => {
            let error = ErrorOutput { kind: rejection.kind().name(), message: rejection.message() };
            Output { error: Some(error), nodes: BTreeMap::new() }
        }
    })
}

fn compile(text: &str, network: &Network, options: &Options) -> Result<Compiled, Rejection> {
    let derived = network.world.domains();
    let domains = options.check_domains.then(|| options.domains.as_deref().unwrap_or(&derived));
    let policy = Arc::new(Policy::parse(text, Context { world: &network.world, domains })?);
    let compiled = Compiled::new(&policy, &network.world);
    if options.run_tests {
        let failed = policy_tests::run(&compiled);
        if !failed.is_empty() {
            return Err(Rejection::new(text, failed));
        }
    }
    Ok(compiled)
}

fn outputs(compiled: &Compiled, network: &Network, options: &Options) -> BTreeMap<String, NodeOutput> {
    let primaries = network.primaries();
    let mut serving: BTreeMap<NodeId, Vec<IpNet>> = BTreeMap::new();
    for (net, node) in &primaries {
        serving.entry(*node).or_default().push(*net);
    }
    let mut outputs = BTreeMap::new();
    for node in network.world.nodes.values() {
        let id = node.id;
        let primary_routes = sorted(serving.get(&id).into_iter().flatten());
        let mut peers = Vec::new();
        let mut peer_routes = BTreeMap::new();
        for peer in compiled.peers(id).iter().filter_map(|peer| network.world.nodes.get(peer)) {
            let mut served = serving.get(&peer.id).cloned().unwrap_or_default();
            served.extend(peer.exit_routes());
            let seen = compiled.routes_seen(compiled.class(id), peer.id, &served);
            if !seen.is_empty() {
                peer_routes.insert(peer.name.clone(), sorted(seen.iter()));
            }
            peers.push(peer.name.clone());
        }
        peers.sort_unstable();
        let output = NodeOutput {
            packet_filter: compiled.filter(id),
            ssh_policy: compiled.ssh(id, &options.ssh_base),
            cap_map: compiled.attributes(id),
            peers,
            peer_routes,
            primary_routes,
            auto_approve: sorted(compiled.auto_approved(id).iter()),
        };
        outputs.insert(node.name.clone(), output);
    }
    outputs
}

/// Prints prefixes, sorted as text.
fn sorted<'n>(nets: impl Iterator<Item = &'n IpNet>) -> Vec<String> {
    let mut texts: Vec<String> = nets.map(|net| crate::range::prefix_text(*net)).collect();
    texts.sort_unstable();
    texts
}

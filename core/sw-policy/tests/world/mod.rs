//! Random policies, and a world that changes at random.

use std::sync::Arc;

use arbitrary::{Result, Unstructured};
use sw_policy::{Node, Role, User};
use sw_types::{NodeId, UserId};

/// A world, and the names for what comes next.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) now: sw_policy::World,
    next_node: u8,
}

const USERS: [&str; 4] = ["ada", "ben", "cyd", "dee"];
const TAGS: [&str; 3] = ["tag:a", "tag:b", "tag:c"];
const ROUTES: [&str; 5] = ["10.0.0.0/16", "10.0.1.0/24", "10.9.0.0/24", "0.0.0.0/0", "::/0"];

impl World {
    /// Changes one thing; returns what, for the message of a failure.
    pub(crate) fn change(&mut self, u: &mut Unstructured<'_>) -> Result<String> {
        let ids: Vec<NodeId> = self.now.nodes.keys().copied().collect();
        if ids.len() < 2 || u.ratio(1, 4)? {
            return self.join(u);
        }
        let id = *u.choose(&ids)?;
        if u.ratio(1, 6)? || ids.len() > 12 {
            self.now.nodes.remove(&id);
            return Ok(format!("{id} left"));
        }
        if u.ratio(1, 5)? {
            return self.change_person(u);
        }
        let mut node = (*self.now.nodes[&id]).clone();
        let what = match u.int_in_range(0..=3)? {
            0 => {
                owner(u, &mut node)?;
                format!("{id} belongs to {:?} {:?}", node.user, node.tags)
            }
            1 => {
                routes(u, &mut node)?;
                format!("{id} routes {:?}", node.approved)
            }
            2 => {
                node.posture.insert("node:os".to_owned(), (*u.choose(&["linux", "macos"])?).into());
                format!("{id} posture")
            }
            _ => {
                self.next_node += 1;
                addresses(&mut node, self.next_node);
                format!("{id} has {:?}", node.addresses)
            }
        };
        self.now.nodes.insert(id, Arc::new(node));
        Ok(what)
    }

    fn join(&mut self, u: &mut Unstructured<'_>) -> Result<String> {
        self.next_node += 1;
        let id = NodeId(u.int_in_range(1..=60)?);
        let mut node = Node {
            id,
            name: format!("n{id}"),
            user: None,
            tags: Vec::new(),
            addresses: Vec::new(),
            announced: Vec::new(),
            approved: Vec::new(),
            posture: sw_policy::Attributes::new(),
        };
        addresses(&mut node, self.next_node);
        owner(u, &mut node)?;
        routes(u, &mut node)?;
        let what = format!("{id} joined");
        self.now.nodes.insert(id, Arc::new(node));
        Ok(what)
    }

    fn change_person(&mut self, u: &mut Unstructured<'_>) -> Result<String> {
        let at = u.int_in_range(0..=3)?;
        let id = UserId(i64::try_from(at).expect("small") + 1);
        if u.ratio(1, 4)? {
            self.now.users.remove(&id);
            return Ok(format!("person {id} removed"));
        }
        let domain = u.choose(&["x.example", "y.example"])?;
        let user = User {
            id,
            name: USERS[at].to_owned(),
            email: if u.ratio(1, 5)? { String::new() } else { format!("{}@{domain}", USERS[at]) },
            provider: String::new(),
            role: *u.choose(&[Role::Member, Role::Member, Role::Admin, Role::Owner])?,
            groups: Vec::new(),
        };
        let what = format!("person {user:?}");
        self.now.users.insert(id, Arc::new(user));
        Ok(what)
    }
}

fn addresses(node: &mut Node, number: u8) {
    node.addresses = vec![
        format!("100.64.0.{number}").parse().expect("an address"),
        format!("fd7a:115c:a1e0::{number:x}").parse().expect("an address"),
    ];
}

fn owner(u: &mut Unstructured<'_>, node: &mut Node) -> Result<()> {
    node.tags.clear();
    node.user = None;
    if u.ratio(2, 5)? {
        let count = u.int_in_range(1..=2)?;
        let start = u.int_in_range(0..=2)?;
        node.tags = (start..start + count).map(|at| TAGS[at % 3].to_owned()).collect();
    } else {
        node.user = Some(UserId(u.int_in_range(1..=4)?));
    }
    Ok(())
}

fn routes(u: &mut Unstructured<'_>, node: &mut Node) -> Result<()> {
    node.announced.clear();
    node.approved.clear();
    if u.ratio(2, 3)? {
        return Ok(());
    }
    for route in ROUTES {
        let net = route.parse().expect("a prefix");
        if u.ratio(1, 3)? {
            node.announced.push(net);
        }
        if u.ratio(1, 3)? {
            node.approved.push(net);
        }
    }
    Ok(())
}

const PEOPLE: [&str; 8] = [
    "ada@x.example",
    "ben@x.example",
    "cyd@",
    "ghost@x.example",
    "group:dev",
    "group:none",
    "autogroup:member",
    "autogroup:admin",
];
const SOURCES: [&str; 9] = [
    "*",
    "tag:a",
    "tag:b",
    "tag:c",
    "autogroup:tagged",
    "100.64.0.3",
    "10.0.0.0/8",
    "lan",
    "user:*@y.example",
];
const DESTINATIONS: [&str; 13] = [
    "*",
    "tag:a",
    "tag:b",
    "tag:c",
    "group:dev",
    "ada@x.example",
    "autogroup:member",
    "autogroup:tagged",
    "100.64.0.3",
    "10.0.0.0/8",
    "lan",
    "ipset:two",
    "autogroup:internet",
];

fn words(u: &mut Unstructured<'_>, from: &[&str], most: usize) -> Result<Vec<String>> {
    let count = u.int_in_range(1..=most)?;
    (0..count).map(|_| u.choose(from).map(|word| (*word).to_owned())).collect()
}

/// Writes a valid policy.
pub(crate) fn policy(u: &mut Unstructured<'_>) -> Result<String> {
    let mut grants = Vec::new();
    let mut acls = Vec::new();
    for _ in 0..u.int_in_range(0..=5)? {
        grants.push(grant(u)?);
    }
    for _ in 0..u.int_in_range(0..=5)? {
        acls.push(acl(u)?);
    }
    let mut policy = serde_json::json!({
        "groups": {"group:dev": ["ada@x.example", "ben@x.example", "user:*@y.example"], "group:none": []},
        "hosts": {"lan": "10.0.1.0/24"},
        "ipsets": {"ipset:two": ["10.0.0.0/16", "remove 10.0.1.0/24", "add 100.64.0.5"]},
        "tagOwners": {"tag:a": ["ada@x.example"], "tag:b": ["tag:a"], "tag:c": []},
        "postures": {"posture:linux": ["node:os == 'linux'"]},
        "autoApprovers": {"routes": {"10.0.0.0/8": ["tag:a", "group:dev"]}, "exitNode": ["autogroup:admin"]},
        "nodeAttrs": [
            {"target": words(u, &["*", "tag:a", "group:dev", "100.64.0.3", "autogroup:member"], 2)?, "attr": ["x"]},
            {"target": ["tag:b"], "attr": ["y"], "app": {"example.com/z": [1]}},
        ],
        "ssh": [ssh(u)?, ssh(u)?],
    });
    if u.ratio(9, 10)? {
        policy["grants"] = grants.into();
        policy["acls"] = acls.into();
    }
    Ok(serde_json::to_string_pretty(&policy).expect("JSON prints"))
}

fn sources(u: &mut Unstructured<'_>) -> Result<Vec<String>> {
    let mut all = words(u, &PEOPLE, 2)?;
    if u.ratio(1, 2)? {
        all.extend(words(u, &SOURCES, 2)?);
    }
    Ok(all)
}

fn grant(u: &mut Unstructured<'_>) -> Result<serde_json::Value> {
    let is_own = u.ratio(1, 5)?;
    let has_app = u.ratio(1, 4)?;
    let mut grant = serde_json::json!({
        "src": if is_own { words(u, &PEOPLE, 2)? } else { sources(u)? },
        "dst": if is_own { vec!["autogroup:self".to_owned()] } else { words(u, &DESTINATIONS, 2)? },
        "ip": words(u, &["*", "22", "tcp:80-90", "udp:53", "icmp:*", "80,443"], 3)?,
    });
    let to_internet = grant["dst"].as_array().is_some_and(|dst| dst.contains(&"autogroup:internet".into()));
    if has_app && !to_internet {
        let cap = *u.choose(&["example.com/cap/x", "tailscale.com/cap/relay", "tailscale.com/cap/drive"])?;
        grant["app"] = serde_json::json!({cap: [{"n": 1}]});
    }
    if u.ratio(1, 6)? {
        grant["srcPosture"] = serde_json::json!(["posture:linux"]);
    }
    if u.ratio(1, 6)? && !is_own {
        grant["via"] = serde_json::json!(["tag:b"]);
    }
    Ok(grant)
}

fn acl(u: &mut Unstructured<'_>) -> Result<serde_json::Value> {
    let is_own = u.ratio(1, 5)?;
    let from = if is_own { &["autogroup:self", "tag:a"][..] } else { &DESTINATIONS[..] };
    let dst: Vec<String> = words(u, from, 3)?
        .into_iter()
        .map(|dst| Ok(format!("{dst}:{}", u.choose(&["*", "22", "80-90", "80,443"])?)))
        .collect::<Result<_>>()?;
    let mut acl = serde_json::json!({
        "action": "accept",
        "src": if is_own { words(u, &PEOPLE, 2)? } else { sources(u)? },
        "dst": dst,
    });
    if u.ratio(1, 4)? {
        acl["proto"] = (*u.choose(&["tcp", "17"])?).into();
    }
    if u.ratio(1, 6)? {
        acl["srcPosture"] = serde_json::json!(["node:os == 'macos'"]);
    }
    Ok(acl)
}

fn ssh(u: &mut Unstructured<'_>) -> Result<serde_json::Value> {
    let src = words(u, &PEOPLE, 2)?;
    let users = words(u, &["root", "autogroup:nonroot", "ubuntu", "localpart:*@x.example"], 2)?;
    let dst = words(u, &["tag:a", "tag:b", "autogroup:self", "autogroup:tagged", "autogroup:member"], 2)?;
    Ok(serde_json::json!({"action": u.choose(&["accept", "check"])?, "src": src, "dst": dst, "users": users}))
}

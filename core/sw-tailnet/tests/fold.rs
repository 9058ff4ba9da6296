//! The fold of deltas equals the full map, whatever happens in between (control.md §5.2 to §5.5).
#![expect(clippy::unwrap_used, reason = "tests, in their helpers too")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arbtest::arbitrary::Unstructured;
use serde_json::{Map, Value};
use sw_tailcfg::{
    CapMap, FilterRule, Hostinfo, MapRequest, NetInfo, RegisterAuth, RegisterRequest, Service, SshPolicy,
};
use sw_tailnet::{
    Class, Command, Compiled, Ended, Engine, MapReply, NodeFacts, Output, PolicyError, Registered, Rules,
    StreamId, Tailnet, UserChange, World,
};
use sw_types::{CapVer, DiscoKey, MachineKey, NodeId, NodeKey, Now, RegionId, Secret, UserId};

use common::{auth_key, network, start};

/// A policy for tests: machines see each other when the rule of the text says so.
#[derive(Debug, Clone, Copy)]
struct Parity;

#[derive(Debug, Clone, Copy)]
enum Rule {
    /// Machines of equal parity of id.
    Same,
    /// Machines whose owner is the same person.
    Owner,
    /// Nobody.
    None,
}

#[derive(Debug)]
struct Applied {
    rule: Rule,
    world: World,
}

impl Engine for Parity {
    fn parse(&self, text: &str, _world: &World) -> Result<Arc<dyn Rules>, PolicyError> {
        match text {
            "same" => Ok(Arc::new(Rule::Same)),
            "owner" => Ok(Arc::new(Rule::Owner)),
            "none" => Ok(Arc::new(Rule::None)),
            _ => Err(PolicyError {
                kind: "test".to_owned(),
                message: "no rule".to_owned(),
                at: None,
                report: String::new(),
            }),
        }
    }
}

impl Rules for Rule {
    fn compile(&self, world: &World, _before: Option<&Arc<dyn Compiled>>) -> Arc<dyn Compiled> {
        Arc::new(Applied { rule: *self, world: world.clone() })
    }

    fn may_tag(&self, _world: &World, _user: UserId, _tag: &str) -> bool {
        true
    }

    fn tag_owns(&self, _holder: &str, _tag: &str) -> bool {
        false
    }

    fn declares_tag(&self, _tag: &str) -> bool {
        true
    }

    fn approves_route(&self, _world: &World, node: &NodeFacts, _route: ipnet::IpNet) -> bool {
        node.id.0 % 3 == 0
    }
}

impl Compiled for Applied {
    fn class(&self, node: NodeId) -> Class {
        let owner = self.world.nodes.get(&node).and_then(|n| n.user).map_or(0, |u| u.0);
        match self.rule {
            Rule::Same => Class((node.0 % 2) as u32),
            Rule::Owner => Class(owner as u32),
            Rule::None => Class(0),
        }
    }

    fn sees(&self, a: Class, b: Class) -> bool {
        a == b && !matches!(self.rule, Rule::None)
    }

    fn routes_seen(&self, viewer: Class, _peer: NodeId, routes: &[ipnet::IpNet]) -> Vec<ipnet::IpNet> {
        routes.iter().filter(|_| viewer.0 == 1).copied().collect()
    }

    fn filter(&self, node: NodeId) -> Arc<[FilterRule]> {
        // A rule per visible machine, so that the filter changes with the network.
        let own = self.class(node);
        let seen = self.world.nodes.values().filter(|n| self.sees(own, self.class(n.id)));
        seen.map(|n| FilterRule { src_ips: vec![n.addresses[0].to_string()], ..FilterRule::allow_all() })
            .collect()
    }

    fn ssh(&self, _node: NodeId) -> Arc<SshPolicy> {
        Arc::default()
    }

    fn attributes(&self, node: NodeId) -> CapMap {
        let even = node.0 % 2 == 0;
        if even { CapMap::from([("test".to_owned(), Vec::new())]) } else { CapMap::new() }
    }
}

/// What a client knows, folded as the official one does.
#[derive(Debug, Default, Clone)]
struct Client {
    parts: Map<String, Value>,
    peers: BTreeMap<i64, Map<String, Value>>,
    filters: Map<String, Value>,
    users: BTreeMap<i64, Value>,
    messages: Map<String, Value>,
}

fn id_of(value: &Value) -> i64 {
    value["ID"].as_i64().expect("an id")
}

impl Client {
    fn fold(&mut self, message: &[u8]) {
        let Value::Object(message) = serde_json::from_slice(message).expect("a message is JSON") else {
            panic!("a message is an object");
        };
        // Profiles of a message count for its peers.
        for user in message.get("UserProfiles").and_then(Value::as_array).into_iter().flatten() {
            self.users.insert(id_of(user), user.clone());
        }
        for (key, value) in message {
            match (key.as_str(), &value) {
                ("ControlTime" | "Debug" | "UserProfiles", _) => {}
                ("Peers", Value::Array(peers)) => {
                    assert!(!peers.is_empty(), "an empty list means nothing to Go");
                    assert!(peers.is_sorted_by_key(id_of));
                    self.peers = peers.iter().map(|p| (id_of(p), p.as_object().unwrap().clone())).collect();
                }
                ("PeersChanged", Value::Array(peers)) => {
                    assert!(peers.is_sorted_by_key(id_of));
                    for peer in peers {
                        assert!(
                            self.users.contains_key(&peer["User"].as_i64().unwrap()),
                            "profile before use"
                        );
                        self.peers.insert(id_of(peer), peer.as_object().unwrap().clone());
                    }
                }
                ("PeersRemoved", Value::Array(ids)) => {
                    for id in ids {
                        assert!(
                            self.peers.remove(&id.as_i64().unwrap()).is_some(),
                            "removed what was not there"
                        );
                    }
                }
                ("PeersChangedPatch", Value::Array(patches)) => {
                    patches.iter().for_each(|patch| self.patch(patch));
                }
                ("PacketFilters", Value::Object(filters)) => {
                    for (name, rules) in filters {
                        self.filters.insert(name.clone(), rules.clone());
                    }
                }
                ("DisplayMessages", Value::Object(messages)) => {
                    if messages.contains_key("*") {
                        self.messages.clear();
                    }
                    let shown = messages.iter().filter(|(_, message)| !message.is_null());
                    self.messages.extend(shown.map(|(k, v)| (k.clone(), v.clone())));
                }
                _ => drop(self.parts.insert(key, value)),
            }
        }
    }

    fn patch(&mut self, patch: &Value) {
        let peer =
            self.peers.get_mut(&patch["NodeID"].as_i64().unwrap()).expect("patched what was not there");
        for (key, value) in patch.as_object().unwrap() {
            let name = match key.as_str() {
                "NodeID" => continue,
                "DERPRegion" => "HomeDERP",
                other => other,
            };
            if value == &Value::Array(Vec::new()) {
                peer.remove(name);
            } else {
                peer.insert(name.to_owned(), value.clone());
            }
        }
        if peer.get("Online") == Some(&Value::Bool(true)) {
            // Not told while online (control.md §8.2).
            peer.remove("LastSeen");
        }
    }

    /// What must be equal. Profiles are never removed at a client, so only those in use count.
    fn essence(&self) -> Value {
        let used = |user: &i64| self.peers.values().any(|p| p["User"].as_i64() == Some(*user));
        let users: Vec<&Value> = self.users.iter().filter(|(id, _)| used(id)).map(|(_, user)| user).collect();
        let mut parts = self.parts.clone();
        if let Some(own) = parts.get_mut("Node").and_then(Value::as_object_mut) {
            // The machine said these itself; it is not told them again.
            for own_words in ["DiscoKey", "Endpoints", "HomeDERP", "Hostinfo", "Cap"] {
                own.remove(own_words);
            }
        }
        serde_json::json!({ "parts": parts, "peers": self.peers, "filters": self.filters, "users": users, "messages": self.messages })
    }
}

struct World2 {
    tailnet: Tailnet,
    now: Now,
    key: String,
    machines: Vec<(MachineKey, NodeKey)>,
    clients: BTreeMap<StreamId, (usize, Client)>,
    next_stream: StreamId,
    /// Streams whose driver is slow: not ready yet.
    busy: Vec<StreamId>,
}

impl World2 {
    fn new() -> Self {
        let mut tailnet = network(Arc::new(Parity), &["alice", "bob"]);
        let key = auth_key(&mut tailnet);
        drop(tailnet.take_uncommitted());
        tailnet.committed();
        Self {
            tailnet,
            now: start(),
            key,
            machines: Vec::new(),
            clients: BTreeMap::new(),
            next_stream: 1,
            busy: Vec::new(),
        }
    }

    fn commit(&mut self, u: &mut Unstructured<'_>) -> arbtest::arbitrary::Result<()> {
        let entries = self.tailnet.take_uncommitted();
        if !entries.is_empty() && u.ratio(1, 8)? {
            self.tailnet.rolled_back(self.now);
            drop(self.tailnet.take_uncommitted());
        }
        self.tailnet.committed();
        Ok(())
    }

    fn act(&mut self, u: &mut Unstructured<'_>) -> arbtest::arbitrary::Result<()> {
        let some_node =
            |t: &Tailnet, u: &mut Unstructured<'_>| -> arbtest::arbitrary::Result<Option<NodeId>> {
                let ids: Vec<NodeId> = t.state().nodes().map(|n| n.id).collect();
                if ids.is_empty() { Ok(None) } else { Ok(Some(*u.choose(&ids)?)) }
            };
        match u.int_in_range(0..=15_u8)? {
            0..=2 => self.join(u)?,
            3..=5 => self.listen(u)?,
            6..=7 => self.update(u)?,
            8 => {
                let open: Vec<StreamId> = self.clients.keys().copied().collect();
                if !open.is_empty() {
                    let stream = *u.choose(&open)?;
                    let ended = *u.choose(&[Ended::Broken, Ended::Dead, Ended::Orderly])?;
                    self.tailnet.on_stream_closed(stream, ended, self.now);
                    self.clients.remove(&stream);
                }
            }
            9 => {
                if let Some(node) = some_node(&self.tailnet, u)? {
                    let command = match u.int_in_range(0..=6_u8)? {
                        0 => Command::DeleteNode(node),
                        1 => Command::RenameNode {
                            node,
                            label: Some(format!("m{}", u.int_in_range(0..=5_u8)?)),
                        },
                        2 => Command::ApproveNode { node, approved: u.arbitrary()? },
                        3 => Command::GiveNode { node, user: UserId(u.int_in_range(1..=2)?) },
                        4 => Command::TagNode { node, tags: vec!["tag:t".to_owned()] },
                        5 => Command::SetRoutes { node, routes: vec!["10.0.0.0/8".parse().unwrap()] },
                        _ => Command::SetExpiry { node, at: Some(self.now.wall + Duration::from_secs(30)) },
                    };
                    drop(self.tailnet.execute("test", command, self.now));
                }
            }
            10 => {
                let text = u.choose(&[Some("same"), Some("owner"), Some("none"), None])?.map(str::to_owned);
                self.tailnet.execute("test", Command::SetPolicy { text, expect: None }, self.now).unwrap();
            }
            11 => {
                let change = UserChange {
                    suspended: Some(u.arbitrary()?),
                    display_name: Some("B".to_owned()),
                    ..UserChange::default()
                };
                drop(self.tailnet.execute("test", Command::UpdateUser { user: UserId(2), change }, self.now));
            }
            12 => {
                let mut settings = self.tailnet.state().settings().clone();
                settings.base_domain = u.choose(&["a.internal", "b.internal"])?.to_string();
                self.tailnet.execute("test", Command::SetSettings(Box::new(settings)), self.now).unwrap();
            }
            _ => {
                self.now = self.now.after(Duration::from_millis(u.int_in_range(1..=20_000)?));
                self.tailnet.on_deadline(self.now);
            }
        }
        self.commit(u)
    }

    fn join(&mut self, u: &mut Unstructured<'_>) -> arbtest::arbitrary::Result<()> {
        let n = self.machines.len() as u8 + 1;
        let (machine, node_key) = (MachineKey::from_bytes([n; 32]), NodeKey::from_bytes([n; 32]));
        let request = RegisterRequest {
            version: CapVer(130),
            node_key,
            auth: Some(RegisterAuth { auth_key: Secret::new(self.key.clone()) }),
            hostinfo: Some(Arc::new(Hostinfo {
                os: "linux".to_owned(),
                hostname: format!("h{}", u.int_in_range(0..=3_u8)?),
                ..Hostinfo::default()
            })),
            ephemeral: u.ratio(1, 4)?,
            ..RegisterRequest::default()
        };
        let Registered::Now(answer) = self.tailnet.on_register(machine, &request, 1, self.now) else {
            panic!("a key needs no waiting");
        };
        assert!(answer.error.is_empty() || n > 1, "{answer:?}");
        self.machines.push((machine, node_key));
        Ok(())
    }

    fn request(&self, u: &mut Unstructured<'_>, at: usize) -> arbtest::arbitrary::Result<MapRequest> {
        let host = Hostinfo {
            os: "linux".to_owned(),
            hostname: format!("h{}", u.int_in_range(0..=3_u8)?),
            routable_ips: if u.ratio(1, 3)? {
                vec!["10.0.0.0/8".parse().unwrap(), "0.0.0.0/0".parse().unwrap()]
            } else {
                Vec::new()
            },
            services: vec![Service {
                proto: "peerapi4".to_owned(),
                port: u.int_in_range(1..=3)?,
                ..Service::default()
            }],
            net_info: Some(NetInfo {
                preferred_derp: RegionId(u.int_in_range(900..=902)?),
                ..NetInfo::default()
            }),
            ..Hostinfo::default()
        };
        Ok(MapRequest {
            version: CapVer(130),
            node_key: self.machines[at].1,
            disco_key: DiscoKey::from_bytes([u.int_in_range(1..=3)?; 32]),
            hostinfo: Some(Arc::new(host)),
            endpoints: vec![format!("192.0.2.{}:1", u.int_in_range(1..=3_u8)?).parse().unwrap()],
            ..MapRequest::default()
        })
    }

    fn update(&mut self, u: &mut Unstructured<'_>) -> arbtest::arbitrary::Result<()> {
        if self.machines.is_empty() {
            return Ok(());
        }
        let at = u.choose_index(self.machines.len())?;
        let request = MapRequest { omit_peers: true, ..self.request(u, at)? };
        drop(self.tailnet.on_map_request(self.machines[at].0, &request, 0, self.now));
        Ok(())
    }

    fn listen(&mut self, u: &mut Unstructured<'_>) -> arbtest::arbitrary::Result<()> {
        if self.machines.is_empty() {
            return Ok(());
        }
        let at = u.choose_index(self.machines.len())?;
        let request = MapRequest { stream: true, ..self.request(u, at)? };
        let stream = self.next_stream;
        self.next_stream += 1;
        if let Ok(MapReply::Streaming { replaced }) =
            self.tailnet.on_map_request(self.machines[at].0, &request, stream, self.now)
        {
            if let Some(replaced) = replaced {
                self.clients.remove(&replaced);
            }
            self.clients.insert(stream, (at, Client::default()));
        }
        Ok(())
    }

    /// Hands messages out; a slow client takes some time to be ready again.
    fn deliver(&mut self, u: &mut Unstructured<'_>) -> arbtest::arbitrary::Result<()> {
        while let Some(output) = self.tailnet.poll_output(self.now) {
            match output {
                Output::Map { stream, message } => {
                    if let Some((_, client)) = self.clients.get_mut(&stream) {
                        client.fold(&message.to_json());
                    }
                    if u.ratio(1, 3)? { self.busy.push(stream) } else { self.tailnet.on_stream_ready(stream) }
                }
                Output::End { stream, .. } => drop(self.clients.remove(&stream)),
                Output::Registered { .. } | Output::Checked { .. } => {}
            }
        }
        let uncommitted = self.tailnet.take_uncommitted();
        drop(uncommitted);
        self.tailnet.committed();
        Ok(())
    }

    /// Everything held back goes out and every client is ready.
    fn quiesce(&mut self) {
        for _ in 0..50 {
            drop(self.tailnet.take_uncommitted());
            self.tailnet.committed();
            for stream in std::mem::take(&mut self.busy) {
                self.tailnet.on_stream_ready(stream);
            }
            let mut quiet = true;
            while let Some(output) = self.tailnet.poll_output(self.now) {
                quiet = false;
                match output {
                    Output::Map { stream, message } => {
                        if let Some((_, client)) = self.clients.get_mut(&stream) {
                            client.fold(&message.to_json());
                        }
                        self.tailnet.on_stream_ready(stream);
                    }
                    Output::End { stream, .. } => drop(self.clients.remove(&stream)),
                    Output::Registered { .. } | Output::Checked { .. } => {}
                }
            }
            let due = self
                .tailnet
                .next_deadline(self.now)
                .filter(|(at, _)| *at <= self.now.mono + Duration::from_millis(100));
            match due {
                Some(_) => {
                    self.now = self.now.after(Duration::from_millis(100));
                    self.tailnet.on_deadline(self.now);
                }
                None if quiet && !self.tailnet.is_uncommitted() => return,
                None => {}
            }
        }
        panic!("it does not come to rest");
    }

    fn check(&mut self) {
        self.quiesce();
        let clients: Vec<(usize, Client)> = self.clients.values().cloned().collect();
        for (at, client) in clients {
            let once =
                MapRequest { version: CapVer(130), node_key: self.machines[at].1, ..MapRequest::default() };
            let Ok(MapReply::Once(message)) =
                self.tailnet.on_map_request(self.machines[at].0, &once, 0, self.now)
            else {
                panic!("a machine that listens can ask once");
            };
            let mut fresh = Client::default();
            fresh.fold(&message.to_json());
            let (folded, fresh) = (client.essence(), fresh.essence());
            for part in ["parts", "peers", "filters", "users", "messages"] {
                assert_eq!(folded[part], fresh[part], "{part} of machine {at} differ from the full map");
            }
        }
    }
}

/// One random story of changes, rollbacks, slow and broken streams.
fn story(u: &mut Unstructured<'_>) -> arbtest::arbitrary::Result<()> {
    let mut world = World2::new();
    for _ in 0..u.int_in_range(0..=60)? {
        world.act(u)?;
        if u.ratio(2, 3)? {
            world.deliver(u)?;
        }
    }
    world.check();
    Ok(())
}

/// Seeds that once found a difference.
const FOUND: [u64; 3] = [0x4171_839f_0000_19a5, 0x2cc6_2b1d_0001_0000, 0x9341_ff8b_0001_0000];

#[test]
fn the_fold_of_deltas_equals_the_full_map() {
    for seed in FOUND {
        arbtest::arbtest(story).seed(seed);
    }
    arbtest::arbtest(story).budget_ms(4_000);
}

#[test]
fn an_ephemeral_machine_that_never_comes_is_removed() {
    let mut world = World2::new();
    let machine = MachineKey::from_bytes([1; 32]);
    let request = RegisterRequest {
        version: CapVer(130),
        node_key: NodeKey::from_bytes([1; 32]),
        auth: Some(RegisterAuth { auth_key: Secret::new(world.key.clone()) }),
        ephemeral: true,
        ..RegisterRequest::default()
    };
    drop(world.tailnet.on_register(machine, &request, 1, world.now));
    world.quiesce();
    assert_eq!(world.tailnet.state().nodes().count(), 1);
    let after = world.tailnet.state().settings().ephemeral_s;
    world.now = world.now.after(Duration::from_secs(u64::from(after) + 1));
    world.tailnet.on_deadline(world.now);
    assert_eq!(world.tailnet.state().nodes().count(), 0);
}

//! The policy engine behind [`Engine`]: `sw-policy`, in the words of the tailnet.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};
use sw_policy as engine;
use sw_tailcfg::{
    CapGrant, CapMap, FilterRule, NetPortRange, PortRange, SshAction, SshPolicy, SshPrincipal,
    SshRecordingFailure, SshRule,
};
use sw_types::{NodeId, UserId};

use crate::record::{Role, User};
use crate::relays::RelayChange;
use crate::rules::{Class, Compiled, Engine, NodeFacts, PolicyError, Rules, SshCheck, World};
use crate::tailnet::Tailnet;

/// Numbers of IP protocols.
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Policies as Tailscale writes them, compiled by `sw-policy`.
#[derive(Debug, Clone)]
pub struct PolicyEngine {
    base: Arc<str>,
}

impl PolicyEngine {
    /// `url` is the server's own address, for SSH rules that check the person.
    #[must_use]
    pub fn new(url: &str) -> Self {
        Self { base: Arc::from(url.trim_end_matches('/')) }
    }

    fn rules(&self, text: &str, world: &World, runs_tests: bool) -> Result<Arc<dyn Rules>, PolicyError> {
        let world = converted(world, None);
        let policy = engine::Policy::parse(text, engine::Context { world: &world, domains: None })
            .map_err(|rejection| refused(&rejection))?;
        let policy = Arc::new(policy);
        let compiled = engine::Compiled::new(&policy, &world);
        let failed = engine::policy_tests::run(&compiled);
        if !failed.is_empty() {
            let rejection = engine::Rejection::new(text, failed);
            if runs_tests {
                return Err(refused(&rejection));
            }
            tracing::warn!(why = rejection.message(), "tests of the stored policy fail");
        }
        let relays = relays(compiled.policy())?;
        Ok(Arc::new(PolicyRules { compiled, base: Arc::clone(&self.base), relays }))
    }
}

impl Engine for PolicyEngine {
    fn parse(&self, text: &str, world: &World) -> Result<Arc<dyn Rules>, PolicyError> {
        self.rules(text, world, true)
    }

    fn load(&self, text: &str, world: &World) -> Result<Arc<dyn Rules>, PolicyError> {
        self.rules(text, world, false)
    }

    fn without_policy(&self, world: &World) -> Arc<dyn Rules> {
        let rules = self.rules("", world, false);
        rules.unwrap_or_else(|_| Arc::new(crate::rules::AllowAll))
    }
}

fn refused(rejection: &engine::Rejection) -> PolicyError {
    let at = rejection.problems().first().map(|problem| rejection.position(problem));
    PolicyError {
        kind: rejection.kind().name().to_owned(),
        message: rejection.message(),
        at: at.map(|at| (number(at.line), number(at.column))),
        report: rejection.report(),
    }
}

/// Reads the relay map of a policy.
fn relays(policy: &engine::Policy) -> Result<Option<RelayChange>, PolicyError> {
    let Some((map, at)) = policy.derp_map() else { return Ok(None) };
    let refused = |what: String| PolicyError {
        kind: engine::Kind::TypeMismatch.name().to_owned(),
        message: format!("line {}, column {}: derpMap: {what}", at.line, at.column),
        at: Some((number(at.line), number(at.column))),
        report: String::new(),
    };
    let mut change = RelayChange::default();
    let members = map.as_object().into_iter().flatten();
    for (name, value) in members {
        if name.eq_ignore_ascii_case("OmitDefaultRegions") {
            change.omits_default = value.as_bool().unwrap_or(false);
            continue;
        }
        for (id, region) in value.as_object().into_iter().flatten() {
            let number = id.parse().map_err(|_| refused(format!("the region {id:?} is not a number")))?;
            let region: Option<sw_tailcfg::DerpRegion> = serde_json::from_value(region.clone())
                .map_err(|error| refused(format!("the region {id}: {error}")))?;
            change.regions.insert(sw_types::RegionId(number), region);
        }
    }
    Ok(Some(change))
}

fn number(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// Turns the tailnet's world into the engine's; what `before` knows already is taken from there.
fn converted(world: &World, before: Option<&PolicyCompiled>) -> engine::World {
    let mut converted = engine::World::default();
    for (id, user) in &world.users {
        let known = before.filter(|before| same(before.source.users.get(id), user));
        let known = known.and_then(|before| before.world.users.get(id));
        converted.users.insert(*id, known.cloned().unwrap_or_else(|| Arc::new(person(user))));
    }
    for (id, facts) in &world.nodes {
        let known = before.filter(|before| same(before.source.nodes.get(id), facts));
        let known = known.and_then(|before| before.world.nodes.get(id));
        converted.nodes.insert(*id, known.cloned().unwrap_or_else(|| Arc::new(machine(facts))));
    }
    converted
}

/// Prints the people and machines of a tailnet as the `users` and `nodes` that the policy engine's interface reads
/// (policy.md §17).
#[must_use]
pub fn policy_world(world: &World, offline: BTreeSet<NodeId>) -> serde_json::Value {
    engine::conform::Network { world: converted(world, None), offline }.to_json()
}

fn same<T>(old: Option<&Arc<T>>, new: &Arc<T>) -> bool {
    old.is_some_and(|old| Arc::ptr_eq(old, new))
}

fn person(user: &User) -> engine::User {
    engine::User {
        id: user.id,
        name: user.name.clone(),
        email: user.email.clone().unwrap_or_default(),
        provider: String::new(),
        role: match user.role {
            Role::Owner => engine::Role::Owner,
            Role::Admin => engine::Role::Admin,
            Role::Member => engine::Role::Member,
        },
        groups: user.groups.clone(),
    }
}

fn machine(facts: &NodeFacts) -> engine::Node {
    engine::Node {
        id: facts.id,
        name: facts.name.clone(),
        user: facts.user,
        tags: facts.tags.clone(),
        addresses: facts.addresses.to_vec(),
        announced: facts.advertised.clone(),
        approved: facts.routes.clone(),
        posture: facts.posture.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect(),
    }
}

#[derive(Debug)]
struct PolicyRules {
    /// Applied to the world in which the policy was parsed; later worlds derive from it.
    compiled: engine::Compiled,
    base: Arc<str>,
    relays: Option<RelayChange>,
}

impl PolicyRules {
    /// The policy with the people of a world and no machines.
    fn people(&self, world: &World) -> engine::Compiled {
        let people = World { users: world.users.clone(), nodes: BTreeMap::new() };
        self.compiled.update(&converted(&people, None))
    }
}

impl Rules for PolicyRules {
    fn compile(&self, world: &World, before: Option<&Arc<dyn Compiled>>) -> Arc<dyn Compiled> {
        let before = before.and_then(|before| {
            let any: &dyn Any = &**before;
            any.downcast_ref::<PolicyCompiled>()
        });
        let converted = converted(world, before);
        // The last result of the same policy is the nearest start; of another policy, this one's first result.
        let start = before.map(|before| &before.compiled);
        let start = start.filter(|start| Arc::ptr_eq(start.policy(), self.compiled.policy()));
        Arc::new(PolicyCompiled {
            compiled: start.unwrap_or(&self.compiled).update(&converted),
            source: world.clone(),
            world: converted,
            base: Arc::clone(&self.base),
        })
    }

    fn may_tag(&self, world: &World, user: UserId, tag: &str) -> bool {
        self.people(world).may_tag(user, tag)
    }

    fn tag_owns(&self, holder: &str, tag: &str) -> bool {
        self.compiled.tag_owns(holder, tag)
    }

    fn declares_tag(&self, tag: &str) -> bool {
        self.compiled.declares_tag(tag)
    }

    fn approves_route(&self, world: &World, node: &NodeFacts, route: IpNet) -> bool {
        let owner = if node.tags.is_empty() { node.user } else { None };
        self.compiled.policy().has_auto_approvers() && self.people(world).approves(owner, &node.tags, route)
    }

    fn ip_pool(&self, world: &World, owner: Option<UserId>, tags: &[String]) -> Vec<Ipv4Net> {
        let pool = self.people(world).ip_pool(owner, tags);
        let v4 = |net| if let IpNet::V4(net) = net { Some(net) } else { None };
        pool.into_iter().filter_map(v4).collect()
    }

    fn relays(&self) -> Option<&RelayChange> {
        self.relays.as_ref()
    }
}

#[derive(Debug)]
struct PolicyCompiled {
    compiled: engine::Compiled,
    source: World,
    world: engine::World,
    base: Arc<str>,
}

impl Compiled for PolicyCompiled {
    fn class(&self, node: NodeId) -> Class {
        Class(self.compiled.class(node).0)
    }

    fn sees(&self, a: Class, b: Class) -> bool {
        self.compiled.sees(engine::Class(a.0), engine::Class(b.0))
    }

    fn routes_seen(&self, viewer: Class, peer: NodeId, routes: &[IpNet]) -> Vec<IpNet> {
        self.compiled.routes_seen(engine::Class(viewer.0), peer, routes)
    }

    fn filter(&self, node: NodeId) -> Arc<[FilterRule]> {
        self.compiled.filter(node).into_iter().map(filter_rule).collect()
    }

    fn ssh(&self, node: NodeId) -> Arc<SshPolicy> {
        let rules = self.compiled.ssh(node, &self.base).rules;
        Arc::new(SshPolicy { rules: rules.into_iter().map(ssh_rule).collect() })
    }

    fn ssh_check(&self, src: NodeId, dst: NodeId, login: &str) -> Option<SshCheck> {
        Some(match self.compiled.ssh_check(src, dst, login)? {
            engine::CheckPeriod::Always => SshCheck::Always,
            engine::CheckPeriod::Nanoseconds(period) => {
                SshCheck::For(std::time::Duration::from_nanos(u64::try_from(period).unwrap_or(0)))
            }
        })
    }

    fn explain(&self, src: NodeId, dst: IpAddr, port: Option<u16>) -> serde_json::Value {
        let name = self.world.nodes.get(&src).map(|node| node.name.clone()).unwrap_or_default();
        let dst = dst.to_string();
        let ask = |protocol| {
            let question = engine::explain::Question { src: &name, dst: &dst, port, protocol };
            engine::explain::explain(&self.compiled, &self.world, &question)
        };
        let mut answer = ask(port.map(|_| TCP));
        // A port that is open for UDP alone is open all the same.
        let is_denied = matches!(&answer, Ok(answer) if answer.verdict == engine::explain::Verdict::Denied);
        if is_denied && port.is_some() {
            answer = match ask(Some(UDP)) {
                Ok(other) if other.verdict != engine::explain::Verdict::Denied => Ok(other),
                Ok(_) | Err(_) => answer,
            };
        }
        match answer {
            Ok(answer) => serde_json::to_value(answer).unwrap_or_default(),
            // An address that no rule of the policy can name.
            Err(_) => serde_json::json!({ "verdict": "denied", "parts": [] }),
        }
    }

    fn attributes(&self, node: NodeId) -> CapMap {
        let mut attributes = caps(self.compiled.attributes(node));
        if attributes.contains_key("funnel") {
            // policy.md §13: the ports come with the attribute.
            attributes
                .entry("https://tailscale.com/cap/funnel-ports?ports=443,8443,10000".to_owned())
                .or_default();
        }
        attributes
    }
}

impl Tailnet {
    /// Why `src` may reach a port of `dst` or not. Of machines that it does not see it learns nothing.
    pub fn explain(&self, src: NodeId, dst: IpAddr, port: Option<u16>) -> serde_json::Value {
        let owner = self.state.nodes().find(|node| node.addresses().contains(&dst)).map(|node| node.id);
        let class = |id| self.compiled.class(id);
        match owner {
            Some(id) if id != src && !self.compiled.sees(class(src), class(id)) => {
                serde_json::json!({ "verdict": "denied", "parts": [] })
            }
            Some(_) | None => self.compiled.explain(src, dst, port),
        }
    }
}

fn caps(caps: engine::CapMap) -> CapMap {
    let values = |value| {
        if let serde_json::Value::Array(values) = value {
            values
        } else {
            // The engine lets arrays and `null` through alone.
            Vec::new()
        }
    };
    caps.into_iter().map(|(name, value)| (name, values(value))).collect()
}

fn filter_rule(rule: engine::Rule) -> FilterRule {
    let mut converted = FilterRule {
        src_ips: rule.sources.iter().map(|text| text.to_string()).collect(),
        ..FilterRule::default()
    };
    match rule.action {
        engine::Action::Reach { protocol, dst } => {
            converted.ip_proto = protocol.map(i64::from).into_iter().collect();
            converted.dst_ports = dst
                .into_iter()
                .map(|dst| NetPortRange {
                    ip: dst.ip.to_string(),
                    bits: None,
                    ports: PortRange { first: dst.ports.first, last: dst.ports.last },
                })
                .collect();
        }
        engine::Action::Use(grants) => {
            let one = |grant: engine::CapGrant| CapGrant {
                dsts: grant.dsts,
                caps: Vec::new(),
                cap_map: caps((*grant.caps).clone()),
            };
            converted.cap_grant = grants.into_iter().map(one).collect();
        }
    }
    converted
}

fn ssh_rule(rule: engine::SshRule) -> SshRule {
    let principal = |text: &Arc<str>| SshPrincipal { node_ip: text.parse().ok(), ..SshPrincipal::default() };
    SshRule {
        rule_expires: None,
        principals: rule.principals.iter().map(principal).collect(),
        ssh_users: rule.users,
        action: Some(ssh_action(rule.action)),
        accept_env: rule.accept_env,
    }
}

fn ssh_action(verdict: engine::SshVerdict) -> SshAction {
    match verdict {
        engine::SshVerdict::Check(url) => SshAction { hold_and_delegate: url, ..SshAction::default() },
        engine::SshVerdict::Accept(recording) => SshAction {
            accept: true,
            allow_agent_forwarding: true,
            allow_local_port_forwarding: true,
            allow_remote_port_forwarding: true,
            recorders: recording.recorders.iter().filter_map(|text| text.parse().ok()).collect(),
            on_recording_failure: recording.is_enforced.then(|| {
                let message = "this session must be recorded, and the recorder cannot be reached".to_owned();
                SshRecordingFailure {
                    reject_session_with_message: message.clone(),
                    terminate_session_with_message: message,
                    notify_url: String::new(),
                }
            }),
            ..SshAction::default()
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world() -> World {
        let user = |id: i64, name: &str| {
            Arc::new(User {
                id: UserId(id),
                name: name.to_owned(),
                email: Some(format!("{name}@example.com")),
                display_name: name.to_owned(),
                picture: None,
                role: Role::Member,
                suspended: false,
                provider: None,
                groups: Vec::new(),
                passkeys: Vec::new(),
                created: sw_types::UnixTime::default(),
            })
        };
        let node = |id: i64, user: Option<i64>, tags: &[&str]| {
            Arc::new(NodeFacts {
                id: NodeId(id),
                name: format!("n{id}"),
                user: user.map(UserId),
                tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
                addresses: [
                    format!("100.64.0.{id}").parse().unwrap(),
                    format!("fd7a:115c:a1e0::{id}").parse().unwrap(),
                ],
                advertised: Vec::new(),
                routes: Vec::new(),
                posture: BTreeMap::new(),
            })
        };
        let mut world = World::default();
        world.users.extend([(UserId(1), user(1, "ada")), (UserId(2), user(2, "ben"))]);
        let nodes = [node(1, Some(1), &[]), node(2, Some(2), &[]), node(3, None, &["tag:web"])];
        world.nodes.extend(nodes.map(|node| (node.id, node)));
        world
    }

    const POLICY: &str = r#"{
        "tagOwners": {"tag:web": ["ada@example.com"]},
        "grants": [{"src": ["ada@example.com"], "dst": ["tag:web"], "ip": ["tcp:443"]}],
        "tests": [{"src": "ada@example.com", "accept": ["tag:web:443"]}],
    }"#;

    #[test]
    fn a_policy_decides_who_sees_whom_and_follows_the_world() {
        let mut world = world();
        let rules = PolicyEngine::new("https://c.example").parse(POLICY, &world).unwrap();
        let first = rules.compile(&world, None);
        let sees = |compiled: &Arc<dyn Compiled>, a: i64, b: i64| {
            compiled.sees(compiled.class(NodeId(a)), compiled.class(NodeId(b)))
        };
        assert!(sees(&first, 1, 3) && sees(&first, 3, 1) && !sees(&first, 2, 3));
        assert_eq!(first.filter(NodeId(3)).len(), 1);
        assert!(first.filter(NodeId(1)).is_empty());
        assert!(rules.may_tag(&world, UserId(1), "tag:web") && !rules.may_tag(&world, UserId(2), "tag:web"));

        let mut moved = (*world.nodes[&NodeId(2)]).clone();
        moved.user = Some(UserId(1));
        world.nodes.insert(NodeId(2), Arc::new(moved));
        let second = rules.compile(&world, Some(&first));
        assert!(sees(&second, 2, 3));
        assert_eq!(second.filter(NodeId(3))[0].src_ips.len(), 4);
    }

    #[test]
    fn a_policy_gives_addresses_relays_and_checks() {
        let text = r#"{
            "groups": {"group:lab": ["ben@example.com"]},
            "tagOwners": {"tag:web": []},
            "nodeAttrs": [{"target": ["group:lab"], "ipPool": ["100.80.0.0/24"]}, {"target": ["tag:web"], "ipPool": ["100.81.0.1"]}],
            "ssh": [{"action": "check", "src": ["ada@example.com"], "dst": ["tag:web"], "users": ["root"], "checkPeriod": "1h"}],
            "derpMap": {"OmitDefaultRegions": true, "Regions": {"7": null, "900": {"RegionID": 900, "Nodes": []}}},
        }"#;
        let world = world();
        let rules = PolicyEngine::new("https://c.example").parse(text, &world).unwrap();
        let pool = |user: Option<i64>, tags: &[&str]| {
            let tags: Vec<String> = tags.iter().map(|tag| (*tag).to_owned()).collect();
            rules.ip_pool(&world, user.map(UserId), &tags).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(pool(Some(1), &[]), Vec::<String>::new());
        assert_eq!(pool(Some(2), &[]), ["100.80.0.0/24"]);
        assert_eq!(pool(None, &["tag:web"]), ["100.81.0.1/32"]);

        let compiled = rules.compile(&world, None);
        let hour = SshCheck::For(std::time::Duration::from_secs(3_600));
        assert_eq!(compiled.ssh_check(NodeId(1), NodeId(3), "root"), Some(hour));
        assert_eq!(compiled.ssh_check(NodeId(1), NodeId(3), "ada"), None);
        assert_eq!(compiled.ssh_check(NodeId(2), NodeId(3), "root"), None);

        let own: sw_tailcfg::DerpMap = serde_json::from_str(
            r#"{"Regions": {"7": {"RegionID": 7, "Nodes": []}, "8": {"RegionID": 8, "Nodes": []}}}"#,
        )
        .unwrap();
        let regions: Vec<u32> =
            rules.relays().unwrap().apply(&own).regions.unwrap().keys().map(|id| id.0).collect();
        assert_eq!(regions, [900]);

        let wrong = text.replace("\"Nodes\": []", "\"Nodes\": [{\"DERPPort\": \"x\"}]");
        let error = PolicyEngine::new("https://c.example").parse(&wrong, &world).unwrap_err();
        assert!(error.message.starts_with("line 6, column 24: derpMap: the region 900:"), "{error}");
    }

    #[test]
    fn a_policy_whose_tests_fail_is_refused_but_a_stored_one_is_loaded() {
        let failing = POLICY.replace("tag:web:443", "tag:web:22");
        let engine = PolicyEngine::new("https://c.example");
        let error = engine.parse(&failing, &world()).unwrap_err();
        assert_eq!((error.kind.as_str(), error.at), ("tests_failed", Some((4, 57))));
        assert!(engine.load(&failing, &world()).is_ok());
    }
}

//! What the tailnet asks of a policy: two traits, and the answer when there is no policy.
//!
//! ```text
//!   policy text ──► Engine::parse ──► Rules ──(+ World)──► Compiled ──► views of machines
//! ```
//!
//! The tailnet compiles anew when a fact that a policy can depend on has changed ([`World`] lists
//! them: policy.md §16), then compares what came out and sends only what differs. Everything that
//! changes often (endpoints, home relay, online) is outside, so those never compile anything.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};
use sw_tailcfg::{CapMap, FilterRule, SshPolicy};
use sw_types::{NodeId, UserId};

use crate::record::User;
use crate::relays::RelayChange;

/// What a policy can know of one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFacts {
    /// The machine's id; policies print machines in ascending order of it.
    pub id: NodeId,
    /// DNS label of the machine.
    pub name: String,
    /// The owner; `None` when the machine is tagged.
    pub user: Option<UserId>,
    /// `tag:…`, sorted; empty when a person owns the machine.
    pub tags: Vec<String>,
    /// IPv4, then IPv6.
    pub addresses: [IpAddr; 2],
    /// Routes the machine announces, sorted.
    pub advertised: Vec<IpNet>,
    /// Routes that are announced and approved, sorted, exit routes included.
    pub routes: Vec<IpNet>,
    /// Attributes such as `node:os`, for posture conditions.
    pub posture: BTreeMap<String, String>,
}

/// Everything a policy can depend on.
#[derive(Debug, Clone, Default)]
pub struct World {
    /// Machines by id.
    pub nodes: BTreeMap<NodeId, Arc<NodeFacts>>,
    /// People by id.
    pub users: BTreeMap<UserId, Arc<User>>,
}

/// Machines of one class see the same peers with the same routes, and are seen by the same peers.
///
/// A machine that serves routes is therefore best a class of its own.
/// A class lives as long as its [`Compiled`]; numbers of two compilations have nothing in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Class(pub u32);

/// Turns a policy text into rules.
pub trait Engine: Debug + Send + Sync {
    /// Parses, validates and runs the policy's own tests against `world`.
    ///
    /// # Errors
    /// A text for people, with line and column, and the machine-readable kind of policy.md §6.
    fn parse(&self, text: &str, world: &World) -> Result<Arc<dyn Rules>, PolicyError>;

    /// Parses a stored policy; its tests may fail by now (policy.md §3.3).
    ///
    /// # Errors
    /// As `parse`.
    fn load(&self, text: &str, world: &World) -> Result<Arc<dyn Rules>, PolicyError> {
        self.parse(text, world)
    }

    /// The rules of a network without a policy (policy.md §3.2).
    fn without_policy(&self, _world: &World) -> Arc<dyn Rules> {
        Arc::new(AllowAll)
    }
}

/// Why a policy text was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct PolicyError {
    /// `undefined_tag`, `tests_failed`, … (policy.md §6).
    pub kind: String,
    /// One or more lines for people.
    pub message: String,
    /// Line and column of the fault, both from 1.
    pub at: Option<(u32, u32)>,
    /// Each mistake with its line of the text and what to write instead; empty when there is no such place.
    pub report: String,
}

/// A valid policy, not yet applied to machines.
pub trait Rules: Debug + Send + Sync {
    /// Applies the policy to `world`. `before` is the last result, for engines that reuse parts.
    fn compile(&self, world: &World, before: Option<&Arc<dyn Compiled>>) -> Arc<dyn Compiled>;

    /// Whether `user` may give a machine `tag` (policy.md §15.1).
    fn may_tag(&self, world: &World, user: UserId, tag: &str) -> bool;

    /// Whether a machine or key that holds `holder` may give `tag`.
    fn tag_owns(&self, holder: &str, tag: &str) -> bool;

    /// Whether the policy declares `tag`. Admins may set any declared tag.
    fn declares_tag(&self, tag: &str) -> bool;

    /// Whether an announced route is approved by the policy itself (policy.md §15.2).
    fn approves_route(&self, world: &World, node: &NodeFacts, route: IpNet) -> bool;

    /// The ranges out of which a new machine gets its IPv4 address, in order; none: out of the network's pool
    /// (policy.md §13).
    fn ip_pool(&self, _world: &World, _owner: Option<UserId>, _tags: &[String]) -> Vec<Ipv4Net> {
        Vec::new()
    }

    /// What the policy changes in the relay map (policy.md §5.11).
    fn relays(&self) -> Option<&RelayChange> {
        None
    }
}

/// For how long a check of the person holds (policy.md §12).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SshCheck {
    /// Every session asks.
    Always,
    /// Since the last successful check.
    For(std::time::Duration),
}

/// A policy applied to the machines of one [`World`]. Immutable; all answers are cheap or cached.
pub trait Compiled: Debug + Send + Sync + Any {
    /// The class of a machine of the world. Unknown ids get a class that sees nobody.
    fn class(&self, node: NodeId) -> Class;

    /// Whether machines of the two classes are peers; symmetric (policy.md §11.1).
    ///
    /// Only asked for two different machines; a class may see itself (machines of equal rights).
    fn sees(&self, a: Class, b: Class) -> bool;

    /// The subset of `routes` (those `peer` serves at this moment) that viewers of a class may use.
    fn routes_seen(&self, viewer: Class, peer: NodeId, routes: &[IpNet]) -> Vec<IpNet>;

    /// The packet filter of a machine (policy.md §8, §9). Empty refuses everything. An engine that
    /// hands out the same `Arc` while nothing changed saves a comparison of the rules.
    fn filter(&self, node: NodeId) -> Arc<[FilterRule]>;

    /// The SSH policy of a machine (policy.md §12).
    fn ssh(&self, node: NodeId) -> Arc<SshPolicy>;

    /// Attributes that the policy gives a machine (policy.md §13).
    fn attributes(&self, node: NodeId) -> CapMap;

    /// Whether an SSH session from `src` to `dst` as `login` needs a check of the person; `None`: no rule with a check
    /// matches (policy.md §12).
    fn ssh_check(&self, _src: NodeId, _dst: NodeId, _login: &str) -> Option<SshCheck> {
        None
    }

    /// Why a machine may reach a port of an address (any port: `None`), or why not, as JSON: `verdict` and `parts`.
    fn explain(&self, _src: NodeId, _dst: IpAddr, _port: Option<u16>) -> serde_json::Value {
        serde_json::json!({ "verdict": "allowed", "parts": [] })
    }
}

/// The policy of a network that has none: everybody reaches everybody (policy.md §3.2).
#[derive(Debug, Clone, Copy, Default)]
pub struct AllowAll;

impl Engine for AllowAll {
    /// Refuses every text: this engine stands where no policy engine is built in.
    fn parse(&self, _text: &str, _world: &World) -> Result<Arc<dyn Rules>, PolicyError> {
        Err(PolicyError {
            kind: "no_engine".to_owned(),
            message: "this server was built without a policy engine".to_owned(),
            at: None,
            report: String::new(),
        })
    }
}

impl Rules for AllowAll {
    fn compile(&self, _world: &World, before: Option<&Arc<dyn Compiled>>) -> Arc<dyn Compiled> {
        match before {
            // WHY: the answer is always the same, and the same `Arc` tells the caller so.
            Some(before) => Arc::clone(before),
            None => Arc::new(Open::new()),
        }
    }

    fn may_tag(&self, _world: &World, _user: UserId, _tag: &str) -> bool {
        false
    }

    fn tag_owns(&self, _holder: &str, _tag: &str) -> bool {
        false
    }

    fn declares_tag(&self, _tag: &str) -> bool {
        // Without a policy, tags are words without effect; an admin may set them at will.
        true
    }

    fn approves_route(&self, _world: &World, _node: &NodeFacts, _route: IpNet) -> bool {
        false
    }
}

#[derive(Debug)]
struct Open {
    filter: Arc<[FilterRule]>,
    ssh: Arc<SshPolicy>,
}

impl Open {
    fn new() -> Self {
        let all = FilterRule::allow_all();
        Self { filter: Arc::from([all]), ssh: Arc::default() }
    }
}

impl Compiled for Open {
    fn class(&self, _node: NodeId) -> Class {
        Class(0)
    }

    fn sees(&self, _a: Class, _b: Class) -> bool {
        true
    }

    fn routes_seen(&self, _viewer: Class, _peer: NodeId, routes: &[IpNet]) -> Vec<IpNet> {
        routes.to_vec()
    }

    fn filter(&self, _node: NodeId) -> Arc<[FilterRule]> {
        Arc::clone(&self.filter)
    }

    fn ssh(&self, _node: NodeId) -> Arc<SshPolicy> {
        Arc::clone(&self.ssh)
    }

    fn attributes(&self, _node: NodeId) -> CapMap {
        CapMap::new()
    }
}

/// Stands for a stored policy that cannot be read: nobody reaches anybody (threat-model.md §3).
#[derive(Debug, Clone, Copy)]
pub(crate) struct RefuseAll;

impl Rules for RefuseAll {
    fn compile(&self, _world: &World, _before: Option<&Arc<dyn Compiled>>) -> Arc<dyn Compiled> {
        Arc::new(Self)
    }

    fn may_tag(&self, _world: &World, _user: UserId, _tag: &str) -> bool {
        false
    }

    fn tag_owns(&self, _holder: &str, _tag: &str) -> bool {
        false
    }

    fn declares_tag(&self, _tag: &str) -> bool {
        false
    }

    fn approves_route(&self, _world: &World, _node: &NodeFacts, _route: IpNet) -> bool {
        false
    }
}

impl Compiled for RefuseAll {
    fn explain(&self, _src: NodeId, _dst: IpAddr, _port: Option<u16>) -> serde_json::Value {
        serde_json::json!({ "verdict": "denied", "parts": [] })
    }

    fn class(&self, _node: NodeId) -> Class {
        Class(0)
    }

    fn sees(&self, _a: Class, _b: Class) -> bool {
        false
    }

    fn routes_seen(&self, _viewer: Class, _peer: NodeId, _routes: &[IpNet]) -> Vec<IpNet> {
        Vec::new()
    }

    fn filter(&self, _node: NodeId) -> Arc<[FilterRule]> {
        Arc::from([])
    }

    fn ssh(&self, _node: NodeId) -> Arc<SshPolicy> {
        Arc::default()
    }

    fn attributes(&self, _node: NodeId) -> CapMap {
        CapMap::new()
    }
}

//! What a policy is applied to: the people and machines of a network.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use sw_types::{NodeId, UserId};

use crate::alias::Role;
use crate::posture::Attributes;
use crate::range::{IpRange, is_default_route};

/// A person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub id: UserId,
    /// The local name; a policy writes `name@`.
    pub name: String,
    /// The login, e-mail-like; empty when there is none.
    pub email: String,
    /// The name at an identity provider, such as `name@github`; empty when there is none.
    pub provider: String,
    pub role: Role,
    /// Groups that the identity provider named, plain or as `name@domain`; a policy writes `group:name@domain`.
    pub groups: Vec<String>,
}

impl User {
    /// Returns the login name: the e-mail if known, else the name.
    #[must_use]
    pub fn login(&self) -> &str {
        if self.email.is_empty() { &self.name } else { &self.email }
    }

    /// Returns the words by which a policy may name this person, in lower case, the strongest first.
    pub(crate) fn tokens(&self) -> Vec<String> {
        let mut tokens = Vec::new();
        for token in [&self.provider, &self.email] {
            if !token.is_empty() {
                tokens.push(token.to_lowercase());
            }
        }
        if self.email.is_empty() && self.name.contains('@') {
            tokens.push(self.name.to_lowercase());
        }
        tokens.push(format!("{}@", self.name.to_lowercase()));
        tokens
    }

    /// Returns the words of a policy for this person's groups at the identity provider, in lower case.
    pub(crate) fn group_tokens(&self) -> impl Iterator<Item = String> {
        self.groups.iter().filter_map(|group| match (group.contains('@'), self.domain()) {
            (true, _) => Some(format!("group:{}", group.to_lowercase())),
            (false, Some(domain)) => Some(format!("group:{group}@{domain}").to_lowercase()),
            (false, None) => None,
        })
    }

    /// Returns the domain of the login, as written.
    pub(crate) fn domain(&self) -> Option<&str> {
        self.login().rsplit_once('@').map(|(_, domain)| domain).filter(|domain| !domain.is_empty())
    }
}

/// A machine. No two machines have an address in common.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub id: NodeId,
    pub name: String,
    /// The owner; without effect when the machine is tagged.
    pub user: Option<UserId>,
    pub tags: Vec<String>,
    /// IPv4 before IPv6.
    pub addresses: Vec<IpAddr>,
    /// Routes that the machine announces.
    pub announced: Vec<IpNet>,
    /// Routes that an admin or the policy approved.
    pub approved: Vec<IpNet>,
    pub posture: Attributes,
}

impl Node {
    /// Returns the person who owns the machine; a tagged machine has no owner (policy.md §15.1).
    #[must_use]
    pub fn owner(&self) -> Option<UserId> {
        if self.tags.is_empty() { self.user } else { None }
    }

    /// Returns the routes that are both announced and approved, exit routes left out, sorted.
    #[must_use]
    pub fn subnet_routes(&self) -> Vec<IpNet> {
        let mut routes: Vec<IpNet> = self.active().filter(|net| !is_default_route(net)).collect();
        routes.sort_unstable();
        routes.dedup();
        routes
    }

    /// Returns the exit routes that are both announced and approved.
    #[must_use]
    pub fn exit_routes(&self) -> Vec<IpNet> {
        let mut routes: Vec<IpNet> = self.active().filter(is_default_route).collect();
        routes.sort_unstable();
        routes.dedup();
        routes
    }

    fn active(&self) -> impl Iterator<Item = IpNet> {
        self.announced.iter().filter(|net| self.approved.contains(net)).map(IpNet::trunc)
    }

    pub(crate) fn owns(&self, range: IpRange) -> bool {
        self.addresses.iter().any(|addr| range.contains(*addr))
    }
}

/// Everything a policy can depend on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct World {
    pub users: BTreeMap<UserId, Arc<User>>,
    pub nodes: BTreeMap<NodeId, Arc<Node>>,
}

impl World {
    /// Returns the domains of all logins.
    #[must_use]
    pub fn domains(&self) -> Vec<String> {
        let mut domains: Vec<String> =
            self.users.values().filter_map(|user| user.domain()).map(str::to_owned).collect();
        domains.sort_unstable();
        domains.dedup();
        domains
    }
}

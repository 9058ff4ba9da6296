//! Attributes, approval of routes, ownership of tags (policy.md §13, §15).

use std::collections::BTreeSet;

use ipnet::IpNet;
use sw_types::{NodeId, UserId};

use super::{Compiled, NodeState};
use crate::alias::{Autogroup, Selector};
use crate::model::Alias;
use crate::plan::CapMap;
use crate::range::is_default_route;

impl Compiled {
    /// Returns the attributes that the policy gives a machine.
    #[must_use]
    pub fn attributes(&self, node: NodeId) -> CapMap {
        let mut found = CapMap::new();
        let Some(node) = self.node(node) else { return found };
        let policy = &self.plan.policy;
        for plan in &self.plan.attrs {
            if !plan.is_all && !plan.targets.iter().any(|sel| self.is_target(node, *sel)) {
                continue;
            }
            let Some(entry) = policy.node_attrs.get(plan.entry) else { continue };
            for attr in &entry.attr {
                found.entry(attr.text.clone()).or_insert(serde_json::Value::Null);
            }
            for (name, value) in &entry.app {
                found.entry(name.text.clone()).or_insert_with(|| value.clone());
            }
        }
        let switches = policy.switches;
        let mut set = |name: &str| {
            found.entry(name.to_owned()).or_insert(serde_json::Value::Null);
        };
        if switches.randomize_client_port {
            set("randomize-client-port");
        }
        if switches.disable_ipv4 {
            set("disable-ipv4");
        }
        match switches.one_cgnat {
            Some(true) => set("one-cgnat?v=true"),
            Some(false) => set("one-cgnat?v=false"),
            None => {}
        }
        found
    }

    /// Returns the address ranges out of which a new machine with this owner and these tags gets its IPv4 address, in
    /// order; empty when the policy has no wish (policy.md §13).
    #[must_use]
    pub fn ip_pool(&self, owner: Option<UserId>, tags: &[String]) -> Vec<IpNet> {
        let is_meant = |alias: &Alias| match &alias.selector {
            Selector::Wildcard => true,
            Selector::Autogroup(Autogroup::Tagged) => !tags.is_empty(),
            Selector::User(_)
            | Selector::DomainUsers(_)
            | Selector::Group(_)
            | Selector::Tag(_)
            | Selector::Autogroup(_)
            | Selector::Range(_)
            | Selector::Ipset(_)
            | Selector::Service(_)
            | Selector::Host(_) => self.is_one_of(alias, owner, tags),
        };
        let entries = self.plan.policy.node_attrs.iter();
        let meant = entries.filter(|entry| entry.target.iter().any(is_meant));
        meant.flat_map(|entry| &entry.ip_pool).map(|(_, net)| *net).collect()
    }

    fn is_target(&self, node: &NodeState, sel: u32) -> bool {
        node.sels.binary_search(&sel).is_ok()
            || self.plan.ranges(sel).iter().any(|literal| node.owns(literal.range))
    }

    /// Returns those of a machine's announced routes that the policy approves, sorted.
    #[must_use]
    pub fn auto_approved(&self, node: NodeId) -> Vec<IpNet> {
        let Some(node) = self.node(node) else { return Vec::new() };
        let mut routes: Vec<IpNet> = node.facts.announced.iter().map(IpNet::trunc).collect();
        routes.sort_unstable();
        routes.dedup();
        routes.retain(|route| self.approves(node.facts.owner(), &node.facts.tags, *route));
        routes
    }

    /// Reports whether the policy approves a route of a machine with this owner and these tags (policy.md §15.2).
    #[must_use]
    pub fn approves(&self, owner: Option<UserId>, tags: &[String], route: IpNet) -> bool {
        let approvers = &self.plan.policy.auto_approvers;
        let is_match = |who: &[Alias]| who.iter().any(|alias| self.is_one_of(alias, owner, tags));
        if is_default_route(&route) {
            return is_match(&approvers.exit_node);
        }
        approvers.routes.iter().any(|(net, who)| net.contains(&route.trunc()) && is_match(who))
    }

    /// Reports whether a person may give a machine `tag` (policy.md §15.1).
    #[must_use]
    pub fn may_tag(&self, user: UserId, tag: &str) -> bool {
        let is_admin = self.people.users.get(&user).is_some_and(|user| user.role.may_set_any_tag());
        self.declares_tag(tag)
            && (is_admin || self.owners(tag).iter().any(|owner| self.is_one_of(owner, Some(user), &[])))
    }

    /// Reports whether a machine or key that holds `holder` may give `tag`; a tag gives itself.
    #[must_use]
    pub fn tag_owns(&self, holder: &str, tag: &str) -> bool {
        if holder == tag {
            return self.declares_tag(tag);
        }
        let holder = [holder.to_owned()];
        self.owners(tag).iter().any(|owner| self.is_one_of(owner, None, &holder))
    }

    /// Reports whether the policy declares a tag.
    #[must_use]
    pub fn declares_tag(&self, tag: &str) -> bool {
        self.plan.policy.tag_owners.contains_key(tag)
    }

    /// Returns all owners of a tag, those through other tags too; a circle of tags adds nothing.
    fn owners(&self, tag: &str) -> Vec<&Alias> {
        let mut owners = Vec::new();
        let mut seen = BTreeSet::from([tag]);
        let mut open = vec![tag];
        while let Some(tag) = open.pop() {
            for owner in self.plan.policy.tag_owners.get(tag).iter().flat_map(|entry| &entry.owners) {
                owners.push(owner);
                if let Selector::Tag(next) = &owner.selector
                    && seen.insert(next)
                {
                    open.push(next);
                }
            }
        }
        owners
    }

    /// Reports whether an owner or tag list is meant by a selector of people and tags.
    fn is_one_of(&self, alias: &Alias, owner: Option<UserId>, tags: &[String]) -> bool {
        match &alias.selector {
            Selector::Tag(tag) => tags.contains(tag),
            Selector::User(_) | Selector::DomainUsers(_) => self.is_person(alias, owner),
            Selector::Group(name) => {
                let members = self.plan.policy.groups.get(name).into_iter().flat_map(|group| &group.members);
                members.into_iter().any(|member| self.is_person(member, owner))
            }
            Selector::Autogroup(Autogroup::Member) => owner.is_some(),
            Selector::Autogroup(Autogroup::Role(role)) => {
                owner.and_then(|owner| self.people.users.get(&owner)).is_some_and(|user| user.role.is(*role))
            }
            Selector::Autogroup(_)
            | Selector::Wildcard
            | Selector::Range(_)
            | Selector::Ipset(_)
            | Selector::Service(_)
            | Selector::Host(_) => false,
        }
    }

    fn is_person(&self, alias: &Alias, owner: Option<UserId>) -> bool {
        let Some(user) = owner.and_then(|owner| self.people.users.get(&owner)) else { return false };
        match &alias.selector {
            Selector::User(token) => self.people.is(token, user),
            Selector::DomainUsers(domain) => {
                user.domain().is_some_and(|own| own.eq_ignore_ascii_case(domain))
            }
            Selector::Wildcard
            | Selector::Range(_)
            | Selector::Group(_)
            | Selector::Tag(_)
            | Selector::Autogroup(_)
            | Selector::Ipset(_)
            | Selector::Service(_)
            | Selector::Host(_) => false,
        }
    }
}

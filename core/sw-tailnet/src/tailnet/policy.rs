//! The policy in force: what it may know of machines, and what follows when it gives other answers.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;
use sw_types::{NodeId, Now, UserId};

use super::Tailnet;
use crate::live::{Aspect, Live, OUTSIDE};
use crate::record::{Audit, Change, Node};
use crate::rules::{NodeFacts, RefuseAll, Rules};
use crate::streams::Haste;

impl Tailnet {
    /// Parses the stored policy into rules. A text that this program cannot parse refuses everything.
    pub(super) fn load_policy(&mut self) {
        self.rules = match self.state.policy() {
            None => self.config.engine.without_policy(&self.world),
            Some(policy) => match self.config.engine.load(&policy.text, &self.world) {
                Ok(rules) => rules,
                Err(error) => {
                    tracing::error!(%error, "the stored policy cannot be read: nobody may reach anybody");
                    Arc::new(RefuseAll)
                }
            },
        };
        self.all_unseen = true;
        self.refresh_relays();
    }

    /// Installs rules that were parsed for a change of the policy.
    pub(crate) fn install_rules(&mut self, rules: Arc<dyn Rules>) {
        self.rules = rules;
        self.all_unseen = true;
        self.refresh_relays();
    }

    /// Applies the policy to the world as it is, if it changed, and marks what that changes.
    pub(crate) fn settle(&mut self, now: Now) {
        // Approval of a route changes the facts again, so a second round may follow; then it is stable.
        for _ in 0..3 {
            if self.unseen.is_empty() && !self.all_unseen {
                return;
            }
            let all = std::mem::take(&mut self.all_unseen);
            let unseen = std::mem::take(&mut self.unseen);
            let unseen: Vec<NodeId> =
                if all { self.live.keys().copied().collect() } else { unseen.into_iter().collect() };
            for id in &unseen {
                self.refresh_world(*id);
            }
            for id in &unseen {
                self.approve_routes(*id, now);
            }
            self.compile(&unseen);
        }
    }

    /// What the policy can know of a machine may have changed.
    pub(crate) fn see_again(&mut self, id: NodeId) {
        self.unseen.insert(id);
    }

    pub(super) fn refresh_world(&mut self, id: NodeId) {
        let (Some(node), Some(live)) = (self.state.node(id), self.live.get_mut(&id)) else {
            return;
        };
        let facts = node_facts(node, live);
        if live.known.as_deref() != Some(&facts) {
            let facts = Arc::new(facts);
            live.known = Some(Arc::clone(&facts));
            self.world.nodes.insert(id, facts);
        }
    }

    pub(super) fn compile(&mut self, unseen: &[NodeId]) {
        self.stats.compilations += 1;
        let before = Arc::clone(&self.compiled);
        self.compiled = self.rules.compile(&self.world, Some(&before));
        self.stamp += 1;
        if Arc::ptr_eq(&before, &self.compiled) {
            for id in unseen {
                self.reclassify(*id, false);
            }
            return;
        }
        self.streams.rules_changed(self.stamp);
        let ids: Vec<NodeId> = self.live.keys().copied().collect();
        for id in ids {
            self.reclassify(id, true);
        }
    }

    pub(super) fn reclassify(&mut self, id: NodeId, rules_changed: bool) {
        let admitted = self.is_admitted(id);
        let Some(live) = self.live.get_mut(&id) else {
            return;
        };
        let class = if admitted { self.compiled.class(id) } else { OUTSIDE };
        if class != live.class || rules_changed {
            let before = std::mem::replace(&mut live.class, class);
            self.streams.move_member(id, class);
            if !rules_changed {
                // With new rules every stream compares all it sees anyway.
                self.streams.wake_viewers(&*self.compiled, before, Haste::Now);
                self.touch(id, &[Aspect::Full, Aspect::Own]);
            }
        }
        let Some(live) = self.live.get_mut(&id) else {
            return;
        };
        let attributes = self.compiled.attributes(id);
        if attributes != live.attributes {
            live.attributes = attributes;
            self.touch(id, &[Aspect::Own, Aspect::Full]);
        }
    }

    /// Whether a machine takes part in the network: let in, and its owner not suspended.
    pub(crate) fn is_admitted(&self, id: NodeId) -> bool {
        self.state.node(id).is_some_and(|node| {
            let suspended = |user: UserId| self.state.user(user).is_some_and(|u| u.suspended);
            node.approved && !node.user().is_some_and(suspended)
        })
    }

    /// Approves announced routes that the policy approves (policy.md §15.2). Never takes approval back.
    pub(super) fn approve_routes(&mut self, id: NodeId, now: Now) {
        let (Some(node), Some(live)) = (self.state.node(id), self.live.get(&id)) else {
            return;
        };
        let Some(facts) = &live.known else {
            return;
        };
        let is_new = |r: &&IpNet| !node.approved_routes.contains(r);
        let approves = |r: &&IpNet| is_new(r) && self.rules.approves_route(&self.world, facts, **r);
        let new: Vec<IpNet> = facts.advertised.iter().filter(approves).copied().collect();
        if new.is_empty() {
            return;
        }
        let mut node = node.clone();
        node.approved_routes.extend(new);
        node.approved_routes.sort();
        node.approved_routes.dedup();
        let new = crate::admin::join_display(&node.approved_routes);
        let audit = Audit {
            what: "machine.routes".to_owned(),
            target: node.label.clone(),
            old: None,
            new: Some(new),
        };
        self.record("policy", vec![audit], vec![Change::Node(id, Some(Box::new(node)))], now);
    }
}

fn node_facts(node: &Node, live: &Live) -> NodeFacts {
    let mut advertised = live.facts.host.routable_ips.clone();
    advertised.sort();
    advertised.dedup();
    let mut posture = BTreeMap::new();
    for (key, value) in [
        ("node:os", &live.facts.host.os),
        ("node:osVersion", &live.facts.host.os_version),
        ("node:tsVersion", &live.facts.host.ipn_version),
    ] {
        if !value.is_empty() {
            posture.insert(key.to_owned(), value.clone());
        }
    }
    NodeFacts {
        id: node.id,
        name: node.label.clone(),
        user: node.user(),
        tags: node.tags().to_vec(),
        addresses: node.addresses(),
        advertised,
        routes: live.routes.clone(),
        posture,
    }
}

//! The content of a source set: machines and strings (policy.md §7).

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use ipnet::IpNet;
use sw_types::NodeId;

use super::{NodeState, SetHash};
use crate::plan::{Plan, SetId};
use crate::range::{IpRange, RangeSet, prefix_text, wildcard};
use crate::rule::Sources;

#[derive(Clone, Debug)]
pub(super) struct SetState {
    /// The machines in the set, ascending.
    pub(super) members: Arc<Vec<NodeId>>,
    /// Strings that do not come from members.
    fixed: Arc<Vec<Arc<str>>>,
    /// Addresses of the members.
    dynamic: Sources,
    dynamic_hash: SetHash,
    /// Both together: the `SrcIPs` of its rules.
    pub(super) strings: Sources,
    pub(super) hash: SetHash,
    /// Addresses of the policy which machines took out, with the machines.
    blocked: Vec<(IpRange, NodeId)>,
}

/// Members that come and go.
#[derive(Debug, Default)]
pub(super) struct Delta<'n> {
    pub(super) gone: Vec<&'n NodeState>,
    pub(super) come: Vec<&'n NodeState>,
    pub(super) unblock: Vec<(IpRange, NodeId)>,
    pub(super) block: Vec<(IpRange, NodeId)>,
}

/// Returns the hash of one string. A set's hash is the sum, so that it follows changes.
pub(super) fn hash(text: &str) -> SetHash {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        salt.hash(&mut hasher);
        text.hash(&mut hasher);
        u128::from(hasher.finish())
    };
    (half(1) << 64) | half(2)
}

impl SetState {
    pub(super) fn empty() -> Self {
        let none: Sources = Arc::default();
        Self {
            members: Arc::default(),
            fixed: Arc::default(),
            dynamic: Arc::clone(&none),
            dynamic_hash: 0,
            strings: none,
            hash: 0,
            blocked: Vec::new(),
        }
    }

    /// Takes changes of members in.
    pub(super) fn change(&mut self, delta: &Delta<'_>) {
        let gone: BTreeSet<NodeId> = delta.gone.iter().map(|node| node.facts.id).collect();
        let few = delta.gone.len() + delta.come.len() <= 16;
        let members = Arc::make_mut(&mut self.members);
        if few {
            for id in &gone {
                if let Ok(at) = members.binary_search(id) {
                    members.remove(at);
                }
            }
            for node in &delta.come {
                if let Err(at) = members.binary_search(&node.facts.id) {
                    members.insert(at, node.facts.id);
                }
            }
        } else {
            members.retain(|id| !gone.contains(id));
            members.extend(delta.come.iter().map(|node| node.facts.id));
            members.sort_unstable();
        }
        // While both are one, the copy below would be made for nothing.
        self.strings = Arc::default();
        let dynamic = Arc::make_mut(&mut self.dynamic);
        for (text, hash) in delta.gone.iter().flat_map(|node| &node.texts) {
            self.dynamic_hash = self.dynamic_hash.wrapping_sub(*hash);
            if let (true, Ok(at)) = (few, dynamic.binary_search(text)) {
                dynamic.remove(at);
            }
        }
        if !few {
            let gone: BTreeSet<&Arc<str>> =
                delta.gone.iter().flat_map(|node| &node.texts).map(|(text, _)| text).collect();
            dynamic.retain(|text| !gone.contains(text));
        }
        for (text, hash) in delta.come.iter().flat_map(|node| &node.texts) {
            self.dynamic_hash = self.dynamic_hash.wrapping_add(*hash);
            if few {
                let at = dynamic.partition_point(|own| own < text);
                dynamic.insert(at, Arc::clone(text));
            } else {
                dynamic.push(Arc::clone(text));
            }
        }
        if !few {
            dynamic.sort_unstable();
        }
        self.blocked.retain(|block| !delta.unblock.contains(block));
        self.blocked.extend(&delta.block);
    }

    /// Computes the strings that do not come from members.
    pub(super) fn refix<'r>(&mut self, plan: &Plan, set: SetId, routes: impl Iterator<Item = &'r IpNet>) {
        let spec = plan.set(set);
        let mut fixed: Vec<Arc<str>> = Vec::new();
        if spec.is_any {
            fixed.extend(wildcard().iter().map(|range| Arc::from(range.to_string())));
            fixed.extend(routes.map(|net| Arc::from(prefix_text(*net))));
        }
        for literal in spec.addresses.iter().flat_map(|sel| plan.ranges(*sel)) {
            if !self.blocked.iter().any(|(range, _)| *range == literal.range) {
                fixed.push(Arc::clone(&literal.src_text));
            }
        }
        if spec.is_everything {
            fixed = vec![Arc::from("*")];
        }
        fixed.sort_unstable();
        fixed.dedup();
        self.fixed = Arc::new(fixed);
    }

    /// Joins both kinds of strings.
    pub(super) fn join(&mut self, plan: &Plan, set: SetId) {
        let spec = plan.set(set);
        let has_others = !self.dynamic.is_empty() || !spec.addresses.is_empty();
        if !spec.is_everything && (spec.is_joined || spec.is_any) && has_others {
            self.join_ranges(plan, set);
            return;
        }
        if self.fixed.is_empty() {
            self.strings = Arc::clone(&self.dynamic);
            self.hash = self.dynamic_hash;
            return;
        }
        if spec.is_everything || self.dynamic.is_empty() {
            self.strings = Arc::clone(&self.fixed);
            self.hash = self.fixed.iter().fold(0, |sum, text| sum.wrapping_add(hash(text)));
            return;
        }
        let fresh = |text: &&Arc<str>| self.dynamic.binary_search(text).is_err();
        let more: Vec<&Arc<str>> = self.fixed.iter().filter(fresh).collect();
        self.hash = more.iter().fold(self.dynamic_hash, |sum, text| sum.wrapping_add(hash(text)));
        let mut all: Vec<Arc<str>> = Vec::with_capacity(self.dynamic.len() + more.len());
        all.extend(self.dynamic.iter().chain(more).cloned());
        all.sort_unstable();
        self.strings = Arc::new(all);
    }

    /// Sources of companions print as ranges of neighbours; beside `*` other selectors print both ways.
    fn join_ranges(&mut self, plan: &Plan, set: SetId) {
        let spec = plan.set(set);
        let members = self.dynamic.iter().filter_map(|text| IpRange::parse(text));
        let literals = spec.addresses.iter().flat_map(|sel| plan.ranges(*sel)).map(|literal| literal.range);
        let present = literals.filter(|range| !self.blocked.iter().any(|(blocked, _)| blocked == range));
        let joined: RangeSet = members.chain(present).collect();
        let mut all: Vec<Arc<str>> =
            joined.ranges().iter().map(|range| Arc::from(range.to_string())).collect();
        if spec.is_any {
            all.extend(self.fixed.iter().cloned());
        }
        if !spec.is_joined {
            all.extend(self.dynamic.iter().cloned());
        }
        all.sort_unstable();
        all.dedup();
        self.hash = all.iter().fold(0, |sum, text| sum.wrapping_add(hash(text)));
        self.strings = Arc::new(all);
    }
}

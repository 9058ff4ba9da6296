//! What follows from the facts of one machine: selectors, source sets, hits, routes.

use std::sync::Arc;

use super::peers::Class;
use super::{Compiled, NodeState, RouteState, ViaState, set};
use crate::bits::BitSet;
use crate::model::PostureRef;
use crate::people::People;
use crate::plan::{PieceKind, Plan, Sel, SelId, SetId};
use crate::posture::Attributes;
use crate::range::{IpRange, RangeSet, addr_text, internet, wildcard};
use crate::world::Node;

/// Derives what depends on the machine and its person alone.
pub(super) fn basics(plan: &Plan, people: &People, facts: &Arc<Node>) -> NodeState {
    let texts = facts.addresses.iter().map(|addr| {
        let text: Arc<str> = Arc::from(addr_text(*addr));
        let hash = set::hash(&text);
        (text, hash)
    });
    let mut node = NodeState {
        facts: Arc::clone(facts),
        texts: texts.collect(),
        sels: sels(plan, people, facts),
        member_of: Vec::new(),
        blocks: Vec::new(),
        src_hits: Vec::new(),
        dst_hits: Vec::new(),
        filter_sels: Vec::new(),
        routes: Vec::new(),
        exit_routes: facts.exit_routes(),
        covers: Vec::new(),
        via: Vec::new(),
        class: Class(0),
    };
    let mut postures = Postures { plan, attributes: &facts.posture, known: vec![None; plan.postures.len()] };
    for sel in &node.sels {
        for set in plan.sel_sets.get(*sel as usize).map_or(&[][..], Vec::as_slice) {
            if postures.pass(plan.set(*set).posture) {
                node.member_of.push(*set);
            }
        }
    }
    for set in &plan.any_passing_sets {
        if postures.pass(plan.set(*set).posture) {
            node.member_of.push(*set);
        }
    }
    sort(&mut node.member_of);
    for (set, range) in &plan.posture_hosts {
        if node.owns(*range) && !postures.pass(plan.set(*set).posture) {
            node.blocks.push((*set, *range));
        }
    }
    node.routes = facts
        .subnet_routes()
        .into_iter()
        .map(|net| RouteState {
            net,
            range: IpRange::prefix(net),
            sels: BitSet::default(),
            reach: BitSet::default(),
        })
        .collect();
    node
}

fn sort(numbers: &mut Vec<u32>) {
    numbers.sort_unstable();
    numbers.dedup();
}

fn sels(plan: &Plan, people: &People, facts: &Node) -> Vec<SelId> {
    let mut sels: Vec<SelId> = Vec::new();
    match facts.owner() {
        Some(user) => {
            sels.extend(people.sels(user));
            sels.extend(plan.member);
        }
        None => {
            for tag in &facts.tags {
                sels.extend(plan.by_tag.get(tag).into_iter().flatten());
            }
            if !facts.tags.is_empty() {
                sels.extend(plan.tagged);
            }
        }
    }
    sort(&mut sels);
    sels
}

/// Answers which lists of postures a machine passes; each list is evaluated once.
struct Postures<'p> {
    plan: &'p Plan,
    attributes: &'p Attributes,
    known: Vec<Option<bool>>,
}

impl Postures<'_> {
    fn pass(&mut self, list: Option<u32>) -> bool {
        let Some(list) = list else { return true };
        let Some(known) = self.known.get_mut(list as usize) else { return true };
        *known.get_or_insert_with(|| passes(self.plan, list, self.attributes))
    }
}

/// Reports whether attributes meet at least one posture of a list.
pub(super) fn passes(plan: &Plan, list: u32, attributes: &Attributes) -> bool {
    let refs = plan.postures.get(list as usize).map_or(&[][..], Vec::as_slice);
    refs.iter().any(|posture| match posture {
        PostureRef::Inline(assertion) => assertion.holds(attributes),
        PostureRef::Named(name) => {
            let assertions = plan.policy.postures.get(&name.text);
            assertions.is_some_and(|all| all.iter().all(|assertion| assertion.holds(attributes)))
        }
    })
}

impl Compiled {
    /// Derives what depends on the rules and on machines inside the routes of this one.
    pub(super) fn derive_hits(&self, node: &mut NodeState) {
        node.covers = self.covered(node);
        let covered: Vec<&NodeState> = node.covers.iter().filter_map(|id| self.node(*id)).collect();
        let mut src: Vec<SetId> = node.member_of.iter().chain(&self.plan.any_sets).copied().collect();
        let mut dst: Vec<SelId> = node.sels.iter().chain(&self.plan.always).copied().collect();
        for other in &covered {
            src.extend(&other.member_of);
            dst.extend(&other.sels);
        }
        let mut kept = Vec::new();
        let public: RangeSet = internet().into_iter().collect();
        for sel in &self.plan.literals {
            self.literal_hits(node, *sel, &mut src, &mut dst);
            let is_public = |range: IpRange| node.is_exit() && public.covers(range);
            if node.is_exit() && self.plan.ranges(*sel).iter().any(|literal| is_public(literal.range)) {
                kept.push(*sel);
            }
        }
        let routes_public = node.routes.iter().any(|route| public.overlaps(route.range));
        if let Some(sel) = self.plan.internet.filter(|_| node.is_exit() || routes_public) {
            dst.push(sel);
        }
        sort(&mut src);
        sort(&mut dst);
        kept.extend(&dst);
        sort(&mut kept);
        if node.is_exit() {
            dst.extend(self.plan.literals.iter().filter(|sel| self.plan.internet_sels.contains(**sel)));
            sort(&mut dst);
        }
        let mut routes = std::mem::take(&mut node.routes);
        for route in &mut routes {
            // A route may hold the address of its own router too.
            self.derive_route(route, covered.iter().copied().chain([&*node]));
        }
        node.routes = routes;
        node.via = self.via_of(node);
        node.src_hits = src;
        node.dst_hits = dst;
        node.filter_sels = kept;
    }

    fn literal_hits(&self, node: &NodeState, sel: SelId, src: &mut Vec<SetId>, dst: &mut Vec<SelId>) {
        let mut is_hit = false;
        for literal in self.plan.ranges(sel) {
            if !node.owns(literal.range) && !node.routes_overlap(literal.range) {
                continue;
            }
            is_hit = true;
            let sets = self.plan.sel_sets.get(sel as usize).map_or(&[][..], Vec::as_slice);
            src.extend(sets.iter().filter(|set| !node.blocks.contains(&(**set, literal.range))));
        }
        if is_hit {
            dst.push(sel);
        }
    }

    fn derive_route<'n>(&self, route: &mut RouteState, covered: impl Iterator<Item = &'n NodeState>) {
        let plan = &self.plan;
        let mut sets: Vec<SetId> = plan.any_sets.clone();
        for sel in &plan.always {
            let meets = match plan.sel(*sel) {
                Sel::AnyCap => wildcard().iter().any(|range| range.overlaps(route.range)),
                Sel::AnyNet | Sel::Nodes | Sel::Addresses(_) | Sel::Internet => true,
            };
            if meets {
                route.sels.insert(*sel);
            }
        }
        for sel in plan.literals.iter().copied().chain(plan.internet) {
            if plan.ranges(sel).iter().any(|literal| literal.range.overlaps(route.range)) {
                route.sels.insert(sel);
                sets.extend(plan.sel_sets.get(sel as usize).into_iter().flatten());
            }
        }
        for other in covered.filter(|other| other.owns(route.range)) {
            for sel in &other.sels {
                route.sels.insert(*sel);
            }
            sets.extend(&other.member_of);
        }
        sort(&mut sets);
        for reach in sets.iter().filter_map(|set| plan.reach.get(*set as usize)) {
            route.reach.join(reach);
        }
    }

    /// Returns the machines whose addresses lie in the routes of `node`.
    fn covered(&self, node: &NodeState) -> Vec<sw_types::NodeId> {
        // Routes outside the network's own addresses meet no machine, unless there are odd machines.
        let is_suspect = |route: &RouteState| {
            self.has_odd_addresses || wildcard().iter().any(|own| own.overlaps(route.range))
        };
        if !node.routes.iter().any(is_suspect) {
            return Vec::new();
        }
        let inside = |other: &&NodeState| {
            other.facts.id != node.facts.id && node.routes.iter().any(|route| other.owns(route.range))
        };
        self.nodes.iter().filter(inside).map(|other| other.facts.id).collect()
    }

    fn via_of(&self, node: &NodeState) -> Vec<ViaState> {
        let mut found = Vec::new();
        for id in &self.plan.via_pieces {
            let piece = self.plan.piece(*id);
            let PieceKind::Via { tags, .. } = &piece.kind else { continue };
            if !tags.iter().any(|tag| node.facts.tags.contains(tag)) {
                continue;
            }
            let is_here = |sel: &&SelId| match self.plan.sel(**sel) {
                Sel::Internet => node.is_exit(),
                Sel::Addresses(literals) => literals.iter().any(|literal| node.routes_overlap(literal.range)),
                Sel::Nodes | Sel::AnyNet | Sel::AnyCap => false,
            };
            let dst: Vec<SelId> = piece.dst.iter().filter(is_here).copied().collect();
            if !dst.is_empty() {
                found.push(ViaState { piece: *id, set: piece.set, dst });
            }
        }
        found
    }
}

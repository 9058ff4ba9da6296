//! From one world to the next: only what a change touches is computed anew.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use sw_types::{NodeId, UserId};

use super::derive::basics;
use super::peers::Classes;
use super::set::{Delta, SetState};
use super::{Compiled, NodeState};
use crate::people::People;
use crate::plan::{PieceKind, Plan, Sel, SetId};
use crate::range::wildcard;
use crate::world::World;

/// A machine before and after; `None` where it does not exist.
struct Step<'s> {
    old: Option<&'s NodeState>,
    new: Option<NodeState>,
}

impl Compiled {
    pub(super) fn empty(plan: Arc<Plan>) -> Self {
        let mut empty = Self {
            people: Arc::default(),
            nodes: super::Table::default(),
            sets: Vec::new(),
            met: Arc::new(vec![0; plan.sels.len()]),
            owned: super::Table::default(),
            routes: Arc::default(),
            heads: Arc::default(),
            classes: Classes::default(),
            has_odd_addresses: false,
            plan,
        };
        for set in 0..empty.plan.sets.len() {
            let set = u32::try_from(set).expect("set numbers fit");
            let mut state = SetState::empty();
            state.refix(&empty.plan, set, std::iter::empty());
            state.join(&empty.plan, set);
            empty.sets.push(Arc::new(state));
        }
        empty
    }

    /// Applies the same policy to another world; equal facts are found by their pointers first.
    #[must_use]
    pub fn update(&self, world: &World) -> Self {
        let mut next = self.clone();
        let changed_people = next.update_people(world);
        let dirty = self.dirty(world, &changed_people);
        if dirty.is_empty() {
            next.rehead_if(self);
            return next;
        }
        let steps: Vec<Step<'_>> = dirty
            .iter()
            .map(|id| Step {
                old: self.node(*id),
                new: world.nodes.get(id).map(|facts| basics(&next.plan, &next.people, facts)),
            })
            .collect();
        let routers = self.routers_around(&steps, &dirty);
        next.update_odd(&steps);
        next.update_counts(&steps);
        let routes_differ = next.update_routes(&steps);
        next.update_sets(&steps, routes_differ);
        next.update_owned(&steps);
        for (id, step) in dirty.iter().zip(steps) {
            match step.new {
                Some(node) => next.nodes.insert(id.0, node),
                None => next.nodes.remove(id.0),
            }
        }
        for id in dirty.iter().chain(&routers) {
            let Some(mut node) = next.node(*id).cloned() else { continue };
            for route in &mut node.routes {
                route.sels = Default::default();
                route.reach = Default::default();
            }
            next.derive_hits(&mut node);
            next.classify(&mut node);
            next.nodes.insert(id.0, node);
        }
        next.rehead_if(self);
        if next.classes.len() > 2 * next.nodes.len() + 1024 {
            // Classes without machines have piled up: start over.
            return Self::empty(Arc::clone(&next.plan)).update(world);
        }
        next
    }

    /// Takes the people over; returns those whose machines meet other selectors than before.
    fn update_people(&mut self, world: &World) -> Vec<UserId> {
        let before = &self.people.users;
        let same = before.len() == world.users.len()
            && before
                .iter()
                .zip(&world.users)
                .all(|((a, x), (b, y))| a == b && (Arc::ptr_eq(x, y) || x == y));
        if same {
            return Vec::new();
        }
        let people = People::new(&self.plan, &world.users);
        let ids: BTreeSet<UserId> = before.keys().chain(world.users.keys()).copied().collect();
        let changed = ids.into_iter().filter(|id| self.people.sels(*id) != people.sels(*id)).collect();
        self.people = Arc::new(people);
        changed
    }

    fn dirty(&self, world: &World, changed_people: &[UserId]) -> BTreeSet<NodeId> {
        let mut dirty: BTreeSet<NodeId> =
            changed_people.iter().flat_map(|user| self.owned(*user)).copied().collect();
        let mut old = self.nodes.iter().peekable();
        for (id, facts) in &world.nodes {
            while let Some(gone) = old.next_if(|node| node.facts.id < *id) {
                dirty.insert(gone.facts.id);
            }
            let known = old.next_if(|node| node.facts.id == *id);
            if !known.is_some_and(|node| Arc::ptr_eq(&node.facts, facts) || node.facts == *facts) {
                dirty.insert(*id);
            }
        }
        dirty.extend(old.map(|node| node.facts.id));
        dirty
    }

    /// Returns the unchanged machines whose routes cover a changed one.
    fn routers_around(&self, steps: &[Step<'_>], dirty: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
        let mut found = BTreeSet::new();
        let routers: BTreeSet<NodeId> = self.routes.values().flatten().copied().collect();
        for id in routers.difference(dirty) {
            let Some(router) = self.node(*id) else { continue };
            let inside = |node: &NodeState| router.routes.iter().any(|route| node.owns(route.range));
            let touches =
                |step: &Step<'_>| step.old.is_some_and(inside) || step.new.as_ref().is_some_and(inside);
            if steps.iter().any(touches) {
                found.insert(*id);
            }
        }
        found
    }

    fn update_odd(&mut self, steps: &[Step<'_>]) {
        // A machine outside the network's ranges is remembered for good: it only costs time.
        let own = wildcard();
        let is_odd = |node: &NodeState| {
            node.facts.addresses.iter().any(|addr| !own.iter().any(|range| range.contains(*addr)))
        };
        self.has_odd_addresses |= steps.iter().any(|step| step.new.as_ref().is_some_and(is_odd));
    }

    fn update_counts(&mut self, steps: &[Step<'_>]) {
        let met = Arc::make_mut(&mut self.met);
        for step in steps {
            for sel in step.old.iter().flat_map(|node| &node.sels) {
                if let Some(count) = met.get_mut(*sel as usize) {
                    *count -= 1;
                }
            }
            for sel in step.new.iter().flat_map(|node| &node.sels) {
                if let Some(count) = met.get_mut(*sel as usize) {
                    *count += 1;
                }
            }
        }
    }

    /// Returns whether the set of distinct routes differs.
    fn update_routes(&mut self, steps: &[Step<'_>]) -> bool {
        let has_routes = |step: &Step<'_>| {
            step.old.is_some_and(|node| !node.routes.is_empty())
                || step.new.as_ref().is_some_and(|node| !node.routes.is_empty())
        };
        if !steps.iter().any(has_routes) {
            return false;
        }
        let routes = Arc::make_mut(&mut self.routes);
        let mut differs = false;
        for step in steps {
            if let Some(old) = step.old {
                for route in &old.routes {
                    let Some(servers) = routes.get_mut(&route.net) else { continue };
                    servers.retain(|id| *id != old.facts.id);
                    if servers.is_empty() {
                        routes.remove(&route.net);
                        differs = true;
                    }
                }
            }
            if let Some(new) = &step.new {
                for route in &new.routes {
                    let servers = routes.entry(route.net).or_default();
                    differs |= servers.is_empty();
                    let at = servers.partition_point(|id| *id < new.facts.id);
                    servers.insert(at, new.facts.id);
                }
            }
        }
        differs
    }

    fn update_sets(&mut self, steps: &[Step<'_>], routes_differ: bool) {
        let mut deltas: BTreeMap<SetId, Delta<'_>> = BTreeMap::new();
        for step in steps {
            let (old, new) = (step.old, step.new.as_ref());
            let same_addresses = match (old, new) {
                (Some(old), Some(new)) => old.facts.addresses == new.facts.addresses,
                _ => false,
            };
            let stays = |set: &SetId, other: Option<&NodeState>| {
                same_addresses && other.is_some_and(|other| other.member_of.binary_search(set).is_ok())
            };
            if let Some(old) = old {
                for set in old.member_of.iter().filter(|set| !stays(set, new)) {
                    deltas.entry(*set).or_default().gone.push(old);
                }
                for (set, range) in &old.blocks {
                    deltas.entry(*set).or_default().unblock.push((*range, old.facts.id));
                }
            }
            if let Some(new) = new {
                for set in new.member_of.iter().filter(|set| !stays(set, old)) {
                    deltas.entry(*set).or_default().come.push(new);
                }
                for (set, range) in &new.blocks {
                    deltas.entry(*set).or_default().block.push((*range, new.facts.id));
                }
            }
        }
        let mut touched: BTreeSet<SetId> = deltas.keys().copied().collect();
        if routes_differ {
            touched.extend(&self.plan.any_sets);
        }
        for set in touched {
            let Some(state) = self.sets.get_mut(set as usize) else { continue };
            let state = Arc::make_mut(state);
            let delta = deltas.remove(&set).unwrap_or_default();
            state.change(&delta);
            if routes_differ || !delta.block.is_empty() || !delta.unblock.is_empty() {
                state.refix(&self.plan, set, self.routes.keys());
            }
            state.join(&self.plan, set);
        }
    }

    fn update_owned(&mut self, steps: &[Step<'_>]) {
        let owner =
            |node: Option<&NodeState>| node.and_then(|node| node.facts.owner().map(|u| (u, node.facts.id)));
        let mut changed: BTreeMap<UserId, Vec<NodeId>> = BTreeMap::new();
        for step in steps {
            let (old, new) = (owner(step.old), owner(step.new.as_ref()));
            if old == new {
                continue;
            }
            if let Some((user, id)) = old {
                let list = changed.entry(user).or_insert_with(|| self.owned(user).to_vec());
                list.retain(|own| *own != id);
            }
            if let Some((user, id)) = new {
                let list = changed.entry(user).or_insert_with(|| self.owned(user).to_vec());
                if let Err(at) = list.binary_search(&id) {
                    list.insert(at, id);
                }
            }
        }
        for (user, list) in changed {
            if list.is_empty() {
                self.owned.remove(user.0);
            } else {
                self.owned.insert(user.0, list);
            }
        }
    }

    /// Finds the first piece of each content anew, if any source set or count differs from `before`.
    fn rehead_if(&mut self, before: &Self) {
        let same_sets = self.sets.iter().zip(&before.sets).all(|(a, b)| Arc::ptr_eq(a, b));
        let is_new = self.heads.is_empty() && !self.plan.pieces.is_empty();
        if same_sets && Arc::ptr_eq(&self.met, &before.met) && !is_new {
            return;
        }
        let mut heads = HashMap::with_capacity(self.plan.pieces.len());
        for (at, piece) in self.plan.pieces.iter().enumerate() {
            let PieceKind::Net(net) = &piece.kind else { continue };
            let set = self.set(piece.set);
            if set.strings.is_empty() || !piece.dst.iter().any(|sel| self.exists(*sel)) {
                continue;
            }
            let at = u32::try_from(at).expect("piece numbers fit");
            heads.entry((set.hash, net.protocol)).or_insert(at);
        }
        self.heads = Arc::new(heads);
    }

    /// Reports whether a selector stands for any address.
    pub(super) fn exists(&self, sel: u32) -> bool {
        match self.plan.sel(sel) {
            Sel::Nodes => self.met.get(sel as usize).is_some_and(|count| *count > 0),
            Sel::Addresses(literals) => !literals.is_empty(),
            Sel::AnyNet | Sel::AnyCap | Sel::Internet => true,
        }
    }
}

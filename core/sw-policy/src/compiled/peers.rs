//! Who sees whom, and with which routes (policy.md §11).

use std::collections::{BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use ipnet::IpNet;
use sw_types::{NodeId, UserId};

use super::table::Table;
use super::{Compiled, NodeState, RouteState, ViaState};
use crate::bits::BitSet;
use crate::plan::{Sel, SelId, SetId};
use crate::range::{IpRange, is_default_route};

/// Machines that see the same peers with the same routes. Numbers hold within one [`Compiled`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Class(pub u32);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct ClassKey {
    src_hits: Vec<SetId>,
    dst_hits: Vec<SelId>,
    /// Set when the policy has rules for one's own machines.
    owner: Option<UserId>,
    /// Set for machines that are a class of their own: those with routes.
    own: Option<NodeId>,
}

#[derive(Clone, Debug)]
struct ClassState {
    key: ClassKey,
    /// Selectors that the class may reach.
    reach: BitSet,
    /// The selectors of `key.dst_hits`.
    hits: BitSet,
    reaches_self: bool,
    via: Vec<ViaState>,
    routes: Vec<IpNet>,
}

/// The classes by number, and their numbers by content.
#[derive(Clone, Debug, Default)]
pub(super) struct Classes {
    states: Table<ClassState>,
    index: Arc<HashMap<u64, u32>>,
}

impl Classes {
    pub(super) fn len(&self) -> usize {
        self.states.len()
    }

    fn get(&self, class: Class) -> Option<&ClassState> {
        self.states.get(i64::from(class.0))
    }

    /// Returns the number of the class with this key, or the place for a new one.
    fn find(&self, key: &ClassKey) -> Result<Class, u64> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let mut place = hasher.finish();
        loop {
            match self.index.get(&place) {
                None => return Err(place),
                Some(number) if self.get(Class(*number)).is_some_and(|state| state.key == *key) => {
                    return Ok(Class(*number));
                }
                Some(_) => place = place.wrapping_add(1),
            }
        }
    }

    fn add(&mut self, place: u64, state: ClassState) -> Class {
        // Number 0 is the class of unknown machines, which sees nobody.
        let number = u32::try_from(self.states.len() + 1).expect("fewer classes than 2^32");
        self.states.insert(i64::from(number), state);
        Arc::make_mut(&mut self.index).insert(place, number);
        Class(number)
    }
}

impl Compiled {
    /// Finds the class of a machine whose hits are known.
    pub(super) fn classify(&mut self, node: &mut NodeState) {
        let is_single =
            !node.routes.is_empty() || node.is_exit() || !node.covers.is_empty() || !node.via.is_empty();
        let key = ClassKey {
            src_hits: node.src_hits.clone(),
            dst_hits: node.dst_hits.clone(),
            owner: node.facts.owner().filter(|_| !self.plan.self_pieces.is_empty()),
            own: is_single.then_some(node.facts.id),
        };
        let found = self.classes.find(&key);
        if let (Ok(class), false) = (found, is_single) {
            node.class = class;
            return;
        }
        let mut reach = BitSet::default();
        for set in &node.src_hits {
            if let Some(more) = self.plan.reach.get(*set as usize) {
                reach.join(more);
            }
        }
        let mut hits = BitSet::default();
        for sel in &node.dst_hits {
            hits.insert(*sel);
        }
        let state = ClassState {
            key,
            reach,
            hits,
            reaches_self: node.facts.owner().is_some() && self.reaches_self(node),
            via: node.via.clone(),
            routes: node.routes.iter().map(|route| route.net).collect(),
        };
        node.class = match found {
            // A machine with routes keeps its number, and what else belongs to it is taken over.
            Ok(class) => {
                self.classes.states.insert(i64::from(class.0), state);
                class
            }
            Err(place) => self.classes.add(place, state),
        };
    }

    fn reaches_self(&self, node: &NodeState) -> bool {
        let sets = node.member_of.iter().chain(&self.plan.any_sets);
        sets.into_iter().any(|set| self.plan.reaches_self.contains(*set))
    }

    /// Returns the class of a machine.
    #[must_use]
    pub fn class(&self, node: NodeId) -> Class {
        self.node(node).map_or(Class(0), |node| node.class)
    }

    /// Reports whether machines of the two classes are peers; symmetric. A class may see itself.
    #[must_use]
    pub fn sees(&self, a: Class, b: Class) -> bool {
        match (self.classes.get(a), self.classes.get(b)) {
            (Some(a), Some(b)) => Self::reaches(a, b) || Self::reaches(b, a) || shares_owner(a, b),
            _ => false,
        }
    }

    fn reaches(from: &ClassState, to: &ClassState) -> bool {
        from.reach.meets(&to.hits)
            || to.via.iter().any(|via| from.key.src_hits.binary_search(&via.set).is_ok())
            || from.via.iter().any(|via| {
                from.key.src_hits.binary_search(&via.set).is_ok()
                    && via.dst.iter().any(|sel| to.key.dst_hits.binary_search(sel).is_ok())
            })
    }

    /// Returns the peers of a machine, ascending.
    #[must_use]
    pub fn peers(&self, node: NodeId) -> Vec<NodeId> {
        let class = self.class(node);
        let mut known: HashMap<Class, bool> = HashMap::new();
        let mut peers = Vec::new();
        for other in self.nodes.iter().filter(|other| other.facts.id != node) {
            if *known.entry(other.class).or_insert_with(|| self.sees(class, other.class)) {
                peers.push(other.facts.id);
            }
        }
        peers
    }

    /// Returns the routes of `peer` that machines of a class may use: those of `serving` (what it serves as the
    /// primary at this moment, exit routes included) which the rules allow, minus and plus what via rules steer.
    #[must_use]
    pub fn routes_seen(&self, viewer: Class, peer: NodeId, serving: &[IpNet]) -> Vec<IpNet> {
        let (Some(viewer), Some(peer)) = (self.classes.get(viewer), self.node(peer)) else {
            return Vec::new();
        };
        let mut seen = BTreeSet::new();
        for net in &peer.exit_routes {
            match self.steer(viewer, peer, *net, None) {
                Steer::Include => {
                    seen.insert(*net);
                }
                Steer::Exclude => {}
                Steer::Ordinary => {
                    if serving.contains(net) && viewer.reach.meets(&self.plan.internet_sels) {
                        seen.insert(*net);
                    }
                }
            }
        }
        for route in &peer.routes {
            match self.steer(viewer, peer, route.net, Some(route)) {
                Steer::Include => {
                    seen.insert(route.net);
                }
                Steer::Exclude => {}
                Steer::Ordinary => {
                    if serving.contains(&route.net) && self.may_use(viewer, route) {
                        seen.insert(route.net);
                    }
                }
            }
        }
        seen.into_iter().collect()
    }

    fn may_use(&self, viewer: &ClassState, route: &RouteState) -> bool {
        viewer.reach.meets(&route.sels)
            || viewer.key.src_hits.iter().any(|set| self.plan.route_sets.contains(*set))
            || route.reach.meets(&viewer.hits)
            || viewer.routes.contains(&route.net)
    }

    /// Says what via rules do to one route of a peer (policy.md §11.3).
    fn steer(&self, viewer: &ClassState, peer: &NodeState, net: IpNet, route: Option<&RouteState>) -> Steer {
        let mut steer = Steer::Ordinary;
        for id in &self.plan.via_pieces {
            let piece = self.plan.piece(*id);
            if viewer.key.src_hits.binary_search(&piece.set).is_err() {
                continue;
            }
            if !piece.dst.iter().any(|sel| self.via_covers(*sel, net)) {
                continue;
            }
            let is_ordinary = match route {
                Some(route) => viewer.reach.meets(&route.sels),
                None => viewer.reach.meets(&self.plan.internet_sels),
            };
            if is_ordinary {
                // A rule without via covers the route too: the primary decides.
                return Steer::Ordinary;
            }
            let is_here = peer.via.iter().any(|via| via.piece == *id && self.wins(peer, via, net));
            if is_here {
                return Steer::Include;
            }
            steer = Steer::Exclude;
        }
        steer
    }

    fn via_covers(&self, sel: SelId, net: IpNet) -> bool {
        match self.plan.sel(sel) {
            Sel::Internet => is_default_route(&net),
            Sel::Addresses(literals) => {
                let range = IpRange::prefix(net);
                !is_default_route(&net) && literals.iter().any(|literal| literal.range.overlaps(range))
            }
            Sel::Nodes | Sel::AnyNet | Sel::AnyCap => false,
        }
    }

    /// Of several machines that serve one prefix for a via rule the lowest number wins.
    fn wins(&self, peer: &NodeState, via: &ViaState, net: IpNet) -> bool {
        if is_default_route(&net) {
            return true;
        }
        let servers = self.routes.get(&net).map_or(&[][..], Vec::as_slice);
        let is_via =
            |id: &&NodeId| self.node(**id).is_some_and(|node| node.via.iter().any(|v| v.piece == via.piece));
        servers.iter().find(is_via) == Some(&peer.facts.id)
    }
}

enum Steer {
    Ordinary,
    Include,
    Exclude,
}

fn shares_owner(a: &ClassState, b: &ClassState) -> bool {
    a.key.owner.is_some() && a.key.owner == b.key.owner && (a.reaches_self || b.reaches_self)
}

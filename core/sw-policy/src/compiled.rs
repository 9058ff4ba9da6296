//! A policy applied to a world: immutable, cheap to derive anew after a change, asked per machine.
//!
//! ```text
//!   Plan (policy alone) + World ─► Compiled ── filter, ssh, attributes, sees, routes … of a machine
//!                                     │
//!                                     └─ update(new world) ─► Compiled  (shares all that did not change)
//! ```
//!
//! Kept per machine: the selectors it meets and the source sets it is in. Kept per source set: its
//! strings. A filter is put together from these when it is asked for, so nothing that depends on two
//! machines is stored, and a change costs what it touches.

mod access;
mod attrs;
mod derive;
pub(crate) mod endpoint;
mod filter;
mod peers;
mod set;
mod ssh;
mod table;
mod update;

use std::collections::HashMap;
use std::sync::Arc;

use ipnet::IpNet;
use sw_types::{NodeId, UserId};

use crate::bits::BitSet;
use crate::model::Policy;
use crate::people::People;
use crate::plan::{PieceId, Plan, SelId, SetId};
use crate::range::IpRange;
use crate::world::{Node, World};
use set::SetState;
use table::Table;

pub use access::Access;
pub use peers::Class;

/// A policy applied to the people and machines of one [`World`].
#[derive(Clone, Debug)]
pub struct Compiled {
    plan: Arc<Plan>,
    people: Arc<People>,
    nodes: Table<NodeState>,
    sets: Vec<Arc<SetState>>,
    /// How many machines meet each selector.
    met: Arc<Vec<u32>>,
    /// The machines of each person, tagged ones left out, ascending.
    owned: Table<Vec<NodeId>>,
    /// Every subnet route with the machines that serve it, ascending.
    routes: Arc<std::collections::BTreeMap<IpNet, Vec<NodeId>>>,
    /// The first piece for each content of sources and protocol (policy.md §8.7).
    heads: Arc<HashMap<(SetHash, Option<u8>), PieceId>>,
    classes: peers::Classes,
    /// Some machine has, or had, an address outside the ranges of the network.
    has_odd_addresses: bool,
}

/// Identity of the content of a source set.
type SetHash = u128;

/// What is known of one machine.
#[derive(Clone, Debug)]
struct NodeState {
    facts: Arc<Node>,
    /// The addresses printed, with their hashes.
    texts: Vec<(Arc<str>, SetHash)>,
    /// Selectors of machines that it meets.
    sels: Vec<SelId>,
    /// Source sets that it is in by such a selector.
    member_of: Vec<SetId>,
    /// Source sets out of which it takes an address that stands in the policy, because of a posture.
    blocks: Vec<(SetId, IpRange)>,
    /// Source sets which its addresses or routes meet (policy.md §11.1).
    src_hits: Vec<SetId>,
    /// Destination selectors which its addresses or routes meet.
    dst_hits: Vec<SelId>,
    /// Destination selectors of which its filter keeps something (policy.md §9).
    filter_sels: Vec<SelId>,
    routes: Vec<RouteState>,
    exit_routes: Vec<IpNet>,
    /// Other machines whose addresses lie in its routes. Empty in any sane network.
    covers: Vec<NodeId>,
    via: Vec<ViaState>,
    class: Class,
}

/// A subnet route of a machine.
#[derive(Clone, Debug)]
struct RouteState {
    net: IpNet,
    range: IpRange,
    /// Selectors that overlap the route.
    sels: BitSet,
    /// Selectors that sources overlapping the route may reach.
    reach: BitSet,
}

/// A via rule that has an effect on a machine.
#[derive(Clone, Debug)]
struct ViaState {
    piece: PieceId,
    set: SetId,
    /// The destinations that overlap its routes.
    dst: Vec<SelId>,
}

impl Compiled {
    /// Applies a policy to a world.
    #[must_use]
    pub fn new(policy: &Arc<Policy>, world: &World) -> Self {
        Self::empty(Arc::new(Plan::new(policy))).update(world)
    }

    /// Returns the policy.
    #[must_use]
    pub fn policy(&self) -> &Arc<Policy> {
        &self.plan.policy
    }

    fn set(&self, set: SetId) -> &SetState {
        self.sets.get(set as usize).expect("set numbers come from the plan of this value")
    }

    fn node(&self, id: NodeId) -> Option<&NodeState> {
        self.nodes.get(id.0)
    }

    fn owned(&self, user: UserId) -> &[NodeId] {
        self.owned.get(user.0).map_or(&[], Vec::as_slice)
    }
}

impl NodeState {
    fn owns(&self, range: IpRange) -> bool {
        self.facts.owns(range)
    }

    fn routes_overlap(&self, range: IpRange) -> bool {
        self.routes.iter().any(|route| route.range.overlaps(range))
    }

    fn is_exit(&self) -> bool {
        !self.exit_routes.is_empty()
    }
}

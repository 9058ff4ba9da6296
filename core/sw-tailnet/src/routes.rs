//! Which of several routers serves a prefix (policy.md §11.4).

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use sw_types::NodeId;

/// Whether a route means "the whole internet".
pub fn is_exit(route: &IpNet) -> bool {
    route.prefix_len() == 0
}

/// One election per exact prefix. A healthy primary stays; else the lowest id that is online takes
/// over; with nobody online the last primary stays, so that its route remains visible.
#[derive(Debug, Default)]
pub(crate) struct Election {
    routers: BTreeMap<IpNet, BTreeSet<NodeId>>,
    primary: BTreeMap<IpNet, NodeId>,
}

impl Election {
    /// Sets what a machine serves (announced and approved), and returns the prefixes concerned.
    pub(crate) fn set_routes(&mut self, node: NodeId, old: &[IpNet], new: &[IpNet]) -> Vec<IpNet> {
        for route in old {
            if let Some(routers) = self.routers.get_mut(route) {
                routers.remove(&node);
                if routers.is_empty() {
                    self.routers.remove(route);
                }
            }
        }
        for route in new.iter().filter(|r| !is_exit(r)) {
            self.routers.entry(*route).or_default().insert(node);
        }
        let mut concerned: Vec<IpNet> = old.iter().chain(new).copied().filter(|r| !is_exit(r)).collect();
        concerned.sort();
        concerned.dedup();
        concerned
    }

    /// Holds one election; returns the old and the new primary if they differ.
    pub(crate) fn elect(
        &mut self,
        route: IpNet,
        is_online: impl Fn(NodeId) -> bool,
    ) -> Option<(Option<NodeId>, Option<NodeId>)> {
        let old = self.primary.get(&route).copied();
        let routers = self.routers.get(&route);
        let stays = old.filter(|id| routers.is_some_and(|r| r.contains(id)));
        let first_online = || routers?.iter().copied().find(|id| is_online(*id));
        let new = match stays {
            Some(id) if is_online(id) => Some(id),
            Some(id) => first_online().or(Some(id)),
            None => first_online().or_else(|| routers?.first().copied()),
        };
        if old == new {
            return None;
        }
        match new {
            Some(new) => self.primary.insert(route, new),
            None => self.primary.remove(&route),
        };
        Some((old, new))
    }

    /// The machine that serves `route`.
    pub(crate) fn primary(&self, route: &IpNet) -> Option<NodeId> {
        self.primary.get(route).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_healthy_primary_stays_and_a_lost_one_is_replaced() {
        let mut election = Election::default();
        let route: IpNet = "10.0.0.0/8".parse().unwrap();
        for id in [1, 2] {
            election.set_routes(NodeId(id), &[], &[route]);
        }
        assert_eq!(election.elect(route, |id| id == NodeId(2)), Some((None, Some(NodeId(2)))));
        assert_eq!(election.elect(route, |_| true), None, "1 is back, 2 stays");
        assert_eq!(election.elect(route, |id| id == NodeId(1)), Some((Some(NodeId(2)), Some(NodeId(1)))));
        assert_eq!(election.elect(route, |_| false), None, "nobody is online: the last one stays");
        election.set_routes(NodeId(1), &[route], &[]);
        assert_eq!(election.elect(route, |_| false), Some((Some(NodeId(1)), Some(NodeId(2)))));
        election.set_routes(NodeId(2), &[route], &[]);
        assert_eq!(election.elect(route, |_| true), Some((Some(NodeId(2)), None)));
    }
}

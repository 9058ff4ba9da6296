//! The filters of a node together: one for peers, one for jailed peers.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use sw_types::NodeKey;

use crate::answered::{Answered, PeerTag, Service};
use crate::decide::{Filter, Verdict};
use crate::flows::Flows;

/// What the data threads ask. A new state of the network is a new gate with the flows of the old one.
#[derive(Debug)]
pub struct Gate {
    open: Filter,
    jail: Filter,
    jailed: BTreeSet<NodeKey>,
    flows: Arc<Flows>,
    /// Jailed peers have a flow table of their own.
    jail_flows: Arc<Flows>,
    answered: Arc<Answered>,
}

impl Gate {
    /// Puts the filters together; `jail` is a filter without rules.
    #[must_use]
    pub fn new(open: Filter, jail: Filter, jailed: BTreeSet<NodeKey>, seed: [u8; 32]) -> Self {
        let mut other = seed;
        for byte in &mut other {
            *byte = byte.wrapping_mul(31).wrapping_add(17);
        }
        Self {
            open,
            jail,
            jailed,
            flows: Arc::new(Flows::new(seed)),
            jail_flows: Arc::new(Flows::new(other)),
            answered: Arc::new(Answered::new()),
        }
    }

    /// Puts new filters in the place of old ones; known flows stay.
    #[must_use]
    pub fn replaced(&self, open: Filter, jail: Filter, jailed: BTreeSet<NodeKey>) -> Self {
        let (flows, jail_flows) = (Arc::clone(&self.flows), Arc::clone(&self.jail_flows));
        Self { open, jail, jailed, flows, jail_flows, answered: Arc::clone(&self.answered) }
    }

    fn of(&self, peer: &NodeKey) -> (&Filter, &Flows) {
        if !self.jailed.is_empty() && self.jailed.contains(peer) {
            (&self.jail, &self.jail_flows)
        } else {
            (&self.open, &self.flows)
        }
    }

    /// Decides on a packet from a peer; `peer_owns` says whether an address is the peer's or routed to it.
    pub fn inbound(&self, peer: &NodeKey, packet: &[u8], peer_owns: impl Fn(IpAddr) -> bool) -> Verdict {
        let (filter, flows) = self.of(peer);
        filter.inbound(packet, flows, peer_owns)
    }

    /// Decides on a packet to a peer.
    pub fn outbound(&self, peer: &NodeKey, packet: &[u8]) -> Verdict {
        let (filter, flows) = self.of(peer);
        let (verdict, answers) = filter.outbound_answering(packet, flows);
        if let Some(service) = answers {
            self.answered.note(peer, service);
        }
        verdict
    }

    /// Which peers connected to which services of this machine, and were answered, since the last call. A peer
    /// that floods it with services makes it forget others.
    #[must_use]
    pub fn take_answered(&self) -> Vec<(PeerTag, Service)> {
        self.answered.take()
    }

    /// Returns the filter of peers that are not jailed.
    #[must_use]
    pub fn filter(&self) -> &Filter {
        &self.open
    }
}

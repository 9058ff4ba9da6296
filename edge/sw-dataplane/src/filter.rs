//! The place where a packet filter plugs in.

use std::net::IpAddr;
use sw_types::NodeKey;

/// What a filter says about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    Drop,
}

/// Decides which inner packets pass. Asked once per flow and batch, not per segment: packets that join a superpacket
/// share the verdict of its first.
///
/// Implementations must not block; they are called from several threads at once.
pub trait PacketFilter: Send + Sync + std::fmt::Debug {
    /// A packet of ours to `peer`; here a stateful filter learns the flow.
    fn outbound(&self, peer: &NodeKey, packet: &[u8]) -> Verdict;

    /// A packet from `peer`, whose source address is known to be the peer's. `owns` tells whether another address is
    /// the peer's as well (what an ICMP error quotes).
    fn inbound(&self, peer: &NodeKey, packet: &[u8], owns: &dyn Fn(IpAddr) -> bool) -> Verdict;
}

/// Lets everything pass: the filter of a plain WireGuard device.
#[derive(Clone, Copy, Debug, Default)]
pub struct PassAll;

impl PacketFilter for PassAll {
    fn outbound(&self, _: &NodeKey, _: &[u8]) -> Verdict {
        Verdict::Pass
    }

    fn inbound(&self, _: &NodeKey, _: &[u8], _: &dyn Fn(IpAddr) -> bool) -> Verdict {
        Verdict::Pass
    }
}

/// The filters of a node, from its policy.
impl PacketFilter for sw_filter::Gate {
    fn outbound(&self, peer: &NodeKey, packet: &[u8]) -> Verdict {
        verdict(self.outbound(peer, packet))
    }

    fn inbound(&self, peer: &NodeKey, packet: &[u8], owns: &dyn Fn(IpAddr) -> bool) -> Verdict {
        verdict(self.inbound(peer, packet, owns))
    }
}

fn verdict(verdict: sw_filter::Verdict) -> Verdict {
    match verdict {
        sw_filter::Verdict::Accept => Verdict::Pass,
        sw_filter::Verdict::Drop(_) => Verdict::Drop,
    }
}

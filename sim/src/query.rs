//! Questions that tests ask a world.

use std::time::Duration;

use sw_path::{NetReport, PeerReport, Route};

use crate::oracle::{Possible, possible};
use crate::world::World;

impl World {
    /// Where data from `a` to `b` goes.
    pub fn route(&self, a: usize, b: usize) -> Option<Route> {
        self.hosts.get(a)?.route(b)
    }

    /// Returns whether data from `a` to `b` goes straight, alone.
    pub fn is_direct(&self, a: usize, b: usize) -> bool {
        self.route(a, b).is_some_and(|r| r.udp.is_some_and(|leg| leg.vni.is_none()) && r.relay.is_none())
    }

    /// Time from the start until `a` first had a direct path to `b`.
    pub fn direct_after(&self, a: usize, b: usize) -> Option<Duration> {
        let at = self.hosts.get(a)?.direct_at.get(&b)?;
        Some(at.saturating_since(self.start))
    }

    /// What the topology allows between two machines.
    pub fn possible(&self, a: usize, b: usize) -> Possible {
        match (self.hosts.get(a), self.hosts.get(b)) {
            (Some(a), Some(b)) => possible(&self.net, a.station, b.station),
            _ => Possible::Relay,
        }
    }

    /// What `a` would explain about its way to `b`.
    pub fn explain(&self, a: usize, b: usize) -> Option<PeerReport> {
        let peer = self.hosts.get(b)?.key;
        self.hosts.get(a)?.engine.report(&peer, self.now_at(a))
    }

    /// The last netcheck of a machine.
    pub fn net_report(&self, host: usize) -> Option<&NetReport> {
        self.hosts.get(host)?.engine.net_report()
    }

    /// Packets sent and arrived of a conversation, sent in the last `within`.
    pub fn heard(&self, talk: usize, within: Duration) -> (usize, usize) {
        self.talks.get(talk).map_or((0, 0), |t| t.count(self.now - within, self.now))
    }

    /// The longest silence of a conversation at its receiver.
    pub fn longest_gap(&self, talk: usize) -> Option<Duration> {
        self.talks.get(talk).map(|t| t.longest_gap())
    }

    /// How often a machine was woken so far.
    pub fn wakes(&self, host: usize) -> u64 {
        self.hosts.get(host).map_or(0, |h| h.wakes)
    }
}

impl World {
    /// When and why a machine's engine wants to be woken next.
    pub fn deadline(&self, host: usize) -> Option<(Duration, sw_path::Wake)> {
        let (at, why) = self.hosts.get(host)?.engine.next_deadline()?;
        Some((at.saturating_since(self.start), why))
    }
}

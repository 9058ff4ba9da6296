//! One way to reach a peer over UDP and what the pings on it told.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use sw_types::{Instant, is_tailnet_ip};

use crate::api::Leg;
use crate::choose::Quality;
use crate::timing::{CLEAN_PONGS, CLEAN_PONGS_MAX, HEAL_FOR, LEARNT_IDLE, MISSED_DOUBT, TRUST};

/// Why a working candidate is not used for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Lossy { lost_percent: u8 },
    Slow,
}

/// A candidate that must prove itself before it is used again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probation {
    pub(crate) fault: Fault,
    clean: u8,
}

/// One candidate path and its history.
#[derive(Debug)]
pub(crate) struct Candidate {
    pub(crate) leg: Leg,
    pub(crate) in_netmap: bool,
    /// From the last CallMeMaybe.
    pub(crate) called: bool,
    /// When a ping came from there.
    pub(crate) heard: Option<Instant>,
    pub(crate) last_sent: Option<Instant>,
    pub(crate) last_pong: Option<Instant>,
    /// Pings that went unanswered since the last pong.
    pub(crate) missed: u8,
    pub(crate) probation: Option<Probation>,
    /// It was given up: one pong alone does not bring it back.
    pub(crate) must_confirm: bool,
    pub(crate) mtu: Option<u16>,
    pub(crate) pings: u32,
    pub(crate) pongs: u32,
    relapses: u8,
    rtts: [Option<Duration>; 8],
    next_rtt: usize,
    /// The last eight pings, newest lowest: 1 = lost.
    losses: u8,
}

impl Candidate {
    pub(crate) fn new(leg: Leg) -> Self {
        Self {
            leg,
            in_netmap: false,
            called: false,
            heard: None,
            last_sent: None,
            last_pong: None,
            missed: 0,
            probation: None,
            must_confirm: false,
            mtu: None,
            pings: 0,
            pongs: 0,
            relapses: 0,
            rtts: [None; 8],
            next_rtt: 0,
            losses: 0,
        }
    }

    /// Lowest of the last eight round-trip times.
    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.rtts.iter().flatten().min().copied()
    }

    /// Lowest of the last three round-trip times: a spike alone is no verdict.
    pub(crate) fn recent_rtt(&self) -> Option<Duration> {
        (5..8).filter_map(|back| self.rtts[(self.next_rtt + back) % 8]).min()
    }

    /// Lost pings of the last eight.
    pub(crate) fn lost_of_8(&self) -> u32 {
        self.losses.count_ones()
    }

    pub(crate) fn quality(&self) -> Quality {
        Quality {
            addr: self.leg.addr,
            relayed: self.leg.vni.is_some(),
            rtt: self.rtt().unwrap_or(Duration::MAX),
        }
    }

    /// When a ping sent at `sent` counts as missed, until a pong says otherwise.
    pub(crate) fn overdue_at(&self, sent: Instant) -> Instant {
        let slowest = (5..8).filter_map(|back| self.rtts[(self.next_rtt + back) % 8]).max();
        let rtt = slowest.unwrap_or(Duration::from_millis(400)).min(Duration::from_secs(1));
        sent + rtt * 2 + Duration::from_millis(100)
    }

    /// Notes an answered ping.
    pub(crate) fn on_pong(&mut self, rtt: Duration, was_overdue: bool, now: Instant) {
        self.last_pong = Some(now);
        self.pongs = self.pongs.saturating_add(1);
        self.missed = 0;
        self.rtts[self.next_rtt] = Some(rtt);
        self.next_rtt = (self.next_rtt + 1) % 8;
        self.losses = if was_overdue { self.losses & !1 } else { self.losses << 1 };
    }

    /// Counts a pong toward the end of a probation; an unclean one starts the
    /// count anew.
    pub(crate) fn prove(&mut self, is_clean: bool) {
        let Some(probation) = &mut self.probation else { return };
        probation.clean = if is_clean { probation.clean.saturating_add(1) } else { 0 };
        let needed = CLEAN_PONGS.saturating_mul(1 << self.relapses.min(3)).min(CLEAN_PONGS_MAX);
        if probation.clean >= needed {
            self.probation = None;
            self.losses = 0;
            self.relapses = self.relapses.saturating_add(1);
        }
    }

    pub(crate) fn forget_losses(&mut self) {
        self.losses = 0;
    }

    /// Notes a ping that was not answered in time.
    pub(crate) fn on_overdue(&mut self) {
        self.missed = self.missed.saturating_add(1);
        self.losses = self.losses << 1 | 1;
        if let Some(probation) = &mut self.probation {
            probation.clean = 0;
        }
    }

    pub(crate) fn put_on_probation(&mut self, fault: Fault) {
        self.probation = Some(Probation { fault, clean: 0 });
    }

    /// Forgets what was learnt on another network.
    pub(crate) fn forget_history(&mut self) {
        let fresh = Self::new(self.leg);
        *self = Self { in_netmap: self.in_netmap, called: self.called, heard: self.heard, ..fresh };
    }

    /// Returns whether a pong proves it working at `now`.
    pub(crate) fn works(&self, trust: Duration, now: Instant) -> bool {
        self.missed < MISSED_DOUBT && self.last_pong.is_some_and(|at| at + trust > now)
    }

    /// Returns whether the peer sent from there lately.
    pub(crate) fn is_heard(&self, now: Instant) -> bool {
        self.heard.is_some_and(|at| at + TRUST > now)
    }

    /// Returns whether it worked lately, so that frequent probing is worth it.
    pub(crate) fn may_heal(&self, now: Instant) -> bool {
        self.last_pong.is_some_and(|at| at + HEAL_FOR > now)
    }

    /// Returns whether nothing speaks for keeping it.
    pub(crate) fn is_stale(&self, now: Instant) -> bool {
        let alive = |at: Option<Instant>| at.is_some_and(|at| at + LEARNT_IDLE > now);
        !self.in_netmap && !self.called && !alive(self.heard) && !alive(self.last_pong)
    }
}

/// Returns whether an address told by a peer may be pinged at all.
/// `loopback` allows addresses of this machine, for networks inside it.
pub(crate) fn is_pingable(addr: SocketAddr, loopback: bool) -> bool {
    if addr.port() == 0 || is_tailnet_ip(addr.ip()) {
        return false;
    }
    match addr.ip() {
        IpAddr::V4(ip) => {
            !ip.is_unspecified()
                && !ip.is_broadcast()
                && !ip.is_multicast()
                && (loopback || !ip.is_loopback())
        }
        // Link-local addresses mean nothing without their link (disco.md §4).
        IpAddr::V6(ip) => {
            !ip.is_unspecified()
                && !ip.is_multicast()
                && !ip.is_unicast_link_local()
                && (loopback || !ip.is_loopback())
        }
    }
}

/// IPv4-mapped addresses are compared and shown as IPv4 (disco.md §8).
pub(crate) fn unmapped(addr: SocketAddr) -> SocketAddr {
    match addr.ip() {
        IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(IpAddr::V4(v4), addr.port()),
            None => addr,
        },
        IpAddr::V4(_) => addr,
    }
}

/// Bytes of the IP and UDP headers in front of a datagram to `addr`.
pub(crate) fn udp_headers(addr: SocketAddr) -> u16 {
    match addr {
        SocketAddr::V4(_) => 28,
        SocketAddr::V6(_) => 48,
    }
}

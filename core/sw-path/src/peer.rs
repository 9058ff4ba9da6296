//! The state of one peer: its candidates, which of them carries the data, and
//! the pings that decide it (path-selection.md §4–§7).
//!
//! A peer makes no bytes: it pushes [`Act`]s, which the engine seals and sends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sw_types::{Instant, RegionId, Rng, Vni};

use crate::api::{Leg, PeerInfo, PingId, PingOutcome, Route, SocketId};
use crate::candidate::{Candidate, is_pingable};
use crate::rate::Rate;
use crate::timing::*;

mod beat;
mod choice;
mod report;

/// Transaction id of a disco ping.
pub(crate) type TxId = [u8; 12];

/// Where a ping goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum To {
    Leg(Leg),
    Relay(RegionId),
}

/// What a peer wants done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// `size` is the wanted datagram size; 0 means unpadded.
    Ping {
        to: To,
        tx: TxId,
        size: u16,
    },
    /// Tell the peer our endpoints over its relay.
    CallMeMaybe(RegionId),
    SetRoute(Route),
    PingDone {
        id: PingId,
        outcome: PingOutcome,
    },
}

/// What a peer may look at while it handles something.
pub(crate) struct Ctx<'a> {
    pub(crate) now: Instant,
    pub(crate) rng: &'a mut Rng,
    pub(crate) acts: &'a mut Vec<Act>,
    pub(crate) net: Net,
}

/// Facts about this machine's network.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Net {
    pub(crate) ipv4: bool,
    pub(crate) ipv6: bool,
    /// Only this machine: loopback addresses are candidates too.
    pub(crate) loopback: bool,
    pub(crate) probe_mtu: bool,
    /// Our packets leave by one address whatever their destination: no NAT, or an easy one.
    pub(crate) one_mapping: bool,
}

impl Net {
    fn can_send(self, addr: SocketAddr) -> bool {
        match addr {
            SocketAddr::V4(_) => self.ipv4,
            SocketAddr::V6(_) => self.ipv6,
        }
    }
}

/// Which way the data takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// No UDP path is known to work.
    Relayed,
    /// `leg` answered; it carries the data alone until `trusted_until`.
    Direct { leg: Leg, trusted_until: Instant },
    /// `leg` worked; until it answers again the relay carries copies.
    Doubtful { leg: Leg, since: Instant },
}

impl Choice {
    pub(crate) fn leg(self) -> Option<Leg> {
        match self {
            Self::Relayed => None,
            Self::Direct { leg, .. } | Self::Doubtful { leg, .. } => Some(leg),
        }
    }
}

/// A ping whose pong may still come.
#[derive(Clone, Copy, Debug)]
struct InFlight {
    tx: TxId,
    to: To,
    sent: Instant,
    size: u16,
    /// When it counts as missed; `None` when that was counted or never will.
    overdue: Option<Instant>,
    was_overdue: bool,
}

/// A run of pings to all candidates.
#[derive(Clone, Copy, Debug)]
struct Discovery {
    started: Instant,
    /// The round that comes next.
    round: usize,
    /// We tell the peer our endpoints, too.
    calls: bool,
    /// A direct path works; one round looks for a better one.
    upgrade: bool,
}

/// A series of quick pings on a path that missed one.
#[derive(Clone, Copy, Debug)]
struct Look {
    leg: Leg,
    left: u8,
    next: Instant,
}

#[derive(Clone, Copy, Debug)]
struct PingRequest {
    id: PingId,
    since: Instant,
}

/// One peer.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) info: Arc<PeerInfo>,
    candidates: Vec<Candidate>,
    /// Nothing was ever said to it or by it: its endpoints stand in `info` alone, since most peers of a large network
    /// stay so.
    is_untouched: bool,
    choice: Choice,
    /// When we last had data to send.
    last_tx: Option<Instant>,
    last_beat: Option<Instant>,
    discovery: Option<Discovery>,
    last_discovery: Option<Instant>,
    /// Start of the first discovery since a direct path was lost.
    searching_since: Option<Instant>,
    fruitless: u32,
    look: Option<Look>,
    in_flight: Vec<InFlight>,
    requests: Vec<PingRequest>,
    /// Round trip over the relay and when it was measured.
    relay_rtt: Option<(Duration, Instant)>,
    /// The region that last brought something from this peer.
    heard_at: Option<(RegionId, Instant)>,
    /// The set of our endpoints (by number) that the peer was told.
    pub(crate) told: Option<u64>,
    pub(crate) relayed_rate: Rate,
    pub(crate) udp_rate: Rate,
    route: Route,
}

/// Ping requests that may wait at once.
const REQUESTS_MAX: usize = 16;

impl Peer {
    pub(crate) fn new(info: Arc<PeerInfo>) -> Self {
        Self {
            info,
            candidates: Vec::new(),
            is_untouched: true,
            choice: Choice::Relayed,
            last_tx: None,
            last_beat: None,
            discovery: None,
            last_discovery: None,
            searching_since: None,
            fruitless: 0,
            look: None,
            in_flight: Vec::new(),
            requests: Vec::new(),
            relay_rtt: None,
            heard_at: None,
            told: None,
            relayed_rate: Rate::default(),
            udp_rate: Rate::default(),
            route: Route::default(),
        }
    }

    /// Something is said to the peer or by it for the first time.
    fn touch(&mut self) {
        if self.is_untouched {
            self.is_untouched = false;
            self.take_netmap_endpoints();
        }
    }

    /// Whether nothing was ever said to it or by it.
    pub(crate) fn is_untouched(&self) -> bool {
        self.is_untouched
    }

    /// The netmap changed what it says of a peer that nothing was ever said to: only where data would go may change.
    pub(crate) fn note_info(&mut self, info: Arc<PeerInfo>) -> Option<Route> {
        self.info = info;
        let relay = self.relay_region().filter(|_| self.info.disco.is_some());
        let route = Route { udp: None, relay };
        (route != self.route).then(|| {
            self.route = route;
            route
        })
    }

    /// The netmap changed what it says of this peer.
    pub(crate) fn on_info(&mut self, info: Arc<PeerInfo>, ctx: &mut Ctx<'_>) {
        let moved = info.endpoints != self.info.endpoints || info.home != self.info.home;
        // A new disco key means that the peer restarted: its ports may differ, but what works stays until it
        // times out (disco.md §7).
        let restarted = info.disco != self.info.disco;
        self.info = info;
        if restarted {
            self.told = None;
        }
        if (moved || restarted) && !self.is_untouched {
            self.take_netmap_endpoints();
            self.fruitless = 0;
            if self.is_active(ctx.now) && !matches!(self.choice, Choice::Direct { .. }) {
                self.discover(true, ctx);
            }
        }
        self.serve(ctx);
    }

    fn take_netmap_endpoints(&mut self) {
        for candidate in &mut self.candidates {
            candidate.in_netmap = false;
        }
        let info = Arc::clone(&self.info);
        for addr in &info.endpoints {
            if let Some(candidate) = self.candidate_or_new(Leg::main(*addr), true) {
                candidate.in_netmap = true;
            }
        }
    }

    /// Returns the candidate, made if there is room. An address that may not
    /// be pinged gives none.
    fn candidate_or_new(&mut self, leg: Leg, loopback: bool) -> Option<&mut Candidate> {
        if let Some(at) = self.candidates.iter().position(|c| c.leg == leg) {
            return self.candidates.get_mut(at);
        }
        if !is_pingable(leg.addr, loopback) || self.candidates.len() >= CANDIDATES_MAX * 2 {
            return None;
        }
        self.candidates.push(Candidate::new(leg));
        self.candidates.last_mut()
    }

    pub(crate) fn candidate(&self, leg: Leg) -> Option<&Candidate> {
        self.candidates.iter().find(|c| c.leg == leg)
    }

    fn candidate_mut(&mut self, leg: Leg) -> Option<&mut Candidate> {
        self.candidates.iter_mut().find(|c| c.leg == leg)
    }

    /// Drops what nothing speaks for (path-selection.md §4).
    fn prune(&mut self, now: Instant) {
        let in_use = self.choice.leg();
        self.candidates.retain(|c| Some(c.leg) == in_use || !c.is_stale(now));
        while self.candidates.len() > CANDIDATES_MAX {
            let worst = self.candidates.iter().rposition(|c| Some(c.leg) != in_use && c.last_pong.is_none());
            match worst {
                Some(at) => drop(self.candidates.remove(at)),
                None => self.candidates.truncate(CANDIDATES_MAX),
            }
        }
    }

    /// Data for this peer was or is about to be sent.
    pub(crate) fn on_traffic(&mut self, ctx: &mut Ctx<'_>) {
        self.touch();
        let was_active = self.is_active(ctx.now);
        self.last_tx = Some(ctx.now);
        if !was_active {
            // What was learnt long ago says little: prove the path again at once.
            self.last_beat = None;
            self.fruitless = 0;
        }
        self.serve(ctx);
    }

    /// Somebody wants to see a ping to this peer answered.
    pub(crate) fn on_ping_request(&mut self, id: PingId, size: u16, ctx: &mut Ctx<'_>) {
        self.touch();
        if self.requests.len() >= REQUESTS_MAX {
            let oldest = self.requests.remove(0);
            ctx.acts.push(Act::PingDone { id: oldest.id, outcome: PingOutcome::TimedOut });
        }
        self.requests.push(PingRequest { id, since: ctx.now });
        self.last_tx = Some(ctx.now);
        match self.choice {
            Choice::Direct { leg, .. } => self.ping_sized(To::Leg(leg), size, ctx),
            Choice::Relayed | Choice::Doubtful { .. } => {
                if let Some(region) = self.relay_region() {
                    self.ping_sized(To::Relay(region), size, ctx);
                }
                self.last_discovery = None;
            }
        }
        self.serve(ctx);
    }

    /// A ping came from this peer on `leg`; the engine answers it.
    pub(crate) fn on_ping(&mut self, leg: Leg, ctx: &mut Ctx<'_>) {
        self.touch();
        let settled = match self.choice {
            Choice::Direct { .. } => true,
            // While nobody talks, their keepalives need no proof of ours.
            Choice::Doubtful { leg: current, .. } => current == leg && !self.is_active(ctx.now),
            Choice::Relayed => false,
        };
        let Some(candidate) = self.candidate_or_new(leg, ctx.net.loopback) else { return };
        let heard_before = candidate.heard.replace(ctx.now);
        // Its packets reach us, so ours will pass its NAT back: try at once, not in the next round. What we sent before
        // its first packet has met a closed NAT. A pong of late says enough, or two nodes would go on pinging each other.
        let is_first = heard_before.is_none_or(|at| at + TRUST <= ctx.now);
        let quiet =
            is_first || candidate.last_sent.is_none_or(|at| at + Duration::from_millis(100) <= ctx.now);
        let proof_lasts = if candidate.probation.is_some() { HEARTBEAT_BUSY } else { TRUST };
        let unproven = candidate.last_pong.is_none_or(|at| at + proof_lasts <= ctx.now);
        if !settled && quiet && unproven {
            self.ping(To::Leg(leg), ctx);
        }
        if self.candidates.len() > CANDIDATES_MAX {
            self.prune(ctx.now);
        }
        self.serve(ctx);
    }

    /// The peer told all its endpoints (disco.md §4 rule 6).
    pub(crate) fn on_call_me_maybe(&mut self, endpoints: &[SocketAddr], ctx: &mut Ctx<'_>) {
        self.touch();
        for candidate in &mut self.candidates {
            candidate.called = false;
        }
        let mut is_news = false;
        for addr in endpoints.iter().take(CALL_ME_MAYBE_MAX) {
            let leg = Leg::main(*addr);
            is_news |= self.candidate(leg).is_none();
            if let Some(candidate) = self.candidate_or_new(leg, ctx.net.loopback) {
                candidate.called = true;
            }
        }
        if is_news {
            self.fruitless = 0;
        }
        self.prune(ctx.now);
        // Our own call, if one is due, has gone out: answering a call with a call would never end.
        self.discover(false, ctx);
        self.serve(ctx);
    }

    /// Something of this peer came over `region`.
    pub(crate) fn on_heard_by_relay(&mut self, region: RegionId, ctx: &mut Ctx<'_>) {
        self.heard_at = Some((region, ctx.now));
        if self.info.home.is_none() {
            self.set_route(ctx);
        }
    }

    /// A spray found that packets pass on `leg`; prove it with a plain ping.
    pub(crate) fn on_sprayed(&mut self, leg: Leg, ctx: &mut Ctx<'_>) {
        self.touch();
        let Some(candidate) = self.candidate_or_new(leg, ctx.net.loopback) else { return };
        candidate.heard = Some(ctx.now);
        self.ping(To::Leg(leg), ctx);
        self.serve(ctx);
    }

    /// A peer relay may forward to this peer: prove it.
    pub(crate) fn on_tunnel(&mut self, leg: Leg, ctx: &mut Ctx<'_>) {
        self.touch();
        if self.candidate_or_new(leg, ctx.net.loopback).is_some() {
            self.ping(To::Leg(leg), ctx);
            self.serve(ctx);
        }
    }

    /// Whether a pong came by `leg` lately.
    pub(crate) fn is_proven(&self, leg: Leg, now: Instant) -> bool {
        self.candidate(leg).is_some_and(|candidate| candidate.works(TRUST, now))
    }

    /// Whether a tunnel at one of `addresses` carries the data.
    pub(crate) fn is_in_tunnel(&self, vni: Vni, addresses: &[SocketAddr]) -> bool {
        let leg = self.choice.leg().filter(|_| self.has_trusted());
        leg.is_some_and(|leg| leg.vni == Some(vni) && addresses.contains(&leg.addr))
    }

    /// Our endpoints were measured anew; a discovery that waits for a path
    /// tells the peer when they differ from what it knows.
    pub(crate) fn on_endpoints(&mut self, number: u64, ctx: &mut Ctx<'_>) {
        if self.told == Some(number) || matches!(self.choice, Choice::Direct { .. }) {
            return;
        }
        if self.discovery.is_some() || self.is_active(ctx.now) {
            if self.is_active(ctx.now) && self.discovery.is_none() {
                self.discover(true, ctx);
            } else {
                self.call(ctx);
            }
            self.serve(ctx);
        }
    }

    /// This machine moved to another network: no path is known to work.
    pub(crate) fn on_link_change(&mut self, ctx: &mut Ctx<'_>) {
        for candidate in &mut self.candidates {
            candidate.forget_history();
        }
        self.candidates.retain(|c| c.leg.vni.is_none() && c.leg.socket == SocketId::MAIN);
        self.choice = Choice::Relayed;
        self.look = None;
        self.in_flight.clear();
        self.fruitless = 0;
        self.relay_rtt = None;
        self.told = None;
        self.last_discovery = None;
        self.searching_since = None;
        self.discovery = None;
        self.serve(ctx);
    }

    /// A path over `socket` cannot work any more.
    pub(crate) fn on_socket_closed(&mut self, socket: SocketId, ctx: &mut Ctx<'_>) {
        self.candidates.retain(|c| c.leg.socket != socket);
        if self.choice.leg().is_some_and(|leg| leg.socket == socket) {
            self.choice = Choice::Relayed;
            self.last_discovery = None;
        }
        self.serve(ctx);
    }

    /// Returns whether `socket` is worth keeping for this peer.
    pub(crate) fn uses_socket(&self, socket: SocketId, now: Instant) -> bool {
        self.candidates.iter().any(|c| c.leg.socket == socket && !c.is_stale(now))
    }

    /// Returns whether the peer named this address as its own.
    pub(crate) fn knows_ip(&self, ip: std::net::IpAddr) -> bool {
        self.candidates.iter().any(|c| (c.in_netmap || c.called) && c.leg.addr.ip() == ip)
    }

    /// Returns whether we sent data lately.
    pub(crate) fn is_active(&self, now: Instant) -> bool {
        self.last_tx.is_some_and(|at| at + SESSION_ACTIVE > now)
    }

    fn is_busy(&self, now: Instant) -> bool {
        self.last_tx.is_some_and(|at| at + BUSY > now)
    }

    /// Candidates and waiting pings.
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.candidates.len(), self.in_flight.len())
    }

    /// Returns whether a UDP path carries the data, trusted or in doubt.
    pub(crate) fn has_direct(&self) -> bool {
        self.choice.leg().is_some_and(|leg| leg.vni.is_none())
    }

    pub(crate) fn has_trusted(&self) -> bool {
        matches!(self.choice, Choice::Direct { .. })
    }

    pub(crate) fn route(&self) -> Route {
        self.route
    }

    /// Since when a direct path is searched; `None` when no search goes on.
    pub(crate) fn searching_since(&self, now: Instant) -> Option<Instant> {
        let searches = self.discovery.is_some() || self.is_active(now);
        // A lossy path is one, and a lost one may heal: both are given time before anything costly is tried.
        let lossy = self.candidates.iter().any(|c| c.probation.is_some() && c.may_heal(now));
        let since = self.searching_since.filter(|_| searches && !lossy && !self.has_direct())?;
        let lost = self.candidates.iter().any(|c| c.leg.vni.is_none() && c.may_heal(now));
        Some(if lost { since + DISCOVERY_PAUSE } else { since })
    }

    /// The region that reaches this peer: its home, else where it was heard.
    pub(crate) fn relay_region(&self) -> Option<RegionId> {
        self.info.home.or(self.heard_at.map(|(region, _)| region))
    }
}

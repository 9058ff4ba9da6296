//! What a peer does as time goes by: heartbeats, closer looks, discoveries.

use std::time::Duration;

use sw_types::Instant;

use super::{Act, Choice, Ctx, Discovery, InFlight, Look, Peer, PingRequest, To};
use crate::api::{Leg, PingOutcome};
use crate::candidate::Candidate;
use crate::timing::*;

/// Lost paths that are probed fast at the same time.
const HEALING_MAX: usize = 3;
/// IP packet sizes of MTU pings (path-selection.md §8).
const MTU_SIZES: [u16; 6] = [1280, 1360, 1400, 1500, 8000, 9000];
/// The round of a discovery that comes after the burst.
const LAST_ROUND: usize = PUNCHES.len();

impl Peer {
    /// Does all that is due.
    pub(crate) fn serve(&mut self, ctx: &mut Ctx<'_>) {
        self.count_overdue(ctx);
        self.expire_trust(ctx);
        self.beat(ctx);
        self.look_on(ctx);
        self.go_on_discovering(ctx);
        self.end_requests(ctx);
        self.set_route(ctx);
    }

    /// When [`Self::serve`] has something to do next; always after `now`
    /// right after a `serve` at `now`.
    pub(crate) fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let mut next = self.in_flight.iter().filter_map(|ping| ping.overdue).min();
        let mut soonest = |at: Instant| next = Some(next.map_or(at, |n: Instant| n.min(at)));
        match self.choice {
            Choice::Relayed => {}
            Choice::Direct { trusted_until, .. } => soonest(trusted_until),
            Choice::Doubtful { leg, since } => {
                if self.is_active(now) && self.missed(leg) >= MISSED_DOUBT {
                    soonest(since + GIVE_UP);
                }
            }
        }
        if let Some(at) = self.next_beat(now) {
            soonest(at);
        }
        for (leg, pause) in self.healing(now) {
            soonest(self.last_sent(leg) + pause);
        }
        if let Some(look) = self.look {
            soonest(look.next);
        }
        match self.discovery {
            Some(discovery) => soonest(discovery.next_round_at()),
            None => {
                if let Some(at) = self.next_discovery(now) {
                    soonest(at);
                }
            }
        }
        if let Some(request) = self.requests.first() {
            soonest(request.since + PING_TIMEOUT);
        }
        next
    }

    fn missed(&self, leg: Leg) -> u8 {
        self.candidate(leg).map_or(0, |c| c.missed)
    }

    fn last_sent(&self, leg: Leg) -> Instant {
        self.candidate(leg).and_then(|c| c.last_sent).unwrap_or(Instant::ZERO)
    }

    fn count_overdue(&mut self, ctx: &mut Ctx<'_>) {
        let now = ctx.now;
        self.in_flight.retain(|ping| ping.sent + PING_TIMEOUT > now || ping.overdue.is_some());
        for at in 0..self.in_flight.len() {
            let Some(ping) = self.in_flight.get_mut(at) else { break };
            if ping.overdue.is_none_or(|due| due > now) {
                continue;
            }
            ping.overdue = None;
            ping.was_overdue = true;
            if let To::Leg(leg) = ping.to {
                if let Some(candidate) = self.candidate_mut(leg) {
                    candidate.on_overdue();
                }
                self.after_miss(leg, ctx);
            }
        }
    }

    fn expire_trust(&mut self, ctx: &mut Ctx<'_>) {
        let active = self.is_active(ctx.now);
        match self.choice {
            Choice::Direct { leg, trusted_until } if trusted_until <= ctx.now => {
                self.choice = Choice::Doubtful { leg, since: ctx.now };
                if active {
                    self.discover(true, ctx);
                }
            }
            Choice::Doubtful { leg, since }
                if active && since + GIVE_UP <= ctx.now && self.missed(leg) >= MISSED_DOUBT =>
            {
                self.give_up(leg, ctx);
            }
            Choice::Relayed | Choice::Direct { .. } | Choice::Doubtful { .. } => {}
        }
    }

    /// How often the path in use is pinged now; `None`: not at all.
    fn beat_pause(&self, now: Instant) -> Option<Duration> {
        let idle = now.saturating_since(self.last_tx?);
        if idle < BUSY {
            Some(HEARTBEAT_BUSY)
        } else if idle < SESSION_ACTIVE {
            Some(HEARTBEAT)
        } else if idle < KEEPALIVE_FOR {
            Some(KEEPALIVE)
        } else {
            None
        }
    }

    fn next_beat(&self, now: Instant) -> Option<Instant> {
        self.choice.leg()?;
        let pause = self.beat_pause(now)?;
        Some(self.last_beat.map_or(now, |at| at + pause))
    }

    fn beat(&mut self, ctx: &mut Ctx<'_>) {
        if let Some(leg) = self.choice.leg()
            && self.next_beat(ctx.now).is_some_and(|at| at <= ctx.now)
        {
            self.last_beat = Some(ctx.now);
            self.ping(To::Leg(leg), ctx);
        }
        for (leg, pause) in self.healing(ctx.now) {
            if self.last_sent(leg) + pause <= ctx.now {
                self.ping(To::Leg(leg), ctx);
            }
        }
    }

    /// Paths that worked lately and must not be missed when they work again,
    /// with the pause between their pings.
    fn healing(&self, now: Instant) -> Vec<(Leg, Duration)> {
        if !self.is_active(now) {
            return Vec::new();
        }
        let direct = matches!(self.choice, Choice::Direct { leg, .. } if leg.vni.is_none());
        let busy = self.is_busy(now);
        let mut worth: Vec<&Candidate> = self
            .candidates
            .iter()
            .filter(|c| Some(c.leg) != self.choice.leg() && c.may_heal(now))
            .filter(|c| c.probation.is_some() || !direct)
            .collect();
        worth.sort_by_key(|c| std::cmp::Reverse(c.last_pong));
        worth.truncate(HEALING_MAX);
        let pause = |c: &Candidate| match (busy, c.probation) {
            (true, Some(_)) => LOOK_PAUSE,
            (true, None) => HEAL_PROBE,
            (false, _) => HEARTBEAT,
        };
        worth.into_iter().map(|c| (c.leg, pause(c))).collect()
    }

    /// Starts quick pings on the path in use, and one over the relay to
    /// compare with.
    pub(super) fn look_closer(&mut self, leg: Leg, ctx: &mut Ctx<'_>) {
        if self.look.is_none() {
            self.look = Some(Look { leg, left: LOOK_PINGS, next: ctx.now });
            self.measure_relay(ctx);
        }
    }

    fn look_on(&mut self, ctx: &mut Ctx<'_>) {
        let Some(look) = &mut self.look else { return };
        if look.next > ctx.now {
            return;
        }
        let leg = look.leg;
        look.left -= 1;
        look.next = ctx.now + LOOK_PAUSE;
        if look.left == 0 {
            self.look = None;
        }
        self.ping(To::Leg(leg), ctx);
    }

    pub(super) fn measure_relay(&mut self, ctx: &mut Ctx<'_>) {
        let fresh = self.relay_rtt.is_some_and(|(_, at)| at + HEARTBEAT_BUSY > ctx.now);
        let asked = self.relay_pings().any(|sent| sent + HEARTBEAT_BUSY > ctx.now);
        if let Some(region) = self.relay_region()
            && !fresh
            && !asked
        {
            self.ping(To::Relay(region), ctx);
        }
    }

    /// When the pings by relay that nothing answered yet were sent.
    fn relay_pings(&self) -> impl Iterator<Item = Instant> {
        self.in_flight.iter().filter(|ping| matches!(ping.to, To::Relay(_))).map(|ping| ping.sent)
    }

    /// Whether the relay was asked long enough ago and has brought no answer since.
    pub(super) fn is_relay_silent(&self, now: Instant) -> bool {
        let is_silent_since =
            |sent: Instant| sent + RELAY_SILENT <= now && self.relay_rtt.is_none_or(|(_, at)| at < sent);
        self.relay_pings().any(is_silent_since)
    }

    /// Starts a run of pings to all candidates.
    pub(super) fn discover(&mut self, calls: bool, ctx: &mut Ctx<'_>) {
        if self.info.disco.is_none() {
            return;
        }
        let upgrade = matches!(self.choice, Choice::Direct { .. });
        let was_quiet = self.last_discovery.is_none_or(|at| at + DISCOVERY_PAUSE_LONG * 2 < ctx.now);
        if self.searching_since.is_none() || was_quiet {
            self.searching_since = Some(ctx.now);
        }
        self.discovery = Some(Discovery { started: ctx.now, round: 0, calls, upgrade });
        self.last_discovery = Some(ctx.now);
        self.prune(ctx.now);
    }

    /// When the next discovery is wanted, if one is at all.
    fn next_discovery(&self, now: Instant) -> Option<Instant> {
        if !self.is_active(now) || self.info.disco.is_none() {
            return None;
        }
        let pause = match self.choice {
            Choice::Relayed if self.fruitless < DISCOVERIES_EAGER => DISCOVERY_PAUSE,
            Choice::Relayed => DISCOVERY_PAUSE_LONG,
            // A path that is quiet because we were is asked first, by a heartbeat.
            Choice::Doubtful { leg, .. } if self.missed(leg) == 0 => return None,
            Choice::Doubtful { .. } => DISCOVERY_PAUSE,
            Choice::Direct { leg, .. } => {
                let rtt = self.candidate(leg).and_then(Candidate::rtt)?;
                match leg.vni {
                    // A detour, however fast: direct paths may open any time.
                    Some(_) => DISCOVERY_PAUSE_LONG,
                    None if rtt <= GOOD_ENOUGH => return None,
                    None => UPGRADE,
                }
            }
        };
        Some(self.last_discovery.map_or(now, |at| at + pause))
    }

    fn go_on_discovering(&mut self, ctx: &mut Ctx<'_>) {
        if self.discovery.is_none() && self.next_discovery(ctx.now).is_some_and(|at| at <= ctx.now) {
            self.discover(true, ctx);
        }
        while let Some(discovery) = self.discovery
            && discovery.next_round_at() <= ctx.now
        {
            self.punch(discovery, ctx);
            let found = matches!(self.choice, Choice::Direct { .. });
            let over =
                discovery.round >= LAST_ROUND || (found && (discovery.upgrade || discovery.round >= 2));
            if over {
                self.discovery = None;
                self.fruitless = if found { 0 } else { self.fruitless.saturating_add(1) };
            } else {
                self.discovery = Some(Discovery { round: discovery.round + 1, ..discovery });
            }
        }
    }

    /// One round of a discovery.
    fn punch(&mut self, discovery: Discovery, ctx: &mut Ctx<'_>) {
        let now = ctx.now;
        let just_now = if discovery.upgrade { DISCOVERY_PAUSE } else { Duration::from_millis(15) };
        let burst = if discovery.round == 0 { usize::MAX } else { BURST_CANDIDATES };
        let legs: Vec<Leg> = self
            .candidates
            .iter()
            .filter(|c| c.leg.vni.is_none() && ctx.net.can_send(c.leg.addr))
            .filter(|c| c.last_pong.is_none_or(|at| at < discovery.started))
            .filter(|c| c.last_sent.is_none_or(|at| at + just_now <= now))
            .take(burst)
            .map(|c| c.leg)
            .collect();
        for leg in &legs {
            self.ping(To::Leg(*leg), ctx);
        }
        // Told at the start, again soon (a peer that has just started may not be at its relay yet), and at the end.
        if discovery.calls && matches!(discovery.round, 0 | 2 | 3 | LAST_ROUND) && !self.has_trusted() {
            self.call(ctx);
        }
        if discovery.upgrade {
            if ctx.net.probe_mtu {
                self.probe_mtu(ctx);
            }
            if !legs.is_empty() && discovery.calls {
                self.call(ctx);
            }
        }
    }

    pub(super) fn call(&mut self, ctx: &mut Ctx<'_>) {
        if let Some(region) = self.relay_region() {
            ctx.acts.push(Act::CallMeMaybe(region));
        }
    }

    /// Sends pings of several sizes on the path in use.
    pub(super) fn probe_mtu(&mut self, ctx: &mut Ctx<'_>) {
        let Some(leg) = self.choice.leg() else { return };
        let headers = crate::candidate::udp_headers(leg.addr);
        for size in MTU_SIZES {
            self.ping_sized(To::Leg(leg), size - headers, ctx);
        }
    }

    pub(super) fn ping(&mut self, to: To, ctx: &mut Ctx<'_>) {
        self.ping_sized(to, 0, ctx);
    }

    /// Sends one ping as a datagram of at least `size` bytes.
    pub(super) fn ping_sized(&mut self, to: To, size: u16, ctx: &mut Ctx<'_>) {
        if self.info.disco.is_none() {
            return;
        }
        let now = ctx.now;
        let mut overdue = None;
        if let To::Leg(leg) = to
            && let Some(candidate) = self.candidate_mut(leg)
        {
            candidate.last_sent = Some(now);
            candidate.pings = candidate.pings.saturating_add(1);
            // A large ping that is lost says nothing of the path but its MTU.
            let speaks = candidate.last_pong.is_some() && size == 0;
            overdue = speaks.then(|| candidate.overdue_at(now));
        }
        if self.in_flight.len() >= IN_FLIGHT_MAX {
            self.in_flight.remove(0);
        }
        let tx = ctx.rng.bytes();
        self.in_flight.push(InFlight { tx, to, sent: now, size, overdue, was_overdue: false });
        ctx.acts.push(Act::Ping { to, tx, size });
    }

    fn end_requests(&mut self, ctx: &mut Ctx<'_>) {
        while let Some(&PingRequest { id, since }) = self.requests.first()
            && since + PING_TIMEOUT <= ctx.now
        {
            self.requests.remove(0);
            ctx.acts.push(Act::PingDone { id, outcome: PingOutcome::TimedOut });
        }
    }
}

impl Discovery {
    fn next_round_at(&self) -> Instant {
        self.started + PUNCHES.get(self.round).copied().unwrap_or(LATER_PUNCH)
    }
}

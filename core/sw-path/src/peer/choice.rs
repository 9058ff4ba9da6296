//! Which path carries the data: what pongs and missed pings change.

use std::time::Duration;

use sw_types::Instant;

use super::{Act, Choice, Ctx, InFlight, Peer, To, TxId};
use crate::api::{Leg, PingOutcome, Route, Via};
use crate::candidate::{Candidate, Fault, udp_headers};
use crate::choose::better;
use crate::timing::*;

impl Peer {
    /// A pong of this peer came, by UDP from `source`; returns false when no ping of ours waits for
    /// it. It counts for the address the ping was sent to (disco.md §4 rule 4).
    pub(crate) fn on_pong(&mut self, tx: TxId, source: Option<Leg>, ctx: &mut Ctx<'_>) -> bool {
        let Some(at) = self.in_flight.iter().position(|ping| ping.tx == tx) else { return false };
        let ping = self.in_flight.remove(at);
        let rtt = ctx.now.saturating_since(ping.sent);
        self.answer_requests(&ping, rtt, ctx);
        match ping.to {
            To::Relay(_) => {
                self.relay_rtt = Some((rtt, ctx.now));
                if let Some(leg) = self.choice.leg() {
                    self.judge(leg, ctx);
                }
            }
            To::Leg(leg) => {
                self.on_leg_pong(leg, &ping, rtt, ctx);
                if let Some(source) = source {
                    self.follow(source, leg, ctx);
                }
            }
        }
        self.serve(ctx);
        true
    }

    fn on_leg_pong(&mut self, leg: Leg, ping: &InFlight, rtt: Duration, ctx: &mut Ctx<'_>) {
        let too_slow = self.relay_rtt.is_some_and(|(relay, _)| rtt > relay * 2 + SLOW_SLACK);
        let Some(candidate) = self.candidate_mut(leg) else { return };
        let usual = candidate.rtt();
        if ping.size > 0 {
            let packet = ping.size + udp_headers(leg.addr);
            candidate.mtu = Some(candidate.mtu.unwrap_or(0).max(packet));
        }
        let slow = matches!(candidate.probation, Some(p) if p.fault == Fault::Slow) && too_slow;
        candidate.on_pong(rtt, ping.was_overdue, ctx.now);
        candidate.prove(!ping.was_overdue && !slow);
        self.after_pong(leg, ctx);
        // A path that became much slower is compared with the relay.
        let slower = usual.is_some_and(|usual| rtt > usual * 3 + SLOW_SLACK);
        if Some(leg) == self.choice.leg() && self.is_busy(ctx.now) {
            if slower {
                self.look_closer(leg, ctx);
            }
            self.judge(leg, ctx);
        }
    }

    /// The candidate `leg` answered.
    pub(super) fn after_pong(&mut self, leg: Leg, ctx: &mut Ctx<'_>) {
        let is_only_way = self.choice == Choice::Relayed && self.is_relay_silent(ctx.now);
        let Some(candidate) = self.candidate_mut(leg) else { return };
        if candidate.probation.is_some() {
            if !is_only_way {
                // It was left because the relay does better: that must stay true.
                self.measure_relay(ctx);
                return;
            }
            // A path that loses some is better than a relay that loses all.
            candidate.probation = None;
        }
        if std::mem::take(&mut candidate.must_confirm) {
            // One pong after a long silence may be luck.
            self.ping(To::Leg(leg), ctx);
            return;
        }
        let adopt = match self.choice {
            Choice::Relayed => true,
            // A keepalive's pong: the first data goes both ways all the same, so nothing need change until then.
            Choice::Doubtful { leg: other, .. } if other == leg && !self.is_active(ctx.now) => false,
            Choice::Doubtful { leg: other, .. } => other == leg || other.vni.is_some() || leg.vni.is_none(),
            Choice::Direct { leg: other, .. } => {
                other == leg || self.is_better(leg, other) || self.is_source(leg, other, ctx)
            }
        };
        if adopt {
            self.adopt(leg, ctx.now + TRUST, ctx);
        }
    }

    /// Tries the port that an answer came from if it is another one than we asked: the peer's NAT gives each destination
    /// a port of its own, and the one we use dies with a mapping that the peer itself sends nothing by.
    fn follow(&mut self, source: Leg, asked: Leg, ctx: &mut Ctx<'_>) {
        if !Self::is_other_port(source, asked, ctx) {
            return;
        }
        let Some(candidate) = self.candidate_or_new(source, ctx.net.loopback) else { return };
        candidate.heard = Some(ctx.now);
        let is_new = candidate.last_pong.is_none_or(|at| at + TRUST <= ctx.now);
        let is_waited_for = candidate.last_sent.is_some_and(|at| at + HEARTBEAT_BUSY > ctx.now);
        if self.choice.leg() == Some(asked) && is_new && !is_waited_for {
            self.ping(To::Leg(source), ctx);
        }
    }

    /// Whether two paths lead to ports of one address. Behind a NAT that gives each destination a port of its own this
    /// is no reason to change: a change would change our port, which the peer would follow in turn, without end.
    fn is_other_port(a: Leg, b: Leg, ctx: &Ctx<'_>) -> bool {
        let is_same_place = a.addr.ip() == b.addr.ip() && (a.socket, a.vni) == (b.socket, b.vni);
        is_same_place && a != b && ctx.net.one_mapping
    }

    /// Whether the peer sends from the port of `leg` and not from that of `other`.
    fn is_source(&self, leg: Leg, other: Leg, ctx: &Ctx<'_>) -> bool {
        let is_heard = |leg| self.candidate(leg).is_some_and(|c| c.is_heard(ctx.now));
        Self::is_other_port(leg, other, ctx) && is_heard(leg) && !is_heard(other)
    }

    fn is_better(&self, leg: Leg, than: Leg) -> bool {
        let (Some(a), Some(b)) = (self.candidate(leg), self.candidate(than)) else { return true };
        better(&a.quality(), &b.quality())
    }

    fn adopt(&mut self, leg: Leg, trusted_until: Instant, ctx: &mut Ctx<'_>) {
        let is_new = self.choice.leg() != Some(leg);
        self.choice = Choice::Direct { leg, trusted_until };
        self.fruitless = 0;
        self.searching_since = None;
        if is_new {
            self.look = None;
            self.last_beat = Some(ctx.now);
            if ctx.net.probe_mtu {
                self.probe_mtu(ctx);
            }
        }
    }

    /// A ping on `leg` was not answered in time.
    pub(super) fn after_miss(&mut self, leg: Leg, ctx: &mut Ctx<'_>) {
        if self.choice.leg() != Some(leg) || !self.is_active(ctx.now) {
            return;
        }
        let missed = self.candidate(leg).map_or(0, |c| c.missed);
        self.look_closer(leg, ctx);
        if missed >= MISSED_LOST {
            self.give_up(leg, ctx);
            return;
        }
        if missed >= MISSED_DOUBT
            && let Choice::Direct { .. } = self.choice
        {
            self.choice = Choice::Doubtful { leg, since: ctx.now };
            self.discover(true, ctx);
        }
        self.judge(leg, ctx);
    }

    /// Leaves a path that loses or delays much more than the relay does.
    fn judge(&mut self, leg: Leg, ctx: &mut Ctx<'_>) {
        let Some((relay_rtt, at)) = self.relay_rtt else { return };
        if at + HEARTBEAT < ctx.now || self.is_relay_silent(ctx.now) || !self.is_busy(ctx.now) {
            return;
        }
        let Some(candidate) = self.candidate_mut(leg) else { return };
        let lost = candidate.lost_of_8();
        let slow = candidate.recent_rtt().is_some_and(|rtt| rtt > relay_rtt * 3 + SLOW_SLACK);
        let fault = if lost >= LOSSY_OF_8 {
            Fault::Lossy { lost_percent: (lost * 100 / 8) as u8 }
        } else if slow {
            Fault::Slow
        } else {
            return;
        };
        candidate.put_on_probation(fault);
        self.choose_again(ctx);
    }

    /// The path in use is dead.
    pub(super) fn give_up(&mut self, leg: Leg, ctx: &mut Ctx<'_>) {
        if let Some(candidate) = self.candidate_mut(leg) {
            candidate.must_confirm = true;
            candidate.forget_losses();
        }
        self.choose_again(ctx);
    }

    /// Takes the best path that works, or the relay.
    fn choose_again(&mut self, ctx: &mut Ctx<'_>) {
        let current = self.choice.leg();
        self.look = None;
        self.choice = Choice::Relayed;
        let mut best: Option<&Candidate> = None;
        for candidate in &self.candidates {
            let usable = Some(candidate.leg) != current
                && candidate.probation.is_none()
                && !candidate.must_confirm
                && candidate.works(TRUST, ctx.now);
            if usable && best.is_none_or(|b| better(&candidate.quality(), &b.quality())) {
                best = Some(candidate);
            }
        }
        if let Some(candidate) = best
            && let Some(at) = candidate.last_pong
        {
            let leg = candidate.leg;
            self.adopt(leg, at + TRUST, ctx);
        }
    }

    fn answer_requests(&mut self, ping: &InFlight, rtt: Duration, ctx: &mut Ctx<'_>) {
        let via = match ping.to {
            To::Leg(leg) => leg.via(),
            To::Relay(region) => Via::Relay(region),
        };
        self.requests.retain(|request| {
            let answered = ping.sent >= request.since;
            if answered {
                ctx.acts.push(Act::PingDone { id: request.id, outcome: PingOutcome::Pong { via, rtt } });
            }
            !answered
        });
    }

    /// Tells where data goes when that changed.
    pub(super) fn set_route(&mut self, ctx: &mut Ctx<'_>) {
        let relay = self.relay_region();
        let route = match self.choice {
            _ if self.info.disco.is_none() => Route { udp: self.plain_leg(ctx), relay: None },
            Choice::Relayed => Route { udp: None, relay },
            Choice::Doubtful { leg, .. } => Route { udp: Some(leg), relay },
            Choice::Direct { leg, .. } => Route { udp: Some(leg), relay: None },
        };
        if route != self.route {
            self.route = route;
            ctx.acts.push(Act::SetRoute(route));
        }
    }

    /// Where a plain WireGuard peer is: where it was last heard, else its
    /// first endpoint of a family that we have.
    fn plain_leg(&self, ctx: &Ctx<'_>) -> Option<Leg> {
        let usable = || self.candidates.iter().filter(|c| ctx.net.can_send(c.leg.addr));
        usable()
            .filter(|c| c.heard.is_some())
            .max_by_key(|c| c.heard)
            .or_else(|| usable().next())
            .map(|c| c.leg)
    }
}

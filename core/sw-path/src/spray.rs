//! Reaching a peer through a hard NAT by trying many ports
//! (nat-traversal-beyond.md §3–§5).
//!
//! The side behind the hard NAT opens many sockets and sends from each to the
//! peer's address: its NAT then holds as many mappings for the peer. The peer
//! sends to many ports of the hard side's address. With 256 mappings and 1500
//! tries one meets with 99.7 %; where the NAT numbers its ports in a visible
//! order a few tries do.
//!
//! This module plans; [`crate::PathEngine`] seals, sends and asks peers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use sw_types::{Instant, NodeKey, Rng};

use crate::api::{NatKind, SocketId};
use crate::candidate::is_pingable;

/// Sockets that the hard side opens.
pub(crate) const SOCKETS: u16 = 256;
/// Sockets that only ask STUN servers what ports the NAT gives now.
const SAMPLERS: usize = 2;
/// Tries of the other side (nat-traversal-beyond.md §6).
const TRIES: usize = 1500;
/// One batch of tries, and its distance to the next: 500 per second.
const BATCH: usize = 16;
const BATCH_PAUSE: Duration = Duration::from_millis(32);
/// Pings of the hard side per batch; they open mappings and go to one address.
const OPENERS: usize = 64;
/// The hard side sends anew after this long, since packets get lost.
const ROUND_PAUSE: Duration = Duration::from_millis(1500);
const ROUNDS: u8 = 3;
/// Wait for the sockets and for the samples.
const PREPARE: Duration = Duration::from_millis(300);
/// Punching alone goes first for this long.
pub(crate) const HEAD_START: Duration = Duration::from_millis(350);
/// Pauses before the next run toward a peer: after a success, after a
/// failure, after the third failure (nat-traversal-beyond.md §4 item 4).
const AGAIN: Duration = Duration::from_secs(10);
const AFTER_FAILURE: Duration = Duration::from_secs(60);
const AFTER_FAILURES: Duration = Duration::from_secs(3600);
/// Peers whose offers are worked on at once.
const EASY_MAX: usize = 4;
/// Facts are told to a peer again after this long.
const FACTS_AGAIN: Duration = Duration::from_secs(10);
/// Extra sockets are looked through this often.
const SWEEP: Duration = Duration::from_secs(30);
/// Ports that NATs give out.
const PORTS: std::ops::RangeInclusive<u16> = 1024..=65535;

/// What a peer told of its NAT.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    pub(crate) nat: NatKind,
    pub(crate) seen: Option<SocketAddr>,
}

/// What is to be done; the engine does it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SprayAct {
    OpenSockets(u16),
    Stun {
        socket: SocketId,
        to: SocketAddr,
        tx: [u8; 12],
    },
    /// Ping the peer `to`; `tx` is the same for a whole round.
    Ping {
        peer: NodeKey,
        socket: SocketId,
        to: SocketAddr,
        tx: [u8; 12],
    },
    Offer {
        peer: NodeKey,
        seen: SocketAddr,
        ranges: Vec<(u16, u16)>,
    },
    Close(SocketId),
}

#[derive(Debug)]
enum Phase {
    Opening { until: Instant },
    Sampling { until: Instant },
    Pinging { next: Instant, round: u8, at: usize, tx: [u8; 12] },
}

/// We are behind the hard NAT.
#[derive(Debug)]
struct Hard {
    peer: NodeKey,
    target: SocketAddr,
    nat: NatKind,
    /// Where the outside sees us, as of the last netcheck.
    seen: SocketAddr,
    sockets: Vec<SocketId>,
    samples: Vec<([u8; 12], Option<SocketAddr>)>,
    phase: Phase,
}

/// The peer is behind a hard NAT and offered its ports.
#[derive(Debug)]
struct Easy {
    peer: NodeKey,
    ip: IpAddr,
    ports: VecDeque<u16>,
    next: Instant,
    tx: [u8; 12],
}

#[derive(Clone, Copy, Debug, Default)]
struct Tries {
    runs: u32,
    failures: u32,
    not_before: Option<Instant>,
    told_facts: Option<Instant>,
}

/// All sprays of an engine.
#[derive(Debug, Default)]
pub(crate) struct Sprays {
    facts: BTreeMap<NodeKey, Facts>,
    tries: BTreeMap<NodeKey, Tries>,
    hard: Option<Hard>,
    easy: Vec<Easy>,
    /// Sockets that stay open because a path uses them.
    kept: BTreeMap<SocketId, NodeKey>,
    checks: BTreeSet<(Instant, NodeKey)>,
    next_sweep: Option<Instant>,
}

impl Sprays {
    pub(crate) fn peer_nat(&self, peer: &NodeKey) -> Option<NatKind> {
        self.facts.get(peer).map(|f| f.nat)
    }

    pub(crate) fn facts(&self, peer: &NodeKey) -> Option<Facts> {
        self.facts.get(peer).copied()
    }

    pub(crate) fn runs(&self, peer: &NodeKey) -> u32 {
        self.tries.get(peer).map_or(0, |t| t.runs)
    }

    pub(crate) fn set_facts(&mut self, peer: NodeKey, facts: Facts) {
        self.facts.insert(peer, facts);
    }

    /// Returns whether `peer` should be told our facts now, and notes it.
    pub(crate) fn should_tell(&mut self, peer: NodeKey, now: Instant) -> bool {
        let tries = self.tries.entry(peer).or_default();
        let due = tries.told_facts.is_none_or(|at| at + FACTS_AGAIN <= now);
        if due {
            tries.told_facts = Some(now);
        }
        due
    }

    /// Looks at `peer` again at `at`.
    pub(crate) fn check_at(&mut self, peer: NodeKey, at: Instant) {
        if self.checks.iter().filter(|(_, p)| *p == peer).count() < 2 {
            self.checks.insert((at, peer));
        }
    }

    pub(crate) fn due_checks(&mut self, now: Instant) -> Vec<NodeKey> {
        let later = self.checks.split_off(&(now + Duration::from_nanos(1), NodeKey::from_bytes([0; 32])));
        let due = std::mem::replace(&mut self.checks, later);
        due.into_iter().map(|(_, peer)| peer).collect()
    }

    /// Returns whether a run toward `peer` may begin now.
    pub(crate) fn may_start(&self, peer: &NodeKey, now: Instant) -> bool {
        self.hard.is_none() && self.tries.get(peer).and_then(|t| t.not_before).is_none_or(|at| at <= now)
    }

    /// Begins a run: we are hard, `peer` waits at `target`.
    pub(crate) fn start_hard(
        &mut self,
        peer: NodeKey,
        target: SocketAddr,
        (nat, seen): (NatKind, SocketAddr),
        now: Instant,
        acts: &mut Vec<SprayAct>,
    ) {
        let tries = self.tries.entry(peer).or_default();
        tries.runs += 1;
        acts.push(SprayAct::OpenSockets(SOCKETS + SAMPLERS as u16));
        let phase = Phase::Opening { until: now + PREPARE };
        self.hard = Some(Hard { peer, target, nat, seen, sockets: Vec::new(), samples: Vec::new(), phase });
    }

    /// A socket was opened; returns false when nobody wants it any more.
    pub(crate) fn on_socket(&mut self, socket: SocketId) -> bool {
        match &mut self.hard {
            Some(hard) if hard.sockets.len() < usize::from(SOCKETS) + SAMPLERS => {
                hard.sockets.push(socket);
                true
            }
            Some(_) | None => false,
        }
    }

    /// A STUN answer on an extra socket.
    pub(crate) fn on_sample(&mut self, tx: [u8; 12], seen: SocketAddr) {
        let Some(hard) = &mut self.hard else { return };
        if let Some((_, sample)) = hard.samples.iter_mut().find(|(t, _)| *t == tx) {
            *sample = Some(seen);
        }
    }

    /// The peer offers its ports; addresses that no NAT has are refused.
    pub(crate) fn start_easy(
        &mut self,
        peer: NodeKey,
        seen: SocketAddr,
        ranges: &[(u16, u16)],
        now: Instant,
        rng: &mut Rng,
    ) {
        if !is_pingable(seen, false) || !seen.is_ipv4() {
            return;
        }
        self.easy.retain(|e| e.peer != peer);
        if self.easy.len() >= EASY_MAX {
            return;
        }
        let ports = plan_ports(ranges, rng);
        self.easy.push(Easy { peer, ip: seen.ip(), ports, next: now, tx: rng.bytes() });
    }

    /// Returns whether a pong belongs to a spray toward `peer`.
    pub(crate) fn is_ours(&self, peer: &NodeKey, tx: [u8; 12]) -> bool {
        let easy = self.easy.iter().any(|e| e.peer == *peer && e.tx == tx);
        let hard = self
            .hard
            .as_ref()
            .is_some_and(|h| h.peer == *peer && matches!(h.phase, Phase::Pinging { tx: t, .. } if t == tx));
        easy || hard
    }

    /// Does what is due. `found` tells whether a peer has a direct path,
    /// `uses` whether a peer's path needs a socket; `stun` are servers to ask.
    pub(crate) fn serve(
        &mut self,
        found: impl Fn(&NodeKey) -> bool,
        uses: impl Fn(&NodeKey, SocketId) -> bool,
        stun: &[SocketAddr],
        now: Instant,
        rng: &mut Rng,
        acts: &mut Vec<SprayAct>,
    ) {
        self.easy.retain(|e| !found(&e.peer) && !e.ports.is_empty());
        for easy in &mut self.easy {
            if easy.next > now {
                continue;
            }
            easy.next = now + BATCH_PAUSE;
            for _ in 0..BATCH {
                let Some(port) = easy.ports.pop_front() else { break };
                let to = SocketAddr::new(easy.ip, port);
                acts.push(SprayAct::Ping { peer: easy.peer, socket: SocketId::MAIN, to, tx: easy.tx });
            }
        }
        if let Some(mut hard) = self.hard.take() {
            let success = found(&hard.peer);
            if success || hard.is_over(now) {
                self.end(hard, success, &uses, now, acts);
            } else {
                hard.serve(stun, now, rng, acts);
                self.hard = Some(hard);
            }
        }
        if self.next_sweep.is_some_and(|at| at <= now) {
            self.kept.retain(|socket, peer| {
                let keep = uses(peer, *socket);
                if !keep {
                    acts.push(SprayAct::Close(*socket));
                }
                keep
            });
            self.next_sweep = (!self.kept.is_empty()).then_some(now + SWEEP);
        }
    }

    fn end(
        &mut self,
        hard: Hard,
        success: bool,
        uses: &impl Fn(&NodeKey, SocketId) -> bool,
        now: Instant,
        acts: &mut Vec<SprayAct>,
    ) {
        for socket in hard.sockets {
            if uses(&hard.peer, socket) {
                self.kept.insert(socket, hard.peer);
            } else {
                acts.push(SprayAct::Close(socket));
            }
        }
        if !self.kept.is_empty() {
            self.next_sweep = Some(now + SWEEP);
        }
        let tries = self.tries.entry(hard.peer).or_default();
        tries.failures = if success { 0 } else { tries.failures + 1 };
        let pause = match tries.failures {
            0 => AGAIN,
            1 | 2 => AFTER_FAILURE,
            _ => AFTER_FAILURES,
        };
        tries.not_before = Some(now + pause);
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let hard = self.hard.as_ref().map(Hard::next_deadline);
        let easy = self.easy.iter().map(|e| e.next).min();
        [hard, easy, self.checks.first().map(|(at, _)| *at), self.next_sweep].into_iter().flatten().min()
    }

    /// Forgets a peer; returns sockets to close.
    pub(crate) fn forget(&mut self, peer: &NodeKey) -> Vec<SocketId> {
        self.facts.remove(peer);
        self.tries.remove(peer);
        self.easy.retain(|e| e.peer != *peer);
        self.checks.retain(|(_, p)| p != peer);
        let mut sockets: Vec<SocketId> = self.kept.extract_if(.., |_, p| p == peer).map(|(s, _)| s).collect();
        if self.hard.as_ref().is_some_and(|h| h.peer == *peer)
            && let Some(hard) = self.hard.take()
        {
            sockets.extend(hard.sockets);
        }
        sockets
    }

    /// Forgets all that belongs to another network; returns sockets to close.
    pub(crate) fn forget_network(&mut self) -> Vec<SocketId> {
        let mut sockets: Vec<SocketId> = std::mem::take(&mut self.kept).into_keys().collect();
        sockets.extend(self.hard.take().into_iter().flat_map(|h| h.sockets));
        self.easy.clear();
        self.tries.clear();
        self.checks.clear();
        self.next_sweep = None;
        sockets
    }
}

impl Hard {
    fn is_over(&self, now: Instant) -> bool {
        matches!(self.phase, Phase::Pinging { round, next, .. } if round >= ROUNDS && next <= now)
    }

    fn next_deadline(&self) -> Instant {
        match self.phase {
            Phase::Opening { until } | Phase::Sampling { until } => until,
            Phase::Pinging { next, .. } => next,
        }
    }

    fn serve(&mut self, stun: &[SocketAddr], now: Instant, rng: &mut Rng, acts: &mut Vec<SprayAct>) {
        let complete = self.sockets.len() >= usize::from(SOCKETS) + SAMPLERS;
        if let Phase::Opening { until } = self.phase
            && (complete || until <= now)
        {
            for (socket, to) in self.sockets.iter().zip(stun).take(SAMPLERS) {
                let tx = rng.bytes();
                self.samples.push((tx, None));
                acts.push(SprayAct::Stun { socket: *socket, to: *to, tx });
            }
            self.phase = Phase::Sampling { until: now + PREPARE };
        }
        if let Phase::Sampling { until } = self.phase
            && (until <= now || self.samples.iter().all(|(_, seen)| seen.is_some()))
        {
            let ranges = self.likely_ports();
            acts.push(SprayAct::Offer { peer: self.peer, seen: self.seen, ranges });
            self.phase = Phase::Pinging { next: now, round: 0, at: SAMPLERS, tx: rng.bytes() };
        }
        if let Phase::Pinging { next, round, at, tx } = &mut self.phase
            && *next <= now
        {
            let batch = self.sockets.iter().skip(*at).take(OPENERS);
            for socket in batch {
                acts.push(SprayAct::Ping { peer: self.peer, socket: *socket, to: self.target, tx: *tx });
            }
            *at += OPENERS;
            *next = now + BATCH_PAUSE;
            if *at >= self.sockets.len() {
                *round += 1;
                *at = SAMPLERS;
                *next = now + ROUND_PAUSE;
            }
        }
    }

    /// The ports that our mappings toward the peer will have, best guess first.
    fn likely_ports(&mut self) -> Vec<(u16, u16)> {
        let fresh: Vec<u16> =
            self.samples.iter().filter_map(|(_, seen)| Some(seen.as_ref()?.port())).collect();
        if let Some(ip) = self.samples.iter().find_map(|(_, seen)| seen.map(|s| s.ip())) {
            self.seen.set_ip(ip);
        }
        let Some(&last) = fresh.last() else { return Vec::new() };
        match self.nat {
            NatKind::Sequential { step } => {
                // A busy NAT gives ports to others meanwhile: look beyond the last of ours.
                let reach = i32::from(step) * i32::from(SOCKETS) * 5 / 4 + i32::from(step.signum()) * 32;
                let end = (i32::from(last) + reach).clamp(i32::from(*PORTS.start()), i32::from(*PORTS.end()))
                    as u16;
                vec![(last.min(end), last.max(end))]
            }
            NatKind::Block { first, last: end } => vec![(first.min(last), end.max(last))],
            NatKind::Unknown | NatKind::None | NatKind::Easy | NatKind::Random => Vec::new(),
        }
    }
}

/// The ports to try in order: those of the ranges, then random ones; each once.
fn plan_ports(ranges: &[(u16, u16)], rng: &mut Rng) -> VecDeque<u16> {
    let mut seen: BTreeSet<u16> = BTreeSet::new();
    let mut ports = VecDeque::new();
    for (first, last) in ranges {
        let mut range: Vec<u16> = (*first.max(PORTS.start())..=*last).collect();
        rng.shuffle(&mut range);
        for port in range.into_iter().take(TRIES) {
            if seen.len() < TRIES && seen.insert(port) {
                ports.push_back(port);
            }
        }
    }
    let span = u64::from(PORTS.end() - PORTS.start()) + 1;
    while seen.len() < TRIES {
        let port = PORTS.start() + rng.below(span) as u16;
        if seen.insert(port) {
            ports.push_back(port);
        }
    }
    ports
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn likely_ports_are_tried_first_and_none_twice() {
        let ports = plan_ports(&[(5000, 5010), (0, 3)], &mut Rng::new([1; 32]));
        assert_eq!(ports.len(), TRIES);
        let first: BTreeSet<u16> = ports.iter().take(11).copied().collect();
        assert_eq!(first, (5000..=5010).collect());
        assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), TRIES);
        assert!(ports.iter().all(|port| PORTS.contains(port)));
    }

    #[test]
    fn an_offer_of_a_useless_address_is_refused() {
        let mut sprays = Sprays::default();
        let peer = NodeKey::from_bytes([1; 32]);
        let mut rng = Rng::new([1; 32]);
        for seen in ["127.0.0.1:5", "224.0.0.1:5", "100.64.0.1:5", "0.0.0.0:5", "[2001:db8::1]:5"] {
            sprays.start_easy(peer, seen.parse().unwrap(), &[], Instant::ZERO, &mut rng);
            assert_eq!(sprays.next_deadline(), None, "{seen}");
        }
        sprays.start_easy(peer, "203.0.113.1:5".parse().unwrap(), &[], Instant::ZERO, &mut rng);
        assert_eq!(sprays.next_deadline(), Some(Instant::ZERO));
    }
}

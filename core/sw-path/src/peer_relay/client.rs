//! Our side of tunnels through others' relays: asking for them, and proving our address to them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use sw_proto::disco::{self, BindHandshake, Message, RelayEndpoint};
use sw_proto::nacl::{BoxKey, Nonce};
use sw_types::{DiscoKey, DiscoPrivate, Instant, NodeKey, Rng, Vni};

use super::HANDSHAKE_MAX;

/// One peer's relays are asked again after this long (disco.md §5).
const ASK_AGAIN: Duration = Duration::from_secs(30);
/// An unanswered request is repeated once after this long, since the relay may not know its own address yet.
const REPEAT: Duration = Duration::from_secs(3);
/// And given up after this long.
const GIVE_UP: Duration = Duration::from_secs(10);
/// When the addresses of a relay are asked for a challenge, after the start.
const BINDS: [Duration; 3] = [Duration::ZERO, Duration::from_millis(400), Duration::from_millis(1500)];
/// When the other client is pinged, after our address is bound: its own may be so only later.
const PINGS: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_millis(150),
    Duration::from_millis(500),
    Duration::from_millis(1200),
    Duration::from_millis(3000),
    Duration::from_millis(6000),
];
/// Handshakes at once.
const HANDSHAKES_MAX: usize = 64;
/// Addresses of one relay that are tried.
const ADDRESSES_MAX: usize = 16;

/// What the engine does for us.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ClientAct {
    /// Ask `server` over DERP for a tunnel.
    Ask { server: NodeKey, peer: NodeKey, generation: u32 },
    /// Send this to a relay behind a control header.
    Control { to: SocketAddr, vni: Vni, datagram: Vec<u8> },
    /// The way through the relay may work: ping the peer by it.
    Try { peer: NodeKey, addr: SocketAddr, vni: Vni },
}

/// A tunnel that a relay gave us or a peer told us of.
#[derive(Debug)]
pub(crate) struct Offer {
    pub(crate) peer: NodeKey,
    /// The peer's disco key.
    pub(crate) remote: DiscoKey,
    pub(crate) endpoint: RelayEndpoint,
}

#[derive(Debug, Default)]
pub(crate) struct Client {
    asked: BTreeMap<NodeKey, Instant>,
    requests: Vec<Request>,
    handshakes: Vec<Handshake>,
}

#[derive(Debug)]
struct Request {
    server: NodeKey,
    peer: NodeKey,
    generation: u32,
    sent: Instant,
    is_repeated: bool,
}

#[derive(Debug)]
struct Handshake {
    offer: Offer,
    key: BoxKey,
    generation: u32,
    until: Instant,
    /// When the stage began, and how many of its messages are sent.
    began: Instant,
    sent: usize,
    /// Where our answer went; `None` until a challenge came.
    bound: Option<SocketAddr>,
}

impl Handshake {
    fn next(&self) -> Instant {
        let steps: &[Duration] = if self.bound.is_some() { &PINGS } else { &BINDS };
        steps.get(self.sent).map_or(self.until, |after| (self.began + *after).min(self.until))
    }
}

impl Client {
    /// A peer is gone.
    pub(crate) fn forget(&mut self, node: &NodeKey) {
        self.asked.remove(node);
        self.requests.retain(|request| request.peer != *node && request.server != *node);
        self.handshakes.retain(|handshake| handshake.offer.peer != *node);
    }

    /// We are in another network: what was bound is void, and all may be asked again.
    pub(crate) fn forget_network(&mut self) {
        self.asked.clear();
        self.requests.clear();
        self.handshakes.clear();
    }

    /// Whether the last question for a way to `peer` is long enough ago.
    pub(crate) fn may_ask(&self, peer: &NodeKey, now: Instant) -> bool {
        self.asked.get(peer).is_none_or(|at| *at + ASK_AGAIN <= now)
    }

    /// Asks these relays for a tunnel to `peer`.
    pub(crate) fn ask(
        &mut self,
        peer: NodeKey,
        servers: &[NodeKey],
        rng: &mut Rng,
        now: Instant,
        acts: &mut Vec<ClientAct>,
    ) {
        self.asked.insert(peer, now);
        self.requests.retain(|request| request.peer != peer);
        for server in servers {
            let generation = rng.next_u32().max(1);
            let request = Request { server: *server, peer, generation, sent: now, is_repeated: false };
            self.requests.push(request);
            acts.push(ClientAct::Ask { server: *server, peer, generation });
        }
    }

    /// `server` answered; returns the peer that the tunnel is for.
    pub(crate) fn on_answer(&mut self, server: &NodeKey, generation: u32) -> Option<NodeKey> {
        let is_it = |request: &Request| request.server == *server && request.generation == generation;
        let at = self.requests.iter().position(is_it)?;
        Some(self.requests.swap_remove(at).peer)
    }

    /// Begins the handshake with a tunnel's relay; false if it goes on already or cannot be.
    pub(crate) fn begin(&mut self, offer: Offer, disco: &DiscoPrivate, rng: &mut Rng, now: Instant) -> bool {
        let endpoint = &offer.endpoint;
        let is_known = |own: &Handshake| {
            let own = &own.offer.endpoint;
            (own.server, own.vni) == (endpoint.server, endpoint.vni) && own.lamport >= endpoint.lamport
        };
        let is_for_us =
            endpoint.clients.contains(&disco.public()) && endpoint.clients.contains(&offer.remote);
        if !is_for_us || self.handshakes.iter().any(is_known) || self.handshakes.len() >= HANDSHAKES_MAX {
            return false;
        }
        let Ok(secret) = disco.shared_secret(&endpoint.server) else { return false };
        let until = now + endpoint.bind_lifetime.min(HANDSHAKE_MAX);
        self.handshakes.push(Handshake {
            offer,
            key: BoxKey::new(&secret),
            generation: rng.next_u32().max(1),
            until,
            began: now,
            sent: 0,
            bound: None,
        });
        true
    }

    /// Takes a handshake message; false if it is from no relay of ours.
    pub(crate) fn on_control(
        &mut self,
        (from, vni): (SocketAddr, Vni),
        datagram: &[u8],
        (disco, rng): (&DiscoPrivate, &mut Rng),
        now: Instant,
        acts: &mut Vec<ClientAct>,
    ) -> bool {
        let Some(sender) = disco::sender(datagram) else { return false };
        let is_it =
            |own: &&mut Handshake| (own.offer.endpoint.server, own.offer.endpoint.vni) == (sender, vni);
        let Some(own) = self.handshakes.iter_mut().find(is_it) else { return false };
        if own.bound.is_none()
            && let Ok(Message::BindChallenge(body)) = disco::open(datagram, &own.key)
            && (body.vni, body.generation, body.remote) == (vni, own.generation, own.offer.remote)
        {
            let answer = Message::BindAnswer(body);
            let datagram = disco::seal(&answer, disco.public(), &own.key, &Nonce(rng.bytes()));
            acts.push(ClientAct::Control { to: from, vni, datagram });
            (own.bound, own.began, own.sent) = (Some(from), now, 0);
        }
        true
    }

    /// Does what is due; `works` tells whether the way to a peer by a relay's address and tunnel is proven.
    pub(crate) fn serve(
        &mut self,
        works: impl Fn(&NodeKey, SocketAddr, Vni) -> bool,
        (disco, rng): (&DiscoPrivate, &mut Rng),
        now: Instant,
        acts: &mut Vec<ClientAct>,
    ) {
        self.requests.retain(|request| request.sent + GIVE_UP > now);
        for request in self.requests.iter_mut().filter(|own| !own.is_repeated && own.sent + REPEAT <= now) {
            request.is_repeated = true;
            let Request { server, peer, generation, .. } = *request;
            acts.push(ClientAct::Ask { server, peer, generation });
        }
        for own in &mut self.handshakes {
            if own.next() <= now && own.until > now {
                own.step(disco, rng, acts);
            }
        }
        self.handshakes.retain(|own| {
            let is_proven =
                own.bound.is_some_and(|addr| works(&own.offer.peer, addr, own.offer.endpoint.vni));
            own.until > now && !is_proven
        });
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let requests =
            self.requests.iter().map(|own| own.sent + if own.is_repeated { GIVE_UP } else { REPEAT });
        requests.chain(self.handshakes.iter().map(Handshake::next)).min()
    }
}

impl Handshake {
    fn step(&mut self, disco: &DiscoPrivate, rng: &mut Rng, acts: &mut Vec<ClientAct>) {
        self.sent += 1;
        let vni = self.offer.endpoint.vni;
        if let Some(addr) = self.bound {
            acts.push(ClientAct::Try { peer: self.offer.peer, addr, vni });
            return;
        }
        let body =
            BindHandshake { vni, generation: self.generation, remote: self.offer.remote, challenge: [0; 32] };
        for to in self.offer.endpoint.addresses.iter().take(ADDRESSES_MAX) {
            let datagram = disco::seal(&Message::Bind(body), disco.public(), &self.key, &Nonce(rng.bytes()));
            acts.push(ClientAct::Control { to: *to, vni, datagram });
        }
    }
}

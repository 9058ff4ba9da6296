//! Peer relays: when one is wanted, and the bytes of both sides.

use std::net::SocketAddr;
use std::time::Duration;

use sw_proto::disco::{Message, RelayEndpoint};
use sw_proto::geneve;
use sw_types::{DiscoKey, Instant, NodeKey, Now, RegionId, Vni};

use super::PathEngine;
use crate::api::*;
use crate::candidate::is_pingable;
use crate::peer_relay::{CAP_PEER_RELAY, ClientAct, Control, Offer, Server};
use crate::timing::CALL_ME_MAYBE_MAX;

/// Plain punching comes first: it works for most.
const HEAD_START: Duration = Duration::from_millis(500);
/// Relays asked for one peer.
const SERVERS_MAX: usize = 8;

impl PathEngine {
    /// Begins or ends to relay for those whom the policy lets; `fixed` are further addresses at which they find us.
    pub fn set_serve_relay(&mut self, serve: bool, fixed: Vec<SocketAddr>, now: Now) {
        self.relay_addresses = fixed;
        if serve && self.relay_server.is_none() {
            self.relay_server = Some(Server::new(&mut self.rng, now.mono));
        } else if !serve && let Some(server) = self.relay_server.take() {
            let ended = server.forwarded().map(|vni| Output::Forward { vni, legs: None });
            self.outputs.extend(ended);
        }
    }

    /// When the legs of a forwarded tunnel, in the order of [`Output::Forward`], were last heard.
    pub fn on_forwarded(&mut self, vni: Vni, heard: [Instant; 2]) {
        if let Some(server) = &mut self.relay_server {
            server.on_forwarded(vni, heard);
        }
    }

    /// Sets who may relay for us and whom we may relay for; what runs already runs on.
    pub fn set_relay_roles(&mut self, roles: RelayRoles) {
        self.relay_roles = roles;
    }

    fn goes_by_peers(&self) -> bool {
        self.config.peer_relays && !self.config.tcp_443_only && !self.relay_roles.is_refused
    }

    /// The relays that can be asked for a way to `peer`.
    fn relays_for(&self, peer: &NodeKey) -> Vec<NodeKey> {
        let is_able = |node: &&NodeKey| {
            let info = self.peers.get(node).map(|server| &server.info);
            info.is_some_and(|info| info.disco.is_some() && info.home.is_some() && info.cap >= CAP_PEER_RELAY)
        };
        let others = self.relay_roles.servers.iter().filter(|server| *server != peer);
        others.filter(is_able).copied().take(SERVERS_MAX).collect()
    }

    /// Asks relays for a way to a peer to which none is found.
    pub(super) fn consider_relay(&mut self, node: &NodeKey, now: Now) {
        if !self.goes_by_peers()
            || self.relay_roles.servers.is_empty()
            || !self.relay_client.may_ask(node, now.mono)
        {
            return;
        }
        let Some(peer) = self.peers.get(node) else { return };
        let is_able = peer.info.disco.is_some() && peer.info.cap >= CAP_PEER_RELAY;
        let since = peer.searching_since(now.mono).filter(|_| is_able && !peer.has_trusted());
        if since.is_some_and(|since| since + HEAD_START <= now.mono) {
            let mut acts = Vec::new();
            let relays = self.relays_for(node);
            self.relay_client.ask(*node, &relays, &mut self.rng, now.mono, &mut acts);
            self.perform_relaying(acts, now);
        }
    }

    pub(super) fn serve_relays(&mut self, now: Now) {
        if let Some(server) = &mut self.relay_server {
            let ended = server.clean_up(now.mono);
            self.outputs.extend(ended.into_iter().map(|vni| Output::Forward { vni, legs: None }));
        }
        if self.relay_client.next_deadline().is_none_or(|at| at > now.mono) {
            return;
        }
        let mut acts = Vec::new();
        let peers = &self.peers;
        let works = |peer: &NodeKey, addr, vni| {
            let leg = Leg { socket: SocketId::MAIN, addr, vni: Some(vni) };
            peers.get(peer).is_some_and(|peer| peer.is_proven(leg, now.mono))
        };
        self.relay_client.serve(works, (&self.disco, &mut self.rng), now.mono, &mut acts);
        self.perform_relaying(acts, now);
    }

    fn perform_relaying(&mut self, acts: Vec<ClientAct>, now: Now) {
        for act in acts {
            match act {
                ClientAct::Ask { server, peer, generation } => {
                    let Some(remote) = self.peers.get(&peer).and_then(|peer| peer.info.disco) else {
                        continue;
                    };
                    let mut clients = [self.disco.public(), remote];
                    clients.sort_unstable();
                    self.tell_by_relay(&server, &Message::AllocateRequest { clients, generation });
                }
                ClientAct::Control { to, vni, datagram } if self.may_send(to) => {
                    self.send_control(SocketId::MAIN, to, vni, &datagram);
                }
                ClientAct::Control { .. } => {}
                ClientAct::Try { peer, addr, vni } => {
                    let leg = Leg { socket: SocketId::MAIN, addr, vni: Some(vni) };
                    self.with_peer(&peer, now, |peer, ctx| peer.on_tunnel(leg, ctx));
                }
            }
        }
    }

    fn may_send(&self, to: SocketAddr) -> bool {
        let net = self.net();
        let has_family = if to.is_ipv4() { net.ipv4 } else { net.ipv6 };
        has_family && is_pingable(to, net.loopback)
    }

    /// Sends a message to a peer by the region at which it listens.
    fn tell_by_relay(&mut self, node: &NodeKey, message: &Message) {
        let Some(peer) = self.peers.get(node) else { return };
        if let (Some(disco), Some(region)) = (peer.info.disco, peer.relay_region()) {
            self.send_relay_disco(region, *node, disco, message);
        }
    }

    fn send_control(&mut self, socket: SocketId, to: SocketAddr, vni: Vni, sealed: &[u8]) {
        let datagram = [&geneve::Header::control(vni).encode()[..], sealed].concat();
        self.outputs.push_back(Output::SendUdp { socket, to, datagram });
    }

    /// A peer asks for a tunnel through us.
    pub(super) fn on_allocate_request(
        &mut self,
        (region, from): (RegionId, NodeKey),
        sender: DiscoKey,
        (clients, generation): ([DiscoKey; 2], u32),
        now: Now,
    ) {
        let may_ask = self.relay_roles.clients.contains(&from);
        let Some(server) = self.relay_server.as_mut().filter(|_| may_ask && clients.contains(&sender)) else {
            self.stats.disco_refused += 1;
            return;
        };
        let own = self.book.told().iter().map(|endpoint| endpoint.addr);
        let mut addresses: Vec<SocketAddr> = self.relay_addresses.iter().copied().chain(own).collect();
        addresses.truncate(CALL_ME_MAYBE_MAX);
        // Without an address we are of no use yet; the client asks again.
        if addresses.is_empty() {
            return;
        }
        if let Some(endpoint) = server.allocate(sender, clients, addresses, now.mono) {
            let message = Message::AllocateResponse { generation, endpoint };
            self.send_relay_disco(region, from, sender, &message);
        }
    }

    /// A relay gave us a tunnel: the peer at its other end must know.
    pub(super) fn on_allocate_response(
        &mut self,
        from: NodeKey,
        generation: u32,
        endpoint: RelayEndpoint,
        now: Now,
    ) {
        let Some(peer) = self.relay_client.on_answer(&from, generation) else {
            self.stats.disco_refused += 1;
            return;
        };
        let message = Message::CallMeMaybeVia(endpoint.clone());
        if self.begin_tunnel(peer, endpoint, now) {
            self.tell_by_relay(&peer, &message);
            self.serve_relays(now);
        }
    }

    /// A peer waits for us at a relay.
    pub(super) fn on_call_me_maybe_via(&mut self, from: NodeKey, endpoint: RelayEndpoint, now: Now) {
        let is_able =
            self.goes_by_peers() && self.peers.get(&from).is_some_and(|peer| peer.info.cap >= CAP_PEER_RELAY);
        if is_able && self.begin_tunnel(from, endpoint, now) {
            self.serve_relays(now);
        } else {
            self.stats.disco_refused += 1;
        }
    }

    fn begin_tunnel(&mut self, peer: NodeKey, endpoint: RelayEndpoint, now: Now) -> bool {
        let Some(known) = self.peers.get(&peer) else { return false };
        let Some(remote) = known.info.disco else { return false };
        // A new handshake would move our leg of a tunnel that carries data.
        if known.is_in_tunnel(endpoint.vni, &endpoint.addresses) {
            return false;
        }
        let offer = Offer { peer, remote, endpoint };
        self.relay_client.begin(offer, &self.disco, &mut self.rng, now.mono)
    }

    /// A message of the bind handshake, of a relay to us or of a client to our relay.
    pub(super) fn on_control(
        &mut self,
        (socket, from): (SocketId, SocketAddr),
        vni: Vni,
        inner: &[u8],
        now: Now,
    ) {
        let mut acts = Vec::new();
        let own = (&self.disco, &mut self.rng);
        if self.relay_client.on_control((from, vni), inner, own, now.mono, &mut acts) {
            self.perform_relaying(acts, now);
            self.serve_relays(now);
            return;
        }
        let answer = self
            .relay_server
            .as_mut()
            .and_then(|server| server.on_control((from, vni), inner, &mut self.rng, now.mono));
        match answer {
            Some(Control::Reply(sealed)) => self.send_control(socket, from, vni, &sealed),
            Some(Control::Bound(legs)) => self.outputs.push_back(Output::Forward { vni, legs: Some(legs) }),
            None => self.stats.disco_refused += 1,
        }
    }

    /// When tunnels want something, of either side.
    pub(super) fn relay_deadline(&self) -> Option<Instant> {
        let server = self.relay_server.as_ref().and_then(Server::next_deadline);
        [server, self.relay_client.next_deadline()].into_iter().flatten().min()
    }
}

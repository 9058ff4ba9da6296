//! What arrives: STUN answers, disco messages, by UDP or by relay.

use std::net::{Ipv4Addr, SocketAddr};

use sw_proto::disco::{self, Message, OpenError, Ping};
use sw_proto::nacl::BoxKey;
use sw_proto::{geneve, stun};
use sw_types::{DiscoKey, NodeKey, Now, RegionId, Vni};

use super::PathEngine;
use crate::api::*;
use crate::timing::{PINGS_HEARD_PER_S, RELAYED_DISCO_PER_S};

/// The address that stands for "over relay region N" with port N (derp.md).
const RELAY_MARK: Ipv4Addr = Ipv4Addr::new(127, 3, 3, 40);

/// How a disco message came in.
#[derive(Clone, Copy, Debug)]
pub(super) enum Carrier {
    Udp(Leg),
    Relay { region: RegionId, from: NodeKey },
}

impl PathEngine {
    /// Takes a datagram that is STUN, disco or Geneve; returns false for
    /// everything else (WireGuard), which is not looked at
    /// (path-selection.md §2, architecture.md §10.3).
    pub fn on_datagram(&mut self, source: Source, datagram: &[u8], now: Now) -> bool {
        match source {
            Source::Relay { region, from } => {
                self.relays.entry(region).or_default().heard = Some(now.mono);
                if !disco::looks_like(datagram) {
                    return false;
                }
                self.on_disco(Carrier::Relay { region, from }, datagram, now);
            }
            Source::Udp { socket, from } => {
                let from = crate::candidate::unmapped(from);
                if let Some(kind) = stun::kind(datagram) {
                    if kind == stun::Kind::Response {
                        self.on_stun(datagram, socket, now);
                    }
                } else if disco::looks_like(datagram) {
                    self.on_disco(Carrier::Udp(Leg { socket, addr: from, vni: None }), datagram, now);
                } else if let Some((header, inner)) = geneve::Header::split(datagram) {
                    return self.on_geneve(socket, from, header, inner, now);
                } else {
                    return false;
                }
            }
        }
        true
    }

    fn on_geneve(
        &mut self,
        socket: SocketId,
        from: SocketAddr,
        header: geneve::Header,
        inner: &[u8],
        now: Now,
    ) -> bool {
        match header.payload {
            geneve::Payload::Disco if header.control => {
                self.on_control((socket, from), header.vni, inner, now);
                true
            }
            geneve::Payload::Disco => {
                if disco::looks_like(inner) {
                    let leg = Leg { socket, addr: from, vni: Some(header.vni) };
                    self.on_disco(Carrier::Udp(leg), inner, now);
                }
                true
            }
            geneve::Payload::WireGuard | geneve::Payload::Unknown(_) => false,
        }
    }

    fn on_disco(&mut self, carrier: Carrier, datagram: &[u8], now: Now) {
        let Some(sender) = disco::sender(datagram) else { return };
        // Nothing is opened for strangers (disco.md §4 rule 1), and over a relay the claimed node must be the one
        // that control gave this disco key.
        let known = match carrier {
            Carrier::Udp(_) => self.disco_keys.contains_key(&sender),
            Carrier::Relay { from, .. } => {
                self.peers.get(&from).is_some_and(|p| p.info.disco == Some(sender))
            }
        };
        if !known {
            self.stats.disco_unknown_sender += 1;
            return;
        }
        if !self.allows(carrier, sender, now) {
            self.stats.disco_refused += 1;
            return;
        }
        let Some(key) = self.shared_key(sender) else { return };
        match disco::open(datagram, key) {
            Ok(message) => self.on_message(carrier, sender, message, now),
            Err(OpenError::Message(disco::MessageError::UnknownType(_))) => {
                if let Carrier::Relay { region, from } = carrier {
                    self.on_ext(sender, region, from, datagram, now);
                }
            }
            Err(_) => self.stats.disco_unsealed_failed += 1,
        }
    }

    /// Keeps one peer from using up our time (threat-model.md §4).
    fn allows(&mut self, carrier: Carrier, sender: DiscoKey, now: Now) -> bool {
        let (node, limit) = match carrier {
            Carrier::Relay { from, .. } => (Some(from), RELAYED_DISCO_PER_S),
            Carrier::Udp(_) => {
                (self.disco_keys.get(&sender).and_then(|s| s.nodes.first().copied()), PINGS_HEARD_PER_S)
            }
        };
        let relayed = matches!(carrier, Carrier::Relay { .. });
        let Some(peer) = node.and_then(|node| self.peers.get_mut(&node)) else { return false };
        let rate = if relayed { &mut peer.relayed_rate } else { &mut peer.udp_rate };
        rate.allows(limit, now.mono)
    }

    pub(super) fn shared_key(&mut self, of: DiscoKey) -> Option<&BoxKey> {
        let shared = self.disco_keys.get_mut(&of)?;
        if shared.key.is_none() {
            shared.key = self.disco.shared_secret(&of).ok().map(|secret| BoxKey::new(&secret));
        }
        shared.key.as_ref()
    }

    fn on_message(&mut self, carrier: Carrier, sender: DiscoKey, message: Message, now: Now) {
        match (message, carrier) {
            (Message::Ping(ping), _) => self.on_ping(carrier, sender, ping, now),
            (Message::Pong { tx, .. }, _) => self.on_pong(carrier, sender, tx, now),
            (Message::CallMeMaybe(addrs), Carrier::Relay { region, from }) => {
                self.stats.call_me_maybe_received += 1;
                self.with_peer(&from, now, |peer, ctx| {
                    peer.on_heard_by_relay(region, ctx);
                    peer.on_call_me_maybe(&addrs, ctx);
                });
                // Our mapping may have died while we were idle: the caller would then punch a wrong address.
                if !self.endpoints_fresh(now) {
                    self.request_netcheck(now);
                }
            }
            (Message::AllocateRequest { clients, generation }, Carrier::Relay { region, from }) => {
                self.on_allocate_request((region, from), sender, (clients, generation), now);
            }
            (Message::AllocateResponse { generation, endpoint }, Carrier::Relay { from, .. }) => {
                self.on_allocate_response(from, generation, endpoint, now);
            }
            (Message::CallMeMaybeVia(endpoint), Carrier::Relay { from, .. }) => {
                self.on_call_me_maybe_via(from, endpoint, now);
            }
            // These never come by UDP without a relay's control header (disco.md §4 rule 5).
            (
                Message::CallMeMaybe(_)
                | Message::CallMeMaybeVia(_)
                | Message::AllocateRequest { .. }
                | Message::AllocateResponse { .. }
                | Message::Bind(_)
                | Message::BindChallenge(_)
                | Message::BindAnswer(_),
                _,
            ) => self.stats.disco_refused += 1,
        }
    }

    fn on_ping(&mut self, carrier: Carrier, sender: DiscoKey, ping: Ping, now: Now) {
        self.stats.pings_received += 1;
        let nodes = self.nodes_of(sender, &ping);
        let seen = match carrier {
            Carrier::Udp(leg) => leg.addr,
            Carrier::Relay { region, .. } => SocketAddr::from((RELAY_MARK, region.0 as u16)),
        };
        let pong = Message::Pong { tx: ping.tx, seen };
        match carrier {
            Carrier::Udp(leg) => {
                self.send_udp_disco(leg, sender, &pong);
                for node in nodes {
                    self.with_peer(&node, now, |peer, ctx| peer.on_ping(leg, ctx));
                }
            }
            Carrier::Relay { region, from } => {
                self.send_relay_disco(region, from, sender, &pong);
                self.with_peer(&from, now, |peer, ctx| peer.on_heard_by_relay(region, ctx));
            }
        }
    }

    /// The nodes that a ping may be from: the one it claims, if control gave
    /// it this disco key, else all that have the key (disco.md §4 rule 3).
    fn nodes_of(&self, sender: DiscoKey, ping: &Ping) -> Vec<NodeKey> {
        let nodes = self.disco_keys.get(&sender).map(|s| s.nodes.clone()).unwrap_or_default();
        match ping.node_key {
            Some(claimed) if nodes.contains(&claimed) => vec![claimed],
            Some(_) | None => nodes,
        }
    }

    fn on_pong(&mut self, carrier: Carrier, sender: DiscoKey, tx: disco::TxId, now: Now) {
        self.stats.pongs_received += 1;
        let nodes = self.disco_keys.get(&sender).map(|s| s.nodes.clone()).unwrap_or_default();
        let source = match carrier {
            Carrier::Udp(leg) => Some(leg),
            Carrier::Relay { .. } => None,
        };
        for node in nodes {
            let mut found = false;
            self.with_peer(&node, now, |peer, ctx| found = peer.on_pong(tx.0, source, ctx));
            if found {
                return;
            }
            // A spray pings many ports with one id: the source tells which it was, and a plain ping proves it.
            if let Carrier::Udp(leg) = carrier
                && self.sprays.is_ours(&node, tx.0)
            {
                self.with_peer(&node, now, |peer, ctx| peer.on_sprayed(leg, ctx));
                return;
            }
        }
    }

    /// Seals a message for the peer with this disco key.
    pub(super) fn seal(&mut self, to: DiscoKey, message: &Message) -> Option<Vec<u8>> {
        let nonce = sw_proto::nacl::Nonce(self.rng.bytes());
        let from = self.disco.public();
        let key = self.shared_key(to)?;
        Some(disco::seal(message, from, key, &nonce))
    }

    pub(super) fn send_udp_disco(&mut self, leg: Leg, to: DiscoKey, message: &Message) {
        let Some(sealed) = self.seal(to, message) else { return };
        let datagram = with_geneve(leg.vni, sealed);
        self.outputs.push_back(Output::SendUdp { socket: leg.socket, to: leg.addr, datagram });
    }

    pub(super) fn send_relay_disco(
        &mut self,
        region: RegionId,
        node: NodeKey,
        to: DiscoKey,
        message: &Message,
    ) {
        if let Some(datagram) = self.seal(to, message) {
            self.outputs.push_back(Output::SendRelay { region, to: node, datagram });
        }
    }
}

/// Puts the header of a peer relay's tunnel in front.
pub(super) fn with_geneve(vni: Option<Vni>, sealed: Vec<u8>) -> Vec<u8> {
    match vni {
        None => sealed,
        Some(vni) => {
            let header = geneve::Header::data(geneve::Payload::Disco, vni).encode();
            [&header[..], &sealed].concat()
        }
    }
}

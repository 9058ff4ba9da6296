//! Port sprays: when one is worth it, and the bytes it sends.

use std::net::SocketAddr;

use sw_proto::disco::{HEADER_LEN, MAGIC, Message, Ping, TxId};
use sw_proto::nacl::{NONCE_LEN, Nonce, TAG_LEN};
use sw_types::{DiscoKey, NodeKey, Now, RegionId};

use super::PathEngine;
use crate::api::*;
use crate::ext::Ext;
use crate::spray::{Facts, HEAD_START, SprayAct};

impl PathEngine {
    /// A socket asked for by [`Output::OpenSockets`] is open.
    pub fn on_socket_opened(&mut self, socket: SocketId, now: Now) {
        if !self.sprays.on_socket(socket) {
            self.outputs.push_back(Output::CloseSocket(socket));
        }
        self.serve_sprays(now);
    }

    /// A further socket failed; paths over it are void.
    pub fn on_socket_closed(&mut self, socket: SocketId, now: Now) {
        let peers: Vec<NodeKey> = self.peers.keys().copied().collect();
        for peer in peers {
            self.with_peer(&peer, now, |peer, ctx| peer.on_socket_closed(socket, ctx));
        }
    }

    /// Begins a spray toward a peer if nothing else can lead to a direct path.
    pub(super) fn consider_spray(&mut self, node: &NodeKey, now: Now) {
        if !self.config.port_spray || !self.own_nat().is_hard() || !self.sprays.may_start(node, now.mono) {
            return;
        }
        let Some(facts) = self.sprays.facts(node) else { return };
        let since = self.peers.get(node).and_then(|peer| peer.searching_since(now.mono));
        let Some(since) = since.filter(|_| !facts.nat.is_hard()) else { return };
        // Plain punching comes first: it works for most.
        if since + HEAD_START > now.mono {
            self.sprays.check_at(*node, since + HEAD_START);
            return;
        }
        let seen = self.netcheck.last().and_then(|r| r.global_v4);
        if let (Some(seen), Some(target)) = (seen, facts.seen)
            && target.is_ipv4()
        {
            self.stats.sprays += 1;
            let mut acts = Vec::new();
            self.sprays.start_hard(*node, target, (self.own_nat(), seen), now.mono, &mut acts);
            self.perform_spray(acts);
        }
    }

    pub(super) fn serve_sprays(&mut self, now: Now) {
        for peer in self.sprays.due_checks(now.mono) {
            self.consider_spray(&peer, now);
        }
        if self.sprays.next_deadline().is_none() {
            return;
        }
        let mut acts = Vec::new();
        let stun = self.netcheck.stun_addrs_v4();
        let peers = &self.peers;
        self.sprays.serve(
            |peer| peers.get(peer).is_none_or(|p| p.has_trusted() && p.has_direct()),
            |peer, socket| peers.get(peer).is_some_and(|p| p.uses_socket(socket, now.mono)),
            &stun,
            now.mono,
            &mut self.rng,
            &mut acts,
        );
        self.perform_spray(acts);
    }

    fn perform_spray(&mut self, acts: Vec<SprayAct>) {
        // All pings of a round are the same message: sealed once.
        let mut sealed: Option<([u8; 12], Vec<u8>)> = None;
        for act in acts {
            match act {
                SprayAct::OpenSockets(count) => self.outputs.push_back(Output::OpenSockets(count)),
                SprayAct::Close(socket) => self.outputs.push_back(Output::CloseSocket(socket)),
                SprayAct::Stun { socket, to, tx } => {
                    let datagram = sw_proto::stun::request(sw_proto::stun::TxId(tx)).to_vec();
                    self.outputs.push_back(Output::SendUdp { socket, to, datagram });
                }
                SprayAct::Ping { peer, socket, to, tx } => {
                    let known = sealed.as_ref().filter(|(t, _)| *t == tx).map(|(_, bytes)| bytes.clone());
                    let Some(datagram) = known.or_else(|| self.spray_ping(&peer, tx)) else { continue };
                    sealed = Some((tx, datagram.clone()));
                    self.stats.pings_sent += 1;
                    self.outputs.push_back(Output::SendUdp { socket, to, datagram });
                }
                SprayAct::Offer { peer, seen, ranges } => {
                    let offer = Ext::Offer { nat: self.own_nat(), seen, ranges };
                    self.send_ext(&peer, &offer);
                }
            }
        }
    }

    fn spray_ping(&mut self, peer: &NodeKey, tx: [u8; 12]) -> Option<Vec<u8>> {
        let disco = self.peers.get(peer)?.info.disco?;
        let ping = Message::Ping(Ping { tx: TxId(tx), node_key: Some(self.node), padding: 0 });
        self.seal(disco, &ping)
    }

    /// Tells a peer what NAT we are behind, unless it was told just now.
    pub(super) fn send_facts(&mut self, peer: &NodeKey, now: Now) {
        let Some(report) = self.netcheck.last() else { return };
        let facts = Ext::Facts { nat: report.nat, seen: report.global_v4 };
        if self.config.port_spray && self.sprays.should_tell(*peer, now.mono) {
            self.send_ext(peer, &facts);
        }
    }

    fn send_ext(&mut self, node: &NodeKey, ext: &Ext) {
        let Some(peer) = self.peers.get(node) else { return };
        let (Some(region), Some(disco)) = (peer.relay_region(), peer.info.disco) else { return };
        let nonce = Nonce(self.rng.bytes());
        let from = self.disco.public();
        let Some(key) = self.shared_key(disco) else { return };
        let mut datagram = MAGIC.to_vec();
        datagram.extend_from_slice(from.as_bytes());
        datagram.extend_from_slice(&nonce.0);
        datagram.extend_from_slice(&key.seal(&nonce, &ext.encode()));
        self.outputs.push_back(Output::SendRelay { region, to: *node, datagram });
    }

    /// A message of unknown type came over a relay: perhaps one of ours.
    pub(super) fn on_ext(
        &mut self,
        sender: DiscoKey,
        region: RegionId,
        node: NodeKey,
        datagram: &[u8],
        now: Now,
    ) {
        let Some(ext) = self.open_ext(sender, datagram) else { return };
        self.with_peer(&node, now, |peer, ctx| peer.on_heard_by_relay(region, ctx));
        match ext {
            Ext::Facts { nat, seen } => {
                self.sprays.set_facts(node, Facts { nat, seen });
                self.send_facts(&node, now);
            }
            Ext::Offer { nat, seen, ranges } => {
                let allowed = self.config.port_spray && self.is_announced(&node, seen);
                self.sprays.set_facts(node, Facts { nat, seen: Some(seen) });
                if allowed {
                    self.sprays.start_easy(node, seen, &ranges, now.mono, &mut self.rng);
                    self.serve_sprays(now);
                }
            }
        }
        self.consider_spray(&node, now);
    }

    /// Only an address that the peer has told as its own is sprayed
    /// (nat-traversal-beyond.md §6).
    fn is_announced(&self, node: &NodeKey, seen: SocketAddr) -> bool {
        self.peers.get(node).is_some_and(|p| p.knows_ip(seen.ip()))
    }

    fn open_ext(&mut self, sender: DiscoKey, datagram: &[u8]) -> Option<Ext> {
        let sealed = datagram.get(HEADER_LEN..).filter(|s| s.len() > TAG_LEN)?;
        let nonce = datagram.get(HEADER_LEN - NONCE_LEN..)?.first_chunk()?;
        let plain = self.shared_key(sender)?.open(&Nonce(*nonce), sealed).ok()?;
        Ext::parse(&plain)
    }
}

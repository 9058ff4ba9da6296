//! What a peer asked for becomes bytes and outputs.

use std::net::SocketAddr;

use sw_proto::disco::{Message, Ping, TxId, padding_for};
use sw_types::{NodeKey, Now, RegionId};

use super::PathEngine;
use crate::api::Output;
use crate::peer::{Act, To};
use crate::timing::CALL_ME_MAYBE_MAX;

impl PathEngine {
    pub(super) fn perform(&mut self, node: &NodeKey, act: Act, now: Now) {
        match act {
            Act::Ping { to, tx, size } => self.send_ping(node, to, tx, size),
            Act::CallMeMaybe(region) => self.send_call_me_maybe(node, region, now),
            Act::SetRoute(route) => {
                self.stats.path_changes += 1;
                self.outputs.push_back(Output::SetRoute { peer: *node, route });
            }
            Act::PingDone { id, outcome } => {
                self.outputs.push_back(Output::PingResult { id, peer: *node, outcome });
            }
        }
    }

    fn send_ping(&mut self, node: &NodeKey, to: To, tx: [u8; 12], size: u16) {
        let Some(disco) = self.peers.get(node).and_then(|p| p.info.disco) else { return };
        let padding = if size == 0 { 0 } else { padding_for(usize::from(size)) };
        let message = Message::Ping(Ping { tx: TxId(tx), node_key: Some(self.node), padding });
        self.stats.pings_sent += 1;
        match to {
            To::Leg(leg) => self.send_udp_disco(leg, disco, &message),
            To::Relay(region) => self.send_relay_disco(region, *node, disco, &message),
        }
    }

    /// Tells a peer where we are, with what is known now; if that may be
    /// stale, it is measured and told again should it differ.
    fn send_call_me_maybe(&mut self, node: &NodeKey, region: RegionId, now: Now) {
        let addrs: Vec<SocketAddr> =
            self.book.told().iter().map(|e| e.addr).take(CALL_ME_MAYBE_MAX).collect();
        if !addrs.is_empty() {
            let number = self.book.number();
            let Some(peer) = self.peers.get_mut(node) else { return };
            peer.told = Some(number);
            let Some(disco) = peer.info.disco else { return };
            self.stats.call_me_maybe_sent += 1;
            self.send_relay_disco(region, *node, disco, &Message::CallMeMaybe(addrs));
            self.send_facts(node, now);
        }
        if !self.endpoints_fresh(now) {
            self.request_netcheck(now);
        }
    }
}

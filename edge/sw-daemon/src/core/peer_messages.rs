//! Messages of nodes inside the tunnel: pings of both sides, and our echoes (node-services.md §13.3, disco.md §7).

use std::collections::BTreeMap;
use std::net::IpAddr;

use sw_proto::ip::{IpProto, IpView, Transport};
use sw_proto::tsmp::Message;
use tokio::sync::oneshot;

use super::Core;
use crate::dns_service::ip_packet;

/// Pings that wait at once; the next one is not sent.
const WAITING_MAX: usize = 256;
const ECHO_REQUEST: u8 = 8;
const ECHO_REQUEST_V6: u8 = 128;

/// What a peer says in its answer: where its API listens, if it tells.
pub(crate) type PeerApiPort = Option<u16>;

/// Pings through the tunnel that wait for their answers.
#[derive(Debug)]
pub(crate) struct PeerPings {
    /// How the data of our echoes begins.
    pub(crate) cookie: [u8; 8],
    waiting: BTreeMap<[u8; 8], oneshot::Sender<PeerApiPort>>,
}

impl PeerPings {
    pub(super) fn new() -> Self {
        let [a, b, c, d, e, f, g, h, ..] = crate::random();
        Self { cookie: [a, b, c, d, e, f, g, h], waiting: BTreeMap::new() }
    }

    /// Notes a new ping under random bytes; those whose asker has gone are forgotten.
    fn begin(&mut self) -> Option<([u8; 8], oneshot::Receiver<PeerApiPort>)> {
        self.waiting.retain(|_, reply| !reply.is_closed());
        if self.waiting.len() >= WAITING_MAX {
            return None;
        }
        let [a, b, c, d, e, f, g, h, ..] = crate::random();
        let id = [a, b, c, d, e, f, g, h];
        let (reply, answer) = oneshot::channel();
        self.waiting.insert(id, reply);
        Some((id, answer))
    }

    fn end(&mut self, id: &[u8; 8], port: PeerApiPort) {
        if let Some(reply) = self.waiting.remove(id) {
            let _asker_gone = reply.send(port);
        }
    }
}

impl Core {
    /// Handles a packet of the node's own; false when it is somebody else's.
    pub(super) fn on_own_packet(&mut self, packet: &[u8]) -> bool {
        let Ok(view) = IpView::parse(packet) else { return false };
        if view.proto() == IpProto::TSMP {
            match Message::parse(view.payload()) {
                Some(Message::Ping(data)) => {
                    let pong = Message::Pong { data, peer_api_port: self.peer_api.port_of(view.dst()) };
                    if let Some(packet) = pong.packet(view.dst(), view.src()) {
                        self.device.send_own(&packet);
                    }
                }
                Some(Message::Pong { data, peer_api_port }) => self.peer_pings.end(&data, peer_api_port),
                // For the log of whoever looks: the flow is refused either way.
                Some(Message::Rejected(rejected)) => {
                    tracing::debug!(peer = %view.src(), ?rejected, "a peer refuses a connection");
                }
                Some(Message::DiscoKey(_)) | None => {}
            }
            return true;
        }
        let Transport::Icmp(icmp) = view.transport() else { return false };
        let Some(rest) = icmp.is_echo_reply().then(|| echo_data(&view)).flatten() else { return false };
        let Some(id) = rest.strip_prefix(&self.peer_pings.cookie).and_then(|id| id.first_chunk()) else {
            return false;
        };
        self.peer_pings.end(id, None);
        true
    }

    /// Sends a ping that the peer's daemon answers.
    pub(crate) fn ping_tsmp(&mut self, to: IpAddr) -> Option<oneshot::Receiver<PeerApiPort>> {
        let from = self.own_address(to.is_ipv4())?;
        let (id, answer) = self.peer_pings.begin()?;
        self.device.send_own(&Message::Ping(id).packet(from, to)?);
        Some(answer)
    }

    /// Sends a ping that the peer's host answers.
    pub(crate) fn ping_icmp(&mut self, to: IpAddr) -> Option<oneshot::Receiver<PeerApiPort>> {
        let from = self.own_address(to.is_ipv4())?;
        let (id, answer) = self.peer_pings.begin()?;
        let (kind, proto) =
            if to.is_ipv4() { (ECHO_REQUEST, IpProto::ICMP) } else { (ECHO_REQUEST_V6, IpProto::ICMPV6) };
        let [identifier, sequence, ..] = id;
        let head = [kind, 0, 0, 0, 0, identifier, 0, sequence];
        let message = [&head[..], &self.peer_pings.cookie, &id].concat();
        self.device.send_own(&ip_packet(from, to, proto, &message)?);
        Some(answer)
    }

    fn own_address(&self, is_v4: bool) -> Option<IpAddr> {
        let own = &self.node.netmap()?.self_node.addresses;
        own.iter().map(|net| net.addr()).find(|address| address.is_ipv4() == is_v4)
    }
}

/// What follows the header of an echo.
fn echo_data<'p>(view: &IpView<'p>) -> Option<&'p [u8]> {
    view.payload().get(8..)
}

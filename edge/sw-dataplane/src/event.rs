//! What the data plane tells its owner.

use crate::extra::SocketNumber;
use std::net::SocketAddr;
use sw_types::{NodeKey, RegionId, UnixTime};
use sw_wg::{Role, Source};

/// Events wait here; when it is full, new ones are dropped and counted.
pub(crate) const QUEUE_LEN: usize = 1024;
/// Packets leave this much of the queue to everything else.
const RESERVED: usize = QUEUE_LEN / 4;

/// The kinds of datagram on the socket that are not WireGuard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatagramKind {
    /// Begins with the disco magic, or is disco inside Geneve without the control bit (the bytes begin with the
    /// Geneve header then).
    Disco,
    /// A STUN request or answer.
    Stun,
    /// Geneve that is not WireGuard data for us: the control bit is set, or nobody here knows the inner session.
    Geneve,
}

/// One thing the owner may have to act on.
#[derive(Debug)]
pub enum Event {
    /// A datagram that path choice or the STUN client understands.
    NonWireGuard { socket: SocketNumber, from: SocketAddr, kind: DatagramKind, bytes: Vec<u8> },
    /// Send this through the relay of `region`.
    RelayOut { region: RegionId, to: NodeKey, bytes: Vec<u8> },
    /// There is traffic for a peer without a path; at most once a second.
    WantPath(NodeKey),
    /// Traffic was sent to a peer; at most once a second, for whoever keeps its path alive.
    PeerActivity(NodeKey),
    /// A handshake is complete.
    Handshake { peer: NodeKey, role: Role, at: UnixTime },
    /// Attempts at a handshake ended without an answer.
    HandshakeFailed(NodeKey),
    /// An authenticated message of a peer came from where none came before.
    FirstPacketFrom { peer: NodeKey, source: Source },
    /// An inner packet of the node itself: to an intercepted address (answer with `inject_inbound`), or from a peer to
    /// the node (answer with `send_own`).
    ServicePacket(Vec<u8>),
    /// The TUN interface was deleted by somebody: nothing moves any more.
    TunGone,
}

/// Where events go.
#[derive(Clone, Debug)]
pub(crate) struct Events(tokio::sync::mpsc::Sender<Event>);

impl Events {
    pub(crate) fn new() -> (Self, tokio::sync::mpsc::Receiver<Event>) {
        let (sender, receiver) = tokio::sync::mpsc::channel(QUEUE_LEN);
        (Self(sender), receiver)
    }

    /// Queues an event; false when there was no room.
    pub(crate) fn send(&self, event: Event) -> bool {
        self.0.try_send(event).is_ok()
    }

    /// Queues an event that carries a packet; false when only the reserved room is left.
    pub(crate) fn send_packet(&self, event: Event) -> bool {
        self.0.capacity() > RESERVED && self.send(event)
    }
}

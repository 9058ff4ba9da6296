//! What all threads of one device share.

use crate::burst::{Burst, Target};
use crate::capture::Capture;
use crate::event::{Event, Events};
use crate::extra::ExtraSockets;
use crate::filter::PacketFilter;
use crate::forward::Forwards;
use crate::inbox::{Inbox, Note};
use crate::own::OwnTraffic;
use crate::routes::Routes;
use crate::slot::{Direction, LiveSession, SessionTable, Slot};
use crate::stats::{Counter, Counters};
use crate::udp::Sockets;
use arc_swap::{ArcSwap, ArcSwapOption};
use ipnet::IpNet;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex};
use sw_proto::geneve;
use sw_types::{Instant, NodeKey, Path, RegionId};
use sw_wg::{BatchCipher, MacCheck};

/// Read by every thread, written by the device's owner and the state thread.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) peers: Mutex<HashMap<NodeKey, Arc<Slot>>>,
    pub(crate) routes: Routes,
    pub(crate) sessions: SessionTable,
    pub(crate) sockets: ArcSwap<Sockets>,
    pub(crate) extra: ExtraSockets,
    pub(crate) filter: ArcSwap<Arc<dyn PacketFilter>>,
    pub(crate) local: ArcSwap<Local>,
    pub(crate) own: ArcSwap<OwnTraffic>,
    pub(crate) mac_check: ArcSwapOption<MacCheck>,
    pub(crate) cipher: &'static dyn BatchCipher,
    pub(crate) io: crate::io::PacketIo,
    pub(crate) mtu: AtomicUsize,
    pub(crate) events: Events,
    pub(crate) inbox: Inbox,
    pub(crate) counters: Counters,
    pub(crate) capture: Capture,
    pub(crate) forwards: Forwards,
    /// Initiations of unknown keys wait: the state thread wants to hear of new peers.
    pub(crate) has_strangers: AtomicBool,
    pub(crate) is_stopping: AtomicBool,
}

/// Our own addresses.
#[derive(Debug, Default)]
pub(crate) struct Local {
    /// What our packets may have as source; empty means anything.
    pub(crate) sources: Vec<IpNet>,
    /// Destinations that are handed to the owner instead of a peer.
    pub(crate) services: Vec<IpAddr>,
}

impl Shared {
    /// Puts a message to the state thread.
    pub(crate) fn note(&self, note: Note) {
        self.inbox.note(note);
    }

    /// Asks for a session for `slot`, once until the state thread has answered.
    pub(crate) fn want_session(&self, slot: &Slot) {
        if slot.live().want_session() {
            self.note(Note::SessionWanted(slot.key));
        }
    }

    /// Asks the owner for a path, at most once a second.
    pub(crate) fn want_path(&self, slot: &Slot, now: Instant) {
        if slot.live().want_path(now) && !self.events.send(Event::WantPath(slot.key)) {
            self.counters.add(Counter::EventQueueFull, 1);
        }
    }

    /// Tells the owner that data goes to this peer, at most once a second.
    pub(crate) fn tell_active(&self, slot: &Slot, now: Instant) {
        let is_due = !slot.roams() && slot.live().is_active_event_due(now);
        if is_due && !self.events.send(Event::PeerActivity(slot.key)) {
            self.counters.add(Counter::EventQueueFull, 1);
        }
    }

    /// Lets a packet wait for session or path.
    pub(crate) fn stage(&self, slot: &Slot, packet: Vec<u8>) {
        if slot.live().stage(packet) {
            self.counters.add(Counter::OutStagingFull, 1);
        }
    }

    /// Sends finished datagrams, equal in length but the last, along `path`.
    pub(crate) fn send_datagrams(&self, slot: &Slot, path: &Path, bytes: &[u8], stride: usize) {
        match path {
            Path::Direct(addr) | Path::PeerRelay { addr, .. } => {
                let detour = slot.detour();
                match detour.as_ref().and_then(|detour| detour.socket.as_ref()) {
                    Some(socket) => socket.send(*addr, bytes, stride, &self.counters),
                    None => self.sockets.load().send(*addr, bytes, stride, &self.counters),
                }
                if let Some(region) = detour.as_ref().and_then(|detour| detour.relay_copy) {
                    self.send_relayed(slot, region, bytes, stride);
                }
            }
            Path::Derp(region) => self.send_relayed(slot, *region, bytes, stride),
        }
        slot.live().packets.add(Direction::Out, path, bytes.len().div_ceil(stride) as u64);
    }

    fn send_relayed(&self, slot: &Slot, region: RegionId, bytes: &[u8], stride: usize) {
        for datagram in bytes.chunks(stride) {
            let event = Event::RelayOut { region, to: slot.key, bytes: datagram.to_vec() };
            if !self.events.send_packet(event) {
                self.counters.add(Counter::OutRelayFull, 1);
            }
        }
    }

    /// Sends one handshake message along `path`.
    pub(crate) fn send_handshake(&self, slot: &Slot, path: &Path, message: &[u8]) {
        match path {
            Path::PeerRelay { vni, .. } => {
                let header = geneve_header(*vni);
                let wrapped = [&header, message].concat();
                self.send_datagrams(slot, path, &wrapped, wrapped.len());
            }
            Path::Direct(_) | Path::Derp(_) => {
                self.send_datagrams(slot, path, message, message.len());
            }
        }
    }

    /// Sends what waited for a session or a path; false when nothing did, or one of the two is still missing.
    pub(crate) fn send_staged(&self, slot: &Slot, now: Instant) -> bool {
        let (Some(session), Some(path)) = (slot.current.load_full(), slot.path()) else {
            return false;
        };
        let staged = slot.live().take_staged();
        let is_any = !staged.is_empty();
        self.send_packets(&session, path, staged, now);
        is_any
    }

    /// Seals and sends inner packets on a session, outside of the outbound thread.
    pub(crate) fn send_packets(
        &self,
        session: &Arc<LiveSession>,
        path: Path,
        packets: impl IntoIterator<Item = Vec<u8>>,
        now: Instant,
    ) {
        let mtu = self.mtu.load(std::sync::atomic::Ordering::Relaxed);
        let mut burst = Burst::small();
        let target = Target { session: session.clone(), path };
        for packet in packets {
            let padded = crate::packet::padded_len(packet.len(), mtu);
            if let Some(room) = burst.room(self, &target, padded, now) {
                room[..packet.len()].copy_from_slice(&packet);
                room[packet.len()..].fill(0);
            }
        }
        burst.flush(self, now);
    }
}

/// The Geneve header of WireGuard data to a peer relay (path-selection.md §2).
pub(crate) fn geneve_header(vni: sw_types::Vni) -> [u8; geneve::HEADER_LEN] {
    let mut header = [0, 0, 0x7a, 0x12, 0, 0, 0, 0];
    header[4..7].copy_from_slice(&vni.to_bytes());
    header
}

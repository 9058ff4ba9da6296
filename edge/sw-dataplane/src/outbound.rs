//! From the inner side to the wire (dataplane.md §2.3).

use crate::burst::{Burst, Target};
use crate::capture::CaptureDirection;
use crate::clock;
use crate::event::Event;
use crate::filter::Verdict;
use crate::io::{PacketIo, read_tun};
use crate::packet::Addresses;
use crate::packet::split::Split;
use crate::packet::vnet::Vnet;
use crate::shared::Shared;
use crate::slot::Slot;
use crate::stats::Counter;
use rustix::event::{PollFd, PollFlags, poll};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use sw_os::tun::{Tun, VNET_HEADER_LEN};
use sw_types::Instant;

/// A superpacket and its virtio header.
const READ_LEN: usize = 65_536 + VNET_HEADER_LEN;
/// How often the MTU is looked up while there is traffic.
const MTU_INTERVAL: Duration = Duration::from_secs(5);

/// The outbound side: one per thread that brings packets.
#[derive(Debug)]
pub(crate) struct Outbound {
    burst: Burst,
}

impl Outbound {
    pub(crate) fn new(burst: Burst) -> Self {
        Self { burst }
    }

    /// Takes one packet or superpacket; small ones are gathered until `flush`.
    pub(crate) fn on_packet(&mut self, shared: &Shared, vnet: Vnet, packet: &[u8], now: Instant) {
        if let Err(reason) = self.route(shared, vnet, packet, now) {
            shared.counters.add(reason, 1);
        }
    }

    /// Takes a packet that the node itself made.
    pub(crate) fn on_own(&mut self, shared: &Shared, packet: &[u8], now: Instant) {
        let mut send = || {
            let addresses = Addresses::parse(packet).ok_or(Counter::OutMalformed)?;
            let split = Split::new(Vnet::Complete, packet, &addresses).ok_or(Counter::OutMalformed)?;
            let slot = shared.routes.owner(addresses.dst).ok_or(Counter::OutNoRoute)?;
            shared.capture.take(CaptureDirection::ToPeer, packet);
            self.send(shared, &slot, &split, now);
            Ok(())
        };
        if let Err(reason) = send() {
            shared.counters.add(reason, 1);
        }
    }

    pub(crate) fn flush(&mut self, shared: &Shared, now: Instant) {
        self.burst.flush(shared, now);
    }

    fn route(&mut self, shared: &Shared, vnet: Vnet, packet: &[u8], now: Instant) -> Result<(), Counter> {
        let addresses = Addresses::parse(packet).ok_or(Counter::OutMalformed)?;
        let packet = &packet[..addresses.len];
        let split = Split::new(vnet, packet, &addresses).ok_or(Counter::OutMalformed)?;
        shared.capture.take(CaptureDirection::ToPeer, packet);
        {
            let local = shared.local.load();
            if local.services.contains(&addresses.dst) {
                return Self::to_service(shared, &split);
            }
            let is_ours =
                local.sources.is_empty() || local.sources.iter().any(|net| net.contains(&addresses.src));
            if !is_ours {
                return Err(Counter::OutForeignSource);
            }
        }
        let slot = shared.routes.owner(addresses.dst).ok_or(Counter::OutNoRoute)?;
        if shared.filter.load().outbound(&slot.key, packet) == Verdict::Drop {
            return Err(Counter::OutFiltered);
        }
        self.send(shared, &slot, &split, now);
        Ok(())
    }

    fn send(&mut self, shared: &Shared, slot: &Arc<Slot>, split: &Split<'_>, now: Instant) {
        let session = slot.current.load_full().filter(|live| !live.session.is_expired(now));
        let path = slot.path();
        let (Some(session), Some(path)) = (session.clone(), path) else {
            for index in 0..split.count() {
                shared.stage(slot, segment(split, index));
            }
            match session {
                None => shared.want_session(slot),
                Some(_) => shared.want_path(slot, now),
            }
            // A direct path is looked for while the handshake is under way, not after it: the way that the handshake
            // takes may lead nowhere yet.
            shared.tell_active(slot, now);
            return;
        };
        let target = Target { session, path };
        let mtu = shared.mtu.load(Ordering::Relaxed);
        let count = split.count();
        for index in 0..count {
            let padded = split.padded_len(index, mtu);
            if let Some(room) = self.burst.room(shared, &target, padded, now) {
                split.write(index, room);
            }
        }
        if count > 1 {
            self.burst.flush(shared, now);
        }
    }

    fn to_service(shared: &Shared, split: &Split<'_>) -> Result<(), Counter> {
        for index in 0..split.count() {
            if !shared.events.send_packet(Event::ServicePacket(segment(split, index))) {
                return Err(Counter::EventQueueFull);
            }
        }
        Ok(())
    }
}

fn segment(split: &Split<'_>, index: usize) -> Vec<u8> {
    let mut packet = vec![0; split.len(index)];
    split.write(index, &mut packet);
    packet
}

/// The outbound thread: until the device stops.
pub(crate) fn run(shared: &Shared, stop: &OwnedFd) {
    match &shared.io {
        PacketIo::Tun(tun) => run_tun(shared, tun, stop),
        PacketIo::Channel(end) => {
            let Some(mut packets) = end.take_outbound() else { return };
            let mut outbound = Outbound::new(Burst::small());
            while let Some(packet) = packets.blocking_recv() {
                if shared.is_stopping.load(Ordering::Relaxed) {
                    return;
                }
                let now = clock::mono();
                if !packet.is_empty() {
                    outbound.on_packet(shared, Vnet::Complete, &packet, now);
                }
                if packets.is_empty() {
                    outbound.flush(shared, now);
                }
            }
        }
    }
}

fn run_tun(shared: &Shared, tun: &Tun, stop: &OwnedFd) {
    let mut outbound = Outbound::new(Burst::large());
    let mut buffer = vec![0; READ_LEN];
    let header_len = shared.io.header_len();
    let mut mtu_read_at = Instant::ZERO;
    while !shared.is_stopping.load(Ordering::Relaxed) {
        let read = read_tun(tun, &mut buffer);
        let now = clock::mono();
        match read {
            Ok(Some(len)) => {
                let Some((header, packet)) = buffer[..len].split_at_checked(header_len) else {
                    shared.counters.add(Counter::OutMalformed, 1);
                    continue;
                };
                let vnet = header.first_chunk().map_or(Vnet::Complete, Vnet::parse);
                outbound.on_packet(shared, vnet, packet, now);
            }
            Ok(None) => {
                outbound.flush(shared, now);
                if now >= mtu_read_at + MTU_INTERVAL {
                    mtu_read_at = now;
                    if let Ok(mtu) = tun.mtu() {
                        shared.mtu.store(mtu as usize, Ordering::Relaxed);
                    }
                }
                wait(tun, stop, None);
            }
            Err(error) if error.raw_os_error() == Some(libc::EBADFD) => {
                if !shared.events.send(Event::TunGone) {
                    shared.counters.add(Counter::EventQueueFull, 1);
                }
                return;
            }
            // EIO while the interface is down: look again in a while.
            Err(_) => wait_for_stop(stop),
        }
    }
}

fn wait(tun: &Tun, stop: &OwnedFd, timeout: Option<&rustix::time::Timespec>) {
    let mut fds = [PollFd::new(tun, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
    // An interrupted wait only means one more look.
    let _ready = poll(&mut fds, timeout);
    // A TUN that is down polls as an error at once: do not spin.
    if fds[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) {
        wait_for_stop(stop);
    }
}

fn wait_for_stop(stop: &OwnedFd) {
    let timeout = rustix::time::Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
    let _ready = poll(&mut [PollFd::new(stop, PollFlags::IN)], Some(&timeout));
}

//! From the wire to the inner side (dataplane.md §2.4).

use crate::capture::CaptureDirection;
use crate::clock;
use crate::demux::{Class, classify};
use crate::event::{DatagramKind, Event};
use crate::extra::SocketNumber;
use crate::filter::Verdict;
use crate::inbox::{Handshake, Note};
use crate::packet::Addresses;
use crate::packet::coalesce::Coalescer;
use crate::shared::Shared;
use crate::slot::{Direction, LiveSession, lock};
use crate::stats::Counter;
use crate::udp::{RECEIVE_LEN, UdpSock};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use sw_proto::geneve;
use sw_types::{Instant, Path, Vni};
use sw_wg::{
    BATCH_MAX, Content, DATA_HEADER_LEN, DATA_OVERHEAD, DataHeader, INITIATION_LEN, Layout, Message,
    RESPONSE_LEN, Source, TAG_LEN,
};

/// The inbound side: one per thread that brings datagrams.
#[derive(Debug)]
pub(crate) struct Inbound {
    coalescer: Coalescer,
    /// Which socket the datagrams come from.
    pub(crate) socket: SocketNumber,
}

/// Data messages of one session in a row, equal in length.
#[derive(Debug)]
struct Run {
    /// Where the first datagram begins.
    start: usize,
    stride: usize,
    count: usize,
    /// Bytes in front of the WireGuard message.
    prefix: usize,
    receiver: u32,
}

impl Run {
    /// Bytes of each padded inner packet.
    fn inner_len(&self) -> usize {
        self.stride - self.prefix - DATA_OVERHEAD
    }

    /// Where inner packet `index` lies.
    fn inner(&self, index: usize) -> Range<usize> {
        let at = self.start + index * self.stride + self.prefix + DATA_HEADER_LEN;
        at..at + self.inner_len()
    }
}

impl Inbound {
    pub(crate) fn new(shared: &Shared) -> Self {
        Self { coalescer: Coalescer::new(shared.io.offload()), socket: SocketNumber::MAIN }
    }

    /// Takes the datagrams in `buffer`, each `segment` bytes but the last.
    pub(crate) fn on_datagrams(
        &mut self,
        shared: &Shared,
        buffer: &mut [u8],
        segment: usize,
        from: Source,
        now: Instant,
    ) {
        let mut at = 0;
        while at < buffer.len() {
            if let Some(len) = self.forward(shared, &buffer[at..], segment, from, now) {
                at += len;
                continue;
            }
            let end = buffer.len().min(at + segment);
            let datagram = &buffer[at..end];
            match classify(datagram) {
                Class::Data { prefix, header, vni } => {
                    let run = find_run(buffer, at..end, prefix, header.receiver);
                    at += run.stride * run.count;
                    self.on_run(shared, buffer, &run, with_vni(from, vni), now);
                    continue;
                }
                Class::Handshake { prefix, vni } => {
                    on_handshake(shared, &datagram[prefix..], with_vni(from, vni));
                }
                Class::Disco => self.tell(shared, from, DatagramKind::Disco, datagram),
                Class::Stun => self.tell(shared, from, DatagramKind::Stun, datagram),
                Class::Geneve => self.tell(shared, from, DatagramKind::Geneve, datagram),
                Class::Runt => shared.counters.add(Counter::InMalformed, 1),
            }
            at = end;
        }
    }

    /// Sends on what belongs to a tunnel of our peer relay; returns how many bytes that were.
    #[inline]
    fn forward(
        &self,
        shared: &Shared,
        buffer: &[u8],
        segment: usize,
        from: Source,
        now: Instant,
    ) -> Option<usize> {
        let Source::Udp(from) = from else { return None };
        let run = shared.forwards.find(buffer, segment, from, now)?;
        let stride = segment.min(run.len);
        shared.sockets.load().send(run.to, &buffer[..run.len], stride, &shared.counters);
        shared.counters.add(Counter::Forwarded, run.count as u64);
        Some(run.len)
    }

    /// Opens the messages of one session and delivers what is genuine and new.
    fn on_run(&mut self, shared: &Shared, buffer: &mut [u8], run: &Run, from: Source, now: Instant) {
        let count = run.count as u64;
        let Some(live) = shared.sessions.get(run.receiver) else {
            shared.counters.add(Counter::InUnknownSession, count);
            if run.prefix > 0 {
                // Perhaps a leg of a peer relay that we serve.
                let bytes = &buffer[run.start..run.start + run.stride * run.count];
                for datagram in bytes.chunks(run.stride) {
                    self.tell(shared, from, DatagramKind::Geneve, datagram);
                }
            }
            return;
        };
        if live.session.is_expired(now) {
            shared.counters.add(Counter::InExpiredSession, count);
            return;
        }
        let fresh = open(shared, buffer, run, &live);
        if fresh == 0 {
            return;
        }
        let has_data = run.inner_len() > 0;
        if has_data {
            for index in 0..run.count {
                if fresh >> index & 1 == 1 {
                    self.deliver(shared, buffer, run.inner(index), &live);
                }
            }
            self.flush(shared, buffer);
        }
        let bytes = u64::from(fresh.count_ones()) * run.stride as u64;
        after_run(shared, &live, from, has_data, bytes, now);
    }

    fn tell(&self, shared: &Shared, from: Source, kind: DatagramKind, datagram: &[u8]) {
        let (Source::Udp(from) | Source::PeerRelay { via: from, .. }) = from else {
            // Disco over a relay is the relay client's own to read.
            shared.counters.add(Counter::InMalformed, 1);
            return;
        };
        let event = Event::NonWireGuard { socket: self.socket, from, kind, bytes: datagram.to_vec() };
        if !shared.events.send_packet(event) {
            shared.counters.add(Counter::EventQueueFull, 1);
        }
    }

    /// Delivers one decrypted packet: to the open superpacket, or as the begin of a new one.
    fn deliver(&mut self, shared: &Shared, buffer: &mut [u8], range: Range<usize>, live: &LiveSession) {
        let Some(addresses) = Addresses::parse(&buffer[range.clone()]) else {
            shared.counters.add(Counter::InNotIp, 1);
            return;
        };
        let range = range.start..range.start + addresses.len;
        shared.capture.take(CaptureDirection::FromPeer, &buffer[range.clone()]);
        let candidate = self.coalescer.candidate(buffer, range.clone());
        // What joins has the addresses and ports of a packet that passed everything below.
        if self.coalescer.try_join(buffer, &candidate) {
            return;
        }
        let packet = &buffer[range.clone()];
        if !shared.routes.is_owner(addresses.src, &live.slot) {
            shared.counters.add(Counter::InForeignSource, 1);
            return;
        }
        let owns = |address| shared.routes.is_owner(address, &live.slot);
        let own = shared.own.load();
        let is_refused = shared.filter.load().inbound(&live.slot.key, packet, &owns) == Verdict::Drop;
        if is_refused && !own.opens(packet, &addresses) {
            shared.counters.add(Counter::InFiltered, 1);
            return;
        }
        if own.takes(packet) || shared.local.load().services.contains(&addresses.dst) {
            if !shared.events.send_packet(Event::ServicePacket(packet.to_vec())) {
                shared.counters.add(Counter::EventQueueFull, 1);
            }
            return;
        }
        self.flush(shared, buffer);
        self.coalescer.start(buffer, candidate);
    }

    fn flush(&mut self, shared: &Shared, buffer: &mut [u8]) {
        if self.coalescer.is_empty() {
            return;
        }
        self.coalescer.flush(buffer, &mut |slices| {
            if !shared.io.write(slices) {
                shared.counters.add(Counter::TunWriteFailed, 1);
            }
        });
    }
}

/// Extends the data message in `first` by the equal ones of the same session behind it.
fn find_run(buffer: &[u8], first: Range<usize>, prefix: usize, receiver: u32) -> Run {
    let stride = first.len();
    // Geneve header, type and receiver index.
    let same = prefix + 8;
    let head = &buffer[first.start..first.start + same];
    let count = buffer[first.start..]
        .chunks_exact(stride)
        .take(BATCH_MAX)
        .take_while(|datagram| datagram[..same] == *head)
        .count();
    Run { start: first.start, stride, count, prefix, receiver }
}

/// Opens a run; bit `i` of the answer: message `i` is genuine and new.
fn open(shared: &Shared, buffer: &mut [u8], run: &Run, live: &LiveSession) -> u64 {
    let mut counters = [0; BATCH_MAX];
    for (index, counter) in counters[..run.count].iter_mut().enumerate() {
        let at = run.start + index * run.stride + run.prefix;
        *counter = DataHeader::parse(&buffer[at..at + DATA_OVERHEAD]).map_or(0, |h| h.counter);
    }
    let start = run.inner(0).start;
    let payloads = &mut buffer[start..run.inner(run.count - 1).end + TAG_LEN];
    let layout = Layout::new(payloads, run.stride, run.inner_len(), run.count);
    let genuine = shared.cipher.open(&live.session.receive, payloads, layout, &counters[..run.count]);
    let mut fresh = 0;
    {
        let mut window = lock(&live.window);
        for (index, counter) in counters[..run.count].iter().enumerate() {
            let is_fresh = genuine >> index & 1 == 1 && window.accept(*counter);
            fresh |= u64::from(is_fresh) << index;
        }
    }
    let (genuine, fresh_count) = (genuine.count_ones() as usize, fresh.count_ones() as usize);
    if fresh_count < run.count {
        shared.counters.add(Counter::InForged, (run.count - genuine) as u64);
        shared.counters.add(Counter::InReplayed, (genuine - fresh_count) as u64);
    }
    fresh
}

/// What authenticated messages mean for timers, the session and the peer's path.
fn after_run(
    shared: &Shared,
    live: &Arc<LiveSession>,
    from: Source,
    has_data: bool,
    bytes: u64,
    now: Instant,
) {
    let (slot, session) = (&live.slot, &live.session);
    if session.confirm() {
        shared.note(Note::Confirmed(session.local_index));
    }
    let content = if has_data { Content::Data } else { Content::Keepalive };
    if slot.live().activity.note_received(content, bytes, now) {
        shared.note(Note::Activity(slot.key));
    }
    if session.should_rekey_on_receive(now) {
        shared.want_session(slot);
    }
    let path = path_of(&from);
    slot.live().packets.add(Direction::In, &path, 1);
    if slot.path() != Some(path) {
        heard(shared, live, from, path);
    }
}

#[cold]
fn heard(shared: &Shared, live: &LiveSession, from: Source, path: Path) {
    if live.slot.roams() {
        live.slot.set_path(Some(path));
    } else if live.slot.live().hear(from) {
        let event = Event::FirstPacketFrom { peer: live.slot.key, source: from };
        if !shared.events.send(event) {
            shared.counters.add(Counter::EventQueueFull, 1);
        }
    }
}

/// The way back to where something came from.
pub(crate) fn path_of(from: &Source) -> Path {
    match from {
        Source::Udp(addr) => Path::Direct(*addr),
        Source::PeerRelay { via, vni } => Path::PeerRelay { addr: *via, vni: *vni },
        Source::Derp { region, .. } => Path::Derp(*region),
    }
}

fn with_vni(from: Source, vni: Option<Vni>) -> Source {
    match (from, vni) {
        (Source::Udp(via), Some(vni)) => Source::PeerRelay { via, vni },
        (from, _) => from,
    }
}

fn on_handshake(shared: &Shared, message: &[u8], from: Source) {
    let counter = match Message::parse(message) {
        Some(Message::Initiation(_) | Message::Response(_)) => {
            debug_assert!([INITIATION_LEN, RESPONSE_LEN].contains(&message.len()));
            let is_right = shared.mac_check.load().as_ref().is_some_and(|check| check.is_right(message));
            (!is_right).then_some(Counter::InWrongMac)
        }
        Some(Message::CookieReply(_)) => None,
        Some(Message::Data(_)) | None => Some(Counter::InMalformed),
    };
    if let Some(counter) = counter {
        shared.counters.add(counter, 1);
    } else if !shared.inbox.handshake(Handshake { from, bytes: message.to_vec() }) {
        shared.counters.add(Counter::InHandshakeQueueFull, 1);
    }
}

/// The inbound thread of one socket: until the socket is shut down.
pub(crate) fn run(shared: &Shared, socket: &UdpSock) {
    let mut inbound = Inbound::new(shared);
    let mut buffer = vec![0; RECEIVE_LEN];
    while let Some(received) = socket.receive(&mut buffer) {
        let from = canonical(received.from);
        inbound.on_datagrams(
            shared,
            &mut buffer[..received.len],
            received.segment,
            Source::Udp(from),
            clock::mono(),
        );
    }
}

/// Without flow label and with a scope only where it means something, so that addresses compare.
pub(crate) fn canonical(from: SocketAddr) -> SocketAddr {
    match from {
        SocketAddr::V6(mut v6) if v6.ip().segments()[0] & 0xffc0 != 0xfe80 => {
            v6.set_scope_id(0);
            v6.into()
        }
        SocketAddr::V4(_) | SocketAddr::V6(_) => from,
    }
}

const _: () = assert!(geneve::HEADER_LEN == 8);

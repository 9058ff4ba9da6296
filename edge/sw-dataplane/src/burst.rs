//! Packets of one session and path on their way out: gathered, sealed in one call, sent in one call.

use crate::inbox::Note;
use crate::shared::{Shared, geneve_header};
use crate::slot::LiveSession;
use std::sync::Arc;
use sw_proto::geneve;
use sw_types::{Instant, Path};
use sw_wg::{BATCH_MAX, Content, DATA_HEADER_LEN, DATA_OVERHEAD, DataHeader, Layout, TAG_LEN};

/// Room for one superpacket with the overhead of its segments, or one packet of the largest MTU.
const LARGE: usize = 128 << 10;
/// Room for a few packets; grows for larger ones.
const SMALL: usize = 8 << 10;

/// Where packets go.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) session: Arc<LiveSession>,
    pub(crate) path: Path,
}

impl Target {
    fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.session, &other.session) && self.path == other.path
    }

    /// Bytes in front of the WireGuard message.
    fn prefix_len(&self) -> usize {
        match self.path {
            Path::PeerRelay { .. } => geneve::HEADER_LEN,
            Path::Direct(_) | Path::Derp(_) => 0,
        }
    }
}

/// Datagrams in the making: every one `stride` bytes but the last, which may be shorter.
#[derive(Debug)]
pub(crate) struct Burst {
    buffer: Vec<u8>,
    target: Option<Target>,
    stride: usize,
    count: usize,
    /// Bytes used in the buffer.
    used: usize,
    /// Whether any packet is more than a keepalive.
    has_data: bool,
}

impl Burst {
    pub(crate) fn large() -> Self {
        Self::with_room(LARGE)
    }

    pub(crate) fn small() -> Self {
        Self::with_room(SMALL)
    }

    fn with_room(room: usize) -> Self {
        Self { buffer: vec![0; room], target: None, stride: 0, count: 0, used: 0, has_data: false }
    }

    /// Gives the place for the next inner packet, of `padded` bytes, all of which must be written. What does not
    /// fit with the packets gathered so far sends those first.
    pub(crate) fn room(
        &mut self,
        shared: &Shared,
        target: &Target,
        padded: usize,
        now: Instant,
    ) -> Option<&mut [u8]> {
        let prefix = target.prefix_len();
        let len = prefix + padded + DATA_OVERHEAD;
        if !self.takes(target, len) {
            self.flush(shared, now);
            if len > self.buffer.len() {
                self.buffer.resize(len, 0);
            }
            self.target = Some(target.clone());
            self.stride = len;
        }
        let at = self.used + prefix + DATA_HEADER_LEN;
        self.used += len;
        self.count += 1;
        self.has_data |= padded > 0;
        self.buffer.get_mut(at..at + padded)
    }

    fn takes(&self, target: &Target, len: usize) -> bool {
        let is_last_full = self.used == self.count * self.stride;
        self.target.as_ref().is_some_and(|own| own.is_same(target))
            && self.count > 0
            && self.count < BATCH_MAX
            && is_last_full
            && len <= self.stride
            && self.used + len <= self.buffer.len()
    }

    /// Seals and sends what was gathered.
    pub(crate) fn flush(&mut self, shared: &Shared, now: Instant) {
        let Some(target) = self.target.take() else { return };
        if self.count > 0 {
            self.seal_and_send(shared, &target, now);
        }
        (self.count, self.used, self.has_data) = (0, 0, false);
    }

    fn seal_and_send(&mut self, shared: &Shared, target: &Target, now: Instant) {
        let LiveSession { session, slot, .. } = &*target.session;
        let Some(taken) = session.take_counters(self.count as u64, now) else {
            self.put_back(shared, target);
            return;
        };
        let mut counters = [0; BATCH_MAX];
        for (cell, counter) in counters.iter_mut().zip(taken) {
            *cell = counter;
        }
        let prefix = target.prefix_len();
        self.write_headers(target, prefix, &counters);

        let inner = self.stride - prefix - DATA_OVERHEAD;
        let full = self.used / self.stride;
        let bytes = &mut self.buffer[..self.used];
        let payloads = &mut bytes[prefix + DATA_HEADER_LEN..];
        let layout = Layout::new(payloads, self.stride, inner, full);
        shared.cipher.seal(&session.send, payloads, layout, &counters[..full]);
        if full < self.count {
            session.send.seal(counters[full], &mut payloads[full * self.stride..]);
        }
        shared.send_datagrams(slot, &target.path, bytes, self.stride);
        self.tell(shared, target, now);
    }

    fn write_headers(&mut self, target: &Target, prefix: usize, counters: &[u64]) {
        let receiver = target.session.session.remote_index;
        let geneve = match target.path {
            Path::PeerRelay { vni, .. } => Some(geneve_header(vni)),
            Path::Direct(_) | Path::Derp(_) => None,
        };
        for (datagram, counter) in self.buffer[..self.used].chunks_mut(self.stride).zip(counters) {
            if let Some(header) = geneve {
                datagram[..prefix].copy_from_slice(&header);
            }
            if let Some(header) = datagram[prefix..].first_chunk_mut() {
                DataHeader { receiver, counter: *counter }.write(header);
            }
        }
    }

    /// Leaves the notes that timers and path keeping live on.
    fn tell(&self, shared: &Shared, target: &Target, now: Instant) {
        let LiveSession { session, slot, .. } = &*target.session;
        let content = if self.has_data { Content::Data } else { Content::Keepalive };
        let live = slot.live();
        if live.activity.note_sent(content, self.used as u64, now) {
            shared.note(Note::Activity(slot.key));
        }
        if session.should_rekey_on_send(now) {
            shared.want_session(slot);
        }
        if self.has_data {
            shared.tell_active(slot, now);
        }
    }

    /// The session ended under our hands: its packets wait for the next one.
    fn put_back(&self, shared: &Shared, target: &Target) {
        let slot = &target.session.slot;
        let start = target.prefix_len() + DATA_HEADER_LEN;
        for datagram in self.buffer[..self.used].chunks(self.stride) {
            let packet = datagram.get(start..datagram.len() - TAG_LEN).unwrap_or_default();
            if !packet.is_empty() {
                shared.stage(slot, packet.to_vec());
            }
        }
        shared.want_session(slot);
    }
}

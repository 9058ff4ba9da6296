//! Ordered streams: relay connections and control sessions.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use sw_path::{PeerInfo, RelayState, Source};
use sw_relay_core::QueueLimits;
use sw_types::{Instant, NodeKey, RegionId};

use super::{Event, World};
use crate::control::Update;
use crate::defect::Defect;
use crate::host::{Conn, WAITING_MAX};
use crate::invariant::{RELAY_QUEUE_MAX, Violation};

/// Pause before a relay or control is dialled again.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_millis(900));
/// Control gathers changes for this long before it tells them, and longer with many machines, as `sw-tailnet` does.
const MERGE_MIN: Duration = Duration::from_millis(20);
const MERGE_PER_STREAM: Duration = Duration::from_micros(50);
/// A relay notices a broken connection within this.
const RELAY_FORGETS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(40));
/// A relay's socket takes what the last link carries in this time.
const SOCKET: Duration = Duration::from_millis(100);
/// Headers of a frame with its share of TLS, TCP and IP.
const FRAME_HEADERS: usize = 100;
/// One way to the control server beyond the machine's own link.
const CONTROL_WAY: Duration = Duration::from_millis(20);
/// A change that could not be stored is told again after this long.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);

impl World {
    /// One way to a relay as a stream: both links and the core.
    pub(crate) fn relay_delay(&mut self, host: usize, region: RegionId) -> Duration {
        let Some(relay) = self.relays.iter().find(|r| r.region == region).map(|r| r.station) else {
            return Duration::ZERO;
        };
        let Some(station) = self.hosts.get(host).map(|h| h.station) else { return Duration::ZERO };
        let relay_way = self.net.station(relay).down.spec.latency;
        let own_way = self.net.station(station).up.stream_delay(&mut self.rng);
        own_way + relay_way + Duration::from_millis(2)
    }

    /// Begins to connect unless a connection is there or on its way.
    pub(crate) fn connect_relay(&mut self, host: usize, region: RegionId) {
        let Some(h) = self.hosts.get_mut(host) else { return };
        if h.relays.contains_key(&region) {
            return;
        }
        h.token += 1;
        let epoch = h.token;
        h.relays.insert(region, Conn { epoch, is_up: false, waiting: VecDeque::new() });
        // TCP, TLS and the relay's own login: two round trips and a half.
        let wait = self.relay_delay(host, region) * 5;
        self.queue.push(self.now + wait, Event::RelayOpens { host, region, epoch });
    }

    pub(super) fn relay_opens(&mut self, host: usize, region: RegionId, epoch: u64) {
        let Some(index) = self.relays.iter().position(|r| r.region == region) else { return };
        let alive = self.relays.get(index).is_some_and(|r| r.is_alive);
        let Some(h) = self.hosts.get_mut(host) else { return };
        let (key, is_home, awake) = (h.key, h.home == Some(region), h.is_awake);
        let Some(conn) = h.relays.get_mut(&region).filter(|c| c.epoch == epoch) else { return };
        if !alive || !awake {
            h.relays.remove(&region);
            if awake {
                self.relay_state(host, region, RelayState::Down);
            }
            if awake && is_home {
                let wait = self.rng.duration(RETRY.0, RETRY.1);
                self.queue.push(self.now + wait, Event::RelayRetry { host, region });
            }
            return;
        }
        conn.is_up = true;
        let waiting = std::mem::take(&mut conn.waiting);
        if let Some(relay) = self.relays.get_mut(index) {
            relay.on_connect(key, host, epoch);
        }
        self.relay_state(host, region, RelayState::Connected);
        for (to, bytes) in waiting {
            self.send_frame(host, region, to, bytes);
        }
    }

    pub(super) fn relay_retry(&mut self, host: usize, region: RegionId) {
        if self.hosts.get(host).is_some_and(|h| h.is_awake && h.home == Some(region)) {
            self.connect_relay(host, region);
        }
    }

    /// Sends a frame, opening the connection if need be.
    pub(crate) fn send_frame(&mut self, host: usize, region: RegionId, to: NodeKey, bytes: Vec<u8>) {
        self.connect_relay(host, region);
        let Some(conn) = self.hosts.get_mut(host).and_then(|h| h.relays.get_mut(&region)) else { return };
        if !conn.is_up {
            if conn.waiting.len() >= WAITING_MAX {
                conn.waiting.pop_front();
            }
            conn.waiting.push_back((to, bytes));
            return;
        }
        let epoch = conn.epoch;
        self.figures.frames += 1;
        let at = self.now + self.relay_delay(host, region);
        let at = self.in_order(host, region, true, at);
        self.queue.push(at, Event::AtRelay { host, region, epoch, to, bytes });
    }

    pub(super) fn at_relay(
        &mut self,
        host: usize,
        region: RegionId,
        epoch: u64,
        to: NodeKey,
        bytes: Vec<u8>,
    ) {
        let Some(from) = self.hosts.get(host).map(|h| h.key) else { return };
        let Some(relay) = self.relays.iter_mut().find(|r| r.region == region && r.is_alive) else { return };
        let Some((receiver, epoch)) = relay.route(host, epoch, to) else { return };
        let boundless =
            QueueLimits { data_bytes: usize::MAX, data_packets: u32::MAX, disco_packets: u32::MAX };
        let hoards = self.defect == Some(Defect::HoardsFrames);
        let limits = if hoards { boundless } else { QueueLimits::default() };
        let queued = relay.enqueue((receiver, epoch), from, &bytes, limits);
        self.figures.relay_dropped += u64::from(queued.dropped);
        if queued.waiting_bytes > RELAY_QUEUE_MAX {
            let (what, size) = ("bytes before a connection of a relay", queued.waiting_bytes);
            self.violate(Violation::Swollen { what, size });
        }
        if queued.begins {
            self.relay_writes(receiver, region, epoch);
        }
    }

    /// A relay writes to a connection what its socket takes now; the rest waits in the queue of `sw-relay-core`.
    pub(super) fn relay_writes(&mut self, host: usize, region: RegionId, epoch: u64) {
        let Some(station) = self.hosts.get(host).map(|h| h.station) else { return };
        loop {
            let backlog = self.net.station(station).down.backlog(self.now);
            let Some(relay) = self.relays.iter_mut().find(|r| r.region == region) else { return };
            if backlog > SOCKET {
                if relay.waits((host, epoch)) {
                    let at = self.now + (backlog - SOCKET / 2);
                    self.queue.push(at, Event::RelayWrites { host, region, epoch });
                }
                return;
            }
            let frames = relay.take_frames((host, epoch));
            if frames.is_empty() {
                return;
            }
            for (from, bytes) in frames {
                let down = &mut self.net.station_mut(station).down;
                let sent = down.send_stream(self.now, bytes.len() + FRAME_HEADERS);
                let at = sent + self.relay_delay(host, region);
                let at = self.in_order(host, region, false, at);
                self.queue.push(at, Event::FromRelay { host, region, epoch, from, bytes });
            }
        }
    }

    pub(super) fn frame_at(
        &mut self,
        host: usize,
        region: RegionId,
        epoch: u64,
        from: NodeKey,
        bytes: &[u8],
    ) {
        self.trace.number(self.now.as_nanos());
        self.trace.number((host as u64) << 32 | bytes.len() as u64);
        let now = self.now_at(host);
        let Some(h) = self.hosts.get_mut(host).filter(|h| h.is_awake) else { return };
        if h.relays.get(&region).is_none_or(|c| c.epoch != epoch) {
            return;
        }
        let source = Source::Relay { region, from };
        if !h.engine.on_datagram(source, bytes, now) && self.defect != Some(Defect::LosesFrames) {
            self.data_at(host, source, bytes);
        }
        self.pump(host);
    }

    /// A relay notices that a connection is broken.
    pub(super) fn relay_forgets(&mut self, host: usize, region: RegionId, epoch: u64) {
        if let Some(relay) = self.relays.iter_mut().find(|r| r.region == region) {
            relay.on_disconnect(host, epoch);
        }
    }

    /// Keeps the frames of one connection in order although delays vary.
    fn in_order(&mut self, host: usize, region: RegionId, up: bool, at: Instant) -> Instant {
        let Some(relay) = self.relays.iter_mut().find(|r| r.region == region) else { return at };
        let last = relay.last.entry((host, up)).or_insert(at);
        *last = at.max(*last);
        *last
    }

    /// All connections of a machine break.
    pub(crate) fn drop_streams(&mut self, host: usize) {
        let Some(h) = self.hosts.get_mut(host) else { return };
        let lost = std::mem::take(&mut h.relays);
        let session = h.control_epoch;
        h.control_epoch += 1;
        h.control_up = false;
        for (region, Conn { epoch, .. }) in lost {
            let wait = self.rng.duration(RELAY_FORGETS.0, RELAY_FORGETS.1);
            self.queue.push(self.now + wait, Event::RelayForgets { host, region, epoch });
        }
        self.control.disconnect(host);
        self.abandon_streams(host, session);
    }

    /// Dials the home relay and control again after a change of network.
    pub(crate) fn redial(&mut self, host: usize) {
        if let Some(home) = self.hosts.get(host).and_then(|h| h.home) {
            self.connect_relay(host, home);
        }
        if self.server.is_some() {
            self.resume_session(host);
        } else {
            self.connect_control(host);
        }
    }

    pub(super) fn control_delay(&mut self, host: usize) -> Duration {
        let Some(station) = self.hosts.get(host).map(|h| h.station) else { return CONTROL_WAY };
        self.net.station(station).up.stream_delay(&mut self.rng) + CONTROL_WAY
    }

    pub(crate) fn connect_control(&mut self, host: usize) {
        let wait = self.control_delay(host) * 4;
        let Some(h) = self.hosts.get_mut(host) else { return };
        h.control_epoch += 1;
        let epoch = h.control_epoch;
        self.queue.push(self.now + wait, Event::ControlOpens { host, epoch });
    }

    pub(super) fn control_opens(&mut self, host: usize, epoch: u64) {
        let Some(h) = self.hosts.get_mut(host).filter(|h| h.is_awake && h.control_epoch == epoch) else {
            return;
        };
        if !self.control_is_up {
            let wait = self.rng.duration(RETRY.0, RETRY.1);
            self.queue.push(self.now + wait, Event::ControlOpens { host, epoch });
            return;
        }
        h.control_up = true;
        let info = Box::new(h.info());
        self.control.connect(host);
        self.queue.push(self.now, Event::AtControl { host, epoch, info });
        self.flush_soon();
    }

    /// Tells control what changed on a machine.
    pub(crate) fn report_to_control(&mut self, host: usize) {
        if self.server.is_some() || !self.hosts.get(host).is_some_and(|h| h.control_up) {
            return;
        }
        let delay = self.control_delay(host);
        let Some(h) = self.hosts.get_mut(host) else { return };
        // A stream keeps its order.
        h.last_said = h.last_said.max(self.now + delay);
        let (at, epoch, info) = (h.last_said, h.control_epoch, Box::new(h.info()));
        self.queue.push(at, Event::AtControl { host, epoch, info });
    }

    pub(super) fn at_control(&mut self, host: usize, epoch: u64, info: PeerInfo) {
        let current = self.hosts.get(host).is_some_and(|h| h.control_epoch == epoch);
        if !self.control_is_up || !current {
            return;
        }
        match self.control.on_update(host, info) {
            Ok(true) => self.flush_soon(),
            Ok(false) => {}
            Err(_) => {
                let at = self.now + self.control_delay(host) + REFUSED_PAUSE;
                self.queue.push(at, Event::Refused { host, epoch });
            }
        }
    }

    pub(super) fn refused(&mut self, host: usize, epoch: u64) {
        if self.hosts.get(host).is_some_and(|h| h.control_epoch == epoch) {
            self.report_to_control(host);
        }
    }

    pub(super) fn flush_soon(&mut self) {
        if !std::mem::replace(&mut self.flush_is_due, true) {
            let pause = MERGE_MIN + MERGE_PER_STREAM * self.hosts.len() as u32;
            self.queue.push(self.now + pause, Event::Flush);
        }
    }

    pub(super) fn flush(&mut self) {
        self.flush_is_due = false;
        for (host, update) in self.control.flush() {
            let delay = self.control_delay(host);
            let Some(h) = self.hosts.get_mut(host) else { continue };
            h.last_told = h.last_told.max(self.now + delay);
            let (at, epoch) = (h.last_told, h.control_epoch);
            self.queue.push(at, Event::FromControl { host, epoch, update });
        }
    }

    pub(super) fn update_at(&mut self, host: usize, epoch: u64, update: Update) {
        let Some(h) = self.hosts.get(host).filter(|h| h.is_awake && h.control_epoch == epoch) else {
            return;
        };
        let (mut changed, removed) = match update {
            Update::Full(peers) => {
                let told: BTreeSet<usize> = peers.iter().map(|(peer, _)| *peer).collect();
                let gone = (0..h.netmap.len()).filter(|peer| h.knows(*peer) && !told.contains(peer));
                let gone = gone.collect();
                (peers, gone)
            }
            Update::Delta { changed, removed } => (changed, removed),
        };
        if self.defect == Some(Defect::LosesDelta) && host == 0 {
            changed = changed.split_last().map(|(_, rest)| rest.into()).unwrap_or_default();
        }
        for (peer, info) in changed.iter().filter(|(peer, _)| *peer != host) {
            self.peer_at(host, *peer, Arc::clone(info));
        }
        for peer in removed {
            self.peer_gone_at(host, peer);
        }
        self.pump(host);
    }

    /// A machine hears of a peer, or something new of it.
    pub(super) fn peer_at(&mut self, host: usize, peer: usize, info: Arc<PeerInfo>) {
        let now = self.now_at(host);
        if !self.acked.is_empty() {
            self.acked.remove(&(host, peer));
        }
        let Some(h) = self.hosts.get_mut(host) else { return };
        h.know(peer, Some(Arc::clone(&info)));
        h.engine.on_peer(info, now);
    }

    /// A machine hears that it may not talk with a peer any more.
    pub(super) fn peer_gone_at(&mut self, host: usize, peer: usize) {
        self.acked.insert((host, peer), self.now);
        let keeps = self.defect == Some(Defect::KeepsRevoked);
        let Some(key) = self.hosts.get(peer).map(|h| h.key) else { return };
        let Some(h) = self.hosts.get_mut(host).filter(|_| !keeps) else { return };
        h.know(peer, None);
        h.set_route(peer, None);
        h.engine.on_peer_removed(&key);
    }
}

//! Frames of a client: routed, answered, refused.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sw_proto::derp::{
    ClientFrame, FrameHeader, FrameType, HEADER_LEN, looks_like_disco, rewrite_send_to_recv,
};
use sw_relay_core::{Chunk, Kind};
use sw_types::NodeKey;
use tokio::time::Instant;

use super::{Client, End};
use crate::hub::{Target, not_here};
use crate::outbox::Outbox;

/// Remembered ways; beyond this all are forgotten and found again.
const ROUTES_MAX: usize = 1024;

/// Frames for one receiver, in a row at the front of the read buffer.
struct Run {
    to: NodeKey,
    kind: Kind,
    len: usize,
    packets: u32,
}

/// A home change counts only on a connection older than this (derp.md §7).
const HOME_MOVE_AGE: Duration = Duration::from_secs(5);

impl Client {
    /// Takes all whole frames off the input.
    pub(super) fn on_input(&mut self) -> Result<(), End> {
        let mut run: Option<Run> = None;
        let result = self.frames(&mut run);
        self.flush(&mut run);
        result
    }

    fn frames(&mut self, run: &mut Option<Run>) -> Result<(), End> {
        self.needed = HEADER_LEN;
        loop {
            let at = run.as_ref().map_or(0, |run| run.len);
            let input = self.pump.input();
            let Some(header) = input.get(at..).and_then(FrameHeader::read) else { return Ok(()) };
            header.check_from_client().map_err(End::BadFrame)?;
            let len = HEADER_LEN + header.len as usize;
            let Some(frame) = input.get_mut(at..at + len) else {
                self.needed = len;
                return Ok(());
            };
            if header.kind == FrameType::SendPacket {
                let (to, kind) = read_send(frame);
                rewrite_send_to_recv(frame, &self.key);
                self.tally.packets_received += 1;
                self.tally.packets_received_disco += u64::from(kind == Kind::Disco);
                self.tally.bytes_received += len as u64;
                match run {
                    Some(run) if run.to == to && run.kind == kind => {
                        run.len += len;
                        run.packets += 1;
                    }
                    _ => {
                        self.flush(run);
                        *run = Some(Run { to, kind, len, packets: 1 });
                    }
                }
            } else {
                self.flush(run);
                let frame = self.pump.input().split_to(len).freeze();
                self.on_frame(header.kind, &frame)?;
            }
            if self.is_over_rate(len) {
                return Ok(());
            }
        }
    }

    /// Charges a frame; when the rate is used up, nothing more is read for a while (derp.md §8).
    fn is_over_rate(&mut self, len: usize) -> bool {
        if self.rate_epoch != self.hub.rate_epoch() {
            self.take_rate();
        }
        let Some(rate) = &mut self.rate else { return false };
        let Some(wait) = rate.charge(len as u64, self.hub.now()) else { return false };
        self.throttled_until = Some(Instant::now() + wait);
        self.tally.rate_limit_waited += 1;
        true
    }

    /// Hands the run at the front of the read buffer to its receiver.
    fn flush(&mut self, run: &mut Option<Run>) {
        let Some(Run { to, kind, len, packets }) = run.take() else { return };
        let backing = self.pump.input().len();
        let bytes = self.pump.input().split_to(len).freeze();
        let Some(target) = self.target(to) else { return self.on_unknown(to, kind, packets, len) };
        match target {
            Target::Local(outbox) => {
                let dropped = outbox.push(
                    kind,
                    Chunk { bytes, packets },
                    backing,
                    self.hub.config.queue,
                    &self.hub.queued_bytes,
                );
                self.tally.queue_drops(kind, dropped);
            }
            Target::Forward { link, .. } => {
                self.tally.packets_forwarded_out += u64::from(packets);
                let mut rest = bytes;
                while let Some(header) = FrameHeader::read(&rest) {
                    let frame = rest.split_to((HEADER_LEN + header.len as usize).min(rest.len()));
                    link.forward(self.key, to, frame.get(HEADER_LEN + 32..).unwrap_or_default());
                }
            }
        }
    }

    /// The way to a key: remembered, or asked for.
    fn target(&mut self, to: NodeKey) -> Option<Target> {
        let known = self.routes.get(&to).filter(|target| match target {
            Target::Local(outbox) => outbox.is_active(),
            Target::Forward { epoch, .. } => *epoch == self.hub.mesh_epoch(),
        });
        if let Some(target) = known {
            return Some(target.clone());
        }
        let target = self.hub.route(self.conn, to);
        if self.routes.len() >= ROUTES_MAX {
            self.routes.clear();
        }
        match &target {
            Some(target) => drop(self.routes.insert(to, target.clone())),
            None => drop(self.routes.remove(&to)),
        }
        target
    }

    /// The receiver is nowhere: told to the sender of disco alone, and not often (derp.md §7.2).
    fn on_unknown(&mut self, to: NodeKey, kind: Kind, packets: u32, len: usize) {
        match kind {
            Kind::Disco => {
                self.tally.dropped_unknown_dest_disco += u64::from(packets);
                self.tally.bytes_dropped_unknown_dest_disco += len as u64;
                self.tell_not_here(to);
            }
            Kind::Data => {
                self.tally.dropped_unknown_dest_other += u64::from(packets);
                self.tally.bytes_dropped_unknown_dest_other += len as u64;
            }
        }
    }

    fn tell_not_here(&mut self, peer: NodeKey) {
        if self.not_here.take(1, self.hub.now()) {
            self.tally.peer_gone_not_here_frames += 1;
            self.push_own(not_here(peer));
        }
    }

    fn on_frame(&mut self, kind: FrameType, frame: &Bytes) -> Result<(), End> {
        let body = frame.get(HEADER_LEN..).unwrap_or_default();
        match ClientFrame::parse(kind, body).map_err(End::BadFrame)? {
            ClientFrame::ForwardPacket { from, to, .. } => {
                self.require_mesh()?;
                self.on_forwarded(from, to, frame);
            }
            ClientFrame::NotePreferred(is_home) => {
                if self.hub.on_preferred(self.conn, is_home) && self.since.elapsed() > HOME_MOVE_AGE {
                    let moves =
                        if is_home { &mut self.tally.home_moves_in } else { &mut self.tally.home_moves_out };
                    *moves += 1;
                }
            }
            ClientFrame::WatchConns => {
                self.require_mesh()?;
                self.hub.on_watch(self.conn);
            }
            ClientFrame::ClosePeer(key) => {
                self.require_mesh()?;
                self.hub.close_key(key);
            }
            ClientFrame::Ping(data) => {
                // One slot: a ping while a pong waits is dropped (derp.md §7).
                self.tally.got_ping += 1;
                self.pong.get_or_insert(data);
            }
            ClientFrame::Pong(_) => {}
            ClientFrame::Other(FrameType::Unknown(_)) => self.tally.unknown_frames += 1,
            ClientFrame::SendPacket { .. } | ClientFrame::ClientInfo(_) | ClientFrame::Other(_) => {}
        }
        Ok(())
    }

    fn require_mesh(&self) -> Result<(), End> {
        if self.is_mesh { Ok(()) } else { Err(End::NotMesh) }
    }

    /// A packet from another relay: to a client here, never on (derp.md §10).
    fn on_forwarded(&mut self, from: NodeKey, to: NodeKey, frame: &Bytes) {
        self.tally.packets_forwarded_in += 1;
        self.tally.packets_received += 1;
        self.tally.bytes_received += frame.len() as u64;
        let packet = frame.get(HEADER_LEN + 64..).unwrap_or_default();
        let kind = if looks_like_disco(packet) { Kind::Disco } else { Kind::Data };
        let Some(outbox) = self.forward_target(from, to) else {
            let (packets, bytes) = match kind {
                Kind::Disco => (
                    &mut self.tally.dropped_unknown_dest_on_fwd_disco,
                    &mut self.tally.bytes_dropped_unknown_dest_on_fwd_disco,
                ),
                Kind::Data => (
                    &mut self.tally.dropped_unknown_dest_on_fwd_other,
                    &mut self.tally.bytes_dropped_unknown_dest_on_fwd_other,
                ),
            };
            *packets += 1;
            *bytes += frame.len() as u64;
            return self.tell_not_here(to);
        };
        let header = FrameHeader { kind: FrameType::RecvPacket, len: (32 + packet.len()) as u32 };
        let bytes = [&header.encode()[..], from.as_bytes(), packet].concat().into();
        let chunk = Chunk { bytes, packets: 1 };
        let dropped = outbox.push(kind, chunk, 0, self.hub.config.queue, &self.hub.queued_bytes);
        self.tally.queue_drops(kind, dropped);
    }

    /// The registry notes who received from whom, so a remembered way holds for one sender only.
    fn forward_target(&mut self, from: NodeKey, to: NodeKey) -> Option<Arc<Outbox>> {
        self.hub.route_forwarded(from, to)
    }
}

fn read_send(frame: &[u8]) -> (NodeKey, Kind) {
    let (key, packet) = frame
        .get(HEADER_LEN..)
        .and_then(<[u8]>::split_first_chunk::<32>)
        .expect("the length of the frame was checked");
    (NodeKey::from_bytes(*key), if looks_like_disco(packet) { Kind::Disco } else { Kind::Data })
}

//! The task of one region: keeps a connection while it is wanted, and moves frames both ways.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use sw_proto::derp::{ClientFrame, FrameError, FrameHeader, HEADER_LEN, ServerFrame, ServerInfo};
use sw_types::RegionId;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::debug;

use super::connect::{Connection, DerpStream, Upgrade, connect, random};
use super::queue::Shared;
use super::{
    CHECK_LIMIT, ConnectError, DerpConfig, DerpEvent, IDLE_LIMIT, PONG_LIMIT, QUIET_LIMIT, Received,
};
use crate::pump::Pump;

/// Longest pause between attempts (derp.md §7).
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Longest wait that a restarting relay may ask for.
const RESTART_WAIT_MAX: Duration = Duration::from_secs(60);

/// Bytes handed to the stream before more packets are taken from the queue: what is here can no longer be dropped.
const IN_FLIGHT_MAX: usize = 64 << 10;

type Events = mpsc::Sender<(RegionId, DerpEvent)>;
type Gone = mpsc::Receiver<std::convert::Infallible>;

/// Why a connection ended.
#[derive(Debug)]
enum End {
    /// Nobody holds a handle any more.
    Dropped,
    /// Idle and not home.
    Idle,
    /// It is to be opened again at once.
    Reconnect,
    /// It failed; the relay may have said when to come back.
    Failed { why: String, not_before: Duration },
}

pub(super) async fn run(config: DerpConfig, shared: Arc<Shared>, events: Events, mut gone: Gone) {
    let mut attempts = Attempts::default();
    loop {
        // Nothing to do until a packet comes or the region becomes home.
        while !shared.wants_connection() {
            tokio::select! {
                () = shared.woken() => {}
                _ = gone.recv() => return,
            }
        }
        let connected = tokio::select! {
            result = connect(&config, attempts.upgrade) => result,
            _ = gone.recv() => return,
        };
        let end = match connected {
            Ok(connection) => {
                let since = Instant::now();
                let end = serve(&config, &shared, &events, &mut gone, connection).await;
                attempts.connected_for(since.elapsed());
                end
            }
            Err(error) => {
                attempts.failed(&error);
                End::Failed { why: error.to_string(), not_before: Duration::ZERO }
            }
        };
        shared.set_connected(false);
        let pause = match end {
            End::Dropped => return,
            End::Reconnect => Duration::ZERO,
            End::Idle => {
                let event = DerpEvent::Disconnected { why: "idle".to_owned(), retry_in: None };
                drop(events.send((config.region.id, event)).await);
                continue;
            }
            End::Failed { why, not_before } => {
                let pause = attempts.pause().max(not_before);
                shared.forget_unless_home();
                debug!(region = config.region.id.0, %why, ?pause, "relay connection lost");
                let event = DerpEvent::Disconnected { why, retry_in: Some(pause) };
                drop(events.send((config.region.id, event)).await);
                pause
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = gone.recv() => return,
        }
    }
}

/// Counts attempts; says how to try next and when.
#[derive(Debug)]
struct Attempts {
    failures: u32,
    upgrade: Upgrade,
}

impl Default for Attempts {
    fn default() -> Self {
        Self { failures: 0, upgrade: Upgrade::Derp }
    }
}

impl Attempts {
    fn failed(&mut self, error: &ConnectError) {
        // A middlebox that does not pass `Upgrade: DERP` may pass a WebSocket; try both in turn. One that only cuts the
        // connection looks like a relay that restarts, so then not before the third attempt.
        let is_refused = matches!(error, ConnectError::Http(_));
        let is_cut = matches!(error, ConnectError::Io(_) | ConnectError::Login(_) | ConnectError::TimedOut);
        self.upgrade = match self.upgrade {
            Upgrade::Derp if is_refused || (is_cut && self.failures >= 2) => Upgrade::WebSocket,
            Upgrade::Derp | Upgrade::WebSocket => Upgrade::Derp,
        };
    }

    fn connected_for(&mut self, lived: Duration) {
        if lived > Duration::from_secs(5) {
            self.failures = 0;
        }
    }

    /// Grows with the square of the failures up to 5 s, with jitter (derp.md §7).
    fn pause(&mut self) -> Duration {
        self.failures += 1;
        let steps = self.failures.min(20);
        let full = (Duration::from_millis(150) * steps * steps.div_ceil(2)).min(BACKOFF_MAX);
        let [jitter] = random::<1>().unwrap_or([128]);
        full.mul_f64(0.5 + f64::from(jitter) / 255.0).min(BACKOFF_MAX)
    }
}

/// One connection from login to end.
async fn serve(
    config: &DerpConfig,
    shared: &Shared,
    events: &Events,
    gone: &mut Gone,
    connection: Connection,
) -> End {
    let region = config.region.id;
    let mut link = Link::new(connection.stream, &connection.already_read, connection.info, config.watch);
    if config.watch {
        link.push(&ClientFrame::WatchConns);
    }
    shared.set_connected(true);
    shared.frame_heard();
    if events.send((region, DerpEvent::Connected { relay: connection.relay })).await.is_err() {
        return End::Dropped;
    }
    loop {
        if let Some(end) = link.obey(shared) {
            return end;
        }
        let deadline = link.next_deadline();
        let step = tokio::select! {
            step = link.step(shared) => step,
            () = shared.woken() => continue,
            () = tokio::time::sleep_until(deadline) => match link.on_deadline() {
                Some(end) => return end,
                None => continue,
            },
            _ = gone.recv() => return End::Dropped,
        };
        let heard = match step {
            Ok(heard) => heard,
            Err(why) => return End::Failed { why, not_before: link.not_before },
        };
        for event in heard {
            if events.send((region, event)).await.is_err() {
                return End::Dropped;
            }
        }
    }
}

/// What is known of a live connection.
struct Link {
    pump: Pump<Box<dyn DerpStream>>,
    told_home: bool,
    is_kept: bool,
    is_home: bool,
    last_heard: Instant,
    last_sent: Instant,
    /// A ping is out, and the connection is dead when no frame came by then.
    dead_at: Option<Instant>,
    not_before: Duration,
    rate: Rate,
}

impl Link {
    fn new(stream: Box<dyn DerpStream>, already_read: &[u8], info: ServerInfo, is_kept: bool) -> Self {
        let now = Instant::now();
        Self {
            pump: Pump::new(stream, already_read),
            told_home: false,
            is_kept,
            is_home: false,
            last_heard: now,
            last_sent: now,
            dead_at: None,
            not_before: Duration::ZERO,
            rate: Rate::new(info, now),
        }
    }

    fn push(&mut self, frame: &ClientFrame<'_>) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        self.pump.push(bytes.into());
    }

    /// Does what the handle asked for.
    fn obey(&mut self, shared: &Shared) -> Option<End> {
        let wishes = shared.take_wishes();
        if wishes.reconnect {
            return Some(End::Reconnect);
        }
        self.is_home = wishes.is_home;
        if self.is_home != self.told_home {
            self.told_home = self.is_home;
            self.push(&ClientFrame::NotePreferred(self.is_home));
        }
        if wishes.check {
            self.ping(CHECK_LIMIT);
        }
        None
    }

    fn ping(&mut self, limit: Duration) {
        let deadline = Instant::now() + limit;
        self.dead_at = Some(self.dead_at.map_or(deadline, |at| at.min(deadline)));
        self.push(&ClientFrame::Ping(random().unwrap_or_default()));
    }

    fn next_deadline(&self) -> Instant {
        let idle = if self.is_home || self.is_kept { None } else { Some(self.last_sent + IDLE_LIMIT) };
        let quiet = self.dead_at.unwrap_or(self.last_heard + QUIET_LIMIT);
        idle.map_or(quiet, |idle| idle.min(quiet))
    }

    fn on_deadline(&mut self) -> Option<End> {
        let now = Instant::now();
        if self.dead_at.is_some_and(|at| now >= at) {
            return Some(End::Failed { why: "no answer to a ping".to_owned(), not_before: Duration::ZERO });
        }
        if !self.is_home && !self.is_kept && now >= self.last_sent + IDLE_LIMIT {
            return Some(End::Idle);
        }
        if self.dead_at.is_none() && now >= self.last_heard + QUIET_LIMIT {
            self.ping(PONG_LIMIT);
        }
        None
    }

    /// Writes what is queued and reads what is there; completes when frames came. Cancel safe: all state is in `self`.
    async fn step(&mut self, shared: &Shared) -> Result<Vec<DerpEvent>, String> {
        let mut frames = Vec::new();
        poll_fn(|cx| {
            loop {
                if self.pump.queued() < IN_FLIGHT_MAX {
                    self.take_frames(shared, &mut frames);
                }
                let before = self.pump.queued();
                match self.pump.poll_drain(cx) {
                    Poll::Ready(Ok(())) if before == 0 => break,
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error.to_string())),
                    Poll::Pending => break,
                }
            }
            let mut events = Vec::new();
            let mut needed = match self.parse(&mut events) {
                Ok(needed) => needed,
                Err(error) => return Poll::Ready(Err(error.to_string())),
            };
            while events.is_empty() {
                match self.pump.poll_fill(cx, needed) {
                    Poll::Ready(Ok(0)) => {
                        return Poll::Ready(Err("the relay closed the connection".to_owned()));
                    }
                    Poll::Ready(Ok(_)) => {
                        self.last_heard = Instant::now();
                        self.dead_at = None;
                        shared.frame_heard();
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error.to_string())),
                    Poll::Pending => return Poll::Pending,
                }
                needed = match self.parse(&mut events) {
                    Ok(needed) => needed,
                    Err(error) => return Poll::Ready(Err(error.to_string())),
                };
                // Answers to pings go out before the task sleeps.
                if let Poll::Ready(Err(error)) = self.pump.poll_drain(cx) {
                    return Poll::Ready(Err(error.to_string()));
                }
            }
            Poll::Ready(Ok(events))
        })
        .await
    }

    fn take_frames(&mut self, shared: &Shared, frames: &mut Vec<Bytes>) {
        if shared.take_frames(frames) == 0 {
            return;
        }
        let now = Instant::now();
        self.last_sent = now;
        let mut dropped = 0;
        for frame in frames.drain(..) {
            if self.rate.allows(frame.len(), now) {
                self.pump.push(frame);
            } else {
                dropped += 1;
            }
        }
        if dropped > 0 {
            shared.count_dropped(dropped);
        }
    }

    /// Takes all whole frames off the input; gives the length of the frame that is not whole.
    fn parse(&mut self, events: &mut Vec<DerpEvent>) -> Result<usize, FrameError> {
        let mut packets = Vec::new();
        while let Some(header) = FrameHeader::read(self.pump.input()) {
            header.check_from_server()?;
            let len = HEADER_LEN + header.len as usize;
            if self.pump.input().len() < len {
                flush(&mut packets, events);
                return Ok(len);
            }
            let frame = self.pump.input().split_to(len).freeze();
            let body = frame.slice(HEADER_LEN..);
            match ServerFrame::parse(header.kind, &body)? {
                ServerFrame::RecvPacket { from, packet } => {
                    packets.push(Received { from, packet: body.slice_ref(packet) });
                }
                ServerFrame::PeerGone { key, reason } => {
                    flush(&mut packets, events);
                    events.push(DerpEvent::PeerGone { peer: key, reason });
                }
                ServerFrame::PeerPresent(present) => events.push(DerpEvent::PeerPresent(present)),
                ServerFrame::Ping(data) => self.push(&ClientFrame::Pong(data)),
                ServerFrame::Health(text) => {
                    let text = String::from_utf8_lossy(text.get(..text.len().min(512)).unwrap_or_default());
                    events.push(DerpEvent::Health((!text.is_empty()).then(|| text.into_owned())));
                }
                ServerFrame::Restarting { reconnect_in, .. } => {
                    self.not_before = reconnect_in.min(RESTART_WAIT_MAX);
                }
                ServerFrame::ForwardPacket { .. }
                | ServerFrame::ServerKey(_)
                | ServerFrame::ServerInfo(_)
                | ServerFrame::KeepAlive
                | ServerFrame::Pong(_)
                | ServerFrame::Other(_) => {}
            }
        }
        flush(&mut packets, events);
        Ok(HEADER_LEN)
    }
}

fn flush(packets: &mut Vec<Received>, events: &mut Vec<DerpEvent>) {
    if !packets.is_empty() {
        events.push(DerpEvent::Packets(std::mem::take(packets)));
    }
}

/// The rate that a relay asked its clients to keep (derp.md §6): packets over it are dropped here.
struct Rate {
    per_second: f64,
    burst: f64,
    tokens: f64,
    at: Instant,
}

impl Rate {
    fn new(info: ServerInfo, now: Instant) -> Self {
        let burst = info.bytes_burst.max(65_568) as f64;
        Self { per_second: info.bytes_per_second as f64, burst, tokens: burst, at: now }
    }

    fn allows(&mut self, len: usize, now: Instant) -> bool {
        if self.per_second == 0.0 {
            return true;
        }
        self.tokens = (self.tokens + self.per_second * (now - self.at).as_secs_f64()).min(self.burst);
        self.at = now;
        let cost = len as f64;
        let is_allowed = self.tokens >= cost;
        if is_allowed {
            self.tokens -= cost;
        }
        is_allowed
    }
}

//! One connection after its login: a single task that reads, routes and writes.
//!
//! A packet is not copied on its way: the frame is rewritten in the read buffer from "send to" into "received from",
//! and the receiver's queue gets a share of that buffer. Frames in a row for the same receiver travel as one piece.

mod input;

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use sw_net::derp_client::DerpStream;
use sw_net::pump::Pump;
use sw_proto::derp::{FrameError, ServerFrame};
use sw_relay_core::{ConnId, TokenBucket};
use sw_types::NodeKey;
use tokio::time::{Instant, Sleep};

use crate::counters::{Counters, Tally};
use crate::hub::{Hub, Target, encode};
use crate::outbox::{Fate, Outbox};

/// KeepAlive comes each 60 s and up to 5 s more (derp.md §7).
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Bytes handed to the stream before more is taken from the queue: what is here can no longer be dropped.
const IN_FLIGHT_MAX: usize = 64 << 10;

/// Reads per turn of the task: more would fill a receiver's queue before its task gets a turn.
const READS_PER_TURN: usize = 2;

/// Mesh members may take nothing for longer (derp.md §7.1).
const MESH_WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// PeerGone(NotHere) per second and at once (derp.md §7.2).
const NOT_HERE_RATE: (u64, u64) = (1, 3);

/// Largest burst that a rate may have to allow: one packet with its frame (derp.md §8).
const BURST_MIN: u64 = 65_568;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum End {
    #[error("the client went")]
    Left,
    #[error("it was told to go")]
    Closed,
    #[error("it sent what cannot be: {0}")]
    BadFrame(FrameError),
    #[error("it asked for what only mesh members may")]
    NotMesh,
    #[error("it took nothing for too long")]
    WriteTimeout,
    #[error("its connection broke: {0}")]
    Io(std::io::Error),
}

/// A client that is logged in.
pub(crate) struct Client {
    hub: Arc<Hub>,
    conn: ConnId,
    outbox: Arc<Outbox>,
    key: NodeKey,
    is_mesh: bool,
    pump: Pump<Box<dyn DerpStream>>,
    /// Length of the frame of which a part is there.
    needed: usize,
    routes: HashMap<NodeKey, Target>,
    tally: Tally,
    since: Instant,
    pong: Option<[u8; 8]>,
    not_here: TokenBucket,
    rate: Option<TokenBucket>,
    rate_epoch: u64,
    /// Reading is off until then: the client is over its rate.
    throttled_until: Option<Instant>,
    keepalive_every: Duration,
    keepalive_at: Instant,
    /// The client takes nothing since then.
    stalled_since: Option<Instant>,
    timer: Pin<Box<Sleep>>,
}

impl Client {
    pub(crate) fn new(
        hub: Arc<Hub>,
        (conn, outbox): (ConnId, Arc<Outbox>),
        key: NodeKey,
        is_mesh: bool,
        pump: Pump<Box<dyn DerpStream>>,
    ) -> Self {
        let jitter = u64::from(key.as_bytes()[0]) * 5000 / 256;
        let keepalive_every = KEEPALIVE + Duration::from_millis(jitter);
        let keepalive_at = Instant::now() + keepalive_every;
        let now = hub.now();
        let mut client = Self {
            hub,
            conn,
            outbox,
            key,
            is_mesh,
            pump,
            needed: 0,
            routes: HashMap::new(),
            tally: Tally::default(),
            since: Instant::now(),
            pong: None,
            not_here: TokenBucket::new(NOT_HERE_RATE.0, NOT_HERE_RATE.1, now),
            rate: None,
            rate_epoch: 0,
            throttled_until: None,
            keepalive_every,
            keepalive_at,
            stalled_since: None,
            timer: Box::pin(tokio::time::sleep_until(keepalive_at)),
        };
        client.take_rate();
        client
    }

    /// Takes over how fast clients may send; mesh members are not limited.
    fn take_rate(&mut self) {
        self.rate_epoch = self.hub.rate_epoch();
        let (limit, now) = (self.hub.rate().filter(|_| !self.is_mesh), self.hub.now());
        self.rate =
            limit.map(|rate| TokenBucket::new(rate.bytes_per_second, rate.burst_bytes.max(BURST_MIN), now));
    }

    /// Runs to the end of the connection, and takes it out of the registry.
    pub(crate) async fn run(mut self) -> End {
        // What came behind the login.
        let end = match self.on_input() {
            Ok(()) => poll_fn(|cx| self.poll(cx)).await,
            Err(end) => end,
        };
        self.hub.counters.add(&mut self.tally);
        match &end {
            End::Left | End::Closed => {}
            End::BadFrame(_) | End::NotMesh => Counters::one(&self.hub.counters.bad_frames),
            End::WriteTimeout => Counters::one(&self.hub.counters.sclient_write_timeouts),
            End::Io(_) => Counters::one(&self.hub.counters.connection_errors),
        }
        self.hub.disconnect(self.conn);
        end
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let result = self.turn(cx);
        self.hub.counters.add(&mut self.tally);
        match result {
            Ok(Poll::Ready(end)) | Err(end) => Poll::Ready(end),
            Ok(Poll::Pending) => Poll::Pending,
        }
    }

    /// One turn: write what waits, read what is there, see to the timer.
    fn turn(&mut self, cx: &mut Context<'_>) -> Result<Poll<End>, End> {
        for _ in 0..READS_PER_TURN {
            if let Poll::Ready(end) = self.write(cx)? {
                return Ok(Poll::Ready(end));
            }
            if !self.read(cx)? {
                if self.on_timer(cx)? {
                    continue;
                }
                return Ok(Poll::Pending);
            }
        }
        let written = self.write(cx)?;
        if written.is_pending() {
            // There may be more to read: take another turn behind the others.
            cx.waker().wake_by_ref();
        }
        Ok(written)
    }

    /// Moves the queue to the stream as far as it goes.
    fn write(&mut self, cx: &mut Context<'_>) -> Result<Poll<End>, End> {
        loop {
            let mut packets = 0;
            let mut fate = Fate::Open;
            let before = self.pump.queued();
            if before < IN_FLIGHT_MAX {
                if let Some(data) = self.pong.take() {
                    self.pump.push(encode(&ServerFrame::Pong(data)));
                    self.tally.sent_pong += 1;
                }
                let (hub, pump) = (&self.hub, &mut self.pump);
                (packets, fate) =
                    self.outbox.take(cx, IN_FLIGHT_MAX - before, &hub.queued_bytes, |bytes| pump.push(bytes));
                self.tally.packets_sent += u64::from(packets);
                self.tally.bytes_sent += (self.pump.queued() - before) as u64;
            }
            if fate == Fate::Closed {
                return Ok(Poll::Ready(End::Closed));
            }
            let queued = self.pump.queued();
            match self.pump.poll_drain(cx) {
                Poll::Ready(Ok(())) => {
                    self.stalled_since = None;
                    if queued == 0 {
                        // Nothing was left to write.
                        let is_over = fate == Fate::Draining && packets == 0;
                        return if is_over { self.finish(cx) } else { Ok(Poll::Pending) };
                    }
                }
                Poll::Ready(Err(error)) => return Err(End::Io(error)),
                Poll::Pending => {
                    if self.stalled_since.is_none() || self.pump.queued() < queued {
                        self.stalled_since = Some(Instant::now());
                    }
                    return Ok(Poll::Pending);
                }
            }
        }
    }

    fn finish(&mut self, cx: &mut Context<'_>) -> Result<Poll<End>, End> {
        match self.pump.poll_shutdown(cx) {
            Poll::Ready(Ok(())) => Ok(Poll::Ready(End::Closed)),
            Poll::Ready(Err(error)) => Err(End::Io(error)),
            Poll::Pending => Ok(Poll::Pending),
        }
    }

    /// Reads once; false when there is nothing, or nothing may be read now.
    fn read(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        if let Some(until) = self.throttled_until {
            if Instant::now() < until {
                return Ok(false);
            }
            self.throttled_until = None;
            self.on_input()?;
            if self.throttled_until.is_some() {
                return Ok(false);
            }
        }
        match self.pump.poll_fill(cx, self.needed) {
            Poll::Ready(Ok(0)) => Err(End::Left),
            Poll::Ready(Ok(_)) => {
                if self.outbox.is_shared() && !self.outbox.is_active() {
                    self.hub.on_activity(self.conn);
                }
                self.on_input()?;
                Ok(true)
            }
            Poll::Ready(Err(error)) => Err(End::Io(error)),
            Poll::Pending => Ok(false),
        }
    }

    /// Arms the timer for whatever comes next; true when something was due.
    fn on_timer(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let limit = if self.is_mesh { MESH_WRITE_TIMEOUT } else { self.hub.config.write_timeout };
        let stalled = self.stalled_since.filter(|_| !limit.is_zero()).map(|since| since + limit);
        let due = [stalled, self.throttled_until].into_iter().flatten().fold(self.keepalive_at, Instant::min);
        // A deadline that moved back needs no new timer: it fires early and nothing is due.
        if due < self.timer.deadline() || self.timer.is_elapsed() {
            self.timer.as_mut().reset(due);
        }
        if self.timer.as_mut().poll(cx).is_pending() {
            return Ok(false);
        }
        let now = Instant::now();
        if stalled.is_some_and(|at| now >= at) {
            return Err(End::WriteTimeout);
        }
        if now >= self.keepalive_at {
            self.keepalive_at = now + self.keepalive_every;
            self.push_own(encode(&ServerFrame::KeepAlive));
        }
        Ok(true)
    }

    /// Queues a frame for this client itself, unless it is far behind.
    fn push_own(&mut self, frame: Bytes) {
        if self.pump.queued() < IN_FLIGHT_MAX {
            self.pump.push(frame);
        }
    }
}

//! A link between a station and its network: delay, loss, order, width.

use std::time::Duration;

use sw_types::{Instant, Rng};

/// What a link does to packets, each way alike.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinkSpec {
    /// One way, without queueing.
    pub latency: Duration,
    /// Added at random, from zero to this.
    pub jitter: Duration,
    /// Fraction of packets lost.
    pub loss: f64,
    /// Fraction of packets that overtake or fall behind by up to 20 ms.
    pub reorder: f64,
    /// Fraction of packets that arrive twice.
    pub duplicate: f64,
    /// Largest IP packet in bytes; larger ones vanish.
    pub mtu: u16,
    /// Bits per second; `None` is as wide as the packets need.
    pub bandwidth_bps: Option<u64>,
}

impl Default for LinkSpec {
    fn default() -> Self {
        Self {
            latency: Duration::from_millis(5),
            jitter: Duration::ZERO,
            loss: 0.0,
            reorder: 0.0,
            duplicate: 0.0,
            mtu: 1500,
            bandwidth_bps: None,
        }
    }
}

/// A queue longer than this drops what comes.
const QUEUE_MAX: Duration = Duration::from_millis(500);

/// One direction of a link.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) spec: LinkSpec,
    busy_until: Instant,
}

impl Link {
    pub(crate) fn new(spec: LinkSpec) -> Self {
        Self { spec, busy_until: Instant::ZERO }
    }

    /// Sends a packet of `len` bytes at `at`; returns when it arrives, twice
    /// for a duplicate, never for a loss.
    pub(crate) fn transmit(&mut self, at: Instant, len: usize, rng: &mut Rng) -> [Option<Instant>; 2] {
        let spec = self.spec;
        if len > usize::from(spec.mtu) || (spec.loss > 0.0 && rng.chance(spec.loss)) {
            return [None, None];
        }
        let mut sent = at;
        if let Some(bps) = spec.bandwidth_bps {
            let start = self.busy_until.max(at);
            if start.saturating_since(at) > QUEUE_MAX {
                return [None, None];
            }
            sent = start + Duration::from_nanos(len as u64 * 8 * 1_000_000_000 / bps.max(1));
            self.busy_until = sent;
        }
        let mut delay = spec.latency;
        if !spec.jitter.is_zero() {
            delay += rng.duration(Duration::ZERO, spec.jitter);
        }
        if spec.reorder > 0.0 && rng.chance(spec.reorder) {
            delay += rng.duration(Duration::ZERO, Duration::from_millis(20));
        }
        let twice = spec.duplicate > 0.0 && rng.chance(spec.duplicate);
        [Some(sent + delay), twice.then(|| sent + delay + Duration::from_millis(1))]
    }

    /// How long what was given to the link takes to be sent.
    pub(crate) fn backlog(&self, now: Instant) -> Duration {
        self.busy_until.saturating_since(now)
    }

    /// Sends `len` bytes of a stream, after what waits; returns when the last of them is sent.
    pub(crate) fn send_stream(&mut self, now: Instant, len: usize) -> Instant {
        let Some(bps) = self.spec.bandwidth_bps else { return now };
        let start = self.busy_until.max(now);
        self.busy_until = start + Duration::from_nanos(len as u64 * 8 * 1_000_000_000 / bps.max(1));
        self.busy_until
    }

    /// Delay of an ordered stream over this link: losses become waiting.
    pub(crate) fn stream_delay(&self, rng: &mut Rng) -> Duration {
        let spec = self.spec;
        let mut delay = spec.latency;
        if !spec.jitter.is_zero() {
            delay += rng.duration(Duration::ZERO, spec.jitter);
        }
        if spec.loss > 0.0 && rng.chance(spec.loss) {
            delay += spec.latency * 2 + Duration::from_millis(50);
        }
        delay
    }
}

//! What the data threads tell the state machine, as a few atomics per peer.
//!
//! The timers of the WireGuard paper §6 depend on when data last moved. The threads that move it only store times;
//! the machine looks at them when one of its deadlines comes. A thread has to wake the machine only when nobody is
//! going to look (`note_*` then return true): at most once per peer and deadline.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use sw_types::Instant;

/// Times and bytes of one peer. Times are nanoseconds of [`Instant`]; zero means never.
#[derive(Debug, Default)]
pub struct Activity {
    /// The first data received since anything was last sent: a keepalive is owed.
    unanswered_since: AtomicU64,
    /// The first data sent since anything genuine was last received: the peer may be gone.
    unreplied_since: AtomicU64,
    last_sent: AtomicU64,
    last_received: AtomicU64,
    is_watched: AtomicBool,
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
}

/// Whether a batch carried inner packets or only keepalives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    Data,
    Keepalive,
}

impl Activity {
    /// Notes that messages of `bytes` were sent; true when the machine must be told (`on_activity`).
    #[inline]
    pub fn note_sent(&self, content: Content, bytes: u64, now: Instant) -> bool {
        self.sent_bytes.fetch_add(bytes, Relaxed);
        self.last_sent.store(nanos(now), Relaxed);
        clear(&self.unanswered_since);
        content == Content::Data && self.begin(&self.unreplied_since, now)
    }

    /// Notes that genuine messages of `bytes` were received; true when the machine must be told.
    #[inline]
    pub fn note_received(&self, content: Content, bytes: u64, now: Instant) -> bool {
        self.received_bytes.fetch_add(bytes, Relaxed);
        self.last_received.store(nanos(now), Relaxed);
        clear(&self.unreplied_since);
        content == Content::Data && self.begin(&self.unanswered_since, now)
    }

    #[inline]
    fn begin(&self, since: &AtomicU64, now: Instant) -> bool {
        if since.load(Relaxed) == 0 {
            since.store(nanos(now), Relaxed);
            return !self.is_watched.load(Relaxed) && !self.is_watched.swap(true, Relaxed);
        }
        false
    }

    /// Bytes of all datagrams sent and received, headers and tags included.
    pub fn bytes(&self) -> (u64, u64) {
        (self.sent_bytes.load(Relaxed), self.received_bytes.load(Relaxed))
    }

    /// When anything was last sent to the peer.
    pub fn last_sent(&self) -> Option<Instant> {
        time(&self.last_sent)
    }

    /// When anything genuine last came from the peer.
    pub fn last_received(&self) -> Option<Instant> {
        time(&self.last_received)
    }

    pub(crate) fn unanswered_since(&self) -> Option<Instant> {
        time(&self.unanswered_since)
    }

    pub(crate) fn unreplied_since(&self) -> Option<Instant> {
        time(&self.unreplied_since)
    }

    pub(crate) fn forget_unreplied(&self) {
        clear(&self.unreplied_since);
    }

    pub(crate) fn forget_unanswered(&self) {
        clear(&self.unanswered_since);
    }

    pub(crate) fn set_watched(&self, is_watched: bool) {
        self.is_watched.store(is_watched, Relaxed);
    }
}

fn nanos(now: Instant) -> u64 {
    now.as_nanos().max(1)
}

fn time(cell: &AtomicU64) -> Option<Instant> {
    match cell.load(Relaxed) {
        0 => None,
        nanos => Some(Instant::from_nanos(nanos)),
    }
}

#[inline]
fn clear(cell: &AtomicU64) {
    // A load first: a store would take the cache line from the other thread each time.
    if cell.load(Relaxed) != 0 {
        cell.store(0, Relaxed);
    }
}

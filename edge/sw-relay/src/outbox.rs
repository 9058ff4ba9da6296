//! What waits for one connection. Senders push, the connection's own task takes; the lock is never held over IO.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

use bytes::Bytes;
use sw_relay_core::{Chunk, Dropped, Kind, QueueLimits, SendQueue};

/// Bytes of control frames (peer gone, mesh news) that may wait; a mesh member that is behind further is closed and
/// gets the whole state anew, a client loses the news.
const CONTROL_BYTES_MAX: usize = 1 << 20;

/// Queued bytes of all connections above which each gets less room.
const PRESSURE_BYTES: usize = 256 << 20;

/// Whether the connection's task is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Goes on.
    Open,
    /// Ends when everything queued is written.
    Draining,
    /// Ends at once.
    Closed,
}

#[derive(Debug)]
struct State {
    queue: SendQueue,
    control: VecDeque<Bytes>,
    control_bytes: usize,
    waker: Option<Waker>,
    fate: Fate,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Outbox {
    state: Mutex<State>,
    /// This connection gets its key's packets. Remembered routes to it hold for as long as this is true.
    is_active: AtomicBool,
    /// Others have the same key.
    is_shared: AtomicBool,
}

impl Outbox {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                queue: SendQueue::new(),
                control: VecDeque::new(),
                control_bytes: 0,
                waker: None,
                fate: Fate::Open,
            }),
            is_active: AtomicBool::new(true),
            is_shared: AtomicBool::new(false),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_active(&self) -> bool {
        self.is_active.load(Ordering::Acquire)
    }

    pub(crate) fn set_active(&self, is_active: bool) {
        self.is_active.store(is_active, Ordering::Release);
    }

    pub(crate) fn is_shared(&self) -> bool {
        self.is_shared.load(Ordering::Relaxed)
    }

    pub(crate) fn set_shared(&self, is_shared: bool) {
        self.is_shared.store(is_shared, Ordering::Relaxed);
    }

    /// Queues packets. `backing` is the size of the buffer that the chunk would keep alive: when the receiver is
    /// behind, small pieces of large buffers are copied, so that what it costs in memory is what is counted.
    pub(crate) fn push(
        &self,
        kind: Kind,
        mut chunk: Chunk,
        backing: usize,
        limits: QueueLimits,
        in_all: &AtomicUsize,
    ) -> Dropped {
        let len = chunk.bytes.len();
        let pressed = in_all.load(Ordering::Relaxed) > PRESSURE_BYTES;
        let limits = if pressed { limits.pressed() } else { limits };
        let mut state = self.state();
        if !state.queue.is_empty() && len.saturating_mul(4) < backing {
            chunk.bytes = Bytes::copy_from_slice(&chunk.bytes);
        }
        let dropped = state.queue.push(kind, chunk, limits);
        let waker = state.waker.take();
        drop(state);
        in_all.fetch_add(len, Ordering::Relaxed);
        in_all.fetch_sub(dropped.head_bytes + dropped.tail_bytes, Ordering::Relaxed);
        if let Some(waker) = waker {
            waker.wake();
        }
        dropped
    }

    /// Queues a control frame; false when there is no room.
    pub(crate) fn push_control(&self, frame: Bytes) -> bool {
        let mut state = self.state();
        if state.control_bytes + frame.len() > CONTROL_BYTES_MAX {
            return false;
        }
        state.control_bytes += frame.len();
        state.control.push_back(frame);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// Ends the connection's task.
    pub(crate) fn end(&self, fate: Fate) {
        let mut state = self.state();
        if state.fate != Fate::Closed {
            state.fate = fate;
        }
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Takes about `budget` bytes and asks to be woken when more comes; gives packets taken and the fate.
    pub(crate) fn take(
        &self,
        cx: &Context<'_>,
        budget: usize,
        in_all: &AtomicUsize,
        mut to: impl FnMut(Bytes),
    ) -> (u32, Fate) {
        let mut packets = 0;
        let mut state = self.state();
        state.control_bytes = 0;
        for frame in std::mem::take(&mut state.control) {
            to(frame);
        }
        let taken = state.queue.pop_into(budget, |chunk| {
            packets += chunk.packets;
            to(chunk.bytes);
        });
        if state.waker.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            state.waker = Some(cx.waker().clone());
        }
        let fate = state.fate;
        drop(state);
        if taken > 0 {
            in_all.fetch_sub(taken, Ordering::Relaxed);
        }
        (packets, fate)
    }

    /// Packets and bytes that wait, disco first; for the counters when this connection goes.
    pub(crate) fn waiting(&self) -> [(u64, u64); 2] {
        self.state().queue.waiting()
    }
}

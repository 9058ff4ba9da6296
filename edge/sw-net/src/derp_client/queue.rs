//! What the handle and the task share: the send queue and a few flags, behind one short lock.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use sw_proto::derp::{ClientFrame, PACKET_MAX};
use sw_types::NodeKey;
use tokio::sync::Notify;

/// Requests of the handle to the task.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wishes {
    /// The region is home.
    pub(super) is_home: bool,
    /// Check the connection with a ping.
    pub(super) check: bool,
    /// Close it and open it again.
    pub(super) reconnect: bool,
}

#[derive(Debug)]
struct State {
    // INVARIANT: at most `queue_packets` frames.
    queue: VecDeque<Bytes>,
    wishes: Wishes,
    /// Since when there is no connection, while there is none.
    down_since: Option<Instant>,
    last_frame: Option<Instant>,
    dropped: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    wake: Notify,
    queue_packets: usize,
    /// The connection is wanted at all times.
    is_kept: bool,
}

impl Shared {
    pub(super) fn new(queue_packets: usize, is_kept: bool) -> Self {
        let state = State {
            queue: VecDeque::new(),
            wishes: Wishes::default(),
            down_since: Some(Instant::now()),
            last_frame: None,
            dropped: 0,
        };
        Self { state: Mutex::new(state), wake: Notify::new(), queue_packets, is_kept }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn send(&self, to: NodeKey, packet: &[u8]) {
        self.enqueue(packet.len(), &ClientFrame::SendPacket { to, packet });
    }

    pub(super) fn forward(&self, from: NodeKey, to: NodeKey, packet: &[u8]) {
        self.enqueue(packet.len(), &ClientFrame::ForwardPacket { from, to, packet });
    }

    fn enqueue(&self, packet_len: usize, frame: &ClientFrame<'_>) {
        if packet_len > PACKET_MAX {
            self.state().dropped += 1;
            return;
        }
        let mut bytes = Vec::with_capacity(packet_len + 80);
        frame.encode(&mut bytes);
        let mut state = self.state();
        if state.queue.len() >= self.queue_packets {
            state.queue.pop_front();
            state.dropped += 1;
        }
        let was_empty = state.queue.is_empty();
        state.queue.push_back(bytes.into());
        drop(state);
        if was_empty {
            self.wake.notify_one();
        }
    }

    pub(super) fn set_home(&self, is_home: bool) {
        self.state().wishes.is_home = is_home;
        self.wake.notify_one();
    }

    pub(super) fn check(&self) {
        self.state().wishes.check = true;
        self.wake.notify_one();
    }

    pub(super) fn reconnect(&self) {
        self.state().wishes.reconnect = true;
        self.wake.notify_one();
    }

    pub(super) fn is_connected(&self) -> bool {
        self.state().down_since.is_none()
    }

    pub(super) fn down_since(&self) -> Option<Instant> {
        self.state().down_since
    }

    pub(super) fn last_frame(&self) -> Option<Instant> {
        self.state().last_frame
    }

    pub(super) fn dropped(&self) -> u64 {
        self.state().dropped
    }

    /// Waits until the handle has something new.
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Takes the requests; those that happen once are gone then.
    pub(super) fn take_wishes(&self) -> Wishes {
        let mut state = self.state();
        let wishes = state.wishes;
        state.wishes = Wishes { is_home: wishes.is_home, ..Wishes::default() };
        wishes
    }

    /// Whether a connection is wanted at all.
    pub(super) fn wants_connection(&self) -> bool {
        let state = self.state();
        self.is_kept || state.wishes.is_home || !state.queue.is_empty()
    }

    /// Without a connection packets grow stale; those for a region that is not home must not keep it trying for ever.
    pub(super) fn forget_unless_home(&self) {
        let mut state = self.state();
        if !state.wishes.is_home {
            state.dropped += state.queue.len() as u64;
            state.queue.clear();
        }
    }

    /// Moves all queued frames to `out`; gives how many.
    pub(super) fn take_frames(&self, out: &mut Vec<Bytes>) -> usize {
        let mut state = self.state();
        let count = state.queue.len();
        out.extend(state.queue.drain(..));
        count
    }

    /// Counts packets dropped over the relay's rate.
    pub(super) fn count_dropped(&self, count: u64) {
        self.state().dropped += count;
    }

    pub(super) fn set_connected(&self, is_connected: bool) {
        let mut state = self.state();
        if is_connected {
            state.down_since = None;
        } else {
            state.down_since.get_or_insert_with(Instant::now);
        }
    }

    pub(super) fn frame_heard(&self) {
        self.state().last_frame = Some(Instant::now());
    }
}

//! A tap on inner packets for debugging; costs one atomic load per superpacket while it is off.

use crate::slot::lock;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use sw_types::UnixTime;
use tokio::sync::mpsc;

/// Packets that may wait for the reader of a capture; more are left out of it.
const QUEUE_LEN: usize = 1024;

/// One captured inner packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    pub at: UnixTime,
    pub direction: CaptureDirection,
    /// The IP packet: one segment on its way in, the superpacket on its way out.
    pub bytes: Vec<u8>,
}

/// Which way a captured packet went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaptureDirection {
    ToPeer,
    FromPeer,
}

#[derive(Debug, Default)]
pub(crate) struct Capture {
    is_on: AtomicBool,
    sink: Mutex<Option<mpsc::Sender<Captured>>>,
}

impl Capture {
    /// Begins a capture; a former one ends. It ends by itself when the receiver is dropped.
    pub(crate) fn start(&self) -> mpsc::Receiver<Captured> {
        let (sender, receiver) = mpsc::channel(QUEUE_LEN);
        *lock(&self.sink) = Some(sender);
        self.is_on.store(true, Ordering::Relaxed);
        receiver
    }

    #[inline]
    pub(crate) fn take(&self, direction: CaptureDirection, packet: &[u8]) {
        if self.is_on.load(Ordering::Relaxed) {
            self.take_slow(direction, packet);
        }
    }

    #[cold]
    fn take_slow(&self, direction: CaptureDirection, packet: &[u8]) {
        let mut sink = lock(&self.sink);
        let Some(sender) = sink.as_ref() else { return };
        if sender.is_closed() {
            *sink = None;
            self.is_on.store(false, Ordering::Relaxed);
            return;
        }
        let at = crate::clock::now().wall;
        // A slow reader misses packets rather than slowing the network.
        let _is_kept = sender.try_send(Captured { at, direction, bytes: packet.to_vec() });
    }
}

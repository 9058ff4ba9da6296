//! Messages to the state thread.

use crate::slot::lock;
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;
use sw_types::{NodeKey, NodePrivate};
use sw_wg::Source;

/// Handshake messages that may wait; more are dropped.
const HANDSHAKES_MAX: usize = 1024;

/// Something the state machine must hear. Each is bounded by what it is about: a peer's data threads leave one at a
/// time, configuration comes from the owner's calls.
#[derive(Debug)]
pub(crate) enum Note {
    SessionWanted(NodeKey),
    /// A path appeared, or the peer showed that it lives.
    Reachable(NodeKey),
    /// A peer is new while an initiation of a stranger waits.
    PeerAdded,
    Activity(NodeKey),
    Confirmed(u32),
    PeerChanged(NodeKey),
    PeerRemoved(NodeKey),
    PrivateKey(Option<NodePrivate>),
    Stop,
}

/// One handshake datagram.
#[derive(Debug)]
pub(crate) struct Handshake {
    pub(crate) from: Source,
    pub(crate) bytes: Vec<u8>,
}

/// The queue in front of the state thread.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    waiting: Mutex<Waiting>,
    ready: Condvar,
}

/// What is taken from the queue at once.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    pub(crate) notes: Vec<Note>,
    pub(crate) handshakes: VecDeque<Handshake>,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.notes.is_empty() && self.handshakes.is_empty()
    }
}

impl Inbox {
    pub(crate) fn note(&self, note: Note) {
        lock(&self.waiting).notes.push(note);
        self.ready.notify_one();
    }

    /// Queues a handshake message; false when too many wait.
    pub(crate) fn handshake(&self, handshake: Handshake) -> bool {
        let mut waiting = lock(&self.waiting);
        if waiting.handshakes.len() >= HANDSHAKES_MAX {
            return false;
        }
        waiting.handshakes.push_back(handshake);
        drop(waiting);
        self.ready.notify_one();
        true
    }

    /// Waits until something is there or `timeout` is over.
    pub(crate) fn take(&self, timeout: Option<Duration>) -> Waiting {
        let waiting = lock(&self.waiting);
        let mut waiting = match timeout {
            Some(timeout) => {
                self.ready
                    .wait_timeout_while(waiting, timeout, |w| w.is_empty())
                    .unwrap_or_else(PoisonError::into_inner)
                    .0
            }
            None => self.ready.wait_while(waiting, |w| w.is_empty()).unwrap_or_else(PoisonError::into_inner),
        };
        std::mem::take(&mut *waiting)
    }
}

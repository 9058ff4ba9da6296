//! Who listens, what each was sent, and who must be told.
//!
//! A stream keeps what it was sent, never what it missed: a slow one costs a set of ids and a stamp,
//! and later gets one message with the difference.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use sw_tailcfg::{FilterRule, SshPolicy};
use sw_types::{CapVer, Instant, NodeId, Now, UserId};

use crate::bits::{Block, SparseBits, place};
use crate::encode::Part;
use crate::live::{OUTSIDE, Stamp};
use crate::rules::{Class, Compiled};

/// Names one map stream for the driver; never used twice.
pub type StreamId = u64;

/// Why a stream is ended by the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// The machine opened another one.
    Replaced,
    /// The machine was removed; its last message said that its key expired.
    Removed,
}

/// How long changes that need no haste are held back to be merged: this, and more with many streams.
const MERGE_MIN: Duration = Duration::from_millis(20);
/// What each open stream adds to [`MERGE_MIN`].
const MERGE_PER_STREAM: Duration = Duration::from_micros(50);

#[derive(Debug)]
pub(crate) struct Stream {
    pub node: NodeId,
    pub cap: CapVer,
    /// Everything up to this stamp was sent; 0 before the full map.
    pub seen: Stamp,
    /// Peers the client knows. May hold the machine itself, which means nothing.
    pub sent: Arc<SparseBits>,
    /// People the client knows.
    pub users: Arc<BTreeSet<UserId>>,
    pub filter: Option<Arc<[FilterRule]>>,
    pub ssh: Option<Arc<SshPolicy>>,
    /// Routes of router peers as they were sent, ascending by id.
    pub routes: Vec<(NodeId, Vec<IpNet>)>,
    /// Whether the set of visible peers must be compared as a whole.
    pub rediff: bool,
    /// Whether the machine's removal must be told, then the stream ended.
    pub ending: Option<EndReason>,
    /// Whether the driver can take a message.
    ready: bool,
    /// Whether there may be something to tell.
    dirty: bool,
    /// Whether it stands in the queue.
    queued: bool,
}

/// What viewers of one class see. Made when asked for, dropped when anything in it may have changed.
#[derive(Debug)]
pub(crate) struct Audience {
    pub visible: Arc<SparseBits>,
    pub users: Arc<BTreeSet<UserId>>,
    /// The profiles of `users`, as JSON objects separated by commas.
    pub profiles: Vec<u8>,
}

/// Identifies an encoded block of peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BlockKey {
    pub class: Class,
    pub block: Block,
    pub legacy: bool,
    /// Whether the text begins with a comma.
    pub follows: bool,
}

#[derive(Debug)]
pub(crate) struct EncodedBlock {
    pub word: u64,
    pub stamp: Stamp,
    pub rules: Stamp,
    pub part: Arc<Part>,
}

#[derive(Debug, Default)]
pub(crate) struct Streams {
    pub by_id: BTreeMap<StreamId, Stream>,
    of_node: BTreeMap<NodeId, StreamId>,
    class_of: BTreeMap<NodeId, Class>,
    members: BTreeMap<Class, SparseBits>,
    listeners: BTreeMap<Class, BTreeSet<StreamId>>,
    queue: VecDeque<StreamId>,
    held: Vec<StreamId>,
    flush_at: Option<Instant>,
    hold: bool,
    pub audiences: BTreeMap<Class, Arc<Audience>>,
    pub blocks: BTreeMap<BlockKey, EncodedBlock>,
    pub block_stamps: BTreeMap<Block, Stamp>,
    pub user_stamps: BTreeMap<UserId, Stamp>,
    pub users_stamp: Stamp,
    pub settings_stamp: Stamp,
    pub derp_stamp: Stamp,
    pub rules_stamp: Stamp,
}

impl Streams {
    /// Opens a stream; the one that the machine had before is ended.
    pub(crate) fn open(&mut self, id: StreamId, node: NodeId, cap: CapVer) -> Option<StreamId> {
        let replaced = self.of_node.insert(node, id);
        if let Some(old) = replaced {
            self.drop_stream(old);
        }
        let stream = Stream {
            node,
            cap,
            seen: 0,
            sent: Arc::default(),
            users: Arc::default(),
            filter: None,
            ssh: None,
            routes: Vec::new(),
            rediff: true,
            ending: None,
            ready: true,
            dirty: false,
            queued: false,
        };
        self.by_id.insert(id, stream);
        self.of_node.insert(node, id);
        let class = self.class_of.get(&node).copied().unwrap_or(OUTSIDE);
        self.listeners.entry(class).or_default().insert(id);
        self.wake(id);
        replaced
    }

    /// Forgets a stream; returns its machine if it was that machine's present one.
    pub(crate) fn close(&mut self, id: StreamId) -> Option<NodeId> {
        let node = self.by_id.get(&id)?.node;
        self.drop_stream(id);
        (self.of_node.get(&node) == Some(&id)).then(|| {
            self.of_node.remove(&node);
            node
        })
    }

    fn drop_stream(&mut self, id: StreamId) {
        if let Some(stream) = self.by_id.remove(&id) {
            let class = self.class_of.get(&stream.node).copied().unwrap_or(OUTSIDE);
            if let Some(listeners) = self.listeners.get_mut(&class) {
                listeners.remove(&id);
            }
        }
    }

    pub(crate) fn stream_of(&self, node: NodeId) -> Option<StreamId> {
        self.of_node.get(&node).copied()
    }

    pub(crate) fn count(&self) -> usize {
        self.by_id.len()
    }

    /// The driver has written what it was given.
    pub(crate) fn ready(&mut self, id: StreamId) {
        if let Some(stream) = self.by_id.get_mut(&id) {
            stream.ready = true;
            if stream.dirty && !stream.queued {
                stream.queued = true;
                self.queue.push_back(id);
            }
        }
    }

    /// Puts a stream in the queue of those that may have something to hear.
    pub(crate) fn wake(&mut self, id: StreamId) {
        if let Some(stream) = self.by_id.get_mut(&id) {
            stream.dirty = true;
            if stream.ready && !stream.queued {
                stream.queued = true;
                self.queue.push_back(id);
            }
        }
    }

    fn wake_later(&mut self, id: StreamId) {
        if let Some(stream) = self.by_id.get_mut(&id)
            && !stream.dirty
        {
            stream.dirty = true;
            self.held.push(id);
            self.hold = true;
        }
    }

    pub(crate) fn wake_node(&mut self, node: NodeId) {
        if let Some(id) = self.stream_of(node) {
            self.wake(id);
        }
    }

    fn wake_all(&mut self) {
        let all: Vec<StreamId> = self.by_id.keys().copied().collect();
        for id in all {
            self.wake(id);
        }
    }

    fn viewers(&self, rules: &dyn Compiled, class: Class) -> Vec<StreamId> {
        let sees = |viewer: Class| viewer != OUTSIDE && class != OUTSIDE && rules.sees(viewer, class);
        let listening =
            self.listeners.iter().filter(|(viewer, streams)| !streams.is_empty() && sees(**viewer));
        listening.flat_map(|(_, streams)| streams.iter().copied()).collect()
    }

    pub(crate) fn wake_viewers(&mut self, rules: &dyn Compiled, class: Class) {
        for id in self.viewers(rules, class) {
            self.wake(id);
        }
    }

    /// For changes that may wait some milliseconds for others to be merged with.
    pub(crate) fn wake_viewers_soon(&mut self, rules: &dyn Compiled, class: Class) {
        for id in self.viewers(rules, class) {
            self.wake_later(id);
        }
    }

    /// Arms the flush of what is held back.
    pub(crate) fn arm(&mut self, now: Now) {
        if self.hold && self.flush_at.is_none() {
            let streams = u32::try_from(self.by_id.len()).unwrap_or(u32::MAX);
            self.flush_at = Some(now.mono + MERGE_MIN + MERGE_PER_STREAM * streams);
        }
    }

    pub(crate) fn flush_at(&self) -> Option<Instant> {
        self.flush_at
    }

    pub(crate) fn on_deadline(&mut self, now: Now) {
        if self.flush_at.is_some_and(|at| at <= now.mono) {
            self.flush_at = None;
            self.hold = false;
            for id in std::mem::take(&mut self.held) {
                self.wake(id);
            }
        }
    }

    /// The next stream that is ready and may have something to hear.
    pub(crate) fn next(&mut self) -> Option<StreamId> {
        while let Some(id) = self.queue.pop_front() {
            if let Some(stream) = self.by_id.get_mut(&id) {
                stream.queued = false;
                if stream.ready && stream.dirty {
                    stream.dirty = false;
                    return Some(id);
                }
            }
        }
        None
    }

    /// A message goes out: the stream takes no other until [`Self::ready`].
    pub(crate) fn sending(&mut self, id: StreamId) {
        if let Some(stream) = self.by_id.get_mut(&id) {
            stream.ready = false;
        }
    }

    pub(crate) fn class_of(&self, node: NodeId) -> Class {
        self.class_of.get(&node).copied().unwrap_or(OUTSIDE)
    }

    pub(crate) fn move_member(&mut self, node: NodeId, to: Class) {
        let from = self.class_of.insert(node, to);
        if from == Some(to) {
            return;
        }
        if let Some(from) = from
            && let Some(members) = self.members.get_mut(&from)
        {
            members.remove(node);
        }
        self.members.entry(to).or_default().insert(node);
        self.audiences.clear();
        if let Some(id) = self.stream_of(node) {
            if let Some(listeners) = self.listeners.get_mut(&from.unwrap_or(OUTSIDE)) {
                listeners.remove(&id);
            }
            self.listeners.entry(to).or_default().insert(id);
            if let Some(stream) = self.by_id.get_mut(&id) {
                stream.rediff = true;
            }
            self.wake(id);
        }
    }

    /// Takes a removed machine out of what anybody sees. It is kept as one outside while its stream ends, so that it
    /// is put back in its place should its removal be rolled back.
    pub(crate) fn remove_member(&mut self, node: NodeId) {
        self.move_member(node, OUTSIDE);
        if let Some(outside) = self.members.get_mut(&OUTSIDE) {
            outside.remove(node);
        }
        self.audiences.clear();
    }

    /// The machine is gone: its stream is told so and ended.
    pub(crate) fn end_of_node(&mut self, node: NodeId) {
        if let Some(id) = self.stream_of(node) {
            if let Some(stream) = self.by_id.get_mut(&id) {
                stream.ending = Some(EndReason::Removed);
            }
            self.wake(id);
        } else {
            self.class_of.remove(&node);
        }
    }

    /// A removed machine's stream has ended: nothing asks for its class any more.
    pub(crate) fn forget_class(&mut self, node: NodeId) {
        self.class_of.remove(&node);
    }

    /// Machines of all classes that `class` sees; `OUTSIDE` sees nobody.
    pub(crate) fn visible_to(&self, rules: &dyn Compiled, class: Class) -> SparseBits {
        let mut visible = SparseBits::default();
        if class != OUTSIDE {
            for (other, members) in self.members.iter().filter(|(other, _)| **other != OUTSIDE) {
                if rules.sees(class, *other) {
                    visible.union_with(members);
                }
            }
        }
        visible
    }

    pub(crate) fn touch_block(&mut self, node: NodeId, stamp: Stamp) {
        self.block_stamps.insert(place(node).0, stamp);
    }

    pub(crate) fn users_changed(&mut self, user: UserId, stamp: Stamp) {
        self.user_stamps.insert(user, stamp);
        self.users_stamp = stamp;
        self.audiences.clear();
        self.wake_all();
    }

    pub(crate) fn settings_changed(&mut self, stamp: Stamp) {
        self.settings_stamp = stamp;
        self.wake_all();
    }

    pub(crate) fn derp_changed(&mut self, stamp: Stamp) {
        self.derp_stamp = stamp;
        self.wake_all();
    }

    /// The policy gives other answers: everything that depends on it is compared again.
    pub(crate) fn rules_changed(&mut self, stamp: Stamp) {
        self.rules_stamp = stamp;
        self.audiences.clear();
        self.blocks.clear();
        for stream in self.by_id.values_mut() {
            stream.rediff = true;
        }
        self.wake_all();
    }

    /// The oldest stamp that any stream has yet to hear of.
    pub(crate) fn oldest_seen(&self) -> Stamp {
        self.by_id.values().map(|s| s.seen).min().unwrap_or(Stamp::MAX)
    }
}

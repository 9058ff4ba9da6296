//! Who listens, what each was sent, and who must be told.
//!
//! A stream keeps what it was sent, never what it missed: a slow one costs a set of ids and a stamp,
//! and later gets one message with the difference.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use sw_tailcfg::{FilterRule, PingRequest, SshPolicy};
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

/// How long changes for which there is a patch are held back to be merged: this, and more with many streams.
const MERGE_MIN: Duration = Duration::from_millis(20);
/// What each open stream adds to [`MERGE_MIN`].
const MERGE_PER_STREAM: Duration = Duration::from_micros(50);
/// How long streams rest between two messages that bring nothing but hints, for each open stream: whatever the
/// churn, hints then cost a bounded share of a core (a message costs some 15 µs a stream).
const REST_PER_STREAM: Duration = Duration::from_millis(1);
/// Longest such rest.
const REST_MAX: Duration = Duration::from_secs(1);

/// How soon a change must be told to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Haste {
    /// Peers get by without it: they tell each other their endpoints through the relay (disco.md, CallMeMaybe), and
    /// whether a machine is online only adorns a list.
    Hint,
    /// A home relay or a disco key: until it is heard, packets go astray.
    Soon,
    /// Anything else.
    Now,
}

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
    /// What the machine is asked by the next message (control.md §5.15).
    pub question: Option<PingRequest>,
    /// Whether the machine's removal must be told, then the stream ended.
    pub ending: Option<EndReason>,
    /// Whether the driver can take a message.
    ready: bool,
    /// Whether there may be something to tell.
    dirty: bool,
    /// Whether there is something to tell at the next flush.
    held: bool,
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
    /// The most hasty of what is held back.
    hold: Option<Haste>,
    flush_at: Option<Instant>,
    flushed: Option<Instant>,
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
            question: None,
            ending: None,
            ready: true,
            dirty: false,
            held: false,
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
            // A question that came before the full map was sent is still there.
            stream.dirty |= stream.question.is_some();
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

    fn wake_later(&mut self, id: StreamId, haste: Haste) {
        if let Some(stream) = self.by_id.get_mut(&id) {
            if !stream.held {
                stream.held = true;
                self.held.push(id);
            }
            self.hold = self.hold.max(Some(haste));
        }
    }

    /// Puts a question on a machine's stream; false: there is none, or it is being asked already.
    pub(crate) fn ask(&mut self, node: NodeId, question: PingRequest) -> bool {
        let Some(id) = self.stream_of(node) else { return false };
        match self.by_id.get_mut(&id) {
            Some(stream) if stream.question.is_none() => stream.question = Some(question),
            Some(_) | None => return false,
        }
        self.wake(id);
        true
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

    /// Wakes who sees machines of a class; what is not for now waits for other changes, to be merged with them.
    pub(crate) fn wake_viewers(&mut self, rules: &dyn Compiled, class: Class, haste: Haste) {
        for id in self.viewers(rules, class) {
            match haste {
                Haste::Now => self.wake(id),
                Haste::Hint | Haste::Soon => self.wake_later(id, haste),
            }
        }
    }

    /// Arms the flush of what is held back.
    pub(crate) fn arm(&mut self, now: Now) {
        let Some(haste) = self.hold.take() else { return };
        let streams = u32::try_from(self.by_id.len()).unwrap_or(u32::MAX);
        let soon = now.mono + MERGE_MIN + MERGE_PER_STREAM * streams;
        let rested = self.flushed.map(|at| at + (REST_PER_STREAM * streams).min(REST_MAX));
        let at = match haste {
            Haste::Hint => rested.map_or(soon, |rested| rested.max(soon)),
            Haste::Soon | Haste::Now => soon,
        };
        self.flush_at = Some(self.flush_at.map_or(at, |armed| armed.min(at)));
    }

    pub(crate) fn flush_at(&self) -> Option<Instant> {
        self.flush_at
    }

    pub(crate) fn on_deadline(&mut self, now: Now) {
        if self.flush_at.is_some_and(|at| at <= now.mono) {
            self.flush_at = None;
            self.flushed = Some(now.mono);
            for id in std::mem::take(&mut self.held) {
                if self.by_id.get(&id).is_some_and(|stream| stream.held) {
                    self.wake(id);
                }
            }
        }
    }

    /// The next stream that is ready and may have something to hear.
    pub(crate) fn next(&mut self) -> Option<StreamId> {
        while let Some(id) = self.queue.pop_front() {
            if let Some(stream) = self.by_id.get_mut(&id) {
                stream.queued = false;
                if stream.ready && stream.dirty {
                    // One message brings all that there is, what was held back too.
                    (stream.dirty, stream.held) = (false, false);
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

#[cfg(test)]
mod tests {
    use super::*;
    use sw_types::UnixTime;

    const STREAMS: u64 = 500;

    fn drained(streams: &mut Streams) -> Vec<StreamId> {
        std::iter::from_fn(|| streams.next()).collect()
    }

    #[test]
    fn hints_wait_for_a_rest_and_go_with_whatever_is_sent_before() {
        let mut streams = Streams::default();
        for id in 1..=STREAMS {
            streams.open(id, NodeId(id as i64), CapVer(130));
        }
        assert_eq!(drained(&mut streams).len() as u64, STREAMS);
        let start = Now { mono: Instant::from_nanos(1_000_000_000), wall: UnixTime::EPOCH };
        let arm = |streams: &mut Streams, id: StreamId, haste: Haste, now: Now| {
            streams.wake_later(id, haste);
            streams.arm(now);
            streams.flush_at().map(|at| (at - start.mono).as_millis())
        };

        // The first hint waits only for others to be merged with.
        assert_eq!(arm(&mut streams, 1, Haste::Hint, start), Some(45));
        let flushed = start.after(Duration::from_millis(45));
        streams.on_deadline(flushed);
        assert_eq!(drained(&mut streams), [1]);

        // The next ones wait until the streams have rested, and a stream that hears something else hears them too.
        assert_eq!(arm(&mut streams, 2, Haste::Hint, flushed), Some(545));
        assert_eq!(arm(&mut streams, 3, Haste::Hint, flushed), Some(545));
        streams.wake(3);
        assert_eq!(drained(&mut streams), [3]);

        // What has more haste takes them along.
        assert_eq!(arm(&mut streams, 4, Haste::Soon, flushed), Some(90));
        streams.on_deadline(start.after(Duration::from_millis(90)));
        assert_eq!(drained(&mut streams), [2, 4]);
        assert_eq!(streams.flush_at(), None);
    }
}

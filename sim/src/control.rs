//! The control server as the path engines see it: it collects what nodes say
//! of themselves and tells each node its peers, in full once and then by
//! deltas. Streams are ordered; what a node was not told yet is a set, not a
//! queue.

use std::collections::{BTreeMap, BTreeSet};

use sw_path::PeerInfo;
use sw_types::NodeKey;

/// What a node's stream brings.
#[derive(Clone, Debug)]
pub(crate) enum Update {
    Full(Vec<PeerInfo>),
    Delta { changed: Vec<PeerInfo>, removed: Vec<NodeKey> },
}

#[derive(Debug, Default)]
struct Stream {
    connected: bool,
    /// The client has had a full map on this connection.
    primed: bool,
    /// A message is being put together.
    telling: bool,
    dirty: BTreeSet<usize>,
    /// What the client was sent, to know whether it must be removed.
    sent: BTreeSet<usize>,
}

/// The server.
#[derive(Debug, Default)]
pub(crate) struct Control {
    nodes: Vec<Option<PeerInfo>>,
    keys: BTreeMap<NodeKey, usize>,
    forbidden: BTreeSet<(usize, usize)>,
    streams: Vec<Stream>,
    refuse: BTreeMap<usize, u32>,
}

impl Control {
    pub(crate) fn new(hosts: usize) -> Self {
        Self {
            nodes: vec![None; hosts],
            streams: (0..hosts).map(|_| Stream::default()).collect(),
            ..Self::default()
        }
    }

    /// A node says what it is now; returns false when that could not be
    /// stored, and the nodes to be told otherwise.
    pub(crate) fn on_update(&mut self, host: usize, info: PeerInfo) -> Result<Vec<usize>, Refused> {
        if let Some(times) = self.refuse.get_mut(&host) {
            *times -= 1;
            if *times == 0 {
                self.refuse.remove(&host);
            }
            return Err(Refused);
        }
        if self.nodes.get(host).is_some_and(|n| n.as_ref() == Some(&info)) {
            return Ok(Vec::new());
        }
        self.keys.insert(info.node, host);
        if let Some(node) = self.nodes.get_mut(host) {
            *node = Some(info);
        }
        Ok(self.touch(host))
    }

    fn touch(&mut self, host: usize) -> Vec<usize> {
        let mut told = Vec::new();
        for other in 0..self.streams.len() {
            let seen = other != host && !self.is_forbidden(host, other);
            if let Some(stream) = self.streams.get_mut(other)
                && other != host
                && (seen || stream.sent.contains(&host))
            {
                stream.dirty.insert(host);
                if stream.connected {
                    told.push(other);
                }
            }
        }
        told
    }

    pub(crate) fn is_forbidden(&self, a: usize, b: usize) -> bool {
        self.forbidden.contains(&(a.min(b), a.max(b)))
    }

    /// Changes who may talk; returns the nodes to be told.
    pub(crate) fn set_permitted(&mut self, a: usize, b: usize, permitted: bool) -> Vec<usize> {
        let pair = (a.min(b), a.max(b));
        if permitted {
            self.forbidden.remove(&pair);
        } else {
            self.forbidden.insert(pair);
        }
        let mut told = Vec::new();
        for (node, peer) in [(a, b), (b, a)] {
            if let Some(stream) = self.streams.get_mut(node) {
                stream.dirty.insert(peer);
                if stream.connected {
                    told.push(node);
                }
            }
        }
        told
    }

    /// The next updates of `host` fail to be stored.
    pub(crate) fn refuse(&mut self, host: usize, times: u32) {
        self.refuse.insert(host, times);
    }

    pub(crate) fn connect(&mut self, host: usize) {
        if let Some(stream) = self.streams.get_mut(host) {
            *stream = Stream { connected: true, ..Stream::default() };
        }
    }

    pub(crate) fn disconnect(&mut self, host: usize) {
        if let Some(stream) = self.streams.get_mut(host) {
            *stream = Stream::default();
        }
    }

    /// Returns whether a message to `host` is to be put together; false when
    /// one is already.
    pub(crate) fn begin_telling(&mut self, host: usize) -> bool {
        self.streams.get_mut(host).is_some_and(|s| s.connected && !std::mem::replace(&mut s.telling, true))
    }

    /// What `host` is to be told now.
    pub(crate) fn next_update(&mut self, host: usize) -> Option<Update> {
        if let Some(stream) = self.streams.get_mut(host) {
            stream.telling = false;
        }
        let primed = self.streams.get(host).filter(|s| s.connected)?.primed;
        if !primed {
            let (peers, sent) = (self.full_map(host), self.visible(host));
            let stream = self.streams.get_mut(host)?;
            stream.primed = true;
            stream.dirty.clear();
            stream.sent = sent;
            return Some(Update::Full(peers));
        }
        let dirty = std::mem::take(&mut self.streams.get_mut(host)?.dirty);
        if dirty.is_empty() {
            return None;
        }
        let (mut changed, mut removed) = (Vec::new(), Vec::new());
        for other in dirty {
            let Some(info) = self.nodes.get(other).cloned().flatten() else { continue };
            let forbidden = self.is_forbidden(host, other);
            let stream = self.streams.get_mut(host)?;
            if forbidden {
                if stream.sent.remove(&other) {
                    removed.push(info.node);
                }
            } else {
                stream.sent.insert(other);
                changed.push(info);
            }
        }
        Some(Update::Delta { changed, removed })
    }

    fn visible(&self, host: usize) -> BTreeSet<usize> {
        let known = |n: &usize| self.nodes.get(*n).is_some_and(Option::is_some);
        (0..self.nodes.len()).filter(|n| *n != host && known(n) && !self.is_forbidden(host, *n)).collect()
    }

    /// All peers of a node, computed anew.
    pub(crate) fn full_map(&self, host: usize) -> Vec<PeerInfo> {
        self.visible(host).into_iter().filter_map(|n| self.nodes.get(n).cloned().flatten()).collect()
    }
}

/// The change was not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused;

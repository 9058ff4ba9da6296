//! A stand-in for the control server, for worlds of many machines: it collects what nodes say
//! of themselves and tells each node its peers, in full once and then by
//! deltas. It keeps one log of changes; a stream is a place in it, so that
//! streams at one place share what they are told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sw_path::PeerInfo;

/// A peer and its number.
pub(crate) type Known = (usize, Arc<PeerInfo>);

/// What a node's stream brings. The receiver overlooks itself.
#[derive(Clone, Debug)]
pub(crate) enum Update {
    Full(Arc<[Known]>),
    Delta { changed: Arc<[Known]>, removed: Vec<usize> },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stream {
    #[default]
    Closed,
    /// The client has had nothing on this connection.
    Fresh,
    /// The client knows all changes before this place of the log.
    Told(usize),
}

/// The server.
#[derive(Debug, Default)]
pub(crate) struct Control {
    nodes: Vec<Option<Arc<PeerInfo>>>,
    forbidden: BTreeSet<(usize, usize)>,
    streams: Vec<Stream>,
    /// Nodes in the order of their changes, from `log_start` on.
    log: Vec<usize>,
    log_start: usize,
    /// Pairs whose permission changed: what each of the two is still to hear of the other.
    permissions: BTreeMap<usize, BTreeSet<usize>>,
    refuse: BTreeMap<usize, u32>,
}

impl Control {
    pub(crate) fn new(hosts: usize) -> Self {
        Self { nodes: vec![None; hosts], streams: vec![Stream::Closed; hosts], ..Self::default() }
    }

    /// A node says what it is now; returns whether anybody is to be told.
    pub(crate) fn on_update(&mut self, host: usize, info: PeerInfo) -> Result<bool, Refused> {
        if let Some(times) = self.refuse.get_mut(&host) {
            *times -= 1;
            if *times == 0 {
                self.refuse.remove(&host);
            }
            return Err(Refused);
        }
        if self.nodes.get(host).is_some_and(|n| n.as_deref() == Some(&info)) {
            return Ok(false);
        }
        if let Some(node) = self.nodes.get_mut(host) {
            *node = Some(Arc::new(info));
        }
        self.log.push(host);
        Ok(true)
    }

    pub(crate) fn is_forbidden(&self, a: usize, b: usize) -> bool {
        self.forbidden.contains(&(a.min(b), a.max(b)))
    }

    /// Pairs that may not talk.
    pub(crate) fn forbidden(&self) -> &BTreeSet<(usize, usize)> {
        &self.forbidden
    }

    /// Changes who may talk; both are to be told.
    pub(crate) fn set_permitted(&mut self, a: usize, b: usize, permitted: bool) {
        let pair = (a.min(b), a.max(b));
        if permitted {
            self.forbidden.remove(&pair);
        } else {
            self.forbidden.insert(pair);
        }
        for (node, peer) in [(a, b), (b, a)] {
            self.permissions.entry(node).or_default().insert(peer);
        }
    }

    /// The next updates of `host` fail to be stored.
    pub(crate) fn refuse(&mut self, host: usize, times: u32) {
        self.refuse.insert(host, times);
    }

    pub(crate) fn connect(&mut self, host: usize) {
        self.set_stream(host, Stream::Fresh);
    }

    pub(crate) fn disconnect(&mut self, host: usize) {
        self.set_stream(host, Stream::Closed);
    }

    fn set_stream(&mut self, host: usize, to: Stream) {
        self.permissions.remove(&host);
        if let Some(stream) = self.streams.get_mut(host) {
            *stream = to;
        }
    }

    /// All that is to be told now, by node.
    pub(crate) fn flush(&mut self) -> Vec<(usize, Update)> {
        let end = self.log_start + self.log.len();
        let mut deltas: BTreeMap<usize, Arc<[Known]>> = BTreeMap::new();
        let mut whole: Option<Arc<[Known]>> = None;
        let mut updates = Vec::new();
        for host in 0..self.streams.len() {
            let permissions = self.permissions.remove(&host).unwrap_or_default();
            let is_free = permissions.is_empty() && !self.has_forbidden(host);
            let update = match self.streams.get(host).copied().unwrap_or_default() {
                Stream::Closed => continue,
                Stream::Fresh if is_free => {
                    Update::Full(Arc::clone(whole.get_or_insert_with(|| self.everybody().collect())))
                }
                Stream::Fresh => Update::Full(self.full_map(host).into()),
                Stream::Told(place) if place == end && permissions.is_empty() => continue,
                Stream::Told(place) => {
                    let shared = deltas.entry(place).or_insert_with(|| self.since(place));
                    if is_free {
                        Update::Delta { changed: Arc::clone(shared), removed: Vec::new() }
                    } else {
                        self.own_delta(host, shared, &permissions)
                    }
                }
            };
            if let Some(stream) = self.streams.get_mut(host) {
                *stream = Stream::Told(end);
            }
            updates.push((host, update));
        }
        // Every open stream is at the end by now.
        self.log.clear();
        self.log_start = end;
        updates
    }

    fn has_forbidden(&self, host: usize) -> bool {
        !self.forbidden.is_empty() && self.forbidden.iter().any(|(a, b)| *a == host || *b == host)
    }

    fn everybody(&self) -> impl Iterator<Item = Known> + '_ {
        self.nodes.iter().enumerate().filter_map(|(n, info)| Some((n, Arc::clone(info.as_ref()?))))
    }

    /// Nodes that changed since a place of the log, each once.
    fn since(&self, place: usize) -> Arc<[Known]> {
        let changes = self.log.get(place.saturating_sub(self.log_start)..).unwrap_or_default();
        let nodes: BTreeSet<usize> = changes.iter().copied().collect();
        nodes.into_iter().filter_map(|n| Some((n, self.nodes.get(n).cloned().flatten()?))).collect()
    }

    fn own_delta(&self, host: usize, shared: &[Known], permissions: &BTreeSet<usize>) -> Update {
        let mut changed: Vec<Known> =
            shared.iter().filter(|(n, _)| !self.is_forbidden(host, *n)).cloned().collect();
        let mut removed = Vec::new();
        for peer in permissions {
            if self.is_forbidden(host, *peer) {
                removed.push(*peer);
            } else if !changed.iter().any(|(n, _)| n == peer)
                && let Some(info) = self.nodes.get(*peer).cloned().flatten()
            {
                changed.push((*peer, info));
            }
        }
        Update::Delta { changed: changed.into(), removed }
    }

    /// All peers of a node, computed anew.
    pub(crate) fn full_map(&self, host: usize) -> Vec<Known> {
        self.everybody().filter(|(n, _)| *n != host && !self.is_forbidden(host, *n)).collect()
    }
}

/// The change was not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused;

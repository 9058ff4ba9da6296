//! The peers by key. Most messages of a large network concern one peer among thousands, so look-up is by hash; whoever
//! visits all of them does so in the order of their keys.

use std::collections::{BTreeSet, HashMap};

use sw_types::NodeKey;

use crate::peer::Peer;

#[derive(Debug, Default)]
pub(super) struct Peers {
    /// Boxed: the table itself has room for up to twice the peers.
    by_key: HashMap<NodeKey, Box<Peer>>,
    // INVARIANT: the keys of `by_key`.
    order: BTreeSet<NodeKey>,
}

impl Peers {
    pub(super) fn get(&self, key: &NodeKey) -> Option<&Peer> {
        self.by_key.get(key).map(AsRef::as_ref)
    }

    pub(super) fn get_mut(&mut self, key: &NodeKey) -> Option<&mut Peer> {
        self.by_key.get_mut(key).map(AsMut::as_mut)
    }

    pub(super) fn contains_key(&self, key: &NodeKey) -> bool {
        self.by_key.contains_key(key)
    }

    pub(super) fn insert(&mut self, key: NodeKey, peer: Peer) {
        self.order.insert(key);
        self.by_key.insert(key, Box::new(peer));
    }

    pub(super) fn remove(&mut self, key: &NodeKey) -> Option<Peer> {
        self.order.remove(key);
        self.by_key.remove(key).map(|peer| *peer)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &NodeKey> {
        self.order.iter()
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &Peer> {
        self.order.iter().filter_map(|key| self.get(key))
    }

    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }
}

//! The network as the control server tells it: a fold of map responses (control.md §5).
//!
//! The first message of a stream is a whole picture, every later one says what changed. Applying a delta costs what
//! the delta touches, not what the network holds.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use sw_tailcfg::{
    ClientVersion, DerpMap, DisplayMessage, DnsConfig, FilterRule, MapResponse, Node, PeerChange, SshPolicy,
    TkaInfo, UserProfile,
};
use sw_types::{NodeId, NodeKey, UnixTime, UserId};
use thiserror::Error;

/// The name of the filter that `PacketFilter` replaces.
const BASE_FILTER: &str = "base";
/// The id that stands for all entries of a patched map.
const ALL_ENTRIES: &str = "*";
/// A difference of clocks up to this counts as none (node-services.md §14).
const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);
/// Nothing is expired if the corrected clock is before this unix time: it was never set (node-services.md §14).
const CLOCK_NEVER_SET_BEFORE: i64 = 1_673_373_066;

/// Why a message was not applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FoldError {
    #[error("the first message of the map stream lacks this node")]
    FirstWithoutNode,
}

/// A network, seen from one node.
#[derive(Clone, Debug, Default)]
pub struct Netmap {
    pub self_node: Arc<Node>,
    pub domain: String,
    pub derp_map: DerpMap,
    pub dns: DnsConfig,
    pub user_profiles: BTreeMap<UserId, UserProfile>,
    pub ssh_policy: Option<SshPolicy>,
    pub display_messages: BTreeMap<String, DisplayMessage>,
    pub health: Vec<String>,
    pub collect_services: bool,
    pub client_version: Option<ClientVersion>,
    pub tka_info: Option<TkaInfo>,
    /// How far the server's clock is ahead of ours, in nanoseconds; 0 within the tolerance.
    pub clock_offset_nanos: i128,
    peers: BTreeMap<NodeId, Arc<Node>>,
    filters: BTreeMap<String, Vec<FilterRule>>,
    by_key: BTreeMap<NodeKey, NodeId>,
    by_address: BTreeMap<IpAddr, NodeId>,
    /// When the keys of peers expire, by the server's clock.
    expiries: BTreeSet<(UnixTime, NodeId)>,
}

/// What one message changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    pub self_node: bool,
    pub derp_map: bool,
    pub dns: bool,
    pub domain: bool,
    pub filter: bool,
    pub user_profiles: bool,
    pub messages: bool,
    /// New peers, and those of which anything differs.
    pub peers: BTreeSet<NodeId>,
    /// Peers that are gone, with the key they had.
    pub removed: BTreeMap<NodeId, NodeKey>,
    /// Of the changed peers: names, addresses or routes differ, so routes and MagicDNS must follow.
    pub addressing: bool,
    /// Keys that are no longer used by any peer, because the peer has another one.
    pub retired_keys: BTreeSet<NodeKey>,
}

impl Changes {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Everything of `netmap` counts as changed.
    pub fn everything(netmap: &Netmap) -> Self {
        Self {
            self_node: true,
            derp_map: true,
            dns: true,
            domain: true,
            filter: true,
            user_profiles: true,
            messages: true,
            peers: netmap.peers.keys().copied().collect(),
            removed: BTreeMap::new(),
            addressing: true,
            retired_keys: BTreeSet::new(),
        }
    }
}

impl Netmap {
    /// Makes a network out of the first message of a stream. `old` is what was known before: the result's
    /// differences to it are returned, so that nothing is torn down that stays.
    pub fn from_first(
        message: MapResponse,
        old: Option<&Self>,
        now: UnixTime,
    ) -> Result<(Self, Changes), FoldError> {
        if message.node.is_none() {
            return Err(FoldError::FirstWithoutNode);
        }
        let mut new = Self::default();
        new.apply(message, now);
        let changes = match old {
            Some(old) => new.differences_to(old),
            None => Changes::everything(&new),
        };
        Ok((new, changes))
    }

    /// Applies a later message, in the order of control.md §5.3.
    pub fn apply(&mut self, message: MapResponse, now: UnixTime) -> Changes {
        let mut changes = Changes::default();
        if let Some(server_time) = message.control_time {
            self.clock_offset_nanos = clock_offset(server_time, now);
        }
        if let Some(version) = message.client_version {
            self.client_version = Some(version);
            changes.messages = true;
        }
        if message.keep_alive {
            return changes;
        }
        if message.peers.is_empty() {
            for id in message.peers_removed {
                self.remove(id, &mut changes);
            }
            for node in message.peers_changed {
                self.upsert(node, &mut changes);
            }
            self.apply_small_changes(message.peer_seen_change, message.online_change, now, &mut changes);
            for patch in message.peers_changed_patch {
                self.patch(patch, &mut changes);
            }
        } else {
            self.replace_peers(message.peers, &mut changes);
        }
        if let Some(node) = message.node {
            changes.self_node |= *self.self_node != *node;
            changes.addressing |=
                self.self_node.name != node.name || self.self_node.addresses != node.addresses;
            self.self_node = Arc::from(node);
        }
        for profile in message.user_profiles {
            changes.user_profiles = true;
            self.user_profiles.insert(profile.id, profile);
        }
        if let Some(update) = message.derp_map {
            self.derp_map.apply(update);
            changes.derp_map = true;
        }
        changes.filter |= self.apply_filters(message.packet_filter, message.packet_filters);
        if let Some(dns) = message.dns_config {
            changes.dns |= self.dns != dns;
            self.dns = dns;
        }
        if !message.domain.is_empty() {
            changes.domain |= self.domain != message.domain;
            self.domain = message.domain;
        }
        if let Some(collect) = message.collect_services {
            self.collect_services = collect;
        }
        if let Some(policy) = message.ssh_policy {
            self.ssh_policy = Some(policy);
        }
        if let Some(info) = message.tka_info {
            self.tka_info = Some(info);
        }
        changes.messages |= self.apply_messages(message.health, message.display_messages);
        changes
    }

    fn apply_small_changes(
        &mut self,
        seen: BTreeMap<NodeId, bool>,
        online: BTreeMap<NodeId, bool>,
        now: UnixTime,
        changes: &mut Changes,
    ) {
        for (id, is_seen) in seen {
            self.edit(id, changes, |node| node.last_seen = is_seen.then_some(now));
        }
        for (id, is_online) in online {
            self.edit(id, changes, |node| node.online = Some(is_online));
        }
    }

    fn apply_filters(
        &mut self,
        base: Option<Vec<FilterRule>>,
        named: BTreeMap<String, Option<Vec<FilterRule>>>,
    ) -> bool {
        let mut changed = false;
        if let Some(rules) = base {
            changed |= self.filters.insert(BASE_FILTER.to_owned(), rules.clone()).as_ref() != Some(&rules);
        }
        if named.get(ALL_ENTRIES) == Some(&None) {
            changed |= !self.filters.is_empty();
            self.filters.clear();
        }
        for (name, rules) in named {
            changed |= match rules {
                Some(rules) if self.filters.get(&name) == Some(&rules) => false,
                Some(rules) => {
                    self.filters.insert(name, rules);
                    true
                }
                None => self.filters.remove(&name).is_some(),
            };
        }
        changed
    }

    fn apply_messages(
        &mut self,
        health: Option<Vec<String>>,
        messages: BTreeMap<String, Option<DisplayMessage>>,
    ) -> bool {
        let changed = health.is_some() || !messages.is_empty();
        if let Some(health) = health {
            self.health = health;
        }
        if messages.get(ALL_ENTRIES) == Some(&None) {
            self.display_messages.clear();
        }
        for (id, message) in messages {
            match message {
                Some(message) => drop(self.display_messages.insert(id, message)),
                None => drop(self.display_messages.remove(&id)),
            }
        }
        changed
    }

    fn replace_peers(&mut self, peers: Vec<Arc<Node>>, changes: &mut Changes) {
        let kept: BTreeSet<NodeId> = peers.iter().map(|node| node.id).collect();
        let gone: Vec<NodeId> = self.peers.keys().filter(|id| !kept.contains(id)).copied().collect();
        for id in gone {
            self.remove(id, changes);
        }
        for node in peers {
            self.upsert(node, changes);
        }
    }

    fn upsert(&mut self, node: Arc<Node>, changes: &mut Changes) {
        if node.id.is_zero() {
            return;
        }
        let id = node.id;
        let old = self.peers.get(&id);
        if old.is_some_and(|old| is_same(old, &node)) {
            return;
        }
        changes.addressing |= old.is_none_or(|old| !has_same_addressing(old, &node));
        changes.peers.insert(id);
        changes.removed.remove(&id);
        self.unindex(id, node.key, changes);
        self.index(&node);
        self.peers.insert(id, node);
    }

    fn remove(&mut self, id: NodeId, changes: &mut Changes) {
        self.unindex(id, NodeKey::default(), changes);
        if let Some(node) = self.peers.remove(&id) {
            changes.addressing = true;
            changes.peers.remove(&id);
            changes.removed.insert(id, node.key);
        }
    }

    /// Changes one peer in place, if it is known.
    fn edit(&mut self, id: NodeId, changes: &mut Changes, edit: impl FnOnce(&mut Node)) {
        if let Some(node) = self.peers.get_mut(&id) {
            let node = Arc::make_mut(node);
            let expiry = node.key_expiry;
            edit(node);
            changes.peers.insert(id);
            if node.key_expiry != expiry {
                self.expiries.extend(node.key_expiry.map(|at| (at, id)));
                if let Some(at) = expiry {
                    self.expiries.remove(&(at, id));
                }
            }
        }
    }

    fn patch(&mut self, patch: PeerChange, changes: &mut Changes) {
        let Some(old) = self.peers.get(&patch.node_id) else { return };
        // A disco key that was told with an old "offline" may be older than one learnt from the peer (control.md §5.5).
        let is_stale = patch.disco_key.is_some()
            && patch.online == Some(false)
            && patch.last_seen.is_some_and(|seen| old.last_seen.is_some_and(|known| seen <= known));
        if is_stale {
            return;
        }
        let (id, old_key) = (patch.node_id, old.key);
        if let Some(key) = patch.key.filter(|key| *key != old_key) {
            self.by_key.remove(&old_key);
            self.by_key.insert(key, id);
            changes.retired_keys.insert(old_key);
        }
        self.edit(id, changes, |node| {
            if !patch.derp_region.is_zero() {
                node.home_derp = patch.derp_region;
            }
            if !patch.cap.is_zero() {
                node.cap = patch.cap;
            }
            if let Some(caps) = patch.cap_map {
                node.cap_map = caps;
            }
            if let Some(endpoints) = patch.endpoints {
                node.endpoints = endpoints;
            }
            if let Some(key) = patch.key {
                node.key = key;
            }
            if !patch.key_signature.is_empty() {
                node.key_signature = patch.key_signature;
            }
            if let Some(disco) = patch.disco_key {
                node.disco_key = disco;
            }
            if let Some(online) = patch.online {
                node.online = Some(online);
            }
            if let Some(seen) = patch.last_seen {
                node.last_seen = Some(seen).filter(|time| !time.is_go_zero());
            }
            if let Some(expiry) = patch.key_expiry {
                node.key_expiry = Some(expiry).filter(|time| !time.is_go_zero());
                node.expired &= node.key_expiry.is_some();
            }
        });
    }

    fn index(&mut self, node: &Node) {
        self.by_key.insert(node.key, node.id);
        self.expiries.extend(node.key_expiry.map(|at| (at, node.id)));
        for address in &node.addresses {
            self.by_address.insert(address.addr(), node.id);
        }
    }

    fn unindex(&mut self, id: NodeId, new_key: NodeKey, changes: &mut Changes) {
        let Some(old) = self.peers.get(&id).cloned() else { return };
        if self.by_key.get(&old.key) == Some(&id) {
            self.by_key.remove(&old.key);
            if old.key != new_key {
                changes.retired_keys.insert(old.key);
            }
        }
        if let Some(at) = old.key_expiry {
            self.expiries.remove(&(at, id));
        }
        for address in &old.addresses {
            if self.by_address.get(&address.addr()) == Some(&id) {
                self.by_address.remove(&address.addr());
            }
        }
    }

    fn differences_to(&self, old: &Self) -> Changes {
        let mut changes = Changes {
            self_node: self.self_node != old.self_node,
            derp_map: self.derp_map != old.derp_map,
            dns: self.dns != old.dns,
            domain: self.domain != old.domain,
            filter: self.filters != old.filters,
            user_profiles: self.user_profiles != old.user_profiles,
            messages: self.display_messages != old.display_messages || self.health != old.health,
            ..Changes::default()
        };
        changes.addressing =
            self.self_node.name != old.self_node.name || self.self_node.addresses != old.self_node.addresses;
        for (id, node) in &self.peers {
            match old.peers.get(id) {
                Some(known) if is_same(known, node) => {}
                known => {
                    changes.addressing |= known.is_none_or(|known| !has_same_addressing(known, node));
                    changes.peers.insert(*id);
                }
            }
        }
        for (id, node) in &old.peers {
            if !self.peers.contains_key(id) {
                changes.addressing = true;
                changes.removed.insert(*id, node.key);
            }
            if !self.by_key.contains_key(&node.key) {
                changes.retired_keys.insert(node.key);
            }
        }
        changes
    }

    /// All peers, by id.
    pub fn peers(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.peers.values()
    }

    /// How many peers there are.
    pub fn peer_count(&self) -> usize {
        self.peers.len()
    }

    /// The peer with this id.
    pub fn peer(&self, id: NodeId) -> Option<&Arc<Node>> {
        self.peers.get(&id)
    }

    /// The peer with this key.
    pub fn peer_by_key(&self, key: &NodeKey) -> Option<&Arc<Node>> {
        self.peers.get(self.by_key.get(key)?)
    }

    /// The node, this one included, that has this address.
    pub fn node_by_address(&self, address: IpAddr) -> Option<&Arc<Node>> {
        if self.self_node.addresses.iter().any(|own| own.addr() == address) {
            return Some(&self.self_node);
        }
        self.peers.get(self.by_address.get(&address)?)
    }

    /// The node, this one included, with this key.
    pub fn node_by_key(&self, key: &NodeKey) -> Option<&Arc<Node>> {
        if self.self_node.key == *key { Some(&self.self_node) } else { self.peer_by_key(key) }
    }

    /// All filter rules that count, in the order of the filters' names.
    pub fn filter_rules(&self) -> Vec<FilterRule> {
        self.rules().cloned().collect()
    }

    /// The rules of the packet filter.
    pub fn rules(&self) -> impl Iterator<Item = &FilterRule> {
        self.filters.values().flatten()
    }

    /// What all names of the network end in, without dots at either end; empty if this node's name has no domain.
    pub fn magic_dns_suffix(&self) -> &str {
        self.self_node.name.trim_end_matches('.').split_once('.').map_or("", |(_, suffix)| suffix)
    }

    /// Whether a peer's key has expired, by the server's clock.
    pub fn is_expired(&self, node: &Node, now: UnixTime) -> bool {
        let corrected = UnixTime::from_nanos(now.as_nanos() + self.clock_offset_nanos);
        if corrected.as_secs() < CLOCK_NEVER_SET_BEFORE {
            return false;
        }
        node.expired || node.key_expiry.is_some_and(|expiry| expiry <= corrected)
    }

    /// The next moment at which a peer's key expires, by our clock.
    pub fn next_expiry(&self, now: UnixTime) -> Option<UnixTime> {
        let server_clock = UnixTime::from_nanos(now.as_nanos() + self.clock_offset_nanos);
        let (next, _) = self.expiries.range((server_clock, NodeId(i64::MAX))..).next()?;
        Some(UnixTime::from_nanos(next.as_nanos() - self.clock_offset_nanos))
    }

    /// The JSON that the LocalAPI shows as `NetMap` (localapi-cli.md §A3).
    pub fn to_json(&self) -> Value {
        serde_json::json!({
            "SelfNode": &*self.self_node,
            "NodeKey": self.self_node.key,
            "Peers": self.peers.values().collect::<Vec<_>>(),
            "DNS": self.dns,
            "PacketFilterRules": self.filter_rules(),
            "SSHPolicy": self.ssh_policy,
            "CollectServices": self.collect_services,
            "DERPMap": self.derp_map,
            "DisplayMessages": self.display_messages,
            "Domain": self.domain,
            "UserProfiles": self.user_profiles,
        })
    }

    /// One message that makes the same network again, for the cache on disk.
    pub fn to_message(&self) -> MapResponse {
        MapResponse {
            node: Some(Box::new((*self.self_node).clone())),
            domain: self.domain.clone(),
            derp_map: Some(self.derp_map.clone()),
            dns_config: Some(self.dns.clone()),
            peers: self.peers.values().cloned().collect(),
            packet_filters: self
                .filters
                .iter()
                .map(|(name, rules)| (name.clone(), Some(rules.clone())))
                .collect(),
            user_profiles: self.user_profiles.values().cloned().collect(),
            ssh_policy: self.ssh_policy.clone(),
            tka_info: self.tka_info.clone(),
            ..MapResponse::default()
        }
    }
}

/// Equal, or even one: what the cache remembers is what the network holds.
fn is_same(a: &Arc<Node>, b: &Arc<Node>) -> bool {
    Arc::ptr_eq(a, b) || a == b
}

fn has_same_addressing(a: &Node, b: &Node) -> bool {
    a.name == b.name
        && a.addresses == b.addresses
        && a.effective_allowed_ips() == b.effective_allowed_ips()
        && a.unsigned_peer_api_only == b.unsigned_peer_api_only
}

fn clock_offset(server: UnixTime, own: UnixTime) -> i128 {
    let offset = server.as_nanos() - own.as_nanos();
    if offset.unsigned_abs() <= CLOCK_TOLERANCE.as_nanos() { 0 } else { offset }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: i64) -> Node {
        let byte = u8::try_from(id).expect("a small id");
        Node {
            id: NodeId(id),
            name: format!("n{id}.home.internal."),
            key: NodeKey::from([byte; 32]),
            addresses: vec![format!("100.64.0.{id}/32").parse().expect("a prefix")],
            ..Node::default()
        }
    }

    fn first(peers: impl IntoIterator<Item = i64>) -> MapResponse {
        MapResponse {
            node: Some(Box::new(node(1))),
            peers: peers.into_iter().map(|id| Arc::new(node(id))).collect(),
            ..MapResponse::default()
        }
    }

    fn start(peers: impl IntoIterator<Item = i64>) -> Netmap {
        Netmap::from_first(first(peers), None, UnixTime::EPOCH).expect("it has a node").0
    }

    fn ids(netmap: &Netmap) -> Vec<i64> {
        netmap.peers().map(|node| node.id.0).collect()
    }

    #[test]
    fn a_first_message_without_this_node_is_refused() {
        let refused = Netmap::from_first(MapResponse::default(), None, UnixTime::EPOCH);
        assert_eq!(refused.err(), Some(FoldError::FirstWithoutNode));
    }

    #[test]
    fn an_empty_peer_list_changes_nothing() {
        let mut netmap = start([2, 3]);
        assert!(netmap.apply(MapResponse::default(), UnixTime::EPOCH).is_empty());
        assert_eq!(ids(&netmap), [2, 3]);
    }

    #[test]
    fn removed_peers_are_no_longer_found_by_key_or_address() {
        let mut netmap = start([2, 3]);
        let message = MapResponse { peers_removed: vec![NodeId(2), NodeId(9)], ..MapResponse::default() };
        let changes = netmap.apply(message, UnixTime::EPOCH);
        assert_eq!(changes.removed.keys().copied().collect::<Vec<_>>(), [NodeId(2)]);
        assert!(netmap.peer_by_key(&node(2).key).is_none());
        assert!(netmap.node_by_address("100.64.0.2".parse().expect("an address")).is_none());
    }

    #[test]
    fn a_patched_key_retires_the_old_one() {
        let mut netmap = start([2]);
        let patch =
            PeerChange { node_id: NodeId(2), key: Some(NodeKey::from([77; 32])), ..PeerChange::default() };
        let changes = netmap.apply(
            MapResponse { peers_changed_patch: vec![patch], ..MapResponse::default() },
            UnixTime::EPOCH,
        );
        assert!(changes.retired_keys.contains(&node(2).key) && !changes.addressing);
        assert_eq!(netmap.peer_by_key(&NodeKey::from([77; 32])).map(|peer| peer.id), Some(NodeId(2)));
    }

    #[test]
    fn filters_are_patched_by_name() {
        let mut netmap = start([]);
        let named = |entries: Vec<(&str, Option<Vec<FilterRule>>)>| MapResponse {
            packet_filters: entries.into_iter().map(|(name, rules)| (name.to_owned(), rules)).collect(),
            ..MapResponse::default()
        };
        let rule = FilterRule::allow_all;
        netmap.apply(named(vec![("base", Some(vec![rule()])), ("x", Some(vec![rule()]))]), UnixTime::EPOCH);
        assert_eq!(netmap.filter_rules().len(), 2);
        netmap.apply(named(vec![("x", None)]), UnixTime::EPOCH);
        assert_eq!(netmap.filter_rules().len(), 1);
        netmap.apply(named(vec![("*", None), ("y", Some(vec![rule(), rule()]))]), UnixTime::EPOCH);
        assert_eq!(netmap.filter_rules().len(), 2);
        assert!(netmap.apply(named(vec![("y", Some(vec![rule(), rule()]))]), UnixTime::EPOCH).is_empty());
    }

    #[test]
    fn peers_expire_by_the_servers_clock() {
        let mut netmap = start([2]);
        let (now, server) = (UnixTime::from_secs(1_800_000_000), UnixTime::from_secs(1_800_003_600));
        netmap.apply(
            MapResponse { control_time: Some(server), keep_alive: true, ..MapResponse::default() },
            now,
        );
        let peer = Node { key_expiry: Some(UnixTime::from_secs(1_800_001_800)), ..node(2) };
        assert!(netmap.is_expired(&peer, now), "our clock is an hour behind");
        assert!(!netmap.is_expired(&Node { key_expiry: None, ..node(2) }, now));
    }

    /// The index of expiries says what a look at all peers would.
    #[test]
    fn the_next_expiry_is_that_of_some_peer() {
        arbtest::arbtest(|u| {
            let mut netmap = start([2, 3, 4]);
            for _ in 0..u.int_in_range(0..=8)? {
                let id = NodeId(u.int_in_range(2..=6)?);
                let expiry = Some(UnixTime::from_secs(u.int_in_range(0..=20)?));
                let mut message = MapResponse::default();
                match u.int_in_range(0..=2)? {
                    0 => {
                        message.peers_changed = vec![Arc::new(Node { key_expiry: expiry, ..node(id.0) })];
                    }
                    1 => message.peers_removed = vec![id],
                    _ => {
                        let patch = PeerChange { node_id: id, key_expiry: expiry, ..PeerChange::default() };
                        message.peers_changed_patch = vec![patch];
                    }
                }
                netmap.apply(message, UnixTime::EPOCH);
                let now = UnixTime::from_secs(u.int_in_range(0..=20)?);
                let all = netmap.peers().filter_map(|node| node.key_expiry);
                assert_eq!(netmap.next_expiry(now), all.filter(|at| *at > now).min());
            }
            Ok(())
        });
    }

    /// The fold of deltas is the same as a fresh full map.
    #[test]
    fn deltas_and_full_map_agree() {
        arbtest::arbtest(|u| {
            let mut netmap = start([2, 3, 4]);
            let mut expected: BTreeSet<i64> = [2, 3, 4].into();
            for _ in 0..u.int_in_range(0..=8)? {
                let id = u.int_in_range(2..=9)?;
                let message = if u.arbitrary()? {
                    expected.insert(id);
                    MapResponse { peers_changed: vec![Arc::new(node(id))], ..MapResponse::default() }
                } else {
                    expected.remove(&id);
                    MapResponse { peers_removed: vec![NodeId(id)], ..MapResponse::default() }
                };
                netmap.apply(message, UnixTime::EPOCH);
            }
            let fresh = start(expected.iter().copied());
            assert_eq!(ids(&netmap), ids(&fresh));
            assert_eq!(netmap.by_key, fresh.by_key);
            assert_eq!(netmap.by_address, fresh.by_address);
            assert_eq!(netmap.expiries, fresh.expiries);
            assert!(netmap.differences_to(&fresh).is_empty());
            let again =
                Netmap::from_first(netmap.to_message(), Some(&netmap), UnixTime::EPOCH).expect("has a node");
            assert!(again.1.is_empty(), "the cached form makes the same network");
            Ok(())
        });
    }
}

//! Builds what a stream is sent: the whole map first, then differences.

use std::collections::BTreeSet;
use std::sync::Arc;

use ipnet::IpNet;
use sw_types::{CapVer, NodeId, Now, UserId};

use crate::bits::{ids, place};
use crate::encode::{MapMessage, Object, Part, list, to_json};
use crate::live::{OUTSIDE, Stamp};
use crate::rules::Class;
use crate::streams::{Audience, BlockKey, EncodedBlock, StreamId};
use crate::tailnet::{Output, Tailnet};
use crate::wire;

/// What one stream has to hear about others. Streams with the same list share one message.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Differences {
    removed: Vec<NodeId>,
    whole: Vec<NodeId>,
    patched: Vec<NodeId>,
    users: Vec<UserId>,
}

impl Differences {
    fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.whole.is_empty() && self.patched.is_empty() && self.users.is_empty()
    }
}

/// A message that other streams may be in need of too. Good for one stamp of the state.
#[derive(Debug, Default)]
pub(crate) struct SharedMessages {
    stamp: Stamp,
    messages: std::collections::BTreeMap<(Class, bool, Stamp, Differences), MapMessage>,
}

impl Tailnet {
    /// The next message or end of a stream.
    pub(crate) fn next_map(&mut self, now: Now) -> Option<Output> {
        self.settle(now);
        if self.is_uncommitted() {
            return None;
        }
        self.streams.arm(now);
        while let Some(stream) = self.streams.next() {
            if let Some(output) = self.pull(stream, now) {
                return Some(output);
            }
        }
        self.forget_old_removals();
        None
    }

    fn pull(&mut self, id: StreamId, now: Now) -> Option<Output> {
        let stream = self.streams.by_id.get(&id)?;
        if let Some(reason) = stream.ending {
            let node = stream.node;
            self.streams.close(id);
            // Its removal may have been rolled back meanwhile; then only its stream begins anew.
            if !self.live.contains_key(&node) {
                self.streams.forget_class(node);
            }
            return Some(Output::End { stream: id, reason });
        }
        let message = if stream.seen == 0 { self.full_map(id, now) } else { self.delta(id, now) };
        let message = message?;
        self.streams.sending(id);
        Some(Output::Map { stream: id, message })
    }

    /// The complete picture for the viewer behind a stream (control.md §5.2).
    fn full_map(&mut self, id: StreamId, now: Now) -> Option<MapMessage> {
        self.stats.full_maps += 1;
        let stream = self.streams.by_id.get(&id)?;
        let (node, cap) = (stream.node, stream.cap);
        let class = self.streams.class_of(node);
        let audience = self.audience(class);
        let filter = self.compiled.filter(node);
        let ssh = self.compiled.ssh(node);
        let message = self.whole(node, cap, &audience, now)?;
        let routes = self.routes_sent(class, &audience);
        let stamp = self.stamp;
        let stream = self.streams.by_id.get_mut(&id)?;
        stream.seen = stamp;
        stream.sent = Arc::clone(&audience.visible);
        stream.users = Arc::clone(&audience.users);
        if let Some(own) = self.state.node(node).map(|n| n.wire_user())
            && !stream.users.contains(&own)
        {
            Arc::make_mut(&mut stream.users).insert(own);
        }
        (stream.filter, stream.ssh) = (Some(filter), Some(ssh));
        stream.routes = routes;
        stream.rediff = false;
        Some(message)
    }

    /// The whole map of a machine, apart from any stream.
    pub(crate) fn whole(
        &mut self,
        node: NodeId,
        cap: CapVer,
        audience: &Audience,
        now: Now,
    ) -> Option<MapMessage> {
        let class = self.streams.class_of(node);
        let legacy = wire::is_legacy(cap);
        let mut head = Object::new();
        head.raw("Node", &to_json(&self.own_node(node, cap, now)?));
        head.field("DERPMap", &self.derp_map);
        head.field("DNSConfig", &self.dns_config());
        head.field("Domain", &self.state.settings().name);
        head.raw("CollectServices", b"false");
        self.filter_field(&mut head, node);
        head.field("SSHPolicy", &*self.compiled.ssh(node));
        let own = self.state.node(node)?.wire_user();
        let own = (!audience.users.contains(&own)).then(|| to_json(&self.profile(own)));
        let audience_profiles = (!audience.profiles.is_empty()).then_some(&audience.profiles[..]);
        list(head.key("UserProfiles"), audience_profiles.into_iter().chain(own.as_deref()));
        head.raw("Debug", br#"{"DisableLogTail":true}"#);
        head.field("ControlTime", &now.wall);
        self.messages_field(&mut head, node, now);
        let mut parts = Vec::new();
        let own = place(node);
        for (block, word) in audience.visible.words() {
            let shared = if block == own.0 { word & !own.1 } else { word };
            if shared == 0 {
                continue;
            }
            let key = BlockKey { class, block, legacy, follows: !parts.is_empty() };
            parts.push(if shared == word {
                self.block(key, word, now)
            } else {
                self.encode_block(key, shared, now)
            });
        }
        if parts.is_empty() {
            // WHY no empty list: Go reads it as "unchanged", the Rust client as "none" (control.md §8.3).
            return Some(MapMessage::one(Part::new(head.finish())));
        }
        head.key("Peers").push(b'[');
        parts.insert(0, Part::new(head.unfinished()));
        parts.push(Part::new(b"]}".to_vec()));
        Some(MapMessage::of(join_small(parts)))
    }

    /// A block of peers that every viewer of a class shares.
    fn block(&mut self, key: BlockKey, word: u64, now: Now) -> Arc<Part> {
        let stamp = self.streams.block_stamps.get(&key.block).copied().unwrap_or(0);
        let rules = self.streams.rules_stamp;
        if let Some(found) = self.streams.blocks.get(&key)
            && (found.word, found.stamp, found.rules) == (word, stamp, rules)
        {
            return Arc::clone(&found.part);
        }
        let part = self.encode_block(key, word, now);
        self.streams.blocks.insert(key, EncodedBlock { word, stamp, rules, part: Arc::clone(&part) });
        part
    }

    fn encode_block(&mut self, key: BlockKey, word: u64, now: Now) -> Arc<Part> {
        self.stats.blocks_encoded += 1;
        let mut json = Vec::with_capacity(64 * 640);
        for id in ids(key.block, word) {
            if key.follows || !json.is_empty() {
                json.push(b',');
            }
            let before = json.len();
            self.append_peer(&mut json, key.class, id, key.legacy, now);
            if json.len() == before && before > 0 {
                json.pop();
            }
        }
        Part::new(json)
    }

    /// What viewers of a class see.
    pub(crate) fn audience(&mut self, class: Class) -> Arc<Audience> {
        if let Some(audience) = self.streams.audiences.get(&class) {
            return Arc::clone(audience);
        }
        let visible = self.streams.visible_to(&*self.compiled, class);
        let users: BTreeSet<UserId> =
            visible.iter().filter_map(|id| Some(self.state.node(id)?.wire_user())).collect();
        let mut profiles = Vec::new();
        for user in &users {
            if !profiles.is_empty() {
                profiles.push(b',');
            }
            profiles.extend(to_json(&self.profile(*user)));
        }
        let audience = Arc::new(Audience { visible: Arc::new(visible), users: Arc::new(users), profiles });
        self.streams.audiences.insert(class, Arc::clone(&audience));
        audience
    }

    /// The routes of each visible router as a class sees them.
    fn routes_sent(&self, class: Class, audience: &Audience) -> Vec<(NodeId, Vec<IpNet>)> {
        let routers = self.routers.iter().filter(|id| audience.visible.contains(*id));
        routers.map(|id| (id, self.routes_seen(class, id))).collect()
    }

    pub(crate) fn routes_seen(&self, class: Class, peer: NodeId) -> Vec<IpNet> {
        match self.live.get(&peer) {
            Some(live) if !live.serving.is_empty() => self.compiled.routes_seen(class, peer, &live.serving),
            Some(_) | None => Vec::new(),
        }
    }

    /// What changed for a stream since its last message; `None` if nothing did.
    fn delta(&mut self, id: StreamId, now: Now) -> Option<MapMessage> {
        let stream = self.streams.by_id.get(&id)?;
        let (node, cap, seen, rediff) = (stream.node, stream.cap, stream.seen, stream.rediff);
        let class = self.streams.class_of(node);
        let differences = self.differences(id, class);
        let mut own = Object::new();
        if self.live.get(&node).is_some_and(|live| live.stamps.own > seen) {
            own.raw("Node", &to_json(&self.own_node(node, cap, now)?));
            self.messages_field(&mut own, node, now);
        }
        if let Some(question) = self.streams.by_id.get_mut(&id).and_then(|stream| stream.question.take()) {
            own.field("PingRequest", &question);
        }
        if self.streams.derp_stamp > seen {
            own.field("DERPMap", &self.derp_map);
        }
        if self.streams.settings_stamp > seen {
            own.field("DNSConfig", &self.dns_config());
            own.field("Domain", &self.state.settings().name);
        }
        if rediff {
            self.rules_fields(&mut own, id, node);
        }
        self.note_sent(id, class, &differences, rediff);
        let legacy = wire::is_legacy(cap);
        if !own.is_empty() {
            self.stats.messages_built += 1;
            self.difference_fields(&mut own, class, legacy, seen, &differences, now);
            return Some(MapMessage::one(Part::new(own.finish())));
        }
        if differences.is_empty() {
            return None;
        }
        if self.shared.stamp != self.stamp {
            self.shared = SharedMessages { stamp: self.stamp, ..SharedMessages::default() };
        }
        let key = (class, legacy, seen, differences);
        if let Some(message) = self.shared.messages.get(&key) {
            self.stats.messages_shared += 1;
            return Some(message.clone());
        }
        self.stats.messages_built += 1;
        let mut object = Object::new();
        self.difference_fields(&mut object, class, legacy, seen, &key.3, now);
        let message = MapMessage::one(Part::new(object.finish()));
        self.shared.messages.insert(key, message.clone());
        Some(message)
    }

    /// Which others a stream must hear of.
    fn differences(&self, id: StreamId, class: Class) -> Differences {
        let mut found = Differences::default();
        let Some(stream) = self.streams.by_id.get(&id) else {
            return found;
        };
        let mut whole = BTreeSet::new();
        for (_, peer) in self.recent.range(stream.seen + 1..) {
            if *peer == stream.node {
                continue;
            }
            let theirs = self.streams.class_of(*peer);
            let live = self.live.get(peer).filter(|_| self.is_visible(class, theirs));
            match (live, stream.sent.contains(*peer)) {
                (None, false) => {}
                (None, true) => found.removed.push(*peer),
                (Some(live), true) if live.stamps.full <= stream.seen => found.patched.push(*peer),
                (Some(_), _) => drop(whole.insert(*peer)),
            }
        }
        if stream.rediff {
            let visible = self.streams.audiences.get(&class).map(|a| Arc::clone(&a.visible));
            let visible =
                visible.unwrap_or_else(|| Arc::new(self.streams.visible_to(&*self.compiled, class)));
            found.removed.extend(stream.sent.without(&visible));
            whole.extend(visible.without(&stream.sent));
            for router in self.routers.iter().filter(|r| visible.contains(*r)) {
                let sent = stream.routes.iter().find(|(id, _)| *id == router).map(|(_, routes)| routes);
                if sent != Some(&self.routes_seen(class, router)) {
                    whole.insert(router);
                }
            }
            whole.remove(&stream.node);
            found.removed.retain(|peer| *peer != stream.node);
            found.patched.retain(|peer| !whole.contains(peer));
        }
        found.removed.sort();
        found.removed.dedup();
        found.patched.sort();
        found.users = self.users_to_tell(stream, &whole);
        found.whole = whole.into_iter().collect();
        found
    }

    /// People that a stream does not know yet, or who changed since it heard of them.
    fn users_to_tell(&self, stream: &crate::streams::Stream, whole: &BTreeSet<NodeId>) -> Vec<UserId> {
        let mut users = BTreeSet::new();
        let owners =
            whole.iter().chain([&stream.node]).filter_map(|id| self.state.node(*id)).map(|n| n.wire_user());
        users.extend(owners.filter(|user| !stream.users.contains(user)));
        if self.streams.users_stamp > stream.seen {
            let changed = self.streams.user_stamps.iter().filter(|(_, stamp)| **stamp > stream.seen);
            users.extend(changed.map(|(user, _)| *user).filter(|user| stream.users.contains(user)));
        }
        users.into_iter().collect()
    }

    fn is_visible(&self, viewer: Class, peer: Class) -> bool {
        viewer != OUTSIDE && peer != OUTSIDE && self.compiled.sees(viewer, peer)
    }

    /// Writes down what a stream knows once the message is out.
    fn note_sent(&mut self, id: StreamId, class: Class, differences: &Differences, rediff: bool) {
        let stamp = self.stamp;
        let is_router = |peer: &&NodeId| self.routers.contains(**peer) || rediff;
        let routers: Vec<NodeId> = differences.whole.iter().filter(is_router).copied().collect();
        let routes: Vec<(NodeId, Vec<IpNet>)> =
            routers.into_iter().map(|r| (r, self.routes_seen(class, r))).collect();
        let Some(stream) = self.streams.by_id.get_mut(&id) else {
            return;
        };
        stream.seen = stamp;
        stream.rediff = false;
        if differences.whole.iter().any(|peer| !stream.sent.contains(*peer))
            || !differences.removed.is_empty()
        {
            let sent = Arc::make_mut(&mut stream.sent);
            for peer in &differences.removed {
                sent.remove(*peer);
            }
            for peer in &differences.whole {
                sent.insert(*peer);
            }
        }
        if differences.users.iter().any(|user| !stream.users.contains(user)) {
            Arc::make_mut(&mut stream.users).extend(differences.users.iter().copied());
        }
        stream.routes.retain(|(router, _)| !differences.removed.contains(router));
        for (router, seen) in routes {
            match stream.routes.binary_search_by_key(&router, |(id, _)| *id) {
                Ok(i) => stream.routes[i].1 = seen,
                Err(i) if !seen.is_empty() => stream.routes.insert(i, (router, seen)),
                Err(_) => {}
            }
        }
    }

    /// Filter and SSH policy, where they differ from what the stream was sent.
    fn rules_fields(&mut self, object: &mut Object, id: StreamId, node: NodeId) {
        let filter = self.compiled.filter(node);
        let ssh = self.compiled.ssh(node);
        let Some(stream) = self.streams.by_id.get_mut(&id) else {
            return;
        };
        let same = stream.filter.as_ref().is_some_and(|old| Arc::ptr_eq(old, &filter) || **old == *filter);
        stream.filter = Some(filter);
        let same_ssh = stream.ssh.as_ref().is_some_and(|old| Arc::ptr_eq(old, &ssh) || **old == *ssh);
        stream.ssh = Some(Arc::clone(&ssh));
        if !same {
            self.filter_field(object, node);
        }
        if !same_ssh {
            object.field("SSHPolicy", &*ssh);
        }
    }

    /// The machine's packet filter, as the named filter `base` (control.md §5.10).
    fn filter_field(&self, object: &mut Object, node: NodeId) {
        let json = object.key("PacketFilters");
        json.extend_from_slice(br#"{"base":"#);
        json.extend(to_json(&*self.compiled.filter(node)));
        json.push(b'}');
    }

    fn difference_fields(
        &mut self,
        object: &mut Object,
        class: Class,
        legacy: bool,
        seen: Stamp,
        differences: &Differences,
        now: Now,
    ) {
        if !differences.users.is_empty() {
            let profiles: Vec<Vec<u8>> =
                differences.users.iter().map(|user| to_json(&self.profile(*user))).collect();
            list(object.key("UserProfiles"), profiles.iter().map(Vec::as_slice));
        }
        if !differences.removed.is_empty() {
            object.field("PeersRemoved", &differences.removed);
        }
        if !differences.whole.is_empty() {
            let mut peers = Vec::with_capacity(differences.whole.len());
            for peer in &differences.whole {
                let mut json = Vec::new();
                self.append_peer(&mut json, class, *peer, legacy, now);
                peers.push(json);
            }
            list(object.key("PeersChanged"), peers.iter().map(Vec::as_slice).filter(|json| !json.is_empty()));
        }
        if !differences.patched.is_empty() {
            let patches: Vec<_> =
                differences.patched.iter().filter_map(|peer| self.patch(*peer, seen)).collect();
            object.field("PeersChangedPatch", &patches);
        }
    }

    /// Lets go of removed machines that every stream has heard of.
    fn forget_old_removals(&mut self) {
        if self.recent.len() > self.live.len() + 1_024 {
            let oldest = self.streams.oldest_seen();
            let live = &self.live;
            self.recent.retain(|stamp, id| *stamp > oldest || live.contains_key(id));
        }
    }
}

/// Joins neighbouring small parts, since each part is a compressed frame of its own.
fn join_small(parts: Vec<Arc<Part>>) -> Vec<Arc<Part>> {
    const SMALL: usize = 16 * 1024;
    let total: usize = parts.iter().map(|p| p.json().len()).sum();
    if total > 2 * SMALL {
        return parts;
    }
    let mut json = Vec::with_capacity(total);
    for part in &parts {
        json.extend_from_slice(part.json());
    }
    vec![Part::new(json)]
}

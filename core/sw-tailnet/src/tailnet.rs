//! The machine: durable state, live facts, policy, streams, under one owner.
//!
//! Inputs decide and fold at once; what they want to be kept stands in [`Tailnet::take_uncommitted`].
//! The driver appends it to the store and calls [`Tailnet::committed`] or [`Tailnet::rolled_back`];
//! until then nothing that was decided leaves through [`Tailnet::poll_output`]. Streams are told the
//! difference between what they were sent and what is, so a roll-back needs no care for them.

mod policy;
mod times;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use ipnet::IpNet;
use sw_tailcfg::{DerpMap, RegisterResponse};
use sw_types::{Instant, NodeId, Now, Rng, UnixTime, UserId};

use crate::bits::SparseBits;
use crate::checks::Checks;
use crate::encode::MapMessage;
use crate::live::{Aspect, Facts, Live, Stamp};
use crate::logins::Logins;
use crate::maps::SharedMessages;
use crate::record::{Audit, Change, Entry, Node, Settings, User};
use crate::routes::Election;
use crate::rules::{AllowAll, Compiled, Engine, Rules, World};
use crate::state::State;
use crate::streams::{EndReason, Haste, StreamId, Streams};

/// What a tailnet is told once.
#[derive(Debug)]
pub struct Config {
    /// The URL that clients know the server by, without trailing slash.
    pub url: String,
    /// Parses policies.
    pub engine: Arc<dyn Engine>,
    /// 32 bytes of the operating system's generator.
    pub seed: [u8; 32],
}

/// A registration or login page that waits for an answer.
pub type Ticket = u64;

/// What the tailnet asks of its driver.
#[derive(Debug)]
pub enum Output {
    /// Send a message on a stream; the stream takes no other until [`Tailnet::on_stream_ready`].
    Map {
        /// To whom.
        stream: StreamId,
        /// What.
        message: MapMessage,
    },
    /// End a stream, after what was sent before.
    End {
        /// Which.
        stream: StreamId,
        /// Why, for the log.
        reason: EndReason,
    },
    /// Answer a registration that had to wait.
    Registered {
        /// Which.
        ticket: Ticket,
        /// With what.
        response: Box<RegisterResponse>,
    },
    /// The answer to a question about an SSH session that said [`crate::CheckDecision::Later`].
    Checked { ticket: Ticket, allowed: bool },
}

/// Why the tailnet wants to be woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    /// Messages that were held back to be merged.
    Flush,
    /// A machine's grace time is over.
    Departure,
    /// An ephemeral machine has been away long enough.
    Ephemeral,
    /// A key expires.
    Expiry,
    /// Login requests grow old.
    Logins,
    /// Questions about SSH sessions grow old.
    Checks,
}

/// Counters, read by the edge for metrics.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stats {
    /// Messages built for one stream alone.
    pub messages_built: u64,
    /// Messages that were built for another stream and shared.
    pub messages_shared: u64,
    /// Full maps.
    pub full_maps: u64,
    /// Blocks of peers encoded.
    pub blocks_encoded: u64,
    /// Times the policy was applied.
    pub compilations: u64,
}

/// One tailnet.
#[derive(Debug)]
pub struct Tailnet {
    pub(crate) config: Config,
    pub(crate) rng: Rng,
    pub(crate) state: State,
    pub(crate) live: BTreeMap<NodeId, Live>,
    pub(crate) world: World,
    pub(crate) rules: Arc<dyn Rules>,
    pub(crate) compiled: Arc<dyn Compiled>,
    pub(crate) election: Election,
    pub(crate) streams: Streams,
    pub(crate) logins: Logins,
    pub(crate) checks: Checks,
    /// The server's own relay map, and the same with what the policy changes in it.
    pub(crate) own_derp_map: DerpMap,
    pub(crate) derp_map: DerpMap,
    pub(crate) stamp: Stamp,
    /// Machines by the stamp of their last change that peers see.
    pub(crate) recent: BTreeMap<Stamp, NodeId>,
    /// Machines of the network that have routes.
    pub(crate) routers: SparseBits,
    pub(crate) stats: Stats,
    pub(crate) shared: SharedMessages,
    pub(crate) outputs: VecDeque<Output>,
    /// Machines whose facts the policy has not seen yet.
    unseen: BTreeSet<NodeId>,
    /// Whether the policy or the people changed, so that every machine must be looked at.
    all_unseen: bool,
    uncommitted: Vec<Entry>,
    undo: Vec<Change>,
    departures: BTreeSet<(Instant, NodeId)>,
    ephemerals: BTreeSet<(Instant, NodeId)>,
    expiries: BTreeSet<(UnixTime, NodeId)>,
}

impl Tailnet {
    /// Takes up a stored state. `facts` are those saved of machines, as [`Self::unsaved_facts`] gave them.
    pub fn new(config: Config, state: State, facts: Vec<(NodeId, Facts)>, now: Now) -> Self {
        let rules: Arc<dyn Rules> = Arc::new(AllowAll);
        let compiled = rules.compile(&World::default(), None);
        let rng = Rng::new(config.seed);
        let mut tailnet = Self {
            config,
            rng,
            state: State::new(state.settings().clone()),
            live: BTreeMap::new(),
            world: World::default(),
            rules,
            compiled,
            election: Election::default(),
            streams: Streams::default(),
            logins: Logins::default(),
            checks: Checks::default(),
            own_derp_map: DerpMap::default(),
            derp_map: DerpMap::default(),
            stamp: 1,
            recent: BTreeMap::new(),
            routers: SparseBits::default(),
            stats: Stats::default(),
            shared: SharedMessages::default(),
            outputs: VecDeque::new(),
            unseen: BTreeSet::new(),
            all_unseen: true,
            uncommitted: Vec::new(),
            undo: Vec::new(),
            departures: BTreeSet::new(),
            ephemerals: BTreeSet::new(),
            expiries: BTreeSet::new(),
        };
        let mut saved: BTreeMap<NodeId, Facts> = facts.into_iter().collect();
        let ephemeral_after = tailnet.ephemeral_after(&state);
        for change in state.records() {
            if let Change::Node(id, Some(node)) = &change {
                tailnet.live.insert(*id, Live::new(saved.remove(id).unwrap_or_default()));
                if node.ephemeral {
                    tailnet.ephemerals.insert((now.mono + ephemeral_after, *id));
                }
            }
            tailnet.fold(change);
        }
        tailnet.load_policy();
        tailnet.settle(now);
        tailnet
    }

    /// The durable state, for queries.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// The configuration it was made with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The relay map in force.
    pub fn derp_map(&self) -> &DerpMap {
        &self.derp_map
    }

    /// What is decided but not yet kept. Empty: nothing to append.
    pub fn take_uncommitted(&mut self) -> Vec<Entry> {
        std::mem::take(&mut self.uncommitted)
    }

    /// The entries of the last [`Self::take_uncommitted`] are kept.
    pub fn committed(&mut self) {
        self.undo.clear();
        self.checks.kept();
    }

    /// The entries of the last [`Self::take_uncommitted`] could not be kept: the state is again what
    /// it was before they were decided, and whoever waits for an answer must be told.
    pub fn rolled_back(&mut self, now: Now) {
        self.uncommitted.clear();
        let policy_changed = self.undo.iter().any(|change| matches!(change, Change::Policy(_)));
        for change in std::mem::take(&mut self.undo).into_iter().rev() {
            self.fold(change.clone());
            self.await_ephemeral(&change, now);
        }
        self.outputs.retain(|o| !matches!(o, Output::Registered { .. } | Output::Checked { .. }));
        self.checks.rolled_back();
        if policy_changed {
            self.load_policy();
        }
        self.settle(now);
    }

    /// Whether anything decided is not yet kept.
    pub fn is_uncommitted(&self) -> bool {
        !self.uncommitted.is_empty() || !self.undo.is_empty()
    }

    /// Decides one entry: folds it now, to be appended by the driver.
    pub(crate) fn record(&mut self, actor: &str, audit: Vec<Audit>, changes: Vec<Change>, now: Now) {
        for change in &changes {
            let undo = self.fold(change.clone());
            self.undo.push(undo);
            self.await_ephemeral(change, now);
        }
        self.uncommitted.push(Entry { at: now.wall, actor: actor.to_owned(), audit, changes });
    }

    /// Folds one change into the state and marks what follows from it.
    fn fold(&mut self, change: Change) -> Change {
        let undo = self.state.apply(change.clone());
        match (&change, &undo) {
            (Change::Node(id, new), Change::Node(_, old)) => {
                self.on_node_changed(*id, old.as_deref(), new.as_deref());
            }
            (Change::User(id, new), Change::User(_, old)) => {
                self.on_user_changed(*id, old.as_deref(), new.as_deref());
            }
            (Change::Settings(Some(new)), Change::Settings(Some(old))) => self.on_settings_changed(old, new),
            (Change::Policy(_), _) => self.all_unseen = true,
            _ => {}
        }
        undo
    }

    fn on_node_changed(&mut self, id: NodeId, old: Option<&Node>, new: Option<&Node>) {
        if let Some(expiry) = old.and_then(|n| n.expiry) {
            self.expiries.remove(&(expiry, id));
        }
        if let Some(expiry) = new.and_then(|n| n.expiry) {
            self.expiries.insert((expiry, id));
        }
        if new.is_none() {
            self.forget(id);
            return;
        }
        let live = self.live.entry(id).or_insert_with(|| Live::new(Facts::default()));
        if old.is_none() {
            live.unsaved = true;
        }
        // Who owns the machines that a class sees is part of what is kept for the class.
        self.streams.audiences.clear();
        self.unseen.insert(id);
        self.refresh_routes(id);
        self.touch(id, &[Aspect::Full, Aspect::Own]);
    }

    /// Takes a removed machine out of everything that is not durable.
    fn forget(&mut self, id: NodeId) {
        let Some(live) = self.live.remove(&id) else {
            return;
        };
        for route in self.election.set_routes(id, &live.routes, &[]) {
            self.elect(route);
        }
        self.routers.remove(id);
        self.world.nodes.remove(&id);
        self.unseen.insert(id);
        self.stamp += 1;
        self.recent.remove(&live.stamps.any);
        self.recent.insert(self.stamp, id);
        self.streams.touch_block(id, self.stamp);
        self.streams.remove_member(id);
        self.streams.wake_viewers(&*self.compiled, live.class, Haste::Now);
        self.streams.end_of_node(id);
    }

    fn on_user_changed(&mut self, id: UserId, old: Option<&User>, new: Option<&User>) {
        match new {
            Some(user) => self.world.users.insert(id, Arc::new(user.clone())),
            None => self.world.users.remove(&id),
        };
        self.all_unseen = true;
        self.streams.users_changed(id, self.stamp + 1);
        let cut = |user: Option<&User>| user.is_some_and(|u| u.suspended);
        let roles = |user: Option<&User>| user.map(|u| u.role);
        if cut(old) != cut(new) || roles(old) != roles(new) {
            let own: Vec<NodeId> =
                self.state.nodes().filter(|n| n.user() == Some(id)).map(|n| n.id).collect();
            for node in own {
                self.touch(node, &[Aspect::Full, Aspect::Own]);
            }
        }
        self.stamp += 1;
    }

    fn on_settings_changed(&mut self, old: &Settings, new: &Settings) {
        if old == new {
            return;
        }
        self.stamp += 1;
        self.streams.settings_changed(self.stamp);
        if !new.record_connections {
            self.forget_connections();
        }
        let is_renamed = old.base_domain != new.base_domain || old.stable_suffix != new.stable_suffix;
        let aspects: &[Aspect] = if is_renamed { &[Aspect::Full, Aspect::Own] } else { &[Aspect::Own] };
        let all: Vec<NodeId> = self.live.keys().copied().collect();
        for id in all {
            self.touch(id, aspects);
        }
    }

    /// Notes that aspects of a machine changed, and wakes the streams that must hear of it.
    pub(crate) fn touch(&mut self, id: NodeId, aspects: &[Aspect]) {
        self.stamp += 1;
        let stamp = self.stamp;
        let Some(live) = self.live.get_mut(&id) else {
            return;
        };
        let mut seen_by_peers = false;
        let mut haste = Haste::Hint;
        for aspect in aspects {
            let (changed, wanted) = match aspect {
                Aspect::Full => (&mut live.stamps.full, Haste::Now),
                Aspect::Own => (&mut live.stamps.own, Haste::Hint),
                Aspect::Endpoints => (&mut live.stamps.endpoints, Haste::Hint),
                Aspect::Home => (&mut live.stamps.home, Haste::Soon),
                Aspect::Disco => (&mut live.stamps.disco, Haste::Soon),
                Aspect::Online => (&mut live.stamps.online, Haste::Hint),
            };
            *changed = stamp;
            haste = haste.max(wanted);
            seen_by_peers |= *aspect != Aspect::Own;
        }
        if aspects.contains(&Aspect::Own) {
            self.streams.wake_node(id);
        }
        if seen_by_peers {
            live.json = [None, None];
            self.recent.remove(&live.stamps.any);
            live.stamps.any = stamp;
            self.recent.insert(stamp, id);
            self.streams.touch_block(id, stamp);
            self.streams.wake_viewers(&*self.compiled, live.class, haste);
        }
    }

    /// Works out anew which routes a machine serves.
    pub(crate) fn refresh_routes(&mut self, id: NodeId) {
        let (Some(node), Some(live)) = (self.state.node(id), self.live.get_mut(&id)) else {
            return;
        };
        let announced = &live.facts.host.routable_ips;
        let mut routes: Vec<IpNet> =
            announced.iter().filter(|r| node.approved_routes.contains(r)).copied().collect();
        routes.sort();
        routes.dedup();
        if routes == live.routes {
            return;
        }
        let old = std::mem::replace(&mut live.routes, routes.clone());
        if routes.is_empty() {
            self.routers.remove(id);
        } else {
            self.routers.insert(id);
        }
        for route in self.election.set_routes(id, &old, &routes) {
            self.elect(route);
        }
        self.refresh_serving(id);
        self.unseen.insert(id);
        self.touch(id, &[Aspect::Full, Aspect::Own]);
    }

    /// Holds an election and tells about its outcome.
    pub(crate) fn elect(&mut self, route: IpNet) {
        let live = &self.live;
        let state = &self.state;
        let fit = |id: NodeId| {
            live.get(&id).is_some_and(|l| l.presence.is_online())
                && state.node(id).is_some_and(|n| n.approved)
        };
        if let Some((old, new)) = self.election.elect(route, fit) {
            for id in [old, new].into_iter().flatten() {
                self.refresh_serving(id);
                self.touch(id, &[Aspect::Full, Aspect::Own]);
            }
        }
    }

    fn refresh_serving(&mut self, id: NodeId) {
        if let Some(live) = self.live.get_mut(&id) {
            let serves = |r: &&IpNet| crate::routes::is_exit(r) || self.election.primary(r) == Some(id);
            live.serving = live.routes.iter().filter(serves).copied().collect();
        }
    }

    /// Facts that changed since the last call, to be saved when there is time.
    pub fn unsaved_facts(&mut self) -> Vec<(NodeId, Facts)> {
        let changed = self.live.iter_mut().filter(|(_, live)| live.unsaved);
        changed
            .map(|(id, live)| {
                live.unsaved = false;
                (*id, live.facts.clone())
            })
            .collect()
    }

    /// The next thing to do for the driver; `None`: sleep until [`Self::next_deadline`].
    ///
    /// Gives nothing while something is uncommitted.
    pub fn poll_output(&mut self, now: Now) -> Option<Output> {
        if self.is_uncommitted() {
            return None;
        }
        if let Some(output) = self.outputs.pop_front() {
            return Some(output);
        }
        self.next_map(now)
    }
}

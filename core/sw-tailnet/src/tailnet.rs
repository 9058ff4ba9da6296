//! The machine: durable state, live facts, policy, streams, under one owner.
//!
//! Inputs decide and fold at once; what they want to be kept stands in [`Tailnet::take_uncommitted`].
//! The driver appends it to the store and calls [`Tailnet::committed`] or [`Tailnet::rolled_back`];
//! until then nothing that was decided leaves through [`Tailnet::poll_output`]. Streams are told the
//! difference between what they were sent and what is, so a roll-back needs no care for them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use sw_tailcfg::{DerpMap, RegisterResponse};
use sw_types::{Instant, NodeId, Now, Rng, UnixTime, UserId};

use crate::bits::SparseBits;
use crate::checks::Checks;
use crate::encode::MapMessage;
use crate::live::{Aspect, Facts, Live, OUTSIDE, Presence, Stamp};
use crate::logins::Logins;
use crate::maps::SharedMessages;
use crate::record::{Audit, Change, Entry, Node, Settings, User};
use crate::routes::Election;
use crate::rules::{AllowAll, Compiled, Engine, NodeFacts, Rules, World};
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

    /// Parses the stored policy into rules. A text that this program cannot parse refuses everything.
    fn load_policy(&mut self) {
        self.rules = match self.state.policy() {
            None => self.config.engine.without_policy(&self.world),
            Some(policy) => match self.config.engine.load(&policy.text, &self.world) {
                Ok(rules) => rules,
                Err(error) => {
                    tracing::error!(%error, "the stored policy cannot be read: nobody may reach anybody");
                    Arc::new(crate::rules::RefuseAll)
                }
            },
        };
        self.all_unseen = true;
        self.refresh_relays();
    }

    /// Installs rules that were parsed for a change of the policy.
    pub(crate) fn install_rules(&mut self, rules: Arc<dyn Rules>) {
        self.rules = rules;
        self.all_unseen = true;
        self.refresh_relays();
    }

    /// Applies the policy to the world as it is, if it changed, and marks what that changes.
    pub(crate) fn settle(&mut self, now: Now) {
        // Approval of a route changes the facts again, so a second round may follow; then it is stable.
        for _ in 0..3 {
            if self.unseen.is_empty() && !self.all_unseen {
                return;
            }
            let all = std::mem::take(&mut self.all_unseen);
            let unseen = std::mem::take(&mut self.unseen);
            let unseen: Vec<NodeId> =
                if all { self.live.keys().copied().collect() } else { unseen.into_iter().collect() };
            for id in &unseen {
                self.refresh_world(*id);
            }
            for id in &unseen {
                self.approve_routes(*id, now);
            }
            self.compile(&unseen);
        }
    }

    /// What the policy can know of a machine may have changed.
    pub(crate) fn see_again(&mut self, id: NodeId) {
        self.unseen.insert(id);
    }

    fn refresh_world(&mut self, id: NodeId) {
        let (Some(node), Some(live)) = (self.state.node(id), self.live.get_mut(&id)) else {
            return;
        };
        let facts = node_facts(node, live);
        if live.known.as_deref() != Some(&facts) {
            let facts = Arc::new(facts);
            live.known = Some(Arc::clone(&facts));
            self.world.nodes.insert(id, facts);
        }
    }

    fn compile(&mut self, unseen: &[NodeId]) {
        self.stats.compilations += 1;
        let before = Arc::clone(&self.compiled);
        self.compiled = self.rules.compile(&self.world, Some(&before));
        self.stamp += 1;
        if Arc::ptr_eq(&before, &self.compiled) {
            for id in unseen {
                self.reclassify(*id, false);
            }
            return;
        }
        self.streams.rules_changed(self.stamp);
        let ids: Vec<NodeId> = self.live.keys().copied().collect();
        for id in ids {
            self.reclassify(id, true);
        }
    }

    fn reclassify(&mut self, id: NodeId, rules_changed: bool) {
        let admitted = self.is_admitted(id);
        let Some(live) = self.live.get_mut(&id) else {
            return;
        };
        let class = if admitted { self.compiled.class(id) } else { OUTSIDE };
        if class != live.class || rules_changed {
            let before = std::mem::replace(&mut live.class, class);
            self.streams.move_member(id, class);
            if !rules_changed {
                // With new rules every stream compares all it sees anyway.
                self.streams.wake_viewers(&*self.compiled, before, Haste::Now);
                self.touch(id, &[Aspect::Full, Aspect::Own]);
            }
        }
        let Some(live) = self.live.get_mut(&id) else {
            return;
        };
        let attributes = self.compiled.attributes(id);
        if attributes != live.attributes {
            live.attributes = attributes;
            self.touch(id, &[Aspect::Own, Aspect::Full]);
        }
    }

    /// Whether a machine takes part in the network: let in, and its owner not suspended.
    pub(crate) fn is_admitted(&self, id: NodeId) -> bool {
        self.state.node(id).is_some_and(|node| {
            let suspended = |user: UserId| self.state.user(user).is_some_and(|u| u.suspended);
            node.approved && !node.user().is_some_and(suspended)
        })
    }

    /// Approves announced routes that the policy approves (policy.md §15.2). Never takes approval back.
    fn approve_routes(&mut self, id: NodeId, now: Now) {
        let (Some(node), Some(live)) = (self.state.node(id), self.live.get(&id)) else {
            return;
        };
        let Some(facts) = &live.known else {
            return;
        };
        let is_new = |r: &&IpNet| !node.approved_routes.contains(r);
        let approves = |r: &&IpNet| is_new(r) && self.rules.approves_route(&self.world, facts, **r);
        let new: Vec<IpNet> = facts.advertised.iter().filter(approves).copied().collect();
        if new.is_empty() {
            return;
        }
        let mut node = node.clone();
        node.approved_routes.extend(new);
        node.approved_routes.sort();
        node.approved_routes.dedup();
        let new = crate::admin::join_display(&node.approved_routes);
        let audit = Audit {
            what: "machine.routes".to_owned(),
            target: node.label.clone(),
            old: None,
            new: Some(new),
        };
        self.record("policy", vec![audit], vec![Change::Node(id, Some(Box::new(node)))], now);
    }

    /// Sets what a machine's presence is and arms what follows from it.
    pub(crate) fn set_presence(&mut self, id: NodeId, presence: Presence, now: Now) {
        let ephemeral_after = self.ephemeral_after(&self.state);
        let ephemeral = self.state.node(id).is_some_and(|n| n.ephemeral);
        let Some(live) = self.live.get_mut(&id) else {
            return;
        };
        let before = std::mem::replace(&mut live.presence, presence);
        if before == presence {
            return;
        }
        if let Presence::Leaving { until } = before {
            self.departures.remove(&(until, id));
        }
        match presence {
            Presence::Online => self.ephemerals.retain(|(_, node)| *node != id),
            Presence::Leaving { until } => {
                self.departures.insert((until, id));
                live.facts.last_seen = Some(now.wall);
                live.unsaved = true;
            }
            Presence::Offline if ephemeral => drop(self.ephemerals.insert((now.mono + ephemeral_after, id))),
            Presence::Offline => {}
        }
        if !presence.is_online() {
            (live.links, live.told) = (None, None);
        }
        if before.is_online() != presence.is_online() {
            let routes = live.routes.clone();
            self.touch(id, &[Aspect::Online]);
            for route in routes.into_iter().filter(|r| !crate::routes::is_exit(r)) {
                self.elect(route);
            }
        }
    }

    /// An ephemeral machine that has not come yet, or is away, does not stay for ever.
    fn await_ephemeral(&mut self, change: &Change, now: Now) {
        let Change::Node(id, Some(node)) = change else { return };
        let away = self.live.get(id).is_some_and(|live| live.presence == Presence::Offline);
        if node.ephemeral && away && !self.ephemerals.iter().any(|(_, waiting)| waiting == id) {
            let at = now.mono + self.ephemeral_after(&self.state);
            self.ephemerals.insert((at, *id));
        }
    }

    fn ephemeral_after(&self, state: &State) -> Duration {
        Duration::from_secs(u64::from(state.settings().ephemeral_s))
    }

    /// When to call [`Self::on_deadline`], and why.
    pub fn next_deadline(&self, now: Now) -> Option<(Instant, Wake)> {
        let wall = |at: UnixTime| now.mono + at.saturating_since(now.wall);
        [
            self.streams.flush_at().map(|at| (at, Wake::Flush)),
            self.departures.first().map(|(at, _)| (*at, Wake::Departure)),
            self.ephemerals.first().map(|(at, _)| (*at, Wake::Ephemeral)),
            self.expiries
                .range((now.wall, NodeId(i64::MAX))..)
                .next()
                .map(|(at, _)| (wall(*at), Wake::Expiry)),
            self.logins.next_deadline().map(|at| (at, Wake::Logins)),
            self.checks.next_deadline().map(|at| (at, Wake::Checks)),
        ]
        .into_iter()
        .flatten()
        .min_by_key(|(at, _)| *at)
    }

    /// Does what is due.
    pub fn on_deadline(&mut self, now: Now) {
        while let Some((until, id)) = self.departures.first().copied().filter(|(at, _)| *at <= now.mono) {
            self.departures.remove(&(until, id));
            self.set_presence(id, Presence::Offline, now);
        }
        while let Some((at, id)) = self.ephemerals.first().copied().filter(|(at, _)| *at <= now.mono) {
            self.ephemerals.remove(&(at, id));
            self.remove_ephemeral(id, now);
        }
        self.pass_expiries(now);
        self.renew_logins(now);
        let given_up = self.checks.expire(now).into_iter();
        self.outputs.extend(given_up.map(|ticket| Output::Checked { ticket, allowed: false }));
        self.streams.on_deadline(now);
        self.settle(now);
    }

    fn remove_ephemeral(&mut self, id: NodeId, now: Now) {
        let away = self.live.get(&id).is_some_and(|l| l.presence == Presence::Offline);
        let Some(node) = self.state.node(id).filter(|n| n.ephemeral && away) else {
            return;
        };
        let audit =
            Audit { what: "machine.removed".to_owned(), target: node.label.clone(), old: None, new: None };
        self.record("server", vec![audit], vec![Change::Node(id, None)], now);
    }

    /// Tells about keys that expired since the last call.
    fn pass_expiries(&mut self, now: Now) {
        let passed: Vec<(UnixTime, NodeId)> =
            self.expiries.range(..=(now.wall, NodeId(i64::MAX))).copied().collect();
        for (at, id) in passed {
            // WHY removed: the set holds only what is still to come; a new expiry puts it back.
            self.expiries.remove(&(at, id));
            self.touch(id, &[Aspect::Full, Aspect::Own]);
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

fn node_facts(node: &Node, live: &Live) -> NodeFacts {
    let mut advertised = live.facts.host.routable_ips.clone();
    advertised.sort();
    advertised.dedup();
    let mut posture = BTreeMap::new();
    for (key, value) in [
        ("node:os", &live.facts.host.os),
        ("node:osVersion", &live.facts.host.os_version),
        ("node:tsVersion", &live.facts.host.ipn_version),
    ] {
        if !value.is_empty() {
            posture.insert(key.to_owned(), value.clone());
        }
    }
    NodeFacts {
        id: node.id,
        name: node.label.clone(),
        user: node.user(),
        tags: node.tags().to_vec(),
        addresses: node.addresses(),
        advertised,
        routes: live.routes.clone(),
        posture,
    }
}

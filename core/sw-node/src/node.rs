//! The node: login and run states, and everything that follows from them.
//!
//! ```text
//!   prefs, login, logout ─┐                       ┌─> Control(…)      register, map stream, updates
//!   answers of control  ──┤                       ├─> Machine(…)      addresses, routes, DNS
//!   map messages        ──┼─> Node ─ poll_output ─┼─> Peers, Filter, RelayMap, Resolver, Identity
//!   endpoints, NetInfo  ──┤                       ├─> Save, CacheNetmap
//!   time                ──┘                       └─> Event(…)        what programs on the machine hear
//! ```

mod face;
mod facts;
mod refresh;

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use sw_tailcfg::{EndpointType, Hostinfo, MapResponse, NetInfo, PingRequest, RegisterResponse, Service};
use sw_types::local::{BackendState, Persist, Prefs, Problem, SecretText, UserProfile};
use sw_types::problem::Slug;
use sw_types::{DiscoKey, Instant, LockKey, NodeId, NodeKey, NodePrivate, Now, RelayMap, Secret, UserId};

use crate::control::{
    ControlEvent, ControlOutput, ControlSession, RequestFailure, RequestId, SessionKeys, is_past,
};
use crate::desired::{
    DnsFacts, FilterConfig, MachineConfig, PeerConfig, filter_config, machine_plan, peer_config,
};
use crate::netmap::{Changes, Netmap};
use crate::resolve::ResolverConfig;

pub use self::face::{Event, NodeConfig, Output, ProvenServer};
pub use self::facts::profile_of;
use self::facts::{hostinfo, is_of_key, old_key, session_keys};

/// Expiry is looked at again at least this often, since clocks may be set.
const EXPIRY_CHECK_MAX: Duration = Duration::from_secs(3600);

/// What becomes of what is known of the server when the identity is dropped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Server {
    Kept,
    Forgotten,
}

/// The node core.
#[derive(Debug)]
pub struct Node {
    config: NodeConfig,
    prefs: Prefs,
    control: ControlSession,
    netmap: Option<Netmap>,
    /// The stream whose first message has been folded.
    folded_stream: Option<RequestId>,
    /// The network stems from the cache, the server has not spoken yet.
    is_cached: bool,
    state: BackendState,
    auth_url: String,
    problem: Option<Problem>,
    machine_ready: bool,
    last_ping_url: String,
    lan: Vec<IpNet>,
    net_info: Option<NetInfo>,
    services: Vec<Service>,
    published: HashSet<NodeKey>,
    last_machine: Option<MachineConfig>,
    last_resolver: Option<Arc<ResolverConfig>>,
    last_filter: Option<FilterConfig>,
    expiry_check: Option<Instant>,
    pending_auth_key: Option<Secret<String>>,
    outputs: VecDeque<Output>,
}

impl Node {
    /// Takes up a profile. `prefs` with its `Config` come from the state file, `cached` from the netmap cache.
    pub fn new(config: NodeConfig, prefs: Prefs, cached: Option<MapResponse>, now: Now) -> Self {
        let keys = session_keys(&prefs, config.lock);
        let hostinfo = hostinfo(&config, &prefs, None, &[]);
        let mut control = ControlSession::new(keys, config.disco, Arc::new(hostinfo), config.seed);
        control.set_ephemeral(config.is_ephemeral);
        let mut node = Self {
            config,
            prefs,
            control,
            netmap: None,
            folded_stream: None,
            is_cached: false,
            state: BackendState::NoState,
            auth_url: String::new(),
            problem: None,
            machine_ready: false,
            last_ping_url: String::new(),
            lan: Vec::new(),
            net_info: None,
            services: Vec::new(),
            published: HashSet::new(),
            last_machine: None,
            last_resolver: None,
            last_filter: None,
            expiry_check: None,
            pending_auth_key: None,
            outputs: VecDeque::new(),
        };
        if node.has_key() {
            node.outputs.push_back(Output::Identity(Some(node.control.keys().node.public())));
            if let Some(message) =
                cached.filter(|message| is_of_key(message, &node.control.keys().node.public()))
            {
                node.is_cached = true;
                if let Ok((netmap, _)) = Netmap::from_first(message, None, now.wall) {
                    node.netmap = Some(netmap);
                }
            }
            if node.prefs.want_running {
                node.control.resume(now);
            }
        }
        node.refresh_everything(now);
        node
    }

    /// Whether this node has a key of its own network.
    pub fn has_key(&self) -> bool {
        let stored = self.prefs.config.as_ref().is_some_and(|config| !config.private_node_key.is_empty());
        stored && !self.prefs.logged_out
    }

    /// What the user wants, with secrets.
    pub fn prefs(&self) -> &Prefs {
        &self.prefs
    }

    /// The network, if known.
    pub fn netmap(&self) -> Option<&Netmap> {
        self.netmap.as_ref()
    }

    /// Where the node stands.
    pub fn state(&self) -> BackendState {
        self.state
    }

    /// Where a person has to go, or empty.
    pub fn auth_url(&self) -> &str {
        &self.auth_url
    }

    /// The last problem that was told, until something better happens.
    pub fn problem(&self) -> Option<&Problem> {
        self.problem.as_ref()
    }

    /// The session with the server.
    pub fn control(&self) -> &ControlSession {
        &self.control
    }

    /// Whether the network is remembered and not yet confirmed.
    pub fn is_cached(&self) -> bool {
        self.is_cached
    }

    /// The node's key.
    pub fn key(&self) -> Option<NodeKey> {
        self.has_key().then(|| self.control.keys().node.public())
    }

    /// Takes new preferences (`set`, `up`, `down`).
    pub fn on_prefs(&mut self, mut prefs: Prefs, now: Now) {
        prefs.config.clone_from(&self.prefs.config);
        if prefs == self.prefs {
            return;
        }
        let old = std::mem::replace(&mut self.prefs, prefs);
        self.outputs.push_back(Output::Save);
        self.outputs.push_back(Output::Event(Event::PrefsChanged));
        self.update_hostinfo(now);
        match (old.want_running, self.prefs.want_running) {
            (false, true) if self.has_key() => self.control.resume(now),
            (true, false) => self.control.pause(),
            (true, true) | (false, false | true) => {}
        }
        self.refresh_everything(now);
    }

    /// Starts a session with these preferences (localapi-cli.md §A3 `start`). `key` is a fresh one, used if a new key
    /// is needed.
    pub fn on_start(&mut self, update: Option<Prefs>, auth_key: Secret<String>, key: NodePrivate, now: Now) {
        let server_before = self.prefs.control_url.clone();
        if let Some(mut prefs) = update {
            prefs.config.clone_from(&self.prefs.config);
            if server_before != prefs.control_url && !server_before.is_empty() {
                self.forget_identity(Server::Forgotten, now);
                prefs.config.clone_from(&self.prefs.config);
            }
            self.prefs = prefs;
            self.outputs.push_back(Output::Event(Event::PrefsChanged));
        }
        self.problem = None;
        self.update_hostinfo(now);
        let needs_key = !self.has_key() || self.state == BackendState::NeedsLogin;
        if auth_key.is_empty() {
            if self.prefs.want_running && !needs_key {
                self.control.resume(now);
            }
        } else {
            self.register_with(Some(auth_key), needs_key.then_some(key));
        }
        self.outputs.push_back(Output::Save);
        self.refresh_everything(now);
    }

    /// Joins the network of a server that answered with the key its invite names.
    pub fn on_join(
        &mut self,
        prefs: Prefs,
        server: ProvenServer,
        auth_key: Secret<String>,
        key: NodePrivate,
        now: Now,
    ) {
        self.forget_identity(Server::Forgotten, now);
        let config = self.prefs.config.get_or_insert_default();
        config.server_key = server.key;
        config.server_urls = server.further_urls;
        self.prefs.control_url = server.url;
        self.on_start(Some(prefs), auth_key, key, now);
    }

    /// Forgets the network and its server, and all settings but whose machine this is. The server has been told.
    pub fn on_leave(&mut self, now: Now) {
        self.forget_identity(Server::Forgotten, now);
        let config = self.prefs.config.take();
        let operator_user = std::mem::take(&mut self.prefs.operator_user);
        self.prefs = Prefs { config, operator_user, ..Prefs::default() };
        self.problem = None;
        self.outputs.push_back(Output::Save);
        self.outputs.push_back(Output::Event(Event::PrefsChanged));
        self.refresh_everything(now);
    }

    /// Takes up another profile, as [`Self::new`] does at a start. The server of the old one is told nothing: it sees
    /// the machine go, and come back. `lock` is the profile's own.
    pub fn on_profile(&mut self, prefs: Prefs, lock: LockKey, now: Now) {
        self.netmap = None;
        self.folded_stream = None;
        self.is_cached = false;
        self.auth_url.clear();
        self.problem = None;
        // Peers and machine of the old profile go while its prefs still say whose they are.
        self.refresh_everything(now);
        self.config.lock = lock;
        self.control.start_over(session_keys(&prefs, lock));
        self.prefs = prefs;
        let key = self.has_key().then(|| self.control.keys().node.public());
        self.outputs.push_back(Output::Identity(key));
        self.outputs.push_back(Output::Event(Event::PrefsChanged));
        self.update_hostinfo(now);
        if key.is_some() && self.prefs.want_running {
            self.control.resume(now);
        }
        self.refresh_everything(now);
    }

    /// Asks for a login by a person, with a fresh key.
    pub fn on_login_interactive(&mut self, key: NodePrivate, now: Now) {
        self.problem = None;
        self.control.forget_auth_key();
        if self.control.is_registered() || self.auth_url.is_empty() {
            self.register_with(None, Some(key));
        } else {
            let url = self.auth_url.clone();
            self.outputs.push_back(Output::Event(Event::BrowseToUrl(url)));
        }
        self.drain_control(now);
    }

    /// A fresh key that was asked for by [`Output::WantNodeKey`].
    pub fn on_node_key(&mut self, key: NodePrivate, now: Now) {
        let auth_key = self.pending_auth_key.take();
        self.register_with(auth_key, Some(key));
        self.drain_control(now);
    }

    /// Signs out: the server is told, the keys are dropped whatever it says.
    pub fn on_logout(&mut self, now: Now) {
        self.prefs.want_running = false;
        if self.has_key() {
            self.control.log_out();
            self.drain_control(now);
        }
        self.forget_identity(Server::Kept, now);
        self.prefs.logged_out = true;
        self.outputs.push_back(Output::Save);
        self.outputs.push_back(Output::Event(Event::PrefsChanged));
        self.refresh_everything(now);
    }

    /// The answer to a registration. `lock` stays as it is.
    pub fn on_register_answer(
        &mut self,
        id: RequestId,
        answer: Result<RegisterResponse, RequestFailure>,
        now: Now,
    ) {
        self.control.on_register_answer(id, answer, now);
        self.drain_control(now);
    }

    /// The server's key (`mkey:` text) was seen for the first time; from here on no other is accepted.
    pub fn on_server_key(&mut self, key: String) {
        let persist = self.prefs.config.get_or_insert_default();
        if persist.server_key.is_empty() {
            persist.server_key = key;
            self.outputs.push_back(Output::Save);
        }
    }

    /// Why a request could not be made, in the users' words; shown until something works.
    pub fn on_control_problem(&mut self, problem: Problem) {
        if self.problem.as_ref() != Some(&problem) {
            self.problem = Some(problem.clone());
            // Only a user who waits for a login needs to hear of it at once; a running node goes on.
            if self.netmap.is_none() {
                self.outputs.push_back(Output::Event(Event::Problem(problem)));
            }
        }
    }

    /// A frame of the map stream.
    pub fn on_map_message(&mut self, id: RequestId, message: MapResponse, now: Now) {
        let has_map = !message.keep_alive;
        if !self.control.on_map_frame(id, has_map, now) {
            return;
        }
        self.problem = None;
        if let Some(ping) = message.ping_request.clone().filter(|ping| ping.url != self.last_ping_url) {
            self.last_ping_url.clone_from(&ping.url);
            self.outputs.push_back(Output::Ping(ping));
        }
        if !message.pop_browser_url.is_empty() {
            self.outputs.push_back(Output::Event(Event::BrowseToUrl(message.pop_browser_url.clone())));
        }
        if !has_map {
            if let Some(netmap) = &mut self.netmap {
                let _clock_only = netmap.apply(message, now.wall);
            }
            return;
        }
        let changes = if self.folded_stream == Some(id) {
            self.netmap.as_mut().map(|netmap| netmap.apply(message, now.wall))
        } else {
            match Netmap::from_first(message, self.netmap.as_ref(), now.wall) {
                Ok((netmap, changes)) => {
                    self.folded_stream = Some(id);
                    self.netmap = Some(netmap);
                    Some(changes)
                }
                Err(error) => {
                    tracing::warn!(%error, "map stream");
                    self.on_map_ended(id, now);
                    return;
                }
            }
        };
        self.is_cached = false;
        if let Some(changes) = changes {
            self.refresh(&changes, now);
            if !changes.is_empty() {
                self.outputs.push_back(Output::CacheNetmap);
            }
        }
    }

    /// The map stream ended.
    pub fn on_map_ended(&mut self, id: RequestId, now: Now) {
        self.control.on_map_ended(id, now);
        self.drain_control(now);
    }

    /// The answer to an update.
    pub fn on_update_answer(&mut self, id: RequestId, answer: Result<(), RequestFailure>, now: Now) {
        self.control.on_update_answer(id, answer, now);
        self.drain_control(now);
    }

    /// Where peers may find this node.
    pub fn on_endpoints(&mut self, endpoints: Vec<(SocketAddr, EndpointType)>, now: Now) {
        self.control.set_endpoints(endpoints, now);
        self.drain_control(now);
    }

    /// What a netcheck found.
    pub fn on_net_info(&mut self, info: NetInfo, now: Now) {
        self.net_info = Some(info);
        self.update_hostinfo(now);
    }

    /// The ports of services that peers may use.
    pub fn on_services(&mut self, services: Vec<Service>, now: Now) {
        self.services = services;
        self.update_hostinfo(now);
    }

    /// The machine's other networks, and how it resolves names.
    pub fn on_network(&mut self, lan: Vec<IpNet>, dns_facts: DnsFacts, now: Now) {
        self.lan = lan;
        self.config.dns_facts = dns_facts;
        self.refresh_machine(now);
    }

    /// The network below has changed: waiting tries are made at once.
    pub fn on_link_change(&mut self, now: Now) {
        self.control.on_link_change(now);
        self.drain_control(now);
    }

    /// The wanted state of the machine has been applied for the first time, well or badly.
    pub fn on_machine_ready(&mut self, now: Now) {
        if !self.machine_ready && self.last_machine.is_some() {
            self.machine_ready = true;
            self.update_state(now);
        }
    }

    /// Does what is due.
    pub fn on_deadline(&mut self, now: Now) {
        self.control.on_deadline(now);
        if self.expiry_check.is_some_and(|at| at <= now.mono) {
            let everyone = self.netmap.as_ref().map(Changes::everything).unwrap_or_default();
            self.refresh(&everyone, now);
        }
        self.drain_control(now);
    }

    /// When [`Self::on_deadline`] wants to be called.
    pub fn next_deadline(&self) -> Option<Instant> {
        [self.control.next_deadline(), self.expiry_check].into_iter().flatten().min()
    }

    /// What the edge shall do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn register_with(&mut self, auth_key: Option<Secret<String>>, key: Option<NodePrivate>) {
        match key {
            Some(key) if self.has_key() => self.control.register_with_new_key(key, auth_key),
            Some(node) => {
                let old = old_key(&self.prefs);
                self.control.set_keys(SessionKeys { node, old, lock: self.config.lock });
                self.control.register(auth_key);
            }
            None => self.control.register(auth_key),
        }
    }

    fn drain_control(&mut self, now: Now) {
        while let Some(event) = self.control.poll_event() {
            self.on_control_event(event, now);
        }
        while let Some(output) = self.control.poll_output() {
            self.outputs.push_back(Output::Control(output));
        }
        self.update_state(now);
    }

    fn on_control_event(&mut self, event: ControlEvent, now: Now) {
        match event {
            ControlEvent::AuthUrl(url) => {
                self.auth_url.clone_from(&url);
                self.outputs.push_back(Output::Event(Event::BrowseToUrl(url)));
            }
            ControlEvent::Refused(text) => {
                let problem = refusal(&text);
                self.problem = Some(problem.clone());
                self.outputs.push_back(Output::Event(Event::Problem(problem)));
            }
            ControlEvent::Registered(response) => self.on_registered(&response, now),
            ControlEvent::KeyExpired => self.outputs.push_back(Output::WantNodeKey),
            ControlEvent::LoggedOut => {}
        }
    }

    fn on_registered(&mut self, response: &RegisterResponse, now: Now) {
        let keys = self.control.keys();
        let mut persist = self.prefs.config.take().unwrap_or_default();
        let old_key = persist.private_node_key.0.clone();
        let new_key = keys.node.to_text().expose().clone();
        if old_key != new_key {
            persist.old_private_node_key = SecretText(old_key);
            persist.private_node_key = SecretText(new_key);
            self.outputs.push_back(Output::Identity(Some(keys.node.public())));
        }
        let (user, login) = (&response.user, &response.login);
        let id = if user.id.is_zero() { login.id } else { user.id };
        if !id.is_zero() || !login.login_name.is_empty() {
            let name = if login.display_name.is_empty() { &user.display_name } else { &login.display_name };
            persist.user_profile = UserProfile {
                id,
                login_name: login.login_name.clone(),
                display_name: name.clone(),
                profile_pic_url: login.profile_pic_url.clone(),
                groups: None,
            };
        }
        self.prefs.config = Some(persist);
        self.prefs.logged_out = false;
        self.problem = None;
        self.auth_url.clear();
        self.outputs.push_back(Output::Save);
        self.outputs.push_back(Output::Event(Event::LoginFinished));
        self.update_state(now);
    }

    /// Drops keys and network, as at log-out and when the server is changed.
    fn forget_identity(&mut self, server: Server, now: Now) {
        self.control.pause();
        self.netmap = None;
        self.folded_stream = None;
        self.auth_url.clear();
        if let Some(config) = &mut self.prefs.config {
            let mut kept =
                Persist { network_lock_key: config.network_lock_key.clone(), ..Persist::default() };
            if server == Server::Kept {
                kept.user_profile = config.user_profile.clone();
                kept.server_key.clone_from(&config.server_key);
                kept.server_urls.clone_from(&config.server_urls);
            }
            *config = kept;
        }
        self.outputs.push_back(Output::Identity(None));
        self.outputs.push_back(Output::CacheNetmap);
        self.refresh_everything(now);
    }

    fn update_hostinfo(&mut self, now: Now) {
        let info = hostinfo(&self.config, &self.prefs, self.net_info.as_ref(), &self.services);
        self.control.set_hostinfo(info, now);
        self.drain_control(now);
    }

    /// Whether the network shall be in use.
    fn is_active(&self, now: Now) -> bool {
        let Some(netmap) = &self.netmap else { return false };
        let own = &netmap.self_node;
        self.prefs.want_running
            && self.has_key()
            && own.machine_authorized
            && !is_past(own.key_expiry, now.wall)
    }

    fn wanted_state(&self, now: Now) -> BackendState {
        let is_expired =
            self.netmap.as_ref().is_some_and(|netmap| is_past(netmap.self_node.key_expiry, now.wall));
        if !self.has_key() || is_expired {
            return BackendState::NeedsLogin;
        }
        if !self.prefs.want_running {
            return BackendState::Stopped;
        }
        match &self.netmap {
            None => BackendState::Starting,
            Some(netmap) if !netmap.self_node.machine_authorized => BackendState::NeedsMachineAuth,
            Some(_) if self.machine_ready => BackendState::Running,
            Some(_) => BackendState::Starting,
        }
    }

    fn update_state(&mut self, now: Now) {
        let wanted = self.wanted_state(now);
        if wanted != self.state {
            tracing::info!(old = self.state.name(), new = wanted.name(), "state");
            self.state = wanted;
            self.outputs.push_back(Output::Event(Event::State(wanted)));
        }
    }
}

/// A refusal of the server in the words of ux.md, with its own text as the reason.
fn refusal(text: &str) -> Problem {
    let lower = text.to_ascii_lowercase();
    let is_about_key =
        ["auth key", "authkey", "pre auth", "preauth", "invite"].iter().any(|words| lower.contains(words));
    if is_about_key {
        return Slug::KeyRefused.problem(&[("reason", &format!("it says: {text}"))]);
    }
    Problem::other(
        "the server refused this machine.",
        format!("it says: {text}"),
        "ask an admin of the network",
    )
}

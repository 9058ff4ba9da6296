//! The session with the control server as a machine: register, map stream, updates, and when to try again
//! (control.md §3, §4, §6).
//!
//! Three things run side by side: at most one registration, one map stream and one update. The edge carries them
//! out over one Noise connection and reports back with the number it was given; reports with another number are
//! of something that was given up, and are ignored.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sw_tailcfg::{EndpointType, Hostinfo, MapRequest, RegisterAuth, RegisterRequest, RegisterResponse};
use sw_types::{CapVer, DiscoKey, Instant, LockKey, NodeKey, NodePrivate, Now, Rng, Secret, UnixTime};

/// The feature level that is announced: every feature it stands for is there (control.md §7.1).
pub const CAP_VERSION: CapVer = CapVer(123);
/// A map stream without any frame for this long is dead (control.md §5.1).
const MAP_SILENCE_MAX: Duration = Duration::from_secs(120);
/// Longest pause between two tries.
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// Shortest pause after the server said no.
const REFUSED_PAUSE: Duration = Duration::from_secs(5);
/// Longest pause that a server may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// Identifies one registration, stream or update.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Why a request brought no answer that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestFailure {
    /// No connection, or it broke.
    Transport,
    /// The server answered with this status, and may have named a pause.
    Http { status: u16, retry_after: Option<Duration> },
}

/// What the session asks of the edge.
#[derive(Debug)]
pub enum ControlOutput {
    Register { id: RequestId, request: Box<RegisterRequest> },
    CancelRegister,
    OpenMap { id: RequestId, request: Box<MapRequest> },
    CloseMap,
    Update { id: RequestId, request: Box<MapRequest> },
}

/// What the session found out.
#[derive(Clone, Debug)]
pub enum ControlEvent {
    /// A person has to go there.
    AuthUrl(String),
    /// The server said no, in these words.
    Refused(String),
    /// The key that is in `keys()` is accepted.
    Registered(Box<RegisterResponse>),
    /// The server no longer takes the key; a new one is needed.
    KeyExpired,
    /// A log-out was answered, or could not be delivered.
    LoggedOut,
}

/// The keys under which this node registers.
pub struct SessionKeys {
    /// The accepted key, or the one that asks to be.
    pub node: NodePrivate,
    /// The key before; the server knows the node by it.
    pub old: NodeKey,
    pub lock: LockKey,
}

impl std::fmt::Debug for SessionKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SessionKeys({})", self.node.public().short())
    }
}

/// How far the registration is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Registration {
    /// Not wanted now.
    Idle,
    /// A request is out.
    Asking { id: RequestId, followup: String, is_logout: bool },
    /// Ask again at `at`.
    Waiting { at: Instant, followup: String },
    /// The key is accepted.
    Done,
}

/// How far the map stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stream {
    Closed,
    /// `heard` is when the last frame came, or the request was made.
    Open {
        id: RequestId,
        heard: Instant,
        has_map: bool,
    },
    Waiting {
        at: Instant,
    },
}

/// How far the update is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Update {
    /// The server knows everything.
    Clean,
    /// Something is new, and nothing is on its way.
    Dirty { not_before: Instant },
    /// An update is out; `is_dirty`: something changed since.
    Sending { id: RequestId, is_dirty: bool },
}

/// Keeps registration, map stream and updates going.
#[derive(Debug)]
pub struct ControlSession {
    keys: SessionKeys,
    disco: DiscoKey,
    auth_key: Option<Secret<String>>,
    is_ephemeral: bool,
    hostinfo: Arc<Hostinfo>,
    endpoints: Vec<(SocketAddr, EndpointType)>,
    /// Told by the user: the stream shall be open when the key is accepted.
    is_wanted: bool,
    registration: Registration,
    stream: Stream,
    update: Update,
    register_failures: u32,
    stream_failures: u32,
    update_failures: u32,
    next_id: u64,
    rng: Rng,
    outputs: std::collections::VecDeque<ControlOutput>,
    events: std::collections::VecDeque<ControlEvent>,
}

impl ControlSession {
    /// Begins with nothing wanted.
    pub fn new(keys: SessionKeys, disco: DiscoKey, hostinfo: Arc<Hostinfo>, seed: [u8; 32]) -> Self {
        Self {
            keys,
            disco,
            auth_key: None,
            is_ephemeral: false,
            hostinfo,
            endpoints: Vec::new(),
            is_wanted: false,
            registration: Registration::Idle,
            stream: Stream::Closed,
            update: Update::Clean,
            register_failures: 0,
            stream_failures: 0,
            update_failures: 0,
            next_id: 0,
            rng: Rng::new(seed),
            outputs: std::collections::VecDeque::new(),
            events: std::collections::VecDeque::new(),
        }
    }

    /// Begins a registration with the present keys. `auth_key` stays in use for later ones of this process.
    pub fn register(&mut self, auth_key: Option<Secret<String>>) {
        if auth_key.is_some() {
            self.auth_key = auth_key;
        }
        self.is_wanted = true;
        self.register_failures = 0;
        self.ask_registration(String::new());
    }

    /// Begins a registration with a new key. The map stream of the old one goes on until the new one is accepted.
    pub fn register_with_new_key(&mut self, key: NodePrivate, auth_key: Option<Secret<String>>) {
        if self.registration == Registration::Done || self.keys.old.is_zero() {
            self.keys.old = self.keys.node.public();
        }
        self.keys.node = key;
        self.register(auth_key);
    }

    /// Takes keys over as they are, for a node that never registered.
    pub fn set_keys(&mut self, keys: SessionKeys) {
        self.keys = keys;
    }

    /// Forgets the key that let this node in: from here on a person is asked.
    pub fn forget_auth_key(&mut self) {
        self.auth_key = None;
    }

    /// Takes up another identity; nothing of the old one is told to the server. Numbers of requests go on, so that a
    /// late answer to the old identity is nobody's.
    pub fn start_over(&mut self, keys: SessionKeys) {
        self.pause();
        self.registration = Registration::Idle;
        self.keys = keys;
        self.auth_key = None;
        self.register_failures = 0;
        self.stream_failures = 0;
        self.update_failures = 0;
        self.events.clear();
    }

    /// Tells the server that the key is given up. The session is closed by it.
    pub fn log_out(&mut self) {
        self.close_stream();
        let mut request = self.register_request(String::new());
        request.expiry = Some(RegisterRequest::logout_expiry());
        request.ephemeral = false;
        let id = self.new_id();
        self.registration = Registration::Asking { id, followup: String::new(), is_logout: true };
        self.is_wanted = false;
        self.outputs.push_back(ControlOutput::Register { id, request: Box::new(request) });
    }

    /// Stops everything; the key stays valid (`down`).
    pub fn pause(&mut self) {
        self.is_wanted = false;
        if matches!(self.registration, Registration::Asking { .. }) {
            self.outputs.push_back(ControlOutput::CancelRegister);
        }
        if self.registration != Registration::Done {
            self.registration = Registration::Idle;
        }
        self.close_stream();
        self.update = Update::Clean;
    }

    /// Goes on after [`Self::pause`], with a registration if there was none in this process.
    pub fn resume(&mut self, now: Now) {
        self.is_wanted = true;
        match self.registration {
            Registration::Done => self.open_stream(now),
            Registration::Idle => self.ask_registration(String::new()),
            Registration::Asking { .. } | Registration::Waiting { .. } => {}
        }
    }

    /// The network changed: what waits is tried at once.
    pub fn on_link_change(&mut self, now: Now) {
        self.register_failures = 0;
        self.stream_failures = 0;
        self.update_failures = 0;
        if let Registration::Waiting { followup, .. } = &self.registration {
            let followup = followup.clone();
            self.ask_registration(followup);
        }
        if let Stream::Waiting { .. } = self.stream {
            self.open_stream(now);
        }
    }

    /// Sets what is told about this machine; the server hears of changes.
    pub fn set_hostinfo(&mut self, hostinfo: Hostinfo, now: Now) {
        if *self.hostinfo != hostinfo {
            self.hostinfo = Arc::new(hostinfo);
            self.mark_dirty(now);
        }
    }

    /// What is told about this machine.
    pub fn hostinfo(&self) -> &Hostinfo {
        &self.hostinfo
    }

    /// Sets where peers may find this node.
    pub fn set_endpoints(&mut self, endpoints: Vec<(SocketAddr, EndpointType)>, now: Now) {
        if self.endpoints != endpoints {
            self.endpoints = endpoints;
            self.mark_dirty(now);
        }
    }

    /// Where peers may find this node.
    pub fn endpoints(&self) -> &[(SocketAddr, EndpointType)] {
        &self.endpoints
    }

    /// The node is to be removed when it goes away.
    pub fn set_ephemeral(&mut self, is_ephemeral: bool) {
        self.is_ephemeral = is_ephemeral;
    }

    /// The keys in use.
    pub fn keys(&self) -> &SessionKeys {
        &self.keys
    }

    /// Whether the server has sent a map on the open stream.
    pub fn is_online(&self) -> bool {
        matches!(self.stream, Stream::Open { has_map: true, .. })
    }

    /// Whether the key is accepted.
    pub fn is_registered(&self) -> bool {
        self.registration == Registration::Done
    }

    /// How often the last thing in a row has failed, for health messages.
    pub fn failures(&self) -> u32 {
        self.register_failures.max(self.stream_failures)
    }

    /// The answer to a registration.
    pub fn on_register_answer(
        &mut self,
        id: RequestId,
        answer: Result<RegisterResponse, RequestFailure>,
        now: Now,
    ) {
        let Registration::Asking { id: asked, followup, is_logout } = &self.registration else { return };
        if *asked != id {
            return;
        }
        let (followup, is_logout) = (followup.clone(), *is_logout);
        if is_logout {
            self.registration = Registration::Idle;
            self.events.push_back(ControlEvent::LoggedOut);
            return;
        }
        match answer {
            Ok(response) => self.on_register_response(response, followup, now),
            Err(failure) => self.retry_registration(&failure, followup, now),
        }
    }

    /// The order of tests is that of control.md §3.2.
    fn on_register_response(&mut self, response: RegisterResponse, followup: String, now: Now) {
        if !response.error.is_empty() {
            self.events.push_back(ControlEvent::Refused(response.error));
            self.retry_registration(&RequestFailure::Transport, followup, now);
            // The same words again get the same answer, and servers count them.
            if let Registration::Waiting { at, .. } = &mut self.registration {
                *at = (*at).max(now.mono + REFUSED_PAUSE);
            }
        } else if response.node_key_expired || !response.node_key_signature.is_empty() {
            self.registration = Registration::Idle;
            self.events.push_back(ControlEvent::KeyExpired);
        } else if response.auth_url.is_empty() {
            self.register_failures = 0;
            self.registration = Registration::Done;
            self.events.push_back(ControlEvent::Registered(Box::new(response)));
            self.close_stream();
            if self.is_wanted {
                self.open_stream(now);
                self.update = Update::Dirty { not_before: now.mono };
                self.send_update(now);
            }
        } else if response.auth_url == followup {
            // The person is not done: the server let go of the wait. Ask again, with pauses.
            self.retry_registration(&RequestFailure::Transport, followup, now);
        } else {
            self.register_failures = 0;
            let url = response.auth_url;
            self.events.push_back(ControlEvent::AuthUrl(url.clone()));
            self.ask_registration(url);
        }
    }

    fn retry_registration(&mut self, failure: &RequestFailure, followup: String, now: Now) {
        self.register_failures += 1;
        let pause = match failure {
            RequestFailure::Http { status: 429, retry_after } => match retry_after {
                Some(pause) if *pause <= RETRY_AFTER_MAX => *pause,
                Some(_) | None => self.rng.duration(Duration::from_secs(5), Duration::from_secs(10)),
            },
            RequestFailure::Http { .. } | RequestFailure::Transport => self.backoff(self.register_failures),
        };
        self.registration = Registration::Waiting { at: now.mono + pause, followup };
    }

    /// A frame came on the map stream; `has_map`: it was more than a keep-alive.
    pub fn on_map_frame(&mut self, id: RequestId, has_map: bool, now: Now) -> bool {
        match &mut self.stream {
            Stream::Open { id: open, heard, has_map: had } if *open == id => {
                *heard = now.mono;
                *had |= has_map;
                self.stream_failures = 0;
                true
            }
            Stream::Open { .. } | Stream::Closed | Stream::Waiting { .. } => false,
        }
    }

    /// The map stream ended, whatever the reason.
    pub fn on_map_ended(&mut self, id: RequestId, now: Now) {
        if matches!(self.stream, Stream::Open { id: open, .. } if open == id) {
            self.stream_failures += 1;
            let at = now.mono + self.backoff(self.stream_failures);
            self.stream = Stream::Waiting { at };
        }
    }

    /// The answer to an update.
    pub fn on_update_answer(&mut self, id: RequestId, answer: Result<(), RequestFailure>, now: Now) {
        let Update::Sending { id: sent, is_dirty } = self.update else { return };
        if sent != id {
            return;
        }
        if answer.is_ok() {
            self.update_failures = 0;
            self.update = if is_dirty { Update::Dirty { not_before: now.mono } } else { Update::Clean };
        } else {
            self.update_failures += 1;
            self.update = Update::Dirty { not_before: now.mono + self.backoff(self.update_failures) };
        }
        self.send_update(now);
    }

    /// Does what is due.
    pub fn on_deadline(&mut self, now: Now) {
        if let Registration::Waiting { at, followup } = &self.registration
            && *at <= now.mono
        {
            let followup = followup.clone();
            self.ask_registration(followup);
        }
        match self.stream {
            Stream::Waiting { at } if at <= now.mono => self.open_stream(now),
            Stream::Open { heard, .. } if heard + MAP_SILENCE_MAX <= now.mono => {
                self.outputs.push_back(ControlOutput::CloseMap);
                self.stream_failures += 1;
                self.open_stream(now);
            }
            Stream::Waiting { .. } | Stream::Open { .. } | Stream::Closed => {}
        }
        self.send_update(now);
    }

    /// When [`Self::on_deadline`] wants to be called.
    pub fn next_deadline(&self) -> Option<Instant> {
        let registration = match self.registration {
            Registration::Waiting { at, .. } => Some(at),
            Registration::Idle | Registration::Asking { .. } | Registration::Done => None,
        };
        let stream = match self.stream {
            Stream::Waiting { at } => Some(at),
            Stream::Open { heard, .. } => Some(heard + MAP_SILENCE_MAX),
            Stream::Closed => None,
        };
        let update = match self.update {
            Update::Dirty { not_before } if self.can_update() => Some(not_before),
            Update::Dirty { .. } | Update::Clean | Update::Sending { .. } => None,
        };
        [registration, stream, update].into_iter().flatten().min()
    }

    /// What the edge shall do.
    pub fn poll_output(&mut self) -> Option<ControlOutput> {
        self.outputs.pop_front()
    }

    /// What became known.
    pub fn poll_event(&mut self) -> Option<ControlEvent> {
        self.events.pop_front()
    }

    fn ask_registration(&mut self, followup: String) {
        if matches!(self.registration, Registration::Asking { .. }) {
            self.outputs.push_back(ControlOutput::CancelRegister);
        }
        let id = self.new_id();
        let request = self.register_request(followup.clone());
        self.registration = Registration::Asking { id, followup, is_logout: false };
        self.outputs.push_back(ControlOutput::Register { id, request: Box::new(request) });
    }

    fn register_request(&self, followup: String) -> RegisterRequest {
        RegisterRequest {
            version: CAP_VERSION,
            node_key: self.keys.node.public(),
            old_node_key: self.keys.old,
            nl_key: self.keys.lock,
            auth: self.auth_key.clone().map(|auth_key| RegisterAuth { auth_key }),
            followup,
            hostinfo: Some(Arc::clone(&self.hostinfo)),
            ephemeral: self.is_ephemeral,
            ..RegisterRequest::default()
        }
    }

    fn open_stream(&mut self, now: Now) {
        let id = self.new_id();
        self.stream = Stream::Open { id, heard: now.mono, has_map: false };
        // Servers read endpoints and home region from here too (control.md §4.2).
        let request = MapRequest { stream: true, ..self.map_request() };
        self.outputs.push_back(ControlOutput::OpenMap { id, request: Box::new(request) });
    }

    fn close_stream(&mut self) {
        if matches!(self.stream, Stream::Open { .. }) {
            self.outputs.push_back(ControlOutput::CloseMap);
        }
        self.stream = Stream::Closed;
        self.stream_failures = 0;
    }

    fn map_request(&self) -> MapRequest {
        let (endpoints, endpoint_types) = self.endpoints.iter().copied().unzip();
        MapRequest {
            version: CAP_VERSION,
            compress: "zstd".to_owned(),
            keep_alive: true,
            node_key: self.keys.node.public(),
            disco_key: self.disco,
            hostinfo: Some(Arc::clone(&self.hostinfo)),
            endpoints,
            endpoint_types,
            ..MapRequest::default()
        }
    }

    fn can_update(&self) -> bool {
        self.registration == Registration::Done && self.stream != Stream::Closed
    }

    fn mark_dirty(&mut self, now: Now) {
        match &mut self.update {
            Update::Clean => self.update = Update::Dirty { not_before: now.mono },
            Update::Dirty { .. } => {}
            Update::Sending { is_dirty, .. } => *is_dirty = true,
        }
        self.send_update(now);
    }

    fn send_update(&mut self, now: Now) {
        let Update::Dirty { not_before } = self.update else { return };
        if not_before > now.mono || !self.can_update() {
            return;
        }
        let id = self.new_id();
        self.update = Update::Sending { id, is_dirty: false };
        let request = MapRequest { omit_peers: true, ..self.map_request() };
        self.outputs.push_back(ControlOutput::Update { id, request: Box::new(request) });
    }

    /// n² · 10 ms, at most 30 s, times 0.5 to 1.5 (control.md §6.3).
    fn backoff(&mut self, failures: u32) -> Duration {
        let pause = (Duration::from_millis(10) * failures.min(100).pow(2)).min(BACKOFF_MAX);
        pause.mul_f64(0.5 + self.rng.unit())
    }

    fn new_id(&mut self) -> RequestId {
        self.next_id += 1;
        RequestId(self.next_id)
    }
}

/// Whether a key's end has come, by the node's own clock (control.md §3.6).
pub fn is_past(expiry: Option<UnixTime>, now: UnixTime) -> bool {
    expiry.is_some_and(|expiry| expiry <= now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Now {
        Now { mono: Instant::default(), wall: UnixTime::from_secs(1_800_000_000) }
            .after(Duration::from_secs(seconds))
    }

    fn session() -> ControlSession {
        let keys = SessionKeys {
            node: NodePrivate::generate([1; 32]),
            old: NodeKey::default(),
            lock: LockKey::default(),
        };
        ControlSession::new(keys, DiscoKey::from([2; 32]), Arc::new(Hostinfo::default()), [3; 32])
    }

    fn outputs(session: &mut ControlSession) -> Vec<ControlOutput> {
        std::iter::from_fn(|| session.poll_output()).collect()
    }

    fn register_id(session: &mut ControlSession) -> (RequestId, Box<RegisterRequest>) {
        for output in outputs(session) {
            if let ControlOutput::Register { id, request } = output {
                return (id, request);
            }
        }
        panic!("a registration was expected");
    }

    fn running() -> (ControlSession, RequestId) {
        let mut session = session();
        session.register(None);
        let (id, _) = register_id(&mut session);
        session.on_register_answer(id, Ok(RegisterResponse::default()), at(0));
        let mut map = None;
        for output in outputs(&mut session) {
            match output {
                ControlOutput::OpenMap { id, .. } => map = Some(id),
                ControlOutput::Update { id, .. } => session.on_update_answer(id, Ok(()), at(0)),
                ControlOutput::Register { .. } | ControlOutput::CancelRegister | ControlOutput::CloseMap => {}
            }
        }
        (session, map.expect("a map stream is opened"))
    }

    #[test]
    fn acceptance_opens_stream_and_update_at_once() {
        let mut session = session();
        session.register(Some(Secret::from("key".to_owned())));
        let (id, request) = register_id(&mut session);
        assert!(request.auth.is_some());
        session.on_register_answer(id, Ok(RegisterResponse::default()), at(0));
        let outputs = outputs(&mut session);
        assert!(
            matches!(outputs[..], [ControlOutput::OpenMap { .. }, ControlOutput::Update { .. }]),
            "{outputs:?}"
        );
    }

    #[test]
    fn a_person_is_waited_for_with_the_followup() {
        let mut session = session();
        session.register(None);
        let (id, _) = register_id(&mut session);
        let url = "https://x/register/1".to_owned();
        session.on_register_answer(
            id,
            Ok(RegisterResponse { auth_url: url.clone(), ..Default::default() }),
            at(0),
        );
        assert!(matches!(session.poll_event(), Some(ControlEvent::AuthUrl(told)) if told == url));
        let (id, request) = register_id(&mut session);
        assert_eq!(request.followup, url);
        session.on_register_answer(id, Err(RequestFailure::Transport), at(1));
        session.on_deadline(at(60));
        assert_eq!(register_id(&mut session).1.followup, url, "a broken wait is taken up again");
    }

    #[test]
    fn a_refusal_is_told_and_tried_again() {
        let mut session = session();
        session.register(None);
        let (id, _) = register_id(&mut session);
        session.on_register_answer(
            id,
            Ok(RegisterResponse { error: "no".to_owned(), ..Default::default() }),
            at(0),
        );
        assert!(matches!(session.poll_event(), Some(ControlEvent::Refused(_))));
        assert!(session.next_deadline().expect("tried again") > at(0).mono);
    }

    #[test]
    fn the_old_key_is_named_when_a_new_one_registers() {
        let (mut session, _) = running();
        let old = session.keys().node.public();
        session.register_with_new_key(NodePrivate::generate([9; 32]), None);
        let (_, request) = register_id(&mut session);
        assert_eq!(request.old_node_key, old);
        assert_ne!(request.node_key, old);
        assert!(matches!(session.stream, Stream::Open { .. }), "the tunnels go on with the old key");
    }

    #[test]
    fn a_silent_stream_is_opened_again_after_two_minutes() {
        let (mut session, id) = running();
        assert!(session.on_map_frame(id, true, at(10)));
        session.on_deadline(at(129));
        assert!(session.poll_output().is_none());
        session.on_deadline(at(130));
        assert!(matches!(session.poll_output(), Some(ControlOutput::CloseMap)));
        assert!(matches!(session.poll_output(), Some(ControlOutput::OpenMap { .. })));
        assert!(!session.on_map_frame(id, true, at(131)), "frames of the old stream are ignored");
    }

    #[test]
    fn an_ended_stream_is_opened_again_in_moments() {
        let (mut session, id) = running();
        session.on_map_frame(id, true, at(10));
        session.on_map_ended(id, at(11));
        let deadline = session.next_deadline().expect("a retry");
        assert!(deadline <= at(11).after(Duration::from_millis(15)).mono);
    }

    #[test]
    fn changes_during_an_update_make_one_more() {
        let (mut session, _) = running();
        let endpoint = |port| vec![(SocketAddr::from(([192, 0, 2, 1], port)), EndpointType::LOCAL)];
        session.set_endpoints(endpoint(1), at(1));
        session.set_endpoints(endpoint(2), at(1));
        session.set_endpoints(endpoint(3), at(1));
        let first = outputs(&mut session);
        let [ControlOutput::Update { id, .. }] = &first[..] else { panic!("{first:?}") };
        session.on_update_answer(*id, Ok(()), at(2));
        let second = outputs(&mut session);
        let [ControlOutput::Update { request, .. }] = &second[..] else { panic!("{second:?}") };
        assert_eq!(request.endpoints, [SocketAddr::from(([192, 0, 2, 1], 3))]);
    }

    #[test]
    fn logging_out_names_the_past_and_opens_nothing() {
        let (mut session, _) = running();
        while session.poll_event().is_some() {}
        session.log_out();
        let (id, request) = register_id(&mut session);
        assert_eq!(request.expiry, Some(UnixTime::from_secs(123)));
        session.on_register_answer(id, Err(RequestFailure::Transport), at(4));
        assert!(matches!(session.poll_event(), Some(ControlEvent::LoggedOut)));
        assert!(session.next_deadline().is_none());
    }

    /// Whatever answers come in whatever order, the session is never woken for a time already served.
    #[test]
    fn no_storm_of_wakes() {
        arbtest::arbtest(|u| {
            let mut session = session();
            session.register(None);
            let mut ids = Vec::new();
            for second in 0..u.int_in_range(1..=20)? {
                let now = at(second);
                for output in outputs(&mut session) {
                    match output {
                        ControlOutput::Register { id, .. }
                        | ControlOutput::OpenMap { id, .. }
                        | ControlOutput::Update { id, .. } => ids.push(id),
                        ControlOutput::CancelRegister | ControlOutput::CloseMap => {}
                    }
                }
                if let Ok(id) = u.choose(&ids).copied() {
                    match u.int_in_range(0..=5)? {
                        0 => session.on_register_answer(id, Ok(RegisterResponse::default()), now),
                        1 => session.on_register_answer(
                            id,
                            Err(RequestFailure::Http { status: 429, retry_after: None }),
                            now,
                        ),
                        2 => session.on_map_ended(id, now),
                        3 => session.on_update_answer(id, Err(RequestFailure::Transport), now),
                        4 => drop(session.on_map_frame(id, true, now)),
                        _ => session.on_register_answer(
                            id,
                            Ok(RegisterResponse { auth_url: "u".to_owned(), ..Default::default() }),
                            now,
                        ),
                    }
                }
                session.on_deadline(now);
                assert!(session.next_deadline().is_none_or(|deadline| deadline > now.mono));
            }
            Ok(())
        });
    }
}

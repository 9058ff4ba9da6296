//! The control server of a world: `sw-tailnet` under the compiler of `sw-policy`, with a store that may refuse a
//! change and keeps what it took over a restart.
//!
//! It knows no time and no links: the world carries calls to it and words from it (`world/session.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sw_node::{RequestFailure, RequestId};
use sw_tailcfg::{DerpMap, MapRequest, MapResponse, RegisterRequest, RegisterResponse};
use sw_tailnet::{
    Change, Command, Config, Done, Ended, Facts, MapMessage, MapReply, NewAuthKey, NewUser, Output,
    PolicyEngine, Pool, Registered, Settings, State, StreamId, Tailnet,
};
use sw_types::{CapVer, Instant, MachineKey, NodeId, NodeKey, Now, UserId};

use crate::defect::Defect;
use crate::reader::read_text;

/// What a machine asks.
#[derive(Debug)]
pub(crate) enum Call {
    Register(RequestId, Box<RegisterRequest>),
    OpenMap(RequestId, Box<MapRequest>),
    Update(RequestId, Box<MapRequest>),
    /// The machine closed its stream in order.
    CloseMap,
}

/// What a machine is told.
#[derive(Debug)]
pub(crate) enum Word {
    Registered(RequestId, Result<Box<RegisterResponse>, RequestFailure>),
    Map(RequestId, StreamId, MapMessage),
    KeepAlive(RequestId),
    MapEnded(RequestId),
    Updated(RequestId, Result<(), RequestFailure>),
}

/// A machine as a connection of it is known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    pub(crate) host: usize,
    /// Which connection of the machine; answers to older ones are lost.
    pub(crate) epoch: u64,
    pub(crate) machine: MachineKey,
}

/// An open map stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line {
    pub(crate) host: usize,
    pub(crate) epoch: u64,
    pub(crate) request: RequestId,
}

/// Where clients find it; nothing is sent there.
pub(crate) const URL: &str = "http://192.0.2.1";
/// Answer of a server whose store refuses (control.md §8).
const NOT_STORED: RequestFailure = RequestFailure::Http { status: 503, retry_after: None };
const NOT_FOUND: RequestFailure = RequestFailure::Http { status: 404, retry_after: None };

/// The server, its store and its streams.
#[derive(Debug)]
pub(crate) struct Server {
    tailnet: Tailnet,
    /// Facts of machines as they were last saved.
    saved: BTreeMap<NodeId, Facts>,
    derp_map: DerpMap,
    seed: [u8; 32],
    /// One for each machine, each of another person.
    auth_keys: Vec<String>,
    streams: BTreeMap<StreamId, Line>,
    next_stream: StreamId,
    /// So many commits will fail.
    failing: u32,
    words: Vec<(Line, Word)>,
}

fn config(seed: [u8; 32]) -> Config {
    Config { url: URL.to_owned(), engine: Arc::new(PolicyEngine::new(URL)), seed }
}

impl Server {
    /// A server of a network with a person and a key for each of `hosts` machines.
    pub(crate) fn new(hosts: usize, derp_map: DerpMap, seed: [u8; 32], now: Now) -> Self {
        let state = State::new(Settings::new("SIM".to_owned(), Pool::default()));
        let mut tailnet = Tailnet::new(config(seed), state, Vec::new(), now);
        tailnet.on_derp_map(derp_map.clone());
        let mut server = Self {
            tailnet,
            saved: BTreeMap::new(),
            derp_map,
            seed,
            auth_keys: Vec::new(),
            streams: BTreeMap::new(),
            next_stream: 1,
            failing: 0,
            words: Vec::new(),
        };
        for host in 0..hosts {
            let key = server.invite(host, now);
            server.auth_keys.push(key);
        }
        server
    }

    fn invite(&mut self, host: usize, now: Now) -> String {
        let person = NewUser { name: person(host), ..NewUser::default() };
        let user = match self.tailnet.execute("sim", Command::CreateUser(person), now) {
            Ok(Done::User(user)) => user,
            Ok(_) | Err(_) => UserId(0),
        };
        let key = NewAuthKey { user: Some(user), preapproved: true, ..NewAuthKey::default() };
        let made = self.tailnet.execute("sim", Command::CreateAuthKey(key), now);
        self.commit(now);
        match made {
            Ok(Done::Secret { text, .. }) => text.expose().clone(),
            Ok(_) | Err(_) => String::new(),
        }
    }

    pub(crate) fn auth_key(&self, host: usize) -> &str {
        self.auth_keys.get(host).map_or("", String::as_str)
    }

    /// The next `times` changes cannot be stored.
    pub(crate) fn refuse(&mut self, times: u32) {
        self.failing += times;
    }

    /// Stores what was decided, or takes it back; returns whether it was stored.
    fn commit(&mut self, now: Now) -> bool {
        let is_stored = self.tailnet.take_uncommitted().is_empty() || self.failing == 0;
        if !is_stored {
            self.failing -= 1;
            self.tailnet.rolled_back(now);
            drop(self.tailnet.take_uncommitted());
        }
        self.tailnet.committed();
        is_stored
    }

    /// Answers a call; a stream's messages come by [`Self::take_words`].
    pub(crate) fn on_call(&mut self, from: Caller, call: Call, now: Now) {
        let Caller { host, epoch, machine } = from;
        match call {
            Call::Register(request, register) => {
                let answer = self.tailnet.on_register(machine, &register, host as u64, now);
                let answer = match (self.commit(now), answer) {
                    (false, _) => Err(NOT_STORED),
                    (true, Registered::Now(response)) => Ok(response),
                    // Keys need no person to wait for.
                    (true, Registered::Later) => Err(NOT_FOUND),
                };
                self.say(Line { host, epoch, request }, Word::Registered(request, answer));
            }
            Call::OpenMap(request, map) => self.open(Line { host, epoch, request }, machine, &map, now),
            Call::Update(request, map) => {
                let answer = self.tailnet.on_map_request(machine, &map, 0, now);
                let answer = match (self.commit(now), answer) {
                    (false, _) => Err(NOT_STORED),
                    (true, Ok(_)) => Ok(()),
                    (true, Err(_)) => Err(NOT_FOUND),
                };
                self.say(Line { host, epoch, request }, Word::Updated(request, answer));
            }
            Call::CloseMap => {
                for stream in self.streams_of(host, epoch) {
                    self.on_stream_ended(stream, Ended::Orderly, now);
                }
            }
        }
    }

    fn open(&mut self, line: Line, machine: MachineKey, map: &MapRequest, now: Now) {
        let stream = self.next_stream;
        self.next_stream += 1;
        let answer = self.tailnet.on_map_request(machine, map, stream, now);
        match (self.commit(now), answer) {
            (true, Ok(MapReply::Streaming { replaced })) => {
                if let Some(replaced) = replaced.and_then(|old| self.streams.remove(&old)) {
                    self.say(replaced, Word::MapEnded(replaced.request));
                }
                self.streams.insert(stream, line);
            }
            (true, Ok(MapReply::Stored | MapReply::Once(_)) | Err(_)) => {
                self.say(line, Word::MapEnded(line.request));
            }
            (false, _) => {
                self.tailnet.on_stream_closed(stream, Ended::Broken, now);
                self.say(line, Word::MapEnded(line.request));
            }
        }
    }

    fn say(&mut self, line: Line, word: Word) {
        self.words.push((line, word));
    }

    /// All that is to be told now.
    pub(crate) fn take_words(&mut self, now: Now) -> Vec<(Line, Word)> {
        self.commit(now);
        while let Some(output) = self.tailnet.poll_output(now) {
            match output {
                Output::Map { stream, message } => {
                    if let Some(line) = self.streams.get(&stream).copied() {
                        self.say(line, Word::Map(line.request, stream, message));
                    }
                }
                Output::End { stream, .. } => {
                    if let Some(line) = self.streams.remove(&stream) {
                        self.say(line, Word::MapEnded(line.request));
                    }
                }
                Output::Registered { .. } | Output::Checked { .. } => {}
            }
        }
        std::mem::take(&mut self.words)
    }

    /// The line of a stream that is still open.
    pub(crate) fn line(&self, stream: StreamId) -> Option<Line> {
        self.streams.get(&stream).copied()
    }

    /// Streams of one connection.
    pub(crate) fn streams_of(&self, host: usize, epoch: u64) -> Vec<StreamId> {
        let own = self.streams.iter().filter(|(_, line)| line.host == host && line.epoch == epoch);
        own.map(|(stream, _)| *stream).collect()
    }

    pub(crate) fn on_stream_ready(&mut self, stream: StreamId) {
        self.tailnet.on_stream_ready(stream);
    }

    pub(crate) fn on_stream_ended(&mut self, stream: StreamId, ended: Ended, now: Now) {
        if self.streams.remove(&stream).is_some() {
            self.tailnet.on_stream_closed(stream, ended, now);
        }
    }

    pub(crate) fn on_deadline(&mut self, now: Now) {
        self.tailnet.on_deadline(now);
        self.save_facts();
    }

    pub(crate) fn next_deadline(&self, now: Now) -> Option<Instant> {
        self.tailnet.next_deadline(now).map(|(at, _)| at)
    }

    fn save_facts(&mut self) {
        self.saved.extend(self.tailnet.unsaved_facts());
    }

    /// Puts a policy in force in which these pairs may not talk.
    ///
    /// # Errors
    /// It was not stored; nothing changed.
    pub(crate) fn set_policy(
        &mut self,
        forbidden: &BTreeSet<(usize, usize)>,
        now: Now,
    ) -> Result<(), String> {
        let text = policy(self.auth_keys.len(), forbidden);
        let command = Command::SetPolicy { text: Some(text), expect: None };
        self.tailnet.execute("sim", command, now).map_err(|refusal| refusal.to_string())?;
        if self.commit(now) { Ok(()) } else { Err("not stored".to_owned()) }
    }

    /// The process ends and another one takes up what is stored; facts not yet saved are lost in a crash.
    ///
    /// # Errors
    /// What is stored contradicts itself.
    pub(crate) fn restart(&mut self, in_order: bool, defect: Option<Defect>, now: Now) -> Result<(), String> {
        if in_order {
            self.save_facts();
        }
        let (settings, mut records) =
            (self.tailnet.state().settings().clone(), self.tailnet.state().records());
        if defect == Some(Defect::LosesRecord) {
            records.retain(|record| !matches!(record, Change::User(..)));
        }
        let state = State::from_records(settings, records).map_err(|error| error.to_string())?;
        let is_there = |id: &NodeId| state.node(*id).is_some();
        let facts =
            self.saved.iter().filter(|(id, _)| is_there(id)).map(|(id, f)| (*id, f.clone())).collect();
        // Another process draws other numbers.
        self.seed.rotate_left(1);
        self.tailnet = Tailnet::new(config(self.seed), state, facts, now);
        self.tailnet.on_derp_map(self.derp_map.clone());
        self.streams.clear();
        self.words.clear();
        self.commit(now);
        Ok(())
    }

    /// What a machine would be told if it asked for everything now.
    pub(crate) fn whole(&mut self, machine: MachineKey, node_key: NodeKey, now: Now) -> Option<MapResponse> {
        let request = MapRequest { version: CAP, node_key, ..MapRequest::default() };
        match self.tailnet.on_map_request(machine, &request, 0, now) {
            Ok(MapReply::Once(message)) => read_text(&message.to_json()),
            Ok(MapReply::Stored | MapReply::Streaming { .. }) | Err(_) => None,
        }
    }

    /// Open map streams.
    pub(crate) fn stream_count(&self) -> usize {
        self.tailnet.stream_count()
    }

    /// Whether a machine is in the network.
    pub(crate) fn has(&self, key: &NodeKey) -> bool {
        self.tailnet.state().node_by_key(key).is_some()
    }
}

/// The feature level that nodes of this house announce.
const CAP: CapVer = sw_node::control::CAP_VERSION;

fn person(host: usize) -> String {
    format!("p{host}")
}

/// Everybody may reach everybody but those of the pairs.
fn policy(hosts: usize, forbidden: &BTreeSet<(usize, usize)>) -> String {
    if forbidden.is_empty() {
        return r#"{"acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"]}]}"#.to_owned();
    }
    let mut text = r#"{"acls": ["#.to_owned();
    for from in 0..hosts {
        let may = |to: &usize| *to != from && !forbidden.contains(&(from.min(*to), from.max(*to)));
        let to: Vec<String> = (0..hosts).filter(may).map(|to| format!("\"{}@:*\"", person(to))).collect();
        if !to.is_empty() {
            let (src, dst) = (person(from), to.join(", "));
            text.push_str(&format!(r#"{{"action": "accept", "src": ["{src}@"], "dst": [{dst}]}},"#));
        }
    }
    text.push_str("]}");
    text
}

//! Machines and control server with real cores: what `sw-node` wants said is carried to `sw-tailnet` and back, over
//! connections that take time, keep order and break.

use std::sync::Arc;
use std::time::Duration;

use sw_node::desired::{DnsFacts, PeerConfig};
use sw_node::{ControlOutput, Node, NodeConfig, Output, RequestFailure, RequestId};
use sw_path::PeerInfo;
use sw_tailcfg::{EndpointType, Hostinfo, MapResponse, NetInfo};
use sw_tailnet::{Ended, StreamId};
use sw_types::local::Prefs;
use sw_types::{LockKey, Now, Secret};

use super::{Event, World};
use crate::defect::Defect;
use crate::reader::read_text;
use crate::server::{Call, Caller, Server, URL, Word};

/// The server says that it lives this often (control.md §5.1).
const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// The server notices a broken stream within this.
const STREAM_DIES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(40));
/// A policy that could not be stored is tried again after this.
const POLICY_AGAIN: Duration = Duration::from_secs(1);
/// A refused connection is noticed after this.
const REFUSED: Duration = Duration::from_millis(30);

/// A call that has no answer yet; the map stream has its last one when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pending {
    Register(RequestId),
    Map(RequestId),
    Update(RequestId),
}

impl World {
    /// The server's clocks.
    pub(crate) fn server_now(&self) -> Now {
        Now { mono: self.now, wall: super::wall(self.elapsed(), 0) }
    }

    /// Starts the node program: from its state file, or to join for the first time.
    pub(super) fn start_session(&mut self, host: usize) {
        let now = self.now_at(host);
        let auth_key = self.server.as_ref().map(|s| s.auth_key(host).to_owned()).unwrap_or_default();
        let remembers = self.rng.chance(0.5);
        let Some(h) = self.hosts.get_mut(host) else { return };
        let hostinfo = Hostinfo {
            os: "linux".to_owned(),
            hostname: format!("h{host}"),
            ipn_version: "1.0.0".to_owned(),
            ..Hostinfo::default()
        };
        let config = NodeConfig {
            hostinfo,
            disco: h.disco,
            lock: LockKey::from_bytes([7; 32]),
            is_userspace: false,
            is_ephemeral: false,
            dns_facts: DnsFacts::default(),
            seed: self.rng.bytes(),
        };
        let cache = h.cache.take().filter(|_| remembers);
        let has_key = |prefs: &Prefs| prefs.config.as_ref().is_some_and(|c| !c.private_node_key.is_empty());
        let node = match h.prefs.clone().filter(has_key) {
            Some(prefs) => Node::new(config, prefs, cache, now),
            // The first start, or one that did not get so far: somebody says `up`.
            None => {
                let prefs = Prefs {
                    control_url: URL.to_owned(),
                    want_running: true,
                    corp_dns: true,
                    hostname: format!("h{host}"),
                    ..Prefs::default()
                };
                let mut node = Node::new(config, Prefs::default(), None, now);
                node.on_start(Some(prefs), Secret::new(auth_key), h.private_key(), now);
                node
            }
        };
        h.node = Some(Box::new(node));
    }

    /// The program is killed: what it wrote to disk stays.
    pub(super) fn stop_session(&mut self, host: usize) {
        if let Some(h) = self.hosts.get_mut(host)
            && let Some(node) = h.node.take()
        {
            h.cache = node.netmap().map(sw_node::Netmap::to_message);
            h.pending.clear();
        }
    }

    /// Performs what a machine's node core wants done.
    pub(super) fn perform_node(&mut self, host: usize, output: Output) {
        let now = self.now_at(host);
        match output {
            Output::Control(output) => self.perform_control(host, output),
            Output::Peers { changed, removed } => {
                for peer in changed {
                    if let Some(index) = self.by_key.get(&peer.key).copied() {
                        self.peer_at(host, index, Arc::new(info_of(peer)));
                    }
                }
                for key in removed {
                    if let Some(index) = self.by_key.get(&key).copied() {
                        self.peer_gone_at(host, index);
                    }
                }
            }
            Output::RelayMap(map) => {
                if let Some(h) = self.hosts.get_mut(host) {
                    h.engine.on_relay_map(&map, now);
                }
            }
            Output::Save => {
                if let Some(h) = self.hosts.get_mut(host) {
                    h.prefs = h.node.as_ref().map(|node| node.prefs().clone());
                }
            }
            Output::Machine(Some(_)) => {
                if let Some(node) = self.hosts.get_mut(host).and_then(|h| h.node.as_mut()) {
                    node.on_machine_ready(now);
                }
            }
            // Keys never expire here; names, filters and programs have tests of their own.
            Output::WantNodeKey
            | Output::Identity(_)
            | Output::Machine(None)
            | Output::Resolver(_)
            | Output::Filter(_)
            | Output::CacheNetmap
            | Output::Ping(_)
            | Output::Event(_) => {}
        }
    }

    fn perform_control(&mut self, host: usize, output: ControlOutput) {
        let Some(h) = self.hosts.get_mut(host) else { return };
        match output {
            ControlOutput::Register { id, request } => {
                h.pending.push(Pending::Register(id));
                self.call(host, Call::Register(id, request));
            }
            ControlOutput::OpenMap { id, request } => {
                h.pending.push(Pending::Map(id));
                self.call(host, Call::OpenMap(id, request));
            }
            ControlOutput::Update { id, request } => {
                h.pending.push(Pending::Update(id));
                self.call(host, Call::Update(id, request));
            }
            ControlOutput::CancelRegister => h.pending.retain(|p| !matches!(p, Pending::Register(_))),
            ControlOutput::CloseMap => {
                h.pending.retain(|p| !matches!(p, Pending::Map(_)));
                self.call(host, Call::CloseMap);
            }
        }
    }

    /// Sends a call on the machine's connection, in order, dialling first if need be.
    fn call(&mut self, host: usize, call: Call) {
        let mut delay = self.control_delay(host);
        let Some(h) = self.hosts.get_mut(host) else { return };
        if !std::mem::replace(&mut h.control_up, true) {
            delay *= 4;
        }
        h.last_said = h.last_said.max(self.now + delay);
        let (at, epoch) = (h.last_said, h.control_epoch);
        self.queue.push(at, Event::AtServer { host, epoch, call: Box::new(call) });
    }

    pub(super) fn at_server(&mut self, host: usize, epoch: u64, call: Call) {
        let now = self.server_now();
        let Some(h) = self.hosts.get(host).filter(|h| h.control_epoch == epoch) else { return };
        let machine = h.machine;
        if !self.control_is_up {
            self.queue.push(self.now + REFUSED, Event::SessionBroken { host, epoch });
            return;
        }
        let opens = matches!(call, Call::OpenMap(..));
        let Some(server) = &mut self.server else { return };
        server.on_call(Caller { host, epoch, machine }, call, now);
        if opens {
            for stream in server.streams_of(host, epoch) {
                self.queue.push(self.now + KEEP_ALIVE, Event::KeepAlive { stream });
            }
        }
        self.serve_server();
    }

    /// Carries all that the server has to say, then arms its timer.
    pub(super) fn serve_server(&mut self) {
        let now = self.server_now();
        let words = self.server.as_mut().map(|server| server.take_words(now)).unwrap_or_default();
        for (line, word) in words {
            let delay = self.control_delay(line.host);
            let Some(h) = self.hosts.get_mut(line.host).filter(|h| h.control_epoch == line.epoch) else {
                continue;
            };
            h.last_told = h.last_told.max(self.now + delay);
            let (host, epoch) = (line.host, line.epoch);
            self.queue.push(h.last_told, Event::FromServer { host, epoch, word: Box::new(word) });
        }
        let next = self.server.as_ref().and_then(|server| server.next_deadline(now));
        if let Some(at) = next.map(|at| at.max(self.now))
            && self.server_armed.is_none_or(|armed| armed > at)
        {
            self.server_armed = Some(at);
            self.queue.push(at, Event::ServerWake { at });
        }
    }

    pub(super) fn server_wakes(&mut self, at: sw_types::Instant) {
        if self.server_armed != Some(at) {
            return;
        }
        self.server_armed = None;
        let now = self.server_now();
        if self.control_is_up
            && let Some(server) = &mut self.server
        {
            server.on_deadline(now);
            self.serve_server();
        }
    }

    pub(super) fn keep_alive(&mut self, stream: StreamId) {
        let Some(line) = self.server.as_ref().and_then(|server| server.line(stream)) else { return };
        let at = self.now + self.control_delay(line.host);
        let (host, epoch) = (line.host, line.epoch);
        let word = Box::new(Word::KeepAlive(line.request));
        self.queue.push(at, Event::FromServer { host, epoch, word });
        self.queue.push(self.now + KEEP_ALIVE, Event::KeepAlive { stream });
    }

    pub(super) fn stream_dies(&mut self, stream: StreamId) {
        let now = self.server_now();
        if let Some(server) = &mut self.server {
            server.on_stream_ended(stream, Ended::Broken, now);
            self.serve_server();
        }
    }

    pub(super) fn told_at(&mut self, host: usize, epoch: u64, word: Word) {
        let now = self.now_at(host);
        let loses = self.defect == Some(Defect::LosesDelta) && host == 0;
        let Some(h) = self.hosts.get_mut(host).filter(|h| h.is_awake && h.control_epoch == epoch) else {
            return;
        };
        let Some(node) = h.node.as_mut() else { return };
        let mut done = None;
        match word {
            Word::Registered(id, answer) => {
                done = Some(Pending::Register(id));
                node.on_register_answer(id, answer.map(|response| *response), now);
            }
            Word::Updated(id, answer) => {
                done = Some(Pending::Update(id));
                node.on_update_answer(id, answer, now);
            }
            Word::MapEnded(id) => {
                done = Some(Pending::Map(id));
                node.on_map_ended(id, now);
            }
            Word::KeepAlive(id) => {
                let message = MapResponse { keep_alive: true, ..MapResponse::default() };
                node.on_map_message(id, message, now);
            }
            Word::Map(id, stream, message) => {
                self.trace.number(message.parts().iter().map(|part| part.json().len() as u64).sum());
                let read = if self.defect == Some(Defect::CutsMessages) {
                    let mut text = message.to_json();
                    text.pop();
                    read_text(&text)
                } else {
                    self.reader.read(&message)
                };
                match read {
                    Some(mut response) => {
                        if loses {
                            lose_one(&mut response);
                        }
                        node.on_map_message(id, response, now);
                    }
                    None => self.violations.push(crate::Violation::Unreadable { host }),
                }
                if let Some(server) = &mut self.server {
                    server.on_stream_ready(stream);
                }
                self.serve_server();
            }
        }
        if let Some(h) = self.hosts.get_mut(host) {
            h.pending.retain(|pending| Some(*pending) != done);
        }
        self.pump(host);
    }

    /// A machine notices that its connection is gone.
    pub(super) fn session_broken(&mut self, host: usize, epoch: u64) {
        if self.hosts.get(host).is_some_and(|h| h.is_awake && h.control_epoch == epoch) {
            self.fail_calls(host);
            self.pump(host);
        }
    }

    /// Answers all calls of the broken connection in the network's stead; the next one dials anew.
    pub(super) fn fail_calls(&mut self, host: usize) {
        let now = self.now_at(host);
        let Some(h) = self.hosts.get_mut(host) else { return };
        h.control_epoch += 1;
        h.control_up = false;
        let pending = std::mem::take(&mut h.pending);
        let Some(node) = h.node.as_mut() else { return };
        for call in pending {
            match call {
                Pending::Register(id) => node.on_register_answer(id, Err(RequestFailure::Transport), now),
                Pending::Update(id) => node.on_update_answer(id, Err(RequestFailure::Transport), now),
                Pending::Map(id) => node.on_map_ended(id, now),
            }
        }
    }

    /// The server will notice that a machine's connection is gone.
    pub(super) fn abandon_streams(&mut self, host: usize, epoch: u64) {
        let streams = self.server.as_ref().map(|s| s.streams_of(host, epoch)).unwrap_or_default();
        for stream in streams {
            let wait = self.rng.duration(STREAM_DIES.0, STREAM_DIES.1);
            self.queue.push(self.now + wait, Event::StreamDies { stream });
        }
    }

    /// The machine has a network again: calls of the old one fail and what waits is tried at once.
    pub(super) fn resume_session(&mut self, host: usize) {
        self.fail_calls(host);
        let now = self.now_at(host);
        if let Some(node) = self.hosts.get_mut(host).and_then(|h| h.node.as_mut()) {
            node.on_link_change(now);
        }
        self.pump(host);
    }

    /// Puts the wanted policy in force; one that is not stored is tried again.
    pub(super) fn enforce_policy(&mut self) {
        let now = self.server_now();
        let forbidden = self.control.forbidden().clone();
        let Some(server) = &mut self.server else { return };
        if !self.control_is_up || server.set_policy(&forbidden, now).is_err() {
            self.queue.push(self.now + POLICY_AGAIN, Event::PolicyAgain);
        }
        self.serve_server();
    }

    /// What the engine found out about the network, told to the node core.
    pub(super) fn tell_net_info(&mut self, host: usize, info: &sw_path::NetInfo) {
        let now = self.now_at(host);
        let wire = NetInfo {
            mapping_varies_by_dest_ip: info.mapping_varies,
            working_ipv6: Some(info.working_ipv6),
            working_udp: Some(info.working_udp),
            have_port_map: info.have_port_map,
            preferred_derp: info.preferred_derp.unwrap_or_default(),
            ..NetInfo::default()
        };
        if let Some(node) = self.hosts.get_mut(host).and_then(|h| h.node.as_mut()) {
            node.on_net_info(wire, now);
        }
    }

    /// The same for where the machine may be found.
    pub(super) fn tell_endpoints(&mut self, host: usize, endpoints: &[sw_path::Endpoint]) {
        let now = self.now_at(host);
        let told = endpoints.iter().map(|e| (e.addr, EndpointType(e.kind as i32))).collect();
        if let Some(node) = self.hosts.get_mut(host).and_then(|h| h.node.as_mut()) {
            node.on_endpoints(told, now);
        }
    }

    /// Ends the server's process and starts another one from what is stored.
    pub(super) fn restart_server(&mut self) {
        let (now, in_order, defect) = (self.server_now(), self.rng.chance(0.5), self.defect);
        let restart = |server: &mut Server| server.restart(in_order, defect, now);
        if self.server.as_mut().map(restart).is_some_and(|done| done.is_err()) {
            self.violate(crate::Violation::StoreContradictsItself);
        }
    }
}

fn info_of(peer: PeerConfig) -> PeerInfo {
    PeerInfo { node: peer.key, disco: peer.disco, endpoints: peer.endpoints, home: peer.home, cap: peer.cap }
}

/// Takes one change out of a delta.
fn lose_one(message: &mut MapResponse) {
    if message.peers_changed.pop().is_none() && message.peers_changed_patch.pop().is_none() {
        message.peers_removed.pop();
    }
}

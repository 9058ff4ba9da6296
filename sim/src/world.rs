//! The world: one queue of events, all machines, relays and the control
//! server, and the loop that moves virtual time.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

use sw_path::{PathConfig, PathEngine};
use sw_tailnet::StreamId;
use sw_types::{Instant, NodeKey, Now, RegionId, RelayMap, Rng, UnixTime};

use crate::control::{Control, Update};
use crate::defect::Defect;
use crate::host::Host;
use crate::invariant::Violation;
use crate::link::LinkSpec;
use crate::net::{Network, SegmentId, StationId, Transit};
use crate::queue::Queue;
use crate::reader::Reader;
use crate::relay::Relay;
use crate::scenario::{Cores, Fault, Scenario, TalkSpec};
use crate::server::{Call, Server, Word};
use crate::talk::Talk;
use crate::trace::Trace;

mod act;
mod faults;
mod session;
mod streams;

pub(crate) use session::Pending;

/// Something that happens at a moment.
#[derive(Debug)]
pub(crate) enum Event {
    /// A datagram begins its way down to a station.
    Ingress {
        transit: Transit,
        bytes: Vec<u8>,
    },
    /// A datagram is at a station's socket.
    Deliver {
        station: StationId,
        port: u16,
        from: SocketAddr,
        bytes: Vec<u8>,
    },
    /// A frame is at a relay.
    AtRelay {
        host: usize,
        region: RegionId,
        epoch: u64,
        to: NodeKey,
        bytes: Vec<u8>,
    },
    /// A connection of a relay takes more frames.
    RelayWrites {
        host: usize,
        region: RegionId,
        epoch: u64,
    },
    /// A frame is at a machine.
    FromRelay {
        host: usize,
        region: RegionId,
        epoch: u64,
        from: NodeKey,
        bytes: Vec<u8>,
    },
    /// An attempt to connect to a relay ends.
    RelayOpens {
        host: usize,
        region: RegionId,
        epoch: u64,
    },
    RelayRetry {
        host: usize,
        region: RegionId,
    },
    RelayHttp {
        host: usize,
        region: RegionId,
        rtt: Option<Duration>,
    },
    SocketOpens {
        host: usize,
    },
    PortMapped {
        host: usize,
        addr: Option<SocketAddr>,
    },
    Wake {
        host: usize,
        token: u64,
    },
    /// A node's word arrives at control.
    AtControl {
        host: usize,
        epoch: u64,
        info: Box<sw_path::PeerInfo>,
    },
    /// Control tells what it gathered.
    Flush,
    FromControl {
        host: usize,
        epoch: u64,
        update: Update,
    },
    ControlOpens {
        host: usize,
        epoch: u64,
    },
    ControlReturns,
    AtServer {
        host: usize,
        epoch: u64,
        call: Box<Call>,
    },
    FromServer {
        host: usize,
        epoch: u64,
        word: Box<Word>,
    },
    ServerWake {
        at: Instant,
    },
    KeepAlive {
        stream: StreamId,
    },
    /// The server notices that a stream is broken.
    StreamDies {
        stream: StreamId,
    },
    /// A machine notices that its connection to the server is broken.
    SessionBroken {
        host: usize,
        epoch: u64,
    },
    PolicyAgain,
    /// A relay notices that a connection is broken.
    RelayForgets {
        host: usize,
        region: RegionId,
        epoch: u64,
    },
    Refused {
        host: usize,
        epoch: u64,
    },
    Talk {
        talk: usize,
    },
    Fault {
        fault: Fault,
    },
    WakesUp {
        host: usize,
        slept: Duration,
    },
    Lie {
        host: usize,
    },
}

/// Owner of a station.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Owner {
    Host(usize),
    Relay(usize),
}

/// What a run was like; see [`World::report`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    pub events: u64,
    pub datagrams: u64,
    pub frames: u64,
    /// Packets that a relay had no room for.
    pub relay_dropped: u64,
    pub data_sent: u64,
    pub data_received: u64,
    pub queue_max: usize,
}

/// A running world.
#[derive(Debug)]
pub struct World {
    pub(crate) start: Instant,
    pub(crate) now: Instant,
    pub(crate) queue: Queue<Event>,
    pub(crate) rng: Rng,
    pub(crate) net: Network,
    pub(crate) owners: Vec<Owner>,
    pub(crate) hosts: Vec<Host>,
    pub(crate) by_key: HashMap<NodeKey, usize>,
    pub(crate) relays: Vec<Relay>,
    pub(crate) relay_map: RelayMap,
    /// The stand-in; with real cores only its knowledge of who may talk counts.
    pub(crate) control: Control,
    /// The real one.
    pub(crate) server: Option<Server>,
    pub(crate) server_armed: Option<Instant>,
    pub(crate) reader: Reader,
    pub(crate) control_is_up: bool,
    /// Control will tell what it gathered.
    pub(crate) flush_is_due: bool,
    pub(crate) talks: Vec<Talk>,
    /// Loss of UDP between two machines, by fault.
    pub(crate) cuts: BTreeMap<(usize, usize), f64>,
    /// Since when a machine (first) knows that it may not talk with another.
    pub(crate) acked: BTreeMap<(usize, usize), Instant>,
    pub(crate) trace: Trace,
    pub(crate) figures: Figures,
    pub(crate) violations: Vec<Violation>,
    pub(crate) defect: Option<Defect>,
    config: PathConfig,
}

/// Where virtual time begins: a boot some time ago.
const START: Instant = Instant::from_nanos(100_000_000_000);
/// The wall clock then, 2027.
const WALL_S: i64 = 1_800_000_000;

/// A clock that is `offset_s` seconds off, `since` after the start.
fn wall(since: Duration, offset_s: i64) -> UnixTime {
    UnixTime::from_secs(WALL_S + offset_s) + since
}

impl World {
    /// Builds the world of a scenario; nothing has happened yet.
    pub fn new(scenario: &Scenario) -> Self {
        Self::with(scenario, PathConfig::default(), None)
    }

    /// Builds it with other settings of all nodes and a planted defect.
    pub fn with(scenario: &Scenario, config: PathConfig, defect: Option<Defect>) -> Self {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&scenario.seed.to_le_bytes());
        let mut rng = Rng::new(seed);
        let mut net = Network::new();
        let mut owners = Vec::new();
        let mut relays = Vec::new();
        for (index, latency) in scenario.regions.iter().enumerate() {
            let station = net.add_station(LinkSpec { latency: *latency, ..LinkSpec::default() });
            net.attach(station, SegmentId::INTERNET, (true, true));
            owners.push(Owner::Relay(index));
            relays.push(Relay::new(RegionId(900 + index as u32), station));
        }
        let mut segments = vec![SegmentId::INTERNET];
        for place in &scenario.boxes {
            let outer = segments.get(place.outer).copied().unwrap_or(SegmentId::INTERNET);
            let inner = net.add_box(place.spec, outer, &mut rng);
            segments.push(inner);
        }
        let mut hosts = Vec::new();
        for spec in &scenario.hosts {
            let station = net.add_station(spec.link);
            owners.push(Owner::Host(hosts.len()));
            hosts.push(Host::new(*spec, station, config.clone(), &mut rng));
        }
        let by_key = hosts.iter().enumerate().map(|(n, h): (usize, &Host)| (h.key, n)).collect();
        let relay_map = crate::relay::map_of(&relays, &net);
        let server = (scenario.cores == Cores::Real).then(|| {
            let now = Now { mono: START, wall: wall(Duration::ZERO, 0) };
            Server::new(hosts.len(), crate::relay::wire_map_of(&relay_map), rng.bytes(), now)
        });
        let mut world = Self {
            start: START,
            now: START,
            queue: Queue::new(),
            rng,
            net,
            owners,
            control: Control::new(hosts.len()),
            server,
            server_armed: None,
            reader: Reader::default(),
            hosts,
            by_key,
            relays,
            relay_map,
            control_is_up: true,
            flush_is_due: false,
            talks: scenario.talks.iter().map(|spec| Talk::new(*spec)).collect(),
            cuts: BTreeMap::new(),
            acked: BTreeMap::new(),
            trace: Trace::default(),
            figures: Figures::default(),
            violations: Vec::new(),
            defect,
            config,
        };
        for host in 0..world.hosts.len() {
            world.boot(host);
        }
        for (index, spec) in scenario.talks.iter().enumerate() {
            world.queue.push(START + spec.start, Event::Talk { talk: index });
        }
        for (at, fault) in &scenario.faults {
            world.queue.push(START + *at, Event::Fault { fault: *fault });
        }
        world
    }

    /// Starts the node program of a machine at its place.
    pub(crate) fn boot(&mut self, host: usize) {
        let Some(h) = self.hosts.get(host) else { return };
        let (station, spec) = (h.station, h.spec);
        self.net.attach(station, SegmentId(spec.segment), (spec.v4, spec.v6));
        self.start_node(host);
    }

    /// Tells a new engine all it needs to begin.
    pub(crate) fn start_node(&mut self, host: usize) {
        let (now, map) = (self.now_at(host), self.relay_map.clone());
        let local = self.local_addresses(host);
        if let Some(h) = self.hosts.get_mut(host) {
            let port = h.port;
            h.engine.on_local_addresses(local, now);
            h.engine.on_bound_port(port, now);
            if self.server.is_none() {
                h.engine.on_relay_map(&map, now);
            }
        }
        if self.server.is_some() {
            self.start_session(host);
        } else {
            self.connect_control(host);
        }
        self.pump(host);
    }

    /// Virtual time since the start.
    pub fn elapsed(&self) -> Duration {
        self.now.saturating_since(self.start)
    }

    /// The clocks of a machine.
    pub(crate) fn now_at(&self, host: usize) -> Now {
        let offset = self.hosts.get(host).map_or(0, |h| h.wall_offset_s);
        Now { mono: self.now, wall: wall(self.elapsed(), offset) }
    }

    /// Runs until `until` after the start.
    pub fn run_until(&mut self, until: Duration) {
        let until = self.start + until;
        while self.violations.is_empty()
            && let Some((at, event)) = self.queue.pop_until(until)
        {
            self.now = self.now.max(at);
            self.figures.events += 1;
            self.figures.queue_max = self.figures.queue_max.max(self.queue.len());
            self.handle(event);
        }
        self.now = self.now.max(until);
    }

    /// Runs for `duration` more.
    pub fn run_for(&mut self, duration: Duration) {
        let until = self.elapsed() + duration;
        self.run_until(until);
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Ingress { transit, bytes } => self.ingress(&transit, bytes),
            Event::Deliver { station, port, from, bytes } => self.deliver(station, port, from, &bytes),
            Event::AtRelay { host, region, epoch, to, bytes } => {
                self.at_relay(host, region, epoch, to, bytes);
            }
            Event::RelayWrites { host, region, epoch } => self.relay_writes(host, region, epoch),
            Event::FromRelay { host, region, epoch, from, bytes } => {
                self.frame_at(host, region, epoch, from, &bytes);
            }
            Event::RelayOpens { host, region, epoch } => self.relay_opens(host, region, epoch),
            Event::RelayRetry { host, region } => self.relay_retry(host, region),
            Event::RelayHttp { host, region, rtt } => {
                self.with_engine(host, |engine, now| engine.on_relay_http(region, rtt, now));
            }
            Event::SocketOpens { host } => self.socket_opens(host),
            Event::PortMapped { host, addr } => {
                self.with_engine(host, |engine, now| engine.on_port_mapped(addr, now));
            }
            Event::Wake { host, token } => self.wake(host, token),
            Event::AtControl { host, epoch, info } => self.at_control(host, epoch, *info),
            Event::Flush => self.flush(),
            Event::FromControl { host, epoch, update } => self.update_at(host, epoch, update),
            Event::ControlOpens { host, epoch } => self.control_opens(host, epoch),
            Event::ControlReturns => self.control_returns(),
            Event::AtServer { host, epoch, call } => self.at_server(host, epoch, *call),
            Event::FromServer { host, epoch, word } => self.told_at(host, epoch, *word),
            Event::ServerWake { at } => self.server_wakes(at),
            Event::KeepAlive { stream } => self.keep_alive(stream),
            Event::StreamDies { stream } => self.stream_dies(stream),
            Event::SessionBroken { host, epoch } => self.session_broken(host, epoch),
            Event::PolicyAgain => self.enforce_policy(),
            Event::RelayForgets { host, region, epoch } => self.relay_forgets(host, region, epoch),
            Event::Refused { host, epoch } => self.refused(host, epoch),
            Event::Talk { talk } => self.talk(talk),
            Event::Fault { fault } => self.fault(fault),
            Event::WakesUp { host, slept } => self.wakes_up(host, slept),
            Event::Lie { host } => self.lie(host),
        }
    }

    /// Runs an input on a machine's engine, then performs its outputs.
    pub(crate) fn with_engine(&mut self, host: usize, input: impl FnOnce(&mut PathEngine, Now)) {
        let now = self.now_at(host);
        let Some(h) = self.hosts.get_mut(host).filter(|h| h.is_awake) else { return };
        input(&mut h.engine, now);
        self.pump(host);
    }

    /// Wakes a machine's engine at its deadline.
    fn wake(&mut self, host: usize, token: u64) {
        let now = self.now_at(host);
        let Some(h) = self.hosts.get_mut(host) else { return };
        if !h.is_awake || h.armed.is_none_or(|(_, armed)| armed != token) {
            return;
        }
        h.armed = None;
        h.wakes += 1;
        h.still = if h.last_wake == self.now { h.still + 1 } else { 0 };
        h.last_wake = self.now;
        if h.still >= 1000 {
            self.violate(Violation::WakeStorm { host });
            return;
        }
        h.engine.on_deadline(now);
        if let Some(node) = &mut h.node {
            node.on_deadline(now);
        }
        self.pump(host);
    }

    /// Arms the timer of a machine.
    pub(crate) fn arm(&mut self, host: usize) {
        let defect = self.defect;
        let Some(h) = self.hosts.get_mut(host).filter(|h| h.is_awake) else { return };
        let node = h.node.as_ref().and_then(|node| node.next_deadline());
        let engine = h.engine.next_deadline().map(|(at, _)| at);
        let mut next = [node, engine].into_iter().flatten().min().map(|at| at.max(self.now));
        if defect == Some(Defect::WakesAlways) && host == 0 {
            next = Some(self.now);
        }
        let Some(at) = next else { return };
        // A wake that comes too early does no harm and is armed again.
        if h.armed.is_some_and(|(armed, _)| armed <= at) {
            return;
        }
        h.token += 1;
        h.armed = Some((at, h.token));
        self.queue.push(at, Event::Wake { host, token: h.token });
    }

    pub(crate) fn violate(&mut self, violation: Violation) {
        self.violations.push(violation);
    }

    /// What went wrong so far.
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// The trace hash.
    pub fn trace(&self) -> Trace {
        self.trace
    }

    /// How much happened.
    pub fn figures(&self) -> Figures {
        self.figures
    }

    /// Adds a conversation that begins now; returns its number.
    pub fn add_talk(&mut self, from: usize, to: usize, lasts: Duration, every: Duration) -> usize {
        let start = self.elapsed();
        let spec = TalkSpec { from, to, start, end: start + lasts, every, bytes: 200 };
        self.talks.push(Talk::new(spec));
        self.queue.push(self.now, Event::Talk { talk: self.talks.len() - 1 });
        self.talks.len() - 1
    }

    /// Lets a fault happen now.
    pub fn inject(&mut self, fault: Fault) {
        self.fault(fault);
    }

    pub(crate) fn path_config(&self) -> PathConfig {
        self.config.clone()
    }
}

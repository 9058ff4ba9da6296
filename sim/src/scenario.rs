//! What is simulated: places, machines, conversations and faults, all as data.

use std::time::Duration;

use sw_types::Rng;

use crate::link::LinkSpec;
use crate::nat::{BoxSpec, Filtering, Mapping, Ports};

/// A middlebox and what it stands on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BoxAt {
    pub spec: BoxSpec,
    /// Index of the segment outside; 0 is the Internet, n the inside of box n.
    pub outer: usize,
}

/// One machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HostSpec {
    /// 0: on the Internet; n: behind box n (counted from 1).
    pub segment: usize,
    pub v4: bool,
    pub v6: bool,
    pub link: LinkSpec,
}

/// One conversation; packets go one way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TalkSpec {
    pub from: usize,
    pub to: usize,
    pub start: Duration,
    pub end: Duration,
    pub every: Duration,
    pub bytes: usize,
}

/// Something that goes wrong, or is changed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// A machine moves to another segment.
    Roam {
        host: usize,
        segment: usize,
    },
    /// A machine sleeps.
    Sleep {
        host: usize,
        secs: u64,
    },
    /// A machine's wall clock is set.
    ClockJump {
        host: usize,
        secs: i64,
    },
    /// The node program is killed and started again.
    Restart {
        host: usize,
    },
    RelayDies {
        region: usize,
    },
    RelayReturns {
        region: usize,
    },
    /// The control server is away for a while.
    ControlRestart {
        secs: u64,
    },
    /// The next changes of a machine are refused by the control server.
    CommitFails {
        host: usize,
        times: u32,
    },
    /// A machine starts to send nonsense to all its peers.
    Lies {
        host: usize,
    },
    /// A middlebox loses all mappings.
    BoxReboots {
        segment: usize,
    },
    /// UDP between two machines vanishes with this probability; 0 heals.
    Cut {
        a: usize,
        b: usize,
        loss: f64,
    },
    /// Two machines may not talk any more.
    Revoke {
        a: usize,
        b: usize,
    },
    /// Two machines may talk again.
    Permit {
        a: usize,
        b: usize,
    },
}

impl Fault {
    /// Returns whether the fault names a machine.
    pub(crate) fn names(&self, n: usize) -> bool {
        match *self {
            Self::Roam { host, .. }
            | Self::Sleep { host, .. }
            | Self::ClockJump { host, .. }
            | Self::Restart { host }
            | Self::CommitFails { host, .. }
            | Self::Lies { host } => host == n,
            Self::Cut { a, b, .. } | Self::Revoke { a, b } | Self::Permit { a, b } => a == n || b == n,
            Self::RelayDies { .. }
            | Self::RelayReturns { .. }
            | Self::ControlRestart { .. }
            | Self::BoxReboots { .. } => false,
        }
    }
}

/// Which cores a world is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cores {
    /// All: node, server, relay, paths.
    Real,
    /// Paths and relay; peers are told by a stand-in.
    Paths,
}

/// A whole run; equal scenarios give equal traces.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    pub seed: u64,
    pub cores: Cores,
    /// One-way delay of each relay region's link.
    pub regions: Vec<Duration>,
    pub boxes: Vec<BoxAt>,
    pub hosts: Vec<HostSpec>,
    pub talks: Vec<TalkSpec>,
    pub faults: Vec<(Duration, Fault)>,
    /// After this the world is at rest and must be in order.
    pub rest_after: Duration,
}

/// How long after the last fault everything must be in order.
pub const CONVERGENCE: Duration = Duration::from_secs(45);

impl Scenario {
    /// An empty world with one near relay.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            cores: Cores::Real,
            regions: vec![Duration::from_millis(15)],
            boxes: Vec::new(),
            hosts: Vec::new(),
            talks: Vec::new(),
            faults: Vec::new(),
            rest_after: Duration::ZERO,
        }
    }

    /// Adds a box on the Internet; returns the segment inside.
    pub fn add_box(&mut self, spec: BoxSpec) -> usize {
        self.add_box_on(spec, 0)
    }

    /// Adds a box on another segment; returns the segment inside.
    pub fn add_box_on(&mut self, spec: BoxSpec, outer: usize) -> usize {
        self.boxes.push(BoxAt { spec, outer });
        self.boxes.len()
    }

    /// Adds an IPv4 machine; returns its number.
    pub fn add_host(&mut self, segment: usize) -> usize {
        self.hosts.push(HostSpec { segment, v4: true, v6: false, link: LinkSpec::default() });
        self.hosts.len() - 1
    }

    /// Draws a world from a seed.
    pub fn random(seed: u64) -> Self {
        let mut bytes = [0x5a; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let rng = &mut Rng::new(bytes);
        let mut scenario = Self::new(seed);
        for _ in 0..rng.below(3) {
            scenario.regions.push(Duration::from_millis(5 + rng.below(120)));
        }
        for n in 0..1 + rng.below(4) as usize {
            let outer = if n > 0 && rng.chance(0.25) { 1 + rng.below(n as u64) as usize } else { 0 };
            scenario.boxes.push(BoxAt { spec: random_box(rng), outer });
        }
        for _ in 0..2 + rng.below(4) {
            let segment = rng.below(scenario.boxes.len() as u64 + 1) as usize;
            let (v4, v6) = match rng.below(10) {
                0 => (false, true),
                1..=3 => (true, true),
                _ => (true, false),
            };
            scenario.hosts.push(HostSpec { segment, v4, v6, link: random_link(rng) });
        }
        for _ in 0..rng.below(5) {
            let at = Duration::from_millis(2000 + rng.below(40_000));
            let fault = random_fault(rng, &scenario);
            scenario.faults.push((at, fault));
        }
        scenario.faults.sort_by_key(|(at, _)| *at);
        for _ in 0..1 + rng.below(3) {
            let from = rng.below(scenario.hosts.len() as u64) as usize;
            let to = (from + 1 + rng.below(scenario.hosts.len() as u64 - 1) as usize) % scenario.hosts.len();
            let start = Duration::from_millis(500 + rng.below(10_000));
            let end = start + Duration::from_secs(5 + rng.below(40));
            let every = Duration::from_millis(20 + rng.below(500));
            scenario.talks.push(TalkSpec {
                from,
                to,
                start,
                end,
                every,
                bytes: 100 + rng.below(1100) as usize,
            });
        }
        if rng.chance(0.1) {
            scenario.add_flood(rng);
        }
        scenario.rest_after = scenario.last_event() + CONVERGENCE;
        scenario
    }

    /// For two seconds somebody sends far more than the receiver's link carries.
    fn add_flood(&mut self, rng: &mut Rng) {
        let Some(&TalkSpec { from, to, .. }) = self.talks.first() else { return };
        if let Some(host) = self.hosts.get_mut(to) {
            host.link.bandwidth_bps = Some(1_000_000);
        }
        let start = Duration::from_millis(3000 + rng.below(10_000));
        let (end, every) = (start + Duration::from_secs(2), Duration::from_millis(1));
        self.talks.push(TalkSpec { from, to, start, end, every, bytes: 1100 });
    }

    /// When the last fault is over.
    pub(crate) fn last_event(&self) -> Duration {
        let over = |(at, fault): &(Duration, Fault)| match fault {
            Fault::Sleep { secs, .. } | Fault::ControlRestart { secs } => *at + Duration::from_secs(*secs),
            Fault::Roam { .. }
            | Fault::ClockJump { .. }
            | Fault::Restart { .. }
            | Fault::RelayDies { .. }
            | Fault::RelayReturns { .. }
            | Fault::CommitFails { .. }
            | Fault::Lies { .. }
            | Fault::BoxReboots { .. }
            | Fault::Cut { .. }
            | Fault::Revoke { .. }
            | Fault::Permit { .. } => *at,
        };
        self.faults.iter().map(over).max().unwrap_or_default().max(Duration::from_secs(2))
    }
}

fn random_box(rng: &mut Rng) -> BoxSpec {
    let mapping = match rng.below(10) {
        0 => None,
        1 => Some(Mapping::Address),
        2 | 3 => Some(Mapping::AddressPort),
        _ => Some(Mapping::Endpoint),
    };
    let filtering = match rng.below(6) {
        0 => Filtering::Endpoint,
        1 => Filtering::Address,
        _ => Filtering::AddressPort,
    };
    let ports = match rng.below(6) {
        0 => Ports::Preserve,
        1 => Ports::Sequential(1 + rng.below(3) as u16),
        2 => Ports::Block(20_000, 21_023),
        _ => Ports::Random,
    };
    BoxSpec {
        mapping,
        filtering,
        ports,
        expiry: Duration::from_secs([30, 60, 120, 300][rng.below(4) as usize]),
        hairpin: rng.chance(0.3),
        port_mapping: rng.chance(0.2),
        blocks_udp: rng.chance(0.08),
        ipv6: rng.chance(0.4),
    }
}

fn random_link(rng: &mut Rng) -> LinkSpec {
    let rough = rng.chance(0.2);
    LinkSpec {
        latency: Duration::from_millis(1 + rng.below(60)),
        jitter: Duration::from_millis(rng.below(if rough { 15 } else { 3 })),
        loss: if rough { rng.unit() * 0.02 } else { 0.0 },
        reorder: if rough { 0.05 } else { 0.0 },
        duplicate: if rough { 0.01 } else { 0.0 },
        mtu: 1500,
        bandwidth_bps: rng.chance(0.2).then(|| 2_000_000 + rng.below(50_000_000)),
    }
}

fn random_fault(rng: &mut Rng, scenario: &Scenario) -> Fault {
    let hosts = scenario.hosts.len() as u64;
    let host = rng.below(hosts) as usize;
    let other = (host + 1 + rng.below(hosts - 1) as usize) % scenario.hosts.len();
    let segment = rng.below(scenario.boxes.len() as u64 + 1) as usize;
    let region = rng.below(scenario.regions.len() as u64) as usize;
    match rng.below(13) {
        0 => Fault::Roam { host, segment },
        1 => Fault::Sleep { host, secs: [5, 60, 900, 28_800][rng.below(4) as usize] },
        2 => Fault::ClockJump { host, secs: rng.below(200_000) as i64 - 100_000 },
        3 => Fault::Restart { host },
        4 => Fault::RelayDies { region },
        5 => Fault::RelayReturns { region },
        6 => Fault::ControlRestart { secs: rng.below(20) },
        7 => Fault::CommitFails { host, times: 1 + rng.below(3) as u32 },
        8 => Fault::Lies { host },
        9 => Fault::BoxReboots { segment },
        10 => Fault::Cut { a: host, b: other, loss: [0.0, 0.3, 1.0][rng.below(3) as usize] },
        11 => Fault::Revoke { a: host, b: other },
        _ => Fault::Permit { a: host, b: other },
    }
}

impl Scenario {
    /// A tailnet of many machines that work for a while: each talks now and
    /// then, some roam, sleep and restart, relays and control have bad
    /// moments.
    pub fn crowd(nodes: usize, lasts: Duration, seed: u64) -> Self {
        let mut bytes = [0xc3; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let rng = &mut Rng::new(bytes);
        let mut scenario = Self::new(seed);
        scenario.cores = Cores::Paths;
        scenario.regions = [12, 40, 90].map(Duration::from_millis).to_vec();
        for _ in 0..(nodes / 4).max(2) {
            let spec =
                [BoxSpec::EASY, BoxSpec::EASY_AF, BoxSpec::HARD, BoxSpec::HARD_BLOCK, BoxSpec::FIREWALL];
            scenario.add_box(spec[rng.below(5) as usize]);
        }
        let segments = scenario.boxes.len() as u64 + 1;
        for _ in 0..nodes {
            let segment = rng.below(segments) as usize;
            scenario.hosts.push(HostSpec { segment, v4: true, v6: rng.chance(0.3), link: random_link(rng) });
        }
        let total_s = lasts.as_secs();
        let at = |rng: &mut Rng| Duration::from_millis(5000 + rng.below(total_s.max(10) * 1000 - 5000));
        for from in 0..nodes {
            // Two conversations an hour each, of a minute or so.
            for _ in 0..(total_s / 1800).max(1) {
                let to = (from + 1 + rng.below(nodes as u64 - 1) as usize) % nodes;
                let start = at(rng);
                let end = start + Duration::from_secs(20 + rng.below(60));
                scenario.talks.push(TalkSpec {
                    from,
                    to,
                    start,
                    end,
                    every: Duration::from_secs(1),
                    bytes: 300,
                });
            }
        }
        for _ in 0..nodes {
            let host = rng.below(nodes as u64) as usize;
            let fault = match rng.below(4) {
                0 | 1 => Fault::Roam { host, segment: rng.below(segments) as usize },
                2 => Fault::Restart { host },
                _ => Fault::Sleep { host, secs: 30 + rng.below(1800) },
            };
            scenario.faults.push((at(rng), fault));
        }
        let third = lasts / 3;
        scenario.faults.push((third, Fault::RelayDies { region: 0 }));
        scenario.faults.push((third + Duration::from_secs(60), Fault::RelayReturns { region: 0 }));
        scenario.faults.push((third * 2, Fault::ControlRestart { secs: 10 }));
        scenario.faults.sort_by_key(|(at, _)| *at);
        scenario.rest_after = lasts;
        scenario
    }
}

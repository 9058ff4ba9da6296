//! What must hold, checked while a world runs and when it is at rest.

use std::fmt;
use std::time::Duration;

use serde_json::Value;
use sw_node::Netmap;

use crate::defect::Defect;
use crate::host::Host;
use crate::oracle::{Possible, possible};
use crate::server::Server;
use crate::world::World;

/// A broken invariant.
#[derive(Clone, Debug, PartialEq)]
pub enum Violation {
    /// A machine was woken a thousand times without time passing.
    WakeStorm { host: usize },
    /// An idle machine wakes too often.
    Restless { host: usize, wakes_per_minute: u64 },
    /// Data passed between machines that knew they may not talk.
    ForbiddenTalk { from: usize, to: usize },
    /// Two machines that may talk cannot.
    Mute { from: usize, to: usize, sent: usize, arrived: usize },
    /// A direct path is possible and is not used.
    NotDirect { from: usize, to: usize },
    /// A path is called direct where none is possible.
    NotPossible { from: usize, to: usize },
    /// The fold of what a machine was told is not what it should know.
    WrongNetmap { host: usize },
    /// A machine could not read what the server told it.
    Unreadable { host: usize },
    /// What the server stored contradicts itself.
    StoreContradictsItself,
    /// Something of all machines together grew beyond its bound.
    Swollen { what: &'static str, size: usize },
    /// Something grew beyond its bound.
    Unbounded { host: usize, what: &'static str, size: usize },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WakeStorm { host } => write!(f, "machine {host} is woken without end"),
            Self::Restless { host, wakes_per_minute } => {
                write!(f, "machine {host} is idle and wakes {wakes_per_minute} times a minute")
            }
            Self::ForbiddenTalk { from, to } => {
                write!(f, "machine {to} took data of {from}, which it may not")
            }
            Self::Mute { from, to, sent, arrived } => {
                write!(f, "of {sent} packets from {from} to {to} only {arrived} arrived")
            }
            Self::NotDirect { from, to } => {
                write!(f, "{from} has no direct path to {to} though there is one")
            }
            Self::NotPossible { from, to } => {
                write!(f, "{from} claims a direct path to {to} where there is none")
            }
            Self::WrongNetmap { host } => write!(f, "machine {host} holds another netmap than it should"),
            Self::Unreadable { host } => write!(f, "machine {host} cannot read what the server tells it"),
            Self::StoreContradictsItself => write!(f, "what the server stored contradicts itself"),
            Self::Swollen { what, size } => write!(f, "there are {size} {what}"),
            Self::Unbounded { host, what, size } => write!(f, "machine {host} holds {size} {what}"),
        }
    }
}

/// How long every pair talks before the verdict; discoveries of a pair that
/// found nothing are up to 20 s apart.
const TALK: Duration = Duration::from_secs(40);
/// The last part of it, in which all must be well.
const VERDICT: Duration = Duration::from_secs(6);
/// Quiet before idle machines are counted.
const QUIET: Duration = Duration::from_secs(700);
/// Wakes of an idle machine in a minute: under five a second with ten peers
/// is asked for; with nothing to keep alive there is hardly any.
const WAKES_PER_MINUTE: u64 = 30;
/// Half seconds in which what is on its way to a machine must arrive.
const ON_ITS_WAY: usize = 6;
/// Bytes before one connection of a relay: both queues of `sw-relay-core` at their limits.
pub(crate) const RELAY_QUEUE_MAX: usize = 1100 << 10;
/// Candidates and waiting pings of one peer.
const CANDIDATES_MAX: usize = 200;
const PINGS_MAX: usize = 256;

impl World {
    /// Lets every permitted pair talk, then checks all that must hold at
    /// rest. Call it when the last fault is over and time for convergence has
    /// passed.
    pub fn check_at_rest(&mut self) {
        let pairs = self.live_pairs();
        let first = self.talks.len();
        for (from, to) in &pairs {
            self.add_talk(*from, *to, TALK, Duration::from_millis(250));
        }
        self.run_for(TALK);
        // The last packets are on their way.
        let until = self.now;
        self.run_for(Duration::from_secs(1));
        for (index, (from, to)) in pairs.iter().enumerate() {
            self.check_pair(first + index, *from, *to, until);
        }
        self.check_netmaps();
        self.check_bounds();
    }

    /// Machines that are awake, may talk and can both reach some relay or
    /// each other.
    fn live_pairs(&self) -> Vec<(usize, usize)> {
        let mut pairs = Vec::new();
        for from in 0..self.hosts.len() {
            for to in 0..self.hosts.len() {
                let awake = |n: usize| self.hosts.get(n).is_some_and(|h| h.is_awake && !h.lies);
                if from != to && awake(from) && awake(to) && !self.control.is_forbidden(from, to) {
                    pairs.push((from, to));
                }
            }
        }
        pairs
    }

    fn check_pair(&mut self, talk: usize, from: usize, to: usize, until: sw_types::Instant) {
        let (Some(a), Some(b)) = (self.hosts.get(from), self.hosts.get(to)) else { return };
        let is_cut = self.cuts.contains_key(&(from.min(to), from.max(to)));
        let rough = [a, b].iter().any(|h| h.spec.link.loss > 0.0 || h.spec.link.reorder > 0.0);
        let possible = if is_cut { Possible::Relay } else { possible(&self.net, a.station, b.station) };
        let relay_lives = self.relays.iter().any(|r| r.is_alive);
        let Some(route) = a.route(to) else {
            if relay_lives {
                self.violate(Violation::Mute { from, to, sent: 0, arrived: 0 });
            }
            return;
        };
        let mut is_direct = route.udp.is_some_and(|leg| leg.vni.is_none()) && route.relay.is_none();
        if self.defect == Some(Defect::ClaimsDirect) {
            is_direct = true;
        }
        let (sent, arrived) = self.talks.get(talk).map_or((0, 0), |t| t.count(until - VERDICT, until));
        let wanted = if rough || is_cut { sent / 2 } else { sent };
        // Without any relay nobody can arrange a meeting; paths that stand go on, new ones need not come about.
        if relay_lives && arrived < wanted {
            self.violate(Violation::Mute { from, to, sent, arrived });
        }
        match possible {
            // A rough link may rightly be left for the relay for a while.
            Possible::Direct if !is_direct && !rough && relay_lives => {
                self.violate(Violation::NotDirect { from, to });
            }
            Possible::Relay if is_direct && !is_cut => self.violate(Violation::NotPossible { from, to }),
            Possible::Direct | Possible::Relay | Possible::Either => {}
        }
    }

    /// What a machine holds is what it should be told. What is on its way at the moment may arrive first.
    fn check_netmaps(&mut self) {
        let mut wrong = self.wrong_netmaps();
        for _ in 0..ON_ITS_WAY {
            if wrong.is_empty() {
                return;
            }
            self.run_for(Duration::from_millis(500));
            wrong = self.wrong_netmaps();
        }
        self.violations.extend(wrong.into_iter().map(|host| Violation::WrongNetmap { host }));
    }

    fn wrong_netmaps(&mut self) -> Vec<usize> {
        let is_real = self.server.is_some();
        let is_right = |world: &mut Self, host: usize| {
            if is_real { world.holds_the_whole(host) } else { world.holds_the_model(host) }
        };
        (0..self.hosts.len()).filter(|host| !is_right(self, *host)).collect()
    }

    fn holds_the_model(&self, host: usize) -> bool {
        let Some(h) = self.hosts.get(host).filter(|h| h.is_awake && h.control_up) else { return true };
        let folded: Vec<_> = h.netmap.iter().enumerate().filter_map(|(n, p)| Some((n, p.clone()?))).collect();
        folded == self.control.full_map(host)
    }

    /// A machine that hears the server holds what it would be told if it asked for everything, and knows exactly the
    /// peers that it may talk with.
    fn holds_the_whole(&mut self, host: usize) -> bool {
        let now = self.server_now();
        let Some(h) = self.hosts.get(host).filter(|h| h.is_awake) else { return true };
        let Some(node) = h.node.as_ref().filter(|node| node.control().is_online()) else { return true };
        let whole = self.server.as_mut().and_then(|server| server.whole(h.machine, h.key, now));
        let fresh = whole.and_then(|message| Netmap::from_first(message, None, now.wall).ok());
        let is_told_all = node.netmap().map(essence) == fresh.map(|(netmap, _)| essence(&netmap));
        let may_know = |peer: usize| {
            let is_in = |p: &Host| self.server.as_ref().is_some_and(|s| s.has(&p.key));
            peer != host && !self.control.is_forbidden(host, peer) && self.hosts.get(peer).is_some_and(is_in)
        };
        is_told_all && (0..self.hosts.len()).all(|peer| h.knows(peer) == may_know(peer))
    }

    fn check_bounds(&mut self) {
        let hoarded = if self.defect == Some(Defect::HoardsConnections) { self.hosts.len() } else { 0 };
        for size in self.relays.iter().map(|r| r.connections() + hoarded).collect::<Vec<_>>() {
            if size > self.hosts.len() {
                self.violate(Violation::Swollen { what: "connections of a relay", size });
            }
        }
        let streams = self.server.as_ref().map_or(0, Server::stream_count);
        if streams > self.hosts.len() {
            self.violate(Violation::Swollen { what: "map streams", size: streams });
        }
        for host in 0..self.hosts.len() {
            let Some(h) = self.hosts.get(host) else { continue };
            let mut footprint = h.engine.footprint();
            if self.defect == Some(Defect::HoardsCandidates) {
                footprint.candidates_of_one_peer += CANDIDATES_MAX;
            }
            let sockets = h.sockets.len();
            for (what, size, max) in [
                ("candidates of one peer", footprint.candidates_of_one_peer, CANDIDATES_MAX),
                ("waiting pings of one peer", footprint.pings_of_one_peer, PINGS_MAX),
                ("endpoints", footprint.endpoints, 64),
                ("sockets", sockets, 300),
            ] {
                if size > max {
                    self.violate(Violation::Unbounded { host, what, size });
                }
            }
        }
    }

    /// Lets the world fall silent, then checks that idle machines sleep.
    pub fn check_idle(&mut self) {
        self.run_for(QUIET);
        let before: Vec<u64> = self.hosts.iter().map(|h| h.wakes).collect();
        self.run_for(Duration::from_secs(60));
        for (host, before) in before.into_iter().enumerate() {
            let Some(h) = self.hosts.get(host) else { continue };
            let mut wakes_per_minute = h.wakes - before;
            if self.defect == Some(Defect::NeverIdle) {
                wakes_per_minute += 1200;
            }
            if wakes_per_minute > WAKES_PER_MINUTE {
                self.violate(Violation::Restless { host, wakes_per_minute });
            }
        }
    }
}

/// What must be equal of two netmaps: all but what the machine said itself, and when a machine was last seen, which
/// alone is not pushed (control.md §5.3).
fn essence(netmap: &Netmap) -> Value {
    let mut json = netmap.to_json();
    if let Some(own) = json.get_mut("SelfNode").and_then(Value::as_object_mut) {
        for words in ["DiscoKey", "Endpoints", "HomeDERP", "Hostinfo", "Cap", "LastSeen", "Online"] {
            own.remove(words);
        }
    }
    for peer in json.get_mut("Peers").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(peer) = peer.as_object_mut() {
            peer.remove("LastSeen");
        }
    }
    // Profiles of those who left stay at a machine.
    if let Some(all) = json.as_object_mut() {
        all.remove("UserProfiles");
    }
    json
}

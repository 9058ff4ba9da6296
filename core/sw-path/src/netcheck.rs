//! One look at the network: which relays answer, how far they are, what they
//! see of us (stun-netcheck.md §4).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use sw_types::{Instant, RegionId, RelayAddr, RelayMap, Rng};

use crate::api::NetReport;
use crate::nat::{Sighting, classify};

/// Limit of the whole report.
const REPORT: Duration = Duration::from_secs(5);
/// Limit of its UDP part.
const UDP_PHASE: Duration = Duration::from_secs(3);
/// A report that probes all regions is made at least this often.
const FULL_EVERY: Duration = Duration::from_secs(300);
/// Distance of the tries of a full plan.
const FULL_PAUSE: Duration = Duration::from_millis(100);
/// Tries per region and family in a full plan.
const FULL_TRIES: u32 = 3;
/// Regions of an incremental plan, home not counted.
const NEAREST: usize = 3;
/// Regions whose answers end the UDP part early.
const ENOUGH: usize = 3;
/// Wait for a second address of a region to settle the mapping question.
const SETTLE: Duration = Duration::from_millis(150);
/// STUN requests of one report; a map with more regions is cut.
const PROBES_MAX: usize = 1024;

/// Transaction id of a STUN request.
pub(crate) type StunTx = [u8; 12];

/// What a netcheck wants done.
#[derive(Debug, PartialEq)]
pub(crate) enum NetAct {
    Stun { to: SocketAddr, tx: StunTx },
    MeasureHttp(RegionId),
    Done(NetReport),
}

/// What the machine is like where the check is made.
#[derive(Clone, Debug, Default)]
pub(crate) struct Host {
    pub(crate) ipv4: bool,
    pub(crate) ipv6: bool,
    /// False: UDP is switched off.
    pub(crate) udp: bool,
    pub(crate) local: Vec<IpAddr>,
    pub(crate) port: u16,
}

/// One server of a region that answers STUN.
#[derive(Clone, Debug)]
struct StunServer {
    host: String,
    port: u16,
    v4: Option<SocketAddr>,
    v6: Option<SocketAddr>,
    wants_name: bool,
}

#[derive(Clone, Copy, Debug)]
struct Probe {
    at: Instant,
    region: RegionId,
    to: SocketAddr,
}

#[derive(Debug)]
enum Phase {
    Udp { ends: Instant },
    Http { waiting: BTreeSet<RegionId>, ends: Instant },
}

#[derive(Debug)]
struct Run {
    started: Instant,
    phase: Phase,
    /// When as many regions had answered as a report needs.
    enough_at: Option<Instant>,
    /// Not sent yet, soonest last.
    probes: Vec<Probe>,
    sent: BTreeMap<StunTx, (Probe, Instant)>,
    sightings: Vec<Sighting>,
    report: NetReport,
}

/// Makes reports, one at a time.
#[derive(Debug, Default)]
pub(crate) struct Netcheck {
    regions: BTreeMap<RegionId, Vec<StunServer>>,
    run: Option<Run>,
    last_full: Option<Instant>,
    last: Option<NetReport>,
    /// All servers that share a host name get its addresses.
    names: BTreeMap<String, Vec<IpAddr>>,
}

impl Netcheck {
    /// Takes a relay map; returns the host names that must be looked up.
    pub(crate) fn set_map(&mut self, map: &RelayMap) -> Vec<String> {
        self.regions.clear();
        let mut wanted = BTreeSet::new();
        for (id, region) in &map.regions {
            if region.no_measure_no_home {
                continue;
            }
            let mut servers = Vec::new();
            for node in &region.nodes {
                let Some(port) = node.stun_port else { continue };
                let (mut v4, mut v6) = (
                    node.ipv4.fixed().map(|ip| SocketAddr::from((ip, port))),
                    node.ipv6.fixed().map(|ip| SocketAddr::from((ip, port))),
                );
                let mut wants_name =
                    matches!(node.ipv4, RelayAddr::Resolve) || matches!(node.ipv6, RelayAddr::Resolve);
                if let Some(ip) = node.stun_test_ip {
                    (v4, v6, wants_name) = (None, None, false);
                    let addr = SocketAddr::new(ip, port);
                    if ip.is_ipv4() { v4 = Some(addr) } else { v6 = Some(addr) }
                }
                // With one literal the other family is not worth a look-up.
                wants_name &= v4.is_none() && v6.is_none();
                if wants_name && !node.host_name.is_empty() {
                    wanted.insert(node.host_name.clone());
                }
                servers.push(StunServer { host: node.host_name.clone(), port, v4, v6, wants_name });
            }
            self.regions.insert(*id, servers);
        }
        self.names.retain(|name, _| wanted.contains(name));
        for (name, ips) in self.names.clone() {
            self.on_resolved(&name, &ips);
        }
        wanted.into_iter().filter(|name| !self.names.contains_key(name)).collect()
    }

    /// Takes the addresses of a name that [`Self::set_map`] asked for.
    pub(crate) fn on_resolved(&mut self, name: &str, ips: &[IpAddr]) {
        for server in self.regions.values_mut().flatten().filter(|s| s.wants_name && s.host == name) {
            let first = |v4: bool| {
                ips.iter().find(|ip| ip.is_ipv4() == v4).map(|ip| SocketAddr::new(*ip, server.port))
            };
            (server.v4, server.v6) = (first(true), first(false));
        }
        self.names.insert(name.to_owned(), ips.to_vec());
    }

    pub(crate) fn is_running(&self) -> bool {
        self.run.is_some()
    }

    /// Some STUN addresses, for samples taken outside a report.
    pub(crate) fn stun_addrs_v4(&self) -> Vec<SocketAddr> {
        let home = self.last.as_ref().and_then(|r| r.home);
        let mut addrs: Vec<SocketAddr> = Vec::new();
        let of = |region: &RegionId| self.regions.get(region).into_iter().flatten().filter_map(|s| s.v4);
        for region in home.iter().chain(self.regions.keys()) {
            for addr in of(region) {
                if !addrs.contains(&addr) {
                    addrs.push(addr);
                }
            }
        }
        addrs
    }

    /// Forgets reports of another network; the next one is full.
    pub(crate) fn forget(&mut self) {
        self.run = None;
        self.last_full = None;
        self.last = None;
    }

    /// Starts a report; the caller checks that none runs.
    pub(crate) fn start(
        &mut self,
        host: &Host,
        home: Option<RegionId>,
        now: Instant,
        rng: &mut Rng,
        acts: &mut Vec<NetAct>,
    ) {
        let full = self.last_full.is_none_or(|at| at + FULL_EVERY <= now)
            || self.last.as_ref().is_none_or(|r| !r.udp);
        if full {
            self.last_full = Some(now);
        }
        let mut probes =
            if full { self.full_plan(host, now) } else { self.incremental_plan(host, home, now) };
        probes.truncate(PROBES_MAX);
        probes.sort_by_key(|p| std::cmp::Reverse(p.at));
        let ends = if host.udp && !probes.is_empty() { now + UDP_PHASE } else { now };
        let report = NetReport { full, ..NetReport::default() };
        let sent = BTreeMap::new();
        let (phase, sightings) = (Phase::Udp { ends }, Vec::new());
        self.run = Some(Run { started: now, phase, enough_at: None, probes, sent, sightings, report });
        self.serve(host, now, rng, acts);
    }

    fn full_plan(&self, host: &Host, now: Instant) -> Vec<Probe> {
        let mut probes = Vec::new();
        let few = self.regions.len() <= ENOUGH;
        for (region, servers) in &self.regions {
            for addrs in families(servers, host) {
                for k in 0..FULL_TRIES {
                    let Some(&to) = addrs.get(k as usize % addrs.len()) else { continue };
                    // Two addresses of a relay are asked at once, so that mapping by destination shows with a
                    // single relay (architecture.md §10.3).
                    let at_once = few && k == 1 && addrs.len() > 1;
                    let at = if at_once { now } else { now + FULL_PAUSE * k };
                    probes.push(Probe { at, region: *region, to });
                }
            }
        }
        probes
    }

    fn incremental_plan(&self, host: &Host, home: Option<RegionId>, now: Instant) -> Vec<Probe> {
        let last = self.last.clone().unwrap_or_default();
        let mut ranked: Vec<(Duration, RegionId)> = last.latency.iter().map(|(r, rtt)| (*rtt, *r)).collect();
        ranked.sort();
        let mut chosen: Vec<RegionId> = ranked.into_iter().map(|(_, region)| region).take(NEAREST).collect();
        chosen.extend(home.filter(|h| !chosen.contains(h)));
        let few = chosen.len() < ENOUGH;
        let mut probes = Vec::new();
        for (rank, region) in chosen.iter().enumerate() {
            let servers = self.regions.get(region).map_or(&[][..], Vec::as_slice);
            let rtt = last.latency.get(region).map_or(Duration::from_millis(200), |rtt| *rtt * 6 / 5);
            let tries = match rank {
                _ if Some(*region) == home => 4,
                0 | 1 => 2,
                _ => 1,
            };
            for addrs in families(servers, host) {
                // The family that never answered is tried once, at the nearest.
                let is_v6 = addrs.first().is_some_and(SocketAddr::is_ipv6);
                let tries = if is_v6 && !last.ipv6 { u32::from(rank < 2) } else { tries };
                for k in 0..tries {
                    let Some(&to) = addrs.get(k as usize % addrs.len()) else { continue };
                    let extra = if k > 1 { Duration::from_millis(50) * k } else { Duration::ZERO };
                    let at_once = few && k == 1 && addrs.len() > 1;
                    let at = if at_once { now } else { now + rtt * k + extra };
                    probes.push(Probe { at, region: *region, to });
                }
            }
        }
        probes
    }

    /// Takes a STUN answer; returns the address it saw when the request was
    /// one of this report.
    pub(crate) fn on_stun(
        &mut self,
        tx: StunTx,
        seen: SocketAddr,
        host: &Host,
        now: Instant,
    ) -> Option<SocketAddr> {
        let run = self.run.as_mut()?;
        let (probe, sent) = run.sent.remove(&tx)?;
        let report = &mut run.report;
        let rtt = now.saturating_since(sent).max(Duration::from_micros(1));
        let lower = |latency: &mut BTreeMap<RegionId, Duration>| {
            latency.entry(probe.region).and_modify(|best| *best = rtt.min(*best)).or_insert(rtt);
        };
        lower(&mut report.latency);
        report.udp = true;
        if probe.to.is_ipv4() {
            lower(&mut report.latency_v4);
            report.ipv4 = true;
            report.global_v4.get_or_insert(seen);
            run.sightings.push(Sighting { server: probe.to, seen });
            (report.mapping_varies, report.nat) = classify(&run.sightings, &host.local, host.port);
        } else {
            lower(&mut report.latency_v6);
            report.ipv6 = true;
            report.global_v6 = Some(seen);
        }
        Some(seen)
    }

    /// IPv4 addresses other than the main one that were seen more than once.
    pub(crate) fn other_v4(&self) -> Vec<SocketAddr> {
        let Some(run) = &self.run else { return Vec::new() };
        let mut others: Vec<SocketAddr> = Vec::new();
        for sighting in &run.sightings {
            let times = run.sightings.iter().filter(|s| s.seen == sighting.seen).count();
            if times > 1 && Some(sighting.seen) != run.report.global_v4 && !others.contains(&sighting.seen) {
                others.push(sighting.seen);
            }
        }
        others
    }

    /// Takes the latency of a relay over HTTPS; `None` when it did not answer.
    pub(crate) fn on_http(&mut self, region: RegionId, rtt: Option<Duration>) {
        let Some(run) = &mut self.run else { return };
        if let Phase::Http { waiting, .. } = &mut run.phase
            && waiting.remove(&region)
            && let Some(rtt) = rtt
        {
            run.report.latency.insert(region, rtt);
        }
    }

    /// Does what is due; call after every input and at the deadline.
    pub(crate) fn serve(&mut self, host: &Host, now: Instant, rng: &mut Rng, acts: &mut Vec<NetAct>) {
        let Some(run) = &mut self.run else { return };
        if let Phase::Udp { ends } = run.phase {
            while run.probes.last().is_some_and(|p| p.at <= now) && ends > now {
                let Some(probe) = run.probes.pop() else { break };
                if run.would_help(probe) {
                    let tx = rng.bytes();
                    run.sent.insert(tx, (probe, now));
                    acts.push(NetAct::Stun { to: probe.to, tx });
                }
            }
            run.shorten(self.regions.len(), now);
        }
        if let Phase::Udp { ends } = run.phase
            && ends <= now
        {
            if run.report.udp || self.regions.is_empty() {
                return self.finish(acts);
            }
            let waiting: BTreeSet<RegionId> = self.regions.keys().copied().collect();
            acts.extend(waiting.iter().map(|region| NetAct::MeasureHttp(*region)));
            run.phase = Phase::Http { waiting, ends: run.started + REPORT };
            // A family that cannot be is no reason to wait.
            run.probes.clear();
        }
        if let Phase::Http { waiting, ends } = &run.phase
            && (waiting.is_empty() || *ends <= now)
        {
            self.finish(acts);
        }
        debug_assert!(host.udp || self.run.as_ref().is_none_or(|r| r.sent.is_empty()), "no UDP was allowed");
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let run = self.run.as_ref()?;
        Some(match &run.phase {
            Phase::Udp { ends } => run.probes.last().map_or(*ends, |p| p.at.min(*ends)),
            Phase::Http { ends, .. } => *ends,
        })
    }

    fn finish(&mut self, acts: &mut Vec<NetAct>) {
        let Some(run) = self.run.take() else { return };
        acts.push(NetAct::Done(run.report));
    }

    /// Keeps the finished report (with the home chosen) for the next plan.
    pub(crate) fn remember(&mut self, report: NetReport) {
        self.last = Some(report);
    }

    pub(crate) fn last(&self) -> Option<&NetReport> {
        self.last.as_ref()
    }
}

impl Run {
    /// Returns whether a probe can still teach something.
    fn would_help(&self, probe: Probe) -> bool {
        let report = &self.report;
        let asked = self.sent.values().any(|(p, _)| p.to == probe.to);
        if probe.to.is_ipv6() {
            return !report.latency_v6.contains_key(&probe.region);
        }
        let answered = self.sightings.iter().any(|s| s.server == probe.to);
        !report.latency_v4.contains_key(&probe.region)
            || (report.mapping_varies.is_none() && !answered && !asked)
    }

    /// Ends the UDP part early when what matters is known.
    fn shorten(&mut self, regions: usize, now: Instant) {
        let report = &self.report;
        if report.latency.len() < ENOUGH.min(regions) {
            return;
        }
        let enough_at = *self.enough_at.get_or_insert(now);
        let slowest = report.latency.values().max().copied().unwrap_or_default();
        let is_open = report.mapping_varies.is_none() && report.ipv4;
        let more_comes = !self.sent.is_empty()
            || self.probes.iter().any(|p| p.at <= enough_at + SETTLE && self.would_help(*p));
        let wait = match (more_comes, is_open, report.full) {
            (false, ..) => Duration::ZERO,
            (true, true, _) => slowest * 2 + SETTLE,
            (true, false, true) => slowest * 2,
            (true, false, false) => slowest,
        };
        if let Phase::Udp { ends } = &mut self.phase {
            *ends = (*ends).min(enough_at + wait);
        }
    }
}

/// The addresses of a region for each family that the host has.
fn families(servers: &[StunServer], host: &Host) -> Vec<Vec<SocketAddr>> {
    let v4: Vec<SocketAddr> = servers.iter().filter_map(|s| s.v4).filter(|_| host.ipv4 && host.udp).collect();
    let v6: Vec<SocketAddr> = servers.iter().filter_map(|s| s.v6).filter(|_| host.ipv6 && host.udp).collect();
    [v4, v6].into_iter().filter(|addrs| !addrs.is_empty()).collect()
}

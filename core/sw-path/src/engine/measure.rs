//! Netchecks, home relay and own endpoints.

use std::net::SocketAddr;
use std::time::Duration;

use sw_types::{NodeKey, Now, RegionId};

use super::PathEngine;
use crate::api::*;
use crate::home::Measured;
use crate::netcheck::NetAct;
use crate::timing::ENDPOINTS_FRESH;

/// Netchecks of an active node are this far apart, at random, since NAT
/// mappings commonly die at 30 s (stun-netcheck.md §4.1).
const PERIODIC: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(26));
/// Changes of endpoints are collected for this long before they are told.
const GATHER: Duration = Duration::from_millis(20);

impl PathEngine {
    /// Starts a netcheck, or notes that another one is wanted after this.
    pub(super) fn request_netcheck(&mut self, now: Now) {
        if !self.measure.ready || self.book.port == 0 {
            return;
        }
        if self.netcheck.is_running() {
            self.measure.again = true;
            return;
        }
        self.stats.netchecks += 1;
        let mut acts = Vec::new();
        let host = self.host();
        self.netcheck.start(&host, self.home, now.mono, &mut self.rng, &mut acts);
        self.perform_net(acts, now);
    }

    pub(super) fn serve_netcheck(&mut self, now: Now) {
        let mut acts = Vec::new();
        let host = self.host();
        self.netcheck.serve(&host, now.mono, &mut self.rng, &mut acts);
        self.perform_net(acts, now);
    }

    fn perform_net(&mut self, acts: Vec<NetAct>, now: Now) {
        for act in acts {
            match act {
                NetAct::Stun { to, tx } => {
                    let datagram = sw_proto::stun::request(sw_proto::stun::TxId(tx)).to_vec();
                    self.outputs.push_back(Output::SendUdp { socket: SocketId::MAIN, to, datagram });
                }
                NetAct::MeasureHttp(region) => self.outputs.push_back(Output::MeasureRelayHttp(region)),
                NetAct::Done(report) => self.on_report(report, now),
            }
        }
    }

    /// A STUN answer came; returns true when somebody waited for it.
    pub(super) fn on_stun(&mut self, datagram: &[u8], socket: SocketId, now: Now) {
        let Ok((tx, seen)) = sw_proto::stun::parse_response(datagram) else { return };
        let seen = crate::candidate::unmapped(seen);
        self.stats.stun_received += 1;
        if socket != SocketId::MAIN {
            self.sprays.on_sample(tx.0, seen);
            self.serve_sprays(now);
            return;
        }
        let host = self.host();
        if let Some(seen) = self.netcheck.on_stun(tx.0, seen, &host, now.mono) {
            // Told at once: waiting for the end of the report would delay the first contact.
            let before = self.book.number();
            self.book.add_stun(seen);
            if before == 0 || !self.book.told().iter().any(|e| e.addr == seen) {
                self.gather_soon(now);
            }
            self.serve_netcheck(now);
        }
    }

    fn on_report(&mut self, mut report: NetReport, now: Now) {
        let seen: Vec<SocketAddr> =
            report.global_v4.into_iter().chain(self.netcheck.other_v4()).chain(report.global_v6).collect();
        self.book.set_stun(seen, report.nat, self.config.fixed_port, now.mono);
        self.choose_home(&report, now);
        report.home = self.home;
        self.tell_net_info(&report);
        self.netcheck.remember(report.clone());
        self.outputs.push_back(Output::NetcheckReport(report));
        self.gather(now);
        self.schedule_netcheck(now);
        if std::mem::take(&mut self.measure.again) {
            self.request_netcheck(now);
        }
        self.tell_peers(now);
    }

    /// Picks the home region (stun-netcheck.md §5).
    fn choose_home(&mut self, report: &NetReport, now: Now) {
        let dead = |region: &RegionId| {
            let relay = self.relays.get(region);
            relay.and_then(|r| r.down_since).is_some_and(|since| since + super::HOME_PATIENCE <= now.mono)
        };
        let mut latency = report.latency.clone();
        // A relay that cannot be connected to is no home, though it may answer STUN.
        if latency.keys().any(|region| !dead(region)) {
            latency.retain(|region, _| !dead(region));
        }
        let previous = self.home.filter(|home| !dead(home) || latency.is_empty());
        let heard = previous.and_then(|home| self.relays.get(&home)?.heard);
        let measured = Measured { started: now.mono, latency };
        let chosen = self.chooser.choose(measured, previous, heard, now.mono).or(self.home);
        if chosen != self.home
            && let Some(home) = chosen
        {
            self.home = chosen;
            self.measure.home_check = None;
            self.outputs.push_back(Output::HomeRegion(home));
        }
    }

    fn tell_net_info(&mut self, report: &NetReport) {
        let mut derp_latency = std::collections::BTreeMap::new();
        for (family, latency) in [("v4", &report.latency_v4), ("v6", &report.latency_v6)] {
            derp_latency.extend(latency.iter().map(|(region, rtt)| (format!("{region}-{family}"), *rtt)));
        }
        let info = NetInfo {
            mapping_varies: report.mapping_varies,
            working_ipv6: report.ipv6,
            os_has_ipv6: self.net().ipv6,
            working_udp: report.udp,
            have_port_map: self.book.mapped.is_some(),
            preferred_derp: self.home,
            derp_latency,
        };
        let same = self.net_info.as_ref().is_some_and(|old| {
            let latencies_aside = NetInfo { derp_latency: info.derp_latency.clone(), ..old.clone() };
            latencies_aside == info
        });
        if !same {
            self.net_info = Some(info.clone());
            self.outputs.push_back(Output::NetInfo(info));
        }
    }

    /// Peers that wait for a path are told endpoints that they do not know.
    fn tell_peers(&mut self, now: Now) {
        let number = self.book.number();
        let waiting: Vec<NodeKey> = self.timers.queue.iter().map(|(_, peer)| *peer).collect();
        for peer in waiting {
            self.with_peer(&peer, now, |peer, ctx| peer.on_endpoints(number, ctx));
        }
    }

    /// Collects the endpoints soon, together with what changes until then.
    pub(super) fn gather_soon(&mut self, now: Now) {
        self.measure.gather_at.get_or_insert(now.mono + GATHER);
    }

    fn gather(&mut self, now: Now) {
        self.measure.gather_at = None;
        if let Some(endpoints) = self.book.gather(now.mono) {
            self.outputs.push_back(Output::EndpointsChanged(endpoints));
        }
    }

    /// Sets the periodic netcheck while some session is active.
    pub(super) fn schedule_netcheck(&mut self, now: Now) {
        let active = self.timers.queue.iter().any(|(_, peer)| self.is_active(peer, now));
        if !active || !self.measure.ready {
            self.measure.next_periodic = None;
            return;
        }
        let (low, high) = PERIODIC;
        let measured = self.book.measured();
        // After a pause the endpoints are measured when somebody is to be told; until then the timer runs.
        let from = measured.unwrap_or(now.mono).max(now.mono - ENDPOINTS_FRESH);
        let at = (from + self.rng.duration(low, high)).max(now.mono + Duration::from_millis(100));
        self.measure.next_periodic = Some(at);
    }

    fn is_active(&self, peer: &NodeKey, now: Now) -> bool {
        self.peers.get(peer).is_some_and(|p| p.is_active(now.mono))
    }

    /// Returns whether our endpoints may be told without measuring again.
    pub(super) fn endpoints_fresh(&self, now: Now) -> bool {
        self.book.measured().is_some_and(|at| at + ENDPOINTS_FRESH > now.mono)
    }

    pub(super) fn serve_measure(&mut self, now: Now) {
        if self.measure.gather_at.is_some_and(|at| at <= now.mono) {
            self.gather(now);
            self.tell_peers(now);
        }
        if self.measure.home_check.is_some_and(|at| at <= now.mono) {
            let down = self.home.and_then(|home| self.relays.get(&home)?.down_since);
            self.measure.home_check = down.map(|_| now.mono + super::HOMELESS_CHECK);
            if down.is_some() {
                self.request_netcheck(now);
            }
        }
        if self.measure.next_periodic.is_some_and(|at| at <= now.mono) {
            self.measure.next_periodic = None;
            if self.timers.queue.iter().any(|(_, peer)| self.is_active(peer, now)) {
                self.request_netcheck(now);
            }
        }
        if self.netcheck.next_deadline().is_some_and(|at| at <= now.mono) {
            self.serve_netcheck(now);
        }
    }
}

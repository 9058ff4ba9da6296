//! Where peers may find us (path-selection.md §3).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use sw_types::{Instant, is_tailnet_ip};

use crate::api::{Endpoint, EndpointType, LocalAddress, NatKind};

/// A measured endpoint is told for this long after it was last seen.
const CACHED: Duration = Duration::from_secs(310);
/// Measured endpoints kept per IP address.
const CACHED_PER_IP: usize = 6;
/// Addresses told per IPv6 subnet.
const PER_V6_SUBNET: usize = 2;
/// Interfaces of other overlay networks: a tunnel through them helps nobody.
const OVERLAYS: [&str; 4] = ["zt", "wt", "tailscale", "samewire"];

/// Collects own endpoints from all sources.
#[derive(Debug, Default)]
pub(crate) struct EndpointBook {
    pub(crate) local: Vec<LocalAddress>,
    /// Port of the data socket; 0 before it is bound.
    pub(crate) port: u16,
    pub(crate) mapped: Option<SocketAddr>,
    /// STUN results in the order of the report, IPv4 first.
    stun: Vec<SocketAddr>,
    /// The NAT is hard and our port fixed: it may be forwarded by hand.
    guess_forward: bool,
    pub(crate) fixed: Vec<SocketAddr>,
    cache: BTreeMap<SocketAddr, (EndpointType, Instant)>,
    /// What was told last, and how often it changed.
    told: Vec<Endpoint>,
    number: u64,
    measured: Option<Instant>,
}

impl EndpointBook {
    /// Takes the addresses that the relays saw in one report.
    pub(crate) fn set_stun(&mut self, seen: Vec<SocketAddr>, nat: NatKind, fixed_port: bool, now: Instant) {
        self.guess_forward = nat.is_hard() && fixed_port;
        self.stun = seen;
        self.measured = Some(now);
    }

    /// Takes one address as soon as a relay saw it.
    pub(crate) fn add_stun(&mut self, seen: SocketAddr) {
        if !self.stun.contains(&seen) {
            self.stun.push(seen);
            self.stun.sort_by_key(SocketAddr::is_ipv6);
        }
    }

    /// Forgets everything measured, for a new network.
    pub(crate) fn forget(&mut self) {
        self.stun.clear();
        self.cache.clear();
        self.mapped = None;
        self.guess_forward = false;
        self.measured = None;
    }

    /// When the endpoints were last measured.
    pub(crate) fn measured(&self) -> Option<Instant> {
        self.measured
    }

    /// The number of the present set; it changes with the set.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// The present set, as last told.
    pub(crate) fn told(&self) -> &[Endpoint] {
        &self.told
    }

    pub(crate) fn local_ips(&self) -> Vec<IpAddr> {
        self.local.iter().map(|l| l.ip).collect()
    }

    /// Returns whether only loopback addresses exist.
    pub(crate) fn only_loopback(&self) -> bool {
        !self.local.is_empty() && self.local.iter().all(|l| l.ip.is_loopback())
    }

    /// Collects the set anew and returns it when it differs from the last.
    ///
    /// An address that is no longer measured is withdrawn at the next measurement after its time, since whoever is told
    /// must tell all peers: an idle machine says nothing of its own accord. The order alone is no news.
    pub(crate) fn gather(&mut self, now: Instant) -> Option<Vec<Endpoint>> {
        let mut all: Vec<Endpoint> = Vec::new();
        let mut add = |addr: SocketAddr, kind: EndpointType| {
            if addr.port() != 0 && !all.iter().any(|e| e.addr == addr) {
                all.push(Endpoint { addr, kind });
            }
        };
        if let Some(addr) = self.mapped {
            add(addr, EndpointType::PortMapped);
        }
        for addr in &self.stun {
            add(*addr, EndpointType::Stun);
        }
        if self.guess_forward
            && let Some(seen) = self.stun.iter().find(|a| a.is_ipv4())
        {
            add(SocketAddr::new(seen.ip(), self.port), EndpointType::StunLocalPort);
        }
        for addr in &self.fixed {
            add(*addr, EndpointType::Explicit);
        }
        let measured = all.clone();
        self.remember(&measured, now);
        for (addr, (kind, _)) in &self.cache {
            if !all.iter().any(|e| e.addr == *addr) {
                all.push(Endpoint { addr: *addr, kind: *kind });
            }
        }
        for addr in self.interface_addrs() {
            if !all.iter().any(|e| e.addr == addr) {
                all.push(Endpoint { addr, kind: EndpointType::Local });
            }
        }
        let is_told = all.len() == self.told.len() && all.iter().all(|e| self.told.contains(e));
        if is_told {
            return None;
        }
        self.told.clone_from(&all);
        self.number += 1;
        Some(all)
    }

    fn remember(&mut self, measured: &[Endpoint], now: Instant) {
        for endpoint in measured {
            self.cache.insert(endpoint.addr, (endpoint.kind, now));
        }
        self.cache.retain(|_, (_, seen)| *seen + CACHED > now);
        let ips: Vec<IpAddr> = self.cache.keys().map(SocketAddr::ip).collect();
        for ip in ips {
            while self.cache.keys().filter(|a| a.ip() == ip).count() > CACHED_PER_IP {
                let oldest =
                    self.cache.iter().filter(|(a, _)| a.ip() == ip).min_by_key(|(_, (_, seen))| *seen);
                match oldest.map(|(addr, _)| *addr) {
                    Some(addr) => drop(self.cache.remove(&addr)),
                    None => break,
                }
            }
        }
    }

    fn interface_addrs(&self) -> Vec<SocketAddr> {
        let (mut best, mut rest, mut loopback) = (Vec::new(), Vec::new(), Vec::new());
        let mut subnets: BTreeMap<u64, usize> = BTreeMap::new();
        for local in &self.local {
            if OVERLAYS.iter().any(|name| local.interface.starts_with(name)) || is_tailnet_ip(local.ip) {
                continue;
            }
            let addr = SocketAddr::new(local.ip, self.port);
            match local.ip {
                ip if ip.is_loopback() => loopback.push(addr),
                IpAddr::V4(ip) if ip.is_link_local() => rest.push(addr),
                IpAddr::V4(_) => best.push(addr),
                IpAddr::V6(ip) if ip.is_unicast_link_local() => {}
                IpAddr::V6(ip) if ip.is_unique_local() => rest.push(addr),
                IpAddr::V6(ip) => {
                    let count = subnets.entry(subnet(ip)).or_default();
                    *count += 1;
                    if *count <= PER_V6_SUBNET {
                        best.push(addr);
                    }
                }
            }
        }
        [best, rest, loopback].into_iter().find(|addrs| !addrs.is_empty()).unwrap_or_default()
    }
}

fn subnet(ip: Ipv6Addr) -> u64 {
    (u128::from(ip) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: u64) -> Instant {
        Instant::from_nanos(s * 1_000_000_000)
    }

    fn book(ips: &[&str]) -> EndpointBook {
        let local = ips
            .iter()
            .map(|ip| LocalAddress { interface: "eth0".to_owned(), ip: ip.parse().unwrap(), prefix_len: 24 })
            .collect();
        EndpointBook { local, port: 41641, ..EndpointBook::default() }
    }

    fn text(endpoints: &[Endpoint]) -> Vec<String> {
        endpoints.iter().map(|e| format!("{} {}", e.addr, e.kind as u8)).collect()
    }

    #[test]
    fn endpoints_come_in_the_order_of_their_worth() {
        let mut book = book(&["192.168.1.2", "100.64.0.9", "127.0.0.1", "2001:db8::1"]);
        book.mapped = Some("203.0.113.7:50000".parse().unwrap());
        book.set_stun(vec!["203.0.113.7:1234".parse().unwrap()], NatKind::Random, true, at(1));
        assert_eq!(
            text(&book.gather(at(1)).unwrap()),
            [
                "203.0.113.7:50000 3",
                "203.0.113.7:1234 2",
                "203.0.113.7:41641 4",
                "192.168.1.2:41641 1",
                "[2001:db8::1]:41641 1"
            ]
        );
        assert_eq!(book.gather(at(2)), None, "the same set is told once");
        let other: SocketAddr = "203.0.113.7:1235".parse().unwrap();
        book.add_stun(other);
        assert!(book.gather(at(3)).is_some());
        book.set_stun(vec![other, "203.0.113.7:1234".parse().unwrap()], NatKind::Random, true, at(4));
        assert_eq!(book.gather(at(4)), None, "another order is no news");
    }

    #[test]
    fn a_lost_mapping_is_told_for_five_minutes_more() {
        let mut book = book(&["192.168.1.2"]);
        book.set_stun(vec!["203.0.113.7:1234".parse().unwrap()], NatKind::Easy, true, at(0));
        book.gather(at(0));
        book.set_stun(Vec::new(), NatKind::Unknown, true, at(20));
        assert_eq!(text(&book.gather(at(20)).unwrap_or_default()).len(), 0, "still the same set");
        assert_eq!(book.gather(at(309)), None);
        assert_eq!(text(&book.gather(at(311)).unwrap()), ["192.168.1.2:41641 1"]);
    }

    #[test]
    fn loopback_counts_only_when_there_is_nothing_else() {
        assert_eq!(
            text(&book(&["127.0.0.1", "169.254.3.4"]).gather(at(0)).unwrap()),
            ["169.254.3.4:41641 1"]
        );
        assert_eq!(text(&book(&["127.0.0.1"]).gather(at(0)).unwrap()), ["127.0.0.1:41641 1"]);
    }

    #[test]
    fn two_addresses_of_an_ipv6_subnet_are_enough() {
        let mut book = book(&["2001:db8::1", "2001:db8::2", "2001:db8::3", "fd00::1", "fe80::1"]);
        assert_eq!(text(&book.gather(at(0)).unwrap()), ["[2001:db8::1]:41641 1", "[2001:db8::2]:41641 1"]);
    }
}

//! Rules as the server sends them, turned into what the matcher compares (node-services.md §13.1).

use std::net::IpAddr;

use ipnet::IpNet;
use sw_proto::ip::IpProto;
use sw_tailcfg::FilterRule;

/// Who holds a node capability, for sources of the form `cap:NAME`.
pub trait Holders {
    /// Returns the addresses of the peers with this capability.
    fn holders(&self, capability: &str) -> Vec<IpNet>;
}

/// Nobody holds any capability.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHolders;

impl Holders for NoHolders {
    fn holders(&self, _capability: &str) -> Vec<IpNet> {
        Vec::new()
    }
}

/// The rules use a form that no client accepts: nothing may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the packet filter uses the obsolete SrcBits or Bits")]
pub struct InvalidRules;

/// An inclusive range of addresses: whether IPv6, and the ends as numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Range {
    pub(crate) is_v6: bool,
    pub(crate) first: u128,
    pub(crate) last: u128,
}

pub(crate) fn number(addr: IpAddr) -> (bool, u128) {
    match addr {
        IpAddr::V4(v4) => (false, u128::from(v4.to_bits())),
        IpAddr::V6(v6) => (true, v6.to_bits()),
    }
}

impl Range {
    const ALL: [Self; 2] = [
        Self { is_v6: false, first: 0, last: u32::MAX as u128 },
        Self { is_v6: true, first: 0, last: u128::MAX },
    ];

    pub(crate) fn net(net: IpNet) -> Self {
        let (is_v6, first) = number(net.network());
        let (_, last) = number(net.broadcast());
        Self { is_v6, first, last }
    }

    pub(crate) fn contains(self, addr: IpAddr) -> bool {
        let (is_v6, value) = number(addr);
        self.is_v6 == is_v6 && self.first <= value && value <= self.last
    }

    /// Parses an address, a prefix without host bits, or `a-b`; a bad item is nothing.
    fn parse(text: &str) -> Option<Self> {
        if let Some((first, last)) = text.split_once('-') {
            let (is_v6, first) = number(first.parse().ok()?);
            let (last_is_v6, last) = number(last.parse().ok()?);
            return (is_v6 == last_is_v6 && first <= last).then_some(Self { is_v6, first, last });
        }
        if text.contains('/') {
            let net: IpNet = text.parse().ok()?;
            return (net.addr() == net.network()).then(|| Self::net(net));
        }
        let (is_v6, first) = number(text.parse().ok()?);
        Some(Self { is_v6, first, last: first })
    }
}

/// One condition on packets: sources, protocols and ports, destinations.
#[derive(Clone, Debug, Default)]
pub(crate) struct Atom {
    pub(crate) src: Vec<Range>,
    pub(crate) dst: Vec<Range>,
    /// Inclusive ranges of protocol and port as one number: `protocol << 16 | port`.
    pub(crate) services: Vec<(u32, u32)>,
    /// The same once more: protocols, and the ports of each.
    pub(crate) protocols: Vec<u8>,
    pub(crate) ports: (u16, u16),
}

/// Protocols of a rule that names none: ICMP, TCP, UDP, ICMPv6.
const DEFAULT_PROTOCOLS: [u8; 4] = [1, 6, 17, 58];

/// Returns the conditions of the rules; rules with capabilities alone have none.
pub(crate) fn atoms(rules: &[FilterRule], holders: &dyn Holders) -> Result<Vec<Atom>, InvalidRules> {
    let mut found = Vec::new();
    for rule in rules {
        if !rule.src_bits.is_empty() || rule.dst_ports.iter().any(|dst| dst.bits.is_some()) {
            return Err(InvalidRules);
        }
        let src: Vec<Range> = rule.src_ips.iter().flat_map(|text| sources(text, holders)).collect();
        let protocols: Vec<u8> = if rule.ip_proto.is_empty() {
            DEFAULT_PROTOCOLS.to_vec()
        } else {
            rule.ip_proto.iter().filter_map(|number| u8::try_from(*number).ok()).collect()
        };
        if src.is_empty() {
            continue;
        }
        // Destinations with equal ports are one condition.
        let mut by_ports: Vec<((u16, u16), Vec<Range>)> = Vec::new();
        for dst in &rule.dst_ports {
            let ports = (dst.ports.first, dst.ports.last);
            let ranges = ranges(&dst.ip);
            if ports.0 > ports.1 || ranges.is_empty() {
                continue;
            }
            match by_ports.iter_mut().find(|(known, _)| *known == ports) {
                Some((_, known)) => known.extend(ranges),
                None => by_ports.push((ports, ranges)),
            }
        }
        for (ports, dst) in by_ports {
            let service = |protocol: &u8| {
                let base = u32::from(*protocol) << 16;
                (base | u32::from(ports.0), base | u32::from(ports.1))
            };
            let mut services: Vec<(u32, u32)> = protocols.iter().map(service).collect();
            if ports == (0, u16::MAX) {
                // Protocols without ports match conditions with all ports alone.
                services.extend(protocols.iter().map(|protocol| {
                    let whole = crate::decide::whole(IpProto(*protocol));
                    (whole, whole)
                }));
            }
            found.push(Atom { src: src.clone(), dst, services, protocols: protocols.clone(), ports });
        }
    }
    Ok(found)
}

fn ranges(text: &str) -> Vec<Range> {
    if text == "*" { Range::ALL.to_vec() } else { Range::parse(text).into_iter().collect() }
}

fn sources(text: &str, holders: &dyn Holders) -> Vec<Range> {
    match text.strip_prefix("cap:") {
        Some(capability) => holders.holders(capability).into_iter().map(Range::net).collect(),
        None => ranges(text),
    }
}

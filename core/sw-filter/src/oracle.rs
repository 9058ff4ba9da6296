//! The slow filter which is right by inspection: rules as text, compared one by one. The fast one must agree.

use std::collections::BTreeSet;
use std::net::IpAddr;

use arbitrary::Unstructured;
use ipnet::IpNet;
use sw_proto::ip::{IpProto, Ipv4Header, Ipv6Header, write_ipv4, write_ipv6};
use sw_tailcfg::{FilterRule, NetPortRange, PortRange};

use crate::{Filter, FilterConfig, Flows, LanFlows, NoHolders, Reason, Verdict};

type Tuple = (u8, IpAddr, u16, IpAddr, u16);

/// Flows by their ends; never forgets.
#[derive(Default)]
struct Oracle {
    rules: Vec<FilterRule>,
    local: Vec<IpNet>,
    flows: BTreeSet<Tuple>,
}

/// A packet that a test made, by its fields.
#[derive(Clone, Copy, Debug)]
struct Fields {
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    src_port: u16,
    dst_port: u16,
    tcp_flags: u8,
    icmp_type: u8,
}

impl Oracle {
    fn matches(item: &str, addr: IpAddr) -> bool {
        if item == "*" {
            return true;
        }
        if let Some((first, last)) = item.split_once('-') {
            let (Ok(first), Ok(last)) = (first.parse::<IpAddr>(), last.parse::<IpAddr>()) else {
                return false;
            };
            return first.is_ipv4() == last.is_ipv4()
                && first.is_ipv4() == addr.is_ipv4()
                && first <= addr
                && addr <= last;
        }
        if let Ok(net) = item.parse::<IpNet>() {
            return net.network() == net.addr() && net.contains(&addr);
        }
        item.parse::<IpAddr>().is_ok_and(|own| own == addr)
    }

    fn rule_allows(&self, packet: &Fields, is_fit: impl Fn(&FilterRule, &PortRange) -> bool) -> bool {
        self.rules.iter().any(|rule| {
            rule.src_ips.iter().any(|item| Self::matches(item, packet.src))
                && rule
                    .dst_ports
                    .iter()
                    .any(|dst| Self::matches(&dst.ip, packet.dst) && is_fit(rule, &dst.ports))
        })
    }

    fn lists(rule: &FilterRule, protocol: u8) -> bool {
        if rule.ip_proto.is_empty() {
            return matches!(protocol, 1 | 6 | 17 | 58);
        }
        rule.ip_proto.contains(&i64::from(protocol))
    }

    fn inbound(&self, packet: &Fields) -> Verdict {
        if let Some(reason) = Self::never(packet) {
            return Verdict::Drop(reason);
        }
        if !self.local.iter().any(|net| net.contains(&packet.dst)) {
            return Verdict::Drop(Reason::NotLocal);
        }
        let by_port = || {
            self.rule_allows(packet, |rule, ports| {
                Self::lists(rule, packet.protocol)
                    && ports.first <= packet.dst_port
                    && packet.dst_port <= ports.last
            })
        };
        let is_admitted = match packet.protocol {
            1 => packet.icmp_type == 0 || self.rule_allows(packet, |_, ports| ports.first <= ports.last),
            58 => packet.icmp_type == 129 || self.rule_allows(packet, |_, ports| ports.first <= ports.last),
            6 => packet.tcp_flags & 0x12 != 0x02 || by_port(),
            17 | 132 => {
                let tuple = (packet.protocol, packet.src, packet.src_port, packet.dst, packet.dst_port);
                self.flows.contains(&tuple) || by_port()
            }
            99 => true,
            other => {
                self.rule_allows(packet, |rule, ports| Self::lists(rule, other) && *ports == PortRange::ANY)
            }
        };
        if is_admitted { Verdict::Accept } else { Verdict::Drop(Reason::Acl) }
    }

    fn never(packet: &Fields) -> Option<Reason> {
        match packet.dst {
            dst if dst.is_multicast() => Some(Reason::Multicast),
            IpAddr::V4(v4)
                if v4.is_link_local() && v4 != "169.254.169.254".parse::<std::net::Ipv4Addr>().unwrap() =>
            {
                Some(Reason::LinkLocalUnicast)
            }
            IpAddr::V6(v6) if v6.is_unicast_link_local() => Some(Reason::LinkLocalUnicast),
            IpAddr::V4(_) | IpAddr::V6(_) => None,
        }
    }

    fn outbound(&mut self, packet: &Fields) -> Verdict {
        if let Some(reason) = Self::never(packet) {
            return Verdict::Drop(reason);
        }
        if packet.protocol == 99 {
            return Verdict::Drop(Reason::TsmpFromHost);
        }
        if !self.local.iter().any(|net| net.contains(&packet.src)) {
            return Verdict::Drop(Reason::NotOurSource);
        }
        if matches!(packet.protocol, 17 | 132) {
            self.flows.insert((packet.protocol, packet.dst, packet.dst_port, packet.src, packet.src_port));
        }
        Verdict::Accept
    }
}

impl Fields {
    fn bytes(&self) -> Vec<u8> {
        let mut payload = vec![0; 20];
        payload[..2].copy_from_slice(&self.src_port.to_be_bytes());
        payload[2..4].copy_from_slice(&self.dst_port.to_be_bytes());
        match self.protocol {
            6 => (payload[12], payload[13]) = (0x50, self.tcp_flags),
            1 | 58 => payload[0] = self.icmp_type,
            17 => payload[4..6].copy_from_slice(&20_u16.to_be_bytes()),
            _ => {}
        }
        let mut out = Vec::new();
        let proto = IpProto(self.protocol);
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                write_ipv4(&mut out, &Ipv4Header { src, dst, proto, ttl: 64, id: 1 }, &payload);
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                write_ipv6(&mut out, &Ipv6Header { src, dst, proto, hop_limit: 64 }, &payload);
            }
            _ => panic!("the generator makes packets of one family"),
        }
        out
    }

    fn arbitrary(u: &mut Unstructured<'_>) -> arbitrary::Result<Self> {
        let is_v6 = u.ratio(1, 3)?;
        let protocol = *u.choose(&[6, 6, 17, 17, 132, 47, 99, if is_v6 { 58 } else { 1 }])?;
        Ok(Self {
            src: address(u, is_v6)?,
            dst: address(u, is_v6)?,
            protocol,
            src_port: if has_ports(protocol) { u.int_in_range(0..=3)? } else { 0 },
            dst_port: if has_ports(protocol) { u.int_in_range(0..=12)? } else { 0 },
            tcp_flags: *u.choose(&[0x02, 0x12, 0x10])?,
            // Errors quote packets and have tests of their own.
            icmp_type: *u.choose(if is_v6 { &[128, 129, 130] } else { &[0, 8, 13] })?,
        })
    }
}

fn has_ports(protocol: u8) -> bool {
    matches!(protocol, 6 | 17 | 132)
}

fn address(u: &mut Unstructured<'_>, is_v6: bool) -> arbitrary::Result<IpAddr> {
    let text = if is_v6 {
        format!("{}::{:x}", u.choose(&["fd7a:115c:a1e0", "fd00", "fe80", "ff02"])?, u.int_in_range(0..=40)?)
    } else {
        let net = u.choose(&["100.64.0", "100.64.0", "10.0.0", "169.254.169", "224.0.0"])?;
        format!("{net}.{}", u.choose(&[0, 1, 2, 3, 4, 5, 6, 7, 30, 31, 32, 33, 254])?)
    };
    Ok(text.parse().unwrap())
}

fn item(u: &mut Unstructured<'_>) -> arbitrary::Result<String> {
    let is_v6 = u.ratio(1, 3)?;
    let addr = address(u, is_v6)?;
    Ok(match u.int_in_range(0..=6)? {
        0 => "*".to_owned(),
        1 => {
            let bits = if is_v6 { 128 } else { 32 } - u.int_in_range(0..=7)?;
            IpNet::new(addr, bits).unwrap().trunc().to_string()
        }
        2 => format!("{addr}/{}", if is_v6 { 125 } else { 29 }),
        3 => {
            let other = address(u, is_v6)?;
            format!("{}-{}", addr.min(other), addr.max(other))
        }
        4 => "nonsense".to_owned(),
        _ => addr.to_string(),
    })
}

fn rule(u: &mut Unstructured<'_>) -> arbitrary::Result<FilterRule> {
    let mut rule = FilterRule::default();
    for _ in 0..u.int_in_range(0..=3)? {
        rule.src_ips.push(item(u)?);
    }
    for _ in 0..u.int_in_range(0..=3)? {
        let first = u.int_in_range(0..=12)?;
        let ports = match u.int_in_range(0..=3)? {
            0 => PortRange::ANY,
            1 => PortRange { first, last: first.saturating_add(u.int_in_range(0..=5)?) },
            2 => PortRange { first, last: u16::MAX },
            _ => PortRange { first, last: first },
        };
        rule.dst_ports.push(NetPortRange { ip: item(u)?, bits: None, ports });
    }
    for _ in 0..u.int_in_range(0..=2)? {
        rule.ip_proto.push(*u.choose(&[6, 17, 1, 58, 47, 132, 300])?);
    }
    Ok(rule)
}

fn compare(u: &mut Unstructured<'_>, packets: usize) -> arbitrary::Result<usize> {
    let mut oracle = Oracle::default();
    for _ in 0..u.int_in_range(0..=80)? {
        oracle.rules.push(rule(u)?);
    }
    oracle.local =
        ["100.64.0.0/30", "fd7a:115c:a1e0::/126", "10.0.0.0/27"].map(|net| net.parse().unwrap()).to_vec();
    let config = FilterConfig {
        rules: &oracle.rules.clone(),
        own: &oracle.local.clone(),
        served: &[],
        lan_flows: LanFlows::Allowed,
        holders: &NoHolders,
    };
    let filter = Filter::compile(&config, [1; 32]).unwrap();
    let flows = Flows::new([2; 32]);
    let mut admitted = 0;
    for _ in 0..packets {
        let packet = Fields::arbitrary(u)?;
        let bytes = packet.bytes();
        if u.ratio(1, 3)? {
            assert_eq!(filter.outbound(&bytes, &flows), oracle.outbound(&packet), "out {packet:?}");
        } else {
            let got = filter.inbound(&bytes, &flows, |_| true);
            admitted += usize::from(got == Verdict::Accept);
            assert_eq!(got, oracle.inbound(&packet), "in {packet:?} {:#?}", oracle.rules);
        }
    }
    Ok(admitted)
}

#[test]
fn the_fast_filter_decides_as_the_slow_one() {
    let mut seed = sw_types::Rng::new([3; 32]);
    let (mut compared, mut admitted) = (0, 0);
    while compared < 100_000 {
        let mut noise = vec![0; 24_576];
        seed.fill(&mut noise);
        admitted += compare(&mut Unstructured::new(&noise), 100).unwrap();
        compared += 100;
    }
    println!("{compared} pairs of rules and packets, {admitted} let in");
    assert!((5_000..60_000).contains(&admitted), "the packets try both answers: {admitted}");
}

#[test]
fn any_bytes_as_packets_or_rules_pass_or_drop() {
    arbtest::arbtest(|u| {
        let config = FilterConfig {
            rules: &[rule(u)?],
            own: &["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()],
            served: &[],
            lan_flows: LanFlows::AnswersOnly,
            holders: &NoHolders,
        };
        let filter = Filter::compile(&config, [1; 32]).unwrap();
        let flows = Flows::new([2; 32]);
        let bytes: Vec<u8> = u.arbitrary()?;
        filter.inbound(&bytes, &flows, |_| true);
        filter.outbound(&bytes, &flows);
        Ok(())
    });
}

fn v4(src: &str, dst: &str, protocol: u8) -> Fields {
    let (src, dst) = (src.parse().unwrap(), dst.parse().unwrap());
    Fields { src, dst, protocol, src_port: 1000, dst_port: 53, tcp_flags: 0x02, icmp_type: 8 }
}

#[test]
fn errors_pass_for_flows_that_are_ours() {
    let own = ["100.64.0.1/32".parse().unwrap()];
    let filter = Filter::shields_up(&own, &[], [1; 32]);
    let flows = Flows::new([2; 32]);
    let sent = v4("100.64.0.1", "100.64.0.9", 17);
    let mut error = v4("100.64.0.9", "100.64.0.1", 1);
    error.icmp_type = 3;
    let mut bytes = error.bytes();
    bytes.truncate(28);
    bytes[24..28].fill(0);
    bytes.extend(sent.bytes());
    let total = u16::try_from(bytes.len()).unwrap();
    bytes[2..4].copy_from_slice(&total.to_be_bytes());
    assert_eq!(filter.inbound(&bytes, &flows, |_| true), Verdict::Drop(Reason::Acl), "no such flow");
    assert_eq!(filter.outbound(&sent.bytes(), &flows), Verdict::Accept);
    assert_eq!(filter.inbound(&bytes, &flows, |_| true), Verdict::Accept);
    assert_eq!(
        filter.inbound(&bytes, &flows, |_| false),
        Verdict::Drop(Reason::Acl),
        "not the peer's address"
    );
}

#[test]
fn a_lan_that_may_only_answer_starts_nothing() {
    let config = FilterConfig {
        rules: &[FilterRule::allow_all()],
        own: &["100.64.0.1/32".parse().unwrap()],
        served: &["10.0.0.0/24".parse().unwrap()],
        lan_flows: LanFlows::AnswersOnly,
        holders: &NoHolders,
    };
    let filter = Filter::compile(&config, [1; 32]).unwrap();
    let flows = Flows::new([2; 32]);
    let question = v4("100.64.0.9", "10.0.0.5", 17);
    let answer = Fields { src: question.dst, dst: question.src, src_port: 53, dst_port: 1000, ..question };
    assert_eq!(filter.outbound(&answer.bytes(), &flows), Verdict::Drop(Reason::LanStart));
    assert_eq!(filter.inbound(&question.bytes(), &flows, |_| true), Verdict::Accept);
    assert_eq!(filter.outbound(&answer.bytes(), &flows), Verdict::Accept);
    let opening = v4("10.0.0.5", "100.64.0.9", 6);
    assert_eq!(filter.outbound(&opening.bytes(), &flows), Verdict::Drop(Reason::LanStart));
    assert_eq!(filter.outbound(&v4("100.64.0.1", "100.64.0.9", 6).bytes(), &flows), Verdict::Accept);
}

#[test]
fn obsolete_bits_make_the_whole_filter_invalid() {
    let mut rule = FilterRule::allow_all();
    rule.dst_ports[0].bits = Some(8);
    let config = FilterConfig {
        rules: &[rule],
        own: &[],
        served: &[],
        lan_flows: LanFlows::Allowed,
        holders: &NoHolders,
    };
    assert!(Filter::compile(&config, [1; 32]).is_err());
}

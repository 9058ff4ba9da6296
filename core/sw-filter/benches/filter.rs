//! Time of a decision with 10,000 rules: established and new flows. Run by `cargo bench -p sw-filter`.
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use sw_filter::{Filter, FilterConfig, Flows, LanFlows, NoHolders, Verdict};
use sw_proto::ip::{IpProto, Ipv4Header, write_ipv4};
use sw_tailcfg::{FilterRule, NetPortRange, PortRange};

const RULES: u32 = 10_000;
const ESTABLISHED_MAX: Duration = Duration::from_nanos(50);
const NEW_MAX: Duration = Duration::from_nanos(500);

fn peer(n: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x6440_0000 + 16 + n % 60_000)
}

/// Rule `n`: twenty peers may reach one port, or one in ten a range of ports, of this node.
fn rules(own: Ipv4Addr) -> Vec<FilterRule> {
    let rule = |n: u32| {
        let first = u16::try_from(1 + n * 6 % 60_000).expect("below 2^16");
        let last = if n.is_multiple_of(10) { first + 2_000 } else { first };
        FilterRule {
            src_ips: (0..20).map(|at| peer(n.wrapping_mul(7919) + at * 131).to_string()).collect(),
            dst_ports: vec![NetPortRange {
                ip: own.to_string(),
                bits: None,
                ports: PortRange { first, last },
            }],
            ip_proto: if n.is_multiple_of(3) { vec![6] } else { Vec::new() },
            ..FilterRule::default()
        }
    };
    (0..RULES).map(rule).collect()
}

fn packet(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, ports: (u16, u16), flags: u8) -> Vec<u8> {
    let mut payload = [0; 20];
    payload[..2].copy_from_slice(&ports.0.to_be_bytes());
    payload[2..4].copy_from_slice(&ports.1.to_be_bytes());
    payload[12] = 0x50;
    payload[13] = flags;
    if protocol == 17 {
        payload[4..6].copy_from_slice(&20_u16.to_be_bytes());
    }
    let mut out = Vec::new();
    write_ipv4(&mut out, &Ipv4Header { src, dst, proto: IpProto(protocol), ttl: 64, id: 1 }, &payload);
    out
}

/// Returns the best of many short rounds: other programs on the machine only ever add time.
fn per_call(mut call: impl FnMut(u32)) -> Duration {
    const CALLS: u32 = 4096;
    let round = |_| {
        let start = Instant::now();
        for n in 0..CALLS {
            call(n);
        }
        start.elapsed() / CALLS
    };
    (0..300).map(round).min().unwrap_or_default()
}

#[expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark measures time and prints it"
)]
fn main() {
    let own = Ipv4Addr::new(100, 64, 0, 1);
    let rules = rules(own);
    let nets = [IpAddr::V4(own).into()];
    let config = FilterConfig {
        rules: &rules,
        own: &nets,
        served: &[],
        lan_flows: LanFlows::Allowed,
        holders: &NoHolders,
    };
    let start = Instant::now();
    let filter = Filter::compile(&config, [1; 32]).expect("the rules are valid");
    println!("compile {RULES} rules: {:?}", start.elapsed());
    let flows = Flows::new([2; 32]);
    let owns = |_: IpAddr| true;

    let segment = packet(peer(1), own, 6, (40_000, 443), 0x10);
    let tcp = per_call(|_| {
        black_box(filter.inbound(black_box(&segment), &flows, owns));
    });
    assert_eq!(filter.outbound(&packet(own, peer(1), 17, (5_000, 6_000), 0), &flows), Verdict::Accept);
    let datagram = packet(peer(1), own, 17, (6_000, 5_000), 0);
    assert_eq!(filter.inbound(&datagram, &flows, owns), Verdict::Accept);
    let udp = per_call(|_| {
        black_box(filter.inbound(black_box(&datagram), &flows, owns));
    });
    // New flows: opening segments from changing peers to changing ports; some match, most do not.
    let openings: Vec<Vec<u8>> = (0..4096_u32)
        .map(|n| {
            let port = u16::try_from(1 + n * 2_654_435 % 60_000).unwrap_or(1);
            packet(peer(n.wrapping_mul(7919)), own, 6, (40_000, port), 0x02)
        })
        .collect();
    let admitted = openings.iter().filter(|one| filter.inbound(one, &flows, owns) == Verdict::Accept).count();
    let new = per_call(|n| {
        let one = openings.get(n as usize % 4096).map_or(&[][..], Vec::as_slice);
        black_box(filter.inbound(black_box(one), &flows, owns));
    });
    println!("established TCP: {tcp:?}  (bar {ESTABLISHED_MAX:?})");
    println!("established UDP: {udp:?}  (bar {ESTABLISHED_MAX:?})");
    println!("new flow:        {new:?}  (bar {NEW_MAX:?}; {admitted} of 4096 admitted)");
    let is_met = tcp < ESTABLISHED_MAX && udp < ESTABLISHED_MAX && new < NEW_MAX;
    println!("{}", if is_met { "all bars met" } else { "BAR MISSED" });
    if !is_met {
        std::process::exit(1);
    }
}

//! What is possible between two places: said by the topology alone, without
//! looking at any engine.

use crate::nat::{Filtering, Mapping, Ports};
use crate::net::{BoxId, Network, SegmentId, StationId};

/// The best path that two machines can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Possible {
    /// A direct path exists and must be found.
    Direct,
    /// No direct path exists.
    Relay,
    /// It depends on luck (ports guessed, NATs without known order).
    Either,
}

/// One side of a pair as the outside sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    /// Reachable by anybody.
    Open,
    /// One mapping for all; `lax`: answers from other ports pass.
    Easy {
        lax: bool,
    },
    /// A mapping per destination.
    Hard {
        predictable: bool,
    },
    Blocked,
}

/// Tells what is possible between two stations.
pub(crate) fn possible(net: &Network, a: StationId, b: StationId) -> Possible {
    let (sa, sb) = (net.station(a), net.station(b));
    let (chain_a, chain_b) = (net.chain(sa.segment), net.chain(sb.segment));
    if sa.segment == sb.segment
        && ((sa.v4.is_some() && sb.v4.is_some()) || (sa.v6.is_some() && sb.v6.is_some()))
    {
        return Possible::Direct;
    }
    let blocked = |chain: &[BoxId]| chain.iter().any(|b| net.spec(*b).blocks_udp);
    if blocked(&chain_a) || blocked(&chain_b) {
        return Possible::Relay;
    }
    let passes_v6 = |chain: &[BoxId]| chain.iter().all(|b| net.spec(*b).ipv6);
    if sa.v6.is_some() && sb.v6.is_some() && passes_v6(&chain_a) && passes_v6(&chain_b) {
        return Possible::Direct;
    }
    if sa.v4.is_none() || sb.v4.is_none() {
        return Possible::Relay;
    }
    if meets_before_internet(net, sa.segment, sb.segment) {
        return shared_gateway(net, &chain_a, &chain_b);
    }
    combine(side(net, &chain_a), side(net, &chain_b))
}

fn side(net: &Network, chain: &[BoxId]) -> Side {
    let specs: Vec<_> = chain.iter().map(|b| net.spec(*b)).collect();
    if specs.iter().any(|s| s.blocks_udp) {
        return Side::Blocked;
    }
    match specs.as_slice() {
        [] => return Side::Open,
        [only] if only.port_mapping && only.mapping.is_some() => return Side::Open,
        _ => {}
    }
    if specs.iter().any(crate::nat::BoxSpec::is_hard) {
        let predictable =
            specs.iter().all(|s| !s.is_hard() || !matches!(s.ports, Ports::Random | Ports::Block(..)))
                || specs.iter().any(|s| s.mapping == Some(Mapping::Address));
        return Side::Hard { predictable };
    }
    let lax = specs.iter().all(|s| matches!(s.filtering, Filtering::Endpoint | Filtering::Address));
    Side::Easy { lax }
}

fn combine(a: Side, b: Side) -> Possible {
    match (a, b) {
        (Side::Blocked, _) | (_, Side::Blocked) => Possible::Relay,
        (Side::Open, _) | (_, Side::Open) | (Side::Easy { .. }, Side::Easy { .. }) => Possible::Direct,
        (Side::Easy { lax: true }, Side::Hard { .. }) | (Side::Hard { .. }, Side::Easy { lax: true }) => {
            Possible::Direct
        }
        (Side::Easy { lax: false }, Side::Hard { .. }) | (Side::Hard { .. }, Side::Easy { lax: false }) => {
            Possible::Either
        }
        (Side::Hard { predictable: false }, Side::Hard { predictable: false }) => Possible::Relay,
        (Side::Hard { .. }, Side::Hard { .. }) => Possible::Either,
    }
}

fn meets_before_internet(net: &Network, a: SegmentId, b: SegmentId) -> bool {
    let (a, b) = (net.chain(a), net.chain(b));
    a.last().is_some() && a.last() == b.last()
}

/// Both behind the same outermost box: outer addresses help only if it
/// hairpins.
fn shared_gateway(net: &Network, a: &[BoxId], b: &[BoxId]) -> Possible {
    let hairpins = a.last().is_some_and(|gateway| net.spec(*gateway).hairpin);
    let all_easy = a.iter().chain(b).all(|b| !net.spec(*b).is_hard() && net.spec(*b).mapping.is_some());
    match (hairpins, all_easy) {
        (true, true) => Possible::Direct,
        (false, true) if a.len() == 1 || b.len() == 1 => Possible::Either,
        (false, _) => Possible::Either,
        (true, false) => Possible::Either,
    }
}

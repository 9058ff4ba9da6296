//! What is possible between two places: said by the topology alone, without
//! looking at any engine.

use crate::nat::{Filtering, Mapping, Ports};
use crate::net::{BoxId, Network, StationId};

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
    // Boxes that both share do not stand between them.
    let (mut chain_a, mut chain_b) = (net.chain(sa.segment), net.chain(sb.segment));
    let mut shared = Vec::new();
    while chain_a.last().is_some() && chain_a.last() == chain_b.last() {
        chain_b.pop();
        shared.extend(chain_a.pop());
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
    // A machine on the network outside the other's boxes is open to it.
    if chain_a.is_empty() || chain_b.is_empty() {
        return Possible::Direct;
    }
    // Shared boxes that only filter hide nothing: what STUN shows is valid inside them.
    if shared.iter().any(|b| net.spec(*b).mapping.is_some()) {
        return behind_one_gateway(net, &shared, &[chain_a, chain_b]);
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
        let predictable = specs.iter().all(|s| !s.is_hard() || !matches!(s.ports, Ports::Random | Ports::Block(..)))
                || specs.iter().any(|s| s.mapping == Some(Mapping::Address))
                // What STUN showed is open to all, whatever further mappings there are.
                || specs.iter().all(|s| s.filtering == Filtering::Endpoint);
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

/// Both behind further boxes inside a shared network: what STUN shows of them
/// is outside it and helps only if the shared boxes let packets turn round.
fn behind_one_gateway(net: &Network, shared: &[BoxId], own: &[Vec<BoxId>; 2]) -> Possible {
    let filters_only = |chain: &[BoxId]| chain.iter().all(|b| net.spec(*b).mapping.is_none());
    if own.iter().any(|chain| filters_only(chain)) {
        // Their own addresses are valid in the shared network.
        return combine_inside(net, own);
    }
    let easy = |b: &BoxId| !net.spec(*b).is_hard();
    let turns = shared.iter().any(|b| net.spec(*b).hairpin);
    let opens = own.iter().flatten().any(|b| net.spec(*b).port_mapping);
    if !turns && !opens && own.iter().flatten().chain(shared).all(easy) {
        return Possible::Relay;
    }
    Possible::Either
}

fn combine_inside(net: &Network, own: &[Vec<BoxId>; 2]) -> Possible {
    let [a, b] = own;
    let filters_only = |chain: &[BoxId]| chain.iter().all(|b| net.spec(*b).mapping.is_none());
    if filters_only(a) && filters_only(b) { Possible::Direct } else { Possible::Either }
}

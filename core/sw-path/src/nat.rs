//! What STUN answers tell of the NAT before us (nat-traversal-beyond.md §4 item 3).

use std::net::{IpAddr, SocketAddr};

use crate::api::NatKind;

/// One answer: which server was asked, and which address it saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sighting {
    pub(crate) server: SocketAddr,
    pub(crate) seen: SocketAddr,
}

/// Ports further apart than this are no sequence.
const STEP_MAX: i32 = 16;
/// Answers needed before a narrow range of ports is no accident.
const BLOCK_SIGHTINGS: usize = 4;
/// Widest range that counts as a block of ports (nat-traversal-beyond.md §3).
const BLOCK_SPAN: u16 = 4096;

/// Returns whether the mapping depends on the destination (`None` until two
/// servers answered) and what kind of NAT that makes. The sightings are IPv4
/// answers in the order of their requests.
pub(crate) fn classify(sightings: &[Sighting], local: &[IpAddr], port: u16) -> (Option<bool>, NatKind) {
    let Some(first) = sightings.first() else { return (None, NatKind::Unknown) };
    let is_ours = local.contains(&first.seen.ip()) && first.seen.port() == port;
    let other = sightings.iter().find(|s| s.server != first.server);
    let varies = other.map(|_| sightings.iter().any(|s| s.seen != first.seen));
    let kind = match varies {
        _ if is_ours && varies != Some(true) => NatKind::None,
        None => NatKind::Unknown,
        Some(false) => NatKind::Easy,
        Some(true) => order(sightings),
    };
    (varies, kind)
}

fn order(sightings: &[Sighting]) -> NatKind {
    let ip = sightings.first().map(|s| s.seen.ip());
    if sightings.iter().any(|s| Some(s.seen.ip()) != ip) {
        return NatKind::Random;
    }
    let mut ports: Vec<u16> = Vec::new();
    for sighting in sightings {
        if !ports.contains(&sighting.seen.port()) {
            ports.push(sighting.seen.port());
        }
    }
    let steps: Vec<i32> = ports.windows(2).map(|pair| i32::from(pair[1]) - i32::from(pair[0])).collect();
    if let Some(&step) = steps.first()
        && step.abs() <= STEP_MAX
        && steps.iter().all(|s| s.signum() == step.signum() && s.abs() <= STEP_MAX)
    {
        let smallest = steps.iter().min_by_key(|s| s.abs()).copied().unwrap_or(step);
        return NatKind::Sequential { step: smallest as i16 };
    }
    let (low, high) = (ports.iter().min(), ports.iter().max());
    if let (Some(&low), Some(&high)) = (low, high)
        && ports.len() >= BLOCK_SIGHTINGS
        && high - low < BLOCK_SPAN / 2
    {
        // The block reaches as far beyond the sightings as they are apart.
        let slack = high - low;
        return NatKind::Block {
            first: low.saturating_sub(slack).max(1024),
            last: high.saturating_add(slack),
        };
    }
    NatKind::Random
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(ports: &[u16]) -> (Option<bool>, NatKind) {
        let sightings: Vec<Sighting> = ports
            .iter()
            .enumerate()
            .map(|(server, port)| Sighting {
                server: SocketAddr::from(([198, 51, 100, server as u8], 3478)),
                seen: SocketAddr::from(([203, 0, 113, 7], *port)),
            })
            .collect();
        classify(&sightings, &[[192, 168, 0, 2].into()], 41641)
    }

    #[test]
    fn kinds_are_told_apart() {
        assert_eq!(seen(&[]), (None, NatKind::Unknown));
        assert_eq!(seen(&[5000]), (None, NatKind::Unknown));
        assert_eq!(seen(&[5000, 5000]), (Some(false), NatKind::Easy));
        assert_eq!(seen(&[5000, 5001]), (Some(true), NatKind::Sequential { step: 1 }));
        assert_eq!(seen(&[5000, 5002, 5006]), (Some(true), NatKind::Sequential { step: 2 }));
        assert_eq!(seen(&[5000, 4999]), (Some(true), NatKind::Sequential { step: -1 }));
        assert_eq!(seen(&[5000, 40_000]), (Some(true), NatKind::Random));
        assert_eq!(seen(&[5000, 5001, 40_000]), (Some(true), NatKind::Random));
        assert_eq!(seen(&[5000, 5100, 5050, 5300]), (Some(true), NatKind::Block { first: 4700, last: 5600 }));
    }

    #[test]
    fn an_own_address_is_no_nat() {
        let own = Sighting {
            server: SocketAddr::from(([198, 51, 100, 1], 3478)),
            seen: SocketAddr::from(([203, 0, 113, 7], 41641)),
        };
        assert_eq!(classify(&[own], &[[203, 0, 113, 7].into()], 41641), (None, NatKind::None));
    }
}

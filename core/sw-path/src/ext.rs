//! A disco message of our own, sent over relays only: what NAT a node sits
//! behind, and which of its ports are worth trying.
//!
//! Other implementations drop unknown types silently (disco.md §3), so it is
//! sent without asking what the peer is. Layout, big-endian:
//!
//! ```text
//! 0xE0 | version 0 | kind u8 | NAT u8 | a u16 | b u16 | IP 16 | port u16 | count u8 | count x (first u16, last u16)
//! ```
//! kind: 1 facts, 2 offer of ports. NAT: 0 unknown, 1 none, 2 easy, 3 random, 4 sequential (a = step), 5 block
//! (a = first, b = last). The address is where the outside sees the sender; all zero: unknown.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::api::NatKind;

/// The type byte.
pub(crate) const TYPE: u8 = 0xe0;
/// Port ranges in one offer.
pub(crate) const RANGES_MAX: usize = 8;

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ext {
    /// Our NAT and our address as seen from outside.
    Facts { nat: NatKind, seen: Option<SocketAddr> },
    /// We hold many ports open at `seen`, most likely in `ranges`: ping them.
    Offer { nat: NatKind, seen: SocketAddr, ranges: Vec<(u16, u16)> },
}

impl Ext {
    /// Type, version and body.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let (kind, nat, seen, ranges) = match self {
            Self::Facts { nat, seen } => (1, *nat, *seen, &[][..]),
            Self::Offer { nat, seen, ranges } => (2, *nat, Some(*seen), &ranges[..]),
        };
        let (code, a, b) = match nat {
            NatKind::Unknown => (0, 0, 0),
            NatKind::None => (1, 0, 0),
            NatKind::Easy => (2, 0, 0),
            NatKind::Random => (3, 0, 0),
            NatKind::Sequential { step } => (4, step as u16, 0),
            NatKind::Block { first, last } => (5, first, last),
        };
        let mut out = vec![TYPE, 0, kind, code];
        out.extend_from_slice(&a.to_be_bytes());
        out.extend_from_slice(&b.to_be_bytes());
        let ip = match seen.map(|s| s.ip()) {
            Some(IpAddr::V4(ip)) => ip.to_ipv6_mapped(),
            Some(IpAddr::V6(ip)) => ip,
            None => Ipv6Addr::UNSPECIFIED,
        };
        out.extend_from_slice(&ip.octets());
        out.extend_from_slice(&seen.map_or(0, |s| s.port()).to_be_bytes());
        let ranges = ranges.get(..RANGES_MAX).unwrap_or(ranges);
        out.push(ranges.len() as u8);
        for (first, last) in ranges {
            out.extend_from_slice(&first.to_be_bytes());
            out.extend_from_slice(&last.to_be_bytes());
        }
        out
    }

    /// Reads a plaintext; `None` for anything else or a version not ours.
    pub(crate) fn parse(plain: &[u8]) -> Option<Self> {
        let (&[TYPE, 0, kind, code, a0, a1, b0, b1], rest) = plain.split_first_chunk()? else { return None };
        let (ip, rest) = rest.split_first_chunk::<16>()?;
        let (&[p0, p1, count], mut rest) = rest.split_first_chunk()?;
        let (a, b) = (u16::from_be_bytes([a0, a1]), u16::from_be_bytes([b0, b1]));
        let nat = match code {
            1 => NatKind::None,
            2 => NatKind::Easy,
            3 => NatKind::Random,
            4 => NatKind::Sequential { step: a as i16 },
            5 => NatKind::Block { first: a, last: b },
            _ => NatKind::Unknown,
        };
        let ip = IpAddr::from(Ipv6Addr::from(*ip)).to_canonical();
        let seen = (!ip.is_unspecified()).then(|| SocketAddr::new(ip, u16::from_be_bytes([p0, p1])));
        let mut ranges = Vec::new();
        for _ in 0..usize::from(count).min(RANGES_MAX) {
            let (&[f0, f1, l0, l1], tail) = rest.split_first_chunk()?;
            ranges.push((u16::from_be_bytes([f0, f1]), u16::from_be_bytes([l0, l1])));
            rest = tail;
        }
        match kind {
            1 => Some(Self::Facts { nat, seen }),
            2 => Some(Self::Offer { nat, seen: seen?, ranges }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_wire_and_noise_does_no_harm() {
        let seen: SocketAddr = "203.0.113.7:4000".parse().unwrap();
        let nats = [
            NatKind::Unknown,
            NatKind::None,
            NatKind::Easy,
            NatKind::Random,
            NatKind::Sequential { step: -2 },
            NatKind::Block { first: 2000, last: 3000 },
        ];
        for nat in nats {
            for ext in [
                Ext::Facts { nat, seen: None },
                Ext::Facts { nat, seen: Some(seen) },
                Ext::Offer { nat, seen, ranges: vec![(1, 2), (5000, 6000)] },
            ] {
                assert_eq!(Ext::parse(&ext.encode()), Some(ext));
            }
        }
        arbtest::arbtest(|u| {
            let mut noise: Vec<u8> = u.arbitrary()?;
            if u.arbitrary()? && noise.len() > 1 {
                (noise[0], noise[1]) = (TYPE, 0);
            }
            if let Some(ext) = Ext::parse(&noise) {
                assert_eq!(Ext::parse(&ext.encode()), Some(ext));
            }
            Ok(())
        });
    }
}

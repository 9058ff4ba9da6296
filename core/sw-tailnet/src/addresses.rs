//! Which address the next machine gets.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::Ipv4Net;
use sw_types::{four_to_six_range, reserved_v4_ranges};

/// The IPv4 pool of a tailnet, inside 100.64.0.0/10 by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Pool {
    /// First address of the pool's prefix.
    pub base: Ipv4Addr,
    /// Length of the pool's prefix, 8 to 30.
    pub bits: u8,
    /// Where a new tailnet begins to give out addresses: a multiple of 256 (architecture.md §10.1).
    pub start: Ipv4Addr,
}

impl Default for Pool {
    fn default() -> Self {
        let base = Ipv4Addr::new(100, 64, 0, 0);
        Self { base, bits: 10, start: base }
    }
}

impl Pool {
    /// A default pool that starts at the `n`-th block of 256, counted round the pool.
    pub fn starting_at(n: u32) -> Self {
        let pool = Self::default();
        let blocks = pool.size() / 256;
        let start = Ipv4Addr::from(u32::from(pool.base) + (n % blocks) * 256);
        Self { start, ..pool }
    }

    /// Number of addresses of the prefix, reserved ones counted.
    pub fn size(&self) -> u32 {
        1_u32 << (32 - u32::from(self.bits.clamp(8, 30)))
    }

    /// Whether `address` may belong to a machine of this pool.
    ///
    /// `.0` and `.255` never do: some software refuses them.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        u32::from(address).wrapping_sub(u32::from(self.base)) < self.size()
            && !reserved_v4_ranges().iter().any(|range| range.contains(&address))
            && !matches!(address.octets()[3], 0 | 255)
    }

    /// Returns the first free address after `last`, round the end of the pool; `None`: all are taken.
    pub fn next_free(&self, last: Option<Ipv4Addr>, taken: impl Fn(Ipv4Addr) -> bool) -> Option<Ipv4Addr> {
        let base = u32::from(self.base);
        let size = self.size();
        let first = match last {
            Some(last) if u32::from(last).wrapping_sub(base) < size => u32::from(last) - base + 1,
            Some(_) | None => u32::from(self.start).wrapping_sub(base) % size,
        };
        (0..size).map(|i| Ipv4Addr::from(base + (first + i) % size)).find(|&a| self.contains(a) && !taken(a))
    }
}

/// Returns the first free address of a prefix that the policy names, `.0`, `.255` and reserved ones left out.
pub(crate) fn first_free_in(net: Ipv4Net, taken: impl Fn(Ipv4Addr) -> bool) -> Option<Ipv4Addr> {
    let (first, last) = (u32::from(net.network()), u32::from(net.broadcast()));
    // The shortest pool there is holds all of the prefix; only its rules about single addresses count here.
    let pool = Pool { base: net.network(), bits: 8, start: net.network() };
    (first..=last).map(Ipv4Addr::from).find(|&address| pool.contains(address) && !taken(address))
}

/// Derives the IPv6 address of a machine from its IPv4 one (node-services.md §1, 4-to-6).
///
/// A pool lies within one /8, and there two IPv4 addresses never give the same IPv6 address. Unlike
/// [`sw_types::four_to_six`] it takes addresses of any pool.
pub fn v6_of(v4: Ipv4Addr) -> Ipv6Addr {
    let [_, a, b, c] = v4.octets();
    let mut bytes = four_to_six_range().network().octets();
    bytes[13..].copy_from_slice(&[a, b, c]);
    bytes.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_derived_address_is_the_documents_example() {
        let v4 = Ipv4Addr::new(100, 101, 102, 103);
        assert_eq!(Some(v6_of(v4)), sw_types::four_to_six(v4));
    }

    #[test]
    fn reserved_ranges_are_skipped_and_the_end_wraps() {
        let pool = Pool::default();
        let next = |last: [u8; 4]| pool.next_free(Some(last.into()), |_| false).unwrap();
        assert_eq!(next([100, 99, 255, 254]), Ipv4Addr::new(100, 100, 1, 1));
        assert_eq!(next([100, 100, 99, 254]), Ipv4Addr::new(100, 100, 101, 1));
        assert_eq!(next([100, 115, 91, 254]), Ipv4Addr::new(100, 115, 94, 1));
        assert_eq!(next([100, 127, 255, 254]), Ipv4Addr::new(100, 64, 0, 1));
        assert_eq!(next([100, 64, 0, 254]), Ipv4Addr::new(100, 64, 1, 1));
    }

    #[test]
    fn a_new_pool_begins_at_its_stored_start() {
        let pool = Pool::starting_at(7);
        assert_eq!(pool.next_free(None, |_| false), Some(Ipv4Addr::new(100, 64, 7, 1)));
    }

    #[test]
    fn a_pool_of_the_policy_is_filled_from_its_start() {
        let net = "100.80.0.0/30".parse().unwrap();
        let first = |taken: &[Ipv4Addr]| first_free_in(net, |address| taken.contains(&address));
        let hosts = [1, 2, 3].map(|last| Ipv4Addr::new(100, 80, 0, last));
        assert_eq!(first(&[]), Some(hosts[0]));
        assert_eq!(first(&hosts[..2]), Some(hosts[2]));
        assert_eq!(first(&hosts), None);
        assert_eq!(
            first_free_in("100.80.0.9/32".parse().unwrap(), |_| false),
            Some(Ipv4Addr::new(100, 80, 0, 9))
        );
    }

    #[test]
    fn a_full_pool_gives_none() {
        let pool = Pool { bits: 30, ..Pool::default() };
        assert_eq!(pool.next_free(None, |_| true), None);
        assert!(pool.next_free(None, |_| false).is_some());
    }
}

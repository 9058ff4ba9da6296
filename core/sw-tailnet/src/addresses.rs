//! Which address the next machine gets.

use std::net::{Ipv4Addr, Ipv6Addr};

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

/// Ranges that no machine gets (control.md §5.6): SaaS services, the DNS service, ChromeOS.
const RESERVED: [(u32, u8); 3] = [
    (u32::from_be_bytes([100, 100, 0, 0]), 24),
    (u32::from_be_bytes([100, 100, 100, 0]), 24),
    (u32::from_be_bytes([100, 115, 92, 0]), 23),
];

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
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        let a = u32::from(address);
        let base = u32::from(self.base);
        a.wrapping_sub(base) < self.size() && !is_reserved(a) && !matches!(address.octets()[3], 0 | 255)
    }

    /// Returns the first free address after `last`, round the end of the pool; `None`: all are taken.
    ///
    /// `.0` and `.255` are skipped: some software refuses them.
    pub fn next_free(&self, last: Option<Ipv4Addr>, taken: impl Fn(Ipv4Addr) -> bool) -> Option<Ipv4Addr> {
        let base = u32::from(self.base);
        let size = self.size();
        let first = match last {
            Some(last) if u32::from(last).wrapping_sub(base) < size => u32::from(last) - base + 1,
            Some(_) | None => u32::from(self.start).wrapping_sub(base) % size,
        };
        (0..size)
            .map(|i| Ipv4Addr::from(base + (first + i) % size))
            .find(|&a| self.contains(a) && !taken(a))
    }
}

fn is_reserved(address: u32) -> bool {
    RESERVED.iter().any(|&(net, bits)| address >> (32 - bits) == net >> (32 - bits))
}

/// Derives the IPv6 address of a machine from its IPv4 one (node-services.md §1, 4-to-6).
///
/// Two IPv4 addresses of one /8 never give the same IPv6 address, so uniqueness carries over.
pub fn v6_of(v4: Ipv4Addr) -> Ipv6Addr {
    let [_, b, c, d] = v4.octets();
    let high = 0x6200 | u16::from(b);
    let low = u16::from_be_bytes([c, d]);
    Ipv6Addr::new(0xfd7a, 0x115c, 0xa1e0, 0xab12, 0x4843, 0xcd96, high, low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_derived_address_is_the_documents_example() {
        let want: Ipv6Addr = "fd7a:115c:a1e0:ab12:4843:cd96:6265:6667".parse().unwrap();
        assert_eq!(v6_of(Ipv4Addr::new(100, 101, 102, 103)), want);
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
    fn a_full_pool_gives_none() {
        let pool = Pool { base: Ipv4Addr::new(100, 64, 0, 0), bits: 30, start: Ipv4Addr::new(100, 64, 0, 0) };
        assert_eq!(pool.next_free(None, |_| true), None);
        assert!(pool.next_free(None, |_| false).is_some());
    }
}

//! Rates: a token bucket per connection, and a bounded table of buckets per source address.

use std::net::IpAddr;
use std::time::Duration;

use sw_types::Instant;

/// Tokens that grow with time up to a burst.
#[derive(Clone, Copy, Debug)]
pub struct TokenBucket {
    per_second: f64,
    burst: f64,
    tokens: f64,
    at: Instant,
}

impl TokenBucket {
    /// A full bucket.
    #[must_use]
    pub fn new(per_second: u64, burst: u64, now: Instant) -> Self {
        Self { per_second: per_second as f64, burst: burst as f64, tokens: burst as f64, at: now }
    }

    /// Takes `cost` tokens if they are there.
    pub fn take(&mut self, cost: u64, now: Instant) -> bool {
        self.refill(now);
        let has = self.tokens >= cost as f64;
        if has {
            self.tokens -= cost as f64;
        }
        has
    }

    /// Takes `cost` tokens in any case (a debt is paid off first); gives how long to wait before the next taking.
    pub fn charge(&mut self, cost: u64, now: Instant) -> Option<Duration> {
        self.refill(now);
        self.tokens -= (cost as f64).min(self.burst);
        (self.tokens < 0.0).then(|| Duration::from_secs_f64(-self.tokens / self.per_second))
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_since(self.at);
        self.tokens = (self.tokens + self.per_second * elapsed.as_secs_f64()).min(self.burst);
        self.at = now;
    }
}

const ROW_LEN: usize = 8192;

/// Requests per source address and in all, within windows of one second, in fixed memory.
///
/// Two rows of counters under different hashes; a source is over its limit when both of its counters are. Two
/// sources share a fate only when they collide in both rows, which the secret seed makes unpredictable.
#[derive(Debug)]
pub struct SourceLimiter {
    per_source: u16,
    in_all: u32,
    seed: [u64; 2],
    window: Instant,
    total: u32,
    rows: [Box<[u16]>; 2],
}

impl SourceLimiter {
    /// Limits per second; the seed must be unpredictable.
    #[must_use]
    pub fn new(per_source: u16, in_all: u32, seed: [u8; 16], now: Instant) -> Self {
        let [a, b] = [&seed[..8], &seed[8..]]
            .map(|half| half.iter().fold(0u64, |value, byte| (value << 8) | u64::from(*byte)));
        let row = || vec![0u16; ROW_LEN].into_boxed_slice();
        Self { per_source, in_all, seed: [a | 1, b | 1], window: now, total: 0, rows: [row(), row()] }
    }

    /// Whether one more request of this source (an IPv4 address or a /64) may be answered.
    pub fn allows(&mut self, source: IpAddr, now: Instant) -> bool {
        if now.saturating_since(self.window) >= Duration::from_secs(1) {
            self.window = now;
            self.total = 0;
            self.rows.iter_mut().for_each(|row| row.fill(0));
        }
        if self.total >= self.in_all {
            return false;
        }
        let source = match source.to_canonical() {
            IpAddr::V4(ip) => u64::from(ip.to_bits()),
            IpAddr::V6(ip) => (ip.to_bits() >> 64) as u64,
        };
        let mut lowest = u16::MAX;
        for (row, seed) in self.rows.iter_mut().zip(self.seed) {
            if let Some(count) = row.get_mut(mix(source, seed) % ROW_LEN) {
                *count = count.saturating_add(1);
                lowest = lowest.min(*count);
            }
        }
        let is_allowed = lowest <= self.per_source;
        self.total += u32::from(is_allowed);
        is_allowed
    }
}

/// The finalizer of SplitMix64 under a secret.
fn mix(value: u64, seed: u64) -> usize {
    let mut value = value.wrapping_add(seed).wrapping_mul(seed ^ 0x9e37_79b9_7f4a_7c15);
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (value ^ (value >> 31)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn a_bucket_lets_its_rate_through() {
        let mut bucket = TokenBucket::new(1, 3, at(0));
        assert_eq!([0; 4].map(|_| bucket.take(1, at(0))), [true, true, true, false]);
        assert!(!bucket.take(1, at(999)));
        assert!(bucket.take(1, at(1000)));
    }

    #[test]
    fn a_charge_over_the_rate_says_how_long_to_wait() {
        let mut bucket = TokenBucket::new(1000, 2000, at(0));
        assert_eq!(bucket.charge(2000, at(0)), None);
        assert_eq!(bucket.charge(500, at(0)), Some(Duration::from_millis(500)));
        assert_eq!(bucket.charge(1, at(600)), None);
    }

    #[test]
    fn sources_are_limited_one_by_one_and_in_all() {
        let mut limiter = SourceLimiter::new(50, 5000, [7; 16], at(0));
        let ip = |n: u32| IpAddr::from(std::net::Ipv4Addr::from(0x0a00_0000 + n));
        let allowed = |limiter: &mut SourceLimiter, n: u32, count: usize, now| {
            (0..count).filter(|_| limiter.allows(ip(n), now)).count()
        };
        assert_eq!(allowed(&mut limiter, 1, 51, at(1)), 50);
        assert_eq!(allowed(&mut limiter, 2, 50, at(1)), 50, "another source is not affected");
        let rest: usize = (3..200).map(|n| allowed(&mut limiter, n, 50, at(2))).sum();
        assert_eq!(rest, 4900, "5,000 in all");
        assert_eq!(allowed(&mut limiter, 1, 1, at(1001)), 1, "a new window");
    }
}

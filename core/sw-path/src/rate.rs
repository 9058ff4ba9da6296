//! A limit on how often something may happen.

use sw_types::Instant;

/// Counts events per second.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rate {
    second: u64,
    count: u32,
}

impl Rate {
    /// Counts one event; returns false when `limit` was reached this second.
    pub(crate) fn allows(&mut self, limit: u32, now: Instant) -> bool {
        let second = now.as_nanos() / 1_000_000_000;
        if second != self.second {
            (self.second, self.count) = (second, 0);
        }
        self.count = self.count.saturating_add(1);
        self.count <= limit
    }
}

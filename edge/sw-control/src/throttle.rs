//! How often an address or a machine may fail (threat-model.md §4). Successes are not counted.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sw_types::{Instant, MachineKey};

const WINDOW: Duration = Duration::from_secs(60);
const PER_MACHINE: u32 = 10;
const PER_ADDRESS: u32 = 60;
/// Entries kept; beyond it those whose minute is over go, then all.
const ENTRIES_MAX: usize = 10_000;

#[derive(Debug, Default)]
pub(crate) struct Throttle {
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    addresses: HashMap<IpAddr, Count>,
    machines: HashMap<MachineKey, Count>,
}

#[derive(Debug, Clone, Copy)]
struct Count {
    since: Instant,
    failures: u32,
}

impl Throttle {
    /// How long the caller must wait, if it failed too often.
    pub(crate) fn wait(&self, address: IpAddr, machine: MachineKey, now: Instant) -> Option<Duration> {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let of_address = rest(counts.addresses.get(&address), PER_ADDRESS, now);
        of_address.max(rest(counts.machines.get(&machine), PER_MACHINE, now))
    }

    pub(crate) fn failed(&self, address: IpAddr, machine: MachineKey, now: Instant) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        count(&mut counts.addresses, address, now);
        count(&mut counts.machines, machine, now);
    }

    /// For callers without a machine key: API and page.
    pub(crate) fn address_failed(&self, address: IpAddr, now: Instant) {
        count(&mut self.counts.lock().unwrap_or_else(PoisonError::into_inner).addresses, address, now);
    }

    /// As [`Self::wait`] for such callers.
    pub(crate) fn address_wait(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        rest(counts.addresses.get(&address), PER_ADDRESS, now)
    }
}

fn rest(count: Option<&Count>, limit: u32, now: Instant) -> Option<Duration> {
    let count = count.filter(|count| count.failures >= limit)?;
    let past = now.saturating_since(count.since);
    (past < WINDOW).then(|| WINDOW.saturating_sub(past))
}

fn count<K: Eq + Hash>(counts: &mut HashMap<K, Count>, key: K, now: Instant) {
    if counts.len() >= ENTRIES_MAX {
        counts.retain(|_, count| now.saturating_since(count.since) < WINDOW);
        if counts.len() >= ENTRIES_MAX {
            counts.clear();
        }
    }
    let entry = counts.entry(key).or_insert(Count { since: now, failures: 0 });
    if now.saturating_since(entry.since) >= WINDOW {
        *entry = Count { since: now, failures: 0 };
    }
    entry.failures += 1;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_eleventh_failure_of_a_machine_waits_and_a_minute_later_it_may() {
        let throttle = Throttle::default();
        let (address, machine) = (IpAddr::from([192, 0, 2, 1]), MachineKey::from_bytes([1; 32]));
        let now = Instant::ZERO;
        for _ in 0..PER_MACHINE {
            assert_eq!(throttle.wait(address, machine, now), None);
            throttle.failed(address, machine, now);
        }
        assert_eq!(throttle.wait(address, machine, now), Some(WINDOW));
        assert_eq!(throttle.wait(address, MachineKey::from_bytes([2; 32]), now), None, "others go on");
        assert_eq!(throttle.wait(address, machine, now + WINDOW), None);
    }
}

//! Which peer owns an inner address: the longest prefix wins, over all peers of the device.
//!
//! Readers take no lock. The table is cut into shards by a hash of the prefix, each an immutable sorted list, so
//! that changing one peer among many thousands copies a few dozen entries.

use crate::slot::Slot;
use arc_swap::ArcSwap;
use ipnet::IpNet;
use std::net::IpAddr;
use std::sync::Arc;

const SHARDS: usize = 256;

/// Routes of both families. One writer at a time (the device's configuration lock), any number of readers.
#[derive(Debug)]
pub(crate) struct Routes {
    v4: Table<u32>,
    v6: Table<u128>,
}

#[derive(Debug)]
struct Table<A> {
    shards: Vec<ArcSwap<Vec<Entry<A>>>>,
    /// The prefix lengths in use, longest first, with the number of routes that have them.
    lengths: ArcSwap<Vec<(u8, usize)>>,
}

#[derive(Clone, Debug)]
struct Entry<A> {
    address: A,
    len: u8,
    slot: Arc<Slot>,
}

trait Address: Copy + Ord + Send + Sync + 'static {
    fn masked(self, len: u8) -> Self;
    fn mix(self) -> u64;
}

impl Address for u32 {
    fn masked(self, len: u8) -> Self {
        self & Self::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0)
    }

    fn mix(self) -> u64 {
        u64::from(self)
    }
}

impl Address for u128 {
    fn masked(self, len: u8) -> Self {
        self & Self::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0)
    }

    fn mix(self) -> u64 {
        (self as u64) ^ (self >> 64) as u64
    }
}

impl<A: Address> Table<A> {
    fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| ArcSwap::from_pointee(Vec::new())).collect(),
            lengths: ArcSwap::from_pointee(Vec::new()),
        }
    }

    fn shard(&self, address: A, len: u8) -> &ArcSwap<Vec<Entry<A>>> {
        let hash = (address.mix() ^ u64::from(len)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        &self.shards[(hash >> 56) as usize % SHARDS]
    }

    #[inline]
    fn find<T>(&self, address: A, found: impl Fn(&Arc<Slot>) -> T) -> Option<T> {
        for (len, _) in self.lengths.load().iter() {
            let network = address.masked(*len);
            let shard = self.shard(network, *len).load();
            if let Ok(at) = search(&shard, network, *len) {
                return Some(found(&shard[at].slot));
            }
        }
        None
    }

    /// Gives the prefix to `slot`; returns the other slot that had it.
    fn insert(&self, address: A, len: u8, slot: &Arc<Slot>) -> Option<Arc<Slot>> {
        let address = address.masked(len);
        let shard = self.shard(address, len);
        let mut entries = Vec::with_capacity(shard.load().len() + 1);
        entries.extend(shard.load().iter().cloned());
        let former = match search(&entries, address, len) {
            Ok(at) if Arc::ptr_eq(&entries[at].slot, slot) => return None,
            Ok(at) => Some(std::mem::replace(&mut entries[at].slot, slot.clone())),
            Err(at) => {
                entries.insert(at, Entry { address, len, slot: slot.clone() });
                self.count(len, 1);
                None
            }
        };
        shard.store(Arc::new(entries));
        former
    }

    /// Takes the prefix from `slot`, if it has it.
    fn remove(&self, address: A, len: u8, slot: &Arc<Slot>) {
        let address = address.masked(len);
        let shard = self.shard(address, len);
        let old = shard.load();
        let Ok(at) = search(&old, address, len) else { return };
        if !Arc::ptr_eq(&old[at].slot, slot) {
            return;
        }
        let mut entries = Vec::with_capacity(old.len() - 1);
        entries.extend(old.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, e)| e.clone()));
        self.count(len, -1);
        shard.store(Arc::new(entries));
    }

    fn count(&self, len: u8, change: isize) {
        let mut lengths = self.lengths.load().as_ref().clone();
        match lengths.binary_search_by(|(l, _)| len.cmp(l)) {
            Ok(at) => {
                lengths[at].1 = lengths[at].1.saturating_add_signed(change);
                if lengths[at].1 == 0 {
                    lengths.remove(at);
                }
            }
            Err(at) => lengths.insert(at, (len, 1)),
        }
        self.lengths.store(Arc::new(lengths));
    }
}

fn search<A: Address>(entries: &[Entry<A>], address: A, len: u8) -> Result<usize, usize> {
    entries.binary_search_by(|entry| (entry.address, entry.len).cmp(&(address, len)))
}

impl Routes {
    pub(crate) fn new() -> Self {
        Self { v4: Table::new(), v6: Table::new() }
    }

    /// The owner of `address`.
    #[inline]
    pub(crate) fn owner(&self, address: IpAddr) -> Option<Arc<Slot>> {
        self.find(address, Arc::clone)
    }

    /// Whether `address` belongs to `slot` and to no peer with a longer prefix.
    #[inline]
    pub(crate) fn is_owner(&self, address: IpAddr, slot: &Arc<Slot>) -> bool {
        self.find(address, |owner| Arc::ptr_eq(owner, slot)).unwrap_or(false)
    }

    fn find<T>(&self, address: IpAddr, found: impl Fn(&Arc<Slot>) -> T) -> Option<T> {
        match address {
            IpAddr::V4(v4) => self.v4.find(v4.to_bits(), found),
            IpAddr::V6(v6) => self.v6.find(v6.to_bits(), found),
        }
    }

    /// Gives `net` to `slot`; returns the other slot that had it.
    pub(crate) fn insert(&self, net: IpNet, slot: &Arc<Slot>) -> Option<Arc<Slot>> {
        match net {
            IpNet::V4(net) => self.v4.insert(net.addr().to_bits(), net.prefix_len(), slot),
            IpNet::V6(net) => self.v6.insert(net.addr().to_bits(), net.prefix_len(), slot),
        }
    }

    /// Takes `net` from `slot`, if it has it.
    pub(crate) fn remove(&self, net: IpNet, slot: &Arc<Slot>) {
        match net {
            IpNet::V4(net) => self.v4.remove(net.addr().to_bits(), net.prefix_len(), slot),
            IpNet::V6(net) => self.v6.remove(net.addr().to_bits(), net.prefix_len(), slot),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sw_types::NodeKey;

    fn slot(n: u8) -> Arc<Slot> {
        Arc::new(Slot::new(NodeKey::from_bytes([n; 32])))
    }

    #[test]
    fn the_longest_prefix_owns_the_address() {
        let (routes, a, b) = (Routes::new(), slot(1), slot(2));
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        routes.insert(net("0.0.0.0/0"), &a);
        routes.insert(net("10.0.0.0/8"), &b);
        routes.insert(net("10.1.0.0/16"), &a);
        routes.insert(net("fd00::1/128"), &b);
        assert!(routes.is_owner(ip("192.0.2.1"), &a));
        assert!(routes.is_owner(ip("10.2.0.1"), &b));
        assert!(routes.is_owner(ip("10.1.0.1"), &a));
        assert!(!routes.is_owner(ip("10.1.0.1"), &b), "although 10/8 is b's");
        assert!(routes.owner(ip("fd00::2")).is_none());
        routes.insert(net("10.1.0.0/16"), &b);
        routes.remove(net("10.1.0.0/16"), &a);
        assert!(routes.is_owner(ip("10.1.0.1"), &b), "moved: the former owner cannot remove it");
        routes.remove(net("10.1.0.0/16"), &b);
        routes.remove(net("0.0.0.0/0"), &a);
        assert!(routes.is_owner(ip("10.1.0.1"), &b));
        assert!(routes.owner(ip("11.0.0.1")).is_none());
    }

    #[test]
    fn agrees_with_a_linear_search() {
        arbtest::arbtest(|u| {
            let routes = Routes::new();
            let slots: Vec<_> = (0..4).map(slot).collect();
            let mut list: Vec<(IpNet, usize)> = Vec::new();
            for _ in 0..u.int_in_range(0..=40)? {
                let len = u.int_in_range(0..=32)?;
                let address = u32::from(u.arbitrary::<u16>()?) << 16;
                let net: IpNet = ipnet::Ipv4Net::new(address.into(), len).unwrap().trunc().into();
                let who = u.choose_index(4)?;
                list.retain(|(other, _)| *other != net);
                if u.ratio(3, 4)? {
                    routes.insert(net, &slots[who]);
                    list.push((net, who));
                } else {
                    for slot in &slots {
                        routes.remove(net, slot);
                    }
                }
            }
            for _ in 0..20 {
                let address: IpAddr = std::net::Ipv4Addr::from(u.arbitrary::<u32>()?).into();
                let expected = list
                    .iter()
                    .filter(|(net, _)| net.contains(&address))
                    .max_by_key(|(net, _)| net.prefix_len());
                let got = routes.owner(address);
                assert_eq!(got.is_some(), expected.is_some());
                if let (Some(got), Some((_, who))) = (got, expected) {
                    assert!(Arc::ptr_eq(&got, &slots[*who]));
                }
            }
            Ok(())
        });
    }
}

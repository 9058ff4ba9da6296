//! Middleboxes: NATs and firewalls, by mapping, filtering, expiry and port
//! allocation (words: nat-traversal-beyond.md).

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use sw_types::{Instant, Rng};

/// When an inner address gets a new outer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapping {
    /// One for all destinations ("easy", EIM).
    Endpoint,
    /// One for each destination address.
    Address,
    /// One for each destination address and port ("hard", EDM).
    AddressPort,
}

/// Which packets from outside pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filtering {
    /// All that hit a mapping (EIF).
    Endpoint,
    /// From addresses that were sent to (ADF).
    Address,
    /// From addresses and ports that were sent to (APDF).
    AddressPort,
}

/// Which outer port a new mapping gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    /// The inner port if it is free.
    Preserve,
    /// The last one plus this.
    Sequential(u16),
    Random,
    /// A random one of a range.
    Block(u16, u16),
}

/// What a middlebox is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BoxSpec {
    /// IPv4 is translated so; `None`: filtered only.
    pub mapping: Option<Mapping>,
    pub filtering: Filtering,
    pub ports: Ports,
    /// A mapping without outgoing packets dies after this long.
    pub expiry: Duration,
    /// Inner hosts reach each other by outer addresses.
    pub hairpin: bool,
    /// PCP, NAT-PMP or UPnP is offered to inner hosts.
    pub port_mapping: bool,
    /// All UDP is dropped.
    pub blocks_udp: bool,
    /// IPv6 passes, filtered like IPv4.
    pub ipv6: bool,
}

impl BoxSpec {
    /// The usual home router.
    pub const EASY: Self = Self {
        mapping: Some(Mapping::Endpoint),
        filtering: Filtering::AddressPort,
        ports: Ports::Random,
        expiry: Duration::from_secs(120),
        hairpin: false,
        port_mapping: false,
        blocks_udp: false,
        ipv6: false,
    };
    /// Easy, and lax about where answers come from.
    pub const EASY_AF: Self = Self { filtering: Filtering::Address, ..Self::EASY };
    /// Easy, and passes everything that hits a mapping.
    pub const FULL_CONE: Self = Self { filtering: Filtering::Endpoint, ..Self::EASY };
    /// A mapping for each destination, at random.
    pub const HARD: Self = Self { mapping: Some(Mapping::AddressPort), ..Self::EASY };
    /// A mapping for each destination, port after port.
    pub const HARD_SEQUENTIAL: Self = Self { ports: Ports::Sequential(1), ..Self::HARD };
    /// A mapping for each destination out of a block of ports (CGNAT).
    pub const HARD_BLOCK: Self = Self { ports: Ports::Block(20_000, 21_023), ..Self::HARD };
    /// No translation, but nothing comes in unasked.
    pub const FIREWALL: Self = Self { mapping: None, ipv6: true, ..Self::EASY };
    /// No UDP at all.
    pub const NO_UDP: Self = Self { blocks_udp: true, ..Self::EASY };

    /// Returns whether each destination gets its own mapping.
    pub fn is_hard(&self) -> bool {
        matches!(self.mapping, Some(Mapping::Address | Mapping::AddressPort))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    inner: SocketAddr,
    remote: Option<SocketAddr>,
}

#[derive(Clone, Debug)]
struct Entry {
    outer_port: u16,
    last_out: Instant,
    contacted: BTreeMap<SocketAddr, Instant>,
    /// Made by a port mapping protocol: passes all, does not expire.
    is_forward: bool,
}

/// Entries of one box; more make the oldest go.
const ENTRIES_MAX: usize = 8192;
/// Below this many entries nobody looks for dead ones.
const SWEEP_MIN: usize = 64;
/// Ports that a box looks at before it gives up.
const PORT_TRIES: usize = 4096;

/// One middlebox and its state.
#[derive(Clone, Debug)]
pub(crate) struct NatBox {
    pub(crate) spec: BoxSpec,
    pub(crate) outer: Ipv4Addr,
    entries: BTreeMap<Key, Entry>,
    by_port: BTreeMap<u16, Key>,
    next_port: u16,
    /// Number of entries at which dead ones are looked for.
    sweep_at: usize,
}

impl NatBox {
    pub(crate) fn new(spec: BoxSpec, outer: Ipv4Addr, rng: &mut Rng) -> Self {
        let next_port = 10_000 + rng.below(40_000) as u16;
        Self {
            spec,
            outer,
            entries: BTreeMap::new(),
            by_port: BTreeMap::new(),
            next_port,
            sweep_at: SWEEP_MIN,
        }
    }

    /// Forgets everything, as after a power cut.
    pub(crate) fn reboot(&mut self) {
        self.entries.clear();
        self.by_port.clear();
    }

    fn key(&self, inner: SocketAddr, remote: SocketAddr) -> Key {
        let mapping = if inner.is_ipv6() { None } else { self.spec.mapping };
        let remote = match mapping {
            Some(Mapping::Endpoint) | None => None,
            Some(Mapping::Address) => Some(SocketAddr::new(remote.ip(), 0)),
            Some(Mapping::AddressPort) => Some(remote),
        };
        Key { inner, remote }
    }

    /// A packet leaves: returns the source address it has outside.
    pub(crate) fn outbound(
        &mut self,
        inner: SocketAddr,
        remote: SocketAddr,
        now: Instant,
        rng: &mut Rng,
    ) -> Option<SocketAddr> {
        if self.spec.blocks_udp || (inner.is_ipv6() && !self.spec.ipv6) {
            return None;
        }
        let forward =
            Key { inner, remote: Some(SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0))) };
        if let Some(entry) = self.entries.get(&forward) {
            return Some(SocketAddr::from((self.outer, entry.outer_port)));
        }
        let key = self.key(inner, remote);
        let expired = self.entries.get(&key).is_some_and(|e| e.last_out + self.spec.expiry <= now);
        if expired {
            self.remove(&key);
        }
        if !self.entries.contains_key(&key) {
            let translated = inner.is_ipv4() && self.spec.mapping.is_some();
            let outer_port = if translated { self.allocate(inner.port(), now, rng)? } else { inner.port() };
            self.make_room(now);
            if translated {
                self.by_port.insert(outer_port, key);
            }
            let contacted = BTreeMap::new();
            self.entries.insert(key, Entry { outer_port, last_out: now, contacted, is_forward: false });
        }
        let (outer, translates) = (self.outer, self.spec.mapping.is_some());
        let entry = self.entries.get_mut(&key)?;
        entry.last_out = now;
        entry.contacted.insert(remote, now);
        if inner.is_ipv4() && translates {
            Some(SocketAddr::from((outer, entry.outer_port)))
        } else {
            Some(inner)
        }
    }

    /// A packet comes in from `remote` to `to` (an outer address, or an inner
    /// one where nothing is translated): returns the inner address.
    pub(crate) fn inbound(&self, remote: SocketAddr, to: SocketAddr, now: Instant) -> Option<SocketAddr> {
        if self.spec.blocks_udp || (to.is_ipv6() && !self.spec.ipv6) {
            return None;
        }
        let translated = to.is_ipv4() && self.spec.mapping.is_some();
        let key = if translated { *self.by_port.get(&to.port())? } else { self.key(to, remote) };
        let entry = self.entries.get(&key)?;
        if entry.is_forward {
            return Some(key.inner);
        }
        if entry.last_out + self.spec.expiry <= now {
            return None;
        }
        let fresh = |at: &Instant| *at + self.spec.expiry > now;
        let passes = match self.spec.filtering {
            Filtering::Endpoint => true,
            Filtering::Address => entry.contacted.iter().any(|(a, at)| a.ip() == remote.ip() && fresh(at)),
            Filtering::AddressPort => entry.contacted.get(&remote).is_some_and(fresh),
        };
        passes.then_some(key.inner)
    }

    /// A port mapping protocol asks for a forward to `inner`.
    pub(crate) fn forward(&mut self, inner: SocketAddr, now: Instant, rng: &mut Rng) -> Option<SocketAddr> {
        if !self.spec.port_mapping || self.spec.mapping.is_none() || self.spec.blocks_udp {
            return None;
        }
        let key = Key { inner, remote: Some(SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0))) };
        if let Some(entry) = self.entries.get(&key) {
            return Some(SocketAddr::from((self.outer, entry.outer_port)));
        }
        let outer_port = self.allocate(inner.port(), now, rng)?;
        self.by_port.insert(outer_port, key);
        let entry =
            Entry { outer_port, last_out: Instant::MAX, contacted: BTreeMap::new(), is_forward: true };
        self.entries.insert(key, entry);
        Some(SocketAddr::from((self.outer, outer_port)))
    }

    fn allocate(&mut self, inner_port: u16, now: Instant, rng: &mut Rng) -> Option<u16> {
        if self.spec.ports == Ports::Preserve && self.take_port(inner_port, now) {
            return Some(inner_port);
        }
        for _ in 0..PORT_TRIES {
            let port = match self.spec.ports {
                Ports::Sequential(step) => {
                    self.next_port = self.next_port.checked_add(step).unwrap_or(10_000);
                    self.next_port
                }
                Ports::Block(first, last) => first + rng.below(u64::from(last - first) + 1) as u16,
                Ports::Preserve | Ports::Random => 1024 + rng.below(64_512) as u16,
            };
            if self.take_port(port, now) {
                return Some(port);
            }
        }
        None
    }

    /// Returns whether a port is free; a mapping that is dead makes way.
    fn take_port(&mut self, port: u16, now: Instant) -> bool {
        let Some(key) = self.by_port.get(&port).copied() else { return port >= 1024 };
        let is_dead = self.entries.get(&key).is_none_or(|e| self.is_dead(e, now));
        if is_dead {
            self.remove(&key);
        }
        is_dead
    }

    fn is_dead(&self, entry: &Entry, now: Instant) -> bool {
        !entry.is_forward && entry.last_out + self.spec.expiry <= now
    }

    /// Forgets dead mappings when there are many, then the oldest one.
    fn make_room(&mut self, now: Instant) {
        if self.entries.len() < self.sweep_at {
            return;
        }
        let dead: Vec<Key> =
            self.entries.iter().filter(|(_, e)| self.is_dead(e, now)).map(|(key, _)| *key).collect();
        for key in dead {
            self.remove(&key);
        }
        self.sweep_at = (self.entries.len() * 2).clamp(SWEEP_MIN, ENTRIES_MAX);
        if self.entries.len() < ENTRIES_MAX {
            return;
        }
        let oldest = self.entries.iter().min_by_key(|(_, e)| e.last_out).map(|(key, _)| *key);
        if let Some(key) = oldest {
            self.remove(&key);
        }
    }

    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key)
            && self.by_port.get(&entry.outer_port) == Some(key)
        {
            self.by_port.remove(&entry.outer_port);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn nat(spec: BoxSpec) -> (NatBox, Rng) {
        let mut rng = Rng::new([1; 32]);
        (NatBox::new(spec, Ipv4Addr::new(203, 0, 113, 1), &mut rng), rng)
    }

    const T0: Instant = Instant::from_nanos(1_000_000_000);

    #[test]
    fn an_easy_nat_keeps_its_mapping_and_filters_by_port() {
        let (mut nat, mut rng) = nat(BoxSpec::EASY);
        let inner = addr("10.0.0.2:5");
        let a = nat.outbound(inner, addr("1.1.1.1:1"), T0, &mut rng).unwrap();
        assert_eq!(nat.outbound(inner, addr("2.2.2.2:2"), T0, &mut rng), Some(a));
        assert_eq!(nat.inbound(addr("1.1.1.1:1"), a, T0), Some(inner));
        assert_eq!(nat.inbound(addr("1.1.1.1:9"), a, T0), None);
        assert_eq!(nat.inbound(addr("1.1.1.1:1"), a, T0 + Duration::from_secs(121)), None);
    }

    #[test]
    fn a_hard_nat_makes_one_mapping_per_destination() {
        let (mut nat, mut rng) = nat(BoxSpec::HARD_SEQUENTIAL);
        let inner = addr("10.0.0.2:5");
        let a = nat.outbound(inner, addr("1.1.1.1:1"), T0, &mut rng).unwrap();
        let b = nat.outbound(inner, addr("1.1.1.1:2"), T0, &mut rng).unwrap();
        assert_eq!(b.port(), a.port() + 1);
        assert_eq!(nat.inbound(addr("1.1.1.1:2"), a, T0), None);
        assert_eq!(nat.inbound(addr("1.1.1.1:2"), b, T0), Some(inner));
    }

    #[test]
    fn filtering_by_address_lets_other_ports_in() {
        let (mut nat, mut rng) = nat(BoxSpec::EASY_AF);
        let inner = addr("10.0.0.2:5");
        let a = nat.outbound(inner, addr("1.1.1.1:1"), T0, &mut rng).unwrap();
        assert_eq!(nat.inbound(addr("1.1.1.1:9"), a, T0), Some(inner));
        assert_eq!(nat.inbound(addr("1.1.1.2:1"), a, T0), None);
    }

    #[test]
    fn a_forward_lets_everybody_in() {
        let (mut nat, mut rng) = nat(BoxSpec { port_mapping: true, ..BoxSpec::HARD });
        let inner = addr("10.0.0.2:5");
        let outer = nat.forward(inner, T0, &mut rng).unwrap();
        assert_eq!(nat.inbound(addr("9.9.9.9:9"), outer, T0), Some(inner));
        assert_eq!(nat.outbound(inner, addr("8.8.8.8:8"), T0, &mut rng), Some(outer));
    }

    #[test]
    fn a_firewall_translates_nothing_and_lets_answers_in() {
        let (mut nat, mut rng) = nat(BoxSpec::FIREWALL);
        let inner = addr("[2001:db8::2]:5");
        let remote = addr("[2001:db8:1::1]:7");
        assert_eq!(nat.inbound(remote, inner, T0), None);
        assert_eq!(nat.outbound(inner, remote, T0, &mut rng), Some(inner));
        assert_eq!(nat.inbound(remote, inner, T0), Some(inner));
    }
}

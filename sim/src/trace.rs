//! A running hash of everything that happened: equal seeds must give equal
//! hashes.

use std::net::IpAddr;

use sw_path::Route;

/// FNV-1a over 64 bits; it only has to notice differences, not to resist
/// anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace(u64);

impl Default for Trace {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Trace {
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    pub(crate) fn number(&mut self, number: u64) {
        self.0 = (self.0 ^ number).wrapping_mul(0x0100_0000_01b3).rotate_left(29);
    }

    /// A way to a peer.
    pub(crate) fn route(&mut self, route: &Route) {
        self.number(route.relay.map_or(0, |region| 1 + u64::from(region.0)));
        let Some(leg) = route.udp else { return };
        match leg.addr.ip() {
            IpAddr::V4(ip) => self.bytes(&ip.octets()),
            IpAddr::V6(ip) => self.bytes(&ip.octets()),
        }
        self.number(u64::from(leg.addr.port()) << 16 | u64::from(leg.socket.0));
    }

    /// The hash so far.
    pub fn hash(self) -> u64 {
        self.0
    }
}

//! How packets to a peer travel.

use std::fmt;
use std::net::SocketAddr;

use crate::ids::{RegionId, Vni};

/// The way to one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Path {
    /// UDP straight to this address.
    Direct(SocketAddr),
    /// UDP to a peer relay, inside Geneve with this identifier.
    PeerRelay { addr: SocketAddr, vni: Vni },
    /// Through the relay of this region, which is the peer's home.
    Derp(RegionId),
}

impl Path {
    /// The UDP address that datagrams go to, `None` through a relay.
    pub const fn udp_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Direct(addr) | Self::PeerRelay { addr, .. } => Some(*addr),
            Self::Derp(_) => None,
        }
    }

    /// Returns true when packets take no detour.
    pub const fn is_direct(&self) -> bool {
        match self {
            Self::Direct(_) => true,
            Self::PeerRelay { .. } | Self::Derp(_) => false,
        }
    }
}

/// The form of logs and `status`: `1.2.3.4:5`, `1.2.3.4:5:vni:6`, `derp-900`.
impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct(addr) => addr.fmt(f),
            Self::PeerRelay { addr, vni } => write!(f, "{addr}:vni:{vni}"),
            Self::Derp(region) => write!(f, "derp-{region}"),
        }
    }
}

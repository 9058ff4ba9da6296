//! The relay map: the `DERPMap` of the control protocol once it has been checked (control.md §5.8).
//!
//! `sw-tailcfg` converts the JSON form into this one, which cannot hold a region without an id, a port that
//! does not exist or a text where an address belongs.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::ids::RegionId;

/// All relay regions by id.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct RelayMap {
    pub regions: BTreeMap<RegionId, RelayRegion>,
    /// Factor on a region's latency when the home is chosen: below 1 is preferred, above 1 avoided. Only
    /// finite values above 0 are here.
    pub region_score: BTreeMap<RegionId, f64>,
}

impl RelayMap {
    /// The factor on the latency of `region`, 1 unless the map says another.
    pub fn score(&self, region: RegionId) -> f64 {
        self.region_score.get(&region).copied().unwrap_or(1.0)
    }
}

/// Relays that stand together and are meshed.
#[derive(Clone, Debug, PartialEq)]
pub struct RelayRegion {
    pub id: RegionId,
    pub code: String,
    pub name: String,
    /// Never measured and never a home; used only to reach peers at home there.
    pub no_measure_no_home: bool,
    /// In order of preference.
    pub nodes: Vec<RelayNode>,
}

/// One relay server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayNode {
    /// Unique in the map, for example `900a`.
    pub name: String,
    pub host_name: String,
    pub cert: CertCheck,
    pub ipv4: RelayAddr<Ipv4Addr>,
    pub ipv6: RelayAddr<Ipv6Addr>,
    /// `None` when the node answers no STUN.
    pub stun_port: Option<u16>,
    /// Answers STUN but relays nothing.
    pub stun_only: bool,
    pub derp_port: u16,
    /// Take any certificate. Only for tests.
    pub insecure_for_tests: bool,
    /// Where STUN requests go instead of the node's address. Only for tests.
    pub stun_test_ip: Option<IpAddr>,
    /// Plain HTTP on port 80 may be used for the captive portal check.
    pub can_port_80: bool,
}

/// Which certificate a relay must show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertCheck {
    /// A valid one for the host name.
    HostName,
    /// A valid one for this name.
    Name(String),
    /// The one whose DER bytes have this SHA-256, self-signed or not (`sha256-raw:`).
    Sha256([u8; 32]),
}

/// How to get the address of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelayAddr<A> {
    /// Ask DNS for the host name.
    Resolve,
    /// Use this one.
    Fixed(A),
    /// The family is switched off (`none`).
    Disabled,
}

impl<A: Copy> RelayAddr<A> {
    /// The address, if the map gives one.
    pub fn fixed(&self) -> Option<A> {
        match self {
            Self::Fixed(addr) => Some(*addr),
            Self::Resolve | Self::Disabled => None,
        }
    }
}

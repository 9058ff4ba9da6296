//! Relay servers as machines see them: a STUN socket and a switch for frames.

use std::collections::BTreeMap;

use sw_types::{CertCheck, Instant, NodeKey, RegionId, RelayAddr, RelayMap, RelayNode, RelayRegion};

use crate::net::{Network, StationId};

/// Ports that answer STUN; two, so that one relay shows a hard NAT.
pub(crate) const STUN_PORTS: [u16; 2] = [3478, 443];

/// One relay server.
#[derive(Debug)]
pub(crate) struct Relay {
    pub(crate) region: RegionId,
    pub(crate) station: StationId,
    pub(crate) is_alive: bool,
    /// Who is connected, and by which attempt.
    pub(crate) clients: BTreeMap<NodeKey, (usize, u64)>,
    /// When the last frame of a connection arrives, by machine and direction.
    pub(crate) last: BTreeMap<(usize, bool), Instant>,
}

impl Relay {
    pub(crate) fn new(region: RegionId, station: StationId) -> Self {
        Self { region, station, is_alive: true, clients: BTreeMap::new(), last: BTreeMap::new() }
    }
}

/// The relay map that control would send.
pub(crate) fn map_of(relays: &[Relay], net: &Network) -> RelayMap {
    let mut map = RelayMap::default();
    for relay in relays {
        let station = net.station(relay.station);
        let nodes = STUN_PORTS.iter().enumerate().map(|(n, port)| RelayNode {
            name: format!("{}{}", relay.region, if n == 0 { 'a' } else { 'b' }),
            host_name: String::new(),
            cert: CertCheck::HostName,
            ipv4: station.v4.map_or(RelayAddr::Disabled, RelayAddr::Fixed),
            ipv6: station.v6.map_or(RelayAddr::Disabled, RelayAddr::Fixed),
            stun_port: Some(*port),
            stun_only: n > 0,
            derp_port: 443,
            insecure_for_tests: false,
            stun_test_ip: None,
            can_port_80: false,
        });
        let region = RelayRegion {
            id: relay.region,
            code: format!("r{}", relay.region),
            name: format!("region {}", relay.region),
            no_measure_no_home: false,
            nodes: nodes.collect(),
        };
        map.regions.insert(relay.region, region);
    }
    map
}

//! The PeerAPI: a small HTTP server that peers reach through the tunnel (node-services.md §3).

mod put;
mod requests;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use sw_dataplane::OwnTraffic;
use sw_tailcfg::Service;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::config::TunMode;
use crate::core::{Core, CoreHandle};
use crate::inner;

/// Peers served at once; the next ones wait.
const CONNECTIONS_MAX: usize = 64;
/// Ports tried before any is good.
const TRIES: u8 = 5;

/// Where peers reach the API.
#[derive(Debug)]
pub(crate) struct PeerApi {
    core: CoreHandle,
    /// What is listened on; the wanted addresses may be more while some cannot be bound.
    open: Vec<SocketAddr>,
    wanted: Vec<IpAddr>,
    stop: CancellationToken,
}

impl PeerApi {
    pub(crate) fn new(core: CoreHandle) -> Self {
        Self { core, open: Vec::new(), wanted: Vec::new(), stop: CancellationToken::new() }
    }

    /// The port on one of our addresses.
    pub(crate) fn port_of(&self, address: IpAddr) -> Option<u16> {
        self.open.iter().find(|open| open.ip() == address).map(SocketAddr::port)
    }

    fn services(&self) -> Vec<Service> {
        let service =
            |proto: &str, port| Service { proto: proto.to_owned(), port, description: String::new() };
        let mut services: Vec<Service> = self
            .open
            .iter()
            .map(|open| service(if open.is_ipv4() { "peerapi4" } else { "peerapi6" }, open.port()))
            .collect();
        if !services.is_empty() {
            // Says that names are answered, not where.
            services.push(service("peerapi-dns-proxy", 1));
        }
        services
    }

    fn listen(&mut self, address: IpAddr, network: Option<&crate::userspace::Network>) -> Option<SocketAddr> {
        // Every address of the stack shares the port.
        if let (Some(_), Some(shared)) = (network, self.open.first()) {
            return Some(SocketAddr::new(address, shared.port()));
        }
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut ports = (0..TRIES).map(|attempt| port_for(address, attempt)).chain([0]);
        ports.find_map(|port| {
            let core = self.core.clone();
            let answer = move |arrival| requests::serve(core.clone(), arrival);
            let at = SocketAddr::new(address, port);
            inner::listen(network, at, (Arc::clone(&slots), &self.stop), answer).ok()
        })
    }
}

impl Core {
    /// Listens on the addresses that this node has, and tells peers where.
    pub(crate) fn refresh_peer_api(&mut self) {
        let is_up = self.node.state() != sw_types::local::BackendState::Stopped;
        let own = self.node.netmap().filter(|_| is_up && self.node.has_key());
        let wanted: Vec<IpAddr> =
            own.map(|map| map.self_node.addresses.iter().map(|net| net.addr()).collect()).unwrap_or_default();
        if wanted == self.peer_api.wanted && self.peer_api.open.len() == wanted.len() {
            return;
        }
        self.peer_api.stop.cancel();
        self.peer_api.stop = CancellationToken::new();
        self.peer_api.open.clear();
        self.peer_api.wanted.clone_from(&wanted);
        let network = match self.config.tun {
            TunMode::Userspace => self.network(),
            TunMode::Interface(_) => None,
        };
        for address in wanted {
            if let Some(open) = self.peer_api.listen(address, network.as_ref()) {
                self.peer_api.open.push(open);
            }
        }
        self.device.set_own_traffic(OwnTraffic {
            hears_messages: true,
            echo_cookie: Some(self.peer_pings.cookie),
            open_ports: self.peer_api.open.clone(),
        });
        let now = self.now();
        self.node.on_services(self.peer_api.services(), now);
    }
}

/// The port that official nodes would take too (node-services.md §3.1).
fn port_for(address: IpAddr, attempt: u8) -> u16 {
    let bytes = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    let [.., a, b, c] = bytes;
    let [.., high, low] = crc32([a.wrapping_add(attempt), b, c]).to_be_bytes();
    0x8000 | u16::from_be_bytes([high, low])
}

/// CRC-32 of IEEE 802.3.
fn crc32(bytes: [u8; 3]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_above_32767_and_follow_the_address() {
        // The check value of this CRC for the bytes "123".
        assert_eq!(crc32(*b"123"), 0x884863d2);
        let port = |text: &str, attempt| port_for(text.parse().expect("an address"), attempt);
        assert!(port("100.64.0.1", 0) >= 0x8000);
        assert_ne!(port("100.64.0.1", 0), port("100.64.0.1", 1));
        assert_eq!(port("100.64.0.1", 0), port("fd7a:115c:a1e0:ab12:4843:cd96:6240:1", 0));
    }
}

//! What the node itself, and not its host, says and hears inside the tunnel (node-services.md §3.1, §13.3).

use std::net::SocketAddr;

use sw_proto::ip::IpView;

use crate::packet::Addresses;

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const TSMP: u8 = 99;
const ECHO_REPLY: u8 = 0;
const ECHO_REPLY_V6: u8 = 129;
/// Type, code, checksum, identifier, sequence.
const ECHO_HEADER_LEN: usize = 8;

/// Which packets from peers are the node's own.
#[derive(Clone, Debug, Default)]
pub struct OwnTraffic {
    /// Messages between nodes (TSMP) are handed to the owner; else they are packets like any.
    pub hears_messages: bool,
    /// Echo replies whose data begins with this are answers to the owner.
    pub echo_cookie: Option<[u8; 8]>,
    /// TCP ports that peers may open whatever the filter says: what listens there decides.
    pub open_ports: Vec<SocketAddr>,
}

impl OwnTraffic {
    /// Whether a packet that passed the filter is for the owner, and not for the host.
    #[inline]
    pub(crate) fn takes(&self, packet: &[u8]) -> bool {
        let (protocol, transport) = match packet.first().map_or(0, |byte| byte >> 4) {
            4 => (packet.get(9), usize::from(packet[0] & 15) * 4),
            _ => (packet.get(6), 40),
        };
        match protocol {
            Some(&TSMP) => self.hears_messages,
            Some(&ICMP) => self.is_echo(packet, transport, ECHO_REPLY),
            Some(&ICMPV6) => self.is_echo(packet, transport, ECHO_REPLY_V6),
            Some(_) | None => false,
        }
    }

    fn is_echo(&self, packet: &[u8], transport: usize, kind: u8) -> bool {
        let Some(cookie) = &self.echo_cookie else { return false };
        packet.get(transport) == Some(&kind)
            && packet.get(transport + ECHO_HEADER_LEN..).is_some_and(|data| data.starts_with(cookie))
    }

    /// Whether a packet that the filter refused opens one of the open ports.
    #[cold]
    pub(crate) fn opens(&self, packet: &[u8], addresses: &Addresses) -> bool {
        let to_open = self.open_ports.iter().any(|open| open.ip() == addresses.dst);
        let view = IpView::parse(packet).ok().filter(|_| to_open);
        let tcp = view.as_ref().and_then(IpView::tcp).filter(|tcp| tcp.is_opening());
        tcp.is_some_and(|tcp| self.open_ports.contains(&SocketAddr::new(addresses.dst, tcp.dst_port())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use sw_proto::ip::{IpProto, Ipv4Header, write_ipv4};

    const OURS: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 1);

    fn packet(proto: IpProto, payload: &[u8]) -> Vec<u8> {
        let mut packet = Vec::new();
        let src = Ipv4Addr::new(100, 64, 0, 2);
        write_ipv4(&mut packet, &Ipv4Header { src, dst: OURS, proto, ttl: 64, id: 0 }, payload);
        packet
    }

    #[test]
    fn messages_and_our_own_echoes_are_taken() {
        let own =
            OwnTraffic { hears_messages: true, echo_cookie: Some(*b"cookie!!"), ..OwnTraffic::default() };
        assert!(own.takes(&packet(IpProto::TSMP, b"p12345678")));
        assert!(!OwnTraffic::default().takes(&packet(IpProto::TSMP, b"p12345678")));
        let echo =
            |kind: u8, data: &[u8]| packet(IpProto::ICMP, &[&[kind, 0, 0, 0, 0, 1, 0, 1], data].concat());
        assert!(own.takes(&echo(0, b"cookie!!and more")));
        assert!(!own.takes(&echo(0, b"of the host's ping")));
        assert!(!own.takes(&echo(8, b"cookie!!")), "a request is the host's to answer");
        assert!(!own.takes(&echo(0, b"")));
        assert!(!own.takes(&packet(IpProto::UDP, b"cookie!!")));
    }

    #[test]
    fn an_open_port_is_open_for_opening_alone() {
        let own = OwnTraffic { open_ports: vec![(OURS, 40_000).into()], ..OwnTraffic::default() };
        let tcp = |port: u16, flags: u8| {
            let [high, low] = port.to_be_bytes();
            packet(IpProto::TCP, &[0, 9, high, low, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0])
        };
        let opens = |packet: &[u8]| own.opens(packet, &Addresses::parse(packet).expect("whole"));
        assert!(opens(&tcp(40_000, 2)));
        assert!(!opens(&tcp(40_001, 2)));
        assert!(!opens(&tcp(40_000, 0x12)), "an answer is no opening");
        assert!(!opens(&packet(IpProto::TCP, b"short")));
    }
}

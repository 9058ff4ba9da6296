//! Address ranges, service addresses and ports (node-services.md §1, architecture.md §10.1).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{Ipv4Net, Ipv6Net};

/// The address that MagicDNS answers on.
pub const SERVICE_IPV4: Ipv4Addr = Ipv4Addr::new(100, 100, 100, 100);
/// The same over IPv6.
pub const SERVICE_IPV6: Ipv6Addr = Ipv6Addr::new(0xfd7a, 0x115c, 0xa1e0, 0, 0, 0, 0, 0x53);

/// UDP port of a node.
pub const DEFAULT_NODE_PORT: u16 = 41641;
/// Port of STUN.
pub const STUN_PORT: u16 = 3478;
/// TCP port of a relay unless the map says another.
pub const DERP_PORT: u16 = 443;
/// TCP port of plain HTTP.
pub const HTTP_PORT: u16 = 80;
/// TCP port of HTTPS, and the first choice of a server, for TCP and UDP.
pub const HTTPS_PORT: u16 = 443;
/// What a server takes when 443 is in use.
pub const SERVER_PORT_FALLBACK: u16 = 8443;
/// SOCKS5 and HTTP proxy of userspace mode, on 127.0.0.1.
pub const PROXY_PORT: u16 = 1055;

/// IPv4 addresses of nodes: `100.64.0.0/10`.
pub const fn cgnat_range() -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10)
}

/// Addresses of ChromeOS virtual machines, `100.115.92.0/23`: never a node's, never the tailnet's.
pub const fn chromeos_range() -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(100, 115, 92, 0), 23)
}

/// Parts of [`cgnat_range`] that are never given to a node (architecture.md §10.1).
pub const fn reserved_v4_ranges() -> [Ipv4Net; 3] {
    [
        Ipv4Net::new_assert(Ipv4Addr::new(100, 100, 0, 0), 24),
        Ipv4Net::new_assert(Ipv4Addr::new(100, 100, 100, 0), 24),
        chromeos_range(),
    ]
}

/// IPv6 addresses of the tailnet: `fd7a:115c:a1e0::/48`.
pub const fn tailnet_v6_range() -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(0xfd7a, 0x115c, 0xa1e0, 0, 0, 0, 0, 0), 48)
}

/// Where a node's IPv6 address is derived from its IPv4 address.
pub const fn four_to_six_range() -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(0xfd7a, 0x115c, 0xa1e0, 0xab12, 0x4843, 0xcd96, 0x6200, 0), 104)
}

/// The 4via6 range: an IPv4 network behind a numbered site (node-services.md §2.7).
pub const fn via_range() -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(0xfd7a, 0x115c, 0xa1e0, 0xb1a, 0, 0, 0, 0), 64)
}

/// The range of addresses for a moment.
pub const fn ephemeral_v6_range() -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(0xfd7a, 0x115c, 0xa1e0, 0xefe3, 0, 0, 0, 0), 64)
}

/// Returns the IPv6 address of the node that has `v4` (the last three bytes are kept), `None` outside
/// [`cgnat_range`], where they would not name one node.
pub fn four_to_six(v4: Ipv4Addr) -> Option<Ipv6Addr> {
    if !cgnat_range().contains(&v4) {
        return None;
    }
    let [_, a, b, c] = v4.octets();
    let mut bytes = four_to_six_range().network().octets();
    bytes[13..].copy_from_slice(&[a, b, c]);
    Some(bytes.into())
}

/// Returns the IPv4 address that [`four_to_six`] makes `v6` of.
pub fn six_to_four(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let [.., a, b, c] = v6.octets();
    let v4 = Ipv4Addr::new(100, a, b, c);
    (four_to_six(v4) == Some(v6)).then_some(v4)
}

/// Returns true for an address of the tailnet, IPv4 in IPv6 unmapped (node-services.md §1).
pub fn is_tailnet_ip(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(v4) => cgnat_range().contains(&v4) && !chromeos_range().contains(&v4),
        IpAddr::V6(v6) => tailnet_v6_range().contains(&v6),
    }
}

/// Returns true when an allocator may give `v4` to a node.
pub fn is_usable_node_ipv4(v4: Ipv4Addr) -> bool {
    cgnat_range().contains(&v4) && !reserved_v4_ranges().iter().any(|range| range.contains(&v4))
}

/// A text is not `1.2.3.4:5` or `[::1]:5`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an address with port")]
pub struct AddrPortError;

/// Reads `1.2.3.4:5` or `[::1]:5`; IPv4 written as IPv6 becomes IPv4. Zones are refused: they mean nothing to
/// another machine.
///
/// # Errors
/// [`AddrPortError`].
pub fn parse_addr_port(text: &str) -> Result<SocketAddr, AddrPortError> {
    let addr: SocketAddr = text.parse().map_err(|_| AddrPortError)?;
    if let SocketAddr::V6(v6) = addr
        && v6.scope_id() != 0
    {
        return Err(AddrPortError);
    }
    Ok(SocketAddr::new(addr.ip().to_canonical(), addr.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_to_six_keeps_the_last_three_bytes() {
        let v4: Ipv4Addr = [100, 101, 102, 103].into();
        let v6: Ipv6Addr = "fd7a:115c:a1e0:ab12:4843:cd96:6265:6667".parse().unwrap();
        assert_eq!(four_to_six(v4), Some(v6));
        assert_eq!(six_to_four(v6), Some(v4));
        assert_eq!(four_to_six([192, 168, 0, 1].into()), None);
        assert_eq!(six_to_four(SERVICE_IPV6), None);
        // 100.1.2.3 is outside the range, so its six form is no node's.
        assert_eq!(six_to_four("fd7a:115c:a1e0:ab12:4843:cd96:6201:0203".parse().unwrap()), None);
    }

    #[test]
    fn tailnet_addresses_end_where_the_ranges_end() {
        for (text, expected) in [
            ("100.63.255.255", false),
            ("100.64.0.0", true),
            ("100.115.91.255", true),
            ("100.115.92.0", false),
            ("100.115.93.255", false),
            ("100.115.94.0", true),
            ("100.127.255.255", true),
            ("100.128.0.0", false),
            ("::ffff:100.64.0.1", true),
            ("fd7a:115c:a1e0::53", true),
            ("fd7a:115c:a1e1::", false),
        ] {
            assert_eq!(is_tailnet_ip(text.parse().unwrap()), expected, "{text}");
        }
        assert!(!is_usable_node_ipv4(SERVICE_IPV4));
        assert!(!is_usable_node_ipv4([100, 100, 0, 7].into()));
        assert!(is_usable_node_ipv4([100, 100, 1, 7].into()));
    }

    #[test]
    fn addresses_with_ports_are_read_without_zones() {
        assert_eq!(parse_addr_port("1.2.3.4:5"), Ok(([1, 2, 3, 4], 5).into()));
        assert_eq!(parse_addr_port("[::ffff:1.2.3.4]:5"), Ok(([1, 2, 3, 4], 5).into()));
        assert_eq!(parse_addr_port("[::1]:5"), Ok((Ipv6Addr::LOCALHOST, 5).into()));
        for bad in ["", "1.2.3.4", "::1:5", "[::1]", "[fe80::1%2]:5", "host:5", "1.2.3.4:65536"] {
            assert_eq!(parse_addr_port(bad), Err(AddrPortError), "{bad}");
        }
    }
}

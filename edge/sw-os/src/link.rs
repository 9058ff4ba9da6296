//! The machine's network interfaces: a snapshot of links, addresses and default routes.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::netlink::{Message, Netlink, RTM_GETADDR, RTM_GETLINK, RTM_GETROUTE, attributes, value_u32};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_TABLE: u16 = 15;
const TABLE_MAIN: u32 = 254;
const IFF_UP: u32 = 0x1;
const IFF_LOOPBACK: u32 = 0x8;
/// `IFA_F_TENTATIVE | IFA_F_DADFAILED | IFA_F_DEPRECATED`: not (or no longer) fit as a source.
const UNUSABLE_ADDRESS_FLAGS: u32 = 0x40 | 0x08 | 0x20;

/// One network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    pub index: u32,
    pub mtu: u32,
    pub is_up: bool,
    pub is_loopback: bool,
    /// Addresses with their prefix lengths; tentative and deprecated ones are left out.
    pub addresses: Vec<IpNet>,
}

/// A default route of the main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefaultRoute {
    pub interface_index: u32,
    pub gateway: Option<IpAddr>,
    pub metric: u32,
}

/// What the machine's network looks like at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Interfaces {
    pub interfaces: Vec<Interface>,
    /// Best (lowest metric) default route per family.
    pub default_v4: Option<DefaultRoute>,
    pub default_v6: Option<DefaultRoute>,
}

impl Interfaces {
    /// Reads the present state from the kernel.
    pub fn read() -> io::Result<Self> {
        let mut netlink = Netlink::open()?;
        let mut interfaces = BTreeMap::new();
        for payload in netlink.dump(Message::new(RTM_GETLINK, 0, &[0; 16]))? {
            if let Some(interface) = parse_link(&payload) {
                interfaces.insert(interface.index, interface);
            }
        }
        for payload in netlink.dump(Message::new(RTM_GETADDR, 0, &[0; 8]))? {
            if let Some((index, address)) = parse_address(&payload)
                && let Some(interface) = interfaces.get_mut(&index)
            {
                interface.addresses.push(address);
            }
        }
        let default_v4 = best_default(&mut netlink, AF_INET)?;
        let default_v6 = best_default(&mut netlink, AF_INET6)?;
        Ok(Self { interfaces: interfaces.into_values().collect(), default_v4, default_v6 })
    }

    /// Returns the gateway of the IPv4 default route.
    pub fn gateway_v4(&self) -> Option<Ipv4Addr> {
        match self.default_v4.as_ref()?.gateway? {
            IpAddr::V4(gateway) => Some(gateway),
            IpAddr::V6(_) => None,
        }
    }

    /// Returns the interface with this name.
    pub fn by_name(&self, name: &str) -> Option<&Interface> {
        self.interfaces.iter().find(|interface| interface.name == name)
    }

    /// Returns the addresses from which other machines of the same LAN can reach this one:
    /// those of interfaces that are up, without loopback, link-local and the interface `own_tun`.
    pub fn local_addresses(&self, own_tun: &str) -> Vec<IpAddr> {
        self.interfaces
            .iter()
            .filter(|interface| interface.is_up && !interface.is_loopback && interface.name != own_tun)
            .flat_map(|interface| interface.addresses.iter().map(IpNet::addr))
            .filter(|address| match address {
                IpAddr::V4(address) => !address.is_link_local() && !address.is_loopback(),
                IpAddr::V6(address) => !address.is_unicast_link_local() && !address.is_loopback(),
            })
            .collect()
    }

    /// Returns what matters for paths: the same without the interface `own_tun`.
    #[must_use]
    pub fn without(&self, own_tun: &str) -> Self {
        let mut rest = self.clone();
        rest.interfaces.retain(|interface| interface.name != own_tun);
        rest
    }
}

fn parse_link(payload: &[u8]) -> Option<Interface> {
    // struct ifinfomsg: family, pad, type (2), index (4), flags (4), change (4)
    let fixed = payload.first_chunk::<16>()?;
    let index = u32::from_ne_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]);
    let flags = u32::from_ne_bytes([fixed[8], fixed[9], fixed[10], fixed[11]]);
    let mut name = String::new();
    let mut mtu = 0;
    for (kind, value) in attributes(payload.get(16..)?) {
        match kind {
            IFLA_IFNAME => {
                let text = value.split(|byte| *byte == 0).next().unwrap_or_default();
                name = String::from_utf8_lossy(text).into_owned();
            }
            IFLA_MTU => mtu = value_u32(value).unwrap_or(0),
            _ => {}
        }
    }
    Some(Interface {
        name,
        index,
        mtu,
        is_up: flags & IFF_UP != 0,
        is_loopback: flags & IFF_LOOPBACK != 0,
        addresses: Vec::new(),
    })
}

/// Parses an address message into (interface index, address), leaving out unusable ones.
fn parse_address(payload: &[u8]) -> Option<(u32, IpNet)> {
    let (index, address, flags) = parse_address_with_flags(payload)?;
    (flags & UNUSABLE_ADDRESS_FLAGS == 0).then_some((index, address))
}

/// Parses an address message into (interface index, address, `IFA_F_*` flags).
pub(crate) fn parse_address_with_flags(payload: &[u8]) -> Option<(u32, IpNet, u32)> {
    // struct ifaddrmsg: family, prefix length, flags, scope, index (4)
    let &[_, prefix, flags, _, i0, i1, i2, i3] = payload.first_chunk::<8>()?;
    let mut flags = u32::from(flags);
    let (mut address, mut local) = (None, None);
    for (kind, value) in attributes(payload.get(8..)?) {
        match kind {
            IFA_ADDRESS => address = parse_ip(value),
            IFA_LOCAL => local = parse_ip(value),
            IFA_FLAGS => flags = value_u32(value).unwrap_or(flags),
            _ => {}
        }
    }
    let address = IpNet::new(local.or(address)?, prefix).ok()?;
    Some((u32::from_ne_bytes([i0, i1, i2, i3]), address, flags))
}

/// Reads a 4- or 16-byte address.
pub(crate) fn parse_ip(value: &[u8]) -> Option<IpAddr> {
    if let Ok(bytes) = <[u8; 4]>::try_from(value) {
        return Some(Ipv4Addr::from(bytes).into());
    }
    <[u8; 16]>::try_from(value).ok().map(|bytes| Ipv6Addr::from(bytes).into())
}

fn best_default(netlink: &mut Netlink, family: u8) -> io::Result<Option<DefaultRoute>> {
    let mut fixed = [0; 12];
    fixed[0] = family;
    let routes = netlink.dump(Message::new(RTM_GETROUTE, 0, &fixed))?;
    Ok(routes.iter().filter_map(|payload| parse_default_route(payload)).min_by_key(|route| route.metric))
}

fn parse_default_route(payload: &[u8]) -> Option<DefaultRoute> {
    // struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags (4)
    let fixed = payload.first_chunk::<12>()?;
    let (destination_bits, route_type) = (fixed[1], fixed[7]);
    if destination_bits != 0 || route_type != 1 {
        return None;
    }
    let mut table = u32::from(fixed[4]);
    let (mut interface_index, mut gateway, mut metric) = (None, None, 0);
    for (kind, value) in attributes(payload.get(12..)?) {
        match kind {
            RTA_OIF => interface_index = value_u32(value),
            RTA_GATEWAY => gateway = parse_ip(value),
            RTA_PRIORITY => metric = value_u32(value).unwrap_or(0),
            RTA_TABLE => table = value_u32(value).unwrap_or(table),
            _ => {}
        }
    }
    (table == TABLE_MAIN).then_some(DefaultRoute { interface_index: interface_index?, gateway, metric })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_is_found() {
        let interfaces = Interfaces::read().expect("netlink is there for everybody");
        assert!(interfaces.interfaces.iter().any(|interface| interface.is_loopback));
    }

    #[test]
    fn parsers_survive_any_bytes() {
        arbtest::arbtest(|u| {
            let bytes: Vec<u8> = u.arbitrary()?;
            let _link = parse_link(&bytes);
            let _address = parse_address_with_flags(&bytes);
            let _route = parse_default_route(&bytes);
            Ok(())
        });
    }
}

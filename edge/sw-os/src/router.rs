//! Addresses, routes and policy rules of the node, as the official client lays them out (node-services.md §10.1):
//! routes in table 52, four rules per family from priority 5210, own sockets marked `0x80000`.
//!
//! The router is idempotent: each `apply` reads what is there, and changes the difference. Only objects
//! of our own (our interface, table 52, our priorities) are ever touched.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::link::{Interfaces, parse_address_with_flags, parse_ip};
use crate::netlink::{
    FLAG_CREATE, FLAG_EXCL, FLAG_REPLACE, Message, Netlink, RTM_DELADDR, RTM_DELROUTE, RTM_DELRULE,
    RTM_GETADDR, RTM_GETROUTE, RTM_GETRULE, RTM_NEWADDR, RTM_NEWROUTE, RTM_NEWRULE, RTM_SETLINK, attributes,
    value_u32,
};

/// The routing table that holds all routes into the network.
pub const ROUTE_TABLE: u32 = 52;
/// The mark on the daemon's own sockets, so that tunnel traffic never enters the tunnel.
pub const MARK_BYPASS: u32 = 0x80000;
/// The mark on packets forwarded for a subnet.
pub const MARK_SUBNET: u32 = 0x40000;
/// The part of a packet mark that belongs to this family of programs.
pub const MARK_MASK: u32 = 0xff_0000;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const TABLE_MAIN: u32 = 254;
const TABLE_DEFAULT: u32 = 253;
const ACTION_TO_TABLE: u8 = 1;
const ACTION_UNREACHABLE: u8 = 7;
const ROUTE_UNICAST: u8 = 1;
const ROUTE_THROW: u8 = 9;
const PROTOCOL_STATIC: u8 = 4;
const SCOPE_UNIVERSE: u8 = 0;
const SCOPE_LINK: u8 = 253;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_F_NODAD: u8 = 0x02;
const IFLA_MTU: u16 = 4;
const IFF_UP: u32 = 1;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_TABLE: u16 = 15;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;

/// What the router shall look like.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RouterConfig {
    /// The TUN interface.
    pub interface: String,
    pub mtu: u32,
    /// Own addresses, as /32 and /128.
    pub addresses: BTreeSet<IpNet>,
    /// Destinations that go into the interface.
    pub routes: BTreeSet<IpNet>,
    /// Destinations that stay with the main table although a wider route covers them.
    pub throw_routes: BTreeSet<IpNet>,
}

/// Why the router could not be brought into the wanted state.
#[derive(Debug, Error)]
pub enum RouterError {
    #[error("the interface {name} does not exist")]
    NoInterface { name: String },
    #[error("netlink: {what}")]
    Netlink { what: &'static str, source: io::Error },
    /// The first of `count` requests that the kernel refused.
    #[error("the kernel refused {count} of the changes to {what}, first {object}")]
    Refused { what: &'static str, object: String, count: usize, source: io::Error },
}

/// One entry of table 52.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Route {
    destination: IpNet,
    /// `None` for a throw route.
    interface_index: Option<u32>,
}

/// One policy rule: (family, priority).
type RuleKey = (u8, u32);

/// Keeps the kernel's routing in the wanted state.
#[derive(Debug)]
pub struct Router {
    netlink: Netlink,
}

impl Router {
    /// Opens the netlink socket; needs no privilege, the changes do.
    pub fn open() -> io::Result<Self> {
        Ok(Self { netlink: Netlink::open()? })
    }

    /// Brings addresses, routes and rules into the state of `config`.
    ///
    /// Everything is tried even if a part fails; the first failure is returned.
    pub fn apply(&mut self, config: &RouterConfig) -> Result<(), RouterError> {
        let interfaces = Interfaces::read()
            .map_err(|source| RouterError::Netlink { what: "reading the interfaces", source })?;
        let Some(interface) = interfaces.by_name(&config.interface) else {
            return Err(RouterError::NoInterface { name: config.interface.clone() });
        };
        let index = interface.index;
        let up = if interface.is_up && interface.mtu == config.mtu {
            Ok(())
        } else {
            self.set_link_up(index, config.mtu)
        };
        let addresses = self.apply_addresses(index, &config.addresses);
        let rules = self.apply_rules();
        let unicast =
            config.routes.iter().map(|net| Route { destination: *net, interface_index: Some(index) });
        let throw = config.throw_routes.iter().map(|net| Route { destination: *net, interface_index: None });
        let routes = self.apply_routes(&unicast.chain(throw).collect());
        up.and(addresses).and(rules).and(routes)
    }

    /// Removes every rule, every route of table 52, and the addresses of `interface` if it is still there.
    pub fn remove_all(&mut self, interface: &str) -> Result<(), RouterError> {
        let routes = self.apply_routes(&BTreeSet::new());
        let rules = self.remove_rules();
        let interfaces = Interfaces::read()
            .map_err(|source| RouterError::Netlink { what: "reading the interfaces", source })?;
        let addresses = match interfaces.by_name(interface) {
            Some(interface) => self.apply_addresses(interface.index, &BTreeSet::new()),
            None => Ok(()),
        };
        routes.and(rules).and(addresses)
    }

    fn set_link_up(&mut self, index: u32, mtu: u32) -> Result<(), RouterError> {
        let mut fixed = [0; 16];
        fixed[4..8].copy_from_slice(&index.to_ne_bytes());
        fixed[8..12].copy_from_slice(&IFF_UP.to_ne_bytes());
        fixed[12..16].copy_from_slice(&IFF_UP.to_ne_bytes());
        self.netlink
            .execute_one(Message::new(RTM_SETLINK, 0, &fixed).attribute_u32(IFLA_MTU, mtu))
            .map_err(|source| RouterError::Netlink { what: "bringing the interface up", source })
    }

    fn apply_addresses(&mut self, index: u32, wanted: &BTreeSet<IpNet>) -> Result<(), RouterError> {
        let dump = self
            .netlink
            .dump(Message::new(RTM_GETADDR, 0, &[0; 8]))
            .map_err(|source| RouterError::Netlink { what: "reading the addresses", source })?;
        let present: BTreeSet<IpNet> = dump
            .iter()
            .filter_map(|payload| parse_address_with_flags(payload))
            .filter(|(of, address, _)| *of == index && !is_link_local(address.addr()))
            .map(|(_, address, _)| address)
            .collect();
        let removed = present.difference(wanted).map(|net| (address_message(RTM_DELADDR, index, *net), *net));
        let added = wanted.difference(&present).map(|net| (address_message(RTM_NEWADDR, index, *net), *net));
        self.execute_all("addresses", removed.chain(added).collect(), &[Errno::EXIST, Errno::ADDRNOTAVAIL])
    }

    fn apply_routes(&mut self, wanted: &BTreeSet<Route>) -> Result<(), RouterError> {
        let present = self.routes()?;
        let removed =
            present.difference(wanted).map(|route| (route_message(RTM_DELROUTE, *route), route.destination));
        let added =
            wanted.difference(&present).map(|route| (route_message(RTM_NEWROUTE, *route), route.destination));
        self.execute_all("routes", removed.chain(added).collect(), &[Errno::EXIST, Errno::SRCH])
    }

    fn routes(&mut self) -> Result<BTreeSet<Route>, RouterError> {
        let mut routes = BTreeSet::new();
        for family in [AF_INET, AF_INET6] {
            let mut fixed = [0; 12];
            fixed[0] = family;
            let dump = self
                .netlink
                .dump(Message::new(RTM_GETROUTE, 0, &fixed))
                .map_err(|source| RouterError::Netlink { what: "reading the routes", source })?;
            routes.extend(dump.iter().filter_map(|payload| parse_own_route(payload)));
        }
        Ok(routes)
    }

    fn apply_rules(&mut self) -> Result<(), RouterError> {
        let present = self.rules()?;
        let missing: Vec<_> = wanted_rules()
            .filter(|(key, _)| !present.contains(key))
            .map(|((_, priority), message)| (message, priority))
            .collect();
        // A kernel without IPv6 refuses the rules of that family.
        self.execute_all("rules", missing, &[Errno::EXIST, Errno::AFNOSUPPORT, Errno::OPNOTSUPP])
    }

    fn remove_rules(&mut self) -> Result<(), RouterError> {
        let present = self.rules()?;
        let ours: Vec<_> = wanted_rules()
            .filter(|(key, _)| present.contains(key))
            .map(|((_, priority), message)| {
                (
                    Message {
                        kind: RTM_DELRULE,
                        flags: message.flags & !(FLAG_CREATE | FLAG_EXCL),
                        ..message
                    },
                    priority,
                )
            })
            .collect();
        self.execute_all("rules", ours, &[Errno::NOENT])
    }

    /// Returns the keys of rules that have one of our priorities and look like ours.
    fn rules(&mut self) -> Result<BTreeSet<RuleKey>, RouterError> {
        let dump = self
            .netlink
            .dump(Message::new(RTM_GETRULE, 0, &[0; 12]))
            .map_err(|source| RouterError::Netlink { what: "reading the rules", source })?;
        Ok(dump.iter().filter_map(|payload| parse_own_rule(payload)).collect())
    }

    fn execute_all<T: ToString>(
        &mut self,
        what: &'static str,
        changes: Vec<(Message, T)>,
        tolerated: &[Errno],
    ) -> Result<(), RouterError> {
        if changes.is_empty() {
            return Ok(());
        }
        let (messages, objects): (Vec<_>, Vec<_>) = changes.into_iter().unzip();
        let answers =
            self.netlink.execute(&messages).map_err(|source| RouterError::Netlink { what, source })?;
        let mut refused = answers
            .into_iter()
            .zip(objects)
            .filter_map(|(answer, object)| Some((answer.err()?, object)))
            .filter(|(error, _)| !tolerated.contains(error));
        let Some((error, object)) = refused.next() else { return Ok(()) };
        let count = 1 + refused.count();
        Err(RouterError::Refused { what, object: object.to_string(), count, source: error.into() })
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => AF_INET,
        IpAddr::V6(_) => AF_INET6,
    }
}

fn address_message(kind: u16, index: u32, net: IpNet) -> Message {
    let address = net.addr();
    // NODAD: a /128 on a point-to-point device cannot clash, and must be usable at once.
    let flags = if address.is_ipv6() { IFA_F_NODAD } else { 0 };
    let mut fixed = [family(address), net.prefix_len(), flags, SCOPE_UNIVERSE, 0, 0, 0, 0];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    let create = if kind == RTM_NEWADDR { FLAG_CREATE | FLAG_REPLACE } else { 0 };
    Message::new(kind, create, &fixed)
        .attribute(IFA_LOCAL, &octets(address))
        .attribute(IFA_ADDRESS, &octets(address))
}

fn route_message(kind: u16, route: Route) -> Message {
    let address = route.destination.network();
    let (route_type, scope) = match route.interface_index {
        Some(_) if address.is_ipv4() => (ROUTE_UNICAST, SCOPE_LINK),
        Some(_) => (ROUTE_UNICAST, SCOPE_UNIVERSE),
        None => (ROUTE_THROW, SCOPE_UNIVERSE),
    };
    let table = u8::try_from(ROUTE_TABLE).expect("52 fits");
    let fixed = [
        family(address),
        route.destination.prefix_len(),
        0,
        0,
        table,
        PROTOCOL_STATIC,
        scope,
        route_type,
        0,
        0,
        0,
        0,
    ];
    let create = if kind == RTM_NEWROUTE { FLAG_CREATE | FLAG_REPLACE } else { 0 };
    let message = Message::new(kind, create, &fixed).attribute(RTA_DST, &octets(address));
    match route.interface_index {
        Some(index) => message.attribute_u32(RTA_OIF, index),
        None => message,
    }
}

fn parse_own_route(payload: &[u8]) -> Option<Route> {
    let fixed = payload.first_chunk::<12>()?;
    let (family, bits, route_type) = (fixed[0], fixed[1], fixed[7]);
    let mut table = u32::from(fixed[4]);
    let (mut destination, mut interface_index) = (None, None);
    for (kind, value) in attributes(payload.get(12..)?) {
        match kind {
            RTA_DST => destination = parse_ip(value),
            RTA_OIF => interface_index = value_u32(value),
            RTA_TABLE => table = value_u32(value).unwrap_or(table),
            _ => {}
        }
    }
    if table != ROUTE_TABLE || !matches!(route_type, ROUTE_UNICAST | ROUTE_THROW) {
        return None;
    }
    let any = if family == AF_INET { IpAddr::V4([0; 4].into()) } else { IpAddr::V6([0; 16].into()) };
    let destination = IpNet::new(destination.unwrap_or(any), bits).ok()?;
    // IPv6 throw routes are reported with the loopback interface.
    let interface_index = if route_type == ROUTE_THROW { None } else { interface_index };
    Some(Route { destination, interface_index })
}

/// The four rules of both families (node-services.md §10.1).
fn wanted_rules() -> impl Iterator<Item = (RuleKey, Message)> {
    [AF_INET, AF_INET6].into_iter().flat_map(|family| {
        [
            (5210, true, Some(TABLE_MAIN)),
            (5230, true, Some(TABLE_DEFAULT)),
            (5250, true, None),
            (5270, false, Some(ROUTE_TABLE)),
        ]
        .into_iter()
        .map(move |(priority, marked, table)| {
            ((family, priority), rule_message(family, priority, marked, table))
        })
    })
}

fn rule_message(family: u8, priority: u32, marked: bool, table: Option<u32>) -> Message {
    // struct fib_rule_hdr: family, dst_len, src_len, tos, table, res1, res2, action, flags (4)
    let short_table = table.and_then(|table| u8::try_from(table).ok()).unwrap_or(0);
    let action = if table.is_some() { ACTION_TO_TABLE } else { ACTION_UNREACHABLE };
    let fixed = [family, 0, 0, 0, short_table, 0, 0, action, 0, 0, 0, 0];
    let mut message =
        Message::new(RTM_NEWRULE, FLAG_CREATE | FLAG_EXCL, &fixed).attribute_u32(FRA_PRIORITY, priority);
    if marked {
        message = message.attribute_u32(FRA_FWMARK, MARK_BYPASS).attribute_u32(FRA_FWMASK, MARK_MASK);
    }
    match table {
        Some(table) => message.attribute_u32(FRA_TABLE, table),
        None => message,
    }
}

fn parse_own_rule(payload: &[u8]) -> Option<RuleKey> {
    let fixed = payload.first_chunk::<12>()?;
    let family = fixed[0];
    let mut table = u32::from(fixed[4]);
    let (mut priority, mut mark) = (0, 0);
    for (kind, value) in attributes(payload.get(12..)?) {
        match kind {
            FRA_PRIORITY => priority = value_u32(value).unwrap_or(0),
            FRA_FWMARK => mark = value_u32(value).unwrap_or(0),
            FRA_TABLE => table = value_u32(value).unwrap_or(table),
            _ => {}
        }
    }
    let ours = match priority {
        5210 => mark == MARK_BYPASS && table == TABLE_MAIN,
        5230 => mark == MARK_BYPASS && table == TABLE_DEFAULT,
        5250 => mark == MARK_BYPASS && fixed[7] == ACTION_UNREACHABLE,
        5270 => mark == 0 && table == ROUTE_TABLE,
        _ => false,
    };
    ours.then_some((family, priority))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_rules_are_recognised_again() {
        for (key, message) in wanted_rules() {
            assert_eq!(parse_own_rule(&message.payload), Some(key));
        }
    }

    #[test]
    fn own_routes_are_recognised_again() {
        for (text, index) in
            [("100.64.0.7/32", Some(9)), ("fd7a:115c:a1e0::/48", Some(9)), ("192.168.8.0/24", None)]
        {
            let route = Route { destination: text.parse().expect("a prefix"), interface_index: index };
            assert_eq!(parse_own_route(&route_message(RTM_NEWROUTE, route).payload), Some(route));
        }
    }

    #[test]
    fn parsers_survive_any_bytes() {
        arbtest::arbtest(|u| {
            let bytes: Vec<u8> = u.arbitrary()?;
            let _route = parse_own_route(&bytes);
            let _rule = parse_own_rule(&bytes);
            Ok(())
        });
    }
}

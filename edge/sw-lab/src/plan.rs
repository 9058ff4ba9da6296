//! From a topology to scripts: which namespaces, cables, addresses, routes and rules make it real.
//!
//! Pure: nothing here touches the machine. Addresses are of the documentation ranges, so they look global to
//! programs and exist nowhere: machines on the Internet in 198.51.100.0/24, routers in 203.0.113.0/24, the server in 10.66.0.0/24,
//! networks behind routers 192.168.N.0/24 (100.64.N.0/24 where another router hangs in it), IPv6 2001:db8:N::/48.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::nat::{NatBox, host_firewall_rules, loss_rules};
use crate::topology::{INTERNET, LinkQuality, MachineSpec, PortMapping, SiteSpec, Topology, Udp};

/// Room that plays the Internet.
pub(crate) const INTERNET_ROOM: &str = "internet";

/// The server's network. WHY a private one: official clients that were given a plain http URL come back to a public
/// address by TLS on port 443 alone (control.md §1.3), and a lab has no certificate authority.
const SERVER_BLOCK: [u8; 3] = [10, 66, 0];

/// TCP port of the UPnP responder of every router.
pub(crate) const UPNP_PORT: u16 = 5000;

/// Everything to build for one lab.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) rooms: Vec<Room>,
    pub(crate) cables: Vec<Cable>,
    pub(crate) machines: BTreeMap<String, MachinePlan>,
}

/// One namespace and what is configured in it.
#[derive(Debug, Default)]
pub(crate) struct Room {
    pub(crate) name: String,
    /// Lines for `ip -batch`, run in the room once all cables are plugged in.
    pub(crate) ip_lines: Vec<String>,
    /// One nft script, may be empty.
    pub(crate) nft: String,
    /// Whether it forwards packets.
    pub(crate) forwards: bool,
    pub(crate) responder: Option<Responder>,
}

/// The port mapping service of a router.
#[derive(Clone, Debug)]
pub(crate) struct Responder {
    pub(crate) outside: Ipv4Addr,
    pub(crate) inside: Ipv4Addr,
    pub(crate) protocols: Vec<PortMapping>,
}

/// A cable between two rooms.
#[derive(Clone, Debug)]
pub(crate) struct Cable {
    pub(crate) ends: [CableEnd; 2],
    pub(crate) quality: LinkQuality,
}

/// Where a cable is plugged in.
#[derive(Clone, Debug)]
pub(crate) struct CableEnd {
    pub(crate) room: String,
    pub(crate) interface: String,
}

/// A machine's places; the first is the one in use at the start.
#[derive(Clone, Debug, Default)]
pub(crate) struct MachinePlan {
    pub(crate) links: Vec<MachineLink>,
}

/// One place where a machine can be plugged in.
#[derive(Clone, Debug)]
pub(crate) struct MachineLink {
    pub(crate) place: String,
    pub(crate) interface: String,
    pub(crate) addresses: Vec<IpAddr>,
    /// Lines for `ip -batch` that bring the link up and make it the default route.
    pub(crate) up: Vec<String>,
}

/// The addresses of one end of a cable, and of the router at the other.
struct Leg {
    v4: Option<(Ipv4Addr, u8, Ipv4Addr)>,
    v6: Option<(Ipv6Addr, Ipv6Addr)>,
}

impl Leg {
    fn up_lines(&self, interface: &str) -> Vec<String> {
        let mut lines = vec![format!("link set {interface} up")];
        if let Some((own, bits, gateway)) = self.v4 {
            lines.push(format!("addr replace {own}/{bits} dev {interface}"));
            lines.push(format!("route replace default via {gateway} dev {interface}"));
        }
        if let Some((own, gateway)) = self.v6 {
            lines.push(format!("addr replace {own}/64 dev {interface} nodad"));
            lines.push(format!("route replace ::/0 via {gateway} dev {interface}"));
        }
        lines
    }

    fn addresses(&self) -> Vec<IpAddr> {
        let v4 = self.v4.map(|(own, ..)| IpAddr::V4(own));
        v4.into_iter().chain(self.v6.map(|(own, _)| IpAddr::V6(own))).collect()
    }
}

/// A router's own view: room, inside network, machines given an address so far.
struct SiteNet {
    room: usize,
    lan: [u8; 3],
    index: u16,
    ports: u8,
}

/// Builds the plan piece by piece.
struct Planner<'a> {
    topology: &'a Topology,
    plan: Plan,
    internet_ports: u16,
    public_legs: u8,
    server_legs: u8,
    site_legs: u8,
    sites: BTreeMap<String, SiteNet>,
}

impl Plan {
    /// Returns the plan of a validated topology.
    pub(crate) fn of(topology: &Topology) -> Self {
        let mut planner = Planner {
            topology,
            plan: Self::default(),
            internet_ports: 0,
            public_legs: 0,
            server_legs: 0,
            site_legs: 0,
            sites: BTreeMap::new(),
        };
        planner.plan.rooms.push(Room { name: INTERNET_ROOM.into(), forwards: true, ..Room::default() });
        // Outer routers first, so that the inner ones find their network.
        let (outer, inner): (Vec<_>, Vec<_>) = topology.site.iter().partition(|s| s.upstream.is_none());
        for site in outer.into_iter().chain(inner) {
            planner.add_site(site);
        }
        if let Some(server) = &topology.server {
            let mut spec = MachineSpec::new(&server.name, INTERNET, server.software);
            spec.ipv6 = server.ipv6;
            spec.link = server.link;
            planner.add_machine(&spec);
        }
        for machine in &topology.machine {
            planner.add_machine(machine);
        }
        planner.plan
    }

    /// Returns the addresses of a machine at its first place.
    pub(crate) fn addresses(&self, machine: &str) -> &[IpAddr] {
        self.machines.get(machine).and_then(|m| m.links.first()).map_or(&[], |l| l.addresses.as_slice())
    }
}

impl Planner<'_> {
    fn add_site(&mut self, site: &SiteSpec) {
        let room = self.plan.rooms.len();
        self.plan.rooms.push(Room { name: site.name.clone(), forwards: true, ..Room::default() });
        let (leg, index) = match &site.upstream {
            None => self.internet_leg(&site.name, "wan0", site.ipv6, true, site.link),
            Some(outer) => (self.site_leg(outer, &site.name, "wan0", (true, false), site.link), 0),
        };
        let number = u8::try_from(self.sites.len() + 1).unwrap_or(u8::MAX);
        let carries = self.topology.site.iter().any(|s| s.upstream.as_deref() == Some(site.name.as_str()));
        let lan = if carries { [100, 64, number] } else { [192, 168, number] };
        let [a, b, c] = lan;
        let outside = leg.v4.map_or(Ipv4Addr::UNSPECIFIED, |(own, ..)| own);
        let inside = Ipv4Addr::new(a, b, c, 1);
        let config = &mut self.plan.rooms[room];
        config.ip_lines.push("link add lan0 type bridge forward_delay 0".into());
        config.ip_lines.push(format!("addr add {inside}/24 dev lan0"));
        config.ip_lines.push("link set lan0 up".into());
        config.ip_lines.extend(leg.up_lines("wan0"));
        if site.ipv6 {
            config.ip_lines.push(format!("addr add {}/64 dev lan0 nodad", v6(index, 1, 1)));
        }
        config.nft = NatBox {
            nat: site.nat,
            outside,
            inside: Ipv4Addr::new(a, b, c, 10),
            udp_blocked: site.udp == Udp::Blocked,
            hairpin: site.hairpin,
            upnp_port: UPNP_PORT,
        }
        .rules();
        if !site.port_mapping.is_empty() {
            config.responder = Some(Responder { outside, inside, protocols: site.port_mapping.clone() });
        }
        self.sites.insert(site.name.clone(), SiteNet { room, lan, index, ports: 0 });
    }

    fn add_machine(&mut self, machine: &MachineSpec) {
        let room = self.plan.rooms.len();
        let nft = if machine.firewall { host_firewall_rules() } else { String::new() };
        self.plan.rooms.push(Room { name: machine.name.clone(), nft, ..Room::default() });
        let mut links = Vec::new();
        for (i, place) in machine.at.iter().enumerate() {
            let interface = format!("eth{i}");
            let leg = if place == INTERNET {
                self.internet_leg(&machine.name, &interface, machine.ipv6, machine.ipv4, machine.link).0
            } else {
                self.site_leg(place, &machine.name, &interface, (machine.ipv4, machine.ipv6), machine.link)
            };
            let up = leg.up_lines(&interface);
            links.push(MachineLink { place: place.clone(), interface, addresses: leg.addresses(), up });
        }
        if let Some(first) = links.first() {
            self.plan.rooms[room].ip_lines.extend(first.up.iter().cloned());
        }
        self.plan.machines.insert(machine.name.clone(), MachinePlan { links });
    }

    /// Plugs `interface` of `room` into the Internet; returns its addresses and the number of its IPv6 network.
    fn internet_leg(
        &mut self,
        room: &str,
        interface: &str,
        has_v6: bool,
        has_v4: bool,
        quality: LinkQuality,
    ) -> (Leg, u16) {
        self.internet_ports += 1;
        let index = self.internet_ports;
        let port = format!("p{index}");
        let is_site = interface == "wan0";
        let is_server = self.topology.server.as_ref().is_some_and(|s| s.name == room);
        let (block, used) = match (is_site, is_server) {
            (true, _) => ([203, 0, 113], &mut self.site_legs),
            (false, true) => (SERVER_BLOCK, &mut self.server_legs),
            (false, false) => ([198, 51, 100], &mut self.public_legs),
        };
        let base = *used * 4;
        *used += 1;
        let [a, b, c] = block;
        let v4 = has_v4.then(|| (Ipv4Addr::new(a, b, c, base + 2), 30, Ipv4Addr::new(a, b, c, base + 1)));
        let internet = &mut self.plan.rooms[0].ip_lines;
        internet.push(format!("link set {port} up"));
        if let Some((_, bits, gateway)) = v4 {
            internet.push(format!("addr add {gateway}/{bits} dev {port}"));
        }
        if has_v6 {
            internet.push(format!("addr add {}/64 dev {port} nodad", v6(index, 0, 1)));
            internet.push(format!("route add {}/64 via {} dev {port}", v6(index, 1, 0), v6(index, 0, 2)));
        }
        self.plug(INTERNET_ROOM, &port, room, interface, quality);
        (Leg { v4, v6: has_v6.then(|| (v6(index, 0, 2), v6(index, 0, 1))) }, index)
    }

    /// Plugs `interface` of `room` into a site's network, with (IPv4, IPv6) as told.
    fn site_leg(
        &mut self,
        site: &str,
        room: &str,
        interface: &str,
        families: (bool, bool),
        quality: LinkQuality,
    ) -> Leg {
        let Some(net) = self.sites.get_mut(site) else { return Leg { v4: None, v6: None } };
        let host = 10 + net.ports;
        net.ports += 1;
        let port = format!("m{}", net.ports);
        let [a, b, c] = net.lan;
        let leg = Leg {
            v4: families.0.then(|| (Ipv4Addr::new(a, b, c, host), 24, Ipv4Addr::new(a, b, c, 1))),
            v6: families.1.then(|| (v6(net.index, 1, u16::from(host)), v6(net.index, 1, 1))),
        };
        let lines = &mut self.plan.rooms[net.room].ip_lines;
        lines.push(format!("link set {port} master lan0"));
        lines.push(format!("link set {port} up"));
        self.plug(site, &port, room, interface, quality);
        leg
    }

    fn plug(&mut self, room_a: &str, port_a: &str, room_b: &str, port_b: &str, quality: LinkQuality) {
        let end =
            |room: &str, interface: &str| CableEnd { room: room.to_owned(), interface: interface.to_owned() };
        let ends = [end(room_a, port_a), end(room_b, port_b)];
        if quality.loss_percent > 0.0 {
            for CableEnd { room, interface } in &ends {
                if let Some(room) = self.plan.rooms.iter_mut().find(|r| r.name == *room) {
                    room.nft.push_str(&loss_rules(interface, quality.loss_percent));
                }
            }
        }
        self.plan.cables.push(Cable { ends, quality });
    }
}

/// Returns `2001:db8:INDEX:SUBNET::HOST`.
fn v6(index: u16, subnet: u16, host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, index, subnet, 0, 0, 0, host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::Nat;
    use crate::software::Software;
    use crate::topology::ServerSpec;

    fn two_homes() -> Topology {
        let mut flat = SiteSpec::new("flat", Nat::Hard);
        flat.upstream = Some("isp".into());
        let mut home = SiteSpec::new("home", Nat::Easy);
        home.ipv6 = true;
        home.link.loss_percent = 1.0;
        let mut alder = MachineSpec::new("alder", "home", Software::Samewire);
        alder.at.push("flat".into());
        let mut birch = MachineSpec::new("birch", "home", Software::Samewire);
        birch.ipv6 = true;
        Topology {
            name: "two".into(),
            server: Some(ServerSpec { ipv6: true, ..ServerSpec::new("hub", Software::Samewire) }),
            site: vec![flat, SiteSpec::new("isp", Nat::EasyAf), home],
            machine: vec![alder, birch],
        }
    }

    #[test]
    fn the_plan_of_two_homes() {
        insta::assert_debug_snapshot!(Plan::of(&two_homes()));
    }

    #[test]
    fn no_address_is_given_twice() {
        let plan = Plan::of(&two_homes());
        let lines = plan.rooms.iter().flat_map(|r| r.ip_lines.iter());
        let mut addresses: Vec<&str> =
            lines.filter_map(|l| l.strip_prefix("addr ")?.split(' ').nth(1)).collect();
        addresses.sort_unstable();
        let count = addresses.len();
        addresses.dedup();
        assert_eq!(addresses.len(), count);
    }
}

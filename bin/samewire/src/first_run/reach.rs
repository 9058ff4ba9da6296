//! How a first machine can be reached: a pure decision over what was found out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

/// What was found out about this machine and its router.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Addresses of this machine's links, loopback and tunnels left out.
    pub local: Vec<IpAddr>,
    /// Default router, when there is one.
    pub router: Option<IpAddr>,
    /// Outside address that the router mapped to our port, and by which protocol.
    pub mapped: Option<(SocketAddr, Via)>,
    /// A domain that the user gave, or an address as it stands in a URL.
    pub domain: Option<String>,
    /// The port that we listen on, and who holds 443 when it is not that.
    pub port: u16,
    pub port_443_holder: Option<String>,
}

/// The protocol by which a router maps ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Via {
    Pcp,
    NatPmp,
    Upnp,
}

impl Via {
    /// Its name.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pcp => "PCP",
            Self::NatPmp => "NAT-PMP",
            Self::Upnp => "UPnP",
        }
    }
}

/// Addresses that join strings and the relay map name, at most.
const CANDIDATES_MAX: usize = 6;

/// How, and at which address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reach {
    /// A domain that the user gave.
    Domain { name: String, port: u16 },
    /// A public address of this machine itself.
    Public { address: IpAddr, port: u16 },
    /// A router maps the port.
    Mapped { outside: SocketAddr, by: Via, lan: IpAddr },
    /// Only inside this LAN, behind a router that maps no ports.
    LanBehindRouter { address: IpAddr, port: u16, router: IpAddr },
    /// Only inside this LAN, and there is no router.
    Lan { address: IpAddr, port: u16 },
    /// This machine has no network at all.
    Nowhere { port: u16 },
}

impl Reach {
    /// Picks the best of what `facts` allow.
    pub fn decide(facts: &Facts) -> Self {
        let port = facts.port;
        if let Some(name) = &facts.domain {
            return Self::Domain { name: name.clone(), port };
        }
        let mut local = facts.local.clone();
        local.sort_by_key(|ip| ip.is_ipv6());
        if let Some(&address) = local.iter().find(|ip| is_public(**ip)) {
            return Self::Public { address, port };
        }
        let Some(&lan) = local.iter().find(|ip| is_private(**ip)) else {
            return Self::Nowhere { port };
        };
        match (&facts.mapped, facts.router) {
            (Some((outside, by)), _) if is_public(outside.ip()) => {
                Self::Mapped { outside: *outside, by: *by, lan }
            }
            (_, Some(router)) => Self::LanBehindRouter { address: lan, port, router },
            (_, None) => Self::Lan { address: lan, port },
        }
    }

    /// Hosts and ports for join strings and relay map, best first: the chosen one, then all further addresses of this
    /// machine.
    pub fn candidates(&self, facts: &Facts) -> Vec<(String, u16)> {
        let mut local: Vec<IpAddr> =
            facts.local.iter().copied().filter(|ip| is_public(*ip) || is_private(*ip)).collect();
        local.sort_by_key(|ip| (!is_public(*ip), ip.is_ipv6()));
        let mut all = vec![self.host_port()];
        for candidate in local.into_iter().map(|ip| (url_host(ip), facts.port)) {
            if !all.contains(&candidate) {
                all.push(candidate);
            }
        }
        all.truncate(CANDIDATES_MAX);
        all
    }

    /// Whether machines outside this LAN can get in.
    pub fn is_from_outside(&self) -> bool {
        matches!(self, Self::Domain { .. } | Self::Public { .. } | Self::Mapped { .. })
    }

    /// Whether clients need DNS to get in.
    pub fn is_by_name(&self) -> bool {
        matches!(self, Self::Domain { name, .. } if name.trim_matches(['[', ']']).parse::<IpAddr>().is_err())
    }

    /// The word of `reachable.how` in JSON.
    pub fn how(&self) -> &'static str {
        match self {
            Self::Domain { .. } => "domain",
            Self::Public { .. } => "public",
            Self::Mapped { .. } => "mapped",
            Self::LanBehindRouter { .. } | Self::Lan { .. } => "lan",
            Self::Nowhere { .. } => "none",
        }
    }

    /// Host and port as clients dial them.
    pub fn host_port(&self) -> (String, u16) {
        match self {
            Self::Domain { name, port } => (name.clone(), *port),
            Self::Public { address, port }
            | Self::Lan { address, port }
            | Self::LanBehindRouter { address, port, .. } => (url_host(*address), *port),
            Self::Mapped { outside, .. } => (url_host(outside.ip()), outside.port()),
            Self::Nowhere { port } => ("127.0.0.1".into(), *port),
        }
    }
}

/// An address as it stands in a URL.
pub fn url_host(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

/// Routable from the Internet; the ranges of documentation count as such, so that test networks behave like it.
pub fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !is_special_v4(ip) && !ip.is_private(),
        IpAddr::V6(ip) => is_global_v6(ip),
    }
}

fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private() || is_cgnat(ip),
        IpAddr::V6(ip) => ip.is_unique_local() && !is_tailnet_v6(ip),
    }
}

fn is_special_v4(ip: Ipv4Addr) -> bool {
    ip.is_loopback()
        || ip.is_link_local()
        || ip.is_multicast()
        || ip.is_unspecified()
        || ip.is_broadcast()
        || is_cgnat(ip)
}

/// 100.64.0.0/10: a provider's NAT, or a tailnet.
fn is_cgnat(ip: Ipv4Addr) -> bool {
    ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64
}

fn is_global_v6(ip: Ipv6Addr) -> bool {
    ip.segments()[0] & 0xe000 == 0x2000
}

fn is_tailnet_v6(ip: Ipv6Addr) -> bool {
    ip.segments()[..3] == [0xfd7a, 0x115c, 0xa1e0]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(local: &[&str]) -> Facts {
        let local = local.iter().map(|ip| ip.parse().expect("an address")).collect();
        Facts { local, port: 443, ..Facts::default() }
    }

    #[test]
    fn a_public_address_wins_over_the_lan() {
        let reach = Reach::decide(&facts(&["192.168.8.10", "203.0.113.7"]));
        assert_eq!(reach, Reach::Public { address: "203.0.113.7".parse().expect("an address"), port: 443 });
        assert!(reach.is_from_outside());
    }

    #[test]
    fn a_mapping_is_used_and_the_lan_address_stays_a_candidate() {
        let mapped = Some(("198.51.100.14:443".parse().expect("an address"), Via::Pcp));
        let router = Some("192.168.8.1".parse().expect("an address"));
        let facts = Facts { mapped, router, ..facts(&["192.168.8.10"]) };
        let reach = Reach::decide(&facts);
        assert_eq!(reach.how(), "mapped");
        let wanted = [("198.51.100.14".to_owned(), 443), ("192.168.8.10".to_owned(), 443)];
        assert_eq!(reach.candidates(&facts), wanted);
    }

    #[test]
    fn a_mapping_behind_a_second_nat_does_not_count() {
        let mapped = Some(("100.70.1.1:443".parse().expect("an address"), Via::Upnp));
        let router = Some("192.168.8.1".parse().expect("an address"));
        let reach = Reach::decide(&Facts { mapped, router, ..facts(&["192.168.8.10"]) });
        assert!(matches!(reach, Reach::LanBehindRouter { .. }) && !reach.is_from_outside());
    }

    #[test]
    fn without_router_or_network_it_says_so() {
        assert_eq!(Reach::decide(&facts(&["192.168.8.10"])).how(), "lan");
        assert_eq!(Reach::decide(&facts(&[])), Reach::Nowhere { port: 443 });
        assert_eq!(
            Reach::decide(&facts(&["100.84.12.2", "fe80::1"])).how(),
            "lan",
            "CGNAT is private ground"
        );
    }

    #[test]
    fn global_ipv6_alone_is_reachable() {
        let reach = Reach::decide(&facts(&["192.168.8.10", "2001:db8::7"]));
        assert_eq!(reach.host_port(), ("[2001:db8::7]".into(), 443));
    }
}

//! What the machine shall look like, worked out from the network and the user's preferences: addresses and routes,
//! name resolution, peers, filter. Pure functions; the edge brings it about.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use sw_tailcfg::{FilterRule, Node, Resolver as DnsServer};
use sw_types::local::Prefs;
use sw_types::{
    CapVer, DiscoKey, NodeId, NodeKey, RegionId, SERVICE_IPV4, SERVICE_IPV6, StableNodeId, UnixTime,
};

use crate::netmap::Netmap;
use crate::resolve::{ResolverConfig, Upstream};

/// MTU inside the network (node-services.md §10.1).
pub const MTU: u32 = 1280;
/// The peer API's DNS proxy exists from this feature level on.
const CAP_DNS_PROXY: CapVer = CapVer(26);
/// Self attribute: MagicDNS answers AAAA too.
const ATTR_AAAA: &str = "magicdns-aaaa";
/// Self or peer attribute: names below the host's resolve to the host.
const ATTR_SUBDOMAINS: &str = "dns-subdomain-resolve";
/// Self attribute: the machine is told only the IPv4 address of the resolver.
const ATTR_RESOLVER_V4_ONLY: &str = "force-register-magicdns-ipv4-only";
/// Reverse zone of the IPv6 node range.
const REVERSE_ZONE_V6: &str = "0.e.1.a.c.5.1.1.a.7.d.f.ip6.arpa";

/// Addresses, routes and name resolution of the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MachineConfig {
    pub addresses: BTreeSet<IpNet>,
    pub routes: BTreeSet<IpNet>,
    pub throw_routes: BTreeSet<IpNet>,
    /// Set on a machine that offers routes to others.
    pub forwarding: Option<Forwarding>,
    pub dns: MachineDns,
}

/// How a subnet router or exit node passes packets of the network on (node-services.md §10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarding {
    /// They leave with this machine's own address, so that the machines behind need no route back.
    Masqueraded,
    /// They keep the address of the sender (`--snat-subnet-routes=false`).
    Unchanged,
}

/// What the machine's own resolver settings shall say. Names without a final dot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MachineDns {
    pub nameservers: Vec<IpAddr>,
    pub search_domains: Vec<String>,
    pub match_domains: Vec<String>,
}

/// What this machine's resolver settings can do, and what they were.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsFacts {
    /// Only some suffixes can be sent to us.
    pub can_split: bool,
    pub base_nameservers: Vec<IpAddr>,
    pub base_search_domains: Vec<String>,
}

/// One peer as data plane and path choice need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    pub id: NodeId,
    pub key: NodeKey,
    pub disco: Option<DiscoKey>,
    pub endpoints: Vec<SocketAddr>,
    pub home: Option<RegionId>,
    pub cap: CapVer,
    /// What it may send from, and what is sent to it.
    pub allowed_ips: Vec<IpNet>,
    /// May not open connections to us.
    pub is_jailed: bool,
    pub is_wireguard_only: bool,
    /// The addresses under which this peer knows us.
    pub masquerade_v4: Option<Ipv4Addr>,
    pub masquerade_v6: Option<Ipv6Addr>,
}

/// What may come in.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FilterConfig {
    pub rules: Vec<FilterRule>,
    /// Destinations that are ours.
    pub local_nets: Vec<IpNet>,
    /// Answers only.
    pub shields_up: bool,
    /// Addresses of the peers with each node capability that a rule names as its source (`cap:NAME`).
    pub holders: BTreeMap<String, Vec<IpNet>>,
}

/// The exit node that the preferences name, if it is in the network.
pub fn exit_node<'a>(netmap: &'a Netmap, prefs: &Prefs) -> Option<&'a Node> {
    let by_id = || {
        let wanted = StableNodeId(prefs.exit_node_id.clone());
        netmap.peers().find(|node| node.stable_id == wanted).map(AsRef::as_ref)
    };
    if !prefs.exit_node_id.is_empty() {
        return by_id();
    }
    let address: IpAddr = prefs.exit_node_ip.parse().ok()?;
    netmap.node_by_address(address).map(AsRef::as_ref)
}

/// Whether an exit node is wanted, there or not.
pub fn wants_exit_node(prefs: &Prefs) -> bool {
    !prefs.exit_node_id.is_empty() || !prefs.exit_node_ip.is_empty()
}

/// Whether a node offers to carry Internet traffic.
pub fn offers_exit_node(node: &Node) -> bool {
    let allowed = node.effective_allowed_ips();
    let has_default =
        |is_v4: bool| allowed.iter().any(|net| net.prefix_len() == 0 && net.addr().is_ipv4() == is_v4);
    has_default(true) && has_default(false)
}

/// What a peer may send from and what is sent to it: its own addresses always, subnets if they are accepted, the
/// rest of the world if it is the exit node.
pub fn allowed_ips(netmap: &Netmap, node: &Node, prefs: &Prefs) -> Vec<IpNet> {
    if node.unsigned_peer_api_only {
        return node.addresses.clone();
    }
    let is_exit = exit_node(netmap, prefs).is_some_and(|exit| exit.id == node.id);
    node.effective_allowed_ips()
        .iter()
        .filter(|net| {
            let is_own = node.addresses.contains(net);
            let is_default = net.prefix_len() == 0;
            is_own || (is_default && is_exit) || (!is_default && prefs.route_all)
        })
        .copied()
        .collect()
}

/// One peer's settings; `None` if its key has expired, so that nothing is exchanged with it.
pub fn peer_config(netmap: &Netmap, node: &Node, prefs: &Prefs, now: UnixTime) -> Option<PeerConfig> {
    if netmap.is_expired(node, now) || node.key.is_zero() {
        return None;
    }
    Some(PeerConfig {
        id: node.id,
        key: node.key,
        disco: (!node.disco_key.is_zero() && !node.is_wire_guard_only).then_some(node.disco_key),
        endpoints: node.endpoints.clone(),
        home: node.home_region(),
        cap: node.cap,
        allowed_ips: allowed_ips(netmap, node, prefs),
        is_jailed: node.is_jailed,
        is_wireguard_only: node.is_wire_guard_only,
        masquerade_v4: node.self_node_v4_masq_addr_for_this_peer,
        masquerade_v6: node.self_node_v6_masq_addr_for_this_peer,
    })
}

/// The packet filter.
pub fn filter_config(netmap: &Netmap, prefs: &Prefs) -> FilterConfig {
    let routes = prefs.advertise_routes.as_deref().unwrap_or_default();
    let rules = netmap.filter_rules();
    FilterConfig {
        holders: holders(netmap, &rules),
        rules,
        local_nets: netmap.self_node.addresses.iter().chain(routes).copied().collect(),
        shields_up: prefs.shields_up,
    }
}

fn forwarding(prefs: &Prefs) -> Option<Forwarding> {
    let has_routes = prefs.advertise_routes.as_ref().is_some_and(|routes| !routes.is_empty());
    let forwarding = if prefs.no_snat { Forwarding::Unchanged } else { Forwarding::Masqueraded };
    has_routes.then_some(forwarding)
}

/// Who holds the capabilities that rules name; most networks have no such rule.
fn holders(netmap: &Netmap, rules: &[FilterRule]) -> BTreeMap<String, Vec<IpNet>> {
    let named = rules.iter().flat_map(|rule| &rule.src_ips).filter_map(|source| source.strip_prefix("cap:"));
    named
        .map(|name| {
            let peers = netmap.peers().filter(|peer| peer.cap_map.contains_key(name));
            (name.to_owned(), peers.flat_map(|peer| peer.addresses.iter().copied()).collect())
        })
        .collect()
}

/// Addresses, routes and name resolution, and what the node's own resolver does. `lan` are the prefixes of the
/// machine's other interfaces.
pub fn machine_plan(
    netmap: &Netmap,
    prefs: &Prefs,
    facts: &DnsFacts,
    lan: &[IpNet],
    now: UnixTime,
) -> (MachineConfig, ResolverConfig) {
    let mut config = MachineConfig {
        addresses: netmap.self_node.addresses.iter().copied().collect(),
        forwarding: forwarding(prefs),
        ..MachineConfig::default()
    };
    for node in netmap.peers() {
        if !netmap.is_expired(node, now) {
            config.routes.extend(allowed_ips(netmap, node, prefs));
        }
    }
    config.routes.insert(IpNet::from(IpAddr::V4(SERVICE_IPV4)));
    config.routes.insert(IpNet::from(IpAddr::V6(SERVICE_IPV6)));
    if wants_exit_node(prefs) {
        // Also when the exit node is away: blocked, not leaked (node-services.md §10.4).
        for default in [IpNet::from_zero_v4(), IpNet::from_zero_v6()] {
            config.routes.insert(default);
        }
        let local = lan.iter().filter(|net| net.prefix_len() < net.max_prefix_len());
        if prefs.exit_node_allow_lan_access {
            config.throw_routes.extend(local.map(IpNet::trunc));
        } else {
            config.routes.extend(local.map(IpNet::trunc));
        }
    }
    for own in &config.addresses {
        config.routes.remove(own);
    }
    let (resolver, dns) = dns_plan(netmap, prefs, facts);
    config.dns = dns;
    (config, resolver)
}

/// The default routes as prefixes.
trait ZeroNet {
    fn from_zero_v4() -> Self;
    fn from_zero_v6() -> Self;
}

impl ZeroNet for IpNet {
    fn from_zero_v4() -> Self {
        Self::new_assert(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0)
    }

    fn from_zero_v6() -> Self {
        Self::new_assert(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0)
    }
}

/// The node's resolver and the machine's settings (node-services.md §2.1, §2.2).
pub fn dns_plan(netmap: &Netmap, prefs: &Prefs, facts: &DnsFacts) -> (ResolverConfig, MachineDns) {
    let mut resolver = ResolverConfig { hosts: hosts(netmap), ..ResolverConfig::default() };
    resolver.wildcard_hosts = wildcard_hosts(netmap);
    if !prefs.corp_dns {
        return (resolver, MachineDns::default());
    }
    let dns = &netmap.dns;
    let search_domains: Vec<String> = dns.domains.iter().map(|domain| plain_name(domain)).collect();
    let suffix = netmap.magic_dns_suffix().to_ascii_lowercase();
    if dns.proxied && !suffix.is_empty() {
        resolver.local_domains = local_zones(&suffix);
        resolver.suffix = Some(suffix);
    }
    let mut defaults = upstreams(&dns.resolvers);
    if let Some(exit) = exit_node(netmap, prefs).filter(|exit| has_dns_proxy(exit)) {
        let kept: Vec<_> = dns.resolvers.iter().filter(|server| server.use_with_exit_node).cloned().collect();
        defaults =
            if kept.is_empty() { peer_api_dns(netmap, exit).into_iter().collect() } else { upstreams(&kept) };
    } else if defaults.is_empty() && wants_exit_node(prefs) {
        defaults = upstreams(&dns.fallback_resolvers);
    }
    for (domain, servers) in &dns.routes {
        let domain = plain_name(domain);
        if servers.is_empty() {
            resolver.local_domains.insert(domain);
        } else {
            resolver.routes.insert(domain, upstreams(servers));
        }
    }
    for record in &dns.extra_records {
        let name = plain_name(&record.name);
        let is_covered = |zones: &BTreeSet<String>| {
            zones.iter().any(|zone| name == *zone || name.ends_with(&format!(".{zone}")))
        };
        if resolver.hosts.contains_key(name.as_str()) && !is_covered(&resolver.local_domains) {
            resolver.local_domains.insert(name);
        }
    }
    let machine = compile_for_machine(netmap, &mut resolver, defaults, search_domains, facts);
    (resolver, machine)
}

/// The table of node-services.md §2.2.
fn compile_for_machine(
    netmap: &Netmap,
    resolver: &mut ResolverConfig,
    defaults: Vec<Upstream>,
    search_domains: Vec<String>,
    facts: &DnsFacts,
) -> MachineDns {
    let has_routes = !resolver.routes.is_empty() || !resolver.local_domains.is_empty();
    let plain: Option<Vec<IpAddr>> = defaults
        .iter()
        .map(|upstream| match upstream {
            Upstream::Plain(address) if address.port() == 53 => Some(address.ip()),
            Upstream::Plain(_) | Upstream::Http(_) => None,
        })
        .collect();
    match (defaults.is_empty(), has_routes) {
        (true, false) => return MachineDns { search_domains, ..MachineDns::default() },
        (false, false) => {
            if let Some(nameservers) = plain {
                return MachineDns { nameservers, search_domains, match_domains: Vec::new() };
            }
        }
        (_, true) => {}
    }
    let mut machine =
        MachineDns { nameservers: service_addresses(netmap), search_domains, match_domains: Vec::new() };
    if !defaults.is_empty() {
        resolver.default_upstreams = defaults;
    } else if facts.can_split {
        let zones = resolver.routes.keys().chain(&resolver.local_domains);
        machine.match_domains = zones.cloned().collect::<BTreeSet<_>>().into_iter().collect();
    } else {
        // Everything comes to us, so the machine's own resolvers answer what is not ours.
        resolver.default_upstreams =
            facts.base_nameservers.iter().map(|ip| Upstream::Plain(SocketAddr::new(*ip, 53))).collect();
        for domain in &facts.base_search_domains {
            if !machine.search_domains.contains(domain) {
                machine.search_domains.push(domain.clone());
            }
        }
    }
    machine
}

fn hosts(netmap: &Netmap) -> BTreeMap<Arc<str>, Vec<IpAddr>> {
    let mut hosts = BTreeMap::new();
    let own = &netmap.self_node;
    let own_has_v4 = own.addresses.iter().any(|net| net.addr().is_ipv4());
    let wants_v6 = own.has_cap(ATTR_AAAA);
    for node in netmap.peers().chain(std::iter::once(own)) {
        let has_v4 = node.addresses.iter().any(|net| net.addr().is_ipv4());
        let addresses: Vec<IpAddr> = node
            .addresses
            .iter()
            .map(IpNet::addr)
            .filter(|address| match address {
                IpAddr::V4(_) => own_has_v4,
                IpAddr::V6(_) => !has_v4 || wants_v6 || !own_has_v4,
            })
            .collect();
        hosts.insert(plain_name(&node.name).into(), addresses);
    }
    // Extra records win over names of machines.
    let mut extra: BTreeMap<Arc<str>, Vec<IpAddr>> = BTreeMap::new();
    for record in &netmap.dns.extra_records {
        let is_address = matches!(record.r#type.as_str(), "" | "A" | "AAAA");
        if let (true, Ok(address)) = (is_address, record.value.parse()) {
            extra.entry(plain_name(&record.name).into()).or_default().push(address);
        }
    }
    hosts.extend(extra);
    hosts
}

fn wildcard_hosts(netmap: &Netmap) -> BTreeSet<String> {
    let all = netmap.peers().chain(std::iter::once(&netmap.self_node));
    all.filter(|node| node.has_cap(ATTR_SUBDOMAINS)).map(|node| plain_name(&node.name)).collect()
}

fn local_zones(suffix: &str) -> BTreeSet<String> {
    let reverse_v4 = (64..128).map(|second| format!("{second}.100.in-addr.arpa"));
    reverse_v4.chain([REVERSE_ZONE_V6.to_owned(), suffix.to_owned()]).collect()
}

fn service_addresses(netmap: &Netmap) -> Vec<IpAddr> {
    let own = &netmap.self_node;
    let has = |is_v4: bool| own.addresses.iter().any(|net| net.addr().is_ipv4() == is_v4);
    let v4_only = own.has_cap(ATTR_RESOLVER_V4_ONLY);
    let v4 = has(true).then_some(IpAddr::V4(SERVICE_IPV4));
    let v6 = (has(false) && !(v4_only && has(true))).then_some(IpAddr::V6(SERVICE_IPV6));
    v4.into_iter().chain(v6).collect()
}

fn has_dns_proxy(exit: &Node) -> bool {
    let services = exit.hostinfo.iter().flat_map(|info| &info.services);
    exit.cap >= CAP_DNS_PROXY
        || services.into_iter().any(|service| service.proto == "peerapi-dns-proxy" && service.port >= 1)
}

fn peer_api_dns(netmap: &Netmap, exit: &Node) -> Option<Upstream> {
    let base = peer_api_url(netmap, exit)?;
    Some(Upstream::Http(format!("{base}/dns-query")))
}

/// The base URL of a peer's API (node-services.md §3.1).
pub fn peer_api_url(netmap: &Netmap, node: &Node) -> Option<String> {
    let services = &node.hostinfo.as_ref()?.services;
    let port =
        |proto: &str| services.iter().find(|service| service.proto == proto).map(|service| service.port);
    let address =
        |is_v4: bool| node.addresses.iter().map(IpNet::addr).find(|address| address.is_ipv4() == is_v4);
    let own_has_v4 = netmap.self_node.addresses.iter().any(|net| net.addr().is_ipv4());
    if let (true, Some(port), Some(address)) = (own_has_v4, port("peerapi4"), address(true)) {
        return Some(format!("http://{address}:{port}"));
    }
    let (port, address) = (port("peerapi6")?, address(false)?);
    Some(format!("http://[{address}]:{port}"))
}

fn upstreams(servers: &[DnsServer]) -> Vec<Upstream> {
    servers
        .iter()
        .filter_map(|server| {
            if server.addr.starts_with("http://") || server.addr.starts_with("https://") {
                return Some(Upstream::Http(server.addr.clone()));
            }
            let address =
                server.addr.parse().or_else(|_| server.addr.parse().map(|ip| SocketAddr::new(ip, 53)));
            address.ok().map(Upstream::Plain)
        })
        .collect()
}

fn plain_name(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use sw_tailcfg::{DnsConfig, MapResponse};

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().expect("a prefix")
    }

    fn node(id: i64, allowed: &[&str]) -> Node {
        let own = net(&format!("100.64.0.{id}/32"));
        Node {
            id: NodeId(id),
            stable_id: StableNodeId(format!("n{id}")),
            name: format!("n{id}.Home.internal."),
            key: NodeKey::from([u8::try_from(id).expect("small"); 32]),
            addresses: vec![own],
            allowed_ips: Some(std::iter::once(own).chain(allowed.iter().map(|text| net(text))).collect()),
            ..Node::default()
        }
    }

    fn netmap(dns: DnsConfig) -> Netmap {
        let message = MapResponse {
            node: Some(Box::new(node(1, &[]))),
            peers: vec![node(2, &["10.9.0.0/16"]).into(), node(3, &["0.0.0.0/0", "::/0"]).into()],
            dns_config: Some(dns),
            ..MapResponse::default()
        };
        Netmap::from_first(message, None, UnixTime::EPOCH).expect("has a node").0
    }

    fn routes(prefs: &Prefs) -> BTreeSet<IpNet> {
        let netmap = netmap(DnsConfig::default());
        machine_plan(&netmap, prefs, &DnsFacts::default(), &[net("192.168.8.7/24")], UnixTime::EPOCH).0.routes
    }

    #[test]
    fn subnets_are_routed_only_when_accepted() {
        assert!(!routes(&Prefs::default()).contains(&net("10.9.0.0/16")));
        let accepting = Prefs { route_all: true, ..Prefs::default() };
        let accepted = routes(&accepting);
        assert!(accepted.contains(&net("10.9.0.0/16")) && !accepted.contains(&net("0.0.0.0/0")));
    }

    #[test]
    fn an_exit_node_that_is_away_blocks_and_does_not_leak() {
        let prefs = Prefs { exit_node_id: "gone".to_owned(), ..Prefs::default() };
        assert!(routes(&prefs).contains(&net("0.0.0.0/0")));
        let map = netmap(DnsConfig::default());
        for peer in map.peers() {
            assert!(allowed_ips(&map, peer, &prefs).iter().all(|allowed| allowed.prefix_len() != 0));
        }
    }

    #[test]
    fn the_lan_stays_reachable_only_if_allowed() {
        let blocked = Prefs { exit_node_id: "n3".to_owned(), ..Prefs::default() };
        assert!(routes(&blocked).contains(&net("192.168.8.0/24")));
        let allowed = Prefs { exit_node_allow_lan_access: true, ..blocked };
        assert!(!routes(&allowed).contains(&net("192.168.8.0/24")));
    }

    #[test]
    fn expired_peers_are_not_configured() {
        let map = netmap(DnsConfig::default());
        let now = UnixTime::from_secs(1_800_000_000);
        let peer = Node { key_expiry: Some(UnixTime::from_secs(1)), ..node(2, &[]) };
        assert_eq!(peer_config(&map, &peer, &Prefs::default(), now), None);
    }

    fn magic_dns() -> DnsConfig {
        DnsConfig { proxied: true, domains: vec!["home.internal".to_owned()], ..DnsConfig::default() }
    }

    #[test]
    fn with_split_dns_only_our_zones_come_to_us() {
        let facts = DnsFacts { can_split: true, ..DnsFacts::default() };
        let (resolver, machine) = dns_plan(&netmap(magic_dns()), &Prefs::default(), &facts);
        assert!(machine.match_domains.contains(&"home.internal".to_owned()));
        assert!(resolver.default_upstreams.is_empty());
        assert_eq!(resolver.hosts["n2.home.internal"], ["100.64.0.2".parse::<IpAddr>().expect("an address")]);
    }

    #[test]
    fn without_split_dns_the_old_resolvers_answer_the_rest() {
        let facts = DnsFacts {
            can_split: false,
            base_nameservers: vec!["192.0.2.53".parse().expect("an address")],
            base_search_domains: vec!["lan".to_owned()],
        };
        let (resolver, machine) = dns_plan(&netmap(magic_dns()), &Prefs::default(), &facts);
        assert_eq!(machine.search_domains, ["home.internal", "lan"]);
        assert_eq!(machine.nameservers, [IpAddr::V4(SERVICE_IPV4)]);
        assert_eq!(
            resolver.default_upstreams,
            [Upstream::Plain("192.0.2.53:53".parse().expect("an address"))]
        );
    }

    #[test]
    fn plain_resolvers_alone_are_given_to_the_machine() {
        let server = DnsServer { addr: "9.9.9.9".to_owned(), ..DnsServer::default() };
        let dns = DnsConfig { resolvers: vec![server], ..DnsConfig::default() };
        let (_, machine) = dns_plan(&netmap(dns), &Prefs::default(), &DnsFacts::default());
        assert_eq!(machine.nameservers, ["9.9.9.9".parse::<IpAddr>().expect("an address")]);
    }

    #[test]
    fn dns_that_is_not_accepted_changes_nothing() {
        let prefs = Prefs { corp_dns: false, ..Prefs::default() };
        let (resolver, machine) = dns_plan(&netmap(magic_dns()), &prefs, &DnsFacts::default());
        assert_eq!(machine, MachineDns::default());
        assert!(resolver.hosts.contains_key("n2.home.internal"), "the service address answers if asked");
    }
}

//! MagicDNS: what the node's own resolver answers itself, and whom it asks for the rest (node-services.md §2).

mod message;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use sw_types::{SERVICE_IPV4, SERVICE_IPV6, six_to_four};

use self::message::{
    Question, Rcode, Record, TYPE_A, TYPE_AAAA, TYPE_ANY, TYPE_AXFR, TYPE_HINFO, TYPE_NS, TYPE_PTR, TYPE_SOA,
};

/// The name of the service addresses.
const SERVICE_NAME: &str = "magicdns.localhost-tailscale-daemon";
/// Names under which devices look for DNS-SD domains; never forwarded.
const BROWSE_LABELS: [&str; 5] = ["b", "db", "r", "dr", "lb"];

/// A resolver that is asked over the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upstream {
    /// Plain DNS over UDP and TCP.
    Plain(SocketAddr),
    /// DNS over HTTPS, or over HTTP to a peer inside the network.
    Http(String),
}

/// Everything the resolver knows. Names are in lower case without a final dot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolverConfig {
    /// The network's suffix, by which single labels are completed; `None` while MagicDNS is off.
    pub suffix: Option<String>,
    /// Addresses of machines and extra records. The names are shared with the reverse look-up.
    pub hosts: BTreeMap<Arc<str>, Vec<IpAddr>>,
    /// Hosts that answer for every name below them too.
    pub wildcard_hosts: BTreeSet<String>,
    /// Suffixes that are answered here or not at all.
    pub local_domains: BTreeSet<String>,
    /// Suffixes and who answers for them.
    pub routes: BTreeMap<String, Vec<Upstream>>,
    /// Who is asked for everything else.
    pub default_upstreams: Vec<Upstream>,
}

/// What to do with a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Send this back.
    Reply(Vec<u8>),
    /// Ask these, all at once, and send back the first good answer.
    Forward(Vec<Upstream>),
    /// Say nothing.
    Silence,
}

/// Answers queries from a fixed configuration.
#[derive(Clone, Debug, Default)]
pub struct Resolver {
    config: Arc<ResolverConfig>,
    /// Address to name, for PTR.
    names: BTreeMap<IpAddr, Arc<str>>,
}

impl Resolver {
    /// Prepares the reverse look-up.
    pub fn new(config: impl Into<Arc<ResolverConfig>>) -> Self {
        let config = config.into();
        let mut names = BTreeMap::new();
        for (name, addresses) in &config.hosts {
            for address in addresses {
                names.entry(*address).or_insert_with(|| Arc::clone(name));
            }
        }
        Self { config, names }
    }

    /// Returns the configuration.
    pub fn config(&self) -> &ResolverConfig {
        &self.config
    }

    /// Returns the addresses of a name in any spelling a user may type: `birch`, `birch.home.internal.`.
    pub fn lookup(&self, name: &str) -> Option<&[IpAddr]> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        self.host(&name).map(Vec::as_slice)
    }

    /// Decides on one query; `serial` is the unix time, for negative answers.
    pub fn answer(&self, query: &[u8], serial: u32) -> Answer {
        let Some(question) = message::parse(query) else {
            return message::reply_without_question(query, Rcode::FormErr)
                .map_or(Answer::Silence, Answer::Reply);
        };
        self.answer_question(&question, serial)
    }

    /// Answers that no upstream could be asked.
    pub fn failure(query: &[u8]) -> Option<Vec<u8>> {
        match message::parse(query) {
            Some(question) => Some(message::reply(&question, Rcode::ServFail, &[], None, 0)),
            None => message::reply_without_question(query, Rcode::ServFail),
        }
    }

    /// Makes a reply fit for UDP: over the asker's size it is cut at the question, with TC set.
    pub fn fit_udp(query: &[u8], mut reply: Vec<u8>) -> Vec<u8> {
        let limit =
            message::parse(query).map_or(message::UDP_BYTES_DEFAULT, |question| question.udp_bytes_max);
        if reply.len() > usize::from(limit)
            && let Some(flags) = reply.get_mut(2)
        {
            *flags |= 0x02;
        }
        reply
    }

    /// The order of tests is that of node-services.md §2.3.
    fn answer_question(&self, question: &Question<'_>, serial: u32) -> Answer {
        let name = question.name.as_str();
        let reply = |rcode, records: &[Record], zone: Option<&str>| {
            Answer::Reply(message::reply(question, rcode, records, zone, serial))
        };
        if question.kind == TYPE_PTR {
            return self.answer_pointer(question, serial);
        }
        if is_within(name, "onion") {
            return reply(Rcode::NxDomain, &[], None);
        }
        if name == SERVICE_NAME {
            let addresses = [SERVICE_IPV4.into(), SERVICE_IPV6.into()];
            return self.answer_host(question, &addresses, serial);
        }
        if matches!(question.kind, TYPE_A | TYPE_AAAA | TYPE_ANY)
            && let Some(address) = self.via_address(name)
        {
            let records = [Record::Address(address.into())];
            return reply(Rcode::NoError, if question.kind == TYPE_A { &[] } else { &records }, None);
        }
        if let Some(addresses) = self.host(name) {
            return self.answer_host(question, addresses, serial);
        }
        let wildcard = ancestors(name).find(|ancestor| self.config.wildcard_hosts.contains(*ancestor));
        if let Some(addresses) = wildcard.and_then(|ancestor| self.config.hosts.get(ancestor)) {
            return self.answer_host(question, addresses, serial);
        }
        if let Some(zone) = self.local_zone(name) {
            return reply(Rcode::NxDomain, &[], Some(zone));
        }
        self.forward(question, serial)
    }

    fn host(&self, name: &str) -> Option<&Vec<IpAddr>> {
        self.config.hosts.get(name).or_else(|| {
            let suffix = self.config.suffix.as_deref()?;
            (!name.contains('.') && !name.is_empty())
                .then(|| self.config.hosts.get(format!("{name}.{suffix}").as_str()))?
        })
    }

    fn local_zone(&self, name: &str) -> Option<&str> {
        ancestors(name).find_map(|ancestor| self.config.local_domains.get(ancestor)).map(String::as_str)
    }

    /// Answers for a known host (node-services.md §2.4).
    fn answer_host(&self, question: &Question<'_>, addresses: &[IpAddr], serial: u32) -> Answer {
        let wanted = match question.kind {
            TYPE_A => addresses.iter().find(|address| address.is_ipv4()),
            TYPE_AAAA => addresses.iter().find(|address| address.is_ipv6()),
            TYPE_ANY => addresses.first(),
            TYPE_NS | TYPE_SOA | TYPE_AXFR | TYPE_HINFO => {
                return Answer::Reply(message::reply(question, Rcode::NotImp, &[], None, serial));
            }
            _ => return Answer::Reply(message::reply(question, Rcode::NoError, &[], None, serial)),
        };
        let records: Vec<Record> = wanted.map(|address| Record::Address(*address)).into_iter().collect();
        let zone = if records.is_empty() { self.local_zone(&question.name) } else { None };
        Answer::Reply(message::reply(question, Rcode::NoError, &records, zone, serial))
    }

    /// Answers reverse look-ups (node-services.md §2.5).
    fn answer_pointer(&self, question: &Question<'_>, serial: u32) -> Answer {
        let name = question.name.as_str();
        let is_browse = name
            .split_once('.')
            .is_some_and(|(label, rest)| BROWSE_LABELS.contains(&label) && rest.starts_with("_dns-sd._udp."));
        if is_browse {
            return Answer::Reply(message::reply(question, Rcode::NxDomain, &[], None, serial));
        }
        if let Some(address) = parse_reverse(name) {
            let is_service = address == IpAddr::from(SERVICE_IPV4) || address == IpAddr::from(SERVICE_IPV6);
            let twin = match address {
                IpAddr::V6(v6) => six_to_four(v6).map(IpAddr::V4),
                IpAddr::V4(_) => None,
            };
            let found = if is_service {
                Some(SERVICE_NAME.to_owned())
            } else {
                twin.and_then(|twin| self.names.get(&twin))
                    .or_else(|| self.names.get(&address))
                    .map(|name| name.to_string())
            };
            if let Some(found) = found {
                return Answer::Reply(message::reply(
                    question,
                    Rcode::NoError,
                    &[Record::Pointer(found)],
                    None,
                    serial,
                ));
            }
        }
        match self.local_zone(name) {
            Some(zone) => Answer::Reply(message::reply(question, Rcode::NxDomain, &[], Some(zone), serial)),
            None => self.forward(question, serial),
        }
    }

    /// The longest matching suffix decides (node-services.md §2.6).
    fn forward(&self, question: &Question<'_>, serial: u32) -> Answer {
        let route = ancestors(&question.name).find_map(|ancestor| self.config.routes.get(ancestor));
        let upstreams = route.unwrap_or(&self.config.default_upstreams);
        if upstreams.is_empty() {
            return Answer::Reply(message::reply(question, Rcode::ServFail, &[], None, serial));
        }
        Answer::Forward(upstreams.clone())
    }

    /// Names like `10-1-2-3-via-7` (node-services.md §2.7).
    fn via_address(&self, name: &str) -> Option<Ipv6Addr> {
        let (label, rest) = name.split_once('.').unwrap_or((name, ""));
        let is_allowed = rest.is_empty()
            || is_within(rest, "ts.net")
            || is_within(rest, "tailscale.net")
            || self.config.suffix.as_deref().is_some_and(|suffix| rest == suffix);
        let (address, site) = label.split_once("-via-")?;
        if !is_allowed {
            return None;
        }
        let address: Ipv4Addr = address.replace('-', ".").parse().ok()?;
        let site = parse_site(site)?;
        let (site, v4) = (site.to_be_bytes(), address.octets());
        let mut bytes = [0xfd, 0x7a, 0x11, 0x5c, 0xa1, 0xe0, 0x0b, 0x1a, 0, 0, 0, 0, 0, 0, 0, 0];
        bytes[8..12].copy_from_slice(&site);
        bytes[12..16].copy_from_slice(&v4);
        Some(bytes.into())
    }
}

/// Builds a query for `name`; `kind` is the record type's number.
pub fn query(id: u16, name: &str, kind: u16) -> Vec<u8> {
    message::query(id, name, kind)
}

fn parse_site(text: &str) -> Option<u32> {
    for (prefix, radix) in [("0x", 16), ("0o", 8), ("0b", 2)] {
        if let Some(digits) = text.strip_prefix(prefix) {
            return u32::from_str_radix(digits, radix).ok();
        }
    }
    text.parse().ok()
}

/// The name itself, then each longer part cut off from the left: the most specific first.
fn ancestors(name: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(name), |name| name.split_once('.').map(|(_, rest)| rest))
}

fn is_within(name: &str, suffix: &str) -> bool {
    name.strip_suffix(suffix).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn parse_reverse(name: &str) -> Option<IpAddr> {
    if let Some(labels) = name.strip_suffix(".in-addr.arpa") {
        let mut octets = [0; 4];
        let mut parts = labels.rsplit('.');
        for octet in &mut octets {
            *octet = parts.next()?.parse().ok()?;
        }
        return parts.next().is_none().then_some(IpAddr::V4(octets.into()));
    }
    let nibbles: Vec<u8> = name
        .strip_suffix(".ip6.arpa")?
        .rsplit('.')
        .map(|nibble| (nibble.len() == 1).then(|| u8::from_str_radix(nibble, 16).ok())?)
        .collect::<Option<_>>()?;
    let nibbles: [u8; 32] = nibbles.try_into().ok()?;
    let mut bytes = [0; 16];
    for (byte, pair) in bytes.iter_mut().zip(nibbles.chunks(2)) {
        *byte = pair[0] << 4 | pair[1];
    }
    Some(IpAddr::V6(bytes.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolver() -> Resolver {
        let mut config =
            ResolverConfig { suffix: Some("home.internal".to_owned()), ..ResolverConfig::default() };
        config.hosts.insert("birch.home.internal".into(), vec![ip("100.64.0.1"), ip("fd7a:115c:a1e0::1")]);
        config.hosts.insert("nas.home.internal".into(), vec![ip("100.64.0.2")]);
        config.wildcard_hosts.insert("nas.home.internal".to_owned());
        config.local_domains.extend(["home.internal", "64.100.in-addr.arpa"].map(str::to_owned));
        config.routes.insert(
            "corp.example".to_owned(),
            vec![Upstream::Plain("192.0.2.1:53".parse().expect("an address"))],
        );
        config.default_upstreams = vec![Upstream::Plain("192.0.2.53:53".parse().expect("an address"))];
        Resolver::new(config)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    /// (rcode, answers, last bytes) of a local reply.
    fn ask(name: &str, kind: u16) -> (u8, u8, Vec<u8>) {
        match resolver().answer(&message::query(1, name, kind), 0) {
            Answer::Reply(reply) => {
                (reply[3] & 0xf, reply[7], reply[reply.len().saturating_sub(4)..].to_vec())
            }
            other @ (Answer::Forward(_) | Answer::Silence) => {
                panic!("{name} is answered here, not {other:?}")
            }
        }
    }

    #[test]
    fn names_are_answered_long_and_short() {
        assert_eq!(ask("birch.home.internal", TYPE_A), (0, 1, vec![100, 64, 0, 1]));
        assert_eq!(ask("BIRCH", TYPE_A), (0, 1, vec![100, 64, 0, 1]));
        assert_eq!(ask("birch", TYPE_AAAA).1, 1);
        assert_eq!(ask("nas", TYPE_AAAA).1, 0, "no such address, but the name exists");
        assert_eq!(ask("www.nas.home.internal", TYPE_A), (0, 1, vec![100, 64, 0, 2]));
    }

    #[test]
    fn unknown_names_of_the_network_do_not_leak() {
        assert_eq!(ask("nobody.home.internal", TYPE_A).0, 3);
        assert_eq!(ask("x.onion", TYPE_A).0, 3);
        assert_eq!(ask("b._dns-sd._udp.home.internal", TYPE_PTR).0, 3);
        assert_eq!(ask("9.0.64.100.in-addr.arpa", TYPE_PTR).0, 3);
    }

    #[test]
    fn addresses_are_answered_by_name() {
        assert_eq!(ask("1.0.64.100.in-addr.arpa", TYPE_PTR).1, 1);
        assert_eq!(ask("100.100.100.100.in-addr.arpa", TYPE_PTR).1, 1);
    }

    #[test]
    fn the_rest_goes_to_the_longest_suffix() {
        let forwarded = |name| resolver().answer(&message::query(1, name, TYPE_A), 0);
        assert_eq!(
            forwarded("a.corp.example"),
            Answer::Forward(resolver().config.routes["corp.example"].clone())
        );
        assert_eq!(forwarded("example.org"), Answer::Forward(resolver().config.default_upstreams.clone()));
    }

    #[test]
    fn via_names_hold_site_and_address() {
        let expected = ip("fd7a:115c:a1e0:b1a:0:7:a01:203");
        assert_eq!(resolver().via_address("10-1-2-3-via-7").map(IpAddr::V6), Some(expected));
        assert_eq!(resolver().via_address("10-1-2-3-via-0x7.home.internal").map(IpAddr::V6), Some(expected));
        assert_eq!(resolver().via_address("10-1-2-3-via-7.example.org"), None);
    }
}

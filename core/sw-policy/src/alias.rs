//! The small grammars inside strings of a policy: selectors, ports, protocols, durations (policy.md §4, §5.5.1).

use std::fmt;

use crate::error::Kind;
use crate::range::{IpRange, parse_prefix};

/// A role of a person in the network, as named by `autogroup:…`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    Owner,
    Admin,
    NetworkAdmin,
    ItAdmin,
    BillingAdmin,
    Auditor,
    Member,
}

impl Role {
    /// Parses the name of a role; unknown names are plain members.
    #[must_use]
    pub fn parse(name: &str) -> Self {
        match name {
            "owner" => Self::Owner,
            "admin" => Self::Admin,
            "network-admin" => Self::NetworkAdmin,
            "it-admin" => Self::ItAdmin,
            "billing-admin" => Self::BillingAdmin,
            "auditor" => Self::Auditor,
            _ => Self::Member,
        }
    }

    /// Returns the name that [`Role::parse`] reads.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Admin => "admin",
            Self::NetworkAdmin => "network-admin",
            Self::ItAdmin => "it-admin",
            Self::BillingAdmin => "billing-admin",
            Self::Auditor => "auditor",
            Self::Member => "member",
        }
    }

    /// Reports whether people of this role may give machines any declared tag.
    #[must_use]
    pub fn may_set_any_tag(self) -> bool {
        matches!(self, Self::Owner | Self::Admin | Self::NetworkAdmin)
    }

    /// Reports whether a person of this role belongs to `autogroup:<wanted>`; the owner is an admin too.
    #[must_use]
    pub fn is(self, wanted: Self) -> bool {
        self == wanted || (self == Self::Owner && wanted == Self::Admin)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Autogroup {
    Member,
    Tagged,
    SelfNodes,
    Internet,
    DangerAll,
    Shared,
    NonRoot,
    Role(Role),
}

impl Autogroup {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "member" | "members" => Self::Member,
            "tagged" => Self::Tagged,
            "self" => Self::SelfNodes,
            "internet" => Self::Internet,
            "danger-all" => Self::DangerAll,
            "shared" => Self::Shared,
            "nonroot" => Self::NonRoot,
            "owner" | "admin" | "network-admin" | "it-admin" | "billing-admin" | "auditor" => {
                Self::Role(Role::parse(name))
            }
            _ => return None,
        })
    }
}

/// What a selector names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Selector {
    Wildcard,
    Range(IpRange),
    /// A login in lower case.
    User(String),
    /// All people of a domain: `user:*@<domain>`.
    DomainUsers(String),
    Group(String),
    Tag(String),
    Autogroup(Autogroup),
    Ipset(String),
    Service(String),
    Host(String),
}

/// Why a small grammar was not met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Malformed {
    pub(crate) kind: Kind,
    pub(crate) message: String,
    pub(crate) fix: String,
}

fn malformed<T>(kind: Kind, message: impl Into<String>, fix: impl Into<String>) -> Result<T, Malformed> {
    Err(Malformed { kind, message: message.into(), fix: fix.into() })
}

impl Selector {
    /// Classifies a selector in the order of policy.md §4.1.
    pub(crate) fn parse(written: &str) -> Result<Self, Malformed> {
        let text = written.trim();
        if let Some(range) = IpRange::parse(text) {
            return Ok(Self::Range(range));
        }
        if text == "*" {
            return Ok(Self::Wildcard);
        }
        if text.contains('@') {
            return Ok(match text.strip_prefix("user:*@") {
                Some(domain) => Self::DomainUsers(domain.to_owned()),
                None => Self::User(text.to_lowercase()),
            });
        }
        if text.starts_with("group:") {
            return Ok(Self::Group(text.to_owned()));
        }
        if text.starts_with("tag:") {
            return Ok(Self::Tag(text.to_owned()));
        }
        if let Some(name) = text.strip_prefix("autogroup:") {
            return match Autogroup::parse(name) {
                Some(autogroup) => Ok(Self::Autogroup(autogroup)),
                None => malformed(
                    Kind::AutogroupNotAllowed,
                    format!("invalid autogroup: unknown autogroup {text:?}"),
                    "use autogroup:member, tagged, self, internet, danger-all, or a role such as autogroup:admin",
                ),
            };
        }
        if text.starts_with("ipset:") {
            return Ok(Self::Ipset(text.to_owned()));
        }
        if text.starts_with("svc:") {
            return Ok(Self::Service(text.to_owned()));
        }
        if text.contains(':') || text.is_empty() {
            return malformed(
                Kind::InvalidAlias,
                format!("invalid alias format: {text:?}"),
                "write a person (name@domain), group:…, tag:…, autogroup:…, a name of \"hosts\", an address or *",
            );
        }
        Ok(Self::Host(text.to_owned()))
    }
}

/// An inclusive range of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ports {
    pub first: u16,
    pub last: u16,
}

impl Ports {
    /// All ports, which is also what `*` means.
    pub const ANY: Self = Self { first: 0, last: u16::MAX };

    /// Reports whether `port` lies in the range.
    #[must_use]
    pub fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.first, self.last) {
            (0, u16::MAX) => f.write_str("*"),
            (first, last) if first == last => write!(f, "{first}"),
            (first, last) => write!(f, "{first}-{last}"),
        }
    }
}

/// Parses `*` or a comma list of ports and port ranges (policy.md §4.2).
pub(crate) fn parse_ports(text: &str) -> Result<Vec<Ports>, Malformed> {
    if text == "*" {
        return Ok(vec![Ports::ANY]);
    }
    text.split(',').map(|item| port_item(text, item)).collect()
}

fn port_item(whole: &str, item: &str) -> Result<Ports, Malformed> {
    let fail = |tail: &str, fix: &str| malformed(Kind::BadPort, format!("port range {whole:?}: {tail}"), fix);
    let number = |text: &str| text.parse::<i64>().ok().filter(|_| !text.starts_with('+'));
    if let Some((first, last)) = item.split_once('-') {
        if first.is_empty() || last.is_empty() || last.contains('-') {
            return fail("invalid port range format", "write a range as FIRST-LAST, for example 8000-8080");
        }
        let (Some(first), Some(last)) = (number(first), number(last)) else {
            return fail(
                "invalid first integer",
                "write ports as numbers, for example 22 or 8000-8080, or *",
            );
        };
        let (Ok(first), Ok(last)) = (u16::try_from(first), u16::try_from(last)) else {
            return fail("port number out of range", "ports go from 1 to 65535");
        };
        if first > last {
            let fix = format!("swap the ends: {last}-{first}");
            return fail("invalid port range: first port is greater than last port", &fix);
        }
        return Ok(Ports { first, last });
    }
    let Some(port) = number(item) else {
        return fail("invalid first integer", "write ports as numbers, for example 22 or 8000-8080, or *");
    };
    match u16::try_from(port) {
        Err(_) => fail("port number out of range", "ports go from 1 to 65535"),
        Ok(0) => fail("first port must be >0, or use '*' for wildcard", "write * for all ports"),
        Ok(port) => Ok(Ports { first: port, last: port }),
    }
}

/// Splits `<alias>:<ports>` (policy.md §4.2); brackets around an IPv6 address are taken off.
pub(crate) fn split_ports(text: &str) -> Result<(String, &str), Malformed> {
    let fail = |message: &str| {
        let fix = "write DESTINATION:PORTS, for example tag:web:443 or tag:web:*";
        malformed(Kind::DstMissingPort, format!("dst={text:?}: {message}"), fix)
    };
    let Some((alias, ports)) = text.rsplit_once(':') else {
        return fail("hostport must contain a colon");
    };
    if alias.is_empty() {
        return fail("input cannot start with a colon character");
    }
    if ports.is_empty() {
        return fail("input cannot end with a colon character");
    }
    if !alias.contains(['[', ']']) {
        return Ok((alias.to_owned(), ports));
    }
    let inner = alias.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let unwrapped = inner.map(|(address, length)| (address, format!("{address}{length}")));
    match unwrapped {
        Some((address, whole))
            if address.parse::<std::net::Ipv6Addr>().is_ok() && parse_prefix(&whole).is_some() =>
        {
            Ok((whole, ports))
        }
        Some(_) | None => malformed(
            Kind::InvalidAlias,
            format!("square brackets are only valid around IPv6 addresses: {text:?}"),
            "write [IPV6]:PORTS, or leave the brackets out",
        ),
    }
}

/// Known protocols, the name first that messages use.
const PROTOCOLS: &[(&str, u8)] = &[
    ("icmp", 1),
    ("igmp", 2),
    ("ipv4", 4),
    ("ip-in-ip", 4),
    ("tcp", 6),
    ("egp", 8),
    ("igp", 9),
    ("udp", 17),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("ipv6-icmp", 58),
    ("sctp", 132),
    ("fc", 133),
];

/// Returns the name of an IP protocol, or its number.
pub(crate) fn protocol_name(number: u8) -> String {
    let known = PROTOCOLS.iter().find(|(_, value)| *value == number);
    known.map_or_else(|| number.to_string(), |(name, _)| (*name).to_owned())
}

/// Parses a protocol by name or number (policy.md §5.5.1).
pub(crate) fn parse_protocol(text: &str) -> Result<u8, Malformed> {
    let lower = text.to_ascii_lowercase();
    if let Some((_, number)) = PROTOCOLS.iter().find(|(name, _)| *name == lower) {
        return Ok(*number);
    }
    let fail = |message: String| {
        malformed(Kind::BadProtocol, message, "use tcp, udp, icmp, ipv6-icmp, sctp or a number from 1 to 255")
    };
    if text == "*" {
        return malformed(
            Kind::BadProtocol,
            "proto name \"*\" not known; use protocol number 0-255 or protocol name (icmp, tcp, udp, etc.)",
            "leave the protocol out to mean TCP, UDP and ICMP",
        );
    }
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return fail(format!(
            "invalid protocol number: {text:?} must be a known protocol name or valid protocol number 0-255"
        ));
    }
    if text.starts_with('0') {
        return fail(format!("leading 0 not permitted in protocol number: {text:?}"));
    }
    text.parse().or_else(|_| fail(format!("protocol number out of range (0-255): {text}")))
}

/// Reports whether rules of this protocol may name ports: TCP, UDP, SCTP and the default set.
pub(crate) fn has_ports(protocol: Option<u8>) -> bool {
    matches!(protocol, None | Some(6 | 17 | 132))
}

/// Parses one entry of a grant's `ip`: `*`, `<ports>` or `<proto>:<ports>` (policy.md §5.6).
pub(crate) fn parse_ip_item(text: &str) -> Result<(Option<u8>, Vec<Ports>), Malformed> {
    let mut parts = text.split(':');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(ports), None, _) => Ok((None, parse_ports(ports)?)),
        (Some(protocol), Some(ports), None) => {
            let protocol = parse_protocol(protocol)?;
            let ports = parse_ports(ports)?;
            Ok((Some(protocol), ports))
        }
        _ => malformed(
            Kind::BadIpSpec,
            format!("expected only one colon in Internet protocol and port type: {text:?}"),
            "write PORTS or PROTOCOL:PORTS, for example 443 or udp:53",
        ),
    }
}

/// Nanoseconds of a duration in Go's form (`1h30m`); may be negative.
pub(crate) fn parse_duration(text: &str) -> Option<i128> {
    let (is_negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let number_length = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at_checked(number_length)?;
        let unit_length = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at_checked(unit_length)?;
        let unit: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        total = total.checked_add(scaled(number, unit)?)?;
        rest = tail;
    }
    i64::try_from(total).ok()?;
    Some(if is_negative { -total } else { total })
}

fn scaled(number: &str, unit: i128) -> Option<i128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut total = whole.checked_mul(unit)?;
    let mut part = unit;
    for digit in fraction.bytes() {
        part /= 10;
        total += i128::from(digit.checked_sub(b'0').filter(|digit| *digit < 10)?) * part;
    }
    Some(total)
}

/// Prints whole seconds as Go does: `169h0m0s`, `1m30s`, `5s`.
pub(crate) fn go_duration(nanoseconds: i128) -> String {
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let all_seconds = nanoseconds.abs() / 1_000_000_000;
    let (hours, minutes, seconds) = (all_seconds / 3600, all_seconds / 60 % 60, all_seconds % 60);
    let fraction = nanoseconds.abs() % 1_000_000_000;
    let seconds = if fraction == 0 {
        seconds.to_string()
    } else {
        format!("{seconds}.{fraction:09}").trim_end_matches('0').to_owned()
    };
    match (hours, minutes) {
        (0, 0) => format!("{sign}{seconds}s"),
        (0, minutes) => format!("{sign}{minutes}m{seconds}s"),
        (hours, minutes) => format!("{sign}{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_follow_the_table() {
        let tail = |text: &str| parse_ports(text).unwrap_err().message;
        assert_eq!(
            parse_ports("22,80-90").unwrap(),
            [Ports { first: 22, last: 22 }, Ports { first: 80, last: 90 }]
        );
        assert_eq!(parse_ports("0-65535").unwrap(), [Ports::ANY]);
        assert_eq!(tail("x"), "port range \"x\": invalid first integer");
        assert_eq!(tail("22, 80"), "port range \"22, 80\": invalid first integer");
        assert_eq!(tail("65536"), "port range \"65536\": port number out of range");
        assert_eq!(tail("-1"), "port range \"-1\": invalid port range format");
        assert_eq!(tail("0"), "port range \"0\": first port must be >0, or use '*' for wildcard");
        assert_eq!(tail("1-2-3"), "port range \"1-2-3\": invalid port range format");
        assert_eq!(tail("1-"), "port range \"1-\": invalid port range format");
        assert_eq!(
            tail("9-8"),
            "port range \"9-8\": invalid port range: first port is greater than last port"
        );
    }

    #[test]
    fn destinations_split_at_the_last_colon() {
        assert_eq!(split_ports("tag:a:22").unwrap(), ("tag:a".to_owned(), "22"));
        assert_eq!(split_ports("[fd7a::1]:22").unwrap(), ("fd7a::1".to_owned(), "22"));
        assert_eq!(split_ports("[fd7a::]/64:22").unwrap(), ("fd7a::/64".to_owned(), "22"));
        assert_eq!(split_ports("fd7a::1:22").unwrap(), ("fd7a::1".to_owned(), "22"));
        assert!(split_ports("[10.0.0.1]:22").unwrap_err().message.starts_with("square brackets"));
        assert!(split_ports("host").unwrap_err().message.ends_with("hostport must contain a colon"));
        assert!(split_ports(":22").unwrap_err().message.ends_with("cannot start with a colon character"));
        assert!(split_ports("a:").unwrap_err().message.ends_with("cannot end with a colon character"));
    }

    #[test]
    fn durations_read_and_print_as_in_go() {
        assert_eq!(parse_duration("1h30m").map(go_duration).unwrap(), "1h30m0s");
        assert_eq!(parse_duration("-1m").map(go_duration).unwrap(), "-1m0s");
        assert_eq!(parse_duration("168h0m1s").map(go_duration).unwrap(), "168h0m1s");
        assert_eq!(parse_duration("1.5s").map(go_duration).unwrap(), "1.5s");
        for bad in ["", "12", "h", "1x", "1h 2m", "--1h", "."] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }
}

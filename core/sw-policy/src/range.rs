//! Address ranges and sets of them, with the text forms of policy.md §7.2.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// An inclusive range of addresses of one family. Never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IpRange {
    is_v6: bool,
    first: u128,
    last: u128,
}

fn bits(addr: IpAddr) -> (bool, u128) {
    match addr {
        IpAddr::V4(v4) => (false, u128::from(v4.to_bits())),
        IpAddr::V6(v6) => (true, v6.to_bits()),
    }
}

impl IpRange {
    /// Every IPv4 address.
    pub const ALL_V4: Self = Self { is_v6: false, first: 0, last: u32::MAX as u128 };
    /// Every IPv6 address.
    pub const ALL_V6: Self = Self { is_v6: true, first: 0, last: u128::MAX };

    /// Returns the range of one address.
    #[must_use]
    pub fn host(addr: IpAddr) -> Self {
        let (is_v6, first) = bits(addr);
        Self { is_v6, first, last: first }
    }

    /// Returns the range of a prefix; host bits are masked.
    #[must_use]
    pub fn prefix(net: IpNet) -> Self {
        let (is_v6, first) = bits(net.network());
        let (_, last) = bits(net.broadcast());
        Self { is_v6, first, last }
    }

    /// Returns the range from `first` to `last`, or `None` when the families differ or the ends are swapped.
    #[must_use]
    pub fn new(first: IpAddr, last: IpAddr) -> Option<Self> {
        let (is_v6, first) = bits(first);
        let (last_is_v6, last) = bits(last);
        (is_v6 == last_is_v6 && first <= last).then_some(Self { is_v6, first, last })
    }

    /// Parses an address, a prefix (host bits are masked) or `a-b`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if let Some((first, last)) = text.split_once('-') {
            return Self::new(first.parse().ok()?, last.parse().ok()?);
        }
        parse_prefix(text).map(Self::prefix)
    }

    /// Returns the first address.
    #[must_use]
    pub fn first(self) -> IpAddr {
        self.addr(self.first)
    }

    /// Returns the last address.
    #[must_use]
    pub fn last(self) -> IpAddr {
        self.addr(self.last)
    }

    /// Reports whether this is a range of IPv6 addresses.
    #[must_use]
    pub fn is_v6(self) -> bool {
        self.is_v6
    }

    fn addr(self, value: u128) -> IpAddr {
        if self.is_v6 {
            IpAddr::V6(Ipv6Addr::from_bits(value))
        } else {
            #[expect(clippy::cast_possible_truncation, reason = "an IPv4 range holds 32-bit values")]
            IpAddr::V4(Ipv4Addr::from_bits(value as u32))
        }
    }

    /// Reports whether `addr` lies in the range.
    #[must_use]
    pub fn contains(self, addr: IpAddr) -> bool {
        self.overlaps(Self::host(addr))
    }

    /// Reports whether every address of `other` lies in the range.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        self.is_v6 == other.is_v6 && self.first <= other.first && other.last <= self.last
    }

    /// Reports whether the two ranges share an address.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.is_v6 == other.is_v6 && self.first <= other.last && other.first <= self.last
    }

    /// Reports whether the range is one address.
    #[must_use]
    pub fn is_host(self) -> bool {
        self.first == self.last
    }

    /// Returns the prefix that is exactly this range, if there is one.
    #[must_use]
    pub fn as_prefix(self) -> Option<IpNet> {
        let free = (self.first ^ self.last).checked_add(1);
        let host_bits = match free {
            None => 128,
            Some(size) if size.is_power_of_two() => size.trailing_zeros(),
            Some(_) => return None,
        };
        let mask = if host_bits == 128 { u128::MAX } else { (1 << host_bits) - 1 };
        if self.first & mask != 0 {
            return None;
        }
        let width = if self.is_v6 { 128 } else { 32 };
        IpNet::new(self.first(), u8::try_from(width - host_bits).ok()?).ok()
    }

    /// Returns the fewest prefixes that together are this range, in ascending order.
    #[must_use]
    pub fn prefixes(self) -> Vec<IpNet> {
        let width: u32 = if self.is_v6 { 128 } else { 32 };
        let mut found = Vec::new();
        let mut at = self.first;
        loop {
            let mut host_bits = at.trailing_zeros().min(width);
            while host_bits > 0 && (host_bits == 128 || (self.last - at) < ((1_u128 << host_bits) - 1)) {
                if host_bits == 128 && at == 0 && self.last == u128::MAX {
                    break;
                }
                host_bits -= 1;
            }
            let length = u8::try_from(width - host_bits).expect("a prefix length is at most 128");
            found.push(IpNet::new(self.addr(at), length).expect("the length fits the family"));
            let size_less_one = if host_bits == 128 { u128::MAX } else { (1 << host_bits) - 1 };
            if at + size_less_one == self.last {
                return found;
            }
            at += size_less_one + 1;
        }
    }
}

/// Prints an address as policy.md §7.2 says: no embedded IPv4 form.
pub(crate) fn addr_text(addr: IpAddr) -> String {
    match addr {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            let [.., high, low] = v6.segments();
            format!("::ffff:{high:x}:{low:x}")
        }
        IpAddr::V4(_) | IpAddr::V6(_) => addr.to_string(),
    }
}

/// Prints a prefix with its length, also for one host.
pub(crate) fn prefix_text(net: IpNet) -> String {
    format!("{}/{}", addr_text(net.network()), net.prefix_len())
}

impl fmt::Display for IpRange {
    /// One address bare, an exact prefix as CIDR, anything else as `a-b`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_host() {
            return f.write_str(&addr_text(self.first()));
        }
        match self.as_prefix() {
            Some(net) => f.write_str(&prefix_text(net)),
            None => write!(f, "{}-{}", addr_text(self.first()), addr_text(self.last())),
        }
    }
}

/// Parses an address or CIDR by the rules of policy.md §4.1: no zone, no leading zeros, host bits allowed.
pub(crate) fn parse_prefix(text: &str) -> Option<IpNet> {
    let Some((addr, length)) = text.split_once('/') else {
        let addr: IpAddr = text.parse().ok()?;
        return Some(IpNet::from(addr));
    };
    let has_leading_zero = length.len() > 1 && length.starts_with('0');
    if has_leading_zero || !length.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    IpNet::new(addr.parse().ok()?, length.parse().ok()?).ok()
}

/// A set of addresses as sorted ranges with gaps between them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeSet(Vec<IpRange>);

impl RangeSet {
    /// Returns the ranges in ascending order, IPv4 first.
    #[must_use]
    pub fn ranges(&self) -> &[IpRange] {
        &self.0
    }

    /// Adds a range.
    pub fn add(&mut self, range: IpRange) {
        let touches = |own: &IpRange, other: &IpRange| {
            own.is_v6 == other.is_v6
                && own.first <= other.last.saturating_add(1)
                && other.first <= own.last.saturating_add(1)
        };
        let start = self.0.partition_point(|own| *own < range && !touches(own, &range));
        let count = self.0.iter().skip(start).take_while(|own| touches(own, &range)).count();
        let joined = self.0.iter().skip(start).take(count).fold(range, |all, own| IpRange {
            first: all.first.min(own.first),
            last: all.last.max(own.last),
            ..all
        });
        self.0.splice(start..start + count, [joined]);
    }

    /// Takes a range out.
    pub fn remove(&mut self, range: IpRange) {
        let mut kept = Vec::with_capacity(self.0.len() + 1);
        for old in self.0.drain(..) {
            if !old.overlaps(range) {
                kept.push(old);
                continue;
            }
            if old.first < range.first {
                kept.push(IpRange { last: range.first - 1, ..old });
            }
            if old.last > range.last {
                kept.push(IpRange { first: range.last + 1, ..old });
            }
        }
        self.0 = kept;
    }

    /// Reports whether every address of `range` is in the set.
    #[must_use]
    pub fn covers(&self, range: IpRange) -> bool {
        self.0.iter().any(|own| own.covers(range))
    }

    /// Reports whether the set and `range` share an address.
    #[must_use]
    pub fn overlaps(&self, range: IpRange) -> bool {
        self.0.iter().any(|own| own.overlaps(range))
    }
}

impl FromIterator<IpRange> for RangeSet {
    fn from_iter<I: IntoIterator<Item = IpRange>>(ranges: I) -> Self {
        let mut ranges: Vec<IpRange> = ranges.into_iter().collect();
        // In this order every range joins or follows the last one.
        ranges.sort_unstable();
        let mut set = Self::default();
        for range in ranges {
            set.add(range);
        }
        set
    }
}

/// The seven ranges of `autogroup:internet` (policy.md §7.4), in the order in which they are printed.
pub(crate) fn internet() -> [IpRange; 7] {
    let v4 = |first: [u8; 4], last: [u8; 4]| {
        IpRange::new(IpAddr::from(first), IpAddr::from(last)).expect("the ends are in order")
    };
    let v6_last = Ipv6Addr::from_bits((0x3fff << 112) | ((1 << 112) - 1));
    [
        v4([0, 0, 0, 0], [9, 255, 255, 255]),
        v4([11, 0, 0, 0], [100, 63, 255, 255]),
        v4([100, 128, 0, 0], [169, 253, 255, 255]),
        v4([169, 255, 0, 0], [172, 15, 255, 255]),
        v4([172, 32, 0, 0], [192, 167, 255, 255]),
        v4([192, 169, 0, 0], [255, 255, 255, 255]),
        IpRange::new(IpAddr::V6(Ipv6Addr::from_bits(0x2000 << 112)), IpAddr::V6(v6_last))
            .expect("the ends are in order"),
    ]
}

/// The three ranges of `*` as a source (policy.md §7.3), sorted as text.
pub(crate) fn wildcard() -> [IpRange; 3] {
    let v4 = |first: [u8; 4], last: [u8; 4]| {
        IpRange::new(IpAddr::from(first), IpAddr::from(last)).expect("the ends are in order")
    };
    let ula = Ipv6Addr::new(0xfd7a, 0x115c, 0xa1e0, 0, 0, 0, 0, 0);
    [
        v4([100, 115, 94, 0], [100, 127, 255, 255]),
        v4([100, 64, 0, 0], [100, 115, 91, 255]),
        IpRange::prefix(IpNet::new(IpAddr::V6(ula), 48).expect("48 fits IPv6")),
    ]
}

/// Reports whether `net` is a default route, the mark of an exit node.
pub(crate) fn is_default_route(net: &IpNet) -> bool {
    net.prefix_len() == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> IpRange {
        IpRange::parse(text).unwrap()
    }

    #[test]
    fn text_forms_follow_the_specification() {
        for (input, printed) in [
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("10.0.0.1", "10.0.0.1"),
            ("10.0.0.1/32", "10.0.0.1"),
            ("10.0.0.0-10.0.0.255", "10.0.0.0/24"),
            ("10.0.0.1-10.0.0.2", "10.0.0.1-10.0.0.2"),
            ("2001:DB8:0:0::1", "2001:db8::1"),
            ("::ffff:1.2.3.4", "::ffff:102:304"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(range(input).to_string(), printed);
        }
        let seven: Vec<String> = internet().iter().map(ToString::to_string).collect();
        assert_eq!(seven[0], "0.0.0.0-9.255.255.255");
        assert_eq!(seven[6], "2000::/3");
    }

    #[test]
    fn malformed_addresses_are_refused() {
        for bad in [
            "10.0.0.01",
            "10.0.0.0/08",
            "10.0.0.0/+8",
            "10.0.0.0/33",
            "fe80::1%eth0",
            "10.0.0.2-10.0.0.1",
            "",
        ] {
            assert!(IpRange::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn prefixes_of_a_range_rebuild_it() {
        for text in
            ["100.64.0.0-100.115.91.255", "0.0.0.0/0", "::/0", "10.0.0.1-10.0.0.6", "::1-::", "1.2.3.4"]
        {
            let Some(range) = IpRange::parse(text) else { continue };
            let set: RangeSet = range.prefixes().into_iter().map(IpRange::prefix).collect();
            assert_eq!(set.ranges(), [range]);
        }
        assert_eq!(range("100.64.0.0-100.115.91.255").prefixes().len(), 8);
    }

    #[test]
    fn sets_join_neighbours_and_split_at_holes() {
        let mut set: RangeSet = [range("10.0.0.0/25"), range("10.0.0.128/25")].into_iter().collect();
        assert_eq!(set.ranges(), [range("10.0.0.0/24")]);
        set.remove(range("10.0.0.7"));
        assert_eq!(set.ranges(), [range("10.0.0.0-10.0.0.6"), range("10.0.0.8-10.0.0.255")]);
        set.remove(range("0.0.0.0/0"));
        assert!(set.ranges().is_empty());
    }
}

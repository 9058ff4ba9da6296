//! Finds whether any condition holds for a packet, in time that hardly depends on their number.
//!
//! Each of source, destination and service (protocol with port) is cut into elementary intervals. An
//! interval carries the set of conditions that cover it. A question is three searches and the
//! intersection of three sets.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::atoms::{Atom, Range, number};
use crate::decide::whole_protocol;

/// Sets with up to this many members are lists; larger ones are bits.
const LIST_MAX: usize = 64;
/// Memory that one dimension may take; beyond it conditions are compared one by one.
const DIMENSION_BYTES_MAX: usize = 32 << 20;

/// Conditions that an interval names by itself.
const FEW_MAX: usize = 5;
/// Protocols that a condition lists by itself.
const PROTOCOLS_MAX: usize = 8;

/// What covers an interval.
///
/// WHY: a new flow costs cache misses and little else; a set that stands in the interval saves two.
#[derive(Clone, Copy, Debug)]
enum Cover {
    Few { count: u8, atoms: [u32; FEW_MAX] },
    Set(u32),
}

/// What covers a value.
#[derive(Clone, Copy, Debug)]
enum Found<'m> {
    Few(&'m [u32]),
    Set(&'m Set),
}

impl Found<'_> {
    fn contains(self, atom: u32) -> bool {
        match self {
            Self::Few(few) => few.contains(&atom),
            Self::Set(set) => set.contains(atom),
        }
    }

    fn list(&self) -> Option<&[u32]> {
        match self {
            Self::Few(few) => Some(few),
            Self::Set(Set::List(list)) => Some(list),
            Self::Set(Set::Bits(_)) => None,
        }
    }

    fn bits(&self) -> &[u64] {
        match self {
            Self::Set(Set::Bits(bits)) => bits,
            Self::Few(_) | Self::Set(Set::List(_)) => &[],
        }
    }
}

/// Protocols and ports of a condition in a few bytes.
#[derive(Clone, Copy, Debug)]
struct Service {
    first: u16,
    last: u16,
    protocols: [u8; PROTOCOLS_MAX],
    /// Above [`PROTOCOLS_MAX`] the index has to be asked.
    count: u8,
}

/// Numbers of conditions.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Set {
    List(Box<[u32]>),
    Bits(Box<[u64]>),
}

impl Set {
    fn contains(&self, atom: u32) -> bool {
        match self {
            Self::List(list) => list.binary_search(&atom).is_ok(),
            Self::Bits(bits) => bits.get(atom as usize / 64).is_some_and(|word| word >> (atom % 64) & 1 == 1),
        }
    }
}

/// A number that is cut into intervals.
trait Key: Copy + Ord {
    /// Returns `(self - base) >> shift`, at most `usize::MAX`; `base` is not above `self`.
    fn bucket(self, base: Self, shift: u32) -> usize;
}

impl Key for u32 {
    fn bucket(self, base: Self, shift: u32) -> usize {
        ((self - base) >> shift) as usize
    }
}

impl Key for u128 {
    fn bucket(self, base: Self, shift: u32) -> usize {
        usize::try_from((self - base) >> shift).unwrap_or(usize::MAX)
    }
}

/// One of the three numbers of a packet: its elementary intervals with the sets that cover them.
#[derive(Clone, Debug)]
struct Dimension<K> {
    /// First value of each interval, ascending, with its set as an index into `sets`; values below the first are
    /// covered by nothing.
    intervals: Vec<(K, Cover)>,
    sets: Vec<Set>,
    /// WHY: a search through 100,000 intervals costs ten cache misses, a bucket of a few costs one.
    buckets: Buckets<K>,
}

/// Equal slices of the values between the outliers: which interval is the first of each.
#[derive(Clone, Debug)]
struct Buckets<K> {
    base: Option<K>,
    shift: u32,
    firsts: Vec<u32>,
}

impl<K: Key> Buckets<K> {
    fn build(intervals: &[(K, Cover)]) -> Self {
        let at = |percent: usize| intervals.get(intervals.len() * percent / 100).map(|(start, _)| *start);
        let (Some(base), Some(top)) = (at(1), at(99)) else {
            return Self { base: None, shift: 0, firsts: Vec::new() };
        };
        let wanted = intervals.len().next_power_of_two() * 2;
        let shift = (0..u128::BITS)
            .find(|shift| *shift >= 31 && size_of::<K>() == 4 || top.bucket(base, *shift) < wanted);
        let shift = shift.unwrap_or(0);
        let mut built = Self { base: Some(base), shift, firsts: Vec::new() };
        let count = top.bucket(base, shift) + 3;
        let mut next = 0;
        for bucket in 0..=count {
            while intervals.get(next).is_some_and(|(start, _)| built.of(*start, count) < bucket) {
                next += 1;
            }
            built.firsts.push(u32::try_from(next).unwrap_or(u32::MAX));
        }
        built
    }

    /// Bucket 0 holds what is below the base, the last one what is above the top.
    fn of(&self, value: K, count: usize) -> usize {
        match self.base {
            Some(base) if value >= base => value.bucket(base, self.shift).saturating_add(1).min(count - 1),
            Some(_) | None => 0,
        }
    }

    /// Returns the places of the intervals that begin in the bucket of `value`.
    fn range(&self, value: K) -> std::ops::Range<usize> {
        let Some(count) = self.firsts.len().checked_sub(1) else { return 0..0 };
        let bucket = self.of(value, count);
        let place = |at: usize| self.firsts.get(at).map_or(0, |first| *first as usize);
        place(bucket)..place(bucket + 1)
    }
}

impl<K: Key> Dimension<K> {
    /// Builds a dimension from ranges (`first`, `after` the last or `None` at the end of all values, condition).
    fn build(mut ranges: Vec<(K, Option<K>, u32)>, atoms: usize) -> Option<Self> {
        ranges.sort_unstable();
        let mut events: BTreeMap<K, (Vec<u32>, Vec<u32>)> = BTreeMap::new();
        for (first, after, atom) in ranges {
            events.entry(first).or_default().0.push(atom);
            if let Some(after) = after {
                events.entry(after).or_default().1.push(atom);
            }
        }
        let mut open: BTreeMap<u32, u32> = BTreeMap::new();
        let mut known: BTreeMap<Set, u32> = BTreeMap::new();
        let (mut intervals, mut sets): (Vec<(K, Cover)>, Vec<Set>) = (Vec::new(), Vec::new());
        let mut bytes = 0;
        for (start, (opens, closes)) in events {
            for atom in closes {
                if let Some(count) = open.get_mut(&atom) {
                    *count -= 1;
                    if *count == 0 {
                        open.remove(&atom);
                    }
                }
            }
            for atom in opens {
                *open.entry(atom).or_default() += 1;
            }
            if open.len() <= FEW_MAX {
                let mut few = [0; FEW_MAX];
                for (place, atom) in few.iter_mut().zip(open.keys()) {
                    *place = *atom;
                }
                let count = u8::try_from(open.len()).unwrap_or(0);
                intervals.push((start, Cover::Few { count, atoms: few }));
                continue;
            }
            let set = set(&open, atoms);
            let index = match known.get(&set) {
                Some(index) => *index,
                None => {
                    bytes += if open.len() > LIST_MAX { atoms.div_ceil(8) } else { open.len() * 4 };
                    if bytes > DIMENSION_BYTES_MAX {
                        return None;
                    }
                    let index = u32::try_from(sets.len()).ok()?;
                    sets.push(set.clone());
                    known.insert(set, index);
                    index
                }
            };
            intervals.push((start, Cover::Set(index)));
        }
        let buckets = Buckets::build(&intervals);
        Some(Self { intervals, sets, buckets })
    }

    fn get(&self, value: K) -> Option<Found<'_>> {
        let range = self.buckets.range(value);
        let inside = self.intervals.get(range.clone())?.partition_point(|(start, _)| *start <= value);
        let (_, cover) = self.intervals.get((range.start + inside).checked_sub(1)?)?;
        match cover {
            Cover::Few { count, atoms } => Some(Found::Few(atoms.get(..usize::from(*count))?)),
            Cover::Set(set) => self.sets.get(*set as usize).map(Found::Set),
        }
    }
}

fn set(open: &BTreeMap<u32, u32>, atoms: usize) -> Set {
    if open.len() <= LIST_MAX {
        return Set::List(open.keys().copied().collect());
    }
    let mut bits = vec![0_u64; atoms.div_ceil(64)];
    for atom in open.keys() {
        if let Some(word) = bits.get_mut(*atom as usize / 64) {
            *word |= 1 << (atom % 64);
        }
    }
    Set::Bits(bits.into())
}

/// Whether any condition is in all sets.
fn any_common(sets: &[Found<'_>]) -> bool {
    if let Some(list) = sets.iter().filter_map(Found::list).min_by_key(|list| list.len()) {
        return list.iter().any(|atom| sets.iter().all(|set| set.contains(*atom)));
    }
    match sets {
        [a, b] => a.bits().iter().zip(b.bits()).any(|(a, b)| a & b != 0),
        [a, b, c] => a.bits().iter().zip(b.bits()).zip(c.bits()).any(|((a, b), c)| a & b & c != 0),
        _ => false,
    }
}

/// The addresses of one family.
#[derive(Clone, Debug)]
struct Family<K> {
    src: Dimension<K>,
    dst: Dimension<K>,
}

/// Answers whether any condition holds.
#[derive(Clone, Debug)]
pub(crate) enum Matcher {
    Indexed(Box<Index>),
    /// The index would take too much memory: every condition is looked at.
    Linear(Vec<Atom>),
}

#[derive(Clone, Debug)]
pub(crate) struct Index {
    v4: Family<u32>,
    v6: Family<u128>,
    services: Dimension<u32>,
    /// The services of each condition, for those few that a source has.
    each: Vec<Service>,
}

impl Service {
    fn of(atom: &Atom) -> Self {
        let (first, last) = atom.ports;
        let mut protocols = [0; PROTOCOLS_MAX];
        for (place, protocol) in protocols.iter_mut().zip(&atom.protocols) {
            *place = *protocol;
        }
        let count = u8::try_from(atom.protocols.len()).unwrap_or(u8::MAX);
        Self { first, last, protocols, count }
    }

    /// Whether a service is meant; `None` when only the index knows.
    fn fits(&self, asked: u32) -> Option<bool> {
        let protocols = self.protocols.get(..usize::from(self.count))?;
        let Some(protocol) = whole_protocol(asked) else {
            let [_, protocol, high, low] = asked.to_be_bytes();
            let port = u16::from_be_bytes([high, low]);
            return Some(self.first <= port && port <= self.last && protocols.contains(&protocol));
        };
        Some((self.first, self.last) == (0, u16::MAX) && protocols.contains(&protocol))
    }
}

impl Matcher {
    pub(crate) fn new(atoms: Vec<Atom>) -> Self {
        match Index::build(&atoms) {
            Some(index) => Self::Indexed(Box::new(index)),
            None => Self::Linear(atoms),
        }
    }

    /// Whether a condition holds for a packet; without a service protocol and ports do not matter.
    pub(crate) fn matches(&self, src: IpAddr, dst: IpAddr, service: Option<u32>) -> bool {
        match self {
            Self::Indexed(index) => index.matches(src, dst, service),
            Self::Linear(atoms) => atoms.iter().any(|atom| {
                let fits =
                    |service| atom.services.iter().any(|(first, last)| (*first..=*last).contains(&service));
                service.is_none_or(fits)
                    && atom.src.iter().any(|range| range.contains(src))
                    && atom.dst.iter().any(|range| range.contains(dst))
            }),
        }
    }
}

impl Index {
    fn build(atoms: &[Atom]) -> Option<Self> {
        let numbered = || (0_u32..).zip(atoms);
        let v4 = |ranges: &dyn Fn(&Atom) -> Vec<Range>| {
            let found = numbered().flat_map(|(at, atom)| {
                ranges(atom).into_iter().filter(|range| !range.is_v6).map(move |range| (range, at))
            });
            let found = found.map(|(range, at)| {
                let value = |value: u128| u32::try_from(value).unwrap_or(u32::MAX);
                (value(range.first), value(range.last).checked_add(1), at)
            });
            Dimension::build(found.collect(), atoms.len())
        };
        let v6 = |ranges: &dyn Fn(&Atom) -> Vec<Range>| {
            let found = numbered().flat_map(|(at, atom)| {
                ranges(atom).into_iter().filter(|range| range.is_v6).map(move |range| (range, at))
            });
            let found = found.map(|(range, at)| (range.first, range.last.checked_add(1), at));
            Dimension::build(found.collect(), atoms.len())
        };
        let services = numbered().flat_map(|(at, atom)| {
            atom.services.iter().map(move |(first, last)| (*first, last.checked_add(1), at))
        });
        let (src, dst) = (|atom: &Atom| atom.src.clone(), |atom: &Atom| atom.dst.clone());
        Some(Self {
            v4: Family { src: v4(&src)?, dst: v4(&dst)? },
            v6: Family { src: v6(&src)?, dst: v6(&dst)? },
            services: Dimension::build(services.collect(), atoms.len())?,
            each: atoms.iter().map(Service::of).collect(),
        })
    }

    fn matches(&self, src: IpAddr, dst: IpAddr, service: Option<u32>) -> bool {
        let sets = match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                (self.v4.src.get(src.to_bits()), self.v4.dst.get(dst.to_bits()))
            }
            (IpAddr::V6(_), IpAddr::V6(_)) => {
                (self.v6.src.get(number(src).1), self.v6.dst.get(number(dst).1))
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return false,
        };
        let (Some(src), Some(dst)) = sets else { return false };
        let few = if let Found::Few(few) = src { few } else { &[] };
        match service {
            None => any_common(&[src, dst]),
            Some(service) if !few.is_empty() => few.iter().any(|atom| {
                let fits = || self.each.get(*atom as usize).and_then(|each| each.fits(service));
                dst.contains(*atom)
                    && fits().unwrap_or_else(|| {
                        self.services.get(service).is_some_and(|services| services.contains(*atom))
                    })
            }),
            Some(service) => {
                self.services.get(service).is_some_and(|services| any_common(&[src, dst, services]))
            }
        }
    }
}

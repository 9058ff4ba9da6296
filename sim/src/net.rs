//! The ground: segments, middleboxes between them, and how a packet goes from
//! one station to another.
//!
//! ```text
//!   station ─ link ─ segment ─ box ─ segment ─ … ─ segment 0 (the Internet) ─ … ─ station
//! ```
//! A box acts on a packet when it passes: outward when it is sent, inward when
//! it arrives there, so that a hole punched meanwhile counts.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use sw_types::{Instant, Rng};

use crate::link::{Link, LinkSpec};
use crate::nat::{BoxSpec, NatBox};

/// A machine's place in the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct StationId(pub(crate) usize);

/// A network whose stations reach each other without a box between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SegmentId(pub(crate) usize);

impl SegmentId {
    /// The Internet.
    pub(crate) const INTERNET: Self = Self(0);
}

/// A middlebox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct BoxId(usize);

#[derive(Debug)]
struct Segment {
    gateway: Option<BoxId>,
    hosts: u32,
    /// Boxes between here and the Internet.
    depth: u8,
}

#[derive(Debug)]
struct Place {
    nat: NatBox,
    inner: SegmentId,
    outer: SegmentId,
}

/// One machine's attachment.
#[derive(Debug)]
pub(crate) struct Station {
    pub(crate) segment: SegmentId,
    pub(crate) v4: Option<Ipv4Addr>,
    pub(crate) v6: Option<Ipv6Addr>,
    pub(crate) up: Link,
    pub(crate) down: Link,
}

#[derive(Clone, Copy, Debug)]
enum Holder {
    Station(StationId),
    /// The outer address of a box that translates.
    Outer(BoxId),
    /// A station's own address, behind a box that only filters.
    Behind(BoxId),
}

/// A packet that passed all boxes on its way out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transit {
    pub(crate) at: Instant,
    pub(crate) segment: SegmentId,
    pub(crate) src: SocketAddr,
    pub(crate) dst: SocketAddr,
}

/// Time in the core of the Internet.
const CORE: Duration = Duration::from_millis(2);

/// All segments, boxes and stations.
#[derive(Debug)]
pub(crate) struct Network {
    segments: Vec<Segment>,
    boxes: Vec<Place>,
    stations: Vec<Station>,
    holders: BTreeMap<(SegmentId, IpAddr), Holder>,
    v6: BTreeMap<Ipv6Addr, StationId>,
    next_v6: u128,
}

impl Network {
    pub(crate) fn new() -> Self {
        Self {
            segments: vec![Segment { gateway: None, hosts: 0, depth: 0 }],
            boxes: Vec::new(),
            stations: Vec::new(),
            holders: BTreeMap::new(),
            v6: BTreeMap::new(),
            next_v6: 0,
        }
    }

    /// Makes a segment behind a new box on `outer`.
    pub(crate) fn add_box(&mut self, spec: BoxSpec, outer: SegmentId, rng: &mut Rng) -> SegmentId {
        let inner = SegmentId(self.segments.len());
        let id = BoxId(self.boxes.len());
        let ip = self.claim_v4(outer, Holder::Outer(id));
        let depth = self.segments.get(outer.0).map_or(0, |s| s.depth) + 1;
        self.segments.push(Segment { gateway: Some(id), hosts: 0, depth });
        self.boxes.push(Place { nat: NatBox::new(spec, ip, rng), inner, outer });
        inner
    }

    /// Gives out an address valid on `segment`. Behind boxes that only filter
    /// it is one of the network outside them.
    fn claim_v4(&mut self, segment: SegmentId, holder: Holder) -> Ipv4Addr {
        let mut filters = Vec::new();
        let mut named = segment;
        while let Some(b) = self.segments.get(named.0).and_then(|s| s.gateway)
            && self.spec(b).mapping.is_none()
        {
            named = self.place(b).outer;
            filters.push((named, b));
        }
        let ip = self.next_v4(named);
        self.holders.insert((segment, IpAddr::V4(ip)), holder);
        for (outside, b) in filters {
            self.holders.insert((outside, IpAddr::V4(ip)), Holder::Behind(b));
        }
        ip
    }

    fn next_v4(&mut self, segment: SegmentId) -> Ipv4Addr {
        let Some(home) = self.segments.get_mut(segment.0) else { return Ipv4Addr::UNSPECIFIED };
        home.hosts += 1;
        let [_, a, b, c] = home.hosts.to_be_bytes();
        // All networks of one depth use the same addresses, as homes do; nested ones must differ.
        let (net, a) = if segment == SegmentId::INTERNET { (11, a) } else { (10, 64 + home.depth) };
        Ipv4Addr::new(net, a, b, c)
    }

    /// Adds a station without a place; [`Self::attach`] gives it one.
    pub(crate) fn add_station(&mut self, link: LinkSpec) -> StationId {
        let (up, down) = (Link::new(link), Link::new(link));
        self.stations.push(Station { segment: SegmentId::INTERNET, v4: None, v6: None, up, down });
        StationId(self.stations.len() - 1)
    }

    /// Moves a station to a segment with new addresses of the wanted families.
    pub(crate) fn attach(&mut self, id: StationId, segment: SegmentId, (v4, v6): (bool, bool)) {
        self.detach(id);
        let ip4 = v4.then(|| self.claim_v4(segment, Holder::Station(id)));
        let ip6 = v6.then(|| {
            self.next_v6 += 1;
            Ipv6Addr::from(0x2001_0db8_0000_0000_0000_0000_0000_0000_u128 + (self.next_v6 << 64) + 1)
        });
        if let Some(ip) = ip6 {
            self.v6.insert(ip, id);
        }
        if let Some(station) = self.stations.get_mut(id.0) {
            (station.segment, station.v4, station.v6) = (segment, ip4, ip6);
        }
    }

    /// Takes a station off the network.
    pub(crate) fn detach(&mut self, id: StationId) {
        let Some(station) = self.stations.get_mut(id.0) else { return };
        if let Some(ip) = station.v4.take() {
            let mut at = station.segment;
            while self.holders.remove(&(at, IpAddr::V4(ip))).is_some()
                && let Some(b) = self.segments.get(at.0).and_then(|s| s.gateway)
                && self.boxes.get(b.0).is_some_and(|p| p.nat.spec.mapping.is_none())
            {
                at = self.boxes.get(b.0).map_or(at, |p| p.outer);
            }
        }
        if let Some(ip) = station.v6.take() {
            self.v6.remove(&ip);
        }
    }

    pub(crate) fn station(&self, id: StationId) -> &Station {
        self.stations.get(id.0).expect("stations are never removed")
    }

    pub(crate) fn station_mut(&mut self, id: StationId) -> &mut Station {
        self.stations.get_mut(id.0).expect("stations are never removed")
    }

    /// Boxes from a segment outward.
    pub(crate) fn chain(&self, segment: SegmentId) -> Vec<BoxId> {
        let mut chain = Vec::new();
        let mut at = segment;
        while let Some(id) = self.segments.get(at.0).and_then(|s| s.gateway) {
            chain.push(id);
            at = self.place(id).outer;
        }
        chain
    }

    pub(crate) fn spec(&self, id: BoxId) -> BoxSpec {
        self.place(id).nat.spec
    }

    fn place(&self, id: BoxId) -> &Place {
        self.boxes.get(id.0).expect("boxes are never removed")
    }

    fn nat(&mut self, id: BoxId) -> &mut NatBox {
        &mut self.boxes.get_mut(id.0).expect("boxes are never removed").nat
    }

    /// The innermost box of a segment forgets all its state.
    pub(crate) fn reboot_box(&mut self, segment: SegmentId) {
        if let Some(id) = self.segments.get(segment.0).and_then(|s| s.gateway) {
            self.nat(id).reboot();
        }
    }

    /// Asks the innermost box to forward to a port of a station.
    pub(crate) fn forward(
        &mut self,
        id: StationId,
        port: u16,
        now: Instant,
        rng: &mut Rng,
    ) -> Option<SocketAddr> {
        let station = self.station(id);
        let inner = SocketAddr::from((station.v4?, port));
        let gateway = self.segments.get(station.segment.0)?.gateway?;
        self.nat(gateway).forward(inner, now, rng)
    }

    /// Sends a datagram of `len` bytes; returns its arrivals at the segment
    /// where the way down to the receiver begins.
    pub(crate) fn send(
        &mut self,
        from: StationId,
        port: u16,
        dst: SocketAddr,
        len: usize,
        now: Instant,
        rng: &mut Rng,
    ) -> [Option<Transit>; 2] {
        let station = self.station_mut(from);
        let ip = match dst {
            SocketAddr::V4(_) => station.v4.map(IpAddr::V4),
            SocketAddr::V6(_) => station.v6.map(IpAddr::V6),
        };
        let (Some(ip), headers) = (ip, if dst.is_ipv4() { 28 } else { 48 }) else { return [None, None] };
        let arrivals = station.up.transmit(now, len + headers, rng);
        let segment = station.segment;
        let mut src = SocketAddr::new(ip, port);
        let Some(reached) = self.outward(segment, &mut src, dst, now, rng) else { return [None, None] };
        let core = if reached == SegmentId::INTERNET { CORE } else { Duration::ZERO };
        arrivals.map(|at| at.map(|at| Transit { at: at + core, segment: reached, src, dst }))
    }

    fn outward(
        &mut self,
        from: SegmentId,
        src: &mut SocketAddr,
        dst: SocketAddr,
        now: Instant,
        rng: &mut Rng,
    ) -> Option<SegmentId> {
        let mut at = from;
        loop {
            if self.is_reached(at, dst) {
                return Some(at);
            }
            let id = self.segments.get(at.0)?.gateway?;
            let place = self.place(id);
            let (outer, spec) = (place.outer, place.nat.spec);
            if dst.ip() == IpAddr::V4(place.nat.outer) && !spec.hairpin {
                return None;
            }
            *src = self.nat(id).outbound(*src, dst, now, rng)?;
            at = outer;
        }
    }

    /// Returns whether the way to `dst` begins on this segment.
    fn is_reached(&self, at: SegmentId, dst: SocketAddr) -> bool {
        match dst.ip() {
            IpAddr::V4(_) => self.holders.contains_key(&(at, dst.ip())),
            IpAddr::V6(ip) => self.v6.get(&ip).is_some_and(|id| {
                let segment = self.station(*id).segment;
                segment == at || self.chain(segment).iter().any(|b| self.place(*b).outer == at)
            }),
        }
    }

    /// A datagram begins its way down; returns whom it reaches, and from where
    /// and at which port it seems to come.
    pub(crate) fn inward(&self, transit: &Transit) -> Option<(StationId, u16)> {
        let mut dst = transit.dst;
        if let IpAddr::V6(ip) = dst.ip() {
            let id = *self.v6.get(&ip)?;
            let mut way = self.chain(self.station(id).segment);
            let cut = way.iter().position(|b| self.place(*b).outer == transit.segment);
            way.truncate(cut.map_or(0, |at| at + 1));
            for b in way.iter().rev() {
                self.place(*b).nat.inbound(transit.src, dst, transit.at)?;
            }
            return Some((id, dst.port()));
        }
        let mut at = transit.segment;
        loop {
            match self.holders.get(&(at, dst.ip()))? {
                Holder::Station(id) => return Some((*id, dst.port())),
                Holder::Outer(b) | Holder::Behind(b) => {
                    let place = self.place(*b);
                    dst = place.nat.inbound(transit.src, dst, transit.at)?;
                    at = place.inner;
                }
            }
        }
    }
}

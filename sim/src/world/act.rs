//! What machines do with datagrams: from one engine's output to another
//! engine's input.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use sw_path::{Leg, LocalAddress, Output, RelayState, Route, SocketId, Source};
use sw_proto::geneve;
use sw_types::{NodeKey, RegionId};

use super::{Event, Owner, World};
use crate::defect::Defect;
use crate::invariant::Violation;
use crate::net::{StationId, Transit};
use crate::relay::STUN_PORTS;
use crate::talk;

/// Time that the operating system takes to open sockets.
const OPEN_SOCKET: Duration = Duration::from_micros(100);
/// Time of a port mapping request at the router.
const MAP_PORT: Duration = Duration::from_millis(30);
/// Length of a pong's datagram (disco.md §3.2).
const PONG_LEN: usize = 110;

impl World {
    /// Performs all that a machine's engine wants done, then arms its timer.
    pub(crate) fn pump(&mut self, host: usize) {
        loop {
            if let Some(output) = self.hosts.get_mut(host).and_then(|h| h.engine.poll_output()) {
                self.perform(host, output);
            } else if let Some(output) = self.hosts.get_mut(host).and_then(|h| h.node.as_mut()?.poll_output())
            {
                self.perform_node(host, output);
            } else {
                break;
            }
        }
        self.arm(host);
    }

    fn perform(&mut self, host: usize, output: Output) {
        match output {
            Output::SendUdp { socket, to, datagram } => self.send_udp(host, socket, to, datagram),
            Output::SendRelay { region, to, datagram } => self.send_frame(host, region, to, datagram),
            Output::SetRoute { peer, route } => self.set_route(host, peer, route),
            Output::EndpointsChanged(endpoints) => {
                if let Some(h) = self.hosts.get_mut(host) {
                    h.endpoints = endpoints.iter().map(|e| e.addr).collect();
                }
                self.tell_endpoints(host, &endpoints);
                self.report_to_control(host);
            }
            Output::HomeRegion(region) => {
                if let Some(h) = self.hosts.get_mut(host) {
                    h.home = Some(region);
                }
                self.connect_relay(host, region);
                self.report_to_control(host);
            }
            Output::MeasureRelayHttp(region) => self.measure_http(host, region),
            Output::OpenSockets(count) => {
                for _ in 0..count {
                    self.queue.push(self.now + OPEN_SOCKET, Event::SocketOpens { host });
                }
            }
            Output::CloseSocket(id) => {
                if let Some(h) = self.hosts.get_mut(host) {
                    h.close_socket(id);
                }
            }
            Output::WantPortMapping(wanted) => self.map_port(host, wanted),
            Output::Rebind => self.rebind(host),
            Output::NetInfo(info) => self.tell_net_info(host, &info),
            // Names are not used here, reports are read from the engine, and nobody is set to relay for others.
            Output::Resolve(_)
            | Output::NetcheckReport(_)
            | Output::PingResult { .. }
            | Output::Forward { .. } => {}
        }
    }

    fn set_route(&mut self, host: usize, peer: NodeKey, route: Route) {
        self.trace.number(host as u64);
        self.trace.bytes(peer.as_bytes());
        self.trace.route(&route);
        let now = self.now;
        let Some(peer) = self.by_key.get(&peer).copied() else { return };
        if let Some(h) = self.hosts.get_mut(host) {
            if route.udp.is_some_and(|leg| leg.vni.is_none()) && route.relay.is_none() {
                h.direct_at.entry(peer).or_insert(now);
            }
            h.set_route(peer, Some(route));
        }
    }

    pub(crate) fn local_addresses(&self, host: usize) -> Vec<LocalAddress> {
        let Some(h) = self.hosts.get(host) else { return Vec::new() };
        let station = self.net.station(h.station);
        let ips = station.v4.map(IpAddr::V4).into_iter().chain(station.v6.map(IpAddr::V6));
        ips.map(|ip| LocalAddress { interface: "eth0".to_owned(), ip, prefix_len: 24 }).collect()
    }

    /// New sockets on the same port; the router is asked for it again.
    pub(super) fn rebind(&mut self, host: usize) {
        if let Some(port) = self.hosts.get(host).map(|h| h.port) {
            self.map_port(host, Some(port));
        }
    }

    pub(crate) fn send_udp(&mut self, host: usize, socket: SocketId, to: SocketAddr, bytes: Vec<u8>) {
        let Some(h) = self.hosts.get(host) else { return };
        let (Some(port), station) = (h.port_of(socket), h.station) else { return };
        self.send_from(station, port, to, bytes);
    }

    fn send_from(&mut self, station: StationId, port: u16, to: SocketAddr, bytes: Vec<u8>) {
        self.figures.datagrams += 1;
        let [first, second] = self.net.send(station, port, to, bytes.len(), self.now, &mut self.rng);
        if let Some(transit) = second {
            self.queue.push(transit.at, Event::Ingress { transit, bytes: bytes.clone() });
        }
        if let Some(transit) = first {
            self.queue.push(transit.at, Event::Ingress { transit, bytes });
        }
    }

    pub(super) fn ingress(&mut self, transit: &Transit, bytes: Vec<u8>) {
        let Some((station, port)) = self.net.inward(transit) else { return };
        let from = transit.src;
        let len = bytes.len() + if from.is_ipv4() { 28 } else { 48 };
        let [first, second] = self.net.station_mut(station).down.transmit(self.now, len, &mut self.rng);
        if let Some(at) = second {
            self.queue.push(at, Event::Deliver { station, port, from, bytes: bytes.clone() });
        }
        if let Some(at) = first {
            self.queue.push(at, Event::Deliver { station, port, from, bytes });
        }
    }

    pub(super) fn deliver(&mut self, station: StationId, port: u16, from: SocketAddr, bytes: &[u8]) {
        self.trace.number(self.now.as_nanos());
        self.trace.number((station.0 as u64) << 32 | (bytes.len() as u64) << 16 | u64::from(port));
        match self.owners.get(station.0) {
            Some(Owner::Relay(index)) => self.stun_request(*index, port, from, bytes),
            Some(Owner::Host(host)) => self.datagram_at(*host, port, from, bytes),
            None => {}
        }
    }

    fn stun_request(&mut self, index: usize, port: u16, from: SocketAddr, bytes: &[u8]) {
        let Some(relay) = self.relays.get(index).filter(|r| r.is_alive) else { return };
        let station = relay.station;
        if STUN_PORTS.contains(&port)
            && let Ok(answer) = sw_proto::stun::answer(bytes, from)
        {
            self.send_from(station, port, from, answer.as_bytes().to_vec());
        }
    }

    fn datagram_at(&mut self, host: usize, port: u16, from: SocketAddr, bytes: &[u8]) {
        if let Some(sender) = self.sender_of(bytes)
            && self.is_cut(sender, host)
        {
            return;
        }
        let is_pong = sw_proto::disco::looks_like(bytes) && bytes.len() == PONG_LEN;
        if self.defect == Some(Defect::DropsPongs) && is_pong {
            return;
        }
        let now = self.now_at(host);
        let Some(h) = self.hosts.get_mut(host).filter(|h| h.is_awake) else { return };
        let Some(socket) = h.socket_at(port) else { return };
        let source = Source::Udp { socket, from };
        if !h.engine.on_datagram(source, bytes, now) {
            self.data_at(host, source, bytes);
        }
        self.pump(host);
    }

    /// The machine that sent a datagram, for faults between two machines: by
    /// the disco key or by the data's own words.
    fn sender_of(&self, bytes: &[u8]) -> Option<usize> {
        if self.cuts.is_empty() {
            return None;
        }
        if let Some(disco) = sw_proto::disco::sender(bytes) {
            return self.hosts.iter().position(|h| h.disco == disco);
        }
        talk::parse(bytes).map(|[_, _, from, _]| from as usize)
    }

    fn is_cut(&mut self, a: usize, b: usize) -> bool {
        match self.cuts.get(&(a.min(b), a.max(b))) {
            Some(loss) => self.rng.chance(*loss),
            None => false,
        }
    }

    /// A data packet of a conversation is due.
    pub(super) fn talk(&mut self, index: usize) {
        let now = self.now;
        let Some(spec) = self.talks.get(index).map(|t| t.spec) else { return };
        if now >= self.start + spec.end {
            return;
        }
        self.queue.push(now + spec.every, Event::Talk { talk: index });
        let Some(peer) = self.hosts.get(spec.to).map(|h| h.key) else { return };
        if !self.hosts.get(spec.from).is_some_and(|h| h.is_awake) {
            return;
        }
        let Some(talk) = self.talks.get_mut(index) else { return };
        let bytes = talk.say(index, now);
        self.figures.data_sent += 1;
        self.with_engine(spec.from, |engine, now| engine.on_traffic(&peer, now));
        self.send_data(spec.from, spec.to, peer, bytes);
    }

    fn send_data(&mut self, host: usize, to: usize, peer: NodeKey, bytes: Vec<u8>) {
        let Some(h) = self.hosts.get(host) else { return };
        let route = h.route(to).unwrap_or_default();
        // Data goes only to peers of the netmap: WireGuard has no key for others.
        if !h.knows(to) {
            return;
        }
        if let Some(Leg { socket, addr, vni }) = route.udp {
            let datagram = match vni {
                None => bytes.clone(),
                Some(vni) => {
                    let header = geneve::Header::data(geneve::Payload::WireGuard, vni).encode();
                    [&header[..], &bytes].concat()
                }
            };
            self.send_udp(host, socket, addr, datagram);
        }
        if let Some(region) = route.relay {
            self.send_frame(host, region, peer, bytes);
        }
    }

    /// A data packet is at a machine.
    pub(crate) fn data_at(&mut self, host: usize, source: Source, bytes: &[u8]) {
        let inner = match geneve::Header::split(bytes) {
            Some((geneve::Header { payload: geneve::Payload::WireGuard, .. }, inner)) => inner,
            Some(_) | None => bytes,
        };
        let Some([index, number, from, to]) = talk::parse(inner) else { return };
        let (from, to) = (from as usize, to as usize);
        // Another machine may have this address by now: it has no key for the packet.
        let Some(key) = self.hosts.get(from).map(|h| h.key).filter(|_| to == host) else { return };
        if !self.hosts.get(host).is_some_and(|h| h.knows(from)) {
            return;
        }
        if self.acked.get(&(to, from)).is_some_and(|since| *since < self.now) {
            self.violate(Violation::ForbiddenTalk { from, to });
        }
        self.figures.data_received += 1;
        self.trace.number(u64::from(number) << 32 | u64::from(index));
        if let Some(talk) = self.talks.get_mut(index as usize) {
            talk.hear(number, self.now);
        }
        let now = self.now_at(host);
        if let Some(h) = self.hosts.get_mut(host) {
            h.engine.on_authenticated(&key, source, now);
        }
        self.pump(host);
    }

    pub(super) fn socket_opens(&mut self, host: usize) {
        let Some(h) = self.hosts.get_mut(host) else { return };
        let id = h.open_socket(&mut self.rng);
        self.with_engine(host, |engine, now| engine.on_socket_opened(id, now));
    }

    fn map_port(&mut self, host: usize, wanted: Option<u16>) {
        let (Some(station), Some(port)) = (self.hosts.get(host).map(|h| h.station), wanted) else { return };
        if let Some(addr) = self.net.forward(station, port, self.now, &mut self.rng) {
            self.queue.push(self.now + MAP_PORT, Event::PortMapped { host, addr: Some(addr) });
        }
    }

    fn measure_http(&mut self, host: usize, region: RegionId) {
        let alive = self.relays.iter().any(|r| r.region == region && r.is_alive);
        let rtt = alive.then(|| self.relay_delay(host, region) * 2);
        let wait = rtt.map_or(Duration::from_secs(1), |rtt| rtt * 3);
        self.queue.push(self.now + wait, Event::RelayHttp { host, region, rtt });
    }

    /// Tells an engine that its relay connection came or went.
    pub(super) fn relay_state(&mut self, host: usize, region: RegionId, state: RelayState) {
        self.with_engine(host, |engine, now| engine.on_relay_state(region, state, now));
    }
}

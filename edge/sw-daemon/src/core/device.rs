//! What data plane and relays report.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;
use sw_dataplane::{DatagramKind, Event};
use sw_filter::{Filter, Gate};
use sw_net::derp_client::DerpEvent;
use sw_node::desired::FilterConfig;
use sw_path::{RelayState, SocketId, Source};
use sw_types::RegionId;
use sw_wg::Source as WgSource;

use super::Core;
use crate::random;

/// How a STUN binding request begins; everything else of STUN is an answer to us.
const STUN_REQUEST: [u8; 2] = [0, 1];

/// The peers that hold a capability, as the netmap tells.
struct Holders<'a>(&'a BTreeMap<String, Vec<IpNet>>);

impl sw_filter::Holders for Holders<'_> {
    fn holders(&self, capability: &str) -> Vec<IpNet> {
        self.0.get(capability).cloned().unwrap_or_default()
    }
}

impl Core {
    pub(super) fn on_device_event(&mut self, event: Event) {
        let now = self.now();
        match event {
            Event::NonWireGuard { socket, from, bytes, kind: DatagramKind::Stun }
                if bytes.starts_with(&STUN_REQUEST) =>
            {
                let answer = self.config.stun.as_ref().and_then(|stun| (stun.0)(&bytes, from));
                if let Some(answer) = answer {
                    self.device.send_udp(socket, from, &answer);
                }
            }
            Event::NonWireGuard {
                socket,
                from,
                bytes,
                kind: kind @ (DatagramKind::Disco | DatagramKind::Stun | DatagramKind::Geneve),
            } => {
                let source = Source::Udp { socket: SocketId(socket.0), from };
                tracing::trace!(%from, ?kind, bytes = bytes.len(), "datagram");
                if !self.paths.on_datagram(source, &bytes, now) {
                    tracing::trace!(%from, "a datagram that nobody wants");
                }
            }
            Event::RelayOut { region, to, bytes } => self.relays.send(region, to, &bytes),
            Event::WantPath(peer) => self.paths.on_traffic(&peer, now),
            Event::PeerActivity(peer) => {
                self.quiet.last_traffic = now.mono;
                self.activity.insert(peer, now.mono);
                self.paths_may_differ();
                self.paths.on_traffic(&peer, now);
            }
            Event::Handshake { peer, .. } => {
                self.activity.insert(peer, now.mono);
                self.paths.on_traffic(&peer, now);
            }
            Event::HandshakeFailed(_) => {}
            Event::TunGone => {
                tracing::error!("the TUN interface was deleted; the daemon ends, so that it is started anew");
                self.is_over = true;
            }
            Event::FirstPacketFrom { peer, source } => {
                let source = match source {
                    WgSource::Udp(from) => Source::Udp { socket: SocketId::MAIN, from },
                    WgSource::PeerRelay { via, .. } => Source::Udp { socket: SocketId::MAIN, from: via },
                    WgSource::Derp { region, from } => Source::Relay { region, from },
                };
                self.paths.on_authenticated(&peer, source, now);
            }
            Event::ServicePacket(packet) => {
                if !self.on_own_packet(&packet) {
                    let device = Arc::clone(&self.device);
                    self.dns.on_packet(&packet, &device);
                }
            }
        }
    }

    pub(super) fn on_relay_event(&mut self, region: RegionId, event: DerpEvent) {
        let now = self.now();
        match event {
            DerpEvent::Connected { .. } => {
                tracing::debug!(%region, "relay is connected");
                self.paths.on_relay_state(region, RelayState::Connected, now);
                self.device.on_relay_ready(region);
            }
            DerpEvent::Packets(packets) => {
                self.paths.on_relay_heard(region, now);
                for received in packets {
                    tracing::trace!(%region, from = received.from.short(), bytes = received.packet.len(), "relayed");
                    let source = Source::Relay { region, from: received.from };
                    if self.paths.on_datagram(source, &received.packet, now) {
                        // It lives and can be reached: a handshake that found it absent need not wait.
                        self.device.on_reachable(&received.from);
                    } else {
                        self.device.on_relayed(region, received.from, received.packet.to_vec());
                    }
                }
            }
            DerpEvent::PeerGone { .. } | DerpEvent::PeerPresent(_) => {}
            DerpEvent::Health(problem) => {
                if let Some(problem) = problem {
                    tracing::warn!(%region, problem, "the relay reports a problem");
                }
            }
            DerpEvent::Disconnected { why, retry_in } => {
                tracing::debug!(%region, why, ?retry_in, "relay connection");
                self.paths.on_relay_state(region, RelayState::Down, now);
            }
        }
    }

    /// Compiles the rules and puts them before everything that comes out of the tunnel. Rules that cannot be
    /// compiled let nothing new in: an error never opens.
    pub(super) fn set_filter(&mut self, filter: &FilterConfig) {
        let netmap = self.node.netmap();
        let own: Vec<IpNet> = netmap.map(|netmap| netmap.self_node.addresses.clone()).unwrap_or_default();
        let served: Vec<IpNet> = filter.local_nets.iter().copied().filter(|net| !own.contains(net)).collect();
        let jailed =
            netmap.into_iter().flat_map(sw_node::Netmap::peers).filter(|peer| peer.is_jailed).map(|p| p.key);
        let jailed = jailed.collect();
        let closed = || Filter::shields_up(&own, &served, random());
        let config = sw_filter::FilterConfig {
            rules: &filter.rules,
            own: &own,
            served: &served,
            lan_flows: sw_filter::LanFlows::Allowed,
            holders: &Holders(&filter.holders),
        };
        let open = if filter.shields_up {
            closed()
        } else {
            Filter::compile(&config, random()).unwrap_or_else(|error| {
                tracing::error!(%error, "the packet filter is invalid: nothing new comes in");
                closed()
            })
        };
        let gate = match &self.gate {
            Some(old) => old.replaced(open, closed(), jailed),
            None => Gate::new(open, closed(), jailed, random()),
        };
        let gate = Arc::new(gate);
        self.gate = Some(Arc::clone(&gate));
        self.device.set_filter(gate);
    }
}

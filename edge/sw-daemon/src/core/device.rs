//! What data plane and relays report.

use sw_dataplane::{DatagramKind, Event};
use sw_net::derp_client::DerpEvent;
use sw_node::desired::FilterConfig;
use sw_path::{RelayState, SocketId, Source};
use sw_types::RegionId;
use sw_wg::Source as WgSource;

use super::Core;

impl Core {
    pub(super) fn on_device_event(&mut self, event: Event) {
        let now = self.now();
        match event {
            Event::NonWireGuard {
                from,
                bytes,
                kind: DatagramKind::Disco | DatagramKind::Stun | DatagramKind::Geneve,
            } => {
                let source = Source::Udp { socket: SocketId::MAIN, from };
                if !self.paths.on_datagram(source, &bytes, now) {
                    tracing::trace!(%from, "a datagram that nobody wants");
                }
            }
            Event::RelayOut { region, to, bytes } => self.relays.send(region, to, &bytes),
            Event::WantPath(peer) => self.paths.on_traffic(&peer, now),
            Event::PeerActivity(peer) => {
                self.activity.insert(peer, now.mono);
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
                let device = std::sync::Arc::clone(&self.device);
                self.dns.on_packet(&packet, &device);
            }
        }
    }

    pub(super) fn on_relay_event(&mut self, region: RegionId, event: DerpEvent) {
        let now = self.now();
        match event {
            DerpEvent::Connected { .. } => self.paths.on_relay_state(region, RelayState::Connected, now),
            DerpEvent::Packets(packets) => {
                self.paths.on_relay_heard(region, now);
                for received in packets {
                    let source = Source::Relay { region, from: received.from };
                    if !self.paths.on_datagram(source, &received.packet, now) {
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

    pub(super) fn set_filter(&mut self, filter: &FilterConfig) {
        let _until_compiled = filter;
    }
}

//! Port mapping: what is asked of the router, and what of it is told on.

use sw_net::portmap::{Mapping, Service, Want};
use sw_proto::portmap::Transport;

use super::Core;

impl Core {
    /// Asks the router for a port, if there is one that may give it (stun-netcheck.md §8): its address is private
    /// and on a network of ours.
    pub(super) fn ask_for_port(&self) {
        self.port_mapper.set(self.wanted_mapping());
    }

    fn wanted_mapping(&self) -> Option<Want> {
        let port = self.mapped_port.filter(|port| *port != 0 && self.node.has_key())?;
        let gateway = self.interfaces.gateway_v4().filter(|gateway| gateway.is_private())?;
        let index = self.interfaces.default_v4.as_ref()?.interface_index;
        let interface = self.interfaces.interfaces.iter().find(|interface| interface.index == index)?;
        let local = interface.addresses.iter().find_map(|net| match net {
            ipnet::IpNet::V4(net) => (net.contains(&gateway)).then(|| net.addr()),
            ipnet::IpNet::V6(_) => None,
        })?;
        Some(Want { gateway, local, port, transport: Transport::Udp })
    }

    pub(super) fn on_mapping(&mut self, mapping: Option<Mapping>) {
        self.mapping = mapping;
        let now = self.now();
        self.paths.on_port_mapped(mapping.map(|mapping| mapping.external), now);
    }

    /// Adds what the path engine cannot know.
    pub(super) fn wire_net_info(&self, info: &sw_path::NetInfo) -> sw_tailcfg::NetInfo {
        let is_by = |service| self.mapping.map(|mapping| mapping.service == service);
        sw_tailcfg::NetInfo {
            mapping_varies_by_dest_ip: info.mapping_varies,
            working_ipv6: Some(info.working_ipv6),
            os_has_ipv6: Some(info.os_has_ipv6),
            working_udp: Some(info.working_udp),
            have_port_map: info.have_port_map,
            pcp: is_by(Service::Pcp),
            pmp: is_by(Service::NatPmp),
            upnp: is_by(Service::Upnp),
            preferred_derp: info.preferred_derp.unwrap_or_default(),
            derp_latency: info
                .derp_latency
                .iter()
                .map(|(key, delay)| (key.clone(), delay.as_secs_f64()))
                .collect(),
            ..sw_tailcfg::NetInfo::default()
        }
    }
}

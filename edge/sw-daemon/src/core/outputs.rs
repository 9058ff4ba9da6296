//! Carries out what the cores ask for.

use std::sync::Arc;
use std::time::Duration;

use sw_dataplane::{PeerConfig as DevicePeer, Roaming, SocketNumber, Way};
use sw_node::desired::{Forwarding, MachineConfig, PeerConfig};
use sw_node::node::Event;
use sw_node::resolve::Resolver;
use sw_node::{ControlOutput, Output};
use sw_os::{Desired, DnsConfig, FirewallConfig, Forwarded, RouterConfig};
use sw_path::{EndpointType, Leg, Output as PathOutput, PathEngine, PeerInfo, Route, SocketId};
use sw_tailcfg::EndpointType as WireEndpointType;
use sw_types::local::{NetfilterMode, NetworkProfile, Notify};
use sw_types::{
    ControlKey, DiscoPrivate, MachineKey, NodeKey, NodePrivate, RelayMap, SERVICE_IPV4, SERVICE_IPV6,
    ServerKeyHash,
};

use super::{Core, Report};
use crate::bus::BusMessage;
use crate::config::TunMode;
use crate::control::{ControlClient, ControlConfig, ServerUrl};

/// The hosted service, for preferences without a server.
const HOSTED_SERVER: &str = "https://controlplane.tailscale.com";
/// Limit of a name look-up.
const RESOLVE_MAX: Duration = Duration::from_secs(5);

impl Core {
    /// Drains both cores until neither has anything to say.
    pub(super) fn pump(&mut self) {
        loop {
            let mut is_quiet = true;
            while let Some(output) = self.node.poll_output() {
                self.perform(output);
                is_quiet = false;
            }
            while let Some(output) = self.paths.poll_output() {
                self.perform_path(output);
                is_quiet = false;
            }
            if is_quiet {
                return;
            }
        }
    }

    fn perform(&mut self, output: Output) {
        let now = self.now();
        match output {
            Output::Control(output) => self.perform_control(output),
            Output::WantNodeKey => self.node.on_node_key(NodePrivate::generate(crate::random()), now),
            Output::Identity(key) => self.set_identity(key),
            Output::Machine(machine) => self.set_machine(machine),
            Output::Resolver(config) => self.resolver.store(Arc::new(Resolver::new(config))),
            Output::Peers { changed, removed } => {
                for key in removed {
                    self.paths.on_peer_removed(&key);
                    self.device.remove_peer(&key);
                    self.activity.remove(&key);
                    self.ways.forget(&key, now.mono);
                }
                for peer in changed {
                    self.set_peer(peer);
                }
                self.refresh_peer_relays();
            }
            Output::Filter(filter) => {
                self.set_filter(&filter);
                self.refresh_peer_relays();
            }
            Output::RelayMap(map) => self.set_relay_map(map),
            Output::Save => self.save(),
            Output::CacheNetmap => self.remember.on_change(now.mono),
            Output::Ping(request) => self.answer_ping_request(request),
            Output::Event(event) => self.tell(event),
        }
    }

    fn perform_control(&mut self, output: ControlOutput) {
        let config = self.control_config();
        self.control.perform(output, || config);
    }

    fn control_config(&self) -> ControlConfig {
        let prefs = self.node.prefs();
        let persist = prefs.config.as_ref();
        let url = if prefs.control_url.is_empty() { HOSTED_SERVER } else { &prefs.control_url };
        let further = persist.map(|persist| persist.server_urls.as_slice()).unwrap_or_default();
        let own = self.config.local_server.as_deref();
        let urls = own.into_iter().chain([url]).chain(further.iter().map(String::as_str));
        let pinned = persist.and_then(|persist| persist.server_key.parse::<MachineKey>().ok());
        ControlConfig {
            authority: url.parse::<ServerUrl>().map(|url| url.authority()).unwrap_or_default(),
            servers: urls.filter_map(|url| url.parse::<ServerUrl>().ok()).collect(),
            machine: Arc::clone(&self.store.machine),
            pinned: pinned.map(|key| ControlKey::from_bytes(*key.as_bytes())).or(self.config.server_key),
            key_hash: None,
            dial: self.sockets.dial_options(),
        }
    }

    /// A client for the servers of a join string, whose key must hash to the invite's.
    pub(crate) fn client_for(&self, servers: &[String], key_hash: ServerKeyHash) -> ControlClient {
        let servers: Vec<ServerUrl> = servers.iter().filter_map(|url| url.parse().ok()).collect();
        ControlClient::new(ControlConfig {
            authority: servers.first().map(ServerUrl::authority).unwrap_or_default(),
            servers,
            machine: Arc::clone(&self.store.machine),
            pinned: None,
            key_hash: Some(key_hash),
            dial: self.sockets.dial_options(),
        })
    }

    /// The node's key is another one: data plane, relays and path engine begin anew with it.
    fn set_identity(&mut self, key: Option<NodeKey>) {
        let text = self.node.prefs().config.as_ref().map(|config| config.private_node_key.0.clone());
        let private = || text.as_deref().and_then(|text| NodePrivate::from_text(text).ok());
        let (for_device, for_relays) = if key.is_some() { (private(), private()) } else { (None, None) };
        self.device.set_private_key(for_device);
        self.device.close_extra_sockets();
        self.relays.set_key(for_relays.map(Arc::new));
        let now = self.now();
        if let Some(key) = &key {
            self.store.write_disco_key(key, &self.disco);
        }
        let disco = DiscoPrivate::from_bytes(*self.disco);
        let config = super::start::path_config(&self.config);
        self.paths = PathEngine::new(config, disco, key.unwrap_or_default(), crate::random());
        self.paths.on_bound_port(self.device.local_port(), now);
        self.paths.on_relay_map(&self.relay_map, now);
        self.tell_local_addresses();
        for peer in self.configured_peers() {
            self.set_peer(peer);
        }
        self.refresh_peer_relays();
    }

    fn configured_peers(&self) -> Vec<PeerConfig> {
        let Some(netmap) = self.node.netmap() else { return Vec::new() };
        let wall = self.now().wall;
        let known = netmap.peers().filter(|node| self.device.peer(&node.key).is_some());
        known
            .filter_map(|node| sw_node::desired::peer_config(netmap, node, self.node.prefs(), wall))
            .collect()
    }

    fn set_peer(&mut self, peer: PeerConfig) {
        let now = self.now();
        self.device.upsert_peer(DevicePeer {
            key: peer.key,
            psk: None,
            keepalive: None,
            allowed: peer.allowed_ips.clone(),
            path: None,
            roaming: if peer.is_wireguard_only { Roaming::FollowPackets } else { Roaming::ByOwner },
        });
        let mut endpoints = peer.endpoints;
        let last = self.ways.of(&peer.key).filter(|last| peer.disco.is_some() && !endpoints.contains(last));
        endpoints.extend(last);
        let info = PeerInfo { node: peer.key, disco: peer.disco, endpoints, home: peer.home, cap: peer.cap };
        self.paths.on_peer(info, now);
    }

    fn set_machine(&mut self, machine: Option<MachineConfig>) {
        let now = self.now();
        let own = machine.as_ref().map(|machine| machine.addresses.iter().copied().collect::<Vec<_>>());
        if let Some(network) = &self.network {
            network.set_addresses(own.as_deref().unwrap_or_default());
        }
        let advertised = self.node.prefs().advertise_routes.clone().unwrap_or_default();
        let services =
            if own.is_some() { vec![SERVICE_IPV4.into(), SERVICE_IPV6.into()] } else { Vec::new() };
        self.device
            .set_local_addrs(own.unwrap_or_default().into_iter().chain(advertised).collect(), services);
        let TunMode::Interface(name) = &self.config.tun else {
            self.refresh_peer_api();
            let _said_in_log = self.refresh_serving();
            self.node.on_machine_ready(now);
            return;
        };
        let Some(reconciler) = &self.reconciler else { return };
        let mode = self.node.prefs().netfilter_mode;
        let desired = match machine {
            None => Desired::default(),
            Some(machine) => Desired {
                router: Some(RouterConfig {
                    interface: name.clone(),
                    mtu: sw_node::desired::MTU,
                    addresses: machine.addresses,
                    routes: machine.routes,
                    throw_routes: machine.throw_routes,
                }),
                firewall: firewall(name, self.device.local_port(), machine.forwarding, mode),
                dns: DnsConfig {
                    nameservers: machine.dns.nameservers,
                    search_domains: machine.dns.search_domains,
                    match_domains: machine.dns.match_domains,
                },
            },
        };
        reconciler.set(desired);
    }

    fn set_relay_map(&mut self, map: RelayMap) {
        let now = self.now();
        self.relay_map.clone_from(&map);
        self.paths.on_relay_map(&map, now);
        self.relays.set_map(map);
    }

    fn save(&mut self) {
        let network = self.node.netmap().map(|netmap| NetworkProfile {
            magic_dns_name: netmap.magic_dns_suffix().to_owned(),
            domain_name: netmap.domain.clone(),
            display_name: netmap.domain.clone(),
        });
        let wall = self.now().wall;
        if let Err(problem) = self.store.save(self.node.prefs(), network.unwrap_or_default(), wall) {
            tracing::error!(what = problem.what, why = problem.why, "the state was not saved");
            self.bus.notify(Notify { problem: Some(problem), ..Notify::default() });
        }
    }

    /// Writes the network to disk, off this task.
    pub(super) fn write_cache(&mut self) {
        let Some(path) = self.store.cache_path() else { return };
        match self.node.netmap().filter(|_| self.node.has_key()) {
            None => {
                self.remember.forget();
                self.store.remove_cache();
            }
            Some(netmap) => {
                let (message, now) = (netmap.to_message(), self.now().mono);
                self.remember.write(path, message, now);
            }
        }
    }

    fn tell(&mut self, event: Event) {
        let notify = match event {
            Event::State(state) => {
                let _no_service_manager = sw_os::service::notify(&format!("STATUS={}\n", state.name()));
                Notify { state: Some(state), ..Notify::default() }
            }
            Event::PrefsChanged => {
                self.control_follows_prefs();
                self.refresh_peer_relays();
                Notify { prefs: Some(self.node.prefs().without_secrets()), ..Notify::default() }
            }
            Event::NetmapChanged { peers, removed, is_whole } => {
                self.bus.send(BusMessage::Netmap {
                    peers: Arc::new(peers),
                    removed: Arc::new(removed),
                    is_whole,
                });
                return;
            }
            Event::BrowseToUrl(url) => Notify { browse_to_url: Some(url), ..Notify::default() },
            Event::LoginFinished => {
                Notify { login_finished: Some(serde_json::json!({})), ..Notify::default() }
            }
            Event::Problem(problem) => Notify {
                err_message: Some(problem.what.trim_end_matches('.').to_owned()),
                problem: Some(problem),
                ..Notify::default()
            },
        };
        self.bus.notify(notify);
    }

    fn control_follows_prefs(&mut self) {
        let url = self.node.prefs().control_url.parse::<ServerUrl>().ok();
        let is_other = match (self.control.client(), url) {
            (Some(client), Some(url)) => client.authority() != url.authority(),
            (Some(_), None) | (None, _) => false,
        };
        if is_other {
            self.control.forget_client();
        }
    }

    fn perform_path(&mut self, output: PathOutput) {
        let now = self.now();
        match output {
            PathOutput::SendUdp { to, datagram, socket } => {
                tracing::trace!(%to, ?socket, bytes = datagram.len(), "to find a path");
                self.device.send_udp(SocketNumber(socket.0), to, &datagram);
            }
            PathOutput::SendRelay { region, to, datagram } => {
                tracing::trace!(%region, to = to.short(), bytes = datagram.len(), "to find a path");
                self.relays.send(region, to, &datagram);
            }
            PathOutput::SetRoute { peer, route } => {
                tracing::debug!(peer = peer.short(), path = ?route.path(), "path");
                if let Some(Leg { socket: SocketId::MAIN, addr, vni: None }) = route.udp {
                    self.ways.note(peer, addr, now.mono);
                }
                self.device.set_way(&peer, way(route));
                self.paths_may_differ();
            }
            PathOutput::Forward { vni, legs } => {
                tracing::debug!(%vni, ?legs, "peer relay");
                self.device.set_forward(vni, legs);
            }
            PathOutput::EndpointsChanged(endpoints) => {
                let told =
                    endpoints.iter().map(|endpoint| (endpoint.addr, wire_kind(endpoint.kind))).collect();
                self.node.on_endpoints(told, now);
            }
            PathOutput::HomeRegion(region) => self.relays.set_home(region),
            PathOutput::NetInfo(info) => {
                let info = self.wire_net_info(&info);
                self.node.on_net_info(info, now);
            }
            PathOutput::NetcheckReport(_) => {}
            PathOutput::MeasureRelayHttp(region) => self.measure_relay(region),
            PathOutput::Resolve(name) => {
                let reports = self.reports.clone();
                tokio::spawn(async move {
                    let looked_up =
                        tokio::time::timeout(RESOLVE_MAX, tokio::net::lookup_host((name.clone(), 0))).await;
                    let addresses = match looked_up {
                        Ok(Ok(found)) => found.map(|address| address.ip()).collect(),
                        Ok(Err(_)) | Err(_) => Vec::new(),
                    };
                    let _stopping = reports.send(Report::Resolved { name, addresses }).await;
                });
            }
            PathOutput::WantPortMapping(port) => {
                self.mapped_port = port;
                self.ask_for_port();
            }
            PathOutput::OpenSockets(count) => self.open_sockets(count),
            PathOutput::CloseSocket(socket) => self.device.close_socket(SocketNumber(socket.0)),
            PathOutput::Rebind => self.rebind(),
            PathOutput::PingResult { id, outcome, .. } => {
                if let Some(reply) = self.pings.remove(&id) {
                    let _asker_gone = reply.send(outcome);
                }
            }
        }
    }

    fn open_sockets(&mut self, count: u16) {
        let now = self.now();
        for _ in 0..count {
            match self.device.open_socket() {
                Ok(SocketNumber(number)) => self.paths.on_socket_opened(SocketId(number), now),
                // The engine goes on with those it got.
                Err(error) => return tracing::warn!(%error, "no more UDP sockets"),
            }
        }
    }

    fn rebind(&mut self) {
        let port = self.device.local_port();
        let result = self.device.rebind(port).or_else(|_| self.device.rebind(0));
        if let Err(error) = result {
            tracing::warn!(%error, "the UDP sockets could not be bound anew");
        }
        let now = self.now();
        self.paths.on_bound_port(self.device.local_port(), now);
    }
}

/// Which rules of the packet filter are ours.
fn firewall(
    interface: &str,
    port: u16,
    forwarding: Option<Forwarding>,
    mode: NetfilterMode,
) -> Option<FirewallConfig> {
    let forwarding = forwarding.map(|forwarding| match forwarding {
        Forwarding::Masqueraded => Forwarded::Masqueraded,
        Forwarding::Unchanged => Forwarded::Unchanged,
    });
    let diverts = match mode {
        NetfilterMode::Off => return None,
        NetfilterMode::NoDivert => false,
        NetfilterMode::On => true,
    };
    Some(FirewallConfig { interface: interface.to_owned(), port, forwarding, diverts })
}

/// How the data plane reaches a peer by this route.
fn way(route: Route) -> Option<Way> {
    let path = route.path()?;
    Some(match route.udp {
        Some(leg) => Way { path, socket: SocketNumber(leg.socket.0), relay_copy: route.relay },
        None => Way::from(path),
    })
}

fn wire_kind(kind: EndpointType) -> WireEndpointType {
    WireEndpointType(kind as i32)
}

//! What the LocalAPI asks and orders, on the node's task.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde_json::{Value, json};
use sw_node::grants;
use sw_node::node::profile_of;
use sw_node::status::{PeerRuntime, StatusContext, region_code, status};
use sw_path::{PingOutcome, Verdict};
use sw_types::local::{BackendState, MaskedPrefs, Prefs, PrefsError, StartOptions, Status, UserProfile};
use sw_types::problem::Slug;
use sw_types::{NodeId, NodeKey, NodePrivate, Path, RegionId, Secret, UnixTime, UserId};
use tokio::sync::oneshot;

use super::{Core, Report};
use crate::config::TunMode;

/// A peer counts as active for this long after the last packet to it (localapi-cli.md §A4).
pub(super) const ACTIVE_FOR: Duration = Duration::from_secs(45);
/// Limit of a latency measurement over HTTP.
const RELAY_HTTP_MAX: Duration = Duration::from_secs(3);

/// This node may send and take files.
pub(crate) const CAP_FILES: &str = "https://tailscale.com/cap/file-sharing";
/// The peer takes files of this node, whoever it belongs to.
const CAP_FILES_TARGET: &str = "https://tailscale.com/cap/file-sharing-target";

/// Whom an address belongs to.
pub(crate) enum PingTarget {
    /// This node itself.
    Own {
        name: String,
    },
    Peer {
        key: NodeKey,
        name: String,
        ip: IpAddr,
    },
    Unknown,
}

impl Core {
    pub(crate) fn status(&self, with_peers: bool) -> Status {
        let context = StatusContext {
            version: crate::VERSION_LONG.to_owned(),
            has_tun: matches!(self.config.tun, TunMode::Interface(_)),
            health: self.health(),
            notices: self.notices(),
            with_peers,
        };
        status(&self.node, context, |key| self.peer_runtime(key), self.now().wall)
    }

    pub(super) fn peer_runtime(&self, key: &NodeKey) -> PeerRuntime {
        let Some(stats) = self.device.peer(key) else { return PeerRuntime::default() };
        let now = self.now();
        let report = self.paths.report(key, now);
        let path = report.as_ref().and_then(|report| report.route.path()).or(stats.path);
        let used = report.as_ref().and_then(|report| {
            report.candidates.iter().find(|candidate| candidate.verdict == Verdict::InUse)
        });
        let is_relayed = matches!(path, Some(Path::Derp(_)));
        let latency = match used {
            Some(candidate) if !is_relayed => candidate.rtt,
            Some(_) | None => report.as_ref().and_then(|report| report.relay_rtt),
        };
        let last_sent = self.activity.get(key).copied();
        let is_active = last_sent.is_some_and(|at| now.mono - at < ACTIVE_FOR);
        PeerRuntime {
            direct: match path {
                Some(Path::Direct(address)) if is_active => address.to_string(),
                Some(Path::Direct(_) | Path::PeerRelay { .. } | Path::Derp(_)) | None => String::new(),
            },
            peer_relay: match path {
                Some(Path::PeerRelay { addr, vni }) => format!("{addr}:vni:{vni}"),
                Some(Path::Direct(_) | Path::Derp(_)) | None => String::new(),
            },
            rx_bytes: stats.received_bytes,
            tx_bytes: stats.sent_bytes,
            last_handshake: stats.last_handshake.unwrap_or_default(),
            last_write: last_sent.map(|at| now.wall - (now.mono - at)).unwrap_or_default(),
            is_active,
            is_configured: true,
            reason: if is_relayed { self.relay_reason(report.as_ref()) } else { String::new() },
            latency_seconds: latency.map(|latency| latency.as_secs_f64()),
        }
    }

    /// One of the reasons of ux.md §2.4.
    pub(super) fn relay_reason(&self, report: Option<&sw_path::PeerReport>) -> String {
        let Some(report) = report else { return String::new() };
        let own_report = self.paths.net_report();
        let reason = if own_report.is_some_and(|own| !own.udp) {
            "UDP blocked"
        } else if report.own_nat.is_hard() && report.peer_nat.is_none_or(sw_path::NatKind::is_hard) {
            "hard NAT here"
        } else if report.peer_nat.is_some_and(sw_path::NatKind::is_hard) {
            "hard NAT there"
        } else {
            "trying direct"
        };
        reason.to_owned()
    }

    /// What is wrong, in sentences.
    pub(crate) fn health(&self) -> Vec<String> {
        let mut health = Vec::new();
        if let Some(problem) = self.node.problem() {
            health.push(problem.what.clone());
        }
        let prefs = self.node.prefs();
        if prefs.logged_out && !prefs.control_url.is_empty() && health.is_empty() {
            health.push("it was signed out here.".to_owned());
        }
        if let Some(error) = &self.applied.router_error {
            health.push(format!("The routes could not be set: {error}"));
        }
        if let Some(error) = &self.applied.firewall_error {
            health.push(format!("The routes that this machine offers do not work: {error}"));
        }
        health.extend(self.forwarding_problem());
        if let Some(error) = &self.applied.dns_error {
            health.push(format!("The names of the network do not resolve on this machine: {error}"));
        }
        let Some(netmap) = self.node.netmap() else { return health };
        if self.node.state() == BackendState::Running && self.relays.is_home_silent() {
            health.push("The relay of this machine does not answer.".to_owned());
        }
        let now = self.now().wall;
        health.extend(clock_problem(netmap.clock_offset_nanos, now));
        health.extend(self.warnings());
        health.extend(netmap.health.iter().cloned());
        health.extend(
            netmap.display_messages.values().map(|message| format!("{}: {}", message.title, message.text)),
        );
        health
    }

    /// What the kernel lacks for the routes that this machine offers; a sentence with the way out.
    pub(crate) fn forwarding_problem(&self) -> Option<String> {
        let routes = self.node.prefs().advertise_routes.as_deref().filter(|routes| !routes.is_empty())?;
        // Without a TUN it is this process that passes packets on.
        self.reconciler.as_ref()?;
        let [v4, v6] = sw_os::forwards_packets();
        let lacks = |is_v4: bool, forwards: Option<bool>| {
            routes.iter().any(|net| net.addr().is_ipv4() == is_v4) && forwards == Some(false)
        };
        let setting = match (lacks(true, v4), lacks(false, v6)) {
            (false, false) => return None,
            (true, false) => "net.ipv4.ip_forward=1",
            (false, true) => "net.ipv6.conf.all.forwarding=1",
            (true, true) => "net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
        };
        Some(format!(
            "This machine offers routes, but its kernel passes no packets on. To change it: sudo sysctl -w {setting}"
        ))
    }

    pub(crate) fn prefs_shown(&self) -> Prefs {
        self.node.prefs().without_secrets()
    }

    pub(crate) fn change_prefs(&mut self, change: &MaskedPrefs) -> Result<Prefs, PrefsError> {
        let prefs = change.apply_to(self.node.prefs())?;
        let now = self.now();
        self.node.on_prefs(prefs, now);
        Ok(self.prefs_shown())
    }

    pub(crate) fn start_session(&mut self, options: StartOptions) {
        let now = self.now();
        let key = NodePrivate::generate(crate::random());
        self.node.on_start(options.update_prefs, Secret::from(options.auth_key), key, now);
    }

    pub(crate) fn login_interactive(&mut self) {
        let now = self.now();
        self.node.on_login_interactive(NodePrivate::generate(crate::random()), now);
    }

    pub(crate) fn log_out(&mut self) {
        let now = self.now();
        self.node.on_logout(now);
    }

    /// `whois` (localapi-cli.md §A3): a node key, an address, or an address with port.
    pub(crate) fn whois(&self, words: &str) -> Option<Value> {
        let netmap = self.node.netmap()?;
        let node = match words.parse::<NodeKey>() {
            Ok(key) => netmap.node_by_key(&key),
            Err(_) => netmap.node_by_address(parse_address(words)?),
        }?;
        let profile = profile_of(netmap, node.user).unwrap_or_default();
        let (rules, holds) = (netmap.filter_rules(), |name: &str| node.cap_map.contains_key(name));
        let own = netmap.self_node.addresses.iter().map(|net| net.addr());
        let caps: sw_tailcfg::CapMap = node
            .addresses
            .iter()
            .zip(own)
            .flat_map(|(src, dst)| grants::granted(&rules, src.addr(), dst, holds))
            .collect();
        Some(json!({
            "Node": node_json(netmap.magic_dns_suffix(), node),
            "UserProfile": profile,
            "CapMap": caps,
        }))
    }

    pub(crate) fn node_by_id(&self, id: NodeId) -> Option<Value> {
        let netmap = self.node.netmap()?;
        let node = if netmap.self_node.id == id { &netmap.self_node } else { netmap.peer(id)? };
        Some(node_json(netmap.magic_dns_suffix(), node))
    }

    /// Whom files can be sent to, and where: machines of the same person, and those that the policy names
    /// (node-services.md §4).
    pub(crate) fn file_targets(&self) -> Vec<(std::sync::Arc<sw_tailcfg::Node>, String)> {
        let Some(netmap) = self.node.netmap() else { return Vec::new() };
        let own = &netmap.self_node;
        if !own.cap_map.contains_key(CAP_FILES) {
            return Vec::new();
        }
        let rules = netmap.filter_rules();
        let is_target = |node: &sw_tailcfg::Node| {
            let own_addresses = own.addresses.iter().map(|net| net.addr());
            node.user == own.user
                || node.addresses.iter().zip(own_addresses).any(|(src, dst)| {
                    let holds = |name: &str| node.cap_map.contains_key(name);
                    grants::granted(&rules, src.addr(), dst, holds).contains_key(CAP_FILES_TARGET)
                })
        };
        let targets = netmap.peers().filter(|node| is_target(node));
        targets
            .filter_map(|node| Some((node.clone(), sw_node::desired::peer_api_url(netmap, node)?)))
            .collect()
    }

    /// A node as programs of the official client read it.
    pub(crate) fn node_shown(&self, suffix: &str, node: &sw_tailcfg::Node) -> Value {
        node_json(suffix, node)
    }

    /// Where the API of the peer with this address is.
    pub(crate) fn peer_api_url(&self, ip: IpAddr) -> Option<String> {
        let netmap = self.node.netmap()?;
        sw_node::desired::peer_api_url(netmap, netmap.node_by_address(ip)?)
    }

    /// The addresses of a name of the network.
    pub(crate) fn look_up(&self, name: &str) -> Vec<IpAddr> {
        self.resolver.load().lookup(name).map(<[IpAddr]>::to_vec).unwrap_or_default()
    }

    /// Whether packets to this address go into the network.
    pub(crate) fn is_inside(&self, ip: IpAddr) -> bool {
        self.device.owner(ip).is_some() || sw_types::is_tailnet_ip(ip)
    }

    /// The network as this process sees it, in userspace mode.
    pub(crate) fn network(&self) -> Option<crate::userspace::Network> {
        self.network.clone()
    }

    pub(crate) fn user_profile(&self, id: UserId) -> Option<UserProfile> {
        profile_of(self.node.netmap()?, id)
    }

    pub(crate) fn ping_target(&self, ip: IpAddr) -> PingTarget {
        let Some(netmap) = self.node.netmap() else { return PingTarget::Unknown };
        match netmap.node_by_address(ip) {
            Some(node) if node.id == netmap.self_node.id => PingTarget::Own { name: short_name(&node.name) },
            Some(node) => PingTarget::Peer { key: node.key, name: short_name(&node.name), ip },
            None => match self.device.owner(ip).and_then(|key| netmap.peer_by_key(&key)) {
                Some(node) => {
                    let ip = node.addresses.first().map_or(ip, |net| net.addr());
                    PingTarget::Peer { key: node.key, name: short_name(&node.name), ip }
                }
                None => PingTarget::Unknown,
            },
        }
    }

    /// Sends a disco ping; the answer, or that there is none, comes out of the receiver.
    pub(crate) fn ping_path(&mut self, key: &NodeKey, size: u16) -> oneshot::Receiver<PingOutcome> {
        let now = self.now();
        let (reply, answer) = oneshot::channel();
        self.paths.on_traffic(key, now);
        let id = self.paths.on_ping_request(key, size, now);
        self.pings.insert(id, reply);
        answer
    }

    pub(crate) fn region_code(&self, region: RegionId) -> String {
        self.node.netmap().map(|netmap| region_code(netmap, region)).unwrap_or_default()
    }

    /// The last netcheck in the official form (localapi-cli.md §B7), with names of regions.
    pub(crate) fn netcheck(&self) -> Value {
        let now = self.now().wall;
        let Some(report) = self.paths.net_report() else { return json!({ "Now": now, "UDP": false }) };
        let nanos = |map: &std::collections::BTreeMap<RegionId, Duration>| -> Value {
            map.iter()
                .map(|(id, delay)| {
                    (id.to_string(), json!(u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX)))
                })
                .collect::<serde_json::Map<_, _>>()
                .into()
        };
        let address =
            |address: Option<SocketAddr>| address.map(|address| address.to_string()).unwrap_or_default();
        let regions: serde_json::Map<String, Value> = self
            .relay_map
            .regions
            .values()
            .map(|region| (region.id.to_string(), json!({ "Code": region.code, "Name": region.name })))
            .collect();
        json!({
            "Now": now,
            "UDP": report.udp,
            "IPv6": report.global_v6.is_some(),
            "IPv4": report.global_v4.is_some(),
            "IPv6CanSend": report.ipv6,
            "IPv4CanSend": report.ipv4,
            "OSHasIPv6": self.interfaces.interfaces.iter().flat_map(|interface| &interface.addresses).any(|net| net.addr().is_ipv6()),
            "ICMPv4": false,
            "MappingVariesByDestIP": report.mapping_varies,
            "UPnP": null,
            "PMP": null,
            "PCP": null,
            "PreferredDERP": report.home.unwrap_or_default(),
            "RegionLatency": nanos(&report.latency),
            "RegionV4Latency": nanos(&report.latency_v4),
            "RegionV6Latency": nanos(&report.latency_v6),
            "GlobalV4": address(report.global_v4),
            "GlobalV6": address(report.global_v6),
            "CaptivePortal": null,
            "SamewireRegions": regions,
        })
    }

    pub(super) fn measure_relay(&mut self, region: RegionId) {
        let Some(node) = self.relay_map.regions.get(&region).and_then(|region| region.nodes.first()).cloned()
        else {
            return;
        };
        let (dial, reports) = (self.sockets.dial_options(), self.reports.clone());
        tokio::spawn(async move {
            // The time of a TCP handshake stands for that of a request (stun-netcheck.md §4.5).
            let begin = std::time::Instant::now();
            let connected =
                tokio::time::timeout(RELAY_HTTP_MAX, sw_net::dial::connect_node(&dial, &node)).await;
            let rtt = matches!(connected, Ok(Ok(_))).then(|| begin.elapsed());
            let _stopping = reports.send(Report::RelayHttp { region, rtt }).await;
        });
    }

    /// Answers what the server wants to know through a ping request (control.md §5.15).
    pub(super) fn answer_ping_request(&mut self, request: sw_tailcfg::PingRequest) {
        let Some(client) = self.control.client().cloned() else { return };
        crate::ping::answer_server(client, request);
    }
}

/// What is said of a clock that is this many nanoseconds behind that of the server.
fn clock_problem(behind_nanos: i128, now: UnixTime) -> Option<String> {
    let seconds = u64::try_from(behind_nanos.unsigned_abs() / 1_000_000_000).ok().filter(|s| *s > 0)?;
    let time = match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    };
    let direction = if behind_nanos > 0 { "behind" } else { "ahead" };
    let server = UnixTime::from_nanos(now.as_nanos() + behind_nanos).to_string();
    let problem = Slug::ClockWrong.problem(&[
        ("time", &time),
        ("direction", direction),
        ("server", &server),
        ("own", &now.to_string()),
    ]);
    Some(format!("{} To set it: {}.", problem.what, problem.fix))
}

fn parse_address(words: &str) -> Option<IpAddr> {
    words.parse().ok().or_else(|| words.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

pub(super) fn short_name(name: &str) -> String {
    name.split('.').next().unwrap_or_default().to_owned()
}

/// A node with the names that official clients compute for themselves.
fn node_json(suffix: &str, node: &sw_tailcfg::Node) -> Value {
    let mut value = serde_json::to_value(node).unwrap_or_default();
    let full = node.name.trim_end_matches('.');
    let name = full.strip_suffix(suffix).map_or(full, |name| name.trim_end_matches('.'));
    if let Some(fields) = value.as_object_mut() {
        fields.insert("ComputedName".to_owned(), json!(name));
        fields.insert("ComputedNameWithHost".to_owned(), json!(name));
        fields.entry("AllowedIPs").or_insert_with(|| json!(node.effective_allowed_ips()));
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_clock_is_said_with_its_size_and_direction() {
        let now = UnixTime::from_secs(1_700_000_000);
        let said = clock_problem(4 * 3600 * 1_000_000_000, now).expect("four hours");
        assert!(
            said.starts_with("this machine's clock is 4 h behind. To set it: sudo timedatectl"),
            "{said}"
        );
        let said = clock_problem(-90 * 1_000_000_000, now).expect("a minute and a half");
        assert!(said.starts_with("this machine's clock is 90 s ahead."), "{said}");
        assert_eq!(clock_problem(0, now), None);
    }
}

//! Machines and settings in the shapes of the wire.

use std::sync::Arc;

use ipnet::IpNet;
use serde_json::Value;
use sw_tailcfg::{
    CapMap, DisplayMessage, DnsConfig, DnsRecord, Hostinfo, PeerChange, Resolver, Severity, UserProfile,
};
use sw_types::{CapVer, NodeId, Now, StableNodeId, UnixTime, UserId};

use crate::encode::{Object, to_json};
use crate::live::{Live, Stamp};
use crate::record::{Nameserver, Node, Role, TAGGED_DEVICES};
use crate::routes::is_exit;
use crate::rules::Class;
use crate::tailnet::Tailnet;

/// Attributes every machine gets (control.md §7.2): names without values.
const BASE_ATTRIBUTES: [&str; 5] =
    ["ssh-behavior-v1", "ssh-env-vars", "probe-udp-lifetime", "store-appc-routes", "cache-network-maps"];

const CAP_ADMIN: &str = "https://tailscale.com/cap/is-admin";
const CAP_OWNER: &str = "https://tailscale.com/cap/is-owner";
const CAP_FILES: &str = "https://tailscale.com/cap/file-sharing";
const CAP_SSH: &str = "https://tailscale.com/cap/ssh";

/// Attributes that peers are shown too.
const PEER_ATTRIBUTES: [&str; 2] = ["suggest-exit-node", "dns-subdomain-resolve"];

/// Warn of a key that expires within this time.
const EXPIRY_WARNING: std::time::Duration = std::time::Duration::from_secs(3 * 24 * 60 * 60);

/// Whether a viewer needs the old forms (control.md §7.1): `DERP`, never a null `AllowedIPs`.
pub(crate) fn is_legacy(cap: CapVer) -> bool {
    cap < CapVer::HOME_DERP
}

impl Tailnet {
    /// The machine as it is told about itself.
    pub(crate) fn own_node(&self, id: NodeId, cap: CapVer, now: Now) -> Option<sw_tailcfg::Node> {
        let (node, live) = (self.state.node(id)?, self.live.get(&id)?);
        let mut wire = self.common_node(node, live, &live.routes, is_legacy(cap), now);
        wire.hostinfo = Some(Arc::clone(&live.facts.host));
        wire.online = Some(true);
        wire.last_seen = None;
        wire.machine = node.machine_key;
        wire.machine_authorized = self.is_admitted(id);
        wire.cap_map = self.own_attributes(node, live);
        Some(wire)
    }

    /// Appends a peer as JSON; nothing if it does not exist.
    pub(crate) fn append_peer(
        &mut self,
        json: &mut Vec<u8>,
        viewer: Class,
        id: NodeId,
        legacy: bool,
        now: Now,
    ) {
        let routes = self.routes_seen(viewer, id);
        let slot = usize::from(legacy);
        let plain = routes.is_empty();
        if plain && let Some(ready) = self.live.get(&id).and_then(|live| live.json[slot].as_ref()) {
            json.extend_from_slice(ready);
            return;
        }
        let (Some(node), Some(live)) = (self.state.node(id), self.live.get(&id)) else {
            return;
        };
        let mut wire = self.common_node(node, live, &routes, legacy, now);
        wire.hostinfo = Some(Arc::new(peer_host(&live.facts.host)));
        wire.machine_authorized = true;
        wire.cap_map = peer_attributes(live);
        let text = to_json(&wire);
        json.extend_from_slice(&text);
        if plain && let Some(live) = self.live.get_mut(&id) {
            live.json[slot] = Some(text.into());
        }
    }

    fn common_node(
        &self,
        node: &Node,
        live: &Live,
        routes: &[IpNet],
        legacy: bool,
        now: Now,
    ) -> sw_tailcfg::Node {
        let facts = &live.facts;
        let no_v4 = live.has_attribute("disable-ipv4");
        let own = node.addresses().into_iter().filter(|ip| !(no_v4 && ip.is_ipv4())).map(IpNet::from);
        let addresses: Vec<IpNet> = own.collect();
        let allowed = addresses.iter().chain(routes).copied().collect();
        let online = live.presence.is_online();
        sw_tailcfg::Node {
            id: node.id,
            stable_id: StableNodeId(self.state.stable_id(node.id)),
            name: self.state.fqdn(node),
            user: node.wire_user(),
            key: node.node_key,
            key_expiry: node.expiry,
            disco_key: facts.disco,
            addresses,
            allowed_ips: Some(allowed),
            endpoints: facts.endpoints.clone(),
            derp: if legacy && !facts.home.is_zero() {
                sw_tailcfg::Node::old_derp(facts.home)
            } else {
                String::new()
            },
            home_derp: facts.home,
            created: Some(node.created),
            cap: facts.cap,
            tags: node.tags().to_vec(),
            primary_routes: live
                .serving
                .iter()
                .filter(|r| !is_exit(r) && routes.contains(r))
                .copied()
                .collect(),
            last_seen: if online { None } else { facts.last_seen },
            online: Some(online),
            expired: node.is_expired(now.wall),
            ..sw_tailcfg::Node::default()
        }
    }

    fn own_attributes(&self, node: &Node, live: &Live) -> CapMap {
        let settings = self.state.settings();
        let mut map: CapMap = live.attributes.clone();
        let mut add = |key: &str, values: Vec<Value>| {
            map.entry(key.to_owned()).or_insert(values);
        };
        for key in BASE_ATTRIBUTES.into_iter().chain(settings.attributes.iter().map(String::as_str)) {
            add(key, Vec::new());
        }
        add("default-auto-update", vec![Value::Bool(false)]);
        add("tailnet-display-name", vec![Value::String(settings.name.clone())]);
        for (key, on) in
            [(CAP_FILES, settings.file_sharing), (CAP_SSH, settings.ssh), ("https", settings.https)]
        {
            if on {
                add(key, Vec::new());
            }
        }
        match node.user().and_then(|user| self.state.user(user)).map(|user| user.role) {
            Some(Role::Owner) => {
                add(CAP_ADMIN, Vec::new());
                add(CAP_OWNER, Vec::new());
            }
            Some(Role::Admin) => add(CAP_ADMIN, Vec::new()),
            Some(Role::Member) | None => {}
        }
        map
    }

    /// What changed of a peer since `seen`, where patches suffice (control.md §5.5).
    pub(crate) fn patch(&self, id: NodeId, seen: Stamp) -> Option<PeerChange> {
        let live = self.live.get(&id)?;
        let mut patch = PeerChange { node_id: id, ..PeerChange::default() };
        if live.stamps.endpoints > seen {
            patch.endpoints = Some(live.facts.endpoints.clone());
        }
        if live.stamps.home > seen {
            patch.derp_region = live.facts.home;
        }
        // WHY the online state beside a disco key: newer clients drop a key of a peer that is offline.
        if live.stamps.online > seen || live.stamps.disco > seen {
            let online = live.presence.is_online();
            patch.online = Some(online);
            patch.last_seen = if online { None } else { live.facts.last_seen };
        }
        if live.stamps.disco > seen {
            patch.disco_key = Some(live.facts.disco);
        }
        Some(patch)
    }

    /// What is shown of a person; tagged machines share one.
    pub(crate) fn profile(&self, id: UserId) -> UserProfile {
        if id == TAGGED_DEVICES {
            let (login_name, display_name) = ("tagged-devices".to_owned(), "Tagged Devices".to_owned());
            return UserProfile { id, login_name, display_name, ..UserProfile::default() };
        }
        let Some(user) = self.state.user(id) else {
            return UserProfile { id, ..UserProfile::default() };
        };
        UserProfile {
            id,
            login_name: user.login_name().to_owned(),
            display_name: user.display_name.clone(),
            profile_pic_url: user.picture.clone().unwrap_or_default(),
            groups: Vec::new(),
        }
    }

    /// DNS of the network as clients take it (control.md §5.9).
    pub(crate) fn dns_config(&self) -> DnsConfig {
        let settings = self.state.settings();
        let dns = &settings.dns;
        let upstream: Vec<Resolver> = dns.nameservers.iter().map(resolver).collect();
        let (resolvers, fallback_resolvers) =
            if dns.override_local { (upstream, Vec::new()) } else { (Vec::new(), upstream) };
        let mut config = DnsConfig {
            resolvers,
            fallback_resolvers,
            proxied: dns.magic_dns,
            domains: std::iter::once(settings.base_domain.clone())
                .chain(dns.search.iter().cloned())
                .collect(),
            ..DnsConfig::default()
        };
        for (domain, servers) in &dns.split {
            config.routes.insert(domain.clone(), servers.iter().map(resolver).collect());
        }
        if dns.magic_dns {
            config.routes.entry(settings.base_domain.clone()).or_default();
        }
        config.extra_records = dns
            .extra
            .iter()
            .map(|r| DnsRecord { name: r.name.clone(), r#type: r.kind.clone(), value: r.value.clone() })
            .collect();
        config
    }

    /// Plain-words messages for the machine's user (control.md §5.12).
    pub(crate) fn messages_field(&self, object: &mut Object, id: NodeId, now: Now) {
        let mut messages: Vec<(&str, Option<DisplayMessage>)> = vec![("*", None)];
        messages.extend(self.messages(id, now).into_iter().map(|(key, message)| (key, Some(message))));
        let map: std::collections::BTreeMap<_, _> = messages.into_iter().collect();
        object.field("DisplayMessages", &map);
    }

    fn messages(&self, id: NodeId, now: Now) -> Vec<(&'static str, DisplayMessage)> {
        let mut messages = Vec::new();
        let (Some(node), Some(live)) = (self.state.node(id), self.live.get(&id)) else {
            return messages;
        };
        if let Some(expiry) =
            node.expiry.filter(|e| *e > now.wall && e.saturating_since(now.wall) <= EXPIRY_WARNING)
        {
            let text = format!("It expires {expiry}. Log in again before then; nothing is interrupted.");
            messages.push(("key-expires-soon", message("This machine's key expires soon.", text)));
        }
        let waiting = |route: &&IpNet| !node.approved_routes.contains(route);
        let routes: Vec<String> =
            live.facts.host.routable_ips.iter().filter(waiting).map(IpNet::to_string).collect();
        if !routes.is_empty() {
            let text = format!("An admin has not approved: {}.", routes.join(", "));
            messages.push(("routes-not-approved", message("Routes of this machine are not in use.", text)));
        }
        messages
    }

    /// The moment at which a machine's key expires, as the settings say for its owner.
    pub(crate) fn default_expiry(&self, tagged: bool, asked: Option<UnixTime>, now: Now) -> Option<UnixTime> {
        if tagged {
            return None;
        }
        let days = self.state.settings().key_days;
        let limit = days.map(|d| now.wall + std::time::Duration::from_secs(u64::from(d) * 24 * 60 * 60));
        match (limit, asked.filter(|at| *at > now.wall)) {
            (Some(limit), Some(asked)) => Some(limit.min(asked)),
            (limit, asked) => limit.or(asked),
        }
    }
}

fn message(title: &str, text: String) -> DisplayMessage {
    DisplayMessage { title: title.to_owned(), text, severity: Severity::Low, ..DisplayMessage::default() }
}

fn resolver(server: &Nameserver) -> Resolver {
    Resolver {
        addr: server.address.clone(),
        use_with_exit_node: server.use_with_exit_node,
        ..Resolver::default()
    }
}

/// What peers are told of a machine's description: little, for privacy and size (control.md §4.3).
pub(crate) fn peer_host(host: &Hostinfo) -> Hostinfo {
    Hostinfo {
        os: host.os.clone(),
        hostname: plain(&host.hostname),
        services: host.services.clone(),
        ssh_host_keys: host.ssh_host_keys.clone(),
        request_tags: host.request_tags.clone(),
        location: host.location.clone(),
        shields_up: host.shields_up,
        app_connector: host.app_connector,
        peer_relay: host.peer_relay,
        userspace: host.userspace,
        ..Hostinfo::default()
    }
}

fn peer_attributes(live: &Live) -> CapMap {
    let shown = |key: &str| live.attributes.contains_key(key);
    let exit_only = |key: &str| key != "suggest-exit-node" || live.serving.iter().any(is_exit);
    let keys = PEER_ATTRIBUTES.iter().filter(|key| shown(key) && exit_only(key));
    keys.map(|key| ((*key).to_owned(), Vec::new())).collect()
}

/// Leaves out what JSON must escape: the official Rust client cannot read it (control.md §8.3).
fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() && !matches!(c, '"' | '\\')).collect()
}

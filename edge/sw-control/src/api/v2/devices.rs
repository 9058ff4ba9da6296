//! Devices: machines in the hosted service's words.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use sw_tailnet::{Command, Node, Tailnet};
use sw_types::{NodeId, NodeKey, UnixTime};

use super::Act;
use crate::api::{Answer, Ask, Problem, nodes, ok};
use crate::clock;

/// The key of a device that never expires has this date (control.md §7.1).
const NEVER: &str = "0001-01-01T00:00:00Z";

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Device {
    addresses: Vec<IpAddr>,
    id: String,
    node_id: String,
    user: String,
    name: String,
    hostname: String,
    client_version: String,
    update_available: bool,
    os: String,
    created: UnixTime,
    connected_to_control: bool,
    last_seen: Option<UnixTime>,
    key_expiry_disabled: bool,
    expires: serde_json::Value,
    authorized: bool,
    is_external: bool,
    is_ephemeral: bool,
    machine_key: String,
    node_key: NodeKey,
    blocks_incoming_connections: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tags: Vec<String>,
    tailnet_lock_error: &'static str,
    tailnet_lock_key: &'static str,
    #[serde(skip_serializing_if = "Option::is_none", flatten)]
    more: Option<More>,
}

/// What `fields=all` adds.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct More {
    enabled_routes: Vec<IpNet>,
    advertised_routes: Vec<IpNet>,
    client_connectivity: Connectivity,
    ssh_enabled: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Connectivity {
    endpoints: Vec<SocketAddr>,
    derp: String,
    #[serde(rename = "mappingVariesByDestIP")]
    mapping_varies_by_dest_ip: bool,
}

impl Device {
    fn of(tailnet: &Tailnet, node: &Node, all: bool) -> Self {
        let state = tailnet.state();
        let facts = tailnet.facts(node.id).cloned().unwrap_or_default();
        let is_online = tailnet.is_online(node.id);
        let owner = node.user().and_then(|user| state.user(user));
        let net = facts.host.net_info.clone().unwrap_or_default();
        let more = all.then(|| More {
            enabled_routes: node.approved_routes.clone(),
            advertised_routes: facts.host.routable_ips.clone(),
            client_connectivity: Connectivity {
                endpoints: facts.endpoints.clone(),
                derp: facts.home.0.to_string(),
                mapping_varies_by_dest_ip: net.mapping_varies_by_dest_ip.unwrap_or(false),
            },
            ssh_enabled: !facts.host.ssh_host_keys.is_empty(),
        });
        Self {
            addresses: node.addresses().to_vec(),
            id: node.id.to_string(),
            node_id: state.stable_id(node.id),
            user: owner.map_or("tagged-devices", |user| user.login_name()).to_owned(),
            name: state.fqdn(node).trim_end_matches('.').to_owned(),
            hostname: node.host_name.clone(),
            client_version: facts.host.ipn_version.clone(),
            update_available: false,
            os: facts.host.os.clone(),
            created: node.created,
            connected_to_control: is_online,
            last_seen: facts.last_seen.filter(|_| !is_online),
            key_expiry_disabled: node.expiry.is_none(),
            expires: node.expiry.map_or_else(|| NEVER.into(), |at| serde_json::json!(at)),
            authorized: node.approved,
            is_external: false,
            is_ephemeral: node.ephemeral,
            machine_key: node.machine_key.to_string(),
            node_key: node.node_key,
            blocks_incoming_connections: facts.host.shields_up,
            tags: node.tags().to_vec(),
            tailnet_lock_error: "",
            tailnet_lock_key: "",
            more,
        }
    }
}

pub(super) async fn list(ask: &Ask<'_>) -> Answer {
    let all = wants_all(ask);
    let devices = ask.shared.control.read(move |tailnet| {
        tailnet.state().nodes().map(|node| Device::of(tailnet, node, all)).collect::<Vec<_>>()
    });
    ok(&serde_json::json!({ "devices": devices.await? }))
}

fn wants_all(ask: &Ask<'_>) -> bool {
    ask.query("fields").is_some_and(|fields| fields == "all")
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Input {
    authorized: Option<bool>,
    name: String,
    tags: Vec<String>,
    key_expiry_disabled: bool,
    ipv4: Option<Ipv4Addr>,
    routes: Vec<IpNet>,
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the table of routes sends only these acts here")]
pub(super) async fn one(ask: &Ask<'_>, act: Act, word: &str) -> Answer {
    let node = nodes::find(ask, word).await?;
    let command = match act {
        Act::Device => return device(ask, node).await,
        Act::DeviceRoutes => return routes(ask, node).await,
        Act::DeviceDelete => Command::DeleteNode(node),
        Act::DeviceExpire => Command::SetExpiry { node, at: Some(clock::now().wall) },
        _ => change(ask, act, node).await?,
    };
    ask.shared.control.execute(&ask.caller.name, command).await?;
    if act == Act::DeviceSetRoutes {
        return routes(ask, node).await;
    }
    ok(&serde_json::json!({}))
}

/// The command of an act that has a body.
#[expect(clippy::wildcard_enum_match_arm, reason = "the table of routes sends only these acts here")]
async fn change(ask: &Ask<'_>, act: Act, node: NodeId) -> Result<Command, Problem> {
    let input: Input = ask.input()?;
    let lacks =
        |what: &str| Problem::new(http::StatusCode::BAD_REQUEST, format!("the body lacks \"{what}\""));
    Ok(match act {
        Act::DeviceAuthorized => {
            let approved = input.authorized.ok_or_else(|| lacks("authorized"))?;
            Command::ApproveNode { node, approved }
        }
        // A whole name is taken too; an empty one follows the host name again.
        Act::DeviceName => {
            let label = input.name.split('.').next().unwrap_or_default();
            Command::RenameNode { node, label: (!label.is_empty()).then(|| label.to_owned()) }
        }
        Act::DeviceTags => Command::TagNode { node, tags: input.tags },
        Act::DeviceKey if input.key_expiry_disabled => Command::SetExpiry { node, at: None },
        Act::DeviceKey => {
            let days = super::super::settings::current(ask).await?.key_days.unwrap_or(180);
            let life = std::time::Duration::from_secs(u64::from(days) * 24 * 60 * 60);
            Command::SetExpiry { node, at: Some(clock::now().wall + life) }
        }
        Act::DeviceIp => Command::SetAddress { node, ipv4: input.ipv4.ok_or_else(|| lacks("ipv4"))? },
        _ => Command::SetRoutes { node, routes: input.routes },
    })
}

async fn device(ask: &Ask<'_>, id: NodeId) -> Answer {
    let all = wants_all(ask);
    let look = move |tailnet: &Tailnet| tailnet.state().node(id).map(|node| Device::of(tailnet, node, all));
    ok(&ask.shared.control.read(look).await?.ok_or_else(|| Problem::not_found("machine", &id.to_string()))?)
}

async fn routes(ask: &Ask<'_>, id: NodeId) -> Answer {
    let look = move |tailnet: &Tailnet| {
        let advertised = tailnet.facts(id).map(|facts| facts.host.routable_ips.clone()).unwrap_or_default();
        let enabled = tailnet.state().node(id).map(|node| node.approved_routes.clone()).unwrap_or_default();
        serde_json::json!({ "advertisedRoutes": advertised, "enabledRoutes": enabled })
    };
    ok(&ask.shared.control.read(look).await?)
}

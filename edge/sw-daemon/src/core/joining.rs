//! Joining by a join string, and what members of a network ask of its server: invites, leaving (ux.md §2.2, §2.3).

use std::sync::Arc;

use http::Method;
use serde::{Deserialize, Serialize};
use sw_node::node::ProvenServer;
use sw_types::local::{Prefs, Problem};
use sw_types::problem::Slug;
use sw_types::{JoinAddress, JoinString, MachineKey, NodeKey, NodePrivate, Secret};

use super::{Core, CoreHandle, Stopped};
use crate::control::{ControlClient, ControlError};

/// Body of `POST /localapi/samewire/v1/join`.
#[derive(Debug, Deserialize)]
pub(crate) struct JoinRequest {
    string: String,
    #[serde(default)]
    hostname: Option<String>,
}

/// The server that a join string led to.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Joining {
    /// The address that answered.
    login_server: String,
    /// Short form of its key, as the invite says it.
    server_key: String,
}

/// Finds the server, checks its key against the invite and starts the registration; the bus tells how that goes.
pub(crate) async fn join(
    core: &CoreHandle,
    request: JoinRequest,
) -> Result<Result<Joining, Problem>, Stopped> {
    let join: JoinString = match request.string.parse() {
        Ok(join) => join,
        Err(_) => {
            let len = request.string.trim().chars().count().to_string();
            return Ok(Err(Slug::InviteCut.problem(&[("len", &len)])));
        }
    };
    let now = sw_os::clock::now().wall;
    if join.expiry() <= now {
        let (time, now) = (join.expiry().to_string(), now.to_string());
        return Ok(Err(Slug::InviteExpired.problem(&[("time", &time), ("now", &now)])));
    }
    let urls: Vec<String> = join.addresses().iter().map(url_of).collect();
    let (candidates, hash) = (urls.clone(), join.server_key());
    let prepared = core.call(move |core| match core.network_name() {
        Some(network) => Err(core.second_network(&network)),
        None => Ok(core.client_for(&candidates, hash)),
    });
    let client = match prepared.await? {
        Ok(client) => client,
        Err(problem) => return Ok(Err(problem)),
    };
    let reached = match client.prove().await {
        Ok(reached) => reached,
        Err(error) => return Ok(Err(problem(&error, client.authority()))),
    };
    let Some(key) = client.server_key() else {
        return Ok(Err(Slug::ServerUnreachable.problem(&[("host", client.authority())])));
    };
    let auth_key = join.invite().to_auth_key();
    let login_server = reached.clone();
    let server = ProvenServer {
        further_urls: urls.into_iter().filter(|url| *url != reached).collect(),
        url: reached,
        key: MachineKey::from_bytes(*key.as_bytes()).to_string(),
    };
    core.call(move |core| core.begin(server, auth_key, request.hostname)).await?;
    Ok(Ok(Joining { login_server, server_key: key.short() }))
}

/// Every address speaks TLS on the port it names; the key in the string proves it, no authority is asked.
fn url_of(address: &JoinAddress) -> String {
    let (host, port) = match address {
        JoinAddress::V4(ip, port) => (ip.to_string(), *port),
        JoinAddress::V6(ip, port) => (format!("[{ip}]"), *port),
        JoinAddress::Name(name, port) => (name.clone(), *port),
    };
    if port == 443 { format!("https://{host}") } else { format!("https://{host}:{port}") }
}

/// Asks the server something as this machine (`/machine/samewire/v1/…`).
pub(crate) async fn ask_server(
    core: &CoreHandle,
    path: &str,
    body: Vec<u8>,
) -> Result<Result<Vec<u8>, Problem>, Stopped> {
    let asked = core.call(|core| core.client_in_use()).await?;
    let Some((client, key)) = asked else {
        return Ok(Err(Slug::NotSetUp.problem(&[("dir", "")])));
    };
    let path = format!("/machine/samewire/v1/{path}");
    let answer = client.exchange(Method::POST, &path, body, &[key]).await;
    Ok(answer.map_err(|error| problem(&error, client.authority())))
}

/// Leaves the network for good: the server forgets the machine, and the machine the server.
pub(crate) async fn leave(core: &CoreHandle) -> Result<Option<Problem>, Stopped> {
    let told = ask_server(core, "leave", b"{}".to_vec()).await?;
    core.call(Core::forget_network).await?;
    Ok(told.err())
}

pub(super) fn problem(error: &ControlError, host: &str) -> Problem {
    let other = || Problem::other(format!("the server {host} did not answer."), error.to_string(), "");
    match error {
        ControlError::Status { status: 403 | 404 | 501, text, .. } => Problem::other(
            format!("the server {host} refuses this."),
            text.clone(),
            "on the first machine, as root, it always works",
        ),
        ControlError::Status { .. }
        | ControlError::UnknownName { .. }
        | ControlError::Unreachable { .. }
        | ControlError::NotOurs { .. }
        | ControlError::KeyChanged { .. }
        | ControlError::Broken(_)
        | ControlError::Answer(_) => error.problem(host).unwrap_or_else(other),
    }
}

impl Core {
    /// The network this machine is in, or is signed out of but remembers.
    fn network_name(&self) -> Option<String> {
        let domain = self.node.netmap().map(|netmap| netmap.domain.clone());
        self.node.has_key().then(|| domain.unwrap_or_else(|| self.node.prefs().control_url.clone()))
    }

    fn second_network(&self, network: &str) -> Problem {
        let place = self.store.directory().map(|place| format!("state in {}", place.display()));
        let problem = Slug::SecondNetwork.problem(&[("network", network), ("dir", ""), ("joined", "")]);
        Problem { why: place.unwrap_or_default(), ..problem }
    }

    pub(super) fn client_in_use(&self) -> Option<(Arc<ControlClient>, NodeKey)> {
        self.control.client().cloned().zip(self.node.key())
    }

    fn begin(&mut self, server: ProvenServer, auth_key: Secret<String>, hostname: Option<String>) {
        let now = self.now();
        let prefs = Prefs {
            control_url: server.url.clone(),
            want_running: true,
            operator_user: self.node.prefs().operator_user.clone(),
            hostname: hostname.unwrap_or_default(),
            ..Prefs::default()
        };
        self.control.forget_client();
        self.node.on_join(prefs, server, auth_key, NodePrivate::generate(crate::random()), now);
    }

    fn forget_network(&mut self) {
        let now = self.now();
        self.node.on_leave(now);
        self.control.abandon();
    }
}

//! The short requests of machines, inside Noise (control.md §2.2).

use std::net::IpAddr;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use sw_tailcfg::{QueryFeatureResponse, RegisterRequest, SshAction};
use sw_tailnet::{CheckDecision, SshSession};
use sw_types::{NodeId, NodeKey};

use crate::api::{self, Caller};
use crate::c2n;
use crate::inner::{
    Peer, Refused, check_version, given_up, read_body, read_json, send, send_json, send_text,
};
use crate::program;
use crate::server::Shared;
use crate::ts2021::query_value;

/// Longest name of an account.
const LOGIN_MAX: usize = 256;

/// Where machines ask whether an SSH session may begin: `…/SRC/to/DST?local_user=NAME` (control.md §5.11).
const SSH_ACTION: &str = "/machine/ssh/action/";

/// Where samewire's own requests are; official servers answer 404 or 501 there.
const OWN: &str = "/machine/samewire/v1/";

pub(crate) async fn handle(
    shared: &Shared,
    peer: &Peer,
    request: Request<RecvStream>,
    respond: &mut SendResponse<Bytes>,
) -> Result<(), Refused> {
    let (parts, body) = request.into_parts();
    match (&parts.method, parts.uri.path()) {
        (&Method::POST, "/machine/register") => register(shared, peer, body, respond).await,
        // Accepted and dropped: clients repeat what is refused (control.md §2.2).
        (&Method::POST, "/machine/update-health" | "/machine/audit-log") => {
            read_body(body, sw_tailcfg::BODY_MAX).await?;
            Ok(send(respond, StatusCode::OK, "application/json", Bytes::from_static(b"{}"))?)
        }
        (&Method::POST, "/machine/feature/query") => {
            read_body(body, sw_tailcfg::BODY_MAX).await?;
            let text = "This network's server does not offer that feature.".to_owned();
            Ok(send_json(respond, &QueryFeatureResponse { text, ..QueryFeatureResponse::default() })?)
        }
        (&Method::GET | &Method::POST, "/machine/whoami") => {
            let text = format!("machine {} version {} from {}", peer.machine, peer.version, peer.conn.peer);
            Ok(send_text(respond, StatusCode::OK, &text)?)
        }
        (&Method::HEAD | &Method::POST, "/machine/ping-response") => {
            read_body(body, sw_tailcfg::BODY_MAX).await?;
            Ok(send(respond, StatusCode::OK, "text/plain", Bytes::new())?)
        }
        (&Method::POST, path) if path.starts_with(c2n::PATH) => {
            let id = path.trim_start_matches(c2n::PATH).to_owned();
            let body = read_body(body, sw_tailcfg::BODY_MAX).await?;
            let status = match shared.questions.answer(&id, peer.machine, body) {
                true => StatusCode::OK,
                false => StatusCode::NOT_FOUND,
            };
            Ok(send(respond, status, "text/plain", Bytes::new())?)
        }
        (&Method::GET, path) if path.starts_with(SSH_ACTION) => {
            ssh_action(shared, peer, &parts.uri, respond).await
        }
        (&Method::POST, path) if path.starts_with(OWN) => {
            let path = path.trim_start_matches(OWN).to_owned();
            own(shared, peer, parts, &path, body, respond).await
        }
        (_, path) if path.starts_with("/machine/") => {
            Err(Refused::Status(StatusCode::NOT_IMPLEMENTED, not_offered(path).to_owned()))
        }
        _ => Err(Refused::Status(StatusCode::NOT_FOUND, "not found".to_owned())),
    }
}

/// Why a request is answered 501; clients show it to people.
fn not_offered(path: &str) -> &'static str {
    match path {
        "/machine/set-dns" => {
            "this server keeps no public DNS zone, so it cannot prove a name to a certificate authority"
        }
        "/machine/id-token" => "this server signs no identity tokens",
        "/machine/set-device-attr" => "this server keeps no attributes of devices",
        _ => "not offered by this server",
    }
}

/// What people do from their machine: an invite, a link to the page, leaving, the server's program; and what our daemon
/// tells of its paths. The machine is known by its keys: the node key stands in the header `ts-lb`, and belongs to the
/// machine key that Noise proved.
async fn own(
    shared: &Shared,
    peer: &Peer,
    mut parts: http::request::Parts,
    path: &str,
    body: RecvStream,
    respond: &mut SendResponse<Bytes>,
) -> Result<(), Refused> {
    let body = read_body(body, sw_tailcfg::BODY_MAX).await?;
    let key = parts.headers.get("ts-lb").and_then(|value| value.to_str().ok()?.parse::<NodeKey>().ok());
    let machine = peer.machine;
    let now = crate::clock::now().wall;
    let look = move |tailnet: &sw_tailnet::Tailnet| {
        let state = tailnet.state();
        let node = state.node_by_key(&key?).filter(|node| node.machine_key == machine && node.approved)?;
        let is_current = node.expiry.is_none_or(|expiry| expiry > now);
        let user = node.user().and_then(|user| state.user(user)).filter(|user| is_current && !user.suspended);
        Some((node.id, user.filter(|user| user.role.administers()).map(Caller::person)))
    };
    let forbidden = |why: &str| Refused::Status(StatusCode::FORBIDDEN, why.to_owned());
    let Some((node, admin)) = shared.control.read(look).await? else {
        return Err(forbidden("this machine is not in the network"));
    };
    if path == "leave" {
        shared.control.execute("the machine itself", sw_tailnet::Command::DeleteNode(node)).await?;
        return Ok(send(respond, StatusCode::OK, "application/json", Bytes::from_static(b"{}"))?);
    }
    if path == "program" {
        return program::send(&shared.downloads, &body, respond).await;
    }
    if path == "explain" {
        let question: Explain = serde_json::from_slice(&body)
            .map_err(|error| Refused::Status(StatusCode::BAD_REQUEST, error.to_string()))?;
        let ask = move |tailnet: &sw_tailnet::Tailnet| tailnet.explain(node, question.dst, question.port);
        let mut answer = shared.control.read(ask).await?;
        if admin.is_none() {
            hide_rules(&mut answer);
        }
        return Ok(send_json(respond, &answer)?);
    }
    if path == "paths" {
        let report = sw_tailcfg::decode_request(&body)
            .map_err(|error| Refused::Status(StatusCode::BAD_REQUEST, error.to_string()))?;
        shared.control.paths(node, report).await?;
        return Ok(send(respond, StatusCode::OK, "application/json", Bytes::from_static(b"{}"))?);
    }
    if !matches!(path.split('/').next(), Some("invites" | "admin-link")) {
        return Err(Refused::Status(StatusCode::NOT_FOUND, "not found".to_owned()));
    }
    let admin = admin.ok_or_else(|| forbidden("only machines of an owner or admin may do this"))?;
    parts.uri = format!("/api/samewire/v1/{path}")
        .parse()
        .map_err(|_| Refused::Status(StatusCode::BAD_REQUEST, "not a path".to_owned()))?;
    let answer = api::handle(shared, &admin, &parts, body).await;
    let status = answer.status();
    let bytes =
        answer.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    Ok(send(respond, status, "application/json", bytes)?)
}

/// Body of `explain`: may this machine reach that address?
#[derive(serde::Deserialize)]
struct Explain {
    dst: IpAddr,
    port: Option<u16>,
}

/// The words of a rule name others; whoever does not administer the network is told its line alone.
fn hide_rules(answer: &mut serde_json::Value) {
    for part in answer["parts"].as_array_mut().into_iter().flatten() {
        if let Some(rule) = part["rule"].as_object_mut() {
            rule.remove("text");
            rule.remove("to");
        }
    }
}

/// Answers a machine at which an SSH session under a check rule arrives. A question that is open is answered when the
/// person has spoken.
async fn ssh_action(
    shared: &Shared,
    peer: &Peer,
    uri: &http::Uri,
    respond: &mut SendResponse<Bytes>,
) -> Result<(), Refused> {
    let bad = || Refused::Status(StatusCode::BAD_REQUEST, "no question about an SSH session".to_owned());
    let nodes = uri.path().strip_prefix(SSH_ACTION).and_then(|rest| rest.split_once("/to/"));
    let id = |text: &str| text.parse().map(NodeId).map_err(|_| bad());
    let (src, dst) = nodes.ok_or_else(bad)?;
    let (src, dst) = (id(src)?, id(dst)?);
    let query = uri.query().unwrap_or_default();
    let login = query_value(query, "local_user").filter(|login| login.len() <= LOGIN_MAX).ok_or_else(bad)?;
    let session = SshSession { src, dst, login };
    let asked = shared.control.ssh_check(peer.machine, session, query_value(query, "check"));
    let decision = tokio::select! {
        decision = asked => decision?,
        // The client asks again (control.md §5.11).
        _ = given_up(respond) => return Err(Refused::Gone),
    };
    let action = match decision {
        CheckDecision::Accept => SshAction {
            accept: true,
            allow_agent_forwarding: true,
            allow_local_port_forwarding: true,
            allow_remote_port_forwarding: true,
            ..SshAction::default()
        },
        CheckDecision::Ask(check) => SshAction {
            message: format!("# This session waits for you. Open {}/check/{check}\r\n", shared.url),
            hold_and_delegate: format!("https://unused{}?{}&check={check}", uri.path(), first_value(query)),
            ..SshAction::default()
        },
        CheckDecision::Refuse(why) => {
            SshAction { message: format!("# {why}.\r\n"), reject: true, ..SshAction::default() }
        }
        CheckDecision::Later => return Err(Refused::Gone),
    };
    Ok(send_json(respond, &action)?)
}

/// The question as it was asked, without the name of a check.
fn first_value(query: &str) -> String {
    let kept: Vec<&str> = query.split('&').filter(|pair| !pair.starts_with("check=")).collect();
    kept.join("&")
}

async fn register(
    shared: &Shared,
    peer: &Peer,
    body: RecvStream,
    respond: &mut SendResponse<Bytes>,
) -> Result<(), Refused> {
    let request: RegisterRequest = read_json(body).await?;
    check_version(request.version)?;
    if let Some(wait) = shared.throttle.wait(peer.conn.peer.ip(), peer.machine, crate::clock::now().mono) {
        return too_many(respond, request.version, wait).await;
    }
    let answer = shared.control.register(peer.machine, request);
    let response = tokio::select! {
        answer = answer => answer?,
        // The client asks again with the same Followup (control.md §3.5).
        _ = given_up(respond) => return Err(Refused::Gone),
    };
    shared.metrics.registrations.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    if response.error.is_empty() {
        if response.machine_authorized {
            peer.conn.authenticated();
        }
    } else {
        tracing::info!(machine = %peer.machine.short(), why = %response.error, "registration refused");
        shared.metrics.registrations_refused.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        shared.throttle.failed(peer.conn.peer.ip(), peer.machine, crate::clock::now().mono);
    }
    Ok(send_json(respond, &response)?)
}

/// Clients below 137 take 429 for any error and come again at once: they are answered late instead
/// (control.md §3.8).
async fn too_many(
    respond: &mut SendResponse<Bytes>,
    version: sw_types::CapVer,
    wait: std::time::Duration,
) -> Result<(), Refused> {
    if version < sw_types::CapVer(137) {
        tokio::time::sleep(wait.min(std::time::Duration::from_secs(30))).await;
    }
    let mut response = http::Response::new(());
    *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
    let seconds = wait.as_secs().clamp(1, 3_600);
    response.headers_mut().insert(http::header::RETRY_AFTER, seconds.into());
    let mut stream = respond.send_response(response, false)?;
    Ok(stream.send_data(Bytes::from_static(b"too many failed attempts\n"), true)?)
}
